//! The real loop under every crash, and a fleet under chance. What stands in the log afterwards is
//! what a straight-line fold says, byte for byte, and what the loop's safety asks for.
//!
//! A failing run prints the command that repeats it.

mod life;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use homeostat::model::*;
use homeostat::runtime::simulated::{Fault, Operation, Simulated};
use homeostat::runtime::{
    Config, Outgoing, Record, Share, StageSpec, Task, TimeSource, TopicPartition,
};
use homeostat::sim::check::{self, EventFacts};
use homeostat::sim::{
    Chaos, Codec, Fleet, FleetPlan, Plot, Script, Seed, Surroundings, Trouble, World,
};
use homeostat::stream::{NoBase, Topic};
use homeostat::topology::replay::{Recorded, Report, replay, replay_events};
use homeostat::topology::stages;
use homeostat::wire;

use life::{Extent, LOG_ID, Life, Line};
use records::{START, mesh, thorough};

/// A short life, and a world to live it in.
struct Case {
    plot: Plot,
    /// What comes from outside; the world settles after each part.
    parts: Vec<Vec<Line>>,
}

/// The case of a seed. With the samples' own time its records come in parts of one inbox each, so
/// that the seed alone says how they interleave with what the loop writes.
fn case(seed: u64, faults: Vec<(usize, Fault)>) -> Case {
    let mut draw = Seed(seed);
    let by_sample = seed.is_multiple_of(3);
    let partitions = if by_sample {
        1
    } else {
        1 + draw.below(2) as i32
    };
    let config = Config {
        flush_records: 1 + draw.below(8) as usize,
        apply_records: 1 + draw.below(12) as usize,
        apply_every: NEVER,
        time_source: if by_sample {
            TimeSource::Sample
        } else {
            TimeSource::Log
        },
        ..Config::default()
    };
    let plot = Plot {
        seed,
        stages: stages(),
        config,
        partitions,
        workers: 1 + draw.below(2) as usize,
        faults,
        chaos: Chaos::default(),
    };
    let (_, said) = Life::new(seed, SHORT).live();
    let mut parts = vec![vec![opening(partitions)]];
    for line in said {
        let last = parts.last_mut().expect("the opening");
        if by_sample && last.last().is_some_and(|before| before.1 != line.1) {
            parts.push(vec![line]);
        } else {
            last.push(line);
        }
    }
    Case { plot, parts }
}

/// The first record of a log.
fn opening(partitions: i32) -> Line {
    let opened = PlanRecord::LogOpened(LogOpened {
        log_id: LOG_ID.to_owned(),
        audit_name: "crash.example/homeostat".to_owned(),
        partitions,
        time_source: "log".to_owned(),
    });
    let value = wire::encode_plan(&opened);
    (Span(0), Topic::PlanInbox, Vec::new(), value)
}

/// Runs a case and checks what it wrote; answers the cluster and what it was asked.
fn run(case: Case) -> Result<(Simulated, Vec<Operation>), String> {
    let plot = case.plot.clone();
    let Plot { stages, config, .. } = &plot;
    let mut world = World::new(case.plot);
    let (mut time, mut generated) = (Time(START), Vec::new());
    for part in case.parts {
        world.run(&mut Script::new(time, part.clone()))?;
        generated.push(outgoing(&mut time, part));
    }
    let cluster = world.cluster.clone();
    let asked = cluster.operations();
    check_log(&cluster, stages, config)?;
    // Every log and every way back is checked by these; the other judges take as long again.
    let thorough = plot.faults.iter().all(|(number, _)| number % 5 == 0);
    if thorough {
        check_replay(&cluster, config)?;
    }
    if config.time_source == TimeSource::Sample {
        check::from_seed(&cluster, stages, config, &generated, &plain)?;
    }
    if thorough && plot.partitions == 1 {
        drop(world);
        check_rows(&cluster, plot)?;
    }
    Ok((cluster, asked))
}

/// The records of a part as the seed alone knows them.
fn outgoing(time: &mut Time, part: Vec<Line>) -> Vec<Outgoing> {
    let outgoing = |(gap, topic, key, value)| {
        *time = *time + gap;
        Outgoing {
            to: first(topic),
            time: *time,
            key,
            value,
            headers: Vec::new(),
        }
    };
    part.into_iter().map(outgoing).collect()
}

fn first(topic: Topic) -> TopicPartition {
    TopicPartition {
        topic,
        partition: 0,
    }
}

/// What must hold of every log, however it came about.
fn check_log(cluster: &Simulated, stages: &[Rc<StageSpec>], config: &Config) -> Result<(), String> {
    check::recorded(cluster, stages, config)?;
    check::events(cluster, &facts)?;
    for of in cluster.partitions(Topic::Events) {
        check_safety(&records(cluster, of))?;
    }
    Ok(())
}

