//! Folds the recorded inboxes again, piece by piece, and compares what leaves with what was
//! recorded.
//!
//! # What is judged from where
//! - Analyze from the log's start, else from the oldest copy of its rows that the log still reaches
//!   back to: the rows are loaded and folded on from, and its words on `plan-inbox` are compared
//!   from where they stood at that moment.
//! - Plan from the start of `plan-inbox`, else it evolves the events caused before and decides from
//!   there on.
//! - What another engine decided is not judged, nor what stands before it.
//!
//! # A log that moves
//! A folder that is held grows while it is read. So the places are taken once, at first, and in
//! this order:
//! 1. The ends of what is written: `plan-inbox` (Analyze's words), `events`, `directives`. All that
//!    stands before them was caused by records that were folded and committed before 2.
//! 2. The positions up to which the inboxes are folded and committed. Beyond them the loop has
//!    decided nothing yet, so nothing is decided here.
//! 3. The ends of the inboxes as readers see them: a position may be ahead of what may be seen.
//!
//! So everything before the ends of 1 must be decided here too, and everything decided here must be
//! recorded, by now if not by then: the readers go on beyond 1 as long as something decided has no
//! counterpart, and what else they see there is not judged.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::model::{Cause, PlanRecord, Time};
use crate::plan;
use crate::runtime::{
    LogError, Position, Record, RowsCopy, Share, Source, Task, Title, TopicPartition, partition_of,
    partitions_of,
};
use crate::stream::{Base, Output, Topic};
use crate::topology::analyze::{self, AnalyzeFold};
use crate::wire;

use super::events::{Soundness, unsound};
use super::lane::{Lane, Name, Reader, Which};
use super::{Done, InMap, Progress, Report, evolve_all, plan_task};

/// Where everything begins and ends.
struct Places {
    title: Title,
    starts: BTreeMap<TopicPartition, i64>,
    /// Of what is written: see the module.
    ends: BTreeMap<TopicPartition, i64>,
    /// Up to where the inboxes are folded.
    stops: BTreeMap<TopicPartition, i64>,
}

impl Places {
    /// Takes them in the order that the module explains.
    fn take(source: &mut dyn Source) -> Result<Places, LogError> {
        let title = source.title()?;
        let partitions = |topics: &'static [Topic]| {
            let count = title.partitions;
            topics
                .iter()
                .flat_map(move |topic| partitions_of(*topic, count))
        };
        const WRITTEN: &[Topic] = &[Topic::PlanInbox, Topic::Events, Topic::Directives];
        const INBOXES: &[Topic] = &[Topic::Metrics, Topic::PlanInbox];
        let mut places = Places {
            starts: BTreeMap::new(),
            ends: BTreeMap::new(),
            stops: BTreeMap::new(),
            title: title.clone(),
        };
        for of in partitions(WRITTEN) {
            places.ends.insert(of, source.end(of)?);
        }
        for of in partitions(INBOXES) {
            let position = source.position(of)?;
            places
                .stops
                .insert(of, position.map_or(i64::MAX, |position| position.next));
        }
        for of in partitions(INBOXES) {
            let end = source.end(of)?;
            places
                .stops
                .entry(of)
                .and_modify(|stop| *stop = end.min(*stop));
        }
        for of in partitions(&Topic::ALL) {
            places.starts.insert(of, source.start(of)?);
        }
        Ok(places)
    }

    /// A reader of what is written, from an offset or its start.
    fn reader(&self, of: TopicPartition, from: i64) -> Reader {
        Reader::new(of, from.max(self.starts[&of]), self.ends[&of])
    }
}

/// Replays both stages.
pub(super) fn replay(source: &mut dyn Source, progress: Progress<'_>) -> Result<Report, LogError> {
    let places = Places::take(source)?;
    let spans = places.stops.iter();
    let total = spans.map(|(of, stop)| (stop - places.starts[of]).max(0) as u64);
    let mut replay = Replay {
        done: Done {
            records: 0,
            total: total.sum(),
        },
        foreign_word: foreign_word(&places, source)?,
        places,
        report: Report::default(),
        progress,
    };
    let partitions = replay.places.title.partitions;
    for inbox in partitions_of(Topic::Metrics, partitions) {
        replay.analyze(inbox, source)?;
    }
    for inbox in partitions_of(Topic::PlanInbox, partitions) {
        replay.plan(inbox, source)?;
    }
    Ok(replay.report)
}

