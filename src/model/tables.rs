//! Rows that `evolve` keeps and `decide` reads: what events say about a partition, its meshes and
//! their nodes.

use serde::{Deserialize, Serialize};

use super::{
    Action, Assessment, Healing, Kind, MeshId, OutcomeResult, PolicyId, Reason, Route, Severity,
    Symptom, Time,
};

/// A policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInForce {
    /// SHA-256 of its text.
    pub id: PolicyId,
    /// How many came before it here.
    pub generation: i64,
    /// Its text.
    pub text: String,
}

/// A hold in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRow {
    /// The newest hold's name.
    pub id: String,
    /// Its end; `None` until released.
    pub until: Option<Time>,
}

/// What is known of a partition as a whole: what its events with the empty mesh id say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionRow {
    /// The log's id; empty before `LogOpened`.
    pub log_id: String,
    /// First part of every origin.
    pub audit_name: String,
    /// Its records bear the samples' own time: gaps between them mean nothing.
    pub time_by_sample: bool,
    /// Seq of the next event with the empty mesh id.
    pub next_seq: i64,
    /// The policy for all meshes, once one was adopted.
    pub policy: Option<PolicyInForce>,
    /// A hold for all meshes.
    pub hold: Option<HoldRow>,
}

/// What is known of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshRow {
    /// Seq of its next event.
    pub next_seq: i64,
    /// Its policy in force.
    pub policy: PolicyInForce,
    /// Generation of the policy for all that it took over last; 0 for none.
    pub taken_generation: i64,
    /// Its known nodes.
    pub nodes: i64,
    /// Nodes with a budget slot, as far as events said so; `slots` holds when each runs out.
    pub acting: i64,
    /// How many nodes fell ill, by time, within the storm's window.
    pub onsets: Vec<Onset>,
    /// Its mass incident, while a storm is on.
    pub storm: Option<Storm>,
    /// A hold for the mesh.
    pub hold: Option<HoldRow>,
    /// Fingerprints of the schemas that its log has adopted.
    pub schemas: Vec<[u8; 8]>,
}

/// Nodes of a mesh that fell ill at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onset {
    /// The time, cut to whole seconds, ms.
    pub at: Time,
    /// How many.
    pub nodes: i64,
}

/// A mass incident that stands until a person releases it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Its name.
    pub incident_id: String,
    /// The node that was one too many.
    pub node: super::NodeId,
    /// When it opened.
    pub opened_at: Time,
    /// First ill reading of that node.
    pub ill_since: Time,
}

/// A node's open incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentRow {
    /// Its name.
    pub id: String,
    /// When it opened.
    pub opened_at: Time,
    /// First ill reading.
    pub ill_since: Time,
    /// All symptoms seen in it, in order.
    pub symptoms: Vec<Symptom>,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Analyze's last word about it.
    pub assessment: Assessment,
    /// When its last event was.
    pub last_event: Time,
    /// Its open incident.
    pub incident: Option<IncidentRow>,
    /// When it last counted as newly ill.
    pub onset: Option<Time>,
    /// Since when it is silent.
    pub silent_since: Option<Time>,
    /// A hold for this node.
    pub hold: Option<HoldRow>,
    /// It counts against the mesh's budget until then; [`FOREVER`] while an outcome is awaited.
    pub slot: Option<Time>,
    /// The interval it was last told, s.
    pub told_interval_s: u32,
    /// The route it was last told.
    pub told_route: Route,
    /// When it is forgotten, if it stays silent.
    pub retire_at: Option<Time>,
    /// By kind, in the order of [`Kind`]'s numbers.
    pub kinds: [KindRow; 4],
}

/// A time that does not come.
pub const FOREVER: Time = Time(i64::MAX);

/// What is known of a node and a kind of action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KindRow {
    /// Since when it has not been wished; `None` while it is.
    pub unwished_since: Option<Time>,
    /// The wish as last seen, refused ones not counted.
    pub wish: Option<Action>,
    /// When a longer interval that is wished may be ordered.
    pub longer_at: Option<Time>,
    /// Orders of this episode that were given again.
    pub attempts: i64,
    /// Reasons recorded in this episode: bit `reason as u8`.
    pub reasons: u32,
    /// A person's answer in this episode.
    pub answer: Option<Answer>,
    /// What a wish that was withheld waits for.
    pub waiting: Option<Waiting>,
    /// What it waited for when the wish last went away.
    pub parked: Option<Waiting>,
    /// The last order.
    pub order: Option<Order>,
    /// When each value was last ordered, oldest first.
    pub issued: Vec<(Action, Time)>,
}

