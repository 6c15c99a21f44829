//! What others write and read: the same records enter as the same ones and leave in the same form,
//! whatever a registry does meanwhile.
//!
//! Each line of `tests/foreign/*.jsonl` holds bytes of the outside and what they are to us, or the
//! other way round. Lines are added, never changed; one that is not there fails with the line to
//! add.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use homeostat::config::settings::{CloudEvents, Form, FormatsSettings};
use homeostat::model::{Given, MetricsRecord, Time};
use homeostat::registry::{Foreign, RegistryError};
use homeostat::runtime::{
    Config, Entering, Formats, Held, LogError, Outgoing, Record, Router, TopicPartition, When,
    enter_again, fold_straight,
};
use homeostat::stream::Topic;
use homeostat::topology;
use homeostat::wire::confluent::{Written, frame, open_frame};
use homeostat::wire::leaving::{self, Encoding};
use homeostat::wire::{self, json as forms};

const PREFIX: &str = "homeostat.";
const METRICS: TopicPartition = at(Topic::Metrics, 0);

const fn at(topic: Topic, partition: i32) -> TopicPartition {
    TopicPartition { topic, partition }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("formats-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Holds lines against a golden file.
fn golden(file: &str, made: Vec<Value>) {
    let path = format!("tests/foreign/{file}.jsonl");
    let known: BTreeMap<String, Value> = lines(&path)
        .into_iter()
        .map(|line| (line["name"].as_str().unwrap().to_owned(), line))
        .collect();
    let mut missing = Vec::new();
    for line in &made {
        match known.get(line["name"].as_str().unwrap()) {
            Some(expected) => assert_eq!(line, expected),
            None => missing.push(format!("{path}: {line}")),
        }
    }
    assert!(missing.is_empty(), "lines to add:\n{}", missing.join("\n"));
    assert_eq!(made.len(), known.len(), "{path}: a line that nothing makes");
}

fn sample_schema() -> String {
    std::fs::read_to_string(root().join("schemas/metric-sample.avsc")).unwrap()
}

/// A producer's own schema: other names and order, narrower numbers, more than we want.
const THEIRS: &str = r#"{"type":"record","name":"Probe","namespace":"com.example","fields":[
    {"name":"time","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"where","type":{"type":"record","name":"Where","fields":[
        {"name":"rack","type":["null","string"]},{"name":"unit","type":"int"}]}},
    {"name":"was","type":["null","Where"]},
    {"name":"node_id","type":"string"},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}},
    {"name":"mesh_id","type":"string"},
    {"name":"latency_ms","type":"float"},
    {"name":"packet_loss","type":["null","int","double"]},
    {"name":"mesh_connectivity","type":"int"},
    {"name":"labels","type":{"type":"map","values":"string"}},
    {"name":"hash","type":{"type":"fixed","name":"Hash","size":3}},
    {"name":"raw","type":{"type":"array","items":"bytes"}},
    {"name":"neighbours","type":["null",{"type":"array","items":{"type":"record","name":"Peer",
        "fields":[{"name":"latency_ms","type":"long"},{"name":"node_id","type":"string"}]}}]}]}"#;

fn theirs(packet_loss: Avro) -> Vec<u8> {
    let text = |text: &str| Avro::String(text.to_owned());
    let union = |at: u32, value: Avro| Avro::Union(at, Box::new(value));
    let place = |rack: Option<&str>| {
        let rack = match rack {
            Some(rack) => union(1, text(rack)),
            None => union(0, Avro::Null),
        };
        Avro::Record(vec![("rack".into(), rack), ("unit".into(), Avro::Int(-7))])
    };
    let peer = Avro::Record(vec![
        ("latency_ms".into(), Avro::Long(3)),
        ("node_id".into(), text("p")),
    ]);
    let labels = [("a".to_owned(), text("b"))].into_iter().collect();
    let fields = [
        ("time", Avro::TimestampMicros(1_767_225_600_000_999)),
        ("where", place(Some("r1"))),
        ("was", union(1, place(None))),
        ("node_id", text("node-17")),
        ("kind", Avro::Enum(1, "B".to_owned())),
        ("mesh_id", text("alpha")),
        ("latency_ms", Avro::Float(1.5)),
        ("packet_loss", packet_loss),
        ("mesh_connectivity", Avro::Int(4)),
        ("labels", Avro::Map(labels)),
        ("hash", Avro::Fixed(3, vec![1, 2, 3])),
        ("raw", Avro::Array(vec![Avro::Bytes(vec![0xFF])])),
        ("neighbours", union(1, Avro::Array(vec![peer]))),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    let schema = Schema::parse_str(THEIRS).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    writer
        .write_value_to_vec(Avro::Record(fields.into()))
        .unwrap()
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), body].concat()
}

/// A sample of ours as JSON, then as a frame of schema 7.
fn ours(node: &str, seq: i64, loss: f64) -> Vec<u8> {
    let line = json!({"mesh_id": "alpha", "node_id": node, "seq": seq, "interval_s": 10.0,
        "time": 1_767_225_600_000i64 + seq * 10_000, "packet_loss": loss, "latency_ms": 12.0,
        "cpu_percent": 50.0, "memory_percent": 40.0, "mesh_connectivity": 4});
    let taken = topology::ingest::take_line(
        line.to_string().as_bytes(),
        homeostat::model::FOREVER,
        homeostat::model::Span(0),
    );
    frame(7, &taken.unwrap().value).unwrap()
}

fn record(offset: i64, value: Vec<u8>) -> Record {
    Record {
        offset,
        time: Time(1_767_225_600_000 + offset * 10_000),
        key: b"any".to_vec(),
        value,
        headers: Vec::new(),
    }
}

