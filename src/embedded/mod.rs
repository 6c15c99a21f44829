//! The embedded back end: the log and the rows of its stages in one RocksDB of one process.
//!
//! One partition a topic. [`Embedded`] is a handle that any thread may use: the door appends and
//! reads with it, the worker's [`Log`] and [`Stores`]
//! stand on it.
//!
//! # What lies where
//! A column family per topic holds its records in batches (`batch.rs`); `default` holds the
//! committed positions and the notes of who runs the loop; all of these go through the one
//! write-ahead log, so that a commit is one write batch: outputs and positions, all or nothing.
//! `state` holds the rows of the stages, `panes` the closed panes, `copies` the daily copies of
//! Analyze's rows. These three are caches of the log: they skip the write-ahead log and may lag it;
//! what a kill takes of them is folded again.
//!
//! # What a crash leaves
//! 1. **Killed** (the machine goes on): every write that returned is there; of `state` what was
//!    flushed, which is a prefix of what was written, mark and rows together.
//! 2. **Power lost**, `fsync = "group"`: every write up to the last sync is there, and a prefix of
//!    those after. What was answered or seen was synced before. Rows never are ahead of the log:
//!    RocksDB syncs the closed write-ahead logs before a flush of `state` counts, and every flush
//!    closes one.
//! 3. **The tail of the write-ahead log is torn**: replay ends before the torn record, which was
//!    never answered. Damage further up is an error that stops the start, and so is a missing log.

mod batch;
mod handle;
mod keeper;
mod log;
mod open;
mod reading;
mod store;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rocksdb::{ColumnFamily, DB, WriteBatch};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::settings::{Fsync, LogSettings};
use crate::model::Time;
use crate::rows::folder::{self, FolderError, Lock};
use crate::runtime::{Log, Position, Source, Store, Stores, TimeSource, Title, TopicPartition};
use crate::stream::Topic;

pub use crate::runtime::Incoming;
use batch::{Batch, Draft, Entry};

/// The log and rows in a folder. Cloning it clones the handle; the last one to go closes the
/// folder: rows are written to files, everything is synced, the hold is let go.
#[derive(Clone)]
pub struct Embedded(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What was appended, to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of the first record.
    pub first: i64,
    /// Durable when [`Embedded::moved`] says at least this.
    pub write: u64,
}

/// A small value beside the log, written with an append: all or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a [u8],
}

/// The folder could not be used as asked: what was attempted, on what, what next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddedError {
    /// Less space is free than the configuration wants.
    #[error(
        "{free_mib} MiB are free below {dir}, less than log.min_free_mib = {min_mib}: free some, \
         or lower it"
    )]
    NearlyFull {
        /// The folder.
        dir: String,
        /// What is free, MiB.
        free_mib: u64,
        /// What must be, MiB.
        min_mib: u64,
    },
    /// Another process holds the folder, or it cannot be held.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What all handles and threads share.
struct Inner {
    db: DB,
    dir: PathBuf,
    settings: LogSettings,
    source: TimeSource,
    writing: Mutex<Writing>,
    /// Something was written, or the end has come.
    wrote: Condvar,
    /// Per topic one past the last record that may be seen.
    visible: [AtomicI64; TOPICS],
    /// How far inboxes are folded by commits that may be seen. Who sees an output and asks here
    /// then learns of at least its commit, and all that was committed up to what is answered here
    /// may be seen: both are published under this lock.
    folded: Mutex<[Option<Position>; TOPICS]>,
    moved: watch::Sender<u64>,
    failure: Mutex<Option<String>>,
    free: AtomicU64,
    /// When free space was last asked for.
    looked: Mutex<Instant>,
    stopping: AtomicBool,
    /// Per stage: its rows in files hold the inbox up to here; what `metrics` must keep.
    flushed: Mutex<std::collections::BTreeMap<String, i64>>,
    clock: Mutex<LogClock>,
    _lock: Option<Lock>,
}

