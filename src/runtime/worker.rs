//! A worker: one thread, one log connection, and the tasks that it was assigned.
//!
//! [`Worker::turn`] polls, folds, and commits when it is time. Which turn a commit falls into never
//! shows in what is written.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::model::{Span, Time};
use crate::stream::{Base, Fold, Topic};

use super::commit::Running;
use super::{
    CommitError, Log, LogError, Outgoing, Router, Stop, Stores, TimeSource, TopicPartition,
    partition_of,
};

/// Makes the fold of a stage on a partition, over its rows.
pub type Open = Rc<dyn Fn(Share, Rc<dyn Base>) -> Box<dyn Fold>>;

/// Which share of an inbox a task has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its partition.
    pub partition: i32,
    /// Of how many.
    pub partitions: i32,
}

impl Share {
    /// Of one partition, all.
    pub const WHOLE: Share = Share {
        partition: 0,
        partitions: 1,
    };

    /// Whether records of this key belong there.
    pub fn has(&self, key: &[u8]) -> bool {
        self.partitions == 1 || partition_of(key, self.partitions) == self.partition
    }
}

/// A stage as the runtime sees it.
pub struct StageSpec {
    /// Its name: that of its store.
    pub name: &'static str,
    /// What it folds.
    pub inbox: Topic,
    /// How its rows are found again.
    pub recover: Recover,
    /// Topics whose outputs should not wait for the next commit by time.
    pub urgent: &'static [Topic],
    /// Version of its rows: those of another are thrown away and rebuilt.
    pub encoding: u32,
    /// Its engine, e.g. `plan/1`.
    pub engine: &'static str,
    /// Makes its fold.
    pub open: Open,
}

/// How a stage's rows are brought to the committed position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recover {
    /// By folding its inbox again in silence.
    Refold,
    /// By evolving its own past outputs, on the partition with the inbox's number.
    Evolve {
        /// Their topic.
        topic: Topic,
    },
}

/// A clock for ticks and commits only: nothing of it stands in a record.
pub trait Clock {
    /// Milliseconds from any fixed moment; never goes back.
    fn now_ms(&self) -> i64;

    /// Microseconds from any fixed moment, to tell people how long things took.
    fn now_us(&self) -> u64 {
        self.now_ms().unsigned_abs() * 1000
    }
}

/// What a worker may be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Prefix of the topics' names in causes. Default `homeostat.`.
    pub prefix: String,
    /// Where a record's time comes from. Default: append time.
    pub time_source: TimeSource,
    /// Records folded before a commit is due. Default 1000; more: fewer commits, more memory.
    pub flush_records: usize,
    /// Bytes of outputs before a commit is due. Default 4 MiB.
    pub flush_bytes: usize,
    /// Longest wait for a commit. Default 150 ms.
    pub flush_every: Span,
    /// Shortest gap between the end of a commit and one that an urgent output brings on.
    /// Default 5 ms.
    pub flush_gap: Span,
    /// Records folded before the rows are written. Default 10,000: what a restart folds again.
    pub apply_records: usize,
    /// Changed rows of all tasks together in memory before they are written. Default 16,384.
    pub apply_rows: usize,
    /// Longest time that rows on disk lag a commit. Default 1 s.
    pub apply_every: Span,
    /// Without a record for so long, the owner appends a Tick while an alarm stands. Default 5 s.
    pub tick_after: Span,
    /// Commits that may fail in a row. Default 20.
    pub commit_failures_max: u32,
}

impl Tally {
    /// Counts the time since `timed` began for the kind of stage that folded since; answers now.
    fn spend(
        &mut self,
        timed: (u64, Option<Recover>),
        clock: &dyn Clock,
    ) -> (u64, Option<Recover>) {
        let now = clock.now_us();
        match timed.1 {
            None => {}
            Some(Recover::Refold) => self.analyze_us += now - timed.0,
            Some(Recover::Evolve { .. }) => self.plan_us += now - timed.0,
        }
        (now, None)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            prefix: "homeostat.".to_owned(),
            time_source: TimeSource::Log,
            flush_records: 1000,
            flush_bytes: 4 << 20,
            flush_every: Span(150),
            flush_gap: Span(5),
            apply_records: 10_000,
            apply_rows: 16_384,
            apply_every: Span::seconds(1),
            tick_after: Span::seconds(5),
            commit_failures_max: 20,
        }
    }
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Records folded.
    pub folded: usize,
    /// Nothing is left undone: every assigned task is open, nothing waits for a commit.
    pub idle: bool,
}

