//! Why: a walk backwards from a directive, an incident or something withheld to the reading behind
//! it, and forwards to how it ended. Told as a story, a line a fact.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{
    Action, Assessment, Body, Event, EventTime, Finding, IncidentKind, MeshId, Metric, NodeId,
    Reason, Severity, Span, State, Symptom, Time,
};

/// One fact of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub time: Time,
    /// The event's seq: its leaf in the mesh's log.
    pub seq: i64,
    /// What, as a sentence.
    pub text: String,
}

/// Why something happened, oldest fact first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// What it is about.
    pub title: String,
    /// The facts.
    pub lines: Vec<Line>,
}

/// Tells the story of `id` from the events of its mesh, in order; `None` when no event bears that
/// id.
///
/// 1. Find the event that bears the id: an order, something withheld, or an incident's opening.
/// 2. Walk back over its node's events to the last one that carries a reading of a healthy node:
///    the story begins after.
/// 3. Walk on to the end: of the incident, or of the order when it has none.
pub fn explain(events: &[Event], id: &str) -> Option<Story> {
    let at = events.iter().position(|event| bears(&event.body, id))?;
    let subject = &events[at];
    let node = subject.body.node()?;
    let incident = incident_of(&subject.body);
    let about = |event: &Event| {
        (event.mesh == subject.mesh && event.body.node() == Some(node))
            || concerns_all(event, &subject.mesh)
    };
    let begin = begin_of(events, at, node, incident);
    let end = end_of(events, at, incident, id);
    let policy = events[..=at].iter().rposition(|event| {
        event.mesh == subject.mesh
            && matches!(event.body, Body::Adopted { .. } | Body::MeshOpened { .. })
    });
    let lines = events[..=end]
        .iter()
        .enumerate()
        .filter(|(i, event)| Some(*i) == policy || (*i >= begin && about(event)))
        .filter_map(|(_, event)| {
            let text = sentence(event, id)?;
            Some(Line {
                time: event.time,
                seq: event.seq,
                text,
            })
        })
        .collect();
    Some(Story {
        title: title(subject, node),
        lines,
    })
}

/// Gathers from a long log, event by event, what [`explain()`] needs of it: the policy in force
/// and what is said of the node since it was last well. Bounded: see [`STORY_EVENTS_MAX`].
#[derive(Clone, Debug)]
pub struct Gather {
    subject: Event,
    /// How many events were seen: a place for each.
    seen: u64,
    policy: Option<(u64, Event)>,
    events: VecDeque<(u64, Event)>,
    /// The incident has opened, or the subject itself was met.
    begun: bool,
    met: bool,
}

impl Gather {
    /// Whether an event bears an id that can be asked for.
    pub fn is_about(event: &Event, id: &str) -> bool {
        bears(&event.body, id) && event.body.node().is_some()
    }

    /// Gathers for the event that bears the id.
    pub fn new(subject: Event) -> Self {
        Gather {
            subject,
            seen: 0,
            policy: None,
            events: VecDeque::new(),
            begun: false,
            met: false,
        }
    }

    /// Takes the next event of the subject's partition, from its first one on.
    pub fn note(&mut self, event: &Event) {
        self.seen += 1;
        let mesh = &self.subject.mesh;
        let node = self.subject.body.node();
        let policy = matches!(event.body, Body::Adopted { .. } | Body::MeshOpened { .. });
        if event.mesh == *mesh && policy && !self.met {
            self.policy = Some((self.seen, event.clone()));
        }
        let about = event.mesh == *mesh && event.body.node() == node;
        if !about && !concerns_all(event, mesh) {
            return;
        }
        let opens = |id: &str| match &event.body {
            Body::IncidentOpened { incident_id, .. } => incident_id == id,
            _ => false,
        };
        self.met |= *event == self.subject;
        self.begun |= self.met || incident_of(&self.subject.body).is_some_and(opens);
        if !self.begun && well(event, node) {
            self.events.clear();
        }
        if self.events.len() == STORY_EVENTS_MAX {
            if self.begun {
                return;
            }
            self.events.pop_front();
        }
        self.events.push_back((self.seen, event.clone()));
    }

