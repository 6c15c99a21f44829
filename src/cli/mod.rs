//! The command line: one file per subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod assess;

/// Keeps meshes and fleets healthy by itself.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Samples as JSON lines on stdin, assessments on stdout.
    Assess(assess::Args),
}

/// Runs the command line; the exit code is 0 for yes, 1 for checked and found wanting, 2 for could
/// not tell.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match cli.command {
        Command::Assess(args) => assess::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("homeostat: {error:#}");
        ExitCode::from(2)
    })
}
