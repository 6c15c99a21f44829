//! Executors: who does on this host what was ordered.
//!
//! How often to sample is the agent's own: [`Hands`] does that itself and gives the rest to the
//! executor that was configured.
//!
//! A program of `exec` ends with 0 when the order is done and was read back, with 3 when it
//! declines, with anything else when it failed. It runs in a process group of its own, which is
//! killed when its time is over; then nobody knows what an act has done, and it is not repeated.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::settings::{AgentSettings, ExecutorKind};
use crate::execute::{Execution, Executor, idempotent};
use crate::model::{Action, Directive, OBSERVED_BYTES_MAX, OutcomeResult};
use crate::wire;

/// Bounds of a sampling interval that is obeyed, s.
pub(super) const INTERVAL_S: std::ops::RangeInclusive<u32> = 1..=3600;

/// How long a program may go on when the agent is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How long the output of a program that ended is waited for: a child of its own may hold it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// The agent's hands: its own sampling, and the executor for the rest.
pub(super) struct Hands {
    interval_s: watch::Sender<f64>,
    rest: Rest,
}

enum Rest {
    Log,
    Exec(Exec),
}

impl Hands {
    /// `interval_s` is what the sampling goes by; `stop` cuts a program short.
    pub(super) fn new(
        settings: &AgentSettings,
        interval_s: watch::Sender<f64>,
        stop: watch::Receiver<bool>,
    ) -> Hands {
        let rest = match settings.executor {
            ExecutorKind::Log => Rest::Log,
            ExecutorKind::Exec => Rest::Exec(Exec {
                programs: settings.exec.clone(),
                limit: Duration::from_secs(settings.exec_timeout_s),
                stop,
            }),
        };
        Hands { interval_s, rest }
    }

    fn take_up(&mut self, interval_s: u32) -> Execution {
        if !INTERVAL_S.contains(&interval_s) {
            return Execution {
                result: OutcomeResult::Refused,
                observed: Some(format!("interval_s = {interval_s}, expected 1 to 3600")),
            };
        }
        sample_every(&self.interval_s, f64::from(interval_s));
        Execution {
            result: OutcomeResult::Applied,
            observed: Some(format!("interval_s = {}", *self.interval_s.borrow())),
        }
    }
}

/// Has the sampling go by another interval, s. Told the same, it does not sample out of turn.
pub(super) fn sample_every(interval: &watch::Sender<f64>, interval_s: f64) {
    interval.send_if_modified(|current| {
        std::mem::replace(current, interval_s).to_bits() != interval_s.to_bits()
    });
}

impl Executor for Hands {
    fn execute(&mut self, directive: &Directive) -> Execution {
        match (directive.action, &mut self.rest) {
            (Action::MonitoringInterval { interval_s }, _) => self.take_up(interval_s),
            (_, Rest::Log) => {
                let kind = directive.action.kind().name();
                tracing::info!(id = directive.id, "would do: {kind} {}", value(directive));
                Execution {
                    result: OutcomeResult::Applied,
                    observed: Some("log executor: nothing was touched".to_owned()),
                }
            }
            (_, Rest::Exec(exec)) => exec.execute(directive),
        }
    }
}

/// What is ordered, in one word.
fn value(directive: &Directive) -> String {
    match directive.action {
        Action::MonitoringInterval { interval_s } => interval_s.to_string(),
        Action::RoutePreference { value } => value.name().to_owned(),
        Action::Healing { level } => level.name().to_owned(),
        Action::Scaling { value } => value.name().to_owned(),
    }
}

/// Runs the program of the action's kind.
struct Exec {
    programs: BTreeMap<String, Vec<String>>,
    limit: Duration,
    stop: watch::Receiver<bool>,
}

