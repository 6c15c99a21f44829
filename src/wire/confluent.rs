//! Confluent's frame: a zero byte, the id that a Schema Registry gave the writer's schema, 4 bytes
//! big-endian, and the value in Avro.
//!
//! What a frame means is a function of its bytes and its schema's text, and a registry never gives
//! an id another text. A frame of one of our schemas is our own encoding under another header: the
//! value's bytes stay. A frame of anybody's else is read as a sample, field by field by name, as
//! Avro's rules of schema resolution say:
//!
//! 1. A field of `MetricSample` that the writer has is taken, an `int` where a `long` is expected,
//!    any number where a `double` is; one that it has not takes its default. Mesh, node and time
//!    must be there; a missing `seq` is the time in ms, as at the door. A time that counts micro-
//!    or nanoseconds, and says so by its logical type, is brought to ms.
//! 2. What else the writer has is passed over, but read: the bytes must be those of its schema, all
//!    of them.
//!
//! This is done here and not by apache-avro, which takes a text or a union behind the end of the
//! bytes for null and reserves what a length claims. `tests/formats.rs` holds both against each
//! other.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{
    END_OF_TIME_MS, EventTime, MeshId, Metric, Metrics, Neighbour, NodeId, Reading, Sample,
};

use super::avro::{Fault, Reader};
use super::schema::{fingerprint, full_name, registered};
use super::{MAGIC, encode_sample};

/// Bytes before the value.
const HEADER: usize = 5;

/// The schema's id and the value of a frame; `None`: it is none.
pub fn open_frame(value: &[u8]) -> Option<(u32, &[u8])> {
    let (id, body) = value.strip_prefix(&[0])?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*id), body))
}

/// The frame of what lies in our own encoding, under the id of its schema; `None`: it does not.
pub fn frame(id: u32, object: &[u8]) -> Option<Vec<u8>> {
    let (_, body) = object.strip_prefix(&MAGIC)?.split_at_checked(8)?;
    let mut framed = Vec::with_capacity(HEADER + body.len());
    framed.push(0);
    framed.extend_from_slice(&id.to_be_bytes());
    framed.extend_from_slice(body);
    Some(framed)
}

/// What a frame holds, in our own encoding, when it was written by the schema with this
/// fingerprint.
pub(super) fn unframed(fingerprint: [u8; 8], body: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &fingerprint, body].concat()
}

/// A writer's schema, as far as we read what was written with it.
#[derive(Clone, Debug)]
pub struct Written(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// One of ours.
    Ours([u8; 8]),
    /// Anybody's.
    Foreign(Layout),
}

impl Written {
    /// Takes a schema's text.
    ///
    /// # Errors
    /// It is none, or none that can be read as a sample.
    pub fn by(text: &str) -> Result<Written, String> {
        let fingerprint = fingerprint(text)?;
        if registered(fingerprint).is_some() {
            return Ok(Written(Kind::Ours(fingerprint)));
        }
        let schema: Value =
            serde_json::from_str(text).map_err(|error| format!("reading a schema: {error}"))?;
        Layout::of(&schema).map(|layout| Written(Kind::Foreign(layout)))
    }

    /// A value written with it, in our own encoding. Whether ours is sound the fold judges.
    ///
    /// # Errors
    /// The bytes are not what the schema says, or a name or time is none.
    pub fn translate(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        match &self.0 {
            Kind::Ours(fingerprint) => Ok(unframed(*fingerprint, body)),
            Kind::Foreign(layout) => layout.sample(body).map(|sample| encode_sample(&sample)),
        }
    }
}

/// The layout of a foreign record.
#[derive(Clone, Debug)]
struct Layout {
    fields: Vec<(String, Type)>,
    /// Named types, referred to by their place here.
    named: Vec<Type>,
}

/// A type of Avro, as far as it must be known to read past a value or take a number or text.
#[derive(Clone, Debug, PartialEq)]
enum Type {
    Null,
    Boolean,
    /// Values a ms: 1, 1000 or 1,000,000; 1 for what is no time.
    Long(i64),
    Int,
    Float,
    Double,
    Text,
    Bytes,
    Fixed(usize),
    /// So many symbols.
    Enum(usize),
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    Record(Vec<(String, Type)>),
    Named(usize),
}

/// What was read of a value: what we may want of it.
#[derive(Debug)]
enum Found<'a> {
    Null,
    /// A whole number and how many of it a ms is.
    Whole(i64, i64),
    Double(f64),
    Text(&'a str),
    Links(Vec<Neighbour>),
    Other,
}

