//! A fleet: nodes in a mesh whose links answer to directives. An agent samples, obeys what is
//! admissible, and reports; a healed node's links recover after a while, and a scaled one's load
//! falls. Troubles happen at their time: a bad link, load, an agent without uplink that keeps what
//! it measured and sends it later, a second agent of the same name.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::execute::{Admission, Answer, Execution, Executor, obey};
use crate::model::{
    Action, Directive, EventTime, MeshId, Metric, Metrics, Neighbour, NodeId, NodeKey, Outcome,
    OutcomeResult, Reading, Sample, Span, Time,
};
use crate::runtime::simulated::Simulated;
use crate::stream::Topic;

use super::{Seed, Surroundings};

/// How the fleet's records are written and read.
#[derive(Clone, Copy)]
pub struct Codec {
    /// A sample for `metrics`.
    pub sample: fn(&Sample) -> Vec<u8>,
    /// An outcome for `metrics`.
    pub outcome: fn(&Outcome) -> Vec<u8>,
    /// A directive; `None` when it is none.
    pub directive: fn(&[u8]) -> Option<Directive>,
}

/// Something that happens to the fleet. Nodes go by number, from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// A link gets bad until one of its ends heals.
    Link {
        /// One end.
        from: usize,
        /// The other end.
        to: usize,
        /// Latency, ms.
        latency_ms: f64,
        /// Packet loss, %.
        packet_loss: f64,
    },
    /// A node is busy until it scales.
    Load {
        /// The node.
        node: usize,
        /// CPU use, %.
        cpu_percent: f64,
        /// Memory use, %.
        memory_percent: f64,
    },
    /// An agent keeps its samples for a while and sends them all at once.
    Offline {
        /// The node.
        node: usize,
        /// For how long.
        lasts: Span,
    },
    /// A second agent with the node's name starts, and stays.
    Twin {
        /// The node.
        node: usize,
    },
}

/// What a fleet is to be.
#[derive(Clone)]
pub struct FleetPlan {
    /// The mesh.
    pub mesh: MeshId,
    /// How many nodes; they are called `node-1` and so on.
    pub nodes: usize,
    /// How often an agent samples until it is told otherwise.
    pub interval: Span,
    /// How long the fleet lives.
    pub lasts: Span,
    /// What happens, and how long after the beginning.
    pub troubles: Vec<(Span, Trouble)>,
    /// How long links and load take to recover once an order is obeyed.
    pub recovery: Span,
    /// A record is sent twice, once in so many times; 0 is never.
    pub twice: u64,
}

/// A fleet at work.
pub struct Fleet {
    plan: FleetPlan,
    codec: Codec,
    seed: Seed,
    agents: Vec<Agent>,
    links: Vec<Link>,
    began: Option<Time>,
    /// Up to which offset directives were read, per partition.
    read: BTreeMap<i32, i64>,
    obeyed: Vec<Directive>,
}

struct Agent {
    node: usize,
    name: NodeId,
    boot: i64,
    seq: i64,
    interval: Span,
    next_sample: Time,
    /// What it remembers of its orders; it obeys the first log that it hears of.
    admission: Option<Admission>,
    load: [f64; 2],
    calm_at: Option<Time>,
    offline_until: Option<Time>,
    kept: Vec<(Vec<u8>, Time)>,
}

struct Link {
    ends: [usize; 2],
    latency_ms: f64,
    packet_loss: f64,
    /// When the trouble on it is over.
    well_at: Option<Time>,
}

impl Fleet {
    /// A fleet at its beginning: a ring with a chord from every node to the one after the next.
    ///
    /// # Panics
    /// With less than two nodes.
    pub fn new(plan: FleetPlan, codec: Codec, seed: u64) -> Self {
        assert!(plan.nodes > 1, "a mesh has at least two nodes");
        let mut ends: Vec<[usize; 2]> = Vec::new();
        for (node, step) in (0..plan.nodes).flat_map(|node| [(node, 1), (node, 2)]) {
            let other = (node + step) % plan.nodes;
            let link = [node.min(other), node.max(other)];
            if node != other && !ends.contains(&link) {
                ends.push(link);
            }
        }
        let well = |ends| Link {
            ends,
            latency_ms: WELL.0,
            packet_loss: WELL.1,
            well_at: None,
        };
        Fleet {
            codec,
            seed: Seed(seed),
            agents: (0..plan.nodes)
                .map(|node| Agent::new(node, &plan))
                .collect(),
            links: ends.into_iter().map(well).collect(),
            began: None,
            read: BTreeMap::new(),
            obeyed: Vec::new(),
            plan,
        }
    }

