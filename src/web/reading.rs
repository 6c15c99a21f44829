//! Reading a topic as JSON: where to begin, which records are wanted, and how each is written.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::http::{StatusCode, Uri};

use crate::model::{MeshId, NodeId, TTL_MAX};
use crate::runtime::{LogError, Merged, Record, Source, TopicPartition};
use crate::stream::Topic;
use crate::topology::places::partitions_for;
use crate::wire;

use super::Door;
use super::access::Asker;
use super::answer::Refusal;
use super::query::Asked;

/// A record as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where who has read it goes on; empty where nobody follows.
    pub(super) id: String,
    /// The kind of a server-sent event.
    pub(super) kind: &'static str,
    pub(super) json: String,
}

/// A way through a topic, from where it was asked for: through the partition that holds what is
/// wanted, or all of them as one.
#[derive(Clone, Debug)]
pub(super) struct Reel {
    topic: Topic,
    asked: Asked,
    by: Arc<Asker>,
    way: Merged,
    /// Somebody goes on with it.
    followed: bool,
}

/// Where to begin when nothing says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Default {
    /// With the oldest record.
    Start,
    /// With the next record.
    End,
}

/// Reads the words of a route that reads a topic.
///
/// # Errors
/// They mean nothing, or are of a mesh that who asks may not see.
pub(super) fn asked(topic: Topic, uri: &Uri, by: &Asker) -> Result<Asked, Refusal> {
    let mut asked = Asked::read(uri, &WORDS)?;
    asked.mesh = by.of(asked.mesh)?;
    if topic == Topic::Events && asked.from.is_some() && asked.mesh.is_none() {
        return Err(Refusal::bad(
            "from counts an event's seq, which is per mesh: name one with mesh=, or use since=",
        ));
    }
    Ok(asked)
}

impl Reel {
    /// A way from behind the event of the id `after`, else from where it was asked for, to what can
    /// be read now.
    ///
    /// # Errors
    /// The log cannot be read, or `after` is no id of its.
    pub(super) fn new(
        door: &Door,
        topic: Topic,
        (asked, by): (Asked, Arc<Asker>),
        after: Option<&str>,
        default: Default,
    ) -> Result<Reel, Refusal> {
        let mut source = door.source()?;
        let failed = |error| Refusal::failed("reading the log", &error);
        let (mesh, node) = (asked.mesh.as_ref(), asked.node.as_ref());
        let partitions = partitions_for(topic, mesh, node, door.partitions());
        let ends = source.ends(&partitions).map_err(failed)?;
        let from = match after {
            Some(id) => behind(id, topic, &ends)?,
            None => {
                begin(door, &mut *source, &partitions, &ends, &asked, default).map_err(failed)?
            }
        };
        let mut way = Merged::new(partitions.into_iter().zip(from));
        way.go_on(&ends);
        Ok(Reel {
            topic,
            asked,
            by,
            way,
            followed: default == Default::End,
        })
    }

    /// May be read on to what may be seen by now.
    pub(super) fn go_on(&mut self, door: &Door) {
        let seen = door.log.seen_ends(self.topic);
        let end = |of: TopicPartition| seen.get(of.partition as usize).copied().unwrap_or(0);
        let ends: Vec<i64> = self.way.partitions().into_iter().map(end).collect();
        self.way.go_on(&ends);
    }

    /// Whether all is read that may be.
    pub(super) fn is_done(&self) -> bool {
        self.way.is_done()
    }

    /// Where who has read so far goes on; `None` at the very beginning.
    pub(super) fn id(&self) -> Option<String> {
        write_id(&self.way.places())
    }

    /// Reads on until about `bytes_max` are found or enough was looked at, and answers at most
    /// `lines_max` lines.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn more(
        &mut self,
        door: &Door,
        lines_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Line>, Refusal> {
        let mut source = door.source()?;
        let mut lines = Vec::new();
        let mut bytes = 0;
        for _ in 0..RECORDS_LOOKED_AT {
            let record = self.way.next(&mut *source, RECORDS_AT_A_TIME);
            let record = record.map_err(|error| Refusal::failed("reading the log", &error))?;
            let Some((_, record)) = record else { break };
            let Some((kind, json)) = line(self.topic, &record, &self.asked, &self.by) else {
                continue;
            };
            bytes += json.len();
            let id = match self.followed {
                true => self.id().unwrap_or_default(),
                false => String::new(),
            };
            lines.push(Line { id, kind, json });
            if lines.len() >= lines_max || bytes >= bytes_max {
                break;
            }
        }
        Ok(lines)
    }
}

