//! The rows of the tasks where the log lies on Kafka: one RocksDB per task, and snapshots of them
//! in an object store.
//!
//! [`Stages`] is a handle that any thread may use; the [`Stores`] port stands on it.
//!
//! # What lies where
//! `DIR/stages/<stage>-<partition>/` is a task's RocksDB: `state` holds its rows, `panes` the
//! closed panes, which go after an hour, `default` says whose it is. Beside it, for a while,
//! `<task>.checkpoint` is a snapshot on its way out and `<task>.partial` one on its way in: both
//! are removed when the task is opened. `DIR/lock` is held by one process.
//!
//! # What a crash leaves
//! The log is the truth: rows never hold what it did not commit, and are brought to it from
//! wherever they stand. So every beginning of what was written is good, and nothing is synced.
//! 1. **Killed**: every write that returned is there, rows and mark together.
//! 2. **Power lost**, a full disk, a torn write-ahead log: the writes up to some moment are there.
//! 3. **Damage that a checksum finds** is a clear stop that names the folder, which may be removed.
//!
//! # Who may write
//! One process holds `DIR`. In it a task that is opened anew is taken over: the older handle can
//! read, and no longer write.
//!
//! # Memory
//! All tasks share one block cache (`log.cache_mib`), one bound on changes in memory
//! (`log.write_buffer_mib`) and two threads in the background.
//!
//! # Snapshots
//! After a write of a task whose last snapshot is old enough, one thread of this room makes a
//! checkpoint and sends it; the worker goes on at once. A checkpoint lies between two writes, and
//! the mark in it says where. A task without rows, or with rows that are older than two snapshots
//! should be, begins with the newest snapshot that fits. What is sent in which order stands in
//! `archive.rs`.

mod archive;
pub(crate) mod folder;
mod objects;
mod task;
pub(crate) mod tuning;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::settings::LogSettings;
use crate::model::{Span, Time};
use crate::runtime::{KeyValue, Mark, Rows, Store, StoreError, Stores};

use task::{Shared, Task, TaskName};

pub use archive::{Archive, ArchiveError, Sent};
pub use folder::{FolderError, Holder};
pub use objects::{Object, Objects, ObjectsError};

/// A stage whose tasks have rows here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Version of its rows: a snapshot of another is not brought back.
    pub encoding: u32,
    /// Its engine: rows that another one wrote are sent as a snapshot before it writes.
    pub engine: &'static str,
}

/// The rows of all tasks in a folder. Cloning it clones the handle; when the last one goes, no more
/// snapshots are made.
#[derive(Clone)]
pub struct Stages(Arc<Handle>);

struct Handle {
    room: Arc<Room>,
    sender: Mutex<Option<JoinHandle<()>>>,
}

/// What all handles, stores and threads share.
struct Room {
    dir: PathBuf,
    shared: Shared,
    stages: Vec<Stage>,
    slots: Mutex<BTreeMap<TaskName, Arc<Slot>>>,
    archive: Option<Archive>,
    jobs: Sender<Job>,
    _lock: folder::Lock,
}

/// Where a task is while it is open.
struct Slot {
    name: TaskName,
    open: Mutex<Option<Open>>,
}

/// An open task; it is closed when nobody holds it.
struct Open {
    task: Arc<Task>,
    holders: usize,
}

/// Who keeps a task open.
struct Hold {
    /// `None` once it goes.
    task: Option<Arc<Task>>,
    slot: Arc<Slot>,
    room: Arc<Room>,
}

/// What the room's thread is asked.
enum Job {
    /// To make a snapshot, send it, and say what came of it where somebody waits.
    Snapshot(Hold, Option<Sender<Result<Sent, ArchiveError>>>),
    /// To send a checkpoint that was made.
    Send(Hold),
    /// To end.
    End,
}

