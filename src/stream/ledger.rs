//! Plan's tables: what `evolve` keeps and `decide` reads. A cache of `events`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{
    HoldRow, Kind, MeshId, MeshRow, NodeId, NodeKey, NodeRow, PartitionRow, Policy, PolicyError,
    PolicyId, PolicyInForce, Queue, Time,
};

use super::{Base, CLEAN_ROWS_MAX, Key, Row, RowError, Table, read_name, write_name};

/// The tables of one partition.
pub struct Ledger {
    /// One row: the partition itself.
    pub partition: Table<Whole, PartitionRow>,
    /// By mesh.
    pub meshes: Table<MeshId, MeshRow>,
    /// By mesh and node.
    pub nodes: Table<NodeKey, NodeRow>,
    /// Nodes by when something of them is due.
    pub agenda: Table<ByTime, ()>,
    /// Nodes with a budget slot by when it runs out.
    pub slots: Table<ByTime, ()>,
    /// What waits in a mesh's queues, oldest first.
    pub waiting: Table<InQueue, ()>,
    /// Policies by id, parsed: a memo of a pure function.
    parsed: RefCell<BTreeMap<PolicyId, Rc<Policy>>>,
}

/// Parsed policies kept at a time.
const PARSED_MAX: usize = 64;

/// The key of a table with one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whole;

/// A node of a mesh at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByTime {
    /// The mesh.
    pub mesh: MeshId,
    /// The time.
    pub at: Time,
    /// The node; `None` sorts before all.
    pub node: Option<NodeId>,
}

/// A node and kind in a queue of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InQueue {
    /// The mesh.
    pub mesh: MeshId,
    /// Which queue.
    pub queue: Queue,
    /// For [`Queue::Policy`] the generation that judged it, else 0: older ones are taken up.
    pub generation: i64,
    /// Since when.
    pub since: Time,
    /// The node; `None` sorts before all.
    pub node: Option<NodeId>,
    /// The kind.
    pub kind: Kind,
}

impl Ledger {
    /// The tables in `base`.
    pub fn new(base: &Rc<dyn Base>) -> Self {
        Ledger::keeping(base, CLEAN_ROWS_MAX)
    }

    /// The same, each table keeping about so many unchanged rows in memory.
    pub fn keeping(base: &Rc<dyn Base>, rows: usize) -> Self {
        Ledger {
            partition: Table::new(1, base.clone()),
            meshes: Table::new(2, base.clone()).with_clean_max(rows),
            nodes: Table::new(3, base.clone()).with_clean_max(rows),
            agenda: Table::new(4, base.clone()).with_clean_max(rows),
            slots: Table::new(5, base.clone()).with_clean_max(rows),
            waiting: Table::new(6, base.clone()).with_clean_max(rows),
            parsed: RefCell::default(),
        }
    }

    /// The policy in force in a mesh; the built-in one before the mesh is opened.
    pub fn policy(&self, mesh: &MeshId) -> Rc<Policy> {
        let row = self.meshes.get(mesh);
        let built_in = PolicyInForce::default();
        let in_force = row.as_ref().map_or(&built_in, |row| &row.policy);
        self.parse(in_force.id, &in_force.text)
            .expect("only a text that parses is adopted, and no release takes a key away")
    }

    /// The policy of a text with this id.
    ///
    /// # Errors
    /// As [`Policy::parse`].
    pub fn parse(&self, id: PolicyId, text: &str) -> Result<Rc<Policy>, PolicyError> {
        if let Some(policy) = self.parsed.borrow().get(&id) {
            return Ok(policy.clone());
        }
        let policy = Rc::new(Policy::parse(text)?);
        let mut parsed = self.parsed.borrow_mut();
        if parsed.len() >= PARSED_MAX {
            parsed.clear();
        }
        parsed.insert(id, policy.clone());
        Ok(policy)
    }

    /// The partition's row; empty before its log was opened.
    pub fn partition(&self) -> Rc<PartitionRow> {
        self.partition.get(&Whole).unwrap_or_default()
    }

