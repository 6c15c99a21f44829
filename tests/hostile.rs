//! Nothing that anyone sends stops the loop: it is answered, or it becomes a dead letter with its
//! reason, and what comes next is folded as if it had never been.
//!
//! A failure names its seed; `HOMEOSTAT_SEED=<seed> cargo test --test hostile` repeats that one.

use std::io::{BufReader, Write};
use std::process::{Command, Stdio};
use std::rc::Rc;

use homeostat::cli::assess::assess;
use homeostat::model::*;
use homeostat::runtime::{Record, Task, TimeSource, TopicPartition};
use homeostat::sim::Seed;
use homeostat::stream::{Alarms, At, Base, Fold, NoBase, Output, Reject, Topic};
use homeostat::topology::analyze::AnalyzeFold;
use homeostat::topology::plan::PlanFold;
use homeostat::topology::straight::{Left, Straight};
use homeostat::wire;

mod records;
use records::*;

const WELL: &str =
    r#""cpu_percent":40,"memory_percent":50,"mesh_connectivity":5,"latency_ms":60,"packet_loss":0"#;

fn reason(left: &Left) -> String {
    let reason = left.headers.iter().find(|(name, _)| name == "reason");
    String::from_utf8(reason.expect("a dead letter has a reason").1.clone()).unwrap()
}

fn dead(left: &[Left]) -> Vec<String> {
    let letters = left.iter().filter(|l| l.topic == Topic::DeadLetters);
    letters.map(reason).collect()
}

