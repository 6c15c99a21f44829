//! The rows of the stages: in `state` under the stage's name, closed panes in `panes`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rocksdb::{ReadOptions, WriteBatch, WriteOptions};

use crate::runtime::{KeyValue, Rows, Store, StoreError, Stores};
use crate::stream::{Topic, WINDOWS};

use super::open::{PANES, STATE};
use super::{EmbeddedError, Inner};

/// The stores of one worker.
pub(super) struct EmbeddedStores {
    inner: Arc<Inner>,
    epoch: u64,
}

impl EmbeddedStores {
    pub fn new(inner: Arc<Inner>, epoch: u64) -> Self {
        EmbeddedStores { inner, epoch }
    }
}

impl Stores for EmbeddedStores {
    fn open(&self, stage: &str, _partition: i32) -> Result<Rc<dyn Store>, StoreError> {
        let store = EmbeddedStore {
            epoch: Some(self.epoch),
            ..EmbeddedStore::reading(self.inner.clone(), stage)
        };
        store.ensure_held()?;
        Ok(Rc::new(store))
    }
}

/// The rows of one stage.
pub(super) struct EmbeddedStore {
    inner: Arc<Inner>,
    stage: String,
    /// Of the worker that may write; `None`: to be read only.
    epoch: Option<u64>,
    prefix: Vec<u8>,
}

impl EmbeddedStore {
    /// The rows of a stage, to be read.
    pub fn reading(inner: Arc<Inner>, stage: &str) -> Self {
        EmbeddedStore {
            prefix: prefix(stage),
            stage: stage.to_owned(),
            epoch: None,
            inner,
        }
    }

    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    fn failed(&self, attempt: &str, error: &dyn std::fmt::Display) -> StoreError {
        StoreError(format!(
            "{attempt} the rows of {} in {}: {error}; restore the folder from a backup, or remove \
             the rows: they are rebuilt from the log",
            self.stage,
            self.inner.dir.display()
        ))
    }

    fn ensure_held(&self) -> Result<(), StoreError> {
        let current = self.inner.writing().epoch;
        if self.epoch == Some(current) {
            return Ok(());
        }
        Err(StoreError(format!(
            "writing the rows of {}: worker {current} holds them now",
            self.stage
        )))
    }
}

impl Store for EmbeddedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut options = ReadOptions::default();
        // Who asks keeps the row, and a fleet is larger than the cache: to put blocks into it and
        // to take others out cost more than it ever gave back.
        options.fill_cache(false);
        let family = self.inner.family(STATE);
        let row = self.inner.db.get_cf_opt(family, self.key(key), &options);
        row.map_err(|error| self.failed("reading", &error))
    }

    fn next(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.scan(from, to, 1)?.pop())
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(self.key(to));
        let family = self.inner.family(STATE);
        let mut rows = self.inner.db.raw_iterator_cf_opt(family, options);
        rows.seek(self.key(from));
        let mut found = Vec::new();
        while found.len() < max
            && let Some((key, value)) = rows.item()
        {
            found.push((key[self.prefix.len()..].to_vec(), value.to_vec()));
            if found.len() < max {
                rows.next();
            }
        }
        match rows.status() {
            Ok(()) => Ok(found),
            Err(error) => Err(self.failed("reading", &error)),
        }
    }

    fn write(&self, rows: Rows) -> Result<(), StoreError> {
        self.ensure_held()?;
        let (state, panes) = (self.inner.family(STATE), self.inner.family(PANES));
        let bytes = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len) + self.prefix.len() + ENTRY_BYTES
        };
        let mut batch = WriteBatch::with_capacity_bytes(rows.iter().map(bytes).sum());
        let mut own = self.prefix.clone();
        for (key, value) in rows {
            own.truncate(self.prefix.len());
            own.extend_from_slice(&key);
            match (key.strip_prefix(&[WINDOWS]), value) {
                (Some(window), Some(value)) => batch.put_cf(panes, window, value),
                (Some(window), None) => batch.delete_cf(panes, window),
                (None, Some(value)) => batch.put_cf(state, &own, value),
                (None, None) => batch.delete_cf(state, &own),
            }
        }
        // Where the stage's words ended when the rows stood so: written with them, for a copy.
        let end = self.inner.writing().tails[Topic::PlanInbox as usize].next;
        batch.put_cf(state, end_key(&self.stage), end.to_be_bytes());
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.inner
            .db
            .write_opt(batch, &options)
            .map_err(|error| StoreError(self.inner.fail(self.failed("writing", &error).0)))
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.ensure_held()?;
        let mut end = self.prefix.clone();
        *end.last_mut().expect("a prefix ends with a byte") += 1;
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.inner
            .db
            .delete_range_cf_opt(self.inner.family(STATE), &self.prefix, &end, &options)
            .map_err(|error| self.failed("clearing", &error))
    }
}

/// Closed panes by key.
pub(super) fn windows(
    inner: &Inner,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Vec<u8>>>, EmbeddedError> {
    let family = inner.family(PANES);
    let found = inner.db.batched_multi_get_cf(family, keys, false);
    found
        .into_iter()
        .map(|value| match value {
            Ok(value) => Ok(value.map(|value| value.to_vec())),
            Err(error) => Err(EmbeddedError::Failed(format!(
                "reading panes in {}: {error}",
                inner.dir.display()
            ))),
        })
        .collect()
}

/// What the keys of a stage's rows begin with.
pub(super) fn prefix(stage: &str) -> Vec<u8> {
    [stage.as_bytes(), &[0]].concat()
}

/// Where the end of `plan-inbox` is kept that belongs to a stage's rows.
pub(super) fn end_key(stage: &str) -> Vec<u8> {
    [b"\xFFend/", stage.as_bytes()].concat()
}

/// What a row costs in a batch beside its key and value.
const ENTRY_BYTES: usize = 16;

impl Inner {
    /// Whether the threads of the folder should end.
    pub(super) fn stops(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
