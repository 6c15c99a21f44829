//! The questions that every wish passes, in order; the first that it fails is the reason why it is
//! withheld.

use crate::model::{
    Action, Answer, Body, Directive, Healing, IdKind, Kind, Mode, MonitorPolicy, NodeKey, NodeRow,
    Order, OrderState, OutcomeResult, PlanPolicy, Policy, Queue, Reason, Route, Scaling, Severity,
    Span, Time, Waiting,
};

use super::Draft;

/// What made Plan look at a wish again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// An input about its node: what it waits for already is not recorded again, nor, within the
    /// episode, a reason that only another input can end.
    ByInput,
    /// What held it ended: every answer is recorded, or the alarm would fire for ever.
    ByAlarm,
}

/// The answer to a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing to order: it is done, under way, or not yet a wish.
    Quiet,
    /// Order it.
    Issue,
    /// Do not, and say why.
    Withhold(Withheld),
}

/// Why not, with what the reason needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Withheld {
    reason: Reason,
    used: Option<i64>,
    limit: Option<i64>,
    until: Option<Time>,
}

impl Draft<'_> {
    /// Judges what a node's assessment wishes of one kind.
    pub(super) fn judge(&mut self, key: &NodeKey, kind: Kind, asked: Asked) {
        let Some(row) = self.node(key) else { return };
        let Some(action) = row.wish(kind) else {
            if let Some(refused) = row.assessment.refuses(kind) {
                self.withhold(key, &row, refused, why(Reason::NoEvidence), asked);
            }
            return;
        };
        let policy = self.policy(&key.mesh);
        match self.verdict(key, &row, action, &policy) {
            Verdict::Quiet if asked == Asked::ByInput => {}
            Verdict::Quiet => {
                let served = row
                    .kind(kind)
                    .order
                    .as_ref()
                    .is_some_and(|o| serves(o, action));
                let withheld = if served {
                    why(Reason::UnderWay)
                } else {
                    Withheld {
                        until: row.kind(kind).longer_at,
                        ..why(Reason::NotConfirmed)
                    }
                };
                self.withhold(key, &row, action, withheld, asked);
            }
            Verdict::Issue => self.issue(key, &row, action, &policy),
            Verdict::Withhold(withheld) => self.withhold(key, &row, action, withheld, asked),
        }
    }

    fn verdict(&self, key: &NodeKey, row: &NodeRow, action: Action, policy: &Policy) -> Verdict {
        let now = self.at.now;
        if not_yet_a_wish(row, action, now) {
            return Verdict::Quiet;
        }
        match after_last_order(row, action, policy, now) {
            Some(verdict) => verdict,
            None => match self.first_objection(key, row, action, policy) {
                Some(withheld) => Verdict::Withhold(withheld),
                None => Verdict::Issue,
            },
        }
    }

    /// Confirmed, fresh, known and heard, allowed, not held; then for an act or a route: free,
    /// cooled down, within the budget, no storm, approved; then mode `act`.
    fn first_objection(
        &self,
        key: &NodeKey,
        row: &NodeRow,
        action: Action,
        policy: &Policy,
    ) -> Option<Withheld> {
        let plain = action.kind() == Kind::MonitoringInterval;
        confirmed(row, action, policy, self.at.now)
            .or_else(|| self.fresh(key, row))
            .or_else(|| heard(row))
            .or_else(|| allowed(action, policy))
            .or_else(|| self.not_held(key, row))
            .or_else(|| {
                if plain {
                    None
                } else {
                    self.may_act(key, row, action, policy)
                }
            })
            .or_else(|| (policy.plan.mode == Mode::Shadow).then(|| why(Reason::Shadow)))
    }

    fn may_act(
        &self,
        key: &NodeKey,
        row: &NodeRow,
        action: Action,
        policy: &Policy,
    ) -> Option<Withheld> {
        free(row, action)
            .or_else(|| cooled_down(row, action, policy, self.at.now))
            .or_else(|| self.within_budget(key, row, action))
            .or_else(|| self.no_storm(key))
            .or_else(|| approved(row, action, policy, self.at.now))
    }

    fn fresh(&self, key: &NodeKey, row: &NodeRow) -> Option<Withheld> {
        let mesh = self.ledger.meshes.get(&key.mesh)?;
        let monitor = &self.policy(&key.mesh).monitor;
        if row.assessment.stale {
            Some(why(Reason::StaleEvidence))
        } else if self.blind {
            // Whoever is still there says so in this time, or is silent.
            Some(Withheld {
                until: Some(self.at.now + silence(row.assessment.interval_s, monitor)),
                ..why(Reason::StaleEvidence)
            })
        } else {
            (row.assessment.policy_id != mesh.policy.id).then(|| why(Reason::OtherPolicy))
        }
    }

    fn not_held(&self, key: &NodeKey, row: &NodeRow) -> Option<Withheld> {
        let hold = self
            .ledger
            .mesh_hold(&key.mesh)
            .or_else(|| row.hold.clone())?;
        Some(Withheld {
            until: hold.until,
            ..why(Reason::Held)
        })
    }

    /// A node that is acted on already costs no more, nor does the way back; any other stands
    /// behind those that wait, so that one that nothing helps does not keep its place for ever.
    fn within_budget(&self, key: &NodeKey, row: &NodeRow, action: Action) -> Option<Withheld> {
        if !action.intervenes() || row.slot.is_some_and(|until| until > self.at.now) {
            return None;
        }
        let used = self.ledger.acting(&key.mesh, self.at.now);
        let limit = self.ledger.budget(&key.mesh);
        let first = self.ledger.first_waiting(&key.mesh, Queue::Budget, 1);
        let behind = first.is_some_and(|first| first.node.as_ref() != Some(&key.node));
        (used >= limit || behind).then(|| Withheld {
            used: Some(used),
            limit: Some(limit),
            ..why(Reason::Budget)
        })
    }

    fn no_storm(&self, key: &NodeKey) -> Option<Withheld> {
        let storm = self.ledger.meshes.get(&key.mesh)?.storm.is_some();
        storm.then(|| why(Reason::Storm))
    }

    fn issue(&mut self, key: &NodeKey, row: &NodeRow, action: Action, policy: &Policy) {
        let partition = self.ledger.partition();
        let mesh = self
            .ledger
            .meshes
            .get(&key.mesh)
            .expect("a node's mesh is open");
        let interval_s = row
            .assessment
            .interval_s
            .unwrap_or(policy.monitor.interval_default_s as f64)
            .min(policy.monitor.interval_max_s as f64);
        let life = (interval_s * policy.plan.ttl_intervals as f64).ceil() as i64;
        let directive = Directive {
            id: self.next_id(IdKind::Directive, &key.mesh),
            log_id: partition.log_id.clone(),
            mesh: key.mesh.clone(),
            node: key.node.clone(),
            generation: self.next_seq(&key.mesh),
            issued_at: self.at.now,
            ttl_s: life.max(policy.plan.ttl_min_s),
            action,
            cause: self.at.cause.clone(),
            incident_id: self.incident_of(key, row),
            policy_id: mesh.policy.id,
            policy_generation: mesh.policy.generation,
        };
        self.record(&key.mesh, Body::DirectiveIssued { directive });
    }

    fn withhold(
        &mut self,
        key: &NodeKey,
        row: &NodeRow,
        action: Action,
        withheld: Withheld,
        asked: Asked,
    ) {
        let kind = row.kind(action.kind());
        let waits = kind
            .waiting
            .as_ref()
            .is_some_and(|w| w.reason == withheld.reason && !waits_too_long(w, withheld));
        let said = kind.recorded(withheld.reason)
            && ends_by_input(withheld.reason)
            && withheld.until.is_none();
        if (waits || said) && asked == Asked::ByInput {
            return;
        }
        self.record(
            &key.mesh,
            Body::DirectiveWithheld {
                id: self.next_id(IdKind::Withheld, &key.mesh),
                node: key.node.clone(),
                action,
                reason: withheld.reason,
                used: withheld.used,
                limit: withheld.limit,
                until: withheld.until,
                incident_id: self.incident_of(key, row),
            },
        );
    }

    fn incident_of(&self, key: &NodeKey, row: &NodeRow) -> Option<String> {
        let own = row.incident.as_ref().map(|incident| incident.id.clone());
        own.or_else(|| {
            let mesh = self.ledger.meshes.get(&key.mesh)?;
            mesh.storm.as_ref().map(|storm| storm.incident_id.clone())
        })
    }
}

