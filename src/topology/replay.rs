//! Decides again and compares, byte for byte: from the recorded inboxes, or from the events alone.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::model::{
    Approval, Body, Event, Hold, LogOpened, LoopBlind, MeshId, PlanRecord, Policy, PolicyChange,
    Time,
};
use crate::plan;
use crate::runtime::{Position, Record, Task, TimeSource, TopicPartition};
use crate::stream::{Base, Fold, NoBase, Output, Topic};
use crate::wire;

use super::analyze::AnalyzeFold;
use super::plan::PlanFold;

/// What a log or an export holds.
pub type Recorded = BTreeMap<TopicPartition, Vec<Record>>;

/// How a replay went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inbox records folded; from events alone: groups of events with one cause.
    pub records: u64,
    /// Recorded decisions compared: Assessments, events and directives.
    pub decisions: u64,
    /// How many of them differ, are missing, or were decided without being recorded.
    pub differences: u64,
    /// Events of other engines: evolved, not judged.
    pub not_judged: u64,
    /// The first that differs.
    pub first_difference: Option<Difference>,
}

/// A decision that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where the recorded one stands, or would.
    pub place: String,
    /// What is recorded there.
    pub recorded: String,
    /// What was decided now.
    pub decided: String,
}

impl Report {
    fn compare(&mut self, place: impl Fn(usize) -> String, recorded: &[Vec<u8>], now: &[Vec<u8>]) {
        let longer = recorded.len().max(now.len());
        self.decisions += recorded.len() as u64;
        for i in 0..longer {
            let (was, is) = (recorded.get(i), now.get(i));
            if was == is {
                continue;
            }
            self.differences += 1;
            self.first_difference.get_or_insert_with(|| Difference {
                place: place(i),
                recorded: described(was),
                decided: described(is),
            });
        }
    }

    /// Adds another report to this one.
    pub fn add(&mut self, other: Report) {
        self.records += other.records;
        self.decisions += other.decisions;
        self.differences += other.differences;
        self.not_judged += other.not_judged;
        self.first_difference = self.first_difference.take().or(other.first_difference);
    }
}

/// Folds the recorded inboxes again and compares what leaves with what was recorded.
pub fn replay(recorded: &Recorded, prefix: &str, source: TimeSource) -> Report {
    let mut report = Report::default();
    replay_analyze(recorded, prefix, source, &mut report);
    let mut directives = BTreeMap::new();
    for (inbox, records) in of(recorded, Topic::PlanInbox) {
        let outputs = fold(&mut plan_task(inbox, prefix, source), records, &mut report);
        let events = TopicPartition {
            topic: Topic::Events,
            ..inbox
        };
        let place = |i| format!("{prefix}{events}, record {i}");
        report.compare(
            place,
            &all(recorded, events),
            &values(&outputs, Topic::Events),
        );
        directives.extend(
            values(&outputs, Topic::Directives)
                .into_iter()
                .filter_map(named),
        );
    }
    let records = of(recorded, Topic::Directives).flat_map(|(_, records)| records);
    let was: BTreeMap<_, _> = records
        .filter_map(|record| named(record.value.clone()))
        .collect();
    let keys: BTreeSet<_> = was.keys().chain(directives.keys()).collect();
    for key in keys {
        let one = |of: &BTreeMap<_, Vec<u8>>| of.get(key).cloned().into_iter().collect::<Vec<_>>();
        let place = |_| {
            format!(
                "directive of mesh {:?}, generation {}",
                key.0.as_str(),
                key.1
            )
        };
        report.compare(place, &one(&was), &one(&directives));
    }
    report
}

/// A directive's bytes under its mesh and generation.
fn named(bytes: Vec<u8>) -> Option<((MeshId, i64), Vec<u8>)> {
    let directive = wire::decode_directive(&bytes).ok()?;
    Some(((directive.mesh, directive.generation), bytes))
}

/// Decides again what each group of events with one cause says, from the events before it.
///
/// 1. The input is what the group's first event carries whole; without one only alarms fired, in
///    the mesh of the first event first.
/// 2. The task folds it over what the events before say; the same events must leave.
/// 3. Where they differ, the recorded ones are evolved instead, so that each group is judged by
///    itself.
pub fn replay_events(partition: i32, events: &[Vec<u8>]) -> Report {
    let mut report = Report::default();
    let decoded = match sound(events) {
        Ok(decoded) => decoded,
        Err((i, recorded, decided)) => {
            report.decisions = events.len() as u64;
            report.differences = 1;
            let place = format!("record {i} of events/{partition}");
            report.first_difference = Some(Difference {
                place,
                recorded,
                decided,
            });
            return report;
        }
    };
    let Some(first) = decoded.first() else {
        return report;
    };
    let inbox = TopicPartition {
        topic: Topic::PlanInbox,
        partition,
    };
    let prefix = first
        .cause
        .topic
        .strip_suffix(inbox.topic.name())
        .unwrap_or_default()
        .to_owned();
    let mut task = plan_task(inbox, &prefix, TimeSource::Log);
    let mut at = 0;
    while at < decoded.len() {
        let cause = &decoded[at].cause;
        let len = decoded[at..]
            .iter()
            .take_while(|event| event.cause == *cause)
            .count();
        let group = &decoded[at..at + len];
        let bytes = &events[at..at + len];
        at += len;
        report.records += 1;
        if group[0].engine != plan::ENGINE {
            report.not_judged += len as u64;
            evolve_all(&mut task, bytes);
            continue;
        }
        let input = input_of(group);
        // What its cause is called does not decide: a hostile log, or one that moved, may name it
        // twice.
        let position = task.position().map(|position| Position {
            next: input.offset,
            ..position
        });
        task.set_position(position);
        let mut outputs = Vec::new();
        let folded = task.fold(&input, &mut outputs).is_some();
        let now = values(&outputs, Topic::Events);
        let before = report.differences;
        let place = |i: usize| {
            let event = group.get(i).unwrap_or(&group[len - 1]);
            format!("mesh {:?} seq {}", event.mesh.as_str(), event.seq)
        };
        report.compare(place, bytes, &now);
        if report.differences > before {
            // A cause at or before the last one is not folded: there is nothing to take back.
            if folded {
                task.fold_mut().rollback();
            }
            evolve_all(&mut task, bytes);
        }
    }
    report
}

