//! What the loop costs on Kafka, a broker of its own on the same machine beside it:
//! `cargo bench --bench kafka [-- NODES... | latency | restart | soak] [streams] [KEY=VALUE...]`.
//! Prints figures; needs Java 17 and Maven.
//!
//! By nodes (default 10,000): a seeded fleet's samples as Avro are written to `metrics`; then the
//! topic is read by librdkafka alone, by both stages, and by `--stages analyze`. With `streams` by
//! Kafka Streams too, which does our Analyze job without panes (`benches/kafka-streams`). Of each
//! the second half is measured, when all is warm; the broker's CPU stands beside it.
//!
//! `latency`: from producing a reading that makes a node ill to its directive being visible to who
//! reads committed records, at 1,000 samples/s.
//!
//! `restart`: of a processor that is killed while it works; its rows are there. From the start of
//! the next to its first new event, by the number of nodes given.
//!
//! `soak`: 10,000 samples/s for half an hour; what the processor holds in memory, a line a minute.
//!
//! `KEY=VALUE` are settings to try: librdkafka's, or of `[loop]` and `[kafka]`.

#![expect(clippy::print_stdout, reason = "it prints figures")]

mod broker;
mod figures;
mod fleet;
mod processor;
mod streams;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use homeostat::kafka::{self, Client, topics};
use homeostat::model::LogOpened;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use broker::Broker;
use figures::Mark;
use fleet::{EVERY_MS, Fleet};
use processor::{Processor, Told};

/// As in `main.rs`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    if let Some(told) = processor::child() {
        return processor::live(&told);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let set = args.iter().filter_map(|arg| arg.split_once('='));
    let set = set.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut nodes: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    if nodes.is_empty() {
        nodes.push(10_000);
    }
    let dir = std::env::temp_dir().join(format!("homeostat-bench-{}", std::process::id()));
    let mut bench = Bench {
        broker: Broker::start(&dir.join("broker")),
        dir: dir.clone(),
        set: set.collect(),
    };
    match () {
        () if has("latency") => bench.latency(10_000),
        () if has("soak") => nodes.iter().for_each(|nodes| bench.soak(*nodes)),
        () if has("restart") => nodes.iter().for_each(|nodes| bench.restart(*nodes)),
        () => nodes
            .iter()
            .for_each(|nodes| bench.throughput(*nodes, has("streams"))),
    }
    drop(bench);
    let _ = std::fs::remove_dir_all(dir);
}

struct Bench {
    broker: Broker,
    dir: PathBuf,
    set: Vec<(String, String)>,
}

impl Bench {
    fn throughput(&mut self, nodes: usize, streams: bool) {
        let told = self.told(&format!("n{nodes}."), "analyze,plan");
        let partitions = self.make_topics(&told);
        println!("{nodes} nodes, {partitions} partitions, {EVENTS} samples; the second half:");
        let sweeps = (EVENTS / nodes as u64).max(1) as i64;
        let mut fleet = Fleet::new(nodes, FAULT_RATE, now_ms() - sweeps * EVERY_MS);
        let topic = format!("{}metrics", told.prefix);
        self.produce(&topic, &mut fleet, EVENTS);
        drop(fleet);
        println!("{:<24}{}", "librdkafka reads", self.read(&topic));
        for stages in ["analyze,plan", "analyze"] {
            let before = self.left(&told);
            let mut told = told.clone();
            told.stages = stages.to_owned();
            told.group = format!("bench-{stages}");
            told.dir = self.dir.join(&told.prefix).join(stages);
            told.stop_after = EVENTS;
            let mut processor = Processor::start(&told);
            let figures = processor.wait_for("figures");
            processor.end();
            let _ = std::fs::remove_dir_all(&told.dir);
            println!("{:<24}{figures}", format!("--stages {stages}"));
            let left = self.left(&told);
            let left = left.iter().zip(before);
            let left: Vec<u64> = left.map(|(now, before)| now - before).collect();
            println!(
                "{:<24}to plan-inbox {}, cycles {}, events {}, directives {}",
                "", left[0], left[1], left[2], left[3]
            );
        }
        if streams {
            let dir = self.dir.join("streams");
            let figures = streams::run(&dir, &self.broker, &topic, EVENTS);
            println!("{:<24}{figures}", "Kafka Streams, no panes");
        }
    }

