//! Deciding again from the events alone, and from the inboxes, gives what the run gave. Over ten
//! thousand seeded lives of a small fleet with people and agents that say anything at any time.
//!
//! A failure names its seed; `HOMEOSTAT_SEED=<seed> cargo test --test replay` repeats that one.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use homeostat::model::*;
use homeostat::runtime::{TimeSource, TopicPartition};
use homeostat::sim::Seed;
use homeostat::stream::{Base, NoBase, Topic};
use homeostat::topology::plan::PlanFold;
use homeostat::topology::replay::{Report, replay, replay_events, sound};
use homeostat::topology::straight::Straight;

mod life;
mod records;

use life::{Extent, Life};
use records::{mesh, thorough};

const SEEDS: u64 = 10_000;

/// Long enough for healing, its outcome, and what comes after.
const EXTENT: Extent = Extent {
    nodes: 6,
    moments: 16,
    more: 36,
};

fn live(seed: u64) -> Straight {
    Life::new(seed, EXTENT).live().0
}

fn events_of(straight: &Straight) -> Vec<Vec<u8>> {
    let at = TopicPartition {
        topic: Topic::Events,
        partition: 0,
    };
    let records = straight.recorded.get(&at).map_or(&[][..], Vec::as_slice);
    records.iter().map(|record| record.value.clone()).collect()
}

fn seeds() -> Vec<u64> {
    match std::env::var("HOMEOSTAT_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) if thorough() => (0..SEEDS).collect(),
        Err(_) => (0..SEEDS / 20).collect(),
    }
}

/// Lives every seed and judges it; answers how many decisions were compared.
fn judge(seeds: Vec<u64>, judge: impl Fn(&Straight) -> Report + Sync) -> u64 {
    let (next, decisions) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = judge(&live(seed));
            let again = format!("repeat: HOMEOSTAT_SEED={seed} cargo test --test replay");
            let Report {
                differences,
                not_judged,
                first_difference,
                ..
            } = &report;
            assert_eq!(*differences, 0, "{again}\n{first_difference:#?}");
            assert_eq!(*not_judged, 0, "{again}");
            decisions.fetch_add(report.decisions, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    decisions.into_inner()
}

#[test]
fn deciding_again_from_the_events_alone_equals_the_run() {
    let count = seeds().len() as u64;
    let decisions = judge(seeds(), |straight| replay_events(0, &events_of(straight)));
    assert!(decisions >= 20 * count, "lives with decisions: {decisions}");
}

#[test]
fn folding_the_inboxes_again_equals_the_run() {
    let seeds = seeds().into_iter().step_by(20).collect();
    let decisions = judge(seeds, |straight| {
        replay(&straight.recorded, "homeostat.", TimeSource::Log)
    });
    assert!(decisions > 0, "lives with decisions");
}

/// A changed, a missing and an invented decision are each found, and where it stands: what was
/// decided before is not doubted, what was decided after may rest on it.
#[test]
fn what_was_not_decided_so_is_found() {
    let straight = live(3);
    let good = events_of(&straight);
    let changed = |change: &dyn Fn(&mut Event)| {
        let mut events = good.clone();
        let at = events.len() / 2;
        let mut event = homeostat::wire::decode_event(&events[at]).unwrap();
        change(&mut event);
        events[at] = homeostat::wire::encode_event(&event);
        replay_events(0, &events).differences
    };
    assert_eq!(changed(&|_| {}), 0);
    assert!(changed(&|event| event.seq += 1) > 0);
    assert!(changed(&|event| event.cause.offset += 1) > 0);
    assert!(changed(&|event| event.mesh = mesh("gamma")) > 0);
    // What one event says of itself and no other hangs on.
    for (i, bytes) in good.iter().enumerate() {
        let mut event = homeostat::wire::decode_event(bytes).unwrap();
        let told = match &mut event.body {
            Body::DirectiveIssued { directive } => {
                directive.incident_id = Some("another".into());
                true
            }
            Body::DirectiveWithheld { limit, .. } => {
                *limit = Some(-1);
                true
            }
            Body::IncidentOpened { nodes_ill, .. } => {
                *nodes_ill += 1;
                true
            }
            _ => false,
        };
        if told {
            let mut events = good.clone();
            events[i] = homeostat::wire::encode_event(&event);
            let first = replay_events(0, &events).first_difference.unwrap();
            let place = format!("mesh {:?} seq {}", event.mesh.as_str(), event.seq);
            assert_eq!(first.place, place, "event {i}");
        }
    }
    let mut policy_changed = straight.recorded.clone();
    let inbox = TopicPartition {
        topic: Topic::PlanInbox,
        partition: 0,
    };
    policy_changed.get_mut(&inbox).unwrap().remove(2);
    assert!(replay(&policy_changed, "homeostat.", TimeSource::Log).differences > 0);
}

/// Whatever someone made of a log, each mesh's seq dense again: it is judged, and what is sound can
/// be evolved.
#[test]
fn a_log_that_someone_rewrote_is_judged_and_stops_nothing() {
    let (mut differed, mut refused) = (0, 0);
    for seed in 0..300 {
        let good = events_of(&live(seed));
        let read = |bytes: &Vec<u8>| homeostat::wire::decode_event(bytes).unwrap();
        let mut events: Vec<Event> = good.iter().map(read).collect();
        let mut seed = Seed(seed);
        for _ in 0..1 + seed.below(4) {
            let (i, j) = (
                seed.below(events.len() as u64) as usize,
                seed.below(events.len() as u64) as usize,
            );
            match seed.below(7) {
                0 if events.len() > 1 => drop(events.remove(i)),
                1 => events.insert(i, events[j].clone()),
                2 => events.swap(i, j),
                3 => events[i].cause.offset = *seed.pick(&[0, i64::MAX]),
                4 => events[i].time = *seed.pick(&[Time(i64::MIN), Time(i64::MAX)]),
                5 => events[i].mesh = events[j].mesh.clone(),
                _ => events[i..].iter_mut().for_each(|event| {
                    event.cause.offset = event.cause.offset.saturating_sub(20);
                }),
            }
        }
        let mut next: BTreeMap<MeshId, i64> = BTreeMap::new();
        for event in &mut events {
            let seq = next.entry(event.mesh.clone()).or_default();
            event.seq = *seq;
            *seq += 1;
        }
        let events: Vec<_> = events.iter().map(homeostat::wire::encode_event).collect();
        differed += u64::from(replay_events(0, &events).differences > 0);
        match sound(&events) {
            Ok(events) => {
                let base: Rc<dyn Base> = Rc::new(NoBase);
                let mut plan = PlanFold::new(0, &base);
                events.iter().for_each(|event| plan.apply(event));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(differed >= 200 && refused >= 50, "{differed} {refused}");
}
