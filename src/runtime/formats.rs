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

use std::collections::{BTreeMap, VecDeque};

use crate::model::Time;

use super::{LogError, Outgoing, Record, TopicPartition};

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

/// Polled records that may not pass one that is held up, by partition.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<TopicPartition, VecDeque<Record>>);

impl Held {
    /// Brings a polled record in: answers it as it is to be folded, or keeps it if it or one before
    /// it is held up. A partition that is held had better be paused.
    pub fn enter(
        &mut self,
        formats: &mut dyn Formats,
        of: TopicPartition,
        record: Record,
    ) -> Option<Record> {
        if let Some(queue) = self.0.get_mut(&of) {
            queue.push_back(record);
            return None;
        }
        match first(formats, of, record) {
            Ok(record) => Some(record),
            Err(record) => {
                self.0.insert(of, VecDeque::from([record]));
                None
            }
        }
    }

    /// Asks again for what is held up and appends what is not any more, each partition in order.
    /// Answers the partitions of which nothing is held now: they may be resumed.
    pub fn retry(
        &mut self,
        formats: &mut dyn Formats,
        out: &mut Vec<(TopicPartition, Record)>,
    ) -> Vec<TopicPartition> {
        let mut free = Vec::new();
        self.0.retain(|of, queue| {
            while let Some(record) = queue.pop_front() {
                match first(formats, *of, record) {
                    Ok(record) => out.push((*of, record)),
                    Err(record) => {
                        queue.push_front(record);
                        return true;
                    }
                }
            }
            free.push(*of);
            false
        });
        free
    }

    /// Whether records of a partition are held.
    pub fn holds(&self, of: TopicPartition) -> bool {
        self.0.contains_key(&of)
    }

    /// Lets go of a partition: it was taken away, or goes on elsewhere.
    pub fn forget(&mut self, of: TopicPartition) {
        self.0.remove(&of);
    }
}

/// A record that was never folded; `Err`: later.
fn first(formats: &mut dyn Formats, of: TopicPartition, record: Record) -> Result<Record, Record> {
    match formats.entering(of, record, When::First) {
        Entering::Ready(record) => Ok(record),
        Entering::Later(record) => Err(record),
        Entering::Letters(record, _) => {
            unreachable!("{of}/{}: nothing was decided before", record.offset)
        }
        Entering::Lost(words) => unreachable!("{words}: nothing was decided before"),
    }
}

/// Brings in the records of a bounded read, all of which were decided before. `letters` brings the
/// dead letters of all partitions from a time on; `wait` lets a moment pass while a schema is
/// fetched.
///
/// # Errors
/// What was translated once cannot be any more, or one of the two failed.
pub fn enter_again(
    formats: &mut dyn Formats,
    of: TopicPartition,
    records: Vec<Record>,
    letters: &mut dyn FnMut(Time) -> Result<Vec<Record>, LogError>,
    wait: &mut dyn FnMut() -> Result<(), LogError>,
) -> Result<Vec<Record>, LogError> {
    let mut entered = Vec::with_capacity(records.len());
    // Records come in the order of their times, near enough: what was recalled for the first of
    // them holds for the rest.
    let mut when = When::Again;
    for mut record in records {
        loop {
            match formats.entering(of, record, when) {
                Entering::Ready(ready) => {
                    entered.push(ready);
                    break;
                }
                Entering::Later(held) => {
                    wait()?;
                    record = held;
                }
                Entering::Letters(asking, since) => {
                    letters(since)?.iter().for_each(|l| formats.recall(l));
                    when = When::Recalled;
                    record = asking;
                }
                Entering::Lost(words) => return Err(LogError::Failed(words)),
            }
        }
    }
    Ok(entered)
}
