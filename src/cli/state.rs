//! `homeostat state`: what Knowledge knows: nodes, incidents, remedies; now or at any past moment.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::value::RawValue;

#[cfg(feature = "io")]
use super::explain::each;
use super::explain::each_from;
#[cfg(feature = "io")]
use super::holder::Holder;
use super::meter::Meter;
#[cfg(feature = "io")]
use super::place::Kind;
use super::place::{Place, Which};
use super::records::moment;
use super::watch::watch;
use super::{Global, Printer, plain};
use crate::knowledge::evolve;
use crate::knowledge::explain::{duration, words};
use crate::knowledge::views::Views;
use crate::model::Time;
use crate::runtime::{TopicPartition, partitions_of};
#[cfg(feature = "io")]
use crate::stream::write_name;
use crate::stream::{Base, Ledger, NoBase, Topic};
#[cfg(feature = "io")]
use crate::topology::now::StageRows;
use crate::topology::now::{Asked, known};
use crate::topology::replay::Soundness;
use crate::wire;

/// Arguments of `state`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// A past moment, RFC 3339 in UTC such as 2026-01-01T00:05:00Z; without it: now.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Time>,
    /// Draw it again every 2 s, with the cycles that close.
    #[arg(long, conflicts_with = "at")]
    watch: bool,
}

