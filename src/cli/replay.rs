//! `homeostat replay`: decides again from what was recorded and compares, byte for byte.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::meter::Meter;
use super::place::{Place, Which};
use super::{Colour, Global, Printer, say, trial};
use crate::runtime::export::ExportError;
use crate::topology::replay::{Report, replay_log, replay_log_events};
use crate::topology::what_if::{Question, WhatIfError, what_if};

/// Arguments of `replay`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Decide again from the event log alone, without the inboxes.
    #[arg(long)]
    events_only: bool,
    /// Show what this policy would have ordered instead.
    #[arg(long, value_name = "FILE", conflicts_with = "events_only")]
    policy: Option<PathBuf>,
}

/// Runs `replay`: 0 no difference, 1 some, 2 it could not be read.
pub(super) fn run(
    args: Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut place = match args.which.open(global) {
        Err(error) if matches!(error.downcast_ref(), Some(ExportError::Differs { .. })) => {
            say(&format!(
                "{}: {error:#}",
                printer.paint(Colour::Red, "found wanting")
            ));
            return Ok(ExitCode::from(1));
        }
        opened => opened?,
    };
    if let Some(path) = &args.policy {
        return other_policy(path, &mut place, printer);
    }
    let mut meter = Meter::new("replay");
    let mut progress = |done| meter.tell(done);
    let report = match args.events_only {
        true => replay_log_events(&mut *place.source, &mut progress)?,
        false => replay_log(&mut *place.source, &mut progress)?,
    };
    drop(meter);
    show(&report, printer)?;
    Ok(ExitCode::from(u8::from(report.differences > 0)))
}

/// What a policy would have ordered: no verdict, so 0 when it could be told.
fn other_policy(
    path: &Path,
    place: &mut Place,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the policy {}", path.display()))?;
    let mut meter = Meter::new("what if");
    let question = Question {
        policy: &text,
        ..Question::default()
    };
    let told = what_if(&mut *place.source, &question, &mut |done| meter.tell(done));
    drop(meter);
    let told = match told {
        Err(WhatIfError::Policy(fault)) => {
            return Err(fault).with_context(|| format!("in {}", path.display()));
        }
        told => told?,
    };
    trial::show(&told, printer)?;
    Ok(ExitCode::SUCCESS)
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
        words += &format!(
            ", {} not judged (of other engines, or decided from what is no longer kept)",
            report.not_judged
        );
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
