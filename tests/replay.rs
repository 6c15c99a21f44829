//! Deciding again from the events alone, and from the inboxes, gives what the run gave. Over ten
//! thousand seeded lives of a small fleet with people and agents that say anything at any time.
//!
//! A failure names its seed; `HOMEOSTAT_SEED=<seed> cargo test --test replay` repeats that one.

use std::collections::BTreeMap;
use std::rc::Rc;

use homeostat::model::*;
use homeostat::runtime::{TimeSource, TopicPartition};
use homeostat::sim::Seed;
use homeostat::stream::{Base, NoBase, Topic};
use homeostat::topology::plan::PlanFold;
use homeostat::topology::replay::{replay, replay_events, sound};
use homeostat::topology::straight::{Left, Straight};

mod common;
use common::*;

const SEEDS: u64 = 10_000;

/// A fleet whose every moment comes from a seed.
struct Life {
    seed: Seed,
    straight: Straight,
    seqs: Vec<i64>,
    values: Vec<[f64; 5]>,
    orders: Vec<Directive>,
    proposals: Vec<(NodeId, String)>,
}

const KINDS: [Metric; 5] = [
    Metric::CpuPercent,
    Metric::MemoryPercent,
    Metric::MeshConnectivity,
    Metric::LatencyMs,
    Metric::PacketLoss,
];

impl Life {
    fn new(seed: u64) -> Self {
        let mut seed = Seed(seed);
        let nodes = 1 + seed.below(12) as usize;
        Life {
            straight: Straight::new("replay", Time(START)),
            seqs: vec![0; nodes],
            values: vec![[40.0, 50.0, 5.0, 60.0, 0.0]; nodes],
            orders: Vec::new(),
            proposals: Vec::new(),
            seed,
        }
    }

    fn live(mut self) -> Straight {
        for _ in 0..30 + self.seed.below(60) {
            let gap = *self
                .seed
                .pick(&[0, 1, 5, 10, 10, 10, 60, 60, 200, 700, 4000]);
            let to = self.straight.now() + Span::seconds(gap);
            let left: Vec<Left> = self
                .straight
                .advance_to(to)
                .into_iter()
                .map(|(_, left)| left)
                .collect();
            self.note(&left);
            let left = self.moment();
            self.note(&left);
        }
        self.straight
    }

    fn moment(&mut self) -> Vec<Left> {
        match self.seed.below(20) {
            0..=12 => self.everyone_samples(),
            13..=15 => self.an_agent_reports(),
            16 => self.someone_holds(),
            17 => self.someone_answers(),
            18 => self.someone_changes_the_policy(),
            _ => self.a_flood(),
        }
    }

    fn name(n: usize) -> String {
        format!("n{n}")
    }

