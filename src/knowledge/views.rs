//! What people ask of the event log: incidents with their times, and how well each remedy works.

use std::collections::BTreeMap;

use crate::model::{
    Action, Assessment, Body, Event, IncidentKind, Kind, NodeId, NodeKey, OutcomeResult, Severity,
    Span, Symptom, Time,
};

/// The views, as far as the events read so far say.
#[derive(Clone, Debug, Default)]
pub struct Views {
    /// By id.
    pub incidents: BTreeMap<String, Incident>,
    /// By symptom and action.
    pub remedies: BTreeMap<(Symptom, Action), Remedy>,
    nodes: BTreeMap<NodeKey, Patient>,
}

/// An incident from its opening to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// What kind.
    pub kind: IncidentKind,
    /// The node; of a mass incident the one that was one too many.
    pub node: NodeKey,
    /// First ill reading.
    pub ill_since: Time,
    /// When it opened.
    pub opened_at: Time,
    /// When its closing was recorded.
    pub closed_at: Option<Time>,
    /// First ill reading to its opening.
    pub detect: Span,
    /// First ill reading to the first of the good readings that closed it.
    pub repair: Option<Span>,
    /// The symptoms: at its opening, and once closed all that were seen.
    pub symptoms: Vec<Symptom>,
    /// Orders given in it.
    pub orders: i64,
    /// Wishes withheld in it.
    pub withheld: i64,
}

/// How an action fared against a symptom that carried it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// Times it was ordered.
    pub ordered: i64,
    /// Times an agent did it.
    pub applied: i64,
    /// Times the node was ok within [`HELP_WITHIN`] of that.
    pub helped: i64,
    /// Times it was not.
    pub not_helped: i64,
}

impl Remedy {
    /// Between which shares it helps, as far as 95 of 100 can be sure from so few trials; `None`
    /// without any. Wilson's score interval (JASA 22, 1927), which holds for few trials too.
    pub fn efficacy(&self) -> Option<(f64, f64)> {
        let trials = (self.helped + self.not_helped) as f64;
        if trials < 1.0 {
            return None;
        }
        let share = self.helped as f64 / trials;
        let square = SURE * SURE / trials;
        let middle = share + square / 2.0;
        let reach = SURE * (share * (1.0 - share) / trials + square / (4.0 * trials)).sqrt();
        let scale = 1.0 + square;
        Some(((middle - reach) / scale, (middle + reach) / scale))
    }
}

/// The normal distribution's two-sided quantile of 95 %.
const SURE: f64 = 1.96;

/// An applied remedy helped when the node is ok so soon after.
pub const HELP_WITHIN: Span = Span::seconds(600);

/// What is on trial on a node.
#[derive(Clone, Debug, Default)]
struct Patient {
    symptoms: Vec<Symptom>,
    trials: BTreeMap<Kind, Trial>,
}

#[derive(Clone, Debug)]
struct Trial {
    id: String,
    action: Action,
    against: Vec<Symptom>,
    applied_at: Option<Time>,
}

impl Views {
    /// Takes one event in; events of a partition in order.
    pub fn note(&mut self, event: &Event) {
        let at = |node: &NodeId| NodeKey {
            mesh: event.mesh.clone(),
            node: node.clone(),
        };
        if let Some(assessment) = event.body.assessment() {
            self.assessed(at(&assessment.node), carriers(assessment));
        }
        match &event.body {
            Body::IncidentOpened {
                incident_id,
                kind,
                node,
                symptoms,
                ill_since,
                ..
            } => {
                let incident = Incident {
                    kind: *kind,
                    node: at(node),
                    ill_since: *ill_since,
                    opened_at: event.time,
                    closed_at: None,
                    detect: event.time - *ill_since,
                    repair: None,
                    symptoms: symptoms.clone(),
                    orders: 0,
                    withheld: 0,
                };
                self.incidents.insert(incident_id.clone(), incident);
            }
            Body::IncidentClosed {
                incident_id,
                symptoms,
                repair_ms,
                ..
            } => {
                if let Some(incident) = self.incidents.get_mut(incident_id) {
                    incident.closed_at = Some(event.time);
                    incident.repair = Some(Span(*repair_ms));
                    if !symptoms.is_empty() {
                        incident.symptoms.clone_from(symptoms);
                    }
                }
            }
            Body::DirectiveIssued { directive } => {
                if let Some(incident) = directive
                    .incident_id
                    .as_ref()
                    .and_then(|id| self.incidents.get_mut(id))
                {
                    incident.orders += 1;
                }
                self.begin_trial(
                    at(&directive.node),
                    &directive.id,
                    directive.action,
                    event.time,
                );
            }
            Body::DirectiveWithheld {
                incident_id: Some(id),
                ..
            } => {
                if let Some(incident) = self.incidents.get_mut(id) {
                    incident.withheld += 1;
                }
            }
            Body::OutcomeReported { outcome } if outcome.result == OutcomeResult::Applied => {
                let patient = self.nodes.get_mut(&at(&outcome.node));
                if let Some(trial) = patient.and_then(|p| p.trials.get_mut(&outcome.kind))
                    && trial.id == outcome.directive_id
                    && trial.applied_at.is_none()
                {
                    trial.applied_at = Some(event.time);
                    let (action, against) = (trial.action, trial.against.clone());
                    self.score(action, &against, |remedy| remedy.applied += 1);
                }
            }
            Body::SeverityChanged {
                node,
                to: Severity::Ok,
                ..
            } => {
                let Some(patient) = self.nodes.get_mut(&at(node)) else {
                    return;
                };
                let trials = std::mem::take(&mut patient.trials);
                if patient.symptoms.is_empty() {
                    self.nodes.remove(&at(node));
                }
                for trial in trials.into_values() {
                    self.judge(&trial, event.time);
                }
            }
            _ => {}
        }
    }

