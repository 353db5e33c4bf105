//! Tests that need a network, or files of the system, of their own.

use std::process::Command;

use crate::needs;

/// Says, inside, that this is inside.
const INSIDE: &str = "SLUICE_TEST_NAMESPACE";

/// Runs the body of the test of this name in new namespaces, behind a shell script that prepares them: the program of the
/// test is started again there, for this test alone. They end with it.
///
/// `flags`: those of unshare(1). With `-n` there is nothing but a loopback interface that is down.
///
/// # Panics
/// The test fails in there, or it is not found under this name.
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn inside(flags: &[&str], script: &str, name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let needed =
        ["unshare", "sh", "ip", "mount", "mktemp"].into_iter().try_for_each(|name| needs::program(name).map(drop));
    if let Err(missing) = needs::root().and(needed) {
        return needs::skip(&missing);
    }
    let exe = std::env::current_exe().expect("a test knows its program");
    let script = format!("set -e\n{script}\nexec \"$@\"");
    let output = Command::new("unshare")
        .args(flags)
        .args(["sh", "-c", &script, "sh"])
        .arg(exe)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare can be started");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "inside:\n{said}");
}
