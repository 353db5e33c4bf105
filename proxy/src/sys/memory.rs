//! What the allocator does with memory that is free again.

/// Blocks from this size on are mappings of their own, which go back to the kernel when they are freed, in bytes.
///
/// glibc's default is the same at first, but it grows with the first large block that is freed: what a look at ten
/// thousand pairs took for a moment would then stay with the process.
const OWN_MAPPING: libc::c_int = 128 * 1024;

/// Heaps that threads may have besides each other. Each keeps what the busiest moment of its threads took.
const HEAPS: libc::c_int = 2;

/// Makes the allocator give free memory back. Call before the process has a second thread.
pub fn give_back() {
    for (option, value) in
        [(libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, OWN_MAPPING), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: mallopt changes the allocator's settings and touches no memory of ours; a refusal changes nothing.
        unsafe { libc::mallopt(option, value) };
    }
}
