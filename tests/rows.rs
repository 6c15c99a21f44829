//! The rows of tasks in folders of their own, and their snapshots: what a start finds after an end
//! of any kind, and that an object store that fails at any moment costs time only.

#[path = "processes/mount.rs"]
mod mount;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use homeostat::config::settings::{LogSettings, SnapshotSettings};
use homeostat::model::Time;
use homeostat::rows::{
    Archive, ArchiveError, FolderError, Object, Objects, ObjectsError, Sent, Stage, Stages,
};
use homeostat::runtime::{KeyValue, Mark, Position, Rows, Seed, Store, Stores, mark_of};
use homeostat::stream::WINDOWS;

use mount::Mount;

// The processes take this of it; named here, it is not dead.
const _: fn(&Mount, &str) = Mount::remount;

const ANALYZE: Stage = Stage {
    name: "analyze",
    encoding: 3,
    engine: "analyze/1",
};

/// A folder of a test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("homeostat-rows-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Folder(dir)
    }

    fn settings(&self) -> LogSettings {
        LogSettings {
            dir: self.0.clone(),
            cache_mib: 8,
            write_buffer_mib: 8,
            ..LogSettings::default()
        }
    }

    fn open(&self, archive: Option<Archive>) -> Stages {
        Stages::open(&self.settings(), &[ANALYZE], archive).unwrap()
    }

    fn task(&self) -> PathBuf {
        self.0.join("stages/analyze-0")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings() -> SnapshotSettings {
    SnapshotSettings {
        keep: 2,
        ..SnapshotSettings::default()
    }
}

fn mark(next: i64, time: Time) -> Mark {
    Mark {
        encoding: ANALYZE.encoding,
        engine: ANALYZE.engine.to_owned(),
        position: Some(Position {
            next,
            time,
            hears_since: Time(0),
        }),
        last: Some([next as u8; 32]),
        evolved: next * 2,
    }
}

/// As the commit protocol writes it.
fn mark_row(mark: &Mark) -> (Vec<u8>, Option<Vec<u8>>) {
    #[derive(serde::Serialize)]
    struct Written<'a>(u8, &'a Mark);
    let bytes = postcard::to_extend(&Written(1, mark), Vec::new()).unwrap();
    (Mark::KEY.to_vec(), Some(bytes))
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time(since.unwrap().as_millis() as i64)
}

/// Writes so many rows, and where they stand.
fn apply(store: &dyn Store, next: i64, rows: usize) {
    let mut seed = Seed(next as u64);
    let mut changed: Rows = (0..rows)
        .map(|_| {
            let key = [&[1][..], &(seed.draw() % 5000).to_be_bytes()].concat();
            let value = seed
                .draw()
                .to_be_bytes()
                .repeat(1 + seed.draw() as usize % 50);
            (key, (!seed.draw().is_multiple_of(10)).then_some(value))
        })
        .collect();
    changed.push(mark_row(&mark(next, now())));
    store.write(changed).unwrap();
}

fn all(store: &dyn Store) -> Vec<KeyValue> {
    store.scan(&[], &[WINDOWS], usize::MAX).unwrap()
}

fn at(store: &dyn Store) -> Option<i64> {
    Some(mark_of(store).unwrap()?.position?.next)
}

/// Objects in memory, with a clock that a test moves, and a fault at a change that it chooses.
#[derive(Default)]
struct InMemory(Mutex<Kept>, Mutex<Option<Between>>);

/// What somebody else does just before the next manifest is written.
type Between = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, (Vec<u8>, Time)>,
    now: i64,
    /// Changes so far.
    changes: usize,
    /// At which change something goes wrong, and whether it is made all the same. From then on
    /// nobody answers.
    fault: Option<(usize, bool)>,
    /// Nobody answers.
    away: bool,
}

impl InMemory {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> Result<T, ObjectsError> {
        let mut kept = self.kept();
        if kept.away {
            return Err(ObjectsError("nobody answers".to_owned()));
        }
        kept.changes += 1;
        kept.now += 1;
        match kept.fault {
            Some((at, done)) if at + 1 == kept.changes => {
                kept.away = true;
                if done {
                    change(&mut kept);
                }
                Err(ObjectsError("the line went dead".to_owned()))
            }
            _ => Ok(change(&mut kept)),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Kept) -> T) -> Result<T, ObjectsError> {
        let kept = self.kept();
        match kept.away {
            true => Err(ObjectsError("nobody answers".to_owned())),
            false => Ok(read(&kept)),
        }
    }

