//! A sample as a JSON object (`docs/assess-contract.md`, a line in).
//!
//! 1. The quick way reads the object once, without a tree of values; strings are borrowed unless
//!    they hold escapes. serde_json tells a whole number from one with a point or exponent, but
//!    gives both as f64 when it is too large for 64 bits.
//! 2. So where an integer field holds such a number, or where a number is refused because no f64
//!    holds it, the slow way reads the object again, field by field as raw text. It is also what
//!    refuses what is no JSON.
//!
//! Both ways take memory and time in proportion to the line; its length is the caller's to limit
//! ([`LINE_BYTES_MAX`]). Nesting is skipped without recursion.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::{Given, Metric, Neighbour, NodeId, RawSample, parse_rfc3339};

/// Longest line that is read, bytes: a Kafka broker's default limit of a record. A longer one is
/// not JSON to us.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// The bytes are not one JSON object in UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading a sample: {0}, expected one JSON object in UTF-8")]
pub struct NotJson(pub String);

/// Reads a sample. Unknown fields are ignored, of a key given twice the last counts, null is
/// missing; faulty neighbours are left out.
///
/// # Errors
/// The bytes are not one JSON object in UTF-8.
pub fn parse_sample(line: &[u8]) -> Result<RawSample<'_>, NotJson> {
    let text = std::str::from_utf8(line).map_err(|e| NotJson(e.to_string()))?;
    match read_object(text, Quick::default()) {
        Ok(Quick {
            sample,
            again: false,
        }) => Ok(sample),
        Ok(Quick { again: true, .. }) | Err(_) => read_object(text, Slow::default())
            .map(|slow| slow.0)
            .map_err(|e| NotJson(e.to_string())),
    }
}

fn read_object<'de, V: Visitor<'de>>(
    text: &'de str,
    visitor: V,
) -> Result<V::Value, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = json.deserialize_map(visitor)?;
    json.end()?;
    Ok(value)
}

/// A field of a sample.
#[derive(Clone, Copy)]
enum Field {
    Mesh,
    Node,
    Seq,
    Boot,
    Time,
    Received,
    IntervalS,
    Metric(Metric),
    Neighbours,
    Unknown,
}

impl Field {
    fn of(key: &str) -> Field {
        match key {
            "mesh_id" => Field::Mesh,
            "node_id" => Field::Node,
            "seq" => Field::Seq,
            "boot" => Field::Boot,
            "time" => Field::Time,
            "received" => Field::Received,
            "interval_s" => Field::IntervalS,
            "cpu_percent" => Field::Metric(Metric::CpuPercent),
            "memory_percent" => Field::Metric(Metric::MemoryPercent),
            "mesh_connectivity" => Field::Metric(Metric::MeshConnectivity),
            "latency_ms" => Field::Metric(Metric::LatencyMs),
            "packet_loss" => Field::Metric(Metric::PacketLoss),
            "mttr_minutes" => Field::Metric(Metric::MttrMinutes),
            "zero_trust_success_rate" => Field::Metric(Metric::ZeroTrustSuccessRate),
            "frequency_hz" => Field::Metric(Metric::FrequencyHz),
            "neighbours" => Field::Neighbours,
            _ => Field::Unknown,
        }
    }

    fn is_integer(self) -> bool {
        matches!(
            self,
            Field::Seq | Field::Boot | Field::Time | Field::Received
        )
    }
}

impl<'de> serde::Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Field, E> {
                Ok(Field::of(key))
            }
        }
        from.deserialize_identifier(Key)
    }
}

/// A value of any type, as far as a sample tells types apart.
enum Loose<'a> {
    Null,
    /// A number without point and exponent that an i64 holds.
    Integer(i64),
    /// Such a number that no i64 holds: its nearest f64.
    Huge(f64),
    Number(f64),
    Text(Cow<'a, str>),
    Other,
}

