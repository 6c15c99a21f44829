//! A node's side: collect, send, obey, report.
//!
//! [`run`] is all of it: three tasks on one thread, over one folder.
//! - Sampling: `collect.rs` measures, `probe.rs` asks the peers, `sampling.rs` numbers the
//!   readings.
//! - Sending: `buffer.rs` keeps what is not sent yet, `outbox.rs` sends it.
//! - Obeying: `obeying.rs` follows the directives; `journal.rs` remembers, `executor.rs` acts.
//!
//! The loop is reached at a door or on brokers ([`Way`]): [`client`] speaks HTTP with the door and
//! shows it a [`pass`], `brokers.rs` hands over to Kafka's threads. [`survey`] says what this host
//! measures, and why not the rest.
//!
//! What a crash loses: at most the sample under way. No order is begun twice, no outcome is lost:
//! see [`crate::execute`].

pub mod client;
pub mod pass;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::settings::AgentSettings;
#[cfg(feature = "io")]
use crate::kafka;
use crate::model::{MeshId, NodeId, NodeKey};

#[cfg(feature = "io")]
use brokers::Brokers;
use buffer::Buffer;
use client::{Client, Server};
use collect::Collector;
use executor::Hands;
use folder::Folder;
use obeying::Obeyer;
use outbox::{Outbox, Sender};
use pass::Pass;
use sampling::{Sampler, now_ms};

pub use collect::{Missing, Survey, survey};

#[cfg(feature = "io")]
mod brokers;
mod buffer;
mod collect;
mod executor;
mod folder;
mod journal;
mod obeying;
mod outbox;
mod probe;
mod sampling;
mod sse;

/// How the loop is reached.
pub enum Way {
    /// At the door of a processor.
    Door(Server),
    /// On the brokers that have its topics.
    #[cfg(feature = "io")]
    Brokers(Box<kafka::Client>),
}

/// The loop, once it can be reached.
enum Reach {
    Door(Client),
    #[cfg(feature = "io")]
    Brokers(Brokers),
}

/// How long a last try to send may take when the agent is told to stop.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Why an agent ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A setting that it cannot start with.
    #[error("starting the agent: {0}")]
    Setting(String),
    /// What it needs is not on the brokers.
    #[error("starting the agent: {0}")]
    Topics(String),
    /// One agent per folder.
    #[error(
        "taking hold of {}: {holder} has it (stop it, or give this agent a folder of its own)",
        dir.display()
    )]
    Held {
        /// The folder.
        dir: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// The disk.
    #[error("{doing} {}: {source} (is the disk full, or read-only?)", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that this program did not leave so.
    #[error("reading {}: {fault} ({next})", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
        /// What to do.
        next: &'static str,
    },
}

/// Runs an agent for this host, with what it remembers in `dir`, until `stop` is true. To be driven
/// on one thread; what is under way when it is told to stop ends first, within seconds.
///
/// # Errors
/// A setting it cannot start with, a folder that another agent holds, or a disk that does not take
/// what must be remembered; or brokers without the topics. That nobody answers is none: it is
/// waited for.
pub async fn run(
    settings: &AgentSettings,
    way: Way,
    dir: &Path,
    stop: watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let node = node_key(settings)?;
    if !INTERVAL_S.contains(&settings.interval_s) {
        let given = settings.interval_s;
        let words = format!("[agent] interval_s = {given}, expected 1 to 3600");
        return Err(AgentError::Setting(words));
    }
    let folder = Folder::take(dir)?;
    let boot = folder.next_boot(now_ms())?;
    let buffer = Buffer::open(&folder.path("buffer"), settings.buffer_kib << 10)?;
    let outbox = Outbox::new(buffer);
    let answer = Duration::from_secs(settings.request_timeout_s);
    let (reach, whom) = match way {
        Way::Door(server) => {
            let whom = server.to_string();
            let pass = Pass::of(settings, &server)?;
            (Reach::Door(Client::showing(server, answer, pass)), whom)
        }
        #[cfg(feature = "io")]
        Way::Brokers(client) => {
            let whom = client.brokers().to_owned();
            (Reach::Brokers(Brokers::new(*client, &node, answer)), whom)
        }
    };
    let (interval_s, told) = watch::channel(settings.interval_s);
    let hands = Hands::new(settings, interval_s.clone(), stop.clone());
    let obeyer = Obeyer::new(&reach, &folder, &node, &outbox, hands, interval_s)?;
    let collector = Collector::new(settings, boot)?;
    let sampler = Sampler::new(&node, &outbox, collector, boot);
    let sender = Sender::new(&reach, &outbox, boot);
    tracing::info!(%node, server = whom, boot, "the agent runs");
    let ended = work(obeyer, sampler, sender, boot, (told, stop)).await;
    tracing::info!(not_sent = outbox.left(), "the agent ends");
    #[cfg(feature = "io")]
    if let Reach::Brokers(brokers) = reach {
        brokers.close(FLUSH_MAX).await;
    }
    ended
}

/// The three tasks, until it is told to stop.
async fn work(
    obeyer: Obeyer<'_>,
    sampler: Sampler<'_>,
    mut sender: Sender<'_>,
    boot: i64,
    (told, stop): (watch::Receiver<f64>, watch::Receiver<bool>),
) -> Result<(), AgentError> {
    let (finish, finishing) = watch::channel(false);
    let working = async {
        let obeying = obeyer.run(boot, stop.clone());
        let sampling = async {
            sampler.run(told, stop.clone()).await;
            Ok(())
        };
        // Who cannot obey must not go on as if it could.
        tokio::try_join!(obeying, sampling).map(|_| ())
    };
    // It goes on when the others have ended: what it is sending then is not sent again.
    let sending = sender.run(finishing);
    tokio::pin!(sending);
    tokio::select! {
        ended = working => ended?,
        failed = &mut sending => return failed,
    }
    finish.send_replace(true);
    if let Ok(sent) = timeout(FLUSH_MAX, sending).await {
        sent?;
    }
    Ok(())
}

/// Bounds of the interval that it samples at by itself, s; tests may be faster than people.
const INTERVAL_S: std::ops::RangeInclusive<f64> = 0.05..=3600.0;

/// The node that an agent with these settings speaks for: by default this host.
///
/// # Errors
/// A name that is none.
pub fn node_key(settings: &AgentSettings) -> Result<NodeKey, AgentError> {
    let host = || sysinfo::System::host_name().unwrap_or_default();
    let name = match settings.node.is_empty() {
        true => host(),
        false => settings.node.clone(),
    };
    let mesh = MeshId::parse(&settings.mesh).filter(|mesh| !mesh.is_none());
    let wrong = |key: &str, given: &str| {
        AgentError::Setting(format!(
            "[agent] {key} = {given:?}, expected a name of 1 to 255 bytes (or --{key})"
        ))
    };
    Ok(NodeKey {
        mesh: mesh.ok_or_else(|| wrong("mesh", &settings.mesh))?,
        node: NodeId::parse(&name).ok_or_else(|| wrong("node", &name))?,
    })
}

/// Returns when `stop` is true, or nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod scratch;