    /// The hold that is on a whole mesh: of all meshes or its own, whichever lasts longer.
    pub fn mesh_hold(&self, mesh: &MeshId) -> Option<HoldRow> {
        let all = self.partition().hold.clone();
        let own = self.meshes.get(mesh).and_then(|row| row.hold.clone());
        match (all, own) {
            (Some(a), Some(b)) => {
                let end = |hold: &HoldRow| hold.until.unwrap_or(Time(i64::MAX));
                Some(if end(&a) >= end(&b) { a } else { b })
            }
            (a, b) => a.or(b),
        }
    }

    /// The first node of a mesh with something due, at any time.
    pub fn first_due(&self, mesh: &MeshId) -> Option<(Time, NodeId)> {
        first_by_time(&self.agenda, mesh)
    }

    /// When the first budget slot of a mesh after a time runs out.
    pub fn slot_after(&self, mesh: &MeshId, after: Time) -> Option<Time> {
        let at = |ms| ByTime {
            mesh: mesh.clone(),
            at: Time(ms),
            node: None,
        };
        let found = self
            .slots
            .first(&at(after.0.saturating_add(1)), &at(i64::MAX));
        found.map(|(key, _)| key.at)
    }

    /// How many nodes of a mesh may be acted on at a time.
    pub fn budget(&self, mesh: &MeshId) -> i64 {
        let nodes = self.meshes.get(mesh).map_or(0, |row| row.nodes);
        let plan = &self.policy(mesh).plan;
        let share = (nodes as f64 * plan.budget_percent / 100.0).floor() as i64;
        share.max(plan.budget_min)
    }

    /// The first budget slot of a mesh to run out.
    pub fn first_slot(&self, mesh: &MeshId) -> Option<(Time, NodeId)> {
        first_by_time(&self.slots, mesh)
    }

    /// How many nodes of a mesh are being acted on at a time.
    pub fn acting(&self, mesh: &MeshId, now: Time) -> i64 {
        let mut acting = self.meshes.get(mesh).map_or(0, |row| row.acting);
        let at = |ms| ByTime {
            mesh: mesh.clone(),
            at: Time(ms),
            node: None,
        };
        let (mut from, to) = (at(i64::MIN), at(now.0.saturating_add(1)));
        while let Some((slot, _)) = self.slots.after(&from, &to) {
            acting -= 1;
            from = slot;
        }
        acting
    }

    /// The oldest that waits in a queue; of [`Queue::Policy`] the oldest judged before
    /// `generation`.
    pub fn first_waiting(&self, mesh: &MeshId, queue: Queue, generation: i64) -> Option<InQueue> {
        let at = |generation| InQueue {
            mesh: mesh.clone(),
            queue,
            generation,
            since: Time(i64::MIN),
            node: None,
            kind: Kind::MonitoringInterval,
        };
        self.waiting
            .first(&at(i64::MIN), &at(generation))
            .map(|(key, _)| key)
    }

    /// See [`Table::begin`].
    pub fn begin(&mut self) {
        self.partition.begin();
        self.meshes.begin();
        self.nodes.begin();
        self.agenda.begin();
        self.slots.begin();
        self.waiting.begin();
    }

    /// See [`Table::rollback`].
    pub fn rollback(&mut self) {
        self.partition.rollback();
        self.meshes.rollback();
        self.nodes.rollback();
        self.agenda.rollback();
        self.slots.rollback();
        self.waiting.rollback();
    }

    /// See [`Table::changed`].
    pub fn changed(&self) -> usize {
        self.partition.changed()
            + self.meshes.changed()
            + self.nodes.changed()
            + self.agenda.changed()
            + self.slots.changed()
            + self.waiting.changed()
    }

    /// See [`Table::drain`].
    pub fn drain(&mut self, out: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        self.partition.drain(out);
        self.meshes.drain(out);
        self.nodes.drain(out);
        self.agenda.drain(out);
        self.slots.drain(out);
        self.waiting.drain(out);
    }
}

