//! `cargo xtask bench`: Sluice beside a direct connection, NGINX and HAProxy, all in one run.
//!
//! The orchestrator ([`relay`], [`tls`], [`flood`], [`memory`]) moves no payload. The load generator ([`client`]) and the echo
//! backend ([`echo`]) are processes of their own, so that the memory and the context switches of a proxy can be
//! told from theirs. `docs/benchmarks.md` says what each number means.

mod client;
mod client_tls;
mod control;
mod echo;
mod expect;
mod flood;
mod flood_report;
mod frame;
mod guest;
mod guest_report;
mod handshakes;
mod memory;
mod memory_report;
mod pace;
mod paths;
mod poller;
mod process;
mod procfs;
mod relay;
mod report;
mod rounds;
mod stats;
mod targets;
mod tls;
mod tls_report;
mod visitors;
mod vm;

use anyhow::Result;
use clap::{Args, Subcommand};

/// `cargo xtask bench …`
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Echo round trips and memory per idle connection: direct, Sluice, NGINX, HAProxy, interleaved.
    Relay(relay::RelayArgs),
    /// Memory per idle wss:// connection, and TLS and Upgrade handshakes: Sluice, NGINX, HAProxy, interleaved.
    Tls(tls::TlsArgs),
    /// Echo round trips beside clients that are flooded and do not read: direct, Sluice, NGINX, HAProxy, interleaved.
    Flood(flood::FloodArgs),
    /// The echo backend, a process of its own.
    #[command(hide = true)]
    Echo,
    /// The load generator, a process of its own.
    #[command(hide = true)]
    Client,
    /// `ktls` beside `copy`, inside a guest whose clock counts instructions.
    #[command(hide = true)]
    Guest(guest::GuestArgs),
    /// Runs a command that gets SIGTERM when the benchmark dies.
    #[command(hide = true)]
    DieWithParent {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// Runs one benchmark command to its end.
pub(crate) fn run(args: BenchArgs) -> Result<()> {
    match args.command {
        BenchCommand::Relay(args) => relay::run(&args),
        BenchCommand::Tls(args) => tls::run(&args),
        BenchCommand::Flood(args) => flood::run(&args),
        BenchCommand::Echo => echo::run(),
        BenchCommand::Client => client::run(),
        BenchCommand::Guest(args) => guest::run(&args),
        BenchCommand::DieWithParent { command } => process::become_command(&command),
    }
}
