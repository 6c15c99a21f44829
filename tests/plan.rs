//! Plan's order of questions, one story each: what an assessment wishes, what people and time say,
//! and what leaves.

use std::rc::Rc;

use homeostat::knowledge::explain::explain;
use homeostat::model::*;
use homeostat::stream::{At, Base, NoBase};
use homeostat::topology::plan::PlanFold;

/// One mesh `alpha` in front of Plan; time is moved by hand, in seconds.
struct World {
    plan: PlanFold,
    now: Time,
    offset: i64,
}

const BOOT: i64 = 1_767_225_600_000;

impl World {
    fn new() -> Self {
        let base: Rc<dyn Base> = Rc::new(NoBase);
        let plan = PlanFold::new(0, &base);
        let mut world = World {
            plan,
            now: Time(BOOT),
            offset: -1,
        };
        world.say(PlanRecord::LogOpened(LogOpened {
            log_id: "log1".into(),
            audit_name: "test.example/homeostat".into(),
            partitions: 1,
            time_source: "log".into(),
        }));
        world
    }

    fn with_policy(text: &str) -> Self {
        let mut world = World::new();
        world.say(PlanRecord::PolicyChange(PolicyChange {
            mesh: MeshId::none(),
            text: text.into(),
            by: "ops".into(),
        }));
        world
    }

    /// Moves time to so many seconds after the start.
    fn at(&mut self, s: i64) -> &mut Self {
        self.now = Time(BOOT + s * 1000);
        self
    }

    fn cause(&self) -> At {
        At {
            now: self.now,
            hears_since: Time(BOOT),
            cause: Cause {
                topic: "plan-inbox".into(),
                partition: 0,
                offset: self.offset,
            },
        }
    }

    /// Fires what is due, then folds the record; what leaves, in brief.
    fn say(&mut self, record: PlanRecord) -> Vec<String> {
        self.try_say(record).unwrap()
    }

    fn try_say(&mut self, record: PlanRecord) -> Result<Vec<String>, String> {
        self.offset += 1;
        let at = self.cause();
        let mut events = Vec::new();
        for mesh in [mesh(), MeshId::none()] {
            events.extend(self.plan.wake(&at, &mesh, 192));
        }
        events.extend(
            self.plan
                .decide(&at, &record)
                .map_err(|reject| reject.reason)?,
        );
        Ok(events.iter().filter_map(brief).collect())
    }

    fn tick(&mut self) -> Vec<String> {
        self.say(PlanRecord::Tick)
    }

    fn assess(&mut self, a: Assessment) -> Vec<String> {
        self.say(PlanRecord::Assessment(a))
    }

    fn order(&self, node: &str, kind: Kind) -> Order {
        let key = NodeKey {
            mesh: mesh(),
            node: id(node),
        };
        let row = self.plan.ledger().nodes.get(&key).unwrap();
        row.kind(kind).order.clone().unwrap()
    }

    fn outcome(&self, node: &str, kind: Kind, result: OutcomeResult) -> PlanRecord {
        let order = self.order(node, kind);
        PlanRecord::Outcome(Outcome {
            mesh: mesh(),
            node: id(node),
            log_id: "log1".into(),
            directive_id: order.id,
            generation: order.generation,
            kind,
            result,
            observed: None,
        })
    }

    fn report(&mut self, node: &str, kind: Kind, result: OutcomeResult) -> Vec<String> {
        let outcome = self.outcome(node, kind, result);
        self.say(outcome)
    }

    fn policy_id(&self) -> PolicyId {
        let row = self.plan.ledger().partition();
        row.policy
            .as_ref()
            .map_or(PolicyId::of(Policy::BUILT_IN), |policy| policy.id)
    }

    fn healthy(&self, node: &str) -> Assessment {
        Assessment {
            mesh: mesh(),
            node: id(node),
            boot: 1,
            sample_seq: self.offset,
            sample_time: EventTime(self.now.0),
            interval_s: Some(60.0),
            phi: 1.2,
            state: State::Harmonic,
            settled: State::Harmonic,
            severity: Severity::Ok,
            findings: Vec::new(),
            wish: Wish {
                interval_s: 60,
                route: Route::Balanced,
                healing: None,
                scaling: None,
            },
            refused: Vec::new(),
            stale: false,
            silent: false,
            conflict: false,
            ill_since: None,
            good_since: None,
            metrics: Metrics::default(),
            policy_id: self.policy_id(),
            engine: "analyze/1".into(),
        }
    }

    /// Lossy at its critical bound: wishes aggressive healing, low latency, 10 s.
    fn lossy(&self, node: &str) -> Assessment {
        Assessment {
            severity: Severity::Critical,
            findings: vec![Finding {
                symptom: Symptom::Lossy,
                level: Severity::Critical,
                shown: true,
                established: true,
                confirmed: true,
                value: Some(12.0),
            }],
            wish: Wish {
                interval_s: 60,
                route: Route::LowLatency,
                healing: Some(Healing::Aggressive),
                scaling: None,
            },
            ill_since: Some(self.now),
            ..self.healthy(node)
        }
    }

