//! The command line: one file per subcommand, and what they share.
//!
//! - Exit codes: 0 yes, 1 checked and found wanting, 2 could not tell.
//! - Data goes to standard output, through `Printer`; words for people go to standard error.
//! - An error says what was attempted, on what, what was expected, and the next step: a command
//!   returns it, this frame prints it. A reader that went away (a broken pipe) is no error.
//!
//! A new command: a file with `Args` and `run`, a variant of `Command`, an arm in `Cli::run`.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

pub mod assess;
mod demo;
mod explain;
mod export;
mod policy;
mod replay;
mod state;

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
}

#[derive(Subcommand)]
enum Command {
    /// Samples as JSON lines on stdin, assessments on stdout.
    Assess(assess::Args),
    /// A simulated mesh through an incident, and the proof of what was decided.
    Demo(demo::Args),
    /// Why: from samples to symptom to decision to outcome.
    Explain(explain::Args),
    /// The policy that Plan obeys.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Decides again from what was recorded, and compares.
    Replay(replay::Args),
    /// Nodes, incidents, and how well remedies work; at any past moment.
    State(state::Args),
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut printer = Printer::stdout(self.global.json);
        let code = match self.command {
            Command::Assess(args) => assess::run(args),
            Command::Demo(args) => demo::run(args, &mut printer),
            Command::Explain(args) => explain::run(args, &mut printer),
            Command::Replay(args) => replay::run(args, &mut printer),
            Command::State(args) => state::run(args, &mut printer),
            Command::Policy(command) => policy::run(command, &mut printer),
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
            say(&format!("homeostat: {error:#}"));
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

/// Says something to the person at the terminal, whether or not someone listens.
fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
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
