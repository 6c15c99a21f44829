//! What every back end of the `Log` port must do. The suite is generic over a [`Harness`]; a back
//! end conforms when `conforms` returns. [`stores`] is the same for the `Stores` port.

use std::rc::Rc;

#[cfg(feature = "io")]
mod broker;

use homeostat::model::{Span, Time};
use homeostat::runtime::simulated::{Settings, Simulated};
use homeostat::runtime::{
    CommitError, Log, LogError, Outgoing, Polled, Position, Record, Store, Stores, TimeSource,
    TopicPartition,
};
use homeostat::stream::{Topic, WINDOWS};

/// How the suite gets at a back end. Every call of [`Harness::fresh`] begins with empty topics; the
/// group consumes `metrics`.
trait Harness {
    /// Partitions of every topic: one or two.
    fn partitions(&self) -> i32;

    /// Whether several workers share the partitions; else a newer one fences an older.
    fn shares(&self) -> bool;

    /// Empties everything.
    fn fresh(&mut self);

    /// Connects a worker of this name; an older one of the same name is fenced.
    fn connect(&mut self, worker: &str) -> Box<dyn Log>;

    /// Appends a record from outside.
    fn append(&mut self, to: TopicPartition, value: &[u8]);
}

struct InMemory(Simulated);

impl InMemory {
    fn new() -> Self {
        InMemory(Simulated::new(Settings {
            partitions: 2,
            inboxes: vec![Topic::Metrics],
            time_source: TimeSource::Log,
            brokers: 2,
            now: Time(1_000_000),
            delivery: None,
        }))
    }
}

impl Harness for InMemory {
    fn partitions(&self) -> i32 {
        2
    }

    fn shares(&self) -> bool {
        true
    }

    fn fresh(&mut self) {
        *self = InMemory::new();
    }

    fn connect(&mut self, worker: &str) -> Box<dyn Log> {
        self.0.connect(worker).0
    }

    fn append(&mut self, to: TopicPartition, value: &[u8]) {
        self.0.append_to(to, b"k", value, Time(0));
    }
}

#[test]
fn the_simulated_log_conforms() {
    conforms(&mut InMemory::new());
}

#[cfg(feature = "io")]
mod embedded {
    use std::path::PathBuf;

    use homeostat::config::settings::{Fsync, LogSettings};
    use homeostat::embedded::{Embedded, Incoming};

    use super::*;

    /// A folder that is begun anew for every rule, and closed before a worker connects again, as a
    /// process that ends and starts.
    pub struct OnDisk {
        dir: PathBuf,
        fsync: Fsync,
        log: Option<Embedded>,
    }

    impl OnDisk {
        pub fn new(name: &str, fsync: Fsync) -> Self {
            let dir = format!("homeostat-conformance-{name}-{}", std::process::id());
            OnDisk {
                dir: std::env::temp_dir().join(dir),
                fsync,
                log: None,
            }
        }

        fn log(&mut self) -> &Embedded {
            let settings = LogSettings {
                dir: self.dir.clone(),
                fsync: self.fsync,
                min_free_mib: 0,
                ..LogSettings::default()
            };
            let open = || Embedded::open(&settings, TimeSource::Log).unwrap();
            self.log.get_or_insert_with(open)
        }
    }

    impl Drop for OnDisk {
        fn drop(&mut self) {
            self.log = None;
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    impl Harness for OnDisk {
        fn partitions(&self) -> i32 {
            1
        }

        fn shares(&self) -> bool {
            false
        }

        fn fresh(&mut self) {
            self.log = None;
            let _ = std::fs::remove_dir_all(&self.dir);
        }

        fn connect(&mut self, _worker: &str) -> Box<dyn Log> {
            self.log().worker(&[Topic::Metrics]).0
        }

        fn append(&mut self, to: TopicPartition, value: &[u8]) {
            let record = Incoming {
                time: Time(0),
                key: b"k".to_vec(),
                value: value.to_vec(),
            };
            self.log().append(to.topic, vec![record]).unwrap();
        }
    }

    impl stores::Harness for OnDisk {
        fn fresh(&mut self) {
            Harness::fresh(self);
        }

        fn connect(&mut self) -> Rc<dyn Stores> {
            self.log().worker(&[Topic::Metrics]).1
        }

        fn restart(&mut self) {
            self.log = None;
        }
    }

    #[test]
    fn the_embedded_stores_conform() {
        stores::conform(&mut OnDisk::new("rows", Fsync::Group));
    }

    #[test]
    fn the_embedded_log_conforms() {
        conforms(&mut OnDisk::new("group", Fsync::Group));
        conforms(&mut OnDisk::new("never", Fsync::Never));
    }
}

#[cfg(feature = "io")]
mod kafka {
    use std::time::Duration;