    /// `node` reads lossy after `s` seconds.
    fn ill(&mut self, s: i64, node: &str) -> Vec<String> {
        self.at(s);
        self.assess(self.lossy(node))
    }

    /// `node` reads healthy after `s` seconds.
    fn well(&mut self, s: i64, node: &str) -> Vec<String> {
        self.at(s);
        self.assess(self.healthy(node))
    }

    fn fleet(nodes: usize) -> Self {
        let mut world = World::new();
        world.greet(nodes);
        world
    }

    fn greet(&mut self, nodes: usize) {
        for n in 1..=nodes {
            self.assess(self.healthy(&format!("n{n}")));
        }
    }

    fn hold(&mut self, node: Option<&str>, release: bool, for_ms: Option<i64>) -> Vec<String> {
        self.say(PlanRecord::Hold(Hold {
            scope: HoldScope {
                mesh: mesh(),
                node: node.map(id),
            },
            release,
            for_ms,
            by: "ops".into(),
            reason: String::new(),
        }))
    }

    fn approve(&mut self, node: &str, approved: bool) -> Result<Vec<String>, String> {
        let key = NodeKey {
            mesh: mesh(),
            node: id(node),
        };
        let row = self.plan.ledger().nodes.get(&key).unwrap();
        let waiting = row.kinds.iter().find_map(|k| k.waiting.clone());
        self.try_say(PlanRecord::Approval(Approval {
            mesh: mesh(),
            node: id(node),
            subject: waiting.map_or("wh-0-000000000000".into(), |waiting| waiting.id),
            approved,
            by: "alice".into(),
        }))
    }
}

fn mesh() -> MeshId {
    MeshId::parse("alpha").unwrap()
}

fn id(node: &str) -> NodeId {
    NodeId::parse(node).unwrap()
}

fn named(action: &Action) -> String {
    match action {
        Action::MonitoringInterval { interval_s } => format!("interval={interval_s}"),
        Action::RoutePreference { value } => format!("route={}", value.name()),
        Action::Healing { level } => format!("healing={}", level.name()),
        Action::Scaling { value } => format!("scaling={}", value.name()),
    }
}

/// One event in a few words; what only carries an assessment or opens a log is left out.
fn brief(event: &Event) -> Option<String> {
    let text = match &event.body {
        Body::DirectiveIssued { directive } => {
            format!("{} issued {}", directive.node, named(&directive.action))
        }
        Body::DirectiveWithheld {
            node,
            action,
            reason,
            used,
            limit,
            until,
            ..
        } => {
            let mut text = format!("{node} withheld {} {}", named(action), reason.name());
            if let (Some(used), Some(limit)) = (used, limit) {
                text += &format!(" {used}/{limit}");
            }
            if let Some(until) = until {
                text += &format!(" until {}", (until.0 - BOOT) / 1000);
            }
            text
        }
        Body::DirectiveExpired {
            node,
            kind,
            proposal,
            ..
        } => {
            let what = if *proposal { "proposal" } else { "order" };
            format!("{node} expired {what} {}", kind.name())
        }
        Body::OutcomeReported { outcome } => {
            format!(
                "{} {} {}",
                outcome.node,
                outcome.result.name(),
                outcome.kind.name()
            )
        }
        Body::IncidentOpened {
            kind: IncidentKind::Mass,
            nodes_ill,
            ..
        } => {
            format!("mass incident of {nodes_ill}")
        }
        Body::IncidentOpened { node, .. } => format!("{node} incident"),
        Body::IncidentClosed {
            kind: IncidentKind::Mass,
            ..
        } => "mass incident closed".into(),
        Body::IncidentClosed {
            node,
            detect_ms,
            repair_ms,
            ..
        } => {
            format!("{node} closed detect={detect_ms} repair={repair_ms}")
        }
        Body::NodeSilent { node } => format!("{node} silent"),
        Body::NodeReturned { node } => format!("{node} returned"),
        Body::NodeRetired { node } => format!("{node} retired"),
        Body::IdentityConflict { node, .. } => format!("{node} identity conflict"),
        Body::HoldPlaced { .. } => "hold placed".into(),
        Body::HoldReleased { by, .. } => format!("hold released by {by:?}"),
        Body::ApprovalRecorded { node, approved, .. } => format!("{node} approved={approved}"),
        Body::Adopted {
            taken_over,
            policy_generation,
            ..
        } => {
            format!("adopted generation {policy_generation} taken_over={taken_over}")
        }
        _ => return None,
    };
    Some(text)
}

#[track_caller]
fn check(got: Vec<String>, want: &[&str]) {
    assert_eq!(got, want);
}

