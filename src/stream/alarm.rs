//! Alarms by (due, key). A stored alarm is a hint that is never late: when it comes before its
//! key's own `wake_at` it is filed anew at that, so that a sample which puts its key's alarm off
//! writes nothing here.

use std::cell::RefCell;
use std::rc::Rc;

use crate::model::Time;

use super::{Base, CLEAN_ROWS_MAX, Key, Table};

/// A hint: wake `key` at `due` or look whether it has changed its mind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hint {
    due: Time,
    key: Rc<[u8]>,
}

impl Key for Hint {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(((self.due.0 as u64) ^ (1 << 63)).to_be_bytes());
        out.extend_from_slice(&self.key);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (due, key) = bytes.split_first_chunk::<8>()?;
        Some(Hint {
            due: Time((u64::from_be_bytes(*due) ^ (1 << 63)) as i64),
            key: key.into(),
        })
    }
}

/// The alarms of a stage on a partition.
pub struct Alarms {
    hints: Table<Hint, ()>,
    /// The earliest hint, as long as it is known: most of what is filed comes behind it.
    first: RefCell<Option<Option<Hint>>>,
}

impl Alarms {
    /// Alarms in the table `id` of `base`.
    pub fn new(id: u8, base: Rc<dyn Base>) -> Self {
        Alarms::keeping(id, base, CLEAN_ROWS_MAX)
    }

    /// The same, keeping about so many unchanged ones in memory.
    pub fn keeping(id: u8, base: Rc<dyn Base>, rows: usize) -> Self {
        Alarms {
            hints: Table::new(id, base).with_clean_max(rows),
            first: RefCell::default(),
        }
    }

    /// Tells that the `wake_at` of a key was `before` and is `after`; files a hint only when one is
    /// needed.
    pub fn moved(&mut self, key: &[u8], before: Option<Time>, after: Option<Time>) {
        if let Some(due) = after
            && before.is_none_or(|before| due < before)
        {
            self.file(key, due);
        }
    }

    /// Files a hint.
    pub fn file(&mut self, key: &[u8], due: Time) {
        let key = key.into();
        let hint = Hint { due, key };
        let first = self.first.get_mut();
        let behind = |first: &Option<Hint>| first.as_ref().is_some_and(|first| *first <= hint);
        if !first.as_ref().is_some_and(behind) {
            *first = None;
        }
        self.hints.put(hint, Some(()));
    }

    /// The time of the earliest hint.
    pub fn first_due(&self) -> Option<Time> {
        self.with_first(|first| first.map(|hint| hint.due))
    }

    /// The earliest hint: its time and key.
    pub fn first(&self) -> Option<(Time, Rc<[u8]>)> {
        self.with_first(|first| first.map(|hint| (hint.due, hint.key.clone())))
    }

    fn with_first<T>(&self, look: impl FnOnce(Option<&Hint>) -> T) -> T {
        let mut first = self.first.borrow_mut();
        let first = first.get_or_insert_with(|| {
            let [from, to] = [Time(i64::MIN), ASLEEP].map(|due| Hint {
                due,
                key: Rc::default(),
            });
            self.hints.first(&from, &to).map(|(hint, _)| hint)
        });
        look(first.as_ref())
    }

    /// Removes a hint.
    pub fn remove(&mut self, due: Time, key: &[u8]) {
        let key = key.into();
        let hint = Hint { due, key };
        let first = self.first.get_mut();
        if first
            .as_ref()
            .is_some_and(|first| first.as_ref() == Some(&hint))
        {
            *first = None;
        }
        self.hints.put(hint, None);
    }

    /// Puts a key to sleep: its alarm panicked. It is woken by its next record only.
    pub fn mute(&mut self, key: &[u8]) {
        self.file(key, ASLEEP);
    }

    /// Wakes a key; says whether it slept. Its alarm must be filed again.
    pub fn unmute(&mut self, key: &[u8]) -> bool {
        let slept = self.is_muted(key);
        if slept {
            self.remove(ASLEEP, key);
        }
        slept
    }

    /// Whether a key sleeps.
    pub fn is_muted(&self, key: &[u8]) -> bool {
        let hint = Hint {
            due: ASLEEP,
            key: key.into(),
        };
        self.hints.get(&hint).is_some()
    }

    /// Whether any key sleeps.
    pub fn any_muted(&self) -> bool {
        let from = Hint {
            due: ASLEEP,
            key: Rc::default(),
        };
        let to = Hint {
            due: ASLEEP,
            key: [0xFF; 2048].into(),
        };
        self.hints.first(&from, &to).is_some()
    }

    /// See [`Table::begin`].
    pub fn begin(&mut self) {
        self.hints.begin();
    }

    /// See [`Table::rollback`].
    pub fn rollback(&mut self) {
        *self.first.get_mut() = None;
        self.hints.rollback();
    }

    /// See [`Table::changed`].
    pub fn changed(&self) -> usize {
        self.hints.changed()
    }

    /// See [`Table::drain`].
    pub fn drain(&mut self, out: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        self.hints.drain(out);
    }
}

/// The hint's time of a key that sleeps: it is never due.
const ASLEEP: Time = Time(i64::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::NoBase;

    fn alarms() -> Alarms {
        Alarms::new(1, Rc::new(NoBase))
    }

    #[test]
    fn hints_come_by_time_and_then_by_key_and_times_before_1970_sort_right() {
        let mut alarms = alarms();
        let hints = [(5, "b"), (-7, "z"), (5, "a"), (0, "c"), (5, "a\0")];
        for (due, key) in hints {
            alarms.file(key.as_bytes(), Time(due));
        }
        let mut order = Vec::new();
        while let Some((due, key)) = alarms.first() {
            alarms.remove(due, &key);
            order.push((due.0, String::from_utf8(key.to_vec()).unwrap()));
        }
        let want = [(-7, "z"), (0, "c"), (5, "a"), (5, "a\0"), (5, "b")];
        assert_eq!(order, want.map(|(due, key)| (due, key.to_owned())));
    }

    #[test]
    fn only_an_earlier_wish_files_a_hint() {
        for (before, after, filed) in [
            (None, Some(5), true),
            (Some(5), Some(4), true),
            (Some(5), Some(5), false),
            (Some(5), Some(6), false),
            (Some(5), None, false),
            (None, None, false),
        ] {
            let mut alarms = alarms();
            alarms.moved(b"k", before.map(Time), after.map(Time));
            assert_eq!(alarms.first().is_some(), filed, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_key_that_sleeps_has_no_alarm_until_it_is_woken() {
        let mut alarms = alarms();
        alarms.mute(b"k");
        assert!(alarms.any_muted() && alarms.is_muted(b"k") && !alarms.is_muted(b"j"));
        assert_eq!(alarms.first(), None);
        assert!(alarms.unmute(b"k"));
        assert!(!alarms.unmute(b"k") && !alarms.any_muted());
    }
}
