//! Bytes to the stage and back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use crate::model::{
    Adopted, LoopBlind, MeshId, MetricsRecord, NodeId, NodeKey, PlanRecord, Policy, PolicyId,
    RawSample, Span, Time,
};
use crate::monitor::{self, Fault};
use crate::stream::{
    Alarms, At, Base, Fold, Key, Output, Reject, Row, RowError, Signal, Stage, Table, To, Topic,
    WINDOWS, window_key,
};
use crate::wire;

use super::row::{read_row, write_row};
use super::{AnalyzeStage, Heard, NodeRow, Said};

/// Analyze on one partition of `metrics`.
pub struct AnalyzeFold {
    pub(super) nodes: Table<NodeKey, NodeRow>,
    policies: Table<MeshId, PolicyRow>,
    alarms: Alarms,
    /// What the policies' texts mean; made when first needed.
    stages: BTreeMap<PolicyId, Rc<AnalyzeStage>>,
    counts: Counts,
    /// Panes closed since the rows were drained: written, never read here.
    windows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// How many of them stood when the record began.
    windows_before: usize,
}

/// What became of the records since the fold was made; for people, decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings folded.
    pub accepted: u64,
    /// Readings dropped that were accepted before or are of an older boot.
    pub duplicates: u64,
    /// Outcomes dropped that were passed on before.
    pub outcomes_repeated: u64,
    /// Panes closed.
    pub panes: u64,
}

/// The policy in force for a mesh, or for all.
#[derive(Clone, Debug, PartialEq)]
struct PolicyRow(Adopted);

impl Row for PolicyRow {
    fn write(&self, out: &mut Vec<u8>) {
        write_row(POLICY_VERSION, &self.0, out);
    }

    fn read(bytes: &[u8]) -> Result<Self, RowError> {
        read_row(POLICY_VERSION, bytes).map(PolicyRow)
    }
}

impl AnalyzeFold {
    /// Analyze over the rows in `base`.
    pub fn new(base: &Rc<dyn Base>) -> Self {
        AnalyzeFold::keeping(base, NODES_KEPT)
    }

    /// The same, keeping about so many nodes' rows decoded in memory.
    pub fn keeping(base: &Rc<dyn Base>, nodes: usize) -> Self {
        AnalyzeFold {
            nodes: nodes_in(base).with_clean_max(nodes),
            policies: Table::new(2, base.clone()),
            alarms: Alarms::new(3, base.clone()),
            stages: BTreeMap::new(),
            counts: Counts::default(),
            windows: Vec::new(),
            windows_before: 0,
        }
    }

    /// What became of the records so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn adopt(&mut self, adopted: Adopted) -> Result<(), Reject> {
        let bad = |detail| Reject {
            reason: "bad_policy",
            detail,
        };
        let id = Policy::id(&adopted.text);
        if self.stages.len() >= STAGES_MAX {
            self.stages.clear();
        }
        if let Entry::Vacant(free) = self.stages.entry(id) {
            let policy = Policy::parse(&adopted.text).map_err(|e| bad(e.to_string()))?;
            free.insert(Rc::new(AnalyzeStage::new(&policy, id)));
        }
        if id != adopted.policy_id {
            return Err(bad(format!(
                "policy {}: its text has the id {id}",
                adopted.policy_id
            )));
        }
        // The newest counts, as in Plan: one for all takes the place of what single meshes had.
        let mut mesh = MeshId::none();
        while adopted.mesh.is_none()
            && let Some((own, _)) = self.policies.next(&mesh)
        {
            self.policies.put(own.clone(), None);
            mesh = own;
        }
        self.policies
            .put(adopted.mesh.clone(), Some(PolicyRow(adopted)));
        Ok(())
    }

    fn sample(
        &mut self,
        at: &At,
        raw: &RawSample<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let key = node_key(raw).map_err(reject)?;
        let stage = self.stage(&key.mesh);
        let max_future = Span::seconds(stage.monitor().max_future_s);
        let sample = monitor::validate(raw, Some(at.now), max_future).map_err(reject)?;
        let heard = Signal::Record(Heard::Reading(sample.reading));
        let duplicates = self.counts.duplicates;
        self.step(&stage, &key, at, heard, out)?;
        self.counts.accepted += u64::from(self.counts.duplicates == duplicates);
        Ok(())
    }

    fn step(
        &mut self,
        stage: &AnalyzeStage,
        key: &NodeKey,
        at: &At,
        signal: Signal<Heard>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let known = self.nodes.get(key);
        let before = known.as_ref().and_then(|row| row.wake_at(at));
        let mut row = known.as_deref().cloned().unwrap_or_default();
        let answer = stage.step(key, &mut row, at, signal);
        for said in answer.emit {
            self.emit(key, said, out)?;
        }
        if known.as_deref() != Some(&row) {
            self.nodes.put(key.clone(), Some(row));
            self.alarms.moved(&bytes(key), before, answer.wake_at);
        }
        Ok(())
    }

    fn emit(&mut self, key: &NodeKey, said: Said, out: &mut Vec<Output>) -> Result<(), Reject> {
        let mesh = || key.mesh.as_str().as_bytes().to_vec();
        let (topic, key, value) = match said {
            Said::Assessment(assessment) => {
                let record = PlanRecord::Assessment(*assessment);
                (Topic::PlanInbox, mesh(), wire::encode_plan(&record))
            }
            Said::Outcome(outcome) => {
                let record = PlanRecord::Outcome(*outcome);
                (Topic::PlanInbox, mesh(), wire::encode_plan(&record))
            }
            Said::Cycle(cycle) => {
                let node = key.node.as_str().as_bytes().to_vec();
                (Topic::Cycles, node, wire::encode_cycle(&cycle))
            }
            Said::Pane(pane) => {
                self.counts.panes += 1;
                let mut row = vec![WINDOWS];
                row.extend(window_key(pane.start.0, key));
                self.windows.push((row, Some(pane.encode())));
                return Ok(());
            }
            Said::Duplicate => {
                self.counts.duplicates += 1;
                return Ok(());
            }
            Said::Repeated => {
                self.counts.outcomes_repeated += 1;
                return Ok(());
            }
            Said::Refused(fault) => return Err(reject(fault)),
            Said::UnknownNode => {
                return Err(Reject {
                    reason: "unknown_node",
                    detail: format!("outcome of {key}, expected a node that was heard before"),
                });
            }
        };
        out.push(Output {
            topic,
            to: To::ByKey,
            key,
            value,
            headers: Vec::new(),
        });
        Ok(())
    }

    /// The stage under the policy of a mesh: its own, else the one for all, else the built-in.
    fn stage(&mut self, mesh: &MeshId) -> Rc<AnalyzeStage> {
        let adopted = self
            .policies
            .get(mesh)
            .or_else(|| self.policies.get(&MeshId::none()));
        let text = adopted
            .as_ref()
            .map_or(Policy::BUILT_IN, |row| row.0.text.as_str());
        let id = adopted
            .as_ref()
            .map_or_else(|| Policy::id(text), |row| row.0.policy_id);
        let stage = self.stages.entry(id).or_insert_with(|| {
            let policy = Policy::parse(text).expect("a text is parsed before it is adopted");
            Rc::new(AnalyzeStage::new(&policy, id))
        });
        stage.clone()
    }
}