#[test]
fn a_healthy_node_is_told_nothing() {
    let mut w = World::new();
    let first = w.assess(w.healthy("n1"));
    check(first, &[]);
    for s in [60, 600, 86_400] {
        check(w.at(s).tick(), &[]);
    }
}

#[test]
fn an_ill_node_is_healed_and_routed_at_once_and_put_back_when_nothing_is_confirmed() {
    let mut w = World::fleet(1);
    let ill = w.at(100).lossy("n1");
    check(
        w.assess(ill.clone()),
        &[
            "n1 incident",
            "n1 issued healing=aggressive",
            "n1 issued route=low_latency",
        ],
    );
    check(w.assess(ill.clone()), &[]);
    check(
        w.at(110)
            .report("n1", Kind::Healing, OutcomeResult::Applied),
        &["n1 applied healing"],
    );
    w.report("n1", Kind::RoutePreference, OutcomeResult::Applied);
    let mut good = w.at(200).healthy("n1");
    good.findings = vec![Finding {
        shown: false,
        ..ill.findings[0]
    }];
    good.severity = Severity::Critical;
    check(w.assess(good.clone()), &[]);
    good.findings.clear();
    good.severity = Severity::Ok;
    good.ill_since = Some(Time(BOOT + 90_000));
    good.good_since = Some(Time(BOOT + 150_000));
    check(
        w.assess(good),
        &[
            "n1 closed detect=0 repair=50000",
            "n1 issued route=balanced",
        ],
    );
}

#[test]
fn a_longer_interval_waits_and_a_shorter_one_does_not() {
    let mut w = World::fleet(1);
    let mut a = w.healthy("n1");
    a.wish.interval_s = 10;
    check(w.at(10).assess(a.clone()), &["n1 issued interval=10"]);
    w.report("n1", Kind::MonitoringInterval, OutcomeResult::Applied);
    a.wish.interval_s = 60;
    check(w.at(20).assess(a.clone()), &[]);
    check(w.at(319).tick(), &[]);
    check(w.at(320).tick(), &["n1 issued interval=60"]);
}

#[test]
fn an_order_that_nobody_obeyed_was_not_told() {
    let mut w = World::fleet(1);
    let mut a = w.healthy("n1");
    a.wish.interval_s = 10;
    w.at(10).assess(a);
    for (s, last) in [
        (190, "issued"),
        (370, "issued"),
        (550, "issued"),
        (730, "withheld"),
    ] {
        let got = w.at(s).tick();
        assert_eq!(got[0], "n1 expired order monitoring_interval", "at {s}");
        assert!(
            got[1].starts_with(&format!("n1 {last} ")),
            "at {s}: {got:?}"
        );
    }
    check(w.at(100_000).tick(), &[]);
}

#[test]
fn preemptive_healing_needs_the_mean_or_the_trend() {
    let mut w = World::fleet(1);
    let mut a = w.lossy("n1");
    a.severity = Severity::Warning;
    a.findings[0].level = Severity::Warning;
    a.findings[0].confirmed = false;
    a.wish.healing = Some(Healing::Preemptive);
    check(
        w.assess(a.clone()),
        &[
            "n1 incident",
            "n1 withheld healing=preemptive not_confirmed until 300",
        ],
    );
    a.findings[0].confirmed = true;
    check(w.at(10).assess(a), &[]);
    check(w.at(299).tick(), &[]);
    check(
        w.at(300).tick(),
        &[
            "n1 issued healing=preemptive",
            "n1 issued route=low_latency",
        ],
    );

    let mut w = World::fleet(1);
    let mut a = w.healthy("n1");
    a.wish.healing = Some(Healing::Preemptive);
    a.wish.route = Route::LowLatency;
    check(
        w.assess(a),
        &[
            "n1 issued healing=preemptive",
            "n1 issued route=low_latency",
        ],
    );
}

#[test]
fn what_the_rules_refuse_is_recorded_once_an_episode() {
    let mut w = World::fleet(1);
    let mut a = w.healthy("n1");
    a.refused = vec![Refusal::AggressiveHealing, Refusal::EmergencyScale];
    let both = [
        "n1 withheld healing=aggressive no_evidence",
        "n1 withheld scaling=emergency_scale no_evidence",
    ];
    check(w.assess(a.clone()), &both);
    check(w.well(10, "n1"), &[]);
    check(w.at(609).assess(a.clone()), &[]);
    check(w.well(700, "n1"), &[]);
    check(w.at(1300).assess(a), &both);
}

