//! Topics of a test's own on a broker, a fleet that is heard there, and what must hold of all that
//! was written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use homeostat::model::{Body, Time};
use homeostat::runtime::{Record, Seed, TimeSource, TopicPartition, partition_of};
use homeostat::stream::Topic;
use homeostat::topology::replay::{Recorded, replay, replay_events};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::broker;
use crate::process::{Home, until};

/// Topics of a test's own.
pub struct Cluster {
    /// Where clients of ours reach the broker.
    pub address: String,
    /// First part of the topics' names.
    pub prefix: String,
    producer: BaseProducer,
}

impl Cluster {
    /// Topics on this broker, made by the program's own command.
    pub fn new(address: &str, name: &str) -> Self {
        let cluster = Cluster {
            address: address.to_owned(),
            prefix: broker::prefix(name),
            // Nothing is sent twice either.
            producer: config(address)
                .set("enable.idempotence", "true")
                .create()
                .unwrap(),
        };
        let home = cluster.home("topics", "");
        home.lines(&["topics", "create"]);
        cluster
    }

    /// A processor's folder, told where the broker is.
    pub fn home(&self, name: &str, more: &str) -> Home {
        self.home_at(&self.address, name, more)
    }

    /// The same, the broker reached elsewhere.
    pub fn home_at(&self, address: &str, name: &str, more: &str) -> Home {
        let prefix = &self.prefix;
        let config = format!(
            "[kafka]\nbrokers = \"{address}\"\ngroup = \"{prefix}group\"\n\
             partitions = {PARTITIONS}\n\
             session_timeout_ms = 6000\ntransaction_timeout_ms = 4000\nflush_records = 50\n\
             [log]\nprefix = \"{prefix}\"\nmin_free_mib = 1\n\
             [loop]\napply_ms = 50\n[plan]\nbudget_percent = 40.0\n{more}"
        );
        Home::new(&format!("{prefix}{name}"), &config)
    }

    /// Sends samples; some to a partition that is not theirs.
    pub fn send(&self, samples: &[Sample]) {
        let name = self.name(Topic::Metrics);
        for sample in samples {
            let own = partition_of(sample.node.as_bytes(), PARTITIONS);
            let record = BaseRecord::to(&name)
                .partition((own + i32::from(sample.lost)) % PARTITIONS)
                .key(&sample.node)
                .payload(&sample.line);
            self.producer
                .send(record)
                .map_err(|(error, _)| error)
                .unwrap();
        }
        self.producer.flush(Duration::from_secs(120)).unwrap();
    }

    /// Sends rounds of the fleet until told to stop, and so many at least; answers how many.
    pub fn load(&self, fleet: &mut Fleet, rounds_min: usize, stop: &AtomicBool) -> Sent {
        let mut sent = Sent::new();
        let mut rounds = 0;
        while rounds < rounds_min || !stop.load(Ordering::SeqCst) {
            let samples = fleet.round();
            self.send(&samples);
            sent.extend(samples.into_iter().map(|sample| (sample.node, sample.seq)));
            rounds += 1;
            std::thread::park_timeout(ROUND);
        }
        sent
    }

