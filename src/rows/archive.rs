//! Snapshots of tasks in an object store: how one is sent, brought back, and when it goes.
//!
//! A task's snapshots lie below `<log id>/<stage>-<partition>/`: `objects/<SHA-256>-<attempt>` are
//! files of RocksDB, never changed; `manifests/<position>.json` names those that make up the rows
//! at that position of the inbox. A manifest is written once. Every log has names of its own, so
//! that several may share a store.
//!
//! # Sending one, and what a crash right after each step leaves
//! 1. **A checkpoint** of the task's folder, beside it: the rows between two writes, with the mark
//!    that says of which position. Crash: the folder is removed when the task is next opened.
//! 2. **Objects** that no kept manifest names yet: the files that are new. Crash: objects that
//!    nobody names; 5 of a later snapshot removes them.
//! 3. **The manifest**, last, where none of its position is: now the snapshot counts. Crash, or no
//!    answer: it is there whole or not at all.
//! 4. **Manifests that are no longer kept go.** Crash: some stay; the next snapshot goes on.
//! 5. **Objects that no manifest names go.** Crash: as 4.
//!
//! # Two writers of one task
//! After a take-over the old owner may not know yet, or have been stopped in the middle of any
//! step. Nothing that it does harms: what it sends are rows that the log committed, under a
//! position at which nobody else's differ, and it overwrites nothing, since an attempt's objects
//! have names of their own. What is deleted is never needed again:
//! - A manifest goes only when `keep` newer ones are there, the last of them for `grace` by the
//!   store's own clock.
//! - An object is named again only if one of the `keep` newest manifests named it when the attempt
//!   began, and an attempt that took more than half of `grace` writes no manifest, or takes it back
//!   if it was stopped just then. So the manifest that lent it outlives the attempt, and whoever
//!   lists manifests sees one of the two. (Stopped for so long at that one point, and then killed
//!   before it takes the manifest back, an attempt leaves one whose files may be missing: a restore
//!   notices, and takes the one before it.)
//! - An object goes only when it is older than `grace` and no manifest named it in a listing made
//!   after that of the objects. Being older, it belongs to no attempt that may still write its
//!   manifest; not named, it is never named again. So a deletion that comes late, from a process
//!   that was stopped before it, takes the same garbage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::config::settings::SnapshotSettings;
use crate::model::{Span, Time};
use crate::runtime::{Mark, Position};

use super::objects::{Object, Objects, ObjectsError, Remote};
use super::task::{Shared, Task, TaskName};

/// Snapshots of one log's tasks.
#[derive(Clone)]
pub struct Archive(Arc<Inner>);

struct Inner {
    objects: Arc<dyn Objects>,
    log_id: String,
    settings: SnapshotSettings,
}

/// A snapshot that could not be made or brought back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// This machine's folder: what was attempted, on what.
    #[error("{0}")]
    Local(String),
    /// What the object store holds is not what was sent.
    #[error("{0}")]
    Damaged(String),
    /// It took so long that what it builds on may have gone.
    #[error(
        "sending a snapshot of {task} took {took_s} s, more than half of snapshots.grace_minutes: \
         raise that"
    )]
    TooSlow {
        /// The task.
        task: String,
        /// How long, s.
        took_s: u64,
    },
}

/// What a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is there.
    Snapshot {
        /// The inbox up to there is in it.
        next: i64,
        /// Its files.
        files: usize,
        /// Objects sent for it: the files that no kept snapshot had.
        sent: usize,
        /// Their bytes.
        sent_bytes: u64,
    },
    /// There is one of this position already.
    Known,
    /// The rows are not of one position: they are empty, or being rebuilt.
    NoRows,
}

/// What makes up the rows of a task at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: String,
    log_id: String,
    stage: String,
    partition: i32,
    /// The stage's encoding of rows.
    encoding: u32,
    /// The engine that wrote them.
    engine: String,
    /// The inbox up to where they hold it.
    position: Position,
    /// The stage's own past outputs up to where they hold them.
    evolved: i64,
    /// When it was made, by the wall clock of who made it.
    time: Time,
    total_bytes: u64,
    files: Vec<File>,
}

/// A file of the task's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    name: String,
    object: String,
    bytes: u64,
    sha256: String,
}

/// A manifest that is there.
struct Listed {
    next: i64,
    object: Object,
}

impl Archive {
    /// The snapshots that the configuration names; `None` where it names none. Reaches nobody.
    ///
    /// # Errors
    /// The URL names no store that this program knows.
    pub fn open(settings: &SnapshotSettings, log_id: &str) -> Result<Option<Self>, ArchiveError> {
        if settings.url.is_empty() {
            return Ok(None);
        }
        let objects = Arc::new(Remote::open(&settings.url)?);
        Ok(Some(Archive::over(objects, settings, log_id)))
    }

