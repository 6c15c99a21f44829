//! An agent and a door: what one sends and the other orders, while either goes away.
#![cfg(feature = "io")]

mod agent {
    pub mod door;
}

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use homeostat::agent::client::{Client, ClientError, Server};
use homeostat::agent::{AgentError, Way};
use homeostat::config::settings::{AgentSettings, ExecutorKind};
use homeostat::model::{
    Action, Cause, Directive, Healing, MeshId, NodeId, PolicyId, Route, Scaling, Time,
};
use homeostat::wire;
use serde_json::Value;
use tokio::sync::watch;

use agent::door::{Door, now_ms};

/// A folder for one test, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("homeostat-agent-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("door.sock")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An agent on a thread of its own, as `run` has it.
struct Agent {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    fn start(settings: &AgentSettings, scratch: &Scratch) -> Agent {
        let (stop, told) = watch::channel(false);
        let settings = settings.clone();
        let (server, dir) = (Server::Socket(scratch.socket()), scratch.path("data"));
        let thread = std::thread::spawn(move || {
            runtime().block_on(homeostat::agent::run(
                &settings,
                Way::Door(server),
                &dir,
                told,
            ))
        });
        Agent { stop, thread }
    }

    /// Tells it to stop and waits until it has.
    fn stop(self) -> Result<(), AgentError> {
        self.stop.send_replace(true);
        self.thread.join().unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn settings() -> AgentSettings {
    AgentSettings {
        mesh: "alpha".to_owned(),
        node: "n 1".to_owned(),
        interval_s: 0.25,
        discover: false,
        ..AgentSettings::default()
    }
}

fn with_programs(script: &str) -> AgentSettings {
    let program = ["sh", "-c", script].map(str::to_owned).to_vec();
    AgentSettings {
        // What it samples is not looked at.
        interval_s: 60.0,
        executor: ExecutorKind::Exec,
        exec: ["healing", "route_preference"]
            .map(|kind| (kind.to_owned(), program.clone()))
            .into(),
        exec_timeout_s: 1,
        ..settings()
    }
}

fn directive(log_id: &str, generation: i64, action: Action) -> Directive {
    Directive {
        id: format!("dir-{generation}"),
        log_id: log_id.to_owned(),
        mesh: MeshId::parse("alpha").unwrap(),
        node: NodeId::parse("n 1").unwrap(),
        generation,
        issued_at: Time(now_ms()),
        ttl_s: 60,
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

fn order(door: &Door, log_id: &str, generation: i64, action: Action) {
    door.order(wire::json::directive(&directive(
        log_id, generation, action,
    )));
}

const HEAL: Action = Action::Healing {
    level: Healing::Aggressive,
};
const ROUTE: Action = Action::RoutePreference {
    value: Route::LowLatency,
};

/// (generation, result) of the outcomes that arrived.
fn results(door: &Door) -> Vec<(i64, String)> {
    let seen = door.seen();
    let result = |outcome: &Value| {
        let result = outcome["result"].as_str().unwrap().to_owned();
        (outcome["generation"].as_i64().unwrap(), result)
    };
    seen.outcomes.iter().map(result).collect()
}

fn ended(generation: i64, result: &str) -> (i64, String) {
    (generation, result.to_owned())
}

#[test]
fn samples_come_numbered_with_what_was_measured_and_nothing_else() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let agent = Agent::start(&settings(), &scratch);
    door.wait("three samples", |seen| seen.samples.len() >= 3);
    agent.stop().unwrap();
    let samples = door.seen().samples;
    for (at, sample) in samples.iter().enumerate() {
        assert_eq!(sample["mesh_id"], "alpha");
        assert_eq!(sample["node_id"], "n 1");
        assert_eq!(sample["seq"], at + 1);
        assert_eq!(sample["boot"], samples[0]["boot"]);
        assert_eq!(sample["interval_s"], 0.25);
        let cpu = sample["cpu_percent"].as_f64().unwrap();
        let memory = sample["memory_percent"].as_f64().unwrap();
        assert!(
            (0.0..=100.0).contains(&cpu) && memory > 0.0 && memory < 100.0,
            "{sample}"
        );
        for missing in [
            "mesh_connectivity",
            "latency_ms",
            "packet_loss",
            "mttr_minutes",
        ] {
            assert!(sample.get(missing).is_none(), "{missing} in {sample}");
        }
        let line = sample.to_string();
        wire::sample_json::parse_sample(line.as_bytes()).unwrap();
    }
}

#[test]
fn what_was_sampled_while_the_door_was_away_comes_in_order_after() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let agent = Agent::start(&settings(), &scratch);
    door.wait("a sample", |seen| !seen.samples.is_empty());
    let before = door.close();
    let buffered = scratch.path("data/buffer");
    until("two samples in the buffer", || lines_in(&buffered) >= 2);
    agent.stop().unwrap();
    // The next agent has its predecessor's to send too, before its own.
    let agent = Agent::start(&settings(), &scratch);
    until("another sample in the buffer", || lines_in(&buffered) >= 4);
    let door = Door::open(&scratch.socket(), "log");
    door.wait("two boots", |seen| boots(&seen.samples) == 2);
    agent.stop().unwrap();
    let key = |s: &Value| (s["boot"].as_i64().unwrap(), s["seq"].as_i64().unwrap());
    let all: Vec<(i64, i64)> = before
        .samples
        .iter()
        .chain(&door.seen().samples)
        .map(key)
        .collect();
    let mut once = all.clone();
    once.sort_unstable();
    once.dedup();
    let mut in_order = all.clone();
    in_order.dedup();
    assert_eq!(in_order, once, "in order; only what was not answered twice");
    for pair in once.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        assert_eq!(pair[0].1 + 1, pair[1].1, "none is missing: {all:?}");
    }
}

#[test]
fn a_door_that_is_full_is_asked_again_and_nothing_is_lost() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    door.answer_with(429);
    let agent = Agent::start(&settings(), &scratch);
    door.wait("a try", |seen| seen.declined > 0);
    until("samples in the buffer", || {
        lines_in(&scratch.path("data/buffer")) >= 2
    });
    door.answer_with(200);
    door.wait("the samples", |seen| seen.samples.len() >= 2);
    agent.stop().unwrap();
    assert_eq!(door.seen().samples[0]["seq"], 1);
}