/// A sample that every loop takes; whether this one still does.
fn still_goes_on(straight: &mut Straight, n: i64) -> bool {
    let name = format!("witness-{n}");
    let now = straight.now().0;
    let line = format!(r#"{{"mesh_id":"witness","node_id":"{name}","time":{now},{WELL}}}"#);
    let left = straight.append(Topic::Metrics, name.as_bytes(), line.into_bytes());
    Straight::events(&left)
        .iter()
        .any(|event| matches!(&event.body, Body::NodeSeen { node, .. } if node.as_str() == name))
}

/// One line of 1 GiB through the binary, and a good one after it; the process stays small.
#[test]
fn a_line_of_one_gibibyte_is_refused_in_little_memory() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .arg("assess")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built for this test");
    let mut input = child.stdin.take().unwrap();
    let chunk = vec![b'{'; 1 << 20];
    for _ in 0..1024 {
        input.write_all(&chunk).unwrap();
    }
    let peak_kib = std::fs::read_to_string(format!("/proc/{}/status", child.id()))
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
    input.write_all(b"\n{\"time\":0}\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], r#"{"rejected":{"line":1,"reason":"not_json"}}"#);
    assert!(
        lines[1].contains("\"seq\":1") && lines.len() == 2,
        "{lines:?}"
    );
    assert!(output.status.success());
    assert!(
        peak_kib.is_none_or(|peak| peak < 64 * 1024),
        "{peak_kib:?} KiB"
    );
}

#[test]
fn a_hundred_thousand_unknown_nodes_are_each_answered() {
    let mut input = String::new();
    for n in 0..100_000 {
        input += &format!("{{\"node_id\":\"n{n}\",\"time\":0}}\n");
    }
    let mut output = Vec::new();
    let policy = Policy::default();
    assess(BufReader::new(input.as_bytes()), &mut output, &policy).unwrap();
    let lines = output.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    assert_eq!(lines.count(), 100_000);
}

#[test]
fn a_hundred_thousand_unknown_nodes_do_not_stop_the_loop() {
    let mut straight = Straight::new("hostile", Time(START));
    let mut seen = 0;
    for n in 0..100_000 {
        let line = format!(r#"{{"mesh_id":"flood","node_id":"n{n}","time":{START}}}"#);
        let left = straight.append(Topic::Metrics, b"", line.into_bytes());
        seen += usize::from(left.iter().any(|l| l.topic == Topic::Events));
    }
    assert_eq!(seen, 100_000);
    for n in 0..1000 {
        let unknown = Outcome {
            mesh: mesh("flood"),
            node: node(&format!("unknown-{n}")),
            log_id: "hostile".into(),
            directive_id: "dir-1".into(),
            generation: 1,
            kind: Kind::Healing,
            result: OutcomeResult::Applied,
            observed: None,
        };
        assert_eq!(dead(&report(&mut straight, &unknown)), ["unknown_node"]);
    }
    assert!(still_goes_on(&mut straight, 1));
}

/// Names as JSON text, and what they must be called from then on.
#[test]
fn names_of_any_bytes_keep_them_all_the_way_to_the_agent() {
    let long = "é".repeat(127) + "x";
    let cases: [(&str, &str); 9] = [
        ("\\u0000", "\0"),
        ("\\u0001\\u001f\\u007f", "\u{1}\u{1f}\u{7f}"),
        ("a\\\"b\\\\c\\/d", "a\"b\\c/d"),
        ("\\r\\n\\t", "\r\n\t"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("\\ud83d\\ude00", "\u{1f600}"),
        ("\u{202e}txt", "\u{202e}txt"),
        (" ", " "),
        (&long, &long),
    ];
    for (given, called) in cases {
        let mut straight = Straight::new("hostile", Time(START));
        let mut left = Vec::new();
        for _ in 0..4 {
            let now = straight.now();
            let line = format!(
                r#"{{"mesh_id":"{given}","node_id":"{given}","time":{},"interval_s":10,{}}}"#,
                now.0,
                WELL.replace("packet_loss\":0", "packet_loss\":15")
            );
            left.extend(straight.append(Topic::Metrics, called.as_bytes(), line.into_bytes()));
            let to = now + Span::seconds(10);
            left.extend(straight.advance_to(to).into_iter().map(|(_, left)| left));
        }
        assert_eq!(dead(&left), [""; 0], "{given}");
        let told: Vec<Directive> = left
            .iter()
            .filter(|l| l.topic == Topic::Directives)
            .map(|l| wire::decode_directive(&l.value).unwrap())
            .collect();
        let healed = told.iter().find(|d| d.action.kind() == Kind::Healing);
        let healed = healed.unwrap_or_else(|| panic!("{given}: {told:?}"));
        assert_eq!(healed.node.as_str(), called);
        assert_eq!(healed.mesh.as_str(), called);
    }
}

#[test]
fn names_that_are_none_are_refused_by_their_reason() {
    let check = |line: &[u8], expected: &str| {
        let mut straight = Straight::new("hostile", Time(START));
        let left = straight.append(Topic::Metrics, b"", line.to_vec());
        assert_eq!(dead(&left), [expected], "{}", String::from_utf8_lossy(line));
        assert!(still_goes_on(&mut straight, 1));
    };
    let named = |name: &str| format!(r#"{{"node_id":{name},"time":{START}}}"#).into_bytes();
    check(&named("\"\""), "out_of_range");
    check(&named(&format!("\"{}\"", "n".repeat(256))), "out_of_range");
    check(&named("7"), "wrong_type");
    check(&named("\"\\ud800\""), "not_json");
    check(b"{\"node_id\":\"\xff\xfe\",\"time\":0}", "not_json");
    check(b"{\"node_id\":\"\0\",\"time\":0}", "not_json");
}

#[test]
fn garbage_on_either_inbox_is_a_dead_letter_and_the_loop_goes_on() {
    let mut seed = Seed(618);
    let mut straight = Straight::new("hostile", Time(START));
    let mut n = 0;
    for topic in [Topic::Metrics, Topic::PlanInbox] {
        for i in 0..2000 {
            let length = 1 + seed.below(200) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| seed.draw() as u8).collect();
            if seed.one_in(2) {
                bytes.splice(..0, [0xC3, 0x01]);
            }
            let given = bytes.clone();
            let left = straight.append(topic, b"key", bytes);
            let letters: Vec<_> = left
                .iter()
                .filter(|l| l.topic == Topic::DeadLetters)
                .collect();
            assert_eq!(letters.len(), 1, "{topic:?} {i}: {given:02x?}");
            assert_eq!(letters[0].value, given, "the original bytes");
            assert_ne!(reason(letters[0]), "panic", "{topic:?} {i}: {given:02x?}");
        }
        n += 1;
        assert!(still_goes_on(&mut straight, n));
    }
}

/// Analyze, but it panics at a sample of a node called `poison` after it has changed its rows.
struct Fragile(AnalyzeFold);

impl Fold for Fragile {
    fn own_key(&self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        self.0.own_key(key, value)
    }
    fn record(
        &mut self,
        at: &At,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        self.0.record(at, key, value, out)?;
        assert!(key != b"poison", "a bug in a fold");
        Ok(())
    }
    fn hears(&self) -> bool {
        self.0.hears()
    }
    fn blind(&mut self, at: &At, from: Time, out: &mut Vec<Output>) {
        self.0.blind(at, from, out);
    }
    fn alarms(&mut self) -> &mut Alarms {
        self.0.alarms()
    }
    fn wake_at(&self, at: &At, key: &[u8]) -> Option<Time> {
        self.0.wake_at(at, key)
    }
    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
        self.0.alarm(at, key, out);
    }
    fn begin(&mut self) {
        self.0.begin();
    }
    fn accept(&mut self) {
        self.0.accept();
    }
    fn rollback(&mut self) {
        self.0.rollback();
    }
    fn evolve(&mut self, value: &[u8]) -> Result<(), Reject> {
        self.0.evolve(value)
    }
    fn changed(&self) -> usize {
        self.0.changed()
    }

    fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.0.drain()
    }
}

#[test]
fn a_panic_in_a_fold_costs_its_record_and_nothing_else() {
    let inbox = TopicPartition {
        topic: Topic::Metrics,
        partition: 0,
    };
    let told = |poisoned: bool| {
        let base: Rc<dyn Base> = Rc::new(NoBase);
        let fold = Box::new(Fragile(AnalyzeFold::new(&base)));
        let mut task = Task::new(inbox, "homeostat.", TimeSource::Log, fold, None);
        let (mut said, mut letters) = (Vec::new(), Vec::new());
        for offset in 0..40_i64 {
            let now = Time(START) + Span::seconds(offset * 2);
            let node = ["n1", "n2", "n3", "n1"][offset as usize % 4];
            // The poison is a reading of a node that is known, far from healthy.
            let poison = offset % 8 == 3;
            let values = metrics(&[(Metric::PacketLoss, if poison { 90.0 } else { 0.5 })]);
            let sample = sample("alpha", node, offset + 1, now.0, 10.0, values);
            let value = match poison && !poisoned {
                true => Vec::new(),
                false => wire::encode_sample(&sample),
            };
            let key = if poison { "poison" } else { node };
            let record = Record {
                offset,
                time: now,
                key: key.as_bytes().to_vec(),
                value: value.clone(),
                headers: vec![("trace".into(), b"7".to_vec())],
            };
            let mut out = Vec::new();
            // Without the poison a Tick stands in its place: only time goes on.
            if !poison || poisoned {
                task.fold(&record, &mut out).unwrap();
            } else {
                let tick = Record {
                    key: Vec::new(),
                    ..record
                };
                task.fold(&tick, &mut out).unwrap();
            }
            for output in out {
                if output.topic == Topic::DeadLetters {
                    assert!(poison && output.value == value, "the original bytes");
                    let header = |name: &str| {
                        let found = output.headers.iter().find(|(own, _)| own == name);
                        String::from_utf8(found.unwrap().1.clone()).unwrap()
                    };
                    assert_eq!(header("reason"), "panic");
                    assert_eq!(header("detail"), "a bug in a fold");
                    assert_eq!(header("offset"), offset.to_string());
                    assert_eq!(header("trace"), "7", "its own headers stay");
                    letters.push(offset);
                } else {
                    said.push((offset, output));
                }
            }
        }
        (said, letters, task.fold_mut().drain())
    };
    let (said, letters, rows) = told(true);
    let (said_without, none, rows_without) = told(false);
    assert_eq!(letters, [3, 11, 19, 27, 35]);
    assert_eq!(none, [0; 0]);
    assert_eq!(said, said_without, "nobody else notices");
    assert!(rows == rows_without, "every row is as before");
}

/// Records of both inboxes as a life of the loop leaves them.
fn valid_records() -> Vec<(Topic, Vec<u8>, Vec<u8>)> {
    let mut straight = Straight::new("hostile", Time(START));
    let say_to_plan = |straight: &mut Straight, record: PlanRecord| {
        say(straight, &mesh("alpha"), &record);
    };
    for i in 0..12 {
        for n in 1..=3 {
            let loss = if i > 2 && n == 1 { 15.0 } else { 0.0 };
            let values = metrics(&[
                (Metric::CpuPercent, 95.0),
                (Metric::PacketLoss, loss),
                (Metric::LatencyMs, loss * 40.0),
            ]);
            let now = straight.now().0;
            let sample = sample("alpha", &format!("n{n}"), i + 1, now, 10.0, values);
            for order in directives(&send(&mut straight, &sample)) {
                report(&mut straight, &Outcome::of(&order, OutcomeResult::Applied));
            }
        }
        straight.advance_to(straight.now() + Span::seconds(10));
    }
    let scope = HoldScope {
        mesh: mesh("alpha"),
        node: Some(node("n2")),
    };
    for release in [false, true] {
        let (scope, by) = (scope.clone(), "ops".to_owned());
        let for_ms = Some(60_000);
        let reason = String::new();
        let hold = Hold {
            scope,
            release,
            for_ms,
            by,
            reason,
        };
        say_to_plan(&mut straight, PlanRecord::Hold(hold));
    }
    let change = PolicyChange {
        mesh: mesh("alpha"),
        text: "plan.cooldown_s = 30".into(),
        by: "ops".into(),
    };
    say_to_plan(&mut straight, PlanRecord::PolicyChange(change));
    let inboxes = [Topic::Metrics, Topic::PlanInbox].map(|topic| TopicPartition {
        topic,
        partition: 0,
    });
    let records = inboxes.into_iter().flat_map(|inbox| {
        let records = straight.recorded[&inbox].clone();
        records
            .into_iter()
            .map(move |r| (inbox.topic, r.key, r.value))
    });
    records.filter(|(_, _, value)| !value.is_empty()).collect()
}

fn mutated(seed: &mut Seed, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=seed.below(3) {
        let at = seed.below(bytes.len().max(1) as u64) as usize;
        match seed.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), seed.draw() as u8),
            // Past the header, which is known to be refused when it is another.
            _ if bytes.len() > 10 => {
                let at = 10 + seed.below(bytes.len() as u64 - 10) as usize;
                bytes[at] = *seed.pick(&[0x00, 0x01, 0x02, 0x7f, 0x80, 0xff, bytes[at] ^ 1]);
            }
            _ => bytes.push(0),
        }
    }
    bytes
}

