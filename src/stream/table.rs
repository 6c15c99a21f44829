//! Rows by ordered key: an overlay in memory over a [`Base`] that a driver provides.
//!
//! 1. A row is decoded from the base when first read and then kept.
//! 2. A change stays in the overlay until it is drained into one atomic write of the base.
//! 3. Since [`Table::begin`] every change can be taken back.
//!
//! Removed rows stand apart from living ones, so that a search for the first living row does not
//! walk over what a batch removed; below, the search goes on where it ended as long as what it
//! passed is still hidden by the overlay. Of a table without a row below nothing is asked at all.

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

/// A search of the base that ended: everything from `from` to the row found (or to `to`) was hidden
/// by the overlay or not there.
struct Search<K, V> {
    from: K,
    to: K,
    found: Option<(K, Rc<V>)>,
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
}

struct Rows<K, V> {
    living: BTreeMap<K, Slot<V>>,
    /// Those whose slot has no row.
    gone: BTreeMap<K, Slot<V>>,
    /// How many of both are unchanged: known from the base and free to be forgotten.
    clean: usize,
    /// The base holds no row of this table; `None`: not asked yet.
    bare: Option<bool>,
    search: Option<Search<K, V>>,
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
        if self.is_bare() {
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
        if from >= to {
            return None;
        }
        let below = self.first_below(from, to);
        let rows = self.rows.borrow();
        let above = rows
            .living
            .range((Bound::Included(from), Bound::Excluded(to)))
            .next()
            .and_then(|(key, slot)| Some((key.clone(), slot.row.clone()?)));
        earlier(above, below)
    }

    /// The first row after `from` and before `to`: for walks that read every row.
    pub fn after(&self, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        self.walk(from, Bound::Excluded(to), self.bytes(to))
    }

    /// The first row after `from`, to the table's end: for walks that read every row.
    pub fn next(&self, from: &K) -> Option<(K, Rc<V>)> {
        self.walk(from, Bound::Unbounded, vec![self.id + 1])
    }

    fn walk(&self, from: &K, to: Bound<&K>, end: Vec<u8>) -> Option<(K, Rc<V>)> {
        let rows = self.rows.borrow();
        let mut from_bytes = after(self.bytes(from));
        let below = loop {
            if rows.bare == Some(true) {
                break None;
            }
            let Some((bytes, value)) = self.base.next(&from_bytes, &end) else {
                break None;
            };
            let key = K::read(&bytes[1..]).expect("the base holds keys that this table wrote");
            if rows.slot(&key).is_none() {
                break Some((key, Rc::new(decode::<V>(&value))));
            }
            from_bytes = after(bytes);
        };
        let above = rows.living.range((Bound::Excluded(from), to)).next();
        let above = above.and_then(|(key, slot)| Some((key.clone(), slot.row.clone()?)));
        earlier(above, below)
    }

    /// The first row of the base in this range that the overlay does not hide.
    fn first_below(&self, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        if self.is_bare() {
            return None;
        }
        let mut rows = self.rows.borrow_mut();
        let mut from_bytes = match rows.search.take() {
            Some(search) if search.from == *from && search.to == *to => match search.found {
                Some((key, _)) if rows.slot(&key).is_some() => after(self.bytes(&key)),
                found => {
                    rows.search = Some(Search {
                        from: search.from,
                        to: search.to,
                        found: found.clone(),
                    });
                    return found;
                }
            },
            _ => self.bytes(from),
        };
        let end = self.bytes(to);
        let found = loop {
            let Some((bytes, value)) = self.base.next(&from_bytes, &end) else {
                break None;
            };
            let key = K::read(&bytes[1..]).expect("the base holds keys that this table wrote");
            if rows.slot(&key).is_none() {
                break Some((key, Rc::new(decode::<V>(&value))));
            }
            from_bytes = after(bytes);
        };
        rows.search = Some(Search {
            from: from.clone(),
            to: to.clone(),
            found: found.clone(),
        });
        found
    }

