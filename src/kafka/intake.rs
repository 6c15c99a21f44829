//! Records from outside, into the log: an idempotent producer of its own thread, every record
//! answered by all replicas that are in step.
//!
//! What was not answered may or may not be in the log; sent again it may lie there twice, and
//! (boot, seq) or the directive's id tell the fold that it is the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tracing::warn;

use crate::model::FOREVER;
use crate::runtime::{AppendError, Durable, Incoming, TimeSource, Title, partition_of};
use crate::stream::Topic;

use super::client::{Client, KafkaError, complain, say};
use super::log::{settle, transactional};
use super::names::Names;

/// Takes records from outside into the log. Any thread may use it.
pub struct KafkaIntake {
    client: Client,
    names: Names,
    partitions: i32,
    time_source: TimeSource,
    producer: Mutex<ThreadedProducer<Answers>>,
}

impl KafkaIntake {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// The client cannot be made of its settings.
    pub fn new(client: &Client, title: &Title) -> Result<Self, KafkaError> {
        Ok(KafkaIntake {
            names: Names::new(client),
            partitions: title.partitions,
            time_source: title.time_source,
            producer: Mutex::new(producer(client)?),
            client: client.clone(),
        })
    }

    /// Sends records, each to the partition of its key, and does not wait for the brokers: what is
    /// answered does. Records that were sent before the one that failed may be in the log.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&self, topic: Topic, records: Vec<Incoming>) -> Result<Durable, AppendError> {
        let producer = self.producer()?;
        let room = QUEUE_RECORDS.saturating_sub(producer.in_flight_count().max(0) as usize);
        if room < records.len().min(QUEUE_RECORDS) {
            return Err(AppendError::NotTaken {
                why: format!(
                    "{} records wait for {} to answer",
                    QUEUE_RECORDS - room,
                    self.client.brokers()
                ),
                retry_s: RETRY_S,
            });
        }
        let (tell, told) = oneshot::channel();
        let request = Arc::new(Request {
            // One more, for the end of this loop.
            left: AtomicUsize::new(records.len() + 1),
            failure: Mutex::default(),
            tell: Mutex::new(Some(tell)),
        });
        for record in &records {
            self.send(&producer, topic, record, &request)?;
        }
        request.answered(None);
        Ok(Box::pin(async move {
            let ended = || Err("the producer ended".to_owned());
            told.await.unwrap_or_else(|_| ended())
        }))
    }

    /// Sends a record to every partition of a topic in one transaction, and waits for its end. Who
    /// does so under the same id meanwhile is fenced: one of the two is refused.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_to_all(
        &self,
        id: &str,
        topic: Topic,
        record: &Incoming,
    ) -> Result<(), AppendError> {
        let not_taken = |why: String| AppendError::NotTaken {
            why,
            retry_s: RETRY_S,
        };
        let name = self.names.of(topic);
        let attempt = format!("sending to every partition of {name}");
        let producer =
            transactional(&self.client, id).map_err(|error| not_taken(error.to_string()))?;
        let until = Instant::now() + DELIVERY;
        let sent = (|| {
            producer.begin_transaction()?;
            for partition in 0..self.partitions {
                let mut sent: BaseRecord<'_, Vec<u8>, Vec<u8>, usize> =
                    BaseRecord::with_opaque_to(name, topic as usize)
                        .partition(partition)
                        .key(&record.key)
                        .payload(&record.value);
                if self.time_source == TimeSource::Sample && record.time < FOREVER {
                    sent = sent.timestamp(record.time.0);
                }
                producer.send(sent).map_err(|(error, _)| error)?;
            }
            settle(&producer, until)
        })();
        if let Err(error) = sent {
            // What is not aborted here is when its time runs out, or by the next of this id.
            let _ = producer.abort_transaction(DELIVERY);
            return Err(not_taken(format!("{attempt}: {error}")));
        }
        loop {
            match producer.commit_transaction(DELIVERY) {
                Err(Native::Transaction(said)) if said.is_retriable() && Instant::now() < until => {
                }
                Ok(()) => return Ok(()),
                Err(error) => {
                    return Err(AppendError::Unknown(format!("{attempt}: {error}")));
                }
            }
        }
    }

    fn send(
        &self,
        producer: &ThreadedProducer<Answers>,
        topic: Topic,
        record: &Incoming,
        request: &Arc<Request>,
    ) -> Result<(), AppendError> {
        let name = self.names.of(topic);
        let partition = partition_of(&record.key, self.partitions);
        let mut sent = BaseRecord::with_opaque_to(name, request.clone())
            .partition(partition)
            .key(&record.key[..])
            .payload(&record.value[..]);
        // Without a time of its own it bears ours.
        if self.time_source == TimeSource::Sample && record.time < FOREVER {
            sent = sent.timestamp(record.time.0);
        }
        let until = Instant::now() + DELIVERY;
        loop {
            match producer.send(sent) {
                Ok(()) => return Ok(()),
                // More than the queue holds at once: room comes with the answers.
                Err((Native::MessageProduction(Code::QueueFull), unsent))
                    if Instant::now() < until =>
                {
                    std::thread::park_timeout(PAUSE);
                    sent = unsent;
                }
                Err((error, _)) => {
                    let what = format!("sending to {name}/{partition}: {error}");
                    return Err(AppendError::Unknown(what));
                }
            }
        }
    }

    /// The producer; a new one when the last is of no more use.
    fn producer(&self) -> Result<ThreadedProducer<Answers>, AppendError> {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, words)) = current.client().fatal_error() {
            warn!("the producer is replaced: {code}: {words}");
            *current = producer(&self.client).map_err(|error| AppendError::NotTaken {
                why: error.0,
                retry_s: RETRY_S,
            })?;
        }
        Ok(current.clone())
    }
}