#[test]
fn stale_silent_and_doubtful_evidence_moves_nothing() {
    let cases: [(fn(&mut Assessment), &str); 4] = [
        (|a| a.stale = true, "stale_evidence"),
        (|a| a.silent = true, "silent"),
        (|a| a.conflict = true, "identity_conflict"),
        (|a| a.policy_id = PolicyId::of("another"), "other_policy"),
    ];
    for (spoil, reason) in cases {
        let mut w = World::fleet(1);
        let mut a = w.lossy("n1");
        spoil(&mut a);
        let got = w.assess(a);
        let want = format!("n1 withheld healing=aggressive {reason}");
        assert!(got.contains(&want), "{got:?} should contain {want}");
        assert!(
            !got.iter().any(|event| event.contains("issued")),
            "{reason}: {got:?}"
        );
        let got = w.assess(w.lossy("n1"));
        assert!(
            got.contains(&"n1 issued healing=aggressive".to_owned()),
            "{reason}: {got:?}"
        );
    }
}

#[test]
fn the_policy_bounds_what_may_be_ordered_and_a_new_one_is_obeyed_at_once() {
    let mut w = World::with_policy("[plan]\nallow = [\"monitoring_interval\"]");
    w.greet(1);
    check(
        w.assess(w.lossy("n1")),
        &["n1 incident", "n1 withheld healing=aggressive not_allowed"],
    );
    let changed = w.at(10).say(PlanRecord::PolicyChange(PolicyChange {
        mesh: mesh(),
        text: "[plan]\nallow = [\"healing\"]".into(),
        by: "ops".into(),
    }));
    check(changed, &["adopted generation 2 taken_over=false"]);
    // Judged under the old policy, so nothing may follow before Analyze speaks under the new one.
    check(w.tick(), &["n1 withheld healing=aggressive other_policy"]);
    let mut a = w.lossy("n1");
    a.policy_id = PolicyId::of("[plan]\nallow = [\"healing\"]");
    check(
        w.assess(a),
        &[
            "n1 issued healing=aggressive",
            "n1 withheld route=low_latency not_allowed",
        ],
    );
}

#[test]
fn a_bad_policy_is_refused_and_the_same_one_changes_nothing() {
    let mut w = World::fleet(1);
    let mut propose = |text: &str| {
        w.try_say(PlanRecord::PolicyChange(PolicyChange {
            mesh: MeshId::none(),
            text: text.into(),
            by: "ops".into(),
        }))
    };
    assert_eq!(propose("[plan]\nhaste = 1"), Err("bad_policy".into()));
    assert_eq!(
        propose("# one"),
        Ok(vec!["adopted generation 1 taken_over=false".into()])
    );
    assert_eq!(propose("# one"), Ok(vec![]));
}

#[test]
fn a_hold_withholds_everything_and_its_end_judges_again() {
    let mut w = World::fleet(2);
    check(w.hold(None, false, Some(60_000)), &["hold placed"]);
    check(
        w.ill(1, "n1"),
        &[
            "n1 incident",
            "n1 withheld healing=aggressive held until 60",
        ],
    );
    check(w.at(59).tick(), &[]);
    check(
        w.at(60).tick(),
        &[
            "hold released by \"\"",
            "n1 issued healing=aggressive",
            "n1 issued route=low_latency",
        ],
    );

    let mut w = World::fleet(2);
    check(w.hold(Some("n1"), false, None), &["hold placed"]);
    check(
        w.assess(w.lossy("n1")),
        &["n1 incident", "n1 withheld healing=aggressive held"],
    );
    check(w.at(10_000).tick(), &[]);
    check(
        w.hold(Some("n1"), true, None),
        &["hold released by \"ops\""],
    );
    check(
        w.tick(),
        &[
            "n1 issued healing=aggressive",
            "n1 issued route=low_latency",
        ],
    );
}

#[test]
fn overlapping_holds_last_as_long_as_the_longer_one() {
    let mut w = World::fleet(1);
    w.hold(None, false, Some(60_000));
    w.hold(None, false, Some(10_000));
    check(w.at(59).tick(), &[]);
    check(w.at(60).tick(), &["hold released by \"\""]);
}

#[test]
fn a_hold_for_all_meshes_ends_for_each() {
    let mut w = World::fleet(1);
    let all = |release| {
        PlanRecord::Hold(Hold {
            scope: HoldScope {
                mesh: MeshId::none(),
                node: None,
            },
            release,
            for_ms: None,
            by: "ops".into(),
            reason: String::new(),
        })
    };
    check(w.say(all(false)), &["hold placed"]);
    check(
        w.assess(w.lossy("n1")),
        &["n1 incident", "n1 withheld healing=aggressive held"],
    );
    check(w.say(all(true)), &["hold released by \"ops\""]);
    check(
        w.tick(),
        &[
            "n1 issued healing=aggressive",
            "n1 issued route=low_latency",
        ],
    );
}

#[test]
fn the_same_order_rests_for_the_cooldown() {
    let mut w = World::fleet(1);
    w.assess(w.lossy("n1"));
    check(
        w.at(10).report("n1", Kind::Healing, OutcomeResult::Failed),
        &[
            "n1 failed healing",
            "n1 withheld healing=aggressive cooldown until 300",
        ],
    );
    check(w.at(180).tick(), &["n1 expired order route_preference"]);
    check(
        w.at(300).tick(),
        &[
            "n1 issued healing=aggressive",
            "n1 issued route=low_latency",
        ],
    );
}

