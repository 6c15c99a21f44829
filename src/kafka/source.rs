//! The log on the brokers, to be read by who takes no part in it.
//!
//! # The order of positions
//! The coordinator of a transaction tells its end to each partition by itself, and the group's
//! offsets are one of them: a position may be answered before what was written with it may be seen.
//! So a position is answered in this order:
//! 1. the committed offset; one that a transaction holds which is not decided yet is waited for, so
//!    that who has seen what a commit wrote is answered that commit;
//! 2. the ends of all partitions, open transactions included: what that commit wrote stands before
//!    them;
//! 3. once all before these ends is decided, the position.

use std::time::{Duration, Instant};

use crate::model::Time;
use crate::runtime::{
    Chunk, KeyValue, LogError, Position, RowsCopy, Source, TimeSource, Title, TopicPartition,
    halve, partitions_of,
};
use crate::stream::Topic;

use super::client::{Client, KafkaError};
use super::opening::title;
use super::reader::Reader;

/// Reads the log on the brokers. It has connections of its own; its calls block.
pub struct KafkaSource {
    client: Client,
    reader: Reader,
    title: Option<Title>,
}

impl KafkaSource {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// The client cannot be made of its settings.
    pub fn new(client: &Client) -> Result<Self, KafkaError> {
        Ok(KafkaSource {
            client: client.clone(),
            reader: Reader::new(client)?,
            title: None,
        })
    }

    /// The same, when what the log is called is known.
    pub(super) fn titled(client: &Client, title: &Title) -> Result<Self, KafkaError> {
        Ok(KafkaSource {
            title: Some(title.clone()),
            ..KafkaSource::new(client)?
        })
    }

    /// Fetches nothing more until it is asked again.
    pub(super) fn rest(&mut self) {
        self.reader.rest();
    }

    /// Waits until all that stands in the log by now is decided.
    fn settle(&mut self) -> Result<(), LogError> {
        let partitions = self.title()?.partitions;
        let all: Vec<TopicPartition> = Topic::ALL
            .into_iter()
            .flat_map(|topic| partitions_of(topic, partitions))
            .collect();
        let ends = self.reader.high_watermarks(&all).map_err(failed)?;
        let until = Instant::now() + self.client.patience();
        loop {
            let stable = self.reader.stable_ends(&all).map_err(failed)?;
            let open = ends.iter().zip(&stable).position(|(end, seen)| seen < end);
            let Some(open) = open else { return Ok(()) };
            if Instant::now() >= until {
                return Err(LogError::Undecided(all[open]));
            }
            std::thread::park_timeout(PAUSE);
        }
    }
}

impl Source for KafkaSource {
    fn title(&mut self) -> Result<Title, LogError> {
        if let Some(title) = &self.title {
            return Ok(title.clone());
        }
        let title = title(&self.client).map_err(failed)?.ok_or_else(|| {
            LogError::Failed(format!(
                "reading the log at {}: it was not opened yet; `homeostat topics create` opens it",
                self.client.brokers()
            ))
        })?;
        self.title = Some(title.clone());
        Ok(title)
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.reader.start(of).map_err(failed)
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        self.reader.stable_end(of).map_err(failed)
    }

    fn ends(&mut self, of: &[TopicPartition]) -> Result<Vec<i64>, LogError> {
        self.reader.stable_ends(of).map_err(failed)
    }

    fn offset_at(&mut self, of: TopicPartition, time: Time) -> Result<i64, LogError> {
        // Brokers look at the markers of transactions too, which bear the brokers' own time.
        if self.title()?.time_source == TimeSource::Sample {
            return halve(self, of, time);
        }
        match self.reader.offset_at(of, time).map_err(failed)? {
            Some(offset) => Ok(offset),
            None => self.end(of),
        }
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        let position = self.reader.positions(&[inbox])?[0];
        self.settle()?;
        Ok(Some(position.unwrap_or(NOTHING_FOLDED)))
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        let read = self.reader.read(of, from, to, records_max.max(1));
        read.map_err(failed)
    }

    /// None: snapshots lie in their own place.
    fn copies(&mut self, _stage: &str) -> Result<Vec<RowsCopy>, LogError> {
        Ok(Vec::new())
    }

    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        _after: &[u8],
        _rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError> {
        let (id, stage) = (copy.id, &copy.stage);
        Err(LogError::Failed(format!(
            "reading copy {id} of {stage}: the brokers keep none"
        )))
    }
}

fn failed(error: KafkaError) -> LogError {
    LogError::Failed(error.0)
}

/// The position of an inbox of which nothing is folded.
const NOTHING_FOLDED: Position = Position {
    next: 0,
    time: Time(0),
    hears_since: Time(0),
};

/// Between two looks whether all is decided.
const PAUSE: Duration = Duration::from_millis(5);
