//! What Analyze concludes about a node: state, severity, symptoms and the wish (`docs/domain.md`
//! has the formulas).

use serde::{Deserialize, Serialize};

use super::{EventTime, Healing, MeshId, Metric, Metrics, NodeId, PolicyId, Route, Scaling, Time};

/// The seed's four states of mind, ordered from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum State {
    /// phi at most 0.8.
    Mystical = 1,
    /// phi above 0.8.
    Contemplative = 2,
    /// phi above 1.0.
    Harmonic = 3,
    /// phi above 1.4.
    Euphoric = 4,
}

impl State {
    /// The name in capitals.
    pub const fn name(self) -> &'static str {
        match self {
            State::Mystical => "MYSTICAL",
            State::Contemplative => "CONTEMPLATIVE",
            State::Harmonic => "HARMONIC",
            State::Euphoric => "EUPHORIC",
        }
    }

    /// The seed's number, 1 (MYSTICAL) to 4 (EUPHORIC).
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// How ill a node is; from its symptoms, never from phi.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Severity {
    /// Nothing established.
    #[default]
    Ok,
    /// A warning latch established, or a critical one on.
    Warning,
    /// A critical latch established.
    Critical,
}

impl Severity {
    /// The name in small letters.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// What can be seen to be wrong with a node, in the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Symptom {
    /// No metric at all, or no sample for three intervals.
    Silent,
    /// `packet_loss` is high.
    Lossy,
    /// `latency_ms` is high.
    Slow,
    /// No peers.
    Isolated,
    /// `cpu_percent` is high.
    CpuSaturated,
    /// `memory_percent` is high.
    MemorySaturated,
    /// `zero_trust_success_rate` is low.
    TrustFailing,
    /// `cpu_percent` is low: explains a low phi, calls for nothing.
    Idle,
}

impl Symptom {
    /// All eight, in order.
    pub const ALL: [Symptom; 8] = [
        Symptom::Silent,
        Symptom::Lossy,
        Symptom::Slow,
        Symptom::Isolated,
        Symptom::CpuSaturated,
        Symptom::MemorySaturated,
        Symptom::TrustFailing,
        Symptom::Idle,
    ];

    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Symptom::Silent => "silent",
            Symptom::Lossy => "lossy",
            Symptom::Slow => "slow",
            Symptom::Isolated => "isolated",
            Symptom::CpuSaturated => "cpu_saturated",
            Symptom::MemorySaturated => "memory_saturated",
            Symptom::TrustFailing => "trust_failing",
            Symptom::Idle => "idle",
        }
    }

    /// The metric it is read from; `None` for silence, which is read from all.
    pub const fn metric(self) -> Option<Metric> {
        match self {
            Symptom::Silent => None,
            Symptom::Lossy => Some(Metric::PacketLoss),
            Symptom::Slow => Some(Metric::LatencyMs),
            Symptom::Isolated => Some(Metric::MeshConnectivity),
            Symptom::CpuSaturated | Symptom::Idle => Some(Metric::CpuPercent),
            Symptom::MemorySaturated => Some(Metric::MemoryPercent),
            Symptom::TrustFailing => Some(Metric::ZeroTrustSuccessRate),
        }
    }
}

/// A symptom whose latch is on, with what backs it; or one that is off again but was established,
/// while the 5-minute mean of its metric still holds it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which one.
    pub symptom: Symptom,
    /// `Critical` when its critical latch is on, else `Warning`; `Ok` for idle, which has no
    /// level, and when it is off again.
    pub level: Severity,
    /// This reading shows it.
    pub shown: bool,
    /// Shown for long enough, or at once by two witnesses.
    pub established: bool,
    /// The 5-minute mean of its metric holds it too, since it was established.
    pub confirmed: bool,
    /// This reading's value of its metric, if it was measured.
    pub value: Option<f64>,
}

impl Finding {
    /// Whether a latch of the symptom is on.
    pub fn on(&self) -> bool {
        self.level != Severity::Ok || self.symptom == Symptom::Idle
    }
}

