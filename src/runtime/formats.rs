//! What lies on the brokers, in our own encoding and back: the rim of a log that others write to
//! and read from.
//!
//! A stage folds records, and a fold must be the same whenever it is done again. So what a record's
//! bytes mean is settled before the fold, from the record and from tables that hold for ever once
//! they hold: [`Formats::entering`]. A log calls it for every record it hands out, when polling and
//! in bounded reads alike, and [`Formats::leaving`] for every record it writes.
//!
//! One thing is no function of the record: whether a schema could be had in time. What was given up
//! is decided once, aloud, and the decision is a record: the dead letter, in the same transaction
//! as the position behind it. Whoever folds that stretch again (a restart, a moved partition,
//! `replay`) reads the dead letters first and gives up exactly the same records; every other frame
//! of the stretch was translated once and must be again, or the process stops.

use crate::model::Time;

use super::{Outgoing, Record, TopicPartition};

/// On which occasion a record enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It was never folded: a poll.
    First,
    /// It was decided before: a bounded read below the committed position.
    Again,
    /// The same, and the dead letters that [`Entering::Letters`] asked for were recalled.
    Recalled,
}

/// What comes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entering {
    /// It is to be folded so. What could not be translated is its own bytes still, which the fold
    /// rejects.
    Ready(Record),
    /// What it needs is being fetched: nothing of its partition may pass it, and it is to be asked
    /// for again soon. Bounded: it is given up in the end.
    Later(Record),
    /// Dead letters appended at or after this time must be recalled before it can be said.
    Letters(Record, Time),
    /// It was translated when it was first folded and cannot be any more: says what is missing and
    /// what helps. The process must stop.
    Lost(String),
}

/// Translates what enters a log's readers and what leaves its writer.
pub trait Formats {
    /// What comes of a record of this partition. Answers at once.
    fn entering(&mut self, of: TopicPartition, record: Record, when: When) -> Entering;

    /// Takes note of a dead letter: see [`Entering::Letters`].
    fn recall(&mut self, letter: &Record);

    /// The record as it lies on the brokers, headers included.
    fn leaving(&mut self, outgoing: Outgoing) -> Outgoing;
}

/// Nothing to translate: everything is ours and stays as the stages write it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnFormats;

impl Formats for OwnFormats {
    fn entering(&mut self, _of: TopicPartition, record: Record, _when: When) -> Entering {
        Entering::Ready(record)
    }

    fn recall(&mut self, _letter: &Record) {}

    fn leaving(&mut self, outgoing: Outgoing) -> Outgoing {
        outgoing
    }
}
