//! `homeostat events`, `directives`, `cycles`: a topic, record by record, now and as it grows.

use std::io::Write;
use std::process::ExitCode;
use std::thread::park_timeout;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::value::RawValue;

use super::place::{Place, Which};
use super::{Global, Printer, plain, say};
use crate::knowledge::cycle::monitored;
use crate::knowledge::explain::words;
use crate::model::{Body, CycleClosed, Directive, Event, Kind, MeshId, NodeId, Severity, Time};
use crate::model::{edit_distance, parse_rfc3339};
use crate::runtime::{Merged, Record, TopicPartition};
use crate::sim::scenario::brief;
use crate::stream::Topic;
use crate::topology::places::partitions_for;
use crate::wire;

/// Arguments of `events`, `directives` and `cycles`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Of this mesh only; '' for what belongs to no single mesh, which is not shown else.
    #[arg(long, value_name = "MESH", value_parser = mesh)]
    mesh: Option<MeshId>,
    /// About this node only.
    #[arg(long, value_name = "NODE", value_parser = node)]
    node: Option<NodeId>,
    /// Of this type only: of events as in `type`, of directives the kind of action, of cycles the
    /// severity.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// From this seq of each mesh on; of directives the generation, of cycles the sample's seq.
    #[arg(long, value_name = "SEQ")]
    from: Option<i64>,
    /// From this time on, RFC 3339 in UTC such as 2026-01-01T00:05:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Time>,
    /// Go on with what comes.
    #[arg(long)]
    follow: bool,
}

