//! Latches on the metrics and on the state, and the severity that follows from them
//! (`docs/assess-contract.md`, severity and symptoms).
//!
//! 1. A latch goes on at its enter bound or beyond. A reading that carries its metric and is not
//!    strictly past the leave bound *shows* it; one that is past it is *good*.
//! 2. It is *established* by enough showing readings in a row over long enough; a critical one also
//!    at once when another symptom is shown besides and the state is MYSTICAL.
//! 3. It goes off at a good reading long enough after the first good one.
//!
//! A set of latches is a mask of bits: 0..8 the warnings of the symptoms in order, 8..16 the
//! criticals, then the two on the state, `low` and `mystical`. On a healthy node no bit is set and
//! nothing but the masks is read.

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Metric, Metrics, Severity, Span, State, Symptom, SymptomsPolicy};

/// A policy's bounds in the form in which a reading meets them: signed so that more is worse.
pub struct Bounds {
    enter: [f64; 16],
    leave: [f64; 16],
    hold: [Span; LATCHES],
    clear: [Span; LATCHES],
    thriving: Span,
    readings: u16,
}

impl Bounds {
    /// The bounds of a policy. A pair that it does not have is never reached.
    pub fn new(policy: &SymptomsPolicy) -> Self {
        let mut bounds = Bounds {
            enter: [f64::INFINITY; 16],
            leave: [f64::INFINITY; 16],
            hold: [span(policy.warning_s); LATCHES],
            clear: [span(policy.clear_s); LATCHES],
            thriving: span(policy.thriving_s),
            readings: policy.readings.min(u32::from(u16::MAX)) as u16,
        };
        for symptom in Symptom::ALL {
            let given = policy.bounds(symptom);
            let critical = given.critical().filter(|_| symptom != Symptom::Idle);
            for (latch, pair) in [
                (symptom as usize, given.warning()),
                (symptom as usize + 8, critical),
            ] {
                if let Some(pair) = pair {
                    bounds.enter[latch] = worse_up(symptom, pair.enter);
                    bounds.leave[latch] = worse_up(symptom, pair.leave);
                }
            }
        }
        bounds.hold[8..16].fill(span(policy.critical_s));
        bounds.hold[MYSTICAL.trailing_zeros() as usize] = span(policy.critical_s);
        bounds.clear[Symptom::Idle as usize] = Span(0);
        bounds
    }

    /// The pair that the 5-minute mean of a symptom's metric is held against, enter and leave,
    /// signed as [`worse_up`] does: the warning's, else the critical one's.
    pub fn confirming(&self, symptom: Symptom) -> (f64, f64) {
        let warning = symptom as usize;
        let latch = if self.enter[warning].is_finite() {
            warning
        } else {
            warning + 8
        };
        (self.enter[latch], self.leave[latch])
    }

    /// How many readings in a row count.
    pub fn readings(&self) -> u16 {
        self.readings
    }

    /// How long EUPHORIC must last to be thriving.
    pub fn thriving(&self) -> Span {
        self.thriving
    }
}

/// A value of a symptom's metric such that more is worse.
pub fn worse_up(symptom: Symptom, value: f64) -> f64 {
    if SymptomsPolicy::lower_is_worse(symptom) {
        -value
    } else {
        value
    }
}

/// A node's latches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Latches {
    on: u32,
    established: u32,
    good: u32,
    rows: [u16; LATCHES],
    /// Of a latch that was last shown, the first reading of its row; of a good one, its first good
    /// reading.
    since: [EventTime; LATCHES],
}

/// What the latches say after a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs {
    on: u32,
    shown: u32,
    established: u32,
    good: u32,
}