/// Runs `state`.
pub(super) fn run(
    args: Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut place = args.which.open(global)?;
    if args.watch {
        return watch(&mut place, printer);
    }
    let mut views = Views::default();
    let nodes = match (&place.kind, args.at) {
        #[cfg(feature = "io")]
        (Kind::Folder(_) | Kind::Held(_), None) => {
            if !printer.json {
                view_all(&mut place, &mut views)?;
            }
            Standing::default().now(&mut place)?
        }
        (_, at) => Past::default().read(&mut place, at, &mut views)?,
    };
    for node in &nodes {
        node.print(printer)?;
    }
    if !printer.json {
        if nodes.is_empty() {
            printer.print(&(), "no node was known then")?;
        }
        print_views(&views, printer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A node as it is printed.
pub(super) struct Node {
    json: String,
    /// What of it people read.
    pub form: Form,
}

/// What of a node's JSON people read.
#[derive(Deserialize)]
pub(super) struct Form {
    /// Its mesh.
    pub mesh_id: String,
    /// The node.
    pub node_id: String,
    /// How ill it is.
    pub severity: String,
    symptoms: Vec<String>,
    state: String,
    phi: f64,
    interval_s: u32,
    #[serde(default)]
    incident_id: Option<String>,
    #[serde(default)]
    held: bool,
}

impl Node {
    fn read(json: String) -> anyhow::Result<Node> {
        let form = serde_json::from_str(&json).context("reading what is said of a node")?;
        Ok(Node { json, form })
    }

    /// Prints it, an object or a line.
    pub(super) fn print(&self, printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
        let object = RawValue::from_string(self.json.clone())?;
        Ok(printer.print(&object, &plain(&self.line()))?)
    }

    /// Its line for people.
    pub(super) fn line(&self) -> String {
        let form = &self.form;
        let mut text = format!(
            "{}/{}  {}  {}  phi {:.3}  every {} s",
            form.mesh_id, form.node_id, form.severity, form.state, form.phi, form.interval_s
        );
        if !form.symptoms.is_empty() {
            text += &format!("  {}", form.symptoms.join(", "));
        }
        if let Some(incident) = &form.incident_id {
            text += &format!("  in {incident}");
        }
        if form.held {
            text += "  held";
        }
        text
    }
}

/// Where the nodes stand, asked for again and again.
#[derive(Default)]
pub(super) struct Standing(Past);

impl Standing {
    /// Where the nodes stand now: as their rows say, where some are at hand, else as the events do.
    pub(super) fn now(&mut self, place: &mut Place) -> anyhow::Result<Vec<Node>> {
        match &place.kind {
            #[cfg(feature = "io")]
            Kind::Folder(folder) => {
                let rows = StageRows::only(folder.rows("plan"), folder.rows("analyze"));
                let nodes =
                    crate::topology::now::nodes(&rows, &mut *place.source, &Asked::default())?;
                nodes.iter().map(|node| Node::read(node.json())).collect()
            }
            #[cfg(feature = "io")]
            Kind::Held(holder) => held(holder),
            _ => self.0.read(place, None, &mut Views::default()),
        }
    }
}

/// Where the nodes stand, as the holder of their rows says.
#[cfg(feature = "io")]
fn held(holder: &Holder) -> anyhow::Result<Vec<Node>> {
    let mut nodes: Vec<Node> = Vec::new();
    loop {
        let page = holder.get(&page_after(nodes.last().map(|node| &node.form)))?;
        let page = String::from_utf8(page).context("reading the holder's nodes")?;
        let before = nodes.len();
        for line in page.lines() {
            nodes.push(Node::read(line.to_owned())?);
        }
        if nodes.len() - before < PAGE_NODES {
            return Ok(nodes);
        }
    }
}

/// The route of the nodes behind one: their keys' bytes in hex say where to go on.
#[cfg(feature = "io")]
fn page_after(last: Option<&Form>) -> String {
    let mut path = format!("/v1/nodes?limit={PAGE_NODES}");
    if let Some(last) = last {
        let mut key = Vec::new();
        write_name(&last.mesh_id, &mut key);
        write_name(&last.node_id, &mut key);
        path += "&after=";
        path.extend(key.iter().map(|byte| format!("{byte:02x}")));
    }
    path
}

/// Where the nodes stood at a past moment, or at the end, from the events alone; read again it goes
/// on where it was.
#[derive(Default)]
struct Past(Vec<Partition>);

/// What the events of a partition say so far.
struct Partition {
    of: TopicPartition,
    next: i64,
    ledger: Ledger,
    soundness: Soundness,
    last: Option<Time>,
}

impl Past {
    /// Reads on to the moment, or to the end.
    fn read(
        &mut self,
        place: &mut Place,
        at: Option<Time>,
        views: &mut Views,
    ) -> anyhow::Result<Vec<Node>> {
        if self.0.is_empty() {
            for of in partitions_of(Topic::Events, place.source.title()?.partitions) {
                let base: Rc<dyn Base> = Rc::new(NoBase);
                self.0.push(Partition {
                    of,
                    next: place.source.start(of)?,
                    ledger: Ledger::new(&base),
                    soundness: Soundness::default(),
                    last: None,
                });
            }
        }
        let mut meter = Meter::new("reading events");
        let mut nodes = Vec::new();
        for partition in &mut self.0 {
            partition.read(place, at, views, &mut meter)?;
            let time = at.or(partition.last).unwrap_or_default();
            for node in known(&partition.ledger, time, &Asked::default()) {
                nodes.push(Node::read(node.json())?);
            }
        }
        // Within a partition they are in order.
        let key = |node: &Node| (node.form.mesh_id.clone(), node.form.node_id.clone());
        if self.0.len() > 1 {
            nodes.sort_by_cached_key(key);
        }
        Ok(nodes)
    }
}

impl Partition {
    fn read(
        &mut self,
        place: &mut Place,
        at: Option<Time>,
        views: &mut Views,
        meter: &mut Meter,
    ) -> anyhow::Result<()> {
        let mut fault = None;
        let Partition {
            of,
            next,
            ledger,
            soundness,
            last,
        } = self;
        each_from(next, place, *of, meter, &mut |event| {
            if at.is_some_and(|at| event.time > at) {
                return false;
            }
            // What cannot be evolved must not be tried.
            fault = soundness.check(&wire::encode_event(event)).err();
            if fault.is_some() {
                return false;
            }
            ledger.begin();
            evolve(ledger, event);
            views.note(event);
            *last = Some(event.time);
            true
        })?;
        match fault {
            None => Ok(()),
            Some(fault) => bail!(
                "reading record {} of {of}: {}, expected {}; \
                 `homeostat replay --events-only` tells what else differs",
                fault.record,
                fault.recorded,
                fault.expected
            ),
        }
    }
}

/// Brings the views to the end of the events.
#[cfg(feature = "io")]
fn view_all(place: &mut Place, views: &mut Views) -> anyhow::Result<()> {
    let mut meter = Meter::new("reading events");
    for of in partitions_of(Topic::Events, place.source.title()?.partitions) {
        each(place, of, &mut meter, &mut |event| {
            views.note(event);
            true
        })?;
    }
    Ok(())
}

fn print_views(views: &Views, printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
    for (id, incident) in &views.incidents {
        let end = match incident.repair {
            Some(repair) => format!("repaired after {}", duration(repair)),
            None => "open".to_owned(),
        };
        let names: Vec<&str> = incident
            .symptoms
            .iter()
            .map(|symptom| symptom.name())
            .collect();
        let text = format!(
            "incident {id}  {}  {}  detected after {}, {end}; {} ordered, {} withheld",
            incident.node,
            names.join(", "),
            duration(incident.detect),
            incident.orders,
            incident.withheld
        );
        printer.print(&(), &plain(&text))?;
    }
    for ((symptom, action), remedy) in &views.remedies {
        let sure = match remedy.efficacy() {
            Some((low, high)) => format!(
                "; helps between {:.0} and {:.0} % of the time (95 % sure)",
                low * 100.0,
                high * 100.0
            ),
            None => String::new(),
        };
        let text = format!(
            "remedy {} against {}: ordered {}, applied {}, helped {}, did not help {}{sure}",
            words(action),
            symptom.name(),
            remedy.ordered,
            remedy.applied,
            remedy.helped,
            remedy.not_helped
        );
        printer.print(&(), &plain(&text))?;
    }
    Ok(())
}

/// Nodes asked for at a time: as many as the door answers at most.
#[cfg(feature = "io")]
const PAGE_NODES: usize = 10_000;