impl<'a> Loose<'a> {
    fn name(self) -> Given<Cow<'a, str>> {
        match self {
            Loose::Null => Given::Missing,
            Loose::Text(text) => Given::Value(text),
            Loose::Integer(_) | Loose::Huge(_) | Loose::Number(_) | Loose::Other => {
                Given::WrongType
            }
        }
    }

    fn whole(self) -> Given<Option<i64>> {
        match self {
            Loose::Null => Given::Missing,
            Loose::Integer(n) => Given::Value(Some(n)),
            Loose::Huge(_) => Given::Value(None),
            Loose::Number(_) | Loose::Text(_) | Loose::Other => Given::WrongType,
        }
    }

    fn time(self) -> Given<Option<i64>> {
        match self {
            Loose::Null => Given::Missing,
            Loose::Integer(ms) => Given::Value(Some(ms)),
            Loose::Text(text) => Given::Value(parse_rfc3339(text.as_bytes())),
            Loose::Huge(_) | Loose::Number(_) => Given::Value(None),
            Loose::Other => Given::WrongType,
        }
    }

    fn number(self) -> Given<f64> {
        match self {
            Loose::Null => Given::Missing,
            Loose::Integer(n) => Given::Value(n as f64),
            Loose::Huge(number) | Loose::Number(number) if number.is_finite() => {
                Given::Value(number)
            }
            Loose::Huge(_) | Loose::Number(_) | Loose::Text(_) | Loose::Other => Given::WrongType,
        }
    }
}

fn set<'a>(sample: &mut RawSample<'a>, field: Field, value: Loose<'a>) {
    match field {
        Field::Mesh => sample.mesh = value.name(),
        Field::Node => sample.node = value.name(),
        Field::Seq => sample.seq = value.whole(),
        Field::Boot => sample.boot = value.whole(),
        Field::Time => sample.time = value.time(),
        Field::Received => sample.received = value.time(),
        Field::IntervalS => sample.interval_s = value.number(),
        Field::Metric(metric) => sample.metrics[metric as usize] = value.number(),
        Field::Neighbours | Field::Unknown => {}
    }
}

/// The quick way; `again` when an integer field held a number that is only known as f64.
#[derive(Default)]
struct Quick<'a> {
    sample: RawSample<'a>,
    again: bool,
}

impl<'de> Visitor<'de> for Quick<'de> {
    type Value = Quick<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
                Field::Neighbours => self.sample.neighbours = map.next_value_seed(Neighbours)?,
                _ => {
                    let value = map.next_value_seed(AnyValue)?;
                    self.again |= field.is_integer() && matches!(value, Loose::Number(_));
                    set(&mut self.sample, field, value);
                }
            }
        }
        Ok(self)
    }
}

/// The slow way.
#[derive(Default)]
struct Slow<'a>(RawSample<'a>);

impl<'de> Visitor<'de> for Slow<'de> {
    type Value = Slow<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(field) = map.next_key::<Field>()? {
            let raw = map.next_value::<&RawValue>()?.get();
            match field {
                Field::Unknown => {}
                Field::Neighbours => {
                    self.0.neighbours = raw_neighbours(raw).map_err(serde::de::Error::custom)?;
                }
                _ => {
                    let value = raw_value(raw).map_err(serde::de::Error::custom)?;
                    set(&mut self.0, field, value);
                }
            }
        }
        Ok(self)
    }
}

fn raw_value(raw: &str) -> Result<Loose<'_>, serde_json::Error> {
    Ok(match raw.as_bytes()[0] {
        b'n' => Loose::Null,
        b'"' => read(raw, AnyValue)?,
        b'-' | b'0'..=b'9' => {
            // What JSON calls a number, Rust reads too, to the nearest f64; beyond them it is
            // infinite.
            let number = raw.parse().unwrap_or(f64::NAN);
            if raw.contains(['.', 'e', 'E']) {
                Loose::Number(number)
            } else {
                raw.parse().map_or(Loose::Huge(number), Loose::Integer)
            }
        }
        _ => Loose::Other,
    })
}

/// Neighbours of which some number may be beyond f64: such a one is left out.
fn raw_neighbours(raw: &str) -> Result<Vec<Neighbour>, serde_json::Error> {
    let Ok(links) = serde_json::from_str::<Vec<&RawValue>>(raw) else {
        return read(raw, Neighbours);
    };
    Ok(links
        .into_iter()
        .filter_map(|link| read(link.get(), MaybeNeighbour).ok().flatten())
        .collect())
}

fn read<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    seed: S,
) -> Result<S::Value, serde_json::Error> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(text))
}

macro_rules! any_value_to {
    ($seed:ident -> $value:ty) => {
        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<$value, D::Error> {
                from.deserialize_any(self)
            }
        }
    };
}

