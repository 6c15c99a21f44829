//! `homeostat check`: the doctor. What keeps this machine from running a loop, one thing after the
//! other, and no further than the first that is fatal; every red line names what mends it.
//!
//! What is looked at stands in `look`, what it means in `judge`, which is pure.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::{Colour, Global, Printer, plain, say};
use crate::config::Config;
use crate::web::Access;

mod brokers;
mod door;
mod judge;
mod look;

use judge::{Finding, Verdict};
use look::{Folder, Holder};

/// Arguments of `check`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// One text that fits a chat message (at most 500 characters).
    #[arg(long)]
    short: bool,
}

/// Runs `check`: 0 all is well, 1 something was found wanting, 2 something could not be told.
pub(super) fn run(
    args: Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let held = examine(global, &mut findings);
    let verdict = judge::whole(&findings);
    if args.short {
        let text = judge::short(&findings);
        printer.print(
            &Short {
                verdict,
                text: &text,
            },
            &text,
        )?;
    } else {
        for finding in &findings {
            printer.print(finding, &words(finding, printer))?;
        }
        let next = match verdict {
            Verdict::Wanting | Verdict::Unknown => global.command("check"),
            Verdict::Ok | Verdict::Note if held => global.command("state"),
            Verdict::Ok | Verdict::Note => global.command("run"),
        };
        say(&format!("next: {next}"));
    }
    Ok(match verdict {
        Verdict::Ok | Verdict::Note => ExitCode::SUCCESS,
        Verdict::Wanting => ExitCode::from(1),
        Verdict::Unknown => ExitCode::from(2),
    })
}

/// Looks and judges; whether somebody holds the data folder.
fn examine(global: &Global, findings: &mut Vec<Finding>) -> bool {
    let config = global.config();
    findings.push(judge::configuration(global, &config));
    let Ok(config) = config else {
        return false;
    };
    let dir = &config.settings().log.dir;
    let folder = look::folder(dir);
    findings.push(judge::folder(global, dir, &folder));
    let held = matches!(folder, Folder::Open(Holder::Somebody(_)));
    if !findings.last().is_some_and(|last| last.fatal) {
        examine_open(global, &config, &folder, findings);
    }
    held
}

/// What can be asked when the folder can be used.
fn examine_open(global: &Global, config: &Config, folder: &Folder, findings: &mut Vec<Finding>) {
    let settings = config.settings();
    let dir = &settings.log.dir;
    let mut log = None;
    let card = match folder {
        Folder::Open(Holder::Somebody(card)) => card.as_ref(),
        _ => None,
    };
    let access = Access::read(settings).map(|access| access.count());
    let access = access.map_err(|error| error.to_string());
    findings.push(judge::access(global, &settings.web, card, &access));
    if let Folder::Open(Holder::Somebody(card)) = folder {
        let ready = door::get(dir, "/readyz");
        findings.push(judge::door(global, card.as_ref(), &ready));
        if ready.is_ok() && settings.kafka.brokers.is_empty() {
            let read = look::log(dir);
            findings.extend(
                read.as_ref()
                    .err()
                    .map(|error| judge::no_log(global, error)),
            );
            log = read.ok();
        }
    }
    let clock = look::clock();
    findings.push(judge::clock(&clock, log.as_ref()));
    if !settings.kafka.brokers.is_empty() {
        let found = brokers::look(settings, clock.now_ms);
        findings.extend(judge::brokers(global, &settings.kafka, &found, &clock));
        if findings.last().is_some_and(|last| last.fatal) {
            return;
        }
    }
    findings.push(judge::space(global, &settings.log, &look::space(dir)));
    if let Some(log) = &log {
        findings.extend(judge::topics(global, &settings.log, log, clock.now_ms));
    }
    findings.extend(judge::agent(&look::unmeasured(&settings.agent)));
}

fn words(finding: &Finding, printer: &Printer<impl Write>) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => printer.paint(Colour::Green, "ok      "),
        Verdict::Note => "note    ".to_owned(),
        Verdict::Wanting => printer.paint(Colour::Red, "WANTING "),
        Verdict::Unknown => printer.paint(Colour::Red, "UNKNOWN "),
    };
    let mut words = format!("{verdict} {:<14} {}", finding.check, plain(&finding.words));
    if let Some(mend) = &finding.mend {
        words.push_str(&format!("\n{:>23} {}", "mend:", plain(mend)));
    }
    words
}

#[derive(Serialize)]
struct Short<'a> {
    verdict: Verdict,
    text: &'a str,
}
