//! Scenario files: stories of a mesh that are checked. Flush-left lines go in, indented lines must
//! come out. They are our tests and the cases of `policy test`.
//!
//! ```text
//! # A link loses packets for two minutes.
//! policy plan.cooldown_s = 60
//! agents apply
//! every 10s for 1m alpha/n1..n3 cpu=40 memory=50 peers=5 latency=60 loss=0
//!     00:00:00 n1 seen
//! every 10s for 2m alpha/n1 loss=12; alpha/n2..n3 loss=0
//! wait 3m
//! hold alpha for 1h by ops
//! release alpha by ops
//! approve alpha/n1 by alice
//! report alpha/n1 healing failed
//! start alpha/n1
//! stray alpha/n1
//! clock alpha/n1 fast 4m
//! ```
//!
//! A node keeps the values that it was last given. `start` starts its agent anew, `stray` lets an
//! agent that started earlier speak once more under the same name, `clock` sets its clock fast,
//! slow or (`right`) right again. `agents apply` makes every order applied at once,
//! `agents ignore` (the default) lets them expire. Times are hours, minutes and seconds since the
//! start, 2026-01-01T00:00:00Z.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::knowledge::explain::{duration, words};
use crate::model::{
    Approval, Body, Directive, Event, EventTime, Hold, HoldScope, IncidentKind, Kind, MeshId,
    Metric, Metrics, NodeId, NodeKey, Outcome, OutcomeResult, PlanRecord, PolicyChange, Reading,
    Reason, Sample, Severity, Span, State, Symptom, Time,
};
use crate::stream::Topic;
use crate::topology::straight::{Left, Straight};
use crate::wire;

/// The story's first moment: 2026-01-01T00:00:00Z.
pub const START: Time = Time(1_767_225_600_000);

/// Longest story, records: a typing error must not run for a day.
const RECORDS_MAX: usize = 2_000_000;

/// A line that is no command, with what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ScenarioError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it and what was expected.
    pub what: String,
}

/// Tells a story under a policy and answers the file as it should read: its own flush-left lines,
/// with what came out under each.
///
/// # Errors
/// A line is no command, or names something that is not there.
pub fn tell(text: &str, policy: Option<&str>) -> Result<String, ScenarioError> {
    let mut stage = Telling::new(policy);
    let mut told = String::new();
    for (i, line) in text.lines().enumerate() {
        if line.starts_with([' ', '\t']) {
            continue;
        }
        told.push_str(line);
        told.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let failed = |what| ScenarioError { line: i + 1, what };
        for said in stage.command(line).map_err(failed)? {
            writeln!(told, "    {said}").expect("a string takes all");
        }
    }
    Ok(told)
}

/// The first line at which two tellings differ: its number, what was expected and what came.
pub fn first_difference(expected: &str, told: &str) -> Option<(usize, String, String)> {
    let (mut want, mut got) = (expected.lines(), told.lines());
    for line in 1.. {
        match (want.next(), got.next()) {
            (None, None) => return None,
            (want, got) if want.map(str::trim) == got.map(str::trim) => {}
            (want, got) => {
                let or_end = |line: Option<&str>| line.unwrap_or("the end").trim().to_owned();
                return Some((line, or_end(want), or_end(got)));
            }
        }
    }
    None
}

struct Telling {
    straight: Straight,
    nodes: BTreeMap<NodeKey, Metrics>,
    agents: BTreeMap<NodeKey, Agent>,
    orders: BTreeMap<(NodeKey, Kind), Directive>,
    proposals: BTreeMap<NodeKey, String>,
    obedient: bool,
    records: usize,
    said: Vec<String>,
}

/// A node's side of the story.
#[derive(Clone, Copy)]
struct Agent {
    boot: i64,
    seq: i64,
    interval: Span,
    /// How far its clock is ahead.
    fast: Span,
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            boot: 1,
            seq: 0,
            interval: Span(0),
            fast: Span(0),
        }
    }
}

impl Telling {
    fn new(policy: Option<&str>) -> Self {
        let mut telling = Telling {
            straight: Straight::new("scenario", START),
            nodes: BTreeMap::new(),
            agents: BTreeMap::new(),
            orders: BTreeMap::new(),
            proposals: BTreeMap::new(),
            obedient: false,
            records: 0,
            said: Vec::new(),
        };
        if let Some(text) = policy {
            telling.propose(text);
            telling.said.clear();
        }
        telling
    }

