//! In which form and under which headers a record leaves for Kafka, and back.
//!
//! A stage writes one form, its own: Avro single-object, for `directives` JSON. What lies on the
//! brokers may be another one, chosen topic by topic ([`Encoding`]); it is chosen where records
//! leave and undone where they enter, so that no stage, `replay` or reader ever sees it:
//! [`own_form`] of what [`encode`] wrote is, byte for byte, what was given. So `events` may not be
//! JSON: its JSON form is for people, no reader promises to take it back exactly, and the hashes of
//! the audit are those of the Avro bytes.
//!
//! A Confluent frame of ours bears the fingerprint of its schema in a header, so that it is read
//! back without a registry.
//!
//! All headers are a function of the record itself: the same record leaves with the same ones,
//! whoever writes it and when.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::model::Cause;
use crate::stream::{Reject, Topic};

use super::confluent::{frame, open_frame, unframed};
use super::schema::{Record, Schema, registered};
use super::{
    MAGIC, decode_cycle, decode_directive, decode_event, encode_cycle, encode_directive, json,
};

/// A record's name and value, as a header.
pub type Header = (String, Vec<u8>);

/// In which form the records of a topic lie on the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Avro single-object: whoever has `schemas/` reads it.
    Avro,
    /// JSON: whoever has eyes reads it.
    Json,
    /// A Confluent frame: whoever has the Schema Registry reads it.
    Confluent,
}

/// The schema of what stands on a topic, where the encoding can be chosen.
pub fn schema_of(topic: Topic) -> Option<&'static Schema> {
    match topic {
        Topic::Events => Some(Record::Event.newest()),
        Topic::Cycles => Some(Record::CycleClosed.newest()),
        Topic::Directives => Some(Record::Directive.newest()),
        Topic::Metrics | Topic::PlanInbox | Topic::DeadLetters => None,
    }
}

/// A value in a stage's own form as it lies on the brokers. `id` is what the registry calls the
/// topic's schema.
///
/// # Errors
/// It is no record of this topic; or a frame is wanted of a schema without an id.
pub fn encode(
    topic: Topic,
    value: Vec<u8>,
    encoding: Encoding,
    id: Option<u32>,
) -> Result<Vec<u8>, Reject> {
    let avro = |value: Vec<u8>| match topic {
        Topic::Directives => decode_directive(&value).map(|d| encode_directive(&d)),
        _ => Ok(value),
    };
    match (topic, encoding) {
        (Topic::Metrics | Topic::PlanInbox | Topic::DeadLetters, _) => Ok(value),
        (Topic::Events | Topic::Cycles | Topic::Directives, Encoding::Avro) => avro(value),
        (Topic::Directives, Encoding::Json) => Ok(value),
        (Topic::Cycles, Encoding::Json) => {
            decode_cycle(&value).map(|cycle| json::cycle(&cycle).into_bytes())
        }
        (Topic::Events, Encoding::Json) => Err(Reject {
            reason: "wrong_record",
            detail: "writing an event as JSON, expected avro or confluent: nothing reads it back"
                .to_owned(),
        }),
        (Topic::Events | Topic::Cycles | Topic::Directives, Encoding::Confluent) => {
            let object = avro(value)?;
            let framed = id.and_then(|id| frame(id, &object));
            framed.ok_or_else(|| Reject {
                reason: "not_avro",
                detail: format!(
                    "writing a Confluent frame on {}: expected a record and its schema's id",
                    topic.name()
                ),
            })
        }
    }
}

/// What lies on the brokers in the stage's own form. Topics whose encoding cannot be chosen come
/// back as they are.
///
/// # Errors
/// It is no record of this topic in any of the forms.
pub fn own_form<'a>(
    topic: Topic,
    value: &'a [u8],
    headers: &[Header],
) -> Result<Cow<'a, [u8]>, Reject> {
    if schema_of(topic).is_none() {
        return Ok(Cow::Borrowed(value));
    }
    let object = match open_frame(value) {
        Some((id, body)) => Cow::Owned(unframed(fingerprint_in(headers, id)?, body)),
        None => Cow::Borrowed(value),
    };
    Ok(match topic {
        Topic::Directives if object.starts_with(&MAGIC) => {
            let directive = decode_directive(&object)?;
            Cow::Owned(json::directive(&directive).into_bytes())
        }
        Topic::Cycles if object.starts_with(b"{") => {
            Cow::Owned(encode_cycle(&decode_cycle(&object)?))
        }
        _ => object,
    })
}

