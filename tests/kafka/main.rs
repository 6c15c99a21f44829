//! The real program on a real broker, under what happens to both.

mod broken;
#[path = "../broker/mod.rs"]
mod broker;
mod cluster;
mod crashes;
mod kcat;
#[path = "../processes/mount.rs"]
mod mount;
#[path = "../processes/process.rs"]
mod process;
mod proxy;
mod scaling;
mod stops;

// The binary of the embedded processes takes these; named here, they are not dead.
const _: (
    fn(
        &process::Processor,
        &str,
    ) -> Result<homeostat::agent::client::Answer, homeostat::agent::client::ClientError>,
    fn(&process::Processor),
    fn(&mount::Mount, &str),
) = (
    process::Processor::post,
    process::Processor::settle,
    mount::Mount::remount,
);
