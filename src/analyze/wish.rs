//! What a node's standing asks for, and what the seed's table asks for and the rules refuse.

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Healing, Refusal, Route, Scaling, Severity, State, Symptom, Wish};

use super::symptoms::{Bounds, Signs};
use super::trend::Trend;

/// All that a wish hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Of the reading.
    pub state: State,
    /// By the symptoms.
    pub severity: Severity,
    /// Of phi.
    pub trend: Trend,
    /// Severity ok, and EUPHORIC for long enough, this reading included.
    pub thriving: bool,
    /// The latches.
    pub signs: Signs,
}

impl Standing {
    /// What this reading asks for, the interval by its own state: what `assess` prints.
    pub fn wish(&self) -> Wish {
        self.wish_at(self.state)
    }

    /// What is asked for, the interval by the settled state: what Plan is told.
    pub fn settled_wish(&self) -> Wish {
        self.wish_at(self.settled())
    }

    /// What lasted: MYSTICAL or CONTEMPLATIVE once established, EUPHORIC while thriving, else
    /// HARMONIC.
    pub fn settled(&self) -> State {
        if self.signs.mystical() {
            State::Mystical
        } else if self.signs.low() {
            State::Contemplative
        } else if self.thriving {
            State::Euphoric
        } else {
            State::Harmonic
        }
    }

    /// What the seed's table asks of this reading's state and the rules refuse, in order.
    pub fn withheld(&self) -> impl Iterator<Item = Refusal> + use<> {
        self.refused_at(self.state)
    }

    /// The same of the settled state.
    pub fn refused(&self) -> impl Iterator<Item = Refusal> + use<> {
        self.refused_at(self.settled())
    }

    fn refused_at(&self, state: State) -> impl Iterator<Item = Refusal> + use<> {
        let standing = *self;
        Refusal::ALL
            .into_iter()
            .filter(move |refusal| standing.refuses(state, *refusal))
    }

    fn refuses(&self, state: State, refusal: Refusal) -> bool {
        match refusal {
            Refusal::AggressiveHealing => {
                state == State::Mystical && self.healing() != Some(Healing::Aggressive)
            }
            Refusal::PreemptiveHealing => {
                state == State::Contemplative
                    && self.trend == Trend::Degrading
                    && self.healing().is_none()
            }
            Refusal::EmergencyScale => {
                state == State::Mystical && self.scaling() != Some(Scaling::EmergencyScale)
            }
            Refusal::Optimize => {
                state == State::Euphoric && self.scaling() != Some(Scaling::Optimize)
            }
        }
    }

    fn wish_at(&self, state: State) -> Wish {
        Wish {
            interval_s: self.interval_s(state),
            route: self.route(),
            healing: self.healing(),
            scaling: self.scaling(),
        }
    }

    fn interval_s(&self, state: State) -> u32 {
        let most = if self.signs.critical_shown() {
            10
        } else if self.signs.established_shown() {
            30
        } else if self.severity != Severity::Ok {
            60
        } else {
            u32::MAX
        };
        interval_s(state).min(most)
    }

    fn healing(&self) -> Option<Healing> {
        let signs = self.signs;
        let explained = signs.on(Symptom::Idle) || signs.shown(Symptom::Silent);
        let sinking = self.state == State::Contemplative && self.trend == Trend::Degrading;
        if signs.critical_to_heal() || signs.mystical() && signs.to_heal() {
            Some(Healing::Aggressive)
        } else if signs.low() && signs.to_heal() || sinking && !explained {
            Some(Healing::Preemptive)
        } else {
            None
        }
    }

    fn scaling(&self) -> Option<Scaling> {
        let saturated =
            self.signs.shown(Symptom::CpuSaturated) || self.signs.shown(Symptom::MemorySaturated);
        if saturated && self.healing() == Some(Healing::Aggressive) {
            Some(Scaling::EmergencyScale)
        } else if self.thriving {
            Some(Scaling::Optimize)
        } else {
            None
        }
    }

    fn route(&self) -> Route {
        if self.healing().is_some() {
            Route::LowLatency
        } else if self.thriving {
            Route::HighThroughput
        } else {
            Route::Balanced
        }
    }
}

/// Before the first reading nothing is known against a node.
impl Default for Standing {
    fn default() -> Self {
        Standing {
            state: State::Harmonic,
            severity: Severity::Ok,
            trend: Trend::InsufficientData,
            thriving: false,
            signs: Signs::default(),
        }
    }
}

/// The seed's monitoring interval of a state, s.
pub const fn interval_s(state: State) -> u32 {
    match state {
        State::Euphoric => 120,
        State::Harmonic => 60,
        State::Contemplative => 30,
        State::Mystical => 10,
    }
}

/// The seed's alert level of a state; kept for parity, alerts go by severity.
pub const fn alert_level(state: State) -> &'static str {
    match state {
        State::Euphoric | State::Harmonic => "info",
        State::Contemplative => "warning",
        State::Mystical => "critical",
    }
}

