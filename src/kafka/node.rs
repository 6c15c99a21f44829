//! A node's end of the loop: what it reports goes to `metrics`, what is ordered comes from its own
//! partition of `directives`. An agent may do no more than that (`topics acls`), so nothing here
//! asks for more: no group is joined, no other topic looked at.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, Timestamp, TopicPartitionList};
use tracing::debug;

use crate::model::Time;
use crate::runtime::{Record, partition_of};
use crate::stream::Topic;

use super::client::{Client, KafkaError, Words, complain, say};
use super::log::record_of;

/// Writes what a node reports.
pub struct NodeReports {
    topic: String,
    partitions: i32,
    answer: Duration,
    producer: BaseProducer<Answers>,
}

/// What became of records that were sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The brokers have all of them. The append time of the last, where the brokers give it.
    Taken(Option<Time>),
    /// They are larger than the brokers take; some may lie there.
    TooLarge(String),
    /// Nothing is known of some of them: sent again they may lie there twice.
    Unknown(String),
}

impl NodeReports {
    /// Connects when it is first used. The brokers have `answer` to answer in.
    ///
    /// # Errors
    /// The client cannot be made of its settings.
    pub fn new(client: &Client, partitions: i32, answer: Duration) -> Result<Self, KafkaError> {
        let producer = client
            .config()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", LINGER_MS)
            .set("delivery.timeout.ms", answer.as_millis().to_string())
            .create_with_context(Answers)
            .map_err(|error| KafkaError::of("setting up a producer", error))?;
        Ok(NodeReports {
            topic: client.topic_name(Topic::Metrics),
            partitions,
            answer,
            producer,
        })
    }

    /// Whether it is of no more use: another one must be made.
    pub fn is_broken(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// Sends JSON texts, all to the partition of `key`, and waits until they are answered or not
    /// `wanted` any more.
    pub fn send<'a>(
        &self,
        key: &str,
        texts: impl Iterator<Item = &'a [u8]>,
        wanted: impl Fn() -> bool,
    ) -> Sent {
        let partition = partition_of(key.as_bytes(), self.partitions);
        let attempt = format!("sending to {}/{partition}", self.topic);
        let answered = Arc::new(Mutex::new(Answered::default()));
        let until = Instant::now() + self.answer + GRACE;
        for text in texts {
            let content = Header {
                key: "content-type",
                value: Some("application/json"),
            };
            let mut record = BaseRecord::with_opaque_to(&self.topic, answered.clone())
                .partition(partition)
                .key(key)
                .payload(text)
                .headers(OwnedHeaders::new_with_capacity(1).insert(content));
            loop {
                match self.producer.send(record) {
                    Ok(()) => {
                        lock(&answered).open += 1;
                        break;
                    }
                    Err((Native::MessageProduction(Code::QueueFull), unsent))
                        if wanted() && Instant::now() < until =>
                    {
                        self.producer.poll(SLICE);
                        record = unsent;
                    }
                    Err((error, _)) => {
                        lock(&answered).failed(&error);
                        break;
                    }
                }
            }
        }
        loop {
            let now = lock(&answered).clone();
            if let Some(why) = now.too_large {
                return Sent::TooLarge(format!("{attempt}: {why}"));
            }
            if let Some(why) = now.failure {
                return Sent::Unknown(format!("{attempt}: {why}"));
            }
            if now.open == 0 {
                return Sent::Taken(now.appended);
            }
            if !wanted() || Instant::now() >= until {
                let seconds = self.answer.as_secs();
                return Sent::Unknown(format!("{attempt}: not answered within {seconds} s"));
            }
            self.producer.poll(SLICE);
        }
    }
}

/// What is known of records that were sent together.
#[derive(Clone, Default)]
struct Answered {
    open: usize,
    appended: Option<Time>,
    too_large: Option<String>,
    failure: Option<String>,
}

impl Answered {
    fn failed(&mut self, error: &Native) {
        let slot = match error.rdkafka_error_code() {
            Some(Code::MessageSizeTooLarge) => &mut self.too_large,
            _ => &mut self.failure,
        };
        slot.get_or_insert_with(|| error.to_string());
    }
}

fn lock(answered: &Mutex<Answered>) -> MutexGuard<'_, Answered> {
    answered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The context of the producer.
struct Answers;

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        say(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        complain(&error, reason);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Arc<Mutex<Answered>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answered: Arc<Mutex<Answered>>) {
        let mut answered = lock(&answered);
        answered.open -= 1;
        match result {
            Ok(message) => answered.appended = append_time(message.timestamp()),
            Err((error, _)) => answered.failed(error),
        }
    }
}

/// Reads what is ordered of a node, in order.
pub struct NodeOrders {
    client: Client,
    consumer: BaseConsumer<Words>,
}

/// Why nothing comes.
#[derive(Debug)]
pub enum Silent {
    /// The topic is not what it was: to be begun with anew.
    Gone(String),
    /// It may come again by itself.
    Trouble(String),
}

