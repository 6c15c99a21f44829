//! Reading the log: its newest batches from memory, the rest from files.

use std::ops::Deref;
use std::sync::atomic::Ordering;

use rocksdb::{Direction, IteratorMode, ReadOptions};

use crate::model::Time;
use crate::runtime::{
    Chunk, KeyValue, LogError, Position, RowsCopy, Source, Title, TopicPartition,
};
use crate::stream::Topic;

use super::batch::{Batch, key_of};
use super::open::COPIES;
use super::{Inner, keeper};

/// Records from `from` to below `to`, at most about `records_max`.
pub(super) fn read(
    inner: &Inner,
    topic: Topic,
    from: i64,
    to: i64,
    records_max: usize,
) -> Result<Chunk, LogError> {
    let damaged = |error: String| {
        LogError::Failed(format!(
            "reading {} from offset {from} in {}: {error}; restore the folder from a backup",
            topic.name(),
            inner.dir.display()
        ))
    };
    let mut chunk = Chunk {
        records: Vec::with_capacity(records_max.min(PIECE)),
        next: from,
    };
    let recent = inner.writing().tails[topic as usize].since(from, records_max);
    if let Some(batches) = recent {
        for batch in batches {
            batch
                .collect(from, to, records_max, &mut chunk)
                .map_err(damaged)?;
            if chunk.records.len() >= records_max {
                break;
            }
        }
    } else {
        let mode = IteratorMode::From(&key_of(from), Direction::Forward);
        let mut options = ReadOptions::default();
        options.set_readahead_size(READAHEAD);
        let family = inner.family(topic.name());
        for row in inner.db.iterator_cf_opt(family, options, mode) {
            let (_, value) = row.map_err(|error| damaged(error.to_string()))?;
            let batch = Batch::parse(&value).map_err(damaged)?;
            if batch.first >= to {
                break;
            }
            batch
                .collect(from, to, records_max, &mut chunk)
                .map_err(damaged)?;
            if chunk.records.len() >= records_max || chunk.next >= to {
                break;
            }
        }
    }
    if chunk.records.is_empty() {
        // Nothing is kept of this range: it was trimmed meanwhile.
        chunk.next = to;
    }
    Ok(chunk)
}

/// Offset of the first record that is kept; the end of a topic that is empty.
pub(super) fn start(inner: &Inner, topic: Topic) -> Result<i64, LogError> {
    let failed = |error: String| {
        LogError::Failed(format!(
            "reading the start of {} in {}: {error}; restore the folder from a backup",
            topic.name(),
            inner.dir.display()
        ))
    };
    let first = inner
        .db
        .iterator_cf(inner.family(topic.name()), IteratorMode::Start)
        .next();
    match first {
        None => Ok(inner.writing().tails[topic as usize].next),
        Some(row) => {
            let (_, value) = row.map_err(|error| failed(error.to_string()))?;
            Ok(Batch::parse(&value).map_err(failed)?.first)
        }
    }
}

/// The position of an inbox of which nothing is folded.
const NOTHING_FOLDED: Position = Position {
    next: 0,
    time: Time(0),
    hears_since: Time(0),
};

/// A reader of what may be seen.
pub(super) struct EmbeddedSource<I> {
    inner: I,
}

impl<I: Deref<Target = Inner>> EmbeddedSource<I> {
    pub fn new(inner: I) -> Self {
        EmbeddedSource { inner }
    }
}

impl<I: Deref<Target = Inner>> Source for EmbeddedSource<I> {
    fn title(&mut self) -> Result<Title, LogError> {
        self.inner.title().ok_or_else(|| {
            LogError::Failed(format!(
                "reading the log in {}: it was not opened yet; `homeostat run` opens it",
                self.inner.dir.display()
            ))
        })
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        start(&self.inner, of.topic)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        Ok(self.inner.visible[of.topic as usize].load(Ordering::Acquire))
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        let folded = self.inner.folded.lock().expect("no holder panics");
        Ok(Some(folded[inbox.topic as usize].unwrap_or(NOTHING_FOLDED)))
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        let visible = self.inner.visible[of.topic as usize].load(Ordering::Acquire);
        read(&self.inner, of.topic, from, to.min(visible), records_max)
    }

    fn copies(&mut self, stage: &str) -> Result<Vec<RowsCopy>, LogError> {
        keeper::copies(&self.inner, stage).map_err(LogError::Failed)
    }

    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        after: &[u8],
        rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError> {
        let prefix = copy.id.to_be_bytes();
        let from = [&prefix[..], after].concat();
        let mode = IteratorMode::From(&from, Direction::Forward);
        let mut rows = Vec::new();
        for row in self.inner.db.iterator_cf(self.inner.family(COPIES), mode) {
            let (key, value) = row.map_err(|error| {
                LogError::Failed(format!("reading the copy {}: {error}", copy.id))
            })?;
            let Some(own) = key.strip_prefix(&prefix) else {
                break;
            };
            if own == after && !after.is_empty() {
                continue;
            }
            rows.push((own.to_vec(), value.into_vec()));
            if rows.len() >= rows_max {
                break;
            }
        }
        Ok(rows)
    }
}

/// Bytes read ahead of a walk through files.
const READAHEAD: usize = 1 << 20;

/// Records that room is made for at once.
const PIECE: usize = 512;
