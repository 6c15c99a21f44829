//! What goes on in the background of a folder: syncs, free space, retention, flushes of rows,
//! copies of Analyze's rows.
//!
//! The order that keeps everything that a start needs: rows are flushed to files first; only then
//! is `metrics` trimmed, and never past what the flushed rows hold; a copy of rows goes when the
//! inbox no longer reaches back to it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rocksdb::{FlushOptions, IteratorMode, ReadOptions, WriteBatch, WriteOptions};

use crate::model::{Span, Time};
use crate::rows::tuning::PANES_KEPT;
use crate::runtime::{Mark, RowsCopy, Source as _, TimeSource, only};
use crate::stream::Topic;

use super::open::{COPIES, DATABASE, PANES, STATE};
use super::reading::{self, EmbeddedSource};
use super::store::{end_key, prefix};
use super::{EmbeddedError, Inner, WAKE, note_key};

/// Syncs what was written, at most once in `sync_ms`, and lets readers see it.
pub(super) fn sync(inner: &Inner) {
    let every = Duration::from_millis(inner.settings.sync_ms);
    let mut synced = 0;
    let mut last = Instant::now() - every;
    loop {
        let mut writing = inner.writing();
        while writing.writes == synced {
            if inner.stops() {
                return;
            }
            let waited = inner.wrote.wait_timeout(writing, WAKE);
            writing = waited
                .expect("a panic inside of a write leaves nothing to go on with")
                .0;
        }
        // Others may join until it is time.
        while !inner.stops()
            && let rest = every.saturating_sub(last.elapsed())
            && !rest.is_zero()
        {
            let waited = inner.wrote.wait_timeout(writing, rest);
            writing = waited
                .expect("a panic inside of a write leaves nothing to go on with")
                .0;
        }
        let (ends, positions) = (writing.ends(), writing.positions);
        let writes = writing.writes;
        drop(writing);
        last = Instant::now();
        if let Err(error) = inner.db.flush_wal(true) {
            inner.fail(format!(
                "syncing the log in {}: {error}; free space or mend the disk, then start again",
                inner.dir.display()
            ));
            return;
        }
        synced = writes;
        inner.publish(&ends, positions, writes);
    }
}

/// Looks after space, retention, flushes and copies until the end.
pub(super) fn keep(inner: &Inner) {
    let mut kept = Instant::now() - RETENTION_EVERY;
    let mut flushed = Instant::now();
    loop {
        if let Err(error) = keep_once(inner, &mut kept, &mut flushed) {
            inner.fail(error);
        }
        let mut writing = inner.writing();
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            if inner.stops() || inner.failure().is_some() {
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = inner.wrote.wait_timeout(writing, left);
            writing = waited
                .expect("a panic inside of a write leaves nothing to go on with")
                .0;
        }
    }
}

fn keep_once(inner: &Inner, kept: &mut Instant, flushed: &mut Instant) -> Result<(), String> {
    if let Some(free) = free_bytes(&inner.dir) {
        inner.free.store(free, Ordering::Relaxed);
    }
    let since_flush = inner.writing().since_flush;
    if since_flush > FLUSH_RECORDS || since_flush > 0 && flushed.elapsed() > FLUSH_EVERY {
        flush_rows(inner)?;
        *flushed = Instant::now();
    }
    if inner.free.load(Ordering::Relaxed) < inner.settings.min_free_mib << 20 {
        make_room(inner)?;
    }
    if kept.elapsed() > RETENTION_EVERY {
        *kept = Instant::now();
        retain(inner)?;
        copy_if_due(inner)?;
    }
    Ok(())
}

/// All of it, now.
pub(super) fn tidy(inner: &Inner) -> Result<(), String> {
    flush_rows(inner)?;
    retain(inner)?;
    copy_if_due(inner)
}

/// Ends a folder's use: rows to files, everything synced.
pub(super) fn close(inner: &Inner) {
    if inner.failure().is_some() {
        return;
    }
    // What fails here is rebuilt from the log at the next start.
    let _ = flush_rows(inner);
    let _ = inner.db.flush_wal(true);
    inner.db.cancel_all_background_work(true);
}

