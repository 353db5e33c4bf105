//! The verdict on one segment.

use core::ffi::c_void;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_loop, bpf_skb_adjust_room};
use aya_ebpf::programs::SkBuffContext;
use aya_ebpf::{EbpfContext as _, bindings::__sk_buff};
use aya_log_ebpf::debug;
use proxy_common::flow::{self, Decision};
use proxy_common::layout::{
    self, Event, FLAG_BASE, FLAG_BROKEN, FLAG_SEQ, MODE_KERNEL, MODE_USER, UserState, VerdictState,
};

use crate::maps::{COUNTERS, EVENTS, INDICES, TARGETS, USERS, VERDICTS};
use crate::{count, tcp};

/// Bytes that one direction may have waiting in the kernel; set by the loader.
#[unsafe(no_mangle)]
static BACKLOG_LIMIT: u32 = 0;

/// The most that `bpf_skb_adjust_room` takes off the front at once (`sk_skb_adjust_room`: 0xfff).
const TRIM_STEP: u32 = 4095;
/// So many steps cover the largest segment (64 KiB, or what GRO and coalescing make of it: 1 MiB).
const TRIM_STEPS: u32 = 260;

#[inline(always)]
pub(crate) fn verdict(ctx: &SkBuffContext) -> u32 {
    if ctx.len() == 0 {
        // A lone FIN. Redirecting it would break the target's queue; passing it lets userspace read the end.
        return SK_PASS;
    }
    // SAFETY: the helper takes this program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: entries are written whole, before the socket is in SOURCES.
    let Some(&index) = (unsafe { INDICES.get(&cookie) }) else {
        return SK_PASS;
    };
    let (Some(state), Some(user)) = (VERDICTS.get_ptr_mut(index), USERS.get_ptr(index)) else {
        return SK_PASS;
    };
    let Some(pair) = COUNTERS.get_ptr_mut(index >> 1) else {
        return SK_PASS;
    };
    if !trim(ctx, state) {
        // SAFETY: this verdict is the only writer of `state`.
        unsafe { (*state).flags |= FLAG_BROKEN };
        wake(index, cookie);
        return SK_DROP;
    }
    let len = ctx.len();
    if len == 0 {
        return SK_DROP;
    }
    // SAFETY: `pair` points to a map value; either direction is written by its own verdict only.
    let counters = unsafe {
        if index & 1 == 0 { &raw mut (*pair).dirs[0] } else { &raw mut (*pair).dirs[1] }
    };
    count::segment(ctx, len, state, counters);
    decide(ctx, index, cookie, len, state, user)
}

/// Takes what was delivered before off the front of the segment (see [`flow::overlap`]). False: it can't be done.
#[inline(always)]
fn trim(ctx: &SkBuffContext, state: *mut VerdictState) -> bool {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: `state` is a map value with this verdict as its only writer; `skb` is the program's context, whose
    // control block begins with TCP's: `seq`, `end_seq` (`struct tcp_skb_cb`, `struct sk_skb_cb`).
    let (len, seq) = unsafe { ((*skb).len, (*skb).cb[0]) };
    // SAFETY: as above.
    if unsafe { (*state).flags } & FLAG_SEQ == 0 {
        // SAFETY: reading a field of the context.
        let socket = unsafe { (*skb).__bindgen_anon_2.sk };
        if socket.is_null() {
            return false;
        }
        let Some(tcp) = tcp::Tcp::of(socket.cast()) else {
            return false;
        };
        // Nothing of this stream is in flight above TCP yet, so `copied_seq` is where its reader stands.
        let copied = tcp.copied_seq();
        // SAFETY: as above.
        unsafe {
            (*state).next_seq = copied;
            (*state).flags |= FLAG_SEQ;
        }
    }
    // SAFETY: as above.
    let old = flow::overlap(unsafe { (*state).next_seq }, seq, len);
    // SAFETY: as above.
    unsafe { (*state).next_seq = seq.wrapping_add(len) };
    if old == 0 {
        return true;
    }
    if old >= len {
        // Wholly old, which TCP itself never queues. There is nothing to deliver; nothing moves.
        // SAFETY: as above.
        unsafe { (*state).next_seq = seq.wrapping_add(old) };
        return false;
    }
    let mut trim = Trim { skb, old };
    // SAFETY: `trim_step` has the signature that the kernel calls.
    unsafe { bpf_loop(TRIM_STEPS, trim_step as *mut c_void, core::ptr::from_mut(&mut trim).cast(), 0) };
    trim.old == 0
}

/// What is still to be taken off the front of a segment.
struct Trim {
    skb: *mut __sk_buff,
    old: u32,
}

