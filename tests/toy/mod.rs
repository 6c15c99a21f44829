//! Two small stages with everything that the runtime must carry: rows, alarms, blindness, rejects,
//! panics, more events than a record may cause, a second stage whose rows are a cache of its
//! events.
//!
//! `count` folds `metrics` (`n3 hello`: a node spoke) and tells `plan-inbox` how often each node
//! was heard, and when it fell silent. `decide` folds that and orders something every other time.

use std::rc::Rc;

use homeostat::model::{Span, Time};
use homeostat::runtime::{Config, Open, Recover, StageSpec};
use homeostat::sim::Seed;
use homeostat::sim::check::EventFacts;
use homeostat::stream::{
    Alarms, At, Base, EVENTS_PER_RECORD, Fold, Key, Output, Reject, Row, RowError, Table, To, Topic,
};

/// The two stages, with rows of this encoding.
pub fn stages(encoding: u32) -> Vec<Rc<StageSpec>> {
    let count: Open = Rc::new(|_, base| Box::new(Count::new(base)));
    let decide: Open = Rc::new(|_, base| Box::new(Decide::new(base)));
    vec![
        Rc::new(StageSpec {
            name: "count",
            inbox: Topic::Metrics,
            recover: Recover::Refold,
            urgent: &[Topic::PlanInbox],
            encoding,
            engine: "count/1",
            open: count,
        }),
        Rc::new(StageSpec {
            name: "decide",
            inbox: Topic::PlanInbox,
            recover: Recover::Evolve {
                topic: Topic::Events,
            },
            urgent: &[Topic::Directives],
            encoding,
            engine: "decide/1",
            open: decide,
        }),
    ]
}

/// A config in which much happens within few records.
pub fn config(seed: &mut Seed) -> Config {
    Config {
        flush_records: 1 + seed.below(8) as usize,
        apply_records: 1 + seed.below(12) as usize,
        // By records alone: where a crash finds the rows is drawn, not timed.
        apply_every: Span(i64::MAX / 4),
        ..Config::default()
    }
}

/// A record of a script: gap, topic, key, value.
pub type Line = (Span, Topic, Vec<u8>, Vec<u8>);

/// Records of a small fleet; with `bursts` some cause more events than a record may.
pub fn script(seed: &mut Seed, length: usize, bursts: bool) -> Vec<Line> {
    (0..length)
        .map(|_| {
            let node = ["n1", "n2", "n3", "trap"][seed.below(4) as usize];
            let gap = match seed.below(12) {
                0 => Span::seconds(40),
                1..=3 => Span(0),
                n => Span(n as i64 * 700),
            };
            let value = match seed.below(24) {
                0 => "bad".to_owned(),
                1 => format!("{node} panic"),
                2 if bursts => format!("{node} burst"),
                3 => String::new(),
                _ => format!("{node} hello"),
            };
            (gap, Topic::Metrics, node.into(), value.into())
        })
        .collect()
}

/// What the checker asks of an event.
pub fn facts(value: &[u8]) -> Result<EventFacts, String> {
    let event = Event::parse(value).ok_or("not an event")?;
    Ok(EventFacts {
        seq: event.seq,
        directive: (event.kind == "issued").then(|| order(&event)),
    })
}

