//! What the keeper gives a new gate before it may begin.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail};
use tokio_rustls::TlsAcceptor;

use super::control::Receiver;
use super::tls::{self, Connector, Roots};
use crate::config::Config;
use crate::handoff::stats::Stats;
use crate::handoff::wire::Packet;
use crate::handoff::{Hello, ToGate};

/// Everything that a gate runs on.
pub(super) struct Equipment {
    pub(super) hello: Hello,
    pub(super) stats: Stats,
    pub(super) listeners: Vec<Listening>,
    /// By the index of the backend; those that speak TLS.
    pub(super) connectors: HashMap<u16, Connector>,
    pub(super) admin: Option<OwnedFd>,
}

/// A listening socket with its TLS.
pub(super) struct Listening {
    pub(super) index: u16,
    pub(super) socket: OwnedFd,
    pub(super) tls: Option<TlsAcceptor>,
}

/// Reads up to [`ToGate::Start`]. `None` if the keeper goes away first.
///
/// # Errors
/// Messages that do not fit each other, or a certificate or key that cannot be used.
pub(super) async fn receive(receiver: &mut Receiver<'_>) -> anyhow::Result<Option<Equipment>> {
    let Some(packet) = receiver.next().await? else { return Ok(None) };
    let mut equipment = hello(packet)?;
    let mut roots = Roots::default();
    while let Some(Packet { message, fds }) = receiver.next().await? {
        match message {
            ToGate::Listener { index, tls } => {
                let listening = listener(&equipment.hello.config, index, tls, fds)?;
                equipment.listeners.push(listening);
            }
            ToGate::BackendTls { index, ca, certificate } => {
                let connector = connector(&equipment.hello.config, index, [ca, certificate], fds, &mut roots)?;
                equipment.connectors.insert(index, connector);
            }
            ToGate::Admin => equipment.admin = Some(only(fds).context("the admin listener's message")?),
            ToGate::Start => {
                // Without it, requests that were meant for TLS would go out in clear text.
                let mut backends = (0..).zip(&equipment.hello.config.backends);
                let fits = backends.all(|(i, backend)| backend.tls.is_some() == equipment.connectors.contains_key(&i));
                anyhow::ensure!(fits, "the keeper sent TLS for other backends than those that have it");
                return Ok(Some(equipment));
            }
            other => bail!("the keeper sent {other:?} before Start"),
        }
    }
    Ok(None)
}

fn hello(packet: Packet<ToGate>) -> anyhow::Result<Equipment> {
    let ToGate::Hello(hello) = packet.message else { bail!("the keeper's first message is not Hello") };
    let memory = only(packet.fds).context("Hello")?;
    let stats = Stats::open(memory).context("cannot map the shared counters")?;
    Ok(Equipment { hello: *hello, stats, listeners: Vec::new(), connectors: HashMap::new(), admin: None })
}

fn listener(config: &Config, index: u16, tls: bool, fds: Vec<OwnedFd>) -> anyhow::Result<Listening> {
    let configured = config.listeners.get(usize::from(index)).context("a listener that is not configured")?;
    let tls_names = configured.tls.as_ref().filter(|_| tls);
    let mut fds = fds.into_iter();
    let socket = fds.next().context("a listener without its socket")?;
    let tls = match (tls_names, fds.next(), fds.next()) {
        (None, None, None) if !tls => None,
        (Some(names), Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key, names, configured.http2)?),
        _ => bail!("listener {index}: the descriptors do not fit what it speaks"),
    };
    Ok(Listening { index, socket, tls })
}

fn connector(
    config: &Config,
    index: u16,
    [ca, certificate]: [bool; 2],
    fds: Vec<OwnedFd>,
    roots: &mut Roots,
) -> anyhow::Result<Connector> {
    let backend = config.backends.get(usize::from(index)).context("TLS for a backend that is not configured")?;
    let name = &backend.name;
    let settings = backend.tls.as_ref().with_context(|| format!("backend {name:?} has no tls"))?;
    let mut fds = fds.into_iter();
    let ca = if ca { fds.next() } else { None };
    let identity = match (certificate, fds.next(), fds.next()) {
        (false, None, None) => None,
        (true, Some(certificate), Some(key)) => Some([certificate, key]),
        _ => bail!("backend {name:?}: the descriptors do not fit its TLS"),
    };
    Connector::new(settings, ca, identity, roots).with_context(|| format!("backend {name:?}"))
}

fn only(fds: Vec<OwnedFd>) -> anyhow::Result<OwnedFd> {
    let count = fds.len();
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(fd),
        _ => bail!("it should come with one descriptor, not {count}"),
    }
}
