//! Windows of a node's metrics as panes: slices of 60 s by the node's own time, so that the work
//! per reading does not grow with a window's length.
//!
//! The row holds the open pane and the sums of the four before. A closed pane is emitted, for a
//! table that is ordered by time. A symptom is *confirmed* by a latch on the mean of its metric
//! over these five: nothing that lasts a minute confirms it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::packed::read_bytes;
use crate::model::{EventTime, Metric, Metrics, Symptom};

use super::symptoms::{Bounds, Signs, worse_up};

/// The readings of one metric in one pane.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slice {
    /// How many; 0: the rest means nothing.
    pub count: u32,
    /// Their sum.
    pub sum: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// A pane that takes no more readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClosedPane {
    /// Its first moment; it ends 60 s later.
    pub start: EventTime,
    /// By metric, in order.
    pub slices: [Slice; 8],
}

/// The panes of a node that a reading touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Panes {
    /// Number of the open pane since 1970.
    open: i64,
    #[serde(serialize_with = "write_slices", deserialize_with = "read_slices")]
    slices: [Slice; 8],
    /// The four before, newest first.
    before: [Sums; BEFORE],
    confirmed: u8,
    carried: u8,
}

/// What a mean needs of a pane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    #[serde(with = "crate::model::packed::eight")]
    sums: [f64; 8],
    #[serde(with = "crate::model::packed::eight")]
    counts: [u32; 8],
}

impl ClosedPane {
    /// The pane's bytes: a mask of the metrics that it has, then per metric the count (LEB128), the
    /// sum and, of more than one reading, least and greatest (f64, little-endian).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 8 * 25);
        out.push(0);
        for (i, slice) in self.slices.iter().enumerate().filter(|(_, s)| s.count > 0) {
            out[0] |= 1 << i;
            let mut count = slice.count;
            while count >= 0x80 {
                out.push(count as u8 | 0x80);
                count >>= 7;
            }
            out.push(count as u8);
            out.extend(slice.sum.to_le_bytes());
            if slice.count > 1 {
                out.extend(slice.min.to_le_bytes());
                out.extend(slice.max.to_le_bytes());
            }
        }
        out
    }

    /// Reads a pane back; `None` when the bytes are none.
    pub fn decode(start: EventTime, bytes: &[u8]) -> Option<Self> {
        let (&mask, mut rest) = bytes.split_first()?;
        let float = |rest: &mut &[u8]| {
            let (bytes, left) = rest.split_first_chunk::<8>()?;
            *rest = left;
            Some(f64::from_le_bytes(*bytes))
        };
        let mut slices = [Slice::default(); 8];
        for (i, slice) in slices.iter_mut().enumerate() {
            if mask & (1 << i) == 0 {
                continue;
            }
            for shift in (0..32).step_by(7) {
                let (&byte, left) = rest.split_first()?;
                rest = left;
                slice.count |= u32::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            slice.sum = float(&mut rest)?;
            (slice.min, slice.max) = match slice.count {
                0 => return None,
                1 => (slice.sum, slice.sum),
                _ => (float(&mut rest)?, float(&mut rest)?),
            };
        }
        rest.is_empty().then_some(ClosedPane { start, slices })
    }
}

impl Panes {
    /// Adds a reading and moves the confirmations; answers the pane that it closed.
    ///
    /// Times never go back.
    pub fn add(
        &mut self,
        bounds: &Bounds,
        metrics: &Metrics,
        time: EventTime,
        signs: Signs,
    ) -> Option<ClosedPane> {
        let closed = self.turn_to(time.0.div_euclid(PANE_MS));
        for (metric, value) in metrics.iter() {
            self.slices[metric as usize].add(value);
        }
        for symptom in Symptom::ALL {
            self.confirm(bounds, symptom, signs);
        }
        closed
    }

    /// Whether the 5-minute mean holds a symptom that was established meanwhile.
    pub fn confirmed(&self, symptom: Symptom) -> bool {
        self.confirmed & self.carried & (1 << symptom as u8) != 0
    }

    /// Makes `number` the open pane.
    fn turn_to(&mut self, number: i64) -> Option<ClosedPane> {
        let turns = number.saturating_sub(self.open);
        if turns == 0 {
            return None;
        }
        let closed = ClosedPane {
            start: EventTime(self.open.saturating_mul(PANE_MS)),
            slices: self.slices,
        };
        let sums = Sums {
            sums: self.slices.map(|slice| slice.sum),
            counts: self.slices.map(|slice| slice.count),
        };
        for turn in 0..turns.min(BEFORE as i64) {
            self.before.rotate_right(1);
            self.before[0] = if turn == 0 { sums } else { Sums::default() };
        }
        if turns > BEFORE as i64 {
            self.before = Default::default();
        }
        self.open = number;
        self.slices = Default::default();
        let any = closed.slices.iter().any(|slice| slice.count > 0);
        any.then_some(closed)
    }

