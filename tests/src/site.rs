//! Servers that say in every answer which of them it is.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::backend::switching;
use crate::http::Head;

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
