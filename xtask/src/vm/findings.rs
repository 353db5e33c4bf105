//! What the prints of a guest say.

use serde_json::Value;

use super::guest::End;
use crate::test::Account;

/// What begins the lines that `init.sh` adds to what the tests print.
const MARK: &str = "SLUICE-VM-";

/// What a kernel prints when something is wrong with it, whatever the tests think.
const COMPLAINTS: [&str; 9] = [
    "BUG: ",
    "kernel BUG at",
    "WARNING: ",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "seq # bug",
    "Call Trace:",
    "unregister_netdevice: waiting",
];

/// The most lines of failed tests that are worth repeating.
const DETAILS: usize = 200;

/// What a run of the tests has come to.
pub(super) struct Findings {
    /// `uname -r`, if it came so far.
    pub(super) release: Option<String>,
    /// What `sluice probe --json` said.
    pub(super) probe: Option<Value>,
    /// The tests, and whatever else went wrong.
    pub(super) account: Account,
    /// What failed tests have printed.
    pub(super) details: Vec<String>,
}

/// Reads what the guest and its kernel have printed. `suites` were to run.
pub(super) fn read(guest: &str, kernel: &str, suites: usize, end: &End) -> Findings {
    let mut account = Account::default();
    let marked = |name: &str| {
        let prefix = format!("{MARK}{name} ");
        guest.lines().filter_map(move |line| line.strip_prefix(prefix.as_str()).map(str::to_owned)).collect::<Vec<_>>()
    };
    guest.lines().filter(|line| !line.starts_with(MARK)).for_each(|line| account.take_line(line));
    let verdict = verdict(&marked("VERDICT"), suites);
    account.take_end(verdict.as_ref().is_ok_and(|failed| *failed == 0));
    account.take_skips(&marked("SKIP").join("\n"));
    if let Err(wrong) = verdict {
        account.fail(&wrong);
    }
    if let End::Hung(why) = end {
        account.fail(&format!("stopped: {why}"));
    }
    kernel.lines().filter(|line| is_complaint(line)).for_each(|line| account.fail(&format!("the kernel says: {line}")));
    Findings {
        release: marked("KERNEL").into_iter().next(),
        probe: marked("PROBE").first().and_then(|json| serde_json::from_str(json).ok()),
        account,
        details: details(guest),
    }
}

/// How many suites failed, by the guest's last word.
fn verdict(verdicts: &[String], suites: usize) -> Result<u64, String> {
    let [verdict] = verdicts else { return Err(format!("the guest gave {} verdicts, not one", verdicts.len())) };
    let number = |name: &str| {
        let value = verdict.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u64>().ok())
    };
    match (number("ran"), number("failed")) {
        (Some(ran), Some(failed)) if ran == suites as u64 => Ok(failed),
        _ => Err(format!("{suites} suites were to run, and the guest's verdict is \"{verdict}\"")),
    }
}

/// The exit code of a command, by the guest's last word.
pub(super) fn exit_code(guest: &str) -> Option<i32> {
    let prefix = format!("{MARK}VERDICT exit=");
    let mut verdicts = guest.lines().filter_map(|line| line.strip_prefix(prefix.as_str()));
    let code = verdicts.next()?.trim().parse().ok();
    if verdicts.next().is_none() { code } else { None }
}

/// Whether a line of the guest's is about itself, and for this program only.
pub(super) fn is_mark(line: &str) -> bool {
    line.starts_with(MARK)
}

/// Whether a kernel complains of itself.
pub(super) fn is_complaint(line: &str) -> bool {
    COMPLAINTS.iter().any(|complaint| line.contains(complaint))
}

/// What the suites repeat of their failed tests at their end.
fn details(guest: &str) -> Vec<String> {
    let mut inside = false;
    let repeated = guest.lines().filter(|line| {
        inside = (inside || *line == "failures:") && !line.starts_with("test result:");
        inside
    });
    repeated.take(DETAILS).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: &str = "SLUICE-VM-KERNEL 6.1.0-56-cloud-amd64
SLUICE-VM-PROBE {\"kernel\":\"6.1.0-56-cloud-amd64\"}
     Running tests/relay.rs (/target/debug/deps/relay-118ba7595ed39200)
test sockmap::soak ... ok
test copy::soak ... ok
test copy::pings ... FAILED

failures:

---- copy::pings stdout ----
it did not come back

failures:
    copy::pings

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
SLUICE-VM-SKIP relay::sockmap::soak: needs a wall socket
";

    fn sum(guest: &str, kernel: &str, end: &End) -> String {
        let text = read(guest, kernel, 1, end).account.to_string();
        text.lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn one_verdict_over_all_suites_is_believed() {
        let guest = format!("{GUEST}SLUICE-VM-VERDICT ran=1 failed=1\n");
        let findings = read(&guest, "[    0.8] mtrr: your CPUs had inconsistent settings\n", 1, &End::Ended);
        assert!(findings.account.to_string().ends_with("\n1 passed, 1 failed, 1 skipped"), "{}", findings.account);
        assert_eq!(findings.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert!(findings.probe.is_some());
        assert!(findings.details.iter().any(|line| line == "it did not come back"), "{:?}", findings.details);
    }

    #[test]
    fn a_guest_that_says_nothing_or_too_much_has_failed() {
        let twice = format!("{GUEST}SLUICE-VM-VERDICT ran=1 failed=1\nSLUICE-VM-VERDICT ran=1 failed=1\n");
        let less = format!("{GUEST}SLUICE-VM-VERDICT ran=0 failed=0\n");
        for guest in [GUEST, &twice, &less] {
            assert_eq!(sum(guest, "", &End::Ended), "1 passed, 2 failed, 1 skipped", "{guest}");
        }
        assert_eq!(sum("", "", &End::Ended), "0 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn a_hang_and_a_complaint_of_the_kernel_are_failures() {
        let guest = format!("{GUEST}SLUICE-VM-VERDICT ran=1 failed=1\n");
        let trace = "[   50.1] TCP recvmsg seq # bug: copied 1\n[   50.2] Call Trace:\n";
        assert_eq!(sum(&guest, trace, &End::Ended), "1 passed, 3 failed, 1 skipped");
        assert_eq!(sum(&guest, "", &End::Hung("nothing was printed".into())), "1 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_command_has_one_exit_code() {
        assert_eq!(exit_code("hello\nSLUICE-VM-VERDICT exit=3\n"), Some(3));
        assert_eq!(exit_code("hello\n"), None);
        assert_eq!(exit_code("SLUICE-VM-VERDICT exit=0\nSLUICE-VM-VERDICT exit=0\n"), None);
    }
}
