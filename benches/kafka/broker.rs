//! Its own broker, from Kafka's jars: gone with this process, however that ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A running broker.
pub struct Broker {
    dir: PathBuf,
    /// `host:port`.
    pub address: String,
    /// Its process.
    pub pid: u32,
}

impl Broker {
    /// Starts one on an empty folder, with what a broker has by default where tests have less.
    pub fn start(dir: &Path) -> Self {
        let output = script()
            .args(["up", &dir.to_string_lossy(), &free_port().to_string()])
            .args([
                "broker.session.timeout.ms=9000",
                "broker.heartbeat.interval.ms=2000",
            ])
            .env("KAFKA_BROKER_JAVA_OPTS", "-Xms1g -Xmx1g")
            .env("KAFKA_BROKER_OWNER", std::process::id().to_string())
            .stderr(Stdio::inherit())
            .output()
            .expect("bash is there");
        assert!(output.status.success(), "the broker starts");
        let said = String::from_utf8(output.stdout).expect("text");
        let mut lines = said.lines();
        let mut line = || lines.next().expect("address and pid file");
        let address = line().to_owned();
        let pid = std::fs::read_to_string(line()).expect("the pid file");
        Broker {
            dir: dir.to_owned(),
            address,
            pid: pid.trim().parse().expect("a number"),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have died; its folder is ours.
        let _ = script()
            .args(["kill9", &self.dir.to_string_lossy()])
            .status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn script() -> Command {
    let mut command = Command::new("bash");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka-broker"));
    command
}

/// One below those that the system gives to clients: the script takes what it is told.
fn free_port() -> u16 {
    (15_000..32_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// CPU time of a process, all of its threads.
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux tells hundredths, whatever its own tick.
    Duration::from_millis(10 * ticks)
}
