//! Rows that are found by key only and changed in place: those of a fleet's nodes, one of which
//! every sample touches.
//!
//! As a [`Table`](super::Table): an overlay over a [`Base`], drained into one write, and what was
//! changed since [`Shelf::begin`] can be taken back. But
//! 1. a row is found by a hash of its key's bytes and stays where it is: nothing is allocated for a
//!    row that is known, and a change copies the row once, to take it back to;
//! 2. rows have no order, so there is no first one;
//! 3. where more are in memory than may be, those that were not used for the longest go (second
//!    chance), a few at a time, and what comes takes over their memory.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::rc::Rc;

use super::table::decode;
use super::{Base, Key, Row};

/// Rows by key, without an order. All keys in the base start with the shelf's own byte, not 0.
pub struct Shelf<K, V> {
    id: u8,
    base: Rc<dyn Base>,
    kept: RefCell<Kept<K, V>>,
    undo: Vec<Undo<V>>,
}

/// What is in memory.
struct Kept<K, V> {
    /// Hashes of keys' bytes, and where their rows lie.
    places: BTreeSet<(u64, usize)>,
    slots: Vec<Slot<K, V>>,
    free: Vec<usize>,
    /// Boxes for rows to come and to take back to.
    spare: Vec<Box<V>>,
    /// Where rows are that the base does not know yet; some of these were taken back or come twice.
    touched: Vec<usize>,
    changed: usize,
    clean_max: usize,
    /// The next slot that may have to go.
    hand: usize,
    /// Where the last row that was found lies: the same one is mostly asked for again.
    last: usize,
}

struct Slot<K, V> {
    /// What it is found by.
    hash: u64,
    /// Its row's key in the base; nothing where the slot is free.
    bytes: Vec<u8>,
    key: K,
    /// `None`: there is no such row.
    row: Option<Box<V>>,
    changed: bool,
    /// Since the hand last came by.
    used: bool,
}

/// A slot as it was.
struct Undo<V> {
    place: usize,
    row: Option<Box<V>>,
    changed: bool,
}

impl<K: Key, V: Row + Default + PartialEq> Shelf<K, V> {
    /// A shelf whose keys in `base` begin with the byte `id`; it keeps about `clean_max` unchanged
    /// rows in memory.
    pub fn new(id: u8, base: Rc<dyn Base>, clean_max: usize) -> Self {
        Shelf {
            id,
            base,
            kept: RefCell::new(Kept {
                places: BTreeSet::default(),
                slots: Vec::new(),
                free: Vec::new(),
                spare: Vec::new(),
                touched: Vec::new(),
                changed: 0,
                clean_max,
                hand: 0,
                last: 0,
            }),
            undo: Vec::new(),
        }
    }

    /// Looks at the row of a key, given as its bytes; `None` when there is none, or it is no key.
    ///
    /// # Panics
    /// When the base holds a row of another encoding: drivers throw such a base away before.
    pub fn look<T>(&self, key: &[u8], look: impl FnOnce(&V) -> T) -> Option<T> {
        let mut kept = self.kept.borrow_mut();
        let place = kept.find(self.id, &*self.base, key)?;
        kept.slots[place].row.as_deref().map(look)
    }

    /// Changes the row of a key, given as its bytes, from its default when there is none. Answers
    /// with what `change` does whether the row is another one now.
    ///
    /// # Panics
    /// When the bytes are no key, and as [`Shelf::look`].
    pub fn change<T>(&mut self, key: &[u8], change: impl FnOnce(&K, &mut V) -> T) -> (T, bool) {
        let kept = self.kept.get_mut();
        let place = kept
            .find(self.id, &*self.base, key)
            .expect("who changes a row has its key");
        let slot = &mut kept.slots[place];
        let before = slot.row.as_deref().map(|row| match kept.spare.pop() {
            Some(mut spare) => {
                (*spare).clone_from(row);
                spare
            }
            None => Box::new(row.clone()),
        });
        self.undo.push(Undo {
            place,
            row: before,
            changed: slot.changed,
        });
        let known = slot.row.is_some();
        let row = slot.row.get_or_insert_default();
        let answer = change(&slot.key, row);
        let before = self.undo.last().expect("pushed above").row.as_deref();
        if before.map_or_else(|| **row == V::default(), |before| *before == **row) {
            if !known {
                slot.row = None;
            }
            kept.spare.extend(self.undo.pop().and_then(|undo| undo.row));
            return (answer, false);
        }
        kept.touch(place);
        (answer, true)
    }

