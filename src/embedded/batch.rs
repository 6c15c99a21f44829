//! Records as they lie in the log: many in one value, so that a record costs bytes and not an
//! entry.
//!
//! The key of a batch is the offset of its last record (8 bytes, big-endian): a seek to an offset
//! finds the batch that holds it. The value:
//!
//! ```text
//! u8 version = 1, i64 first offset, i64 time of the first record (ms), u32 count, then per record:
//! varint time minus the one before (zigzag), varint length and key, varint length and value,
//! varint count of headers, per header varint length and name, varint length and value
//! ```
//!
//! Numbers are little-endian, varints LEB128. RocksDB checks and compresses the bytes.

use crate::model::Time;
use crate::runtime::Record;

/// A record on its way into a batch.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// Its timestamp, looked at only where the writer's time counts.
    pub time: Time,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub headers: &'a [(String, Vec<u8>)],
}

/// A batch being written: everything but its place is known before the log is locked.
pub(super) struct Draft {
    bytes: Vec<u8>,
    count: u32,
    first_time: Time,
    last_time: Time,
}

/// A batch that stands in the log.
#[derive(Clone)]
pub(super) struct Batch {
    bytes: std::sync::Arc<[u8]>,
    pub first: i64,
    pub count: u32,
    time: Time,
}

impl Draft {
    /// A batch of at least one record. With `timed` each keeps its own time, made never to fall;
    /// else all get the time that [`Draft::place`] gives.
    pub fn new<'a>(entries: impl Iterator<Item = Entry<'a>>, timed: Option<Time>) -> Self {
        let mut draft = Draft {
            bytes: vec![0; HEADER],
            count: 0,
            first_time: Time(0),
            last_time: timed.unwrap_or(Time(i64::MIN)),
        };
        for entry in entries {
            let time = entry.time.max(draft.last_time);
            let delta = match (timed, draft.count) {
                (None, _) => 0,
                (Some(_), 0) => {
                    draft.first_time = time;
                    0
                }
                (Some(_), _) => time.0 - draft.last_time.0,
            };
            draft.last_time = time;
            put_varint(((delta << 1) ^ (delta >> 63)) as u64, &mut draft.bytes);
            put_bytes(entry.key, &mut draft.bytes);
            put_bytes(entry.value, &mut draft.bytes);
            put_varint(entry.headers.len() as u64, &mut draft.bytes);
            for (name, value) in entry.headers {
                put_bytes(name.as_bytes(), &mut draft.bytes);
                put_bytes(value, &mut draft.bytes);
            }
            draft.count += 1;
        }
        draft
    }

    /// Records in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The times of its first and last record, where each kept its own.
    pub fn times(&self) -> (Time, Time) {
        (self.first_time, self.last_time)
    }

    /// Gives the batch its place and time.
    pub fn place(mut self, first: i64, time: Time) -> Batch {
        self.bytes[0] = VERSION;
        self.bytes[1..9].copy_from_slice(&first.to_le_bytes());
        self.bytes[9..17].copy_from_slice(&time.0.to_le_bytes());
        self.bytes[17..21].copy_from_slice(&self.count.to_le_bytes());
        Batch {
            bytes: self.bytes.into(),
            first,
            count: self.count,
            time,
        }
    }
}

