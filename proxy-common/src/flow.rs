//! The flow-control rules: who relays the next bytes of one direction, the kernel or userspace.
//!
//! A redirected segment leaves the source's receive accounting at once and waits, charged to nobody, until a kernel
//! worker has written it to the target. So the verdict redirects only what the target's TCP takes *now* ([`room`]);
//! everything else it passes up to the source's own receive side, where it is charged to SO_RCVBUF, closes the
//! source's window, and waits for userspace to carry it over.
//!
//! The direction's state has two owners. The verdict writes `mode`, `redirected` and `passed`; userspace writes
//! `forwarded`. All are cumulative. The rules, which `tests/model` explores exhaustively:
//!
//! * the verdict leaves kernel mode when there is no [`room`], or when a segment holds more frames than it may count;
//! * userspace loads `passed` before `redirected`: the other way round it may miss a redirect that came before the bytes
//!   that it sees passed, and overtake the kernel;
//! * userspace carries passed bytes over only after the target has accepted everything that was redirected
//!   ([`may_forward`]), so that it never overtakes the kernel;
//! * the verdict returns to kernel mode only when userspace has carried over everything that was passed
//!   ([`decide`]), so that the kernel never overtakes userspace;
//! * userspace sleeps only when it has carried over everything; whoever passes bytes up while it may be asleep
//!   wakes it ([`must_wake`]);
//! * whoever carries bytes counts their frames: userspace takes the scanner over with the first bytes that are passed, the
//!   verdict takes it back when it returns to kernel mode.

use crate::layout::{MODE_KERNEL, MODE_USER};

/// What the verdict does with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The kernel writes it to the target.
    Redirect,
    /// It stays with the source's socket, for userspace to carry over.
    Pass,
}

/// What the verdict knows of the target's socket, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Redirected, but not yet accepted by the target's TCP.
    pub backlog: u32,
    /// `sk_wmem_queued`: what the send queue holds, overhead included.
    pub queued: u32,
    /// `sk_sndbuf`: what the send queue may hold.
    pub limit: u32,
    /// `sk_wmem_alloc`: what lies in the queueing discipline and the device.
    pub in_flight: u32,
}

/// Memory that one more piece in a TCP send queue costs besides its payload, in bytes.
///
/// A send that does not fit behind the last unsent buffer takes a new one: `struct sk_buff` with its clone (about
/// 512), a header reserve (`MAX_TCP_HEADER`, about 320) and `struct skb_shared_info` (320), rounded up by slab to
/// 2 KiB. A segment arrives in one to three pieces; two is what loopback and drivers with header split deliver.
pub const PIECE: u32 = 4096;

/// The redirected segments that may not have reached the target's TCP yet: never too few of them.
///
/// The verdict sees how many bytes the target has accepted, but not of how many segments. So it counts in two steps:
/// `recent` are the segments redirected since `mark`, and once the target has accepted all that was sent before `mark`
/// no other can be waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Burst {
    /// Segments that may wait.
    pub waiting: u32,
    /// Of these, the ones redirected after `mark` was set.
    pub recent: u32,
    /// What had been sent to the target when `mark` was set: bytes, wrapping.
    pub mark: u32,
}

impl Burst {
    /// What is left of it, now that of `sent` bytes in all the target has accepted `accepted` (both wrapping).
    #[must_use]
    #[inline(always)]
    pub const fn settled(self, sent: u32, accepted: u32) -> Self {
        if sent == accepted {
            Self { waiting: 0, recent: 0, mark: sent }
        } else if accepted.wrapping_sub(self.mark) <= i32::MAX as u32 {
            Self { waiting: self.recent, recent: 0, mark: sent }
        } else {
            self
        }
    }

    /// With one more segment.
    #[must_use]
    #[inline(always)]
    pub const fn and_one(self) -> Self {
        Self { waiting: self.waiting.saturating_add(1), recent: self.recent.saturating_add(1), mark: self.mark }
    }
}

/// Whether the target's TCP takes `len` more bytes at once, so that nothing waits uncharged.
///
/// * `backlog_limit` bounds what waits for the kernel worker (bytes);
/// * `waiting` counts the segments that already wait ([`Burst`]), each of which may cost a [`PIECE`];
/// * the worker writes only while less than half of the send buffer is in flight (`sock_writeable`).
#[must_use]
#[inline(always)]
pub const fn room(target: &Target, waiting: u32, len: u32, backlog_limit: u32) -> bool {
    let bytes = target.backlog as u64 + len as u64;
    let cost = bytes + (waiting as u64 + 1) * PIECE as u64;
    bytes <= backlog_limit as u64
        && target.queued as u64 + cost <= target.limit as u64
        && (target.in_flight as u64) * 2 < target.limit as u64
}

/// The verdict's rule. `forwarded` may be older than the truth: that only delays the return to kernel mode.
#[must_use]
#[inline(always)]
pub const fn decide(mode: u32, passed: u64, forwarded: u64, hold: bool, room: bool) -> Decision {
    let kernel_may = mode == MODE_KERNEL || (mode == MODE_USER && forwarded == passed);
    if kernel_may && room && !hold { Decision::Redirect } else { Decision::Pass }
}

/// Whether userspace may be asleep, and so must be woken, when bytes have been passed up.
///
/// `passed_before` is the count before these bytes; `forwarded` must have been read *after* the new count became
/// visible (a full barrier between), as userspace publishes `forwarded` and then looks at `passed` before it sleeps:
/// one of both sees the other.
#[must_use]
#[inline(always)]
pub const fn must_wake(passed_before: u64, forwarded: u64) -> bool {
    forwarded == passed_before
}

/// Userspace's rule: it may write passed bytes to the target once the target has accepted all that went before.
///
/// `accepted` is what the target's TCP has taken since the pair was inserted; it may be an under-estimate.
#[must_use]
#[inline(always)]
pub const fn may_forward(redirected: u64, forwarded: u64, accepted: u64) -> bool {
    accepted >= redirected + forwarded
}

/// Bytes that were sent to the target and that its TCP has not accepted yet, from what was `sent` in all (redirected and
/// forwarded) and from its `write_seq` now and as it stood before the first of them. All are 32 bits, wrapping.
#[must_use]
#[inline(always)]
pub const fn backlog(sent: u32, base: u32, write_seq: u32) -> u32 {
    sent.wrapping_sub(write_seq.wrapping_sub(base))
}

/// Where a segment stands in the stream that its socket's reader has been promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It begins with bytes that were delivered before, so many: 0 in the ordinary case, never more than it has.
    Overlaps(u32),
    /// Bytes before it are missing.
    BehindAGap,
}

/// Where a segment stands whose first byte has the sequence number `seq`, while `next_seq` is the next one to deliver.
///
/// TCP hands a segment on that overlaps what was received already (a retransmission cut elsewhere), or that
/// userspace has read a part of, and expects its reader to skip the rest by sequence number. The sockmap reader
/// (`tcp_read_skb`) does not, so the verdict must. All numbers are 32-bit sequence numbers, wrapping.
#[must_use]
#[inline(always)]
pub const fn place(next_seq: u32, seq: u32, len: u32) -> Place {
    let ahead = next_seq.wrapping_sub(seq);
    if ahead > i32::MAX as u32 {
        Place::BehindAGap
    } else if ahead > len {
        Place::Overlaps(len)
    } else {
        Place::Overlaps(ahead)
    }
}
