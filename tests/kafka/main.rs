//! The real program on a real broker, under what happens to both.

mod broken;
#[path = "../broker/mod.rs"]
mod broker;
mod cluster;
mod crashes;
#[path = "../processes/process.rs"]
mod process;
mod proxy;
mod stops;