    /// The directives that were obeyed, in order.
    pub fn obeyed(&self) -> &[Directive] {
        &self.obeyed
    }

    /// Begins what is due of the plan's troubles.
    fn trouble(&mut self, now: Time, since: Span) {
        let (due, later) = std::mem::take(&mut self.plan.troubles)
            .into_iter()
            .partition(|(at, _)| *at <= since);
        self.plan.troubles = later;
        let due: Vec<(Span, Trouble)> = due;
        for (_, trouble) in due {
            match trouble {
                Trouble::Link {
                    from,
                    to,
                    latency_ms,
                    packet_loss,
                } => {
                    let ends = [from.min(to), from.max(to)];
                    for link in self.links.iter_mut().filter(|link| link.ends == ends) {
                        (link.latency_ms, link.packet_loss) = (latency_ms, packet_loss);
                        link.well_at = None;
                    }
                }
                Trouble::Load {
                    node,
                    cpu_percent,
                    memory_percent,
                } => {
                    self.agents[node].load = [cpu_percent, memory_percent];
                    self.agents[node].calm_at = None;
                }
                Trouble::Offline { node, lasts } => {
                    self.agents[node].offline_until = Some(now + lasts);
                }
                Trouble::Twin { node } => {
                    let mut twin = Agent::new(node, &self.plan);
                    twin.boot = now.0;
                    twin.next_sample = now;
                    self.agents.push(twin);
                }
            }
        }
    }

    /// What time heals.
    fn recover(&mut self, now: Time) {
        let over = |at: Option<Time>| at.is_some_and(|at| at <= now);
        for link in self.links.iter_mut().filter(|link| over(link.well_at)) {
            (link.latency_ms, link.packet_loss) = WELL;
            link.well_at = None;
        }
        for agent in self.agents.iter_mut().filter(|agent| over(agent.calm_at)) {
            agent.load = CALM;
            agent.calm_at = None;
        }
    }

    /// Reads new directives and obeys what is admissible.
    fn obey(&mut self, cluster: &Simulated, now: Time) {
        for of in cluster.partitions(Topic::Directives) {
            let from = self.read.entry(of.partition).or_default();
            let records = cluster.written_from(of, *from);
            *from = records
                .last()
                .map_or(*from, |written| written.record.offset + 1);
            for written in records {
                let directive = (self.codec.directive)(&written.record.value);
                let Some(directive) = directive.filter(|d| d.mesh == self.plan.mesh) else {
                    continue;
                };
                for number in 0..self.agents.len() {
                    self.order(cluster, number, &directive, now);
                }
            }
        }
    }

    /// Brings an order to an agent; its report is sent.
    fn order(&mut self, cluster: &Simulated, number: usize, directive: &Directive, now: Time) {
        let agent = &mut self.agents[number];
        if agent.name != directive.node {
            return;
        }
        let node = agent.node;
        let mut admission = agent.admission.take().unwrap_or_else(|| {
            let key = NodeKey {
                mesh: directive.mesh.clone(),
                node: directive.node.clone(),
            };
            Admission::new(key, directive.log_id.clone(), [])
        });
        let mut acts = Acts {
            fleet: self,
            number,
            now,
        };
        let mut journal = |_: &_| Ok::<(), Infallible>(());
        let Ok(answer) = obey(&mut admission, &mut acts, &mut journal, directive, now);
        self.agents[number].admission = Some(admission);
        if let Answer::Report(outcome) = answer {
            let value = (self.codec.outcome)(&outcome);
            self.send(cluster, node, value, now);
        }
    }

    /// Does what an agent is ordered.
    fn apply(&mut self, number: usize, directive: &Directive, now: Time) {
        let node = self.agents[number].node;
        let over_at = now + self.plan.recovery;
        match directive.action {
            Action::MonitoringInterval { interval_s } => {
                self.agents[number].interval = Span::seconds(i64::from(interval_s));
                self.agents[number].next_sample = now;
            }
            Action::Healing { .. } | Action::RoutePreference { .. } => {
                for link in self
                    .links
                    .iter_mut()
                    .filter(|link| link.ends.contains(&node))
                {
                    link.well_at = link.well_at.or(Some(over_at));
                }
            }
            Action::Scaling { .. } => {
                let agent = &mut self.agents[number];
                agent.calm_at = agent.calm_at.or(Some(over_at));
            }
        }
        self.obeyed.push(directive.clone());
    }

