//! What another policy would have ordered over the same recorded inboxes.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Action, Approval, Body, Directive, Event, Hold, HoldScope, Kind, MeshId, MetricsRecord,
    NodeKey, Outcome, OutcomeResult, PlanRecord, Policy, PolicyChange, PolicyError, Reason, Span,
    Time,
};
use crate::runtime::{LogError, Record, Source, TimeSource, partitions_of};
use crate::stream::{BLIND_AFTER, Topic};
use crate::wire;

use super::replay::{Done, Progress, Reader};
use super::straight::{Left, Straight};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question<'a> {
    /// The other policy.
    pub policy: &'a str,
    /// What was decided from here on is compared; `None`: all of it.
    pub since: Option<Time>,
    /// Of this mesh alone.
    pub mesh: Option<MeshId>,
}

/// What another policy would have decided: of each pair the first is what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Inbox records folded.
    pub records: u64,
    /// Orders by mesh, node and action.
    pub orders: BTreeMap<(NodeKey, Action), (i64, i64)>,
    /// What was withheld, by reason.
    pub withheld: BTreeMap<Reason, (i64, i64)>,
    /// When a node was first healed.
    pub healed: BTreeMap<NodeKey, (Option<Time>, Option<Time>)>,
    /// Nodes that were heard.
    pub nodes: BTreeSet<NodeKey>,
}

impl WhatIf {
    /// How many orders more, and how many fewer.
    pub fn more_and_less(&self) -> (i64, i64) {
        let orders = self.orders.values();
        orders.fold((0, 0), |(more, less), (was, now)| {
            (more + (now - was).max(0), less + (was - now).max(0))
        })
    }

    /// How many orders were given, and how many would have been.
    pub fn ordered(&self) -> (i64, i64) {
        sum(self.orders.values())
    }

    /// How many wishes were withheld, and how many would have been.
    pub fn held_back(&self) -> (i64, i64) {
        sum(self.withheld.values())
    }

    /// How many nodes were healed both ways, but later or sooner by more than [`HEARD_WITHIN`].
    pub fn later_and_sooner(&self) -> (usize, usize) {
        let both = self
            .healed
            .values()
            .filter_map(|(was, now)| Some((*now)? - (*was)?));
        let moved: Vec<Span> = both.collect();
        let later = moved.iter().filter(|moved| **moved > HEARD_WITHIN).count();
        let sooner = moved.iter().filter(|moved| moved.times(-1) > HEARD_WITHIN);
        (later, sooner.count())
    }

    /// How many nodes were healed, and how many would have been.
    pub fn nodes_healed(&self) -> (usize, usize) {
        let count = |of: fn(&(Option<Time>, Option<Time>)) -> bool| {
            self.healed.values().filter(|pair| of(pair)).count()
        };
        (
            count(|(was, _)| was.is_some()),
            count(|(_, now)| now.is_some()),
        )
    }

    /// Whether anything is decided otherwise.
    pub fn differs(&self) -> bool {
        self.more_and_less() != (0, 0)
            || self.later_and_sooner() != (0, 0)
            || self.withheld.values().any(|(was, now)| was != now)
    }

    fn note(&mut self, event: &Event, question: &Question<'_>, which: Which) {
        let elsewhere = question
            .mesh
            .as_ref()
            .is_some_and(|mesh| *mesh != event.mesh);
        if let (Body::NodeSeen { node, first, .. }, false) = (&event.body, elsewhere)
            && *first
        {
            self.nodes.insert(NodeKey {
                mesh: event.mesh.clone(),
                node: node.clone(),
            });
        }
        let early = question.since.is_some_and(|since| event.time < since);
        if early || elsewhere {
            return;
        }
        match &event.body {
            Body::DirectiveIssued { directive } => {
                let key = key_of(directive);
                let pair = self
                    .orders
                    .entry((key.clone(), directive.action))
                    .or_default();
                *which.of(pair) += 1;
                if directive.action.kind() == Kind::Healing {
                    which
                        .of(self.healed.entry(key).or_default())
                        .get_or_insert(event.time);
                }
            }
            Body::DirectiveWithheld { reason, .. } => {
                *which.of(self.withheld.entry(*reason).or_default()) += 1;
            }
            _ => {}
        }
    }
}

