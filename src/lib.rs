//! Homeostat: a MAPE-K control loop as an event-sourced stream processor.

// Of the library alone: integration tests and benches may touch the world. `clippy.toml` says what
// to write instead; a room that must do it all the same says so where it is named below.
#![warn(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used
)]

pub mod analyze;
#[expect(
    clippy::disallowed_methods,
    reason = "the rim: arguments, files, standard input and output"
)]
pub mod cli;
#[expect(
    clippy::disallowed_methods,
    reason = "the rim: it reads one file and the environment"
)]
pub mod config;
pub mod execute;
pub mod knowledge;
pub mod model;
pub mod monitor;
pub mod plan;
pub mod runtime;
pub mod sim;
pub mod stream;
pub mod topology;
pub mod wire;
