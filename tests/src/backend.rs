//! Backends: one by hand, which does as a test says, and one that echoes.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;
use tungstenite::handshake::derive_accept_key;

use crate::Via;
use crate::certificate::{of_backends, of_the_proxy};
use crate::http::Head;
use crate::stream::Stream;
use crate::wait::PATIENCE;

/// The TLS that a backend speaks when a pair is carried this way.
fn tls(via: Via) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let clients = via.shows_certificate().then(of_the_proxy);
    via.tls_backend().then(|| of_backends().server(clients)).transpose()
}

/// A listening socket whose connections a test carries by hand.
pub struct RawBackend {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl RawBackend {
    /// Listens on loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        Ok(Self { listener, tls: None, address })
    }

    /// Listens on loopback, and speaks what this way needs.
    ///
    /// # Errors
    /// As [`RawBackend::start`], or there is no certificate.
    pub fn via(via: Via) -> anyhow::Result<Self> {
        Ok(Self { tls: tls(via)?, ..Self::start()? })
    }

    /// Listens on loopback, and speaks TLS with these settings.
    ///
    /// # Errors
    /// As [`RawBackend::start`].
    pub fn with_tls(config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self { tls: Some(config), ..Self::start()? })
    }

    /// Takes the next connection as it comes.
    ///
    /// # Errors
    /// None comes within [`PATIENCE`].
    pub fn accept(&self) -> io::Result<Stream> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut waiting, Some(&patience))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no connection reached the backend"));
        }
        Stream::serve(self.listener.accept()?.0, self.tls.clone())
    }

    /// Takes the next connection and reads its request.
    ///
    /// # Errors
    /// None comes, or it sends no request.
    pub fn accept_request(&self) -> io::Result<(Stream, Head)> {
        let mut stream = self.accept()?;
        let request = Head::read(&mut stream)?;
        Ok((stream, request))
    }

    /// Takes the next connection and upgrades it; `behind` leaves with the 101 in one write.
    ///
    /// # Errors
    /// As [`RawBackend::accept_request`].
    pub fn accept_upgrade(&self, behind: &[u8]) -> io::Result<Stream> {
        let (mut stream, request) = self.accept_request()?;
        stream.write_all(&[switching(&request, "").as_bytes(), behind].concat())?;
        stream.flush()?;
        Ok(stream)
    }
}

/// The 101 that accepts a request, with further header lines (each ending in CRLF).
#[must_use]
pub fn switching(request: &Head, more: &str) -> String {
    let accept = derive_accept_key(request.field("sec-websocket-key").unwrap_or_default().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

/// Sluice's own echo server, in a thread of this process. Dropping it ends the server and its connections.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Echo {
    /// Starts it on loopback.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(sluice::echo::serve(listener, sluice::echo::Options::default()));
        Ok(Self { address, runtime: Some(runtime) })
    }

    /// Starts it on loopback, and behind TLS if this way needs it.
    ///
    /// # Errors
    /// As [`Echo::start`], or there is no certificate.
    pub fn via(via: Via) -> anyhow::Result<Self> {
        let mut plain = Self::start()?;
        let (Some(config), Some(runtime)) = (tls(via)?, &plain.runtime) else { return Ok(plain) };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(terminate(listener, TlsAcceptor::from(config), plain.address));
        Ok(Self { address, runtime: plain.runtime.take() })
    }
}

/// Takes TLS off connections, and passes them on to a server.
async fn terminate(listener: tokio::net::TcpListener, acceptor: TlsAcceptor, server: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut plain = tokio::net::TcpStream::connect(server).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut plain).await
        });
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