/// The events of a partition, when they can be evolved at all: each can be read, time never falls,
/// seq is dense per mesh, a mesh is opened by its first event alone, policies parse.
///
/// # Errors
/// The first that is not: which it is, what is recorded, what was expected.
pub fn sound(events: &[Vec<u8>]) -> Result<Vec<Event>, (usize, String, String)> {
    let mut next: BTreeMap<MeshId, i64> = BTreeMap::new();
    let mut texts = BTreeSet::new();
    let mut last = Time(i64::MIN);
    let mut decoded = Vec::with_capacity(events.len());
    for (i, bytes) in events.iter().enumerate() {
        let event = wire::decode_event(bytes).map_err(|reject| {
            (
                i,
                reject.to_string(),
                "an event that can be read".to_owned(),
            )
        })?;
        let seq = next.entry(event.mesh.clone()).or_default();
        if event.seq != *seq {
            return Err((i, wire::json::event(&event), format!("seq {seq}")));
        }
        *seq += 1;
        let opens = matches!(event.body, Body::MeshOpened { .. });
        if opens != (event.seq == 0 && !event.mesh.is_none()) {
            let expected = "MeshOpened as a mesh's first event, and only there".to_owned();
            return Err((i, wire::json::event(&event), expected));
        }
        if event.time < last {
            let expected = format!("no time before {last}");
            return Err((i, wire::json::event(&event), expected));
        }
        last = event.time;
        if let Body::Adopted { text, .. }
        | Body::MeshOpened {
            policy_text: text, ..
        } = &event.body
            && texts.insert(text.clone())
            && let Err(error) = Policy::parse(text)
        {
            return Err((
                i,
                wire::json::event(&event),
                format!("a policy that parses: {error}"),
            ));
        }
        decoded.push(event);
    }
    Ok(decoded)
}

/// Analyze speaks per node; what it says of the nodes of one of its partitions stands in order in
/// each mesh's inbox.
fn replay_analyze(recorded: &Recorded, prefix: &str, source: TimeSource, report: &mut Report) {
    let inboxes: Vec<_> = of(recorded, Topic::Metrics).collect();
    let partitions = inboxes.len() as i32;
    let mut was: BTreeMap<(i32, Vec<u8>), Vec<Vec<u8>>> = BTreeMap::new();
    for (_, records) in of(recorded, Topic::PlanInbox) {
        for record in records {
            if let Some(partition) = spoken_by(&record.value, partitions) {
                let words = was.entry((partition, record.key.clone())).or_default();
                words.push(record.value.clone());
            }
        }
    }
    let mut now: BTreeMap<(i32, Vec<u8>), Vec<Vec<u8>>> = BTreeMap::new();
    for (inbox, records) in inboxes {
        let base: Rc<dyn Base> = Rc::new(NoBase);
        let stage = Box::new(AnalyzeFold::new(&base));
        let mut task = Task::new(inbox, prefix, source, stage, None);
        for output in fold(&mut task, records, report) {
            if output.topic == Topic::PlanInbox {
                let words = now.entry((inbox.partition, output.key)).or_default();
                words.push(output.value);
            }
        }
    }
    let nothing = Vec::new();
    let keys: BTreeSet<_> = was.keys().chain(now.keys()).cloned().collect();
    for key in keys {
        let mesh = String::from_utf8_lossy(&key.1).into_owned();
        let place = |i| format!("mesh {mesh:?}, word {i} of metrics/{}", key.0);
        let was = was.get(&key).unwrap_or(&nothing);
        report.compare(place, was, now.get(&key).unwrap_or(&nothing));
    }
}

