//! A log as the door of one process uses it, from any of its threads: taking in, reading, hearing
//! that it moved; and the rows that this process holds.

use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::watch;

use crate::model::Time;
use crate::stream::Topic;

use super::{LogError, Source, Store, StoreError, Title};

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

/// Records were not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// None of them, and it may go better later.
    #[error("{why}; nothing was taken, send it again later")]
    NotTaken {
        /// Why not.
        why: String,
        /// When to come again, s.
        retry_s: u32,
    },
    /// Some or all of them may be in the log.
    #[error("appending: {0}; it may or may not be in the log, send it again")]
    Unknown(String),
}

/// Ends when what was appended is durable; with words when nobody can say whether it is.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A log that the threads of a process share.
pub trait LogHandle: Send + Sync {
    /// What the log is called; `None` before it was opened with an id.
    fn title(&self) -> Option<Title>;

    /// To read what may be seen. May be used on any one thread; its calls block.
    ///
    /// # Errors
    /// No reader can be made.
    fn source(&self) -> Result<Box<dyn Source + Send>, LogError>;

    /// Appends records from outside, each to the partition of its key. Does not wait for the disk
    /// or the brokers: what is answered does.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append(&self, topic: Topic, records: Vec<Incoming>) -> Result<Durable, AppendError>;

    /// Appends one record from outside to every partition of a topic, to all or to none.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append_to_all(&self, topic: Topic, record: Incoming) -> Result<Durable, AppendError>;

    /// One past the last record that may be seen, per partition, as [`LogHandle::moved`] told last.
    /// Never ahead of what a source answers.
    fn seen_ends(&self, topic: Topic) -> Vec<i64>;

    /// About how many records of an inbox are not folded yet, by whomever.
    fn waiting(&self, inbox: Topic) -> i64;

    /// Counts up whenever more may be seen.
    fn moved(&self) -> watch::Receiver<u64>;

    /// What time an append would bear now.
    fn now(&self) -> Time;

    /// What failed for good: the process must end.
    fn failure(&self) -> Option<String>;

    /// Why nothing can be taken in at this moment, though that may pass.
    fn trouble(&self) -> Option<String>;

    /// Bytes on this process's disk by topic, and of rows; none where the log lies elsewhere.
    fn sizes(&self) -> Vec<(&'static str, u64)>;

    /// Free bytes on the log's disk; `None` where it lies elsewhere.
    fn free_bytes(&self) -> Option<u64>;

    /// The rows of a stage (`analyze`, `plan`) that this process holds, by partition, for reading:
    /// they lag the log a little. Made on the thread that reads.
    fn rows(&self, stage: &str) -> Vec<(i32, Rc<dyn Store>)>;

    /// Closed panes of a partition that are kept here, by their key
    /// ([`crate::stream::window_key`]): the values of those of `keys` that there are.
    ///
    /// # Errors
    /// They cannot be read.
    fn windows(&self, partition: i32, keys: &[Vec<u8>])
    -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// A consistent copy of everything, made while the loop runs.
    ///
    /// # Errors
    /// In words: it cannot be made.
    fn backup(&self, dir: &Path) -> Result<(), String>;
}

/// The rows that a process holds of stages whose log lies elsewhere.
pub trait HeldRows: Send + Sync {
    /// As [`LogHandle::rows`].
    fn rows(&self, stage: &str) -> Vec<(i32, Rc<dyn Store>)>;

    /// As [`LogHandle::windows`].
    ///
    /// # Errors
    /// They cannot be read.
    fn windows(&self, partition: i32, keys: &[Vec<u8>])
    -> Result<Vec<Option<Vec<u8>>>, StoreError>;
}
