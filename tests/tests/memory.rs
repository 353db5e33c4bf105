//! Memory stays bounded when somebody stops reading, and what was held arrives when they read again.
//!
//! Whatever a flooder got rid of is either delivered or held by someone; here nobody takes delivery, so the bytes that
//! the flooder could send bound what everybody together holds. What the kernel holds is looked at as well: bytes that it
//! holds twice, or for nobody, are only seen there; and what Sluice's own processes hold. What other programs take meanwhile
//! is in neither.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sluice_tests::Via;
use sluice_tests::backend::RawBackend;
use sluice_tests::pattern::Pattern;
use sluice_tests::process::status_field;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::{PATIENCE, until_still};

sluice_tests::over_every_way![
    a_backend_floods_a_client_that_does_not_read,
    a_client_floods_a_backend_that_does_not_read,
    both_flood_and_nobody_reads,
    a_client_floods_an_echo_and_does_not_read,
];

/// Long enough without progress to be sure that every buffer on the way is full: zero-window probes come each 200 ms
/// at first.
const STILL: Duration = Duration::from_secs(2);

/// What one flood would send if nothing stopped it.
const FLOOD: u64 = 1024 * 1024 * 1024;

/// What may be held beyond what the bytes that are held cost: other programs have the kernel hold something, too.
const SLACK: u64 = 256 * 1024 * 1024;

/// What all tests together have sent and not received: others hold memory too while one measures.
static HELD: AtomicU64 = AtomicU64::new(0);

fn tunnel(via: Via) -> (Sluice, Stream, Stream, RawBackend) {
    let backend = RawBackend::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via)).unwrap();
    let (client, server) = sluice.tunnel(via, &backend).unwrap();
    for stream in [&client, &server] {
        stream.tcp().set_nonblocking(true).unwrap();
    }
    (sluice, client, server, backend)
}

