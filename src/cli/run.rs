//! `homeostat run`: the processor: a worker and the door, on a log of this machine (`alone`) or
//! of brokers (`brokers`).
//!
//! One thread folds and commits (the worker), a few serve the door. They share the log and nothing
//! else.
//!
//! # The end
//! SIGTERM or SIGINT: the door answers what it took in, the worker commits and writes its rows;
//! exit 0. What takes longer than `[loop] stop_s` is cut short, which loses nothing: it is what a
//! kill does. A log or worker that can no longer know the truth ends the process with 2.

mod alone;
mod brokers;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::Config;
use crate::config::settings::{LoopSettings, Settings};
use crate::model::Span;
use crate::runtime::{Clock, Config as WorkerConfig, StageSpec, Stop, Worker};
use crate::telemetry::Telemetry;
use crate::web::{Access, Door, Phase, Pulse};
use crate::{topology, web};

use super::opening::source_of;
use super::{Global, say};

/// The processor: all stages, the door, and an agent for this host.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Only these stages.
    #[arg(
        long,
        value_name = "S,..",
        value_delimiter = ',',
        default_values_t = [Stage::Analyze, Stage::Plan]
    )]
    stages: Vec<Stage>,
    /// Without an agent for this host.
    #[arg(long)]
    no_agent: bool,
    /// Where the door listens, instead of the configuration's.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Whether orders are given or only recorded: proposed as a policy, like the file.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Monitor and Analyze.
    Analyze,
    /// Plan and Knowledge.
    Plan,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Stage::Analyze => "analyze",
            Stage::Plan => "plan",
        }
    }
}

/// Runs `run`: 0 when it was told to end, 2 when it had to.
pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = configured(args, global.config()?)?;
    let telemetry = global.telemetry(&config.settings().telemetry)?;
    let told = Told {
        config: &config,
        stages: &args.stages,
        global,
        telemetry: &telemetry,
    };
    match config.settings().kafka.brokers.is_empty() {
        true => alone::run(&told)?,
        false => brokers::run(&told)?,
    }
    info!("ended: everything is committed and synced");
    Ok(ExitCode::SUCCESS)
}

/// What a processor is started with.
struct Told<'a> {
    config: &'a Config,
    stages: &'a [Stage],
    global: &'a Global,
    telemetry: &'a Telemetry,
}

impl Told<'_> {
    fn settings(&self) -> &Settings {
        self.config.settings()
    }

    /// The names of the stages that are run.
    fn stages(&self) -> Vec<&'static str> {
        self.stages.iter().map(|stage| stage.name()).collect()
    }
}

fn configured(args: &Args, mut config: Config) -> anyhow::Result<Config> {
    if let Some(listen) = &args.listen {
        config = config.with_flag("--listen", "web.listen", listen)?;
    }
    if let Some(mode) = &args.mode {
        config = config.with_flag("--mode", "plan.mode", mode)?;
    }
    if args.no_agent {
        config = config.with_flag("--no-agent", "agent.enabled", "false")?;
    }
    Ok(config)
}

/// The threads that serve a door.
fn door_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(DOOR_THREADS)
        .enable_all()
        .build()
        .context("starting the door: making its runtime")
}

/// Serves the door until told to end, or until the worker ended; then says `stop`. What is answered
/// ends the process if what follows takes too long, and calls that off when it goes.
fn until_told(
    told: &Told<'_>,
    runtime: &Runtime,
    bound: web::Bound,
    door: Door,
    stop: &watch::Sender<bool>,
    worker: &mut Working,
) -> anyhow::Result<mpsc::Sender<()>> {
    let access = bound.access.clone();
    runtime.block_on(async {
        let serving = tokio::spawn(web::serve(bound, Arc::new(door), stop.subscribe()));
        let ended = signalled(told, &access, worker).await;
        let watchdog = cut_short_after(Duration::from_secs(told.settings().work.stop_s));
        stop.send_replace(true);
        serving.await.context("serving the door")??;
        ended.map(|()| watchdog)
    })
}

/// Waits for a signal to end, or for the worker's end.
async fn signalled(told: &Told<'_>, access: &Access, worker: &mut Working) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("listening for signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut reread = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = worker.ended.wait_for(|ended| *ended) => return Ok(()),
            _ = reread.recv() => match read_again(told, access) {
                Ok(()) => info!(
                    tokens = access.count(),
                    "log level, tokens and certificates were read again"
                ),
                Err(error) => warn!("SIGHUP: {error:#}; what was not read again stays"),
            },
        }
    }
}

/// What SIGHUP reads again: the level, then who may come to the door, all of that or nothing.
fn read_again(told: &Told<'_>, access: &Access) -> anyhow::Result<()> {
    let config = told.global.reread(told.telemetry)?;
    Ok(access.reload(config.settings())?)
}

