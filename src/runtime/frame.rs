//! Records and rows as bytes: in an export's files, and between the holder of a folder and who
//! reads it through the holder.
//!
//! A record is `u32 length` and so many bytes: `i64 offset, i64 append time (ms), key, value, u32
//! headers, (name, value) per header`; a key, value or name is `u32 length` and its bytes. A piece
//! of a log is `i64 next` and its records; a piece of a stage's rows is `(key, value)` per row. All
//! numbers are big-endian.

use serde::{Deserialize, Serialize};

use crate::model::Time;

use super::{Chunk, KeyValue, Position, Record, TimeSource, Title, TopicPartition};

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} ends before its length says, near byte {at} of {size}")]
pub struct FrameError {
    /// What was read.
    pub what: &'static str,
    /// Where.
    pub at: usize,
    /// Of how many bytes.
    pub size: usize,
}

/// Appends a record.
pub fn write_record(record: &Record, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend([0; 4]);
    out.extend(record.offset.to_be_bytes());
    out.extend(record.time.0.to_be_bytes());
    put(&record.key, out);
    put(&record.value, out);
    out.extend((record.headers.len() as u32).to_be_bytes());
    for (name, value) in &record.headers {
        put(name.as_bytes(), out);
        put(value, out);
    }
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Reads the records in `bytes`, to their end.
///
/// # Errors
/// They end within a record, or a record is not whole.
pub fn read_records(bytes: &[u8]) -> Result<Vec<Record>, FrameError> {
    let mut rest = Cursor(bytes);
    let mut records = Vec::new();
    while !rest.0.is_empty() {
        let at = bytes.len() - rest.0.len();
        let record = rest.bytes().and_then(|body| read_record(Cursor(body)));
        records.push(record.ok_or(FrameError {
            what: "a record",
            at,
            size: bytes.len(),
        })?);
    }
    Ok(records)
}

/// A piece of a log as the holder answers it.
pub fn write_chunk(chunk: &Chunk) -> Vec<u8> {
    let mut out = chunk.next.to_be_bytes().to_vec();
    for record in &chunk.records {
        write_record(record, &mut out);
    }
    out
}

/// Reads a piece of a log.
///
/// # Errors
/// The bytes are none.
pub fn read_chunk(bytes: &[u8]) -> Result<Chunk, FrameError> {
    let (next, records) = bytes.split_first_chunk::<8>().ok_or(FrameError {
        what: "a piece of a log",
        at: 0,
        size: bytes.len(),
    })?;
    Ok(Chunk {
        next: i64::from_be_bytes(*next),
        records: read_records(records)?,
    })
}

/// Rows of a copy as the holder answers them.
pub fn write_rows(rows: &[KeyValue]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in rows {
        put(key, &mut out);
        put(value, &mut out);
    }
    out
}

/// Reads rows of a copy.
///
/// # Errors
/// The bytes are none.
pub fn read_rows(bytes: &[u8]) -> Result<Vec<KeyValue>, FrameError> {
    let mut rest = Cursor(bytes);
    let mut rows = Vec::new();
    while !rest.0.is_empty() {
        let at = bytes.len() - rest.0.len();
        let row = rest.bytes().zip(rest.bytes());
        let (key, value) = row.ok_or(FrameError {
            what: "a row",
            at,
            size: bytes.len(),
        })?;
        rows.push((key.to_vec(), value.to_vec()));
    }
    Ok(rows)
}

/// The log of a folder as its holder tells it: `GET /v1/log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// The log's id.
    pub log_id: String,
    /// Prefix of the topics' names in causes.
    pub prefix: String,
    /// `log` or `sample`: what append time is.
    pub time_source: String,
    /// Partitions of every topic.
    pub partitions: i32,
    /// Its topics, partition by partition.
    pub topics: Vec<TopicState>,
    /// How far its inboxes are folded.
    pub positions: Vec<PositionState>,
    /// Free bytes on its disk; where it lies on none of this machine, the largest number.
    pub free_bytes: u64,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    /// Its name, without the prefix.
    pub topic: String,
    /// Its partition.
    #[serde(default, skip_serializing_if = "is_first")]
    pub partition: i32,
    /// Offset of the first record that is kept.
    pub start: i64,
    /// One past the last record that may be seen.
    pub end: i64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Append time of the first record that is kept, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<i64>,
}

/// How far an inbox is folded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionState {
    /// Its topic, without the prefix.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// How far.
    #[serde(flatten)]
    pub position: Position,
}

