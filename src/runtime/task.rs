//! A task: one stage on one partition. It brings the records of an inbox to a [`Fold`] as the
//! architecture's chapter on time says it, and knows neither log nor store: the worker, `replay`
//! and the simulator's checker all fold through it.
//!
//! For each record:
//! 1. Its time is clamped so that it never goes back.
//! 2. After a gap of more than [`BLIND_AFTER`] during which an alarm stood, the fold is told that
//!    nothing was heard.
//! 3. Alarms due fire: the record's own key's first, then by (due, key), at most
//!    [`ALARMS_PER_RECORD`] and until only [`EVENTS_FOR_INPUT`] events are left. A hint that comes
//!    before its key's own time is filed anew at that. Of hints at most [`HINTS_PER_RECORD`] are
//!    looked at.
//! 4. The record is folded.
//!
//! What is rejected or panics is taken back and left out, and the rest is done again without it: a
//! bad record still carries its time, and the alarms before it fire. It becomes a dead letter. The
//! alarm of a key whose alarm panicked sleeps until the key's next record.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::model::{Cause, Time};
use crate::stream::{
    ALARMS_PER_RECORD, At, BLIND_AFTER, EVENTS_FOR_INPUT, EVENTS_PER_RECORD, Fold,
    HINTS_PER_RECORD, NoBase, Output, Reject, To, Topic,
};

use super::{Config, Outgoing, Position, Record, Router, StageSpec, TopicPartition};

/// Where a record's time comes from (`[time] source`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// Append time.
    Log,
    /// The sample's own time, between stages the cause's: no ticks, never blind.
    Sample,
}

impl TimeSource {
    /// The name in `LogOpened`, a manifest and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            TimeSource::Log => "log",
            TimeSource::Sample => "sample",
        }
    }

    /// The one of this name; every other name is append time.
    pub fn named(name: &str) -> Self {
        match name {
            "sample" => TimeSource::Sample,
            _ => TimeSource::Log,
        }
    }
}

/// One stage on one partition.
pub struct Task {
    inbox: TopicPartition,
    source: TimeSource,
    fold: Box<dyn Fold>,
    position: Option<Position>,
    any_muted: bool,
    /// Where the last record was folded: made once, since it holds the topic's name.
    at: At,
}

/// What a fold of one record left to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Clamped time of the record.
    pub now: Time,
    /// Alarms that are due had to stay: the owner ticks at once.
    pub rest_due: bool,
}

impl Task {
    /// A task whose inbox is called `<prefix><topic>` in causes and dead letters, folded up to
    /// `position`.
    pub fn new(
        inbox: TopicPartition,
        prefix: &str,
        source: TimeSource,
        mut fold: Box<dyn Fold>,
        position: Option<Position>,
    ) -> Self {
        let any_muted = fold.alarms().any_muted();
        let at = At {
            now: Time::default(),
            hears_since: Time::default(),
            cause: Cause {
                topic: format!("{prefix}{}", inbox.topic.name()),
                partition: inbox.partition,
                offset: 0,
            },
        };
        Task {
            inbox,
            at,
            source,
            fold,
            position,
            any_muted,
        }
    }

