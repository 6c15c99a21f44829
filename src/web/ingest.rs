//! Samples and outcomes on their way in: `POST /v1/metrics`, `POST /v1/outcomes`.
//!
//! 1. When too much waits for the loop, nothing is read (429).
//! 2. The body is read within its limits, taken apart, and each piece judged by itself; what is
//!    refused is reported with its line and stops nothing else. Whose token is for other meshes or
//!    another node is told so of that line alone (`other_mesh`, `other_node`).
//! 3. What is left is appended, all or none, and answered when it is durable. An answer that does
//!    not come leaves open whether it was appended: sent again it may lie in the log twice, and
//!    (boot, seq) or the directive's id tell the fold that it is the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use tokio::time::timeout;

use crate::model::{MeshId, MetricsRecord, NodeId, NodeKey, Outcome, RawSample, Span, Time};
use crate::monitor::names;
use crate::runtime::{AppendError, Durable, Incoming};
use crate::stream::Topic;
use crate::topology::ingest::{Refused, Taken, take};
use crate::wire;
use crate::wire::sample_json::{LINE_BYTES_MAX, parse_sample};

use super::Door;
use super::access::Asker;
use super::answer::{Refusal, json};
use super::door::closing;
use super::health::Phase;
use super::lines::Pieces;
use super::links::Seen;
use super::server::stopped;

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Samples.
    Samples,
    /// Outcomes.
    Outcomes,
}

/// A piece that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    reason: &'static str,
    field: Option<&'static str>,
    detail: Option<String>,
}

/// What became of a body's pieces.
#[derive(Default)]
struct Sorted {
    records: Vec<Incoming>,
    seen: Seen,
    rejected: Vec<Fault>,
    /// How many were rejected, also those that are not listed.
    rejected_in_all: usize,
    by_reason: BTreeMap<&'static str, u64>,
    /// Something was read, if only to be refused.
    legible: bool,
}

/// Answers a body of samples or outcomes.
///
/// # Errors
/// Nothing of it was taken: too much waits, the body cannot be read, the disk is nearly full. Or
/// nobody can say: it did not become durable in time.
pub(super) async fn take_in(
    door: &Arc<Door>,
    by: Arc<Asker>,
    what: What,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let waiting = door.log.waiting(Topic::Metrics);
    if waiting > door.settings.queue_max {
        return Err(Refusal::later(
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "{waiting} records wait for the loop, more than web.queue_max = {}: nothing was \
                 taken; send it again later",
                door.settings.queue_max
            ),
            QUEUE_RETRY_S,
        ));
    }
    let avro = is_avro(headers)?;
    let body = door.bodies.read(headers, body).await?;
    let (kept, answer) = door
        .write(move |door| {
            let begun = Instant::now();
            let sorted = if avro {
                one(what, &by, &body, door.horizon())
            } else {
                sort(what, &by, &body, door)?
            };
            door.pulse.spent(Phase::Monitor, begun.elapsed());
            keep(door, what, sorted)
        })
        .await?;
    if let Some(kept) = kept {
        durable(door, kept).await?;
    }
    Ok(answer)
}

/// Whether the body is one Avro single-object; JSON is not asked for its name.
fn is_avro(headers: &HeaderMap) -> Result<bool, Refusal> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return Ok(false);
    };
    let given = given.to_str().unwrap_or("?");
    let name = given.split(';').next().unwrap_or("").trim();
    if AVRO.iter().any(|avro| name.eq_ignore_ascii_case(avro)) {
        return Ok(true);
    }
    let lower = name.to_ascii_lowercase();
    let json = lower.contains("json") || lower.starts_with("text/") || TOLERATED.contains(&&*lower);
    if json {
        return Ok(false);
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!(
            "a body of type {name:?}: expected application/json, {}, or {} for one Avro \
             single-object",
            super::answer::NDJSON,
            AVRO[0]
        ),
    ))
}

/// Takes a body of JSON apart.
fn sort(what: What, by: &Asker, body: &[u8], door: &Door) -> Result<Sorted, Refusal> {
    let horizon = door.horizon();
    let pieces = Pieces::of(body).map_err(|error| {
        Refusal::bad(format!(
            "reading an array: {}; expected one object, an array of objects, or an object per line",
            error.0
        ))
    })?;
    let mut sorted = Sorted {
        // An array was read, even an empty one.
        legible: matches!(pieces, Pieces::Elements(_)),
        ..Sorted::default()
    };
    for (line, piece) in pieces {
        match what {
            What::Samples => sorted.sample(by, line, json_sample(piece), horizon),
            What::Outcomes => sorted.outcome(by, line, piece, horizon.0),
        }
    }
    Ok(sorted)
}

