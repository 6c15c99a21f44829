//! Where every node stands now: Plan's rows brought to the end of `events`, with what Analyze last
//! heard.
//!
//! Partition by partition of Plan's rows, of those that a process holds:
//! 1. Plan's rows lie somewhat behind `events`; their mark says where. The tail is evolved over
//!    them, in memory: nothing is written.
//! 2. Nodes are read in order of mesh and name, as many as were asked for.
//! 3. Each gets its phi and when it was last heard from Analyze's row, where there is one that can
//!    be read, if it is held here; else from its last event, as at a past moment.
//!
//! Rows of another encoding are not read: then all of `events` is evolved.
//!
//! Rows that a running loop writes meanwhile are no basis for what was decided before: then it is
//! done again, and after some times in vain the rows are answered as they stand, without the tail:
//! each node's is whole, and they lag by no more than the loop lets them.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::knowledge::evolve;
use crate::model::{MeshId, NodeId, NodeKey, NodeRow, Severity, State, Symptom, Time};
use crate::runtime::{
    Below, LogError, Mark, Source, Store, StoreError, TopicPartition, mark_of, partition_of,
};
use crate::stream::{Base, LEDGER_VERSION, Ledger, NoBase, Table, Topic};
use crate::wire;
use crate::wire::json::{NodeState, node_state};

use super::analyze;
use super::places::partitions_for;

/// Which nodes are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of this mesh only.
    pub mesh: Option<MeshId>,
    /// With this name only.
    pub node: Option<NodeId>,
    /// Those after this one.
    pub after: Option<NodeKey>,
    /// At most so many.
    pub limit: usize,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            mesh: None,
            node: None,
            after: None,
            limit: usize::MAX,
        }
    }
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeNow {
    /// The node.
    pub key: NodeKey,
    /// The moment.
    pub time: Time,
    /// How ill it is.
    pub severity: Severity,
    /// With a latch on, in order.
    pub symptoms: Vec<Symptom>,
    /// Its settled state.
    pub state: State,
    /// Its phi.
    pub phi: f64,
    /// The interval that it was last told, s.
    pub interval_s: u32,
    /// Append time of what was last heard of it.
    pub last_seen: Time,
    /// The incident that it is in.
    pub incident_id: Option<String>,
    /// Whether someone holds it.
    pub held: bool,
}

impl NodeNow {
    /// As `state --json` prints it.
    pub fn json(&self) -> String {
        node_state(&NodeState {
            mesh: &self.key.mesh,
            node: &self.key.node,
            time: self.time,
            severity: self.severity,
            symptoms: &self.symptoms,
            state: self.state,
            phi: self.phi,
            interval_s: self.interval_s,
            last_seen: self.last_seen,
            incident_id: self.incident_id.as_deref(),
            held: self.held,
        })
    }
}

/// Where the nodes stand could not be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NowError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The rows.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows were written while they were read.
    #[error("reading rows: the loop writes them too often; ask again, or for fewer nodes")]
    Moved,
    /// An event that cannot be evolved.
    #[error(
        "reading record {offset} of {of}: {detail}; `homeostat replay --events-only` looks closer"
    )]
    Event {
        /// Where it stands.
        of: TopicPartition,
        /// At which offset.
        offset: i64,
        /// What is wrong with it.
        detail: String,
    },
}

/// Plan's rows at the end of `events`, over those in a store, and Analyze's beside them.
pub struct Now {
    /// Where its events stand.
    of: TopicPartition,
    ledger: Ledger,
    /// `None`: there are no rows, all is evolved.
    plan: Option<Rc<Below>>,
    /// Up to where Plan's rows hold `events`; `None`: they are not read.
    evolved: Option<i64>,
    heard: BTreeMap<i32, (Table<NodeKey, analyze::NodeRow>, Rc<Below>)>,
    partitions: i32,
    time: Time,
}

/// The rows of both stages that a process holds, by partition.
#[derive(Clone)]
pub struct StageRows {
    /// Partitions of every topic.
    pub partitions: i32,
    /// Plan's.
    pub plan: Vec<(i32, Rc<dyn Store>)>,
    /// Analyze's.
    pub analyze: Vec<(i32, Rc<dyn Store>)>,
}

impl StageRows {
    /// Those of the only partition.
    pub fn only(plan: Rc<dyn Store>, analyze: Rc<dyn Store>) -> Self {
        StageRows {
            partitions: 1,
            plan: vec![(0, plan)],
            analyze: vec![(0, analyze)],
        }
    }

    /// Those of Plan that know of a mesh: of one partition, or of all.
    fn plan_of(&self, mesh: Option<&MeshId>) -> impl Iterator<Item = &(i32, Rc<dyn Store>)> {
        let wanted = partitions_for(Topic::Events, mesh, None, self.partitions);
        let is_wanted =
            move |(held, _): &&(i32, Rc<dyn Store>)| wanted.iter().any(|of| of.partition == *held);
        self.plan.iter().filter(is_wanted)
    }
}