    /// Snapshots over these objects.
    pub fn over(objects: Arc<dyn Objects>, settings: &SnapshotSettings, log_id: &str) -> Self {
        Archive(Arc::new(Inner {
            objects,
            log_id: log_id.to_owned(),
            settings: settings.clone(),
        }))
    }

    /// The inbox from this offset on is needed to go on from the oldest snapshot that is kept;
    /// `None`: there is none.
    ///
    /// # Errors
    /// The object store cannot be reached.
    pub fn oldest_needed(&self, stage: &str, partition: i32) -> Result<Option<i64>, ArchiveError> {
        let name = TaskName {
            stage: stage.to_owned(),
            partition,
        };
        let listed = self.manifests(&name)?;
        let mut kept = listed.iter().rev().take(self.0.settings.keep);
        Ok(kept.next_back().map(|oldest| oldest.next))
    }

    /// How long a task's rows are at work between two snapshots.
    pub(super) fn every(&self) -> Duration {
        Duration::from_secs(60 * self.0.settings.every_minutes)
    }

    /// Ends what is under way.
    pub(super) fn stop(&self) {
        self.0.objects.stop();
    }

    /// Sends the checkpoint in a folder: steps 2 to 5.
    pub(super) fn send(
        &self,
        task: &Task,
        dir: &Path,
        shared: &Shared,
    ) -> Result<Sent, ArchiveError> {
        let began = Instant::now();
        let name = &task.name;
        let mark = shared
            .mark_in(dir)
            .map_err(|error| local("reading the checkpoint in", dir, &error))?;
        let Some((mark, position)) = mark.and_then(|mark| Some((mark.clone(), mark.position?)))
        else {
            return Ok(Sent::NoRows);
        };
        let listed = self.manifests(name)?;
        if listed.iter().any(|found| found.next == position.next) {
            return Ok(Sent::Known);
        }
        let (mut files, mut sent, mut sent_bytes) = (Vec::new(), 0, 0);
        let lent = self.lent(name, &listed)?;
        let attempt = format!("{:016x}", RandomState::new().build_hasher().finish());
        let mut hashes = BTreeMap::new();
        for (file, bytes) in files_of(dir)? {
            let path = dir.join(&file);
            let read = || fs::read(&path).map_err(|error| local("reading", &path, &error));
            let known = task.known_hash(&file, bytes);
            let (sha256, mut contents) = match known {
                Some(sha256) => (sha256, None),
                None => {
                    let contents = read()?;
                    (sha256_of(&contents), Some(contents))
                }
            };
            if is_unchanging(&file) {
                hashes.insert((file.clone(), bytes), sha256.clone());
            }
            let object = match lent.get(&(sha256.clone(), bytes)) {
                Some(object) => object.clone(),
                None => {
                    let object = format!("{sha256}-{attempt}");
                    let contents = match contents.take() {
                        Some(contents) => contents,
                        None => read()?,
                    };
                    self.0
                        .objects
                        .put(&self.path(name, OBJECTS, &object), contents)?;
                    sent += 1;
                    sent_bytes += bytes;
                    object
                }
            };
            files.push(File {
                name: file,
                object,
                bytes,
                sha256,
            });
        }
        task.note_hashes(hashes);
        let count = files.len();
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            log_id: self.0.log_id.clone(),
            stage: name.stage.clone(),
            partition: name.partition,
            encoding: mark.encoding,
            engine: mark.engine,
            position,
            evolved: mark.evolved,
            time: wall_clock(),
            total_bytes: files.iter().map(|file| file.bytes).sum(),
            files,
        };
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        let ensure_in_time = || match began.elapsed() {
            took if took > self.grace() / 2 => Err(ArchiveError::TooSlow {
                task: name.to_string(),
                took_s: took.as_secs(),
            }),
            took => Ok(took),
        };
        ensure_in_time()?;
        let path = self.path(name, MANIFESTS, &manifest_name(position.next));
        if !self.0.objects.put_new(&path, text)? {
            return Ok(Sent::Known);
        }
        let took = match ensure_in_time() {
            Ok(took) => took,
            Err(error) => {
                self.0.objects.delete(&path)?;
                return Err(error);
            }
        };
        info!(
            task = %name,
            position = position.next,
            files = count,
            sent,
            sent_bytes,
            took_ms = took.as_millis() as u64,
            "snapshot"
        );
        self.collect(name)?;
        Ok(Sent::Snapshot {
            next: position.next,
            files: count,
            sent,
            sent_bytes,
        })
    }

    /// Objects that may be named again, by hash and size: of the manifests that outlive an attempt
    /// that begins now, as far as they are there.
    fn lent(
        &self,
        name: &TaskName,
        listed: &[Listed],
    ) -> Result<BTreeMap<(String, u64), String>, ArchiveError> {
        let mut lent = BTreeMap::new();
        if listed.is_empty() {
            return Ok(lent);
        }
        let there = self.0.objects.list(&self.folder(name, OBJECTS))?;
        let there: BTreeSet<_> = there
            .into_iter()
            .map(|object| (object.name, object.bytes))
            .collect();
        for found in listed.iter().rev().take(self.0.settings.keep) {
            // One that cannot be read lends nothing.
            let Ok(manifest) = self.read(name, found) else {
                continue;
            };
            for file in manifest.files {
                if there.contains(&(file.object.clone(), file.bytes)) {
                    lent.insert((file.sha256, file.bytes), file.object);
                }
            }
        }
        Ok(lent)
    }

    /// Brings the newest rows back that fit and are whole, into a folder that is not there yet.
    /// Those at or before `beyond` are not worth it. Says where they stand.
    pub(super) fn restore(
        &self,
        name: &TaskName,
        encoding: u32,
        beyond: Option<i64>,
        dir: &Path,
        shared: &Shared,
    ) -> Result<Option<i64>, ArchiveError> {
        let began = Instant::now();
        for found in self.manifests(name)?.iter().rev() {
            if beyond.is_some_and(|beyond| found.next <= beyond) {
                break;
            }
            let outcome =
                self.read(name, found)
                    .and_then(|manifest| match manifest.encoding == encoding {
                        true => self.fetch(name, &manifest, dir, shared).map(Some),
                        false => Ok(None),
                    });
            match outcome {
                Ok(Some(bytes)) => {
                    let took_ms = began.elapsed().as_millis() as u64;
                    info!(task = %name, position = found.next, bytes, took_ms, "rows restored");
                    return Ok(Some(found.next));
                }
                Ok(None) => {
                    info!(task = %name, position = found.next, "a snapshot of another encoding");
                }
                Err(ArchiveError::Damaged(why)) => {
                    warn!(task = %name, "{why}; trying the snapshot before it");
                }
                Err(error) => return Err(error),
            }
            remove(dir)?;
        }
        Ok(None)
    }

    /// Fetches a manifest's files and checks each, and then what they hold together.
    fn fetch(
        &self,
        name: &TaskName,
        manifest: &Manifest,
        dir: &Path,
        shared: &Shared,
    ) -> Result<u64, ArchiveError> {
        fs::create_dir_all(dir).map_err(|error| local("creating", dir, &error))?;
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), ArchiveError> {
            while let Some(file) = manifest.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let object = self.path(name, OBJECTS, &file.object);
                let damaged = |what: String| {
                    ArchiveError::Damaged(format!(
                        "snapshot {} of {name}: {object} {what}",
                        manifest.position.next
                    ))
                };
                let bytes = self.0.objects.get(&object)?;
                let bytes = bytes.ok_or_else(|| damaged("is not there".to_owned()))?;
                let found = sha256_of(&bytes);
                if found != file.sha256 {
                    let want = &file.sha256;
                    return Err(damaged(format!("has SHA-256 {found}, expected {want}")));
                }
                let path = dir.join(&file.name);
                fs::File::create(&path)
                    .and_then(|mut file| {
                        file.write_all(&bytes)?;
                        file.sync_all()
                    })
                    .map_err(|error| local("writing", &path, &error))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..FETCHES).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a fetch does not panic"))
                .collect::<Result<Vec<()>, _>>()
        })?;
        let damaged = |what: &dyn fmt::Display| {
            ArchiveError::Damaged(format!(
                "snapshot {} of {name}: {what}",
                manifest.position.next
            ))
        };
        let mark = shared.mark_in(dir).map_err(|error| damaged(&error))?;
        let fits = |mark: &Mark| {
            mark.position == Some(manifest.position)
                && mark.evolved == manifest.evolved
                && mark.encoding == manifest.encoding
        };
        match mark {
            Some(mark) if fits(&mark) => Ok(manifest.total_bytes),
            other => Err(damaged(&format!("its rows have another mark: {other:?}"))),
        }
    }

    /// Steps 4 and 5.
    fn collect(&self, name: &TaskName) -> Result<(), ArchiveError> {
        let grace = self.0.settings.grace_minutes as i64 * 60_000;
        let objects = self.0.objects.list(&self.folder(name, OBJECTS))?;
        let listed = self.manifests(name)?;
        // The store's own clock: the newest thing in it was just written.
        let now = listed.iter().map(|found| found.object.at);
        let now = now.chain(objects.iter().map(|object| object.at)).max();
        let now = now.unwrap_or_default();
        let (mut needed, mut unread) = (BTreeSet::new(), false);
        for (at, found) in listed.iter().enumerate() {
            let mut newer: Vec<Time> = listed[at + 1..]
                .iter()
                .map(|newer| newer.object.at)
                .collect();
            newer.sort();
            let superseded = newer.get(self.0.settings.keep - 1);
            if superseded.is_some_and(|since| now - *since >= Span(grace)) {
                let path = self.path(name, MANIFESTS, &found.object.name);
                self.0.objects.delete(&path)?;
                continue;
            }
            match self.read(name, found) {
                Ok(manifest) => needed.extend(manifest.files.into_iter().map(|file| file.object)),
                Err(ArchiveError::Damaged(why)) => {
                    warn!(task = %name, "{why}; no object is removed while it is kept");
                    unread = true;
                }
                Err(error) => return Err(error),
            }
        }
        if unread {
            return Ok(());
        }
        for object in objects {
            if !needed.contains(&object.name) && now - object.at >= Span(grace) {
                self.0
                    .objects
                    .delete(&self.path(name, OBJECTS, &object.name))?;
            }
        }
        Ok(())
    }

    /// A task's manifests, oldest position first.
    fn manifests(&self, name: &TaskName) -> Result<Vec<Listed>, ArchiveError> {
        let objects = self.0.objects.list(&self.folder(name, MANIFESTS))?;
        let mut listed: Vec<Listed> = objects
            .into_iter()
            .filter_map(|object| {
                let next = object.name.strip_suffix(".json")?.parse().ok()?;
                Some(Listed { next, object })
            })
            .collect();
        listed.sort_by_key(|found| found.next);
        Ok(listed)
    }

    fn read(&self, name: &TaskName, found: &Listed) -> Result<Manifest, ArchiveError> {
        let path = self.path(name, MANIFESTS, &found.object.name);
        let damaged =
            |what: &dyn fmt::Display| ArchiveError::Damaged(format!("manifest {path}: {what}"));
        let bytes = self.0.objects.get(&path)?;
        let bytes = bytes.ok_or_else(|| damaged(&"is not there"))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        let belongs = manifest.format == FORMAT
            && manifest.log_id == self.0.log_id
            && manifest.stage == name.stage
            && manifest.partition == name.partition
            && manifest.position.next == found.next;
        let plain = |text: &str| !text.is_empty() && !text.contains(['/', '\\']) && text != "..";
        let named = |file: &File| plain(&file.name) && plain(&file.object);
        match belongs && manifest.files.iter().all(named) {
            true => Ok(manifest),
            false => Err(damaged(&format!(
                "it is of {} {:?}, {}-{} at {}",
                manifest.format,
                manifest.log_id,
                manifest.stage,
                manifest.partition,
                manifest.position.next
            ))),
        }
    }

    fn folder(&self, name: &TaskName, kind: &str) -> String {
        format!("{}/{name}/{kind}", self.0.log_id)
    }

    fn path(&self, name: &TaskName, kind: &str, object: &str) -> String {
        format!("{}/{object}", self.folder(name, kind))
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(60 * self.0.settings.grace_minutes)
    }
}

