//! Who reads a log sees what its writer saw: a replay that starts in the middle, one of a log that
//! moves, where nodes stand now, stories gathered piece by piece.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use homeostat::knowledge::explain::{Gather, explain};
use homeostat::model::*;
use homeostat::runtime::simulated::{DiskCopy, Simulated};
use homeostat::runtime::{
    Chunk, InMemory, KeyValue, LogError, Mark, Position, Recorded, RowsCopy, Source, Store, Stores,
    Task, TimeSource, Title, TopicPartition, only, partitions_of,
};
use homeostat::sim::retell::{RetellError, Subject};
use homeostat::sim::scenario::{first_difference, tell};
use homeostat::sim::{Chaos, Codec, Fleet, FleetPlan, Plot, Surroundings, Trouble, World};
use homeostat::stream::{Base, Fold, NoBase, Topic};
use homeostat::topology::analyze::{AnalyzeFold, ENCODING, ENGINE};
use homeostat::topology::now::{Asked, NodeNow, Now, StageRows, known, nodes};
use homeostat::topology::plan::PlanFold;
use homeostat::topology::replay::{Report, replay_log, replay_log_events};
use homeostat::topology::stages;
use homeostat::topology::straight::Straight;
use homeostat::topology::what_if::{Question, what_if};
use homeostat::wire;

mod life;
mod records;

use life::{Extent, Life, Line};
use records::*;

const EXTENT: Extent = Extent {
    nodes: 6,
    moments: 40,
    more: 36,
};

fn title() -> Title {
    Title {
        log_id: "life".to_owned(),
        prefix: "homeostat.".to_owned(),
        time_source: TimeSource::Log,
        partitions: 1,
    }
}

fn lived(seed: u64) -> Recorded {
    Life::new(seed, EXTENT).live().0.recorded
}

/// A life with all its moments.
fn lived_through(seed: u64) -> (Recorded, Vec<Moment>) {
    let (straight, told) = Life::new(seed, EXTENT).live();
    let moments = moments(&straight.recorded, &told);
    (straight.recorded, moments)
}

fn judged(source: &mut dyn Source) -> Report {
    replay_log(source, &mut |_| {}).unwrap()
}

/// Analyze's rows, and where it had spoken to, once it has folded `metrics` up to an offset.
fn copy_at(recorded: &Recorded, next: i64) -> (RowsCopy, BTreeMap<Vec<u8>, Vec<u8>>) {
    let base: Rc<dyn Base> = Rc::new(NoBase);
    let inbox = only(Topic::Metrics);
    let fold = Box::new(AnalyzeFold::new(&base));
    let mut task = Task::new(inbox, "homeostat.", TimeSource::Log, fold, None);
    let mut said = Vec::new();
    let records = recorded[&inbox].iter();
    for record in records.take_while(|record| record.offset < next) {
        task.fold(record, &mut said);
    }
    let words = said
        .iter()
        .filter(|output| output.topic == Topic::PlanInbox)
        .count();
    let mut spoken = recorded[&only(Topic::PlanInbox)]
        .iter()
        .filter(|record| is_analyzes(&record.value));
    let plan_inbox_end = match words {
        0 => 0,
        words => spoken.nth(words - 1).unwrap().offset + 1,
    };
    let copy = RowsCopy {
        id: next,
        stage: "analyze".to_owned(),
        encoding: ENCODING,
        engine: ENGINE.to_owned(),
        partition: 0,
        position: task.position().unwrap(),
        plan_inbox_end,
    };
    let rows = task.fold_mut().drain();
    let rows = rows.into_iter().filter_map(|(key, row)| Some((key, row?)));
    (copy, rows.collect())
}

fn is_analyzes(value: &[u8]) -> bool {
    matches!(
        wire::decode_plan(value),
        Ok(PlanRecord::Assessment(_) | PlanRecord::Outcome(_) | PlanRecord::LoopBlind(_))
    )
}

