//! What the verdict reads of TCP sockets, at offsets that the loader takes from the kernel's own BTF.

use aya_ebpf::helpers::{bpf_map_lookup_elem, bpf_sk_release, bpf_skc_to_tcp_sock};
use proxy_common::flow::Target;

use crate::maps::TARGETS;

// Byte offsets into `struct tcp_sock`, set by the loader before the program is verified. They lie in a frozen,
// read-only map, so the verifier knows their values and checks each access against the kernel's types.
#[unsafe(no_mangle)]
static OFFSET_WRITE_SEQ: u32 = 0;
#[unsafe(no_mangle)]
static OFFSET_COPIED_SEQ: u32 = 0;
#[unsafe(no_mangle)]
static OFFSET_WMEM_QUEUED: u32 = 0;
#[unsafe(no_mangle)]
static OFFSET_SNDBUF: u32 = 0;
#[unsafe(no_mangle)]
static OFFSET_WMEM_ALLOC: u32 = 0;

/// A socket's TCP state, borrowed from whoever holds the socket.
#[derive(Clone, Copy)]
pub(crate) struct Tcp(*const u8);

impl Tcp {
    /// The TCP state of a socket (`struct sock_common *` as the verifier knows it).
    #[inline(always)]
    pub(crate) fn of(socket: *mut core::ffi::c_void) -> Option<Self> {
        // SAFETY: the verifier admits only pointers to sockets here, and requires the check for null.
        let tcp = unsafe { bpf_skc_to_tcp_sock(socket) };
        if tcp.is_null() { None } else { Some(Self(tcp.cast())) }
    }

    #[inline(always)]
    fn field(self, offset: &'static u32) -> u32 {
        // SAFETY: a static is readable; volatile, because the loader changes it after compilation.
        let offset = unsafe { core::ptr::read_volatile(offset) };
        // SAFETY: the verifier refuses the program unless this is a field of `struct tcp_sock`.
        unsafe { core::ptr::read_volatile(self.0.add(offset as usize).cast::<u32>()) }
    }

    /// The sequence number behind the last byte that was written to the socket.
    #[inline(always)]
    pub(crate) fn write_seq(self) -> u32 {
        self.field(&OFFSET_WRITE_SEQ)
    }

    /// The sequence number of the next byte that a reader of the socket gets.
    #[inline(always)]
    pub(crate) fn copied_seq(self) -> u32 {
        self.field(&OFFSET_COPIED_SEQ)
    }

    #[inline(always)]
    fn memory(self) -> Target {
        Target {
            backlog: 0,
            queued: self.field(&OFFSET_WMEM_QUEUED),
            limit: self.field(&OFFSET_SNDBUF),
            in_flight: self.field(&OFFSET_WMEM_ALLOC),
        }
    }
}

/// The socket that a direction goes to.
pub(crate) struct Peer {
    /// The sequence number behind the last byte that was written to it.
    pub(crate) write_seq: u32,
    /// Its send queue. The backlog is not known here: 0.
    pub(crate) memory: Target,
}

/// The socket at `index` of `TARGETS`. `None` when it is gone.
#[inline(always)]
pub(crate) fn target(index: u32) -> Option<Peer> {
    let map = core::ptr::from_ref(&TARGETS).cast_mut().cast();
    // SAFETY: the map is a SOCKMAP; the verifier demands the null check and the release below.
    let socket = unsafe { bpf_map_lookup_elem(map, core::ptr::from_ref(&index).cast()) };
    if socket.is_null() {
        return None;
    }
    let found = Tcp::of(socket).map(|tcp| Peer { write_seq: tcp.write_seq(), memory: tcp.memory() });
    // SAFETY: the look-up acquired this reference, and nothing of the socket is used after this.
    unsafe { bpf_sk_release(socket) };
    found
}
