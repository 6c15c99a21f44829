//! Sending: what waits in the buffer goes to the door or the brokers, oldest first, until it is
//! answered.
//!
//! A batch leaves the buffer after the answer, whatever the door took of it: a line that it rejects
//! would be rejected again. The brokers take all, or nothing is known. While nobody answers, or the
//! door asks to wait, the next try comes later and later, at most 30 s (or what the door asked for,
//! at most 300 s).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::buffer::{BATCH_BYTES_MAX, Batch, Buffer, Lane};
use super::client::{Answer, Client, beginning};
use super::{AgentError, Reach, stopped};
#[cfg(feature = "io")]
use crate::kafka;
use crate::model::Outcome;

/// What is to be sent; filled by the sampling and the obeying, emptied by the sending.
pub(super) struct Outbox {
    buffer: RefCell<Buffer>,
    filled: Notify,
    /// The disk did not take a sample: said once until it does again.
    stuck: Cell<bool>,
}

impl Outbox {
    pub(super) fn new(buffer: Buffer) -> Outbox {
        Outbox {
            buffer: RefCell::new(buffer),
            filled: Notify::new(),
            stuck: Cell::new(false),
        }
    }

    /// How many lines wait.
    pub(super) fn left(&self) -> u64 {
        self.buffer.borrow().lines()
    }

    /// Puts a report in; durable when it returns.
    pub(super) fn report(&self, outcome: &Outcome) -> Result<(), AgentError> {
        let line = serde_json::to_string(outcome).expect("an outcome has only names and numbers");
        self.put(Lane::Outcomes, &line)
    }

    /// Puts a sample in. A disk that takes none is no reason to stop: the next one may fit.
    pub(super) fn sample(&self, line: &str) {
        match self.put(Lane::Samples, line) {
            Ok(()) => self.stuck.set(false),
            Err(error) if self.stuck.replace(true) => drop(error),
            Err(error) => tracing::error!("a sample is lost: {error}"),
        }
    }

    fn put(&self, lane: Lane, line: &str) -> Result<(), AgentError> {
        let dropped = self.buffer.borrow_mut().push(lane, line)?;
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "the buffer is full: the oldest went (see [agent] buffer_kib)"
            );
        }
        self.filled.notify_one();
        Ok(())
    }
}

/// Empties the outbox.
pub(super) struct Sender<'a> {
    reach: &'a Reach,
    outbox: &'a Outbox,
    backoff: Backoff,
    link: Link,
    batch_max: u64,
}

/// What was answered to a batch.
enum Verdict {
    /// It is there, or will never be.
    Over,
    /// It is too large.
    TooLarge(String),
    /// It is to come again.
    Later {
        why: String,
        after: Option<Duration>,
    },
}

/// What came of one batch.
enum Sent {
    /// Nothing is left.
    All,
    /// There may be more.
    One,
    /// Not now.
    Later {
        why: String,
        after: Option<Duration>,
    },
}

