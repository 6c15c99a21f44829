//! What one event changes. It alone changes Plan's rows, belongs to the event schema and is kept
//! for ever.
//!
//! 1. The event takes the next seq of its mesh.
//! 2. Its fact changes the row that it is about.
//! 3. The indexes follow from the row before and after: when something is due, budget slots,
//!    queues.

use crate::model::{
    Action, Answer, Assessment, Body, Event, FOREVER, Healing, HoldRow, HoldScope, IncidentKind,
    IncidentRow, Kind, KindRow, MeshId, MeshRow, NodeId, NodeKey, NodeRow, Onset, Order,
    OrderState, Outcome, OutcomeResult, Policy, PolicyId, PolicyInForce, Queue, Reason, Severity,
    Span, Storm, Time, Waiting,
};
use crate::stream::{ByTime, InQueue, Ledger, Whole};

/// Applies one event to the rows.
///
/// # Panics
/// When its seq is not the mesh's next: the log is not dense, nothing after it can be trusted.
pub fn evolve(ledger: &mut Ledger, event: &Event) {
    let now = event.time;
    let mesh = &event.mesh;
    match &event.body {
        Body::LogOpened {
            log_id,
            audit_name,
            time_source,
            ..
        } => {
            ledger.partition.update(&Whole, |row| {
                row.log_id.clone_from(log_id);
                row.audit_name.clone_from(audit_name);
                row.time_by_sample = time_source == "sample";
            });
        }
        Body::MeshOpened { policy_text, .. } => {
            let policy = PolicyInForce {
                id: PolicyId::of(policy_text),
                generation: 0,
                text: policy_text.clone(),
            };
            ledger.meshes.put(
                mesh.clone(),
                Some(MeshRow {
                    policy,
                    ..MeshRow::default()
                }),
            );
        }
        Body::SchemaAdopted { fingerprint, .. } => {
            ledger
                .meshes
                .update(mesh, |row| row.schemas.push(*fingerprint));
        }
        Body::Adopted {
            policy_id,
            policy_generation,
            text,
            taken_over,
            ..
        } => {
            let policy = PolicyInForce {
                id: *policy_id,
                generation: *policy_generation,
                text: text.clone(),
            };
            adopt(ledger, mesh, policy, *taken_over);
        }
        Body::NodeSeen {
            node,
            first,
            assessment,
            ..
        } => {
            let key = NodeKey {
                mesh: mesh.clone(),
                node: node.clone(),
            };
            if let Some(assessment) = assessment {
                seen(ledger, &key, assessment, now, *first);
            }
        }
        Body::StateChanged {
            node, assessment, ..
        }
        | Body::NodeAssessed { node, assessment } => {
            assessed(ledger, mesh, node, assessment.as_ref(), now);
        }
        Body::SeverityChanged {
            node,
            from,
            to,
            assessment,
            ..
        } => {
            assessed(ledger, mesh, node, assessment.as_ref(), now);
            severity_changed(ledger, mesh, node, (*from, *to), now);
        }
        Body::NodeSilent { node } => {
            let retire = Span::seconds(ledger.policy(mesh).plan.retire_s);
            change(ledger, mesh, node, |row| {
                row.silent_since = Some(now);
                row.retire_at = Some(now + retire);
            });
        }
        Body::NodeReturned { node } => change(ledger, mesh, node, |row| {
            row.silent_since = None;
            row.retire_at = None;
        }),
        Body::NodeRetired { node } => {
            let key = NodeKey {
                mesh: mesh.clone(),
                node: node.clone(),
            };
            replace(ledger, &key, None);
            ledger.meshes.update(mesh, |row| row.nodes -= 1);
        }
        Body::IncidentOpened {
            incident_id,
            kind,
            node,
            symptoms,
            ill_since,
            ..
        } => match kind {
            IncidentKind::Node => {
                let incident = IncidentRow {
                    id: incident_id.clone(),
                    opened_at: now,
                    ill_since: *ill_since,
                    symptoms: symptoms.clone(),
                };
                change(ledger, mesh, node, |row| row.incident = Some(incident));
            }
            IncidentKind::Mass => {
                let storm = Storm {
                    incident_id: incident_id.clone(),
                    node: node.clone(),
                    opened_at: now,
                    ill_since: *ill_since,
                };
                ledger.meshes.update(mesh, |row| {
                    row.storm = Some(storm);
                    row.onsets.clear();
                });
            }
        },
        Body::IncidentClosed { kind, node, .. } => match kind {
            IncidentKind::Node => change(ledger, mesh, node, |row| row.incident = None),
            IncidentKind::Mass => ledger.meshes.update(mesh, |row| {
                row.storm = None;
                row.onsets.clear();
            }),
        },
        Body::DirectiveIssued { directive } => {
            free_spent_slots(ledger, mesh, now);
            let policy = ledger.policy(mesh);
            change(ledger, mesh, &directive.node, |row| {
                let carried_by = row.assessment.carriers().map(|f| f.symptom).collect();
                issued(
                    row,
                    directive.action,
                    now,
                    Order {
                        id: directive.id.clone(),
                        generation: directive.generation,
                        action: directive.action,
                        expires_at: directive.expires_at(),
                        state: OrderState::UnderWay,
                        review_at: None,
                        told_before: told_for_sure(row, directive.action.kind()),
                        carried_by,
                        this_episode: true,
                    },
                );
                wishes(row, now, &policy);
            });
        }
        Body::DirectiveWithheld {
            id,
            node,
            action,
            reason,
            until,
            ..
        } => {
            let held_by_mesh = ledger.mesh_hold(mesh).is_some();
            let generation = ledger
                .meshes
                .get(mesh)
                .map_or(0, |row| row.policy.generation);
            change(ledger, mesh, node, |row| {
                let kind = &mut row.kinds[action.kind() as usize];
                kind.reasons |= 1 << *reason as u8;
                if *reason != Reason::NoEvidence {
                    kind.waiting = Some(Waiting {
                        id: id.clone(),
                        action: *action,
                        reason: *reason,
                        since: now,
                        until: *until,
                        queue: queue_of(*reason, held_by_mesh),
                        policy_generation: generation,
                    });
                }
            });
        }
        Body::DirectiveExpired {
            node,
            kind,
            proposal,
            ..
        } => {
            let policy = ledger.policy(mesh);
            change(ledger, mesh, node, |row| {
                if *proposal {
                    answered(&mut row.kinds[*kind as usize], false);
                } else {
                    ended(row, *kind, OrderState::Expired, now, &policy);
                }
            });
        }
        Body::OutcomeReported { outcome } => reported(ledger, mesh, outcome, now),
        Body::ApprovalRecorded {
            node,
            kind,
            approved,
            ..
        } => {
            change(ledger, mesh, node, |row| {
                answered(&mut row.kinds[*kind as usize], *approved);
            });
        }
        Body::HoldPlaced {
            hold_id,
            scope,
            until,
            ..
        } => {
            let hold = HoldRow {
                id: hold_id.clone(),
                until: *until,
            };
            set_hold(ledger, scope, |before| Some(longer(before, hold)));
        }
        Body::HoldReleased { scope, .. } => set_hold(ledger, scope, |_| None),
        Body::IdentityConflict { .. }
        | Body::LoopBlind { .. }
        | Body::AnomalyRaised { .. }
        | Body::AnomalyCleared { .. } => {}
    }
    take_seq(ledger, event);
}

