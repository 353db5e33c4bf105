//! What the fuzz target `handoff` drives: a keeper, from a gate that sends whatever it likes, with real descriptors.
//!
//! Only cargo-fuzz builds this (`cfg(fuzzing)`), and the tests. One keeper serves all inputs of a thread, each with a gate
//! of its own, as the real one does with gates that end one after the other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a fuzz target tells what it found by panicking")]

use std::cell::RefCell;
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use proxy_common::layout::PairCounters;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};

use super::closer::Closer;
use super::files::Files;
use super::listeners::Listeners;
use super::serve::Keeper;
use crate::config::Config;
use crate::handoff::wire::{self, Received};
use crate::handoff::{ConnId, EndReason, Facts, Found, MAX_MESSAGE, NewPair, ToGate, ToKeeper, WhyNot};

/// Pairs that the keeper has room for: few, so that inputs reach the limit.
const CAPACITY: u32 = 6;

/// What is waited for takes microseconds.
const STUCK: Duration = Duration::from_secs(20);

/// Steps of one input: enough for everything in some order.
const STEPS: usize = 64;

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

/// Lets a gate do what the bytes say, and then end, and everybody else as well.
///
/// # Panics
/// Something of the keeper's is left.
pub fn handoff(input: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        world.begin();
        let mut bytes = input.iter().copied();
        for _ in 0..STEPS {
            let Some(what) = bytes.next() else { break };
            world.step(what, &mut bytes);
        }
        world.end();
    });
}

struct World {
    keeper: Keeper,
    /// Where a backend is that is reached by a Unix socket.
    unix_backend: UnixListener,
    gate: Option<OwnedFd>,
    /// Sockets that pairs are made of, as the gate has them.
    near: Vec<OwnedFd>,
    /// Their other ends.
    far: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let name = format!("sluice-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"unix:{}\"\n[[route]]\nbackend = \"a\"\n\
             [[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:9\"]\n",
            std::env::temp_dir().join(&name).display()
        );
        let config = Config::parse(&text, "fuzz").unwrap();
        let address = unix::SocketAddr::from_abstract_name(name).unwrap();
        let unix_backend = UnixListener::bind_addr(&address).unwrap();
        let (files, listeners) = (Files::open(&config).unwrap(), Listeners::open(&config).unwrap());
        let keeper = Keeper::new(config, CAPACITY, files, listeners, Closer::start().unwrap(), None).unwrap();
        Self { keeper, unix_backend, gate: None, near: Vec::new(), far: Vec::new(), buffer: vec![0; MAX_MESSAGE] }
    }

    fn begin(&mut self) {
        let (ours, theirs) = wire::pair().unwrap();
        self.keeper.gate.pretend(ours);
        self.keeper.brief().unwrap();
        self.gate = Some(theirs);
    }

    /// One thing that a gate, or a peer, may do.
    fn step(&mut self, what: u8, bytes: &mut impl Iterator<Item = u8>) {
        let mut byte = || bytes.next().unwrap_or(0);
        match what % 16 {
            0..6 => {
                let kinds = [byte(), byte()];
                let fds = kinds.map(|kind| self.descriptor(kind));
                let count = usize::from(what % 16 < 5) + 1;
                self.send(&ToKeeper::Pair(Box::new(pair(byte()))), fds.get(..count).unwrap_or_default(), None);
            }
            6 => {
                let fds: Vec<OwnedFd> = (0..byte() % 250).map(|_| self.descriptor(0)).take(8).collect();
                self.send(&other(byte(), byte()), &fds, None);
            }
            7..10 => self.send(&other(byte(), byte()), &[], None),
            // A message with a byte of it changed: where it has its lengths, and TLS.
            10 => {
                let (fds, change) = ([0, 0].map(|kind| self.descriptor(kind)), (byte(), byte()));
                self.send(&ToKeeper::Pair(Box::new(pair(0))), &fds, Some(change));
            }
            11 => {
                let raw: Vec<u8> = (0..byte()).map(|_| byte()).collect();
                let Some(gate) = &self.gate else { return };
                let _full = rustix::net::send(gate, &raw, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
            12 => self.peers(byte()),
            13 => self.near.clear(),
            14 => self.read(),
            _ => self.turn(),
        }
    }

    fn turn(&mut self) {
        for (source, flags) in self.keeper.turn(Some(Duration::ZERO)).unwrap() {
            self.keeper.on_event(source, flags);
        }
        self.keeper.finish_turn();
        let live = self.keeper.relay.table.live();
        assert!(live <= CAPACITY, "{live} pairs");
    }

    /// The gate reads what the keeper has told it.
    fn read(&mut self) {
        let Some(gate) = &self.gate else { return };
        while let Ok(Received::Packet(packet)) = wire::receive::<ToGate>(gate, &mut self.buffer) {
            drop(packet);
        }
    }

    fn send(&mut self, message: &ToKeeper, fds: &[OwnedFd], change: Option<(u8, u8)>) {
        let Some(gate) = &self.gate else { return };
        let mut bytes = postcard::to_stdvec(message).unwrap();
        if let Some((at, to)) = change
            && let Some(byte) = bytes.get_mut(usize::from(at))
        {
            *byte = to;
        }
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _full = rustix::net::sendmsg(gate, &[IoSlice::new(&bytes)], &mut control, flags);
    }

    /// Something that a gate can have.
    fn descriptor(&mut self, kind: u8) -> OwnedFd {
        match kind % 16 {
            0..4 => self.keep(connected()),
            4 => {
                let (near, far) = if kind < 128 { self.unix_client() } else { self.unix_server() };
                self.keep((near.into(), far.into()))
            }
            5 => {
                let (near, far) = connected();
                sockopt::set_socket_linger(&near, Some(STUCK)).unwrap();
                self.keep((near, far))
            }
            6 => self.again(&self.near, kind),
            7 => self.again(&self.far, kind),
            8 => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into(),
            9 => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into(),
            10 => std::fs::File::open("/dev/zero").unwrap().into(),
            11 => rustix::pipe::pipe().unwrap().0,
            12 => socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap().into(),
            13 => wire::pair().unwrap().0,
            14 => self.keeper.listeners.clients[0].socket.try_clone().unwrap(),
            _ => {
                let (outer, other) = self.unix_server();
                let (near, far) = connected();
                sockopt::set_socket_linger(&near, Some(STUCK)).unwrap();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [near.as_fd()];
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
                rustix::net::sendmsg(&other, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).unwrap();
                self.far.push(far);
                self.keep((outer.into(), other.into()))
            }
        }
    }

    /// What a client's connection by a Unix socket is: the keeper's end, then its own.
    fn unix_client(&self) -> (UnixStream, UnixStream) {
        let far =
            UnixStream::connect(self.keeper.listeners.clients[1].address.to_string().strip_prefix("unix:").unwrap());
        let near = rustix::net::accept(&self.keeper.listeners.clients[1].socket).unwrap();
        (near.into(), far.unwrap())
    }

    /// And a backend's.
    fn unix_server(&self) -> (UnixStream, UnixStream) {
        let near = UnixStream::connect_addr(&self.unix_backend.local_addr().unwrap()).unwrap();
        (near, self.unix_backend.accept().unwrap().0)
    }

    /// A copy of one that there is already.
    fn again(&self, of: &[OwnedFd], kind: u8) -> OwnedFd {
        let at = usize::from(kind / 16) % of.len().max(1);
        of.get(at).map_or_else(|| connected().0, |fd| fd.try_clone().unwrap())
    }

    fn keep(&mut self, (near, far): (OwnedFd, OwnedFd)) -> OwnedFd {
        self.far.push(far);
        let copy = near.try_clone().unwrap();
        self.near.push(near);
        copy
    }

    /// What the other ends do.
    fn peers(&mut self, how: u8) {
        let at = usize::from(how / 4) % self.far.len().max(1);
        let Some(fd) = self.far.get(at) else { return };
        // Whatever kind of stream it is, these are recv and send.
        let mut stream = TcpStream::from(fd.try_clone().unwrap());
        stream.set_nonblocking(true).unwrap();
        match how % 4 {
            0 => drop(stream.write(&[0x82, 3, 1, 2, 3])),
            1 => drop(stream.read(&mut [0; 99])),
            2 => drop(stream.shutdown(std::net::Shutdown::Write)),
            _ => drop(self.far.swap_remove(at)),
        }
    }

    /// Everybody goes; then nothing is left.
    fn end(&mut self) {
        self.gate = None;
        self.near.clear();
        for fd in self.far.drain(..) {
            // Else thousands of connections are in TIME_WAIT.
            let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
        }
        let start = Instant::now();
        while self.keeper.gate.control().is_some()
            || self.keeper.relay.table.live() > 0
            || !self.keeper.relay.closer.is_idle()
        {
            assert!(start.elapsed() < STUCK, "{} pairs are left", self.keeper.relay.table.live());
            self.turn();
            std::thread::yield_now();
        }
    }
}

fn connected() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (near.into(), far.into())
}