    use homeostat::config::settings::KafkaSettings;
    use homeostat::kafka::{Client, KafkaLog};
    use homeostat::runtime::OwnFormats;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};

    use super::*;

    /// Topics of their own for every rule.
    pub struct OnBrokers {
        brokers: String,
        prefix: String,
        producer: BaseProducer,
    }

    impl OnBrokers {
        pub fn new(brokers: &str) -> Self {
            OnBrokers {
                brokers: brokers.to_owned(),
                prefix: String::new(),
                producer: base(brokers).create().unwrap(),
            }
        }

        fn client(&self) -> Client {
            let settings = KafkaSettings {
                brokers: self.brokers.clone(),
                group: format!("{}group", self.prefix),
                session_timeout_ms: 3000,
                transaction_timeout_ms: 2500,
                patience_s: 30,
                ..KafkaSettings::default()
            };
            Client::new(&settings, &self.prefix).unwrap()
        }

        /// A stranger's producer that has begun a transaction.
        fn began(&self) -> BaseProducer {
            let producer: BaseProducer = base(&self.brokers)
                .set("transactional.id", &self.prefix)
                .create()
                .unwrap();
            producer.init_transactions(WAIT).unwrap();
            producer.begin_transaction().unwrap();
            producer
        }

        fn name(&self, topic: Topic) -> String {
            format!("{}{}", self.prefix, topic.name())
        }
    }

    fn base(brokers: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        config
    }

    impl Harness for OnBrokers {
        fn partitions(&self) -> i32 {
            2
        }

        fn shares(&self) -> bool {
            true
        }

        fn fresh(&mut self) {
            self.prefix = broker::prefix("conformance");
            let admin: AdminClient<DefaultClientContext> = base(&self.brokers).create().unwrap();
            let names = Topic::ALL.map(|topic| self.name(topic));
            let topics = names.each_ref().map(|name| {
                NewTopic::new(name, 2, TopicReplication::Fixed(1))
                    .set("message.timestamp.type", "LogAppendTime")
            });
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let created = runtime
                .unwrap()
                .block_on(admin.create_topics(&topics, &AdminOptions::new()));
            assert!(created.unwrap().iter().all(Result::is_ok));
        }

        fn connect(&mut self, worker: &str) -> Box<dyn Log> {
            let inboxes = [Topic::Metrics];
            let log = KafkaLog::connect(
                &self.client(),
                worker,
                &inboxes,
                TimeSource::Log,
                Box::new(OwnFormats),
            );
            Box::new(log.unwrap())
        }

        fn append(&mut self, to: TopicPartition, value: &[u8]) {
            let name = self.name(to.topic);
            let record = BaseRecord::to(&name).partition(to.partition);
            self.producer.send(record.key("k").payload(value)).unwrap();
            self.producer.flush(Duration::from_secs(30)).unwrap();
        }
    }

    #[test]
    fn kafka_conforms() {
        let Some(broker) = broker::shared() else {
            return;
        };
        conforms(&mut OnBrokers::new(broker.address()));
    }

