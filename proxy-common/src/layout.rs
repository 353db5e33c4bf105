//! Keys and values of the BPF maps.
//!
//! Every struct is `repr(C)`, has no implicit padding and only fixed-width fields, so that the kernel
//! program and userspace see the same bytes; the asserts below hold that.

use core::mem::{align_of, size_of};

use crate::flow::Burst;
use crate::scan::Scanner;

/// Which way bytes go.
///
/// `Direction as usize` indexes [`PairCounters::dirs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Direction {
    /// From the WebSocket client to the backend server.
    ClientToBackend = 0,
    /// From the backend server to the WebSocket client.
    BackendToClient = 1,
}

impl Direction {
    /// Both, in index order.
    pub const ALL: [Self; 2] = [Self::ClientToBackend, Self::BackendToClient];

    /// The value of the `direction` label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientToBackend => "client_to_backend",
            Self::BackendToClient => "backend_to_client",
        }
    }

    /// The other way.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::ClientToBackend => Self::BackendToClient,
            Self::BackendToClient => Self::ClientToBackend,
        }
    }

    /// The direction with this index: 0 or anything else.
    #[must_use]
    pub const fn from_index(index: u32) -> Self {
        if index == 0 { Self::ClientToBackend } else { Self::BackendToClient }
    }
}

/// The index, in every map with one entry per direction, of `direction` of the pair in `slot`.
///
/// A socket is known by the direction that it is the *source* of: the client's socket is at
/// [`Direction::ClientToBackend`], so the target of a direction stands at the index of its reverse.
#[must_use]
pub const fn index(slot: u32, direction: Direction) -> u32 {
    slot * 2 + direction as u32
}

/// The index of the same pair's other direction.
#[must_use]
pub const fn peer(index: u32) -> u32 {
    index ^ 1
}

/// How many kinds of frame are told apart: see [`crate::scan::OPCODES`].
pub const OPCODE_COUNT: usize = 8;

/// Buckets of the payload-size histogram: 0, 1, 2–3, 4–7 … and all from 2^22 bytes up.
pub const SIZE_BUCKETS: usize = 24;

/// What is counted for one direction of one pair.
///
/// Whoever carries the bytes counts them, so there is one writer at a time: the verdict program while the direction is
/// in kernel mode (it runs under the source socket's lock), the relay's own code else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct DirCounters {
    /// Bytes received from the source, frame headers included.
    pub bytes: u64,
    /// Data messages whose last frame's header has been seen (FIN set, opcode 0, 1 or 2).
    pub messages: u64,
    /// Frames whose header has been seen, by the index that [`crate::scan::opcode_index`] gives.
    pub frames: [u64; OPCODE_COUNT],
    /// Frames by payload length, by the index that [`crate::scan::size_bucket`] gives.
    pub sizes: [u64; SIZE_BUCKETS],
    /// CLOCK_MONOTONIC_COARSE of the last byte, in nanoseconds; 0 before the first.
    pub last_activity_ns: u64,
    /// The last Close frame's status code; 0: none seen, 1005: one without a code (RFC 6455 §7.1.5).
    pub close_code: u32,
    /// Close frames seen. (Also in `frames`; here it makes the padding explicit and useful.)
    pub closes: u32,
}

impl DirCounters {
    /// All zero.
    pub const ZERO: Self = Self {
        bytes: 0,
        messages: 0,
        frames: [0; OPCODE_COUNT],
        sizes: [0; SIZE_BUCKETS],
        last_activity_ns: 0,
        close_code: 0,
        closes: 0,
    };

    /// Adds another direction's counts to these; the later activity and, if it has one, its close code stay.
    pub fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.messages = self.messages.wrapping_add(other.messages);
        for (mine, theirs) in self.frames.iter_mut().zip(other.frames) {
            *mine = mine.wrapping_add(theirs);
        }
        for (mine, theirs) in self.sizes.iter_mut().zip(other.sizes) {
            *mine = mine.wrapping_add(theirs);
        }
        if other.last_activity_ns > self.last_activity_ns {
            self.last_activity_ns = other.last_activity_ns;
        }
        if other.close_code != 0 {
            self.close_code = other.close_code;
        }
        self.closes = self.closes.wrapping_add(other.closes);
    }
}

