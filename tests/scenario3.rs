//! The seed's list of what its loop does, each seen end to end, and its three example cycles by
//! value.

use std::convert::Infallible;

use homeostat::execute::{Admission, Answer, Execution, Executor, obey};
use homeostat::knowledge::views::Views;
use homeostat::model::*;
use homeostat::stream::Topic;
use homeostat::topology::replay::replay_events;
use homeostat::topology::straight::{Left, Straight};
use homeostat::wire;

mod records;
use records::*;

/// The seed's metrics: CPU, memory, peers, latency, loss.
type Values = [f64; 5];

const GOOD: Values = [30.0, 40.0, 5.0, 50.0, 0.0];
const CRITICAL: Values = [95.0, 50.0, 5.0, 500.0, 10.0];
const RECOVERING: Values = [40.0, 45.0, 5.0, 60.0, 1.0];

/// A node of mesh `alpha` and its agent.
struct Node {
    straight: Straight,
    name: &'static str,
    seq: i64,
    left: Vec<Left>,
}

impl Node {
    fn new() -> Self {
        Node {
            straight: Straight::new("seed", Time(START)),
            name: "node-17",
            seq: 0,
            left: Vec::new(),
        }
    }

    /// One reading, then ten seconds.
    fn read(&mut self, values: Values) {
        self.seq += 1;
        let metrics = metrics(&[
            (Metric::CpuPercent, values[0]),
            (Metric::MemoryPercent, values[1]),
            (Metric::MeshConnectivity, values[2]),
            (Metric::LatencyMs, values[3]),
            (Metric::PacketLoss, values[4]),
        ]);
        let now = self.straight.now();
        let sample = sample("alpha", self.name, self.seq, now.0, 10.0, metrics);
        self.left.extend(send(&mut self.straight, &sample));
        let passed = self.straight.advance_to(now + Span::seconds(10));
        self.left.extend(passed.into_iter().map(|(_, left)| left));
    }

    fn read_for(&mut self, s: i64, values: Values) {
        for _ in 0..s / 10 {
            self.read(values);
        }
    }

    fn events(&self) -> Vec<Event> {
        Straight::events(&self.left)
    }

    fn has(&self, which: impl Fn(&Body) -> bool) -> bool {
        self.events().iter().any(|event| which(&event.body))
    }

    fn cycles(&self) -> Vec<CycleClosed> {
        let cycles = self.left.iter().filter(|l| l.topic == Topic::Cycles);
        cycles
            .map(|l| wire::decode_cycle(&l.value).unwrap())
            .collect()
    }

    /// What an agent reads.
    fn orders(&self) -> Vec<Directive> {
        let orders = self.left.iter().filter(|l| l.topic == Topic::Directives);
        orders
            .map(|l| wire::decode_directive(&l.value).unwrap())
            .collect()
    }

    fn views(&self) -> Views {
        let mut views = Views::default();
        self.events().iter().for_each(|event| views.note(event));
        views
    }

    /// The agent does everything that it was not told before, once, and reports.
    fn obey(&mut self, agent: &mut Agent) {
        for order in self.orders() {
            let done = obey(
                &mut agent.admission,
                &mut agent.hands,
                &mut |_: &_| Ok::<(), Infallible>(()),
                &order,
                self.straight.now(),
            );
            if let Ok(Answer::Report(outcome)) = done {
                self.left.extend(report(&mut self.straight, &outcome));
            }
        }
    }
}

/// What does the work on a node.
#[derive(Default)]
struct Hands {
    done: Vec<Action>,
}

impl Executor for Hands {
    fn execute(&mut self, directive: &Directive) -> Execution {
        self.done.push(directive.action);
        Execution {
            result: OutcomeResult::Applied,
            observed: Some("read back".into()),
        }
    }
}

struct Agent {
    admission: Admission,
    hands: Hands,
}

impl Agent {
    fn new() -> Self {
        let key = NodeKey {
            mesh: mesh("alpha"),
            node: node("node-17"),
        };
        Agent {
            admission: Admission::new(key, "seed".into(), []),
            hands: Hands::default(),
        }
    }
}

const HEAL: Action = Action::Healing {
    level: Healing::Aggressive,
};
const LOW_LATENCY: Action = Action::RoutePreference {
    value: Route::LowLatency,
};

