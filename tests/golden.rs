//! Bytes that decode for ever.
//!
//! Each line of `tests/golden/*.jsonl` holds the bytes of one record as a release wrote it, what a
//! reader that knows nothing but the schema sees in them, and, where there is one, the JSON form.
//! Lines are added, never changed: a line that fails says that somebody's log has become
//! unreadable. A record without a line fails with the line to add.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use homeostat::model::*;
use homeostat::stream::Reject;
use homeostat::wire::{self, json as forms};

/// A record of ours, whatever its kind.
#[derive(Clone, Debug, PartialEq)]
enum Fact {
    Sample(Sample),
    MetricsOutcome(Outcome),
    Adopted(Adopted),
    Plan(PlanRecord),
    Event(Event),
    Directive(Directive),
    Cycle(CycleClosed),
}

impl Fact {
    fn encode(&self) -> Vec<u8> {
        match self {
            Fact::Sample(sample) => wire::encode_sample(sample),
            Fact::MetricsOutcome(outcome) => wire::encode_outcome(outcome),
            Fact::Adopted(adopted) => wire::encode_adopted(adopted),
            Fact::Plan(record) => wire::encode_plan(record),
            Fact::Event(event) => wire::encode_event(event),
            Fact::Directive(directive) => wire::encode_directive(directive),
            Fact::Cycle(cycle) => wire::encode_cycle(cycle),
        }
    }

    /// Reads bytes as a record of the same kind.
    fn decode(&self, bytes: &[u8]) -> Result<Fact, Reject> {
        match self {
            Fact::Sample(_) | Fact::MetricsOutcome(_) | Fact::Adopted(_) => {
                Ok(match wire::decode_metrics(bytes)? {
                    MetricsRecord::Sample(raw) => Fact::Sample(trusted(&raw)),
                    MetricsRecord::Outcome(outcome) => Fact::MetricsOutcome(outcome),
                    MetricsRecord::Adopted(adopted) => Fact::Adopted(adopted),
                    MetricsRecord::Tick => panic!("a tick has no bytes"),
                })
            }
            Fact::Plan(_) => wire::decode_plan(bytes).map(Fact::Plan),
            Fact::Event(_) => wire::decode_event(bytes).map(Fact::Event),
            Fact::Directive(_) => wire::decode_directive(bytes).map(Fact::Directive),
            Fact::Cycle(_) => wire::decode_cycle(bytes).map(Fact::Cycle),
        }
    }

    fn json(&self) -> Option<String> {
        match self {
            Fact::Event(event) => Some(forms::event(event)),
            Fact::Directive(directive) => Some(forms::directive(directive)),
            Fact::Cycle(cycle) => Some(forms::cycle(cycle)),
            Fact::Plan(PlanRecord::Assessment(assessment)) => Some(forms::assessment(assessment)),
            _ => None,
        }
    }

    /// The file in `schemas/` and in `tests/golden/`, and the line's name.
    fn place(&self) -> (&'static str, &'static str) {
        match self {
            Fact::Sample(sample) if sample.neighbours.is_empty() => ("metric-sample", "bare"),
            Fact::Sample(_) => ("metric-sample", "full"),
            Fact::MetricsOutcome(_) => ("outcome", "on metrics"),
            Fact::Adopted(_) => ("adopted", "adopted"),
            Fact::Plan(PlanRecord::Assessment(a)) if a.silent => ("assessment", "silent"),
            Fact::Plan(PlanRecord::Assessment(_)) => ("assessment", "ill"),
            Fact::Plan(PlanRecord::Outcome(_)) => ("outcome", "on plan-inbox"),
            Fact::Plan(PlanRecord::Tick) => panic!("a tick has no schema"),
            Fact::Plan(PlanRecord::LogOpened(_)) => ("log-opened", "opened"),
            Fact::Plan(PlanRecord::PolicyChange(_)) => ("policy-change", "change"),
            Fact::Plan(PlanRecord::Approval(_)) => ("approval", "approval"),
            Fact::Plan(PlanRecord::Hold(hold)) if hold.release => ("hold", "release"),
            Fact::Plan(PlanRecord::Hold(_)) => ("hold", "hold"),
            Fact::Plan(PlanRecord::LoopBlind(_)) => ("loop-blind", "blind"),
            Fact::Event(event) => ("event", event.body.name()),
            Fact::Directive(directive) => ("directive", directive.action.kind().name()),
            Fact::Cycle(_) => ("cycle-closed", "cycle"),
        }
    }
}