    /// Takes the samples that are due.
    fn sample(&mut self, cluster: &Simulated, now: Time) {
        for number in 0..self.agents.len() {
            if self.agents[number].next_sample > now {
                continue;
            }
            let sample = self.measure(number, now);
            let value = (self.codec.sample)(&sample);
            let agent = &mut self.agents[number];
            agent.next_sample = now + agent.interval;
            agent.kept.push((value, now));
            if agent.offline_until.is_some_and(|until| now < until) {
                continue;
            }
            agent.offline_until = None;
            let (node, kept) = (agent.node, std::mem::take(&mut agent.kept));
            for (value, taken) in kept {
                self.send(cluster, node, value, taken);
            }
        }
    }

    /// Sends a record, now and then twice.
    fn send(&mut self, cluster: &Simulated, node: usize, value: Vec<u8>, time: Time) {
        let key = self.agents[node].name.as_str().as_bytes();
        cluster.append(Topic::Metrics, key, &value, time);
        if self.plan.twice > 0 && self.seed.one_in(self.plan.twice) {
            cluster.append(Topic::Metrics, key, &value, time);
        }
    }

    fn measure(&mut self, number: usize, now: Time) -> Sample {
        let node = self.agents[number].node;
        let mut neighbours = Vec::new();
        for link in self.links.iter().filter(|link| link.ends.contains(&node)) {
            let other = link.ends[usize::from(link.ends[0] == node)];
            neighbours.push(Neighbour {
                node_id: self.agents[other].name.clone(),
                latency_ms: Some(link.latency_ms * self.seed.between(0.95, 1.05)),
                packet_loss: Some(link.packet_loss),
            });
        }
        let count = neighbours.len() as f64;
        let mean = |of: fn(&Neighbour) -> Option<f64>| {
            neighbours.iter().filter_map(of).sum::<f64>() / count
        };
        let agent = &mut self.agents[number];
        agent.seq += 1;
        let near =
            |value: f64, seed: &mut Seed| (value + seed.between(-1.0, 1.0)).clamp(0.0, 100.0);
        let mut metrics = Metrics::default();
        for (metric, value) in [
            (Metric::CpuPercent, near(agent.load[0], &mut self.seed)),
            (Metric::MemoryPercent, near(agent.load[1], &mut self.seed)),
            (Metric::MeshConnectivity, count),
            (Metric::LatencyMs, mean(|n| n.latency_ms)),
            (Metric::PacketLoss, mean(|n| n.packet_loss)),
        ] {
            assert!(
                metrics.try_set(metric, value),
                "{metric:?} {value} is in range"
            );
        }
        Sample {
            mesh: self.plan.mesh.clone(),
            node: agent.name.clone(),
            reading: Reading {
                boot: agent.boot,
                seq: Some(agent.seq),
                time: EventTime(now.0),
                interval_s: Some(agent.interval.0 as f64 / 1000.0),
                metrics,
            },
            neighbours,
        }
    }
}

impl Surroundings for Fleet {
    fn step(&mut self, cluster: &Simulated) -> bool {
        let now = cluster.now();
        let since = now - *self.began.get_or_insert(now);
        self.obey(cluster, now);
        if since >= self.plan.lasts {
            return false;
        }
        self.trouble(now, since);
        self.recover(now);
        self.sample(cluster, now);
        cluster.advance(STEP);
        true
    }
}

impl Agent {
    fn new(node: usize, plan: &FleetPlan) -> Self {
        Agent {
            node,
            name: NodeId::parse(&format!("node-{}", node + 1)).expect("a short name"),
            boot: 0,
            seq: 0,
            interval: plan.interval,
            next_sample: Time(i64::MIN),
            admission: None,
            load: CALM,
            calm_at: None,
            offline_until: None,
            kept: Vec::new(),
        }
    }
}

/// What an agent touches: itself and the links around its node.
struct Acts<'a> {
    fleet: &'a mut Fleet,
    number: usize,
    now: Time,
}

impl Executor for Acts<'_> {
    fn execute(&mut self, directive: &Directive) -> Execution {
        self.fleet.apply(self.number, directive, self.now);
        Execution {
            result: OutcomeResult::Applied,
            observed: None,
        }
    }
}

/// A link without trouble: latency in ms and packet loss in %.
const WELL: (f64, f64) = (20.0, 0.0);

/// A node without trouble: CPU and memory use in %.
const CALM: [f64; 2] = [40.0, 50.0];

