//! A node's cycles: what history and dashboards see of it.
//!
//! A cycle closes at the first reading its state's interval or more after the last close, in the
//! node's own time, and at a change of state or severity; the first reading changes them from
//! nothing.

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Metric, Metrics, Severity, Span, State};

use super::wish::{Standing, interval_s};

/// The readings of a node since its last cycle closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cycle {
    closed: Option<(EventTime, State, Severity)>,
    #[serde(with = "crate::model::packed::eight")]
    sums: [f64; 8],
    #[serde(with = "crate::model::packed::eight")]
    counts: [u32; 8],
}

impl Cycle {
    /// Adds a reading; answers the means of the cycle's readings, metric by metric, when it closes
    /// the cycle.
    pub fn add(
        &mut self,
        metrics: &Metrics,
        time: EventTime,
        standing: &Standing,
    ) -> Option<Metrics> {
        for (metric, value) in metrics.iter() {
            self.sums[metric as usize] += value;
            self.counts[metric as usize] = self.counts[metric as usize].saturating_add(1);
        }
        let Standing {
            state, severity, ..
        } = *standing;
        let goes_on = self.closed.is_some_and(|(at, was, was_ill)| {
            (was, was_ill) == (state, severity)
                && time - at < Span::seconds(i64::from(interval_s(state)))
        });
        if goes_on {
            return None;
        }
        let means = self.means();
        *self = Cycle {
            closed: Some((time, state, severity)),
            ..Cycle::default()
        };
        Some(means)
    }

    fn means(&self) -> Metrics {
        let mut means = Metrics::default();
        for metric in Metric::ALL {
            let (sum, count) = (self.sums[metric as usize], self.counts[metric as usize]);
            // A mean of whole counts need not be one; what leaves must be a valid metric.
            let mean = match metric {
                Metric::MeshConnectivity => (sum / f64::from(count)).round(),
                _ => sum / f64::from(count),
            };
            // A sum that no f64 holds has no mean: the metric is left out.
            let _held = count > 0 && means.try_set(metric, mean);
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of (s, state, severity, peers) and the mean of peers when the cycle closes.
    fn check(steps: &[(i64, State, Severity, Option<f64>, Option<Option<f64>>)]) {
        let mut cycle = Cycle::default();
        for (s, state, severity, peers, expected) in steps {
            let mut metrics = Metrics::default();
            if let Some(peers) = peers {
                assert!(metrics.try_set(Metric::MeshConnectivity, *peers));
            }
            let standing = Standing {
                state: *state,
                severity: *severity,
                ..Standing::default()
            };
            let got = cycle.add(&metrics, EventTime(s * 1000), &standing);
            let got = got.map(|means| means.get(Metric::MeshConnectivity));
            assert_eq!(got, *expected, "at {s} s");
        }
    }

    #[test]
    fn a_cycle_closes_after_its_states_interval_and_at_a_change() {
        use Severity::{Ok, Warning};
        use State::{Harmonic, Mystical};
        check(&[
            (0, Harmonic, Ok, Some(2.0), Some(Some(2.0))),
            (59, Harmonic, Ok, Some(3.0), None),
            (60, Harmonic, Ok, Some(6.0), Some(Some(5.0))),
            (61, Mystical, Ok, None, Some(None)),
            (70, Mystical, Ok, Some(1.0), None),
            (71, Mystical, Ok, Some(1.0), Some(Some(1.0))),
            (72, Mystical, Warning, Some(4.0), Some(Some(4.0))),
            (72, Mystical, Warning, Some(4.0), None),
        ]);
    }
}
