//! `homeostat state`: what Knowledge knows: nodes, incidents, remedies; now or at any past moment.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::anyhow;
use serde_json::value::RawValue;

use super::{Printer, export, plain};
use crate::knowledge::explain::{duration, words};
use crate::knowledge::views::Views;
use crate::model::{Event, MeshId, NodeId, NodeKey, NodeRow, Time, parse_rfc3339};
use crate::stream::{Base, Ledger, NoBase};
use crate::topology::plan::PlanFold;
use crate::wire::json::{NodeState, node_state};

/// Arguments of `state`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The export, as `demo --keep DIR` writes it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A past moment, RFC 3339 in UTC such as 2026-01-01T00:05:00Z; without it: now.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Time>,
}

/// Runs `state`.
pub(super) fn run(args: Args, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let (_, recorded) = export::read(&args.dir)?;
    let mut views = Views::default();
    let mut nodes = 0;
    let at = args.at.unwrap_or(Time(i64::MAX));
    for events in export::sound_events(&recorded)? {
        let base: Rc<dyn Base> = Rc::new(NoBase);
        let mut plan = PlanFold::new(0, &base);
        let until = events.partition_point(|event| event.time <= at);
        for event in &events[..until] {
            plan.apply(event);
            views.note(event);
        }
        let time = args
            .at
            .or(events[..until].last().map(|event: &Event| event.time));
        nodes += print_nodes(plan.ledger(), time.unwrap_or_default(), printer)?;
    }
    if !printer.json {
        if nodes == 0 {
            printer.print(&(), "no node was known then")?;
        }
        print_views(&views, printer)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_nodes(
    ledger: &Ledger,
    time: Time,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<usize> {
    let mut count = 0;
    let first = NodeId::parse("\0").ok_or_else(|| anyhow!("the least name is a name"))?;
    let mut key = NodeKey {
        mesh: MeshId::none(),
        node: first,
    };
    while let Some((next, row)) = ledger.nodes.next(&key) {
        print_node(ledger, &next, &row, time, printer)?;
        key = next;
        count += 1;
    }
    Ok(count)
}

fn print_node(
    ledger: &Ledger,
    key: &NodeKey,
    row: &NodeRow,
    time: Time,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let symptoms = row.assessment.symptoms();
    let state = NodeState {
        mesh: &key.mesh,
        node: &key.node,
        time,
        severity: row.severity(),
        symptoms: &symptoms,
        state: row.assessment.settled,
        phi: row.assessment.phi,
        interval_s: row.told_interval_s,
        last_seen: row.last_event,
        incident_id: row.incident.as_ref().map(|incident| incident.id.as_str()),
        held: row.hold.is_some() || ledger.mesh_hold(&key.mesh).is_some(),
    };
    let names: Vec<&str> = symptoms.iter().map(|symptom| symptom.name()).collect();
    let mut text = format!(
        "{key}  {}  {}  phi {:.3}  every {} s",
        row.severity().name(),
        state.state.name(),
        state.phi,
        state.interval_s
    );
    if !names.is_empty() {
        text += &format!("  {}", names.join(", "));
    }
    if let Some(incident) = state.incident_id {
        text += &format!("  in {incident}");
    }
    if state.held {
        text += "  held";
    }
    let object = RawValue::from_string(node_state(&state))?;
    Ok(printer.print(&object, &plain(&text))?)
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
        let text = format!(
            "remedy {} against {}: ordered {}, applied {}, helped {}, did not help {}",
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

fn moment(text: &str) -> Result<Time, String> {
    parse_rfc3339(text.as_bytes())
        .map(Time)
        .ok_or_else(|| "expected RFC 3339 in UTC such as 2026-01-01T00:05:00Z".to_owned())
}
