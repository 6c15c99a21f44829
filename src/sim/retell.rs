//! A recorded incident as a story that `policy test` can be told (`docs/stories.md`).
//!
//! 1. Of one node: its readings as they came, from a while before it fell ill to a while after it
//!    was well; what was reported of its orders, and what people said of it or its mesh.
//! 2. Times are cut to whole seconds. Agents obey where everything was applied; else each report
//!    is a line of its own.
//! 3. What must come out is what comes out under the policy in force then. A report or an answer
//!    for which the story has no order is left out: the mesh's other nodes are not in it, and with
//!    them its budget and its storms.

use std::fmt::Write;

use crate::model::{
    Body, Event, HoldScope, IncidentKind, Kind, MeshId, Metric, Metrics, MetricsRecord, NodeKey,
    OutcomeResult, Policy, Span, Time,
};
use crate::monitor::validate;
use crate::runtime::{LogError, Source, TopicPartition};
use crate::stream::Topic;
use crate::topology::places::partitions_for;
use crate::wire;

use super::scenario::tell;

/// What a story is told of.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The node.
    pub key: NodeKey,
    /// What it is called.
    pub id: String,
    /// When it fell ill, or when the one decision was made.
    pub from: Time,
    /// When it was well again, if it is over.
    pub to: Option<Time>,
    /// The policy in force then.
    pub policy: String,
    acts: Vec<(Time, Act)>,
    ordered: usize,
}

/// A line of the story beside its readings.
#[derive(Clone, Debug, PartialEq)]
enum Act {
    Report(Kind, OutcomeResult),
    Answer(bool, String),
    Hold(HoldScope, Option<Span>, String),
    Release(HoldScope, String),
}

/// A story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retold {
    /// Its file.
    pub text: String,
    /// Orders that were recorded, and orders that it gives.
    pub ordered: (usize, usize),
}

/// There is no story.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetellError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its readings are no longer kept.
    #[error(
        "no reading of {0} from then is kept any more: samples are kept for days, events for ever; \
         write the story by hand (docs/stories.md) from `homeostat explain`"
    )]
    NoReadings(NodeKey),
    /// It is of no single node.
    #[error(
        "{0} is of much of a mesh at once: a story is told of one node; `homeostat events --type \
         SeverityChanged` names those that fell ill"
    )]
    Mass(String),
}

impl Subject {
    /// What events of a mesh's partition, in order, say of an id; `None` when none bears it.
    ///
    /// # Errors
    /// It is of no single node.
    pub fn find(events: &[Event], id: &str) -> Result<Option<Subject>, RetellError> {
        let Some(at) = events
            .iter()
            .position(|event| named(&event.body) == Some(id))
        else {
            return Ok(None);
        };
        let Some(node) = events[at].body.node() else {
            return Ok(None);
        };
        let key = NodeKey {
            mesh: events[at].mesh.clone(),
            node: node.clone(),
        };
        let incident = incident_of(&events[at].body).map(str::to_owned);
        let (mut from, mut to, mut opened) = (events[at].time, None, at);
        for (i, event) in events.iter().enumerate() {
            match &event.body {
                Body::IncidentOpened {
                    incident_id,
                    kind,
                    ill_since,
                    ..
                } if Some(incident_id) == incident.as_ref() => {
                    if *kind == IncidentKind::Mass {
                        return Err(RetellError::Mass(incident_id.clone()));
                    }
                    (from, opened) = (*ill_since, i);
                }
                Body::IncidentClosed { incident_id, .. }
                    if Some(incident_id) == incident.as_ref() =>
                {
                    to = Some(event.time);
                }
                _ => {}
            }
        }
        let policy = policy_at(&events[..=opened], &key.mesh);
        let mut subject = Subject {
            policy,
            id: incident.unwrap_or_else(|| id.to_owned()),
            from,
            to,
            acts: Vec::new(),
            ordered: 0,
            key,
        };
        for event in events {
            if (subject.begin()..=subject.end()).contains(&event.time) {
                subject.note(event);
            }
        }
        Ok(Some(subject))
    }

    fn begin(&self) -> Time {
        self.from + LEAD.times(-1)
    }

    fn end(&self) -> Time {
        self.to.unwrap_or(self.from) + TAIL
    }