    /// Folds a record and appends what leaves, dead letters included. A record at or before the
    /// position was folded already: `None`.
    pub fn fold(&mut self, record: &Record, out: &mut Vec<Output>) -> Option<Folded> {
        if self.position.is_some_and(|p| record.offset < p.next) {
            return None;
        }
        let attempt = Attempt::new(self, record);
        let mut at = self.take_at();
        let start = out.len();
        let mut failed = Failed::default();
        let rest_due = loop {
            self.fold.begin();
            attempt.place(&mut at);
            let part = RefCell::new(Part::Record);
            let run = || attempt.run(self, &mut at, record, &failed, &part, out);
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(done)) => break done,
                Ok(Err(reject)) => failed.record = Some(reject),
                Err(panic) => failed.note(part.into_inner(), &*panic),
            }
            self.fold.rollback();
            out.truncate(start);
        };
        self.fold.accept();
        self.any_muted |= !failed.alarms.is_empty();
        self.position = Some(Position {
            next: record.offset.saturating_add(1),
            time: at.now,
            hears_since: at.hears_since,
        });
        let now = at.now;
        self.at = at;
        self.bury(record, failed, out);
        Some(Folded { now, rest_due })
    }

    fn take_at(&mut self) -> At {
        let empty = At {
            now: Time::default(),
            hears_since: Time::default(),
            cause: Cause {
                topic: String::new(),
                partition: 0,
                offset: 0,
            },
        };
        std::mem::replace(&mut self.at, empty)
    }

    /// The inbox.
    pub fn inbox(&self) -> TopicPartition {
        self.inbox
    }

    /// How far it is folded.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Goes on from a committed position, whatever was computed on the way there.
    pub fn set_position(&mut self, position: Option<Position>) {
        self.position = position;
    }

    /// The fold.
    pub fn fold_mut(&mut self) -> &mut dyn Fold {
        &mut *self.fold
    }

    /// Whether time must go on for it: a hint stands (which may turn out to be an old one).
    pub fn waits(&mut self) -> bool {
        self.source == TimeSource::Log && self.fold.alarms().first_due().is_some()
    }

    /// The first hint whose key still wants to be woken, with the time it wants; drops those before
    /// it whose key does not.
    fn first_alarm(
        &mut self,
        at: &At,
        failed: &Failed,
        part: &RefCell<Part>,
    ) -> Option<(Time, Rc<[u8]>, Time)> {
        loop {
            let (due, key) = self.fold.alarms().first()?;
            *part.borrow_mut() = Part::Alarm(key.clone());
            let alarms = self.fold.alarms();
            if failed.alarms.contains_key(&key) {
                alarms.mute(&key);
            } else if !(self.any_muted && alarms.is_muted(&key))
                && let Some(wake_at) = self.fold.wake_at(at, &key)
            {
                return Some((due, key, wake_at));
            }
            self.fold.alarms().remove(due, &key);
        }
    }

    /// Writes the dead letters of a record.
    fn bury(&self, record: &Record, failed: Failed, out: &mut Vec<Output>) {
        let letter = |reject: Reject, key: Vec<u8>, value: Vec<u8>, given: &[(String, Vec<u8>)]| {
            let ours = [
                ("reason", reject.reason.to_owned()),
                ("detail", reject.detail),
                ("topic", self.at.cause.topic.clone()),
                ("partition", self.inbox.partition.to_string()),
                ("offset", record.offset.to_string()),
            ];
            let ours = ours.map(|(name, text)| (name.to_owned(), text.into_bytes()));
            Output {
                topic: Topic::DeadLetters,
                to: To::ByKey,
                key,
                value,
                headers: given.iter().cloned().chain(ours).collect(),
            }
        };
        if let Some(reject) = failed.blind {
            out.push(letter(reject, Vec::new(), Vec::new(), &[]));
        }
        for (key, reject) in failed.alarms {
            out.push(letter(reject, key.to_vec(), Vec::new(), &[]));
        }
        if let Some(reject) = failed.record {
            let (key, value) = (record.key.clone(), record.value.clone());
            out.push(letter(reject, key, value, &record.headers));
        }
    }
}

/// Folds records straight through a stage in memory, without log, batches or faults: what leaves,
/// and where to. The runtime's whole promise is that it writes the same.
pub fn fold_straight<'a>(
    spec: &StageSpec,
    inbox: TopicPartition,
    config: &Config,
    router: &Router,
    records: impl IntoIterator<Item = &'a Record>,
) -> Vec<Outgoing> {
    let share = router
        .share(inbox)
        .expect("it is one of the router's partitions");
    let fold = (spec.open)(share, Rc::new(NoBase));
    let mut task = Task::new(inbox, &config.prefix, config.time_source, fold, None);
    let (mut outputs, mut routed) = (Vec::new(), Vec::new());
    for record in records {
        if let Some(folded) = task.fold(record, &mut outputs) {
            for output in outputs.drain(..) {
                router.route(inbox, folded.now, output, &mut routed);
            }
        }
    }
    routed
}

/// One record on its way through a fold: the same however often it is tried.
struct Attempt {
    now: Time,
    hears_since: Time,
    offset: i64,
    /// Clamped time of the record before, after a gap that blinds if an alarm stood.
    gap_from: Option<Time>,
}

