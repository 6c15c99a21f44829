//! Bytes to model and back: Avro single-object and JSON, frozen and versioned.
//!
//! - `schemas/`: what the records mean, and what may change in them.
//! - [`fingerprint`] and the table behind it: which bytes were written with which schema.
//! - `records.rs`: the layout of every record; `sample.rs`: the one of the hot path, by hand.
//! - [`json`]: the stable forms that people and other people's programs read.
//! - [`confluent`] and [`telegraf`]: what other people's programs write, brought to ours.
//! - [`leaving`]: in which form and under which headers a record leaves for Kafka, and back.
//!
//! Every decoder is strict: it reads all bytes or refuses them, saying what is wrong and where, and
//! it never panics.
//!
//! # Reasons of a reject
//! `not_avro`, `unknown_schema`, `wrong_record`, `bad_avro`, `not_json`, `bad_outcome`,
//! `bad_directive`, `bad_cycle`, `untranslated`.

use crate::model::{
    Adopted, Cause, CycleClosed, Directive, Event, MeshId, MetricsRecord, Outcome, PlanRecord,
    Sample, Time,
};
use crate::stream::Reject;

use self::avro::{Avro, Fault, Reader};
use self::schema::{Record, registered};

mod avro;
pub mod confluent;
pub mod json;
pub mod leaving;
mod records;
mod sample;
pub mod sample_json;
mod schema;
pub mod telegraf;

pub use self::schema::{Schema, event_schemas, fingerprint};

/// Largest event, bytes (`audit-format.md` 1; the tiles' format could hold 65,535).
pub const LEAF_BYTES_MAX: usize = 60_000;

/// Reads a record of `metrics`: empty is a Tick, `C3 01` Avro by its fingerprint, else JSON (with a
/// `directive_id` an Outcome). A Confluent frame is no record of ours before it is translated
/// ([`confluent`]): one that could not be is `untranslated`.
///
/// # Errors
/// Whatever is not one of these, whole.
pub fn decode_metrics(value: &[u8]) -> Result<MetricsRecord<'_>, Reject> {
    if value.is_empty() {
        return Ok(MetricsRecord::Tick);
    }
    if let Some((id, _)) = confluent::open_frame(value) {
        return Err(Reject {
            reason: UNTRANSLATED,
            detail: format!(
                "reading a Confluent frame of {} bytes: schema {id} could not be had or does not \
                 fit, expected a frame that was translated before",
                value.len()
            ),
        });
    }
    if !value.starts_with(&MAGIC) {
        return decode_json(value);
    }
    let object = Object::open(value)?;
    match object.record {
        Record::MetricSample => object
            .read_with(sample::read_sample)
            .map(MetricsRecord::Sample),
        Record::Outcome => object.read().map(MetricsRecord::Outcome),
        Record::Adopted => object.read().map(MetricsRecord::Adopted),
        _ => Err(object.unexpected("a MetricSample, Outcome or Adopted")),
    }
}

/// The reason of a frame that was not translated before it was folded.
pub const UNTRANSLATED: &str = "untranslated";

/// The names of mesh and node that a sample in Avro begins with; `None` of any other record. What
/// follows them is not looked at: it may be damaged.
pub fn sample_names(value: &[u8]) -> Option<(&str, &str)> {
    let (fingerprint, body) = split_header(value).ok()?;
    let entry = registered(fingerprint).filter(|entry| entry.record == Record::MetricSample)?;
    let mut from = Reader::new(body, value.len(), entry.edition);
    Some((from.text().ok()?, from.text().ok()?))
}

/// Reads a record of `plan-inbox`: empty is a Tick, else Avro.
///
/// # Errors
/// Whatever is not one of these, whole.
pub fn decode_plan(value: &[u8]) -> Result<PlanRecord, Reject> {
    if value.is_empty() {
        return Ok(PlanRecord::Tick);
    }
    let object = Object::open(value)?;
    match object.record {
        Record::Assessment => object.read().map(PlanRecord::Assessment),
        Record::Outcome => object.read().map(PlanRecord::Outcome),
        Record::LogOpened => object.read().map(PlanRecord::LogOpened),
        Record::PolicyChange => object.read().map(PlanRecord::PolicyChange),
        Record::Approval => object.read().map(PlanRecord::Approval),
        Record::Hold => object.read().map(PlanRecord::Hold),
        Record::LoopBlind => object.read().map(PlanRecord::LoopBlind),
        _ => Err(object.unexpected("a record of plan-inbox")),
    }
}

