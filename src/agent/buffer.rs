//! What is still to be sent: outcomes and samples, in files, bounded.
//!
//! Two lanes of lines, each a row of segments (append-only files), oldest first. A line is sent
//! from the front of its lane and removed after the answer; a segment is deleted when all of it
//! is sent. How far a segment is sent is not written down: after a crash its lines are sent
//! again, which is harmless (the log passes an outcome on once, and a sample's seq is judged
//! once).
//!
//! - Over the limit the oldest segment of samples goes first, then the oldest of outcomes.
//! - An outcome is durable when it is in; a sample survives the process, not the machine.
//! - A last line that was torn by a crash is cut off.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::AgentError;
use super::folder::{failed, sync_dir};

/// Largest batch, bytes (one line may be longer).
pub(super) const BATCH_BYTES_MAX: u64 = 256 << 10;

/// Largest segment, bytes: with a whole one at most so much is sent twice, or dropped at once.
const SEGMENT_BYTES_MAX: u64 = 64 << 10;

/// Which line it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Reports on directives.
    Outcomes,
    /// Readings.
    Samples,
}

/// Lines from the front of a lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) lane: Lane,
    /// Whole lines, each with its line feed.
    pub(super) bytes: Vec<u8>,
    segment: u64,
    end: u64,
}

impl Batch {
    /// How many lines.
    pub(super) fn lines(&self) -> u64 {
        count_lines(&self.bytes)
    }
}

/// What is still to be sent.
#[derive(Debug)]
pub(super) struct Buffer {
    outcomes: Queue,
    samples: Queue,
    limit: u64,
}

impl Buffer {
    /// Opens or makes the buffer in `dir`, of at most `limit` bytes.
    pub(super) fn open(dir: &Path, limit: u64) -> Result<Buffer, AgentError> {
        fs::create_dir_all(dir).map_err(failed("making the buffer", dir))?;
        let segment_max = (limit / 8).clamp(1, SEGMENT_BYTES_MAX);
        Ok(Buffer {
            outcomes: Queue::open(dir, "outcomes", segment_max)?,
            samples: Queue::open(dir, "samples", segment_max)?,
            limit,
        })
    }

    /// Puts a line behind its lane; the answer is how many older lines had to go.
    pub(super) fn push(&mut self, lane: Lane, line: &str) -> Result<u64, AgentError> {
        debug_assert!(!line.contains('\n'), "a line is one line");
        let mut dropped = 0;
        let size = line.len() as u64 + 1;
        while self.samples.bytes() + self.outcomes.bytes() + size > self.limit {
            let lines = match self.samples.drop_oldest()? {
                Some(lines) => lines,
                None => match self.outcomes.drop_oldest()? {
                    Some(lines) => lines,
                    None => break,
                },
            };
            dropped += lines;
        }
        match lane {
            Lane::Outcomes => self.outcomes.push(line, true)?,
            Lane::Samples => self.samples.push(line, false)?,
        }
        Ok(dropped)
    }

    /// What to send next: outcomes before samples, oldest first; `None`: all is sent.
    pub(super) fn oldest(&mut self, max_bytes: u64) -> Result<Option<Batch>, AgentError> {
        match self.outcomes.oldest(Lane::Outcomes, max_bytes)? {
            Some(batch) => Ok(Some(batch)),
            None => self.samples.oldest(Lane::Samples, max_bytes),
        }
    }

    /// Removes what was sent.
    pub(super) fn sent(&mut self, batch: &Batch) -> Result<(), AgentError> {
        match batch.lane {
            Lane::Outcomes => self.outcomes.sent(batch),
            Lane::Samples => self.samples.sent(batch),
        }
    }

    /// How many lines wait.
    pub(super) fn lines(&self) -> u64 {
        let lines = |queue: &Queue| queue.segments.iter().map(|s| s.lines).sum::<u64>();
        lines(&self.outcomes) + lines(&self.samples)
    }
}

/// A lane.
#[derive(Debug)]
struct Queue {
    dir: PathBuf,
    name: &'static str,
    segment_max: u64,
    segments: VecDeque<Segment>,
    /// The last segment, open for writing; without it the next line begins a new one.
    open: Option<File>,
    next: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Up to here it is sent.
    start: u64,
    /// Whole lines up to here.
    end: u64,
    /// Lines that are not sent.
    lines: u64,
}

