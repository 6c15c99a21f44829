//! Past facts: what Plan decided and why. The `events` topic is the loop's memory and its audit
//! trail.

use serde::{Deserialize, Serialize};

use super::{
    Action, Assessment, Cause, Directive, EventTime, HoldScope, Kind, MeshId, NodeId, Outcome,
    PolicyId, Severity, State, Symptom, Time,
};

/// One fact. The fields up to `engine` are frozen for ever (`audit-format.md` 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Dense per mesh from 0; for the empty mesh id dense per partition. The leaf's index.
    pub seq: i64,
    /// Append time of the cause; never falls.
    pub time: Time,
    /// The mesh; empty for events of no single mesh.
    pub mesh: MeshId,
    /// The inbox record behind it; an alarm's: the record before whose fold it fired.
    pub cause: Cause,
    /// The engine that decided, e.g. `plan/1`.
    pub engine: String,
    /// What happened.
    pub body: Body,
}

/// Why something wished was not ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// The seed's table asks for it, the evidence does not.
    NoEvidence,
    /// The 5-minute mean does not hold it yet.
    NotConfirmed,
    /// The sample was history when it came.
    StaleEvidence,
    /// Judged under another policy than Plan's.
    OtherPolicy,
    /// The node is silent: nobody would hear.
    Silent,
    /// Two agents use the node's name.
    IdentityConflict,
    /// The policy does not allow it.
    NotAllowed,
    /// Someone holds the node or the mesh.
    Held,
    /// Another order of this kind is under way.
    UnderWay,
    /// The same order was given too recently.
    Cooldown,
    /// Too many nodes of the mesh are being acted on.
    Budget,
    /// Too much of the mesh fell ill at once; a person releases.
    Storm,
    /// A person must approve it.
    NeedsApproval,
    /// A person rejected it, or did not answer in time.
    NotApproved,
    /// Tried as often as an episode allows.
    AttemptsSpent,
    /// The agent declined it, or cannot tell whether it did it.
    NotRepeated,
    /// Mode `shadow` only records.
    Shadow,
}

impl Reason {
    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NoEvidence => "no_evidence",
            Reason::NotConfirmed => "not_confirmed",
            Reason::StaleEvidence => "stale_evidence",
            Reason::OtherPolicy => "other_policy",
            Reason::Silent => "silent",
            Reason::IdentityConflict => "identity_conflict",
            Reason::NotAllowed => "not_allowed",
            Reason::Held => "held",
            Reason::UnderWay => "under_way",
            Reason::Cooldown => "cooldown",
            Reason::Budget => "budget",
            Reason::Storm => "storm",
            Reason::NeedsApproval => "needs_approval",
            Reason::NotApproved => "not_approved",
            Reason::AttemptsSpent => "attempts_spent",
            Reason::NotRepeated => "not_repeated",
            Reason::Shadow => "shadow",
        }
    }
}

/// What kind of incident it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum IncidentKind {
    /// One node.
    Node,
    /// Much of a mesh at once: the probe or the uplink is lying or gone.
    Mass,
}