/// Which of a pair.
#[derive(Clone, Copy)]
enum Which {
    Was,
    Now,
}

impl Which {
    fn of<T>(self, (was, now): &mut (T, T)) -> &mut T {
        match self {
            Which::Was => was,
            Which::Now => now,
        }
    }
}

fn sum<'a>(pairs: impl Iterator<Item = &'a (i64, i64)>) -> (i64, i64) {
    pairs.fold((0, 0), |(was, now), pair| (was + pair.0, now + pair.1))
}

fn key_of(directive: &Directive) -> NodeKey {
    NodeKey {
        mesh: directive.mesh.clone(),
        node: directive.node.clone(),
    }
}

/// It could not be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    /// The text is no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Folds the recorded inboxes under another policy, as if it had been adopted at first and none
/// later. They are read piece by piece, in order of append time; of equal times Plan's inbox first.
/// Asked since a time, readings count from [`WARM_UP`] before it, and what people said before that
/// stands as it stood then.
///
/// An order that was given about then too ([`SAME_MOMENT`]) has the outcome that it had; one that
/// was not is taken for applied at once. A person's answer counts for the proposal that waits then.
///
/// # Errors
/// The text is no policy, or the log cannot be read.
pub fn what_if(
    source: &mut dyn Source,
    question: &Question<'_>,
    progress: Progress<'_>,
) -> Result<WhatIf, WhatIfError> {
    Policy::parse(question.policy)?;
    let mut what_if = WhatIf::default();
    let mut done = Done::default();
    let from = question.since.map(|since| since + WARM_UP.times(-1));
    let mut agents = Agents::default();
    for mut events in readers(Topic::Events, from, source, &mut done)? {
        while let Some(record) = events.next(source)? {
            if let Ok(event) = wire::decode_event(&record.value) {
                what_if.note(&event, question, Which::Was);
                agents.remember(&event);
            }
            done.one(progress);
        }
    }
    let mut inboxes = Vec::new();
    for (topic, from) in [(Topic::PlanInbox, None), (Topic::Metrics, from)] {
        let readers = readers(topic, from, source, &mut done)?;
        inboxes.extend(readers.into_iter().map(|reader| (topic, reader)));
    }
    let title = source.title()?;
    let blind_after = match title.time_source {
        TimeSource::Log => BLIND_AFTER,
        TimeSource::Sample => Span(i64::MAX),
    };
    let mut lane: Option<Lane> = None;
    let mut early: Vec<(Time, Hold)> = Vec::new();
    while let Some((topic, record)) = earliest(&mut inboxes, source)? {
        done.one(progress);
        let Some(said) = from_outside(topic, &record.value) else {
            continue;
        };
        if from.is_some_and(|from| record.time < from) {
            if let Said::Hold(hold) = said {
                early.push((record.time, hold));
            }
            continue;
        }
        let first = lane.is_none();
        let lane = lane.get_or_insert_with(|| Lane {
            straight: begun(&title.log_id, question.policy, record.time),
            blind_after,
            early: std::mem::take(&mut early),
            agents: std::mem::take(&mut agents),
            told: WhatIf::default(),
        });
        if first {
            let (mesh, node) = (MeshId::none(), None);
            lane.place(&HoldScope { mesh, node }, question);
        }
        lane.pass(record.time, question);
        what_if.records += 1;
        if let Some(value) = lane.here(said, &record) {
            lane.append(topic, &record.key, value, question);
        }
    }
    if let Some(lane) = lane {
        what_if.merge(lane.told);
    }
    Ok(what_if)
}

