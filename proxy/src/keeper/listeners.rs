//! The listening sockets, which outlive every gate.

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::Mode;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::{Address, Admin, Config, Listener, SocketMode};
use crate::sys::socket::take_no_descriptors;

/// A bound socket.
pub(super) struct Bound {
    pub(super) socket: OwnedFd,
    /// Where it is, with the port that it has got.
    pub(super) address: Address,
    /// Removed with this.
    _file: Option<SocketFile>,
}

impl Bound {
    /// Lets a TCP socket listen again that was shut down. It has kept its port, if it was told one, and binding another to
    /// that may need a right that the keeper has given up. Returns whether it listens where it did; a Unix socket stays shut.
    fn listen_again(&self, backlog: i32) -> io::Result<bool> {
        let Some(address) = self.address.inet() else { return Ok(false) };
        if !sockopt::socket_acceptconn(&self.socket)? {
            rustix::net::listen(&self.socket, backlog)?;
        }
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.socket)?)? == address)
    }
}

/// All of them.
pub(super) struct Listeners {
    /// In the configuration's order.
    pub(super) clients: Vec<Bound>,
    pub(super) admin: Option<Bound>,
    /// As configured: those for clients, then the admin listener's.
    settings: Vec<Listener>,
}

impl Listeners {
    /// Binds every address.
    ///
    /// # Errors
    /// One cannot be bound; the message says which.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let clients = config.listeners.iter().map(bind).collect::<anyhow::Result<Vec<_>>>()?;
        let admin = config.admin.as_ref().map(|admin| bind(&of_admin(admin))).transpose()?;
        let settings = config.listeners.iter().cloned().chain(config.admin.iter().map(of_admin)).collect();
        Ok(Self { clients, admin, settings })
    }

    /// All, by the index that [`Listeners::heal`] takes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &OwnedFd)> {
        (0..).zip(self.clients.iter().chain(&self.admin).map(|bound| &bound.socket))
    }

    /// Whether this is the file of a Unix socket among them.
    pub(super) fn is_file(&self, path: &OsStr) -> bool {
        self.clients.iter().any(|bound| matches!(&bound.address, Address::Unix(ours) if ours.as_os_str() == path))
    }

    /// Makes a listener listen again that somebody who has a copy of it has shut down. Returns it; it may be another
    /// socket.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn heal(&mut self, index: u16) -> anyhow::Result<&OwnedFd> {
        let place = usize::from(index);
        let settings = self.settings.get(place).context("there is no such listener")?;
        let bound = self.clients.get_mut(place).or(self.admin.as_mut()).context("there is no such listener")?;
        let at = Listener { bind: bound.address.clone(), ..settings.clone() };
        if !bound.listen_again(backlog(&at))? {
            *bound = bind(&at)?;
        }
        Ok(&bound.socket)
    }
}

fn of_admin(admin: &Admin) -> Listener {
    Listener::at(admin.listen.into())
}

fn bind(listener: &Listener) -> anyhow::Result<Bound> {
    let bound = match &listener.bind {
        Address::Inet(address) => bind_inet(*address, listener),
        Address::Unix(path) => bind_unix(path, listener),
    };
    bound.with_context(|| match attempt_hint(listener) {
        Some(hint) => format!("cannot listen on {}; {hint}", listener.bind),
        None => format!("cannot listen on {}", listener.bind),
    })
}

fn bind_inet(address: SocketAddr, listener: &Listener) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Else a restart fails while connections of the last run are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(listener.reuse_port)?;
    if address.is_ipv6() {
        // Set either way: the system's default (net.ipv6.bindv6only) is not the same everywhere.
        socket.set_only_v6(listener.ipv6_only)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog(listener))?;
    let listening = TcpListener::from(socket);
    Ok(Bound { address: Address::Inet(listening.local_addr()?), socket: listening.into(), _file: None })
}

fn bind_unix(path: &Path, listener: &Listener) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let SocketMode(mode) = listener.mode;
    take_no_descriptors(&socket);
    // The file gets the socket's own permissions less the umask (`unix_bind_bsd` of the kernel): nobody can connect before
    // the permissions are right.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse || !remove_stale(path)? {
            return Err(error);
        }
        socket.bind(&address)?;
    }
    let file = SocketFile::of(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(backlog(listener))?;
    Ok(Bound { address: listener.bind.clone(), socket: socket.into(), _file: Some(file) })
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.backlog).unwrap_or(i32::MAX)
}

/// Removes the socket file of a program that is gone: nobody accepts on it. Returns whether it has.
fn remove_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    // Not one that waits: a live program whose backlog is full would hold the start up.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let asked = probe.connect(&SockAddr::unix(path)?);
    let refused = asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        std::fs::remove_file(path)?;
    }
    Ok(refused)
}

/// The file of a Unix socket of ours.
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    known: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), known: Self::look(path)? })
    }

    fn look(path: &Path) -> io::Result<(u64, u64)> {
        let seen = std::fs::symlink_metadata(path)?;
        Ok((seen.dev(), seen.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another program may have put its own in the same place.
        let ours = Self::look(&self.path).is_ok_and(|now| now == self.known);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove the file of a socket");
        }
    }
}

fn attempt_hint(listener: &Listener) -> Option<&'static str> {
    let port = listener.bind.inet()?.port();
    let privileged = port != 0 && port < 1024 && !rustix::process::geteuid().is_root();
    privileged.then_some("ports below 1024 need root or CAP_NET_BIND_SERVICE")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn at(bind: &str) -> Listener {
        Listener::at(bind.parse().unwrap())
    }

    #[test]
    fn a_socket_file_comes_and_goes_and_a_stale_one_is_no_obstacle() {
        let folder = std::env::temp_dir().join(format!("sluice-unit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.sock");
        let listener = Listener { mode: SocketMode(0o604), ..at(&format!("unix:{}", path.display())) };

        let stale = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stale.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        drop(stale);
        let bound = bind(&listener).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o604);
        let error = bind(&listener).err().unwrap();
        assert!(format!("{error:#}").contains("in use"), "{error:#}");
        drop(bound);
        assert!(!path.exists());

        std::fs::write(&path, "not a socket").unwrap();
        let error = bind(&listener).err().unwrap();
        assert!(format!("{error:#}").contains("in use"), "{error:#}");
        assert!(path.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_address_can_be_shared_and_an_ipv6_address_be_for_ipv6_alone() {
        let first = bind(&Listener { reuse_port: true, ..at("127.0.0.1:0") }).unwrap();
        let again = Listener::at(first.address.clone());
        assert!(bind(&again).is_err());
        assert!(bind(&Listener { reuse_port: true, ..again }).is_ok());

        // Machines without IPv6 refuse the first of these, which says nothing of the setting.
        let six = || bind(&Listener { ipv6_only: true, ..at("[::]:0") });
        if six().is_ok() {
            // Others may have the port of IPv4 that is looked for; they do not have all of them.
            let beside = (0..50).any(|_| {
                let six = six().unwrap();
                let port = six.address.inet().unwrap().port();
                bind(&at(&format!("0.0.0.0:{port}"))).is_ok()
            });
            assert!(beside, "a port of IPv4 cannot be had beside one for IPv6 alone");
            let both = bind(&at("[::]:0")).unwrap();
            let port = both.address.inet().unwrap().port();
            assert!(bind(&at(&format!("0.0.0.0:{port}"))).is_err());
        }
    }
}
