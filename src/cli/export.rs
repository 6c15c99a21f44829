//! What commands read from an export: its records by topic and partition, and its events.

use std::path::Path;

use anyhow::{Context, anyhow};

use crate::model::Event;
use crate::runtime::TopicPartition;
use crate::runtime::export::Export;
use crate::stream::Topic;
use crate::topology::replay::{Recorded, sound};
use crate::wire;

/// Every record of an export.
pub(super) fn read(dir: &Path) -> anyhow::Result<(Export, Recorded)> {
    let export = Export::open(dir).with_context(|| {
        format!(
            "opening the export in {}; `homeostat demo --keep DIR` writes one",
            dir.display()
        )
    })?;
    let mut recorded = Recorded::new();
    for topic in Topic::ALL {
        for partition in 0..export.manifest().partitions {
            let of = TopicPartition { topic, partition };
            recorded.insert(of, export.records(of)?);
        }
    }
    Ok((export, recorded))
}

/// The events of an export, partition by partition, in order.
pub(super) fn events(recorded: &Recorded) -> anyhow::Result<Vec<Vec<Event>>> {
    let partitions = recorded.iter().filter(|(of, _)| of.topic == Topic::Events);
    let decode = |of: &TopicPartition, (i, bytes): (usize, &[u8])| {
        wire::decode_event(bytes).with_context(|| format!("reading record {i} of {of}"))
    };
    partitions
        .map(|(of, records)| {
            let values = records.iter().map(|record| record.value.as_slice());
            values.enumerate().map(|value| decode(of, value)).collect()
        })
        .collect()
}

/// The events of an export as [`events`] gives them, when they can be evolved.
pub(super) fn sound_events(recorded: &Recorded) -> anyhow::Result<Vec<Vec<Event>>> {
    let partitions = recorded.iter().filter(|(of, _)| of.topic == Topic::Events);
    partitions
        .map(|(of, records)| {
            let values: Vec<_> = records.iter().map(|record| record.value.clone()).collect();
            sound(&values).map_err(|fault| {
                anyhow!(
                    "reading record {} of {of}: {}, expected {}; \
                     `homeostat replay --events-only` tells what else differs",
                    fault.record,
                    fault.recorded,
                    fault.expected
                )
            })
        })
        .collect()
}