/// What only one writer at a time may touch.
struct Writing {
    tails: [Tail; TOPICS],
    positions: [Option<Position>; TOPICS],
    /// How many writes there were.
    writes: u64,
    /// The worker that may commit: a newer one fences an older.
    epoch: u64,
    /// The loop's unflushed records since `state` was last flushed; bounds what a restart folds.
    since_flush: u64,
}

/// The end of a topic.
struct Tail {
    next: i64,
    last_time: Time,
    /// The newest batches, for who reads right behind.
    recent: VecDeque<Batch>,
    recent_bytes: usize,
    recent_max: usize,
}

/// Append time: the wall clock, made never to go back. Where the wall clock was set back, time goes
/// on at half its pace until that has caught up: alarms late are better than alarms never.
struct LogClock {
    last: Time,
    at: Instant,
}

/// How the title is noted.
#[derive(Serialize, Deserialize)]
struct NotedTitle {
    log_id: String,
    prefix: String,
    time_source: String,
}

impl Embedded {
    /// Takes hold of a folder; makes it when it is not there.
    ///
    /// # Errors
    /// Another process holds it (named), it is of another kind or a newer version, or it cannot be
    /// read or written.
    pub fn open(settings: &LogSettings, source: TimeSource) -> Result<Self, EmbeddedError> {
        let inner = Arc::new(open::open(settings, source)?);
        let mut threads = Vec::new();
        if settings.fsync == Fsync::Group {
            let shared = inner.clone();
            threads.push(std::thread::spawn(move || keeper::sync(&shared)));
        }
        let shared = inner.clone();
        threads.push(std::thread::spawn(move || keeper::keep(&shared)));
        Ok(Embedded(Arc::new(Handle {
            inner,
            threads: Mutex::new(threads),
        })))
    }

    /// A folder that nobody holds, to be read only.
    ///
    /// # Errors
    /// It is not there, is held, or cannot be read.
    pub fn read_only(dir: &Path) -> Result<Self, EmbeddedError> {
        Ok(Embedded(Arc::new(Handle {
            inner: Arc::new(open::read_only(dir)?),
            threads: Mutex::default(),
        })))
    }

