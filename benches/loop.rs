//! What the whole loop costs on one machine:
//! `cargo bench --bench loop [-- NODES... | latency | http]`. Prints figures.
//!
//! Samples as Avro bytes are appended to the embedded log (`fsync = "never"`) and go through
//! Monitor, Analyze (panes and cycles), Plan, events and the commits, rows included. 3 % of the
//! nodes are ill for a minute at a time, so that there are changes, incidents and directives. CPU
//! is counted over all threads, RocksDB's too, but for what it takes to make the samples.
//!
//! A restart is one after a kill: another process feeds two samples a node and aborts. What is
//! timed runs from opening the folder to the first new event, caused by a sample appended after
//! that.
//!
//! Latency is from the append of a reading that makes a node ill to its directive being visible,
//! with 40,000 nodes at 1,000 samples/s.

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use homeostat::config::settings::{Fsync, LogSettings, LoopSettings, Settings};
use homeostat::embedded::{Embedded, Incoming};
use homeostat::model::{
    EventTime, LogOpened, MeshId, Metric, Metrics, NodeId, PlanRecord, Reading, Sample, Span, Time,
};
use homeostat::runtime::{Clock, Config, Seed, TimeSource, Worker, only};
use homeostat::stream::Topic;
use homeostat::topology;
use homeostat::{web, wire};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        return die(Path::new(&dir));
    }
    if std::env::args().any(|arg| arg == "latency") {
        latency(Fsync::Never);
        latency(Fsync::Group);
        return;
    }
    if std::env::args().any(|arg| arg == "http") {
        return http(10_000);
    }
    let nodes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let nodes = if nodes.is_empty() {
        vec![1_000, 10_000, 100_000, 1_000_000]
    } else {
        nodes
    };
    println!(
        "nodes      samples/s  CPU us/sample  resident MiB  state B/node  panes B/node  \
         metrics B/sample  restart s"
    );
    for nodes in nodes {
        run(nodes);
    }
}

fn run(nodes: usize) {
    let dir = std::env::temp_dir().join(format!("homeostat-bench-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let settings = settings(&dir, Fsync::Never);
    let log = Embedded::open(&settings, TimeSource::Sample).expect("a folder of its own");
    begin(&log);
    let stop = Arc::new(AtomicBool::new(false));
    let worker = {
        let (log, stop) = (log.clone(), stop.clone());
        std::thread::spawn(move || drive(&log, &stop))
    };
    let mut fleet = Fleet::new(nodes);
    let warm = fleet.feed(&log, (nodes * 2).max(500_000));
    let samples = (nodes * 3).max(4_000_000);
    let (cpu, wall) = (process_cpu(), Instant::now());
    let made = fleet.feed(&log, samples);
    let cpu = (process_cpu() - cpu).saturating_sub(made);
    let wall = wall.elapsed();
    let _ = warm;
    let log_end = log.written_end(Topic::Metrics);
    let sizes = log.sizes();
    let bytes = |name: &str| {
        sizes
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, bytes)| *bytes)
    };
    let (state, panes, metrics) = (bytes("state"), bytes("panes"), bytes("metrics"));
    let resident = resident_mib();
    stop.store(true, Ordering::SeqCst);
    worker.join().expect("the worker ends well");
    drop(log);
    remove(&dir);
    let restart = restart(&settings, nodes);
    println!(
        "{nodes:>9}  {:>9.0}  {:>13.2}  {resident:>12}  {:>12}  {:>12}  {:>16}  {restart:>9.2}",
        samples as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / samples as f64,
        state / nodes as u64,
        panes / nodes as u64,
        metrics / log_end as u64,
    );
    remove(&dir);
}

/// Opens the log, as its first run does.
fn begin(log: &Embedded) {
    let opened = PlanRecord::LogOpened(LogOpened {
        log_id: "bench".to_owned(),
        audit_name: "bench.example/log".to_owned(),
        partitions: 1,
        time_source: "sample".to_owned(),
    });
    let record = Incoming {
        time: Time(1_767_225_600_000),
        key: Vec::new(),
        value: wire::encode_plan(&opened),
    };
    log.append(Topic::PlanInbox, vec![record])
        .expect("there is room");
}

