//! What the house rules say, read off the source.
//!
//! Every rule is a function from a [`Source`] to faults, and a fault names file, line and what to
//! write instead. Below each rule stands a snippet that it must catch and one that it must leave
//! alone: a rule that catches nothing is no rule.
//!
//! The arrows between the rooms stand in [`ARROWS`]. A new arrow is a design change: it edits that
//! table, on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may import.
const ARROWS: [(&str, &[&str]); 21] = [
    ("model", &[]),
    ("stream", &["model"]),
    ("monitor", &["model", "stream"]),
    ("analyze", &["model", "stream"]),
    ("plan", &["model", "stream"]),
    ("execute", &["model", "stream"]),
    ("knowledge", &["model", "stream"]),
    ("wire", &["model", "stream"]),
    ("runtime", &["model", "stream", "wire"]),
    (
        "topology",
        &[
            "model",
            "stream",
            "monitor",
            "analyze",
            "plan",
            "execute",
            "knowledge",
            "wire",
            "runtime",
        ],
    ),
    (
        "sim",
        &[
            "model",
            "stream",
            "monitor",
            "analyze",
            "plan",
            "execute",
            "knowledge",
            "wire",
            "runtime",
            "topology",
        ],
    ),
    ("config", &["model"]),
    ("telemetry", &[]),
    ("rows", &["model", "stream", "runtime", "config"]),
    (
        "embedded",
        &["model", "stream", "runtime", "config", "rows"],
    ),
    ("kafka", &["model", "stream", "wire", "runtime", "config"]),
    (
        "registry",
        &["model", "stream", "wire", "runtime", "config"],
    ),
    (
        "agent",
        &["model", "stream", "execute", "wire", "config", "kafka"],
    ),
    (
        "web",
        &[
            "model",
            "stream",
            "monitor",
            "knowledge",
            "wire",
            "runtime",
            "topology",
            "config",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "stream",
            "monitor",
            "analyze",
            "plan",
            "execute",
            "knowledge",
            "wire",
            "runtime",
            "topology",
            "sim",
            "config",
            "telemetry",
            "embedded",
            "kafka",
            "rows",
            "registry",
            "agent",
            "web",
        ],
    ),
    ("main", &["cli"]),
];

/// Rooms that are functions of their arguments, nothing else.
const PURE: [&str; 7] = [
    "model",
    "stream",
    "monitor",
    "analyze",
    "plan",
    "execute",
    "knowledge",
];

/// What a pure room may not say, and what it says instead.
const IMPURE: [(&str, &str); 22] = [
    ("SystemTime", "take At as an argument"),
    ("Instant", "take At as an argument"),
    ("std::fs", "take the bytes as an argument"),
    ("std::env", "take the value as an argument"),
    ("std::io", "take or return bytes"),
    ("std::net", "bytes come in as arguments"),
    ("std::process", "an executor does it, outside"),
    ("std::thread", "a worker owns the thread"),
    ("std::sync::mpsc", "return what must leave"),
    ("Mutex", "take &mut self"),
    ("RwLock", "take &mut self"),
    ("OnceLock", "no globals: take it as an argument"),
    ("LazyLock", "no globals: take it as an argument"),
    ("thread_local!", "no globals: take it as an argument"),
    ("static mut", "no globals: take it as an argument"),
    ("async", "a step returns; workers wait"),
    (".await", "a step returns; workers wait"),
    ("tracing::", "return an event; drivers log"),
    ("log::", "return an event; drivers log"),
    ("rand::", "take a seed or a value as an argument"),
    ("HashMap", "BTreeMap: order is part of the answer"),
    ("HashSet", "BTreeSet: order is part of the answer"),
];

/// Functions of f64 whose last bit depends on the platform.
const INEXACT: [&str; 17] = [
    "ln", "ln_1p", "log", "log2", "log10", "exp", "exp2", "exp_m1", "powf", "powi", "cbrt",
    "hypot", "sin", "cos", "tan", "tanh", "mul_add",
];

/// A line, taken apart.
#[derive(Default)]
struct Line {
    /// As it stands in the file.
    raw: String,
    /// Without comments and without what is in strings.
    code: String,
    /// The text of its comment, with the slashes.
    comment: String,
}

/// A file, taken apart.
struct Source {
    path: String,
    lines: Vec<Line>,
    /// Index of the line from which on it is a unit test.
    tests: usize,
}

