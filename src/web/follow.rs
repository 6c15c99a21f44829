//! A topic as JSON lines, or followed as server-sent events.
//!
//! Either is read in small pieces that wait until the client has taken the one before: a slow
//! client costs two pieces of memory, and one that takes nothing is cut off by the time of its
//! connection's writes. A follower's ids say where each partition goes on (`reading.rs`): of one
//! they are offsets; `Last-Event-ID` goes on behind one. Who may not come any more (`access.rs`)
//! follows no further.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::stream::Topic;

use super::Door;
use super::access::{Access, Asker};
use super::answer::{self, Refusal, typed};
use super::reading::{self, Line, Reel};
use super::server::stopped;

/// Answers a topic, as lines or followed.
///
/// # Errors
/// The query means nothing, the log cannot be read, or there are too many followers.
pub(super) async fn answer(
    door: &Arc<Door>,
    (access, by): (Arc<Access>, Arc<Asker>),
    topic: Topic,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let asked = reading::asked(topic, uri, &by)?;
    let after = last_event_id(headers);
    let follows = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|a| a.contains(EVENT_STREAM)));
    let default = match follows {
        true => reading::Default::End,
        false => reading::Default::Start,
    };
    let place = match follows {
        true => Some(place(door)?),
        false => None,
    };
    let limit = asked.limit();
    let reader = by.clone();
    let reel = door
        .read(move |door| Reel::new(door, topic, (asked, reader), after.as_deref(), default))
        .await?;
    match place {
        Some(place) => Ok(follow(door, (access, by), reel, place)),
        None => list(door, reel, limit).await,
    }
}

fn place(door: &Door) -> Result<OwnedSemaphorePermit, Refusal> {
    door.followers.clone().try_acquire_owned().map_err(|_| {
        Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{} follow already (web.followers_max): close one, or come again later",
                door.settings.followers_max
            ),
            5,
        )
    })
}

fn last_event_id(headers: &HeaderMap) -> Option<String> {
    let given = headers.get("last-event-id")?.to_str().unwrap_or("?");
    (!given.is_empty()).then(|| given.to_owned())
}

/// What there is now, as lines.
async fn list(door: &Arc<Door>, mut reel: Reel, limit: usize) -> Result<Response, Refusal> {
    let (mut left, first) = {
        let (read, lines) = more(door, reel, limit).await?;
        reel = read;
        (limit - lines.len(), as_lines(&lines))
    };
    if reel.is_done() || left == 0 {
        return Ok(answer::lines(first));
    }
    let (pipe, body) = pipe();
    let door = door.clone();
    tokio::spawn(async move {
        let mut piece = first;
        loop {
            if !piece.is_empty() && pipe.send(Ok(piece.into())).await.is_err() {
                return;
            }
            if reel.is_done() || left == 0 || pipe.is_closed() {
                return;
            }
            match more(&door, reel, left).await {
                Ok((read, lines)) => {
                    reel = read;
                    left -= lines.len();
                    piece = as_lines(&lines);
                }
                // The connection breaks off: what came is not all.
                Err(refusal) => {
                    let _ = pipe.send(Err(io::Error::other(refusal.error))).await;
                    return;
                }
            }
        }
    });
    Ok(answer::lines(body))
}

/// What comes, as it comes.
fn follow(
    door: &Arc<Door>,
    who: (Arc<Access>, Arc<Asker>),
    reel: Reel,
    place: OwnedSemaphorePermit,
) -> Response {
    let (pipe, body) = pipe();
    tokio::spawn(run(door.clone(), who, reel, pipe, place));
    typed(StatusCode::OK, EVENT_STREAM, body)
}

