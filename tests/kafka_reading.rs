//! Everything that reads or feeds a log on a real broker: the commands, the door, followers over
//! several partitions. The loop itself runs here on rows in memory.

mod broker;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Bound;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{JoinHandle, park_timeout, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use homeostat::config::settings::{KafkaSettings, Settings, WebSettings};
use homeostat::kafka::{Client, KafkaHandle, KafkaLog, KafkaSource};
use homeostat::runtime::{
    Clock, Config, HeldRows, KeyValue, OwnFormats, Rows, Source, Store, StoreError, Stores,
    TimeSource, Worker, only, partition_of,
};
use homeostat::stream::Topic;
use homeostat::topology;
use homeostat::web::{Door, Pulse, bind, serve};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

/// A log of two partitions on a broker, that bears the samples' own time.
struct Log {
    brokers: String,
    prefix: String,
    begun: i64,
    dir: PathBuf,
}

impl Log {
    fn open(name: &str) -> Option<Log> {
        Some(Log::on(broker::shared()?.address(), name))
    }

    fn on(brokers: &str, name: &str) -> Log {
        let brokers = brokers.to_owned();
        let prefix = broker::prefix(name);
        let dir = std::env::temp_dir().join(format!("homeostat-{prefix}reading"));
        std::fs::create_dir_all(&dir).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let log = Log {
            brokers,
            prefix,
            // Two hours ago: nothing lies ahead of the broker's clock.
            begun: (now.as_millis() as i64 / 60_000 - 120) * 60_000,
            dir,
        };
        log.lines(&["topics", "create"]);
        log
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn write(&self, topic: Topic, partition: i32, key: &[u8], value: &[u8], time: i64) {
        let producer: BaseProducer = self.config().create().unwrap();
        let name = format!("{}{}", self.prefix, topic.name());
        let record = BaseRecord::to(&name).partition(partition).timestamp(time);
        producer.send(record.key(key).payload(value)).unwrap();
        producer.flush(PATIENCE).unwrap();
    }

    fn client(&self) -> Client {
        let settings = KafkaSettings {
            brokers: self.brokers.clone(),
            group: format!("{}group", self.prefix),
            session_timeout_ms: 6000,
            transaction_timeout_ms: 5000,
            patience_s: 30,
            ..KafkaSettings::default()
        };
        Client::new(&settings, &self.prefix).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
        command
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .env("HOMEOSTAT_KAFKA_BROKERS", &self.brokers)
            .env("HOMEOSTAT_KAFKA_GROUP", format!("{}group", self.prefix))
            .env("HOMEOSTAT_LOG_PREFIX", &self.prefix)
            .env("HOMEOSTAT_KAFKA_PARTITIONS", PARTITIONS.to_string())
            .env("HOMEOSTAT_TIME_SOURCE", "sample")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The lines that a command prints with `--json`, when it ends with 0.
    fn lines(&self, args: &[&str]) -> Vec<Value> {
        let output = self.ask(&[args, &["--json"]].concat());
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {words}");
        parsed(&output.stdout)
    }

    fn produce(&self, lines: &str) -> (i32, Value) {
        let mut child = self.command(&["produce", "--json"]);
        let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        let sum = parsed(&output.stdout).pop();
        (
            output.status.code().unwrap(),
            sum.unwrap_or_else(|| panic!("{words}")),
        )
    }

    /// Rounds of samples of two meshes, one node of each is ill.
    fn samples(&self, meshes: &[String; 2], rounds: std::ops::Range<i64>) -> String {
        let mut lines = String::new();
        for seq in rounds {
            for mesh in meshes {
                for node in 0..4 {
                    let time = self.begun + seq * 10_000;
                    let metrics = match node == 0 && seq > 3 {
                        true => ILL,
                        false => WELL,
                    };
                    lines += &format!(
                        "{{\"mesh_id\":\"{mesh}\",\"node_id\":\"{mesh}-{node}\",\"time\":{time},\
                         \"seq\":{seq},\"interval_s\":10,{metrics}}}\n"
                    );
                }
            }
        }
        lines
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn parsed(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// A mesh of each partition.
fn meshes() -> [String; 2] {
    [0, 1].map(|wanted| {
        let names = (0..).map(|i| format!("mesh-{i}"));
        let mut of_it = names.filter(|n| partition_of(n.as_bytes(), PARTITIONS) == wanted);
        of_it.next().unwrap()
    })
}

/// Waits for a condition, or fails at the deadline.
fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        park_timeout(Duration::from_millis(50));
    }
}

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// The rows of all tasks.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<(String, i32), Table>>>);

struct MemoryStore {
    all: Memory,
    task: (String, i32),
}

impl MemoryStore {
    fn with<T>(&self, read: impl FnOnce(&mut Table) -> T) -> T {
        let mut all = self.all.0.lock().unwrap();
        read(all.entry(self.task.clone()).or_default())
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.with(|rows| rows.get(key).cloned()))
    }

    fn next(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        Ok(self.with(|rows| {
            let row = rows.range::<[u8], _>(range).next();
            row.map(|(key, value)| (key.clone(), value.clone()))
        }))
    }

    fn write(&self, changes: Rows) -> Result<(), StoreError> {
        self.with(|rows| {
            for (key, value) in changes {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        });
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.with(Table::clear);
        Ok(())
    }
}

impl Stores for Memory {
    fn open(&self, stage: &str, partition: i32) -> Result<Rc<dyn Store>, StoreError> {
        Ok(Rc::new(MemoryStore {
            all: self.clone(),
            task: (stage.to_owned(), partition),
        }))
    }
}

/// Shows the rows of some partitions.
struct Held(Memory, Vec<i32>);

impl HeldRows for Held {
    fn rows(&self, stage: &str) -> Vec<(i32, Rc<dyn Store>)> {
        let open = |partition: &i32| (*partition, self.0.open(stage, *partition).unwrap());
        self.1.iter().map(open).collect()
    }

    fn windows(
        &self,
        _partition: i32,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        Ok(vec![None; keys.len()])
    }
}

/// A loop over all partitions, until it goes.
struct Running {
    rows: Memory,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Ticking(Instant);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }
}

impl Running {
    fn start(log: &Log) -> Running {
        let (rows, stop) = (Memory::default(), Arc::new(AtomicBool::new(false)));
        let (client, prefix) = (log.client(), log.prefix.clone());
        let (stores, told) = (rows.clone(), stop.clone());
        let thread = spawn(move || {
            let inboxes = [Topic::Metrics, Topic::PlanInbox];
            let port = KafkaLog::connect(
                &client,
                "worker",
                &inboxes,
                TimeSource::Sample,
                Box::new(OwnFormats),
            )
            .unwrap();
            let config = Config {
                prefix,
                time_source: TimeSource::Sample,
                apply_records: 1,
                ..Config::default()
            };
            let clock = Rc::new(Ticking(Instant::now()));
            let stages = topology::stages();
            let mut worker =
                Worker::new(Box::new(port), Rc::new(stores), clock, stages, config).unwrap();
            while !told.load(Ordering::SeqCst) {
                worker.turn(worker.patience()).unwrap();
            }
            worker.finish().unwrap();
        });
        Running {
            rows,
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Waits until all that is in the inboxes is folded.
fn folded(log: &Log) {
    let mut source = KafkaSource::new(&log.client()).unwrap();
    for topic in [Topic::Metrics, Topic::PlanInbox] {
        for of in homeostat::runtime::partitions_of(topic, PARTITIONS) {
            until("an inbox is folded", || {
                let (start, end) = (source.start(of).unwrap(), source.end(of).unwrap());
                let mut last = None;
                let mut next = start;
                while next < end {
                    let chunk = source.read(of, next, end, 1000).unwrap();
                    last = chunk.records.last().map(|record| record.offset).or(last);
                    next = chunk.next;
                }
                let position = source.position(of).unwrap().unwrap();
                (position.next > last.unwrap_or(-1)).then_some(())
            });
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {value}"))
}

/// A process that is killed when it goes.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_the_loop_decides_is_read_back_by_every_command() {
    let Some(log) = Log::open("reading") else {
        return;
    };
    let meshes = meshes();
    let running = Running::start(&log);
    let bad = format!("{{\"mesh_id\":\"{}\",\"node_id\":\"x\"}}\n", meshes[0]);
    let (code, sum) = log.produce(&(log.samples(&meshes, 0..40) + &bad));
    assert_eq!((code, sum), (1, json!({"accepted": 320, "rejected": 1})));
    assert_eq!(log.produce("").0, 0, "nothing is rejected of nothing");
    folded(&log);

    checked(&log);
    events_directives_cycles(&log, &meshes);
    states_and_stories(&log, &meshes);
    dead_letters(&log, &meshes);
    following(&log, &meshes);
    folded(&log);
    running.end();
    let report = log.lines(&["replay"]).pop().unwrap();
    assert_eq!(report["differences"], 0, "{report}");
    assert!(report["records"].as_i64() > Some(352), "{report}");
    let report = log.lines(&["replay", "--events-only"]).pop().unwrap();
    assert_eq!(report["differences"], 0, "{report}");
}

fn checked(log: &Log) {
    let findings = parsed(&log.ask(&["check", "--json"]).stdout);
    for check in ["brokers", "topics", "group"] {
        let found = findings.iter().find(|found| found["check"] == check);
        assert_eq!(
            found.map(|found| &found["verdict"]),
            Some(&json!("ok")),
            "{findings:?}"
        );
    }
    let mut nobody = log.command(&["check", "--json"]);
    let output = nobody
        .env("HOMEOSTAT_KAFKA_BROKERS", "127.0.0.1:9")
        .output();
    let output = output.unwrap();
    let last = parsed(&output.stdout).pop().unwrap();
    assert_eq!(
        (&last["check"], &last["verdict"]),
        (&json!("brokers"), &json!("unknown"))
    );
    assert!(last["mend"].is_string(), "{last}");
    assert_eq!(output.status.code(), Some(2), "it could not be told");
}

fn events_directives_cycles(log: &Log, meshes: &[String; 2]) {
    let events = log.lines(&["events"]);
    let times: Vec<&str> = events.iter().map(|event| text(event, "time")).collect();
    assert!(times.is_sorted(), "partitions are merged in order of time");
    for (partition, mesh) in meshes.iter().enumerate() {
        let own = log.lines(&["events", "--mesh", mesh]);
        let of_all: Vec<&Value> = events
            .iter()
            .filter(|e| text(e, "mesh_id") == mesh)
            .collect();
        assert_eq!(own.iter().collect::<Vec<_>>(), of_all);
        let seqs = own.iter().map(|event| event["seq"].as_i64().unwrap());
        assert!(seqs.eq(0..own.len() as i64), "seq is dense in {mesh}");
        assert!(own.iter().all(|e| e["cause"]["partition"] == partition));
        let from = log.lines(&["events", "--mesh", mesh, "--from", "3"]);
        assert_eq!(from, own[3..]);
        let since = text(&own[own.len() / 2], "time");
        let later = log.lines(&["events", "--mesh", mesh, "--since", since]);
        let expected = own.iter().filter(|event| text(event, "time") >= since);
        assert!(later.iter().eq(expected), "since {since}");

        let node = format!("{mesh}-0");
        let directives = log.lines(&["directives", "--mesh", mesh, "--node", &node]);
        let issued: Vec<&Value> = own
            .iter()
            .filter(|event| event["type"] == "DirectiveIssued" && event["node_id"] == *node)
            .map(|event| &event["directive"])
            .collect();
        assert!(!issued.is_empty(), "{own:?}");
        assert_eq!(directives.iter().collect::<Vec<_>>(), issued);
    }
    // Those of no single mesh stand on each partition.
    let opened = log.lines(&["events", "--mesh", "", "--type", "LogOpened"]);
    assert_eq!(opened.len(), PARTITIONS as usize);

    let cycles = log.lines(&["cycles"]);
    let of_node = log.lines(&["cycles", "--node", &format!("{}-1", meshes[1])]);
    assert!(!of_node.is_empty() && cycles.len() > of_node.len());
}

fn states_and_stories(log: &Log, meshes: &[String; 2]) {
    let nodes = log.lines(&["state"]);
    let keys: Vec<String> = nodes
        .iter()
        .map(|node| text(node, "node_id").to_owned())
        .collect();
    assert_eq!(keys.len(), 8);
    assert!(keys.is_sorted(), "{keys:?}");
    let ill = nodes.iter().filter(|node| node["severity"] != "ok");
    let ill: BTreeSet<&str> = ill.map(|node| text(node, "node_id")).collect();
    assert_eq!(
        ill,
        meshes
            .each_ref()
            .map(|mesh| format!("{mesh}-0"))
            .iter()
            .map(|s| &**s)
            .collect()
    );
    let events = log.lines(&["events"]);
    let early = log.lines(&["state", "--at", text(&events[4], "time")]);
    assert!(
        early.iter().all(|node| node["severity"] == "ok"),
        "{early:?}"
    );

    for mesh in meshes {
        let own = log.lines(&["directives", "--mesh", mesh]);
        let story = log.lines(&["explain", text(&own[0], "id")]);
        assert!(story.len() > 1, "{story:?}");
    }
    assert_eq!(log.ask(&["explain", "dir-1-x"]).status.code(), Some(1));
}

fn dead_letters(log: &Log, meshes: &[String; 2]) {
    let time = log.begun + 500_000;
    let node = format!("{}-1", meshes[1]);
    let partition = partition_of(node.as_bytes(), PARTITIONS);
    log.write(
        Topic::Metrics,
        partition,
        node.as_bytes(),
        b"{nonsense",
        time,
    );
    let letters = until("the dead letter is written", || {
        let letters = log.lines(&["dlq", "list"]);
        (!letters.is_empty()).then_some(letters)
    });
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["partition"], partition);
    let shown = log.lines(&["dlq", "show", text(&letters[0], "id")]);
    assert_eq!(shown[0]["value"], "{nonsense");
    let sent = log.lines(&["dlq", "replay"]);
    assert_eq!(sent[0]["result"], "not_sent", "{sent:?}");
}

fn following(log: &Log, meshes: &[String; 2]) {
    let mut child = log.command(&["cycles", "--follow", "--json"]);
    let mut child = Following(child.spawn().unwrap());
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let (tell, told) = mpsc::channel();
    spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).unwrap();
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let before = log.lines(&["cycles"]).len();
    for _ in 0..before {
        told.recv_timeout(PATIENCE)
            .expect("what was there comes first");
    }
    let (code, _) = log.produce(&log.samples(meshes, 60..64));
    assert_eq!(code, 0);
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        let line = told.recv_timeout(PATIENCE).expect("cycles of both meshes");
        heard.insert(text(&line, "mesh_id").to_owned());
    }
}

/// A door over the log.
struct House {
    address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl House {
    fn open(log: &Log, name: &str, rows: Held) -> House {
        let mut settings = Settings {
            web: WebSettings {
                listen: "127.0.0.1:0".into(),
                ..WebSettings::default()
            },
            ..Settings::default()
        };
        settings.log.dir = log.dir.join(name);
        std::fs::create_dir_all(&settings.log.dir).unwrap();
        let client = log.client();
        let title = KafkaSource::new(&client).unwrap().title().unwrap();
        let handle = KafkaHandle::new(&client, title, rows).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let bound = {
            let _inside = runtime.enter();
            bind(&settings, &settings.log.dir).unwrap()
        };
        let address = bound.address;
        let pulse = Arc::new(Pulse::new());
        pulse.turned(true);
        let door = Arc::new(Door::new(handle, &settings, pulse));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        runtime.spawn(async move { serve(bound, door, stopped).await.unwrap() });
        House {
            address,
            stop,
            runtime: Some(runtime),
        }
    }

    fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let words = format!("{head}\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(words.as_bytes()).unwrap();
        stream
    }

    /// Status, head and body of an answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nconnection: close");
        let mut all = String::new();
        self.send(&head, body).read_to_string(&mut all).unwrap();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.contains("transfer-encoding: chunked");
        let body = match chunked {
            false => body.to_owned(),
            true => unchunked(body),
        };
        (status, head.to_lowercase(), body)
    }

    fn get(&self, path: &str) -> Vec<Value> {
        let (status, _, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        parsed(body.as_bytes())
    }

    /// Follows events: ids and data, from behind an id.
    fn follow(&self, after: Option<&str>, count: usize) -> Vec<(String, Value)> {
        let after = after.map_or(String::new(), |id| format!("\r\nlast-event-id: {id}"));
        let head = format!("GET /v1/events?since=0 HTTP/1.1\r\naccept: text/event-stream{after}");
        let mut lines = BufReader::new(self.send(&head, "")).lines();
        let (mut id, mut found) = (String::new(), Vec::new());
        while found.len() < count {
            let line = lines.next().expect("it goes on").unwrap();
            if let Some(new) = line.strip_prefix("id: ") {
                id = new.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                found.push((id.clone(), serde_json::from_str(data).unwrap()));
            }
        }
        found
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let runtime = self.runtime.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

fn unchunked(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out += &after[..size];
        rest = &after[size + 2..];
    }
    out
}

#[test]
fn the_door_takes_in_shows_and_is_followed_over_two_partitions() {
    let Some(log) = Log::open("door") else {
        return;
    };
    let meshes = meshes();
    let running = Running::start(&log);
    let house = House::open(&log, "whole", Held(running.rows.clone(), vec![0, 1]));
    let (status, _, body) = house.ask("POST", "/v1/metrics", &log.samples(&meshes, 0..40));
    assert_eq!(
        (status, body.as_str()),
        (200, "{\"accepted\":320,\"rejected\":[]}")
    );
    folded(&log);

    let events = log.lines(&["events"]);
    let shown = until("the door has seen the last event", || {
        let shown = house.get("/v1/events?limit=10000");
        (shown.len() == events.len()).then_some(shown)
    });
    assert_eq!(shown, events, "the door and the command show the same");
    for mesh in &meshes {
        let own = house.get(&format!("/v1/events?mesh={mesh}&from=2&limit=10000"));
        let of_all = events.iter().filter(|e| text(e, "mesh_id") == mesh);
        assert!(own.iter().eq(of_all.skip(2)), "{mesh}");
    }

    // Broken off anywhere, who comes back with the last id misses nothing and hears nothing twice.
    let whole = house.follow(None, events.len());
    assert!(whole.iter().map(|(_, event)| event).eq(&events));
    for cut in [1, events.len() / 3, events.len() - 1] {
        let rest = house.follow(Some(&whole[cut - 1].0), events.len() - cut);
        assert_eq!(rest, whole[cut..], "after {cut}");
    }
    let head = "GET /v1/events HTTP/1.1\r\naccept: text/event-stream\r\nlast-event-id: 7";
    let mut answer = [0; 12];
    house.send(head, "").read_exact(&mut answer).unwrap();
    assert_eq!(
        &answer, b"HTTP/1.1 400",
        "an id of one partition is none of two"
    );

    let (status, head, body) = house.ask("GET", "/v1/nodes", "");
    assert_eq!((status, body.lines().count()), (200, 8), "{body}");
    assert!(!head.contains("homeostat-partitions"), "all is held here");
    let (status, _, body) = house.ask("GET", "/readyz", "");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    let incidents = until("incidents of both meshes", || {
        let incidents = house.get("/v1/incidents");
        (incidents.len() >= 2).then_some(incidents)
    });
    for incident in &incidents {
        let story = house.get(&format!("/v1/explain/{}", text(incident, "incident_id")));
        assert_eq!(story[0]["mesh_id"], incident["mesh_id"]);
    }
    let (status, _, page) = house.ask("GET", "/metrics", "");
    assert_eq!(status, 200);
    assert!(page.contains("homeostat_nodes 8\n") && !page.contains("homeostat_free_bytes"));

    // Another process of the group, which holds half of the rows.
    let half = House::open(&log, "half", Held(running.rows.clone(), vec![0]));
    let (_, head, body) = half.ask("GET", "/v1/nodes", "");
    assert_eq!(body.lines().count(), 4, "{body}");
    assert!(
        head.contains("homeostat-partitions: plan=0 analyze=0"),
        "{head}"
    );
    let path = format!("/v1/nodes/{}/{}-0", meshes[1], meshes[1]);
    let (status, _, body) = half.ask("GET", &path, "");
    assert_eq!(status, 404);
    assert!(
        body.contains("this process holds plan=0 analyze=0 of 2 partitions"),
        "{body}"
    );
    drop((half, house));
    running.end();
}

#[test]
fn what_people_say_reaches_plan_by_command_and_by_the_door() {
    let Some(log) = Log::open("say") else {
        return;
    };
    let meshes = meshes();
    let running = Running::start(&log);
    let house = House::open(&log, "say", Held(running.rows.clone(), vec![0, 1]));
    let (status, _, body) = house.ask("POST", "/v1/metrics", &log.samples(&meshes, 0..40));
    assert_eq!(status, 200, "{body}");
    folded(&log);
    let count = |kind: &str, mesh: &str| {
        let of = ["events", "--type", kind, "--mesh", mesh];
        log.lines(&of).len()
    };

    // What is for all is for every partition, and is said once.
    for (said, kind) in [("pause", "HoldPlaced"), ("resume", "HoldReleased")] {
        let told = log.lines(&[said]).pop().unwrap();
        assert_eq!(told["accepted"], 1, "{told}");
        folded(&log);
        assert_eq!(count(kind, ""), 2, "{said} reaches both partitions, once");
    }
    let again = log.ask(&["resume", "--json"]);
    let words = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{words}");

    let node = format!("{0}/{0}-0", meshes[1]);
    let hold = format!("{{\"who\":\"{node}\",\"for_s\":60}}");
    let (status, _, body) = house.ask("POST", "/v1/holds", &hold);
    assert_eq!(status, 200, "{body}");
    folded(&log);
    assert_eq!(
        (
            count("HoldPlaced", &meshes[0]),
            count("HoldPlaced", &meshes[1])
        ),
        (0, 1)
    );
    let unknown = log.ask(&["hold", "nobody-knows-it", "--json"]);
    let words = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(1), "{words}");
    log.lines(&["release", &node]);

    let file = log.dir.join("policy.toml");
    std::fs::write(&file, "plan.cooldown_s = 9\n").unwrap();
    let file = file.to_string_lossy();
    let before = count("Adopted", &meshes[0]);
    let apply = ["policy", "apply", &file, "--mesh", &meshes[0], "--untried"];
    log.lines(&apply);
    folded(&log);
    assert_eq!(count("HoldReleased", &meshes[1]), 1);
    assert_eq!(count("Adopted", &meshes[0]), before + 1);
    let shown = log.lines(&["policy", "show", "--mesh", &meshes[0]]);
    assert_eq!(shown[0]["text"], "plan.cooldown_s = 9\n");
    drop(house);
    running.end();
    let report = log.lines(&["replay"]).pop().unwrap();
    assert_eq!(report["differences"], 0, "{report}");
}

/// What a commit wrote may be seen when its position is answered, and who saw it is answered it.
#[test]
fn a_position_waits_for_what_is_not_decided() {
    let Some(log) = Log::open("position") else {
        return;
    };
    let [cycles, metrics] = [Topic::Cycles, Topic::Metrics].map(only);
    let mut source = KafkaSource::new(&log.client()).unwrap();
    assert_eq!(source.position(metrics).unwrap().unwrap().next, 0);
    let asks = || {
        let client = log.client();
        let (tell, told) = mpsc::channel();
        spawn(move || {
            let mut source = KafkaSource::new(&client).unwrap();
            let position = source.position(metrics).unwrap().unwrap();
            tell.send((position.next, source.end(cycles).unwrap()))
        });
        told
    };
    let producer: BaseProducer = log
        .config()
        .set("transactional.id", format!("{}other", log.prefix))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();

    // Somebody's record is in the log and nobody knows yet whether it will be seen.
    producer.begin_transaction().unwrap();
    let name = format!("{}cycles", log.prefix);
    let record = BaseRecord::to(&name).partition(0).key("m").payload("x");
    producer.send(record).unwrap();
    producer.flush(PATIENCE).unwrap();
    let told = asks();
    let early = told.recv_timeout(A_MOMENT);
    assert!(
        early.is_err(),
        "{early:?} is answered before all is decided"
    );
    producer.commit_transaction(PATIENCE).unwrap();
    let (next, end) = told.recv_timeout(PATIENCE).unwrap();
    assert!(next == 0 && end > 0, "{next} {end}");

    // A position is committed and nobody knows yet whether it counts.
    let consumer: BaseConsumer = log
        .config()
        .set("group.id", format!("{}group", log.prefix))
        .create()
        .unwrap();
    producer.begin_transaction().unwrap();
    let mut offsets = TopicPartitionList::new();
    let mut inbox = offsets.add_partition(&format!("{}metrics", log.prefix), 0);
    inbox.set_offset(Offset::Offset(5)).unwrap();
    inbox.set_metadata("1,2");
    let group = consumer.group_metadata().unwrap();
    producer
        .send_offsets_to_transaction(&offsets, &group, PATIENCE)
        .unwrap();
    let told = asks();
    let early = told.recv_timeout(A_MOMENT);
    assert!(early.is_err(), "{early:?} is answered and a commit is open");
    producer.commit_transaction(PATIENCE).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().0, 5);
}

#[test]
fn a_door_without_brokers_says_so_and_takes_in_again_when_they_are_back() {
    let Some(own) = broker::own(&[]) else {
        return;
    };
    let log = Log::on(own.address(), "gone");
    let house = House::open(&log, "door", Held(Memory::default(), vec![0, 1]));
    let sample = log.samples(&meshes(), 0..1);
    assert_eq!(house.ask("POST", "/v1/metrics", &sample).0, 200);
    own.kill9();
    let (status, head, body) = house.ask("POST", "/v1/metrics", &sample);
    assert_eq!(status, 503, "{body}");
    assert!(head.contains("retry-after"), "{head}");
    assert!(body.contains("send it again"), "{body}");
    until("the door is not ready", || {
        let (status, _, body) = house.ask("GET", "/readyz", "");
        (status == 503 && body.contains("the brokers do not answer")).then_some(())
    });
    own.up();
    until("samples are taken again", || {
        (house.ask("POST", "/v1/metrics", &sample).0 == 200).then_some(())
    });
    until("the door has no more to say of them", || {
        let (_, _, body) = house.ask("GET", "/readyz", "");
        (!body.contains("the brokers do not answer")).then_some(())
    });
}

const PARTITIONS: i32 = 2;

/// Long enough for what would be answered at once.
const A_MOMENT: Duration = Duration::from_secs(2);

const WELL: &str = "\"cpu_percent\":50,\"memory_percent\":60,\"mesh_connectivity\":8,\
                    \"latency_ms\":60,\"packet_loss\":0.1";

const ILL: &str = "\"cpu_percent\":97,\"memory_percent\":60,\"mesh_connectivity\":8,\
                   \"latency_ms\":700,\"packet_loss\":30";

const PATIENCE: Duration = Duration::from_secs(60);
