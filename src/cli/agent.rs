//! `homeostat agent`: a node's side, over the door of a processor elsewhere or over Kafka.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::agent::client::Server;
use crate::agent::{self, Way};
use crate::config::Config;
#[cfg(feature = "io")]
use crate::kafka::Client;

use super::Global;

/// A node's side: collect, send, consume its directives, act, report.
///
/// What it must remember lies in `agent` below the data folder. SIGTERM ends it with 0;
/// SIGHUP reads the log level again.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The door: http://HOST:PORT, https://HOST:PORT, or the path of its socket.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Kafka brokers instead of a door, and of the configuration's.
    #[cfg(feature = "io")]
    #[arg(long, value_name = "HOST:PORT,..", conflicts_with = "server")]
    brokers: Option<String>,
    /// The mesh, instead of the configuration's.
    #[arg(long, value_name = "M")]
    mesh: Option<String>,
    /// The node, instead of the configuration's or this host's name.
    #[arg(long, value_name = "N")]
    node: Option<String>,
    /// Who does what is ordered, instead of the configuration's.
    #[arg(long, value_enum)]
    executor: Option<Executor>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Executor {
    /// Says what it would do and touches nothing.
    Log,
    /// Runs the programs of `[agent.exec]`.
    Exec,
    /// Routes of a BIRD daemon.
    Bird,
    /// Routes of the kernel.
    Ip,
}

pub(super) fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = configured(&args, global.config()?)?;
    let settings = config.settings();
    let way = match &args.server {
        Some(url) => Way::Door(Server::parse(url)?),
        None if settings.kafka.brokers.is_empty() => bail!(
            "starting the agent: it is not said where the loop is; name a door with --server, or \
             brokers with --brokers, HOMEOSTAT_KAFKA_BROKERS or kafka.brokers"
        ),
        #[cfg(not(feature = "io"))]
        None => bail!(
            "starting the agent: kafka.brokers names {}, but this small build speaks with \
             doors alone; name one with --server, or take the whole build",
            settings.kafka.brokers
        ),
        #[cfg(feature = "io")]
        None => {
            let client = Client::new(&settings.kafka, &settings.log.prefix)?;
            Way::Brokers(Box::new(client))
        }
    };
    let telemetry = global.telemetry(&settings.telemetry)?;
    let dir = settings.log.dir.join("agent");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the agent: making its runtime")?;
    runtime.block_on(async {
        let (stop, mut hangup) = (stop_on_signal()?, listen(SignalKind::hangup())?);
        let running = agent::run(&settings.agent, way, &dir, stop);
        tokio::pin!(running);
        loop {
            tokio::select! {
                ended = &mut running => {
                    ended?;
                    return Ok(ExitCode::SUCCESS);
                }
                _ = hangup.recv() => {
                    // What was typed wrong since the start is no reason to end.
                    if let Err(error) = global.reread(&telemetry) {
                        tracing::error!("SIGHUP: {error:#}; the level stays");
                    }
                }
            }
        }
    })
}

/// The configuration with what the flags say.
fn configured(args: &Args, mut config: Config) -> anyhow::Result<Config> {
    #[cfg(feature = "io")]
    if let Some(brokers) = &args.brokers {
        config = config.with_flag("--brokers", "kafka.brokers", brokers)?;
    }
    if let Some(mesh) = &args.mesh {
        config = config.with_flag("--mesh", "agent.mesh", mesh)?;
    }
    if let Some(node) = &args.node {
        config = config.with_flag("--node", "agent.node", node)?;
    }
    let executor = match args.executor {
        None => return Ok(config),
        Some(Executor::Log) => "log",
        Some(Executor::Exec) => "exec",
        Some(Executor::Bird | Executor::Ip) => {
            bail!("--executor: bird and ip are not there yet; log and exec are")
        }
    };
    Ok(config.with_flag("--executor", "agent.executor", executor)?)
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("starting the agent: listening for signals")
}

/// Turns true with the first SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody is left to be told: it ended by itself.
        let _ = sender.send(true);
    });
    Ok(receiver)
}