    /// Puts a value on a partition as it is.
    pub fn put(&self, to: TopicPartition, key: &[u8], value: &[u8]) {
        let name = self.name(to.topic);
        let record = BaseRecord::to(&name)
            .partition(to.partition)
            .key(key)
            .payload(value);
        self.producer
            .send(record)
            .map_err(|(error, _)| error)
            .unwrap();
        self.producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// A topic's name.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// All committed records of a partition, read with nothing of ours but the decoder.
    pub fn records(&self, of: TopicPartition) -> Vec<Record> {
        let consumer: BaseConsumer = config(&self.address)
            .set("group.id", "reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name(of.topic), of.partition, Offset::Beginning)
            .unwrap();
        consumer.assign(&list).unwrap();
        let deadline = Instant::now() + LIMIT;
        let mut records = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "reading {of} to its end");
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => return records,
                _ => {}
            }
        }
    }

    /// How many events are committed.
    pub fn decided(&self) -> usize {
        let partitions = (0..PARTITIONS).map(|partition| TopicPartition {
            topic: Topic::Events,
            partition,
        });
        partitions.map(|of| self.records(of).len()).sum()
    }

    /// Everything that is committed.
    pub fn recorded(&self) -> Recorded {
        let partitions =
            |topic| (0..PARTITIONS).map(move |partition| TopicPartition { topic, partition });
        Topic::ALL
            .into_iter()
            .flat_map(partitions)
            .map(|of| (of, self.records(of)))
            .collect()
    }

    /// Waits until every record of both inboxes is folded.
    pub fn settle(&self) {
        let group = self.group();
        until(LIMIT, "everything is folded", || {
            // The ends first: while positions are asked for, the loop may write itself more.
            let ends: Vec<_> = inboxes()
                .map(|of| {
                    (
                        of,
                        self.records(of).last().map_or(0, |last| last.offset + 1),
                    )
                })
                .collect();
            let positions = self.positions(&group).unwrap_or_default();
            let reached = ends.into_iter().all(|(of, end)| {
                let position = positions.get(&of);
                position.is_some_and(|next| next.map_or(end == 0, |next| next >= end))
            });
            if !reached {
                std::thread::park_timeout(Duration::from_millis(300));
            }
            reached
        });
    }

    /// One that may ask for the processors' positions, and is no member.
    pub fn group(&self) -> BaseConsumer {
        config(&self.address)
            .set("group.id", format!("{}group", self.prefix))
            .set("isolation.level", "read_committed")
            .create()
            .unwrap()
    }

    /// Where the processors are in every inbox; `None` while the broker does not say.
    pub fn positions(&self, group: &BaseConsumer) -> Option<BTreeMap<TopicPartition, Option<i64>>> {
        let mut asked = TopicPartitionList::new();
        for of in inboxes() {
            asked.add_partition(&self.name(of.topic), of.partition);
        }
        let committed = group.committed_offsets(asked, Duration::from_secs(10));
        let committed = committed.ok()?;
        let next = |offset| match offset {
            Offset::Offset(next) => Some(next),
            _ => None,
        };
        let elements = committed.elements();
        let entries = elements.iter().map(|entry| next(entry.offset()));
        Some(inboxes().zip(entries).collect())
    }

    /// Where every inbox ends, open transactions counted.
    pub fn ends(&self, group: &BaseConsumer) -> BTreeMap<TopicPartition, i64> {
        let end = |of: TopicPartition| {
            let limit = Duration::from_secs(10);
            let marks = group.fetch_watermarks(&self.name(of.topic), of.partition, limit);
            (of, marks.unwrap().1)
        };
        inboxes().map(end).collect()
    }

    /// What must hold after everything: nothing lost, nothing twice, decided as from the inboxes
    /// alone, in a straight line.
    pub fn ensure_right(&self, sent: &Sent, home: &Home) {
        self.ensure_right_in(&self.recorded(), sent);
        let replayed = home.ask(&["replay", "--json"]);
        let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&replayed.stderr))
        });
        assert_eq!(replayed["differences"], 0, "{replayed}");
    }

    /// The same of records that were read already, but for what `replay` says.
    pub fn ensure_right_in(&self, recorded: &Recorded, sent: &Sent) {
        let all = |topic| {
            let of = recorded.iter().filter(move |(of, _)| of.topic == topic);
            of.flat_map(|(_, records)| records)
        };
        let mut heard = Sent::new();
        for (of, records) in recorded.iter().filter(|(of, _)| of.topic == Topic::Metrics) {
            for name in records.iter().filter_map(|record| name_of(&record.value)) {
                let own = partition_of(name.0.as_bytes(), PARTITIONS) == of.partition;
                assert!(!own || heard.insert(name.clone()), "twice: {name:?}");
            }
        }
        let lost: Vec<_> = sent.difference(&heard).collect();
        assert!(lost.is_empty(), "not in their nodes' partitions: {lost:?}");
        assert_eq!(
            all(Topic::DeadLetters).count(),
            0,
            "nothing is a dead letter"
        );

        let report = replay(recorded, &self.prefix, TimeSource::Log);
        assert_eq!(report.differences, 0, "{:#?}", report.first_difference);
        assert!(
            report.decisions > 50,
            "{} decisions tell little",
            report.decisions
        );
        let mut ids = BTreeSet::new();
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        let mut issued = BTreeSet::new();
        for partition in 0..PARTITIONS {
            let of = TopicPartition {
                topic: Topic::Events,
                partition,
            };
            let values: Vec<_> = recorded[&of].iter().map(|r| r.value.clone()).collect();
            let report = replay_events(partition, &values);
            assert_eq!(report.differences, 0, "{:#?}", report.first_difference);
            for value in values {
                let event = homeostat::wire::decode_event(&value).unwrap();
                assert!(
                    ids.insert((partition, event.mesh.clone(), event.seq)),
                    "twice: {event:?}"
                );
                let mut kind = event.body.name().to_owned();
                match event.body {
                    Body::DirectiveIssued { directive } => {
                        assert!(issued.insert(directive.id.clone()), "twice: {directive:?}");
                    }
                    Body::DirectiveWithheld { reason, .. } => kind += reason.name(),
                    _ => {}
                }
                *told.entry(kind).or_default() += 1;
            }
        }
        let mut ordered = BTreeSet::new();
        for record in all(Topic::Directives) {
            let directive: Value = serde_json::from_slice(&record.value).unwrap_or_else(|_| {
                let directive = homeostat::wire::decode_directive(&record.value).unwrap();
                serde_json::json!({ "id": directive.id })
            });
            let id = directive["id"].as_str().unwrap().to_owned();
            assert!(ordered.insert(id), "ordered twice: {directive}");
        }
        assert_eq!(ordered, issued, "orders are the events' projection");
        assert!(issued.len() > 3, "so few orders tell little: {told:?}");
    }
}