/// How long a node that samples so often may say nothing before it is silent.
fn silence(interval_s: Option<f64>, monitor: &MonitorPolicy) -> Span {
    let interval = interval_s
        .unwrap_or(monitor.interval_default_s as f64)
        .clamp(monitor.interval_min_s as f64, monitor.interval_max_s as f64);
    Span((interval * monitor.silent_intervals as f64 * 1000.0).ceil() as i64)
}

/// Whether only another input about the node can end this reason. Any other must stand as waiting
/// whenever it is given, or nobody would take the wish up again.
fn ends_by_input(reason: Reason) -> bool {
    match reason {
        Reason::NoEvidence
        | Reason::StaleEvidence
        | Reason::OtherPolicy
        | Reason::Silent
        | Reason::IdentityConflict
        | Reason::UnderWay
        | Reason::NotApproved
        | Reason::AttemptsSpent
        | Reason::NotRepeated => true,
        Reason::NotConfirmed
        | Reason::NotAllowed
        | Reason::Held
        | Reason::Cooldown
        | Reason::Budget
        | Reason::Storm
        | Reason::NeedsApproval
        | Reason::Shadow => false,
    }
}

/// Whether what waits would not be taken up when its reason ends: it waits from an earlier illness,
/// whose end was known otherwise. A proposal's end stands from the start, and a queue is woken by
/// what blocks it.
fn waits_too_long(waiting: &Waiting, withheld: Withheld) -> bool {
    let ends = waiting.queue.is_none() && withheld.reason != Reason::NeedsApproval;
    let sooner = |until| waiting.until.is_none_or(|end| until < end);
    ends && withheld.until.is_some_and(sooner)
}

