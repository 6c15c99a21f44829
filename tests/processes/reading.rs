//! Commands on a folder: through its holder, and by themselves once nobody holds it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Home, send, until};

const LIMIT: Duration = Duration::from_secs(30);

/// Readings of so many nodes, in rounds 10 s apart up to now; from the third on every fifth node is
/// ill.
fn samples(nodes: usize, rounds: i64) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_millis() as i64;
    let mut lines = String::new();
    for round in 0..rounds {
        for node in 0..nodes {
            let ill = round >= 2 && node.is_multiple_of(5);
            let (latency, loss) = if ill { (500, 12.0) } else { (60, 0.3) };
            let time = now - (rounds - round) * 10_000;
            let line = json!({
                "mesh_id": "alpha", "node_id": format!("n{node}"), "time": time, "interval_s": 10,
                "cpu_percent": 50, "memory_percent": 50, "mesh_connectivity": 12,
                "latency_ms": latency, "packet_loss": loss,
            });
            lines += &format!("{line}\n");
        }
    }
    lines
}

fn produce(home: &Home, lines: &str) -> Output {
    let mut child = home
        .command(&["produce", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    child.wait_with_output().unwrap()
}

fn sum(output: &Output) -> (i64, i64, Option<i32>) {
    let sum: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("no sum: {}", String::from_utf8_lossy(&output.stderr));
    });
    let count = |field: &str| sum[field].as_i64().unwrap();
    (count("accepted"), count("rejected"), output.status.code())
}

/// What of a node does not hang on when its row was last written.
fn settled(nodes: Vec<String>) -> Vec<Value> {
    let settled = nodes.iter().map(|line| {
        let mut node: Value = serde_json::from_str(line).unwrap();
        for field in ["phi", "last_seen", "time"] {
            node.as_object_mut().unwrap().remove(field);
        }
        node
    });
    settled.collect()
}

#[test]
fn a_folder_reads_the_same_through_its_holder_and_without_one() {
    let home = Home::new("read-both", "");
    let mut processor = home.run_with(&["--no-agent"]);
    assert_eq!(sum(&produce(&home, &samples(40, 4))), (160, 0, Some(0)));
    processor.settle();
    let topics: [&[&str]; 4] = [
        &["events", "--json", "--type", "DirectiveIssued"],
        &["directives", "--json"],
        &["cycles", "--json"],
        &["dlq", "list", "--json"],
    ];
    let held = topics.map(|args| home.lines(args));
    assert!(held[0].len() > 1 && held[1].len() == held[0].len() && held[2].len() >= 40);
    let state = settled(home.lines(&["state", "--json"]));
    assert_eq!(state.len(), 40);
    let order: Value = serde_json::from_str(&held[1][0]).unwrap();
    let id = order["id"].as_str().unwrap();
    let story = home.lines(&["explain", id]);
    assert!(
        story.iter().any(|line| line.contains("<- this")),
        "{story:?}"
    );
    let replayed = home.lines(&["replay", "--json"]);
    assert!(
        replayed[0].contains("\"differences\":0,\"not_judged\":0"),
        "{replayed:?}"
    );
    processor.kill();
    for (args, held) in topics.iter().zip(held) {
        let alone = home.lines(args);
        assert!(alone.starts_with(&held), "{args:?}");
    }
    let alone = settled(home.lines(&["state", "--json"]));
    assert_eq!(alone.len(), state.len());
    for (alone, held) in alone.iter().zip(&state) {
        assert_eq!(alone["node_id"], held["node_id"]);
    }
    let replayed = home.lines(&["replay", "--json"]);
    assert!(
        replayed[0].contains("\"differences\":0,\"not_judged\":0"),
        "{replayed:?}"
    );
    let again = home.lines(&["replay", "--events-only", "--json"]);
    assert!(again[0].contains("\"differences\":0"), "{again:?}");
}

#[test]
fn samples_are_taken_by_the_log_itself_when_nobody_holds_it() {
    let home = Home::new("read-produce", "");
    let bad = "{\"mesh_id\":\"a\"}\nnonsense\n\n";
    let output = produce(&home, &(samples(3, 1) + bad));
    assert_eq!(sum(&output), (3, 2, Some(1)));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    for fault in ["line 4: missing_field: node_id", "line 5: not_json"] {
        assert!(words.contains(fault), "{words}");
    }
    let processor = home.run_with(&["--no-agent"]);
    processor.settle();
    assert_eq!(home.lines(&["state", "--json"]).len(), 3);
    // The same through the holder.
    let output = produce(&home, &(samples(4, 1) + bad));
    assert_eq!(sum(&output), (4, 2, Some(1)));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    for fault in ["line 5: missing_field: node_id", "line 6: not_json"] {
        assert!(words.contains(fault), "{words}");
    }
    processor.settle();
    assert_eq!(home.lines(&["state", "--json"]).len(), 4);
}

