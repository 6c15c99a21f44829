//! Opening a folder: its families and how RocksDB is told to treat each.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    IteratorMode, Options, WriteBufferManager,
};
use tokio::sync::watch;

use crate::config::settings::LogSettings;
use crate::model::Time;
use crate::rows::folder;
use crate::rows::tuning::{self, Buffer};
use crate::runtime::{Position, TimeSource};
use crate::stream::Topic;

use super::batch::Batch;
use super::{EmbeddedError, Inner, LogClock, TOPICS, Tail, Writing, keeper, position_key};

/// The families beside `default`: the topics, then the caches.
pub(super) const FAMILIES: [&str; TOPICS + 3] = [
    Topic::ALL[0].name(),
    Topic::ALL[1].name(),
    Topic::ALL[2].name(),
    Topic::ALL[3].name(),
    Topic::ALL[4].name(),
    Topic::ALL[5].name(),
    STATE,
    PANES,
    COPIES,
];

/// Rows of the stages.
pub(super) const STATE: &str = "state";

/// Closed panes, by time.
pub(super) const PANES: &str = "panes";

/// Copies of Analyze's rows.
pub(super) const COPIES: &str = "copies";

/// Opens a folder to write.
pub(super) fn open(settings: &LogSettings, source: TimeSource) -> Result<Inner, EmbeddedError> {
    tuning::bound_heaps();
    let dir = &settings.dir;
    std::fs::create_dir_all(dir).map_err(|error| {
        EmbeddedError::Failed(format!(
            "creating the data folder {}: {error}; name another one with --data",
            dir.display()
        ))
    })?;
    let lock = folder::take(dir)?;
    let path = dir.join(DATABASE);
    ensure_known(&path)?;
    let cache = Cache::new_lru_cache((settings.cache_mib << 20) as usize);
    // Apart from the cache: charged to it, they would leave no room for a block.
    let buffers = WriteBufferManager::new_write_buffer_manager(
        (settings.write_buffer_mib << 20) as usize,
        false,
    );
    let mut options = database_options(settings);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_manager(&buffers);
    let db = DB::open_cf_descriptors(&options, &path, descriptors(settings, &cache))
        .map_err(|error| unreadable(dir, &error))?;
    let fresh = db
        .get(FORMAT_KEY)
        .map_err(|error| unreadable(dir, &error))?;
    match fresh.as_deref() {
        None => db
            .put(FORMAT_KEY, FORMAT)
            .map_err(|error| unreadable(dir, &error))?,
        Some(FORMAT) => {}
        Some(other) => {
            return Err(EmbeddedError::Failed(format!(
                "opening {}: it is of format {}, this program reads {}; start it with the program \
                 that wrote it",
                dir.display(),
                String::from_utf8_lossy(other),
                String::from_utf8_lossy(FORMAT)
            )));
        }
    }
    let mut inner = inner(db, settings.clone(), source)?;
    inner._lock = Some(lock);
    if let Some(title) = inner.title() {
        let (is, wants) = (
            (title.prefix.as_str(), title.time_source),
            (settings.prefix.as_str(), source),
        );
        if is != wants {
            return Err(EmbeddedError::Failed(format!(
                "opening {}: its log began with log.prefix and time.source {is:?}, the \
                 configuration says {wants:?}; set them back, or begin another log with --data",
                dir.display()
            )));
        }
    }
    Ok(inner)
}

/// Opens a folder to read.
pub(super) fn read_only(dir: &Path) -> Result<Inner, EmbeddedError> {
    let path = dir.join(DATABASE);
    if !path.is_dir() {
        return Err(EmbeddedError::Failed(format!(
            "opening {}: there is no log in it; `homeostat run` begins one, --data names another \
             folder",
            dir.display()
        )));
    }
    folder::ensure_free(dir)?;
    ensure_known(&path)?;
    let settings = LogSettings {
        dir: dir.to_owned(),
        ..LogSettings::default()
    };
    let cache = Cache::new_lru_cache((settings.cache_mib << 20) as usize);
    let options = database_options(&settings);
    let families = descriptors(&settings, &cache);
    let db = DB::open_cf_descriptors_read_only(&options, &path, families, false)
        .map_err(|error| unreadable(dir, &error))?;
    let inner = inner(db, settings, TimeSource::Log)?;
    let source = inner.title().map(|title| title.time_source);
    Ok(Inner {
        source: source.unwrap_or(TimeSource::Log),
        ..inner
    })
}

