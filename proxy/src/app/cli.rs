//! What a person types.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Address;

/// A WebSocket proxy whose established connections are carried by the kernel.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy.
    Run(Run),
    /// Check a configuration without starting anything.
    Check {
        /// The file; - is standard input.
        #[arg(long)]
        config: PathBuf,
        /// Check the files that it names too: certificates, keys, users. Run it as the user that runs the proxy.
        #[arg(long)]
        files: bool,
    },
    /// Print the JSON schema of the configuration, for editors.
    Schema,
    /// Show what this kernel and these privileges allow, and why not more.
    Probe {
        /// As one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a demo backend: a WebSocket server that sends everything back.
    Echo {
        /// Where it listens; port 0 takes a free one. The address is printed.
        #[arg(long, default_value = "127.0.0.1:9000")]
        listen: SocketAddr,
    },
    /// The unprivileged process that `run` starts.
    #[command(hide = true)]
    Gate {
        #[arg(long)]
        user: Option<String>,
        #[arg(long)]
        control: i32,
    },
}

/// A configuration file, or the short form.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Run {
    /// The configuration file; - is standard input.
    #[arg(long, conflicts_with_all = ["listen", "backend"])]
    pub(super) config: Option<PathBuf>,
    /// Short form: where clients connect. May be given several times.
    #[arg(long, requires = "backend")]
    pub(super) listen: Vec<Address>,
    /// Short form: a server of the backend. May be given several times.
    #[arg(long, requires = "listen")]
    pub(super) backend: Vec<Address>,
}
