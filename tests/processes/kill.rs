//! A processor that is killed again and again under load decides what an undisturbed one decides.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use homeostat::runtime::Seed;
use serde_json::Value;

use crate::process::{Home, send, until};

/// Time is the sample's, so that two runs over the same samples are the same; little is flushed and
/// applied at a time, so that a kill finds everything half done.
const CONFIG: &str = "
[time]
source = \"sample\"
[agent]
enabled = false
[loop]
flush_records = 50
apply_ms = 20
[log]
min_free_mib = 1
write_buffer_mib = 16
[plan]
budget_percent = 40.0
";

#[test]
fn a_processor_that_is_killed_20_times_decides_what_another_does() {
    let seed = std::env::var("HOMEOSTAT_SEED").map_or(4, |text| text.parse().unwrap());
    println!("HOMEOSTAT_SEED={seed}");
    let posts = posts(&mut Seed(seed));
    let killed = killed_under_load(&posts, &mut Seed(!seed));
    let undisturbed = undisturbed(&posts);
    for topic in ["events", "directives", "cycles"] {
        let (killed, undisturbed) = (told(&killed, topic), told(&undisturbed, topic));
        let differs = killed.iter().zip(&undisturbed).position(|(a, b)| a != b);
        if let Some(i) = differs {
            panic!(
                "{topic} {i}: {}\n  undisturbed: {}",
                killed[i], undisturbed[i]
            );
        }
        assert_eq!(killed.len(), undisturbed.len(), "{topic}");
        assert!(killed.len() > 50, "{topic}: {} tell little", killed.len());
    }
    let sent: BTreeSet<&str> = posts.iter().flat_map(|post| post.lines()).collect();
    let replayed = killed.ask(&["replay", "--json"]);
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!(replayed["differences"], 0, "{replayed}");
    assert!(replayed["records"].as_u64().unwrap() >= sent.len() as u64);
}

/// Sends everything, again whenever it was not answered, while the processor is killed at moments
/// of the seed. Leaves the folder as the last one left it.
fn killed_under_load(posts: &[String], seed: &mut Seed) -> Home {
    let home = Home::new("kill", CONFIG);
    let socket = home.data().join("homeostat.sock");
    let mut kills = 0;
    let mut processor = home.run();
    let (mut at, mut again) = (0, 0);
    std::thread::scope(|scope| {
        let (done, next) = std::sync::mpsc::channel();
        let sender = scope.spawn(move || {
            for (i, post) in posts.iter().enumerate() {
                let mut tries = 0;
                until(Duration::from_secs(60), "a post is answered", || {
                    tries += 1;
                    let answer = send(&socket, "POST", "/v1/metrics", post.as_bytes().to_vec());
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            let answer: Value = serde_json::from_slice(&answer.body).unwrap();
                            assert_eq!(answer["rejected"], Value::Array(Vec::new()));
                            assert_eq!(answer["accepted"], post.lines().count());
                            true
                        }
                        Ok(answer) => {
                            assert_eq!(answer.status, 503, "{}", text(&answer.body));
                            false
                        }
                        Err(_) => false,
                    }
                });
                if done.send((i, tries)).is_err() {
                    return;
                }
            }
        });
        while !sender.is_finished() {
            // A moment is so many posts and some milliseconds on.
            let moment = at + 1 + seed.below(posts.len() as u64 / (KILLS + 8)) as usize;
            while at < moment
                && let Ok((i, tries)) = next.recv()
            {
                at = i + 1;
                again += tries - 1;
            }
            if kills < KILLS && !sender.is_finished() {
                std::thread::park_timeout(Duration::from_millis(seed.below(25)));
                processor.kill();
                processor = home.run();
                kills += 1;
            }
        }
    });
    assert_eq!(kills, KILLS, "the load lasted long enough");
    println!("{kills} kills, {again} posts sent again");
    processor.settle();
    assert!(processor.stop().success());
    home
}

fn undisturbed(posts: &[String]) -> Home {
    let home = Home::new("undisturbed", CONFIG);
    let processor = home.run();
    for post in posts {
        assert_eq!(processor.post(post).unwrap().status, 200);
    }
    processor.settle();
    assert!(processor.stop().success());
    home
}

/// What a topic tells, without what names the log or a place in it.
fn told(home: &Home, topic: &str) -> Vec<Value> {
    let lines = home.lines(&[topic, "--json"]);
    let parse = |line: String| {
        let mut value: Value = serde_json::from_str(&line).unwrap();
        forget_names(&mut value);
        value
    };
    lines.into_iter().map(parse).collect()
}

fn forget_names(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in NAMES {
                fields.remove(name);
            }
            fields.values_mut().for_each(forget_names);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_names),
        _ => {}
    }
}

/// Samples of some minutes of a fleet, a part of it ill at a time, in posts of a few lines.
fn posts(seed: &mut Seed) -> Vec<String> {
    let mut ill_until = [0; NODES];
    let (mut posts, mut post) = (Vec::new(), String::new());
    for round in 0..ROUNDS {
        for (node, ill_until) in ill_until.iter_mut().enumerate() {
            if round > 20 && seed.one_in(900) {
                *ill_until = round + 10 + seed.below(40) as i64;
            }
            if seed.one_in(150) {
                continue;
            }
            let ill = round < *ill_until;
            let (latency, loss) = if ill { (640.0, 15.0) } else { (40.0, 0.2) };
            let time = 1_767_225_600_000 + round * 10_000 + node as i64 * 100;
            writeln!(
                post,
                "{{\"mesh_id\":\"mesh-{}\",\"node_id\":\"node-{node}\",\"boot\":1,\"seq\":{},\
                 \"time\":{time},\"interval_s\":10,\"cpu_percent\":{},\"memory_percent\":50,\
                 \"mesh_connectivity\":6,\"latency_ms\":{},\"packet_loss\":{loss}}}",
                node % 2,
                round + 1,
                seed.between(20.0, 70.0),
                latency + seed.between(0.0, 30.0),
            )
            .unwrap();
            if post.lines().count() >= LINES {
                posts.push(std::mem::take(&mut post));
            }
        }
    }
    posts.extend(Some(post).filter(|post| !post.is_empty()));
    posts
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const KILLS: u64 = 20;

const NODES: usize = 24;

const ROUNDS: i64 = 600;

/// Samples in a post.
const LINES: usize = 16;

/// Fields that name a log, or something by its place in one.
const NAMES: [&str; 8] = [
    "cause",
    "log_id",
    "id",
    "incident_id",
    "directive_id",
    "origin",
    "audit_name",
    "subject",
];
