//! A relay in this thread, between sockets whose far ends the test holds.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proxy_common::layout::{DirCounters, Direction, index};

use super::far::Far;
use crate::config::{Config, EngineChoice};
use crate::handoff::{ConnId, Engine, Facts, NewPair, WhyNot};
use crate::keeper::closer::Closer;
use crate::keeper::reactor::{Reactor, Source};
use crate::keeper::relay::Relay;
use crate::kernel::{Kernel, probe};
use crate::ktls::{Ability, Cipher, Leg, Ready, Role, Suite, Version, made_up, receive_only};

/// Nothing here takes this long: whatever does is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(60);

/// A relay and its clock.
pub(super) struct Rig {
    pub(super) relay: Relay,
    next: u64,
    /// The suite, and whether the client's and the backend's side speak TLS.
    tls: Option<(Suite, [bool; 2])>,
    /// The client's end sends as it likes.
    raw_client: bool,
    /// The end of its own of the next pair.
    pub(super) expires_ms: Option<std::num::NonZeroU64>,
    key_records: u64,
}

/// The far ends of one pair.
pub(super) struct Ends {
    pub(super) client: Far,
    pub(super) backend: Far,
}

/// Runs a test over every engine that this machine has; one that it lacks is reported as skipped.
pub(super) fn over_every_engine(test: impl Fn(&mut Rig)) {
    with_every_engine(&Config::default(), test);
}

/// As [`over_every_engine`], with this configuration.
pub(super) fn with_every_engine(config: &Config, test: impl Fn(&mut Rig)) {
    test(&mut Rig::new(config, None, None));
    match kernel() {
        Ok(kernel) => test(&mut Rig::new(config, Some(kernel), None)),
        Err(why) => skip(Skipped::InPart, "sockmap", &why),
    }
    match ability().why_none() {
        None => over_ktls(config, Some(SUITE), test),
        Some(why) => skip(Skipped::InPart, "ktls", why),
    }
}

/// Runs a test over every pairing with TLS, with this suite or all that this kernel has.
pub(super) fn over_ktls(config: &Config, suite: Option<Suite>, test: impl Fn(&mut Rig)) {
    let ability = ability();
    if let Some(why) = ability.why_none() {
        return skip(Skipped::Whole, "ktls", why);
    }
    for suite in Suite::all().filter(|known| suite.is_none_or(|suite| suite == *known)) {
        assert!(ability.can(suite), "{suite:?}: {ability:?}");
        for sides in [[true, false], [false, true], [true, true]] {
            eprintln!("with TLS: {suite:?}, client and backend: {sides:?}");
            test(&mut Rig::new(config, None, Some((suite, sides))));
        }
    }
}

/// Runs a test over every pairing with TLS, in a relay that also has the kernel's program.
pub(super) fn over_ktls_beside_the_kernel(test: impl Fn(&mut Rig)) {
    if let Some(why) = ability().why_none() {
        return skip(Skipped::Whole, "ktls", why);
    }
    for sides in [[true, false], [false, true], [true, true]] {
        match kernel() {
            Ok(kernel) => test(&mut Rig::new(&Config::default(), Some(kernel), Some((SUITE, sides)))),
            Err(why) => return skip(Skipped::Whole, "sockmap", &why),
        }
    }
}

/// What this kernel can do with TLS.
pub(super) fn ability() -> &'static Ability {
    static ABILITY: OnceLock<Ability> = OnceLock::new();
    ABILITY.get_or_init(Ability::find)
}

/// By how much less is to be sent here than elsewhere; see `sluice_tests::wait::amount`.
fn share() -> u64 {
    std::env::var("SLUICE_TEST_SHARE").ok().and_then(|share| share.parse().ok()).unwrap_or(1).max(1)
}

/// How often to try what goes wrong by chance only.
pub(super) fn rounds(usual: u64) -> u64 {
    usual / share()
}

/// What most clients speak.
pub(super) const SUITE: Suite = Suite { version: Version::Tls13, cipher: Cipher::Aes128Gcm };