/// Writes the rows in memory to files; afterwards a start folds from here.
fn flush_rows(inner: &Inner) -> Result<(), String> {
    inner.writing().since_flush = 0;
    let mark = mark_of(inner, ANALYZE)?;
    let mut options = FlushOptions::default();
    options.set_wait(true);
    let families = [inner.family(STATE), inner.family(PANES)];
    inner
        .db
        .flush_cfs_opt(&families, &options)
        .map_err(|error| failed(inner, "flushing the rows", &error))?;
    if let Some(position) = mark.and_then(|mark| mark.position) {
        let mut flushed = inner.flushed.lock().expect("no holder panics");
        flushed.insert(ANALYZE.to_owned(), position.next);
    }
    Ok(())
}

fn mark_of(inner: &Inner, stage: &str) -> Result<Option<Mark>, String> {
    let key = [&prefix(stage)[..], Mark::KEY].concat();
    let bytes = inner
        .db
        .get_cf(inner.family(STATE), key)
        .map_err(|error| failed(inner, "reading the rows' mark", &error))?;
    Ok(bytes.and_then(|bytes| Mark::decode(&bytes)))
}

/// Drops what is older or larger than the configuration says.
fn retain(inner: &Inner) -> Result<(), String> {
    if inner.source == TimeSource::Log {
        retain_by_age(inner)?;
    }
    drop_panes(inner)?;
    let max = inner.settings.metrics_max_mib << 20;
    let bytes = inner.bytes_of(Topic::Metrics.name());
    if max > 0 && bytes > max {
        let share = (bytes - max) as f64 / bytes as f64;
        trim_share(inner, share)?;
    }
    Ok(())
}

/// Not where records bear the samples' own time: those that the loop itself wrote before the first
/// sample came are as old as time, and `replay` begins with them.
fn retain_by_age(inner: &Inner) -> Result<(), String> {
    let days = &inner.settings.keep_days;
    for (topic, days) in [
        (Topic::Metrics, days.metrics),
        (Topic::PlanInbox, days.plan_inbox),
        (Topic::Cycles, days.cycles),
        (Topic::Directives, days.directives),
        (Topic::DeadLetters, days.dead_letters),
    ] {
        let before = inner.now() - Span::seconds(86_400 * days as i64);
        let oldest = first_time(inner, topic)?;
        if oldest.is_some_and(|oldest| oldest < before) {
            let mut source = EmbeddedSource::new(inner);
            let offset = source
                .offset_at(only(topic), before)
                .map_err(|e| e.to_string())?;
            trim(inner, topic, offset)?;
        }
    }
    Ok(())
}

/// Frees space: a quarter of `metrics` at a time. `events` is never touched.
fn make_room(inner: &Inner) -> Result<(), String> {
    flush_rows(inner)?;
    trim_share(inner, 0.25)
}

fn trim_share(inner: &Inner, share: f64) -> Result<(), String> {
    let start = reading::start(inner, Topic::Metrics).map_err(|error| error.to_string())?;
    let end = inner.writing().tails[Topic::Metrics as usize].next;
    let part = ((end - start) as f64 * share).ceil() as i64;
    trim(inner, Topic::Metrics, start + part)
}

fn first_time(inner: &Inner, topic: Topic) -> Result<Option<Time>, String> {
    let first = inner
        .db
        .iterator_cf(inner.family(topic.name()), IteratorMode::Start)
        .next();
    match first {
        None => Ok(None),
        Some(row) => {
            let (_, value) = row.map_err(|error| failed(inner, "reading", &error))?;
            Ok(Some(super::batch::Batch::parse(&value)?.time()))
        }
    }
}

