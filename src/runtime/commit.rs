//! The commit protocol: what becomes durable together, in which order, and how a task finds its way
//! back after anything.
//!
//! The durable steps of a batch, and what a crash leaves:
//!
//! 1. **Records stand in the inbox** (written by others; a Tick by the owner, outside any
//!    transaction). Crash after: they are folded later. A Tick twice or late is harmless.
//! 2. **The log commits** outputs, dead letters and positions of every task that folded something:
//!    one transaction. Until then all of it is in memory: a crash before leaves nothing, and the
//!    records are folded again. Crash after: the log has moved on, the rows lag; 4.
//! 3. **The store takes** the changed rows and the [`Mark`] (position, hash of the last folded
//!    record, offset reached in `events`): one atomic write, of committed changes only. It may lag
//!    any number of commits. Crash before or after: 4.
//! 4. **Opening a task** writes nothing that the log does not hold: the committed position C is
//!    read after every older transaction of this worker is decided; the rows are brought to C by
//!    folding the inbox from the mark to C in silence ([`Recover::Refold`]) or by evolving the
//!    stage's own past outputs to the end ([`Recover::Evolve`]); long ways are applied in pieces as
//!    in 3, each a state that the log committed. Crash anywhere: the same again. Never does a task
//!    go back to where a batch began.
//! 5. **Rows of another encoding are cleared**, mark and all, in one write. Crash after: no state,
//!    which 4 builds anew.
//!
//! What an outcome of 2 means: committed, go on; aborted, the task is opened anew (its rows in
//! memory hold unapplied commits too); unknown or fatal, a new producer first, since only that
//! decides the old transaction. A revocation drops the task inside the callback. That the log is
//! not the one that the rows came from is a [`Stop`].

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::stream::{Output, Reject, Topic};

use super::{
    Below, CommitError, Config, Log, LogError, Outgoing, Position, Record, Recover, Router, Rows,
    Share, StageSpec, Store, StoreError, Stores, Task, TopicPartition,
};

/// What the rows in a store are a function of; written with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The stage's encoding of rows: another one's are thrown away.
    pub encoding: u32,
    /// The engine that wrote last.
    pub engine: String,
    /// The inbox up to where the rows hold it; `None` while a rebuild is under way.
    pub position: Option<Position>,
    /// SHA-256 of the last folded record.
    pub last: Option<[u8; 32]>,
    /// The stage's own past outputs up to where the rows hold them (evolved stages).
    pub evolved: i64,
}

impl Mark {
    /// Its row's key in a store; no table has it.
    pub const KEY: &[u8] = &[0];

    /// Reads a mark; `None` when it is written in a way that this program does not know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&MARK_VERSION, rest)) => postcard::from_bytes(rest).ok(),
            _ => None,
        }
    }
}

