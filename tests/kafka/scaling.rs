//! Several processors share the partitions: what one has, another takes over and continues.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use homeostat::model::{MeshId, PlanRecord, PolicyChange};
use homeostat::runtime::TopicPartition;
use homeostat::stream::Topic;
use homeostat::wire::encode_plan;

use crate::broker;
use crate::cluster::{Cluster, Enough, Fleet, PARTITIONS, seed};
use crate::crashes::under_load;
use crate::mount::Mount;
use crate::process::{Home, Processor, until};

#[test]
fn a_killed_processor_is_taken_over_within_20_s() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let cluster = Cluster::new(broker.address(), "takeover");
    let (first, second) = (cluster.home("a", ""), cluster.home("b", ""));
    under_load(&cluster, &[&first, &second], 250, || {
        let (mut dies, stays) = both(&first, &second);
        let group = cluster.group();
        until(LIMIT, "every partition is folded", || {
            let positions = cluster.positions(&group).unwrap_or_default();
            !positions.is_empty()
                && positions
                    .values()
                    .all(|next| next.is_some_and(|next| next > 0))
        });
        dies.kill();
        let killed = Instant::now();
        let ends = cluster.ends(&group);
        // Metrics come anyhow; what Plan is told of them depends on what happens.
        for partition in 0..PARTITIONS {
            let topic = Topic::PlanInbox;
            let of = TopicPartition { topic, partition };
            cluster.put(of, b"", &known_policy(&second));
        }
        until(TAKE_OVER, "every partition moves on", || {
            let positions = cluster.positions(&group).unwrap_or_default();
            let beyond = |(of, end): (&TopicPartition, &i64)| {
                positions.get(of).is_some_and(|next| *next > Some(*end))
            };
            ends.iter().all(beyond)
        });
        println!(
            "taken over {} ms after the kill",
            killed.elapsed().as_millis()
        );
        vec![stays]
    });
}

#[test]
fn analyze_and_plan_in_two_processes() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let cluster = Cluster::new(broker.address(), "stages");
    let (first, second) = (cluster.home("a", ""), cluster.home("b", ""));
    under_load(&cluster, &[&first, &second], 200, || {
        let analyzes = first.run_with(&["--stages", "analyze"]);
        let mut plans = second.run_with(&["--stages", "plan"]);
        until(LIMIT, "each has its tasks", || {
            tasks(&first).len() == PARTITIONS as usize
                && tasks(&second).len() == PARTITIONS as usize
        });
        assert!(
            tasks(&first)
                .iter()
                .all(|task| task.starts_with("analyze-"))
        );
        assert!(tasks(&second).iter().all(|task| task.starts_with("plan-")));
        // Its own come back to it, and no other's.
        plans.kill();
        vec![analyzes, second.run_with(&["--stages", "plan"])]
    });
    assert!(
        tasks(&first)
            .iter()
            .all(|task| task.starts_with("analyze-"))
    );
    assert!(tasks(&second).iter().all(|task| task.starts_with("plan-")));
}

#[test]
fn another_processor_continues_from_the_newest_snapshot() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let cluster = Cluster::new(broker.address(), "snapshot");
    let store = std::env::temp_dir().join(format!("homeostat-{}store", cluster.prefix));
    let store = Removed(store);
    // The first is due within a minute of a task's opening, at a moment of its own: those of
    // analyze within 15 s. When one of plan is made depends on what it is told.
    let config = format!(
        "[snapshots]\nurl = \"file://{}\"\nevery_minutes = 1\n",
        store.0.display()
    );
    fs::create_dir(&store.0).unwrap();
    let (first, second) = (cluster.home("a", &config), cluster.home("b", &config));
    let with_snapshot = ["analyze-0", "analyze-1", "analyze-2"];
    under_load(&cluster, &[&second, &first], 200, || {
        let mut dies = first.run();
        until(LIMIT, "there are snapshots", || {
            let there = |task: &&str| snapshots(&store, task) > 0;
            with_snapshot.iter().all(there)
        });
        dies.kill();
        fs::remove_dir_all(first.data().join("stages")).unwrap();
        let continues = second.run();
        let restored = |said: &str, task: &str| {
            let mut lines = said.lines().filter(|line| line.contains("rows restored"));
            lines.any(|line| line.contains(task))
        };
        until(LIMIT, "it continues from the snapshots", || {
            let said = second.said();
            with_snapshot.iter().all(|task| restored(&said, task))
        });
        vec![continues]
    });
}