    fn mesh_of(n: usize) -> &'static str {
        if n.is_multiple_of(3) { "beta" } else { "alpha" }
    }

    fn everyone_samples(&mut self) -> Vec<Left> {
        let mut left = Vec::new();
        for n in 0..self.seqs.len() {
            if self.seed.one_in(10) {
                continue;
            }
            if self.seed.one_in(6) {
                let k = self.seed.below(5) as usize;
                let ill = [97.0, 96.0, 0.0, 700.0, 15.0];
                let well = [40.0, 50.0, 5.0, 60.0, 0.0];
                self.values[n][k] = if self.seed.one_in(2) { ill[k] } else { well[k] };
            }
            self.seqs[n] += 1;
            let values: Vec<_> = KINDS.into_iter().zip(self.values[n]).collect();
            let mut taken = self.straight.now().0;
            if self.seed.one_in(20) {
                taken -= 1_000_000;
            }
            let interval = *self.seed.pick(&[10.0, 10.0, 60.0, 600.0]);
            let mut sample = sample(
                Self::mesh_of(n),
                &Self::name(n),
                self.seqs[n],
                taken,
                interval,
                metrics(&values),
            );
            if self.seed.one_in(40) {
                sample.reading.boot = self.seed.below(3) as i64 * START;
            }
            left.extend(send(&mut self.straight, &sample));
        }
        left
    }

    fn an_agent_reports(&mut self) -> Vec<Left> {
        if self.orders.is_empty() {
            return Vec::new();
        }
        let directive = self.seed.pick(&self.orders).clone();
        let result = *self.seed.pick(&[
            OutcomeResult::Applied,
            OutcomeResult::Applied,
            OutcomeResult::Failed,
            OutcomeResult::Refused,
            OutcomeResult::Unknown,
        ]);
        report(&mut self.straight, &outcome(&directive, result))
    }

    fn scope(&mut self) -> HoldScope {
        let n = self.seed.below(self.seqs.len() as u64) as usize;
        match self.seed.below(3) {
            0 => HoldScope {
                mesh: MeshId::none(),
                node: None,
            },
            1 => HoldScope {
                mesh: mesh(Self::mesh_of(n)),
                node: None,
            },
            _ => HoldScope {
                mesh: mesh(Self::mesh_of(n)),
                node: Some(node(&Self::name(n))),
            },
        }
    }

    fn someone_holds(&mut self) -> Vec<Left> {
        let scope = self.scope();
        let hold = Hold {
            scope: scope.clone(),
            release: self.seed.one_in(2),
            for_ms: self
                .seed
                .one_in(2)
                .then(|| self.seed.below(2_000_000) as i64),
            by: "ops".into(),
            reason: String::new(),
        };
        say(&mut self.straight, &scope.mesh, &PlanRecord::Hold(hold))
    }

    fn someone_answers(&mut self) -> Vec<Left> {
        if self.proposals.is_empty() {
            return Vec::new();
        }
        let (node, subject) = self.seed.pick(&self.proposals).clone();
        let n: usize = node.as_str()[1..].parse().unwrap();
        let mesh = mesh(Self::mesh_of(n));
        let approved = self.seed.one_in(2);
        let approval = Approval {
            mesh: mesh.clone(),
            node,
            subject,
            approved,
            by: "alice".into(),
        };
        say(&mut self.straight, &mesh, &PlanRecord::Approval(approval))
    }

    fn someone_changes_the_policy(&mut self) -> Vec<Left> {
        let text = *self.seed.pick(&[
            "plan.mode = \"shadow\"",
            "plan.mode = \"act\"",
            "plan.allow = [\"monitoring_interval\", \"healing\"]",
            "plan.approve = []",
            "plan.cooldown_s = 0",
            "plan.budget_percent = 100.0",
            "plan.nonsense = 1",
            "symptoms.lossy.warning_enter = 20.0",
        ]);
        let mesh = self.scope().mesh;
        let change = PolicyChange {
            mesh: mesh.clone(),
            text: text.into(),
            by: "ops".into(),
        };
        say(&mut self.straight, &mesh, &PlanRecord::PolicyChange(change))
    }

    /// Three samples at once, the second of them twice.
    fn a_flood(&mut self) -> Vec<Left> {
        let mut left = self.everyone_samples();
        left.extend(self.everyone_samples());
        let metrics = TopicPartition {
            topic: Topic::Metrics,
            partition: 0,
        };
        let Some(last) = self
            .straight
            .recorded
            .get(&metrics)
            .and_then(|all| all.last().cloned())
        else {
            return left;
        };
        left.extend(self.straight.append(Topic::Metrics, &last.key, last.value));
        left
    }

    fn note(&mut self, left: &[Left]) {
        for event in Straight::events(left) {
            match event.body {
                Body::DirectiveIssued { directive } => self.orders.push(directive),
                Body::DirectiveWithheld {
                    id,
                    node,
                    reason: Reason::NeedsApproval,
                    ..
                } => {
                    self.proposals.push((node, id));
                }
                _ => {}
            }
        }
    }
}

fn events_of(straight: &Straight) -> Vec<Vec<u8>> {
    let at = TopicPartition {
        topic: Topic::Events,
        partition: 0,
    };
    let records = straight.recorded.get(&at).map_or(&[][..], Vec::as_slice);
    records.iter().map(|record| record.value.clone()).collect()
}

