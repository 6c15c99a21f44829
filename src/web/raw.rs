//! The log as it lies there, for the commands of other processes on this machine: `GET /v1/log` and
//! below; and `POST /v1/backup`, over the socket only.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;

use crate::runtime::frame::{LogState, PositionState, TopicState, write_chunk, write_rows};
use crate::runtime::{Chunk, LogError, RowsCopy, Source, TopicPartition, partitions_of};
use crate::stream::Topic;

use super::Door;
use super::answer::{Refusal, json, typed};
use super::query::Asked;
use super::routes::Via;

/// `GET /v1/log`: what the log is called, and how far its topics and inboxes are.
///
/// # Errors
/// It cannot be read, or is not opened yet.
pub(super) fn state(door: &Door) -> Result<Response, Refusal> {
    let title = door.log.title().ok_or_else(|| {
        Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            "the log is not opened yet: ask again",
            1,
        )
    })?;
    let sizes = door.log.sizes();
    let mut source = door.source()?;
    // Positions first: where they have reached the ends, nothing waits.
    let mut positions = Vec::new();
    let inboxes = [Topic::Metrics, Topic::PlanInbox];
    let all = |topic: &Topic| partitions_of(*topic, title.partitions);
    for inbox in inboxes.iter().flat_map(all) {
        let position = source.position(inbox).map_err(failed)?;
        positions.extend(position.map(|position| PositionState {
            topic: inbox.topic.name().to_owned(),
            partition: inbox.partition,
            position,
        }));
    }
    let topics = Topic::ALL
        .iter()
        .flat_map(all)
        .map(|of| {
            let size = sizes.iter().find(|(name, _)| *name == of.topic.name());
            topic_state(&mut *source, of, size.map_or(0, |(_, bytes)| *bytes))
        })
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let state = LogState {
        log_id: title.log_id,
        prefix: title.prefix,
        time_source: title.time_source.name().to_owned(),
        partitions: title.partitions,
        topics,
        positions,
        free_bytes: door.log.free_bytes().unwrap_or(u64::MAX),
    };
    let text = serde_json::to_string(&state).expect("a log's state is plain data");
    Ok(json(StatusCode::OK, text))
}

fn topic_state(
    source: &mut dyn Source,
    of: TopicPartition,
    bytes: u64,
) -> Result<TopicState, LogError> {
    let (start, end) = (source.start(of)?, source.end(of)?);
    let first = source.read(of, start, end, 1)?;
    Ok(TopicState {
        topic: of.topic.name().to_owned(),
        partition: of.partition,
        start,
        end,
        bytes,
        oldest: first.records.first().map(|record| record.time.0),
    })
}

/// `GET /v1/log/{topic}?partition=&from=&to=&limit=`: a piece of a topic's partition, the first if
/// none is named, in the codec of `runtime::frame`.
///
/// # Errors
/// There is no such topic, or it cannot be read.
pub(super) async fn records(
    door: &Arc<Door>,
    uri: &Uri,
    topic: String,
) -> Result<Response, Refusal> {
    let asked = Asked::read(uri, &["partition", "from", "to", "limit"])?;
    let topic = Topic::parse(&topic).ok_or_else(|| {
        let names: Vec<&str> = Topic::ALL.iter().map(|topic| topic.name()).collect();
        Refusal::not_found(format!(
            "topic {topic:?}: expected one of {}",
            names.join(", ")
        ))
    })?;
    door.read(move |door| {
        let partitions = door.partitions();
        if asked.partition >= partitions {
            return Err(Refusal::not_found(format!(
                "partition {} of {}: it has {partitions}, counted from 0",
                asked.partition,
                topic.name()
            )));
        }
        let of = TopicPartition {
            topic,
            partition: asked.partition,
        };
        let mut source = door.source()?;
        let end = source.end(of).map_err(failed)?;
        let from = match asked.from {
            Some(from) => from,
            None => source.start(of).map_err(failed)?,
        };
        let to = asked.to.map_or(end, |to| to.min(end));
        let mut chunk = Chunk {
            records: Vec::new(),
            next: from,
        };
        let limit = asked.limit.unwrap_or(usize::MAX);
        let mut bytes = 0;
        while chunk.next < to && bytes < PIECE_BYTES && chunk.records.len() < limit {
            let most = (limit - chunk.records.len()).min(RECORDS_AT_A_TIME);
            let more = source.read(of, chunk.next, to, most).map_err(failed)?;
            bytes += more
                .records
                .iter()
                .map(|record| record.key.len() + record.value.len() + RECORD_BYTES)
                .sum::<usize>();
            chunk.records.extend(more.records);
            chunk.next = more.next;
        }
        Ok(octets(write_chunk(&chunk)))
    })
    .await
}

