//! What Sluice is expected to reach, beside what was measured.

use std::fmt::{self, Display};

use serde::Serialize;

use super::flood_report::FloodRow;
use super::memory_report::MemoryRow;
use super::relay::cells;
use super::report::{Row, added_ratio, find};
use super::targets::Target;

/// At one connection: added CPU at most this share of a rival's.
const ADDED_SHARE: f64 = 0.5;
/// With many saturated connections: CPU at most this many times NGINX's.
const SATURATED_SHARE: f64 = 1.2;
/// Userspace memory of an idle pair, in bytes.
const IDLE_BYTES: f64 = 1024.0;
/// Context switches per round trip that still count as no wake-up per message: what timers cause.
const SWITCHES: f64 = 0.01;

/// Userspace memory of an idle TLS connection: at most this share of a rival's.
const TLS_IDLE_SHARE: f64 = 0.25;

/// Beside floods: the median latency at most this many times that without them.
const FLOODED_RATIO: f64 = 2.0;
/// Beside floods: the 99th percentile of the latency, in milliseconds.
const FLOODED_P99_MS: f64 = 20.0;

/// One expectation. It holds when the measured value is at most the limit.
#[derive(Debug, Serialize)]
pub(super) struct Expectation {
    what: String,
    limit: f64,
    /// `None`: not measured in this run.
    measured: Option<f64>,
}

impl Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, limit, measured } = self;
        match measured {
            Some(value) if value <= limit => write!(f, "PASS {what}: expected at most {limit}, measured {value:.3}"),
            Some(value) => write!(f, "MISS {what}: expected at most {limit}, measured {value:.3}"),
            None => write!(f, "SKIP {what}: expected at most {limit}, not measured"),
        }
    }
}

/// Judges the `sockmap` rows; everything is listed, also what was not measured.
pub(super) fn judge(rows: &[Row], memory: &[MemoryRow]) -> Vec<Expectation> {
    let mut judged = Vec::new();
    for cell in cells() {
        let own = find(rows, Target::SluiceSockmap, cell);
        let nginx = find(rows, Target::Nginx, cell);
        if cell.connections == 1 {
            for (name, rival) in [("NGINX", nginx), ("HAProxy", find(rows, Target::Haproxy, cell))] {
                let what = format!("{cell}: added CPU ÷ {name}'s");
                let rows = own.zip(rival);
                let measured = rows.and_then(|(own, rival)| added_ratio(own.added_us, rival.added_us));
                judged.push(Expectation { what: what.clone(), limit: ADDED_SHARE, measured });
                let sampled = rows.and_then(|(own, rival)| added_ratio(own.sampled_added_us, rival.sampled_added_us));
                let what = format!("{what}, by tick sampling");
                judged.push(Expectation { what, limit: ADDED_SHARE, measured: sampled });
            }
        } else {
            let what = format!("{cell}: whole-machine CPU ÷ NGINX's");
            let measured = own.zip(nginx).map(|(own, nginx)| own.cpu_us.median / nginx.cpu_us.median);
            judged.push(Expectation { what, limit: SATURATED_SHARE, measured });
        }
        let what = format!("{cell}: wake-ups of the proxy per round trip");
        judged.push(Expectation { what, limit: SWITCHES, measured: own.map(|row| row.switches.median) });
    }
    let own = memory.iter().find(|row| row.target == Target::SluiceSockmap);
    let user = own.map(|row| row.user.median);
    judged.push(Expectation { what: "userspace bytes of an idle pair".to_owned(), limit: IDLE_BYTES, measured: user });
    let threads = own.map(|row| row.threads.1 as f64 - row.threads.0 as f64);
    judged.push(Expectation { what: "threads that idle pairs added".to_owned(), limit: 0.0, measured: threads });
    judged
}

/// Judges the memory of idle TLS connections that userspace carries.
pub(super) fn judge_tls(memory: &[MemoryRow]) -> Vec<Expectation> {
    let user = |target| memory.iter().find(|row| row.target == target).map(|row| row.user.median);
    let own = user(Target::SluiceCopy);
    let rivals = [Target::Nginx, Target::Haproxy].into_iter();
    let judged = rivals.map(|rival| Expectation {
        what: format!("userspace memory of an idle TLS connection ÷ {}'s", rival.name()),
        limit: TLS_IDLE_SHARE,
        measured: own.zip(user(rival)).map(|(own, theirs)| own / theirs),
    });
    judged.collect()
}

/// Judges what floods do to the other connections of each of Sluice's engines.
pub(super) fn judge_flood(rows: &[FloodRow], tls: bool) -> Vec<Expectation> {
    let mut judged = Vec::new();
    let kernels = if tls { Target::SluiceKtls } else { Target::SluiceSockmap };
    for target in [kernels, Target::SluiceCopy] {
        let row = rows.iter().find(|row| row.target == target);
        let phases = [("filling", row.map(|row| &row.filling)), ("full", row.map(|row| &row.full))];
        for (name, phase) in phases {
            let what = format!("{}, {name}", target.name());
            let ratio = row.zip(phase).map(|(row, phase)| phase.slower_than(&row.quiet));
            let p99_ms = phase.map(|phase| phase.p99_ms.median);
            let median =
                Expectation { what: format!("{what}: p50 ÷ quiet p50"), limit: FLOODED_RATIO, measured: ratio };
            let tail = Expectation { what: format!("{what}: p99 in ms"), limit: FLOODED_P99_MS, measured: p99_ms };
            judged.extend([median, tail]);
        }
    }
    judged
}
