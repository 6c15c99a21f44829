//! `homeostat backup`: a consistent copy of a data folder, made while the loop runs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::config::settings::Source;
use crate::embedded::Embedded;
use crate::runtime::TimeSource;

use super::holder::Holder;
use super::{Global, Printer};

/// Arguments of `backup`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to: a folder that is not there yet. On the same disk it takes next to no room at
    /// first.
    dir: PathBuf,
}

/// Runs `backup`: 0 when the copy is whole and durable.
pub(super) fn run(
    args: &Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let config = global.config()?;
    let settings = config.settings();
    let brokers = &settings.kafka.brokers;
    if !brokers.is_empty() {
        bail!(
            "backing up the log on {brokers}: the brokers keep its copies (kafka.replication), and \
             the rows are rebuilt from it: there is nothing here to back up"
        );
    }
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("backing up to {}", args.dir.display()))?;
    match Holder::find_patient(&settings.log.dir, COPY_MAX)? {
        Some(holder) => {
            let order = serde_json::to_vec(&Order { dir: &dir })?;
            holder.post("/v1/backup", order)?;
        }
        None => {
            let source = match settings.time.source {
                Source::Log => TimeSource::Log,
                Source::Sample => TimeSource::Sample,
            };
            // Reads the folder first: what is not there yet would be begun, and copied.
            drop(Embedded::read_only(&settings.log.dir)?);
            Embedded::open(&settings.log, source)?.backup(&dir)?;
        }
    }
    let words = format!(
        "{} holds all of {} as it was; next: `homeostat replay --data {}` proves that it decides \
         the same",
        dir.display(),
        settings.log.dir.display(),
        dir.display()
    );
    printer.print(&Order { dir: &dir }, &words)?;
    Ok(ExitCode::SUCCESS)
}

/// What the holder is asked for, and what was done.
#[derive(Serialize)]
struct Order<'a> {
    dir: &'a PathBuf,
}

/// How long a copy to another disk may take.
const COPY_MAX: Duration = Duration::from_secs(3600);