/// A raw sample that holds nothing wrong, as Monitor would take it.
fn trusted(raw: &RawSample<'_>) -> Sample {
    fn given<T: Clone>(given: &Given<T>) -> Option<T> {
        match given {
            Given::Value(value) => Some(value.clone()),
            Given::Missing => None,
            Given::WrongType => panic!("Avro has no wrong types"),
        }
    }
    let mut metrics = Metrics::default();
    for (metric, value) in Metric::ALL.into_iter().zip(&raw.metrics) {
        assert!(given(value).is_none_or(|value| metrics.try_set(metric, value)));
    }
    Sample {
        mesh: mesh(&given(&raw.mesh).unwrap()),
        node: node(&given(&raw.node).unwrap()),
        reading: Reading {
            boot: given(&raw.boot).unwrap().unwrap(),
            seq: given(&raw.seq).unwrap(),
            time: EventTime(given(&raw.time).unwrap().unwrap()),
            interval_s: given(&raw.interval_s),
            metrics,
        },
        neighbours: raw.neighbours.clone(),
    }
}

fn mesh(name: &str) -> MeshId {
    MeshId::parse(name).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn metrics(values: &[(Metric, f64)]) -> Metrics {
    let mut metrics = Metrics::default();
    for &(metric, value) in values {
        assert!(metrics.try_set(metric, value));
    }
    metrics
}

fn all_metrics() -> Metrics {
    let values = [95.0, 50.0, 5.0, 500.0, 10.0, 2.5, 0.875, 108.0];
    metrics(&Metric::ALL.into_iter().zip(values).collect::<Vec<_>>())
}

/// 2026-01-01T00:00:00Z and so many milliseconds.
const fn at(ms: i64) -> Time {
    Time(1_767_225_600_000 + ms)
}

fn outcome(observed: Option<&str>) -> Outcome {
    Outcome {
        mesh: mesh("alpha"),
        node: node("node-17"),
        log_id: "7f3a9c12".to_owned(),
        directive_id: "dir-1042-0f3a9c12b77d".to_owned(),
        generation: 1042,
        kind: Kind::Healing,
        result: OutcomeResult::Applied,
        observed: observed.map(str::to_owned),
    }
}

fn ill() -> Assessment {
    Assessment {
        mesh: mesh("alpha"),
        node: node("node-17"),
        boot: 1_767_225_000_000,
        sample_seq: 7,
        sample_time: EventTime(at(10_000).0),
        interval_s: Some(10.0),
        phi: 0.540_804_423_622_114_9,
        state: State::Mystical,
        settled: State::Mystical,
        severity: Severity::Critical,
        findings: vec![
            Finding {
                symptom: Symptom::Lossy,
                level: Severity::Critical,
                shown: true,
                established: true,
                confirmed: false,
                value: Some(10.0),
            },
            Finding {
                symptom: Symptom::Idle,
                level: Severity::Ok,
                shown: false,
                established: false,
                confirmed: true,
                value: None,
            },
        ],
        wish: Wish {
            interval_s: 10,
            route: Route::LowLatency,
            healing: Some(Healing::Aggressive),
            scaling: Some(Scaling::EmergencyScale),
        },
        refused: vec![Refusal::AggressiveHealing, Refusal::Optimize],
        stale: false,
        silent: false,
        conflict: true,
        ill_since: Some(at(0)),
        good_since: None,
        metrics: all_metrics(),
        policy_id: PolicyId::of("text"),
        engine: "analyze/1".to_owned(),
    }
}

fn silent() -> Assessment {
    Assessment {
        interval_s: None,
        state: State::Euphoric,
        settled: State::Contemplative,
        findings: Vec::new(),
        wish: Wish {
            interval_s: 30,
            route: Route::Balanced,
            healing: None,
            scaling: None,
        },
        refused: Vec::new(),
        stale: true,
        silent: true,
        conflict: false,
        ill_since: Some(at(-1)),
        good_since: Some(at(60_000)),
        metrics: Metrics::default(),
        ..ill()
    }
}

fn cause() -> Cause {
    Cause {
        topic: "homeostat.plan-inbox".to_owned(),
        partition: 0,
        offset: 2104,
    }
}

fn directive(action: Action) -> Directive {
    Directive {
        id: "dir-1042-0f3a9c12b77d".to_owned(),
        log_id: "7f3a9c12".to_owned(),
        mesh: mesh("alpha"),
        node: node("node-17"),
        generation: 1042,
        issued_at: at(10_000),
        ttl_s: 60,
        action,
        cause: cause(),
        incident_id: (action.kind() == Kind::Healing).then(|| "inc-1040-00ff00ff00ff".to_owned()),
        policy_id: PolicyId::of("text"),
        policy_generation: 3,
    }
}

const ACTIONS: [Action; 4] = [
    Action::MonitoringInterval { interval_s: 10 },
    Action::RoutePreference {
        value: Route::LowLatency,
    },
    Action::Healing {
        level: Healing::Aggressive,
    },
    Action::Scaling {
        value: Scaling::EmergencyScale,
    },
];

fn event(body: Body) -> Event {
    Event {
        seq: 1042,
        time: at(0),
        mesh: mesh("alpha"),
        cause: cause(),
        engine: "plan/1".to_owned(),
        body,
    }
}

/// One body of every kind, in order.
fn bodies() -> Vec<Body> {
    let node = || node("node-17");
    let text = str::to_owned;
    vec![
        Body::LogOpened {
            log_id: text("7f3a9c12"),
            audit_name: text("ops.example.org/homeostat"),
            partitions: 12,
            time_source: text("log"),
        },
        Body::MeshOpened {
            format: text("homeostat-audit/1"),
            origin: text("ops.example.org/homeostat/7f3a9c12/alpha"),
            log_id: text("7f3a9c12"),
            policy_text: text("[plan]\nmode = \"act\"\n"),
            continues: None,
        },
        Body::SchemaAdopted {
            name: text("io.homeostat.Event"),
            fingerprint: [1, 2, 3, 4, 5, 6, 7, 8],
            sha256: PolicyId::of("schema").0,
        },
        Body::Adopted {
            policy_id: PolicyId::of("text"),
            policy_generation: 3,
            text: text("text"),
            by: text("file"),
            taken_over: true,
        },
        Body::NodeSeen {
            node: node(),
            boot: 1_767_225_000_000,
            interval_s: Some(10.0),
            first: true,
            assessment: Some(ill()),
        },
        Body::StateChanged {
            node: node(),
            from: State::Harmonic,
            to: State::Mystical,
            phi: 0.540_804_423_622_114_9,
            sample_seq: 7,
            sample_time: EventTime(at(10_000).0),
            assessment: None,
        },
        Body::SeverityChanged {
            node: node(),
            from: Severity::Ok,
            to: Severity::Critical,
            symptoms: vec![Symptom::Lossy, Symptom::Slow, Symptom::CpuSaturated],
            sample_seq: 7,
            assessment: None,
        },
        Body::NodeAssessed {
            node: node(),
            assessment: Some(silent()),
        },
        Body::NodeSilent { node: node() },
        Body::NodeReturned { node: node() },
        Body::NodeRetired { node: node() },
        Body::IdentityConflict {
            node: node(),
            boot: 1_767_225_000_000,
        },
        Body::LoopBlind {
            topic: text("homeostat.metrics"),
            partition: 3,
            from: at(0),
            to: at(16_000),
        },
        Body::AnomalyRaised {
            node: node(),
            symptom: Symptom::TrustFailing,
            level: Severity::Warning,
            value: Some(0.875),
        },
        Body::AnomalyCleared {
            node: node(),
            symptom: Symptom::Silent,
        },
        Body::IncidentOpened {
            incident_id: text("inc-1040-00ff00ff00ff"),
            kind: IncidentKind::Mass,
            node: node(),
            severity: Severity::Warning,
            symptoms: vec![Symptom::Isolated],
            ill_since: at(-20_000),
            nodes_ill: 6,
            cause_node: None,
        },
        Body::IncidentClosed {
            incident_id: text("inc-1040-00ff00ff00ff"),
            kind: IncidentKind::Node,
            node: node(),
            symptoms: Vec::new(),
            detect_ms: 20_000,
            repair_ms: 80_000,
            cause_node: Some(homeostat::model::NodeId::parse("gateway").unwrap()),
        },
        Body::DirectiveIssued {
            directive: directive(ACTIONS[2]),
        },
        Body::DirectiveWithheld {
            id: text("wh-1042-0f3a9c12b77d"),
            node: node(),
            action: ACTIONS[3],
            reason: Reason::Budget,
            used: Some(1),
            limit: Some(1),
            until: Some(at(600_000)),
            incident_id: Some(text("inc-1040-00ff00ff00ff")),
        },
        Body::DirectiveExpired {
            node: node(),
            kind: Kind::Scaling,
            id: text("wh-1042-0f3a9c12b77d"),
            proposal: true,
        },
        Body::OutcomeReported {
            outcome: outcome(Some("metric 50")),
        },
        Body::ApprovalRecorded {
            subject: text("wh-1042-0f3a9c12b77d"),
            node: node(),
            kind: Kind::Scaling,
            approved: true,
            by: text("alice"),
        },
        Body::HoldPlaced {
            hold_id: text("hold-1042-0f3a9c12b77d"),
            scope: HoldScope {
                mesh: mesh("alpha"),
                node: Some(node()),
            },
            until: Some(at(7_200_000)),
            by: text("alice"),
            reason: String::new(),
        },
        Body::HoldReleased {
            scope: HoldScope {
                mesh: MeshId::none(),
                node: None,
            },
            by: String::new(),
        },
    ]
}

/// One record of every kind.
fn facts() -> Vec<Fact> {
    let sample = Sample {
        mesh: mesh("alpha"),
        node: node("node-17"),
        reading: Reading {
            boot: 1_767_225_000_000,
            seq: Some(7),
            time: EventTime(at(10_000).0),
            interval_s: Some(10.0),
            metrics: all_metrics(),
        },
        neighbours: vec![
            Neighbour {
                node_id: node("node-18"),
                latency_ms: Some(3.5),
                packet_loss: Some(0.0),
            },
            Neighbour {
                node_id: node("node-19"),
                latency_ms: None,
                packet_loss: None,
            },
        ],
    };
    let bare = Sample {
        reading: Reading {
            boot: 0,
            interval_s: None,
            metrics: metrics(&[(Metric::PacketLoss, 0.5)]),
            ..sample.reading
        },
        neighbours: Vec::new(),
        ..sample.clone()
    };
    let hold = Hold {
        scope: HoldScope {
            mesh: mesh("alpha"),
            node: Some(node("node-17")),
        },
        release: false,
        for_ms: Some(7_200_000),
        by: "alice".to_owned(),
        reason: "ab".repeat(32),
    };
    let release = Hold {
        scope: HoldScope {
            mesh: MeshId::none(),
            node: None,
        },
        release: true,
        for_ms: None,
        by: "alice".to_owned(),
        reason: String::new(),
    };
    let mut facts = vec![
        Fact::Sample(sample),
        Fact::Sample(bare),
        Fact::MetricsOutcome(outcome(None)),
        Fact::Adopted(Adopted {
            mesh: MeshId::none(),
            policy_id: PolicyId::of("text"),
            policy_generation: 3,
            text: "text".to_owned(),
        }),
        Fact::Cycle(CycleClosed {
            mesh: mesh("alpha"),
            node: node("node-17"),
            sample_seq: 7,
            sample_time: EventTime(at(10_000).0),
            time: at(10_040),
            phi: 0.540_804_423_622_114_9,
            state: State::Mystical,
            severity: Severity::Critical,
            symptoms: vec![Symptom::Lossy, Symptom::Slow, Symptom::CpuSaturated],
            harmony_index: 0.334_235_515_064_763_46,
            metrics: all_metrics(),
            wish: ill().wish,
        }),
    ];
    facts.extend(
        [
            PlanRecord::Assessment(ill()),
            PlanRecord::Assessment(silent()),
            PlanRecord::Outcome(outcome(Some("metric 50"))),
            PlanRecord::LogOpened(LogOpened {
                log_id: "7f3a9c12".to_owned(),
                audit_name: "ops.example.org/homeostat".to_owned(),
                partitions: 12,
                time_source: "log".to_owned(),
            }),
            PlanRecord::PolicyChange(PolicyChange {
                mesh: mesh("alpha"),
                text: "[plan]\nmode = \"act\"\n".to_owned(),
                by: "alice".to_owned(),
            }),
            PlanRecord::Approval(Approval {
                mesh: mesh("alpha"),
                node: node("node-17"),
                subject: "wh-1042-0f3a9c12b77d".to_owned(),
                approved: true,
                by: "alice".to_owned(),
            }),
            PlanRecord::Hold(hold),
            PlanRecord::Hold(release),
            PlanRecord::LoopBlind(LoopBlind {
                topic: "homeostat.metrics".to_owned(),
                partition: 3,
                from: at(0),
                to: at(16_000),
            }),
        ]
        .map(Fact::Plan),
    );
    facts.extend(ACTIONS.map(|action| Fact::Directive(directive(action))));
    facts.extend(bodies().into_iter().map(|body| Fact::Event(event(body))));
    facts
}

#[test]
fn every_kind_of_event_is_here_in_the_order_of_its_branches() {
    let schema = schema("event");
    let branches = schema["fields"][5]["type"].as_array().unwrap();
    let bodies = bodies();
    let names: Vec<_> = bodies.iter().map(Body::name).collect();
    assert_eq!(
        branches.iter().map(|b| &b["name"]).collect::<Vec<_>>(),
        names
    );
}

#[test]
fn golden_bytes_are_read_and_written_as_ever() {
    let mut missing = Vec::new();
    for fact in facts() {
        let (file, name) = fact.place();
        let Some(line) = golden(file).remove(name) else {
            let bytes = fact.encode();
            let mut line = json!({"name": name, "hex": hex(&bytes), "avro": seen(file, &bytes)});
            if let Some(json) = fact.json() {
                line["json"] = serde_json::from_str(&json).unwrap();
            }
            missing.push(format!("tests/golden/{file}.jsonl: {line}"));
            continue;
        };
        let bytes = unhex(line["hex"].as_str().unwrap());
        assert_eq!(fact.decode(&bytes).as_ref(), Ok(&fact), "{file} {name}");
        assert_eq!(hex(&fact.encode()), hex(&bytes), "{file} {name}");
        assert_eq!(seen(file, &bytes), line["avro"], "{file} {name}");
        let json = fact
            .json()
            .map(|json| serde_json::from_str::<Value>(&json).unwrap());
        assert_eq!(json.as_ref(), line.get("json"), "{file} {name}");
    }
    assert!(missing.is_empty(), "lines to add:\n{}", missing.join("\n"));
}

/// The lines of a golden file by name.
fn golden(file: &str) -> BTreeMap<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{file}.jsonl"));
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["name"].as_str().unwrap().to_owned(), line))
        .collect()
}

