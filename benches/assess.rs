//! How fast readings are judged: `cargo bench --bench assess`. Prints figures; one core.
//!
//! 1. In memory over 1,000 and over 1,000,000 nodes in shuffled order, 5 % of them ill: order and
//!    duplicates, all formulas, latches, severity, wish and what is withheld. Goals: 8 M/s and 2
//!    M/s. Over a million nodes the rows (about 700 bytes each) come from main memory; the driver
//!    knows which come next and prefetches them.
//! 2. JSON lines through the command's own loop. Goal: 500,000 lines/s.
//! 3. The loop's stage over 1,000 nodes: 1. and panes, cycles and what Plan is told. No goal.
//! 4. Allocations in steady state, counted. Goal: 0.

#![expect(unsafe_code, reason = "a counting allocator, prefetch")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::io::BufReader;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use homeostat::analyze::{Mind, Rules};
use homeostat::cli::assess::assess;
use homeostat::model::{
    Cause, EventTime, MeshId, Metric, Metrics, NodeId, NodeKey, Policy, Reading, Time, rfc3339,
};
use homeostat::monitor::Intake;
use homeostat::stream::{At, Signal, Stage};
use homeostat::topology::analyze::{AnalyzeStage, Heard, NodeRow};

fn main() {
    println!("row: {} bytes", size_of::<Node>());
    in_memory(1_000, 20_000);
    in_memory(1_000_000, 12);
    json_lines(1_000, 300);
    stage(1_000, 2_000);
}

/// A node as `assess` remembers it, on its own cache lines.
#[derive(Default)]
#[repr(C, align(64))]
struct Node {
    intake: Intake,
    mind: Mind,
}

fn in_memory(nodes: usize, rounds: usize) {
    let rules = Rules::new(&Policy::default().symptoms);
    let mut random = Random(618);
    let mut rows: Vec<Node> = (0..nodes).map(|_| Node::default()).collect();
    let healthy: Vec<Metrics> = (0..997).map(|_| metrics(&mut random, false)).collect();
    let ill: Vec<Metrics> = (0..997).map(|_| metrics(&mut random, true)).collect();
    let mut order: Vec<u32> = (0..nodes as u32).collect();
    for i in (1..nodes).rev() {
        order.swap(i, random.below(i + 1));
    }
    let warm_up = 60.min(rounds.max(52));
    let mut round = |number: usize| {
        let time = EventTime(1_767_225_600_000 + number as i64 * 10_000);
        let mut shown = 0u64;
        for (i, &node) in order.iter().enumerate() {
            if let Some(&soon) = order.get(i + AHEAD) {
                prefetch(&rows[soon as usize]);
            }
            let node = node as usize;
            let kinds = if node.is_multiple_of(20) {
                &ill
            } else {
                &healthy
            };
            let reading = Reading {
                boot: 0,
                seq: None,
                time,
                interval_s: Some(10.0),
                metrics: kinds[(i + number) % kinds.len()],
            };
            let row = &mut rows[node];
            row.intake.accept(&reading).expect("time goes on");
            let verdict = row.mind.read(&rules, &reading);
            shown += u64::from(verdict.standing.wish().interval_s);
            shown += verdict.standing.withheld().count() as u64;
            black_box(&verdict);
        }
        black_box(shown);
    };
    (0..warm_up).for_each(&mut round);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let start = Instant::now();
    (warm_up..warm_up + rounds).for_each(&mut round);
    let seconds = start.elapsed().as_secs_f64();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let count = (nodes * rounds) as f64;
    println!(
        "in memory, {nodes} nodes: {:.2} M/s ({:.0} ns each), {allocations} allocations",
        count / seconds / 1e6,
        seconds / count * 1e9
    );
}

