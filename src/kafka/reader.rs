//! Bounded reads of committed records, and where partitions begin and end: outside of any group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::runtime::{Chunk, TopicPartition};
use crate::stream::Topic;

use super::client::{Client, KafkaError, Words};
use super::log::record_of;
use super::names::Names;

/// Reads partitions, one at a time.
pub(super) struct Reader {
    client: Client,
    names: Names,
    committed: BaseConsumer<Words>,
    /// Sees what is not committed: only to ask for high watermarks.
    uncommitted: BaseConsumer<Words>,
    /// What is being fetched: the partition, and where its next record comes from.
    at: Option<(TopicPartition, i64)>,
}

impl Reader {
    pub fn new(client: &Client) -> Result<Self, KafkaError> {
        let attempt = "setting up a reader";
        let consumer = |isolation: &str| {
            let mut config = client.config();
            config
                .set("isolation.level", isolation)
                .set("group.id", &client.settings.group)
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                .set("enable.partition.eof", "true")
                .set("auto.offset.reset", "error")
                .set("check.crcs", "true");
            let ahead = client.settings.fetch_ahead_kib;
            config.set("queued.max.messages.kbytes", ahead.to_string());
            config
                .create_with_context(Words)
                .map_err(|error| KafkaError::of(attempt, error))
        };
        Ok(Reader {
            names: Names::new(client),
            client: client.clone(),
            committed: consumer("read_committed")?,
            uncommitted: consumer("read_uncommitted")?,
            at: None,
        })
    }

    /// How many partitions a topic has.
    pub fn partitions(&self, topic: Topic) -> Result<i32, KafkaError> {
        let name = self.names.of(topic);
        let count = self.ask(|| {
            let metadata = self.committed.fetch_metadata(Some(name), ASK)?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let topic = topic.ok_or(Native::MetadataFetch(Code::UnknownTopicOrPartition))?;
            match topic.error() {
                Some(error) => Err(Native::MetadataFetch(error.into())),
                None => Ok(topic.partitions().len() as i32),
            }
        });
        count.map_err(|error| {
            KafkaError::of(
                format!(
                    "counting the partitions of {name} at {}",
                    self.client.brokers()
                ),
                match error.rdkafka_error_code() {
                    Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                        "there is no such topic; `homeostat topics create` makes it".to_owned()
                    }
                    _ => error.to_string(),
                },
            )
        })
    }

    /// The offset of the first record that is kept.
    pub fn start(&self, of: TopicPartition) -> Result<i64, KafkaError> {
        Ok(self.watermarks(&self.committed, of)?.0)
    }

    /// One past the last record that may be seen: what stands before an open transaction.
    pub fn stable_end(&self, of: TopicPartition) -> Result<i64, KafkaError> {
        Ok(self.watermarks(&self.committed, of)?.1)
    }

    /// One past the last record, open transactions included.
    pub fn high_watermark(&self, of: TopicPartition) -> Result<i64, KafkaError> {
        Ok(self.watermarks(&self.uncommitted, of)?.1)
    }

    fn watermarks(
        &self,
        consumer: &BaseConsumer<Words>,
        of: TopicPartition,
    ) -> Result<(i64, i64), KafkaError> {
        let name = self.names.of(of.topic);
        self.ask(|| consumer.fetch_watermarks(name, of.partition, ASK))
            .map_err(|error| {
                let what = format!("asking where {name}/{} begins and ends", of.partition);
                KafkaError::of(what, error)
            })
    }

    /// Committed records from `from` to below `to`, `records_max` at most. The next piece is read
    /// on without asking anew.
    pub fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, KafkaError> {
        let mut chunk = Chunk {
            records: Vec::new(),
            next: from,
        };
        if from >= to {
            return Ok(chunk);
        }
        let attempt = format!("reading {}/{}", self.names.of(of.topic), of.partition);
        // What is decided before the fetch begins has come when the fetch finds the end.
        let mut stable = 0;
        if self.at != Some((of, from)) {
            stable = self.stable_end(of)?;
            self.fetch(of, from)?;
        }
        let until = Instant::now() + self.client.patience();
        while chunk.records.len() < records_max && chunk.next < to {
            match self.committed.poll(SLICE) {
                Some(Ok(message)) => {
                    if message.offset() >= to {
                        chunk.next = to;
                        self.at = None;
                        return Ok(chunk);
                    }
                    if message.offset() < chunk.next {
                        continue;
                    }
                    chunk.next = message.offset() + 1;
                    chunk.records.push(record_of(&message));
                }
                Some(Err(Native::PartitionEOF(_))) => {
                    if stable < to && chunk.records.is_empty() {
                        stable = self.decided(of, stable)?;
                        self.fetch(of, chunk.next)?;
                    } else {
                        // Up to `to`, or up to what may be seen, only markers follow.
                        let end = to.min(stable);
                        chunk.next = chunk.next.max(end);
                        self.at = None;
                        if chunk.next > from {
                            return Ok(chunk);
                        }
                    }
                }
                Some(Err(error)) if is_out_of_range(&error) => {
                    return Err(KafkaError(format!(
                        "{attempt} from offset {} on: it is not kept any more; compare the topic's \
                         retention with the age of the rows",
                        chunk.next
                    )));
                }
                _ if Instant::now() < until => {}
                failure => {
                    let why = match failure {
                        Some(Err(error)) => error.to_string(),
                        _ => "nothing came".to_owned(),
                    };
                    return Err(KafkaError(format!(
                        "{attempt} from {} to {to}: {why} for {} s (kafka.patience_s)",
                        chunk.next, self.client.settings.patience_s
                    )));
                }
            }
        }
        self.at = (chunk.next < to).then_some((of, chunk.next));
        Ok(chunk)
    }

    fn fetch(&mut self, of: TopicPartition, from: i64) -> Result<(), KafkaError> {
        let name = self.names.of(of.topic);
        let mut list = TopicPartitionList::with_capacity(1);
        let set = list.add_partition_offset(name, of.partition, Offset::Offset(from));
        set.and_then(|()| self.committed.assign(&list))
            .map_err(|error| {
                let what = format!("reading {name}/{} from offset {from}", of.partition);
                KafkaError::of(what, error)
            })?;
        self.at = Some((of, from));
        Ok(())
    }

    /// Waits until more than `known` may be seen, a moment; answers up to where.
    fn decided(&self, of: TopicPartition, known: i64) -> Result<i64, KafkaError> {
        let stable = self.stable_end(of)?;
        if stable <= known {
            std::thread::sleep(SLICE);
        }
        Ok(stable)
    }

    /// Asks again what passes by itself, for as long as the brokers may be gone.
    fn ask<T>(&self, question: impl Fn() -> Result<T, Native>) -> Result<T, Native> {
        let until = Instant::now() + self.client.patience();
        loop {
            match question() {
                Err(error) if passes(&error) && Instant::now() < until => {
                    std::thread::sleep(SLICE);
                }
                answer => return answer,
            }
        }
    }
}

fn is_out_of_range(error: &Native) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)
    )
}

/// Whether asking again may be answered.
pub(super) fn passes(error: &Native) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnstableOffsetCommit
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::WaitingForCoordinator
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::Outdated
        )
    )
}

/// How long one question may take, before it is asked again.
const ASK: Duration = Duration::from_secs(5);

/// How long to wait for a record before looking at the time.
const SLICE: Duration = Duration::from_millis(50);
