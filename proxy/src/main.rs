//! The program: see `sluice --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match sluice::app::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
