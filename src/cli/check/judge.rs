//! What the things looked at mean: pure, from what was seen to findings.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::brokers::{Brokers, CLOCKS_APART};
use super::door::Answer;
use super::look::{Card, Clock, Folder, Holder, Log, Space, Topic, Unmeasured};
use crate::cli::{Global, plain, quoted};
use crate::config::settings::{KafkaSettings, LogSettings, WebSettings};
use crate::config::{Config, ConfigError, Origin};
use crate::kafka::topics::Difference;
use crate::model::{parse_rfc3339, rfc3339};

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    /// How it stands.
    pub(super) verdict: Verdict,
    /// In words.
    pub(super) words: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
    /// Of a topic: its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topic: Option<String>,
    /// Days until the disk is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) days_left: Option<f64>,
    /// Nothing further can be told.
    #[serde(skip)]
    pub(super) fatal: bool,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Well.
    Ok,
    /// Well enough, but good to know.
    Note,
    /// Not well.
    Wanting,
    /// It cannot be told.
    Unknown,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, words: impl Into<String>) -> Finding {
        Finding {
            check,
            verdict,
            words: words.into(),
            mend: None,
            topic: None,
            days_left: None,
            fatal: false,
        }
    }

    fn ok(check: &'static str, words: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Ok, words)
    }

    fn note(check: &'static str, words: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Note, words)
    }

    /// Red, so with what mends it.
    fn wanting(check: &'static str, words: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            mend: Some(mend.into()),
            ..Finding::new(check, Verdict::Wanting, words)
        }
    }

    /// Red, so with what would let it be told.
    fn unknown(check: &'static str, words: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            mend: Some(mend.into()),
            ..Finding::new(check, Verdict::Unknown, words)
        }
    }

    fn fatal(self) -> Finding {
        Finding {
            fatal: true,
            ..self
        }
    }
}

/// How all of it stands: what is known to be wanting weighs more than what is not known.
pub(super) fn whole(findings: &[Finding]) -> Verdict {
    let has = |verdict: Verdict| findings.iter().any(|finding| finding.verdict == verdict);
    [Verdict::Wanting, Verdict::Unknown, Verdict::Note]
        .into_iter()
        .find(|verdict| has(*verdict))
        .unwrap_or(Verdict::Ok)
}

/// All of it in a chat message: what is red, else that nothing is.
pub(super) fn short(findings: &[Finding]) -> String {
    let red = |finding: &&Finding| matches!(finding.verdict, Verdict::Wanting | Verdict::Unknown);
    let mut words = match whole(findings) {
        Verdict::Wanting => "homeostat: found wanting.".to_owned(),
        Verdict::Unknown => "homeostat: could not tell.".to_owned(),
        Verdict::Ok | Verdict::Note => {
            let mut looked_at: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
            looked_at.dedup();
            format!("homeostat: all is well ({}).", looked_at.join(", "))
        }
    };
    for finding in findings.iter().filter(red) {
        words.push_str(&format!(" {}: {}.", finding.check, finding.words));
        if let Some(mend) = &finding.mend {
            words.push_str(&format!(" Mend: {mend}."));
        }
    }
    let words = plain(&words);
    match words.char_indices().nth(SHORT_CHARS_MAX) {
        None => words,
        Some(_) => {
            let kept = words.chars().take(SHORT_CHARS_MAX - 2);
            kept.chain(" …".chars()).collect()
        }
    }
}

/// What a chat message holds, characters.
const SHORT_CHARS_MAX: usize = 500;

pub(super) fn configuration(global: &Global, read: &Result<Config, ConfigError>) -> Finding {
    const CHECK: &str = "configuration";
    match read {
        Ok(config) => {
            let mut words = match config.given().len() {
                0 => "valid: nothing given, every value is its default".to_owned(),
                1 => "valid: 1 value given".to_owned(),
                n => format!("valid: {n} values given"),
            };
            let mut origins: Vec<&Origin> = config
                .given()
                .values()
                .map(|setting| &setting.origin)
                .collect();
            origins.sort();
            origins.dedup();
            for origin in origins {
                words.push_str(&format!(", {origin}"));
            }
            Finding::ok(CHECK, words)
        }
        Err(error @ ConfigError::Unreadable { source, .. }) => {
            let mend = match source.kind() {
                ErrorKind::NotFound => global.command("config init"),
                _ => "homeostat check --config FILE, one that can be read".to_owned(),
            };
            Finding::unknown(CHECK, format!("{error}: {source}"), mend).fatal()
        }
        Err(error @ ConfigError::Invalid { origin, .. }) => {
            let mend = match origin {
                Origin::Variable(name) => format!("unset {name}, or give it what was expected"),
                Origin::File(path) => format!(
                    "edit {}; homeostat config init --config example.toml writes every key with \
                     its bounds",
                    path.display()
                ),
                Origin::Flag(flag) => format!("homeostat check, with another {flag}"),
            };
            Finding::wanting(CHECK, error.to_string(), mend).fatal()
        }
    }
}

