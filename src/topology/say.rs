//! What people say to Plan, on its way to `plan-inbox`: who is meant, and what it will cause.
//!
//! 1. What is known stands as Plan's rows say, brought to the end of `events`; where no rows are
//!    given, as all events say.
//! 2. What waits in the inbox before it is decided on that, in memory, and what is due by time.
//! 3. A name is looked up, and Plan decides the record, in memory again: what it would reject is
//!    refused here, while the person is still there, and what would change nothing is not sent.
//!
//! What others say meanwhile may change the answer: the record that Plan folds decides. Of a mesh
//! whose rows are not given here only the words are judged.

use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::model::{
    Approval, Body, Cause, Event, Hold, HoldRow, HoldScope, MeshId, NodeId, NodeKey, NodeRow,
    PlanRecord, Policy, PolicyChange, PolicyId, Reason, Time, Waiting, edit_distance,
};
use crate::plan::Plan;
#[cfg(feature = "io")]
use crate::runtime::Incoming;
use crate::runtime::{LogError, Position, Source, Store, TopicPartition, partition_of};
use crate::stream::{At, EVENTS_PER_RECORD, Ledger, Reject, Topic};
use crate::wire;

use super::now::{Now, NowError};
use super::plan::plan;

/// What a person says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Put this policy in force, for a mesh or (the empty one) for all.
    Policy {
        /// For which mesh.
        mesh: MeshId,
        /// Its text.
        text: String,
    },
    /// Order nothing here.
    Hold {
        /// For whom.
        whom: Whom,
        /// How long, ms; `None` until released.
        for_ms: Option<i64>,
        /// Commitment to the reason; empty without one.
        reason: String,
    },
    /// End a hold, and a mesh's storm.
    Release {
        /// For whom.
        whom: Whom,
    },
    /// Yes or no to a proposal.
    Answer {
        /// The id of the `DirectiveWithheld` that proposes it.
        id: String,
        /// Yes.
        approved: bool,
    },
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All meshes.
    All,
    /// A whole mesh.
    Mesh(MeshId),
    /// One node.
    Node(NodeKey),
    /// As it was typed: a mesh, a node by its id, or `MESH/NODE`.
    Named(String),
}

/// What is to be appended to `plan-inbox`, and what a person is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// The record; `None` when it would change nothing.
    pub record: Option<PlanRecord>,
    /// Its time, where records bear the samples' own.
    pub time: Time,
    /// Whose it is; the empty one: it goes to every partition.
    pub mesh: MeshId,
    /// The node, if it is about one.
    pub node: Option<NodeId>,
    /// What it does, a sentence a line.
    pub words: Vec<String>,
}

impl Ready {
    /// What is appended, if anything is; for all meshes to every partition.
    #[cfg(feature = "io")]
    pub fn incoming(&self) -> Option<Incoming> {
        Some(Incoming {
            time: self.time,
            key: self.mesh.as_str().as_bytes().to_vec(),
            value: wire::encode_plan(self.record.as_ref()?),
        })
    }

    /// As a program reads it, once it is durable.
    pub fn json(&self, by: &str) -> String {
        let mut told = serde_json::json!({
            "accepted": i32::from(self.record.is_some()),
            "mesh_id": self.mesh.as_str(),
            "by": by,
            "words": self.words,
        });
        if let Some(node) = &self.node {
            told["node_id"] = node.as_str().into();
        }
        told.to_string()
    }
}

