//! Whether the loop lives and is ready, and how it works: told by who drives it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::Response;
use prometheus::{Histogram, HistogramOpts};

use crate::stream::Topic;

use super::Door;
use super::answer::typed;

/// A phase of the loop whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Reading and judging samples.
    Monitor,
    /// Folding them.
    Analyze,
    /// Deciding.
    Plan,
    /// From an order's appearance to its outcome.
    Execute,
    /// Evolving rows by events.
    Knowledge,
}

impl Phase {
    /// All five, in order.
    pub const ALL: [Phase; 5] = [
        Phase::Monitor,
        Phase::Analyze,
        Phase::Plan,
        Phase::Execute,
        Phase::Knowledge,
    ];

    /// The name on `/metrics`.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Monitor => "monitor",
            Phase::Analyze => "analyze",
            Phase::Plan => "plan",
            Phase::Execute => "execute",
            Phase::Knowledge => "knowledge",
        }
    }
}

/// The loop's pulse: its driver feels it, the door shows it. Every call is short.
pub struct Pulse {
    beat: Mutex<Beat>,
    commit_seconds: Histogram,
    turn_seconds: Histogram,
}

/// What is known of the loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Beat {
    /// When the worker last came round.
    last_turn: Option<Instant>,
    /// Whether it had nothing left to fold then.
    pub(super) caught_up: bool,
    /// Records folded, by stage.
    pub(super) folded: BTreeMap<&'static str, u64>,
    /// Time spent, by phase.
    pub(super) spent: BTreeMap<&'static str, Duration>,
    /// Other counts, by name: `commits_failed`, `rows_written`, `ticks`.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Why the loop ended, if it did.
    pub(super) stopped: Option<String>,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse::new()
    }
}

impl Pulse {
    /// Before the first beat.
    pub fn new() -> Self {
        let histogram = |name: &str, words: &str| {
            let buckets = [
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
            ];
            let opts = HistogramOpts::new(name, words).buckets(buckets.to_vec());
            Histogram::with_opts(opts).expect("the name is one")
        };
        Pulse {
            beat: Mutex::default(),
            commit_seconds: histogram("homeostat_commit_seconds", "How long commits took."),
            turn_seconds: histogram(
                "homeostat_turn_seconds",
                "How long the worker's turns with records took: poll, fold, commit, apply.",
            ),
        }
    }

    /// The worker came round; `caught_up` when nothing is left to fold.
    pub fn turned(&self, caught_up: bool) {
        let mut beat = self.beat();
        beat.last_turn = Some(Instant::now());
        beat.caught_up = caught_up;
    }

    /// A turn that had records took so long.
    pub fn worked(&self, took: Duration) {
        self.turn_seconds.observe(took.as_secs_f64());
    }

    /// A stage has folded `records` more.
    pub fn folded(&self, stage: &'static str, records: u64) {
        *self.beat().folded.entry(stage).or_default() += records;
    }

    /// A commit took so long.
    pub fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A phase took so much time.
    pub fn spent(&self, phase: Phase, time: Duration) {
        *self.beat().spent.entry(phase.name()).or_default() += time;
    }

    /// Something else was counted: `commits_failed`, `rows_written`, `ticks`.
    pub fn counted(&self, what: &'static str, more: u64) {
        *self.beat().counts.entry(what).or_default() += more;
    }

    /// The loop ended, for this reason.
    pub fn stopped(&self, reason: impl Into<String>) {
        self.beat().stopped = Some(reason.into());
    }

    /// Whether the worker had nothing left to fold when it last came round.
    pub fn is_caught_up(&self) -> bool {
        self.beat().caught_up
    }

    pub(super) fn now(&self) -> Beat {
        self.beat().clone()
    }

    pub(super) fn histograms(&self) -> [Histogram; 2] {
        [self.commit_seconds.clone(), self.turn_seconds.clone()]
    }

    fn beat(&self) -> std::sync::MutexGuard<'_, Beat> {
        // What a panic elsewhere left is a count at worst.
        self.beat
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// `GET /livez`: offsets move, or there is nothing to do.
pub(super) fn live(door: &Door) -> Response {
    answer(&why_not_live(&Signs::of(door)))
}

/// `GET /readyz`: live, and what is sent is taken in.
pub(super) fn ready(door: &Door) -> Response {
    answer(&why_not_ready(&Signs::of(door)))
}

fn answer(reasons: &[String]) -> Response {
    let (status, text) = if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    };
    typed(status, "text/plain; charset=utf-8", text)
}

/// What health is read from.
#[derive(Clone, Debug)]
struct Signs {
    failure: Option<String>,
    stopped: Option<String>,
    /// How long ago the worker came round; `None`: never yet.
    turned: Option<Duration>,
    waiting: i64,
    queue_max: i64,
    /// `None`: the log lies elsewhere.
    free_mib: Option<u64>,
    min_free_mib: u64,
    /// Why nothing can be taken in now.
    trouble: Option<String>,
    named: bool,
}

