//! The whole loop on one page: which stage reads and writes what.

pub mod analyze;
pub mod plan;
pub mod replay;
