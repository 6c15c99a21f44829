//! A log in memory, to be read: what an export holds, what a test made.

use std::collections::BTreeMap;

use crate::stream::Topic;

use super::{Chunk, KeyValue, LogError, Position, Record, RowsCopy, Source, Title, TopicPartition};

/// What a log or an export holds.
pub type Recorded = BTreeMap<TopicPartition, Vec<Record>>;

/// A log in memory.
#[derive(Clone, Debug)]
pub struct InMemory {
    title: Title,
    records: Recorded,
    starts: BTreeMap<TopicPartition, i64>,
    positions: BTreeMap<TopicPartition, Position>,
    copies: Vec<(RowsCopy, BTreeMap<Vec<u8>, Vec<u8>>)>,
}

impl InMemory {
    /// A log of these records, folded to its end.
    pub fn new(title: Title, records: Recorded) -> Self {
        InMemory {
            title,
            records,
            starts: BTreeMap::new(),
            positions: BTreeMap::new(),
            copies: Vec::new(),
        }
    }

    /// The same, folded up to here only.
    #[must_use]
    pub fn with_position(mut self, inbox: TopicPartition, position: Position) -> Self {
        self.positions.insert(inbox, position);
        self
    }

    /// The same without what stands before `start`: retention took it.
    #[must_use]
    pub fn trimmed(mut self, of: TopicPartition, start: i64) -> Self {
        let records = self.records.entry(of).or_default();
        records.retain(|record| record.offset >= start);
        self.starts.insert(of, start);
        self
    }

    /// The same with a copy of a stage's rows.
    #[must_use]
    pub fn with_copy(mut self, copy: RowsCopy, rows: BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        self.copies.push((copy, rows));
        self.copies.sort_by_key(|(copy, _)| copy.id);
        self
    }

    /// Its records.
    pub fn records(&self) -> &Recorded {
        &self.records
    }

    fn of(&self, of: TopicPartition) -> &[Record] {
        self.records.get(&of).map_or(&[], Vec::as_slice)
    }
}

impl Source for InMemory {
    fn title(&mut self) -> Result<Title, LogError> {
        Ok(self.title.clone())
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        // What was trimmed is told; else a log begins at 0, whatever its first record's offset.
        Ok(self.starts.get(&of).copied().unwrap_or(0))
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        let start = self.start(of)?;
        Ok(self.of(of).last().map_or(start, |last| last.offset + 1))
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        Ok(self.positions.get(&inbox).copied())
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        let records = self.of(of);
        let begin = records.partition_point(|record| record.offset < from);
        let records: Vec<Record> = records[begin..]
            .iter()
            .take_while(|record| record.offset < to)
            .take(records_max.max(1))
            .cloned()
            .collect();
        let full = records.len() >= records_max.max(1);
        let next = match records.last() {
            Some(last) if full => last.offset + 1,
            _ => to,
        };
        Ok(Chunk { records, next })
    }

    fn copies(&mut self, stage: &str) -> Result<Vec<RowsCopy>, LogError> {
        let copies = self.copies.iter().map(|(copy, _)| copy.clone());
        Ok(copies.filter(|copy| copy.stage == stage).collect())
    }

    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        after: &[u8],
        rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError> {
        let found = self.copies.iter().find(|(kept, _)| kept == copy);
        let (_, rows) = found.ok_or_else(|| {
            let detail = format!("reading copy {} of {}: it is not kept", copy.id, copy.stage);
            LogError::Failed(detail)
        })?;
        let above = (
            std::ops::Bound::Excluded(after.to_vec()),
            std::ops::Bound::Unbounded,
        );
        let rows = rows.range::<Vec<u8>, _>(above).take(rows_max);
        Ok(rows
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

/// Every partition of a topic in a log with so many.
pub fn partitions_of(topic: Topic, partitions: i32) -> impl Iterator<Item = TopicPartition> {
    (0..partitions).map(move |partition| TopicPartition { topic, partition })
}
