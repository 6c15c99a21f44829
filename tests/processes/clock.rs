//! A machine whose clock is stepped by hours while the loop runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Home, Processor, until};

const CONFIG: &str = "
[agent]
enabled = false
[loop]
tick_s = 1
[log]
min_free_mib = 1
[monitor]
interval_min_s = 1
max_future_s = 86400
";

/// Lets a process see another time of day (Debian's `faketime`).
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn sample(processor: &Processor, node: &str) {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let line = format!(
        "{{\"mesh_id\":\"m\",\"node_id\":\"{node}\",\"time\":{now},\"interval_s\":1,\
         \"packet_loss\":40,\"latency_ms\":900,\"cpu_percent\":50}}"
    );
    let answer = processor.post(&line).unwrap();
    assert_eq!(answer.status, 200);
}

fn events(home: &Home) -> Vec<Value> {
    let lines = home.lines(&["events", "--json", "--mesh", "m"]);
    let parse = |line: &String| serde_json::from_str(line).unwrap();
    lines.iter().map(parse).collect()
}

fn count(home: &Home, kind: &str) -> usize {
    events(home).iter().filter(|e| e["type"] == kind).count()
}

#[test]
fn a_clock_stepped_by_hours_neither_stops_time_nor_heals_anyone() {
    if !Path::new(LIBRARY).exists() {
        assert!(std::env::var_os("CI").is_none(), "CI must have {LIBRARY}");
        eprintln!("SKIPPED: {LIBRARY} is missing; `apt-get install faketime` brings it");
        return;
    }
    let home = Home::new("clock", CONFIG);
    let clock = home.0.join("clock");
    fs::write(&clock, "+0").unwrap();
    let seen = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let processor = home.run_seeing(&seen);
    let date = || {
        let answer = processor.get("/v1/log").unwrap();
        answer.date.unwrap().0
    };
    let honest = date();
    sample(&processor, "a");
    sample(&processor, "b");
    processor.settle();
    assert_eq!(count(&home, "NodeSeen"), 2);
    let ordered = count(&home, "DirectiveIssued");
    assert!(ordered > 0, "who is ill now is healed now");
    // Three hours on: everybody's readings are old, and nobody is silent for it.
    fs::write(&clock, "+3h").unwrap();
    for _ in 0..5 {
        sample(&processor, "a");
        sample(&processor, "b");
    }
    processor.settle();
    let ahead = date();
    assert!(
        ahead - honest > 3 * 3_500_000,
        "the log's time follows: {ahead} {honest}"
    );
    assert_eq!(count(&home, "NodeSilent"), 0, "{:?}", events(&home));
    assert_eq!(
        count(&home, "DirectiveIssued"),
        ordered,
        "evidence of hours ago orders nothing"
    );
    let blind = home.lines(&["events", "--json", "--mesh", "", "--type", "LoopBlind"]);
    assert_eq!(blind.len(), 1, "the gap is on record");
    // And back: time goes on, so who really falls silent is noticed.
    fs::write(&clock, "+0").unwrap();
    sample(&processor, "a");
    until(Duration::from_secs(60), "silence is noticed", || {
        count(&home, "NodeSilent") == 2
    });
    let times: Vec<String> = events(&home)
        .iter()
        .map(|event| event["time"].as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "time never goes back: {times:?}");
    assert!(date() >= ahead - 1000);
    assert!(processor.stop().success());
    let replayed = home.ask(&["replay"]);
    assert_eq!(replayed.status.code(), Some(0));
}
