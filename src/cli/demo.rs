//! `homeostat demo`: a simulated mesh through an incident, on the same stages as ever, and the
//! proof of what was decided. Time is moved by hand; nothing is read or written but `--keep DIR`.
//!
//! 1. A fleet lives on the simulated log; what it goes through is told as it happens.
//! 2. The recorded inboxes are folded again: the same decisions must come out.
//! 3. The leaves of the mesh's log give its RFC 6962 root; one changed byte gives another, and the
//!    changed log is decided again in vain.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Colour, Printer, replay};
use crate::knowledge::audit::{Hash, leaf_hash, root};
use crate::knowledge::cycle::{Around, tell};
use crate::model::{
    Action, Body, CycleClosed, Event, Kind, LogOpened, MeshId, NodeId, OutcomeResult, PlanPolicy,
    PlanRecord, Severity, Span, Time,
};
use crate::runtime::export::{self, Title};
use crate::runtime::simulated::Simulated;
use crate::runtime::{Config, Record, TimeSource, TopicPartition};
use crate::sim::scenario::{brief, clock};
use crate::sim::{Chaos, Codec, Fleet, FleetPlan, Plot, Surroundings, Trouble, World};
use crate::stream::Topic;
use crate::topology::replay::{Recorded, replay as decide_again, replay_events};
use crate::topology::stages;
use crate::wire;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Everything random comes from here.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the mesh.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=500))]
    nodes: u16,
    /// Keep what was recorded in this empty folder, for replay, explain and state.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs `demo`: 0 when all it shows holds, 1 when something was found wanting.
pub(super) fn run(args: Args, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let nodes = usize::from(args.nodes);
    let mesh = MeshId::parse(MESH).ok_or_else(|| anyhow!("{MESH} is a mesh's name"))?;
    if !printer.json {
        let head = format!(
            "A mesh of {nodes} nodes, simulated; time is moved by hand (seed {}).\n\n\
             1  All is well",
            args.seed
        );
        printer.print(&(), &head)?;
    }
    let world = live(&args, &mesh, printer)?;
    let recorded = recorded(&world.cluster);
    if !printer.json {
        printer.print(&(), "\n6  The proof")?;
    }
    let report = decide_again(&recorded, &Config::default().prefix, TimeSource::Log);
    if !printer.json {
        printer.print(
            &(),
            "Every record is folded again, and every decision compared byte for byte:",
        )?;
    }
    replay::show(&report, printer)?;
    let caught = change_a_byte(&recorded, &mesh, printer)?;
    if let Some(dir) = &args.keep {
        keep(dir, &world.cluster, &recorded, printer)?;
    } else if !printer.json {
        printer.print(
            &(),
            "\nNext: homeostat demo --keep demo-export, to look into it yourself.",
        )?;
    }
    let good = report.differences == 0 && report.decisions > 0 && caught;
    Ok(ExitCode::from(u8::from(!good)))
}

/// Lets the fleet live and tells what happens.
fn live(args: &Args, mesh: &MeshId, printer: &mut Printer<impl Write>) -> anyhow::Result<World> {
    let nodes = usize::from(args.nodes);
    let mut world = World::new(Plot {
        seed: args.seed,
        stages: stages(),
        config: Config::default(),
        partitions: 1,
        workers: 1,
        faults: Vec::new(),
        chaos: Chaos::default(),
    });
    let opened = PlanRecord::LogOpened(LogOpened {
        log_id: LOG_ID.to_owned(),
        audit_name: "demo.example/homeostat".to_owned(),
        partitions: 1,
        time_source: "log".to_owned(),
    });
    let start = world.cluster.now();
    world
        .cluster
        .append(Topic::PlanInbox, b"", &wire::encode_plan(&opened), start);
    let plan = FleetPlan {
        mesh: mesh.clone(),
        nodes,
        interval: Span::seconds(60),
        lasts: LASTS,
        troubles: bad_links(nodes),
        recovery: Span::seconds(30),
        twice: 0,
    };
    let codec = Codec {
        sample: wire::encode_sample,
        outcome: wire::encode_outcome,
        directive: |bytes| wire::decode_directive(bytes).ok(),
    };
    let mut teller = Teller {
        fleet: Fleet::new(plan, codec, args.seed),
        printer,
        start,
        events: 0,
        cycles: 0,
        chapter: 1,
        told: BTreeMap::new(),
        quiet_cycles: 0,
        orders: BTreeMap::new(),
        done: BTreeMap::new(),
        after_cycle: false,
        leaf: None,
        begun: Instant::now(),
        failed: None,
    };
    world
        .run(&mut teller)
        .map_err(|error| anyhow!("running the simulated mesh: {error}"))?;
    let cluster = world.cluster.clone();
    teller.tell(&cluster)?;
    teller.count_quiet_cycles()?;
    if let Some(error) = teller.failed {
        return Err(error);
    }
    world.finish().context("ending the simulated workers")?;
    Ok(world)
}