    /// From here on changes can be taken back.
    pub fn begin(&mut self) {
        let kept = self.kept.get_mut();
        while let Some(undo) = self.undo.pop() {
            kept.set_aside(undo.row);
        }
    }

    /// Takes back every change since `begin`.
    pub fn rollback(&mut self) {
        let kept = self.kept.get_mut();
        while let Some(undo) = self.undo.pop() {
            let slot = &mut kept.slots[undo.place];
            kept.changed -= usize::from(slot.changed);
            kept.changed += usize::from(undo.changed);
            slot.changed = undo.changed;
            slot.row = undo.row;
        }
    }

    /// How many rows changed since they were last drained.
    pub fn changed(&self) -> usize {
        self.kept.borrow().changed
    }

    /// Appends the changed rows, in order, and counts them as unchanged from now on: the driver
    /// writes them to the base before anything else is read.
    pub fn drain(&mut self, out: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        self.undo.clear();
        let kept = self.kept.get_mut();
        let first = out.len();
        for place in kept.touched.drain(..) {
            let slot = &mut kept.slots[place];
            if std::mem::take(&mut slot.changed)
                && let Some(row) = &slot.row
            {
                let mut value = Vec::with_capacity(ROW_BYTES);
                row.write(&mut value);
                out.push((slot.bytes.clone(), Some(value)));
            }
        }
        kept.changed = 0;
        out[first..].sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    }
}

impl<K: Key, V: Row> Kept<K, V> {
    /// Where the row of a key lies, read from the base when it is not here yet; `None` when the
    /// bytes are no key.
    fn find(&mut self, id: u8, base: &dyn Base, key: &[u8]) -> Option<usize> {
        if let Some(slot) = self.slots.get(self.last)
            && slot.bytes.get(1..) == Some(key)
        {
            return Some(self.last);
        }
        let hash = hash(key);
        for &(_, place) in self.places.range((hash, 0)..=(hash, usize::MAX)) {
            let slot = &mut self.slots[place];
            if slot.bytes[1..] == *key {
                slot.used = true;
                self.last = place;
                return Some(place);
            }
        }
        let parsed = K::read(key)?;
        // One record may ask for many rows: what is unchanged can go at any time.
        if self.places.len() > self.clean_max + self.changed {
            self.forget_some();
        }
        let mut bytes = match self.free.last() {
            Some(&free) => std::mem::take(&mut self.slots[free].bytes),
            None => Vec::with_capacity(1 + key.len()),
        };
        bytes.push(id);
        bytes.extend_from_slice(key);
        let row = base.get(&bytes).map(|bytes| {
            let row = decode(&bytes);
            match self.spare.pop() {
                Some(mut spare) => {
                    *spare = row;
                    spare
                }
                None => Box::new(row),
            }
        });
        let slot = Slot {
            hash,
            bytes,
            key: parsed,
            row,
            changed: false,
            used: true,
        };
        // Only now: a row that cannot be read leaves all as it was.
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.places.insert((hash, place));
        self.last = place;
        Some(place)
    }

    fn touch(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        if !slot.changed {
            slot.changed = true;
            self.changed += 1;
            self.touched.push(place);
        }
    }

    /// Lets the hand go on a little: what it finds unused and unchanged goes.
    fn forget_some(&mut self) {
        for _ in 0..HAND_STEPS {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            let free = slot.bytes.is_empty();
            if !std::mem::take(&mut slot.used) && !slot.changed && !free {
                self.places.remove(&(slot.hash, self.hand));
                slot.bytes.clear();
                let row = slot.row.take();
                self.free.push(self.hand);
                self.set_aside(row);
            }
        }
    }

    fn set_aside(&mut self, row: Option<Box<V>>) {
        let room = self.spare.len() < SPARE_MAX;
        self.spare.extend(row.filter(|_| room));
    }
}

/// What a row is found by: the same in every run, and two keys with the same are hard to find.
fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

/// Bytes that are set aside for a row being written.
const ROW_BYTES: usize = 1280;

/// Boxes kept for rows to come and to take back to.
const SPARE_MAX: usize = 16;