/// Reads any value.
struct AnyValue;
any_value_to!(AnyValue -> Loose<'de>);

impl<'de> Visitor<'de> for AnyValue {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Loose::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
        Ok(Loose::Integer(n))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(n).map_or(Loose::Huge(n as f64), Loose::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Loose::Number(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}

/// What a value that should be something else still is to a lenient reader: nothing.
macro_rules! nothing_else {
    ($nothing:expr, $expecting:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str($expecting)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($nothing)
        }
    };
}

/// Reads the links, leaving out what is none.
struct Neighbours;
any_value_to!(Neighbours -> Vec<Neighbour>);

impl<'de> Visitor<'de> for Neighbours {
    type Value = Vec<Neighbour>;

    nothing_else!(Vec::new(), "links");

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut links = Vec::new();
        while let Some(link) = seq.next_element_seed(MaybeNeighbour)? {
            links.extend(link);
        }
        Ok(links)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Vec::new())
    }
}

/// Reads a link, if it is one.
struct MaybeNeighbour;
any_value_to!(MaybeNeighbour -> Option<Neighbour>);

impl<'de> Visitor<'de> for MaybeNeighbour {
    type Value = Option<Neighbour>;

    nothing_else!(None, "a link");

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut node = None;
        let mut latency = Given::Missing;
        let mut loss = Given::Missing;
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Node => {
                    node = match map.next_value_seed(AnyValue)?.name() {
                        Given::Value(name) => NodeId::parse(&name),
                        Given::Missing | Given::WrongType => None,
                    }
                }
                Field::Metric(Metric::LatencyMs) => {
                    latency = map.next_value_seed(AnyValue)?.number();
                }
                Field::Metric(Metric::PacketLoss) => {
                    loss = map.next_value_seed(AnyValue)?.number();
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(link(node, &latency, &loss))
    }
}

fn link(node: Option<NodeId>, latency: &Given<f64>, loss: &Given<f64>) -> Option<Neighbour> {
    Some(Neighbour {
        node_id: node?,
        latency_ms: in_range(Metric::LatencyMs, latency)?,
        packet_loss: in_range(Metric::PacketLoss, loss)?,
    })
}