/// As many bad links as nodes may be acted on at a time, each with two ends: some must wait.
fn bad_links(nodes: usize) -> Vec<(Span, Trouble)> {
    let plan = PlanPolicy::default();
    let share = (nodes as f64 * plan.budget_percent / 100.0).floor() as i64;
    let links = share.max(plan.budget_min) as usize;
    let trouble = |link: usize| Trouble::Link {
        from: 2 * link,
        to: 2 * link + 1,
        latency_ms: 400.0,
        packet_loss: 60.0,
    };
    (0..links)
        .map(|link| (FAULT_AFTER, trouble(link)))
        .collect()
}

/// The fleet, and who tells what it goes through.
struct Teller<'a, W: Write> {
    fleet: Fleet,
    printer: &'a mut Printer<W>,
    start: Time,
    /// Events and cycles told so far.
    events: usize,
    cycles: usize,
    chapter: u8,
    /// Nodes with the severity of their last cycle that was told whole.
    told: BTreeMap<NodeId, Severity>,
    quiet_cycles: usize,
    /// Orders by id, and what agents reported of them since their node's last cycle that was told.
    orders: BTreeMap<String, Action>,
    done: BTreeMap<NodeId, Vec<(Action, OutcomeResult)>>,
    /// The last line told was a cycle's.
    after_cycle: bool,
    leaf: Option<i64>,
    begun: Instant,
    failed: Option<anyhow::Error>,
}

impl<W: Write> Surroundings for Teller<'_, W> {
    fn step(&mut self, cluster: &Simulated) -> bool {
        if self.failed.is_some() {
            return false;
        }
        if let Err(error) = self.tell(cluster) {
            self.failed = Some(error);
            return false;
        }
        self.begun = Instant::now();
        self.fleet.step(cluster)
    }
}