impl Layout {
    fn of(schema: &Value) -> Result<Layout, String> {
        let mut types = Types::default();
        let top = types.read(schema, "", 0)?;
        let fields = match top {
            Type::Named(at) => match &types.named[at] {
                Some(Type::Record(fields)) => fields.clone(),
                _ => return Err(not_a_sample("its top is no record")),
            },
            _ => return Err(not_a_sample("its top is no record")),
        };
        let named = types.named.into_iter().flatten().collect();
        let layout = Layout { fields, named };
        layout.check()?;
        Ok(layout)
    }

    /// Whether a sample can be read with it: each field of ours that it has may hold what we
    /// expect there.
    fn check(&self) -> Result<(), String> {
        for name in ["mesh_id", "node_id", "time"] {
            if !self.fields.iter().any(|(field, _)| field == name) {
                return Err(not_a_sample(&format!("it has no field {name}")));
            }
        }
        for (name, held) in &self.fields {
            let Some(want) = Want::of(name) else { continue };
            let fits = match self.resolved(held) {
                Type::Union(branches) => branches.iter().any(|b| want.takes(self.resolved(b))),
                one => want.takes(one),
            };
            if !fits {
                return Err(not_a_sample(&format!(
                    "its field {name} is no {}",
                    want.word()
                )));
            }
        }
        Ok(())
    }

    fn resolved<'a>(&'a self, held: &'a Type) -> &'a Type {
        match held {
            Type::Named(at) => &self.named[*at],
            other => other,
        }
    }

    fn sample(&self, body: &[u8]) -> Result<Sample, String> {
        let mut from = Reader::new(body, body.len(), 1);
        let mut left = STEPS_MIN + STEPS_PER_BYTE * body.len();
        let mut found: BTreeMap<&str, Found<'_>> = BTreeMap::new();
        for (name, held) in &self.fields {
            let value = match Want::of(name) {
                Some(Want::Links) => self.links(held, &mut from, &mut left),
                _ => self.read(held, &mut from, 0, &mut left),
            };
            let value = value.map_err(|fault| {
                format!(
                    "reading a sample: {name} at byte {}: {fault}",
                    from.position()
                )
            })?;
            found.insert(name, value);
        }
        if from.left() > 0 {
            let left = from.left();
            return Err(format!(
                "reading a sample: {left} bytes after its end, expected none"
            ));
        }
        sample_of(&mut found).map_err(|why| format!("reading a sample: {why}"))
    }

    /// Reads a value whole, in at most so many steps as are left.
    fn read<'a>(
        &self,
        held: &Type,
        from: &mut Reader<'a>,
        depth: usize,
        left: &mut usize,
    ) -> Result<Found<'a>, Fault> {
        *left = left.checked_sub(1).ok_or_else(|| {
            Fault::Nested(
                "more values than so many bytes can be, expected each to have some".into(),
            )
        })?;
        if depth > DEPTH_MAX {
            return Err(Fault::Nested(format!(
                "values within values, more than {DEPTH_MAX} deep"
            )));
        }
        let depth = depth + 1;
        Ok(match held {
            Type::Null => Found::Null,
            Type::Boolean => match from.array::<1>()? {
                [0 | 1] => Found::Other,
                [other] => return Err(Fault::Boolean(other)),
            },
            Type::Long(in_ms) => Found::Whole(from.long()?, *in_ms),
            Type::Int => {
                let number = from.long()?;
                i32::try_from(number).map_err(|_| Fault::Number)?;
                Found::Whole(number, 1)
            }
            Type::Float => Found::Double(f32::from_le_bytes(from.array()?).into()),
            Type::Double => Found::Double(f64::from_le_bytes(from.array()?)),
            Type::Text => Found::Text(from.text()?),
            // Bytes stand for a text where one is wanted, as the rules of resolution have it.
            Type::Bytes => std::str::from_utf8(from.bytes()?).map_or(Found::Other, Found::Text),
            Type::Fixed(size) => {
                from.skip(*size)?;
                Found::Other
            }
            Type::Enum(symbols) => {
                let at = from.long()?;
                if !usize::try_from(at).is_ok_and(|at| at < *symbols) {
                    return Err(Fault::Choice(at));
                }
                Found::Other
            }
            Type::Array(items) => {
                from.items(|from| self.read(items, from, depth, left).map(drop))?;
                Found::Other
            }
            Type::Map(values) => {
                from.items(|from| {
                    from.text()?;
                    self.read(values, from, depth, left).map(drop)
                })?;
                Found::Other
            }
            Type::Union(branches) => {
                let at = from.long()?;
                let branch = usize::try_from(at).ok().and_then(|at| branches.get(at));
                self.read(branch.ok_or(Fault::Choice(at))?, from, depth, left)?
            }
            Type::Record(fields) => {
                for (_, held) in fields {
                    self.read(held, from, depth, left)?;
                }
                Found::Other
            }
            Type::Named(at) => self.read(&self.named[*at], from, depth, left)?,
        })
    }

    /// Reads the field `neighbours`: links, or nothing.
    fn links<'a>(
        &self,
        held: &Type,
        from: &mut Reader<'a>,
        left: &mut usize,
    ) -> Result<Found<'a>, Fault> {
        match self.resolved(held) {
            Type::Union(branches) => {
                let at = from.long()?;
                let branch = usize::try_from(at).ok().and_then(|at| branches.get(at));
                self.links(branch.ok_or(Fault::Choice(at))?, from, left)
            }
            Type::Array(item) if matches!(self.resolved(item), Type::Record(_)) => {
                let Type::Record(fields) = self.resolved(item) else {
                    unreachable!("it was matched");
                };
                let mut links = Vec::new();
                from.items(|from| {
                    let mut link: BTreeMap<&str, Found<'_>> = BTreeMap::new();
                    for (name, held) in fields {
                        link.insert(name, self.read(held, from, 0, left)?);
                    }
                    links.extend(link_of(&mut link));
                    Ok(())
                })?;
                Ok(Found::Links(links))
            }
            other => self.read(other, from, 0, left),
        }
    }
}