/// What stands in a leaf for words that must not: nobody can find them from it without the salt,
/// and who kept both can prove them.
pub fn commitment(salt: &[u8; 32], words: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"homeostat/commit/v1\n");
    hash.update(salt);
    hash.update(words);
    hex(&hash.finalize())
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why something that was said is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SayError {
    /// It means nothing.
    #[error("{0}")]
    Bad(String),
    /// It is about something that is not there.
    #[error("{0}")]
    Unknown(String),
    /// It does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// What is there cannot be told.
    #[error(transparent)]
    Now(#[from] NowError),
}

impl From<LogError> for SayError {
    fn from(error: LogError) -> Self {
        SayError::Now(NowError::Log(error))
    }
}

/// Where what is known of the meshes is read.
pub struct Known<'a> {
    /// Partitions of every topic.
    pub partitions: i32,
    /// Plan's rows that are at hand, by partition; `None`: all is read from the events.
    pub rows: Option<&'a [(i32, Rc<dyn Store>)]>,
    /// The log.
    pub source: &'a mut dyn Source,
    /// Append time, about; `None` where records bear the samples' own time.
    pub now: Option<Time>,
}

impl Known<'_> {
    /// Judges what `by` says.
    ///
    /// # Errors
    /// See [`SayError`].
    pub fn judge(&mut self, said: &Said, by: &str) -> Result<Ready, SayError> {
        if let Said::Policy { text, .. } = said {
            Policy::parse(text).map_err(|error| SayError::Bad(error.to_string()))?;
        }
        for _ in 1..TRIES {
            match self.try_judge(said, by) {
                Err(SayError::Now(NowError::Moved)) => {}
                judged => return judged,
            }
        }
        self.try_judge(said, by)
    }

    fn try_judge(&mut self, said: &Said, by: &str) -> Result<Ready, SayError> {
        let mut minds = self.minds(&wanted(said))?;
        let judged = say(&mut minds, self.is_whole(), said, by);
        for mind in &minds {
            mind.now.check()?;
        }
        judged
    }

    /// The policies in force: of all meshes (the empty one) and of each.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn policies(&mut self) -> Result<Vec<InForce>, NowError> {
        for _ in 1..TRIES {
            match self.try_policies() {
                Err(NowError::Moved) => {}
                told => return told,
            }
        }
        self.try_policies()
    }

    fn try_policies(&mut self) -> Result<Vec<InForce>, NowError> {
        let mut all: Vec<InForce> = Vec::new();
        for mind in self.minds(&Wanted::All)? {
            let ledger = mind.now.ledger();
            let for_all = ledger.partition().policy.clone();
            if all.is_empty() {
                all.push(InForce::of(MeshId::none(), for_all.as_ref()));
            }
            let mut mesh = MeshId::none();
            while let Some((next, row)) = ledger.meshes.next(&mesh) {
                // It is taken over before the mesh's next decision.
                let newer = for_all
                    .as_ref()
                    .filter(|for_all| for_all.generation > row.taken_generation);
                all.push(match newer {
                    Some(newer) => InForce {
                        generation: row.policy.generation + 1,
                        ..InForce::of(next.clone(), Some(newer))
                    },
                    None => InForce::of(next.clone(), Some(&row.policy)),
                });
                mesh = next;
            }
            mind.now.check()?;
        }
        all.sort_by(|a, b| a.mesh.cmp(&b.mesh));
        Ok(all)
    }

    /// Whether every mesh is known of here.
    fn is_whole(&self) -> bool {
        self.rows
            .is_none_or(|rows| rows.len() == self.partitions as usize)
    }

    fn minds(&mut self, wanted: &Wanted) -> Result<Vec<Mind>, NowError> {
        let partitions: Vec<i32> = match wanted {
            Wanted::Nothing => Vec::new(),
            Wanted::Any => {
                let held = self.rows.and_then(|rows| rows.first());
                vec![held.map_or(0, |(partition, _)| *partition)]
            }
            Wanted::Mesh(mesh) => vec![partition_of(mesh.as_str().as_bytes(), self.partitions)],
            Wanted::All => (0..self.partitions).collect(),
        };
        let mut minds = Vec::new();
        for partition in partitions {
            let store = match self.rows {
                None => None,
                Some(rows) => match rows.iter().find(|(held, _)| *held == partition) {
                    Some((_, store)) => Some(store),
                    None => continue,
                },
            };
            minds.push(Mind::read(
                partition,
                store,
                self.partitions,
                self.source,
                self.now,
            )?);
        }
        Ok(minds)
    }
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// In which mesh; the empty one: in meshes that are opened from now on.
    pub mesh: MeshId,
    /// Its name.
    pub id: PolicyId,
    /// How many came before it there; 0: the engine's built-in one.
    pub generation: i64,
    /// Its text.
    pub text: String,
}

