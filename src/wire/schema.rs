//! The schemas: which fingerprint means which record, written by which edition.
//!
//! # Fingerprints
//! An Avro single-object is `C3 01`, the CRC-64-AVRO of its schema's parsing canonical form, 8
//! bytes little-endian, then the value. The form is what Java computes (the specification's
//! "Transforming into Parsing Canonical Form"): of a type it keeps name, kind, fields, symbols,
//! items, values and size, and `{"type":"long","logicalType":"timestamp-millis"}` becomes `"long"`.
//! The crate apache-avro keeps `{"type":"long"}` there, so its fingerprint of a schema with a
//! logical type is another one that nobody else knows; that is why ours are computed here, and why
//! ours have none but in `MetricSample`, which is given.
//!
//! # Editions
//! All schemas count one common edition, so that a record within another (an Assessment within an
//! Event) follows the edition of what it lies in. Whoever changes a schema keeps its former text as
//! an entry of [`REGISTERED`] with its edition, adds the new one with the next, and marks the new
//! fields `since` it.

use serde_json::Value;

/// A schema that an event log uses: what `SchemaAdopted` records.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The record's full name.
    pub name: &'static str,
    /// CRC-64-AVRO of the parsing canonical form, little-endian as in the single-object header.
    pub fingerprint: [u8; 8],
    /// Its text, as it lies in `schemas/`.
    pub text: &'static str,
}

/// The records that have a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    MetricSample,
    Outcome,
    Adopted,
    Assessment,
    LogOpened,
    PolicyChange,
    Approval,
    Hold,
    LoopBlind,
    Event,
    Directive,
    CycleClosed,
}

/// A schema that we can read.
pub(super) struct Registered {
    /// What it is of.
    pub(super) record: Record,
    /// The edition that wrote it.
    pub(super) edition: u8,
    /// Its name, fingerprint and text.
    pub(super) schema: Schema,
}

impl Record {
    /// The newest schema of this record: what is written.
    pub(super) fn newest(self) -> &'static Schema {
        let newest = REGISTERED.iter().rev().find(|entry| entry.record == self);
        &newest.expect("every record is registered").schema
    }
}

/// What a fingerprint means, if we know it.
pub(super) fn registered(fingerprint: [u8; 8]) -> Option<&'static Registered> {
    let is_it = |entry: &&Registered| entry.schema.fingerprint == fingerprint;
    REGISTERED.iter().find(is_it)
}

/// The schemas whose bytes stand in `events`, newest of each: Event and Directive.
pub fn event_schemas() -> &'static [Schema] {
    const { &[REGISTERED[EVENT].schema, REGISTERED[DIRECTIVE].schema] }
}

/// The fingerprint of a schema's text: CRC-64-AVRO of its parsing canonical form, little-endian.
///
/// # Errors
/// The text is not JSON, or not a schema: what was found where a type was expected.
pub fn fingerprint(text: &str) -> Result<[u8; 8], String> {
    let schema: Value = serde_json::from_str(text).map_err(|e| format!("reading a schema: {e}"))?;
    let mut canonical = String::new();
    canonical_form(&schema, "", &mut canonical)?;
    Ok(crc64(canonical.as_bytes()).to_le_bytes())
}

/// Appends the parsing canonical form of a type that stands in `namespace`.
fn canonical_form(schema: &Value, namespace: &str, out: &mut String) -> Result<(), String> {
    let wrong = || format!("reading a schema: {schema}, expected a type");
    let object = match schema {
        Value::String(name) => {
            push_text(&full_name(name, namespace), out);
            return Ok(());
        }
        Value::Array(branches) => {
            return push_list(branches, out, |branch, out| {
                canonical_form(branch, namespace, out)
            });
        }
        Value::Object(object) => object,
        _ => return Err(wrong()),
    };
    let kind = match object.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(inner) => return canonical_form(inner, namespace, out),
        None => return Err(wrong()),
    };
    match kind {
        "array" | "map" => {
            let of = if kind == "array" { "items" } else { "values" };
            out.push_str(&format!("{{\"type\":\"{kind}\",\"{of}\":"));
            canonical_form(object.get(of).ok_or_else(wrong)?, namespace, out)?;
        }
        "record" | "enum" | "fixed" => {
            let text = |key| object.get(key).and_then(Value::as_str);
            let list = |key| object.get(key).and_then(Value::as_array).ok_or_else(wrong);
            let within = text("namespace").unwrap_or(namespace);
            let name = full_name(text("name").ok_or_else(wrong)?, within);
            let within = name.rsplit_once('.').map_or("", |(within, _)| within);
            out.push_str("{\"name\":");
            push_text(&name, out);
            out.push_str(&format!(",\"type\":\"{kind}\""));
            match kind {
                "record" => {
                    out.push_str(",\"fields\":");
                    push_list(list("fields")?, out, |field, out| {
                        out.push_str("{\"name\":");
                        let name = field.get("name").and_then(Value::as_str);
                        push_text(name.ok_or_else(wrong)?, out);
                        out.push_str(",\"type\":");
                        canonical_form(field.get("type").ok_or_else(wrong)?, within, out)?;
                        out.push('}');
                        Ok(())
                    })?;
                }
                "enum" => {
                    out.push_str(",\"symbols\":");
                    push_list(list("symbols")?, out, |symbol, out| {
                        push_text(symbol.as_str().ok_or_else(wrong)?, out);
                        Ok(())
                    })?;
                }
                _ => {
                    let size = object.get("size").and_then(Value::as_u64);
                    out.push_str(&format!(",\"size\":{}", size.ok_or_else(wrong)?));
                }
            }
        }
        // A primitive, whatever is said about it, or a name.
        _ => {
            push_text(&full_name(kind, namespace), out);
            return Ok(());
        }
    }
    out.push('}');
    Ok(())
}

