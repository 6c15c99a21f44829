//! The log on the brokers as the door of one process uses it.
//!
//! One thread looks at the ends and the group's positions several times a second: what the door
//! says of them is that old at most, and however many follow, the brokers are asked by one. Readers
//! are kept and lent, since each has connections of its own.

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::model::Time;
use crate::runtime::{
    AppendError, Chunk, Durable, HeldRows, Incoming, KeyValue, LogError, LogHandle, Position,
    RowsCopy, Source, Store, StoreError, Title, TopicPartition, partitions_of,
};
use crate::stream::Topic;

use super::client::{Client, KafkaError};
use super::intake::KafkaIntake;
use super::reader::Reader;
use super::source::KafkaSource;

/// The log on the brokers, for the door of a process that holds some of its rows.
pub struct KafkaHandle {
    shared: Arc<Shared>,
    intake: KafkaIntake,
    rows: Box<dyn HeldRows>,
    looking: JoinHandle<()>,
}

/// What the looking thread and the lent readers know too.
struct Shared {
    client: Client,
    title: Title,
    seen: Mutex<Seen>,
    moved: watch::Sender<u64>,
    stopping: AtomicBool,
    idle: Mutex<Vec<KafkaSource>>,
}

/// What was seen last.
#[derive(Clone, Default)]
struct Seen {
    /// Per topic and partition.
    ends: [Vec<i64>; TOPICS],
    /// Records that are not folded yet, per inbox.
    waiting: [i64; INBOXES.len()],
    /// Since when nothing is seen, and why.
    blind: Option<(Instant, String)>,
}

impl KafkaHandle {
    /// Looks for a first time, as long as that takes, then again and again until it goes.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub fn new(
        client: &Client,
        title: Title,
        rows: impl HeldRows + 'static,
    ) -> Result<Self, LogError> {
        let failed = |error: KafkaError| LogError::Failed(error.0);
        let patience = client.patience();
        let client = &client.clone().patient_for(PATIENCE_S);
        let reader = Reader::new(client).map_err(failed)?;
        let intake = KafkaIntake::new(client, &title).map_err(failed)?;
        let shared = Arc::new(Shared {
            client: client.clone(),
            title,
            seen: Mutex::default(),
            moved: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
            idle: Mutex::default(),
        });
        let until = Instant::now() + patience;
        while let Err(error) = shared.look(&reader) {
            // A processor that was killed may have left a transaction open: it is decided soon.
            if Instant::now() >= until {
                return Err(error);
            }
        }
        let looks = shared.clone();
        Ok(KafkaHandle {
            looking: std::thread::spawn(move || looks.look_on(&reader)),
            shared,
            intake,
            rows: Box::new(rows),
        })
    }
}

/// This machine's time, near the brokers'.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Time(since.unwrap_or_default().as_millis() as i64)
}

