//! The account of a test run, taken from what cargo and the tests print.

use std::fmt;

/// One test binary.
#[derive(Debug, Default, PartialEq, Eq)]
struct Suite {
    /// What cargo calls it.
    title: String,
    /// The binary's name: what skips are reported under.
    binary: String,
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Whether it has reported a result; a suite that crashed has not.
    reported: bool,
}

/// All test binaries of a run.
#[derive(Debug, Default)]
pub(crate) struct Account {
    suites: Vec<Suite>,
    /// Test and reason, a line each.
    skips: Vec<String>,
    /// Names of failed tests, and what failed without a name.
    failures: Vec<String>,
}

impl Account {
    /// Enters a line of cargo's or a test binary's.
    pub(crate) fn take_line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(suite) = suite(line) {
            self.suites.push(suite);
        } else if let Some(test) = line.strip_prefix("test ") {
            self.take_test(test);
        }
    }

    fn take_test(&mut self, test: &str) {
        if let Some(result) = test.strip_prefix("result: ") {
            return self.take_result(result);
        }
        let Some((name, verdict)) = test.rsplit_once(" ... ") else { return };
        let binary = self.suites.last().map(|suite| suite.binary.as_str()).unwrap_or_default();
        if verdict == "FAILED" {
            self.failures.push(format!("{binary}::{name}"));
        } else if let Some(reason) = verdict.strip_prefix("ignored") {
            let reason = reason.strip_prefix(", ").unwrap_or("marked #[ignore] without a reason");
            self.skips.push(format!("{binary}::{name}: {reason}"));
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; …`
    fn take_result(&mut self, result: &str) {
        let Some(suite) = self.suites.last_mut() else { return };
        let counts = result.split_once(". ").map_or(result, |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => suite.passed = number,
                "failed" => suite.failed = number,
                "ignored" => suite.skipped = number,
                _ => {}
            }
        }
        suite.reported = true;
    }

    /// Enters the end of a cargo command.
    pub(crate) fn take_end(&mut self, success: bool) {
        for suite in self.suites.iter_mut().filter(|suite| !suite.reported) {
            self.failures.push(format!("{}: ended without a result", suite.title));
            suite.failed += 1;
            suite.reported = true;
        }
        if !success && self.count(|suite| suite.failed) == 0 {
            self.failures.push("cargo test failed before it ran a test".into());
            self.suites.push(Suite { title: "cargo test".into(), failed: 1, reported: true, ..Suite::default() });
        }
    }

    /// Enters what tests have reported of themselves, a line each: `binary::test: reason`.
    pub(crate) fn take_skips(&mut self, lines: &str) {
        for line in lines.lines() {
            // A test may meet what is missing more than once.
            if self.skips.iter().any(|known| known == line) {
                continue;
            }
            let test = |line: &str| line.split(": ").next().map(str::to_owned);
            let first = !self.skips.iter().any(|known| test(known) == test(line));
            let binary = line.split("::").next().unwrap_or_default();
            // The harness has counted it as passed.
            if let Some(suite) = self.suites.iter_mut().find(|suite| suite.binary == binary && suite.passed > 0)
                && first
            {
                suite.passed -= 1;
                suite.skipped += 1;
            }
            self.skips.push(line.into());
        }
    }

    /// Enters something that went wrong and is no test.
    pub(crate) fn fail(&mut self, what: &str) {
        self.suites.push(Suite { title: "besides the tests".into(), failed: 1, reported: true, ..Suite::default() });
        self.failures.push(what.into());
    }

    /// Enters a suite of tests that this machine could not run at all.
    pub(crate) fn skip(&mut self, title: &str, reason: &str) {
        self.suites.push(Suite { title: title.into(), skipped: 1, reported: true, ..Suite::default() });
        self.skips.push(format!("{title}: {reason}"));
    }

    /// Enters all of another account, under a name.
    pub(crate) fn absorb(&mut self, name: &str, other: Self) {
        let named = |line: String| format!("{name} {line}");
        self.suites.extend(other.suites.into_iter().map(|suite| Suite { title: named(suite.title), ..suite }));
        self.failures.extend(other.failures.into_iter().map(named));
        self.skips.extend(other.skips.into_iter().map(named));
    }

    /// Whether something ran and nothing failed.
    pub(crate) fn holds(&self) -> bool {
        self.count(|suite| suite.failed) == 0 && self.count(|suite| suite.passed) > 0
    }

    /// `3 passed, 0 failed, 1 skipped`.
    pub(crate) fn sum(&self) -> String {
        let [passed, failed, skipped] =
            [self.count(|suite| suite.passed), self.count(|suite| suite.failed), self.count(|suite| suite.skipped)];
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    fn count(&self, of: impl Fn(&Suite) -> u64) -> u64 {
        self.suites.iter().map(of).sum()
    }
}

/// `Running unittests src/lib.rs (target/debug/deps/sluice-0123456789abcdef)` or `Doc-tests sluice`.
fn suite(line: &str) -> Option<Suite> {
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(Suite { title: format!("{name}: documentation"), binary: name.into(), ..Suite::default() });
    }
    let (source, file) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let name = file.rsplit('/').next().unwrap_or(file);
    let binary = name.rsplit_once('-').map_or(name, |(name, _)| name).to_owned();
    let source = source.strip_prefix("unittests ").unwrap_or(source);
    Some(Suite { title: format!("{binary}: {source}"), binary, ..Suite::default() })
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<44}{:>8}{:>8}{:>8}", "suite", "passed", "failed", "skipped")?;
        for suite in self.suites.iter().filter(|suite| suite.passed + suite.failed + suite.skipped > 0) {
            writeln!(f, "{:<44}{:>8}{:>8}{:>8}", suite.title, suite.passed, suite.failed, suite.skipped)?;
        }
        for (title, lines) in [("failed", &self.failures), ("skipped", &self.skips)] {
            if !lines.is_empty() {
                writeln!(f, "\n{title}:")?;
            }
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        write!(f, "\n{}", self.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "   Compiling sluice v0.1.0
     Running unittests src/lib.rs (target/debug/deps/sluice-8466f8a034f7a432)
test echo::tests::one ... ok
test echo::tests::two ... FAILED
test echo::tests::three ... ignored, needs a second machine
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.26s
     Running tests/relay.rs (/elsewhere/target/debug/deps/relay-118ba7595ed39200)
test sockmap::soak ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/crash.rs (target/debug/deps/crash-118ba7595ed39200)
error: test failed";

    fn account() -> Account {
        let mut account = Account::default();
        RUN.lines().for_each(|line| account.take_line(line));
        account.take_end(false);
        account.take_skips("relay::sockmap::soak: needs root\n");
        // Told again, and a test that has passed but for a part.
        account.take_skips("relay::sockmap::soak: needs root\na part of sockmap::soak: needs a wall\n");
        account
    }

    #[test]
    fn every_test_is_in_the_sum_once() {
        let text = account().to_string();
        assert_eq!(text.lines().last(), Some("2 passed, 2 failed, 2 skipped"), "{text}");
        assert!(text.contains("relay::sockmap::soak: needs root"), "{text}");
        assert!(text.contains("sluice::echo::tests::three: needs a second machine"), "{text}");
        assert!(text.contains("crash: tests/crash.rs: ended without a result"), "{text}");
    }

    #[test]
    fn accounts_add_up() {
        let mut whole = Account::default();
        whole.absorb("here", account());
        whole.absorb("there", account());
        whole.skip("elsewhere", "nobody goes there");
        whole.fail("the roof came down");
        let text = whole.to_string();
        assert_eq!(text.lines().last(), Some("4 passed, 5 failed, 5 skipped"), "{text}");
        assert!(text.contains("there sluice::echo::tests::two"), "{text}");
        assert!(text.contains("elsewhere: nobody goes there"), "{text}");
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!account().holds());
        assert!(!Account::default().holds());
        let mut broken = Account::default();
        broken.take_end(false);
        assert!(broken.to_string().ends_with("0 passed, 1 failed, 0 skipped"));
    }
}