fn schema(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{file}.avsc"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What stands in bytes according to the schema alone: a second reader, that shares no line with
/// the first.
fn seen(file: &str, bytes: &[u8]) -> Value {
    let schema = schema(file);
    let fingerprint = wire::fingerprint(&schema.to_string()).unwrap();
    let mut rest = bytes.strip_prefix(&[0xC3, 0x01]).unwrap();
    assert_eq!(take(&mut rest, 8), fingerprint);
    let value = see(&schema, "", &mut BTreeMap::new(), &mut rest);
    assert!(rest.is_empty());
    value
}

fn see(
    schema: &Value,
    within: &str,
    known: &mut BTreeMap<String, (Value, String)>,
    rest: &mut &[u8],
) -> Value {
    let full = |name: &str, within: &str| {
        if name.contains('.') {
            name.to_owned()
        } else {
            format!("{within}.{name}")
        }
    };
    let (kind, object) = match schema {
        Value::Array(branches) => {
            let branch = &branches[long(rest) as usize];
            define(branch, within, known);
            branches
                .iter()
                .for_each(|branch| define(branch, within, known));
            let value = see(branch, within, known, rest);
            let named = branches.len() > 2;
            return match branch.get("name") {
                Some(name) if named => json!({name.as_str().unwrap(): value}),
                _ => value,
            };
        }
        Value::Object(object) => (object["type"].as_str().unwrap(), object.clone()),
        Value::String(kind) => (kind.as_str(), Map::new()),
        other => panic!("{other}"),
    };
    define(schema, within, known);
    match kind {
        "null" => Value::Null,
        "boolean" => (take(rest, 1)[0] == 1).into(),
        "int" | "long" => long(rest).into(),
        "double" => f64::from_le_bytes(take(rest, 8).try_into().unwrap()).into(),
        "string" => {
            let length = long(rest) as usize;
            std::str::from_utf8(take(rest, length)).unwrap().into()
        }
        "bytes" => {
            let length = long(rest) as usize;
            hex(take(rest, length)).into()
        }
        "fixed" => hex(take(rest, object["size"].as_u64().unwrap() as usize)).into(),
        "enum" => object["symbols"][long(rest) as usize].clone(),
        "array" => {
            let count = long(rest);
            let items = (0..count)
                .map(|_| see(&object["items"], within, known, rest))
                .collect();
            assert!(count == 0 || long(rest) == 0, "one block");
            items
        }
        "record" => {
            let within = object
                .get("namespace")
                .and_then(Value::as_str)
                .unwrap_or(within);
            let fields = object["fields"].as_array().unwrap().iter().map(|field| {
                let name = field["name"].as_str().unwrap().to_owned();
                (name, see(&field["type"], within, known, rest))
            });
            fields.collect::<Map<_, _>>().into()
        }
        name => {
            let (schema, within) = known[&full(name, within)].clone();
            see(&schema, &within, known, rest)
        }
    }
}

/// Notes the named types of a schema: a branch that was not taken may define what a later one uses.
fn define(schema: &Value, within: &str, known: &mut BTreeMap<String, (Value, String)>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|b| define(b, within, known)),
        Value::Object(object) => {
            let own = object
                .get("namespace")
                .and_then(Value::as_str)
                .unwrap_or(within);
            if let Some(name) = object.get("name").and_then(Value::as_str) {
                known.insert(format!("{own}.{name}"), (schema.clone(), own.to_owned()));
            }
            for field in object
                .get("fields")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                define(&field["type"], own, known);
            }
            if let Some(items) = object.get("items") {
                define(items, within, known);
            }
        }
        _ => {}
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, back) = rest.split_at(count);
    *rest = back;
    front
}

