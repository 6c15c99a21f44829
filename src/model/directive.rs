//! Orders to agents, and what caused them. A directive leaves the doer no choice.

use serde::{Deserialize, Serialize};

use super::{MeshId, NodeId, PolicyId, Span, Time};

/// Which routes a node should prefer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Route {
    /// While healing is wished.
    LowLatency,
    /// The usual.
    Balanced,
    /// While thriving.
    HighThroughput,
}

impl Route {
    /// The name in a directive.
    pub const fn name(self) -> &'static str {
        match self {
            Route::LowLatency => "low_latency",
            Route::Balanced => "balanced",
            Route::HighThroughput => "high_throughput",
        }
    }
}

/// How hard to heal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Healing {
    /// Before it gets worse.
    Preemptive,
    /// Critical.
    Aggressive,
}

impl Healing {
    /// The name in a directive.
    pub const fn name(self) -> &'static str {
        match self {
            Healing::Preemptive => "preemptive",
            Healing::Aggressive => "aggressive",
        }
    }
}

/// How to scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Scaling {
    /// Give back what is not needed.
    Optimize,
    /// Add capacity now.
    EmergencyScale,
}

impl Scaling {
    /// The name in a directive.
    pub const fn name(self) -> &'static str {
        match self {
            Scaling::Optimize => "optimize",
            Scaling::EmergencyScale => "emergency_scale",
        }
    }
}

/// What to do: a closed set, shared by both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sample every `interval_s` seconds.
    MonitoringInterval {
        /// Seconds, above 0.
        interval_s: u32,
    },
    /// Prefer these routes.
    RoutePreference {
        /// Which.
        value: Route,
    },
    /// Heal.
    Healing {
        /// How hard.
        level: Healing,
    },
    /// Scale.
    Scaling {
        /// How.
        value: Scaling,
    },
}

/// The kinds of action; a node has one order of each kind at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// How often to sample.
    MonitoringInterval,
    /// Which routes.
    RoutePreference,
    /// Healing.
    Healing,
    /// Scaling.
    Scaling,
}

impl Kind {
    /// All four, in the order in which Plan judges them: an act before the route that goes with it.
    pub const ALL: [Kind; 4] = [
        Kind::MonitoringInterval,
        Kind::Healing,
        Kind::Scaling,
        Kind::RoutePreference,
    ];

    /// The name in a directive.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::MonitoringInterval => "monitoring_interval",
            Kind::RoutePreference => "route_preference",
            Kind::Healing => "healing",
            Kind::Scaling => "scaling",
        }
    }
}

impl Action {
    /// Whether it touches what the mesh does, so that it counts against the budget: not how often a
    /// node samples, nor the way back to balanced routes.
    pub const fn intervenes(self) -> bool {
        match self {
            Action::MonitoringInterval { .. }
            | Action::RoutePreference {
                value: Route::Balanced,
            } => false,
            Action::RoutePreference { .. } | Action::Healing { .. } | Action::Scaling { .. } => {
                true
            }
        }
    }

    /// Its kind.
    pub const fn kind(self) -> Kind {
        match self {
            Action::MonitoringInterval { .. } => Kind::MonitoringInterval,
            Action::RoutePreference { .. } => Kind::RoutePreference,
            Action::Healing { .. } => Kind::Healing,
            Action::Scaling { .. } => Kind::Scaling,
        }
    }
}

/// The inbox record that caused something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// Its topic, with the prefix.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// An order to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Its name, made of its cause.
    pub id: String,
    /// The log that issued it; an agent obeys one log.
    pub log_id: String,
    /// The node's mesh.
    pub mesh: MeshId,
    /// The node.
    pub node: NodeId,
    /// The seq of its `DirectiveIssued`: the newer one of a node and kind counts, and it is its
    /// leaf's index.
    pub generation: i64,
    /// Append time of its cause.
    pub issued_at: Time,
    /// For how long it may be begun, s, on the log's clock.
    pub ttl_s: i64,
    /// What to do.
    pub action: Action,
    /// The inbox record behind it.
    pub cause: Cause,
    /// The incident it belongs to.
    pub incident_id: Option<String>,
    /// The policy in force.
    pub policy_id: PolicyId,
    /// That policy's generation.
    pub policy_generation: i64,
}

/// A directive lives three intervals, the longest of which is an hour.
pub const TTL_MAX: Span = Span::seconds(3 * 3600);

impl Directive {
    /// The first append time at which it may no longer be begun.
    pub fn expires_at(&self) -> Time {
        self.issued_at + Span::seconds(self.ttl_s)
    }
}
