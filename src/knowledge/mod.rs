//! Knowledge: what events mean. The same evolve serves Plan, replay, views and audits.

mod evolve;

pub use evolve::evolve;
