//! `homeostat run`: the loop on this machine: worker, door, and an agent for this host.
//!
//! One thread folds and commits (the worker), one has the agent, a few serve the door, two of the
//! log's own sync and tidy. They share the log and nothing else.
//!
//! # The end
//! SIGTERM or SIGINT: the agent ends what is under way, the door answers what it took in, the
//! worker commits and writes its rows, the log is synced; exit 0. What takes longer than `[loop]
//! stop_s` is cut short, which loses nothing: it is what a kill does. A log or worker that can no
//! longer know the truth ends the process with 2.

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::agent::client::Server;
use crate::config::Config;
use crate::config::settings::{LoopSettings, Settings};
use crate::embedded::{Embedded, Incoming, Note, TITLE};
use crate::model::{MeshId, PlanRecord, PolicyChange, Span, Time};
use crate::runtime::{Clock, Config as WorkerConfig, StageSpec, Stop, TimeSource, Title, Worker};
use crate::stream::Topic;
use crate::web::{Door, Phase, Pulse};
use crate::{agent, topology, web, wire};

use super::opening::{self, source_of};
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
    let settings = config.settings();
    let telemetry = global.telemetry(&settings.telemetry)?;
    let log = Embedded::open(&settings.log, source_of(settings))?;
    let log_id = ensure_begun(&log, settings)?;
    propose(&log, &config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(DOOR_THREADS)
        .enable_all()
        .build()
        .context("starting the door: making its runtime")?;
    let pulse = Arc::new(Pulse::new());
    let mut worker = Working::start(&log, settings, &args.stages, pulse.clone());
    let (stop, stopped) = watch::channel(false);
    let bound = runtime.block_on(async { web::bind(&settings.web, &settings.log.dir) })?;
    log.announce(&format!("http://{}", bound.address))?;
    greet(
        &log,
        &log_id,
        &format!("http://{}", bound.address),
        settings,
    );
    let agent = settings
        .agent
        .enabled
        .then(|| start_agent(settings, &bound.socket, stopped.clone()));
    let door = Arc::new(Door::new(log.clone(), settings, pulse));
    let ended = runtime.block_on(async {
        let serving = tokio::spawn(web::serve(bound, door, stopped));
        let ended = until_told(global, &telemetry, &mut worker).await;
        let watchdog = cut_short_after(Duration::from_secs(settings.work.stop_s));
        stop.send_replace(true);
        serving.await.context("serving the door")??;
        ended.map(|()| watchdog)
    });
    if let Some(agent) = agent
        && agent.join().is_err()
    {
        warn!("the agent of this host panicked; its journal says what it began");
    }
    let worked = worker.finish();
    runtime.shutdown_timeout(Duration::from_secs(1));
    log.close();
    worked?;
    let _in_time = ended?;
    info!("ended: everything is committed and synced");
    Ok(ExitCode::SUCCESS)
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
                .block_on(agent::run(&settings, server, &dir, stop))
                .map_err(|error| error.to_string()),
            Err(error) => Err(format!("making its runtime: {error}")),
        };
        if let Err(error) = ended {
            warn!("this host has no agent: {error}");
        }
    })
}

/// Waits for a signal to end, or for the worker's end.
async fn until_told(
    global: &Global,
    telemetry: &crate::telemetry::Telemetry,
    worker: &mut Working,
) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("listening for signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut reread = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = worker.ended.wait_for(|ended| *ended) => return Ok(()),
            _ = reread.recv() => match global.reread_level(telemetry) {
                Ok(()) => info!("the log level was read again"),
                Err(error) => warn!("SIGHUP: {error:#}; the level stays"),
            },
        }
    }
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
    fn start(log: &Embedded, settings: &Settings, stages: &[Stage], pulse: Arc<Pulse>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (end, ended) = watch::channel(false);
        let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
        let (log, settings, told) = (log.clone(), settings.clone(), stop.clone());
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let thread = std::thread::spawn(move || {
            let stages = topology::stages_keeping(settings.work.cached_nodes)
                .into_iter()
                .filter(|stage| names.iter().any(|name| name == stage.name))
                .collect();
            let worked = work(&log, &settings, stages, &pulse, &told);
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

/// The worker: folds and commits until told to stop.
///
/// # Errors
/// It no longer knows the truth: the process must end, and may be started again.
pub fn work(
    log: &Embedded,
    settings: &Settings,
    stages: Vec<Rc<StageSpec>>,
    pulse: &Pulse,
    stop: &AtomicBool,
) -> Result<(), Stop> {
    let inboxes: Vec<Topic> = stages.iter().map(|stage| stage.inbox).collect();
    let (port, stores) = log.worker(&inboxes);
    let clock = Rc::new(Monotonic(Instant::now()));
    let config = worker_config(&settings.work, &settings.log.prefix, source_of(settings));
    let mut worker = Worker::new(port, stores, clock, stages, config)?;
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

fn worker_config(settings: &LoopSettings, prefix: &str, time_source: TimeSource) -> WorkerConfig {
    WorkerConfig {
        prefix: prefix.to_owned(),
        time_source,
        flush_records: settings.flush_records,
        flush_every: Span(settings.flush_ms),
        // A commit costs microseconds here: what is urgent does not wait.
        flush_gap: Span(0),
        apply_records: usize::MAX,
        apply_every: Span(settings.apply_ms),
        tick_after: Span::seconds(settings.tick_s),
        ..WorkerConfig::default()
    }
}

/// What the pulse was told of a worker.
#[derive(Default)]
struct Seen {
    folded: [(&'static str, u64); 2],
    commits: u64,
    counts: [u64; 3],
    spent: [Duration; 3],
}

impl Seen {
    fn tell(&mut self, worker: &Worker, pulse: &Pulse) {
        for (seen, (stage, folded)) in self.folded.iter_mut().zip(worker.folded()) {
            // A task that was opened anew counts anew.
            pulse.folded(stage, folded.saturating_sub(seen.1));
            *seen = (stage, folded);
        }
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

impl Clock for Monotonic {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }

    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// The note that holds the policy text last proposed from here.
const PROPOSED: &str = "proposed";

/// How long the worker sleeps at most before it looks whether it is to end.
const LOOK: Span = Span(200);

/// Threads that serve the door; reading and appending happen aside.
const DOOR_THREADS: usize = 2;
