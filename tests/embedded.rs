//! The embedded log and its rows on a real disk: what a start finds after an end of any kind.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use homeostat::config::settings::{Fsync, LogSettings};
use homeostat::embedded::{Embedded, EmbeddedError, Incoming, Note};
use homeostat::model::{
    EventTime, LogOpened, MeshId, Metric, Metrics, Neighbour, NodeId, PlanRecord, Reading, Sample,
    Span, Time,
};
use homeostat::runtime::{Clock, Config, Seed, Source, TimeSource, TopicPartition, Worker, only};
use homeostat::stream::Topic;
use homeostat::{topology, wire};

/// A folder of a test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("homeostat-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Folder(dir)
    }

    fn settings(&self) -> LogSettings {
        LogSettings {
            dir: self.0.clone(),
            fsync: Fsync::Group,
            min_free_mib: 0,
            ..LogSettings::default()
        }
    }

    fn open(&self) -> Embedded {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_open(&self) -> Result<Embedded, EmbeddedError> {
        Embedded::open(&self.settings(), TimeSource::Log)
    }

    /// What a machine finds that died at this moment: a copy of the files as they are. A copy takes
    /// more than a moment: one during which files came or went is none, and is made again.
    fn died(&self, name: &str) -> Folder {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let copy = Folder::new(name);
            let before = names(&self.0);
            let copied = copy_all(&self.0, &copy.0);
            if copied.is_ok() && names(&self.0) == before {
                return copy;
            }
            assert!(Instant::now() < deadline, "never quiet: {copied:?}");
        }
    }

    /// The files of the database with this ending, oldest first.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.join("log")).unwrap();
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == ending))
            .collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_all(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// The files of the database in a folder.
fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder.join("log")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

struct ByHand(std::cell::Cell<i64>);

impl Clock for ByHand {
    fn now_ms(&self) -> i64 {
        self.0.get()
    }
}

fn record(value: &str) -> Incoming {
    Incoming {
        time: Time(0),
        key: value.split(' ').next().unwrap_or_default().into(),
        value: value.into(),
    }
}

/// Appends a sample each of so many nodes that were never heard before, and waits until they are
/// durable.
fn hello(log: &Embedded, count: usize) {
    let first = log.written_end(Topic::Metrics) as usize;
    let mut seed = Seed(first as u64);
    let samples = (first..first + count).map(|node| sample(&mut seed, node, 1, log.now()));
    let receipt = log.append(Topic::Metrics, samples.collect()).unwrap();
    durable(log, receipt.write);
}

fn durable(log: &Embedded, write: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut moved = log.moved();
    let reached = runtime.block_on(async {
        let wait = moved.wait_for(|writes| *writes >= write);
        tokio::time::timeout(std::time::Duration::from_secs(10), wait)
            .await
            .is_ok()
    });
    assert!(
        reached,
        "write {write} did not become durable: {:?}",
        log.failure()
    );
}

/// Opens the log, as its first run does.
fn begin(log: &Embedded) {
    let opened = PlanRecord::LogOpened(LogOpened {
        log_id: "log-1".to_owned(),
        audit_name: "test.example/log".to_owned(),
        partitions: 1,
        time_source: "log".to_owned(),
    });
    let record = Incoming {
        time: Time(0),
        key: Vec::new(),
        value: wire::encode_plan(&opened),
    };
    log.append(Topic::PlanInbox, vec![record]).unwrap();
}

/// Lets the stages fold and commit everything, and waits until that is durable; with `apply` the
/// rows are written too.
fn fold(log: &Embedded, apply: bool) {
    let (port, stores) = log.worker(&[Topic::Metrics, Topic::PlanInbox]);
    let clock = Rc::new(ByHand(std::cell::Cell::new(0)));
    let config = Config {
        apply_every: Span(i64::MAX / 4),
        ..Config::default()
    };
    let mut worker = Worker::new(port, stores, clock.clone(), topology::stages(), config).unwrap();
    loop {
        clock.0.set(clock.0.get() + 200);
        let turn = worker.turn(Span(0)).unwrap();
        let ends = [Topic::Metrics, Topic::PlanInbox]
            .map(|t| log.position(t).map_or(0, |p| p.next) == log.written_end(t));
        if turn.idle && ends == [true, true] {
            break;
        }
    }
    if apply {
        worker.finish().unwrap();
    }
    durable(log, log.append(Topic::Metrics, Vec::new()).unwrap().write);
}

fn all(source: &mut dyn Source, topic: Topic) -> Vec<homeostat::runtime::Record> {
    let of: TopicPartition = only(topic);
    let (mut next, end) = (source.start(of).unwrap(), source.end(of).unwrap());
    let mut records = Vec::new();
    while next < end {
        let chunk = source.read(of, next, end, 3).unwrap();
        assert!(chunk.next > next, "a read moves on");
        next = chunk.next;
        records.extend(chunk.records);
    }
    records
}

#[test]
fn what_was_answered_is_there_after_a_start() {
    let folder = Folder::new("start");
    let log = folder.open();
    let note = Note {
        name: "title",
        value: b"t",
    };
    let first = log
        .append_noting(Topic::PlanInbox, vec![record("a"), record("b")], &[note])
        .unwrap();
    hello(&log, 10);
    durable(&log, first.write);
    let before = all(&mut *log.source(), Topic::Metrics);
    let dead = folder.died("start-dead");
    drop(log);
    for folder in [&folder, &dead] {
        let log = folder.open();
        assert_eq!(all(&mut *log.source(), Topic::Metrics), before);
        assert_eq!(log.written_end(Topic::PlanInbox), 2);
        assert_eq!(log.note("title").unwrap().as_deref(), Some(&b"t"[..]));
        let next = log.append(Topic::Metrics, vec![record("more")]).unwrap();
        assert_eq!(next.first, 10);
    }
}

#[test]
fn rows_that_died_with_the_process_are_folded_again_and_nothing_twice() {
    let folder = Folder::new("rows");
    let log = folder.open();
    begin(&log);
    hello(&log, 40);
    fold(&log, true);
    let events = all(&mut *log.source(), Topic::Events);
    assert!(!events.is_empty(), "the stages decided something");
    // Written, not flushed: the rows live in memory only, the log does not.
    let dead = folder.died("rows-dead");
    drop(log);
    for folder in [&dead, &folder] {
        let log = folder.open();
        fold(&log, false);
        assert_eq!(all(&mut *log.source(), Topic::Events), events);
        hello(&log, 14);
        fold(&log, true);
        let more = all(&mut *log.source(), Topic::Events);
        assert_eq!(more[..events.len()], events);
        assert!(more.len() > events.len());
    }
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_is_cut_off() {
    let folder = Folder::new("torn");
    let log = folder.open();
    for _ in 0..20 {
        hello(&log, 1);
    }
    let dead = folder.died("torn-dead");
    let newest = dead.files("log").pop().expect("a write-ahead log");
    let whole = fs::read(&newest).unwrap();
    for cut in [1, 7, 30] {
        let torn = dead.died("torn-cut");
        let path = torn.files("log").pop().unwrap();
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let log = torn.open();
        let end = log.written_end(Topic::Metrics);
        assert!((18..20).contains(&end), "cut {cut}: {end}");
        hello(&log, 1);
        assert_eq!(
            all(&mut *log.source(), Topic::Metrics).len() as i64,
            end + 1
        );
    }
}

#[test]
fn damage_before_the_tail_is_a_clear_stop() {
    let folder = Folder::new("damage");
    let log = folder.open();
    for _ in 0..20 {
        hello(&log, 50);
    }
    let dead = folder.died("damage-dead");
    drop(log);
    // In the middle of the write-ahead log.
    let path = dead.files("log").pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let opened = dead.try_open().map(|log| log.written_end(Topic::Metrics));
    let error = opened.expect_err("what was answered after it would be lost unsaid");
    assert!(error.to_string().contains("backup"), "{error}");
    // In a file of the log: closed above, so everything lies in files.
    let file = folder
        .files("sst")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .expect("a file");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let read = folder
        .try_open()
        .map_err(|error| error.to_string())
        .and_then(|log| {
            let mut source = log.source();
            let of = only(Topic::Metrics);
            let end = source.end(of).map_err(|error| error.to_string())?;
            source
                .read(of, 0, end, 10_000)
                .map_err(|error| error.to_string())
        });
    let error = read.expect_err("a flipped byte is found");
    assert!(
        error.contains("orruption") && error.contains("backup"),
        "{error}"
    );
}

#[test]
fn a_second_holder_is_refused_and_the_first_is_named() {
    let folder = Folder::new("held");
    let log = folder.open();
    log.announce("127.0.0.1:1618").unwrap();
    for refused in [folder.try_open(), Embedded::read_only(&folder.0)] {
        let error = refused.map(|_| ()).unwrap_err().to_string();
        let pid = format!("process {}", std::process::id());
        assert!(
            error.contains(&pid) && error.contains("127.0.0.1:1618"),
            "{error}"
        );
    }
    drop(log);
    assert!(Embedded::read_only(&folder.0).is_ok());
}

#[test]
fn a_folder_is_read_by_nobodys_leave_once_it_is_free() {
    let folder = Folder::new("read-only");
    let error = Embedded::read_only(&folder.0).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("homeostat run"), "{error}");
    let log = folder.open();
    hello(&log, 9);
    let dead = folder.died("read-only-dead");
    let reader = Embedded::read_only(&dead.0).unwrap();
    assert_eq!(all(&mut *reader.source(), Topic::Metrics).len(), 9);
    let refused = reader.append(Topic::Metrics, vec![record("more")]);
    assert!(refused.is_err(), "a reader writes nothing");
}

#[test]
fn another_time_source_or_prefix_is_refused_once_the_log_began() {
    let folder = Folder::new("title");
    let log = folder.open();
    let title = homeostat::runtime::Title {
        log_id: "l".into(),
        prefix: "homeostat.".into(),
        time_source: TimeSource::Log,
        partitions: 1,
    };
    let noted = Embedded::title_note(&title);
    let note = Note {
        name: homeostat::embedded::TITLE,
        value: &noted,
    };
    log.append_noting(Topic::PlanInbox, vec![record("a")], &[note])
        .unwrap();
    assert_eq!(log.title(), Some(title));
    drop(log);
    let error = Embedded::open(&folder.settings(), TimeSource::Sample)
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("time.source"), "{error}");
}