#[test]
fn what_fails_goes_again_three_times_and_what_is_declined_does_not() {
    let mut w = World::with_policy("[plan]\ncooldown_s = 0\nallow = [\"healing\"]");
    w.greet(1);
    w.assess(w.lossy("n1"));
    for attempt in 1..=3 {
        let got = w
            .at(attempt * 10)
            .report("n1", Kind::Healing, OutcomeResult::Failed);
        assert_eq!(got[1], "n1 issued healing=aggressive", "attempt {attempt}");
    }
    check(
        w.at(40).report("n1", Kind::Healing, OutcomeResult::Failed),
        &[
            "n1 failed healing",
            "n1 withheld healing=aggressive attempts_spent 3/3",
        ],
    );

    for result in [OutcomeResult::Refused, OutcomeResult::Unknown] {
        let mut w = World::fleet(1);
        w.assess(w.lossy("n1"));
        let got = w.at(10).report("n1", Kind::Healing, result);
        assert_eq!(got[1], "n1 withheld healing=aggressive not_repeated");
    }
}

#[test]
fn what_did_not_help_goes_again_after_ten_minutes() {
    let mut w = World::fleet(1);
    w.assess(w.lossy("n1"));
    w.at(10).report("n1", Kind::Healing, OutcomeResult::Applied);
    w.report("n1", Kind::RoutePreference, OutcomeResult::Applied);
    check(w.at(609).tick(), &[]);
    check(w.at(610).tick(), &["n1 issued healing=aggressive"]);
}

#[test]
fn the_budget_bounds_how_many_are_acted_on_and_the_oldest_is_next() {
    let mut w = World::fleet(10);
    let acted = "n1 issued healing=aggressive";
    assert!(w.assess(w.lossy("n1")).contains(&acted.to_owned()));
    for n in ["n2", "n3"] {
        let incident = format!("{n} incident");
        let withheld = format!("{n} withheld healing=aggressive budget 1/1");
        let got = w.ill(1, n);
        assert_eq!(got, [incident, withheld]);
    }
    // n1 is ok again: its slot goes to the one that waited longest.
    let got = w.well(100, "n1");
    assert!(got[0].starts_with("n1 closed"), "{got:?}");
    check(
        w.tick(),
        &[
            "n2 issued healing=aggressive",
            "n2 issued route=low_latency",
        ],
    );
    // n2 never becomes ok: the slot runs out 600 s after its last order ended.
    w.at(110)
        .report("n2", Kind::Healing, OutcomeResult::Applied);
    w.report("n2", Kind::RoutePreference, OutcomeResult::Applied);
    let early = w.at(709).tick();
    assert!(
        !early.iter().any(|event| event.contains("issued")),
        "{early:?}"
    );
    let got = w.at(710).tick();
    assert!(
        got.contains(&"n3 issued healing=aggressive".to_owned()),
        "{got:?}"
    );
}

#[test]
fn much_of_a_mesh_at_once_is_a_storm_that_a_person_ends() {
    let mut w = World::fleet(12);
    for n in 1..=5 {
        w.ill(n, &format!("n{n}"));
    }
    let sixth = w.ill(6, "n6");
    check(
        sixth,
        &[
            "mass incident of 6",
            "n6 withheld healing=aggressive budget 1/1",
        ],
    );
    let seventh = w.ill(7, "n7");
    check(seventh, &["n7 withheld healing=aggressive budget 1/1"]);
    w.well(10, "n1");
    let got = w.tick();
    assert!(
        got.iter().all(|event| event.ends_with("storm")) && !got.is_empty(),
        "{got:?}"
    );
    // On time: an alarm that rings late would say that nothing was heard meanwhile.
    let later = w.at(70).tick();
    assert!(
        later
            .iter()
            .all(|event| event.starts_with("n1 expired order")),
        "{later:?}"
    );
    check(
        w.hold(None, true, None),
        &["hold released by \"ops\"", "mass incident closed"],
    );
    let got = w.tick();
    assert!(
        got.contains(&"n2 issued healing=aggressive".to_owned()),
        "{got:?}"
    );
    assert!(got.contains(&"n6 incident".to_owned()), "{got:?}");
}

