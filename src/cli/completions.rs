//! `homeostat completions`: what a shell needs to complete commands and flags.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Printer, say};

/// Arguments of `completions`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// For which shell.
    shell: Shell,
}

/// Runs `completions`: a script on standard output, in any case.
pub(super) fn run(args: Args, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "homeostat", &mut script);
    printer.out.write_all(&script)?;
    say(&format!("next: {}", advice(args.shell)));
    Ok(ExitCode::SUCCESS)
}

/// Where the script goes.
fn advice(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => {
            "homeostat completions bash > ~/.local/share/bash-completion/completions/homeostat"
        }
        Shell::Fish => "homeostat completions fish > ~/.config/fish/completions/homeostat.fish",
        Shell::Zsh => "homeostat completions zsh > a folder of $fpath, as _homeostat",
        _ => "have your shell read it at its start",
    }
}