/// Runs a test over the kernel's engine only.
pub(super) fn over_the_kernel(test: impl Fn(&mut Rig)) {
    match kernel() {
        Ok(kernel) => test(&mut Rig::new(&Config::default(), Some(kernel), None)),
        Err(why) => skip(Skipped::Whole, "sockmap", &why),
    }
}

/// The kernel relay, or what this machine lacks for it. A kernel that has everything and still fails is a failure.
pub(super) fn kernel() -> Result<Kernel, String> {
    let refused = match probe::kernel(EngineChoice::Auto, 16, Config::default().relay.backlog_limit) {
        Ok(kernel) => return Ok(kernel),
        Err(refused) => refused,
    };
    match refused.why_not {
        WhyNot::NoPrivilege | WhyNot::NoBtf => Err(refused.detail),
        other => panic!("{}: {}", other.label(), refused.detail),
    }
}

/// How much of a test this machine cannot run.
enum Skipped {
    /// All of it: it has not passed.
    Whole,
    /// One engine of several.
    InPart,
}

/// Reports a skip to the test runner, which takes whole tests off what passed.
fn skip(how: Skipped, engine: &str, why: &str) {
    static LOCK: OnceLock<std::sync::Mutex<()>> = OnceLock::new();
    let _guard = LOCK.get_or_init(Default::default).lock();
    let name = std::thread::current().name().unwrap_or("a relay test").to_owned();
    let line = match how {
        Skipped::Whole => format!("sluice::{name}: no {engine} here: {why}"),
        Skipped::InPart => format!("a part of {name}: no {engine} here: {why}"),
    };
    eprintln!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("SLUICE_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

impl Rig {
    /// One without the kernel's program, with room for so many pairs.
    pub(super) fn with_capacity(config: &Config, capacity: u32) -> Self {
        let relay =
            Relay::new(config, capacity, None, None, Reactor::new().unwrap(), Closer::start().unwrap()).unwrap();
        Self { relay, ..Self::new(config, None, None) }
    }

    pub(super) fn new(config: &Config, kernel: Option<Kernel>, tls: Option<(Suite, [bool; 2])>) -> Self {
        let reactor = Reactor::new().unwrap();
        if let Some(kernel) = &kernel {
            reactor.add(kernel.events_fd(), Source::Events, rustix::event::epoll::EventFlags::IN).unwrap();
        }
        Self {
            relay: Relay::new(config, 16, kernel, None, reactor, Closer::start().unwrap()).unwrap(),
            next: 0,
            tls,
            raw_client: false,
            expires_ms: None,
            key_records: config.relay.tls_key_records,
        }
    }

    pub(super) fn engine(&self) -> Engine {
        if self.tls.is_some() { Engine::Ktls } else { self.relay.engine() }
    }

    /// So much, or less where every byte is encrypted four times, or an emulated machine asks for less.
    pub(super) fn amount(&self, bytes: u64) -> u64 {
        bytes / share().max(if self.tls.is_some() { 8 } else { 1 })
    }

    /// Opens a pair that has nothing left over.
    pub(super) fn open(&mut self) -> Ends {
        self.open_with(b"", b"", |_, _| {})
    }

    /// Which of client and backend speak TLS, if this is about TLS.
    pub(super) fn sides(&self) -> Option<[bool; 2]> {
        self.tls.map(|(_, sides)| sides)
    }

    /// Opens a pair whose client's end has keys to receive with, and sends what the test makes.
    pub(super) fn open_with_raw_client(&mut self) -> Ends {
        self.raw_client = true;
        let ends = self.open();
        self.raw_client = false;
        ends
    }

    /// Opens a pair; `before` may use its far ends, and read from the near ones, before the relay gets it.
    pub(super) fn open_with(
        &mut self,
        to_backend: &[u8],
        to_client: &[u8],
        before: impl FnOnce(&mut Ends, [&mut TcpStream; 2]),
    ) -> Ends {
        let ((client, mut near), (backend, mut far)) = (connected(), connected());
        let (client_leg, near_leg) = self.arm(0, &client, &near);
        let (backend_leg, far_leg) = self.arm(1, &backend, &far);
        let mut ends = Ends { client: Far::new(client, client_leg), backend: Far::new(backend, backend_leg) };
        before(&mut ends, [&mut near, &mut far]);
        self.take([near.into(), far.into()], [near_leg, far_leg], to_backend, to_client);
        ends
    }

    /// Gives the relay both near ends of a pair.
    pub(super) fn take(&mut self, sockets: [OwnedFd; 2], tls: [Option<Leg>; 2], to_backend: &[u8], to_client: &[u8]) {
        self.next += 1;
        let pair = NewPair {
            facts: Facts {
                id: ConnId(self.next),
                client: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into(),
                listener: 0,
                route: 0,
                backend: 0,
                server: 0,
                accepted_ms: 0,
                expires_ms: self.expires_ms,
            },
            to_backend: to_backend.to_vec(),
            to_client: to_client.to_vec(),
            tls,
        };
        self.relay.open(pair, sockets, Instant::now());
    }

    /// Gives both ends of a connection their TLS keys, if this side is to speak TLS.
    fn arm(&self, side: usize, far: &TcpStream, near: &TcpStream) -> (Option<Leg>, Option<Leg>) {
        let Some((suite, _)) = self.tls.filter(|(_, sides)| sides[side]) else { return (None, None) };
        let (far_role, near_role) = if side == 0 { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let leg = |end: &TcpStream, role, key_records| {
            let ready = Ready::make(end.as_fd()).unwrap();
            ready.arm(end.as_fd(), &made_up(suite, role), ability().rekey, key_records).unwrap()
        };
        let near = leg(near, near_role, self.key_records);
        if side == 0 && self.raw_client {
            receive_only(far.as_fd(), suite, far_role).unwrap();
            return (None, Some(near));
        }
        (Some(leg(far, far_role, u64::MAX)), Some(near))
    }

    /// Lets the relay work until `done` says so.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() >= STUCK {
                let pairs: Vec<_> = self.relay.table.iter().collect();
                panic!("stuck while waiting until {what}; pairs: {pairs:#?}");
            }
            let sleep = self.relay.sleep(Instant::now()).unwrap_or(STUCK).min(Duration::from_millis(10));
            for (source, flags) in self.relay.reactor.wait(Some(sleep)).unwrap() {
                match source {
                    Source::Socket { index, generation } => self.relay.on_socket(index, generation, flags),
                    Source::Events => {
                        while let Some(event) = self.relay.kernel.as_mut().and_then(Kernel::next_event) {
                            self.relay.on_event(event.index, event.cookie);
                        }
                    }
                    _ => panic!("nothing else is in this epoll"),
                }
            }
            self.relay.turn(Instant::now());
        }
    }

    /// Lets the relay work until a thread has ended, and returns what it returned.
    pub(super) fn join<T>(&mut self, what: &str, thread: JoinHandle<T>) -> T {
        self.until(what, |_| thread.is_finished());
        thread.join().unwrap()
    }

    /// Lets the relay work until the only pair has entered the engine that it is meant for.
    pub(super) fn settled(&mut self) {
        let engine = self.engine();
        self.until("the pair is in its engine", |rig| rig.relay.table.iter().all(|(_, pair)| pair.engine == engine));
    }

    pub(super) fn counters(&self, slot: u32, direction: Direction) -> DirCounters {
        self.relay.counters().unwrap().read(index(slot, direction))
    }

    /// Moves to user mode, of live and ended pairs.
    pub(super) fn flips(&self) -> u64 {
        let live = |kernel: &Kernel| (0..32).map(|at| u64::from(kernel.verdicts.read(at).flips)).sum::<u64>();
        self.relay.ended.flips + self.relay.kernel.as_ref().map_or(0, live)
    }

    pub(super) fn live(&self) -> u32 {
        self.relay.table.live()
    }
}