impl<'a> Sender<'a> {
    /// `seed` tells this agent's tries from those of others that lost the same door.
    pub(super) fn new(reach: &'a Reach, outbox: &'a Outbox, seed: i64) -> Sender<'a> {
        Sender {
            reach,
            outbox,
            backoff: Backoff::new(seed),
            link: Link::new("sending"),
            batch_max: BATCH_BYTES_MAX,
        }
    }

    /// Sends what there is and what comes; once `finish` is true only what there is, and it gives
    /// up at the first trouble.
    ///
    /// # Errors
    /// The buffer's.
    pub(super) async fn run(
        &mut self,
        mut finish: watch::Receiver<bool>,
    ) -> Result<(), AgentError> {
        loop {
            let sent = self.send_one().await?;
            if matches!(sent, Sent::One) {
                continue;
            }
            if *finish.borrow() {
                return Ok(());
            }
            match sent {
                Sent::One => {}
                Sent::All => tokio::select! {
                    () = self.outbox.filled.notified() => {}
                    () = stopped(&mut finish) => {}
                },
                Sent::Later { why, after } => {
                    self.link.lost(&why);
                    let wait = self.backoff.next().max(after.unwrap_or_default());
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = stopped(&mut finish) => {}
                    }
                }
            }
        }
    }

    async fn send_one(&mut self) -> Result<Sent, AgentError> {
        let oldest = self.outbox.buffer.borrow_mut().oldest(self.batch_max)?;
        let Some(batch) = oldest else {
            return Ok(Sent::All);
        };
        let verdict = match self.reach {
            Reach::Door(client) => post(client, &batch).await,
            #[cfg(feature = "io")]
            Reach::Brokers(brokers) => match brokers.send(&batch).await {
                kafka::Sent::Taken(_) => Verdict::Over,
                kafka::Sent::TooLarge(why) => Verdict::TooLarge(why),
                kafka::Sent::Unknown(why) => Verdict::Later { why, after: None },
            },
        };
        self.settle(&batch, verdict)
    }

    /// What a verdict means for a batch.
    fn settle(&mut self, batch: &Batch, verdict: Verdict) -> Result<Sent, AgentError> {
        match verdict {
            Verdict::Over => {}
            Verdict::TooLarge(_) if batch.lines() > 1 => {
                self.batch_max = (batch.bytes.len() as u64 / 2).max(1);
                return Ok(Sent::One);
            }
            Verdict::TooLarge(why) => tracing::warn!("too large, dropped: {why}"),
            Verdict::Later { why, after } => return Ok(Sent::Later { why, after }),
        }
        self.backoff.reset();
        self.link.found();
        self.batch_max = (self.batch_max * 2).min(BATCH_BYTES_MAX);
        self.outbox.buffer.borrow_mut().sent(batch)?;
        Ok(Sent::One)
    }
}

/// Sends a batch to the door.
async fn post(client: &Client, batch: &Batch) -> Verdict {
    let path = match batch.lane {
        Lane::Outcomes => "/v1/outcomes",
        Lane::Samples => "/v1/metrics",
    };
    let sending = client.send("POST", path, NDJSON, batch.bytes.clone());
    match sending.await {
        Ok(answer) => judge(client, batch, path, &answer),
        Err(error) => Verdict::Later {
            why: error.to_string(),
            after: None,
        },
    }
}

/// What the door's answer means.
fn judge(client: &Client, batch: &Batch, path: &str, answer: &Answer) -> Verdict {
    let words = beginning(&answer.body);
    match answer.status {
        200..=299 => {
            say_rejected(batch, path, &answer.body);
            Verdict::Over
        }
        413 => Verdict::TooLarge(format!("{path} answered 413: {words}")),
        status @ (400 | 422) => {
            let lines = batch.lines();
            tracing::warn!(lines, "{path} answered {status}, dropped: {words}");
            Verdict::Over
        }
        status => Verdict::Later {
            why: format!(
                "POST {path} on {}: answered {status}: {words}",
                client.server()
            ),
            after: answer
                .retry_after_s
                .map(|s| Duration::from_secs(s.min(300))),
        },
    }
}

const NDJSON: &str = "application/x-ndjson";

/// Says which lines the door did not take, and why: they will not be sent again.
fn say_rejected(batch: &Batch, path: &str, body: &[u8]) {
    #[derive(Deserialize)]
    struct Taken {
        #[serde(default)]
        rejected: Vec<Rejected>,
    }
    #[derive(Deserialize)]
    struct Rejected {
        line: usize,
        reason: String,
    }
    let Ok(taken) = serde_json::from_slice::<Taken>(body) else {
        return;
    };
    let lines: Vec<&[u8]> = batch.bytes.split(|&b| b == b'\n').collect();
    for Rejected { line, reason } in taken.rejected {
        let text = line.checked_sub(1).and_then(|at| lines.get(at));
        let text = beginning(text.copied().unwrap_or_default());
        tracing::warn!(reason, "{path} rejected, dropped: {text}");
    }
}

/// Waits between tries: from half a second on, doubled each time, at most 30 s, less up to half of
/// it by chance, so that a thousand agents do not come back in one moment.
pub(super) struct Backoff {
    seed: u64,
    tries: u32,
}

