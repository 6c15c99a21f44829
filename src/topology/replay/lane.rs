//! What is decided now and what was recorded, side by side and piece by piece.
//!
//! A [`Lane`] reads what was recorded just as far as what was decided asks for. What has no
//! counterpart yet waits; in a log that is as it was decided hardly anything does, and in any other
//! no more than [`WAITING_MAX`]: beyond that it differs.

use std::collections::{BTreeMap, VecDeque};

use crate::runtime::{LogError, Record, Source, TopicPartition};

use super::Report;

/// Reads a partition record by record.
pub(in crate::topology) struct Reader {
    of: TopicPartition,
    next: i64,
    end: i64,
    read: VecDeque<Record>,
}

impl Reader {
    /// From an offset to below another.
    pub(in crate::topology) fn new(of: TopicPartition, from: i64, end: i64) -> Self {
        Reader {
            of,
            next: from,
            end,
            read: VecDeque::new(),
        }
    }

    /// The next record without taking it.
    ///
    /// # Errors
    /// The source cannot be read, or retention took what was to be read.
    pub(in crate::topology) fn peek(
        &mut self,
        source: &mut dyn Source,
    ) -> Result<Option<&Record>, LogError> {
        while self.read.is_empty() && self.next < self.end {
            let from = self.next;
            let chunk = source.read(self.of, from, self.end, CHUNK_RECORDS)?;
            let start = source.start(self.of)?;
            if start > from {
                return Err(LogError::Failed(format!(
                    "reading {} from offset {from}: retention took everything before {start} \
                     meanwhile; run this again",
                    self.of
                )));
            }
            self.next = chunk.next;
            self.read = chunk.records.into();
        }
        Ok(self.read.front())
    }

    /// The next record.
    ///
    /// # Errors
    /// As [`Reader::peek`].
    pub(in crate::topology) fn next(
        &mut self,
        source: &mut dyn Source,
    ) -> Result<Option<Record>, LogError> {
        self.peek(source)?;
        Ok(self.read.pop_front())
    }

    /// Goes on to where the source ends by now.
    fn extend(&mut self, source: &mut dyn Source) -> Result<(), LogError> {
        self.end = self.end.max(source.end(self.of)?);
        Ok(())
    }
}

/// Under what a decision is compared: a mesh's name and, for a directive, its generation.
pub(super) type Name = (Vec<u8>, i64);

/// What waits for its counterpart: the offset that it stands at, or was decided from, and bytes.
#[derive(Default)]
struct Waiting {
    by_name: BTreeMap<Name, VecDeque<(i64, Vec<u8>)>>,
    count: usize,
}

impl Waiting {
    fn push(&mut self, name: Name, offset: i64, bytes: Vec<u8>) {
        self.by_name
            .entry(name)
            .or_default()
            .push_back((offset, bytes));
        self.count += 1;
    }

    fn pop(&mut self, name: &Name) -> Option<(i64, Vec<u8>)> {
        let queue = self.by_name.get_mut(name)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.by_name.remove(name);
        }
        self.count -= usize::from(first.is_some());
        first
    }

    fn drain(&mut self) -> impl Iterator<Item = (Name, i64, Vec<u8>)> + use<> {
        self.count = 0;
        let all = std::mem::take(&mut self.by_name).into_iter();
        all.flat_map(|(name, queue)| {
            queue
                .into_iter()
                .map(move |(offset, bytes)| (name.clone(), offset, bytes))
        })
    }
}

/// Which of the records read is compared, and under what name; may count what is not judged.
pub(super) type Which<'a> = Box<dyn Fn(&Record, &mut Report) -> Option<Name> + 'a>;

/// One kind of decision of one inbox partition.
pub(super) struct Lane<'a> {
    /// The inbox, as a place is called.
    inbox: String,
    /// The recorded topic, as a place is called.
    topic: String,
    readers: Vec<Reader>,
    /// Per reader: what stands before this must have been decided; what stands behind may come
    /// from records that are not folded here.
    must: Vec<i64>,
    which: Which<'a>,
    decided: Waiting,
    recorded: Waiting,
    chunk: usize,
    waiting_max: usize,
}

impl<'a> Lane<'a> {
    /// A lane of what the readers bring; the names of inbox and topic are for people.
    pub(super) fn new(
        inbox: String,
        topic: String,
        readers: Vec<Reader>,
        which: Which<'a>,
    ) -> Self {
        let must = readers.iter().map(|reader| reader.end).collect();
        Lane {
            inbox,
            topic,
            readers,
            must,
            which,
            decided: Waiting::default(),
            recorded: Waiting::default(),
            chunk: CHUNK_RECORDS,
            waiting_max: WAITING_MAX,
        }
    }