impl Signs {
    fn of(door: &Door) -> Self {
        let beat = door.pulse.now();
        Signs {
            failure: door.log.failure(),
            stopped: beat.stopped,
            turned: beat.last_turn.map(|at| at.elapsed()),
            waiting: door.log.waiting(Topic::Metrics) + door.log.waiting(Topic::PlanInbox),
            queue_max: door.settings.queue_max,
            free_mib: door.log.free_bytes().map(|bytes| bytes / (1 << 20)),
            min_free_mib: door.min_free_mib,
            trouble: door.log.trouble(),
            named: door.log.title().is_some(),
        }
    }
}

fn why_not_live(signs: &Signs) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(failure) = &signs.failure {
        reasons.push(format!("the log failed: {failure}"));
    }
    if let Some(reason) = &signs.stopped {
        reasons.push(format!("the loop stopped: {reason}"));
    }
    match signs.turned {
        Some(ago) if signs.waiting > 0 && ago > STUCK_AFTER => reasons.push(format!(
            "the loop did not come round for {} s while {} records wait for it",
            ago.as_secs(),
            signs.waiting
        )),
        _ => {}
    }
    reasons
}

fn why_not_ready(signs: &Signs) -> Vec<String> {
    let mut reasons = why_not_live(signs);
    if !signs.named {
        reasons.push("the log is not opened yet".to_owned());
    }
    if signs.turned.is_none() {
        reasons.push("the loop has not begun yet".to_owned());
    }
    if signs.waiting > signs.queue_max {
        reasons.push(format!(
            "{} records wait for the loop, more than web.queue_max = {}",
            signs.waiting, signs.queue_max
        ));
    }
    if let Some(free_mib) = signs.free_mib
        && free_mib < signs.min_free_mib
    {
        reasons.push(format!(
            "{free_mib} MiB are free on the log's disk, less than log.min_free_mib = {}",
            signs.min_free_mib
        ));
    }
    reasons.extend(signs.trouble.clone());
    reasons
}

/// A worker comes round several times a second; a commit on a slow disk may take seconds.
const STUCK_AFTER: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Signs {
        Signs {
            failure: None,
            stopped: None,
            turned: Some(Duration::ZERO),
            waiting: 3,
            queue_max: 10,
            free_mib: Some(1000),
            min_free_mib: 512,
            trouble: None,
            named: true,
        }
    }

    fn check(change: impl FnOnce(&mut Signs), live: Option<&str>, ready: Option<&str>) {
        let mut signs = well();
        change(&mut signs);
        for (reasons, expected) in [(why_not_live(&signs), live), (why_not_ready(&signs), ready)] {
            match expected {
                None => assert_eq!(reasons, [""; 0], "{signs:?}"),
                Some(words) => assert!(
                    reasons.iter().any(|reason| reason.contains(words)),
                    "{signs:?}: {reasons:?}"
                ),
            }
        }
    }

    #[test]
    fn each_reason_is_named() {
        check(|_| {}, None, None);
        let failed = Some("the log failed: disk");
        check(|s| s.failure = Some("disk".into()), failed, failed);
        let stopped = Some("the loop stopped: x");
        check(|s| s.stopped = Some("x".into()), stopped, stopped);
        let stuck = Some("did not come round for 60 s while 3 records");
        check(|s| s.turned = Some(Duration::from_secs(60)), stuck, stuck);
        check(
            |s| (s.turned, s.waiting) = (Some(Duration::from_secs(60)), 0),
            None,
            None,
        );
        check(|s| s.turned = None, None, Some("not begun"));
        check(
            |s| s.waiting = 11,
            None,
            Some("more than web.queue_max = 10"),
        );
        check(
            |s| s.free_mib = Some(511),
            None,
            Some("log.min_free_mib = 512"),
        );
        check(|s| s.free_mib = None, None, None);
        let trouble = Some("the brokers do not answer");
        check(|s| s.trouble = trouble.map(str::to_owned), None, trouble);
        check(|s| s.named = false, None, Some("not opened"));
    }

    #[test]
    fn a_pulse_adds_up() {
        let pulse = Pulse::new();
        assert!(!pulse.is_caught_up());
        pulse.folded("analyze", 3);
        pulse.folded("analyze", 4);
        pulse.spent(Phase::Plan, Duration::from_millis(5));
        pulse.spent(Phase::Plan, Duration::from_millis(6));
        pulse.turned(true);
        pulse.committed(Duration::from_millis(1));
        let beat = pulse.now();
        assert_eq!(beat.folded["analyze"], 7);
        assert_eq!(beat.spent["plan"], Duration::from_millis(11));
        assert!(pulse.is_caught_up() && beat.last_turn.is_some());
        assert_eq!(pulse.histograms()[0].get_sample_count(), 1);
    }
}