impl Stages {
    /// Takes hold of a data folder; makes it when it is not there.
    ///
    /// # Errors
    /// Another process holds it (named), or it cannot be written.
    pub fn open(
        settings: &LogSettings,
        stages: &[Stage],
        archive: Option<Archive>,
    ) -> Result<Self, FolderError> {
        tuning::bound_heaps();
        raise_files();
        let dir = &settings.dir;
        fs::create_dir_all(dir.join(STAGES)).map_err(|error| {
            FolderError::Failed(format!(
                "creating the data folder {}: {error}; name another one with --data",
                dir.display()
            ))
        })?;
        let lock = folder::take(dir)?;
        let (jobs, asked) = mpsc::channel();
        let sender = archive.clone().map(|archive| {
            std::thread::Builder::new()
                .name("snapshots".to_owned())
                .spawn(move || work(&asked, &archive))
        });
        let sender = sender.transpose().map_err(|error| {
            FolderError::Failed(format!("starting the thread of the snapshots: {error}"))
        })?;
        Ok(Stages(Arc::new(Handle {
            room: Arc::new(Room {
                dir: dir.clone(),
                shared: Shared::new(settings),
                stages: stages.to_vec(),
                slots: Mutex::default(),
                archive,
                jobs,
                _lock: lock,
            }),
            sender: Mutex::new(sender),
        })))
    }

    /// Says in the folder where the holder's door listens.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn announce(&self, listen: &str) -> Result<(), FolderError> {
        folder::announce(&self.0.room.dir, listen)
    }

    /// The rows of a task, for reading; closed panes too, behind their first byte
    /// ([`crate::stream::WINDOWS`]). `None` when no worker of this process has it open. Use it on
    /// the thread that made it, and let go of it soon: it keeps the task open.
    pub fn reading(&self, stage: &str, partition: i32) -> Option<Rc<dyn Store>> {
        let slot = self.0.room.slot(stage, partition);
        let hold = Hold::of(&self.0.room, &slot, slot.lock().as_mut()?);
        Some(Rc::new(TaskStore { hold, epoch: None }))
    }

    /// Makes a snapshot of an open task now, and waits until it is sent.
    ///
    /// # Errors
    /// No worker has the task open, no snapshots are configured, or sending failed.
    pub fn snapshot(&self, stage: &str, partition: i32) -> Result<Sent, ArchiveError> {
        let room = &self.0.room;
        let slot = room.slot(stage, partition);
        let hold = slot.lock().as_mut().map(|open| Hold::of(room, &slot, open));
        let failed =
            |what: &str| ArchiveError::Local(format!("making a snapshot of {}: {what}", slot.name));
        let hold = hold.ok_or_else(|| failed("expected a task that a worker has open"))?;
        if room.archive.is_none() {
            return Err(failed("expected snapshots.url to say where to"));
        }
        let (answer, answered) = mpsc::channel();
        let asked = room.jobs.send(Job::Snapshot(hold, Some(answer)));
        let ended = || failed("the thread that makes them has ended");
        asked.map_err(|_| ended())?;
        answered.recv().map_err(|_| ended())?
    }
}

impl Stores for Stages {
    fn open(&self, stage: &str, partition: i32) -> Result<Rc<dyn Store>, StoreError> {
        let room = &self.0.room;
        let slot = room.slot(stage, partition);
        let (hold, fresh) = {
            let mut open = slot.lock();
            if open.as_ref().is_some_and(|open| open.task.has_failed()) {
                return Err(StoreError(format!(
                    "opening the rows of {}: a write failed, and its older handle is still there; \
                     start the process anew",
                    slot.name
                )));
            }
            let fresh = open.is_none();
            if fresh {
                let task = Arc::new(room.open(&slot.name)?);
                *open = Some(Open { task, holders: 0 });
            }
            let open = open.as_mut().expect("it was just opened");
            (Hold::of(room, &slot, open), fresh)
        };
        if fresh {
            hold.keep_of_another_engine()?;
        }
        let epoch = Some(hold.task().take_over());
        Ok(Rc::new(TaskStore { hold, epoch }))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(archive) = &self.room.archive {
            archive.stop();
        }
        // Who is not there any more needs not be told.
        let _ = self.room.jobs.send(Job::End);
        if let Some(sender) = self.sender.lock().expect("no holder panics").take() {
            // A panic in it was reported where it happened.
            let _ = sender.join();
        }
    }
}

impl Room {
    fn slot(&self, stage: &str, partition: i32) -> Arc<Slot> {
        let name = TaskName {
            stage: stage.to_owned(),
            partition,
        };
        let mut slots = self.slots.lock().expect("no holder panics");
        let slot = || Slot {
            name: name.clone(),
            open: Mutex::default(),
        };
        slots
            .entry(name.clone())
            .or_insert_with(|| Arc::new(slot()))
            .clone()
    }