/// The most bytes that one direction may hold: four socket buffers at the system's limits, the backlog limit of
/// 256 KiB, and what TLS libraries keep, with as much again to spare.
fn bound() -> u64 {
    let limit = |name: &str| -> u64 {
        let line = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    2 * (limit("tcp_rmem") + limit("tcp_wmem")) + 2 * 256 * 1024 + 1024 * 1024
}

/// What the kernel holds for itself, in bytes: all memory but what is free, the page cache, what processes have, and what
/// keeps track of it. The buffers of sockets are in it, whoever they are charged to.
fn held_by_kernel() -> u64 {
    const NOT_ITS_OWN: [&str; 9] = [
        "MemFree",
        "Buffers",
        "Cached",
        "SwapCached",
        "AnonPages",
        "SReclaimable",
        "PageTables",
        "KernelStack",
        "Percpu",
    ];
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kibibytes = |name: &str| -> u64 {
        let line = meminfo.lines().find(|line| line.split(':').next() == Some(name));
        line.map_or(0, |line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
    };
    let others: u64 = NOT_ITS_OWN.into_iter().map(kibibytes).sum();
    kibibytes("MemTotal").saturating_sub(others) * 1024
}

/// What the kernel and Sluice's processes hold, in bytes.
fn held(sluice: &Sluice) -> u64 {
    let resident = |process: u32| {
        let field = status_field(&process.to_string(), "VmRSS").unwrap_or_default();
        field.split_whitespace().next().map_or(0, |kibibytes| kibibytes.parse::<u64>().unwrap() * 1024)
    };
    held_by_kernel() + [sluice.keeper(), sluice.gate()].into_iter().flatten().map(resident).sum::<u64>()
}

/// One direction that is filled until nothing more goes in, and emptied again.
struct Flood {
    pattern: Pattern,
    sent: u64,
    received: u64,
}

impl Flood {
    const fn new(seed: u64) -> Self {
        Self { pattern: Pattern(seed), sent: 0, received: 0 }
    }

    /// Sends until the socket takes no more, which must be before `bound` bytes in all.
    fn push(&mut self, to: &mut Stream, bound: u64) -> u64 {
        let mut buffer = vec![0; 256 * 1024];
        while self.sent < FLOOD {
            self.pattern.fill(self.sent, &mut buffer);
            match to.write(&buffer) {
                Ok(count) => {
                    HELD.fetch_add(count as u64, Relaxed);
                    self.sent += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("cannot send behind byte {}: {error}", self.sent),
            }
            assert!(self.sent < bound, "{} bytes were taken from the flooder, and it still goes on", self.sent);
        }
        self.sent
    }

    /// Receives and checks what there is. Whether there was any.
    fn pull(&mut self, from: &mut Stream) -> bool {
        let mut buffer = vec![0; 256 * 1024];
        match from.read(&mut buffer) {
            Ok(0) => panic!("the stream ended behind byte {} of {}", self.received, self.sent),
            Ok(count) => {
                self.pattern.check(self.received, &buffer[..count]);
                HELD.fetch_sub(count as u64, Relaxed);
                self.received += count as u64;
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("cannot receive behind byte {}: {error}", self.received),
        }
    }
}

/// Checks that little more is held than it was `before`.
fn little_is_held(sluice: &Sluice, before: u64) {
    let more = held(sluice).saturating_sub(before);
    // A kernel accounts for up to twice the payload.
    let allowed = 2 * HELD.load(Relaxed) + SLACK;
    assert!(more < allowed, "{} MiB more are held, {} MiB allowed", more >> 20, allowed >> 20);
}

/// Reads until every flood has been received whole. Where nothing arrives, the message has what Sluice knows of its pairs.
fn drain(sluice: &Sluice, mut each: impl FnMut() -> (bool, bool)) {
    let mut moved_at = Instant::now();
    loop {
        let (moved, done) = each();
        if done {
            return;
        }
        if moved {
            moved_at = Instant::now();
        } else {
            assert!(moved_at.elapsed() < PATIENCE, "nothing arrives any more: {:?}", sluice.connections());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn one_way(sluice: &Sluice, from: &mut Stream, to: &mut Stream) {
    let before = held(sluice);
    let mut flood = Flood::new(11);
    until_still("the flood", STILL, || flood.push(from, bound()));
    little_is_held(sluice, before);
    drain(sluice, || {
        let _would_block = from.flush();
        (flood.pull(to), flood.received == flood.sent)
    });
}

fn a_backend_floods_a_client_that_does_not_read(via: Via) {
    let (sluice, mut client, mut server, _backend) = tunnel(via);
    one_way(&sluice, &mut server, &mut client);
}

fn a_client_floods_a_backend_that_does_not_read(via: Via) {
    let (sluice, mut client, mut server, _backend) = tunnel(via);
    one_way(&sluice, &mut client, &mut server);
}

fn both_flood_and_nobody_reads(via: Via) {
    let (sluice, mut client, mut server, _backend) = tunnel(via);
    let before = held(&sluice);
    let (mut east, mut west) = (Flood::new(12), Flood::new(13));
    until_still("the floods", STILL, || east.push(&mut client, bound()) + west.push(&mut server, bound()));
    little_is_held(&sluice, before);
    drain(&sluice, || {
        let _would_block = (client.flush(), server.flush());
        let moved = east.pull(&mut server) | west.pull(&mut client);
        (moved, east.received == east.sent && west.received == west.sent)
    });
}

/// Sends back what comes, up to its end.
fn echo(mut stream: Stream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// The echo stops reading when it cannot write; only the client can undo the knot, and it must then get everything.
fn a_client_floods_an_echo_and_does_not_read(via: Via) {
    let (sluice, mut client, server, _backend) = tunnel(via);
    server.tcp().set_nonblocking(false).unwrap();
    let socket = server.tcp().try_clone().unwrap();
    let mut echo = Some(std::thread::spawn(move || echo(server)));
    let before = held(&sluice);
    let mut flood = Flood::new(14);
    // Both directions fill, one behind the other.
    until_still("the flood", STILL, || flood.push(&mut client, 2 * bound()));
    little_is_held(&sluice, before);
    drain(&sluice, || {
        let _would_block = client.flush();
        // Its socket lives on in `socket`: nobody would see that it is gone.
        if let Some(ended) = echo.take_if(|echo| echo.is_finished()) {
            panic!("the echo has ended: {:?}", ended.join().unwrap());
        }
        (flood.pull(&mut client), flood.received == flood.sent)
    });
    client.shutdown_write().unwrap();
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    let _ended_by_shutdown = echo.map(|echo| echo.join().unwrap());
}