/// A line that breaks a rule.
#[derive(Debug, PartialEq)]
struct Fault {
    path: String,
    /// From 1.
    line: usize,
    /// What it is, and what to write instead.
    words: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.words)
    }
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let lines = take_apart(text);
        let tests = lines
            .iter()
            .position(|line| line.code.trim() == "#[cfg(test)]")
            .unwrap_or(lines.len());
        Source {
            path: path.to_owned(),
            lines,
            tests,
        }
    }

    /// The room: the first folder or file name below `src`.
    fn room(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let first = below.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    fn is_pure(&self) -> bool {
        self.room().is_some_and(|room| PURE.contains(&room))
    }

    /// The lines with their numbers from 1; without the unit tests.
    fn shipped(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.all().take(self.tests)
    }

    fn all(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(i, line)| (i + 1, line))
    }

    fn fault(&self, line: usize, words: impl Into<String>) -> Fault {
        Fault {
            path: self.path.clone(),
            line,
            words: words.into(),
        }
    }
}

/// Splits Rust into code and comments: strings become `""`, comments leave the code.
fn take_apart(text: &str) -> Vec<Line> {
    #[derive(Clone, Copy, PartialEq)]
    enum In {
        Code,
        LineComment,
        BlockComment(usize),
        Text,
        RawText(usize),
    }
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut lines = vec![Line::default()];
    let mut state = In::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\n' {
            lines.push(Line::default());
            if state == In::LineComment {
                state = In::Code;
            }
            i += 1;
            continue;
        }
        let line = lines.last_mut().expect("one line at least");
        let from = i;
        i += 1;
        match state {
            In::Code => {
                let hashes = chars[i..].iter().take_while(|&&c| c == '#').count();
                let starts_word = from == 0 || !word(at(from - 1)) || at(from - 1) == 'b';
                if c == '/' && at(i) == '/' {
                    state = In::LineComment;
                    line.comment.push(c);
                } else if c == '/' && at(i) == '*' {
                    state = In::BlockComment(1);
                    i += 1;
                    line.comment.push_str("/*");
                } else if c == '"' {
                    state = In::Text;
                    line.code.push(c);
                } else if c == 'r' && starts_word && at(i + hashes) == '"' {
                    state = In::RawText(hashes);
                    i += hashes + 1;
                    line.code.push('"');
                } else if c == '\'' && at(i) == '\\' {
                    // A character literal with an escape; a lifetime has none.
                    i += 2;
                    while at(i) != '\'' && i < chars.len() {
                        i += 1;
                    }
                    i += 1;
                    line.code.push_str("' '");
                } else if c == '\'' && at(i + 1) == '\'' {
                    i += 2;
                    line.code.push_str("' '");
                } else {
                    line.code.push(c);
                }
            }
            In::LineComment => line.comment.push(c),
            In::BlockComment(depth) => {
                line.comment.push(c);
                if c == '*' && at(i) == '/' {
                    i += 1;
                    line.comment.push('/');
                    state = match depth {
                        1 => In::Code,
                        _ => In::BlockComment(depth - 1),
                    };
                } else if c == '/' && at(i) == '*' {
                    i += 1;
                    state = In::BlockComment(depth + 1);
                }
            }
            In::Text => {
                if c == '\\' && at(i) != '\n' {
                    i += 1;
                } else if c == '"' {
                    line.code.push(c);
                    state = In::Code;
                }
            }
            In::RawText(hashes) => {
                let closing = chars[i..].iter().take_while(|&&c| c == '#').count();
                if c == '"' && closing >= hashes {
                    i += hashes;
                    line.code.push(c);
                    state = In::Code;
                }
            }
        }
    }
    for (line, raw) in lines.iter_mut().zip(text.split('\n')) {
        line.raw = raw.to_owned();
    }
    if lines.last().is_some_and(|line| line.raw.is_empty()) {
        lines.pop();
    }
    lines
}

// The rules.

/// Whether `code` has the word or macro `text`, not as part of a longer one; or the path `text`,
/// not as part of a longer path.
fn says(code: &str, text: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let is_path = text.ends_with("::");
    code.match_indices(text).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + text.len()..].chars().next();
        let inside = |c: char| joins(c) || is_path && c == ':';
        let goes_on = text.ends_with(joins) && after.is_some_and(joins);
        !before.is_some_and(inside) && !goes_on
    })
}

