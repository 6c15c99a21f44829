//! `GET /v1/nodes` and below: where nodes stand now, one object a line, and a node's windows.
//!
//! Where several processes share the partitions of a log, each answers for the meshes and nodes
//! whose rows it holds; [`HELD`] says which partitions these are.

use std::rc::Rc;
use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value, json as value};

use crate::model::{EventTime, MeshId, Metric, NodeId, NodeKey, Span, Time};
use crate::runtime::{Below, partition_of};
use crate::stream::{Base, Key as _, Ledger, window_key};
use crate::topology::analyze::{WINDOW_MS, window};
use crate::topology::now::{self, NodeNow, StageRows};

use super::Door;
use super::access::Asker;
use super::answer::{Refusal, json, lines};
use super::links::Vertex;
use super::query::Asked;

/// `GET /v1/nodes?mesh=&node=&limit=&after=`: those behind the node whose key's bytes are `after`,
/// in hex, so that many are read page by page.
///
/// # Errors
/// The query means nothing, or rows cannot be read.
pub(super) async fn list(door: &Arc<Door>, by: Arc<Asker>, uri: &Uri) -> Result<Response, Refusal> {
    let asked = Asked::read(uri, &["mesh", "node", "limit", "after"])?;
    let after = match asked.after.as_slice() {
        [] => None,
        bytes => Some(NodeKey::read(bytes).ok_or_else(|| {
            Refusal::bad("after: expected the bytes of a node's key in hex, as a page's last node")
        })?),
    };
    let mesh = by.of(asked.mesh.clone())?;
    door.read(move |door| {
        let limit = asked.limit();
        let nodes = read_seen(
            door,
            &by,
            now::Asked {
                mesh,
                node: asked.node,
                after,
                limit,
            },
        )?;
        let text: String = nodes.iter().map(|node| node.json() + "\n").collect();
        Ok(with_held(door, lines(text)))
    })
    .await
}

/// `GET /v1/nodes/{mesh}/{node}`.
///
/// # Errors
/// There is no such node, or rows cannot be read.
pub(super) async fn one(
    door: &Arc<Door>,
    by: &Asker,
    mesh: &str,
    node: &str,
) -> Result<Response, Refusal> {
    let key = key(mesh, node)?;
    by.ensure_sees(&key.mesh)?;
    door.read(move |door| {
        let node = find(door, &key)?;
        Ok(with_held(door, json(StatusCode::OK, node.json())))
    })
    .await
}

/// `GET /v1/nodes/{mesh}/{node}/windows`: the closed windows of the last hour in which it was
/// heard, oldest first, one object a line.
///
/// # Errors
/// There is no such node, or the windows cannot be read.
pub(super) async fn windows(
    door: &Arc<Door>,
    by: &Asker,
    mesh: &str,
    node: &str,
) -> Result<Response, Refusal> {
    let key = key(mesh, node)?;
    by.ensure_sees(&key.mesh)?;
    door.read(move |door| {
        let node = find(door, &key)?;
        let starts: Vec<i64> = starts(node.last_seen).collect();
        let keys: Vec<_> = starts
            .iter()
            .map(|start| window_key(*start, &key))
            .collect();
        let partition = partition_of(key.node.as_str().as_bytes(), door.partitions());
        if let Some(held) = held_in_part(door)
            && !is_held(door, ANALYZE, partition)
        {
            return Err(Refusal::not_found(format!(
                "the windows of {key} are of partition {partition} of metrics; {held}"
            )));
        }
        let found = door
            .log
            .windows(partition, &keys)
            .map_err(|error| Refusal::failed("reading the windows", &error))?;
        let text: String = starts
            .iter()
            .zip(&found)
            .filter_map(|(start, bytes)| line(EventTime(*start), bytes.as_deref()?))
            .collect();
        Ok(with_held(door, lines(text)))
    })
    .await
}

