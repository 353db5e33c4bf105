//! Backend servers that say who they are, count who comes, and fail as they are told to; and clients that ask which one
//! they have reached.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use crate::Via;
use crate::backend::switching;
use crate::http::{self, Head};
use crate::sluice::Sluice;
use crate::stream::Stream;
use crate::wait::eventually;

/// The header in which a server says its name.
pub const NAME: &str = "x-server";

/// The path of a check: what is asked there is counted apart.
pub const CHECK: &str = "/healthz";

/// Connections that wait to be accepted: a herd's worth, so that the kernel drops none.
const BACKLOG: i32 = 4096;

/// How a server deals with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It switches to WebSocket if asked to, and answers 200 otherwise.
    Well,
    /// It reads the request, and does no more until its way changes.
    Held,
    /// As well, after so long.
    Slow(Duration),
    /// It answers with this status.
    Status(u16),
}

/// How it deals with checks, and with clients.
#[derive(Clone, Copy, Debug)]
struct Ways {
    checks: Way,
    clients: Way,
}

/// What a server has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Connections that were accepted, checks included.
    accepted: AtomicU64,
    /// Requests of clients, of any kind.
    requests: AtomicU64,
    /// Requests at [`CHECK`].
    checks: AtomicU64,
    /// WebSockets that are open.
    live: AtomicU64,
    /// The most that have been open at one time.
    peak: AtomicU64,
}

/// A server. Dropping it ends its connections.
pub struct Server {
    /// What it says of itself.
    pub name: String,
    /// Where it listens, and nobody else does while it is stopped.
    pub address: SocketAddr,
    ways: watch::Sender<Ways>,
    seen: Arc<Seen>,
    running: Option<Running>,
    _bound: Socket,
}

/// The thread of a server that listens: one, so that it sees ends and beginnings in the order in which they come.
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts one on loopback.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn start(name: &str) -> io::Result<Self> {
        let bound = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = bound.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (ways, _) = watch::channel(Ways { checks: Way::Well, clients: Way::Well });
        let mut server = Self { name: name.into(), address, ways, seen: Arc::default(), running: None, _bound: bound };
        server.resume()?;
        Ok(server)
    }

    /// Starts so many, named `a`, `b`, and so on.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn several(count: u8) -> io::Result<Vec<Self>> {
        (0..count).map(|place| Self::start(&char::from(b'a' + place).to_string())).collect()
    }

    /// Deals with checks and clients in this way from now on.
    pub fn set(&self, way: Way) {
        self.ways.send_replace(Ways { checks: way, clients: way });
    }

    /// Deals with clients in this way from now on, and with checks as before.
    pub fn set_clients(&self, way: Way) {
        self.ways.send_modify(|ways| ways.clients = way);
    }

    /// Ends as a process that is killed does: all its connections are closed, and new ones refused.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            drop(stop);
            // One that has panicked has printed why.
            let _ended = thread.join();
        }
    }

    /// Listens again at the same address.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn resume(&mut self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = bind(self.address)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let serving = Serving { name: self.name.clone(), ways: self.ways.subscribe(), seen: self.seen.clone() };
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let Ok(listener) = TcpListener::from_std(socket.into()) else { return };
            tokio::select! {
                () = accept(listener, serving) => {}
                // The sender says nothing: it is dropped.
                _ = stopped => {}
            }
        };
        // With the runtime end all of its connections.
        let thread = std::thread::spawn(move || runtime.block_on(serve));
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Connections that it has accepted, checks included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.seen.accepted.load(Ordering::Relaxed)
    }

    /// Requests of clients that it has read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// Checks that it has read.
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.seen.checks.load(Ordering::Relaxed)
    }

    /// WebSockets that are open.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.seen.live.load(Ordering::Relaxed)
    }

    /// The most WebSockets that have been open at one time.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.seen.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As an entry of the backend's list, with further settings.
#[must_use]
pub fn entry(server: &Server, more: &str) -> String {
    format!("{{ address = \"{}\"{}{more} }}", server.address, if more.is_empty() { "" } else { ", " })
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Two sockets may have one address if both say so, and one of them listens.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a connection of a server's knows of it.
#[derive(Clone)]
struct Serving {
    name: String,
    ways: watch::Receiver<Ways>,
    seen: Arc<Seen>,
}

/// Counts a WebSocket for as long as it is open.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        let live = seen.live.fetch_add(1, Ordering::Relaxed) + 1;
        seen.peak.fetch_max(live, Ordering::Relaxed);
        Self(seen.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, serving: Serving) {
    while let Ok((stream, _)) = listener.accept().await {
        serving.seen.accepted.fetch_add(1, Ordering::Relaxed);
        let serving = serving.clone();
        // Whoever breaks off has gone.
        tokio::spawn(async move { serving.serve(stream).await.ok() });
    }
}

impl Serving {
    /// Serves requests until one becomes a WebSocket, which echoes until its end.
    async fn serve(mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let head = read_head(&mut stream).await?;
            let check = head.line.split(' ').nth(1) == Some(CHECK);
            let count = if check { &self.seen.checks } else { &self.seen.requests };
            count.fetch_add(1, Ordering::Relaxed);
            match self.way(check, &stream).await? {
                Way::Status(status) => self.plain(&mut stream, status).await?,
                _ if head.field("upgrade").is_none() => self.plain(&mut stream, 200).await?,
                _ => {
                    let _open = (!check).then(|| Open::new(&self.seen));
                    let answer = switching(&head, &format!("{NAME}: {}\r\n", self.name));
                    stream.write_all(answer.as_bytes()).await?;
                    let (mut read, mut write) = stream.split();
                    return tokio::io::copy(&mut read, &mut write).await.map(drop);
                }
            }
        }
    }

    /// Waits as it must.
    async fn way(&mut self, check: bool, stream: &TcpStream) -> io::Result<Way> {
        let of = |ways: &Ways| if check { ways.checks } else { ways.clients };
        let mut nothing = [0];
        let way = tokio::select! {
            biased;
            ways = self.ways.wait_for(|ways| of(ways) != Way::Held) => of(&*ways.map_err(io::Error::other)?),
            // Whoever asks sends nothing meanwhile: it has gone.
            _ = stream.peek(&mut nothing) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if let Way::Slow(delay) = way {
            sleep(delay).await;
        }
        Ok(way)
    }

    async fn plain(&self, stream: &mut TcpStream, status: u16) -> io::Result<()> {
        let (name, length) = (&self.name, self.name.len());
        let answer = format!("HTTP/1.1 {status} Said\r\n{NAME}: {name}\r\nContent-Length: {length}\r\n\r\n{name}");
        stream.write_all(answer.as_bytes()).await
    }
}

/// Reads a head from a connection on which nothing comes behind it.
async fn read_head(stream: &mut TcpStream) -> io::Result<Head> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Head::read(&mut bytes.as_slice())
}