#[test]
fn a_full_buffer_loses_the_oldest() {
    let scratch = Scratch::new();
    let small = AgentSettings {
        buffer_kib: 1,
        ..settings()
    };
    let agent = Agent::start(&small, &scratch);
    let buffered = scratch.path("data/buffer");
    until("the first sample dropped", || {
        first_line_in(&buffered).is_some_and(|sample| sample["seq"] != 1)
    });
    let first = first_line_in(&buffered).unwrap()["seq"].as_i64().unwrap();
    let door = Door::open(&scratch.socket(), "log");
    door.wait("what is left", |seen| !seen.samples.is_empty());
    agent.stop().unwrap();
    let samples = door.seen().samples;
    assert!(samples[0]["seq"].as_i64().unwrap() >= first && first > 1);
}

#[test]
fn an_interval_is_obeyed_at_once_and_after_a_restart() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let slow = AgentSettings {
        interval_s: 3600.0,
        ..settings()
    };
    let agent = Agent::start(&slow, &scratch);
    door.wait("the first sample", |seen| seen.samples.len() == 1);
    order(
        &door,
        "log",
        1,
        Action::MonitoringInterval { interval_s: 1 },
    );
    door.wait("samples every second", |seen| {
        seen.samples
            .iter()
            .filter(|s| s["interval_s"] == 1.0)
            .count()
            >= 3
    });
    agent.stop().unwrap();
    assert_eq!(results(&door), [ended(1, "applied")]);
    let sampled = door.seen().samples.len();
    let agent = Agent::start(&slow, &scratch);
    door.wait("another sample", |seen| seen.samples.len() > sampled);
    agent.stop().unwrap();
    assert_eq!(door.seen().samples[sampled]["interval_s"], 1.0);
}

