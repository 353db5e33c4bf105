//! Where connections to backends come from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpSocket, TcpStream};

use crate::sys::socket;

/// The source addresses of a backend, in turn.
#[derive(Default)]
pub(super) struct Sources {
    addresses: Vec<IpAddr>,
    next: AtomicUsize,
}

impl Sources {
    pub(super) fn new(addresses: &[IpAddr]) -> Self {
        Self { addresses: addresses.to_vec(), next: AtomicUsize::new(0) }
    }

    /// Those of the server's family, each once, the first one further than last time.
    fn turn(&self, to: IpAddr) -> impl Iterator<Item = IpAddr> {
        let fit = self.addresses.iter().copied().filter(move |address| address.is_ipv4() == to.is_ipv4());
        let count = fit.clone().count();
        let start = self.next.fetch_add(1, Ordering::Relaxed) % count.max(1);
        fit.cycle().skip(start).take(count)
    }

    /// Connects to a server from the next address that has a port for it. Cancel safe.
    ///
    /// # Errors
    /// The last one has none either (`AddrNotAvailable`); or whatever else connect(2) says, with which no other address
    /// is tried.
    pub(super) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let mut last = None;
        for from in self.turn(to.ip()) {
            match connect_from(from, to).await {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last = Some(error),
                done => return done,
            }
        }
        match last {
            Some(error) => Err(error),
            None => TcpStream::connect(to).await,
        }
    }
}

async fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let connecting = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Else bind(2) would choose the port, and one that it has given is in use towards every server.
    socket::choose_port_late(&connecting)?;
    let unless = |what: &str| {
        let what = format!("source {from} {what}");
        move |error: io::Error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => io::Error::new(error.kind(), what),
            _ => error,
        }
    };
    connecting.bind(SocketAddr::new(from, 0)).map_err(unless("is no address of this machine"))?;
    connecting.connect(to).await.map_err(unless("has no port left for this server"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn sources(addresses: &[&str]) -> Sources {
        Sources::new(&addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_of_the_servers_family_go_around() {
        let sources = sources(&["127.0.0.2", "::1", "127.0.0.3"]);
        let turn = |to: &str| sources.turn(to.parse().unwrap()).map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(turn("10.0.0.1"), ["127.0.0.2", "127.0.0.3"]);
        assert_eq!(turn("10.0.0.1"), ["127.0.0.3", "127.0.0.2"]);
        assert_eq!(turn("2001:db8::1"), ["::1"]);
    }

    #[tokio::test]
    async fn connections_come_from_them_in_turn() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let sources = sources(&["127.0.0.2", "127.0.0.3"]);
        for expected in ["127.0.0.2", "127.0.0.3", "127.0.0.2"] {
            let _stream = sources.connect(to).await.unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), expected);
        }
        let _stream = Sources::default().connect(to).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.1");
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_had_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        // Of documentation (RFC 5737), on no machine.
        let sources = sources(&["192.0.2.1", "127.0.0.3"]);
        for _ in 0..2 {
            let _stream = sources.connect(to).await.unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.3");
        }
        let nowhere = self::sources(&["192.0.2.1"]);
        assert_eq!(nowhere.connect(to).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
