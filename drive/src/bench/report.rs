//! What was measured, summarised, as Markdown for people and JSON for programs.

use std::fmt::{Display, Write};
use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::expect::{self, Expectation};
use super::memory::Pass;
use super::memory_report::{self, MemoryRow};
use super::relay::{Cell, Failure, Plan, Record, cells};
use super::stats::{Summary, summary};
use super::targets::Target;

/// The share of the machine (0–1) that others may use before the report warns: an idle one was seen below 0.02.
const DISTURBED: f64 = 0.05;

/// Everything that one run found.
#[derive(Serialize)]
pub(super) struct Results {
    kernel: String,
    cpus: usize,
    plan: Plan,
    seconds: f64,
    /// Share of the machine that was busy while the benchmark waited.
    background: Option<Summary>,
    summaries: Vec<Row>,
    memory: Vec<MemoryRow>,
    expectations: Vec<Expectation>,
    pub(super) failures: Vec<Failure>,
    records: Vec<Record>,
    memory_passes: Vec<Pass>,
}

/// One target in one cell.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) target: Target,
    pub(super) cell: Cell,
    pub(super) per_second: Summary,
    pub(super) p50_us: Summary,
    pub(super) p99_us: Summary,
    /// CPU time of the whole machine for one round trip, in microseconds.
    pub(super) cpu_us: Summary,
    /// That less the direct connection's in the same visit.
    pub(super) added_us: Option<Summary>,
    /// CPU time of the whole machine for one round trip, as the kernel's ticks sampled it.
    pub(super) sampled_us: Summary,
    /// That less the direct connection's in the same visit.
    pub(super) sampled_added_us: Option<Summary>,
    /// Context switches of the proxy's threads for one round trip.
    pub(super) switches: Summary,
    /// Most threads that the proxy had.
    pub(super) threads: usize,
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
        let of = |cell| plan.targets.iter().map(move |target| (*target, cell));
        let summaries: Vec<Row> =
            cells().flat_map(of).filter_map(|(target, cell)| row(&records, target, cell)).collect();
        let memory = memory_report::rows(&memory_passes, &plan.memory.targets);
        let expectations = expect::judge(&summaries, &memory);
        let kernel = kernel();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let seconds = took.as_secs_f64();
        Self {
            kernel,
            cpus,
            plan,
            seconds,
            background,
            summaries,
            memory,
            expectations,
            failures,
            records,
            memory_passes,
        }
    }
}

