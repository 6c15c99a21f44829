//! Monitor and Analyze as one stage over `metrics`: a node's readings in, and out only what Plan
//! may use and has not been told, and the cycles that closed.
//!
//! 1. [`AnalyzeStage`] folds the signals of one node by one policy.
//! 2. [`AnalyzeFold`] brings the bytes of a partition to it, with each mesh's policy, and its words
//!    to the topics.
//! 3. [`gauges`] and [`window`] show what is kept.

mod fold;
mod row;
mod shown;

use crate::analyze::Rules;
use crate::analyze::panes::ClosedPane;
use crate::model::{
    Assessment, CycleClosed, Finding, Metrics, MonitorPolicy, NodeKey, Outcome, Policy, PolicyId,
    Reading, Refusal, Severity, Symptom, Time,
};
use crate::monitor::{Fault, Reason};
use crate::stream::{At, Signal, Stage, Step};

pub use fold::{AnalyzeFold, Counts, NODES_KEPT, nodes_in};
pub use row::NodeRow;
pub use shown::{Gauges, WINDOW_MS, gauges, window};

use row::{Last, Told};

/// Names what decides here; raised when decisions may differ.
pub const ENGINE: &str = "analyze/1";

/// Version of its rows' bytes: those of another are rebuilt from the log.
pub const ENCODING: u32 = row::VERSION as u32;

/// Monitor and Analyze of a node, by one policy.
pub struct AnalyzeStage {
    rules: Rules,
    monitor: MonitorPolicy,
    policy_id: PolicyId,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A valid reading.
    Reading(Reading),
    /// A report about a directive.
    Outcome(Outcome),
}

/// What the stage answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Something that Plan may use has changed.
    Assessment(Box<Assessment>),
    /// A cycle closed.
    Cycle(Box<CycleClosed>),
    /// A pane closed.
    Pane(Box<ClosedPane>),
    /// An outcome that Plan has not seen.
    Outcome(Box<Outcome>),
    /// A reading that was accepted already, or is of an older boot.
    Duplicate,
    /// A report that was passed on already.
    Repeated,
    /// The reading goes back in time.
    Refused(Fault),
    /// A report about a node that was never heard.
    UnknownNode,
}

impl AnalyzeStage {
    /// The stage under a policy.
    pub fn new(policy: &Policy, policy_id: PolicyId) -> Self {
        AnalyzeStage {
            rules: Rules::new(&policy.symptoms),
            monitor: policy.monitor.clone(),
            policy_id,
        }
    }

    /// When a reading counts.
    pub fn monitor(&self) -> &MonitorPolicy {
        &self.monitor
    }

    fn read(&self, key: &NodeKey, row: &mut NodeRow, now: Time, reading: &Reading) -> Vec<Said> {
        let mut said = Vec::new();
        match row.intake.accept(reading) {
            Ok(seq) => self.accepted(key, row, now, reading, seq, &mut said),
            Err(fault) if fault.reason == Reason::DuplicateSeq => {
                said.push(Said::Duplicate);
                if row.intake.conflicts(reading) {
                    row.presence.conflict(now, &self.monitor);
                    self.tell(key, row, now, &mut said);
                }
            }
            Err(fault) => said.push(Said::Refused(fault)),
        }
        said
    }

    fn accepted(
        &self,
        key: &NodeKey,
        row: &mut NodeRow,
        now: Time,
        reading: &Reading,
        seq: i64,
        said: &mut Vec<Said>,
    ) {
        let stale = row.presence.hear(now, reading, &self.monitor);
        let verdict = row.mind.read(&self.rules, reading);
        let standing = verdict.standing;
        row.illness.note(now, standing.signs);
        let pane = row.panes.add(
            self.rules.bounds(),
            &reading.metrics,
            reading.time,
            standing.signs,
        );
        row.last = Last {
            metrics: reading.metrics,
            interval_s: reading.interval_s,
            phi: verdict.phi,
            standing,
            stale,
        };
        self.tell(key, row, now, said);
        let cycle = row.cycle.add(&reading.metrics, reading.time, &standing);
        said.extend(cycle.map(|metrics| {
            Said::Cycle(Box::new(CycleClosed {
                mesh: key.mesh.clone(),
                node: key.node.clone(),
                sample_seq: seq,
                sample_time: reading.time,
                time: now,
                phi: verdict.phi,
                state: standing.state,
                severity: standing.severity,
                symptoms: standing.signs.symptoms().collect(),
                harmony_index: verdict.harmony_index,
                metrics,
                wish: standing.wish(),
            }))
        }));
        said.extend(pane.map(|pane| Said::Pane(Box::new(pane))));
    }

