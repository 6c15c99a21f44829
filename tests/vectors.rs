//! The assess vectors, the contract's and in `own` ours: each file is one run, through the
//! command's logic and through the binary.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use homeostat::cli::assess::assess;
use homeostat::model::Policy;
use serde_json::Value;
use serde_json::value::RawValue;

/// A vector: a line in, and what the answer must hold.
struct Vector {
    id: String,
    input: String,
    expect: Value,
}

/// A vector as its file has it.
#[derive(serde::Deserialize)]
struct Written<'a> {
    id: String,
    #[serde(borrow)]
    input: &'a RawValue,
    expect: Value,
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<_> = [dir.join("own"), dir]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    assert!(
        files.len() == 64 + 8,
        "vectors are missing: {}",
        files.len()
    );
    files
}

fn vectors(file: &Path) -> Vec<Vector> {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| {
            let Written { id, input, expect } = serde_json::from_str(line).unwrap();
            Vector {
                id,
                input: serde_json::from_str(input.get()).unwrap_or(input.get().to_owned()),
                expect,
            }
        })
        .collect()
}

/// Holds a run's answers against its vectors.
fn check(name: &str, vectors: &[Vector], output: &[u8]) {
    let mut answers = std::str::from_utf8(output).unwrap().lines();
    for vector in vectors.iter().filter(|v| !v.expect.is_null()) {
        let answer = answers
            .next()
            .unwrap_or_else(|| panic!("{name}: {} has no answer", vector.id));
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_agrees(&format!("{name}: {}", vector.id), &vector.expect, &answer);
    }
    assert_eq!(answers.next(), None, "{name}: an answer too many");
}

fn assert_agrees(path: &str, expected: &Value, got: &Value) {
    match (expected, got) {
        (Value::Object(fields), Value::Object(answer)) => {
            for (key, value) in fields {
                let got = answer.get(key).unwrap_or(&Value::Null);
                assert_agrees(&format!("{path}.{key}"), value, got);
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!(
                (a - b).abs() <= 1e-12 * a.abs().max(1.0),
                "{path}: expected {a}, got {b}"
            );
        }
        (expected, got) => assert_eq!(expected, got, "{path}"),
    }
}

fn lines(vectors: &[Vector]) -> String {
    vectors
        .iter()
        .map(|vector| format!("{}\n", vector.input))
        .collect()
}

#[test]
fn every_file_is_a_run_of_the_commands_logic() {
    for file in files() {
        let vectors = vectors(&file);
        let mut output = Vec::new();
        let input = lines(&vectors);
        assess(
            BufReader::new(input.as_bytes()),
            &mut output,
            &Policy::default(),
        )
        .unwrap();
        check(&file.display().to_string(), &vectors, &output);
    }
}

#[test]
fn every_file_is_a_run_of_the_binary() {
    for file in files() {
        let vectors = vectors(&file);
        let output = run(lines(&vectors).into_bytes(), &[]);
        check(&file.display().to_string(), &vectors, &output);
    }
}

/// Runs `homeostat assess` on `input`; it must end with 0.
fn run(input: Vec<u8>, args: &[&str]) -> Vec<u8> {
    let mut child = command(args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
    command.arg("assess").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

#[test]
fn a_policy_moves_the_bounds_and_a_bad_one_is_exit_code_2() {
    let dir = std::env::temp_dir().join(format!("homeostat-assess-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let policy = dir.join("policy.toml");
    let path = policy.to_str().unwrap();
    let line = br#"{"time":0,"packet_loss":1.9}"#.to_vec();
    fs::write(&policy, "[symptoms.lossy]\nwarning_enter = 1.8\n").unwrap();
    let output = String::from_utf8(run(line.clone(), &["--policy", path])).unwrap();
    assert!(output.contains(r#""symptoms":["lossy"]"#), "{output}");
    let output = String::from_utf8(run(line, &["--json"])).unwrap();
    assert!(output.contains(r#""symptoms":[]"#), "{output}");
    fs::write(&policy, "[symptoms.lossy]\nwarning_enter = 1.0\n").unwrap();
    let refused = command(&["--policy", path]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        words.contains("warning_leave") && words.contains(path),
        "{words}"
    );
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = command(&[]).spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // The command may end before it has read everything.
    let _ = stdin.write_all("{\"time\":0}\n".repeat(100_000).as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_line_is_answered_while_the_next_is_still_to_come() {
    let mut child = command(&[]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for seq in 1..4 {
        stdin.write_all(b"{\"time\":0}\n").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert!(answer.contains(&format!("\"seq\":{seq},")), "{answer}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// A line of 1 GiB in 200 MB of address space: refused, and the next line is answered.
#[cfg(target_os = "linux")]
#[test]
fn a_hostile_line_of_1_gib_takes_little_memory() {
    let binary = env!("CARGO_BIN_EXE_homeostat");
    for (head, filling) in [
        ("{\"node_id\":\"", "a"),
        ("{\"x\":", "["),
        ("{\"x\":", "{\"x\":"),
        ("{\"seq\":", "9"),
        ("", " "),
    ] {
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -v 200000; exec \"$0\" assess", binary])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let block = filling.repeat((1 << 20) / filling.len());
        let writer = std::thread::spawn(move || {
            stdin.write_all(head.as_bytes()).unwrap();
            for _ in 0..1024 {
                stdin.write_all(block.as_bytes()).unwrap();
            }
            stdin.write_all(b"\n{\"time\":0}\n").unwrap();
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "{head}{filling}");
        let answers = String::from_utf8(output.stdout).unwrap();
        let (refused, answered) = answers.split_once('\n').unwrap();
        assert_eq!(refused, r#"{"rejected":{"line":1,"reason":"not_json"}}"#);
        assert!(answered.contains("\"phi\":0.865"), "{answered}");
    }
}

#[test]
fn a_hundred_thousand_unknown_nodes_are_a_hundred_thousand_nodes() {
    let mut input = String::new();
    for round in 1..=2 {
        for node in 0..100_000 {
            input += &format!("{{\"node_id\":\"n{node}\",\"time\":{round}}}\n");
        }
    }
    let mut output = Vec::new();
    assess(
        BufReader::new(input.as_bytes()),
        &mut output,
        &Policy::default(),
    )
    .unwrap();
    let output = String::from_utf8(output).unwrap();
    for seq in 1..=2 {
        let field = format!("\"seq\":{seq},");
        let lines = output.lines().filter(|line| line.contains(&field));
        assert_eq!(lines.count(), 100_000);
    }
}
