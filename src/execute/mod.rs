//! Execute: the agent's side of a directive, as a pure rule.
//!
//! Exactly once ends here. Directives may come twice, late, out of order or from another log; the
//! agent may die at any point. [`Admission`] answers, from what the agent journalled, whether a
//! directive is to be done, and [`obey`] holds the order of the durable steps:
//!
//! 1. [`Admission::admit`]: only [`Verdict::Begin`] goes on. *Crash: nothing has happened.*
//! 2. The journal has the row `Begun`, synced. *Crash: it may have been done or not; after
//!    [`Admission::recover`] an act that cannot be repeated is reported `unknown`, another is done
//!    again.*
//! 3. The [`Executor`] does it and reads it back. *Crash: as after 2.*
//! 4. The journal has the row `Done`, synced. *Crash: the directive, read again, is answered with
//!    the result.*
//! 5. The [`Outcome`] is sent. Twice is harmless: the log passes it on once per generation, kind
//!    and result.
//!
//! A journal that could not be written ends the process: what memory holds is then no longer what
//! a restart will find.

mod admission;

pub use admission::{Admission, Ignored, Progress, Recovery, Row, Verdict};

use crate::model::{Directive, Kind, OBSERVED_BYTES_MAX, Outcome, OutcomeResult, Time};

/// What an executor did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// How it ended.
    pub result: OutcomeResult,
    /// What was seen when it was read back; cut to [`OBSERVED_BYTES_MAX`] bytes in the outcome.
    pub observed: Option<String>,
}

/// What came of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this.
    Report(Outcome),
    /// Nothing is to be sent; worth counting.
    Ignored(Ignored),
}

/// What touches the node: a router's daemon, a command, a log, a simulated mesh.
///
/// An executor does what it is told or refuses; it does not think, compare generations, keep time
/// or try twice. It must
/// - do nothing that it was not configured to be allowed to do, and answer `Refused` then;
/// - answer `Applied` only after it read the new state back;
/// - answer `Failed` only when nothing was done, or what was done may be done again;
/// - answer `Unknown` when it cannot tell;
/// - for kinds that are [`idempotent`], end in the same state when told twice;
/// - return within a bounded time.
#[doc(alias = "MeshNetworkManager")]
pub trait Executor {
    /// Does one directive and reads it back.
    fn execute(&mut self, directive: &Directive) -> Execution;
}

/// Obeys one directive, or answers why not: steps 1 to 4 of the [module](self). `journal` returns
/// when its row is durable.
///
/// # Errors
/// The journal's. The agent must stop and start again from its journal.
pub fn obey<E>(
    admission: &mut Admission,
    executor: &mut impl Executor,
    journal: &mut impl FnMut(&Row) -> Result<(), E>,
    directive: &Directive,
    now: Time,
) -> Result<Answer, E> {
    match admission.admit(directive, now) {
        Verdict::Begin => {
            journal(admission.begin(directive))?;
            finish(admission, executor, journal, directive).map(Answer::Report)
        }
        Verdict::Report(outcome) => Ok(Answer::Report(outcome)),
        Verdict::Ignore(why) => Ok(Answer::Ignored(why)),
    }
}

/// Settles what was begun before a crash; the outcomes are to be sent. To be called once, before
/// the first [`obey`], with the log's time.
///
/// # Errors
/// As [`obey`].
pub fn settle<E>(
    admission: &mut Admission,
    executor: &mut impl Executor,
    journal: &mut impl FnMut(&Row) -> Result<(), E>,
    now: Time,
) -> Result<Vec<Outcome>, E> {
    admission
        .recover(now)
        .into_iter()
        .map(|recovery| match recovery {
            Recovery::Again(directive) => finish(admission, executor, journal, &directive),
            Recovery::Unknown(directive) => {
                let execution = Execution {
                    result: OutcomeResult::Unknown,
                    observed: Some("begun before a restart".to_owned()),
                };
                record(admission, journal, &directive, execution)
            }
        })
        .collect()
}

fn finish<E>(
    admission: &mut Admission,
    executor: &mut impl Executor,
    journal: &mut impl FnMut(&Row) -> Result<(), E>,
    directive: &Directive,
) -> Result<Outcome, E> {
    let execution = executor.execute(directive);
    record(admission, journal, directive, execution)
}

fn record<E>(
    admission: &mut Admission,
    journal: &mut impl FnMut(&Row) -> Result<(), E>,
    directive: &Directive,
    execution: Execution,
) -> Result<Outcome, E> {
    let Execution { result, observed } = execution;
    let observed = observed.map(|text| text[..boundary(&text)].to_owned());
    let outcome = Outcome {
        observed,
        ..Outcome::of(directive, result)
    };
    journal(admission.done(outcome.clone()))?;
    Ok(outcome)
}

/// Where to cut a text so that [`OBSERVED_BYTES_MAX`] bytes of whole letters are left.
fn boundary(text: &str) -> usize {
    (0..=OBSERVED_BYTES_MAX)
        .rfind(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

/// Whether doing it twice is the same as doing it once: an interval and a route are states,
/// healing and scaling are acts.
pub const fn idempotent(kind: Kind) -> bool {
    match kind {
        Kind::MonitoringInterval | Kind::RoutePreference => true,
        Kind::Healing | Kind::Scaling => false,
    }
}