/// How far time moves in a step.
const STEP: Span = Span::seconds(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cause, Healing, PolicyId};
    use crate::runtime::TimeSource;
    use crate::runtime::simulated::Settings;

    fn fleet(troubles: Vec<(Span, Trouble)>) -> (Fleet, Simulated) {
        let plan = FleetPlan {
            mesh: MeshId::parse("alpha").unwrap(),
            nodes: 5,
            interval: Span::seconds(10),
            lasts: Span::seconds(300),
            troubles,
            recovery: Span::seconds(20),
            twice: 0,
        };
        let codec = Codec {
            sample: |sample| {
                let loss = sample.reading.metrics.get(Metric::PacketLoss).unwrap();
                format!("{} {} {loss}", sample.node, sample.reading.seq.unwrap()).into()
            },
            outcome: |outcome| serde_json::to_vec(outcome).unwrap(),
            directive: |value| serde_json::from_slice(value).ok(),
        };
        let cluster = Simulated::new(Settings {
            partitions: 1,
            inboxes: vec![Topic::Metrics],
            time_source: TimeSource::Log,
            brokers: 1,
            now: Time(1_000_000),
            delivery: None,
        });
        (Fleet::new(plan, codec, 1), cluster)
    }

    /// Lets the fleet live for some seconds; answers seq and loss of the samples of node-1 that
    /// came meanwhile.
    fn live(fleet: &mut Fleet, cluster: &Simulated, seconds: usize) -> Vec<(i64, f64)> {
        let metrics = cluster.partitions(Topic::Metrics).next().unwrap();
        let from = cluster.end(metrics);
        (0..seconds).for_each(|_| assert!(fleet.step(cluster)));
        let written = cluster.written_from(metrics, from).into_iter();
        let sample = |text: String| {
            let (seq, loss) = text.strip_prefix("node-1 ")?.split_once(' ')?;
            Some((seq.parse().ok()?, loss.parse().ok()?))
        };
        written
            .filter_map(|w| sample(String::from_utf8(w.record.value).unwrap()))
            .collect()
    }

    fn heal(generation: i64, issued_at: Time) -> Vec<u8> {
        let directive = Directive {
            id: format!("dir-{generation}"),
            log_id: "log".into(),
            mesh: MeshId::parse("alpha").unwrap(),
            node: NodeId::parse("node-1").unwrap(),
            generation,
            issued_at,
            ttl_s: 60,
            action: Action::Healing {
                level: Healing::Aggressive,
            },
            cause: Cause {
                topic: "plan-inbox".into(),
                partition: 0,
                offset: 0,
            },
            incident_id: None,
            policy_id: PolicyId::default(),
            policy_generation: 0,
        };
        serde_json::to_vec(&directive).unwrap()
    }

    #[test]
    fn a_bad_link_is_seen_and_healing_repairs_it_after_a_while() {
        let bad = Trouble::Link {
            from: 0,
            to: 1,
            latency_ms: 400.0,
            packet_loss: 40.0,
        };
        let (mut fleet, cluster) = fleet(vec![(Span::seconds(30), bad)]);
        let before = live(&mut fleet, &cluster, 30);
        assert!(before.len() == 3 && before.iter().all(|sample| sample.1 == 0.0));
        assert!(
            live(&mut fleet, &cluster, 20)
                .iter()
                .all(|sample| sample.1 == 10.0)
        );
        for _ in 0..2 {
            let order = heal(7, cluster.now());
            cluster.append(Topic::Directives, b"alpha/node-1", &order, cluster.now());
        }
        live(&mut fleet, &cluster, 25);
        assert!(
            live(&mut fleet, &cluster, 20)
                .iter()
                .all(|sample| sample.1 == 0.0)
        );
        assert_eq!(fleet.obeyed().len(), 1, "a generation is admitted once");
    }

    #[test]
    fn an_expired_order_is_not_obeyed() {
        let (mut fleet, cluster) = fleet(Vec::new());
        let order = heal(7, cluster.now() - Span::seconds(60));
        cluster.append(Topic::Directives, b"alpha/node-1", &order, cluster.now());
        live(&mut fleet, &cluster, 5);
        assert_eq!(fleet.obeyed(), []);
    }

    #[test]
    fn an_agent_without_uplink_sends_later_what_it_measured() {
        let offline = Trouble::Offline {
            node: 0,
            lasts: Span::seconds(45),
        };
        let (mut fleet, cluster) = fleet(vec![(Span::seconds(10), offline)]);
        assert_eq!(live(&mut fleet, &cluster, 10).len(), 1);
        assert_eq!(live(&mut fleet, &cluster, 45).len(), 0);
        let samples = live(&mut fleet, &cluster, 6);
        let seqs: Vec<_> = samples.iter().map(|sample| sample.0).collect();
        assert_eq!(seqs, (2..=7).collect::<Vec<i64>>());
    }
}