#[test]
fn a_full_state_disk_is_exit_2_and_the_next_start_goes_on() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let Some(mount) = Mount::new("state-disk", 24) else {
        return;
    };
    let cluster = Cluster::new(broker.address(), "full");
    let home = cluster.home("a", "");
    // What it says lies on another disk.
    symlink(&mount.0, home.data()).unwrap();
    under_load(&cluster, &[&home], 200, || {
        let mut fails = home.run();
        until(LIMIT, "it has rows", || {
            tasks(&home).len() == 2 * PARTITIONS as usize
        });
        let ended = AtomicBool::new(false);
        let filler = mount.0.join("filler");
        let status = std::thread::scope(|scope| {
            scope.spawn(|| fill(&filler, &ended));
            let _enough = Enough(&ended);
            fails.wait(LIMIT)
        });
        let said = home.said();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("No space left"), "{said}");
        assert!(said.contains("make room if the disk is full"), "{said}");
        fs::remove_file(&filler).unwrap();
        vec![home.run()]
    });
}

/// A rolling upgrade that meets a member that is not upgraded yet: the newer version is played by
/// this one, and an event that this one does not know is put where it decides.
#[test]
fn an_older_version_that_takes_over_from_a_newer_one() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let cluster = Cluster::new(broker.address(), "rolling");
    let (first, second) = (cluster.home("a", ""), cluster.home("b", ""));
    let of = TopicPartition {
        topic: Topic::Events,
        partition: 0,
    };
    let stop = AtomicBool::new(false);
    let (sent, unknown, newer) = std::thread::scope(|scope| {
        let load = scope.spawn(|| cluster.load(&mut Fleet::new(seed()), 200, &stop));
        let enough = Enough(&stop);
        let (one, two) = both(&first, &second);
        // Who has events/0 is the newer one.
        let of_second = tasks(&second).contains(&"plan-0".to_owned());
        let (newer_home, newer, older_home, mut older) = match of_second {
            true => (&second, two, &first, one),
            false => (&first, one, &second, two),
        };
        until(LIMIT, "something is decided", || {
            cluster.records(of).len() > 10
        });
        let mut unknown = cluster.records(of).pop().unwrap().value;
        // Another fingerprint: an event of a schema that this program does not have.
        unknown[2] ^= 0xFF;
        cluster.put(of, b"mesh-0", &unknown);
        until(LIMIT, "the newer one decides after it", || {
            let records = cluster.records(of);
            let at = records.iter().position(|record| record.value == unknown);
            at.is_some_and(|at| at + 3 < records.len())
        });
        assert!(newer.stop().success());
        let status = older.wait(LIMIT);
        let said = older_home.said();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("opening plan: record"), "{said}");
        assert!(said.contains("written by a newer version?"), "{said}");
        // The newer one knows the event, and takes over all that there is.
        let newer = newer_home.run();
        drop(enough);
        (load.join().unwrap(), unknown, newer)
    });
    cluster.settle();
    assert!(newer.stop().success());
    let mut recorded = cluster.recorded();
    let events = recorded.get_mut(&of).unwrap();
    let before = events.len();
    events.retain(|record| record.value != unknown);
    assert_eq!(events.len() + 1, before, "nobody repeats it");
    cluster.ensure_right_in(&recorded, &sent);
    let replayed = first.ask(&["replay", "--json"]);
    // It cannot say that it decides the same, and does not.
    assert_eq!(replayed.status.code(), Some(1));
}

/// A record for Plan that changes nothing: the policy that a processor has proposed before.
fn known_policy(home: &Home) -> Vec<u8> {
    encode_plan(&PlanRecord::PolicyChange(PolicyChange {
        mesh: MeshId::none(),
        text: fs::read_to_string(home.data().join("proposed-policy")).unwrap(),
        by: "a test".to_owned(),
    }))
}

/// Two processors, once each has its half of the partitions.
fn both(first: &Home, second: &Home) -> (Processor, Processor) {
    let one = first.run();
    until(LIMIT, "the first has all", || {
        tasks(first).len() == 2 * PARTITIONS as usize
    });
    let two = second.run();
    until(LIMIT, "the second has half", || {
        tasks(second).len() == PARTITIONS as usize
    });
    (one, two)
}

/// The tasks whose rows are in a folder.
fn tasks(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.data().join("stages"))
        .into_iter()
        .flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains('.'))
        .collect()
}

/// How many snapshots of a task there are.
fn snapshots(store: &Removed, task: &str) -> usize {
    let logs = fs::read_dir(&store.0).into_iter().flatten();
    let manifests = |log: fs::DirEntry| fs::read_dir(log.path().join(task).join("manifests"));
    logs.filter_map(|log| manifests(log.unwrap()).ok())
        .map(Iterator::count)
        .sum()
}

/// Takes whatever a disk has left, again and again until told that it is enough.
fn fill(path: &std::path::Path, enough: &AtomicBool) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![7; 16 << 10];
    while !enough.load(Ordering::SeqCst) {
        while file.write_all(&block).is_ok() {}
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A folder that goes at the test's end.
struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// From a kill to records of every partition folded by another.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// How long anything else may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