/// Writes a sample as Avro single-object. One without a `seq` gets its time in ms, as at the door.
pub fn encode_sample(sample: &Sample) -> Vec<u8> {
    let mut out = header(Record::MetricSample);
    sample::write_sample(sample, &mut out);
    out
}

/// Writes an outcome as Avro single-object (the same record on both inboxes).
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    encode(outcome, Record::Outcome)
}

/// Writes an `Adopted` for `metrics`.
pub fn encode_adopted(adopted: &Adopted) -> Vec<u8> {
    encode(adopted, Record::Adopted)
}

/// Writes a record of `plan-inbox`; a Tick is empty.
pub fn encode_plan(record: &PlanRecord) -> Vec<u8> {
    match record {
        PlanRecord::Assessment(assessment) => encode(assessment, Record::Assessment),
        PlanRecord::Outcome(outcome) => encode(outcome, Record::Outcome),
        PlanRecord::Tick => Vec::new(),
        PlanRecord::LogOpened(opened) => encode(opened, Record::LogOpened),
        PlanRecord::PolicyChange(change) => encode(change, Record::PolicyChange),
        PlanRecord::Approval(approval) => encode(approval, Record::Approval),
        PlanRecord::Hold(hold) => encode(hold, Record::Hold),
        PlanRecord::LoopBlind(blind) => encode(blind, Record::LoopBlind),
    }
}

/// Writes an event: its leaf.
///
/// # Panics
/// When it is larger than [`LEAF_BYTES_MAX`]. It cannot be, made of what the decoders let in: texts
/// of at most 1,024 bytes, at most one policy's text of 48 KiB, lists of at most one entry per
/// symptom or refusal. A body with a list without such a bound cuts it to 100, with count and hash.
pub fn encode_event(event: &Event) -> Vec<u8> {
    let out = encode(event, Record::Event);
    let size = out.len();
    assert!(
        size <= LEAF_BYTES_MAX,
        "an event of {size} bytes, expected at most {LEAF_BYTES_MAX}"
    );
    out
}

/// Reads an event.
///
/// # Errors
/// It is none, or one of an edition newer than this program.
pub fn decode_event(value: &[u8]) -> Result<Event, Reject> {
    decode(value, Record::Event)
}

/// The fields of an event that are frozen for ever: read whatever schema wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The schema that wrote it; need not be known.
    pub fingerprint: [u8; 8],
    /// Dense per mesh from 0.
    pub seq: i64,
    /// Append time of the cause.
    pub time: Time,
    /// The mesh; empty for events of no single mesh.
    pub mesh: MeshId,
    /// The inbox record behind it.
    pub cause: Cause,
    /// The engine that decided.
    pub engine: String,
}

/// Reads the head of an event and no further.
///
/// # Errors
/// It does not begin like an event.
pub fn decode_head(value: &[u8]) -> Result<Head, Reject> {
    let (fingerprint, body) = split_header(value)?;
    let mut from = Reader::new(body, value.len(), 1);
    read_head(fingerprint, &mut from).map_err(|e| bad_avro("an event's head", &from, &e))
}

fn read_head(fingerprint: [u8; 8], from: &mut Reader<'_>) -> Result<Head, Fault> {
    Ok(Head {
        fingerprint,
        seq: avro::read_field!(seq, from),
        time: avro::read_field!(time, from),
        mesh: avro::read_field!(mesh, from),
        cause: avro::read_field!(cause, from),
        engine: avro::read_field!(engine, from),
    })
}

/// Writes a directive as Avro single-object: the bytes in `DirectiveIssued`.
pub fn encode_directive(directive: &Directive) -> Vec<u8> {
    encode(directive, Record::Directive)
}

/// Reads a directive, Avro or JSON.
///
/// # Errors
/// It is none, whole.
pub fn decode_directive(value: &[u8]) -> Result<Directive, Reject> {
    if value.starts_with(&MAGIC) {
        decode(value, Record::Directive)
    } else {
        json::decode_directive(value)
    }
}