/// A client with the answer to its request.
pub struct Guest {
    /// Its connection.
    pub stream: Stream,
    /// The answer's head.
    pub head: Head,
}

impl Guest {
    /// Asks for a WebSocket at this path, with further header lines (each ending in CRLF).
    ///
    /// # Errors
    /// The connection ends without an answer.
    pub fn join(sluice: &Sluice, via: Via, path: &str, more: &str) -> io::Result<Self> {
        Self::ask(sluice.connect(via)?, &http::upgrade("localhost", path, more))
    }

    /// The same from this address of loopback's.
    ///
    /// # Errors
    /// As [`Guest::join`].
    pub fn join_from(from: IpAddr, sluice: &Sluice, path: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SockAddr::from(SocketAddr::from((from, 0))))?;
        socket.connect(&sluice.ws.into())?;
        let stream = Stream::Plain(crate::stream::patient(socket.into())?);
        Self::ask(stream, &http::upgrade("localhost", path, ""))
    }

    /// Asks in plain HTTP, on a connection that stays open.
    ///
    /// # Errors
    /// As [`Guest::join`].
    pub fn get(sluice: &Sluice, via: Via, path: &str, more: &str) -> io::Result<Self> {
        Self::ask(sluice.connect(via)?, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"))
    }

    fn ask(mut stream: Stream, request: &str) -> io::Result<Self> {
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let head = Head::read(&mut stream)?;
        Ok(Self { stream, head })
    }

    /// The status that it was answered with.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The name of the server that has answered; none if Sluice has.
    #[must_use]
    pub fn server(&self) -> &str {
        self.head.field(NAME).unwrap_or_default()
    }

    /// The Cookie header with what it was given, as a line.
    #[must_use]
    pub fn cookie(&self) -> Option<String> {
        let given = self.head.field("set-cookie")?;
        Some(format!("Cookie: {}\r\n", given.split(';').next().unwrap_or_default()))
    }

    /// What the answer comes down to.
    #[must_use]
    pub fn outcome(&self) -> String {
        outcome(&self.head)
    }
}

/// What an answer comes down to: the server's name, or the status and the server, or the status and Sluice's reason.
#[must_use]
pub fn outcome(head: &Head) -> String {
    let status = head.field("proxy-websocket-status").unwrap_or_default();
    let reason = status.split_once("reason=").and_then(|(_, rest)| rest.split([';', ' ']).next());
    match (head.status(), head.field(NAME)) {
        (101 | 200, server) => server.unwrap_or_default().to_owned(),
        (status, Some(server)) => format!("{status} {server}"),
        (status, None) => format!("{status} {}", reason.unwrap_or_default()),
    }
}

/// How often each of some outcomes has come.
pub type Counts = BTreeMap<String, u64>;

/// Counts outcomes.
#[must_use]
pub fn count(outcomes: impl IntoIterator<Item = String>) -> Counts {
    let mut counts = Counts::new();
    for outcome in outcomes {
        *counts.entry(outcome).or_default() += 1;
    }
    counts
}

/// How even numbers are that should be like some shares.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// By how much the one that is furthest off differs from its share, as a part of that share.
    pub worst: f64,
    /// The standard deviation of these parts.
    pub deviation: f64,
}

impl Spread {
    /// Of these numbers, against these weights.
    #[must_use]
    pub fn of(numbers: &[u64], weights: &[u64]) -> Self {
        let (all, whole) = (numbers.iter().sum::<u64>() as f64, weights.iter().sum::<u64>() as f64);
        let off: Vec<f64> = numbers
            .iter()
            .zip(weights)
            .map(|(&number, &weight)| number as f64 / (all * weight as f64 / whole) - 1.0)
            .collect();
        let variance = off.iter().map(|off| off * off).sum::<f64>() / off.len() as f64;
        Self { worst: off.iter().fold(0.0, |worst, off| off.abs().max(worst)), deviation: variance.sqrt() }
    }
}

/// So many guests, numbered from 0, as many at one time as this, in the order of their numbers.
///
/// # Panics
/// As `one` does.
pub fn crowd<T: Send>(at_once: usize, count: usize, one: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count) {
                    let result = one(number);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Waits until Sluice counts nobody on any server, and nobody who waits for one.
///
/// # Panics
/// Somebody is counted for good.
pub fn nobody_is_left(sluice: &Sluice) {
    let count = || {
        let metrics = sluice.metrics().ok()?;
        Some(metrics.sum("sluice_server_connections", &[]) + metrics.sum("sluice_backend_queue", &[]))
    };
    eventually("nobody is counted on any server", || (count() == Some(0)).then_some(()));
}