    /// Hours go by.
    fn wait(&self, hours: i64) {
        self.kept().now += hours * 3_600_000;
    }

    fn names(&self, part: &str) -> Vec<String> {
        let kept = self.kept();
        let names = kept.objects.keys().filter(|name| name.contains(part));
        names.cloned().collect()
    }

    /// Every object that a manifest names, and whether it is there.
    fn ensure_whole(&self) {
        for name in self.names("/manifests/") {
            let text = self.kept().objects[&name].0.clone();
            let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let folder = name.split_once("/manifests/").unwrap().0;
            for file in manifest["files"].as_array().unwrap() {
                let object = format!("{folder}/objects/{}", file["object"].as_str().unwrap());
                let there = self.kept().objects.contains_key(&object);
                assert!(there, "{name} needs {object}");
            }
        }
    }
}

impl Objects for InMemory {
    fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError> {
        self.read(|kept| {
            let inside = kept.objects.iter().filter_map(|(name, (bytes, at))| {
                let name = name.strip_prefix(folder)?.strip_prefix('/')?;
                Some(Object {
                    name: name.to_owned(),
                    bytes: bytes.len() as u64,
                    at: *at,
                })
            });
            inside.collect()
        })
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ObjectsError> {
        self.read(|kept| kept.objects.get(name).map(|(bytes, _)| bytes.clone()))
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), ObjectsError> {
        self.change(|kept| {
            let at = Time(kept.now);
            let before = kept.objects.insert(name.to_owned(), (bytes, at));
            assert_eq!(before, None, "{name} is written over");
        })
    }

    fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<bool, ObjectsError> {
        let between = self.1.lock().unwrap().take();
        if let Some(between) = between {
            between();
        }
        self.change(|kept| {
            let at = Time(kept.now);
            let free = !kept.objects.contains_key(name);
            kept.objects.entry(name.to_owned()).or_insert((bytes, at));
            free
        })
    }

    fn delete(&self, name: &str) -> Result<(), ObjectsError> {
        self.change(|kept| drop(kept.objects.remove(name)))
    }

    fn stop(&self) {}
}

fn archive(objects: &Arc<InMemory>) -> Option<Archive> {
    Some(Archive::over(objects.clone(), &settings(), "log-1"))
}

/// Sends a snapshot of these rows: what it took.
fn sent(stages: &Stages) -> (usize, u64) {
    match stages.snapshot("analyze", 0).unwrap() {
        Sent::Snapshot {
            sent, sent_bytes, ..
        } => (sent, sent_bytes),
        other => panic!("nothing was sent: {other:?}"),
    }
}

#[test]
fn a_snapshot_brings_the_rows_back_byte_for_byte() {
    let (here, there) = (Folder::new("trip-a"), Folder::new("trip-b"));
    let shelf = Folder::new("trip-shelf");
    let settings = SnapshotSettings {
        url: format!("file://{}", shelf.0.display()),
        ..settings()
    };
    let archive = || Archive::open(&settings, "log-1").unwrap();
    let stages = here.open(archive());
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 2000);
    let pane = vec![(vec![WINDOWS, 128, 1], Some(b"pane".to_vec()))];
    store.write(pane).unwrap();
    let rows = all(&*store);
    assert!(matches!(
        stages.snapshot("analyze", 0).unwrap(),
        Sent::Snapshot { next: 10, .. }
    ));
    assert_eq!(stages.snapshot("analyze", 0).unwrap(), Sent::Known);
    // What comes after is not in it.
    apply(&*store, 20, 500);
    assert_ne!(all(&*store), rows);

    let moved = there.open(archive());
    let store = moved.open("analyze", 0).unwrap();
    assert_eq!(at(&*store), Some(10));
    assert_eq!(all(&*store), rows);
    assert_eq!(
        store.get(&[WINDOWS, 128, 1]).unwrap(),
        Some(b"pane".to_vec())
    );
    // They are rows like any.
    apply(&*store, 30, 100);
    drop((store, moved));
    let again = there.open(None);
    assert_eq!(at(&*again.open("analyze", 0).unwrap()), Some(30));
    let needed = archive().unwrap().oldest_needed("analyze", 0).unwrap();
    assert_eq!(needed, Some(10));
    assert_eq!(archive().unwrap().oldest_needed("plan", 0).unwrap(), None);
}