impl InForce {
    /// As a program reads it.
    pub fn json(&self) -> String {
        serde_json::json!({
            "mesh_id": self.mesh.as_str(),
            "policy_id": self.id.to_string(),
            "policy_generation": self.generation,
            "text": self.text,
        })
        .to_string()
    }

    fn of(mesh: MeshId, policy: Option<&crate::model::PolicyInForce>) -> Self {
        let (id, generation, text) = match policy {
            Some(policy) => (policy.id, policy.generation, policy.text.clone()),
            None => (Policy::id(Policy::BUILT_IN), 0, Policy::BUILT_IN.to_owned()),
        };
        InForce {
            mesh,
            id,
            generation,
            text,
        }
    }
}

/// Whose rows are needed.
enum Wanted {
    Nothing,
    /// Of one partition: what is said for all stands in each.
    Any,
    Mesh(MeshId),
    All,
}

fn wanted(said: &Said) -> Wanted {
    match said {
        Said::Policy { mesh, .. } if mesh.is_none() => Wanted::Any,
        Said::Policy { mesh, .. } => Wanted::Mesh(mesh.clone()),
        Said::Hold { whom, .. } | Said::Release { whom } => match whom {
            Whom::All => Wanted::Any,
            Whom::Mesh(mesh) => Wanted::Mesh(mesh.clone()),
            Whom::Node(key) => Wanted::Mesh(key.mesh.clone()),
            Whom::Named(name) if name.is_empty() => Wanted::Nothing,
            Whom::Named(_) => Wanted::All,
        },
        Said::Answer { .. } => Wanted::All,
    }
}

/// What Plan knows of a partition, to be asked what it would decide.
struct Mind {
    plan: Plan,
    now: Now,
    partition: i32,
    /// Append time of what is said now.
    time: Time,
}

impl Mind {
    fn read(
        partition: i32,
        store: Option<&Rc<dyn Store>>,
        partitions: i32,
        source: &mut dyn Source,
        time: Option<Time>,
    ) -> Result<Mind, NowError> {
        let inbox = TopicPartition {
            topic: Topic::PlanInbox,
            partition,
        };
        // Before the events: what is decided twice changes nothing more.
        let position = source.position(inbox)?;
        let now = Now::of_plan(partition, store, partitions, source)?;
        let mut mind = Mind {
            plan: plan(),
            time: now.time(),
            now,
            partition,
        };
        mind.catch_up(inbox, position, source)?;
        mind.time = time.unwrap_or(mind.time).max(mind.time);
        mind.ring(&MeshId::none())?;
        Ok(mind)
    }

    /// Decides what waits in the inbox, as much of it as is looked at.
    fn catch_up(
        &mut self,
        inbox: TopicPartition,
        position: Option<Position>,
        source: &mut dyn Source,
    ) -> Result<(), NowError> {
        let start = source.start(inbox)?;
        let mut next = position.map_or(start, |position| position.next.max(start));
        let end = source.end(inbox)?.min(next + PENDING_MAX);
        while next < end {
            let chunk = source.read(inbox, next, end, CHUNK_RECORDS)?;
            for record in &chunk.records {
                if let Ok(said) = wire::decode_plan(&record.value) {
                    self.time = self.time.max(record.time);
                    // What is rejected here becomes a dead letter there.
                    let _ = self.decide(&said)?;
                }
            }
            next = chunk.next;
        }
        Ok(())
    }

