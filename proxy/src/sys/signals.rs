//! Signals as a file descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, SIGINT and SIGQUIT: to end.
    Stop,
    /// SIGHUP: to look at the files again.
    Reload,
}

/// Those that ask for something.
const ASKING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// Those that end a process which does not say otherwise, and that nobody means so: a log rotation sends SIGUSR1.
const IGNORED: [libc::c_int; 8] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
];

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP, blocked and read from a descriptor instead.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks them in this thread, and so in every thread that it starts later. Those that nobody means are ignored, also by
    /// the processes that this one starts.
    ///
    /// # Errors
    /// File descriptors are short.
    pub fn block() -> io::Result<Self> {
        // SAFETY: `sigemptyset` and `sigaddset` write the set, which lives on this stack.
        let set = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in ASKING {
                libc::sigaddset(&raw mut set, signal);
            }
            set
        };
        for signal in IGNORED {
            // SAFETY: no handler is installed, so nothing of this program runs when the signal comes.
            if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
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
