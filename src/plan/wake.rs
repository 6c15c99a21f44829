//! What is due by time, or because what held it ended. Every step records at least one event, so
//! none needs a cursor.
//!
//! In a mesh, in order: the end of its hold; nodes by when something of them is due; then what
//! waits in the queues whose block is gone, oldest first: hold, policy, storm, budget.

use crate::model::{Body, Event, HoldScope, Kind, MeshId, NodeKey, NodeRow, Queue, Reason, Time};
use crate::stream::{At, BLIND_AFTER, InQueue, Ledger};

use super::judge::Asked;
use super::{Draft, Plan};

/// What a mesh does next when it is woken.
enum Due {
    HoldEnds,
    Node(NodeKey),
    Queued(NodeKey, Kind),
}

impl Plan {
    /// When a mesh (the empty one: the partition) wants to be woken; the past means at once. A
    /// function of the rows.
    pub fn wake_at(&self, ledger: &Ledger, at: &At, mesh: &MeshId) -> Option<Time> {
        if mesh.is_none() {
            return ledger.partition().hold.as_ref().and_then(|hold| hold.until);
        }
        let row = ledger.meshes.get(mesh)?;
        let hold = row.hold.as_ref().and_then(|hold| hold.until);
        let node = ledger.first_due(mesh).map(|(due, _)| due);
        let queued = first_queued(ledger, at, mesh).map(|_| Time(i64::MIN));
        let slot = ledger
            .first_waiting(mesh, Queue::Budget, 1)
            .and_then(|_| ledger.slot_after(mesh, at.now));
        [hold, node, queued, slot].into_iter().flatten().min()
    }

    /// Does what is due in a mesh until nothing is, or until `room` events are recorded.
    ///
    /// # Panics
    /// When a step records nothing: it would be due for ever.
    pub fn wake(&self, ledger: &mut Ledger, at: &At, mesh: &MeshId, room: usize) -> Vec<Event> {
        let blind = rings_late(ledger, at, mesh);
        let mut draft = Draft {
            plan: self,
            ledger,
            at,
            blind,
            events: Vec::new(),
        };
        while draft.events.len() < room {
            let Some(due) = draft.due(mesh) else { break };
            let before = draft.events.len();
            draft.ensure_policy(mesh);
            match due {
                Due::HoldEnds => draft.end_hold(mesh, None),
                Due::Node(key) => draft.wake_node(&key),
                Due::Queued(key, kind) => {
                    draft.incident(&key);
                    draft.take_up(&key, kind);
                }
            }
            assert!(
                draft.events.len() > before,
                "a fired alarm of mesh {mesh} causes an event"
            );
        }
        draft.events
    }
}

