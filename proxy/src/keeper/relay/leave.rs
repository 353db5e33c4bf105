//! How a pair leaves the `sockmap` engine while it lives: before the first FIN is sent on.
//!
//! A socket that has sent a FIN and received one is closed, in the kernel's terms, as soon as both are acknowledged
//! (`tcp_time_wait`, `tcp_rcv_state_process`). A closed socket leaves all sockmaps by itself (`sock_map_unhash`), and what
//! the verdict had passed up and nobody has read yet is freed with its place there. So a FIN goes to a socket only when
//! nothing can be passed up from it any more: its own stream has been read to the end, or it has left the maps before, and
//! userspace carries the rest of it.

use std::sync::atomic::{Ordering, fence};

use proxy_common::layout::{Direction, MODE_KERNEL, VerdictState, index};
use proxy_common::scan::Scanner;

use super::Relay;
use super::sockmap::has_accepted;
use crate::handoff::EndReason;
use crate::kernel::Kernel;
use crate::sys::socket;

/// What has become of an attempt to leave.
enum Left {
    /// The pair is carried by userspace.
    Yes,
    /// Bytes are under way through the kernel; to be tried again when they have been carried over.
    NotYet,
    /// The kernel has dropped a segment meanwhile.
    Broken,
}

impl Relay {
    /// Whether the target of `direction`, to which everything has been delivered, may get its FIN now. If not, that is tried
    /// again whenever the other direction has carried over what was passed.
    pub(super) fn may_shut(&mut self, slot: u32, direction: Direction) -> bool {
        let Some(pair) = self.table.get(slot) else { return false };
        let other = direction.reverse();
        if !pair.in_maps || pair.flow(other).shut || self.has_been_read(slot, other) {
            return true;
        }
        match self.leave(slot, other) {
            Left::Yes => return true,
            Left::NotYet => {
                if let Some(pair) = self.table.get_mut(slot) {
                    pair.flow_mut(direction).fin_waits = true;
                }
            }
            Left::Broken => self.abort(slot, EndReason::KernelBroken),
        }
        false
    }

    /// Whether the end of a direction's source has been read, and all before it has been carried over.
    fn has_been_read(&self, slot: u32, direction: Direction) -> bool {
        let (Some(kernel), Some(pair)) = (&self.kernel, self.table.get(slot)) else { return true };
        let at = index(slot, direction);
        pair.flow(direction).ended && kernel.look(at).passed == kernel.forwarded(at)
    }

    /// Has userspace carry what is left of `direction`; the other one is over.
    fn leave(&mut self, slot: u32, direction: Direction) -> Left {
        self.hold_one(slot, direction);
        let Some(pair) = self.table.get(slot) else { return Left::NotYet };
        // The kernel drops a segment that is being handed to the verdict while its socket leaves SOURCES, when it has been
        // acknowledged already: so none may come meanwhile. Where there is no filter, the counts show what is missing.
        let _ = socket::keep_data_out(pair.source(direction));
        let left = self.leave_undisturbed(slot, direction);
        if let Some(pair) = self.table.get(slot) {
            let _ = socket::let_data_in(pair.source(direction));
        }
        if matches!(left, Left::Yes) {
            self.settle(slot);
        }
        left
    }

    /// [`Relay::leave`], while no data comes in.
    fn leave_undisturbed(&mut self, slot: u32, direction: Direction) -> Left {
        let (Some(kernel), Some(pair)) = (&mut self.kernel, self.table.get_mut(slot)) else { return Left::NotYet };
        if !matches!(socket::received_in_all(pair.source(direction)), Ok(None)) {
            // Its own end is near, and lets the FIN go that waits for this. No map would take the socket back.
            return Left::NotYet;
        }
        // That has taken the source's lock: a verdict that has not seen the hold is over.
        let at = index(slot, direction);
        let state = kernel.look(at);
        let forwarded = kernel.forwarded(at);
        let drained = has_accepted(pair.target(direction), pair.flow(direction), state.redirected, forwarded);
        let drained = drained.unwrap_or(false);
        if state.passed != forwarded || !drained {
            // What is passed has its own way to be carried over; what the kernel worker still has must be asked for.
            self.poll_drain(slot, direction.reverse());
            return Left::NotYet;
        }
        kernel.take_off(at);
        // Once more the lock, for a segment that has come all the same.
        let _ = socket::consumed(pair.source(direction));
        fence(Ordering::SeqCst);
        let passed = kernel.look(at).passed;
        let expected = pair.flow(direction).consumed.wrapping_add(state.redirected).wrapping_add(passed);
        if passed != forwarded {
            // A segment has come meanwhile. It waits where only a socket under the verdict's rule is read.
            return match kernel.put_back(at, pair.source(direction)) {
                Ok(()) => {
                    let _ = socket::kick(pair.source(direction));
                    Left::NotYet
                }
                // No map takes a socket whose peer has sent its FIN. With nothing behind what was passed, that is read all
                // the same.
                Err(_) if matches!(socket::received_in_all(pair.source(direction)), Ok(Some(all)) if all == expected) => {
                    Left::NotYet
                }
                Err(error) => {
                    tracing::error!(conn = %pair.facts.id, %error, "a pair cannot go back to the kernel");
                    Left::Broken
                }
            };
        }
        let scanners = Direction::ALL.map(|each| scanner(kernel, index(slot, each), pair.flow(each).flips));
        kernel.remove(slot, pair.cookies);
        pair.in_maps = false;
        pair.scanners = Some(Box::new(scanners));
        match socket::consumed(pair.source(direction)) {
            Ok(Some(consumed)) if consumed != expected => {
                tracing::error!(conn = %pair.facts.id, consumed, expected, "the kernel has dropped bytes of a pair");
                Left::Broken
            }
            // While so much comes in that it cannot be counted, nothing can have been missed for long.
            _ => {
                tracing::debug!(conn = %pair.facts.id, slot, "one side has ended; userspace relays");
                Left::Yes
            }
        }
    }
}

/// Where in a frame a direction stands of which everything that was passed has been carried over.
fn scanner(kernel: &Kernel, at: u32, flips: u32) -> Scanner {
    let VerdictState { mode, scanner, flips: given_up, .. } = kernel.look(at);
    if mode == MODE_KERNEL || given_up != flips { scanner } else { kernel.users.read(at).scanner }
}
