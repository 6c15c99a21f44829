//! A cycle as people read it: the seed's form, severity first (`docs/domain.md`, Cycle).

use std::fmt::Write;

use crate::model::{Action, CycleClosed, Metric, OutcomeResult, Symptom};

/// What a cycle's words take from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// What the node's agent reported since its last cycle.
    pub done: &'a [(Action, OutcomeResult)],
    /// Nodes of the mesh that applied an act since then.
    pub nodes_healed: usize,
    /// Leaf of the mesh's last event.
    pub leaf: Option<i64>,
    /// How long it took, s of wall time; stands in no record, so who reads it later cannot say.
    pub duration_s: Option<f64>,
}

/// The seven lines of a cycle.
pub fn tell(cycle: &CycleClosed, around: &Around<'_>) -> String {
    let leaf = around
        .leaf
        .map_or("nothing yet".to_owned(), |leaf| format!("leaf {leaf}"));
    let took = around
        .duration_s
        .map_or(String::new(), |s| format!(", duration={s:.3}s"));
    let symptoms: Vec<&str> = cycle.symptoms.iter().map(|s| Symptom::name(*s)).collect();
    let severity = match symptoms.is_empty() {
        true => cycle.severity.name().to_owned(),
        false => format!("{}: {}", cycle.severity.name(), symptoms.join(", ")),
    };
    format!(
        "MAPE-K cycle  {}  mesh {}  {}\n  \
         Monitor: {}\n  \
         Analyze: {severity} (phi={:.3}, state={}, harmony={:.2})\n  \
         Plan: {}\n  \
         Execute: {}\n  \
         Knowledge: metrics exported, state saved, audit logged ({leaf})\n  \
         φ-cycle complete: {} (φ={:.3}{took})",
        cycle.node,
        cycle.mesh,
        cycle.sample_time,
        monitored(cycle),
        cycle.phi,
        cycle.state.name(),
        cycle.harmony_index,
        planned(cycle),
        executed(around),
        cycle.state.name(),
        cycle.phi,
    )
}

/// The metrics of a cycle: `CPU=95%, Memory=50%`.
pub fn monitored(cycle: &CycleClosed) -> String {
    let mut text = String::new();
    for (metric, value) in cycle.metrics.iter() {
        let (name, unit) = match metric {
            Metric::CpuPercent => ("CPU", "%"),
            Metric::MemoryPercent => ("Memory", "%"),
            Metric::MeshConnectivity => ("Peers", ""),
            Metric::LatencyMs => ("Latency", "ms"),
            Metric::PacketLoss => ("Loss", "%"),
            Metric::MttrMinutes => ("MTTR", "min"),
            Metric::ZeroTrustSuccessRate => ("Trust", ""),
            Metric::FrequencyHz => ("Frequency", "Hz"),
        };
        let comma = if text.is_empty() { "" } else { ", " };
        let value = (value * 10.0).round() / 10.0;
        write!(text, "{comma}{name}={value}{unit}").expect("a string takes all");
    }
    if text.is_empty() {
        "nothing measured".to_owned()
    } else {
        text
    }
}

fn planned(cycle: &CycleClosed) -> String {
    let mut text = format!("route_preference={}", cycle.wish.route.name());
    if let Some(level) = cycle.wish.healing {
        write!(text, ", enable_{}_healing=true", level.name()).expect("a string takes all");
    }
    if let Some(value) = cycle.wish.scaling {
        write!(text, ", scaling_action={}", value.name()).expect("a string takes all");
    }
    text
}

fn executed(around: &Around<'_>) -> String {
    let words: Vec<String> = around
        .done
        .iter()
        .map(|(action, result)| match (action, result) {
            (Action::Healing { level }, OutcomeResult::Applied) => {
                format!("{}_healing={}_nodes", level.name(), around.nodes_healed)
            }
            (Action::MonitoringInterval { interval_s }, OutcomeResult::Applied) => {
                format!("monitoring_interval={interval_s}s")
            }
            (Action::RoutePreference { value }, OutcomeResult::Applied) => {
                format!("route_preference={}", value.name())
            }
            (Action::Scaling { value }, OutcomeResult::Applied) => {
                format!("scaling_action={}", value.name())
            }
            (action, result) => format!("{} {}", action.kind().name(), result.name()),
        })
        .collect();
    if words.is_empty() {
        "nothing ordered".to_owned()
    } else {
        words.join(", ")
    }
}
