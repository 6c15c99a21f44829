//! The command line: one file per subcommand, and what they share.
//!
//! - Exit codes: 0 yes, 1 checked and found wanting, 2 could not tell.
//! - Data goes to standard output, through `Printer`; words for people go to standard error.
//! - An error says what was attempted, on what, what was expected, and the next step: a command
//!   returns it, this frame prints it. A reader that went away (a broken pipe) is no error.
//!
//! A new command: a file with `Args` and `run`, a variant of `Command`, an arm in `Cli::run`.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

#[cfg(feature = "agent")]
use crate::config::settings::{LineFormat, TelemetrySettings};
use crate::config::{Config, ConfigError};
use crate::stream::Topic;
#[cfg(feature = "agent")]
use crate::telemetry::{Form, Telemetry};

#[cfg(feature = "agent")]
mod agent;
pub mod assess;
#[cfg(feature = "io")]
mod backup;
#[cfg(feature = "io")]
mod check;
#[cfg(feature = "io")]
mod completions;
mod config;
mod demo;
mod dlq;
mod explain;
#[cfg(feature = "io")]
mod holder;
#[cfg(feature = "io")]
mod man;
mod meter;
#[cfg(feature = "io")]
mod opening;
mod place;
mod policy;
#[cfg(feature = "io")]
mod produce;
mod records;
mod replay;
mod report;
#[cfg(feature = "io")]
pub mod run;
mod since;
#[cfg(feature = "io")]
mod speak;
mod state;
#[cfg(feature = "io")]
mod topics;
mod trial;
mod watch;

/// Keeps meshes and fleets healthy by itself.
///
/// Exit codes: 0 yes, 1 checked and found wanting, 2 could not tell.
#[derive(Parser)]
#[command(version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(clap::Args)]
struct Global {
    /// Print data as JSON, one object per line.
    #[arg(long, global = true)]
    json: bool,
    /// Read this configuration file instead of ./homeostat.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder that log and rows lie in, instead of the configuration's.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<String>,
}

impl Global {
    /// What the program is told: file < environment < flags.
    fn config(&self) -> Result<Config, ConfigError> {
        let config = Config::load(self.config.as_deref())?;
        match &self.data {
            Some(dir) => config.with_flag("--data", "log.dir", dir),
            None => Ok(config),
        }
    }

    /// Starts writing what the program says of itself. SIGHUP has [`Global::reread`] called.
    #[cfg(feature = "agent")]
    fn telemetry(&self, settings: &TelemetrySettings) -> anyhow::Result<Telemetry> {
        let form = match settings.format {
            LineFormat::Text => Form::Text,
            LineFormat::Json => Form::Json,
        };
        Ok(Telemetry::start(settings.level.name(), form)?)
    }

    /// Reads the configuration again and sets the level that it says. Beside that tokens and
    /// certificates count, nothing else of it before the next start.
    #[cfg(feature = "agent")]
    fn reread(&self, telemetry: &Telemetry) -> anyhow::Result<Config> {
        let config = self.config()?;
        telemetry.set_level(config.settings().telemetry.level.name())?;
        Ok(config)
    }

    /// A command to be proposed, with the flags that name the same file and folder.
    #[cfg(feature = "io")]
    fn command(&self, words: &str) -> String {
        let mut command = format!("homeostat {words}");
        if let Some(file) = &self.config {
            command.push_str(&format!(" --config {}", quoted(&file.to_string_lossy())));
        }
        if let Some(dir) = &self.data {
            command.push_str(&format!(" --data {}", quoted(dir)));
        }
        command
    }
}