/// A value without the offset in it.
pub fn plain(_topic: Topic, value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    let words = text.split(' ').filter(|word| !word.starts_with('@'));
    words.collect::<Vec<_>>().join(" ").into_bytes()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

impl Key for Name {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok().map(Name)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    count: i64,
    heard: Time,
    silent: bool,
}

impl Row for Node {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(format!("{} {} {}", self.count, self.heard.0, self.silent).bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, RowError> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        let &[count, heard, silent] = &words[..] else {
            return Err(RowError(text));
        };
        Ok(Node {
            count: count.parse().unwrap(),
            heard: Time(heard.parse().unwrap()),
            silent: silent == "true",
        })
    }
}

struct Count {
    nodes: Table<Name, Node>,
    alarms: Alarms,
}

impl Count {
    fn new(base: Rc<dyn Base>) -> Self {
        Count {
            nodes: Table::new(1, base.clone()).with_clean_max(2),
            alarms: Alarms::new(2, base),
        }
    }

    fn put(&mut self, at: &At, name: &Name, node: Node) {
        let before = self.wake_at(at, name.0.as_bytes());
        self.nodes.put(name.clone(), Some(node));
        let after = self.wake_at(at, name.0.as_bytes());
        self.alarms.moved(name.0.as_bytes(), before, after);
    }
}

impl Fold for Count {
    fn own_key(&self, _key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(value).ok()?;
        Some(text.split_once(' ')?.0.into())
    }

    fn record(
        &mut self,
        at: &At,
        _key: &[u8],
        value: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        if value.is_empty() {
            return Ok(());
        }
        let text = std::str::from_utf8(value).unwrap();
        let (name, what) = text.split_once(' ').ok_or(Reject {
            reason: "not_two_words",
            detail: text.to_owned(),
        })?;
        let name = Name(name.to_owned());
        let mut node = self
            .nodes
            .get(&name)
            .map(|n| (*n).clone())
            .unwrap_or_default();
        if node.silent {
            out.push(tell(&name, format!("{} back @{}", name.0, at.cause.offset)));
        }
        node.count += 1;
        node.heard = at.now;
        node.silent = false;
        let word = if what == "burst" { "burst" } else { "spoke" };
        let text = format!("{} {word} {} @{}", name.0, node.count, at.cause.offset);
        out.push(tell(&name, text));
        self.put(at, &name, node);
        if what == "panic" {
            std::panic::resume_unwind(Box::new("told to panic"));
        }
        Ok(())
    }

    fn hears(&self) -> bool {
        true
    }

    fn blind(&mut self, at: &At, from: Time, out: &mut Vec<Output>) {
        out.push(Output {
            to: To::Same,
            key: Vec::new(),
            ..tell(
                &Name(String::new()),
                format!("- blind {} {}", from.0, at.now.0),
            )
        });
    }

    fn alarms(&mut self) -> &mut Alarms {
        &mut self.alarms
    }

    fn wake_at(&self, at: &At, key: &[u8]) -> Option<Time> {
        let name = Name::read(key)?;
        let node = self.nodes.get(&name)?;
        (!node.silent).then(|| node.heard.max(at.hears_since) + SILENT_AFTER)
    }

    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
        let name = Name::read(key).unwrap();
        let mut node = (*self.nodes.get(&name).unwrap()).clone();
        node.silent = true;
        out.push(tell(&name, format!("{} silent {}", name.0, at.now.0)));
        self.put(at, &name, node);
        if name.0 == "trap" {
            std::panic::resume_unwind(Box::new("the trap's alarm panics"));
        }
    }

    fn begin(&mut self) {
        self.nodes.begin();
        self.alarms.begin();
    }

    fn accept(&mut self) {}

    fn rollback(&mut self) {
        self.nodes.rollback();
        self.alarms.rollback();
    }

    fn evolve(&mut self, _value: &[u8]) -> Result<(), Reject> {
        unreachable!("count is folded again")
    }

    fn changed(&self) -> usize {
        self.nodes.changed() + self.alarms.changed()
    }

    fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut rows = Vec::new();
        self.nodes.drain(&mut rows);
        self.alarms.drain(&mut rows);
        rows
    }
}