/// What a node is known to have been told before a new order: not what an order under way says,
/// which it may not have heard.
fn told_for_sure(row: &NodeRow, kind: Kind) -> Option<Action> {
    match &row.kind(kind).order {
        Some(order) if order.state == OrderState::UnderWay => order.told_before,
        Some(_) | None => row.told(kind),
    }
}

fn take_seq(ledger: &mut Ledger, event: &Event) {
    let take = |next: &mut i64| {
        assert_eq!(
            event.seq,
            *next,
            "seq is dense: mesh {:?}",
            event.mesh.as_str()
        );
        *next += 1;
    };
    if event.mesh.is_none() {
        ledger
            .partition
            .update(&Whole, |row| take(&mut row.next_seq));
    } else {
        ledger
            .meshes
            .update(&event.mesh, |row| take(&mut row.next_seq));
    }
}

fn adopt(ledger: &mut Ledger, mesh: &MeshId, policy: PolicyInForce, taken_over: bool) {
    if mesh.is_none() {
        ledger
            .partition
            .update(&Whole, |row| row.policy = Some(policy));
        return;
    }
    let for_all = ledger
        .partition()
        .policy
        .as_ref()
        .map_or(0, |policy| policy.generation);
    ledger.meshes.update(mesh, |row| {
        row.policy = policy;
        if taken_over {
            row.taken_generation = for_all;
        }
    });
}

