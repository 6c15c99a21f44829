//! The journal of orders: what was begun and how it ended, one file per log that was
//! obeyed.
//!
//! Rows are JSON lines of [`Row`]; a row is durable when [`Journal::append`] returns. The file is
//! written anew when it is opened and when it grew large: the newest row of each kind is all that
//! counts. The journal of another log stays where it is, and counts again if that log comes back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::AgentError;
use super::folder::{Folder, failed, replace};
use crate::execute::{Admission, Row};
use crate::model::NodeKey;

/// From this size on it is written anew, bytes.
const JOURNAL_BYTES_MAX: u64 = 1 << 20;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Journal {
    /// Opens the journal of a log, and reads from it what is to be remembered.
    ///
    /// A last line that was torn by a crash was not durable and is cut off; any other line that is
    /// no row is an error: what was done is then not known.
    pub(super) fn open(
        folder: &Folder,
        node: &NodeKey,
        log_id: &str,
    ) -> Result<(Journal, Admission), AgentError> {
        let path = folder.path(&file_name(node, log_id));
        let rows = read_rows(&path)?;
        let admission = Admission::new(node.clone(), log_id.to_owned(), rows);
        let (file, bytes) = write_anew(&path, &admission)?;
        Ok((Journal { path, file, bytes }, admission))
    }

    /// Puts a row behind the others and makes it durable.
    pub(super) fn append(&mut self, row: &Row) -> Result<(), AgentError> {
        let line = line(row);
        let written = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data());
        written.map_err(failed("writing the journal", &self.path))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Writes it anew if it grew large.
    pub(super) fn tidy(&mut self, admission: &Admission) -> Result<(), AgentError> {
        if self.bytes >= JOURNAL_BYTES_MAX {
            (self.file, self.bytes) = write_anew(&self.path, admission)?;
        }
        Ok(())
    }
}

/// Names may hold any letter; the hash of all three is a name. An agent that is called otherwise
/// for a while finds its own journal again.
fn file_name(node: &NodeKey, log_id: &str) -> String {
    let mut hash = Sha256::new();
    for text in [log_id, node.mesh.as_str(), node.node.as_str()] {
        hash.update((text.len() as u32).to_be_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    let name: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    format!("journal-{name}.jsonl")
}

fn line(row: &Row) -> Vec<u8> {
    let mut line = serde_json::to_vec(row).expect("a row has only names and numbers");
    line.push(b'\n');
    line
}

fn read_rows(path: &Path) -> Result<Vec<Row>, AgentError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("reading the journal", path)(error)),
    };
    let whole = bytes
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    bytes[..whole]
        .split_inclusive(|&b| b == b'\n')
        .enumerate()
        .map(|(at, line)| {
            serde_json::from_slice(line).map_err(|error| AgentError::Damaged {
                path: path.to_owned(),
                fault: format!("line {}: {error}, expected a row of the journal", at + 1),
                next: "what this node did is not known: look, then move the file away",
            })
        })
        .collect()
}

