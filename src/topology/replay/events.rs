//! Decides again from the events alone.
//!
//! What each group of events with one cause says is decided again from the events before it:
//! 1. The input is what the group's first event carries whole; without one only alarms fired, in
//!    the mesh of the first event first.
//! 2. The task folds it over what the events before say; the same events must leave.
//! 3. Where they differ, the recorded ones are evolved instead, so that each group is judged by
//!    itself.
//!
//! A log that cannot be evolved at all ([`Soundness`]) is not judged beyond saying so.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::model::{
    Approval, Body, Event, Hold, LogOpened, LoopBlind, MeshId, PlanRecord, Policy, PolicyChange,
    PolicyId, Time,
};
use crate::plan;
use crate::runtime::{
    LogError, Position, Record, Source, Task, TimeSource, TopicPartition, partitions_of,
};
use crate::stream::{EVENTS_PER_RECORD, Topic};
use crate::wire;

use super::lane::Reader;
use super::{Done, InMap, Progress, Report, evolve_all, plan_task, values};

/// Decides again what the events of a partition say.
pub fn replay_events(partition: i32, events: &[Vec<u8>]) -> Report {
    let mut soundness = Soundness::default();
    let fault = events.iter().find_map(|bytes| soundness.check(bytes).err());
    if let Some(fault) = fault {
        return unsound(partition, events.len() as u64, fault);
    }
    let mut judge = Judge::new(partition);
    events.iter().for_each(|bytes| judge.take(bytes.clone()));
    judge.finish()
}

/// The same for every partition of a log, read piece by piece: once to see whether it is sound,
/// once to judge.
///
/// # Errors
/// It cannot be read.
pub fn replay_log_events(
    source: &mut dyn Source,
    progress: Progress<'_>,
) -> Result<Report, LogError> {
    let mut report = Report::default();
    let mut done = Done::default();
    let mut spans = Vec::new();
    for of in partitions_of(Topic::Events, source.title()?.partitions) {
        let (start, end) = (source.start(of)?, source.end(of)?);
        done.total += 2 * (end - start).max(0) as u64;
        spans.push((of, start, end));
    }
    for (of, start, end) in spans {
        report.add(replay_partition(
            source,
            of,
            (start, end),
            &mut done,
            progress,
        )?);
    }
    Ok(report)
}

fn replay_partition(
    source: &mut dyn Source,
    of: TopicPartition,
    (start, end): (i64, i64),
    done: &mut Done,
    progress: Progress<'_>,
) -> Result<Report, LogError> {
    let mut soundness = Soundness::default();
    let mut reader = Reader::new(of, start, end);
    let mut events = 0;
    let mut fault = None;
    while let Some(record) = reader.next(source)? {
        events += 1;
        fault = fault.or_else(|| soundness.check(&record.value).err());
        done.one(progress);
    }
    if let Some(fault) = fault {
        return Ok(unsound(of.partition, events, fault));
    }
    let mut judge = Judge::new(of.partition);
    let mut reader = Reader::new(of, start, end);
    while let Some(record) = reader.next(source)? {
        judge.take(record.value);
        done.one(progress);
    }
    Ok(judge.finish())
}

/// The verdict on a log that cannot be evolved.
pub(super) fn unsound(partition: i32, events: u64, fault: Unsound) -> Report {
    let mut report = Report {
        decisions: events,
        ..Report::default()
    };
    let place = format!("record {} of events/{partition}", fault.record);
    report.differ(|| (place, fault.recorded, fault.expected));
    report
}

/// Judges the events of a partition, group by group.
struct Judge {
    partition: i32,
    task: Option<Task>,
    rows: Rc<InMap>,
    group: Vec<Event>,
    bytes: Vec<Vec<u8>>,
    report: Report,
}

impl Judge {
    fn new(partition: i32) -> Self {
        Judge {
            partition,
            task: None,
            rows: Rc::new(InMap::default()),
            group: Vec::new(),
            bytes: Vec::new(),
            report: Report::default(),
        }
    }

    /// Takes the next event, which is sound.
    fn take(&mut self, bytes: Vec<u8>) {
        let event = wire::decode_event(&bytes).expect("what is sound can be read");
        // No record causes more: what someone made longer is judged in pieces, and differs.
        let full = self.group.len() > EVENTS_PER_RECORD;
        let same = self
            .group
            .last()
            .is_some_and(|last| last.cause == event.cause);
        if !self.group.is_empty() && (full || !same) {
            self.judge();
        }
        self.group.push(event);
        self.bytes.push(bytes);
    }

