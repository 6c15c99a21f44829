//! One wrong clock moves nobody else's alarm; the loop's own clock goes only forward, and what it
//! did not hear is no silence.

use std::collections::BTreeMap;
use std::rc::Rc;

use homeostat::model::*;
use homeostat::runtime::{Record, Task, TimeSource, TopicPartition};
use homeostat::stream::{Base, Fold, NoBase, Output, Topic};
use homeostat::topology::analyze::AnalyzeFold;
use homeostat::topology::plan::PlanFold;
use homeostat::topology::straight::{Left, Straight};
use homeostat::wire;

mod records;
use records::*;

/// A mesh whose agents sample every 10 s, driven by hand; times are seconds since the start.
struct Clocks {
    straight: Straight,
    left: Vec<Left>,
    seqs: BTreeMap<String, i64>,
}

impl Clocks {
    fn new() -> Self {
        Clocks {
            straight: Straight::new("clocks", Time(START)),
            left: Vec::new(),
            seqs: BTreeMap::new(),
        }
    }

    fn at(s: i64) -> Time {
        Time(START) + Span::seconds(s)
    }

    /// Lets time pass, with ticks.
    fn pass(&mut self, to_s: i64) {
        let ticked = self.straight.advance_to(Self::at(to_s));
        self.left.extend(ticked.into_iter().map(|(_, left)| left));
    }

    /// `node` samples now, every 10 s, with its clock so many seconds fast.
    fn read(&mut self, node: &str, fast_s: i64, loss: f64) {
        let seq = self.seqs.entry(node.to_owned()).or_default();
        *seq += 1;
        let taken = self.straight.now() + Span::seconds(fast_s);
        let values = metrics(&[
            (Metric::CpuPercent, 40.0),
            (Metric::MemoryPercent, 50.0),
            (Metric::MeshConnectivity, 5.0),
            (Metric::LatencyMs, 60.0),
            (Metric::PacketLoss, loss),
        ]);
        let sample = sample("alpha", node, *seq, taken.0, 10.0, values);
        self.left.extend(send(&mut self.straight, &sample));
    }

    fn events(&self) -> Vec<Event> {
        Straight::events(&self.left)
    }

    fn reasons(&self) -> Vec<String> {
        let dead = self.left.iter().filter(|l| l.topic == Topic::DeadLetters);
        dead.map(|letter| {
            let reason = letter.headers.iter().find(|(name, _)| name == "reason");
            String::from_utf8(reason.unwrap().1.clone()).unwrap()
        })
        .collect()
    }

    /// When each node fell silent, in seconds.
    fn silent(&self) -> Vec<(String, i64)> {
        let events = self.events().into_iter();
        events
            .filter_map(|event| match event.body {
                Body::NodeSilent { node } => {
                    Some((node.to_string(), (event.time - Time(START)).0 / 1000))
                }
                _ => None,
            })
            .collect()
    }

    fn ordered(&self) -> Vec<Directive> {
        directives(&self.left)
    }

    fn withheld(&self, why: Reason) -> usize {
        let events = self.events();
        let of = events.iter().filter(
            |event| matches!(&event.body, Body::DirectiveWithheld { reason, .. } if *reason == why),
        );
        of.count()
    }
}

#[test]
fn one_node_four_minutes_fast_moves_nobody_elses_alarm() {
    let told = |fast_s: i64| {
        let mut w = Clocks::new();
        for s in (0..120).step_by(10) {
            w.pass(s);
            w.read("fast", fast_s, 0.0);
            w.read("other", 0, 0.0);
        }
        for s in (120..300).step_by(10) {
            w.pass(s);
            w.read("fast", fast_s, 0.0);
        }
        w.pass(400);
        (w.silent(), w.reasons())
    };
    let right = told(0);
    assert_eq!(right.0, [("other".into(), 140), ("fast".into(), 320)]);
    assert_eq!(told(240), right);
    assert_eq!(told(-20), right);
}

#[test]
fn one_node_six_minutes_fast_is_refused() {
    let mut w = Clocks::new();
    w.read("n1", 300, 0.0);
    assert_eq!(w.reasons(), [""; 0]);
    w.pass(10);
    w.read("n1", 360, 0.0);
    assert_eq!(w.reasons(), ["time_in_future"]);
    w.pass(30);
    assert_eq!(
        w.silent(),
        [("n1".into(), 30)],
        "what is refused was not heard"
    );
}

