//! Telegraf's JSON (`data_format = "json"`), read as our samples by a table of words.
//!
//! A message is `{"name","tags","fields","timestamp"}`, or several of them under `"metrics"`. The
//! table says which tag names mesh and node and, per metric of ours, which field of which
//! measurement it is:
//!
//! ```text
//! measurement.field                          ping.average_response_ms
//! measurement[tag=value].field               cpu[cpu=cpu-total].usage_user
//! .. * FACTOR + OFFSET                       cpu[cpu=cpu-total].usage_idle * -1 + 100
//! ```
//!
//! What the table does not name is left out. A message of which nothing is left is no reading: it
//! becomes a Tick, which is harmless, so that a Telegraf may send everything it has. The samples
//! have no `seq`: each counts that is not older than the one before, so that a node's measurements,
//! which Telegraf sends one a message under one timestamp, all count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{END_OF_TIME_MS, Metric, NAME_BYTES_MAX};

use super::json::Object;

/// A mapping as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingWords {
    /// The tag that names the mesh; with `=` before it, the mesh's name itself.
    pub mesh: String,
    /// The tag that names the node; with `=` before it, the node's name itself.
    pub node: String,
    /// What timestamps count: `s`, `ms`, `us` or `ns`.
    pub time_unit: String,
    /// Per metric, by its name, where it stands; empty or missing: nowhere.
    pub metrics: BTreeMap<String, String>,
}

/// A mapping that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    mesh: Naming,
    node: Naming,
    /// Timestamps a second.
    ticks: i64,
    places: Vec<(Metric, Place)>,
}

/// How a name is found.
#[derive(Clone, Debug, PartialEq)]
enum Naming {
    Tag(String),
    Fixed(String),
}

/// Where a metric stands.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    measurement: String,
    tag: Option<(String, String)>,
    field: String,
    factor: f64,
    offset: f64,
}

/// A sample of Telegraf's.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    /// Its node.
    pub node: String,
    /// The sample as our JSON.
    pub json: String,
}

impl Mapping {
    /// Reads a mapping.
    ///
    /// # Errors
    /// A word is none: which, and what was expected.
    pub fn parse(words: &MappingWords) -> Result<Mapping, String> {
        let ticks = match words.time_unit.as_str() {
            "s" => 1,
            "ms" => 1000,
            "us" => 1_000_000,
            "ns" => 1_000_000_000,
            other => return Err(format!("time_unit: {other:?}, expected s, ms, us or ns")),
        };
        let mut places = Vec::new();
        for metric in Metric::ALL {
            match words.metrics.get(metric.name()).map_or("", |text| text) {
                "" => {}
                text => {
                    let place =
                        Place::parse(text).map_err(|why| format!("{}: {why}", metric.name()))?;
                    places.push((metric, place));
                }
            }
        }
        if places.is_empty() {
            return Err("no metric has a place, expected one at least".to_owned());
        }
        Ok(Mapping {
            mesh: Naming::parse(&words.mesh).map_err(|why| format!("mesh: {why}"))?,
            node: Naming::parse(&words.node).map_err(|why| format!("node: {why}"))?,
            ticks,
            places,
        })
    }

    /// Whether bytes look like one of Telegraf's messages: an object that has what only they have.
    pub fn is_message(value: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Probe {
            fields: Option<serde::de::IgnoredAny>,
            metrics: Option<Vec<serde::de::IgnoredAny>>,
            timestamp: Option<serde::de::IgnoredAny>,
            node_id: Option<serde::de::IgnoredAny>,
        }
        let holds = |word: &[u8]| value.windows(word.len()).any(|part| part == word);
        value.first() == Some(&b'{')
            && (holds(b"\"fields\"") || holds(b"\"metrics\""))
            && serde_json::from_slice::<Probe>(value).is_ok_and(|probe| {
                probe.node_id.is_none()
                    && (probe.metrics.is_some()
                        || probe.fields.is_some() && probe.timestamp.is_some())
            })
    }