/// Runs the command of a topic: 0 when it was read.
pub(super) fn run(
    topic: Topic,
    args: Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    check_type(topic, args.kind.as_deref())?;
    let mut place = args.which.open(global)?;
    let count = place.source.title()?.partitions;
    let partitions = partitions_for(topic, args.mesh.as_ref(), args.node.as_ref(), count);
    let mut from = Vec::new();
    for of in &partitions {
        from.push(match args.since {
            Some(since) => place.source.offset_at(*of, since)?,
            None => place.source.start(*of)?,
        });
    }
    let mut way = Merged::new(partitions.iter().copied().zip(from));
    let mut shown = 0;
    loop {
        way.go_on(&place.source.ends(&partitions)?);
        shown += show_new(&mut way, &args, &mut place, printer)?;
        if !args.follow {
            break;
        }
        printer.out.flush()?;
        if !place.grows() {
            say("homeostat: nothing follows: nobody writes there now; `homeostat run` does");
            break;
        }
        park_timeout(PAUSE);
    }
    if shown == 0 && !args.follow && !printer.json {
        say("homeostat: nothing of that kind is kept");
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what is left of the way.
fn show_new(
    way: &mut Merged,
    args: &Args,
    place: &mut Place,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<usize> {
    let mut shown = 0;
    while let Some((of, record)) = way.next(&mut *place.source, CHUNK_RECORDS)? {
        if let Some(line) = read(of, &record, args)? {
            printer.print(&RawValue::from_string(line.json)?, &plain(&line.text))?;
            shown += 1;
        }
    }
    Ok(shown)
}

/// A record as it is shown.
struct Line {
    json: String,
    text: String,
}

/// Reads a record, when it is wanted.
fn read(of: TopicPartition, record: &Record, args: &Args) -> anyhow::Result<Option<Line>> {
    let at = |error: crate::stream::Reject| {
        anyhow!(
            "reading record {} of {of}: {error}; a newer version may have written it",
            record.offset
        )
    };
    // The key is the mesh: most of what is not wanted need not be read.
    if of.topic == Topic::Events
        && let Some(mesh) = &args.mesh
        && record.key != mesh.as_str().as_bytes()
    {
        return Ok(None);
    }
    Ok(match of.topic {
        Topic::Events => {
            let event = wire::decode_event(&record.value).map_err(at)?;
            wanted(
                args,
                &event.mesh,
                event.body.node(),
                event.body.name(),
                event.seq,
            )
            .then(|| Line {
                json: wire::json::event(&event),
                text: event_line(&event),
            })
        }
        Topic::Directives => {
            let d = wire::decode_directive(&record.value).map_err(at)?;
            let kind = d.action.kind().name();
            wanted(args, &d.mesh, Some(&d.node), kind, d.generation).then(|| Line {
                json: wire::json::directive(&d),
                text: directive_line(&d),
            })
        }
        _ => {
            let c = wire::decode_cycle(&record.value).map_err(at)?;
            let kind = c.severity.name();
            wanted(args, &c.mesh, Some(&c.node), kind, c.sample_seq).then(|| Line {
                json: wire::json::cycle(&c),
                text: cycle_line(&c),
            })
        }
    })
}

fn wanted(args: &Args, mesh: &MeshId, node: Option<&NodeId>, kind: &str, seq: i64) -> bool {
    let of_mesh = match &args.mesh {
        Some(wanted) => wanted == mesh,
        None => !mesh.is_none(),
    };
    of_mesh
        && args.node.as_ref().is_none_or(|wanted| Some(wanted) == node)
        && args.kind.as_ref().is_none_or(|wanted| wanted == kind)
        && args.from.is_none_or(|from| seq >= from)
}

fn event_line(event: &Event) -> String {
    let who = match (event.mesh.is_none(), event.body.node()) {
        (true, None) => "all meshes".to_owned(),
        (_, None) => format!("mesh {}", event.mesh),
        (_, Some(node)) => format!("{}/{node}", event.mesh),
    };
    let what = brief(event).unwrap_or_else(|| other(&event.body));
    let (time, seq) = (event.time, event.seq);
    format!("{time}  {who}  seq {seq}  {what}")
}

/// What a scenario does not tell.
fn other(body: &Body) -> String {
    match body {
        Body::LogOpened { log_id, .. } => format!("log {log_id} opened"),
        Body::MeshOpened { origin, .. } => format!("mesh opened as {origin}"),
        Body::SchemaAdopted { name, .. } => format!("schema {name} is in use"),
        Body::NodeAssessed {
            assessment: Some(a),
            ..
        } => format!("assessed {}, phi {:.3}", a.severity.name(), a.phi),
        body => body.name().to_owned(),
    }
}

fn directive_line(d: &Directive) -> String {
    format!(
        "{}  {}/{}  {}  ({}, to be begun within {} s)",
        d.issued_at,
        d.mesh,
        d.node,
        words(&d.action),
        d.id,
        d.ttl_s
    )
}

fn cycle_line(c: &CycleClosed) -> String {
    let symptoms: Vec<&str> = c.symptoms.iter().map(|symptom| symptom.name()).collect();
    let colon = if symptoms.is_empty() { "" } else { ": " };
    format!(
        "{}  {}/{}  {}{colon}{}  {} (phi {:.3})  {}",
        c.time,
        c.mesh,
        c.node,
        c.severity.name(),
        symptoms.join(", "),
        c.state.name(),
        c.phi,
        monitored(c)
    )
}

fn check_type(topic: Topic, kind: Option<&str>) -> anyhow::Result<()> {
    let Some(kind) = kind else { return Ok(()) };
    let known: Vec<&str> = match topic {
        Topic::Events => Body::NAMES.to_vec(),
        Topic::Directives => Kind::ALL.iter().map(|kind| kind.name()).collect(),
        _ => [Severity::Ok, Severity::Warning, Severity::Critical]
            .map(Severity::name)
            .to_vec(),
    };
    if known.contains(&kind) {
        return Ok(());
    }
    let nearest = known.iter().min_by_key(|known| edit_distance(kind, known));
    bail!(
        "no type {kind:?} stands on {}, the nearest is {}; there are {}",
        topic.name(),
        nearest.copied().unwrap_or_default(),
        known.join(", ")
    )
}

pub(super) fn mesh(text: &str) -> Result<MeshId, String> {
    MeshId::parse(text).ok_or_else(|| "expected a name of at most 255 bytes".to_owned())
}

pub(super) fn node(text: &str) -> Result<NodeId, String> {
    NodeId::parse(text).ok_or_else(|| "expected a name of 1 to 255 bytes".to_owned())
}

pub(super) fn moment(text: &str) -> Result<Time, String> {
    parse_rfc3339(text.as_bytes())
        .map(Time)
        .ok_or_else(|| "expected RFC 3339 in UTC such as 2026-01-01T00:05:00Z".to_owned())
}

/// How long it waits for more.
const PAUSE: Duration = Duration::from_millis(200);

/// Records read at a time.
const CHUNK_RECORDS: usize = 2048;