pub(super) fn folder(global: &Global, dir: &Path, folder: &Folder) -> Finding {
    const CHECK: &str = "data folder";
    let name = dir.display();
    let another = "homeostat run --data DIR, a folder that may be written to";
    match folder {
        Folder::Absent {
            above,
            closed: None,
        } => {
            let words = format!(
                "{name} is not there yet; it can be made in {}",
                above.display()
            );
            Finding::note(CHECK, words)
        }
        Folder::Absent {
            above,
            closed: Some(error),
        } => {
            let words = format!(
                "{name} is not there and cannot be made in {}: {error}",
                above.display()
            );
            Finding::wanting(CHECK, words, another).fatal()
        }
        Folder::Occupied => {
            let words = format!("{name} is not a folder");
            Finding::wanting(CHECK, words, another).fatal()
        }
        Folder::Closed(error) => {
            let words = format!("{name} cannot be read and written: {error}");
            let mend = match error.kind() {
                ErrorKind::PermissionDenied => {
                    let dir = quoted(&dir.to_string_lossy());
                    format!("sudo chown -R \"$(id -u)\" {dir}")
                }
                _ => another.to_owned(),
            };
            Finding::wanting(CHECK, words, mend).fatal()
        }
        Folder::Open(Holder::Nobody) => {
            let words = format!("{name} can be used; nobody holds it: no loop runs here");
            Finding::note(CHECK, words)
        }
        Folder::Open(Holder::Somebody(card)) => {
            let holder = match card {
                None => "a process that has not said its name yet".to_owned(),
                Some(card) => format!("process {} since {}{}", card.pid, card.since, at(card)),
            };
            Finding::ok(CHECK, format!("{name} is held by {holder}"))
        }
        Folder::Open(Holder::Untold(error)) => {
            let words = format!("{name} can be used, but who holds it cannot be told: {error}");
            let mend = format!("sudo {}", global.command("check"));
            Finding::unknown(CHECK, words, mend)
        }
    }
}

fn at(card: &Card) -> String {
    match card.listen.as_str() {
        "" => String::new(),
        listen => format!(", its door at {listen}"),
    }
}

/// Stops the holder and starts another.
fn restart(global: &Global, card: Option<&Card>) -> String {
    let run = global.command("run");
    match card {
        Some(card) => format!("kill -TERM {}, then {run}", card.pid),
        None => format!("stop it, then {run}"),
    }
}

/// Who may come to the door, and whether others can listen: of the one that runs, else of the one
/// configured.
pub(super) fn access(
    global: &Global,
    web: &WebSettings,
    card: Option<&Card>,
    read: &Result<usize, String>,
) -> Finding {
    const CHECK: &str = "tokens";
    let count = match read {
        Ok(count) => *count,
        Err(error) => {
            let mend = format!("mend what it names, then {}", global.command("check"));
            return Finding::wanting(CHECK, error.clone(), mend);
        }
    };
    let running = card.map(|card| card.listen.as_str());
    let listen = running.filter(|listen| !listen.is_empty());
    let listen = listen.unwrap_or(&web.listen);
    let (scheme, address) = listen.split_once("://").unwrap_or(("", listen));
    let is_private = match scheme {
        "" => !web.certificate_file.is_empty(),
        scheme => scheme == "https",
    };
    let is_near = address
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_loopback());
    match (is_near, is_private) {
        (false, false) => {
            let words = format!(
                "others reach the door at {address} without TLS: tokens and samples go in the clear"
            );
            let mend = format!(
                "name web.certificate_file and web.key_file in homeostat.toml; {}",
                restart(global, card)
            );
            Finding::wanting(CHECK, words, mend)
        }
        (true, _) if count == 0 => {
            let words = format!("none: the door at {address} is for this machine alone");
            Finding::ok(CHECK, words)
        }
        (_, is_private) => {
            let how = match is_private {
                true => "over TLS",
                false => "on this machine",
            };
            Finding::ok(CHECK, format!("{count} may come to {address}, {how}"))
        }
    }
}

pub(super) fn door(global: &Global, card: Option<&Card>, ready: &io::Result<Answer>) -> Finding {
    const CHECK: &str = "door";
    match ready {
        Ok(answer) if answer.status == 200 => Finding::ok(CHECK, "answers, and is ready"),
        Ok(answer) => {
            let reasons: Vec<&str> = answer.body.lines().take(REASONS_MAX).collect();
            let words = format!(
                "answers {}, expected 200: {}",
                answer.status,
                reasons.join("; ")
            );
            let mend = format!("if it stays so, {}", restart(global, card));
            Finding::wanting(CHECK, words, mend)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let words = format!("the holder's socket may not be used: {error}");
            Finding::unknown(CHECK, words, format!("sudo {}", global.command("check")))
        }
        Err(error) => {
            let words = format!("the folder is held, but homeostat.sock in it fails: {error}");
            Finding::wanting(CHECK, words, restart(global, card))
        }
    }
}