// What bytes mean.

#[test]
fn what_others_write_means_what_it_always_meant() {
    let mut made = Vec::new();
    let null = Avro::Union(0, Box::new(Avro::Null));
    let ours = ours("node-17", 1, 0.5);
    for (name, schema, value) in [
        ("a MetricSample", sample_schema(), ours),
        ("a Probe", THEIRS.to_owned(), framed(9, &theirs(null))),
    ] {
        let (id, body) = open_frame(&value).unwrap();
        let became = Written::by(&schema).unwrap().translate(body).unwrap();
        made.push(json!({"name": name, "id": id, "frame": hex(&value), "becomes": hex(&became)}));
    }
    golden("confluent", made);

    let mut settings = FormatsSettings::default();
    settings.telegraf.enabled = true;
    let mut formats = Foreign::open(&settings, PREFIX, &folder("golden"), Time(0)).unwrap();
    let mut made = Vec::new();
    for (name, message) in [
        (
            "cpu",
            r#"{"fields":{"usage_idle":12.5,"usage_user":80},"name":"cpu",
                "tags":{"cpu":"cpu-total","host":"raynor"},"timestamp":1458229140}"#,
        ),
        (
            "mem",
            r#"{"fields":{"used_percent":41.25,"total":8},"name":"mem",
                "tags":{"host":"raynor"},"timestamp":1458229140}"#,
        ),
        (
            "ping",
            r#"{"fields":{"average_response_ms":23.5,"percent_packet_loss":20},"name":"ping",
                "tags":{"host":"raynor","url":"10.0.0.1"},"timestamp":1458229140}"#,
        ),
        (
            "disk: nothing of it is asked for",
            r#"{"fields":{"used_percent":3},"name":"disk","tags":{"host":"raynor"},
                "timestamp":1458229140}"#,
        ),
        (
            "a batch",
            r#"{"metrics":[{"fields":{"used_percent":41.25},"name":"mem",
                "tags":{"host":"raynor"},"timestamp":1458229140},
                {"fields":{"usage_idle":0},"name":"cpu",
                "tags":{"cpu":"cpu-total","host":"raynor"},"timestamp":1458229150}]}"#,
        ),
    ] {
        let entered = formats.entering(METRICS, record(0, message.into()), When::First);
        let Entering::Ready(record) = entered else {
            panic!("{entered:?}");
        };
        let value = String::from_utf8(record.value.clone()).unwrap();
        let read = wire::decode_metrics(&record.value).unwrap();
        assert_eq!(matches!(read, MetricsRecord::Tick), value.is_empty());
        let key = String::from_utf8(record.key).unwrap();
        made.push(json!({"name": name, "message": message, "key": key, "becomes": value}));
    }
    golden("telegraf", made);
}

/// apache-avro resolves the writer's schema to ours by itself; it shares no line with us.
#[test]
fn apache_avro_resolves_alike() {
    let reader = Schema::parse_str(&sample_schema()).unwrap();
    // It does not bring microseconds to milliseconds; and it wants a seq.
    let plain = THEIRS.replace(
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        "\"long\"",
    );
    let with_seq = plain.replacen(
        r#"{"name":"time""#,
        r#"{"name":"seq","type":"int"},{"name":"time""#,
        1,
    );
    let writer = Schema::parse_str(&with_seq).unwrap();
    let written = Written::by(&with_seq).unwrap();
    let union = |at: u32, value: Avro| Avro::Union(at, Box::new(value));
    for loss in [
        union(0, Avro::Null),
        union(1, Avro::Int(20)),
        union(2, Avro::Double(0.25)),
    ] {
        // The seq 5 before what was written without one. Microseconds taken for milliseconds are
        // beyond all years: here the time is 1 ms.
        let late = [&[10][..], &theirs(loss)].concat();
        assert!(written.translate(&late).unwrap_err().contains("time"));
        let after_time = late.iter().skip(1).position(|byte| *byte < 0x80).unwrap() + 2;
        let body = [&[10, 2][..], &late[after_time..]].concat();
        let mut rest = &body[..];
        let datum = GenericDatumReader::builder(&writer)
            .reader_schema(&reader)
            .build()
            .unwrap();
        let Avro::Record(fields) = datum.read_value(&mut rest).unwrap() else {
            panic!("a sample is a record");
        };
        let fields: BTreeMap<String, Avro> = fields.into_iter().collect();
        let became = written.translate(&body).unwrap();
        let MetricsRecord::Sample(raw) = wire::decode_metrics(&became).unwrap() else {
            panic!("a sample");
        };
        assert_eq!(raw.seq, Given::Value(Some(5)));
        assert_eq!(fields["seq"], Avro::Long(5));
        for (name, given) in [
            ("latency_ms", &raw.metrics[3]),
            ("packet_loss", &raw.metrics[4]),
            ("mesh_connectivity", &raw.metrics[2]),
            ("cpu_percent", &raw.metrics[0]),
        ] {
            let Avro::Union(_, value) = &fields[name] else {
                panic!("{name}: {:?}", fields[name]);
            };
            let expected = match **value {
                Avro::Null => Given::Missing,
                Avro::Double(value) => Given::Value(value),
                Avro::Long(value) => Given::Value(value as f64),
                ref other => panic!("{other:?}"),
            };
            assert_eq!(given, &expected, "{name}");
        }
        assert_eq!(fields["mesh_id"], Avro::String("alpha".into()));
        assert_eq!(raw.mesh, Given::Value("alpha".into()));
        assert_eq!(raw.neighbours.len(), 1);
    }
}

