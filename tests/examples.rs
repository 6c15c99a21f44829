//! The agents and producers of `examples`, which are not ours, against the running program and
//! against a door or a topic that means them no good.
//!
//! At a desk without the interpreter that one needs its test says so and passes; in CI it must be
//! there.

mod broker;
#[path = "agent/door.rs"]
mod door;
#[path = "processes/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use homeostat::config::Config;
use homeostat::model::{
    Action, Cause, Directive, Healing, Kind, MeshId, NodeId, PolicyId, Route, Scaling, Span, Time,
};
use homeostat::registry::Foreign;
use homeostat::runtime::{Entering, Formats, Record, TopicPartition, When, partition_of};
use homeostat::stream::Topic;
use homeostat::topology::ingest::take_line;
use homeostat::wire;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use door::{Door, Seen, now_ms};
use process::{Home, Processor, until};

/// An agent that follows a door.
#[derive(Clone, Copy)]
struct Example {
    file: &'static str,
    /// What must be there to run it, and Debian's name of it.
    needs: &'static [(&'static str, &'static str)],
}

const PYTHON: Example = Example {
    file: "agent.py",
    needs: &[("python3", "python3")],
};
const SHELL: Example = Example {
    file: "agent.sh",
    needs: &[
        ("bash", "bash"),
        ("curl", "curl"),
        ("jq", "jq"),
        ("flock", "util-linux"),
    ],
};
const JAVASCRIPT: Example = Example {
    file: "agent.js",
    needs: &[("node", "nodejs")],
};

impl Example {
    /// Whether it can run here.
    fn runs(&self) -> bool {
        self.needs.iter().all(|(program, package)| {
            let there = Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
            there || skipped(self.file, program, package)
        })
    }

    /// Starts it for this node, with its journal in a folder.
    fn start(&self, door: &str, node: &str, dir: &Path) -> Running {
        let journal = dir.join(format!("{node}.journal"));
        let journal = journal.to_str().unwrap();
        Running::start(dir, self.file, &[door, MESH, node, journal])
    }
}

/// Says what is missing.
fn skipped(file: &str, what: &str, package: &str) -> bool {
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must have {what} for {file} (.ci/need)"
    );
    let _ = writeln!(
        std::io::stderr(),
        "\nSKIPPED: {file} needs {what}; install it (Debian: {package})\n"
    );
    false
}

/// An example's process, killed when it is dropped. What it says on either stream lies in a file.
struct Running {
    child: Child,
    said: PathBuf,
}

impl Running {
    fn start(dir: &Path, file: &str, args: &[&str]) -> Running {
        let program = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(file);
        Running::run(
            dir,
            file,
            Command::new("setpriv")
                .args(PDEATHSIG)
                .arg(program)
                .args(args),
        )
    }