pub(super) fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_nodelay(true).unwrap();
        end.set_read_timeout(Some(STUCK)).unwrap();
        end.set_write_timeout(Some(STUCK)).unwrap();
    }
    (near, far)
}

/// A byte stream that every position of is known: a reader sees any loss, repetition or swap.
pub(super) fn pattern(seed: u64, at: u64) -> u8 {
    word(seed, at).to_le_bytes()[(at & 7) as usize]
}

/// The eight bytes of a pattern that this one is among.
fn word(seed: u64, at: u64) -> u64 {
    let mut x = (at >> 3).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Bytes `from..to` of a pattern.
pub(super) fn patterned(seed: u64, from: u64, to: u64) -> Vec<u8> {
    let skip = (from & 7) as usize;
    let length = to.saturating_sub(from) as usize;
    // Word by word: an unoptimised build would be busier making the bytes one by one than the relay is carrying them.
    let mut bytes = Vec::with_capacity(skip + length + 8);
    let mut at = from - skip as u64;
    while at < to {
        bytes.extend_from_slice(&word(seed, at).to_le_bytes());
        at += 8;
    }
    bytes.truncate(skip + length);
    bytes.drain(..skip);
    bytes
}

/// Small random numbers, the same in every run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Mostly nothing, sometimes a pause long enough for buffers to fill.
    pub(super) fn stall(&mut self) {
        match self.below(400) {
            0 => std::thread::sleep(Duration::from_millis(30)),
            1..5 => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

/// Writes `total` bytes of a pattern in random pieces with random stalls.
pub(super) fn write_pattern(mut to: Far, seed: u64, total: u64, stalls: bool) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut dice = Dice::new(seed);
        let mut at = 0;
        while at < total {
            let size = match dice.below(4) {
                0 => 1 + dice.below(200),
                1 => 1 + dice.below(5_000),
                _ => 1 + dice.below(100_000),
            };
            let end = (at + size).min(total);
            to.write_all(&patterned(seed, at, end)).unwrap();
            at = end;
            if stalls {
                dice.stall();
            }
        }
    })
}

