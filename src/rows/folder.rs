//! Who holds a data folder, whatever lies in it: one process, by a lock on `lock` that ends with
//! it; `holder.json` beside it says who, for people and for commands.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread::park_timeout;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::Time;

/// Who holds a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Since when, RFC 3339.
    pub since: String,
    /// Where its door listens, once it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listen: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another process");
        }
        write!(f, "process {} since {}", self.pid, self.since)?;
        if self.listen.is_empty() {
            return Ok(());
        }
        write!(f, " (its door: {})", self.listen)
    }
}

/// A folder could not be held: what was attempted, on what, what next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// Another process holds it.
    #[error("opening {dir}: held by {holder}; stop that one, or name another folder with --data")]
    Held {
        /// The folder.
        dir: String,
        /// Who.
        holder: Holder,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// The hold on a folder: it ends when this is dropped, or with the process.
pub struct Lock {
    _file: File,
}

/// Takes hold of a folder.
///
/// # Errors
/// Another process holds it (named), or it cannot be written.
pub fn take(dir: &Path) -> Result<Lock, FolderError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|error| failed("opening", &path, &error))?;
    // Who only looks whether somebody holds the folder has it locked for a moment, and a process
    // that was killed while it started a program until that runs.
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                park_timeout(LOCK_WAIT / 50);
            }
            Err(TryLockError::WouldBlock) => return Err(held(dir)),
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path, &error)),
        }
    }
    announce(dir, "")?;
    Ok(Lock { _file: file })
}

/// Fails when somebody holds a folder.
///
/// # Errors
/// Another process holds it (named).
pub fn ensure_free(dir: &Path) -> Result<(), FolderError> {
    let Ok(file) = File::open(dir.join(LOCK)) else {
        return Ok(());
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(held(dir)),
        // A file system without locks has no holder either.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Writes who holds the folder, and where its door listens.
///
/// # Errors
/// The folder cannot be written.
pub fn announce(dir: &Path, listen: &str) -> Result<(), FolderError> {
    let path = dir.join(HOLDER);
    let before = read(dir);
    let pid = std::process::id();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as i64;
    let since = match before {
        Some(before) if before.pid == pid && !listen.is_empty() => before.since,
        _ => Time(now - now % 1000).to_string(),
    };
    let holder = Holder {
        pid,
        since,
        listen: listen.to_owned(),
    };
    let text = serde_json::to_vec(&holder).expect("a holder is plain data");
    let partial = dir.join(format!("{HOLDER}.partial"));
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(|error| failed("writing", &path, &error))
}

fn read(dir: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read(dir.join(HOLDER)).ok()?).ok()
}

fn held(dir: &Path) -> FolderError {
    FolderError::Held {
        dir: dir.display().to_string(),
        holder: read(dir).unwrap_or_default(),
    }
}

fn failed(attempt: &str, path: &Path, error: &std::io::Error) -> FolderError {
    let path = path.display();
    FolderError::Failed(format!(
        "{attempt} {path}: {error}; expected a folder that this user may write (--data names one)"
    ))
}

const LOCK: &str = "lock";

/// How long a hold that just ended is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(1);

const HOLDER: &str = "holder.json";
