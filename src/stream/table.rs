//! Rows by ordered key: an overlay in memory over a [`Base`] that a driver provides.
//!
//! 1. A row is decoded from the base when first read and then kept.
//! 2. A change stays in the overlay until it is drained into one atomic write of the base.
//! 3. Since [`Table::begin`] every change can be taken back.
//!
//! Removed rows stand apart from living ones, so that a search for the first living row does not
//! walk over what a batch removed. What such a search reads of the base it reads in pieces and
//! remembers as a *window*: a range of keys of which every row below is in memory too. So the head
//! of a queue, which empties and fills all the time, is searched in memory, and what was removed
//! from the base is never walked over again. Of a table without a row below nothing is asked at
//! all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// What lies below a table. Reads cannot fail here: a base that could not read remembers it,
/// answers nothing, and its driver throws away what was folded since.
pub trait Base {
    /// The bytes of a row.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// The first row whose key is at least `from` and less than `to`.
    fn next(&self, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

    /// The first rows whose keys are at least `from` and less than `to`, in order, `max` at most.
    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut from = from.to_vec();
        while rows.len() < max
            && let Some(row) = self.next(&from, to)
        {
            from = after(row.0.clone());
            rows.push(row);
        }
        rows
    }
}

/// Nothing below: a table that lives in memory only.
pub struct NoBase;

impl Base for NoBase {
    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn next(&self, _from: &[u8], _to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        None
    }
}

/// A row's key: its bytes sort as it does.
pub trait Key: Ord + Clone {
    /// Appends the key's bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads the key back; `None` when the bytes are no key.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// Appends a name so that it sorts as text and ends where the next part begins: its bytes with 0x00
/// as 0x00 0xFF, then 0x00 0x01.
pub fn write_name(name: &str, out: &mut Vec<u8>) {
    for &byte in name.as_bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend([0x00, 0x01]);
}

/// Reads a name back: the name and the rest.
pub fn read_name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut name = Vec::new();
    let mut rest = bytes;
    loop {
        match *rest {
            [0x00, 0x01, ..] => return Some((String::from_utf8(name).ok()?, &rest[2..])),
            [0x00, 0xFF, ..] => {
                name.push(0);
                rest = &rest[2..];
            }
            [0x00, ..] | [] => return None,
            [byte, ..] => {
                name.push(byte);
                rest = &rest[1..];
            }
        }
    }
}

/// A row of another encoding: it is thrown away and rebuilt from the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of another encoding: {0}")]
pub struct RowError(pub String);

/// A row's value. Its encoding is a cache's: versioned, thrown away when the version differs.
pub trait Row: Clone {
    /// Appends the row's bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads the row back.
    ///
    /// # Errors
    /// The bytes are of another version or damaged.
    fn read(bytes: &[u8]) -> Result<Self, RowError>;
}

impl Row for () {
    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(_bytes: &[u8]) -> Result<Self, RowError> {
        Ok(())
    }
}

/// A row in memory.
#[derive(Clone)]
struct Slot<V> {
    /// The row; `None`: there is none, whatever the base says.
    row: Option<Rc<V>>,
    /// The base does not know it yet.
    changed: bool,
    /// Whether the base holds a row of this key, as far as that is known.
    below: Option<bool>,
}

/// Rows of one kind. All keys in the base start with the table's own byte, which is not 0: that is
/// the driver's.
pub struct Table<K, V> {
    id: u8,
    base: Rc<dyn Base>,
    rows: RefCell<Rows<K, V>>,
    /// What was in memory of a key before it was changed.
    undo: Vec<(K, Option<Slot<V>>)>,
    clean_max: usize,
    /// Rows of the base that a search reads at once; at least 2.
    piece: usize,
}

struct Rows<K, V> {
    living: BTreeMap<K, Slot<V>>,
    /// Those whose slot has no row.
    gone: BTreeMap<K, Slot<V>>,
    /// How many of both are unchanged: known from the base and free to be forgotten.
    clean: usize,
    /// The base holds no row of this table; `None`: not asked yet.
    bare: Option<bool>,
    /// The windows, apart from each other: where each begins and where it ends. Of every row below
    /// whose key lies in one there is a slot.
    windows: BTreeMap<K, K>,
}

impl<K: Key, V: Row> Table<K, V> {
    /// A table whose keys in `base` begin with the byte `id`.
    pub fn new(id: u8, base: Rc<dyn Base>) -> Self {
        Table {
            id,
            base,
            rows: RefCell::new(Rows::default()),
            undo: Vec::new(),
            clean_max: CLEAN_ROWS_MAX,
            piece: PIECE,
        }
    }