/// The kinds of fact. Only ever added to.
///
/// `assessment`, where there is one, is the input whole, on the first event that it caused:
/// decisions can be made again from events alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The log of a partition begins (empty mesh).
    LogOpened {
        /// The log's id.
        log_id: String,
        /// First part of every origin.
        audit_name: String,
        /// Partitions of `plan-inbox` and `events`.
        partitions: i32,
        /// `log` or `sample`: what append time is.
        time_source: String,
    },
    /// Leaf 0 of a mesh.
    MeshOpened {
        /// `homeostat-audit/1`.
        format: String,
        /// `<audit name>/<log id>/<mesh>`.
        origin: String,
        /// The log's id.
        log_id: String,
        /// Text of policy generation 0 of this mesh.
        policy_text: String,
        /// The last checkpoint of the log that this one continues.
        continues: Option<String>,
    },
    /// A schema's first use in this mesh's log.
    SchemaAdopted {
        /// The record's full name.
        name: String,
        /// CRC-64-AVRO of the parsing canonical form, little-endian as in the header.
        fingerprint: [u8; 8],
        /// SHA-256 of the schema's text.
        sha256: [u8; 32],
    },
    /// A policy is in force from here.
    Adopted {
        /// SHA-256 of its text.
        policy_id: PolicyId,
        /// Counts up per mesh (empty mesh: per partition) from 1.
        policy_generation: i64,
        /// Its text.
        text: String,
        /// The operator or token that proposed it.
        by: String,
        /// A mesh's own `Adopted` that only takes the one for all over.
        taken_over: bool,
    },
    /// A node's first reading, or its first after a new boot.
    NodeSeen {
        /// The node.
        node: NodeId,
        /// Its boot.
        boot: i64,
        /// How often it samples, s.
        interval_s: Option<f64>,
        /// Not only a new boot: a new node.
        first: bool,
        /// The input.
        assessment: Option<Assessment>,
    },
    /// The settled state changed.
    StateChanged {
        /// The node.
        node: NodeId,
        /// Settled before.
        from: State,
        /// Settled now.
        to: State,
        /// phi of the reading.
        phi: f64,
        /// Its seq.
        sample_seq: i64,
        /// Its time.
        sample_time: EventTime,
        /// The input.
        assessment: Option<Assessment>,
    },
    /// The severity changed.
    SeverityChanged {
        /// The node.
        node: NodeId,
        /// Before.
        from: Severity,
        /// Now.
        to: Severity,
        /// With a latch on, in order.
        symptoms: Vec<Symptom>,
        /// Seq of the reading.
        sample_seq: i64,
        /// The input.
        assessment: Option<Assessment>,
    },
    /// Something else that Plan may use changed.
    NodeAssessed {
        /// The node.
        node: NodeId,
        /// The input.
        assessment: Option<Assessment>,
    },
    /// No accepted sample for three intervals.
    NodeSilent {
        /// The node.
        node: NodeId,
    },
    /// A sample after silence.
    NodeReturned {
        /// The node.
        node: NodeId,
    },
    /// Silent for so long that it is forgotten.
    NodeRetired {
        /// The node.
        node: NodeId,
    },
    /// Two agents use one name.
    IdentityConflict {
        /// The node.
        node: NodeId,
        /// The newer boot.
        boot: i64,
    },
    /// The loop did not hear anything for a while: silence bounds start anew (empty mesh).
    LoopBlind {
        /// Topic that was not heard.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Append time of the last record before.
        from: Time,
        /// Append time of the first record after.
        to: Time,
    },
    /// A symptom became established.
    AnomalyRaised {
        /// The node.
        node: NodeId,
        /// Which.
        symptom: Symptom,
        /// How bad.
        level: Severity,
        /// The metric's value, if measured.
        value: Option<f64>,
    },
    /// An established symptom's latch went off.
    AnomalyCleared {
        /// The node.
        node: NodeId,
        /// Which.
        symptom: Symptom,
    },
    /// A node's severity left ok, or a mesh has a storm.
    IncidentOpened {
        /// Its name.
        incident_id: String,
        /// What kind.
        kind: IncidentKind,
        /// The node; of a mass incident the one that was one too many.
        node: NodeId,
        /// The severity.
        severity: Severity,
        /// With a latch on, in order.
        symptoms: Vec<Symptom>,
        /// First ill reading.
        ill_since: Time,
        /// How many nodes fell ill in the window, with this one (1 for a node's incident).
        nodes_ill: i64,
        /// The node that is to blame, when that is known.
        cause_node: Option<NodeId>,
    },
    /// An incident ended.
    IncidentClosed {
        /// Its name.
        incident_id: String,
        /// What kind.
        kind: IncidentKind,
        /// The node, as when it opened.
        node: NodeId,
        /// All symptoms seen in it, in order.
        symptoms: Vec<Symptom>,
        /// First ill reading to the incident's opening, ms of append time.
        detect_ms: i64,
        /// First ill reading to the first of the good readings that closed it, ms of append time.
        repair_ms: i64,
        /// The node to blame, when known.
        cause_node: Option<NodeId>,
    },
    /// An order was given. On the wire it holds the directive's Avro bytes, which are what agents
    /// get.
    DirectiveIssued {
        /// The order.
        directive: Directive,
    },
    /// Something wished was not ordered.
    DirectiveWithheld {
        /// Its name; an approval's subject.
        id: String,
        /// The node.
        node: NodeId,
        /// What was wished.
        action: Action,
        /// Why not.
        reason: Reason,
        /// What is used of a limit.
        used: Option<i64>,
        /// The limit.
        limit: Option<i64>,
        /// Until when, if that is known.
        until: Option<Time>,
        /// The incident it belongs to.
        incident_id: Option<String>,
    },
    /// A directive without an outcome, or a proposal without an approval, ran out.
    DirectiveExpired {
        /// The node.
        node: NodeId,
        /// Its kind.
        kind: Kind,
        /// The directive's id, or the withheld proposal's.
        id: String,
        /// A proposal for approval, not an order.
        proposal: bool,
    },
    /// An agent reported.
    OutcomeReported {
        /// The report.
        outcome: Outcome,
    },
    /// A person answered a proposal.
    ApprovalRecorded {
        /// The withheld proposal's id.
        subject: String,
        /// The node.
        node: NodeId,
        /// The kind of action.
        kind: Kind,
        /// Yes or no.
        approved: bool,
        /// Who: a token's, member's or operator's handle.
        by: String,
    },
    /// Nothing (but intervals' bookkeeping) is ordered for this scope until the end.
    HoldPlaced {
        /// Its name.
        hold_id: String,
        /// For whom.
        scope: HoldScope,
        /// Its end; `None` until released.
        until: Option<Time>,
        /// Who.
        by: String,
        /// Commitment to the reason: its salted hash, hex (`audit-format.md` 10); empty without
        /// one.
        reason: String,
    },
    /// A hold ended, or a person released a storm.
    HoldReleased {
        /// For whom.
        scope: HoldScope,
        /// Who; empty when its time ran out.
        by: String,
    },
}

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        impl Body {
            /// The types, in order.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// The kind's name: the event's `type`.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Body::$name { .. } => stringify!($name),)*
                }
            }
        }
    };
}
names!(
    LogOpened,
    MeshOpened,
    SchemaAdopted,
    Adopted,
    NodeSeen,
    StateChanged,
    SeverityChanged,
    NodeAssessed,
    NodeSilent,
    NodeReturned,
    NodeRetired,
    IdentityConflict,
    LoopBlind,
    AnomalyRaised,
    AnomalyCleared,
    IncidentOpened,
    IncidentClosed,
    DirectiveIssued,
    DirectiveWithheld,
    DirectiveExpired,
    OutcomeReported,
    ApprovalRecorded,
    HoldPlaced,
    HoldReleased,
);