    /// Says in the folder where the holder's door listens.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn announce(&self, listen: &str) -> Result<(), EmbeddedError> {
        Ok(folder::announce(&self.0.inner.dir, listen)?)
    }

    /// The log and the stores of a worker that consumes these inboxes. A newer worker fences an
    /// older one.
    pub fn worker(&self, inboxes: &[Topic]) -> (Box<dyn Log>, std::rc::Rc<dyn Stores>) {
        let inner = &self.0.inner;
        let epoch = {
            let mut writing = inner.writing();
            writing.epoch += 1;
            writing.epoch
        };
        (
            Box::new(log::EmbeddedLog::new(inner.clone(), epoch, inboxes)),
            std::rc::Rc::new(store::EmbeddedStores::new(inner.clone(), epoch)),
        )
    }

    /// Appends records from outside, all or none.
    ///
    /// # Errors
    /// The disk is nearly full, or failed.
    pub fn append(&self, topic: Topic, records: Vec<Incoming>) -> Result<Receipt, EmbeddedError> {
        self.append_noting(topic, records, &[])
    }

    /// Appends records and writes notes, all or none.
    ///
    /// # Errors
    /// As [`Embedded::append`].
    pub fn append_noting(
        &self,
        topic: Topic,
        records: Vec<Incoming>,
        notes: &[Note<'_>],
    ) -> Result<Receipt, EmbeddedError> {
        let inner = &self.0.inner;
        inner.check_space()?;
        let entries = records.iter().map(|record| Entry {
            time: record.time,
            key: &record.key,
            value: &record.value,
            headers: &[],
        });
        let mut batch = WriteBatch::default();
        for note in notes {
            batch.put(note_key(note.name), note.value);
        }
        let receipt = match inner.source {
            TimeSource::Log => {
                let draft = Draft::new(entries, None);
                inner.write(&mut inner.writing(), batch, vec![(topic, draft)], &[])
            }
            TimeSource::Sample => {
                let mut writing = inner.writing();
                let after = writing.tails[topic as usize].last_time;
                let draft = Draft::new(entries, Some(after));
                inner.write(&mut writing, batch, vec![(topic, draft)], &[])
            }
        };
        receipt.map_err(EmbeddedError::Failed)
    }

    /// A note as it was last written.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, EmbeddedError> {
        let found = self.0.inner.db.get(note_key(name));
        found.map_err(|error| EmbeddedError::Failed(format!("reading the note {name}: {error}")))
    }

    /// What the log is called from now on, to be noted with the record that opens it.
    pub fn title_note(title: &Title) -> Vec<u8> {
        let noted = NotedTitle {
            log_id: title.log_id.clone(),
            prefix: title.prefix.clone(),
            time_source: match title.time_source {
                TimeSource::Log => "log".to_owned(),
                TimeSource::Sample => "sample".to_owned(),
            },
        };
        serde_json::to_vec(&noted).expect("a title is plain data")
    }

    /// What the log is called; `None` before it was opened with an id.
    pub fn title(&self) -> Option<Title> {
        self.0.inner.title()
    }

    /// Counts up whenever more has become durable and may be seen: everything up to the write of
    /// that number. A receipt is durable when its `write` is at or below it.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.0.inner.moved.subscribe()
    }

    /// One past the last record of a topic that may be seen: durable.
    pub fn visible_end(&self, topic: Topic) -> i64 {
        self.0.inner.visible[topic as usize].load(Ordering::Acquire)
    }

    /// One past the last record of a topic that was written, durable or not.
    pub fn written_end(&self, topic: Topic) -> i64 {
        self.0.inner.writing().tails[topic as usize].next
    }

    /// How far an inbox is folded and committed.
    pub fn position(&self, inbox: Topic) -> Option<Position> {
        self.0.inner.writing().positions[inbox as usize]
    }

    /// To read what may be seen. May be used on any one thread; its calls block.
    pub fn source(&self) -> Box<dyn Source + Send> {
        Box::new(reading::EmbeddedSource::new(self.0.inner.clone()))
    }

    /// The rows of a stage (`analyze`, `plan`), for reading: they lag the log by at most `[loop]
    /// apply_ms`. Make it on the thread that reads.
    pub fn rows(&self, stage: &str) -> std::rc::Rc<dyn Store> {
        std::rc::Rc::new(store::EmbeddedStore::reading(self.0.inner.clone(), stage))
    }

    /// Closed panes that are kept, by their key ([`crate::stream::window_key`]): the values of
    /// those of `keys` that there are.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn windows(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, EmbeddedError> {
        store::windows(&self.0.inner, keys)
    }

    /// What time an append would bear now.
    pub fn now(&self) -> Time {
        self.0.inner.now()
    }

    /// Bytes on disk per topic, and of `state`, `panes` and `copies`.
    pub fn sizes(&self) -> Vec<(&'static str, u64)> {
        open::FAMILIES
            .iter()
            .map(|name| (*name, self.0.inner.bytes_of(name)))
            .collect()
    }

    /// Free bytes on the folder's disk, as of the last second.
    pub fn free_bytes(&self) -> u64 {
        self.0.inner.free.load(Ordering::Relaxed)
    }

    /// Whether something failed for good: the process must end.
    pub fn failure(&self) -> Option<String> {
        self.0.inner.failure()
    }

    /// Ends the use of the folder, whoever still has a handle: rows are written to files,
    /// everything is synced. Nothing may be appended or folded any more.
    pub fn close(&self) {
        self.0.close();
    }

    /// Does at once what else is done in the background about once a minute: writes the rows in
    /// memory to files, drops what is too old or too large, copies Analyze's rows when it is time.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn tidy(&self) -> Result<(), EmbeddedError> {
        keeper::tidy(&self.0.inner).map_err(EmbeddedError::Failed)
    }

    /// A consistent copy of everything, made while the loop runs: files that never change are
    /// linked where the disk allows it.
    ///
    /// # Errors
    /// The folder is there already, or cannot be written.
    pub fn backup(&self, dir: &Path) -> Result<(), EmbeddedError> {
        keeper::backup(&self.0.inner, dir)
    }
}

