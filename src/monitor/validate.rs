//! The rim: a sample's fields, judged in the contract's order.

use crate::model::{
    END_OF_TIME_MS, EventTime, Given, Metric, Metrics, NAME_BYTES_MAX, RawSample, Reading, Span,
    Time,
};

/// Why a sample is refused; a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A name that is no string, a `seq` or `boot` that is no integer.
    WrongType,
    /// No `time`.
    MissingField,
    /// `time` or `received` in another form, no such date, outside the years 1970 to 9999.
    BadTime,
    /// A metric or `interval_s` that is no number.
    NotANumber,
    /// A name empty or too long, a number outside its range.
    OutOfRange,
    /// `time` too far after it was received.
    TimeInFuture,
    /// A `seq` at or below the last accepted one, or an older `boot`.
    DuplicateSeq,
    /// `time` before the last accepted one.
    OutOfOrder,
}

impl Reason {
    /// The word in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::WrongType => "wrong_type",
            Reason::MissingField => "missing_field",
            Reason::BadTime => "bad_time",
            Reason::NotANumber => "not_a_number",
            Reason::OutOfRange => "out_of_range",
            Reason::TimeInFuture => "time_in_future",
            Reason::DuplicateSeq => "duplicate_seq",
            Reason::OutOfOrder => "out_of_order",
        }
    }
}

/// The first fault of a sample: what is wrong with which field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {}", reason.name())]
pub struct Fault {
    /// What.
    pub reason: Reason,
    /// The field's name in a sample.
    pub field: &'static str,
}

impl Fault {
    pub(super) const fn new(reason: Reason, field: &'static str) -> Self {
        Fault { reason, field }
    }
}

/// A sample whose fields are valid; its names are borrowed so that a known node costs no
/// allocation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Valid<'a> {
    /// The mesh, 1..=255 bytes.
    pub mesh: &'a str,
    /// The node, 1..=255 bytes.
    pub node: &'a str,
    /// The rest.
    pub reading: Reading,
}

/// Judges a sample's fields in the order `mesh_id`, `node_id`, `seq`, `boot`, `time`, `received`,
/// `interval_s`, metrics, then whether its time lies too far in the future.
///
/// The only "now" is `heard`, the append time; without one, the sample's own `received`; without
/// that the future is not judged. Order and duplicates are [`Intake`](super::Intake)'s.
///
/// # Errors
/// The first fault.
pub fn validate<'a>(
    raw: &'a RawSample<'_>,
    heard: Option<Time>,
    max_future: Span,
) -> Result<Valid<'a>, Fault> {
    let (mesh, node) = names(raw)?;
    let seq = whole(&raw.seq, "seq")?;
    let boot = whole(&raw.boot, "boot")?.unwrap_or(0);
    let time = time(&raw.time, "time")?.ok_or(Fault::new(Reason::MissingField, "time"))?;
    let received = self::time(&raw.received, "received")?;
    let interval_s = number(&raw.interval_s, "interval_s")?;
    if interval_s.is_some_and(|s| !(s > 0.0 && s.is_finite())) {
        return Err(Fault::new(Reason::OutOfRange, "interval_s"));
    }
    let mut metrics = Metrics::default();
    for (metric, given) in Metric::ALL.into_iter().zip(&raw.metrics) {
        if let Some(value) = number(given, metric.name())?
            && !metrics.try_set(metric, value)
        {
            return Err(Fault::new(Reason::OutOfRange, metric.name()));
        }
    }
    let now = heard.map(|t| t.0).or(received);
    if now.is_some_and(|now| time.saturating_sub(now) > max_future.0) {
        return Err(Fault::new(Reason::TimeInFuture, "time"));
    }
    Ok(Valid {
        mesh,
        node,
        reading: Reading {
            boot,
            seq,
            time: EventTime(time),
            interval_s,
            metrics,
        },
    })
}

/// The names of a sample's mesh and node, `default` when it gives none.
///
/// # Errors
/// A name is no string of 1 to 255 bytes.
pub fn names<'a>(raw: &'a RawSample<'_>) -> Result<(&'a str, &'a str), Fault> {
    Ok((name(&raw.mesh, "mesh_id")?, name(&raw.node, "node_id")?))
}

fn name<'a>(
    given: &'a Given<std::borrow::Cow<'_, str>>,
    field: &'static str,
) -> Result<&'a str, Fault> {
    match given {
        Given::Missing => Ok(NAMELESS),
        Given::WrongType => Err(Fault::new(Reason::WrongType, field)),
        Given::Value(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) => Ok(name),
        Given::Value(_) => Err(Fault::new(Reason::OutOfRange, field)),
    }
}

fn whole(given: &Given<Option<i64>>, field: &'static str) -> Result<Option<i64>, Fault> {
    match given {
        Given::Missing => Ok(None),
        Given::WrongType => Err(Fault::new(Reason::WrongType, field)),
        Given::Value(Some(n)) if *n >= 0 => Ok(Some(*n)),
        Given::Value(_) => Err(Fault::new(Reason::OutOfRange, field)),
    }
}

fn time(given: &Given<Option<i64>>, field: &'static str) -> Result<Option<i64>, Fault> {
    match given {
        Given::Missing => Ok(None),
        Given::Value(Some(ms)) if (0..END_OF_TIME_MS).contains(ms) => Ok(Some(*ms)),
        Given::WrongType | Given::Value(_) => Err(Fault::new(Reason::BadTime, field)),
    }
}

