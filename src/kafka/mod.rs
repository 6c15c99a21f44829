//! Apache Kafka behind the log port: brokers are reached through librdkafka, and nothing here has
//! an opinion on what is moved.
//!
//! Every call may block: it belongs on a worker's thread or on one of its own, never on the async
//! runtime.

mod client;
mod group;
mod log;
mod names;
mod opening;
mod producing;
mod reader;
pub mod topics;

pub use client::{Client, KafkaError};
pub use log::KafkaLog;
pub use opening::{ensure_open, openings, title};
