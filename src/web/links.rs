//! The mesh's graph, as its nodes' newest samples told it: `GET /v1/topology`.
//!
//! Links are remembered in memory alone, of a bounded number of nodes, and for an hour: they are a
//! picture of now, not a record. After a restart they come with the next samples.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, MutexGuard, PoisonError};

use axum::http::{StatusCode, Uri};
use axum::response::Response;

use crate::model::{MeshId, Neighbour, NodeKey, Span, Time};

use super::Door;
use super::access::Asker;
use super::answer::{Refusal, json};
use super::nodes;
use super::query::Asked;

/// What a batch of samples says of links: per node the newest time and its links.
pub(super) type Seen = BTreeMap<NodeKey, (Time, Vec<Neighbour>)>;

/// Links by the node that told them.
#[derive(Debug, Default)]
pub(super) struct Links {
    told: BTreeMap<NodeKey, Told>,
}

/// What a node's newest sample told.
#[derive(Debug)]
struct Told {
    /// The sample's own time: of a node's samples the newest counts.
    time: Time,
    /// When it came, on the log's clock: how old the picture is.
    heard: Time,
    links: Vec<Neighbour>,
}

impl Links {
    /// Takes in what samples told. A node's older sample changes nothing; when too many nodes told
    /// of links, those that were heard longest ago are forgotten.
    pub(super) fn note(&mut self, seen: Seen, heard: Time) {
        for (key, (time, mut links)) in seen {
            links.truncate(LINKS_MAX);
            if self.told.get(&key).is_some_and(|told| told.time > time) {
                continue;
            }
            if self.told.len() >= NODES_MAX && !self.told.contains_key(&key) {
                self.forget_oldest();
            }
            self.told.insert(key, Told { time, heard, links });
        }
    }