fn number(given: &Given<f64>, field: &'static str) -> Result<Option<f64>, Fault> {
    match given {
        Given::Missing => Ok(None),
        Given::Value(number) if !number.is_nan() => Ok(Some(*number)),
        Given::WrongType | Given::Value(_) => Err(Fault::new(Reason::NotANumber, field)),
    }
}

/// The name of a mesh or node that gives none.
const NAMELESS: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawSample<'static> {
        RawSample {
            time: Given::Value(Some(1_000_000)),
            ..RawSample::default()
        }
    }

    fn check(change: impl FnOnce(&mut RawSample<'static>), expected: Option<(Reason, &str)>) {
        let mut sample = raw();
        change(&mut sample);
        let fault = validate(&sample, None, Span::seconds(300)).err();
        assert_eq!(fault.map(|f| (f.reason, f.field)), expected, "{sample:?}");
    }

    #[test]
    fn names_have_one_to_255_bytes_and_a_default() {
        let valid = raw();
        let valid = validate(&valid, None, Span::seconds(300)).unwrap();
        assert_eq!((valid.mesh, valid.node), ("default", "default"));
        check(|s| s.node = Given::Value("n".repeat(255).into()), None);
        for long in ["n".repeat(256), "é".repeat(128), String::new()] {
            check(
                |s| s.node = Given::Value(long.into()),
                Some((Reason::OutOfRange, "node_id")),
            );
        }
        check(
            |s| s.mesh = Given::WrongType,
            Some((Reason::WrongType, "mesh_id")),
        );
    }

    #[test]
    fn integers_at_their_ends() {
        for n in [0, i64::MAX] {
            check(|s| s.seq = Given::Value(Some(n)), None);
            check(|s| s.boot = Given::Value(Some(n)), None);
        }
        for n in [None, Some(-1), Some(i64::MIN)] {
            check(
                |s| s.seq = Given::Value(n),
                Some((Reason::OutOfRange, "seq")),
            );
            check(
                |s| s.boot = Given::Value(n),
                Some((Reason::OutOfRange, "boot")),
            );
        }
    }

    #[test]
    fn times_lie_in_1970_to_9999() {
        for ms in [0, END_OF_TIME_MS - 1] {
            check(|s| s.time = Given::Value(Some(ms)), None);
        }
        for ms in [None, Some(-1), Some(END_OF_TIME_MS), Some(i64::MIN)] {
            check(
                |s| s.time = Given::Value(ms),
                Some((Reason::BadTime, "time")),
            );
            check(
                |s| s.received = Given::Value(ms),
                Some((Reason::BadTime, "received")),
            );
        }
        check(
            |s| s.time = Given::Missing,
            Some((Reason::MissingField, "time")),
        );
    }

    #[test]
    fn an_interval_is_above_zero() {
        check(|s| s.interval_s = Given::Value(f64::MIN_POSITIVE), None);
        for s in [0.0, -1.0, f64::INFINITY] {
            check(
                |raw| raw.interval_s = Given::Value(s),
                Some((Reason::OutOfRange, "interval_s")),
            );
        }
        for given in [Given::WrongType, Given::Value(f64::NAN)] {
            check(
                |raw| raw.interval_s = given,
                Some((Reason::NotANumber, "interval_s")),
            );
        }
    }

    #[test]
    fn every_metric_has_its_range() {
        for (metric, least, most, below, above) in [
            (Metric::CpuPercent, 0.0, 100.0, -0.1, 100.1),
            (Metric::MemoryPercent, 0.0, 100.0, -0.1, 100.1),
            (
                Metric::MeshConnectivity,
                0.0,
                4294967295.0,
                0.5,
                4294967296.0,
            ),
            (Metric::LatencyMs, 0.0, f64::MAX, -0.1, f64::INFINITY),
            (Metric::PacketLoss, 0.0, 100.0, -1.6, 100.1),
            (Metric::MttrMinutes, 0.0, f64::MAX, -0.1, f64::INFINITY),
            (Metric::ZeroTrustSuccessRate, 0.0, 1.0, -0.1, 1.1),
            (Metric::FrequencyHz, 5e-324, f64::MAX, 0.0, f64::INFINITY),
        ] {
            for value in [least, most] {
                check(|s| s.metrics[metric as usize] = Given::Value(value), None);
            }
            for value in [below, above] {
                check(
                    |s| s.metrics[metric as usize] = Given::Value(value),
                    Some((Reason::OutOfRange, metric.name())),
                );
            }
        }
    }

    #[test]
    fn the_first_fault_in_field_order_is_the_answer() {
        check(
            |s| {
                s.metrics[0] = Given::WrongType;
                s.interval_s = Given::Value(0.0);
                s.received = Given::Value(None);
                s.time = Given::Missing;
                s.boot = Given::WrongType;
            },
            Some((Reason::WrongType, "boot")),
        );
        check(
            |s| {
                s.received = Given::Value(Some(0));
                s.time = Given::Value(Some(300_001));
                s.metrics[4] = Given::Value(-1.0);
            },
            Some((Reason::OutOfRange, "packet_loss")),
        );
    }

    #[test]
    fn the_future_is_judged_by_the_append_time_before_the_samples_own() {
        let mut sample = raw();
        sample.time = Given::Value(Some(300_000));
        sample.received = Given::Value(Some(300_000));
        let judged = |heard| validate(&sample, heard, Span::seconds(300)).map(|v| v.reading.time);
        assert_eq!(judged(None), Ok(EventTime(300_000)));
        assert_eq!(judged(Some(Time(0))), Ok(EventTime(300_000)));
        assert_eq!(
            judged(Some(Time(-1))),
            Err(Fault::new(Reason::TimeInFuture, "time"))
        );
    }
}
