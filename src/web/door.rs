//! What every request may use: the log, the limits, what is counted and what is remembered.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use crate::config::settings::{Settings, WebSettings};
use crate::model::{FOREVER, Policy, Span, Time};
use crate::runtime::{LogHandle, Source, TimeSource};

use super::Pulse;
use super::answer::Refusal;
use super::body::Bodies;
use super::dashboard::Page;
use super::links::Links;
use super::metrics::Tally;
use super::story::Story;

/// The door of a loop. It keeps nothing that a restart would miss.
pub struct Door {
    pub(super) log: Box<dyn LogHandle>,
    pub(super) settings: WebSettings,
    pub(super) min_free_mib: u64,
    pub(super) pulse: Arc<Pulse>,
    pub(super) tally: Tally,
    pub(super) bodies: Bodies,
    pub(super) links: Mutex<Links>,
    pub(super) story: Story,
    pub(super) page: Page,
    pub(super) followers: Arc<Semaphore>,
    /// Says when the door closes.
    pub(super) stopping: watch::Sender<bool>,
    readers: Semaphore,
    writers: Semaphore,
    /// How far ahead of append time a sample may lie, ms: the largest of the policies in force.
    max_future_ms: AtomicI64,
}

impl Door {
    /// A door to this log; `pulse` is what its loop's driver tells.
    pub fn new(log: impl LogHandle + 'static, settings: &Settings, pulse: Arc<Pulse>) -> Self {
        let web = settings.web.clone();
        let max_future = Span::seconds(Policy::default().monitor.max_future_s);
        Door {
            story: Story::new(&log),
            min_free_mib: settings.log.min_free_mib,
            pulse,
            tally: Tally::new(),
            bodies: Bodies::new(web.body_max_kib, Duration::from_secs(web.read_timeout_s)),
            links: Mutex::default(),
            page: Page::new(),
            followers: Arc::new(Semaphore::new(web.followers_max)),
            stopping: watch::Sender::new(false),
            readers: Semaphore::new(READS_AT_A_TIME),
            writers: Semaphore::new(WRITES_AT_A_TIME),
            max_future_ms: AtomicI64::new(max_future.0),
            settings: web,
            log: Box::new(log),
        }
    }

    /// A reader of the log.
    ///
    /// # Errors
    /// None can be made.
    pub(super) fn source(&self) -> Result<Box<dyn Source + Send>, Refusal> {
        let source = self.log.source();
        source.map_err(|error| Refusal::failed("reading the log", &error))
    }

    /// Partitions of every topic.
    pub(super) fn partitions(&self) -> i32 {
        self.log.title().map_or(1, |title| title.partitions)
    }

    /// What a sample's time is held against, and by how much it may lie ahead.
    pub(super) fn horizon(&self) -> (Time, Span) {
        let own_time = self
            .log
            .title()
            .is_some_and(|title| title.time_source == TimeSource::Sample);
        let now = if own_time { FOREVER } else { self.log.now() };
        (now, Span(self.max_future_ms.load(Ordering::Relaxed)))
    }

    /// A policy is in force: what it lets in the door lets in.
    pub(super) fn allow_future(&self, max_future: Span) {
        self.max_future_ms
            .fetch_max(max_future.0, Ordering::Relaxed);
    }

    /// Reads the log or rows where that may block, a few at a time.
    ///
    /// # Errors
    /// What `read` answers; or it panicked.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Door) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _turn = self.readers.acquire().await.map_err(|_| closing())?;
        self.aside(read).await
    }

    /// Takes something in where that may block, a few at a time.
    ///
    /// # Errors
    /// What `write` answers; or it panicked.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        write: impl FnOnce(&Door) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _turn = self.writers.acquire().await.map_err(|_| closing())?;
        self.aside(write).await
    }

    /// Does what may block, at once.
    ///
    /// # Errors
    /// What `work` answers; or it panicked.
    pub(super) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Door) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let door = self.clone();
        spawn_blocking(move || work(&door))
            .await
            .unwrap_or_else(|error| {
                Err(Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("answering: {error}; this is a fault of the program, report it"),
                ))
            })
    }
}

/// The door is being closed.
pub(super) fn closing() -> Refusal {
    Refusal::later(
        StatusCode::SERVICE_UNAVAILABLE,
        "the process is stopping; ask again when it runs",
        2,
    )
}

/// Reads at a time: enough that one long read does not hold up the others, few enough that many of
/// them leave the loop its cores.
const READS_AT_A_TIME: usize = 4;

/// Bodies taken apart and appended at a time; they have their turns apart from reads, so that no
/// reader holds up a sender.
const WRITES_AT_A_TIME: usize = 4;
