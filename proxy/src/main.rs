//! The program: see `sluice --help`.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use sluice::logging;

fn main() -> ExitCode {
    let _last = logging::FlushAtEnd;
    match sluice::app::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::print(&format!("sluice: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
