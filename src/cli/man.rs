//! `homeostat man`: manual pages, one a command.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use serde::Serialize;

use super::{Cli, Printer, say};

/// Arguments of `man`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder, made when it is not there; pages in it are replaced.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs `man`.
pub(super) fn run(args: Args, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let dir = args.dir.display();
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("making {dir}, expected a folder for manual pages"))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("writing manual pages into {dir}"))?;
    let written = Written {
        dir: dir.to_string(),
    };
    printer.print(&written, &format!("written: manual pages into {dir}"))?;
    say(&format!("next: man {dir}/homeostat.1"));
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Written {
    dir: String,
}