impl Batch {
    /// Reads a batch's header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let header = bytes
            .first_chunk::<HEADER>()
            .filter(|header| header[0] == VERSION)
            .ok_or_else(|| {
                format!(
                    "a batch of {} bytes and version {:?}, expected version {VERSION}",
                    bytes.len(),
                    bytes.first()
                )
            })?;
        let long = |at: usize| i64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        Ok(Batch {
            first: long(1),
            time: Time(long(9)),
            count: u32::from_le_bytes(header[17..21].try_into().expect("4 bytes")),
            bytes: bytes.into(),
        })
    }

    /// The key under which it lies.
    pub fn key(&self) -> [u8; 8] {
        key_of(self.next() - 1)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One past its last record.
    pub fn next(&self) -> i64 {
        self.first + i64::from(self.count)
    }

    /// Time of its first record.
    pub fn time(&self) -> Time {
        self.time
    }

    /// Its records at offsets from `from` to below `to`, handed to `found` until that says enough
    /// (false).
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn records(
        &self,
        from: i64,
        to: i64,
        found: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), String> {
        let mut rest = Rest(&self.bytes[HEADER..]);
        let mut time = self.time;
        for offset in self.first..self.next().min(to) {
            let record = rest.record(offset, &mut time, offset >= from);
            let record = record.ok_or_else(|| {
                format!("record {offset} ends before its length says, or is no record")
            })?;
            if let Some(record) = record
                && !found(record)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Time of its last record.
    ///
    /// # Errors
    /// As [`Batch::records`].
    pub fn last_time(&self) -> Result<Time, String> {
        let mut last = self.time;
        self.records(self.next() - 1, self.next(), &mut |record| {
            last = record.time;
            true
        })?;
        Ok(last)
    }
}

/// The key of the batch whose last record has this offset.
pub(super) fn key_of(last: i64) -> [u8; 8] {
    last.to_be_bytes()
}

/// Bytes still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// The next record; `Some(None)` when it is not wanted.
    fn record(&mut self, offset: i64, time: &mut Time, wanted: bool) -> Option<Option<Record>> {
        let zigzag = self.varint()?;
        let delta = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        *time = Time(time.0.checked_add(delta)?);
        let key = self.bytes()?;
        let value = self.bytes()?;
        let mut headers = Vec::new();
        for _ in 0..self.varint()? {
            let name = std::str::from_utf8(self.bytes()?).ok()?;
            headers.push((name.to_owned(), self.bytes()?.to_vec()));
        }
        Some(wanted.then(|| Record {
            offset,
            time: *time,
            key: key.to_vec(),
            value: value.to_vec(),
            headers,
        }))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

const HEADER: usize = 21;

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(times: &[i64], timed: Option<Time>) -> Batch {
        let headers = [("h".to_owned(), vec![0, 255])];
        let values: Vec<Vec<u8>> = times
            .iter()
            .map(|t| vec![*t as u8; *t as usize % 300])
            .collect();
        let entries = times.iter().zip(&values).map(|(time, value)| Entry {
            time: Time(*time),
            key: b"k",
            value,
            headers: if time % 2 == 0 { &headers } else { &[] },
        });
        let draft = Draft::new(entries, timed);
        let time = if timed.is_some() {
            draft.times().0
        } else {
            Time(77)
        };
        draft.place(40, time)
    }

    fn read(batch: &Batch, from: i64, to: i64) -> Vec<Record> {
        let mut records = Vec::new();
        let parsed = Batch::parse(batch.bytes()).unwrap();
        parsed
            .records(from, to, &mut |record| {
                records.push(record);
                true
            })
            .unwrap();
        records
    }

    #[test]
    fn what_is_written_comes_back() {
        let batch = batch(&[3, 128, 299], None);
        let records = read(&batch, 0, i64::MAX);
        let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [40, 41, 42]);
        assert!(records.iter().all(|record| record.time == Time(77)));
        assert_eq!(records[1].value.len(), 128);
        assert_eq!(records[1].headers, [("h".to_owned(), vec![0, 255])]);
        assert_eq!(read(&batch, 41, 42), records[1..2]);
        assert_eq!(batch.key(), 42_i64.to_be_bytes());
    }

    #[test]
    fn its_own_times_never_fall() {
        let batch = batch(&[50, 20, 60], Some(Time(30)));
        let times: Vec<i64> = read(&batch, 0, 99)
            .iter()
            .map(|record| record.time.0)
            .collect();
        assert_eq!(times, [50, 50, 60]);
        assert_eq!(batch.last_time(), Ok(Time(60)));
        let batch = self::batch(&[10], Some(Time(30)));
        assert_eq!(read(&batch, 0, 99)[0].time, Time(30));
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = batch(&[3, 128, 299], None);
        for cut in 0..whole.bytes().len() {
            let short = Batch::parse(&whole.bytes()[..cut]);
            let read = short.and_then(|batch| batch.records(0, i64::MAX, &mut |_| true));
            assert!(read.is_err(), "cut at {cut}");
        }
        let mut other = whole.bytes().to_vec();
        other[0] = 9;
        assert!(Batch::parse(&other).is_err());
    }
}