/// A log whose inboxes begin in the middle, with a copy from there.
fn trimmed(recorded: &Recorded) -> (InMemory, RowsCopy) {
    let half = recorded[&only(Topic::Metrics)].len() as i64 / 2;
    let (copy, rows) = copy_at(recorded, half.max(1));
    let source = InMemory::new(title(), recorded.clone())
        .trimmed(only(Topic::Metrics), copy.position.next)
        .trimmed(only(Topic::PlanInbox), copy.plan_inbox_end)
        .with_copy(copy.clone(), rows);
    (source, copy)
}

#[test]
fn a_replay_starts_from_a_copy_and_from_evolved_events() {
    let (mut judged_some, mut compared) = (0, 0);
    for seed in 0..60 {
        let recorded = lived(seed);
        let whole = judged(&mut InMemory::new(title(), recorded.clone()));
        assert_eq!((whole.differences, whole.not_judged), (0, 0), "seed {seed}");
        let (mut source, copy) = trimmed(&recorded);
        let part = judged(&mut source);
        assert_eq!(part.first_difference, None, "seed {seed}");
        let metrics = recorded[&only(Topic::Metrics)].len() as i64;
        let inbox = recorded[&only(Topic::PlanInbox)].len() as i64;
        let folded = metrics - copy.position.next + inbox - copy.plan_inbox_end;
        assert_eq!(part.records, folded as u64, "seed {seed}");
        // What is judged now and what is not any more is all there was, but for words that were
        // trimmed.
        assert!(
            part.decisions + part.not_judged <= whole.decisions,
            "seed {seed}"
        );
        judged_some += u64::from(part.decisions > 0 && part.not_judged > 0);
        compared += part.decisions;
    }
    assert!(
        judged_some > 40 && compared > 500,
        "{judged_some} {compared}"
    );
}

#[test]
fn what_differs_behind_a_copy_is_found_and_so_are_wrong_rows() {
    let mut found = (0, 0, 0);
    for seed in 0..20 {
        let recorded = lived(seed);
        let (source, copy) = trimmed(&recorded);
        let mut changed = source.records().clone();
        let words = changed.get_mut(&only(Topic::PlanInbox)).unwrap();
        if let Some(at) = words.iter().position(|word| is_analyzes(&word.value)) {
            words.remove(at);
            let (_, rows) = copy_at(&recorded, copy.position.next);
            let mut source = InMemory::new(title(), changed)
                .trimmed(only(Topic::Metrics), copy.position.next)
                .trimmed(only(Topic::PlanInbox), copy.plan_inbox_end)
                .with_copy(copy.clone(), rows);
            assert!(judged(&mut source).differences > 0, "seed {seed}");
            found.0 += 1;
        }
        // Rows of another moment than they say.
        if copy.position.next > 10 {
            let (_, rows) = copy_at(&recorded, copy.position.next / 3);
            let mut source = InMemory::new(title(), source.records().clone())
                .trimmed(only(Topic::Metrics), copy.position.next)
                .trimmed(only(Topic::PlanInbox), copy.plan_inbox_end)
                .with_copy(copy.clone(), rows);
            found.1 += u64::from(judged(&mut source).differences > 0);
        }
        // Neither start nor copy: Plan alone is judged, and what is not is counted.
        let mut source = InMemory::new(title(), source.records().clone())
            .trimmed(only(Topic::Metrics), copy.position.next)
            .trimmed(only(Topic::PlanInbox), copy.plan_inbox_end);
        let report = judged(&mut source);
        assert_eq!(report.first_difference, None, "seed {seed}");
        found.2 += report.not_judged;
    }
    assert!(found.0 > 10 && found.1 > 10 && found.2 > 100, "{found:?}");
}