    #[test]
    fn what_was_aborted_never_comes() {
        let Some(broker) = broker::shared() else {
            return;
        };
        let mut harness = OnBrokers::new(broker.address());
        harness.fresh();
        let producer = harness.began();
        let name = harness.name(Topic::Metrics);
        let record = BaseRecord::to(&name).partition(0);
        producer.send(record.key("k").payload("aborted")).unwrap();
        producer.flush(WAIT).unwrap();
        producer.abort_transaction(WAIT).unwrap();
        harness.append(inbox(0), b"kept");

        let mut log = joined(&mut harness, "w");
        log.go_on(inbox(0), 0).unwrap();
        let (polled, _) = poll(&mut *log, |all| !all.records.is_empty());
        assert_eq!(values(&polled.records), ["kept"]);
        let read = read_all(&mut *log, inbox(0));
        assert_eq!(read, [polled.records[0].1.clone()]);
    }

    #[test]
    fn a_position_waits_for_who_may_have_committed_it() {
        let Some(broker) = broker::shared() else {
            return;
        };
        let mut harness = OnBrokers::new(broker.address());
        harness.fresh();
        let producer = harness.began();
        let group = format!("{}group", harness.prefix);
        let member: BaseConsumer = base(&harness.brokers)
            .set("group.id", group)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let name = harness.name(Topic::Metrics);
        let mut entry = list.add_partition(&name, 0);
        entry.set_offset(Offset::Offset(7)).unwrap();
        entry.set_metadata("70,-3");
        let group = member.group_metadata().unwrap();
        producer
            .send_offsets_to_transaction(&list, &group, WAIT)
            .unwrap();

        let mut log = harness.connect("w");
        let asked = log.position(inbox(0));
        assert_eq!(asked, Err(LogError::Undecided(inbox(0))));
        producer.commit_transaction(WAIT).unwrap();
        let mut decided = log.position(inbox(0));
        for _ in 0..POLLS_MAX {
            if decided.is_ok() {
                break;
            }
            decided = log.position(inbox(0));
        }
        assert_eq!(decided, Ok(Some(at(7))));
    }

    const WAIT: Duration = Duration::from_secs(30);
}

impl stores::Harness for InMemory {
    fn fresh(&mut self) {
        *self = InMemory::new();
    }

    fn connect(&mut self) -> Rc<dyn Stores> {
        self.0.connect("w").1
    }

    fn restart(&mut self) {}
}

#[test]
fn the_simulated_stores_conform() {
    stores::conform(&mut InMemory::new());
}

/// Folders of tasks, on Kafka.
#[cfg(feature = "io")]
mod rows {
    use std::path::PathBuf;

    use homeostat::config::settings::LogSettings;
    use homeostat::rows::Stages;

    use super::*;

    struct Folders {
        dir: PathBuf,
        stages: Option<Stages>,
    }

    impl Drop for Folders {
        fn drop(&mut self) {
            stores::Harness::fresh(self);
        }
    }

    impl stores::Harness for Folders {
        fn fresh(&mut self) {
            self.stages = None;
            let _ = std::fs::remove_dir_all(&self.dir);
        }

        fn connect(&mut self) -> Rc<dyn Stores> {
            let settings = LogSettings {
                dir: self.dir.clone(),
                ..LogSettings::default()
            };
            let open = || Stages::open(&settings, &[], None).unwrap();
            Rc::new(self.stages.get_or_insert_with(open).clone())
        }

        fn restart(&mut self) {
            self.stages = None;
        }
    }

    #[test]
    fn the_folders_of_tasks_conform() {
        let name = format!("homeostat-conformance-tasks-{}", std::process::id());
        stores::conform(&mut Folders {
            dir: std::env::temp_dir().join(name),
            stages: None,
        });
    }
}

/// What every back end of the `Stores` port must do.
mod stores {
    use super::*;

    /// How the suite gets at a back end.
    pub trait Harness {
        /// Empties everything.
        fn fresh(&mut self);

        /// The stores of a new worker of the one name that there is.
        fn connect(&mut self) -> Rc<dyn Stores>;

        /// The process ends, and starts at the next connection. No store is held any more.
        fn restart(&mut self);
    }

    pub fn conform(harness: &mut dyn Harness) {
        for (name, rule) in RULES {
            harness.fresh();
            println!("{name}");
            rule(harness);
        }
    }