/// The process no longer knows the truth, or the log and the rows do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The rows hold more than the log committed: another log, or an older copy of it.
    #[error(
        "opening {stage}: its rows hold {of} up to offset {state}, the log has it committed up to \
         {committed} only; is this the log that they came from?"
    )]
    StateAhead {
        /// The stage.
        stage: &'static str,
        /// The partition that both speak of.
        of: TopicPartition,
        /// Up to where the rows hold it.
        state: i64,
        /// Up to where the log has it.
        committed: i64,
    },
    /// There is a past, but no committed position.
    #[error(
        "opening {stage}: the log has no committed position of {of}, yet {past}; expected none or \
         both"
    )]
    NoPosition {
        /// The stage.
        stage: &'static str,
        /// Its inbox.
        of: TopicPartition,
        /// What there is.
        past: String,
    },
    /// The log no longer keeps what is needed.
    #[error("opening {stage}: it needs {of} from offset {wanted} on, the log starts at {start}")]
    Trimmed {
        /// The stage.
        stage: &'static str,
        /// What is needed.
        of: TopicPartition,
        /// From where on.
        wanted: i64,
        /// Where the log starts.
        start: i64,
    },
    /// The log is shorter than it was.
    #[error("opening {stage}: {of} is committed up to offset {committed}, the log ends at {end}")]
    Cut {
        /// The stage.
        stage: &'static str,
        /// Its inbox.
        of: TopicPartition,
        /// The committed position.
        committed: i64,
        /// Where the log ends.
        end: i64,
    },
    /// Another record stands where the last folded one stood: truncation, or another cluster.
    #[error("opening {stage}: record {offset} of {of} has SHA-256 {found}, its rows know {kept}")]
    OtherRecord {
        /// The stage.
        stage: &'static str,
        /// Its inbox.
        of: TopicPartition,
        /// The last folded record.
        offset: i64,
        /// Its hash as kept, hex.
        kept: String,
        /// Its hash as found, hex, or `none` when no record is there.
        found: String,
    },
    /// A topic has more partitions than it had.
    #[error(
        "opening {of}: its topic had {partitions} partitions when the processor started; keys have \
         moved between partitions, and with them the nodes' order: take the added ones away, or \
         begin a new log"
    )]
    Repartitioned {
        /// The partition that was not there.
        of: TopicPartition,
        /// How many there were.
        partitions: i32,
    },
    /// A past output that this program does not know: a newer one wrote it.
    #[error("opening {stage}: record {offset} of {of}: {reject}; written by a newer version?")]
    UnknownEvent {
        /// The stage.
        stage: &'static str,
        /// Where it stands.
        of: TopicPartition,
        /// At which offset.
        offset: i64,
        /// What is wrong with it.
        reject: Reject,
    },
    /// Commits failed again and again.
    #[error("committing failed {failures} times in a row, the last time: {last}")]
    Commit {
        /// How often.
        failures: u32,
        /// The last answer.
        last: CommitError,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A task at work: its fold and what of it is not yet durable.
pub(super) struct Running {
    pub(super) task: Task,
    pub(super) spec: Rc<StageSpec>,
    /// To be committed, with the time of their cause.
    pub(super) outputs: Vec<Outgoing>,
    /// Records folded since the last commit.
    pub(super) folded: usize,
    /// Records folded aloud since it was opened, for people.
    pub(super) folded_in_all: u64,
    /// One of the outputs should not wait.
    pub(super) urgent: bool,
    /// Alarms that are due had to stay.
    pub(super) rest_due: bool,
    below: Rc<Below>,
    mark: Mark,
    last: Option<Record>,
    /// Records folded since the rows were last written.
    unapplied: usize,
    /// Own past outputs up to here are in the rows.
    evolved: i64,
    scratch: Vec<Output>,
}

impl Running {
    /// Opens a task: step 4. The log's records of its inbox follow from its position on.
    pub(super) fn open(
        spec: &Rc<StageSpec>,
        inbox: TopicPartition,
        share: Share,
        log: &mut dyn Log,
        stores: &dyn Stores,
        config: &Config,
    ) -> Result<Self, Stop> {
        let committed = log.position(inbox)?;
        let store = stores.open(spec.name, inbox.partition)?;
        let mark = read_mark(&*store, spec)?;
        check(spec, inbox, committed, mark.as_ref(), log)?;
        let below = Rc::new(Below::new(store));
        let fold = (spec.open)(share, below.clone());
        let position = mark.as_ref().and_then(|mark| mark.position);
        let mark = mark.unwrap_or_else(|| Mark {
            encoding: spec.encoding,
            engine: spec.engine.to_owned(),
            position: None,
            last: None,
            evolved: 0,
        });
        let mut running = Running {
            task: Task::new(inbox, &config.prefix, config.time_source, fold, position),
            spec: spec.clone(),
            outputs: Vec::new(),
            folded: 0,
            folded_in_all: 0,
            urgent: false,
            rest_due: false,
            below,
            evolved: mark.evolved,
            mark,
            last: None,
            unapplied: 0,
            scratch: Vec::new(),
        };
        match (spec.recover, committed) {
            (Recover::Refold, Some(to)) => running.refold(to, log, config)?,
            (Recover::Evolve { topic }, _) => running.evolve(topic, log, config)?,
            (Recover::Refold, None) => {}
        }
        running.task.set_position(committed);
        running.below.check()?;
        let from = match committed {
            Some(position) => position.next,
            None => log.start(inbox)?,
        };
        log.go_on(inbox, from)?;
        Ok(running)
    }

    /// Folds a record aloud.
    pub(super) fn fold(&mut self, record: Record, router: &Router) -> Result<bool, Stop> {
        let folded = self.task.fold(&record, &mut self.scratch);
        self.below.check()?;
        let Some(folded) = folded else {
            return Ok(false);
        };
        for output in self.scratch.drain(..) {
            self.urgent |= self.spec.urgent.contains(&output.topic);
            router.route(self.task.inbox(), folded.now, output, &mut self.outputs);
        }
        self.rest_due = folded.rest_due;
        self.folded += 1;
        self.folded_in_all += 1;
        self.unapplied += 1;
        self.last = Some(record);
        Ok(true)
    }

    /// Notes that the log committed everything folded so far.
    pub(super) fn committed(&mut self, ends: &[(TopicPartition, i64)]) {
        self.folded = 0;
        self.urgent = false;
        if let Recover::Evolve { topic } = self.spec.recover {
            let own = TopicPartition {
                topic,
                partition: self.task.inbox().partition,
            };
            let end = ends.iter().find(|(of, _)| *of == own);
            self.evolved = end.map_or(self.evolved, |(_, end)| *end);
        }
    }

    /// How many records the rows on disk lag.
    pub(super) fn unapplied(&self) -> usize {
        self.unapplied
    }

    /// How many rows in memory are ahead of those on disk.
    pub(super) fn changed(&mut self) -> usize {
        self.task.fold_mut().changed()
    }

    /// Whether the rows should be written for their number, or for that of the records in them.
    pub(super) fn lags(&mut self, config: &Config) -> bool {
        self.unapplied >= config.apply_records || self.changed() >= config.apply_rows
    }

    /// Writes the rows: step 3. Only to be called when everything folded is committed.
    pub(super) fn apply(&mut self) -> Result<(), Stop> {
        assert_eq!(
            self.folded, 0,
            "a store never holds what the log did not commit"
        );
        if self.unapplied == 0 {
            return Ok(());
        }
        if let Some(record) = &self.last {
            self.mark.last = Some(hash(record));
            self.mark.position = self.task.position();
        }
        self.mark.evolved = self.evolved;
        self.mark.engine = self.spec.engine.to_owned();
        let mut rows: Rows = self.task.fold_mut().drain();
        rows.push((Mark::KEY.to_vec(), Some(write_mark(&self.mark))));
        self.below.store().write(rows)?;
        self.unapplied = 0;
        Ok(())
    }

    /// Folds the inbox from the mark up to the committed position; what leaves has left before.
    fn refold(&mut self, to: Position, log: &mut dyn Log, config: &Config) -> Result<(), Stop> {
        let inbox = self.task.inbox();
        let mut next = match self.mark.position {
            Some(position) => position.next,
            None => log.start(inbox)?,
        };
        while next < to.next {
            let chunk = log.read(inbox, next, to.next, config.flush_records)?;
            next = chunk.next;
            for record in chunk.records {
                self.task.fold(&record, &mut self.scratch);
                self.below.check()?;
                self.scratch.clear();
                self.unapplied += 1;
                self.last = Some(record);
            }
            if self.lags(config) {
                self.apply()?;
            }
        }
        Ok(())
    }

    /// Applies the stage's own past outputs from the mark to the end of what is committed.
    fn evolve(&mut self, topic: Topic, log: &mut dyn Log, config: &Config) -> Result<(), Stop> {
        let of = TopicPartition {
            topic,
            partition: self.task.inbox().partition,
        };
        let end = log.end(of)?;
        while self.evolved < end {
            let chunk = log.read(of, self.evolved, end, config.flush_records)?;
            for record in &chunk.records {
                let fold = self.task.fold_mut();
                fold.begin();
                let evolved = catch_unwind(AssertUnwindSafe(|| fold.evolve(&record.value)));
                // Rows that could not be read explain whatever else went wrong.
                self.below.check()?;
                evolved
                    .unwrap_or_else(|panic| resume_unwind(panic))
                    .map_err(|reject| Stop::UnknownEvent {
                        stage: self.spec.name,
                        of,
                        offset: record.offset,
                        reject,
                    })?;
                fold.accept();
                self.unapplied += 1;
            }
            self.evolved = chunk.next;
            if self.lags(config) {
                self.apply()?;
            }
        }
        Ok(())
    }
}

/// Whether log and rows can belong together.
fn check(
    spec: &StageSpec,
    inbox: TopicPartition,
    committed: Option<Position>,
    mark: Option<&Mark>,
    log: &mut dyn Log,
) -> Result<(), Stop> {
    let stage = spec.name;
    let start = log.start(inbox)?;
    let trimmed = |of, wanted, start| Stop::Trimmed {
        stage,
        of,
        wanted,
        start,
    };
    if let Recover::Evolve { topic } = spec.recover {
        check_evolved(
            spec,
            TopicPartition { topic, ..inbox },
            inbox,
            committed,
            mark,
            log,
        )?;
    }
    let state = mark.and_then(|mark| mark.position);
    let Some(committed) = committed else {
        let Some(state) = state else { return Ok(()) };
        return Err(Stop::NoPosition {
            stage,
            of: inbox,
            past: format!("its rows hold it up to offset {}", state.next),
        });
    };
    let end = log.end(inbox)?;
    if committed.next > end {
        return Err(Stop::Cut {
            stage,
            of: inbox,
            committed: committed.next,
            end,
        });
    }
    if start > committed.next {
        return Err(trimmed(inbox, committed.next, start));
    }
    let Some(state) = state else { return Ok(()) };
    if state.next > committed.next {
        return Err(Stop::StateAhead {
            stage,
            of: inbox,
            state: state.next,
            committed: committed.next,
        });
    }
    if spec.recover == Recover::Refold && start > state.next {
        return Err(trimmed(inbox, state.next, start));
    }
    let offset = state.next - 1;
    if let Some(kept) = mark.and_then(|mark| mark.last)
        && start <= offset
    {
        let chunk = log.read(inbox, offset, state.next, 1)?;
        let found = chunk.records.first().map(hash);
        if found != Some(kept) {
            return Err(Stop::OtherRecord {
                stage,
                of: inbox,
                offset,
                kept: hex(&kept),
                found: found.map_or_else(|| "none".to_owned(), |found| hex(&found)),
            });
        }
    }
    Ok(())
}

/// The part of [`check`] that is about a stage's own past outputs.
fn check_evolved(
    spec: &StageSpec,
    of: TopicPartition,
    inbox: TopicPartition,
    committed: Option<Position>,
    mark: Option<&Mark>,
    log: &mut dyn Log,
) -> Result<(), Stop> {
    let stage = spec.name;
    let (start, end) = (log.start(of)?, log.end(of)?);
    let evolved = mark.map_or(0, |mark| mark.evolved);
    if evolved > end {
        return Err(Stop::StateAhead {
            stage,
            of,
            state: evolved,
            committed: end,
        });
    }
    if start > evolved {
        return Err(Stop::Trimmed {
            stage,
            of,
            wanted: evolved,
            start,
        });
    }
    let mut next = start;
    while committed.is_none() && next < end {
        let chunk = log.read(of, next, end, 1)?;
        if let Some(record) = chunk.records.first() {
            return Err(Stop::NoPosition {
                stage,
                of: inbox,
                past: format!("{of} holds a record at offset {}", record.offset),
            });
        }
        next = chunk.next;
    }
    Ok(())
}

/// Reads the mark; rows of another encoding are cleared (step 5).
fn read_mark(store: &dyn Store, spec: &StageSpec) -> Result<Option<Mark>, Stop> {
    let mark = mark_of(store)?.filter(|mark| mark.encoding == spec.encoding);
    if mark.is_none() && store.get(Mark::KEY)?.is_some() {
        store.clear()?;
    }
    Ok(mark)
}

/// What the rows in a store are a function of; `None`: there are none, or of a form that this
/// program does not know. For who reads rows that are not its own.
///
/// # Errors
/// The store cannot be read.
pub fn mark_of(store: &dyn Store) -> Result<Option<Mark>, StoreError> {
    Ok(store.get(Mark::KEY)?.as_deref().and_then(Mark::decode))
}

fn write_mark(mark: &Mark) -> Vec<u8> {
    postcard::to_extend(mark, vec![MARK_VERSION]).expect("a mark is plain data")
}

/// SHA-256 of a record with its place: offset, append time, and key and value with their lengths.
fn hash(record: &Record) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(record.offset.to_be_bytes());
    hash.update(record.time.0.to_be_bytes());
    for bytes in [&record.key, &record.value] {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// First byte of the mark: how the rest is written.
const MARK_VERSION: u8 = 1;