/// The partition of `metrics` whose Analyze wrote a record of `plan-inbox`; `None` when someone
/// else did.
fn spoken_by(value: &[u8], partitions: i32) -> Option<i32> {
    let node = match wire::decode_plan(value).ok()? {
        PlanRecord::Assessment(assessment) => assessment.node,
        PlanRecord::Outcome(outcome) => outcome.node,
        PlanRecord::LoopBlind(blind) => return Some(blind.partition),
        PlanRecord::Tick
        | PlanRecord::LogOpened(_)
        | PlanRecord::PolicyChange(_)
        | PlanRecord::Approval(_)
        | PlanRecord::Hold(_) => return None,
    };
    Some(crate::runtime::partition_of(
        node.as_str().as_bytes(),
        partitions,
    ))
}

fn plan_task(inbox: TopicPartition, prefix: &str, source: TimeSource) -> Task {
    let base: Rc<dyn Base> = Rc::new(NoBase);
    let stage = Box::new(PlanFold::new(inbox.partition, &base));
    Task::new(inbox, prefix, source, stage, None)
}

fn fold(task: &mut Task, records: &[Record], report: &mut Report) -> Vec<Output> {
    let mut outputs = Vec::new();
    for record in records {
        task.fold(record, &mut outputs);
        report.records += 1;
    }
    outputs
}

fn evolve_all(task: &mut Task, events: &[Vec<u8>]) {
    let fold: &mut dyn Fold = task.fold_mut();
    fold.begin();
    for bytes in events {
        fold.evolve(bytes).expect("decoded before");
    }
}

pub(super) fn of(
    recorded: &Recorded,
    topic: Topic,
) -> impl Iterator<Item = (TopicPartition, &Vec<Record>)> {
    recorded
        .iter()
        .filter(move |(at, _)| at.topic == topic)
        .map(|(at, records)| (*at, records))
}

fn all(recorded: &Recorded, at: TopicPartition) -> Vec<Vec<u8>> {
    let records = recorded.get(&at).map_or(&[][..], Vec::as_slice);
    records.iter().map(|record| record.value.clone()).collect()
}

fn values(outputs: &[Output], topic: Topic) -> Vec<Vec<u8>> {
    let of_topic = outputs.iter().filter(|output| output.topic == topic);
    of_topic.map(|output| output.value.clone()).collect()
}

/// The inbox record behind a group of events.
fn input_of(group: &[Event]) -> Record {
    let carried = group.iter().find_map(carried);
    let mesh = carried.as_ref().map_or(&group[0].mesh, |(mesh, _)| mesh);
    Record {
        offset: group[0].cause.offset,
        time: group[0].time,
        key: mesh.as_str().as_bytes().to_vec(),
        value: carried
            .as_ref()
            .map_or_else(Vec::new, |(_, record)| wire::encode_plan(record)),
        headers: Vec::new(),
    }
}

/// The input that an event carries whole, with the mesh that is its record's key.
fn carried(event: &Event) -> Option<(MeshId, PlanRecord)> {
    let mesh = event.mesh.clone();
    if let Some(assessment) = event.body.assessment() {
        return Some((mesh, PlanRecord::Assessment(assessment.clone())));
    }
    let record = match &event.body {
        Body::OutcomeReported { outcome } => PlanRecord::Outcome(outcome.clone()),
        Body::LogOpened {
            log_id,
            audit_name,
            partitions,
            time_source,
        } => PlanRecord::LogOpened(LogOpened {
            log_id: log_id.clone(),
            audit_name: audit_name.clone(),
            partitions: *partitions,
            time_source: time_source.clone(),
        }),
        Body::LoopBlind {
            topic,
            partition,
            from,
            to,
        } => PlanRecord::LoopBlind(LoopBlind {
            topic: topic.clone(),
            partition: *partition,
            from: *from,
            to: *to,
        }),
        Body::Adopted {
            text,
            by,
            taken_over: false,
            ..
        } => PlanRecord::PolicyChange(PolicyChange {
            mesh: mesh.clone(),
            text: text.clone(),
            by: by.clone(),
        }),
        Body::ApprovalRecorded {
            subject,
            node,
            approved,
            by,
            ..
        } => PlanRecord::Approval(Approval {
            mesh: mesh.clone(),
            node: node.clone(),
            subject: subject.clone(),
            approved: *approved,
            by: by.clone(),
        }),
        Body::HoldPlaced {
            scope,
            until,
            by,
            reason,
            ..
        } => PlanRecord::Hold(Hold {
            scope: scope.clone(),
            release: false,
            for_ms: until.map(|until: Time| (until - event.time).0),
            by: by.clone(),
            reason: reason.clone(),
        }),
        // A hold that ended by itself was released by nobody: an alarm, not an input.
        Body::HoldReleased { scope, by } if !by.is_empty() => PlanRecord::Hold(Hold {
            scope: scope.clone(),
            release: true,
            for_ms: None,
            by: by.clone(),
            reason: String::new(),
        }),
        _ => return None,
    };
    Some((mesh, record))
}

fn described(bytes: Option<&Vec<u8>>) -> String {
    let Some(bytes) = bytes else {
        return "nothing".to_owned();
    };
    match (wire::decode_event(bytes), wire::decode_plan(bytes)) {
        (Ok(event), _) => wire::json::event(&event),
        (Err(_), Ok(record)) => format!("{record:?}"),
        (Err(_), Err(_)) => String::from_utf8_lossy(bytes).into_owned(),
    }
}
