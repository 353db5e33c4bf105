//! The programs that run in the guest: Sluice as it is shipped, and the tests that look at a kernel.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::command::{build_release, cargo};
use crate::test::{PROGRAM_TESTS, UNIT_TESTS};

/// A test program.
#[derive(Clone, Debug)]
pub(super) struct Suite {
    /// The program.
    pub(super) path: PathBuf,
    /// The folder of its package, in which cargo would run it.
    pub(super) package: PathBuf,
    /// Its source, below that folder.
    pub(super) source: String,
}

impl Suite {
    /// Whether these are the unit tests of Sluice's library.
    pub(super) fn is_library(&self) -> bool {
        self.source == "src/lib.rs"
    }
}

/// What is built for a run.
pub(super) struct Programs {
    /// `sluice`, built for release.
    pub(super) sluice: PathBuf,
    pub(super) suites: Vec<Suite>,
}

/// Builds them as `cargo xtask test` does, so that neither builds again what the other has built.
pub(super) fn build() -> anyhow::Result<Programs> {
    let sluice = build_release()?;
    let mut suites = Vec::new();
    for selection in [UNIT_TESTS, PROGRAM_TESTS] {
        suites.extend(build_suites(selection)?);
    }
    // As cargo builds them in parallel, it announces them in any order.
    suites.sort_by(|one, other| one.source.cmp(&other.source));
    Ok(Programs { sluice, suites })
}

fn build_suites(selection: &[&str]) -> anyhow::Result<Vec<Suite>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(selection);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages.filter_map(|message| suite(&message)).collect())
}

/// Tests of whole programs that look at HTTP alone, at who may enter and who is sent where, at logs and settings, to which one
/// kernel is like another.
const OF_NO_KERNEL: [&str; 19] = [
    "tests/answers.rs",
    "tests/auth.rs",
    "tests/balancing.rs",
    "tests/checks.rs",
    "tests/configuration.rs",
    "tests/entry.rs",
    "tests/health.rs",
    "tests/herd.rs",
    "tests/limits.rs",
    "tests/logs.rs",
    "tests/names.rs",
    "tests/plain.rs",
    "tests/queue.rs",
    "tests/retries.rs",
    "tests/routes.rs",
    "tests/secrets.rs",
    "tests/smuggling.rs",
    "tests/sources.rs",
    "tests/sticky.rs",
];

/// The test program that a message of cargo's announces, if it is one for the guest: the unit tests of the library, which
/// move bytes over sockets, and the tests of whole programs. No other meets the kernel.
fn suite(message: &Value) -> Option<Suite> {
    let path = PathBuf::from(message["executable"].as_str()?);
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = &message["target"];
    let wanted = match (package.file_name()?.to_str()?, target["kind"][0].as_str()?) {
        ("proxy", "lib") | ("tests", "test") => message["profile"]["test"].as_bool()?,
        _ => false,
    };
    let source = Path::new(target["src_path"].as_str()?).strip_prefix(&package).ok()?.display().to_string();
    (wanted && !OF_NO_KERNEL.contains(&source.as_str())).then_some(Suite { path, package, source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(package: &str, kind: &str, source: &str) -> Value {
        json!({
            "manifest_path": format!("/somewhere/{package}/Cargo.toml"),
            "target": { "kind": [kind], "src_path": format!("/somewhere/{package}/{source}") },
            "profile": { "test": true },
            "executable": "/somewhere/target/debug/deps/name-0123",
        })
    }

    #[test]
    fn tests_of_a_kernel_are_taken_and_no_others() {
        let taken = suite(&message("tests", "test", "tests/relay.rs")).map(|suite| suite.source);
        assert_eq!(taken.as_deref(), Some("tests/relay.rs"));
        assert!(suite(&message("proxy", "lib", "src/lib.rs")).is_some());
        assert!(suite(&message("tests", "test", "tests/routes.rs")).is_none(), "it is about HTTP");
        assert!(suite(&message("proxy", "test", "tests/rooms.rs")).is_none(), "it reads sources");
        assert!(suite(&message("proxy-common", "test", "tests/scan.rs")).is_none(), "it is arithmetic");
        assert!(suite(&json!({ "reason": "build-finished" })).is_none());
    }
}