    fn command(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "policy" => self.propose(&rest.replace(" & ", "\n")),
            "agents" => self.obedient = one_of(rest, &[("apply", true), ("ignore", false)])?,
            "every" => self.every(rest)?,
            "wait" => self.wait(span(rest)?),
            "hold" => self.hold(rest, false)?,
            "release" => self.hold(rest, true)?,
            "approve" => self.answer(rest, true)?,
            "reject" => self.answer(rest, false)?,
            "report" => self.report(rest)?,
            "start" => self.start(rest)?,
            "stray" => self.stray(rest)?,
            "clock" => self.clock(rest)?,
            _ => {
                return Err(format!(
                    "{verb:?}: expected policy, agents, every, wait, hold, release, approve, \
                     reject, report, start, stray or clock"
                ));
            }
        }
        Ok(std::mem::take(&mut self.said))
    }

    /// `10s for 2m alpha/n1 loss=12; alpha/n2..n3 loss=0`
    fn every(&mut self, rest: &str) -> Result<(), String> {
        let usage = "expected: every SPAN for SPAN MESH/NODE[..NODE] metric=value ...; ...";
        let mut words = rest.splitn(4, ' ');
        let mut next = || words.next().ok_or(usage.to_owned());
        let (interval, word, length, who) = (span(next()?)?, next()?, span(next()?)?, next()?);
        if word != "for" || interval.0 <= 0 {
            return Err(usage.to_owned());
        }
        let mut group = Vec::new();
        for part in who.split(';') {
            let (names, values) = part.trim().split_once(' ').unwrap_or((part.trim(), ""));
            for key in nodes(names)? {
                let metrics = self.nodes.entry(key.clone()).or_default();
                for value in values.split_whitespace() {
                    set(metrics, value)?;
                }
                group.push(key);
            }
        }
        let end = self.straight.now() + length;
        while self.straight.now() < end {
            for key in &group {
                self.sample(key, interval)?;
            }
            let next = (self.straight.now() + interval).min(end);
            self.advance(next);
        }
        Ok(())
    }

    fn sample(&mut self, key: &NodeKey, interval: Span) -> Result<(), String> {
        self.records += 1;
        if self.records > RECORDS_MAX {
            return Err(format!("more than {RECORDS_MAX} samples in one story"));
        }
        let agent = self.agents.entry(key.clone()).or_default();
        agent.seq += 1;
        agent.interval = interval;
        let speaks = *agent;
        self.speak(key, speaks);
        Ok(())
    }

    fn speak(&mut self, key: &NodeKey, agent: Agent) {
        let sample = Sample {
            mesh: key.mesh.clone(),
            node: key.node.clone(),
            reading: Reading {
                boot: agent.boot,
                seq: Some(agent.seq),
                time: EventTime((self.straight.now() + agent.fast).0),
                interval_s: Some(agent.interval.0 as f64 / 1000.0),
                metrics: self.nodes[key],
            },
            neighbours: Vec::new(),
        };
        let node = key.node.as_str().as_bytes();
        self.append(Topic::Metrics, node, wire::encode_sample(&sample));
    }

    fn start(&mut self, who: &str) -> Result<(), String> {
        let boot = self.straight.now().0;
        let agent = self.agent(who)?.1;
        agent.boot = boot;
        agent.seq = 0;
        Ok(())
    }

    fn stray(&mut self, who: &str) -> Result<(), String> {
        let (key, agent) = self.agent(who)?;
        let mut other = *agent;
        other.boot -= 1;
        self.speak(&key, other);
        Ok(())
    }

    /// `alpha/n1 fast 4m`, `alpha/n1 slow 4m` or `alpha/n1 right`
    fn clock(&mut self, rest: &str) -> Result<(), String> {
        let words: Vec<&str> = rest.split(' ').collect();
        let (who, fast) = match words[..] {
            [who, "fast", by] => (who, span(by)?),
            [who, "slow", by] => (who, span(by)?.times(-1)),
            [who, "right"] => (who, Span(0)),
            _ => return Err("expected: clock MESH/NODE fast|slow SPAN, or right".to_owned()),
        };
        self.agent(who)?.1.fast = fast;
        Ok(())
    }

    fn agent(&mut self, who: &str) -> Result<(NodeKey, &mut Agent), String> {
        let key = one_node(who)?;
        match self.agents.get_mut(&key) {
            Some(agent) => Ok((key, agent)),
            None => Err(format!("{key} has not spoken so far")),
        }
    }

    fn wait(&mut self, span: Span) {
        let to = self.straight.now() + span;
        self.advance(to);
    }

    fn advance(&mut self, to: Time) {
        while let Some(left) = self.straight.tick_by(to) {
            self.note(self.straight.now(), &left);
        }
    }

    fn append(&mut self, topic: Topic, key: &[u8], value: Vec<u8>) {
        let left = self.straight.append(topic, key, value);
        self.note(self.straight.now(), &left);
    }

    fn plan(&mut self, mesh: &MeshId, record: &PlanRecord) {
        self.append(
            Topic::PlanInbox,
            mesh.as_str().as_bytes(),
            wire::encode_plan(record),
        );
    }

    fn propose(&mut self, text: &str) {
        let mesh = MeshId::none();
        let change = PolicyChange {
            mesh: mesh.clone(),
            text: text.to_owned(),
            by: "ops".into(),
        };
        self.plan(&mesh, &PlanRecord::PolicyChange(change));
    }

    /// `alpha[/n1] [for 2h] by ops`
    fn hold(&mut self, rest: &str, release: bool) -> Result<(), String> {
        let words: Vec<&str> = rest.split(' ').collect();
        let (scope, for_ms, by) = match words[..] {
            [scope, "by", by] => (scope, None, by),
            [scope, "for", length, "by", by] if !release => (scope, Some(span(length)?.0), by),
            _ => return Err("expected: hold MESH[/NODE] [for SPAN] by NAME".to_owned()),
        };
        let (mesh, node) = match scope.split_once('/') {
            Some((mesh, node)) => (mesh, Some(NodeId::parse(node).ok_or("a node's name")?)),
            None => (scope, None),
        };
        let mesh = MeshId::parse(mesh).ok_or("a mesh's name is too long")?;
        let scope = HoldScope {
            mesh: mesh.clone(),
            node,
        };
        let by = by.to_owned();
        let hold = Hold {
            scope,
            release,
            for_ms,
            by,
            reason: String::new(),
        };
        self.plan(&mesh, &PlanRecord::Hold(hold));
        Ok(())
    }

    fn answer(&mut self, rest: &str, approved: bool) -> Result<(), String> {
        let (who, by) = rest
            .split_once(" by ")
            .ok_or("expected: approve MESH/NODE by NAME")?;
        let key = one_node(who)?;
        let subject = self
            .proposals
            .get(&key)
            .ok_or(format!("nothing waits on {key}"))?
            .clone();
        let (mesh, node, by) = (key.mesh.clone(), key.node, by.to_owned());
        let approval = Approval {
            mesh: mesh.clone(),
            node,
            subject,
            approved,
            by,
        };
        self.plan(&mesh, &PlanRecord::Approval(approval));
        Ok(())
    }

    fn report(&mut self, rest: &str) -> Result<(), String> {
        let words: Vec<&str> = rest.split(' ').collect();
        let [who, kind, result] = words[..] else {
            return Err("expected: report MESH/NODE KIND RESULT".to_owned());
        };
        let kind = one_of(kind, &Kind::ALL.map(|kind| (kind.name(), kind)))?;
        let results = [
            OutcomeResult::Applied,
            OutcomeResult::Refused,
            OutcomeResult::Failed,
            OutcomeResult::Unknown,
        ];
        let result = one_of(result, &results.map(|result| (result.name(), result)))?;
        self.outcome(one_node(who)?, kind, result)
    }

    fn outcome(&mut self, key: NodeKey, kind: Kind, result: OutcomeResult) -> Result<(), String> {
        let slot = (key.clone(), kind);
        let order = self
            .orders
            .get(&slot)
            .ok_or(format!("{key} has no such order"))?;
        let outcome = Outcome {
            mesh: key.mesh,
            node: key.node.clone(),
            log_id: "scenario".to_owned(),
            directive_id: order.id.clone(),
            generation: order.generation,
            kind,
            result,
            observed: None,
        };
        let node = key.node.as_str().as_bytes().to_vec();
        self.append(Topic::Metrics, &node, wire::encode_outcome(&outcome));
        Ok(())
    }

    /// Tells what left, and lets obedient agents answer.
    fn note(&mut self, time: Time, left: &[Left]) {
        for dead in left.iter().filter(|left| left.topic == Topic::DeadLetters) {
            self.said.push(format!(
                "{} dead letter: {}",
                clock(START, time),
                header(dead, "reason")
            ));
        }
        let mut answers = Vec::new();
        for event in Straight::events(left) {
            if let Some(text) = brief(&event) {
                let mesh = event.mesh.as_str();
                let all = if mesh.is_empty() { "all" } else { mesh };
                let who = event.body.node().map_or(all, NodeId::as_str);
                self.said
                    .push(format!("{} {who} {text}", clock(START, time)));
            }
            match event.body {
                Body::DirectiveIssued { directive } => {
                    let key = NodeKey {
                        mesh: event.mesh,
                        node: directive.node.clone(),
                    };
                    let slot = (key, directive.action.kind());
                    answers.push(slot.clone());
                    self.orders.insert(slot, directive);
                }
                Body::DirectiveWithheld {
                    id,
                    node,
                    reason: Reason::NeedsApproval,
                    ..
                } => {
                    self.proposals.insert(
                        NodeKey {
                            mesh: event.mesh,
                            node,
                        },
                        id,
                    );
                }
                _ => {}
            }
        }
        let obedient = self.obedient;
        for (key, kind) in answers.into_iter().filter(|_| obedient) {
            self.outcome(key, kind, OutcomeResult::Applied)
                .expect("it was just ordered");
        }
    }
}