fn row(records: &[Record], target: Target, cell: Cell) -> Option<Row> {
    let of = |wanted: Target| records.iter().filter(move |record| record.target == wanted && record.cell == cell);
    let per_trip = |record: &Record, value: f64| value / record.sample.round_trips.max(1) as f64;
    let cpu = |record: &Record| per_trip(record, record.sample.busy_us);
    let sampled = |record: &Record| per_trip(record, record.sample.busy_ticks_us);
    let beside_direct = of(target)
        .filter(|_| target != Target::Direct)
        .filter_map(|record| Some((record, of(Target::Direct).find(|direct| direct.visit == record.visit)?)));
    Some(Row {
        target,
        cell,
        per_second: summary(of(target).map(|record| record.sample.round_trips as f64 / record.sample.seconds))?,
        p50_us: summary(of(target).map(|record| record.sample.p50_us))?,
        p99_us: summary(of(target).map(|record| record.sample.p99_us))?,
        cpu_us: summary(of(target).map(cpu))?,
        added_us: summary(beside_direct.clone().map(|(own, direct)| cpu(own) - cpu(direct))),
        sampled_us: summary(of(target).map(sampled))?,
        sampled_added_us: summary(beside_direct.map(|(own, direct)| sampled(own) - sampled(direct))),
        switches: summary(of(target).map(|record| per_trip(record, record.sample.switches as f64)))?,
        threads: of(target).map(|record| record.sample.threads).max()?,
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
    writeln!(out, "## Relay benchmark\n")?;
    writeln!(
        out,
        "Linux {}, {} CPUs. {} rounds, {:?} for each cell, interleaved; {:.0} s in all. Median (min–max).",
        results.kernel, results.cpus, plan.rounds, plan.measured, results.seconds
    )?;
    background(results.background, out)?;
    for cell in cells() {
        cell_table(results, cell, out)?;
    }
    memory_report::table(&results.memory, plan.memory.idle, out)?;
    verdict(&results.expectations, &results.failures, out)
}

/// How busy the machine was with other things.
pub(super) fn background(busy: Option<Summary>, out: &mut String) -> std::fmt::Result {
    let Some(busy) = busy else { return Ok(()) };
    writeln!(out, "Busy with other things while the benchmark waited: {} % of the machine.", percent(busy))?;
    if busy.median > DISTURBED {
        writeln!(out, "\n**The machine did other work at the same time: these numbers say little.**")?;
    }
    Ok(())
}

/// What was expected, and what could not be measured.
pub(super) fn verdict(expectations: &[Expectation], failures: &[Failure], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n### Expectations\n")?;
    for expectation in expectations {
        writeln!(out, "- {expectation}")?;
    }
    if !failures.is_empty() {
        writeln!(out, "\n### Not measured\n")?;
    }
    for Failure { target, cell, why } in failures {
        writeln!(out, "- {} ({}): {why}", target.name(), cell.as_deref().unwrap_or("skipped"))?;
    }
    Ok(())
}

/// The kernel's version.
pub(super) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn cell_table(results: &Results, cell: Cell, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n### {cell}\n")?;
    writeln!(
        out,
        "| | round trips/s | p50 µs | p99 µs | CPU µs per round trip | added to direct | added ÷ NGINX's | \
         added ÷ HAProxy's | CPU ÷ NGINX's | CPU ÷ HAProxy's | CPU µs by tick sampling | \
         proxy's context switches per round trip |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in results.summaries.iter().filter(|row| row.cell == cell) {
        let rivals = [Target::Nginx, Target::Haproxy].map(|rival| find(&results.summaries, rival, cell));
        let added = rivals.map(|rival| ratio(rival.and_then(|rival| added_ratio(row.added_us, rival.added_us))));
        let cpu = rivals.map(|rival| ratio(rival.map(|rival| row.cpu_us.median / rival.cpu_us.median)));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.target.name(),
            spread(row.per_second, 0),
            spread(row.p50_us, 0),
            spread(row.p99_us, 0),
            spread(row.cpu_us, 1),
            row.added_us.map_or("–".to_owned(), |added| spread(added, 1)),
            added[0],
            added[1],
            cpu[0],
            cpu[1],
            spread(row.sampled_us, 1),
            if row.threads == 0 { "–".to_owned() } else { format!("{:.3}", row.switches.median) },
        )?;
    }
    Ok(())
}

/// The row of a target in a cell.
pub(super) fn find(rows: &[Row], target: Target, cell: Cell) -> Option<&Row> {
    rows.iter().find(|row| row.target == target && row.cell == cell)
}

/// How many times the rival's added CPU time is added. `None` where the rival's added CPU is within noise of nothing.
pub(super) fn added_ratio(own: Option<Summary>, rival: Option<Summary>) -> Option<f64> {
    let (own, theirs) = (own?.median, rival?.median);
    (theirs > 0.0).then(|| own / theirs)
}

/// A ratio, or a dash.
pub(super) fn ratio(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

/// The median and, in brackets, the least and the greatest value.
pub(super) fn spread(of: Summary, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}–{:.digits$})", of.median, of.min, of.max)
}

fn percent(of: Summary) -> String {
    let Summary { median, min, max } = of;
    spread(Summary { median: median * 100.0, min: min * 100.0, max: max * 100.0 }, 1)
}

impl Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size =
            if self.payload < 1024 { format!("{} B", self.payload) } else { format!("{} KiB", self.payload / 1024) };
        let plural = if self.connections == 1 { "" } else { "s" };
        write!(f, "{size}, {} connection{plural}", self.connections)
    }
}