#[test]
fn a_second_snapshot_sends_only_what_is_new() {
    let (here, objects) = (Folder::new("new"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    // Few enough for one file, so that nothing is compacted meanwhile.
    (1..=5).for_each(|round| apply(&*store, round, 2000));
    let (_, first) = sent(&stages);
    assert!(first > 100_000, "{first} bytes");
    store.write(vec![mark_row(&mark(21, now()))]).unwrap();
    let (_, second) = sent(&stages);
    assert!(second < first / 4, "{second} of {first} bytes again");
    // Each object is there once, whatever names it.
    let sums: Vec<String> = objects
        .names("/objects/")
        .iter()
        .map(|name| name.rsplit('/').next().unwrap()[..64].to_owned())
        .collect();
    let different: std::collections::BTreeSet<_> = sums.iter().collect();
    assert_eq!(sums.len(), different.len(), "nothing is sent twice");
}

#[test]
fn a_snapshot_that_fails_at_any_change_leaves_the_ones_before_and_after_whole() {
    let rounds = 3;
    let one = SnapshotSettings {
        keep: 1,
        ..settings()
    };
    let archive = |objects: &Arc<InMemory>| Some(Archive::over(objects.clone(), &one, "log-1"));
    let run = |fault: Option<(usize, bool)>| {
        let (here, objects) = (Folder::new("fault"), Arc::new(InMemory::default()));
        objects.kept().fault = fault;
        let stages = here.open(archive(&objects));
        let store = stages.open("analyze", 0).unwrap();
        let mut rows = BTreeMap::new();
        for next in 1..=rounds {
            apply(&*store, next, 300);
            rows.insert(next, all(&*store));
            let outcome = stages.snapshot("analyze", 0);
            let away = objects.kept().away;
            assert_eq!(outcome.is_err(), away, "{outcome:?}");
            // Somebody mends it, and the same is tried again.
            if away {
                objects.kept().away = false;
                objects.kept().fault = None;
                objects.ensure_whole();
                let place = Folder::new("fault-then");
                let then = place.open(archive(&objects));
                let found = at(&*then.open("analyze", 0).unwrap());
                let possible = [Some(next), Some(next - 1).filter(|next| *next > 0)];
                assert!(
                    possible.contains(&found),
                    "{found:?} after a fault at {next}"
                );
                let again = stages.snapshot("analyze", 0).unwrap();
                assert!(!matches!(again, Sent::NoRows), "{again:?}");
            }
            objects.ensure_whole();
            objects.wait(2);
        }
        let place = Folder::new("fault-end");
        let end = place.open(archive(&objects));
        let store = end.open("analyze", 0).unwrap();
        assert_eq!(at(&*store), Some(rounds));
        assert_eq!(all(&*store), rows[&rounds], "fault {fault:?}");
        let manifests = objects.names("/manifests/").len();
        // A snapshot is superseded for an hour before it goes: one more than are kept.
        assert!(manifests <= 3, "{manifests} manifests stay");
        let changes = objects.kept().changes;
        let objects = objects.names("/objects/").len();
        assert!(objects <= 30, "{objects} objects stay");
        changes
    };
    let changes = run(None);
    assert!(changes > 15, "{changes} changes in {rounds} snapshots");
    for at in 0..changes {
        run(Some((at, false)));
        run(Some((at, true)));
    }
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before() {
    type Harm = fn(&mut Kept, &str);
    let flip: Harm = |kept, name| {
        let bytes = &mut kept.objects.get_mut(name).unwrap().0;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let cut: Harm = |kept, name| {
        kept.objects.get_mut(name).unwrap().0.pop();
    };
    let lose: Harm = |kept, name| drop(kept.objects.remove(name));
    for (name, harm) in [("flipped", flip), ("cut", cut), ("lost", lose)] {
        let (here, objects) = (Folder::new(name), Arc::new(InMemory::default()));
        let stages = here.open(archive(&objects));
        let store = stages.open("analyze", 0).unwrap();
        apply(&*store, 10, 1000);
        let rows = all(&*store);
        sent(&stages);
        let before = objects.names("/objects/");
        apply(&*store, 20, 1000);
        sent(&stages);
        let new: Vec<String> = objects.names("/objects/");
        let new: Vec<&String> = new.iter().filter(|name| !before.contains(name)).collect();
        assert!(!new.is_empty());
        for harmed in new {
            let kept = objects.kept().objects[harmed].clone();
            harm(&mut objects.kept(), harmed);
            let place = Folder::new(&format!("{name}-then"));
            let then = place.open(archive(&objects));
            let store = then.open("analyze", 0).unwrap();
            assert_eq!(at(&*store), Some(10), "{harmed} {name}");
            assert_eq!(all(&*store), rows);
            objects.kept().objects.insert(harmed.clone(), kept);
        }
        // All of them: the log alone is left.
        for manifest in objects.names("/manifests/") {
            cut(&mut objects.kept(), &manifest);
        }
        let place = Folder::new(&format!("{name}-none"));
        let none = place.open(archive(&objects));
        assert_eq!(at(&*none.open("analyze", 0).unwrap()), None);
    }
}

#[test]
fn a_manifest_that_lies_about_its_position_is_not_believed() {
    let (here, objects) = (Folder::new("lies"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 100);
    sent(&stages);
    let name = objects.names("/manifests/").remove(0);
    let text = String::from_utf8(objects.kept().objects[&name].0.clone()).unwrap();
    let lie = text.replace("\"next\": 10", "\"next\": 99");
    assert_ne!(lie, text);
    let under = name.replace("010.json", "099.json");
    objects.kept().objects.insert(under, (lie.into(), Time(9)));
    let found = |place: &str| {
        let place = Folder::new(place);
        let then = place.open(archive(&objects));
        at(&*then.open("analyze", 0).unwrap())
    };
    assert_eq!(found("lies-then"), Some(10));
    objects.kept().objects.remove(&name);
    assert_eq!(found("lies-alone"), None);
}

#[test]
fn only_rows_of_this_log_stage_partition_and_encoding_are_brought_back() {
    let (here, objects) = (Folder::new("fits"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    apply(&*stages.open("analyze", 0).unwrap(), 10, 100);
    // Nobody holds the task any more, so there is nothing to copy.
    assert!(matches!(
        stages.snapshot("analyze", 0),
        Err(ArchiveError::Local(_))
    ));
    let store = stages.open("analyze", 0).unwrap();
    sent(&stages);
    drop(store);
    let found = |name: &str, log: &str, stage: Stage, partition| {
        let place = Folder::new(name);
        let archive = Archive::over(objects.clone(), &settings(), log);
        let stages = Stages::open(&place.settings(), &[stage], Some(archive)).unwrap();
        at(&*stages.open(stage.name, partition).unwrap())
    };
    assert_eq!(found("fits-all", "log-1", ANALYZE, 0), Some(10));
    assert_eq!(found("fits-log", "log-2", ANALYZE, 0), None);
    assert_eq!(found("fits-partition", "log-1", ANALYZE, 1), None);
    let newer = Stage {
        encoding: 4,
        ..ANALYZE
    };
    assert_eq!(found("fits-encoding", "log-1", newer, 0), None);
}

#[test]
fn what_a_manifest_needs_is_never_deleted_whoever_else_sends_and_tidies() {
    // Two owners, each of which believes that the task is its own, and both go on.
    let objects = Arc::new(InMemory::default());
    let folders = [Folder::new("zombie-a"), Folder::new("zombie-b")];
    let first = folders[0].open(archive(&objects));
    let store = first.open("analyze", 0).unwrap();
    apply(&*store, 1, 2000);
    sent(&first);
    let second = folders[1].open(archive(&objects));
    let other = second.open("analyze", 0).unwrap();
    assert_eq!(at(&*other), Some(1));
    let mut seed = Seed(7);
    for round in 2..60 {
        let (stages, store) = match seed.draw() % 2 {
            0 => (&first, &store),
            _ => (&second, &other),
        };
        apply(&**store, round, 200);
        stages.snapshot("analyze", 0).unwrap();
        objects.ensure_whole();
        objects.wait((seed.draw() % 3) as i64);
    }
    let manifests = objects.names("/manifests/").len();
    assert!((2..12).contains(&manifests), "{manifests} manifests stay");
    // The same position from both: the one that is there stays.
    apply(&*store, 100, 10);
    apply(&*other, 100, 10);
    sent(&first);
    assert_eq!(second.snapshot("analyze", 0).unwrap(), Sent::Known);
}

#[test]
fn what_is_on_its_way_is_not_tidied_away_by_somebody_else() {
    let objects = Arc::new(InMemory::default());
    let one = SnapshotSettings {
        keep: 1,
        ..settings()
    };
    let archive = || Some(Archive::over(objects.clone(), &one, "log-1"));
    let folders = [Folder::new("between-a"), Folder::new("between-b")];
    // Of another past, so that it needs no file of the other's.
    let stranger = folders[1].open(archive());
    let theirs = stranger.open("analyze", 0).unwrap();
    apply(&*theirs, 50, 100);
    let stages = folders[0].open(archive());
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 100);
    sent(&stages);
    objects.wait(2);
    // New files on their way, others lent by a manifest that somebody else supersedes meanwhile.
    apply(&*store, 20, 100);
    let then = stranger.clone();
    let between = move || assert!(sent(&then).0 > 0);
    *objects.1.lock().unwrap() = Some(Box::new(between));
    sent(&stages);
    assert_eq!(objects.names("/manifests/").len(), 3);
    objects.ensure_whole();
}

#[test]
fn rows_that_are_here_count_more_than_a_store_that_does_not_answer() {
    let (here, objects) = (Folder::new("away"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 100);
    sent(&stages);
    drop((store, stages));
    objects.kept().away = true;
    let stages = here.open(archive(&objects));
    assert_eq!(at(&*stages.open("analyze", 0).unwrap()), Some(10));
    drop(stages);
    // Without rows it is not known whether there are any: nothing is begun from nothing.
    fs::remove_dir_all(here.task()).unwrap();
    let stages = here.open(archive(&objects));
    let refused = stages.open("analyze", 0).err().unwrap().to_string();
    assert!(refused.contains("snapshots.url"), "{refused}");
    assert!(refused.contains("analyze-0"), "{refused}");
    objects.kept().away = false;
    assert_eq!(at(&*stages.open("analyze", 0).unwrap()), Some(10));
}

#[test]
fn a_partition_that_comes_back_after_long_goes_on_from_the_newest_snapshot() {
    let (here, there) = (Folder::new("back-a"), Folder::new("back-b"));
    let objects = Arc::new(InMemory::default());
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    store
        .write(vec![mark_row(&mark(5, Time(now().0 - 86_400_000)))])
        .unwrap();
    drop((store, stages));
    let other = there.open(archive(&objects));
    let store = other.open("analyze", 0).unwrap();
    apply(&*store, 50, 100);
    let rows = all(&*store);
    sent(&other);
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    assert_eq!(at(&*store), Some(50));
    assert_eq!(all(&*store), rows);
    // Fresh rows stay, though a snapshot is newer: the way from them is short.
    apply(&*store, 60, 10);
    drop((store, stages));
    let theirs = other.open("analyze", 0).unwrap();
    apply(&*theirs, 70, 10);
    sent(&other);
    let stages = here.open(archive(&objects));
    assert_eq!(at(&*stages.open("analyze", 0).unwrap()), Some(60));
}

#[test]
fn rows_of_another_engine_are_kept_before_this_one_writes() {
    let (here, objects) = (Folder::new("engine"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 100);
    drop((store, stages));
    let newer = Stage {
        engine: "analyze/2",
        ..ANALYZE
    };
    let stages = Stages::open(&here.settings(), &[newer], archive(&objects)).unwrap();
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 20, 100);
    until("the snapshot", || objects.names("/manifests/").len() == 1);
    let name = objects.names("/manifests/").remove(0);
    assert!(name.ends_with("010.json"), "{name}");
}

/// Waits for a condition that comes by itself.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_snapshot_is_made_when_it_is_due_and_the_worker_does_not_wait() {
    let (here, objects) = (Folder::new("due"), Arc::new(InMemory::default()));
    let often = SnapshotSettings {
        every_minutes: 0,
        ..settings()
    };
    let archive = Archive::over(objects.clone(), &often, "log-1");
    let stages = here.open(Some(archive));
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 100);
    until("the first", || objects.names("/manifests/").len() == 1);
    // One at a time: the next is asked for when this one is done.
    let mut next = 10;
    let deadline = Instant::now() + Duration::from_secs(60);
    while objects.names("/manifests/").len() < 2 {
        assert!(Instant::now() < deadline, "no second snapshot came");
        next += 1;
        apply(&*store, next, 10);
    }
    objects.ensure_whole();
    // A store that does not answer costs snapshots, and no rows.
    objects.kept().away = true;
    apply(&*store, next + 1, 10);
    drop((store, stages));
    let again = here.open(None);
    assert_eq!(at(&*again.open("analyze", 0).unwrap()), Some(next + 1));
}

#[test]
fn rows_that_are_being_rebuilt_are_no_snapshot() {
    let (here, objects) = (Folder::new("rebuilt"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    assert_eq!(stages.snapshot("analyze", 0).unwrap(), Sent::NoRows);
    let rebuilding = Mark {
        position: None,
        ..mark(0, now())
    };
    store.write(vec![mark_row(&rebuilding)]).unwrap();
    assert_eq!(stages.snapshot("analyze", 0).unwrap(), Sent::NoRows);
    assert_eq!(objects.names(""), Vec::<String>::new());
}

#[test]
fn closed_panes_older_than_an_hour_go() {
    let here = Folder::new("panes");
    let stages = here.open(None);
    let store = stages.open("analyze", 0).unwrap();
    let begun = 1_700_000_000_000_i64;
    let key = |ms: i64| {
        let time = ((ms as u64) ^ (1 << 63)).to_be_bytes();
        [&[WINDOWS][..], &time, b"node"].concat()
    };
    for minute in 0..180 {
        let ms = begun + minute * 60_000;
        let pane = (key(ms), Some(b"pane".to_vec()));
        let rows = vec![pane, mark_row(&mark(minute + 1, Time(ms)))];
        store.write(rows).unwrap();
    }
    let end = begun + 179 * 60_000;
    let left = |from: i64, to: i64| store.scan(&key(from), &key(to), 999).unwrap().len();
    assert_eq!(left(end - 3_600_000, end + 1), 61, "an hour is there");
    assert_eq!(left(begun, end - 75 * 60_000), 0, "what is older has gone");
    assert!(all(&*store).len() == 1, "panes are no rows");
}

#[test]
fn dozens_of_tasks_share_what_they_may_use() {
    let here = Folder::new("dozens");
    let stages = here.open(None);
    let stores: Vec<Rc<dyn Store>> = (0..64)
        .map(|n| {
            stages
                .open(["analyze", "plan"][n % 2], n as i32 / 2)
                .unwrap()
        })
        .collect();
    let before = resident_mib();
    for round in 0..10 {
        for store in &stores {
            apply(&**store, round + 1, 500);
        }
    }
    let grown = resident_mib() - before;
    assert!(
        grown < 96,
        "{grown} MiB more, 8 of changes and 8 of blocks are allowed"
    );
    for store in &stores {
        assert_eq!(at(&**store), Some(10));
    }
}

fn resident_mib() -> i64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: i64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages / 256
}

#[test]
fn a_damaged_folder_is_said_by_name_and_may_be_removed() {
    let (here, objects) = (Folder::new("damaged"), Arc::new(InMemory::default()));
    let stages = here.open(archive(&objects));
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 500);
    sent(&stages);
    drop((store, stages));
    for manifest in files(&here.task(), "MANIFEST") {
        let mut bytes = fs::read(&manifest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&manifest, bytes).unwrap();
    }
    let stages = here.open(archive(&objects));
    let words = stages.open("analyze", 0).err().unwrap().to_string();
    let folder = here.task().display().to_string();
    assert!(words.contains(&folder), "{words}");
    assert!(words.contains("remove that folder"), "{words}");
    fs::remove_dir_all(here.task()).unwrap();
    assert_eq!(at(&*stages.open("analyze", 0).unwrap()), Some(10));
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.to_string_lossy().contains(part);
    let mut found: Vec<PathBuf> = paths.filter(named).collect();
    found.sort();
    found
}

#[test]
fn a_folder_of_another_task_is_not_taken_for_ones_own() {
    let here = Folder::new("other");
    let stages = here.open(None);
    apply(&*stages.open("analyze", 0).unwrap(), 10, 10);
    fs::rename(here.task(), here.0.join("stages/analyze-1")).unwrap();
    let words = stages.open("analyze", 1).err().unwrap().to_string();
    assert!(words.contains("analyze-0"), "{words}");
}

#[test]
fn a_torn_write_ahead_log_leaves_a_beginning_of_what_was_written() {
    let here = Folder::new("torn");
    let stages = here.open(None);
    let store = stages.open("analyze", 0).unwrap();
    let mut rows = BTreeMap::from([(None, Vec::new())]);
    for next in 1..=20 {
        apply(&*store, next, 20);
        rows.insert(Some(next), all(&*store));
    }
    drop((store, stages));
    let log = files(&here.task(), ".log").pop().unwrap();
    let length = fs::metadata(&log).unwrap().len();
    let mut last = Some(20);
    for part in (0..10).rev() {
        let file = fs::File::options()
            .write(true)
            .open(files(&here.task(), ".log").pop().unwrap());
        let file = file.unwrap();
        let now = file.metadata().unwrap().len();
        file.set_len(now.min(length * part / 10)).unwrap();
        drop(file);
        // A copy is opened: opening writes.
        let copy = Folder::new("torn-copy");
        fs::create_dir_all(copy.task()).unwrap();
        for file in files(&here.task(), "") {
            fs::copy(&file, copy.task().join(file.file_name().unwrap())).unwrap();
        }
        let stages = copy.open(None);
        let store = stages.open("analyze", 0).unwrap();
        let found = at(&*store);
        assert!(found <= last, "{found:?} after {last:?}");
        assert_eq!(all(&*store), rows[&found], "rows and mark are of one write");
        last = found;
    }
    assert_eq!(last, None);
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_folder() {
    const HOLD: &str = "HOMEOSTAT_TEST_HOLD";
    if let Some(dir) = std::env::var_os(HOLD) {
        // The second process: this test again.
        let folder = Folder(dir.into());
        let refused = Stages::open(&folder.settings(), &[ANALYZE], None).err();
        std::mem::forget(folder);
        let Some(FolderError::Held { holder, .. }) = refused else {
            panic!("it was not refused: {refused:?}");
        };
        assert_eq!(holder.listen, "127.0.0.1:9");
        let parent: u32 = std::env::var("HOMEOSTAT_TEST_PID")
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(holder.pid, parent);
        return;
    }
    let here = Folder::new("two");
    let stages = here.open(None);
    stages.announce("127.0.0.1:9").unwrap();
    let variables = [
        (HOLD, here.0.to_str().unwrap()),
        ("HOMEOSTAT_TEST_PID", &std::process::id().to_string()),
    ];
    in_a_process_of_its_own(
        "a_second_process_is_refused_and_told_who_holds_the_folder",
        &variables,
    );
    drop(stages);
    here.open(None);
}

/// As much of S3 as snapshots use, on a port of its own, until the test's process ends.
mod s3 {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    /// Where it listens, and what it holds.
    pub fn serve() -> (String, Objects) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let shared = objects.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let objects = shared.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &objects));
            }
        });
        (address, objects)
    }

    fn answer(mut stream: TcpStream, objects: &Objects) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let length = header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        assert!(header("authorization").is_some_and(|text| text.contains("Credential=ID/")));
        let mut words = lines[0].split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = path
            .strip_prefix("/bucket")
            .unwrap()
            .trim_start_matches('/');
        let mut objects = objects.lock().unwrap();
        let (status, body) = match method {
            "PUT" if header("if-none-match").is_some() && objects.contains_key(key) => {
                (412, Vec::new())
            }
            "PUT" => {
                objects.insert(key.to_owned(), body);
                (200, Vec::new())
            }
            "GET" if key.is_empty() => (200, list(&objects, query)),
            "GET" => match objects.get(key) {
                Some(bytes) => (200, bytes.clone()),
                None => (404, Vec::new()),
            },
            "POST" => {
                let body = String::from_utf8(body).unwrap();
                objects.retain(|key, _| !body.contains(&format!("<Key>{key}</Key>")));
                (200, b"<DeleteResult></DeleteResult>".to_vec())
            }
            "DELETE" => {
                objects.remove(key);
                (204, Vec::new())
            }
            other => panic!("{other} is not asked of it"),
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nETag: \"e\"\r\nConnection: close\r\n\
             Last-Modified: Wed, 01 Jul 2026 00:00:00 GMT\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
    }

    fn list(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> Vec<u8> {
        let prefix = query
            .split('&')
            .find_map(|part| part.strip_prefix("prefix="));
        let prefix = prefix.unwrap().replace("%2F", "/");
        let mut page = "<ListBucketResult>".to_owned();
        for (key, bytes) in objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            page += &format!(
                "<Contents><Key>{key}</Key><LastModified>2026-07-01T00:00:00Z</LastModified>\
                 <ETag>e</ETag><Size>{}</Size></Contents>",
                bytes.len()
            );
        }
        (page + "</ListBucketResult>").into_bytes()
    }
}

