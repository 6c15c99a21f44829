//! `homeostat explain`: why something was ordered, withheld or called an incident.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{Printer, export, plain, say};
use crate::knowledge::explain::explain;
use crate::model::{Body, Event};

/// Arguments of `explain`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Id of a directive (dir-...), an incident (inc-...) or something withheld (wh-...).
    id: String,
    /// The export, as `demo --keep DIR` writes it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs `explain`: 0 with the story, 1 when nothing bears that id.
pub(super) fn run(args: Args, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let (_, recorded) = export::read(&args.dir)?;
    let partitions = export::events(&recorded)?;
    let Some(story) = partitions
        .iter()
        .find_map(|events| explain(events, &args.id))
    else {
        say(&format!(
            "homeostat: no event bears the id {:?}; it has: {}",
            args.id,
            ids(&partitions).join(", ")
        ));
        return Ok(ExitCode::from(1));
    };
    if !printer.json {
        printer.print(&(), &plain(&story.title))?;
    }
    for line in &story.lines {
        let object = Line {
            time: line.time.to_string(),
            seq: line.seq,
            text: &line.text,
        };
        let words = format!(
            "  {}  {}  (leaf {})",
            line.time,
            plain(&line.text),
            line.seq
        );
        printer.print(&object, &words)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest ids that could be asked for.
fn ids(partitions: &[Vec<Event>]) -> Vec<&str> {
    let newest = partitions.iter().flat_map(|events| events.iter().rev());
    let mut ids: Vec<&str> = newest
        .filter_map(|event| match &event.body {
            Body::DirectiveIssued { directive } => Some(directive.id.as_str()),
            Body::DirectiveWithheld { id, .. } => Some(id),
            Body::IncidentOpened { incident_id, .. } => Some(incident_id),
            _ => None,
        })
        .take(IDS_SHOWN)
        .collect();
    if ids.is_empty() {
        ids.push("none");
    }
    ids
}

/// How many ids a wrong guess is answered with.
const IDS_SHOWN: usize = 8;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    seq: i64,
    text: &'a str,
}
