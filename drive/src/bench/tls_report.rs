//! What `cargo xtask bench tls` measured, summarised, as Markdown for people and JSON for programs.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::control::Handshakes;
use super::expect::{Expectation, judge_tls};
use super::memory::Pass;
use super::memory_report::{self, MemoryRow};
use super::relay::Failure;
use super::report::{self, ratio, spread};
use super::stats::{Summary, summary};
use super::targets::Target;
use super::tls::{Kind, Plan, Record, kinds};

/// Everything that one run found.
#[derive(Serialize)]
pub(super) struct Results {
    kernel: String,
    cpus: usize,
    plan: Plan,
    seconds: f64,
    /// Share of the machine that was busy while the benchmark waited.
    background: Option<Summary>,
    memory: Vec<MemoryRow>,
    handshakes: Vec<Row>,
    expectations: Vec<Expectation>,
    failures: Vec<Failure>,
    records: Vec<Record>,
    memory_passes: Vec<Pass>,
}

/// One proxy with one kind of handshake.
#[derive(Serialize)]
struct Row {
    target: Target,
    kind: Kind,
    per_second: Summary,
    /// CPU time of the proxy's processes for one handshake, in microseconds.
    proxy_us: Summary,
    /// CPU time of the whole machine for one handshake, in microseconds.
    machine_us: Summary,
    /// The share (0–1) of the machine's CPU time that the load generator took.
    generator_share: Summary,
    /// The share (0–1) of one CPU that the load generator, which has one thread, was busy.
    generator_busy: Summary,
    p50_us: Summary,
    p99_us: Summary,
}

impl Results {
    pub(super) fn new(
        plan: Plan,
        records: Vec<Record>,
        memory_passes: Vec<Pass>,
        background: Option<Summary>,
        failures: Vec<Failure>,
        took: Duration,
    ) -> Self {
        let memory = memory_report::rows(&memory_passes, &plan.memory.targets);
        let of = |kind| plan.targets.iter().map(move |target| (*target, kind));
        let handshakes = kinds().flat_map(of).filter_map(|(target, kind)| row(&records, target, kind)).collect();
        let expectations = judge_tls(&memory);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (kernel, seconds) = (report::kernel(), took.as_secs_f64());
        Self {
            kernel,
            cpus,
            plan,
            seconds,
            background,
            memory,
            handshakes,
            expectations,
            failures,
            records,
            memory_passes,
        }
    }
}

fn row(records: &[Record], target: Target, kind: Kind) -> Option<Row> {
    let of = |value: fn(&Handshakes) -> f64| {
        let records = records.iter().filter(|record| record.target == target && record.kind == kind);
        summary(records.map(|record| value(&record.found)))
    };
    Some(Row {
        target,
        kind,
        per_second: of(|found| found.count as f64 / found.seconds)?,
        proxy_us: of(|found| found.proxy_us / found.count as f64)?,
        machine_us: of(|found| found.busy_us / found.count as f64)?,
        generator_share: of(|found| found.generator_us / found.busy_us)?,
        generator_busy: of(|found| found.generator_us / 1e6 / found.seconds)?,
        p50_us: of(|found| found.p50_us)?,
        p99_us: of(|found| found.p99_us)?,
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
    writeln!(out, "## TLS benchmark\n")?;
    writeln!(
        out,
        "Linux {}, {} CPUs, TLS 1.3. {} rounds of memory, {} of handshakes with {:?} for each, interleaved; {:.0} s in \
         all. Median (min–max).",
        results.kernel, results.cpus, plan.memory.rounds, plan.rounds, plan.measured, results.seconds
    )?;
    report::background(results.background, out)?;
    memory_report::table(&results.memory, plan.memory.idle, out)?;
    for kind in kinds() {
        table(results, kind, out)?;
    }
    report::verdict(&results.expectations, &results.failures, out)
}

fn table(results: &Results, kind: Kind, out: &mut String) -> std::fmt::Result {
    let rows: Vec<&Row> = results.handshakes.iter().filter(|row| row.kind == kind).collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Handshakes, {kind}, {} at once\n", results.plan.at_once)?;
    writeln!(
        out,
        "| | per second | per CPU second of the proxy | proxy's CPU µs | ÷ NGINX's | ÷ HAProxy's | machine's CPU µs | \
         ÷ NGINX's | ÷ HAProxy's | p50 µs | p99 µs | load generator's share of the CPU time | busy, of its one CPU |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in &rows {
        let beside = |value: fn(&Row) -> f64| {
            [Target::Nginx, Target::Haproxy].map(|rival| {
                let rival = rows.iter().find(|row| row.target == rival);
                ratio(rival.map(|rival| value(row) / value(rival)))
            })
        };
        let [proxy_nginx, proxy_haproxy] = beside(|row| row.proxy_us.median);
        let [machine_nginx, machine_haproxy] = beside(|row| row.machine_us.median);
        writeln!(
            out,
            "| {} | {} | {:.0} | {} | {proxy_nginx} | {proxy_haproxy} | {} | {machine_nginx} | {machine_haproxy} | {} | \
             {} | {:.0} % | {:.0} % |",
            row.target.name(),
            spread(row.per_second, 0),
            1e6 / row.proxy_us.median,
            spread(row.proxy_us, 0),
            spread(row.machine_us, 0),
            spread(row.p50_us, 0),
            spread(row.p99_us, 0),
            row.generator_share.median * 100.0,
            row.generator_busy.median * 100.0,
        )?;
    }
    Ok(())
}