pub(super) fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() || PRIMITIVES.contains(&name) {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn push_text(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

fn push_list(
    items: &[Value],
    out: &mut String,
    push: impl Fn(&Value, &mut String) -> Result<(), String>,
) -> Result<(), String> {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push(item, out)?;
    }
    out.push(']');
    Ok(())
}

/// CRC-64-AVRO: the Rabin fingerprint of the specification, "Schema Fingerprints".
fn crc64(bytes: &[u8]) -> u64 {
    const EMPTY: u64 = 0xC15D_213A_A4D7_A795;
    bytes.iter().fold(EMPTY, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            (crc >> 1) ^ (EMPTY & (crc & 1).wrapping_neg())
        })
    })
}

const PRIMITIVES: [&str; 8] = [
    "null", "boolean", "int", "long", "float", "double", "bytes", "string",
];

macro_rules! registered {
    ($record:ident, $edition:literal, $fingerprint:expr, $file:literal) => {
        Registered {
            record: Record::$record,
            edition: $edition,
            schema: Schema {
                name: concat!("io.homeostat.", stringify!($record)),
                fingerprint: $fingerprint,
                text: include_str!(concat!("../../schemas/", $file)),
            },
        }
    };
}

/// Where the newest Event and Directive stand in [`REGISTERED`].
const EVENT: usize = 9;
const DIRECTIVE: usize = 10;

