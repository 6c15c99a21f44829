//! Seeded lives of a small fleet, with people and agents that say anything at any time. A life is
//! lived in a straight line; what it was told from outside can be told to another loop again.

use homeostat::model::*;
use homeostat::runtime::{Seed, TopicPartition};
use homeostat::stream::Topic;
use homeostat::topology::straight::{Left, Straight};
use homeostat::wire;

use crate::records::*;

/// A record from outside: gap since the one before, topic, key, value.
pub type Line = (Span, Topic, Vec<u8>, Vec<u8>);

/// How long a life is, and how wide.
#[derive(Clone, Copy)]
pub struct Extent {
    /// Most nodes.
    pub nodes: u64,
    /// Fewest moments.
    pub moments: u64,
    /// So many more at most.
    pub more: u64,
}

/// A fleet whose every moment comes from a seed.
pub struct Life {
    seed: Seed,
    moments: u64,
    straight: Straight,
    said: Vec<Line>,
    last: Time,
    seqs: Vec<i64>,
    values: Vec<[f64; 5]>,
    orders: Vec<Directive>,
    proposals: Vec<(NodeId, String)>,
}

/// The log of every life.
pub const LOG_ID: &str = "life";

/// Values of [`KINDS`] that show nothing.
const WELL: [f64; 5] = [40.0, 50.0, 5.0, 60.0, 0.0];

/// Values of [`KINDS`] each of which is critical.
const ILL: [f64; 5] = [97.0, 96.0, 0.0, 700.0, 15.0];

const KINDS: [Metric; 5] = [
    Metric::CpuPercent,
    Metric::MemoryPercent,
    Metric::MeshConnectivity,
    Metric::LatencyMs,
    Metric::PacketLoss,
];

impl Life {
    pub fn new(seed: u64, extent: Extent) -> Self {
        let mut seed = Seed(seed);
        let nodes = 1 + seed.below(extent.nodes) as usize;
        let mut values = vec![WELL; nodes];
        for values in &mut values {
            if seed.one_in(3) {
                let k = seed.below(5) as usize;
                values[k] = ILL[k];
            }
        }
        Life {
            moments: extent.moments + seed.below(extent.more),
            straight: Straight::new(LOG_ID, Time(START)),
            said: Vec::new(),
            last: Time(START),
            seqs: vec![0; nodes],
            values,
            orders: Vec::new(),
            proposals: Vec::new(),
            seed,
        }
    }

    /// Lives it; answers the loop at its end and what it was told.
    pub fn live(mut self) -> (Straight, Vec<Line>) {
        for _ in 0..self.moments {
            let gap = match self.seed.below(1000) {
                0..=2 => 4000,
                3..=14 => 700,
                15..=49 => 200,
                50..=199 => 60,
                200..=399 => *self.seed.pick(&[0, 1, 5]),
                _ => 10,
            };
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
        (self.straight, self.said)
    }

    /// Tells the loop something.
    fn tell(&mut self, topic: Topic, key: &[u8], value: Vec<u8>) -> Vec<Left> {
        let now = self.straight.now();
        let line = (now - self.last, topic, key.to_vec(), value.clone());
        self.said.push(line);
        self.last = now;
        self.straight.append(topic, key, value)
    }

    fn say(&mut self, mesh: &MeshId, record: &PlanRecord) -> Vec<Left> {
        let key = mesh.as_str().as_bytes();
        self.tell(Topic::PlanInbox, key, wire::encode_plan(record))
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
                self.values[n][k] = if self.seed.one_in(2) { ILL[k] } else { WELL[k] };
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
            let key = sample.node.as_str().as_bytes();
            left.extend(self.tell(Topic::Metrics, key, wire::encode_sample(&sample)));
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
        let outcome = Outcome::of(&directive, result);
        let key = outcome.node.as_str().as_bytes();
        self.tell(Topic::Metrics, key, wire::encode_outcome(&outcome))
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
        self.say(&scope.mesh, &PlanRecord::Hold(hold))
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
        self.say(&mesh, &PlanRecord::Approval(approval))
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
        self.say(&mesh, &PlanRecord::PolicyChange(change))
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
        left.extend(self.tell(Topic::Metrics, &last.key, last.value));
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
