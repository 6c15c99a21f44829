//! `run` on this machine alone: the embedded log, and an agent for this host.
//!
//! Beside the worker and the door one thread has the agent, two of the log's own sync and tidy. At
//! the end the agent ends what is under way first, and the log is synced last.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::watch;
use tracing::warn;

use crate::agent::Way;
use crate::agent::client::Server;
use crate::config::Config;
use crate::config::settings::Settings;
use crate::embedded::{Embedded, Incoming, Note, TITLE};
use crate::model::{MeshId, PlanRecord, PolicyChange, Span, Time};
use crate::runtime::{Title, Worker};
use crate::stream::Topic;
use crate::web::{Door, Pulse};
use crate::{agent, web, wire};

use super::super::opening::{self, source_of};
use super::super::say;
use super::{
    DOOR_END, Monotonic, Told, Working, door_runtime, stages_of, until_told, worker_config,
};

/// Runs until told to end.
///
/// # Errors
/// It could not begin, or had to end.
pub(super) fn run(told: &Told<'_>) -> anyhow::Result<()> {
    let settings = told.settings();
    let log = Embedded::open(&settings.log, source_of(settings))?;
    let log_id = ensure_begun(&log, settings)?;
    propose(&log, told.config)?;
    let runtime = door_runtime()?;
    let pulse = Arc::new(Pulse::new());
    let mut worker = start_worker(&log, told, pulse.clone());
    let stop = watch::Sender::new(false);
    let bound = runtime.block_on(async { web::bind(settings, &settings.log.dir) })?;
    log.announce(&bound.url())?;
    greet(&log, &log_id, &bound.url(), settings);
    let agent = settings
        .agent
        .enabled
        .then(|| start_agent(settings, &bound.socket, stop.subscribe()));
    let door = Door::new(log.clone(), settings, pulse);
    let ended = until_told(told, &runtime, bound, door, &stop, &mut worker);
    if let Some(agent) = agent
        && agent.join().is_err()
    {
        warn!("the agent of this host panicked; its journal says what it began");
    }
    let worked = worker.finish();
    runtime.shutdown_timeout(DOOR_END);
    log.close();
    worked?;
    let _in_time = ended?;
    Ok(())
}

fn start_worker(log: &Embedded, told: &Told<'_>, pulse: Arc<Pulse>) -> Working {
    let (log, settings, names) = (log.clone(), told.settings().clone(), told.stages());
    let make = move || {
        let stages = stages_of(&names, &settings.work);
        let inboxes: Vec<Topic> = stages.iter().map(|stage| stage.inbox).collect();
        let (port, stores) = log.worker(&inboxes);
        // A commit costs microseconds here: what is urgent does not wait.
        let config = worker_config(&settings, Span(0));
        Worker::new(port, stores, Monotonic::new(), stages, config)
    };
    Working::start(make, pulse)
}

/// Opens the log with an id when it is empty: record and title in one write, so that there is one
/// id or none. Answers the id.
fn ensure_begun(log: &Embedded, settings: &Settings) -> anyhow::Result<String> {
    if let Some(title) = log.title() {
        return Ok(title.log_id);
    }
    let title = Title {
        log_id: opening::draw_id()?,
        prefix: settings.log.prefix.clone(),
        time_source: source_of(settings),
        partitions: 1,
    };
    let opened = opening::opened(&title.log_id, title.partitions, title.time_source);
    let opened = PlanRecord::LogOpened(opened);
    let noted = Embedded::title_note(&title);
    let note = Note {
        name: TITLE,
        value: &noted,
    };
    log.append_noting(Topic::PlanInbox, vec![said(&opened)], &[note])
        .context("opening the log")?;
    Ok(title.log_id)
}

/// Proposes the configured policy if it is not what was last proposed here: what counts is the
/// record that adopts it.
fn propose(log: &Embedded, config: &Config) -> anyhow::Result<()> {
    let text = config.policy_text();
    let last = log.note(PROPOSED)?.unwrap_or_default();
    if last == text.as_bytes() {
        return Ok(());
    }
    let change = PlanRecord::PolicyChange(PolicyChange {
        mesh: MeshId::none(),
        text: text.to_owned(),
        by: "configuration".to_owned(),
    });
    let note = Note {
        name: PROPOSED,
        value: text.as_bytes(),
    };
    log.append_noting(Topic::PlanInbox, vec![said(&change)], &[note])
        .context("proposing the configured policy")?;
    Ok(())
}

fn said(record: &PlanRecord) -> Incoming {
    Incoming {
        time: Time(0),
        key: Vec::new(),
        value: wire::encode_plan(record),
    }
}

fn greet(log: &Embedded, log_id: &str, door: &str, settings: &Settings) {
    let events = log.written_end(Topic::Events);
    let dir = settings.log.dir.display();
    say(&format!(
        "homeostat: log {log_id} in {dir}, {events} events so far; the door: {door}"
    ));
    let flag = match settings.log.dir == Path::new("homeostat-data") {
        true => String::new(),
        false => format!(" --data {dir}"),
    };
    say(&format!(
        "next: `homeostat state --watch{flag}` shows the nodes, `homeostat events --follow{flag}` \
         what is decided, Ctrl-C ends"
    ));
}

fn start_agent(settings: &Settings, socket: &Path, stop: watch::Receiver<bool>) -> JoinHandle<()> {
    let (settings, dir) = (settings.agent.clone(), settings.log.dir.join("agent"));
    let server = Server::Socket(socket.to_owned());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let ended = match runtime {
            Ok(runtime) => runtime
                .block_on(agent::run(&settings, Way::Door(server), &dir, stop))
                .map_err(|error| error.to_string()),
            Err(error) => Err(format!("making its runtime: {error}")),
        };
        if let Err(error) = ended {
            warn!("this host has no agent: {error}");
        }
    })
}

/// The note that holds the policy text last proposed from here.
const PROPOSED: &str = "proposed";