impl Body {
    /// The node it is about, if it is about one.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Body::LogOpened { .. }
            | Body::MeshOpened { .. }
            | Body::SchemaAdopted { .. }
            | Body::Adopted { .. }
            | Body::LoopBlind { .. } => None,
            Body::HoldPlaced { scope, .. } | Body::HoldReleased { scope, .. } => {
                scope.node.as_ref()
            }
            Body::DirectiveIssued { directive } => Some(&directive.node),
            Body::OutcomeReported { outcome } => Some(&outcome.node),
            Body::NodeSeen { node, .. }
            | Body::StateChanged { node, .. }
            | Body::SeverityChanged { node, .. }
            | Body::NodeAssessed { node, .. }
            | Body::NodeSilent { node }
            | Body::NodeReturned { node }
            | Body::NodeRetired { node }
            | Body::IdentityConflict { node, .. }
            | Body::AnomalyRaised { node, .. }
            | Body::AnomalyCleared { node, .. }
            | Body::IncidentOpened { node, .. }
            | Body::IncidentClosed { node, .. }
            | Body::DirectiveWithheld { node, .. }
            | Body::DirectiveExpired { node, .. }
            | Body::ApprovalRecorded { node, .. } => Some(node),
        }
    }

    /// The assessment that it carries, if it is the first event of one.
    pub fn assessment(&self) -> Option<&Assessment> {
        match self {
            Body::NodeSeen { assessment, .. }
            | Body::StateChanged { assessment, .. }
            | Body::SeverityChanged { assessment, .. }
            | Body::NodeAssessed { assessment, .. } => assessment.as_ref(),
            _ => None,
        }
    }

    /// Whether an auditor must see it (`domain.md`, events): changes into or out of EUPHORIC and
    /// MYSTICAL, acts, outcomes, policies, approvals.
    pub fn critical(&self) -> bool {
        match self {
            Body::StateChanged { from, to, .. } => [from, to]
                .into_iter()
                .any(|s| matches!(s, State::Euphoric | State::Mystical)),
            Body::DirectiveIssued { .. }
            | Body::DirectiveWithheld { .. }
            | Body::DirectiveExpired { .. }
            | Body::OutcomeReported { .. }
            | Body::Adopted { .. }
            | Body::ApprovalRecorded { .. }
            | Body::HoldPlaced { .. }
            | Body::HoldReleased { .. } => true,
            _ => false,
        }
    }
}
