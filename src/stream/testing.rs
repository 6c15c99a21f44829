//! What the tests of this room share: a base, keys, rows and a seed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Base, Key, Row, RowError, read_name, write_name};

/// What a driver keeps below: a map that drained rows go to.
#[derive(Default)]
pub struct Map(pub RefCell<BTreeMap<Vec<u8>, Vec<u8>>>);

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
    pub fn write(&self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        for (key, value) in rows {
            match value {
                Some(value) => self.0.borrow_mut().insert(key, value),
                None => self.0.borrow_mut().remove(&key),
            };
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub String);

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
pub struct Seed(pub u64);

impl Seed {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    pub fn name(&mut self) -> Name {
        let length = self.below(4) as usize;
        Name(
            (0..length)
                .map(|_| ["\0", "\u{1}", "a", "ÿ"][self.below(4) as usize])
                .collect(),
        )
    }
}