    fn latency(&mut self, nodes: usize) {
        let told = self.told("latency.", "analyze,plan");
        self.make_topics(&told);
        let topic = format!("{}metrics", told.prefix);
        let sweeps = 3;
        let mut fleet = Fleet::new(nodes, 0.0, now_ms() - sweeps * EVERY_MS);
        let warm = sweeps as u64 * nodes as u64;
        self.produce(&topic, &mut fleet, warm);
        let mut processor = Processor::start(&told);
        while processor.wait_for("idle").parse::<u64>().expect("a number") < warm {}
        let directives = self.reader(&format!("{}directives", told.prefix), Offset::End);
        let stop = AtomicBool::new(false);
        let (sent, seen) = std::thread::scope(|scope| {
            let following = scope.spawn(|| follow(&directives, &stop));
            let sent = self.feed_ill(&topic, &mut fleet);
            std::thread::park_timeout(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
            (sent, following.join().expect("it follows"))
        });
        processor.kill();
        let took = sent.iter().filter_map(|(node, sent)| {
            let of = seen.iter().find(|(key, _)| key.ends_with(node));
            Some(of?.1.duration_since(*sent))
        });
        let mut took: Vec<Duration> = took.collect();
        took.sort();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "sample to directive at 1,000 samples/s, {nodes} nodes: p50 {:.1} ms, p99 {:.1} ms; of \
             {} ill readings {} without one",
            at(0.5),
            at(0.99),
            sent.len(),
            sent.len() - took.len()
        );
    }

    /// Writes 1,000 samples a second, some of them ill; answers those, but for the first while.
    fn feed_ill(&self, topic: &str, fleet: &mut Fleet) -> Vec<(String, Instant)> {
        let mut config = self.config();
        config.set("linger.ms", "0");
        config.set("partitioner", "murmur2_random");
        let producer: BaseProducer = config.create().expect("a producer");
        let (begun, mut sent, mut sample) = (Instant::now(), Vec::new(), Vec::new());
        for i in 0..LATENCY_SAMPLES {
            let due = Duration::from_millis(i);
            while begun.elapsed() < due {
                producer.poll(Duration::ZERO);
                std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
            }
            // Never twice the same node, and fewer at a time than the budget allows.
            let ill = i % 199 == 198;
            let node = fleet.next(&mut sample, Some(now_ms()), ill).to_owned();
            let at = Instant::now();
            send(&producer, topic, &node, &sample);
            if ill && i >= LATENCY_SAMPLES / 4 {
                sent.push((node, at));
            }
        }
        producer.flush(PATIENCE).expect("all are answered");
        sent
    }

    fn restart(&mut self, nodes: usize) {
        let told = self.told(&format!("restart{nodes}."), "analyze,plan");
        let partitions = self.make_topics(&told);
        let topic = format!("{}metrics", told.prefix);
        let mut fleet = Fleet::new(nodes, FAULT_RATE, now_ms() - 4 * EVERY_MS);
        self.produce(&topic, &mut fleet, 2 * nodes as u64);
        let mut first = Processor::start(&told);
        while first.wait_for("idle").parse::<u64>().expect("a number") < 2 * nodes as u64 {}
        let more = (2 * nodes).max(200_000) as u64;
        let events = format!("{}events", told.prefix);
        std::thread::scope(|scope| {
            scope.spawn(|| self.produce(&topic, &mut fleet, more));
            // Under load for a while: rows and commits are on their way.
            std::thread::park_timeout(Duration::from_secs(3));
            first.kill();
            let follower = self.reader(&events, Offset::End);
            // Only asked for, a position is none yet.
            let nothing = follower.poll(Duration::from_millis(500));
            assert!(nothing.is_none(), "nobody decides while it is dead");
            let begun = Instant::now();
            let mut next = Processor::start(&told);
            let decided = follower.poll(PATIENCE).expect("a decision").is_ok();
            assert!(decided, "events can be read");
            let took = begun.elapsed().as_secs_f64();
            let joined = next.wait_for("assigned").parse::<f64>();
            println!(
                "restart after kill -9 at work, {nodes} nodes, {partitions} partitions: first new \
                 event after {took:.2} s, of them {:.2} s until it had partitions",
                joined.expect("a number") / 1e3
            );
            next.kill();
        });
    }

    fn soak(&self, nodes: usize) {
        let told = self.told(&format!("soak{nodes}."), "analyze,plan");
        let partitions = self.make_topics(&told);
        let topic = format!("{}metrics", told.prefix);
        println!(
            "{nodes} nodes, {partitions} partitions, {} samples/s:",
            1000 * SOAK_A_MS
        );
        let mut fleet = Fleet::new(nodes, FAULT_RATE, now_ms() - EVERY_MS);
        self.produce(&topic, &mut fleet, nodes as u64);
        let mut processor = Processor::start(&told);
        while processor.wait_for("idle").parse::<u64>().expect("a number") < nodes as u64 {}
        let mut config = self.config();
        config.set("partitioner", "murmur2_random");
        let producer: BaseProducer = config.create().expect("a producer");
        let (begun, mut sample) = (Instant::now(), Vec::new());
        for minute in 0..=SOAK_MINUTES {
            println!(
                "after {minute:>2} min  resident {} MiB",
                processor.resident_mib()
            );
            for i in 60_000 * minute..60_000 * (minute + 1) {
                let due = Duration::from_millis(i);
                while begun.elapsed() < due {
                    producer.poll(Duration::ZERO);
                    std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
                }
                for _ in 0..SOAK_A_MS {
                    let node = fleet.next(&mut sample, Some(now_ms()), false);
                    send(&producer, &topic, node, &sample);
                }
            }
        }
        processor.kill();
    }

