//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Gate;
use super::admission::Permit;
use super::proxy_header::Ends;
use super::session::{self, Accepted, Visit, after};
use super::unix;
use crate::handoff::stats::Short;
use crate::handoff::{Peer, canonical};
use crate::sys::clock::epoch_ms;
use crate::sys::socket;
use crate::sys::watch::watch;

/// How long to wait when files are short: they come back as connections end, which nothing tells us of.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How often to say that accept(2) fails.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How long a client may take to be told that there is no room for it. 5 s: a slow TLS handshake and a request head.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// A listening socket.
pub(super) struct Port {
    index: u16,
    socket: AsyncFd<OwnedFd>,
}

impl Port {
    /// Takes a listening socket over. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub(super) fn new(index: u16, socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { index, socket: watch(socket, Interest::READABLE)? })
    }

    /// Accepts for ever, a task per connection. Without room for one more, the kernel's backlog queues.
    pub(super) async fn serve(self, gate: Arc<Gate>) {
        let mut said: Option<Instant> = None;
        loop {
            match self.accept(&gate).await {
                Ok((stream, client, permit)) => {
                    if permit.is_spare() {
                        gate.short(Short::Connections, None);
                    }
                    self.begin(&gate, stream, client, permit);
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) if are_short(&error) => {
                    gate.short(Short::AcceptFiles, Some(&error));
                    if !self.turn_away(&gate) {
                        sleep(BACK_OFF).await;
                    }
                }
                Err(error) => {
                    if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                        said = Some(Instant::now());
                        tracing::warn!(listener = gate.listener(self.index), %error, "cannot accept");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Begins a connection's session, or the short one of a client that there is no room for.
    fn begin(&self, gate: &Arc<Gate>, stream: TcpStream, client: Peer, permit: Permit) {
        let spare = permit.is_spare();
        let came_to = stream.local_addr().ok().map(canonical).filter(|_| client != Peer::Unix);
        let visit = self.visit(gate, client, came_to, permit);
        let session = session::run(gate.clone(), Accepted { visit, stream });
        if spare {
            // Whoever is too slow for it is closed.
            tokio::spawn(async move { drop(timeout(TURNED_AWAY, session).await) });
        } else {
            tokio::spawn(session);
        }
    }

    /// Accepts one client in the place of the file that is kept for that, and tells it that there is no room. Whether there
    /// was one.
    fn turn_away(&self, gate: &Arc<Gate>) -> bool {
        let Some(permit) = gate.admission.lend_file() else { return false };
        let accepted = accept(self.socket.get_ref()).and_then(|(socket, client)| Ok((stream(socket, client)?, client)));
        let Ok((stream, client)) = accepted else { return false };
        self.begin(gate, stream, client, permit);
        true
    }

    async fn accept(&self, gate: &Gate) -> io::Result<(TcpStream, Peer, Permit)> {
        loop {
            // Room is asked for only when somebody is there, so that a quiet listener keeps none from a busy one.
            let mut ready = self.socket.readable().await?;
            let Some(permit) = gate.admission.entry().await else { continue };
            if let Ok(accepted) = ready.try_io(|socket| accept(socket.get_ref())) {
                let (socket, client) = accepted?;
                return Ok((stream(socket, client)?, client, permit));
            }
        }
    }

    fn visit(&self, gate: &Gate, client: Peer, came_to: Option<SocketAddr>, permit: Permit) -> Visit {
        let timeouts = &gate.config.timeouts;
        Visit {
            id: gate.next_id(),
            client,
            ends: ends(gate, client, came_to),
            came_to,
            person: None,
            listener: self.index,
            accepted_ms: epoch_ms(),
            head_by: after(timeouts.head.min(timeouts.handshake)),
            done_by: after(timeouts.handshake),
            permit,
            let_in: false,
        }
    }
}

/// The client's address and the one that it came to, if some backend is to be told.
fn ends(gate: &Gate, client: Peer, came_to: Option<SocketAddr>) -> Option<Ends> {
    let told = gate.config.backends.iter().any(|backend| backend.send_proxy.is_some());
    let source = client.inet().filter(|_| told)?;
    Some(Ends { source, destination: came_to? })
}

fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, Peer)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, client) = rustix::net::acceptfrom_with(listener, flags)?;
    let client = client.ok_or_else(|| io::Error::other("accept(2) gave no address"))?;
    let peer = match client.address_family() {
        AddressFamily::UNIX => Peer::Unix,
        _ => SocketAddr::try_from(client)?.into(),
    };
    Ok((socket, peer))
}

/// An accepted socket in the event loop.
fn stream(socket: OwnedFd, client: Peer) -> io::Result<TcpStream> {
    match client {
        Peer::Unix => unix::stream(socket),
        Peer::Inet(_) => {
            let stream = std::net::TcpStream::from(socket);
            // A handshake is small messages that wait for each other, too.
            socket::prepare_for_messages(&stream)?;
            TcpStream::from_std(stream)
        }
    }
}

/// Whether accept(2) found no descriptor left, in this process or in all.
fn are_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What accept(2) reports of a connection that ended while it was queued.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