/// One step of [`trim`]. Returns 1 to end the loop.
///
/// A loop of the language's own would be verified turn by turn, with all that follows it each time.
extern "C" fn trim_step(_turn: u32, trim: *mut Trim) -> i64 {
    // SAFETY: `bpf_loop` passes the pointer that it was given, and nothing else uses it meanwhile.
    let trim = unsafe { &mut *trim };
    if trim.old == 0 {
        return 1;
    }
    let step = if trim.old > TRIM_STEP { TRIM_STEP } else { trim.old };
    // SAFETY: `skb` is the program's context.
    if unsafe { bpf_skb_adjust_room(trim.skb, -(step as i32), 0, 0) } != 0 {
        return 1;
    }
    trim.old -= step;
    0
}

#[inline(always)]
fn decide(
    ctx: &SkBuffContext,
    index: u32,
    cookie: u64,
    len: u32,
    state: *mut VerdictState,
    user: *const UserState,
) -> u32 {
    let Some((write_seq, mut target)) = tcp::target(layout::peer(index)) else {
        // The other socket is gone; what comes now has nobody to go to. Userspace sees the end of it.
        return SK_PASS;
    };
    // SAFETY: both are map values; `state` has this verdict as its only writer, `user` is written by userspace in
    // whole words.
    let (forwarded, hold) = unsafe { (core::ptr::read_volatile(&raw const (*user).forwarded), (*user).hold != 0) };
    // SAFETY: as above.
    let (mode, redirected, passed) = unsafe { ((*state).mode, (*state).redirected, (*state).passed) };
    // SAFETY: as above.
    unsafe {
        if (*state).flags & FLAG_BASE == 0 {
            // Nothing was redirected yet, and userspace writes only what was passed.
            (*state).base = write_seq;
            (*state).flags |= FLAG_BASE;
        }
        target.backlog = flow::backlog(redirected, forwarded, (*state).base, write_seq);
        if target.backlog == 0 {
            (*state).burst = 0;
        }
    }
    // SAFETY: a static is readable; volatile, because the loader changes it after compilation.
    let limit = unsafe { core::ptr::read_volatile(&BACKLOG_LIMIT) };
    // SAFETY: as above.
    let room = flow::room(&target, unsafe { (*state).burst }, len, limit);
    match flow::decide(mode, passed, forwarded, hold, room) {
        Decision::Redirect => {
            // SAFETY: as above.
            unsafe {
                (*state).mode = MODE_KERNEL;
                (*state).redirected = redirected + u64::from(len);
                (*state).burst += 1;
            }
            redirect(ctx, index)
        }
        Decision::Pass => {
            if mode == MODE_KERNEL {
                debug!(ctx, "direction {} to user mode: backlog {}, queued {} of {}", index, target.backlog,
                    target.queued, target.limit);
                // SAFETY: as above.
                unsafe {
                    (*state).mode = MODE_USER;
                    (*state).flips += 1;
                }
            }
            pass(index, cookie, len, state, user);
            SK_PASS
        }
    }
}

#[inline(always)]
fn redirect(ctx: &SkBuffContext, index: u32) -> u32 {
    // SAFETY: TARGETS is a SOCKMAP, and the context is this program's.
    unsafe { TARGETS.redirect_skb(ctx, layout::peer(index), 0) as u32 }
}

/// Counts bytes as passed up, then looks whether userspace may be asleep: in this order (see [`flow::must_wake`]).
#[inline(always)]
fn pass(index: u32, cookie: u64, len: u32, state: *mut VerdictState, user: *const UserState) {
    // SAFETY: `passed` is an aligned word of a map value; a BPF atomic that fetches is a full barrier.
    let before = unsafe { fetch_add(&raw mut (*state).passed, u64::from(len)) };
    // SAFETY: as above.
    let forwarded = unsafe { core::ptr::read_volatile(&raw const (*user).forwarded) };
    if flow::must_wake(before, forwarded) {
        wake(index, cookie);
    }
}

/// An atomic add that returns the old value and is a full barrier.
///
/// The target offers no `AtomicU64::fetch_add` (it has no compare-and-swap as LLVM understands it), but BPF has the
/// instruction (kernel 5.12, `BPF_ADD | BPF_FETCH`).
///
/// # Safety
/// `word` is aligned and may be written.
#[inline(always)]
unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(word, value) }
}

#[inline(always)]
fn wake(index: u32, cookie: u64) {
    // The ring holds two events per direction, and at most one is under way: it cannot be full.
    let _ = EVENTS.output::<Event>(&Event { index, cookie: cookie as u32 }, 0);
}
