//! A request's body: within its limit, within its time, and within what all bodies together may
//! take.
//!
//! 1. A length that is said and too large is refused before a byte is read.
//! 2. Every piece that arrives takes its room from a common budget, so that many large bodies do
//!    not grow the process; who finds no room in time is told to come again, and gives its own
//!    back.
//! 3. The whole body must arrive before the deadline.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::Refusal;

/// How bodies are read.
pub(super) struct Bodies {
    /// KiB that bodies may take in all.
    room: Arc<Semaphore>,
    max_kib: usize,
    patience: Duration,
}

/// A whole body; its room is given back when it goes.
pub(super) struct Held {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl std::ops::Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    /// Bodies of at most `max_kib` each that arrive within `patience`.
    pub(super) fn new(max_kib: usize, patience: Duration) -> Self {
        let room = max_kib.saturating_mul(BODIES_AT_A_TIME);
        Bodies {
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            max_kib,
            patience,
        }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// Too large, too slow, encoded, cut off, or no room.
    pub(super) async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<Held, Refusal> {
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING) {
            let plain = encoding.as_bytes().eq_ignore_ascii_case(b"identity");
            if !plain {
                return Err(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "an encoded body: expected none; send it without content-encoding",
                ));
            }
        }
        let said = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let max = self.max_kib.saturating_mul(1024);
        if said.is_some_and(|length| length > max as u64) {
            return Err(self.too_large());
        }
        let deadline = Instant::now() + self.patience;
        let mut room = None;
        let mut first = Bytes::new();
        let mut whole = Vec::new();
        loop {
            let frame = match timeout_at(deadline, body.frame()).await {
                Err(_) => return Err(self.too_slow()),
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    return Err(Refusal::bad(format!(
                        "reading the body: {error}; send it whole"
                    )));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            let length = first.len().max(whole.len()) + piece.len();
            if length > max {
                return Err(self.too_large());
            }
            self.make_room(&mut room, length).await?;
            if first.is_empty() && whole.is_empty() {
                first = piece;
                continue;
            }
            if whole.is_empty() {
                whole.reserve(said.map_or(length * 2, |said| said as usize));
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Held {
            bytes: if whole.is_empty() {
                first
            } else {
                whole.into()
            },
            _room: room,
        })
    }

    /// Takes what is missing to room for `length` bytes.
    async fn make_room(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        length: usize,
    ) -> Result<(), Refusal> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(1024).saturating_sub(has);
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).map_err(|_| self.too_large())?;
        let more = self.room.clone().acquire_many_owned(missing);
        let Ok(Ok(more)) = timeout(ROOM_PATIENCE, more).await else {
            return Err(Refusal::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many large bodies at once: nothing of this one was taken; send it again",
                1,
            ));
        };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }

    fn too_large(&self) -> Refusal {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "a body of more than {max} KiB: expected at most {max} KiB (web.body_max_kib); \
                 send it in parts",
                max = self.max_kib
            ),
        )
    }

    fn too_slow(&self) -> Refusal {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the body did not arrive within {} s (web.read_timeout_s): nothing of it was \
                 taken; send it again, or in parts",
                self.patience.as_secs()
            ),
        )
    }
}

/// So many bodies of the largest size fit in at a time; more that are smaller.
const BODIES_AT_A_TIME: usize = 4;

/// How long a body waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test)
    }

    fn length(bytes: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, bytes.into());
        headers
    }

    #[test]
    fn a_body_within_its_limit_comes_whole() {
        run(async {
            let bodies = Bodies::new(1, Duration::from_secs(5));
            for size in [0, 1, 1023, 1024] {
                let body = Body::from(vec![7; size]);
                let held = bodies.read(&HeaderMap::new(), body).await.ok().unwrap();
                assert_eq!(&*held, vec![7; size]);
            }
            assert_eq!(bodies.room.available_permits(), BODIES_AT_A_TIME);
        });
    }

    #[test]
    fn a_length_beyond_it_is_refused_unread() {
        run(async {
            let bodies = Bodies::new(1, Duration::from_secs(5));
            let refused = bodies.read(&length(1 << 30), Body::empty()).await;
            assert_eq!(refused.err().unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
            let refused = bodies
                .read(&HeaderMap::new(), Body::from(vec![0; 1025]))
                .await;
            assert_eq!(refused.err().unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
        });
    }

    #[test]
    fn without_room_a_body_is_to_come_again_and_holds_nothing() {
        run(async {
            let bodies = Bodies::new(1, Duration::from_secs(5));
            let mut held = Vec::new();
            for _ in 0..BODIES_AT_A_TIME {
                let body = Body::from(vec![0; 1024]);
                held.push(bodies.read(&HeaderMap::new(), body).await.ok().unwrap());
            }
            let refused = bodies.read(&HeaderMap::new(), Body::from("x")).await;
            let refused = refused.err().unwrap();
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(refused.retry_after_s, Some(1));
            held.clear();
            assert_eq!(bodies.room.available_permits(), BODIES_AT_A_TIME);
        });
    }

    #[test]
    fn what_is_encoded_is_refused() {
        run(async {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
            let bodies = Bodies::new(1, Duration::from_secs(5));
            let refused = bodies.read(&headers, Body::from("x")).await.err().unwrap();
            assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        });
    }
}