/// A word as a shell takes it.
#[cfg(feature = "io")]
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-:@%+,=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[derive(Subcommand)]
enum Command {
    /// A node's side: collect, send, consume its directives, act, report.
    #[cfg(feature = "agent")]
    Agent(agent::Args),
    /// Answers a proposal: yes, or with --reject no.
    #[cfg(feature = "io")]
    Approve(speak::Approve),
    /// Samples as JSON lines on stdin, assessments on stdout.
    Assess(assess::Args),
    /// A consistent copy of the data folder, made while the loop runs.
    #[cfg(feature = "io")]
    Backup(backup::Args),
    /// The doctor: what keeps this machine from running a loop, and the command that mends it.
    #[cfg(feature = "io")]
    Check(check::Args),
    /// What your shell needs to complete commands and flags, on stdout.
    #[cfg(feature = "io")]
    Completions(completions::Args),
    /// The configuration: each value with its origin, or a file to begin with.
    #[command(subcommand)]
    Config(config::Command),
    /// Cycles that closed, one a line.
    Cycles(records::Args),
    /// A simulated mesh through an incident, and the proof of what was decided.
    Demo(demo::Args),
    /// Orders to nodes, one a line.
    Directives(records::Args),
    /// Dead letters: what could not be folded, and why.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// What was decided and why not, one event a line.
    Events(records::Args),
    /// Why: from samples to symptom to decision to outcome.
    Explain(explain::Args),
    /// Orders nothing for a node or a mesh until it is released or a time is over.
    #[cfg(feature = "io")]
    Hold(speak::Hold),
    /// Manual pages, into a folder.
    #[cfg(feature = "io")]
    Man(man::Args),
    /// Holds everything: no mesh is given orders.
    #[cfg(feature = "io")]
    Pause(speak::Pause),
    /// The policy that Plan obeys.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Samples as JSON lines on stdin, into the log.
    #[cfg(feature = "io")]
    Produce(produce::Args),
    /// Ends a hold, and a mesh's storm; what waited is judged again.
    #[cfg(feature = "io")]
    Release(speak::Release),
    /// Ends the hold of everything; what is held by itself stays held.
    #[cfg(feature = "io")]
    Resume(speak::Resume),
    /// The processor: all stages, the door, and an agent for this host.
    #[cfg(feature = "io")]
    Run(run::Args),
    /// Decides again from what was recorded, and compares.
    Replay(replay::Args),
    /// What was decided, done, withheld and helped over some days, on a page.
    Report(report::Args),
    /// Nodes, incidents, and how well remedies work; at any past moment.
    State(state::Args),
    /// The topics of a log on Kafka: make them, what differs, who may do what.
    #[cfg(feature = "io")]
    #[command(subcommand)]
    Topics(topics::Command),
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        let global = &self.global;
        let mut printer = Printer::stdout(global.json);
        let code = match self.command {
            #[cfg(feature = "agent")]
            Command::Agent(args) => agent::run(args, global),
            #[cfg(feature = "io")]
            Command::Approve(args) => speak::approve(args, global, &mut printer),
            Command::Assess(args) => assess::run(args, global),
            #[cfg(feature = "io")]
            Command::Backup(args) => backup::run(&args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Check(args) => check::run(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Completions(args) => completions::run(args, &mut printer),
            Command::Config(command) => config::run(command, global, &mut printer),
            Command::Cycles(args) => records::run(Topic::Cycles, args, global, &mut printer),
            Command::Demo(args) => demo::run(args, &mut printer),
            Command::Directives(args) => {
                records::run(Topic::Directives, args, global, &mut printer)
            }
            Command::Dlq(command) => dlq::run(command, global, &mut printer),
            Command::Events(args) => records::run(Topic::Events, args, global, &mut printer),
            Command::Explain(args) => explain::run(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Hold(args) => speak::hold(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Man(args) => man::run(args, &mut printer),
            #[cfg(feature = "io")]
            Command::Pause(args) => speak::pause(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Produce(args) => produce::run(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Release(args) => speak::release(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Resume(args) => speak::resume(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Run(args) => run::run(&args, global),
            Command::Replay(args) => replay::run(args, global, &mut printer),
            Command::Report(args) => report::run(&args, global, &mut printer),
            Command::State(args) => state::run(args, global, &mut printer),
            #[cfg(feature = "io")]
            Command::Topics(command) => topics::run(command, global, &mut printer),
            Command::Policy(command) => policy::run(command, global, &mut printer),
        }?;
        printer.out.flush()?;
        Ok(code)
    }
}

/// Runs the command line; the exit code is 0 for yes, 1 for checked and found wanting, 2 for could
/// not tell.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // When nobody reads the help, nobody misses it.
            let _ = usage.print();
            return match usage.use_stderr() {
                true => ExitCode::from(2),
                false => ExitCode::SUCCESS,
            };
        }
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("homeostat: {}", whole(&error)));
            ExitCode::from(2)
        }
    }
}

/// Writes data to standard output.
struct Printer<W> {
    out: W,
    /// Print JSON, one object per line.
    json: bool,
    /// Standard output is a terminal of someone who wants colours.
    colour: bool,
}

impl Printer<io::BufWriter<io::StdoutLock<'static>>> {
    fn stdout(json: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let stdout = io::stdout();
        Printer {
            colour: stdout.is_terminal() && !no_color,
            out: io::BufWriter::new(stdout.lock()),
            json,
        }
    }
}

impl<W: Write> Printer<W> {
    /// Prints one thing: `object` with `--json`, else `text`, which may hold line breaks.
    fn print(&mut self, object: &impl Serialize, text: &str) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, object)?;
            self.out.write_all(b"\n")
        } else {
            writeln!(self.out, "{text}")
        }
    }

    /// `word` as it is, or coloured.
    fn paint(&self, colour: Colour, word: &str) -> String {
        match self.colour {
            true => format!("\x1b[{}m{word}\x1b[0m", colour as u8),
            false => word.to_owned(),
        }
    }
}

