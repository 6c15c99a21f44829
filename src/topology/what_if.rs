//! What another policy would have ordered over the same recorded inboxes.

use std::collections::BTreeMap;

use crate::model::{
    Action, Body, Event, MeshId, MetricsRecord, NodeKey, PlanRecord, Policy, PolicyChange,
    PolicyError, Time,
};
use crate::runtime::{LogError, Record, Source, partitions_of};
use crate::stream::Topic;
use crate::wire;

use super::replay::{Done, Progress, Reader};
use super::straight::Straight;

/// What another policy would have ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Inbox records folded.
    pub records: u64,
    /// Orders by mesh, node and action: how many were given, and how many would have been.
    pub orders: BTreeMap<(NodeKey, Action), (i64, i64)>,
}

/// It could not be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    /// The text is no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Folds the recorded inboxes under another policy, as if it had been adopted at first and none
/// later. They are read piece by piece, in order of append time; of equal times Plan's inbox first.
///
/// Outcomes are those of the orders that were given: an order that was not given then has none.
///
/// # Errors
/// The text is no policy, or the log cannot be read.
pub fn what_if(
    source: &mut dyn Source,
    policy: &str,
    progress: Progress<'_>,
) -> Result<WhatIf, WhatIfError> {
    Policy::parse(policy)?;
    let mut what_if = WhatIf::default();
    let mut done = Done::default();
    for mut events in readers(Topic::Events, source, &mut done)? {
        while let Some(record) = events.next(source)? {
            let event = wire::decode_event(&record.value).ok();
            if let Some(order) = event.as_ref().and_then(ordered) {
                what_if.orders.entry(order).or_default().0 += 1;
            }
            done.one(progress);
        }
    }
    let mut inboxes = Vec::new();
    for topic in [Topic::PlanInbox, Topic::Metrics] {
        let readers = readers(topic, source, &mut done)?;
        inboxes.extend(readers.into_iter().map(|reader| (topic, reader)));
    }
    let mut straight: Option<Straight> = None;
    while let Some((topic, record)) = earliest(&mut inboxes, source)? {
        done.one(progress);
        if of_the_loop(topic, &record.value) {
            continue;
        }
        let straight = straight.get_or_insert_with(|| begun(policy, record.time));
        straight.skip_to(record.time);
        what_if.records += 1;
        let left = straight.append(topic, &record.key, record.value);
        for order in Straight::events(&left).iter().filter_map(ordered) {
            what_if.orders.entry(order).or_default().1 += 1;
        }
    }
    Ok(what_if)
}

/// A loop under this policy from its beginning.
fn begun(policy: &str, start: Time) -> Straight {
    let mut straight = Straight::new("what-if", start).forgetful();
    let change = PolicyChange {
        mesh: MeshId::none(),
        text: policy.to_owned(),
        by: "what if".into(),
    };
    straight.append(
        Topic::PlanInbox,
        b"",
        wire::encode_plan(&PlanRecord::PolicyChange(change)),
    );
    straight
}

/// A reader of each partition of a topic, from its start to its end.
fn readers(
    topic: Topic,
    source: &mut dyn Source,
    done: &mut Done,
) -> Result<Vec<Reader>, LogError> {
    let partitions = source.title()?.partitions;
    partitions_of(topic, partitions)
        .map(|of| {
            let (start, end) = (source.start(of)?, source.end(of)?);
            done.total += (end - start).max(0) as u64;
            Ok(Reader::new(of, start, end))
        })
        .collect()
}

/// Takes the earliest record of all; of equal times the first reader's.
fn earliest(
    inboxes: &mut [(Topic, Reader)],
    source: &mut dyn Source,
) -> Result<Option<(Topic, Record)>, LogError> {
    let mut first: Option<(Time, usize)> = None;
    for (i, (_, reader)) in inboxes.iter_mut().enumerate() {
        if let Some(record) = reader.peek(source)?
            && first.is_none_or(|(time, _)| record.time < time)
        {
            first = Some((record.time, i));
        }
    }
    let Some((_, i)) = first else { return Ok(None) };
    let (topic, reader) = &mut inboxes[i];
    Ok(reader.next(source)?.map(|record| (*topic, record)))
}

/// Whether a record of an inbox came from the loop itself, or is one that the other policy
/// replaces.
fn of_the_loop(topic: Topic, value: &[u8]) -> bool {
    match topic {
        Topic::Metrics => matches!(wire::decode_metrics(value), Ok(MetricsRecord::Adopted(_))),
        _ => matches!(
            wire::decode_plan(value),
            Ok(PlanRecord::Assessment(_)
                | PlanRecord::Outcome(_)
                | PlanRecord::LoopBlind(_)
                | PlanRecord::LogOpened(_)
                | PlanRecord::PolicyChange(_))
        ),
    }
}

fn ordered(event: &Event) -> Option<(NodeKey, Action)> {
    match &event.body {
        Body::DirectiveIssued { directive } => {
            let (mesh, node) = (directive.mesh.clone(), directive.node.clone());
            Some((NodeKey { mesh, node }, directive.action))
        }
        _ => None,
    }
}
