//! `schemas/asyncapi.yaml` says what this program reads and writes: its examples are read by our
//! decoders, and what the loop writes is held against its schemas.
//!
//! Fields may be added one day, so the schemas are open. Here they are closed, or a renamed field
//! would pass for an added one.

#[cfg(feature = "io")]
#[path = "agent/door.rs"]
mod door;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use homeostat::model::{Body, MetricsRecord, Outcome, Span, Time};
use homeostat::stream::Topic;
use homeostat::topology::ingest::take_line;
use homeostat::wire;
use homeostat::wire::leaving::{Encoding, headers};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// The page.
struct Page(Value);

impl Page {
    fn read() -> Page {
        let text = std::fs::read_to_string(root().join("schemas/asyncapi.yaml")).unwrap();
        Page(serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("asyncapi.yaml: {error}")))
    }

    /// What a path of keys leads to; references are followed.
    fn at(&self, path: &str) -> &Value {
        let found = self.0.pointer(path);
        let found = found.unwrap_or_else(|| panic!("{path} is not there"));
        match found["$ref"].as_str() {
            Some(reference) => self.at(reference.strip_prefix('#').expect("a place on the page")),
            None => found,
        }
    }

    fn object(&self, path: &str) -> &Map<String, Value> {
        self.at(path).as_object().unwrap()
    }

    /// The examples of a message: their payloads as text.
    fn examples(&self, message: &str) -> Vec<String> {
        let examples = &self.at(&format!("/components/messages/{message}"))["examples"];
        let examples = examples.as_array().into_iter().flatten();
        examples
            .map(|example| example["payload"].to_string())
            .collect()
    }

    /// What judges by a schema of the page, closed.
    fn judge(&self, schema: &str) -> Validator {
        let mut components = self.0["components"].clone();
        close(&mut components);
        let whole = json!({
            "$ref": format!("#/components/schemas/{schema}"),
            "unevaluatedProperties": false,
            "components": components,
        });
        jsonschema::draft202012::new(&whole).unwrap_or_else(|error| panic!("{schema}: {error}"))
    }
}

