//! People's say: policies, approvals, holds and releases.

use crate::model::{
    Adopted, Approval, Body, Hold, HoldScope, IdKind, IncidentKind, Kind, MeshId, NAME_BYTES_MAX,
    Policy, PolicyChange, Reason, Span,
};
use crate::stream::Reject;

use super::Draft;

impl Draft<'_> {
    /// Puts a policy in force, for a mesh or for all; the one that is in force already changes
    /// nothing.
    pub(super) fn policy_change(&mut self, change: &PolicyChange) -> Result<(), Reject> {
        self.opened()?;
        handle(&change.by)?;
        let policy_id = Policy::id(&change.text);
        let parsed = self.ledger.parse(policy_id, &change.text);
        parsed.map_err(|error| Reject {
            reason: "bad_policy",
            detail: error.to_string(),
        })?;
        let for_all = self.ledger.partition().policy.clone();
        let in_force = match self.ledger.meshes.get(&change.mesh) {
            Some(row) => for_all
                .filter(|for_all| for_all.generation > row.taken_generation)
                .or_else(|| Some(row.policy.clone())),
            None if change.mesh.is_none() => for_all,
            None => return self.known_mesh(&change.mesh),
        };
        if in_force.is_some_and(|policy| policy.id == policy_id) {
            return Ok(());
        }
        self.ensure_policy(&change.mesh);
        let last = if change.mesh.is_none() {
            self.ledger
                .partition()
                .policy
                .as_ref()
                .map(|policy| policy.generation)
        } else {
            self.ledger
                .meshes
                .get(&change.mesh)
                .map(|row| row.policy.generation)
        };
        self.record(
            &change.mesh,
            Body::Adopted {
                policy_id,
                policy_generation: last.unwrap_or(0) + 1,
                text: change.text.clone(),
                by: change.by.clone(),
                taken_over: false,
            },
        );
        Ok(())
    }

    /// A person's answer to the proposal that waits; judged again at once.
    pub(super) fn approval(&mut self, approval: &Approval) -> Result<(), Reject> {
        self.opened()?;
        handle(&approval.by)?;
        let key = self.known(&approval.mesh, &approval.node)?;
        let row = self.node(&key).expect("known");
        let kind = Kind::ALL.into_iter().find(|kind| {
            let row = row.kind(*kind);
            let proposal = row.waiting.as_ref().or(row.parked.as_ref());
            proposal.is_some_and(|waiting| {
                waiting.reason == Reason::NeedsApproval && waiting.id == approval.subject
            })
        });
        let Some(kind) = kind else {
            return Err(Reject {
                reason: "unknown_proposal",
                detail: format!(
                    "nothing waits on {key} for approval as {:?}",
                    approval.subject
                ),
            });
        };
        self.ensure_policy(&key.mesh);
        self.record(
            &key.mesh,
            Body::ApprovalRecorded {
                subject: approval.subject.clone(),
                node: key.node.clone(),
                kind,
                approved: approval.approved,
                by: approval.by.clone(),
            },
        );
        self.judge_all(&key);
        Ok(())
    }

    pub(super) fn hold(&mut self, hold: &Hold) -> Result<(), Reject> {
        self.opened()?;
        handle(&hold.by)?;
        handle(&hold.reason)?;
        if hold.by.is_empty() {
            let detail = "a hold by nobody, expected a handle in `by`".to_owned();
            return Err(Reject {
                reason: "out_of_range",
                detail,
            });
        }
        self.known_scope(&hold.scope)?;
        if hold.release {
            self.release(&hold.scope, &hold.by);
            return Ok(());
        }
        let until = hold.for_ms.map(|ms| self.at.now + Span(ms.max(0)));
        self.record(
            &hold.scope.mesh,
            Body::HoldPlaced {
                hold_id: self.next_id(IdKind::Hold, &hold.scope.mesh),
                scope: hold.scope.clone(),
                until,
                by: hold.by.clone(),
                reason: hold.reason.clone(),
            },
        );
        Ok(())
    }

    /// Ends a hold, and a mesh's storm; what waited for them is due at once.
    fn release(&mut self, scope: &HoldScope, by: &str) {
        let held = match &scope.node {
            None if scope.mesh.is_none() => self.ledger.partition().hold.is_some(),
            None => self
                .ledger
                .meshes
                .get(&scope.mesh)
                .is_some_and(|row| row.hold.is_some()),
            Some(node) => self
                .known(&scope.mesh, node)
                .ok()
                .and_then(|key| self.node(&key))
                .is_some_and(|row| row.hold.is_some()),
        };
        let storm = match scope.node {
            None => self
                .ledger
                .meshes
                .get(&scope.mesh)
                .and_then(|row| row.storm.clone()),
            Some(_) => None,
        };
        if held || storm.is_some() {
            let released = Body::HoldReleased {
                scope: scope.clone(),
                by: by.to_owned(),
            };
            self.record(&scope.mesh, released);
        }
        if let Some(storm) = storm {
            self.record(
                &scope.mesh,
                Body::IncidentClosed {
                    incident_id: storm.incident_id,
                    kind: IncidentKind::Mass,
                    node: storm.node,
                    symptoms: Vec::new(),
                    detect_ms: (storm.opened_at - storm.ill_since).0.max(0),
                    repair_ms: (self.at.now - storm.ill_since).0.max(0),
                    cause_node: None,
                },
            );
        }
    }

    fn known_scope(&self, scope: &HoldScope) -> Result<(), Reject> {
        match &scope.node {
            Some(node) => self.known(&scope.mesh, node).map(|_| ()),
            None if scope.mesh.is_none() => Ok(()),
            None => self.known_mesh(&scope.mesh),
        }
    }

    fn known_mesh(&self, mesh: &MeshId) -> Result<(), Reject> {
        match self.ledger.meshes.get(mesh) {
            Some(_) => Ok(()),
            None => Err(Reject {
                reason: "unknown_mesh",
                detail: format!("no assessment of mesh {mesh} so far, expected a known mesh"),
            }),
        }
    }
}

/// The `Adopted` that Analyze gets for an event of the same name.
pub fn adopted(mesh: &MeshId, body: &Body) -> Option<Adopted> {
    match body {
        Body::Adopted {
            policy_id,
            policy_generation,
            text,
            taken_over: false,
            ..
        } => Some(Adopted {
            mesh: mesh.clone(),
            policy_id: *policy_id,
            policy_generation: *policy_generation,
            text: text.clone(),
        }),
        _ => None,
    }
}

/// Handles and commitments stand in leaves for ever: they are short.
fn handle(text: &str) -> Result<(), Reject> {
    if text.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Reject {
        reason: "out_of_range",
        detail: format!(
            "a handle of {} bytes, expected at most {NAME_BYTES_MAX}",
            text.len()
        ),
    })
}