#[test]
fn programs_do_what_is_ordered_once_each_and_say_how_it_ended() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let ran = scratch.path("ran");
    let script = format!("echo x >> {}; echo seen; exit 3", ran.display());
    let agent = Agent::start(&with_programs(&script), &scratch);
    order(&door, "log", 1, HEAL);
    door.order("{\"id\":1}".to_owned());
    order(&door, "log", 1, HEAL);
    let scale = Action::Scaling {
        value: Scaling::Optimize,
    };
    order(&door, "log", 2, scale);
    // For another log, and too late.
    order(&door, "elsewhere", 3, HEAL);
    let mut late = directive("log", 4, ROUTE);
    late.issued_at = Time(now_ms() - 61_000);
    door.order(wire::json::directive(&late));
    order(&door, "log", 5, ROUTE);
    door.wait("the last outcome", |seen| {
        seen.outcomes.iter().any(|o| o["generation"] == 5)
    });
    agent.stop().unwrap();
    let refused = |generation| ended(generation, "refused");
    // The one that came twice is answered twice and done once.
    assert_eq!(
        results(&door),
        [refused(1), refused(1), refused(2), refused(5)]
    );
    assert_eq!(fs::read_to_string(&ran).unwrap(), "x\nx\n");
    let outcomes = door.seen().outcomes;
    assert_eq!(outcomes[0]["observed"], "seen");
    assert_eq!(outcomes[0]["directive_id"], "dir-1");
    for outcome in &outcomes {
        wire::json::decode_outcome(outcome.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn after_a_restart_of_the_door_it_resumes_behind_the_last_event() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let agent = Agent::start(&with_programs("exit 0"), &scratch);
    order(&door, "log", 1, HEAL);
    door.wait("an outcome", |seen| seen.outcomes.len() == 1);
    let before = door.close();
    assert!(
        before.follows[0].contains("mesh=alpha&node=n%201&since_ttl=1"),
        "{before:?}"
    );
    let door = Door::open(&scratch.socket(), "log");
    order(&door, "log", 1, HEAL);
    order(&door, "log", 2, HEAL);
    door.wait("the next outcome", |seen| !seen.outcomes.is_empty());
    agent.stop().unwrap();
    assert_eq!(results(&door), [ended(2, "applied")]);
    assert!(
        door.seen().follows[0].ends_with(" 0"),
        "{:?}",
        door.seen().follows
    );
}

#[test]
fn after_a_restart_of_the_agent_what_was_done_is_reported_and_not_repeated() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let ran = scratch.path("ran");
    let programs = with_programs(&format!("echo x >> {}", ran.display()));
    let agent = Agent::start(&programs, &scratch);
    order(&door, "log", 1, HEAL);
    door.wait("the outcome", |seen| seen.outcomes.len() == 1);
    agent.stop().unwrap();
    let agent = Agent::start(&programs, &scratch);
    door.wait("the outcome again", |seen| seen.outcomes.len() >= 3);
    agent.stop().unwrap();
    assert!(results(&door).iter().all(|end| *end == ended(1, "applied")));
    assert_eq!(fs::read_to_string(&ran).unwrap(), "x\n");
}

#[test]
fn another_log_has_its_own_generations_and_the_old_one_is_remembered() {
    let scratch = Scratch::new();
    let ran = scratch.path("ran");
    let programs = with_programs(&format!("echo x >> {}", ran.display()));
    let agent = Agent::start(&programs, &scratch);
    // When the first log comes back, what was done of it is reported at once, then to its order.
    for (log_id, generation, reports) in [("one", 7, 1), ("two", 3, 1), ("one", 7, 2)] {
        let door = Door::open(&scratch.socket(), log_id);
        order(&door, log_id, generation, HEAL);
        door.wait("the outcome", |seen| seen.outcomes.len() >= reports);
        let seen = door.close();
        assert_eq!(seen.outcomes[0]["log_id"], log_id);
        assert_eq!(seen.outcomes[0]["result"], "applied");
        // It did not resume where the other log's events ended.
        assert!(seen.follows[0].contains("since_ttl=1"), "{seen:?}");
    }
    agent.stop().unwrap();
    assert_eq!(
        fs::read_to_string(&ran).unwrap(),
        "x\nx\n",
        "the first is not done again"
    );
}