fn stage(nodes: usize, rounds: i64) {
    let stage = AnalyzeStage::new(&Policy::default(), Policy::id(Policy::BUILT_IN));
    let mut random = Random(618);
    let mut rows: Vec<(NodeKey, NodeRow)> = (0..nodes)
        .map(|node| {
            let key = NodeKey {
                mesh: MeshId::parse("alpha").expect("short"),
                node: NodeId::parse(&format!("node-{node}")).expect("short"),
            };
            (key, NodeRow::default())
        })
        .collect();
    let [healthy, ill] = [false, true].map(|ill| {
        let all = (0..997).map(|_| metrics(&mut random, ill));
        all.collect::<Vec<_>>()
    });
    let mut said = 0;
    let start = Instant::now();
    for round in 0..rounds {
        let time = 1_767_225_600_000 + round * 10_000;
        let at = At {
            now: Time(time),
            hears_since: Time(0),
            cause: Cause {
                topic: "metrics".to_owned(),
                partition: 0,
                offset: round,
            },
        };
        for (node, (key, row)) in rows.iter_mut().enumerate() {
            let kinds = if node.is_multiple_of(20) {
                &ill
            } else {
                &healthy
            };
            let heard = Heard::Reading(Reading {
                boot: 0,
                seq: None,
                time: EventTime(time),
                interval_s: Some(10.0),
                metrics: kinds[(node + round as usize) % kinds.len()],
            });
            let step = stage.step(key, row, &at, Signal::Record(heard));
            said += step.emit.len();
            black_box(step);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let count = nodes as f64 * rounds as f64;
    println!(
        "the loop's stage, {nodes} nodes: {:.2} M/s ({:.0} ns each), {:.3} said a reading, \
         row {} bytes",
        count / seconds / 1e6,
        seconds / count * 1e9,
        said as f64 / count,
        size_of::<NodeRow>()
    );
}

fn json_lines(nodes: usize, rounds: usize) {
    let mut random = Random(618);
    let mut input = Vec::new();
    for round in 0..rounds {
        let time = 1_767_225_600_000 + round as i64 * 10_000;
        for node in 0..nodes {
            write_line(
                &mut input,
                node,
                round,
                time,
                &metrics(&mut random, node % 20 == 0),
            );
        }
    }
    let lines = nodes * rounds;
    let run = |input: &[u8]| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut output = Count(0);
        let start = Instant::now();
        assess(
            BufReader::with_capacity(64 * 1024, input),
            &mut output,
            &Policy::default(),
        )
        .expect("memory reads and writes");
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        (start.elapsed().as_secs_f64(), output.0, allocations)
    };
    let half = input
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(lines / 2 - 1)
        .expect("there are that many lines")
        .0;
    let (_, _, of_half) = run(&input[..=half]);
    let (seconds, written, of_all) = run(&input);
    println!(
        "JSON lines: {:.0} K/s ({} bytes in, {} out a line), {} allocations in its second half",
        lines as f64 / seconds / 1e3,
        input.len() / lines,
        written / lines as u64,
        of_all - of_half
    );
}

fn write_line(out: &mut Vec<u8>, node: usize, seq: usize, time: i64, metrics: &Metrics) {
    let time = rfc3339(time);
    let time = std::str::from_utf8(&time).expect("ASCII");
    let line = format!(
        "{{\"mesh_id\":\"alpha\",\"node_id\":\"node-{node}\",\"seq\":{seq},\"time\":\"{time}\""
    );
    out.extend(line.bytes());
    for (metric, value) in metrics.iter() {
        out.extend(format!(",\"{}\":{value}", metric.name()).bytes());
    }
    out.extend(b"}\n");
}

/// A reading of all metrics but the frequency.
fn metrics(random: &mut Random, ill: bool) -> Metrics {
    let mut metrics = Metrics::default();
    let mut set = |metric, value: f64| {
        let value = (value * 100.0).round() / 100.0;
        assert!(metrics.try_set(metric, value), "{metric:?} {value}");
    };
    let spread = |random: &mut Random, from: f64, to: f64| from + (to - from) * random.unit();
    set(Metric::CpuPercent, spread(random, 30.0, 60.0));
    set(Metric::MemoryPercent, spread(random, 40.0, 70.0));
    set(Metric::MeshConnectivity, spread(random, 4.0, 30.0).round());
    let slow = if ill { 600.0 } else { 0.0 };
    set(Metric::LatencyMs, slow + spread(random, 20.0, 110.0));
    let lossy = if ill { 12.0 } else { 0.0 };
    set(Metric::PacketLoss, lossy + spread(random, 0.0, 1.2));
    set(Metric::MttrMinutes, spread(random, 1.0, 6.0));
    set(Metric::ZeroTrustSuccessRate, spread(random, 0.96, 1.0));
    metrics
}

/// A linear congruential generator (Knuth, MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11
    }

    fn unit(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Asks for a row's cache lines.
fn prefetch(row: &Node) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<Node>() / 64 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing; the address lies in the row.
        unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *row).cast::<i8>().add(line * 64)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Counts what is written.
struct Count(u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        black_box(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many rows ahead are prefetched.
const AHEAD: usize = 4;