#[test]
fn copies_that_do_not_fit_are_passed_over() {
    let recorded = lived(5);
    let (source, copy) = trimmed(&recorded);
    let base = InMemory::new(title(), source.records().clone())
        .trimmed(only(Topic::Metrics), copy.position.next)
        .trimmed(only(Topic::PlanInbox), copy.plan_inbox_end);
    let without = judged(&mut base.clone());
    let (later, later_rows) = copy_at(&recorded, copy.position.next + 3);
    let unfit = [
        RowsCopy {
            encoding: ENCODING + 1,
            ..later.clone()
        },
        RowsCopy {
            position: Position {
                next: copy.position.next - 1,
                ..copy.position
            },
            ..copy.clone()
        },
        RowsCopy {
            plan_inbox_end: copy.plan_inbox_end - 1,
            ..copy.clone()
        },
        RowsCopy {
            partition: 1,
            ..copy.clone()
        },
    ];
    for unfit in unfit {
        let mut source = base.clone().with_copy(unfit.clone(), BTreeMap::new());
        assert_eq!(judged(&mut source), without, "{unfit:?}");
        let mut source = source.with_copy(later.clone(), later_rows.clone());
        let report = judged(&mut source);
        assert_eq!(report.differences, 0, "{unfit:?}");
        let folded = recorded[&only(Topic::Metrics)].len() as i64 - later.position.next;
        assert!(report.records >= without.records + folded as u64);
    }
}

#[test]
fn directives_older_than_their_topic_are_not_judged() {
    let mut left_out = 0;
    for seed in 0..40 {
        let recorded = lived(seed);
        let Some(directives) = recorded.get(&only(Topic::Directives)) else {
            continue;
        };
        let half = directives.len() as i64 / 2;
        let source = InMemory::new(title(), recorded.clone());
        let report = judged(&mut source.trimmed(only(Topic::Directives), half));
        assert_eq!(report.first_difference, None, "seed {seed}");
        assert_eq!(report.not_judged, half as u64, "seed {seed}");
        left_out += half;
        // One that is missing behind the start is found.
        let mut changed = recorded.clone();
        changed
            .get_mut(&only(Topic::Directives))
            .unwrap()
            .remove(directives.len() - 1);
        let mut source = InMemory::new(title(), changed).trimmed(only(Topic::Directives), half);
        if half < directives.len() as i64 - 1 {
            assert_eq!(judged(&mut source).differences, 1, "seed {seed}");
        }
    }
    assert!(left_out > 50, "{left_out}");
}

/// A log that a loop writes while it is read: more of it shows with every question.
struct Growing {
    log: InMemory,
    /// How many of all records show, by partition.
    shown: BTreeMap<TopicPartition, i64>,
    /// Moments of the life, as the ends of all topics and the positions at them.
    moments: Vec<Moment>,
    now: usize,
    asked: usize,
    /// So many questions later the next moment shows.
    pace: usize,
}

#[derive(Clone)]
struct Moment {
    ends: BTreeMap<TopicPartition, i64>,
    positions: BTreeMap<TopicPartition, Position>,
}

impl Growing {
    fn tick(&mut self) {
        self.asked += 1;
        if self.asked.is_multiple_of(self.pace) && self.now + 1 < self.moments.len() {
            self.now += 1;
        }
        self.shown = self.moments[self.now].ends.clone();
    }
}

impl Source for Growing {
    fn title(&mut self) -> Result<Title, LogError> {
        self.log.title()
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.tick();
        self.log.start(of)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.tick();
        Ok(self.shown.get(&of).copied().unwrap_or(0))
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        self.tick();
        Ok(self.moments[self.now].positions.get(&inbox).copied())
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        self.tick();
        let end = self.shown.get(&of).copied().unwrap_or(0);
        assert!(to <= end, "{of} is read to {to} and shows to {end}");
        self.log.read(of, from, to, records_max.min(7))
    }

    fn copies(&mut self, stage: &str) -> Result<Vec<RowsCopy>, LogError> {
        self.log.copies(stage)
    }

    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        after: &[u8],
        rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError> {
        self.log.copied_rows(copy, after, rows_max)
    }
}

