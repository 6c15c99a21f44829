//! What another policy would have ordered over the same recorded inboxes.

use std::collections::BTreeMap;

use crate::model::{
    Action, Body, Event, MeshId, MetricsRecord, NodeKey, PlanRecord, Policy, PolicyChange,
    PolicyError, Time,
};
use crate::runtime::Record;
use crate::stream::Topic;
use crate::wire;

use super::replay::{Recorded, of};
use super::straight::Straight;

/// What another policy would have ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Inbox records folded.
    pub records: u64,
    /// Orders by mesh, node and action: how many were given, and how many would have been.
    pub orders: BTreeMap<(NodeKey, Action), (i64, i64)>,
}

/// Folds the recorded inboxes under another policy, as if it had been adopted at first and none
/// later.
///
/// Outcomes are those of the orders that were given: an order that was not given then has none.
///
/// # Errors
/// The text is no policy.
pub fn what_if(recorded: &Recorded, policy: &str) -> Result<WhatIf, PolicyError> {
    Policy::parse(policy)?;
    let mut what_if = WhatIf::default();
    let events = of(recorded, Topic::Events).flat_map(|(_, records)| records);
    let events = events.filter_map(|record| wire::decode_event(&record.value).ok());
    for order in events.filter_map(|event| ordered(&event)) {
        what_if.orders.entry(order).or_default().0 += 1;
    }
    let mut given: Vec<(Time, Topic, &Record)> = [Topic::PlanInbox, Topic::Metrics]
        .into_iter()
        .flat_map(|topic| of(recorded, topic))
        .flat_map(|(of, records)| records.iter().map(move |r| (r.time, of.topic, r)))
        .filter(|(_, topic, record)| !of_the_loop(*topic, &record.value))
        .collect();
    given.sort_by_key(|(time, _, _)| *time);
    let Some((start, _, _)) = given.first() else {
        return Ok(what_if);
    };
    let mut straight = Straight::new("what-if", *start);
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
    for (time, topic, record) in given {
        straight.skip_to(time);
        what_if.records += 1;
        let left = straight.append(topic, &record.key, record.value.clone());
        for order in Straight::events(&left).iter().filter_map(ordered) {
            what_if.orders.entry(order).or_default().1 += 1;
        }
    }
    Ok(what_if)
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