    /// What was gathered, in order.
    pub fn events(self) -> Vec<Event> {
        let mut events: BTreeMap<u64, Event> = self.events.into_iter().collect();
        events.extend(self.policy);
        events.into_values().collect()
    }
}

/// Events kept of one story: beyond them its later part is left out.
pub const STORY_EVENTS_MAX: usize = 10_000;

/// What is said for a whole mesh, or for all, and bears on each of its nodes: holds, and a storm.
fn concerns_all(event: &Event, mesh: &MeshId) -> bool {
    let storm = |kind: &IncidentKind| *kind == IncidentKind::Mass && event.mesh == *mesh;
    match &event.body {
        Body::HoldPlaced { scope, .. } | Body::HoldReleased { scope, .. } => {
            scope.node.is_none() && (scope.mesh.is_none() || scope.mesh == *mesh)
        }
        Body::IncidentOpened { kind, .. } | Body::IncidentClosed { kind, .. } => storm(kind),
        _ => false,
    }
}

fn bears(body: &Body, id: &str) -> bool {
    match body {
        Body::DirectiveIssued { directive } => directive.id == id,
        Body::DirectiveWithheld { id: own, .. } => own == id,
        Body::IncidentOpened { incident_id, .. } => incident_id == id,
        _ => false,
    }
}

fn incident_of(body: &Body) -> Option<&str> {
    match body {
        Body::DirectiveIssued { directive } => directive.incident_id.as_deref(),
        Body::DirectiveWithheld { incident_id, .. } => incident_id.as_deref(),
        Body::IncidentOpened { incident_id, .. } => Some(incident_id),
        _ => None,
    }
}

/// Where the node was last seen without severity or symptom, before the incident or the event
/// itself.
fn begin_of(events: &[Event], at: usize, node: &NodeId, incident: Option<&str>) -> usize {
    let opened = incident
        .and_then(|id| {
            events[..=at].iter().position(|event| {
                matches!(&event.body, Body::IncidentOpened { incident_id, .. } if incident_id == id)
            })
        })
        .unwrap_or(at);
    events[..opened]
        .iter()
        .rposition(|event| well(event, Some(node)))
        .unwrap_or(0)
}

/// Whether an event carries a reading of a node without severity or symptom.
fn well(event: &Event, node: Option<&NodeId>) -> bool {
    event.body.assessment().is_some_and(|a| {
        Some(&a.node) == node && a.severity == Severity::Ok && a.findings.is_empty()
    })
}

fn end_of(events: &[Event], at: usize, incident: Option<&str>, id: &str) -> usize {
    let last = events
        .iter()
        .rposition(|event| match (&event.body, incident) {
            (Body::IncidentClosed { incident_id, .. }, Some(incident)) => incident_id == incident,
            (Body::OutcomeReported { outcome }, _) => outcome.directive_id == id,
            (Body::DirectiveExpired { id: expired, .. }, _) => expired == id,
            _ => false,
        });
    last.map_or(
        if incident.is_some() {
            events.len() - 1
        } else {
            at
        },
        |last| last.max(at),
    )
}

fn title(subject: &Event, node: &NodeId) -> String {
    let mesh = &subject.mesh;
    match &subject.body {
        Body::DirectiveIssued { directive } => {
            format!("Why {mesh}/{node} was ordered {}", words(&directive.action))
        }
        Body::DirectiveWithheld { action, reason, .. } => {
            format!(
                "Why {mesh}/{node} was not ordered {}: {}",
                words(action),
                reason.name()
            )
        }
        Body::IncidentOpened {
            kind: IncidentKind::Mass,
            ..
        } => {
            format!("The mass incident of mesh {mesh}")
        }
        _ => format!("The incident of {mesh}/{node}"),
    }
}

