//! Analyze on a partition that is driven by hand: what leaves, and when.

use std::rc::Rc;

use super::*;
use crate::model::{Adopted, Cause, Healing, LoopBlind, MeshId, NodeId, PlanRecord, Route, State};
use crate::runtime::{Share, partition_of};
use crate::stream::{Base, Fold, Key, NoBase, Output, Reject, Row, RowError, To, Topic};
use crate::wire;

/// A partition of `metrics`, driven by hand: alarms due before a record fire first.
struct Inbox {
    fold: AnalyzeFold,
    offset: i64,
    hears_since: Time,
}

impl Inbox {
    fn new() -> Self {
        Inbox {
            fold: AnalyzeFold::new(&(Rc::new(NoBase) as Rc<dyn Base>)),
            offset: 0,
            hears_since: Time(0),
        }
    }

    fn at(&self, now_ms: i64) -> At {
        At {
            now: Time(now_ms),
            hears_since: self.hears_since,
            cause: Cause {
                topic: "metrics".to_owned(),
                partition: 3,
                offset: self.offset,
            },
        }
    }

    /// Appends a record; answers what left.
    fn append(&mut self, now_ms: i64, value: &[u8]) -> Result<Vec<Output>, Reject> {
        self.offset += 1;
        let at = self.at(now_ms);
        let mut out = Vec::new();
        self.fold.begin();
        while let Some((due, key)) = self
            .fold
            .alarms()
            .first()
            .filter(|(due, _)| due.0 <= now_ms)
        {
            self.fold.alarms().remove(due, &key);
            match self.fold.wake_at(&at, &key) {
                Some(later) if later > due => self.fold.alarms().file(&key, later),
                Some(_) => {
                    self.fold.alarm(&at, &key, &mut out);
                    let next = self.fold.wake_at(&at, &key);
                    assert!(next.is_none_or(|next| next > at.now), "a fired alarm moves");
                    self.fold.alarms().moved(&key, None, next);
                }
                None => {}
            }
        }
        match self.fold.record(&at, b"", value, &mut out) {
            Ok(()) => {
                self.fold.accept();
                Ok(out)
            }
            Err(reject) => {
                self.fold.rollback();
                Err(reject)
            }
        }
    }

    /// Appends a sample taken now; answers the Assessments that left.
    fn sample(&mut self, s: i64, fields: &str) -> Vec<Assessment> {
        let line = format!("{{\"node_id\":\"n1\",\"time\":{},{fields}}}", s * 1000);
        let out = self.append(s * 1000, line.as_bytes()).unwrap();
        assessments(&out)
    }

    /// Lets time pass.
    fn tick(&mut self, s: i64) -> Vec<Assessment> {
        assessments(&self.append(s * 1000, b"").unwrap())
    }
}

#[test]
fn what_belongs_to_another_partition_is_sent_there_as_it_is() {
    let line = br#"{"node_id":"n1","time":1000,"cpu_percent":50}"#;
    let outcome = outcome(1, "healing", "applied");
    let home = partition_of(b"n1", 2);
    for partition in [0, 1] {
        let mut inbox = Inbox::new();
        inbox.fold = inbox.fold.of(Share {
            partition,
            partitions: 2,
        });
        let own = inbox.fold.own_key(b"", line).is_some();
        let sample = inbox.append(1000, line).unwrap();
        let forwarded = inbox.fold.counts().forwarded;
        if partition == home {
            assert!(own && forwarded == 0);
            assert_eq!(assessments(&sample).len(), 1);
            continue;
        }
        assert!(!own, "its node's alarm is not here");
        for (out, value) in [
            (sample, &line[..]),
            (inbox.append(2000, &outcome).unwrap(), &outcome),
        ] {
            let [only] = &out[..] else {
                panic!("only itself: {out:?}")
            };
            assert_eq!((only.topic, only.to), (Topic::Metrics, To::ByKey));
            assert_eq!((&only.key[..], &only.value[..]), (&b"n1"[..], value));
        }
        assert_eq!(inbox.fold.counts().forwarded, 2);
        assert_eq!(inbox.fold.counts().accepted, 0);
    }
}

fn plan_records(out: &[Output]) -> Vec<PlanRecord> {
    out.iter()
        .filter(|o| o.topic == Topic::PlanInbox)
        .map(|o| wire::decode_plan(&o.value).unwrap())
        .collect()
}

fn assessments(out: &[Output]) -> Vec<Assessment> {
    plan_records(out)
        .into_iter()
        .map(|record| match record {
            PlanRecord::Assessment(assessment) => assessment,
            other => panic!("expected an Assessment, got {other:?}"),
        })
        .collect()
}