impl Handle {
    /// Ends the threads, writes rows to files and syncs everything: once.
    fn close(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        // Under the lock, so that who is about to wait sees it.
        drop(self.inner.writing());
        self.inner.wrote.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no holder panics"));
        let writes = !threads.is_empty();
        for thread in threads {
            // A thread that panicked has noted a failure; nobody is left to tell.
            let _ = thread.join();
        }
        if writes {
            keeper::close(&self.inner);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing
            .lock()
            .expect("a panic inside of a write leaves nothing to go on with")
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("opened with every family")
    }

    /// Writes batches, each to the end of its topic, with `batch`, which holds the positions too:
    /// one write, all or nothing.
    fn write(
        &self,
        writing: &mut Writing,
        mut batch: WriteBatch,
        drafts: Vec<(Topic, Draft)>,
        positions: &[(TopicPartition, Position)],
    ) -> Result<Receipt, String> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let mut first = None;
        let mut placed = Vec::with_capacity(drafts.len());
        for (topic, draft) in drafts.into_iter().filter(|(_, draft)| draft.count() > 0) {
            let tail = &writing.tails[topic as usize];
            let (time, last) = match self.source {
                TimeSource::Log => {
                    let now = self.now().max(tail.last_time);
                    (now, now)
                }
                TimeSource::Sample => draft.times(),
            };
            let placed_batch = draft.place(tail.next, time);
            first.get_or_insert(placed_batch.first);
            batch.put_cf(
                self.family(topic.name()),
                placed_batch.key(),
                placed_batch.bytes(),
            );
            placed.push((topic, placed_batch, last));
        }
        if let Err(error) = self.db.write(batch) {
            return Err(self.fail(format!("writing to {}: {error}", self.dir.display())));
        }
        for (topic, placed_batch, last) in placed {
            writing.tails[topic as usize].push(placed_batch, last);
        }
        for (inbox, position) in positions {
            let slot = &mut writing.positions[inbox.topic as usize];
            let before = slot.replace(*position).map_or(0, |position| position.next);
            writing.since_flush += position.next.saturating_sub(before).unsigned_abs();
        }
        writing.writes += 1;
        if self.settings.fsync == Fsync::Never {
            self.publish(&writing.ends(), writing.positions, writing.writes);
        }
        self.wrote.notify_all();
        Ok(Receipt {
            first: first.unwrap_or_default(),
            write: writing.writes,
        })
    }

    /// Lets readers see up to these ends, and that inboxes are folded so far.
    fn publish(&self, ends: &[i64; TOPICS], positions: [Option<Position>; TOPICS], writes: u64) {
        let mut folded = self.folded.lock().expect("no holder panics");
        *folded = positions;
        for (visible, end) in self.visible.iter().zip(ends) {
            visible.store(*end, Ordering::Release);
        }
        drop(folded);
        self.moved.send_replace(writes);
    }

    /// Notes that nothing can be relied on any more; answers the first failure.
    fn fail(&self, what: String) -> String {
        let mut failure = self.failure.lock().expect("no holder panics");
        let first = failure.get_or_insert(what).clone();
        drop(failure);
        // Who waits for a write to become durable must hear that it will not.
        self.moved.send_modify(|_| {});
        self.wrote.notify_all();
        first
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().expect("no holder panics").clone()
    }

    fn now(&self) -> Time {
        self.clock.lock().expect("no holder panics").now()
    }

    /// What the age of panes is measured from: now, or the newest record, by the samples' time.
    fn newest(&self) -> Time {
        match self.source {
            TimeSource::Log => self.now(),
            TimeSource::Sample => {
                let tails = &self.writing().tails;
                let last = tails.iter().map(|tail| tail.last_time).max();
                last.unwrap_or_default()
            }
        }
    }

