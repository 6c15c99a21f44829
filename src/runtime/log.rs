//! The log port: it moves bytes and holds no opinions. Kafka, the embedded log and the simulated
//! one stand behind it; one conformance suite (`tests/conformance.rs`) holds for all.
//!
//! A [`Log`] belongs to one worker: one consumer in the group, one transactional producer. All of
//! its calls may block and all happen on the worker's thread.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Span, Time};
use crate::stream::Topic;

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// Its number, from 0.
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic.name(), self.partition)
    }
}

/// A committed record as it was read. A null key or value reads as an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition: rising, not dense.
    pub offset: i64,
    /// The log's timestamp as it stands there: not yet clamped.
    pub time: Time,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; empty is a Tick.
    pub value: Vec<u8>,
    /// Name and value of its headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub to: TopicPartition,
    /// Clamped time of its cause. A log with append time ignores it; with `source = "sample"` it
    /// becomes the record's timestamp.
    pub time: Time,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Name and value of its headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// How far an inbox partition is folded. All of it is committed with the outputs, so that a restart
/// clamps and hears as if there had been none (Kafka: the two times are the offset's metadata).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Offset of the last folded record plus one.
    pub next: i64,
    /// Clamped append time of the last folded record.
    pub time: Time,
    /// Since when the loop hears without a gap.
    pub hears_since: Time,
}

/// What a poll brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Inbox partitions that are this worker's from now on. No record of them comes before
    /// [`Log::go_on`].
    pub assigned: Vec<TopicPartition>,
    /// Records, per partition in rising order.
    pub records: Vec<(TopicPartition, Record)>,
}

/// A piece of a bounded read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Committed records in rising order.
    pub records: Vec<Record>,
    /// Where the next piece begins: past aborted records and markers too.
    pub next: i64,
}

/// A log could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A transaction that holds offsets of this partition is not decided yet: ask again.
    #[error("reading {0}: a transaction of another producer is not decided yet")]
    Undecided(TopicPartition),
    /// Another worker of the same name took over; this one must end.
    #[error("worker {0} was replaced by another of the same name")]
    Fenced(String),
    /// Anything else, after the back end's own retries; says what was attempted, on what.
    #[error("{0}")]
    Failed(String),
}

/// A commit did not succeed. Each text says what was attempted and what the log answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Nothing of it is or will be in the log.
    #[error("aborted: {0}")]
    Aborted(String),
    /// Whether it is or will be in the log cannot be told before [`Log::reconnect`].
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The producer is of no more use (fenced, or its transaction timed out); nothing of it is in
    /// the log.
    #[error("fatal: {0}")]
    Fatal(String),
}

/// What the runtime needs of a log.
pub trait Log {
    /// How many partitions a topic has.
    ///
    /// # Errors
    /// The log cannot tell, or has no such topic.
    fn partitions(&mut self, topic: Topic) -> Result<i32, LogError>;

    /// Brings what there is, waiting at most `wait` for the first record.
    ///
    /// When an inbox partition is taken away, `revoked` is called inside of this call and
    /// **before** the log lets go of it: the fence is per member and not per partition, so what was
    /// folded and not committed must be dropped there.
    ///
    /// # Errors
    /// The log cannot be read.
    fn poll(
        &mut self,
        records_max: usize,
        wait: Span,
        revoked: &mut dyn FnMut(TopicPartition),
    ) -> Result<Polled, LogError>;

    /// Records of an assigned partition come from this offset on.
    ///
    /// # Errors
    /// The partition is not assigned.
    fn go_on(&mut self, inbox: TopicPartition, from: i64) -> Result<(), LogError>;

    /// Writes the outputs and the positions, all or nothing; no transaction is open before or
    /// after. Answers per partition written the offset of its last record plus one.
    ///
    /// # Errors
    /// See [`CommitError`]: each says what is in the log now.
    fn commit(
        &mut self,
        outputs: Vec<Outgoing>,
        positions: &[(TopicPartition, Position)],
    ) -> Result<Vec<(TopicPartition, i64)>, CommitError>;

    /// Replaces the producer. Afterwards every transaction of its predecessors under this worker's
    /// name is decided, and none of them can write any more.
    ///
    /// # Errors
    /// [`LogError::Fenced`] when this worker itself was replaced.
    fn reconnect(&mut self) -> Result<(), LogError>;

    /// The stable committed position of an inbox partition.
    ///
    /// # Errors
    /// [`LogError::Undecided`] while a transaction that would move it is open.
    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError>;

    /// Committed records at offsets from `from` to below `to`, at most `records_max` at once. Every
    /// call moves `next` or fails.
    ///
    /// # Errors
    /// No progress within the back end's deadline, or the log cannot be read.
    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError>;

    /// The offset of the first record that is still kept.
    ///
    /// # Errors
    /// The log cannot tell.
    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError>;

    /// The high watermark: one past the last record, open transactions included.
    ///
    /// # Errors
    /// The log cannot tell.
    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError>;

    /// Appends a record outside any transaction and answers its offset: ticks.
    ///
    /// # Errors
    /// The log did not take it.
    fn append(&mut self, record: Outgoing) -> Result<i64, LogError>;
}
