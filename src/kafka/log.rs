//! The log of one worker: one consumer in the group, one transactional producer.
//!
//! What a commit does, and what a crash right after each step leaves:
//! 1. `begin`: nothing on the brokers.
//! 2. Produce the outputs: records that no reader of committed records sees; the coordinator aborts
//!    them when the next producer of this name starts, or after the transaction's time-out.
//! 3. Send the positions, with the group's metadata of this moment: as 2. A member that lost its
//!    partitions meanwhile is refused here.
//! 4. End the transaction: from the moment that the coordinator has written it, all is committed,
//!    whether the answer arrives or not.
//!
//! A rebalance is served in three steps that no other call comes between: librdkafka's event is
//! noted, the worker drops what it folded, the partitions are let go of. So the drop is inside of
//! what librdkafka takes for its callback.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use crate::model::{Span, Time};
use crate::runtime::{
    Chunk, CommitError, Formats, Held, Log, LogError, Outgoing, Polled, Position, Record,
    TimeSource, TopicPartition, enter_again,
};
use crate::stream::Topic;

use super::client::{Client, KafkaError};
use super::group::{Change, Member, Membership};
use super::names::Names;
use super::position::{committed, write_times};
use super::producing::Deliveries;
use super::reader::{Reader, passes};

/// The log of one worker.
pub struct KafkaLog {
    client: Client,
    names: Names,
    /// Its name in the group and, behind the group's, in transactions.
    worker: String,
    time_source: TimeSource,
    consumer: Membership,
    producer: BaseProducer<Deliveries>,
    /// The producer is of no more use since then: what it said, and how long its transaction had
    /// been open.
    broken: Option<Broken>,
    /// Of ticks, which stand outside of any transaction; made when the first is due.
    ticker: Option<BaseProducer<Deliveries>>,
    reader: Reader,
    /// Per assigned partition where its records go on, once the worker said so.
    owned: BTreeMap<TopicPartition, Option<i64>>,
    /// Records that came while the log was asked something else, as they came.
    ahead: VecDeque<(TopicPartition, Record)>,
    /// What they mean, and in which form outputs leave.
    formats: Box<dyn Formats>,
    /// Records that wait for a schema, and those behind them; their partitions are paused.
    held: Held,
    /// Since when a partition's position is not decided.
    undecided: BTreeMap<TopicPartition, Instant>,
    /// Since when nobody answers.
    silent: Option<Instant>,
    inboxes: Vec<Topic>,
    /// The group took this member for replaced: it has to join anew.
    replaced: bool,
    /// How often that was since the last commit.
    replaced_times: u32,
}

struct Broken {
    fenced: bool,
    open_for: Duration,
}

impl KafkaLog {
    /// Joins the group as `worker` and replaces the producer of that name; consumes `inboxes`, and
    /// translates on the way in and out.
    ///
    /// # Errors
    /// The brokers cannot be reached for [`KafkaSettings::patience_s`], or refuse.
    ///
    /// [`KafkaSettings::patience_s`]: crate::config::settings::KafkaSettings::patience_s
    pub fn connect(
        client: &Client,
        worker: &str,
        inboxes: &[Topic],
        time_source: TimeSource,
        formats: Box<dyn Formats>,
    ) -> Result<Self, LogError> {
        let names = Names::new(client);
        let producer = transactional(client, &producer_id(client, worker))?;
        let consumer = member(client, worker, &names, inboxes)?;
        let reader = Reader::new(client).map_err(|error| LogError::Failed(error.0))?;
        Ok(KafkaLog {
            client: client.clone(),
            names,
            worker: worker.to_owned(),
            time_source,
            consumer,
            producer,
            broken: None,
            ticker: None,
            reader,
            owned: BTreeMap::new(),
            ahead: VecDeque::new(),
            formats,
            held: Held::default(),
            undecided: BTreeMap::new(),
            silent: None,
            inboxes: inboxes.to_vec(),
            replaced: false,
            replaced_times: 0,
        })
    }