/// A first reading, or the first after a new boot: the agent starts from what it samples at and
/// balanced routes.
fn seen(ledger: &mut Ledger, key: &NodeKey, a: &Assessment, now: Time, first: bool) {
    if first {
        let mut row = NodeRow::new(a.clone(), now);
        wishes(&mut row, now, &ledger.policy(&key.mesh));
        replace(ledger, key, Some(row));
        ledger.meshes.update(&key.mesh, |row| row.nodes += 1);
        return;
    }
    change(ledger, &key.mesh, &key.node, |row| {
        row.told_interval_s = NodeRow::own_interval_s(a);
        row.told_route = crate::model::Route::Balanced;
        for kind in Kind::ALL {
            let told = row.told(kind);
            if let Some(order) = &mut row.kinds[kind as usize].order {
                order.told_before = told;
            }
        }
    });
    assessed(ledger, &key.mesh, &key.node, Some(a), now);
}

fn assessed(
    ledger: &mut Ledger,
    mesh: &MeshId,
    node: &NodeId,
    assessment: Option<&Assessment>,
    now: Time,
) {
    let Some(assessment) = assessment else { return };
    let policy = ledger.policy(mesh);
    change(ledger, mesh, node, |row| {
        row.assessment = assessment.clone();
        row.last_event = now;
        if let Some(incident) = &mut row.incident {
            incident.symptoms.extend(assessment.symptoms());
            incident.symptoms.sort_unstable();
            incident.symptoms.dedup();
        }
        wishes(row, now, &policy);
    });
}

/// Brings each kind's wish and episode up to date with the assessment and what the node was told.
fn wishes(row: &mut NodeRow, now: Time, policy: &Policy) {
    for kind in Kind::ALL {
        let wish = row.wish(kind);
        let wished = wish.is_some() || row.assessment.refuses(kind).is_some();
        let told_interval_s = row.told_interval_s;
        let k = &mut row.kinds[kind as usize];
        match (wished, k.unwished_since) {
            (true, Some(since)) => {
                k.unwished_since = None;
                if now - since >= Span::seconds(policy.plan.episode_s) {
                    begin_episode(k);
                }
            }
            (false, None) => k.unwished_since = Some(now),
            (true, None) | (false, Some(_)) => {}
        }
        k.longer_at = match wish {
            Some(Action::MonitoringInterval { interval_s }) if interval_s > told_interval_s => k
                .longer_at
                .or(Some(now + Span::seconds(policy.plan.longer_interval_s))),
            _ => None,
        };
        if k.wish != wish {
            // A wish that comes and goes keeps its place in the queue that it waits in.
            let parked = k.waiting.take().or(k.parked.take());
            k.waiting = parked
                .clone()
                .filter(|waiting| Some(waiting.action) == wish);
            k.parked = parked.filter(|_| wish.is_none());
            k.wish = wish;
        }
    }
}

fn begin_episode(k: &mut KindRow) {
    k.attempts = 0;
    k.reasons = 0;
    k.answer = None;
    k.waiting = None;
    k.parked = None;
    if let Some(order) = &mut k.order {
        order.this_episode = false;
    }
}

fn severity_changed(
    ledger: &mut Ledger,
    mesh: &MeshId,
    node: &NodeId,
    (from, to): (Severity, Severity),
    now: Time,
) {
    let window = Span::seconds(ledger.policy(mesh).plan.storm_s);
    let mut onset = false;
    change(ledger, mesh, node, |row| {
        onset = from == Severity::Ok && row.onset.is_none_or(|last| now - last > window);
        if onset {
            row.onset = Some(now);
        }
        if to == Severity::Ok {
            row.slot = None;
        }
    });
    if onset {
        ledger.meshes.update(mesh, |row| {
            let at = now - Span(now.0.rem_euclid(1000));
            row.onsets.retain(|o| now - o.at <= window);
            match row.onsets.last_mut() {
                Some(last) if last.at == at => last.nodes += 1,
                _ => row.onsets.push(Onset { at, nodes: 1 }),
            }
        });
    }
}

