//! Builds, runs, tests and measures Sluice.
//!
//! `cargo xtask help` lists the tasks. A task ends with 0 when it did its work, with 1 when something failed, and with
//! [`SKIPPED`] when this machine lacks what it needs.

#![warn(clippy::print_stdout, clippy::print_stderr)]

// First: its macros are for all others.
#[macro_use]
mod print;

mod command;
mod ebpf;
mod fuzz;
mod test;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The exit code of a task that this machine cannot run; the one that test runners use for it since Automake.
const SKIPPED: u8 = 77;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs, tests and measures Sluice", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel program into proxy-ebpf/sluice.bpf.o, with its manifest.
    BuildEbpf {
        /// Build it elsewhere, and compare byte for byte with the one that is checked in.
        #[arg(long)]
        check: bool,
    },
    /// The whole main job: build, start a backend and Sluice, drive real frames, show what was relayed and counted.
    Run(Driven),
    /// Every test that this machine can run; the last line is the sum.
    Test,
    /// Every fuzz target for a while, from the seeds in fuzz/seeds.
    Fuzz(fuzz::FuzzArgs),
    /// The tests on stock Debian kernels, each in an emulated machine of its own.
    Vm(vm::VmArgs),
    /// Measure Sluice beside other proxies.
    Bench(Driven),
    /// One command in one guest whose clock counts instructions, to measure what it does.
    #[command(hide = true)]
    Errand(vm::ErrandArgs),
}

/// The arguments of a task that `sluice-drive` does.
#[derive(Args)]
#[command(disable_help_flag = true)]
struct Driven {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

impl Driven {
    /// Becomes that program.
    fn run(self, task: &str) -> anyhow::Result<Outcome> {
        let arguments: Vec<_> = [task.into()].into_iter().chain(self.arguments).collect();
        command::drive(&arguments).map(|never| match never {})
    }
}

/// How a task ended that did not fail on the way.
enum Outcome {
    /// Everything held.
    Done,
    /// Something that was checked did not hold; it has been printed.
    Failed,
    /// This machine lacks something; it has been printed.
    Skipped,
}

fn main() -> ExitCode {
    if ebpf::wrapper::is_wanted() {
        return ebpf::wrapper::run();
    }
    match run(Cli::parse().task) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Skipped) => ExitCode::from(SKIPPED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<Outcome> {
    match task {
        Task::BuildEbpf { check: false } => ebpf::build(),
        Task::BuildEbpf { check: true } => ebpf::check(),
        Task::Run(driven) => driven.run("run"),
        Task::Test => test::run(),
        Task::Fuzz(arguments) => fuzz::run(arguments),
        Task::Vm(arguments) => vm::run(arguments),
        Task::Bench(driven) => driven.run("bench"),
        Task::Errand(arguments) => vm::errand(&arguments),
    }
}
