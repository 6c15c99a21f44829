//! What was had of a registry, in a file of the data folder, a JSON object a line: a cache of what
//! never changes; and, what no registry can tell again, since when which mapping of Telegraf's
//! counts.
//!
//! Lines are only appended, each synced before it is used. A line that a crash cut short, or that
//! does not hold what its hash says, counts as not there.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::model::Time;
use crate::wire::telegraf::MappingWords;

use super::client::RegistryError;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kept", rename_all = "snake_case")]
enum Line {
    /// Whose ids these are.
    Registry { url: String },
    /// What an id means.
    Schema { id: u32, text: String },
    /// Under which id the records of a subject leave.
    Subject {
        subject: String,
        fingerprint: String,
        id: u32,
    },
    /// How Telegraf's messages appended from then on are read; `None`: they are not.
    Telegraf {
        since: Time,
        words: Option<MappingWords>,
    },
}

/// A line with the hash of its text.
#[derive(Serialize, Deserialize)]
struct Sealed {
    sha256: String,
    line: String,
}

/// The file, read.
pub(super) struct Kept {
    path: PathBuf,
    file: File,
    /// Schemas by id.
    pub(super) schemas: BTreeMap<u32, String>,
    /// Ids by subject and fingerprint.
    pub(super) subjects: BTreeMap<(String, String), u32>,
    /// Mappings, oldest first, each from its time on.
    pub(super) mappings: Vec<(Time, Option<MappingWords>)>,
}

impl Kept {
    /// Opens the file in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be read or written, or is of another registry.
    pub(super) fn open(folder: &Path, registry: &str) -> Result<Kept, RegistryError> {
        let path = folder.join("formats.jsonl");
        let wrong = |what: &str, error: std::io::Error| {
            RegistryError::Kept(format!("{what} {}: {error}", path.display()))
        };
        std::fs::create_dir_all(folder).map_err(|error| wrong("making the folder of", error))?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(wrong("reading", error)),
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| wrong("opening", error))?;
        let mut kept = Kept {
            path,
            file,
            schemas: BTreeMap::new(),
            subjects: BTreeMap::new(),
            mappings: Vec::new(),
        };
        let mut known = None;
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            match unsealed(line) {
                Some(Line::Registry { url }) => known = Some(url),
                Some(line) => kept.take(line),
                None => warn!(
                    "{}: line {} is damaged and counts as not there",
                    kept.path.display(),
                    number + 1
                ),
            }
        }
        match known {
            Some(known) if known != registry && !registry.is_empty() => {
                return Err(RegistryError::Kept(format!(
                    "{} has the ids of {known}, formats.registry is {registry}: another registry \
                     gives other ids; name the old one again, or, if nothing in the log needs its \
                     ids any more or both give the same, move the file away",
                    kept.path.display()
                )));
            }
            None if !registry.is_empty() => {
                // A torn line must not swallow the first good one.
                kept.append(&Line::Registry {
                    url: registry.to_owned(),
                })?;
            }
            _ => {}
        }
        Ok(kept)
    }

    /// Keeps what an id means.
    pub(super) fn schema(&mut self, id: u32, text: &str) -> Result<(), RegistryError> {
        self.keep(Line::Schema {
            id,
            text: text.to_owned(),
        })
    }

    /// Keeps under which id a subject's records leave.
    pub(super) fn subject(
        &mut self,
        subject: &str,
        fingerprint: &str,
        id: u32,
    ) -> Result<(), RegistryError> {
        self.keep(Line::Subject {
            subject: subject.to_owned(),
            fingerprint: fingerprint.to_owned(),
            id,
        })
    }

    /// Keeps how Telegraf's messages are read from `since` on.
    pub(super) fn mapping(
        &mut self,
        since: Time,
        words: Option<MappingWords>,
    ) -> Result<(), RegistryError> {
        self.keep(Line::Telegraf { since, words })
    }

    fn keep(&mut self, line: Line) -> Result<(), RegistryError> {
        self.append(&line)?;
        self.take(line);
        Ok(())
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Registry { .. } => {}
            Line::Schema { id, text } => {
                self.schemas.insert(id, text);
            }
            Line::Subject {
                subject,
                fingerprint,
                id,
            } => {
                self.subjects.insert((subject, fingerprint), id);
            }
            Line::Telegraf { since, words } => self.mappings.push((since, words)),
        }
    }

    fn append(&mut self, line: &Line) -> Result<(), RegistryError> {
        let line = serde_json::to_string(line).expect("a line is plain data");
        let sealed = Sealed {
            sha256: hash(&line),
            line,
        };
        let sealed = serde_json::to_string(&sealed).expect("a line is plain data");
        // The line's end stands before it too: what a crash left without one ends here.
        let write = self
            .file
            .write_all(format!("\n{sealed}\n").as_bytes())
            .and_then(|()| self.file.sync_data());
        write.map_err(|error| {
            RegistryError::Kept(format!("writing {}: {error}", self.path.display()))
        })
    }
}

fn unsealed(line: &[u8]) -> Option<Line> {
    let sealed: Sealed = serde_json::from_slice(line).ok()?;
    let whole = hash(&sealed.line) == sealed.sha256;
    whole.then(|| serde_json::from_str(&sealed.line).ok())?
}

fn hash(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(text);
    digest.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
