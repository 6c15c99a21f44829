//! Reading a topic as JSON: where to begin, which records are wanted, and how each is written.

use std::ops::ControlFlow;

use axum::http::{StatusCode, Uri};

use crate::model::{MeshId, NodeId, Span};
use crate::runtime::{LogError, Record, Source, offset_at, only};
use crate::stream::Topic;
use crate::wire;

use super::Door;
use super::answer::Refusal;
use super::query::Asked;

/// A record as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) offset: i64,
    /// The kind of a server-sent event.
    pub(super) kind: &'static str,
    pub(super) json: String,
}

/// A way through a topic, from where it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Reel {
    topic: Topic,
    asked: Asked,
    /// The offset that is read next.
    pub(super) next: i64,
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
/// They mean nothing.
pub(super) fn asked(topic: Topic, uri: &Uri) -> Result<Asked, Refusal> {
    let asked = Asked::read(uri, &WORDS)?;
    if topic == Topic::Events && asked.from.is_some() && asked.mesh.is_none() {
        return Err(Refusal::bad(
            "from counts an event's seq, which is per mesh: name one with mesh=, or use since=",
        ));
    }
    Ok(asked)
}

impl Reel {
    /// A way from behind the offset `after`, else from where it was asked for.
    ///
    /// # Errors
    /// The log cannot be read, or `after` is past its end.
    pub(super) fn new(
        door: &Door,
        topic: Topic,
        asked: Asked,
        after: Option<i64>,
        default: Default,
    ) -> Result<Reel, Refusal> {
        let mut source = door.log.source();
        let next = match after {
            Some(after) => {
                let end = door.log.visible_end(topic);
                if after >= end {
                    return Err(Refusal::new(
                        StatusCode::CONFLICT,
                        format!(
                            "Last-Event-ID {after} is past the end {end} of {}: it is of another \
                             log; begin without it",
                            topic.name()
                        ),
                    ));
                }
                after.saturating_add(1)
            }
            None => begin(door, &mut *source, topic, &asked, default)
                .map_err(|error| Refusal::failed("reading the log", &error))?,
        };
        Ok(Reel { topic, asked, next })
    }

    /// One past what can be read now.
    pub(super) fn end(&self, door: &Door) -> i64 {
        door.log.visible_end(self.topic)
    }

    /// Reads on to `to`, until about `bytes_max` are found or enough was looked at, and answers at
    /// most `lines_max` lines.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn more(
        &mut self,
        door: &Door,
        to: i64,
        lines_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Line>, Refusal> {
        let mut source = door.log.source();
        let mut lines = Vec::new();
        let mut bytes = 0;
        let of = only(self.topic);
        for _ in 0..CHUNKS_AT_A_TIME {
            if self.next >= to {
                break;
            }
            let chunk = source
                .read(of, self.next, to, RECORDS_AT_A_TIME)
                .map_err(|error| Refusal::failed("reading the log", &error))?;
            for record in chunk.records {
                self.next = record.offset + 1;
                let Some(line) = line(self.topic, &record, &self.asked) else {
                    continue;
                };
                bytes += line.json.len();
                lines.push(line);
                if lines.len() >= lines_max || bytes >= bytes_max {
                    return Ok(lines);
                }
            }
            self.next = chunk.next.max(self.next);
        }
        Ok(lines)
    }
}

/// The offset with which to begin.
fn begin(
    door: &Door,
    source: &mut dyn Source,
    topic: Topic,
    asked: &Asked,
    default: Default,
) -> Result<i64, LogError> {
    let of = only(topic);
    let start = source.start(of)?;
    let mut begin = None;
    if asked.since_ttl {
        begin = Some(offset_at(source, of, door.log.now() - TTL_MAX)?);
    }
    if let Some(since) = asked.since {
        begin = begin.max(Some(offset_at(source, of, since)?));
    }
    if let Some(from) = asked.from {
        let from = match (topic, &asked.mesh) {
            (Topic::Events, Some(mesh)) => offset_of_seq(source, mesh, from)?,
            _ => from,
        };
        begin = begin.max(Some(from));
    }
    Ok(match (begin, default) {
        (Some(begin), _) => begin.max(start),
        (None, Default::Start) => start,
        (None, Default::End) => door.log.visible_end(topic),
    })
}

/// Offset of the first event of a mesh whose seq is at least `seq`, by halving: seqs rise with
/// offsets. Where a half begins without an event of the mesh, what is passed in search of one is
/// not looked at again.
///
/// # Errors
/// The source's.
pub(super) fn offset_of_seq(
    source: &mut dyn Source,
    mesh: &MeshId,
    seq: i64,
) -> Result<i64, LogError> {
    let of = only(Topic::Events);
    let (mut low, mut high) = (source.start(of)?, source.end(of)?);
    while low < high {
        let middle = low + (high - low) / 2;
        match first_of(source, mesh, middle, high)? {
            Some((offset, found)) if found < seq => low = offset + 1,
            _ => high = middle,
        }
    }
    // The halves without an event of the mesh were cut off: the next one of it is the answer.
    let end = source.end(of)?;
    let found = first_of(source, mesh, low, end)?;
    Ok(found.map_or(end, |(offset, _)| offset))
}