impl Now {
    /// Reads Plan's rows of a partition, those of Analyze, and what `events` says since.
    ///
    /// # Errors
    /// Rows or events cannot be read, or [`NowError::Moved`].
    pub fn read(
        partition: i32,
        plan: &Rc<dyn Store>,
        rows: &StageRows,
        source: &mut dyn Source,
    ) -> Result<Now, NowError> {
        let mut now = Now::open(partition, plan, rows)?;
        now.evolve(source)?;
        Ok(now)
    }

    /// What Plan knows alone: of its rows and of what `events` says since; without rows, of all
    /// that `events` says.
    ///
    /// # Errors
    /// As [`Now::read`].
    pub fn of_plan(
        partition: i32,
        plan: Option<&Rc<dyn Store>>,
        partitions: i32,
        source: &mut dyn Source,
    ) -> Result<Now, NowError> {
        let mut now = match plan {
            Some(plan) => {
                let rows = StageRows {
                    partitions,
                    plan: Vec::new(),
                    analyze: Vec::new(),
                };
                Now::open(partition, plan, &rows)?
            }
            None => {
                let base: Rc<dyn Base> = Rc::new(NoBase);
                Now {
                    of: TopicPartition {
                        topic: Topic::Events,
                        partition,
                    },
                    ledger: Ledger::new(&base),
                    plan: None,
                    evolved: None,
                    heard: BTreeMap::new(),
                    partitions,
                    time: Time::default(),
                }
            }
        };
        now.evolve(source)?;
        Ok(now)
    }

    /// The rows as they stand.
    fn open(partition: i32, plan: &Rc<dyn Store>, rows: &StageRows) -> Result<Now, NowError> {
        let mark = mark_of(&**plan)?.filter(|mark| mark.encoding == u32::from(LEDGER_VERSION));
        let below = Rc::new(Below::new(plan.clone()));
        let base: Rc<dyn Base> = match mark {
            Some(_) => below.clone(),
            None => Rc::new(NoBase),
        };
        let position_of = |mark: &Mark| mark.position.map(|position| position.time);
        let mut time = mark.as_ref().and_then(position_of);
        let mut heard = BTreeMap::new();
        for (partition, store) in &rows.analyze {
            let mark = mark_of(&**store)?.filter(|mark| mark.encoding == analyze::ENCODING);
            if let Some(mark) = mark {
                time = time.max(position_of(&mark));
                let below = Rc::new(Below::new(store.clone()));
                let base: Rc<dyn Base> = below.clone();
                heard.insert(*partition, (analyze::nodes_in(&base), below));
            }
        }
        Ok(Now {
            of: TopicPartition {
                topic: Topic::Events,
                partition,
            },
            ledger: Ledger::new(&base),
            plan: Some(below),
            heard,
            partitions: rows.partitions,
            time: time.unwrap_or_default(),
            evolved: mark.map(|mark| mark.evolved),
        })
    }

    /// The nodes asked for, in order.
    ///
    /// # Errors
    /// Rows cannot be read.
    pub fn nodes(&self, asked: &Asked) -> Result<Vec<NodeNow>, NowError> {
        let mut nodes = Vec::new();
        each(&self.ledger, asked, &mut |key, row| {
            let mut node = node_now(&self.ledger, key, row, self.time);
            let partition = partition_of(key.node.as_str().as_bytes(), self.partitions);
            let heard = self.heard.get(&partition);
            if let Some(row) = heard.and_then(|(rows, _)| rows.get(key))
                && let Some(heard) = row.heard()
            {
                node.phi = row.phi();
                node.last_seen = heard;
            }
            nodes.push(node);
        });
        if let Some(plan) = &self.plan {
            plan.check()?;
        }
        for (_, below) in self.heard.values() {
            below.check()?;
        }
        Ok(nodes)
    }

    /// Plan's rows, for who asks more than where nodes stand; [`Now::check`] says afterwards
    /// whether they told the truth.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The same, to be asked what would be decided: nothing of it reaches the rows.
    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Whether every read of Plan's rows so far told the truth.
    ///
    /// # Errors
    /// One failed, or the rows were written meanwhile.
    pub fn check(&self) -> Result<(), NowError> {
        let Some(plan) = &self.plan else {
            return Ok(());
        };
        plan.check()?;
        let Some(evolved) = self.evolved else {
            return Ok(());
        };
        match mark_of(plan.store())? {
            Some(mark) if mark.evolved == evolved => Ok(()),
            _ => Err(NowError::Moved),
        }
    }

    /// The moment: append time of the last record that is known of.
    pub fn time(&self) -> Time {
        self.time
    }

    fn evolve(&mut self, source: &mut dyn Source) -> Result<(), NowError> {
        let of = self.of;
        let end = source.end(of)?;
        let mut next = self.evolved.unwrap_or(0);
        while next < end {
            let chunk = source.read(of, next, end, CHUNK_RECORDS)?;
            for record in &chunk.records {
                let wrong = |detail: String| NowError::Event {
                    of,
                    offset: record.offset,
                    detail,
                };
                let event = wire::decode_event(&record.value).map_err(|e| wrong(e.to_string()))?;
                let expected = next_seq(&self.ledger, &event.mesh);
                self.check()?;
                if event.seq != expected {
                    let (mesh, seq) = (&event.mesh, event.seq);
                    return Err(wrong(format!(
                        "seq {seq} of mesh {mesh:?}, expected {expected}"
                    )));
                }
                evolve(&mut self.ledger, &event);
                self.check()?;
                self.time = self.time.max(event.time);
            }
            next = chunk.next;
        }
        Ok(())
    }
}

