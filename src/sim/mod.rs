//! The simulator: a seeded world of records, workers and faults ([`World`]), a fleet whose links
//! answer to directives ([`Fleet`]), and a checker that knows from the seed alone what must stand
//! in the log ([`check`]). Generic over the stages and their encodings.

pub mod check;
mod fleet;
pub mod retell;
pub mod scenario;
mod world;

pub use crate::runtime::Seed;

pub use fleet::{Codec, Fleet, FleetPlan, Trouble};
pub use world::{Chaos, Plot, Script, Surroundings, World};