/// A worker. After an error it is of no more use: drop it and make a new one.
pub struct Worker {
    log: Box<dyn Log>,
    stores: Rc<dyn Stores>,
    clock: Rc<dyn Clock>,
    stages: Vec<Rc<StageSpec>>,
    config: Config,
    router: Router,
    /// Per assigned inbox partition its task; `None` until it is opened.
    slots: BTreeMap<TopicPartition, Option<Slot>>,
    /// When the last commit ended.
    last_commit: i64,
    commit_failures: u32,
    tally: Tally,
}

/// What a worker did since it began, for people: decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commits that succeeded.
    pub commits: u64,
    /// Commits that did not.
    pub commits_failed: u64,
    /// Times that rows were written.
    pub applies: u64,
    /// Ticks appended.
    pub ticks: u64,
    /// Time spent folding for stages that are found again by folding, us.
    pub analyze_us: u64,
    /// Time spent folding for stages that are found again by evolving, us.
    pub plan_us: u64,
    /// Time spent committing and writing rows, us.
    pub record_us: u64,
    /// What the last commit took, us.
    pub commit_us: u64,
}

struct Slot {
    running: Running,
    /// When a record last came.
    heard_ms: i64,
    /// When the rows were last written, or began to lag.
    applied_ms: i64,
    /// The offset of a Tick that was appended and is not folded yet.
    tick: Option<i64>,
}

impl Worker {
    /// A worker of these stages on a connected log.
    ///
    /// # Errors
    /// The log cannot tell its topics' partitions.
    pub fn new(
        mut log: Box<dyn Log>,
        stores: Rc<dyn Stores>,
        clock: Rc<dyn Clock>,
        stages: Vec<Rc<StageSpec>>,
        config: Config,
    ) -> Result<Self, Stop> {
        let router = Router::ask(&mut *log)?;
        let now = clock.now_ms();
        Ok(Worker {
            log,
            stores,
            clock,
            stages,
            config,
            router,
            slots: BTreeMap::new(),
            last_commit: now,
            commit_failures: 0,
            tally: Tally::default(),
        })
    }