impl Attempt {
    fn new(task: &Task, record: &Record) -> Self {
        let before = task.position;
        let now = before.map_or(record.time, |p| p.time.max(record.time));
        Attempt {
            now,
            hears_since: before.map_or(now, |p| p.hears_since),
            offset: record.offset,
            gap_from: before.map(|p| p.time).filter(|&from| {
                task.source == TimeSource::Log && task.fold.hears() && now - from > BLIND_AFTER
            }),
        }
    }

    /// Makes `at` the record's.
    fn place(&self, at: &mut At) {
        at.now = self.now;
        at.hears_since = self.hears_since;
        at.cause.offset = self.offset;
    }

    /// Steps 2 to 4; moves `at` where the loop was blind, and says whether alarms that are due,
    /// some perhaps since the record, had to stay.
    fn run(
        &self,
        task: &mut Task,
        at: &mut At,
        record: &Record,
        failed: &Failed,
        part: &RefCell<Part>,
        out: &mut Vec<Output>,
    ) -> Result<bool, Reject> {
        let mut events = Events::after(out);
        if let Some(from) = self.gap_from
            && task.first_alarm(at, failed, part).is_some()
        {
            at.hears_since = at.now;
            *part.borrow_mut() = Part::Blind;
            if failed.blind.is_none() {
                task.fold.blind(at, from, out);
                events.check(out);
            }
        }
        *part.borrow_mut() = Part::Record;
        let own = match failed.record {
            None => task.fold.own_key(&record.key, &record.value),
            Some(_) => None,
        };
        let own: Option<Rc<[u8]>> = own.map(Rc::from);
        fire_alarms(task, at, own.as_ref(), failed, part, &mut events, out);
        *part.borrow_mut() = Part::Record;
        if failed.record.is_none() {
            task.fold.record(at, &record.key, &record.value, out)?;
            events.check(out);
            if let Some(own) = own
                && task.any_muted
                && !failed.alarms.contains_key(&own)
                && task.fold.alarms().unmute(&own)
                && let Some(wake_at) = task.fold.wake_at(at, &own)
            {
                task.fold.alarms().file(&own, wake_at);
            }
        }
        let rest_due = first_due(task).is_some_and(|due| due <= at.now);
        Ok(rest_due)
    }
}

/// Fires what is due, as far as it may.
fn fire_alarms(
    task: &mut Task,
    at: &At,
    own: Option<&Rc<[u8]>>,
    failed: &Failed,
    part: &RefCell<Part>,
    events: &mut Events,
    out: &mut Vec<Output>,
) {
    let (mut fired, mut looked) = (0, 0);
    if let Some(own) = own
        && !failed.alarms.contains_key(own)
        && !(task.any_muted && task.fold.alarms().is_muted(own))
    {
        *part.borrow_mut() = Part::Alarm(own.clone());
        if task.fold.wake_at(at, own).is_some_and(|due| due <= at.now) {
            fire(task, at, own, events, out);
            fired += 1;
        }
    }
    while first_due(task).is_some_and(|due| due <= at.now)
        && let Some((due, key, wake_at)) = task.first_alarm(at, failed, part)
        && due <= at.now
    {
        let full = fired == ALARMS_PER_RECORD || events.spent(out);
        if looked == HINTS_PER_RECORD || wake_at <= due && full {
            return;
        }
        looked += 1;
        task.fold.alarms().remove(due, &key);
        if wake_at > due {
            task.fold.alarms().file(&key, wake_at);
        } else {
            fire(task, at, &key, events, out);
            fired += 1;
        }
    }
}

fn first_due(task: &mut Task) -> Option<Time> {
    task.fold.alarms().first_due()
}

/// Fires one alarm and files the next.
fn fire(task: &mut Task, at: &At, key: &[u8], events: &mut Events, out: &mut Vec<Output>) {
    task.fold.alarm(at, key, out);
    events.check(out);
    if let Some(wake_at) = task.fold.wake_at(at, key) {
        assert!(
            wake_at > at.now || events.spent(out),
            "a fired alarm moves: it was due by {} and wants {wake_at}",
            at.now
        );
        task.fold.alarms().file(key, wake_at);
    }
}

/// Counts the events of one record, looking at each output once.
struct Events {
    count: usize,
    seen: usize,
}

impl Events {
    fn after(out: &[Output]) -> Self {
        Events {
            count: 0,
            seen: out.len(),
        }
    }