fn long(rest: &mut &[u8]) -> i64 {
    let mut value = 0u64;
    for i in 0.. {
        let byte = take(rest, 1)[0];
        value |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            break;
        }
    }
    (value >> 1) as i64 ^ -((value & 1) as i64)
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

/// Vector 6 of the audit format: the frozen head under a fingerprint that nobody knows.
#[test]
fn the_head_is_read_without_the_schema() {
    let bytes = unhex(
        "c3010102030405060708a41080a0d5edee660a616c70686128686f6d656f737461742e706c616e2d696e626f78\
         00f0200c706c616e2f31",
    );
    let head = wire::decode_head(&bytes).unwrap();
    let event = event(Body::NodeSilent { node: node("n") });
    assert_eq!(head.fingerprint, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        (head.seq, head.time, &head.mesh),
        (event.seq, event.time, &event.mesh)
    );
    assert_eq!((&head.cause, &head.engine), (&event.cause, &event.engine));
    let ours = wire::encode_event(&event);
    assert!(ours[10..].starts_with(&bytes[10..]), "{}", hex(&ours));
}

#[test]
fn the_header_of_a_sample_is_the_one_that_java_writes() {
    let [Fact::Sample(sample), ..] = &facts()[..] else {
        panic!("the first fact is a sample");
    };
    assert_eq!(
        hex(&wire::encode_sample(sample)[..10]),
        "c3012adba185c04b0ee3"
    );
}

