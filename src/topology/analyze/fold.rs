//! Bytes to the stage and back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use crate::model::{
    Adopted, LoopBlind, MeshId, MetricsRecord, NAME_BYTES_MAX, NodeKey, PlanRecord, Policy,
    PolicyId, RawSample, Span, Time,
};
use crate::monitor::{self, Fault};
use crate::runtime::Share;
use crate::stream::{
    Alarms, At, Base, Fold, Output, Reject, Row, RowError, Shelf, Signal, Stage, Table, To, Topic,
    WINDOWS, read_name, window_key, write_name,
};
use crate::wire;

use super::row::{read_row, write_row};
use super::{AnalyzeStage, Heard, NodeRow, Said};

/// Analyze on one partition of `metrics`.
pub struct AnalyzeFold {
    share: Share,
    pub(super) nodes: Shelf<NodeKey, NodeRow>,
    policies: Table<MeshId, PolicyRow>,
    alarms: Alarms,
    /// What the policies' texts mean; made when first needed.
    stages: BTreeMap<PolicyId, Rc<AnalyzeStage>>,
    /// The stage of each mesh, as far as it was asked for since a policy was adopted.
    in_force: BTreeMap<MeshId, Rc<AnalyzeStage>>,
    /// The record in hand adopts a policy.
    adopting: bool,
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
    /// Readings and outcomes sent on to the partition that they belong to.
    pub forwarded: u64,
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
            share: Share::WHOLE,
            nodes: Shelf::new(NODES, base.clone(), nodes),
            policies: Table::new(2, base.clone()),
            alarms: Alarms::keeping(3, base.clone(), nodes),
            stages: BTreeMap::new(),
            in_force: BTreeMap::new(),
            adopting: false,
            counts: Counts::default(),
            windows: Vec::new(),
            windows_before: 0,
        }
    }

    /// The same on one of several partitions: what belongs to another is sent there.
    pub fn of(mut self, share: Share) -> Self {
        self.share = share;
        self
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
        self.in_force.clear();
        self.adopting = true;
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
        let (mesh, node) = monitor::names(raw).map_err(reject)?;
        let stage = self.stage(mesh);
        let max_future = Span::seconds(stage.monitor().max_future_s);
        let sample = monitor::validate(raw, Some(at.now), max_future).map_err(reject)?;
        let heard = Signal::Record(Heard::Reading(sample.reading));
        let duplicates = self.counts.duplicates;
        self.step(&stage, &bytes(mesh, node), at, heard, out)?;
        self.counts.accepted += u64::from(self.counts.duplicates == duplicates);
        Ok(())
    }

    /// Sends a record to the partition that its node belongs to: there it is keyed by the node, so
    /// that this happens once.
    fn forward(&mut self, node: &str, value: &[u8], out: &mut Vec<Output>) {
        self.counts.forwarded += 1;
        out.push(Output {
            topic: Topic::Metrics,
            to: To::ByKey,
            key: node.as_bytes().to_vec(),
            value: value.to_vec(),
            headers: Vec::new(),
        });
    }

    /// Steps the node whose key has these bytes.
    fn step(
        &mut self,
        stage: &AnalyzeStage,
        key: &[u8],
        at: &At,
        signal: Signal<Heard>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let ((before, answer, name), changed) = self.nodes.change(key, |name, row| {
            let before = row.wake_at(at);
            let answer = stage.step(name, row, at, signal);
            let name = (!answer.emit.is_empty()).then(|| name.clone());
            (before, answer, name)
        });
        if let Some(name) = name {
            for said in answer.emit {
                self.emit(&name, said, out)?;
            }
        }
        if changed {
            self.alarms.moved(key, before, answer.wake_at);
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
    fn stage(&mut self, mesh: &str) -> Rc<AnalyzeStage> {
        if let Some(stage) = self.in_force.get(mesh) {
            return stage.clone();
        }
        let mesh = MeshId::parse(mesh).expect("its length was judged");
        let adopted = self
            .policies
            .get(&mesh)
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
        let stage = stage.clone();
        if self.in_force.len() >= STAGES_MAX {
            self.in_force.clear();
        }
        self.in_force.insert(mesh, stage.clone());
        stage
    }
}

impl Fold for AnalyzeFold {
    fn own_key(&self, _key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        if let Some((mesh, node)) = wire::sample_names(value) {
            // Should the rest be damaged, all is taken back and done again without the record.
            let whole = [mesh, node].map(|name| (1..=NAME_BYTES_MAX).contains(&name.len()));
            let ours = whole == [true; 2] && self.share.has(node.as_bytes());
            return ours.then(|| bytes(mesh, node));
        }
        match wire::decode_metrics(value).ok()? {
            MetricsRecord::Sample(raw) => {
                let (mesh, node) = monitor::names(&raw).ok()?;
                self.share.has(node.as_bytes()).then(|| bytes(mesh, node))
            }
            MetricsRecord::Outcome(outcome) => {
                let (mesh, node) = (outcome.mesh.as_str(), outcome.node.as_str());
                self.share.has(node.as_bytes()).then(|| bytes(mesh, node))
            }
            MetricsRecord::Tick | MetricsRecord::Adopted(_) => None,
        }
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
            MetricsRecord::Sample(raw) => {
                let (_, node) = monitor::names(&raw).map_err(reject)?;
                match self.share.has(node.as_bytes()) {
                    true => self.sample(at, &raw, out),
                    false => {
                        self.forward(node, value, out);
                        Ok(())
                    }
                }
            }
            MetricsRecord::Outcome(outcome)
                if !self.share.has(outcome.node.as_str().as_bytes()) =>
            {
                self.forward(outcome.node.as_str(), value, out);
                Ok(())
            }
            MetricsRecord::Outcome(outcome) => {
                let key = bytes(outcome.mesh.as_str(), outcome.node.as_str());
                let stage = self.stage(outcome.mesh.as_str());
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
        self.nodes.look(key, |row| row.wake_at(at)).flatten()
    }

    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
        let (mesh, _) = read_name(key).expect("alarms are filed under node keys");
        let stage = self.stage(&mesh);
        self.step(&stage, key, at, Signal::Alarm, out)
            .expect("an alarm refuses nothing");
    }

    fn begin(&mut self) {
        self.nodes.begin();
        self.policies.begin();
        self.adopting = false;
        self.alarms.begin();
        self.windows_before = self.windows.len();
    }

    fn accept(&mut self) {}

    fn rollback(&mut self) {
        self.nodes.rollback();
        self.policies.rollback();
        if self.adopting {
            self.in_force.clear();
        }
        self.alarms.rollback();
        self.windows.truncate(self.windows_before);
    }

    /// Nothing: Analyze keeps no events, it is re-folded from its inbox.
    fn evolve(&mut self, _value: &[u8]) -> Result<(), Reject> {
        Ok(())
    }

    fn changed(&self) -> usize {
        let small = self.windows.len() + self.alarms.changed();
        self.nodes.changed() + self.policies.changed() + small / SMALL_A_ROW
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

/// The nodes' rows in a base, for who only reads them.
pub fn nodes_in(base: &Rc<dyn Base>) -> Table<NodeKey, NodeRow> {
    Table::new(NODES, base.clone())
}

/// The bytes of a [`NodeKey`].
fn bytes(mesh: &str, node: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(mesh.len() + node.len() + 8);
    write_name(mesh, &mut bytes);
    write_name(node, &mut bytes);
    bytes
}

fn reject(fault: Fault) -> Reject {
    Reject {
        reason: fault.reason.name(),
        detail: format!("field {}", fault.field),
    }
}

/// First byte of the nodes' rows.
const NODES: u8 = 1;

/// Nodes kept decoded where nobody says how many.
pub const NODES_KEPT: usize = 65_536;

/// Parsed policies kept at a time: a memo of a pure function.
const STAGES_MAX: usize = 64;

/// Closed panes and alarms that count as one changed row: they are so much smaller, and a loop that
/// catches up closes many.
const SMALL_A_ROW: usize = 16;

/// Of the encoding of a policy's row.
const POLICY_VERSION: u8 = 1;
