//! What the tests stand on: a gate, its keeper, backends and clients.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::Config;
use crate::handoff::files::FileRole;
use crate::handoff::stats::Stats;
use crate::handoff::wire::{self, Received};
use crate::handoff::{CookieKey, Engine, Held, Hello, MAX_MESSAGE, NewPair, ToGate, ToKeeper, memory};
use crate::sys::watch::watch;

/// The key of RFC 6455 §1.3 and what it is answered with.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What no test should ever wait for.
pub(super) const NEVER: Duration = Duration::from_secs(20);

/// A gate that runs in this process, and the keeper's end of its control socket.
pub(super) struct Bench {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    pub(super) stats: Arc<Stats>,
    pub(super) ports: Vec<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    gate: JoinHandle<anyhow::Result<()>>,
}

/// How to start one.
pub(super) struct Setup {
    pub(super) config: String,
    pub(super) capacity: u32,
    /// The pairs that the keeper holds.
    pub(super) held: Held,
    /// The files that the configuration names.
    pub(super) files: Vec<(FileRole, OwnedFd)>,
}

/// The first certificate of the only listener, and its key.
pub(super) const IDENTITY: [FileRole; 2] =
    [FileRole::Certificate { listener: 0, place: 0 }, FileRole::Key { listener: 0, place: 0 }];

impl Setup {
    /// One plain listener, one route for everything, and these servers. `more` is TOML at the top level.
    pub(super) fn plain(servers: &[SocketAddr], more: &str) -> Self {
        Self { config: config(servers, more), capacity: 100, held: Held::default(), files: Vec::new() }
    }

    /// As [`Setup::plain`], with TLS.
    pub(super) fn tls(servers: &[SocketAddr], more: &str, certificate: OwnedFd, key: OwnedFd) -> Self {
        let setup = Self::plain(servers, more).listener("tls = { certificate = \"cert.pem\", key = \"key.pem\" }");
        setup.file(IDENTITY[0], certificate).file(IDENTITY[1], key)
    }

    /// With these settings of the listener.
    pub(super) fn listener(mut self, settings: &str) -> Self {
        let bind = "[[listener]]\nbind = \"127.0.0.1:0\"\n";
        self.config = self.config.replace(bind, &format!("{bind}{settings}\n"));
        self
    }

    /// With this file.
    pub(super) fn file(mut self, role: FileRole, file: OwnedFd) -> Self {
        self.files.push((role, file));
        self
    }

    /// With TLS to the backend: its settings in TOML, and the files that they name.
    pub(super) fn backend_tls(mut self, settings: &str, ca: Option<OwnedFd>, identity: Option<[OwnedFd; 2]>) -> Self {
        self.config = self.config.replace("name = \"app\"\n", &format!("name = \"app\"\ntls = {settings}\n"));
        let roles = [FileRole::BackendCertificate { backend: 0 }, FileRole::BackendKey { backend: 0 }];
        self.files.extend(ca.map(|ca| (FileRole::BackendCa { backend: 0 }, ca)));
        self.files.extend(identity.into_iter().flat_map(|identity| roles.into_iter().zip(identity)));
        self
    }

    pub(super) async fn start(self) -> Bench {
        let config = Config::parse(&self.config, "test").unwrap();
        let (ours, theirs) = wire::pair().unwrap();
        let (memory, stats) = Stats::create().unwrap();
        let gate = tokio::spawn(super::super::serve(theirs));
        let socket = watch(ours, Interest::READABLE | Interest::WRITABLE).unwrap();
        let mut bench = Bench {
            socket,
            buffer: vec![0; MAX_MESSAGE],
            stats: Arc::new(stats),
            ports: Vec::new(),
            admin: None,
            gate,
        };
        let hello = Hello {
            config: config.clone(),
            engine: Engine::Sockmap,
            why_not: None,
            ktls: Default::default(),
            capacity: self.capacity,
            secret: CookieKey([7; 32]),
        };
        bench.send(&ToGate::Hello(Box::new(hello)), &[memory.as_fd()]).await;
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        bench.ports.push(listener.local_addr().unwrap());
        bench.send(&ToGate::Listener { index: 0 }, &[listener.as_fd()]).await;
        bench.files(&self.files).await;
        if config.admin.is_some() {
            let listener = StdListener::bind("127.0.0.1:0").unwrap();
            bench.admin = Some(listener.local_addr().unwrap());
            bench.send(&ToGate::Admin, &[listener.as_fd()]).await;
        }
        let held = memory::write("held", &self.held).unwrap();
        bench.send(&ToGate::Held, &[held.as_fd()]).await;
        bench.send(&ToGate::Start, &[]).await;
        bench
    }

    /// Starts one that cannot run, and gives what it says.
    pub(super) async fn refused(self) -> anyhow::Error {
        let bench = self.start().await;
        timeout(NEVER, bench.gate).await.expect("the gate does not end").unwrap().unwrap_err()
    }

