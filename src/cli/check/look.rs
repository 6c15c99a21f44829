//! What `check` looks at: the only part that touches the world.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, access, statvfs};
use serde::Deserialize;

use super::door;
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
    /// Where its door listens.
    #[serde(default)]
    pub(super) listen: Option<String>,
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
        let oldest = topic.oldest.as_deref();
        Topic {
            name: topic.topic,
            bytes: topic.bytes,
            records: topic.end.saturating_sub(topic.start),
            oldest_ms: oldest.and_then(|time| parse_rfc3339(time.as_bytes())),
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
    oldest: Option<String>,
}

/// Something that this host's agent does not measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmeasured {
    /// What.
    pub(super) what: String,
    /// Why, and what would change that.
    pub(super) why: String,
}

/// What the settings leave out of this host's readings.
pub(super) fn unmeasured(agent: &AgentSettings) -> Vec<Unmeasured> {
    let gap = |what: &str, why: &str| Unmeasured {
        what: what.to_owned(),
        why: why.to_owned(),
    };
    if !agent.enabled {
        let why =
            "[agent] enabled = false: `run` brings no agent; samples come by POST /v1/metrics";
        return vec![gap("this host", why)];
    }
    let mut gaps = Vec::new();
    if agent.peers.is_empty() && !agent.discover || agent.peers_max == 0 {
        let why = "[agent] peers is empty and discover = false, or peers_max = 0";
        gaps.push(gap("mesh_connectivity, latency_ms, packet_loss", why));
    }
    let why = "a host alone does not know them: who does sends them by POST /v1/metrics";
    gaps.push(gap(
        "mttr_minutes, zero_trust_success_rate, frequency_hz",
        why,
    ));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "oldest":"1970-01-01T00:00:01.000Z"},{"topic":"cycles","bytes":0,"start":0,"end":0}],
            "free_bytes":99,"more":true}"#,
        );
        let log = log.unwrap();
        assert_eq!(log.free_bytes, 99);
        assert_eq!(log.topics[0].records, 3);
        assert_eq!(log.topics[0].oldest_ms, Some(1000));
        assert_eq!(log.topics[1].oldest_ms, None);
        assert!(parse_log("{}").is_err());
    }

    #[test]
    fn settings_say_what_is_left_out() {
        let mut agent = AgentSettings::default();
        assert_eq!(unmeasured(&agent).len(), 1);
        agent.discover = false;
        assert!(unmeasured(&agent)[0].what.contains("packet_loss"));
        agent.peers = vec!["router".to_owned()];
        assert_eq!(unmeasured(&agent).len(), 1);
        agent.enabled = false;
        assert_eq!(unmeasured(&agent)[0].what, "this host");
    }
}