/// What `count` tells `decide`; odd nodes live in one mesh, the others in another.
fn tell(name: &Name, text: String) -> Output {
    let mesh = if name.0.ends_with(['1', '3']) {
        "odd"
    } else {
        "even"
    };
    Output {
        topic: Topic::PlanInbox,
        to: To::ByKey,
        key: mesh.into(),
        value: text.into_bytes(),
        headers: Vec::new(),
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Mesh {
    seq: i64,
    spoken: i64,
    /// When the last order runs out.
    due: Option<Time>,
    /// Events of a burst still to come, due since.
    pending: i64,
    since: Time,
}

impl Row for Mesh {
    fn write(&self, out: &mut Vec<u8>) {
        let due = self.due.map_or(-1, |due| due.0);
        let Mesh {
            seq,
            spoken,
            pending,
            since,
            ..
        } = self;
        out.extend(format!("{seq} {spoken} {due} {pending} {}", since.0).bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, RowError> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let words: Vec<i64> = text.split(' ').map(|w| w.parse().unwrap()).collect();
        let &[seq, spoken, due, pending, since] = &words[..] else {
            return Err(RowError(text));
        };
        Ok(Mesh {
            seq,
            spoken,
            due: (due >= 0).then_some(Time(due)),
            pending,
            since: Time(since),
        })
    }
}

/// `3 issued n1 @17 1767225600000 mesh`
struct Event {
    seq: i64,
    kind: String,
    node: String,
    time: Time,
    mesh: String,
}

impl Event {
    fn parse(value: &[u8]) -> Option<Event> {
        let text = std::str::from_utf8(value).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let &[seq, kind, node, _offset, time, mesh] = &words[..] else {
            return None;
        };
        let known = ["spoke", "issued", "expired", "burst", "spilt", "noted"];
        known.contains(&kind).then_some(Event {
            seq: seq.parse().ok()?,
            kind: kind.to_owned(),
            node: node.to_owned(),
            time: Time(time.parse().ok()?),
            mesh: mesh.to_owned(),
        })
    }
}

fn order(event: &Event) -> Vec<u8> {
    format!("order {} {} {}", event.mesh, event.node, event.seq).into_bytes()
}

struct Decide {
    meshes: Table<Name, Mesh>,
    alarms: Alarms,
}

impl Decide {
    fn new(base: Rc<dyn Base>) -> Self {
        Decide {
            meshes: Table::new(1, base.clone()),
            alarms: Alarms::new(2, base),
        }
    }

    fn mesh(&self, name: &Name) -> Mesh {
        self.meshes
            .get(name)
            .map(|m| (*m).clone())
            .unwrap_or_default()
    }

    /// One more event: decided, evolved, written.
    fn emit(&mut self, at: &At, mesh: &Name, kind: &str, node: &str, out: &mut Vec<Output>) {
        let seq = self.mesh(mesh).seq;
        let (offset, time) = (at.cause.offset, at.now.0);
        let value = format!("{seq} {kind} {node} @{offset} {time} {}", mesh.0).into_bytes();
        self.evolve(&value).unwrap();
        let output = |topic, to, value| Output {
            topic,
            to,
            key: mesh.0.clone().into_bytes(),
            value,
            headers: Vec::new(),
        };
        if kind == "issued" {
            let event = Event::parse(&value).unwrap();
            out.push(output(Topic::Directives, To::ByKey, order(&event)));
        }
        out.push(output(Topic::Events, To::Same, value));
    }

    fn spill(&mut self, at: &At, mesh: &Name, out: &mut Vec<Output>) {
        let used = |out: &[Output]| out.iter().filter(|o| o.topic == Topic::Events).count();
        let mut left = EVENTS_PER_RECORD - used(out);
        while left > 0 && self.mesh(mesh).pending > 0 {
            self.emit(at, mesh, "spilt", "-", out);
            left -= 1;
        }
    }
}

impl Fold for Decide {
    fn own_key(&self, _key: &[u8], _value: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn record(
        &mut self,
        at: &At,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        if value.is_empty() {
            return Ok(());
        }
        let text = std::str::from_utf8(value).unwrap();
        let mesh = Name::read(key).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        match words[1] {
            "spoke" => {
                self.emit(at, &mesh, "spoke", words[0], out);
                if self.mesh(&mesh).spoken % 2 == 0 {
                    self.emit(at, &mesh, "issued", words[0], out);
                }
            }
            "burst" => {
                self.emit(at, &mesh, "burst", words[0], out);
                self.spill(at, &mesh, out);
            }
            _ => self.emit(at, &mesh, "noted", words[0], out),
        }
        Ok(())
    }

    fn hears(&self) -> bool {
        false
    }

    fn blind(&mut self, _at: &At, _from: Time, _out: &mut Vec<Output>) {
        unreachable!("decide does not listen for silence")
    }

    fn alarms(&mut self) -> &mut Alarms {
        &mut self.alarms
    }

    fn wake_at(&self, _at: &At, key: &[u8]) -> Option<Time> {
        let mesh = self.mesh(&Name::read(key)?);
        let pending = (mesh.pending > 0).then_some(mesh.since);
        [mesh.due, pending].into_iter().flatten().min()
    }

    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
        let name = Name::read(key).unwrap();
        if self.mesh(&name).due.is_some_and(|due| due <= at.now) {
            self.emit(at, &name, "expired", "-", out);
        }
        self.spill(at, &name, out);
    }

    fn begin(&mut self) {
        self.meshes.begin();
        self.alarms.begin();
    }

    fn accept(&mut self) {}

    fn rollback(&mut self) {
        self.meshes.rollback();
        self.alarms.rollback();
    }

    fn evolve(&mut self, value: &[u8]) -> Result<(), Reject> {
        let event = Event::parse(value).ok_or_else(|| Reject {
            reason: "unknown_event",
            detail: String::from_utf8_lossy(value).into_owned(),
        })?;
        let name = Name(event.mesh.clone());
        let wake = |mesh: &Mesh| {
            let pending = (mesh.pending > 0).then_some(mesh.since);
            [mesh.due, pending].into_iter().flatten().min()
        };
        let mut mesh = self.mesh(&name);
        let before = wake(&mesh);
        mesh.seq = event.seq + 1;
        match event.kind.as_str() {
            "spoke" => mesh.spoken += 1,
            "issued" => mesh.due = Some(event.time + ORDER_LASTS),
            "expired" => mesh.due = None,
            "burst" => {
                mesh.pending += BURST;
                mesh.since = event.time;
            }
            "spilt" => mesh.pending -= 1,
            _ => {}
        }
        let after = wake(&mesh);
        self.meshes.put(name.clone(), Some(mesh));
        self.alarms.moved(name.0.as_bytes(), before, after);
        Ok(())
    }

    fn changed(&self) -> usize {
        self.meshes.changed() + self.alarms.changed()
    }

    fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut rows = Vec::new();
        self.meshes.drain(&mut rows);
        self.alarms.drain(&mut rows);
        rows
    }
}

const SILENT_AFTER: Span = Span::seconds(30);

const ORDER_LASTS: Span = Span::seconds(20);

const BURST: i64 = 300;