/// Deciding again, from the inboxes and from the events alone, gives what stands in the log.
fn check_replay(cluster: &Simulated, config: &Config) -> Result<(), String> {
    let of = Topic::ALL.into_iter();
    let recorded: Recorded = of
        .flat_map(|topic| cluster.partitions(topic))
        .map(|of| (of, records(cluster, of)))
        .collect();
    let found = |report: Report| match report.first_difference {
        Some(difference) => Err(format!("deciding again: {difference:#?}")),
        None => Ok(()),
    };
    found(replay(&recorded, &config.prefix, config.time_source))?;
    for of in cluster.partitions(Topic::Events) {
        let values: Vec<_> = recorded[&of].iter().map(|r| r.value.clone()).collect();
        found(replay_events(of.partition, &values))?;
    }
    Ok(())
}

fn records(cluster: &Simulated, of: TopicPartition) -> Vec<Record> {
    let written = cluster.written(of).into_iter();
    written.map(|written| written.record).collect()
}

/// What the checker asks of an event.
fn facts(value: &[u8]) -> Result<EventFacts, String> {
    let event = wire::decode_event(value).map_err(|reject| reject.to_string())?;
    let directive = match &event.body {
        Body::DirectiveIssued { directive } => Some(wire::json::directive(directive).into_bytes()),
        _ => None,
    };
    Ok(EventFacts {
        seq: event.seq,
        directive,
    })
}

/// Nothing is ordered of a node whose last assessment is history, or who is silent or two.
fn check_safety(events: &[Record]) -> Result<(), String> {
    let mut last: BTreeMap<(MeshId, NodeId), Assessment> = BTreeMap::new();
    for record in events {
        let event = wire::decode_event(&record.value).map_err(|reject| reject.to_string())?;
        if let Some(assessment) = event.body.assessment() {
            let key = (event.mesh.clone(), assessment.node.clone());
            last.insert(key, assessment.clone());
        }
        if let Body::DirectiveIssued { directive } = &event.body {
            let known = last.get(&(event.mesh.clone(), directive.node.clone()));
            if known.is_none_or(|a| a.stale || a.silent || a.conflict) {
                return Err(format!("{directive:?} was issued on {known:?}"));
            }
        }
    }
    Ok(())
}

/// A value without the offsets in it.
fn plain(topic: Topic, value: &[u8]) -> Vec<u8> {
    match topic {
        Topic::Events => {
            let mut event = wire::decode_event(value).expect("Plan writes events that it reads");
            event.cause.offset = 0;
            if let Body::DirectiveIssued { directive } = &mut event.body {
                directive.cause.offset = 0;
            }
            wire::encode_event(&event)
        }
        Topic::Directives => {
            let mut directive = wire::decode_directive(value).expect("a directive");
            directive.cause.offset = 0;
            wire::encode_directive(&directive)
        }
        _ => value.to_vec(),
    }
}

/// Whoever starts next on the first worker's disk finds the rows of a straight fold: every record
/// was folded once. Hints of alarms may differ: they are never late, and that is all.
fn check_rows(cluster: &Simulated, plot: Plot) -> Result<(), String> {
    let Plot { stages, config, .. } = &plot;
    cluster.throw_out("worker-1");
    let next = Plot {
        workers: 1,
        faults: Vec::new(),
        ..plot.clone()
    };
    let mut world = World::on(cluster.clone(), next);
    world.run(&mut Script::new(Time(START), Vec::new()))?;
    if world.finish().is_err() {
        // The fault struck here; a run in which it strikes earlier is another point.
        return Ok(());
    }
    let disk = cluster.copy_disk("worker-0");
    for (spec, tables) in stages.iter().zip([1..=2, 1..=6]) {
        let inbox = first(spec.inbox);
        let fold = (spec.open)(Share::WHOLE, Rc::new(NoBase));
        let mut task = Task::new(inbox, &config.prefix, config.time_source, fold, None);
        for record in records(cluster, inbox) {
            task.fold(&record, &mut Vec::new());
        }
        let rows = task.fold_mut().drain();
        for table in tables {
            let of_table = rows.iter().filter(|(key, _)| key[0] == table);
            let want: BTreeMap<_, _> = of_table
                .filter_map(|(key, row)| Some((key.clone(), row.clone()?)))
                .collect();
            let got: BTreeMap<_, _> = disk.rows(spec.name, table).into_iter().collect();
            if want != got {
                let (want, got) = (want.len(), got.len());
                return Err(format!(
                    "table {table} of {} differs: {got} rows, expected {want}",
                    spec.name
                ));
            }
        }
    }
    Ok(())
}