    fn decide(&mut self, record: &PlanRecord) -> Result<Result<Vec<Event>, Reject>, NowError> {
        self.now.check()?;
        let at = self.at();
        let ledger = self.now.ledger_mut();
        ledger.begin();
        let decided = self.plan.decide(ledger, &at, record);
        if decided.is_err() {
            ledger.rollback();
        }
        Ok(decided)
    }

    /// Does what is due in a mesh by time.
    fn ring(&mut self, mesh: &MeshId) -> Result<(), NowError> {
        self.now.check()?;
        let at = self.at();
        let ledger = self.now.ledger_mut();
        let due = self.plan.wake_at(ledger, &at, mesh);
        if due.is_some_and(|due| due <= at.now) {
            ledger.begin();
            self.plan.wake(ledger, &at, mesh, EVENTS_PER_RECORD);
        }
        Ok(())
    }

    fn at(&self) -> At {
        At {
            now: self.time,
            hears_since: self.time,
            cause: Cause {
                topic: Topic::PlanInbox.name().to_owned(),
                partition: self.partition,
                offset: 0,
            },
        }
    }

    fn ledger(&self) -> &Ledger {
        self.now.ledger()
    }

    fn meshes(&self) -> impl Iterator<Item = MeshId> {
        let mut mesh = MeshId::none();
        std::iter::from_fn(move || {
            mesh = self.ledger().meshes.next(&mesh)?.0;
            Some(mesh.clone())
        })
    }

    fn nodes(&self) -> impl Iterator<Item = (NodeKey, Rc<NodeRow>)> {
        let none = MeshId::none();
        let least = NodeId::parse("\0").expect("the least name is a name");
        let mut key = NodeKey {
            mesh: none,
            node: least,
        };
        std::iter::from_fn(move || {
            let (next, row) = self.ledger().nodes.next(&key)?;
            key = next.clone();
            Some((next, row))
        })
    }
}

/// What may still be asked of minds that are not all there.
fn say(minds: &mut [Mind], whole: bool, said: &Said, by: &str) -> Result<Ready, SayError> {
    let record = match said {
        Said::Policy { mesh, text } => PlanRecord::PolicyChange(PolicyChange {
            mesh: mesh.clone(),
            text: text.clone(),
            by: by.to_owned(),
        }),
        Said::Hold {
            whom,
            for_ms,
            reason,
        } => PlanRecord::Hold(Hold {
            scope: scope(minds, whole, whom)?,
            release: false,
            for_ms: *for_ms,
            by: by.to_owned(),
            reason: reason.clone(),
        }),
        Said::Release { whom } => PlanRecord::Hold(Hold {
            scope: scope(minds, whole, whom)?,
            release: true,
            for_ms: None,
            by: by.to_owned(),
            reason: String::new(),
        }),
        Said::Answer { id, approved } => {
            PlanRecord::Approval(approval(minds, whole, id, *approved, by)?)
        }
    };
    let (mesh, node) = match &record {
        PlanRecord::PolicyChange(change) => (change.mesh.clone(), None),
        PlanRecord::Hold(hold) => (hold.scope.mesh.clone(), hold.scope.node.clone()),
        PlanRecord::Approval(approval) => (approval.mesh.clone(), Some(approval.node.clone())),
        _ => unreachable!("nothing else is said"),
    };
    let knows = |mind: &Mind| mesh.is_none() || mind.ledger().meshes.get(&mesh).is_some();
    let at = minds.iter().position(knows).or_else(|| {
        // It is of the one partition that was read, and unknown there.
        (minds.len() == 1).then_some(0)
    });
    let Some(at) = at else {
        let whom = all_or(&mesh);
        let words = vec![format!(
            "{whom}: of a partition that this process does not hold: whether it is known is not \
             judged here; `homeostat events` shows what Plan says"
        )];
        return Ok(Ready {
            record: Some(record),
            time: Time(1),
            mesh,
            node,
            words,
        });
    };
    let others: &[Mind] = minds;
    let near = near(others, mesh.as_str());
    let mind = &mut minds[at];
    mind.ring(&mesh)?;
    let before = Held::of(mind.ledger(), &record);
    let decided = mind.decide(&record)?;
    let events = decided.map_err(|reject| refused(&reject, near))?;
    let after = Held::of(mind.ledger(), &record);
    let (keep, words) = match &record {
        PlanRecord::PolicyChange(change) => policy_words(change, &events),
        PlanRecord::Hold(hold) if hold.release => released(&hold.scope, &events, &before)?,
        PlanRecord::Hold(hold) => (true, held(&hold.scope, &before, &after)),
        PlanRecord::Approval(approval) => (true, answered(approval, &events)),
        _ => (true, Vec::new()),
    };
    Ok(Ready {
        record: keep.then_some(record),
        time: mind.time,
        mesh,
        node,
        words,
    })
}