    fn note(&mut self, event: &Event) {
        let of_node = event.mesh == self.key.mesh && event.body.node() == Some(&self.key.node);
        let bears = |scope: &HoldScope| {
            scope.mesh.is_none()
                || scope.mesh == self.key.mesh
                    && scope
                        .node
                        .as_ref()
                        .is_none_or(|node| *node == self.key.node)
        };
        let act = match &event.body {
            Body::DirectiveIssued { .. } if of_node => {
                self.ordered += 1;
                return;
            }
            Body::OutcomeReported { outcome } if of_node => {
                Act::Report(outcome.kind, outcome.result)
            }
            Body::ApprovalRecorded { approved, by, .. } if of_node => {
                Act::Answer(*approved, by.clone())
            }
            Body::HoldPlaced {
                scope, until, by, ..
            } if bears(scope) => {
                let length = until.map(|until| until - event.time);
                Act::Hold(scope.clone(), length, by.clone())
            }
            Body::HoldReleased { scope, by } if bears(scope) && !by.is_empty() => {
                Act::Release(scope.clone(), by.clone())
            }
            _ => return,
        };
        self.acts.push((event.time, act));
    }

    /// Reads what came of the node and tells it.
    ///
    /// # Errors
    /// The log cannot be read, or holds no reading of it any more.
    pub fn retell(&self, source: &mut dyn Source) -> Result<Retold, RetellError> {
        let readings = self.readings(source)?;
        if readings.is_empty() {
            return Err(RetellError::NoReadings(self.key.clone()));
        }
        let reports = |applied: bool| {
            let of = |act: &Act| match act {
                Act::Report(_, result) => (*result == OutcomeResult::Applied) == applied,
                _ => false,
            };
            self.acts.iter().filter(|(_, act)| of(act)).count()
        };
        let obedient = reports(false) == 0 && reports(true) >= self.ordered;
        let mut lines = self.lines(&readings, obedient);
        loop {
            let text = lines.concat();
            match tell(&text, Some(&self.policy)) {
                Ok(told) => {
                    let orders = told.lines().filter(|line| {
                        line.starts_with(' ')
                            && line.contains(" ordered ")
                            && !line.contains(" not ordered ")
                    });
                    return Ok(Retold {
                        ordered: (self.ordered, orders.count()),
                        text: told,
                    });
                }
                // One for which there is no order here.
                Err(error) => {
                    lines.remove(error.line - 1);
                }
            }
        }
    }

    fn readings(&self, source: &mut dyn Source) -> Result<Vec<(Time, Span, Metrics)>, LogError> {
        let partitions = source.title()?.partitions;
        let of = partitions_for(Topic::Metrics, None, Some(&self.key.node), partitions);
        let mut readings = Vec::new();
        for of in of {
            self.readings_of(of, source, &mut readings)?;
        }
        Ok(readings)
    }

    fn readings_of(
        &self,
        of: TopicPartition,
        source: &mut dyn Source,
        readings: &mut Vec<(Time, Span, Metrics)>,
    ) -> Result<(), LogError> {
        let mut next = source.offset_at(of, self.begin())?;
        let end = source.end(of)?;
        while next < end {
            let chunk = source.read(of, next, end, CHUNK_RECORDS)?;
            for record in &chunk.records {
                if record.time > self.end() || readings.len() >= READINGS_MAX {
                    return Ok(());
                }
                let Ok(MetricsRecord::Sample(raw)) = wire::decode_metrics(&record.value) else {
                    continue;
                };
                let Ok(sample) = validate(&raw, None, Span(i64::MAX)) else {
                    continue;
                };
                let (mesh, node) = (self.key.mesh.as_str(), self.key.node.as_str());
                if (sample.mesh, sample.node) == (mesh, node) {
                    let reading = sample.reading;
                    let interval_s = reading.interval_s.unwrap_or(60.0).round().max(1.0);
                    let interval = Span::seconds(interval_s as i64);
                    readings.push((record.time, interval, reading.metrics));
                }
            }
            next = chunk.next;
        }
        Ok(())
    }

