//! The listening sockets and certificate files, which outlive every gate.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{BackendTls, Config};

/// The queue of connections that the gate has not accepted yet; the kernel cuts it to net.core.somaxconn (4096).
const BACKLOG: i32 = 4096;

/// One listener: its socket, and with TLS its certificate and key.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) pem: Option<[File; 2]>,
}

/// The files of a backend that speaks TLS.
pub(super) struct BackendPem {
    /// The backend's index in the configuration.
    pub(super) index: u16,
    /// The certificates that are trusted, if they are not the system's.
    pub(super) ca: Option<File>,
    /// A certificate and its key.
    pub(super) identity: Option<[File; 2]>,
}

/// All of them.
pub(super) struct Listeners {
    /// In the configuration's order.
    pub(super) clients: Vec<Listener>,
    pub(super) backends: Vec<BackendPem>,
    pub(super) admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds every address and opens every file.
    ///
    /// # Errors
    /// An address cannot be bound, or a file not be opened; the message says which.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let clients = config
            .listeners
            .iter()
            .map(|listener| {
                let pem = listener.tls.as_ref().map(|tls| open_identity(&tls.certificate, &tls.key)).transpose()?;
                Ok(Listener { socket: bind(listener.bind)?, pem })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let secured = (0..).zip(&config.backends).filter_map(|(index, backend)| Some((index, backend.tls.as_ref()?)));
        let backends = secured.map(|(index, tls)| BackendPem::open(index, tls)).collect::<anyhow::Result<Vec<_>>>()?;
        let admin = config.admin.as_ref().map(|admin| bind(admin.listen)).transpose()?;
        Ok(Self { clients, backends, admin })
    }

    /// Every gate reads the files from their beginning, all through the same descriptors.
    pub(super) fn rewind(&mut self) -> std::io::Result<()> {
        let clients = self.clients.iter_mut().filter_map(|listener| listener.pem.as_mut()).flatten();
        let backends =
            self.backends.iter_mut().flat_map(|pem| pem.ca.iter_mut().chain(pem.identity.iter_mut().flatten()));
        for file in clients.chain(backends) {
            file.seek(SeekFrom::Start(0))?;
        }
        Ok(())
    }
}

impl BackendPem {
    fn open(index: u16, tls: &BackendTls) -> anyhow::Result<Self> {
        let ca = tls.ca.as_deref().map(open).transpose()?;
        let identity = tls.certificate.as_deref().zip(tls.key.as_deref());
        let identity = identity.map(|(certificate, key)| open_identity(certificate, key)).transpose()?;
        Ok(Self { index, ca, identity })
    }

    /// In the order of their message.
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.ca.iter().chain(self.identity.iter().flatten())
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let attempt = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // Else a restart fails while connections of the last run are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    attempt().with_context(|| match attempt_hint(address) {
        Some(hint) => format!("cannot listen on {address}; {hint}"),
        None => format!("cannot listen on {address}"),
    })
}

fn attempt_hint(address: SocketAddr) -> Option<&'static str> {
    let privileged = address.port() != 0 && address.port() < 1024 && !rustix::process::geteuid().is_root();
    privileged.then_some("ports below 1024 need root or CAP_NET_BIND_SERVICE")
}

fn open_identity(certificate: &Path, key: &Path) -> anyhow::Result<[File; 2]> {
    Ok([open(certificate)?, open(key)?])
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}
