//! `homeostat explain`: why something was ordered, withheld or called an incident.

use std::collections::VecDeque;
use std::io::Write;
use std::process::ExitCode;

use anyhow::anyhow;
use serde::Serialize;

use super::meter::Meter;
use super::place::{Place, Which};
use super::{Global, Printer, plain, say};
use crate::knowledge::explain::{Gather, Story, explain};
use crate::model::{Body, Event};
use crate::runtime::{TopicPartition, partitions_of};
use crate::sim::retell::{RetellError, Subject};
use crate::stream::Topic;
use crate::topology::replay::Done;
use crate::wire;

/// Arguments of `explain`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Id of a directive (dir-...), an incident (inc-...) or something withheld (wh-...).
    id: String,
    /// Print it as a story for `policy test` (docs/stories.md).
    #[arg(long)]
    as_test: bool,
    #[command(flatten)]
    which: Which,
}

/// Runs `explain`: 0 with the story, 1 when nothing bears that id.
pub(super) fn run(
    args: Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut place = args.which.open(global)?;
    if args.as_test {
        return as_test(&mut place, &args.id, printer);
    }
    let story = match story(&mut place, &args.id)? {
        Ok(story) => story,
        Err(newest) => return Ok(unknown(&args.id, &newest)),
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

fn unknown(id: &str, newest: &[String]) -> ExitCode {
    say(&format!(
        "homeostat: no event bears the id {id:?}; the newest are: {}",
        newest.join(", ")
    ));
    ExitCode::from(1)
}

/// Prints it as a story for `policy test`.
fn as_test(
    place: &mut Place,
    id: &str,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut meter = Meter::new("reading events");
    let (of, subject) = match find(place, id, &mut meter)? {
        Ok(found) => found,
        Err(newest) => return Ok(unknown(id, &newest)),
    };
    let mut events = Vec::new();
    each(place, of, &mut meter, &mut |event| {
        let near = event.mesh == subject.mesh || event.mesh.is_none();
        let about = event.body.node().is_none() || event.body.node() == subject.body.node();
        if near && about {
            events.push(event.clone());
        }
        true
    })?;
    drop(meter);
    let retold = match Subject::find(&events, id) {
        Ok(Some(subject)) => subject.retell(&mut *place.source),
        Ok(None) => return Ok(unknown(id, &[])),
        Err(error) => Err(error),
    };
    let retold = match retold {
        Err(RetellError::Log(error)) => return Err(error.into()),
        Err(error) => {
            say(&format!("homeostat: {error}"));
            return Ok(ExitCode::from(1));
        }
        Ok(retold) => retold,
    };
    let text = Test {
        story: &retold.text,
    };
    printer.print(&text, retold.text.trim_end())?;
    let (recorded, told) = retold.ordered;
    if recorded != told {
        say(&format!(
            "homeostat: {told} orders come out, {recorded} were recorded: what the mesh's other \
             nodes did, and what happened before, is not in the story"
        ));
    }
    say("next: keep it in a file; `homeostat policy test --policy POLICY FILE` tries yours on it");
    Ok(ExitCode::SUCCESS)
}

/// The story of an id: its event is looked for, then what belongs to it is gathered. When there is
/// none, the newest ids that could be asked for.
fn story(place: &mut Place, id: &str) -> anyhow::Result<Result<Story, Vec<String>>> {
    let mut meter = Meter::new("reading events");
    let (of, subject) = match find(place, id, &mut meter)? {
        Ok(found) => found,
        Err(newest) => return Ok(Err(newest)),
    };
    let mut gather = Gather::new(subject);
    each(place, of, &mut meter, &mut |event| {
        gather.note(event);
        true
    })?;
    let told = explain(&gather.events(), id);
    told.map(Ok)
        .ok_or_else(|| anyhow!("the event of {id} was read once and not again; try again"))
}

/// The event that bears an id, and where it stands; else the newest ids that could be asked for.
fn find(
    place: &mut Place,
    id: &str,
    meter: &mut Meter,
) -> anyhow::Result<Result<(TopicPartition, Event), Vec<String>>> {
    let mut newest = VecDeque::new();
    for of in partitions_of(Topic::Events, place.source.title()?.partitions) {
        let mut subject = None;
        each(place, of, meter, &mut |event| {
            if Gather::is_about(event, id) {
                subject = Some(event.clone());
            }
            if let Some(id) = asked_by(&event.body) {
                newest.push_front(id.to_owned());
                newest.truncate(IDS_SHOWN);
            }
            subject.is_none()
        })?;
        if let Some(subject) = subject {
            return Ok(Ok((of, subject)));
        }
    }
    if newest.is_empty() {
        newest.push_front("none".to_owned());
    }
    Ok(Err(newest.into()))
}

/// Reads the events of a partition in order until `go_on` says no.
pub(super) fn each(
    place: &mut Place,
    of: TopicPartition,
    meter: &mut Meter,
    go_on: &mut dyn FnMut(&Event) -> bool,
) -> anyhow::Result<()> {
    let mut next = place.source.start(of)?;
    each_from(&mut next, place, of, meter, go_on)
}

/// The same from an offset on; it is moved past what was read.
pub(super) fn each_from(
    next: &mut i64,
    place: &mut Place,
    of: TopicPartition,
    meter: &mut Meter,
    go_on: &mut dyn FnMut(&Event) -> bool,
) -> anyhow::Result<()> {
    let end = place.source.end(of)?;
    let mut done = Done {
        records: 0,
        total: (end - *next).max(0) as u64,
    };
    while *next < end {
        let chunk = place.source.read(of, *next, end, CHUNK_RECORDS)?;
        for record in &chunk.records {
            let event = wire::decode_event(&record.value)
                .map_err(|error| anyhow!("reading record {} of {of}: {error}", record.offset))?;
            if !go_on(&event) {
                return Ok(());
            }
        }
        done.records += chunk.records.len() as u64;
        meter.tell(done);
        *next = chunk.next;
    }
    Ok(())
}

/// The id that an event can be asked for by.
fn asked_by(body: &Body) -> Option<&str> {
    match body {
        Body::DirectiveIssued { directive } => Some(&directive.id),
        Body::DirectiveWithheld { id, .. } => Some(id),
        Body::IncidentOpened { incident_id, .. } => Some(incident_id),
        _ => None,
    }
}

/// How many ids a wrong guess is answered with.
const IDS_SHOWN: usize = 8;

/// Events read at a time.
const CHUNK_RECORDS: usize = 2048;

#[derive(Serialize)]
struct Test<'a> {
    story: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    seq: i64,
    text: &'a str,
}
