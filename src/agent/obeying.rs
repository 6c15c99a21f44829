//! Obeying: directives are followed at the door, or on the brokers, and done once each.
//!
//! The rule and the order of its durable steps is [`crate::execute`]'s; here are the door, the
//! journal and the hands.
//!
//! - Right before a directive is judged the door is asked what its log is called and what time it
//!   is: an order of a log that was replaced, or one that lay somewhere for too long, is not begun.
//! - An event counts as seen (its id is what the next connection resumes behind) when its outcome
//!   is in the buffer. A start begins without an id, a longest ttl back, and reports once more what
//!   the journal holds: a crash between the journal and the buffer loses no outcome.
//!
//! On the brokers nobody is asked: the log is the one that the order names (only Plan may write
//! there), the time that of `brokers.rs`, and what comes next is a record's offset.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

#[cfg(feature = "io")]
use super::brokers::{Brokers, News, Order};
use super::client::{Client, SseEvent, beginning, quote};
use super::executor::{Hands, sample_every};
use super::folder::Folder;
use super::journal::Journal;
use super::outbox::{Backoff, Link, Outbox};
use super::{AgentError, Reach, stopped};
use crate::execute::{Admission, Answer, Progress, obey, settle};
use crate::model::{Action, Directive, NodeKey, Outcome, OutcomeResult, Time};
#[cfg(feature = "io")]
use crate::stream::Topic;
use crate::wire;
#[cfg(feature = "io")]
use crate::wire::leaving::own_form;

/// For how long it is believed what the door said of its log.
const LEARNED_LASTS: Duration = Duration::from_secs(1);

/// A connection that lasted so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Follows and does directives.
pub(super) struct Obeyer<'a> {
    reach: &'a Reach,
    folder: &'a Folder,
    node: &'a NodeKey,
    outbox: &'a Outbox,
    /// The interval it samples at by itself, s.
    own_interval_s: f64,
    interval_s: watch::Sender<f64>,
    /// Not there while they work.
    hands: Option<Hands>,
    log: Option<Log>,
    learned: Option<(Learned, Instant)>,
    last_event_id: Option<String>,
}

/// The log that is obeyed.
struct Log {
    id: String,
    /// Not there while a directive is done.
    memory: Option<Memory>,
    /// What was begun before a crash is settled.
    settled: bool,
}

struct Memory {
    admission: Admission,
    journal: Journal,
}

/// What is known of the log.
#[derive(Clone, Debug)]
struct Learned {
    log_id: String,
    /// It is no later than this there. `None`: its time is the samples' own, which no clock shows;
    /// then nothing is known to be over.
    now: Option<Time>,
}

/// Why following ended.
enum Ended {
    Stopped,
    Lost(String),
}

