//! The frame scanner: RFC 6455 §5.2 headers, and nothing else of the frames.
//!
//! It is fed windows of a byte stream cut anywhere, and counts frames as their headers complete. It judges
//! nothing: bytes that are no WebSocket frames are counted as whatever they would be.
//!
//! The code is written for the BPF verifier as much as for people: [`Scanner::step`] has no loop, and every
//! index into the window is a constant.

use core::hint::black_box;

use crate::layout::{DirCounters, OPCODE_COUNT, SIZE_BUCKETS};

/// The labels of [`DirCounters::frames`], in index order.
pub const OPCODES: [&str; OPCODE_COUNT] =
    ["continuation", "text", "binary", "close", "ping", "pong", "reserved_data", "reserved_control"];

const CLOSE: u8 = 8;
/// RFC 6455 §7.1.5: what a Close frame without a body means.
const NO_STATUS: u32 = 1005;

/// Bytes that [`Scanner::step`] looks at; the longest header has 14.
pub const WINDOW: usize = 16;

/// The index of each opcode, four bits each, the lowest first.
const OPCODE_INDICES: u64 = 0x7777_7543_6666_6210;

/// The index of an opcode (0–15) in [`DirCounters::frames`].
///
/// Without branches, as [`size_bucket`]: the verifier looks at what follows once for each way here.
#[must_use]
#[inline(always)]
pub const fn opcode_index(opcode: u8) -> usize {
    (OPCODE_INDICES >> ((opcode & 0x0f) * 4)) as usize & (OPCODE_COUNT - 1)
}

/// The index of a payload length in [`DirCounters::sizes`]: 0 for none, else the number of significant bits,
/// at most the last bucket.
#[must_use]
#[inline(always)]
pub const fn size_bucket(payload: u64) -> usize {
    let bits = (u64::BITS - payload.leading_zeros()) as usize;
    if bits > SIZE_BUCKETS - 1 { SIZE_BUCKETS - 1 } else { bits }
}

/// The largest payload length (bytes, inclusive) of a bucket of [`DirCounters::sizes`]; `None` for the last.
#[must_use]
pub const fn bucket_limit(bucket: usize) -> Option<u64> {
    if bucket + 1 >= SIZE_BUCKETS { None } else { Some((1u64 << bucket) - 1) }
}

const HEAD: u8 = 0;
const LENGTH: u8 = 1;
const EXTENDED: u8 = 2;
const MASK: u8 = 3;
const CODE: u8 = 4;
const PAYLOAD: u8 = 5;

/// Where in a frame one direction of a stream stands. All zero is the start of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct Scanner {
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// The payload length, as far as its bytes have come.
    length: u64,
    /// The masking key, as far as its bytes have come; the first byte is the highest.
    mask: u32,
    /// The status code, as far as its bytes have come.
    code: u32,
    phase: u8,
    /// Bytes that the phase still waits for.
    left: u8,
    /// The first byte of the header.
    head: u8,
    masked: u8,
    reserved: u32,
}

impl Scanner {
    /// The start of a stream.
    pub const START: Self =
        Self { remaining: 0, length: 0, mask: 0, code: 0, phase: HEAD, left: 0, head: 0, masked: 0, reserved: 0 };

    /// Whether the stream stands between two frames.
    #[must_use]
    #[inline(always)]
    pub const fn at_boundary(&self) -> bool {
        self.phase == HEAD
    }

    /// Looks at the next bytes of the stream and counts what begins in them.
    ///
    /// `available` is the number of bytes at hand, at least 1; `window` holds the first of them, as many as fit
    /// (what lies behind them is not looked at). Returns how many bytes were dealt with: at least 1, at most
    /// `available`. The caller goes on behind them.
    #[inline(always)]
    pub fn step(&mut self, window: &[u8; WINDOW], available: u64, counters: &mut DirCounters) -> u64 {
        if self.phase == PAYLOAD {
            return self.skip(available);
        }
        if self.phase == HEAD {
            let header = header_length(window[1]);
            if available >= 2 && available >= header {
                return self.whole(window, available, header, counters);
            }
        }
        self.byte(window[0], counters);
        1
    }