    /// Does what librdkafka noted of the group: tells `revoked`, then lets go; takes what is new.
    fn serve_changes(
        &mut self,
        polled: &mut Polled,
        revoked: &mut dyn FnMut(TopicPartition),
    ) -> Result<(), LogError> {
        for change in self.consumer.context().changes() {
            match change {
                Change::Revoked(list) => {
                    for of in self.names.partitions(&list) {
                        if self.owned.remove(&of).is_some() {
                            revoked(of);
                        }
                        self.ahead.retain(|(held, _)| *held != of);
                        self.held.forget(of);
                        polled.records.retain(|(held, _)| *held != of);
                        polled.assigned.retain(|held| *held != of);
                    }
                    self.consumer
                        .incremental_unassign(&list)
                        .map_err(|error| failed("letting go of partitions", error))?;
                }
                Change::Assigned(mut list) => {
                    list.set_all_offsets(Offset::Beginning)
                        .map_err(|error| failed("taking over partitions", error))?;
                    self.consumer
                        .incremental_assign(&list)
                        .and_then(|()| self.consumer.pause(&list))
                        .map_err(|error| failed("taking over partitions", error))?;
                    for of in self.names.partitions(&list) {
                        self.owned.insert(of, None);
                        polled.assigned.push(of);
                    }
                }
            }
        }
        Ok(())
    }

    /// Joins the group anew, where it took this member for replaced: by another of the same name,
    /// or by itself, when a broker died between its joining and the answer. Which of both, the
    /// next commit says: another's producer has fenced this one's.
    fn rejoin(&mut self, revoked: &mut dyn FnMut(TopicPartition)) -> Result<(), LogError> {
        if !self.replaced {
            return Ok(());
        }
        self.replaced_times += 1;
        if self.replaced_times > REPLACED_MAX {
            return Err(LogError::Fenced(self.worker.clone()));
        }
        warn!(
            "worker {}: the group takes it for replaced; joining anew",
            self.worker
        );
        for (of, _) in std::mem::take(&mut self.owned) {
            revoked(of);
        }
        self.ahead.clear();
        self.held = Held::default();
        self.consumer = member(&self.client, &self.worker, &self.names, &self.inboxes)?;
        self.replaced = false;
        Ok(())
    }

    /// One event of the group's queue: a record that was asked for, if it is one.
    fn next(&mut self, wait: Duration) -> Result<Option<(TopicPartition, Record)>, LogError> {
        let message = match self.consumer.poll(wait) {
            None => return Ok(None),
            Some(Err(error)) => {
                self.judge(error)?;
                return Ok(None);
            }
            Some(Ok(message)) => message,
        };
        self.silent = None;
        let Some(topic) = self.names.topic(message.topic()) else {
            return Ok(None);
        };
        let of = TopicPartition {
            topic,
            partition: message.partition(),
        };
        let next = message.offset() + 1;
        Ok(match self.owned.get_mut(&of) {
            Some(Some(from)) if *from < next => {
                *from = next;
                Some((of, record_of(&message)))
            }
            _ => None,
        })
    }

    /// Hands a record on as it is to be folded; or its partition waits for what it needs.
    fn enter(
        &mut self,
        of: TopicPartition,
        record: Record,
        polled: &mut Polled,
    ) -> Result<(), LogError> {
        let held = self.held.holds(of);
        match self.held.enter(&mut *self.formats, of, record) {
            Some(record) => polled.records.push((of, record)),
            None if held => {}
            None => {
                let (name, list) = self.listed(of)?;
                self.consumer
                    .pause(&list)
                    .map_err(|error| failed(format!("holding {name} up"), error))?;
            }
        }
        Ok(())
    }

    /// Hands on what waits no longer.
    fn retry_held(&mut self, polled: &mut Polled) -> Result<(), LogError> {
        for of in self.held.retry(&mut *self.formats, &mut polled.records) {
            let (name, list) = self.listed(of)?;
            self.consumer
                .resume(&list)
                .map_err(|error| failed(format!("going on with {name}"), error))?;
        }
        Ok(())
    }