/// The only one.
fn one(mut assessments: Vec<Assessment>) -> Assessment {
    assert_eq!(assessments.len(), 1, "{assessments:#?}");
    assessments.remove(0)
}

fn outcome(generation: i64, kind: &str, result: &str) -> Vec<u8> {
    format!(
        r#"{{"mesh_id":"default","node_id":"n1","log_id":"l","directive_id":"dir-{generation}",
        "generation":{generation},"kind":"{kind}","result":"{result}"}}"#
    )
    .into_bytes()
}

fn adopted(mesh: &str, text: &str) -> Vec<u8> {
    wire::encode_adopted(&Adopted {
        mesh: MeshId::parse(mesh).unwrap(),
        policy_id: Policy::id(text),
        policy_generation: 1,
        text: text.to_owned(),
    })
}

/// Sampled every 10 s, nothing wrong, HARMONIC.
const WELL: &str = r#""interval_s":10,"cpu_percent":50,"memory_percent":50,"mesh_connectivity":12,
    "latency_ms":60,"packet_loss":0.3,"zero_trust_success_rate":0.99"#;

/// The same with 5 % loss: a warning after a minute.
const LOSSY: &str = r#""interval_s":10,"cpu_percent":50,"memory_percent":50,"mesh_connectivity":12,
    "latency_ms":60,"packet_loss":5,"zero_trust_success_rate":0.99"#;

/// The seed's second row: critical at once.
const CRITICAL: &str = r#""interval_s":10,"cpu_percent":95,"memory_percent":50,
    "mesh_connectivity":5,"latency_ms":500,"packet_loss":10"#;

#[test]
fn a_first_reading_is_said_and_then_only_changes() {
    let mut inbox = Inbox::new();
    let line = format!("{{\"mesh_id\":\"m\",\"node_id\":\"n\",\"time\":0,{WELL}}}");
    let out = inbox.append(0, line.as_bytes()).unwrap();
    let [plan, cycle] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((plan.topic, plan.to), (Topic::PlanInbox, To::ByKey));
    assert_eq!(plan.key, b"m");
    assert_eq!((cycle.topic, cycle.to), (Topic::Cycles, To::ByKey));
    assert_eq!(cycle.key, b"n");
    let first = one(assessments(&out));
    assert_eq!(
        (first.settled, first.severity, first.sample_seq),
        (State::Harmonic, Severity::Ok, 1)
    );
    assert_eq!(first.wish.interval_s, 60);
    assert_eq!(first.policy_id, Policy::id(Policy::BUILT_IN));
    assert_eq!(first.engine, "analyze/1");
    assert_eq!((first.ill_since, first.good_since), (None, None));
    let line = line.replace("\"time\":0", "\"time\":10000");
    assert_eq!(inbox.append(10_000, line.as_bytes()).unwrap(), []);
}

#[test]
fn an_illness_is_said_when_it_is_seen_established_confirmed_and_over() {
    let mut inbox = Inbox::new();
    inbox.sample(0, WELL);
    let said: Vec<_> = (1..60)
        .flat_map(|i| {
            let fields = if i <= 20 { LOSSY } else { WELL };
            inbox.sample(i * 10, fields)
        })
        .collect();
    let story: Vec<_> = said
        .iter()
        .map(|a| {
            let lossy = a.finding(Symptom::Lossy);
            let s = a.sample_time.0 / 1000;
            (s, a.severity, lossy.map(|f| (f.on(), f.confirmed)))
        })
        .collect();
    use Severity::{Ok, Warning};
    let last = story.len() - 1;
    assert_eq!(
        story[..last],
        [
            (70, Warning, Some((true, true))),
            (210, Warning, Some((true, true))),
            (270, Ok, Some((false, true))),
        ],
        "established and confirmed; no act on a good reading; off, but still confirmed"
    );
    assert!(story[last].0 > 300 && story[last].2.is_none(), "{story:?}");
    let over = &said[said.len() - 2];
    assert_eq!(over.ill_since, Some(Time(10_000)));
    assert_eq!(over.good_since, Some(Time(210_000)));
    assert_eq!(over.symptoms(), []);
}

