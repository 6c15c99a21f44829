//! A world: workers on a simulated cluster, something around them that writes records, and what
//! goes wrong. One thread, one seed, one order of things.

use std::cell::RefCell;
use std::rc::Rc;

use crate::model::{Span, Time};
use crate::runtime::simulated::{Fault, Settings, Simulated};
use crate::runtime::{Config, StageSpec, Stop, TopicPartition, Worker};
use crate::stream::Topic;

use super::Seed;

/// What a world is to be.
#[derive(Clone)]
pub struct Plot {
    /// Everything random comes from here.
    pub seed: u64,
    /// The stages.
    pub stages: Vec<Rc<StageSpec>>,
    /// What the workers are told.
    pub config: Config,
    /// Partitions of every topic.
    pub partitions: i32,
    /// How many workers.
    pub workers: usize,
    /// Faults at numbered operations.
    pub faults: Vec<(usize, Fault)>,
    /// Faults by chance.
    pub chaos: Chaos,
}

/// What goes wrong by chance, once in so many rounds; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chaos {
    /// A worker dies between two turns.
    pub crash: u64,
    /// A worker's session times out without its knowledge.
    pub throw_out: u64,
    /// A dead worker's disk is lost, or an older copy of it put back.
    pub disk: u64,
    /// A broker's clock steps, by up to an hour.
    pub clock: u64,
    /// A fault strikes at one of the next operations.
    pub fault: u64,
    /// Slow and double delivery.
    pub delivery: bool,
}

impl Chaos {
    /// All of it.
    pub const ALL: Chaos = Chaos {
        crash: 20,
        throw_out: 20,
        disk: 30,
        clock: 15,
        fault: 6,
        delivery: true,
    };
}

/// What is around the loop.
pub trait Surroundings {
    /// Does what happens next; false when nothing is left to happen by itself.
    fn step(&mut self, cluster: &Simulated) -> bool;
}

/// Records from outside in a fixed order, each after a gap of time.
pub struct Script {
    records: std::vec::IntoIter<(Span, Topic, Vec<u8>, Vec<u8>)>,
    time: Time,
}

impl Script {
    /// These records: gap, topic, key, value; one without a key goes to every partition. Their own
    /// time (`source = "sample"`) starts at
    /// `start` and moves by the gaps.
    pub fn new(start: Time, records: Vec<(Span, Topic, Vec<u8>, Vec<u8>)>) -> Self {
        Script {
            records: records.into_iter(),
            time: start,
        }
    }
}

impl Surroundings for Script {
    fn step(&mut self, cluster: &Simulated) -> bool {
        let Some((gap, topic, key, value)) = self.records.next() else {
            return false;
        };
        self.time = self.time + gap;
        cluster.advance(gap);
        if key.is_empty() {
            for to in cluster.partitions(topic) {
                cluster.append_to(to, &key, &value, self.time);
            }
        } else {
            cluster.append(topic, &key, &value, self.time);
        }
        true
    }
}

/// A world at work.
pub struct World {
    /// The cluster.
    pub cluster: Simulated,
    plot: Plot,
    seed: Seed,
    workers: Vec<Place>,
    restarts: usize,
}

/// A machine on which a worker runs, or not at the moment.
struct Place {
    name: String,
    worker: Rc<RefCell<Option<Worker>>>,
    copy: Option<crate::runtime::simulated::DiskCopy>,
}

impl World {
    /// A world at its beginning.
    pub fn new(plot: Plot) -> Self {
        let delivery = plot.chaos.delivery.then(|| Seed(!plot.seed).draw());
        let cluster = Simulated::new(Settings {
            partitions: plot.partitions,
            inboxes: plot.stages.iter().map(|stage| stage.inbox).collect(),
            time_source: plot.config.time_source,
            brokers: 2,
            now: START,
            delivery,
        });
        World::on(cluster, plot)
    }

    /// A world on a cluster with a past.
    pub fn on(cluster: Simulated, plot: Plot) -> Self {
        cluster.strike(plot.faults.iter().copied());
        let workers: Vec<_> = (0..plot.workers)
            .map(|number| Place {
                name: format!("worker-{number}"),
                worker: Rc::default(),
                copy: None,
            })
            .collect();
        let world = World {
            cluster,
            seed: Seed(plot.seed),
            plot,
            workers,
            restarts: 0,
        };
        world.let_others_run_in_a_stall();
        world
    }

    /// Runs until nothing is left to do.
    ///
    /// # Errors
    /// What stops a worker for good, or that the loop does not settle.
    pub fn run(&mut self, around: &mut dyn Surroundings) -> Result<(), String> {
        let (mut calm, mut rounds, mut after) = (0, 0, 0);
        while after < ROUNDS_MAX {
            let busy = around.step(&self.cluster);
            if busy {
                self.misfortune();
            } else {
                self.cluster.advance(FLUSH);
                after += 1;
            }
            rounds += 1;
            let worked = self.turns()?;
            if rounds % DECIDE_EVERY == 0 {
                self.cluster.decide();
            }
            calm = if busy || worked { 0 } else { calm + 1 };
            if calm > 1 && self.settled() {
                return Ok(());
            }
        }
        Err(format!(
            "not settled {ROUNDS_MAX} rounds after the last thing happened: {}",
            self.standing()
        ))
    }

    /// How often a worker was started anew.
    pub fn restarts(&self) -> usize {
        self.restarts
    }

    /// Ends all workers in order.
    ///
    /// # Errors
    /// A worker that could not.
    pub fn finish(&mut self) -> Result<(), Stop> {
        for place in &self.workers {
            if let Some(mut worker) = place.worker.take() {
                worker.finish()?;
            }
        }
        Ok(())
    }

