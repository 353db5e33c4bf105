//! What the orchestrator and its helper processes say to each other: one JSON object a line, over pipes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// From the orchestrator to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Load generator: open this many more connections, and send one echo of 128 B over each.
    Connect { to: SocketAddr, connections: usize },
    /// Load generator: keep one echo outstanding on every connection.
    Measure(Window),
    /// Echo backend: say how many connections are open.
    Count,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Window {
    /// Payload bytes of each message.
    pub(super) payload: usize,
    /// What goes by before anything is counted.
    pub(super) warm_up: Duration,
    /// What is counted.
    pub(super) measured: Duration,
    /// The proxy's processes, whose context switches are counted.
    pub(super) proxy: Vec<u32>,
}

/// From a helper to the orchestrator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Echo backend, once: where it listens.
    Listening(SocketAddr),
    /// Echo backend: open connections.
    Open(usize),
    /// Load generator: every connection is established and has carried an echo.
    Connected,
    /// Load generator: one measurement is done.
    Measured(Sample),
    /// What went wrong; the helper then exits.
    Failed(String),
}

/// What one measurement found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Echoes that came back within the window.
    pub(super) round_trips: u64,
    /// The window's real length.
    pub(super) seconds: f64,
    /// Median of the latency, in microseconds.
    pub(super) p50_us: f64,
    /// 99th percentile of the latency, in microseconds.
    pub(super) p99_us: f64,
    /// CPU time that the whole machine spent, in microseconds: elapsed time of all CPUs less idle and stolen.
    pub(super) busy_us: f64,
    /// The same by the kernel's tick sampling (user, nice, system, irq, softirq), to check the other against.
    pub(super) busy_ticks_us: f64,
    /// Voluntary and involuntary context switches of the proxy's threads.
    pub(super) switches: u64,
    /// Threads of the proxy at the end of the window.
    pub(super) threads: usize,
}

/// Prints one answer as a line; the standard output is flushed at the line's end.
pub(super) fn answer(answer: &Answer) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