#[test]
fn a_backup_holds_what_was_there_and_lives_on_by_itself() {
    let folder = Folder::new("backup");
    let log = folder.open();
    begin(&log);
    hello(&log, 30);
    fold(&log, true);
    let copy = Folder::new("backup-copy");
    log.backup(&copy.0).unwrap();
    let events = all(&mut *log.source(), Topic::Events);
    hello(&log, 30);
    assert!(log.backup(&copy.0).is_err(), "never over another");
    let restored = copy.open();
    assert_eq!(all(&mut *restored.source(), Topic::Events), events);
    fold(&restored, true);
    assert_eq!(all(&mut *restored.source(), Topic::Events), events);
}

#[test]
fn events_and_what_a_start_needs_outlive_every_retention() {
    for source in [TimeSource::Log, TimeSource::Sample] {
        outlive_retention(source);
    }
}

fn outlive_retention(time: TimeSource) {
    let folder = Folder::new("retention");
    let settings = LogSettings {
        metrics_max_mib: 1,
        ..folder.settings()
    };
    let log = Embedded::open(&settings, time).unwrap();
    begin(&log);
    let mut seed = Seed(5);
    for round in 1..=40 {
        let samples = (0..200).map(|node| sample(&mut seed, node, round, log.now()));
        log.append(Topic::Metrics, samples.collect()).unwrap();
    }
    fold(&log, true);
    let events = all(&mut *log.source(), Topic::Events);
    assert!(!events.is_empty());
    // What lies in files counts: a start brings it there.
    drop(log);
    let log = Embedded::open(&settings, time).unwrap();
    fold(&log, true);
    log.tidy().unwrap();
    log.tidy().unwrap();
    let mut source = log.source();
    let metrics = only(Topic::Metrics);
    let (start, end) = (source.start(metrics).unwrap(), source.end(metrics).unwrap());
    assert!(
        0 < start && start < end,
        "the oldest samples went: {start} of {end}"
    );
    assert_eq!(all(&mut *source, Topic::Events), events);
    assert!(all(&mut *source, Topic::Metrics).len() as i64 == end - start);
    let dead = folder.died("retention-dead");
    let log = Embedded::open(&dead.settings(), time).unwrap();
    fold(&log, true);
    assert_eq!(all(&mut *log.source(), Topic::Events), events);
    let folded = log.position(Topic::Metrics).unwrap().next;
    assert_eq!(folded, end);
}