impl Fold for AnalyzeFold {
    fn own_key(&self, _key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let key = match wire::decode_metrics(value).ok()? {
            MetricsRecord::Sample(raw) => node_key(&raw).ok()?,
            MetricsRecord::Outcome(outcome) => NodeKey {
                mesh: outcome.mesh,
                node: outcome.node,
            },
            MetricsRecord::Tick | MetricsRecord::Adopted(_) => return None,
        };
        Some(bytes(&key))
    }

    fn record(
        &mut self,
        at: &At,
        _key: &[u8],
        value: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        match wire::decode_metrics(value)? {
            MetricsRecord::Tick => Ok(()),
            MetricsRecord::Adopted(adopted) => self.adopt(adopted),
            MetricsRecord::Sample(raw) => self.sample(at, &raw, out),
            MetricsRecord::Outcome(outcome) => {
                let key = NodeKey {
                    mesh: outcome.mesh.clone(),
                    node: outcome.node.clone(),
                };
                let stage = self.stage(&key.mesh);
                let heard = Signal::Record(Heard::Outcome(outcome));
                self.step(&stage, &key, at, heard, out)
            }
        }
    }

    fn hears(&self) -> bool {
        true
    }

    fn blind(&mut self, at: &At, from: Time, out: &mut Vec<Output>) {
        let blind = LoopBlind {
            topic: at.cause.topic.clone(),
            partition: at.cause.partition,
            from,
            to: at.now,
        };
        out.push(Output {
            topic: Topic::PlanInbox,
            to: To::Same,
            key: Vec::new(),
            value: wire::encode_plan(&PlanRecord::LoopBlind(blind)),
            headers: Vec::new(),
        });
    }

    fn alarms(&mut self) -> &mut Alarms {
        &mut self.alarms
    }

    fn wake_at(&self, at: &At, key: &[u8]) -> Option<Time> {
        self.nodes.get(&NodeKey::read(key)?)?.wake_at(at)
    }

    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
        let key = NodeKey::read(key).expect("alarms are filed under node keys");
        let stage = self.stage(&key.mesh);
        self.step(&stage, &key, at, Signal::Alarm, out)
            .expect("an alarm refuses nothing");
    }

    fn begin(&mut self) {
        self.nodes.begin();
        self.policies.begin();
        self.alarms.begin();
        self.windows_before = self.windows.len();
    }

    fn accept(&mut self) {}

    fn rollback(&mut self) {
        self.nodes.rollback();
        self.policies.rollback();
        self.alarms.rollback();
        self.windows.truncate(self.windows_before);
    }

    /// Nothing: Analyze keeps no events, it is re-folded from its inbox.
    fn evolve(&mut self, _value: &[u8]) -> Result<(), Reject> {
        Ok(())
    }

    fn changed(&self) -> usize {
        self.nodes.changed() + self.policies.changed() + self.alarms.changed() + self.windows.len()
    }

    fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.windows_before = 0;
        let mut rows = std::mem::take(&mut self.windows);
        self.nodes.drain(&mut rows);
        self.policies.drain(&mut rows);
        self.alarms.drain(&mut rows);
        rows
    }
}

/// The nodes' rows in a base, also for who only reads them.
pub fn nodes_in(base: &Rc<dyn Base>) -> Table<NodeKey, NodeRow> {
    Table::new(1, base.clone())
}

fn node_key(raw: &RawSample<'_>) -> Result<NodeKey, Fault> {
    let (mesh, node) = monitor::names(raw)?;
    Ok(NodeKey {
        mesh: MeshId::parse(mesh).expect("its length was judged"),
        node: NodeId::parse(node).expect("its length was judged"),
    })
}

fn bytes(key: &NodeKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    bytes
}

fn reject(fault: Fault) -> Reject {
    Reject {
        reason: fault.reason.name(),
        detail: format!("field {}", fault.field),
    }
}

/// Nodes kept decoded where nobody says how many.
pub const NODES_KEPT: usize = 65_536;

/// Parsed policies kept at a time: a memo of a pure function.
const STAGES_MAX: usize = 64;

/// Of the encoding of a policy's row.
const POLICY_VERSION: u8 = 1;
