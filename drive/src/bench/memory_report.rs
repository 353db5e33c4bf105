//! The memory of idle connections, summarised.

use std::fmt::Write;

use serde::Serialize;

use super::memory::{Pass, Slope};
use super::report::spread;
use super::stats::{Summary, summary};
use super::targets::Target;

/// One target's bytes for each idle connection.
#[derive(Serialize)]
pub(super) struct MemoryRow {
    pub(super) target: Target,
    /// In the proxy's processes.
    pub(super) user: Summary,
    /// In the kernel, client's and backend's sockets included.
    pub(super) kernel: Summary,
    /// In the kernel, less the direct connection's.
    pub(super) kernel_added: Option<Summary>,
    /// In the kernel's slab, less the direct connection's.
    pub(super) slab_added: Option<Summary>,
    /// Threads of the proxy without connections, and with most connections.
    pub(super) threads: (usize, usize),
}

/// One row for each target that was measured.
pub(super) fn rows(passes: &[Pass], targets: &[Target]) -> Vec<MemoryRow> {
    targets.iter().filter_map(|target| row(passes, *target)).collect()
}

fn row(passes: &[Pass], target: Target) -> Option<MemoryRow> {
    let slopes = |wanted: Target| {
        passes.iter().filter(move |pass| pass.target == wanted).filter_map(Pass::slope).collect::<Vec<Slope>>()
    };
    let own = slopes(target);
    let direct = slopes(Target::Direct);
    let pairs = || own.iter().zip(&direct).filter(|_| target != Target::Direct);
    let readings = &passes.iter().rfind(|pass| pass.target == target)?.readings;
    Some(MemoryRow {
        target,
        user: summary(own.iter().map(|slope| slope.user))?,
        kernel: summary(own.iter().map(|slope| slope.kernel))?,
        kernel_added: summary(pairs().map(|(own, direct)| own.kernel - direct.kernel)),
        slab_added: summary(pairs().map(|(own, direct)| own.slab - direct.slab)),
        threads: (readings.first()?.threads, readings.last()?.threads),
    })
}

/// The table; nothing when nothing was measured.
pub(super) fn table(rows: &[MemoryRow], (few, many): (usize, usize), out: &mut String) -> std::fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Memory of an idle connection: slope from {few} to {many}, bytes\n")?;
    writeln!(
        out,
        "| | proxy's processes | kernel | kernel, added to direct | slab, added to direct | threads at 0 and at {many} |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|")?;
    for row in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} and {} |",
            row.target.name(),
            spread(row.user, 0),
            spread(row.kernel, 0),
            row.kernel_added.map_or("–".to_owned(), |added| spread(added, 0)),
            row.slab_added.map_or("–".to_owned(), |added| spread(added, 0)),
            row.threads.0,
            row.threads.1,
        )?;
    }
    Ok(())
}
