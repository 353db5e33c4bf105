//! The maps of the loaded program, by the names that `proxy-ebpf/src/maps.rs` gives them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, RingBuf, SockMap};
use proxy_common::layout::{DirCounters, Direction, Event, FLAG_BROKEN, UserState, VerdictState, index};

use crate::sys::mapped::{MappedArray, Slot};
use crate::sys::socket;

/// The loaded program and its maps. Dropping it detaches the program.
pub struct Kernel {
    pub(super) targets: SockMap<MapData>,
    pub(super) sources: SockMap<MapData>,
    pub(super) indices: HashMap<MapData, u64, u32>,
    pub(super) events: RingBuf<MapData>,
    /// By `layout::index`: what the verdict, or the copy engine, has counted.
    pub counters: MappedArray<DirCounters>,
    /// By `layout::index`: what the verdict keeps.
    pub verdicts: MappedArray<VerdictState>,
    /// By `layout::index`: what userspace keeps.
    pub users: MappedArray<UserState>,
    pub(super) logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    pub(super) _ebpf: Ebpf,
}

/// `VerdictState::passed` as a word of the map.
const PASSED: usize = 1;
const _: () = assert!(core::mem::offset_of!(VerdictState, passed) == PASSED * 8);

/// `UserState::forwarded` and `UserState::hold` as words of the map.
const FORWARDED: usize = 0;
const HOLD: usize = 1;
const _: () = assert!(core::mem::offset_of!(UserState, forwarded) == FORWARDED * 8);
const _: () = assert!(core::mem::offset_of!(UserState, hold) == HOLD * 8);

/// The kernel refused a pair's sockets.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused a socket for {map}: {source}")]
pub struct InsertError {
    map: &'static str,
    source: MapError,
}