    /// Whether there is room for more; looks at most ten times a second.
    fn check_space(&self) -> Result<(), EmbeddedError> {
        let min = self.settings.min_free_mib << 20;
        let looked = &mut *self.looked.lock().expect("no holder panics");
        if looked.elapsed() >= LOOK_EVERY {
            *looked = Instant::now();
            if let Some(free) = keeper::free_bytes(&self.dir) {
                self.free.store(free, Ordering::Relaxed);
            }
        }
        let free = self.free.load(Ordering::Relaxed);
        if free >= min {
            return Ok(());
        }
        Err(EmbeddedError::NearlyFull {
            dir: self.dir.display().to_string(),
            free_mib: free >> 20,
            min_mib: self.settings.min_free_mib,
        })
    }

    fn title(&self) -> Option<Title> {
        let bytes = self.db.get(note_key(TITLE)).ok()??;
        let noted: NotedTitle = serde_json::from_slice(&bytes).ok()?;
        Some(Title {
            log_id: noted.log_id,
            prefix: noted.prefix,
            time_source: match noted.time_source.as_str() {
                "sample" => TimeSource::Sample,
                _ => TimeSource::Log,
            },
            partitions: 1,
        })
    }

    fn bytes_of(&self, family: &str) -> u64 {
        let value = |name: &str| self.db.property_int_value_cf(self.family(family), name);
        let files = value("rocksdb.live-sst-files-size").ok().flatten();
        files.unwrap_or_default()
    }
}

impl Writing {
    fn ends(&self) -> [i64; TOPICS] {
        std::array::from_fn(|topic| self.tails[topic].next)
    }
}

impl Tail {
    fn push(&mut self, batch: Batch, last_time: Time) {
        self.next = batch.next();
        self.last_time = last_time;
        self.recent_bytes += batch.bytes().len();
        self.recent.push_back(batch);
        while self.recent_bytes > self.recent_max
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.bytes().len();
        }
    }

    /// The newest batches from the one that holds `from` on, if they are all here.
    fn since(&self, from: i64, records_max: usize) -> Option<Vec<Batch>> {
        if from >= self.next {
            return Some(Vec::new());
        }
        if self.recent.front().is_none_or(|batch| batch.first > from) {
            return None;
        }
        let at = self.recent.partition_point(|batch| batch.next() <= from);
        let mut records = 0;
        let enough = |batch: &&Batch| {
            let more = records < records_max;
            records += batch.count as usize;
            more
        };
        Some(
            self.recent
                .iter()
                .skip(at)
                .take_while(enough)
                .cloned()
                .collect(),
        )
    }
}

impl LogClock {
    fn new(last: Time) -> Self {
        LogClock {
            last,
            at: Instant::now(),
        }
    }

    fn now(&mut self) -> Time {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as i64;
        self.at_wall(Time(wall), Instant::now())
    }

    fn at_wall(&mut self, wall: Time, at: Instant) -> Time {
        let half = at.saturating_duration_since(self.at).as_millis() as i64 / 2;
        let floor = Time(self.last.0.saturating_add(half));
        if wall >= floor {
            self.last = wall;
            self.at = at;
            return wall;
        }
        floor
    }
}

fn note_key(name: &str) -> Vec<u8> {
    format!("note/{name}").into_bytes()
}

fn position_key(inbox: Topic) -> Vec<u8> {
    format!("position/{}", inbox.name()).into_bytes()
}

/// The note that holds the title.
pub const TITLE: &str = "title";

const TOPICS: usize = Topic::ALL.len();

/// How often an append asks for free space.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a thread of the folder's sleeps at most before it looks whether the end has come.
const WAKE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_at_half_its_pace_while_the_wall_clock_is_behind() {
        let start = Instant::now();
        let mut clock = LogClock {
            last: Time(1_000),
            at: start,
        };
        let mut check = |wall: i64, elapsed: u64, expected: i64| {
            let got = clock.at_wall(Time(wall), start + Duration::from_millis(elapsed));
            assert_eq!(got, Time(expected), "wall {wall} after {elapsed} ms");
        };
        check(1_100, 100, 1_100);
        check(500, 200, 1_150);
        check(600, 300, 1_200);
        check(5_000, 400, 5_000);
        check(4_000, 500, 5_050);
    }
}