/// (reading, phi to three places, state)
#[test]
fn the_three_example_cycles_by_value() {
    let mut n = Node::new();
    for values in [GOOD, CRITICAL, RECOVERING] {
        n.read(values);
    }
    let cycles = n.cycles();
    let check = |i: usize, phi: f64, state: State, severity: Severity, wish: Wish| {
        let cycle = &cycles[i];
        assert!((cycle.phi - phi).abs() < 0.0005, "{i}: {}", cycle.phi);
        assert_eq!(
            (cycle.state, cycle.severity, cycle.wish),
            (state, severity, wish),
            "{i}"
        );
        assert_eq!(cycle.sample_seq, i as i64 + 1);
        assert_eq!(cycle.sample_time.0, START + 10_000 * i as i64);
    };
    let calm = Wish {
        interval_s: 60,
        route: Route::Balanced,
        healing: None,
        scaling: None,
    };
    check(0, 1.194, State::Harmonic, Severity::Ok, calm);
    let urgent = Wish {
        interval_s: 10,
        route: Route::LowLatency,
        healing: Some(Healing::Aggressive),
        scaling: Some(Scaling::EmergencyScale),
    };
    check(1, 0.541, State::Mystical, Severity::Critical, urgent);
    check(2, 1.009, State::Harmonic, Severity::Critical, calm);
    assert_eq!(cycles[0].symptoms, []);
    let three = [Symptom::Lossy, Symptom::Slow, Symptom::CpuSaturated];
    assert_eq!(cycles[1].symptoms, three);
    assert!((cycles[1].harmony_index - 0.334_235_515).abs() < 1e-9);
    assert_eq!(cycles[1].metrics.get(Metric::LatencyMs), Some(500.0));
}

#[test]
fn monitor_collects_what_a_node_measures() {
    let mut n = Node::new();
    n.read(GOOD);
    let seen = n.events();
    let seen = seen.iter().find_map(|event| match &event.body {
        Body::NodeSeen { assessment, .. } => assessment.clone(),
        _ => None,
    });
    let metrics = seen.expect("a first reading is seen").metrics;
    let got: Vec<_> = metrics.iter().collect();
    assert_eq!(
        got,
        [
            (Metric::CpuPercent, 30.0),
            (Metric::MemoryPercent, 40.0),
            (Metric::MeshConnectivity, 5.0),
            (Metric::LatencyMs, 50.0),
            (Metric::PacketLoss, 0.0),
        ]
    );
}

#[test]
fn analyze_detects_what_is_wrong() {
    let mut n = Node::new();
    n.read(GOOD);
    assert!(!n.has(|body| matches!(body, Body::SeverityChanged { .. })));
    n.read(CRITICAL);
    assert!(n.has(|body| matches!(
        body,
        Body::SeverityChanged { from: Severity::Ok, to: Severity::Critical, symptoms, .. }
            if *symptoms == [Symptom::Lossy, Symptom::Slow, Symptom::CpuSaturated]
    )));
}

#[test]
fn plan_makes_directives() {
    let mut n = Node::new();
    n.read(GOOD);
    assert_eq!(n.orders(), []);
    n.read(CRITICAL);
    let actions: Vec<Action> = n.orders().iter().map(|order| order.action).collect();
    assert_eq!(actions, [HEAL, LOW_LATENCY]);
    let order = &n.orders()[0];
    assert_eq!((order.log_id.as_str(), order.ttl_s), ("seed", 60));
    assert!(order.incident_id.is_some(), "it belongs to the incident");
}

#[test]
fn execute_applies_each_directive_once() {
    let mut n = Node::new();
    let mut agent = Agent::new();
    n.read(GOOD);
    n.read(CRITICAL);
    n.obey(&mut agent);
    n.obey(&mut agent);
    assert_eq!(
        agent.hands.done,
        [HEAL, LOW_LATENCY],
        "read twice, done once"
    );
    let applied = n.events().into_iter().filter(|event| {
        matches!(&event.body, Body::OutcomeReported { outcome }
            if outcome.result == OutcomeResult::Applied)
    });
    assert_eq!(applied.count(), 2, "reported twice, recorded once");
}

#[test]
fn knowledge_stores_what_happened_and_can_decide_it_again() {
    let mut n = Node::new();
    let mut agent = Agent::new();
    n.read(GOOD);
    n.read(CRITICAL);
    n.obey(&mut agent);
    n.read_for(120, RECOVERING);
    let all = n.straight.recorded.iter();
    let events = all.filter(|(place, _)| place.topic == Topic::Events);
    let bytes: Vec<Vec<u8>> = events
        .flat_map(|(_, records)| records.iter().map(|record| record.value.clone()))
        .collect();
    let report = replay_events(0, &bytes);
    assert_eq!((report.differences, report.not_judged), (0, 0));
    assert!(report.decisions > 10, "{}", report.decisions);
}

#[test]
fn the_full_cycle_from_sample_to_outcome_to_recovery() {
    let mut n = Node::new();
    let mut agent = Agent::new();
    n.read(GOOD);
    n.read(CRITICAL);
    n.obey(&mut agent);
    n.read_for(120, RECOVERING);
    let views = n.views();
    let incident = views.incidents.values().next().expect("one incident");
    assert_eq!(views.incidents.len(), 1);
    assert_eq!(incident.detect, Span(0), "two witnesses at once");
    assert_eq!(incident.repair, Some(Span::seconds(10)));
    assert_eq!((incident.orders, incident.withheld), (2, 1));
    let remedy = views.remedies[&(Symptom::Lossy, HEAL)];
    assert_eq!((remedy.ordered, remedy.applied, remedy.helped), (1, 1, 1));
}

