//! `homeostat produce`: samples as JSON lines on stdin, into the log: to the brokers, where some
//! are configured, else through the folder's holder, or into the log itself when nobody holds it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::thread::park_timeout;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::holder::Holder;
use super::place::{client, with_brokers};
use super::{Global, Printer, say};
use crate::config::settings::Source as TimeSetting;
use crate::embedded::Embedded;
use crate::kafka::{KafkaIntake, KafkaSource};
use crate::model::{FOREVER, Span, Time};
use crate::runtime::{Durable, Incoming, Source as _, TimeSource};
use crate::stream::Topic;
use crate::topology::ingest::take_line;
use crate::wire::sample_json::LINE_BYTES_MAX;

/// Arguments of `produce`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// To these brokers, instead of the configuration's: HOST:PORT, several by commas.
    #[arg(long, value_name = "ADDRS")]
    brokers: Option<String>,
}

/// Runs `produce`: 0 when everything was accepted, 1 when something was rejected.
pub(super) fn run(
    args: Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let mut taker = taker(&args, global)?;
    let mut input = BufReader::new(io::stdin().lock());
    let mut sum = Sum::default();
    let mut line = 0;
    while let Some(batch) = Batch::read(&mut input, &mut line)? {
        let taken = taker.take(&batch).with_context(|| {
            format!(
                "sending the lines from {} on; {} were accepted before",
                batch.first, sum.accepted
            )
        })?;
        sum.accepted += taken.accepted;
        sum.note(&batch, &taken);
    }
    if sum.told > REJECTED_TOLD {
        say(&format!("... and {} more", sum.told - REJECTED_TOLD));
    }
    let words = format!("{} accepted, {} rejected", sum.accepted, sum.rejected);
    printer.print(&sum, &words)?;
    Ok(ExitCode::from(u8::from(sum.rejected > 0)))
}

/// What became of all lines.
#[derive(Default, Serialize)]
struct Sum {
    accepted: u64,
    rejected: u64,
    #[serde(skip)]
    told: u64,
}

impl Sum {
    /// Counts what was rejected and tells the first of them.
    fn note(&mut self, batch: &Batch, taken: &Taken) {
        let long = batch.too_long.iter().map(|line| Fault {
            line: *line,
            reason: "not_json".to_owned(),
            field: None,
            detail: Some(format!("longer than {LINE_BYTES_MAX} bytes")),
        });
        let listed = taken.rejected.iter().map(|fault| Fault {
            line: batch.first + fault.line - 1,
            ..fault.clone()
        });
        for fault in long.chain(listed) {
            self.told += 1;
            if self.told <= REJECTED_TOLD {
                say(&format!("homeostat: rejected {fault}"));
            }
        }
        let listed = taken.rejected.len() as u64;
        self.rejected += taken.rejected_total.unwrap_or(listed) + batch.too_long.len() as u64;
    }
}

/// Lines that go together.
struct Batch {
    /// Number of its first line, from 1.
    first: u64,
    /// The lines, each with its end; one that is too long is left empty.
    bytes: Vec<u8>,
    /// Numbers of the lines that are too long.
    too_long: Vec<u64>,
}

impl Batch {
    /// The next lines; `None` at the end of the input. Behind what a writer pauses goes at once.
    fn read(input: &mut BufReader<impl Read>, line: &mut u64) -> io::Result<Option<Batch>> {
        let mut batch = Batch {
            first: *line + 1,
            bytes: Vec::new(),
            too_long: Vec::new(),
        };
        let first = *line;
        while *line - first < BATCH_LINES && batch.bytes.len() < BATCH_BYTES {
            if *line > first && input.buffer().is_empty() {
                break;
            }
            let at = batch.bytes.len();
            let most = LINE_BYTES_MAX as u64 + 1;
            input
                .by_ref()
                .take(most)
                .read_until(b'\n', &mut batch.bytes)?;
            let length = batch.bytes.len() - at;
            if length == 0 {
                break;
            }
            *line += 1;
            if batch.bytes.last() != Some(&b'\n') {
                if length > LINE_BYTES_MAX {
                    input.skip_until(b'\n')?;
                    batch.bytes.truncate(at);
                    batch.too_long.push(*line);
                }
                batch.bytes.push(b'\n');
            }
        }
        Ok((*line > first).then_some(batch))
    }
}