    type Rule = fn(&mut dyn Harness);

    const RULES: &[(&str, Rule)] = &[
        ("what was written is read, and deleted is gone", written),
        (
            "rows come in the order of their keys, within bounds",
            ordered,
        ),
        ("tasks share no rows", apart),
        ("closed panes lie in nobody's way", panes),
        ("rows survive an end", kept),
        ("clearing removes every row, and rows may follow", cleared),
        (
            "a store opened anew takes the older one's right to write",
            fenced,
        ),
    ];

    fn put(key: &[u8], value: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        (key.to_vec(), Some(value.to_vec()))
    }

    fn keys(store: &dyn Store, from: &[u8], to: &[u8], max: usize) -> Vec<Vec<u8>> {
        let rows = store.scan(from, to, max).unwrap();
        rows.into_iter().map(|(key, _)| key).collect()
    }

    fn open(harness: &mut dyn Harness) -> Rc<dyn Store> {
        harness.connect().open("analyze", 0).unwrap()
    }

    fn written(harness: &mut dyn Harness) {
        let store = open(harness);
        assert_eq!(store.get(b"a").unwrap(), None);
        store.write(vec![put(b"a", b"1"), put(b"b", b"")]).unwrap();
        assert_eq!(store.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(store.get(b"b").unwrap(), Some(Vec::new()));
        let rows = vec![
            put(b"a", b"2"),
            (b"b".to_vec(), None),
            (b"c".to_vec(), None),
        ];
        store.write(rows).unwrap();
        assert_eq!(store.get(b"a").unwrap(), Some(b"2".to_vec()));
        assert_eq!(store.get(b"b").unwrap(), None);
        // The last word on a key counts.
        store
            .write(vec![
                put(b"a", b"3"),
                (b"a".to_vec(), None),
                put(b"a", b"4"),
            ])
            .unwrap();
        assert_eq!(store.get(b"a").unwrap(), Some(b"4".to_vec()));
    }

    fn ordered(harness: &mut dyn Harness) {
        let store = open(harness);
        let all: [&[u8]; 5] = [&[1], &[1, 0], &[1, 255], &[2], &[0xEF, 255]];
        store
            .write(all.iter().rev().map(|key| put(key, b"v")).collect())
            .unwrap();
        assert_eq!(keys(&*store, &[1], &[0xF0], 9), all);
        assert_eq!(keys(&*store, &[1, 0], &[2], 9), all[1..3]);
        assert_eq!(keys(&*store, &[1], &[0xF0], 2), all[..2]);
        assert_eq!(keys(&*store, &[3], &[4], 9), all[..0]);
        assert_eq!(keys(&*store, &[1], &[0xF0], 0), all[..0]);
        let next = store.next(&[1, 1], &[3]).unwrap();
        assert_eq!(next, Some((vec![1, 255], b"v".to_vec())));
        assert_eq!(store.next(&[2], &[2]).unwrap(), None);
    }

    fn apart(harness: &mut dyn Harness) {
        let stores = harness.connect();
        let [analyze, plan] = ["analyze", "plan"].map(|stage| stores.open(stage, 0).unwrap());
        analyze.write(vec![put(b"a", b"1")]).unwrap();
        plan.write(vec![put(b"a", b"2"), put(b"b", b"3")]).unwrap();
        assert_eq!(analyze.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(keys(&*analyze, &[0], &[0xF0], 9), [b"a"]);
        plan.clear().unwrap();
        assert_eq!(keys(&*analyze, &[0], &[0xF0], 9), [b"a"]);
    }

    fn panes(harness: &mut dyn Harness) {
        let store = open(harness);
        store
            .write(vec![put(&[WINDOWS, 7], b"pane"), put(&[5], b"row")])
            .unwrap();
        assert_eq!(keys(&*store, &[0], &[WINDOWS], 9), [[5]]);
    }

    fn kept(harness: &mut dyn Harness) {
        let rows = || (0..200_u8).map(|n| put(&[n], &[n; 100])).collect();
        open(harness).write(rows()).unwrap();
        open(harness).write(vec![put(&[7], b"new")]).unwrap();
        harness.restart();
        let store = open(harness);
        assert_eq!(store.get(&[7]).unwrap(), Some(b"new".to_vec()));
        assert_eq!(store.get(&[199]).unwrap(), Some(vec![199; 100]));
        assert_eq!(keys(&*store, &[0], &[0xF0], 999).len(), 200);
    }

    fn cleared(harness: &mut dyn Harness) {
        let store = open(harness);
        store.clear().unwrap();
        store
            .write(vec![put(&[0], b"1"), put(&[0xEF; 40], b"2")])
            .unwrap();
        store.clear().unwrap();
        assert_eq!(store.next(&[], &[0xF0]).unwrap(), None);
        store.write(vec![put(&[3], b"3")]).unwrap();
        drop(store);
        harness.restart();
        assert_eq!(keys(&*open(harness), &[], &[0xF0], 9), [[3]]);
    }

    fn fenced(harness: &mut dyn Harness) {
        let old = open(harness);
        old.write(vec![put(&[1], b"old")]).unwrap();
        let new = open(harness);
        assert!(old.write(vec![put(&[1], b"late")]).is_err());
        assert!(old.clear().is_err());
        assert_eq!(new.get(&[1]).unwrap(), Some(b"old".to_vec()));
        new.write(vec![put(&[1], b"new")]).unwrap();
        drop(old);
        new.write(vec![put(&[2], b"new")]).unwrap();
        assert_eq!(new.get(&[1]).unwrap(), Some(b"new".to_vec()));
    }
}

fn conforms(harness: &mut dyn Harness) {
    for (name, rule, of_groups) in RULES {
        if *of_groups && !harness.shares() {
            continue;
        }
        harness.fresh();
        println!("{name}");
        rule(harness);
    }
}

type Rule = fn(&mut dyn Harness);

/// Each with its name, and whether it is about several workers that share the partitions.
const RULES: &[(&str, Rule, bool)] = &[
    (
        "records come in order, once, from where they are asked for",
        in_order,
        false,
    ),
    (
        "no record comes before it is asked for",
        nothing_unasked,
        false,
    ),
    (
        "a commit makes outputs and positions visible together",
        all_together,
        false,
    ),
    ("a commit says where each partition ends", ends, false),
    ("a bounded read ends where it is told", bounded, false),
    ("a position carries its times", times_carried, false),
    (
        "an older worker of the same name cannot commit",
        fenced,
        false,
    ),
    (
        "a second member gets its share after the first let go of it",
        shares,
        true,
    ),
    (
        "what was revoked is told before anything new comes",
        revoked_first,
        true,
    ),
    (
        "who is replaced by another of its name drops everything or ends",
        replaced,
        true,
    ),
    (
        "an append stands at the offset that it is told",
        appended,
        false,
    ),
    (
        "headers, empty keys and empty values survive",
        bytes_survive,
        false,
    ),
];

fn inbox(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: Topic::Metrics,
        partition,
    }
}

fn events(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: Topic::Events,
        partition,
    }
}

fn out(to: TopicPartition, value: &str) -> Outgoing {
    Outgoing {
        to,
        time: Time(5),
        key: b"key".to_vec(),
        value: value.into(),
        headers: vec![("h".into(), vec![0, 255])],
    }
}

fn at(next: i64) -> Position {
    Position {
        next,
        time: Time(next * 10),
        hears_since: Time(-3),
    }
}

/// Polls until something satisfies `enough`, a bounded number of times.
fn poll(log: &mut dyn Log, enough: impl Fn(&Polled) -> bool) -> (Polled, Vec<TopicPartition>) {
    let (mut all, mut revoked) = (Polled::default(), Vec::new());
    for _ in 0..POLLS_MAX {
        let polled = log
            .poll(100, Span(100), &mut |of| revoked.push(of))
            .unwrap();
        all.assigned.extend(polled.assigned);
        all.records.extend(polled.records);
        if enough(&all) {
            return (all, revoked);
        }
    }
    panic!("nothing more came: {all:?}");
}

fn joined(harness: &mut dyn Harness, name: &str) -> Box<dyn Log> {
    let partitions = harness.partitions() as usize;
    let mut log = harness.connect(name);
    poll(&mut *log, |all| all.assigned.len() >= partitions);
    log
}

fn values(records: &[(TopicPartition, Record)]) -> Vec<String> {
    let text = |(_, record): &(_, Record)| String::from_utf8_lossy(&record.value).into_owned();
    records.iter().map(text).collect()
}

/// All committed records of a partition.
fn read_all(log: &mut dyn Log, of: TopicPartition) -> Vec<Record> {
    let (mut next, end) = (log.start(of).unwrap(), log.end(of).unwrap());
    let mut records = Vec::new();
    while next < end {
        let chunk = log.read(of, next, end, 2).unwrap();
        assert!(chunk.next > next, "a read moves on");
        next = chunk.next;
        records.extend(chunk.records);
    }
    records
}

fn in_order(harness: &mut dyn Harness) {
    (0..5).for_each(|n| harness.append(inbox(0), format!("{n}").as_bytes()));
    let mut log = joined(harness, "w");
    log.go_on(inbox(0), 2).unwrap();
    let (polled, _) = poll(&mut *log, |all| all.records.len() >= 3);
    assert_eq!(values(&polled.records), ["2", "3", "4"]);
    let offsets: Vec<i64> = polled.records.iter().map(|(_, r)| r.offset).collect();
    assert_eq!(offsets, [2, 3, 4]);
    log.go_on(inbox(0), 4).unwrap();
    let (polled, _) = poll(&mut *log, |all| !all.records.is_empty());
    assert_eq!(values(&polled.records), ["4"]);
}

fn nothing_unasked(harness: &mut dyn Harness) {
    harness.append(inbox(0), b"0");
    let mut log = joined(harness, "w");
    for _ in 0..3 {
        let polled = log.poll(10, Span(0), &mut |_| {}).unwrap();
        assert_eq!(polled.records, []);
    }
}

fn all_together(harness: &mut dyn Harness) {
    let last = harness.partitions() - 1;
    let mut log = joined(harness, "w");
    assert_eq!(log.position(inbox(last)).unwrap(), None);
    let cycles = TopicPartition {
        topic: Topic::Cycles,
        partition: 0,
    };
    log.commit(
        vec![out(events(last), "a"), out(cycles, "b")],
        &[(inbox(last), at(4))],
    )
    .unwrap();
    assert_eq!(log.position(inbox(last)).unwrap(), Some(at(4)));
    if last > 0 {
        assert_eq!(log.position(inbox(0)).unwrap(), None);
    }
    for (of, value) in [(events(last), b"a"), (cycles, b"b")] {
        let records = read_all(&mut *log, of);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].value, value);
    }
}

