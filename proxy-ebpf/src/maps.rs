//! The maps. The loader (`kernel/maps.rs` of the proxy) knows them by these names, and sizes them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf, SockMap};
use proxy_common::layout::{PairCounters, UserState, VerdictState};

/// `BPF_F_MMAPABLE`: userspace reads and writes the array without system calls.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: an entry costs memory only while its socket is relayed.
const NO_PREALLOC: u32 = 1;

/// Both sockets of every pair, for redirecting to. No program is attached to it.
#[map]
pub(crate) static TARGETS: SockMap = SockMap::with_max_entries(2, 0);

/// The sockets whose segments the verdict sees. Leaving it pauses a direction.
#[map]
pub(crate) static SOURCES: SockMap = SockMap::with_max_entries(2, 0);

/// Socket cookie to index (`layout::index`).
#[map]
pub(crate) static INDICES: HashMap<u64, u32> = HashMap::with_max_entries(2, NO_PREALLOC);

/// By slot: written by the verdict.
#[map]
pub(crate) static COUNTERS: Array<PairCounters> = Array::with_max_entries(1, MMAPABLE);

/// By index: written by the verdict.
#[map]
pub(crate) static VERDICTS: Array<VerdictState> = Array::with_max_entries(2, MMAPABLE);

/// By index: written by userspace.
#[map]
pub(crate) static USERS: Array<UserState> = Array::with_max_entries(2, MMAPABLE);

/// Directions that userspace must look at.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);