/// What the seed's table asks of a state and the rules refuse for want of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Refusal {
    /// MYSTICAL asks for it.
    AggressiveHealing,
    /// CONTEMPLATIVE and degrading asks for it.
    PreemptiveHealing,
    /// MYSTICAL asks for it.
    EmergencyScale,
    /// EUPHORIC asks for it.
    Optimize,
}

impl Refusal {
    /// All four, in the order of reports.
    pub const ALL: [Refusal; 4] = [
        Refusal::AggressiveHealing,
        Refusal::PreemptiveHealing,
        Refusal::EmergencyScale,
        Refusal::Optimize,
    ];

    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::AggressiveHealing => "aggressive_healing",
            Refusal::PreemptiveHealing => "preemptive_healing",
            Refusal::EmergencyScale => "emergency_scale",
            Refusal::Optimize => "optimize",
        }
    }
}

/// What a node's assessment asks for; Plan decides whether it is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// How often to sample, s. In `assess` by the reading's state; in an [`Assessment`] by the
    /// settled state.
    pub interval_s: u32,
    /// Which routes to prefer.
    pub route: Route,
    /// Healing, if any.
    pub healing: Option<Healing>,
    /// Scaling, if any.
    pub scaling: Option<Scaling>,
}

/// Analyze's word to Plan about one node; absolute, so that the newest says all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// The mesh, never empty.
    pub mesh: MeshId,
    /// The node.
    pub node: NodeId,
    /// The agent's start that the last accepted sample named.
    pub boot: i64,
    /// The last accepted sample's seq.
    pub sample_seq: i64,
    /// Its time on the node's clock.
    pub sample_time: EventTime,
    /// How often the node says it samples, s.
    pub interval_s: Option<f64>,
    /// phi of that sample.
    pub phi: f64,
    /// Its state, as printed.
    pub state: State,
    /// The settled state: MYSTICAL or CONTEMPLATIVE once established, EUPHORIC while optimize is
    /// wished, else HARMONIC.
    pub settled: State,
    /// How ill it is.
    pub severity: Severity,
    /// The symptoms with a latch on or still confirmed, in order.
    pub findings: Vec<Finding>,
    /// What is asked for; the interval by the settled state.
    pub wish: Wish,
    /// What the settled state asks for and the rules refuse, in order.
    pub refused: Vec<Refusal>,
    /// The sample was older than three of its intervals when the log got it: no directive may
    /// follow.
    pub stale: bool,
    /// No accepted sample for three intervals of append time.
    pub silent: bool,
    /// Two agents use this name; until 600 s pass without a sign of it.
    pub conflict: bool,
    /// Append time of the first ill reading of the present or last illness.
    pub ill_since: Option<Time>,
    /// Append time of the first of the good readings that ended it.
    pub good_since: Option<Time>,
    /// The metrics of that sample: the evidence.
    pub metrics: Metrics,
    /// The policy whose bounds judged it.
    pub policy_id: PolicyId,
    /// The engine that judged it, e.g. `analyze/1`.
    pub engine: String,
}

impl Assessment {
    /// The finding of a symptom, if its latch is on.
    pub fn finding(&self, symptom: Symptom) -> Option<&Finding> {
        self.findings.iter().find(|f| f.symptom == symptom)
    }
}

/// A closed cycle of a node, for dashboards and history (`cycles`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CycleClosed {
    /// The mesh.
    pub mesh: MeshId,
    /// The node.
    pub node: NodeId,
    /// The closing sample's seq.
    pub sample_seq: i64,
    /// Its time on the node's clock.
    pub sample_time: EventTime,
    /// Its append time.
    pub time: Time,
    /// Its phi.
    pub phi: f64,
    /// Its state.
    pub state: State,
    /// The severity with it.
    pub severity: Severity,
    /// The symptoms with a latch on, in order.
    pub symptoms: Vec<Symptom>,
    /// Its harmony index.
    pub harmony_index: f64,
    /// The means of the cycle's readings, metric by metric.
    pub metrics: Metrics,
    /// What it wishes, as `assess` prints it.
    pub wish: Wish,
}
