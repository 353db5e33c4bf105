//! The only room with `unsafe`: each block says the fact that makes it sound.

pub mod clock;
pub mod ktls;
pub mod mapped;
pub mod memory;
pub mod patience;
pub mod privileges;
pub mod processes;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod threads;
pub mod watch;

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Takes over a descriptor that this process was started with. Call at most once for each.
///
/// # Errors
/// There is no such descriptor, or it is one of the standard three.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks, whatever the number is.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::other(format!("descriptor {number} was not inherited")));
    }
    // SAFETY: the parent left it open for this process, which owns nothing else yet.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}