/// The moments of a life: after each record of an inbox is folded and what it caused is committed.
/// Between the two the record itself shows already.
fn moments(recorded: &Recorded, told: &[Line]) -> Vec<Moment> {
    let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let mut positions = BTreeMap::new();
    let mut moments = vec![Moment {
        ends: ends.clone(),
        positions: positions.clone(),
    }];
    let base: Rc<dyn Base> = Rc::new(NoBase);
    let (metrics, plan_inbox) = (only(Topic::Metrics), only(Topic::PlanInbox));
    let folds: [(TopicPartition, Box<dyn Fold>); 2] = [
        (metrics, Box::new(AnalyzeFold::new(&base))),
        (plan_inbox, Box::new(PlanFold::new(0, &base))),
    ];
    let mut tasks = BTreeMap::from(folds.map(|(inbox, fold)| {
        let task = Task::new(inbox, "homeostat.", TimeSource::Log, fold, None);
        (inbox, task)
    }));
    // From outside in the order in which it came: Ticks up to a moment, then what was told; what
    // follows from each at once.
    let mut told = told.iter().map(|(gap, topic, _, _)| (*gap, only(*topic)));
    let mut told_next = told.next();
    let mut time = Time(records::START);
    let tick = |of: TopicPartition, ends: &BTreeMap<TopicPartition, i64>| {
        let at = ends.get(&of).copied().unwrap_or(0);
        let record = recorded[&of].get(at as usize)?;
        record.value.is_empty().then_some((record.time, of))
    };
    // The log was opened before anything was told.
    let mut opening = Some(plan_inbox);
    loop {
        let due = told_next.map(|(gap, _)| time + gap);
        let ticks = [tick(metrics, &ends), tick(plan_inbox, &ends)];
        let first = ticks.into_iter().flatten().min();
        let of = match (opening.take(), first) {
            (Some(of), _) => of,
            (None, Some((at, of))) if due.is_none_or(|due| at <= due) => of,
            (None, _) => {
                let Some((gap, of)) = told_next else { break };
                time = time + gap;
                told_next = told.next();
                of
            }
        };
        *ends.entry(of).or_default() += 1;
        let mut waiting = true;
        while waiting {
            waiting = false;
            for inbox in [metrics, plan_inbox] {
                let task = tasks.get_mut(&inbox).unwrap();
                let next = task.position().map_or(0, |position| position.next);
                if next >= ends.get(&inbox).copied().unwrap_or(0) {
                    continue;
                }
                moments.push(Moment {
                    ends: ends.clone(),
                    positions: positions.clone(),
                });
                let mut left = Vec::new();
                task.fold(&recorded[&inbox][next as usize], &mut left);
                for output in left {
                    *ends.entry(only(output.topic)).or_default() += 1;
                }
                positions.insert(inbox, task.position().unwrap());
                moments.push(Moment {
                    ends: ends.clone(),
                    positions: positions.clone(),
                });
                waiting = true;
            }
        }
    }
    for (of, records) in recorded {
        assert_eq!(ends.get(of), Some(&(records.len() as i64)), "{of}");
    }
    moments
}

#[test]
fn a_log_that_moves_while_it_is_read_shows_no_difference() {
    let (mut folded_part, mut readings) = (0, 0);
    for seed in 0..12 {
        let (recorded, moments) = lived_through(seed);
        let whole = recorded[&only(Topic::Metrics)].len() + recorded[&only(Topic::PlanInbox)].len();
        for begin in (0..moments.len()).step_by(moments.len() / 12 + 1) {
            for pace in [1, 2, 5, usize::MAX] {
                let mut growing = Growing {
                    log: InMemory::new(title(), recorded.clone()),
                    shown: moments[begin].ends.clone(),
                    moments: moments.clone(),
                    now: begin,
                    asked: 0,
                    pace,
                };
                let report = judged(&mut growing);
                let place = format!("seed {seed}, moment {begin}, pace {pace}");
                assert_eq!(report.first_difference, None, "{place}");
                folded_part += u64::from((report.records as usize) < whole && report.records > 0);
                readings += 1;
            }
        }
    }
    assert!(folded_part > readings / 2, "{folded_part} of {readings}");
}

