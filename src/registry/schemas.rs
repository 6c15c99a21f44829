//! The schemas by id, and the thread that asks for those that are not there.
//!
//! The worker looks an id up and never waits; the first look at an unknown one asks for it. A task
//! per id asks again and again, slower and slower, as long as the id is wanted. When to give a
//! record up is the worker's question, at the time at which it asks: [`Schemas::look`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::wire::confluent::Written;

use super::client::{RegistryError, Server};
use super::kept::Kept;

/// How long ids are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// While the registry cannot be had.
    pub(super) gone: Duration,
    /// While it says that it has no such id.
    pub(super) unknown: Duration,
}

/// What is known of an id.
#[derive(Clone, Debug)]
pub(super) enum Look {
    /// What was written with it can be read, or why it cannot: for ever.
    Known(Arc<Result<Written, String>>),
    /// It is asked for.
    Asked,
    /// It was asked for long enough; why it was not had.
    GivenUp(String),
}

enum Entry {
    Known(Arc<Result<Written, String>>),
    Wanted {
        /// Since when it is asked for.
        since: Instant,
        /// The last answer that was none.
        last: Option<RegistryError>,
        given_up: bool,
    },
}

struct Shared {
    entries: BTreeMap<u32, Entry>,
    kept: Kept,
    /// Ids in a row that the registry said it does not have and that were given up.
    unknown_in_a_row: u32,
}

/// The schemas of one registry.
pub(super) struct Schemas {
    shared: Arc<Mutex<Shared>>,
    asked: Option<mpsc::UnboundedSender<u32>>,
    thread: Option<JoinHandle<()>>,
    patience: Patience,
    max: usize,
}

impl Schemas {
    /// The schemas kept, and a thread that asks `server` for others; without one there are no
    /// others.
    pub(super) fn new(
        server: Option<Server>,
        kept: Kept,
        patience: Patience,
        max: usize,
    ) -> Result<Schemas, RegistryError> {
        let entries = kept
            .schemas
            .iter()
            .map(|(id, text)| (*id, Entry::Known(Arc::new(Written::by(text)))))
            .collect();
        let shared = Arc::new(Mutex::new(Shared {
            entries,
            kept,
            unknown_in_a_row: 0,
        }));
        let mut schemas = Schemas {
            shared: shared.clone(),
            asked: None,
            thread: None,
            patience,
            max,
        };
        if let Some(server) = server {
            let (asked, wanted) = mpsc::unbounded_channel();
            let thread = std::thread::Builder::new()
                .name("registry".to_owned())
                .spawn(move || fetch(&server, &shared, wanted))
                .map_err(|error| {
                    RegistryError::Failed(format!("the registry: starting a thread: {error}"))
                })?;
            schemas.asked = Some(asked);
            schemas.thread = Some(thread);
        }
        Ok(schemas)
    }

    /// What is known of an id now; asks for it if nothing is.
    pub(super) fn look(&mut self, id: u32) -> Look {
        let Some(asked) = &self.asked else {
            return match lock(&self.shared).entries.get(&id) {
                Some(Entry::Known(written)) => Look::Known(written.clone()),
                _ => Look::GivenUp("no Schema Registry is named: formats.registry".to_owned()),
            };
        };
        let mut shared = lock(&self.shared);
        let shared = &mut *shared;
        let hasty = shared.unknown_in_a_row >= HASTY_AFTER;
        match shared.entries.get_mut(&id) {
            Some(Entry::Known(written)) => return Look::Known(written.clone()),
            Some(Entry::Wanted {
                since,
                last,
                given_up,
            }) => {
                let unknown = matches!(last, Some(RegistryError::Unknown(_)));
                let patience = match (unknown, hasty) {
                    (true, true) => Duration::ZERO,
                    (true, false) => self.patience.unknown,
                    (false, _) => self.patience.gone,
                };
                if !*given_up && since.elapsed() < patience {
                    return Look::Asked;
                }
                let why = last.as_ref().map_or_else(
                    || "the registry has not answered yet".to_owned(),
                    ToString::to_string,
                );
                if !*given_up {
                    *given_up = true;
                    shared.unknown_in_a_row += u32::from(unknown);
                    warn!("schema {id} is given up, what is written with it is rejected: {why}");
                }
                return Look::GivenUp(why);
            }
            None => {}
        }
        if shared.entries.len() >= self.max {
            // What nobody has is the first to go: ids that do not exist must not crowd out others.
            let mut gone = shared
                .entries
                .iter()
                .filter(|(_, entry)| matches!(entry, Entry::Wanted { given_up: true, .. }));
            match gone.next().map(|(id, _)| *id) {
                Some(id) => {
                    shared.entries.remove(&id);
                }
                None => {
                    let max = self.max;
                    return Look::GivenUp(format!(
                        "{max} schemas are kept, and no more (formats.schemas_max)"
                    ));
                }
            }
        }
        let wanted = Entry::Wanted {
            since: Instant::now(),
            last: None,
            given_up: false,
        };
        shared.entries.insert(id, wanted);
        // The thread ends only with this sender: if it died, patience ends all the same.
        let _ = asked.send(id);
        Look::Asked
    }
}

impl Drop for Schemas {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// After so many unknown ids in a row, one is given up at the first answer that it is unknown: who
/// writes random ids must not hold a partition up for each of them.
const HASTY_AFTER: u32 = 3;

/// Waits between two requests for an id: from, to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Requests at a time.
const REQUESTS_MAX: usize = 8;

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("nobody panics who holds it")
}

/// The thread: asks for what is wanted until nobody can want anything any more.
fn fetch(server: &Server, shared: &Arc<Mutex<Shared>>, mut wanted: mpsc::UnboundedReceiver<u32>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            warn!("the registry cannot be asked: starting a runtime: {error}");
            return;
        }
    };
    let turns = Arc::new(tokio::sync::Semaphore::new(REQUESTS_MAX));
    runtime.block_on(async {
        while let Some(id) = wanted.recv().await {
            let (server, shared, turns) = (server.clone(), shared.clone(), turns.clone());
            tokio::spawn(async move { fetch_one(id, &server, &shared, &turns).await });
        }
    });
}

/// Asks for an id until it is had or no longer wanted.
async fn fetch_one(
    id: u32,
    server: &Server,
    shared: &Mutex<Shared>,
    turns: &tokio::sync::Semaphore,
) {
    let mut pause = PAUSES.0;
    loop {
        let turn = turns.acquire().await;
        let answer = server.schema(id).await;
        drop(turn);
        if settled(id, answer, &mut lock(shared)) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Takes an answer; whether the id needs no further one.
fn settled(id: u32, answer: Result<String, RegistryError>, shared: &mut Shared) -> bool {
    let Some(entry) = shared.entries.get_mut(&id) else {
        return true;
    };
    match answer {
        Ok(text) => {
            if let Err(error) = shared.kept.schema(id, &text) {
                warn!("schema {id} is known until this process ends: {error}");
            }
            let written = Written::by(&text);
            match &written {
                Ok(_) => info!("schema {id} is known"),
                Err(why) => warn!("schema {id} is of no use: {why}"),
            }
            *entry = Entry::Known(Arc::new(written));
            shared.unknown_in_a_row = 0;
            true
        }
        Err(RegistryError::Useless(why)) => {
            warn!("schema {id} is of no use: {why}");
            *entry = Entry::Known(Arc::new(Err(why)));
            true
        }
        Err(error) => {
            if let Entry::Wanted { last, .. } = entry {
                *last = Some(error);
            }
            false
        }
    }
}