/// Rooms import only what [`ARROWS`] allows, and by `crate::`.
fn arrows(source: &Source) -> Vec<Fault> {
    let Some(room) = source.room() else {
        return Vec::new();
    };
    if room == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == room) else {
        let words = format!("room `{room}` is not in ARROWS: say what it may import");
        return vec![source.fault(1, words)];
    };
    let below = source.path.trim_end_matches("/mod.rs");
    let depth = below.matches('/').count();
    let mut faults = Vec::new();
    for (line, to) in imports(source) {
        if to != room && !allowed.contains(&to.as_str()) {
            let words = format!(
                "`{room}` may not import `{to}`: meet in topology, or change ARROWS on purpose"
            );
            faults.push(source.fault(line, words));
        }
    }
    for (line, text) in source.all() {
        let inner = usize::from(line > source.tests);
        if text.code.contains(&"super::".repeat(depth + inner)) {
            let words = "this path leaves the room: write `crate::<room>`";
            faults.push(source.fault(line, words));
        }
    }
    faults
}

/// What a file names behind `crate::` (of the binary: `homeostat::`), with its line.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let root = match source.path.as_str() {
        "src/main.rs" => "homeostat::",
        _ => "crate::",
    };
    let mut found = Vec::new();
    // `Some(depth)` within the braces of a `crate::{..}`.
    let mut group: Option<usize> = None;
    for (number, line) in source.all() {
        let mut rest = line.code.as_str();
        loop {
            if let Some(depth) = group {
                let mut inner = depth;
                let mut name = String::new();
                let mut end = rest.len();
                for (at, c) in rest.char_indices() {
                    match c {
                        '{' => inner += 1,
                        '}' => inner -= 1,
                        _ => {}
                    }
                    if inner == 1 && (c.is_alphanumeric() || c == '_') {
                        name.push(c);
                    } else if !name.is_empty() {
                        // Of a path only the first part is a room.
                        let first = rest[..at - name.len()].trim_end();
                        if !first.ends_with("::") {
                            found.push((number, std::mem::take(&mut name)));
                        }
                        name.clear();
                    }
                    if inner == 0 {
                        end = at + 1;
                        break;
                    }
                }
                group = (inner > 0).then_some(inner);
                rest = &rest[end..];
                if group.is_some() {
                    break;
                }
            }
            let Some(at) = rest.find(root) else { break };
            rest = &rest[at + root.len()..];
            if let Some(inside) = rest.strip_prefix('{') {
                rest = inside;
                group = Some(1);
                continue;
            }
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.push((number, name));
        }
    }
    found
}

/// Pure rooms are functions of their arguments.
fn purity(source: &Source) -> Vec<Fault> {
    if !source.is_pure() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in source.shipped() {
        for (word, instead) in IMPURE {
            if says(&line.code, word) {
                faults.push(source.fault(number, format!("`{word}` in a pure room: {instead}")));
            }
        }
        for name in INEXACT {
            let called = line.code.contains(&format!(".{name}("));
            if called || says(&line.code, &format!("f64::{name}")) {
                let words = format!("f64::{name} differs between platforms: use libm");
                faults.push(source.fault(number, words));
            }
        }
    }
    faults
}

/// What is banned wherever it stands.
fn bans(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    let in_src = source.path.starts_with("src/");
    let in_cli = source.path.starts_with("src/cli/");
    for (number, line) in source.all() {
        let mut ban = |found: bool, words: &str| {
            if found {
                faults.push(source.fault(number, words));
            }
        };
        let code = &line.code;
        ban(
            says(code, "thread::sleep"),
            "sleep: time moves by hand; a sleep in a test is a missing argument",
        );
        ban(
            code.contains("#[allow") || code.contains("#![allow"),
            "allow: write #[expect(lint, reason = \"..\")]",
        );
        for word in ["TODO", "FIXME", "XXX"] {
            ban(
                says(code, word) || says(&line.comment, word),
                "a note to oneself: do it, or open an issue",
            );
        }
        ban(
            in_src
                && number <= source.tests
                && ["println!", "print!"].iter().any(|m| says(code, m)),
            "print: a broken pipe panics; data goes through cli::Printer",
        );
        ban(
            in_src && ["eprintln!", "eprint!"].iter().any(|m| says(code, m)),
            "eprint: words for people go through cli::say",
        );
        ban(
            in_src && !in_cli && says(code, "anyhow"),
            "anyhow outside cli: a thiserror enum of the room",
        );
        ban(
            line.raw.chars().count() > 100,
            "more than 100 columns: break the line",
        );
    }
    faults
}