struct Replay<'p> {
    places: Places,
    /// Offset of the last word of another engine's Analyze, of whichever partition; -1: none.
    foreign_word: i64,
    report: Report,
    done: Done,
    progress: Progress<'p>,
}

/// From where Analyze is judged.
enum Begin {
    /// The log's start.
    Start,
    /// A copy of its rows.
    Copy(RowsCopy),
    /// Nowhere: neither is kept.
    Nowhere,
}

impl Replay<'_> {
    /// Judges Analyze on one partition of `metrics`. It speaks per node; what it says of the nodes
    /// of one of its partitions stands in order in each mesh's inbox.
    fn analyze(&mut self, inbox: TopicPartition, source: &mut dyn Source) -> Result<(), LogError> {
        let rows = Rc::new(InMap::default());
        let (position, judged_from) = match self.begin_of_analyze(inbox, source)? {
            Begin::Start => (None, 0),
            Begin::Copy(copy) => {
                load(&copy, &rows, source)?;
                (Some(copy.position), copy.plan_inbox_end)
            }
            Begin::Nowhere => (None, i64::MAX),
        };
        let title = self.places.title.clone();
        let which = move |record: &Record, report: &mut Report| {
            let spoken = spoken_by(&record.value, title.partitions) == Some(inbox.partition);
            let judged = record.offset >= judged_from;
            report.not_judged += u64::from(spoken && !judged);
            (spoken && judged).then(|| (record.key.clone(), 0))
        };
        let mut lane = self.lane(inbox, Topic::PlanInbox, Box::new(which));
        if judged_from < i64::MAX {
            let base: Rc<dyn Base> = rows.clone();
            let share = Share {
                partition: inbox.partition,
                partitions: self.places.title.partitions,
            };
            let fold = Box::new(AnalyzeFold::new(&base).of(share));
            let title = &self.places.title;
            let task = Task::new(inbox, &title.prefix, title.time_source, fold, position);
            let from = position.map_or(self.places.starts[&inbox], |position| position.next);
            let mut folding = Folding::new(task, rows, from, self.places.stops[&inbox]);
            while folding.piece(source, self)? {
                for (cause, output) in folding.outputs.drain(..) {
                    if output.topic == Topic::PlanInbox {
                        lane.decided((output.key, 0), cause, output.value, &mut self.report);
                    }
                }
                lane.catch_up(source, &mut self.report)?;
            }
        }
        lane.finish(source, &mut self.report)
    }

    /// Across engines only what follows the newest rows that the other one left is judged: they are
    /// copied when a new engine takes over.
    fn begin_of_analyze(
        &self,
        inbox: TopicPartition,
        source: &mut dyn Source,
    ) -> Result<Begin, LogError> {
        let foreign_word = self.foreign_word;
        let inboxes = partitions_of(Topic::PlanInbox, self.places.title.partitions);
        let inbox_start = inboxes.map(|of| self.places.starts[&of]).max().unwrap_or(0);
        let mut copies = source.copies("analyze")?;
        copies.retain(|copy| copy.partition == inbox.partition);
        let foreign_copy = copies
            .iter()
            .filter(|copy| copy.engine != analyze::ENGINE)
            .map(|copy| copy.id)
            .max();
        let start = self.places.starts[&inbox];
        if start == 0 && inbox_start == 0 && foreign_word < 0 && foreign_copy.is_none() {
            return Ok(Begin::Start);
        }
        let reaches = |copy: &RowsCopy| {
            copy.encoding == analyze::ENCODING
                && foreign_copy.is_none_or(|foreign| copy.id >= foreign)
                && (start..=self.places.stops[&inbox]).contains(&copy.position.next)
                && copy.plan_inbox_end >= inbox_start
                && copy.plan_inbox_end > foreign_word
        };
        let oldest = copies
            .into_iter()
            .filter(reaches)
            .min_by_key(|copy| copy.id);
        Ok(oldest.map_or(Begin::Nowhere, Begin::Copy))
    }

    /// Judges Plan on one partition of `plan-inbox`.
    fn plan(&mut self, inbox: TopicPartition, source: &mut dyn Source) -> Result<(), LogError> {
        let partitions = self.places.title.partitions;
        let (from, evolves) = self.begin_of_plan(inbox, source)?;
        let rows = Rc::new(InMap::default());
        let title = &self.places.title;
        let mut task = plan_task(inbox, &title.prefix, title.time_source, &rows);
        let mut events = self.lane(
            inbox,
            Topic::Events,
            Box::new(|_: &Record, _: &mut Report| Some(Lane::any())),
        );
        if evolves {
            let told = self.evolve_before(from, &mut task, &mut events, source)?;
            let Ok(position) = told else { return Ok(()) };
            task.set_position(Some(position));
        }
        let ours = move |record: &Record, report: &mut Report| {
            let (name, cause) = named(&record.value)?;
            let judged = cause.offset >= from;
            let ours = cause.partition == inbox.partition;
            report.not_judged += u64::from(ours && !judged);
            (ours && judged).then_some(name)
        };
        let mut firsts = self.first_directives(inbox, source)?;
        let mut directives = self.lane(inbox, Topic::Directives, Box::new(ours));
        let mut folding = Folding::new(task, rows, from, self.places.stops[&inbox]);
        while folding.piece(source, self)? {
            let report = &mut self.report;
            for (cause, output) in folding.outputs.drain(..) {
                if output.topic == Topic::Events {
                    events.decided(Lane::any(), cause, output.value, report);
                } else if output.topic == Topic::Directives
                    && let Some((name, _)) = named(&output.value)
                {
                    // What is older than its topic's start stands nowhere.
                    let to = partition_of(&output.key, partitions);
                    if firsts.get(&to) == Some(&name) {
                        firsts.remove(&to);
                    }
                    if firsts.contains_key(&to) && !directives.awaits(&name) {
                        report.not_judged += 1;
                    } else {
                        directives.decided(name, cause, output.value, report);
                    }
                }
            }
            events.catch_up(source, report)?;
            directives.catch_up(source, report)?;
        }
        events.finish(source, &mut self.report)?;
        directives.finish(source, &mut self.report)
    }

    /// From which record of the inbox on Plan is judged, and whether it must be brought there.
    fn begin_of_plan(
        &self,
        inbox: TopicPartition,
        source: &mut dyn Source,
    ) -> Result<(i64, bool), LogError> {
        let events = TopicPartition {
            topic: Topic::Events,
            ..inbox
        };
        let mut from = self.places.starts[&inbox];
        let mut heads = self.places.reader(events, 0);
        while let Some(record) = heads.next(source)? {
            if let Ok(head) = wire::decode_head(&record.value)
                && head.engine != plan::ENGINE
            {
                from = from.max(head.cause.offset.saturating_add(1));
            }
        }
        let start = self.places.starts[&events];
        if from > 0 && start > 0 {
            return Err(LogError::Failed(format!(
                "judging Plan from offset {from} of {inbox}: {events} is needed from its \
                 beginning, it starts at {start}"
            )));
        }
        Ok((from, from > 0))
    }

    /// Evolves the events that were caused before a record of the inbox; what follows stays to be
    /// read. The position to go on from, or that the log cannot be evolved, which is reported.
    fn evolve_before(
        &mut self,
        from: i64,
        task: &mut Task,
        events: &mut Lane<'_>,
        source: &mut dyn Source,
    ) -> Result<Result<Position, ()>, LogError> {
        let partition = task.inbox().partition;
        let mut soundness = Soundness::default();
        let mut last = Time(i64::MIN);
        let reader = events.only_reader();
        while let Some(record) = reader.peek(source)? {
            let event = match soundness.check(&record.value) {
                Ok(event) => event,
                Err(fault) => {
                    let seen = fault.record + 1;
                    self.report.add(unsound(partition, seen, fault));
                    return Ok(Err(()));
                }
            };
            if event.cause.offset >= from {
                break;
            }
            evolve_all(task, std::slice::from_ref(&record.value));
            last = event.time;
            self.report.not_judged += 1;
            reader.next(source)?;
        }
        Ok(Ok(Position {
            next: from,
            time: last,
            hears_since: last,
        }))
    }

    /// Per partition of `directives` that no longer begins at 0 the first that is kept of this
    /// inbox.
    fn first_directives(
        &self,
        inbox: TopicPartition,
        source: &mut dyn Source,
    ) -> Result<BTreeMap<i32, Name>, LogError> {
        let mut firsts = BTreeMap::new();
        for of in partitions_of(Topic::Directives, self.places.title.partitions) {
            if self.places.starts[&of] == 0 {
                continue;
            }
            let mut reader = self.places.reader(of, 0);
            while let Some(record) = reader.next(source)? {
                if let Some((name, cause)) = named(&record.value)
                    && cause.partition == inbox.partition
                {
                    firsts.insert(of.partition, name);
                    break;
                }
            }
        }
        Ok(firsts)
    }

    /// A lane of what an inbox's stage writes to a topic: `events` keeps the inbox's number.
    fn lane<'a>(&self, inbox: TopicPartition, topic: Topic, which: Which<'a>) -> Lane<'a> {
        let of = partitions_of(topic, self.places.title.partitions);
        let own = |of: &TopicPartition| topic != Topic::Events || of.partition == inbox.partition;
        let readers = of.filter(own).map(|of| self.places.reader(of, 0)).collect();
        let inbox = format!("{}{inbox}", self.places.title.prefix);
        let topic = format!("{}{}", self.places.title.prefix, topic.name());
        Lane::new(inbox, topic, readers, which)
    }
}

