//! Nouns, values only: ids, times, sample, assessment, directive, outcome, event, policy.
//!
//! # Glossary
//! - **sample**: one reading of one node with its names; **reading**: the same without them.
//! - **append time**: when the log got a record; the loop's only clock. **event time**: a node's
//!   own clock.
//! - **state**: the seed's score of a reading (EUPHORIC to MYSTICAL); **settled state**: what
//!   lasted.
//! - **symptom**: what a metric shows; **severity**: how ill a node is by its symptoms;
//!   **finding**: a symptom whose latch is on, with what backs it.
//! - **shown**: by this reading; **established**: for long enough; **confirmed**: by the 5-minute
//!   mean too.
//! - **wish**: what an assessment asks for; **directive**: what Plan orders; **outcome**: what the
//!   agent reports.
//! - **withheld**: wished, but not issued by Plan; **refused**: by Analyze's rules for want of
//!   evidence, or by an agent.
//! - **act**: healing or scaling; an interval and a route are not acts.
//! - **episode** of a node and kind: from its first wish until it was not wished for 600 s.
//! - **incident**: a node's time with a severity other than ok; **mass incident**: a storm over a
//!   mesh.
//! - **generation**: of a directive, the seq of its `DirectiveIssued`; of a policy, how many came
//!   before.
//! - **alarm**: the time at which a key wants to be woken; **tick**: an empty record that carries
//!   time.

mod assessment;
mod directive;
mod event;
mod id;
mod outcome;
pub mod packed;
mod policy;
mod raw;
mod record;
mod sample;
mod tables;
mod time;

pub use assessment::*;
pub use directive::*;
pub use event::*;
pub use id::*;
pub use outcome::*;
pub use policy::*;
pub use raw::*;
pub use record::*;
pub use sample::*;
pub use tables::*;
pub use time::*;
