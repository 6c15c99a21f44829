//! `homeostat policy diff`: what a policy would have decided on what was recorded, beside what was.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::meter::Meter;
use super::place::{Place, Which};
use super::policy::read_policy;
use super::since::Since;
use super::{Colour, Global, Printer, plain, say};
use crate::knowledge::explain::words;
use crate::model::{Action, MeshId, NodeId};
use crate::topology::what_if::{Question, WhatIf, what_if};

/// Arguments of `policy diff`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The policy's file: TOML; of a whole configuration its policy counts.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// From when on: a span before the last reading, or a time.
    #[arg(long, value_name = "SPAN|TIME", default_value = "7d", value_parser = Since::read)]
    since: Since,
    /// Of this mesh alone.
    #[arg(long, value_name = "M")]
    mesh: Option<MeshName>,
    /// As Markdown, for a review.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    #[command(flatten)]
    which: Which,
}

/// A mesh that is named.
#[derive(Clone, Debug)]
struct MeshName(MeshId);

impl std::str::FromStr for MeshName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mesh = MeshId::parse(text).filter(|mesh| !mesh.is_none());
        mesh.map(MeshName)
            .ok_or_else(|| "expected a name of 1 to 255 bytes".to_owned())
    }
}

/// Runs `policy diff`: 0 when nothing would have been decided otherwise, 1 when something would, or
/// the file is no policy.
pub(super) fn run(
    args: &Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let Some(text) = read_policy(&args.file, printer)? else {
        return Ok(ExitCode::from(1));
    };
    let mut place = args.which.open(global)?;
    let mesh = args.mesh.as_ref().map(|mesh| mesh.0.clone());
    let Some(told) = trial(&mut place, &text, args.since, mesh)? else {
        say("homeostat: no reading is recorded here: nothing to compare with");
        return Ok(ExitCode::SUCCESS);
    };
    match args.markdown {
        true => printer.out.write_all(markdown(&told).as_bytes())?,
        false => show(&told, printer)?,
    }
    say("next: `homeostat policy apply` puts it in force");
    Ok(ExitCode::from(u8::from(told.differs())))
}

/// What a policy would have decided since then; `None` when nothing is recorded.
pub(super) fn trial(
    place: &mut Place,
    policy: &str,
    since: Since,
    mesh: Option<MeshId>,
) -> anyhow::Result<Option<WhatIf>> {
    let source = &mut *place.source;
    let Some(since) = since.in_log(source).context("reading the last readings")? else {
        return Ok(None);
    };
    let question = Question {
        policy,
        since: Some(since),
        mesh,
    };
    let mut meter = Meter::new("policy diff");
    let told = what_if(source, &question, &mut |done| meter.tell(done))?;
    Ok(Some(told))
}

/// What a person is warned of before a policy is in force: that it orders nothing at all, or heals
/// most of what there is.
#[cfg(feature = "io")]
pub(super) fn warning(told: &WhatIf, span: &str) -> Option<String> {
    let (was, now) = told.ordered();
    let (held_was, held_now) = told.held_back();
    if now == 0 && held_now > 0 {
        return Some(format!(
            "this policy withholds everything: over the last {span} it would have ordered nothing \
             and withheld {held_now} wishes; {was} were ordered and {held_was} withheld"
        ));
    }
    let (healed_was, healed_now) = told.nodes_healed();
    let nodes = told.nodes.len();
    if healed_now > healed_was && 2 * healed_now > nodes {
        return Some(format!(
            "this policy heals nearly everything: over the last {span} it would have healed \
             {healed_now} of {nodes} nodes; {healed_was} were healed"
        ));
    }
    None
}

/// Prints what a policy would have decided, beside what was.
pub(super) fn show(told: &WhatIf, printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
    for ((key, action), (was, now)) in changed(told) {
        let change = Change {
            mesh_id: &key.mesh,
            node_id: &key.node,
            action,
            was,
            now,
        };
        let text = format!("{key}  {}: {was} -> {now}", words(action));
        printer.print(&change, &plain(&text))?;
    }
    let withheld: BTreeMap<&str, Pair> = told
        .withheld
        .iter()
        .map(|(reason, (was, now))| {
            let (was, now) = (*was, *now);
            (reason.name(), Pair { was, now })
        })
        .collect();
    if !printer.json {
        for (reason, Pair { was, now }) in withheld.iter().filter(|(_, pair)| pair.was != pair.now)
        {
            printer.print(&(), &format!("withheld, {reason}: {was} -> {now}"))?;
        }
    }
    let (more, less) = told.more_and_less();
    let (healed_later, healed_sooner) = told.later_and_sooner();
    let sum = Sum {
        records: told.records,
        nodes: told.nodes.len(),
        more,
        less,
        healed_later,
        healed_sooner,
        withheld,
    };
    let verdict = match told.differs() {
        false => printer.paint(Colour::Green, "no difference"),
        true => sentence(told),
    };
    let text = format!(
        "{} records of {} nodes folded: {verdict}",
        sum.records, sum.nodes
    );
    Ok(printer.print(&sum, &text)?)
}

/// `+2 directives, -7, 3 nodes healed later`
fn sentence(told: &WhatIf) -> String {
    let (more, less) = told.more_and_less();
    let mut sentence = format!("+{more} directives, -{less}");
    let (later, sooner) = told.later_and_sooner();
    for (nodes, when) in [(later, "later"), (sooner, "sooner")] {
        match nodes {
            0 => {}
            1 => sentence += &format!(", 1 node healed {when}"),
            n => sentence += &format!(", {n} nodes healed {when}"),
        }
    }
    sentence
}

fn changed(told: &WhatIf) -> impl Iterator<Item = ((&crate::model::NodeKey, &Action), (i64, i64))> {
    let pairs = told.orders.iter().filter(|(_, (was, now))| was != now);
    pairs.map(|((key, action), pair)| ((key, action), *pair))
}

fn markdown(told: &WhatIf) -> String {
    let verdict = match told.differs() {
        false => "No difference".to_owned(),
        true => sentence(told),
    };
    let (records, nodes) = (told.records, told.nodes.len());
    let mut text = format!("**{verdict}** ({records} records of {nodes} nodes folded)\n");
    let cell = |words: &str| plain(words).replace('|', "\\|");
    let mut orders = changed(told).peekable();
    if orders.peek().is_some() {
        text += "\n| node | order | was | would be |\n|---|---|---|---|\n";
        for ((key, action), (was, now)) in orders {
            let (key, action) = (cell(&key.to_string()), words(action));
            text += &format!("| {key} | {action} | {was} | {now} |\n");
        }
    }
    let reasons: Vec<_> = told
        .withheld
        .iter()
        .filter(|(_, (was, now))| was != now)
        .collect();
    if !reasons.is_empty() {
        text += "\n| withheld for | was | would be |\n|---|---|---|\n";
        for (reason, (was, now)) in reasons {
            text += &format!("| {} | {was} | {now} |\n", reason.name());
        }
    }
    text
}

#[derive(Serialize)]
struct Change<'a> {
    mesh_id: &'a MeshId,
    node_id: &'a NodeId,
    action: &'a Action,
    was: i64,
    now: i64,
}

#[derive(Serialize)]
struct Pair {
    was: i64,
    now: i64,
}

#[derive(Serialize)]
struct Sum<'a> {
    records: u64,
    nodes: usize,
    more: i64,
    less: i64,
    healed_later: usize,
    healed_sooner: usize,
    withheld: BTreeMap<&'a str, Pair>,
}