/// Reads `total` bytes and checks each; then, if asked, the end.
pub(super) fn read_pattern(mut from: Far, seed: u64, total: u64, stalls: bool, end: bool) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut dice = Dice::new(seed ^ 0x5555);
        let mut at = 0;
        let mut buffer = vec![0; 70_000];
        while at < total {
            let room = 1 + dice.below(buffer.len() as u64) as usize;
            let got = from.read(&mut buffer[..room]).unwrap_or_else(|error| panic!("byte {at} of {total}: {error}"));
            assert_ne!(got, 0, "the stream ended at byte {at} of {total}");
            let expected = patterned(seed, at, at + got as u64);
            if buffer[..got] != expected {
                let right = expected.iter().zip(&buffer).take_while(|(expected, seen)| expected == seen).count();
                panic!("byte {} is wrong (read {got} at {at})", at + right as u64);
            }
            at += got as u64;
            if stalls {
                dice.stall();
            }
        }
        if end {
            assert_eq!(from.read(&mut buffer).unwrap(), 0, "bytes behind the end");
        }
    })
}

/// Writes until nothing goes on for a while; returns how much was taken. Sets `full` then.
pub(super) fn flood(mut to: Far, seed: u64, most: u64, full: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let full = Arc::clone(full);
    std::thread::spawn(move || {
        to.set_write_timeout(Duration::from_secs(2));
        let mut at = 0;
        while at < most {
            let bytes = patterned(seed, at, (at + 65_536).min(most));
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                match to.write(rest) {
                    Ok(n) => {
                        at += n as u64;
                        rest = &rest[n..];
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        full.store(true, Ordering::SeqCst);
                        return at;
                    }
                    Err(error) => panic!("byte {at}: {error}"),
                }
            }
        }
        full.store(true, Ordering::SeqCst);
        at
    })
}
