//! Apache Kafka behind the log port: brokers are reached through librdkafka, and nothing here has
//! an opinion on what is moved.
//!
//! Every call may block: it belongs on a worker's thread or on one of its own, never on the async
//! runtime.

mod client;
mod group;
mod handle;
mod intake;
mod log;
mod names;
mod node;
mod opening;
mod position;
mod producing;
mod reader;
mod source;
pub mod topics;

pub use client::{Client, KafkaError};
pub use handle::{KafkaHandle, now};
pub use intake::KafkaIntake;
pub use log::KafkaLog;
pub use node::{NodeOrders, NodeReports, Sent, Silent};
pub use opening::{ensure_open, openings, title};
pub use source::KafkaSource;