#[test]
fn what_the_loop_has_not_folded_yet_is_not_missed() {
    let (recorded, moments) = lived_through(7);
    let Moment { ends, positions } = &moments[moments.len() / 2];
    let mut records = recorded.clone();
    for (of, records) in &mut records {
        if !matches!(of.topic, Topic::Metrics) {
            let end = ends.get(of).copied().unwrap_or(0);
            records.retain(|record| record.offset < end);
        }
    }
    // `metrics` holds everything, the loop has folded a part.
    let mut source = InMemory::new(title(), records.clone());
    assert!(
        judged(&mut source).differences > 0,
        "nobody says how far it is folded"
    );
    for (inbox, position) in positions {
        source = source.with_position(*inbox, *position);
    }
    assert_eq!(judged(&mut source).first_difference, None);
    // A word that stands there already must have been said.
    let words = records.get_mut(&only(Topic::PlanInbox)).unwrap();
    let mut forged = words
        .iter()
        .rfind(|word| is_analyzes(&word.value))
        .unwrap()
        .clone();
    forged.offset = words.last().unwrap().offset + 1;
    words.push(forged);
    let mut source = InMemory::new(title(), records);
    for (inbox, position) in positions {
        source = source.with_position(*inbox, *position);
    }
    assert!(judged(&mut source).differences > 0);
}

#[test]
fn deciding_again_from_the_events_piece_by_piece_equals_the_whole() {
    for seed in 0..20 {
        let recorded = lived(seed);
        let events = &recorded[&only(Topic::Events)];
        let values: Vec<_> = events.iter().map(|record| record.value.clone()).collect();
        let whole = homeostat::topology::replay::replay_events(0, &values);
        let mut source = InMemory::new(title(), recorded.clone());
        assert_eq!(replay_log_events(&mut source, &mut |_| {}).unwrap(), whole);
        let mut changed = recorded.clone();
        changed.get_mut(&only(Topic::Events)).unwrap()[3].value[12] ^= 1;
        let mut source = InMemory::new(title(), changed);
        assert!(
            replay_log_events(&mut source, &mut |_| {})
                .unwrap()
                .differences
                > 0
        );
    }
}

/// A fleet whose worker's disk is copied while something is being decided.
struct Copied {
    fleet: Fleet,
    copy: Option<DiskCopy>,
}

impl Surroundings for Copied {
    fn step(&mut self, cluster: &Simulated) -> bool {
        let decided = cluster.end(only(Topic::Events)) > 50;
        if decided && self.copy.is_none() {
            self.copy = Some(cluster.copy_disk("worker-0"));
        }
        self.fleet.step(cluster)
    }
}

/// A fleet in trouble on the simulated log, whose rows on disk are those of half way.
fn fleet() -> (Simulated, Rc<dyn Stores>) {
    let config = homeostat::runtime::Config {
        apply_records: 10,
        ..homeostat::runtime::Config::default()
    };
    let mut world = World::new(Plot {
        seed: 3,
        stages: stages(),
        config,
        partitions: 1,
        workers: 1,
        faults: Vec::new(),
        chaos: Chaos::default(),
    });
    let opened = PlanRecord::LogOpened(LogOpened {
        log_id: "fleet".to_owned(),
        audit_name: "test.example/homeostat".to_owned(),
        partitions: 1,
        time_source: "log".to_owned(),
    });
    let start = world.cluster.now();
    world
        .cluster
        .append(Topic::PlanInbox, b"", &wire::encode_plan(&opened), start);
    let plan = FleetPlan {
        mesh: MeshId::parse("alpha").unwrap(),
        nodes: 12,
        interval: Span::seconds(30),
        lasts: Span::seconds(900),
        troubles: vec![(
            Span::seconds(200),
            Trouble::Link {
                from: 0,
                to: 1,
                latency_ms: 400.0,
                packet_loss: 60.0,
            },
        )],
        recovery: Span::seconds(30),
        twice: 0,
    };
    let codec = Codec {
        sample: wire::encode_sample,
        outcome: wire::encode_outcome,
        directive: |bytes| wire::decode_directive(bytes).ok(),
    };
    let mut copied = Copied {
        fleet: Fleet::new(plan, codec, 3),
        copy: None,
    };
    world.run(&mut copied).unwrap();
    let cluster = world.cluster.clone();
    drop(world);
    cluster.put_disk("worker-0", copied.copy.as_ref());
    let stores = cluster.connect("worker-0").1;
    (cluster, stores)
}

