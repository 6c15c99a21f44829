//! The simulated back end: a log and stores in memory, with transactions, a consumer group, append
//! time moved by hand, and faults.
//!
//! Every call of a port is an operation with a number; a [`Fault`] strikes at one. A run without
//! faults leaves its [`Operation`]s behind ([`Simulated::operations`]), and so tells where faults
//! can strike. Nothing happens by itself: members join when they poll, transactions in flight are
//! decided when [`Simulated::decide`] or a new producer says so, time stands still until it is
//! moved. Delivery may be slow or double, by a seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::model::{Span, Time};
use crate::stream::Topic;

use super::{
    Chunk, Clock, CommitError, KeyValue, Log, LogError, Outgoing, Polled, Position, Record, Rows,
    Seed, Store, StoreError, Stores, TimeSource, TopicPartition, partition_of,
};

/// A cluster of simulated brokers with the disks of the workers' machines. Cloning it clones the
/// handle.
#[derive(Clone)]
pub struct Simulated(Rc<RefCell<Cluster>>);

/// How a cluster is built.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Partitions of every topic.
    pub partitions: i32,
    /// Topics that the group consumes.
    pub inboxes: Vec<Topic>,
    /// Append time, or the writer's.
    pub time_source: TimeSource,
    /// Brokers, each with a clock of its own; partition p is led by broker p modulo this.
    pub brokers: usize,
    /// What time it is at first.
    pub now: Time,
    /// Delivers less than there is, or a record once more, when this says so.
    pub delivery: Option<u64>,
}

/// What goes wrong at an operation. On one that it does not fit it strikes as a crash before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The worker dies just before.
    CrashBefore,
    /// The worker dies just after; what was written stays.
    CrashAfter,
    /// Reported as failed, and not persisted (a commit: aborted).
    NotPersisted,
    /// Reported as failed (a commit: outcome unknown), but persisted.
    Persisted,
    /// A commit: outcome unknown, not persisted.
    UnknownLost,
    /// A commit: outcome unknown, in flight; decided later.
    InFlight {
        /// How it will be decided.
        commits: bool,
    },
    /// A commit: outcome unknown; its requests are on the way and reach the brokers later, unless a
    /// new producer or a new generation of the group came first.
    Late,
    /// A commit: in flight, decided later, and the worker dies.
    CrashInFlight {
        /// How it will be decided.
        commits: bool,
    },
    /// A commit: the producer is fenced or timed out; nothing is persisted.
    Fatal,
    /// A commit or a store's write: the process stands still for so long that others take over,
    /// then goes on as if nothing had been ([`Simulated::on_stall`]).
    Stall,
    /// A poll: everything is taken away, and given back at the next one.
    Revoke,
}

/// What was asked of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `Log::poll`.
    Poll,
    /// `Log::commit`.
    Commit,
    /// `Log::append`.
    Append,
    /// Any other call of the log: it only reads.
    Ask,
    /// `Stores::open`, `Store::get`, `Store::next`.
    StoreRead,
    /// `Store::write`, `Store::clear`.
    StoreWrite,
}

impl Operation {
    /// The faults that can strike here.
    pub fn faults(self) -> &'static [Fault] {
        match self {
            Operation::Poll => &[Fault::CrashBefore, Fault::Revoke],
            Operation::Ask => &[Fault::CrashBefore],
            Operation::StoreRead => &[Fault::CrashBefore, Fault::NotPersisted],
            Operation::Append => &[
                Fault::CrashBefore,
                Fault::CrashAfter,
                Fault::NotPersisted,
                Fault::Persisted,
            ],
            Operation::StoreWrite => &[
                Fault::CrashBefore,
                Fault::CrashAfter,
                Fault::NotPersisted,
                Fault::Persisted,
                Fault::Stall,
            ],
            Operation::Commit => &[
                Fault::CrashBefore,
                Fault::CrashAfter,
                Fault::NotPersisted,
                Fault::Persisted,
                Fault::UnknownLost,
                Fault::InFlight { commits: true },
                Fault::InFlight { commits: false },
                Fault::Late,
                Fault::CrashInFlight { commits: true },
                Fault::CrashInFlight { commits: false },
                Fault::Fatal,
                Fault::Stall,
            ],
        }
    }
}

