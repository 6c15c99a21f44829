//! How far the group has folded its inboxes: committed offsets, the two times of each as its
//! metadata.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as Native;
use rdkafka::{Offset, TopicPartitionList};

use crate::model::Time;
use crate::runtime::{LogError, Position, TopicPartition};

use super::client::Client;
use super::names::Names;

/// Asks once for the committed positions of inboxes, in their order; `None`: nothing was committed.
/// The outer error is the brokers' (it may pass), the inner that of an offset that is none of ours.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    client: &Client,
    names: &Names,
    inboxes: &[TopicPartition],
    wait: Duration,
) -> Result<Result<Vec<Option<Position>>, LogError>, Native> {
    let mut list = TopicPartitionList::with_capacity(inboxes.len());
    for inbox in inboxes {
        list.add_partition(names.of(inbox.topic), inbox.partition);
    }
    let list = consumer.committed_offsets(list, wait)?;
    let mut positions = Vec::with_capacity(inboxes.len());
    for inbox in inboxes {
        let name = names.of(inbox.topic);
        let entry = list.find_partition(name, inbox.partition);
        let entry = entry.ok_or(Native::NoMessageReceived)?;
        entry.error()?;
        positions.push(match (entry.offset(), read_times(entry.metadata())) {
            (Offset::Invalid, _) => None,
            (Offset::Offset(next), Some((time, hears_since))) => Some(Position {
                next,
                time,
                hears_since,
            }),
            (offset, _) => {
                return Ok(Err(LogError::Failed(format!(
                    "reading the committed offset of {name}/{}: {offset:?} without the times that \
                     the loop commits with it; who set it? Only the loop may commit for group {}",
                    inbox.partition, client.settings.group
                ))));
            }
        });
    }
    Ok(Ok(positions))
}

/// Two times as an offset's metadata.
pub(super) fn write_times(position: &Position) -> String {
    format!("{},{}", position.time.0, position.hears_since.0)
}

fn read_times(metadata: &str) -> Option<(Time, Time)> {
    let (time, hears_since) = metadata.split_once(',')?;
    Some((Time(time.parse().ok()?), Time(hears_since.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_position_come_back_and_nothing_else_does() {
        let position = Position {
            next: 7,
            time: Time(-5),
            hears_since: Time(i64::MAX),
        };
        let metadata = write_times(&position);
        assert_eq!(metadata, "-5,9223372036854775807");
        assert_eq!(
            read_times(&metadata),
            Some((position.time, position.hears_since))
        );
        for other in ["", "1", "1,", ",1", "1,2,3", "x,1"] {
            assert_eq!(read_times(other), None, "{other}");
        }
    }
}