/// Places in partitions as an event's id: of one partition the offset of the event, of several
/// where each goes on, in hex.
fn write_id(places: &[i64]) -> Option<String> {
    match places {
        [next] => (*next > 0).then(|| (next - 1).to_string()),
        many => {
            let places: Vec<String> = many.iter().map(|next| format!("{next:x}")).collect();
            Some(places.join("."))
        }
    }
}

/// The places that an id of so many partitions says.
fn read_id(id: &str, partitions: usize) -> Option<Vec<i64>> {
    let number = |text: &str, radix| i64::from_str_radix(text, radix).ok().filter(|n| *n >= 0);
    if partitions == 1 {
        return Some(vec![number(id, 10)?.saturating_add(1)]);
    }
    let places: Option<Vec<i64>> = id.split('.').map(|place| number(place, 16)).collect();
    places.filter(|places| places.len() == partitions)
}

/// The places behind the event of an id.
fn behind(id: &str, topic: Topic, ends: &[i64]) -> Result<Vec<i64>, Refusal> {
    let places = read_id(id, ends.len()).ok_or_else(|| {
        Refusal::bad(format!(
            "Last-Event-ID {id:?}: expected the id of an event that was followed"
        ))
    })?;
    if let Some((_, end)) = places.iter().zip(ends).find(|(place, end)| place > end) {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!(
                "Last-Event-ID {id} is past the end {end} of {}: it is of another log; begin \
                 without it",
                topic.name()
            ),
        ));
    }
    Ok(places)
}

/// The offsets with which to begin.
fn begin(
    door: &Door,
    source: &mut dyn Source,
    partitions: &[TopicPartition],
    ends: &[i64],
    asked: &Asked,
    default: Default,
) -> Result<Vec<i64>, LogError> {
    let mut from = Vec::with_capacity(partitions.len());
    for (of, end) in partitions.iter().zip(ends) {
        from.push(match (begin_in(door, source, *of, asked)?, default) {
            (Some(begin), _) => begin.max(source.start(*of)?),
            (None, Default::Start) => source.start(*of)?,
            (None, Default::End) => *end,
        });
    }
    Ok(from)
}

/// The offset with which to begin in a partition, if something says it.
fn begin_in(
    door: &Door,
    source: &mut dyn Source,
    of: TopicPartition,
    asked: &Asked,
) -> Result<Option<i64>, LogError> {
    let mut begin = None;
    if asked.since_ttl {
        begin = Some(source.offset_at(of, door.log.now() - TTL_MAX)?);
    }
    if let Some(since) = asked.since {
        begin = begin.max(Some(source.offset_at(of, since)?));
    }
    if let Some(from) = asked.from {
        let from = match (of.topic, &asked.mesh) {
            (Topic::Events, Some(mesh)) => offset_of_seq(source, of, mesh, from)?,
            _ => from,
        };
        begin = begin.max(Some(from));
    }
    Ok(begin)
}

/// Offset of the first event of a mesh whose seq is at least `seq`, by halving: seqs rise with
/// offsets. Where a half begins without an event of the mesh, what is passed in search of one is
/// not looked at again.
///
/// # Errors
/// The source's.
pub(super) fn offset_of_seq(
    source: &mut dyn Source,
    of: TopicPartition,
    mesh: &MeshId,
    seq: i64,
) -> Result<i64, LogError> {
    let (mut low, mut high) = (source.start(of)?, source.end(of)?);
    while low < high {
        let middle = low + (high - low) / 2;
        match first_of(source, of, mesh, middle, high)? {
            Some((offset, found)) if found < seq => low = offset + 1,
            _ => high = middle,
        }
    }
    // The halves without an event of the mesh were cut off: the next one of it is the answer.
    let end = source.end(of)?;
    let found = first_of(source, of, mesh, low, end)?;
    Ok(found.map_or(end, |(offset, _)| offset))
}