fn seeds() -> Vec<u64> {
    match std::env::var("HOMEOSTAT_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    }
}

#[test]
fn deciding_again_from_the_events_alone_equals_the_run() {
    let mut decisions = 0;
    for seed in seeds() {
        let straight = Life::new(seed).live();
        let report = replay_events(0, &events_of(&straight));
        let again = format!("HOMEOSTAT_SEED={seed} cargo test --test replay");
        assert_eq!(
            report.differences, 0,
            "{again}\n{:#?}",
            report.first_difference
        );
        assert_eq!(report.not_judged, 0, "{again}");
        decisions += report.decisions;
    }
    assert!(
        decisions >= 20 * seeds().len() as u64,
        "lives with decisions: {decisions}"
    );
}

#[test]
fn folding_the_inboxes_again_equals_the_run() {
    for seed in seeds()
        .into_iter()
        .filter(|seed| seed % 20 == 0 || seeds().len() == 1)
    {
        let straight = Life::new(seed).live();
        let report = replay(&straight.recorded, "homeostat.", TimeSource::Log);
        let again = format!("HOMEOSTAT_SEED={seed} cargo test --test replay");
        assert_eq!(
            report.differences, 0,
            "{again}\n{:#?}",
            report.first_difference
        );
        assert!(report.decisions > 0, "{again}");
    }
}

/// A changed, a missing and an invented decision are each found, and one of them spoils no other.
#[test]
fn what_was_not_decided_so_is_found() {
    let straight = Life::new(3).live();
    let good = events_of(&straight);
    let changed = |change: &dyn Fn(&mut Event)| {
        let mut events = good.clone();
        let at = events.len() / 2;
        let mut event = homeostat::wire::decode_event(&events[at]).unwrap();
        change(&mut event);
        events[at] = homeostat::wire::encode_event(&event);
        replay_events(0, &events).differences
    };
    assert_eq!(changed(&|_| {}), 0);
    assert!(changed(&|event| event.seq += 1) > 0);
    assert!(changed(&|event| event.cause.offset += 1) > 0);
    assert!(changed(&|event| event.mesh = mesh("gamma")) > 0);
    // What one event says of itself: each, but for the reasons people do not give to the loop.
    for (i, bytes) in good.iter().enumerate() {
        let mut event = homeostat::wire::decode_event(bytes).unwrap();
        let told = match &mut event.body {
            Body::DirectiveIssued { directive } => {
                directive.ttl_s += 1;
                true
            }
            Body::DirectiveWithheld { reason, .. } => {
                *reason = Reason::Shadow;
                true
            }
            Body::IncidentOpened { nodes_ill, .. } => {
                *nodes_ill += 1;
                true
            }
            _ => false,
        };
        if told {
            let mut events = good.clone();
            events[i] = homeostat::wire::encode_event(&event);
            assert_eq!(replay_events(0, &events).differences, 1, "event {i}");
        }
    }
    let mut policy_changed = straight.recorded.clone();
    let inbox = TopicPartition {
        topic: Topic::PlanInbox,
        partition: 0,
    };
    policy_changed.get_mut(&inbox).unwrap().remove(2);
    assert!(replay(&policy_changed, "homeostat.", TimeSource::Log).differences > 0);
}

/// Whatever someone made of a log, each mesh's seq dense again: it is judged, and what is sound can be evolved.
#[test]
fn a_log_that_someone_rewrote_is_judged_and_stops_nothing() {
    let (mut differed, mut refused) = (0, 0);
    for seed in 0..300 {
        let good = events_of(&Life::new(seed).live());
        let read = |bytes: &Vec<u8>| homeostat::wire::decode_event(bytes).unwrap();
        let mut events: Vec<Event> = good.iter().map(read).collect();
        let mut seed = Seed(seed);
        for _ in 0..1 + seed.below(4) {
            let (i, j) = (
                seed.below(events.len() as u64) as usize,
                seed.below(events.len() as u64) as usize,
            );
            match seed.below(7) {
                0 if events.len() > 1 => drop(events.remove(i)),
                1 => events.insert(i, events[j].clone()),
                2 => events.swap(i, j),
                3 => events[i].cause.offset = *seed.pick(&[0, i64::MAX]),
                4 => events[i].time = *seed.pick(&[Time(i64::MIN), Time(i64::MAX)]),
                5 => events[i].mesh = events[j].mesh.clone(),
                _ => events[i..].iter_mut().for_each(|event| {
                    event.cause.offset = event.cause.offset.saturating_sub(20);
                }),
            }
        }
        let mut next: BTreeMap<MeshId, i64> = BTreeMap::new();
        for event in &mut events {
            let seq = next.entry(event.mesh.clone()).or_default();
            event.seq = *seq;
            *seq += 1;
        }
        let events: Vec<_> = events.iter().map(homeostat::wire::encode_event).collect();
        differed += u64::from(replay_events(0, &events).differences > 0);
        match sound(&events) {
            Ok(events) => {
                let base: Rc<dyn Base> = Rc::new(NoBase);
                let mut plan = PlanFold::new(0, &base);
                events.iter().for_each(|event| plan.apply(event));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(differed >= 200 && refused >= 50, "{differed} {refused}");
}