/// Comments are prose.
fn commented_out_code(source: &Source) -> Vec<Fault> {
    const STATEMENTS: [&str; 6] = ["let ", "use ", "pub ", "fn ", "mod ", "const "];
    source
        .all()
        .filter(|(_, line)| {
            let text = line.comment.strip_prefix("//").unwrap_or("/");
            if text.starts_with(['/', '!']) {
                return false;
            }
            let text = text.trim();
            let statement = STATEMENTS.iter().any(|start| text.starts_with(start));
            let ends = text.ends_with(';') && (statement || text.contains(" = "));
            let call = text.ends_with(");") || text.ends_with(")?;");
            let opens = text.ends_with('{') || text.starts_with("#[");
            ends || call || opens || ["}", "};", "},", "})", "});"].contains(&text)
        })
        .map(|(number, _)| source.fault(number, "commented-out code: delete it, git remembers"))
        .collect()
}

/// A file opens with what it is for.
fn module_docs(source: &Source) -> Vec<Fault> {
    let first = source.lines.first().map_or("", |line| &line.raw);
    let words = first.strip_prefix("//! ").unwrap_or("");
    match words.split_whitespace().count() {
        0 | 1 => vec![source.fault(1, "no module doc: open with `//! ` and what it is for")],
        _ => Vec::new(),
    }
}

/// Imports stand in blocks: std, crates, ours (of a file in `src`: its crate and its own modules).
fn import_blocks(source: &Source) -> Vec<Fault> {
    let modules: Vec<&str> = source
        .shipped()
        .filter_map(|(_, line)| {
            let item = line.code.strip_prefix("pub ").unwrap_or(&line.code);
            item.strip_prefix("mod ")?.strip_suffix(';')
        })
        .collect();
    let mut faults = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    let mut open = false;
    for (number, line) in source.shipped() {
        if open {
            open = !line.code.contains(';');
            last = last.map(|(block, _)| (block, number));
            continue;
        }
        let Some(path) = line.code.strip_prefix("use ") else {
            continue;
        };
        let root = path.split([':', ';', ' ']).next().unwrap_or("");
        let block = match root {
            "std" | "core" | "alloc" => 0,
            "crate" | "self" | "super" => 2,
            own if modules.contains(&own) => 2,
            _ => 1,
        };
        if let Some((before, at)) = last {
            let apart = number > at + 1;
            if block < before || (block > before && !apart) {
                faults.push(source.fault(number, "imports: three blocks, std, crates, ours"));
            }
        }
        last = Some((block, number));
        open = !line.code.contains(';');
    }
    faults
}

/// Names say what a thing is.
fn names(source: &Source) -> Vec<Fault> {
    const EMPTY: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];
    let mut faults = Vec::new();
    for part in source.path.split('/') {
        let stem = part.strip_suffix(".rs").unwrap_or(part);
        if EMPTY.contains(&stem) {
            faults.push(source.fault(1, "the file's name says nothing: name it for its noun"));
        }
        if !stem
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            faults.push(source.fault(1, "file names are snake_case words"));
        }
    }
    for (number, line) in source.all() {
        if line.code.contains("fn get_") {
            faults.push(source.fault(number, "get_: name the thing itself"));
        }
        for keyword in ["struct ", "enum ", "trait ", "type "] {
            let Some((_, rest)) = line.code.split_once(keyword) else {
                continue;
            };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            if ["Manager", "Helper", "Utils", "Handler"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                let words = format!("`{name}` says nothing: name it for what it is");
                faults.push(source.fault(number, words));
            }
        }
    }
    faults
}

/// Unit tests stand at a file's end.
fn tests_last(source: &Source) -> Vec<Fault> {
    source
        .all()
        .skip(source.tests)
        .filter(|(_, line)| {
            let code = line.code.trim_end();
            !code.is_empty()
                && !code.starts_with(' ')
                && !code.starts_with("#[")
                && !code.starts_with("mod ")
                && !["}", "\""].iter().any(|c| code.starts_with(c))
        })
        .map(|(number, _)| source.fault(number, "code after the unit tests: tests stand last"))
        .collect()
}

