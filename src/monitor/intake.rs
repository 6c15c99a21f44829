//! A node's readings in order, each once.

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Reading};

use super::{Fault, Reason};

/// What was last accepted of a node. Readings go by (boot, seq); a newer boot starts seq anew, the
/// last time stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intake {
    boot: i64,
    seq: i64,
    time: EventTime,
}

impl Default for Intake {
    fn default() -> Self {
        Intake {
            boot: NEVER,
            seq: 0,
            time: EventTime(i64::MIN),
        }
    }
}

impl Intake {
    /// Accepts a reading and answers its seq, which is the last one plus one when it gives none (a
    /// boot's first: 1).
    ///
    /// # Errors
    /// [`Reason::DuplicateSeq`]: an older boot, or a seq at or below the last accepted one, also
    /// when the last was the greatest; then [`Reason::OutOfOrder`]: a time before the last
    /// accepted one. Nothing has changed then.
    #[inline]
    pub fn accept(&mut self, reading: &Reading) -> Result<i64, Fault> {
        let seq = self.next_seq(reading)?;
        if reading.time < self.time {
            return Err(Fault::new(Reason::OutOfOrder, "time"));
        }
        *self = Intake {
            boot: reading.boot,
            seq,
            time: reading.time,
        };
        Ok(seq)
    }

    /// Whether a reading of an older boot was measured after the newer boot began: then two agents
    /// use one name.
    pub fn conflicts(&self, reading: &Reading) -> bool {
        self.boot > reading.boot && reading.time.0 > self.boot
    }

    /// Whether anything was ever accepted.
    pub fn known(&self) -> bool {
        self.boot != NEVER
    }

    /// The last accepted boot.
    pub fn boot(&self) -> i64 {
        self.boot
    }

    /// The last accepted seq.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The last accepted time.
    pub fn time(&self) -> EventTime {
        self.time
    }

    fn next_seq(&self, reading: &Reading) -> Result<i64, Fault> {
        if reading.boot < self.boot {
            return Err(Fault::new(Reason::DuplicateSeq, "boot"));
        }
        if reading.boot > self.boot {
            return Ok(reading.seq.unwrap_or(1));
        }
        match reading.seq {
            Some(seq) => Some(seq).filter(|seq| *seq > self.seq),
            None => self.seq.checked_add(1),
        }
        .ok_or(Fault::new(Reason::DuplicateSeq, "seq"))
    }
}

/// Older than any boot, so that the first reading is a newer boot's.
const NEVER: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Metrics;

    fn reading(boot: i64, seq: Option<i64>, time: i64) -> Reading {
        Reading {
            boot,
            seq,
            time: EventTime(time),
            interval_s: None,
            metrics: Metrics::default(),
        }
    }

    /// Readings as (boot, seq, time) and the seq or the fault that each must have.
    fn check(steps: &[(i64, Option<i64>, i64, Result<i64, &str>)]) {
        let mut intake = Intake::default();
        for (boot, seq, time, expected) in steps {
            let before = intake;
            let got = intake.accept(&reading(*boot, *seq, *time));
            let got = got.map_err(|f| format!("{} {}", f.reason.name(), f.field));
            assert_eq!(
                got,
                expected.map_err(str::to_owned),
                "{boot} {seq:?} {time}"
            );
            if got.is_err() {
                assert_eq!(intake, before, "a refused reading leaves no trace");
            }
        }
    }

    #[test]
    fn seq_goes_up_with_gaps_from_anywhere() {
        check(&[
            (0, Some(0), 10, Ok(0)),
            (0, Some(0), 10, Err("duplicate_seq seq")),
            (0, None, 10, Ok(1)),
            (0, Some(7), 10, Ok(7)),
            (0, Some(7), 5, Err("duplicate_seq seq")),
            (0, Some(8), 5, Err("out_of_order time")),
            (0, None, 11, Ok(8)),
        ]);
        check(&[(0, None, 0, Ok(1)), (0, None, 0, Ok(2))]);
    }

    #[test]
    fn after_the_greatest_seq_all_are_duplicates_until_a_new_boot() {
        check(&[
            (0, Some(i64::MAX), 0, Ok(i64::MAX)),
            (0, None, 1, Err("duplicate_seq seq")),
            (0, Some(i64::MAX), 1, Err("duplicate_seq seq")),
            (1, None, 1, Ok(1)),
        ]);
    }

    #[test]
    fn a_newer_boot_starts_seq_anew_but_not_time() {
        check(&[
            (5, Some(9), 100, Ok(9)),
            (6, None, 99, Err("out_of_order time")),
            (6, None, 100, Ok(1)),
            (5, Some(10), 101, Err("duplicate_seq boot")),
            (0, None, 101, Err("duplicate_seq boot")),
            (6, Some(1), 101, Err("duplicate_seq seq")),
            (7, Some(0), 101, Ok(0)),
        ]);
    }

    #[test]
    fn an_old_boot_heard_after_the_new_one_began_is_a_second_agent() {
        let mut intake = Intake::default();
        assert!(!intake.conflicts(&reading(0, None, 5)));
        intake.accept(&reading(1000, None, 1001)).unwrap();
        assert!(!intake.conflicts(&reading(10, None, 900)), "a late buffer");
        assert!(!intake.conflicts(&reading(1000, None, 1002)));
        assert!(intake.conflicts(&reading(10, None, 1001)));
    }
}