impl Exec {
    fn execute(&mut self, directive: &Directive) -> Execution {
        let kind = directive.action.kind().name();
        let Some((program, arguments)) = self.programs.get(kind).and_then(|v| v.split_first())
        else {
            return Execution {
                result: OutcomeResult::Refused,
                observed: Some(format!("no program for {kind} in [agent.exec]")),
            };
        };
        let mut command = Command::new(program);
        command
            .args(arguments.iter().map(|a| fill_in(a, directive)))
            .env("HOMEOSTAT_DIRECTIVE", wire::json::directive(directive))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // An act has a thread and a runtime of its own: the sampling goes on meanwhile.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let started = runtime.and_then(|runtime| {
            let child = {
                let _entered = runtime.enter();
                command.spawn()?
            };
            Ok((runtime, child))
        });
        match started {
            Err(error) => Execution {
                result: OutcomeResult::Failed,
                observed: Some(format!("starting {program}: {error}")),
            },
            Ok((runtime, child)) => runtime.block_on(self.watch(child, directive)),
        }
    }

    /// Waits for the end, and reads what the program says; all of it, so that it does not wait for
    /// a reader, but only the beginning is kept.
    async fn watch(&mut self, mut child: Child, directive: &Directive) -> Execution {
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let text = std::cell::RefCell::new(Vec::new());
        let reading = async {
            tokio::join!(keep_beginning(out, &text), keep_beginning(err, &text));
        };
        let ending = async {
            let why = tokio::select! {
                status = child.wait() => return Ok(status),
                () = sleep(self.limit) => format!("killed after {} s", self.limit.as_secs()),
                () = stopped(&mut self.stop) => "killed since the agent stops".to_owned(),
            };
            // Not waited for yet: its number is not another's.
            if let Some(group) = group {
                // It may have ended just now: then nobody is there to be killed.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait().await;
            Err(why)
        };
        tokio::pin!(reading, ending);
        let ended = tokio::select! {
            ended = &mut ending => {
                let _ = timeout(OUTPUT_GRACE, &mut reading).await;
                ended
            }
            () = &mut reading => ending.await,
        };
        let text = String::from_utf8_lossy(&text.borrow()).trim().to_owned();
        conclude(ended, text, idempotent(directive.action.kind()))
    }
}

fn conclude(
    ended: Result<std::io::Result<ExitStatus>, String>,
    text: String,
    repeatable: bool,
) -> Execution {
    // Who was cut short may have done it, or half of it.
    let cut_short = match repeatable {
        true => OutcomeResult::Failed,
        false => OutcomeResult::Unknown,
    };
    let (result, words) = match ended {
        Ok(Ok(status)) => match status.code() {
            Some(0) => (OutcomeResult::Applied, String::new()),
            Some(3) => (OutcomeResult::Refused, String::new()),
            Some(code) => (OutcomeResult::Failed, format!("exit code {code}")),
            None => (cut_short, status.to_string()),
        },
        Ok(Err(error)) => (cut_short, format!("waiting for its end: {error}")),
        Err(why) => (cut_short, why),
    };
    let parts = [words, text];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Execution {
        result,
        observed: (!parts.is_empty()).then(|| parts.join(": ")),
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Who could say it is gone: that is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(STOP_GRACE).await;
}

async fn keep_beginning(from: Option<impl AsyncRead + Unpin>, kept: &std::cell::RefCell<Vec<u8>>) {
    let Some(mut from) = from else { return };
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let mut kept = kept.borrow_mut();
        let room = OBSERVED_BYTES_MAX - kept.len();
        kept.extend_from_slice(&piece[..read.min(room)]);
    }
}