/// Drops the batches of a topic that end before an offset, but never what is not folded into rows
/// on disk, and never the last batch: it knows where the topic ends.
fn trim(inner: &Inner, topic: Topic, before: i64) -> Result<(), String> {
    let mut before = before;
    match topic {
        Topic::Metrics => {
            let flushed = inner.flushed.lock().expect("no holder panics");
            before = before.min(flushed.get(ANALYZE).map_or(0, |next| next - 1));
        }
        Topic::PlanInbox => {
            // As synced: files go at once, and a lost commit would fold their records again.
            let position = inner.folded.lock().expect("no holder panics")[topic as usize];
            before = before.min(position.map_or(0, |position| position.next - 1));
        }
        Topic::Events => return Ok(()),
        Topic::Cycles | Topic::Directives | Topic::DeadLetters => {}
    }
    let end = inner.writing().tails[topic as usize].next;
    // A batch lies under its last offset: those below this key end before `before`.
    let to = before.min(end - 1);
    if to <= 0 {
        return Ok(());
    }
    let family = inner.family(topic.name());
    let from = 0_i64.to_be_bytes();
    // Files go up to and with the second key, the range up to it: a file that ends with the batch
    // at `to` must stay, or the topic would begin again at 0 and a start find its log cut.
    inner
        .db
        .delete_file_in_range_cf(family, from, (to - 1).to_be_bytes())
        .and_then(|()| inner.db.delete_range_cf(family, from, to.to_be_bytes()))
        .map_err(|error| failed(inner, "trimming", &error))?;
    if topic == Topic::Metrics {
        drop_copies(inner)?;
    }
    Ok(())
}

/// Drops closed panes older than an hour, by their own time.
fn drop_panes(inner: &Inner) -> Result<(), String> {
    let family = inner.family(PANES);
    let key = |ms: i64| ((ms as u64) ^ (1 << 63)).to_be_bytes();
    let (from, to) = (key(i64::MIN), key((inner.newest() - PANES_KEPT).0));
    let mut silent = WriteOptions::default();
    silent.disable_wal(true);
    inner
        .db
        .delete_file_in_range_cf(family, from, to)
        .and_then(|()| inner.db.delete_range_cf_opt(family, from, to, &silent))
        .map_err(|error| failed(inner, "dropping old panes", &error))
}

/// Drops the copies that the inbox no longer reaches back to.
fn drop_copies(inner: &Inner) -> Result<(), String> {
    let start = reading::start(inner, Topic::Metrics).map_err(|error| error.to_string())?;
    for copy in copies(inner, ANALYZE)? {
        if copy.position.next >= start {
            continue;
        }
        let mut batch = WriteBatch::default();
        batch.delete(copy_key(copy.id));
        let (from, to) = (copy.id.to_be_bytes(), (copy.id + 1).to_be_bytes());
        batch.delete_range_cf(inner.family(COPIES), from, to);
        inner
            .db
            .write(batch)
            .map_err(|error| failed(inner, "dropping a copy", &error))?;
    }
    Ok(())
}

/// The copies of a stage's rows, oldest first.
pub(super) fn copies(inner: &Inner, stage: &str) -> Result<Vec<RowsCopy>, String> {
    let from = note_key("copy/");
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(note_key("copy0"));
    let default = inner.family("default");
    let mode = IteratorMode::From(&from, rocksdb::Direction::Forward);
    let mut copies = Vec::new();
    for row in inner.db.iterator_cf_opt(default, options, mode) {
        let (_, value) = row.map_err(|error| failed(inner, "reading the copies", &error))?;
        let copy: RowsCopy = serde_json::from_slice(&value)
            .map_err(|error| failed(inner, "reading a copy's head", &error))?;
        if copy.stage == stage {
            copies.push(copy);
        }
    }
    Ok(copies)
}

/// Copies Analyze's rows when the last copy is old enough.
fn copy_if_due(inner: &Inner) -> Result<(), String> {
    let now = inner.now();
    let last = copies(inner, ANALYZE)?.pop();
    let every = Span::seconds(3600 * inner.settings.copy_hours as i64);
    if last
        .as_ref()
        .is_some_and(|last| now - Time(last.id) < every)
    {
        return Ok(());
    }
    drop_unheaded(inner, last.map_or(0, |last| last.id + 1))?;
    copy_rows(inner, now)
}