/// A link, or `None` when it has a bad name or value: links are not judged.
fn link_of(found: &mut BTreeMap<&str, Found<'_>>) -> Option<Neighbour> {
    let node_id = NodeId::parse(text(found.remove("node_id"))?)?;
    let mut value = |name: &str, metric: Metric| match number(found.remove(name)) {
        Some(value) => metric.admits(value).then_some(Some(value + 0.0)),
        None => Some(None),
    };
    Some(Neighbour {
        node_id,
        latency_ms: value("latency_ms", Metric::LatencyMs)?,
        packet_loss: value("packet_loss", Metric::PacketLoss)?,
    })
}

fn sample_of(found: &mut BTreeMap<&str, Found<'_>>) -> Result<Sample, String> {
    let mesh = text(found.remove("mesh_id")).and_then(MeshId::parse);
    let mesh = mesh.filter(|mesh| !mesh.is_none());
    let node = text(found.remove("node_id")).and_then(NodeId::parse);
    let time = match found.remove("time") {
        Some(Found::Whole(ticks, in_ms)) => Some(ticks.div_euclid(in_ms)),
        _ => None,
    };
    let time = time.filter(|time| (0..END_OF_TIME_MS).contains(time));
    let mut metrics = Metrics::default();
    for metric in Metric::ALL {
        if let Some(value) = number(found.remove(metric.name()))
            && !metrics.try_set(metric, value)
        {
            return Err(format!("{} {value}, out of its range", metric.name()));
        }
    }
    let whole = |found: Option<Found<'_>>| match found {
        Some(Found::Whole(number, _)) => Some(number),
        _ => None,
    };
    let interval_s = number(found.remove("interval_s"));
    if interval_s.is_some_and(|interval| !interval.is_finite()) {
        return Err("interval_s is not finite".to_owned());
    }
    Ok(Sample {
        mesh: mesh.ok_or("mesh_id, expected 1 to 255 bytes")?,
        node: node.ok_or("node_id, expected 1 to 255 bytes")?,
        reading: Reading {
            boot: whole(found.remove("boot")).unwrap_or(0),
            seq: whole(found.remove("seq")),
            time: EventTime(time.ok_or("time, expected one of the years 1970 to 9999")?),
            interval_s,
            metrics,
        },
        neighbours: match found.remove("neighbours") {
            Some(Found::Links(links)) => links,
            _ => Vec::new(),
        },
    })
}

fn text<'a>(found: Option<Found<'a>>) -> Option<&'a str> {
    match found {
        Some(Found::Text(text)) => Some(text),
        _ => None,
    }
}

fn number(found: Option<Found<'_>>) -> Option<f64> {
    match found {
        Some(Found::Double(value)) => Some(value),
        Some(Found::Whole(value, _)) => Some(value as f64),
        _ => None,
    }
}

/// What we expect in a field of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Name,
    Whole,
    Number,
    Links,
}

impl Want {
    fn of(field: &str) -> Option<Want> {
        match field {
            "mesh_id" | "node_id" => Some(Want::Name),
            "boot" | "seq" | "time" | "mesh_connectivity" => Some(Want::Whole),
            "interval_s" => Some(Want::Number),
            "neighbours" => Some(Want::Links),
            _ => {
                let ours = Metric::ALL.iter().any(|metric| metric.name() == field);
                ours.then_some(Want::Number)
            }
        }
    }

