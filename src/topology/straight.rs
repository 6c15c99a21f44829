//! The loop in a straight line: no log, no batches, no faults; time is moved by hand. For scenario
//! files, policy cases and everything that must know what a loop would do.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::model::{Event, LogOpened, PlanRecord, Span, Time};
use crate::runtime::{Record, Task, TimeSource, TopicPartition};
use crate::stream::{Base, NoBase, Output, To, Topic};
use crate::wire;

use super::analyze::AnalyzeFold;
use super::plan::PlanFold;
use super::replay::Recorded;

/// Both stages on one partition each.
pub struct Straight {
    analyze: Task,
    plan: Task,
    now: Time,
    /// When a record last came, by inbox.
    heard: BTreeMap<Topic, Time>,
    /// Next offset of each topic.
    ends: BTreeMap<Topic, i64>,
    /// What was written is not kept.
    forgetful: bool,
    /// Everything written so far.
    pub recorded: Recorded,
}

/// What left since it was last taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// The topic.
    pub topic: Topic,
    /// The value.
    pub value: Vec<u8>,
    /// Name and value of its headers: a dead letter's reason.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Without a record for so long an inbox gets a Tick while an alarm stands.
const TICK_AFTER: Span = Span::seconds(5);

/// The prefix of the topics' names.
const PREFIX: &str = "homeostat.";

impl Straight {
    /// A loop whose log is opened at `now`.
    pub fn new(log_id: &str, now: Time) -> Self {
        let base: Rc<dyn Base> = Rc::new(NoBase);
        let task = |topic, fold| {
            let inbox = TopicPartition {
                topic,
                partition: 0,
            };
            Task::new(inbox, PREFIX, TimeSource::Log, fold, None)
        };
        let mut straight = Straight {
            analyze: task(Topic::Metrics, Box::new(AnalyzeFold::new(&base))),
            plan: task(Topic::PlanInbox, Box::new(PlanFold::new(0, &base))),
            now,
            heard: BTreeMap::new(),
            ends: BTreeMap::new(),
            forgetful: false,
            recorded: Recorded::new(),
        };
        let opened = PlanRecord::LogOpened(LogOpened {
            log_id: log_id.to_owned(),
            audit_name: "straight.example/homeostat".to_owned(),
            partitions: 1,
            time_source: "log".to_owned(),
        });
        straight.append(Topic::PlanInbox, b"", wire::encode_plan(&opened));
        straight
    }

    /// The same loop, keeping nothing of what it writes from now on.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.forgetful = true;
        self
    }

    /// The loop's time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Appends a record to an inbox and folds it, and whatever follows from it; answers what left,
    /// in order.
    pub fn append(&mut self, topic: Topic, key: &[u8], value: Vec<u8>) -> Vec<Left> {
        let mut left = Vec::new();
        let given = Output {
            topic,
            to: To::ByKey,
            key: key.to_vec(),
            value,
            headers: Vec::new(),
        };
        let mut queue = VecDeque::from([given]);
        while let Some(output) = queue.pop_front() {
            let topic = output.topic;
            let record = self.write(output);
            let task = match topic {
                Topic::Metrics => &mut self.analyze,
                Topic::PlanInbox => &mut self.plan,
                Topic::Events | Topic::Cycles | Topic::Directives | Topic::DeadLetters => {
                    left.push(Left {
                        topic,
                        value: record.value,
                        headers: record.headers,
                    });
                    continue;
                }
            };
            self.heard.insert(topic, self.now);
            let mut outputs: Vec<Output> = Vec::new();
            task.fold(&record, &mut outputs);
            queue.extend(outputs);
        }
        left
    }

    /// Moves time on without any Tick: for records that bring their own.
    pub fn skip_to(&mut self, to: Time) {
        self.now = self.now.max(to);
    }

    /// Moves time on, with the Ticks that its owners would append; answers what left with the time
    /// at which it did.
    pub fn advance_to(&mut self, to: Time) -> Vec<(Time, Left)> {
        let mut left = Vec::new();
        while let Some(ticked) = self.tick_by(to) {
            let now = self.now;
            left.extend(ticked.into_iter().map(|l| (now, l)));
        }
        left
    }

    /// Moves time on to the next Tick that an owner would append and answers what left; `None` when
    /// there is none up to `to`, which it is then.
    pub fn tick_by(&mut self, to: Time) -> Option<Vec<Left>> {
        match self.next_tick().filter(|(_, due)| *due <= to) {
            Some((topic, due)) => {
                self.now = self.now.max(due);
                Some(self.append(topic, b"", Vec::new()))
            }
            None => {
                self.now = self.now.max(to);
                None
            }
        }
    }

    /// The events among what left.
    pub fn events(left: &[Left]) -> Vec<Event> {
        let events = left.iter().filter(|left| left.topic == Topic::Events);
        events
            .map(|left| wire::decode_event(&left.value).expect("Plan writes events that it reads"))
            .collect()
    }

    fn next_tick(&mut self) -> Option<(Topic, Time)> {
        let due =
            |heard: &BTreeMap<Topic, Time>, topic| heard.get(&topic).map(|at| *at + TICK_AFTER);
        let metrics = due(&self.heard, Topic::Metrics).filter(|_| self.analyze.waits());
        let plan = due(&self.heard, Topic::PlanInbox).filter(|_| self.plan.waits());
        match (metrics, plan) {
            (Some(m), Some(p)) if m <= p => Some((Topic::Metrics, m)),
            (_, Some(p)) => Some((Topic::PlanInbox, p)),
            (Some(m), None) => Some((Topic::Metrics, m)),
            (None, None) => None,
        }
    }

    fn write(&mut self, output: Output) -> Record {
        let next = self.ends.entry(output.topic).or_default();
        let record = Record {
            offset: *next,
            time: self.now,
            key: output.key,
            value: output.value,
            headers: output.headers,
        };
        *next += 1;
        if !self.forgetful {
            let of = TopicPartition {
                topic: output.topic,
                partition: 0,
            };
            self.recorded.entry(of).or_default().push(record.clone());
        }
        record
    }
}
