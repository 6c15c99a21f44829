//! The door that others may come to, of the real program: who may do and see what with a token or
//! a client certificate, and what a SIGHUP changes of it.

#![cfg(feature = "io")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};
use serde_json::Value;

/// A folder of a test's own, removed at its end.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Home {
        let dir = std::env::temp_dir().join(format!("homeostat-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Home(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A file of this mode.
    fn file(&self, name: &str, text: &str, mode: u32) {
        // Else one that may only be read could not be written again.
        let _ = fs::remove_file(self.0.join(name));
        fs::write(self.0.join(name), text).unwrap();
        fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The configuration, with an entry for each of these and its token.
    fn configure(&self, web: &str, entries: &[(&str, &str)]) {
        let mut config = format!("[telemetry]\nformat = \"json\"\n[web]\n{web}\n");
        for (name, rest) in entries {
            self.file(name, &format!("{}\n", token(name)), 0o600);
            let file = self.path(name);
            config += &format!("[[token]]\nname = \"{name}\"\nfile = \"{file}\"\n{rest}\n");
        }
        fs::write(self.0.join("homeostat.toml"), config).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        // Dead with its parent, however that dies.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_homeostat")])
            .args(args)
            .args(["--config", &self.path("homeostat.toml")])
            .args(["--data", &self.path("data")]);
        command
    }

    /// What a start says that fails.
    fn refused(&self, args: &[&str]) -> String {
        let mut command = self.command(&["run", "--no-agent"]);
        let said = fs::File::create(self.0.join("stderr")).unwrap();
        let mut child = Dies(command.args(args).stderr(said).spawn().unwrap());
        let mut status = None;
        until("the start ends", || {
            status = child.0.try_wait().unwrap();
            status.is_some()
        });
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(2), "{}", self.said());
        self.said()
    }

    fn run(&self) -> House<'_> {
        self.run_at("127.0.0.1:0")
    }

    fn run_at(&self, listen: &str) -> House<'_> {
        let said = fs::File::create(self.0.join("stderr")).unwrap();
        let child = self
            .command(&["run", "--no-agent", "--listen", listen])
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut child = Dies(child);
        let mut listens = None;
        until("the processor is ready", || {
            if let Some(status) = child.0.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.said());
            }
            let card = fs::read_to_string(self.0.join("data/holder.json")).unwrap_or_default();
            let card: Value = serde_json::from_str(&card).unwrap_or_default();
            let listen = card["listen"].as_str().unwrap_or_default();
            listens = listen.split_once("://").and_then(|(_, a)| a.parse().ok());
            listens.is_some()
                && self
                    .inside("GET", "/readyz", "")
                    .is_some_and(|a| a.status == 200)
        });
        House {
            home: self,
            child,
            address: listens.expect("waited for"),
        }
    }

    /// A request over the socket.
    fn inside(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let stream = UnixStream::connect(self.0.join("data/homeostat.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(exchange(stream, method, path, &[], body))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.0.join("stderr")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} said:\n{}", self.0.display(), self.said());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that goes with the test.
struct Dies(Child);

impl Drop for Dies {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A processor that runs.
struct House<'a> {
    home: &'a Home,
    child: Dies,
    address: SocketAddr,
}

impl House<'_> {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A request with this `Authorization`; empty: none.
    fn ask(&self, authorization: &str, method: &str, path: &str, body: &str) -> Answer {
        exchange(
            self.connect(),
            method,
            path,
            &[("authorization", authorization)],
            body,
        )
    }

    /// A request with the token of an entry.
    fn by(&self, name: &str, method: &str, path: &str, body: &str) -> Answer {
        self.ask(&bearer(name), method, path, body)
    }

    /// Sends SIGHUP and waits until it was heeded: so many lines say so.
    fn reread(&self, words: &str) {
        let heeded = || self.home.said().matches(words).count();
        let before = heeded();
        let pid = self.child.0.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
        assert!(sent.success());
        until(words, || heeded() > before);
    }

    /// Nodes known, by mesh and name, once there are so many.
    fn settle(&self, nodes: usize) {
        until("the nodes are known", || {
            let answer = self.home.inside("GET", "/v1/nodes", "").unwrap();
            answer.lines().len() == nodes
        });
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// A field of each line, each once, in order.
    fn all(&self, field: &str) -> Vec<String> {
        let lines = self.lines();
        let mut all: Vec<_> = lines
            .iter()
            .map(|line| line[field].as_str().unwrap().to_owned())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: door.example\r\n");
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let length = body.len().to_string();
    let mut all = vec![("connection", "close"), ("content-length", &length)];
    all.extend(headers);
    let request = head(method, path, &all) + body;
    stream.write_all(request.as_bytes()).unwrap();
    let mut raw = String::new();
    stream.read_to_string(&mut raw).unwrap();
    let (head, body) = raw
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {raw:?}"));
    assert!(!head.contains("chunked"), "{head}");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// The token of an entry.
fn token(name: &str) -> String {
    format!("secret-of-{name}-0123456789")
}

fn bearer(name: &str) -> String {
    format!("Bearer {}", token(name))
}

fn sample(mesh: &str, node: &str, seq: i64) -> String {
    // Append time counts; its own time must not lie ahead of it.
    let time = BEGIN + seq * 1000;
    let rest = r#""packet_loss":1,"interval_s":60"#;
    format!(r#"{{"mesh_id":"{mesh}","node_id":"{node}","time":{time},"seq":{seq},{rest}}}"#)
}

fn outcome(mesh: &str, node: &str) -> String {
    let of = r#""log_id":"l","directive_id":"dir-1-x","generation":1,"kind":"healing""#;
    format!(r#"{{"mesh_id":"{mesh}","node_id":"{node}",{of},"result":"applied"}}"#)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        park_timeout(Duration::from_millis(20));
    }
}

const BEGIN: i64 = 1_767_225_600_000;

const PATIENCE: Duration = Duration::from_secs(60);

const INGEST: &str = "meshes = [\"alpha\"]\nrole = \"ingest\"";

const READ: &str = "meshes = [\"alpha\"]\nrole = \"read\"";

const OPERATE: &str = "meshes = [\"*\"]\nrole = \"operate\"";

const HEEDED: &str = "were read again";

#[test]
fn who_shows_no_token_comes_in_by_the_socket_only_and_a_role_may_what_it_says() {
    let home = Home::new("tokens-roles");
    home.configure(
        "",
        &[("agents", INGEST), ("reader", READ), ("owner", OPERATE)],
    );
    let house = home.run();
    for (authorization, words) in [
        (String::new(), "no token was shown"),
        (
            "Bearer secret-of-nobody-0123456789".into(),
            "not known here",
        ),
        (format!("Basic {}", token("owner")), "bears no token"),
        (token("owner"), "bears no token"),
        ("Bearer ".into(), "bears no token"),
    ] {
        for (method, path) in [
            ("GET", "/v1/nodes"),
            ("GET", "/"),
            ("GET", "/v1"),
            ("GET", "/metrics"),
            ("GET", "/nowhere"),
            ("POST", "/v1/metrics"),
            ("POST", "/v1/policy"),
        ] {
            let answer = house.ask(&authorization, method, path, &sample("alpha", "n", 1));
            assert_eq!(
                answer.status, 401,
                "{authorization} {method} {path}: {}",
                answer.body
            );
            let error = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(
                error.contains(words) && error.contains("[[token]]"),
                "{error}"
            );
            assert!(
                answer.head.contains("www-authenticate: bearer"),
                "{}",
                answer.head
            );
        }
        for path in ["/livez", "/readyz"] {
            assert_eq!(
                house.ask(&authorization, "GET", path, "").status,
                200,
                "{path}"
            );
        }
    }
    let inside = home.inside("GET", "/v1/log", "").unwrap();
    let log = inside.json();
    let metrics = log["topics"]
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["topic"] == "metrics");
    assert_eq!(metrics.unwrap()["end"], 0, "nothing of it was taken");

    let decides = ["/v1/policy", "/v1/approvals", "/v1/holds"];
    for (name, method, path, allowed) in [
        ("agents", "POST", "/v1/metrics", true),
        ("agents", "POST", "/v1/outcomes", true),
        ("agents", "GET", "/v1/directives", true),
        ("agents", "GET", "/v1", true),
        ("agents", "GET", "/v1/nodes", false),
        ("agents", "GET", "/v1/events", false),
        ("agents", "GET", "/metrics", false),
        ("agents", "POST", decides[0], false),
        ("reader", "GET", "/v1/nodes", true),
        ("reader", "GET", "/v1/directives", true),
        ("reader", "GET", "/", true),
        ("reader", "POST", "/v1/metrics", false),
        ("reader", "POST", "/v1/outcomes", false),
        ("reader", "POST", decides[0], false),
        ("reader", "POST", decides[1], false),
        ("reader", "POST", decides[2], false),
        ("reader", "GET", "/v1/log", false),
        ("owner", "POST", "/v1/metrics", true),
        ("owner", "POST", decides[0], true),
        ("owner", "POST", decides[1], true),
        ("owner", "POST", decides[2], true),
        ("owner", "GET", "/v1/log", true),
        ("owner", "GET", "/v1/events?mesh=", true),
    ] {
        let body = match path {
            "/v1/outcomes" => outcome("alpha", "n"),
            _ => sample("alpha", "n", 1),
        };
        let answer = house.by(name, method, path, &body);
        let forbidden = answer.status == 403;
        assert_eq!(
            forbidden, !allowed,
            "{name} {method} {path}: {}",
            answer.body
        );
        assert_ne!(answer.status, 401, "{name} {method} {path}");
        if forbidden {
            let error = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(
                error.contains(name) && error.contains("[[token]] entry"),
                "{error}"
            );
        }
    }
    // A page of a stranger gets nothing, whatever it shows.
    let headers = [
        ("authorization", &*bearer("owner")),
        ("origin", "https://evil.example"),
    ];
    let answer = exchange(house.connect(), "GET", "/v1/nodes", &headers, "");
    assert_eq!(answer.status, 403, "{}", answer.body);

    // Who did what stands in the log; with what, does not.
    let said = home.said();
    let lines: Vec<Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let wrote = |by: &str, route: &str, level: &str| {
        let is =
            |line: &&Value| line["by"] == by && line["route"] == route && line["level"] == level;
        lines.iter().filter(is).count()
    };
    assert_eq!(wrote("agents", "/v1/outcomes", "info"), 1, "{said}");
    assert_eq!(wrote("reader", "/v1/outcomes", "warn"), 1, "{said}");
    assert_eq!(wrote("agents", "/v1/metrics", "info"), 0, "{said}");
    assert!(!said.contains("secret-of-"), "{said}");
}

#[test]
fn who_decides_in_some_meshes_decides_nothing_in_others() {
    let home = Home::new("tokens-say");
    let of_alpha = "meshes = [\"alpha\"]\nrole = \"operate\"";
    home.configure("", &[("alice", of_alpha), ("owner", OPERATE)]);
    let house = home.run();
    let body = [sample("alpha", "a1", 1), sample("beta", "b1", 1)].join("\n");
    let answer = house.by("owner", "POST", "/v1/metrics", &body);
    assert_eq!(answer.json()["accepted"], 2, "{}", answer.body);
    house.settle(2);
    for (path, body, status) in [
        ("/v1/holds", r#"{"mesh_id":"beta"}"#, 403),
        ("/v1/holds", r#"{"mesh_id":"beta","node_id":"b1"}"#, 403),
        ("/v1/holds", r#"{"who":"b1"}"#, 403),
        ("/v1/holds", r#"{"all":true}"#, 403),
        ("/v1/holds", r#"{"who":"b2"}"#, 404),
        ("/v1/policy", "plan.cooldown_s = 9", 403),
        ("/v1/policy?mesh=beta", "plan.cooldown_s = 9", 403),
    ] {
        let answer = house.by("alice", "POST", path, body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        // What there is elsewhere they are not told.
        let named = answer.body.contains("beta") || answer.body.contains("b1");
        assert!(!named, "{path} {body}: {}", answer.body);
    }
    let held = house.by("alice", "POST", "/v1/holds", r#"{"who":"a1","for_s":60}"#);
    assert_eq!(held.status, 200, "{}", held.body);
    assert_eq!(held.json()["by"], "alice");
    let shown = house.by("alice", "GET", "/v1/policy", "");
    let meshes: Vec<Value> = shown
        .lines()
        .iter()
        .map(|line| line["mesh_id"].clone())
        .collect();
    assert_eq!(meshes, ["alpha"]);
    until("the hold is decided on, and no other", || {
        let events = house.by("owner", "GET", "/v1/events?type=HoldPlaced", "");
        let placed = events.lines();
        placed.len() == 1 && placed[0]["by"] == "alice" && placed[0]["mesh_id"] == "alpha"
    });
}

#[test]
fn a_token_of_some_meshes_sees_and_speaks_of_no_other() {
    let home = Home::new("tokens-meshes");
    let two = "meshes = [\"alpha\", \"gamma\"]\nrole = \"read\"";
    let own = format!("{INGEST}\nnode = \"a1\"");
    home.configure(
        "",
        &[
            ("reader", READ),
            ("two", two),
            ("agents", INGEST),
            ("a1", &own),
            ("owner", OPERATE),
        ],
    );
    let house = home.run();
    let all = [
        ("alpha", "a1"),
        ("alpha", "a2"),
        ("beta", "b1"),
        ("beta", "b2"),
        ("gamma", "g1"),
    ];
    let body: Vec<String> = all
        .iter()
        .map(|(mesh, node)| sample(mesh, node, 1))
        .collect();
    let answer = house.by("owner", "POST", "/v1/metrics", &body.join("\n"));
    assert_eq!(answer.json()["accepted"], 5, "{}", answer.body);
    house.settle(5);

    // Rows in files, of which the series are made, are a little behind.
    until("every node has its series", || {
        let page = house.by("owner", "GET", "/metrics", "").body;
        all.iter()
            .all(|(_, node)| page.contains(&format!("node=\"{node}\"")))
    });

    for (name, meshes) in [
        ("reader", &["alpha"][..]),
        ("two", &["alpha", "gamma"]),
        ("owner", &["alpha", "beta", "gamma"]),
    ] {
        for path in [
            "/v1/nodes",
            "/v1/cycles",
            "/v1/nodes?limit=4",
            "/v1/nodes?limit=3",
        ] {
            let answer = house.by(name, "GET", path, "");
            assert_eq!(answer.status, 200, "{}", answer.body);
            let seen = answer.all("mesh_id");
            let limited = name == "owner" && path.contains("limit");
            assert!(limited || seen == meshes, "{name} {path}: {seen:?}");
        }
        let graph = house.by(name, "GET", "/v1/topology", "").json();
        let nodes = graph["nodes"].as_array().unwrap();
        let of = |mesh: &str| {
            nodes
                .iter()
                .any(|node| node["properties"]["mesh_id"] == mesh)
        };
        let page = house.by(name, "GET", "/metrics", "").body;
        for (mesh, _) in all {
            let visible = meshes.contains(&mesh);
            assert_eq!(of(mesh), visible, "{name} {mesh}: {graph}");
            assert_eq!(
                page.contains(&format!("mesh=\"{mesh}\"")),
                visible,
                "{name} {mesh}"
            );
        }
    }
    for (path, words) in [
        ("/v1/nodes?mesh=beta", "beta"),
        ("/v1/events?mesh=beta", "beta"),
        ("/v1/events?mesh=", "\\\"\\\""),
        ("/v1/directives?mesh=beta&node=b1", "beta"),
        ("/v1/cycles?mesh=beta", "beta"),
        ("/v1/incidents?mesh=beta", "beta"),
        ("/v1/topology?mesh=beta", "beta"),
        ("/v1/nodes/beta/b1", "beta"),
        ("/v1/nodes/beta/b1/windows", "beta"),
        ("/v1/log", "all meshes"),
        ("/v1/log/metrics", "all meshes"),
        ("/v1/log/copies/plan", "all meshes"),
        ("/v1/log/copies/plan/1", "all meshes"),
    ] {
        for name in ["reader", "two"] {
            let answer = house.by(name, "GET", path, "");
            assert_eq!(answer.status, 403, "{name} {path}: {}", answer.body);
            assert!(
                answer.body.contains(words),
                "{name} {path}: {}",
                answer.body
            );
        }
    }
    assert_eq!(
        house.by("reader", "GET", "/v1/nodes/alpha/a1", "").status,
        200
    );

    // Each line by itself: what is one's own is taken.
    let body = [
        sample("alpha", "a1", 2),
        sample("beta", "b1", 2),
        sample("alpha", "a2", 2),
        "nonsense".to_owned(),
    ];
    for (name, accepted, rejected) in [
        (
            "a1",
            1,
            &["2 other_mesh mesh_id", "3 other_node node_id", "4 not_json"][..],
        ),
        ("agents", 2, &["2 other_mesh mesh_id", "4 not_json"]),
    ] {
        let answer = house.by(name, "POST", "/v1/metrics", &body.join("\n"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        check_taken(&answer, accepted, rejected);
    }
    let body = [
        outcome("alpha", "a2"),
        outcome("alpha", "a1"),
        outcome("beta", "a1"),
    ];
    let answer = house.by("a1", "POST", "/v1/outcomes", &body.join("\n"));
    check_taken(
        &answer,
        1,
        &["1 other_node node_id", "3 other_mesh mesh_id"],
    );
    let answer = house.by("a1", "POST", "/v1/metrics", &sample("beta", "b1", 3));
    check_taken(&answer, 0, &["1 other_mesh mesh_id"]);
}

/// So many lines were taken, and these not.
fn check_taken(answer: &Answer, accepted: usize, rejected: &[&str]) {
    let told = answer.json();
    assert_eq!(told["accepted"], accepted, "{told}");
    let got: Vec<String> = told["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            let word = |field: &str| line[field].as_str().unwrap_or_default();
            let text = format!("{} {} {}", line["line"], word("reason"), word("field"));
            text.trim_end().to_owned()
        })
        .collect();
    assert_eq!(got, rejected, "{told}");
}

/// Follows events; answers the reader once it is followed.
fn follow(house: &House<'_>, name: &str) -> BufReader<TcpStream> {
    let mut stream = house.connect();
    let authorization = bearer(name);
    let headers = [
        ("authorization", &*authorization),
        ("accept", "text/event-stream"),
        ("connection", "close"),
    ];
    stream
        .write_all(head("GET", "/v1/cycles", &headers).as_bytes())
        .unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("200"), "{line}");
    while !line.contains("retry:") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended");
    }
    lines
}

#[test]
fn a_sighup_takes_a_new_token_in_and_an_old_one_out_while_connections_go_on() {
    let home = Home::new("tokens-sighup");
    home.configure("", &[("old", READ), ("kept", READ), ("agents", INGEST)]);
    let house = home.run();
    let mut kept = house.connect();
    let mut on_it = |name: &str| {
        let headers = [("authorization", &*bearer(name)), ("content-length", "0")]
            .map(|(name, value)| (name, value.to_owned()));
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        kept.write_all(head("GET", "/v1", &headers).as_bytes())
            .unwrap();
        let mut lines = BufReader::new(&mut kept);
        let (mut status, mut length, mut line) = (String::new(), 0, String::new());
        lines.read_line(&mut status).unwrap();
        while line != "\r\n" {
            line.clear();
            assert!(
                lines.read_line(&mut line).unwrap() > 0,
                "the connection ended"
            );
            if let Some(bytes) = line.to_lowercase().strip_prefix("content-length: ") {
                length = bytes.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        status.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!((on_it("old"), on_it("kept"), on_it("new")), (200, 200, 401));
    let (mut of_old, mut of_kept) = (follow(&house, "old"), follow(&house, "kept"));

    // Something in it is wrong: all stays.
    home.configure("", &[("new", READ), ("kept", READ), ("agents", INGEST)]);
    home.file("new", &token("new"), 0o644);
    house.reread("what was not read again stays");
    assert!(home.said().contains("chmod 600"), "{}", home.said());
    assert_eq!((on_it("old"), on_it("kept"), on_it("new")), (200, 200, 401));

    home.file("new", &token("new"), 0o600);
    house.reread(HEEDED);
    assert_eq!((on_it("old"), on_it("kept"), on_it("new")), (401, 200, 200));
    // Whose token went follows no further; the other hears what comes.
    let (mut rest, begun) = (String::new(), Instant::now());
    while of_old.read_line(&mut rest).unwrap() > 0 {
        assert!(begun.elapsed() < PATIENCE / 2, "it follows on: {rest}");
    }
    assert!(!rest.contains("data:"), "{rest}");
    let answer = house.by("agents", "POST", "/v1/metrics", &sample("alpha", "n", 1));
    assert_eq!(answer.json()["accepted"], 1, "{}", answer.body);
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        assert!(of_kept.read_line(&mut line).unwrap() > 0, "it ended");
    }
    // Another token under the same name is another.
    home.file("kept", "another-0123456789abcdef", 0o600);
    house.reread(HEEDED);
    assert_eq!((on_it("kept"), on_it("new")), (401, 200));
    assert_eq!(
        house
            .ask("Bearer another-0123456789abcdef", "GET", "/v1", "")
            .status,
        200
    );
    // Without any entry, loopback is open again.
    home.configure("", &[]);
    house.reread(HEEDED);
    let answer = exchange(house.connect(), "GET", "/livez", &[], "");
    // By a name of its own the door is open only to who shows something.
    assert_eq!(answer.status, 403, "{}", answer.body);
}

#[test]
fn where_others_reach_the_door_its_last_token_is_not_taken_out() {
    let home = Home::new("tokens-last");
    home.configure("", &[("one", READ)]);
    let house = home.run_at("0.0.0.0:0");
    assert_eq!(house.ask("", "GET", "/v1/nodes", "").status, 401);
    // By the file alone the door would be on loopback: what counts is where it is.
    home.configure("", &[]);
    house.reread("what was not read again stays");
    assert!(home.said().contains("not loopback"), "{}", home.said());
    assert_eq!(house.ask("", "GET", "/v1/nodes", "").status, 401);
    assert_eq!(house.by("one", "GET", "/v1/nodes", "").status, 200);
}

#[test]
fn a_start_is_refused_where_others_would_come_in_or_read_a_token() {
    let home = Home::new("tokens-refused");
    home.configure("", &[]);
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let said = home.refused(&["--listen", listen]);
        assert!(
            said.contains("not loopback") && said.contains("[[token]]"),
            "{said}"
        );
    }
    home.configure("", &[("one", READ)]);
    for mode in [0o640, 0o604, 0o666] {
        home.file("one", &token("one"), mode);
        let said = home.refused(&["--listen", "0.0.0.0:0"]);
        let chmod = format!("chmod 600 {}", home.path("one"));
        assert!(
            said.contains(&chmod) && !said.contains("secret-of"),
            "{said}"
        );
    }
    home.file("one", "short", 0o600);
    let said = home.refused(&[]);
    assert!(
        said.contains("5 bytes") && said.contains("16 to 512"),
        "{said}"
    );
    fs::remove_file(home.path("one")).unwrap();
    let said = home.refused(&[]);
    assert!(said.contains("(token.file)"), "{said}");
    home.configure("", &[("one", READ), ("two", READ)]);
    home.file("two", &token("one"), 0o600);
    let said = home.refused(&[]);
    assert!(
        said.contains("\"one\" and \"two\" have the same token"),
        "{said}"
    );
    home.configure(
        "",
        &[("one", "meshes = [\"m\"]\nrole = \"read\"\nmesh = \"m\"")],
    );
    let said = home.refused(&[]);
    assert!(
        said.contains("token.mesh: unknown key, the nearest is token.meshes"),
        "{said}"
    );
}

/// Certificates by `openssl`; false where it is not there, which CI's machines may not be.
fn certify(home: &Home) -> bool {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "openssl is missing: .ci/need installs it"
        );
        eprintln!("SKIPPED: openssl is not here, so no certificates can be made");
        return false;
    }
    for ca in ["ca", "stranger"] {
        let subject = format!("/CN={ca}");
        let (key, pem) = (format!("{ca}.key"), format!("{ca}.pem"));
        openssl(
            home,
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
                "-subj",
                &subject,
                "-keyout",
                &key,
                "-out",
                &pem,
            ],
        );
    }
    for (name, ca, names) in [
        ("door", "ca", "DNS:door.example,IP:127.0.0.1"),
        ("second", "ca", "DNS:door.example,IP:127.0.0.1"),
        ("node", "ca", "DNS:a1.example"),
        ("wild", "ca", "DNS:*.example"),
        ("unnamed", "ca", "DNS:other.example"),
        ("forged", "stranger", "DNS:a1.example"),
    ] {
        let file = |end: &str| format!("{name}.{end}");
        let (ca_pem, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
        openssl(
            home,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=a1.example",
                "-keyout",
                &file("key"),
                "-out",
                &file("csr"),
            ],
        );
        home.file(&file("ext"), &format!("subjectAltName={names}\n"), 0o600);
        openssl(
            home,
            &[
                "x509",
                "-req",
                "-days",
                "30",
                "-in",
                &file("csr"),
                "-CA",
                &ca_pem,
                "-CAkey",
                &ca_key,
                "-CAcreateserial",
                "-extfile",
                &file("ext"),
                "-out",
                &file("pem"),
            ],
        );
        fs::set_permissions(home.path(&file("key")), fs::Permissions::from_mode(0o600)).unwrap();
    }
    true
}

fn openssl(home: &Home, args: &[&str]) {
    let made = Command::new("openssl")
        .args(args)
        .current_dir(&home.0)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// A connection over TLS that trusts our authority and shows this certificate, if any.
fn secure(house: &House<'_>, shown: Option<&str>) -> StreamOwned<ClientConnection, TcpStream> {
    let read = |name: String| CertificateDer::from_pem_file(house.home.path(&name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(read("ca.pem".into())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => config.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(house.home.path(&format!("{name}.key")));
            config
                .with_client_auth_cert(vec![read(format!("{name}.pem"))], key.unwrap())
                .unwrap()
        }
    };
    let name = ServerName::try_from("door.example").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, house.connect())
}

fn over_tls(house: &House<'_>, shown: Option<&str>, authorization: &str, path: &str) -> Answer {
    let headers = [("authorization", authorization)];
    exchange(secure(house, shown), "GET", path, &headers, "")
}

#[test]
fn over_tls_a_client_shows_a_token_or_a_certificate_that_an_entry_names() {
    let home = Home::new("tokens-tls");
    if !certify(&home) {
        return;
    }
    let web = |door: &str| {
        format!(
            "read_timeout_s = 3\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n\
             client_ca_file = \"{}\"",
            home.path(&format!("{door}.pem")),
            home.path(&format!("{door}.key")),
            home.path("ca.pem")
        )
    };
    let configure = |door: &str, named: &str| {
        home.configure(&web(door), &[("reader", READ)]);
        let entry = format!(
            "[[token]]\nname = \"node a1\"\ncertificate = \"{named}\"\n{INGEST}\nnode = \"a1\"\n"
        );
        let config = fs::read_to_string(home.path("homeostat.toml")).unwrap();
        fs::write(home.path("homeostat.toml"), config + &entry).unwrap();
    };
    configure("door", "A1.example");
    home.file(
        "door.key",
        &fs::read_to_string(home.path("door.key")).unwrap(),
        0o640,
    );
    let said = home.refused(&["--listen", "127.0.0.1:0"]);
    assert!(
        said.contains("chmod 600") && said.contains("door.key"),
        "{said}"
    );
    fs::set_permissions(home.path("door.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let house = home.run();

    assert_eq!(over_tls(&house, None, "", "/livez").status, 200);
    assert_eq!(over_tls(&house, None, "", "/v1").status, 401);
    assert_eq!(
        over_tls(&house, None, &bearer("reader"), "/v1/nodes").status,
        200
    );
    assert_eq!(
        over_tls(&house, Some("node"), "", "/v1/directives").status,
        200
    );
    assert_eq!(over_tls(&house, Some("node"), "", "/v1/nodes").status, 403);
    // A token says who it is, also beside a certificate.
    assert_eq!(
        over_tls(&house, Some("node"), &bearer("reader"), "/v1/nodes").status,
        200
    );
    assert_eq!(
        over_tls(&house, Some("node"), "Bearer wrong", "/v1/directives").status,
        401
    );
    // All have the common name of the one that is named: it counts for nothing, nor does a star.
    for shown in ["unnamed", "wild"] {
        let answer = over_tls(&house, Some(shown), "", "/v1/directives");
        assert_eq!(answer.status, 401, "{shown}: {}", answer.body);
    }
    let body = [sample("alpha", "a1", 1), sample("alpha", "a2", 1)].join("\n");
    let answer = exchange(
        secure(&house, Some("node")),
        "POST",
        "/v1/metrics",
        &[],
        &body,
    );
    check_taken(&answer, 1, &["2 other_node node_id"]);
    // One of a stranger's authority is no connection.
    let mut forged = secure(&house, Some("forged"));
    let request = head("GET", "/livez", &[("connection", "close")]);
    let sent = forged.write_all(request.as_bytes());
    let heard = sent.and_then(|()| forged.read(&mut [0; 16]));
    assert!(heard.is_err(), "{heard:?}");
    // Who speaks no TLS, or nothing at all, is let go.
    for said in [&b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"[..], b""] {
        let mut plain = house.connect();
        plain.write_all(said).unwrap();
        let mut answer = Vec::new();
        // However it ends, it ends.
        let _ = plain.read_to_end(&mut answer);
        assert!(
            !answer.starts_with(b"HTTP"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }

    // Another certificate, and another name in the entry, while a connection goes on.
    let of = |house: &House<'_>| {
        let mut stream = secure(house, None);
        stream
            .write_all(head("GET", "/livez", &[]).as_bytes())
            .unwrap();
        let chain = stream
            .conn
            .peer_certificates()
            .map(|chain| chain[0].clone().into_owned());
        (chain.unwrap(), stream)
    };
    let read = |name: &str| CertificateDer::from_pem_file(home.path(name)).unwrap();
    let (shown, mut before) = of(&house);
    assert_eq!(shown, read("door.pem"));
    configure("second", "other.example");
    house.reread(HEEDED);
    assert_eq!(of(&house).0, read("second.pem"));
    let mut answer = [0; 12];
    before.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(
        over_tls(&house, Some("node"), "", "/v1/directives").status,
        401
    );
    assert_eq!(
        over_tls(&house, Some("unnamed"), "", "/v1/directives").status,
        200
    );
    // TLS does not end while clients are there.
    home.configure("", &[("reader", READ)]);
    house.reread("TLS begins or ends with the next start only");
    assert_eq!(
        over_tls(&house, Some("unnamed"), "", "/v1/directives").status,
        200
    );
}

#[test]
fn an_agent_comes_over_tls_with_its_token_and_trusts_no_stranger() {
    let home = Home::new("tokens-agent");
    if !certify(&home) {
        return;
    }
    let own = format!("{INGEST}\nnode = \"a1\"");
    home.configure(
        &format!(
            "certificate_file = \"{}\"\nkey_file = \"{}\"",
            home.path("door.pem"),
            home.path("door.key")
        ),
        &[("a1", &own)],
    );
    let house = home.run();
    let url = format!("https://{}", house.address);
    let node = Home::new("tokens-agent-node");
    node.file("token", &token("nobody"), 0o600);
    let start = |ca: &str| {
        let agent = format!(
            "[agent]\nmesh = \"alpha\"\nnode = \"a1\"\ninterval_s = 1\ndiscover = false\n\
             token_file = \"{}\"\nca_file = \"{}\"\n",
            node.path("token"),
            home.path(ca)
        );
        fs::write(node.path("homeostat.toml"), agent).unwrap();
        let said = fs::File::create(node.path("stderr")).unwrap();
        let mut command = node.command(&["agent", "--server", &url]);
        Dies(command.stdout(Stdio::null()).stderr(said).spawn().unwrap())
    };
    let agent = start("stranger.pem");
    until("the agent trusts no stranger", || {
        node.said().contains("speaking TLS with")
    });
    drop(agent);
    let _agent = start("ca.pem");
    until("the agent is told that nobody knows it", || {
        node.said().contains("not known here")
    });
    assert!(
        home.inside("GET", "/v1/nodes", "")
            .unwrap()
            .lines()
            .is_empty()
    );
    // It keeps what it could not send, and reads its token anew.
    node.file("token", &token("a1"), 0o600);
    house.settle(1);
    let nodes = home.inside("GET", "/v1/nodes", "").unwrap();
    assert_eq!(nodes.all("node_id"), ["a1"]);
    assert!(!node.said().contains("secret-of"), "{}", node.said());
}

#[test]
fn the_doctor_says_that_tokens_go_in_the_clear() {
    let home = Home::new("tokens-check");
    home.configure("listen = \"0.0.0.0:1618\"", &[("reader", READ)]);
    let check = || {
        let output = home.command(&["check", "--json"]).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let found = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = found.into_iter().find(|found| found["check"] == "tokens");
        (output.status.code(), found.expect("it is looked at"))
    };
    let (code, found) = check();
    assert_eq!(
        (code, &found["verdict"]),
        (Some(1), &Value::from("wanting"))
    );
    assert!(
        found["words"].as_str().unwrap().contains("in the clear"),
        "{found}"
    );
    home.file("reader", &token("reader"), 0o644);
    let (code, found) = check();
    assert_eq!(code, Some(1), "{found}");
    assert!(
        found["words"].as_str().unwrap().contains("chmod 600"),
        "{found}"
    );
    home.configure("", &[("reader", READ)]);
    assert_eq!(check().1["verdict"], "ok");
}