#[test]
fn what_a_slow_clock_says_is_history_and_causes_no_directive() {
    let ill = |slow_s: i64| {
        let mut w = Clocks::new();
        for s in (0..300).step_by(10) {
            w.pass(s);
            w.read("n1", -slow_s, if s < 60 { 0.0 } else { 15.0 });
        }
        w
    };
    let w = ill(30);
    assert!(!w.ordered().is_empty(), "three intervals are borne");
    let w = ill(31);
    assert_eq!(w.ordered(), []);
    assert!(w.withheld(Reason::StaleEvidence) > 0);
    let critical = w.events().into_iter().any(|event| {
        matches!(
            event.body,
            Body::SeverityChanged {
                to: Severity::Critical,
                ..
            }
        )
    });
    assert!(critical, "it is seen and recorded all the same");
}

#[test]
fn buffers_that_are_flushed_late_cause_no_directive() {
    let mut w = Clocks::new();
    for s in (0..60).step_by(10) {
        w.pass(s);
        w.read("n1", 0, 0.0);
    }
    // Ill for twenty minutes while the uplink was gone, well again when it came back.
    w.pass(1260);
    for s in (60..1200).step_by(10) {
        w.read("n1", s - 1260, 15.0);
    }
    for s in (1200..1260).step_by(10) {
        w.read("n1", s - 1260, 0.0);
    }
    for s in (1260..1800).step_by(10) {
        w.pass(s);
        w.read("n1", 0, 0.0);
    }
    let acts: Vec<_> = w.ordered();
    assert!(
        acts.iter()
            .all(|d| d.action.kind() == Kind::MonitoringInterval),
        "{acts:?}"
    );
    assert_eq!(w.reasons(), [""; 0], "the past is folded all the same");
    assert!(w.withheld(Reason::StaleEvidence) > 0);
}

/// Analyze and Plan in front of append times that a test chooses.
struct Inbox {
    task: Task,
    offset: i64,
}

impl Inbox {
    fn metrics() -> Self {
        let base: Rc<dyn Base> = Rc::new(NoBase);
        Inbox::of(Topic::Metrics, Box::new(AnalyzeFold::new(&base)))
    }

    fn of(topic: Topic, fold: Box<dyn Fold>) -> Self {
        let inbox = TopicPartition {
            topic,
            partition: 0,
        };
        Inbox {
            task: Task::new(inbox, "homeostat.", TimeSource::Log, fold, None),
            offset: 0,
        }
    }

    /// Folds a record that was appended so many seconds after the start.
    fn append(&mut self, s: i64, key: &str, value: Vec<u8>) -> (Time, Vec<Output>) {
        let record = Record {
            offset: self.offset,
            time: Clocks::at(s),
            key: key.as_bytes().to_vec(),
            value,
            headers: Vec::new(),
        };
        self.offset += 1;
        let mut out = Vec::new();
        let folded = self.task.fold(&record, &mut out).expect("it is new");
        (folded.now, out)
    }

    fn read(&mut self, s: i64, node: &str) -> (Time, Vec<Output>) {
        let seq = self.offset + 1;
        let values = metrics(&[(Metric::CpuPercent, 40.0), (Metric::PacketLoss, 0.0)]);
        let sample = sample("alpha", node, seq, Clocks::at(s).0, 10.0, values);
        self.append(s, node, wire::encode_sample(&sample))
    }

    fn tick(&mut self, s: i64) -> (Time, Vec<Output>) {
        self.append(s, "", Vec::new())
    }
}

fn plan_records(out: &[Output]) -> Vec<PlanRecord> {
    let plan = out.iter().filter(|o| o.topic == Topic::PlanInbox);
    plan.map(|o| wire::decode_plan(&o.value).unwrap()).collect()
}

fn says_silent(out: &[Output]) -> bool {
    plan_records(out)
        .iter()
        .any(|record| matches!(record, PlanRecord::Assessment(a) if a.silent))
}