    /// A file or folder of a task.
    fn path(&self, name: &TaskName, ending: &str) -> PathBuf {
        self.dir.join(STAGES).join(format!("{name}{ending}"))
    }

    /// Opens a task: with the rows in its folder, else with the newest snapshot that fits, else
    /// with none.
    fn open(&self, name: &TaskName) -> Result<Task, StoreError> {
        let dir = self.path(name, "");
        let failed = |error: &dyn std::fmt::Display| {
            StoreError(format!("opening the rows of {name}: {error}"))
        };
        for ending in [CHECKPOINT, CHECKPOINT_BEGUN, PARTIAL] {
            archive::remove(&self.path(name, ending)).map_err(|error| failed(&error))?;
        }
        let task = self.shared.open(name, &dir)?;
        let Some(archive) = &self.archive else {
            return Ok(task);
        };
        let mark = task.get(Mark::KEY)?;
        let mark = mark.as_deref().and_then(Mark::decode);
        let stage = self.stages.iter().find(|stage| stage.name == name.stage);
        let encoding = stage.map(|stage| stage.encoding);
        let position = mark
            .as_ref()
            .filter(|mark| encoding.is_none_or(|encoding| mark.encoding == encoding))
            .and_then(|mark| mark.position);
        let old = |time: Time| wall_clock() - time > Span(2 * archive.every().as_millis() as i64);
        let mut task = task;
        if let Some(encoding) = encoding
            && position.is_none_or(|position| old(position.time))
        {
            let beyond = position.map(|position| position.next);
            let partial = self.path(name, PARTIAL);
            match archive.restore(name, encoding, beyond, &partial, &self.shared) {
                Ok(Some(_)) => {
                    // From here on until the rename a crash leaves no rows, and the same again.
                    drop(task);
                    archive::remove(&dir).map_err(|error| failed(&error))?;
                    fs::rename(&partial, &dir)
                        .and_then(|()| fs::File::open(self.dir.join(STAGES))?.sync_all())
                        .map_err(|error| failed(&error))?;
                    task = self.shared.open(name, &dir)?;
                }
                Ok(None) => info!(task = %name, rows = position.is_some(), "no newer snapshot"),
                Err(error) if position.is_some() => {
                    warn!(task = %name, "no newer snapshot: {error}; going on with the rows here");
                }
                Err(error) => {
                    return Err(failed(&format!(
                        "there are none here, and no snapshot could be fetched: {error}; mend \
                         that, or empty snapshots.url to rebuild them from the log"
                    )));
                }
            }
        }
        task.lock().snapshot_due = Some(Instant::now() + spread(name, archive.every()));
        Ok(task)
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().expect("no holder panics")
    }
}

impl Hold {
    /// One more who keeps a task open.
    fn of(room: &Arc<Room>, slot: &Arc<Slot>, open: &mut Open) -> Hold {
        open.holders += 1;
        Hold {
            task: Some(open.task.clone()),
            slot: slot.clone(),
            room: room.clone(),
        }
    }

    fn task(&self) -> &Task {
        self.task.as_ref().expect("it has not gone")
    }

    fn another(&self) -> Hold {
        let mut open = self.slot.lock();
        let open = open.as_mut().expect("open while somebody holds it");
        Hold::of(&self.room, &self.slot, open)
    }

    /// Copies the rows as they are into the folder of snapshots on their way.
    fn checkpoint(&self) -> Result<(), ArchiveError> {
        let dir = self.room.path(&self.task().name, CHECKPOINT);
        archive::remove(&dir)?;
        self.task().checkpoint(&dir).map_err(|error| {
            ArchiveError::Local(format!("making the checkpoint {}: {error}", dir.display()))
        })
    }

    /// Rows that another engine wrote are kept as they are before this one writes.
    fn keep_of_another_engine(&self) -> Result<(), StoreError> {
        let mark = self.task().get(Mark::KEY)?;
        let mark = mark.as_deref().and_then(Mark::decode);
        let mut stages = self.room.stages.iter();
        let stage = stages.find(|stage| stage.name == self.slot.name.stage);
        let other = mark.zip(stage).is_some_and(|(mark, stage)| {
            mark.encoding == stage.encoding && mark.engine != stage.engine
        });
        if self.room.archive.is_none() || !other {
            return Ok(());
        }
        self.task().lock().snapshot_due = None;
        self.checkpoint()
            .map_err(|error| StoreError(error.to_string()))?;
        // Where the thread has ended, the process does too.
        let _ = self.room.jobs.send(Job::Send(self.another()));
        Ok(())
    }