/// The value, if any, or `None` when it is faulty.
#[expect(clippy::option_option, reason = "faulty and missing are two things")]
fn in_range(metric: Metric, given: &Given<f64>) -> Option<Option<f64>> {
    match given {
        Given::Missing => Some(None),
        Given::WrongType => None,
        Given::Value(value) => metric.admits(*value).then_some(Some(*value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: impl FnOnce(&mut RawSample<'_>)) {
        let mut want = RawSample::default();
        expected(&mut want);
        assert_eq!(parse_sample(line.as_bytes()).as_ref(), Ok(&want), "{line}");
        let slow = read_object(line, Slow::default()).unwrap().0;
        assert_eq!(slow, want, "the slow way: {line}");
    }

    #[test]
    fn integers_are_told_from_other_numbers() {
        for (text, seq) in [
            ("5", Given::Value(Some(5))),
            ("-5", Given::Value(Some(-5))),
            ("-0", Given::Value(Some(0))),
            ("9223372036854775807", Given::Value(Some(i64::MAX))),
            ("9223372036854775808", Given::Value(None)),
            ("18446744073709551616", Given::Value(None)),
            ("-9223372036854775809", Given::Value(None)),
            ("5.0", Given::WrongType),
            ("1e3", Given::WrongType),
            ("1E400", Given::WrongType),
            ("\"5\"", Given::WrongType),
            ("[5]", Given::WrongType),
            ("true", Given::WrongType),
            ("null", Given::Missing),
        ] {
            check(&format!("{{\"seq\":{text}}}"), |s| s.seq = seq.clone());
            check(&format!("{{\"boot\":{text}}}"), |s| s.boot = seq);
        }
        let long = "9".repeat(1000);
        check(&format!("{{\"seq\":{long}}}"), |s| {
            s.seq = Given::Value(None);
        });
    }

    #[test]
    fn a_time_is_text_or_an_integer() {
        for (text, time) in [
            ("\"1970-01-01T00:00:01Z\"", Given::Value(Some(1000))),
            ("\"1970-01-01T00:00:01\\u005a\"", Given::Value(Some(1000))),
            ("1000", Given::Value(Some(1000))),
            ("-0", Given::Value(Some(0))),
            ("1000.0", Given::Value(None)),
            ("1e3", Given::Value(None)),
            ("1e999", Given::Value(None)),
            ("99999999999999999999", Given::Value(None)),
            ("\"soon\"", Given::Value(None)),
            ("{}", Given::WrongType),
            ("false", Given::WrongType),
            ("null", Given::Missing),
        ] {
            check(&format!("{{\"time\":{text}}}"), |s| s.time = time.clone());
            check(&format!("{{\"received\":{text}}}"), |s| s.received = time);
        }
    }

    #[test]
    fn a_metric_is_any_number_to_the_nearest_f64() {
        for (text, value) in [
            ("5", Given::Value(5.0)),
            ("5.0", Given::Value(5.0)),
            ("5e0", Given::Value(5.0)),
            ("0.1", Given::Value(0.1)),
            ("-0", Given::Value(-0.0)),
            ("9007199254740993", Given::Value(9007199254740992.0)),
            ("18446744073709551615", Given::Value(18446744073709551616.0)),
            ("1e-400", Given::Value(0.0)),
            ("1e999", Given::WrongType),
            ("\"NaN\"", Given::WrongType),
            ("{\"v\":1}", Given::WrongType),
            ("null", Given::Missing),
        ] {
            check(&format!("{{\"cpu_percent\":{text}}}"), |s| {
                s.metrics[0] = value.clone();
            });
            check(&format!("{{\"interval_s\":{text}}}"), |s| {
                s.interval_s = value;
            });
        }
    }

    #[test]
    fn the_last_of_a_key_counts_and_unknown_ones_do_not() {
        check(
            r#"{"seq":1.5,"x":1e999,"seq":3,"y":{"seq":[4]},"z":[[[]]]}"#,
            |s| s.seq = Given::Value(Some(3)),
        );
        check(r#"{"seq":3,"seq":null}"#, |_| {});
        check(r#" { "node_id" : "a\n\"" , "mesh_id":"\u00e9" } "#, |s| {
            s.node = Given::Value("a\n\"".into());
            s.mesh = Given::Value("é".into());
        });
    }

    #[test]
    fn faulty_neighbours_are_left_out() {
        let peer = |name: &str, latency_ms, packet_loss| Neighbour {
            node_id: NodeId::parse(name).unwrap(),
            latency_ms,
            packet_loss,
        };
        check(
            r#"{"neighbours":[{"node_id":"a","latency_ms":9},5,null,"x",[],{"latency_ms":1},
                {"node_id":""},{"node_id":"b","packet_loss":101},{"node_id":7},
                {"node_id":"c","packet_loss":1.5,"latency_ms":null,"more":{}},
                {"node_id":"d","latency_ms":"9"}]}"#,
            |s| s.neighbours = vec![peer("a", Some(9.0), None), peer("c", None, Some(1.5))],
        );
        for none in ["5", "\"x\"", "null", "{\"a\":1}", "[]"] {
            check(&format!("{{\"neighbours\":{none}}}"), |_| {});
        }
        let beyond = br#"{"neighbours":[{"node_id":"a"},{"node_id":"b","latency_ms":1e999}]}"#;
        assert_eq!(
            parse_sample(beyond).unwrap().neighbours,
            [peer("a", None, None)]
        );
    }

    #[test]
    fn what_is_no_object_is_not_json() {
        for line in [
            "",
            " ",
            "not json",
            "{",
            "{\"time\":",
            "[1,2]",
            "42",
            "null",
            "\"x\"",
            "{} {}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"cpu_percent\":NaN}",
            "{\"seq\":01}",
            "{\"seq\":1.}",
            "{\"seq\":+1}",
            "{\"time\":\"\\ud800\"}",
            "{\"x\":\"\u{1}\"}",
            "{} trailing",
        ] {
            assert!(parse_sample(line.as_bytes()).is_err(), "{line}");
        }
        assert!(parse_sample(b"{\"x\":\"\xff\"}").is_err());
        assert!(parse_sample(b"\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let deep = |key: &str| {
            let n = LINE_BYTES_MAX / 2 - 32;
            format!("{{\"{key}\":{}{}}}", "[".repeat(n), "]".repeat(n))
        };
        check(&deep("x"), |_| {});
        check(&deep("seq"), |s| s.seq = Given::WrongType);
        check(&deep("time"), |s| s.time = Given::WrongType);
        check(&deep("neighbours"), |_| {});
    }
}
