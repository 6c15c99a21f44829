//! On which partitions records of a mesh or a node stand: what the stages make their keys of.

use crate::model::{MeshId, NodeId};
use crate::runtime::{TopicPartition, partition_of, partitions_of};
use crate::stream::Topic;

/// The partitions of a topic that hold records of this mesh and node: one where their key says
/// which, else all.
pub fn partitions_for(
    topic: Topic,
    mesh: Option<&MeshId>,
    node: Option<&NodeId>,
    partitions: i32,
) -> Vec<TopicPartition> {
    // What is of no single mesh stands on every partition.
    let mesh = mesh.filter(|mesh| !mesh.is_none());
    let key = match (topic, mesh, node) {
        (Topic::Metrics | Topic::Cycles, _, Some(node)) => node.as_str().to_owned(),
        (Topic::PlanInbox | Topic::Events, Some(mesh), _) => mesh.as_str().to_owned(),
        (Topic::Directives, Some(mesh), Some(node)) => format!("{mesh}/{node}"),
        _ => return partitions_of(topic, partitions).collect(),
    };
    vec![TopicPartition {
        topic,
        partition: partition_of(key.as_bytes(), partitions),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(topic: Topic, mesh: Option<&str>, node: Option<&str>, key: Option<&str>) {
        let mesh = mesh.map(|mesh| MeshId::parse(mesh).unwrap());
        let node = node.map(|node| NodeId::parse(node).unwrap());
        let found = partitions_for(topic, mesh.as_ref(), node.as_ref(), 64);
        let found: Vec<i32> = found.iter().map(|of| of.partition).collect();
        let expected = match key {
            Some(key) => vec![partition_of(key.as_bytes(), 64)],
            None => (0..64).collect(),
        };
        assert_eq!(found, expected, "{topic:?} {mesh:?} {node:?}");
    }

    #[test]
    fn a_key_says_the_partition_where_it_is_known() {
        check(Topic::Events, Some("m"), Some("n"), Some("m"));
        check(Topic::Events, None, Some("n"), None);
        check(Topic::Events, Some(""), None, None);
        check(Topic::PlanInbox, Some("m"), None, Some("m"));
        check(Topic::Cycles, Some("m"), Some("n"), Some("n"));
        check(Topic::Cycles, Some("m"), None, None);
        check(Topic::Metrics, None, Some("n"), Some("n"));
        check(Topic::Directives, Some("m"), Some("n"), Some("m/n"));
        check(Topic::Directives, Some("m"), None, None);
        check(Topic::DeadLetters, Some("m"), Some("n"), None);
    }
}