/// A record as it was written, for a checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The record.
    pub record: Record,
    /// It came in a worker's transaction, not from outside.
    pub committed: bool,
}

struct Cluster {
    settings: Settings,
    topics: BTreeMap<TopicPartition, Partition>,
    positions: BTreeMap<TopicPartition, Position>,
    in_flight: Vec<InFlight>,
    late: Vec<Late>,
    /// Per worker's name the instance that is the last to have connected, and its producer's
    /// epoch.
    producers: BTreeMap<String, (u64, u64)>,
    group: Group,
    disks: BTreeMap<(String, String, i32), Rc<RefCell<Disk>>>,
    now: Time,
    skews: Vec<Span>,
    faults: BTreeMap<usize, Fault>,
    operations: Vec<Operation>,
    instances: u64,
    transactions: u64,
    delivery: Option<u64>,
    meanwhile: Option<Box<dyn FnMut()>>,
    refuses: bool,
}

#[derive(Default)]
struct Partition {
    start: i64,
    /// Entry i has offset i; what is trimmed stays for the checker.
    entries: Vec<Entry>,
}

struct Entry {
    record: Record,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Appended outside a transaction.
    Plain,
    /// In a transaction that committed.
    Committed,
    /// In a transaction that is in flight.
    Open(u64),
    /// In a transaction that was aborted, or a transaction's marker.
    Hidden,
}

struct InFlight {
    transaction: u64,
    producer: String,
    positions: Vec<(TopicPartition, Position)>,
    commits: bool,
}

/// A commit that did not reach the brokers yet.
struct Late {
    worker: String,
    /// Of the worker when it sent it.
    producer: (u64, u64),
    generation: u64,
    outputs: Vec<Outgoing>,
    positions: Vec<(TopicPartition, Position)>,
}

#[derive(Default)]
struct Group {
    generation: u64,
    members: BTreeMap<String, Member>,
}

struct Member {
    instance: u64,
    /// What it learned at its last poll.
    generation: u64,
    owned: BTreeSet<TopicPartition>,
}

#[derive(Default)]
struct Disk {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    holder: u64,
}

impl Simulated {
    /// An empty cluster.
    pub fn new(settings: Settings) -> Self {
        let partition = |topic| move |partition| TopicPartition { topic, partition };
        let topics = Topic::ALL
            .into_iter()
            .flat_map(|topic| (0..settings.partitions).map(partition(topic)))
            .map(|of| (of, Partition::default()))
            .collect();
        Simulated(Rc::new(RefCell::new(Cluster {
            topics,
            positions: BTreeMap::new(),
            in_flight: Vec::new(),
            late: Vec::new(),
            producers: BTreeMap::new(),
            group: Group::default(),
            disks: BTreeMap::new(),
            now: settings.now,
            skews: vec![Span(0); settings.brokers.max(1)],
            faults: BTreeMap::new(),
            operations: Vec::new(),
            instances: 0,
            transactions: 0,
            delivery: settings.delivery,
            meanwhile: None,
            refuses: false,
            settings,
        })))
    }

    /// Connects a worker: its log and its stores. An older one of the same name is fenced.
    pub fn connect(&self, worker: &str) -> (Box<dyn Log>, Rc<dyn Stores>) {
        let mut cluster = self.0.borrow_mut();
        cluster.instances += 1;
        let instance = cluster.instances;
        let epoch = cluster.new_producer(worker, instance);
        let process = Rc::new(Process {
            cluster: self.clone(),
            name: worker.to_owned(),
            instance,
            dead: Cell::new(false),
        });
        let log = SimulatedLog {
            process: process.clone(),
            epoch,
            owned: BTreeSet::new(),
            fetch: BTreeMap::new(),
        };
        (Box::new(log), Rc::new(SimulatedStores { process }))
    }

    /// Strikes with these faults, each at the operation of its number (from 0).
    pub fn strike(&self, faults: impl IntoIterator<Item = (usize, Fault)>) {
        self.0.borrow_mut().faults.extend(faults);
    }

    /// From now on refuses every commit, or none.
    pub fn refuse_commits(&self, refuses: bool) {
        self.0.borrow_mut().refuses = refuses;
    }

