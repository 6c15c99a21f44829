//! What the events so far add up to: incidents, and counts for `/metrics`. Kept up to date by one
//! reader of `events` and `dead-letters`, so that no request reads the log from its beginning.
//!
//! 1. It begins a week back, at most so many events: older incidents are in the log, not here. It
//!    waits with that until the loop has caught up: deciding comes first.
//! 2. Events that were there when the door opened make incidents; only what comes after is counted.
//! 3. Of incidents that closed, so many are remembered, the newest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::knowledge::views::Views;
use crate::model::{Body, Event, Policy, Span, Time};
use crate::runtime::{LogError, LogHandle, Record, TopicPartition, partitions_of};
use crate::stream::Topic;
use crate::wire;

use super::Door;
use super::answer::Refusal;
use super::health::Phase;
use super::server::stopped;

/// What the events so far add up to.
pub(super) struct Story {
    /// Per partition the offset of the next event to be read.
    seen: watch::Sender<Vec<i64>>,
    told: Mutex<Told>,
    /// Per partition of the events and of the dead letters: what was there when the door opened is
    /// not counted.
    counted_from: [Vec<i64>; 2],
}

#[derive(Default)]
struct Told {
    views: Views,
    counts: Counts,
    /// When orders were given whose outcome is not known, the newest ones.
    orders: BTreeMap<String, Time>,
}

/// How often something was since the door opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Events, by type.
    pub(super) events: BTreeMap<&'static str, u64>,
    /// What was withheld, by reason.
    pub(super) withheld: BTreeMap<&'static str, u64>,
    /// Orders, by kind.
    pub(super) directives: BTreeMap<&'static str, u64>,
    /// Outcomes, by result.
    pub(super) outcomes: BTreeMap<&'static str, u64>,
    /// Dead letters, by reason.
    pub(super) dead: BTreeMap<String, u64>,
}

impl Story {
    /// Before the first event.
    pub(super) fn new(log: &dyn LogHandle) -> Self {
        Story {
            seen: watch::Sender::new(Vec::new()),
            told: Mutex::default(),
            counted_from: [Topic::Events, Topic::DeadLetters].map(|topic| log.seen_ends(topic)),
        }
    }

    /// Shows the views.
    pub(super) fn show<T>(&self, show: impl FnOnce(&Views) -> T) -> T {
        show(&self.told().views)
    }

    /// The counts.
    pub(super) fn counts(&self) -> Counts {
        self.told().counts.clone()
    }

    /// Waits until every event that may be seen now is in the views.
    ///
    /// # Errors
    /// It takes too long.
    pub(super) async fn caught_up(&self, log: &dyn LogHandle) -> Result<(), Refusal> {
        let ends = log.seen_ends(Topic::Events);
        let mut seen = self.seen.subscribe();
        let caught_up = seen.wait_for(|seen| reach(seen, &ends));
        match timeout(CATCH_UP, caught_up).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "the events of the last days are still being read: ask again",
                2,
            )),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // A panic while noting an event leaves a view without it at worst.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Notes an event; of a first outcome it answers how long it came after its order.
    fn event(&mut self, event: &Event, counts: bool) -> Option<Span> {
        self.views.note(event);
        if !counts {
            return None;
        }
        let add = |counts: &mut BTreeMap<_, u64>, name| *counts.entry(name).or_default() += 1;
        add(&mut self.counts.events, event.body.name());
        match &event.body {
            Body::DirectiveIssued { directive } => {
                add(&mut self.counts.directives, directive.action.kind().name());
                if self.orders.len() >= ORDERS_MAX {
                    self.orders.clear();
                }
                self.orders.insert(directive.id.clone(), event.time);
            }
            Body::DirectiveWithheld { reason, .. } => {
                add(&mut self.counts.withheld, reason.name());
            }
            Body::OutcomeReported { outcome } => {
                add(&mut self.counts.outcomes, outcome.result.name());
                let ordered = self.orders.remove(&outcome.directive_id)?;
                return Some(event.time - ordered);
            }
            _ => {}
        }
        None
    }

    fn dead(&mut self, record: &Record) {
        let reason = record.headers.iter().find(|(name, _)| name == "reason");
        let reason = reason.map_or("unknown".into(), |(_, reason)| {
            String::from_utf8_lossy(reason).into_owned()
        });
        // Reasons are of a closed list; what others may have written there is one more.
        let known = self.counts.dead.contains_key(&reason);
        let reason = match known || self.counts.dead.len() < REASONS_MAX {
            true => reason,
            false => "other".to_owned(),
        };
        *self.counts.dead.entry(reason).or_default() += 1;
    }

    /// Forgets incidents that closed long ago, once too many are known.
    fn forget(&mut self) {
        let incidents = &mut self.views.incidents;
        if incidents.len() <= INCIDENTS_MAX + INCIDENTS_MAX / 8 {
            return;
        }
        let mut closed: Vec<_> = incidents.values().filter_map(|i| i.closed_at).collect();
        let surplus = (incidents.len() - INCIDENTS_MAX).min(closed.len());
        if surplus == 0 {
            return;
        }
        let (_, bound, _) = closed.select_nth_unstable(surplus - 1);
        let bound = *bound;
        incidents.retain(|_, incident| incident.closed_at.is_none_or(|at| at > bound));
    }
}