fn wanted_seed() -> Option<u64> {
    std::env::var("HOMEOSTAT_SEED").ok()?.parse().ok()
}

/// Names of the events that stand in the log.
fn told(cluster: &Simulated) -> BTreeSet<&'static str> {
    let of = cluster.partitions(Topic::Events);
    let records = of.flat_map(|of| records(cluster, of));
    let event = |record: Record| wire::decode_event(&record.value).expect("checked before");
    records.map(|record| event(record).body.name()).collect()
}

/// Visits every fault at every operation of a seed's run; answers how many, and what happened.
fn visit(seed: u64) -> (usize, BTreeSet<&'static str>) {
    let fail = |faults: &[(usize, Fault)], why: String| -> ! {
        panic!(
            "seed {seed}, faults {faults:?}: {why}\n\
             repeat: HOMEOSTAT_SEED={seed} cargo test --test crash_loop -- every_crash_point"
        )
    };
    let (clean, asked) = run(case(seed, Vec::new())).unwrap_or_else(|why| fail(&[], why));
    let mut points = 0;
    for (number, operation) in asked.into_iter().enumerate() {
        for &fault in operation.faults() {
            let faults = vec![(number, fault)];
            if let Err(why) = run(case(seed, faults.clone())) {
                fail(&faults, why);
            }
            points += 1;
        }
    }
    (points, told(&clean))
}

#[test]
fn every_crash_point() {
    if let Some(seed) = wanted_seed() {
        visit(seed);
        return;
    }
    let wanted = if thorough() { POINTS } else { POINTS / 20 };
    let (next, points) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seen = Mutex::new(BTreeMap::<_, usize>::new());
    let work = || {
        while points.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
            let (visited, told) = visit(seed);
            points.fetch_add(visited, Ordering::Relaxed);
            let mut seen = seen.lock().unwrap();
            told.into_iter()
                .for_each(|name| *seen.entry(name).or_default() += 1);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (seeds, points) = (next.into_inner(), points.into_inner());
    let seen = seen.into_inner().unwrap();
    println!("{points} crash points of {seeds} seeds visited; seeds with {seen:?}");
    assert!(points >= wanted, "{points} crash points, expected {wanted}");
    for name in ["DirectiveIssued", "DirectiveWithheld", "OutcomeReported"] {
        let seen = seen.get(name).copied().unwrap_or_default();
        assert!(seen * 5 > seeds, "{name} in {seen} of {seeds} seeds only");
    }
}

/// A fleet with the people around it.
struct Around {
    seed: Seed,
    fleet: Fleet,
    opened: bool,
    /// Up to which offset of `events` proposals were read, per partition.
    read: BTreeMap<TopicPartition, i64>,
    proposals: Vec<(NodeId, String)>,
}

impl Surroundings for Around {
    fn step(&mut self, cluster: &Simulated) -> bool {
        if !self.opened {
            self.opened = true;
            let (_, topic, key, value) = opening(cluster.partitions(Topic::Events).count() as i32);
            for to in cluster.partitions(topic) {
                cluster.append_to(to, &key, &value, cluster.now());
            }
        }
        let busy = self.fleet.step(cluster);
        if busy && self.seed.one_in(12) {
            self.someone_speaks(cluster);
        }
        busy
    }
}

impl Around {
    fn someone_speaks(&mut self, cluster: &Simulated) {
        for of in cluster.partitions(Topic::Events) {
            let from = self.read.entry(of).or_default();
            for written in cluster.written_from(of, *from) {
                *from = written.record.offset + 1;
                let event = wire::decode_event(&written.record.value).expect("an event");
                if let Body::DirectiveWithheld {
                    id,
                    node,
                    reason: Reason::NeedsApproval,
                    ..
                } = event.body
                {
                    self.proposals.push((node, id));
                }
            }
        }
        let alpha = mesh("alpha");
        let by = "ops".to_owned();
        let hold = |release| Hold {
            scope: HoldScope {
                mesh: alpha.clone(),
                node: None,
            },
            release,
            for_ms: (!release).then_some(20_000),
            by: by.clone(),
            reason: String::new(),
        };
        let policy = |text: &str| PolicyChange {
            mesh: alpha.clone(),
            text: text.to_owned(),
            by: by.clone(),
        };
        let record = match (self.seed.below(8), self.proposals.pop()) {
            (0..=4, Some((node, subject))) => PlanRecord::Approval(Approval {
                mesh: alpha.clone(),
                node,
                subject,
                approved: self.seed.below(4) > 0,
                by,
            }),
            (5, _) => PlanRecord::PolicyChange(policy("plan.cooldown_s = 30")),
            (6, _) => PlanRecord::Hold(hold(false)),
            _ => PlanRecord::Hold(hold(true)),
        };
        let value = wire::encode_plan(&record);
        cluster.append(Topic::PlanInbox, b"alpha", &value, cluster.now());
    }
}

/// A fleet with troubles, drawn.
fn fleet(draw: &mut Seed) -> Fleet {
    let nodes = 2 + draw.below(5) as usize;
    let mut troubles = Vec::new();
    for _ in 0..2 + draw.below(4) {
        let node = draw.below(nodes as u64) as usize;
        let trouble = match draw.below(6) {
            0 | 1 => Trouble::Link {
                from: node,
                to: (node + 1) % nodes,
                latency_ms: 900.0,
                packet_loss: 60.0,
            },
            2 | 3 => Trouble::Load {
                node,
                cpu_percent: 98.0,
                memory_percent: 97.0,
            },
            4 => Trouble::Offline {
                node,
                lasts: Span::seconds(60 + draw.below(60) as i64),
            },
            _ => Trouble::Twin { node },
        };
        troubles.push((Span::seconds(draw.below(90) as i64), trouble));
    }
    let plan = FleetPlan {
        mesh: mesh("alpha"),
        nodes,
        interval: Span::seconds(10),
        lasts: Span::seconds(240),
        troubles,
        recovery: Span::seconds(30),
        twice: 10,
    };
    let codec = Codec {
        sample: wire::encode_sample,
        outcome: wire::encode_outcome,
        directive: |value| wire::decode_directive(value).ok(),
    };
    Fleet::new(plan, codec, draw.draw())
}

/// Runs a fleet under chance; answers what happened.
fn run_fleet(seed: u64) -> Result<BTreeSet<&'static str>, String> {
    let mut draw = Seed(seed);
    let plot = Plot {
        seed,
        stages: stages(),
        config: Config {
            flush_records: 1 + draw.below(30) as usize,
            apply_records: 1 + draw.below(60) as usize,
            apply_every: NEVER,
            ..Config::default()
        },
        partitions: 1 + draw.below(3) as i32,
        workers: 1 + draw.below(3) as usize,
        faults: Vec::new(),
        chaos: if seed.is_multiple_of(8) {
            Chaos::default()
        } else {
            Chaos::ALL
        },
    };
    let mut around = Around {
        fleet: fleet(&mut draw),
        seed: draw.split(),
        opened: false,
        read: BTreeMap::new(),
        proposals: Vec::new(),
    };
    let (stages, config) = (plot.stages.clone(), plot.config.clone());
    let mut world = World::new(plot);
    world.run(&mut around)?;
    check_log(&world.cluster, &stages, &config)?;
    check_replay(&world.cluster, &config)?;
    Ok(told(&world.cluster))
}

