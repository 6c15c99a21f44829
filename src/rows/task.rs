//! One task's RocksDB: its families, how it is opened, read, written and copied.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, LogLevel,
    Options, ReadOptions, WriteBatch, WriteBufferManager,
};

use crate::config::settings::LogSettings;
use crate::model::{Span, Time};
use crate::runtime::{KeyValue, Mark, Rows, StoreError};
use crate::stream::WINDOWS;

use super::tuning::{self, Buffer, PANES_KEPT};

/// A stage on a partition; its folder's name too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskName {
    pub stage: String,
    pub partition: i32,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stage, self.partition)
    }
}

/// What all tasks of a process share.
pub(super) struct Shared {
    cache: Cache,
    buffers: WriteBufferManager,
    buffers_bytes: usize,
}

impl Shared {
    pub fn new(settings: &LogSettings) -> Self {
        let buffers_bytes = (settings.write_buffer_mib << 20) as usize;
        Shared {
            cache: Cache::new_lru_cache((settings.cache_mib << 20) as usize),
            // Apart from the cache: charged to it, they would leave no room for a block.
            buffers: WriteBufferManager::new_write_buffer_manager(buffers_bytes, false),
            buffers_bytes,
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_write_buffer_manager(&self.buffers);
        // Nothing is synced on the way: what a machine that died kept of the write-ahead log is a
        // beginning of what was written, and every beginning is rows that the log committed.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        // Of the process: all its tasks share these threads.
        options.set_max_background_jobs(2);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_bytes_per_sync(1 << 20);
        // Taken at once from a disk that is short: dozens of tasks need little of it each.
        options.set_manifest_preallocation_size(64 << 10);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(1);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_skip_stats_update_on_db_open(true);
        options
    }

    fn families(&self) -> [ColumnFamilyDescriptor; 3] {
        let buffer = |bytes_max: usize| Buffer {
            bytes: bytes_max.min(self.buffers_bytes / 2),
            piece: PIECE,
        };
        let mut state = tuning::found_by_key(&self.cache, buffer(STATE_BUFFER_MAX));
        state.set_target_file_size_base(FILE_BYTES);
        let mut panes = tuning::gone_by_range(&self.cache, buffer(PANES_BUFFER_MAX));
        panes.set_target_file_size_base(FILE_BYTES);
        let mut default = Options::default();
        default.set_arena_block_size(PIECE);
        [
            ColumnFamilyDescriptor::new(DEFAULT, default),
            ColumnFamilyDescriptor::new(STATE, state),
            ColumnFamilyDescriptor::new(PANES, panes),
        ]
    }

    /// Opens a folder of rows, or makes it.
    pub fn open(&self, name: &TaskName, dir: &Path) -> Result<Task, StoreError> {
        let failed = |error: &dyn fmt::Display| {
            StoreError(format!(
                "opening the rows of {name} in {}: {error}; expected rows that this program \
                 wrote: remove that folder, they are rebuilt from the newest snapshot or the log",
                dir.display()
            ))
        };
        let db = DB::open_cf_descriptors(&self.options(), dir, self.families())
            .map_err(|error| failed(&error))?;
        let title = format!("{FORMAT} {name}");
        match db.get(TITLE_KEY).map_err(|error| failed(&error))? {
            Some(found) if found == title.as_bytes() => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(failed(&format!("they are titled {found:?}, not {title:?}")));
            }
            None => db.put(TITLE_KEY, title).map_err(|error| failed(&error))?,
        }
        Ok(Task {
            db,
            name: name.clone(),
            dir: dir.to_owned(),
            writing: Mutex::new(Writing {
                epoch: 0,
                panes_dropped: Time(i64::MIN),
                snapshot_due: None,
            }),
            failed: AtomicBool::new(false),
            hashes: Mutex::default(),
        })
    }

    /// The mark in a copy of a task's folder, which stays as it is.
    pub fn mark_in(&self, dir: &Path) -> Result<Option<Mark>, rocksdb::Error> {
        let mut options = self.options();
        options.create_if_missing(false);
        let db = DB::open_cf_descriptors_read_only(&options, dir, self.families(), false)?;
        let state = db.cf_handle(STATE).expect("opened with every family");
        let mark = db.get_cf(state, Mark::KEY)?;
        Ok(mark.as_deref().and_then(Mark::decode))
    }
}

/// The rows of one task. Any thread may read and copy them; who writes shows its epoch.
pub(super) struct Task {
    db: DB,
    pub name: TaskName,
    dir: PathBuf,
    pub writing: Mutex<Writing>,
    /// A write failed: what is in memory cannot be trusted, it must be opened anew.
    failed: AtomicBool,
    /// SHA-256 of files that never change, by name and size: of what was copied before.
    hashes: Mutex<Hashes>,
}

/// SHA-256 by file and size.
pub(super) type Hashes = BTreeMap<(String, u64), String>;

/// What only one writer at a time may touch.
pub(super) struct Writing {
    /// Counts who opened it: an older one can no longer write.
    pub epoch: u64,
    /// Panes before this have gone.
    panes_dropped: Time,
    /// When the next snapshot is due; `None` while one is under way, or there are to be none.
    pub snapshot_due: Option<Instant>,
}

impl Task {
    /// Takes the writer's place: who had it before can no longer write.
    pub fn take_over(&self) -> u64 {
        let mut writing = self.lock();
        writing.epoch += 1;
        writing.epoch
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.writing
            .lock()
            .expect("a panic inside of a write leaves nothing to go on with")
    }