/// Both directions of a pair, indexed by [`Direction`]. The value of the `COUNTERS` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct PairCounters {
    /// By `Direction as usize`.
    pub dirs: [DirCounters; 2],
}

impl PairCounters {
    /// All zero.
    pub const ZERO: Self = Self { dirs: [DirCounters::ZERO; 2] };
}

/// A direction is relayed by the kernel: the verdict redirects.
pub const MODE_KERNEL: u32 = 0;
/// A direction is relayed by userspace: the verdict passes everything up.
pub const MODE_USER: u32 = 1;

/// [`VerdictState::flags`]: `base` holds the target's `write_seq` as it stood before the first redirect.
pub const FLAG_BASE: u32 = 1;
/// [`VerdictState::flags`]: `next_seq` holds the sequence number of the next byte to relay.
pub const FLAG_SEQ: u32 = 2;
/// [`VerdictState::flags`]: bytes of the stream are missing or cannot be carried; userspace must abort the pair.
pub const FLAG_BROKEN: u32 = 4;

/// What the verdict keeps for one direction. Written by the verdict only; read by userspace, which must load `passed`
/// before all else: the verdict publishes the other fields with it.
/// The value of the `VERDICTS` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VerdictState {
    /// Bytes redirected to the target since the pair was inserted.
    pub redirected: u64,
    /// Bytes passed up to userspace since the pair was inserted.
    pub passed: u64,
    /// [`MODE_KERNEL`] or [`MODE_USER`].
    pub mode: u32,
    /// The target's `write_seq` before the first redirect (see [`FLAG_BASE`]).
    pub base: u32,
    /// TCP sequence number of the next byte that the source owes us (see [`FLAG_SEQ`]).
    pub next_seq: u32,
    /// [`FLAG_BASE`], [`FLAG_SEQ`], [`FLAG_BROKEN`].
    pub flags: u32,
    /// Times that the direction was given to userspace. Each time userspace takes the scanner over.
    pub flips: u32,
    /// Of the first segment passed at the last flip, bytes at its front that the verdict has counted before it gave up.
    pub counted: u32,
    /// The redirected segments that may still wait for the target.
    pub burst: Burst,
    /// Padding.
    pub reserved: u32,
    /// Where in a frame the direction stands, while it is in kernel mode; where userspace takes over, while it is not.
    pub scanner: Scanner,
}

/// What userspace keeps for one direction. Written by userspace only; read by the verdict.
/// The value of the `USERS` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UserState {
    /// Of the passed bytes, those that the target's TCP has accepted, cumulative. Publishes `scanner`.
    pub forwarded: u64,
    /// Not 0: the verdict must stay in, or go to, user mode.
    pub hold: u32,
    /// Padding.
    pub reserved: u32,
    /// Where in a frame the direction stands, while it is in user mode. The verdict takes it back when it finds
    /// everything forwarded.
    pub scanner: Scanner,
}

/// A record of the `EVENTS` ring buffer: userspace may be asleep and must look at this direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// As [`index`] gives it.
    pub index: u32,
    /// The lower half of the source socket's cookie: tells an event of a slot's earlier tenant.
    pub cookie: u32,
}

const _: () = assert!(size_of::<DirCounters>() == 8 + 8 + 64 + 192 + 8 + 8);
const _: () = assert!(size_of::<PairCounters>() == 2 * size_of::<DirCounters>());
const _: () = assert!(size_of::<Scanner>() == 32 && align_of::<Scanner>() == 8);
const _: () = assert!(size_of::<Burst>() == 12 && align_of::<Burst>() == 4);
const _: () = assert!(size_of::<VerdictState>() == 16 + 24 + 12 + 4 + 32 && align_of::<VerdictState>() == 8);
const _: () = assert!(size_of::<UserState>() == 16 + 32 && align_of::<UserState>() == 8);
const _: () = assert!(size_of::<Event>() == 8);
// BPF arrays lay their values out at multiples of 8 bytes, which the memory maps of userspace rely on.
const _: () = assert!(size_of::<PairCounters>().is_multiple_of(8));
const _: () = assert!(size_of::<VerdictState>().is_multiple_of(8));
const _: () = assert!(size_of::<UserState>().is_multiple_of(8));
