//! The `homeostat` binary; everything is in the library.

use std::process::ExitCode;

/// Records are taken on librdkafka's threads and freed on the worker's, thousands at a time: the C
/// library's heaps spend a fifth of a sample's CPU on that.
#[cfg(all(feature = "io", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    homeostat::cli::run()
}