/// Drops what a copy that was killed left: rows of ids above that of the last head.
fn drop_unheaded(inner: &Inner, from: i64) -> Result<(), String> {
    let family = inner.family(COPIES);
    let mut silent = WriteOptions::default();
    silent.disable_wal(true);
    inner
        .db
        .delete_range_cf_opt(family, from.to_be_bytes(), i64::MAX.to_be_bytes(), &silent)
        .map_err(|error| failed(inner, "dropping half a copy", &error))
}

/// Copies Analyze's rows as they stand in one moment.
///
/// 1. The rows go to `copies`, without the write-ahead log, then into files. A kill here leaves
///    rows that no head names: nobody reads them, and the next copy drops them first.
/// 2. The head is written: now the copy counts.
fn copy_rows(inner: &Inner, now: Time) -> Result<(), String> {
    let snapshot = inner.db.snapshot();
    let state = inner.family(STATE);
    let read = |key: Vec<u8>| {
        snapshot
            .get_cf(state, key)
            .map_err(|error| failed(inner, "reading the rows", &error))
    };
    let own = prefix(ANALYZE);
    let mark = read([&own[..], Mark::KEY].concat())?.and_then(|bytes| Mark::decode(&bytes));
    let end = read(end_key(ANALYZE))?.and_then(|bytes| bytes.try_into().ok());
    let (Some(mark), Some(end)) = (mark, end) else {
        return Ok(());
    };
    let Some(position) = mark.position else {
        return Ok(());
    };
    let mut upper = own.clone();
    *upper.last_mut().expect("a prefix ends with a byte") += 1;
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(upper);
    options.fill_cache(false);
    let mode = IteratorMode::From(&own, rocksdb::Direction::Forward);
    let mut silent = WriteOptions::default();
    silent.disable_wal(true);
    let mut batch = WriteBatch::default();
    for row in snapshot.iterator_cf_opt(state, options, mode) {
        let (key, value) = row.map_err(|error| failed(inner, "reading the rows", &error))?;
        let key = [&now.0.to_be_bytes(), &key[own.len()..]].concat();
        batch.put_cf(inner.family(COPIES), key, value);
        if batch.size_in_bytes() > COPY_BATCH_BYTES {
            let full = std::mem::take(&mut batch);
            inner
                .db
                .write_opt(full, &silent)
                .map_err(|error| failed(inner, "copying the rows", &error))?;
        }
        if inner.stops() {
            return Ok(());
        }
    }
    inner
        .db
        .write_opt(batch, &silent)
        .and_then(|()| inner.db.flush_cf(inner.family(COPIES)))
        .map_err(|error| failed(inner, "copying the rows", &error))?;
    let head = RowsCopy {
        id: now.0,
        stage: ANALYZE.to_owned(),
        encoding: mark.encoding,
        engine: mark.engine,
        partition: 0,
        position,
        plan_inbox_end: i64::from_be_bytes(end),
    };
    let head = serde_json::to_vec(&head).expect("a head is plain data");
    inner
        .db
        .put(copy_key(now.0), head)
        .map_err(|error| failed(inner, "noting a copy", &error))
}