/// Files that comments and pages name are there.
fn named_files(source: &Source, exists: &dyn Fn(&str) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in source.all() {
        let text = match source.path.ends_with(".md") {
            true => &line.raw,
            false => &line.comment,
        };
        for folder in ["src/", "tests/", "benches/", "docs/", "schemas/"] {
            for (at, _) in text.match_indices(folder) {
                let inside =
                    text[..at].ends_with(|c: char| c.is_alphanumeric() || "/._-".contains(c));
                let path: String = text[at..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || "/._-".contains(*c))
                    .collect();
                let path = path.trim_end_matches(['.', '/']);
                if !inside && !exists(path) {
                    faults.push(source.fault(number, format!("{path} is not there")));
                }
            }
        }
    }
    faults
}

/// Every record and every field of a schema says what it means.
fn schema_docs(path: &str, schema: &serde_json::Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut todo = vec![schema];
    while let Some(value) = todo.pop() {
        match value {
            serde_json::Value::Array(items) => todo.extend(items),
            serde_json::Value::Object(object) => {
                let name = object.get("name").and_then(|n| n.as_str()).unwrap_or("?");
                let doc = object.get("doc").and_then(|d| d.as_str()).unwrap_or("");
                let is_record = object.get("type").is_some_and(|t| t == "record");
                if is_record && doc.is_empty() {
                    faults.push(format!("{path}: record {name} has no doc"));
                }
                for field in object
                    .get("fields")
                    .and_then(|f| f.as_array())
                    .into_iter()
                    .flatten()
                {
                    if field["doc"].as_str().unwrap_or("").is_empty() {
                        let field = field["name"].as_str().unwrap_or("?");
                        faults.push(format!("{path}: field {name}.{field} has no doc"));
                    }
                }
                todo.extend(object.values());
            }
            _ => {}
        }
    }
    faults
}

/// The keys that `readme` does not name: `[section]` once and the key's last part in backticks.
fn keys_not_named(readme: &str, keys: &[String]) -> BTreeSet<String> {
    keys.iter()
        .flat_map(|key| {
            let (section, name) = key.rsplit_once('.').expect("a key has a section");
            [format!("`[{section}]`"), format!("`{name}`")]
        })
        .filter(|word| !readme.contains(word))
        .collect()
}

// The repository, held against the rules.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `folder` with this ending, by path from the root, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> Source {
    let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    Source::new(name, &text)
}

fn sources() -> Vec<Source> {
    let folders = ["src", "tests", "benches"];
    folders
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|path| read(&path))
        .collect()
}

/// Fails with every fault of the repository's Rust, one a line.
fn hold(rule: impl Fn(&Source) -> Vec<Fault>) {
    fail_on(
        sources()
            .iter()
            .flat_map(rule)
            .map(|fault| fault.to_string()),
    );
}