/// Slots that the hand looks at for a row that comes.
const HAND_STEPS: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stream::testing::{Map, Name, Seed};

    /// Whatever is done to a shelf, it answers as a plain map would that was done the same to.
    #[test]
    fn a_shelf_over_a_base_is_a_map() {
        for number in 0..400 {
            check_against_a_map(number);
        }
    }

    fn bytes(name: &Name) -> Vec<u8> {
        let mut bytes = Vec::new();
        name.write(&mut bytes);
        bytes
    }

    fn check_against_a_map(number: u64) {
        let mut seed = Seed(number);
        let base = Rc::new(Map::default());
        let mut shelf: Shelf<Name, u64> = Shelf::new(7, base.clone(), 3);
        let mut model: BTreeMap<Name, u64> = BTreeMap::new();
        let (mut begun, mut drained) = (model.clone(), model.clone());
        for step in 0..200 {
            let name = seed.name();
            match seed.below(10) {
                0..=3 => {
                    let added = seed.below(3);
                    let (was, changed) = shelf.change(&bytes(&name), |key, row| {
                        assert_eq!(*key, name);
                        *row += added;
                        *row - added
                    });
                    let at = model.get(&name).copied().unwrap_or_default();
                    assert_eq!((was, changed), (at, added > 0));
                    if added > 0 {
                        model.insert(name, at + added);
                    }
                }
                4 | 5 => {
                    shelf.begin();
                    begun = model.clone();
                }
                6 => {
                    shelf.rollback();
                    model = begun.clone();
                }
                7 => {
                    let mut rows = Vec::new();
                    let changed = shelf.changed();
                    shelf.drain(&mut rows);
                    assert_eq!(rows.len(), changed, "seed {number} step {step}");
                    assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
                    base.write(rows);
                    drained = model.clone();
                    begun = model.clone();
                }
                8 if seed.below(5) == 0 => {
                    shelf = Shelf::new(7, base.clone(), 3);
                    model = drained.clone();
                    begun = drained.clone();
                }
                _ => {}
            }
            let probe = seed.name();
            let got = shelf.look(&bytes(&probe), |row| *row);
            assert_eq!(
                got,
                model.get(&probe).copied(),
                "seed {number} step {step} {probe:?}"
            );
        }
    }

    #[test]
    fn what_was_not_used_for_the_longest_goes() {
        let base = Rc::new(Map::default());
        let mut shelf: Shelf<Name, u64> = Shelf::new(7, base.clone(), 10);
        let name = |n: u64| bytes(&Name(format!("{n}")));
        for n in 0..1000 {
            shelf.begin();
            shelf.change(&name(n), |_, row| *row += 1);
            shelf.look(&name(0), |_| ());
            if n % 10 == 9 {
                let mut rows = Vec::new();
                shelf.drain(&mut rows);
                base.write(rows);
            }
        }
        let kept = shelf.kept.borrow();
        assert!(kept.places.len() <= 40, "{} kept", kept.places.len());
        let in_use = kept
            .slots
            .iter()
            .any(|slot| slot.bytes.get(1..) == Some(&name(0)));
        assert!(in_use, "the one in use");
    }

    #[test]
    fn a_fleet_larger_than_the_shelf_stays_on_disk() {
        let base = Rc::new(Map::default());
        let mut shelf: Shelf<Name, u64> = Shelf::new(7, base.clone(), 1000);
        for n in 0..60_000_u64 {
            let name = bytes(&Name(format!("{}", n * 7919 % 20_000)));
            shelf.begin();
            shelf.look(&name, |_| ());
            shelf.change(&name, |_, row| *row += 1);
            shelf.look(&name, |_| ());
            // As when many alarms are looked at before one record.
            for other in (0..1000).filter(|_| n == 30_000) {
                shelf.look(&bytes(&Name(format!("{other}"))), |_| ());
            }
            if shelf.changed() >= 300 {
                let mut rows = Vec::new();
                shelf.drain(&mut rows);
                base.write(rows);
            }
            let kept = shelf.kept.borrow();
            assert!(kept.places.len() <= 2000, "{} at {n}", kept.places.len());
            assert!(kept.slots.len() <= 2000);
        }
    }

    #[test]
    fn a_change_that_panics_is_taken_back() {
        let mut shelf: Shelf<Name, u64> = Shelf::new(7, Rc::new(Map::default()), 10);
        let name = bytes(&Name("a".into()));
        shelf.begin();
        shelf.change(&name, |_, row| *row = 1);
        shelf.begin();
        let change = std::panic::AssertUnwindSafe(|| {
            shelf.change(&name, |_, row| {
                *row = 2;
                std::panic::resume_unwind(Box::new("told to"));
            })
        });
        assert!(std::panic::catch_unwind(change).is_err());
        shelf.rollback();
        assert_eq!(shelf.look(&name, |row| *row), Some(1));
        assert_eq!(shelf.changed(), 1);
    }
}