    /// Feeds a whole slice, in steps: what userspace does with each buffer.
    pub fn feed(&mut self, mut bytes: &[u8], counters: &mut DirCounters) {
        counters.bytes = counters.bytes.wrapping_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let mut window = [0; WINDOW];
            let head = bytes.len().min(WINDOW);
            window[..head].copy_from_slice(&bytes[..head]);
            let used = self.step(&window, bytes.len() as u64, counters);
            bytes = bytes.get(used as usize..).unwrap_or_default();
        }
    }

    /// As [`Scanner::feed`], but only to the next boundary between two frames: how many bytes that took. None, if it
    /// stands at one; all, if there is none in them.
    pub fn feed_frame(&mut self, bytes: &[u8], counters: &mut DirCounters) -> usize {
        let mut used = 0;
        while !self.at_boundary() && used < bytes.len() {
            let rest = bytes.get(used..).unwrap_or_default();
            // Never more than the frame at hand: a step that completes one ends behind it.
            let most = if self.phase == PAYLOAD { rest.len() } else { 1 };
            let mut window = [0; WINDOW];
            window[0] = rest[0];
            used += self.step(&window, most as u64, counters) as usize;
        }
        counters.bytes = counters.bytes.wrapping_add(used as u64);
        used
    }

    #[inline(always)]
    fn skip(&mut self, available: u64) -> u64 {
        if self.remaining > available {
            self.remaining -= available;
            return available;
        }
        let used = self.remaining;
        self.remaining = 0;
        self.phase = HEAD;
        used
    }

    /// A header that is wholly in the window, and as much of its payload as is at hand.
    #[inline(always)]
    fn whole(&mut self, w: &[u8; WINDOW], available: u64, header: u64, counters: &mut DirCounters) -> u64 {
        self.head = w[0];
        self.masked = w[1] >> 7;
        let short = w[1] & 0x7f;
        (self.length, self.mask) = if short == 127 {
            let length = u64::from_be_bytes([w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]]);
            (length, u32::from_be_bytes([w[10], w[11], w[12], w[13]]))
        } else if short == 126 {
            (u64::from_be_bytes([0, 0, 0, 0, 0, 0, w[2], w[3]]), u32::from_be_bytes([w[4], w[5], w[6], w[7]]))
        } else {
            (u64::from(short), u32::from_be_bytes([w[2], w[3], w[4], w[5]]))
        };
        if self.masked == 0 {
            self.mask = 0;
        }
        self.complete(counters);
        let rest = available - header;
        if self.phase == PAYLOAD && rest > 0 { header + self.skip(rest) } else { header }
    }

    /// One byte of a header or of a status code.
    #[inline(always)]
    fn byte(&mut self, byte: u8, counters: &mut DirCounters) {
        match self.phase {
            HEAD => {
                self.head = byte;
                self.phase = LENGTH;
            }
            LENGTH => self.short_length(byte, counters),
            EXTENDED => {
                self.length = self.length << 8 | u64::from(byte);
                self.left = self.left.wrapping_sub(1);
                if self.left == 0 {
                    self.mask_or_complete(counters);
                }
            }
            MASK => {
                self.mask = self.mask << 8 | u32::from(byte);
                self.left = self.left.wrapping_sub(1);
                if self.left == 0 {
                    self.complete(counters);
                }
            }
            _ => self.code_byte(byte, counters),
        }
    }

    #[inline(always)]
    fn short_length(&mut self, byte: u8, counters: &mut DirCounters) {
        self.masked = byte >> 7;
        let short = byte & 0x7f;
        self.length = 0;
        if short >= 126 {
            self.left = if short == 126 { 2 } else { 8 };
            self.phase = EXTENDED;
        } else {
            self.length = u64::from(short);
            self.mask_or_complete(counters);
        }
    }

    #[inline(always)]
    fn mask_or_complete(&mut self, counters: &mut DirCounters) {
        self.mask = 0;
        if self.masked == 0 {
            self.complete(counters);
        } else {
            self.left = 4;
            self.phase = MASK;
        }
    }

    /// The header is complete: counts the frame, and goes on to its payload.
    #[inline(always)]
    fn complete(&mut self, counters: &mut DirCounters) {
        let opcode = self.head & 0x0f;
        let kind = opcode_index(opcode);
        counters.frames[kind] = counters.frames[kind].wrapping_add(1);
        // What the compiler knows about the length it would use to drop the bound, which the verifier then misses.
        let bucket = size_bucket(black_box(self.length));
        counters.sizes[bucket] = counters.sizes[bucket].wrapping_add(1);
        if self.head & 0x80 != 0 && opcode <= 2 {
            counters.messages = counters.messages.wrapping_add(1);
        }
        self.remaining = self.length;
        self.phase = if self.length == 0 { HEAD } else { PAYLOAD };
        if opcode == CLOSE {
            counters.closes = counters.closes.wrapping_add(1);
            counters.close_code = NO_STATUS;
            if self.length >= 2 {
                self.code = 0;
                self.left = 2;
                self.phase = CODE;
            }
        }
    }

    /// A byte of a Close frame's status code: the first two bytes of its payload, unmasked here (RFC 6455 §5.3).
    #[inline(always)]
    fn code_byte(&mut self, byte: u8, counters: &mut DirCounters) {
        let key = if self.masked == 0 {
            0
        } else if self.left == 2 {
            self.mask >> 24
        } else {
            self.mask >> 16 & 0xff
        };
        self.code = self.code << 8 | (u32::from(byte) ^ key);
        self.left = self.left.wrapping_sub(1);
        self.remaining = self.remaining.saturating_sub(1);
        if self.left == 0 {
            counters.close_code = self.code & 0xffff;
            self.phase = if self.remaining == 0 { HEAD } else { PAYLOAD };
        }
    }
}

/// The length of the header whose second byte this is.
#[inline(always)]
const fn header_length(second: u8) -> u64 {
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if second & 0x80 == 0 { 0 } else { 4 }
}