    /// The same, keeping at most about `clean_max` unchanged rows in memory.
    pub fn with_clean_max(self, clean_max: usize) -> Self {
        Table { clean_max, ..self }
    }

    /// The row of a key.
    ///
    /// # Panics
    /// When the base holds a row of another encoding: drivers throw such a base away before they
    /// open tables on it.
    pub fn get(&self, key: &K) -> Option<Rc<V>> {
        if let Some(slot) = self.rows.borrow().slot(key) {
            return slot.row.clone();
        }
        if self.is_bare() || self.rows.borrow().window_of(key).is_some() {
            return None;
        }
        let row = self
            .base
            .get(&self.bytes(key))
            .map(|bytes| Rc::new(decode::<V>(&bytes)));
        let slot = Slot {
            row: row.clone(),
            changed: false,
            below: Some(row.is_some()),
        };
        self.rows.borrow_mut().insert(key.clone(), slot);
        row
    }

    /// The first row at or after `from` and before `to`.
    pub fn first(&self, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        self.search(Bound::Included(from), from, to)
    }

    /// The first row after `from` and before `to`.
    pub fn after(&self, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        self.search(Bound::Excluded(from), from, to)
    }

    /// The first row after `from`, to the table's end: for walks that read every row.
    pub fn next(&self, from: &K) -> Option<(K, Rc<V>)> {
        let rows = self.rows.borrow();
        let (mut from_bytes, end) = (after(self.bytes(from)), [self.id + 1]);
        let below = loop {
            if rows.bare == Some(true) {
                break None;
            }
            let Some((bytes, value)) = self.base.next(&from_bytes, &end) else {
                break None;
            };
            let key = read_key(&bytes);
            if rows.slot(&key).is_none() {
                break Some((key, Rc::new(decode::<V>(&value))));
            }
            from_bytes = after(bytes);
        };
        let above = rows.first_living(Bound::Excluded(from), Bound::Unbounded);
        earlier(above, below)
    }

    /// The first row from `lower`, whose key is `from`, to before `to`; from window to window.
    fn search(&self, lower: Bound<&K>, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        if from >= to {
            return None;
        }
        if self.is_bare() {
            return self.rows.borrow().first_living(lower, Bound::Excluded(to));
        }
        let mut at = None;
        loop {
            let (lower, from) = match &at {
                None => (lower, from),
                Some(at) => (Bound::Included(at), at),
            };
            self.complete(from, to);
            let rows = self.rows.borrow();
            let until = rows.window_of(from).expect("it was made complete").min(to);
            let found = rows.first_living(lower, Bound::Excluded(until));
            if found.is_some() || until == to {
                return found;
            }
            at = Some(until.clone());
        }
    }

    /// Makes that `from` lies in a window: reads a piece of the base, not beyond `to`.
    fn complete(&self, from: &K, to: &K) {
        let mut rows = self.rows.borrow_mut();
        if rows.window_of(from).is_some() {
            return;
        }
        let beyond = rows
            .windows
            .range((Bound::Excluded(from), Bound::Excluded(to)));
        let mut until = beyond.map(|(begin, _)| begin).next().unwrap_or(to).clone();
        let found = self
            .base
            .scan(&self.bytes(from), &self.bytes(&until), self.piece);
        let more = found.len() >= self.piece;
        for (bytes, value) in found {
            let key: K = read_key(&bytes);
            rows.note_below(&key, || Rc::new(decode(&value)));
            if more {
                // The last one of a piece ends the window, and is read again with the next.
                until = key;
            }
        }
        rows.open_window(from.clone(), until);
    }

    /// Puts a row, or removes it with `None`.
    pub fn put(&mut self, key: K, row: Option<V>) {
        let bare = self.is_bare();
        let rows = self.rows.get_mut();
        let before = rows.remove(&key);
        let mut below = before.as_ref().and_then(|slot| slot.below);
        if bare || before.is_none() && rows.window_of(&key).is_some() {
            below = Some(false);
        }
        if row.is_none() && below.is_none() {
            below = Some(self.base.get(&key_bytes(self.id, &key)).is_some());
        }
        if row.is_some() || below != Some(false) {
            let slot = Slot {
                row: row.map(Rc::new),
                changed: true,
                below,
            };
            rows.insert(key.clone(), slot);
        }
        self.undo.push((key, before));
    }

    /// Changes a row in place, from its default when there is none.
    pub fn update(&mut self, key: &K, change: impl FnOnce(&mut V))
    where
        V: Default,
    {
        let mut row = self.get(key).map(|row| (*row).clone()).unwrap_or_default();
        change(&mut row);
        self.put(key.clone(), Some(row));
    }

