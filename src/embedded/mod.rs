//! The embedded back end: the log and the rows of its stages in one RocksDB of one process.
//!
//! One partition a topic. [`Embedded`] is a handle that any thread may use: the door appends and
//! reads with it, the worker's [`Log`](crate::runtime::Log) and
//! [`Stores`](crate::runtime::Stores) stand on it.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::settings::LogSettings;
use crate::model::Time;
use crate::runtime::{Position, Source, Store, TimeSource, Title};
use crate::stream::Topic;

/// The log and rows in a folder. Cloning it clones the handle.
#[derive(Clone)]
pub struct Embedded(Arc<()>);

/// A record from outside, to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Its own time: its timestamp where the source of time is `sample`, else not looked at.
    pub time: Time,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What was appended, to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of the first record.
    pub first: i64,
    /// Durable when [`Embedded::moved`] says at least this.
    pub write: u64,
}

/// The folder could not be used as asked: what was attempted, on what, what next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddedError {
    /// Less space is free than the configuration wants.
    #[error(
        "{free_mib} MiB are free below {dir}, less than min_free_mib = {min_mib}: free some, or lower it"
    )]
    NearlyFull {
        /// The folder.
        dir: String,
        /// What is free.
        free_mib: u64,
        /// What must be.
        min_mib: u64,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Embedded {
    /// Takes hold of a folder; makes it when it is not there.
    ///
    /// # Errors
    /// Another process holds it (named), or it cannot be read or written.
    pub fn open(_settings: &LogSettings, _source: TimeSource) -> Result<Self, EmbeddedError> {
        todo!()
    }

    /// A folder that nobody holds, to be read only.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read_only(_dir: &Path) -> Result<Self, EmbeddedError> {
        todo!()
    }

    /// Appends records from outside, all or none.
    ///
    /// # Errors
    /// The disk is nearly full, or failed.
    pub fn append(&self, _topic: Topic, _records: Vec<Incoming>) -> Result<Receipt, EmbeddedError> {
        todo!()
    }

    /// Counts up whenever more has become durable and may be seen: everything up to the write of
    /// that number. A receipt is durable when its `write` is at or below it.
    pub fn moved(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// One past the last record of a topic that may be seen: durable.
    pub fn visible_end(&self, _topic: Topic) -> i64 {
        todo!()
    }

    /// One past the last record of a topic that was written, durable or not.
    pub fn written_end(&self, _topic: Topic) -> i64 {
        todo!()
    }

    /// How far an inbox is folded and committed.
    pub fn position(&self, _inbox: Topic) -> Option<Position> {
        todo!()
    }

    /// What the log is called; `None` before it was opened with an id.
    pub fn title(&self) -> Option<Title> {
        todo!()
    }

    /// To read what may be seen. May be used on any one thread; its calls block.
    pub fn source(&self) -> Box<dyn Source + Send> {
        todo!()
    }

    /// The rows of a stage (`analyze`, `plan`) at this moment, for reading: they lag the log by at
    /// most `[loop] apply_ms`. Make it on the thread that reads.
    pub fn rows(&self, _stage: &str) -> std::rc::Rc<dyn Store> {
        todo!()
    }

    /// What time an append would bear now.
    pub fn now(&self) -> Time {
        todo!()
    }

    /// Bytes on disk per topic, and of the rows under `state`.
    pub fn sizes(&self) -> Vec<(&'static str, u64)> {
        todo!()
    }

    /// Free bytes on the folder's disk.
    pub fn free_bytes(&self) -> u64 {
        todo!()
    }

    /// Whether something failed for good: the process must end.
    pub fn failure(&self) -> Option<String> {
        todo!()
    }

    /// A consistent copy of everything, made while the loop runs.
    ///
    /// # Errors
    /// The folder is there already, or cannot be written.
    pub fn backup(&self, _dir: &Path) -> Result<(), EmbeddedError> {
        todo!()
    }
}
