//! The export: a log in a directory, to be read elsewhere (`demo --keep`, `replay`, `explain`,
//! `state`).
//!
//! `manifest.json` says what there is; next to it lies one file per topic partition: a row of
//! records as [`write_record`] writes them. A directory appears whole or not at all.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::stream::Topic;

use super::commit::hex;
use super::frame::{FrameError, read_records, write_record};
use super::simulated::Simulated;
use super::{InMemory, Record, Recorded, TimeSource, TopicPartition};

/// An export that lies in a directory.
#[derive(Clone, Debug)]
pub struct Export {
    dir: PathBuf,
    manifest: Manifest,
}

/// What an export holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The log's id.
    pub log_id: String,
    /// Prefix of the topics' names.
    pub prefix: String,
    /// Partitions of every topic.
    pub partitions: i32,
    /// `log` or `sample`: what append time is.
    pub time_source: String,
    /// One per topic partition, in order.
    pub files: Vec<FileEntry>,
}

/// One topic partition of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The topic, without the prefix.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The file's name in the directory.
    pub file: String,
    /// How many records it holds.
    pub records: u64,
    /// Offset of the first one.
    pub first_offset: Option<i64>,
    /// Offset of the last one.
    pub last_offset: Option<i64>,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

/// What a log is called, for [`write()`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title {
    /// The log's id.
    pub log_id: String,
    /// Prefix of the topics' names.
    pub prefix: String,
    /// What append time is.
    pub time_source: TimeSource,
}

/// An export could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file system.
    #[error("{attempt} {path}: {source}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is something where the export should go.
    #[error("writing an export to {0}: the directory is not empty; name another one")]
    NotEmpty(PathBuf),
    /// A write that was killed left this behind, or it is somebody's.
    #[error("writing an export: {0} is there already, from a run that was killed; remove it first")]
    LeftOver(PathBuf),
    /// The manifest is not one.
    #[error("reading {path}: {detail}; expected a manifest of format {FORMAT}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The manifest names no such file.
    #[error("the export in {dir} has no records of {of}")]
    Missing {
        /// The export.
        dir: PathBuf,
        /// What was asked for.
        of: TopicPartition,
    },
    /// A file is not what the manifest says.
    #[error("reading {path}: it has {what} {got}, the manifest says {want}")]
    Differs {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the file.
        got: String,
        /// In the manifest.
        want: String,
    },
    /// Its bytes are not whole records.
    #[error("reading {path}: {error}")]
    Cut {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: FrameError,
    },
    /// A record cannot be read.
    #[error("reading record {number} of {path}: {detail}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Which record, from 0.
        number: u64,
        /// What is wrong.
        detail: String,
    },
}

/// Writes what stands in a simulated log.
///
/// The durable steps, and what a kill leaves:
/// 1. Every file is written and synced in `<dir>.partial`, the manifest last, then that folder is
///    synced. Before or in between: `<dir>` is as it was, and a left-over that the next call names.
/// 2. The folder is renamed to `<dir>` and its parent synced. After: the whole export.
///
/// # Errors
/// The directory is not empty, a left-over lies beside it (nothing is ever deleted here), or the
/// file system fails.
pub fn write(dir: &Path, title: &Title, log: &Simulated) -> Result<Export, ExportError> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ExportError::NotEmpty(dir.to_owned()));
    }
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = dir.with_file_name(name);
    if partial.exists() {
        return Err(ExportError::LeftOver(partial));
    }
    fs::create_dir_all(&partial).map_err(io("creating", &partial))?;
    let mut files = Vec::new();
    for of in Topic::ALL
        .into_iter()
        .flat_map(|topic| log.partitions(topic))
    {
        let records: Vec<Record> = log.written(of).into_iter().map(|w| w.record).collect();
        files.push(write_file(&partial, of, &records)?);
    }
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        log_id: title.log_id.clone(),
        prefix: title.prefix.clone(),
        partitions: log.partitions(Topic::Events).count() as i32,
        time_source: title.time_source.name().to_owned(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    write_synced(&partial.join(MANIFEST), &text)?;
    sync_folder(&partial)?;
    fs::rename(&partial, dir).map_err(io("renaming the finished export to", dir))?;
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new("."))?,
        Some(parent) => sync_folder(parent)?,
        None => {}
    }
    Ok(Export {
        dir: dir.to_owned(),
        manifest,
    })
}