/// Runs a test of this file in a process of its own, where these variables are set.
fn in_a_process_of_its_own(test: &str, variables: &[(&str, &str)]) {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn snapshots_lie_on_s3_as_in_a_folder() {
    if std::env::var_os("AWS_ENDPOINT_URL").is_none() {
        let (address, objects) = s3::serve();
        let variables = [
            ("AWS_ENDPOINT_URL", address.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "ID"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_REGION", "here"),
        ];
        in_a_process_of_its_own("snapshots_lie_on_s3_as_in_a_folder", &variables);
        let objects = objects.lock().unwrap();
        let manifests = objects.keys().filter(|key| key.contains("/manifests/"));
        let manifests: Vec<_> = manifests.collect();
        let first = "a/b/log-1/analyze-0/manifests/00000000000000000010.json";
        assert_eq!(manifests[0], first);
        assert_eq!(manifests.len(), 2);
        return;
    }
    let settings = SnapshotSettings {
        url: "s3://bucket/a/b".into(),
        ..settings()
    };
    let archive = || Archive::open(&settings, "log-1").unwrap();
    let (here, there) = (Folder::new("s3-a"), Folder::new("s3-b"));
    let stages = here.open(archive());
    let store = stages.open("analyze", 0).unwrap();
    apply(&*store, 10, 500);
    sent(&stages);
    assert_eq!(stages.snapshot("analyze", 0).unwrap(), Sent::Known);
    apply(&*store, 20, 500);
    sent(&stages);
    let moved = there.open(archive());
    let theirs = moved.open("analyze", 0).unwrap();
    assert_eq!(all(&*theirs), all(&*store));
    let needed = archive().unwrap().oldest_needed("analyze", 0).unwrap();
    assert_eq!(needed, Some(10));
}

#[test]
fn a_store_that_cannot_be_is_said_without_its_secrets() {
    let open = |url: &str| {
        let settings = SnapshotSettings {
            url: url.into(),
            ..settings()
        };
        Archive::open(&settings, "log-1").err().unwrap().to_string()
    };
    let words = open("gs://bucket");
    assert!(words.contains("expected file:///path, or s3://"), "{words}");
    let words = open("file:///proc/nowhere");
    assert!(words.contains("/proc/nowhere"), "{words}");
    let off = SnapshotSettings::default();
    assert!(
        Archive::open(&off, "log-1").unwrap().is_none(),
        "no url, none made"
    );
}

#[test]
fn a_full_disk_stops_the_writer_and_leaves_nothing_wrong() {
    let Some(mount) = Mount::new("rows-full", 64) else {
        return;
    };
    let folder = Folder(mount.0.clone());
    let stages = folder.open(None);
    let store = stages.open("analyze", 0).unwrap();
    let filler = folder.0.join("filler");
    fs::write(&filler, vec![1; 30 << 20]).unwrap();
    // Nothing that could be made smaller.
    let row = |n: i64| {
        let mut seed = Seed(n as u64);
        let value: Vec<u8> = (0..4000).flat_map(|_| seed.draw().to_be_bytes()).collect();
        ([&[1][..], &n.to_be_bytes()].concat(), Some(value))
    };
    let mut full = None;
    for next in 1..=4000 {
        let written = store.write(vec![row(next), mark_row(&mark(next, now()))]);
        if let Err(error) = written {
            full = Some((next, error.to_string()));
            break;
        }
    }
    let (stopped, words) = full.expect("the disk is full at some time");
    assert!(
        words.contains("analyze-0") && words.contains("make room"),
        "{words}"
    );
    // It does not go on as if nothing had been, and the process ends.
    let next = stages.open("analyze", 0).err().unwrap().to_string();
    assert!(next.contains("start the process anew"), "{next}");
    drop((store, stages));
    fs::remove_file(&filler).unwrap();
    let stages = folder.open(None);
    let store = stages.open("analyze", 0).unwrap();
    let found = at(&*store).unwrap();
    assert!(found <= stopped, "{found} of {stopped}");
    let mark_says = mark_of(&*store).unwrap().unwrap();
    assert_eq!(mark_says.evolved, found * 2);
    for n in 1..=found {
        let (key, value) = row(n);
        assert!(store.get(&key).unwrap() == value, "row {n} of {found}");
    }
    assert_eq!(store.get(&row(found + 1).0).unwrap(), None);
    apply(&*store, found + 1, 10);
}