    /// Puts a row, or removes it with `None`.
    pub fn put(&mut self, key: K, row: Option<V>) {
        let bare = self.is_bare();
        let rows = self.rows.get_mut();
        let before = rows.remove(&key);
        let mut below = before.as_ref().and_then(|slot| slot.below);
        if bare {
            below = Some(false);
        }
        if row.is_none() && below.is_none() {
            below =
                Some(rows.was_found(&key) || self.base.get(&key_bytes(self.id, &key)).is_some());
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
            rows.forget_clean();
        }
    }

    /// Takes back every change since `begin`.
    pub fn rollback(&mut self) {
        let rows = self.rows.get_mut();
        rows.search = None;
        while let Some((key, before)) = self.undo.pop() {
            rows.remove(&key);
            if let Some(slot) = before {
                rows.insert(key, slot);
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
        rows.search = None;
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
            search: None,
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

    /// Whether a search ended at this row of the base: known without asking a base that may have
    /// failed since and answer nothing.
    fn was_found(&self, key: &K) -> bool {
        let found = self
            .search
            .as_ref()
            .and_then(|search| search.found.as_ref());
        found.is_some_and(|(found, _)| found == key)
    }

    fn forget_clean(&mut self) {
        self.living.retain(|_, slot| slot.changed);
        self.gone.retain(|_, slot| slot.changed);
        self.clean = 0;
        self.search = None;
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

fn earlier<K: Ord, V>(a: Option<(K, V)>, b: Option<(K, V)>) -> Option<(K, V)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

fn decode<V: Row>(bytes: &[u8]) -> V {
    V::read(bytes).unwrap_or_else(|e| panic!("state that is not ours: {e}"))
}

/// Unchanged rows that a table keeps at most: some 50 MB of rows of 700 bytes, and a fleet of that
/// many nodes is read from the base once only.
const CLEAN_ROWS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a driver keeps below: a map that drained rows go to.
    #[derive(Default)]
    struct Map(RefCell<BTreeMap<Vec<u8>, Vec<u8>>>);

    impl Base for Map {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.0.borrow().get(key).cloned()
        }

        fn next(&self, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
            let map = self.0.borrow();
            map.range(from.to_vec()..to.to_vec())
                .next()
                .map(|(key, value)| (key.clone(), value.clone()))
        }
    }

    impl Map {
        fn write(&self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
            for (key, value) in rows {
                match value {
                    Some(value) => self.0.borrow_mut().insert(key, value),
                    None => self.0.borrow_mut().remove(&key),
                };
            }
        }
    }

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Name(String);

    impl Key for Name {
        fn write(&self, out: &mut Vec<u8>) {
            write_name(&self.0, out);
        }

        fn read(bytes: &[u8]) -> Option<Self> {
            let (name, rest) = read_name(bytes)?;
            rest.is_empty().then_some(Name(name))
        }
    }

    impl Row for u64 {
        fn write(&self, out: &mut Vec<u8>) {
            out.extend(self.to_be_bytes());
        }

        fn read(bytes: &[u8]) -> Result<Self, RowError> {
            Ok(u64::from_be_bytes(bytes.try_into().expect("8 bytes")))
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    struct Seed(u64);

    impl Seed {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % n
        }

        fn name(&mut self) -> Name {
            let length = self.below(4) as usize;
            Name(
                (0..length)
                    .map(|_| ["\0", "\u{1}", "a", "ÿ"][self.below(4) as usize])
                    .collect(),
            )
        }
    }

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
        let mut table: Table<Name, u64> = Table::new(7, base.clone()).with_clean_max(3);
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
                    table = Table::new(7, base.clone()).with_clean_max(3);
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
    }

    #[test]
    fn taking_the_first_row_again_and_again_searches_the_base_once_per_row() {
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
        }
        // One per row, one that finds no more, and one that told that the base is not empty.
        assert!(base.1.get() <= 1002, "searched {} times", base.1.get());
    }
}
