//! `homeostat state --watch`: nodes and the cycles that close, again every 2 s. A terminal is drawn
//! anew; anything else gets lines, each once.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread::park_timeout;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::value::RawValue;

use super::place::Place;
use super::state::{Node, Standing};
use super::{Printer, plain, say};
use crate::knowledge::cycle::{Around, tell};
use crate::model::{Action, Body, CycleClosed, Event, Kind, MeshId, NodeKey, OutcomeResult};
use crate::runtime::{Record, TopicPartition, partitions_of};
use crate::stream::Topic;
use crate::wire;

/// Watches until it is interrupted; once where nothing grows.
pub(super) fn watch(
    place: &mut Place,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let terminal = io::stdout().is_terminal() && !printer.json;
    let mut watch = Watch::begin(place)?;
    let mut standing = Standing::default();
    let mut shown = BTreeMap::new();
    loop {
        let closed = watch.read(place)?;
        let mut nodes = standing.now(place)?;
        if terminal {
            draw(&mut nodes, &watch.newest, printer)?;
        } else {
            for node in &nodes {
                let key = (node.form.mesh_id.clone(), node.form.node_id.clone());
                let line = node.line();
                if shown.insert(key, line.clone()).as_ref() != Some(&line) {
                    node.print(printer)?;
                }
            }
            for (cycle, words) in closed {
                let object = RawValue::from_string(wire::json::cycle(&cycle))?;
                printer.print(&object, &words)?;
            }
        }
        printer.out.flush()?;
        if !place.grows() {
            say("homeostat: nothing changes: nobody writes there now; `homeostat run` does");
            return Ok(ExitCode::SUCCESS);
        }
        park_timeout(PAUSE);
    }
}

/// Draws the screen anew: the most ill first, then the newest cycles.
fn draw(
    nodes: &mut [Node],
    cycles: &VecDeque<String>,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let rank = |node: &Node| match node.form.severity.as_str() {
        "critical" => 0,
        "warning" => 1,
        _ => 2,
    };
    nodes.sort_by_key(rank);
    let ill = nodes.iter().filter(|node| rank(node) < 2).count();
    let count = nodes.len();
    writeln!(printer.out, "{CLEAR}{count} nodes, {ill} of them ill")?;
    for node in nodes.iter().take(NODES_DRAWN) {
        writeln!(printer.out, "{}", plain(&node.line()))?;
    }
    if count > NODES_DRAWN {
        writeln!(printer.out, "... and {} more", count - NODES_DRAWN)?;
    }
    for cycle in cycles {
        writeln!(printer.out, "\n{cycle}")?;
    }
    Ok(())
}

/// What was read of cycles, and of the events that their words need.
#[derive(Default)]
struct Watch {
    next: BTreeMap<TopicPartition, i64>,
    orders: BTreeMap<String, Action>,
    /// The orders' ids, oldest first.
    ordered: VecDeque<String>,
    done: BTreeMap<NodeKey, Vec<(Action, OutcomeResult)>>,
    leaves: BTreeMap<MeshId, i64>,
    newest: VecDeque<String>,
}

impl Watch {
    /// Begins a little before the end, so that there is something to see.
    fn begin(place: &mut Place) -> anyhow::Result<Watch> {
        let mut watch = Watch::default();
        let partitions = place.source.title()?.partitions;
        for (topic, back) in [(Topic::Events, EVENTS_BACK), (Topic::Cycles, CYCLES_BACK)] {
            for of in partitions_of(topic, partitions) {
                let (start, end) = (place.source.start(of)?, place.source.end(of)?);
                watch.next.insert(of, start.max(end - back));
            }
        }
        Ok(watch)
    }

