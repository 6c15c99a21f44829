//! `homeostat policy`: the policy that Plan obeys.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::{Colour, Global, Printer, replace, say};
use crate::config::{Config, ConfigError, Fault, Origin, Setting};
use crate::model::Policy;
use crate::sim::scenario::{first_difference, tell};

/// What can be done with a policy.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Whether a file is a policy: 0 it is, 1 it is not and why, 2 it cannot be read.
    Check(Check),
    /// Whether stories end under a policy as they are written: 0 all, 1 not, 2 cannot be read.
    Test(Test),
}

/// Arguments of `policy test`.
#[derive(clap::Args)]
pub(super) struct Test {
    /// Story files: flush-left lines go in, indented lines must come out (docs/stories.md).
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Judge by this policy instead of the configuration's or the built-in one.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Write what came out into the files, for you to read and keep.
    #[arg(long)]
    write: bool,
}

/// Arguments of `policy check`.
#[derive(clap::Args)]
pub(super) struct Check {
    /// The file; without it, the configuration file and the environment together.
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
}

/// Runs `policy`.
pub(super) fn run(
    command: Command,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => check(args, global, printer),
        Command::Test(args) => test(args, global, printer),
    }
}

/// Tells every story and compares.
fn test(
    args: Test,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let policy = match &args.policy {
        Some(path) => Some(read_text(path, "policy", "TOML")?),
        None => match global.config()?.policy_text() {
            "" => None,
            text => Some(text.to_owned()),
        },
    };
    if let Some(text) = &policy {
        Policy::parse(text).context("reading the policy that the stories are told under")?;
    }
    let mut failed = 0;
    for path in &args.files {
        let text = read_text(path, "story", "a text")?;
        let told = tell(&text, policy.as_deref())
            .with_context(|| format!("reading the story {}", path.display()))?;
        if args.write {
            replace(path, &told)
                .with_context(|| format!("writing the story {}", path.display()))?;
        }
        let difference = if args.write {
            None
        } else {
            first_difference(&text, &told)
        };
        failed += usize::from(difference.is_some());
        show_story(path, difference, printer)?;
    }
    if failed > 0 {
        say("next: mend the policy or the story; --write writes what came out into the files");
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn show_story(
    path: &Path,
    difference: Option<(usize, String, String)>,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let file = path.display().to_string();
    let (line, expected, got) = match &difference {
        Some((line, expected, got)) => (Some(*line), Some(expected), Some(got)),
        None => (None, None, None),
    };
    let words = match &difference {
        None => format!("{}: {file}", printer.paint(Colour::Green, "ok")),
        Some((line, expected, got)) => {
            let wanting = printer.paint(Colour::Red, "found wanting");
            format!("{wanting}: {file}:{line}\n  expected: {expected}\n  got:      {got}")
        }
    };
    let story = Story {
        ok: difference.is_none(),
        file: &file,
        line,
        expected,
        got,
    };
    Ok(printer.print(&story, &words)?)
}

fn read_text(path: &Path, what: &str, form: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "reading {what} {}, expected {form} in UTF-8",
            path.display()
        )
    })
}

fn check(
    args: Check,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let read = match args.file {
        Some(path) => {
            let text = read_text(&path, "policy", "TOML")?;
            Config::new(Some((&path, &text)), [])
        }
        None => global.config(),
    };
    match read {
        Ok(config) => {
            report(&config, printer)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(ConfigError::Invalid { origin, fault }) => {
            find_wanting(&origin, &fault, printer)?;
            Ok(ExitCode::from(1))
        }
        Err(unreadable @ ConfigError::Unreadable { .. }) => Err(unreadable.into()),
    }
}

fn report(config: &Config, printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
    let keys = Policy::keys();
    let of_policy = |(key, _): &(&String, &Setting)| keys.contains(key);
    let given: Vec<_> = config.given().iter().filter(of_policy).collect();
    let mut words = format!(
        "{}: {} given, the rest are defaults",
        printer.paint(Colour::Green, "ok"),
        match given.len() {
            1 => "1 key".to_owned(),
            n => format!("{n} keys"),
        }
    );
    for (key, setting) in &given {
        words.push_str(&format!("\n  {key} = {setting}  ({})", setting.origin));
    }
    let good = Good {
        ok: true,
        keys: given.len(),
    };
    Ok(printer.print(&good, &words)?)
}

fn find_wanting(
    origin: &Origin,
    fault: &Fault,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let wanting = printer.paint(Colour::Red, "found wanting");
    let bad = Bad {
        ok: false,
        origin: origin.to_string(),
        line: fault.line,
        key: &fault.key,
        problem: &fault.problem,
    };
    printer.print(&bad, &format!("{wanting}: {origin}: {fault}"))?;
    say("next: mend it and check again; `homeostat config show` and the README list every key");
    Ok(())
}

#[derive(Serialize)]
struct Good {
    ok: bool,
    keys: usize,
}

#[derive(Serialize)]
struct Bad<'a> {
    ok: bool,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    key: &'a str,
    problem: &'a str,
}

#[derive(Serialize)]
struct Story<'a> {
    ok: bool,
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<&'a String>,
}