/// How many of the door's reasons are told.
const REASONS_MAX: usize = 5;

pub(super) fn no_log(global: &Global, error: &io::Error) -> Finding {
    let words = format!("what the topics hold cannot be told: {error}");
    Finding::unknown("topics", words, restart(global, None))
}

/// What was found on the brokers.
pub(super) fn brokers(
    global: &Global,
    settings: &KafkaSettings,
    found: &Brokers,
    clock: &Clock,
) -> Vec<Finding> {
    const CHECK: &str = "brokers";
    let (brokers, group) = (&settings.brokers, &settings.group);
    let counts = match &found.topics {
        Ok(counts) => counts,
        Err(error) => {
            let again = global.command("check");
            let mend = format!("start them, or HOMEOSTAT_KAFKA_BROKERS=HOST:PORT {again}");
            return vec![Finding::unknown(CHECK, error, mend).fatal()];
        }
    };
    let mut findings = vec![Finding::ok(CHECK, format!("{brokers} answers"))];
    match &found.differences {
        Err(error) => {
            let mend = global.command("topics check");
            findings.push(Finding::unknown("topics", error, mend));
        }
        Ok(differences) if differences.is_empty() => {
            let partitions = counts.values().max().copied().unwrap_or_default();
            let words = format!(
                "{} topics of {partitions} partitions, as they should be",
                counts.len()
            );
            findings.push(Finding::ok("topics", words));
        }
        Ok(differences) => findings.extend(differences.iter().map(|found| {
            let Difference {
                topic,
                check,
                found,
                expected,
                mend,
            } = found;
            Finding {
                topic: Some(topic.clone()),
                ..Finding::wanting(
                    "topics",
                    format!("{topic}: {check}: {found}, expected {expected}"),
                    mend,
                )
            }
        })),
    }
    let Some(log) = &found.log else {
        return findings;
    };
    findings.push(match &log.waiting {
        Ok(waiting) => {
            let id = &log.log_id;
            // The ends of transactions take a place in the log and are counted with the records.
            let words = format!("at most {waiting} records of log {id} wait for group {group}");
            Finding::ok("group", words)
        }
        Err(error) => Finding::wanting("group", error, global.command("topics acls")),
    });
    match &log.ahead {
        Ok(None) => {}
        Ok(Some(of)) => {
            let (of, apart) = (of.to_string(), CLOCKS_APART.0 / 1000);
            let words = format!(
                "{of} has records of a time that is still to come here: the brokers' clock or ours \
                 is wrong by {apart} s and more"
            );
            findings.push(Finding::wanting("clock", words, set_clock(clock)));
        }
        Err(error) => findings.push(Finding::unknown("clock", error, global.command("check"))),
    }
    findings
}

/// What sets this machine's clock.
fn set_clock(clock: &Clock) -> &'static str {
    match clock.systemd {
        true => "sudo timedatectl set-ntp true",
        false => "sudo date -u -s 'YYYY-MM-DD hh:mm:ss', and keep it with chrony",
    }
}

pub(super) fn clock(clock: &Clock, log: Option<&Log>) -> Finding {
    const CHECK: &str = "clock";
    let mend = set_clock(clock);
    let sane = SANE_FROM..SANE_UNTIL;
    let (Some(from), Some(until)) = (
        parse_rfc3339(sane.start.as_bytes()),
        parse_rfc3339(sane.end.as_bytes()),
    ) else {
        unreachable!("both are times")
    };
    if !(from..until).contains(&clock.now_ms) {
        let words = format!("{} is no time to be now", time(clock.now_ms));
        return Finding::wanting(CHECK, words, mend);
    }
    let topics = log.into_iter().flat_map(|log| &log.topics);
    let oldest = topics.filter_map(|topic| topic.oldest_ms).max();
    if let Some(oldest) = oldest.filter(|oldest| *oldest > clock.now_ms + STEP_MS) {
        let words = format!(
            "{}, but the log has records of {} and later: it was set back, or was wrong then",
            time(clock.now_ms),
            time(oldest)
        );
        return Finding::wanting(CHECK, words, mend);
    }
    let kept = match clock.synchronised {
        true => "kept by the network (systemd-timesyncd)",
        false => "whether it is kept by the network cannot be seen",
    };
    let words = format!("{}, {kept}", time(clock.now_ms));
    match clock.synchronised {
        true => Finding::ok(CHECK, words),
        false => Finding::note(CHECK, words),
    }
}

