//! What `cargo xtask bench flood` measured, summarised, as Markdown for people and JSON for programs.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::control::Sample;
use super::expect::{Expectation, judge_flood};
use super::flood::{Found, Plan, Record};
use super::relay::Failure;
use super::report::{self, spread};
use super::stats::{Summary, summary};
use super::targets::Target;

/// Everything that one run found.
#[derive(Serialize)]
pub(super) struct Results {
    kernel: String,
    cpus: usize,
    plan: Plan,
    seconds: f64,
    /// Share of the machine that was busy while the benchmark waited.
    background: Option<Summary>,
    summaries: Vec<FloodRow>,
    expectations: Vec<Expectation>,
    failures: Vec<Failure>,
    records: Vec<Record>,
}

/// One target.
#[derive(Serialize)]
pub(super) struct FloodRow {
    pub(super) target: Target,
    pub(super) quiet: Phase,
    pub(super) filling: Phase,
    pub(super) full: Phase,
    opening_seconds: Summary,
    /// What the backend had sent at the end of `filling`, and what it sent during `full`, in MiB.
    filled_mib: Summary,
    added_mib: Summary,
    /// Memory of all TCP sockets at the end, as a share of what the kernel allows them.
    tcp_memory: Summary,
    /// For Sluice: pairs that the wanted engine carried at the end.
    carried: Option<Summary>,
}

/// The healthy connections in one window.
#[derive(Serialize)]
pub(super) struct Phase {
    p50_ms: Summary,
    pub(super) p99_ms: Summary,
    /// CPU time of the proxy's threads, as a share of one CPU.
    proxy_cpu: Summary,
    /// CPU time of the whole machine, as a share (0–1) of all CPUs.
    machine_cpu: Summary,
}

impl Phase {
    /// How many times the other phase's median latency this one's is.
    pub(super) fn slower_than(&self, other: &Self) -> f64 {
        self.p50_ms.median / other.p50_ms.median
    }
}

impl Results {
    pub(super) fn new(
        plan: Plan,
        records: Vec<Record>,
        background: Option<Summary>,
        failures: Vec<Failure>,
        took: Duration,
    ) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let summaries: Vec<FloodRow> = plan.targets.iter().filter_map(|target| row(&records, *target, cpus)).collect();
        let expectations = judge_flood(&summaries, plan.tls);
        let (kernel, seconds) = (report::kernel(), took.as_secs_f64());
        Self { kernel, cpus, plan, seconds, background, summaries, expectations, failures, records }
    }
}

fn row(records: &[Record], target: Target, cpus: usize) -> Option<FloodRow> {
    const MIB: f64 = 1_048_576.0;
    let visits = records.iter().filter(|record| record.target == target).map(|record| &record.found);
    let of = |value: fn(&Found) -> f64| summary(visits.clone().map(value));
    let phase = |sample: fn(&Found) -> &Sample| {
        let samples = visits.clone().map(sample);
        let machine = |sample: &Sample| sample.busy_us / 1e6 / sample.seconds / cpus as f64;
        Some(Phase {
            p50_ms: summary(samples.clone().map(|sample| sample.p50_us / 1e3))?,
            p99_ms: summary(samples.clone().map(|sample| sample.p99_us / 1e3))?,
            proxy_cpu: summary(samples.clone().map(|sample| sample.proxy_us / 1e6 / sample.seconds))?,
            machine_cpu: summary(samples.map(machine))?,
        })
    };
    Some(FloodRow {
        target,
        quiet: phase(|found| &found.quiet)?,
        filling: phase(|found| &found.filling)?,
        full: phase(|found| &found.full)?,
        opening_seconds: of(|found| found.opening_seconds)?,
        filled_mib: of(|found| found.flooded[0] as f64 / MIB)?,
        added_mib: of(|found| found.flooded[1].saturating_sub(found.flooded[0]) as f64 / MIB)?,
        tcp_memory: of(|found| found.tcp_memory)?,
        carried: summary(visits.clone().filter_map(|found| found.carried)),
    })
}

/// The tables, the expectations and what failed.
pub(super) fn markdown(results: &Results) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = write_markdown(results, &mut out);
    out
}

fn write_markdown(results: &Results, out: &mut String) -> std::fmt::Result {
    let plan = &results.plan;
    writeln!(out, "## Flood benchmark\n")?;
    writeln!(
        out,
        "Linux {}, {} CPUs. {} connections{} that send {} B each {:?}, beside {} that are flooded and do not read. {} \
         rounds, interleaved; {:.0} s in all. Median (min–max).",
        results.kernel,
        results.cpus,
        plan.connections,
        if plan.tls { " with TLS" } else { "" },
        plan.payload,
        plan.every,
        plan.floods,
        plan.rounds,
        results.seconds
    )?;
    report::background(results.background, out)?;
    latencies(results, out)?;
    costs(results, out)?;
    report::verdict(&results.expectations, &results.failures, out)
}

fn latencies(results: &Results, out: &mut String) -> std::fmt::Result {
    let Plan { quiet, filling, full, .. } = results.plan;
    writeln!(out, "\n### Latency: quiet {quiet:?}, filling {filling:?}, full {full:?}\n")?;
    writeln!(
        out,
        "| | quiet p50 ms | quiet p99 ms | filling p50 ms | ÷ quiet | filling p99 ms | full p50 ms | ÷ quiet | \
         full p99 ms |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in &results.summaries {
        let FloodRow { quiet, filling, full, .. } = row;
        writeln!(
            out,
            "| {} | {} | {} | {} | {:.2} | {} | {} | {:.2} | {} |",
            row.target.name(),
            spread(quiet.p50_ms, 3),
            spread(quiet.p99_ms, 2),
            spread(filling.p50_ms, 3),
            filling.slower_than(quiet),
            spread(filling.p99_ms, 2),
            spread(full.p50_ms, 3),
            full.slower_than(quiet),
            spread(full.p99_ms, 2),
        )?;
    }
    Ok(())
}

fn costs(results: &Results, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n### CPU and floods\n")?;
    writeln!(
        out,
        "| | proxy, % of one CPU: quiet | filling | full | machine, % of all CPUs: quiet | filling | full | \
         floods opened in s | sent to them until full, MiB | while full, MiB | TCP memory, % of its limit | \
         pairs in the engine, of {} |",
        results.plan.connections + results.plan.floods
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in &results.summaries {
        let phases = [&row.quiet, &row.filling, &row.full];
        let proxy = phases.map(|phase| match row.target {
            Target::Direct => "–".to_owned(),
            _ => format!("{:.1}", phase.proxy_cpu.median * 100.0),
        });
        let machine = phases.map(|phase| format!("{:.0}", phase.machine_cpu.median * 100.0));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {:.0} | {} |",
            row.target.name(),
            proxy.join(" | "),
            machine.join(" | "),
            spread(row.opening_seconds, 2),
            spread(row.filled_mib, 0),
            spread(row.added_mib, 1),
            row.tcp_memory.median * 100.0,
            row.carried.map_or("–".to_owned(), |carried| spread(carried, 0)),
        )?;
    }
    Ok(())
}
