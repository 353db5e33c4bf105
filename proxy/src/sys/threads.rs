//! Interrupts a thread that waits inside a system call.

use std::io;

/// What interrupts. SIGURG: nobody takes it for anything else, since it is ignored by default (signal(7)).
const SIGNAL: libc::c_int = libc::SIGURG;

/// A thread of this process, for others to interrupt.
#[derive(Clone, Copy, Debug)]
pub struct Thread(libc::pid_t);

impl Thread {
    /// The calling thread.
    ///
    /// # Errors
    /// The signal's handler cannot be set.
    pub fn current() -> io::Result<Self> {
        extern "C" fn nothing(_: libc::c_int) {}
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: all-zero is a valid `sigaction`: no flags, so that waits end with EINTR, and no signals blocked.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: the handler does nothing, which every context allows; the old action is not asked for.
        if unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: gettid has no arguments and cannot fail.
        Ok(Self(unsafe { libc::gettid() }))
    }

    /// Ends an interruptible wait of the thread's, such as a close(2) that lingers (SO_LINGER). Nothing happens to a
    /// thread that waits for nothing, or is gone.
    pub fn interrupt(self) {
        // SAFETY: tgkill reaches no other process, and the signal has a handler since `current`.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGNAL) };
    }
}