fn fail_on(faults: impl IntoIterator<Item = String>) {
    let faults: Vec<String> = faults.into_iter().collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The rule finds exactly this in `text` standing at `path`: a line, and words of the message.
/// `(0, "")`: nothing.
fn check(
    rule: impl Fn(&Source) -> Vec<Fault>,
    path: &str,
    text: &str,
    (line, words): (usize, &str),
) {
    let faults = rule(&Source::new(path, text));
    let found: Vec<String> = faults.iter().map(Fault::to_string).collect();
    match line {
        0 => assert_eq!(found, Vec::<String>::new(), "{text}"),
        _ => assert!(
            faults.len() == 1 && faults[0].line == line && faults[0].words.contains(words),
            "{text}\nexpected line {line} and {words}, found {found:?}"
        ),
    }
}

const NONE: (usize, &str) = (0, "");

#[test]
fn rooms_import_only_along_the_arrows() {
    for (path, text, expected) in [
        ("src/plan/a.rs", "use crate::model::X;", NONE),
        ("src/plan/a.rs", "use crate::plan::X;", NONE),
        (
            "src/plan/a.rs",
            "\nuse crate::analyze::X;",
            (2, "`plan` may not import `analyze`"),
        ),
        (
            "src/plan/mod.rs",
            "fn f() { crate::wire::decode(); }",
            (1, "`wire`"),
        ),
        (
            "src/plan/a.rs",
            "use crate::{model::{X, wire}, stream::At};",
            NONE,
        ),
        (
            "src/plan/a.rs",
            "use crate::{\n    model::X,\n    wire,\n};",
            (3, "`wire`"),
        ),
        ("src/plan/a.rs", "use crate::{model::wire::X};", NONE),
        (
            "src/plan/a.rs",
            "/// See [`crate::wire`].\nconst X: &str = \"crate::wire\";",
            NONE,
        ),
        ("src/plan/a.rs", "use super::X;", NONE),
        (
            "src/plan/a.rs",
            "use super::super::wire;",
            (1, "crate::<room>"),
        ),
        ("src/plan/mod.rs", "use super::wire;", (1, "crate::<room>")),
        ("src/plan/a/b.rs", "use super::super::X;", NONE),
        (
            "src/plan/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use super::*;\n}",
            NONE,
        ),
        (
            "src/model/a.rs",
            "use crate::stream::At;",
            (1, "`model` may not import `stream`"),
        ),
        ("src/cli/a.rs", "use crate::sim::X;", NONE),
        (
            "src/runtime/a.rs",
            "use crate::topology::X;",
            (1, "`topology`"),
        ),
        ("src/main.rs", "homeostat::cli::run()", NONE),
        ("src/main.rs", "homeostat::model::f()", (1, "`model`")),
        ("src/newroom/a.rs", "", (1, "not in ARROWS")),
    ] {
        check(arrows, path, text, expected);
    }
    hold(arrows);
}

#[test]
fn the_arrows_have_no_cycle() {
    let table: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while let Some((room, _)) = table
        .iter()
        .find(|(room, to)| !done.contains(*room) && to.iter().all(|to| done.contains(to)))
    {
        done.insert(room);
    }
    assert_eq!(done.len(), table.len(), "in a cycle: all but {done:?}");
}

#[test]
fn the_map_names_every_room() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(room, _)| *room).collect();
    let mut rooms = BTreeSet::new();
    for source in sources() {
        let room = source.room().unwrap_or("lib").to_owned();
        if room != "lib" && room != "main" {
            let line = format!("pub mod {room};");
            assert!(
                lib.contains(&line),
                "src/lib.rs does not name `{room}`: add {line}"
            );
        }
        rooms.insert(room);
    }
    for room in listed {
        assert!(
            rooms.contains(room),
            "ARROWS names `{room}`, which is gone: remove it"
        );
    }
}

#[test]
fn pure_rooms_are_pure() {
    for (text, expected) in [
        ("fn f() { let t = std::time::Instant::now(); }", NONE),
        ("use std::time::Instant;", NONE),
    ] {
        check(purity, "src/runtime/a.rs", text, expected);
    }
    for (text, expected) in [
        ("use std::collections::BTreeMap;", NONE),
        ("use std::time::{Instant};", (1, "take At as an argument")),
        ("use std::fs;", (1, "std::fs")),
        ("use std::collections::HashMap;", (1, "BTreeMap")),
        ("// a HashMap would not do", NONE),
        ("const X: &str = \"HashMap\";", NONE),
        ("struct MyHashMapLike;", NONE),
        ("async fn f() {}", (1, "async")),
        ("log::info!(\"x\");", (1, "drivers log")),
        ("catalog::find();", NONE),
        ("crate::plan::log::find();", NONE),
        ("let x = y.ln();", (1, "libm")),
        ("let x = f64::powf(y, 2.0);", (1, "libm")),
        ("let x = libm::log(y);", NONE),
        ("#[cfg(test)]\nmod tests {\n    use std::fs;\n}", NONE),
    ] {
        check(purity, "src/plan/a.rs", text, expected);
    }
    hold(purity);
}