impl Draft<'_> {
    fn due(&self, mesh: &MeshId) -> Option<Due> {
        let now = self.at.now;
        let hold = if mesh.is_none() {
            self.ledger.partition().hold.clone()
        } else {
            self.ledger.meshes.get(mesh)?.hold.clone()
        };
        if hold
            .and_then(|hold| hold.until)
            .is_some_and(|until| until <= now)
        {
            return Some(Due::HoldEnds);
        }
        if let Some((due, node)) = self.ledger.first_due(mesh)
            && due <= now
        {
            return Some(Due::Node(NodeKey {
                mesh: mesh.clone(),
                node,
            }));
        }
        let entry = first_queued(self.ledger, self.at, mesh)?;
        let node = entry.node.expect("only searches leave the node out");
        Some(Due::Queued(
            NodeKey {
                mesh: mesh.clone(),
                node,
            },
            entry.kind,
        ))
    }

    fn end_hold(&mut self, mesh: &MeshId, node: Option<&NodeKey>) {
        let scope = HoldScope {
            mesh: mesh.clone(),
            node: node.map(|key| key.node.clone()),
        };
        self.record(
            mesh,
            Body::HoldReleased {
                scope,
                by: String::new(),
            },
        );
    }

    /// Does the first thing that is due on a node.
    fn wake_node(&mut self, key: &NodeKey) {
        let now = self.at.now;
        let row = self.node(key).expect("the agenda lists known nodes");
        let over = |time: Option<Time>| time.is_some_and(|time| time <= now);
        if over(row.hold.as_ref().and_then(|hold| hold.until)) {
            return self.end_hold(&key.mesh, Some(key));
        }
        if over(row.retirement()) {
            return self.retire(key, &row);
        }
        for kind in Kind::ALL {
            let k = row.kind(kind);
            if over(k.expiry()) {
                let order = k.order.as_ref().expect("only an order expires");
                self.expire(key, kind, order.id.clone(), false);
                return self.judge_all(key);
            }
            if let Some(waiting) = &k.waiting
                && over(k.wait_over())
            {
                if waiting.reason == Reason::NeedsApproval {
                    return self.expire(key, kind, waiting.id.clone(), true);
                }
                return self.take_up(key, kind);
            }
            let released = row.hold.is_none() && k.waits_for_node_hold();
            if released || over(k.review()) || over(k.longer()) {
                return self.take_up(key, kind);
            }
        }
    }

    /// Judges again what waited, and the route that goes with it if it is an act that is ordered
    /// now.
    fn take_up(&mut self, key: &NodeKey, kind: Kind) {
        self.judge(key, kind, Asked::ByAlarm);
        if matches!(kind, Kind::Healing | Kind::Scaling) {
            self.judge(key, Kind::RoutePreference, Asked::ByInput);
        }
    }

    fn expire(&mut self, key: &NodeKey, kind: Kind, id: String, proposal: bool) {
        let node = key.node.clone();
        self.record(
            &key.mesh,
            Body::DirectiveExpired {
                node,
                kind,
                id,
                proposal,
            },
        );
    }

    /// Forgets a node that was silent for too long; its incident ends with it.
    fn retire(&mut self, key: &NodeKey, row: &NodeRow) {
        if let Some(incident) = &row.incident {
            self.close_incident(key, incident, self.at.now);
        }
        self.record(
            &key.mesh,
            Body::NodeRetired {
                node: key.node.clone(),
            },
        );
    }
}

/// Whether what was due first in a mesh was due long ago: while an alarm stands the owner ticks, so
/// nothing was heard since, of any node. Samples' own time jumps as it likes.
fn rings_late(ledger: &Ledger, at: &At, mesh: &MeshId) -> bool {
    let row = ledger.meshes.get(mesh);
    let hold = row.and_then(|row| row.hold.as_ref()?.until);
    let node = ledger.first_due(mesh).map(|(due, _)| due);
    // What is due at once has no time of its own.
    let timed = |due: &Time| *due > Time(i64::MIN);
    let first = [hold, node].into_iter().flatten().filter(timed).min();
    first.is_some_and(|due| at.now - due > BLIND_AFTER) && !ledger.partition().time_by_sample
}

/// The oldest entry of the first queue whose block is gone.
fn first_queued(ledger: &Ledger, at: &At, mesh: &MeshId) -> Option<InQueue> {
    let row = ledger.meshes.get(mesh)?;
    let waiting = |queue| ledger.first_waiting(mesh, queue, 1);
    let hold = || waiting(Queue::Hold).filter(|_| ledger.mesh_hold(mesh).is_none());
    let for_all = ledger
        .partition()
        .policy
        .as_ref()
        .map_or(0, |policy| policy.generation);
    let newer = for_all > row.taken_generation;
    let policy = || {
        ledger.first_waiting(
            mesh,
            Queue::Policy,
            row.policy.generation + i64::from(newer),
        )
    };
    let storm = || waiting(Queue::Storm).filter(|_| row.storm.is_none());
    // A policy that was not taken over yet may hold a larger budget.
    let budget = || {
        waiting(Queue::Budget)
            .filter(|_| newer || ledger.acting(mesh, at.now) < ledger.budget(mesh))
    };
    hold().or_else(policy).or_else(storm).or_else(budget)
}
