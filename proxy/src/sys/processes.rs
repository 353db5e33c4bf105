//! What /proc tells of other processes.

use std::path::Path;

/// Whether some thread of a process runs, waits for a processor, or waits for a disk. Also if that cannot be told, as
/// where /proc is hidden: then nothing speaks against it.
#[must_use]
pub fn wants_to_run(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")) else { return true };
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    let mut states = stats.filter_map(|stat| state(&stat)).peekable();
    states.peek().is_none() || states.any(|state| matches!(state, 'R' | 'D'))
}

/// The state in a line of /proc/PID/stat. The name before it is in brackets, and may have any character in it.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_wants_to_and_one_that_sleeps_does_not() {
        assert!(wants_to_run(std::process::id()));
        assert!(wants_to_run(u32::MAX), "nothing is known of it");
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // It runs at first.
        while wants_to_run(sleeper.id()) {
            std::thread::yield_now();
        }
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }

    #[test]
    fn a_name_does_not_hide_the_state() {
        assert_eq!(state("7 (a) R 1) T 1 2 3"), Some('T'));
        assert_eq!(state("7 nonsense"), None);
    }
}
