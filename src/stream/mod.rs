//! The grammar of a stage: what it is told ([`At`], [`Signal`]), what it answers ([`Step`]), the
//! rows that it keeps ([`Table`], [`Shelf`]) and what a driver needs of a stage on one partition
//! ([`Fold`]).

mod alarm;
mod ledger;
mod shelf;
mod table;

pub use alarm::Alarms;
pub use ledger::{ByTime, InQueue, LEDGER_VERSION, Ledger, Whole};
pub use shelf::Shelf;
pub use table::{Base, CLEAN_ROWS_MAX, Key, NoBase, Row, RowError, Table, read_name, write_name};

use crate::model::{Cause, NodeKey, Span, Time};

/// First byte of the keys of rows that no fold reads: windows, ordered by time. A store may keep
/// them apart and drops the old ones by range.
pub const WINDOWS: u8 = 0xF0;

/// The key of a node's window that begins at `start` (ms, the node's own time), without its first
/// byte.
pub fn window_key(start: i64, key: &NodeKey) -> Vec<u8> {
    let mut bytes = ((start as u64) ^ (1 << 63)).to_be_bytes().to_vec();
    key.write(&mut bytes);
    bytes
}

/// Most events that one record may cause; the rest follow by an alarm due at once.
pub const EVENTS_PER_RECORD: usize = 256;

/// Most alarms that fire before one record.
pub const ALARMS_PER_RECORD: usize = 256;

/// Most hints that are looked at before one record: a fleet whose hints all came due while nothing
/// was heard is gone through record by record.
pub const HINTS_PER_RECORD: usize = 4096;

/// Events that alarms leave free for the record itself.
pub const EVENTS_FOR_INPUT: usize = 64;

/// Append time without a record after which the loop was blind, if an alarm stood meanwhile.
pub const BLIND_AFTER: Span = Span::seconds(15);

/// When and where a fold happens: everything outside of state and record that a decision may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Append time of the record, clamped so that it never goes back within the partition.
    pub now: Time,
    /// Since when the loop hears without a gap: silence counts from here at the earliest.
    pub hears_since: Time,
    /// The record.
    pub cause: Cause,
}

/// What wakes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal<I> {
    /// An input of this key.
    Record(I),
    /// The alarm that this key asked for. Twice must be harmless.
    Alarm,
}

/// What a step answers; what it changed is in the state.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<O> {
    /// What must leave, in order.
    pub emit: Vec<O>,
    /// When this key wants to be woken; a function of its state.
    pub wake_at: Option<Time>,
}

/// A stage: a pure fold over the records of a key.
pub trait Stage {
    /// Its key.
    type Key;
    /// What it remembers of a key.
    type State;
    /// What it folds.
    type Input;
    /// What leaves.
    type Output;

    /// Folds one signal; everything it knows is in its arguments, everything it did is in its
    /// return or the state.
    fn step(
        &self,
        key: &Self::Key,
        state: &mut Self::State,
        at: &At,
        signal: Signal<Self::Input>,
    ) -> Step<Self::Output>;
}

/// To which partitions of a topic an output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The one that its key hashes to (murmur2).
    ByKey,
    /// The one with the inbox's number.
    Same,
    /// Every one.
    All,
}

/// The topics, without their prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Analyze's inbox.
    Metrics,
    /// Plan's inbox.
    PlanInbox,
    /// What Plan decided: Knowledge.
    Events,
    /// Closed cycles.
    Cycles,
    /// Orders to agents.
    Directives,
    /// What could not be folded, with its reason.
    DeadLetters,
}

impl Topic {
    /// All, in order.
    pub const ALL: [Topic; 6] = [
        Topic::Metrics,
        Topic::PlanInbox,
        Topic::Events,
        Topic::Cycles,
        Topic::Directives,
        Topic::DeadLetters,
    ];

    /// The name, without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Metrics => "metrics",
            Topic::PlanInbox => "plan-inbox",
            Topic::Events => "events",
            Topic::Cycles => "cycles",
            Topic::Directives => "directives",
            Topic::DeadLetters => "dead-letters",
        }
    }

    /// The topic of this name, without the prefix.
    pub fn parse(name: &str) -> Option<Self> {
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// A record that a fold wants written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub topic: Topic,
    /// Which of its partitions.
    pub to: To,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Name and value of its headers: nothing that decides.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Why a record is a dead letter: what is wrong, where, what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Reject {
    /// One word of a closed list, for counting.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

/// One stage on one partition as a driver sees it: bytes in, bytes out, rows in between. Pure.
///
/// The driver brackets every record: [`begin`](Fold::begin), alarms, the record, then
/// [`accept`](Fold::accept) or, after a reject or a panic, [`rollback`](Fold::rollback), which
/// leaves every row as it was at `begin`; then it does the same again without what failed. `out`
/// holds all that left since `begin`: whoever bounds the events of a record counts them there.
/// Nothing but rows may be remembered between calls that rollback could not undo.
pub trait Fold {
    /// The alarm key of a record, if it belongs to one; its alarm fires first.
    fn own_key(&self, key: &[u8], value: &[u8]) -> Option<Vec<u8>>;

    /// Folds one record.
    ///
    /// # Errors
    /// The record is bad: it becomes a dead letter; the rows are rolled back.
    fn record(
        &mut self,
        at: &At,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Reject>;

    /// Whether this inbox is listened to for silence: only then can the loop have been blind.
    fn hears(&self) -> bool;

    /// Notes that nothing was heard from `from` to `at.now`.
    fn blind(&mut self, at: &At, from: Time, out: &mut Vec<Output>);

    /// The stage's alarms.
    fn alarms(&mut self) -> &mut Alarms;

    /// When `key` really wants to be woken; the stored alarm is only a hint that is never late.
    fn wake_at(&self, at: &At, key: &[u8]) -> Option<Time>;

    /// Fires the alarm of `key`; afterwards its `wake_at` has moved past `at.now`, unless the
    /// record's events are spent.
    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>);

    /// A record begins: rows can be rolled back to here.
    fn begin(&mut self);

    /// What was done since `begin` stands.
    fn accept(&mut self);

    /// What was done since `begin` is undone.
    fn rollback(&mut self);

    /// Applies an own past output (Plan: an event read from the tail of `events`) to the rows.
    ///
    /// # Errors
    /// It cannot be decoded: a newer engine's event or schema; the process must stop.
    fn evolve(&mut self, value: &[u8]) -> Result<(), Reject>;

    /// How many rows changed since they were last drained.
    fn changed(&self) -> usize;

    /// Rows changed since they were last drained, for one atomic write: key and new bytes, `None`
    /// to delete.
    fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)>;
}

#[cfg(test)]
mod testing;