/// Removes a folder, if it is there.
pub(super) fn remove(dir: &Path) -> Result<(), ArchiveError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(local("removing", dir, &error))
        }
        _ => Ok(()),
    }
}

/// The files of a checkpoint that make up its rows, with their sizes.
fn files_of(dir: &Path) -> Result<Vec<(String, u64)>, ArchiveError> {
    let failed = |error: &dyn fmt::Display| local("listing", dir, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = entry.metadata().map_err(|error| failed(&error))?.len();
        // What RocksDB says of itself, and whoever opens the folder.
        if !name.starts_with("LOG") && name != "LOCK" {
            files.push((name, size));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of this name never changes once it is there.
pub(super) fn is_unchanging(file: &str) -> bool {
    file.ends_with(".sst")
}

fn manifest_name(next: i64) -> String {
    format!("{next:020}.json")
}

fn local(attempt: &str, path: &Path, error: &dyn fmt::Display) -> ArchiveError {
    ArchiveError::Local(format!(
        "{attempt} {}: {error}; expected room and rights there",
        path.display()
    ))
}

fn sha256_of(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn wall_clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Time(since.unwrap_or_default().as_millis() as i64)
}

const OBJECTS: &str = "objects";
const MANIFESTS: &str = "manifests";

/// How a manifest is written.
const FORMAT: &str = "homeostat-snapshot/1";

/// Files fetched at a time: the way there is longer than the files are large.
const FETCHES: usize = 4;