fn why(reason: Reason) -> Withheld {
    Withheld {
        reason,
        used: None,
        limit: None,
        until: None,
    }
}

/// A longer interval is a wish only after a while; a route goes with the act that asks for it, and
/// back when none of the symptoms that carried it is confirmed.
fn not_yet_a_wish(row: &NodeRow, action: Action, now: Time) -> bool {
    let ordered = |kind, wanted: fn(&Action) -> bool| {
        row.kind(kind).order.as_ref().is_some_and(|order| {
            order.this_episode
                && wanted(&order.action)
                && matches!(
                    order.state,
                    OrderState::UnderWay | OrderState::Reported(OutcomeResult::Applied)
                )
        })
    };
    match action {
        Action::MonitoringInterval { interval_s } => {
            interval_s > row.told_interval_s
                && row
                    .kind(Kind::MonitoringInterval)
                    .longer_at
                    .is_none_or(|at| now < at)
        }
        Action::RoutePreference {
            value: Route::LowLatency,
        } => !ordered(Kind::Healing, |_| true),
        Action::RoutePreference {
            value: Route::HighThroughput,
        } => {
            carrier_confirmed(row)
                || !ordered(Kind::Scaling, |a| {
                    *a == Action::Scaling {
                        value: Scaling::Optimize,
                    }
                })
        }
        Action::RoutePreference {
            value: Route::Balanced,
        } => carrier_confirmed(row),
        Action::Healing { .. } | Action::Scaling { .. } => false,
    }
}

/// Whether a symptom that carried the last route is still confirmed.
fn carrier_confirmed(row: &NodeRow) -> bool {
    row.kind(Kind::RoutePreference)
        .order
        .as_ref()
        .is_some_and(|order| {
            order.carried_by.iter().any(|symptom| {
                row.assessment
                    .finding(*symptom)
                    .is_some_and(|finding| finding.confirmed)
            })
        })
}