    /// Starts it and waits until it is ready.
    pub(super) async fn ready(self) -> Bench {
        let mut bench = self.start().await;
        assert!(matches!(bench.next().await.0, ToKeeper::Ready));
        bench
    }
}

fn config(servers: &[SocketAddr], more: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    let servers = servers.join(", ");
    let route = if more.contains("[[route]]") { "" } else { "[[route]]\nbackend = \"app\"\n" };
    format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{route}[[backend]]\nname = \"app\"\nservers = [{servers}]\n{more}")
}

impl Bench {
    pub(super) async fn files(&self, files: &[(FileRole, OwnedFd)]) {
        let roles = files.iter().map(|(role, _)| *role).collect();
        self.send(&ToGate::Files { roles }, &files.iter().map(|(_, file)| file.as_fd()).collect::<Vec<_>>()).await;
    }

    /// Has the gate take these files into use. Returns whether it did.
    pub(super) async fn reload(&mut self, files: &[(FileRole, OwnedFd)]) -> bool {
        self.files(files).await;
        self.send(&ToGate::Reload { reload: 7 }, &[]).await;
        match self.next().await.0 {
            ToKeeper::Reloaded { reload: 7, ok } => ok,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn send(&self, message: &ToGate, fds: &[BorrowedFd<'_>]) {
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| wire::send(socket, message, fds)).await;
        // A gate that was given something unusable may have ended before the last message.
        assert!(sent.is_ok() || self.gate.is_finished(), "{sent:?}");
    }

    /// The next message of the gate's.
    pub(super) async fn next(&mut self) -> (ToKeeper, Vec<OwnedFd>) {
        let buffer = &mut self.buffer;
        let receive = self.socket.async_io(Interest::READABLE, |socket| wire::receive(socket, buffer));
        match timeout(NEVER, receive).await.expect("the gate says nothing").unwrap() {
            Received::Packet(packet) => (packet.message, packet.fds),
            other => panic!("{other:?}"),
        }
    }

    /// The next message, which must be a pair: what is known of it, the client's and the backend's socket.
    pub(super) async fn pair(&mut self) -> (NewPair, TcpStream, TcpStream) {
        let (message, fds) = self.next().await;
        let ToKeeper::Pair(pair) = message else { panic!("{message:?}") };
        let mut sockets = fds.into_iter().map(|fd| TcpStream::from_std(std::net::TcpStream::from(fd)).unwrap());
        (*pair, sockets.next().unwrap(), sockets.next().unwrap())
    }

    /// A client's connection to the listener.
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.ports[0]).await.unwrap()
    }

    /// Sends bytes and reads the whole answer up to the end of the stream.
    pub(super) async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut client).await
    }

    /// Closes the control socket and waits for the gate's end.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        drop(self.socket);
        timeout(NEVER, self.gate).await.expect("the gate does not end").unwrap()
    }

    /// Waits until so many handshakes have ended in the given way.
    pub(super) async fn counted(&self, outcome: super::super::refusal::Outcome, count: u64) {
        let stats = &self.stats;
        until(move || stats.handshakes()[outcome.index()] == count).await;
    }
}

/// Waits for a condition.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(NEVER, wait).await.expect("the condition never holds");
}

/// Reads to the end of the stream.
pub(super) async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    timeout(NEVER, stream.read_to_end(&mut bytes)).await.expect("the stream does not end").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Reads exactly so many bytes.
pub(super) async fn read_exact(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(NEVER, stream.read_exact(&mut bytes)).await.expect("the bytes do not come").unwrap();
    bytes
}

/// Reads a head up to its empty line, and not a byte further.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read_exact(stream, 1).await);
    }
    String::from_utf8(head).unwrap()
}

/// A client's handshake. `more` are header lines, each with its line end.
pub(super) fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// A backend's 101 for [`KEY`].
pub(super) fn switching(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n{more}\r\n"
    )
}

/// A backend server: its address and its listener.
pub(super) async fn backend() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// The next connection of a backend, its request head read.
pub(super) async fn asked(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = timeout(NEVER, listener.accept()).await.expect("nobody dials").unwrap();
    let head = read_head(&mut stream).await;
    (stream, head)
}

/// An address that answers no SYN as long as what comes with it lives: a listener whose backlog is full.
pub(super) async fn silent() -> (SocketAddr, (socket2::Socket, Vec<TcpStream>)) {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let server = full.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(filler)) = timeout(Duration::from_millis(200), TcpStream::connect(server)).await {
        fillers.push(filler);
    }
    (server, (full, fillers))
}

/// An address that refuses connections: it was bound a moment ago.
pub(super) async fn nobody() -> SocketAddr {
    backend().await.0
}
