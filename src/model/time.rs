//! Times and spans, in milliseconds.
//!
//! [`Time`] is the loop's clock: the append time of an inbox record. [`EventTime`] is a node's own
//! clock. They are different types on purpose: one wrong clock must not move another node's alarms.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Append time of a record: ms since 1970-01-01T00:00:00Z, never going back within a partition.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub i64);

/// A node's own time of measurement: ms since 1970-01-01T00:00:00Z, in the years 1970 to 9999.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EventTime(pub i64);

/// A length of time in ms; negative when the later instant lies before the earlier one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Span(pub i64);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(s: i64) -> Self {
        Span(s.saturating_mul(1000))
    }

    /// This span `n` times.
    pub const fn times(self, n: i64) -> Self {
        Span(self.0.saturating_mul(n))
    }
}

macro_rules! instant {
    ($name:ident) => {
        impl Add<Span> for $name {
            type Output = $name;
            fn add(self, span: Span) -> $name {
                $name(self.0.saturating_add(span.0))
            }
        }
        impl Sub<Span> for $name {
            type Output = $name;
            fn sub(self, span: Span) -> $name {
                $name(self.0.saturating_sub(span.0))
            }
        }
        impl Sub for $name {
            type Output = Span;
            fn sub(self, earlier: $name) -> Span {
                Span(self.0.saturating_sub(earlier.0))
            }
        }
        /// RFC 3339 in UTC with milliseconds: `2026-01-01T00:00:10.000Z`.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    std::str::from_utf8(&rfc3339(self.0)).expect("only ASCII digits and signs"),
                )
            }
        }
    };
}
instant!(Time);
instant!(EventTime);

/// First millisecond that no valid time reaches: 10000-01-01T00:00:00Z.
pub const END_OF_TIME_MS: i64 = 253_402_300_800_000;

/// Writes ms since 1970 as `YYYY-MM-DDTHH:MM:SS.mmmZ`; outside the years 1970 to 9999 the nearest
/// end of them.
pub fn rfc3339(ms: i64) -> [u8; 24] {
    let ms = ms.clamp(0, END_OF_TIME_MS - 1);
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: i64| {
        for i in (at..at + width).rev() {
            out[i] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, in_day / 3_600_000);
    put(14, 2, in_day / 60_000 % 60);
    put(17, 2, in_day / 1000 % 60);
    put(20, 3, in_day % 1000);
    out
}

/// Reads RFC 3339 with capital `T` and `Z` and seconds 0..59; finer than a millisecond is cut off.
///
/// `None` for any other form, for a date that does not exist and for years before 1970.
pub fn parse_rfc3339(text: &[u8]) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        text.get(range)?.iter().try_fold(0i64, |n, b| {
            b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0'))
        })
    };
    let sign = |at: usize, want: u8| (*text.get(at)? == want).then_some(());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    for (at, want) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        sign(at, want)?;
    }
    let millis = match text.get(19)? {
        b'Z' if text.len() == 20 => 0,
        b'.' => {
            let digits = text.get(20..text.len() - 1)?;
            sign(text.len() - 1, b'Z')?;
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            (0..3).fold(0, |ms, i| {
                ms * 10 + i64::from(digits.get(i).map_or(0, |d| d - b'0'))
            })
        }
        _ => return None,
    };
    let valid = year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = days_from_civil(year, month, day);
    valid.then_some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level
/// date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = year - i64::from(month <= 2);
    let era = y / 400;
    let yoe = y - era * 400;
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// The date of a day since 1970-01-01 (same source).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (
        yoe + era * 400 + i64::from(month <= 2),
        month,
        doy - (153 * mp + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_milliseconds_agree_both_ways() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:34:56.789Z", 951_827_696_789),
            ("2026-01-01T00:00:10.000Z", 1_767_225_610_000),
            ("9999-12-31T23:59:59.999Z", END_OF_TIME_MS - 1),
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()), Some(ms));
            assert_eq!(Time(ms).to_string(), text);
        }
    }

    #[test]
    fn finer_than_a_millisecond_is_cut_off() {
        assert_eq!(parse_rfc3339(b"1970-01-01T00:00:00.1239999Z"), Some(123));
        assert_eq!(parse_rfc3339(b"1970-01-01T00:00:01Z"), Some(1000));
        assert_eq!(parse_rfc3339(b"1970-01-01T00:00:01.5Z"), Some(1500));
    }

    #[test]
    fn other_forms_and_dates_that_do_not_exist_are_refused() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01t00:00:00Z",
            "2026-01-01T00:00:00z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T24:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+00:00",
            "1969-12-31T23:59:59Z",
            "2026-01-01T00:00:00,5Z",
            "12026-01-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_eight_thousand_years_comes_back() {
        for day in 0..END_OF_TIME_MS / 86_400_000 {
            let (y, m, d) = civil_from_days(day);
            assert_eq!(days_from_civil(y, m, d), day);
        }
    }
}
