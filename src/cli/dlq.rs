//! `homeostat dlq`: dead letters: what could not be folded, why, and once more into the log.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use serde::Serialize;

#[cfg(feature = "io")]
use super::place::{Brokers, Kind};
use super::place::{Place, Which};
#[cfg(feature = "io")]
use super::produce::{post_one, wait_for, wall_clock};
use super::{Global, Printer, plain, say};
use crate::model::MetricsRecord;
#[cfg(feature = "io")]
use crate::model::{FOREVER, Policy, Span};
#[cfg(feature = "io")]
use crate::runtime::{Incoming, TimeSource, Title, TopicPartition};
use crate::runtime::{Record, partitions_of};
use crate::stream::Topic;
#[cfg(feature = "io")]
use crate::topology::ingest::take;
use crate::wire;

/// What to do with dead letters.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// One a line, each with its reason.
    List(List),
    /// One of them, with what it holds.
    Show(Show),
    /// Sends samples and outcomes among them once more, through the holder or to the brokers.
    Replay(Replay),
}

/// Arguments of `dlq list`.
#[derive(clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
}

/// Arguments of `dlq show`.
#[derive(clap::Args)]
pub(super) struct Show {
    /// As `dlq list` shows it: its place on dead-letters, OFFSET or PARTITION/OFFSET.
    id: String,
    #[command(flatten)]
    which: Which,
}

/// Arguments of `dlq replay`.
#[derive(clap::Args)]
pub(super) struct Replay {
    /// Say what would be sent, and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only this one.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    which: Which,
}

/// Runs `dlq`: 0 when it was done, 1 when there is no such letter or one was rejected again.
pub(super) fn run(
    command: Command,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => list(&mut args.which.open(global)?, printer),
        Command::Show(args) => show(&args.id, &mut args.which.open(global)?, printer),
        Command::Replay(args) => replay(&args, &mut args.which.open(global)?, printer),
    }
}

