//! People's say: every command once through the process that holds the folder, and once on a folder
//! that nobody holds.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::Home;

/// Records bear the samples' own time: a story of minutes is told at once.
const CONFIG: &str = "
[agent]
enabled = false
[log]
min_free_mib = 1
[time]
source = \"sample\"
";

const HEALTHY: &str = "\"cpu_percent\":40,\"memory_percent\":50,\"mesh_connectivity\":5,\
                       \"latency_ms\":60,\"packet_loss\":0";

const SATURATED: &str = "\"cpu_percent\":99,\"memory_percent\":97,\"mesh_connectivity\":5,\
                         \"latency_ms\":600,\"packet_loss\":0";

/// 2026-01-01T00:00:00Z, ms.
const BEGIN: i64 = 1_767_225_600_000;

/// A command's exit code, standard output and standard error.
fn say(home: &Home, args: &[&str]) -> (i32, String, String) {
    let output = home.ask(args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("no signal ends it");
    (code, text(output.stdout), text(output.stderr))
}

/// What a command that must be taken answers.
fn taken(home: &Home, args: &[&str]) -> Value {
    let (code, out, err) = say(home, &[args, &["--json"]].concat());
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

/// A command that must be refused with these words, on standard error.
fn refused(home: &Home, args: &[&str], words: &[&str]) {
    let (code, out, err) = say(home, args);
    assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: {word:?} in {err}");
    }
}

fn events(home: &Home, kind: &str) -> Vec<Value> {
    let all = home.lines(&["events", "--json", "--type", kind]);
    let read = |line: &String| serde_json::from_str(line).unwrap();
    // Those of no single mesh are shown when it is asked for.
    let of_all = home.lines(&["events", "--json", "--type", kind, "--mesh", ""]);
    all.iter().chain(&of_all).map(read).collect()
}

/// Samples of nodes every 10 s from a second of the story on.
fn samples(home: &Home, nodes: &[(&str, &str)], from_s: i64, to_s: i64, values: &str) {
    let mut lines = String::new();
    for s in (from_s..to_s).step_by(10) {
        for (mesh, node) in nodes {
            let time = BEGIN + s * 1000;
            lines += &format!(
                "{{\"mesh_id\":\"{mesh}\",\"node_id\":\"{node}\",\"time\":{time},\"seq\":{s},\
                 \"interval_s\":10,{values}}}\n"
            );
        }
    }
    let mut produce = home
        .command(&["produce"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    produce
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(produce.wait().unwrap().success());
}

const NODES: [(&str, &str); 3] = [("alpha", "n1"), ("alpha", "n2"), ("beta", "n1")];

/// The proposal that waits.
fn proposal(home: &Home) -> Option<String> {
    let withheld = events(home, "DirectiveWithheld");
    let found = withheld
        .iter()
        .rfind(|event| event["reason"] == "needs_approval")?;
    Some(found["id"].as_str().unwrap().to_owned())
}

fn scalings(home: &Home) -> usize {
    let issued = events(home, "DirectiveIssued");
    let scales = |event: &&Value| event["directive"]["action"]["kind"] == "scaling";
    issued.iter().filter(scales).count()
}

fn own_name() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn people_are_heard_through_the_holder() {
    let home = Home::new("say-held", CONFIG);
    let processor = home.run();
    samples(&home, &NODES, 0, 60, HEALTHY);
    processor.settle();

    refused(&home, &["hold", "n1"], &["alpha/n1", "beta/n1", "--node"]);
    refused(&home, &["hold", "n9"], &["n9", "near to it", "n1"]);
    refused(
        &home,
        &["hold", "--mesh", "alhpa"],
        &["alhpa", "mesh alpha"],
    );
    refused(&home, &["release", "alpha/n2"], &["nothing to release"]);

    let hold = ["hold", "alpha/n1", "--for", "2h", "--reason", "disk swap"];
    let answer = taken(&home, &hold);
    assert_eq!(answer["accepted"], 1);
    assert_eq!(
        (&answer["mesh_id"], &answer["node_id"]),
        (&"alpha".into(), &"n1".into())
    );
    assert_eq!(answer["by"], own_name());
    let reason = answer["reason"].as_str().unwrap().to_owned();
    assert_eq!(
        (reason.len(), answer["reason_salt"].as_str().unwrap().len()),
        (64, 64)
    );
    processor.settle();
    let placed = events(&home, "HoldPlaced");
    assert_eq!((placed.len(), &placed[0]["by"]), (1, &own_name().into()));
    assert_eq!(placed[0]["reason"], reason, "{placed:?}");
    assert!(!placed[0].to_string().contains("disk"), "{placed:?}");

    let again = taken(&home, &["hold", "alpha/n1", "--for", "1h"]);
    assert!(again["words"][0].as_str().unwrap().contains("held already"));
    let of_mesh = taken(&home, &["hold", "n2"]);
    assert!(
        of_mesh["words"][0]
            .as_str()
            .unwrap()
            .contains("until it is released")
    );
    assert_eq!(taken(&home, &["pause", "--for", "30m"])["mesh_id"], "");
    refused(
        &home,
        &["release", "beta"],
        &["nothing to release", "all meshes is held"],
    );
    let released = taken(&home, &["release", "--mesh", "alpha", "--node", "n1"]);
    assert!(
        released["words"]
            .to_string()
            .contains("all meshes is held too")
    );
    taken(&home, &["resume"]);
    refused(&home, &["resume"], &["nothing to release", "every mesh"]);
    taken(&home, &["release", "n2"]);
    processor.settle();
    assert_eq!(events(&home, "HoldReleased").len(), 3);
    assert!(
        home.lines(&["state"])
            .iter()
            .all(|line| !line.ends_with("held"))
    );

    samples(&home, &[("alpha", "n1")], 60, 120, SATURATED);
    processor.settle();
    let id = proposal(&home).expect("capacity costs money");
    refused(
        &home,
        &["approve", "wh-0-000000000000"],
        &["nothing waits", &id, "alpha/n1"],
    );
    assert_eq!(scalings(&home), 0);
    assert_eq!(taken(&home, &["approve", &id])["node_id"], "n1");
    processor.settle();
    assert_eq!(scalings(&home), 1);
    refused(&home, &["approve", &id], &["nothing waits"]);
    refused(&home, &["approve", &id, "--reject"], &["nothing waits"]);

    policies(&home, &mut || processor.settle());
    assert!(processor.stop().success());
    assert_eq!(home.ask(&["replay"]).status.code(), Some(0));
}

#[test]
fn people_are_heard_when_nobody_holds_the_folder() {
    let home = Home::new("say-own", CONFIG);
    refused_2(&home, &["pause"], "homeostat run");
    let processor = home.run();
    samples(&home, &NODES, 0, 60, HEALTHY);
    samples(&home, &[("alpha", "n1")], 60, 120, SATURATED);
    processor.settle();
    let id = proposal(&home).expect("capacity costs money");
    assert!(processor.stop().success());

    refused(&home, &["hold", "n1"], &["alpha/n1", "beta/n1"]);
    let (code, out, err) = say(&home, &["hold", "beta", "--reason", "moved"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("mesh beta is held until it is released") && out.contains("salt"));
    assert!(err.contains("at the next `homeostat run"), "{err}");
    assert!(events(&home, "HoldPlaced").is_empty(), "nobody decides");
    // What waits in the inbox counts.
    let again = taken(&home, &["hold", "beta"]);
    assert!(again["words"][0].as_str().unwrap().contains("held already"));
    refused(&home, &["approve", "wh-7-000000000000", "--reject"], &[&id]);
    taken(&home, &["approve", &id, "--reject"]);
    refused(&home, &["approve", &id], &["nothing waits"]);
    taken(&home, &["pause"]);
    taken(&home, &["resume"]);
    taken(&home, &["release", "beta"]);
    refused(&home, &["release", "beta"], &["nothing to release"]);
    policies(&home, &mut || {
        let processor = home.run();
        processor.settle();
        assert!(processor.stop().success());
    });
    assert_eq!(events(&home, "HoldPlaced").len(), 3);
    assert_eq!(events(&home, "HoldReleased").len(), 2);
    let answers = events(&home, "ApprovalRecorded");
    assert_eq!((answers.len(), &answers[0]["approved"]), (1, &false.into()));
    assert_eq!(scalings(&home), 0);
    assert!(home.lines(&["dlq", "list"]).is_empty());
}

fn refused_2(home: &Home, args: &[&str], words: &str) {
    let (code, out, err) = say(home, args);
    assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    assert!(err.contains(words), "{args:?}: {err}");
}

/// A policy is tried, applied for a mesh and for all, and shown.
fn policies(home: &Home, decide: &mut dyn FnMut()) {
    let file = |name: &str, text: &str| {
        let path = home.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let adopted = |home: &Home| events(home, "Adopted").len();
    let before = adopted(home);
    let bad = file("bad.toml", "[plan]\nhelp_s = 600\ncooldown_s = -1\n");
    let (code, out, err) = say(home, &["policy", "apply", &bad]);
    assert_eq!(code, 1, "{err}");
    assert!(
        out.contains("line 3: plan.cooldown_s: -1, expected 0 to 86400"),
        "{out}"
    );
    refused_2(home, &["policy", "apply", "no-such-file"], "no-such-file");
    let good = file("good.toml", "# calmer\n[plan]\ncooldown_s = 900\n");
    refused(
        home,
        &["policy", "apply", &good, "--mesh", "gamma"],
        &["gamma", "near to it"],
    );
    decide();
    assert_eq!(adopted(home), before, "nothing was sent");

    let answer = taken(home, &["policy", "apply", &good, "--mesh", "beta"]);
    assert_eq!(
        (&answer["accepted"], &answer["mesh_id"]),
        (&1.into(), &"beta".into())
    );
    decide();
    let again = taken(home, &["policy", "apply", &good, "--mesh", "beta"]);
    assert_eq!(again["accepted"], 0, "it is in force already");
    let shown = |mesh: &str| {
        let lines = home.lines(&["policy", "show", "--json", "--mesh", mesh]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        line
    };
    let of_beta = shown("beta");
    assert_eq!(of_beta["text"], "plan.cooldown_s = 900\n", "{of_beta}");
    let last = events(home, "Adopted");
    let last = last
        .iter()
        .rfind(|event| event["mesh_id"] == "beta")
        .unwrap();
    assert_eq!(of_beta["policy_id"], last["policy_id"]);
    assert_eq!(of_beta["policy_generation"], last["policy_generation"]);
    assert_ne!(shown("alpha")["text"], of_beta["text"]);

    let other = file("other.toml", "[plan]\ncooldown_s = 901\n");
    assert_eq!(taken(home, &["policy", "apply", &other])["mesh_id"], "");
    decide();
    for mesh in ["", "alpha", "beta"] {
        assert_eq!(shown(mesh)["text"], "plan.cooldown_s = 901\n", "{mesh}");
    }
    let nothing = file("nothing.toml", "plan.mode = \"shadow\"\n");
    let (code, _, err) = say(home, &["policy", "apply", &nothing, "--mesh", "alpha"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("withholds everything") && err.contains("over the last 72 h 0 min"),
        "{err}"
    );
    let (_, _, err) = say(
        home,
        &["policy", "apply", &nothing, "--mesh", "alpha", "--untried"],
    );
    assert!(!err.contains("withholds"), "{err}");
    let words = home.lines(&["policy", "show"]);
    assert!(
        words
            .iter()
            .any(|line| line.starts_with("mesh beta: policy "))
    );
    assert!(words.iter().any(|line| line == "  plan.cooldown_s = 901"));
    refused(
        home,
        &["policy", "show", "--mesh", "gamma"],
        &["alpha", "beta"],
    );
}