    fn listed(&self, of: TopicPartition) -> Result<(String, TopicPartitionList), LogError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(self.names.of(of.topic), of.partition);
        Ok((self.wanted(of), list))
    }

    /// Whether what librdkafka said means the end.
    fn judge(&mut self, error: Native) -> Result<(), LogError> {
        let code = error.rdkafka_error_code();
        match (&error, code) {
            (Native::MessageConsumptionFatal(_), Some(Code::FencedInstanceId)) => {
                self.replaced = true;
                Ok(())
            }
            (Native::MessageConsumptionFatal(_), _) => {
                let said = self.consumer.client().fatal_error();
                let said = said.map_or_else(|| error.to_string(), |(_, text)| text);
                Err(LogError::Failed(format!("reading the inboxes: {said}")))
            }
            (_, Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)) => {
                Err(LogError::Failed(format!(
                    "reading the inboxes: {error}: records that were still to be folded are gone; \
                     compare the topics' retention with how long the processor was down"
                )))
            }
            (_, Some(Code::AllBrokersDown)) => {
                let since = *self.silent.get_or_insert_with(Instant::now);
                if since.elapsed() < self.client.patience() {
                    return Ok(());
                }
                // Said again and again since then; but it may have been idle only.
                let answer = self
                    .consumer
                    .fetch_metadata(Some(self.names.of(Topic::Metrics)), ASK);
                match answer {
                    Ok(_) => {
                        self.silent = None;
                        Ok(())
                    }
                    Err(error) => Err(LogError::Failed(format!(
                        "reaching {}: {error}, for {} s (kafka.patience_s)",
                        self.client.brokers(),
                        since.elapsed().as_secs()
                    ))),
                }
            }
            _ => {
                // Passes by itself, or comes back as one of the above.
                warn!("reading the inboxes: {error}");
                Ok(())
            }
        }
    }

    /// Steps 1 to 3.
    fn write(
        &self,
        outputs: &[Outgoing],
        positions: &[(TopicPartition, Position)],
        until: Instant,
    ) -> Result<(), Native> {
        self.producer.begin_transaction()?;
        self.producer.context().clear();
        for output in outputs {
            self.send(&self.producer, output, until)?;
        }
        settle(&self.producer, until)?;
        if positions.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (inbox, position) in positions {
            let name = self.names.of(inbox.topic);
            let mut entry = list.add_partition(name, inbox.partition);
            entry.set_offset(Offset::Offset(position.next))?;
            entry.set_metadata(write_times(position));
        }
        let group = self.consumer.group_metadata();
        let group = group.ok_or(Native::NoMessageReceived)?;
        self.producer
            .send_offsets_to_transaction(&list, &group, left(until))
    }

    fn send(
        &self,
        producer: &BaseProducer<Deliveries>,
        output: &Outgoing,
        until: Instant,
    ) -> Result<(), Native> {
        let opaque = output.to.topic as usize;
        let mut record = BaseRecord::with_opaque_to(self.names.of(output.to.topic), opaque)
            .partition(output.to.partition)
            .key(&output.key[..])
            .payload(&output.value[..]);
        if self.time_source == TimeSource::Sample {
            record = record.timestamp(output.time.0);
        }
        if !output.headers.is_empty() {
            let room = OwnedHeaders::new_with_capacity(output.headers.len());
            record = record.headers(output.headers.iter().fold(room, |headers, (name, value)| {
                headers.insert(Header {
                    key: name,
                    value: Some(value),
                })
            }));
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((Native::MessageProduction(Code::QueueFull), unsent))
                    if Instant::now() < until =>
                {
                    producer.poll(Duration::ZERO);
                    std::thread::park_timeout(SERVE);
                    record = unsent;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Takes back what was begun: nothing of it is or will be in the log.
    fn aborted(&mut self, error: Native, begun: Instant) -> CommitError {
        let text = error.to_string();
        if !is_fatal(&error) {
            match self.producer.abort_transaction(ASK) {
                Ok(()) => return CommitError::Aborted(text),
                Err(abort) => self.note_broken(&abort, begun),
            }
        } else {
            self.note_broken(&error, begun);
        }
        CommitError::Fatal(text)
    }

    fn note_broken(&mut self, error: &Native, begun: Instant) {
        let said = self.producer.client().fatal_error();
        let code = said.map(|(code, _)| code).or(error.rdkafka_error_code());
        self.broken = Some(Broken {
            fenced: matches!(code, Some(Code::Fenced | Code::ProducerFenced)),
            open_for: begun.elapsed(),
        });
    }

    /// Step 4.
    fn end(&mut self, begun: Instant, until: Instant) -> Result<(), CommitError> {
        loop {
            let error = match self.producer.commit_transaction(left(until)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let Native::Transaction(said) = &error else {
                return Err(self.unknown(error, begun));
            };
            if said.txn_requires_abort() {
                return Err(self.aborted(error, begun));
            }
            if !said.is_retriable() || Instant::now() >= until {
                return Err(self.unknown(error, begun));
            }
        }
    }

    fn unknown(&mut self, error: Native, begun: Instant) -> CommitError {
        self.note_broken(&error, begun);
        CommitError::Unknown(error.to_string())
    }

    fn wanted(&self, of: TopicPartition) -> String {
        format!("{}/{}", self.names.of(of.topic), of.partition)
    }
}

impl Log for KafkaLog {
    fn partitions(&mut self, topic: Topic) -> Result<i32, LogError> {
        self.reader.partitions(topic).map_err(of_reader)
    }

    fn poll(
        &mut self,
        records_max: usize,
        wait: Span,
        revoked: &mut dyn FnMut(TopicPartition),
    ) -> Result<Polled, LogError> {
        let mut polled = Polled::default();
        self.rejoin(revoked)?;
        self.serve_changes(&mut polled, revoked)?;
        self.retry_held(&mut polled)?;
        while let Some((of, record)) = self.ahead.pop_front() {
            self.enter(of, record, &mut polled)?;
        }
        let until = Instant::now() + Duration::from_millis(wait.0.max(0) as u64);
        while polled.records.len() < records_max {
            let more_to_tell = !polled.records.is_empty() || !polled.assigned.is_empty();
            let patience = match more_to_tell {
                true => Duration::ZERO,
                false => whole(left(until)).min(SLICE),
            };
            match self.next(patience)? {
                Some((of, record)) => self.enter(of, record, &mut polled)?,
                None => {
                    let changed = self.consumer.context().changed();
                    self.serve_changes(&mut polled, revoked)?;
                    if more_to_tell && !changed || Instant::now() >= until {
                        break;
                    }
                }
            }
        }
        Ok(polled)
    }

    fn go_on(&mut self, inbox: TopicPartition, from: i64) -> Result<(), LogError> {
        let name = self.names.of(inbox.topic).to_owned();
        let Some(next) = self.owned.get_mut(&inbox) else {
            return Err(LogError::Failed(format!(
                "going on with {inbox}: it is not assigned"
            )));
        };
        let attempt = || format!("going on with {name}/{} at {from}", inbox.partition);
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&name, inbox.partition, Offset::Offset(from))
            .map_err(|error| failed(attempt(), error))?;
        self.consumer
            .seek(&name, inbox.partition, Offset::Offset(from), ASK)
            .and_then(|()| self.consumer.resume(&list))
            .map_err(|error| failed(attempt(), error))?;
        *next = Some(from);
        self.held.forget(inbox);
        self.ahead.retain(|(held, _)| *held != inbox);
        Ok(())
    }

    fn commit(
        &mut self,
        outputs: Vec<Outgoing>,
        positions: &[(TopicPartition, Position)],
    ) -> Result<Vec<(TopicPartition, i64)>, CommitError> {
        let leaving = |output| self.formats.leaving(output);
        let outputs: Vec<Outgoing> = outputs.into_iter().map(leaving).collect();
        let begun = Instant::now();
        let until = begun + Duration::from_millis(self.client.settings.transaction_timeout_ms);
        let written = self.write(&outputs, positions, until);
        let ended = match written {
            Ok(()) => self.end(begun, until),
            Err(error) => Err(self.aborted(error, begun)),
        };
        if let Err(error) = &ended {
            warn!(
                "committing after {} ms: {error}",
                begun.elapsed().as_millis()
            );
        }
        ended?;
        self.replaced_times = 0;
        Ok(self.producer.context().ends())
    }

    fn reconnect(&mut self) -> Result<(), LogError> {
        let patience = Duration::from_millis(self.client.settings.transaction_timeout_ms);
        if let Some(broken) = &self.broken
            && broken.fenced
            // The coordinator fences who leaves a transaction open for too long, too.
            && broken.open_for < patience
        {
            return Err(LogError::Fenced(self.worker.clone()));
        }
        self.producer = transactional(&self.client, &producer_id(&self.client, &self.worker))?;
        self.broken = None;
        info!("worker {} has a new producer", self.worker);
        Ok(())
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        let attempt = format!("reading the committed offset of {}", self.wanted(inbox));
        match committed(&self.consumer, &self.client, &self.names, &[inbox], ASK) {
            Err(error) if passes(&error) => {
                let since = *self.undecided.entry(inbox).or_insert_with(Instant::now);
                match since.elapsed() < self.client.patience() {
                    true => Err(LogError::Undecided(inbox)),
                    false => Err(failed(
                        format!("{attempt} for {} s", since.elapsed().as_secs()),
                        error,
                    )),
                }
            }
            Err(error) => Err(failed(attempt, error)),
            Ok(positions) => {
                self.undecided.remove(&inbox);
                Ok(positions?[0])
            }
        }
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        // A member that does not ask for so long loses its place: what comes meanwhile is kept.
        if let Some(record) = self.next(Duration::ZERO)? {
            self.ahead.push_back(record);
        }
        let chunk = self.reader.read(of, from, to, records_max);
        let Chunk { records, next } = chunk.map_err(of_reader)?;
        let (reader, formats) = (&mut self.reader, &mut *self.formats);
        let mut letters = |since| letters_since(reader, since).map_err(of_reader);
        let mut wait = || {
            std::thread::park_timeout(SLICE);
            Ok(())
        };
        let records = enter_again(formats, of, records, &mut letters, &mut wait)?;
        Ok(Chunk { records, next })
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.reader.start(of).map_err(of_reader)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.reader.high_watermark(of).map_err(of_reader)
    }

    fn append(&mut self, record: Outgoing) -> Result<i64, LogError> {
        let attempt = format!("appending to {}", self.wanted(record.to));
        if self.ticker.is_none() {
            let producer = idempotent(&self.client);
            self.ticker = Some(producer.map_err(|error| failed(&attempt, error))?);
        }
        let ticker = self.ticker.as_ref().expect("it was made above");
        ticker.context().clear();
        let until = Instant::now() + self.client.patience();
        self.send(ticker, &record, until)
            .and_then(|()| settle(ticker, until))
            .map_err(|error| failed(&attempt, error))?;
        let ends = ticker.context().ends();
        let end = ends.iter().find(|(of, _)| *of == record.to);
        end.map(|(_, end)| end - 1)
            .ok_or_else(|| LogError::Failed(format!("{attempt}: no answer")))
    }
}

/// The dead letters of all partitions that were appended at or after a time.
fn letters_since(reader: &mut Reader, since: Time) -> Result<Vec<Record>, KafkaError> {
    let mut letters = Vec::new();
    for partition in 0..reader.partitions(Topic::DeadLetters)? {
        let of = TopicPartition {
            topic: Topic::DeadLetters,
            partition,
        };
        let end = reader.stable_end(of)?;
        let mut next = reader.offset_at(of, since)?.unwrap_or(end);
        while next < end {
            let chunk = reader.read(of, next, end, LETTERS_AT_A_TIME)?;
            next = chunk.next;
            letters.extend(chunk.records);
        }
    }
    Ok(letters)
}

/// A record as the runtime has it.
pub(super) fn record_of(message: &impl Message) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let of = |header: Header<'_, &[u8]>| {
            let value = header.value.unwrap_or_default();
            (header.key.to_owned(), value.to_vec())
        };
        headers.iter().map(of).collect()
    });
    Record {
        offset: message.offset(),
        time: Time(message.timestamp().to_millis().unwrap_or_default()),
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().unwrap_or_default().to_vec(),
        headers,
    }
}

