//! What carries the folds: the ports ([`Log`], [`Stores`], [`Clock`]), a task (one stage on one
//! partition), the worker that drives tasks, the commit protocol, and the simulated back end.
//!
//! Nothing here knows what is folded: stages are [`StageSpec`]s. What becomes durable together, and
//! in which order, stands in [`commit`].

pub mod commit;
#[expect(
    clippy::disallowed_methods,
    reason = "the rim: an export lies in files"
)]
pub mod export;
mod formats;
pub mod frame;
#[cfg(feature = "io")]
mod handle;
mod log;
mod memory;
mod merge;
mod route;
mod seed;
pub mod simulated;
mod source;
mod store;
mod task;
mod worker;

pub use commit::{Mark, Stop, mark_of};
pub use formats::{Entering, Formats, Held, OwnFormats, When, enter_again};
#[cfg(feature = "io")]
pub use handle::{AppendError, Durable, HeldRows, Incoming, LogHandle};
pub use log::{
    Chunk, CommitError, Log, LogError, Outgoing, Polled, Position, Record, TopicPartition,
};
pub use memory::{InMemory, Recorded, partitions_of};
pub use merge::Merged;
pub use route::{Router, murmur2, partition_of};
pub use seed::Seed;
pub use source::{RowsCopy, Source, Title, halve, only};
pub use store::{Below, KeyValue, Rows, Store, StoreError, Stores};
pub use task::{Folded, Task, TimeSource, fold_straight};
pub use worker::{Clock, Config, Open, Recover, Share, StageSpec, Tally, Turn, Worker};