    fn takes(self, held: &Type) -> bool {
        match self {
            Want::Name => matches!(held, Type::Text | Type::Bytes),
            Want::Whole => matches!(held, Type::Int | Type::Long(_)),
            Want::Number => matches!(held, Type::Int | Type::Long(_) | Type::Float | Type::Double),
            Want::Links => matches!(held, Type::Array(_)),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Want::Name => "string",
            Want::Whole => "int or long",
            Want::Number => "number",
            Want::Links => "array",
        }
    }
}

/// Types on their way from a schema's text.
#[derive(Default)]
struct Types {
    names: BTreeMap<String, usize>,
    /// `None` while its own definition is read.
    named: Vec<Option<Type>>,
}

impl Types {
    fn read(&mut self, schema: &Value, within: &str, depth: usize) -> Result<Type, String> {
        let wrong = |what: &str| format!("reading a schema: {what}");
        if depth > DEPTH_MAX {
            return Err(wrong("types within types, too deep"));
        }
        let depth = depth + 1;
        let object = match schema {
            Value::String(name) => return self.by_name(name, within),
            Value::Array(branches) => {
                let branches = branches.iter().map(|b| self.read(b, within, depth));
                return branches.collect::<Result<_, _>>().map(Type::Union);
            }
            Value::Object(object) => object,
            other => return Err(wrong(&format!("{other}, expected a type"))),
        };
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(inner) => return self.read(inner, within, depth),
            None => return Err(wrong("an object without a type")),
        };
        let part = |key: &str| {
            object
                .get(key)
                .ok_or_else(|| wrong(&format!("{kind} without {key}")))
        };
        match kind {
            "array" => {
                let items = self.read(part("items")?, within, depth)?;
                Ok(Type::Array(Box::new(items)))
            }
            "map" => {
                let values = self.read(part("values")?, within, depth)?;
                Ok(Type::Map(Box::new(values)))
            }
            "record" | "enum" | "fixed" => {
                let text = |key| object.get(key).and_then(Value::as_str);
                let own = text("namespace").unwrap_or(within);
                let name = text("name").ok_or_else(|| wrong(&format!("{kind} without a name")))?;
                let name = full_name(name, own);
                let own = name.rsplit_once('.').map_or("", |(own, _)| own).to_owned();
                let at = self.named.len();
                if self.names.insert(name.clone(), at).is_some() {
                    return Err(wrong(&format!("{name} is defined twice")));
                }
                self.named.push(None);
                let list = |key: &str| {
                    let list = part(key)?.as_array();
                    list.ok_or_else(|| wrong(&format!("{key} of {name}, expected a list")))
                };
                let defined = match kind {
                    "record" => {
                        let mut fields = Vec::new();
                        for field in list("fields")? {
                            let called = field.get("name").and_then(Value::as_str);
                            let called = called.ok_or_else(|| wrong("a field without a name"))?;
                            let held = field.get("type");
                            let held = held.ok_or_else(|| wrong("a field without a type"))?;
                            // The logical type may stand beside the type: as Java reads it, it
                            // means nothing there.
                            let held = self.read(held, &own, depth)?;
                            fields.push((called.to_owned(), held));
                        }
                        Type::Record(fields)
                    }
                    "enum" => Type::Enum(list("symbols")?.len()),
                    _ => {
                        let size = part("size")?.as_u64().and_then(|n| usize::try_from(n).ok());
                        Type::Fixed(size.ok_or_else(|| wrong("a size that is none"))?)
                    }
                };
                self.named[at] = Some(defined);
                Ok(Type::Named(at))
            }
            "long" => Ok(Type::Long(
                match object.get("logicalType").and_then(Value::as_str) {
                    Some("timestamp-micros") => 1000,
                    Some("timestamp-nanos") => 1_000_000,
                    _ => 1,
                },
            )),
            name => self.by_name(name, within),
        }
    }

    fn by_name(&self, name: &str, within: &str) -> Result<Type, String> {
        Ok(match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "int" => Type::Int,
            "long" => Type::Long(1),
            "float" => Type::Float,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            "string" => Type::Text,
            name => {
                let name = full_name(name, within);
                let at = self.names.get(&name);
                Type::Named(*at.ok_or_else(|| {
                    format!("reading a schema: {name} is not defined in it, expected it whole")
                })?)
            }
        })
    }
}

fn not_a_sample(why: &str) -> String {
    format!("reading a schema: {why}, expected that of a MetricSample")
}

/// How deep values may lie within values, and types within types.
const DEPTH_MAX: usize = 64;

/// A value takes so many steps at most, and so many more for each of its bytes. Of values without
/// bytes a schema can make more than anyone can count: arrays of nulls, records of records of them.
const STEPS_MIN: usize = 4096;
const STEPS_PER_BYTE: usize = 4;
