//! What is written from the table of keys: the file of `config init`, and the README's tables.

use std::fmt::Write as _;

use super::Literal;
use super::keys::{Form, Key, SECTIONS, keys};

/// A `homeostat.toml` with every key commented out at its default: it changes nothing. A key's line
/// begins with `#` and no blank; all other comments are words.
pub fn file() -> String {
    let mut page = String::from(OPENING);
    let keys = keys();
    for (section, about) in SECTIONS {
        let _ = write!(page, "\n\n# {}\n# {about}\n", "-".repeat(COLUMNS - 2));
        let mut table = "";
        for key in keys.iter().filter(|key| is_of(key, section)) {
            if key.table() != table {
                table = key.table();
                let _ = match key.is_listed() {
                    true => write!(page, "\n# [[{table}]]\n"),
                    false => write!(page, "\n[{table}]\n"),
                };
            }
            page.push_str(&entry(key));
        }
    }
    page
}

/// A section's table for the README, its sub-tables included, the symptoms' bounds left out: they
/// read better side by side.
pub fn table(section: &str) -> String {
    let mut page = String::from("| key | default | unit | bounds | meaning | raising it costs |\n");
    page.push_str("|---|---|---|---|---|---|\n");
    let keys = keys();
    for key in keys.iter().filter(|key| is_of(key, section)) {
        if key.form == Form::Bound {
            continue;
        }
        let default = match &key.default {
            Some(value) => format!("`{}`", Literal(value)),
            None => "none".to_owned(),
        };
        let (unit, bounds, meaning) = (key.unit, key.form.bounds(), &key.meaning);
        let _ = writeln!(
            page,
            "| `{}` | {default} | {unit} | {bounds} | {meaning} | {} |",
            &key.name[section.len() + 1..],
            key.cost
        );
    }
    page
}

/// Widest line that is written.
const COLUMNS: usize = 98;

const OPENING: &str = "\
# What Homeostat is told. Every key stands here at its default, commented out: take the # away from
# the lines that you change. Stronger than this file is the environment (HOMEOSTAT_LOG_SYNC_MS), and
# stronger than both are flags. `homeostat config show` says what came of it and where each value is
# from; `homeostat check` whether this machine can do it.
#
# [plan], [monitor] and [symptoms] are a policy. The file only proposes it: what counts is the
# record that adopts it, so an old decision can always be judged by the policy of its day.
";

fn is_of(key: &Key, section: &str) -> bool {
    key.name.split('.').next() == Some(section)
}

/// A key's words and its line.
fn entry(key: &Key) -> String {
    let mut words = capital(&key.meaning);
    words.push('.');
    let _ = match key.unit {
        "" => write!(words, " Bounds: {}.", key.form.bounds()),
        unit => write!(words, " Unit: {unit}; bounds: {}.", key.form.bounds()),
    };
    if !key.cost.is_empty() {
        let _ = write!(words, " Raising it costs: {}.", key.cost);
    }
    let mut entry = wrapped(&words);
    let _ = match &key.default {
        Some(value) => writeln!(entry, "#{} = {}", key.last(), Literal(value)),
        None if key.is_listed() => writeln!(entry, "# {} = ..", key.last()),
        None => writeln!(entry, "# {} = {}", key.last(), example(key)),
    };
    entry
}

/// What a key without a default may look like.
fn example(key: &Key) -> &'static str {
    match key.form {
        Form::Command => "[\"program\", \"{value}\"] (none by default)",
        Form::Properties => "{ \"compression.type\" = \"lz4\" } (none by default)",
        _ => ".. (none by default)",
    }
}

fn capital(words: &str) -> String {
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Words as comment lines.
fn wrapped(words: &str) -> String {
    let mut page = String::new();
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            page.push_str(&line);
            page.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    page + &line + "\n"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;
    use crate::config::settings::Settings;
    use crate::model::Policy;

    use super::*;

    fn config(text: &str) -> Config {
        Config::new(Some((Path::new("h.toml"), text)), []).unwrap()
    }

    #[test]
    fn the_file_written_changes_nothing() {
        let config = config(&file());
        assert!(config.given().is_empty());
        assert_eq!(config.policy_text(), "");
        let widest = file().lines().map(str::len).max();
        assert!(widest.is_some_and(|widest| widest <= 100), "{widest:?}");
    }

    #[test]
    fn uncommented_it_says_the_defaults() {
        let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
        let text = file();
        let lines = text.lines().map(|line| match is_key(line) {
            true => &line[1..],
            false => line,
        });
        let all = config(&lines.collect::<Vec<_>>().join("\n"));
        assert_eq!(all.settings(), &Settings::default());
        assert_eq!(all.policy(), &Policy::default());
        let with_default = keys().into_iter().filter(|key| key.default.is_some());
        assert_eq!(all.given().len(), with_default.count());
    }

    #[test]
    fn the_readme_has_every_table() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        for (section, _) in SECTIONS {
            let table = table(section);
            assert!(
                readme.contains(&table),
                "README.md has no such table for [{section}], put it there:\n{table}"
            );
        }
    }
}
