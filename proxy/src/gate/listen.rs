//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::Gate;
use super::admission::Permit;
use super::session::{self, Accepted, Visit, after, now_ms};
use crate::sys::watch::watch;

/// How long to wait when files are short: they come back as connections end, which nothing tells us of.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How often to say so.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// A listening socket, and what its connections speak.
pub(super) struct Port {
    index: u16,
    socket: AsyncFd<OwnedFd>,
    tls: Option<TlsAcceptor>,
}

impl Port {
    /// Takes a listening socket over. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub(super) fn new(index: u16, socket: OwnedFd, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { index, socket: watch(socket, Interest::READABLE)?, tls })
    }

    /// Accepts for ever, a task per connection. Without room for one more, the kernel's backlog queues.
    pub(super) async fn serve(self, gate: Arc<Gate>) {
        let mut said: Option<Instant> = None;
        loop {
            match self.accept(&gate).await {
                Ok((stream, client, permit)) => {
                    let visit = self.visit(&gate, client, permit);
                    let accepted = Accepted { visit, stream };
                    tokio::spawn(session::run(gate.clone(), accepted, self.tls.clone()));
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

    async fn accept(&self, gate: &Gate) -> io::Result<(TcpStream, SocketAddr, Permit)> {
        loop {
            // Room is asked for only when somebody is there, so that a quiet listener keeps none from a busy one.
            let mut ready = self.socket.readable().await?;
            let Some(permit) = gate.admission.permit().await else { continue };
            if let Ok(accepted) = ready.try_io(|socket| accept(socket.get_ref())) {
                let (stream, client) = accepted?;
                // A handshake is small messages that wait for each other.
                stream.set_nodelay(true)?;
                return Ok((TcpStream::from_std(stream)?, client, permit));
            }
        }
    }

    fn visit(&self, gate: &Gate, client: SocketAddr, permit: Permit) -> Visit {
        let timeouts = &gate.config.timeouts;
        Visit {
            id: gate.next_id(),
            client,
            listener: self.index,
            accepted_ms: now_ms(),
            head_by: after(timeouts.head.min(timeouts.handshake)),
            done_by: after(timeouts.handshake),
            permit,
        }
    }
}

fn accept(listener: &OwnedFd) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, client) = rustix::net::acceptfrom_with(listener, flags)?;
    let client = client.ok_or_else(|| io::Error::other("accept(2) gave no address"))?;
    Ok((socket.into(), SocketAddr::try_from(client)?))
}

/// What accept(2) reports of a connection that ended while it was queued.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