#[test]
fn more_nodes_than_one_answer_holds_are_all_shown() {
    let home = Home::new("read-many", "");
    let processor = home.run_with(&["--no-agent"]);
    assert_eq!(
        sum(&produce(&home, &samples(10_030, 1))),
        (10_030, 0, Some(0))
    );
    processor.settle();
    let mut nodes = home.lines(&["state", "--json"]);
    assert_eq!(nodes.len(), 10_030);
    nodes.dedup();
    assert_eq!(nodes.len(), 10_030, "each once");
}

#[test]
fn who_follows_sees_what_comes() {
    let home = Home::new("read-follow", "");
    let _processor = home.run_with(&["--no-agent"]);
    let mut follower = home
        .command(&["events", "--follow", "--json", "--type", "NodeSeen"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    produce(&home, &samples(2, 1));
    let seen: Vec<Value> = lines
        .take(2)
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(
        (&seen[0]["node_id"], &seen[1]["node_id"]),
        (&json!("n0"), &json!("n1"))
    );
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn dead_letters_are_shown_and_sent_again() {
    let home = Home::new("read-dlq", "");
    let processor = home.run_with(&["--no-agent"]);
    let outcome = json!({
        "mesh_id": "alpha", "node_id": "n0", "log_id": "l", "directive_id": "dir-1-x",
        "generation": 1, "kind": "healing", "result": "applied",
    });
    let socket = home.data().join("homeostat.sock");
    let body = outcome.to_string().into_bytes();
    let answer = send(&socket, "POST", "/v1/outcomes", body).unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let listed = || -> Vec<Value> {
        let lines = home.lines(&["dlq", "list", "--json"]);
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    until(
        LIMIT,
        "the outcome of an unknown node is a dead letter",
        || listed().len() == 1,
    );
    let letter = &listed()[0];
    assert_eq!(
        (&letter["reason"], &letter["topic"], &letter["key"]),
        (
            &json!("unknown_node"),
            &json!("homeostat.metrics"),
            &json!("n0")
        )
    );
    let id = letter["id"].as_str().unwrap();
    let shown = home.lines(&["dlq", "show", id]).join("\n");
    assert!(
        shown.contains("unknown_node") && shown.contains("dir-1-x"),
        "{shown}"
    );
    let would = home.lines(&["dlq", "replay", "--dry-run"]);
    assert_eq!(would, [format!("{id}  would send  to /v1/outcomes")]);
    assert_eq!(listed().len(), 1, "nothing was sent");
    // Now the node is known: sent again it comes as far as Plan.
    produce(&home, &samples(1, 1));
    let sent = home.lines(&["dlq", "replay"]);
    assert_eq!(sent, [format!("{id}  sent  to /v1/outcomes")]);
    processor.settle();
    until(LIMIT, "what Plan says of another log's outcome", || {
        listed().len() == 2
    });
    let letter = &listed()[1];
    assert_eq!(letter["reason"], "foreign_log", "{letter}");
    let id = letter["id"].as_str().unwrap();
    let kept = home.lines(&["dlq", "replay", "--id", id]);
    assert!(
        kept[0].starts_with(&format!("{id}  not sent  it stood on Plan's")),
        "{kept:?}"
    );
    let replayed = home.lines(&["replay", "--json"]);
    assert!(replayed[0].contains("\"differences\":0"), "{replayed:?}");
}

/// A replay while samples pour in judges what was decided by then.
#[test]
fn a_live_folder_is_replayed_while_it_is_written() {
    let home = Home::new("read-live", "[log]\nfsync = \"group\"\n");
    let processor = home.run_with(&["--no-agent"]);
    let mut records = 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..6 {
                produce(&home, &samples(1000, 4));
            }
        });
        while !writer.is_finished() {
            let report: Value =
                serde_json::from_slice(&home.ask(&["replay", "--json"]).stdout).unwrap();
            assert_eq!(report["differences"], 0, "{report}");
            records = records.max(report["records"].as_i64().unwrap());
        }
    });
    processor.settle();
    let line = home.lines(&["replay", "--json"]);
    let report: Value = serde_json::from_str(&line[0]).unwrap();
    assert_eq!(report["differences"], 0, "{report}");
    assert!(records > 0 && report["records"].as_i64().unwrap() >= 24_000);
}