async fn run(
    door: Arc<Door>,
    (access, by): (Arc<Access>, Arc<Asker>),
    mut reel: Reel,
    pipe: mpsc::Sender<io::Result<Bytes>>,
    _place: OwnedSemaphorePermit,
) {
    let mut stopping = door.stopping.subscribe();
    let mut moved = door.log.moved();
    let mut changes = access.changes();
    let mut said = reel.id();
    let hello = format!("retry: {RETRY_MS}\n{}", keep_alive(said.as_deref()));
    if pipe.send(Ok(hello.into())).await.is_err() {
        return;
    }
    let mut quiet_until = Instant::now() + KEEP_ALIVE;
    loop {
        moved.mark_unchanged();
        reel.go_on(&door);
        while !reel.is_done() {
            let (read, lines) = match more(&door, reel, usize::MAX).await {
                Ok(more) => more,
                Err(refusal) => {
                    let _ = pipe.send(Err(io::Error::other(refusal.error))).await;
                    return;
                }
            };
            reel = read;
            reel.go_on(&door);
            if !lines.is_empty() {
                said = reel.id();
                let piece: String = lines.iter().map(as_event).collect();
                if pipe.send(Ok(piece.into())).await.is_err() {
                    return;
                }
                quiet_until = Instant::now() + KEEP_ALIVE;
            }
            if *stopping.borrow() || pipe.is_closed() || !access.holds(&by) {
                return;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() || !access.holds(&by) { return },
            changed = moved.changed() => if changed.is_err() { return },
            () = sleep_until(quiet_until) => {
                // With an id, so that who comes back need not look again at what it did not want.
                let now = reel.id();
                let text = match said == now {
                    true => keep_alive(None),
                    false => keep_alive(now.as_deref()),
                };
                said = now;
                if pipe.send(Ok(text.into())).await.is_err() {
                    return;
                }
                quiet_until = Instant::now() + KEEP_ALIVE;
            }
            () = stopped(&mut stopping) => return,
            () = pipe.closed() => return,
        }
    }
}

/// Reads on, where that may block.
async fn more(
    door: &Arc<Door>,
    mut reel: Reel,
    lines_max: usize,
) -> Result<(Reel, Vec<Line>), Refusal> {
    door.read(move |door| {
        let lines = reel.more(door, lines_max, PIECE_BYTES)?;
        Ok((reel, lines))
    })
    .await
}

fn as_lines(lines: &[Line]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.json.len() + 1).sum());
    for line in lines {
        text.push_str(&line.json);
        text.push('\n');
    }
    text
}

/// One server-sent event; JSON has no line feeds of its own.
fn as_event(line: &Line) -> String {
    format!(
        "id: {}\nevent: {}\ndata: {}\n\n",
        line.id, line.kind, line.json
    )
}

/// Says up to where all was looked at. An event without data is none to who listens.
fn keep_alive(id: Option<&str>) -> String {
    match id {
        None => ":\n\n".to_owned(),
        Some(id) => format!(":\nid: {id}\n\n"),
    }
}

/// A body that is written piece by piece.
struct Piped(mpsc::Receiver<io::Result<Bytes>>);

fn pipe() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (pipe, pieces) = mpsc::channel(1);
    (pipe, Body::new(Piped(pieces)))
}

impl hyper::body::Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// The type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// About how much is read before it is written.
const PIECE_BYTES: usize = 64 * 1024;

/// A follower hears something at least so often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How soon a follower comes back whose connection broke, ms.
const RETRY_MS: u32 = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_framed() {
        let line = Line {
            id: "17".to_owned(),
            kind: "NodeSilent",
            json: "{\"a\":\"\\n\"}".to_owned(),
        };
        assert_eq!(
            as_event(&line),
            "id: 17\nevent: NodeSilent\ndata: {\"a\":\"\\n\"}\n\n"
        );
        assert_eq!(
            as_lines(&[line.clone(), line]),
            "{\"a\":\"\\n\"}\n{\"a\":\"\\n\"}\n"
        );
        assert_eq!(keep_alive(None), ":\n\n");
        assert_eq!(keep_alive(Some("4")), ":\nid: 4\n\n");
    }

    #[test]
    fn an_empty_id_is_none() {
        let check = |given: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", given.parse().unwrap());
            assert_eq!(last_event_id(&headers).as_deref(), expected, "{given}");
        };
        check("7", Some("7"));
        check("", None);
        assert_eq!(last_event_id(&HeaderMap::new()), None);
    }
}
