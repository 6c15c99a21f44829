//! Entropy and trend over a node's last phi, from sums that are kept as readings come.
//!
//! 1. A push adds what comes and takes away what leaves; each time the ring has gone round the sums
//!    are made anew from it, so that rounding never adds up: they stay within 1e-12 of the
//!    formulas.
//! 2. A slope so near a bound that rounding could decide is taken from the formula itself.

use serde::{Deserialize, Serialize};

/// Where a node's phi is going, over its last 50 readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trend {
    /// Fewer than 50 readings.
    InsufficientData,
    /// A slope above 0.01 a reading.
    Improving,
    /// Below -0.01.
    Degrading,
    /// Neither.
    Stable,
}

impl Trend {
    /// The trend of a slope.
    #[inline]
    pub fn of(slope: Option<f64>) -> Self {
        match slope {
            None => Trend::InsufficientData,
            Some(slope) if slope > SLOPE_BOUND => Trend::Improving,
            Some(slope) if slope < -SLOPE_BOUND => Trend::Degrading,
            Some(_) => Trend::Stable,
        }
    }

    /// The word in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Trend::InsufficientData => "insufficient_data",
            Trend::Improving => "improving",
            Trend::Degrading => "degrading",
            Trend::Stable => "stable",
        }
    }
}

/// The last 50 phi of a node and their sums.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct History {
    /// Sum of the last 20.
    short_sum: f64,
    /// Sum of their squares.
    short_squares: f64,
    /// Sum of the last 50.
    sum: f64,
    /// Sum of the last 50, each times its place, 0 the oldest.
    moment: f64,
    len: u8,
    next: u8,
    #[serde(with = "crate::model::packed::ring")]
    ring: [f64; LONG],
}

impl Default for History {
    fn default() -> Self {
        History {
            short_sum: 0.0,
            short_squares: 0.0,
            sum: 0.0,
            moment: 0.0,
            len: 0,
            next: 0,
            ring: [0.0; LONG],
        }
    }
}

impl History {
    /// Adds the phi of a reading.
    #[inline]
    pub fn push(&mut self, phi: f64) {
        let (at, len) = (usize::from(self.next), usize::from(self.len));
        if len >= SHORT {
            let leaves = self.ring[(at + LONG - SHORT) % LONG];
            self.short_sum -= leaves;
            self.short_squares -= leaves * leaves;
        }
        self.short_sum += phi;
        self.short_squares += phi * phi;
        if len == LONG {
            let leaves = self.ring[at];
            self.sum -= leaves;
            self.moment -= self.sum;
            self.moment += (LONG - 1) as f64 * phi;
        } else {
            self.moment += len as f64 * phi;
            self.len += 1;
        }
        self.sum += phi;
        self.ring[at] = phi;
        self.next = ((at + 1) % LONG) as u8;
        if self.next == 0 {
            self.rebuild();
        }
    }

    /// Spread of the last 20 phi, 0..=1: `min(1, population variance / 0.5)`; 0.5 while fewer than
    /// 10 are known. Asked before a reading's own phi is pushed.
    #[inline]
    pub fn entropy(&self) -> f64 {
        let n = usize::from(self.len).min(SHORT);
        if n < SHORT_LEAST {
            return 0.5;
        }
        let mean = self.short_sum / n as f64;
        let variance = self.short_squares / n as f64 - mean * mean;
        f64::min(1.0, f64::max(0.0, variance) / 0.5)
    }

    /// Least-squares slope of the last 50 phi, per reading; `None` while fewer are known.
    #[inline]
    pub fn slope(&self) -> Option<f64> {
        if usize::from(self.len) < LONG {
            return None;
        }
        let slope = (self.moment - MIDDLE * self.sum) / SPREAD;
        let near = (slope.abs() - SLOPE_BOUND).abs() < TOO_NEAR;
        Some(if near { self.slope_by_formula() } else { slope })
    }

    /// `sum((x - mean x)(phi - mean phi)) / sum((x - mean x)^2)`, oldest first.
    fn slope_by_formula(&self) -> f64 {
        let mean = self.in_order().sum::<f64>() / LONG as f64;
        self.in_order()
            .enumerate()
            .map(|(x, phi)| (x as f64 - MIDDLE) * (phi - mean))
            .sum::<f64>()
            / SPREAD
    }