/// The first event of a mesh at or after `from` and before `to`: its offset and seq.
fn first_of(
    source: &mut dyn Source,
    of: TopicPartition,
    mesh: &MeshId,
    from: i64,
    to: i64,
) -> Result<Option<(i64, i64)>, LogError> {
    let mut found = None;
    scan(source, of, from, to, |record| {
        let of_mesh = record.key == mesh.as_str().as_bytes();
        match wire::decode_head(&record.value) {
            Ok(head) if of_mesh => {
                found = Some((record.offset, head.seq));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    })?;
    Ok(found)
}

/// Shows the records from `from` to below `to`, in order, until told to stop.
///
/// # Errors
/// The source's.
pub(super) fn scan(
    source: &mut dyn Source,
    of: TopicPartition,
    from: i64,
    to: i64,
    mut show: impl FnMut(&Record) -> ControlFlow<()>,
) -> Result<(), LogError> {
    let mut next = from;
    while next < to {
        let chunk = source.read(of, next, to, RECORDS_AT_A_TIME)?;
        for record in &chunk.records {
            if show(record).is_break() {
                return Ok(());
            }
        }
        next = chunk.next;
    }
    Ok(())
}

/// A record's kind and JSON, if it is wanted, can be read, and may be seen.
fn line(
    topic: Topic,
    record: &Record,
    asked: &Asked,
    by: &Asker,
) -> Option<(&'static str, String)> {
    match topic {
        Topic::Events => event(record, asked, by),
        Topic::Directives => directive(record, asked, by),
        Topic::Cycles => cycle(record, asked, by),
        Topic::Metrics | Topic::PlanInbox | Topic::DeadLetters => None,
    }
}

fn event(record: &Record, asked: &Asked, by: &Asker) -> Option<(&'static str, String)> {
    // Its key is its mesh: most of what is not wanted is not decoded.
    let of_mesh = match &asked.mesh {
        Some(mesh) => record.key == mesh.as_str().as_bytes(),
        None => !record.key.is_empty(),
    };
    if !of_mesh || !by.sees_named(&record.key) {
        return None;
    }
    let event = wire::decode_event(&record.value).ok()?;
    let wanted = asked.from.is_none_or(|from| event.seq >= from)
        && (asked.node.is_none() || event.body.node() == asked.node.as_ref())
        && is_kind(asked, event.body.name());
    wanted.then(|| (event.body.name(), wire::json::event(&event)))
}

fn directive(record: &Record, asked: &Asked, by: &Asker) -> Option<(&'static str, String)> {
    if let (Some(mesh), Some(node)) = (&asked.mesh, &asked.node) {
        let key = [mesh.as_str(), node.as_str()].join("/");
        if record.key != key.as_bytes() {
            return None;
        }
    }
    let directive = wire::decode_directive(&record.value).ok()?;
    let wanted = by.hears(&directive.mesh, &directive.node)
        && asked.mesh.as_ref().is_none_or(|m| *m == directive.mesh)
        && asked.node.as_ref().is_none_or(|n| *n == directive.node)
        && is_kind(asked, directive.action.kind().name());
    wanted.then(|| ("Directive", wire::json::directive(&directive)))
}

fn cycle(record: &Record, asked: &Asked, by: &Asker) -> Option<(&'static str, String)> {
    let own = |node: &NodeId| record.key == node.as_str().as_bytes();
    if !asked.node.as_ref().is_none_or(own) {
        return None;
    }
    let cycle = wire::decode_cycle(&record.value).ok()?;
    let wanted = by.sees(&cycle.mesh)
        && asked.mesh.as_ref().is_none_or(|m| *m == cycle.mesh)
        && is_kind(asked, "CycleClosed");
    wanted.then(|| ("CycleClosed", wire::json::cycle(&cycle)))
}

fn is_kind(asked: &Asked, name: &str) -> bool {
    asked.kind.as_deref().is_none_or(|kind| kind == name)
}

/// Words of a route that reads a topic.
const WORDS: [&str; 7] = [
    "mesh",
    "node",
    "type",
    "from",
    "since",
    "since_ttl",
    "limit",
];

/// Records read at a time.
const RECORDS_AT_A_TIME: usize = 512;

/// Records looked at until others have their turn.
const RECORDS_LOOKED_AT: usize = 16 * RECORDS_AT_A_TIME;

#[cfg(test)]
mod tests {
    use super::super::routes::Via;
    use super::*;
    use crate::model::{Body, Cause, Event, Time};
    use crate::runtime::{InMemory, Recorded, TimeSource, Title, only};

    fn record(offset: i64, mesh: &str, seq: i64) -> Record {
        let event = Event {
            seq,
            time: Time(offset),
            mesh: MeshId::parse(mesh).unwrap(),
            cause: Cause {
                topic: "homeostat.plan-inbox".into(),
                partition: 0,
                offset,
            },
            engine: "plan/1".into(),
            body: Body::NodeSilent {
                node: NodeId::parse("n").unwrap(),
            },
        };
        Record {
            offset,
            time: Time(offset),
            key: mesh.as_bytes().to_vec(),
            value: wire::encode_event(&event),
            headers: Vec::new(),
        }
    }

    /// A log of events, each the next of its mesh.
    fn source(meshes: &[&str]) -> InMemory {
        let mut seqs = std::collections::BTreeMap::new();
        let records = meshes.iter().zip(0..).map(|(mesh, offset)| {
            let seq = seqs.entry(*mesh).or_insert(-1);
            *seq += 1;
            record(offset, mesh, *seq)
        });
        let title = Title {
            log_id: "log-1".into(),
            prefix: "homeostat.".into(),
            time_source: TimeSource::Log,
            partitions: 1,
        };
        InMemory::new(
            title,
            Recorded::from([(only(Topic::Events), records.collect())]),
        )
    }

    #[test]
    fn a_seq_is_found_among_the_events_of_other_meshes() {
        let meshes: Vec<&str> = "a b b b a c c a a b c c c c c c c a".split(' ').collect();
        let mut source = source(&meshes);
        for mesh in ["a", "b", "c"] {
            let own: Vec<i64> = (0..)
                .zip(&meshes)
                .filter(|(_, m)| **m == mesh)
                .map(|(i, _)| i)
                .collect();
            for (seq, offset) in own.iter().enumerate() {
                let found = offset_of_seq(
                    &mut source,
                    only(Topic::Events),
                    &MeshId::parse(mesh).unwrap(),
                    seq as i64,
                );
                assert_eq!(found, Ok(*offset), "{mesh} {seq}");
            }
            let past = own.len() as i64;
            let found = offset_of_seq(
                &mut source,
                only(Topic::Events),
                &MeshId::parse(mesh).unwrap(),
                past,
            );
            assert_eq!(found, Ok(meshes.len() as i64), "{mesh} {past}");
        }
    }

    #[test]
    fn an_id_says_where_to_go_on_in_each_partition() {
        let check = |id: &str, partitions: usize, expected: Option<&[i64]>| {
            let places = read_id(id, partitions);
            assert_eq!(places.as_deref(), expected, "{id} of {partitions}");
            if let Some(places) = places {
                assert_eq!(write_id(&places).as_deref(), Some(id));
            }
        };
        check("7", 1, Some(&[8]));
        check("0.ff.7", 3, Some(&[0, 255, 7]));
        for (id, partitions) in [
            ("", 1),
            ("-1", 1),
            ("x", 1),
            ("99999999999999999999", 1),
            ("1.2", 1),
            ("1", 2),
            ("1.2.3", 2),
            ("1.", 2),
            ("1.-2", 2),
            ("1.g", 2),
        ] {
            check(id, partitions, None);
        }
        assert_eq!(write_id(&[0]), None);
        assert_eq!(behind("4", Topic::Events, &[5]), Ok(vec![5]));
        assert_eq!(behind("5.0", Topic::Events, &[5, 0]), Ok(vec![5, 0]));
        for (id, ends) in [("5", &[5][..]), ("5.1", &[5, 0])] {
            let refused = behind(id, Topic::Events, ends).unwrap_err();
            assert_eq!(refused.status, StatusCode::CONFLICT, "{id} of {ends:?}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_shown() {
        let check = |uri: &str, mesh: &str, shown: bool| {
            let by = Asker::owner(Via::Socket);
            let asked = asked(Topic::Events, &uri.parse().unwrap(), &by).unwrap();
            let line = line(Topic::Events, &record(3, mesh, 5), &asked, &by);
            assert_eq!(line.is_some(), shown, "{uri} {mesh}");
        };
        check("/", "a", true);
        check("/", "", false);
        check("/?mesh=", "", true);
        check("/?mesh=b", "a", false);
        check("/?mesh=a&from=5", "a", true);
        check("/?mesh=a&from=6", "a", false);
        check("/?node=n&type=NodeSilent", "a", true);
        check("/?node=m", "a", false);
        check("/?type=StateChanged", "a", false);
        let by = Asker::owner(Via::Socket);
        let refused = asked(Topic::Events, &"/?from=3".parse().unwrap(), &by).unwrap_err();
        assert!(refused.error.contains("mesh="), "{}", refused.error);
    }
}
