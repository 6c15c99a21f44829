//! A real broker for tests, one per test binary and shared by its tests: topics and groups are told
//! apart by a [`prefix`]. A test that kills its broker takes one of its [`own`].
//!
//! Which one: `HOMEOSTAT_TEST_KAFKA=host:port`, else Apache Kafka from its Maven jars
//! (`scripts/kafka-broker`: Java 17, Maven). In CI it is a failure when none works; at a desk the
//! test says what to install and passes without having looked.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A broker that this test binary may use; dead with it, however it dies.
pub struct Broker {
    address: String,
    /// Where it lies, if it is ours to kill.
    dir: Option<PathBuf>,
}

/// The broker of this test binary; none at a desk that cannot have one.
pub fn shared() -> Option<&'static Broker> {
    static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
    let broker = SHARED.get_or_init(|| match std::env::var("HOMEOSTAT_TEST_KAFKA") {
        Ok(address) => Ok(Broker { address, dir: None }),
        Err(_) => Broker::start("shared", &[]),
    });
    broker.as_ref().map_err(|why| skip(why)).ok()
}

/// A broker of one test, with `settings` (`key=value`) over the script's: to be killed and started
/// again.
pub fn own(settings: &[&str]) -> Option<Broker> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
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
        script(&["kill9", self.place()], &[]).expect("the broker runs");
    }

    /// Stops it in good order; its data stays.
    pub fn down(&self) {
        script(&["down", self.place()], &[]).expect("the broker stops");
    }

    /// Starts it again after [`kill9`](Broker::kill9) or [`down`](Broker::down): at the same
    /// address, on the same data.
    pub fn up(&self) {
        let said = script(&["up", self.place()], &[]).expect("the broker starts again");
        assert_eq!(said.lines().next(), Some(self.address.as_str()));
    }

    /// Its process, to be stopped and continued.
    pub fn pid(&self) -> u32 {
        let file = Path::new(self.place()).join("pid");
        let text = fs::read_to_string(file).expect("the broker runs");
        text.trim().parse().expect("a pid")
    }

    fn start(name: &str, settings: &[&str]) -> Result<Broker, String> {
        sweep();
        let dir = home(std::process::id()).join(name);
        fs::create_dir_all(&dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
        let said = script(&["up", &dir.to_string_lossy()], settings)?;
        let address = said.lines().next().unwrap_or_default().to_owned();
        Ok(Broker {
            address,
            dir: Some(dir),
        })
    }

    fn place(&self) -> &str {
        let dir = self.dir.as_ref().expect("only one's own broker is killed");
        dir.to_str().expect("our folders' names are plain")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // It may have been killed already.
            let _ = script(&["kill9", self.place()], &[]);
            let _ = fs::remove_dir_all(dir);
        }
    }
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

/// Says that a test looks at nothing, past the test's captured output.
fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must have a broker: {why}"
    );
    let _ = writeln!(
        std::io::stderr(),
        "\nSKIPPED, no Kafka to test with: {why}\n  install a Java 17 runtime and Maven (Debian: \
         openjdk-17-jre-headless maven), or set HOMEOSTAT_TEST_KAFKA=host:port\n"
    );
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
    fn(&Broker) -> u32,
    fn(&Broker) -> &str,
) = (
    shared,
    own,
    prefix,
    Broker::kill9,
    Broker::down,
    Broker::up,
    Broker::pid,
    Broker::address,
);