fn producer(client: &Client) -> Result<ThreadedProducer<Answers>, KafkaError> {
    let mut config = client.config();
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", LINGER_MS)
        .set("queue.buffering.max.messages", QUEUE_RECORDS.to_string())
        .set("delivery.timeout.ms", DELIVERY.as_millis().to_string())
        .create_with_context(Answers)
        .map_err(|error| KafkaError::of("setting up a producer", error))
}

/// Records that are answered together.
struct Request {
    left: AtomicUsize,
    failure: Mutex<Option<String>>,
    tell: Mutex<Option<oneshot::Sender<Result<(), String>>>>,
}

impl Request {
    fn answered(&self, failure: Option<String>) {
        if let Some(failure) = failure {
            let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(failure);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let mut tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = tell.take() {
            let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            // Who went away is not waited for.
            let _ = tell.send(first.take().map_or(Ok(()), Err));
        }
    }
}

/// The context of the producer: tells requests what became of their records.
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
    type DeliveryOpaque = Arc<Request>;

    fn delivery(&self, result: &DeliveryResult<'_>, request: Arc<Request>) {
        let failure = result.as_ref().err();
        request.answered(failure.map(|(error, _)| format!("the brokers answered: {error}")));
    }
}

/// Records that wait for the brokers' answers at most, of all requests.
const QUEUE_RECORDS: usize = 100_000;

/// So long a record waits for others to go with it, ms.
const LINGER_MS: &str = "2";

/// How long the brokers may take to answer: less than the door waits.
const DELIVERY: Duration = Duration::from_secs(8);

/// When to come again while too much waits for the brokers, s.
const RETRY_S: u32 = 2;

/// Between two looks whether there is room.
const PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn request(records: usize) -> (Arc<Request>, oneshot::Receiver<Result<(), String>>) {
        let (tell, told) = oneshot::channel();
        let request = Request {
            left: AtomicUsize::new(records),
            failure: Mutex::default(),
            tell: Mutex::new(Some(tell)),
        };
        (Arc::new(request), told)
    }

    #[test]
    fn a_request_is_answered_with_its_last_record_and_by_its_first_failure() {
        let (all, mut told) = request(2);
        all.answered(None);
        assert!(told.try_recv().is_err(), "one record is still out");
        all.answered(None);
        assert_eq!(told.try_recv(), Ok(Ok(())));

        let (some, mut told) = request(3);
        some.answered(Some("first".to_owned()));
        some.answered(Some("second".to_owned()));
        some.answered(None);
        assert_eq!(told.try_recv(), Ok(Err("first".to_owned())));
    }
}