fn issued(row: &mut NodeRow, action: Action, now: Time, order: Order) {
    match action {
        Action::MonitoringInterval { interval_s } => row.told_interval_s = interval_s,
        Action::RoutePreference { value } => row.told_route = value,
        Action::Healing { .. } | Action::Scaling { .. } => {}
    }
    let k = &mut row.kinds[action.kind() as usize];
    let again = k.order.as_ref().is_some_and(|last| {
        let lost = [
            OrderState::Expired,
            OrderState::Reported(OutcomeResult::Failed),
        ];
        last.this_episode && last.action == action && lost.contains(&last.state)
    });
    k.attempts += i64::from(again);
    k.waiting = None;
    k.parked = None;
    k.longer_at = None;
    if action.kind() != Kind::MonitoringInterval {
        k.issued.retain(|(value, _)| *value != action);
        k.issued.push((action, now));
    }
    if action.intervenes() {
        row.slot = Some(FOREVER);
    }
    row.kinds[action.kind() as usize].order = Some(order);
}

/// An order ended: what was not done was not told, and the budget's slot runs out some time after
/// the last one.
fn ended(row: &mut NodeRow, kind: Kind, state: OrderState, now: Time, policy: &Policy) {
    let help = Span::seconds(policy.plan.help_s);
    let k = &mut row.kinds[kind as usize];
    let Some(order) = &mut k.order else { return };
    order.state = state;
    let intervened = order.action.intervenes();
    let done = state == OrderState::Reported(OutcomeResult::Applied);
    order.review_at = done.then_some(now + help);
    let told = if done {
        Some(order.action)
    } else {
        order.told_before
    };
    if done {
        k.answer = None;
        // What waited for the same act is done; left standing it would hide that the act may not
        // have helped.
        let (waiting, done) = (k.waiting.take(), order.action);
        k.waiting = waiting.filter(|waiting| !serves(done, waiting.action));
    }
    match told {
        Some(Action::MonitoringInterval { interval_s }) => row.told_interval_s = interval_s,
        Some(Action::RoutePreference { value }) => row.told_route = value,
        Some(Action::Healing { .. } | Action::Scaling { .. }) | None => {}
    }
    let acting = row
        .kinds
        .iter()
        .filter_map(|k| k.order.as_ref())
        .any(|order| order.action.intervenes() && order.state == OrderState::UnderWay);
    if let Some(slot) = &mut row.slot
        && !acting
        && intervened
    {
        *slot = now + help;
    }
    wishes(row, now, policy);
}

/// Whether an act that is done does what is wished: the same, or a stronger healing.
fn serves(done: Action, wished: Action) -> bool {
    let aggressive = Action::Healing {
        level: Healing::Aggressive,
    };
    done == wished || (done == aggressive && wished.kind() == Kind::Healing)
}

fn reported(ledger: &mut Ledger, mesh: &MeshId, outcome: &Outcome, now: Time) {
    let policy = ledger.policy(mesh);
    change(ledger, mesh, &outcome.node, |row| {
        let open = row.kind(outcome.kind).order.as_ref().is_some_and(|order| {
            order.generation == outcome.generation
                && matches!(order.state, OrderState::UnderWay | OrderState::Expired)
        });
        if open {
            ended(
                row,
                outcome.kind,
                OrderState::Reported(outcome.result),
                now,
                &policy,
            );
        }
    });
}

fn answered(k: &mut KindRow, approved: bool) {
    // The wish may be away for a moment: what it waited for is parked then.
    if let Some(waiting) = k.waiting.take().or(k.parked.take()) {
        k.answer = Some(if approved {
            Answer::Approved(waiting.action)
        } else {
            Answer::Declined(waiting.action)
        });
    }
}

fn queue_of(reason: Reason, held_by_mesh: bool) -> Option<Queue> {
    match reason {
        Reason::Held if held_by_mesh => Some(Queue::Hold),
        Reason::NotAllowed | Reason::Shadow => Some(Queue::Policy),
        Reason::Storm => Some(Queue::Storm),
        Reason::Budget => Some(Queue::Budget),
        _ => None,
    }
}

