//! Rows by ordered key: an overlay in memory over a [`Base`] that a driver provides.
//!
//! 1. A row is decoded from the base when first read and then kept.
//! 2. A change stays in the overlay until it is drained into one atomic write of the base.
//! 3. Since [`Table::begin`] every change can be taken back.
//! 4. [`Table::forget`] drops the overlay: the base is the truth.

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

#[derive(Clone)]
struct Slot<V> {
    row: Option<Rc<V>>,
    changed: bool,
}

/// A row before it was changed; the inner `None`: it was not in memory.
type Before<V> = Option<Slot<V>>;

/// Rows of one kind. All keys in the base start with the table's own byte.
pub struct Table<K, V> {
    id: u8,
    base: Rc<dyn Base>,
    slots: RefCell<BTreeMap<K, Slot<V>>>,
    undo: Vec<(K, Before<V>)>,
}

impl<K: Key, V: Row> Table<K, V> {
    /// A table whose keys in `base` begin with the byte `id`.
    pub fn new(id: u8, base: Rc<dyn Base>) -> Self {
        Table {
            id,
            base,
            slots: RefCell::default(),
            undo: Vec::new(),
        }
    }

    /// The row of a key.
    ///
    /// # Panics
    /// When the base holds a row of another encoding: drivers throw such a base away before they
    /// open tables on it.
    pub fn get(&self, key: &K) -> Option<Rc<V>> {
        if let Some(slot) = self.slots.borrow().get(key) {
            return slot.row.clone();
        }
        let row = self
            .base
            .get(&self.bytes(key))
            .map(|bytes| Rc::new(decode::<V>(&bytes)));
        let slot = Slot {
            row: row.clone(),
            changed: false,
        };
        self.slots.borrow_mut().insert(key.clone(), slot);
        row
    }

    /// The first row at or after `from` and before `to`.
    pub fn first(&self, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        self.first_in(Bound::Included(from), Bound::Excluded(to))
    }

    /// The first row after `from` and before `to`.
    pub fn after(&self, from: &K, to: &K) -> Option<(K, Rc<V>)> {
        self.first_in(Bound::Excluded(from), Bound::Excluded(to))
    }

    /// The first row after `from`, to the table's end.
    pub fn next(&self, from: &K) -> Option<(K, Rc<V>)> {
        self.first_in(Bound::Excluded(from), Bound::Unbounded)
    }

    fn first_in(&self, from: Bound<&K>, to: Bound<&K>) -> Option<(K, Rc<V>)> {
        let end = match to {
            Bound::Excluded(key) | Bound::Included(key) => self.bytes(key),
            Bound::Unbounded => vec![self.id + 1],
        };
        let mut from_bytes = match from {
            Bound::Included(key) => self.bytes(key),
            Bound::Excluded(key) => [self.bytes(key), vec![0]].concat(),
            Bound::Unbounded => vec![self.id],
        };
        let below = loop {
            let Some((bytes, value)) = self.base.next(&from_bytes, &end) else {
                break None;
            };
            let key = K::read(&bytes[1..]).expect("the base holds keys that this table wrote");
            if !self.slots.borrow().contains_key(&key) {
                let row = Rc::new(decode::<V>(&value));
                break Some((key, row));
            }
            from_bytes = bytes;
            from_bytes.push(0);
        };
        let slots = self.slots.borrow();
        let above = slots
            .range((from, to))
            .find_map(|(key, slot)| Some((key.clone(), slot.row.clone()?)));
        match (above, below) {
            (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
            (a, b) => a.or(b),
        }
    }

    /// Puts a row, or removes it with `None`.
    pub fn put(&mut self, key: K, row: Option<V>) {
        let slot = Slot {
            row: row.map(Rc::new),
            changed: true,
        };
        let before = self.slots.get_mut().insert(key.clone(), slot);
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
    }

    /// Takes back every change since `begin`.
    pub fn rollback(&mut self) {
        let slots = self.slots.get_mut();
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(slot) => slots.insert(key, slot),
                None => slots.remove(&key),
            };
        }
    }

    /// Appends the changed rows and counts them as unchanged from now on.
    pub fn drain(&mut self, out: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        self.undo.clear();
        let id = self.id;
        let slots = self.slots.get_mut();
        for (key, slot) in slots.iter_mut().filter(|(_, slot)| slot.changed) {
            slot.changed = false;
            let value = slot.row.as_ref().map(|row| {
                let mut bytes = Vec::new();
                row.write(&mut bytes);
                bytes
            });
            out.push((key_bytes(id, key), value));
        }
        slots.retain(|_, slot| slot.row.is_some());
    }

    /// Forgets all rows in memory.
    pub fn forget(&mut self) {
        self.undo.clear();
        self.slots.get_mut().clear();
    }

    fn bytes(&self, key: &K) -> Vec<u8> {
        key_bytes(self.id, key)
    }
}

fn key_bytes<K: Key>(id: u8, key: &K) -> Vec<u8> {
    let mut bytes = vec![id];
    key.write(&mut bytes);
    bytes
}

fn decode<V: Row>(bytes: &[u8]) -> V {
    V::read(bytes).unwrap_or_else(|e| panic!("state that is not ours: {e}"))
}
