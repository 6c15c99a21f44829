//! Alarms by (due, key). A stored alarm is a hint that is never late: when it comes before its
//! key's own `wake_at` it is filed anew at that, so that a sample which puts its key's alarm off
//! writes nothing here.

use std::rc::Rc;

use crate::model::Time;

use super::{Base, Key, Table};

/// A hint: wake `key` at `due` or look whether it has changed its mind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hint {
    due: Time,
    key: Vec<u8>,
}

impl Key for Hint {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(((self.due.0 as u64) ^ (1 << 63)).to_be_bytes());
        out.extend(&self.key);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (due, key) = bytes.split_first_chunk::<8>()?;
        Some(Hint {
            due: Time((u64::from_be_bytes(*due) ^ (1 << 63)) as i64),
            key: key.to_vec(),
        })
    }
}

/// The alarms of a stage on a partition.
pub struct Alarms {
    hints: Table<Hint, ()>,
}

impl Alarms {
    /// Alarms in the table `id` of `base`.
    pub fn new(id: u8, base: Rc<dyn Base>) -> Self {
        Alarms {
            hints: Table::new(id, base),
        }
    }

    /// Tells that the `wake_at` of a key was `before` and is `after`; files a hint only when one is
    /// needed.
    pub fn moved(&mut self, key: &[u8], before: Option<Time>, after: Option<Time>) {
        if let Some(due) = after
            && before.is_none_or(|before| due < before)
        {
            self.hints.put(
                Hint {
                    due,
                    key: key.to_vec(),
                },
                Some(()),
            );
        }
    }

    /// Files a hint.
    pub fn file(&mut self, key: &[u8], due: Time) {
        self.hints.put(
            Hint {
                due,
                key: key.to_vec(),
            },
            Some(()),
        );
    }

    /// The earliest hint: its time and key.
    pub fn first(&self) -> Option<(Time, Vec<u8>)> {
        let from = Hint {
            due: Time(i64::MIN),
            key: Vec::new(),
        };
        let to = Hint {
            due: Time(i64::MAX),
            key: Vec::new(),
        };
        self.hints
            .first(&from, &to)
            .map(|(hint, _)| (hint.due, hint.key))
    }

    /// Removes a hint.
    pub fn remove(&mut self, due: Time, key: &[u8]) {
        self.hints.put(
            Hint {
                due,
                key: key.to_vec(),
            },
            None,
        );
    }

    /// See [`Table::begin`].
    pub fn begin(&mut self) {
        self.hints.begin();
    }

    /// See [`Table::rollback`].
    pub fn rollback(&mut self) {
        self.hints.rollback();
    }

    /// See [`Table::drain`].
    pub fn drain(&mut self, out: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        self.hints.drain(out);
    }

    /// See [`Table::forget`].
    pub fn forget(&mut self) {
        self.hints.forget();
    }
}
