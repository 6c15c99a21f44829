//! Decides again and compares, byte for byte: from the recorded inboxes, or from the events alone.
//!
//! A log is read piece by piece and may be held by a running loop meanwhile; what is kept in memory
//! are the rows of the stages and a few thousand records.

mod events;
mod inboxes;
mod lane;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use crate::runtime::{InMemory, LogError, Rows, Source, Task, TimeSource, Title, TopicPartition};
use crate::stream::{Base, Fold, Output, Topic};
use crate::wire;

use super::plan::PlanFold;

pub use crate::runtime::Recorded;
pub use events::{Soundness, Unsound, replay_events, replay_log_events, sound};

pub(super) use lane::Reader;

/// How a replay went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inbox records folded; from events alone: groups of events with one cause.
    pub records: u64,
    /// Recorded decisions compared: Assessments, events and directives.
    pub decisions: u64,
    /// How many of them differ, are missing, or were decided without being recorded.
    pub differences: u64,
    /// Decisions that are not judged: another engine's, and those whose inboxes are no longer kept.
    pub not_judged: u64,
    /// The first that differs.
    pub first_difference: Option<Difference>,
}

/// A decision that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where the recorded one stands, or would.
    pub place: String,
    /// What is recorded there.
    pub recorded: String,
    /// What was decided now.
    pub decided: String,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Records read.
    pub records: u64,
    /// Of about so many.
    pub total: u64,
}

/// Is told now and then how far a replay is.
pub type Progress<'a> = &'a mut dyn FnMut(Done);

impl Done {
    pub(super) fn one(&mut self, progress: &mut dyn FnMut(Done)) {
        self.records += 1;
        if self.records.is_multiple_of(PROGRESS_RECORDS) {
            progress(*self);
        }
    }
}

impl Report {
    fn compare(&mut self, place: impl Fn(usize) -> String, recorded: &[Vec<u8>], now: &[Vec<u8>]) {
        for i in 0..recorded.len().max(now.len()) {
            self.judge(|| place(i), recorded.get(i), now.get(i));
        }
    }

    /// Compares one recorded decision with what was decided now.
    fn judge(
        &mut self,
        place: impl FnOnce() -> String,
        recorded: Option<&Vec<u8>>,
        decided: Option<&Vec<u8>>,
    ) {
        self.decisions += u64::from(recorded.is_some());
        if recorded != decided {
            self.differ(|| (place(), described(recorded), described(decided)));
        }
    }

    /// Notes a difference: where, what is recorded, what was decided.
    fn differ(&mut self, told: impl FnOnce() -> (String, String, String)) {
        self.differences += 1;
        self.first_difference.get_or_insert_with(|| {
            let (place, recorded, decided) = told();
            Difference {
                place,
                recorded,
                decided,
            }
        });
    }

    /// Adds another report to this one.
    pub fn add(&mut self, other: Report) {
        self.records += other.records;
        self.decisions += other.decisions;
        self.differences += other.differences;
        self.not_judged += other.not_judged;
        self.first_difference = self.first_difference.take().or(other.first_difference);
    }
}

/// Folds the inboxes of a log again, as far as a running loop has, and compares what leaves with
/// what was recorded.
///
/// # Errors
/// The log cannot be read.
pub fn replay_log(source: &mut dyn Source, progress: Progress<'_>) -> Result<Report, LogError> {
    inboxes::replay(source, progress)
}

/// The same for a log in memory.
pub fn replay(recorded: &Recorded, prefix: &str, source: TimeSource) -> Report {
    let partitions = recorded.keys().map(|of| of.partition + 1).max();
    let title = Title {
        log_id: String::new(),
        prefix: prefix.to_owned(),
        time_source: source,
        partitions: partitions.unwrap_or(1),
    };
    let mut source = InMemory::new(title, recorded.clone());
    replay_log(&mut source, &mut |_| {}).expect("what lies in memory can be read")
}

fn plan_task(inbox: TopicPartition, prefix: &str, source: TimeSource, rows: &Rc<InMap>) -> Task {
    let base: Rc<dyn Base> = rows.clone();
    let stage = Box::new(PlanFold::new(inbox.partition, &base));
    Task::new(inbox, prefix, source, stage, None)
}

fn evolve_all(task: &mut Task, events: &[Vec<u8>]) {
    let fold: &mut dyn Fold = task.fold_mut();
    fold.begin();
    for bytes in events {
        fold.evolve(bytes).expect("decoded before");
    }
    fold.accept();
}

fn values(outputs: &[Output], topic: Topic) -> Vec<Vec<u8>> {
    let of_topic = outputs.iter().filter(|output| output.topic == topic);
    of_topic.map(|output| output.value.clone()).collect()
}

/// Rows in memory, as a store holds them.
#[derive(Default)]
struct InMap(RefCell<BTreeMap<Vec<u8>, Vec<u8>>>);

impl InMap {
    fn take(&self, rows: Rows) {
        let mut map = self.0.borrow_mut();
        for (key, row) in rows {
            match row {
                Some(row) => map.insert(key, row),
                None => map.remove(&key),
            };
        }
    }
}

impl Base for InMap {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.borrow().get(key).cloned()
    }

    fn next(&self, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let map = self.0.borrow();
        let first = map
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
            .next();
        first.map(|(key, row)| (key.clone(), row.clone()))
    }
}

fn described(bytes: Option<&Vec<u8>>) -> String {
    let Some(bytes) = bytes else {
        return "nothing".to_owned();
    };
    match (wire::decode_event(bytes), wire::decode_plan(bytes)) {
        (Ok(event), _) => wire::json::event(&event),
        (Err(_), Ok(record)) => format!("{record:?}"),
        (Err(_), Err(_)) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Records between two words about how far it is.
const PROGRESS_RECORDS: u64 = 1024;