/// Before this nobody can run this program.
const SANE_FROM: &str = "2025-01-01T00:00:00Z";

/// After this a clock is more likely wrong than read.
const SANE_UNTIL: &str = "2100-01-01T00:00:00Z";

/// A clock that is corrected may step so far, ms.
const STEP_MS: i64 = 60_000;

fn time(ms: i64) -> String {
    // Outside of what can be written, a clock is wrong by ages: the year tells enough.
    let ms = ms.clamp(0, crate::model::END_OF_TIME_MS - 1);
    String::from_utf8_lossy(&rfc3339(ms)).into_owned()
}

pub(super) fn space(global: &Global, log: &LogSettings, space: &Space) -> Finding {
    const CHECK: &str = "disk";
    let free = match &space.free_bytes {
        Ok(free) => *free,
        Err(error) => {
            let words = format!(
                "how much is free below {} fails: {error}",
                log.dir.display()
            );
            let mend = format!("df -h {}", quoted(&log.dir.to_string_lossy()));
            return Finding::unknown(CHECK, words, mend);
        }
    };
    let (free_size, wanted) = (size(free), log.min_free_mib);
    if free < wanted * MIB {
        let words = format!(
            "{free_size} free, less than [log] min_free_mib = {wanted}: nothing more is taken in"
        );
        let mend = format!(
            "free some (sudo du -xhd2 / | sort -h), or HOMEOSTAT_LOG_MIN_FREE_MIB={} {}",
            free / MIB / 2,
            global.command("run")
        );
        return Finding::wanting(CHECK, words, mend);
    }
    let used = match space.used_bytes {
        Some(bytes) => format!(", {} used by the folder", size(bytes)),
        None => String::new(),
    };
    Finding::ok(CHECK, format!("{free_size} free{used}"))
}

/// Each topic, and how long the disk lasts for all of them together.
pub(super) fn topics(
    global: &Global,
    settings: &LogSettings,
    log: &Log,
    now_ms: i64,
) -> Vec<Finding> {
    let usable = log.free_bytes.saturating_sub(settings.min_free_mib * MIB) as f64;
    let growths: Vec<Growth> = log
        .topics
        .iter()
        .map(|topic| Growth::of(topic, settings, now_ms))
        .collect();
    let topics = log.topics.iter().zip(&growths);
    let mut findings: Vec<Finding> = topics
        .map(|(topic, growth)| about_topic(topic, growth, usable))
        .collect();
    findings.push(together(global, &growths, usable));
    findings
}

fn about_topic(topic: &Topic, growth: &Growth, usable: f64) -> Finding {
    let days_left = days_until_full(usable, std::slice::from_ref(growth));
    let grows = match (growth.bytes_per_day, days_left) {
        (None, _) => "too young to tell how it grows".to_owned(),
        (Some(rate), Some(days)) => {
            format!(
                "{} a day, {} left by itself",
                size(rate as u64),
                in_days(days)
            )
        }
        (Some(rate), None) => {
            format!("{} a day, held by what is kept", size(rate as u64))
        }
    };
    let words = format!(
        "{}: {} records, {}, {grows}",
        topic.name,
        topic.records,
        size(topic.bytes)
    );
    Finding {
        topic: Some(topic.name.clone()),
        days_left,
        ..Finding::ok("topic", words)
    }
}

fn together(global: &Global, growths: &[Growth], usable: f64) -> Finding {
    const CHECK: &str = "topics";
    let days_left = days_until_full(usable, growths);
    let found = match days_left {
        Some(days) if days < DAYS_WANTED => {
            let words = format!(
                "{} until the disk is full, less than {DAYS_WANTED}",
                in_days(days)
            );
            let mend = format!(
                "free some, or keep less: HOMEOSTAT_LOG_KEEP_DAYS_METRICS=1 \
                 HOMEOSTAT_LOG_KEEP_DAYS_CYCLES=1 {}",
                global.command("run")
            );
            Finding::wanting(CHECK, words, mend)
        }
        Some(days) => Finding::ok(CHECK, format!("{} until the disk is full", in_days(days))),
        None => Finding::ok(CHECK, "what is kept fits the disk, as far as can be told"),
    };
    Finding { days_left, ..found }
}

/// With less a weekend may go wrong.
const DAYS_WANTED: f64 = 7.0;

/// How a topic grows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    /// `None`: it is too young to tell.
    bytes_per_day: Option<f64>,
    /// Days until as much goes as comes; `None`: never.
    until: Option<f64>,
}