fn ends(harness: &mut dyn Harness) {
    let of = events(harness.partitions() - 1);
    let mut log = joined(harness, "w");
    for round in 0..3 {
        let outputs = vec![out(of, "a"), out(of, "b")];
        let ends = log.commit(outputs, &[(inbox(0), at(round))]).unwrap();
        let last = read_all(&mut *log, of).pop().unwrap();
        assert_eq!(ends, [(of, last.offset + 1)]);
    }
}

fn bounded(harness: &mut dyn Harness) {
    let mut log = joined(harness, "w");
    for n in 0..4 {
        let outputs = vec![out(events(0), &n.to_string())];
        log.commit(outputs, &[(inbox(0), at(n))]).unwrap();
    }
    let records = read_all(&mut *log, events(0));
    assert_eq!(records.len(), 4);
    let (from, to) = (records[1].offset, records[3].offset);
    let chunk = log.read(events(0), from, to, 100).unwrap();
    assert_eq!(chunk.records, records[1..3]);
    assert_eq!(chunk.next, to);
    let chunk = log.read(events(0), from, to, 1).unwrap();
    assert_eq!(chunk.records, records[1..2]);
}

fn times_carried(harness: &mut dyn Harness) {
    let mut log = joined(harness, "w");
    let position = Position {
        next: 1 << 40,
        time: Time(1_767_225_600_123),
        hears_since: Time(0),
    };
    log.commit(vec![], &[(inbox(0), position)]).unwrap();
    drop(log);
    let mut log = harness.connect("v");
    assert_eq!(log.position(inbox(0)).unwrap(), Some(position));
}

