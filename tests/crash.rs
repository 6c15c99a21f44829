//! The loop under every crash, and under chance. What stands in the log afterwards is what a
//! straight-line fold says, byte for byte.
//!
//! A failing run prints the command that repeats it.

mod records;
mod toy;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use homeostat::model::{Span, Time};
use homeostat::runtime::simulated::{Fault, Operation, Settings, Simulated, Written};
use homeostat::runtime::{Config, Outgoing, Position, Stop, TimeSource, TopicPartition, Worker};
use homeostat::sim::{Chaos, Plot, Script, Seed, World, check};
use homeostat::stream::Topic;

use records::thorough;

/// A world of a few records, and those records.
fn small(seed: u64, faults: Vec<(usize, Fault)>) -> (Plot, Vec<toy::Line>) {
    let mut draw = Seed(seed);
    let mut config = toy::config(&mut draw);
    let by_sample = seed.is_multiple_of(3);
    if by_sample {
        config.time_source = TimeSource::Sample;
    }
    let length = 6 + draw.below(12) as usize;
    let script = toy::script(&mut draw, length, seed.is_multiple_of(50));
    let plot = Plot {
        seed,
        stages: toy::stages(1),
        config,
        partitions: if by_sample {
            1
        } else {
            1 + draw.below(2) as i32
        },
        workers: 1 + draw.below(2) as usize,
        faults,
        chaos: Chaos::default(),
    };
    (plot, script)
}

/// Runs a world and checks what it wrote; answers the world.
fn run(plot: Plot, script: Vec<toy::Line>) -> Result<World, String> {
    let (stages, config) = (plot.stages.clone(), plot.config.clone());
    let mut world = World::new(plot);
    world.run(&mut Script::new(START, script.clone()))?;
    check::recorded(&world.cluster, &stages, &config)?;
    check::events(&world.cluster, &toy::facts)?;
    if config.time_source == TimeSource::Sample {
        let generated = generated(&script);
        check::from_seed(&world.cluster, &stages, &config, &[generated], &toy::plain)?;
    }
    Ok(world)
}

/// The records of a script as the seed alone knows them.
fn generated(script: &[toy::Line]) -> Vec<Outgoing> {
    let mut time = START;
    let lines = script.iter().cloned();
    lines
        .map(|(gap, topic, key, value)| {
            time = time + gap;
            Outgoing {
                to: TopicPartition {
                    topic,
                    partition: 0,
                },
                time,
                key,
                value,
                headers: Vec::new(),
            }
        })
        .collect()
}

fn wanted_seed() -> Option<u64> {
    std::env::var("HOMEOSTAT_SEED").ok()?.parse().ok()
}

/// Visits every fault at every operation of a seed's run; answers how many.
fn visit(seed: u64) -> usize {
    let fail = |faults: &[(usize, Fault)], why: String| -> ! {
        panic!(
            "seed {seed}, faults {faults:?}: {why}\n\
             repeat: HOMEOSTAT_SEED={seed} cargo test --test crash -- every_crash_point"
        )
    };
    let (plot, script) = small(seed, Vec::new());
    let clean = run(plot, script).unwrap_or_else(|why| fail(&[], why));
    let mut points = 0;
    for (number, operation) in clean.cluster.operations().into_iter().enumerate() {
        for &fault in operation.faults() {
            let faults = vec![(number, fault)];
            let (plot, script) = small(seed, faults.clone());
            if let Err(why) = run(plot, script) {
                fail(&faults, why);
            }
            points += 1;
        }
    }
    points
}