/// A person's answer to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// This action may be ordered.
    Approved(Action),
    /// Rejected, or not answered in time.
    Declined(Action),
}

/// Which pass takes up what waits when what held it ends. The number is part of a stored key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Queue {
    /// A hold of the mesh or of all.
    Hold = 0,
    /// A policy that does not allow it, or that only records.
    Policy = 1,
    /// A storm.
    Storm = 2,
    /// The budget.
    Budget = 3,
}

/// Something withheld that will be judged again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The withheld event's name.
    pub id: String,
    /// What was wished.
    pub action: Action,
    /// Why it was withheld.
    pub reason: Reason,
    /// Since when.
    pub since: Time,
    /// When it is taken up by time alone.
    pub until: Option<Time>,
    /// The mesh's queue that it stands in.
    pub queue: Option<Queue>,
    /// Generation of the policy that judged it.
    pub policy_generation: i64,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderState {
    /// No outcome yet, and not expired.
    UnderWay,
    /// The agent reported.
    Reported(OutcomeResult),
    /// No outcome in time.
    Expired,
}

/// The last order of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The directive's name.
    pub id: String,
    /// Its generation.
    pub generation: i64,
    /// What was ordered.
    pub action: Action,
    /// Its end of life.
    pub expires_at: Time,
    /// How far it is.
    pub state: OrderState,
    /// An act that is still wished then did not help; set by its outcome.
    pub review_at: Option<Time>,
    /// What the node had been told before, should this one not be obeyed.
    pub told_before: Option<Action>,
    /// The symptoms that carried it.
    pub carried_by: Vec<Symptom>,
    /// It was given in the present episode of its kind.
    pub this_episode: bool,
}

impl Assessment {
    /// What the node's condition asks for in one kind, were it never told anything; refused acts
    /// are not asked for.
    pub fn asks(&self, kind: Kind) -> Option<Action> {
        match kind {
            Kind::MonitoringInterval => Some(Action::MonitoringInterval {
                interval_s: self.wish.interval_s,
            }),
            Kind::RoutePreference => Some(Action::RoutePreference {
                value: self.wish.route,
            }),
            Kind::Healing => self.wish.healing.map(|level| Action::Healing { level }),
            Kind::Scaling => self.wish.scaling.map(|value| Action::Scaling { value }),
        }
    }

    /// What the seed's table asks for in one kind and the rules refuse.
    pub fn refuses(&self, kind: Kind) -> Option<Action> {
        use super::{Refusal, Scaling};
        self.refused
            .iter()
            .map(|refusal| match refusal {
                Refusal::AggressiveHealing => Action::Healing {
                    level: Healing::Aggressive,
                },
                Refusal::PreemptiveHealing => Action::Healing {
                    level: Healing::Preemptive,
                },
                Refusal::EmergencyScale => Action::Scaling {
                    value: Scaling::EmergencyScale,
                },
                Refusal::Optimize => Action::Scaling {
                    value: Scaling::Optimize,
                },
            })
            .find(|action| action.kind() == kind)
    }

    /// The symptoms that carry a wish to heal: shown and established; silence and idleness never
    /// do.
    pub fn carriers(&self) -> impl Iterator<Item = &super::Finding> {
        self.findings.iter().filter(|f| {
            f.shown && f.established && !matches!(f.symptom, Symptom::Silent | Symptom::Idle)
        })
    }

    /// The symptoms with a latch on, in order.
    pub fn symptoms(&self) -> Vec<Symptom> {
        let on = self.findings.iter().filter(|f| f.on());
        on.map(|f| f.symptom).collect()
    }
}

impl NodeRow {
    /// A node as it is first seen.
    pub fn new(assessment: Assessment, now: Time) -> Self {
        NodeRow {
            told_interval_s: Self::own_interval_s(&assessment),
            assessment,
            last_event: now,
            incident: None,
            onset: None,
            silent_since: None,
            hold: None,
            slot: None,
            told_route: Route::Balanced,
            retire_at: None,
            kinds: Default::default(),
        }
    }