/// Seconds from opening a folder whose holder was killed to the first new event.
fn restart(settings: &LogSettings, nodes: usize) -> f64 {
    let bench = std::env::current_exe().expect("it runs");
    let died = std::process::Command::new(bench)
        .env(VICTIM, &settings.dir)
        .env(VICTIM_NODES, nodes.to_string())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("it starts");
    assert!(!died.success(), "it was to die");
    let mut fleet = Fleet::new(nodes);
    fleet.round = 3;
    let begun = Instant::now();
    let log = Embedded::open(settings, TimeSource::Sample).expect("its holder is dead");
    let mut worker = worker(&log);
    while !worker.turn(Span(0)).expect("it opens").idle {}
    let before = log.written_end(Topic::Events);
    while log.written_end(Topic::Events) == before {
        let ill = (0..10).map(|_| fleet.sample_that_is(true)).collect();
        log.append(Topic::Metrics, ill).expect("there is room");
        worker.turn(Span(0)).expect("the loop goes on");
    }
    begun.elapsed().as_secs_f64()
}

/// Feeds two samples a node and is gone, as if killed.
fn die(dir: &Path) {
    let nodes = std::env::var(VICTIM_NODES).expect("set by who started it");
    let nodes = nodes.parse().expect("a number");
    let settings = settings(dir, Fsync::Never);
    let log = Embedded::open(&settings, TimeSource::Sample).expect("a folder of its own");
    begin(&log);
    let driven = log.clone();
    std::thread::spawn(move || drive(&driven, &AtomicBool::new(false)));
    Fleet::new(nodes).feed(&log, 2 * nodes);
    std::process::abort();
}

fn settings(dir: &Path, fsync: Fsync) -> LogSettings {
    LogSettings {
        dir: dir.to_owned(),
        fsync,
        min_free_mib: 0,
        ..LogSettings::default()
    }
}

/// Prints how long it takes from an ill reading to its directive.
fn latency(fsync: Fsync) {
    let dir = std::env::temp_dir().join(format!("homeostat-bench-{}", std::process::id()));
    remove(&dir);
    let log = Embedded::open(&settings(&dir, fsync), TimeSource::Sample).expect("a folder");
    begin(&log);
    let stop = Arc::new(AtomicBool::new(false));
    let worker = {
        let (log, stop) = (log.clone(), stop.clone());
        std::thread::spawn(move || drive(&log, &stop))
    };
    let mut fleet = Fleet::new(40_000);
    fleet.quiet = true;
    fleet.feed(&log, 120_000);
    let (mut took, mut missed) = (Vec::new(), 0);
    let begun = Instant::now();
    for i in 0..30_000 {
        let due = Duration::from_millis(i);
        std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        // Fewer than the budget allows at a time: others would get none.
        let ill = i % 200 == 199;
        let sample = fleet.sample_that_is(ill);
        let key = [b"alpha/", &sample.key[..]].concat();
        let from = log.visible_end(Topic::Directives);
        let appended = Instant::now();
        log.append(Topic::Metrics, vec![sample])
            .expect("there is room");
        if ill {
            match wait_for_directive(&log, from, &key) {
                true => took.push(appended.elapsed()),
                false => missed += 1,
            }
        }
    }
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "fsync {fsync:?}: {} directives, p50 {:.2} ms, p99 {:.2} ms, {missed} without one",
        took.len(),
        at(0.5),
        at(0.99)
    );
    stop.store(true, Ordering::SeqCst);
    worker.join().expect("the worker ends well");
    drop(log);
    remove(&dir);
}

