//! `run` on brokers: the log lies there, the data folder holds rows alone.
//!
//! What becomes durable on the way to the first record, and what a crash after it leaves:
//! 1. The folder's lock, and this processor's name in it, drawn once: the next start has the same
//!    name, and by it fences what this one left open.
//! 2. The producer of that name: older ones are fenced, their transactions decided.
//! 3. The configured policy, proposed to every partition in one transaction if it is not what was
//!    last proposed from this folder. 4. That it was, noted. Crash between: proposed twice, which
//!    adopts nothing new.

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tracing::warn;

use crate::config::settings::Settings;
use crate::kafka::{self, Client, KafkaHandle, KafkaLog};
use crate::model::{MeshId, PlanRecord, PolicyChange, Span, Time};
use crate::registry::Foreign;
use crate::rows::{Archive, Stage, Stages};
use crate::runtime::{
    Config as WorkerConfig, HeldRows, Log, LogError, Outgoing, Stop, Store, StoreError, Title,
    TopicPartition, Worker,
};
use crate::stream::{Topic, WINDOWS};
use crate::topology;
use crate::web::{Door, Pulse};
use crate::{web, wire};

use super::super::opening::{draw_id, source_of};
use super::super::{replace, say};
use super::{
    DOOR_END, Monotonic, Told, Working, door_runtime, stages_of, until_told, worker_config,
};

/// Runs until told to end.
///
/// # Errors
/// It could not begin, or had to end.
pub(super) fn run(told: &Told<'_>) -> anyhow::Result<()> {
    let settings = told.settings();
    let client = Client::new(&settings.kafka, &settings.log.prefix)?;
    let title = opened(&client, settings)?;
    let archive = Archive::open(&settings.snapshots, &title.log_id)?;
    let rows = Stages::open(&settings.log, &our_stages(), archive)?;
    let worker_name = worker_name(settings)?;
    let runtime = door_runtime()?;
    let pulse = Arc::new(Pulse::new());
    let stop = watch::Sender::new(false);
    let bound = runtime.block_on(async { web::bind(settings, &settings.log.dir) })?;
    let proposal = Proposal::of(told, &title)?;
    let (form, now) = (&settings.formats, kafka::now());
    let formats = Foreign::open(form, &settings.log.prefix, &settings.log.dir, now)?;
    let begin = Begin {
        client: client.clone(),
        title: title.clone(),
        rows: rows.clone(),
        name: worker_name.clone(),
        proposal,
        formats,
    };
    let (all, names) = (settings.clone(), told.stages());
    let mut worker = Working::start(move || begin.worker(&all, &names), pulse.clone());
    // After the worker: it decides what one that was killed left open, which this waits for.
    let handle = KafkaHandle::new(&client, title.clone(), Held(rows.clone(), title.partitions))?;
    rows.announce(&bound.url())?;
    say(&format!(
        "homeostat: log {} at {}, as {worker_name} of group {}; the door: {}",
        title.log_id,
        client.brokers(),
        settings.kafka.group,
        bound.url()
    ));
    say("next: `homeostat events --follow` shows what is decided, Ctrl-C ends");
    let door = Door::new(handle, settings, pulse);
    let ended = until_told(told, &runtime, bound, door, &stop, &mut worker);
    let worked = worker.finish();
    runtime.shutdown_timeout(DOOR_END);
    drop(rows);
    worked?;
    let _in_time = ended?;
    Ok(())
}

/// What the log is called, once it is certain that it is the one configured.
fn opened(client: &Client, settings: &Settings) -> anyhow::Result<Title> {
    let attempt = || format!("starting on the log at {}", client.brokers());
    let title = kafka::title(client).with_context(attempt)?;
    let Some(title) = title else {
        bail!(
            "{}: it is not opened; `homeostat topics create` makes the topics and opens it",
            attempt()
        );
    };
    if title.time_source != source_of(settings) {
        bail!(
            "{}: it was opened with time.source = {}, expected {} as configured",
            attempt(),
            title.time_source.name(),
            source_of(settings).name()
        );
    }
    Ok(title)
}

/// Keys lie where they did when the log was opened.
fn ensure_partitions(log: &mut KafkaLog, title: &Title) -> Result<(), Stop> {
    for topic in Topic::ALL {
        let counted = log.partitions(topic)?;
        if counted != title.partitions {
            return Err(Stop::Log(LogError::Failed(format!(
                "starting on {}{}: it has {counted} partitions, the log was opened with {}; keys \
                 have moved between them, and with them the nodes' order: take the added ones \
                 away, or begin a new log",
                title.prefix,
                topic.name(),
                title.partitions
            ))));
        }
    }
    Ok(())
}

