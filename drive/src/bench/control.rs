//! What the orchestrator and its helper processes say to each other: one JSON object a line, over pipes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The path whose connections the echo backend floods instead of echoing.
pub(super) const FLOOD_PATH: &str = "/flood";

/// From the orchestrator to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Load generator: open this many more connections, and send one echo of 128 B over each.
    Connect { door: Door, connections: usize },
    /// Load generator: exchange echoes over every connection.
    Measure(Window),
    /// Load generator: open this many connections to [`FLOOD_PATH`], and read nothing behind their 101.
    Flood { door: Door, connections: usize },
    /// Load generator: open a connection, upgrade it, close it, again and again.
    Visit(Visits),
    /// Echo backend: say how many connections are open, and how much they were flooded with.
    Count,
}

/// Where clients connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Door {
    /// The listener.
    pub(super) to: SocketAddr,
    /// The PEM file of its certificate, which clients expect; without one they do not speak TLS.
    pub(super) certificate: Option<PathBuf>,
}

/// One measurement of handshakes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Visits {
    /// Where to go.
    pub(super) door: Door,
    /// Visitors that are under way at any time.
    pub(super) at_once: usize,
    /// Whether a visitor resumes the TLS session of the one before it.
    pub(super) resume: bool,
    /// What goes by before anything is counted.
    pub(super) warm_up: Duration,
    /// What is counted.
    pub(super) measured: Duration,
    /// The proxy's processes, whose CPU time is counted.
    pub(super) proxy: Vec<u32>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Window {
    /// Payload bytes of each message.
    pub(super) payload: usize,
    /// Each connection sends one message in each such interval; `None`: its next one as soon as the echo is back.
    pub(super) every: Option<Duration>,
    /// What goes by before anything is counted.
    pub(super) warm_up: Duration,
    /// What is counted.
    pub(super) measured: Duration,
    /// The proxy's processes, whose context switches and CPU time are counted.
    pub(super) proxy: Vec<u32>,
}

/// From a helper to the orchestrator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Echo backend, once: where it listens.
    Listening(SocketAddr),
    /// Echo backend: open connections, and the bytes that it has flooded clients with so far.
    Open { connections: usize, flooded: u64 },
    /// Load generator: every connection is established, and has carried an echo unless it is flooded.
    Connected,
    /// Load generator: one measurement is done.
    Measured(Sample),
    /// Load generator: one measurement of handshakes is done.
    Visited(Handshakes),
    /// What went wrong; the helper then exits.
    Failed(String),
}

/// What one measurement found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Echoes that came back within the window; with an interval, messages that were due in it.
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
    /// CPU time of the proxy's threads, in microseconds.
    pub(super) proxy_us: f64,
    /// Voluntary and involuntary context switches of the proxy's threads.
    pub(super) switches: u64,
    /// Threads of the proxy at the end of the window.
    pub(super) threads: usize,
}

/// What one measurement of handshakes found. CPU times are in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Handshakes {
    /// Visitors whose 101 came within the window.
    pub(super) count: u64,
    /// Those of them that resumed a TLS session.
    pub(super) resumed: u64,
    /// The window's real length.
    pub(super) seconds: f64,
    /// Median of the time from connect to 101, in microseconds.
    pub(super) p50_us: f64,
    /// 99th percentile of it, in microseconds.
    pub(super) p99_us: f64,
    /// CPU time of the proxy's processes.
    pub(super) proxy_us: f64,
    /// CPU time of the load generator, which has one thread.
    pub(super) generator_us: f64,
    /// CPU time of the whole machine: elapsed time of all CPUs less idle and stolen.
    pub(super) busy_us: f64,
}

/// Prints one answer as a line; the standard output is flushed at the line's end.
pub(super) fn answer(answer: &Answer) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
