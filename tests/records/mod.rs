//! Samples and reports for tests that drive the loop in a straight line.

use homeostat::model::*;
use homeostat::stream::Topic;
use homeostat::topology::straight::{Left, Straight};
use homeostat::wire;

/// 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000;

/// Whether there is time for everything: in CI, and there in one of its two passes. At a desk the
/// same tests take a part of their seeds, so that they stay a matter of seconds.
pub fn thorough() -> bool {
    cfg!(feature = "io") && std::env::var_os("CI").is_some()
}

pub fn mesh(name: &str) -> MeshId {
    MeshId::parse(name).unwrap()
}

pub fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

pub fn metrics(values: &[(Metric, f64)]) -> Metrics {
    let mut metrics = Metrics::default();
    for (metric, value) in values {
        assert!(metrics.try_set(*metric, *value), "{metric:?} = {value}");
    }
    metrics
}

/// A sample of `mesh/node` taken at `time_ms` on its own clock.
pub fn sample(
    mesh_id: &str,
    node_id: &str,
    seq: i64,
    time_ms: i64,
    interval_s: f64,
    metrics: Metrics,
) -> Sample {
    Sample {
        mesh: mesh(mesh_id),
        node: node(node_id),
        reading: Reading {
            boot: 1,
            seq: Some(seq),
            time: EventTime(time_ms),
            interval_s: Some(interval_s),
            metrics,
        },
        neighbours: Vec::new(),
    }
}

/// Sends a sample into the loop.
pub fn send(straight: &mut Straight, sample: &Sample) -> Vec<Left> {
    let key = sample.node.as_str().as_bytes();
    straight.append(Topic::Metrics, key, wire::encode_sample(sample))
}

/// Sends a record to Plan.
pub fn say(straight: &mut Straight, mesh: &MeshId, record: &PlanRecord) -> Vec<Left> {
    straight.append(
        Topic::PlanInbox,
        mesh.as_str().as_bytes(),
        wire::encode_plan(record),
    )
}

/// Sends an agent's report into the loop.
pub fn report(straight: &mut Straight, outcome: &Outcome) -> Vec<Left> {
    let key = outcome.node.as_str().as_bytes();
    straight.append(Topic::Metrics, key, wire::encode_outcome(outcome))
}

/// The directives among what left.
pub fn directives(left: &[Left]) -> Vec<Directive> {
    let events = Straight::events(left).into_iter();
    events
        .filter_map(|event| match event.body {
            Body::DirectiveIssued { directive } => Some(directive),
            _ => None,
        })
        .collect()
}

/// Not every test that has this module needs all of it.
const _: () = {
    let _ = (
        START, thorough, mesh, node, metrics, sample, send, say, report, directives,
    );
};
