//! `homeostat config`: what the program is told, and a file to begin with.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use toml::Value;

use super::{Global, Printer, replace, say};
use crate::config::keys::{Key, TOKENS, keys};
use crate::config::{Config, DEFAULT_FILE, Literal, pages};

/// What can be done with the configuration.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Writes a file with every key at its default, commented out: ./homeostat.toml or --config.
    Init(Init),
    /// Each value with its origin: default, file, environment variable or flag.
    Show,
}

/// Arguments of `config init`.
#[derive(clap::Args)]
pub(super) struct Init {
    /// Write it even if there is a file, which is lost.
    #[arg(long)]
    force: bool,
}

/// Runs `config`.
pub(super) fn run(
    command: Command,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => init(&args, global, printer),
        Command::Show => show(&global.config()?, printer),
    }
}

fn init(
    args: &Init,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let path = global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    let file = path.display();
    let is_there = path.symlink_metadata().is_ok();
    if is_there && !args.force {
        bail!("writing {file}: it is there already; --force replaces it, --config names another");
    }
    replace(path, &pages::file())
        .with_context(|| format!("writing {file}, expected a folder that may be written to"))?;
    let written = Written {
        file: file.to_string(),
        keys: keys().len(),
    };
    let words = format!("written: {file}, {} keys, each commented out", written.keys);
    printer.print(&written, &words)?;
    say("next: take the # away from what you change, then `homeostat config show`");
    Ok(ExitCode::SUCCESS)
}

fn show(config: &Config, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let mut table = String::new();
    for key in keys() {
        let given = config.given().get(&key.name);
        let Some(value) = given.map(|setting| &setting.value).or(key.default.as_ref()) else {
            continue;
        };
        let origin = given.map_or("default".to_owned(), |setting| setting.origin.to_string());
        if !printer.json && key.table() != table {
            let gap = if table.is_empty() { "" } else { "\n" };
            table = key.table().to_owned();
            printer.print(&(), &format!("{gap}[{table}]"))?;
        }
        let shown = Shown {
            key: &key.name,
            value,
            unit: key.unit,
            origin: &origin,
            policy: key.is_policy(),
        };
        printer.print(&shown, &words(&key, value, &origin))?;
    }
    if let Some(tokens) = config.given().get(TOKENS) {
        let origin = tokens.origin.to_string();
        let shown = Shown {
            key: TOKENS,
            value: &tokens.value,
            unit: "",
            origin: &origin,
            policy: false,
        };
        printer.print(&shown, &format!("\n{TOKENS} = {tokens}  ({origin})"))?;
    }
    say("next: `homeostat config init` writes a file that says what each means");
    Ok(ExitCode::SUCCESS)
}

fn words(key: &Key, value: &Value, origin: &str) -> String {
    let unit = match key.unit {
        "" => String::new(),
        unit => format!("{unit}, "),
    };
    format!("{} = {}  ({unit}{origin})", key.last(), Literal(value))
}

#[derive(Serialize)]
struct Written {
    file: String,
    keys: usize,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    value: &'a Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'a str,
    origin: &'a str,
    policy: bool,
}