#[test]
fn where_time_is_the_samples_own_no_clock_says_that_an_order_is_over() {
    let scratch = Scratch::new();
    let door = Door::with_time(&scratch.socket(), "log", "sample");
    let agent = Agent::start(&with_programs("exit 0"), &scratch);
    let mut old = directive("log", 1, HEAL);
    old.issued_at = Time(1_000);
    door.order(wire::json::directive(&old));
    door.wait("the outcome", |seen| !seen.outcomes.is_empty());
    agent.stop().unwrap();
    assert_eq!(results(&door), [ended(1, "applied")]);
}

#[test]
fn one_agent_holds_a_folder() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let first = Agent::start(&settings(), &scratch);
    door.wait("a sample", |seen| !seen.samples.is_empty());
    let second = Agent::start(&settings(), &scratch);
    let error = second.thread.join().unwrap().unwrap_err();
    assert!(matches!(error, AgentError::Held { .. }), "{error}");
    first.stop().unwrap();
}

#[test]
fn a_program_is_cut_short_when_the_agent_stops() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let begun = scratch.path("begun");
    let mut long = with_programs(&format!("echo $$ > {}; sleep 100", begun.display()));
    long.exec_timeout_s = 100;
    let agent = Agent::start(&long, &scratch);
    order(&door, "log", 1, HEAL);
    until("it has begun", || {
        fs::read_to_string(&begun).is_ok_and(|t| t.ends_with('\n'))
    });
    agent.stop().unwrap();
    assert_eq!(results(&door), [ended(1, "unknown")]);
}

/// `homeostat agent` as a process, configured by a file.
fn command(scratch: &Scratch, script: &str) -> Command {
    let config = scratch.path("homeostat.toml");
    let toml = format!(
        "[agent]\ndiscover = false\nexec_timeout_s = 60\n\n\
         [agent.exec]\nhealing = [\"sh\", \"-c\", '''{script}''']\n"
    );
    fs::write(&config, toml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
    command
        .args([
            "agent",
            "--mesh",
            "alpha",
            "--node",
            "n 1",
            "--executor",
            "exec",
        ])
        .arg("--config")
        .arg(&config)
        .arg("--data")
        .arg(scratch.path("data"))
        .arg("--server")
        .arg(scratch.socket())
        .stderr(Stdio::null());
    command
}

/// `homeostat agent` running; killed when it is dropped, so that a test that fails leaves none.
struct Process(Child);

impl Process {
    fn start(scratch: &Scratch, script: &str) -> Process {
        Process(command(scratch, script).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_act_that_was_begun_before_a_kill_is_unknown_and_never_repeated() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let begun = scratch.path("begun");
    let script = format!("echo $$ >> {}; sleep 60", begun.display());
    let agent = Process::start(&scratch, &script);
    order(&door, "log", 1, HEAL);
    until("it has begun", || {
        fs::read_to_string(&begun).is_ok_and(|t| t.ends_with('\n'))
    });
    drop(agent);
    let pid = fs::read_to_string(&begun).unwrap();
    let group = format!("-{}", pid.trim());
    Command::new("kill")
        .args(["-9", "--", &group])
        .status()
        .unwrap();
    assert_eq!(results(&door), []);

    let mut agent = Process::start(&scratch, &script);
    door.wait("the outcome", |seen| seen.outcomes.len() >= 2);
    let ends = results(&door);
    assert!(
        ends.iter().all(|end| *end == ended(1, "unknown")),
        "{ends:?}"
    );
    assert_eq!(
        fs::read_to_string(&begun).unwrap(),
        pid,
        "it was begun once"
    );
    // Told to stop it ends by itself, with 0.
    let pid = agent.0.id().to_string();
    Command::new("kill").arg(&pid).status().unwrap();
    assert!(agent.0.wait().unwrap().success());
}

#[test]
fn killed_at_any_moment_it_does_everything_once() {
    let scratch = Scratch::new();
    let door = Door::open(&scratch.socket(), "log");
    let ran = scratch.path("ran");
    let script = format!("echo {{id}} >> {}", ran.display());
    for generation in 1..=10 {
        order(&door, "log", generation, HEAL);
        let agent = Process::start(&scratch, &script);
        // Seeded moments from before its first step to after its last.
        let moment = Instant::now() + Duration::from_millis((generation as u64 * 37) % 90);
        door.wait_until(moment);
        drop(agent);
    }
    let agent = Process::start(&scratch, &script);
    door.wait("an end of the last", |seen| {
        seen.outcomes.iter().any(|o| o["generation"] == 10)
    });
    drop(agent);
    let text = fs::read_to_string(&ran).unwrap_or_default();
    let mut once: Vec<&str> = text.lines().collect();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), text.lines().count(), "{text}");
    let applied = results(&door)
        .into_iter()
        .filter(|(_, result)| result == "applied");
    for (generation, _) in applied {
        assert!(
            text.contains(&format!("dir-{generation}\n")),
            "{generation} in {text}"
        );
    }
}

#[test]
fn the_command_says_what_it_cannot_do() {
    let scratch = Scratch::new();
    let check = |args: &[&str], words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
        let output = command
            .arg("agent")
            .args(args)
            .arg("--data")
            .arg(&scratch.0)
            .output();
        let output = output.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    };
    check(&[], "--server");
    check(
        &["--server", "/s", "--brokers", "k:9092"],
        "cannot be used with",
    );
    check(&["--server", "https://h"], "https://HOST:PORT");
    check(&["--server", "http://h"], "expected http://HOST:PORT");
    check(
        &["--server", "/s", "--executor", "bird"],
        "bird and ip are not there yet",
    );
    check(&["--server", "/s", "--mesh", ""], "1 to 255 bytes");
}