/// What became of a batch; as the door answers it.
#[derive(Debug, Default, Deserialize)]
struct Taken {
    accepted: u64,
    #[serde(default)]
    rejected: Vec<Fault>,
    /// When more were rejected than are listed.
    #[serde(default)]
    rejected_total: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Fault {
    /// Within the batch, from 1.
    line: u64,
    reason: String,
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)?;
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

/// Who takes lines.
enum Taker {
    Held(Holder),
    Own {
        log: Embedded,
        future: Span,
        source: TimeSource,
    },
    Brokers {
        intake: Box<KafkaIntake>,
        future: Span,
        source: TimeSource,
    },
}

fn taker(args: &Args, global: &Global) -> anyhow::Result<Taker> {
    let config = with_brokers(global.config()?, args.brokers.as_deref())?;
    let settings = config.settings();
    if !settings.kafka.brokers.is_empty() {
        let client = client(settings)?;
        let title = KafkaSource::new(&client)?.title()?;
        return Ok(Taker::Brokers {
            intake: Box::new(KafkaIntake::new(&client, &title)?),
            future: Span::seconds(config.policy().monitor.max_future_s),
            source: title.time_source,
        });
    }
    if let Some(holder) = Holder::find(&settings.log.dir)? {
        return Ok(Taker::Held(holder));
    }
    let source = match settings.time.source {
        TimeSetting::Log => TimeSource::Log,
        TimeSetting::Sample => TimeSource::Sample,
    };
    Ok(Taker::Own {
        log: Embedded::open(&settings.log, source)?,
        future: Span::seconds(config.policy().monitor.max_future_s),
        source,
    })
}

impl Taker {
    fn take(&mut self, batch: &Batch) -> anyhow::Result<Taken> {
        match self {
            Taker::Held(holder) => {
                post(holder, "/v1/metrics", "application/x-ndjson", &batch.bytes)
            }
            Taker::Own {
                log,
                future,
                source,
            } => {
                let now = match source {
                    TimeSource::Log => log.now(),
                    TimeSource::Sample => FOREVER,
                };
                let (taken, records) = judge(batch, now, *future);
                append(log, Topic::Metrics, records)?;
                Ok(taken)
            }
            Taker::Brokers {
                intake,
                future,
                source,
            } => {
                let now = match source {
                    TimeSource::Log => wall_clock(),
                    TimeSource::Sample => FOREVER,
                };
                let (taken, records) = judge(batch, now, *future);
                if !records.is_empty() {
                    wait_for(intake.append(Topic::Metrics, records)?)?;
                }
                Ok(taken)
            }
        }
    }
}

/// What of a batch can be appended, and what became of the rest.
fn judge(batch: &Batch, now: Time, future: Span) -> (Taken, Vec<Incoming>) {
    let mut taken = Taken::default();
    let mut records = Vec::new();
    let lines = batch.bytes.split(|byte| *byte == b'\n').zip(1..);
    for (line, number) in lines {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match take_line(line, now, future) {
            Ok(sample) => records.push(Incoming {
                time: sample.time,
                key: sample.key,
                value: sample.value,
            }),
            Err(refused) => taken.rejected.push(Fault {
                line: number,
                reason: refused.reason.to_owned(),
                field: refused.field.map(str::to_owned),
                detail: None,
            }),
        }
    }
    taken.accepted = records.len() as u64;
    (taken, records)
}

/// What an append to the brokers would bear about now.
pub(super) fn wall_clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Time(since.unwrap_or_default().as_millis() as i64)
}

/// Appends records to a topic and waits until they are durable.
pub(super) fn append(log: &Embedded, topic: Topic, records: Vec<Incoming>) -> anyhow::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let receipt = log.append(topic, records)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("waiting for the disk")?;
    let mut moved = log.moved();
    let durable = runtime.block_on(async {
        let kept = moved.wait_for(|moved| *moved >= receipt.write);
        tokio::time::timeout(DURABLE_MAX, kept)
            .await
            .map(|kept| kept.is_ok())
    });
    match (durable, log.failure()) {
        (Ok(true), _) => Ok(()),
        (_, Some(failure)) => bail!("waiting until it is durable: {failure}"),
        _ => bail!(
            "waiting until it is durable: the disk did not answer within {} s; it may or may not \
             be in the log, send it again",
            DURABLE_MAX.as_secs()
        ),
    }
}

/// Waits until what was sent to the brokers is durable.
pub(super) fn wait_for(kept: Durable) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("waiting until it is durable")?;
    let kept = runtime.block_on(async { tokio::time::timeout(DURABLE_MAX, kept).await });
    match kept {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => bail!(
            "waiting until it is durable: {why}; it may or may not be in the log, send it again"
        ),
        Err(_) => bail!(
            "waiting until it is durable: nothing was answered within {} s; it may or may not be \
             in the log, send it again",
            DURABLE_MAX.as_secs()
        ),
    }
}

