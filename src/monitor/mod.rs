//! Monitor: raw samples to trusted ones.
//!
//! 1. [`validate`] judges a sample's fields in a fixed order and makes a [`Reading`] of it that
//!    cannot be wrong, or names the first [`Fault`].
//! 2. [`Intake`] keeps a node's readings in order by (boot, seq) and drops duplicates.
//! 3. [`Presence`] knows, in append time, whether a node is silent and whether two agents use its
//!    name.
//!
//! [`Reading`]: crate::model::Reading

mod intake;
mod presence;
mod validate;

pub use intake::Intake;
pub use presence::Presence;
pub use validate::{Fault, Reason, Valid, names, validate};