#[test]
fn silence_is_critical_at_once_and_the_next_reading_is_good_for_it() {
    let mut inbox = Inbox::new();
    inbox.sample(100, WELL);
    assert_eq!(inbox.tick(129), []);
    let silent = one(inbox.tick(130));
    assert!(silent.silent);
    assert_eq!(silent.severity, Severity::Critical);
    assert_eq!((silent.wish.healing, silent.wish.interval_s), (None, 10));
    assert_eq!(silent.wish.route, Route::Balanced);
    assert_eq!(silent.ill_since, Some(Time(130_000)));
    let finding = silent.finding(Symptom::Silent).unwrap();
    assert_eq!(finding.level, Severity::Critical);
    assert!(finding.established && finding.shown);
    assert_eq!(silent.sample_time.0, 100_000, "the last evidence");
    assert_eq!(inbox.tick(10_000), [], "once");
    let back = one(inbox.sample(10_010, WELL));
    assert!(!back.silent && back.severity == Severity::Critical);
    for s in 1..6 {
        assert_eq!(inbox.sample(10_010 + s * 10, WELL), []);
    }
    let well = one(inbox.sample(10_070, WELL));
    assert_eq!(well.severity, Severity::Ok);
    assert_eq!(well.good_since, Some(Time(10_010_000)));
    assert!(one(inbox.tick(10_100)).silent, "it can fall silent again");
}

#[test]
fn a_deaf_loop_calls_nobody_silent() {
    let mut inbox = Inbox::new();
    inbox.sample(0, WELL);
    inbox.hears_since = Time(1_000_000);
    assert_eq!(inbox.tick(1_000), []);
    assert_eq!(inbox.tick(1_029), []);
    assert!(one(inbox.tick(1_030)).silent);
    let at = inbox.at(2_000_000);
    let mut out = Vec::new();
    inbox.fold.blind(&at, Time(1_030_000), &mut out);
    assert_eq!((out[0].to, out[0].key.len()), (To::Same, 0));
    assert_eq!(
        plan_records(&out),
        [PlanRecord::LoopBlind(LoopBlind {
            topic: "metrics".to_owned(),
            partition: 3,
            from: Time(1_030_000),
            to: Time(2_000_000),
        })]
    );
}

#[test]
fn two_agents_with_one_name_are_a_conflict_for_ten_minutes() {
    let mut inbox = Inbox::new();
    inbox.sample(100, &format!("\"boot\":50000,{WELL}"));
    assert_eq!(inbox.sample(49, &format!("\"boot\":1,{WELL}")), [], "late");
    let conflict = one(inbox.sample(111, &format!("\"boot\":1,{WELL}")));
    assert!(conflict.conflict);
    assert_eq!(
        conflict.boot, 50_000,
        "the older agent's reading is dropped"
    );
    assert_eq!(inbox.sample(120, &format!("\"boot\":1,{WELL}")), []);
    for s in 12..72 {
        assert_eq!(inbox.sample(s * 10, &format!("\"boot\":50000,{WELL}")), []);
    }
    assert!(!one(inbox.tick(720)).conflict, "600 s after the last sign");
    assert_eq!(inbox.fold.counts().duplicates, 3);
    assert_eq!(inbox.fold.counts().accepted, 61);
    let boot = one(inbox.sample(730, &format!("\"boot\":60000,{WELL}")));
    assert_eq!((boot.boot, boot.sample_seq), (60_000, 1));
}

#[test]
fn a_flushed_buffer_is_history() {
    let mut inbox = Inbox::new();
    let mut late = |now: i64, time: i64| {
        let line = format!("{{\"node_id\":\"n1\",\"time\":{time},{WELL}}}");
        assessments(&inbox.append(now, line.as_bytes()).unwrap())
    };
    assert!(one(late(100_000, 10_000)).stale);
    assert_eq!(late(100_000, 69_999), []);
    assert!(!one(late(100_000, 70_000)).stale, "three intervals old");
}

#[test]
fn an_outcome_is_passed_on_once_a_kind_generation_and_result() {
    let mut inbox = Inbox::new();
    let unknown = inbox.append(0, &outcome(1, "healing", "applied"));
    assert_eq!(unknown.unwrap_err().reason, "unknown_node");
    inbox.sample(0, WELL);
    let mut passed = |generation, kind, result| {
        let out = inbox.append(0, &outcome(generation, kind, result)).unwrap();
        assert!(out.iter().all(|o| o.to == To::ByKey && o.key == b"default"));
        plan_records(&out).len()
    };
    for (generation, kind, result, expected) in [
        (5, "healing", "failed", 1),
        (5, "healing", "failed", 0),
        (5, "healing", "applied", 1),
        (5, "scaling", "applied", 1),
        (6, "healing", "failed", 1),
        (5, "healing", "applied", 0),
        (4, "healing", "applied", 1),
        (4, "healing", "applied", 0),
    ] {
        assert_eq!(passed(generation, kind, result), expected);
    }
    for generation in 10..18 {
        assert_eq!(passed(generation, "healing", "applied"), 1);
        assert_eq!(passed(generation, "healing", "applied"), 0);
    }
    assert_eq!(passed(9, "healing", "applied"), 0, "older than all known");
    assert_eq!(inbox.fold.counts().outcomes_repeated, 12);
}