    fn confirm(&mut self, bounds: &Bounds, symptom: Symptom, signs: Signs) {
        let bit = 1 << symptom as u8;
        if let Some(mean) = symptom.metric().and_then(|metric| self.mean(metric)) {
            let mean = worse_up(symptom, mean);
            let (enter, leave) = bounds.confirming(symptom);
            if mean >= enter {
                self.confirmed |= bit;
            } else if mean < leave {
                self.confirmed &= !bit;
            }
        }
        if signs.established(symptom) {
            self.carried |= bit;
        } else if self.confirmed & bit == 0 {
            self.carried &= !bit;
        }
    }

    /// Mean over the open pane and the four before; `None` when none of them has a reading.
    fn mean(&self, metric: Metric) -> Option<f64> {
        let i = metric as usize;
        let open = &self.slices[i];
        let (mut sum, mut count) = (open.sum, open.count);
        for pane in &self.before {
            sum += pane.sums[i];
            count += pane.counts[i];
        }
        (count > 0).then(|| sum / f64::from(count))
    }
}

impl Slice {
    fn add(&mut self, value: f64) {
        let first = self.count == 0;
        self.count = self.count.saturating_add(1);
        self.sum += value;
        self.min = if first { value } else { self.min.min(value) };
        self.max = if first { value } else { self.max.max(value) };
    }
}

/// Writes an open pane as it will be written when it is closed.
fn write_slices<S: Serializer>(slices: &[Slice; 8], to: S) -> Result<S::Ok, S::Error> {
    let pane = ClosedPane {
        start: EventTime(0),
        slices: *slices,
    };
    to.serialize_bytes(&pane.encode())
}

fn read_slices<'de, D: Deserializer<'de>>(from: D) -> Result<[Slice; 8], D::Error> {
    read_bytes(from, "a pane", |bytes| {
        ClosedPane::decode(EventTime(0), bytes).map(|pane| pane.slices)
    })
}

/// Length of a pane.
const PANE_MS: i64 = 60_000;

/// Panes before the open one that count for the mean.
const BEFORE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::symptoms::Latches;
    use crate::model::{State, SymptomsPolicy};

    /// Readings of (s, packet loss) and whether lossy is confirmed after each.
    fn check(steps: &[(i64, Option<f64>, bool)]) {
        let bounds = Bounds::new(&SymptomsPolicy {
            readings: 1,
            warning_s: 0.0,
            ..SymptomsPolicy::default()
        });
        let (mut panes, mut latches) = (Panes::default(), Latches::default());
        for (s, loss, expected) in steps {
            let mut metrics = Metrics::default();
            if let Some(loss) = loss {
                assert!(metrics.try_set(Metric::PacketLoss, *loss));
            }
            let time = EventTime(s * 1000);
            let signs = latches.judge(&bounds, &metrics, State::Harmonic, time);
            panes.add(&bounds, &metrics, time, signs);
            assert_eq!(panes.confirmed(Symptom::Lossy), *expected, "at {s} s");
        }
    }

    #[test]
    fn a_mean_of_five_panes_confirms_and_outlasts_the_latch() {
        check(&[
            (0, Some(0.0), false),
            (60, Some(0.0), false),
            (120, Some(5.0), false),
            (180, Some(5.0), true),
            (240, Some(1.0), true),
            (300, Some(1.0), true),
            (360, Some(1.0), true),
            (420, Some(1.0), true),
            (480, Some(1.0), false),
        ]);
    }

    #[test]
    fn a_mean_is_not_moved_by_readings_without_the_metric_and_forgets_after_a_gap() {
        check(&[
            (0, Some(5.0), true),
            (60, None, true),
            (240, None, true),
            (100_000, None, true),
            (100_001, Some(1.0), false),
        ]);
    }

    #[test]
    fn a_pane_closes_when_the_next_begins() {
        let bounds = Bounds::new(&SymptomsPolicy::default());
        let mut panes = Panes::default();
        let mut add = |ms, cpu| {
            let mut metrics = Metrics::default();
            assert!(metrics.try_set(Metric::CpuPercent, cpu));
            panes.add(&bounds, &metrics, EventTime(ms), Signs::default())
        };
        assert_eq!(add(120_000, 10.0), None, "nothing was open before");
        assert_eq!(add(179_999, 30.0), None);
        let closed = add(300_000, 1.0).unwrap();
        assert_eq!(closed.start, EventTime(120_000));
        let (count, sum, min, max) = (2, 40.0, 10.0, 30.0);
        let slice = Slice {
            count,
            sum,
            min,
            max,
        };
        assert_eq!(closed.slices[Metric::CpuPercent as usize], slice);
        assert_eq!(closed.slices[Metric::PacketLoss as usize], Slice::default());
    }
}