#[test]
fn money_is_spent_only_with_a_persons_word() {
    let scale = |w: &World| Assessment {
        wish: Wish {
            scaling: Some(Scaling::EmergencyScale),
            ..w.healthy("n1").wish
        },
        ..w.healthy("n1")
    };
    let mut w = World::fleet(1);
    let asked = ["n1 withheld scaling=emergency_scale needs_approval until 900"];
    check(w.assess(scale(&w)), &asked);
    assert_eq!(
        w.approve("n1", true),
        Ok(vec![
            "n1 approved=true".into(),
            "n1 issued scaling=emergency_scale".into()
        ])
    );
    assert_eq!(w.approve("n1", true), Err("unknown_proposal".into()));

    let mut w = World::fleet(1);
    check(w.assess(scale(&w)), &asked);
    assert_eq!(
        w.approve("n1", false),
        Ok(vec![
            "n1 approved=false".into(),
            "n1 withheld scaling=emergency_scale not_approved".into()
        ])
    );

    let mut w = World::fleet(1);
    check(w.assess(scale(&w)), &asked);
    check(w.at(899).tick(), &[]);
    check(w.at(900).tick(), &["n1 expired proposal scaling"]);
    assert_eq!(w.approve("n1", true), Err("unknown_proposal".into()));
    check(w.at(100_000).tick(), &[]);
}

#[test]
fn shadow_records_what_it_would_do_and_act_does_it() {
    let mut w = World::with_policy("[plan]\nmode = \"shadow\"");
    w.greet(1);
    check(
        w.assess(w.lossy("n1")),
        &["n1 incident", "n1 withheld healing=aggressive shadow"],
    );
    check(w.at(100_000).tick(), &[]);
}

#[test]
fn two_orders_of_a_kind_are_not_under_way_at_once() {
    let mut w = World::fleet(1);
    let mut a = w.lossy("n1");
    a.wish.healing = Some(Healing::Preemptive);
    assert!(
        w.assess(a)
            .contains(&"n1 issued healing=preemptive".to_owned())
    );
    check(
        w.assess(w.lossy("n1")),
        &["n1 withheld healing=aggressive under_way"],
    );
    check(
        w.at(10).report("n1", Kind::Healing, OutcomeResult::Applied),
        &["n1 applied healing", "n1 issued healing=aggressive"],
    );
}

#[test]
fn an_outcome_counts_once_and_only_for_the_last_order() {
    let mut w = World::fleet(1);
    w.assess(w.lossy("n1"));
    let applied = w.outcome("n1", Kind::Healing, OutcomeResult::Applied);
    check(w.at(1).say(applied.clone()), &["n1 applied healing"]);
    check(w.say(applied.clone()), &[]);
    let PlanRecord::Outcome(outcome) = applied else {
        unreachable!()
    };
    let changed = |change: fn(&mut Outcome)| {
        let mut outcome = outcome.clone();
        change(&mut outcome);
        PlanRecord::Outcome(outcome)
    };
    let mut refused = |change, reason: &str| {
        assert_eq!(w.try_say(changed(change)), Err(reason.to_owned()));
    };
    refused(|o| o.log_id = "log2".into(), "foreign_log");
    refused(|o| o.generation += 1000, "unknown_directive");
    refused(|o| o.directive_id = "dir-9-aa".into(), "unknown_directive");
    refused(|o| o.node = id("n9"), "unknown_node");
    check(w.say(changed(|o| o.generation = 0)), &[]);
}

#[test]
fn a_silent_node_is_not_ordered_about_and_forgotten_after_a_week() {
    let mut w = World::fleet(2);
    let mut a = w.healthy("n1");
    a.silent = true;
    a.severity = Severity::Critical;
    a.ill_since = Some(Time(BOOT));
    check(w.at(180).assess(a), &["n1 silent", "n1 incident"]);
    check(w.at(180 + 7 * 86_400 - 1).tick(), &[]);
    let week = 7 * 86_400_000;
    let closed = format!("n1 closed detect=180000 repair={}", 180_000 + week);
    check(
        w.at(180 + 7 * 86_400).tick(),
        &[closed.as_str(), "n1 retired"],
    );
    check(w.tick(), &[]);
}

#[test]
fn a_new_boot_starts_from_what_the_agent_does_by_itself() {
    let mut w = World::fleet(1);
    let mut a = w.healthy("n1");
    a.wish.interval_s = 10;
    check(w.assess(a.clone()), &["n1 issued interval=10"]);
    w.report("n1", Kind::MonitoringInterval, OutcomeResult::Applied);
    a.boot = 2;
    check(w.assess(a), &["n1 issued interval=10"]);
}

#[test]
fn nothing_is_decided_before_the_log_is_opened() {
    let base: Rc<dyn Base> = Rc::new(NoBase);
    let plan = PlanFold::new(0, &base);
    let mut w = World {
        plan,
        now: Time(BOOT),
        offset: -1,
    };
    assert_eq!(
        w.try_say(PlanRecord::Assessment(w.healthy("n1"))),
        Err("log_not_opened".into())
    );
}

#[test]
fn one_record_causes_at_most_256_events_and_the_rest_follow() {
    let mut w = World::fleet(1000);
    w.hold(None, false, None);
    for n in 1..=250 {
        w.ill(n * 400, &format!("n{n}"));
    }
    check(w.hold(None, true, None), &["hold released by \"ops\""]);
    let mut answers = 0;
    for _ in 0..3 {
        let got = w.tick();
        assert!(got.len() <= 200, "{}", got.len());
        answers += got.len();
    }
    // A tenth of the mesh is healed and rerouted, the rest waits for the budget.
    assert_eq!(answers, 100 * 2 + 150);
    check(w.tick(), &[]);
}