/// A row of EUPHORIC readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thriving {
    since: EventTime,
    row: u16,
}

impl Thriving {
    /// Counts a reading; whether EUPHORIC has lasted long enough, this reading included.
    #[inline]
    pub fn judge(&mut self, bounds: &Bounds, state: State, time: EventTime) -> bool {
        if state != State::Euphoric {
            self.row = 0;
            return false;
        }
        if self.row == 0 {
            self.since = time;
        }
        self.row = self.row.saturating_add(1);
        self.row >= bounds.readings() && time - self.since >= bounds.thriving()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::symptoms::Latches;
    use crate::model::{Metric, Metrics, SymptomsPolicy};

    /// Three readings 30 s apart with these metrics and this state, and what they ask for.
    fn check(
        given: &[(Metric, f64)],
        state: State,
        trend: Trend,
        expected: (Option<Healing>, Option<Scaling>, Route, u32),
        withheld: &[Refusal],
    ) {
        let bounds = Bounds::new(&SymptomsPolicy::default());
        let mut latches = Latches::default();
        let mut metrics = Metrics::default();
        for (metric, value) in given {
            assert!(metrics.try_set(*metric, *value));
        }
        let judge = |s| latches.judge(&bounds, &metrics, state, EventTime(s));
        let signs = [0, 30_000, 60_000].map(judge)[2];
        let standing = Standing {
            state,
            severity: signs.severity(),
            trend,
            thriving: false,
            signs,
        };
        let wish = standing.wish();
        let got = (wish.healing, wish.scaling, wish.route, wish.interval_s);
        assert_eq!(got, expected, "{given:?} {state:?} {trend:?}");
        assert_eq!(standing.withheld().collect::<Vec<_>>(), withheld);
    }

    use Healing::{Aggressive, Preemptive};
    use Route::{Balanced, LowLatency};
    use State::{Contemplative, Euphoric, Harmonic, Mystical};

    #[test]
    fn healing_follows_what_is_shown_and_lasts() {
        let lossy = [(Metric::PacketLoss, 3.0)];
        let critical = [(Metric::PacketLoss, 30.0)];
        let well = [(Metric::PacketLoss, 0.0)];
        let stable = Trend::Stable;
        check(&lossy, Harmonic, stable, (None, None, Balanced, 30), &[]);
        check(
            &lossy,
            Contemplative,
            stable,
            (Some(Preemptive), None, LowLatency, 30),
            &[],
        );
        check(
            &lossy,
            Mystical,
            stable,
            (Some(Aggressive), None, LowLatency, 10),
            &[Refusal::EmergencyScale],
        );
        check(
            &critical,
            Euphoric,
            stable,
            (Some(Aggressive), None, LowLatency, 10),
            &[Refusal::Optimize],
        );
        check(
            &well,
            Mystical,
            stable,
            (None, None, Balanced, 10),
            &[Refusal::AggressiveHealing, Refusal::EmergencyScale],
        );
    }

    #[test]
    fn a_sinking_node_is_healed_early_unless_idleness_or_silence_explains_it() {
        let degrading = Trend::Degrading;
        let preemptive = (Some(Preemptive), None, LowLatency, 30);
        let refused = [Refusal::PreemptiveHealing];
        let well = [(Metric::CpuPercent, 50.0)];
        check(&well, Contemplative, degrading, preemptive, &[]);
        check(&well, Harmonic, degrading, (None, None, Balanced, 60), &[]);
        let none = (None, None, Balanced, 30);
        check(
            &[(Metric::CpuPercent, 5.0)],
            Contemplative,
            degrading,
            none,
            &refused,
        );
        check(&[], Contemplative, degrading, none, &refused);
    }

    #[test]
    fn capacity_is_added_for_saturation_only() {
        let saturated = [(Metric::PacketLoss, 30.0), (Metric::CpuPercent, 95.0)];
        let scale = Some(Scaling::EmergencyScale);
        let aggressive = (Some(Aggressive), scale, LowLatency, 10);
        check(&saturated, Harmonic, Trend::Stable, aggressive, &[]);
        let busy = [(Metric::CpuPercent, 95.0)];
        check(
            &busy,
            Harmonic,
            Trend::Stable,
            (None, None, Balanced, 30),
            &[],
        );
    }

    #[test]
    fn silence_and_idleness_are_nothing_to_heal() {
        let stable = Trend::Stable;
        let both = [Refusal::AggressiveHealing, Refusal::EmergencyScale];
        check(&[], Mystical, stable, (None, None, Balanced, 10), &both);
        check(&[], Harmonic, stable, (None, None, Balanced, 30), &[]);
        let idle = [(Metric::CpuPercent, 5.0)];
        check(&idle, Harmonic, stable, (None, None, Balanced, 60), &[]);
    }
}