fn refused(reject: &Reject, near: String) -> SayError {
    match reject.reason {
        "unknown_mesh" | "unknown_node" => SayError::Unknown(format!("{}{near}", reject.detail)),
        "unknown_proposal" => SayError::Unknown(reject.detail.clone()),
        "log_not_opened" => SayError::Conflict(reject.detail.clone()),
        _ => SayError::Bad(reject.detail.clone()),
    }
}

fn policy_words(change: &PolicyChange, events: &[Event]) -> (bool, Vec<String>) {
    let id = Policy::id(&change.text);
    let whom = all_or(&change.mesh);
    let generation = events.iter().find_map(|event| match &event.body {
        Body::Adopted {
            policy_generation,
            taken_over: false,
            ..
        } => Some(*policy_generation),
        _ => None,
    });
    match generation {
        Some(generation) => (
            true,
            vec![format!(
                "policy {id} is proposed for {whom}: it is generation {generation} once adopted"
            )],
        ),
        None => (
            false,
            vec![format!(
                "policy {id} is in force for {whom} already: nothing was sent"
            )],
        ),
    }
}

/// The holds that bear on a scope: its own, its mesh's, that of all.
#[derive(Clone, Debug, Default)]
struct Held {
    own: Option<HoldRow>,
    /// Of what it lies in, with its name.
    around: Vec<(String, HoldRow)>,
}

impl Held {
    fn of(ledger: &Ledger, record: &PlanRecord) -> Held {
        let PlanRecord::Hold(hold) = record else {
            return Held::default();
        };
        let HoldScope { mesh, node } = &hold.scope;
        let all = ledger.partition().hold.clone();
        if mesh.is_none() {
            let around = Vec::new();
            return Held { own: all, around };
        }
        let of_mesh = ledger.meshes.get(mesh).and_then(|row| row.hold.clone());
        let mut around: Vec<_> = all
            .map(|all| ("all meshes".to_owned(), all))
            .into_iter()
            .collect();
        let Some(node) = node else {
            return Held {
                own: of_mesh,
                around,
            };
        };
        around.extend(of_mesh.map(|hold| (format!("mesh {mesh}"), hold)));
        let key = NodeKey {
            mesh: mesh.clone(),
            node: node.clone(),
        };
        let own = ledger.nodes.get(&key).and_then(|row| row.hold.clone());
        Held { own, around }
    }

    fn around(&self) -> impl Iterator<Item = String> {
        self.around
            .iter()
            .map(|(what, hold)| format!("{what} is held too, {}", until(hold)))
    }
}

fn held(scope: &HoldScope, before: &Held, after: &Held) -> Vec<String> {
    let whom = called(scope);
    let end = after.own.as_ref().map_or(String::new(), until);
    let mut words = vec![match &before.own {
        None => format!("{whom} is held {end}"),
        Some(hold) => format!(
            "{whom} was held already, {}; of holds that overlap the longer one counts: it is held \
             {end}",
            until(hold)
        ),
    }];
    words.extend(after.around());
    words
}