fn longer(before: Option<HoldRow>, hold: HoldRow) -> HoldRow {
    let until = match before {
        Some(HoldRow { until: None, .. }) => None,
        Some(HoldRow {
            until: Some(end), ..
        }) => hold.until.map(|until| until.max(end)),
        None => hold.until,
    };
    HoldRow { until, ..hold }
}

fn set_hold(
    ledger: &mut Ledger,
    scope: &HoldScope,
    set: impl FnOnce(Option<HoldRow>) -> Option<HoldRow>,
) {
    match &scope.node {
        Some(node) => change(ledger, &scope.mesh, node, |row| {
            row.hold = set(row.hold.take())
        }),
        None if scope.mesh.is_none() => {
            ledger
                .partition
                .update(&Whole, |row| row.hold = set(row.hold.take()));
        }
        None => ledger
            .meshes
            .update(&scope.mesh, |row| row.hold = set(row.hold.take())),
    }
}

/// Budget slots that have run out are given back for good.
fn free_spent_slots(ledger: &mut Ledger, mesh: &MeshId, now: Time) {
    while let Some((at, node)) = ledger.first_slot(mesh)
        && at <= now
    {
        let mut known = false;
        change(ledger, mesh, &node, |row| {
            known = true;
            row.slot = None;
        });
        // Else a store that fails meanwhile would keep this going for ever.
        assert!(known, "a slot is a known node's");
    }
}

/// Changes a node's row, if the node is known.
fn change(ledger: &mut Ledger, mesh: &MeshId, node: &NodeId, change: impl FnOnce(&mut NodeRow)) {
    let key = NodeKey {
        mesh: mesh.clone(),
        node: node.clone(),
    };
    if let Some(row) = ledger.nodes.get(&key) {
        let mut row = (*row).clone();
        change(&mut row);
        replace(ledger, &key, Some(row));
    }
}

/// Puts a node's row and brings the indexes from the row before to the row after.
fn replace(ledger: &mut Ledger, key: &NodeKey, after: Option<NodeRow>) {
    let before = ledger.nodes.get(key);
    let by_time = |at| ByTime {
        mesh: key.mesh.clone(),
        at,
        node: Some(key.node.clone()),
    };
    let entry = |k: Kind, waiting: &Waiting| {
        let queue = waiting.queue?;
        Some(InQueue {
            mesh: key.mesh.clone(),
            queue,
            generation: if queue == Queue::Policy {
                waiting.policy_generation
            } else {
                0
            },
            since: waiting.since,
            node: Some(key.node.clone()),
            kind: k,
        })
    };
    let entries = |row: &NodeRow| {
        Kind::ALL.map(|kind| row.kind(kind).waiting.as_ref().and_then(|w| entry(kind, w)))
    };
    let due = (
        before.as_ref().and_then(|r| r.due()),
        after.as_ref().and_then(NodeRow::due),
    );
    if due.0 != due.1 {
        due.0
            .into_iter()
            .for_each(|at| ledger.agenda.put(by_time(at), None));
        due.1
            .into_iter()
            .for_each(|at| ledger.agenda.put(by_time(at), Some(())));
    }
    let slot = (
        before.as_ref().and_then(|r| r.slot),
        after.as_ref().and_then(|r| r.slot),
    );
    if slot.0 != slot.1 {
        slot.0
            .into_iter()
            .for_each(|at| ledger.slots.put(by_time(at), None));
        slot.1
            .into_iter()
            .for_each(|at| ledger.slots.put(by_time(at), Some(())));
        let taken = i64::from(slot.1.is_some()) - i64::from(slot.0.is_some());
        ledger.meshes.update(&key.mesh, |row| row.acting += taken);
    }
    let old = before.map(|row| entries(&row)).unwrap_or_default();
    let new = after.as_ref().map(entries).unwrap_or_default();
    for (old, new) in old.into_iter().zip(new) {
        if old != new {
            old.into_iter()
                .for_each(|entry| ledger.waiting.put(entry, None));
            new.into_iter()
                .for_each(|entry| ledger.waiting.put(entry, Some(())));
        }
    }
    ledger.nodes.put(key.clone(), after);
}
