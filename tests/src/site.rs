//! Servers that say in every answer which of them it is.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::Via;
use crate::backend::switching;
use crate::http::{self, Head};
use crate::sluice::Sluice;
use crate::stream::Stream;
use crate::wait::eventually;

/// How many ports are tried until one is free on several addresses.
const ATTEMPTS: usize = 50;

/// A server. It answers WebSocket handshakes with 101 and sends back whatever comes then, byte for byte; other requests it
/// answers with 200, one after the other. `X-Server` is its address. Dropping it ends it and its connections.
pub struct Site {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    connections: Mutex<Vec<(SocketAddr, TcpStream)>>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<(SocketAddr, TcpStream)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site {
    /// Listens on this address.
    ///
    /// # Errors
    /// It is not free.
    pub fn at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_thread.ends.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(peer), Ok(copy)) = (stream.peer_addr(), stream.try_clone()) else { continue };
                of_thread.connections().push((peer, copy));
                std::thread::spawn(move || serve(stream, address));
            }
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Listens on all of these addresses of loopback, on one port.
    ///
    /// # Errors
    /// There is no port that is free on all of them.
    pub fn all<const N: usize>(addresses: [&str; N]) -> io::Result<[Self; N]> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut sites: Vec<Self> = Vec::new();
            let started = addresses.iter().try_for_each(|ip| {
                let ip: IpAddr = ip.parse().map_err(io::Error::other)?;
                let port = sites.first().map_or(0, |site| site.address.port());
                sites.push(Self::at(SocketAddr::new(ip, port))?);
                io::Result::Ok(())
            });
            match (started, <[Self; N]>::try_from(sites)) {
                (Ok(()), Ok(sites)) => return Ok(sites),
                (Err(error), _) if attempts == ATTEMPTS || error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(error);
                }
                _ => {}
            }
        }
    }

    /// Where its connections came from, all that there have been.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.connections().iter().map(|(peer, _)| *peer).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // Wakes the thread, which then closes the listener.
        let _woken = TcpStream::connect(self.address);
        let _ended = self.acceptor.take().map(JoinHandle::join);
        for (_, connection) in self.shared.connections().iter() {
            let _gone = connection.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut stream: TcpStream, address: SocketAddr) {
    let named = format!("X-Server: {address}\r\n");
    while let Ok(request) = Head::read(&mut stream) {
        if request.field("upgrade").is_none() {
            let answer = format!("HTTP/1.1 200 OK\r\n{named}Content-Length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            continue;
        }
        if stream.write_all(switching(&request, &named).as_bytes()).is_err() {
            return;
        }
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        let _gone = stream.shutdown(Shutdown::Write);
        return;
    }
}

/// Asks for a WebSocket, with further header lines (each ending in CRLF), and reads the head of the answer.
///
/// # Panics
/// There is none.
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[must_use]
pub fn ask(sluice: &Sluice, more: &str) -> (Stream, Head) {
    let mut client = sluice.connect(Via::Copy).unwrap();
    client.write_all(http::upgrade("app.example", "/", more).as_bytes()).unwrap();
    let head = Head::read(&mut client).unwrap();
    (client, head)
}

/// Opens a WebSocket that the keeper has, and says on which server it is.
///
/// # Panics
/// It is refused.
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[must_use]
pub fn join(sluice: &Sluice) -> (Stream, String) {
    let (client, head) = ask(sluice, "");
    assert_eq!(head.status(), 101, "{head:?}");
    // The client has its 101 a moment before the keeper has the pair.
    let _handed_over = sluice.connection(client.tcp().local_addr().unwrap());
    (client, head.field("x-server").unwrap_or_default().to_owned())
}

/// Opens so many, one after the other, and counts them by their servers.
///
/// # Panics
/// One is refused.
#[must_use]
pub fn spread(sluice: &Sluice, count: usize) -> BTreeMap<String, usize> {
    let mut on = BTreeMap::new();
    for _ in 0..count {
        let (_client, head) = ask(sluice, "");
        assert_eq!(head.status(), 101, "{head:?}");
        *on.entry(head.field("x-server").unwrap_or_default().to_owned()).or_default() += 1;
    }
    on
}

/// What [`spread`] should give.
#[must_use]
pub fn expected(of: &[(&Site, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|(site, count)| (site.address.to_string(), *count)).collect()
}

/// Waits until the metrics have this state of a server; `None`: until they do not have the server.
pub fn becomes(sluice: &Sluice, site: &Site, expected: Option<&str>) {
    let what = format!("{} is {expected:?}", site.address);
    eventually(&what, || (state(sluice, site).as_deref() == expected).then_some(()));
}

fn state(sluice: &Sluice, site: &Site) -> Option<String> {
    // Not to be had, they say nothing.
    let Ok(metrics) = sluice.metrics() else { return Some("unknown".into()) };
    let metrics = metrics.0;
    let server = format!("server=\"{}\"", site.address);
    let mut states = metrics.lines().filter(|line| line.starts_with("sluice_server_state{") && line.contains(&server));
    let state = states.find(|line| line.ends_with(" 1"))?.split("state=\"").nth(1)?.split('"').next()?;
    Some(state.to_owned())
}