#[test]
fn a_policy_holds_for_its_mesh_before_the_one_for_all() {
    let mut inbox = Inbox::new();
    inbox.sample(0, WELL);
    let all = "[symptoms.lossy]\nwarning_enter = 0.25\nwarning_leave = 0.2\n";
    let ours = "[monitor]\nmax_future_s = 7\n";
    assert_eq!(inbox.append(0, &adopted("", all)).unwrap(), []);
    let judged = one(inbox.sample(10, WELL));
    assert_eq!(judged.policy_id, Policy::id(all));
    assert_eq!(judged.symptoms(), [Symptom::Lossy]);
    assert_eq!(inbox.append(0, &adopted("default", ours)).unwrap(), []);
    assert_eq!(one(inbox.sample(20, WELL)).policy_id, Policy::id(ours));
    let early = format!("{{\"node_id\":\"n1\",\"time\":37001,{WELL}}}");
    let reject = inbox.append(30_000, early.as_bytes()).unwrap_err();
    assert_eq!(
        (reject.reason, reject.detail.as_str()),
        ("time_in_future", "field time")
    );

    let unreadable = inbox.append(0, &adopted("", "[dream]")).unwrap_err();
    assert_eq!(unreadable.reason, "bad_policy");
    let forged = wire::encode_adopted(&Adopted {
        mesh: MeshId::none(),
        policy_id: Policy::id("another"),
        policy_generation: 2,
        text: String::new(),
    });
    assert_eq!(inbox.append(0, &forged).unwrap_err().reason, "bad_policy");
    assert_eq!(inbox.sample(30, WELL), []);
}

#[test]
fn two_witnesses_are_critical_at_once_and_wish_to_heal() {
    let mut inbox = Inbox::new();
    let critical = one(inbox.sample(0, CRITICAL));
    assert_eq!(critical.severity, Severity::Critical);
    assert_eq!(
        (critical.state, critical.settled),
        (State::Mystical, State::Harmonic)
    );
    assert_eq!(critical.wish.healing, Some(Healing::Aggressive));
    assert_eq!(
        (critical.wish.route, critical.wish.interval_s),
        (Route::LowLatency, 10)
    );
    assert_eq!(critical.refused, []);
    let settled = (1..4).flat_map(|i| inbox.sample(i * 10, CRITICAL)).last();
    assert_eq!(settled.unwrap().settled, State::Mystical);
}

#[test]
fn what_a_settled_state_asks_for_and_the_rules_refuse_is_said() {
    let idle = r#""interval_s":10,"cpu_percent":3,"memory_percent":10,"mesh_connectivity":1,
        "latency_ms":1,"packet_loss":1"#;
    let mut inbox = Inbox::new();
    let first = one(inbox.sample(0, idle));
    assert_eq!((first.state, first.refused.len()), (State::Mystical, 0));
    let settled = (1..4).flat_map(|i| inbox.sample(i * 10, idle));
    let settled = one(settled.collect());
    assert_eq!(
        (settled.settled, settled.severity),
        (State::Mystical, Severity::Ok)
    );
    assert_eq!(
        settled.refused,
        [Refusal::AggressiveHealing, Refusal::EmergencyScale]
    );
    assert_eq!(settled.symptoms(), [Symptom::Idle]);
}

