//! Byte streams that can be checked at every offset, and chance that can be repeated.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::stream::Stream;
use crate::wait::PATIENCE;

/// SplitMix64 (Steele, Lea, Flood 2014): a number for every input, each bit of it depending on each bit of that.
#[must_use]
const fn mix(input: u64) -> u64 {
    let z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Chance that a seed repeats.
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `below - 1`.
    pub const fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(mix(self.0)) % below
    }
}

/// An endless stream of bytes, the same for the same seed.
#[derive(Clone, Copy)]
pub struct Pattern(pub u64);

impl Pattern {
    /// Writes the stream's bytes from `offset` on into `buffer`.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = mix(self.0.wrapping_mul(0x1_0001).wrapping_add(at / 8)).to_le_bytes();
            let skip = (at % 8) as usize;
            let count = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(count);
            now.iter_mut().zip(word.iter().skip(skip)).for_each(|(to, from)| *to = *from);
            at += count as u64;
            rest = later;
        }
    }

    /// Whether `bytes` are the stream's from `offset` on.
    ///
    /// # Panics
    /// They are not; the message says where the first wrong one is.
    pub fn check(self, offset: u64, bytes: &[u8]) {
        let mut expected = vec![0; bytes.len()];
        self.fill(offset, &mut expected);
        let wrong = expected.iter().zip(bytes).position(|(expected, seen)| expected != seen);
        assert!(wrong.is_none(), "byte {} is wrong", offset + wrong.unwrap_or_default() as u64);
    }

    /// The first `length` bytes.
    #[must_use]
    pub fn bytes(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(0, &mut bytes);
        bytes
    }
}

/// Receive buffer of a soaked end, in bytes.
const SMALL_WINDOW: usize = 64 * 1024;
/// How often a reader stalls, on average.
const STALLS: u64 = 12;
/// A stall ends when nothing has moved for so long: all buffers on the way are full then, or all is sent. A busy machine
/// does not look at us for a while.
const STILL: Duration = Duration::from_millis(100);

/// One end of a tunnel: what it sends, what it expects, and when it stalls.
struct End<'a> {
    stream: &'a mut Stream,
    sends: Pattern,
    sent: u64,
    expects: Pattern,
    received: u64,
    total: u64,
    /// Where it stalls next.
    stalls_at: u64,
}

impl End<'_> {
    /// Sends some bytes if it can. Whether it did.
    #[expect(clippy::panic, reason = "a test fails by panicking")]
    fn send(&mut self, chance: &mut Chance) -> bool {
        let size = (1 + chance.below(64 * 1024)).min(self.total - self.sent);
        let mut buffer = vec![0; size as usize];
        self.sends.fill(self.sent, &mut buffer);
        match self.stream.write(&buffer) {
            Ok(count) => self.sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("cannot send behind byte {}: {error}", self.sent),
        }
        size > 0
    }

    /// Receives and checks some bytes if there are any and it does not stall. Whether it did.
    #[expect(clippy::panic, reason = "a test fails by panicking")]
    fn receive(&mut self, chance: &mut Chance) -> bool {
        if self.received == self.total || self.stalls() {
            return false;
        }
        let mut buffer = vec![0; (1 + chance.below(128 * 1024)) as usize];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the stream ended behind byte {} of {}", self.received, self.total),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("cannot receive behind byte {}: {error}", self.received),
        };
        buffer.truncate(count);
        self.expects.check(self.received, &buffer);
        self.received += count as u64;
        true
    }

    fn stalls(&self) -> bool {
        self.received >= self.stalls_at
    }

    fn read_on(&mut self, chance: &mut Chance) {
        self.stalls_at = self.received + 1 + chance.below(2 * self.total / STALLS);
    }
}

/// Sends `total` bytes each way at once, in pieces of random size and with stalls of the readers at random places, and checks
/// every byte that arrives.
///
/// # Panics
/// A byte is wrong, the stream ends early, or nothing moves for [`PATIENCE`].
pub fn soak(a: &mut Stream, b: &mut Stream, total: u64, seed: u64) {
    let mut chance = Chance::new(seed);
    let (east, west) = (Pattern(seed ^ 0xea57), Pattern(seed ^ 0x3e57));
    for stream in [&mut *a, &mut *b] {
        assert!(stream.tcp().set_nonblocking(true).is_ok(), "cannot make the socket non-blocking");
        // A small window, so that a reader that stalls is felt by everybody on the way.
        let small = socket2::SockRef::from(stream.tcp()).set_recv_buffer_size(SMALL_WINDOW);
        assert!(small.is_ok(), "cannot make the receive buffer small");
    }
    let start = Instant::now();
    let end = |stream, sends, expects| End { stream, sends, expects, sent: 0, received: 0, total, stalls_at: 0 };
    let mut ends = [end(a, east, west), end(b, west, east)];
    let mut moved_at = start;
    while ends.iter().any(|end| end.received < total) {
        let mut moved = false;
        for end in &mut ends {
            moved |= end.sent < total && end.send(&mut chance);
            moved |= end.receive(&mut chance);
        }
        if moved {
            moved_at = Instant::now();
        } else {
            if moved_at.elapsed() > STILL {
                ends.iter_mut().filter(|end| end.stalls()).for_each(|end| end.read_on(&mut chance));
            }
            let progress = ends.each_ref().map(|end| (end.sent, end.received));
            assert!(moved_at.elapsed() < PATIENCE, "nothing moves: sent and received by each end: {progress:?}");
            flush(&mut ends);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    for end in ends {
        assert!(end.stream.tcp().set_nonblocking(false).is_ok(), "cannot make the socket blocking");
    }
}

/// TLS may still hold what it has accepted.
fn flush(ends: &mut [End<'_>; 2]) {
    for end in ends {
        let _would_block = end.stream.flush();
    }
}
