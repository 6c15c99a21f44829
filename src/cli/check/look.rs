//! What `check` looks at: the only part that touches the world.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, access, statvfs};
use serde::Deserialize;

use super::door;
use crate::agent::{self, Survey};
use crate::config::settings::AgentSettings;
use crate::model::parse_rfc3339;

/// The data folder.
#[derive(Debug)]
pub(super) enum Folder {
    /// It is not there.
    Absent {
        /// The nearest folder above it that is.
        above: PathBuf,
        /// Why it could not be made there.
        closed: Option<io::Error>,
    },
    /// Something else has its name.
    Occupied,
    /// It cannot be read or written.
    Closed(io::Error),
    /// It can be used.
    Open(Holder),
}

/// Who holds a data folder.
#[derive(Debug)]
pub(super) enum Holder {
    /// Nobody.
    Nobody,
    /// A process; with its card if it left one.
    Somebody(Option<Card>),
    /// The lock cannot be looked at.
    Untold(io::Error),
}

/// What a holder says of itself in `holder.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Card {
    /// Its process.
    pub(super) pid: u32,
    /// Since when it holds the folder.
    pub(super) since: String,
    /// Where its door listens; empty before it does.
    #[serde(default)]
    pub(super) listen: String,
}

/// Looks at the data folder.
pub(super) fn folder(dir: &Path) -> Folder {
    match std::fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => absent(dir),
        Err(error) => Folder::Closed(error),
        Ok(about) if !about.is_dir() => Folder::Occupied,
        Ok(_) => match access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
            Err(error) => Folder::Closed(error.into()),
            Ok(()) => Folder::Open(holder(dir)),
        },
    }
}

fn absent(dir: &Path) -> Folder {
    let above = existing(dir);
    let closed = access(&above, Access::WRITE_OK | Access::EXEC_OK).err();
    let closed = match above.is_dir() {
        true => closed.map(io::Error::from),
        false => Some(ErrorKind::NotADirectory.into()),
    };
    Folder::Absent { above, closed }
}

/// The folder itself if it is there, else the nearest above it that is.
fn existing(dir: &Path) -> PathBuf {
    let mut above = dir.ancestors();
    let found = above.find(|above| !above.as_os_str().is_empty() && above.exists());
    found.unwrap_or(Path::new(".")).to_owned()
}

/// Whether somebody has the lock. Ours is shared and let go at once; only a holder that starts at
/// this very moment could mistake it for another.
fn holder(dir: &Path) -> Holder {
    let lock = match File::open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Holder::Nobody,
        Err(error) => return Holder::Untold(error),
    };
    match lock.try_lock_shared() {
        Ok(()) => Holder::Nobody,
        Err(TryLockError::WouldBlock) => {
            let card = std::fs::read(dir.join("holder.json")).ok();
            Holder::Somebody(card.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        }
        Err(TryLockError::Error(error)) => Holder::Untold(error),
    }
}

/// The clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Milliseconds since 1970, by this machine.
    pub(super) now_ms: i64,
    /// Whether somebody who keeps it by the network says that it is right.
    pub(super) synchronised: bool,
    /// Whether systemd runs here, which can be told to keep it.
    pub(super) systemd: bool,
}

/// Looks at the clock.
pub(super) fn clock() -> Clock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since.map_or(i64::MIN, |since| since.as_millis() as i64);
    Clock {
        now_ms,
        synchronised: Path::new("/run/systemd/timesync/synchronized").exists(),
        systemd: Path::new("/run/systemd/system").exists(),
    }
}

/// The disk below a data folder.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes that we may still use, or why that cannot be told.
    pub(super) free_bytes: io::Result<u64>,
    /// Bytes of the folder's files; `None` when it is not there.
    pub(super) used_bytes: Option<u64>,
}

/// Looks at the disk.
pub(super) fn space(dir: &Path) -> Space {
    let free_bytes = statvfs(existing(dir))
        .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        .map_err(io::Error::from);
    Space {
        free_bytes,
        used_bytes: used(dir).ok(),
    }
}

/// Bytes of the files in a folder, of the database below it too.
fn used(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A file that was just compacted away counts no more.
        let Ok(about) = entry.metadata() else {
            continue;
        };
        bytes += match about.is_dir() {
            true => used(&entry.path()).unwrap_or(0),
            false => about.len(),
        };
    }
    Ok(bytes)
}

/// What the log holds, as its holder tells it (`GET /v1/log`).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Log {
    /// Its topics.
    pub(super) topics: Vec<Topic>,
    /// Bytes that it may still use.
    pub(super) free_bytes: u64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Topic {
    /// Its name.
    pub(super) name: String,
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Records.
    pub(super) records: i64,
    /// When its oldest record was appended, ms; `None` when there is none.
    pub(super) oldest_ms: Option<i64>,
}

/// Asks the holder what the log holds.
///
/// # Errors
/// It does not say so.
pub(super) fn log(dir: &Path) -> io::Result<Log> {
    let answer = door::get(dir, "/v1/log")?;
    if answer.status != 200 {
        let words = format!("GET /v1/log: status {}, expected 200", answer.status);
        return Err(io::Error::other(words));
    }
    parse_log(&answer.body)
}