/// An event as a sentence; `None` when it adds nothing to a story.
fn sentence(event: &Event, id: &str) -> Option<String> {
    let marked = |own: &str| if own == id { "  <- this" } else { "" };
    let text = match &event.body {
        Body::MeshOpened { .. } => "the built-in policy is in force (generation 0)".to_owned(),
        Body::Adopted {
            policy_generation,
            by,
            ..
        } => {
            let by = if by.is_empty() {
                String::new()
            } else {
                format!(" by {by}")
            };
            format!("policy generation {policy_generation} is adopted{by}")
        }
        Body::NodeSeen {
            first: true,
            assessment: Some(a),
            ..
        } => {
            format!("first seen: {}", reading(a))
        }
        Body::NodeSeen { boot, .. } => {
            format!("its agent started anew at {}", EventTime(*boot))
        }
        Body::StateChanged {
            from,
            to,
            assessment,
            ..
        } => {
            let what = format!("state {} -> {}", from.name(), to.name());
            with_reading(what, assessment.as_ref())
        }
        Body::SeverityChanged {
            from,
            to,
            assessment,
            ..
        } => {
            let what = format!("severity {} -> {}", from.name(), to.name());
            with_reading(what, assessment.as_ref())
        }
        Body::NodeAssessed {
            assessment: Some(a),
            ..
        } => format!("reads {}", reading(a)),
        Body::NodeSilent { .. } => "nothing was heard of it for three of its intervals".to_owned(),
        Body::NodeReturned { .. } => "it is heard again".to_owned(),
        Body::NodeRetired { .. } => "silent for so long that it is forgotten".to_owned(),
        Body::IdentityConflict { .. } => "two agents use its name: nothing is ordered".to_owned(),
        Body::AnomalyRaised {
            symptom,
            level,
            value,
            ..
        } => {
            let value = value.map_or(String::new(), |v| format!(" at {}", quantity(*symptom, v)));
            let level = if *level == Severity::Ok {
                ""
            } else {
                level.name()
            };
            format!("{} is established ({level}){value}", symptom.name())
        }
        Body::AnomalyCleared { symptom, .. } => format!("{} is over", symptom.name()),
        Body::IncidentOpened {
            incident_id,
            kind,
            nodes_ill,
            ill_since,
            ..
        } => {
            let after = duration(event.time - *ill_since);
            let mark = marked(incident_id);
            match kind {
                IncidentKind::Node => {
                    format!(
                        "incident {incident_id} opens, {after} after its first ill reading{mark}"
                    )
                }
                IncidentKind::Mass => format!(
                    "{nodes_ill} nodes fell ill at once: mass incident {incident_id}, \
                     nothing is ordered until a person releases it{mark}"
                ),
            }
        }
        Body::IncidentClosed {
            incident_id,
            repair_ms,
            kind,
            ..
        } => {
            let what = if *kind == IncidentKind::Mass {
                "released"
            } else {
                "repaired"
            };
            let took = duration(Span(*repair_ms));
            format!("incident {incident_id} closes: {what} {took} after the first ill reading")
        }
        Body::DirectiveIssued { directive } => format!(
            "ordered {} ({}, to be begun within {} s, policy generation {}){}",
            words(&directive.action),
            directive.id,
            directive.ttl_s,
            directive.policy_generation,
            marked(&directive.id)
        ),
        Body::DirectiveWithheld {
            id,
            action,
            reason,
            used,
            limit,
            until,
            ..
        } => {
            let mut text = format!("not ordered {}: {}", words(action), because(*reason));
            if let (Some(used), Some(limit)) = (used, limit) {
                text += &format!(" ({used} of {limit})");
            }
            if let Some(until) = until {
                text += &format!(", until {until}");
            }
            format!("{text} ({id}){}", marked(id))
        }
        Body::DirectiveExpired { id, proposal, .. } => {
            let what = if *proposal {
                "nobody answered the proposal"
            } else {
                "no outcome of"
            };
            format!("{what} {id} in time")
        }
        Body::OutcomeReported { outcome } => {
            let saw = outcome
                .observed
                .as_ref()
                .map_or(String::new(), |o| format!(": {o:?}"));
            format!(
                "the agent reports {} {}{saw} ({})",
                outcome.kind.name(),
                outcome.result.name(),
                outcome.directive_id
            )
        }
        Body::ApprovalRecorded {
            approved,
            by,
            subject,
            ..
        } => {
            format!(
                "{by} {} {subject}",
                if *approved { "approves" } else { "rejects" }
            )
        }
        Body::HoldPlaced { by, until, .. } => {
            let until = until.map_or("until released".to_owned(), |until| {
                format!("until {until}")
            });
            format!("held by {by} {until}")
        }
        Body::HoldReleased { by, .. } if by.is_empty() => "the hold ends".to_owned(),
        Body::HoldReleased { by, .. } => format!("the hold is released by {by}"),
        Body::NodeAssessed {
            assessment: None, ..
        }
        | Body::LogOpened { .. }
        | Body::SchemaAdopted { .. }
        | Body::LoopBlind { .. } => return None,
    };
    Some(text)
}

