//! `homeostat policy`: the policy that Plan obeys.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::{Colour, Printer, say};
use crate::config::{Config, ConfigError, Origin};
use crate::model::PolicyError;

/// What can be done with a policy.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Whether a file is a policy: 0 it is, 1 it is not and why, 2 it cannot be read.
    Check(Check),
}

/// Arguments of `policy check`.
#[derive(clap::Args)]
pub(super) struct Check {
    /// The file; without it, the configuration file and the environment together.
    file: Option<PathBuf>,
    /// Read this configuration file instead of ./homeostat.toml.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

/// Runs `policy`.
pub(super) fn run(command: Command, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let Command::Check(args) = command;
    let read = match args.file {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("reading policy {}, expected TOML in UTF-8", path.display())
            })?;
            Config::new(Some((&path, &text)), [])
        }
        None => Config::load(args.config.as_deref()),
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
    let settings = config.settings();
    let mut words = format!(
        "{}: {} given, the rest are defaults",
        printer.paint(Colour::Green, "ok"),
        match settings.len() {
            1 => "1 key".to_owned(),
            n => format!("{n} keys"),
        }
    );
    for (key, setting) in settings {
        words.push_str(&format!("\n  {key} = {setting}  ({})", setting.origin));
    }
    let good = Good {
        ok: true,
        keys: settings.len(),
    };
    Ok(printer.print(&good, &words)?)
}

fn find_wanting(
    origin: &Origin,
    fault: &PolicyError,
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
    say("next: mend it and check again; the README lists every key");
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