    /// Reads a message; `None`: it has nothing that the mapping names.
    ///
    /// # Errors
    /// It is none, or what the mapping names is not what was expected.
    pub fn read(&self, value: &[u8]) -> Result<Option<Mapped>, String> {
        let reading = |error| format!("reading Telegraf's JSON: {error}");
        let message: Message =
            serde_json::from_slice(value).map_err(|error| reading(error.to_string()))?;
        let points = match message {
            Message::Batch { metrics } => metrics,
            Message::One(point) => vec![point],
        };
        let mut sample: Option<Draft> = None;
        for point in &points {
            let values = self.values(point).map_err(reading)?;
            if values.is_empty() {
                continue;
            }
            let mesh = self.mesh.name(point).map_err(reading)?;
            let node = self.node.name(point).map_err(reading)?;
            let time = self.time(point.timestamp).map_err(reading)?;
            match &mut sample {
                None => {
                    sample = Some(Draft {
                        mesh,
                        node,
                        time,
                        values,
                    });
                }
                Some(sample) if (sample.mesh, sample.node) == (mesh, node) => {
                    sample.time = sample.time.max(time);
                    sample.values.extend(values);
                }
                Some(sample) => {
                    return Err(reading(format!(
                        "nodes {:?} and {node:?} in one message, expected one node",
                        sample.node
                    )));
                }
            }
        }
        Ok(sample.map(|sample| Mapped {
            node: sample.node.to_owned(),
            json: sample.json(),
        }))
    }

    /// What the mapping names of a point.
    fn values(&self, point: &Point) -> Result<BTreeMap<Metric, f64>, String> {
        let mut values = BTreeMap::new();
        for (metric, place) in &self.places {
            if place.measurement != point.name {
                continue;
            }
            if let Some((tag, value)) = &place.tag
                && point.tags.get(tag) != Some(value)
            {
                continue;
            }
            let Some(given) = point.fields.get(&place.field) else {
                continue;
            };
            let number = given.as_f64().ok_or_else(|| {
                format!(
                    "field {} of {}: {given}, expected a number",
                    place.field, point.name
                )
            })?;
            let value = number * place.factor + place.offset;
            if !value.is_finite() {
                let field = &place.field;
                return Err(format!(
                    "field {field} of {}: {given}, too large",
                    point.name
                ));
            }
            values.insert(*metric, nudged(*metric, value));
        }
        Ok(values)
    }

    /// A timestamp in ms.
    fn time(&self, timestamp: i64) -> Result<i64, String> {
        let ms = match self.ticks {
            1 => timestamp.checked_mul(1000),
            ticks => Some(timestamp.div_euclid(ticks / 1000)),
        };
        ms.filter(|ms| (0..END_OF_TIME_MS).contains(ms))
            .ok_or_else(|| {
                format!(
                    "timestamp {timestamp}, expected one of the years 1970 to 9999 (is \
                     formats.telegraf.time_unit that of json_timestamp_units?)"
                )
            })
    }
}

/// A sample in the making.
struct Draft<'a> {
    mesh: &'a str,
    node: &'a str,
    time: i64,
    values: BTreeMap<Metric, f64>,
}

impl Draft<'_> {
    fn json(&self) -> String {
        let mut out = Object::new();
        out.put("mesh_id", self.mesh);
        out.put("node_id", self.node);
        out.put("time", &self.time);
        for (metric, value) in &self.values {
            out.put(metric.name(), value);
        }
        out.end()
    }
}

impl Naming {
    fn parse(text: &str) -> Result<Naming, String> {
        let expected = || format!("{text:?}, expected a tag's name, or = and the name itself");
        match text.strip_prefix('=') {
            _ if text.len() > NAME_BYTES_MAX => Err(expected()),
            Some("") => Err(expected()),
            Some(name) => Ok(Naming::Fixed(name.to_owned())),
            None if text.is_empty() => Err(expected()),
            None => Ok(Naming::Tag(text.to_owned())),
        }
    }

    fn name<'a>(&'a self, point: &'a Point) -> Result<&'a str, String> {
        match self {
            Naming::Fixed(name) => Ok(name),
            Naming::Tag(tag) => point.tags.get(tag).map(String::as_str).ok_or_else(|| {
                format!(
                    "{} has no tag {tag:?}, expected the one that names it",
                    point.name
                )
            }),
        }
    }
}