fn with_reading(what: String, assessment: Option<&Assessment>) -> String {
    match assessment {
        Some(a) => format!("{what}: reads {}", reading(a)),
        None => what,
    }
}

/// The reading behind an assessment: what ails it, or that nothing does.
fn reading(a: &Assessment) -> String {
    let metrics: Vec<String> = a
        .metrics
        .iter()
        .filter(|(metric, _)| *metric != Metric::FrequencyHz)
        .map(|(metric, value)| format!("{} {}", metric.name(), trimmed(value)))
        .collect();
    let findings: Vec<String> = a.findings.iter().map(finding).collect();
    let ails = if findings.is_empty() {
        "no symptom".to_owned()
    } else {
        findings.join(", ")
    };
    let state = State::name(a.state);
    format!("{} (phi {:.3}, {state}): {ails}", metrics.join(", "), a.phi)
}

fn finding(f: &Finding) -> String {
    let mut words = Vec::new();
    for (is, word) in [
        (f.shown, "shown"),
        (f.established, "established"),
        (f.confirmed, "confirmed"),
    ] {
        if is {
            words.push(word);
        }
    }
    if words.is_empty() {
        words.push("waning");
    }
    format!("{} {}", f.symptom.name(), words.join("+"))
}

fn quantity(symptom: Symptom, value: f64) -> String {
    match symptom.metric() {
        Some(metric) => format!("{} {}", metric.name(), trimmed(value)),
        None => trimmed(value),
    }
}

/// At most three decimals, none that are 0.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An action in words: `aggressive healing`, `route low_latency`.
pub fn words(action: &Action) -> String {
    match action {
        Action::MonitoringInterval { interval_s } => format!("to sample every {interval_s} s"),
        Action::RoutePreference { value } => format!("route {}", value.name()),
        Action::Healing { level } => format!("{} healing", level.name()),
        Action::Scaling { value } => format!("scaling {}", value.name()),
    }
}

/// A reason in words.
pub fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEvidence => "its state asks for it, its metrics do not (no_evidence)",
        Reason::NotConfirmed => "the 5-minute mean does not hold it yet (not_confirmed)",
        Reason::StaleEvidence => "the reading was history when it came (stale_evidence)",
        Reason::OtherPolicy => "it was judged under another policy (other_policy)",
        Reason::Silent => "the node is silent, nobody would hear (silent)",
        Reason::IdentityConflict => "two agents use its name (identity_conflict)",
        Reason::NotAllowed => "the policy does not allow it (not_allowed)",
        Reason::Held => "someone holds it (held)",
        Reason::UnderWay => "another order of its kind is under way (under_way)",
        Reason::Cooldown => "the same was ordered too recently (cooldown)",
        Reason::Budget => "too many nodes are being acted on (budget)",
        Reason::Storm => "too much of the mesh fell ill at once (storm)",
        Reason::NeedsApproval => "a person must approve it (needs_approval)",
        Reason::NotApproved => "nobody approved it (not_approved)",
        Reason::AttemptsSpent => "it was tried often enough (attempts_spent)",
        Reason::NotRepeated => "the agent declined it or cannot tell (not_repeated)",
        Reason::Shadow => "mode shadow only records (shadow)",
    }
}

/// A length of time for people: `4 min 10 s`, `20 s`, `0.5 s`.
pub fn duration(span: Span) -> String {
    let ms = span.0.max(0);
    match (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60) {
        (0, 0, _) if ms % 1000 != 0 => format!("{} s", trimmed(ms as f64 / 1000.0)),
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}