fn fenced(harness: &mut dyn Harness) {
    let mut old = joined(harness, "w");
    let mut new = harness.connect("w");
    let refused = old.commit(vec![out(events(0), "late")], &[(inbox(0), at(9))]);
    assert!(matches!(refused, Err(CommitError::Fatal(_))), "{refused:?}");
    assert!(matches!(old.reconnect(), Err(LogError::Fenced(_))));
    assert_eq!(read_all(&mut *new, events(0)), []);
    assert_eq!(new.position(inbox(0)).unwrap(), None);
}

fn shares(harness: &mut dyn Harness) {
    let mut first = joined(harness, "a");
    let mut second = harness.connect("b");
    let (mut lost, mut got) = (Vec::new(), Vec::new());
    for _ in 0..POLLS_MAX {
        let polled = second.poll(10, Span(100), &mut |_| {}).unwrap();
        assert!(
            polled.assigned.is_empty() || !lost.is_empty(),
            "not before it was let go"
        );
        got.extend(polled.assigned);
        first.poll(10, Span(100), &mut |of| lost.push(of)).unwrap();
        if !got.is_empty() {
            break;
        }
    }
    assert_eq!(got, lost);
    assert_eq!(got.len(), 1);
}

fn revoked_first(harness: &mut dyn Harness) {
    harness.append(inbox(0), b"0");
    harness.append(inbox(1), b"1");
    let mut first = joined(harness, "a");
    let _second = harness.connect("b").poll(10, Span(100), &mut |_| {});
    for partition in [0, 1] {
        first.go_on(inbox(partition), 0).unwrap();
    }
    let mut lost = Vec::new();
    for _ in 0..POLLS_MAX {
        let polled = first.poll(10, Span(100), &mut |of| lost.push(of)).unwrap();
        assert!(polled.records.iter().all(|(of, _)| !lost.contains(of)));
        if !lost.is_empty() {
            return;
        }
    }
    panic!("nothing was revoked");
}