/// Posts lines or a record to the holder; asks again while it is too busy, a bounded number of
/// times.
fn post(holder: &Holder, path: &str, content_type: &str, body: &[u8]) -> anyhow::Result<Taken> {
    for _ in 0..TRIES {
        let answer = holder.ask("POST", path, content_type, body.to_vec())?;
        match answer.status {
            200 | 400 => {
                let words = String::from_utf8_lossy(&answer.body);
                return serde_json::from_slice(&answer.body).with_context(|| {
                    format!("posting to {path}: answered {}: {words}", answer.status)
                });
            }
            429 | 503 => {
                let pause = answer.retry_after_s.unwrap_or(1).clamp(1, PAUSE_MAX_S);
                park_timeout(Duration::from_secs(pause));
            }
            status => bail!(
                "posting to {path}: answered {status}: {}",
                String::from_utf8_lossy(&answer.body).trim()
            ),
        }
    }
    bail!(
        "posting to {path}: the holder was too busy or its disk nearly full {TRIES} times; look \
         at `homeostat check`"
    )
}

/// What became of one record that was posted: `Err` with the reason when it was rejected.
pub(super) fn post_one(
    holder: &Holder,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> anyhow::Result<Result<(), String>> {
    let taken = post(holder, path, content_type, body)?;
    let mut faults = taken.rejected.iter();
    Ok(match faults.next() {
        None if taken.accepted > 0 => Ok(()),
        None => Err("nothing was read".to_owned()),
        Some(fault) => Err(fault.to_string()),
    })
}

/// Lines that go together at most.
const BATCH_LINES: u64 = 2000;

/// Bytes that go together, one line more at most.
const BATCH_BYTES: usize = 1 << 20;

/// Rejected lines that are told one by one.
const REJECTED_TOLD: u64 = 20;

/// How long the disk may take.
const DURABLE_MAX: Duration = Duration::from_secs(30);

/// How often a busy holder is asked.
const TRIES: u32 = 30;

/// Longest pause before it is asked again, s.
const PAUSE_MAX_S: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(input: &[u8]) -> Vec<(u64, String, Vec<u64>)> {
        let mut input = BufReader::new(input);
        let (mut line, mut all) = (0, Vec::new());
        while let Some(batch) = Batch::read(&mut input, &mut line).unwrap() {
            let text = String::from_utf8(batch.bytes).unwrap();
            all.push((batch.first, text, batch.too_long));
        }
        all
    }

    #[test]
    fn lines_go_in_bounded_batches_and_keep_their_numbers() {
        assert_eq!(batches(b""), []);
        assert_eq!(batches(b"a\n\nb"), [(1, "a\n\nb\n".to_owned(), vec![])]);
        let many = "x\n".repeat(BATCH_LINES as usize + 1);
        let all = batches(many.as_bytes());
        assert!(all.len() > 1 && all.iter().all(|(_, text, _)| !text.is_empty()));
        let lines: usize = all.iter().map(|(_, text, _)| text.lines().count()).sum();
        assert_eq!(lines, BATCH_LINES as usize + 1);
        let (first, text, _) = all.last().unwrap();
        assert_eq!(*first as usize + text.lines().count() - 1, lines);
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_skipped() {
        let mut input = b"a\n".to_vec();
        input.extend(vec![b'x'; LINE_BYTES_MAX + 10]);
        input.extend(b"\nb\n");
        let all = batches(&input);
        let long: Vec<u64> = all.iter().flat_map(|(_, _, long)| long.clone()).collect();
        assert_eq!(long, [2]);
        let text: String = all.iter().map(|(_, text, _)| text.as_str()).collect();
        assert_eq!(text, "a\n\nb\n");
    }

    #[test]
    fn what_the_door_answers_is_counted() {
        let batch = Batch {
            first: 11,
            bytes: Vec::new(),
            too_long: vec![12],
        };
        let taken: Taken = serde_json::from_str(
            r#"{"accepted":3,
            "rejected":[{"line":2,"reason":"out_of_range","field":"packet_loss"}]}"#,
        )
        .unwrap();
        assert_eq!(
            taken.rejected[0].to_string(),
            "line 2: out_of_range: packet_loss"
        );
        let mut sum = Sum::default();
        sum.note(&batch, &taken);
        assert_eq!(sum.rejected, 2);
        let nothing: Taken = serde_json::from_str(
            r#"{"accepted":0,"rejected":[],"rejected_total":7,"error":"nothing"}"#,
        )
        .unwrap();
        sum.note(&batch, &nothing);
        assert_eq!(sum.rejected, 10);
    }
}