fn first_by_time(table: &Table<ByTime, ()>, mesh: &MeshId) -> Option<(Time, NodeId)> {
    let at = |ms| ByTime {
        mesh: mesh.clone(),
        at: Time(ms),
        node: None,
    };
    let (key, _) = table.first(&at(i64::MIN), &at(i64::MAX))?;
    Some((key.at, key.node?))
}

/// First byte of every row: another number is another encoding.
pub const LEDGER_VERSION: u8 = 2;

macro_rules! rows {
    ($($row:ty),*) => {$(
        impl Row for $row {
            fn write(&self, out: &mut Vec<u8>) {
                write_row(self, out);
            }

            fn read(bytes: &[u8]) -> Result<Self, RowError> {
                read_row(bytes)
            }
        }
    )*};
}
rows!(PartitionRow, MeshRow, NodeRow);

fn write_row<T: Serialize>(row: &T, out: &mut Vec<u8>) {
    out.push(LEDGER_VERSION);
    let bytes = postcard::to_allocvec(row).expect("rows have no unsized or unserialisable parts");
    out.extend(bytes);
}

fn read_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RowError> {
    match bytes.split_first() {
        Some((&LEDGER_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|e| RowError(e.to_string()))
        }
        other => Err(RowError(format!(
            "version {:?}, expected {LEDGER_VERSION}",
            other.map(|(version, _)| version)
        ))),
    }
}

impl Key for Whole {
    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(Whole)
    }
}

impl Key for MeshId {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(self.as_str(), out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (mesh, rest) = read_name(bytes)?;
        rest.is_empty().then(|| MeshId::parse(&mesh)).flatten()
    }
}

impl Key for NodeKey {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(self.mesh.as_str(), out);
        write_name(self.node.as_str(), out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (mesh, rest) = read_name(bytes)?;
        let (node, rest) = read_name(rest)?;
        rest.is_empty().then_some(())?;
        Some(NodeKey {
            mesh: MeshId::parse(&mesh)?,
            node: NodeId::parse(&node)?,
        })
    }
}

fn write_long(value: i64, out: &mut Vec<u8>) {
    out.extend(((value as u64) ^ (1 << 63)).to_be_bytes());
}

fn read_long(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (long, rest) = bytes.split_first_chunk::<8>()?;
    Some(((u64::from_be_bytes(*long) ^ (1 << 63)) as i64, rest))
}

fn write_node(node: Option<&NodeId>, out: &mut Vec<u8>) {
    write_name(node.map_or("", NodeId::as_str), out);
}

impl Key for ByTime {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(self.mesh.as_str(), out);
        write_long(self.at.0, out);
        write_node(self.node.as_ref(), out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (mesh, rest) = read_name(bytes)?;
        let (at, rest) = read_long(rest)?;
        let (node, rest) = read_name(rest)?;
        rest.is_empty().then_some(())?;
        Some(ByTime {
            mesh: MeshId::parse(&mesh)?,
            at: Time(at),
            node: NodeId::parse(&node),
        })
    }
}

impl Key for InQueue {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(self.mesh.as_str(), out);
        out.push(self.queue as u8);
        write_long(self.generation, out);
        write_long(self.since.0, out);
        write_node(self.node.as_ref(), out);
        out.push(self.kind as u8);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (mesh, rest) = read_name(bytes)?;
        let (&queue, rest) = rest.split_first()?;
        let queue = [Queue::Hold, Queue::Policy, Queue::Storm, Queue::Budget]
            .into_iter()
            .find(|q| *q as u8 == queue)?;
        let (generation, rest) = read_long(rest)?;
        let (since, rest) = read_long(rest)?;
        let (node, rest) = read_name(rest)?;
        let [kind] = *rest else { return None };
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == kind)?;
        Some(InQueue {
            mesh: MeshId::parse(&mesh)?,
            queue,
            generation,
            since: Time(since),
            node: NodeId::parse(&node),
            kind,
        })
    }
}