#[test]
fn what_is_banned_everywhere() {
    let long = format!("// {}", "x".repeat(98));
    let fits = format!("// {}", "φ".repeat(97));
    for (path, text, expected) in [
        (
            "tests/a.rs",
            "std::thread::sleep(d);",
            (1, "missing argument"),
        ),
        (
            "src/wire/a.rs",
            "thread::sleep(d);",
            (1, "missing argument"),
        ),
        ("src/wire/a.rs", "#[allow(dead_code)]", (1, "#[expect")),
        ("src/wire/a.rs", "#![allow(dead_code)]", (1, "#[expect")),
        (
            "src/wire/a.rs",
            "#[expect(dead_code, reason = \"x\")]",
            NONE,
        ),
        ("src/wire/a.rs", "\n// TODO: later", (2, "do it")),
        ("src/wire/a.rs", "/// FIXME", (1, "do it")),
        ("src/wire/a.rs", "println!(\"x\");", (1, "cli::Printer")),
        ("src/cli/a.rs", "println!(\"x\");", (1, "cli::Printer")),
        ("src/cli/a.rs", "eprintln!(\"x\");", (1, "cli::say")),
        (
            "src/cli/a.rs",
            "#[cfg(test)]\nmod tests {\n    println!(\"x\");\n}",
            NONE,
        ),
        ("tests/a.rs", "println!(\"seed 7\");", NONE),
        ("src/wire/a.rs", "use anyhow::Result;", (1, "thiserror")),
        ("src/cli/a.rs", "use anyhow::Result;", NONE),
        ("src/wire/a.rs", &long, (1, "100 columns")),
        ("src/wire/a.rs", &fits, NONE),
    ] {
        check(bans, path, text, expected);
    }
    hold(bans);
}

#[test]
fn comments_are_prose() {
    for (text, expected) in [
        ("// let x = 1;", (1, "git remembers")),
        ("f();\n// g(x);", (2, "git remembers")),
        ("// if x {", (1, "git remembers")),
        ("// }", (1, "git remembers")),
        ("// self.count = 0;", (1, "git remembers")),
        ("f(); // x.push(1);", (1, "git remembers")),
        ("// #[derive(Debug)]", (1, "git remembers")),
        ("// What was begun is done again; an act is not.", NONE),
        ("// for every key it is the same; use it with care;", NONE),
        ("/// let x = 1;", NONE),
        ("//! use homeostat::model;", NONE),
        ("let url = \"http://let x = 1;\";", NONE),
    ] {
        check(commented_out_code, "src/wire/a.rs", text, expected);
    }
    hold(commented_out_code);
}

#[test]
fn every_file_says_what_it_is_for() {
    check(module_docs, "src/a.rs", "//! What it is for.\n", NONE);
    check(
        module_docs,
        "src/a.rs",
        "//! analyze\n",
        (1, "what it is for"),
    );
    check(module_docs, "src/a.rs", "use x;\n", (1, "what it is for"));
    check(module_docs, "tests/a.rs", "", (1, "what it is for"));
    hold(module_docs);
}

#[test]
fn imports_stand_in_three_blocks() {
    for (text, expected) in [
        ("use std::fmt;\n\nuse serde::X;\n\nuse crate::Y;", NONE),
        (
            "use std::fmt;\nuse std::io;\n\nuse super::Y;\nuse crate::Y;",
            NONE,
        ),
        ("use std::{\n    fmt,\n};\n\nuse serde::X;", NONE),
        ("use std::fmt;\nuse serde::X;", (2, "three blocks")),
        ("use serde::X;\n\nuse std::fmt;", (3, "three blocks")),
        ("use crate::X;\n\nuse serde::X;", (3, "three blocks")),
        ("pub mod a;\n\nuse crate::X;\n\nuse a::X;", NONE),
        (
            "use std::{\n    fmt,\n};\nuse serde::X;",
            (4, "three blocks"),
        ),
    ] {
        check(import_blocks, "src/wire/a.rs", text, expected);
    }
    hold(import_blocks);
}

#[test]
fn names_say_something() {
    for (path, text, expected) in [
        ("src/wire/utils.rs", "", (1, "name it for its noun")),
        ("src/wire/MyFile.rs", "", (1, "snake_case")),
        ("src/wire/sample_json.rs", "", NONE),
        ("src/wire/a.rs", "fn get_name() {}", (1, "name the thing")),
        ("src/wire/a.rs", "fn budget_left() {}", NONE),
        (
            "src/wire/a.rs",
            "pub struct NodeManager;",
            (1, "NodeManager"),
        ),
        ("src/wire/a.rs", "#[doc(alias = \"NodeManager\")]", NONE),
    ] {
        check(names, path, text, expected);
    }
    hold(names);
}

#[test]
fn unit_tests_stand_last() {
    let after = "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n\nfn g() {}";
    check(tests_last, "src/wire/a.rs", after, (6, "tests stand last"));
    let before = "fn g() {}\n\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}";
    check(tests_last, "src/wire/a.rs", before, NONE);
    let text = "#[cfg(test)]\nmod tests {\n    const X: &str = \"\nraw\n\";\n}";
    check(tests_last, "src/wire/a.rs", text, NONE);
    hold(tests_last);
}

