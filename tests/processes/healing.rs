//! The loop over a real host: its agent measures, is told what to do, does it once, reports.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Home, until};

/// A host whose only peer does not answer: lossy and isolated at once, so it is healed. What is
/// done is a line in a file.
fn config(home: &str, peer: SocketAddr) -> String {
    format!(
        "
[agent]
mesh = \"site\"
node = \"host\"
interval_s = 1.0
peers = [\"{peer}\"]
probes = 2
probe_timeout_ms = 100
executor = \"exec\"
[agent.exec]
healing = [\"sh\", \"-c\", \"echo {{id}} >> {home}/done; sleep 0.2\"]
route_preference = [\"true\"]
scaling = [\"true\"]
[log]
min_free_mib = 1
[plan]
cooldown_s = 0
help_s = 1
[monitor]
interval_min_s = 1
[symptoms]
critical_s = 2
"
    )
}

/// A port that answers no more: its queue is full and nobody takes from it. Kept by what is
/// returned with it.
fn deaf_port() -> (SocketAddr, impl Sized) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(1).unwrap()
    });
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue is short");
    }
    (address, (runtime, listener, waiting))
}

/// The events of a type.
fn events(home: &Home, kind: &str) -> Vec<Value> {
    home.lines(&["events", "--json", "--type", kind])
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_is_ordered_is_done_once_and_reported_through_kills_of_both_sides() {
    let home = Home::new("healing", "");
    let (peer, _deaf) = deaf_port();
    let text = config(&home.0.display().to_string(), peer);
    fs::write(home.0.join("homeostat.toml"), text).unwrap();
    let mut processor = home.run();
    let healed = |home: &Home| {
        events(home, "OutcomeReported")
            .iter()
            .filter(|event| event["kind"] == "healing")
            .count()
    };
    for round in 1..=4 {
        until(Duration::from_secs(60), "the host is healed again", || {
            healed(&home) >= round
        });
        // Each phase of the loop tells how long it took.
        let phases = || {
            let page = processor.get("/metrics").unwrap().body;
            let page = String::from_utf8(page).unwrap();
            ["monitor", "analyze", "plan", "execute", "knowledge"].map(|phase| {
                let name = format!("homeostat_phase_seconds_total{{phase=\"{phase}\"}} ");
                let value = page.lines().find_map(|line| line.strip_prefix(&name));
                value.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0)
            })
        };
        until(Duration::from_secs(10), "every phase took time", || {
            phases() == [true; 5]
        });
        processor.kill();
        processor = home.run();
    }
    assert!(processor.stop().success());
    let orders: Vec<Value> = events(&home, "DirectiveIssued");
    let healings: Vec<String> = orders
        .iter()
        .map(|event| &event["directive"])
        .filter(|directive| directive["action"]["kind"] == "healing")
        .map(|directive| directive["id"].as_str().unwrap().to_owned())
        .collect();
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    for id in fs::read_to_string(home.0.join("done")).unwrap().lines() {
        *done.entry(id.to_owned()).or_default() += 1;
    }
    assert!(done.len() >= 4, "{done:?}");
    for (id, times) in &done {
        assert_eq!(*times, 1, "{id} was done {times} times");
        assert!(healings.contains(id), "{id} was never ordered");
    }
    let replayed = home.ask(&["replay"]);
    assert_eq!(replayed.status.code(), Some(0));
}

#[test]
fn a_host_without_peers_is_left_alone() {
    let home = Home::new(
        "alone",
        "
[agent]
mesh = \"site\"
node = \"host\"
interval_s = 1.0
discover = false
[log]
min_free_mib = 1
[monitor]
interval_min_s = 1
",
    );
    let processor = home.run();
    until(Duration::from_secs(20), "some samples are folded", || {
        let answer = processor.get("/v1/log").unwrap();
        let log: Value = serde_json::from_slice(&answer.body).unwrap();
        log["topics"]
            .as_array()
            .unwrap()
            .iter()
            .any(|topic| topic["topic"] == "metrics" && topic["end"].as_i64() >= Some(5))
    });
    processor.settle();
    assert_eq!(events(&home, "DirectiveIssued"), Vec::<Value>::new());
    let nodes = home.lines(&["state", "--json"]);
    let node: Value = serde_json::from_str(&nodes[0]).unwrap();
    let symptoms = node["symptoms"].as_array().unwrap();
    for symptom in symptoms {
        assert!(
            ["idle", "cpu_saturated", "memory_saturated"].contains(&symptom.as_str().unwrap()),
            "nothing that was not measured: {node}"
        );
    }
}
