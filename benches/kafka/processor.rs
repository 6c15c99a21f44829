//! The processor as `homeostat run` wires it, without the door: a process of its own, so that its
//! memory and CPU are its own and it can be killed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use homeostat::config::settings::Settings;
use homeostat::kafka::{self, Client, KafkaLog};
use homeostat::model::Span;
use homeostat::registry::Foreign;
use homeostat::rows::{Stage, Stages};
use homeostat::runtime::{Clock, Config, TimeSource, Worker};
use homeostat::stream::Topic;
use homeostat::topology;

use super::figures::{Mark, memory_mib};

/// What a processor is told, as `key=value` arguments.
#[derive(Clone)]
pub struct Told {
    pub brokers: String,
    pub broker_pid: u32,
    pub prefix: String,
    pub group: String,
    pub dir: PathBuf,
    /// `analyze`, or `analyze,plan`.
    pub stages: String,
    /// Prints its figures and ends after so many samples; 0: goes on.
    pub stop_after: u64,
    /// Other settings: librdkafka's, or those of `[loop]` and `[kafka]` that `main` names.
    pub set: Vec<(String, String)>,
}

/// A running one.
pub struct Processor {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Processor {
    pub fn start(told: &Told) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("it runs"))
            .arg(CHILD)
            .args([
                format!("brokers={}", told.brokers),
                format!("broker_pid={}", told.broker_pid),
                format!("prefix={}", told.prefix),
                format!("group={}", told.group),
                format!("dir={}", told.dir.display()),
                format!("stages={}", told.stages),
                format!("stop_after={}", told.stop_after),
            ])
            .args(told.set.iter().map(|(key, value)| format!("{key}={value}")))
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let said = BufReader::new(child.stdout.take().expect("it was asked for"));
        Processor { child, said }
    }

    /// Waits for the line that begins so; answers its rest.
    pub fn wait_for(&mut self, beginning: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.said.read_line(&mut line).expect("it can be read");
            assert!(read > 0, "the processor ended before it said {beginning}");
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim().to_owned();
            }
        }
    }

    /// What it holds in memory now.
    pub fn resident_mib(&self) -> u64 {
        memory_mib(self.child.id()).0
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end.
    pub fn end(mut self) {
        assert!(self.child.wait().expect("it ends").success());
    }
}

/// Whether this process is one, and what it was told.
pub fn child() -> Option<Told> {
    let mut args = std::env::args().skip_while(|arg| arg != CHILD).skip(1);
    let mut told = Told {
        brokers: String::new(),
        broker_pid: 0,
        prefix: String::new(),
        group: "bench".to_owned(),
        dir: PathBuf::new(),
        stages: "analyze".to_owned(),
        stop_after: 0,
        set: Vec::new(),
    };
    let mut arg = args.next()?;
    loop {
        let (key, value) = arg.split_once('=').expect("key=value");
        let text = value.to_owned();
        match key {
            "brokers" => told.brokers = text,
            "broker_pid" => told.broker_pid = value.parse().expect("a number"),
            "prefix" => told.prefix = text,
            "group" => told.group = text,
            "dir" => told.dir = Path::new(value).to_owned(),
            "stages" => told.stages = text,
            "stop_after" => told.stop_after = value.parse().expect("a number"),
            _ => told.set.push((key.to_owned(), text)),
        }
        match args.next() {
            Some(next) => arg = next,
            None => return Some(told),
        }
    }
}

/// Settings for these brokers and names.
pub fn settings(told: &Told) -> Settings {
    let mut settings = Settings::default();
    settings.kafka.brokers.clone_from(&told.brokers);
    settings.kafka.group.clone_from(&told.group);
    settings.log.prefix.clone_from(&told.prefix);
    settings.log.dir.clone_from(&told.dir);
    for (key, value) in &told.set {
        let number = || value.parse().expect("a number");
        match key.as_str() {
            "flush_records" => settings.kafka.flush_records = number() as usize,
            "flush_ms" => settings.work.flush_ms = number(),
            "flush_gap_ms" => settings.kafka.flush_gap_ms = number(),
            "apply_ms" => settings.work.apply_ms = number(),
            "cached_nodes" => settings.work.cached_nodes = number() as usize,
            "fetch_ahead_kib" => settings.kafka.fetch_ahead_kib = number() as u64,
            "partitions" => settings.kafka.partitions = number() as i32,
            _ => {
                let properties = &mut settings.kafka.properties;
                properties.insert(key.clone(), value.clone());
            }
        }
    }
    settings
}

/// The processor's life.
pub fn live(told: &Told) {
    let begun = Instant::now();
    let settings = settings(told);
    let client = Client::new(&settings.kafka, &settings.log.prefix).expect("valid settings");
    let stage = |spec: Rc<homeostat::runtime::StageSpec>| Stage {
        name: spec.name,
        encoding: spec.encoding,
        engine: spec.engine,
    };
    let all: Vec<Stage> = topology::stages().into_iter().map(stage).collect();
    let rows = Stages::open(&settings.log, &all, None).expect("a folder of its own");
    let mut stages = topology::stages_keeping(settings.work.cached_nodes);
    stages.retain(|stage| told.stages.split(',').any(|name| name == stage.name));
    let inboxes: Vec<Topic> = stages.iter().map(|stage| stage.inbox).collect();
    let (forms, log) = (&settings.formats, &settings.log);
    let formats = Foreign::open(forms, &log.prefix, &log.dir, kafka::now()).expect("a folder");
    let source = TimeSource::Log;
    let log = KafkaLog::connect(&client, "bench", &inboxes, source, Box::new(formats));
    let log = log.expect("brokers");
    let config = Config {
        prefix: settings.log.prefix.clone(),
        flush_records: settings.kafka.flush_records,
        flush_every: Span(settings.work.flush_ms),
        flush_gap: Span(settings.kafka.flush_gap_ms),
        apply_records: usize::MAX,
        apply_every: Span(settings.work.apply_ms),
        tick_after: Span::seconds(settings.work.tick_s),
        ..Config::default()
    };
    let clock = Rc::new(Monotonic(begun));
    let mut worker =
        Worker::new(Box::new(log), Rc::new(rows), clock, stages, config).expect("topics");
    let (mut assigned, mut half, mut said_idle) = (false, None, 0);
    loop {
        let wait = worker.patience().min(Span(200));
        let turn = worker.turn(wait).expect("the loop goes on");
        if !assigned && worker.inboxes().next().is_some() {
            assigned = true;
            say(&format!("assigned {}", begun.elapsed().as_millis()));
        }
        let folded = worker.folded().filter(|(stage, _)| *stage == "analyze");
        let folded: u64 = folded.map(|(_, records)| records).sum();
        if half.is_none() && folded >= told.stop_after / 2 {
            half = Some(Mark::now(folded, told.broker_pid));
        }
        if turn.idle && folded > said_idle {
            said_idle = folded;
            say(&format!("idle {folded}"));
        }
        if told.stop_after > 0 && turn.idle && folded >= told.stop_after {
            let half = half.expect("half came before");
            let figures = half.figures(folded, told.broker_pid);
            let (now, peak) = memory_mib(std::process::id());
            let tally = worker.tally();
            say(&format!(
                "figures {figures}  resident {now} MiB, at most {peak}  commits {}, rows written \
                 {} times",
                tally.commits, tally.applies
            ));
            worker.finish().expect("it ends well");
            return;
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("somebody listens");
}

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }

    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

const CHILD: &str = "processor";