    /// What happens while a worker stands still.
    pub fn on_stall(&self, meanwhile: impl FnMut() + 'static) {
        self.0.borrow_mut().meanwhile = Some(Box::new(meanwhile));
    }

    /// What was asked so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.0.borrow().operations.clone()
    }

    /// Appends a record from outside to the partition of its key; answers where it went.
    pub fn append(&self, topic: Topic, key: &[u8], value: &[u8], time: Time) -> TopicPartition {
        let to = TopicPartition {
            topic,
            partition: partition_of(key, self.0.borrow().settings.partitions),
        };
        self.append_to(to, key, value, time);
        to
    }

    /// Appends a record from outside to a partition; answers its offset. `time` counts only where
    /// the writer's time does.
    pub fn append_to(&self, to: TopicPartition, key: &[u8], value: &[u8], time: Time) -> i64 {
        let record = Outgoing {
            to,
            time,
            key: key.to_vec(),
            value: value.to_vec(),
            headers: Vec::new(),
        };
        self.0.borrow_mut().push(record, Fate::Plain)
    }

    /// Puts recorded records into an empty partition, each at its offset; gaps are filled with
    /// entries that no reader sees.
    pub fn load(&self, of: TopicPartition, records: Vec<Record>) {
        let mut cluster = self.0.borrow_mut();
        for record in records {
            while (cluster.partition(of).entries.len() as i64) < record.offset {
                cluster.push_marker(of);
            }
            cluster.partition(of).entries.push(Entry {
                record,
                fate: Fate::Plain,
            });
        }
    }

    /// What time it is, without any broker's skew.
    pub fn now(&self) -> Time {
        self.0.borrow().now
    }

    /// Moves time on.
    pub fn advance(&self, by: Span) {
        let mut cluster = self.0.borrow_mut();
        cluster.now = cluster.now + by;
    }

    /// Sets how wrong a broker's clock is.
    pub fn skew(&self, broker: usize, by: Span) {
        self.0.borrow_mut().skews[broker] = by;
    }

    /// Decides the transactions in flight: their time is over.
    pub fn decide(&self) {
        let mut cluster = self.0.borrow_mut();
        cluster.decide(|_| true);
        for late in std::mem::take(&mut cluster.late) {
            let member = cluster.group.members.get(&late.worker);
            let current = member.is_some_and(|member| {
                member.instance == late.producer.0 && member.generation == late.generation
            });
            if current && cluster.producers[&late.worker] == late.producer {
                cluster.write(
                    &late.worker,
                    late.outputs,
                    &late.positions,
                    Some(true),
                    true,
                );
            }
        }
    }

    /// Throws a worker out of the group without telling it: its session timed out.
    pub fn throw_out(&self, worker: &str) {
        let mut cluster = self.0.borrow_mut();
        if cluster.group.members.remove(worker).is_some() {
            cluster.group.generation += 1;
        }
    }

    /// Retention: records before `start` are gone for readers.
    pub fn trim(&self, of: TopicPartition, start: i64) {
        let mut cluster = self.0.borrow_mut();
        let partition = cluster.partition(of);
        partition.start = partition.start.max(start);
    }

    /// Loses the records from `end` on: a restore from an older copy.
    pub fn cut(&self, of: TopicPartition, end: i64) {
        self.0
            .borrow_mut()
            .partition(of)
            .entries
            .truncate(end as usize);
    }

    /// Changes a record in place.
    pub fn tamper(&self, of: TopicPartition, offset: i64, change: impl FnOnce(&mut Record)) {
        change(&mut self.0.borrow_mut().partition(of).entries[offset as usize].record);
    }

    /// Sets or forgets a committed position.
    pub fn set_position(&self, inbox: TopicPartition, position: Option<Position>) {
        let mut cluster = self.0.borrow_mut();
        match position {
            Some(position) => cluster.positions.insert(inbox, position),
            None => cluster.positions.remove(&inbox),
        };
    }

    /// The committed position.
    pub fn position(&self, inbox: TopicPartition) -> Option<Position> {
        self.0.borrow().positions.get(&inbox).copied()
    }

    /// One past the last record of a partition.
    pub fn end(&self, of: TopicPartition) -> i64 {
        self.0.borrow_mut().partition(of).entries.len() as i64
    }

    /// One past the last record that a reader can see, once all is decided.
    pub fn visible_end(&self, of: TopicPartition) -> i64 {
        let mut cluster = self.0.borrow_mut();
        let mut entries = cluster.partition(of).entries.iter();
        let last = entries.rposition(|entry| entry.fate != Fate::Hidden);
        last.map_or(0, |last| last as i64 + 1)
    }

    /// The records that stand in a partition, trimmed ones too.
    pub fn written(&self, of: TopicPartition) -> Vec<Written> {
        self.written_from(of, 0)
    }

    /// The same from an offset on, up to where a transaction is not decided.
    pub fn written_from(&self, of: TopicPartition, from: i64) -> Vec<Written> {
        let cluster = self.0.borrow();
        let entries = &cluster.topics[&of].entries;
        let end = cluster.stable_end(of).max(from);
        entries[from as usize..end as usize]
            .iter()
            .filter(|entry| matches!(entry.fate, Fate::Plain | Fate::Committed))
            .map(|entry| Written {
                record: entry.record.clone(),
                committed: entry.fate == Fate::Committed,
            })
            .collect()
    }

    /// The partitions of a topic.
    pub fn partitions(&self, topic: Topic) -> impl Iterator<Item = TopicPartition> + use<> {
        let count = self.0.borrow().settings.partitions;
        (0..count).map(move |partition| TopicPartition { topic, partition })
    }

    /// The rows of all tasks on a worker's disk, to be put back later.
    pub fn copy_disk(&self, worker: &str) -> DiskCopy {
        let cluster = self.0.borrow();
        let of_worker = cluster.disks.iter().filter(|(key, _)| key.0 == worker);
        DiskCopy(
            of_worker
                .map(|(key, disk)| (key.clone(), disk.borrow().rows.clone()))
                .collect(),
        )
    }

    /// Puts a disk back as it was, under a worker that does not run; `None` loses it.
    pub fn put_disk(&self, worker: &str, copy: Option<&DiskCopy>) {
        let mut cluster = self.0.borrow_mut();
        cluster.disks.retain(|key, _| key.0 != worker);
        for (key, rows) in copy.iter().flat_map(|copy| &copy.0) {
            let disk = Disk {
                rows: rows.clone(),
                holder: 0,
            };
            cluster
                .disks
                .insert(key.clone(), Rc::new(RefCell::new(disk)));
        }
    }
}