fn facts(how: u8) -> Facts {
    let odd = |bit: u8| u16::from(how >> bit & 1);
    Facts {
        id: ConnId(7),
        client: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into(),
        listener: odd(0),
        route: odd(1),
        backend: odd(2),
        server: odd(3),
        accepted_ms: u64::MAX,
        expires_ms: std::num::NonZeroU64::new(u64::from(how >> 4 & 1) * u64::MAX),
    }
}

fn pair(how: u8) -> NewPair {
    let ahead = |bit: u8| vec![how; usize::from(how >> bit & 1) * 70_000];
    NewPair { facts: facts(how & 0x1f), to_backend: ahead(5), to_client: ahead(6), tls: [None, None] }
}

/// Everything but pairs.
fn other(what: u8, how: u8) -> ToKeeper {
    let slot = u32::from(how) * 100;
    match what % 9 {
        0 => ToKeeper::Ready,
        1 => ToKeeper::CarriedOpen { slot, facts: facts(how & 1), why_not: WhyNot::Configured },
        2 => {
            let mut counters = Box::new(PairCounters::ZERO);
            counters.dirs[1].close_code = slot << 8;
            counters.dirs[0].bytes = u64::MAX;
            ToKeeper::CarriedClosed { slot, counters, reason: EndReason::Idle }
        }
        3 => ToKeeper::Reloaded { reload: slot.into(), ok: how & 1 == 0 },
        4 => {
            let (address, host) = (SocketAddr::from((Ipv4Addr::LOCALHOST, how.into())), "a".repeat(slot as usize));
            let (backend, server, entry, weight) = (u16::from(how >> 7), how.into(), u16::from(how >> 6), how.into());
            let (backup, most, listed) = (how & 1 == 0, how.into(), how & 2 == 0);
            ToKeeper::Found(Found { backend, server, entry, address, host, weight, backup, most, listed })
        }
        5 => ToKeeper::Checked { backend: u16::from(how >> 7), server: how.into(), up: how & 1 == 0 },
        6 | 7 => ToKeeper::Snapshot { request: how.into() },
        _ => ToKeeper::Pong { number: how.into() },
    }
}
