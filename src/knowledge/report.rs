//! What was decided over some days and what came of it, on a page.

use std::collections::BTreeMap;

use crate::model::{
    Body, Event, IncidentKind, Kind, NodeKey, OutcomeResult, Reason, Severity, Time,
};

use super::views::HELP_WITHIN;

/// The counts of the events noted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By kind of order.
    pub kinds: BTreeMap<Kind, Fate>,
    /// What was withheld, by reason.
    pub withheld: BTreeMap<Reason, u64>,
    /// Incidents of a node that opened.
    pub opened: u64,
    /// Incidents of much of a mesh that opened.
    pub mass: u64,
    /// First ill reading to the opening of an incident that closed, ms.
    pub detect_ms: Vec<i64>,
    /// First ill reading to the first of the good ones, of an incident that closed, ms.
    pub repair_ms: Vec<i64>,
    /// What people said.
    pub people: People,
    trials: BTreeMap<(NodeKey, Kind), Trial>,
}

/// What became of orders of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Given.
    pub ordered: u64,
    /// Done by an agent.
    pub applied: u64,
    /// Declined by an agent.
    pub refused: u64,
    /// Tried in vain.
    pub failed: u64,
    /// Of which the agent cannot tell.
    pub unknown: u64,
    /// Without a report in time.
    pub expired: u64,
    /// Acts after which the node was ok soon.
    pub helped: u64,
    /// Acts after which it was not.
    pub not_helped: u64,
}

/// What people said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// Holds placed.
    pub holds: u64,
    /// Holds released by somebody.
    pub releases: u64,
    /// Proposals approved.
    pub approvals: u64,
    /// Proposals rejected.
    pub rejections: u64,
    /// Policies put in force, each mesh of its own counted by itself.
    pub policies: u64,
}

/// An act that was ordered, until it is known whether it helped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trial {
    id: String,
    applied_at: Option<Time>,
}

impl Report {
    /// Takes one event in; events of a partition in order.
    pub fn note(&mut self, event: &Event) {
        let at = |node: &crate::model::NodeId| NodeKey {
            mesh: event.mesh.clone(),
            node: node.clone(),
        };
        match &event.body {
            Body::DirectiveIssued { directive } => {
                let kind = directive.action.kind();
                self.fate(kind).ordered += 1;
                if matches!(kind, Kind::Healing | Kind::Scaling) {
                    let trial = Trial {
                        id: directive.id.clone(),
                        applied_at: None,
                    };
                    // Ordered again: what was done before did not help.
                    if let Some(last) = self.trials.insert((at(&directive.node), kind), trial) {
                        self.end(kind, &last, None);
                    }
                }
            }
            Body::DirectiveWithheld { reason, .. } => {
                *self.withheld.entry(*reason).or_default() += 1;
            }
            Body::DirectiveExpired {
                kind,
                proposal: false,
                ..
            } => self.fate(*kind).expired += 1,
            Body::OutcomeReported { outcome } => {
                let fate = self.fate(outcome.kind);
                match outcome.result {
                    OutcomeResult::Applied => fate.applied += 1,
                    OutcomeResult::Refused => fate.refused += 1,
                    OutcomeResult::Failed => fate.failed += 1,
                    OutcomeResult::Unknown => fate.unknown += 1,
                }
                let trial = self.trials.get_mut(&(at(&outcome.node), outcome.kind));
                if let Some(trial) = trial
                    && trial.id == outcome.directive_id
                    && outcome.result == OutcomeResult::Applied
                {
                    trial.applied_at.get_or_insert(event.time);
                }
            }
            Body::SeverityChanged {
                node,
                to: Severity::Ok,
                ..
            } => {
                for kind in [Kind::Healing, Kind::Scaling] {
                    if let Some(trial) = self.trials.remove(&(at(node), kind)) {
                        self.end(kind, &trial, Some(event.time));
                    }
                }
            }
            Body::IncidentOpened { kind, .. } => match kind {
                IncidentKind::Node => self.opened += 1,
                IncidentKind::Mass => self.mass += 1,
            },
            Body::IncidentClosed {
                kind: IncidentKind::Node,
                detect_ms,
                repair_ms,
                ..
            } => {
                self.detect_ms.push(*detect_ms);
                self.repair_ms.push(*repair_ms);
            }
            Body::HoldPlaced { .. } => self.people.holds += 1,
            Body::HoldReleased { by, .. } if !by.is_empty() => self.people.releases += 1,
            Body::ApprovalRecorded { approved, .. } => match approved {
                true => self.people.approvals += 1,
                false => self.people.rejections += 1,
            },
            Body::Adopted {
                taken_over: false, ..
            } => self.people.policies += 1,
            _ => {}
        }
    }

    /// The report at this time: acts done long enough before it, after which no node was ok, did
    /// not help; newer ones are not judged.
    #[must_use]
    pub fn at(mut self, now: Time) -> Report {
        for ((_, kind), trial) in std::mem::take(&mut self.trials) {
            if trial.applied_at.is_some_and(|at| now - at > HELP_WITHIN) {
                self.end(kind, &trial, None);
            }
        }
        self.detect_ms.sort_unstable();
        self.repair_ms.sort_unstable();
        self
    }

    fn fate(&mut self, kind: Kind) -> &mut Fate {
        self.kinds.entry(kind).or_default()
    }

    fn end(&mut self, kind: Kind, trial: &Trial, ok_at: Option<Time>) {
        let Some(applied_at) = trial.applied_at else {
            return;
        };
        let fate = self.fate(kind);
        match ok_at.is_some_and(|ok_at| ok_at - applied_at <= HELP_WITHIN) {
            true => fate.helped += 1,
            false => fate.not_helped += 1,
        }
    }
}

/// The least of sorted values that at least this share of them does not exceed.
pub fn quantile(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        assert_eq!(quantile(&[], 50), None);
        assert_eq!(quantile(&[7], 90), Some(7));
        let ten: Vec<i64> = (1..=10).collect();
        assert_eq!(quantile(&ten, 50), Some(5));
        assert_eq!(quantile(&ten, 90), Some(9));
        assert_eq!(quantile(&ten[..3], 50), Some(2));
    }
}