/// The rows on a worker's disk at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCopy(BTreeMap<DiskKey, BTreeMap<Vec<u8>, Vec<u8>>>);

impl DiskCopy {
    /// The rows of a stage whose key begins with this byte, of all of its partitions in order.
    pub fn rows(&self, stage: &str, table: u8) -> Vec<KeyValue> {
        let disks = self.0.iter().filter(|(key, _)| key.1 == stage);
        let rows = disks.flat_map(|(_, rows)| rows.range(vec![table]..vec![table + 1]));
        rows.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// Worker, stage, partition.
type DiskKey = (String, String, i32);

/// The cluster's true time is the workers' clock too.
impl Clock for Simulated {
    fn now_ms(&self) -> i64 {
        self.0.borrow().now.0
    }
}

impl Cluster {
    fn partition(&mut self, of: TopicPartition) -> &mut Partition {
        self.topics
            .get_mut(&of)
            .expect("partitions are made with the cluster")
    }

    fn push(&mut self, record: Outgoing, fate: Fate) -> i64 {
        let broker = record.to.partition as usize % self.skews.len();
        let time = match self.settings.time_source {
            TimeSource::Log => self.now + self.skews[broker],
            TimeSource::Sample => record.time,
        };
        let partition = self.partition(record.to);
        let offset = partition.entries.len() as i64;
        partition.entries.push(Entry {
            record: Record {
                offset,
                time,
                key: record.key,
                value: record.value,
                headers: record.headers,
            },
            fate,
        });
        offset
    }

    /// The marker that ends a transaction on a partition takes an offset.
    fn push_marker(&mut self, of: TopicPartition) {
        let marker = Outgoing {
            to: of,
            time: Time::default(),
            key: Vec::new(),
            value: Vec::new(),
            headers: Vec::new(),
        };
        self.push(marker, Fate::Hidden);
    }

    /// Writes a transaction: decided at once, or left in flight.
    fn write(
        &mut self,
        producer: &str,
        outputs: Vec<Outgoing>,
        positions: &[(TopicPartition, Position)],
        decided: Option<bool>,
        commits: bool,
    ) -> Vec<(TopicPartition, i64)> {
        self.transactions += 1;
        let transaction = self.transactions;
        let mut ends = BTreeMap::new();
        for output in outputs {
            let to = output.to;
            ends.insert(to, self.push(output, Fate::Open(transaction)) + 1);
        }
        self.in_flight.push(InFlight {
            transaction,
            producer: producer.to_owned(),
            positions: positions.to_vec(),
            commits,
        });
        if decided.is_some() {
            self.decide(|in_flight| in_flight.transaction == transaction);
        }
        ends.into_iter().collect()
    }

    /// Decides the transactions in flight that are chosen.
    fn decide(&mut self, choose: impl Fn(&InFlight) -> bool) {
        let in_flight = std::mem::take(&mut self.in_flight);
        let (chosen, rest) = in_flight.into_iter().partition::<Vec<_>, _>(choose);
        self.in_flight = rest;
        for transaction in chosen {
            let fate = if transaction.commits {
                self.positions.extend(transaction.positions);
                Fate::Committed
            } else {
                Fate::Hidden
            };
            let open = Fate::Open(transaction.transaction);
            let mut touched = Vec::new();
            for (of, partition) in &mut self.topics {
                let before = touched.len();
                for entry in partition.entries.iter_mut().filter(|e| e.fate == open) {
                    entry.fate = fate;
                    touched.push(*of);
                }
                touched.truncate(before + 1);
            }
            touched.into_iter().for_each(|of| self.push_marker(of));
        }
    }

    fn new_producer(&mut self, worker: &str, instance: u64) -> u64 {
        self.decide(|in_flight| in_flight.producer == worker);
        let producer = self.producers.entry(worker.to_owned()).or_default();
        *producer = (instance, producer.1 + 1);
        producer.1
    }

    /// Which partitions a member should have: dealt in order.
    fn target(&self, name: &str) -> BTreeSet<TopicPartition> {
        let members = self.group.members.len();
        let place = self.group.members.keys().position(|member| member == name);
        let inboxes = &self.settings.inboxes;
        let all = self.topics.keys().filter(|of| inboxes.contains(&of.topic));
        all.enumerate()
            .filter(|(i, _)| place == Some(i % members))
            .map(|(_, of)| *of)
            .collect()
    }

    /// Up to where a reader of committed records may read.
    fn stable_end(&self, of: TopicPartition) -> i64 {
        let entries = &self.topics[&of].entries;
        if self.in_flight.is_empty() {
            return entries.len() as i64;
        }
        let open = |entry: &Entry| matches!(entry.fate, Fate::Open(_));
        entries.iter().position(open).unwrap_or(entries.len()) as i64
    }

    /// A number below `n`, or `None` when delivery is plain.
    fn draw(&mut self, n: u64) -> Option<u64> {
        let state = self.delivery.as_mut()?;
        let mut seed = Seed(*state);
        let drawn = seed.below(n);
        *state = seed.0;
        Some(drawn)
    }
}

/// A worker's process: dead, it can do nothing more.
struct Process {
    cluster: Simulated,
    name: String,
    instance: u64,
    dead: Cell<bool>,
}

impl Process {
    /// Begins an operation: counts it, and answers what strikes.
    fn enter(&self, operation: Operation) -> Result<Option<Fault>, String> {
        if self.dead.get() {
            return Err(format!("worker {} is dead", self.name));
        }
        let mut cluster = self.cluster.0.borrow_mut();
        let number = cluster.operations.len();
        cluster.operations.push(operation);
        let fault = cluster.faults.remove(&number);
        match fault {
            Some(fault) if fault == Fault::CrashBefore || !operation.faults().contains(&fault) => {
                Err(self.die())
            }
            fault => Ok(fault),
        }
    }

    fn die(&self) -> String {
        self.dead.set(true);
        format!("worker {} crashed", self.name)
    }

    /// Stands still, if that is what strikes.
    fn stall(&self, fault: Option<Fault>) {
        if fault == Some(Fault::Stall) {
            let meanwhile = self.cluster.0.borrow_mut().meanwhile.take();
            if let Some(mut meanwhile) = meanwhile {
                meanwhile();
                self.cluster.0.borrow_mut().meanwhile = Some(meanwhile);
            }
        }
    }

    fn ask(&self) -> Result<(), LogError> {
        self.enter(Operation::Ask).map_err(LogError::Failed)?;
        Ok(())
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced(self.name.clone())
    }
}

struct SimulatedLog {
    process: Rc<Process>,
    epoch: u64,
    owned: BTreeSet<TopicPartition>,
    /// Where the next record of an inbox comes from.
    fetch: BTreeMap<TopicPartition, i64>,
}

/// What a member no longer has, and what is new.
struct Rebalance {
    revoked: Vec<TopicPartition>,
    assigned: Vec<TopicPartition>,
}

impl SimulatedLog {
    fn cluster(&self) -> std::cell::RefMut<'_, Cluster> {
        self.process.cluster.0.borrow_mut()
    }

    /// Joins the group and learns what it has.
    fn rebalance(&mut self) -> Result<Rebalance, LogError> {
        let (name, instance) = (&self.process.name, self.process.instance);
        let mut cluster = self.process.cluster.0.borrow_mut();
        if cluster.producers[name].0 != instance {
            return Err(self.process.fenced());
        }
        let known = cluster.group.members.get(name);
        let lost_all = known.is_none_or(|member| member.instance != instance);
        if lost_all {
            let member = Member {
                instance,
                generation: 0,
                owned: BTreeSet::new(),
            };
            cluster.group.members.insert(name.clone(), member);
            cluster.group.generation += 1;
        }
        let target = cluster.target(name);
        let keeps = |of: &TopicPartition| !lost_all && target.contains(of);
        let revoked: Vec<_> = self.owned.iter().copied().filter(|of| !keeps(of)).collect();
        let taken: BTreeSet<_> = cluster
            .group
            .members
            .iter()
            .filter(|(member, _)| *member != name)
            .flat_map(|(_, member)| member.owned.iter().copied())
            .collect();
        self.owned.retain(keeps);
        let free = target.difference(&taken).copied();
        let assigned: Vec<_> = free.filter(|of| !self.owned.contains(of)).collect();
        self.owned.extend(&assigned);
        let generation = cluster.group.generation;
        let member = cluster
            .group
            .members
            .get_mut(name)
            .expect("it joined above");
        member.generation = generation;
        member.owned = self.owned.clone();
        self.fetch.retain(|of, _| self.owned.contains(of));
        self.fetch.retain(|of, _| !assigned.contains(of));
        Ok(Rebalance { revoked, assigned })
    }

    /// Why this worker may not commit now.
    fn refusal(&self) -> Option<CommitError> {
        let name = &self.process.name;
        let cluster = self.cluster();
        if cluster.refuses {
            return Some(CommitError::Aborted("every commit is refused".into()));
        }
        if cluster.producers[name] != (self.process.instance, self.epoch) {
            return Some(CommitError::Fatal(format!("producer {name} is fenced")));
        }
        let member = cluster.group.members.get(name);
        let member = member.filter(|member| member.instance == self.process.instance);
        match member {
            None => Some(format!("{name} is no member of the group")),
            Some(member) if member.generation != cluster.group.generation => {
                Some(format!("{name} is of an older generation of the group"))
            }
            Some(_) => None,
        }
        .map(CommitError::Aborted)
    }
}

impl Log for SimulatedLog {
    fn partitions(&mut self, _topic: Topic) -> Result<i32, LogError> {
        self.process.ask()?;
        Ok(self.cluster().settings.partitions)
    }