/// An event in a few words; `None` for what a reader of a story need not see.
pub fn brief(event: &Event) -> Option<String> {
    let text = match &event.body {
        Body::NodeSeen { first: true, .. } => "seen".to_owned(),
        Body::NodeSeen { .. } => "seen again after a new start".to_owned(),
        Body::StateChanged { from, to, .. } => {
            format!("state {} -> {}", State::name(*from), State::name(*to))
        }
        Body::SeverityChanged {
            from, to, symptoms, ..
        } => {
            let names: Vec<&str> = symptoms.iter().map(|s| Symptom::name(*s)).collect();
            let why = if names.is_empty() {
                String::new()
            } else {
                format!(": {}", names.join(", "))
            };
            format!(
                "severity {} -> {}{why}",
                Severity::name(*from),
                Severity::name(*to)
            )
        }
        Body::NodeSilent { .. } => "silent".to_owned(),
        Body::NodeReturned { .. } => "heard again".to_owned(),
        Body::NodeRetired { .. } => "forgotten".to_owned(),
        Body::IdentityConflict { .. } => "two agents use this name".to_owned(),
        Body::LoopBlind { from, to, .. } => format!("loop was blind for {}", duration(*to - *from)),
        Body::AnomalyRaised { symptom, .. } => format!("{} established", symptom.name()),
        Body::AnomalyCleared { symptom, .. } => format!("{} over", symptom.name()),
        Body::IncidentOpened {
            kind: IncidentKind::Node,
            ill_since,
            ..
        } => {
            format!("incident opens after {}", duration(event.time - *ill_since))
        }
        Body::IncidentOpened { nodes_ill, .. } => format!("mass incident of {nodes_ill} nodes"),
        Body::IncidentClosed {
            kind: IncidentKind::Node,
            repair_ms,
            ..
        } => {
            format!(
                "incident closes, repaired after {}",
                duration(Span(*repair_ms))
            )
        }
        Body::IncidentClosed { .. } => "mass incident released".to_owned(),
        Body::DirectiveIssued { directive } => format!("ordered {}", words(&directive.action)),
        Body::DirectiveWithheld {
            action,
            reason,
            used,
            limit,
            until,
            ..
        } => {
            let mut text = format!("not ordered {}: {}", words(action), reason.name());
            if let (Some(used), Some(limit)) = (used, limit) {
                text += &format!(" ({used} of {limit})");
            }
            if let Some(until) = until {
                text += &format!(" until {}", clock(START, *until));
            }
            text
        }
        Body::DirectiveExpired { kind, proposal, .. } => {
            let what = if *proposal { "proposal" } else { "order" };
            format!("{} {what} expired", kind.name())
        }
        Body::OutcomeReported { outcome } => {
            format!("{} {}", outcome.kind.name(), outcome.result.name())
        }
        Body::ApprovalRecorded { approved, by, .. } => {
            format!(
                "{} by {by}",
                if *approved { "approved" } else { "rejected" }
            )
        }
        Body::HoldPlaced { by, until, .. } => {
            let until = until.map_or(String::new(), |until| {
                format!(" until {}", clock(START, until))
            });
            format!("held by {by}{until}")
        }
        Body::HoldReleased { by, .. } if by.is_empty() => "hold ends".to_owned(),
        Body::HoldReleased { by, .. } => format!("released by {by}"),
        Body::Adopted {
            policy_generation,
            taken_over: false,
            ..
        } => {
            format!("policy generation {policy_generation}")
        }
        Body::Adopted { .. }
        | Body::NodeAssessed { .. }
        | Body::LogOpened { .. }
        | Body::MeshOpened { .. }
        | Body::SchemaAdopted { .. } => return None,
    };
    Some(text)
}