fn inner(db: DB, settings: LogSettings, source: TimeSource) -> Result<Inner, EmbeddedError> {
    let dir = settings.dir.clone();
    let damaged = |error: String| {
        EmbeddedError::Failed(format!(
            "reading the log in {}: {error}; restore it from a backup",
            dir.display()
        ))
    };
    let mut tails = Vec::new();
    let mut positions = [None; TOPICS];
    for topic in Topic::ALL {
        let recent_max = match topic {
            Topic::Metrics | Topic::PlanInbox => settings.tail_mib << 20,
            _ => SMALL_TAIL,
        };
        tails.push(read_tail(&db, topic, recent_max as usize).map_err(damaged)?);
        let bytes = db
            .get(position_key(topic))
            .map_err(|error| damaged(error.to_string()))?;
        if let Some(bytes) = bytes {
            let position: Position =
                postcard::from_bytes(&bytes).map_err(|error| damaged(error.to_string()))?;
            positions[topic as usize] = Some(position);
        }
    }
    let last = tails.iter().map(|tail| tail.last_time).max();
    let last = last.filter(|_| source == TimeSource::Log);
    let writing = Writing {
        tails: tails
            .try_into()
            .unwrap_or_else(|_| unreachable!("one tail a topic")),
        positions,
        writes: 0,
        epoch: 0,
        since_flush: 0,
    };
    let ends = writing.ends();
    let free = keeper::free_bytes(&dir).unwrap_or(u64::MAX);
    Ok(Inner {
        db,
        dir,
        settings,
        source,
        writing: Mutex::new(writing),
        wrote: Condvar::new(),
        visible: ends.map(AtomicI64::new),
        folded: Mutex::new(positions),
        moved: watch::Sender::new(0),
        failure: Mutex::default(),
        free: AtomicU64::new(free),
        looked: Mutex::new(std::time::Instant::now()),
        stopping: AtomicBool::new(false),
        flushed: Mutex::new(BTreeMap::new()),
        clock: Mutex::new(LogClock::new(last.unwrap_or(Time(0)))),
        _lock: None,
    })
    .inspect(|inner| debug_assert!(!inner.stopping.load(Ordering::Relaxed)))
}

fn read_tail(db: &DB, topic: Topic, recent_max: usize) -> Result<Tail, String> {
    let family = db
        .cf_handle(topic.name())
        .expect("opened with every family");
    let mut tail = Tail {
        next: 0,
        last_time: Time(0),
        recent: VecDeque::new(),
        recent_bytes: 0,
        recent_max,
    };
    if let Some(last) = db.iterator_cf(family, IteratorMode::End).next() {
        let (_, value) = last.map_err(|error| error.to_string())?;
        let batch = Batch::parse(&value)?;
        tail.next = batch.next();
        tail.last_time = batch.last_time()?;
    }
    Ok(tail)
}

/// Fails on families that this program does not know.
fn ensure_known(path: &Path) -> Result<(), EmbeddedError> {
    if !path.join("CURRENT").exists() {
        return Ok(());
    }
    let names = DB::list_cf(&Options::default(), path).map_err(|error| unreadable(path, &error))?;
    let unknown = names
        .iter()
        .find(|name| *name != "default" && !FAMILIES.contains(&name.as_str()));
    match unknown {
        None => Ok(()),
        Some(name) => Err(EmbeddedError::Failed(format!(
            "opening {}: it has a family {name:?} that this program does not know; start it with \
             the newer program that wrote it",
            path.display()
        ))),
    }
}

fn unreadable(dir: &Path, error: &rocksdb::Error) -> EmbeddedError {
    EmbeddedError::Failed(format!(
        "opening the log in {}: {error}; restore the folder from a backup (`homeostat backup` \
         makes one) or name another with --data",
        dir.display()
    ))
}

fn database_options(settings: &LogSettings) -> Options {
    let mut options = Options::default();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    // Bounds what a start reads again, and how long a quiet family keeps old logs alive.
    options.set_max_total_wal_size((settings.write_buffer_mib << 20).max(32 << 20));
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn descriptors(settings: &LogSettings, cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    let describe = |name: &str| {
        let options = match name {
            STATE => tuning::found_by_key(cache, buffer(settings, 2)),
            PANES => tuning::gone_by_range(cache, buffer(settings, 4)),
            _ => log_options(settings, cache),
        };
        ColumnFamilyDescriptor::new(name, options)
    };
    std::iter::once("default")
        .chain(FAMILIES)
        .map(describe)
        .collect()
}

/// A share of what changes may take in memory.
fn buffer(settings: &LogSettings, share: usize) -> Buffer {
    Buffer {
        bytes: (settings.write_buffer_mib << 20) as usize / share,
        piece: ARENA_BLOCK,
    }
}

/// Batches, appended in order and read in order: files never overlap, so that compaction moves
/// them and rewrites nothing.
fn log_options(settings: &LogSettings, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(64 << 10);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_arena_block_size(ARENA_BLOCK);
    options.set_write_buffer_size((settings.write_buffer_mib << 20) as usize / 2);
    options.set_max_bytes_for_level_base(4 << 30);
    options.set_level_compaction_dynamic_level_bytes(false);
    options.set_target_file_size_base(64 << 20);
    options
}

/// What changes in memory grow by: below what is given back, so that it is used again.
const ARENA_BLOCK: usize = 1 << 20;

/// The database in the folder.
pub(super) const DATABASE: &str = "log";

/// Files that RocksDB may hold open.
const OPEN_FILES_MAX: i32 = 256;

/// Newest bytes kept in memory of a topic that only followers read.
const SMALL_TAIL: u64 = 1 << 20;

const FORMAT_KEY: &[u8] = b"format";

/// How a folder is laid out.
const FORMAT: &[u8] = b"homeostat-embedded/1";
