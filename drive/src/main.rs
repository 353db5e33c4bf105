//! Drives clients through Sluice: `cargo xtask run` and `cargo xtask bench` build this program beside Sluice, with the same
//! profile, and run it.

#![warn(clippy::print_stdout, clippy::print_stderr)]

// First: its macros are for all others.
#[macro_use]
#[path = "../../xtask/src/print.rs"]
mod print;

mod bench;
mod demo;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", disable_version_flag = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a backend and Sluice, drive real frames, show what was relayed and counted.
    Run {
        /// End after the round trip, with 0 only if all of it held.
        #[arg(long)]
        once: bool,
    },
    /// Measure Sluice beside other proxies.
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Run { once } => demo::run(once),
        Task::Bench(arguments) => bench::run(arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// This program, and the folder that cargo builds into, which it lies in.
fn this_program() -> anyhow::Result<(PathBuf, PathBuf)> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let target = program.parent().and_then(Path::parent).context("this program is in no folder of cargo's")?.to_owned();
    Ok((program, target))
}
