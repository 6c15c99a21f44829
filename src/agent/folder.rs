//! The agent's folder: one holder at a time, a boot number that never goes back, and files that are
//! replaced whole or not at all.
//!
//! | file | what is lost with it |
//! |---|---|
//! | `agent.lock` | nothing |
//! | `boot` | the order of samples, if the clock went back meanwhile |
//! | `log` | nothing: it is asked for again |
//! | `journal-*.jsonl` | an act that was begun may be begun again |
//! | `buffer/*.jsonl` | what was not sent |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::AgentError;

/// Locks a file, waiting a moment: one that was killed while it started a program has its hold
/// until that program runs.
fn lock_soon(file: &File) -> Result<(), rustix::io::Errno> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                park_timeout(LOCK_WAIT / 50);
            }
            ended => return ended,
        }
    }
}

/// How long a hold that just ended is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// A folder that this process holds.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// The lock lasts as long as the file is open.
    _lock: File,
}

impl Folder {
    /// Takes hold of a folder; makes it when it is not there.
    pub(super) fn take(dir: &Path) -> Result<Folder, AgentError> {
        fs::create_dir_all(dir).map_err(failed("making the agent's folder", dir))?;
        let path = dir.join("agent.lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(&path).map_err(failed("opening", &path))?;
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(AgentError::Held {
                    dir: dir.to_owned(),
                    holder: holder(&mut lock),
                });
            }
            Err(error) => return Err(failed("locking", &path)(error.into())),
        }
        // For the one who comes second; the lock itself does not need it.
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()));
        noted.map_err(failed("writing", &path))?;
        Ok(Folder {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A boot number above all before: `now_ms`, or one more than the last.
    pub(super) fn next_boot(&self, now_ms: i64) -> Result<i64, AgentError> {
        let path = self.path("boot");
        let boot = match read_text(&path)? {
            None => now_ms,
            Some(text) => {
                let last: i64 = text.trim().parse().map_err(|_| AgentError::Damaged {
                    path: path.clone(),
                    fault: format!("found {text:?}, expected one number"),
                    next: "if this node's clock is right, delete the file",
                })?;
                now_ms.max(last.saturating_add(1))
            }
        };
        replace(&path, boot.to_string().as_bytes())?;
        Ok(boot)
    }

    /// The log that was obeyed last.
    pub(super) fn log_id(&self) -> Result<Option<String>, AgentError> {
        read_text(&self.path("log"))
    }

    /// Remembers which log is obeyed.
    pub(super) fn keep_log_id(&self, log_id: &str) -> Result<(), AgentError> {
        replace(&self.path("log"), log_id.as_bytes())
    }
}

/// Replaces a file whole: after a crash it holds the old bytes or the new ones.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
    let fresh = path.with_extension("new");
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(failed("writing", &fresh))?;
    fs::rename(&fresh, path).map_err(failed("replacing", path))?;
    let dir = path.parent().expect("a file lies in a folder");
    sync_dir(dir)
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), AgentError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed("syncing", dir))
}

/// An error of the system, with what was attempted on what.
pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::File {
        doing,
        path,
        source,
    }
}

fn read_text(path: &Path) -> Result<Option<String>, AgentError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading", path)(error)),
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(_) if !text.is_empty() => format!("process {text}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::scratch::Scratch;

    #[test]
    fn the_boot_number_never_goes_back() {
        let scratch = Scratch::new("boot");
        let folder = Folder::take(&scratch.0).unwrap();
        assert_eq!(folder.next_boot(1_000).unwrap(), 1_000);
        assert_eq!(folder.next_boot(1_000).unwrap(), 1_001);
        assert_eq!(folder.next_boot(5).unwrap(), 1_002, "the clock went back");
        assert_eq!(folder.next_boot(9_000).unwrap(), 9_000);
        fs::write(folder.path("boot"), "x").unwrap();
        let error = folder.next_boot(1).unwrap_err().to_string();
        assert!(error.contains("expected one number"), "{error}");
    }

    #[test]
    fn a_second_agent_is_told_who_holds_the_folder() {
        let scratch = Scratch::new("held");
        let folder = Folder::take(&scratch.0).unwrap();
        let error = Folder::take(&scratch.0).unwrap_err().to_string();
        let holder = format!("process {}", std::process::id());
        assert!(error.contains(&holder), "{error}");
        drop(folder);
        Folder::take(&scratch.0).unwrap();
    }
}