/// A member of the group, which consumes these inboxes.
fn member(
    client: &Client,
    worker: &str,
    names: &Names,
    inboxes: &[Topic],
) -> Result<Membership, LogError> {
    let settings = &client.settings;
    let session = settings.session_timeout_ms;
    let mut config = client.config();
    config
        .set("group.id", &settings.group)
        .set("group.instance.id", worker)
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session.to_string())
        .set("heartbeat.interval.ms", (session / 3).max(1).to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", FETCH_AGAIN_MS)
        .set("check.crcs", "true");
    let ahead = settings.fetch_ahead_kib;
    config.set("queued.max.messages.kbytes", ahead.to_string());
    let topics: Vec<&str> = inboxes.iter().map(|&topic| names.of(topic)).collect();
    let joined = config.create_with_context(Member::default());
    joined
        .and_then(|consumer: BaseConsumer<Member>| {
            consumer.subscribe(&topics)?;
            Ok(Membership::new(consumer))
        })
        .map_err(|error| {
            let topics = topics.join(", ");
            failed(
                format!("joining group {} for {topics}", settings.group),
                error,
            )
        })
}

/// The transactional id of a worker's name.
fn producer_id(client: &Client, worker: &str) -> String {
    format!("{}-{worker}", client.settings.group)
}