fn replaced(harness: &mut dyn Harness) {
    let mut old = joined(harness, "w");
    let _new = joined(harness, "w");
    let mut lost = Vec::new();
    for _ in 0..POLLS_MAX {
        match old.poll(10, Span(100), &mut |of| lost.push(of)) {
            Err(LogError::Fenced(_)) => return,
            other => drop(other.unwrap()),
        }
        if lost.len() == harness.partitions() as usize {
            return;
        }
    }
    panic!("it still takes partitions for its own that another has");
}

fn appended(harness: &mut dyn Harness) {
    let mut log = joined(harness, "w");
    log.commit(vec![out(inbox(0), "x")], &[]).unwrap();
    let offset = log.append(out(inbox(0), "tick")).unwrap();
    let records = read_all(&mut *log, inbox(0));
    let last = records.last().unwrap();
    assert_eq!((last.offset, &last.value[..]), (offset, &b"tick"[..]));
}

fn bytes_survive(harness: &mut dyn Harness) {
    let mut log = joined(harness, "w");
    let mut empty = out(events(0), "");
    empty.key.clear();
    let full = out(events(0), "\u{0}\u{1}");
    log.commit(vec![empty.clone(), full.clone()], &[(inbox(0), at(1))])
        .unwrap();
    let records = read_all(&mut *log, events(0));
    for (record, sent) in records.iter().zip([empty, full]) {
        assert_eq!(record.key, sent.key);
        assert_eq!(record.value, sent.value);
        assert_eq!(record.headers, sent.headers);
    }
    assert_eq!(records.len(), 2);
}

/// Polls after which what should have come has not.
const POLLS_MAX: usize = 100;