/// The loop under the other policy, and the agents and people around it.
struct Lane {
    straight: Straight,
    /// Without a record for longer the loop that was recorded heard nothing.
    blind_after: Span,
    /// What people said before the readings that count, until those whom it is about are known.
    early: Vec<(Time, Hold)>,
    agents: Agents,
    told: WhatIf,
}

impl Lane {
    /// What was recorded, as it would have been said here.
    fn here(&mut self, said: Said, record: &Record) -> Option<Vec<u8>> {
        match said {
            Said::Outcome(outcome) => {
                let outcome = self.agents.report(outcome)?;
                Some(wire::encode_outcome(&outcome))
            }
            Said::Approval(approval) => {
                let approval = self.agents.answer(approval);
                Some(wire::encode_plan(&PlanRecord::Approval(approval)))
            }
            Said::Hold(_) | Said::AsItIs => Some(record.value.clone()),
            // The alarms here are others: they have Ticks of their own.
            Said::Tick => None,
        }
    }

    /// Places what was said early of those who are known now, as much of it as is not over.
    fn place(&mut self, scope: &HoldScope, question: &Question<'_>) {
        let of = |(_, hold): &(Time, Hold)| hold.scope == *scope;
        if !self.early.iter().any(of) {
            return;
        }
        let (said, rest) = std::mem::take(&mut self.early).into_iter().partition(of);
        self.early = rest;
        for (at, hold) in said {
            let passed = self.straight.now() - at;
            let for_ms = hold.for_ms.map(|ms| ms - passed.0);
            if for_ms.is_some_and(|left| left <= 0) {
                continue;
            }
            let key = hold.scope.mesh.as_str().as_bytes().to_vec();
            let hold = PlanRecord::Hold(Hold { for_ms, ..hold });
            self.append(Topic::PlanInbox, &key, wire::encode_plan(&hold), question);
        }
    }

    /// Lets time pass up to the next record.
    fn pass(&mut self, to: Time, question: &Question<'_>) {
        if to - self.straight.now() > self.blind_after {
            self.straight.skip_to(to);
        }
        while let Some(left) = self.straight.tick_by(to) {
            self.take(&left, question);
        }
    }

    fn append(&mut self, topic: Topic, key: &[u8], value: Vec<u8>, question: &Question<'_>) {
        let left = self.straight.append(topic, key, value);
        self.take(&left, question);
    }

    /// Notes what was decided, and lets agents answer.
    fn take(&mut self, left: &[Left], question: &Question<'_>) {
        let (mut reports, mut known) = (Vec::new(), Vec::new());
        for event in Straight::events(left) {
            self.told.note(&event, question, Which::Now);
            reports.extend(self.agents.obey(&event));
            match &event.body {
                Body::MeshOpened { .. } => known.push((event.mesh, None)),
                Body::NodeSeen { node, .. } => known.push((event.mesh, Some(node.clone()))),
                _ => {}
            }
        }
        for (mesh, node) in known {
            self.place(&HoldScope { mesh, node }, question);
        }
        for report in reports {
            let key = report.node.as_str().as_bytes().to_vec();
            self.append(
                Topic::Metrics,
                &key,
                wire::encode_outcome(&report),
                question,
            );
        }
    }
}

impl WhatIf {
    /// Takes what would have been decided from another.
    fn merge(&mut self, told: WhatIf) {
        for (order, (_, now)) in told.orders {
            self.orders.entry(order).or_default().1 = now;
        }
        for (reason, (_, now)) in told.withheld {
            self.withheld.entry(reason).or_default().1 = now;
        }
        for (node, (_, now)) in told.healed {
            self.healed.entry(node).or_default().1 = now;
        }
        self.nodes = told.nodes;
    }
}

/// An order that was given, and what was reported of it.
struct Given {
    id: String,
    at: Time,
    /// The order that takes its place here.
    here: Option<Directive>,
    /// Reported before it was given here.
    before: Option<Outcome>,
}