/// Symbols of the schemas are the names that people read, number by number.
#[test]
fn symbols_are_names() {
    fn find<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
        match schema {
            Value::Array(items) => items.iter().find_map(|item| find(item, name)),
            Value::Object(object) if object.get("name").is_some_and(|n| n == name) => {
                object.get("symbols")
            }
            Value::Object(object) => object.values().find_map(|value| find(value, name)),
            _ => None,
        }
    }
    let event = schema("event");
    let symbols = |name| find(&event, name).unwrap().as_array().unwrap().clone();
    assert_eq!(symbols("Symptom"), Symptom::ALL.map(Symptom::name));
    assert_eq!(symbols("Refusal"), Refusal::ALL.map(Refusal::name));
    for (i, symbol) in symbols("Reason").iter().enumerate() {
        let reason: Reason = serde_json::from_value(symbol.clone()).unwrap();
        assert_eq!(
            (reason.name(), reason as usize),
            (symbol.as_str().unwrap(), i)
        );
        let body = Body::DirectiveWithheld {
            id: String::new(),
            node: node("n"),
            action: ACTIONS[0],
            reason,
            used: None,
            limit: None,
            until: None,
            incident_id: None,
        };
        let bytes = wire::encode_event(&self::event(body));
        let seen = seen("event", &bytes);
        assert_eq!(&seen["body"]["DirectiveWithheld"]["reason"], symbol);
    }
}

