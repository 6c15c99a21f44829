//! What the whole loop costs on one machine: `cargo bench --bench loop [-- NODES...]`. Prints figures.
//!
//! Samples as Avro bytes are appended to the embedded log (`fsync = "never"`) and go through Monitor,
//! Analyze (panes and cycles), Plan, events and the commits, rows included. 3 % of the nodes are ill
//! for a minute at a time, so that there are changes, incidents and directives. CPU is counted over
//! all threads, RocksDB's too, but for what it takes to make the samples.

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use homeostat::config::settings::{Fsync, LogSettings, LoopSettings};
use homeostat::embedded::{Embedded, Incoming};
use homeostat::model::{
    EventTime, LogOpened, MeshId, Metric, Metrics, NodeId, PlanRecord, Reading, Sample, Span, Time,
};
use homeostat::runtime::{Clock, Config, Seed, TimeSource, Worker};
use homeostat::stream::Topic;
use homeostat::topology;
use homeostat::wire;
use rustix::time::{ClockId, clock_gettime};

fn main() {
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
        "nodes      samples/s  CPU us/sample  resident MiB  state B/node  panes B/node  restart s"
    );
    for nodes in nodes {
        run(nodes);
    }
}

fn run(nodes: usize) {
    let dir = std::env::temp_dir().join(format!("homeostat-bench-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let settings = LogSettings {
        dir: dir.clone(),
        fsync: Fsync::Never,
        min_free_mib: 0,
        ..LogSettings::default()
    };
    let log = Embedded::open(&settings, TimeSource::Sample).expect("a folder of its own");
    begin(&log);
    let stop = Arc::new(AtomicBool::new(false));
    let worker = {
        let (log, stop) = (log.clone(), stop.clone());
        std::thread::spawn(move || drive(&log, &stop))
    };
    let mut fleet = Fleet::new(nodes);
    let warm = fleet.feed(&log, (nodes * 6).max(500_000));
    let samples = (nodes * 6).max(4_000_000);
    let (cpu, wall) = (process_cpu(), Instant::now());
    let made = fleet.feed(&log, samples);
    let cpu = (process_cpu() - cpu).saturating_sub(made);
    let wall = wall.elapsed();
    let _ = warm;
    let sizes = log.sizes();
    let bytes = |name: &str| {
        sizes
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, bytes)| *bytes)
    };
    let (state, panes) = (bytes("state"), bytes("panes"));
    let resident = resident_mib();
    stop.store(true, Ordering::SeqCst);
    worker.join().expect("the worker ends well");
    drop(log);
    let restart = restart(&settings);
    println!(
        "{nodes:>9}  {:>9.0}  {:>13.2}  {resident:>12}  {:>12}  {:>12}  {restart:>9.2}",
        samples as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / samples as f64,
        state / nodes as u64,
        panes / nodes as u64,
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

/// From opening the folder to a task that folds aloud.
fn restart(settings: &LogSettings) -> f64 {
    let begun = Instant::now();
    let log = Embedded::open(settings, TimeSource::Sample).expect("a folder of its own");
    let mut worker = worker(&log);
    while !worker.turn(Span(0)).expect("it opens").idle {}
    begun.elapsed().as_secs_f64()
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
        if self.at == self.order.len() {
            self.at = 0;
            self.round += 1;
        }
        let node = self.order[self.at] as usize;
        self.at += 1;
        let time = EventTime(1_767_225_600_000 + self.round * 10_000 + node as i64 % 10_000);
        let ill = (node as i64 + self.round / 6) % 33 == 0;
        let sample = Sample {
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
        };
        Incoming {
            time: Time(time.0),
            key: sample.node.as_str().as_bytes().to_vec(),
            value: wire::encode_sample(&sample),
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
        std::thread::sleep(Duration::from_millis(1));
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

/// Samples in an append, as a collector sends them.
const BATCH: usize = 1000;

/// Records that may wait for the loop.
const QUEUE: i64 = 100_000;