fn source_of(cluster: &Simulated) -> InMemory {
    let recorded = Topic::ALL
        .into_iter()
        .flat_map(|topic| partitions_of(topic, 1))
        .map(|of| {
            let written = cluster.written(of).into_iter();
            (of, written.map(|written| written.record).collect())
        })
        .collect();
    InMemory::new(title(), recorded)
}

/// Where the nodes stand by evolving every event.
fn evolved(source: &InMemory, time: Time) -> Vec<NodeNow> {
    let base: Rc<dyn Base> = Rc::new(NoBase);
    let mut plan = PlanFold::new(0, &base);
    for record in &source.records()[&only(Topic::Events)] {
        plan.apply(&wire::decode_event(&record.value).unwrap());
    }
    known(plan.ledger(), time, &Asked::default())
}

#[test]
fn where_nodes_stand_now_is_rows_and_the_tail_of_events() {
    let (cluster, stores) = fleet();
    let mut source = source_of(&cluster);
    let (plan, analyze) = (
        stores.open("plan", 0).unwrap(),
        stores.open("analyze", 0).unwrap(),
    );
    let events = source.end(only(Topic::Events)).unwrap();
    let mark = Mark::decode(&plan.get(Mark::KEY).unwrap().unwrap()).unwrap();
    assert!(
        mark.evolved > 0 && mark.evolved < events,
        "{mark:?} {events}"
    );
    let rows = StageRows::only(plan.clone(), analyze.clone());
    let now = nodes(&rows, &mut source, &Asked::default()).unwrap();
    let mut told = evolved(&source, now[0].time);
    assert_eq!(now.len(), 12);
    let mut heard = 0;
    for (now, told) in now.iter().zip(&mut told) {
        heard += u64::from(now.last_seen > told.last_seen);
        told.last_seen = now.last_seen;
        told.phi = now.phi;
        assert_eq!(now, told);
    }
    assert!(
        heard > 6,
        "Analyze heard later than an event was worth: {heard}"
    );
    // Without rows that can be read all of the events are evolved.
    let nothing = cluster.connect("nobody").1;
    let (none, nor) = (
        nothing.open("plan", 0).unwrap(),
        nothing.open("analyze", 0).unwrap(),
    );
    let nothing = StageRows::only(none, nor);
    let again = nodes(&nothing, &mut source, &Asked::default()).unwrap();
    assert_eq!(again, evolved(&source, again[0].time));
    asked_for(&plan, &analyze, &mut source, &now);
}

fn asked_for(
    plan: &Rc<dyn Store>,
    analyze: &Rc<dyn Store>,
    source: &mut InMemory,
    all: &[NodeNow],
) {
    let rows = StageRows::only(plan.clone(), analyze.clone());
    let now = Now::read(0, plan, &rows, source).unwrap();
    let names = |asked: Asked| -> Vec<String> {
        let nodes = now.nodes(&asked).unwrap();
        nodes.iter().map(|node| node.key.to_string()).collect()
    };
    let every: Vec<String> = all.iter().map(|node| node.key.to_string()).collect();
    assert_eq!(names(Asked::default()), every);
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = now
            .nodes(&Asked {
                after: after.clone(),
                limit: 5,
                ..Asked::default()
            })
            .unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 5);
        after = Some(last.key.clone());
        paged.extend(page.iter().map(|node| node.key.to_string()));
    }
    assert_eq!(paged, every);
    let (alpha, beta) = (MeshId::parse("alpha"), MeshId::parse("beta"));
    let node = Some(all[3].key.node.clone());
    for (mesh, node, expected) in [
        (alpha.clone(), None, &every[..]),
        (beta.clone(), None, &[]),
        (None, node.clone(), &every[3..4]),
        (alpha, node.clone(), &every[3..4]),
        (beta, node, &[]),
        (None, NodeId::parse("nobody"), &[]),
    ] {
        let asked = Asked {
            mesh,
            node,
            ..Asked::default()
        };
        assert_eq!(names(asked), expected);
    }
    let none = Asked {
        limit: 0,
        ..Asked::default()
    };
    assert!(names(none).is_empty());
}

