//! `cargo xtask vm`: the tests on stock Debian kernels, each in a machine of its own.
//!
//! [`packages`] fetches the kernels, [`disk`] and [`ramdisk`] make what they boot into, [`guest`] runs them, and
//! [`findings`] reads what they print; [`errand`] is one command in one of them. `boot.sh` and `init.sh` are the guest's side.

mod disk;
mod errand;
mod findings;
mod guest;
mod kernels;
mod needs;
mod packages;
mod programs;
mod ramdisk;
mod run;
mod table;
mod tree;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::Outcome;
use crate::command::target;
use crate::test::Account;
use disk::Task;
pub(crate) use errand::ErrandArgs;
use kernels::{Kernel, MATRIX};
use packages::Packages;
use run::{Bench, Verdict};

/// The kernel of `cargo xtask test`: Debian's stable one, which most servers run.
const EVERYDAY: &str = "6.12.117";

/// `cargo xtask vm …`
#[derive(Args)]
pub(crate) struct VmArgs {
    /// Boot this kernel only; may be given more than once.
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Run only tests with this in their name.
    #[arg(long, value_name = "TEST")]
    filter: Option<String>,
    /// Run this shell command instead of the tests, and show what it prints.
    #[arg(long, value_name = "COMMAND", conflicts_with = "filter")]
    exec: Option<String>,
    /// Write what has been found into docs/kernels.md, if all of it holds.
    #[arg(long, conflicts_with_all = ["kernels", "filter", "exec"])]
    write_table: bool,
}

/// Boots the kernels. The last line is the sum of all tests.
pub(crate) fn run(args: VmArgs) -> anyhow::Result<Outcome> {
    let kernels = chosen(&args.kernels)?;
    if let Err(lack) = needs::meet() {
        println!("SKIPPED: {lack:#}");
        return Ok(Outcome::Skipped);
    }
    let packages = Packages::new(folder());
    if let Some(command) = args.exec {
        return Bench::new(&packages, &kernels, &Task::Command(command))?.exec();
    }
    let task = Task::Tests { filter: args.filter.unwrap_or_default() };
    let verdicts = Bench::new(&packages, &kernels, &task)?.test()?;
    conclude(verdicts, args.write_table)
}

/// Runs one command in one guest, and prints what it printed.
pub(crate) fn errand(arguments: &ErrandArgs) -> anyhow::Result<Outcome> {
    print!("{}", arguments.run()?);
    Ok(Outcome::Done)
}

/// Runs the tests on one kernel for `cargo xtask test`, and enters them into its account.
pub(crate) fn enter(account: &mut Account) -> anyhow::Result<()> {
    let kernels = chosen(&[EVERYDAY.to_owned()])?;
    let packages = Packages::new(folder());
    let fetched = || kernels.iter().try_for_each(|kernel| packages.kernel(kernel).map(drop));
    if let Err(lack) = needs::meet().and_then(|()| fetched()) {
        account.skip(&format!("kernel {EVERYDAY} in a virtual machine"), &format!("{lack:#}"));
        return Ok(());
    }
    for verdict in Bench::new(&packages, &kernels, &Task::Tests { filter: String::new() })?.test()? {
        verdict.print_details();
        account.absorb(verdict.series, verdict.account);
    }
    Ok(())
}

fn folder() -> PathBuf {
    target().join("vm")
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Kernel>> {
    if names.is_empty() {
        return Ok(MATRIX.to_vec());
    }
    let known = || MATRIX.map(|kernel| format!("{} ({})", kernel.series, kernel.why)).join(", ");
    let find = |name: &String| {
        let kernel = MATRIX.into_iter().find(|kernel| kernel.series == name);
        kernel.with_context(|| format!("there is no kernel {name}; there are: {}", known()))
    };
    names.iter().map(find).collect()
}

/// Prints what has come of all kernels, and holds it against the table in the documentation.
fn conclude(verdicts: Vec<Verdict>, write_table: bool) -> anyhow::Result<Outcome> {
    verdicts.iter().for_each(Verdict::print_details);
    println!();
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    let mut account = Account::default();
    let mut rows = Vec::new();
    for verdict in verdicts {
        rows.extend(verdict.row());
        account.absorb(verdict.series, verdict.account);
    }
    if write_table && account.holds() && rows.len() == MATRIX.len() {
        table::write(&rows)?;
    }
    for row in &rows {
        if !table::agrees(row)? {
            account.fail(&format!("docs/kernels.md says otherwise of {}: write its table again", row.release()));
        }
    }
    println!("\n{account}");
    Ok(if account.holds() { Outcome::Done } else { Outcome::Failed })
}
