//! `homeostat assess`.

use std::process::ExitCode;

/// Arguments of `assess`.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    unimplemented!()
}
