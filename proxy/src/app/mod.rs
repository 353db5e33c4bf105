//! The composition root: which process this is, and what it starts.

mod cli;
mod out;
mod probe;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::Config;
use crate::sys::{memory, privileges, seccomp};
use crate::{echo, gate, keeper, logging};
use cli::{Cli, Command};

/// The keeper's name in the process list.
const KEEPER: &str = "sluice-keeper";
/// The gate's.
const GATE: &str = "sluice-gate";

/// Does what the command line asks for.
///
/// # Errors
/// What failed, where, and what to do about it.
pub fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(arguments) => run_keeper(arguments),
        Command::Check { config, files } => check(&config, files),
        Command::Schema => out::print(&format!("{:#}", Config::schema().as_value())),
        Command::Probe { json } => probe::print(json),
        Command::Echo { listen } => run_echo(listen),
        Command::Gate { user, control } => run_gate(user.as_deref(), control),
    }
}

fn run_keeper(arguments: cli::Run) -> anyhow::Result<()> {
    // First of all: standard input can be read once, and what `load` prints is to be printed once.
    become_keeper()?;
    let (config, doubts) = match &arguments.config {
        Some(path) => load(path)?,
        None => (Config::short(arguments.listen, arguments.backend), Vec::new()),
    };
    privileges::name(KEEPER);
    memory::give_back();
    init_log();
    for doubt in doubts {
        tracing::warn!(config = arguments.config.as_deref().map(Config::name), "{doubt}");
    }
    // `${…}` may stand in what a start fails for, such as a file's name.
    let hidden = config.hidden.clone();
    keeper::run(config).map_err(|error| anyhow::anyhow!("{}", hidden.hide(&format!("{error:#}"))))
}

/// Executes this same program again, same process, with the keeper's name as its own: `ps` shows what a process was
/// called with.
fn become_keeper() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == KEEPER) {
        return Ok(());
    }
    let error = std::process::Command::new("/proc/self/exe").arg0(KEEPER).args(arguments).exec();
    Err(error).context("cannot start the keeper from /proc/self/exe")
}

fn run_gate(user: Option<&str>, control: i32) -> anyhow::Result<()> {
    privileges::name(GATE);
    memory::give_back();
    privileges::drop_all(user).context("the gate cannot give up its privileges")?;
    privileges::die_with_parent().context("the gate cannot be bound to the keeper's life")?;
    privileges::raise_open_files().context("cannot raise the limit on open files")?;
    init_log();
    if let Err(error) = seccomp::confine_gate() {
        tracing::warn!(%error, "the gate's system calls are not confined; the kernel needs CONFIG_SECCOMP_FILTER");
    }
    let control: OwnedFd = crate::sys::inherited(control).context("`sluice gate` is started by `sluice run` only")?;
    gate::run(control)
}

/// Reads a configuration that everything can run with, and says what in it is probably not meant.
fn load(path: &Path) -> anyhow::Result<(Config, Vec<String>)> {
    let config = Config::load(path)?;
    gate::check(&config).map_err(|error| unshown(&config, path, &error))?;
    let doubts = config.doubts().chain(gate::doubts(&config)?).map(|doubt| config.hide(&doubt)).collect();
    Ok((config, doubts))
}

/// An error with the file's name, and without what `${…}` stands for.
fn unshown(config: &Config, path: &Path, error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", Config::name(path), config.hide(&format!("{error:#}")))
}

fn check(path: &Path, files: bool) -> anyhow::Result<()> {
    let (config, mut doubts) = load(path)?;
    if files {
        let of_files = check_files(&config).map_err(|error| unshown(&config, path, &error))?;
        doubts.extend(of_files.iter().map(|doubt| config.hide(doubt)));
    }
    let name = Config::name(path);
    doubts.iter().for_each(|doubt| logging::print(&format!("warning: {name}: {doubt}")));
    out::print(&format!(
        "{name}: {} listeners, {} routes, {} backends: good",
        config.listeners.len(),
        config.routes.len(),
        config.backends.len()
    ))
}

/// Reads the files that a configuration names, and makes of them what a gate does. Returns what is probably not meant.
fn check_files(config: &Config) -> anyhow::Result<Vec<String>> {
    config.process.user.as_deref().map_or(Ok(()), privileges::check_user)?;
    // What can be read only with more rights than the keeper keeps, a start could not read.
    privileges::keep_for_keeper().context("cannot give up capabilities")?;
    gate::check_files(config, keeper::read_files(config)?)
}

fn run_echo(listen: std::net::SocketAddr) -> anyhow::Result<()> {
    let _ = privileges::raise_open_files();
    init_log();
    tokio::runtime::Runtime::new()
        .context("cannot start the runtime")?
        .block_on(async {
            let listener =
                tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
            out::print(&format!("echo server on {}", listener.local_addr()?))?;
            echo::serve(listener, echo::Options::default()).await
        })
        .map(|never| match never {})
}

/// `RUST_LOG` chooses which lines there are (default: info). With debug, the kernel program's own are among them.
fn init_log() {
    let asked = std::env::var_os(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let (filter, malformed) = match filter(&asked) {
        Ok(filter) => (filter, None),
        Err(what) => (EnvFilter::new("info"), Some(what)),
    };
    // At debug level, h2 writes down targets, which may hold tokens.
    // A DNS server that sends nonsense does so for hours; what comes of it is said once, by the gate.
    let dns = ["hickory_net=error", "hickory_proto=error", "hickory_resolver=error"];
    let quiet = ["aya_obj=warn", "aya=warn", "hyper=info", "h2=info", "rustls=info"].into_iter().chain(dns);
    let filter = quiet.filter_map(|rule| rule.parse().ok()).fold(filter, EnvFilter::add_directive);
    logging::init(filter);
    if let Some(error) = malformed {
        tracing::warn!(error, "RUST_LOG={asked:?} cannot be read: the log is that of \"info\"");
    }
}

/// What `RUST_LOG` asks for.
///
/// # Errors
/// What is wrong with it. So is a word alone that is neither a level nor a part of this program, such as `warning`: as a
/// target that nobody has it would leave nothing in the log.
fn filter(asked: &OsStr) -> Result<EnvFilter, String> {
    let Some(asked) = asked.to_str() else { return Err("it is not UTF-8".into()) };
    if asked.is_empty() {
        return Ok(EnvFilter::new("info"));
    }
    for word in asked.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if word.parse::<LevelFilter>().is_err() && !word.contains(['=', '[']) && !word.starts_with("sluice") {
            return Err(format!("{word:?} is no level: they are off, error, warn, info, debug, trace"));
        }
    }
    EnvFilter::builder().parse(asked).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_told() {
        for good in ["", "warn", "WARN", "off", "sluice::gate", "sluice=debug", "info,h2=debug", "debug,"] {
            assert!(filter(OsStr::new(good)).is_ok(), "{good}");
        }
        for bad in ["warning", "inof", "info,warning", "sluice[foo", "="] {
            assert!(filter(OsStr::new(bad)).is_err(), "{bad}");
        }
        let bytes = std::os::unix::ffi::OsStrExt::from_bytes(&b"\xff"[..]);
        assert!(filter(bytes).is_err());
    }

    #[test]
    fn the_examples_are_good() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let (_, doubts) = load(&file).unwrap();
            assert_eq!(doubts, Vec::<String>::new(), "{}", file.display());
        }
    }
}
