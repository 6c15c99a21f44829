//! The store port: the rows of one task. A cache of the log: it never holds what the log did not
//! commit, and losing it costs time only.

use std::cell::RefCell;
use std::rc::Rc;

use crate::stream::Base;

/// Rows to write: key and value, `None` to delete.
pub type Rows = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A stored row: key and value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// A store could not do what was asked; says what was attempted, on what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// The rows of one task, ordered by the bytes of their keys.
pub trait Store {
    /// The value of a key.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The first row whose key is at least `from` and less than `to`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn next(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreError>;

    /// The first rows whose keys are at least `from` and less than `to`, in order, `max` at most.
    ///
    /// # Errors
    /// The store cannot be read.
    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let mut rows: Vec<KeyValue> = Vec::new();
        let mut from = from.to_vec();
        while rows.len() < max
            && let Some(row) = self.next(&from, to)?
        {
            from = [&row.0, &[0][..]].concat();
            rows.push(row);
        }
        Ok(rows)
    }

    /// Writes all of the rows or none of them.
    ///
    /// # Errors
    /// Whether they were written cannot be told: the task must be opened again.
    fn write(&self, rows: Rows) -> Result<(), StoreError>;

    /// Removes every row.
    ///
    /// # Errors
    /// Whether they were removed cannot be told: the task must be opened again.
    fn clear(&self) -> Result<(), StoreError>;
}

/// Where the stores of a worker's tasks lie.
pub trait Stores {
    /// Opens the store of a stage's task. It has one holder: who held it before can no longer write
    /// (or this fails for as long as it is held).
    ///
    /// # Errors
    /// It cannot be opened, or is held by another process.
    fn open(&self, stage: &str, partition: i32) -> Result<Rc<dyn Store>, StoreError>;
}

/// A store below the tables of a fold. Reads cannot fail in a pure room: the first error is kept,
/// reads answer nothing from then on, and the driver, which asks after each record, throws away
/// what was folded since.
pub struct Below {
    store: Rc<dyn Store>,
    error: RefCell<Option<StoreError>>,
}

impl Below {
    /// Over this store.
    pub fn new(store: Rc<dyn Store>) -> Self {
        Below {
            store,
            error: RefCell::default(),
        }
    }

    /// The store itself.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether every read so far told the truth.
    ///
    /// # Errors
    /// The first read that failed.
    pub fn check(&self) -> Result<(), StoreError> {
        match &*self.error.borrow() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    fn ask<T: Default>(&self, read: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> T {
        if self.error.borrow().is_some() {
            return T::default();
        }
        read(&*self.store).unwrap_or_else(|error| {
            *self.error.borrow_mut() = Some(error);
            T::default()
        })
    }
}

impl Base for Below {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.ask(|store| store.get(key))
    }

    fn next(&self, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        self.ask(|store| store.next(from, to))
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.ask(|store| store.scan(from, to, max))
    }
}
