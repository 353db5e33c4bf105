//! What was measured inside a guest, summarised, as Markdown for people and JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use super::guest::{CONNECTIONS, Clock, GuestArgs, Record};
use super::memory::{Pass, Plan};
use super::memory_report::{self, MemoryRow};
use super::relay::{Cell, PAYLOADS};
use super::report::{self, spread};
use super::stats::{Summary, summary};
use super::targets::Target;

/// Everything that one guest found.
#[derive(Serialize)]
pub(super) struct Results {
    kernel: String,
    plan: GuestArgs,
    clock: Clock,
    /// The kernel's implementation of AES-GCM.
    cipher: String,
    rows: Vec<Row>,
    memory: Vec<MemoryRow>,
    records: Vec<Record>,
    memory_passes: Vec<Pass>,
    /// The tables.
    markdown: String,
}

/// One cell: instructions for each round trip.
#[derive(Serialize)]
struct Row {
    cell: Cell,
    /// All that the machine executed: load generator, backend, Sluice, and the kernel.
    machine: Compared,
    /// What was executed on behalf of Sluice's threads, in them and in the kernel.
    sluice: Compared,
    /// The share (0–1) of the time in which the processor had nothing to do.
    idle: Summary,
}

/// The same of both engines.
#[derive(Serialize)]
struct Compared {
    ktls: Summary,
    copy: Summary,
    /// Of the same round.
    ratio: Summary,
}

impl Results {
    pub(super) fn new(
        plan: GuestArgs,
        clock: Clock,
        cipher: String,
        records: Vec<Record>,
        memory_plan: &Plan,
        memory_passes: Vec<Pass>,
    ) -> Self {
        let cells = PAYLOADS
            .into_iter()
            .flat_map(|payload| CONNECTIONS.into_iter().map(move |connections| Cell { payload, connections }));
        let rows = cells.filter_map(|cell| row(&records, cell)).collect();
        let memory = memory_report::rows(&memory_passes, &memory_plan.targets);
        let kernel = report::kernel();
        let mut this =
            Self { kernel, plan, clock, cipher, rows, memory, records, memory_passes, markdown: String::new() };
        let mut markdown = String::new();
        // Writing to a String cannot fail.
        let _infallible = this.write_markdown(memory_plan.idle, &mut markdown);
        this.markdown = markdown;
        this
    }

    fn write_markdown(&self, idle: (usize, usize), out: &mut String) -> std::fmt::Result {
        writeln!(out, "### Linux {}\n", self.kernel)?;
        let Summary { median, min, max } = self.clock.alone;
        writeln!(
            out,
            "A fixed loop took {min:.0} to {max:.0} µs of the guest's clock: {:.3} % apart. {} rounds of {} s (of that \
             clock) for each cell, interleaved. Median (min–max). The kernel's AES-GCM is {}.\n",
            (max - min) / median * 100.0,
            self.plan.rounds,
            self.plan.seconds,
            self.cipher
        )?;
        writeln!(
            out,
            "| thousands of instructions per round trip | machine, ktls | machine, copy | ktls ÷ copy | Sluice, ktls | \
             Sluice, copy | ktls ÷ copy | idle |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|")?;
        for Row { cell, machine, sluice, idle } in &self.rows {
            let cells =
                |of: &Compared| format!("{} | {} | {}", spread(of.ktls, 1), spread(of.copy, 1), spread(of.ratio, 3));
            writeln!(out, "| {cell} | {} | {} | {:.1} % |", cells(machine), cells(sluice), idle.max * 100.0)?;
        }
        memory_report::table(&self.memory, idle, out)
    }
}

fn row(records: &[Record], cell: Cell) -> Option<Row> {
    let of = |target| records.iter().filter(move |record| record.target == target && record.cell == cell);
    let compared = |value: fn(&Record) -> f64| {
        let rounds = of(Target::SluiceKtls).filter_map(|ktls| {
            Some((value(ktls), value(of(Target::SluiceCopy).find(|copy| copy.round == ktls.round)?)))
        });
        let rounds: Vec<(f64, f64)> = rounds.collect();
        Some(Compared {
            ktls: summary(rounds.iter().map(|(ktls, _)| *ktls))?,
            copy: summary(rounds.iter().map(|(_, copy)| *copy))?,
            ratio: summary(rounds.iter().map(|(ktls, copy)| ktls / copy))?,
        })
    };
    // A microsecond of this clock is a thousand instructions.
    let idle = |record: &Record| 1.0 - record.sample.busy_us / (record.sample.seconds * 1e6);
    Some(Row {
        cell,
        machine: compared(|record| record.sample.busy_us / record.sample.round_trips as f64)?,
        sluice: compared(|record| record.sample.proxy_us / record.sample.round_trips as f64)?,
        idle: summary(of(Target::SluiceKtls).chain(of(Target::SluiceCopy)).map(idle))?,
    })
}