    /// A node without symptoms and without an act on trial is not remembered: most are well.
    fn assessed(&mut self, key: NodeKey, symptoms: Vec<Symptom>) {
        let idle = |patient: &Patient| patient.trials.is_empty();
        if symptoms.is_empty() && self.nodes.get(&key).is_none_or(idle) {
            self.nodes.remove(&key);
        } else {
            self.patient(key).symptoms = symptoms;
        }
    }

    fn patient(&mut self, key: NodeKey) -> &mut Patient {
        self.nodes.entry(key).or_default()
    }

    /// A new act ends the trial of the last one: it did not help in time.
    fn begin_trial(&mut self, key: NodeKey, id: &str, action: Action, now: Time) {
        if !matches!(action.kind(), Kind::Healing | Kind::Scaling) {
            return;
        }
        let patient = self.patient(key);
        let against = patient.symptoms.clone();
        let trial = Trial {
            id: id.to_owned(),
            action,
            against: against.clone(),
            applied_at: None,
        };
        let last = patient.trials.insert(action.kind(), trial);
        self.score(action, &against, |remedy| remedy.ordered += 1);
        if let Some(last) = last {
            self.judge(&last, now + HELP_WITHIN + Span(1));
        }
    }

    fn judge(&mut self, trial: &Trial, ok_at: Time) {
        let Some(applied_at) = trial.applied_at else {
            return;
        };
        let helped = ok_at - applied_at <= HELP_WITHIN;
        self.score(trial.action, &trial.against, |remedy| {
            if helped {
                remedy.helped += 1;
            } else {
                remedy.not_helped += 1;
            }
        });
    }

    fn score(&mut self, action: Action, against: &[Symptom], score: impl Fn(&mut Remedy)) {
        for symptom in against {
            score(self.remedies.entry((*symptom, action)).or_default());
        }
    }
}

fn carriers(assessment: &Assessment) -> Vec<Symptom> {
    assessment
        .carriers()
        .map(|finding| finding.symptom)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_trials_say_little_of_a_remedy() {
        let of = |helped, not_helped| Remedy {
            helped,
            not_helped,
            ..Remedy::default()
        };
        let near = |found: Option<(f64, f64)>, low: f64, high: f64| {
            let (found_low, found_high) = found.unwrap();
            assert!((found_low - low).abs() < 5e-4, "{found_low}");
            assert!((found_high - high).abs() < 5e-4, "{found_high}");
        };
        assert_eq!(of(0, 0).efficacy(), None);
        // By R's prop.test without continuity correction, and tables of the interval.
        near(of(3, 1).efficacy(), 0.3006, 0.9544);
        near(of(1, 0).efficacy(), 0.2065, 1.0);
        near(of(0, 10).efficacy(), 0.0, 0.2775);
        near(of(90, 10).efficacy(), 0.8256, 0.9448);
    }
    use crate::model::{Cause, MeshId, Outcome};

    fn event(body: Body) -> Event {
        Event {
            seq: 0,
            time: Time(0),
            mesh: MeshId::parse("m").unwrap(),
            cause: Cause {
                topic: String::new(),
                partition: 0,
                offset: 0,
            },
            engine: String::new(),
            body,
        }
    }

    #[test]
    fn who_is_well_is_not_remembered() {
        let mut views = Views::default();
        let node = NodeId::parse("n").unwrap();
        let key = NodeKey {
            mesh: MeshId::parse("m").unwrap(),
            node: node.clone(),
        };
        views.assessed(key.clone(), Vec::new());
        assert!(views.nodes.is_empty());
        views.note(&event(Body::OutcomeReported {
            outcome: Outcome {
                mesh: key.mesh.clone(),
                node: node.clone(),
                log_id: String::new(),
                directive_id: String::new(),
                generation: 0,
                kind: Kind::Healing,
                result: OutcomeResult::Applied,
                observed: None,
            },
        }));
        assert!(views.nodes.is_empty());
        views.assessed(key.clone(), vec![Symptom::Lossy]);
        let heal = Action::Healing {
            level: crate::model::Healing::Aggressive,
        };
        views.begin_trial(key.clone(), "dir-1", heal, Time(0));
        views.assessed(key.clone(), Vec::new());
        assert_eq!(views.nodes.len(), 1, "an act is on trial");
        views.note(&event(Body::SeverityChanged {
            node,
            from: Severity::Critical,
            to: Severity::Ok,
            symptoms: Vec::new(),
            sample_seq: 0,
            assessment: None,
        }));
        assert!(views.nodes.is_empty());
    }
}