/// The fingerprint of a frame of ours.
fn fingerprint_in(headers: &[Header], id: u32) -> Result<[u8; 8], Reject> {
    let header = headers.iter().rev().find(|(name, _)| name == FINGERPRINT);
    let text = header.and_then(|(_, value)| std::str::from_utf8(value).ok());
    let known = text.and_then(|text| {
        let number = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())??;
        registered(number.to_be_bytes()).map(|entry| entry.schema.fingerprint)
    });
    known.ok_or_else(|| Reject {
        reason: "unknown_schema",
        detail: format!(
            "reading a Confluent frame of schema {id}: its header {FINGERPRINT} is {text:?}, \
             expected the fingerprint of one of this release or older"
        ),
    })
}

/// Headers of a record in the stage's own form that leaves for a partition of `<prefix><topic>`:
/// what it is and, with `attributes`, where in a trace and as what CloudEvent (binary mode).
///
/// A trace is the inbox record that caused all of it; the record itself is its span.
pub fn headers(
    prefix: &str,
    (topic, partition): (Topic, i32),
    value: &[u8],
    encoding: Encoding,
    attributes: bool,
) -> Vec<Header> {
    let mut out = Vec::new();
    let mut put = |name: &str, text: &str| out.push((name.to_owned(), text.as_bytes().to_vec()));
    let schema = match topic {
        Topic::Directives => schema_of(topic),
        _ => schema_in(value),
    };
    let Some(schema) = schema else {
        if value.starts_with(b"{") {
            put(CONTENT_TYPE, JSON);
        }
        return out;
    };
    put(
        CONTENT_TYPE,
        match (schema_of(topic), encoding) {
            (Some(_), Encoding::Json) => JSON,
            _ => AVRO,
        },
    );
    put("schema", schema.name);
    put(FINGERPRINT, &json::hex(&schema.fingerprint));
    let Some(about) = attributes.then(|| about(topic, partition, value)).flatten() else {
        return out;
    };
    if let Some(cause) = &about.cause {
        put("traceparent", &trace_parent(cause, &about.id));
    }
    put("ce_specversion", "1.0");
    put("ce_id", &about.id);
    put(
        "ce_source",
        &format!("urn:homeostat:{prefix}{}", topic.name()),
    );
    put("ce_type", &about.kind);
    put("ce_time", &about.time);
    out
}

/// What of a record its CloudEvent is made of.
struct About {
    id: String,
    kind: String,
    time: String,
    cause: Option<Cause>,
}

fn about(topic: Topic, partition: i32, value: &[u8]) -> Option<About> {
    Some(match topic {
        Topic::Events => {
            let event = decode_event(value).ok()?;
            About {
                // What of it may hold anything stands last, so that no two ids are alike.
                id: match event.mesh.is_none() {
                    true => format!("{partition}:{}", event.seq),
                    false => format!("{}@{}", event.seq, event.mesh),
                },
                kind: format!("io.homeostat.{}", event.body.name()),
                time: event.time.to_string(),
                cause: Some(event.cause),
            }
        }
        Topic::Directives => {
            let directive = decode_directive(value).ok()?;
            About {
                id: format!("{}@{}", directive.id, directive.log_id),
                kind: "io.homeostat.Directive".to_owned(),
                time: directive.issued_at.to_string(),
                cause: Some(directive.cause),
            }
        }
        Topic::Cycles => {
            let cycle = decode_cycle(value).ok()?;
            let (node, mesh) = (&cycle.node, &cycle.mesh);
            About {
                id: format!(
                    "{}:{}:{}:{node}@{mesh}",
                    cycle.sample_seq,
                    cycle.sample_time.0,
                    node.as_str().len()
                ),
                kind: "io.homeostat.CycleClosed".to_owned(),
                time: cycle.time.to_string(),
                cause: None,
            }
        }
        Topic::Metrics | Topic::PlanInbox | Topic::DeadLetters => return None,
    })
}

/// The W3C's `traceparent`: version, trace, span, sampled.
fn trace_parent(cause: &Cause, id: &str) -> String {
    let record = format!("{}/{}/{}", cause.topic, cause.partition, cause.offset);
    let trace = Sha256::digest(&record);
    let span = Sha256::digest(format!("{record} {id}"));
    format!(
        "00-{}-{}-01",
        json::hex(&trace[..16]),
        json::hex(&span[..8])
    )
}

/// The schema in the header of an Avro single-object.
fn schema_in(value: &[u8]) -> Option<&'static Schema> {
    let (fingerprint, _) = super::split_header(value).ok()?;
    registered(fingerprint).map(|entry| &entry.schema)
}