impl<W: Write> Teller<'_, W> {
    /// Tells what was written since the last time.
    fn tell(&mut self, cluster: &Simulated) -> anyhow::Result<()> {
        if cluster.now() - self.start >= FAULT_AFTER {
            let links = "2  A fault: the link between node-1 and node-2 loses 60 % of its packets";
            self.open_chapter(2, links)?;
        }
        for record in new(cluster, Topic::Events, &mut self.events) {
            let event = wire::decode_event(&record.value).map_err(|e| anyhow!("an event: {e}"))?;
            self.tell_event(&event)?;
        }
        for record in new(cluster, Topic::Cycles, &mut self.cycles) {
            let cycle = wire::decode_cycle(&record.value).map_err(|e| anyhow!("a cycle: {e}"))?;
            self.tell_cycle(&cycle)?;
        }
        Ok(())
    }

    fn tell_event(&mut self, event: &Event) -> anyhow::Result<()> {
        if !event.mesh.is_none() {
            self.leaf = Some(event.seq);
        }
        self.note_order(&event.body);
        match &event.body {
            Body::SeverityChanged { to, .. } if *to != Severity::Ok => {
                self.open_chapter(
                    3,
                    "3  Detection: two readings may lie, a row of them does not",
                )?;
            }
            Body::DirectiveIssued { directive } if directive.action.kind() == Kind::Healing => {
                let title =
                    "4  Healing: within the budget; who must wait is recorded with the reason";
                self.open_chapter(4, title)?;
            }
            Body::SeverityChanged {
                to: Severity::Ok, ..
            } => {
                self.open_chapter(
                    5,
                    "5  Recovery: a minute of good readings, then back to normal",
                )?;
            }
            _ => {}
        }
        if self.printer.json {
            let object = RawValue::from_string(wire::json::event(event))?;
            return Ok(self.printer.print(&object, "")?);
        }
        let Some(text) = brief(event) else {
            return Ok(());
        };
        let colour = match &event.body {
            Body::SeverityChanged {
                to: Severity::Ok, ..
            }
            | Body::IncidentClosed { .. } => Some(Colour::Green),
            Body::SeverityChanged { .. } | Body::DirectiveWithheld { .. } => Some(Colour::Red),
            _ => None,
        };
        let text = match colour {
            Some(colour) => self.printer.paint(colour, &text),
            None => text,
        };
        let who = event
            .body
            .node()
            .map_or(event.mesh.as_str(), NodeId::as_str);
        let line = format!("  {}  {who:8} {text}", clock(self.start, event.time));
        self.line(&line)
    }

    /// Tells a cycle whole when its node's severity is news, else counts it.
    fn tell_cycle(&mut self, cycle: &CycleClosed) -> anyhow::Result<()> {
        let first_of_all = self.told.is_empty();
        let last = self.told.insert(cycle.node.clone(), cycle.severity);
        let news = last.map_or(first_of_all, |severity| severity != cycle.severity);
        if !news || self.printer.json {
            self.quiet_cycles += 1;
            return Ok(());
        }
        self.count_quiet_cycles()?;
        let done = self.done.remove(&cycle.node).unwrap_or_default();
        let healed = |(action, result): &(Action, OutcomeResult)| {
            action.kind() == Kind::Healing && *result == OutcomeResult::Applied
        };
        let others = self
            .done
            .values()
            .filter(|done| done.iter().any(healed))
            .count();
        let around = Around {
            done: &done,
            nodes_healed: others + usize::from(done.iter().any(healed)),
            leaf: self.leaf,
            duration_s: Some(self.begun.elapsed().as_secs_f64()),
        };
        let text = tell(cycle, &around);
        self.after_cycle = true;
        Ok(self.printer.print(&(), &format!("\n{text}"))?)
    }

    fn note_order(&mut self, body: &Body) {
        match body {
            Body::DirectiveIssued { directive } => {
                self.orders.insert(directive.id.clone(), directive.action);
            }
            Body::OutcomeReported { outcome } => {
                if let Some(action) = self.orders.get(&outcome.directive_id) {
                    let done = self.done.entry(outcome.node.clone()).or_default();
                    done.push((*action, outcome.result));
                }
            }
            _ => {}
        }
    }

    /// A line of the story.
    fn line(&mut self, text: &str) -> anyhow::Result<()> {
        let gap = if std::mem::take(&mut self.after_cycle) {
            "\n"
        } else {
            ""
        };
        Ok(self.printer.print(&(), &format!("{gap}{text}"))?)
    }

    fn count_quiet_cycles(&mut self) -> anyhow::Result<()> {
        if self.quiet_cycles > 0 && !self.printer.json {
            let line = format!("  ({} more cycles without news)", self.quiet_cycles);
            self.line(&line)?;
        }
        self.quiet_cycles = 0;
        Ok(())
    }

    fn open_chapter(&mut self, chapter: u8, title: &str) -> anyhow::Result<()> {
        if self.chapter >= chapter {
            return Ok(());
        }
        self.count_quiet_cycles()?;
        self.chapter = chapter;
        self.after_cycle = false;
        if !self.printer.json {
            self.printer.print(&(), &format!("\n{title}"))?;
        }
        Ok(())
    }
}

/// What stands in a topic's only partition after the first `seen` records.
fn new(cluster: &Simulated, topic: Topic, seen: &mut usize) -> Vec<Record> {
    let written = cluster.written(TopicPartition {
        topic,
        partition: 0,
    });
    let records = written
        .into_iter()
        .skip(*seen)
        .map(|written| written.record);
    let records: Vec<Record> = records.collect();
    *seen += records.len();
    records
}

