//! A log to be read by who takes no part in it: an export, a folder that nobody holds, a folder
//! through its holder.

use serde::{Deserialize, Serialize};

use crate::model::Time;
use crate::stream::Topic;

use super::{Chunk, KeyValue, LogError, Position, TimeSource, TopicPartition};

/// What a log is called, and how its records are to be folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title {
    /// The log's id.
    pub log_id: String,
    /// Prefix of the topics' names in causes.
    pub prefix: String,
    /// What append time is.
    pub time_source: TimeSource,
    /// Partitions of every topic.
    pub partitions: i32,
}

/// A copy of a stage's rows at a committed moment: where a fold may start when the inbox no longer
/// reaches back to its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsCopy {
    /// Names it among the source's copies; rising with time.
    pub id: i64,
    /// The stage.
    pub stage: String,
    /// Version of the rows' encoding.
    pub encoding: u32,
    /// The engine that wrote them.
    pub engine: String,
    /// The inbox partition.
    pub partition: i32,
    /// Up to where of the inbox the rows hold.
    pub position: Position,
    /// End of `plan-inbox` in the commit that brought the rows there: what the stage said before
    /// stands before it.
    pub plan_inbox_end: i64,
}

/// A log that can be read.
pub trait Source {
    /// What it is called.
    ///
    /// # Errors
    /// It cannot be read.
    fn title(&mut self) -> Result<Title, LogError>;

    /// The offset of the first record that is still kept.
    ///
    /// # Errors
    /// It cannot be read.
    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError>;

    /// One past the last record that may be seen.
    ///
    /// # Errors
    /// It cannot be read.
    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError>;

    /// The ends of several partitions, in their order.
    ///
    /// # Errors
    /// One cannot be read.
    fn ends(&mut self, of: &[TopicPartition]) -> Result<Vec<i64>, LogError> {
        of.iter().map(|of| self.end(*of)).collect()
    }

    /// How far a loop has folded an inbox, as committed, from 0 on; `None`: nobody says (an export:
    /// to its end). Only commits that may be seen count: what they wrote is readable when this
    /// answers them, and who reads what a commit wrote and asks then is answered that commit or a
    /// later one.
    ///
    /// # Errors
    /// It cannot be read.
    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError>;

    /// Records at offsets from `from` to below `to`, at most about `records_max` at once. Every
    /// call moves `next` or fails.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError>;

    /// Offset of the first record of a partition at or after a time; its end when there is none.
    ///
    /// # Errors
    /// It cannot be read.
    fn offset_at(&mut self, of: TopicPartition, time: Time) -> Result<i64, LogError> {
        halve(self, of, time)
    }

    /// The copies of a stage's rows that are kept, oldest first.
    ///
    /// # Errors
    /// It cannot be read.
    fn copies(&mut self, stage: &str) -> Result<Vec<RowsCopy>, LogError>;

    /// Rows of a copy whose keys are above `after`, in order, at most `rows_max`; none: that was
    /// all.
    ///
    /// # Errors
    /// It cannot be read, or is no longer kept.
    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        after: &[u8],
        rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError>;
}

/// What [`Source::offset_at`] answers, by halving: append time never goes back.
///
/// # Errors
/// The source's.
pub fn halve(
    source: &mut (impl Source + ?Sized),
    of: TopicPartition,
    time: Time,
) -> Result<i64, LogError> {
    let (mut low, mut high) = (source.start(of)?, source.end(of)?);
    while low < high {
        let middle = low + (high - low) / 2;
        let chunk = source.read(of, middle, high, 1)?;
        match chunk.records.first() {
            Some(record) if record.time < time => low = record.offset + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The only partition of a topic where there is one partition a topic.
pub const fn only(topic: Topic) -> TopicPartition {
    TopicPartition {
        topic,
        partition: 0,
    }
}