    /// The story's lines as they go in, each with its end.
    fn lines(&self, readings: &[(Time, Span, Metrics)], obedient: bool) -> Vec<String> {
        let who = self.called();
        let begun = readings[0].0;
        let until = self.to.map_or("not over".to_owned(), |to| to.to_string());
        let policy = Policy::id(&self.policy);
        let mut lines = vec![
            format!(
                "# {} of {who}, ill from {} to {until}.\n",
                self.id, self.from
            ),
            format!("# As recorded; told under the policy in force then, {policy}.\n"),
        ];
        if obedient {
            lines.push("agents apply\n".to_owned());
        }
        let mut acts = self
            .acts
            .iter()
            .filter(|(_, act)| !(obedient && matches!(act, Act::Report(..))))
            .peekable();
        // Whole seconds of the story so far; a reading takes one at least.
        let mut clock = 0;
        let second = |time: Time| (time - begun).0.max(0).saturating_add(500) / 1000;
        let mut last = Metrics::default();
        let mut run: Option<(i64, i64)> = None;
        for (i, (time, interval, metrics)) in readings.iter().enumerate() {
            let following = readings.get(i + 1).map(|(time, ..)| *time);
            let mut stop = following
                .map_or(clock + interval.0 / 1000, second)
                .max(clock + 1);
            let act = acts.peek().filter(|(at, _)| {
                *at >= *time && following.is_none_or(|following| *at < following)
            });
            if let Some((at, _)) = act {
                stop = second(*at).clamp(clock + 1, stop);
            }
            let every = interval.0 / 1000;
            let length = (stop - clock).min(every);
            let values = changes(&last, metrics);
            last = *metrics;
            match &mut run {
                Some((of, total)) if *of == every && values.is_empty() && *total % every == 0 => {
                    *total += length;
                    let line = lines.last_mut().expect("the run's line");
                    *line = longer(line, every, *total);
                }
                _ => {
                    lines.push(format!("every {every}s for {length}s {who}{values}\n"));
                    run = Some((every, length));
                }
            }
            clock += length;
            if clock < stop {
                lines.push(format!("wait {}s\n", stop - clock));
                (clock, run) = (stop, None);
            }
            let next = following.map_or(i64::MAX, second);
            while let Some((at, act)) =
                acts.next_if(|(at, _)| following.is_none_or(|following| *at < following))
            {
                let at = second(*at).min(next);
                if at > clock {
                    lines.push(format!("wait {}s\n", at - clock));
                    clock = at;
                }
                lines.push(self.line(act));
                run = None;
            }
            if following.is_some() && next > clock {
                lines.push(format!("wait {}s\n", next - clock));
                (clock, run) = (next, None);
            }
        }
        lines
    }

    fn line(&self, act: &Act) -> String {
        let who = self.called();
        let mesh = who.split('/').next().unwrap_or_default();
        let scope = |scope: &HoldScope| match scope.node {
            Some(_) => who.clone(),
            None => mesh.to_owned(),
        };
        match act {
            Act::Report(kind, result) => {
                format!("report {who} {} {}\n", kind.name(), result.name())
            }
            Act::Answer(approved, by) => {
                let verb = if *approved { "approve" } else { "reject" };
                format!("{verb} {who} by {}\n", word(by))
            }
            Act::Hold(held, length, by) => {
                let length = length.map_or(String::new(), |length| {
                    format!(" for {}s", (length.0 / 1000).max(1))
                });
                format!("hold {}{length} by {}\n", scope(held), word(by))
            }
            Act::Release(held, by) => format!("release {} by {}\n", scope(held), word(by)),
        }
    }

    /// The node's name, or another where the grammar has no place for it.
    fn called(&self) -> String {
        let (mesh, node) = (self.key.mesh.as_str(), self.key.node.as_str());
        let fits = |name: &str| {
            let odd = |c: char| c.is_whitespace() || c == ';' || c == '/';
            !name.contains(odd) && !name.contains("..")
        };
        match fits(mesh) && fits(node) {
            true => format!("{mesh}/{node}"),
            false => "mesh/node".to_owned(),
        }
    }
}

/// A run's line with another length.
fn longer(line: &str, every: i64, total: i64) -> String {
    let rest = line.splitn(5, ' ').nth(4).unwrap_or_default();
    format!("every {every}s for {total}s {rest}")
}

/// What of the values is new, with a blank before each.
fn changes(last: &Metrics, now: &Metrics) -> String {
    let mut text = String::new();
    for metric in Metric::ALL {
        match (last.get(metric), now.get(metric)) {
            (before, Some(value)) if before != Some(value) => {
                let _ = write!(text, " {}={value}", metric.name());
            }
            (Some(_), None) => {
                let _ = write!(text, " {}=-", metric.name());
            }
            _ => {}
        }
    }
    text
}

fn word(by: &str) -> String {
    by.split_whitespace().collect::<Vec<_>>().join("-")
}

fn policy_at(events: &[Event], mesh: &MeshId) -> String {
    let text = events.iter().rev().find_map(|event| match &event.body {
        Body::Adopted { text, .. } if event.mesh == *mesh => Some(text.clone()),
        Body::MeshOpened { policy_text, .. } if event.mesh == *mesh => Some(policy_text.clone()),
        _ => None,
    });
    text.unwrap_or_default()
}

fn named(body: &Body) -> Option<&str> {
    match body {
        Body::DirectiveIssued { directive } => Some(&directive.id),
        Body::DirectiveWithheld { id, .. } => Some(id),
        Body::IncidentOpened { incident_id, .. } => Some(incident_id),
        _ => None,
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

/// How long before it fell ill the story begins: a window's mean, and the one before.
const LEAD: Span = Span::seconds(600);

/// How long after it was well the story goes on: until routes and intervals are back.
const TAIL: Span = Span::seconds(900);

/// Readings that a story holds at most.
const READINGS_MAX: usize = 20_000;

/// Records read at a time.
const CHUNK_RECORDS: usize = 4096;
