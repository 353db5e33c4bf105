//! A machine that boots one kernel, and what it prints.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sluice_tests::process::Program;

/// Between two looks at what the guest has printed.
const PAUSE: Duration = Duration::from_millis(100);

/// What the kernel is told. Its own watchdogs are off: an emulated processor is often late.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off nowatchdog \
    rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on tsc=reliable";

/// A machine to start.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) ramdisk: &'a Path,
    pub(super) disk: &'a Path,
    /// Where the guest's prints go; the kernel's go beside it.
    pub(super) log: PathBuf,
    pub(super) accelerator: &'a str,
    pub(super) processors: u32,
    pub(super) memory_mib: u32,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Ended,
    /// It was still running at its deadline.
    Hung,
}

impl Machine<'_> {
    /// Where the kernel's prints go.
    pub(super) fn console(&self) -> PathBuf {
        self.log.with_extension("console.log")
    }

    fn command(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        [
            "qemu-system-x86_64",
            "-accel",
            self.accelerator,
            "-cpu",
            "max",
            "-smp",
            &self.processors.to_string(),
            "-m",
            &self.memory_mib.to_string(),
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
            &path(self.kernel),
            "-initrd",
            &path(self.ramdisk),
            "-append",
            COMMAND_LINE,
            "-drive",
            // Several machines share the disk: what they write is thrown away.
            &format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", path(self.disk)),
            "-serial",
            &format!("file:{}", path(&self.console())),
            "-serial",
            &format!("file:{}", path(&self.log)),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Runs it to its end, or to its deadline; shows each new piece of what the guest prints.
    pub(super) fn run(&self, limit: Duration, mut show: impl FnMut(&[u8])) -> anyhow::Result<End> {
        for log in [&self.log, &self.console()] {
            std::fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
        }
        let mut log = std::fs::File::open(&self.log)?;
        let start = Instant::now();
        let mut machine = Program::start(&self.command()).context("cannot start qemu-system-x86_64")?;
        loop {
            let status = machine.ended();
            show(&rest(&mut log)?);
            if let Some(status) = status {
                anyhow::ensure!(status.success(), "qemu-system-x86_64 ended with {status}: {}", machine.log());
                return Ok(End::Ended);
            }
            if start.elapsed() > limit {
                return Ok(End::Hung);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// What has been appended since the last look.
fn rest(file: &mut std::fs::File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let at = file.stream_position()?;
    file.seek(SeekFrom::Start(at))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
