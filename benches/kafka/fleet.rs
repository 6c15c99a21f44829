//! A seeded fleet and its samples as Avro: the same load for us and for Kafka Streams.

use homeostat::runtime::Seed;

/// What goes wrong with a node for some samples.
#[derive(Clone, Copy)]
enum Fault {
    Cpu,
    Latency,
    Loss,
    Partition,
}

struct Node {
    id: String,
    mesh: String,
    cpu: f64,
    memory: f64,
    latency: f64,
    peers: i64,
    reports_frequency: bool,
    /// Slow wander.
    drift: f64,
    fault: Option<(Fault, u64)>,
}

/// Nodes in meshes of a thousand, each of which reports once in [`EVERY_MS`] with three neighbours.
pub struct Fleet {
    nodes: Vec<Node>,
    seed: Seed,
    /// Chance that a sample begins a fault of 5 to 24 samples.
    fault_rate: f64,
    /// Time of the first sweep, ms.
    start_ms: i64,
    made: usize,
}

impl Fleet {
    pub fn new(nodes: usize, fault_rate: f64, start_ms: i64) -> Self {
        let mut seed = Seed(1);
        let node = |i: usize| Node {
            id: format!("node-{i:07}"),
            mesh: format!("mesh-{:04}", i / 1000),
            cpu: (45.0 + 10.0 * bell(&mut seed)).clamp(10.0, 75.0),
            memory: (58.0 + 10.0 * bell(&mut seed)).clamp(20.0, 85.0),
            latency: (60.0 + 22.0 * bell(&mut seed)).clamp(8.0, 140.0),
            peers: 4 + seed.below(17) as i64,
            reports_frequency: seed.below(4) == 0,
            drift: 0.0,
            fault: None,
        };
        Fleet {
            nodes: (0..nodes).map(node).collect(),
            seed,
            fault_rate,
            start_ms,
            made: 0,
        }
    }

    /// Writes the next sample over what `out` held; answers its node. `now_ms` in place of the
    /// fleet's own time; one that is `ill` is without doubt.
    pub fn next(&mut self, out: &mut Vec<u8>, now_ms: Option<i64>, ill: bool) -> &str {
        let total = self.nodes.len();
        let (index, sweep) = (self.made % total, (self.made / total) as i64);
        self.made += 1;
        let seed = &mut self.seed;
        let slot = EVERY_MS * index as i64 / total as i64;
        let jitter = seed.below(1000) as i64 - 500;
        let time = now_ms.unwrap_or(self.start_ms + sweep * EVERY_MS + slot + jitter);
        let node = &mut self.nodes[index];
        node.drift = 0.9 * node.drift + 0.4 * bell(seed);
        node.fault = match node.fault {
            Some((fault, left)) if left > 1 => Some((fault, left - 1)),
            None if seed.between(0.0, 1.0) < self.fault_rate => {
                let faults = [Fault::Cpu, Fault::Latency, Fault::Loss, Fault::Partition];
                Some((faults[seed.below(4) as usize], 5 + seed.below(20)))
            }
            _ => None,
        };
        let mut cpu = node.cpu + 5.0 * node.drift + 2.0 * bell(seed);
        let mut memory = node.memory + 2.0 * node.drift;
        let mut latency = node.latency + 6.0 * node.drift + 3.0 * bell(seed);
        let mut loss = (0.15 + 0.1 * bell(seed)).max(0.0);
        let mut peers = node.peers;
        let fault = node.fault.map(|(fault, _)| fault);
        match fault.or(ill.then_some(Fault::Partition)) {
            Some(Fault::Cpu) => {
                cpu = 93.0 + 3.0 * bell(seed);
                memory += 20.0;
            }
            Some(Fault::Latency) => latency = latency * 4.0 + 150.0,
            Some(Fault::Loss) => loss += 4.0 + bell(seed).abs() * 3.0,
            Some(Fault::Partition) => {
                peers = 1;
                loss += 20.0;
                latency = latency * 6.0 + 400.0;
            }
            None => {}
        }
        let mut missing = || seed.below(128) == 0;
        let missing = [missing(), missing(), missing(), missing()].map(|missing| !missing);
        out.clear();
        out.extend(HEADER);
        string(out, &node.mesh);
        string(out, &node.id);
        long(out, 0);
        long(out, sweep);
        long(out, time);
        optional(out, Some(EVERY_MS as f64 / 1000.0));
        optional(out, missing[0].then_some(cpu.clamp(0.0, 100.0)));
        optional(out, missing[1].then_some(memory.clamp(0.0, 100.0)));
        long(out, missing[2].into());
        if missing[2] {
            long(out, peers);
        }
        optional(out, missing[3].then_some(latency.max(0.1)));
        optional(out, Some(loss.clamp(0.0, 100.0)));
        let mttr = (seed.below(8) == 0).then(|| seed.between(2.0, 3.5));
        optional(out, mttr);
        optional(out, Some(seed.between(0.98, 1.0)));
        let wander = 108.0 + 4.0 * node.drift;
        optional(out, node.reports_frequency.then_some(wander));
        let neighbours = NEIGHBOURS.min(total - 1);
        long(out, neighbours as i64);
        for step in 1..=neighbours {
            string(out, &self.nodes[(index + step) % total].id);
            optional(out, Some((latency + 4.0 * bell(seed)).max(0.1)));
            let loss = loss + 0.05 * bell(seed);
            optional(out, Some(loss.clamp(0.0, 100.0)));
        }
        if neighbours > 0 {
            long(out, 0);
        }
        &self.nodes[index].id
    }
}

/// About normal with deviation 1: the sum of four.
fn bell(seed: &mut Seed) -> f64 {
    let bits = seed.draw();
    let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xFFFF).sum();
    (sum as f64 / 65_536.0 - 2.0) * 1.732
}

fn long(out: &mut Vec<u8>, value: i64) {
    let mut z = ((value << 1) ^ (value >> 63)) as u64;
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
}

fn string(out: &mut Vec<u8>, value: &str) {
    long(out, value.len() as i64);
    out.extend(value.as_bytes());
}

fn optional(out: &mut Vec<u8>, value: Option<f64>) {
    long(out, value.is_some().into());
    if let Some(value) = value {
        out.extend(value.to_le_bytes());
    }
}

/// How far apart a node's samples are, ms.
pub const EVERY_MS: i64 = 10_000;

const NEIGHBOURS: usize = 3;

/// Avro's marker and the fingerprint of `schemas/metric-sample.avsc`.
const HEADER: [u8; 10] = [0xC3, 0x01, 0x2A, 0xDB, 0xA1, 0x85, 0xC0, 0x4B, 0x0E, 0xE3];
