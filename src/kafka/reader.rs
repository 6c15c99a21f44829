//! Bounded reads of committed records, and where partitions begin and end: outside of any group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tracing::warn;

use crate::model::Time;
use crate::runtime::{Chunk, LogError, Position, TopicPartition};
use crate::stream::Topic;

use super::client::{Client, KafkaError, Words, explained};
use super::log::{FETCH_AGAIN_MS, record_of};
use super::names::Names;
use super::position::committed;

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
                // So long the end of a partition is waited for, behind which nothing is.
                .set("fetch.wait.max.ms", "20")
                .set("fetch.queue.backoff.ms", FETCH_AGAIN_MS)
                .set("check.crcs", "true");
            let ahead = client.settings.fetch_ahead_kib;
            config.set("queued.max.messages.kbytes", ahead.to_string());
            config
                .create_with_context(Words::default())
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
                    _ if self.at.is_none() => explained(&self.committed, error),
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

    /// [`Reader::stable_end`] of several partitions, asked at once.
    pub fn stable_ends(&self, of: &[TopicPartition]) -> Result<Vec<i64>, KafkaError> {
        self.offsets(&self.committed, of, Offset::End)
    }

    /// [`Reader::high_watermark`] of several partitions, asked at once.
    pub fn high_watermarks(&self, of: &[TopicPartition]) -> Result<Vec<i64>, KafkaError> {
        self.offsets(&self.uncommitted, of, Offset::End)
    }

    /// The first record that may be seen at or after a time; `None` when there is none.
    pub fn offset_at(&self, of: TopicPartition, time: Time) -> Result<Option<i64>, KafkaError> {
        // Below 0 are Kafka's words for the ends.
        let time = Offset::Offset(time.0.max(0));
        let found = self.offsets(&self.committed, &[of], time)?[0];
        Ok((found >= 0).then_some(found))
    }

    /// The committed positions of inboxes, as the group has them.
    pub fn positions(&self, inboxes: &[TopicPartition]) -> Result<Vec<Option<Position>>, LogError> {
        let ask = || committed(&self.committed, &self.client, &self.names, inboxes, ASK);
        let failed = |error| {
            let group = &self.client.settings.group;
            LogError::Failed(format!(
                "reading the committed offsets of group {group}: {error}"
            ))
        };
        self.ask(ask).map_err(failed)?
    }

    /// What librdkafka calls the offsets of times; the ends have such words too.
    fn offsets(
        &self,
        consumer: &BaseConsumer<Words>,
        of: &[TopicPartition],
        time: Offset,
    ) -> Result<Vec<i64>, KafkaError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let asked = || {
            let mut list = TopicPartitionList::with_capacity(of.len());
            for of in of {
                list.add_partition_offset(self.names.of(of.topic), of.partition, time)?;
            }
            let list = consumer.offsets_for_times(list, ASK)?;
            let answer = |of: &TopicPartition| {
                let entry = list.find_partition(self.names.of(of.topic), of.partition);
                let entry = entry.ok_or(Native::NoMessageReceived)?;
                entry.error()?;
                Ok(entry.offset().to_raw().unwrap_or(-1))
            };
            of.iter().map(answer).collect()
        };
        self.ask(asked).map_err(|error| {
            let names: Vec<String> = of.iter().map(|of| of.to_string()).collect();
            let what = format!(
                "asking {} where {} are",
                self.client.brokers(),
                names.join(", ")
            );
            KafkaError::of(what, error)
        })
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
                        self.rest();
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
                        self.rest();
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
        match chunk.next < to {
            true => self.at = Some((of, chunk.next)),
            false => self.rest(),
        }
        Ok(chunk)
    }

    /// Fetches nothing more until the next read: at the end of a partition the brokers would be
    /// asked again and again.
    pub fn rest(&mut self) {
        self.at = None;
        if let Err(error) = self.committed.unassign() {
            // It goes on fetching what nobody reads.
            warn!("ending a read: {error}");
        }
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
            std::thread::park_timeout(SLICE);
        }
        Ok(stable)
    }

    /// Asks again what passes by itself, for as long as the brokers may be gone.
    fn ask<T>(&self, question: impl Fn() -> Result<T, Native>) -> Result<T, Native> {
        let until = Instant::now() + self.client.patience();
        loop {
            match question() {
                Err(error) if passes(&error) && Instant::now() < until => {
                    std::thread::park_timeout(SLICE);
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