/// The producer of a transactional id: from here on all older ones of it are fenced, and what they
/// left open is decided.
pub(super) fn transactional(
    client: &Client,
    id: &str,
) -> Result<BaseProducer<Deliveries>, LogError> {
    let timeout = client.settings.transaction_timeout_ms.to_string();
    let attempt = format!("starting the transactions of {id}");
    let mut config = client.config();
    config
        .set("transactional.id", id)
        .set("transaction.timeout.ms", &timeout)
        .set("delivery.timeout.ms", &timeout)
        .set("linger.ms", "0");
    if config.get("compression.type").is_none() {
        // Every client knows it, and the brokers have less to write and to hand out.
        config.set("compression.type", "lz4");
    }
    let producer: BaseProducer<Deliveries> = config
        .create_with_context(Deliveries::default())
        .map_err(|error| failed(&attempt, error))?;
    let until = Instant::now() + client.patience();
    loop {
        let error = match producer.init_transactions(ASK) {
            Ok(()) => return Ok(producer),
            Err(error) => error,
        };
        let again = match &error {
            Native::Transaction(said) => said.is_retriable(),
            _ => false,
        };
        if !again || Instant::now() >= until {
            return Err(failed(&attempt, error));
        }
    }
}

/// A producer outside of transactions.
fn idempotent(client: &Client) -> Result<BaseProducer<Deliveries>, Native> {
    let mut config = client.config();
    config
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create_with_context(Deliveries::default())
}

