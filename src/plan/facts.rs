//! What an assessment changes, as facts; then its wishes are judged.

use crate::model::{
    Assessment, Body, IdKind, IncidentKind, IncidentRow, Kind, LogOpened, LoopBlind, MeshId,
    NodeKey, NodeRow, OrderState, Outcome, Severity, Symptom, Time,
};
use crate::stream::Reject;

use super::Draft;
use super::judge::Asked;

impl Draft<'_> {
    /// The first record of an inbox opens its log; later ones change nothing.
    pub(super) fn open_log(&mut self, opened: &LogOpened) {
        if self.opened().is_err() {
            self.record(
                &MeshId::none(),
                Body::LogOpened {
                    log_id: opened.log_id.clone(),
                    audit_name: opened.audit_name.clone(),
                    partitions: opened.partitions,
                    time_source: opened.time_source.clone(),
                },
            );
        }
    }

    pub(super) fn blind(&mut self, blind: &LoopBlind) -> Result<(), Reject> {
        self.opened()?;
        self.record(
            &MeshId::none(),
            Body::LoopBlind {
                topic: blind.topic.clone(),
                partition: blind.partition,
                from: blind.from,
                to: blind.to,
            },
        );
        Ok(())
    }

    /// 1. the mesh's log is open; 2. one event carries the assessment whole; 3. what else changed;
    ///    4. the incident;
    /// 5. the wishes. The same word twice changes nothing.
    pub(super) fn assessment(&mut self, a: &Assessment) -> Result<(), Reject> {
        self.opened()?;
        let key = NodeKey {
            mesh: a.mesh.clone(),
            node: a.node.clone(),
        };
        let before = self.node(&key);
        if before.as_ref().is_some_and(|row| row.assessment == *a) {
            return Ok(());
        }
        self.ensure_mesh(&a.mesh);
        let last = before.as_ref().map(|row| &row.assessment);
        self.carry(a, last);
        self.presence(a, last);
        self.anomalies(a, last);
        self.incident(&key);
        self.judge_all(&key);
        Ok(())
    }

    /// Records the change that carries the assessment, and the other changes of state and severity.
    fn carry(&mut self, a: &Assessment, last: Option<&Assessment>) {
        let whole = Some(a.clone());
        let node = a.node.clone();
        let booted = last.is_none_or(|last| a.boot > last.boot);
        let state = last
            .filter(|last| last.settled != a.settled)
            .map(|last| last.settled);
        let from = last.map_or(Severity::Ok, |last| last.severity);
        let state_changed = |assessment| {
            state.map(|from| Body::StateChanged {
                node: a.node.clone(),
                from,
                to: a.settled,
                phi: a.phi,
                sample_seq: a.sample_seq,
                sample_time: a.sample_time,
                assessment,
            })
        };
        let severity_changed = |assessment| {
            (from != a.severity).then(|| Body::SeverityChanged {
                node: a.node.clone(),
                from,
                to: a.severity,
                symptoms: a.symptoms(),
                sample_seq: a.sample_seq,
                assessment,
            })
        };
        let bodies = if booted {
            let (boot, interval_s, first) = (a.boot, a.interval_s, last.is_none());
            let seen = Body::NodeSeen {
                node,
                boot,
                interval_s,
                first,
                assessment: whole,
            };
            vec![Some(seen), state_changed(None), severity_changed(None)]
        } else if state.is_some() {
            vec![state_changed(whole), severity_changed(None)]
        } else if from != a.severity {
            vec![severity_changed(whole)]
        } else {
            vec![Some(Body::NodeAssessed {
                node,
                assessment: whole,
            })]
        };
        for body in bodies.into_iter().flatten() {
            self.record(&a.mesh, body);
        }
    }

    fn presence(&mut self, a: &Assessment, last: Option<&Assessment>) {
        let was = |what: fn(&Assessment) -> bool| last.is_some_and(what);
        let node = a.node.clone();
        match (was(|last| last.silent), a.silent) {
            (false, true) => self.record(&a.mesh, Body::NodeSilent { node: node.clone() }),
            (true, false) => self.record(&a.mesh, Body::NodeReturned { node: node.clone() }),
            _ => {}
        }
        if a.conflict && !was(|last| last.conflict) {
            self.record(&a.mesh, Body::IdentityConflict { node, boot: a.boot });
        }
    }

    /// A symptom that became established is an anomaly until its latch goes off.
    fn anomalies(&mut self, a: &Assessment, last: Option<&Assessment>) {
        let established = |a: &Assessment, symptom| {
            a.finding(symptom)
                .is_some_and(|finding| finding.established)
        };
        for symptom in Symptom::ALL.into_iter().filter(|s| *s != Symptom::Idle) {
            let was = last.is_some_and(|last| established(last, symptom));
            let node = a.node.clone();
            match a.finding(symptom) {
                Some(f) if f.established && !was => {
                    let (level, value) = (f.level, f.value);
                    self.record(
                        &a.mesh,
                        Body::AnomalyRaised {
                            node,
                            symptom,
                            level,
                            value,
                        },
                    );
                }
                _ if was && !established(a, symptom) => {
                    self.record(&a.mesh, Body::AnomalyCleared { node, symptom });
                }
                _ => {}
            }
        }
    }

    /// Opens an incident when the node is not ok, closes it when it is. In a storm the mass
    /// incident stands for all that fall ill; the one node too many opens it.
    pub(super) fn incident(&mut self, key: &NodeKey) {
        let Some(row) = self.node(key) else { return };
        let a = &row.assessment;
        match (&row.incident, row.severity()) {
            (Some(incident), Severity::Ok) => {
                self.close_incident(key, incident, a.good_since.unwrap_or(self.at.now));
            }
            (None, Severity::Warning | Severity::Critical) => self.open_incident(key, &row),
            (Some(_), Severity::Warning | Severity::Critical) | (None, Severity::Ok) => {}
        }
    }

    /// Closes a node's incident: it was ill until `well_since`.
    pub(super) fn close_incident(
        &mut self,
        key: &NodeKey,
        incident: &IncidentRow,
        well_since: Time,
    ) {
        self.record(
            &key.mesh,
            Body::IncidentClosed {
                incident_id: incident.id.clone(),
                kind: IncidentKind::Node,
                node: key.node.clone(),
                symptoms: incident.symptoms.clone(),
                detect_ms: (incident.opened_at - incident.ill_since).0.max(0),
                repair_ms: (well_since - incident.ill_since).0.max(0),
                cause_node: None,
            },
        );
    }

    fn open_incident(&mut self, key: &NodeKey, row: &NodeRow) {
        let mesh = self
            .ledger
            .meshes
            .get(&key.mesh)
            .expect("a node's mesh is open");
        if mesh.storm.is_some() {
            return;
        }
        let policy = self.policy(&key.mesh);
        let ill: i64 = mesh.onsets.iter().map(|onset| onset.nodes).sum();
        let share = mesh.nodes as f64 * policy.plan.storm_percent / 100.0;
        let storm = ill >= policy.plan.storm_min && ill as f64 > share;
        let kind = if storm {
            IncidentKind::Mass
        } else {
            IncidentKind::Node
        };
        self.record(
            &key.mesh,
            Body::IncidentOpened {
                incident_id: self.next_id(IdKind::Incident, &key.mesh),
                kind,
                node: key.node.clone(),
                severity: row.severity(),
                symptoms: row.assessment.symptoms(),
                ill_since: row.assessment.ill_since.unwrap_or(self.at.now),
                nodes_ill: if storm { ill } else { 1 },
                cause_node: None,
            },
        );
    }

    /// A report about the last order of its kind counts; one about an earlier order changes nothing
    /// any more.
    pub(super) fn outcome(&mut self, outcome: &Outcome) -> Result<(), Reject> {
        self.opened()?;
        let key = self.known(&outcome.mesh, &outcome.node)?;
        let log_id = &self.ledger.partition().log_id;
        if outcome.log_id != *log_id {
            let detail = format!("log_id {:?}, expected {log_id:?}", outcome.log_id);
            return Err(Reject {
                reason: "foreign_log",
                detail,
            });
        }
        let row = self.node(&key).expect("known");
        let order = row.kind(outcome.kind).order.as_ref();
        let unknown = |detail: String| {
            Err(Reject {
                reason: "unknown_directive",
                detail,
            })
        };
        match order {
            None => unknown(format!(
                "{key} has no order of kind {}",
                outcome.kind.name()
            )),
            Some(order) if outcome.generation > order.generation => unknown(format!(
                "generation {} of kind {} for {key}, the last order's is {}",
                outcome.generation,
                outcome.kind.name(),
                order.generation
            )),
            Some(order) if outcome.generation < order.generation => Ok(()),
            Some(order) if outcome.directive_id != order.id => unknown(format!(
                "directive {:?}, but generation {} of {key} is {:?}",
                outcome.directive_id, order.generation, order.id
            )),
            Some(order) if order.state == OrderState::Reported(outcome.result) => Ok(()),
            Some(_) => {
                self.ensure_policy(&key.mesh);
                self.record(
                    &key.mesh,
                    Body::OutcomeReported {
                        outcome: outcome.clone(),
                    },
                );
                self.judge_all(&key);
                Ok(())
            }
        }
    }

    /// Judges every kind of a node after an input.
    pub(super) fn judge_all(&mut self, key: &NodeKey) {
        for kind in Kind::ALL {
            self.judge(key, kind, Asked::ByInput);
        }
    }
}