#[test]
fn append_time_that_steps_back_is_clamped() {
    let mut inbox = Inbox::metrics();
    assert_eq!(inbox.read(100, "n1").0, Clocks::at(100));
    assert_eq!(
        inbox.read(40, "n2").0,
        Clocks::at(100),
        "it never goes back"
    );
    assert_eq!(inbox.tick(101).0, Clocks::at(101));
    for s in [105, 110, 115, 120, 125, 129] {
        assert!(
            !says_silent(&inbox.tick(s).1),
            "heard at 100, not at 40: {s}"
        );
    }
    let out = inbox.tick(130).1;
    assert_eq!(plan_records(&out).len(), 2, "both at their time: {out:?}");

    let base: Rc<dyn Base> = Rc::new(NoBase);
    let mut plan = Inbox::of(Topic::PlanInbox, Box::new(PlanFold::new(0, &base)));
    let hold = |release| {
        wire::encode_plan(&PlanRecord::Hold(Hold {
            scope: HoldScope {
                mesh: MeshId::none(),
                node: None,
            },
            release,
            for_ms: None,
            by: "ops".into(),
            reason: String::new(),
        }))
    };
    let opened = wire::encode_plan(&PlanRecord::LogOpened(LogOpened {
        log_id: "clocks".into(),
        audit_name: "clocks".into(),
        partitions: 1,
        time_source: "log".into(),
    }));
    let mut times = Vec::new();
    for (s, value) in [(50, opened), (90, hold(false)), (20, hold(true))] {
        let (_, out) = plan.append(s, "", value);
        let events = out.iter().filter(|o| o.topic == Topic::Events);
        times.extend(events.map(|o| wire::decode_event(&o.value).unwrap().time));
    }
    assert_eq!(
        times,
        [50, 90, 90].map(Clocks::at),
        "an event's time never falls"
    );
}

#[test]
fn what_the_loop_did_not_hear_is_no_silence() {
    let mut inbox = Inbox::metrics();
    inbox.read(0, "n1");
    let (_, out) = inbox.tick(15);
    assert_eq!(plan_records(&out), [], "fifteen seconds are no gap");
    let (_, out) = inbox.tick(100);
    let [PlanRecord::LoopBlind(blind)] = &plan_records(&out)[..] else {
        panic!("expected that it was blind and nothing else: {out:?}");
    };
    assert_eq!((blind.from, blind.to), (Clocks::at(15), Clocks::at(100)));
    for s in [105, 110, 115, 120, 125, 129] {
        assert_eq!(inbox.tick(s).1, [], "silence starts anew at 100: {s}");
    }
    assert!(says_silent(&inbox.tick(130).1));
}

#[test]
fn without_an_alarm_nobody_was_waited_for_and_nothing_was_missed() {
    let mut inbox = Inbox::metrics();
    inbox.tick(0);
    let (_, out) = inbox.read(1000, "n1");
    let first = plan_records(&out);
    assert!(
        matches!(first[..], [PlanRecord::Assessment(_)]),
        "{first:?}"
    );
}

/// The loop's own record of it, by one that was stopped for a while.
#[test]
fn a_loop_that_was_blind_records_it() {
    let mut w = Clocks::new();
    w.read("n1", 0, 0.0);
    let mut inbox = Inbox::metrics();
    inbox.read(0, "n1");
    let (_, out) = inbox.tick(600);
    for output in out {
        let left = w
            .straight
            .append(Topic::PlanInbox, &output.key, output.value);
        w.left.extend(left);
    }
    let blind = w.events().into_iter().any(|event| {
        matches!(event.body, Body::LoopBlind { from, to, .. }
            if (from, to) == (Clocks::at(0), Clocks::at(600)))
    });
    assert!(blind);
}

/// A machine that slept for an hour knows nothing of its nodes when it wakes: what expired
/// meanwhile is not ordered again before they had time to be heard.
#[test]
fn after_an_hour_of_blindness_an_expired_order_waits_for_news() {
    let mut clocks = Clocks::new();
    for s in (0..40).step_by(10) {
        clocks.pass(s);
        clocks.read("a", 0, 60.0);
        clocks.read("b", 0, 0.0);
    }
    let healings = |clocks: &Clocks| {
        let events = clocks.events().into_iter();
        let of = |event: &Event| match &event.body {
            Body::DirectiveIssued { directive } => directive.action.kind() == Kind::Healing,
            _ => false,
        };
        events
            .filter(of)
            .map(|event| event.time)
            .collect::<Vec<_>>()
    };
    let before = healings(&clocks).len();
    assert!(before > 0, "it is healed while it is heard");
    clocks.straight.skip_to(Clocks::at(3_600));
    clocks.read("b", 0, 0.0);
    clocks.pass(3_605);
    assert_eq!(
        healings(&clocks).len(),
        before,
        "not on what was known an hour ago"
    );
    let withheld = clocks.events().into_iter().any(|event| {
        event.time >= Clocks::at(3_600)
            && matches!(
                event.body,
                Body::DirectiveWithheld {
                    reason: Reason::StaleEvidence,
                    until: Some(_),
                    ..
                }
            )
    });
    assert!(withheld, "and it is said why");
    for s in (3_610..3_700).step_by(10) {
        clocks.pass(s);
        clocks.read("a", 0, 60.0);
        clocks.read("b", 0, 0.0);
    }
    let again = healings(&clocks);
    assert!(again.len() > before, "it is still ill, and heard again");
    assert!(again[before] >= Clocks::at(3_610), "{again:?}");
}