/// Waits until everything that was sent is answered.
pub(super) fn settle(producer: &BaseProducer<Deliveries>, until: Instant) -> Result<(), Native> {
    // librdkafka would do this inside of its commit, in steps of 100 ms.
    let mut before = 0;
    loop {
        let open = producer.in_flight_count();
        if let Some(error) = producer.context().failure() {
            return Err(error);
        }
        if open == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Native::Flush(Code::OperationTimedOut));
        }
        // Its poll would spin for as long as it is told to wait, below a millisecond always.
        if open == before {
            std::thread::park_timeout(SERVE);
        }
        producer.poll(Duration::ZERO);
        before = open;
    }
}

fn is_fatal(error: &Native) -> bool {
    matches!(error, Native::Transaction(said) if said.is_fatal())
        || error.rdkafka_error_code() == Some(Code::Fatal)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// In whole milliseconds, as librdkafka waits: what is left of one, rdkafka would spin.
fn whole(wait: Duration) -> Duration {
    Duration::from_millis(wait.as_micros().div_ceil(1000) as u64)
}

fn failed(attempt: impl std::fmt::Display, error: impl std::fmt::Display) -> LogError {
    LogError::Failed(format!("{attempt}: {error}"))
}

fn of_reader(error: KafkaError) -> LogError {
    LogError::Failed(error.0)
}

/// How often in a row, without a commit between, a member may be taken for replaced.
const REPLACED_MAX: u32 = 3;

/// How long one question may take, before it is asked again.
const ASK: Duration = Duration::from_secs(5);

/// How long a poll may sleep before it looks whether the group changed.
const SLICE: Duration = Duration::from_millis(100);

/// Dead letters read at a time.
const LETTERS_AT_A_TIME: usize = 500;

/// How soon librdkafka looks again whether what it fetched ahead was taken: its own second would be
/// a pace of one full queue a second.
pub(super) const FETCH_AGAIN_MS: &str = "5";

/// How long the producer's answers are waited for at a time.
const SERVE: Duration = Duration::from_micros(200);
