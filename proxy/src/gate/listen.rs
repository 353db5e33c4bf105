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
use tokio::time::{Instant, sleep};

use super::Gate;
use super::admission::Permit;
use super::proxy_header::Ends;
use super::session::{self, Accepted, Visit, after};
use super::unix;
use crate::handoff::{Peer, canonical};
use crate::sys::clock::epoch_ms;
use crate::sys::socket;
use crate::sys::watch::watch;

/// How long to wait when files are short: they come back as connections end, which nothing tells us of.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How often to say so.
const SAY_AGAIN: Duration = Duration::from_secs(10);

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
                    let came_to = stream.local_addr().ok().map(canonical).filter(|_| client != Peer::Unix);
                    let visit = self.visit(&gate, client, came_to, permit);
                    tokio::spawn(session::run(gate.clone(), Accepted { visit, stream }));
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                        said = Some(Instant::now());
                        let listener = self.index;
                        tracing::warn!(listener, %error, "cannot accept; raise the limit on open files if it is that");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    async fn accept(&self, gate: &Gate) -> io::Result<(TcpStream, Peer, Permit)> {
        loop {
            // Room is asked for only when somebody is there, so that a quiet listener keeps none from a busy one.
            let mut ready = self.socket.readable().await?;
            let Some(permit) = gate.admission.permit().await else { continue };
            if let Ok(accepted) = ready.try_io(|socket| accept(socket.get_ref())) {
                let (socket, client) = accepted?;
                let stream = match client {
                    Peer::Unix => unix::stream(socket)?,
                    Peer::Inet(_) => {
                        let stream = std::net::TcpStream::from(socket);
                        // A handshake is small messages that wait for each other, too.
                        socket::prepare_for_messages(&stream)?;
                        TcpStream::from_std(stream)?
                    }
                };
                return Ok((stream, client, permit));
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

/// What accept(2) reports of a connection that ended while it was queued.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