/// What the decoders let in, at its largest, still fits into a leaf.
#[test]
fn the_largest_event_fits_into_a_leaf() {
    let text = || "x".repeat(OBSERVED_BYTES_MAX);
    let policy = || "x".repeat(POLICY_BYTES_MAX);
    let all: Vec<_> = Symptom::ALL
        .map(|symptom| Finding {
            symptom,
            ..ill().findings[0]
        })
        .into();
    for body in [
        Body::MeshOpened {
            format: text(),
            origin: text(),
            log_id: text(),
            policy_text: policy(),
            continues: Some(text()),
        },
        Body::Adopted {
            policy_id: PolicyId::default(),
            policy_generation: i64::MAX,
            text: policy(),
            by: text(),
            taken_over: true,
        },
        Body::NodeAssessed {
            node: node(&"n".repeat(NAME_BYTES_MAX)),
            assessment: Some(Assessment {
                findings: all,
                refused: Refusal::ALL.into(),
                engine: text(),
                ..ill()
            }),
        },
    ] {
        let largest = Event {
            mesh: mesh(&"m".repeat(NAME_BYTES_MAX)),
            engine: text(),
            cause: Cause {
                topic: text(),
                ..cause()
            },
            ..event(body)
        };
        let bytes = wire::encode_event(&largest);
        assert_eq!(wire::decode_event(&bytes), Ok(largest));
    }
}