/// Every schema that was ever written with, an older one before a newer one of the same record.
pub(super) static REGISTERED: [Registered; 12] = [
    registered!(
        MetricSample,
        1,
        [0x2A, 0xDB, 0xA1, 0x85, 0xC0, 0x4B, 0x0E, 0xE3],
        "metric-sample.avsc"
    ),
    registered!(
        Outcome,
        1,
        [0x5E, 0xD6, 0xC8, 0xE7, 0xC2, 0x7F, 0x6A, 0xF6],
        "outcome.avsc"
    ),
    registered!(
        Adopted,
        1,
        [0x3F, 0x2E, 0xF3, 0x47, 0xD2, 0x16, 0x5D, 0x97],
        "adopted.avsc"
    ),
    registered!(
        Assessment,
        1,
        [0xBD, 0xCA, 0x89, 0xC2, 0x2E, 0x52, 0x52, 0x44],
        "assessment.avsc"
    ),
    registered!(
        LogOpened,
        1,
        [0x1D, 0xEF, 0xB1, 0xC2, 0xF6, 0xEC, 0x3B, 0x2E],
        "log-opened.avsc"
    ),
    registered!(
        PolicyChange,
        1,
        [0x10, 0x89, 0x65, 0xC0, 0xF0, 0x3B, 0xC2, 0xFB],
        "policy-change.avsc"
    ),
    registered!(
        Approval,
        1,
        [0x95, 0x38, 0xBF, 0xC8, 0x24, 0x2C, 0x50, 0xFD],
        "approval.avsc"
    ),
    registered!(
        Hold,
        1,
        [0xFB, 0x01, 0xF9, 0x79, 0x11, 0x25, 0xDC, 0xF6],
        "hold.avsc"
    ),
    registered!(
        LoopBlind,
        1,
        [0xDF, 0xF5, 0xE9, 0xCB, 0x60, 0x23, 0x58, 0xCF],
        "loop-blind.avsc"
    ),
    registered!(
        Event,
        1,
        [0xC0, 0x39, 0x89, 0x9E, 0x09, 0x6B, 0x48, 0x6F],
        "event.avsc"
    ),
    registered!(
        Directive,
        1,
        [0xDE, 0xBA, 0x62, 0xDA, 0x18, 0xCA, 0xA7, 0x59],
        "directive.avsc"
    ),
    registered!(
        CycleClosed,
        1,
        [0x50, 0xD4, 0x94, 0xDF, 0x43, 0xC2, 0x29, 0x01],
        "cycle-closed.avsc"
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_registered_fingerprints_are_those_of_the_texts() {
        for entry in &REGISTERED {
            let Schema {
                name,
                fingerprint: registered,
                text,
            } = entry.schema;
            assert_eq!(fingerprint(text), Ok(registered), "{name}");
            let schema: Value = serde_json::from_str(text).unwrap();
            assert_eq!(
                full_name(schema["name"].as_str().unwrap(), "io.homeostat"),
                name
            );
        }
    }

    /// The specification's and Java's: a logical type on a primitive does not count.
    #[test]
    fn a_logical_type_does_not_count() {
        let fingerprint = |text| fingerprint(text).unwrap();
        assert_eq!(
            fingerprint(r#"{"type": "long", "logicalType": "timestamp-millis"}"#),
            fingerprint(r#""long""#),
        );
        assert_eq!(
            u64::from_le_bytes(fingerprint(r#""int""#)),
            0x7275_D51A_3F39_5C8F
        );
        assert_eq!(
            u64::from_le_bytes(fingerprint(r#""null""#)),
            0x63DD_24E7_CC25_8F8A
        );
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for text in [
            "",
            "7",
            "{}",
            r#"{"type":"record"}"#,
            r#"{"type":"fixed","name":"F"}"#,
        ] {
            assert!(fingerprint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_event_schemas_are_the_newest() {
        let [event, directive] = event_schemas() else {
            panic!("two schemas");
        };
        assert_eq!(event.fingerprint, Record::Event.newest().fingerprint);
        assert_eq!(
            directive.fingerprint,
            Record::Directive.newest().fingerprint
        );
    }

    /// A type that several files define is defined alike in all of them: same edition, same bytes.
    #[test]
    fn inlined_types_equal_their_own_files() {
        let mut definitions = BTreeMap::new();
        for entry in &REGISTERED {
            let schema: Value = serde_json::from_str(entry.schema.text).unwrap();
            define(&schema, "", &mut definitions);
        }
        for name in ["Assessment", "Outcome", "Metrics", "Cause", "Wish"] {
            assert!(
                definitions.contains_key(&format!("io.homeostat.{name}")),
                "{name}"
            );
        }
    }

    /// Collects the definitions in a schema, each with its inner types by name only.
    fn define(schema: &Value, within: &str, known: &mut BTreeMap<String, Value>) -> Value {
        let object = match schema {
            Value::String(name) => return full_name(name, within).into(),
            Value::Array(branches) => {
                return branches.iter().map(|b| define(b, within, known)).collect();
            }
            Value::Object(object) => object,
            other => panic!("{other}"),
        };
        let mut object = object.clone();
        if object["type"] == "array" {
            object["items"] = define(&object["items"], within, known);
        }
        let Some(name) = object.get("name").and_then(Value::as_str) else {
            return object.into();
        };
        let within = object
            .get("namespace")
            .and_then(Value::as_str)
            .unwrap_or(within);
        let (name, within) = (full_name(name, within), within.to_owned());
        object.remove("namespace");
        if let Some(Value::Array(fields)) = object.get_mut("fields") {
            for field in fields {
                field["type"] = define(&field["type"], &within, known);
            }
        }
        let before = known.insert(name.clone(), object.clone().into());
        assert!(
            before.is_none_or(|before| before == Value::from(object)),
            "{name}"
        );
        name.into()
    }

    /// The rules of `schemas/README.md`, on every pair of editions that is registered.
    #[test]
    fn editions_are_only_added_to() {
        for (i, new) in REGISTERED.iter().enumerate() {
            for old in REGISTERED[..i]
                .iter()
                .filter(|old| old.record == new.record)
            {
                assert!(old.edition < new.edition, "{}", new.schema.name);
                assert_eq!(grown_of_texts(old.schema.text, new.schema.text), Ok(()));
            }
        }
    }

    #[test]
    fn what_may_change_and_what_never() {
        let record =
            |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        let seq = r#"{"name":"seq","type":"long"}"#;
        let kind = |kind| format!(r#"{{"name":"kind","type":{kind},"default":null}}"#);
        let optional = kind(r#"["null","string"]"#);
        let symbols = |symbols| {
            let symbols = format!(r#"{{"type":"enum","name":"E","symbols":[{symbols}]}}"#);
            record(&format!(r#"{{"name":"e","type":{symbols}}}"#))
        };
        let both = record(&format!("{seq},{optional}"));
        let check = |old: &str, new: &str, ok: bool| {
            assert_eq!(grown_of_texts(old, new).is_ok(), ok, "{old} to {new}");
        };
        check(&record(seq), &record(seq), true);
        check(&record(seq), &both, true);
        check(&symbols(r#""a""#), &symbols(r#""a","b""#), true);
        let branches = kind(r#"["null","string","long"]"#);
        check(&both, &record(&format!("{seq},{branches}")), true);
        // Removed, put before, without a default, of another type, renamed, reordered.
        check(&both, &record(seq), false);
        check(&record(seq), &record(&format!("{optional},{seq}")), false);
        check(
            &record(&optional),
            &record(&format!("{optional},{seq}")),
            false,
        );
        check(
            &record(seq),
            &record(r#"{"name":"seq","type":"int"}"#),
            false,
        );
        check(
            &record(seq),
            &record(r#"{"name":"leaf","type":"long"}"#),
            false,
        );
        check(&symbols(r#""a","b""#), &symbols(r#""b","a""#), false);
        let other_default = record(seq).replace("\"long\"", "\"long\",\"default\":1");
        check(&other_default, &other_default.replace('1', "2"), false);
    }

    #[test]
    fn the_head_of_an_event_is_frozen() {
        let schema: Value = serde_json::from_str(Record::Event.newest().text).unwrap();
        let mut head = String::new();
        for field in &schema["fields"].as_array().unwrap()[..5] {
            head.push_str(&format!(" {}:", field["name"].as_str().unwrap()));
            canonical_form(&field["type"], "io.homeostat", &mut head).unwrap();
        }
        let cause = r#"{"name":"io.homeostat.Cause","type":"record","fields":[{"name":"topic","#
            .to_owned()
            + r#""type":"string"},{"name":"partition","type":"int"},{"name":"offset","#
            + r#""type":"long"}]}"#;
        let expected = r#" seq:"long" time:"long" mesh_id:"string" cause:"#;
        assert_eq!(head, format!("{expected}{cause} engine:\"string\""));
    }

    fn grown_of_texts(old: &str, new: &str) -> Result<(), String> {
        grown(
            &serde_json::from_str(old).unwrap(),
            &serde_json::from_str(new).unwrap(),
        )
    }

    /// Whether a type was only added to, so that old bytes mean what they meant.
    fn grown(old: &Value, new: &Value) -> Result<(), String> {
        let kept = |key: &str| {
            if old.get(key) == new.get(key) {
                Ok(())
            } else {
                Err(format!("{key} of {old} changed: {new}"))
            }
        };
        match (old, new) {
            (Value::Object(_), Value::Object(_)) => {
                for key in ["name", "namespace", "default", "size", "logicalType"] {
                    kept(key)?;
                }
                for key in ["type", "items", "fields", "symbols"] {
                    if let Some(inner) = old.get(key) {
                        grown(inner, &new[key])?;
                    }
                }
                let added = |fields: &Value| {
                    let old = old["fields"].as_array().map_or(0, Vec::len);
                    fields
                        .as_array()
                        .map_or(&[][..], |fields| &fields[old..])
                        .to_vec()
                };
                match added(&new["fields"])
                    .iter()
                    .find(|field| field.get("default").is_none())
                {
                    Some(field) => Err(format!("{field}: expected a default")),
                    None => Ok(()),
                }
            }
            (Value::Array(old), Value::Array(new)) => {
                if new.len() < old.len() {
                    return Err(format!("{} of {} are left", new.len(), old.len()));
                }
                old.iter()
                    .zip(new)
                    .try_for_each(|(old, new)| grown(old, new))
            }
            (old, new) if old == new => Ok(()),
            (old, new) => Err(format!("{old} became {new}")),
        }
    }

    #[test]
    fn every_field_is_documented() {
        fn check(schema: &Value) {
            if let Some(fields) = schema.get("fields").and_then(Value::as_array) {
                assert!(schema["doc"].is_string(), "{}", schema["name"]);
                for field in fields {
                    assert!(
                        field["doc"].is_string(),
                        "{}.{}",
                        schema["name"],
                        field["name"]
                    );
                    check(&field["type"]);
                }
            }
            if let Some(items) = schema.get("items") {
                check(items);
            }
            if let Some(branches) = schema.as_array() {
                branches.iter().for_each(check);
            }
        }
        for entry in &REGISTERED {
            check(&serde_json::from_str(entry.schema.text).unwrap());
        }
    }
}