#[test]
fn the_client_says_on_whom_it_called_and_what_came() {
    let scratch = Scratch::new();
    let client = Client::new(Server::Socket(scratch.socket()), Duration::from_secs(5));
    runtime().block_on(async {
        let nobody = client
            .send("GET", "/v1/log", "", Vec::new())
            .await
            .unwrap_err();
        assert!(matches!(nobody, ClientError::Connect { .. }), "{nobody}");
        assert!(nobody.to_string().contains("door.sock"), "{nobody}");
        let door = Door::open(&scratch.socket(), "log");
        let answer = client.send("GET", "/v1/log", "", Vec::new()).await.unwrap();
        assert_eq!(answer.status, 200);
        let behind = now_ms() - answer.date.unwrap().0;
        assert!((0..5000).contains(&behind), "{behind}");
        let declined = client.stream("/no/such").await.unwrap_err();
        assert!(
            matches!(declined, ClientError::Declined { status: 404, .. }),
            "{declined}"
        );
        let mut pieces = client.stream("/v1/log").await.unwrap();
        assert!(pieces.next().await.unwrap().is_some());
        assert!(pieces.next().await.unwrap().is_none());
        door.order("first\nsecond".to_owned());
        let mut events = client.follow("/v1/directives", None).await.unwrap();
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(
            (event.id.as_str(), event.data.as_str()),
            ("0", "first\nsecond")
        );
    });
}

/// Waits for what nobody tells of: looked at again and again, within a minute.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn segments(buffer: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(buffer) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn lines_in(buffer: &Path) -> usize {
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default().lines().count();
    segments(buffer).iter().map(lines).sum()
}

fn first_line_in(buffer: &Path) -> Option<Value> {
    let text = fs::read_to_string(segments(buffer).first()?).ok()?;
    serde_json::from_str(text.lines().next()?).ok()
}

fn boots(samples: &[Value]) -> usize {
    let boots = samples.iter().map(|s| s["boot"].as_i64().unwrap());
    boots.collect::<std::collections::BTreeSet<i64>>().len()
}
