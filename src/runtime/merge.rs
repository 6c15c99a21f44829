//! Several partitions of a topic read as one: in order of append time, of equal times in order of
//! the partitions, piece by piece.
//!
//! What comes later than it bears (another broker's clock, a transaction that was open for long) is
//! answered when it comes: nothing is left out, and within a partition the order is the log's.

use std::collections::VecDeque;

use super::{LogError, Record, Source, TopicPartition};

/// A way through partitions, each from an offset of its own.
#[derive(Clone, Debug)]
pub struct Merged(Vec<Lane>);

/// A partition.
#[derive(Clone, Debug)]
struct Lane {
    of: TopicPartition,
    /// What was answered stands before this.
    next: i64,
    /// What was read stands before this.
    read: i64,
    /// To here it is read.
    to: i64,
    ahead: VecDeque<Record>,
}

impl Merged {
    /// From these offsets on; [`Merged::go_on`] says how far.
    pub fn new(from: impl IntoIterator<Item = (TopicPartition, i64)>) -> Self {
        let lane = |(of, next)| Lane {
            of,
            next,
            read: next,
            to: next,
            ahead: VecDeque::new(),
        };
        Merged(from.into_iter().map(lane).collect())
    }

    /// The partitions.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.0.iter().map(|lane| lane.of).collect()
    }

    /// Of each partition where its next record may stand: whoever begins there goes on from here.
    pub fn places(&self) -> Vec<i64> {
        self.0.iter().map(|lane| lane.next).collect()
    }

    /// May be read to these ends from now on, one for each partition.
    pub fn go_on(&mut self, ends: &[i64]) {
        for (lane, end) in self.0.iter_mut().zip(ends) {
            lane.to = lane.to.max(*end);
        }
    }

    /// Whether all is answered that may be read.
    pub fn is_done(&self) -> bool {
        self.0.iter().all(|lane| lane.next >= lane.to)
    }

    /// The next record; `None` when all is answered that may be read. Reads about `records_max` at
    /// once, of all partitions together.
    ///
    /// # Errors
    /// The source's.
    pub fn next(
        &mut self,
        source: &mut dyn Source,
        records_max: usize,
    ) -> Result<Option<(TopicPartition, Record)>, LogError> {
        let piece = (records_max / self.0.len().max(1)).max(PIECE_MIN);
        for lane in &mut self.0 {
            lane.fill(source, piece.min(records_max))?;
        }
        let waiting = self.0.iter_mut().filter(|lane| !lane.ahead.is_empty());
        let first = waiting.min_by_key(|lane| (lane.ahead[0].time, lane.of));
        Ok(first.and_then(Lane::pop))
    }
}

impl Lane {
    fn fill(&mut self, source: &mut dyn Source, records_max: usize) -> Result<(), LogError> {
        while self.ahead.is_empty() && self.read < self.to {
            let chunk = source.read(self.of, self.read, self.to, records_max)?;
            self.ahead.extend(chunk.records);
            self.read = chunk.next;
            if self.ahead.is_empty() {
                self.next = self.read;
            }
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<(TopicPartition, Record)> {
        let record = self.ahead.pop_front()?;
        self.next = match self.ahead.is_empty() {
            true => self.read,
            false => record.offset + 1,
        };
        Some((self.of, record))
    }
}

/// Records of a partition that are read at once however many partitions there are.
const PIECE_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;
    use crate::runtime::{InMemory, Recorded, TimeSource, Title, partitions_of};
    use crate::stream::Topic;

    /// A log whose partitions hold records of these times, at every second offset.
    fn source(partitions: &[&[i64]]) -> InMemory {
        let title = Title {
            log_id: "l".into(),
            prefix: String::new(),
            time_source: TimeSource::Log,
            partitions: partitions.len() as i32,
        };
        let mut recorded = Recorded::new();
        let all = partitions_of(Topic::Events, partitions.len() as i32);
        for (of, times) in all.zip(partitions) {
            let record = |(place, time): (i64, &i64)| Record {
                offset: 2 * place,
                time: Time(*time),
                key: Vec::new(),
                value: Vec::new(),
                headers: Vec::new(),
            };
            recorded.insert(of, (0..).zip(*times).map(record).collect());
        }
        InMemory::new(title, recorded)
    }

    fn read(merged: &mut Merged, source: &mut InMemory, most: usize) -> Vec<(i32, i64)> {
        let mut found = Vec::new();
        while found.len() < most
            && let Some((of, record)) = merged.next(source, 4).unwrap()
        {
            found.push((of.partition, record.time.0));
        }
        found
    }

    fn check(partitions: &[&[i64]], expected: &[(i32, i64)]) {
        let mut source = source(partitions);
        let all: Vec<_> = partitions_of(Topic::Events, partitions.len() as i32).collect();
        let ends = source.ends(&all).unwrap();
        let begun = |places: &[i64]| {
            let mut merged = Merged::new(all.iter().copied().zip(places.iter().copied()));
            merged.go_on(&ends);
            merged
        };
        let start = vec![0; all.len()];
        let whole = read(&mut begun(&start), &mut source, usize::MAX);
        assert_eq!(whole, expected, "{partitions:?}");
        // Wherever it is broken off, its places are where to go on.
        for cut in 0..=expected.len() {
            let mut merged = begun(&start);
            let mut found = read(&mut merged, &mut source, cut);
            let mut rest = begun(&merged.places());
            found.extend(read(&mut rest, &mut source, usize::MAX));
            assert_eq!(found, expected, "{partitions:?} broken off after {cut}");
            assert!(rest.is_done() && rest.places() == ends);
        }
    }

    #[test]
    fn records_come_in_order_of_time_then_partition_and_none_twice() {
        check(&[&[]], &[]);
        check(&[&[1, 1, 2]], &[(0, 1), (0, 1), (0, 2)]);
        check(
            &[&[1, 5, 5], &[], &[2, 5]],
            &[(0, 1), (2, 2), (0, 5), (0, 5), (2, 5)],
        );
        let (odd, even): (Vec<i64>, Vec<i64>) = (0..100).partition(|time| time % 2 == 1);
        let expected: Vec<(i32, i64)> = (0..100).map(|time| ((time % 2) as i32, time)).collect();
        check(&[&even, &odd], &expected);
    }

    #[test]
    fn what_is_late_comes_late_and_is_not_left_out() {
        let mut source = source(&[&[5, 7], &[1, 6]]);
        let all = partitions_of(Topic::Events, 2);
        let mut merged = Merged::new(all.map(|of| (of, 0)));
        assert!(merged.next(&mut source, 4).unwrap().is_none());
        merged.go_on(&[4, 0]);
        assert_eq!(read(&mut merged, &mut source, 9), [(0, 5), (0, 7)]);
        merged.go_on(&[4, 4]);
        assert_eq!(read(&mut merged, &mut source, 9), [(1, 1), (1, 6)]);
        assert!(merged.is_done());
    }
}