    /// Sends the checkpoint and removes it.
    fn send(&self, archive: &Archive) -> Result<Sent, ArchiveError> {
        let dir = self.room.path(&self.task().name, CHECKPOINT);
        let sent = archive.send(self.task(), &dir, &self.room.shared);
        archive::remove(&dir)?;
        sent
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut open = self.slot.lock();
        // Under the lock, so that who opens it anew finds it closed.
        drop(self.task.take());
        let left = open.as_mut().map(|open| {
            open.holders -= 1;
            open.holders
        });
        if left == Some(0) {
            *open = None;
        }
    }
}

/// The rows of one task, for one worker or reader.
struct TaskStore {
    hold: Hold,
    /// Of the worker that may write; `None`: to be read only.
    epoch: Option<u64>,
}

impl TaskStore {
    /// The right to write, until it is let go.
    fn hold_on(&self) -> Result<MutexGuard<'_, task::Writing>, StoreError> {
        let writing = self.hold.task().lock();
        match self.epoch == Some(writing.epoch) {
            true => Ok(writing),
            false => Err(StoreError(format!(
                "writing the rows of {}: worker {} of this process holds them now",
                self.hold.task().name,
                writing.epoch
            ))),
        }
    }
}

impl Store for TaskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.hold.task().get(key)
    }

    fn next(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.hold.task().scan(from, to, 1)?.pop())
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<KeyValue>, StoreError> {
        self.hold.task().scan(from, to, max)
    }

    fn write(&self, rows: Rows) -> Result<(), StoreError> {
        let mut writing = self.hold_on()?;
        let mark = self.hold.task().write(&mut writing, rows)?;
        let whole = mark.is_some_and(|mark| mark.position.is_some());
        if whole
            && writing
                .snapshot_due
                .is_some_and(|due| due <= Instant::now())
        {
            writing.snapshot_due = None;
            // Who opens it anew holds the slot while it asks who may write.
            drop(writing);
            let job = Job::Snapshot(self.hold.another(), None);
            // Where the thread has ended, the process does too.
            let _ = self.hold.room.jobs.send(job);
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let _writing = self.hold_on()?;
        self.hold.task().clear()
    }
}

/// Makes and sends snapshots until the end.
fn work(asked: &Receiver<Job>, archive: &Archive) {
    while let Ok(job) = asked.recv() {
        let (hold, waits, made) = match job {
            Job::Snapshot(hold, waits) => {
                let made = hold.checkpoint();
                (hold, waits, made)
            }
            Job::Send(hold) => (hold, None, Ok(())),
            Job::End => return,
        };
        let sent = made.and_then(|()| hold.send(archive));
        if let Err(error) = &sent {
            let again_s = archive.every().as_secs();
            warn!(task = %hold.task().name, again_s, "no snapshot: {error}");
        }
        hold.task().lock().snapshot_due = Some(Instant::now() + archive.every());
        drop(hold);
        if let Some(waits) = waits {
            // Who asked may have gone.
            let _ = waits.send(sent);
        }
    }
}

/// When a task that was just opened is due: those of a process not all at once.
fn spread(name: &TaskName, every: Duration) -> Duration {
    let bytes = name.to_string().into_bytes();
    let part = crate::runtime::murmur2(&bytes) % PARTS;
    every * (part + 1) / PARTS
}

/// Lets this process open as many files as it may: every task holds some.
fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be, RocksDB says so when it has none left.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

fn wall_clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Time(since.unwrap_or_default().as_millis() as i64)
}

/// Folder of the tasks.
const STAGES: &str = "stages";

/// What a snapshot's folder is called behind the task's name: on its way out, and in.
const CHECKPOINT: &str = ".checkpoint";
const PARTIAL: &str = ".partial";

/// What RocksDB calls a checkpoint until all of it is there.
const CHECKPOINT_BEGUN: &str = ".checkpoint.tmp";

/// Parts of the time between two snapshots that tasks are spread over.
const PARTS: u32 = 64;