/// Prints what a sample costs that comes as a JSON line over HTTP, 1,000 in a body: door and loop,
/// without the client.
fn http(nodes: usize) {
    let dir = std::env::temp_dir().join(format!("homeostat-bench-{}", std::process::id()));
    remove(&dir);
    let log = Embedded::open(&settings(&dir, Fsync::Never), TimeSource::Sample).expect("a folder");
    begin(&log);
    let stop = Arc::new(AtomicBool::new(false));
    let worker = {
        let (log, stop) = (log.clone(), stop.clone());
        std::thread::spawn(move || drive(&log, &stop))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut config = Settings::default();
    config.web.listen = "127.0.0.1:0".to_owned();
    let bound = runtime
        .block_on(async { web::bind(&config, &dir) })
        .expect("a free port");
    let address = bound.address;
    let door = Arc::new(web::Door::new(log.clone(), &config, Arc::default()));
    let (closing, closed) = tokio::sync::watch::channel(false);
    let serving = runtime.spawn(web::serve(bound, door, closed));
    let mut client = TcpStream::connect(address).expect("it listens");
    let mut fleet = Fleet::new(nodes);
    let mut send = |samples: usize| {
        let mut made = Duration::ZERO;
        for _ in 0..samples / BATCH {
            let begun = thread_cpu();
            let lines: String = (0..BATCH).map(|_| fleet.line()).collect();
            post(&mut client, &lines);
            made += thread_cpu() - begun;
            wait_for(&log, QUEUE);
        }
        wait_for(&log, 0);
        made
    };
    send(200_000);
    let (cpu, wall) = (process_cpu(), Instant::now());
    let samples = 1_000_000;
    let made = send(samples);
    let cpu = (process_cpu() - cpu).saturating_sub(made);
    println!(
        "JSON lines over HTTP, {nodes} nodes: {:.2} us of CPU a sample, {:.0} samples/s",
        cpu.as_secs_f64() * 1e6 / samples as f64,
        samples as f64 / wall.elapsed().as_secs_f64()
    );
    closing.send_replace(true);
    let served = runtime.block_on(serving).expect("it does not panic");
    served.expect("it ends well");
    stop.store(true, Ordering::SeqCst);
    worker.join().expect("the worker ends well");
    drop(log);
    remove(&dir);
}

/// Posts lines and reads the answer, which must take all of them.
fn post(client: &mut TcpStream, lines: &str) {
    let head = format!(
        "POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: {}\r\n\r\n",
        lines.len()
    );
    client.write_all(head.as_bytes()).expect("it reads");
    client.write_all(lines.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.ends_with(b"\"rejected\":[]}") {
        let read = client.read(&mut piece).expect("it answers");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
}

fn wait_for_directive(log: &Embedded, from: i64, key: &[u8]) -> bool {
    let (begun, mut next) = (Instant::now(), from);
    let mut source = log.source();
    while begun.elapsed() < Duration::from_millis(500) {
        let end = log.visible_end(Topic::Directives);
        if next < end {
            let read = source.read(only(Topic::Directives), next, end, 1000);
            let chunk = read.expect("it is there");
            if chunk.records.iter().any(|record| record.key == key) {
                return true;
            }
            next = chunk.next;
        }
        std::thread::park_timeout(Duration::from_micros(50));
    }
    false
}

fn worker(log: &Embedded) -> Worker {
    let settings = LoopSettings::default();
    let config = Config {
        time_source: TimeSource::Sample,
        flush_records: settings.flush_records,
        flush_gap: Span(0),
        apply_records: 1_000_000,
        ..Config::default()
    };
    let (port, stores) = log.worker(&[Topic::Metrics, Topic::PlanInbox]);
    let clock = Rc::new(Ticking(Instant::now()));
    let stages = topology::stages_keeping(settings.cached_nodes);
    Worker::new(port, stores, clock, stages, config).expect("a log of one partition")
}

fn drive(log: &Embedded, stop: &AtomicBool) {
    let mut worker = worker(log);
    while !stop.load(Ordering::Relaxed) {
        let wait = worker.patience();
        worker.turn(wait).expect("the loop goes on");
    }
    worker.finish().expect("it ends well");
}

struct Ticking(Instant);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }
}

/// Nodes that sample every 10 s, some of them ill for a while.
struct Fleet {
    keys: Vec<NodeId>,
    order: Vec<u32>,
    seed: Seed,
    at: usize,
    round: i64,
    mesh: MeshId,
    /// None falls ill by itself.
    quiet: bool,
}

impl Fleet {
    fn new(nodes: usize) -> Self {
        let mut seed = Seed(618);
        let mut order: Vec<u32> = (0..nodes as u32).collect();
        for i in (1..nodes).rev() {
            order.swap(i, seed.below(i as u64 + 1) as usize);
        }
        let name = |n| NodeId::parse(&format!("node-{n:07}")).expect("a name");
        Fleet {
            keys: (0..nodes).map(name).collect(),
            order,
            seed,
            at: 0,
            round: 0,
            mesh: MeshId::parse("alpha").expect("a name"),
            quiet: false,
        }
    }

    /// Appends so many samples and waits until they are folded and committed; answers the CPU time
    /// that making them took.
    fn feed(&mut self, log: &Embedded, samples: usize) -> Duration {
        let mut made = Duration::ZERO;
        let mut left = samples;
        while left > 0 {
            let begun = thread_cpu();
            let batch: Vec<Incoming> = (0..left.min(BATCH)).map(|_| self.sample()).collect();
            left -= batch.len();
            made += thread_cpu() - begun;
            log.append(Topic::Metrics, batch).expect("there is room");
            wait_for(log, QUEUE);
        }
        wait_for(log, 0);
        made
    }

    fn sample(&mut self) -> Incoming {
        self.sample_that_is(false)
    }

    fn sample_that_is(&mut self, ill: bool) -> Incoming {
        let sample = self.next_sample(ill);
        Incoming {
            time: Time(sample.reading.time.0),
            key: sample.node.as_str().as_bytes().to_vec(),
            value: wire::encode_sample(&sample),
        }
    }

    /// The next sample as a line of JSON.
    fn line(&mut self) -> String {
        let Sample {
            mesh,
            node,
            reading,
            ..
        } = self.next_sample(false);
        let seq = reading.seq.expect("it has one");
        let metric = |metric| reading.metrics.get(metric).expect("it is measured");
        format!(
            "{{\"mesh_id\":\"{mesh}\",\"node_id\":\"{node}\",\"boot\":1,\"seq\":{seq},\"time\":{},\
             \"interval_s\":10,\"cpu_percent\":{:.2},\"memory_percent\":{:.2},\
             \"mesh_connectivity\":8,\"latency_ms\":{:.2},\"packet_loss\":{:.2}}}\n",
            reading.time.0,
            metric(Metric::CpuPercent),
            metric(Metric::MemoryPercent),
            metric(Metric::LatencyMs),
            metric(Metric::PacketLoss)
        )
    }

    fn next_sample(&mut self, ill: bool) -> Sample {
        if self.at == self.order.len() {
            self.at = 0;
            self.round += 1;
        }
        let node = self.order[self.at] as usize;
        let within = self.at as i64 * 10_000 / self.order.len() as i64;
        self.at += 1;
        let time = EventTime(1_767_225_600_000 + self.round * 10_000 + within);
        let ill = ill || !self.quiet && (node as i64 + self.round / 6) % 33 == 0;
        Sample {
            mesh: self.mesh.clone(),
            node: self.keys[node].clone(),
            reading: Reading {
                boot: 1,
                seq: Some(self.round + 1),
                time,
                interval_s: Some(10.0),
                metrics: metrics(&mut self.seed, ill),
            },
            neighbours: Vec::new(),
        }
    }
}

fn metrics(seed: &mut Seed, ill: bool) -> Metrics {
    let mut metrics = Metrics::default();
    let (latency, loss) = if ill { (520.0, 12.0) } else { (40.0, 0.1) };
    for (metric, from, to) in [
        (Metric::CpuPercent, 20.0, 70.0),
        (Metric::MemoryPercent, 30.0, 75.0),
        (Metric::LatencyMs, latency, latency + 40.0),
        (Metric::PacketLoss, loss, loss + 1.0),
    ] {
        assert!(metrics.try_set(metric, seed.between(from, to)));
    }
    assert!(metrics.try_set(Metric::MeshConnectivity, 8.0));
    metrics
}

/// Waits until at most so many records are not yet folded.
fn wait_for(log: &Embedded, behind: i64) {
    while log.written_end(Topic::Metrics) - log.position(Topic::Metrics).map_or(0, |p| p.next)
        > behind
    {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn remove(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
}

/// Names the folder to a process that is to die in it.
const VICTIM: &str = "HOMEOSTAT_BENCH_DIR";

/// Tells it how many nodes to feed.
const VICTIM_NODES: &str = "HOMEOSTAT_BENCH_NODES";

/// Samples in an append, as a collector sends them.
const BATCH: usize = 1000;

/// Records that may wait for the loop.
const QUEUE: i64 = 100_000;