/// Colours of a terminal (ECMA-48, SGR).
#[derive(Clone, Copy)]
enum Colour {
    Red = 31,
    Green = 32,
}

/// `words` without what would steer a terminal: names may hold any byte.
fn plain(words: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    words.chars().map(visible).collect()
}

/// An error with its causes, leaving out those whose words stand in it already.
fn whole(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

/// Says something to the person at the terminal, whether or not someone listens.
fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// Puts a file's new text in its place, whole. A kill leaves the old text, with `<file>.partial`
/// beside it or not, or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(partial, path)?;
    // The name is durable when its folder is.
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_went_away_is_told_from_other_errors() {
        let error = |kind: ErrorKind| anyhow::Error::new(io::Error::from(kind)).context("writing");
        assert!(is_broken_pipe(&error(ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(ErrorKind::NotFound)));
        let pipe = serde_json::Error::io(ErrorKind::BrokenPipe.into());
        assert!(is_broken_pipe(&anyhow::Error::new(pipe)));
    }

    #[cfg(feature = "io")]
    #[test]
    fn a_proposed_command_can_be_pasted() {
        let global = Global {
            json: false,
            config: Some("a b.toml".into()),
            data: Some("it's".to_owned()),
        };
        assert_eq!(
            global.command("run"),
            "homeostat run --config 'a b.toml' --data 'it'\\''s'"
        );
    }

    #[test]
    fn an_error_says_each_cause_once() {
        let io = io::Error::other("no room");
        let error = anyhow::Error::new(io).context("writing x: no room; free some");
        assert_eq!(whole(&error), "writing x: no room; free some");
        let error = error.context("backing up");
        assert_eq!(whole(&error), "backing up: writing x: no room; free some");
    }

    #[test]
    fn words_are_coloured_only_for_terminals() {
        let mut printer = Printer {
            out: Vec::new(),
            json: false,
            colour: false,
        };
        assert_eq!(printer.paint(Colour::Red, "no"), "no");
        printer.colour = true;
        assert_eq!(printer.paint(Colour::Green, "ok"), "\x1b[32mok\x1b[0m");
    }
}
