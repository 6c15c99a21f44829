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