#[test]
fn cut_and_spoilt_bodies_are_refused_and_none_panics() {
    let written = Written::by(THEIRS).unwrap();
    let body = theirs(Avro::Union(1, Box::new(Avro::Int(3))));
    assert!(written.translate(&body).is_ok());
    for end in 0..body.len() {
        let cut = written.translate(&body[..end]);
        assert!(cut.is_err(), "cut at {end}: {cut:?}");
    }
    let longer = [&body[..], &[0]].concat();
    assert!(written.translate(&longer).unwrap_err().contains("1 bytes"));
    for at in 0..body.len() {
        for byte in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
            let mut spoilt = body.clone();
            spoilt[at] = byte;
            let _ = written.translate(&spoilt);
        }
    }
}

#[test]
fn schemas_that_are_no_samples_are_refused_and_hostile_ones_end() {
    let fields = r#"{"name":"mesh_id","type":"string"},{"name":"node_id","type":"string"},
        {"name":"time","type":"long"}"#;
    let record =
        |more: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}{more}]}}"#);
    let refused = |text: &str, word: &str| {
        let why = Written::by(text).unwrap_err();
        assert!(why.contains(word), "{text}: {why} should name {word}");
    };
    refused("", "EOF");
    refused("\"string\"", "no record");
    refused(&record("").replace("mesh_id", "mesh"), "mesh_id");
    refused(
        &record(r#",{"name":"cpu_percent","type":"string"}"#),
        "cpu_percent",
    );
    refused(
        &record(r#",{"name":"mesh_connectivity","type":"double"}"#),
        "mesh_connectivity",
    );
    refused(&record(r#",{"name":"x","type":"Elsewhere"}"#), "Elsewhere");
    let deep = format!("{}\"null\"{}", "[".repeat(100), "]".repeat(100));
    refused(
        &record(&format!(r#",{{"name":"x","type":{deep}}}"#)),
        "deep",
    );

    // Values without bytes, more than anyone can count; and lists within lists without an end.
    let start = b"\x02m\x02n\x02";
    let nulls = record(r#",{"name":"x","type":{"type":"array","items":"null"}}"#);
    let many = [&start[..], &b"\x7E".repeat(60_000), &[0]].concat();
    let why = Written::by(&nulls).unwrap().translate(&many).unwrap_err();
    assert!(why.contains("more values"), "{why}");
    let mut laughs = r#"{"type":"record","name":"L0","fields":[]}"#.to_owned();
    for i in 1..30 {
        laughs = format!(
            r#"{{"type":"record","name":"L{i}","fields":[
                {{"name":"a","type":{laughs}}},{{"name":"b","type":"L{}"}}]}}"#,
            i - 1
        );
    }
    let laughs = record(&format!(r#",{{"name":"x","type":{laughs}}}"#));
    let why = Written::by(&laughs).unwrap().translate(start).unwrap_err();
    assert!(why.contains("more values"), "{why}");
    let list = record(
        r#",{"name":"x","type":{"type":"record","name":"List","fields":[
            {"name":"next","type":["null","List"]}]}}"#,
    );
    let endless = [&start[..], &b"\x02".repeat(100_000), &[0]].concat();
    let written = Written::by(&list).unwrap();
    assert!(written.translate(&endless).unwrap_err().contains("deep"));
    assert!(
        written
            .translate(&[&start[..], &[2, 2, 0]].concat())
            .is_ok()
    );
}

// What leaves, and comes back.

/// Every golden record in its stage's own form.
fn own_records() -> Vec<(Topic, String, Vec<u8>)> {
    let mut records = Vec::new();
    for (topic, file) in [
        (Topic::Events, "event"),
        (Topic::Cycles, "cycle-closed"),
        (Topic::Directives, "directive"),
    ] {
        for line in lines(&format!("tests/golden/{file}.jsonl")) {
            let value = unhex(line["hex"].as_str().unwrap());
            let value = match topic {
                Topic::Directives => {
                    forms::directive(&wire::decode_directive(&value).unwrap()).into_bytes()
                }
                _ => value,
            };
            let name = format!("{file} {}", line["name"].as_str().unwrap());
            records.push((topic, name, value));
        }
    }
    assert!(records.len() > 25, "{}", records.len());
    records
}

fn outgoing(topic: Topic, value: Vec<u8>) -> Outgoing {
    Outgoing {
        to: at(topic, 3),
        time: Time(1),
        key: b"alpha".to_vec(),
        value,
        headers: Vec::new(),
    }
}

fn form(encoding: Encoding) -> Form {
    match encoding {
        Encoding::Avro => Form::Avro,
        Encoding::Json => Form::Json,
        Encoding::Confluent => Form::Confluent,
    }
}

#[test]
fn what_leaves_in_any_form_comes_back_byte_for_byte() {
    let registry = Registry::start();
    let mut reader = reader();
    let mut made = Vec::new();
    for encoding in [Encoding::Avro, Encoding::Json, Encoding::Confluent] {
        let settings = FormatsSettings {
            events: match encoding {
                Encoding::Json => Form::Avro,
                other => form(other),
            },
            cycles: form(encoding),
            directives: form(encoding),
            cloudevents: CloudEvents::All,
            registry: registry.url(),
            ..FormatsSettings::default()
        };
        let folder = folder(&format!("leaving-{encoding:?}"));
        let mut formats = Foreign::open(&settings, PREFIX, &folder, Time(0)).unwrap();
        for (topic, name, own) in own_records() {
            let left = formats.leaving(outgoing(topic, own.clone()));
            let first = match (topic, encoding) {
                (_, Encoding::Confluent) => 0,
                (Topic::Events, _) | (_, Encoding::Avro) => 0xC3,
                (_, Encoding::Json) => b'{',
            };
            assert_eq!(left.value[0], first, "{name}");
            let back = Record {
                offset: 0,
                time: left.time,
                key: left.key.clone(),
                value: left.value.clone(),
                headers: left.headers.clone(),
            };
            // Whoever reads it back needs neither the registry nor this folder.
            let entered = reader.entering(left.to, back, When::First);
            let Entering::Ready(entered) = entered else {
                panic!("{name}: {entered:?}");
            };
            assert_eq!(hex(&entered.value), hex(&own), "{name}");
            let again = formats.leaving(outgoing(topic, own));
            assert_eq!(again, left, "the same record leaves the same: {name}");
            if [
                "event DirectiveIssued",
                "cycle-closed cycle",
                "directive healing",
            ]
            .contains(&name.as_str())
                && (topic != Topic::Events || encoding != Encoding::Json)
            {
                let headers = left
                    .headers
                    .iter()
                    .map(|(name, value)| json!([name, String::from_utf8(value.clone()).unwrap()]));
                let headers: Vec<Value> = headers.collect();
                made.push(json!({"name": format!("{name} as {encoding:?}"),
                    "value": hex(&left.value), "headers": headers}));
            }
        }
    }
    golden("leaving", made);
}

/// A reader with defaults and nothing kept.
fn reader() -> Foreign {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("reader-{}", COUNT.fetch_add(1, Ordering::SeqCst));
    open(&FormatsSettings::default(), &folder(&name))
}

#[test]
fn headers_are_those_that_were_chosen() {
    for (chosen, events, cycles) in [
        (CloudEvents::None, false, false),
        (CloudEvents::Decisions, true, false),
        (CloudEvents::All, true, true),
    ] {
        let settings = FormatsSettings {
            cloudevents: chosen,
            ..FormatsSettings::default()
        };
        let mut formats = Foreign::open(&settings, PREFIX, &folder("chosen"), Time(0)).unwrap();
        for (topic, name, own) in own_records() {
            let left = formats.leaving(outgoing(topic, own));
            let header = |name: &str| {
                let header = left.headers.iter().find(|(own, _)| own == name);
                header.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
            };
            let wanted = if topic == Topic::Cycles {
                cycles
            } else {
                events
            };
            assert_eq!(header("ce_id").is_some(), wanted, "{name}");
            assert!(header("content-type").is_some() && header("schema").is_some());
            if let Some(parent) = header("traceparent") {
                let parts: Vec<&str> = parent.split('-').collect();
                assert_eq!(parts.len(), 4, "{parent}");
                assert_eq!((parts[1].len(), parts[2].len()), (32, 16));
            }
        }
    }
    // What is sent on keeps what it came with.
    let sample = open_frame(&ours("n", 1, 0.0))
        .map(|(_, body)| body.to_vec())
        .unwrap();
    let fingerprint = wire::fingerprint(&sample_schema()).unwrap();
    let mut sent_on = outgoing(
        Topic::Metrics,
        [&[0xC3, 0x01][..], &fingerprint, &sample].concat(),
    );
    sent_on.headers = vec![("content-type".to_owned(), b"theirs".to_vec())];
    let left = reader().leaving(sent_on.clone());
    assert_eq!(left.value, sent_on.value);
    assert_eq!(left.headers[0], sent_on.headers[0]);
    let types = left
        .headers
        .iter()
        .filter(|(name, _)| name == "content-type");
    assert_eq!(types.count(), 1);
}

// Dead letters.

fn letter(value: Vec<u8>, key: &[u8], given: &[(&str, &[u8])], topic: &str) -> Outgoing {
    let ours: [(&str, &[u8]); 5] = [
        ("reason", b"not_json"),
        ("detail", b"what is wrong"),
        ("topic", topic.as_bytes()),
        ("partition", b"2"),
        ("offset", b"1041"),
    ];
    let headers = given.iter().chain(&ours);
    Outgoing {
        key: key.to_vec(),
        headers: headers
            .map(|(n, v)| ((*n).to_owned(), v.to_vec()))
            .collect(),
        ..outgoing(Topic::DeadLetters, value)
    }
}

#[test]
fn dead_letters_bear_connects_names_and_poison_is_cut_with_its_hash() {
    let settings = FormatsSettings {
        dead_letter_max_kib: 1,
        ..FormatsSettings::default()
    };
    let mut formats = Foreign::open(&settings, PREFIX, &folder("dead"), Time(0)).unwrap();
    let poison: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut made = Vec::new();
    for (name, letter) in [
        (
            "small",
            letter(
                b"nonsense".to_vec(),
                b"n",
                &[("app", b"7")],
                "homeostat.metrics",
            ),
        ),
        (
            "oversize",
            letter(
                poison.clone(),
                &[b'k'; 5000],
                &[("app", b"7"), ("huge", &[b'h'; 70_000])],
                "homeostat.plan-inbox",
            ),
        ),
    ] {
        let left = formats.leaving(letter);
        let header = |name: &str| {
            let header = left.headers.iter().rev().find(|(own, _)| own == name);
            header.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
        };
        let bytes: usize = left.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        assert!(left.value.len() <= 1024 && left.key.len() <= 1024 && bytes < 40_000);
        assert_eq!(header("reason").as_deref(), Some("not_json"));
        assert_eq!(header("app").as_deref(), Some("7"));
        assert_eq!(leaving::is_cut(&left.headers), name == "oversize");
        if name == "oversize" {
            assert_eq!(header("original_bytes").as_deref(), Some("3000000"));
            assert_eq!(
                header("original_sha256"),
                Some(hex(&Sha256::digest(&poison)))
            );
            assert_eq!(left.value[..], poison[..1024]);
            assert_eq!(header("original_headers_dropped").as_deref(), Some("1"));
        }
        let headers = left.headers.iter();
        let headers: Vec<Value> = headers
            .map(|(name, value)| json!([name, String::from_utf8(value.clone()).unwrap()]))
            .collect();
        made.push(
            json!({"name": name, "value": hex(&left.value[..left.value.len().min(32)]),
            "headers": headers}),
        );
    }
    golden("dead-letters", made);
}

// The registry.

/// What the registry of a test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// Takes requests and answers none before the mood changes.
    Slow,
    /// Closes every connection.
    Down,
    Unknown,
    Malformed,
    Huge,
    Failing,
    Protobuf,
}

/// A Schema Registry that knows schema 7, ours, and 9, the Probe's; ids are given from 100 on.
struct Registry {
    port: u16,
    mood: Arc<(Mutex<Mood>, Condvar)>,
    requests: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mood = Arc::new((Mutex::new(Mood::Well), Condvar::new()));
        let requests = Arc::new(AtomicUsize::new(0));
        let ends = Arc::new(AtomicBool::new(false));
        let (moods, count, end) = (mood.clone(), requests.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            let mut talks = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (moods, count) = (moods.clone(), count.clone());
                talks.push(std::thread::spawn(move || {
                    // Whoever goes away first is no fault.
                    let _ = talk(stream.unwrap(), &moods, &count);
                }));
            }
            talks.into_iter().for_each(|talk| talk.join().unwrap());
        });
        Registry {
            port,
            mood,
            requests,
            ends,
            thread: Some(thread),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn is(&self, mood: Mood) {
        *self.mood.0.lock().unwrap() = mood;
        self.mood.1.notify_all();
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.is(Mood::Down);
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn talk(
    mut stream: TcpStream,
    mood: &(Mutex<Mood>, Condvar),
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut first, mut length) = (String::new(), String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    requests.fetch_add(1, Ordering::SeqCst);
    let guard = mood.0.lock().unwrap();
    let now = *mood
        .1
        .wait_while(guard, |mood| *mood == Mood::Slow)
        .unwrap();
    let (status, answer) = match (now, first.split(' ').nth(1).unwrap_or("")) {
        (Mood::Slow | Mood::Down, _) => return Ok(()),
        (Mood::Well, "/schemas/ids/7") => (200, json!({"schema": sample_schema()}).to_string()),
        (Mood::Well, "/schemas/ids/9") => (200, json!({"schema": THEIRS}).to_string()),
        (Mood::Well, "/subjects/homeostat.events-value/versions") => (200, r#"{"id":100}"#.into()),
        (Mood::Well, "/subjects/homeostat.cycles-value/versions") => (200, r#"{"id":101}"#.into()),
        (Mood::Well, "/subjects/homeostat.directives-value/versions") => {
            (200, r#"{"id":102}"#.into())
        }
        (Mood::Well | Mood::Unknown, _) => (
            404,
            r#"{"error_code":40403,"message":"Schema not found"}"#.into(),
        ),
        (Mood::Malformed, _) => (200, "<html>welcome".into()),
        (Mood::Huge, _) => (200, "x".repeat(8 << 20)),
        (Mood::Failing, _) => (500, "no leader".into()),
        (Mood::Protobuf, _) => (200, r#"{"schemaType":"PROTOBUF","schema":"syntax"}"#.into()),
    };
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    )
}

/// Settings that never give up by themselves within a test.
fn patient(registry: &Registry) -> FormatsSettings {
    FormatsSettings {
        registry: registry.url(),
        registry_patience_s: 3600,
        registry_unknown_s: 3600,
        registry_timeout_ms: 60_000,
        ..FormatsSettings::default()
    }
}

fn open(settings: &FormatsSettings, folder: &Path) -> Foreign {
    Foreign::open(settings, PREFIX, folder, Time(0)).unwrap()
}

/// Asks again until `wanted` answers something; fails after a minute.
fn until<T>(what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (_open, pause): (Sender<()>, _) = channel();
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(Instant::now() < deadline, "within a minute: {what}");
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
}

/// Brings a record in, however long it takes.
fn enter(formats: &mut Foreign, record: &Record, when: When) -> Record {
    until("the record enters", || {
        match formats.entering(METRICS, record.clone(), when) {
            Entering::Ready(record) => Some(record),
            Entering::Later(_) => None,
            other => panic!("{other:?}"),
        }
    })
}

/// What Analyze makes of records that entered.
fn folded(records: &[Record]) -> Vec<Outgoing> {
    let stages = topology::stages();
    let config = Config::default();
    fold_straight(&stages[0], METRICS, &config, &Router::even(1), records)
}

/// A healthy node that falls ill, in frames of both schemas, and one that nobody has.
fn story() -> Vec<Record> {
    let mut records: Vec<Record> = (0..12)
        .map(|n| {
            let loss = if n < 5 { 0.0 } else { 60.0 };
            record(n, ours("node-1", n + 1, loss))
        })
        .collect();
    let probe = theirs(Avro::Union(1, Box::new(Avro::Int(3))));
    records.push(record(12, framed(9, &probe)));
    records.push(record(13, framed(9, &probe[..9])));
    records.push(record(
        14,
        br#"{"mesh_id":"alpha","node_id":"node-1","time":7}"#.to_vec(),
    ));
    records
}

#[test]
fn quick_or_slow_the_same_records_enter_and_the_same_leaves() {
    let registry = Registry::start();
    let mut quick = open(&patient(&registry), &folder("quick"));
    let entered: Vec<Record> = story()
        .iter()
        .map(|record| enter(&mut quick, record, When::First))
        .collect();
    let decided = folded(&entered);
    let said = decided
        .iter()
        .filter(|out| out.to.topic == Topic::PlanInbox);
    assert!(
        said.count() >= 2,
        "an assessment for each node: {decided:?}"
    );
    let dead = decided
        .iter()
        .filter(|out| out.to.topic == Topic::DeadLetters);
    assert_eq!(
        dead.count(),
        2,
        "the cut Probe, and the sample of the past: {decided:?}"
    );

    // Slow, failing, down, talking nonsense, then well: every record is held up, none is lost.
    registry.is(Mood::Slow);
    let mut slow = open(&patient(&registry), &folder("slow"));
    let mut late = Vec::new();
    for (n, record) in story().iter().enumerate() {
        if n == 0 {
            let asked = registry.requests();
            for _ in 0..1000 {
                let held = slow.entering(METRICS, record.clone(), When::First);
                assert_eq!(held, Entering::Later(record.clone()), "it answers at once");
            }
            until("the registry is asked", || {
                (registry.requests() > asked).then_some(())
            });
            for mood in [Mood::Failing, Mood::Malformed, Mood::Down, Mood::Unknown] {
                let asked = registry.requests();
                registry.is(mood);
                until("it is asked again", || {
                    (registry.requests() > asked).then_some(())
                });
                let held = slow.entering(METRICS, record.clone(), When::First);
                assert_eq!(held, Entering::Later(record.clone()), "{mood:?}");
            }
            registry.is(Mood::Well);
        }
        late.push(enter(&mut slow, record, When::First));
    }
    assert_eq!(late, entered);
    assert_eq!(folded(&late), decided);
}

#[test]
fn what_is_known_needs_no_registry_after_a_restart() {
    let registry = Registry::start();
    let (settings, folder) = (patient(&registry), folder("warm"));
    let mut cold = open(&settings, &folder);
    let entered: Vec<Record> = story()
        .iter()
        .map(|record| enter(&mut cold, record, When::First))
        .collect();
    assert_eq!(registry.requests(), 2, "once per id");
    drop(cold);
    registry.is(Mood::Down);
    let mut warm = open(&settings, &folder);
    for (record, before) in story().iter().zip(&entered) {
        let now = warm.entering(METRICS, record.clone(), When::First);
        assert_eq!(now, Entering::Ready(before.clone()), "at once");
    }
    assert_eq!(registry.requests(), 2);
    drop(warm);

    // A torn line and a damaged one count as not there, and what comes after stands.
    let file = folder.join("formats.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let spoilt = text.replace("latency_ms", "@@");
    let spoilt = spoilt.replace("packet_loss", "latency_ms");
    let spoilt = spoilt.replace("@@", "packet_loss");
    assert_ne!(spoilt, text);
    std::fs::write(&file, &spoilt[..spoilt.len() - 20]).unwrap();
    registry.is(Mood::Well);
    let mut healed = open(&settings, &folder);
    for (record, before) in story().iter().zip(&entered) {
        assert_eq!(&enter(&mut healed, record, When::First), before);
    }
    drop(healed);
    registry.is(Mood::Down);
    let mut warm = open(&settings, &folder);
    let first = warm.entering(METRICS, story()[0].clone(), When::First);
    assert_eq!(
        first,
        Entering::Ready(entered[0].clone()),
        "at once, from behind the torn line"
    );

    let other = FormatsSettings {
        registry: "http://127.0.0.1:1".into(),
        ..settings
    };
    let error = Foreign::open(&other, PREFIX, &folder, Time(0))
        .err()
        .unwrap();
    let words = error.to_string();
    assert!(
        words.contains("another registry") && words.contains("formats.jsonl"),
        "{words}"
    );
}

/// The dead letters of what was folded, as they lie on the brokers.
fn letters(formats: &mut Foreign, decided: &[Outgoing]) -> Vec<Record> {
    let dead = decided
        .iter()
        .filter(|out| out.to.topic == Topic::DeadLetters);
    let dead: Vec<Outgoing> = dead.cloned().collect();
    let written = dead.into_iter().enumerate().map(|(n, out)| {
        let out = formats.leaving(out);
        Record {
            offset: n as i64,
            time: out.time,
            key: out.key,
            value: out.value,
            headers: out.headers,
        }
    });
    written.collect()
}

#[test]
fn what_was_given_up_once_is_given_up_again_whatever_the_registry_says_then() {
    let registry = Registry::start();
    registry.is(Mood::Unknown);
    let hasty = FormatsSettings {
        registry_unknown_s: 0,
        ..patient(&registry)
    };
    let mut aloud = open(&hasty, &folder("aloud"));
    let story = story();
    // Schema 7 is not there for the first five records; then it is.
    let mut entered = Vec::new();
    for (n, record) in story.iter().enumerate() {
        if n == 5 {
            registry.is(Mood::Well);
            until("schema 7 is had", || {
                let probe = aloud.entering(METRICS, record.clone(), When::First);
                matches!(&probe, Entering::Ready(r) if r.value[0] == 0xC3).then_some(())
            });
        }
        entered.push(enter(&mut aloud, record, When::First));
    }
    for (n, record) in entered[..5].iter().enumerate() {
        assert_eq!(record.value, story[n].value, "its own bytes");
        let (name, why) = &record.headers[0];
        assert_eq!(name, leaving::WHY_UNTRANSLATED);
        let why = String::from_utf8_lossy(why);
        assert!(
            why.contains("schema 7") && why.contains("none of this id"),
            "{why}"
        );
    }
    let decided = folded(&entered);
    let letters = letters(&mut aloud, &decided);
    let header = |record: &Record, name: &str| {
        let header = record.headers.iter().rev().find(|(own, _)| own == name);
        String::from_utf8(header.unwrap().1.clone()).unwrap()
    };
    assert_eq!(header(&letters[0], "reason"), "untranslated");
    assert_eq!(
        header(&letters[0], "__connect.errors.stage"),
        "VALUE_CONVERTER"
    );
    assert_eq!(header(&letters[0], "__connect.errors.offset"), "0");
    assert!(header(&letters[0], "untranslated").contains("none of this id"));

    // Another process, an empty folder, a registry that has it all: the same again.
    let mut again = open(&patient(&registry), &folder("again"));
    let asked = again.entering(METRICS, story[0].clone(), When::Again);
    let Entering::Letters(_, since) = asked else {
        panic!("{asked:?}");
    };
    assert!(since <= letters[0].time);
    letters.iter().for_each(|letter| again.recall(letter));
    let refolded: Vec<Record> = story
        .iter()
        .map(|record| enter(&mut again, record, When::Recalled))
        .collect();
    let without_words = |records: &[Record]| -> Vec<Record> {
        let records = records.iter().cloned();
        records
            .map(|record| Record {
                headers: Vec::new(),
                ..record
            })
            .collect()
    };
    assert_eq!(without_words(&refolded), without_words(&entered));
    let alive = |out: &&Outgoing| out.to.topic != Topic::DeadLetters;
    let (now, then) = (folded(&refolded), decided);
    assert!(now.iter().filter(alive).eq(then.iter().filter(alive)));

    // What was translated then and cannot be now is not given up but said.
    registry.is(Mood::Unknown);
    let mut lost = open(&hasty, &folder("lost"));
    letters.iter().for_each(|letter| lost.recall(letter));
    let words = until("it is lost", || {
        match lost.entering(METRICS, story[6].clone(), When::Recalled) {
            Entering::Later(_) => None,
            Entering::Lost(words) => Some(words),
            other => panic!("{other:?}"),
        }
    });
    assert!(
        words.contains("offset 6") && words.contains("schema 7"),
        "{words}"
    );
}

/// The two ways in as a log takes them: polled, and read again below the committed position.
#[test]
fn a_partition_is_held_up_in_order_and_read_again_alike() {
    let registry = Registry::start();
    registry.is(Mood::Slow);
    let mut formats = open(&patient(&registry), &folder("held"));
    let other = at(Topic::Metrics, 1);
    let (mut held, mut out) = (Held::default(), Vec::new());
    for record in story() {
        assert_eq!(held.enter(&mut formats, METRICS, record), None);
    }
    let free = story().pop().unwrap();
    let passed = held.enter(&mut formats, other, free.clone());
    assert_eq!(passed, Some(free), "no other partition waits");
    assert!(held.retry(&mut formats, &mut out).is_empty());
    assert!(held.holds(METRICS) && !held.holds(other) && out.is_empty());
    held.forget(METRICS);
    assert!(!held.holds(METRICS), "taken away");
    for record in story() {
        assert_eq!(held.enter(&mut formats, METRICS, record), None);
    }
    registry.is(Mood::Well);
    until("all is let go", || {
        held.retry(&mut formats, &mut out)
            .contains(&METRICS)
            .then_some(())
    });
    let entered: Vec<Record> = out.into_iter().map(|(_, record)| record).collect();
    let offsets: Vec<i64> = entered.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..15).collect::<Vec<_>>());

    let letters = letters(&mut formats, &folded(&entered));
    let (_open, pause): (Sender<()>, _) = channel();
    let mut wait = || {
        let _ = pause.recv_timeout(Duration::from_millis(5));
        Ok(())
    };
    let asked = std::cell::Cell::new(0);
    let mut since = |_| {
        asked.set(asked.get() + 1);
        Ok(letters.clone())
    };
    let mut again = open(&patient(&registry), &folder("read-again"));
    let read = enter_again(&mut again, METRICS, story(), &mut since, &mut wait).unwrap();
    let bare = |records: Vec<Record>| -> Vec<(i64, Vec<u8>, Vec<u8>)> {
        let records = records.into_iter();
        records.map(|r| (r.offset, r.key, r.value)).collect()
    };
    assert_eq!(bare(read), bare(entered));
    assert_eq!(asked.get(), 1, "once for a read");

    registry.is(Mood::Down);
    let hasty = FormatsSettings {
        registry_patience_s: 0,
        registry_unknown_s: 0,
        ..patient(&registry)
    };
    let mut lost = open(&hasty, &folder("read-lost"));
    let error = enter_again(&mut lost, METRICS, story(), &mut since, &mut wait).unwrap_err();
    assert!(
        matches!(&error, LogError::Failed(words) if words.contains("schema 7")),
        "{error}"
    );
}

#[test]
fn what_no_answer_can_help_is_given_up_after_its_time_with_the_reason() {
    for (mood, word) in [
        (Mood::Down, "127.0.0.1"),
        (Mood::Unknown, "none of this id"),
        (Mood::Malformed, "no schema"),
        (Mood::Failing, "no leader"),
        (Mood::Huge, "schema_max_kib"),
        (Mood::Protobuf, "PROTOBUF"),
    ] {
        let registry = Registry::start();
        registry.is(mood);
        let settings = FormatsSettings {
            registry_patience_s: 1,
            registry_unknown_s: 1,
            ..patient(&registry)
        };
        let mut formats = open(&settings, &folder(&format!("{mood:?}")));
        let given_up = enter(&mut formats, &story()[0], When::First);
        assert_eq!(given_up.value, story()[0].value);
        let why = String::from_utf8(given_up.headers[0].1.clone()).unwrap();
        assert!(why.contains(word), "{mood:?}: {why}");
        let decided = folded(&[given_up]);
        assert_eq!(decided.len(), 1);
        assert_eq!(decided[0].to.topic, Topic::DeadLetters);
    }
    let mut without = reader();
    let given_up = enter(&mut without, &story()[0], When::First);
    let why = String::from_utf8(given_up.headers[0].1.clone()).unwrap();
    assert!(why.contains("formats.registry"), "{why}");
}

/// Who writes random ids holds a partition up for three of them, not for each.
#[test]
fn ids_that_nobody_has_do_not_hold_a_partition_up_for_ever() {
    let registry = Registry::start();
    let settings = FormatsSettings {
        registry_unknown_s: 1,
        schemas_max: 8,
        ..patient(&registry)
    };
    let mut formats = open(&settings, &folder("random"));
    let start = Instant::now();
    for n in 0..50 {
        let random = record(n, framed(1000 + n as u32, b"x"));
        let given_up = enter(&mut formats, &random, When::First);
        assert_eq!(given_up.value, random.value);
    }
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(45),
        "50 ids took {took:?}, expected about 3 s"
    );
    // One that is there is had all the same.
    assert_eq!(enter(&mut formats, &story()[0], When::First).value[0], 0xC3);
}

#[test]
fn frames_leave_only_when_the_registry_took_their_schema_once() {
    let registry = Registry::start();
    let settings = FormatsSettings {
        events: Form::Confluent,
        ..patient(&registry)
    };
    for mood in [Mood::Down, Mood::Failing, Mood::Malformed, Mood::Unknown] {
        registry.is(mood);
        let error = Foreign::open(&settings, PREFIX, &folder("first"), Time(0));
        let error = error.err().unwrap();
        assert!(
            matches!(error, RegistryError::Failed(_)),
            "{mood:?}: {error}"
        );
        let words = error.to_string();
        assert!(words.contains(&registry.url()), "{words}");
    }
    registry.is(Mood::Well);
    let folder = folder("later");
    drop(open(&settings, &folder));
    registry.is(Mood::Down);
    let mut warm = open(&settings, &folder);
    let (topic, _, own) = own_records().swap_remove(0);
    let left = warm.leaving(outgoing(topic, own));
    assert_eq!(left.value[..5], [0, 0, 0, 0, 100]);
}

#[test]
fn a_changed_mapping_counts_from_then_on() {
    let message = r#"{"fields":{"used_percent":41.0,"active":50.0},"name":"mem",
        "tags":{"host":"h"},"timestamp":1458229140}"#;
    let folder = folder("mapping");
    let mut settings = FormatsSettings::default();
    settings.telegraf.enabled = true;
    let read = |settings: &FormatsSettings, now: i64, appended: i64| {
        let mut formats = Foreign::open(settings, PREFIX, &folder, Time(now)).unwrap();
        let record = Record {
            time: Time(appended),
            ..record(0, message.into())
        };
        String::from_utf8(enter(&mut formats, &record, When::First).value).unwrap()
    };
    assert!(read(&settings, 100, 1).contains(r#""memory_percent":41.0"#));
    settings.telegraf.memory_percent = "mem.active".into();
    assert!(read(&settings, 200, 200).contains(r#""memory_percent":50.0"#));
    assert!(read(&settings, 300, 199).contains(r#""memory_percent":41.0"#));
    settings.telegraf.enabled = false;
    assert_eq!(read(&settings, 400, 400), message);
    assert!(read(&settings, 500, 399).contains(r#""memory_percent":50.0"#));
    settings.telegraf.enabled = true;
    settings.telegraf.node = "=".into();
    let error = Foreign::open(&settings, PREFIX, &folder, Time(600))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("[formats.telegraf]: node"),
        "{error}"
    );
}

/// Whatever the loop writes lies under the name that it is about.
#[test]
fn keys_are_names_that_people_can_read() {
    let registry = Registry::start();
    let mut formats = open(&patient(&registry), &folder("keys"));
    let mut straight = topology::straight::Straight::new("log", Time(1_767_225_600_000));
    for record in story() {
        let entered = enter(&mut formats, &record, When::First);
        straight.skip_to(record.time);
        straight.append(Topic::Metrics, &entered.key, entered.value);
    }
    let mut seen = BTreeMap::new();
    for (of, records) in &straight.recorded {
        for record in records {
            let key = std::str::from_utf8(&record.key).unwrap();
            let expected = match of.topic {
                Topic::Events => wire::decode_event(&record.value).unwrap().mesh.to_string(),
                Topic::Cycles => wire::decode_cycle(&record.value).unwrap().node.to_string(),
                Topic::Directives => {
                    let directive = wire::decode_directive(&record.value).unwrap();
                    format!("{}/{}", directive.mesh, directive.node)
                }
                Topic::Metrics | Topic::PlanInbox | Topic::DeadLetters => continue,
            };
            assert_eq!(key, expected, "{of}");
            *seen.entry(of.topic.name()).or_insert(0) += 1;
        }
    }
    assert!(
        seen.contains_key("events") && seen.contains_key("directives"),
        "{seen:?}"
    );
}
