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

/// What a guest was to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// So many suites.
    pub(super) suites: usize,
    /// All of their tests: those with TLS in the kernel are among them.
    pub(super) whole: bool,
}

/// Reads what the guest and its kernel have printed.
pub(super) fn read(guest: &str, kernel: &str, order: Order, end: &End) -> Findings {
    let mut account = Account::default();
    let marked = |name: &str| {
        let prefix = format!("{MARK}{name} ");
        guest.lines().filter_map(move |line| line.strip_prefix(prefix.as_str()).map(str::to_owned)).collect::<Vec<_>>()
    };
    guest.lines().filter(|line| !line.starts_with(MARK)).for_each(|line| account.take_line(line));
    let verdict = verdict(&marked("VERDICT"), order.suites);
    account.take_end(verdict.as_ref().is_ok_and(|failed| *failed == 0));
    account.take_skips(&marked("SKIP").join("\n"));
    if let Err(wrong) = verdict {
        account.fail(&wrong);
    }
    if order.whole {
        let [before, after] = ["TLS-BEFORE", "TLS-AFTER"].map(&marked);
        keys(&before, &after).into_iter().for_each(|wrong| account.fail(&wrong));
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

/// What is wrong with `/proc/net/tls_stat` behind the tests: they must have armed TLS, and left none behind.
fn keys(before: &[String], after: &[String]) -> Vec<String> {
    let count = |lines: &[String], name: &str| {
        let value = lines.iter().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.ok_or_else(|| format!("the guest's /proc/net/tls_stat has no {name}"))
    };
    let armed = ["TlsTxSw", "TlsRxSw"].map(|name| match (count(before, name), count(after, name)) {
        (Ok(before), Ok(after)) if after > before => None,
        (Ok(_), Ok(_)) => Some(format!("no test has armed TLS in the kernel, says {name}")),
        (Err(wrong), _) | (_, Err(wrong)) => Some(wrong),
    });
    let left = ["TlsCurrTxSw", "TlsCurrRxSw"].map(|name| match count(after, name) {
        Ok(0) => None,
        Ok(left) => Some(format!("TLS is left behind in the kernel: {name} {left}")),
        Err(wrong) => Some(wrong),
    });
    armed.into_iter().chain(left).flatten().collect()
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

    const PART: Order = Order { suites: 1, whole: false };

    fn sum(guest: &str, kernel: &str, end: &End) -> String {
        let text = read(guest, kernel, PART, end).account.to_string();
        text.lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn one_verdict_over_all_suites_is_believed() {
        let guest = format!("{GUEST}SLUICE-VM-VERDICT ran=1 failed=1\n");
        let findings = read(&guest, "[    0.8] mtrr: your CPUs had inconsistent settings\n", PART, &End::Ended);
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
    fn tests_that_arm_no_tls_and_tests_that_leave_some_are_noticed() {
        let lines = |counts: [u64; 4]| {
            let names = ["TlsCurrTxSw", "TlsCurrRxSw", "TlsTxSw", "TlsRxSw"];
            names.iter().zip(counts).map(|(name, count)| format!("{name}   \t{count}")).collect::<Vec<_>>()
        };
        let before = lines([0, 0, 24, 24]);
        assert_eq!(keys(&before, &lines([0, 0, 1014, 1014])), [""; 0]);
        assert_eq!(keys(&before, &before).len(), 2);
        assert_eq!(keys(&before, &lines([1, 1, 1014, 1014])).len(), 2);
        assert_eq!(keys(&before, &[]).len(), 4);
        let guest = format!("{GUEST}SLUICE-VM-VERDICT ran=1 failed=1\n");
        let account = read(&guest, "", Order { suites: 1, whole: true }, &End::Ended).account.to_string();
        assert!(account.ends_with("1 passed, 5 failed, 1 skipped"), "{account}");
    }

    #[test]
    fn a_command_has_one_exit_code() {
        assert_eq!(exit_code("hello\nSLUICE-VM-VERDICT exit=3\n"), Some(3));
        assert_eq!(exit_code("hello\n"), None);
        assert_eq!(exit_code("SLUICE-VM-VERDICT exit=0\nSLUICE-VM-VERDICT exit=0\n"), None);
    }
}