fn our_stages() -> Vec<Stage> {
    let stage = |spec: Rc<crate::runtime::StageSpec>| Stage {
        name: spec.name,
        encoding: spec.encoding,
        engine: spec.engine,
    };
    topology::stages().into_iter().map(stage).collect()
}

/// What a worker is made of, on its own thread.
struct Begin {
    client: Client,
    title: Title,
    rows: Stages,
    name: String,
    proposal: Option<Proposal>,
    formats: Foreign,
}

impl Begin {
    fn worker(self, settings: &Settings, names: &[&str]) -> Result<Worker, Stop> {
        let stages = stages_of(names, &settings.work);
        let inboxes: Vec<Topic> = stages.iter().map(|stage| stage.inbox).collect();
        let (source, formats) = (source_of(settings), Box::new(self.formats));
        let mut log = KafkaLog::connect(&self.client, &self.name, &inboxes, source, formats)?;
        ensure_partitions(&mut log, &self.title)?;
        if let Some(proposal) = self.proposal {
            proposal.make(&mut log)?;
        }
        // A transaction costs the brokers several requests: what is urgent waits so long for more.
        let config = WorkerConfig {
            flush_records: settings.kafka.flush_records,
            ..worker_config(settings, Span(settings.kafka.flush_gap_ms))
        };
        let rows = Rc::new(self.rows);
        Worker::new(Box::new(log), rows, Monotonic::new(), stages, config)
    }
}

/// This processor's name: as configured, else drawn once and kept in the folder.
fn worker_name(settings: &Settings) -> anyhow::Result<String> {
    if !settings.kafka.instance.is_empty() {
        return Ok(settings.kafka.instance.clone());
    }
    let path = settings.log.dir.join("instance");
    let attempt = || format!("keeping this processor's name in {}", path.display());
    match fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(attempt);
        }
        _ => {}
    }
    let name = draw_id()?[..12].to_owned();
    replace(&path, &name).with_context(attempt)?;
    Ok(name)
}

/// A policy to be proposed.
struct Proposal {
    text: String,
    partitions: i32,
    noted: PathBuf,
}

impl Proposal {
    /// The configured one, if it is not what was last proposed from this folder.
    fn of(told: &Told<'_>, title: &Title) -> anyhow::Result<Option<Self>> {
        let noted = told.settings().log.dir.join("proposed-policy");
        let last = match fs::read_to_string(&noted) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            last => last,
        };
        let last = last.with_context(|| format!("reading {}", noted.display()))?;
        let text = told.config.policy_text();
        Ok((last != text).then(|| Proposal {
            text: text.to_owned(),
            partitions: title.partitions,
            noted,
        }))
    }

    fn make(&self, log: &mut KafkaLog) -> Result<(), Stop> {
        let change = PlanRecord::PolicyChange(PolicyChange {
            mesh: MeshId::none(),
            text: self.text.clone(),
            by: "configuration".to_owned(),
        });
        let value = wire::encode_plan(&change);
        let to = |partition| Outgoing {
            to: TopicPartition {
                topic: Topic::PlanInbox,
                partition,
            },
            time: Time(0),
            key: Vec::new(),
            value: value.clone(),
            headers: Vec::new(),
        };
        log.commit((0..self.partitions).map(to).collect(), &[])
            .map_err(|error| {
                LogError::Failed(format!("proposing the configured policy: {error}"))
            })?;
        if let Err(error) = replace(&self.noted, &self.text) {
            warn!("noting what was proposed: {error}; it will be proposed again");
        }
        Ok(())
    }
}

/// The rows that this process holds, for the door.
struct Held(Stages, i32);

impl HeldRows for Held {
    fn rows(&self, stage: &str) -> Vec<(i32, Rc<dyn Store>)> {
        let held = |partition| Some((partition, self.0.reading(stage, partition)?));
        (0..self.1).filter_map(held).collect()
    }

    fn windows(
        &self,
        partition: i32,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let Some(rows) = self.0.reading("analyze", partition) else {
            return Ok(vec![None; keys.len()]);
        };
        let window = |key: &Vec<u8>| rows.get(&[&[WINDOWS][..], key].concat());
        keys.iter().map(window).collect()
    }
}