fn json_sample(piece: &[u8]) -> Result<RawSample<'_>, Refused> {
    let not_json = Refused {
        reason: "not_json",
        field: None,
    };
    if piece.len() > LINE_BYTES_MAX {
        return Err(not_json);
    }
    parse_sample(piece).map_err(|_| not_json)
}

/// Takes one Avro single-object.
fn one(what: What, by: &Asker, body: &[u8], horizon: (Time, Span)) -> Sorted {
    let mut sorted = Sorted::default();
    let wrong = Fault {
        line: 1,
        reason: "wrong_record",
        field: None,
        detail: None,
    };
    // Else an empty body would be a Tick, and one of JSON would be read as JSON.
    if !body.starts_with(&[0xC3, 0x01]) {
        sorted.reject(Fault {
            reason: "not_avro",
            detail: Some("expected C3 01 and a fingerprint of 8 bytes".to_owned()),
            ..wrong
        });
        return sorted;
    }
    let decoded = wire::decode_metrics(body);
    match (what, decoded) {
        (What::Samples, Ok(MetricsRecord::Sample(raw))) => sorted.sample(by, 1, Ok(raw), horizon),
        (What::Outcomes, Ok(MetricsRecord::Outcome(outcome))) => {
            sorted.report(by, 1, &outcome, horizon.0);
        }
        (_, Ok(_)) => {
            sorted.legible = true;
            sorted.reject(wrong);
        }
        (_, Err(reject)) => sorted.reject(Fault {
            reason: reject.reason,
            detail: Some(reject.detail),
            ..wrong
        }),
    }
    sorted
}

impl Sorted {
    fn sample(
        &mut self,
        by: &Asker,
        line: usize,
        raw: Result<RawSample<'_>, Refused>,
        (now, max_future): (Time, Span),
    ) {
        let taken = raw.and_then(|raw| {
            self.legible = true;
            let links = key_of(&raw).map(|key| (key, raw.neighbours.clone()));
            let whose = names(&raw).map(|(mesh, node)| by.speaks_for(mesh, node));
            let taken = take(raw, now, max_future)?;
            // What was taken has names.
            whose?.map_err(|(reason, field)| Refused {
                reason,
                field: Some(field),
            })?;
            if let Some((key, links)) = links {
                self.seen.insert(key, (taken.time, links));
            }
            Ok(taken)
        });
        match taken {
            Ok(Taken { time, key, value }) => self.records.push(Incoming { time, key, value }),
            Err(Refused { reason, field }) => self.reject(Fault {
                line,
                reason,
                field,
                detail: None,
            }),
        }
    }

    fn outcome(&mut self, by: &Asker, line: usize, piece: &[u8], now: Time) {
        match wire::json::decode_outcome(piece) {
            Ok(outcome) => self.report(by, line, &outcome, now),
            Err(reject) => {
                self.legible |= reject.reason != "not_json";
                self.reject(Fault {
                    line,
                    reason: reject.reason,
                    field: None,
                    detail: Some(reject.detail),
                });
            }
        }
    }

    /// Takes an outcome from who may speak for its node.
    fn report(&mut self, by: &Asker, line: usize, outcome: &Outcome, now: Time) {
        self.legible = true;
        match by.speaks_for(outcome.mesh.as_str(), outcome.node.as_str()) {
            Ok(()) => self.records.push(report(outcome, now)),
            Err((reason, field)) => self.reject(Fault {
                line,
                reason,
                field: Some(field),
                detail: None,
            }),
        }
    }

    fn reject(&mut self, fault: Fault) {
        self.rejected_in_all += 1;
        *self.by_reason.entry(fault.reason).or_default() += 1;
        if self.rejected.len() < REJECTED_LISTED_MAX {
            self.rejected.push(fault);
        }
    }
}

