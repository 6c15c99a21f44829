//! Knowledge: what events mean. The same evolve serves Plan, replay, views and audits.

pub mod audit;
mod evolve;

pub use evolve::evolve;