    /// From here on changes can be taken back.
    pub fn begin(&mut self) {
        self.undo.clear();
        let rows = self.rows.get_mut();
        if rows.clean > self.clean_max {
            rows.forget_clean(self.clean_max / 2);
        }
    }

    /// Takes back every change since `begin`.
    pub fn rollback(&mut self) {
        let rows = self.rows.get_mut();
        while let Some((key, before)) = self.undo.pop() {
            let slot = rows.remove(&key);
            if let Some(slot) = before {
                rows.insert(key, slot);
            } else if slot.is_some_and(|slot| slot.below != Some(false)) {
                rows.close_windows(&key);
            }
        }
    }

    /// How many rows changed since they were last drained.
    pub fn changed(&self) -> usize {
        let rows = self.rows.borrow();
        rows.living.len() + rows.gone.len() - rows.clean
    }

    /// Appends the changed rows, in order, and counts them as unchanged from now on: the driver
    /// writes them to the base before anything else is read. (So a table without a base must not be
    /// drained.)
    pub fn drain(&mut self, out: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        self.undo.clear();
        let id = self.id;
        let rows = self.rows.get_mut();
        let first = out.len();
        for (key, slot) in rows.living.iter_mut().chain(rows.gone.iter_mut()) {
            if !slot.changed {
                continue;
            }
            slot.changed = false;
            slot.below = Some(slot.row.is_some());
            let value = slot.row.as_ref().map(|row| {
                let mut bytes = Vec::new();
                row.write(&mut bytes);
                bytes
            });
            out.push((key_bytes(id, key), value));
        }
        out[first..].sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        rows.gone.clear();
        rows.clean = rows.living.len();
        if out.len() > first {
            rows.bare = Some(false);
        }
    }

    /// Whether the base holds no row of this table.
    fn is_bare(&self) -> bool {
        let bare = &mut self.rows.borrow_mut().bare;
        *bare.get_or_insert_with(|| self.base.next(&[self.id], &[self.id + 1]).is_none())
    }

    fn bytes(&self, key: &K) -> Vec<u8> {
        key_bytes(self.id, key)
    }
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Rows {
            living: BTreeMap::new(),
            gone: BTreeMap::new(),
            clean: 0,
            bare: None,
            windows: BTreeMap::new(),
        }
    }
}

impl<K: Key, V> Rows<K, V> {
    fn slot(&self, key: &K) -> Option<&Slot<V>> {
        self.living.get(key).or_else(|| self.gone.get(key))
    }

    /// Inserts a slot for a key that has none.
    fn insert(&mut self, key: K, slot: Slot<V>) {
        self.clean += usize::from(!slot.changed);
        let side = match slot.row {
            Some(_) => &mut self.living,
            None => &mut self.gone,
        };
        side.insert(key, slot);
    }

    fn remove(&mut self, key: &K) -> Option<Slot<V>> {
        let slot = self.living.remove(key).or_else(|| self.gone.remove(key))?;
        self.clean -= usize::from(!slot.changed);
        Some(slot)
    }

    fn first_living(&self, lower: Bound<&K>, upper: Bound<&K>) -> Option<(K, Rc<V>)> {
        let (key, slot) = self.living.range((lower, upper)).next()?;
        Some((key.clone(), slot.row.clone()?))
    }

    /// Where the window that a key lies in ends.
    fn window_of(&self, key: &K) -> Option<&K> {
        let (_, until) = self.windows.range(..=key).next_back()?;
        (key < until).then_some(until)
    }

    /// Notes that the base holds a row of this key.
    fn note_below(&mut self, key: &K, row: impl FnOnce() -> Rc<V>) {
        let known = match self.living.get_mut(key) {
            Some(slot) => Some(slot),
            None => self.gone.get_mut(key),
        };
        match known {
            Some(slot) => slot.below = Some(true),
            None => self.insert(
                key.clone(),
                Slot {
                    row: Some(row()),
                    changed: false,
                    below: Some(true),
                },
            ),
        }
    }

    /// Adds a window that touches no other but at its ends.
    fn open_window(&mut self, from: K, until: K) {
        if self.windows.len() >= WINDOWS_MAX {
            self.windows.clear();
        }
        let until = self.windows.remove(&until).unwrap_or(until);
        match self.windows.range_mut(..&from).next_back() {
            Some((_, end)) if *end == from => *end = until,
            _ => {
                self.windows.insert(from, until);
            }
        }
    }