#[test]
fn a_refused_reading_leaves_no_trace() {
    let mut inbox = Inbox::new();
    inbox.sample(100, WELL);
    inbox.fold.drain();
    for (line, reason, detail) in [
        ("{\"time\":", "not_json", "object"),
        (r#"{"node_id":"n1"}"#, "missing_field", "field time"),
        (
            r#"{"node_id":"n1","time":99999}"#,
            "out_of_order",
            "field time",
        ),
        (
            r#"{"node_id":"","time":99999}"#,
            "out_of_range",
            "field node_id",
        ),
        (
            r#"{"node_id":"n1","time":100000,"packet_loss":-1}"#,
            "out_of_range",
            "field packet_loss",
        ),
        (
            r#"{"node_id":"n1","time":401000}"#,
            "time_in_future",
            "field time",
        ),
    ] {
        let reject = inbox.append(100_000, line.as_bytes()).unwrap_err();
        assert_eq!(reject.reason, reason, "{line}");
        assert!(reject.detail.contains(detail), "{line}: {}", reject.detail);
    }
    assert_eq!(inbox.fold.drain(), []);
}

#[test]
fn a_row_comes_back_from_its_bytes_and_another_version_does_not() {
    let mut inbox = Inbox::new();
    for i in 0..70 {
        inbox.sample(i * 10, if i % 30 < 20 { CRITICAL } else { WELL });
    }
    let rows = inbox.fold.drain();
    let (_, value) = rows.iter().find(|(key, _)| key[0] == 1).unwrap();
    let bytes = value.as_ref().unwrap();
    let row = NodeRow::read(bytes).unwrap();
    let mut again = Vec::new();
    row.write(&mut again);
    assert_eq!(&again, bytes);
    let mut newer = bytes.clone();
    newer[0] += 1;
    assert!(matches!(NodeRow::read(&newer), Err(RowError(_))));
    assert!(matches!(NodeRow::read(&bytes[..9]), Err(RowError(_))));
    assert!(matches!(NodeRow::read(&[]), Err(RowError(_))));
}

#[test]
fn a_record_belongs_to_its_nodes_alarm() {
    let inbox = Inbox::new();
    let key = NodeKey {
        mesh: MeshId::parse("default").unwrap(),
        node: NodeId::parse("n1").unwrap(),
    };
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    let own = |value: &[u8]| inbox.fold.own_key(b"", value);
    assert_eq!(own(br#"{"node_id":"n1"}"#), Some(bytes.clone()));
    assert_eq!(own(&outcome(1, "healing", "applied")), Some(bytes));
    assert_eq!(own(b""), None);
    assert_eq!(own(br#"{"node_id":7}"#), None);
}

/// Readings by a linear congruential generator (Knuth, MMIX), 0..1.
fn noise(mut x: u64) -> impl FnMut() -> f64 {
    move || {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (x >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A day of a node sampled every 60 s: the Assessments it causes, and how often its printed state
/// changes.
fn day(
    seed: u64,
    mut fields: impl FnMut(&mut dyn FnMut() -> f64) -> String,
) -> (Vec<Assessment>, usize) {
    let mut inbox = Inbox::new();
    let mut random = noise(seed);
    let mut key = Vec::new();
    let node = NodeId::parse("n1").unwrap();
    let mesh = MeshId::parse("default").unwrap();
    NodeKey { mesh, node }.write(&mut key);
    let (mut said, mut flips, mut before) = (Vec::new(), 0, None);
    for minute in 0..1440 {
        said.extend(inbox.sample(minute * 60, &fields(&mut random)));
        let state = inbox.fold.nodes.look(&key, |row| row.last.standing.state);
        let state = state.unwrap();
        flips += usize::from(before.replace(state).is_some_and(|was| was != state));
    }
    (said, flips)
}

#[test]
fn a_node_on_a_states_bound_says_next_to_nothing() {
    for seed in 1..=5 {
        let (said, flips) = day(seed, |random| {
            let latency = 15.67 + random() - 0.5;
            format!(
                "\"interval_s\":60,\"cpu_percent\":60,\"memory_percent\":65,\
                 \"mesh_connectivity\":100,\"latency_ms\":{latency},\"packet_loss\":0"
            )
        });
        assert!(
            flips >= 600,
            "seed {seed}: {flips} flips are not on a bound"
        );
        assert!(said.len() <= 8, "seed {seed}: {} Assessments", said.len());
    }
}

#[test]
fn a_healthy_router_speaks_only_when_what_it_settled_on_changes() {
    for seed in 1..=5 {
        let (said, flips) = day(seed, |random| {
            let lost = (0..100).filter(|_| random() < 0.005).count();
            let cpu = 12.0 + 4.0 * (random() - 0.5);
            let latency = 5.0 + 2.0 * (random() - 0.5);
            format!(
                "\"interval_s\":60,\"cpu_percent\":{cpu},\"memory_percent\":35,\
                 \"mesh_connectivity\":4,\"latency_ms\":{latency},\"packet_loss\":{lost}"
            )
        });
        assert!(
            flips >= 600,
            "seed {seed}: {flips} flips are not on a bound"
        );
        assert!(
            said.len() <= flips / 4,
            "seed {seed}: {} of {flips}",
            said.len()
        );
        for pair in said.windows(2) {
            let [was, is] = [0, 1].map(|i| (pair[i].settled, pair[i].severity, pair[i].wish));
            assert_ne!(was, is, "seed {seed}: {:#?}", pair[1]);
        }
    }
}
