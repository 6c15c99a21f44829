//! Deciding again from the events alone, and from the inboxes, gives what the run gave. Over ten
//! thousand seeded lives of a small fleet with people and agents that say anything at any time.
//!
//! A failure names its seed; `HOMEOSTAT_SEED=<seed> cargo test --test replay` repeats that one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use homeostat::model::*;
use homeostat::runtime::{TimeSource, TopicPartition};
use homeostat::stream::Topic;
use homeostat::topology::replay::{Report, replay, replay_events};
use homeostat::topology::straight::Straight;

mod life;
mod records;

use life::{Extent, Life};
use records::mesh;

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
        Err(_) => (0..SEEDS).collect(),
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