    /// Ends the window that holds a key before it.
    fn close_windows(&mut self, key: &K) {
        if self.windows.remove(key).is_none()
            && let Some((_, until)) = self.windows.range_mut(..key).next_back()
            && key < until
        {
            *until = key.clone();
        }
    }

    /// Forgets the unchanged rows but for about `keep` at the heads of windows.
    fn forget_clean(&mut self, keep: usize) {
        let mut living = std::mem::take(&mut self.living);
        let mut kept = 0;
        living.retain(|key, slot| {
            let stays = slot.changed || kept < keep && self.window_of(key).is_some();
            if !stays {
                self.close_windows(key);
            }
            kept += usize::from(stays && !slot.changed);
            stays
        });
        self.living = living;
        self.gone.retain(|_, slot| slot.changed);
        self.clean = kept;
    }
}

/// The smallest bytes after these.
fn after(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(0);
    bytes
}

fn key_bytes<K: Key>(id: u8, key: &K) -> Vec<u8> {
    let mut bytes = vec![id];
    key.write(&mut bytes);
    bytes
}

fn read_key<K: Key>(bytes: &[u8]) -> K {
    K::read(&bytes[1..]).expect("the base holds keys that this table wrote")
}

fn earlier<K: Ord, V>(a: Option<(K, V)>, b: Option<(K, V)>) -> Option<(K, V)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

pub(super) fn decode<V: Row>(bytes: &[u8]) -> V {
    V::read(bytes).unwrap_or_else(|e| panic!("state that is not ours: {e}"))
}

/// Unchanged rows that a table keeps at most: some 50 MB of rows of 700 bytes, and a fleet of that
/// many nodes is read from the base once only.
pub const CLEAN_ROWS_MAX: usize = 65_536;

/// Rows of the base that a search reads at once.
const PIECE: usize = 64;