    /// Whether a write failed since it was opened.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (family, key) = self.place(key);
        let row = self.db.get_cf(family, key);
        row.map_err(|error| self.error("reading", &error))
    }

    pub fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let (family, start) = self.place(from);
        let of_panes = start.len() < from.len();
        let mut options = ReadOptions::default();
        match (of_panes, to.strip_prefix(&[WINDOWS])) {
            (true, Some(to)) => options.set_iterate_upper_bound(to),
            (true, None) => {}
            (false, _) => options.set_iterate_upper_bound(to),
        }
        let mut rows = self.db.raw_iterator_cf_opt(family, options);
        rows.seek(start);
        let mut found = Vec::new();
        while found.len() < max
            && let Some((key, value)) = rows.item()
        {
            let key = match of_panes {
                true => [&[WINDOWS], key].concat(),
                false => key.to_vec(),
            };
            found.push((key, value.to_vec()));
            if found.len() < max {
                rows.next();
            }
        }
        match rows.status() {
            Ok(()) => Ok(found),
            Err(error) => Err(self.error("reading", &error)),
        }
    }

    /// Writes rows in one batch; says the mark among them.
    pub fn write(&self, writing: &mut Writing, rows: Rows) -> Result<Option<Mark>, StoreError> {
        let mut batch = WriteBatch::default();
        let mut mark = None;
        for (key, value) in rows {
            if key == Mark::KEY {
                mark = value.as_deref().and_then(Mark::decode);
            }
            let (family, key) = self.place(&key);
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
        }
        self.done(self.db.write(batch), "writing")?;
        if let Some(position) = mark.as_ref().and_then(|mark| mark.position) {
            self.drop_panes(writing, position.time)?;
        }
        Ok(mark)
    }

    /// Drops closed panes that are too old, when enough of them may be.
    fn drop_panes(&self, writing: &mut Writing, now: Time) -> Result<(), StoreError> {
        let before = now - PANES_KEPT;
        if before < writing.panes_dropped + PANES_DROPPED_EVERY {
            return Ok(());
        }
        let panes = self.family(PANES);
        let key = |ms: i64| ((ms as u64) ^ (1 << 63)).to_be_bytes();
        let (from, to) = (key(i64::MIN), key(before.0));
        // A write like any. To drop whole files at once is not one: on a full disk it stood still.
        let dropped = self.db.delete_range_cf(panes, from, to);
        self.done(dropped, "dropping old panes of")?;
        writing.panes_dropped = before;
        Ok(())
    }

    /// Removes every row.
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for family in [STATE, PANES].map(|name| self.family(name)) {
            if let Some(last) = self.db.iterator_cf(family, IteratorMode::End).next() {
                let (last, _) = last.map_err(|error| self.error("reading", &error))?;
                batch.delete_range_cf(family, &[][..], &last[..]);
                batch.delete_cf(family, last);
            }
        }
        self.done(self.db.write(batch), "clearing")
    }

    /// Copies the rows as of one moment between two writes into a folder that is not there yet:
    /// files that never change are linked.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), rocksdb::Error> {
        Checkpoint::new(&self.db)?.create_checkpoint(dir)
    }

    /// A file's SHA-256, if it was copied before and never changes.
    pub fn known_hash(&self, file: &str, bytes: u64) -> Option<String> {
        let hashes = self.hashes.lock().expect("no holder panics");
        hashes.get(&(file.to_owned(), bytes)).cloned()
    }

    /// Keeps the SHA-256 of files that never change: of those that are there now.
    pub fn note_hashes(&self, hashes: Hashes) {
        *self.hashes.lock().expect("no holder panics") = hashes;
    }

    /// Where a row lies: closed panes by themselves, without the byte that says so.
    fn place<'a>(&self, key: &'a [u8]) -> (&ColumnFamily, &'a [u8]) {
        match key.strip_prefix(&[WINDOWS]) {
            Some(window) => (self.family(PANES), window),
            None => (self.family(STATE), key),
        }
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("opened with every family")
    }

    fn done(&self, done: Result<(), rocksdb::Error>, attempt: &str) -> Result<(), StoreError> {
        done.map_err(|error| {
            self.failed.store(true, Ordering::Relaxed);
            self.error(attempt, &error)
        })
    }

    fn error(&self, attempt: &str, error: &dyn fmt::Display) -> StoreError {
        StoreError(format!(
            "{attempt} the rows of {} in {}: {error}; make room if the disk is full, else remove \
             that folder: its rows are rebuilt from the newest snapshot or the log",
            self.name,
            self.dir.display()
        ))
    }
}

/// Families: who a folder belongs to, rows, closed panes by time.
const DEFAULT: &str = "default";
const STATE: &str = "state";
const PANES: &str = "panes";

const TITLE_KEY: &[u8] = b"title";

/// How a folder is laid out.
const FORMAT: &str = "homeostat-rows/1";

/// Old panes go when so much more of them is too old.
const PANES_DROPPED_EVERY: Span = Span::seconds(300);

/// Write-ahead log of one task: bounds what a start reads again.
const WAL_BYTES_MAX: u64 = 32 << 20;

/// Files that one task may hold open.
const OPEN_FILES_MAX: i32 = 64;

/// What a task's changes in memory grow by: dozens of tasks, each with a piece half empty.
const PIECE: usize = 64 << 10;

/// Changes of rows that one task keeps in memory; all together the configuration bounds.
const STATE_BUFFER_MAX: usize = 16 << 20;

/// Of panes.
const PANES_BUFFER_MAX: usize = 4 << 20;

/// About how large a file becomes: what a snapshot sends again when a row in it changed.
const FILE_BYTES: u64 = 16 << 20;