    fn run(dir: &Path, name: &str, command: &mut Command) -> Running {
        let said = dir.join(format!("{name}.said"));
        let file = fs::File::options().create(true).append(true).open(&said);
        let file = file.unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn();
        Running {
            child: child.unwrap_or_else(|error| panic!("{name}: {error}")),
            said,
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// What it did: kind and value, in order.
    fn acts(&self) -> Vec<String> {
        let said = self.said();
        let acts = said.lines().filter_map(|line| line.strip_prefix("act "));
        acts.map(str::to_owned).collect()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("{} said:\n{}", self.said.display(), self.said());
        }
    }
}

fn directive(log_id: &str, generation: i64, action: Action) -> Directive {
    Directive {
        id: format!("dir-{generation}"),
        log_id: log_id.to_owned(),
        mesh: MeshId::parse(MESH).unwrap(),
        node: NodeId::parse(NODE).unwrap(),
        generation,
        issued_at: Time(now_ms()),
        ttl_s: 600,
        action,
        cause: Cause {
            topic: "homeostat.plan-inbox".to_owned(),
            partition: 0,
            offset: generation,
        },
        incident_id: None,
        policy_id: PolicyId::default(),
        policy_generation: 1,
    }
}

fn expired(directive: Directive) -> Directive {
    Directive {
        issued_at: Time(now_ms()) - Span::seconds(directive.ttl_s),
        ..directive
    }
}

/// (generation, result) of outcomes, all of which our decoder reads.
fn ended(outcomes: &[Value]) -> Vec<(i64, &'static str)> {
    let read = |outcome: &Value| {
        let outcome = wire::json::decode_outcome(outcome.to_string().as_bytes()).unwrap();
        assert_eq!(outcome.directive_id, format!("dir-{}", outcome.generation));
        (outcome.generation, outcome.result.name())
    };
    outcomes.iter().map(read).collect()
}

/// Whether it obeys the rules of `docs/protocol.md`, whatever the door sends.
fn is_not_fooled(example: Example) {
    if !example.runs() {
        return;
    }
    let home = Home::new(&format!("fooled-{}", example.file), "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Kept, or while no door is there somebody else may get the port.
    let door_on = |log_id: &str| Door::on_port(listener.try_clone().unwrap(), log_id);
    let door = door_on("log");
    let mut agent = example.start(&url, NODE, &home.0);
    let order = |door: &Door, order: &Directive| door.order(wire::json::directive(order));

    order(&door, &directive("log", 5, HEAL));
    // The same again; older; of another log; over; somebody else's.
    order(&door, &directive("log", 5, HEAL));
    order(&door, &directive("log", 4, HEAL));
    order(&door, &directive("elsewhere", 9, HEAL));
    order(&door, &expired(directive("log", 6, ROUTE)));
    order(&door, &expired(directive("log", 6, HEAL)));
    let mut other = directive("log", 7, HEAL);
    other.node = NodeId::parse("n 2").unwrap();
    order(&door, &other);
    // What is no order, or none that it can know.
    door.order("{\"id\":1}".to_owned());
    door.order("no JSON".to_owned());
    let unknown = wire::json::directive(&directive("log", 8, HEAL));
    door.order(unknown.replace("\"healing\"", "\"reboot\""));
    door.order(unknown.replace("\"aggressive\"", "\"gentle\""));
    door.order(unknown.replace("\"id\":\"dir-8\",", ""));
    order(&door, &directive("log", 8, ROUTE));
    let last = |seen: &Seen| seen.outcomes.iter().any(|o| o["generation"] == 8);
    door.wait("an outcome of the last", last);
    let done = [(5, "applied"), (5, "applied"), (8, "applied")];
    assert_eq!(ended(&door.seen().outcomes), done);
    assert_eq!(agent.acts(), [HEALED, ROUTED]);

    // Nothing more is done when it is killed and hears all of it again.
    agent.kill();
    let before = door.seen().outcomes.len();
    let agent = example.start(&url, NODE, &home.0);
    order(&door, &directive("log", 10, SCALE));
    let last = |seen: &Seen| seen.outcomes.iter().any(|o| o["generation"] == 10);
    door.wait("an outcome after a restart", last);
    let after = ended(&door.seen().outcomes[before..]);
    let kinds: BTreeSet<_> = after.iter().copied().collect();
    let expected = [(5, "applied"), (8, "applied"), (10, "applied")];
    assert_eq!(kinds, BTreeSet::from(expected), "all again: {after:?}");
    assert_eq!(agent.acts(), [HEALED, ROUTED, "scaling optimize"]);
    drop(agent);
    drop(door);

    // Another log has its own generations, and the old one's count again when it is back.
    for (log_id, generation, acts) in [("two", 3, 4), ("log", 5, 4)] {
        let door = door_on(log_id);
        order(&door, &directive(log_id, generation, HEAL));
        let agent = example.start(&url, NODE, &home.0);
        let reported = |seen: &Seen| {
            let of = |outcome: &&Value| outcome["generation"] == generation;
            // At its start it reports what was done of that log, then what comes again.
            seen.outcomes.iter().filter(of).count() > usize::from(log_id == "log")
        };
        door.wait("an outcome of this log", reported);
        let seen = door.seen();
        assert!(seen.outcomes.iter().all(|o| o["log_id"] == log_id));
        assert_eq!(agent.acts().len(), acts, "{:?}", agent.acts());
    }
}

/// Whether it does no act a second time that it died over, and nothing of a line that was torn.
fn settles_what_was_begun(example: Example) {
    if !example.runs() {
        return;
    }
    let home = Home::new(&format!("settles-{}", example.file), "");
    let begun = |directive: &Directive| {
        let directive: Value = serde_json::from_str(&wire::json::directive(directive)).unwrap();
        json!({ "directive": directive, "outcome": null }).to_string()
    };
    let late = expired(directive(
        "log",
        4,
        Action::MonitoringInterval { interval_s: 5 },
    ));
    let torn = begun(&directive("log", 9, SCALE));
    let journal = [
        begun(&directive("log", 2, HEAL)),
        begun(&directive("log", 3, ROUTE)),
        begun(&late),
        torn[..torn.len() - 7].to_owned(),
    ];
    fs::write(home.0.join("n 1.journal"), journal.join("\n")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let door = Door::on_port(listener, "log");
    door.order(wire::json::directive(&directive("log", 9, SCALE)));
    let agent = example.start(&url, NODE, &home.0);
    door.wait("an outcome of all four", |seen| seen.outcomes.len() >= 4);
    let outcomes: BTreeSet<_> = ended(&door.seen().outcomes).into_iter().collect();
    let expected = [
        (2, "unknown"),
        (3, "applied"),
        (4, "unknown"),
        (9, "applied"),
    ];
    assert_eq!(outcomes, BTreeSet::from(expected));
    assert_eq!(agent.acts(), [ROUTED, "scaling optimize"]);
}

/// Whether an outcome that the door does not take now comes later.
fn reports_until_it_is_taken(example: Example) {
    if !example.runs() {
        return;
    }
    let home = Home::new(&format!("reports-{}", example.file), "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let door = Door::on_port(listener, "log");
    door.answer_with(429);
    let agent = example.start(&url, NODE, &home.0);
    door.order(wire::json::directive(&directive("log", 1, HEAL)));
    door.wait("a try", |seen| seen.declined > 0);
    door.answer_with(200);
    door.wait("the outcome", |seen| !seen.outcomes.is_empty());
    assert_eq!(ended(&door.seen().outcomes), [(1, "applied")]);
    assert_eq!(agent.acts(), [HEALED]);
}

/// A loop in which a node of these readings is healed within seconds, and again.
const FAST: &str = "
[log]
min_free_mib = 1
[plan]
cooldown_s = 0
help_s = 1
[monitor]
interval_min_s = 1
[symptoms]
critical_s = 2
";

/// A reading of a node that hears nobody, now.
fn sick(seq: i64) -> String {
    json!({
        "mesh_id": MESH, "node_id": NODE, "boot": 1, "seq": seq, "time": now_ms(), "interval_s": 1,
        "packet_loss": 60, "latency_ms": 900, "mesh_connectivity": 0,
    })
    .to_string()
}

/// The events of a type.
fn events(home: &Home, kind: &str) -> Vec<Value> {
    let lines = home.lines(&["events", "--json", "--type", kind]);
    let read = |line: &String| serde_json::from_str(line).unwrap();
    lines.iter().map(read).collect()
}

/// Calls at most twice a second, with a number that counts up from 1.
fn paced(mut call: impl FnMut(i64)) -> impl FnMut() {
    let (mut seq, mut last) = (0, None::<Instant>);
    move || {
        if last.is_none_or(|last| last.elapsed() > Duration::from_millis(500)) {
            (seq, last) = (seq + 1, Some(Instant::now()));
            call(seq);
        }
    }
}

/// The address of a processor's door.
fn door_of(home: &Home) -> String {
    let holder = fs::read_to_string(home.data().join("holder.json")).unwrap();
    let holder: Value = serde_json::from_str(&holder).unwrap();
    holder["listen"].as_str().unwrap().to_owned()
}

/// What was ordered was done once each, and nothing else; some of it heals.
fn done_once(home: &Home, acts: &[String], journal: &Path) {
    let orders = events(home, "DirectiveIssued");
    let words = |directive: &Value| {
        let action = &directive["action"];
        let value = ["interval_s", "level", "value"]
            .iter()
            .find_map(|key| action.get(key))
            .unwrap();
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        format!("{} {value}", action["kind"].as_str().unwrap())
    };
    let ordered: Vec<String> = orders.iter().map(|o| words(&o["directive"])).collect();
    assert!(acts.iter().any(|act| act == HEALED), "{acts:?}");
    for act in acts {
        let count = |all: &[String]| all.iter().filter(|other| *other == act).count();
        assert!(count(acts) <= count(&ordered), "{acts:?} of {ordered:?}");
    }
    let text = fs::read_to_string(journal).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let begun: Vec<&Value> = rows.iter().filter(|row| row["outcome"].is_null()).collect();
    let once: BTreeSet<String> = begun
        .iter()
        .map(|row| row["directive"]["id"].to_string())
        .collect();
    assert_eq!(
        (once.len(), begun.len()),
        (acts.len(), acts.len()),
        "{text}"
    );
    assert_eq!(home.lines(&["dlq", "list", "--json"]), [""; 0]);
}

/// Whether the loop heals a sick node through it.
fn heals(example: Example) {
    if !example.runs() {
        return;
    }
    let home = Home::new(&format!("heals-{}", example.file), FAST);
    let processor = home.run_with(&["--no-agent"]);
    let mut agent = example.start(&door_of(&home), NODE, &home.0);
    let mut send = paced(|seq| {
        let answer = processor.post(&sick(seq)).unwrap();
        assert_eq!(answer.status, 200);
    });
    until(LIMIT, "two healings were reported", || {
        send();
        let outcomes = events(&home, "OutcomeReported");
        let healed = outcomes.iter().filter(|o| o["kind"] == "healing");
        assert!(
            outcomes.iter().all(|o| o["result"] == "applied"),
            "{outcomes:?}"
        );
        healed.count() >= 2
    });
    drop(send);
    agent.kill();
    processor.settle();
    let journal = home.0.join(format!("{NODE}.journal"));
    done_once(&home, &agent.acts(), &journal);
    assert!(processor.stop().success());
}

#[test]
fn the_python_agent_is_not_fooled() {
    is_not_fooled(PYTHON);
}

#[test]
fn the_shell_agent_is_not_fooled() {
    is_not_fooled(SHELL);
}

#[test]
fn the_javascript_agent_is_not_fooled() {
    is_not_fooled(JAVASCRIPT);
}

#[test]
fn the_python_agent_settles_what_was_begun() {
    settles_what_was_begun(PYTHON);
}

#[test]
fn the_shell_agent_settles_what_was_begun() {
    settles_what_was_begun(SHELL);
}

#[test]
fn the_javascript_agent_settles_what_was_begun() {
    settles_what_was_begun(JAVASCRIPT);
}

#[test]
fn agents_report_until_it_is_taken() {
    for example in [PYTHON, SHELL, JAVASCRIPT] {
        reports_until_it_is_taken(example);
    }
}

#[test]
fn the_python_agent_heals() {
    heals(PYTHON);
}

#[test]
fn the_shell_agent_heals() {
    heals(SHELL);
}

#[test]
fn the_javascript_agent_heals() {
    heals(JAVASCRIPT);
}

#[test]
fn the_producer_keeps_what_is_not_taken_and_the_loop_takes_what_it_sends() {
    if !PYTHON.runs() {
        return;
    }
    let home = Home::new("producer", FAST);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let door = Door::on_port(listener, "log");
    door.answer_with(429);
    let producer = Running::start(&home.0, "producer.py", &[&url, MESH, NODE, "0.2"]);
    door.wait("a try", |seen| seen.declined > 0);
    door.answer_with(200);
    door.wait("what was kept, and more", |seen| seen.samples.len() >= 8);
    drop(producer);
    for (at, sample) in door.seen().samples.iter().enumerate() {
        assert_eq!(sample["seq"], at + 1, "in order, none twice");
        let line = sample.to_string();
        take_line(line.as_bytes(), Time(now_ms()), Span::seconds(1)).unwrap();
        assert!(sample["memory_percent"].as_f64().unwrap() > 0.0);
    }

    let processor = home.run_with(&["--no-agent"]);
    let args = [&door_of(&home), MESH, NODE, "0.2"];
    let _producer = Running::start(&home.0, "producer.py", &args);
    let node = format!("/v1/nodes/{MESH}/{}", NODE.replace(' ', "%20"));
    until(LIMIT, "the node is known", || {
        processor
            .get(&node)
            .is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(home.lines(&["dlq", "list", "--json"]), [""; 0]);
}

#[test]
fn telegrafs_messages_are_read_by_the_mapping_beside_its_configuration() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    // Telegraf's own configuration is TOML too.
    let text = fs::read_to_string(examples.join("telegraf.conf")).unwrap();
    let conf: toml::Table = text.parse().unwrap();
    for (name, inputs) in conf["inputs"].as_table().unwrap() {
        for input in inputs.as_array().unwrap() {
            assert_eq!(input["name_override"].as_str(), Some("node"), "{name}");
        }
    }
    let output = &conf["outputs"]["kafka"][0];
    assert_eq!(output["topic"].as_str(), Some("homeostat.metrics"));
    assert_eq!(output["data_format"].as_str(), Some("json"));
    assert_eq!(output["routing_tag"].as_str(), Some("host"));

    let config = Config::load(Some(&examples.join("telegraf.toml"))).unwrap();
    let folder = Home::new("telegraf", "");
    let settings = &config.settings().formats;
    let mut formats = Foreign::open(settings, "homeostat.", &folder.0, Time(0)).unwrap();
    // As the merge of the three inputs leaves Telegraf's serializer.
    let message = r#"{"fields":{"active":8053,"average_response_ms":23.5,"packets_received":4,
        "percent_packet_loss":20,"total":16384,"usage_idle":12.5,"usage_user":80,
        "used_percent":41.25},"name":"node","tags":{"host":"router-1"},"timestamp":1767225610}"#;
    let record = Record {
        offset: 0,
        time: Time(1_767_225_610_500),
        key: b"router-1".to_vec(),
        value: message.as_bytes().to_vec(),
        headers: Vec::new(),
    };
    let at = TopicPartition {
        topic: Topic::Metrics,
        partition: 0,
    };
    let Entering::Ready(entered) = formats.entering(at, record, When::First) else {
        panic!("it is not held up")
    };
    let sample: Value = serde_json::from_slice(&entered.value).unwrap();
    let expected = json!({
        "mesh_id": "site", "node_id": "router-1", "time": 1_767_225_610_000_i64,
        "cpu_percent": 87.5, "memory_percent": 41.25, "latency_ms": 23.5, "packet_loss": 20.0,
    });
    assert_eq!(sample, expected);
}

/// Topics on a broker, with a hand that writes orders there as only the loop may.
struct Topics {
    address: String,
    prefix: String,
}

impl Topics {
    fn order(&self, directive: &Directive) {
        let key = format!("{}/{}", directive.mesh, directive.node);
        let topic = format!("{}directives", self.prefix);
        let value = wire::json::directive(directive);
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .create()
            .unwrap();
        let record = BaseRecord::to(&topic)
            .partition(partition_of(key.as_bytes(), PARTITIONS))
            .key(&key)
            .payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(LIMIT).unwrap();
    }
}

/// A Python that has the library.
fn python_with_kafka() -> Option<&'static str> {
    // Debian's packages are for its own python3, which need not be the first on the path.
    let has = |python: &&str| {
        let mut command = Command::new(python);
        command
            .args(["-c", "import confluent_kafka"])
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    if found.is_none() {
        skipped(
            "agent_kafka.py",
            "confluent_kafka",
            "python3-confluent-kafka",
        );
    }
    found
}

#[test]
fn the_agent_over_kafka_heals_and_is_not_fooled() {
    let (Some(python), Some(broker)) = (python_with_kafka(), broker::shared()) else {
        return;
    };
    let topics = Topics {
        address: broker.address().to_owned(),
        prefix: broker::prefix("example"),
    };
    let Topics { address, prefix } = &topics;
    let config = format!(
        "[kafka]\nbrokers = \"{address}\"\ngroup = \"{prefix}group\"\npartitions = {PARTITIONS}\n\
         session_timeout_ms = 6000\ntransaction_timeout_ms = 4000\n\
         {}",
        FAST.replace("[log]", &format!("[log]\nprefix = \"{prefix}\""))
    );
    let home = Home::new(&format!("{prefix}kafka"), &config);
    home.lines(&["topics", "create"]);
    let processor = home.run_with(&["--no-agent"]);
    let journal = home.0.join("journal");
    let start = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agent_kafka.py");
        let mut command = Command::new("setpriv");
        let args = [address, prefix, MESH, NODE, journal.to_str().unwrap()];
        Running::run(
            &home.0,
            "agent_kafka",
            command.args(PDEATHSIG).arg(python).arg(script).args(args),
        )
    };
    let mut agent = start();
    let mut seq = 0;
    let mut feed = |agent: &mut Running, what: &str, holds: &mut dyn FnMut() -> bool| {
        let mut last = None::<Instant>;
        until(LIMIT, what, || {
            if last.is_none_or(|last| last.elapsed() > Duration::from_millis(500)) {
                (seq, last) = (seq + 1, Some(Instant::now()));
                let stdin = agent.child.stdin.as_mut().unwrap();
                writeln!(stdin, "{}", sick(seq)).unwrap();
            }
            holds()
        });
    };
    feed(&mut agent, "two healings were reported", &mut || {
        let outcomes = events(&home, "OutcomeReported");
        outcomes.iter().filter(|o| o["kind"] == "healing").count() >= 2
    });
    drop(agent.child.stdin.take());
    agent.kill();
    // No order but ours from here on.
    assert!(processor.stop().success());
    done_once(&home, &agent.acts(), &journal);

    let issued = events(&home, "DirectiveIssued");
    let real: Vec<Directive> = issued
        .iter()
        .map(|event| event["directive"].to_string())
        .map(|text| wire::json::decode_directive(text.as_bytes()).unwrap())
        .filter(|directive| directive.action.kind() == Kind::Healing)
        .collect();
    let newest = real.last().unwrap().clone();
    let mut agent = start();
    // The same again; older; over.
    topics.order(&newest);
    topics.order(&Directive {
        generation: newest.generation - 1,
        ..newest.clone()
    });
    topics.order(&expired(Directive {
        generation: newest.generation + 100,
        ..newest.clone()
    }));
    topics.order(&expired(directive(
        &newest.log_id,
        newest.generation + 100,
        SCALE,
    )));
    let last = Directive {
        issued_at: Time(now_ms()),
        ttl_s: 600,
        generation: newest.generation + 200,
        action: SCALE,
        ..newest.clone()
    };
    topics.order(&last);
    feed(&mut agent, "the last is done", &mut || {
        let text = fs::read_to_string(&journal).unwrap();
        let rows = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        rows.into_iter().any(|row: Value| {
            row["directive"]["generation"] == last.generation && !row["outcome"].is_null()
        })
    });
    // What it began is what was issued, and the last; each once.
    let text = fs::read_to_string(&journal).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let begun: Vec<String> = rows
        .filter(|row: &Value| row["outcome"].is_null())
        .map(|row| row["directive"].to_string())
        .collect();
    let mut ordered: BTreeSet<String> = issued.iter().map(|e| e["directive"].to_string()).collect();
    let last: Value = serde_json::from_str(&wire::json::directive(&last)).unwrap();
    ordered.insert(last.to_string());
    assert!(begun.iter().all(|order| ordered.contains(order)), "{text}");
    let once: BTreeSet<&String> = begun.iter().collect();
    assert_eq!(once.len(), begun.len(), "{text}");
    assert_eq!(agent.acts().len(), begun.len());
}

const MESH: &str = "site";
/// A name that must be quoted.
const NODE: &str = "n 1";
const HEAL: Action = Action::Healing {
    level: Healing::Aggressive,
};
const ROUTE: Action = Action::RoutePreference {
    value: Route::LowLatency,
};
const SCALE: Action = Action::Scaling {
    value: Scaling::Optimize,
};
const HEALED: &str = "healing aggressive";
const ROUTED: &str = "route_preference low_latency";
const PARTITIONS: i32 = 3;
const LIMIT: Duration = Duration::from_secs(120);
/// Dead with its parent, however that dies.
const PDEATHSIG: [&str; 2] = ["--pdeathsig", "KILL"];

// The binary of the embedded processes takes these; named here, they are not dead.
const _: (
    fn(&Home) -> Processor,
    fn(PathBuf, &str) -> Home,
    fn(&Home, &[(&str, &str)]) -> Processor,
    fn(&mut Processor),
) = (Home::run, Home::at, Home::run_seeing, Processor::kill);
