//! P: from an assessment's wish to a directive, or to the reason why not.
//!
//! `decide` turns one inbox record into events; `wake` does so for what is due by time or by the
//! end of what held it. Both only read rows and record events: each event is evolved at once, so
//! that the next question sees it. The events are the whole answer; an input without an event
//! changes nothing.

mod facts;
mod judge;
mod say;
mod wake;

pub use say::adopted;

use std::rc::Rc;

use crate::model::{
    Body, Event, IdKind, MeshId, NodeId, NodeKey, NodeRow, PlanRecord, Policy, derive_id, path_of,
};
use crate::stream::{At, Ledger, Reject};

/// A schema that a mesh's log adopts when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedSchema {
    /// The record's full name.
    pub name: String,
    /// As in the single-object header.
    pub fingerprint: [u8; 8],
    /// SHA-256 of the schema's text.
    pub sha256: [u8; 32],
}

/// The stage's fixed parts: nothing here changes a decision but by a new engine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Named by every event; raised when decisions may differ.
    pub engine: &'static str,
    /// What the log's bytes are written with.
    pub schemas: Vec<AdoptedSchema>,
    /// Knowledge's evolve: the only way in which a decision changes a row.
    pub evolve: fn(&mut Ledger, &Event),
}

/// The engine that decides here.
pub const ENGINE: &str = "plan/1";

impl Plan {
    /// What one inbox record causes. Every event is already evolved into `ledger`.
    ///
    /// # Errors
    /// The record is about something unknown, or bad; the caller rolls the ledger back.
    pub fn decide(
        &self,
        ledger: &mut Ledger,
        at: &At,
        record: &PlanRecord,
    ) -> Result<Vec<Event>, Reject> {
        let mut draft = Draft {
            plan: self,
            ledger,
            at,
            blind: false,
            events: Vec::new(),
        };
        match record {
            PlanRecord::Tick => {}
            PlanRecord::LogOpened(opened) => draft.open_log(opened),
            PlanRecord::Assessment(assessment) => draft.assessment(assessment)?,
            PlanRecord::Outcome(outcome) => draft.outcome(outcome)?,
            PlanRecord::PolicyChange(change) => draft.policy_change(change)?,
            PlanRecord::Approval(approval) => draft.approval(approval)?,
            PlanRecord::Hold(hold) => draft.hold(hold)?,
            PlanRecord::LoopBlind(blind) => draft.blind(blind)?,
        }
        Ok(draft.events)
    }
}

/// One decision in the making.
struct Draft<'a> {
    plan: &'a Plan,
    ledger: &'a mut Ledger,
    at: &'a At,
    /// An alarm rings so late that the loop was blind meanwhile: what is known of the nodes is from
    /// before.
    blind: bool,
    events: Vec<Event>,
}

impl Draft<'_> {
    /// Records a fact: it takes the mesh's next seq and is evolved at once.
    fn record(&mut self, mesh: &MeshId, body: Body) {
        let event = Event {
            seq: self.next_seq(mesh),
            time: self.at.now,
            mesh: mesh.clone(),
            cause: self.at.cause.clone(),
            engine: self.plan.engine.to_owned(),
            body,
        };
        (self.plan.evolve)(self.ledger, &event);
        self.events.push(event);
    }

    /// The seq that the next event of a mesh gets.
    fn next_seq(&self, mesh: &MeshId) -> i64 {
        if mesh.is_none() {
            self.ledger.partition().next_seq
        } else {
            self.ledger.meshes.get(mesh).map_or(0, |row| row.next_seq)
        }
    }

    /// An id made of the event that comes next in a mesh.
    fn next_id(&self, kind: IdKind, mesh: &MeshId) -> String {
        derive_id(
            kind,
            &self.ledger.partition().log_id,
            mesh,
            self.next_seq(mesh),
        )
    }

    fn policy(&self, mesh: &MeshId) -> Rc<Policy> {
        self.ledger.policy(mesh)
    }

    fn node(&self, key: &NodeKey) -> Option<Rc<NodeRow>> {
        self.ledger.nodes.get(key)
    }

    fn known(&self, mesh: &MeshId, node: &NodeId) -> Result<NodeKey, Reject> {
        let key = NodeKey {
            mesh: mesh.clone(),
            node: node.clone(),
        };
        match self.node(&key) {
            Some(_) => Ok(key),
            None => Err(Reject {
                reason: "unknown_node",
                detail: format!("no assessment of {key} so far, expected a known node"),
            }),
        }
    }

    fn opened(&self) -> Result<(), Reject> {
        if self.ledger.partition().log_id.is_empty() {
            let detail = "no LogOpened so far in this partition, expected it first".to_owned();
            return Err(Reject {
                reason: "log_not_opened",
                detail,
            });
        }
        Ok(())
    }

    /// Opens a mesh's log at its first assessment, and takes the policy for all over when there is
    /// a newer one.
    fn ensure_mesh(&mut self, mesh: &MeshId) {
        let partition = self.ledger.partition();
        if self.ledger.meshes.get(mesh).is_none() {
            let origin = format!(
                "{}/{}/{}",
                partition.audit_name,
                partition.log_id,
                path_of(mesh)
            );
            self.record(
                mesh,
                Body::MeshOpened {
                    format: "homeostat-audit/1".to_owned(),
                    origin,
                    log_id: partition.log_id.clone(),
                    policy_text: Policy::BUILT_IN.to_owned(),
                    continues: None,
                },
            );
        }
        for schema in &self.plan.schemas {
            let row = self.ledger.meshes.get(mesh).expect("opened above");
            if !row.schemas.contains(&schema.fingerprint) {
                self.record(
                    mesh,
                    Body::SchemaAdopted {
                        name: schema.name.clone(),
                        fingerprint: schema.fingerprint,
                        sha256: schema.sha256,
                    },
                );
            }
        }
        self.ensure_policy(mesh);
    }

    /// A mesh takes a policy for all over by an `Adopted` of its own before its next decision.
    fn ensure_policy(&mut self, mesh: &MeshId) {
        let partition = self.ledger.partition();
        let Some(row) = self.ledger.meshes.get(mesh) else {
            return;
        };
        let Some(for_all) = &partition.policy else {
            return;
        };
        if for_all.generation > row.taken_generation {
            self.record(
                mesh,
                Body::Adopted {
                    policy_id: for_all.id,
                    policy_generation: row.policy.generation + 1,
                    text: for_all.text.clone(),
                    by: String::new(),
                    taken_over: true,
                },
            );
        }
    }
}