impl<'a> Obeyer<'a> {
    /// Takes up what the journal of the log that was obeyed last says; `interval_s` then is what it
    /// was told.
    pub(super) fn new(
        reach: &'a Reach,
        folder: &'a Folder,
        node: &'a NodeKey,
        outbox: &'a Outbox,
        hands: Hands,
        interval_s: watch::Sender<f64>,
    ) -> Result<Obeyer<'a>, AgentError> {
        let own_interval_s = *interval_s.borrow();
        let mut obeyer = Obeyer {
            reach,
            folder,
            node,
            outbox,
            own_interval_s,
            interval_s,
            hands: Some(hands),
            log: None,
            learned: None,
            last_event_id: None,
        };
        if let Some(log_id) = folder.log_id()? {
            obeyer.open(log_id)?;
        }
        Ok(obeyer)
    }

    /// Obeys until it is told to stop; what is under way then ends first.
    ///
    /// # Errors
    /// The journal's or the buffer's: what memory holds is then not what a restart will find.
    pub(super) async fn run(
        mut self,
        seed: i64,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), AgentError> {
        // Another number than the sending has: they do not come back in one moment.
        let mut backoff = Backoff::new(!seed);
        let mut link = Link::new("following directives");
        loop {
            let began = Instant::now();
            let ended = match self.reach {
                Reach::Door(client) => self.follow(client, &mut stop, &mut link).await?,
                #[cfg(feature = "io")]
                Reach::Brokers(brokers) => return self.heed(brokers, stop, link).await,
            };
            match ended {
                Ended::Stopped => return Ok(()),
                Ended::Lost(why) => link.lost(&why),
            }
            if began.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = stopped(&mut stop) => return Ok(()),
            }
        }
    }

    /// One connection: learns the log, settles, follows.
    async fn follow(
        &mut self,
        client: &Client,
        stop: &mut watch::Receiver<bool>,
        link: &mut Link,
    ) -> Result<Ended, AgentError> {
        self.learned = None;
        let learned = tokio::select! {
            learned = self.learn(client) => learned,
            () = stopped(stop) => return Ok(Ended::Stopped),
        };
        let learned = match learned {
            Ok(learned) => learned,
            Err(why) => return Ok(Ended::Lost(why)),
        };
        self.adopt(learned).await?;
        let path = self.path();
        let following = tokio::select! {
            events = client.follow(&path, self.last_event_id.as_deref()) => events,
            () = stopped(stop) => return Ok(Ended::Stopped),
        };
        let mut events = match following {
            Ok(events) => events,
            Err(error) => return Ok(Ended::Lost(error.to_string())),
        };
        link.found();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stopped(stop) => return Ok(Ended::Stopped),
            };
            let ended = match event {
                Ok(Some(event)) => self.take(client, event, stop).await?,
                Ok(None) => Some(Ended::Lost("the door ended the stream".to_owned())),
                Err(error) => Some(Ended::Lost(error.to_string())),
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    fn path(&self) -> String {
        let (mesh, node) = (self.node.mesh.as_str(), self.node.node.as_str());
        let from = match self.last_event_id {
            Some(_) => "",
            None => "&since_ttl=1",
        };
        format!(
            "/v1/directives?mesh={}&node={}{from}",
            quote(mesh),
            quote(node)
        )
    }

    /// Asks the door for its log and its time, unless it said so a moment ago.
    async fn learn(&mut self, client: &Client) -> Result<Learned, String> {
        #[derive(Deserialize)]
        struct LogForm {
            log_id: String,
            #[serde(default)]
            time_source: String,
        }
        if let Some((learned, at)) = &self.learned
            && at.elapsed() < LEARNED_LASTS
        {
            return Ok(learned.clone());
        }
        let asked = client.send("GET", "/v1/log", "", Vec::new()).await;
        let answer = asked.map_err(|error| error.to_string())?;
        let wrong = |words: &str| {
            let server = client.server();
            format!(
                "GET /v1/log on {server}: answered {}: {words}",
                answer.status
            )
        };
        if answer.status != 200 {
            return Err(wrong(&beginning(&answer.body)));
        }
        let form: LogForm = serde_json::from_slice(&answer.body)
            .map_err(|_| wrong("no log is named (is it a Homeostat's door?)"))?;
        let now = match (form.time_source.as_str(), answer.date) {
            ("sample", _) => None,
            // A date is cut to the second: what may be over is over.
            (_, Some(Time(ms))) => Some(Time(ms + 999)),
            (_, None) => return Err(wrong("no Date is given, so no time to expire by")),
        };
        let learned = Learned {
            log_id: form.log_id,
            now,
        };
        self.learned = Some((learned.clone(), Instant::now()));
        Ok(learned)
    }

    /// Obeys this log from now on, and settles what was begun before a crash.
    async fn adopt(&mut self, learned: Learned) -> Result<(), AgentError> {
        let known = self.log.as_ref().map(|log| log.id.clone());
        if known.as_ref() != Some(&learned.log_id) {
            if let Some(old) = known {
                let new = &learned.log_id;
                tracing::warn!(
                    old,
                    new,
                    "there is another log: what the old one ordered is set aside, and counts \
                     again only if that log comes back"
                );
            }
            self.last_event_id = None;
            self.open(learned.log_id.clone())?;
            self.folder.keep_log_id(&learned.log_id)?;
        }
        if self.log.as_ref().is_some_and(|log| log.settled) {
            return Ok(());
        }
        let now = learned.now.unwrap_or_default();
        let outcomes = self
            .work(move |memory, hands| {
                let journal = &mut |row: &_| memory.journal.append(row);
                settle(&mut memory.admission, hands, journal, now)?;
                let ended = memory
                    .admission
                    .rows()
                    .filter_map(|row| match &row.progress {
                        Progress::Done(outcome) => Some(outcome.clone()),
                        Progress::Begun => None,
                    });
                Ok(ended.collect::<Vec<Outcome>>())
            })
            .await?;
        for outcome in &outcomes {
            self.outbox.report(outcome)?;
        }
        self.log.as_mut().expect("a log is adopted").settled = true;
        Ok(())
    }

    /// Opens the journal of a log and takes up the interval that it says.
    fn open(&mut self, log_id: String) -> Result<(), AgentError> {
        let (journal, admission) = Journal::open(self.folder, self.node, &log_id)?;
        let told = told_interval_s(&admission);
        let interval_s = told.map_or(self.own_interval_s, f64::from);
        sample_every(&self.interval_s, interval_s);
        self.log = Some(Log {
            id: log_id,
            memory: Some(Memory { admission, journal }),
            settled: false,
        });
        Ok(())
    }

    /// Judges and does one event's directive; `Some`: following ended over it, and the event comes
    /// again.
    async fn take(
        &mut self,
        client: &Client,
        event: SseEvent,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<Ended>, AgentError> {
        match wire::json::decode_directive(event.data.as_bytes()) {
            Err(reject) => tracing::warn!(
                offset = event.id,
                "passed over: {}: {}",
                reject.reason,
                reject.detail
            ),
            Ok(directive) => {
                let learned = tokio::select! {
                    learned = self.learn(client) => learned,
                    () = stopped(stop) => return Ok(Some(Ended::Stopped)),
                };
                let learned = match learned {
                    Ok(learned) => learned,
                    Err(why) => return Ok(Some(Ended::Lost(why))),
                };
                if self.log.as_ref().is_none_or(|log| log.id != learned.log_id) {
                    let why = format!("the log is now {}", learned.log_id);
                    return Ok(Some(Ended::Lost(why)));
                }
                let now = learned.now.unwrap_or(directive.issued_at);
                self.obey(directive, now).await?;
            }
        }
        if !event.id.is_empty() {
            self.last_event_id = Some(event.id);
        }
        Ok(None)
    }

    /// Obeys what comes from the brokers, until it is told to stop.
    #[cfg(feature = "io")]
    async fn heed(
        &mut self,
        brokers: &Brokers,
        mut stop: watch::Receiver<bool>,
        mut link: Link,
    ) -> Result<(), AgentError> {
        let mut news = brokers.news();
        let mut timed = false;
        loop {
            let said = tokio::select! {
                () = stopped(&mut stop) => return Ok(()),
                () = brokers.timed(), if !timed => None,
                said = news.recv() => said,
            };
            match said {
                None => {
                    assert!(!timed, "the reading thread lives as long as the brokers");
                    timed = true;
                    if let Some(log_id) = self.log.as_ref().map(|log| log.id.clone()) {
                        let now = brokers.now();
                        self.adopt(Learned { log_id, now }).await?;
                    }
                    brokers.follow();
                }
                Some(News::Open) => link.found(),
                Some(News::Lost(why)) => link.lost(&why),
                Some(News::Missing(what)) => return Err(AgentError::Topics(what)),
                Some(News::Order(order)) => {
                    link.found();
                    self.heed_one(brokers, &order).await?;
                }
            }
        }
    }

    /// Judges and does one record's directive, if it is for this node.
    #[cfg(feature = "io")]
    async fn heed_one(&mut self, brokers: &Brokers, order: &Order) -> Result<(), AgentError> {
        let own = own_form(Topic::Directives, &order.value, &order.headers);
        let directive = match own.and_then(|own| wire::json::decode_directive(&own)) {
            Ok(directive) => directive,
            Err(reject) => {
                let offset = order.offset;
                tracing::warn!(offset, "passed over: {}: {}", reject.reason, reject.detail);
                return Ok(());
            }
        };
        if directive.mesh != self.node.mesh || directive.node != self.node.node {
            return Ok(());
        }
        let log_id = directive.log_id.clone();
        let now = brokers.now().max(order.appended);
        self.adopt(Learned { log_id, now }).await?;
        let now = now.unwrap_or(directive.issued_at);
        self.obey(directive, now).await
    }

    async fn obey(&mut self, directive: Directive, now: Time) -> Result<(), AgentError> {
        let (id, action) = (directive.id.clone(), directive.action);
        let answer = self
            .work(move |memory, hands| {
                let journal = &mut |row: &_| memory.journal.append(row);
                let answer = obey(&mut memory.admission, hands, journal, &directive, now)?;
                memory.journal.tidy(&memory.admission)?;
                Ok(answer)
            })
            .await?;
        match answer {
            Answer::Report(outcome) => {
                let observed = outcome.observed.as_deref().unwrap_or("");
                let result = outcome.result.name();
                tracing::info!(id, ?action, result, observed, "directive");
                self.outbox.report(&outcome)
            }
            Answer::Ignored(why) => {
                tracing::info!(id, ?action, ?why, "directive ignored");
                Ok(())
            }
        }
    }

    /// Does something with journal and hands on a thread of its own, so that the sampling and the
    /// sending go on. Not to be cut short.
    async fn work<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Memory, &mut Hands) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let log = self.log.as_mut().expect("a log is adopted");
        let mut memory = log.memory.take().expect("one job at a time");
        let mut hands = self.hands.take().expect("one job at a time");
        let working = spawn_blocking(move || {
            let done = job(&mut memory, &mut hands);
            (memory, hands, done)
        });
        match working.await {
            Ok((memory, hands, done)) => {
                log.memory = Some(memory);
                self.hands = Some(hands);
                done
            }
            // A broken rule: the process must not go on as if nothing were.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// The interval that was ordered and taken up last, s.
fn told_interval_s(admission: &Admission) -> Option<u32> {
    admission
        .rows()
        .find_map(|row| match (&row.progress, row.directive.action) {
            (Progress::Done(outcome), Action::MonitoringInterval { interval_s })
                if outcome.result == OutcomeResult::Applied =>
            {
                Some(interval_s)
            }
            _ => None,
        })
}