    /// Forgets the eighth part that was heard longest ago: not one by one, since each time all are
    /// looked at.
    fn forget_oldest(&mut self) {
        let mut heard: Vec<Time> = self.told.values().map(|told| told.heard).collect();
        let (_, bound, _) = heard.select_nth_unstable(NODES_MAX / 8);
        let bound = *bound;
        let mut surplus = NODES_MAX / 8;
        self.told.retain(|_, told| {
            // Many may have come at one time: no more go than must.
            let goes = told.heard <= bound && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// The links of a mesh, or of all, that were told after `since`.
    fn of(&self, mesh: Option<&MeshId>, since: Time) -> Vec<(NodeKey, Neighbour)> {
        self.told
            .iter()
            .filter(|(key, told)| told.heard >= since && mesh.is_none_or(|mesh| *mesh == key.mesh))
            .flat_map(|(key, told)| told.links.iter().map(|link| (key.clone(), link.clone())))
            .collect()
    }
}

impl Door {
    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        // What a panic elsewhere left is a picture of links all the same.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /v1/topology?mesh=`: the graph in NetJSON.
///
/// # Errors
/// The query means nothing, or nodes cannot be read.
pub(super) async fn graph(
    door: &Arc<Door>,
    by: Arc<Asker>,
    uri: &Uri,
) -> Result<Response, Refusal> {
    let asked = Asked::read(uri, &["mesh"])?;
    let mesh = by.of(asked.mesh)?;
    door.read(move |door| {
        let known = nodes::known(door, &by, mesh.as_ref(), NODES_MAX)?;
        let since = door.log.now() - LINKS_KEPT;
        let mut links = door.links().of(mesh.as_ref(), since);
        links.retain(|(key, _)| by.sees(&key.mesh));
        let graph = json(StatusCode::OK, net_json(&known, &links));
        Ok(nodes::with_held(door, graph))
    })
    .await
}

/// A node of the graph: its key, its severity, its state.
pub(super) type Vertex = (NodeKey, &'static str, &'static str);

/// NetJSON NetworkGraph. A peer that is no node of ours is one of the graph all the same: a link
/// must not end nowhere.
fn net_json(known: &[Vertex], links: &[(NodeKey, Neighbour)]) -> String {
    let mut out = String::from(
        "{\"type\":\"NetworkGraph\",\"protocol\":\"homeostat\",\"version\":\"1\",\
         \"metric\":\"latency_ms\",\"nodes\":[",
    );
    let mut vertices: BTreeMap<NodeKey, Option<(&str, &str)>> = BTreeMap::new();
    for (key, severity, state) in known {
        vertices.insert(key.clone(), Some((severity, state)));
    }
    for (key, link) in links {
        vertices.entry(key.clone()).or_default();
        vertices.entry(peer(key, link)).or_default();
    }
    for (i, (key, what)) in vertices.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(
            out,
            "{comma}{{\"id\":{},\"label\":{},\"properties\":{{\"mesh_id\":{},\"known\":{}",
            text(&key.to_string()),
            text(key.node.as_str()),
            text(key.mesh.as_str()),
            what.is_some()
        );
        if let Some((severity, state)) = what {
            let _ = write!(
                out,
                ",\"severity\":{},\"state\":{}",
                text(severity),
                text(state)
            );
        }
        out.push_str("}}");
    }
    out.push_str("],\"links\":[");
    for (i, (key, link)) in links.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let loss = link.packet_loss.map_or("null".to_owned(), number);
        let _ = write!(
            out,
            "{comma}{{\"source\":{},\"target\":{},\"cost\":{},\
             \"properties\":{{\"packet_loss\":{loss}}}}}",
            text(&key.to_string()),
            text(&peer(key, link).to_string()),
            // NetJSON wants a cost; a link whose latency nobody measured costs nothing known.
            link.latency_ms.map_or("0".to_owned(), number),
        );
    }
    out.push_str("]}");
    out
}

fn peer(key: &NodeKey, link: &Neighbour) -> NodeKey {
    NodeKey {
        mesh: key.mesh.clone(),
        node: link.node_id.clone(),
    }
}

fn text(text: &str) -> String {
    serde_json::json!(text).to_string()
}

fn number(number: f64) -> String {
    serde_json::json!(number).to_string()
}

/// Nodes whose links are remembered.
const NODES_MAX: usize = 4096;

/// Links that are remembered of a node.
const LINKS_MAX: usize = 64;

/// How long links are shown after they were told.
const LINKS_KEPT: Span = Span::seconds(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;

    fn key(node: &str) -> NodeKey {
        NodeKey {
            mesh: MeshId::parse("m").unwrap(),
            node: NodeId::parse(node).unwrap(),
        }
    }

    fn link(node: &str, latency_ms: f64) -> Neighbour {
        Neighbour {
            node_id: NodeId::parse(node).unwrap(),
            latency_ms: Some(latency_ms),
            packet_loss: None,
        }
    }

    fn told(node: &str, time: i64, latency_ms: f64) -> Seen {
        Seen::from([(key(node), (Time(time), vec![link("p", latency_ms)]))])
    }

    #[test]
    fn the_newest_sample_of_a_node_counts() {
        let mut links = Links::default();
        links.note(told("a", 10, 1.0), Time(100));
        links.note(told("a", 20, 2.0), Time(200));
        links.note(told("a", 15, 3.0), Time(300));
        assert_eq!(links.of(None, Time(200)), [(key("a"), link("p", 2.0))]);
        assert_eq!(links.of(None, Time(201)), []);
        let other = MeshId::parse("other").unwrap();
        assert_eq!(links.of(Some(&other), Time(0)), []);
    }

    #[test]
    fn no_more_nodes_than_the_limit_are_remembered_and_the_newest_stay() {
        let mut links = Links::default();
        for i in 0..NODES_MAX as i64 + 100 {
            links.note(told(&format!("n{i}"), 7, 1.0), Time(i));
            assert!(links.told.len() <= NODES_MAX);
        }
        let newest = key(&format!("n{}", NODES_MAX + 99));
        assert!(links.told.contains_key(&newest) && !links.told.contains_key(&key("n0")));
        let all: Seen = (0..2 * NODES_MAX)
            .map(|i| (key(&format!("m{i}")), (Time(1), Vec::new())))
            .collect();
        links.note(all, Time(1_000_000));
        assert!(links.told.len() > NODES_MAX / 2 && links.told.len() <= NODES_MAX);
    }

    #[test]
    fn the_graph_is_net_json_with_every_end_a_node() {
        let known = [(key("a\"b"), "ok", "HARMONIC")];
        let graph = net_json(&known, &[(key("a\"b"), link("stranger", 1.5))]);
        let graph: serde_json::Value = serde_json::from_str(&graph).unwrap();
        assert_eq!(graph["type"], "NetworkGraph");
        assert_eq!(graph["nodes"].as_array().unwrap().len(), 2);
        assert_eq!(graph["nodes"][0]["properties"]["severity"], "ok");
        assert_eq!(graph["nodes"][1]["properties"]["known"], false);
        assert_eq!(graph["links"][0]["target"], "m/stranger");
        assert_eq!(graph["links"][0]["cost"], 1.5);
        let empty: serde_json::Value = serde_json::from_str(&net_json(&[], &[])).unwrap();
        assert_eq!(empty["links"], serde_json::json!([]));
    }
}
