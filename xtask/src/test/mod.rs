//! `cargo xtask test`: every test that this machine can run, and one honest account at the end.

mod account;
pub(crate) mod tools;
#[path = "../../../tests/src/variables.rs"]
#[expect(unreachable_pub, reason = "the file is of a library, too")]
pub(crate) mod variables;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use anyhow::Context as _;

use crate::Outcome;
use crate::command::{build_release, cargo, target};
pub(crate) use account::Account;

/// The tests of single rooms, as cargo selects them.
pub(crate) const UNIT_TESTS: &[&str] = &["--workspace", "--exclude", "sluice-tests"];

/// The tests of whole programs.
pub(crate) const PROGRAM_TESTS: &[&str] = &["--package", "sluice-tests"];

/// Whole-program tests at one time: each is several processes, and two cores are the smallest machine in mind.
const AT_ONCE: &str = "--test-threads=2";

/// Runs all tests, and prints what came of them; the last line is the sum.
pub(crate) fn run() -> anyhow::Result<Outcome> {
    let program = build_release()?;
    let tools = tools::install();
    let skips = target().join("skipped-tests");
    std::fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    let mut account = Account::default();
    let mut command = cargo();
    command.arg("test").args(UNIT_TESTS).arg("--no-fail-fast").env(variables::SKIPS, &skips);
    follow(&mut command, &mut account)?;
    let mut command = cargo();
    command
        .arg("test")
        .args(PROGRAM_TESTS)
        .args(["--no-fail-fast", "--", AT_ONCE])
        .env(variables::SKIPS, &skips)
        .env(variables::BINARY, &program)
        .env(variables::TOOLS, &tools);
    follow(&mut command, &mut account)?;
    let skipped = std::fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    account.take_skips(&skipped);
    crate::vm::enter(&mut account)?;
    println!("\n{account}");
    Ok(if account.holds() { Outcome::Done } else { Outcome::Failed })
}

/// Runs a command, shows what it prints, and enters it into the account.
fn follow(command: &mut Command, account: &mut Account) -> anyhow::Result<()> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    // Both in one pipe: cargo names the suite on stderr, the suite reports on stdout.
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    // The command holds the pipe's other end; as long as it lives, the pipe does not end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut out = std::io::stdout();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{line}")?;
        account.take_line(&line);
    }
    let status = child.wait()?;
    account.take_end(status.success());
    Ok(())
}