    /// Reads what is new; answers the cycles that closed, each with its words.
    fn read(&mut self, place: &mut Place) -> anyhow::Result<Vec<(CycleClosed, String)>> {
        let mut closed = Vec::new();
        // Events first: outcomes stand in the words of the cycle after.
        for of in self.next.keys().copied().collect::<Vec<_>>() {
            for record in new_records(of, &mut self.next, place)? {
                let wrong = |error| anyhow!("reading record {} of {of}: {error}", record.offset);
                if of.topic == Topic::Events {
                    self.note(&wire::decode_event(&record.value).map_err(wrong)?);
                } else {
                    let cycle = wire::decode_cycle(&record.value).map_err(wrong)?;
                    let words = self.words(&cycle);
                    self.newest.push_back(words.clone());
                    while self.newest.len() > CYCLES_DRAWN {
                        self.newest.pop_front();
                    }
                    closed.push((cycle, words));
                }
            }
        }
        Ok(closed)
    }

    fn note(&mut self, event: &Event) {
        self.leaves.insert(event.mesh.clone(), event.seq);
        match &event.body {
            Body::DirectiveIssued { directive } => {
                self.orders.insert(directive.id.clone(), directive.action);
                self.ordered.push_back(directive.id.clone());
                if self.ordered.len() > ORDERS_KEPT
                    && let Some(oldest) = self.ordered.pop_front()
                {
                    self.orders.remove(&oldest);
                }
            }
            Body::OutcomeReported { outcome } => {
                if let Some(action) = self.orders.get(&outcome.directive_id) {
                    let key = NodeKey {
                        mesh: event.mesh.clone(),
                        node: outcome.node.clone(),
                    };
                    let done = self.done.entry(key).or_default();
                    done.push((*action, outcome.result));
                    // A node whose cycles do not close keeps the newest only.
                    if done.len() > DONE_KEPT {
                        done.remove(0);
                    }
                }
            }
            _ => {}
        }
    }

    fn words(&mut self, cycle: &CycleClosed) -> String {
        let key = NodeKey {
            mesh: cycle.mesh.clone(),
            node: cycle.node.clone(),
        };
        let healed = |(action, result): &(Action, OutcomeResult)| {
            action.kind() == Kind::Healing && *result == OutcomeResult::Applied
        };
        let of_mesh = self.done.iter().filter(|(key, _)| key.mesh == cycle.mesh);
        let nodes_healed = of_mesh.filter(|(_, done)| done.iter().any(healed)).count();
        let done = self.done.remove(&key).unwrap_or_default();
        let told = tell(
            cycle,
            &Around {
                done: &done,
                nodes_healed,
                leaf: self.leaves.get(&cycle.mesh).copied(),
                duration_s: None,
            },
        );
        let lines: Vec<String> = told.lines().map(plain).collect();
        lines.join("\n")
    }
}

fn new_records(
    of: TopicPartition,
    next: &mut BTreeMap<TopicPartition, i64>,
    place: &mut Place,
) -> anyhow::Result<Vec<Record>> {
    let end = place.source.end(of)?;
    let from = next.entry(of).or_default();
    let mut records = Vec::new();
    while *from < end {
        let chunk = place.source.read(of, *from, end, CHUNK_RECORDS)?;
        *from = chunk.next;
        records.extend(chunk.records);
        // Who watches many nodes is shown the newest: a backlog is not kept.
        let over = records.len().saturating_sub(BACKLOG_KEPT);
        records.drain(..over);
    }
    Ok(records)
}

/// How long it waits between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Clears the screen and goes to its top (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

const NODES_DRAWN: usize = 20;

const CYCLES_DRAWN: usize = 3;

/// Records before the end that are read at first.
const EVENTS_BACK: i64 = 1000;

/// The same of cycles.
const CYCLES_BACK: i64 = 3;

/// Orders whose action is remembered.
const ORDERS_KEPT: usize = 4096;

/// Outcomes of a node that wait for its next cycle.
const DONE_KEPT: usize = 8;

const CHUNK_RECORDS: usize = 2048;

const BACKLOG_KEPT: usize = 8192;
