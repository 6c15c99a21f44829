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

#[doc(alias = "ConsciousnessEngine")]
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

    /// Spread of the last 20 phi; 0.5 while fewer than 10 are known.
    pub fn entropy(&self) -> f64 {
        self.history.entropy()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        EventTime, Healing, Metric, Metrics, Refusal, Route, Scaling, State, Symptom,
    };

    fn reading(s: i64, [cpu, memory, peers, latency, loss]: [f64; 5]) -> Reading {
        let mut metrics = Metrics::default();
        for (metric, value) in [
            (Metric::CpuPercent, cpu),
            (Metric::MemoryPercent, memory),
            (Metric::MeshConnectivity, peers),
            (Metric::LatencyMs, latency),
            (Metric::PacketLoss, loss),
        ] {
            assert!(metrics.try_set(metric, value));
        }
        Reading {
            boot: 0,
            seq: None,
            time: EventTime(s * 1000),
            interval_s: None,
            metrics,
        }
    }

    const ROWS: [[f64; 5]; 3] = [
        [30.0, 40.0, 5.0, 50.0, 0.0],
        [95.0, 50.0, 5.0, 500.0, 10.0],
        [40.0, 45.0, 5.0, 60.0, 1.0],
    ];

    #[test]
    fn the_seeds_rows_hold_in_sequence() {
        let rules = Rules::new(&SymptomsPolicy::default());
        let mut mind = Mind::default();
        let mut read = |s, row: usize| mind.read(&rules, &reading(s, ROWS[row]));

        let first = read(0, 0);
        let wish = first.standing.wish();
        assert_eq!(
            (first.standing.state, first.standing.severity),
            (State::Harmonic, Severity::Ok)
        );
        assert_eq!(
            (wish.interval_s, wish.route, wish.healing),
            (60, Route::Balanced, None)
        );

        let second = read(10, 1);
        let wish = second.standing.wish();
        assert!((second.phi - 0.5408044236221149).abs() < 1e-15);
        assert!((second.harmony_index - 0.33423551506476346).abs() < 1e-15);
        assert!((second.mesh_health - 0.18680543407730352).abs() < 1e-15);
        assert_eq!(second.standing.state, State::Mystical);
        assert_eq!(second.standing.severity, Severity::Critical);
        let symptoms: Vec<_> = second.standing.signs.symptoms().collect();
        assert_eq!(
            symptoms,
            [Symptom::Lossy, Symptom::Slow, Symptom::CpuSaturated]
        );
        assert_eq!((wish.interval_s, wish.route), (10, Route::LowLatency));
        assert_eq!(wish.healing, Some(Healing::Aggressive));
        assert_eq!(wish.scaling, Some(Scaling::EmergencyScale));
        assert_eq!(second.standing.withheld().count(), 0);

        let third = read(20, 2);
        let wish = third.standing.wish();
        assert_eq!(third.standing.state, State::Harmonic);
        assert!(third.recovery_mode && third.standing.severity == Severity::Critical);
        assert_eq!((wish.interval_s, wish.route), (60, Route::Balanced));
        assert_eq!((wish.healing, wish.scaling), (None, None));
        assert_eq!(read(79, 2).standing.severity, Severity::Critical);
        assert_eq!(read(80, 2).standing.severity, Severity::Ok);
    }

    #[test]
    fn an_idle_host_is_explained_and_not_healed() {
        let rules = Rules::new(&SymptomsPolicy::default());
        let verdict = Mind::default().read(&rules, &reading(0, [3.0, 10.0, 1.0, 1.0, 1.0]));
        let standing = verdict.standing;
        assert_eq!(
            (standing.state, standing.severity),
            (State::Mystical, Severity::Ok)
        );
        assert_eq!(standing.wish().healing, None);
        assert_eq!(
            standing.withheld().collect::<Vec<_>>(),
            [Refusal::AggressiveHealing, Refusal::EmergencyScale]
        );
        assert_eq!(standing.refused().count(), 0, "nothing has settled yet");
    }

    #[test]
    fn who_thrives_for_ten_minutes_may_give_back() {
        let rules = Rules::new(&SymptomsPolicy::default());
        let mut mind = Mind::default();
        for (s, thriving) in [(0, false), (300, false), (599, false), (600, true)] {
            let standing = mind
                .read(&rules, &reading(s, [60.0, 65.0, 100.0, 85.0, 0.0]))
                .standing;
            assert_eq!(standing.state, State::Euphoric);
            assert_eq!(standing.wish().scaling.is_some(), thriving);
            assert_eq!(standing.settled() == State::Euphoric, thriving);
            let settled = if thriving { 120 } else { 60 };
            assert_eq!(standing.settled_wish().interval_s, settled);
            assert_eq!(standing.wish().interval_s, 120);
        }
    }

    #[test]
    fn a_mind_is_about_650_bytes() {
        assert!(size_of::<Mind>() <= 700, "{}", size_of::<Mind>());
    }
}