impl NodeOrders {
    /// Connects by itself.
    ///
    /// # Errors
    /// The client cannot be made of its settings.
    pub fn new(client: &Client) -> Result<Self, KafkaError> {
        let consumer = client
            .config()
            .set("isolation.level", "read_committed")
            // Without a name of a group no partition can be assigned; it is never joined.
            .set("group.id", &client.settings.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Of a topic that was made anew all is read: what is over is not done, nor done twice.
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", AHEAD_KIB)
            .set("check.crcs", "true")
            .create_with_context(Words::default())
            .map_err(|error| KafkaError::of("setting up a reader", error))?;
        Ok(NodeOrders {
            client: client.clone(),
            consumer,
        })
    }

    /// How many partitions a topic has; `None`: there is no such topic. Makes none.
    ///
    /// # Errors
    /// The brokers do not answer, or will not say.
    pub fn partitions(&self, topic: Topic) -> Result<Option<i32>, KafkaError> {
        let name = self.client.topic_name(topic);
        let failed = |error: Native| {
            let brokers = self.client.brokers();
            let attempt = format!("counting the partitions of {name} at {brokers}");
            match error.rdkafka_error_code() {
                Some(Code::TopicAuthorizationFailed) => KafkaError::of(
                    attempt,
                    format!("{error}; `homeostat topics acls` says what an agent must be allowed"),
                ),
                _ => KafkaError::of(attempt, error),
            }
        };
        let metadata = self.consumer.fetch_metadata(Some(&name), ASK);
        let metadata = metadata.map_err(failed)?;
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        let error = found.and_then(|topic| topic.error()).map(Code::from);
        match (found, error) {
            (None, _) | (_, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => Ok(None),
            (_, Some(error)) => Err(failed(Native::MetadataFetch(error))),
            (Some(topic), None) => Ok(Some(topic.partitions().len() as i32)),
        }
    }

    /// Begins to read the partition of `key`, with what was appended at or after `since`.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub fn follow(&self, key: &str, partitions: i32, since: Time) -> Result<(), KafkaError> {
        let name = self.client.topic_name(Topic::Directives);
        let partition = partition_of(key.as_bytes(), partitions);
        let begin = || {
            // First where it ends: what comes between the two questions is then not passed over.
            let (_, end) = self.consumer.fetch_watermarks(&name, partition, ASK)?;
            let mut list = TopicPartitionList::with_capacity(1);
            // Below 0 are Kafka's words for the ends.
            let since = Offset::Offset(since.0.max(0));
            list.add_partition_offset(&name, partition, since)?;
            let found = self.consumer.offsets_for_times(list, ASK)?;
            let entry = found.find_partition(&name, partition);
            let entry = entry.ok_or(Native::NoMessageReceived)?;
            entry.error()?;
            let from = match entry.offset() {
                Offset::Offset(from) => from,
                _ => end,
            };
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition_offset(&name, partition, Offset::Offset(from))?;
            debug!("following {name}/{partition} from offset {from} on");
            self.consumer.assign(&list)
        };
        begin().map_err(|error| {
            let brokers = self.client.brokers();
            KafkaError::of(format!("following {name}/{partition} at {brokers}"), error)
        })
    }

    /// The next committed record, with its append time where the brokers give it; `None` when none
    /// came for a while.
    ///
    /// # Errors
    /// See [`Silent`].
    pub fn next(&self, wait: Duration) -> Result<Option<(Record, Option<Time>)>, Silent> {
        match self.consumer.poll(wait) {
            None => Ok(None),
            Some(Ok(message)) => {
                let appended = append_time(message.timestamp());
                Ok(Some((record_of(&message), appended)))
            }
            Some(Err(error)) => {
                let name = self.client.topic_name(Topic::Directives);
                let words = format!("reading {name} at {}: {error}", self.client.brokers());
                match error.rdkafka_error_code() {
                    // The group is a name only.
                    Some(Code::GroupAuthorizationFailed) => Ok(None),
                    Some(
                        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
                    ) => Err(Silent::Gone(words)),
                    _ => Err(Silent::Trouble(words)),
                }
            }
        }
    }
}

/// The brokers' time, if a record bears it; else it bears its writer's.
fn append_time(timestamp: Timestamp) -> Option<Time> {
    match timestamp {
        Timestamp::LogAppendTime(ms) => Some(Time(ms)),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
    }
}

/// So long a record waits for others to go with it, ms.
const LINGER_MS: &str = "5";

/// Orders fetched ahead, KiB: there are few.
const AHEAD_KIB: &str = "1024";

/// How long one question may take, before it is asked again.
const ASK: Duration = Duration::from_secs(5);

/// How long to wait for an answer before looking whether it is still wanted.
const SLICE: Duration = Duration::from_millis(50);

/// The client's own time-out comes first; this one is for an answer that never comes.
const GRACE: Duration = Duration::from_secs(2);