/// Where the windows of the hour up to a moment begin. The node's clock, which they go by, may be a
/// little ahead of ours.
fn starts(until: Time) -> impl Iterator<Item = i64> {
    let ahead = until + CLOCK_AHEAD;
    let last = ahead.0.div_euclid(WINDOW_MS);
    let windows = (HOUR.0 + CLOCK_AHEAD.0) / WINDOW_MS;
    (last - windows..=last).map(|number| number * WINDOW_MS)
}

fn line(start: EventTime, bytes: &[u8]) -> Option<String> {
    let pane = window(start, bytes)?;
    let mut metrics = Map::new();
    for (metric, slice) in Metric::ALL.into_iter().zip(&pane.slices) {
        if slice.count > 0 {
            let mean = slice.sum / f64::from(slice.count);
            let summary = value!({
                "count": slice.count, "mean": mean, "min": slice.min, "max": slice.max
            });
            metrics.insert(metric.name().to_owned(), summary);
        }
    }
    let end = start + Span(WINDOW_MS);
    let line = value!({
        "start": start.to_string(),
        "end": end.to_string(),
        "metrics": Value::Object(metrics),
    });
    Some(line.to_string() + "\n")
}

/// The nodes of a mesh, or all, for the graph.
///
/// # Errors
/// Rows cannot be read.
pub(super) fn known(
    door: &Door,
    by: &Asker,
    mesh: Option<&MeshId>,
    limit: usize,
) -> Result<Vec<Vertex>, Refusal> {
    let nodes = read_seen(
        door,
        by,
        now::Asked {
            mesh: mesh.cloned(),
            limit,
            ..now::Asked::default()
        },
    )?;
    Ok(nodes
        .into_iter()
        .map(|node| (node.key, node.severity.name(), node.state.name()))
        .collect())
}

/// How many nodes are known here.
///
/// # Errors
/// Rows cannot be read.
pub(super) fn count(door: &Door) -> Result<u64, Refusal> {
    let mut nodes = 0;
    for (_, rows) in door.log.rows(PLAN) {
        let below = Rc::new(Below::new(rows));
        let base: Rc<dyn Base> = below.clone();
        let ledger = Ledger::new(&base);
        let mut mesh = MeshId::none();
        while let Some((next, row)) = ledger.meshes.next(&mesh) {
            nodes += u64::try_from(row.nodes).unwrap_or(0);
            mesh = next;
        }
        below
            .check()
            .map_err(|error| Refusal::failed("reading the rows of plan", &error))?;
    }
    Ok(nodes)
}

/// Plan's rows that are held here, as they lie in files: a little behind the log, enough for what
/// seldom changes.
pub(super) fn ledgers(door: &Door) -> Vec<Ledger> {
    let ledger = |(_, rows)| {
        let base: Rc<dyn Base> = Rc::new(Below::new(rows));
        Ledger::new(&base)
    };
    door.log.rows(PLAN).into_iter().map(ledger).collect()
}

/// Which partitions' rows this process holds, in words; `None` where it holds all.
pub(super) fn held_in_part(door: &Door) -> Option<String> {
    let held = held(door)?;
    Some(format!(
        "this process holds {held} of {} partitions",
        door.partitions()
    ))
}

/// `plan=0,2 analyze=1`; `None` where all are held here.
fn held(door: &Door) -> Option<String> {
    let partitions = door.partitions() as usize;
    let of_stage = |stage: &str| -> Vec<i32> {
        let rows = door.log.rows(stage).into_iter();
        rows.map(|(partition, _)| partition).collect()
    };
    let held = [PLAN, ANALYZE].map(|stage| (stage, of_stage(stage)));
    if held.iter().all(|(_, held)| held.len() == partitions) {
        return None;
    }
    let said = held.map(|(stage, held)| {
        let held: Vec<String> = held.iter().map(i32::to_string).collect();
        format!("{stage}={}", held.join(","))
    });
    Some(said.join(" "))
}

fn is_held(door: &Door, stage: &str, partition: i32) -> bool {
    let rows = door.log.rows(stage);
    rows.iter().any(|(held, _)| *held == partition)
}