    /// The name in a lane where everything is compared in one row.
    pub(super) fn any() -> Name {
        (Vec::new(), ALL)
    }

    /// The reader of a lane that has one only.
    pub(super) fn only_reader(&mut self) -> &mut Reader {
        &mut self.readers[0]
    }

    /// Whether something recorded of this name waits.
    pub(super) fn awaits(&self, name: &Name) -> bool {
        self.recorded.by_name.contains_key(name)
    }

    /// Takes what was decided from the inbox record at `cause`.
    pub(super) fn decided(&mut self, name: Name, cause: i64, bytes: Vec<u8>, report: &mut Report) {
        match self.recorded.pop(&name) {
            Some((offset, recorded)) => {
                let place = || self.place(&name, offset);
                report.judge(place, Some(&recorded), Some(&bytes));
            }
            None => self.decided.push(name, cause, bytes),
        }
        if self.decided.count > self.waiting_max {
            self.give_up_decided(report);
        }
    }

    /// Reads what was recorded as far as it is asked for.
    ///
    /// # Errors
    /// The source cannot be read.
    pub(super) fn catch_up(
        &mut self,
        source: &mut dyn Source,
        report: &mut Report,
    ) -> Result<(), LogError> {
        while self.decided.count > 0 && self.recorded.count < self.chunk {
            let mut some = false;
            for i in 0..self.readers.len() {
                some |= self.read_piece(i, i64::MAX, source, report)?;
            }
            if !some {
                break;
            }
        }
        Ok(())
    }

    /// Everything was decided: what still has no counterpart differs.
    ///
    /// # Errors
    /// The source cannot be read.
    pub(super) fn finish(
        mut self,
        source: &mut dyn Source,
        report: &mut Report,
    ) -> Result<(), LogError> {
        for i in 0..self.readers.len() {
            while self.read_piece(i, self.must[i], source, report)? {}
            // What was decided last may have been seen by nobody when the ends were taken.
            self.readers[i].extend(source)?;
        }
        self.catch_up(source, report)?;
        self.give_up_decided(report);
        self.give_up_recorded(report);
        Ok(())
    }

    /// Reads a piece of a reader's records before an offset; `false`: there are none.
    fn read_piece(
        &mut self,
        reader: usize,
        before: i64,
        source: &mut dyn Source,
        report: &mut Report,
    ) -> Result<bool, LogError> {
        let must = self.must[reader];
        let mut some = false;
        for _ in 0..self.chunk {
            let reader = &mut self.readers[reader];
            if reader
                .peek(source)?
                .is_none_or(|record| record.offset >= before)
            {
                break;
            }
            let Some(record) = reader.next(source)? else {
                break;
            };
            some = true;
            if let Some(name) = (self.which)(&record, report) {
                let optional = record.offset >= must;
                self.recorded(name, record, optional, report);
            }
        }
        Ok(some)
    }

    fn recorded(&mut self, name: Name, record: Record, optional: bool, report: &mut Report) {
        let offset = record.offset;
        match self.decided.pop(&name) {
            Some((_, decided)) => {
                let place = || self.place(&name, offset);
                report.judge(place, Some(&record.value), Some(&decided));
            }
            None if optional => {}
            None => self.recorded.push(name, offset, record.value),
        }
        if self.recorded.count > self.waiting_max {
            self.give_up_recorded(report);
        }
    }

    fn give_up_decided(&mut self, report: &mut Report) {
        for (name, cause, bytes) in self.decided.drain() {
            let place = || format!("{}decided from {} offset {cause}", named(&name), self.inbox);
            report.judge(place, None, Some(&bytes));
        }
    }

    fn give_up_recorded(&mut self, report: &mut Report) {
        for (name, offset, bytes) in self.recorded.drain() {
            let place = || self.place(&name, offset);
            report.judge(place, Some(&bytes), None);
        }
    }

    fn place(&self, name: &Name, offset: i64) -> String {
        format!("{}{} offset {offset}", named(name), self.topic)
    }
}

fn named((mesh, generation): &Name) -> String {
    let mesh = String::from_utf8_lossy(mesh);
    match generation {
        &ALL => String::new(),
        0 => format!("mesh {mesh:?}: "),
        generation => format!("mesh {mesh:?}, generation {generation}: "),
    }
}

/// In the place of a generation where names do not count.
const ALL: i64 = -1;

/// Records read at a time.
const CHUNK_RECORDS: usize = 4096;

