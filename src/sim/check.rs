//! The checker. What the runtime wrote must be what a straight-line fold writes:
//!
//! - [`recorded`]: of the recorded inboxes, byte for byte, whatever went wrong on the way;
//! - [`from_seed`]: of the records that the seed generates, without any log (one partition, `source
//!   = "sample"`), offsets aside;
//! - [`events`]: seq dense per mesh, and `directives` one to one with `DirectiveIssued`.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::runtime::simulated::{Simulated, Written};
use crate::runtime::{
    Config, Outgoing, Record, Router, Share, StageSpec, Task, TopicPartition, fold_straight,
};
use crate::stream::{NoBase, Topic};

/// What an event says to the checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFacts {
    /// Its seq in its log (the record's key).
    pub seq: i64,
    /// The value that must stand on `directives`, when it is a `DirectiveIssued`.
    pub directive: Option<Vec<u8>>,
}

/// A record without its place: key, value, headers.
type Bare = (Vec<u8>, Vec<u8>, Vec<(String, Vec<u8>)>);

/// Folds the recorded inboxes straight and compares every topic that stages write.
///
/// # Errors
/// The first difference, in words.
pub fn recorded(
    cluster: &Simulated,
    stages: &[Rc<StageSpec>],
    config: &Config,
) -> Result<(), String> {
    let partitions = cluster.partitions(Topic::Events).count() as i32;
    let router = Router::even(partitions);
    let mut want: BTreeMap<TopicPartition, Vec<Vec<Bare>>> = BTreeMap::new();
    for spec in stages {
        for inbox in cluster.partitions(spec.inbox) {
            let records: Vec<Record> = all(cluster, inbox).map(|w| w.record).collect();
            let mut by_target: BTreeMap<TopicPartition, Vec<Bare>> = BTreeMap::new();
            for output in fold_straight(spec, inbox, config, &router, &records) {
                by_target.entry(output.to).or_default().push(bare(output));
            }
            for (target, outputs) in by_target {
                want.entry(target).or_default().push(outputs);
            }
        }
    }
    for topic in Topic::ALL {
        for of in cluster.partitions(topic) {
            let got: Vec<Bare> = all(cluster, of)
                .filter(|written| written.committed)
                .map(|w| (w.record.key, w.record.value, w.record.headers))
                .collect();
            interleaved(of, &got, want.remove(&of).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Folds generated records straight and compares `events`, `directives` and dead letters; `plain`
/// takes what only a log can know (offsets) out of a value. Each part of the records is folded with
/// all that follows from it, stage after stage, before the next part comes: the world must have
/// settled there, and no part may bring records for more than one inbox.
///
/// # Errors
/// The first difference, in words.
pub fn from_seed(
    cluster: &Simulated,
    stages: &[Rc<StageSpec>],
    config: &Config,
    parts: &[Vec<Outgoing>],
    plain: &dyn Fn(Topic, &[u8]) -> Vec<u8>,
) -> Result<(), String> {
    let router = Router::even(1);
    let mut logs: BTreeMap<Topic, Vec<Record>> = BTreeMap::new();
    let mut tasks: Vec<Task> = stages.iter().map(|spec| straight(spec, config)).collect();
    for part in parts {
        add(&mut logs, part.clone());
        while tasks.iter_mut().any(|task| {
            let inbox = task.inbox();
            let from = task.position().map_or(0, |position| position.next) as usize;
            let log = logs.entry(inbox.topic).or_default();
            let records = log.split_off(from.min(log.len()));
            let (mut outputs, mut routed) = (Vec::new(), Vec::new());
            for record in &records {
                let folded = task.fold(record, &mut outputs).expect("a new record");
                for output in outputs.drain(..) {
                    router.route(inbox, folded.now, output, &mut routed);
                }
            }
            let any = !records.is_empty();
            log.extend(records);
            add(&mut logs, routed);
            any
        }) {}
    }
    for topic in [Topic::Events, Topic::Directives, Topic::DeadLetters] {
        let of = TopicPartition {
            topic,
            partition: 0,
        };
        let strip = |record: &Record| (record.key.clone(), plain(topic, &record.value));
        let want: Vec<_> = logs.get(&topic).into_iter().flatten().map(strip).collect();
        let got: Vec<_> = all(cluster, of).map(|w| strip(&w.record)).collect();
        if let Some(at) = (0..want.len().max(got.len())).find(|&i| want.get(i) != got.get(i)) {
            return Err(format!(
                "{of}: record {at} is {:?}, the seed says {:?}",
                got.get(at).map(show),
                want.get(at).map(show)
            ));
        }
    }
    Ok(())
}

/// Checks that seq is dense per mesh and that directives and `DirectiveIssued` are one to one.
///
/// # Errors
/// The first fault, in words.
pub fn events(
    cluster: &Simulated,
    facts: &dyn Fn(&[u8]) -> Result<EventFacts, String>,
) -> Result<(), String> {
    let mut issued: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for of in cluster.partitions(Topic::Events) {
        let mut seqs: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for written in all(cluster, of) {
            let event = facts(&written.record.value)?;
            let next = seqs.entry(written.record.key.clone()).or_default();
            if event.seq != *next {
                return Err(format!(
                    "{of}: offset {} has seq {}, expected {next}",
                    written.record.offset, event.seq
                ));
            }
            *next += 1;
            if let Some(directive) = event.directive {
                *issued.entry(directive).or_default() += 1;
            }
        }
    }
    for of in cluster.partitions(Topic::Directives) {
        for written in all(cluster, of) {
            *issued.entry(written.record.value).or_default() -= 1;
        }
    }
    match issued.into_iter().find(|(_, count)| *count != 0) {
        None => Ok(()),
        Some((directive, count)) => Err(format!(
            "directive {} was issued {count} times more often than it was written",
            String::from_utf8_lossy(&directive)
        )),
    }
}

/// A task of one stage in memory, on partition 0.
fn straight(spec: &StageSpec, config: &Config) -> Task {
    let inbox = TopicPartition {
        topic: spec.inbox,
        partition: 0,
    };
    let fold = (spec.open)(Share::WHOLE, Rc::new(NoBase));
    Task::new(inbox, &config.prefix, config.time_source, fold, None)
}

fn add(logs: &mut BTreeMap<Topic, Vec<Record>>, outgoing: Vec<Outgoing>) {
    for outgoing in outgoing {
        let log = logs.entry(outgoing.to.topic).or_default();
        log.push(Record {
            offset: log.len() as i64,
            time: outgoing.time,
            key: outgoing.key,
            value: outgoing.value,
            headers: outgoing.headers,
        });
    }
}

fn all(cluster: &Simulated, of: TopicPartition) -> impl Iterator<Item = Written> + use<> {
    cluster.written(of).into_iter()
}

fn bare(output: Outgoing) -> Bare {
    (output.key, output.value, output.headers)
}

fn show((key, value): &(Vec<u8>, Vec<u8>)) -> String {
    let [key, value] = [key, value].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{key}: {value}")
}

/// Whether `got` holds exactly the records of `sources`, each source's in its order.
fn interleaved(of: TopicPartition, got: &[Bare], sources: Vec<Vec<Bare>>) -> Result<(), String> {
    if let [source] = &sources[..]
        && source == got
    {
        return Ok(());
    }
    let told = |bare: &Bare| show(&(bare.0.clone(), bare.1.clone()));
    for source in &sources {
        let mut rest = got.iter();
        if let Some(missing) = source.iter().find(|want| !rest.any(|got| got == *want)) {
            return Err(format!("{of}: missing, or out of order: {}", told(missing)));
        }
    }
    let mut counts: BTreeMap<&Bare, i64> = BTreeMap::new();
    got.iter()
        .for_each(|bare| *counts.entry(bare).or_default() += 1);
    for bare in sources.iter().flatten() {
        *counts.entry(bare).or_default() -= 1;
    }
    match counts.into_iter().find(|(_, count)| *count != 0) {
        None => Ok(()),
        Some((bare, count)) => Err(format!("{of}: {count} times too often: {}", told(bare))),
    }
}
