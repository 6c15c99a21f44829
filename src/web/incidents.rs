//! `GET /v1/incidents`: what went wrong, newest first, one object a line.

use std::sync::Arc;

use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;

use crate::knowledge::views::Incident;
use crate::model::{IncidentKind, Symptom};

use super::Door;
use super::access::Asker;
use super::answer::{self, Refusal};
use super::query::Asked;

/// Answers the incidents of the last days.
///
/// # Errors
/// The query means nothing, or the events are still being read.
pub(super) async fn list(door: &Arc<Door>, by: Arc<Asker>, uri: &Uri) -> Result<Response, Refusal> {
    let mut asked = Asked::read(uri, &["mesh", "node", "since", "limit"])?;
    asked.mesh = by.of(asked.mesh)?;
    door.story.caught_up(&*door.log).await?;
    door.read(move |door| {
        Ok(answer::lines(door.story.show(|views| {
            let all = views.incidents.iter();
            let all = all.filter(|(_, incident)| by.sees(&incident.node.mesh));
            page(all.map(|(id, incident)| (id.as_str(), incident)), &asked)
        })))
    })
    .await
}

fn page<'a>(all: impl Iterator<Item = (&'a str, &'a Incident)>, asked: &Asked) -> String {
    let mut wanted: Vec<_> = all
        .filter(|(_, incident)| is_wanted(incident, asked))
        .collect();
    wanted.sort_by(|(a_id, a), (b_id, b)| (b.opened_at, b_id).cmp(&(a.opened_at, a_id)));
    let mut out = String::new();
    for (id, incident) in wanted.into_iter().take(asked.limit()) {
        let line = Line::new(id, incident);
        out += &serde_json::to_string(&line).expect("an incident is plain data");
        out.push('\n');
    }
    out
}

fn is_wanted(incident: &Incident, asked: &Asked) -> bool {
    let node = &incident.node;
    asked.mesh.as_ref().is_none_or(|mesh| *mesh == node.mesh)
        && asked.node.as_ref().is_none_or(|name| *name == node.node)
        && asked.since.is_none_or(|since| {
            incident.opened_at >= since || incident.closed_at.is_none_or(|at| at >= since)
        })
}

/// An incident as it is answered.
#[derive(Serialize)]
struct Line<'a> {
    incident_id: &'a str,
    mesh_id: &'a str,
    node_id: &'a str,
    kind: IncidentKind,
    open: bool,
    ill_since: String,
    opened_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    symptoms: &'a [Symptom],
    detect_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    repair_ms: Option<i64>,
    directives: i64,
    withheld: i64,
}

impl<'a> Line<'a> {
    fn new(id: &'a str, incident: &'a Incident) -> Self {
        Line {
            incident_id: id,
            mesh_id: incident.node.mesh.as_str(),
            node_id: incident.node.node.as_str(),
            kind: incident.kind,
            open: incident.closed_at.is_none(),
            ill_since: incident.ill_since.to_string(),
            opened_at: incident.opened_at.to_string(),
            closed_at: incident.closed_at.map(|at| at.to_string()),
            symptoms: &incident.symptoms,
            detect_ms: incident.detect.0,
            repair_ms: incident.repair.map(|repair| repair.0),
            directives: incident.orders,
            withheld: incident.withheld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MeshId, NodeId, NodeKey, Span, Time};

    fn incident(node: &str, opened: i64, closed: Option<i64>) -> Incident {
        Incident {
            kind: IncidentKind::Node,
            node: NodeKey {
                mesh: MeshId::parse("m").unwrap(),
                node: NodeId::parse(node).unwrap(),
            },
            ill_since: Time(opened),
            opened_at: Time(opened),
            closed_at: closed.map(Time),
            detect: Span(5),
            repair: closed.map(|closed| Span(closed - opened)),
            symptoms: vec![Symptom::Lossy],
            orders: 1,
            withheld: 2,
        }
    }

    fn check(query: &str, expected: &[&str]) {
        let all = [
            ("inc-1", incident("a", 10, Some(20))),
            ("inc-2", incident("b", 30, None)),
            ("inc-3", incident("a", 50, Some(60))),
        ];
        let uri: Uri = format!("/v1/incidents?{query}").parse().unwrap();
        let asked = Asked::read(&uri, &["mesh", "node", "since", "limit"]).unwrap();
        let text = page(all.iter().map(|(id, incident)| (*id, incident)), &asked);
        let ids: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["incident_id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }

    #[test]
    fn the_newest_come_first_and_only_those_asked_for() {
        check("", &["inc-3", "inc-2", "inc-1"]);
        check("limit=1", &["inc-3"]);
        check("node=a", &["inc-3", "inc-1"]);
        check("mesh=other", &[]);
        check("since=55", &["inc-3", "inc-2"]);
    }

    #[test]
    fn one_that_is_open_has_no_end() {
        let line = |incident: &Incident| serde_json::to_value(Line::new("i", incident)).unwrap();
        let open = line(&incident("a", 1, None));
        assert!(open.get("closed_at").is_none() && open["open"] == true);
        let closed = line(&incident("a", 1, Some(1001)));
        assert_eq!(closed["repair_ms"], 1000);
        assert_eq!(closed["symptoms"], serde_json::json!(["lossy"]));
    }
}