/// The text of a header; empty when there is none of this name.
fn header(left: &Left, name: &str) -> String {
    let found = left.headers.iter().find(|(own, _)| own == name);
    found.map_or(String::new(), |(_, text)| {
        String::from_utf8_lossy(text).into_owned()
    })
}

/// Time since the start of a story.
pub fn clock(start: Time, time: Time) -> String {
    let s = (time - start).0 / 1000;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// `90s`, `5m`, `2h`, `7d`.
///
/// # Errors
/// It is no whole number with one of these units.
pub fn span(text: &str) -> Result<Span, String> {
    let expected = || format!("{text:?}: expected a whole number with s, m, h or d");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds =
        one_of(unit, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]).map_err(|_| expected())?;
    let number: u32 = number.parse().map_err(|_| expected())?;
    Ok(Span::seconds(i64::from(number) * seconds))
}

/// `alpha/n1` or `alpha/n1..n12`.
fn nodes(text: &str) -> Result<Vec<NodeKey>, String> {
    let expected = || format!("{text:?}: expected MESH/NODE or MESH/NODE1..NODE9");
    let (mesh, names) = text.split_once('/').ok_or_else(expected)?;
    let mesh = MeshId::parse(mesh)
        .filter(|mesh| !mesh.is_none())
        .ok_or_else(expected)?;
    let key = |name: &str| {
        let node = NodeId::parse(name).ok_or_else(expected)?;
        Ok(NodeKey {
            mesh: mesh.clone(),
            node,
        })
    };
    let Some((from, to)) = names.split_once("..") else {
        return Ok(vec![key(names)?]);
    };
    let stem = from.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = |text: &str| {
        let digits = text.strip_prefix(stem).ok_or_else(expected)?;
        digits.parse::<u32>().map_err(|_| expected())
    };
    (number(from)?..=number(to)?)
        .map(|n| key(&format!("{stem}{n}")))
        .collect()
}