fn write_anew(path: &Path, admission: &Admission) -> Result<(File, u64), AgentError> {
    let bytes: Vec<u8> = admission.rows().flat_map(line).collect();
    replace(path, &bytes)?;
    let opened = OpenOptions::new().append(true).open(path);
    let file = opened.map_err(failed("opening the journal", path))?;
    Ok((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::scratch::Scratch;
    use crate::execute::Progress;
    use crate::model::{
        Action, Cause, Directive, Healing, MeshId, NodeId, Outcome, OutcomeResult, PolicyId, Time,
    };

    fn node() -> NodeKey {
        NodeKey {
            mesh: MeshId::parse("alpha").unwrap(),
            node: NodeId::parse("n1").unwrap(),
        }
    }

    fn directive(generation: i64) -> Directive {
        let NodeKey { mesh, node } = node();
        Directive {
            id: format!("dir-{generation}"),
            log_id: "log".to_owned(),
            mesh,
            node,
            generation,
            issued_at: Time(1_000_000),
            ttl_s: 60,
            action: Action::Healing {
                level: Healing::Preemptive,
            },
            cause: Cause {
                topic: "homeostat.plan-inbox".to_owned(),
                partition: 0,
                offset: generation,
            },
            incident_id: None,
            policy_id: PolicyId::default(),
            policy_generation: 1,
        }
    }

    fn done(generation: i64) -> Outcome {
        let directive = directive(generation);
        Outcome {
            mesh: directive.mesh,
            node: directive.node,
            log_id: directive.log_id,
            directive_id: directive.id,
            generation,
            kind: directive.action.kind(),
            result: OutcomeResult::Applied,
            observed: None,
        }
    }

    fn rows(admission: &Admission) -> Vec<(i64, bool)> {
        let row = |row: &Row| (row.directive.generation, row.progress != Progress::Begun);
        admission.rows().map(row).collect()
    }

    #[test]
    fn rows_are_read_back_and_a_torn_one_is_not_there() {
        let scratch = Scratch::new("journal");
        let folder = Folder::take(&scratch.0).unwrap();
        let (mut journal, mut admission) = Journal::open(&folder, &node(), "log").unwrap();
        for generation in [3, 4] {
            journal
                .append(admission.begin(&directive(generation)))
                .unwrap();
            if generation == 3 {
                journal.append(admission.done(done(3))).unwrap();
            }
        }
        let whole = fs::read(&journal.path).unwrap();
        let torn = whole.len() - 9;
        fs::write(&journal.path, &whole[..torn]).unwrap();
        let (_, admission) = Journal::open(&folder, &node(), "log").unwrap();
        assert_eq!(rows(&admission), [(3, true)]);
        fs::write(&journal.path, &whole).unwrap();
        let (journal, admission) = Journal::open(&folder, &node(), "log").unwrap();
        assert_eq!(rows(&admission), [(4, false)]);
        assert!(
            fs::read(&journal.path).unwrap().len() < whole.len(),
            "written anew"
        );
    }

    #[test]
    fn each_log_has_its_own() {
        let scratch = Scratch::new("journal-logs");
        let folder = Folder::take(&scratch.0).unwrap();
        let (mut journal, mut admission) = Journal::open(&folder, &node(), "log").unwrap();
        journal.append(admission.begin(&directive(3))).unwrap();
        let (_, other) = Journal::open(&folder, &node(), "other/log").unwrap();
        assert_eq!(rows(&other), []);
        let (_, again) = Journal::open(&folder, &node(), "log").unwrap();
        assert_eq!(rows(&again), [(3, false)]);
    }

    #[test]
    fn a_line_that_is_no_row_stops_the_agent() {
        let scratch = Scratch::new("journal-damaged");
        let folder = Folder::take(&scratch.0).unwrap();
        fs::write(folder.path(&file_name(&node(), "log")), "{}\n").unwrap();
        let error = Journal::open(&folder, &node(), "log")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 1") && error.contains("move the file away"),
            "{error}"
        );
    }

    #[test]
    fn a_large_one_is_written_anew() {
        let scratch = Scratch::new("journal-large");
        let folder = Folder::take(&scratch.0).unwrap();
        let (mut journal, mut admission) = Journal::open(&folder, &node(), "log").unwrap();
        journal.append(admission.begin(&directive(3))).unwrap();
        let size = journal.bytes;
        journal.append(admission.done(done(3))).unwrap();
        journal.bytes += JOURNAL_BYTES_MAX;
        journal.tidy(&admission).unwrap();
        assert!(journal.bytes < 3 * size);
        journal.append(admission.begin(&directive(4))).unwrap();
        let (_, admission) = Journal::open(&folder, &node(), "log").unwrap();
        assert_eq!(rows(&admission), [(4, false)]);
    }
}
