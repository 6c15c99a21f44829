//! What an agent reports of a directive.

use serde::{Deserialize, Serialize};

use super::{Directive, Kind, MeshId, NodeId};

/// Longest `observed` text, bytes.
pub const OBSERVED_BYTES_MAX: usize = 1024;

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OutcomeResult {
    /// Done, and read back.
    Applied,
    /// The agent declined: it may not, or cannot.
    Refused,
    /// Tried without success; may be tried again.
    Failed,
    /// Begun before a crash: whether it was done cannot be told; it is not repeated.
    Unknown,
}

impl OutcomeResult {
    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            OutcomeResult::Applied => "applied",
            OutcomeResult::Refused => "refused",
            OutcomeResult::Failed => "failed",
            OutcomeResult::Unknown => "unknown",
        }
    }
}

/// A report about one directive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The node's mesh.
    #[serde(rename = "mesh_id")]
    pub mesh: MeshId,
    /// The node.
    #[serde(rename = "node_id")]
    pub node: NodeId,
    /// The log whose directive it was.
    pub log_id: String,
    /// The directive.
    pub directive_id: String,
    /// Its generation.
    pub generation: i64,
    /// Its kind.
    pub kind: Kind,
    /// How it ended.
    pub result: OutcomeResult,
    /// What the agent saw, at most [`OBSERVED_BYTES_MAX`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
}

impl Outcome {
    /// That of a directive, with nothing observed.
    pub fn of(directive: &Directive, result: OutcomeResult) -> Self {
        Outcome {
            mesh: directive.mesh.clone(),
            node: directive.node.clone(),
            log_id: directive.log_id.clone(),
            directive_id: directive.id.clone(),
            generation: directive.generation,
            kind: directive.action.kind(),
            result,
            observed: None,
        }
    }
}
