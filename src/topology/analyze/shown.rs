//! What is shown of a node's row and windows to people and their programs; decides nothing.

use std::rc::Rc;

use crate::analyze::consciousness::{self, PeerScale};
use crate::analyze::panes::ClosedPane;
use crate::model::{EventTime, MeshId, Metric, NodeId, NodeKey};
use crate::runtime::{Below, Store, StoreError, mark_of};
use crate::stream::Base;

use super::{ENCODING, NodeRow, nodes_in};

/// The seed's gauges of a node (`domain.md`, "Prometheus names kept from the seed's exporter").
#[derive(Clone, Debug, PartialEq)]
pub struct Gauges {
    /// The node.
    pub key: NodeKey,
    /// Name and value; a metric that its newest reading lacks is not there.
    pub values: Vec<(&'static str, f64)>,
}

/// The gauges of the first `nodes_max` nodes in order of mesh and name. Of rows of another encoding
/// there are none.
///
/// # Errors
/// The rows cannot be read.
pub fn gauges(analyze: Rc<dyn Store>, nodes_max: usize) -> Result<Vec<Gauges>, StoreError> {
    let known = mark_of(&*analyze)?.is_some_and(|mark| mark.encoding == ENCODING);
    if !known || nodes_max == 0 {
        return Ok(Vec::new());
    }
    let below = Rc::new(Below::new(analyze));
    let base: Rc<dyn Base> = below.clone();
    let nodes = nodes_in(&base);
    let peers = PeerScale::new();
    let mut shown = Vec::new();
    let mut key = NodeKey {
        mesh: MeshId::none(),
        node: NodeId::parse("\0").expect("the least name is a name"),
    };
    while shown.len() < nodes_max
        && let Some((next, row)) = nodes.next(&key)
    {
        if row.heard().is_some() {
            shown.push(Gauges {
                key: next.clone(),
                values: values(&row, &peers),
            });
        }
        key = next;
    }
    below.check()?;
    Ok(shown)
}

fn values(row: &NodeRow, peers: &PeerScale) -> Vec<(&'static str, f64)> {
    let metrics = &row.last.metrics;
    let phi = row.last.phi;
    let alignment = consciousness::frequency_alignment(metrics, phi);
    let mut values = vec![
        ("consciousness_phi_ratio", phi),
        (
            "consciousness_state",
            f64::from(row.last.standing.state.number()),
        ),
        ("consciousness_frequency_alignment", alignment),
        ("consciousness_entropy", row.mind.entropy()),
        (
            "consciousness_harmony_index",
            consciousness::harmony_index(phi, alignment),
        ),
        (
            "mesh_health_score",
            consciousness::mesh_health(metrics, peers),
        ),
    ];
    values.extend(
        metrics
            .iter()
            .filter_map(|(metric, value)| Some((gauge(metric)?, value))),
    );
    values
}

/// The gauge of a metric.
const fn gauge(metric: Metric) -> Option<&'static str> {
    match metric {
        Metric::CpuPercent => Some("mesh_cpu_percent"),
        Metric::MemoryPercent => Some("mesh_memory_percent"),
        Metric::MeshConnectivity => Some("mesh_connectivity"),
        Metric::LatencyMs => Some("mesh_latency_ms"),
        Metric::PacketLoss => Some("mesh_packet_loss_percent"),
        Metric::MttrMinutes => Some("mttr_minutes"),
        Metric::ZeroTrustSuccessRate => Some("zero_trust_success_rate"),
        Metric::FrequencyHz => None,
    }
}

/// Reads a closed window as it lies in a store; `None` when the bytes are none.
pub fn window(start: EventTime, bytes: &[u8]) -> Option<ClosedPane> {
    ClosedPane::decode(start, bytes)
}

/// How long a window is, ms.
pub const WINDOW_MS: i64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::analyze::row::Last;

    #[test]
    fn what_was_not_measured_has_no_gauge() {
        let mut row = NodeRow::default();
        let mut last = Last::default();
        assert!(last.metrics.try_set(Metric::CpuPercent, 30.0));
        assert!(last.metrics.try_set(Metric::FrequencyHz, 108.0));
        last.phi = 1.2;
        row.last = last;
        let values = values(&row, &PeerScale::new());
        let of = |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        assert_eq!(of("mesh_cpu_percent"), Some(30.0));
        assert_eq!(of("consciousness_phi_ratio"), Some(1.2));
        assert_eq!(of("consciousness_frequency_alignment"), Some(1.0));
        assert_eq!(of("consciousness_entropy"), Some(0.5));
        assert_eq!(of("mesh_latency_ms"), None);
        assert_eq!(values.len(), 7, "{values:?}");
    }
}