    /// Whether only those are left that are kept for the record itself.
    fn spent(&mut self, out: &[Output]) -> bool {
        self.look(out);
        self.count >= EVENTS_PER_RECORD - EVENTS_FOR_INPUT
    }

    fn check(&mut self, out: &[Output]) {
        self.look(out);
        let count = self.count;
        assert!(
            count <= EVENTS_PER_RECORD,
            "one record causes at most {EVENTS_PER_RECORD} events, not {count}"
        );
    }

    fn look(&mut self, out: &[Output]) {
        for output in &out[self.seen..] {
            if output.topic == Topic::Events {
                let bytes = output.value.len();
                assert!(
                    (1..=EVENT_BYTES_MAX).contains(&bytes),
                    "an event has 1 to {EVENT_BYTES_MAX} bytes, not {bytes}"
                );
                self.count += 1;
            }
        }
        self.seen = out.len();
    }
}

/// What is being done for a record: whom a panic is charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Blind,
    Alarm(Rc<[u8]>),
    Record,
}

/// What of a record is left out from now on, and why.
#[derive(Default)]
struct Failed {
    blind: Option<Reject>,
    alarms: BTreeMap<Rc<[u8]>, Reject>,
    record: Option<Reject>,
}

impl Failed {
    fn note(&mut self, part: Part, panic: &(dyn Any + Send)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let reject = |reason| Reject {
            reason,
            detail: text.unwrap_or("a panic without words").to_owned(),
        };
        match part {
            Part::Blind => self.blind = Some(reject("panic_when_blind")),
            Part::Alarm(key) => {
                self.alarms.insert(key, reject("panic_in_alarm"));
            }
            Part::Record => self.record = Some(reject("panic")),
        }
    }
}

