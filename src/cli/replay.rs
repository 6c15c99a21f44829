//! `homeostat replay`: decides again from what was recorded and compares, byte for byte.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{Colour, Printer, export, say};
use crate::runtime::export::ExportError;
use crate::stream::Topic;
use crate::topology::replay::{Recorded, Report, replay, replay_events};

/// Arguments of `replay`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The export, as `demo --keep DIR` writes it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Decide again from the event log alone, without the inboxes.
    #[arg(long)]
    events_only: bool,
}

/// Runs `replay`: 0 no difference, 1 some, 2 it could not be read.
pub(super) fn run(args: Args, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let (export, recorded) = match export::read(&args.dir) {
        Err(error) if matches!(error.downcast_ref(), Some(ExportError::Differs { .. })) => {
            say(&format!(
                "{}: {error:#}",
                printer.paint(Colour::Red, "found wanting")
            ));
            return Ok(ExitCode::from(1));
        }
        read => read?,
    };
    let report = match args.events_only {
        true => events_only(&recorded),
        false => replay(&recorded, &export.manifest().prefix, export.time_source()),
    };
    show(&report, printer)?;
    Ok(ExitCode::from(u8::from(report.differences > 0)))
}

fn events_only(recorded: &Recorded) -> Report {
    let mut report = Report::default();
    for (of, records) in recorded.iter().filter(|(of, _)| of.topic == Topic::Events) {
        let events: Vec<_> = records.iter().map(|record| record.value.clone()).collect();
        report.add(replay_events(of.partition, &events));
    }
    report
}

/// Prints a report; also what `demo` ends with.
pub(super) fn show(report: &Report, printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
    let verdict = match report.differences {
        0 => printer.paint(Colour::Green, "0 differences"),
        n => printer.paint(Colour::Red, &format!("{n} differences")),
    };
    let mut words = format!(
        "{} records folded, {} decisions compared, {verdict}",
        report.records, report.decisions
    );
    if report.not_judged > 0 {
        words += &format!(", {} of other engines not judged", report.not_judged);
    }
    if let Some(first) = &report.first_difference {
        words += &format!(
            "\nfirst difference: {}\n  recorded: {}\n  decided:  {}",
            first.place, first.recorded, first.decided
        );
    }
    let first = report.first_difference.as_ref();
    let line = Line {
        records: report.records,
        decisions: report.decisions,
        differences: report.differences,
        not_judged: report.not_judged,
        first_difference: first.map(|first| First {
            place: &first.place,
            recorded: &first.recorded,
            decided: &first.decided,
        }),
    };
    Ok(printer.print(&line, &words)?)
}

#[derive(Serialize)]
struct Line<'a> {
    records: u64,
    decisions: u64,
    differences: u64,
    not_judged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference: Option<First<'a>>,
}

#[derive(Serialize)]
struct First<'a> {
    place: &'a str,
    recorded: &'a str,
    decided: &'a str,
}
