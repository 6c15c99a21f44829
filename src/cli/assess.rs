//! `homeostat assess`: samples as JSON lines in, one answer a line out (`docs/assess-contract.md`).
//! Pure: no clock, no memory but the nodes seen in this run.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::Global;
use crate::analyze::trend::Trend;
use crate::analyze::wish::alert_level;
use crate::analyze::{Mind, Rules, Verdict};
use crate::model::{Healing, Policy, Scaling, Span, rfc3339};
use crate::monitor::{Fault, Intake, Valid, validate};
use crate::wire::sample_json::{LINE_BYTES_MAX, parse_sample};

/// Arguments of `assess`.
#[derive(clap::Args)]
pub struct Args {
    /// Judge by this policy's `[symptoms]` and `[monitor]` instead of the configuration's.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    policy: Option<PathBuf>,
    /// Changes nothing: the output is JSON lines in any case.
    #[arg(long)]
    json: bool,
}

/// Runs the command on stdin and stdout: exit code 0 when the input was read to its end, whatever
/// was rejected; a reader that goes away early is no error.
///
/// # Errors
/// The policy or the input could not be read, the output not be written.
pub(super) fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let policy = match args.policy {
        None => global.config()?.policy().clone(),
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("reading the policy {}", path.display()))?;
            Policy::parse(&text).with_context(|| format!("in {}", path.display()))?
        }
    };
    let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock());
    let output = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    match assess(input, output, &policy) {
        Err(AssessError::Write(e)) if e.kind() == io::ErrorKind::BrokenPipe => {}
        done => done?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What stops [`assess`].
#[derive(Debug, thiserror::Error)]
pub enum AssessError {
    /// The input could not be read to its end.
    #[error("reading samples from the input")]
    Read(#[source] io::Error),
    /// The output could not be written.
    #[error("writing assessments to the output")]
    Write(#[source] io::Error),
}

/// Answers every line of `input` on `output`; flushes when there is nothing more to read for now.
///
/// # Errors
/// Reading or writing failed.
pub fn assess<R: Read>(
    mut input: BufReader<R>,
    mut output: impl Write,
    policy: &Policy,
) -> Result<(), AssessError> {
    let mut nodes = Nodes::new(policy);
    let mut line = Vec::new();
    let mut answer = Vec::new();
    let mut number = 0;
    loop {
        if input.buffer().is_empty() {
            output.flush().map_err(AssessError::Write)?;
        }
        match read_line(&mut input, &mut line).map_err(AssessError::Read)? {
            Line::End => break,
            Line::Whole => {
                number += 1;
                answer.clear();
                nodes.answer(number, &line, &mut answer);
            }
            Line::TooLong => {
                number += 1;
                answer.clear();
                write_rejected(number, NOT_JSON, None, &mut answer);
            }
        }
        output.write_all(&answer).map_err(AssessError::Write)?;
    }
    output.flush().map_err(AssessError::Write)
}

enum Line {
    Whole,
    TooLong,
    End,
}

/// Reads a line without its end. Of one that is too long no more than the limit is kept.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let most = LINE_BYTES_MAX as u64 + 1;
    input.by_ref().take(most).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.is_empty() {
        return Ok(Line::End);
    } else if line.len() > LINE_BYTES_MAX {
        input.skip_until(b'\n')?;
        return Ok(Line::TooLong);
    }
    Ok(Line::Whole)
}

/// The nodes seen in a run, and what they are judged by.
struct Nodes {
    rules: Rules,
    max_future: Span,
    nodes: HashMap<Box<[u8]>, Box<Node>>,
    key: Vec<u8>,
}

#[derive(Default)]
struct Node {
    intake: Intake,
    mind: Mind,
}

impl Nodes {
    fn new(policy: &Policy) -> Self {
        Nodes {
            rules: Rules::new(&policy.symptoms),
            max_future: Span::seconds(policy.monitor.max_future_s),
            nodes: HashMap::new(),
            key: Vec::new(),
        }
    }

    /// Appends the answer to a line, if it has one.
    fn answer(&mut self, number: u64, line: &[u8], out: &mut Vec<u8>) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let Ok(raw) = parse_sample(line) else {
            return write_rejected(number, NOT_JSON, None, out);
        };
        let judged = validate(&raw, None, self.max_future).and_then(|sample| {
            let (seq, verdict) = self.judge(&sample)?;
            Ok((sample, seq, verdict))
        });
        match judged {
            Ok((sample, seq, verdict)) => write_verdict(&sample, seq, &verdict, out),
            Err(Fault { reason, field }) => {
                write_rejected(number, reason.name(), Some(field), out);
            }
        }
    }

    fn judge(&mut self, sample: &Valid<'_>) -> Result<(i64, Verdict), Fault> {
        self.key.clear();
        self.key.push(sample.mesh.len() as u8);
        self.key.extend_from_slice(sample.mesh.as_bytes());
        self.key.extend_from_slice(sample.node.as_bytes());
        let node = match self.nodes.get_mut(self.key.as_slice()) {
            Some(node) => node,
            None => self.nodes.entry(self.key.as_slice().into()).or_default(),
        };
        let seq = node.intake.accept(&sample.reading)?;
        Ok((seq, node.mind.read(&self.rules, &sample.reading)))
    }
}

fn write_rejected(line: u64, reason: &str, field: Option<&str>, out: &mut Vec<u8>) {
    text(out, "{\"rejected\":{\"line\":");
    json(out, &line);
    text(out, ",\"reason\":\"");
    text(out, reason);
    if let Some(field) = field {
        text(out, "\",\"field\":\"");
        text(out, field);
    }
    text(out, "\"}}\n");
}

fn write_verdict(sample: &Valid<'_>, seq: i64, verdict: &Verdict, out: &mut Vec<u8>) {
    let standing = &verdict.standing;
    let state = standing.state;
    text(out, "{\"mesh_id\":");
    json(out, sample.mesh);
    text(out, ",\"node_id\":");
    json(out, sample.node);
    text(out, ",\"seq\":");
    json(out, &seq);
    text(out, ",\"time\":\"");
    out.extend_from_slice(&rfc3339(sample.reading.time.0));
    text(out, "\",\"phi\":");
    json(out, &verdict.phi);
    text(out, ",\"state\":\"");
    text(out, state.name());
    text(out, "\",\"state_number\":");
    json(out, &state.number());
    text(out, ",\"recovery_mode\":");
    json(out, &verdict.recovery_mode);
    for (name, value) in [
        (",\"entropy\":", verdict.entropy),
        (",\"frequency_alignment\":", verdict.frequency_alignment),
        (",\"harmony_index\":", verdict.harmony_index),
        (",\"mesh_health\":", verdict.mesh_health),
    ] {
        text(out, name);
        json(out, &value);
    }
    text(out, ",\"trend\":\"");
    text(out, Trend::of(verdict.trend_slope).name());
    text(out, "\",\"trend_slope\":");
    json(out, &verdict.trend_slope);
    text(out, ",\"severity\":\"");
    text(out, standing.severity.name());
    text(out, "\",\"symptoms\":[");
    names(out, standing.signs.symptoms().map(|s| s.name()));
    let wish = standing.wish();
    text(out, "],\"directives\":{\"interval_s\":");
    json(out, &wish.interval_s);
    for (name, value) in [
        (",\"route_preference\":\"", wish.route.name()),
        (
            "\",\"healing\":\"",
            wish.healing.map_or(NONE, Healing::name),
        ),
        (
            "\",\"scaling_action\":\"",
            wish.scaling.map_or(NONE, Scaling::name),
        ),
        ("\",\"alert_level\":\"", alert_level(state)),
    ] {
        text(out, name);
        text(out, value);
    }
    text(out, "\"},\"withheld\":[");
    names(out, standing.withheld().map(|r| r.name()));
    text(out, "]}\n");
}

fn names(out: &mut Vec<u8>, names: impl Iterator<Item = &'static str>) {
    for (i, name) in names.enumerate() {
        text(out, if i == 0 { "\"" } else { ",\"" });
        text(out, name);
        text(out, "\"");
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Numbers in shortest round-trip form, strings escaped.
fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a Vec takes all bytes and the value has no map");
}

const NOT_JSON: &str = "not_json";

const NONE: &str = "none";

/// How much is read and written at a time.
const BUFFER_BYTES: usize = 64 * 1024;
