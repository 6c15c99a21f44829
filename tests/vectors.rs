//! The assess vectors: each file is one run, through the command's logic and through the binary.

use std::fs;
use std::io::{BufReader, Write};
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
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    assert!(files.len() == 64, "vectors are missing: {}", files.len());
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
    let mut child = Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .arg("assess")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}