/// What agents and people did of what was recorded, and what they are asked here.
#[derive(Default)]
struct Agents {
    given: BTreeMap<(NodeKey, Action), Vec<Given>>,
    orders: BTreeMap<String, (NodeKey, Action)>,
    /// The recorded proposals.
    proposed: BTreeMap<String, (NodeKey, Action)>,
    /// Those that wait here.
    waiting: BTreeMap<(NodeKey, Action), String>,
}

impl Agents {
    /// A recorded event.
    fn remember(&mut self, event: &Event) {
        match &event.body {
            Body::DirectiveIssued { directive } => {
                let order = (key_of(directive), directive.action);
                self.orders.insert(directive.id.clone(), order.clone());
                self.given.entry(order).or_default().push(Given {
                    id: directive.id.clone(),
                    at: event.time,
                    here: None,
                    before: None,
                });
            }
            Body::DirectiveWithheld {
                id, node, action, ..
            } if proposes(&event.body) => {
                let key = NodeKey {
                    mesh: event.mesh.clone(),
                    node: node.clone(),
                };
                self.proposed.insert(id.clone(), (key, *action));
            }
            _ => {}
        }
    }

    /// An event here: what an agent reports at once.
    fn obey(&mut self, event: &Event) -> Option<Outcome> {
        match &event.body {
            Body::DirectiveIssued { directive } => {
                let order = (key_of(directive), directive.action);
                let given = self.given.get_mut(&order).and_then(|given| {
                    let near = |given: &&mut Given| {
                        let apart = (given.at - event.time).0.abs();
                        given.here.is_none() && apart <= SAME_MOMENT.0
                    };
                    given.iter_mut().find(near)
                });
                match given {
                    None => Some(Outcome::of(directive, OutcomeResult::Applied)),
                    Some(given) => {
                        given.here = Some(directive.clone());
                        let before = given.before.take()?;
                        Some(Outcome::of(directive, before.result))
                    }
                }
            }
            Body::DirectiveWithheld {
                id, node, action, ..
            } if proposes(&event.body) => {
                let key = NodeKey {
                    mesh: event.mesh.clone(),
                    node: node.clone(),
                };
                self.waiting.insert((key, *action), id.clone());
                None
            }
            _ => None,
        }
    }

    /// A recorded report, as it is of the order that took the place here.
    fn report(&mut self, outcome: Outcome) -> Option<Outcome> {
        let order = self.orders.get(&outcome.directive_id)?;
        let given = self.given.get_mut(order)?;
        let given = given
            .iter_mut()
            .find(|given| given.id == outcome.directive_id)?;
        match &given.here {
            Some(directive) => Some(Outcome::of(directive, outcome.result)),
            None => {
                given.before = Some(outcome);
                None
            }
        }
    }

    /// A person's answer, for the proposal that waits here.
    fn answer(&self, approval: Approval) -> Approval {
        let here = self.proposed.get(&approval.subject);
        match here.and_then(|proposal| self.waiting.get(proposal)) {
            Some(id) => Approval {
                subject: id.clone(),
                ..approval
            },
            None => approval,
        }
    }
}

fn proposes(body: &Body) -> bool {
    matches!(
        body,
        Body::DirectiveWithheld {
            reason: Reason::NeedsApproval,
            ..
        }
    )
}

/// A loop under this policy from its beginning.
fn begun(log_id: &str, policy: &str, start: Time) -> Straight {
    let mut straight = Straight::new(log_id, start).forgetful();
    let change = PolicyChange {
        mesh: MeshId::none(),
        text: policy.to_owned(),
        by: "what if".into(),
    };
    straight.append(
        Topic::PlanInbox,
        b"",
        wire::encode_plan(&PlanRecord::PolicyChange(change)),
    );
    straight
}