/// Copies everything into a folder that is not there yet.
///
/// RocksDB flushes, then links the files that never change and copies the rest, into a folder
/// beside that is renamed at the end: a kill leaves no half copy under the name asked for.
pub(super) fn backup(inner: &Inner, dir: &Path) -> Result<(), EmbeddedError> {
    let failed = |error: &dyn std::fmt::Display| {
        EmbeddedError::Failed(format!(
            "backing up {} to {}: {error}; name a folder that is not there yet, on a disk with \
             room",
            inner.dir.display(),
            dir.display()
        ))
    };
    if dir.exists() {
        return Err(failed(&"it is there already"));
    }
    std::fs::create_dir_all(dir.parent().unwrap_or(Path::new("."))).map_err(|e| failed(&e))?;
    let mut partial = dir.as_os_str().to_owned();
    partial.push(".partial");
    let partial = std::path::PathBuf::from(partial);
    std::fs::create_dir(&partial).map_err(|error| {
        let half = partial.display();
        failed(&match error.kind() {
            std::io::ErrorKind::AlreadyExists => format!(
                "{half} is there: another backup makes it, or one that was killed left it (then \
                 remove it)"
            ),
            _ => format!("making {half}: {error}"),
        })
    })?;
    let made = rocksdb::checkpoint::Checkpoint::new(&inner.db)
        .and_then(|checkpoint| checkpoint.create_checkpoint(partial.join(DATABASE)))
        .map_err(|error| failed(&error))
        .and_then(|()| {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            std::fs::File::open(&partial)
                .and_then(|folder| folder.sync_all())
                .and_then(|()| std::fs::rename(&partial, dir))
                .and_then(|()| std::fs::File::open(parent.unwrap_or(Path::new("."))))
                .and_then(|folder| folder.sync_all())
                .map_err(|error| failed(&error))
        });
    if made.is_err() {
        // What could not be finished is ours: nobody else knows this name.
        let _ = std::fs::remove_dir_all(&partial);
    }
    made
}

/// Free bytes for this user on the disk of a folder.
pub(super) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn copy_key(id: i64) -> Vec<u8> {
    note_key(&format!("copy/{id:020}"))
}

fn failed(inner: &Inner, attempt: &str, error: &dyn std::fmt::Display) -> String {
    format!("{attempt} in {}: {error}", inner.dir.display())
}

/// The stage whose rows are copied, and that `metrics` is kept for.
const ANALYZE: &str = "analyze";

/// Records that a restart may have to fold again: about a second of them.
const FLUSH_RECORDS: u64 = 200_000;

/// Rows of a quiet loop are flushed all the same.
const FLUSH_EVERY: Duration = Duration::from_secs(300);

const RETENTION_EVERY: Duration = Duration::from_secs(60);

const COPY_BATCH_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::LogSettings;
    use crate::embedded::{Embedded, Incoming};

    /// Three more records, all in one file of a deeper level, as long use leaves them.
    fn settled(dir: &Path) -> Embedded {
        let settings = LogSettings {
            dir: dir.to_owned(),
            min_free_mib: 0,
            ..LogSettings::default()
        };
        let log = Embedded::open(&settings, TimeSource::Log).expect("an empty folder");
        for value in [b"a", b"b", b"c"] {
            let record = Incoming {
                time: Time(0),
                key: b"k".to_vec(),
                value: value.to_vec(),
            };
            log.append(Topic::Directives, vec![record]).expect("room");
        }
        let inner = &log.0.inner;
        let family = inner.family(Topic::Directives.name());
        inner.db.flush_cf(family).expect("room");
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        options.set_change_level(true);
        options.set_target_level(1);
        let all = (None::<&[u8]>, None::<&[u8]>);
        inner
            .db
            .compact_range_cf_opt(family, all.0, all.1, &options);
        log
    }

    #[test]
    fn what_a_killed_backup_left_is_named() {
        let dir = std::env::temp_dir().join(format!("homeostat-partial-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let log = settled(&dir.join("data"));
        std::fs::create_dir(dir.join("copy.partial")).expect("a folder of our own");
        let refused = log
            .backup(&dir.join("copy"))
            .expect_err("half a copy is there");
        assert!(
            refused.to_string().contains("copy.partial is there"),
            "{refused}"
        );
        drop(log);
        let _ = std::fs::remove_dir_all(&dir);
    }

    #[test]
    fn a_topic_of_which_all_is_too_old_keeps_its_last_batch_and_its_end() {
        let dir = std::env::temp_dir().join(format!("homeostat-trim-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let log = settled(&dir);
        trim(&log.0.inner, Topic::Directives, i64::MAX).expect("room");
        assert_eq!(reading::start(&log.0.inner, Topic::Directives), Ok(2));
        drop(log);
        let again = settled(&dir);
        assert_eq!(
            again.written_end(Topic::Directives),
            6,
            "no offset is given twice"
        );
        drop(again);
        let _ = std::fs::remove_dir_all(&dir);
    }
}
