//! A line from outside on its way to `metrics`: what the door and `produce` take in.
//!
//! A sample is judged here as Monitor will judge it when it is folded, so that its sender hears
//! what is wrong with it at once, and only what can be read ever lies in the log. What hangs on the
//! readings before (order, duplicates) is judged by the fold alone.

use std::fmt;

use crate::model::{Given, MeshId, NodeId, RawSample, Sample, Span, Time};
use crate::monitor::{Fault, Reason, validate};
use crate::wire;
use crate::wire::sample_json::parse_sample;

/// A sample ready to be appended to `metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its own time: the record's timestamp where the source of time is `sample`.
    pub time: Time,
    /// Its record's key.
    pub key: Vec<u8>,
    /// Its record's value.
    pub value: Vec<u8>,
}

/// Why a line was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// One word of a closed list: `not_json` or one of Monitor's reasons.
    pub reason: &'static str,
    /// The field at fault.
    pub field: Option<&'static str>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "{}: {field}", self.reason),
            None => f.write_str(self.reason),
        }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Refused {
            reason: fault.reason.name(),
            field: Some(fault.field),
        }
    }
}

/// Takes one line of JSON without its end: as in `assess-contract.md`, but both names are required,
/// and a missing `seq` is `time` in ms.
///
/// `now` is what time an append would bear; with the samples' own time ([`FOREVER`] then) nothing
/// lies in the future.
///
/// [`FOREVER`]: crate::model::FOREVER
///
/// # Errors
/// The first fault, in the contract's order.
pub fn take_line(line: &[u8], now: Time, max_future: Span) -> Result<Taken, Refused> {
    let raw = parse_sample(line).map_err(|_| Refused {
        reason: "not_json",
        field: None,
    })?;
    take(raw, now, max_future)
}

/// Takes a sample that was read already, as [`take_line`] does.
///
/// # Errors
/// The first fault, in the contract's order.
pub fn take(mut raw: RawSample<'_>, now: Time, max_future: Span) -> Result<Taken, Refused> {
    for (missing, field) in [
        (raw.mesh == Given::Missing, "mesh_id"),
        (raw.node == Given::Missing, "node_id"),
    ] {
        if missing {
            return Err(Fault {
                reason: Reason::MissingField,
                field,
            }
            .into());
        }
    }
    let neighbours = std::mem::take(&mut raw.neighbours);
    let valid = validate(&raw, Some(now), max_future)?;
    let sample = Sample {
        mesh: MeshId::parse(valid.mesh).expect("its length was judged"),
        node: NodeId::parse(valid.node).expect("its length was judged"),
        reading: valid.reading,
        neighbours,
    };
    Ok(Taken {
        time: Time(valid.reading.time.0),
        key: valid.node.as_bytes().to_vec(),
        value: wire::encode_sample(&sample),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MetricsRecord;

    const NOW: Time = Time(1_000_000);

    fn taken(line: &str) -> Result<Taken, Refused> {
        take_line(line.as_bytes(), NOW, Span::seconds(300))
    }

    fn refused(line: &str, reason: &str, field: Option<&str>) {
        let refused = taken(line).unwrap_err();
        assert_eq!((refused.reason, refused.field), (reason, field), "{line}");
    }

    #[test]
    fn a_line_becomes_the_record_that_analyze_reads() {
        let taken = taken(
            r#"{"mesh_id":"m","node_id":"n","time":"1970-01-01T00:16:39Z","boot":5,"cpu_percent":50,
            "neighbours":[{"node_id":"p","latency_ms":3}]}"#,
        )
        .unwrap();
        assert_eq!(
            (taken.time, taken.key.as_slice()),
            (Time(999_000), &b"n"[..])
        );
        let Ok(MetricsRecord::Sample(raw)) = wire::decode_metrics(&taken.value) else {
            panic!("a sample")
        };
        assert_eq!(raw.seq, Given::Value(Some(999_000)), "its time in ms");
        assert_eq!(raw.boot, Given::Value(Some(5)));
        assert_eq!(raw.metrics[0], Given::Value(50.0));
        assert_eq!(raw.neighbours.len(), 1);
    }

    #[test]
    fn a_given_seq_stays() {
        let taken = taken(r#"{"mesh_id":"m","node_id":"n","time":0,"seq":7}"#).unwrap();
        let Ok(MetricsRecord::Sample(raw)) = wire::decode_metrics(&taken.value) else {
            panic!("a sample")
        };
        assert_eq!(raw.seq, Given::Value(Some(7)));
    }

    #[test]
    fn each_fault_is_named_with_its_field() {
        for line in ["", "nonsense", "[]", "{\"mesh_id\":\"m\"", "{} {}"] {
            refused(line, "not_json", None);
        }
        refused(
            r#"{"node_id":"n","time":0}"#,
            "missing_field",
            Some("mesh_id"),
        );
        refused(
            r#"{"mesh_id":"m","node_id":null,"time":0}"#,
            "missing_field",
            Some("node_id"),
        );
        refused(
            r#"{"mesh_id":"","node_id":"n","time":0}"#,
            "out_of_range",
            Some("mesh_id"),
        );
        let line = |rest: &str| format!(r#"{{"mesh_id":"m","node_id":"n",{rest}}}"#);
        for (rest, reason, field) in [
            (r#""seq":1"#, "missing_field", "time"),
            (r#""time":"yesterday""#, "bad_time", "time"),
            (
                r#""time":0,"packet_loss":-1.6"#,
                "out_of_range",
                "packet_loss",
            ),
            (
                r#""time":0,"cpu_percent":"x""#,
                "not_a_number",
                "cpu_percent",
            ),
            (r#""time":0,"boot":1.5"#, "wrong_type", "boot"),
            (r#""time":1300001"#, "time_in_future", "time"),
        ] {
            refused(&line(rest), reason, Some(field));
        }
        assert!(taken(&line(r#""time":1300000"#)).is_ok());
    }

    #[test]
    fn with_the_samples_own_time_nothing_lies_in_the_future() {
        let line = br#"{"mesh_id":"m","node_id":"n","time":"9999-01-01T00:00:00Z"}"#;
        let max_future = Span::seconds(0);
        assert!(take_line(line, NOW, max_future).is_err());
        assert!(take_line(line, crate::model::FOREVER, max_future).is_ok());
    }
}