#[test]
#[should_panic(expected = "expected at most 60000")]
fn a_larger_event_is_not_written() {
    wire::encode_event(&event(Body::HoldReleased {
        scope: HoldScope {
            mesh: mesh("alpha"),
            node: None,
        },
        by: "x".repeat(wire::LEAF_BYTES_MAX),
    }));
}

#[test]
fn what_is_wrong_is_said() {
    let check = |result: Result<(), Reject>, reason: &str, words: &[&str]| {
        let reject = result.unwrap_err();
        assert_eq!(reject.reason, reason, "{reject}");
        for word in words {
            assert!(reject.detail.contains(word), "{reject} should name {word}");
        }
    };
    let metrics = |bytes: &[u8]| wire::decode_metrics(bytes).map(drop);
    let plan = |bytes: &[u8]| wire::decode_plan(bytes).map(drop);
    let event = |bytes: &[u8]| wire::decode_event(bytes).map(drop);

    let fact = wire::encode_outcome(&outcome(Some("metric 50")));
    let mut unknown = fact.clone();
    unknown[2..10].fill(0xEE);
    check(metrics(&unknown), "unknown_schema", &["eeeeeeeeeeeeeeee"]);
    check(plan(&unknown), "unknown_schema", &["eeeeeeeeeeeeeeee"]);
    check(plan(&fact[..9]), "not_avro", &["C3 01"]);
    check(plan(b"{}"), "not_avro", &["7b7d"]);
    check(
        event(&fact),
        "wrong_record",
        &["io.homeostat.Outcome", "io.homeostat.Event"],
    );
    let Fact::Sample(sample) = &facts()[0] else {
        panic!("the first fact is a sample");
    };
    check(
        plan(&wire::encode_sample(sample)),
        "wrong_record",
        &["MetricSample", "plan-inbox"],
    );
    check(event(&[]), "not_avro", &["0 bytes"]);
    check(
        metrics(&[&fact[..], &[0]].concat()),
        "bad_avro",
        &["1 bytes after its end"],
    );
    check(
        metrics(&fact[..fact.len() - 1]),
        "bad_avro",
        &["observed", "a length of 9"],
    );
    check(
        metrics(&fact[..40]),
        "bad_avro",
        &["io.homeostat.Outcome", "directive_id"],
    );
    let nameless = Outcome {
        mesh: MeshId::none(),
        ..outcome(None)
    };
    check(
        plan(&wire::encode_outcome(&nameless)),
        "bad_avro",
        &["mesh", "0 bytes"],
    );
    let long = outcome(Some(&"x".repeat(OBSERVED_BYTES_MAX + 1)));
    check(
        plan(&wire::encode_outcome(&long)),
        "bad_avro",
        &["observed", "1025", "1024"],
    );
}

