//! What /proc tells about the machine and about a proxy's processes (proc(5), proc_pid_status(5)).

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// The unit of /proc/stat, in microseconds: `USER_HZ` is 100 on every Linux ABI.
const TICK_US: f64 = 10_000.0;

/// A reading of the machine's CPU time.
pub(super) struct CpuTime {
    at: Instant,
    cpus: usize,
    idle: u64,
    stolen: u64,
    sampled: u64,
}

/// CPU time between two readings, in microseconds.
pub(super) struct CpuSpent {
    pub(super) elapsed: Duration,
    pub(super) busy_us: f64,
    pub(super) busy_ticks_us: f64,
}

impl CpuTime {
    /// Reads /proc/stat.
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let at = Instant::now();
        let cpus = stat.lines().filter(|line| line.starts_with("cpu")).count().saturating_sub(1);
        let first = stat.lines().next().context("/proc/stat is empty")?;
        let fields: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields[..] else {
            anyhow::bail!("/proc/stat does not begin with eight numbers: {first}");
        };
        Ok(Self { at, cpus, idle: idle + iowait, stolen: steal, sampled: user + nice + system + irq + softirq })
    }

    /// What was spent since `earlier`.
    ///
    /// The kernel samples user, system and interrupt time at its ticks, which misses tasks that run shorter than
    /// one, but takes idle time from a clock (`get_cpu_idle_time_us`, on kernels with NO_HZ). So busy time is taken
    /// as what is not idle.
    pub(super) fn since(&self, earlier: &Self) -> CpuSpent {
        let elapsed = self.at - earlier.at;
        let total = elapsed.as_secs_f64() * 1e6 * self.cpus as f64;
        let unused = self.idle.saturating_sub(earlier.idle) + self.stolen.saturating_sub(earlier.stolen);
        CpuSpent {
            elapsed,
            busy_us: (total - unused as f64 * TICK_US).max(0.0),
            busy_ticks_us: self.sampled.saturating_sub(earlier.sampled) as f64 * TICK_US,
        }
    }

    /// CPUs that are online.
    pub(super) fn cpus(&self) -> usize {
        self.cpus
    }
}

/// Threads of these processes and the context switches that they made so far. Processes that are gone count nothing.
pub(super) fn threads(pids: &[u32]) -> (usize, u64) {
    let tasks = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).fold((0, 0), |(count, switches), s| {
        let switched = value(&s, "voluntary_ctxt_switches:") + value(&s, "nonvoluntary_ctxt_switches:");
        (count + 1, switches + switched)
    })
}

/// CPU time that these processes have spent so far, in microseconds. Processes that are gone count nothing.
///
/// utime and stime of /proc/PID/stat: the kernel scales their sum to what its scheduler measured, so that only the
/// rounding to ticks is lost.
pub(super) fn cpu_us(pids: &[u32]) -> f64 {
    let stats = pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    // The second field, the name, may hold blanks; it ends with the last parenthesis. utime and stime are 14 and 15.
    let ticks = stats.filter_map(|stat| {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        Some(fields.next()?.ok()? + fields.next()?.ok()?)
    });
    ticks.sum::<u64>() as f64 * TICK_US
}

/// CPU time that the threads of these processes have spent so far, in microseconds; 0 on a kernel without
/// CONFIG_SCHED_INFO. Threads that are gone count nothing, unlike with [`cpu_us`], and nothing is rounded to ticks.
pub(super) fn scheduled_us(pids: &[u32]) -> f64 {
    let tasks = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    let spent = tasks.filter_map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    spent.sum::<u64>() as f64 / 1e3
}

/// Connections that got a key to send with, and one to receive with, so far in the kernel, not in a network card
/// (Documentation/networking/tls.rst); none where the kernel does not know TLS.
pub(super) fn kernel_tls() -> [u64; 2] {
    let stat = fs::read_to_string("/proc/net/tls_stat").unwrap_or_default();
    ["TlsTxSw ", "TlsRxSw "].map(|key| value(&stat, key))
}

/// The implementation of AES-GCM that the kernel prefers, as /proc/crypto calls it. There is none until somebody has
/// used one.
pub(super) fn kernel_cipher() -> Result<String> {
    let crypto = fs::read_to_string("/proc/crypto").context("cannot read /proc/crypto")?;
    let field = |entry: &str, key: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let gcm = crypto.split("\n\n").filter(|entry| field(entry, "name").is_some_and(|name| name == "gcm(aes)"));
    let priority = |entry: &&str| field(entry, "priority").and_then(|number| number.parse::<u32>().ok());
    let best = gcm.max_by_key(priority).and_then(|entry| field(entry, "driver"));
    best.context("the kernel has not used AES-GCM")
}

/// A process and everything below it.
pub(super) fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        parents.push((pid, value(&status, "PPid:") as u32));
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(family)
}

/// Userspace memory, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct UserMemory {
    /// Proportional set size: shared pages are divided by the processes that share them.
    pub(super) pss: u64,
    /// The anonymous part of it: heap and stacks.
    pub(super) anonymous: u64,
}

/// Sums /proc/PID/smaps_rollup over processes.
pub(super) fn user_memory(pids: &[u32]) -> Result<UserMemory> {
    let mut sum = UserMemory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        match fs::read_to_string(&path) {
            Ok(rollup) => {
                sum.pss += value(&rollup, "Pss:") * 1024;
                sum.anonymous += value(&rollup, "Pss_Anon:") * 1024;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("cannot read {path}; reading it may need root")),
        }
    }
    Ok(sum)
}

/// Memory of the whole machine, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct MachineMemory {
    /// MemAvailable.
    pub(super) available: u64,
    /// SUnreclaim: the kernel's objects, sockets among them. Other programs' heaps do not disturb it.
    pub(super) slab: u64,
}

/// Reads /proc/meminfo.
pub(super) fn machine_memory() -> Result<MachineMemory> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let bytes = |key| value(&meminfo, key) * 1024;
    Ok(MachineMemory { available: bytes("MemAvailable:"), slab: bytes("SUnreclaim:") })
}

/// The memory that all TCP sockets hold, as a share of what the kernel allows them (`net.ipv4.tcp_mem`); beyond it
/// sockets take nothing more.
pub(super) fn tcp_memory_share() -> Result<f64> {
    let sockstat = fs::read_to_string("/proc/net/sockstat").context("cannot read /proc/net/sockstat")?;
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let used = tcp.split_once(" mem ").and_then(|(_, pages)| pages.trim().parse::<f64>().ok());
    let limits = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").context("cannot read net.ipv4.tcp_mem")?;
    let most = limits.split_whitespace().nth(2).and_then(|pages| pages.parse::<f64>().ok());
    used.zip(most).map(|(used, most)| used / most).context("the kernel does not tell the memory of TCP in pages")
}

/// The number behind a key at a line's start; 0 when there is none.
fn value(text: &str, key: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    rest.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
