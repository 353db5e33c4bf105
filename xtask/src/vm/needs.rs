//! What a run needs of this machine.

use anyhow::{Context as _, bail};

use crate::test::tools;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 7] = [
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Installs what is missing, if nobody must be asked.
///
/// # Errors
/// What is still missing.
pub(super) fn meet() -> anyhow::Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the kernels are for x86-64, and so must be the programs that run on them");
    }
    tools::packages(&PROGRAMS).context("virtual machines need more programs")
}