    fn wake(&self, key: &NodeKey, row: &mut NodeRow, at: &At) -> Vec<Said> {
        let mut said = Vec::new();
        if row.intake.known() {
            if row.presence.wake(at.now, at.hears_since) {
                row.last.standing = row.mind.fall_silent(&row.last.standing);
                row.illness.note(at.now, row.last.standing.signs);
            }
            self.tell(key, row, at.now, &mut said);
        }
        said
    }

    /// Says where the node stands if that is not what was said last.
    fn tell(&self, key: &NodeKey, row: &mut NodeRow, now: Time, said: &mut Vec<Said>) {
        let told = self.told(row, now);
        if row.told != Some(told) {
            row.told = Some(told);
            said.push(Said::Assessment(Box::new(assessment(key, row, &told))));
        }
    }

    fn told(&self, row: &NodeRow, now: Time) -> Told {
        let standing = &row.last.standing;
        Told {
            settled: standing.settled(),
            severity: standing.severity,
            symptoms: Symptom::ALL.map(|symptom| bearing(row, symptom)),
            wish: standing.settled_wish(),
            refused: standing
                .refused()
                .fold(0, |mask, refusal| mask | 1 << refusal as u8),
            stale: row.last.stale,
            silent: row.presence.silent(),
            conflict: row.presence.conflicting(now),
            boot: row.intake.boot(),
            policy_id: self.policy_id,
            engine: ENGINE_NUMBER,
        }
    }
}

impl Stage for AnalyzeStage {
    type Key = NodeKey;
    type State = NodeRow;
    type Input = Heard;
    type Output = Said;

    fn step(&self, key: &NodeKey, row: &mut NodeRow, at: &At, signal: Signal<Heard>) -> Step<Said> {
        let emit = match signal {
            Signal::Record(Heard::Reading(reading)) => self.read(key, row, at.now, &reading),
            Signal::Record(Heard::Outcome(outcome)) => vec![report(row, outcome)],
            Signal::Alarm => self.wake(key, row, at),
        };
        let wake_at = row.wake_at(at);
        Step { emit, wake_at }
    }
}

fn report(row: &mut NodeRow, outcome: Outcome) -> Said {
    if !row.intake.known() {
        Said::UnknownNode
    } else if row.reported.is_new(&outcome) {
        Said::Outcome(Box::new(outcome))
    } else {
        Said::Repeated
    }
}

/// What of a symptom Plan may use: whether it is established, critical, confirmed. A warning latch
/// that flickers on one reading changes nothing, and idle never does: it only explains.
fn bearing(row: &NodeRow, symptom: Symptom) -> u8 {
    let signs = row.last.standing.signs;
    if symptom == Symptom::Idle {
        return 0;
    }
    u8::from(signs.established(symptom))
        | u8::from(signs.critical(symptom)) << 1
        | u8::from(row.panes.confirmed(symptom)) << 2
}

fn assessment(key: &NodeKey, row: &NodeRow, told: &Told) -> Assessment {
    let last = &row.last;
    Assessment {
        mesh: key.mesh.clone(),
        node: key.node.clone(),
        boot: row.intake.boot(),
        sample_seq: row.intake.seq(),
        sample_time: row.intake.time(),
        interval_s: last.interval_s,
        phi: last.phi,
        state: last.standing.state,
        settled: told.settled,
        severity: told.severity,
        findings: Symptom::ALL
            .into_iter()
            .filter_map(|symptom| finding(row, symptom))
            .collect(),
        wish: told.wish,
        refused: Refusal::ALL
            .into_iter()
            .filter(|refusal| told.refused & (1 << *refusal as u8) != 0)
            .collect(),
        stale: told.stale,
        silent: told.silent,
        conflict: told.conflict,
        ill_since: row.illness.since(),
        good_since: row.illness.good_since(),
        metrics: last.metrics,
        policy_id: told.policy_id,
        engine: ENGINE.to_owned(),
    }
}

fn finding(row: &NodeRow, symptom: Symptom) -> Option<Finding> {
    let signs = row.last.standing.signs;
    let confirmed = row.panes.confirmed(symptom);
    let level = if signs.critical(symptom) {
        Severity::Critical
    } else if signs.on(symptom) && symptom != Symptom::Idle {
        Severity::Warning
    } else {
        Severity::Ok
    };
    let value = |metrics: &Metrics| metrics.get(symptom.metric()?);
    (signs.on(symptom) || confirmed && symptom != Symptom::Idle).then(|| Finding {
        symptom,
        level,
        shown: signs.shown(symptom),
        established: signs.established(symptom),
        confirmed,
        value: value(&row.last.metrics),
    })
}

/// The number in [`ENGINE`].
const ENGINE_NUMBER: u16 = 1;

#[cfg(test)]
mod tests;