fn parse_log(body: &str) -> io::Result<Log> {
    let told: ToldLog = serde_json::from_str(body)?;
    let topics = told.topics.into_iter().map(|topic| {
        let oldest_ms = topic.oldest.and_then(|oldest| match oldest {
            Moment::Ms(ms) => Some(ms),
            Moment::Text(text) => parse_rfc3339(text.as_bytes()),
        });
        Topic {
            name: topic.topic,
            bytes: topic.bytes,
            records: topic.end.saturating_sub(topic.start),
            oldest_ms,
        }
    });
    Ok(Log {
        topics: topics.collect(),
        free_bytes: told.free_bytes,
    })
}

#[derive(Deserialize)]
struct ToldLog {
    topics: Vec<ToldTopic>,
    free_bytes: u64,
}

#[derive(Deserialize)]
struct ToldTopic {
    topic: String,
    bytes: u64,
    #[serde(default)]
    start: i64,
    #[serde(default)]
    end: i64,
    #[serde(default)]
    oldest: Option<Moment>,
}

/// A time, as doors of either kind write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    Ms(i64),
    Text(String),
}

/// What this host's agent does not measure for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmeasured {
    /// The metrics.
    pub(super) metrics: Vec<&'static str>,
    /// Why, and what would change that.
    pub(super) why: String,
}

/// Measures once as this host's agent would; `None` when the settings want no agent.
///
/// # Errors
/// No agent can start with these settings, in words.
pub(super) fn unmeasured(settings: &AgentSettings) -> Result<Option<Vec<Unmeasured>>, String> {
    if !settings.enabled {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("making a runtime to measure in: {error}"))?;
    let found = runtime.block_on(agent::survey(settings));
    found
        .map(|found| Some(gaps(&found)))
        .map_err(|error| error.to_string())
}

/// What was not found, reason by reason.
fn gaps(found: &[Survey]) -> Vec<Unmeasured> {
    let mut gaps: Vec<Unmeasured> = Vec::new();
    for survey in found {
        let Err(missing) = &survey.found else {
            continue;
        };
        let why = missing.to_string();
        match gaps.iter_mut().find(|gap| gap.why == why) {
            Some(gap) => gap.metrics.push(survey.metric.name()),
            None => gaps.push(Unmeasured {
                metrics: vec![survey.metric.name()],
                why,
            }),
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Missing;
    use crate::model::Metric;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("check-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_folder_is_absent_free_or_held() {
        let dir = scratch("folder");
        let inner = dir.join("not/yet");
        match folder(&inner) {
            Folder::Absent { above, closed } => {
                assert_eq!(above, dir);
                assert!(closed.is_none());
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(folder(&dir), Folder::Open(Holder::Nobody)));

        let lock = File::create(dir.join("lock")).unwrap();
        assert!(matches!(folder(&dir), Folder::Open(Holder::Nobody)));
        lock.lock().unwrap();
        assert!(matches!(folder(&dir), Folder::Open(Holder::Somebody(None))));
        let card = r#"{"pid":7,"since":"2026-01-01T00:00:00.000Z","listen":"127.0.0.1:1618"}"#;
        std::fs::write(dir.join("holder.json"), card).unwrap();
        match folder(&dir) {
            Folder::Open(Holder::Somebody(Some(card))) => assert_eq!(card.pid, 7),
            other => panic!("{other:?}"),
        }
        lock.unlock().unwrap();
        assert!(matches!(folder(&dir), Folder::Open(Holder::Nobody)));

        let file = dir.join("file");
        std::fs::write(&file, [0; 100]).unwrap();
        assert!(matches!(folder(&file), Folder::Occupied));
        let found = space(&dir);
        assert_eq!(found.used_bytes, Some(100 + card.len() as u64));
        assert!(found.free_bytes.is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(space(&dir).used_bytes, None);
    }

    #[test]
    fn the_holder_tells_what_the_log_holds() {
        let log = parse_log(
            r#"{"topics":[{"topic":"events","bytes":10,"start":2,"end":5,
            "oldest":"1970-01-01T00:00:01.000Z"},{"topic":"cycles","bytes":0,"start":0,"end":0},
            {"topic":"metrics","bytes":1,"start":0,"end":1,"oldest":2000}],
            "free_bytes":99,"more":true}"#,
        );
        let log = log.unwrap();
        assert_eq!(log.free_bytes, 99);
        assert_eq!(log.topics[0].records, 3);
        assert_eq!(log.topics[0].oldest_ms, Some(1000));
        assert_eq!(log.topics[1].oldest_ms, None);
        assert_eq!(log.topics[2].oldest_ms, Some(2000));
        assert!(parse_log("{}").is_err());
    }

    #[test]
    fn what_is_not_measured_is_told_reason_by_reason() {
        let missing = |why: &str| {
            Err(Missing {
                why: why.to_owned(),
                next: "mend it".to_owned(),
            })
        };
        let found = [
            (Metric::CpuPercent, Ok(3.0)),
            (Metric::LatencyMs, missing("no peers")),
            (Metric::MttrMinutes, missing("not a host's")),
            (Metric::PacketLoss, missing("no peers")),
        ];
        let gaps = gaps(&found.map(|(metric, found)| Survey { metric, found }));
        assert_eq!(gaps.len(), 2);
        assert_eq!(gaps[0].metrics, ["latency_ms", "packet_loss"]);
        assert_eq!(gaps[0].why, "no peers (mend it)");

        let settings = AgentSettings {
            enabled: false,
            ..AgentSettings::default()
        };
        assert_eq!(unmeasured(&settings), Ok(None));
    }
}
