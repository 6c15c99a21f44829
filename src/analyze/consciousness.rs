//! The seed's formulas (`docs/domain.md`): phi, the states with their recovery mode, frequency
//! alignment, harmony index and mesh health.
//!
//! Sums run in the written order in plain f64 without fused multiply-add: what sits on a bound to
//! the bit must fall on the same side everywhere. The only transcendental function is `libm`'s
//! logarithm.

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Metric, Metrics, Span, State};

/// The factors that peers contribute, for every whole count at which they still grow.
#[doc(alias = "ConsciousnessEngine")]
pub struct PeerScale {
    phi: [f64; 101],
    health: [f64; 11],
}

impl PeerScale {
    /// Computes the tables.
    pub fn new() -> Self {
        let factor = |peers: usize, full: f64| {
            f64::min(1.0, libm::log(1.0 + peers as f64) / libm::log(1.0 + full))
        };
        PeerScale {
            phi: std::array::from_fn(|peers| factor(peers, 100.0)),
            health: std::array::from_fn(|peers| factor(peers, 10.0)),
        }
    }

    /// `min(1, ln(1 + peers) / ln(1 + 100))` of a whole count.
    fn phi(&self, peers: f64) -> f64 {
        self.phi[peers.min(100.0) as usize]
    }

    /// `min(1, ln(1 + peers) / ln(11))` of a whole count.
    fn health(&self, peers: f64) -> f64 {
        self.health[peers.min(10.0) as usize]
    }
}

impl Default for PeerScale {
    fn default() -> Self {
        PeerScale::new()
    }
}

/// phi-ratio, 0..=PHI: how near a node is to the seed's ideal. A missing metric counts as 0, peers
/// as 1.
#[doc(alias = "ConsciousnessEngine")]
#[inline]
pub fn phi(metrics: &Metrics, peers: &PeerScale) -> f64 {
    let given = |metric, default| metrics.get(metric).unwrap_or(default);
    let cpu_balance = 1.0 - (given(Metric::CpuPercent, 0.0) - 60.0).abs() / 100.0;
    let mem_balance = 1.0 - (given(Metric::MemoryPercent, 0.0) - 65.0).abs() / 100.0;
    let latency_factor = 1.0 / (1.0 + (given(Metric::LatencyMs, 0.0) - 85.0).abs() / 85.0);
    let packet_factor = f64::max(0.0, 1.0 - given(Metric::PacketLoss, 0.0) / 1.6);
    let mesh_factor = peers.phi(given(Metric::MeshConnectivity, 1.0));
    PHI * (0.15 * cpu_balance
        + 0.15 * mem_balance
        + 0.30 * latency_factor
        + 0.25 * packet_factor
        + 0.15 * mesh_factor)
}

/// Frequency alignment, 0..=1: by the measured heartbeat, else by phi.
#[inline]
pub fn frequency_alignment(metrics: &Metrics, phi: f64) -> f64 {
    match metrics.get(Metric::FrequencyHz) {
        Some(hz) => (1.0 - (hz - 108.0).abs() / 108.0).clamp(0.0, 1.0),
        None => f64::max(0.0, 1.0 - (phi - PHI).abs() / PHI),
    }
}

/// Harmony index: the mean of phi's share of PHI and the alignment.
#[inline]
pub fn harmony_index(phi: f64, alignment: f64) -> f64 {
    (phi / PHI + alignment) / 2.0
}

/// Mesh health, 0..=1. Missing metrics count as their worst: peers 0, loss 100, latency 1000, mttr
/// 10.
#[inline]
pub fn mesh_health(metrics: &Metrics, peers: &PeerScale) -> f64 {
    let given = |metric, default| metrics.get(metric).unwrap_or(default);
    let left = |value: f64, full: f64| f64::max(0.0, 1.0 - value / full);
    0.25 * peers.health(given(Metric::MeshConnectivity, 0.0))
        + 0.30 * left(given(Metric::PacketLoss, 100.0), 10.0)
        + 0.25 * left(given(Metric::LatencyMs, 1000.0), 150.0)
        + 0.20 * left(given(Metric::MttrMinutes, 10.0), 10.0)
}

/// Recovery mode: softer bounds after an illness, until a reading is euphoric by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The last CONTEMPLATIVE or MYSTICAL reading while the mode was off. Time 0 is a time.
    stamp: Option<EventTime>,
    on: bool,
}

impl Recovery {
    /// The state of a reading; changes the mode for the readings that follow.
    #[inline]
    pub fn judge(&mut self, phi: f64, time: EventTime) -> State {
        let state = state(phi, if self.on { &RECOVERING } else { &USUAL });
        match (self.on, state) {
            (true, State::Euphoric) => self.on = false,
            (true, _) | (false, State::Euphoric) => {}
            (false, State::Harmonic) => {
                self.on = self.stamp.is_some_and(|ill| time - ill < RECOVERY_WITHIN);
            }
            (false, State::Contemplative | State::Mystical) => self.stamp = Some(time),
        }
        state
    }

    /// Whether the mode is on for the next reading.
    pub fn on(&self) -> bool {
        self.on
    }
}

fn state(phi: f64, [euphoric, harmonic, contemplative]: &[f64; 3]) -> State {
    if phi > *euphoric {
        State::Euphoric
    } else if phi > *harmonic {
        State::Harmonic
    } else if phi > *contemplative {
        State::Contemplative
    } else {
        State::Mystical
    }
}

