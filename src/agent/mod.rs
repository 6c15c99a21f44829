//! A node's side: collect, send, obey, report.

pub mod client;
mod sse;