    fn rebuild(&mut self) {
        let (mut sum, mut moment) = (0.0, 0.0);
        for (x, phi) in self.ring.iter().enumerate() {
            sum += phi;
            moment += x as f64 * phi;
        }
        let last = &self.ring[LONG - SHORT..];
        self.short_sum = last.iter().sum();
        self.short_squares = last.iter().map(|phi| phi * phi).sum();
        self.sum = sum;
        self.moment = moment;
    }

    /// The ring, oldest first; it is full.
    fn in_order(&self) -> impl Iterator<Item = f64> + '_ {
        let (newer, older) = self.ring.split_at(usize::from(self.next));
        older.iter().chain(newer).copied()
    }
}

/// Readings of the trend.
const LONG: usize = 50;

/// Readings of the entropy.
const SHORT: usize = 20;

/// Fewest readings that have an entropy.
const SHORT_LEAST: usize = 10;

/// Mean place of the trend's readings: (0 + 49) / 2.
const MIDDLE: f64 = 24.5;

/// `sum((x - 24.5)^2)` over the places 0..=49.
const SPREAD: f64 = 10_412.5;

/// Steeper than this is improving or degrading.
const SLOPE_BOUND: f64 = 0.01;

/// Far above the sums' error (below 1e-14), far below what a reading means.
const TOO_NEAR: f64 = 1e-11;

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy_by_formula(phi: &[f64]) -> f64 {
        let last = &phi[phi.len().saturating_sub(SHORT)..];
        if last.len() < SHORT_LEAST {
            return 0.5;
        }
        let n = last.len() as f64;
        let mean = last.iter().sum::<f64>() / n;
        let variance = last.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        f64::min(1.0, variance / 0.5)
    }

    fn slope_by_formula(phi: &[f64]) -> Option<f64> {
        let last = phi.get(phi.len().checked_sub(LONG)?..)?;
        let mean = last.iter().sum::<f64>() / LONG as f64;
        let top = last.iter().enumerate();
        let top = top.map(|(x, y)| (x as f64 - MIDDLE) * (y - mean));
        Some(top.sum::<f64>() / SPREAD)
    }

    /// Readings by a linear congruential generator (Knuth, MMIX).
    fn noise(seed: u64) -> impl Iterator<Item = f64> {
        let mut x = seed;
        std::iter::repeat_with(move || {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (x >> 11) as f64 / (1u64 << 53) as f64
        })
    }

    #[test]
    fn the_sums_stay_within_1e_12_of_the_formulas_over_a_million_readings() {
        let mut history = History::default();
        let mut all = Vec::new();
        for (i, x) in noise(618).take(1_000_000).enumerate() {
            let phi = match i / 1000 % 4 {
                0 => 1.618 * x,
                1 => 1.0 + 1e-9 * x,
                2 => 1.618,
                _ => f64::from(i as u32 % 2) * 1.618,
            };
            let entropy = history.entropy();
            assert!((entropy - entropy_by_formula(&all)).abs() <= 1e-12, "{i}");
            history.push(phi);
            all.push(phi);
            if all.len() > 2 * LONG {
                all.drain(..LONG);
            }
            let (got, want) = (history.slope(), slope_by_formula(&all));
            assert_eq!(got.is_some(), want.is_some(), "{i}");
            if let (Some(got), Some(want)) = (got, want) {
                assert!((got - want).abs() <= 1e-12, "{i}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn entropy_waits_for_ten_and_is_capped() {
        let mut history = History::default();
        for i in 0..10 {
            assert_eq!(history.entropy(), 0.5);
            history.push(f64::from(i % 2));
        }
        assert_eq!(history.entropy(), 0.5);
        for i in 0..20 {
            history.push(f64::from(i % 2) * 1.618);
        }
        assert_eq!(history.entropy(), 1.0);
        for _ in 0..20 {
            history.push(1.1);
        }
        assert!(history.entropy() <= 1e-12);
    }

    #[test]
    fn a_trend_needs_fifty_readings_and_a_slope_beyond_its_bound() {
        for (step, expected) in [
            (0.02, Trend::Improving),
            (-0.02, Trend::Degrading),
            (0.0, Trend::Stable),
            (0.009, Trend::Stable),
            (-0.009, Trend::Stable),
        ] {
            let mut history = History::default();
            for i in 0..60 {
                assert_eq!(history.slope().is_none(), i < 50);
                history.push(1.0 + step * f64::from(i));
            }
            assert_eq!(Trend::of(history.slope()), expected, "{step}");
        }
    }
}