impl Place {
    fn parse(text: &str) -> Result<Place, String> {
        let expected = || {
            format!(
                "{text:?}, expected measurement.field or measurement[tag=value].field, then \
                 perhaps * FACTOR and + OFFSET"
            )
        };
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        let (rest, offset) = match text.rsplit_once(" + ") {
            Some((rest, offset)) => (rest, number(offset).ok_or_else(expected)?),
            None => (text, 0.0),
        };
        let (rest, factor) = match rest.rsplit_once(" * ") {
            Some((rest, factor)) => (rest, number(factor).ok_or_else(expected)?),
            None => (rest, 1.0),
        };
        let rest = rest.trim();
        let (measurement, tag, field) = match rest.split_once('[') {
            Some((measurement, rest)) => {
                let (tag, field) = rest.split_once("].").ok_or_else(expected)?;
                let (tag, value) = tag.split_once('=').ok_or_else(expected)?;
                (measurement, Some((tag.to_owned(), value.to_owned())), field)
            }
            None => {
                let (measurement, field) = rest.split_once('.').ok_or_else(expected)?;
                (measurement, None, field)
            }
        };
        let no_tag = tag.as_ref().is_some_and(|(tag, _)| tag.is_empty());
        if measurement.is_empty() || field.is_empty() || no_tag || factor == 0.0 {
            return Err(expected());
        }
        Ok(Place {
            measurement: measurement.to_owned(),
            tag,
            field: field.to_owned(),
            factor,
            offset,
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Batch { metrics: Vec<Point> },
    One(Point),
}

#[derive(Deserialize)]
struct Point {
    name: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, serde_json::Value>,
    timestamp: i64,
}

/// A value that misses a bound of its metric by what arithmetic on floats costs, on the bound:
/// Telegraf's `usage_idle` is 100.00000000000001 at times.
fn nudged(metric: Metric, value: f64) -> f64 {
    const SLACK: f64 = 1e-6;
    if metric.admits(value) {
        return value;
    }
    let whole = value.round();
    let near = (value - whole).abs() <= SLACK && metric.admits(whole);
    if near { whole + 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> MappingWords {
        let metrics = [
            ("cpu_percent", "cpu[cpu=cpu-total].usage_idle * -1 + 100"),
            ("memory_percent", "mem.used_percent"),
            ("latency_ms", "ping.average_response_s * 1000"),
            ("packet_loss", "ping.percent_packet_loss"),
        ];
        MappingWords {
            mesh: "=site".into(),
            node: "host".into(),
            time_unit: "s".into(),
            metrics: metrics.map(|(k, v)| (k.into(), v.into())).into(),
        }
    }

    fn check(words: &MappingWords, message: &str, expected: Result<Option<&str>, &str>) {
        let mapping = Mapping::parse(words).unwrap();
        assert!(Mapping::is_message(message.as_bytes()), "{message}");
        let got = mapping.read(message.as_bytes());
        match (expected, got) {
            (Ok(expected), Ok(got)) => {
                let expected = expected.map(|lines| lines.lines().map(str::trim).collect());
                let expected: Option<String> = expected;
                assert_eq!(got.map(|mapped| mapped.json), expected, "{message}");
            }
            (Err(expected), Err(got)) => assert!(got.contains(expected), "{got}"),
            (expected, got) => panic!("{message}: expected {expected:?}, got {got:?}"),
        }
    }

    fn point(name: &str, tags: &str, fields: &str) -> String {
        format!(
            r#"{{"fields":{{{fields}}},"name":"{name}","tags":{{"host":"n-1"{tags}}},
                "timestamp":1458229140}}"#
        )
    }

    #[test]
    fn what_the_table_names_becomes_a_sample() {
        check(
            &words(),
            &point(
                "cpu",
                r#","cpu":"cpu-total""#,
                r#""usage_idle":25.5,"usage_user":7"#,
            ),
            Ok(Some(
                r#"{"mesh_id":"site","node_id":"n-1","time":1458229140000,"cpu_percent":74.5}"#,
            )),
        );
        check(
            &words(),
            &point(
                "ping",
                r#","url":"a""#,
                r#""average_response_s":0.5,"percent_packet_loss":0"#,
            ),
            Ok(Some(
                r#"{"mesh_id":"site","node_id":"n-1","time":1458229140000,
                "latency_ms":500.0,"packet_loss":0.0}"#,
            )),
        );
    }

    #[test]
    fn what_it_does_not_name_is_left_out() {
        for message in [
            point("cpu", r#","cpu":"cpu0""#, r#""usage_idle":25.5"#),
            point("disk", "", r#""used_percent":25.5,"fstype":"ext4""#),
            point("mem", "", r#""free":1"#),
            point("mem", "", ""),
            r#"{"metrics":[]}"#.to_owned(),
        ] {
            check(&words(), &message, Ok(None));
        }
    }

    #[test]
    fn a_batch_of_one_node_is_one_sample_of_its_newest_time() {
        let cpu = point("cpu", r#","cpu":"cpu-total""#, r#""usage_idle":0"#);
        let mem = point("mem", "", r#""used_percent":50.25"#).replace("1458229140", "1458229141");
        let swap = point("swap", "", r#""used_percent":1"#).replace("n-1", "n-2");
        check(
            &words(),
            &format!(r#"{{"metrics":[{cpu},{mem},{swap}]}}"#),
            Ok(Some(
                r#"{"mesh_id":"site","node_id":"n-1","time":1458229141000,
                "cpu_percent":100.0,"memory_percent":50.25}"#,
            )),
        );
        let other = mem.replace("n-1", "n-2");
        check(
            &words(),
            &format!(r#"{{"metrics":[{cpu},{other}]}}"#),
            Err("nodes \"n-1\" and \"n-2\" in one message"),
        );
    }

    #[test]
    fn timestamps_count_what_the_table_says() {
        for (unit, timestamp, ms) in [
            ("s", 1_458_229_140i64, 1_458_229_140_000i64),
            ("ms", 1_458_229_140_017, 1_458_229_140_017),
            ("us", 1_458_229_140_017_999, 1_458_229_140_017),
            ("ns", 1_458_229_140_017_999_999, 1_458_229_140_017),
        ] {
            let words = MappingWords {
                time_unit: unit.into(),
                ..words()
            };
            let message = point("mem", "", r#""used_percent":1"#)
                .replace("1458229140", &timestamp.to_string());
            let expected =
                format!(r#"{{"mesh_id":"site","node_id":"n-1","time":{ms},"memory_percent":1.0}}"#);
            check(&words, &message, Ok(Some(&expected)));
        }
        let late = point("mem", "", r#""used_percent":1"#).replace("1458229140", "1458229140017");
        check(&words(), &late, Err("json_timestamp_units"));
        let before = late.replace("1458229140017", "-1");
        check(&words(), &before, Err("timestamp -1"));
    }

    #[test]
    fn names_come_from_tags_or_stand_fixed() {
        let tagged = MappingWords {
            mesh: "mesh".into(),
            ..words()
        };
        check(
            &tagged,
            &point("mem", r#","mesh":"north""#, r#""used_percent":1"#),
            Ok(Some(
                r#"{"mesh_id":"north","node_id":"n-1","time":1458229140000,"memory_percent":1.0}"#,
            )),
        );
        check(
            &tagged,
            &point("mem", "", r#""used_percent":1"#),
            Err("mem has no tag \"mesh\""),
        );
    }

    #[test]
    fn what_is_no_number_is_refused_and_a_hair_beyond_a_bound_is_not() {
        check(
            &words(),
            &point("mem", "", r#""used_percent":"50%""#),
            Err("field used_percent of mem: \"50%\", expected a number"),
        );
        for (idle, cpu) in [("100.00000000000001", "0.0"), ("-0.0000000001", "100.0")] {
            let fields = format!(r#""usage_idle":{idle}"#);
            check(
                &words(),
                &point("cpu", r#","cpu":"cpu-total""#, &fields),
                Ok(Some(&format!(
                    r#"{{"mesh_id":"site","node_id":"n-1","time":1458229140000,
                "cpu_percent":{cpu}}}"#
                ))),
            );
        }
        check(
            &words(),
            &point("mem", "", r#""used_percent":101"#),
            Ok(Some(
                r#"{"mesh_id":"site","node_id":"n-1","time":1458229140000,"memory_percent":101.0}"#,
            )),
        );
    }

    #[test]
    fn our_own_samples_are_no_messages() {
        for value in [
            &br#"{"mesh_id":"m","node_id":"n","time":7,"fields":{},"timestamp":1}"#[..],
            br#"{"mesh_id":"fields","node_id":"n","time":7}"#,
            br#"{"fields":{}}"#,
            b"",
            b"[]",
            b"{\"fields\":",
            b"\xC3\x01\"fields\"",
        ] {
            assert!(!Mapping::is_message(value), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn words_that_are_none_are_refused_by_name() {
        let refused = |change: &dyn Fn(&mut MappingWords), expected: &str| {
            let mut words = words();
            change(&mut words);
            let why = Mapping::parse(&words).unwrap_err();
            assert!(why.contains(expected), "{why} should name {expected}");
        };
        refused(&|w| w.time_unit = "h".into(), "time_unit: \"h\"");
        refused(&|w| w.mesh = String::new(), "mesh: \"\"");
        refused(&|w| w.node = "=".into(), "node: \"=\"");
        refused(&|w| w.metrics.clear(), "no metric");
        for text in [
            "mem",
            ".used",
            "mem.",
            "mem[tag].used",
            "mem[=v].used",
            "mem[t=v]used",
            "mem.used * x",
            "mem.used * 0",
            "mem.used + inf",
        ] {
            let set = |w: &mut MappingWords| {
                w.metrics.insert("memory_percent".into(), text.into());
            };
            refused(&set, "memory_percent: ");
        }
    }
}
