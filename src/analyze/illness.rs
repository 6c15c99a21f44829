//! Since when a node is ill, and since when it was well again, in append time: what the times to
//! detect and to repair are measured from.

use serde::{Deserialize, Serialize};

use crate::model::{Severity, Time};

use super::symptoms::Signs;

/// The present illness of a node, or its last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Illness {
    since: Option<Time>,
    good_since: Option<Time>,
    /// The first of the good readings that the illness may end with.
    good_from: Option<Time>,
    lasts: bool,
    severity: Severity,
}

impl Illness {
    /// Takes in what the latches say at `now`.
    ///
    /// An illness begins at a reading that shows a symptom other than idle. It ends when the
    /// severity is ok again, or when it never left ok and no such symptom has a latch on.
    pub fn note(&mut self, now: Time, signs: Signs) {
        let severity = signs.severity();
        if !self.lasts && signs.any_shown() {
            self.lasts = true;
            self.since = Some(now);
            self.good_since = None;
            self.good_from = None;
        }
        if signs.suffering() {
            self.good_from = None;
        } else if signs.recovering() {
            self.good_from.get_or_insert(now);
        }
        if severity == Severity::Ok {
            if self.severity != Severity::Ok {
                self.good_since = Some(self.good_from.unwrap_or(now));
                self.lasts = false;
            } else if !signs.any_on() {
                self.lasts = false;
            }
        }
        self.severity = severity;
    }

    /// When the present or last illness was first seen.
    pub fn since(&self) -> Option<Time> {
        self.since
    }

    /// The first of the good readings that ended it; `None` while it lasts.
    pub fn good_since(&self) -> Option<Time> {
        self.good_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::symptoms::{Bounds, Latches};
    use crate::model::{EventTime, Metric, Metrics, State, SymptomsPolicy};

    /// Readings of (s, packet loss, latency) and the illness after each, in s.
    fn check(steps: &[(i64, f64, f64, Option<i64>, Option<i64>)]) {
        let bounds = Bounds::new(&SymptomsPolicy::default());
        let (mut latches, mut illness) = (Latches::default(), Illness::default());
        for (s, loss, latency, since, good_since) in steps {
            let mut metrics = Metrics::default();
            assert!(metrics.try_set(Metric::PacketLoss, *loss));
            assert!(metrics.try_set(Metric::LatencyMs, *latency));
            let time = EventTime(s * 1000);
            illness.note(
                Time(s * 1000),
                latches.judge(&bounds, &metrics, State::Harmonic, time),
            );
            let got = [illness.since(), illness.good_since()];
            let want = [since, good_since].map(|s| s.map(|s| Time(s * 1000)));
            assert_eq!(got, want, "at {s} s");
        }
    }

    #[test]
    fn an_illness_runs_from_the_first_ill_to_the_first_good_reading_that_ended_it() {
        check(&[
            (0, 0.0, 10.0, None, None),
            (10, 3.0, 10.0, Some(10), None),
            (40, 3.0, 10.0, Some(10), None),
            (70, 3.0, 10.0, Some(10), None),
            (80, 1.0, 10.0, Some(10), None),
            (90, 3.0, 10.0, Some(10), None),
            (100, 1.0, 10.0, Some(10), None),
            (130, 1.0, 10.0, Some(10), None),
            (160, 1.0, 10.0, Some(10), Some(100)),
            (170, 1.0, 10.0, Some(10), Some(100)),
            (180, 1.0, 200.0, Some(180), None),
        ]);
    }

    #[test]
    fn a_flicker_is_over_when_its_latch_is_off() {
        check(&[
            (0, 3.0, 10.0, Some(0), None),
            (10, 0.0, 10.0, Some(0), None),
            (70, 0.0, 10.0, Some(0), None),
            (100, 3.0, 10.0, Some(100), None),
        ]);
    }

    #[test]
    fn an_unestablished_witness_does_not_put_off_the_end() {
        check(&[
            (0, 20.0, 10.0, Some(0), None),
            (10, 0.0, 10.0, Some(0), None),
            (69, 0.0, 200.0, Some(0), None),
            (70, 0.0, 10.0, Some(0), Some(10)),
        ]);
    }
}