impl Kernel {
    /// Puts both sockets of the pair in `slot` under the verdict's rule. Bytes that are queued on them already are
    /// not looked at before a [`crate::sys::socket::kick`]. On an error what this call has put into the maps is taken out
    /// again, and nothing else; what the verdict may have taken of the streams meanwhile shows in
    /// [`Kernel::is_untouched`].
    ///
    /// Both directions' [`VerdictState`] and [`UserState`] must be what the pair shall begin with.
    ///
    /// # Errors
    /// The kernel refuses a socket: it is not established, or has another user (a ULP, another sockmap).
    pub fn insert(&mut self, slot: u32, sockets: [BorrowedFd<'_>; 2], cookies: [u64; 2]) -> Result<(), InsertError> {
        let mut indexed = Vec::new();
        let result = self.try_insert(slot, sockets, cookies, &mut indexed);
        if result.is_err() {
            for (direction, socket) in Direction::ALL.into_iter().zip(sockets) {
                self.take_off(index(slot, direction));
                // To ask for the count takes the socket's lock: a verdict that is at work on it is over then, and has found
                // its index.
                let _ = socket::consumed(socket);
            }
            self.remove_from_maps(slot, &indexed);
        }
        result
    }

    fn try_insert(
        &mut self,
        slot: u32,
        sockets: [BorrowedFd<'_>; 2],
        cookies: [u64; 2],
        indexed: &mut Vec<u64>,
    ) -> Result<(), InsertError> {
        /// Another pair's socket must not become this one's: `BPF_NOEXIST` of linux/bpf.h.
        const NO_EXIST: u64 = 1;
        let at = |direction| index(slot, direction);
        let error = |map| move |source| InsertError { map, source };
        for (direction, cookie) in Direction::ALL.into_iter().zip(cookies) {
            self.indices.insert(cookie, at(direction), NO_EXIST).map_err(error("INDICES"))?;
            indexed.push(cookie);
        }
        for (direction, socket) in Direction::ALL.into_iter().zip(sockets) {
            self.targets.set(at(direction), &socket.as_raw_fd(), 0).map_err(error("TARGETS"))?;
        }
        for (direction, socket) in Direction::ALL.into_iter().zip(sockets) {
            self.sources.set(at(direction), &socket.as_raw_fd(), 0).map_err(error("SOURCES"))?;
        }
        Ok(())
    }

    /// What the verdict keeps of a direction, `passed` loaded before the rest: as `proxy_common::flow` asks for.
    #[must_use]
    pub fn look(&self, at: u32) -> VerdictState {
        self.verdicts.read_from(at, PASSED)
    }

    /// Of the bytes passed at `at`, those that userspace has published as carried over.
    #[must_use]
    pub fn forwarded(&self, at: u32) -> u64 {
        self.users.atomic(at, FORWARDED).load(Ordering::SeqCst)
    }

    /// Publishes that so many more of the bytes passed at `at` have been carried over.
    pub fn add_forwarded(&self, at: u32, bytes: usize) {
        self.users.atomic(at, FORWARDED).fetch_add(bytes as u64, Ordering::SeqCst);
    }

    /// Tells the verdict to redirect nothing more of the direction at `at`, for good.
    pub fn hold(&self, at: u32) {
        // `hold`, and the padding behind it.
        self.users.atomic(at, HOLD).store(1, Ordering::SeqCst);
    }

    /// Whether the verdict has taken nothing yet of the direction at `at`, neither redirected nor passed nor given up.
    #[must_use]
    pub fn is_untouched(&self, at: u32) -> bool {
        let VerdictState { redirected, passed, flags, .. } = self.look(at);
        (redirected, passed, flags & FLAG_BROKEN) == (0, 0, 0)
    }

    /// Takes the source at `at` from under the verdict's rule. Segments that come later stay in its own receive queue. One
    /// that is being handed to the verdict at this moment may be dropped by the kernel (`sk_psock_verdict_recv`
    /// without a program): who calls this must compare the counts.
    pub fn take_off(&mut self, at: u32) {
        let _ = self.sources.clear_index(&at);
    }

    /// Puts a source that was taken off back under the verdict's rule.
    ///
    /// # Errors
    /// The socket is no longer connected.
    pub fn put_back(&mut self, at: u32, socket: BorrowedFd<'_>) -> Result<(), InsertError> {
        self.sources.set(at, &socket.as_raw_fd(), 0).map_err(|source| InsertError { map: "SOURCES", source })
    }

    /// Takes a pair out of the maps. What the verdict keeps of it is not touched by the kernel afterwards, once both
    /// sockets are closed or shut down.
    pub fn remove(&mut self, slot: u32, cookies: [u64; 2]) {
        self.remove_from_maps(slot, &cookies);
    }

    fn remove_from_maps(&mut self, slot: u32, cookies: &[u64]) {
        for direction in Direction::ALL {
            // A socket that was reset has left the maps by itself.
            let _ = self.sources.clear_index(&index(slot, direction));
            let _ = self.targets.clear_index(&index(slot, direction));
        }
        // Last: what the verdict knows no index of it passes up without counting it.
        for cookie in cookies {
            let _ = self.indices.remove(cookie);
        }
    }

    /// Makes a slot that no socket is known by as if it had never been used.
    pub fn clear(&self, slot: u32) {
        for direction in Direction::ALL {
            let mut cell = Slot::new(index(slot, direction));
            self.counters.write(&mut cell, &DirCounters::ZERO);
            self.verdicts.write(&mut cell, &VerdictState::default());
            self.users.write(&mut cell, &UserState::default());
        }
    }

    /// The next direction that the verdict asks to be looked at: never blocks.
    pub fn next_event(&mut self) -> Option<Event> {
        let record = self.events.next()?;
        let word = |at: usize| record.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        Some(Event { index: word(0)?, cookie: word(4)? })
    }

    /// Readable when there is an event.
    #[must_use]
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        // `RingBuf` promises its descriptor by number only; it owns it as long as `self` lives.
        self.events.as_fd()
    }

    /// Hands the program's log lines to the logger.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Readable when there are log lines.
    #[must_use]
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.logger.as_ref().map(AsFd::as_fd)
    }
}