/// Reads events and dead letters as they come, until the door closes.
pub(super) async fn follow(door: Arc<Door>) {
    let mut stopping = door.stopping.subscribe();
    tokio::select! {
        () = read_on(&door) => {}
        () = stopped(&mut stopping) => {}
    }
}

async fn read_on(door: &Arc<Door>) {
    let small = door.log.seen_ends(Topic::Events).iter().sum::<i64>() < EVENTS_AT_ONCE;
    for _ in 0..PAUSES_BEFORE {
        if small || door.pulse.is_caught_up() {
            break;
        }
        sleep(PAUSE).await;
    }
    let mut moved = door.log.moved();
    let mut next: Option<Vec<i64>> = None;
    let mut dead = door.story.counted_from[1].clone();
    loop {
        moved.mark_unchanged();
        let (from, letters_from) = (next.clone(), dead.clone());
        let read = door
            .read(move |door| {
                let failed = |error| Refusal::failed("reading the log", &error);
                let from = match from {
                    Some(from) => from,
                    None => first(door).map_err(failed)?,
                };
                let from = events(door, from).map_err(failed)?;
                Ok((from, letters(door, letters_from).map_err(failed)?))
            })
            .await;
        match read {
            Ok((read, letters)) => {
                door.story.seen.send_replace(read.clone());
                let all = reach(&read, &door.log.seen_ends(Topic::Events))
                    && reach(&letters, &door.log.seen_ends(Topic::DeadLetters));
                (next, dead) = (Some(read), letters);
                if !all {
                    continue;
                }
            }
            // A log that failed ends the process, which is not the door's to do.
            Err(_) => sleep(PAUSE).await,
        }
        if moved.changed().await.is_err() {
            return;
        }
    }
}

/// Whether all partitions are read to these ends.
fn reach(read: &[i64], ends: &[i64]) -> bool {
    read.len() == ends.len() && read.iter().zip(ends).all(|(read, end)| read >= end)
}

/// Where to begin, in each partition.
fn first(door: &Door) -> Result<Vec<i64>, LogError> {
    let mut source = door.log.source()?;
    policies(door);
    let partitions = door.partitions();
    let most = EVENTS_MAX / i64::from(partitions);
    let begin = |of: TopicPartition| {
        let (start, end) = (source.start(of)?, source.end(of)?);
        let recent = source.offset_at(of, door.log.now() - KEPT)?;
        Ok(recent.max(end - most).max(start))
    };
    partitions_of(Topic::Events, partitions)
        .map(begin)
        .collect()
}

/// Lets the policies in force say how far ahead a sample may lie.
fn policies(door: &Door) {
    let allow = |text: &str| {
        if let Ok(policy) = Policy::parse(text) {
            door.allow_future(Span::seconds(policy.monitor.max_future_s));
        }
    };
    for ledger in super::nodes::ledgers(door) {
        if let Some(policy) = &ledger.partition().policy {
            allow(&policy.text);
        }
        let mut mesh = crate::model::MeshId::none();
        for _ in 0..MESHES_MAX {
            let Some((next, row)) = ledger.meshes.next(&mesh) else {
                break;
            };
            allow(&row.policy.text);
            mesh = next;
        }
    }
}