fn released(
    scope: &HoldScope,
    events: &[Event],
    before: &Held,
) -> Result<(bool, Vec<String>), SayError> {
    let whom = called(scope);
    if events.is_empty() {
        let around: Vec<String> = before
            .around()
            .map(|held| format!("; {held}: release that"))
            .collect();
        return Err(SayError::Conflict(format!(
            "nothing to release: {whom} has no hold of its own{}; `homeostat state` shows who is \
             held",
            around.concat()
        )));
    }
    let storm = events
        .iter()
        .any(|event| matches!(event.body, Body::IncidentClosed { .. }));
    let mut words = vec![match (&before.own, storm) {
        (Some(_), false) => format!("{whom} is released: what waited is judged again"),
        (Some(_), true) => {
            format!("{whom} is released and its storm ended: what waited is judged again")
        }
        (None, _) => format!("the storm of {whom} is ended: what waited is judged again"),
    }];
    words.extend(before.around());
    Ok((true, words))
}

fn answered(approval: &Approval, events: &[Event]) -> Vec<String> {
    let Approval { mesh, node, .. } = approval;
    if !approval.approved {
        return vec![format!("the proposal for {mesh}/{node} is rejected")];
    }
    let ordered = events
        .iter()
        .any(|event| matches!(event.body, Body::DirectiveIssued { .. }));
    vec![match ordered {
        true => format!("the proposal for {mesh}/{node} is approved and can be ordered at once"),
        false => format!(
            "the proposal for {mesh}/{node} is approved; it is not ordered at once: `homeostat \
             events --node {node}` says why"
        ),
    }]
}

fn until(hold: &HoldRow) -> String {
    match hold.until {
        Some(until) => format!("until {until}"),
        None => "until it is released".to_owned(),
    }
}

fn called(scope: &HoldScope) -> String {
    match &scope.node {
        Some(node) => format!("{}/{node}", scope.mesh),
        None if scope.mesh.is_none() => "every mesh".to_owned(),
        None => format!("mesh {}", scope.mesh),
    }
}

fn all_or(mesh: &MeshId) -> String {
    match mesh.is_none() {
        true => "all meshes".to_owned(),
        false => format!("mesh {mesh}"),
    }
}

/// Whom a hold is for.
fn scope(minds: &[Mind], whole: bool, whom: &Whom) -> Result<HoldScope, SayError> {
    let name = match whom {
        Whom::All => {
            let (mesh, node) = (MeshId::none(), None);
            return Ok(HoldScope { mesh, node });
        }
        Whom::Mesh(mesh) => {
            let mesh = mesh.clone();
            return Ok(HoldScope { mesh, node: None });
        }
        Whom::Node(NodeKey { mesh, node }) => {
            let (mesh, node) = (mesh.clone(), Some(node.clone()));
            return Ok(HoldScope { mesh, node });
        }
        Whom::Named(name) => name,
    };
    let mut found = bearing(minds, name);
    match (found.pop(), found.is_empty()) {
        (Some(scope), true) => Ok(scope),
        (None, _) => Err(SayError::Unknown(format!(
            "no node or mesh {name:?} was heard{}{}",
            near(minds, name),
            elsewhere(whole)
        ))),
        (Some(last), false) => {
            found.push(last);
            let all: Vec<String> = found.iter().take(CANDIDATES_MAX).map(called).collect();
            Err(SayError::Conflict(format!(
                "{name:?} may be {}: name one, as MESH/NODE or with --mesh and --node",
                all.join(" or ")
            )))
        }
    }
}