/// Windows of a table: more than meshes with something waiting.
const WINDOWS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::stream::testing::{Map, Name, Seed};

    #[test]
    fn names_with_any_bytes_sort_as_text_and_come_back() {
        let mut seed = Seed(1);
        for _ in 0..5000 {
            let (a, b) = (seed.name(), seed.name());
            let [mut x, mut y] = [Vec::new(), Vec::new()];
            a.write(&mut x);
            b.write(&mut y);
            x.push(9);
            y.push(3);
            if a != b {
                assert_eq!(a.cmp(&b), x.cmp(&y), "{a:?} {b:?}");
            }
            assert_eq!(read_name(&x), Some((a.0, &[9][..])));
        }
    }

    /// Whatever is done to a table, it answers as a plain map would that was done the same to.
    #[test]
    fn a_table_over_a_base_is_a_map() {
        for number in 0..400 {
            check_against_a_map(number);
        }
    }

    fn check_against_a_map(number: u64) {
        let mut seed = Seed(number);
        let base = Rc::new(Map::default());
        let piece = 2 + seed.below(4) as usize;
        let over = |base: &Rc<Map>| Table::<Name, u64> {
            piece,
            ..Table::new(7, base.clone()).with_clean_max(3)
        };
        let mut table = over(&base);
        let other = (vec![8], vec![1, 2, 3]);
        base.write(vec![(other.0.clone(), Some(other.1.clone()))]);
        let mut model: BTreeMap<Name, u64> = BTreeMap::new();
        let (mut begun, mut drained) = (model.clone(), model.clone());
        for step in 0..200 {
            let name = seed.name();
            match seed.below(12) {
                0..=2 => {
                    let row = seed.below(100);
                    table.put(name.clone(), Some(row));
                    model.insert(name, row);
                }
                3 | 4 => {
                    table.put(name.clone(), None);
                    model.remove(&name);
                }
                5 => {
                    table.update(&name, |row| *row += 1);
                    *model.entry(name).or_default() += 1;
                }
                6 => {
                    table.begin();
                    begun = model.clone();
                }
                7 => {
                    table.rollback();
                    model = begun.clone();
                }
                8 => {
                    let mut rows = Vec::new();
                    table.drain(&mut rows);
                    assert!(
                        rows.is_sorted_by(|a, b| a.0 < b.0),
                        "seed {number} step {step}"
                    );
                    base.write(rows);
                    drained = model.clone();
                    begun = model.clone();
                }
                9 if seed.below(5) == 0 => {
                    table = over(&base);
                    model = drained.clone();
                    begun = drained.clone();
                }
                _ => {}
            }
            let at = format!("seed {number} step {step}");
            let probe = seed.name();
            let got = table.get(&probe).map(|row| *row);
            assert_eq!(got, model.get(&probe).copied(), "{at}");
            let (from, to) = match seed.below(3) {
                0 => (seed.name(), seed.name()),
                _ => (Name(String::new()), Name("z".into())),
            };
            let first = table.first(&from, &to).map(|(key, row)| (key, *row));
            let want = model
                .range((Bound::Included(&from), Bound::Unbounded))
                .next()
                .filter(|(key, _)| **key < to)
                .map(|(key, row)| (key.clone(), *row));
            assert_eq!(first, want, "{at}");
        }
        let mut rows = Vec::new();
        table.drain(&mut rows);
        base.write(rows);
        let below: Vec<_> = base
            .0
            .borrow()
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let mut want: Vec<_> = model
            .iter()
            .map(|(key, row)| (key_bytes(7, key), row.to_be_bytes().to_vec()))
            .collect();
        want.push(other);
        assert_eq!(below, want, "seed {number}");
    }

    #[test]
    fn a_row_put_and_removed_before_a_drain_leaves_no_trace() {
        let mut table: Table<Name, u64> = Table::new(7, Rc::new(Map::default()));
        table.put(Name("a".into()), Some(1));
        table.put(Name("a".into()), None);
        let mut rows = Vec::new();
        table.drain(&mut rows);
        assert_eq!(rows, []);
    }

    /// A base that answers until it is told to fail.
    struct Failing(Map, std::cell::Cell<bool>);

    impl Base for Failing {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.0.get(key).filter(|_| !self.1.get())
        }

        fn next(&self, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
            self.0.next(from, to).filter(|_| !self.1.get())
        }
    }

    #[test]
    fn a_removed_row_stays_removed_when_the_base_fails() {
        let base = Rc::new(Failing(Map::default(), std::cell::Cell::new(false)));
        let name = |text: &str| Name(text.into());
        let mut table: Table<Name, u64> = Table::new(7, base.clone());
        base.0.write(vec![(
            key_bytes(7, &name("a")),
            Some(1u64.to_be_bytes().to_vec()),
        )]);
        assert!(table.first(&name(""), &name("z")).is_some());
        base.1.set(true);
        table.put(name("a"), None);
        assert!(table.first(&name(""), &name("z")).is_none());
    }

    /// A base that counts how often it is searched.
    struct Counting(Map, std::cell::Cell<usize>);

    impl Base for Counting {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.0.get(key)
        }

        fn next(&self, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
            self.1.set(self.1.get() + 1);
            self.0.next(from, to)
        }

        fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
            self.1.set(self.1.get() + 1);
            self.0.scan(from, to, max)
        }
    }

    #[test]
    fn taking_the_first_row_again_and_again_searches_the_base_once_a_piece() {
        let base = Rc::new(Counting(Map::default(), std::cell::Cell::new(0)));
        let mut table: Table<Name, u64> = Table::new(7, base.clone());
        let name = |n: u64| Name(format!("{n:04}"));
        (0..1000).for_each(|n| table.put(name(n), Some(n)));
        let mut rows = Vec::new();
        table.drain(&mut rows);
        base.0.write(rows);
        let mut table: Table<Name, u64> = Table::new(7, base.clone());
        for n in 0..1000 {
            let (key, _) = table.first(&name(0), &name(9999)).unwrap();
            assert_eq!(key, name(n));
            table.put(key, None);
            // What comes again behind all others, as an alarm does, is found without the base too.
            table.put(name(n + 1000), Some(n));
            let mut rows = Vec::new();
            table.drain(&mut rows);
            base.0.write(rows);
        }
        let most = 2 + 2000 / (PIECE - 1);
        assert!(base.1.get() <= most, "searched {} times", base.1.get());
    }

    #[test]
    fn what_is_forgotten_ends_the_window_and_is_read_again() {
        let base = Rc::new(Counting(Map::default(), std::cell::Cell::new(0)));
        let mut table: Table<Name, u64> = Table::new(7, base.clone()).with_clean_max(100);
        let name = |n: u64| Name(format!("{n:04}"));
        (0..1000).for_each(|n| table.put(name(n), Some(n)));
        let mut rows = Vec::new();
        table.drain(&mut rows);
        base.0.write(rows);
        assert!(table.first(&name(0), &name(9999)).is_some());
        table.begin();
        let before = base.1.get();
        for n in 0..40 {
            assert_eq!(table.first(&name(n), &name(9999)).unwrap().0, name(n));
        }
        assert_eq!(base.1.get(), before, "the head of the window stays");
        for n in 40..1000 {
            assert_eq!(table.first(&name(n), &name(9999)).unwrap().0, name(n));
            table.begin();
        }
        assert!(table.rows.borrow().living.len() <= 200);
    }
}