impl Latches {
    /// Moves every latch by a reading.
    #[inline]
    pub fn judge(
        &mut self,
        bounds: &Bounds,
        metrics: &Metrics,
        state: State,
        time: EventTime,
    ) -> Signs {
        let values = worse_up_values(metrics);
        let mut entered = 0;
        for latch in 0..16 {
            entered |= u32::from(values[latch % 8] >= bounds.enter[latch]) << latch;
        }
        entered |= u32::from(state <= State::Contemplative) * LOW;
        entered |= u32::from(state == State::Mystical) * MYSTICAL;
        let mut shown = 0;
        if self.on | entered != 0 {
            shown = self.move_all(bounds, &values, state, time, entered);
        }
        self.signs(shown)
    }

    /// Silence as the loop sees it: the critical latch is on, established and shown at once.
    pub fn fall_silent(&mut self) -> Signs {
        let silent = critical(Symptom::Silent);
        self.on |= silent;
        self.established |= silent;
        self.good &= !silent;
        self.signs(silent)
    }

    fn move_all(
        &mut self,
        bounds: &Bounds,
        values: &[f64; 8],
        state: State,
        time: EventTime,
        entered: u32,
    ) -> u32 {
        self.on |= entered;
        let mut shown = 0;
        for latch in bits(self.on) {
            let bit = 1 << latch;
            match meets(bounds, values, state, latch) {
                Meets::Nothing => {}
                Meets::Good => self.show_good(bounds, latch, time),
                Meets::Shown => {
                    shown |= bit;
                    self.show(bounds, latch, time);
                }
            }
        }
        if state == State::Mystical {
            self.establish_by_two_witnesses(shown);
        }
        shown
    }

    fn show(&mut self, bounds: &Bounds, latch: usize, time: EventTime) {
        let bit = 1 << latch;
        if self.good & bit != 0 || self.rows[latch] == 0 {
            self.good &= !bit;
            self.rows[latch] = 0;
            self.since[latch] = time;
        }
        self.rows[latch] = self.rows[latch].saturating_add(1);
        if self.rows[latch] >= bounds.readings && time - self.since[latch] >= bounds.hold[latch] {
            self.established |= bit;
        }
    }

    fn show_good(&mut self, bounds: &Bounds, latch: usize, time: EventTime) {
        let bit = 1 << latch;
        if self.good & bit == 0 {
            self.good |= bit;
            self.since[latch] = time;
        }
        if time - self.since[latch] >= bounds.clear[latch] {
            self.on &= !bit;
            self.established &= !bit;
            self.good &= !bit;
            self.rows[latch] = 0;
        }
    }

    fn establish_by_two_witnesses(&mut self, shown: u32) {
        let symptoms = (shown | shown >> 8) & WARNINGS;
        for latch in bits(shown & CRITICALS) {
            if symptoms & !(1 << (latch - 8)) != 0 {
                self.established |= 1 << latch;
            }
        }
    }

    fn signs(&self, shown: u32) -> Signs {
        Signs {
            on: self.on,
            shown,
            established: self.established,
            good: self.good,
        }
    }
}

impl Signs {
    /// How ill: critical by an established critical latch; warning by a critical latch that is on
    /// or an established warning.
    #[inline]
    pub fn severity(self) -> Severity {
        if self.on & self.established & CRITICALS != 0 {
            Severity::Critical
        } else if self.backing() != 0 {
            Severity::Warning
        } else {
            Severity::Ok
        }
    }

    /// Whether a symptom has a latch on.
    pub fn on(self, symptom: Symptom) -> bool {
        self.on & both(symptom) != 0
    }

    /// Whether its critical latch is on.
    pub fn critical(self, symptom: Symptom) -> bool {
        self.on & critical(symptom) != 0
    }

    /// Whether the reading shows it.
    pub fn shown(self, symptom: Symptom) -> bool {
        self.shown & both(symptom) != 0
    }

    /// Whether one of its latches is established.
    pub fn established(self, symptom: Symptom) -> bool {
        self.established & both(symptom) != 0
    }

    /// The symptoms with a latch on, in order.
    pub fn symptoms(self) -> impl Iterator<Item = Symptom> {
        Symptom::ALL.into_iter().filter(move |s| self.on(*s))
    }