/// Ends the process when its end takes too long. What is returned calls that off when it goes.
fn cut_short_after(limit: Duration) -> mpsc::Sender<()> {
    let (called_off, wait) = mpsc::channel();
    std::thread::spawn(move || {
        if wait.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            say("homeostat: ending took longer than loop.stop_s: cut short, nothing is lost");
            std::process::exit(0);
        }
    });
    called_off
}

/// The worker's thread.
struct Working {
    thread: Option<JoinHandle<Result<(), Stop>>>,
    stop: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

impl Working {
    /// Starts a worker that `make` makes on its own thread.
    fn start(
        make: impl FnOnce() -> Result<Worker, Stop> + Send + 'static,
        pulse: Arc<Pulse>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (end, ended) = watch::channel(false);
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let worked = make().and_then(|worker| work(worker, &pulse, &told));
            if let Err(stop) = &worked {
                pulse.stopped(stop.to_string());
            }
            end.send_replace(true);
            worked
        });
        Working {
            thread: Some(thread),
            stop,
            ended,
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else {
            bail!("the worker has ended before");
        };
        let worked = thread.join();
        worked.map_err(|_| anyhow!("the worker panicked; start again: nothing is lost"))??;
        Ok(())
    }
}

/// Folds and commits until told to stop.
///
/// # Errors
/// The worker no longer knows the truth: the process must end, and may be started again.
fn work(mut worker: Worker, pulse: &Pulse, stop: &AtomicBool) -> Result<(), Stop> {
    let mut before = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let turn = worker.turn(worker.patience().min(LOOK))?;
        before.tell(&worker, pulse);
        if turn.folded > 0 {
            pulse.worked(begun.elapsed());
        }
        pulse.turned(turn.idle);
    }
    worker.finish()
}

/// The stages of these names.
fn stages_of(names: &[&str], settings: &LoopSettings) -> Vec<Rc<StageSpec>> {
    topology::stages_keeping(settings.cached_nodes)
        .into_iter()
        .filter(|stage| names.contains(&stage.name))
        .collect()
}

fn worker_config(settings: &Settings, flush_gap: Span) -> WorkerConfig {
    let work = &settings.work;
    WorkerConfig {
        prefix: settings.log.prefix.clone(),
        time_source: source_of(settings),
        flush_records: work.flush_records,
        flush_every: Span(work.flush_ms),
        flush_gap,
        apply_records: usize::MAX,
        apply_every: Span(work.apply_ms),
        tick_after: Span::seconds(work.tick_s),
        ..WorkerConfig::default()
    }
}

/// What the pulse was told of a worker.
#[derive(Default)]
struct Seen {
    folded: BTreeMap<&'static str, u64>,
    commits: u64,
    counts: [u64; 3],
    spent: [Duration; 3],
}

impl Seen {
    fn tell(&mut self, worker: &Worker, pulse: &Pulse) {
        let mut folded: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (stage, records) in worker.folded() {
            *folded.entry(stage).or_default() += records;
        }
        for (stage, now) in &folded {
            // A task that was opened anew counts anew.
            let before = self.folded.get(stage).copied().unwrap_or_default();
            pulse.folded(stage, now.saturating_sub(before));
        }
        self.folded = folded;
        let tally = worker.tally();
        let spent = [tally.analyze_us, tally.plan_us, tally.record_us].map(Duration::from_micros);
        let phases = [Phase::Analyze, Phase::Plan, Phase::Knowledge];
        for ((before, now), phase) in self.spent.iter_mut().zip(spent).zip(phases) {
            pulse.spent(phase, now.saturating_sub(*before));
            *before = now;
        }
        let counts = [tally.commits_failed, tally.applies, tally.ticks];
        let names = ["commits_failed", "rows_written", "ticks"];
        for ((before, now), name) in self.counts.iter_mut().zip(counts).zip(names) {
            pulse.counted(name, now - *before);
            *before = now;
        }
        if tally.commits > self.commits {
            self.commits = tally.commits;
            pulse.committed(Duration::from_micros(tally.commit_us));
        }
    }
}

/// Time since the worker began.
struct Monotonic(Instant);

impl Monotonic {
    fn new() -> Rc<Self> {
        Rc::new(Monotonic(Instant::now()))
    }
}

impl Clock for Monotonic {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }

    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// How long the worker sleeps at most before it looks whether it is to end.
const LOOK: Span = Span(200);

/// How long what the door still does may take at the end.
const DOOR_END: Duration = Duration::from_secs(1);

/// Threads that serve the door; reading and appending happen aside.
const DOOR_THREADS: usize = 2;