fn one_node(text: &str) -> Result<NodeKey, String> {
    let mut keys = nodes(text)?;
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        _ => Err(format!("{text:?}: expected one MESH/NODE")),
    }
}

/// `loss=12`, by the metric's name or its short one; `loss=-` takes it away.
fn set(metrics: &mut Metrics, text: &str) -> Result<(), String> {
    let short = [
        "cpu", "memory", "peers", "latency", "loss", "mttr", "trust", "hz",
    ];
    let expected = || format!("{text:?}: expected one of {} = a value", short.join(", "));
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let metric = Metric::ALL
        .into_iter()
        .zip(short)
        .find(|(metric, short)| *short == name || metric.name() == name)
        .ok_or_else(expected)?
        .0;
    if value == "-" {
        let mut without = Metrics::default();
        for (other, value) in metrics.iter().filter(|(other, _)| *other != metric) {
            assert!(without.try_set(other, value), "it was valid before");
        }
        *metrics = without;
        return Ok(());
    }
    let value: f64 = value.parse().map_err(|_| expected())?;
    metrics
        .try_set(metric, value)
        .then_some(())
        .ok_or_else(|| format!("{text:?}: out of range"))
}

fn one_of<T: Copy>(text: &str, of: &[(&str, T)]) -> Result<T, String> {
    let found = of.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = of.iter().map(|(name, _)| *name).collect();
        format!("{text:?}: expected {}", names.join(", "))
    })
}