fn recorded(cluster: &Simulated) -> Recorded {
    let partitions = Topic::ALL
        .into_iter()
        .flat_map(|topic| cluster.partitions(topic));
    partitions
        .map(|of| {
            let records = cluster
                .written(of)
                .into_iter()
                .map(|written| written.record);
            (of, records.collect())
        })
        .collect()
}

/// Changes one byte of the mesh's log and shows that it is seen twice: by the root, and by deciding
/// again.
fn change_a_byte(
    recorded: &Recorded,
    mesh: &MeshId,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<bool> {
    let of = TopicPartition {
        topic: Topic::Events,
        partition: 0,
    };
    let events = &recorded[&of];
    let is_leaf = |record: &Record| record.key == mesh.as_str().as_bytes();
    let leaves = |values: &[Vec<u8>]| -> Vec<Hash> {
        let of_mesh = events
            .iter()
            .zip(values)
            .filter(|(record, _)| is_leaf(record));
        of_mesh.map(|(_, value)| leaf_hash(value)).collect()
    };
    let whole: Vec<Vec<u8>> = events.iter().map(|record| record.value.clone()).collect();
    let issued = |bytes: &Vec<u8>| match wire::decode_event(bytes).map(|event| event.body) {
        Ok(Body::DirectiveIssued { directive }) => directive.action.kind() == Kind::Healing,
        _ => false,
    };
    let at = whole
        .iter()
        .position(issued)
        .context("finding the order to heal in the log")?;
    let mut changed = whole.clone();
    // The last byte of its body: the policy's generation that the order names.
    let byte = changed[at].len() - 1;
    changed[at][byte] ^= 0x02;
    let (before, after) = (root(&leaves(&whole)), root(&leaves(&changed)));
    let verdict = replay_events(0, &changed);
    let caught = before != after && verdict.differences > 0;
    let seq = wire::decode_event(&whole[at])
        .map_err(|e| anyhow!("an event: {e}"))?
        .seq;
    let proof = Proof {
        leaves: leaves(&whole).len(),
        root: hex(&before),
        changed_leaf: seq,
        changed_byte: byte,
        changed_root: hex(&after),
        caught,
    };
    let word = match caught {
        true => printer.paint(Colour::Green, "caught"),
        false => printer.paint(Colour::Red, "NOT CAUGHT"),
    };
    let found = verdict
        .first_difference
        .map_or("no difference".to_owned(), |d| d.place);
    let text = format!(
        "RFC 6962 root of the {} leaves of mesh {mesh}:\n  {}\n\
         One byte of leaf {seq}, the order to heal, is changed; the root is now\n  {}\n\
         and deciding again from the events finds a difference at {found}: {word}.",
        proof.leaves, proof.root, proof.changed_root
    );
    printer.print(&proof, &text)?;
    Ok(caught)
}

fn keep(
    dir: &std::path::Path,
    cluster: &Simulated,
    recorded: &Recorded,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let title = Title {
        log_id: LOG_ID.to_owned(),
        prefix: Config::default().prefix,
        time_source: TimeSource::Log,
    };
    export::write(dir, &title, cluster)?;
    let events = recorded.iter().filter(|(of, _)| of.topic == Topic::Events);
    let events = events.flat_map(|(_, records)| records);
    let withheld = events
        .filter_map(|record| wire::decode_event(&record.value).ok())
        .find_map(|event| match event.body {
            Body::DirectiveWithheld { id, .. } => Some(id),
            _ => None,
        });
    let dir = dir.display();
    let id = withheld.unwrap_or_else(|| "ID".to_owned());
    let text = format!(
        "\nKept in {dir}. Next:\n  homeostat explain {id} --dir {dir}\n  \
         homeostat state --dir {dir} --at 2026-01-01T00:04:00Z\n  homeostat replay --dir {dir}"
    );
    if !printer.json {
        printer.print(&(), &text)?;
    }
    Ok(())
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct Proof {
    leaves: usize,
    root: String,
    changed_leaf: i64,
    changed_byte: usize,
    changed_root: String,
    caught: bool,
}

const MESH: &str = "alpha";
const LOG_ID: &str = "demo";

/// How long the fleet lives.
const LASTS: Span = Span::seconds(20 * 60);

/// When the links get bad.
const FAULT_AFTER: Span = Span::seconds(150);