impl Growth {
    fn of(topic: &Topic, settings: &LogSettings, now_ms: i64) -> Growth {
        let age_ms = topic.oldest_ms.map(|oldest| now_ms.saturating_sub(oldest));
        let days = age_ms
            .filter(|age| *age >= AGE_MIN_MS)
            .map(|age| age as f64 / DAY_MS);
        let bytes_per_day = days.map(|days| topic.bytes as f64 / days);
        let keep = &settings.keep_days;
        let keep = match topic.name.as_str() {
            "metrics" => Some(keep.metrics),
            "plan-inbox" => Some(keep.plan_inbox),
            "cycles" => Some(keep.cycles),
            "directives" => Some(keep.directives),
            "dead-letters" => Some(keep.dead_letters),
            _ => None,
        };
        let by_age = keep.map(|keep| (keep as f64 - days.unwrap_or(0.0)).max(0.0));
        let by_size = match (topic.name.as_str(), settings.metrics_max_mib, bytes_per_day) {
            ("metrics", max @ 1.., Some(rate)) if rate > 0.0 => {
                Some((max * MIB).saturating_sub(topic.bytes) as f64 / rate)
            }
            _ => None,
        };
        let until = match (by_age, by_size) {
            (Some(age), Some(size)) => Some(age.min(size)),
            (age, size) => age.or(size),
        };
        Growth {
            bytes_per_day,
            until,
        }
    }

    /// Bytes a day, so many days from now.
    fn rate_after(&self, days: f64) -> f64 {
        match self.until {
            Some(until) if until <= days => 0.0,
            _ => self.bytes_per_day.unwrap_or(0.0),
        }
    }
}

/// A younger topic says nothing of how it grows, ms.
const AGE_MIN_MS: i64 = 3_600_000;

const DAY_MS: f64 = 86_400_000.0;

/// When topics that grow like this have used up so many bytes; `None`: never.
///
/// From one topic's end of growth to the next the sum of rates is constant.
fn days_until_full(usable: f64, growths: &[Growth]) -> Option<f64> {
    let mut ends: Vec<f64> = growths.iter().filter_map(|growth| growth.until).collect();
    ends.sort_by(f64::total_cmp);
    ends.push(f64::INFINITY);
    let (mut day, mut left) = (0.0, usable);
    for end in ends {
        let rate: f64 = growths.iter().map(|growth| growth.rate_after(day)).sum();
        if rate > 0.0 {
            if rate * (end - day) >= left {
                return Some(day + left / rate);
            }
            left -= rate * (end - day);
        }
        day = end;
    }
    None
}

pub(super) fn agent(found: &Result<Option<Vec<Unmeasured>>, String>) -> Vec<Finding> {
    const CHECK: &str = "agent";
    match found.as_ref().map(Option::as_deref) {
        Ok(None) => {
            let words =
                "[agent] enabled = false: `run` brings none, samples come by POST /v1/metrics";
            vec![Finding::note(CHECK, words)]
        }
        Ok(Some([])) => vec![Finding::ok(CHECK, "measures all that the loop reads")],
        Ok(Some(gaps)) => gaps
            .iter()
            .map(|gap| {
                let words = format!("not measured: {}: {}", gap.metrics.join(", "), gap.why);
                Finding::note(CHECK, words)
            })
            .collect(),
        Err(error) => {
            let mend = "HOMEOSTAT_AGENT_ENABLED=false homeostat run, or the [agent] key it names";
            vec![Finding::wanting(CHECK, error, mend)]
        }
    }
}

const MIB: u64 = 1 << 20;

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{amount:.1} {}", units[unit]),
    }
}