/// A client's settings.
pub fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}

/// Every partition of both inboxes.
fn inboxes() -> impl Iterator<Item = TopicPartition> {
    let partitions =
        |topic| (0..PARTITIONS).map(move |partition| TopicPartition { topic, partition });
    [Topic::Metrics, Topic::PlanInbox]
        .into_iter()
        .flat_map(partitions)
}

fn record(message: &impl Message) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let of = |header: Header<'_, &[u8]>| {
            let value = header.value.unwrap_or_default();
            (header.key.to_owned(), value.to_vec())
        };
        headers.iter().map(of).collect()
    });
    Record {
        offset: message.offset(),
        time: Time(message.timestamp().to_millis().unwrap()),
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().unwrap_or_default().to_vec(),
        headers,
    }
}

/// Node and seq of each sample.
pub type Sent = BTreeSet<(String, i64)>;

fn name_of(value: &[u8]) -> Option<(String, i64)> {
    let value: Value = serde_json::from_slice(value).ok()?;
    Some((
        value["node_id"].as_str()?.to_owned(),
        value["seq"].as_i64()?,
    ))
}

/// Ends a load with the scope that holds it, a failed one too.
pub struct Enough<'a>(pub &'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A reading of a node.
pub struct Sample {
    pub node: String,
    pub seq: i64,
    pub line: String,
    /// It is sent to a partition that is not its node's.
    pub lost: bool,
}

/// A fleet, a part of it ill at a time, by a seed.
pub struct Fleet {
    seed: Seed,
    round: i64,
    ill_until: [i64; NODES],
}

impl Fleet {
    pub fn new(seed: u64) -> Self {
        Fleet {
            seed: Seed(seed),
            round: 0,
            ill_until: [0; NODES],
        }
    }

    /// A fleet of which one node is ill from the beginning on.
    pub fn ill(seed: u64) -> Self {
        let mut fleet = Fleet::new(seed);
        fleet.ill_until[0] = i64::MAX;
        fleet
    }

    /// One reading of each node.
    pub fn round(&mut self) -> Vec<Sample> {
        self.round += 1;
        let (round, seed) = (self.round, &mut self.seed);
        let sample = |(node, ill_until): (usize, &mut i64)| {
            if round > 20 && seed.one_in(1500) {
                *ill_until = round + 150 + seed.below(100) as i64;
            }
            let ill = round < *ill_until;
            let (latency, loss) = if ill { (640.0, 15.0) } else { (40.0, 0.2) };
            let time = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_millis();
            let line = format!(
                "{{\"mesh_id\":\"mesh-{}\",\"node_id\":\"node-{node}\",\"boot\":1,\"seq\":{round},\
                 \"time\":{time},\"interval_s\":10,\"cpu_percent\":{},\"memory_percent\":50,\
                 \"mesh_connectivity\":6,\"latency_ms\":{},\"packet_loss\":{loss}}}",
                node % 2,
                seed.between(20.0, 70.0),
                latency + seed.between(0.0, 30.0),
            );
            Sample {
                node: format!("node-{node}"),
                seq: round,
                line,
                lost: seed.one_in(MISPLACED),
            }
        };
        self.ill_until.iter_mut().enumerate().map(sample).collect()
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    let seed = std::env::var("HOMEOSTAT_SEED").map_or(4, |text| text.parse().unwrap());
    println!("HOMEOSTAT_SEED={seed}");
    seed
}

/// Partitions of every topic.
pub const PARTITIONS: i32 = 3;

const NODES: usize = 24;

/// One sample in so many lies on a partition that is not its node's.
const MISPLACED: u64 = 17;

/// Between two readings of a node.
const ROUND: Duration = Duration::from_millis(200);

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
