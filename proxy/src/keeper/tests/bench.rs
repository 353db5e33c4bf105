//! A keeper in this thread, whose gate's end of the control socket the test holds.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::handoff::wire::{self, Received};
use crate::handoff::{ConnId, Facts, MAX_MESSAGE, NewPair, ToGate, ToKeeper};
use crate::keeper::closer::Closer;
use crate::keeper::files::Files;
use crate::keeper::listeners::Listeners;
use crate::keeper::reactor::Source;
use crate::keeper::serve::Keeper;

/// Nothing here takes this long: whatever does is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(60);

/// Pairs that the keeper has room for.
pub(super) const CAPACITY: u32 = 200;

/// A keeper, and its gate's end of the control socket.
pub(super) struct Bench {
    pub(super) keeper: Keeper,
    gate: Option<OwnedFd>,
}

/// A pair as a gate hands it over, and the far ends of its sockets.
pub(super) struct Made {
    pub(super) near: [TcpStream; 2],
    pub(super) far: [TcpStream; 2],
}

impl Made {
    pub(super) fn new() -> Self {
        let ((client, near), (backend, far)) = (connected(), connected());
        Self { near: [near, far], far: [client, backend] }
    }

    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.near[0].as_fd(), self.near[1].as_fd()]
    }
}

/// A connection to a server by a Unix socket: the keeper's end, then the server's.
pub(super) fn reaching() -> (UnixStream, UnixStream) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("sluice-server-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = UnixListener::bind_addr(&unix::SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    let near = UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

impl Bench {
    /// A keeper with a gate that is ready.
    pub(super) fn new() -> Self {
        Self::listening_at("127.0.0.1:0")
    }

    /// The same, with a listener here.
    pub(super) fn listening_at(bind: &str) -> Self {
        let text = format!(
            "[[listener]]\nbind = {bind:?}\n[[route]]\nbackend = \"a\"\n\
             [[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:9\"]\n"
        );
        let config = Config::parse(&text, "test").unwrap();
        let (files, listeners) = (Files::open(&config).unwrap(), Listeners::open(&config).unwrap());
        let keeper = Keeper::new(config, CAPACITY, files, listeners, Closer::start().unwrap(), None).unwrap();
        let mut bench = Self { keeper, gate: None };
        bench.next_gate();
        bench
    }

    /// Another gate, which is ready, in the place of one that has ended.
    pub(super) fn next_gate(&mut self) {
        assert!(self.keeper.gate.control().is_none(), "there is a gate");
        let (ours, theirs) = wire::pair().unwrap();
        self.keeper.gate.pretend(ours);
        self.keeper.brief().unwrap();
        self.gate = Some(theirs);
        self.send(&ToKeeper::Ready, &[]).unwrap();
    }

    /// The gate's end of the socket.
    pub(super) fn gate(&self) -> BorrowedFd<'_> {
        self.gate.as_ref().unwrap().as_fd()
    }

    /// The gate's process ends.
    pub(super) fn gate_ends(&mut self) {
        self.gate = None;
    }

    /// The gate sends something.
    pub(super) fn send(&self, message: &ToKeeper, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        wire::send(self.gate(), message, fds)
    }

    /// The gate hands a pair over.
    pub(super) fn hand_over(&self, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        self.send(&pair(), fds)
    }

    /// What the keeper has sent to the gate and was not read yet.
    pub(super) fn told(&self) -> Vec<ToGate> {
        let (mut told, mut buffer) = (Vec::new(), vec![0; MAX_MESSAGE]);
        while let Ok(Received::Packet(packet)) = wire::receive(self.gate(), &mut buffer) {
            told.push(packet.message);
        }
        told
    }

    /// One turn of the keeper's loop.
    pub(super) fn step(&mut self) {
        let sleep = self.keeper.sleep(Instant::now()).unwrap_or(STUCK).min(Duration::from_millis(5));
        for (source, flags) in self.keeper.turn(Some(sleep)).unwrap() {
            assert_ne!(source, Source::Signal);
            self.keeper.on_event(source, flags);
        }
        self.keeper.finish_turn();
    }

    /// Lets the keeper work until `done` says so.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < STUCK, "stuck while waiting until {what}");
            self.step();
        }
    }

    /// Lets the keeper work until it has read all that the gate has sent, and closed what it does not keep.
    pub(super) fn settle(&mut self) {
        self.until("everything has been read", |bench| {
            let unread = |control| rustix::io::ioctl_fionread(control).unwrap_or(0);
            bench.keeper.gate.control().is_none_or(|control| unread(control) == 0)
        });
        self.step();
        self.until("everything has been closed", |bench| bench.keeper.relay.closer.is_idle());
    }

    /// Lets the keeper work until it has ended its gate.
    pub(super) fn gate_is_ended(&mut self) {
        self.until("the gate has been ended", |bench| bench.keeper.gate.control().is_none());
        self.gate = None;
    }

    pub(super) fn live(&self) -> u32 {
        self.keeper.relay.table.live()
    }
}

/// A pair that makes sense, beside its sockets.
pub(super) fn new_pair() -> NewPair {
    let facts = Facts {
        id: ConnId(rand::random()),
        client: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into(),
        listener: 0,
        route: 0,
        backend: 0,
        server: 0,
        accepted_ms: 0,
        expires_ms: None,
    };
    NewPair { facts, to_backend: Vec::new(), to_client: Vec::new(), tls: [None, None] }
}

/// The same as a message.
pub(super) fn pair() -> ToKeeper {
    ToKeeper::Pair(Box::new(new_pair()))
}

/// Both ends of a connection.
pub(super) fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(STUCK)).unwrap();
        end.set_write_timeout(Some(STUCK)).unwrap();
    }
    (near, far)
}
