//! `homeostat report`: what was decided, done, withheld and helped over some days, on a page.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::explain::each_from;
use super::meter::Meter;
use super::place::Which;
use super::since::Since;
use super::{Global, Printer, say};
use crate::knowledge::explain::duration;
use crate::knowledge::report::{Fate, Report, quantile};
use crate::model::{MeshId, Span, Time};
use crate::runtime::partitions_of;
use crate::stream::Topic;
use crate::topology::what_if::last_time;

/// Arguments of `report`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// From when on: a span before the last reading, or a time.
    #[arg(long, value_name = "SPAN|TIME", default_value = "7d", value_parser = Since::read)]
    since: Since,
    /// Of this mesh alone.
    #[arg(long, value_name = "M")]
    mesh: Option<String>,
    #[command(flatten)]
    which: Which,
}

/// Runs `report`: 0 with the page, 1 when nothing is recorded.
pub(super) fn run(
    args: &Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut place = args.which.open(global)?;
    let since = args.since.in_log(&mut *place.source);
    let Some(since) = since.context("reading the last readings")? else {
        say("homeostat: no reading is recorded here: nothing to report");
        return Ok(ExitCode::from(1));
    };
    let last = last_time(&mut *place.source)?.unwrap_or(since);
    let mut report = Report::default();
    let mut meter = Meter::new("reading events");
    for of in partitions_of(Topic::Events, place.source.title()?.partitions) {
        let mut next = place.source.offset_at(of, since)?;
        each_from(&mut next, &mut place, of, &mut meter, &mut |event| {
            let all = args.mesh.as_deref().map(MeshId::parse);
            if all.is_none_or(|mesh| mesh.as_ref() == Some(&event.mesh)) {
                report.note(event);
            }
            true
        })?;
    }
    drop(meter);
    let report = report.at(last);
    printer.print(&object(&report, since, last), &page(&report, since, last))?;
    Ok(ExitCode::SUCCESS)
}

fn object(report: &Report, since: Time, until: Time) -> Value {
    let kinds: BTreeMap<&str, Value> = report
        .kinds
        .iter()
        .map(|(kind, fate)| {
            let Fate {
                ordered,
                applied,
                refused,
                failed,
                unknown,
                expired,
                helped,
                not_helped,
            } = *fate;
            let fate = json!({
                "ordered": ordered, "applied": applied, "refused": refused, "failed": failed,
                "unknown": unknown, "expired": expired, "helped": helped, "not_helped": not_helped,
            });
            (kind.name(), fate)
        })
        .collect();
    let withheld: BTreeMap<&str, u64> = report
        .withheld
        .iter()
        .map(|(reason, count)| (reason.name(), *count))
        .collect();
    let times =
        |sorted: &[i64]| json!({"median": quantile(sorted, 50), "p90": quantile(sorted, 90)});
    let people = &report.people;
    json!({
        "since": since.to_string(),
        "until": until.to_string(),
        "directives": kinds,
        "withheld": withheld,
        "incidents": {
            "opened": report.opened, "closed": report.repair_ms.len(), "mass": report.mass,
        },
        "detect_ms": times(&report.detect_ms),
        "repair_ms": times(&report.repair_ms),
        "people": {
            "holds": people.holds, "releases": people.releases, "approvals": people.approvals,
            "rejections": people.rejections, "policies": people.policies,
        },
    })
}

fn page(report: &Report, since: Time, until: Time) -> String {
    let mut page = format!("{since} to {until}\n\ndecided and done\n");
    if report.kinds.is_empty() {
        page += "  nothing was ordered\n";
    }
    for (kind, fate) in &report.kinds {
        let mut line = format!("  {}: {} ordered", kind.name(), fate.ordered);
        for (count, what) in [
            (fate.applied, "applied"),
            (fate.refused, "refused"),
            (fate.failed, "failed"),
            (fate.unknown, "of unknown end"),
            (fate.expired, "expired"),
        ] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        if fate.helped + fate.not_helped > 0 {
            line += &format!("; helped {}, did not {}", fate.helped, fate.not_helped);
        }
        page += &format!("{line}\n");
    }
    page += "\nwithheld\n";
    if report.withheld.is_empty() {
        page += "  nothing\n";
    }
    let mut withheld: Vec<_> = report.withheld.iter().collect();
    withheld.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in withheld {
        page += &format!("  {}: {count}\n", reason.name());
    }
    page += &format!(
        "\nincidents\n  {} opened, {} repaired, {} of much of a mesh\n",
        report.opened,
        report.repair_ms.len(),
        report.mass
    );
    for (what, sorted) in [
        ("time to detect", &report.detect_ms),
        ("time to repair", &report.repair_ms),
    ] {
        if let (Some(median), Some(p90)) = (quantile(sorted, 50), quantile(sorted, 90)) {
            let (median, p90) = (duration(Span(median)), duration(Span(p90)));
            page += &format!("  {what}: median {median}, 90 % within {p90}\n");
        }
    }
    let people = &report.people;
    page += &format!(
        "\npeople\n  {} holds, {} releases, {} approvals, {} rejections, {} policies",
        people.holds, people.releases, people.approvals, people.rejections, people.policies
    );
    page
}
