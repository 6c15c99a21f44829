//! What others write and read on Kafka: a Schema Registry's ids and Telegraf's words on the way in,
//! the form and the headers that an operator chose on the way out.
//!
//! What bytes mean is [`wire`](crate::wire)'s to say; this room gets hold of what that needs. A
//! thread of its own asks the registry; the worker's never waits for it. A schema once had is kept
//! in a file of the data folder and never asked for again: a registry gives an id one text for
//! ever. So a restart needs no registry for what it knew.
//!
//! # What holds
//! - The same records leave in the same form, and enter as the same ones, whether the registry is
//!   quick, slow or gone, but for those that were given up; and what was given up once is given up
//!   again (`tests/formats.rs`; [`crate::runtime::Formats`] says how).
//! - A record is held up for `registry_patience_s` and the time of one answer at most.
//! - What the registry sends is bounded in size, time and number.

mod client;
mod foreign;
mod kept;
mod schemas;

pub use client::{RegistryError, Server};
pub use foreign::Foreign;