    fn poll(
        &mut self,
        records_max: usize,
        _wait: Span,
        revoked: &mut dyn FnMut(TopicPartition),
    ) -> Result<Polled, LogError> {
        let fault = self
            .process
            .enter(Operation::Poll)
            .map_err(LogError::Failed)?;
        if fault == Some(Fault::Revoke) {
            std::mem::take(&mut self.owned)
                .into_iter()
                .for_each(revoked);
            self.fetch.clear();
            let mut cluster = self.cluster();
            cluster.group.generation += 1;
            let generation = cluster.group.generation;
            if let Some(member) = cluster.group.members.get_mut(&self.process.name) {
                member.owned.clear();
                member.generation = generation;
            }
            return Ok(Polled::default());
        }
        let change = self.rebalance()?;
        change.revoked.into_iter().for_each(revoked);
        let mut records = Vec::new();
        let mut cluster = self.process.cluster.0.borrow_mut();
        // Seldom enough that what comes again never fills the polls of a worker that takes one
        // record at a time.
        let once_in = 4 + 4 * self.fetch.len() as u64;
        for (of, next) in &mut self.fetch {
            let mut left = records_max.saturating_sub(records.len());
            match cluster.draw(once_in) {
                Some(0) => left = left.min(1),
                Some(1) => left = 0,
                Some(2) => *next = (*next - 2).max(cluster.topics[of].start),
                _ => {}
            }
            let end = cluster.stable_end(*of);
            let entries = &cluster.topics[of].entries;
            while *next < end && left > 0 {
                let entry = &entries[*next as usize];
                if entry.fate != Fate::Hidden {
                    records.push((*of, entry.record.clone()));
                    left -= 1;
                }
                *next += 1;
            }
        }
        Ok(Polled {
            assigned: change.assigned,
            records,
        })
    }

