//! Homeostat: a MAPE-K control loop as an event-sourced stream processor.

pub mod analyze;
pub mod cli;
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