/// One dead metric, all else ideal: the seed reads HARMONIC.
#[test]
fn an_anomaly_is_healed_without_anyone() {
    let mut n = Node::new();
    let mut agent = Agent::new();
    let (ideal, dead) = (
        [60.0, 65.0, 100.0, 85.0, 0.0],
        [60.0, 65.0, 100.0, 85.0, 100.0],
    );
    n.read(ideal);
    let mut readings = 0;
    while agent.hands.done.is_empty() {
        readings += 1;
        assert!(readings <= 3, "healed after 20 s");
        n.read(dead);
        n.obey(&mut agent);
    }
    assert_eq!(agent.hands.done, [HEAL, LOW_LATENCY]);
    assert!(n.has(|body| matches!(
        body,
        Body::AnomalyRaised {
            symptom: Symptom::Lossy,
            level: Severity::Critical,
            value: Some(v),
            ..
        } if *v == 100.0
    )));
    n.read_for(120, ideal);
    assert!(n.has(|body| matches!(
        body,
        Body::AnomalyCleared {
            symptom: Symptom::Lossy,
            ..
        }
    )));
    assert!(n.has(|body| matches!(body, Body::IncidentClosed { .. })));
}

#[test]
fn what_a_dao_must_see_is_marked() {
    let mut n = Node::new();
    let mut agent = Agent::new();
    n.read(GOOD);
    n.read(CRITICAL);
    n.obey(&mut agent);
    n.read_for(50, CRITICAL);
    n.read_for(120, GOOD);
    let events = n.events();
    let critical: Vec<&str> = events
        .iter()
        .filter(|event| event.body.critical())
        .map(|event| event.body.name())
        .collect();
    for name in [
        "DirectiveIssued",
        "DirectiveWithheld",
        "OutcomeReported",
        "StateChanged",
    ] {
        assert!(critical.contains(&name), "{name} in {critical:?}");
    }
    for name in [
        "NodeSeen",
        "SeverityChanged",
        "NodeAssessed",
        "IncidentOpened",
    ] {
        assert!(!critical.contains(&name), "{name} in {critical:?}");
    }
    assert!(events.iter().all(|event| match &event.body {
        Body::StateChanged { from, to, .. } =>
            event.body.critical() == (*from == State::Mystical || *to == State::Mystical),
        _ => true,
    }));
}

#[test]
fn the_interval_adapts_to_the_node() {
    let mut n = Node::new();
    let intervals = |n: &Node| -> Vec<u32> {
        let orders = n.orders().into_iter();
        orders
            .filter_map(|order| match order.action {
                Action::MonitoringInterval { interval_s } => Some(interval_s),
                _ => None,
            })
            .collect()
    };
    let mut agent = Agent::new();
    let mut live = |n: &mut Node, s: i64, values: Values| {
        for _ in 0..s / 10 {
            n.read(values);
            n.obey(&mut agent);
        }
    };
    live(&mut n, 400, GOOD);
    assert_eq!(
        intervals(&n),
        [60],
        "it samples every 10 s: less will do, after 300 s"
    );
    live(&mut n, 10, CRITICAL);
    assert_eq!(intervals(&n), [60, 10], "at once");
    live(&mut n, 600, GOOD);
    assert_eq!(intervals(&n), [60, 10, 60]);
    // EUPHORIC for ten minutes, and five more.
    live(&mut n, 1200, [60.0, 65.0, 100.0, 85.0, 0.0]);
    assert_eq!(intervals(&n), [60, 10, 60, 120]);
}

#[test]
fn history_accumulates() {
    let mut n = Node::new();
    n.read_for(600, GOOD);
    let cycles = n.cycles();
    assert_eq!(cycles.len(), 10, "one a minute");
    assert!(
        cycles
            .windows(2)
            .all(|two| two[0].sample_time < two[1].sample_time)
    );
    for _ in 0..2 {
        n.read_for(60, CRITICAL);
        n.read_for(120, GOOD);
    }
    let views = n.views();
    assert_eq!(views.incidents.len(), 2);
    assert!(
        views
            .incidents
            .values()
            .all(|incident| incident.closed_at.is_some())
    );
    let seqs: Vec<i64> = n
        .events()
        .iter()
        .filter(|event| !event.mesh.is_none())
        .map(|event| event.seq)
        .collect();
    assert_eq!(
        seqs,
        (0..seqs.len() as i64).collect::<Vec<_>>(),
        "dense from 0"
    );
}

#[test]
fn errors_are_recorded_and_the_loop_goes_on() {
    let mut n = Node::new();
    n.read(GOOD);
    for bad in [
        &b"not json"[..],
        br#"{"node_id":"node-17"}"#,
        br#"{"node_id":"node-17","time":0,"packet_loss":-1.6}"#,
        b"\xc3\x01 no such schema",
    ] {
        let left = n.straight.append(Topic::Metrics, b"node-17", bad.to_vec());
        assert_eq!(left.len(), 1);
        assert_eq!(
            (left[0].topic, &left[0].value[..]),
            (Topic::DeadLetters, bad)
        );
    }
    n.read(CRITICAL);
    assert_eq!(
        n.orders().len(),
        2,
        "it heals as if nothing had come between"
    );
}
