//! A real broker for tests, one per test binary and shared by its tests: topics and groups are told
//! apart by a [`prefix`]. A test that kills its broker takes one of its [`own`].
//!
//! Which one: `HOMEOSTAT_TEST_KAFKA=host:port`; a container, when Docker answers
//! (`tests/container`); Apache Kafka from its Maven jars (`scripts/kafka-broker`: Java 17, Maven).
//! In CI it is a failure when none works; at a desk the test says what to install and passes
//! without having looked.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use std::thread;
use std::time::Duration;

/// A broker that this test binary may use; dead with it, however it dies.
pub struct Broker {
    address: String,
    runs: Runs,
}

enum Runs {
    /// Somebody's, not ours to kill.
    Elsewhere,
    /// A folder of the script's.
    In(PathBuf),
    Container(Mutex<Container>),
}

/// The broker of this test binary; none at a desk that cannot have one.
pub fn shared() -> Option<&'static Broker> {
    static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
    watch();
    let broker = SHARED.get_or_init(|| match std::env::var("HOMEOSTAT_TEST_KAFKA") {
        Ok(address) => Ok(Broker {
            address,
            runs: Runs::Elsewhere,
        }),
        Err(_) => Broker::start("shared", &[]),
    });
    broker.as_ref().map_err(|why| skip(why)).ok()
}

/// A broker of one test, with `settings` (`key=value`) over the script's: to be killed and started
/// again.
pub fn own(settings: &[&str]) -> Option<Broker> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    watch();
    let name = format!("own-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Broker::start(&name, settings)
        .map_err(|why| skip(&why))
        .ok()
}

/// First part of topics', groups' and transactions' names, of nobody else's.
pub fn prefix(name: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{count}.", std::process::id())
}

impl Broker {
    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills it as a crash would; its data stays.
    pub fn kill9(&self) {
        self.told("kill9");
    }

    /// Stops it in good order; its data stays.
    pub fn down(&self) {
        self.told("down");
    }

    /// Starts it again after [`kill9`](Broker::kill9) or [`down`](Broker::down): at the same
    /// address, on the same data.
    pub fn up(&self) {
        self.told("up");
    }

    fn told(&self, verb: &str) {
        let done = match &self.runs {
            Runs::Elsewhere => Err("only one's own broker is killed".to_owned()),
            Runs::In(dir) => script(&[verb, &dir.to_string_lossy()], &[]).map(|_| ()),
            Runs::Container(container) => container.lock().unwrap().told(verb),
        };
        done.unwrap_or_else(|why| panic!("{verb} {}: {why}", self.address));
    }

    fn start(name: &str, settings: &[&str]) -> Result<Broker, String> {
        if docker_answers() {
            match Container::start(settings) {
                Ok(broker) => return Ok(broker),
                Err(why) => aside(&format!("no container, so the script: {why}")),
            }
        }
        sweep();
        let dir = home(std::process::id()).join(name);
        fs::create_dir_all(&dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
        let said = script(&["up", &dir.to_string_lossy()], settings)?;
        let address = said.lines().next().unwrap_or_default().to_owned();
        Ok(Broker {
            address,
            runs: Runs::In(dir),
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Runs::In(dir) = &self.runs {
            // It may have been killed already.
            let _ = script(&["kill9", &dir.to_string_lossy()], &[]);
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// The program that has the container, for as long as we hold its standard input.
struct Container {
    program: Child,
    /// Given back to end it.
    tell: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Container {
    fn start(settings: &[&str]) -> Result<Broker, String> {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/container/Cargo.toml");
        let mut program = Command::new(env!("CARGO"))
            .args([
                "run",
                "--quiet",
                "--locked",
                "--manifest-path",
                manifest,
                "--",
            ])
            .args(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting cargo: {error}"))?;
        let mut container = Container {
            tell: program.stdin.take(),
            said: BufReader::new(program.stdout.take().expect("it was asked for")),
            program,
        };
        let address = container.heard()?;
        Ok(Broker {
            address,
            runs: Runs::Container(Mutex::new(container)),
        })
    }

    fn told(&mut self, verb: &str) -> Result<(), String> {
        let tell = self.tell.as_mut().expect("it is told until it is dropped");
        writeln!(tell, "{verb}").map_err(|error| error.to_string())?;
        match self.heard()?.as_str() {
            "done" => Ok(()),
            why => Err(why.to_owned()),
        }
    }

    fn heard(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.said.read_line(&mut line) {
            Ok(0) => Err("tests/container ended; what it said stands above".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.tell = None;
        let _ = self.program.wait();
    }
}

/// Whether there is a Docker to start containers with.
fn docker_answers() -> bool {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = host
        .strip_prefix("unix://")
        .unwrap_or(match host.is_empty() {
            true => "/var/run/docker.sock",
            false => return true,
        });
    UnixStream::connect(socket).is_ok()
}

/// What the script prints.
fn script(args: &[&str], more: &[&str]) -> Result<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka-broker");
    let output = Command::new(path)
        .args(args)
        .args(more)
        .env("KAFKA_BROKER_OWNER", std::process::id().to_string())
        .output()
        .map_err(|error| format!("starting {path}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Ends a test binary that hangs: who waits for a client library that never answers would wait for
/// ever, and so would CI.
fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        thread::spawn(|| {
            thread::park_timeout(BINARY_MAX);
            aside(&format!(
                "a test of this binary hangs: not done within {BINARY_MAX:?}"
            ));
            std::process::abort();
        });
    });
}

/// How long a test binary with a broker may take: several times what the longest needs.
const BINARY_MAX: Duration = Duration::from_secs(25 * 60);

/// Says that a test looks at nothing, past the test's captured output.
fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must have a broker: {why}"
    );
    aside(&format!(
        "SKIPPED, no Kafka to test with: {why}\n  install a Java 17 runtime and Maven (Debian: \
         openjdk-17-jre-headless maven), start Docker, or set HOMEOSTAT_TEST_KAFKA=host:port"
    ));
}

/// Says something past the captured output of a test.
fn aside(words: &str) {
    let _ = writeln!(std::io::stderr(), "\n{words}\n");
}

/// Where the brokers of a test binary lie.
fn home(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{HOME}{pid}"))
}

/// Removes what test binaries that are gone have left: a broker that all tests share is dropped by
/// nobody.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix(HOME)
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const HOME: &str = "homeostat-kafka-";

// Every test binary takes its part of this; named here, the rest of it is not dead.
const _: (
    fn() -> Option<&'static Broker>,
    fn(&[&str]) -> Option<Broker>,
    fn(&str) -> String,
    fn(&Broker),
    fn(&Broker),
    fn(&Broker),
    fn(&Broker) -> &str,
) = (
    shared,
    own,
    prefix,
    Broker::kill9,
    Broker::down,
    Broker::up,
    Broker::address,
);
