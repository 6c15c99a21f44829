//! The loop under every crash, and under chance. What stands in the log afterwards is what a
//! straight-line fold says, byte for byte.
//!
//! A failing run prints the command that repeats it.

mod toy;

use std::sync::atomic::{AtomicUsize, Ordering};

use homeostat::model::Time;
use homeostat::runtime::simulated::Fault;
use homeostat::runtime::{Outgoing, TimeSource, TopicPartition};
use homeostat::sim::{Chaos, Plot, Script, Seed, World, check};

/// A world of a few records, and those records.
fn small(seed: u64, faults: Vec<(usize, Fault)>) -> (Plot, Vec<toy::Line>) {
    let mut draw = Seed(seed);
    let mut config = toy::config(&mut draw);
    let by_sample = seed % 3 == 0;
    if by_sample {
        config.time_source = TimeSource::Sample;
    }
    let length = 8 + draw.below(16) as usize;
    let script = toy::script(&mut draw, length, seed % 50 == 0);
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
        check::from_seed(&world.cluster, &stages, &config, &generated, &toy::plain)?;
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
    let (next, points) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while points.load(Ordering::Relaxed) < POINTS {
            let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
            points.fetch_add(visit(seed), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let (seeds, points) = (next.into_inner(), points.into_inner());
    println!("{points} crash points of {seeds} seeds visited");
    assert!(points >= POINTS, "{points} crash points, expected {POINTS}");
}

#[test]
fn chance() {
    let seeds = wanted_seed().map_or(0..CHANCE_SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let (mut plot, _) = small(seed, Vec::new());
        plot.chaos = Chaos::ALL;
        plot.workers = 1 + (seed % 3) as usize;
        let script = toy::script(&mut Seed(seed ^ 0xFFFF), 80, seed % 4 == 0);
        if let Err(why) = run(plot, script) {
            panic!(
                "seed {seed}: {why}\n\
                 repeat: HOMEOSTAT_SEED={seed} cargo test --test crash -- chance"
            );
        }
    }
}

const START: Time = Time(1_767_225_600_000);

/// Crash points that a run of the tests visits at least.
const POINTS: usize = 100_000;

const CHANCE_SEEDS: u64 = 2000;
