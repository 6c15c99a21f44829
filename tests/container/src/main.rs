//! `homeostat-test-container [key=value ...]`: Apache Kafka in a container, until standard input
//! ends; so it dies with the test that started it, however that dies.
//!
//! Prints the broker's address when it serves. Then a line in, a line out: `kill9`, `down` and `up`
//! are answered by `done` or by what went wrong.

use std::error::Error;
use std::io::{BufRead, Write};
use std::net::TcpListener;

use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::SyncRunner;
use testcontainers::{Container, GenericImage, ImageExt};

fn main() -> Result<(), Box<dyn Error>> {
    let port = free_port().ok_or("looking for a port: all of 15000 to 25000 are taken")?;
    let broker = start(port)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "127.0.0.1:{port}")?;
    for line in std::io::stdin().lock().lines() {
        let done = match line?.as_str() {
            "kill9" => broker.stop_with_timeout(Some(0)),
            "down" => broker.stop(),
            "up" => broker.start(),
            other => return Err(format!("{other:?}: expected kill9, down or up").into()),
        };
        match done {
            Ok(()) => writeln!(out, "done")?,
            Err(error) => writeln!(out, "{error}")?,
        }
    }
    Ok(())
}

/// The same settings as `scripts/kafka-broker`. The broker listens on the port that is mapped: it
/// speaks to itself at the address that it tells clients.
fn start(port: u16) -> Result<Container<GenericImage>, Box<dyn Error>> {
    let mut image = GenericImage::new("apache/kafka", VERSION)
        .with_wait_for(WaitFor::message_on_stdout("Kafka Server started"))
        .with_mapped_port(port, port.tcp())
        .with_env_var(
            "KAFKA_LISTENERS",
            format!("PLAINTEXT://:{port},CONTROLLER://:9093"),
        )
        .with_env_var(
            "KAFKA_ADVERTISED_LISTENERS",
            format!("PLAINTEXT://127.0.0.1:{port}"),
        );
    for (key, value) in SETTINGS {
        image = image.with_env_var(variable(key), *value);
    }
    for setting in std::env::args().skip(1) {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("{setting:?}: expected key=value"))?;
        image = image.with_env_var(variable(key), value);
    }
    Ok(image.start()?)
}

/// What the image calls a broker's setting.
fn variable(key: &str) -> String {
    format!("KAFKA_{}", key.to_ascii_uppercase().replace('.', "_"))
}

/// A port outside the kernel's range for outgoing connections: inside it, a client that keeps
/// calling a dead broker can be given the broker's port as its own and connect to itself.
fn free_port() -> Option<u16> {
    let first = std::process::id() % PORTS;
    (0..PORTS)
        .map(|step| 15_000 + ((first + step) % PORTS) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

const PORTS: u32 = 10_000;

/// As in `scripts/kafka-pom.xml`.
const VERSION: &str = "4.4.0";

const SETTINGS: &[(&str, &str)] = &[
    ("node.id", "1"),
    ("process.roles", "broker,controller"),
    ("controller.listener.names", "CONTROLLER"),
    (
        "listener.security.protocol.map",
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    ),
    ("controller.quorum.voters", "1@localhost:9093"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("broker.session.timeout.ms", "2000"),
    ("broker.heartbeat.interval.ms", "500"),
    (
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        "1000",
    ),
    ("group.min.session.timeout.ms", "1000"),
    ("log.retention.check.interval.ms", "5000"),
    ("auto.create.topics.enable", "false"),
];