/// `GET /v1/log/copies/{stage}`: the copies of a stage's rows that are kept.
///
/// # Errors
/// They cannot be read.
pub(super) fn copies(door: &Door, stage: &str) -> Result<Response, Refusal> {
    let copies = door.source()?.copies(stage).map_err(failed)?;
    let text = serde_json::to_string(&copies).expect("a copy's description is plain data");
    Ok(json(StatusCode::OK, text))
}

/// `GET /v1/log/copies/{stage}/{id}?after=HEX&limit=`: rows of a copy; none: that was all.
///
/// # Errors
/// There is no such copy, or it cannot be read.
pub(super) async fn copied_rows(
    door: &Arc<Door>,
    uri: &Uri,
    stage: String,
    id: String,
) -> Result<Response, Refusal> {
    let asked = Asked::read(uri, &["after", "limit"])?;
    door.read(move |door| {
        let mut source = door.source()?;
        let copies = source.copies(&stage).map_err(failed)?;
        let copy = id
            .parse()
            .ok()
            .and_then(|id: i64| copies.iter().find(|copy| copy.id == id))
            .ok_or_else(|| no_copy(&stage, &id, &copies))?;
        let limit = asked.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX);
        let rows = source
            .copied_rows(copy, &asked.after, limit)
            .map_err(failed)?;
        Ok(octets(write_rows(&rows)))
    })
    .await
}

fn no_copy(stage: &str, id: &str, copies: &[RowsCopy]) -> Refusal {
    let mut kept = String::new();
    for copy in copies {
        let _ = write!(kept, " {}", copy.id);
    }
    if kept.is_empty() {
        kept.push_str(" none");
    }
    Refusal::not_found(format!(
        "copy {id:?} of the rows of {stage:?}: kept are:{kept}"
    ))
}

/// `POST /v1/backup` with `{"dir": "/an/absolute/path"}`: a consistent copy, made while all goes
/// on.
///
/// # Errors
/// It did not come over the socket, or the copy cannot be made.
pub(super) async fn backup(
    door: &Arc<Door>,
    via: Via,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        dir: String,
    }
    if via == Via::Tcp {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "a backup writes files as the owner of the folder: ask over its socket \
             (homeostat backup DIR does)",
        ));
    }
    let body = door.bodies.read(headers, body).await?;
    let order: Order = serde_json::from_slice(&body).map_err(|error| {
        Refusal::bad(format!(
            "reading the body: {error}; expected {{\"dir\": \"/an/absolute/path\"}}"
        ))
    })?;
    if !Path::new(&order.dir).is_absolute() {
        return Err(Refusal::bad(format!(
            "dir {:?}: expected an absolute path; yours may not be the process's folder",
            order.dir
        )));
    }
    door.aside(move |door| {
        door.log
            .backup(Path::new(&order.dir))
            .map_err(|error| Refusal::new(StatusCode::CONFLICT, error))?;
        let done = serde_json::json!({ "dir": order.dir });
        Ok(json(StatusCode::OK, done.to_string()))
    })
    .await
}

fn failed(error: LogError) -> Refusal {
    Refusal::failed("reading the log", &error)
}

fn octets(bytes: Vec<u8>) -> Response {
    typed(StatusCode::OK, "application/octet-stream", bytes)
}

/// About how much of a topic is answered at once.
const PIECE_BYTES: usize = 4 << 20;

/// Records read at a time.
const RECORDS_AT_A_TIME: usize = 1000;

/// What a record takes beside its key and value.
const RECORD_BYTES: usize = 32;

/// Rows of a copy that are answered at once: of Analyze about 4 MB.
const ROWS_MAX: usize = 4096;