/// The golden ratio as the seed writes it.
#[expect(
    clippy::approx_constant,
    clippy::excessive_precision,
    reason = "the seed's digits"
)]
pub const PHI: f64 = 1.618033988749895;

/// phi above these is EUPHORIC, HARMONIC, CONTEMPLATIVE.
const USUAL: [f64; 3] = [1.4, 1.0, 0.8];

/// The same while recovery mode is on.
const RECOVERING: [f64; 3] = [1.2, 0.85, 0.65];

/// A HARMONIC reading less than this after the stamp switches recovery mode on.
const RECOVERY_WITHIN: Span = Span::seconds(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(values: &[(Metric, f64)]) -> Metrics {
        let mut metrics = Metrics::default();
        for (metric, value) in values {
            assert!(metrics.try_set(*metric, *value));
        }
        metrics
    }

    fn row(cpu: f64, memory: f64, peers: f64, latency: f64, loss: f64) -> Metrics {
        metrics(&[
            (Metric::CpuPercent, cpu),
            (Metric::MemoryPercent, memory),
            (Metric::MeshConnectivity, peers),
            (Metric::LatencyMs, latency),
            (Metric::PacketLoss, loss),
        ])
    }

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
    }

    #[test]
    fn phi_of_the_seeds_rows_and_of_single_dead_metrics() {
        let scale = PeerScale::new();
        for (metrics, expected, digits) in [
            (row(30.0, 40.0, 5.0, 50.0, 0.0), 1.194, 5e-4),
            (row(95.0, 50.0, 5.0, 500.0, 10.0), 0.5408044236221149, 1e-15),
            (row(40.0, 45.0, 5.0, 60.0, 1.0), 1.009, 5e-4),
            (row(60.0, 65.0, 100.0, 85.0, 0.0), PHI, 0.0),
            (Metrics::default(), 0.8656944152307258, 1e-15),
        ] {
            let got = phi(&metrics, &scale);
            assert!((got - expected).abs() <= digits, "{got} is not {expected}");
        }
    }

    #[test]
    fn the_peers_tables_are_the_formula_to_the_bit() {
        let scale = PeerScale::new();
        for peers in (0..200).chain([4_294_967_295u32]).map(f64::from) {
            let ln = libm::log(1.0 + peers);
            let full = |n: f64| f64::min(1.0, ln / libm::log(n));
            assert_eq!(scale.phi(peers).to_bits(), full(101.0).to_bits());
            assert_eq!(scale.health(peers).to_bits(), full(11.0).to_bits());
        }
    }

    #[test]
    fn alignment_goes_by_the_heartbeat_else_by_phi() {
        for (hz, expected) in [(108.0, 1.0), (54.0, 0.5), (216.0, 0.0), (1e9, 0.0)] {
            near(
                frequency_alignment(&metrics(&[(Metric::FrequencyHz, hz)]), 0.5),
                expected,
            );
        }
        near(frequency_alignment(&Metrics::default(), PHI), 1.0);
        near(frequency_alignment(&Metrics::default(), PHI / 2.0), 0.5);
        near(harmony_index(PHI / 2.0, 1.0), 0.75);
    }

    #[test]
    fn mesh_health_counts_what_is_missing_as_the_worst() {
        let scale = PeerScale::new();
        near(mesh_health(&Metrics::default(), &scale), 0.0);
        near(
            mesh_health(&metrics(&[(Metric::MttrMinutes, 5.0)]), &scale),
            0.1,
        );
        near(
            mesh_health(&metrics(&[(Metric::LatencyMs, 75.0)]), &scale),
            0.125,
        );
        near(
            mesh_health(&metrics(&[(Metric::PacketLoss, 5.0)]), &scale),
            0.15,
        );
        near(
            mesh_health(&metrics(&[(Metric::MeshConnectivity, 10.0)]), &scale),
            0.25,
        );
    }

    /// Steps of (time ms, phi, state, mode afterwards).
    fn check(steps: &[(i64, f64, State, bool)]) {
        let mut recovery = Recovery::default();
        for (time, phi, state, on) in steps {
            assert_eq!(recovery.judge(*phi, EventTime(*time)), *state, "{time}");
            assert_eq!(recovery.on(), *on, "{time}");
        }
    }

    #[test]
    fn a_bound_belongs_to_the_state_below() {
        use State::{Contemplative, Euphoric, Harmonic, Mystical};
        check(&[
            (0, 1.4, Harmonic, false),
            (0, 1.4f64.next_up(), Euphoric, false),
            (0, 1.0, Contemplative, false),
            (0, 0.8, Mystical, false),
            (0, 1.1, Harmonic, true),
            (0, 1.2, Harmonic, true),
            (0, 0.85, Contemplative, true),
            (0, 0.65, Mystical, true),
            (0, 1.2f64.next_up(), Euphoric, false),
        ]);
    }

    #[test]
    fn the_mode_comes_within_a_minute_of_illness_and_time_zero_is_a_time() {
        use State::{Harmonic, Mystical};
        check(&[(0, 0.5, Mystical, false), (59_999, 1.1, Harmonic, true)]);
        check(&[(0, 0.5, Mystical, false), (60_000, 1.1, Harmonic, false)]);
        check(&[(59_999, 1.1, Harmonic, false)]);
    }
}