/// Longest event, bytes: the audit log's own format ends at 65,535.
const EVENT_BYTES_MAX: usize = 60_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Span;
    use crate::stream::{Alarms, NoBase, Table};

    /// Keeps a time per key of letters: the record `k17` asks to be woken 17 s after it, `k!` asks
    /// and then panics, `k?` is rejected. An alarm writes its key; `x` panics in its alarm, `z`
    /// does not move, `m` writes 300 events, bit by bit.
    struct Bells {
        due: Table<Vec<u8>, Vec<u8>>,
        alarms: Alarms,
        hears: bool,
    }

    impl crate::stream::Key for Vec<u8> {
        fn write(&self, out: &mut Vec<u8>) {
            out.extend(self);
        }

        fn read(bytes: &[u8]) -> Option<Self> {
            Some(bytes.to_vec())
        }
    }

    impl crate::stream::Row for Vec<u8> {
        fn write(&self, out: &mut Vec<u8>) {
            out.extend(self);
        }

        fn read(bytes: &[u8]) -> Result<Self, crate::stream::RowError> {
            Ok(bytes.to_vec())
        }
    }

    impl Bells {
        fn set(&mut self, at: &At, key: &[u8], due: Option<Time>) {
            let before = self.wake_at(at, key);
            let row = due.map(|due| due.0.to_be_bytes().to_vec());
            self.due.put(key.to_vec(), row);
            self.alarms.moved(key, before, due);
        }
    }

    fn output(topic: Topic, text: &str) -> Output {
        Output {
            topic,
            to: To::Same,
            key: Vec::new(),
            value: text.into(),
            headers: Vec::new(),
        }
    }

    impl Fold for Bells {
        fn own_key(&self, _key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
            let letters = value
                .iter()
                .take_while(|byte| byte.is_ascii_lowercase())
                .count();
            (letters > 0).then(|| value[..letters].to_vec())
        }

        fn record(
            &mut self,
            at: &At,
            _key: &[u8],
            value: &[u8],
            out: &mut Vec<Output>,
        ) -> Result<(), Reject> {
            let Some(key) = self.own_key(b"", value) else {
                return Ok(());
            };
            let text = String::from_utf8_lossy(&value[key.len()..]).into_owned();
            let seconds = text.parse().unwrap_or(1);
            self.set(at, &key, Some(at.now + Span::seconds(seconds)));
            out.push(output(Topic::Cycles, &String::from_utf8_lossy(value)));
            match text.as_str() {
                "!" => std::panic::resume_unwind(Box::new("told to")),
                "?" => Err(Reject {
                    reason: "asked",
                    detail: "?".into(),
                }),
                _ => Ok(()),
            }
        }

        fn hears(&self) -> bool {
            self.hears
        }

        fn blind(&mut self, at: &At, from: Time, out: &mut Vec<Output>) {
            let text = format!("blind {}-{}", from.0 / 1000, at.now.0 / 1000);
            out.push(output(Topic::Cycles, &text));
        }

        fn alarms(&mut self) -> &mut Alarms {
            &mut self.alarms
        }

        fn wake_at(&self, _at: &At, key: &[u8]) -> Option<Time> {
            let row = self.due.get(&key.to_vec())?;
            Some(Time(i64::from_be_bytes(row[..].try_into().unwrap())))
        }

        fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
            if key == b"m" {
                let used = out.iter().filter(|o| o.topic == Topic::Events).count();
                (used..200).for_each(|_| out.push(output(Topic::Events, "e")));
                return;
            }
            if key != b"z" {
                self.set(at, key, None);
            }
            out.push(output(
                Topic::Cycles,
                &format!("ring {}", key.escape_ascii()),
            ));
            if key == b"x" {
                std::panic::resume_unwind(Box::new("x"));
            }
        }

        fn begin(&mut self) {
            self.due.begin();
            self.alarms.begin();
        }

        fn accept(&mut self) {}

        fn rollback(&mut self) {
            self.due.rollback();
            self.alarms.rollback();
        }

        fn evolve(&mut self, _value: &[u8]) -> Result<(), Reject> {
            unreachable!("bells have no events")
        }

        fn changed(&self) -> usize {
            0
        }

        fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
            Vec::new()
        }
    }

    fn task(source: TimeSource) -> Task {
        let bells = Bells {
            due: Table::new(1, Rc::new(NoBase)),
            alarms: Alarms::new(2, Rc::new(NoBase)),
            hears: true,
        };
        let inbox = TopicPartition {
            topic: Topic::Metrics,
            partition: 0,
        };
        Task::new(inbox, "p.", source, Box::new(bells), None)
    }

    /// Folds a record at so many seconds; answers what left, and whether alarms had to stay.
    fn feed(task: &mut Task, offset: i64, seconds: i64, value: &[u8]) -> (Vec<String>, bool) {
        let mut out = Vec::new();
        let record = Record {
            offset,
            time: Time(seconds * 1000),
            key: b"k".to_vec(),
            value: value.to_vec(),
            headers: Vec::new(),
        };
        let folded = task.fold(&record, &mut out).expect("a new record");
        let tell = |output: Output| {
            let value = String::from_utf8_lossy(&output.value).into_owned();
            match &output.headers[..] {
                [(_, reason), ..] => format!("dead {} {value}", String::from_utf8_lossy(reason)),
                [] => value,
            }
        };
        (out.into_iter().map(tell).collect(), folded.rest_due)
    }

    /// Feeds records (second, value) and compares everything that leaves.
    fn check(records: &[(i64, &str)], expected: &[&str]) {
        let mut task = task(TimeSource::Log);
        let fed = records
            .iter()
            .enumerate()
            .flat_map(|(offset, (seconds, value))| {
                feed(&mut task, offset as i64, *seconds, value.as_bytes()).0
            });
        assert_eq!(fed.collect::<Vec<_>>(), expected, "{records:?}");
    }

    #[test]
    fn alarms_fire_before_a_record_its_own_keys_first_and_then_by_time_and_key() {
        check(
            &[(0, "c3"), (0, "b3"), (0, "a2"), (0, "d3"), (5, "d9")],
            &[
                "c3", "b3", "a2", "d3", "ring d", "ring a", "ring b", "ring c", "d9",
            ],
        );
    }

    #[test]
    fn an_alarm_that_was_put_off_does_not_fire_early_and_one_due_now_does() {
        check(&[(0, "a3"), (2, "a3"), (4, "b9")], &["a3", "a3", "b9"]);
        check(
            &[(0, "a3"), (2, "a3"), (5, "b9")],
            &["a3", "a3", "ring a", "b9"],
        );
    }

    #[test]
    fn time_never_goes_back() {
        check(&[(10, "a3"), (2, "b1"), (11, "")], &["a3", "b1", "ring b"]);
    }

    #[test]
    fn a_gap_while_an_alarm_stood_blinds_and_one_without_does_not() {
        check(&[(0, "a9"), (15, "b9")], &["a9", "ring a", "b9"]);
        check(&[(0, "a99"), (16, "b9")], &["a99", "blind 0-16", "b9"]);
        check(&[(0, ""), (90, "b9")], &["b9"]);
        check(
            &[(0, "a1"), (2, "a?"), (90, "b9")],
            &["a1", "ring a", "dead asked a?", "b9"],
        );
    }

    #[test]
    fn with_the_samples_own_time_nobody_is_blind() {
        let mut task = task(TimeSource::Sample);
        feed(&mut task, 0, 0, b"a99");
        assert_eq!(feed(&mut task, 1, 50, b"b9").0, ["b9"]);
        assert!(!task.waits());
    }

    #[test]
    fn a_rejected_or_panicking_record_leaves_no_trace_but_its_time() {
        for bad in ["b?", "b!"] {
            let reason = if bad == "b?" { "asked" } else { "panic" };
            let dead = format!("dead {reason} {bad}");
            check(
                &[(0, "a2"), (3, bad), (9, "c9")],
                &["a2", "ring a", &dead, "c9"],
            );
        }
    }

    #[test]
    fn a_panicking_alarm_sleeps_until_its_keys_next_record() {
        check(
            &[(0, "x2"), (0, "a2"), (3, "b9"), (4, ""), (5, "x1"), (7, "")],
            &[
                "x2",
                "a2",
                "ring a",
                "b9",
                "dead panic_in_alarm ",
                "x1",
                "dead panic_in_alarm ",
            ],
        );
    }

    #[test]
    fn an_alarm_that_does_not_move_is_a_fault_and_does_not_fire_for_ever() {
        check(
            &[(0, "z2"), (3, "a9"), (4, "")],
            &["z2", "a9", "dead panic_in_alarm "],
        );
    }

    #[test]
    fn at_most_256_alarms_fire_and_the_rest_with_the_next_record() {
        let mut task = task(TimeSource::Log);
        for number in 0..300_u16 {
            let key = [
                b'a',
                b'a' + (number / 20) as u8,
                b'a' + (number % 20) as u8,
                b'1',
            ];
            feed(&mut task, number.into(), 0, &key);
        }
        let (left, rest) = feed(&mut task, 300, 5, b"");
        assert_eq!((left.len(), rest), (ALARMS_PER_RECORD, true));
        let (left, rest) = feed(&mut task, 301, 5, b"");
        assert_eq!((left.len(), rest), (300 - ALARMS_PER_RECORD, false));
    }

    #[test]
    fn hints_that_come_early_all_at_once_are_gone_through_record_by_record() {
        let mut task = task(TimeSource::Log);
        let letter = |number: usize| b'a' + (number % 18) as u8;
        let mut offset = 0;
        for seconds in [0, 2] {
            for number in 0..HINTS_PER_RECORD + 10 {
                let [a, b, c] = [number, number / 18, number / 324].map(letter);
                feed(&mut task, offset, seconds, &[b'a', c, b, a, b'3']);
                offset += 1;
            }
        }
        assert_eq!(feed(&mut task, offset, 4, b""), (Vec::new(), true));
        assert_eq!(feed(&mut task, offset + 1, 4, b""), (Vec::new(), false));
        let (left, rest) = feed(&mut task, offset + 2, 5, b"");
        assert_eq!((left.len(), rest), (ALARMS_PER_RECORD, true));
    }

    #[test]
    fn alarms_stop_when_only_the_records_own_events_are_left() {
        let mut task = task(TimeSource::Log);
        feed(&mut task, 0, 0, b"m1");
        feed(&mut task, 1, 0, b"n1");
        let (left, rest) = feed(&mut task, 2, 5, b"");
        assert_eq!((left.len(), rest), (200, true));
        assert!(!left.contains(&"ring n".to_owned()));
    }

    #[test]
    fn a_record_that_was_folded_is_not_folded_again() {
        let mut task = task(TimeSource::Log);
        feed(&mut task, 4, 0, b"a1");
        let record = Record {
            offset: 4,
            time: Time(0),
            key: Vec::new(),
            value: b"a1".to_vec(),
            headers: Vec::new(),
        };
        assert_eq!(task.fold(&record, &mut Vec::new()), None);
    }
}