/// A task on its way through its inbox.
struct Folding {
    task: Task,
    rows: Rc<InMap>,
    reader: Reader,
    /// What left in the last piece, each with the offset of its cause.
    outputs: Vec<(i64, Output)>,
}

impl Folding {
    fn new(task: Task, rows: Rc<InMap>, from: i64, stop: i64) -> Self {
        Folding {
            reader: Reader::new(task.inbox(), from, stop),
            task,
            rows,
            outputs: Vec::new(),
        }
    }

    /// Folds a piece; `false`: there was none.
    fn piece(&mut self, source: &mut dyn Source, of: &mut Replay<'_>) -> Result<bool, LogError> {
        let mut outputs = Vec::new();
        let mut folded = 0;
        while folded < PIECE_RECORDS
            && let Some(record) = self.reader.next(source)?
        {
            self.task.fold(&record, &mut outputs);
            let cause = record.offset;
            self.outputs
                .extend(outputs.drain(..).map(|output| (cause, output)));
            folded += 1;
            of.report.records += 1;
            of.done.one(of.progress);
        }
        self.rows.take(self.task.fold_mut().drain());
        Ok(folded > 0)
    }
}

/// See [`Replay::foreign_word`].
fn foreign_word(places: &Places, source: &mut dyn Source) -> Result<i64, LogError> {
    let mut last = -1;
    for of in partitions_of(Topic::PlanInbox, places.title.partitions) {
        let mut words = places.reader(of, 0);
        while let Some(record) = words.next(source)? {
            if let Ok(PlanRecord::Assessment(assessment)) = wire::decode_plan(&record.value)
                && assessment.engine != analyze::ENGINE
            {
                last = last.max(record.offset);
            }
        }
    }
    Ok(last)
}