    fn finish(mut self) -> Report {
        if !self.group.is_empty() {
            self.judge();
        }
        self.report
    }

    fn judge(&mut self) {
        self.judge_group();
        if self.report.records.is_multiple_of(DRAIN_GROUPS)
            && let Some(task) = &mut self.task
        {
            self.rows.take(task.fold_mut().drain());
        }
    }

    fn judge_group(&mut self) {
        let (group, bytes) = (
            std::mem::take(&mut self.group),
            std::mem::take(&mut self.bytes),
        );
        let task = self.task.get_or_insert_with(|| {
            let inbox = TopicPartition {
                topic: Topic::PlanInbox,
                partition: self.partition,
            };
            let topic = &group[0].cause.topic;
            let prefix = topic.strip_suffix(inbox.topic.name()).unwrap_or_default();
            plan_task(inbox, prefix, TimeSource::Log, &self.rows)
        });
        self.report.records += 1;
        if group[0].engine != plan::ENGINE {
            self.report.not_judged += group.len() as u64;
            evolve_all(task, &bytes);
            return;
        }
        let input = input_of(&group);
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
        let before = self.report.differences;
        let place = |i: usize| {
            let event = group.get(i).unwrap_or(&group[group.len() - 1]);
            format!("mesh {:?} seq {}", event.mesh.as_str(), event.seq)
        };
        self.report.compare(place, &bytes, &now);
        if self.report.differences > before {
            // A cause at or before the last one is not folded: there is nothing to take back.
            if folded {
                task.fold_mut().rollback();
            }
            evolve_all(task, &bytes);
        }
    }
}

/// What makes a log one that cannot be evolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound {
    /// Which event of its partition, from 0.
    pub record: u64,
    /// What is recorded.
    pub recorded: String,
    /// What was expected.
    pub expected: String,
}

/// Sees whether the events of a partition can be evolved, one after the other: each can be read,
/// time never falls, seq is dense per mesh, a mesh is opened by its first event alone, policies
/// parse.
#[derive(Debug)]
pub struct Soundness {
    count: u64,
    next: BTreeMap<MeshId, i64>,
    policies: BTreeSet<PolicyId>,
    last: Time,
}

impl Default for Soundness {
    fn default() -> Self {
        Soundness {
            count: 0,
            next: BTreeMap::new(),
            policies: BTreeSet::new(),
            last: Time(i64::MIN),
        }
    }
}

impl Soundness {
    /// The next event, when it can be evolved.
    ///
    /// # Errors
    /// It cannot; neither can what follows.
    pub fn check(&mut self, bytes: &[u8]) -> Result<Event, Unsound> {
        let record = self.count;
        self.count += 1;
        let unsound = |recorded, expected: String| Unsound {
            record,
            recorded,
            expected,
        };
        let event = wire::decode_event(bytes).map_err(|reject| {
            unsound(reject.to_string(), "an event that can be read".to_owned())
        })?;
        let json = || wire::json::event(&event);
        let seq = self.next.entry(event.mesh.clone()).or_default();
        if event.seq != *seq {
            return Err(unsound(json(), format!("seq {seq}")));
        }
        *seq += 1;
        let opens = matches!(event.body, Body::MeshOpened { .. });
        if opens != (event.seq == 0 && !event.mesh.is_none()) {
            let expected = "MeshOpened as a mesh's first event, and only there";
            return Err(unsound(json(), expected.to_owned()));
        }
        if event.time < self.last {
            return Err(unsound(json(), format!("no time before {}", self.last)));
        }
        self.last = event.time;
        if let Body::Adopted { text, .. }
        | Body::MeshOpened {
            policy_text: text, ..
        } = &event.body
            && self.policies.insert(PolicyId::of(text))
            && let Err(error) = Policy::parse(text)
        {
            let expected = format!("a policy that parses: {error}");
            return Err(unsound(json(), expected));
        }
        Ok(event)
    }
}

/// The events of a partition, when they can be evolved at all ([`Soundness`]).
///
/// # Errors
/// The first that is not: which it is, what is recorded, what was expected.
pub fn sound(events: &[Vec<u8>]) -> Result<Vec<Event>, Unsound> {
    let mut soundness = Soundness::default();
    events.iter().map(|bytes| soundness.check(bytes)).collect()
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

/// Groups between two writings of the rows that they changed.
const DRAIN_GROUPS: u64 = 2048;
