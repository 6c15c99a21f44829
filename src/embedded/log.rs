//! The worker's side of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rocksdb::WriteBatch;

use crate::model::Span;
use crate::runtime::{
    Chunk, CommitError, Log, LogError, Outgoing, Polled, Position, TimeSource, TopicPartition, only,
};
use crate::stream::Topic;

use super::batch::{Batch, Draft, Entry};
use super::{Inner, TOPICS, WAKE, Writing, position_key, reading};

/// The log of one worker.
pub(super) struct EmbeddedLog {
    inner: Arc<Inner>,
    epoch: u64,
    /// What it consumes, downstream first: a decision never waits behind a flood of samples.
    inboxes: Vec<Topic>,
    assigned: bool,
    /// Where to go on, once asked for.
    next: [Option<i64>; TOPICS],
}

impl EmbeddedLog {
    pub fn new(inner: Arc<Inner>, epoch: u64, inboxes: &[Topic]) -> Self {
        let mut inboxes = inboxes.to_vec();
        inboxes.sort_by(|a, b| b.cmp(a));
        EmbeddedLog {
            inner,
            epoch,
            inboxes,
            assigned: false,
            next: [None; TOPICS],
        }
    }

    fn fenced(&self) -> String {
        format!("worker {} of {}", self.epoch, self.inner.dir.display())
    }

    /// Waits until an inbox has more than was read of it, at most `wait`.
    fn wait(&self, wait: Span) {
        let until = Instant::now() + Duration::from_millis(wait.0.max(0) as u64);
        let mut writing = self.inner.writing();
        let more = |writing: &Writing| {
            self.inboxes.iter().any(|&topic| {
                let next = self.next[topic as usize];
                next.is_some_and(|next| next < writing.tails[topic as usize].next)
            })
        };
        while !more(&writing)
            && !self.inner.stopping.load(Ordering::Relaxed)
            && self.inner.failure().is_none()
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.inner.wrote.wait_timeout(writing, left.min(WAKE));
            writing = waited
                .expect("a panic inside of a write leaves nothing to go on with")
                .0;
        }
    }

    /// One batch a topic, written where the outputs want to go.
    fn drafts(&self, outputs: &[Outgoing], writing: Option<&Writing>) -> Vec<(Topic, Draft)> {
        let mut by_topic: BTreeMap<Topic, Vec<&Outgoing>> = BTreeMap::new();
        for output in outputs {
            by_topic.entry(output.to.topic).or_default().push(output);
        }
        by_topic
            .into_iter()
            .map(|(topic, outputs)| {
                let entries = outputs.into_iter().map(|output| Entry {
                    time: output.time,
                    key: &output.key,
                    value: &output.value,
                    headers: &output.headers,
                });
                let after = writing.map(|writing| writing.tails[topic as usize].last_time);
                (topic, Draft::new(entries, after))
            })
            .collect()
    }

    /// Writes unless a newer worker has taken over.
    fn write(
        &self,
        outputs: &[Outgoing],
        positions: &[(TopicPartition, Position)],
    ) -> Result<(i64, Vec<(TopicPartition, i64)>), CommitError> {
        let mut batch = WriteBatch::default();
        for (inbox, position) in positions {
            let bytes = postcard::to_allocvec(position).expect("a position is plain data");
            batch.put(position_key(inbox.topic), bytes);
        }
        let early = (self.inner.source == TimeSource::Log).then(|| self.drafts(outputs, None));
        let mut writing = self.inner.writing();
        if writing.epoch != self.epoch {
            return Err(CommitError::Fatal(format!(
                "{} was replaced by {}",
                self.fenced(),
                writing.epoch
            )));
        }
        let drafts = early.unwrap_or_else(|| self.drafts(outputs, Some(&writing)));
        let topics: Vec<Topic> = drafts.iter().map(|(topic, _)| *topic).collect();
        let receipt = self
            .inner
            .write(&mut writing, batch, drafts, positions)
            .map_err(CommitError::Unknown)?;
        let ends = topics
            .into_iter()
            .map(|topic| (only(topic), writing.tails[topic as usize].next))
            .collect();
        Ok((receipt.first, ends))
    }
}

impl Log for EmbeddedLog {
    fn partitions(&mut self, _topic: Topic) -> Result<i32, LogError> {
        Ok(1)
    }

    fn poll(
        &mut self,
        records_max: usize,
        wait: Span,
        _revoked: &mut dyn FnMut(TopicPartition),
    ) -> Result<Polled, LogError> {
        let mut polled = Polled::default();
        if !self.assigned {
            self.assigned = true;
            polled.assigned = self.inboxes.iter().map(|topic| only(*topic)).collect();
            return Ok(polled);
        }
        self.wait(wait);
        if let Some(failure) = self.inner.failure() {
            return Err(LogError::Failed(failure));
        }
        for &topic in &self.inboxes {
            let Some(next) = self.next[topic as usize] else {
                continue;
            };
            let room = records_max.saturating_sub(polled.records.len());
            if room == 0 {
                break;
            }
            let end = self.inner.writing().tails[topic as usize].next;
            if next >= end {
                continue;
            }
            let chunk = reading::read(&self.inner, topic, next, end, room)?;
            self.next[topic as usize] = Some(chunk.next);
            let records = chunk.records.into_iter();
            polled
                .records
                .extend(records.map(|record| (only(topic), record)));
        }
        Ok(polled)
    }

    fn go_on(&mut self, inbox: TopicPartition, from: i64) -> Result<(), LogError> {
        if !self.assigned || !self.inboxes.contains(&inbox.topic) {
            return Err(LogError::Failed(format!(
                "going on with {inbox} from {from}: it is not assigned to {}",
                self.fenced()
            )));
        }
        self.next[inbox.topic as usize] = Some(from);
        Ok(())
    }

    fn commit(
        &mut self,
        outputs: Vec<Outgoing>,
        positions: &[(TopicPartition, Position)],
    ) -> Result<Vec<(TopicPartition, i64)>, CommitError> {
        self.write(&outputs, positions).map(|(_, ends)| ends)
    }

    fn reconnect(&mut self) -> Result<(), LogError> {
        if self.inner.writing().epoch != self.epoch {
            return Err(LogError::Fenced(self.fenced()));
        }
        match self.inner.failure() {
            Some(failure) => Err(LogError::Failed(failure)),
            None => Ok(()),
        }
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        Ok(self.inner.writing().positions[inbox.topic as usize])
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        reading::read(&self.inner, of.topic, from, to, records_max)
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        reading::start(&self.inner, of.topic)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        Ok(self.inner.writing().tails[of.topic as usize].next)
    }

    fn append(&mut self, record: Outgoing) -> Result<i64, LogError> {
        self.write(&[record], &[])
            .map(|(first, _)| first)
            .map_err(|error| LogError::Failed(error.to_string()))
    }
}

impl Batch {
    /// Its records into a chunk, from and to these offsets, at most about so many.
    pub(super) fn collect(
        &self,
        from: i64,
        to: i64,
        records_max: usize,
        chunk: &mut Chunk,
    ) -> Result<(), String> {
        self.records(from, to, &mut |record| {
            chunk.next = record.offset + 1;
            chunk.records.push(record);
            chunk.records.len() < records_max
        })
    }
}