/// Closes every schema that a property or a list has: what it does not name is not allowed.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            for (key, value) in keys.iter_mut() {
                close(value);
                match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        properties.values_mut().for_each(shut);
                    }
                    ("items", value) => shut(value),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn shut(schema: &mut Value) {
    *schema = json!({ "allOf": [schema.take()], "unevaluatedProperties": false });
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Holds a record against a schema: as it is it fits, and with any of its fields renamed it does
/// not.
fn check(judge: &Validator, what: &str, record: &str) {
    let record: Value = serde_json::from_str(record).unwrap();
    let faults: Vec<String> = judge
        .iter_errors(&record)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{what} {record}: {faults:#?}");
    for (renamed, path) in renamings(&record) {
        assert!(
            !judge.is_valid(&renamed),
            "{what}: with {path} renamed it fits all the same: {renamed}"
        );
    }
}

/// The value with one of its keys renamed, for each key however deep, and where that is.
fn renamings(value: &Value) -> Vec<(Value, String)> {
    let mut out = Vec::new();
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(keys) => {
            for key in keys.keys() {
                let mut renamed = keys.clone();
                let held = renamed.remove(key).unwrap();
                renamed.insert(format!("{key}_"), held);
                out.push((Value::Object(renamed), format!("/{key}")));
            }
            keys.iter()
                .map(|(key, value)| (key.clone(), value))
                .collect()
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(at, value)| (at.to_string(), value))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for (key, held) in inner {
        for (renamed, path) in renamings(held) {
            let mut whole = value.clone();
            *whole.pointer_mut(&format!("/{key}")).unwrap() = renamed;
            out.push((whole, format!("/{key}{path}")));
        }
    }
    out
}

/// Every reference on the page, with where it stands.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(keys) => {
            out.extend(keys.get("$ref").and_then(Value::as_str).map(str::to_owned));
            keys.values().for_each(|value| references(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn golden(record: &str) -> Vec<Value> {
    let path = root().join(format!("tests/golden/{record}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// The program's lines.
fn homeostat(args: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// What was recorded in a simulated mesh's incident.
fn recorded(name: &str, seed: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("asyncapi-{name}"));
    let _ = std::fs::remove_dir_all(&dir);
    homeostat(&["demo", "--seed", seed, "--keep", dir.to_str().unwrap()]);
    dir
}

#[test]
fn every_reference_leads_somewhere_and_every_message_is_used() {
    let page = Page::read();
    assert_eq!(page.0["asyncapi"], "3.0.0");
    let mut all = Vec::new();
    references(&page.0, &mut all);
    for reference in &all {
        match reference.strip_prefix('#') {
            Some(path) => {
                page.at(path);
            }
            None => assert!(
                root().join("schemas").join(reference).exists(),
                "{reference}"
            ),
        }
    }
    for (part, names) in [
        ("messages", page.object("/components/messages")),
        ("schemas", page.object("/components/schemas")),
    ] {
        for name in names.keys() {
            let here = format!("#/components/{part}/{name}");
            assert!(all.contains(&here), "nothing refers to {here}");
        }
    }
    for name in page.object("/channels").keys() {
        let here = format!("#/channels/{name}");
        assert!(all.contains(&here), "no operation is on {here}");
    }
}

#[test]
fn channels_are_our_topics_and_routes() {
    let page = Page::read();
    let routes = std::fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let mut topics = BTreeSet::new();
    for (name, channel) in page.object("/channels") {
        let address = channel["address"].as_str().unwrap();
        match address.strip_prefix("{prefix}") {
            Some(topic) => assert!(topics.insert(topic), "{name} is there twice"),
            None => assert!(routes.contains(&format!("{address}`")), "{address}"),
        }
    }
    // People's own inbox is for this program's commands alone.
    let ours = Topic::ALL
        .iter()
        .filter(|topic| **topic != Topic::PlanInbox);
    assert_eq!(topics, ours.map(|topic| topic.name()).collect());
}

#[test]
fn our_decoders_read_every_example() {
    let page = Page::read();
    let now = Time(1_767_225_620_000);
    let mut read = BTreeSet::new();
    for message in page.object("/components/messages").keys() {
        for example in page.examples(message) {
            let value: Value = serde_json::from_str(&example).unwrap();
            let same = |again: String| {
                let again: Value = serde_json::from_str(&again).unwrap();
                assert_eq!(again, value, "{message}");
            };
            check(&page.judge(message), message, &example);
            read.insert(message.as_str());
            match message.as_str() {
                "sample" => {
                    take_line(example.as_bytes(), now, Span::seconds(300)).unwrap();
                    let record = wire::decode_metrics(example.as_bytes()).unwrap();
                    let MetricsRecord::Sample(raw) = record else {
                        panic!("no sample: {example}")
                    };
                    let links = value["neighbours"].as_array().map_or(0, Vec::len);
                    assert_eq!(raw.neighbours.len(), links);
                }
                "outcome" => {
                    let record = wire::decode_metrics(example.as_bytes()).unwrap();
                    let MetricsRecord::Outcome(outcome) = record else {
                        panic!("no outcome: {example}")
                    };
                    same(serde_json::to_string::<Outcome>(&outcome).unwrap());
                }
                "directive" => {
                    let directive = wire::json::decode_directive(example.as_bytes()).unwrap();
                    same(wire::json::directive(&directive));
                }
                "cycle" => {
                    let cycle = wire::json::decode_cycle(example.as_bytes()).unwrap();
                    same(wire::json::cycle(&cycle));
                }
                // Nothing reads an event's JSON; its Avro is read, and written as this.
                "event" => assert!(
                    golden("event").iter().any(|line| {
                        let bytes = unhex(line["hex"].as_str().unwrap());
                        let event = wire::decode_event(&bytes).unwrap();
                        serde_json::from_str::<Value>(&wire::json::event(&event)).unwrap() == value
                    }),
                    "no golden event is written so: {value}"
                ),
                // What the door answers.
                "taken" => {}
                other => panic!("{other} has examples that nothing reads"),
            }
        }
    }
    let expected = ["cycle", "directive", "event", "outcome", "sample", "taken"];
    assert_eq!(read, BTreeSet::from(expected), "have examples");
}

#[test]
fn the_words_for_people_show_what_the_page_says() {
    let page = Page::read();
    let text = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let mut shown = Vec::new();
    let blocks = text.split("```json\n").skip(1);
    for line in blocks.flat_map(|rest| rest.split("```").next().unwrap().lines()) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let schema = [
            "accepted",
            "directive_id",
            "ttl_s",
            "time_source",
            "interval_s",
        ]
        .into_iter()
        .zip(["taken", "outcome", "directive", "log", "sample"])
        .find_map(|(key, schema)| value.get(key).map(|_| schema))
        .unwrap_or_else(|| panic!("what is {line}?"));
        check(&page.judge(schema), schema, line);
        match schema {
            "outcome" => drop(wire::json::decode_outcome(line.as_bytes()).unwrap()),
            "directive" => drop(wire::json::decode_directive(line.as_bytes()).unwrap()),
            "sample" => {
                let later = Time(1_767_225_620_000);
                take_line(line.as_bytes(), later, Span::seconds(0)).unwrap();
            }
            _ => {}
        }
        shown.push(schema);
    }
    assert_eq!(shown, ["sample", "directive", "outcome", "taken", "log"]);
}

#[test]
fn what_a_simulated_mesh_records_is_as_the_page_says() {
    let page = Page::read();
    for seed in ["1", "7"] {
        let dir = recorded(seed, seed);
        let dir = dir.to_str().unwrap();
        for (command, schema) in [
            ("events", "event"),
            ("directives", "directive"),
            ("cycles", "cycle"),
        ] {
            let lines = homeostat(&[command, "--json", "--dir", dir]);
            assert!(!lines.is_empty(), "{command} of seed {seed}");
            let judge = page.judge(schema);
            // Cycles are all alike and a renaming costs a judgement.
            for line in lines.iter().take(300) {
                check(&judge, command, line);
            }
        }
    }
}

#[test]
fn every_kind_of_event_is_on_the_page() {
    let page = Page::read();
    let judge = page.judge("event");
    let mut seen = BTreeSet::new();
    for line in golden("event") {
        let bytes = unhex(line["hex"].as_str().unwrap());
        let event = wire::decode_event(&bytes).unwrap();
        check(&judge, event.body.name(), &wire::json::event(&event));
        seen.insert(event.body.name().to_owned());
    }
    let ours: BTreeSet<String> = Body::NAMES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(seen, ours, "golden events");
    let branches = page.object("/components/schemas/event")["oneOf"].as_array();
    let mut named = BTreeSet::new();
    for branch in branches.unwrap() {
        let kind = &branch["properties"]["type"];
        let several = kind["enum"].as_array().into_iter().flatten();
        let names = several.chain(kind.get("const"));
        named.extend(names.map(|name| name.as_str().unwrap().to_owned()));
    }
    assert_eq!(named, ours, "the page's");
}

#[test]
fn other_records_once_written_are_as_the_page_says() {
    let page = Page::read();
    for (record, schema) in [
        ("directive", "directive"),
        ("cycle-closed", "cycle"),
        ("outcome", "outcome"),
    ] {
        let judge = page.judge(schema);
        for line in golden(record) {
            let bytes = unhex(line["hex"].as_str().unwrap());
            let json = match schema {
                "directive" => wire::json::directive(&wire::decode_directive(&bytes).unwrap()),
                "cycle" => wire::json::cycle(&wire::decode_cycle(&bytes).unwrap()),
                _ => match wire::decode_metrics(&bytes).unwrap() {
                    MetricsRecord::Outcome(outcome) => serde_json::to_string(&outcome).unwrap(),
                    other => panic!("an outcome's file holds {other:?}"),
                },
            };
            check(&judge, record, &json);
        }
    }
}

#[test]
fn headers_are_as_the_page_says() {
    let page = Page::read();
    let judge = page.judge("headers");
    for (record, topic) in [
        ("directive", Topic::Directives),
        ("event", Topic::Events),
        ("cycle-closed", Topic::Cycles),
    ] {
        for line in golden(record) {
            let mut value = unhex(line["hex"].as_str().unwrap());
            let mut encoding = Encoding::Avro;
            if topic == Topic::Directives {
                let directive = wire::decode_directive(&value).unwrap();
                value = wire::json::directive(&directive).into_bytes();
                encoding = Encoding::Json;
            }
            let all = headers("homeostat.", (topic, 0), &value, encoding, true);
            let all: Map<String, Value> = all
                .into_iter()
                .map(|(name, text)| (name, String::from_utf8(text).unwrap().into()))
                .collect();
            check(&judge, record, &Value::Object(all).to_string());
        }
    }
}

/// Ended when it is dropped.
#[cfg(feature = "io")]
struct Killed(std::process::Child);

#[cfg(feature = "io")]
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(feature = "io")]
#[test]
fn what_our_agent_sends_is_as_the_page_says() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("asyncapi-agent");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let config = "[agent]\nmesh = \"site\"\nnode = \"router-1\"\ninterval_s = 1.0\n";
    std::fs::write(dir.join("homeostat.toml"), config).unwrap();
    let page = Page::read();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let door = door::Door::on_port(listener, "7f3a9c12");
    for example in page.examples("directive") {
        let mut order: Value = serde_json::from_str(&example).unwrap();
        order["issued_at"] = Time(door::now_ms()).to_string().into();
        door.order(order.to_string());
    }
    let agent = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_homeostat")])
        .args(["agent", "--server", &url])
        .current_dir(&dir)
        .spawn();
    let _agent = Killed(agent.unwrap());
    door.wait("samples and outcomes", |seen| {
        seen.samples.len() >= 2 && seen.outcomes.len() >= 2
    });
    let seen = door.seen();
    for (schema, sent) in [("sample", seen.samples), ("outcome", seen.outcomes)] {
        let judge = page.judge(schema);
        for line in &sent {
            check(&judge, schema, &line.to_string());
        }
    }
}