/// Decisions without a counterpart that are remembered, of each side.
const WAITING_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;
    use crate::runtime::{InMemory, Recorded, TimeSource, Title, only};
    use crate::stream::Topic;

    const OF: TopicPartition = only(Topic::PlanInbox);

    /// A log with these words, each of the mesh of its first letter.
    fn log(words: &[&str]) -> InMemory {
        let title = Title {
            log_id: "l".into(),
            prefix: String::new(),
            time_source: TimeSource::Log,
            partitions: 1,
        };
        let record = |(offset, word): (i64, &&str)| Record {
            offset,
            time: Time(0),
            key: word.as_bytes()[..1].to_vec(),
            value: word.as_bytes().to_vec(),
            headers: Vec::new(),
        };
        let records = (0..).zip(words).map(record).collect();
        InMemory::new(title, Recorded::from([(OF, records)]))
    }

    fn lane(end: i64) -> Lane<'static> {
        let which = |record: &Record, _: &mut Report| Some((record.key.clone(), 0));
        let mut lane = Lane::new(
            "metrics/0".to_owned(),
            "plan-inbox".to_owned(),
            vec![Reader::new(OF, 0, end)],
            Box::new(which),
        );
        lane.chunk = 2;
        lane.waiting_max = 4;
        lane
    }

    fn name(word: &str) -> Name {
        (word.as_bytes()[..1].to_vec(), 0)
    }

    /// Compares what is decided, in this order, with what was recorded.
    fn check(recorded: &[&str], decided: &[&str], decisions: u64, differences: u64) -> Report {
        let mut log = log(recorded);
        let mut lane = lane(recorded.len() as i64);
        let mut report = Report::default();
        for (cause, word) in (0..).zip(decided) {
            lane.decided(name(word), cause, word.as_bytes().to_vec(), &mut report);
            lane.catch_up(&mut log, &mut report).unwrap();
            assert!(lane.recorded.count <= lane.chunk + lane.waiting_max);
            assert!(lane.decided.count <= lane.waiting_max);
        }
        lane.finish(&mut log, &mut report).unwrap();
        let got = (report.decisions, report.differences);
        assert_eq!(got, (decisions, differences), "{recorded:?} {decided:?}");
        report
    }

    #[test]
    fn what_was_said_in_each_mesh_in_order_is_as_it_was() {
        check(&[], &[], 0, 0);
        check(&["a1", "b1", "a2"], &["a1", "b1", "a2"], 3, 0);
        check(&["b1", "a1", "c1", "a2"], &["a1", "a2", "c1", "b1"], 4, 0);
    }

    #[test]
    fn what_is_changed_missing_or_invented_differs_and_is_named() {
        let report = check(&["a1", "aX", "b1"], &["a1", "a2", "b1"], 3, 1);
        let first = report.first_difference.unwrap();
        assert_eq!(first.place, "mesh \"a\": plan-inbox offset 1");
        assert_eq!(
            (first.recorded.as_str(), first.decided.as_str()),
            ("aX", "a2")
        );
        let report = check(&["a1"], &["a1", "b1"], 1, 1);
        let first = report.first_difference.unwrap();
        assert_eq!(first.place, "mesh \"b\": decided from metrics/0 offset 1");
        check(&["a1", "b1"], &["a1"], 2, 1);
    }

    #[test]
    fn what_never_finds_its_counterpart_is_given_up_and_memory_stays_bounded() {
        let many: Vec<String> = (0..100)
            .map(|i| format!("{}x", char::from(33 + i)))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&[], &many, 0, 100);
        check(&many, &[], 100, 100);
        check(&["~"; 50], &many[..50], 50, 100);
    }

    #[test]
    fn what_stands_behind_the_end_taken_may_be_new_but_what_is_decided_must_stand_there() {
        for (decided, differences) in [
            (&["a1", "a2"][..], 0),
            (&["a1", "a2", "a3"], 0),
            (&["a1", "a2", "a3", "a4"], 1),
            (&["a1"], 1),
        ] {
            let mut log = log(&["a1", "a2", "a3", "b1"]);
            let mut lane = lane(2);
            let mut report = Report::default();
            for word in decided {
                lane.decided(name(word), 0, word.as_bytes().to_vec(), &mut report);
                lane.catch_up(&mut log, &mut report).unwrap();
            }
            lane.finish(&mut log, &mut report).unwrap();
            assert_eq!(report.differences, differences, "{decided:?}");
        }
    }

    #[test]
    fn a_reader_whose_records_retention_took_says_so() {
        let mut reader = Reader::new(OF, 0, 3);
        let mut log = log(&["a1", "a2", "a3"]).trimmed(OF, 2);
        let error = reader.next(&mut log).unwrap_err().to_string();
        assert!(
            error.contains("retention took everything before 2"),
            "{error}"
        );
    }
}