    fn go_on(&mut self, inbox: TopicPartition, from: i64) -> Result<(), LogError> {
        self.process.ask()?;
        if !self.owned.contains(&inbox) {
            return Err(LogError::Failed(format!(
                "going on with {inbox}: it is not assigned"
            )));
        }
        self.fetch.insert(inbox, from);
        Ok(())
    }

    fn commit(
        &mut self,
        outputs: Vec<Outgoing>,
        positions: &[(TopicPartition, Position)],
    ) -> Result<Vec<(TopicPartition, i64)>, CommitError> {
        let fault = self
            .process
            .enter(Operation::Commit)
            .map_err(CommitError::Fatal)?;
        self.process.stall(fault);
        if let Some(refusal) = self.refusal() {
            let name = &self.process.name;
            self.cluster().write(name, outputs, &[], Some(true), false);
            return Err(refusal);
        }
        let name = &self.process.name;
        let unknown = || CommitError::Unknown(format!("{name}: no answer"));
        if fault == Some(Fault::Late) {
            let mut cluster = self.cluster();
            let late = Late {
                worker: name.clone(),
                producer: (self.process.instance, self.epoch),
                generation: cluster.group.generation,
                outputs,
                positions: positions.to_vec(),
            };
            cluster.late.push(late);
            return Err(unknown());
        }
        let (error, decided, commits) = match fault {
            None | Some(Fault::Stall) => (None, Some(true), true),
            Some(Fault::CrashAfter) => (
                Some(CommitError::Fatal(self.process.die())),
                Some(true),
                true,
            ),
            Some(Fault::Persisted) => (Some(unknown()), Some(true), true),
            Some(Fault::UnknownLost) => (Some(unknown()), Some(true), false),
            Some(Fault::InFlight { commits }) => (Some(unknown()), None, commits),
            Some(Fault::CrashInFlight { commits }) => {
                (Some(CommitError::Fatal(self.process.die())), None, commits)
            }
            Some(Fault::NotPersisted) => {
                let error = CommitError::Aborted(format!("{name}: told to abort"));
                (Some(error), Some(true), false)
            }
            Some(Fault::Fatal | Fault::CrashBefore | Fault::Revoke | Fault::Late) => {
                self.cluster().producers.entry(name.clone()).or_default().1 += 1;
                let error = CommitError::Fatal(format!("producer {name} timed out"));
                (Some(error), Some(true), false)
            }
        };
        let ends = self
            .cluster()
            .write(name, outputs, positions, decided, commits);
        error.map_or(Ok(ends), Err)
    }