/// A dead letter on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The key that the record had.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Its headers, then ours: `reason`, `detail`, `topic`, `partition`, `offset`.
    pub headers: Vec<Header>,
}

impl Letter {
    /// Under Kafka Connect's names too, and cut to what every broker takes: of the value at most
    /// `value_max` bytes. What is cut has its length and, of the value, the SHA-256 of all its
    /// bytes in headers.
    #[must_use]
    pub fn addressed(mut self, prefix: &str, value_max: usize) -> Letter {
        let given = self.headers.len().saturating_sub(OURS.len());
        let mut ours = self.headers.split_off(given);
        if !ours.iter().map(|(name, _)| name.as_str()).eq(OURS) {
            self.headers.append(&mut ours);
            return self;
        }
        for (_, value) in &mut ours {
            value.truncate(HEADER_BYTES_MAX);
        }
        let word = |at: usize| String::from_utf8_lossy(&ours[at].1).into_owned();
        let [reason, detail, topic, partition, offset] = [0, 1, 2, 3, 4].map(word);
        let stage = match topic.strip_prefix(prefix).and_then(Topic::parse) {
            Some(Topic::Metrics) => "analyze",
            Some(Topic::PlanInbox) => "plan",
            _ => "homeostat",
        };
        let step = match UNREADABLE.contains(&reason.as_str()) {
            true => "VALUE_CONVERTER",
            false => "TASK_PUT",
        };
        let mut more: Vec<(&str, String)> = vec![
            ("__connect.errors.topic", topic),
            ("__connect.errors.partition", partition.clone()),
            ("__connect.errors.offset", offset),
            ("__connect.errors.connector.name", "homeostat".to_owned()),
            ("__connect.errors.task.id", partition),
            ("__connect.errors.stage", step.to_owned()),
            ("__connect.errors.class.name", format!("homeostat.{stage}")),
            ("__connect.errors.exception.class.name", reason),
            ("__connect.errors.exception.message", detail),
        ];
        if self.value.len() > value_max {
            let hash = Sha256::digest(&self.value);
            more.push((CUT, self.value.len().to_string()));
            more.push(("original_sha256", json::hex(&hash)));
            self.value.truncate(value_max);
        }
        if self.key.len() > KEY_BYTES_MAX {
            more.push(("original_key_bytes", self.key.len().to_string()));
            self.key.truncate(KEY_BYTES_MAX);
        }
        let mut bytes = 0;
        self.headers.retain(|(name, value)| {
            bytes += name.len() + value.len();
            bytes <= GIVEN_BYTES_MAX
        });
        if self.headers.len() < given {
            let dropped = given - self.headers.len();
            more.push(("original_headers_dropped", dropped.to_string()));
        }
        let more = more
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v.into_bytes()));
        self.headers.extend(more);
        self.headers.append(&mut ours);
        self
    }
}

/// Whether a dead letter's value was cut, by its headers: then it cannot be sent again.
pub fn is_cut(headers: &[Header]) -> bool {
    headers.iter().any(|(name, _)| name == CUT)
}

/// Whether a record is the dead letter of a frame that was not translated, and where on `metrics`
/// that lies: partition and offset.
pub fn given_up(prefix: &str, headers: &[Header]) -> Option<(i32, i64)> {
    let text = |name: &str| {
        let header = headers.iter().rev().find(|(own, _)| own == name);
        header.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let ours = text("reason")? == super::UNTRANSLATED
        && text("topic")?.strip_prefix(prefix) == Some(Topic::Metrics.name());
    ours.then(|| {
        Some((
            text("partition")?.parse().ok()?,
            text("offset")?.parse().ok()?,
        ))
    })?
}

/// The header in which a dead letter says why its frame was not translated.
pub const WHY_UNTRANSLATED: &str = "untranslated";

const OURS: [&str; 5] = ["reason", "detail", "topic", "partition", "offset"];
const CUT: &str = "original_bytes";
const FINGERPRINT: &str = "schema_fingerprint";
const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";
const AVRO: &str = "application/avro";

/// Reasons of what cannot even be read.
const UNREADABLE: [&str; 9] = [
    "not_avro",
    "unknown_schema",
    "wrong_record",
    "bad_avro",
    "not_json",
    "bad_outcome",
    "bad_directive",
    "bad_cycle",
    super::UNTRANSLATED,
];

/// Longest key of a dead letter, bytes: the longest of ours has 511.
const KEY_BYTES_MAX: usize = 1024;

/// Most bytes of a record's own headers that its dead letter keeps.
const GIVEN_BYTES_MAX: usize = 16 << 10;

/// Longest header of ours, bytes.
const HEADER_BYTES_MAX: usize = 4096;