impl Backoff {
    pub(super) fn new(seed: i64) -> Backoff {
        Backoff {
            seed: seed as u64,
            tries: 0,
        }
    }

    /// How long to wait before the next try.
    pub(super) fn next(&mut self) -> Duration {
        const FIRST_MS: u64 = 500;
        const LONGEST_MS: u64 = 30_000;
        let whole = (FIRST_MS << self.tries.min(10)).min(LONGEST_MS);
        self.tries = self.tries.saturating_add(1);
        // Steps of splitmix64: any number will do, as long as agents have different ones.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Duration::from_millis(whole - (mixed >> 33) % (whole / 2))
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Says when a connection is lost and when it is found again; once each.
pub(super) struct Link {
    what: &'static str,
    lost: bool,
}

impl Link {
    pub(super) fn new(what: &'static str) -> Link {
        Link { what, lost: false }
    }

    pub(super) fn lost(&mut self, why: &str) {
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!("{}: {why}; trying again", self.what);
        }
    }

    pub(super) fn found(&mut self) {
        if std::mem::take(&mut self.lost) {
            tracing::info!("{}: connected again", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::client::Server;
    use crate::agent::scratch::Scratch;

    /// Three samples meet these answers, a status and a body each; so many lines are left then.
    fn check(answers: &[(u16, &str)], left: u64) {
        let scratch = Scratch::new(&format!("outbox-{}", answers[0].0));
        let outbox = Outbox::new(Buffer::open(&scratch.0, 1 << 20).unwrap());
        for seq in 1..=3 {
            outbox.sample(&format!("{{\"seq\":{seq}}}"));
        }
        let client = Client::new(Server::Socket("nobody".into()), Duration::from_secs(1));
        let reach = Reach::Door(client.clone());
        let mut sender = Sender::new(&reach, &outbox, 7);
        for (status, body) in answers {
            let oldest = outbox.buffer.borrow_mut().oldest(sender.batch_max).unwrap();
            let batch = oldest.unwrap();
            let answer = Answer {
                status: *status,
                date: None,
                retry_after_s: Some(1000),
                body: body.as_bytes().to_vec(),
            };
            let verdict = judge(&client, &batch, "/v1/metrics", &answer);
            let sent = sender.settle(&batch, verdict).unwrap();
            if let Sent::Later { why, after } = sent {
                assert!(why.contains(&status.to_string()), "{why}");
                assert_eq!(after, Some(Duration::from_secs(300)), "a bound");
            }
        }
        assert_eq!(outbox.left(), left, "{answers:?}");
    }

    #[test]
    fn what_is_answered_leaves_the_buffer_whatever_was_taken_of_it() {
        check(&[(200, "{\"accepted\":3,\"rejected\":[]}")], 0);
        let rejected = "{\"accepted\":2,\"rejected\":[{\"line\":2,\"reason\":\"bad_time\"}]}";
        check(&[(201, rejected)], 0);
        check(&[(202, "what is this")], 0);
        check(&[(400, "nothing could be read")], 0);
    }

    #[test]
    fn who_is_told_to_wait_or_is_not_understood_keeps_it() {
        for status in [429, 503, 500, 404, 401, 302] {
            check(&[(status, "later")], 3);
        }
    }

    #[test]
    fn what_is_too_large_is_halved_and_a_single_line_dropped() {
        check(&[(413, ""), (200, "{}")], 2);
        check(&[(413, ""), (413, "")], 2);
    }

    #[test]
    fn waits_grow_to_a_bound_and_differ_between_agents() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            std::iter::from_fn(move || Some(backoff.next().as_millis())).take(100)
        };
        for (at, wait) in waits(7).enumerate() {
            let whole = (500_u128 << at.min(10)).min(30_000);
            assert!(wait > whole / 2 && wait <= whole, "{at}: {wait}");
        }
        assert!(waits(7).ne(waits(8)));
    }

    #[test]
    fn after_a_success_it_is_soon_again() {
        let mut backoff = Backoff::new(7);
        for _ in 0..20 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(500));
    }
}
