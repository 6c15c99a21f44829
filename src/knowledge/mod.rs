//! K: what events mean. The same evolve serves Plan, replay, views and audits.

pub mod audit;
pub mod cycle;
mod evolve;
pub mod explain;
pub mod report;
pub mod views;

pub use evolve::evolve;