/// Writes a closed cycle.
pub fn encode_cycle(cycle: &CycleClosed) -> Vec<u8> {
    encode(cycle, Record::CycleClosed)
}

/// Reads a closed cycle, Avro or JSON.
///
/// # Errors
/// It is none, whole.
pub fn decode_cycle(value: &[u8]) -> Result<CycleClosed, Reject> {
    if value.starts_with(b"{") {
        json::decode_cycle(value)
    } else {
        decode(value, Record::CycleClosed)
    }
}

/// Reads a sample or, with a `directive_id`, an outcome.
fn decode_json(value: &[u8]) -> Result<MetricsRecord<'_>, Reject> {
    let not_json = |detail| Reject {
        reason: "not_json",
        detail,
    };
    let size = value.len();
    if size > sample_json::LINE_BYTES_MAX {
        let max = sample_json::LINE_BYTES_MAX;
        let detail = format!("reading JSON of {size} bytes: expected at most {max}");
        return Err(not_json(detail));
    }
    if json::has_directive_id(value) {
        return json::decode_outcome(value).map(MetricsRecord::Outcome);
    }
    sample_json::parse_sample(value)
        .map(MetricsRecord::Sample)
        .map_err(|e| not_json(e.to_string()))
}

/// What an Avro single-object begins with.
const MAGIC: [u8; 2] = [0xC3, 0x01];

/// An Avro single-object whose schema is known and whose value is yet to be read.
struct Object<'a> {
    record: Record,
    name: &'static str,
    from: Reader<'a>,
}

impl<'a> Object<'a> {
    fn open(value: &'a [u8]) -> Result<Self, Reject> {
        let (fingerprint, body) = split_header(value)?;
        let entry = registered(fingerprint).ok_or_else(|| Reject {
            reason: "unknown_schema",
            detail: format!(
                "reading a record with fingerprint {}: expected one of this release or older",
                json::hex(&fingerprint)
            ),
        })?;
        Ok(Object {
            record: entry.record,
            name: entry.schema.name,
            from: Reader::new(body, value.len(), entry.edition),
        })
    }

    fn read<T: Avro>(self) -> Result<T, Reject> {
        self.read_with(T::read)
    }

    fn read_with<T>(
        mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fault>,
    ) -> Result<T, Reject> {
        let value = read(&mut self.from).map_err(|e| bad_avro(self.name, &self.from, &e))?;
        match self.from.left() {
            0 => Ok(value),
            left => Err(Reject {
                reason: "bad_avro",
                detail: format!(
                    "reading {}: {left} bytes after its end, expected none",
                    self.name
                ),
            }),
        }
    }

    fn unexpected(&self, expected: &str) -> Reject {
        Reject {
            reason: "wrong_record",
            detail: format!("reading a record: {}, expected {expected}", self.name),
        }
    }
}

/// The fingerprint and the value behind it.
fn split_header(value: &[u8]) -> Result<([u8; 8], &[u8]), Reject> {
    value
        .strip_prefix(&MAGIC)
        .and_then(|rest| rest.split_first_chunk::<8>())
        .map(|(fingerprint, body)| (*fingerprint, body))
        .ok_or_else(|| Reject {
            reason: "not_avro",
            detail: format!(
                "reading {} bytes that begin with {}: expected C3 01 and a fingerprint of 8 bytes",
                value.len(),
                json::hex(&value[..value.len().min(10)])
            ),
        })
}

#[cold]
fn bad_avro(name: &str, from: &Reader<'_>, fault: &Fault) -> Reject {
    Reject {
        reason: "bad_avro",
        detail: format!(
            "reading {name} (edition {}): {} at byte {}: {fault}",
            from.edition,
            from.field,
            from.position()
        ),
    }
}

fn decode<T: Avro>(value: &[u8], record: Record) -> Result<T, Reject> {
    let object = Object::open(value)?;
    if object.record != record {
        return Err(object.unexpected(record.newest().name));
    }
    object.read()
}

fn encode<T: Avro>(value: &T, record: Record) -> Vec<u8> {
    let mut out = header(record);
    value.write(&mut out);
    out
}

/// A new buffer with the header of a record's newest schema.
fn header(record: Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&record.newest().fingerprint);
    out
}