/// Replaces the names in braces, once: what is put in is not looked at again.
fn fill_in(argument: &str, directive: &Directive) -> String {
    let names = [
        ("{value}", value(directive)),
        ("{node}", directive.node.to_string()),
        ("{mesh}", directive.mesh.to_string()),
        ("{id}", directive.id.clone()),
    ];
    let mut out = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let named = names
            .iter()
            .find_map(|(name, value)| Some((value, from.strip_prefix(name)?)));
        rest = match named {
            Some((value, behind)) => {
                out.push_str(value);
                behind
            }
            None => {
                out.push('{');
                &from[1..]
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Cause, Healing, Kind, MeshId, NodeId, OutcomeResult::*, PolicyId, Route, Time,
    };

    fn directive(action: Action) -> Directive {
        Directive {
            id: "dir-7-aa".to_owned(),
            log_id: "log".to_owned(),
            mesh: MeshId::parse("alpha").unwrap(),
            node: NodeId::parse("n {id}").unwrap(),
            generation: 7,
            issued_at: Time(1_000_000),
            ttl_s: 60,
            action,
            cause: Cause {
                topic: "homeostat.plan-inbox".to_owned(),
                partition: 0,
                offset: 7,
            },
            incident_id: None,
            policy_id: PolicyId::default(),
            policy_generation: 1,
        }
    }

    const HEAL: Action = Action::Healing {
        level: Healing::Aggressive,
    };
    const ROUTE: Action = Action::RoutePreference {
        value: Route::LowLatency,
    };

    fn hands(executor: ExecutorKind, script: &str) -> Hands {
        let program = [
            "sh",
            "-c",
            script,
            "sh",
            "{value}",
            "{node}/{mesh}",
            "{x}{id}",
        ];
        let program: Vec<String> = program.map(str::to_owned).to_vec();
        let kinds = [Kind::Healing, Kind::RoutePreference];
        let settings = AgentSettings {
            executor,
            exec: kinds
                .map(|kind| (kind.name().to_owned(), program.clone()))
                .into(),
            exec_timeout_s: 1,
            ..AgentSettings::default()
        };
        let (_, stop) = watch::channel(false);
        // As if the one who may say stop were there for ever.
        let mut hands = Hands::new(&settings, watch::channel(60.0).0, stop);
        if let Rest::Exec(exec) = &mut hands.rest {
            let (sender, receiver) = watch::channel(false);
            exec.stop = receiver;
            std::mem::forget(sender);
        }
        hands
    }

    /// The script ends so, and this is seen of it.
    fn check(script: &str, action: Action, result: OutcomeResult, observed: &str) {
        let execution = hands(ExecutorKind::Exec, script).execute(&directive(action));
        assert_eq!(execution.result, result, "{script}: {execution:?}");
        assert_eq!(execution.observed.unwrap_or_default(), observed, "{script}");
    }

    #[test]
    fn the_exit_code_says_how_it_ended() {
        check("exit 0", HEAL, Applied, "");
        check("echo done; exit 0", HEAL, Applied, "done");
        check("echo not now >&2; exit 3", HEAL, Refused, "not now");
        check("echo broken; exit 1", HEAL, Failed, "exit code 1: broken");
    }

    #[test]
    fn names_in_braces_are_filled_in_once() {
        let seen = "aggressive n {id}/alpha {x}dir-7-aa";
        check("echo \"$@\"", HEAL, Applied, seen);
    }

    #[test]
    fn the_program_is_given_the_whole_directive() {
        let seen = wire::json::directive(&directive(HEAL));
        check("echo \"$HOMEOSTAT_DIRECTIVE\"", HEAL, Applied, &seen);
    }

    #[test]
    fn who_takes_too_long_is_killed_with_its_children() {
        let script = "sleep 100 & sleep 100; echo not reached";
        check(script, HEAL, Unknown, "killed after 1 s");
        check(script, ROUTE, Failed, "killed after 1 s");
    }

    #[test]
    fn who_was_killed_by_another_may_have_done_it() {
        let execution = hands(ExecutorKind::Exec, "kill -9 $$").execute(&directive(HEAL));
        assert_eq!(execution.result, Unknown, "{execution:?}");
    }

    #[test]
    fn a_child_that_holds_the_output_is_not_waited_for() {
        check("echo done; sleep 3 & exit 0", HEAL, Applied, "done");
    }

    #[test]
    fn much_output_is_read_and_its_beginning_kept() {
        let script = "head -c 1000000 /dev/zero | tr '\\0' x";
        let execution = hands(ExecutorKind::Exec, script).execute(&directive(HEAL));
        assert_eq!(execution.result, Applied);
        assert_eq!(execution.observed.unwrap().len(), OBSERVED_BYTES_MAX);
    }

    #[test]
    fn a_kind_without_a_program_is_refused_and_one_that_does_not_start_failed() {
        let mut hands = hands(ExecutorKind::Exec, "");
        if let Rest::Exec(exec) = &mut hands.rest {
            exec.programs.remove("healing");
            exec.programs
                .insert("route_preference".to_owned(), vec!["/no/such".to_owned()]);
        }
        let refused = hands.execute(&directive(HEAL));
        assert_eq!(refused.result, Refused);
        assert!(refused.observed.unwrap().contains("no program for healing"));
        let failed = hands.execute(&directive(ROUTE));
        assert_eq!(failed.result, Failed);
        assert!(failed.observed.unwrap().contains("starting /no/such"));
    }

    #[test]
    fn the_log_executor_touches_nothing_and_the_interval_is_the_agents_own() {
        let mut hands = hands(ExecutorKind::Log, "");
        let execution = hands.execute(&directive(HEAL));
        assert_eq!(execution.result, Applied);
        assert_eq!(
            execution.observed.unwrap(),
            "log executor: nothing was touched"
        );
        let mut told = |interval_s| {
            let action = Action::MonitoringInterval { interval_s };
            hands.execute(&directive(action)).result
        };
        assert_eq!((told(0), told(3601), told(5)), (Refused, Refused, Applied));
        assert_eq!(*hands.interval_s.borrow(), 5.0);
    }
}
