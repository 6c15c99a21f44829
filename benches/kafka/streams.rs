//! Kafka Streams doing our Analyze job, from `benches/kafka-streams`.

use std::path::Path;
use std::process::Command;

use super::broker::Broker;

/// Builds it in `dir` and lets it read `topic` up to so many events; answers its second half's
/// figures.
pub fn run(dir: &Path, broker: &Broker, topic: &str, events: u64) -> String {
    let built = Command::new("mvn")
        .args([
            "-q",
            "-B",
            "-f",
            POM,
            "compile",
            "dependency:copy-dependencies",
        ])
        .arg("-DincludeScope=runtime")
        .arg(format!("-DbuildDirectory={}", dir.display()))
        .arg(format!("-DoutputDirectory={}", dir.join("jars").display()))
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return "not measured: mvn cannot build it".to_owned();
    }
    let jars = dir.join("jars/*");
    let class_path = format!("{}:{}", dir.join("classes").display(), jars.display());
    let output = Command::new("java")
        .args(["-Xms1g", "-Xmx1g", "-cp", &class_path, "peer.AnalyzePeer"])
        .arg(format!("brokers={}", broker.address))
        .arg(format!("broker-pid={}", broker.pid))
        .arg(format!("in={topic}"))
        .arg(format!("out={topic}-out"))
        .arg(format!("app={topic}-peer"))
        .arg(format!("state-dir={}", dir.join("state").display()))
        .args(["commit-ms=100".to_owned(), format!("stop-after={events}")])
        .output()
        .expect("java is there");
    let said = String::from_utf8_lossy(&output.stdout);
    let said = said.lines().filter_map(|line| {
        let half = line.strip_prefix("second half: ");
        half.or_else(|| line.starts_with("processed ").then_some(line))
    });
    said.collect::<Vec<_>>().join("; ")
}

const POM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/kafka-streams/pom.xml");