    fn reconnect(&mut self) -> Result<(), LogError> {
        self.process.ask()?;
        let mut cluster = self.process.cluster.0.borrow_mut();
        if cluster.producers[&self.process.name].0 != self.process.instance {
            return Err(self.process.fenced());
        }
        self.epoch = cluster.new_producer(&self.process.name, self.process.instance);
        Ok(())
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        self.process.ask()?;
        let cluster = self.cluster();
        let moves = |in_flight: &InFlight| in_flight.positions.iter().any(|(of, _)| *of == inbox);
        if cluster.in_flight.iter().any(moves) {
            return Err(LogError::Undecided(inbox));
        }
        Ok(cluster.positions.get(&inbox).copied())
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        self.process.ask()?;
        let cluster = self.cluster();
        let partition = &cluster.topics[&of];
        if from < partition.start {
            return Err(LogError::Failed(format!(
                "reading {of} from offset {from}: it starts at {}",
                partition.start
            )));
        }
        let end = cluster.stable_end(of).min(to);
        if from >= end {
            return Err(LogError::Undecided(of));
        }
        let mut records = Vec::new();
        let mut next = from;
        while next < end && records.len() < records_max {
            let entry = &partition.entries[next as usize];
            if entry.fate != Fate::Hidden {
                records.push(entry.record.clone());
            }
            next += 1;
        }
        Ok(Chunk { records, next })
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.process.ask()?;
        Ok(self.cluster().partition(of).start)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.process.ask()?;
        Ok(self.cluster().partition(of).entries.len() as i64)
    }