impl Drop for KafkaHandle {
    fn drop(&mut self) {
        // It may wait for an answer: nobody waits for it.
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.looking.thread().unpark();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_on(&self, reader: &Reader) {
        while !self.stopping.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK_EVERY);
            if let Err(error) = self.look(reader) {
                let mut seen = self.seen();
                let since = seen
                    .blind
                    .take()
                    .map_or_else(Instant::now, |(since, _)| since);
                seen.blind = Some((since, error.to_string()));
            }
        }
    }

    fn look(&self, reader: &Reader) -> Result<(), LogError> {
        let count = self.title.partitions;
        let of = |topics: &[Topic]| -> Vec<TopicPartition> {
            let all = topics.iter().flat_map(|topic| partitions_of(*topic, count));
            all.collect()
        };
        // Positions first: where they have reached the ends, nothing waits.
        let positions = reader.positions(&of(&INBOXES))?;
        let ends = reader.stable_ends(&of(&Topic::ALL));
        let ends = ends.map_err(|error| LogError::Failed(error.0))?;
        let mut now = Seen::default();
        for (of, end) in of(&Topic::ALL).into_iter().zip(ends) {
            now.ends[of.topic as usize].push(end);
        }
        for (inbox, position) in of(&INBOXES).into_iter().zip(positions) {
            let end = now.ends[inbox.topic as usize][inbox.partition as usize];
            let folded = position.map_or(0, |position| position.next);
            let at = INBOXES.iter().position(|topic| *topic == inbox.topic);
            now.waiting[at.expect("it is an inbox")] += (end - folded).max(0);
        }
        let before = std::mem::replace(&mut *self.seen(), now.clone());
        if before.ends != now.ends {
            self.moved.send_modify(|moved| *moved += 1);
        }
        Ok(())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<KafkaSource>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogHandle for KafkaHandle {
    fn title(&self) -> Option<Title> {
        Some(self.shared.title.clone())
    }

    fn source(&self) -> Result<Box<dyn Source + Send>, LogError> {
        let Shared { client, title, .. } = &*self.shared;
        let kept = self.shared.idle().pop();
        let source = match kept {
            Some(source) => source,
            None => KafkaSource::titled(client, title).map_err(|e| LogError::Failed(e.0))?,
        };
        Ok(Box::new(Lent {
            source: Some(source),
            owner: Arc::downgrade(&self.shared),
        }))
    }

    fn append(&self, topic: Topic, records: Vec<Incoming>) -> Result<Durable, AppendError> {
        self.intake.append(topic, records)
    }

    fn append_to_all(&self, topic: Topic, record: Incoming) -> Result<Durable, AppendError> {
        // Within what a processor's principal may use (`topics acls`), and no worker's: those end
        // in its name alone.
        let id = format!("{}-door/all", self.shared.client.settings.group);
        self.intake.append_to_all(&id, topic, &record)?;
        Ok(Box::pin(std::future::ready(Ok(()))))
    }

    fn seen_ends(&self, topic: Topic) -> Vec<i64> {
        self.shared.seen().ends[topic as usize].clone()
    }

    fn waiting(&self, inbox: Topic) -> i64 {
        let at = INBOXES.iter().position(|topic| *topic == inbox);
        at.map_or(0, |at| self.shared.seen().waiting[at])
    }

    fn moved(&self) -> watch::Receiver<u64> {
        self.shared.moved.subscribe()
    }

    /// This machine's clock; `homeostat check` compares it with the brokers'.
    fn now(&self) -> Time {
        now()
    }

    /// Nothing here fails for good: a producer that did is replaced, brokers may come back.
    fn failure(&self) -> Option<String> {
        None
    }

    fn trouble(&self) -> Option<String> {
        let (since, why) = self.shared.seen().blind.clone()?;
        Some(format!(
            "the brokers do not answer for {} s: {why}",
            since.elapsed().as_secs()
        ))
    }

    fn sizes(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    fn rows(&self, stage: &str) -> Vec<(i32, Rc<dyn Store>)> {
        self.rows.rows(stage)
    }

    fn windows(
        &self,
        partition: i32,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.rows.windows(partition, keys)
    }

    fn backup(&self, _dir: &Path) -> Result<(), String> {
        Err(format!(
            "the log lies on the brokers at {}, which keep its copies (kafka.replication); the \
             rows are rebuilt from it: there is nothing here to back up",
            self.shared.client.brokers()
        ))
    }
}

/// A reader that goes back to where it came from.
struct Lent {
    source: Option<KafkaSource>,
    owner: Weak<Shared>,
}

impl Lent {
    fn source(&mut self) -> &mut KafkaSource {
        self.source.as_mut().expect("it is lent until it goes")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade()
            && let Some(mut source) = self.source.take()
        {
            source.rest();
            let mut idle = owner.idle();
            if idle.len() < IDLE_MAX {
                idle.push(source);
            }
        }
    }
}

impl Source for Lent {
    fn title(&mut self) -> Result<Title, LogError> {
        self.source().title()
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.source().start(of)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.source().end(of)
    }

    fn ends(&mut self, of: &[TopicPartition]) -> Result<Vec<i64>, LogError> {
        self.source().ends(of)
    }

    fn offset_at(&mut self, of: TopicPartition, time: Time) -> Result<i64, LogError> {
        self.source().offset_at(of, time)
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        self.source().position(inbox)
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        self.source().read(of, from, to, records_max)
    }

    fn copies(&mut self, stage: &str) -> Result<Vec<RowsCopy>, LogError> {
        self.source().copies(stage)
    }

    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        after: &[u8],
        rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError> {
        self.source().copied_rows(copy, after, rows_max)
    }
}

const TOPICS: usize = Topic::ALL.len();

const INBOXES: [Topic; 2] = [Topic::Metrics, Topic::PlanInbox];

/// How often the ends are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// How long a request waits for brokers that do not answer, s.
const PATIENCE_S: u64 = 5;

/// Readers that are kept for the next.
const IDLE_MAX: usize = 8;