impl LogState {
    /// What the log is called.
    pub fn title(&self) -> Title {
        Title {
            log_id: self.log_id.clone(),
            prefix: self.prefix.clone(),
            time_source: TimeSource::named(&self.time_source),
            partitions: self.partitions,
        }
    }

    /// What is said of a topic's partition.
    pub fn topic(&self, of: TopicPartition) -> Option<&TopicState> {
        let is_it =
            |state: &&TopicState| state.topic == of.topic.name() && state.partition == of.partition;
        self.topics.iter().find(is_it)
    }

    /// How far an inbox is folded.
    pub fn position(&self, inbox: TopicPartition) -> Option<Position> {
        let is_it = |state: &&PositionState| {
            state.topic == inbox.topic.name() && state.partition == inbox.partition
        };
        self.positions
            .iter()
            .find(is_it)
            .map(|state| state.position)
    }
}

fn is_first(partition: &i32) -> bool {
    *partition == 0
}

fn put(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

fn read_record(mut body: Cursor<'_>) -> Option<Record> {
    let offset = body.long()?;
    let time = Time(body.long()?);
    let key = body.bytes()?.to_vec();
    let value = body.bytes()?.to_vec();
    let mut headers = Vec::new();
    for _ in 0..body.number()? {
        let name = String::from_utf8(body.bytes()?.to_vec()).ok()?;
        headers.push((name, body.bytes()?.to_vec()));
    }
    body.0.is_empty().then_some(Record {
        offset,
        time,
        key,
        value,
        headers,
    })
}

/// Bytes still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn long(&mut self) -> Option<i64> {
        let (long, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(i64::from_be_bytes(*long))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::only;
    use crate::stream::Topic;

    fn chunk() -> Chunk {
        let record = |offset, headers: &[(&str, &[u8])]| Record {
            offset,
            time: Time(-7),
            key: b"k\0".to_vec(),
            value: vec![0xC3; offset as usize],
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
                .collect(),
        };
        Chunk {
            records: vec![record(0, &[]), record(5, &[("reason", b"x"), ("", b"")])],
            next: 9,
        }
    }

    #[test]
    fn pieces_of_a_log_and_rows_come_back() {
        assert_eq!(read_chunk(&write_chunk(&chunk())), Ok(chunk()));
        let rows = vec![(vec![1], vec![]), (vec![2, 0], vec![3; 300])];
        assert_eq!(read_rows(&write_rows(&rows)), Ok(rows));
        assert_eq!(read_rows(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_cut_short_anywhere_is_refused() {
        let whole = write_chunk(&chunk());
        let second = whole.len() - {
            let mut one = Vec::new();
            write_record(&chunk().records[1], &mut one);
            one.len()
        };
        for end in 0..whole.len() {
            let fits = end == 8 || end == second;
            assert_eq!(read_chunk(&whole[..end]).is_ok(), fits, "{end}");
        }
        let rows = write_rows(&[(vec![1], vec![2])]);
        for end in 1..rows.len() {
            assert!(read_rows(&rows[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn the_holders_answer_has_the_names_that_were_agreed() {
        let state = LogState {
            log_id: "l".into(),
            prefix: "homeostat.".into(),
            time_source: "sample".into(),
            partitions: 1,
            topics: vec![TopicState {
                topic: "events".into(),
                partition: 0,
                start: 1,
                end: 4,
                bytes: 5,
                oldest: None,
            }],
            positions: vec![PositionState {
                topic: "metrics".into(),
                partition: 0,
                position: Position {
                    next: 3,
                    time: Time(8),
                    hears_since: Time(2),
                },
            }],
            free_bytes: 6,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"log_id":"l","prefix":"homeostat.","time_source":"sample","partitions":1,"#,
                r#""topics":[{"topic":"events","start":1,"end":4,"bytes":5}],"#,
                r#""positions":[{"topic":"metrics","partition":0,"next":3,"time":8,"#,
                r#""hears_since":2}],"free_bytes":6}"#
            )
        );
        assert_eq!(serde_json::from_str::<LogState>(&text).unwrap(), state);
        assert_eq!(state.title().time_source, TimeSource::Sample);
        assert_eq!(state.topic(only(Topic::Events)).unwrap().end, 4);
        let inbox = only(Topic::Metrics);
        assert_eq!(state.position(inbox).unwrap().next, 3);
    }
}
