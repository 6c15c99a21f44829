//! The `homeostat` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    homeostat::cli::run()
}
