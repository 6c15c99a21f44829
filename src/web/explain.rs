//! `GET /v1/explain/{id}`: why something was ordered, withheld or called an incident.
//!
//! An id is made of its mesh and its seq, so the mesh is found by making the id anew for each that
//! is known; then the event itself by its seq; then its node's events around it. No more of the log
//! is read than a bound before and after.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;

use crate::knowledge::explain::{Story, explain};
use crate::model::{Body, Event, IdKind, IncidentKind, MeshId, NodeId, derive_id};
use crate::runtime::{LogError, Source, TopicPartition};
use crate::stream::Topic;
use crate::topology::places::partitions_for;
use crate::wire;

use super::Door;
use super::access::Asker;
use super::answer::{Refusal, json};
use super::nodes;
use super::query::Asked;
use super::reading::{offset_of_seq, scan};

/// Answers the story of an id.
///
/// # Errors
/// Nothing bears it, or the log cannot be read.
pub(super) async fn tell(
    door: &Arc<Door>,
    by: Arc<Asker>,
    uri: &Uri,
    id: String,
) -> Result<Response, Refusal> {
    let asked = Asked::read(uri, &["mesh"])?;
    door.read(move |door| {
        let failed = |error| Refusal::failed("reading the log", &error);
        let unknown = || {
            Refusal::not_found(format!(
                "no event bears the id {id:?}: expected the id of a directive (dir-..), an \
                 incident (inc-..) or something withheld (wh-..); GET /v1/events and \
                 /v1/incidents show them{}",
                nodes::held_in_part(door).map_or(String::new(), |held| format!(
                    "; {held}: name its mesh with ?mesh="
                ))
            ))
        };
        let (kind, seq) = parts(&id).ok_or_else(unknown)?;
        let mesh = asked
            .mesh
            .or_else(|| mesh_of(door, kind, seq, &id))
            // Of a mesh that may not be seen nobody hears what ids it has.
            .filter(|mesh| by.sees(mesh))
            .ok_or_else(unknown)?;
        let mut source = door.source()?;
        let of = partitions_for(Topic::Events, Some(&mesh), None, door.partitions())[0];
        let events = around(&mut *source, of, &mesh, seq).map_err(failed)?;
        let story = explain(&events, &id).ok_or_else(unknown)?;
        Ok(json(StatusCode::OK, told(&id, &mesh, &story)))
    })
    .await
}

/// The kind and the seq in an id.
fn parts(id: &str) -> Option<(IdKind, i64)> {
    let mut parts = id.split('-');
    let kind = match parts.next()? {
        "dir" => IdKind::Directive,
        "inc" => IdKind::Incident,
        "wh" => IdKind::Withheld,
        _ => return None,
    };
    let seq = parts.next()?.parse().ok()?;
    parts.next()?;
    Some((kind, seq))
}

/// The mesh whose event of this seq makes this id, of those whose rows are held here.
fn mesh_of(door: &Door, kind: IdKind, seq: i64, id: &str) -> Option<MeshId> {
    let log_id = door.log.title()?.log_id;
    for ledger in nodes::ledgers(door) {
        let mut mesh = MeshId::none();
        for _ in 0..MESHES_MAX {
            let Some((next, _)) = ledger.meshes.next(&mesh) else {
                break;
            };
            if derive_id(kind, &log_id, &next, seq) == id {
                return Some(next);
            }
            mesh = next;
        }
    }
    None
}

/// What a story may be made of: the events around the one with this seq that are of its node or
/// bear on it.
fn around(
    source: &mut dyn Source,
    of: TopicPartition,
    mesh: &MeshId,
    seq: i64,
) -> Result<Vec<Event>, LogError> {
    let at = offset_of_seq(source, of, mesh, seq)?;
    let (start, end) = (source.start(of)?, source.end(of)?);
    let mut subject = None;
    scan(source, of, at, end.min(at + 1), |record| {
        subject = wire::decode_event(&record.value).ok();
        ControlFlow::Break(())
    })?;
    let subject = subject.filter(|event| event.mesh == *mesh && event.seq == seq);
    let Some(node) = subject.and_then(|event| event.body.node().cloned()) else {
        return Ok(Vec::new());
    };
    let mut events = Vec::new();
    let (from, to) = (start.max(at - EVENTS_AROUND), end.min(at + EVENTS_AROUND));
    scan(source, of, from, to, |record| {
        let near = record.key.is_empty() || record.key == mesh.as_str().as_bytes();
        if near
            && let Ok(event) = wire::decode_event(&record.value)
            && bears_on(&event, &node)
        {
            events.push(event);
        }
        match events.len() < EVENTS_TOLD {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(events)
}

fn bears_on(event: &Event, node: &NodeId) -> bool {
    let mass = matches!(
        event.body,
        Body::IncidentOpened {
            kind: IncidentKind::Mass,
            ..
        } | Body::IncidentClosed {
            kind: IncidentKind::Mass,
            ..
        }
    );
    mass || event.body.node().is_none_or(|own| own == node)
}

/// A story as it is answered.
fn told(id: &str, mesh: &MeshId, story: &Story) -> String {
    #[derive(Serialize)]
    struct Told<'a> {
        id: &'a str,
        mesh_id: &'a str,
        title: &'a str,
        lines: Vec<Line<'a>>,
    }
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        seq: i64,
        text: &'a str,
    }
    let lines = story.lines.iter().map(|line| Line {
        time: line.time.to_string(),
        seq: line.seq,
        text: &line.text,
    });
    let told = Told {
        id,
        mesh_id: mesh.as_str(),
        title: &story.title,
        lines: lines.collect(),
    };
    serde_json::to_string(&told).expect("a story is plain data")
}

/// Events that are looked at before and after the one that is asked for.
const EVENTS_AROUND: i64 = 200_000;

/// Events that are kept of these.
const EVENTS_TOLD: usize = 20_000;

/// Meshes whose ids are tried.
const MESHES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_kind_and_seq() {
        assert_eq!(
            parts("dir-1042-0f3a9c12b77d"),
            Some((IdKind::Directive, 1042))
        );
        assert_eq!(parts("inc-0-aa"), Some((IdKind::Incident, 0)));
        assert_eq!(parts("wh-7-aa"), Some((IdKind::Withheld, 7)));
        for id in ["", "dir", "dir-1042", "dir-x-aa", "hold-1-aa", "dir--1-aa"] {
            assert_eq!(parts(id), None, "{id}");
        }
    }
}
