//! The real program on a real broker, under what happens to both.

mod broken;
#[path = "../broker/mod.rs"]
mod broker;
mod cluster;
mod crashes;
mod kcat;
#[path = "../processes/process.rs"]
mod process;
mod proxy;
mod stops;

// The binary of the embedded processes takes these; named here, they are not dead.
const _: (
    fn(&process::Home, &[&str]) -> process::Processor,
    fn(
        &process::Processor,
        &str,
    ) -> Result<homeostat::agent::client::Answer, homeostat::agent::client::ClientError>,
    fn(&process::Processor),
) = (
    process::Home::run_with,
    process::Processor::post,
    process::Processor::settle,
);
