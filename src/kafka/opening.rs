//! The log's beginning: `LogOpened`, the first record of every partition of `plan-inbox`, under one
//! id.
//!
//! Plan notes it as the first event of the partition, and `events` is kept for ever, so the log's
//! id is found there, and in the inbox only until Plan has folded it.
//!
//! # One id, whoever opens
//! 1. Who finds every partition open, in what is decided, has nothing to do.
//! 2. Else `init_transactions` under an id that all openers of this prefix share: from here on an
//!    earlier opener can commit nothing, and what it had begun is decided.
//! 3. Look again, to the high watermark: what an earlier opener committed is seen.
//! 4. One transaction writes the record to the partitions that have none: under the id that the
//!    others bear, or the drawn one. A crash leaves all of it or nothing; a later opener's step 2
//!    makes it fail here, and it begins anew at 1.
//!
//! A record that somebody writes past this, in no such transaction, is taken for what it says.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError as Native;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::model::{Body, LogOpened, PlanRecord};
use crate::runtime::{Record, TimeSource, Title, TopicPartition};
use crate::stream::Topic;
use crate::wire;

use super::client::{Client, KafkaError};
use super::log::{settle, transactional};
use super::producing::Deliveries;
use super::reader::Reader;

/// What the log is called; `None` before it is opened. Reads partition 0 alone: a transaction opens
/// all or none, and [`openings`] looks at each.
///
/// # Errors
/// The brokers do not answer, have no such topics, or something else stands where a log begins.
pub fn title(client: &Client) -> Result<Option<Title>, KafkaError> {
    let opened = opening(&mut Reader::new(client)?, 0, Up::ToDecided)?;
    Ok(opened.map(|opened| title_of(client, &opened)))
}

/// What each partition of `plan-inbox` was opened as.
///
/// # Errors
/// As [`title`].
pub fn openings(client: &Client) -> Result<Vec<Option<LogOpened>>, KafkaError> {
    look(&mut Reader::new(client)?, Up::ToDecided)
}

/// Opens the log as `new` says where it is not open yet; one begun under another id is completed
/// under that. May be repeated, and by several at once.
///
/// # Errors
/// As [`title`]; or partitions bear different ids, or their number is not what the log was opened
/// with.
pub fn ensure_open(client: &Client, new: &LogOpened) -> Result<Title, KafkaError> {
    let mut reader = Reader::new(client)?;
    let until = Instant::now() + client.patience();
    loop {
        let found = look(&mut reader, Up::ToDecided)?;
        if found.iter().all(Option::is_some) {
            return Ok(title_of(client, &agreed(client, &found, new)?));
        }
        let why = match try_open(client, &mut reader, new) {
            Ok(title) => return Ok(title),
            Err(Failure::Overtaken(why)) => why,
            Err(Failure::Failed(error)) => return Err(error),
        };
        if Instant::now() >= until {
            return Err(KafkaError(format!(
                "opening the log at {}: {why}",
                client.brokers()
            )));
        }
        std::thread::park_timeout(GIVE_WAY);
    }
}

/// Why an attempt to open did not succeed.
enum Failure {
    /// By another opener, perhaps: to be looked at anew.
    Overtaken(Native),
    Failed(KafkaError),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Failure::Failed(error)
    }
}

fn try_open(client: &Client, reader: &mut Reader, new: &LogOpened) -> Result<Title, Failure> {
    let id = format!("{}opener", client.prefix);
    let producer = transactional(client, &id)
        .map_err(|error| Failure::Failed(KafkaError(error.to_string())))?;
    let found = look(reader, Up::ToLast)?;
    let opened = agreed(client, &found, new)?;
    let missing: Vec<i32> = (0..)
        .zip(&found)
        .filter(|(_, opened)| opened.is_none())
        .map(|(partition, _)| partition)
        .collect();
    if !missing.is_empty() {
        write(client, &producer, &opened, &missing).map_err(Failure::Overtaken)?;
    }
    Ok(title_of(client, &opened))
}

fn write(
    client: &Client,
    producer: &BaseProducer<Deliveries>,
    opened: &LogOpened,
    partitions: &[i32],
) -> Result<(), Native> {
    let topic = client.topic_name(Topic::PlanInbox);
    let value = wire::encode_plan(&PlanRecord::LogOpened(opened.clone()));
    let until = Instant::now() + client.patience();
    producer.begin_transaction()?;
    for partition in partitions {
        let mut record: BaseRecord<'_, (), Vec<u8>, usize> =
            BaseRecord::with_opaque_to(&topic, Topic::PlanInbox as usize)
                .partition(*partition)
                .payload(&value);
        if opened.time_source == "sample" {
            record = record.timestamp(EARLIEST);
        }
        producer.send(record).map_err(|(error, _)| error)?;
    }
    settle(producer, until)?;
    loop {
        match producer.commit_transaction(COMMIT) {
            Err(Native::Transaction(said)) if said.is_retriable() && Instant::now() < until => {}
            answer => return answer,
        }
    }
}

