//! A node's reading: the eight metrics, and when and by whom they were taken. Finished values are
//! always valid.

use serde::{Deserialize, Serialize};

use super::{EventTime, MeshId, NodeId};

/// The eight metrics, in the order of `MetricSample`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Metric {
    /// `cpu_percent`: CPU use, % 0..=100.
    CpuPercent,
    /// `memory_percent`: memory use, % 0..=100.
    MemoryPercent,
    /// `mesh_connectivity`: active peers, a whole count 0..=4294967295.
    MeshConnectivity,
    /// `latency_ms`: mean latency to peers, ms, at least 0.
    LatencyMs,
    /// `packet_loss`: packet loss to peers, % 0..=100.
    PacketLoss,
    /// `mttr_minutes`: mean time to repair as the mesh reports it, minutes, at least 0.
    MttrMinutes,
    /// `zero_trust_success_rate`: identity validations that succeeded, ratio 0..=1.
    ZeroTrustSuccessRate,
    /// `frequency_hz`: heartbeat frequency, Hz, above 0.
    FrequencyHz,
}

impl Metric {
    /// All eight, in order.
    pub const ALL: [Metric; 8] = [
        Metric::CpuPercent,
        Metric::MemoryPercent,
        Metric::MeshConnectivity,
        Metric::LatencyMs,
        Metric::PacketLoss,
        Metric::MttrMinutes,
        Metric::ZeroTrustSuccessRate,
        Metric::FrequencyHz,
    ];

    /// The field's name in a sample.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::CpuPercent => "cpu_percent",
            Metric::MemoryPercent => "memory_percent",
            Metric::MeshConnectivity => "mesh_connectivity",
            Metric::LatencyMs => "latency_ms",
            Metric::PacketLoss => "packet_loss",
            Metric::MttrMinutes => "mttr_minutes",
            Metric::ZeroTrustSuccessRate => "zero_trust_success_rate",
            Metric::FrequencyHz => "frequency_hz",
        }
    }

    /// Whether `value` lies in this metric's range (so it is finite, too).
    pub fn admits(self, value: f64) -> bool {
        match self {
            Metric::CpuPercent | Metric::MemoryPercent | Metric::PacketLoss => {
                (0.0..=100.0).contains(&value)
            }
            Metric::MeshConnectivity => {
                (0.0..=4_294_967_295.0).contains(&value) && value == value.trunc()
            }
            Metric::LatencyMs | Metric::MttrMinutes => value >= 0.0 && value.is_finite(),
            Metric::ZeroTrustSuccessRate => (0.0..=1.0).contains(&value),
            Metric::FrequencyHz => value > 0.0 && value.is_finite(),
        }
    }
}

/// The metrics of one reading; a missing one is missing, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    present: u8,
    #[serde(with = "super::packed::eight")]
    values: [f64; 8],
}

impl Metrics {
    /// The value of a metric, if it was measured.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.has(metric).then_some(self.values[metric as usize])
    }

    /// Whether a metric was measured.
    pub fn has(&self, metric: Metric) -> bool {
        self.present & (1 << metric as u8) != 0
    }

    /// How many of the eight were measured.
    pub fn count(&self) -> u32 {
        self.present.count_ones()
    }

    /// Bit `metric as u8` is set when that metric was measured.
    pub fn mask(&self) -> u8 {
        self.present
    }

    /// Sets a metric; `false`, and nothing changes, when the value is out of its range. -0.0
    /// becomes 0.0.
    #[must_use]
    pub fn try_set(&mut self, metric: Metric, value: f64) -> bool {
        let ok = metric.admits(value);
        if ok {
            self.present |= 1 << metric as u8;
            self.values[metric as usize] = value + 0.0;
        }
        ok
    }

    /// The metrics that were measured, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, f64)> + '_ {
        Metric::ALL
            .into_iter()
            .filter_map(|m| Some((m, self.get(m)?)))
    }
}

/// One reading of one node without its names: all that Analyze's arithmetic needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// When the agent started, ms since 1970; 0 when it does not say.
    pub boot: i64,
    /// Counts up per node and boot; `None`: the last accepted one plus one.
    pub seq: Option<i64>,
    /// When it was measured, on the node's clock.
    pub time: EventTime,
    /// How often the node samples, s, above 0.
    pub interval_s: Option<f64>,
    /// What was measured.
    pub metrics: Metrics,
}

/// One link of the mesh graph as a node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The peer at the other end.
    pub node_id: NodeId,
    /// Latency to it, ms, at least 0.
    pub latency_ms: Option<f64>,
    /// Packet loss to it, % 0..=100.
    pub packet_loss: Option<f64>,
}

/// A reading with its names: a valid record of `metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The node's mesh, never empty.
    pub mesh: MeshId,
    /// The node.
    pub node: NodeId,
    /// What it read.
    pub reading: Reading,
    /// Its links; empty when it does not report them.
    pub neighbours: Vec<Neighbour>,
}