fn list(place: &mut Place, printer: &mut Printer<impl Write>) -> anyhow::Result<ExitCode> {
    let mut count = 0;
    each(place, &mut |letter| {
        count += 1;
        let text = format!(
            "{}  {}  {}  {} of {}/{} offset {}",
            letter.id(),
            letter.record.time,
            letter.reason(),
            letter.what(),
            letter.header("topic"),
            letter.header("partition"),
            letter.header("offset")
        );
        Ok(printer.print(&letter.line(), &plain(&text))?)
    })?;
    if !printer.json {
        match count {
            0 => say("homeostat: there are no dead letters"),
            _ => say("next: homeostat dlq show ID"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(
    id: &str,
    place: &mut Place,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let of = place_of(id)?;
    let mut found = None;
    each(place, &mut |letter| {
        if letter.place() == of {
            found = Some(letter);
        }
        Ok(())
    })?;
    let Some(letter) = found else {
        say(&format!(
            "homeostat: there is no dead letter {id}; `homeostat dlq list` shows what is kept"
        ));
        return Ok(ExitCode::from(1));
    };
    let value = readable(&letter.record.value);
    let text = format!(
        "{}  {}\n  reason: {}: {}\n  from: {}/{} offset {}\n  key: {}\n  value ({} bytes): {}",
        letter.id(),
        letter.record.time,
        plain(&letter.reason()),
        plain(&letter.header("detail")),
        plain(&letter.header("topic")),
        letter.header("partition"),
        letter.header("offset"),
        plain(&readable(&letter.record.key)),
        letter.record.value.len(),
        plain(&value)
    );
    let shown = Shown {
        line: letter.line(),
        detail: letter.header("detail"),
        value,
    };
    printer.print(&shown, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Sends again what can be: samples and outcomes that stood on `metrics`. What else died there was
/// the loop's own word, and on `plan-inbox` Analyze's or a person's: to send that again from
/// outside would forge it.
fn replay(
    args: &Replay,
    place: &mut Place,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let only = args.id.as_deref().map(place_of).transpose()?;
    if !args.dry_run && !place.grows() {
        bail!(
            "sending dead letters again: nobody holds the folder to take them; start \
             `homeostat run`, or look with --dry-run"
        );
    }
    let mut letters = Vec::new();
    each(place, &mut |letter| {
        if only.is_none_or(|only| only == letter.place()) {
            letters.push((letter.place(), letter.id(), letter.sendable()));
        }
        if letters.len() > LETTERS_MAX {
            bail!("there are more than {LETTERS_MAX} dead letters: send them one by one with --id");
        }
        Ok(())
    })?;
    let (mut sent, mut rejected, mut not_sent) = (0, 0, 0);
    for (of, id, sendable) in letters {
        let (verdict, words) = match sendable {
            Err(why) => {
                not_sent += 1;
                ("not_sent", why.to_owned())
            }
            Ok(route) if args.dry_run => {
                sent += 1;
                ("would_send", format!("to {}", route.path()))
            }
            Ok(route) => match send(of, route, place)? {
                Ok(()) => {
                    sent += 1;
                    ("sent", format!("to {}", route.path()))
                }
                Err(why) => {
                    rejected += 1;
                    ("rejected", why)
                }
            },
        };
        let object = Sent {
            id: &id,
            result: verdict,
            detail: &words,
        };
        let text = format!("{id}  {}  {}", verdict.replace('_', " "), plain(&words));
        printer.print(&object, &text)?;
    }
    if !printer.json {
        let would = if args.dry_run { "would be " } else { "" };
        say(&format!(
            "{sent} {would}sent, {rejected} rejected again, {not_sent} cannot be sent"
        ));
    }
    Ok(ExitCode::from(u8::from(rejected > 0)))
}

/// Sends a letter's bytes as they first came.
#[cfg(feature = "io")]
fn send(
    (partition, offset): (i32, i64),
    route: Route,
    place: &mut Place,
) -> anyhow::Result<Result<(), String>> {
    let of = TopicPartition {
        topic: Topic::DeadLetters,
        partition,
    };
    let chunk = place.source.read(of, offset, offset + 1, 1)?;
    let Some(record) = chunk.records.first() else {
        return Ok(Err("it is no longer kept".to_owned()));
    };
    let content_type = match record.value.first() {
        Some(0xC3) => "avro/binary",
        _ => "application/x-ndjson",
    };
    // A line must not end within: JSON may hold line breaks between its parts.
    let body: Vec<u8> = match content_type {
        "avro/binary" => record.value.clone(),
        _ => record
            .value
            .iter()
            .map(|byte| {
                if matches!(byte, b'\n' | b'\r') {
                    b' '
                } else {
                    *byte
                }
            })
            .collect(),
    };
    match &place.kind {
        Kind::Held(holder) => post_one(holder, route.path(), content_type, &body),
        Kind::Brokers(brokers) => append(brokers, &place.source.title()?, &record.value),
        Kind::Export | Kind::Folder(_) => Ok(Err("nobody takes it".to_owned())),
    }
}

/// Sends a letter to the brokers, judged and written as the door would.
#[cfg(feature = "io")]
fn append(brokers: &Brokers, title: &Title, value: &[u8]) -> anyhow::Result<Result<(), String>> {
    let now = match title.time_source {
        TimeSource::Log => wall_clock(),
        TimeSource::Sample => FOREVER,
    };
    let future = Span::seconds(Policy::default().monitor.max_future_s);
    let record = match wire::decode_metrics(value) {
        Ok(MetricsRecord::Sample(raw)) => match take(raw, now, future) {
            Ok(taken) => Incoming {
                time: taken.time,
                key: taken.key,
                value: taken.value,
            },
            Err(refused) => return Ok(Err(refused.to_string())),
        },
        Ok(MetricsRecord::Outcome(outcome)) => Incoming {
            time: now,
            key: outcome.node.as_str().as_bytes().to_vec(),
            value: wire::encode_outcome(&outcome),
        },
        Ok(_) | Err(_) => return Ok(Err("it cannot be read".to_owned())),
    };
    wait_for(
        brokers
            .intake(title)?
            .append(Topic::Metrics, vec![record])?,
    )?;
    Ok(Ok(()))
}

#[cfg(not(feature = "io"))]
fn send(_of: (i32, i64), _route: Route, _place: &mut Place) -> anyhow::Result<Result<(), String>> {
    Ok(Err("this build cannot send".to_owned()))
}

/// Which way in a letter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Outcomes,
}

impl Route {
    fn path(self) -> &'static str {
        match self {
            Route::Metrics => "/v1/metrics",
            Route::Outcomes => "/v1/outcomes",
        }
    }
}

/// A dead letter.
struct Letter {
    partition: i32,
    record: Record,
}

impl Letter {
    fn place(&self) -> (i32, i64) {
        (self.partition, self.record.offset)
    }

    fn id(&self) -> String {
        match self.place() {
            (0, offset) => offset.to_string(),
            (partition, offset) => format!("{partition}/{offset}"),
        }
    }

    /// A header's text; of two with one name ours, which comes last.
    fn header(&self, name: &str) -> String {
        let headers = self.record.headers.iter().rev();
        headers
            .into_iter()
            .find(|(own, _)| own == name)
            .map_or("?".to_owned(), |(_, value)| {
                String::from_utf8_lossy(value).into_owned()
            })
    }

    fn reason(&self) -> String {
        self.header("reason")
    }

    fn what(&self) -> String {
        match self.record.value.len() {
            0 => "an alarm".to_owned(),
            bytes => format!("{bytes} bytes"),
        }
    }

    fn line(&self) -> Line {
        let number = |name: &str| self.header(name).parse().unwrap_or(-1);
        Line {
            topic: self.header("topic"),
            partition: number("partition"),
            offset: number("offset"),
            reason: self.reason(),
            time: self.record.time.to_string(),
            key: readable(&self.record.key),
            id: self.id(),
        }
    }

    /// Where it can be sent again, or why it cannot.
    fn sendable(&self) -> Result<Route, &'static str> {
        let topic = self.header("topic");
        if !topic.ends_with(Topic::Metrics.name()) {
            return Err("it stood on Plan's inbox: what decides there is not sent from outside");
        }
        if wire::leaving::is_cut(&self.record.headers) {
            return Err("it was cut: its header original_sha256 is that of the bytes that came");
        }
        match wire::decode_metrics(&self.record.value) {
            Ok(MetricsRecord::Tick) => Err("an alarm died, no record: its key's next one wakes it"),
            Ok(MetricsRecord::Adopted(_)) => Err("it is Plan's own word to Analyze"),
            Ok(MetricsRecord::Outcome(_)) => Ok(Route::Outcomes),
            Ok(MetricsRecord::Sample(_)) => Ok(Route::Metrics),
            Err(_) => Err("it cannot be read: see `homeostat dlq show`"),
        }
    }
}

fn each(
    place: &mut Place,
    take: &mut dyn FnMut(Letter) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for of in partitions_of(Topic::DeadLetters, place.source.title()?.partitions) {
        let (mut next, end) = (place.source.start(of)?, place.source.end(of)?);
        while next < end {
            let chunk = place.source.read(of, next, end, CHUNK_RECORDS)?;
            for record in chunk.records {
                let partition = of.partition;
                take(Letter { partition, record })?;
            }
            next = chunk.next;
        }
    }
    Ok(())
}

/// Partition and offset that an id names.
fn place_of(id: &str) -> anyhow::Result<(i32, i64)> {
    let (partition, offset) = id.split_once('/').unwrap_or(("0", id));
    partition
        .parse()
        .ok()
        .zip(offset.parse().ok())
        .ok_or_else(|| {
            anyhow!("{id:?} names no dead letter: expected OFFSET or PARTITION/OFFSET, as listed")
        })
}

/// Bytes as a person can read them: text as it is, what can be decoded as what it is, the rest in
/// hex.
fn readable(bytes: &[u8]) -> String {
    match wire::decode_metrics(bytes) {
        _ if bytes.is_empty() => String::new(),
        Ok(MetricsRecord::Outcome(outcome)) => {
            serde_json::to_string(&outcome).expect("an outcome has only names and numbers")
        }
        Ok(record) if bytes.starts_with(&[0xC3]) => format!("{record:?}"),
        _ => match (std::str::from_utf8(bytes), wire::decode_plan(bytes)) {
            (Ok(text), _) => text.to_owned(),
            (_, Ok(record)) => format!("{record:?}"),
            _ => bytes
                .iter()
                .take(HEX_BYTES)
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        },
    }
}

/// Bytes shown in hex at most.
const HEX_BYTES: usize = 512;

/// Letters that are sent again at a time.
const LETTERS_MAX: usize = 100_000;

const CHUNK_RECORDS: usize = 1024;

#[derive(Serialize)]
struct Line {
    topic: String,
    partition: i64,
    offset: i64,
    reason: String,
    time: String,
    key: String,
    id: String,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    line: Line,
    detail: String,
    value: String,
}

#[derive(Serialize)]
struct Sent<'a> {
    id: &'a str,
    result: &'a str,
    detail: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    fn letter(topic: &str, value: &[u8]) -> Letter {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        Letter {
            partition: 2,
            record: Record {
                offset: 7,
                time: Time(0),
                key: b"n".to_vec(),
                value: value.to_vec(),
                headers: vec![
                    header("topic", "theirs"),
                    header("reason", "not_json"),
                    header("topic", topic),
                    header("partition", "0"),
                    header("offset", "12"),
                ],
            },
        }
    }

    #[test]
    fn a_letter_is_told_with_where_it_stood() {
        let line = serde_json::to_string(&letter("homeostat.metrics", b"{").line()).unwrap();
        assert_eq!(
            line,
            concat!(
                r#"{"topic":"homeostat.metrics","partition":0,"offset":12,"reason":"not_json","#,
                r#""time":"1970-01-01T00:00:00.000Z","key":"n","id":"2/7"}"#
            )
        );
        assert_eq!(place_of("2/7").unwrap(), (2, 7));
        assert_eq!(place_of("7").unwrap(), (0, 7));
        assert!(place_of("dir-7").is_err());
    }

    #[test]
    fn only_samples_and_outcomes_of_metrics_are_sent_again() {
        let sample = br#"{"mesh_id":"m","node_id":"n","time":0}"#;
        let outcome = br#"{"mesh_id":"m","node_id":"n","log_id":"l","directive_id":"d",
            "generation":1,"kind":"healing","result":"applied"}"#;
        let route = |topic, value: &[u8]| letter(topic, value).sendable().ok();
        assert_eq!(route("homeostat.metrics", sample), Some(Route::Metrics));
        assert_eq!(route("homeostat.metrics", outcome), Some(Route::Outcomes));
        assert_eq!(route("homeostat.plan-inbox", sample), None);
        assert_eq!(route("homeostat.metrics", b""), None);
        assert_eq!(route("homeostat.metrics", b"{"), None);
        let adopted = crate::model::Adopted {
            mesh: crate::model::MeshId::none(),
            policy_id: crate::model::Policy::id(""),
            policy_generation: 1,
            text: String::new(),
        };
        let adopted = wire::encode_adopted(&adopted);
        assert_eq!(route("homeostat.metrics", &adopted), None);
    }

    #[test]
    fn bytes_are_read_as_what_they_are() {
        assert_eq!(readable(b"{\"a\":1"), "{\"a\":1");
        assert_eq!(readable(&[0xFF, 0x00]), "ff00");
        assert_eq!(readable(b""), "");
        let sent =
            r#"{"mesh_id":"m","node_id":"n","log_id":"l","directive_id":"d","generation":1,"#;
        let sent = format!(r#"{sent}"kind":"healing","result":"failed"}}"#);
        let outcome = wire::json::decode_outcome(sent.as_bytes()).unwrap();
        let stored = wire::encode_outcome(&outcome);
        assert_eq!(readable(&stored), sent, "as it was sent");
    }
}
