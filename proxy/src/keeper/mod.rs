//! The keeper: owns the listeners, the kernel program and every relayed pair, and parses nothing but frame headers.
//!
//! One thread, one `epoll`. A pair that the kernel relays costs a slot of the table and two descriptors; its sockets
//! are watched for their end only, so its messages wake nobody.

mod admit;
mod carried;
mod closer;
mod connections;
mod files;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod gate_process;
mod heartbeat;
mod inbox;
mod listeners;
mod pair;
mod pump;
mod reactor;
mod relay;
mod restarts;
mod serve;
mod snapshot;
mod table;
mod timers;
mod watch;

#[cfg(test)]
mod tests;

use anyhow::Context as _;

use crate::config::{Config, EngineChoice, TlsEngineChoice};
use crate::handoff::{self, WhyNot};
use crate::kernel::{Kernel, probe};
use crate::ktls::Ability;
use crate::sys::signals::Signals;
use crate::sys::{privileges, seccomp};
use closer::Closer;
use files::Files;
pub use files::read_files;
use listeners::Listeners;
use serve::Keeper;

/// Descriptors that are not pairs', files' or listeners': maps, the program, control sockets, logs, those that wait to be
/// closed, and some to spare.
const RESERVED_FILES: u64 = 96 + closer::MOST as u64;

/// How many pairs a process with this limit on open files can hold.
#[must_use]
pub fn pairs_for(files: u64) -> u32 {
    u32::try_from(files.saturating_sub(RESERVED_FILES) / 2).unwrap_or(u32::MAX).clamp(1, 1 << 20)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A listener cannot be bound, a file not be read, the engine that the configuration demands not be had, or
/// a system call fails that must not.
pub fn run(config: Config) -> anyhow::Result<()> {
    let signals = Signals::block().context("cannot take over SIGTERM, SIGINT and SIGHUP")?;
    let open_files = privileges::raise_open_files().context("cannot raise the limit on open files")?;
    // Those in use and those on trial.
    let named = 2 * handoff::files::named(&config).len() + config.listeners.len();
    let mut capacity = pairs_for(open_files.saturating_sub(named as u64));
    if config.limits.connections > 0 {
        capacity = capacity.min(config.limits.connections);
    }
    let listeners = Listeners::open(&config)?;
    let (kernel, why_not) = choose_engine(&config, capacity)?;
    let ktls = choose_tls_engine(&config)?;
    privileges::keep_for_keeper().context("cannot give up capabilities")?;
    // Not before: what could be read only with more rights could not be read again when it has changed.
    let files = Files::open(&config)?;
    if let Err(error) = seccomp::confine_keeper() {
        tracing::warn!(%error, "the keeper's system calls are not confined; the kernel needs CONFIG_SECCOMP_FILTER");
    }
    let closer = Closer::start().context("cannot start a thread")?;
    let mut keeper = Keeper::new(config, capacity, files, listeners, closer, kernel)?;
    (keeper.relay.why_not, keeper.ktls) = (why_not, ktls);
    keeper.serve(&signals)
}

/// The kernel relay, if it can be had and is wanted; else why not.
fn choose_engine(config: &Config, capacity: u32) -> anyhow::Result<(Option<Kernel>, Option<WhyNot>)> {
    match probe::kernel(config.relay.engine, capacity, config.relay.backlog_limit) {
        Ok(kernel) => {
            tracing::info!(engine = "sockmap", capacity, "the kernel relays plain pairs");
            Ok((Some(kernel), None))
        }
        Err(refusal) if config.relay.engine == EngineChoice::Sockmap => Err(anyhow::anyhow!(
            "relay.engine is \"sockmap\", which cannot be had ({}): {}",
            refusal.why_not.label(),
            refusal.detail
        )),
        Err(refusal) => {
            let why = refusal.why_not.label();
            tracing::info!(engine = "copy", why, detail = refusal.detail, capacity, "userspace relays plain pairs");
            Ok((None, Some(refusal.why_not)))
        }
    }
}

/// What the kernel may do with TLS.
fn choose_tls_engine(config: &Config) -> anyhow::Result<Ability> {
    let speaks_tls = config.listeners.iter().any(|listener| listener.tls.is_some())
        || config.backends.iter().any(|backend| backend.tls.is_some());
    if config.relay.tls_engine == TlsEngineChoice::Copy || !speaks_tls {
        return Ok(Ability::default());
    }
    let ability = Ability::find();
    match ability.why_none() {
        None => tracing::info!(engine = "ktls", rekey = ability.rekey, "the kernel takes over TLS"),
        Some(why) if config.relay.tls_engine == TlsEngineChoice::Ktls => {
            anyhow::bail!("relay.tls_engine is \"ktls\", which cannot be had: {why}");
        }
        Some(why) => {
            tracing::info!(engine = "copy", why = WhyNot::NoKtls.label(), detail = why, "userspace keeps TLS keys");
        }
    }
    Ok(ability)
}