/// The first event of a mesh at or after `from` and before `to`: its offset and seq.
fn first_of(
    source: &mut dyn Source,
    mesh: &MeshId,
    from: i64,
    to: i64,
) -> Result<Option<(i64, i64)>, LogError> {
    let mut found = None;
    scan(source, from, to, |record| {
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

/// Shows the events from `from` to below `to`, in order, until told to stop.
///
/// # Errors
/// The source's.
pub(super) fn scan(
    source: &mut dyn Source,
    from: i64,
    to: i64,
    mut show: impl FnMut(&Record) -> ControlFlow<()>,
) -> Result<(), LogError> {
    let mut next = from;
    while next < to {
        let chunk = source.read(only(Topic::Events), next, to, RECORDS_AT_A_TIME)?;
        for record in &chunk.records {
            if show(record).is_break() {
                return Ok(());
            }
        }
        next = chunk.next;
    }
    Ok(())
}

/// A record as JSON, if it is wanted and can be read.
fn line(topic: Topic, record: &Record, asked: &Asked) -> Option<Line> {
    let (kind, json) = match topic {
        Topic::Events => event(record, asked)?,
        Topic::Directives => directive(record, asked)?,
        Topic::Cycles => cycle(record, asked)?,
        Topic::Metrics | Topic::PlanInbox | Topic::DeadLetters => return None,
    };
    Some(Line {
        offset: record.offset,
        kind,
        json,
    })
}

fn event(record: &Record, asked: &Asked) -> Option<(&'static str, String)> {
    // Its key is its mesh: most of what is not wanted is not decoded.
    let of_mesh = match &asked.mesh {
        Some(mesh) => record.key == mesh.as_str().as_bytes(),
        None => !record.key.is_empty(),
    };
    if !of_mesh {
        return None;
    }
    let event = wire::decode_event(&record.value).ok()?;
    let wanted = asked.from.is_none_or(|from| event.seq >= from)
        && (asked.node.is_none() || event.body.node() == asked.node.as_ref())
        && is_kind(asked, event.body.name());
    wanted.then(|| (event.body.name(), wire::json::event(&event)))
}

fn directive(record: &Record, asked: &Asked) -> Option<(&'static str, String)> {
    if let (Some(mesh), Some(node)) = (&asked.mesh, &asked.node) {
        let key = [mesh.as_str(), node.as_str()].join("/");
        if record.key != key.as_bytes() {
            return None;
        }
    }
    let directive = wire::decode_directive(&record.value).ok()?;
    let wanted = asked.mesh.as_ref().is_none_or(|m| *m == directive.mesh)
        && asked.node.as_ref().is_none_or(|n| *n == directive.node)
        && is_kind(asked, directive.action.kind().name());
    wanted.then(|| ("Directive", wire::json::directive(&directive)))
}

fn cycle(record: &Record, asked: &Asked) -> Option<(&'static str, String)> {
    let own = |node: &NodeId| record.key == node.as_str().as_bytes();
    if !asked.node.as_ref().is_none_or(own) {
        return None;
    }
    let cycle = wire::decode_cycle(&record.value).ok()?;
    let wanted =
        asked.mesh.as_ref().is_none_or(|m| *m == cycle.mesh) && is_kind(asked, "CycleClosed");
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

/// A directive lives three intervals, the longest of which is an hour.
const TTL_MAX: Span = Span::seconds(3 * 3600);

/// Records read at a time.
const RECORDS_AT_A_TIME: usize = 512;

/// Reads until others have their turn.
const CHUNKS_AT_A_TIME: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Body, Cause, Event, Time};
    use crate::runtime::{InMemory, Recorded, TimeSource, Title};

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
                let found = offset_of_seq(&mut source, &MeshId::parse(mesh).unwrap(), seq as i64);
                assert_eq!(found, Ok(*offset), "{mesh} {seq}");
            }
            let past = own.len() as i64;
            let found = offset_of_seq(&mut source, &MeshId::parse(mesh).unwrap(), past);
            assert_eq!(found, Ok(meshes.len() as i64), "{mesh} {past}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_shown() {
        let check = |uri: &str, mesh: &str, shown: bool| {
            let asked = asked(Topic::Events, &uri.parse().unwrap()).unwrap();
            let line = line(Topic::Events, &record(3, mesh, 5), &asked);
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
        let refused = asked(Topic::Events, &"/?from=3".parse().unwrap()).unwrap_err();
        assert!(refused.error.contains("mesh="), "{}", refused.error);
    }
}