#[test]
fn a_fleet_under_chance() {
    let fail = |seed, why| -> ! {
        panic!(
            "seed {seed}: {why}\n\
             repeat: HOMEOSTAT_SEED={seed} cargo test --test crash_loop -- a_fleet_under_chance"
        )
    };
    if let Some(seed) = wanted_seed() {
        run_fleet(seed).unwrap_or_else(|why| fail(seed, why));
        return;
    }
    let fleets = if thorough() { FLEETS } else { FLEETS / 10 };
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(BTreeMap::<_, usize>::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
            if seed >= fleets {
                return;
            }
            let told = run_fleet(seed).unwrap_or_else(|why| fail(seed, why));
            let mut seen = seen.lock().unwrap();
            told.into_iter()
                .for_each(|name| *seen.entry(name).or_default() += 1);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let seen = seen.into_inner().unwrap();
    println!("fleets with {seen:?}");
    for name in [
        "IdentityConflict",
        "DirectiveIssued",
        "DirectiveWithheld",
        "DirectiveExpired",
        "OutcomeReported",
        "ApprovalRecorded",
        "HoldReleased",
        "IncidentClosed",
        "LoopBlind",
        "NodeReturned",
    ] {
        assert!(seen.contains_key(name), "no fleet saw {name}: {seen:?}");
    }
}

/// Few nodes and moments: every operation of each life is visited with every fault.
const SHORT: Extent = Extent {
    nodes: 4,
    moments: 4,
    more: 7,
};

/// Crash points that a run of the tests visits at least.
const POINTS: usize = 20_000;

const FLEETS: u64 = 1000;

/// Rows are written by records alone: where a crash finds them is drawn, not timed.
const NEVER: Span = Span(i64::MAX / 4);
