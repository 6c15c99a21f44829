//! What is kept of a node between its records.

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::analyze::Mind;
use crate::analyze::cycle::Cycle;
use crate::analyze::illness::Illness;
use crate::analyze::panes::Panes;
use crate::analyze::wish::Standing;
use crate::model::{Kind, Metrics, Outcome, PolicyId, Severity, State, Time, Wish};
use crate::monitor::{Intake, Presence};
use crate::stream::{At, Row, RowError};

/// A node's row: of fixed size, without a pointer. What every reading needs comes first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct NodeRow {
    pub(super) intake: Intake,
    pub(super) mind: Mind,
    pub(super) presence: Presence,
    pub(super) illness: Illness,
    pub(super) last: Last,
    pub(super) told: Option<Told>,
    pub(super) cycle: Cycle,
    pub(super) panes: Panes,
    pub(super) reported: Reported,
}

impl NodeRow {
    /// The phi of its last accepted reading.
    pub fn phi(&self) -> f64 {
        self.last.phi
    }

    /// Append time of its last accepted reading; `None` before any.
    pub fn heard(&self) -> Option<Time> {
        self.intake.known().then(|| self.presence.heard())
    }

    /// When the node wants to be woken: at its silence or the end of its conflict.
    pub fn wake_at(&self, at: &At) -> Option<Time> {
        self.intake
            .known()
            .then(|| self.presence.wake_at(at.hears_since))
            .flatten()
    }
}

/// The evidence of the last accepted reading, for what is said without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    pub metrics: Metrics,
    pub interval_s: Option<f64>,
    pub phi: f64,
    pub standing: Standing,
    pub stale: bool,
}

/// What was last said to Plan, as far as a change of it is worth saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub settled: State,
    pub severity: Severity,
    pub symptoms: [u8; 8],
    pub wish: Wish,
    pub refused: u8,
    pub stale: bool,
    pub silent: bool,
    pub conflict: bool,
    pub boot: i64,
    pub policy_id: PolicyId,
    pub engine: u16,
}

/// The outcomes of the last directives that were passed on. Generations count up in a mesh, so what
/// is older than all that are known was passed on or is of no use any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reported {
    entries: [Option<Report>; REPORTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    generation: i64,
    kind: Kind,
    /// Bit `result as u8`.
    results: u8,
}

impl Reported {
    /// Whether an outcome's kind, generation and result are new; notes them.
    pub fn is_new(&mut self, outcome: &Outcome) -> bool {
        let bit = 1 << outcome.result as u8;
        let same = |report: &&mut Report| {
            (report.generation, report.kind) == (outcome.generation, outcome.kind)
        };
        if let Some(report) = self.entries.iter_mut().flatten().find(same) {
            let new = report.results & bit == 0;
            report.results |= bit;
            return new;
        }
        let oldest = self
            .entries
            .iter_mut()
            .min_by_key(|entry| entry.map(|report| report.generation))
            .expect("there are entries");
        let new = oldest.is_none_or(|report| report.generation <= outcome.generation);
        if new {
            *oldest = Some(Report {
                generation: outcome.generation,
                kind: outcome.kind,
                results: bit,
            });
        }
        new
    }
}

impl Row for NodeRow {
    fn write(&self, out: &mut Vec<u8>) {
        write_row(VERSION, self, out);
    }

    fn read(bytes: &[u8]) -> Result<Self, RowError> {
        read_row(VERSION, bytes)
    }
}

/// Appends a version and a row.
pub(super) fn write_row<T: Serialize>(version: u8, row: &T, out: &mut Vec<u8>) {
    out.push(version);
    postcard::serialize_with_flavor(row, Append(out))
        .expect("a row holds nothing that has no encoding");
}

/// Appends to bytes as they are.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads a row of a version.
pub(super) fn read_row<'a, T: Deserialize<'a>>(
    version: u8,
    bytes: &'a [u8],
) -> Result<T, RowError> {
    match bytes.split_first() {
        Some((found, row)) if *found == version => {
            postcard::from_bytes(row).map_err(|e| RowError(e.to_string()))
        }
        found => Err(RowError(format!(
            "version {:?}, expected {version}",
            found.map(|(version, _)| version)
        ))),
    }
}

/// Of the encoding: raised when a field changes.
pub(super) const VERSION: u8 = 2;

/// Directives of a node whose outcomes are known apart: two of each kind.
const REPORTS: usize = 8;