impl Export {
    /// Opens the export in a directory.
    ///
    /// # Errors
    /// There is none, or one of another format.
    pub fn open(dir: &Path) -> Result<Self, ExportError> {
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(io("reading", &path))?;
        let wrong = |detail: String| ExportError::Manifest {
            path: path.clone(),
            detail,
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong(format!("its format is {:?}", manifest.format)));
        }
        if manifest.partitions < 1 {
            return Err(wrong(format!("it has {} partitions", manifest.partitions)));
        }
        Ok(Export {
            dir: dir.to_owned(),
            manifest,
        })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a record's time comes from.
    pub fn time_source(&self) -> TimeSource {
        TimeSource::named(&self.manifest.time_source)
    }

    /// The records of a partition, in order. The file is whole, or this fails.
    ///
    /// # Errors
    /// The file is missing or is not what the manifest says, or a record cannot be read.
    pub fn records(&self, of: TopicPartition) -> Result<Vec<Record>, ExportError> {
        let is_it = |e: &&FileEntry| e.topic == of.topic.name() && e.partition == of.partition;
        let entry = self.manifest.files.iter().find(is_it);
        let entry = entry.ok_or_else(|| ExportError::Missing {
            dir: self.dir.clone(),
            of,
        })?;
        let plain = Path::new(&entry.file).file_name() == Some(entry.file.as_ref());
        if !plain {
            return Err(ExportError::Manifest {
                path: self.dir.join(MANIFEST),
                detail: format!("{:?} is not the name of a file beside it", entry.file),
            });
        }
        let path = self.dir.join(&entry.file);
        let bytes = fs::read(&path).map_err(io("reading", &path))?;
        let differs = |what, got: String, want: &dyn ToString| ExportError::Differs {
            path: path.clone(),
            what,
            got,
            want: want.to_string(),
        };
        let sha256 = hex(&Sha256::digest(&bytes));
        if sha256 != entry.sha256 {
            return Err(differs("SHA-256", sha256, &entry.sha256));
        }
        let records = records_of(&path, &bytes)?;
        if records.len() as u64 != entry.records {
            return Err(differs(
                "records:",
                records.len().to_string(),
                &entry.records,
            ));
        }
        Ok(records)
    }

    /// The whole export, to be read: every file is verified now and kept in memory.
    ///
    /// # Errors
    /// As [`Export::records`].
    pub fn source(&self) -> Result<InMemory, ExportError> {
        let manifest = &self.manifest;
        let title = super::Title {
            log_id: manifest.log_id.clone(),
            prefix: manifest.prefix.clone(),
            time_source: self.time_source(),
            partitions: manifest.partitions,
        };
        let mut recorded = Recorded::new();
        for topic in Topic::ALL {
            for of in super::partitions_of(topic, manifest.partitions) {
                recorded.insert(of, self.records(of)?);
            }
        }
        Ok(InMemory::new(title, recorded))
    }

    /// The whole export as a simulated log, every record at its offset.
    ///
    /// # Errors
    /// As [`Export::records`].
    pub fn load(&self, into: &Simulated) -> Result<(), ExportError> {
        for of in Topic::ALL
            .into_iter()
            .flat_map(|topic| into.partitions(topic))
        {
            into.load(of, self.records(of)?);
        }
        Ok(())
    }
}