#[test]
fn records_that_are_almost_right_never_stop_the_loop() {
    let valid = valid_records();
    let seeds = match std::env::var("HOMEOSTAT_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..300).collect::<Vec<u64>>(),
    };
    let mut taken = 0;
    for seed in seeds {
        let again = format!("HOMEOSTAT_SEED={seed} cargo test --test hostile");
        let mut seed = Seed(seed);
        let mut straight = Straight::new("hostile", Time(START));
        for _ in 0..150 {
            let (topic, key, value) = seed.pick(&valid).clone();
            let value = match seed.one_in(2) {
                true => mutated(&mut seed, value),
                false => value,
            };
            let mut left = straight.append(topic, &key, value);
            let to = straight.now() + Span::seconds(seed.below(12) as i64);
            left.extend(straight.advance_to(to).into_iter().map(|(_, left)| left));
            let dead = dead(&left);
            let panics = dead.iter().any(|reason| reason.starts_with("panic"));
            assert!(!panics, "{again}: {dead:?}");
            taken += usize::from(dead.is_empty());
        }
        assert!(still_goes_on(&mut straight, 1), "{again}");
    }
    assert!(taken > 0, "some are taken");
}

#[test]
fn an_inbox_that_was_never_opened_refuses_everything_and_stands() {
    let base: Rc<dyn Base> = Rc::new(NoBase);
    let inbox = TopicPartition {
        topic: Topic::PlanInbox,
        partition: 0,
    };
    let fold = Box::new(PlanFold::new(0, &base));
    let mut task = Task::new(inbox, "homeostat.", TimeSource::Log, fold, None);
    let valid = valid_records().into_iter();
    let not_opened = valid.filter(|(topic, key, _)| *topic == Topic::PlanInbox && !key.is_empty());
    for (offset, (_, key, value)) in not_opened.enumerate() {
        let record = Record {
            offset: offset as i64,
            time: Time(START),
            key,
            value,
            headers: Vec::new(),
        };
        let mut out = Vec::new();
        task.fold(&record, &mut out).unwrap();
        assert_eq!(out.len(), 1, "{out:?}");
        assert_eq!(out[0].topic, Topic::DeadLetters);
    }
}