/// Appends what was taken, and says what is answered once that is durable.
fn keep(door: &Door, what: What, sorted: Sorted) -> Result<(Option<Durable>, Response), Refusal> {
    let accepted = sorted.records.len();
    let status = match sorted.legible {
        true => StatusCode::OK,
        false => StatusCode::BAD_REQUEST,
    };
    door.tally.rejected(&sorted.by_reason);
    let answer = json(status, told(&sorted, status));
    if accepted == 0 {
        return Ok((None, answer));
    }
    let kept = door
        .log
        .append(Topic::Metrics, sorted.records)
        .map_err(not_kept)?;
    door.tally.accepted(what, accepted as u64);
    let heard = door.log.now();
    door.links().note(sorted.seen, heard);
    Ok((Some(kept), answer))
}

/// What was not appended, as it is answered.
pub(super) fn not_kept(error: AppendError) -> Refusal {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        AppendError::NotTaken { retry_s, .. } => Refusal::later(status, error.to_string(), retry_s),
        AppendError::Unknown(_) => Refusal::new(status, error.to_string()),
    }
}

/// The answer: how many were taken, and which not and why.
fn told(sorted: &Sorted, status: StatusCode) -> String {
    let mut out = format!("{{\"accepted\":{},\"rejected\":[", sorted.records.len());
    for (i, fault) in sorted.rejected.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        // Words of closed lists need no escapes.
        let _ = write!(
            out,
            "{comma}{{\"line\":{},\"reason\":\"{}\"",
            fault.line, fault.reason
        );
        if let Some(field) = fault.field {
            let _ = write!(out, ",\"field\":\"{field}\"");
        }
        if let Some(detail) = &fault.detail {
            let _ = write!(out, ",\"detail\":{}", serde_json::json!(detail));
        }
        out.push('}');
    }
    out.push(']');
    if sorted.rejected_in_all > sorted.rejected.len() {
        let _ = write!(out, ",\"rejected_total\":{}", sorted.rejected_in_all);
    }
    if status == StatusCode::BAD_REQUEST {
        let error = "nothing could be read: expected one object, an array of objects, or an object \
                     per line, as in docs/assess-contract.md";
        let _ = write!(out, ",\"error\":{}", serde_json::json!(error));
    }
    out.push('}');
    out
}

/// Waits until what was appended is durable.
///
/// # Errors
/// Nobody can say whether it is.
pub(super) async fn durable(door: &Arc<Door>, kept: Durable) -> Result<(), Refusal> {
    let mut stopping = door.stopping.subscribe();
    let kept = async {
        tokio::select! {
            kept = kept => kept,
            () = after_stop(&mut stopping) => Err(closing().error),
        }
    };
    let unknown = |why: &str| {
        Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{why}: outcome unknown, send it again"),
            1,
        )
    };
    match timeout(DURABLE_PATIENCE, kept).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) if *door.stopping.borrow() => Err(unknown(&closing().error)),
        Ok(Err(why)) => Err(unknown(&why)),
        Err(_) => Err(unknown("the log did not become durable in time")),
    }
}

/// A little after the door was told to close: what is under way has that long.
async fn after_stop(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    stopped(stopping).await;
    tokio::time::sleep(STOP_PATIENCE).await;
}

/// Whose links a sample tells, if it tells any.
fn key_of(raw: &RawSample<'_>) -> Option<NodeKey> {
    if raw.neighbours.is_empty() {
        return None;
    }
    let (mesh, node) = names(raw).ok()?;
    Some(NodeKey {
        mesh: MeshId::parse(mesh)?,
        node: NodeId::parse(node)?,
    })
}

fn report(outcome: &Outcome, now: Time) -> Incoming {
    Incoming {
        time: now,
        key: outcome.node.as_str().as_bytes().to_vec(),
        value: wire::encode_outcome(outcome),
    }
}

/// The names of an Avro single-object's type.
const AVRO: [&str; 3] = [
    "avro/binary",
    "application/vnd.apache.avro+binary",
    "application/avro",
];

/// What clients call a body when they were not told.
const TOLERATED: [&str; 3] = [
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
];

/// Refused pieces that an answer lists; more are counted only.
const REJECTED_LISTED_MAX: usize = 10_000;

/// When to come again while too much waits for the loop, s.
const QUEUE_RETRY_S: u32 = 1;

/// How long what was appended may take to become durable.
const DURABLE_PATIENCE: Duration = Duration::from_secs(10);

/// The same, once the door closes.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