#[test]
fn what_is_not_folded_is_never_trimmed() {
    let folder = Folder::new("unfolded");
    let settings = LogSettings {
        metrics_max_mib: 1,
        ..folder.settings()
    };
    let log = Embedded::open(&settings, TimeSource::Log).unwrap();
    let mut seed = Seed(6);
    for round in 1..=40 {
        let samples = (0..200).map(|node| sample(&mut seed, node, round, log.now()));
        log.append(Topic::Metrics, samples.collect()).unwrap();
    }
    drop(log);
    let log = Embedded::open(&settings, TimeSource::Log).unwrap();
    log.tidy().unwrap();
    assert_eq!(log.source().start(only(Topic::Metrics)).unwrap(), 0);
}

#[test]
fn a_copy_of_the_rows_is_what_the_rows_were() {
    let folder = Folder::new("copy");
    let log = folder.open();
    begin(&log);
    let mut seed = Seed(7);
    let samples = (0..50).map(|node| sample(&mut seed, node, 1, log.now()));
    log.append(Topic::Metrics, samples.collect()).unwrap();
    fold(&log, true);
    log.tidy().unwrap();
    log.tidy().unwrap();
    let mut source = log.source();
    let copies = source.copies("analyze").unwrap();
    assert_eq!(copies.len(), 1, "one a day");
    let copy = &copies[0];
    assert_eq!(Some(copy.position), log.position(Topic::Metrics));
    assert_eq!(copy.plan_inbox_end, log.written_end(Topic::PlanInbox));
    let (mut rows, mut after) = (Vec::new(), Vec::new());
    loop {
        let more = source.copied_rows(copy, &after, 7).unwrap();
        let Some((last, _)) = more.last() else { break };
        after.clone_from(last);
        rows.extend(more);
    }
    let store = log.rows("analyze");
    let mut from = vec![0];
    let mut live = Vec::new();
    while let Some((key, value)) = store.next(&from, &[0xFF]).unwrap() {
        from = [&key[..], &[0]].concat();
        live.push((key, value));
    }
    assert!(live.len() > 50, "a row a node and more");
    assert_eq!(rows, live);
}

/// A healthy sample with links enough to weigh something.
fn sample(seed: &mut Seed, node: usize, seq: i64, now: Time) -> Incoming {
    let name = |n: usize| NodeId::parse(&format!("node-{n}")).unwrap();
    let mut metrics = Metrics::default();
    assert!(metrics.try_set(Metric::CpuPercent, seed.between(20.0, 60.0)));
    let link = |n: usize| Neighbour {
        node_id: name(n + seed.below(1_000_000) as usize),
        latency_ms: Some(seed.between(1.0, 9.0)),
        packet_loss: Some(seed.between(0.0, 0.1)),
    };
    let sample = Sample {
        mesh: MeshId::parse("alpha").unwrap(),
        node: name(node),
        neighbours: (0..20).map(link).collect(),
        reading: Reading {
            boot: 1,
            seq: Some(seq),
            time: EventTime(now.0),
            interval_s: Some(10.0),
            metrics,
        },
    };
    Incoming {
        time: now,
        key: sample.node.as_str().into(),
        value: wire::encode_sample(&sample),
    }
}