/// Notes a piece of the events of each partition; answers where the next begins.
fn events(door: &Door, from: Vec<i64>) -> Result<Vec<i64>, LogError> {
    each_piece(door, Topic::Events, from, |of, record, told| {
        // An event that this program does not know stops the loop, not its views.
        let Ok(event) = wire::decode_event(&record.value) else {
            return;
        };
        let counted_from = &door.story.counted_from[0];
        let counts = counted_from
            .get(of.partition as usize)
            .is_none_or(|from| record.offset >= *from);
        if let Some(took) = told.event(&event, counts) {
            let took = Duration::from_millis(took.0.max(0).unsigned_abs());
            door.pulse.spent(Phase::Execute, took);
        }
        if let Body::Adopted { text, .. } = &event.body
            && let Ok(policy) = Policy::parse(text)
        {
            door.allow_future(Span::seconds(policy.monitor.max_future_s));
        }
    })
}

/// Counts a piece of the dead letters of each partition; answers where the next begins.
fn letters(door: &Door, from: Vec<i64>) -> Result<Vec<i64>, LogError> {
    each_piece(door, Topic::DeadLetters, from, |_, record, told| {
        told.dead(record)
    })
}

fn each_piece(
    door: &Door,
    topic: Topic,
    mut from: Vec<i64>,
    mut note: impl FnMut(TopicPartition, &Record, &mut Told),
) -> Result<Vec<i64>, LogError> {
    let ends = door.log.seen_ends(topic);
    if reach(&from, &ends) {
        return Ok(from);
    }
    let mut source = door.log.source()?;
    for ((of, next), end) in (0..)
        .map(|partition| TopicPartition { topic, partition })
        .zip(&mut from)
        .zip(&ends)
    {
        if *next >= *end {
            continue;
        }
        let chunk = source.read(of, *next, *end, RECORDS_AT_A_TIME)?;
        let mut told = door.story.told();
        for record in &chunk.records {
            note(of, record, &mut told);
        }
        told.forget();
        *next = chunk.next;
    }
    Ok(from)
}

/// How far back the views begin.
const KEPT: Span = Span::seconds(7 * 86_400);

/// Events that are read back at most.
const EVENTS_MAX: i64 = 200_000;

/// Incidents that are remembered; open ones always are.
const INCIDENTS_MAX: usize = 10_000;

/// So few events need not wait for the loop.
const EVENTS_AT_ONCE: i64 = 20_000;

/// How long a request waits for the views.
const CATCH_UP: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(200);

/// Pauses until the loop need not have caught up any more: 30 s.
const PAUSES_BEFORE: usize = 150;

/// Records noted at a time.
const RECORDS_AT_A_TIME: usize = 1000;

/// Orders whose outcome is waited for, to tell how long that took.
const ORDERS_MAX: usize = 4096;

/// Reasons of dead letters that are told apart.
const REASONS_MAX: usize = 64;

/// Meshes whose policies are looked at.
const MESHES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::views::Incident;
    use crate::model::{IncidentKind, MeshId, NodeId, NodeKey, Time};

    fn incident(closed_at: Option<i64>) -> Incident {
        Incident {
            kind: IncidentKind::Node,
            node: NodeKey {
                mesh: MeshId::parse("m").unwrap(),
                node: NodeId::parse("n").unwrap(),
            },
            ill_since: Time(0),
            opened_at: Time(0),
            closed_at: closed_at.map(Time),
            detect: Span(0),
            repair: None,
            symptoms: Vec::new(),
            orders: 0,
            withheld: 0,
        }
    }

    #[test]
    fn the_oldest_that_closed_are_forgotten_and_no_open_one() {
        let mut told = Told::default();
        let many = INCIDENTS_MAX as i64 + INCIDENTS_MAX as i64 / 8 + 1;
        for i in 0..many {
            let closed_at = (i % 100 != 0).then_some(i);
            told.views
                .incidents
                .insert(format!("inc-{i}"), incident(closed_at));
        }
        told.forget();
        let left = &told.views.incidents;
        assert_eq!(left.len(), INCIDENTS_MAX);
        let open = left.values().filter(|i| i.closed_at.is_none()).count() as i64;
        assert_eq!(open, (many + 99) / 100);
        assert!(!left.contains_key("inc-1") && left.contains_key(&format!("inc-{}", many - 1)));
    }

    #[test]
    fn dead_letters_are_counted_by_a_bounded_list_of_reasons() {
        let mut told = Told::default();
        for i in 0..REASONS_MAX + 5 {
            told.dead(&Record {
                offset: 0,
                time: Time(0),
                key: Vec::new(),
                value: Vec::new(),
                headers: vec![("reason".into(), format!("r{i}").into_bytes())],
            });
        }
        assert_eq!(told.counts.dead["r0"], 1);
        assert_eq!(told.counts.dead["other"], 5);
    }
}