/// What all partitions are opened as: `new` when none is.
fn agreed(
    client: &Client,
    found: &[Option<LogOpened>],
    new: &LogOpened,
) -> Result<LogOpened, KafkaError> {
    let topic = client.topic_name(Topic::PlanInbox);
    let mut opened = found.iter().flatten();
    let agreed = opened.next().unwrap_or(new);
    if let Some(other) = opened.find(|other| *other != agreed) {
        return Err(KafkaError(format!(
            "opening the log: partitions of {topic} are opened as {} and as {}, expected one log: \
             use another log.prefix",
            agreed.log_id, other.log_id
        )));
    }
    if agreed.partitions != found.len() as i32 {
        return Err(KafkaError(format!(
            "opening the log: {} was opened with {} partitions and {topic} has {}: a log keeps \
             its number of partitions; use another log.prefix",
            agreed.log_id,
            agreed.partitions,
            found.len()
        )));
    }
    Ok(agreed.clone())
}

/// How far to look.
#[derive(Clone, Copy)]
enum Up {
    /// Without waiting for a transaction that is open.
    ToDecided,
    /// To the high watermark, waiting for what is not decided.
    ToLast,
}

fn look(reader: &mut Reader, up: Up) -> Result<Vec<Option<LogOpened>>, KafkaError> {
    let count = reader.partitions(Topic::PlanInbox)?;
    (0..count)
        .map(|partition| opening(reader, partition, up))
        .collect()
}

/// What a partition was opened as.
fn opening(reader: &mut Reader, partition: i32, up: Up) -> Result<Option<LogOpened>, KafkaError> {
    let events = TopicPartition {
        topic: Topic::Events,
        partition,
    };
    if partition < reader.partitions(Topic::Events)?
        && let Some(first) = find(reader, events, up, &mut |record| Some(record.value))?
    {
        return first_event(&first, events).map(Some);
    }
    let inbox = TopicPartition {
        topic: Topic::PlanInbox,
        partition,
    };
    find(reader, inbox, up, &mut |record| {
        match wire::decode_plan(&record.value) {
            Ok(PlanRecord::LogOpened(opened)) => Some(opened),
            // Others are for Plan to judge.
            _ => None,
        }
    })
}

fn first_event(value: &[u8], of: TopicPartition) -> Result<LogOpened, KafkaError> {
    let attempt = format!("reading the first event of {of}");
    match wire::decode_event(value) {
        Ok(event) => match event.body {
            Body::LogOpened {
                log_id,
                audit_name,
                partitions,
                time_source,
            } => Ok(LogOpened {
                log_id,
                audit_name,
                partitions,
                time_source,
            }),
            _ => Err(KafkaError(format!(
                "{attempt}: it is number {} of mesh {:?}, expected LogOpened; `homeostat topics \
                 check` says whether the topic loses its beginning",
                event.seq,
                event.mesh.as_str()
            ))),
        },
        Err(reject) => Err(KafkaError::of(attempt, reject)),
    }
}

/// The first record that `wanted` takes, of those that are kept.
fn find<T>(
    reader: &mut Reader,
    of: TopicPartition,
    up: Up,
    wanted: &mut dyn FnMut(Record) -> Option<T>,
) -> Result<Option<T>, KafkaError> {
    let end = match up {
        Up::ToDecided => reader.stable_end(of)?,
        Up::ToLast => reader.high_watermark(of)?,
    };
    let mut next = reader.start(of)?;
    while next < end {
        let chunk = reader.read(of, next, end, PIECE)?;
        if let Some(found) = chunk.records.into_iter().find_map(&mut *wanted) {
            return Ok(Some(found));
        }
        next = chunk.next;
    }
    Ok(None)
}

fn title_of(client: &Client, opened: &LogOpened) -> Title {
    Title {
        log_id: opened.log_id.clone(),
        prefix: client.prefix.clone(),
        time_source: match opened.time_source.as_str() {
            "sample" => TimeSource::Sample,
            _ => TimeSource::Log,
        },
        partitions: opened.partitions,
    }
}

/// Before everything that will be said, ms, where a record's own time counts: time never goes back
/// within a partition. To librdkafka 0 means now.
const EARLIEST: i64 = 1;

/// How long one try of a commit may take, before it is tried again.
const COMMIT: Duration = Duration::from_secs(5);

/// How long an opener that was overtaken waits before it looks what the other did: longer than an
/// opening takes, lest two overtake each other by turns.
const GIVE_WAY: Duration = Duration::from_secs(2);

/// Records read at once.
const PIECE: usize = 1000;