/// Everything that a name may mean.
fn bearing(minds: &[Mind], name: &str) -> Vec<HoldScope> {
    let mut found = Vec::new();
    let split = |at: usize| Some((MeshId::parse(&name[..at])?, NodeId::parse(&name[at + 1..])?));
    for mind in minds {
        let ledger = mind.ledger();
        let mut node = |mesh: &MeshId, node: NodeId| {
            let (mesh, of) = (mesh.clone(), node.clone());
            let key = NodeKey { mesh, node: of };
            if ledger.nodes.get(&key).is_some() {
                let (mesh, node) = (key.mesh, Some(node));
                found.push(HoldScope { mesh, node });
            }
        };
        for (at, _) in name.match_indices('/') {
            if let Some((mesh, of)) = split(at) {
                node(&mesh, of);
            }
        }
        if let Some(of) = NodeId::parse(name) {
            for mesh in mind.meshes() {
                node(&mesh, of.clone());
            }
        }
        if let Some(mesh) = MeshId::parse(name).filter(|mesh| !mesh.is_none())
            && ledger.meshes.get(&mesh).is_some()
        {
            found.push(HoldScope { mesh, node: None });
        }
    }
    found
}

/// The names nearest to one that nothing bears.
fn near(minds: &[Mind], name: &str) -> String {
    let mut all: Vec<(usize, String)> = Vec::new();
    for mind in minds {
        let mut add = |distance, called| {
            all.push((distance, called));
            if all.len() > 2 * CANDIDATES_MAX {
                all.sort();
                all.truncate(CANDIDATES_MAX);
            }
        };
        for mesh in mind.meshes().take(NAMES_MAX) {
            add(edit_distance(name, mesh.as_str()), format!("mesh {mesh}"));
        }
        for (key, _) in mind.nodes().take(NAMES_MAX) {
            let whole = key.to_string();
            let distance = edit_distance(name, key.node.as_str()).min(edit_distance(name, &whole));
            add(distance, whole);
        }
    }
    all.sort();
    let nearest: Vec<String> = all.into_iter().map(|(_, name)| name).take(3).collect();
    match nearest.is_empty() {
        true => "; nothing was heard so far".to_owned(),
        false => format!("; near to it: {}", nearest.join(", ")),
    }
}

fn elsewhere(whole: bool) -> &'static str {
    match whole {
        true => "",
        false => {
            "; this process holds the rows of some partitions only: ask the others too, or name \
             mesh and node where that is possible"
        }
    }
}

/// Answers the proposal that waits under this id.
fn approval(
    minds: &[Mind],
    whole: bool,
    id: &str,
    approved: bool,
    by: &str,
) -> Result<Approval, SayError> {
    let mut waiting = Vec::new();
    for (key, row) in minds.iter().flat_map(Mind::nodes) {
        let proposals = row.kinds.iter().filter_map(|kind| {
            let proposal = kind.waiting.as_ref().or(kind.parked.as_ref())?;
            (proposal.reason == Reason::NeedsApproval).then_some(proposal)
        });
        for Waiting { id: subject, .. } in proposals {
            if subject == id {
                return Ok(Approval {
                    mesh: key.mesh,
                    node: key.node,
                    subject: id.to_owned(),
                    approved,
                    by: by.to_owned(),
                });
            }
            waiting.push(format!("{subject} ({key})"));
        }
    }
    waiting.truncate(CANDIDATES_MAX);
    let others = match waiting.is_empty() {
        true => "nothing does".to_owned(),
        false => format!("these do: {}", waiting.join(", ")),
    };
    Err(SayError::Unknown(format!(
        "nothing waits for approval as {id:?}: it ran out, was answered, is not wished any more, \
         or never was (`homeostat explain {id}` tells); {others}{}",
        elsewhere(whole)
    )))
}

/// How often it is tried to read rows that are written meanwhile.
const TRIES: usize = 5;

/// Records that wait in an inbox and are looked at.
const PENDING_MAX: i64 = 100_000;

/// Records read at a time.
const CHUNK_RECORDS: usize = 4096;

/// Candidates that are named.
const CANDIDATES_MAX: usize = 8;

/// Names that are compared with one that nothing bears.
const NAMES_MAX: usize = 100_000;