/// The answer, saying for which partitions where it is not for all.
pub(super) fn with_held(door: &Door, mut response: Response) -> Response {
    if let Some(held) = held(door)
        && let Ok(held) = HeaderValue::from_str(&held)
    {
        response.headers_mut().insert(HELD, held);
    }
    response
}

fn find(door: &Door, key: &NodeKey) -> Result<NodeNow, Refusal> {
    let asked = now::Asked {
        mesh: Some(key.mesh.clone()),
        node: Some(key.node.clone()),
        after: None,
        limit: 1,
    };
    read(door, &asked)?.pop().ok_or_else(|| {
        let partition = partition_of(key.mesh.as_str().as_bytes(), door.partitions());
        Refusal::not_found(match held_in_part(door) {
            Some(held) if !is_held(door, PLAN, partition) => {
                format!(
                    "mesh {} is of partition {partition} of events; {held}",
                    key.mesh
                )
            }
            _ => format!("no node {key} was heard: GET /v1/nodes lists those that were"),
        })
    })
}

/// As many as are wanted of those that may be seen: where others lie between, more are looked at.
fn read_seen(door: &Door, by: &Asker, mut asked: now::Asked) -> Result<Vec<NodeNow>, Refusal> {
    let limit = asked.limit;
    let mut seen = Vec::new();
    loop {
        let page = read(door, &asked)?;
        let whole = page.len() < limit;
        asked.after = page.last().map(|node| node.key.clone());
        seen.extend(page.into_iter().filter(|node| by.sees(&node.key.mesh)));
        if whole || seen.len() >= limit {
            seen.truncate(limit);
            return Ok(seen);
        }
    }
}

fn read(door: &Door, asked: &now::Asked) -> Result<Vec<NodeNow>, Refusal> {
    let mut source = door.source()?;
    let rows = StageRows {
        partitions: door.partitions(),
        plan: door.log.rows(PLAN),
        analyze: door.log.rows(ANALYZE),
    };
    now::nodes(&rows, &mut *source, asked)
        .map_err(|error| Refusal::failed("reading where the nodes stand", &error))
}

fn key(mesh: &str, node: &str) -> Result<NodeKey, Refusal> {
    let name = |what: &str, got: &str| {
        Refusal::bad(format!(
            "the {what}'s name has {} bytes: expected 1 to 255",
            got.len()
        ))
    };
    let mesh_id = MeshId::parse(mesh).filter(|mesh| !mesh.is_none());
    Ok(NodeKey {
        mesh: mesh_id.ok_or_else(|| name("mesh", mesh))?,
        node: NodeId::parse(node).ok_or_else(|| name("node", node))?,
    })
}

/// Says which partitions' rows an answer was made of, where those are not all:
/// `plan=0,2 analyze=0,2`.
const HELD: &str = "homeostat-partitions";

/// The stage whose rows say what was decided.
pub(super) const PLAN: &str = "plan";

const ANALYZE: &str = "analyze";

/// How far back windows are shown.
const HOUR: Span = Span::seconds(3600);

/// By how much a node's clock may be ahead of the log's.
const CLOCK_AHEAD: Span = Span::seconds(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_windows_and_what_a_clock_may_be_ahead() {
        let starts: Vec<i64> = starts(Time(10_000_030_000)).collect();
        assert_eq!(starts.len(), 66);
        assert!(starts.iter().all(|start| start % WINDOW_MS == 0));
        assert!(starts[0] <= 10_000_030_000 - HOUR.0 + WINDOW_MS);
        assert!(*starts.last().unwrap() <= 10_000_030_000 + CLOCK_AHEAD.0);
    }

    #[test]
    fn names_have_bounds() {
        assert!(key("m", "n").is_ok());
        for (mesh, node) in [("", "n"), ("m", ""), ("m", &*"x".repeat(256))] {
            assert!(key(mesh, node).is_err(), "{mesh:?} {node:?}");
        }
    }
}