#[test]
fn files_that_are_named_are_there() {
    let exists = |path: &str| path == "tests/tidy.rs" || path == "docs";
    for (path, text, expected) in [
        ("src/lib.rs", "//! Held by `tests/tidy.rs`.", NONE),
        (
            "src/lib.rs",
            "//! Held by `tests/gone.rs`.",
            (1, "tests/gone.rs is not there"),
        ),
        ("src/lib.rs", "//! in docs/.", NONE),
        ("src/lib.rs", "//! in other/docs/x", NONE),
        ("README.md", "see [it](docs/gone.md)", (1, "docs/gone.md")),
    ] {
        check(|source| named_files(source, &exists), path, text, expected);
    }
    let exists = |path: &str| root().join(path).exists();
    hold(|source| named_files(source, &exists));
    let pages = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .chain(files("docs", "md"));
    let faults = pages.flat_map(|path| named_files(&read(&path), &exists));
    fail_on(faults.map(|fault| fault.to_string()));
}

#[test]
fn every_schema_field_has_a_doc() {
    let bad = serde_json::json!({
        "type": "record", "name": "R", "doc": "one",
        "fields": [
            {"name": "a", "type": "long", "doc": "what"},
            {"name": "b", "type": {"type": "record", "name": "S", "fields": [
                {"name": "c", "type": "long"}]}, "doc": "what"}]
    });
    let expected = ["x: record S has no doc", "x: field S.c has no doc"];
    assert_eq!(schema_docs("x", &bad), expected);
    fail_on(files("schemas", "avsc").iter().flat_map(|path| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let text = fs::read_to_string(path).unwrap();
        match serde_json::from_str(&text) {
            Ok(schema) => schema_docs(name, &schema),
            Err(error) => vec![format!("{name}: not JSON: {error}")],
        }
    }));
}

#[test]
fn the_readme_names_every_config_key() {
    let keys = [
        "plan.cooldown_s".to_owned(),
        "symptoms.slow.warning_enter".to_owned(),
    ];
    let named = keys_not_named("`[plan]` `cooldown_s` `[symptoms.slow]`", &keys);
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["`warning_enter`"]);
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let missing = keys_not_named(&readme, &homeostat::model::Policy::keys());
    assert!(
        missing.is_empty(),
        "README.md: Configuration does not name {missing:?}"
    );
}

/// The agent alone is for routers: what a router has no room for is not among its features.
#[test]
fn the_small_agent_brings_no_vendor() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let brings = |feature: &str| -> BTreeSet<String> {
        let list = manifest["features"][feature].as_array().unwrap();
        let name = |word: &toml::Value| word.as_str().unwrap().to_owned();
        list.iter().map(name).collect()
    };
    assert!(brings("io").contains("agent"), "the whole build has it too");
    for vendor in [
        "rdkafka",
        "rocksdb",
        "axum",
        "object_store",
        "reqwest",
        "prometheus",
    ] {
        let word = format!("dep:{vendor}");
        assert!(
            !brings("agent").contains(&word) && brings("io").contains(&word),
            "{vendor}"
        );
    }
    let alone = brings("agent");
    assert!(
        alone.iter().all(|word| word.starts_with("dep:")),
        "{alone:?}"
    );
}

#[test]
fn code_and_comments_are_told_apart() {
    let code = |text: &str| -> Vec<String> {
        take_apart(text)
            .into_iter()
            .map(|line| line.code.trim_end().to_owned())
            .collect()
    };
    for (text, expected) in [
        ("a // b", &["a"][..]),
        ("a /* b */ c", &["a  c"]),
        ("/* a /* b */ c */ d", &[" d"]),
        ("\"a // b\" c", &["\"\" c"]),
        ("\"a\\\" b\" c", &["\"\" c"]),
        ("r#\"a \" b\"# c", &["\"\" c"]),
        ("br\"a\" c", &["b\"\" c"]),
        ("'\"' c", &["' ' c"]),
        ("'\\'' c", &["' ' c"]),
        ("'\\u{1F}' c", &["' ' c"]),
        ("&'a str // c", &["&'a str"]),
        ("\"a\nb // c\nd\" e", &["\"", "", "\" e"]),
        ("var\"x\"", &["var\"\""]),
    ] {
        assert_eq!(code(text), expected, "{text}");
    }
}
