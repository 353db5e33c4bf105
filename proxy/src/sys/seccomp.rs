//! Which system calls a process may make (seccomp(2)).
//!
//! The gate has a list of those that it needs. Any other fails with ENOSYS, as on a kernel that lacks it, which libraries
//! are made for; and those that only somebody makes who has taken the gate over end it. The keeper has a list of those that
//! it must never make, since what it needs includes starting programs and loading maps.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Rules by the number of the call: none of them, or one of them, must hold.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Ends the process that makes such a call: nobody makes one by mistake.
const OF_INTRUDERS: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_capset,
    libc::SYS_bpf,
];

/// Nothing of Sluice makes these.
const OF_NOBODY: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
];

/// What the gate calls, with whatever arguments.
const OF_THE_GATE: &[i64] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Events.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals that it takes.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time, chance, and itself.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// As [`OF_THE_GATE`], by the names that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OF_OLD: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_OLD: &[i64] = &[];

/// Socket options that the gate sets.
const OPTIONS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    // To end with an RST. (How long a close shall wait cannot be seen from here.)
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, super::socket::SO_PASSRIGHTS),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_ULP),
    (libc::SOL_TLS, libc::TLS_TX),
    (libc::SOL_TLS, libc::TLS_RX),
];

/// Requests of ioctl(2): none changes anything but the socket's own mode.
const REQUESTS: &[u64] = &[libc::FIONBIO, libc::FIONREAD, libc::TIOCOUTQ, libc::TCGETS];

/// Operations of fcntl(2): none makes the kernel send signals.
const OPERATIONS: &[i32] =
    &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC, libc::F_GET_SEALS];

/// What open(2) must not be asked for: to write, or to make something.
const WRITING: i32 = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Leaves every thread of this process what the gate calls, for ever. Call with everything else given up.
///
/// # Errors
/// The kernel has no such filters (CONFIG_SECCOMP_FILTER).
pub fn confine_gate() -> io::Result<()> {
    install(deadly().and_then(|rules| compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)))?;
    install(of_the_gate().and_then(|rules| compile(rules, lacks(libc::ENOSYS), SeccompAction::Allow)))
}

/// Takes from every thread of this process what nothing of Sluice calls, and so from every gate.
///
/// # Errors
/// As [`confine_gate`].
pub fn confine_keeper() -> io::Result<()> {
    let rules = OF_NOBODY.iter().map(|call| (*call, Vec::new())).collect();
    install(compile(rules, SeccompAction::Allow, lacks(libc::EPERM)))
}

fn lacks(error: i32) -> SeccompAction {
    SeccompAction::Errno(error.unsigned_abs())
}

fn install(program: Result<BpfProgram, BackendError>) -> io::Result<()> {
    seccompiler::apply_filter_all_threads(&program.map_err(io::Error::other)?).map_err(io::Error::other)
}

fn compile(rules: Rules, others: SeccompAction, these: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, others, these, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn deadly() -> Result<Rules, BackendError> {
    let mut rules: Rules = OF_INTRUDERS.iter().map(|call| (*call, Vec::new())).collect();
    // A process of its own would outlive the gate. (A thread is none. What clone3(2) is asked for cannot be seen from
    // here: it does not exist, and the C library takes clone(2).)
    rules.insert(libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD as u64, 0)?]);
    #[cfg(target_arch = "x86_64")]
    rules.extend([libc::SYS_fork, libc::SYS_vfork].map(|call| (call, Vec::new())));
    Ok(rules)
}