#[test]
fn an_act_that_was_done_late_and_did_not_help_goes_again() {
    let mut w = World::fleet(1);
    w.ill(0, "n1");
    let first = w.outcome("n1", Kind::Healing, OutcomeResult::Applied);
    let got = w.at(180).tick();
    assert!(
        got.contains(&"n1 expired order healing".to_owned()),
        "{got:?}"
    );
    w.at(200).say(first);
    check(w.at(300).tick(), &["n1 issued route=low_latency"]);
    w.report("n1", Kind::RoutePreference, OutcomeResult::Applied);
    check(w.at(799).tick(), &[]);
    check(w.at(800).tick(), &["n1 issued healing=aggressive"]);
}

#[test]
fn an_act_that_was_done_after_its_last_attempt_expired_goes_again_if_it_did_not_help() {
    let mut w = World::with_policy("[plan]\nattempts = 1\n");
    w.greet(1);
    w.ill(0, "n1");
    w.at(180).tick();
    w.at(300).tick();
    let second = w.outcome("n1", Kind::Healing, OutcomeResult::Applied);
    let got = w.at(480).tick();
    assert!(got.iter().any(|e| e.contains("attempts_spent")), "{got:?}");
    w.at(500).say(second);
    check(w.at(1099).tick(), &[]);
    let got = w.at(1100).tick();
    assert!(
        got.contains(&"n1 issued healing=aggressive".to_owned()),
        "{got:?}"
    );
}

#[test]
fn a_wish_that_waits_for_its_mean_is_taken_up_in_its_next_illness_too() {
    let mut w = World::fleet(1);
    let warned = |w: &World, confirmed: bool, since: i64| {
        let mut a = w.lossy("n1");
        a.severity = Severity::Warning;
        a.findings[0].level = Severity::Warning;
        a.findings[0].confirmed = confirmed;
        a.wish.healing = Some(Healing::Preemptive);
        a.ill_since = Some(Time(BOOT + since * 1000));
        a
    };
    w.at(0);
    let a = warned(&w, false, 0);
    w.assess(a);
    check(
        w.at(300).tick(),
        &["n1 withheld healing=preemptive not_confirmed"],
    );
    w.well(310, "n1");
    w.at(400);
    let a = warned(&w, false, 400);
    w.assess(a);
    w.at(500);
    let a = warned(&w, true, 400);
    w.assess(a);
    let got = w.at(700).tick();
    assert!(
        got.contains(&"n1 issued healing=preemptive".to_owned()),
        "{got:?}"
    );
}

#[test]
fn a_longer_interval_that_was_held_goes_when_its_time_comes() {
    let mut w = World::fleet(1);
    w.hold(None, false, None);
    let wishes = |w: &World, interval_s| {
        let mut a = w.healthy("n1");
        a.wish.interval_s = interval_s;
        a
    };
    w.at(0);
    let a = wishes(&w, 120);
    w.assess(a);
    check(w.at(300).tick(), &["n1 withheld interval=120 held"]);
    w.well(310, "n1");
    w.at(320);
    let a = wishes(&w, 120);
    w.assess(a);
    w.at(330).hold(None, true, None);
    w.at(331).tick();
    check(w.at(620).tick(), &["n1 issued interval=120"]);
}

#[test]
fn an_order_that_expires_after_a_new_boot_was_not_told_to_the_new_agent() {
    let mut w = World::fleet(1);
    w.ill(0, "n1");
    w.report("n1", Kind::Healing, OutcomeResult::Applied);
    w.report("n1", Kind::RoutePreference, OutcomeResult::Applied);
    check(
        w.well(400, "n1"),
        &[
            "n1 closed detect=0 repair=400000",
            "n1 issued route=balanced",
        ],
    );
    let mut a = w.healthy("n1");
    a.boot = 2;
    w.at(410).assess(a);
    let got = w.at(600).tick();
    assert!(
        got.contains(&"n1 expired order route_preference".to_owned()),
        "{got:?}"
    );
    let mut a = w.lossy("n1");
    a.boot = 2;
    let got = w.at(2000).assess(a);
    assert!(
        got.contains(&"n1 issued route=low_latency".to_owned()),
        "{got:?}"
    );
}

#[test]
fn a_released_storm_does_not_come_back_from_those_that_fell_ill_in_it() {
    let mut w = World::with_policy("[plan]\nbudget_percent = 100.0\n");
    w.greet(20);
    for n in 1..=14 {
        w.ill(n, &format!("n{n}"));
    }
    w.at(36_000);
    w.hold(None, true, None);
    let got = w.tick();
    assert!(!got.iter().any(|e| e.contains("mass")), "{got:?}");
    assert!(got.contains(&"n8 incident".to_owned()), "{got:?}");
}