    /// The interval that a node samples at by itself, s: what it says, else 60.
    pub fn own_interval_s(assessment: &Assessment) -> u32 {
        assessment
            .interval_s
            .map_or(60, |s| s.round().clamp(1.0, f64::from(u32::MAX)) as u32)
    }

    /// The row of a kind.
    pub fn kind(&self, kind: Kind) -> &KindRow {
        &self.kinds[kind as usize]
    }

    /// What is wished of a kind and not yet told: an interval or a route that differs, an act that
    /// is asked for.
    pub fn wish(&self, kind: Kind) -> Option<Action> {
        let asked = self.assessment.asks(kind)?;
        (Some(asked) != self.told(kind)).then_some(asked)
    }

    /// What the node was last told of a kind that is a setting; an act is told once and is no
    /// setting.
    pub fn told(&self, kind: Kind) -> Option<Action> {
        match kind {
            Kind::MonitoringInterval => Some(Action::MonitoringInterval {
                interval_s: self.told_interval_s,
            }),
            Kind::RoutePreference => Some(Action::RoutePreference {
                value: self.told_route,
            }),
            Kind::Healing | Kind::Scaling => None,
        }
    }

    /// Its severity.
    pub fn severity(&self) -> Severity {
        self.assessment.severity
    }

    /// When something of this node is due by time alone; a function of the row, whatever the policy
    /// says by now.
    pub fn due(&self) -> Option<Time> {
        let kinds = self.kinds.iter().filter_map(KindRow::due);
        let held = self.kinds.iter().any(KindRow::waits_for_node_hold);
        kinds
            .chain(self.retirement())
            .chain(self.hold.as_ref().and_then(|hold| hold.until))
            .chain((held && self.hold.is_none()).then_some(Time(i64::MIN)))
            .min()
    }
}

impl NodeRow {
    /// When it is forgotten; not while it is held, or its return would find the hold forgotten too.
    pub fn retirement(&self) -> Option<Time> {
        self.retire_at.filter(|_| self.hold.is_none())
    }
}

impl KindRow {
    /// When something of this kind is due by time alone.
    pub fn due(&self) -> Option<Time> {
        [
            self.expiry(),
            self.wait_over(),
            self.review(),
            self.longer(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the order under way expires.
    pub fn expiry(&self) -> Option<Time> {
        let order = self.order.as_ref()?;
        (order.state == OrderState::UnderWay).then_some(order.expires_at)
    }

    /// When what was withheld is taken up by time alone.
    pub fn wait_over(&self) -> Option<Time> {
        let waiting = self.waiting.as_ref()?;
        waiting.queue.is_none().then_some(waiting.until).flatten()
    }

    /// When an order that is still wished did not help.
    pub fn review(&self) -> Option<Time> {
        let order = self.order.as_ref()?;
        let act = matches!(order.action.kind(), Kind::Healing | Kind::Scaling);
        (act && order.this_episode && self.waiting.is_none() && self.wish.is_some())
            .then_some(order.review_at)
            .flatten()
    }

    /// When a longer interval has been wished for long enough.
    pub fn longer(&self) -> Option<Time> {
        (self.waiting.is_none() && self.wish.is_some())
            .then_some(self.longer_at)
            .flatten()
    }

    /// Whether it waits for the end of a hold on its own node.
    pub fn waits_for_node_hold(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|w| w.reason == Reason::Held && w.queue.is_none())
    }

    /// Whether a reason stands recorded in this episode.
    pub fn recorded(&self, reason: Reason) -> bool {
        self.reasons & (1 << reason as u8) != 0
    }
}

/// The mesh part of a directive's or origin's path: bytes outside `A-Za-z0-9._~-` (and an id of
/// dots only) as `%XX`; above 120 bytes `%sha256-<hex of the id's>` (`audit-format.md` 4).
pub fn path_of(mesh: &MeshId) -> String {
    use sha2::{Digest, Sha256};
    let dots_only = mesh.as_str().bytes().all(|b| b == b'.');
    let path: String = mesh
        .as_str()
        .bytes()
        .map(|b| match b {
            b'.' if dots_only => "%2E".to_owned(),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'-' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect();
    if path.len() <= 120 {
        return path;
    }
    let digest = Sha256::digest(mesh.as_str().as_bytes());
    digest.iter().fold("%sha256-".to_owned(), |text, byte| {
        format!("{text}{byte:02x}")
    })
}
