//! `homeostat policy`: the policy that Plan obeys.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context;
use serde::{Deserialize, Serialize};

#[cfg(feature = "io")]
use super::place::Kind;
use super::place::{Place, Which};
#[cfg(feature = "io")]
use super::since::Since;
#[cfg(feature = "io")]
use super::speak::{Speaker, Speech, Way, mesh_named};
use super::trial;
use super::{Colour, Global, Printer, plain, replace, say};
use crate::config::{Config, ConfigError, Fault, Origin, Setting};
#[cfg(feature = "io")]
use crate::knowledge::explain::duration;
use crate::model::Policy;
#[cfg(feature = "io")]
use crate::model::{MeshId, Span};
use crate::runtime::{Source, Store};
#[cfg(feature = "io")]
use crate::sim::scenario::span;
use crate::sim::scenario::{first_difference, tell};
use crate::topology::say::Known;

/// What can be done with a policy.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Puts a policy in force: it becomes a record, which Plan adopts.
    #[cfg(feature = "io")]
    Apply(Apply),
    /// Whether a file is a policy: 0 it is, 1 it is not and why, 2 it cannot be read.
    Check(Check),
    /// What a policy would have decided on what was recorded: 0 the same, 1 something else.
    Diff(trial::Args),
    /// The policies in force, of each mesh.
    Show(Show),
    /// Whether stories end under a policy as they are written: 0 all, 1 not, 2 cannot be read.
    Test(Test),
}

/// Arguments of `policy apply`.
#[cfg(feature = "io")]
#[derive(clap::Args)]
pub(super) struct Apply {
    /// The file: TOML; of a whole configuration its policy counts.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// For this mesh; without it for all, those with one of their own too.
    #[arg(long, value_name = "M")]
    mesh: Option<String>,
    /// Try it on what was recorded over so long, to warn of one that would withhold everything or
    /// heal everything.
    #[arg(long, value_name = "SPAN", default_value = "3d", value_parser = span)]
    over: Span,
    /// Do not try it.
    #[arg(long)]
    untried: bool,
    #[command(flatten)]
    way: Way,
}

/// Arguments of `policy show`.
#[derive(clap::Args)]
pub(super) struct Show {
    /// Of this mesh alone.
    #[arg(long, value_name = "M")]
    mesh: Option<String>,
    #[command(flatten)]
    which: Which,
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
        #[cfg(feature = "io")]
        Command::Apply(args) => apply(&args, global, printer),
        Command::Diff(args) => trial::run(&args, global, printer),
        Command::Show(args) => show(&args, global, printer),
        Command::Check(args) => check(args, global, printer),
        Command::Test(args) => test(args, global, printer),
    }
}

/// Proposes a file's policy: 0 when it is recorded or in force already, 1 when it is none or the
/// mesh is unknown.
#[cfg(feature = "io")]
fn apply(
    args: &Apply,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let Some(text) = read_policy(&args.file, printer)? else {
        return Ok(ExitCode::from(1));
    };
    let mesh = args.mesh.as_deref().map(mesh_named).transpose()?;
    if !args.untried {
        warn(args, &text, mesh.clone(), global);
    }
    let mut speaker = Speaker::find(&args.way, global)?;
    speaker.tell(&Speech::Policy { mesh, text }, global, printer)
}

/// Says what a person may not have meant. What cannot be tried is applied all the same.
#[cfg(feature = "io")]
fn warn(args: &Apply, text: &str, mesh: Option<MeshId>, global: &Global) {
    let which = Which::own(args.way.brokers.clone());
    let since = Since::Ago(args.over);
    let told = which
        .open(global)
        .and_then(|mut place| trial::trial(&mut place, text, since, mesh));
    match told {
        Ok(told) => {
            let span = duration(args.over);
            if let Some(warning) = told.and_then(|told| trial::warning(&told, &span)) {
                say(&format!("homeostat: warning: {warning}"));
            }
        }
        Err(error) => say(&format!(
            "homeostat: it could not be tried on what was recorded: {error:#}"
        )),
    }
}

/// The policy of a file, as it is proposed; `None` when it is none, which is printed.
pub(super) fn read_policy(
    file: &Path,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<Option<String>> {
    let text = read_text(file, "policy", "TOML")?;
    match Config::new(Some((file, &text)), []) {
        Err(ConfigError::Invalid { origin, fault }) => {
            find_wanting(&origin, &fault, printer)?;
            Ok(None)
        }
        read => Ok(Some(read?.policy_text().to_owned())),
    }
}

/// What is in force.
fn show(
    args: &Show,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut place = args.which.open(global)?;
    let all = in_force(&mut place)?;
    let wanted = |policy: &&InForce| args.mesh.as_ref().is_none_or(|m| *m == policy.mesh_id);
    let mut shown = 0;
    for policy in all.iter().filter(wanted) {
        shown += 1;
        printer.print(policy, &policy.words())?;
    }
    if shown == 0 {
        let names: Vec<&str> = all.iter().map(|policy| policy.mesh_id.as_str()).collect();
        say(&format!(
            "homeostat: no mesh of this name was heard; known are: {}",
            plain(names.join(" ").trim())
        ));
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

fn in_force(place: &mut Place) -> anyhow::Result<Vec<InForce>> {
    let lines: Vec<String> = match &place.kind {
        #[cfg(feature = "io")]
        Kind::Held(holder) => {
            let text = String::from_utf8(holder.get("/v1/policy")?)?;
            text.lines().map(str::to_owned).collect()
        }
        #[cfg(feature = "io")]
        Kind::Folder(folder) => {
            let rows = [(0, folder.rows("plan"))];
            known(&mut *place.source, Some(&rows))?
        }
        _ => known(&mut *place.source, None)?,
    };
    let read = |line: &String| serde_json::from_str(line).context("reading the policy in force");
    lines.iter().map(read).collect()
}

fn known(
    source: &mut dyn Source,
    rows: Option<&[(i32, Rc<dyn Store>)]>,
) -> anyhow::Result<Vec<String>> {
    let partitions = source.title()?.partitions;
    let mut known = Known {
        partitions,
        rows,
        source,
        now: None,
    };
    Ok(known
        .policies()?
        .iter()
        .map(|policy| policy.json())
        .collect())
}

/// A policy in force, as the door tells it.
#[derive(Deserialize, Serialize)]
struct InForce {
    mesh_id: String,
    policy_id: String,
    policy_generation: i64,
    text: String,
}

impl InForce {
    fn words(&self) -> String {
        let whom = match self.mesh_id.as_str() {
            "" => "every mesh that is opened from now on".to_owned(),
            mesh => format!("mesh {}", plain(mesh)),
        };
        let mut words = format!(
            "{whom}: policy {}, generation {}",
            self.policy_id, self.policy_generation
        );
        if self.text == Policy::BUILT_IN {
            words += ": the built-in one";
        } else if self.text.is_empty() {
            words += ": every key at its default";
        } else {
            for line in self.text.lines() {
                words += &format!("\n  {}", plain(line));
            }
        }
        words
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