fn write_file(
    dir: &Path,
    of: TopicPartition,
    records: &[Record],
) -> Result<FileEntry, ExportError> {
    let mut bytes = Vec::new();
    records
        .iter()
        .for_each(|record| write_record(record, &mut bytes));
    let file = format!("{}-{}.records", of.topic.name(), of.partition);
    write_synced(&dir.join(&file), &bytes)?;
    Ok(FileEntry {
        topic: of.topic.name().to_owned(),
        partition: of.partition,
        file,
        records: records.len() as u64,
        first_offset: records.first().map(|record| record.offset),
        last_offset: records.last().map(|record| record.offset),
        sha256: hex(&Sha256::digest(&bytes)),
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut file = fs::File::create(path).map_err(io("creating", path))?;
    file.write_all(bytes).map_err(io("writing", path))?;
    file.sync_all().map_err(io("syncing", path))
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> Result<(), ExportError> {
    let folder = fs::File::open(path).map_err(io("opening", path))?;
    folder.sync_all().map_err(io("syncing", path))
}

/// Reads a file's records; their offsets must rise.
fn records_of(path: &Path, bytes: &[u8]) -> Result<Vec<Record>, ExportError> {
    let wrong = |number: usize, detail: String| ExportError::Record {
        path: path.to_owned(),
        number: number as u64,
        detail,
    };
    let records = read_records(bytes).map_err(|error| ExportError::Cut {
        path: path.to_owned(),
        error,
    })?;
    for (i, pair) in records.windows(2).enumerate() {
        let (before, got) = (pair[0].offset, pair[1].offset);
        if got <= before {
            let detail = format!("its offset is {got}, expected one above {before}");
            return Err(wrong(i + 1, detail));
        }
    }
    Ok(records)
}

fn io<'a>(
    attempt: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> ExportError + 'a {
    move |source| ExportError::Io {
        attempt,
        path: path.to_owned(),
        source,
    }
}

/// The format that this program writes and reads.
pub const FORMAT: &str = "homeostat-export/1";

const MANIFEST: &str = "manifest.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Span, Time};
    use crate::runtime::simulated::Settings;

    fn settings() -> Settings {
        Settings {
            partitions: 2,
            inboxes: vec![Topic::Metrics],
            time_source: TimeSource::Log,
            brokers: 1,
            now: Time(1000),
            delivery: None,
        }
    }

    fn title() -> Title {
        Title {
            log_id: "log-1".into(),
            prefix: "homeostat.".into(),
            time_source: TimeSource::Log,
        }
    }

    /// A directory of this test's own, empty.
    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("homeostat-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn filled() -> Simulated {
        let log = Simulated::new(settings());
        for key in ["a", "", "\u{0}b", "c"] {
            log.append(Topic::Metrics, key.as_bytes(), &[0xC3, 1, 0], Time(0));
            log.append(Topic::Events, key.as_bytes(), key.as_bytes(), Time(0));
            log.advance(Span(7));
        }
        log
    }

    #[test]
    fn what_is_written_comes_back() {
        let dir = dir("back");
        let log = filled();
        let written = write(&dir, &title(), &log).unwrap();
        let export = Export::open(&dir).unwrap();
        assert_eq!(export.manifest(), written.manifest());
        let copy = Simulated::new(settings());
        export.load(&copy).unwrap();
        for of in Topic::ALL
            .into_iter()
            .flat_map(|topic| log.partitions(topic))
        {
            assert_eq!(copy.written(of), log.written(of), "{of}");
        }
        let again = write(&dir, &title(), &log).unwrap_err().to_string();
        assert!(again.contains("not empty"), "{again}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_is_not_what_the_manifest_says_is_named() {
        let dir = dir("differs");
        let log = filled();
        let export = write(&dir, &title(), &log).unwrap();
        let of = log.append(Topic::Events, b"a", b"", Time(0));
        let path = dir.join(format!("events-{}.records", of.partition));
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = export.records(of).unwrap_err().to_string();
        assert!(
            error.contains("SHA-256") && error.contains("events-"),
            "{error}"
        );
        bytes.truncate(bytes.len() - 1);
        let error = records_of(&path, &bytes).unwrap_err().to_string();
        assert!(error.contains("ends before its length"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_lies_beside_it_is_never_deleted() {
        let dir = dir("left-over");
        let left = dir.with_file_name(format!(
            "{}.partial",
            dir.file_name().unwrap().to_string_lossy()
        ));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("mine"), b"precious").unwrap();
        let refused = write(&dir, &title(), &filled()).unwrap_err().to_string();
        assert!(refused.contains(".partial"), "{refused}");
        assert_eq!(fs::read(left.join("mine")).unwrap(), b"precious");
        fs::remove_dir_all(&left).unwrap();
        write(&dir, &title(), &filled()).unwrap();
        assert!(dir.join(MANIFEST).exists() && !left.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let dir = dir("format");
        write(&dir, &title(), &filled()).unwrap();
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("export/1", "export/9")).unwrap();
        let error = Export::open(&dir).unwrap_err().to_string();
        assert!(
            error.contains("export/9") && error.contains(FORMAT),
            "{error}"
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