/// Where the nodes asked for stand now, of those that these rows know.
///
/// # Errors
/// Rows or events cannot be read.
pub fn nodes(
    rows: &StageRows,
    source: &mut dyn Source,
    asked: &Asked,
) -> Result<Vec<NodeNow>, NowError> {
    let mut all = Vec::new();
    let mut partitions = 0;
    for (partition, plan) in rows.plan_of(asked.mesh.as_ref()) {
        all.extend(nodes_of(*partition, plan, rows, source, asked)?);
        partitions += 1;
    }
    if partitions > 1 {
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.truncate(asked.limit);
    }
    Ok(all)
}

fn nodes_of(
    partition: i32,
    plan: &Rc<dyn Store>,
    rows: &StageRows,
    source: &mut dyn Source,
    asked: &Asked,
) -> Result<Vec<NodeNow>, NowError> {
    for _ in 0..TRIES {
        let told = Now::read(partition, plan, rows, source).and_then(|now| {
            let nodes = now.nodes(asked)?;
            now.check()?;
            Ok(nodes)
        });
        match told {
            Err(NowError::Moved) => {}
            told => return told,
        }
    }
    Now::open(partition, plan, rows)?.nodes(asked)
}

/// The nodes asked for as Plan's rows alone know them: at a past moment phi and when it was last
/// seen are its last event's.
pub fn known(ledger: &Ledger, time: Time, asked: &Asked) -> Vec<NodeNow> {
    let mut nodes = Vec::new();
    each(ledger, asked, &mut |key, row| {
        nodes.push(node_now(ledger, key, row, time));
    });
    nodes
}

/// Seq of a mesh's next event, as far as the rows say.
pub fn next_seq(ledger: &Ledger, mesh: &MeshId) -> i64 {
    match mesh.is_none() {
        true => ledger.partition().next_seq,
        false => ledger.meshes.get(mesh).map_or(0, |row| row.next_seq),
    }
}

fn node_now(ledger: &Ledger, key: &NodeKey, row: &NodeRow, time: Time) -> NodeNow {
    NodeNow {
        key: key.clone(),
        time,
        severity: row.severity(),
        symptoms: row.assessment.symptoms(),
        state: row.assessment.settled,
        phi: row.assessment.phi,
        interval_s: row.told_interval_s,
        last_seen: row.last_event,
        incident_id: row.incident.as_ref().map(|incident| incident.id.clone()),
        held: row.hold.is_some() || ledger.mesh_hold(&key.mesh).is_some(),
    }
}

/// Walks the nodes asked for. A name without a mesh is looked up in each mesh: no walk over all
/// nodes.
fn each(ledger: &Ledger, asked: &Asked, found: &mut dyn FnMut(&NodeKey, &NodeRow)) {
    let mut left = asked.limit;
    match (&asked.mesh, &asked.node) {
        (mesh, Some(node)) => {
            let mut next = match mesh {
                Some(mesh) => Some(mesh.clone()),
                None => mesh_after(ledger, &MeshId::none()),
            };
            while let Some(of) = next.filter(|_| left > 0) {
                next = mesh.is_none().then(|| mesh_after(ledger, &of)).flatten();
                let key = NodeKey {
                    mesh: of,
                    node: node.clone(),
                };
                let wanted = asked.after.as_ref().is_none_or(|after| key > *after);
                if let Some(row) = ledger.nodes.get(&key).filter(|_| wanted) {
                    found(&key, &row);
                    left -= 1;
                }
            }
        }
        (mesh, None) => {
            let first = before_all(mesh.clone().unwrap_or_else(MeshId::none));
            let mut key = asked.after.clone().map_or(first.clone(), |a| a.max(first));
            let within = |key: &NodeKey| mesh.as_ref().is_none_or(|mesh| key.mesh == *mesh);
            // The least name may be a node's.
            if asked.after.is_none()
                && left > 0
                && let Some(row) = ledger.nodes.get(&key)
            {
                found(&key, &row);
                left -= 1;
            }
            while left > 0
                && let Some((next, row)) = ledger.nodes.next(&key)
                && within(&next)
            {
                found(&next, &row);
                key = next;
                left -= 1;
            }
        }
    }
}

fn mesh_after(ledger: &Ledger, mesh: &MeshId) -> Option<MeshId> {
    ledger.meshes.next(mesh).map(|(mesh, _)| mesh)
}

/// The least key of a mesh.
fn before_all(mesh: MeshId) -> NodeKey {
    let node = NodeId::parse("\0").expect("the least name is a name");
    NodeKey { mesh, node }
}

/// Events read at a time.
const CHUNK_RECORDS: usize = 4096;

/// How often it is tried to read rows that are written meanwhile.
const TRIES: usize = 5;