    /// Gives every worker a turn, in an order of its own; says whether anything was left to do.
    fn turns(&mut self) -> Result<bool, String> {
        let mut worked = false;
        let first = self.seed.below(self.workers.len() as u64) as usize;
        for i in 0..self.workers.len() {
            let place = &self.workers[(first + i) % self.workers.len()];
            let mut worker = place.worker.borrow_mut();
            if worker.is_none() {
                *worker = start(&self.cluster, &self.plot, &place.name);
                self.restarts += 1;
            }
            let Some(running) = &mut *worker else {
                worked = true;
                continue;
            };
            match running.turn(FLUSH) {
                Ok(turn) => worked |= !turn.idle,
                Err(Stop::Log(_) | Stop::Store(_) | Stop::Commit { .. }) => {
                    *worker = None;
                    worked = true;
                }
                Err(stop) => return Err(format!("{} stopped: {stop}", place.name)),
            }
        }
        Ok(worked)
    }

    /// Draws what goes wrong in this round.
    fn misfortune(&mut self) {
        let chaos = self.plot.chaos;
        let mut seed = self.seed.split();
        let mut hits = |once_in: u64| once_in > 0 && seed.one_in(once_in);
        let [crash, throw_out, disk, clock, fault] = [
            chaos.crash,
            chaos.throw_out,
            chaos.disk,
            chaos.clock,
            chaos.fault,
        ]
        .map(&mut hits);
        let count = self.workers.len() as u64;
        let place = &mut self.workers[seed.below(count) as usize];
        if crash || disk {
            place.worker.take();
        }
        if disk {
            match seed.below(3) {
                0 => self.cluster.put_disk(&place.name, None),
                1 => place.copy = Some(self.cluster.copy_disk(&place.name)),
                _ => {
                    let copy = place.copy.as_ref();
                    self.cluster.put_disk(&place.name, copy);
                }
            }
        }
        if throw_out {
            self.cluster.throw_out(&place.name);
        }
        if clock {
            let by = Span(seed.below(7_200_000) as i64 - 3_600_000);
            let by = if seed.one_in(2) { Span(0) } else { by };
            self.cluster.skew(seed.below(2) as usize, by);
        }
        if fault {
            let at = self.cluster.operations().len() + seed.below(12) as usize;
            self.cluster.strike([(at, *seed.pick(EVERY_FAULT))]);
        }
    }

    /// While one worker stands still, its session ends and the others take over, or another one of
    /// its name is started on its disk.
    fn let_others_run_in_a_stall(&self) {
        let (cluster, plot) = (self.cluster.clone(), self.plot.clone());
        let places: Vec<_> = self
            .workers
            .iter()
            .map(|place| (place.name.clone(), place.worker.clone()))
            .collect();
        let mut seed = Seed(!self.plot.seed);
        self.cluster.on_stall(move || {
            let stalled = |worker: &RefCell<_>| worker.try_borrow_mut().is_err();
            let names = places.iter().filter(|(_, worker)| stalled(worker));
            let mut replacements = Vec::new();
            for (name, _) in names {
                if seed.one_in(2) {
                    cluster.throw_out(name);
                } else {
                    replacements.extend(start(&cluster, &plot, name));
                }
            }
            for _ in 0..STALL_TURNS {
                cluster.advance(FLUSH);
                replacements.retain_mut(|worker| worker.turn(FLUSH).is_ok());
                for (_, worker) in &places {
                    let Ok(mut worker) = worker.try_borrow_mut() else {
                        continue;
                    };
                    let failed = worker
                        .as_mut()
                        .is_some_and(|w: &mut Worker| w.turn(FLUSH).is_err());
                    if failed {
                        *worker = None;
                    }
                }
            }
        });
    }

    /// Whether every inbox is folded and committed to its end.
    fn settled(&self) -> bool {
        self.inboxes().all(|inbox| {
            let next = self
                .cluster
                .position(inbox)
                .map_or(0, |position| position.next);
            next == self.cluster.visible_end(inbox)
        })
    }

    fn standing(&self) -> String {
        let one = |inbox| {
            let next = self.cluster.position(inbox).map(|p| p.next);
            format!("{inbox} at {next:?} of {}", self.cluster.end(inbox))
        };
        self.inboxes().map(one).collect::<Vec<_>>().join(", ")
    }

    fn inboxes(&self) -> impl Iterator<Item = TopicPartition> {
        let topics = self.plot.stages.iter().map(|stage| stage.inbox);
        topics.flat_map(|topic| self.cluster.partitions(topic))
    }
}

/// Starts a worker; `None` when it died of a fault at once.
fn start(cluster: &Simulated, plot: &Plot, name: &str) -> Option<Worker> {
    let (log, stores) = cluster.connect(name);
    let clock = Rc::new(cluster.clone());
    Worker::new(log, stores, clock, plot.stages.clone(), plot.config.clone()).ok()
}

/// 2026-01-01T00:00:00Z.
const START: Time = Time(1_767_225_600_000);

/// A round without anything to do lasts as long as a commit waits at most.
const FLUSH: Span = Span(200);

/// Rounds after which transactions in flight time out.
const DECIDE_EVERY: usize = 7;

/// Turns that the others get while one stands still.
const STALL_TURNS: usize = 4;

/// Rounds without anything new after which a world that does not settle has failed.
const ROUNDS_MAX: usize = 600;

/// Faults drawn by chance.
const EVERY_FAULT: &[Fault] = &[
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::NotPersisted,
    Fault::Persisted,
    Fault::UnknownLost,
    Fault::Late,
    Fault::InFlight { commits: true },
    Fault::InFlight { commits: false },
    Fault::CrashInFlight { commits: true },
    Fault::CrashInFlight { commits: false },
    Fault::Fatal,
    Fault::Stall,
    Fault::Revoke,
];
