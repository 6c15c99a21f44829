//! The door over a real embedded log: what it takes in and shows, and that nothing a client sends
//! stops it.

#![cfg(feature = "io")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, park_timeout, spawn};
use std::time::{Duration, Instant};

use homeostat::config::settings::{Fsync, LogSettings, Settings, WebSettings};
use homeostat::embedded::{Embedded, Incoming, Note, TITLE};
use homeostat::model::{LogOpened, MetricsRecord, PlanRecord, Time};
use homeostat::runtime::frame::{LogState, read_chunk};
use homeostat::runtime::{Clock, Config, TimeSource, Title, Worker, only};
use homeostat::stream::Topic;
use homeostat::web::{Door, Pulse, bind, serve};
use homeostat::{topology, wire};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A log with a door, and, if asked for, the loop behind it.
struct House {
    dir: PathBuf,
    address: SocketAddr,
    log: Embedded,
    pulse: Arc<Pulse>,
    stop: watch::Sender<bool>,
    served: Option<tokio::task::JoinHandle<()>>,
    runtime: Option<Runtime>,
    halt: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

/// What a test changes of the settings.
fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings {
        log: LogSettings {
            fsync: Fsync::Group,
            min_free_mib: 0,
            ..LogSettings::default()
        },
        web: WebSettings {
            listen: "127.0.0.1:0".into(),
            ..WebSettings::default()
        },
        ..Settings::default()
    };
    change(&mut settings);
    settings
}

