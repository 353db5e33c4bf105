//! What the keeper gives a new gate before it may begin.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail};

use super::control::Receiver;
use super::files::Files;
use crate::handoff::stats::Stats;
use crate::handoff::wire::Packet;
use crate::handoff::{Held, Hello, ToGate, memory};

/// Everything that a gate runs on.
pub(super) struct Equipment {
    pub(super) hello: Hello,
    pub(super) stats: Stats,
    pub(super) listeners: Vec<Listening>,
    pub(super) files: Files,
    pub(super) held: Held,
    pub(super) admin: Option<OwnedFd>,
}

/// A listening socket.
pub(super) struct Listening {
    pub(super) index: u16,
    pub(super) socket: OwnedFd,
}

/// Reads up to [`ToGate::Start`]. `None` if the keeper goes away first.
///
/// # Errors
/// Messages that do not fit each other.
pub(super) async fn receive(receiver: &mut Receiver<'_>) -> anyhow::Result<Option<Equipment>> {
    let Some(packet) = receiver.next().await? else { return Ok(None) };
    let mut equipment = hello(packet)?;
    while let Some(Packet { message, fds }) = receiver.next().await? {
        match message {
            ToGate::Listener { index } => {
                let known = usize::from(index) < equipment.hello.config.listeners.len();
                anyhow::ensure!(known, "the keeper sent a listener that is not configured");
                equipment.listeners.push(Listening { index, socket: only(fds).context("a listener's message")? });
            }
            ToGate::Files { roles } => equipment.files.take(roles, fds)?,
            ToGate::Admin => equipment.admin = Some(only(fds).context("the admin listener's message")?),
            ToGate::Held => equipment.held = memory::read(fds).context("cannot read what the keeper holds")?,
            ToGate::Start => return Ok(Some(equipment)),
            other => bail!("the keeper sent {} before Start", other.name()),
        }
    }
    Ok(None)
}

fn hello(packet: Packet<ToGate>) -> anyhow::Result<Equipment> {
    let ToGate::Hello(hello) = packet.message else { bail!("the keeper's first message is not Hello") };
    let memory = only(packet.fds).context("Hello")?;
    let stats = Stats::open(memory).context("cannot map the shared counters")?;
    let (listeners, files) = (Vec::new(), Files::default());
    Ok(Equipment { hello: *hello, stats, listeners, files, held: Held::default(), admin: None })
}

fn only(fds: Vec<OwnedFd>) -> anyhow::Result<OwnedFd> {
    let count = fds.len();
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(fd),
        _ => bail!("it should come with one descriptor, not {count}"),
    }
}