/// A reader of each partition of a topic, from a time or its start to its end.
fn readers(
    topic: Topic,
    from: Option<Time>,
    source: &mut dyn Source,
    done: &mut Done,
) -> Result<Vec<Reader>, LogError> {
    let partitions = source.title()?.partitions;
    partitions_of(topic, partitions)
        .map(|of| {
            let start = match from {
                Some(from) => source.offset_at(of, from)?,
                None => source.start(of)?,
            };
            let end = source.end(of)?;
            done.total += (end - start).max(0) as u64;
            Ok(Reader::new(of, start, end))
        })
        .collect()
}

/// Takes the earliest record of all; of equal times the first reader's.
fn earliest(
    inboxes: &mut [(Topic, Reader)],
    source: &mut dyn Source,
) -> Result<Option<(Topic, Record)>, LogError> {
    let mut first: Option<(Time, usize)> = None;
    for (i, (_, reader)) in inboxes.iter_mut().enumerate() {
        if let Some(record) = reader.peek(source)?
            && first.is_none_or(|(time, _)| record.time < time)
        {
            first = Some((record.time, i));
        }
    }
    let Some((_, i)) = first else { return Ok(None) };
    let (topic, reader) = &mut inboxes[i];
    Ok(reader.next(source)?.map(|record| (*topic, record)))
}

/// What came from outside.
enum Said {
    Outcome(Outcome),
    Approval(Approval),
    Hold(Hold),
    /// The passing of time.
    Tick,
    /// A reading, or what nobody can read.
    AsItIs,
}

/// What a record of an inbox says; `None` when it came from the loop itself, or is one that the
/// other policy replaces.
fn from_outside(topic: Topic, value: &[u8]) -> Option<Said> {
    match topic {
        Topic::Metrics => match wire::decode_metrics(value) {
            Ok(MetricsRecord::Adopted(_)) => None,
            Ok(MetricsRecord::Outcome(outcome)) => Some(Said::Outcome(outcome)),
            Ok(MetricsRecord::Tick) => Some(Said::Tick),
            _ => Some(Said::AsItIs),
        },
        _ => match wire::decode_plan(value) {
            Ok(
                PlanRecord::Assessment(_)
                | PlanRecord::Outcome(_)
                | PlanRecord::LoopBlind(_)
                | PlanRecord::LogOpened(_)
                | PlanRecord::PolicyChange(_),
            ) => None,
            Ok(PlanRecord::Approval(approval)) => Some(Said::Approval(approval)),
            Ok(PlanRecord::Hold(hold)) => Some(Said::Hold(hold)),
            Ok(PlanRecord::Tick) => Some(Said::Tick),
            _ => Some(Said::AsItIs),
        },
    }
}

/// Append time of the last reading that a log holds; `None` when it holds none.
///
/// # Errors
/// The log cannot be read.
pub fn last_time(source: &mut dyn Source) -> Result<Option<Time>, LogError> {
    let mut last = None;
    for of in partitions_of(Topic::Metrics, source.title()?.partitions) {
        let (start, end) = (source.start(of)?, source.end(of)?);
        // The very last may be the end of a transaction.
        let from = start.max(end - LAST_RECORDS);
        if from < end {
            let chunk = source.read(of, from, end, LAST_RECORDS as usize)?;
            last = last.max(chunk.records.last().map(|record| record.time));
        }
    }
    Ok(last)
}

/// How long before the time asked for readings count: a trend of 50 readings, and what a node was
/// last told.
pub const WARM_UP: Span = Span::seconds(2 * 3600);

/// Plan hears a reading within so long; here at once: what is nearer is no difference.
pub const HEARD_WITHIN: Span = Span::seconds(5);

/// Orders of the same kind and value so near to each other are answered by one report.
pub const SAME_MOMENT: Span = Span::seconds(60);

/// Offsets looked at for the last record.
const LAST_RECORDS: i64 = 100;