/// Rows that a worker writes between any two reads.
struct Written(Rc<dyn Store>, std::cell::Cell<i64>);

impl Store for Written {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, homeostat::runtime::StoreError> {
        let row = self.0.get(key)?;
        if key != Mark::KEY {
            return Ok(row);
        }
        let mut mark = Mark::decode(&row.unwrap()).unwrap();
        self.1.set(self.1.get() + 1);
        mark.evolved += self.1.get();
        // The first byte says how a mark is written.
        let mut bytes = self.0.get(key)?.unwrap()[..1].to_vec();
        bytes.extend(postcard::to_allocvec(&mark).unwrap());
        Ok(Some(bytes))
    }

    fn next(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<KeyValue>, homeostat::runtime::StoreError> {
        self.0.next(from, to)
    }

    fn write(&self, _: homeostat::runtime::Rows) -> Result<(), homeostat::runtime::StoreError> {
        unreachable!("readers write nothing")
    }

    fn clear(&self) -> Result<(), homeostat::runtime::StoreError> {
        unreachable!("readers clear nothing")
    }
}

#[test]
fn rows_that_never_stand_still_are_answered_as_they_stand() {
    let (cluster, stores) = fleet();
    let mut source = source_of(&cluster);
    let (plan, analyze) = (
        stores.open("plan", 0).unwrap(),
        stores.open("analyze", 0).unwrap(),
    );
    let moving: Rc<dyn Store> = Rc::new(Written(plan, Default::default()));
    let rows = StageRows::only(moving, analyze);
    let now = nodes(&rows, &mut source, &Asked::default()).unwrap();
    assert_eq!(now.len(), 12);
}

#[test]
fn a_story_gathered_piece_by_piece_is_the_story_of_the_whole_log() {
    let (mut stories, mut kept, mut all) = (0, 0, 0);
    for seed in 0..40 {
        let recorded = lived(seed);
        let events: Vec<Event> = recorded[&only(Topic::Events)]
            .iter()
            .map(|record| wire::decode_event(&record.value).unwrap())
            .collect();
        let ids: BTreeSet<&str> = events
            .iter()
            .filter_map(|event| match &event.body {
                Body::DirectiveIssued { directive } => Some(directive.id.as_str()),
                Body::DirectiveWithheld { id, .. } => Some(id),
                Body::IncidentOpened { incident_id, .. } => Some(incident_id),
                _ => None,
            })
            .collect();
        for id in ids {
            let subject = events.iter().find(|event| Gather::is_about(event, id));
            let mut gather = Gather::new(subject.unwrap().clone());
            events.iter().for_each(|event| gather.note(event));
            let gathered = gather.events();
            assert_eq!(
                explain(&gathered, id),
                explain(&events, id),
                "seed {seed}, {id}"
            );
            stories += 1;
            kept += gathered.len();
            all += events.len();
        }
    }
    assert!(stories > 200 && kept < all / 2, "{stories} {kept} of {all}");
}

/// Whatever happens in a life, each of its incidents becomes a story that comes out as it says.
#[test]
fn every_incident_can_be_told_again() {
    let (mut told, mut reported, mut held) = (0, 0, 0);
    for seed in 0..30 {
        let recorded = lived(seed);
        let events: Vec<Event> = recorded[&only(Topic::Events)]
            .iter()
            .map(|record| wire::decode_event(&record.value).unwrap())
            .collect();
        let mut source = InMemory::new(title(), recorded);
        for event in &events {
            let Body::IncidentOpened {
                incident_id, kind, ..
            } = &event.body
            else {
                continue;
            };
            let subject = Subject::find(&events, incident_id);
            if *kind == IncidentKind::Mass {
                assert!(matches!(subject, Err(RetellError::Mass(_))));
                continue;
            }
            let subject = subject.unwrap().expect("it bears the id");
            let story = subject.retell(&mut source).unwrap();
            let again = tell(&story.text, Some(&subject.policy)).unwrap();
            assert_eq!(first_difference(&story.text, &again), None, "seed {seed}");
            assert!(story.text.contains("every "), "seed {seed}: {}", story.text);
            told += 1;
            reported += usize::from(story.text.contains("\nreport "));
            held += usize::from(story.text.contains("\nhold "));
        }
    }
    assert!(
        told > 50 && reported > 5 && held > 5,
        "{told} {reported} {held}"
    );
}

/// The policy that a life began and stayed with decides the same again; what is asked since a
/// moment counts from there, with the holds that stood.
#[test]
fn the_same_policy_decides_the_same_and_holds_of_before_count() {
    let heal = |minutes: std::ops::Range<i64>, ill: bool| {
        minutes.flat_map(move |minute| (0..6).map(move |tick| (minute * 60 + tick * 10, ill)))
    };
    let mut straight = Straight::new("life", Time(START));
    let say = |straight: &mut Straight, s: i64, value: Vec<u8>, topic, key: &str| {
        straight.advance_to(Time(START + s * 1000));
        let left = straight.append(topic, key.as_bytes(), value);
        for event in Straight::events(&left) {
            if let Body::DirectiveIssued { directive } = event.body {
                let done = wire::encode_outcome(&Outcome::of(&directive, OutcomeResult::Applied));
                straight.append(Topic::Metrics, b"n0", done);
            }
        }
    };
    let mut told = 0;
    // Well, then held, then ill for long: nothing is ordered while the hold stands.
    for (s, ill) in heal(0..400, false).chain(heal(400..420, true)) {
        if s == 60 * 60 {
            let hold = PlanRecord::Hold(Hold {
                scope: HoldScope {
                    mesh: mesh("alpha"),
                    node: Some(node("n0")),
                },
                release: false,
                for_ms: None,
                by: "ops".into(),
                reason: String::new(),
            });
            let hold = wire::encode_plan(&hold);
            say(&mut straight, s, hold, Topic::PlanInbox, "alpha");
        }
        told += 1;
        let loss = if ill { 30.0 } else { 0.0 };
        let values = [
            (Metric::CpuPercent, 40.0),
            (Metric::LatencyMs, 60.0),
            (Metric::PacketLoss, loss),
        ];
        let taken = START + s * 1000;
        let sample = sample("alpha", "n0", told, taken, 10.0, metrics(&values));
        let sample = wire::encode_sample(&sample);
        say(&mut straight, s, sample, Topic::Metrics, "n0");
    }
    let mut source = InMemory::new(title(), straight.recorded.clone());
    let mut ask = |policy: &str, since_s: Option<i64>| {
        let question = Question {
            policy,
            since: since_s.map(|s| Time(START + s * 1000)),
            mesh: None,
        };
        what_if(&mut source, &question, &mut |_| {}).unwrap()
    };
    for since in [None, Some(390 * 60)] {
        let same = ask("", since);
        assert!(!same.differs(), "{same:?}");
        assert!(same.withheld[&Reason::Held].0 > 0, "{same:?}");
        assert_eq!(same.nodes_healed(), (0, 0));
    }
    assert!(ask("", Some(390 * 60)).records < ask("", None).records);
    assert!(ask("plan.mode = \"shadow\"", None).held_back().1 > 0);
}
