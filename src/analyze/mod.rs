//! Analyze: what a reading says about its node.
//!
//! 1. [`consciousness`]: the seed's formulas: phi, state with recovery mode, alignment, harmony,
//!    mesh health.
//! 2. [`trend`]: entropy and trend over the node's last phi.
//! 3. [`symptoms`]: latches on the metrics and on the state; severity.
//! 4. [`wish`]: what is asked for, and what the rules refuse.
//! 5. [`panes`], [`cycle`], [`illness`]: what only the loop needs: 5-minute means, closed cycles,
//!    since when a node is ill.
//!
//! [`Mind`] is what `assess` remembers of a node; [`Rules`] is what it judges by.

pub mod consciousness;
pub mod cycle;
pub mod illness;
pub mod panes;
pub mod symptoms;
pub mod trend;
pub mod wish;

use serde::{Deserialize, Serialize};

use crate::model::{Reading, Severity, SymptomsPolicy};

use consciousness::{PeerScale, Recovery};
use symptoms::{Bounds, Latches};
use trend::{History, Trend};
use wish::{Standing, Thriving};

/// What readings are judged by: the formulas' tables and the policy's bounds. Made once a policy.
pub struct Rules {
    peers: PeerScale,
    bounds: Bounds,
}

impl Rules {
    /// The rules of a policy.
    pub fn new(policy: &SymptomsPolicy) -> Self {
        Rules {
            peers: PeerScale::new(),
            bounds: Bounds::new(policy),
        }
    }

    /// The bounds of the symptoms.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }
}

/// What is remembered of a node between its readings: about 650 bytes without a pointer, what every
/// reading touches first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct Mind {
    recovery: Recovery,
    thriving: Thriving,
    latches: Latches,
    history: History,
}

/// All that a reading says about its node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The seed's score, 0..=1.618.
    pub phi: f64,
    /// Spread of the last 20 earlier phi, 0..=1; 0.5 while fewer than 10 are known.
    pub entropy: f64,
    /// How near to the seed's frequency, 0..=1.
    pub frequency_alignment: f64,
    /// Mean of phi's share of PHI and the alignment, 0..=1.
    pub harmony_index: f64,
    /// 0..=1.
    pub mesh_health: f64,
    /// Least-squares slope of the last 50 phi, per reading; `None` while fewer are known.
    pub trend_slope: Option<f64>,
    /// Whether recovery mode is on for the next reading.
    pub recovery_mode: bool,
    /// State, trend and symptoms: what the wish hangs on.
    pub standing: Standing,
}

impl Mind {
    /// Judges an accepted reading and remembers it.
    #[inline]
    pub fn read(&mut self, rules: &Rules, reading: &Reading) -> Verdict {
        let metrics = &reading.metrics;
        let phi = consciousness::phi(metrics, &rules.peers);
        let state = self.recovery.judge(phi, reading.time);
        let entropy = self.history.entropy();
        self.history.push(phi);
        let trend_slope = self.history.slope();
        let signs = self
            .latches
            .judge(&rules.bounds, metrics, state, reading.time);
        let severity = signs.severity();
        let long = self.thriving.judge(&rules.bounds, state, reading.time);
        let frequency_alignment = consciousness::frequency_alignment(metrics, phi);
        Verdict {
            phi,
            entropy,
            frequency_alignment,
            harmony_index: consciousness::harmony_index(phi, frequency_alignment),
            mesh_health: consciousness::mesh_health(metrics, &rules.peers),
            trend_slope,
            recovery_mode: self.recovery.on(),
            standing: Standing {
                state,
                severity,
                trend: Trend::of(trend_slope),
                thriving: long && severity == Severity::Ok,
                signs,
            },
        }
    }

    /// The node fell silent: its silent latch is critical and established at once. Answers the
    /// standing that `before` has become; nothing but silence is shown now.
    pub fn fall_silent(&mut self, before: &Standing) -> Standing {
        let signs = self.latches.fall_silent();
        Standing {
            severity: signs.severity(),
            thriving: false,
            signs,
            ..*before
        }
    }
}