    /// Whether the reading shows any symptom but idle.
    pub fn any_shown(self) -> bool {
        self.shown & (WARNINGS | CRITICALS) != 0
    }

    /// Whether a symptom but idle has a latch on.
    pub fn any_on(self) -> bool {
        self.on & (WARNINGS | CRITICALS) != 0
    }

    /// Whether something backs the severity, and the last reading that carried it was good, for
    /// everything that does.
    pub fn recovering(self) -> bool {
        self.backing() != 0 && self.backing() & !self.good == 0
    }

    /// Whether something backs the severity that was not good when last carried.
    pub fn suffering(self) -> bool {
        self.backing() & !self.good != 0
    }

    /// A critical latch is shown.
    pub(super) fn critical_shown(self) -> bool {
        self.shown & CRITICALS != 0
    }

    /// A latch is established and shown; idle is none.
    pub(super) fn established_shown(self) -> bool {
        self.shown & self.established & (WARNINGS | CRITICALS) != 0
    }

    /// A critical latch that can be healed is established and shown.
    pub(super) fn critical_to_heal(self) -> bool {
        self.shown & self.established & CRITICALS & !both(Symptom::Silent) != 0
    }

    /// A latch that can be healed is established and shown.
    pub(super) fn to_heal(self) -> bool {
        self.shown & self.established & (WARNINGS | CRITICALS) & !both(Symptom::Silent) != 0
    }

    /// CONTEMPLATIVE or worse lasts.
    pub(super) fn low(self) -> bool {
        self.established & LOW != 0
    }

    /// MYSTICAL lasts.
    pub(super) fn mystical(self) -> bool {
        self.established & MYSTICAL != 0
    }

    /// What makes the severity other than ok.
    fn backing(self) -> u32 {
        self.on & (CRITICALS | self.established & WARNINGS)
    }
}

/// What a reading is to a latch that is on.
enum Meets {
    Nothing,
    Good,
    Shown,
}

fn meets(bounds: &Bounds, values: &[f64; 8], state: State, latch: usize) -> Meets {
    let good = match latch {
        LOW_LATCH => state > State::Contemplative,
        MYSTICAL_LATCH => state > State::Mystical,
        _ => {
            let value = values[latch % 8];
            if value.is_nan() {
                return Meets::Nothing;
            }
            value < bounds.leave[latch]
        }
    };
    if good { Meets::Good } else { Meets::Shown }
}

/// What each symptom is read from, more being worse; NaN when it was not measured.
fn worse_up_values(metrics: &Metrics) -> [f64; 8] {
    let given = |metric| metrics.get(metric).unwrap_or(f64::NAN);
    let cpu = given(Metric::CpuPercent);
    [
        -f64::from(metrics.count()),
        given(Metric::PacketLoss),
        given(Metric::LatencyMs),
        -given(Metric::MeshConnectivity),
        cpu,
        given(Metric::MemoryPercent),
        -given(Metric::ZeroTrustSuccessRate),
        -cpu,
    ]
}

fn critical(symptom: Symptom) -> u32 {
    1 << (symptom as u32 + 8)
}

fn both(symptom: Symptom) -> u32 {
    1 << symptom as u32 | critical(symptom)
}

/// The numbers of the bits that are set, lowest first.
fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lowest < 32).then_some(lowest)
    })
}

/// A length in seconds as a span, at least as long.
fn span(seconds: f64) -> Span {
    Span((seconds * 1000.0).ceil() as i64)
}

/// Eight symptoms at two levels and two of the state.
const LATCHES: usize = 18;

const LOW_LATCH: usize = 16;
const MYSTICAL_LATCH: usize = 17;
const LOW: u32 = 1 << LOW_LATCH;
const MYSTICAL: u32 = 1 << MYSTICAL_LATCH;

/// The warnings without idle, which is no illness.
const WARNINGS: u32 = 0x7F;

/// The criticals; idle has none.
const CRITICALS: u32 = 0x7F00;
