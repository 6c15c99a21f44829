//! Records of the inboxes `metrics` and `plan-inbox`: everything that can change a decision.

use serde::{Deserialize, Serialize};

use super::{Assessment, MeshId, NodeId, Outcome, PolicyId, RawSample, Time};

/// For whom a hold or a release is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldScope {
    /// The mesh; empty: all meshes.
    pub mesh: MeshId,
    /// The node; `None`: the whole mesh.
    pub node: Option<NodeId>,
}

/// A policy that Plan put in force, told to Analyze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// For which mesh; empty: all without one of their own.
    pub mesh: MeshId,
    /// SHA-256 of its text.
    pub policy_id: PolicyId,
    /// Counts up.
    pub policy_generation: i64,
    /// Its text.
    pub text: String,
}

/// A record of `metrics`, as it was given.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsRecord<'a> {
    /// A reading, not yet trusted.
    Sample(RawSample<'a>),
    /// A report about a directive.
    Outcome(Outcome),
    /// Time passed; its append time is its content.
    Tick,
    /// A policy is in force.
    Adopted(Adopted),
}

/// The log begins: written once, by who finds it empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOpened {
    /// Drawn by its writer.
    pub log_id: String,
    /// First part of every origin.
    pub audit_name: String,
    /// Partitions of each inbox.
    pub partitions: i32,
    /// `log` or `sample`.
    pub time_source: String,
}

/// Someone proposes a policy, for one mesh or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// For which mesh; empty: all.
    pub mesh: MeshId,
    /// Its text, at most 48 KiB.
    pub text: String,
    /// Who.
    pub by: String,
}

/// Someone answers a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The mesh.
    pub mesh: MeshId,
    /// The node.
    pub node: NodeId,
    /// The id of the `DirectiveWithheld` that proposes the act.
    pub subject: String,
    /// Yes or no.
    pub approved: bool,
    /// Who.
    pub by: String,
}

/// Someone places or releases a hold. Releasing a mesh also ends its storm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// For whom.
    pub scope: HoldScope,
    /// Release instead of place.
    pub release: bool,
    /// How long, ms; `None` until released.
    pub for_ms: Option<i64>,
    /// Who.
    pub by: String,
    /// Commitment to the reason; empty without one.
    pub reason: String,
}

/// Analyze heard nothing for a while although an alarm stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopBlind {
    /// Topic that was not heard.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Append time of the last record before.
    pub from: Time,
    /// Append time of the first record after.
    pub to: Time,
}

/// A record of `plan-inbox`, as Plan folds it.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanRecord {
    /// Analyze's word about a node.
    Assessment(Assessment),
    /// An agent's report about a directive.
    Outcome(Outcome),
    /// Time passed.
    Tick,
    /// The log begins.
    LogOpened(LogOpened),
    /// A policy is proposed.
    PolicyChange(PolicyChange),
    /// A proposal is answered.
    Approval(Approval),
    /// A hold is placed or released.
    Hold(Hold),
    /// Analyze was blind.
    LoopBlind(LoopBlind),
}