    fn append(&mut self, record: Outgoing) -> Result<i64, LogError> {
        let fault = self
            .process
            .enter(Operation::Append)
            .map_err(LogError::Failed)?;
        if fault == Some(Fault::NotPersisted) {
            return Err(LogError::Failed(format!(
                "appending to {}: no answer",
                record.to
            )));
        }
        let to = record.to;
        let offset = self.cluster().push(record, Fate::Plain);
        match fault {
            Some(Fault::CrashAfter) => Err(LogError::Failed(self.process.die())),
            Some(_) => Err(LogError::Failed(format!("appending to {to}: no answer"))),
            None => Ok(offset),
        }
    }
}

struct SimulatedStores {
    process: Rc<Process>,
}

impl Stores for SimulatedStores {
    fn open(&self, stage: &str, partition: i32) -> Result<Rc<dyn Store>, StoreError> {
        self.process
            .enter(Operation::StoreRead)
            .map_err(StoreError)?;
        let mut cluster = self.process.cluster.0.borrow_mut();
        cluster.instances += 1;
        let holder = cluster.instances;
        let key = (self.process.name.clone(), stage.to_owned(), partition);
        let disk = cluster.disks.entry(key).or_default().clone();
        disk.borrow_mut().holder = holder;
        Ok(Rc::new(SimulatedStore {
            process: self.process.clone(),
            disk,
            holder,
        }))
    }
}

struct SimulatedStore {
    process: Rc<Process>,
    disk: Rc<RefCell<Disk>>,
    holder: u64,
}

impl SimulatedStore {
    fn read<T>(&self, read: impl FnOnce(&Disk) -> T) -> Result<T, StoreError> {
        match self
            .process
            .enter(Operation::StoreRead)
            .map_err(StoreError)?
        {
            Some(_) => Err(StoreError("reading a row: the disk does not answer".into())),
            None => Ok(read(&self.disk.borrow())),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Disk)) -> Result<(), StoreError> {
        let fault = self
            .process
            .enter(Operation::StoreWrite)
            .map_err(StoreError)?;
        self.process.stall(fault);
        let mut disk = self.disk.borrow_mut();
        if disk.holder != self.holder {
            return Err(StoreError(
                "writing rows: the store has another holder".into(),
            ));
        }
        if fault != Some(Fault::NotPersisted) {
            change(&mut disk);
        }
        match fault {
            None | Some(Fault::Stall) => Ok(()),
            Some(Fault::CrashAfter) => Err(StoreError(self.process.die())),
            Some(_) => Err(StoreError("writing rows: the disk does not answer".into())),
        }
    }
}

impl Store for SimulatedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|disk| disk.rows.get(key).cloned())
    }

    fn next(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.read(|disk| {
            let row = disk.rows.range(from.to_vec()..to.to_vec()).next();
            row.map(|(key, value)| (key.clone(), value.clone()))
        })
    }

    fn write(&self, rows: Rows) -> Result<(), StoreError> {
        self.change(|disk| {
            for (key, value) in rows {
                match value {
                    Some(value) => disk.rows.insert(key, value),
                    None => disk.rows.remove(&key),
                };
            }
        })
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.change(|disk| disk.rows.clear())
    }
}