    fn told(&self, prefix: &str, stages: &str) -> Told {
        Told {
            brokers: self.broker.address.clone(),
            broker_pid: self.broker.pid,
            prefix: prefix.to_owned(),
            group: "bench".to_owned(),
            dir: self.dir.join(prefix),
            stages: stages.to_owned(),
            stop_after: 0,
            set: self.set.clone(),
        }
    }

    /// Makes the topics and opens the log; answers how many partitions each has.
    fn make_topics(&self, told: &Told) -> i32 {
        let settings = processor::settings(told);
        let client = Client::new(&settings.kafka, &settings.log.prefix).expect("valid settings");
        topics::ensure(&client, &settings).expect("topics");
        let opened = LogOpened {
            log_id: "bench".to_owned(),
            audit_name: "bench.example/log".to_owned(),
            partitions: settings.kafka.partitions,
            time_source: "log".to_owned(),
        };
        kafka::ensure_open(&client, &opened).expect("the log opens");
        settings.kafka.partitions
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.broker.address);
        config
    }

    /// Writes samples as fast as it goes.
    fn produce(&self, topic: &str, fleet: &mut Fleet, samples: u64) {
        let mut config = self.config();
        config
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("batch.size", "262144")
            .set("queue.buffering.max.messages", "500000");
        let producer: BaseProducer = config.create().expect("a producer");
        let mut sample = Vec::new();
        for i in 0..samples {
            let node = fleet.next(&mut sample, None, false);
            send(&producer, topic, node, &sample);
            if i % 1000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(PATIENCE).expect("all are answered");
    }

    /// Reads all of a topic with nothing behind it, as fast as librdkafka goes a record at a time.
    fn read(&self, topic: &str) -> String {
        let consumer = self.reader(topic, Offset::Beginning);
        let (mut half, mut read, mut bytes) = (None, 0, 0);
        while read < EVENTS {
            if half.is_none() && read >= EVENTS / 2 {
                half = Some(Mark::now(read, self.broker.pid));
            }
            if let Ok(message) = consumer.poll(PATIENCE).expect("there is more") {
                bytes += message.payload_len();
                read += 1;
            }
        }
        let half = half.expect("half came before");
        let figures = half.figures(read, self.broker.pid);
        format!("{figures}  {} bytes each", bytes as u64 / read)
    }

    /// How many records the topics hold that a processor writes to.
    fn left(&self, told: &Told) -> [u64; 4] {
        ["plan-inbox", "cycles", "events", "directives"].map(|name| {
            let reader = self.reader(&format!("{}{name}", told.prefix), Offset::Beginning);
            let mut open = reader.assignment().expect("it is assigned").count();
            let mut count = 0;
            while open > 0 {
                match reader.poll(PATIENCE).expect("an end") {
                    Ok(_) => count += 1,
                    Err(KafkaError::PartitionEOF(_)) => open -= 1,
                    Err(error) => panic!("reading {name}: {error}"),
                }
            }
            count
        })
    }

    /// A reader of all partitions of a topic, which says where each ends.
    fn reader(&self, topic: &str, from: Offset) -> BaseConsumer {
        let mut config = self.config();
        config
            .set("group.id", "bench-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set(
                "enable.partition.eof",
                (from == Offset::Beginning).to_string(),
            )
            .set("queued.max.messages.kbytes", "131072")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "1000000");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE);
        let metadata = metadata.expect("an answer");
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(topic, partition.id(), from)
                .expect("an offset");
        }
        consumer.assign(&list).expect("it is new");
        consumer
    }
}

/// The keys of what comes, and when, until told to stop.
fn follow(consumer: &BaseConsumer, stop: &AtomicBool) -> Vec<(String, Instant)> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.expect("it can be read");
            let key = message.key().expect("directives have keys");
            seen.push((String::from_utf8_lossy(key).into_owned(), Instant::now()));
        }
    }
    seen
}

fn send(producer: &BaseProducer, topic: &str, node: &str, sample: &[u8]) {
    let mut record = BaseRecord::to(topic).key(node).payload(sample);
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                producer.poll(Duration::from_millis(10));
                record = unsent;
            }
            Err((error, _)) => panic!("sending: {error}"),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as i64
}

/// Samples of a measurement of throughput.
const EVENTS: u64 = 5_000_000;

/// Chance that a sample begins a fault.
const FAULT_RATE: f64 = 0.002;

/// Samples of a measurement of latency, of which the first quarter warms up.
const LATENCY_SAMPLES: u64 = 60_000;

/// Minutes of a soak.
const SOAK_MINUTES: u64 = 30;

/// Samples a millisecond of a soak.
const SOAK_A_MS: u64 = 10;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
