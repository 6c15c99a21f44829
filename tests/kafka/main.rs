//! The real program on a real broker, under what happens to both.

#[path = "../broker/mod.rs"]
mod broker;
mod broken;
mod cluster;
mod crashes;
#[path = "../processes/process.rs"]
mod process;
mod proxy;
mod stops;