fn of_the_gate() -> Result<Rules, BackendError> {
    let mut rules: Rules = OF_THE_GATE.iter().chain(OF_OLD).map(|call| (*call, Vec::new())).collect();
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
    // abort(3) sends a signal to itself.
    rules.insert(libc::SYS_tgkill, vec![equal(0, u64::from(std::process::id()))?]);
    // No code can be made or loaded.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![masked(2, libc::PROT_EXEC as u64, 0)?]);
    }
    rules.insert(libc::SYS_openat, vec![masked(2, WRITING as u64, 0)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![masked(1, WRITING as u64, 0)?]);
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    rules.insert(libc::SYS_socket, any(0, families.map(|family| family as u64))?);
    rules.insert(libc::SYS_ioctl, any(1, REQUESTS.iter().copied())?);
    rules.insert(libc::SYS_fcntl, any(1, OPERATIONS.iter().map(|operation| *operation as u64))?);
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME];
    rules.insert(libc::SYS_prctl, any(0, names.map(|option| option as u64))?);
    // To ask, not to set.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![condition(2, Length::Qword, Op::Eq, 0)?])?]);
    let option = |&(level, option): &(i32, i32)| {
        let level = condition(1, Length::Dword, Op::Eq, level as u64)?;
        SeccompRule::new(vec![level, condition(2, Length::Dword, Op::Eq, option as u64)?])
    };
    rules.insert(libc::SYS_setsockopt, OPTIONS.iter().map(option).collect::<Result<_, _>>()?);
    Ok(rules)
}

/// An argument, of which 32 bits are looked at as the kernel does.
fn condition(argument: u8, length: Length, operation: Op, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, length, operation, value)
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(argument, Length::Dword, Op::Eq, value)?])
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(argument, Length::Dword, Op::MaskedEq(mask), value)?])
}

fn any(argument: u8, values: impl IntoIterator<Item = u64>) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| equal(argument, value)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, ExitStatus};
    use std::time::Duration;

    use rustix::mm::{MapFlags, ProtFlags};
    use rustix::net::{AddressFamily, SocketType, sockopt};

    use super::*;

    /// Names what the test does in a process of its own.
    const ALONE: &str = "SLUICE_TEST_CONFINED";

    /// How a process ends that does this as the gate.
    fn confined(what: &str) -> ExitStatus {
        let name = "sys::seccomp::tests::the_gate_does_what_it_must_and_nothing_else";
        let exe = std::env::current_exe().unwrap();
        Command::new(exe).args(["--exact", name, "--nocapture"]).env(ALONE, what).status().unwrap()
    }

    fn lacking<T>(result: rustix::io::Result<T>) -> bool {
        result.is_err_and(|error| error == rustix::io::Errno::NOSYS)
    }

    /// What the gate must be able to do, and what fails for it.
    fn work() {
        let listener = TcpListener::bind("127.0.0.1:0");
        assert!(listener.is_err(), "the gate listens");
        std::thread::spawn(|| std::thread::sleep(Duration::from_millis(1))).join().unwrap();
        let mut text = String::new();
        File::open("/proc/thread-self/status").unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains("Seccomp:\t2"), "{text}");
        let writing = File::options().write(true).open("/dev/null");
        assert_eq!(writing.err().and_then(|error| error.raw_os_error()), Some(libc::ENOSYS));
        assert!(File::create(std::env::temp_dir().join("sluice-confined")).is_err());
        assert!(lacking(rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)));
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        assert!(lacking(sockopt::set_socket_broadcast(&socket, true)));
        sockopt::set_tcp_nodelay(&socket, true).unwrap();
        // SAFETY: a fresh mapping aliases nothing of ours, and it is not made.
        let code = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE)
        };
        assert!(lacking(code));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert!(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).is_err());
    }

    #[test]
    fn the_gate_does_what_it_must_and_nothing_else() {
        let Some(what) = std::env::var_os(ALONE) else {
            assert!(confined("work").success());
            for deadly in ["spawn", "signal"] {
                assert_eq!(confined(deadly).signal(), Some(libc::SIGSYS), "{deadly}");
            }
            return;
        };
        let (mut near, far) = crate::sys::socket::loopback_pair().unwrap();
        confine_gate().unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0; 9]).unwrap(), 0);
        drop(TcpStream::connect("127.0.0.1:9"));
        match what.to_str() {
            Some("spawn") => drop(Command::new("/bin/true").spawn()),
            Some("signal") => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT);
            }
            _ => work(),
        }
    }
}