impl House {
    fn open(name: &str, change: impl FnOnce(&mut Settings)) -> House {
        let dir =
            std::env::temp_dir().join(format!("homeostat-door-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut settings = settings(change);
        settings.log.dir.clone_from(&dir);
        let log = Embedded::open(&settings.log, TimeSource::Sample).unwrap();
        // What a process that was killed left.
        fs::write(dir.join("homeostat.sock"), "stale").unwrap();
        let pulse = Arc::new(Pulse::new());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let bound = {
            let _inside = runtime.enter();
            bind(&settings, &dir).unwrap()
        };
        let address = bound.address;
        let door = Arc::new(Door::new(log.clone(), &settings, pulse.clone()));
        let served = runtime.spawn(async move { serve(bound, door, stopped).await.unwrap() });
        House {
            dir,
            address,
            log,
            pulse,
            stop,
            served: Some(served),
            runtime: Some(runtime),
            halt: Arc::default(),
            worker: None,
        }
    }

    /// Opens the log and lets the loop run.
    fn with_loop(mut self) -> House {
        let opened = PlanRecord::LogOpened(LogOpened {
            log_id: "log-1".into(),
            audit_name: "test.example/log".into(),
            partitions: 1,
            time_source: "sample".into(),
        });
        let title = Embedded::title_note(&Title {
            log_id: "log-1".into(),
            prefix: "homeostat.".into(),
            time_source: TimeSource::Sample,
            partitions: 1,
        });
        let record = Incoming {
            time: Time(BEGIN),
            key: Vec::new(),
            value: wire::encode_plan(&opened),
        };
        let note = Note {
            name: TITLE,
            value: &title,
        };
        let log = &self.log;
        log.append_noting(Topic::PlanInbox, vec![record], &[note])
            .unwrap();
        let (log, pulse, halt) = (self.log.clone(), self.pulse.clone(), self.halt.clone());
        self.worker = Some(spawn(move || drive(&log, &pulse, &halt)));
        self
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        exchange(self.connect(), method, path, headers, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[], body.as_bytes())
    }

    /// Over the socket.
    fn inside(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(self.dir.join("homeostat.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, method, path, &[], body.as_bytes())
    }

    fn close(&mut self) {
        self.stop.send_replace(true);
        let (runtime, served) = (self.runtime.take(), self.served.take());
        if let (Some(runtime), Some(served)) = (runtime, served) {
            let begun = Instant::now();
            runtime.block_on(served).unwrap();
            assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.close();
        self.halt.store(true, Ordering::SeqCst);
        if let Some(worker) = self.worker.take() {
            worker.join().unwrap();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

struct Ticking(Instant);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }
}

fn drive(log: &Embedded, pulse: &Pulse, halt: &AtomicBool) {
    let config = Config {
        time_source: TimeSource::Sample,
        apply_records: 1,
        ..Config::default()
    };
    let (port, stores) = log.worker(&[Topic::Metrics, Topic::PlanInbox]);
    let clock = Rc::new(Ticking(Instant::now()));
    let mut worker = Worker::new(port, stores, clock, topology::stages(), config).unwrap();
    while !halt.load(Ordering::SeqCst) {
        let wait = worker.patience();
        let turn = worker.turn(wait).unwrap();
        pulse.folded("analyze", turn.folded as u64);
        pulse.turned(turn.idle);
    }
    worker.finish().unwrap();
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.text().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn parse(raw: &[u8]) -> Answer {
        let end = raw.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(raw)));
        let head = std::str::from_utf8(&raw[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut body = raw[end + 4..].to_vec();
        if headers
            .get("transfer-encoding")
            .is_some_and(|t| t == "chunked")
        {
            body = unchunk(&body);
        }
        Answer {
            status,
            headers,
            body,
        }
    }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    out
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let length = body.len().to_string();
    let mut all = vec![("connection", "close"), ("content-length", &length)];
    all.extend(headers);
    stream
        .write_all(head(method, path, &all).as_bytes())
        .unwrap();
    stream.write_all(body).unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    Answer::parse(&raw)
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        park_timeout(Duration::from_millis(5));
    }
}

fn line(node: &str, seq: i64, rest: &str) -> String {
    let time = BEGIN + seq * 10_000;
    format!(r#"{{"mesh_id":"alpha","node_id":"{node}","time":{time},"seq":{seq}{rest}}}"#)
}

const WELL: &str = concat!(
    r#","interval_s":10,"cpu_percent":50,"memory_percent":60,"mesh_connectivity":8"#,
    r#","latency_ms":60,"packet_loss":0.1"#
);

const ILL: &str = concat!(
    r#","interval_s":10,"cpu_percent":97,"memory_percent":60,"mesh_connectivity":8"#,
    r#","latency_ms":700,"packet_loss":30"#
);

const BEGIN: i64 = 1_767_225_600_000;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn samples_come_in_one_by_one_in_arrays_in_lines_and_in_avro() {
    let house = House::open("forms", |_| {});
    let (a, b) = (line("a", 1, WELL), line("b", 1, ""));
    for (body, accepted) in [
        (a.clone(), 1),
        (format!("[{a},{b}]"), 2),
        (format!("{a}\n\n{b}\n"), 2),
        (
            "{\n  \"mesh_id\": \"m\",\n  \"node_id\": \"n\",\n  \"time\": 0\n}\n".into(),
            1,
        ),
        ("[]".into(), 0),
    ] {
        let before = house.log.visible_end(Topic::Metrics);
        let answer = house.post("/v1/metrics", &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(
            answer.json(),
            json!({"accepted": accepted, "rejected": []}),
            "{body}"
        );
        // Answered is durable is visible.
        let after = house.log.visible_end(Topic::Metrics);
        assert_eq!(after - before, accepted, "{body}");
    }
    let mut source = house.log.source();
    let first = source
        .read(only(Topic::Metrics), 0, 1, 1)
        .unwrap()
        .records
        .remove(0);
    assert_eq!(
        (first.key.as_slice(), first.time),
        (&b"a"[..], Time(BEGIN + 10_000))
    );
    let Ok(MetricsRecord::Sample(_)) = wire::decode_metrics(&first.value) else {
        panic!("a sample")
    };
    for name in ["avro/binary", "application/vnd.apache.avro+binary"] {
        let answer = house.ask(
            "POST",
            "/v1/metrics",
            &[("content-type", name)],
            &first.value,
        );
        assert_eq!(
            (answer.status, answer.json()["accepted"].clone()),
            (200, json!(1))
        );
    }
    let outcome = concat!(
        r#"{"mesh_id":"alpha","node_id":"a","log_id":"log-1","directive_id":"dir-1-x","#,
        r#""generation":1,"kind":"healing","result":"applied"}"#
    );
    let answer = house.post("/v1/outcomes", &format!("{outcome}\n{{}}\nx"));
    assert_eq!(answer.json()["accepted"], 1, "{}", answer.text());
    assert_eq!(answer.json()["rejected"][0]["reason"], "bad_outcome");
    assert_eq!(answer.json()["rejected"][1]["reason"], "not_json");
    let end = house.log.visible_end(Topic::Metrics);
    let last = source
        .read(only(Topic::Metrics), end - 1, end, 1)
        .unwrap()
        .records
        .remove(0);
    assert!(matches!(
        wire::decode_metrics(&last.value),
        Ok(MetricsRecord::Outcome(_))
    ));
}

#[test]
fn what_is_refused_is_named_and_stops_nothing_else() {
    let house = House::open("refused", |_| {});
    let body = format!(
        "{}\nnonsense\n{}\n{{\"mesh_id\":\"m\",\"time\":0}}",
        line("a", 1, ""),
        line("a", 2, ",\"packet_loss\":-1")
    );
    let answer = house.post("/v1/metrics", &body);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"accepted": 1, "rejected": [
            {"line": 2, "reason": "not_json"},
            {"line": 3, "reason": "out_of_range", "field": "packet_loss"},
            {"line": 4, "reason": "missing_field", "field": "node_id"},
        ]})
    );
    for (body, content_type, status) in [
        ("", "application/json", 400),
        ("nonsense", "application/json", 400),
        ("[{]", "application/json", 400),
        ("{}", "application/json", 200),
        ("{}", "image/png", 415),
        ("{}", "avro/binary", 400),
    ] {
        let headers = [("content-type", content_type)];
        let answer = house.ask("POST", "/v1/metrics", &headers, body.as_bytes());
        assert_eq!(
            answer.status,
            status,
            "{body:?} {content_type}: {}",
            answer.text()
        );
        let told = answer.json();
        assert_eq!(told.get("error").is_some(), status != 200, "{told}");
    }
    assert_eq!(house.log.written_end(Topic::Metrics), 1);
}

#[test]
fn a_wrong_way_is_told_the_right_one() {
    let house = House::open("routes", |_| {});
    for (method, path, status, words) in [
        ("GET", "/v1/evnts", 404, "/v1/events"),
        ("POST", "/v1/policy", 503, "not opened yet"),
        ("POST", "/v1/holds", 400, "reading the body"),
        ("GET", "/v1/metrics", 405, "for POST"),
        ("POST", "/v1/events", 405, "for GET"),
        ("GET", "/v1/events?mehs=a", 400, "did you mean mesh?"),
        ("GET", "/v1/log/nothing", 404, "dead-letters"),
        ("GET", "/v1/explain/dir-0-aa", 404, "no event bears"),
        ("GET", "/v1/explain/x", 404, "dir-.."),
        ("GET", "/v1/nodes/m/n", 404, "GET /v1/nodes"),
        ("GET", "/v1/nodes/%FF/n", 400, ""),
        ("GET", "/v1/log", 503, "not opened yet"),
        ("GET", "/v1/log/copies/analyze/7", 404, "kept are: none"),
        ("POST", "/v1/backup", 403, "socket"),
    ] {
        let answer = house.ask(method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(
            answer.text().contains(words),
            "{method} {path}: {}",
            answer.text()
        );
    }
    // A request that tells a host of its own, as a page of a stranger would.
    let mut stream = house.connect();
    let request = "GET /v1/nodes HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    assert_eq!(Answer::parse(&raw).status, 403);
}

#[test]
fn what_people_say_is_judged_and_recorded_with_who_said_it() {
    let house = House::open("say", |_| {}).with_loop();
    let samples: String = ["m/n1", "m/n2", "o/n1"]
        .iter()
        .map(|key| {
            let (mesh, node) = key.split_once('/').unwrap();
            let line = line(node, 0, WELL);
            line.replace("alpha", mesh) + "\n"
        })
        .collect();
    assert_eq!(house.post("/v1/metrics", &samples).json()["accepted"], 3);
    until("the nodes are known", || {
        house.get("/v1/nodes").lines().len() == 3
    });
    for (path, body, status, words) in [
        ("/v1/holds", "{}", 400, "who is meant?"),
        ("/v1/holds", r#"{"mesh_id":""}"#, 400, "mesh_id"),
        (
            "/v1/holds",
            r#"{"who":"n2","all":true}"#,
            400,
            "who is meant?",
        ),
        (
            "/v1/holds",
            r#"{"who":"n2","for_s":0}"#,
            400,
            "for_s = 0: expected 1 to",
        ),
        ("/v1/holds", r#"{"who":"n2","fro_s":1}"#, 400, "fro_s"),
        (
            "/v1/holds",
            r#"{"who":"n2","release":true,"for_s":1}"#,
            400,
            "neither",
        ),
        ("/v1/holds", r#"{"who":"n1"}"#, 409, "m/n1 or o/n1"),
        ("/v1/holds", r#"{"who":"n3"}"#, 404, "near to it"),
        (
            "/v1/holds",
            r#"{"mesh_id":"m","node_id":"n3"}"#,
            404,
            "m/n3",
        ),
        (
            "/v1/holds",
            r#"{"who":"m","release":true}"#,
            409,
            "nothing to release",
        ),
        ("/v1/approvals", r#"{"id":"wh-1-aa"}"#, 404, "nothing waits"),
        ("/v1/approvals", "[]", 400, "reading the body"),
        (
            "/v1/policy",
            "[plan]\ncooldown_s = -1",
            400,
            "line 2: plan.cooldown_s: -1",
        ),
        ("/v1/policy", "\u{1}", 400, ""),
        ("/v1/policy?mesh=x", "plan.cooldown_s = 9", 404, "mesh x"),
        ("/v1/policy?mehs=x", "plan.cooldown_s = 9", 400, "mesh"),
    ] {
        let answer = house.post(path, body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        assert!(answer.text().contains(words), "{body}: {}", answer.text());
    }
    let hold = r#"{"who":"n2","for_s":60,"reason":"maintenance"}"#;
    let over_tcp = house.post("/v1/holds", hold).json();
    let inside = house.inside("POST", "/v1/holds", r#"{"all":true}"#).json();
    assert_eq!(
        (&over_tcp["accepted"], &over_tcp["mesh_id"]),
        (&1.into(), &"m".into())
    );
    // Both ways it is the user of this very process who asks.
    let name = homeostat::web::own_name();
    assert_eq!(
        (&over_tcp["by"], &inside["by"]),
        (&name.clone().into(), &name.clone().into())
    );
    let policy = house
        .post("/v1/policy?mesh=m", "plan.cooldown_s = 9")
        .json();
    assert_eq!(policy["accepted"], 1, "{policy}");
    let of_type = |kind: &str, mesh: &str| {
        house
            .get(&format!("/v1/events?type={kind}&mesh={mesh}"))
            .lines()
    };
    until("what was said is decided", || {
        of_type("HoldPlaced", "").len() == 1 && of_type("Adopted", "m").len() == 1
    });
    let placed = of_type("HoldPlaced", "m");
    assert_eq!((placed.len(), &placed[0]["by"]), (1, &name.into()));
    assert_eq!(placed[0]["reason"], over_tcp["reason"]);
    let shown = house.get("/v1/policy?mesh=m").lines();
    assert_eq!(shown[0]["text"], "plan.cooldown_s = 9");
    assert_eq!(shown[0]["policy_generation"], 1);
    assert_eq!(house.get("/v1/policy").lines().len(), 3);
}

#[test]
fn with_no_data_every_page_is_there() {
    let house = House::open("empty", |_| {}).with_loop();
    until("ready", || house.get("/readyz").status == 200);
    for path in [
        "/",
        "/livez",
        "/metrics",
        "/v1",
        "/v1/cycles",
        "/v1/directives",
        "/v1/nodes",
        "/v1/incidents",
        "/v1/topology",
        "/v1/log",
        "/v1/log/metrics",
        "/v1/log/copies/analyze",
        "/v1/events",
        "/v1/events?mesh=",
    ] {
        let answer = house.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let page = house.get("/");
    assert!(page.headers["content-security-policy"].contains("default-src 'none'"));
    assert!(page.text().contains("<title>Homeostat</title>"));
    let own = || house.get("/v1/events?mesh=").lines();
    until("the log's own event", || {
        own().first().is_some_and(|e| e["type"] == "LogOpened")
    });
    assert_eq!(house.get("/v1/events").lines(), Vec::<Value>::new());
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let house = House::open("large", |s| s.web.body_max_kib = 64);
    let mut stream = house.connect();
    let begun = Instant::now();
    let length = (1u64 << 30).to_string();
    let request = head("POST", "/v1/metrics", &[("content-length", &length)]);
    stream.write_all(request.as_bytes()).unwrap();
    let piece = vec![b' '; 64 * 1024];
    let mut sent = 0;
    // It is refused while it is being sent; how much went out by then the system knows.
    while sent < 1 << 30 && stream.write_all(&piece).is_ok() && begun.elapsed() < PATIENCE {
        sent += piece.len();
        if sent == 1 << 20 {
            let mut raw = [0; 4096];
            let read = stream.read(&mut raw).unwrap();
            assert_eq!(Answer::parse(&raw[..read]).status, 413);
        }
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    // Without a length, in chunks.
    let mut stream = house.connect();
    let request = head("POST", "/v1/metrics", &[("transfer-encoding", "chunked")]);
    stream.write_all(request.as_bytes()).unwrap();
    for _ in 0..3 {
        let chunk = [b"8000\r\n".as_slice(), &[b' '; 0x8000], b"\r\n"].concat();
        stream.write_all(&chunk).unwrap();
    }
    let mut raw = [0; 4096];
    let read = stream.read(&mut raw).unwrap();
    assert_eq!(Answer::parse(&raw[..read]).status, 413);
    // Who waits to be told to go on is not.
    let mut stream = house.connect();
    let headers = [("content-length", "1000000"), ("expect", "100-continue")];
    let request = head("POST", "/v1/metrics", &headers);
    stream.write_all(request.as_bytes()).unwrap();
    let read = stream.read(&mut raw).unwrap();
    assert_eq!(Answer::parse(&raw[..read]).status, 413);
    assert_eq!(house.get("/v1").status, 200);
    assert_eq!(house.log.written_end(Topic::Metrics), 0);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let house = House::open("slow-body", |s| s.web.read_timeout_s = 1);
    let mut stream = house.connect();
    let request = head("POST", "/v1/metrics", &[("content-length", "100")]);
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(b"{").unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    assert_eq!(Answer::parse(&raw).status, 408);
    // Nor are headers.
    let mut stream = house.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nhost:").unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
}

#[test]
fn when_too_much_waits_nothing_more_is_taken() {
    let house = House::open("queue", |s| s.web.queue_max = 1);
    let two = format!("{}\n{}", line("a", 1, ""), line("a", 2, ""));
    assert_eq!(house.post("/v1/metrics", &two).status, 200);
    let answer = house.post("/v1/metrics", &two);
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(
        answer.text().contains("web.queue_max = 1"),
        "{}",
        answer.text()
    );
    assert_eq!(house.log.written_end(Topic::Metrics), 2);
    let reasons = house.get("/readyz");
    assert_eq!(reasons.status, 503);
    assert!(
        reasons.text().contains("more than web.queue_max"),
        "{}",
        reasons.text()
    );
}

#[test]
fn when_the_disk_is_nearly_full_nothing_more_is_taken() {
    let house = House::open("full", |s| s.log.min_free_mib = 1 << 40);
    let answer = house.post("/v1/metrics", &line("a", 1, ""));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("min_free_mib"), "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
    let reasons = house.get("/readyz");
    assert!(
        reasons.text().contains("log.min_free_mib"),
        "{}",
        reasons.text()
    );
}

#[test]
fn one_connection_too_many_is_told_so_and_the_rest_live() {
    let house = House::open("many", |s| s.web.connections_max = 16);
    let idle: Vec<TcpStream> = (0..16).map(|_| house.connect()).collect();
    let no_room = |house: &House| {
        let mut raw = Vec::new();
        let read = house.connect().read_to_end(&mut raw);
        read.is_ok() && !raw.is_empty() && Answer::parse(&raw).status == 503
    };
    until("no room", || no_room(&house));
    // Hundreds more: each is told, or closed.
    let crowd: Vec<TcpStream> = (0..300).map(|_| house.connect()).collect();
    for mut stream in crowd {
        let mut raw = Vec::new();
        let _ = stream.read_to_end(&mut raw);
    }
    // The socket has room of its own.
    assert_eq!(house.inside("GET", "/v1", "").status, 200);
    drop(idle);
    until("room again", || {
        let mut stream = house.connect();
        let request = head("GET", "/v1", &[("connection", "close")]);
        let mut raw = Vec::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_end(&mut raw).is_ok()
            && raw.starts_with(b"HTTP/1.1 200")
    });
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let house = House::open("garbage", |_| {});
    let mut seed = homeostat::runtime::Seed(7);
    for round in 0..200 {
        let mut stream = house.connect();
        let mut garbage: Vec<u8> = (0..seed.below(3000))
            .map(|_| seed.below(256) as u8)
            .collect();
        if round % 3 == 0 {
            garbage.splice(
                0..0,
                head("POST", "/v1/metrics", &[("content-length", "500")]).bytes(),
            );
        }
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut raw = Vec::new();
        let _ = stream.read_to_end(&mut raw);
    }
    let long = "x".repeat(200_000);
    let mut stream = house.connect();
    let _ = stream.write_all(format!("GET /{long} HTTP/1.1\r\n\r\n").as_bytes());
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw);
    assert_eq!(house.get("/v1").status, 200);
    assert_eq!(house.log.failure(), None);
}

#[test]
fn who_reads_nothing_is_cut_off() {
    let house = House::open("slow-reader", |s| s.web.write_timeout_s = 1);
    let body: String = (0..20_000).map(|seq| line("a", seq, WELL) + "\n").collect();
    assert_eq!(house.post("/v1/metrics", &body).status, 200);
    let runtime = house.runtime.as_ref().unwrap();
    let mut stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(house.address).await.unwrap();
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
    });
    // More than the system keeps for who does not read.
    let requests = head("GET", "/v1/log/metrics", &[]).repeat(20);
    stream.write_all(requests.as_bytes()).unwrap();
    let connections = || {
        let text = house.get("/metrics");
        let text = text.text().to_owned();
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix("homeostat_connections "));
        found.unwrap().parse::<u32>().unwrap()
    };
    until("it is served", || connections() == 2);
    until("it is cut off", || connections() == 1);
}

#[test]
fn followers_resume_where_they_were() {
    let mut house = House::open("follow", |s| s.web.followers_max = 1).with_loop();
    let samples: String = (1..=3)
        .map(|i| line(&format!("n{i}"), i, WELL) + "\n")
        .collect();
    assert_eq!(house.post("/v1/metrics", &samples).status, 200);
    until("events", || {
        house.get("/v1/events?mesh=alpha").lines().len() >= 5
    });
    let all = house.get("/v1/events?mesh=alpha").lines();
    let seqs: Vec<i64> = all.iter().map(|e| e["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (0..seqs.len() as i64).collect::<Vec<_>>());
    let from = house.get("/v1/events?mesh=alpha&from=3&limit=1").lines();
    assert_eq!(from, all[3..4]);

    let follow = |headers: &[(&str, &str)], path: &str| {
        let mut stream = house.connect();
        let mut all = vec![("accept", "text/event-stream")];
        all.extend(headers);
        stream
            .write_all(head("GET", path, &all).as_bytes())
            .unwrap();
        stream
    };
    let mut stream = follow(&[], "/v1/events?since=0");
    let text = read_until(&mut stream, |text| {
        text.matches("\nevent: ").count() >= all.len()
    });
    assert!(
        text.contains("retry: 2000") && text.contains("event: NodeSeen\ndata: {"),
        "{text}"
    );
    let ids: Vec<&str> = text
        .split("id: ")
        .skip(1)
        .filter(|e| e.contains("data: "))
        .collect();
    let ids: Vec<&str> = ids.iter().map(|e| e.split('\n').next().unwrap()).collect();
    // One more finds no room.
    let mut raw = [0; 4096];
    let mut other = follow(&[], "/v1/events");
    let read = other.read(&mut raw).unwrap();
    assert_eq!(Answer::parse(&raw[..read]).status, 503);
    drop((stream, other));

    let behind = ids[ids.len() - 2];
    let mut stream = None;
    until("room for a follower", || {
        let tried = follow(&[("last-event-id", behind)], "/v1/events");
        let read = tried.peek(&mut raw).unwrap();
        let free = raw[..read].starts_with(b"HTTP/1.1 200");
        stream = free.then_some(tried);
        free
    });
    let mut stream = stream.unwrap();
    let last = format!("id: {}\n", ids.last().unwrap());
    let text = read_until(&mut stream, |text| {
        text.contains(&last) && text.contains("data: ")
    });
    assert_eq!(text.matches("\ndata: ").count(), 1, "{text}");
    // What comes later comes too.
    assert_eq!(house.post("/v1/metrics", &line("n9", 9, WELL)).status, 200);
    read_until(&mut stream, |text| text.contains("\"node_id\":\"n9\""));
    // It is told to go when the door closes, which does not wait for it.
    house.close();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(!house.dir.join("homeostat.sock").exists());
}

/// Reads until what came is enough.
fn read_until(stream: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !enough(&text) {
        let read = stream
            .read(&mut piece)
            .unwrap_or_else(|e| panic!("{e} after: {text}"));
        assert!(read > 0, "it ended after: {text}");
        text += std::str::from_utf8(&piece[..read]).unwrap();
    }
    text
}

#[test]
fn an_id_of_another_log_is_a_conflict() {
    let house = House::open("conflict", |_| {}).with_loop();
    let headers = [("accept", "text/event-stream"), ("last-event-id", "999")];
    let answer = house.ask("GET", "/v1/directives", &headers, b"");
    assert_eq!(answer.status, 409, "{}", answer.text());
}

#[test]
fn a_node_that_falls_ill_is_seen_everywhere() {
    let house = House::open("ill", |_| {}).with_loop();
    let links = r#","neighbours":[{"node_id":"b","latency_ms":700,"packet_loss":30}]"#;
    let samples: String = (1..=60)
        .map(|seq| {
            let state = if seq > 12 { ILL } else { WELL };
            let sick = line("a", seq, &format!("{state}{links}"));
            format!(
                "{sick}\n{}\n{}\n",
                line("b", seq, WELL),
                line("c", seq, WELL)
            )
        })
        .collect();
    let answer = house.post("/v1/metrics", &samples);
    assert_eq!(answer.json()["accepted"], 180, "{}", answer.text());
    until("an incident", || {
        !house.get("/v1/incidents").lines().is_empty()
    });
    until("it is critical", || {
        house.get("/v1/nodes/alpha/a").json()["severity"] == "critical"
    });
    let incident = house
        .get("/v1/incidents?mesh=alpha&node=a")
        .lines()
        .remove(0);
    assert_eq!(
        (&incident["open"], &incident["node_id"]),
        (&json!(true), &json!("a"))
    );
    assert_eq!(
        house.get("/v1/incidents?node=b").lines(),
        Vec::<Value>::new()
    );

    until("three nodes", || {
        house.get("/v1/nodes?mesh=alpha").lines().len() == 3
    });
    assert_eq!(house.get("/v1/nodes?limit=1").lines().len(), 1);
    let after: Vec<String> = b"alpha\0\x01a\0\x01"
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let behind = house
        .get(&format!("/v1/nodes?after={}", after.concat()))
        .lines();
    let names: Vec<&Value> = behind.iter().map(|node| &node["node_id"]).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(house.get("/v1/nodes?after=00").status, 400);
    let id = incident["incident_id"].as_str().unwrap();
    let story = house.get(&format!("/v1/explain/{id}"));
    assert_eq!(story.status, 200, "{}", story.text());
    assert!(
        story.json()["lines"].as_array().unwrap().len() > 1,
        "{}",
        story.text()
    );

    until("a directive", || {
        !house
            .get("/v1/directives?mesh=alpha&node=a")
            .lines()
            .is_empty()
    });
    let directives = house.get("/v1/directives").lines();
    assert!(
        directives.iter().all(|d| d["log_id"] == "log-1"),
        "{directives:?}"
    );
    let why = directives[0]["id"].as_str().unwrap();
    assert_eq!(
        house.get(&format!("/v1/explain/{why}?mesh=alpha")).status,
        200
    );
    assert_eq!(house.get("/v1/directives?type=nothing").lines().len(), 0);
    assert!(!house.get("/v1/cycles?node=a").lines().is_empty());

    until("windows", || {
        !house.get("/v1/nodes/alpha/a/windows").lines().is_empty()
    });
    let window = house.get("/v1/nodes/alpha/a/windows").lines().remove(0);
    let cpu = &window["metrics"]["cpu_percent"];
    assert!(
        cpu["count"].as_i64() > Some(0) && cpu["min"] == 50.0,
        "{window}"
    );

    let graph = house.get("/v1/topology").json();
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 3, "{graph}");
    assert_eq!(graph["links"][0]["target"], "alpha/b", "{graph}");

    let text = house.get("/metrics");
    let text = text.text();
    for expected in [
        "mesh_cpu_percent{mesh=\"alpha\",node=\"a\"} 97",
        "consciousness_state{mesh=\"alpha\",node=\"a\"}",
        "homeostat_nodes 3",
        "homeostat_ingested_total{what=\"samples\"} 180",
        "homeostat_events_total{type=\"IncidentOpened\"}",
        "homeostat_lag_records{stage=\"analyze\"} 0",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(
        !text.contains("mttr_minutes") && !text.contains("NaN"),
        "{text}"
    );
    check_exposition(text);
    let headers = [("accept", "application/openmetrics-text")];
    let open = house.ask("GET", "/metrics", &headers, b"");
    assert!(open.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(open.text().ends_with("# EOF\n"));
    assert!(open.text().contains("# TYPE homeostat_ingested counter"));
}

/// Every sample belongs to the family that was declared last, and is a number.
fn check_exposition(text: &str) {
    let (mut family, mut seen) = (String::new(), std::collections::BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(family.clone()), "{family} twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&family), "{line} below {family}");
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[test]
fn the_log_is_read_raw_and_copied_over_the_socket() {
    let house = House::open("raw", |_| {}).with_loop();
    let body: String = (1..=50).map(|seq| line("a", seq, WELL) + "\n").collect();
    house.post("/v1/metrics", &body);
    let mode = fs::metadata(house.dir.join("homeostat.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let state = house.inside("GET", "/v1/log", "");
    let state: LogState = serde_json::from_slice(&state.body).unwrap();
    assert_eq!(
        (state.log_id.as_str(), state.time_source.as_str()),
        ("log-1", "sample")
    );
    let metrics = state.topic(only(Topic::Metrics)).unwrap();
    assert!(metrics.end >= 50 && metrics.oldest.is_some(), "{metrics:?}");
    until("positions", || {
        let state = house.inside("GET", "/v1/log", "").json();
        state["positions"].as_array().is_some_and(|p| p.len() == 2)
    });
    let chunk = house.inside("GET", "/v1/log/metrics?from=10&to=20&limit=5", "");
    let chunk = read_chunk(&chunk.body).unwrap();
    let offsets: Vec<i64> = chunk.records.iter().map(|r| r.offset).collect();
    assert!(
        offsets[0] == 10 && *offsets.last().unwrap() < 20,
        "{offsets:?}"
    );
    assert_eq!(chunk.next, offsets.last().unwrap() + 1);
    let end = house.inside("GET", "/v1/log/metrics?from=999999", "");
    assert_eq!(read_chunk(&end.body).unwrap().records, []);

    let to = house.dir.with_extension("backup");
    let _ = fs::remove_dir_all(&to);
    let order = json!({ "dir": to }).to_string();
    let answer = house.inside("POST", "/v1/backup", &order);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(to.is_dir());
    assert_eq!(house.inside("POST", "/v1/backup", &order).status, 409);
    for wrong in ["", "{}", "{\"dir\":\"relative\"}"] {
        assert_eq!(
            house.inside("POST", "/v1/backup", wrong).status,
            400,
            "{wrong}"
        );
    }
    fs::remove_dir_all(to).unwrap();
}