#[test]
fn every_crash_point() {
    if let Some(seed) = wanted_seed() {
        visit(seed);
        return;
    }
    let wanted = if thorough() { POINTS } else { POINTS / 20 };
    let (next, points) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while points.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
            points.fetch_add(visit(seed), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let (seeds, points) = (next.into_inner(), points.into_inner());
    println!("{points} crash points of {seeds} seeds visited");
    assert!(points >= wanted, "{points} crash points, expected {wanted}");
}

#[test]
fn chance() {
    let all = if thorough() {
        CHANCE_SEEDS
    } else {
        CHANCE_SEEDS / 10
    };
    let seeds = wanted_seed().map_or(0..all, |seed| seed..seed + 1);
    for seed in seeds {
        let (mut plot, _) = small(seed, Vec::new());
        plot.chaos = Chaos::ALL;
        plot.workers = 1 + (seed % 3) as usize;
        let script = toy::script(&mut Seed(seed ^ 0xFFFF), 80, seed.is_multiple_of(4));
        if let Err(why) = run(plot, script) {
            panic!(
                "seed {seed}: {why}\n\
                 repeat: HOMEOSTAT_SEED={seed} cargo test --test crash -- chance"
            );
        }
    }
}

/// A worker of the small stages on a cluster of one partition.
fn lone_worker() -> (Simulated, Worker) {
    let world = World::new(plain_plot());
    let cluster = world.cluster.clone();
    let (log, stores) = cluster.connect("worker-0");
    let clock = Rc::new(cluster.clone());
    let worker = Worker::new(log, stores, clock, toy::stages(1), Config::default()).unwrap();
    (cluster, worker)
}

/// Lets time pass, with a turn every second.
fn live(cluster: &Simulated, worker: &mut Worker, seconds: i64) {
    for _ in 0..seconds {
        cluster.advance(Span::seconds(1));
        worker.turn(Span(0)).unwrap();
    }
}

/// A worker of the first of the small stages, by a clock that is moved by hand.
fn started(partitions: i32, config: Config) -> (Simulated, Worker) {
    let cluster = Simulated::new(Settings {
        partitions,
        inboxes: vec![Topic::Metrics],
        time_source: TimeSource::Log,
        brokers: 1,
        now: Time(1_000_000),
        delivery: None,
    });
    let (log, stores) = cluster.connect("w");
    let clock = Rc::new(cluster.clone());
    let stages = toy::stages(1)[..1].to_vec();
    let mut worker = Worker::new(log, stores, clock, stages, config).unwrap();
    // The first brings what is assigned, the next opens it.
    for _ in 0..2 {
        worker.turn(Span(0)).unwrap();
    }
    (cluster, worker)
}

#[test]
fn something_urgent_waits_for_the_gap_alone_however_long_the_last_commit_took() {
    let config = Config {
        flush_gap: Span(5),
        flush_every: Span::seconds(3600),
        ..Config::default()
    };
    let (cluster, mut worker) = started(1, config);
    let told = |cluster: &Simulated| {
        let inbox = cluster.partitions(Topic::PlanInbox).next().unwrap();
        let written = cluster.written(inbox);
        written.iter().filter(|written| written.committed).count()
    };
    let speak = |worker: &mut Worker| {
        cluster.append(Topic::Metrics, b"n1", b"n1 hello", Time(0));
        worker.turn(Span(0)).unwrap();
    };
    cluster.advance(Span(5));
    speak(&mut worker);
    cluster.advance(Span(5));
    let begun = cluster.operations().len();
    speak(&mut worker);
    let asked = &cluster.operations()[begun..];
    let commit = asked.iter().position(|asked| *asked == Operation::Commit);
    assert_eq!(told(&cluster), 2);

    // The same once more, and its commit takes long.
    cluster.advance(Span(5));
    let meanwhile = cluster.clone();
    cluster.on_stall(move || meanwhile.advance(Span(400)));
    let next = cluster.operations().len();
    cluster.strike([(next + commit.unwrap(), Fault::Stall)]);
    speak(&mut worker);
    assert_eq!((told(&cluster), cluster.now()), (3, Time(1_000_415)));
    speak(&mut worker);
    assert_eq!(told(&cluster), 3, "within the gap the next one waits");
    cluster.advance(Span(5));
    worker.turn(Span(0)).unwrap();
    assert_eq!(told(&cluster), 4, "after it the next one is told");
}

#[test]
fn all_partitions_together_hold_so_many_changed_rows_in_memory() {
    let apply_rows = 100;
    let config = Config {
        apply_rows,
        apply_records: usize::MAX,
        apply_every: Span::seconds(3600),
        ..Config::default()
    };
    let (cluster, mut worker) = started(8, config);
    let nodes = 200;
    for node in 0..nodes {
        let name = format!("n{node}");
        let value = format!("{name} hello");
        cluster.append(Topic::Metrics, name.as_bytes(), value.as_bytes(), Time(0));
    }
    cluster.advance(Span::seconds(1));
    // Who is idle writes rows without being made to: a single turn is not.
    let turn = worker.turn(Span(0)).unwrap();
    assert_eq!(turn.folded, nodes, "one turn, one commit");
    let written = cluster.copy_disk("w").rows("count", 1).len();
    let in_memory = nodes - written;
    assert!(in_memory < apply_rows, "{in_memory} rows are in memory");
}

#[test]
fn a_quiet_partition_gets_a_tick_every_five_seconds_while_an_alarm_stands() {
    let (cluster, mut worker) = lone_worker();
    let metrics = first(Topic::Metrics);
    live(&cluster, &mut worker, 20);
    assert_eq!(cluster.end(metrics), 0, "no alarm, no tick");
    cluster.append(Topic::Metrics, b"n1", b"n1 hello", Time(0));
    live(&cluster, &mut worker, 21);
    let ticks = cluster.written(metrics).into_iter().skip(1);
    let ticks: Vec<i64> = ticks.map(|w| (w.record.time.0 - START.0) / 1000).collect();
    assert_eq!(
        ticks,
        [26, 32, 38],
        "5 s after the turn that brought the record before"
    );
    live(&cluster, &mut worker, 30);
    let events = cluster.written(first(Topic::PlanInbox));
    assert!(
        events
            .iter()
            .any(|w| w.record.value.starts_with(b"n1 silent"))
    );
    let ended = cluster.end(metrics);
    live(&cluster, &mut worker, 20);
    assert_eq!(
        cluster.end(metrics),
        ended,
        "it fell silent: no alarm, no tick"
    );
}

#[test]
fn alarms_that_had_to_stay_bring_a_tick_at_once() {
    let (cluster, mut worker) = lone_worker();
    cluster.append(Topic::Metrics, b"n1", b"n1 burst", Time(0));
    for _ in 0..20 {
        cluster.advance(Span(200));
        worker.turn(Span(0)).unwrap();
    }
    let events = cluster.written(first(Topic::Events));
    let spilt = |w: &&Written| w.record.value.windows(5).any(|word| word == b"spilt");
    assert_eq!(events.iter().filter(spilt).count(), 300);
    let times: BTreeSet<i64> = events.iter().map(|w| w.record.time.0).collect();
    assert!(times.len() > 1, "not all of one record");
}

#[test]
fn commits_that_always_fail_end_in_a_stop() {
    let (cluster, mut worker) = lone_worker();
    cluster.append(Topic::Metrics, b"n1", b"n1 hello", Time(0));
    cluster.refuse_commits(true);
    let stop = (0..200).find_map(|_| {
        cluster.advance(Span(200));
        worker.turn(Span(0)).err()
    });
    assert!(
        matches!(stop, Some(Stop::Commit { failures: 21, .. })),
        "{stop:?}"
    );
}

/// A world of one worker that has folded a few records and was ended in order, ready to be spoilt.
fn ended() -> World {
    let (plot, script) = (plain_plot(), toy::script(&mut Seed(5), 30, false));
    let mut world = run(plot, script).unwrap();
    world.finish().unwrap();
    world
}

fn plain_plot() -> Plot {
    Plot {
        seed: 5,
        stages: toy::stages(1),
        config: Config::default(),
        partitions: 1,
        workers: 1,
        faults: Vec::new(),
        chaos: Chaos::default(),
    }
}

fn first(topic: Topic) -> TopicPartition {
    TopicPartition {
        topic,
        partition: 0,
    }
}

/// Starts the world again: it must stop, and say these words.
fn check_stop(mut world: World, words: &[&str]) {
    let stop = world.run(&mut Script::new(START, Vec::new())).unwrap_err();
    for word in words {
        assert!(stop.contains(word), "{stop:?} should contain {word:?}");
    }
}

#[test]
fn rows_ahead_of_the_log_are_a_stop_with_both_numbers() {
    let world = ended();
    let inbox = first(Topic::Metrics);
    let position = world.cluster.position(inbox).unwrap();
    let (state, committed) = (position.next, position.next - 3);
    let earlier = Position {
        next: committed,
        ..position
    };
    world.cluster.set_position(inbox, Some(earlier));
    let (state, committed) = (state.to_string(), committed.to_string());
    check_stop(world, &["metrics/0", &state, &committed]);
}

#[test]
fn rows_without_a_committed_position_are_a_stop() {
    let world = ended();
    world.cluster.set_position(first(Topic::Metrics), None);
    check_stop(world, &["count", "no committed position of metrics/0"]);
}

#[test]
fn events_without_a_committed_position_are_a_stop() {
    let world = ended();
    world.cluster.put_disk("worker-0", None);
    world.cluster.set_position(first(Topic::PlanInbox), None);
    check_stop(
        world,
        &[
            "decide",
            "no committed position of plan-inbox/0",
            "events/0 holds",
        ],
    );
}

#[test]
fn a_log_that_starts_after_the_rows_is_a_stop_with_both_numbers() {
    let mut world = ended();
    let copy = world.cluster.copy_disk("worker-0");
    world
        .run(&mut Script::new(
            START,
            toy::script(&mut Seed(6), 20, false),
        ))
        .unwrap();
    world.finish().unwrap();
    let inbox = first(Topic::Metrics);
    let start = world.cluster.position(inbox).unwrap().next - 1;
    world.cluster.trim(inbox, start);
    world.cluster.put_disk("worker-0", Some(&copy));
    check_stop(world, &["from offset", &start.to_string()]);
}

#[test]
fn a_log_that_ends_before_the_committed_position_is_a_stop() {
    let world = ended();
    let inbox = first(Topic::Metrics);
    world.cluster.cut(inbox, 7);
    let committed = world.cluster.position(inbox).unwrap().next.to_string();
    check_stop(world, &[&committed, "ends at 7"]);
}

#[test]
fn another_record_where_the_last_folded_one_stood_is_a_stop() {
    let world = ended();
    let inbox = first(Topic::Metrics);
    let last = world.cluster.position(inbox).unwrap().next - 1;
    world
        .cluster
        .tamper(inbox, last, |record| record.value.push(b'!'));
    check_stop(world, &["metrics/0", "SHA-256"]);
}

#[test]
fn an_unknown_event_is_a_stop() {
    let world = ended();
    world.cluster.put_disk("worker-0", None);
    let events = first(Topic::Events);
    world.cluster.tamper(events, 2, |record| {
        record.value = b"2 flew n1 @1 5 odd".to_vec()
    });
    check_stop(world, &["record 2 of events/0", "newer version"]);
}

#[test]
fn rows_of_another_encoding_are_thrown_away_and_built_anew() {
    let before = ended();
    let mut plot = plain_plot();
    let rows = before.cluster.copy_disk("worker-0");
    plot.stages = toy::stages(2);
    let mut after = World::on(before.cluster.clone(), plot.clone());
    let more = toy::script(&mut Seed(7), 20, false);
    after.run(&mut Script::new(START, more)).unwrap();
    after.finish().unwrap();
    check::recorded(&after.cluster, &plot.stages, &plot.config).unwrap();
    assert_ne!(rows, after.cluster.copy_disk("worker-0"));
}

/// Whatever the way, the rows at its end are the same: those of a run without faults.
#[test]
fn a_lost_disk_is_built_anew_to_the_same_rows() {
    let mut world = ended();
    let rows = world.cluster.copy_disk("worker-0");
    world.cluster.put_disk("worker-0", None);
    let more = toy::script(&mut Seed(7), 20, false);
    world.run(&mut Script::new(START, more.clone())).unwrap();
    world.finish().unwrap();
    let mut other = ended();
    assert_eq!(other.cluster.copy_disk("worker-0"), rows);
    other.run(&mut Script::new(START, more)).unwrap();
    other.finish().unwrap();
    check::recorded(&world.cluster, &plain_plot().stages, &plain_plot().config).unwrap();
    let nodes = |world: &World| world.cluster.copy_disk("worker-0").rows("count", 1);
    assert_eq!(nodes(&world), nodes(&other));
}

const START: Time = Time(1_767_225_600_000);

/// Crash points that a run of the tests visits at least; with those of the real loop 100,000.
const POINTS: usize = 80_000;

const CHANCE_SEEDS: u64 = 2000;