    /// Opens what was assigned, polls, folds, commits when it is time, writes rows when they lag,
    /// ticks.
    ///
    /// # Errors
    /// This worker no longer knows the truth; a new one finds it again or says why not.
    pub fn turn(&mut self, wait: Span) -> Result<Turn, Stop> {
        self.open_assigned()?;
        let slots = &mut self.slots;
        let piece = self.config.flush_records.min(POLLED_MAX);
        let polled = self.log.poll(piece, wait, &mut |inbox| {
            slots.remove(&inbox);
        })?;
        // Who is behind gains nothing by committing early.
        let behind = polled.records.len() >= piece;
        for inbox in polled.assigned {
            self.slots.insert(inbox, None);
        }
        let now = self.clock.now_ms();
        let mut folded = 0;
        let mut timed = (self.clock.now_us(), None);
        for (inbox, record) in polled.records {
            let Some(Some(slot)) = self.slots.get_mut(&inbox) else {
                continue;
            };
            if timed.1 != Some(slot.running.spec.recover) {
                timed = self.tally.spend(timed, &*self.clock);
                timed.1 = Some(slot.running.spec.recover);
            }
            if slot.running.fold(record, &self.router)? {
                folded += 1;
                slot.heard_ms = now;
            }
        }
        let (recording, _) = self.tally.spend(timed, &*self.clock);
        let urgent = self.running().any(|slot| slot.running.urgent);
        if self.flush_due(now, behind) {
            self.flush()?;
        }
        self.apply_lagging(now, behind || urgent)?;
        self.tally.record_us += self.clock.now_us() - recording;
        self.tick(now)?;
        let idle = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.running.folded == 0);
        Ok(Turn {
            folded,
            idle: folded == 0 && self.slots.values().all(idle),
        })
    }

    /// Commits what waits and writes all rows: the end of a worker that was asked to end.
    ///
    /// # Errors
    /// As [`Worker::turn`]; nothing is lost then either.
    pub fn finish(&mut self) -> Result<(), Stop> {
        self.flush()?;
        self.running().try_for_each(|slot| slot.running.apply())
    }

    /// What it did so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Records folded per stage since its task was opened.
    pub fn folded(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let slots = self.slots.values().flatten();
        slots.map(|slot| (slot.running.spec.name, slot.running.folded_in_all))
    }

    /// How long a poll may wait for records without anything being late.
    pub fn patience(&self) -> Span {
        let waiting = self.slots.values().flatten();
        let waiting = waiting.map(|slot| (slot.running.folded, slot.running.unapplied()));
        match waiting.max() {
            Some((1.., _)) => Span(self.config.flush_gap.0.max(1)),
            Some((0, 1..)) => self.config.apply_every,
            _ => self.config.tick_after,
        }
    }

    /// The inbox partitions assigned, and whether each is open.
    pub fn inboxes(&self) -> impl Iterator<Item = (TopicPartition, bool)> {
        self.slots
            .iter()
            .map(|(inbox, slot)| (*inbox, slot.is_some()))
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.values_mut().flatten()
    }

    /// Opens the tasks that are assigned and not open; one whose position is not decided yet waits.
    fn open_assigned(&mut self) -> Result<(), Stop> {
        let heard_ms = self.clock.now_ms();
        for (&inbox, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.is_none()) {
            let spec = self
                .stages
                .iter()
                .find(|stage| stage.inbox == inbox.topic)
                .expect("only inboxes of this worker's stages are assigned to it");
            let share = self.router.share(inbox)?;
            let opened = Running::open(
                spec,
                inbox,
                share,
                &mut *self.log,
                &*self.stores,
                &self.config,
            );
            match opened {
                Ok(running) => {
                    *slot = Some(Slot {
                        running,
                        heard_ms,
                        applied_ms: heard_ms,
                        tick: None,
                    });
                }
                Err(Stop::Log(LogError::Undecided(_))) => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    fn flush_due(&mut self, now: i64, behind: bool) -> bool {
        let ended = self.last_commit;
        let gap = self.config.flush_gap.0;
        let (mut folded, mut bytes, mut urgent) = (0, 0, false);
        for slot in self.running() {
            let outputs = &slot.running.outputs;
            folded += slot.running.folded;
            bytes += outputs
                .iter()
                .map(|o| o.key.len() + o.value.len())
                .sum::<usize>();
            urgent |= slot.running.urgent;
        }
        folded > 0
            && (folded >= self.config.flush_records
                || bytes >= self.config.flush_bytes
                || now - ended >= self.config.flush_every.0
                || urgent && !behind && now - ended >= gap)
    }

    /// Step 2 of the protocol, then step 3 where the rows lag enough.
    fn flush(&mut self) -> Result<(), Stop> {
        let begun_us = self.clock.now_us();
        let (mut outputs, mut positions) = (Vec::new(), Vec::new());
        for slot in self.running().filter(|slot| slot.running.folded > 0) {
            outputs.append(&mut slot.running.outputs);
            let position = slot.running.task.position();
            let position = position.expect("a task that folded a record has a position");
            positions.push((slot.running.task.inbox(), position));
        }
        if positions.is_empty() {
            return Ok(());
        }
        match self.log.commit(outputs, &positions) {
            Ok(ends) => {
                self.tally.commit_us = self.clock.now_us() - begun_us;
                self.committed(&ends)
            }
            Err(error) => self.not_committed(&positions, error),
        }
    }

    fn committed(&mut self, ends: &[(TopicPartition, i64)]) -> Result<(), Stop> {
        let now = self.clock.now_ms();
        self.last_commit = now;
        self.commit_failures = 0;
        self.tally.commits += 1;
        for slot in self.running().filter(|slot| slot.running.folded > 0) {
            slot.running.committed(ends);
        }
        self.apply_excess(now)
    }

    /// Writes the rows of tasks where too many records or rows wait, and while all tasks together
    /// hold too many, of those with the most: the number of partitions does not multiply what is in
    /// memory. Everything folded is committed.
    fn apply_excess(&mut self, now: i64) -> Result<(), Stop> {
        let config = &self.config;
        let slots = self.slots.values_mut().flatten();
        let mut slots: Vec<(usize, &mut Slot)> =
            slots.map(|slot| (slot.running.changed(), slot)).collect();
        slots.sort_by_key(|(changed, _)| Reverse(*changed));
        let mut in_memory: usize = slots.iter().map(|(changed, _)| changed).sum();
        for (changed, slot) in slots {
            if in_memory >= config.apply_rows || slot.running.lags(config) {
                slot.apply(now)?;
                self.tally.applies += 1;
                in_memory -= changed;
            }
        }
        Ok(())
    }

    /// Writes the rows that lag too long; those that hold what is not committed wait for that. With
    /// nothing better to do it writes them in small pieces, so that a decision waits for few.
    fn apply_lagging(&mut self, now: i64, busy: bool) -> Result<(), Stop> {
        let every = self.config.apply_every.0;
        let mut applies = 0;
        for slot in self.running() {
            let lags = slot.running.unapplied() > 0 && slot.running.folded == 0;
            let piece = !busy && slot.running.changed() >= APPLY_PIECE;
            if lags && (piece || now - slot.applied_ms >= every) {
                slot.apply(now)?;
                applies += 1;
            }
        }
        self.tally.applies += applies;
        Ok(())
    }

    /// Drops the tasks of a transaction: they are opened anew, as after any restart.
    fn not_committed(
        &mut self,
        positions: &[(TopicPartition, super::Position)],
        error: CommitError,
    ) -> Result<(), Stop> {
        for (inbox, _) in positions {
            self.slots.insert(*inbox, None);
        }
        self.commit_failures += 1;
        self.tally.commits_failed += 1;
        if self.commit_failures > self.config.commit_failures_max {
            return Err(Stop::Commit {
                failures: self.commit_failures,
                last: error,
            });
        }
        match error {
            CommitError::Aborted(_) => Ok(()),
            CommitError::Unknown(_) | CommitError::Fatal(_) => Ok(self.log.reconnect()?),
        }
    }

    /// Appends a Tick where time must go on and nothing came, or where due alarms had to stay.
    fn tick(&mut self, now: i64) -> Result<(), Stop> {
        for (&inbox, slot) in &mut self.slots {
            let Some(slot) = slot else { continue };
            let next = slot.running.task.position().map_or(0, |p| p.next);
            slot.tick = slot.tick.filter(|&tick| tick >= next);
            let quiet = now - slot.heard_ms >= self.config.tick_after.0;
            if slot.tick.is_none() && (quiet || slot.running.rest_due) && slot.running.task.waits()
            {
                slot.tick = Some(self.log.append(Outgoing {
                    to: inbox,
                    time: Time::default(),
                    key: Vec::new(),
                    value: Vec::new(),
                    headers: Vec::new(),
                })?);
                slot.heard_ms = now;
                self.tally.ticks += 1;
            }
        }
        Ok(())
    }
}

impl Slot {
    fn apply(&mut self, now: i64) -> Result<(), Stop> {
        self.applied_ms = now;
        self.running.apply()
    }
}

/// Records that a turn takes at most: they stay in the processor's cache until they are folded.
const POLLED_MAX: usize = 500;

/// Rows that are written when nothing waits: about a millisecond's work.
const APPLY_PIECE: usize = 128;