#[test]
fn records_of_metrics_are_told_apart_by_their_first_bytes() {
    let json = r#"{"mesh_id":"alpha","node_id":"node-17","log_id":"7f3a9c12","generation":1042,
        "directive_id":"dir-1042-0f3a9c12b77d","kind":"healing","result":"applied"}"#;
    let expected = outcome(None);
    for bytes in [json.as_bytes(), &wire::encode_outcome(&expected)] {
        let outcome = MetricsRecord::Outcome(expected.clone());
        assert_eq!(wire::decode_metrics(bytes), Ok(outcome));
    }
    assert_eq!(wire::decode_metrics(b""), Ok(MetricsRecord::Tick));
    assert_eq!(wire::decode_plan(b""), Ok(PlanRecord::Tick));
    let sample = br#"{"node_id":"directive_id","time":7}"#;
    let Ok(MetricsRecord::Sample(raw)) = wire::decode_metrics(sample) else {
        panic!("a name is no key");
    };
    assert_eq!(raw.time, Given::Value(Some(7)));
    for bytes in [
        &b"{\"directive_id\":"[..],
        b"\xC3\x28",
        b"[]",
        &vec![b' '; 2 << 20],
    ] {
        assert_eq!(wire::decode_metrics(bytes).unwrap_err().reason, "not_json");
    }
}

/// No bytes, however spoilt, make a decoder panic; and what is read can be written again.
#[test]
fn spoilt_bytes_never_panic() {
    let mut random = Random(0x5EED);
    let facts = facts();
    let originals: Vec<_> = facts.iter().map(Fact::encode).collect();
    for _ in 0..40_000 {
        let i = random.below(facts.len());
        let mut bytes = originals[i].clone();
        for _ in 0..1 + random.below(3) {
            // The header is spared more often than not, or all would end there.
            let at = (10 * random.below(2) + random.below(bytes.len())).min(bytes.len() - 1);
            match random.below(5) {
                0 => bytes.truncate(at),
                1 => bytes[at] = random.next() as u8,
                2 => bytes[at] ^= 1 << random.below(8),
                3 => bytes.insert(at, random.next() as u8),
                _ => {
                    let other = &originals[random.below(originals.len())];
                    bytes.extend_from_slice(&other[random.below(other.len())..]);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let _ = wire::decode_metrics(&bytes);
        let _ = wire::decode_head(&bytes);
        if let Some(mut text) = facts[i].json().map(String::into_bytes) {
            let at = random.below(text.len());
            text[at] = b"\"{}[]:,0\\\xFF"[random.below(10)];
            let _ = wire::decode_directive(&text);
            let _ = wire::decode_metrics(&text);
        }
        for kind in [&facts[i], &facts[random.below(facts.len())]] {
            if matches!(
                kind,
                Fact::Sample(_) | Fact::MetricsOutcome(_) | Fact::Adopted(_)
            ) {
                continue;
            }
            if let Ok(fact) = kind.decode(&bytes)
                && fact != Fact::Plan(PlanRecord::Tick)
            {
                assert_eq!(fact.decode(&fact.encode()), Ok(fact));
            }
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