#[test]
fn a_held_node_is_not_forgotten_with_its_hold() {
    let mut w = World::fleet(1);
    w.hold(Some("n1"), false, None);
    let mut a = w.healthy("n1");
    a.silent = true;
    w.at(10).assess(a);
    check(w.at(8 * 86_400).tick(), &[]);
    let got = w.ill(8 * 86_400 + 1, "n1");
    assert!(
        got.contains(&"n1 withheld healing=aggressive held".to_owned()),
        "{got:?}"
    );
}

#[test]
fn a_persons_word_counts_though_the_wish_is_away_for_a_moment() {
    let mut w = World::with_policy("[plan]\napprove = [\"healing\"]\n");
    w.greet(1);
    w.ill(0, "n1");
    let key = NodeKey {
        mesh: mesh(),
        node: id("n1"),
    };
    let row = w.plan.ledger().nodes.get(&key).unwrap();
    let subject = row.kind(Kind::Healing).waiting.clone().unwrap().id;
    w.well(30, "n1");
    w.at(40);
    let got = w.try_say(PlanRecord::Approval(Approval {
        mesh: mesh(),
        node: id("n1"),
        subject,
        approved: false,
        by: "alice".into(),
    }));
    assert_eq!(got, Ok(vec!["n1 approved=false".to_owned()]));
    let got = w.ill(60, "n1");
    assert!(
        got.contains(&"n1 withheld healing=aggressive not_approved".to_owned()),
        "{got:?}"
    );
}

#[test]
fn a_story_names_the_hold_and_the_policy_in_the_order_of_time() {
    let mut w = World::fleet(1);
    let mut events = Vec::new();
    let mut tell = |w: &mut World, record: PlanRecord| {
        w.offset += 1;
        let told = w.plan.decide(&w.cause(), &record).unwrap();
        events.extend(told.into_iter().filter(|event| event.mesh == mesh()));
    };
    let a = Assessment {
        wish: w.healthy("n1").wish,
        ..w.lossy("n1")
    };
    w.at(10);
    tell(&mut w, PlanRecord::Assessment(a));
    w.at(20);
    let policy = PlanRecord::PolicyChange(PolicyChange {
        mesh: mesh(),
        text: "plan.help_s = 300".into(),
        by: "ops".into(),
    });
    tell(&mut w, policy);
    w.at(30);
    let hold = PlanRecord::Hold(Hold {
        scope: HoldScope {
            mesh: mesh(),
            node: None,
        },
        release: false,
        for_ms: None,
        by: "carol".into(),
        reason: String::new(),
    });
    tell(&mut w, hold);
    w.at(40);
    let mut a = w.lossy("n1");
    a.policy_id = PolicyId::of("plan.help_s = 300");
    tell(&mut w, PlanRecord::Assessment(a));
    let withheld = events.iter().find_map(|event| match &event.body {
        Body::DirectiveWithheld { id, .. } => Some(id.clone()),
        _ => None,
    });
    let story = explain(&events, &withheld.unwrap()).unwrap();
    assert!(story.lines.is_sorted_by_key(|line| line.seq), "{story:#?}");
    let by = |who: &str| story.lines.iter().any(|line| line.text.contains(who));
    assert!(by("adopted by ops") && by("held by carol"), "{story:#?}");
}

#[test]
fn an_order_that_replaced_one_under_way_was_told_neither() {
    let mut w = World::fleet(1);
    let mut a = w.healthy("n1");
    a.wish.interval_s = 30;
    check(w.assess(a.clone()), &["n1 issued interval=30"]);
    a.wish.interval_s = 10;
    check(w.at(10).assess(a.clone()), &["n1 issued interval=10"]);
    a.wish.interval_s = 30;
    check(w.at(20).assess(a), &[]);
    // Nobody answers: the node may still sample at 60 s, so 30 is news to it.
    check(
        w.at(190).tick(),
        &[
            "n1 expired order monitoring_interval",
            "n1 issued interval=30",
        ],
    );
}

#[test]
fn a_larger_budget_for_all_lets_those_act_who_wait() {
    let mut w = World::fleet(3);
    w.ill(0, "n1");
    check(
        w.ill(1, "n2"),
        &["n2 incident", "n2 withheld healing=aggressive budget 1/1"],
    );
    w.say(PlanRecord::PolicyChange(PolicyChange {
        mesh: MeshId::none(),
        text: "plan.budget_min = 3".into(),
        by: "ops".into(),
    }));
    let got = w.tick();
    assert!(
        got.contains(&"adopted generation 1 taken_over=true".to_owned()),
        "{got:?}"
    );
    let got = w.ill(2, "n2");
    assert!(
        got.contains(&"n2 issued healing=aggressive".to_owned()),
        "{got:?}"
    );
}