impl Queue {
    fn open(dir: &Path, name: &'static str, segment_max: u64) -> Result<Queue, AgentError> {
        let mut queue = Queue {
            dir: dir.to_owned(),
            name,
            segment_max,
            segments: VecDeque::new(),
            open: None,
            next: 0,
        };
        let mut numbers: Vec<u64> = fs::read_dir(dir)
            .map_err(failed("reading the buffer", dir))?
            .filter_map(|entry| number_of(name, entry.ok()?.file_name().to_str()?))
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            queue.next = number + 1;
            let path = queue.path(number);
            let (end, lines) = cut_torn_tail(&path).map_err(failed("reading", &path))?;
            match end {
                0 => fs::remove_file(&path).map_err(failed("removing", &path))?,
                _ => queue.segments.push_back(Segment {
                    number,
                    start: 0,
                    end,
                    lines,
                }),
            }
        }
        Ok(queue)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.end - s.start).sum()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}-{number:020}.jsonl", self.name))
    }

    fn push(&mut self, line: &str, durable: bool) -> Result<(), AgentError> {
        let full = |s: &Segment| s.end >= self.segment_max;
        if self.open.is_none() || self.segments.back().is_none_or(full) {
            self.begin_segment(durable)?;
        }
        let number = self.segments.back().expect("one was begun").number;
        let path = self.path(number);
        let segment = self.segments.back_mut().expect("one was begun");
        let file = self.open.as_mut().expect("the last segment is open");
        let bytes = format!("{line}\n");
        let written = file
            .write_all(bytes.as_bytes())
            .and_then(|()| match durable {
                true => file.sync_data(),
                false => Ok(()),
            });
        if let Err(error) = written {
            // Half a line may stand there now: it is not counted, and nothing is put behind it.
            self.open = None;
            return Err(failed("writing", &path)(error));
        }
        segment.end += bytes.len() as u64;
        segment.lines += 1;
        Ok(())
    }

    fn begin_segment(&mut self, durable: bool) -> Result<(), AgentError> {
        let number = self.next;
        let path = self.path(number);
        let created = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = created.map_err(failed("making", &path))?;
        if durable {
            sync_dir(&self.dir)?;
        }
        self.open = Some(file);
        self.next += 1;
        self.segments.push_back(Segment {
            number,
            start: 0,
            end: 0,
            lines: 0,
        });
        Ok(())
    }

    fn oldest(&mut self, lane: Lane, max_bytes: u64) -> Result<Option<Batch>, AgentError> {
        while let Some(front) = self.segments.front() {
            let path = self.path(front.number);
            match read_lines(&path, front.start, front.end, max_bytes) {
                Ok(bytes) if bytes.is_empty() => self.forget_front()?,
                Ok(bytes) => {
                    return Ok(Some(Batch {
                        lane,
                        segment: front.number,
                        end: front.start + bytes.len() as u64,
                        bytes,
                    }));
                }
                // Someone deleted it: what it held is lost, the rest is not.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget_front()?,
                Err(error) => return Err(failed("reading", &path)(error)),
            }
        }
        Ok(None)
    }

    fn sent(&mut self, batch: &Batch) -> Result<(), AgentError> {
        // It may have been dropped meanwhile, for want of room.
        let Some(front) = self.segments.front_mut() else {
            return Ok(());
        };
        if front.number != batch.segment {
            return Ok(());
        }
        front.start = batch.end;
        front.lines = front.lines.saturating_sub(batch.lines());
        match front.start >= front.end {
            true => self.forget_front(),
            false => Ok(()),
        }
    }

    fn drop_oldest(&mut self) -> Result<Option<u64>, AgentError> {
        let Some(lines) = self.segments.front().map(|s| s.lines) else {
            return Ok(None);
        };
        self.forget_front()?;
        Ok(Some(lines))
    }

    fn forget_front(&mut self) -> Result<(), AgentError> {
        let Some(front) = self.segments.pop_front() else {
            return Ok(());
        };
        if self.segments.is_empty() {
            self.open = None;
        }
        let path = self.path(front.number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("removing", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The number in a segment's name.
fn number_of(name: &str, file: &str) -> Option<u64> {
    let rest = file.strip_prefix(name)?.strip_prefix('-')?;
    rest.strip_suffix(".jsonl")?.parse().ok()
}

/// Cuts off what stands behind the last line feed; where that is, and how many lines there are.
fn cut_torn_tail(path: &Path) -> io::Result<(u64, u64)> {
    let bytes = fs::read(path)?;
    let end = bytes
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    if end < bytes.len() {
        OpenOptions::new()
            .write(true)
            .open(path)?
            .set_len(end as u64)?;
    }
    Ok((end as u64, count_lines(&bytes[..end])))
}

/// Whole lines from `start`, at least one if there is one, else at most `max` bytes.
fn read_lines(path: &Path, start: u64, end: u64, max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end - start).read_to_end(&mut bytes)?;
    let within = bytes.len().min(max as usize);
    let last = bytes[..within].iter().rposition(|&b| b == b'\n');
    let first = || bytes.iter().position(|&b| b == b'\n');
    bytes.truncate(last.or_else(first).map_or(0, |at| at + 1));
    Ok(bytes)
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::scratch::Scratch;

    /// Sends everything, in batches of `max` bytes.
    fn drain(buffer: &mut Buffer, max: u64) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(batch) = buffer.oldest(max).unwrap() {
            let text = String::from_utf8(batch.bytes.clone()).unwrap();
            lines.extend(text.lines().map(str::to_owned));
            buffer.sent(&batch).unwrap();
        }
        lines
    }

    fn files(scratch: &Scratch) -> usize {
        fs::read_dir(&scratch.0).unwrap().count()
    }

    #[test]
    fn lines_come_out_in_order_outcomes_first_and_leave_nothing_behind() {
        let scratch = Scratch::new("buffer-order");
        let mut buffer = Buffer::open(&scratch.0, 1 << 20).unwrap();
        for line in ["s1", "s2"] {
            buffer.push(Lane::Samples, line).unwrap();
        }
        buffer.push(Lane::Outcomes, "o1").unwrap();
        assert_eq!(buffer.lines(), 3);
        assert_eq!(drain(&mut buffer, 3), ["o1", "s1", "s2"]);
        buffer.push(Lane::Samples, "s3").unwrap();
        assert_eq!(
            drain(&mut buffer, 1),
            ["s3"],
            "a line longer than a batch is one"
        );
        assert_eq!((buffer.lines(), files(&scratch)), (0, 0));
    }

    #[test]
    fn what_was_not_answered_is_there_after_a_restart_in_order() {
        let scratch = Scratch::new("buffer-restart");
        let mut buffer = Buffer::open(&scratch.0, 160).unwrap();
        for n in 0..12 {
            buffer.push(Lane::Samples, &format!("line {n:02}")).unwrap();
        }
        let sent = buffer.oldest(8).unwrap().unwrap();
        buffer.sent(&sent).unwrap();
        drop(buffer);
        let mut buffer = Buffer::open(&scratch.0, 160).unwrap();
        buffer.push(Lane::Samples, "line 12").unwrap();
        let lines = drain(&mut buffer, 1000);
        let last: Vec<String> = (0..13).map(|n| format!("line {n:02}")).collect();
        // The first segment was sent in part only: it comes again from its beginning.
        assert_eq!(lines, last);
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        for torn in ["{\"a\":", "{\"b\":2}\n{\"c\"", ""] {
            let scratch = Scratch::new("buffer-torn");
            let path = scratch.0.join("samples-00000000000000000007.jsonl");
            fs::write(&path, format!("{{\"a\":1}}\n{torn}")).unwrap();
            let mut buffer = Buffer::open(&scratch.0, 1000).unwrap();
            buffer.push(Lane::Samples, "next").unwrap();
            let lines = drain(&mut buffer, 1000);
            assert_eq!(lines.first().unwrap(), "{\"a\":1}");
            assert_eq!(lines.last().unwrap(), "next");
            assert_eq!(lines.len(), 2 + torn.matches('\n').count(), "{torn:?}");
        }
    }

    #[test]
    fn over_the_limit_the_oldest_samples_go_and_outcomes_stay() {
        let scratch = Scratch::new("buffer-limit");
        let mut buffer = Buffer::open(&scratch.0, 100).unwrap();
        buffer.push(Lane::Outcomes, "outcome").unwrap();
        let mut dropped = 0;
        for n in 0..40 {
            let line = format!("sample {n:02}");
            dropped += buffer.push(Lane::Samples, &line).unwrap();
            assert!(buffer.samples.bytes() + buffer.outcomes.bytes() <= 100);
        }
        let lines = drain(&mut buffer, 1000);
        assert_eq!(lines[0], "outcome");
        assert_eq!(lines.last().unwrap(), "sample 39");
        assert_eq!(lines.len() as u64 + dropped, 41);
        let newest: Vec<String> = (40 - (lines.len() - 1)..40)
            .map(|n| format!("sample {n:02}"))
            .collect();
        assert_eq!(lines[1..], newest);
        assert!(lines.len() > 5, "{lines:?}");
    }

    #[test]
    fn with_outcomes_alone_the_oldest_of_them_go() {
        let scratch = Scratch::new("buffer-outcomes");
        let mut buffer = Buffer::open(&scratch.0, 64).unwrap();
        for n in 0..20 {
            buffer
                .push(Lane::Outcomes, &format!("outcome {n:02}"))
                .unwrap();
        }
        let lines = drain(&mut buffer, 1000);
        assert_eq!(lines.last().unwrap(), "outcome 19");
        assert!((3..7).contains(&lines.len()), "{lines:?}");
    }

    #[test]
    fn what_was_dropped_while_it_was_sent_is_no_trouble() {
        let scratch = Scratch::new("buffer-race");
        let mut buffer = Buffer::open(&scratch.0, 60).unwrap();
        buffer.push(Lane::Samples, "first").unwrap();
        let batch = buffer.oldest(1000).unwrap().unwrap();
        for _ in 0..10 {
            buffer.push(Lane::Samples, "later one").unwrap();
        }
        let before = buffer.lines();
        buffer.sent(&batch).unwrap();
        assert_eq!(buffer.lines(), before);
    }
}