fn in_days(days: f64) -> String {
    match days {
        few if few < 10.0 => format!("{few:.1} days"),
        many if many < 3650.0 => format!("{many:.0} days"),
        _ => "more than 10 years".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::check::brokers::Log as OpenLog;
    use crate::runtime::only;
    use crate::stream;

    const NOW_MS: i64 = 1_800_000_000_000;
    const DAY: i64 = 86_400_000;

    fn global() -> Global {
        Global {
            json: false,
            config: None,
            data: Some("there".to_owned()),
        }
    }

    fn check(found: &Finding, verdict: Verdict, words: &str, mend: &str) {
        assert_eq!(found.verdict, verdict, "{found:?}");
        assert!(found.words.contains(words), "{words:?} in {found:?}");
        let told = found.mend.as_deref().unwrap_or_default();
        assert!(told.contains(mend), "{mend:?} in {found:?}");
        let red = matches!(verdict, Verdict::Wanting | Verdict::Unknown);
        assert_eq!(red, found.mend.is_some(), "red lines name what mends them");
    }

    #[test]
    fn a_configuration_is_valid_or_ends_the_check() {
        let read = |file: &str, variable: (&str, &str)| {
            let variable = (variable.0.to_owned(), variable.1.to_owned());
            configuration(
                &global(),
                &Config::new(Some((Path::new("h.toml"), file)), [variable]),
            )
        };
        let found = read("[log]\nsync_ms = 5", ("HOMEOSTAT_LOG_DIR", "d"));
        check(
            &found,
            Verdict::Ok,
            "2 values given, h.toml, environment variable HOMEOSTAT_LOG_DIR",
            "",
        );
        let found = read("[log]\nsync_ms = 0", ("PATH", ""));
        check(&found, Verdict::Wanting, "line 2", "edit h.toml");
        assert!(found.fatal);
        let found = read("", ("HOMEOSTAT_LOG_SYNC_MS", "0"));
        check(
            &found,
            Verdict::Wanting,
            "1 to 1000",
            "unset HOMEOSTAT_LOG_SYNC_MS",
        );
        let missing = Config::load(Some(Path::new("/nowhere/h.toml")));
        let found = configuration(&global(), &missing);
        check(
            &found,
            Verdict::Unknown,
            "/nowhere/h.toml",
            "config init --data there",
        );
        assert!(found.fatal);
    }

    #[test]
    fn a_folder_that_cannot_be_used_ends_the_check() {
        let error = |kind: ErrorKind| io::Error::from(kind);
        let card = Card {
            pid: 7,
            since: "2026-01-01T00:00:00.000Z".to_owned(),
            listen: "127.0.0.1:1618".to_owned(),
        };
        let above = || "/srv".into();
        let (closed, read_only) = (ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem);
        for (seen, verdict, words, mend, fatal) in [
            (
                Folder::Absent {
                    above: above(),
                    closed: None,
                },
                Verdict::Note,
                "can be made in /srv",
                "",
                false,
            ),
            (
                Folder::Absent {
                    above: above(),
                    closed: Some(error(closed)),
                },
                Verdict::Wanting,
                "cannot be made",
                "--data DIR",
                true,
            ),
            (
                Folder::Occupied,
                Verdict::Wanting,
                "not a folder",
                "--data",
                true,
            ),
            (
                Folder::Closed(error(closed)),
                Verdict::Wanting,
                "cannot be read and written",
                "sudo chown -R \"$(id -u)\" 'a b'",
                true,
            ),
            (
                Folder::Closed(error(read_only)),
                Verdict::Wanting,
                "cannot be read and written",
                "--data DIR",
                true,
            ),
            (
                Folder::Open(Holder::Nobody),
                Verdict::Note,
                "nobody holds it",
                "",
                false,
            ),
            (
                Folder::Open(Holder::Somebody(Some(card))),
                Verdict::Ok,
                "process 7 since 2026-01-01T00:00:00.000Z, its door at 127.0.0.1:1618",
                "",
                false,
            ),
            (
                Folder::Open(Holder::Somebody(None)),
                Verdict::Ok,
                "has not said its name",
                "",
                false,
            ),
            (
                Folder::Open(Holder::Untold(error(closed))),
                Verdict::Unknown,
                "cannot be told",
                "sudo homeostat check --data there",
                false,
            ),
        ] {
            let found = folder(&global(), Path::new("a b"), &seen);
            check(&found, verdict, words, mend);
            assert_eq!(found.fatal, fatal, "{found:?}");
        }
    }

    #[test]
    fn a_door_that_others_reach_speaks_tls() {
        let judged = |listen: &str, certificate: &str, running: Option<&str>, count: usize| {
            let web = WebSettings {
                listen: listen.to_owned(),
                certificate_file: certificate.to_owned(),
                ..WebSettings::default()
            };
            let card = running.map(|listen| Card {
                pid: 7,
                since: String::new(),
                listen: listen.to_owned(),
            });
            access(&global(), &web, card.as_ref(), &Ok(count))
        };
        let found = judged("127.0.0.1:1618", "", None, 0);
        check(&found, Verdict::Ok, "this machine alone", "");
        let found = judged("127.0.0.1:1618", "", None, 2);
        check(&found, Verdict::Ok, "2 may come", "");
        let found = judged("0.0.0.0:1618", "c.pem", None, 2);
        check(&found, Verdict::Ok, "over TLS", "");
        let found = judged("0.0.0.0:1618", "", None, 2);
        check(
            &found,
            Verdict::Wanting,
            "in the clear",
            "web.certificate_file",
        );
        // What runs counts, not what the file says by now.
        let found = judged("127.0.0.1:1618", "", Some("http://10.0.0.1:1618"), 1);
        check(&found, Verdict::Wanting, "10.0.0.1:1618", "kill -TERM 7");
        let found = judged("0.0.0.0:1618", "", Some("https://[::]:1618"), 1);
        check(&found, Verdict::Ok, "over TLS", "");
        let unread = Err("reading a: its mode is 0644".to_owned());
        let found = access(&global(), &WebSettings::default(), None, &unread);
        check(&found, Verdict::Wanting, "0644", "homeostat check");
    }

    #[test]
    fn a_door_is_ready_or_says_why_not() {
        let card = Card {
            pid: 7,
            since: String::new(),
            listen: String::new(),
        };
        let answer = |status: u16, body: &str| {
            Ok(Answer {
                status,
                body: body.to_owned(),
            })
        };
        let judged = |ready: io::Result<Answer>| door(&global(), Some(&card), &ready);
        check(&judged(answer(200, "")), Verdict::Ok, "ready", "");
        let found = judged(answer(503, "disk nearly full\nlag 9"));
        check(
            &found,
            Verdict::Wanting,
            "disk nearly full; lag 9",
            "kill -TERM 7",
        );
        let found = judged(Err(ErrorKind::ConnectionRefused.into()));
        check(
            &found,
            Verdict::Wanting,
            "homeostat.sock",
            "kill -TERM 7, then homeostat run --data there",
        );
        let found = judged(Err(ErrorKind::PermissionDenied.into()));
        check(&found, Verdict::Unknown, "may not be used", "sudo");
        let found = no_log(&global(), &io::Error::other("GET /v1/log: status 404"));
        check(&found, Verdict::Unknown, "404", "stop it");
    }

    fn log_of(topics: &[(&str, u64, i64)], free_mib: u64) -> Log {
        let topics = topics.iter().map(|(name, mib, age_ms)| Topic {
            name: (*name).to_owned(),
            bytes: mib * MIB,
            records: 10,
            oldest_ms: Some(NOW_MS - age_ms),
        });
        Log {
            topics: topics.collect(),
            free_bytes: free_mib * MIB,
        }
    }

    #[test]
    fn a_clock_is_sane_and_not_before_the_log() {
        let at = |now_ms: i64| Clock {
            now_ms,
            synchronised: true,
            systemd: true,
        };
        check(&clock(&at(NOW_MS), None), Verdict::Ok, "2027-01-15", "");
        let unseen = Clock {
            synchronised: false,
            ..at(NOW_MS)
        };
        check(&clock(&unseen, None), Verdict::Note, "cannot be seen", "");
        for wrong in [i64::MIN, 0, i64::MAX] {
            check(
                &clock(&at(wrong), None),
                Verdict::Wanting,
                "no time",
                "timedatectl",
            );
        }
        let log = log_of(&[("metrics", 1, DAY), ("events", 1, 0)], 1);
        check(&clock(&at(NOW_MS), Some(&log)), Verdict::Ok, "", "");
        let found = clock(&at(NOW_MS - DAY / 2), Some(&log));
        check(&found, Verdict::Wanting, "set back", "timedatectl");
    }

    #[test]
    fn space_is_measured_against_what_must_be_free() {
        let settings = LogSettings::default();
        let seen = |free_mib: u64| Space {
            free_bytes: Ok(free_mib * MIB),
            used_bytes: Some(3 * MIB / 2),
        };
        let judged = |seen: Space| space(&global(), &settings, &seen);
        check(
            &judged(seen(512)),
            Verdict::Ok,
            "512.0 MiB free, 1.5 MiB used",
            "",
        );
        let found = judged(seen(511));
        check(
            &found,
            Verdict::Wanting,
            "min_free_mib = 512",
            "MIN_FREE_MIB=255",
        );
        let found = judged(Space {
            free_bytes: Err(ErrorKind::NotFound.into()),
            used_bytes: None,
        });
        check(
            &found,
            Verdict::Unknown,
            "homeostat-data",
            "df -h homeostat-data",
        );
    }

    #[test]
    fn days_left_are_told_by_topic_and_together() {
        let settings = LogSettings::default();
        // 100 MiB a day for five days more, and 10 a day for ever.
        let topics_of = [("metrics", 200, 2 * DAY), ("events", 20, 2 * DAY)];
        let judged = |usable_mib: u64| {
            let log = log_of(&topics_of, 512 + usable_mib);
            topics(&global(), &settings, &log, NOW_MS)
        };
        let found = judged(1000);
        assert_eq!(found.len(), 3);
        check(
            &found[0],
            Verdict::Ok,
            "100.0 MiB a day, held by what is kept",
            "",
        );
        assert_eq!(found[0].days_left, None);
        check(&found[1], Verdict::Ok, "100 days left by itself", "");
        // After five days 450 are left, at 10 a day.
        assert_eq!(found[2].days_left, Some(50.0));
        let found = judged(330);
        assert_eq!(found[0].days_left, Some(3.3));
        assert_eq!(found[2].days_left, Some(3.0));
        check(
            &found[2],
            Verdict::Wanting,
            "3.0 days",
            "KEEP_DAYS_METRICS=1",
        );

        let bounded = LogSettings {
            metrics_max_mib: 250,
            ..settings.clone()
        };
        let log = log_of(&topics_of, 512 + 1000);
        let found = topics(&global(), &bounded, &log, NOW_MS);
        // 50 more of metrics and as long 5 of events, then 945 at 10 a day.
        assert_eq!(found[2].days_left, Some(95.0));

        let young = log_of(&[("events", 20, 60_000)], 512);
        let found = topics(&global(), &settings, &young, NOW_MS);
        check(&found[0], Verdict::Ok, "too young", "");
        check(&found[1], Verdict::Ok, "fits the disk", "");
    }

    #[test]
    fn brokers_answer_have_the_topics_and_a_group_that_may_be_read() {
        let clock = Clock {
            now_ms: NOW_MS,
            synchronised: true,
            systemd: true,
        };
        let look = |found: &Brokers| {
            let settings = KafkaSettings {
                brokers: "b:9092".to_owned(),
                ..KafkaSettings::default()
            };
            brokers(&global(), &settings, found, &clock)
        };
        let silent = Brokers {
            topics: Err("asking b:9092: nobody answers".to_owned()),
            differences: Ok(Vec::new()),
            log: None,
        };
        let found = look(&silent);
        check(
            &found[0],
            Verdict::Unknown,
            "nobody answers",
            "HOST:PORT homeostat check",
        );
        assert!(found[0].fatal && found.len() == 1);

        let open = |waiting, ahead| Brokers {
            topics: Ok(stream::Topic::ALL.map(|topic| (topic, 3)).into()),
            differences: Ok(Vec::new()),
            log: Some(OpenLog {
                log_id: "log-1".to_owned(),
                waiting,
                ahead,
            }),
        };
        let found = look(&open(Ok(7), Ok(None)));
        check(&found[0], Verdict::Ok, "b:9092 answers", "");
        check(&found[1], Verdict::Ok, "6 topics of 3 partitions", "");
        check(&found[2], Verdict::Ok, "7 records of log log-1 wait", "");
        assert_eq!(found.len(), 3);
        let refused = Err("group authorization failed".to_owned());
        let of = only(stream::Topic::Events);
        let found = look(&open(refused, Ok(Some(of))));
        check(
            &found[2],
            Verdict::Wanting,
            "authorization",
            "homeostat topics acls",
        );
        check(
            &found[3],
            Verdict::Wanting,
            "events/0 has records",
            "set-ntp",
        );

        let difference = Difference {
            topic: "x.events".to_owned(),
            check: "exists",
            found: "no topic".to_owned(),
            expected: "a topic".to_owned(),
            mend: "homeostat topics create".to_owned(),
        };
        let wanting = Brokers {
            topics: Ok(BTreeMap::new()),
            differences: Ok(vec![difference]),
            log: None,
        };
        let found = look(&wanting);
        check(
            &found[1],
            Verdict::Wanting,
            "x.events: exists",
            "topics create",
        );
        assert_eq!(found[1].topic.as_deref(), Some("x.events"));
    }

    #[test]
    fn what_is_not_measured_is_no_fault() {
        let gap = Unmeasured {
            metrics: vec!["latency_ms", "packet_loss"],
            why: "no peers (name some)".to_owned(),
        };
        let found = agent(&Ok(Some(vec![gap])));
        let words = "not measured: latency_ms, packet_loss: no peers (name some)";
        check(&found[0], Verdict::Note, words, "");
        check(&agent(&Ok(Some(vec![])))[0], Verdict::Ok, "all", "");
        check(&agent(&Ok(None))[0], Verdict::Note, "enabled = false", "");
        let found = agent(&Err("no such peer".to_owned()));
        check(
            &found[0],
            Verdict::Wanting,
            "no such peer",
            "HOMEOSTAT_AGENT_ENABLED",
        );
    }

    #[test]
    fn the_whole_fits_a_chat_message() {
        let well = [Finding::ok("clock", "a"), Finding::note("disk", "b")];
        assert_eq!(short(&well), "homeostat: all is well (clock, disk).");
        assert_eq!(whole(&well), Verdict::Note);
        let long = "w\u{7}".repeat(400);
        let red = [
            Finding::unknown("door", "silent", "sudo"),
            Finding::wanting("disk", long, "free some"),
        ];
        assert_eq!(whole(&red), Verdict::Wanting);
        assert_eq!(whole(&red[..1]), Verdict::Unknown);
        let text = short(&red);
        assert_eq!(text.chars().count(), SHORT_CHARS_MAX);
        let start = "homeostat: found wanting. door: silent. Mend: sudo. disk: w";
        assert!(text.starts_with(start) && text.ends_with(" …"), "{text}");
        assert!(!text.contains('\u{7}'));
    }
}
