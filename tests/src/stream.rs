//! One end of a connection, plain or TLS: a client's or a backend's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::DerefMut;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData, StreamOwned};

use crate::wait::PATIENCE;

/// One end of a connection. Reads and writes give up after [`PATIENCE`].
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP, as the client or as the server.
    Tls(Box<dyn Secured>),
}

/// A TLS session over TCP. The handshake is done with the first read or write.
pub trait Secured: Read + Write + Send + Sync {
    /// The TCP connection below.
    fn tcp(&self) -> &TcpStream;

    /// Sends a close_notify.
    ///
    /// # Errors
    /// The connection is gone.
    fn close_notify(&mut self) -> io::Result<()>;
}

impl<C, S> Secured for StreamOwned<C, TcpStream>
where
    C: DerefMut<Target = ConnectionCommon<S>> + Send + Sync,
    S: SideData,
{
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }

    fn close_notify(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        while self.conn.wants_write() {
            self.conn.write_tls(&mut self.sock)?;
        }
        Ok(())
    }
}

impl Stream {
    /// An end of a Unix socket. It is held like one of TCP, which std allows: reading, writing and shutting down are the
    /// same; addresses and options of TCP are not to be had.
    ///
    /// # Errors
    /// The socket refuses an option.
    pub fn unix(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::Plain(TcpStream::from(OwnedFd::from(socket))))
    }

    /// Connects, with TLS if there are settings for it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let tcp = patient(TcpStream::connect(address)?)?;
        let Some(config) = tls else { return Ok(Self::Plain(tcp)) };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, tcp))))
    }

    /// Serves a connection that was accepted, with TLS if there are settings for it.
    ///
    /// # Errors
    /// The socket refuses an option.
    pub fn serve(tcp: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let tcp = patient(tcp)?;
        let Some(config) = tls else { return Ok(Self::Plain(tcp)) };
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, tcp))))
    }

    /// The TCP connection below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// Ends the sending direction: a FIN, behind a close_notify if this is TLS.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        if let Self::Tls(tls) = self {
            tls.close_notify()?;
        }
        self.tcp().shutdown(Shutdown::Write)
    }

    /// Ends the sending direction as mildly as this connection can: with a close_notify alone if it is TLS.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.shutdown(Shutdown::Write),
            Self::Tls(tls) => tls.close_notify(),
        }
    }

    /// Ends the connection with an RST.
    ///
    /// # Errors
    /// The socket refuses the option.
    pub fn reset(self) -> io::Result<()> {
        reset(self.tcp())
    }
}

/// Makes the next close of a connection an RST (SO_LINGER with no time to linger).
///
/// # Errors
/// The socket refuses the option.
pub fn reset(tcp: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO))
}

/// A connection whose reads and writes fail after [`PATIENCE`] and are sent at once.
///
/// # Errors
/// The socket refuses an option.
pub fn patient(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
