//! Runs the frame scanner over a segment, wherever its bytes lie.

use core::ffi::c_void;
use core::hint::black_box;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::programs::SkBuffContext;
use proxy_common::layout::{DirCounters, VerdictState};
use proxy_common::scan::WINDOW;

/// What one turn of the loop needs.
struct Turn {
    skb: *mut c_void,
    state: *mut VerdictState,
    counters: *mut DirCounters,
    offset: u32,
    len: u32,
}

/// The most steps of the scanner for one segment.
///
/// A step costs about 50 ns, with the source's socket locked and in softirq. This many are enough for a segment of
/// 64 KiB with frames of 64 bytes; of smaller frames userspace counts the rest, where it holds nobody up.
const STEPS: u32 = 1024;

/// Counts the frames of a segment of `len` bytes. Returns how many bytes that dealt with: all, or fewer if the segment
/// holds too many frames.
#[inline(always)]
pub(crate) fn segment(ctx: &SkBuffContext, len: u32, state: *mut VerdictState, counters: *mut DirCounters) -> u32 {
    let mut turn = Turn { skb: ctx.as_ptr(), state, counters, offset: 0, len };
    // SAFETY: `step` has the signature that the kernel calls; it ends the loop by itself when it is through.
    unsafe { bpf_loop(STEPS, step as *mut c_void, core::ptr::from_mut(&mut turn).cast(), 0) };
    // SAFETY: both point into map values, and this direction's verdict is their only writer while the direction is in
    // kernel mode: it runs under the source socket's lock.
    unsafe {
        (*counters).bytes = (*counters).bytes.wrapping_add(u64::from(turn.offset));
        (*counters).last_activity_ns = bpf_ktime_get_coarse_ns();
    }
    turn.offset
}

/// One step of the scanner. Returns 1 to end the loop.
extern "C" fn step(_turn: u32, turn: *mut Turn) -> i64 {
    // SAFETY: `bpf_loop` passes the pointer that it was given, and nothing else uses it meanwhile.
    let turn = unsafe { &mut *turn };
    let (offset, len) = (turn.offset, turn.len);
    if offset >= len {
        return 1;
    }
    let available = len - offset;
    let mut words = MaybeUninit::<[u64; WINDOW / 8]>::uninit();
    let first = words.as_mut_ptr().cast::<u64>();
    // SAFETY: both words are inside of `words`. Volatile: else the compiler clears them by calling `memset`.
    unsafe {
        core::ptr::write_volatile(first, 0);
        core::ptr::write_volatile(first.add(1), 0);
    }
    let wanted = if available < WINDOW as u32 { available } else { WINDOW as u32 };
    // From 1 to WINDOW, as `wanted` is. The compiler, which knows that, must not drop the mask: the verifier of Linux 6.1
    // learns nothing from a comparison with 0.
    let take = (black_box(wanted - 1) & (WINDOW as u32 - 1)) + 1;
    // SAFETY: `words` has room for `take`, which is at most WINDOW bytes.
    let got = unsafe { bpf_skb_load_bytes(turn.skb, offset, first.cast(), take) };
    if got != 0 {
        return 1;
    }
    // SAFETY: both point into map values with this verdict as their only writer (see `segment`).
    let (state, counters) = unsafe { (&mut *turn.state, &mut *turn.counters) };
    // SAFETY: the same bytes, all of them initialised.
    let window = unsafe { &*(&raw const words).cast::<[u8; WINDOW]>() };
    turn.offset = offset + state.scanner.step(window, u64::from(available), counters) as u32;
    0
}
