//! The kernel's share of the relay: one SK_SKB stream verdict program.
//!
//! It runs once for every segment that arrives on a relayed socket, counts the frames whose headers are in it, and
//! decides by [`proxy_common::flow`] whether the kernel writes it to the other socket or userspace does.
#![no_std]
#![no_main]
// For the one atomic instruction that `core` does not offer on this target; the compiler is pinned by the manifest.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "see above")]

mod count;
mod maps;
mod tcp;
mod verdict;

use aya_ebpf::macros::stream_verdict;
use aya_ebpf::programs::SkBuffContext;

/// The hook: attached to the `SOURCES` map, without a parser (which would clone every segment).
#[stream_verdict]
fn sluice_verdict(ctx: SkBuffContext) -> u32 {
    verdict::verdict(&ctx)
}

/// GPL: `bpf_skc_to_tcp_sock` and reading kernel memory by BTF are offered to no other program.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