/// What the last order of this kind means for the wish; `None`: nothing, ask on.
fn after_last_order(row: &NodeRow, action: Action, policy: &Policy, now: Time) -> Option<Verdict> {
    let kind = row.kind(action.kind());
    let order = kind.order.as_ref()?;
    if order.state == OrderState::UnderWay {
        return serves(order, action).then_some(Verdict::Quiet);
    }
    if !order.this_episode || !serves(order, action) {
        return None;
    }
    match order.state {
        OrderState::UnderWay => None,
        OrderState::Reported(OutcomeResult::Applied) => {
            let resting = row.told(action.kind()).is_none()
                && order.review_at.is_some_and(|review| now < review);
            resting.then_some(Verdict::Quiet)
        }
        OrderState::Reported(OutcomeResult::Failed) | OrderState::Expired => {
            let (used, limit) = (kind.attempts, policy.plan.attempts);
            (used >= limit).then_some(Verdict::Withhold(Withheld {
                used: Some(used),
                limit: Some(limit),
                ..why(Reason::AttemptsSpent)
            }))
        }
        OrderState::Reported(OutcomeResult::Refused | OutcomeResult::Unknown) => {
            Some(Verdict::Withhold(why(Reason::NotRepeated)))
        }
    }
}

/// Whether an order does what is wished now: the same, or a stronger healing that is not lost.
fn serves(order: &Order, action: Action) -> bool {
    let lost = matches!(
        order.state,
        OrderState::Expired | OrderState::Reported(OutcomeResult::Failed)
    );
    match (order.action, action) {
        (
            Action::Healing {
                level: Healing::Aggressive,
            },
            Action::Healing { .. },
        ) if !lost => true,
        (ordered, wished) => ordered == wished,
    }
}

/// What is critical is healed at once. Anything less needs the 5-minute mean of a symptom that
/// carries it, over a whole window since the incident opened: three readings in a row with two lost
/// probes in a hundred come about once a day on a healthy router, and what raised the suspicion is
/// no second witness of it. Without a carrier the trend's 50 readings have confirmed it.
fn confirmed(row: &NodeRow, action: Action, policy: &Policy, now: Time) -> Option<Withheld> {
    let heals = matches!(
        action,
        Action::Healing { .. }
            | Action::Scaling {
                value: Scaling::EmergencyScale
            }
    );
    let a = &row.assessment;
    let at_once = a
        .carriers()
        .any(|finding| finding.level == Severity::Critical);
    if !heals || at_once || a.carriers().next().is_none() {
        return None;
    }
    let opened_at = row.incident.as_ref().map(|incident| incident.opened_at);
    let until = opened_at
        .or(a.ill_since)
        .map(|since| since + Span::seconds(policy.plan.confirm_s));
    let until = until.filter(|until| now < *until);
    let held = a.carriers().any(|finding| finding.confirmed);
    (!held || until.is_some()).then(|| Withheld {
        until,
        ..why(Reason::NotConfirmed)
    })
}

fn heard(row: &NodeRow) -> Option<Withheld> {
    if row.assessment.silent {
        Some(why(Reason::Silent))
    } else {
        row.assessment
            .conflict
            .then(|| why(Reason::IdentityConflict))
    }
}

fn allowed(action: Action, policy: &Policy) -> Option<Withheld> {
    let allowed = PlanPolicy::names(&policy.plan.allow, &action);
    (!allowed).then(|| why(Reason::NotAllowed))
}

/// Not while another order of the kind is under way.
fn free(row: &NodeRow, action: Action) -> Option<Withheld> {
    let order = row.kind(action.kind()).order.as_ref()?;
    (order.state == OrderState::UnderWay).then(|| why(Reason::UnderWay))
}

fn cooled_down(row: &NodeRow, action: Action, policy: &Policy, now: Time) -> Option<Withheld> {
    let issued = &row.kind(action.kind()).issued;
    let (_, last) = issued.iter().find(|(value, _)| *value == action)?;
    let until = *last + Span::seconds(policy.plan.cooldown_s);
    (now < until).then(|| Withheld {
        until: Some(until),
        ..why(Reason::Cooldown)
    })
}

fn approved(row: &NodeRow, action: Action, policy: &Policy, now: Time) -> Option<Withheld> {
    if !PlanPolicy::names(&policy.plan.approve, &action) {
        return None;
    }
    match row.kind(action.kind()).answer {
        Some(Answer::Approved(yes)) if yes == action => None,
        Some(Answer::Declined(no)) if no == action => Some(why(Reason::NotApproved)),
        Some(Answer::Approved(_) | Answer::Declined(_)) | None => {
            let until = now + Span::seconds(policy.plan.approval_s);
            Some(Withheld {
                until: Some(until),
                ..why(Reason::NeedsApproval)
            })
        }
    }
}