/// A directive's mesh and generation, and its cause.
fn named(bytes: &[u8]) -> Option<(Name, Cause)> {
    let directive = wire::decode_directive(bytes).ok()?;
    let mesh = directive.mesh.as_str().as_bytes().to_vec();
    Some(((mesh, directive.generation), directive.cause))
}

/// The partition of `metrics` whose Analyze wrote a record of `plan-inbox`; `None` when someone
/// else did.
fn spoken_by(value: &[u8], partitions: i32) -> Option<i32> {
    let node = match wire::decode_plan(value).ok()? {
        PlanRecord::Assessment(assessment) => assessment.node,
        PlanRecord::Outcome(outcome) => outcome.node,
        PlanRecord::LoopBlind(blind) => return Some(blind.partition),
        PlanRecord::Tick
        | PlanRecord::LogOpened(_)
        | PlanRecord::PolicyChange(_)
        | PlanRecord::Approval(_)
        | PlanRecord::Hold(_) => return None,
    };
    Some(partition_of(node.as_str().as_bytes(), partitions))
}

/// Loads the rows of a copy.
fn load(copy: &RowsCopy, rows: &InMap, source: &mut dyn Source) -> Result<(), LogError> {
    let mut after = Vec::new();
    loop {
        let piece = source.copied_rows(copy, &after, PIECE_RECORDS)?;
        let Some((last, _)) = piece.last() else {
            return Ok(());
        };
        after.clone_from(last);
        rows.take(
            piece
                .into_iter()
                .map(|(key, row)| (key, Some(row)))
                .collect(),
        );
    }
}

/// Records folded, and rows loaded, at a time.
const PIECE_RECORDS: usize = 2048;
