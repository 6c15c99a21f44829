//! Whether a node is there, and there once, in append time.

use serde::{Deserialize, Serialize};

use crate::model::{MonitorPolicy, Reading, Span, Time};

/// A node's silence and its name's conflicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    heard: Time,
    patience: Span,
    silent: bool,
    conflict_until: Option<Time>,
}

impl Presence {
    /// An accepted reading was heard; answers whether it is history: older at its append than the
    /// node's patience.
    pub fn hear(&mut self, now: Time, reading: &Reading, policy: &MonitorPolicy) -> bool {
        self.heard = now;
        self.patience = policy.patience(reading.interval_s);
        self.silent = false;
        now.0.saturating_sub(reading.time.0) > self.patience.0
    }

    /// A sign of two agents with this name was heard.
    pub fn conflict(&mut self, now: Time, policy: &MonitorPolicy) {
        self.conflict_until = Some(now + Span::seconds(policy.conflict_s));
    }

    /// Lets time pass; answers whether the node falls silent now.
    pub fn wake(&mut self, now: Time, hears_since: Time) -> bool {
        if self.conflict_until.is_some_and(|until| now >= until) {
            self.conflict_until = None;
        }
        let falls_silent = !self.silent && now >= self.silent_at(hears_since);
        self.silent |= falls_silent;
        falls_silent
    }

    /// When something changes if nothing is heard: silence or the end of a conflict.
    pub fn wake_at(&self, hears_since: Time) -> Option<Time> {
        let silent_at = (!self.silent).then(|| self.silent_at(hears_since));
        silent_at.into_iter().chain(self.conflict_until).min()
    }

    /// Append time of the last accepted reading.
    pub fn heard(&self) -> Time {
        self.heard
    }

    /// Whether the node is silent.
    pub fn silent(&self) -> bool {
        self.silent
    }

    /// Whether two agents use this name, as far as is known at `now`.
    pub fn conflicting(&self, now: Time) -> bool {
        self.conflict_until.is_some_and(|until| now < until)
    }

    fn silent_at(&self, hears_since: Time) -> Time {
        self.heard.max(hears_since) + self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventTime, Metrics};

    fn heard(now: i64, time: i64, interval_s: Option<f64>) -> (Presence, bool) {
        let mut presence = Presence::default();
        let reading = Reading {
            boot: 0,
            seq: None,
            time: EventTime(time),
            interval_s,
            metrics: Metrics::default(),
        };
        let stale = presence.hear(Time(now), &reading, &MonitorPolicy::default());
        (presence, stale)
    }

    #[test]
    fn silence_comes_three_intervals_after_the_last_word_or_the_loops_own_deafness() {
        let (mut presence, _) = heard(1000, 1000, Some(10.0));
        assert_eq!(presence.wake_at(Time(0)), Some(Time(31_000)));
        assert_eq!(presence.wake_at(Time(5000)), Some(Time(35_000)));
        assert!(!presence.wake(Time(30_999), Time(0)));
        assert!(!presence.wake(Time(31_000), Time(5000)));
        assert!(presence.wake(Time(31_000), Time(0)));
        assert!(presence.silent() && !presence.wake(Time(32_000), Time(0)));
        assert_eq!(presence.wake_at(Time(0)), None);
    }

    #[test]
    fn a_reading_older_than_the_patience_is_history() {
        assert!(!heard(31_000, 1000, Some(10.0)).1);
        assert!(heard(31_001, 1000, Some(10.0)).1);
        assert!(!heard(361_000, 1000, None).1);
        assert!(heard(361_001, 1000, None).1);
    }

    #[test]
    fn a_conflict_lasts_until_no_sign_was_seen_for_ten_minutes() {
        let (mut presence, _) = heard(0, 0, Some(3600.0));
        let policy = MonitorPolicy::default();
        presence.conflict(Time(1000), &policy);
        presence.conflict(Time(2000), &policy);
        assert_eq!(presence.wake_at(Time(0)), Some(Time(602_000)));
        presence.wake(Time(601_999), Time(0));
        assert!(presence.conflicting(Time(601_999)));
        assert!(!presence.conflicting(Time(602_000)));
        presence.wake(Time(602_000), Time(0));
        assert_eq!(presence.wake_at(Time(0)), Some(Time(3 * 3_600_000)));
    }
}
