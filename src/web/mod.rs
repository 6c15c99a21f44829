//! The door: what other programs and people see of a loop, over HTTP on a loopback address and on
//! the unix socket in the folder (`docs/cli.md`, "The door").
//!
//! # Contract
//! 1. A sample or outcome is answered only when it is durable (`ingest.rs`); what was not answered
//!    may or may not lie in the log, and is sent again.
//! 2. Only what is durable is read or followed, in the order of the log (`reading.rs`,
//!    `follow.rs`).
//! 3. Nothing a client sends can stop the loop: connections, headers, bodies, the bytes of all
//!    bodies together, followers, reads at a time, and the time that each may take have limits
//!    (`server.rs`, `body.rs`).
//! 4. A page of another origin gets nothing: over TCP the `Host` must be an address or `localhost`,
//!    and an `Origin` must be the door's own (`guard.rs`).
//! 5. Once a `[[token]]` is configured, over TCP nobody does or sees what theirs does not allow
//!    (`access.rs`), and an address that is not loopback is listened on only then. Who may open the
//!    socket may all.
//!
//! Every error is JSON, `{"error": ".."}`: what was wrong, what is expected, what to do next.

mod access;
mod answer;
mod body;
mod caller;
mod dashboard;
mod door;
mod explain;
mod follow;
mod guard;
mod health;
mod incidents;
mod ingest;
mod lines;
mod links;
mod metrics;
mod nodes;
mod openmetrics;
mod paced;
mod query;
mod raw;
mod reading;
mod routes;
mod say;
mod server;
mod story;
mod tls;

pub use access::Access;
pub use caller::own_name;
pub use door::Door;
pub use health::{Phase, Pulse};
pub use say::{FOR_S_MAX, draw_salt};
pub use server::{Bound, WebError, bind, serve};
