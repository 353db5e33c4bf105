//! `cargo xtask bench tls --vm` and `flood --vm`: boots kernels whose TLS this machine's own may lack, and has them measured
//! inside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::guest::{GuestArgs, MARK};
use super::paths::Paths;

/// One from before and one from after the kernel learnt to change keys; both as Debian ships them.
const KERNELS: [&str; 2] = ["6.12.117", "7.2"];
/// One kernel takes about a minute and a half of processor time; a machine with other work is twice as slow.
const TLS_LIMIT: Duration = Duration::from_secs(230);
/// Beside floods it is about two minutes, and four on a machine with other work.
const FLOOD_LIMIT: Duration = Duration::from_secs(900);
/// In the guest, before anything runs. The processor keeps few free pages to itself, where MemAvailable does not see
/// them. The module is one that udev loads for such a processor: without it the kernel has its AES in C. Programs and
/// libraries come into memory: while the guest waits for its disk, its clock jumps from timer to timer.
const PREPARE: &str = "modprobe aesni_intel
echo 100000 >/proc/sys/vm/percpu_pagelist_high_fraction
cat /usr/lib/*/*.so* /usr/lib64/* >/dev/null
mkdir /run/bench && cd /run/bench";

/// Measures `ktls` beside `copy` on these kernels, one after the other, and prints the tables.
pub(super) fn tls(kernels: &[String], plan: &GuestArgs, sluice: Option<&Path>) -> Result<()> {
    println!("## TLS in the kernel and in userspace, in instructions of an emulated processor\n");
    run(kernels, &format!("guest {}", plan.words()), TLS_LIMIT, sluice, "tls-vm.json")
}

/// The same beside floods.
pub(super) fn flood(kernels: &[String], floods: usize, sluice: Option<&Path>) -> Result<()> {
    println!(
        "## TLS in the kernel and in userspace beside floods; a second is 10⁹ instructions of an emulated processor\n"
    );
    let command = format!("flood --in-guest --tls --quick --floods {floods} --targets sluice-ktls,sluice-copy");
    run(kernels, &command, FLOOD_LIMIT, sluice, "flood-vm.json")
}

fn run(kernels: &[String], bench: &str, limit: Duration, sluice: Option<&Path>, file: &str) -> Result<()> {
    let paths = Paths::prepare(sluice)?;
    let kernels: Vec<&str> =
        if kernels.is_empty() { KERNELS.to_vec() } else { kernels.iter().map(String::as_str).collect() };
    let mut all = Vec::new();
    for series in kernels {
        let mut results = measure(series, bench, limit, &paths).with_context(|| format!("kernel {series}"))?;
        if let Some(serde_json::Value::String(tables)) = results.get_mut("markdown").map(serde_json::Value::take) {
            println!("{tables}");
        }
        all.push(results);
    }
    let file = paths.work.join(file);
    fs::write(&file, serde_json::to_vec_pretty(&all)?).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("every measurement is in {}", file.display());
    Ok(())
}

fn measure(series: &str, bench: &str, limit: Duration, paths: &Paths) -> Result<serde_json::Value> {
    let command = format!(
        "{PREPARE}\ncp '{}' drive && cp '{}' sluice && exec ./drive bench {bench}\n",
        paths.drive.display(),
        paths.sluice.display(),
    );
    let mut errand = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    errand.args(["xtask", "errand", "--kernel", series, "--limit", &limit.as_secs().to_string(), "--program"]);
    errand.arg(&paths.drive).arg("--program").arg(&paths.sluice).arg(command);
    let output = errand.stderr(std::process::Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "`cargo xtask errand` ended with {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix(MARK)).context("the guest printed no results")?;
    serde_json::from_str(line).context("the guest's results are not what this program writes")
}
