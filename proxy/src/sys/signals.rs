//! Signals as a file descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM and SIGINT: to end.
    Stop,
    /// SIGHUP: to look at the files again.
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, blocked and read from a descriptor instead.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks them in this thread, and so in every thread that it starts later.
    ///
    /// # Errors
    /// File descriptors are short.
    pub fn block() -> io::Result<Self> {
        // SAFETY: `sigemptyset` and `sigaddset` write the set, which lives on this stack.
        let set = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGHUP);
            set
        };
        // SAFETY: `set` is initialised; the old mask is not asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `set` is initialised.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next that has arrived. Never blocks.
    #[must_use]
    pub fn next(&self) -> Option<Asked> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let got = rustix::io::read(&self.0, &mut info[..]).ok()?;
        // `ssi_signo` is the first field (signalfd(2)).
        let number = info.first_chunk().filter(|_| got == info.len())?;
        Some(if u32::from_ne_bytes(*number) == libc::SIGHUP as u32 { Asked::Reload } else { Asked::Stop })
    }
}

/// Blocks every signal in this thread: those that are for the process go to another one.
pub fn block_all() {
    // SAFETY: `sigfillset` writes the set, which lives on this stack; the old mask is not asked for. It fails for no set
    // that is one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signals").field(&self.0.as_raw_fd()).finish()
    }
}
