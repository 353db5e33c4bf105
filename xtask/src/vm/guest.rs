//! A machine that boots one kernel, and what it prints.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Between two looks at what the guest has printed.
const PAUSE: Duration = Duration::from_millis(100);

/// What the kernel is told. Its own watchdogs are off: an emulated processor is often late. Warnings are shown. Without
/// the last line an emulated processor would be busy for a third longer, with guards against other people's programs, with
/// instructions for copying (`rep`) that it takes byte by byte, and with translating each program again for each place
/// at which it comes to lie: without the last word a suite that starts Sluice often takes twice as long.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic nowatchdog rcupdate.rcu_cpu_stall_suppress=1 \
    random.trust_cpu=on tsc=reliable \
    mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off lsm= audit=0 clearcpuid=rep_good norandmaps";

/// An emulated processor that has everything but what makes its emulation slow.
const PROCESSOR: &str = "max,la57=off,smap=off,smep=off,umip=off,pku=off,erms=off";

/// What makes `boot.sh` end at once.
const TRIAL: &str = "sluice.trial";

/// How long a trial may take: on real hardware it takes two seconds.
const TRIAL_LIMITS: Limits = Limits { whole: Duration::from_secs(20), silence: Duration::from_secs(20) };

/// How the processor is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the machine's own.
    Kvm,
    /// By emulation: slow, and possible everywhere.
    Tcg,
    /// By emulation of a single one whose clock advances by a nanosecond with each instruction.
    Counting,
}

impl Accelerator {
    /// The best one that boots this kernel here.
    pub(super) fn find(kernel: &Path, ramdisk: &Path, disk: &Path, log: PathBuf) -> Self {
        if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Self::Tcg;
        }
        let machine = Machine { kernel, ramdisk, disk, log, accelerator: Self::Kvm };
        let booted = machine.start(TRIAL, TRIAL_LIMITS, |_| {}).is_ok_and(|end| end == End::Ended);
        let said = std::fs::read_to_string(&machine.log).unwrap_or_default();
        if booted && said.contains(TRIAL) { Self::Kvm } else { Self::Tcg }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2"],
            Self::Counting => {
                &["-accel", "tcg,thread=single", "-cpu", PROCESSOR, "-smp", "1", "-icount", "shift=0,sleep=off"]
            }
        }
    }
}

/// How long a guest may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) whole: Duration,
    /// Without printing anything.
    pub(super) silence: Duration,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Ended,
    /// It was killed: why.
    Hung(String),
}

/// A machine to start.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) ramdisk: &'a Path,
    /// Machines may share it: what they write is thrown away.
    pub(super) disk: &'a Path,
    /// Where the guest's prints go; the kernel's go beside it.
    pub(super) log: PathBuf,
    pub(super) accelerator: Accelerator,
}

impl Machine<'_> {
    /// Where the kernel's prints go.
    pub(super) fn console(&self) -> PathBuf {
        self.log.with_extension("console.log")
    }

    /// Runs it to its end, or until a limit is reached; shows each new piece of what the guest prints.
    pub(super) fn run(&self, limits: Limits, show: impl FnMut(&[u8])) -> anyhow::Result<End> {
        self.start("", limits, show)
    }

    fn start(&self, option: &str, limits: Limits, mut show: impl FnMut(&[u8])) -> anyhow::Result<End> {
        for log in [&self.log, &self.console()] {
            std::fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
        }
        let mut log = std::fs::File::open(&self.log)?;
        let begin = Instant::now();
        let mut printed = begin;
        // It dies with this process, and at the end of this function.
        let own = self.log.with_extension("qemu.log");
        let said = std::fs::File::create(&own).with_context(|| format!("cannot write {}", own.display()))?;
        let mut machine =
            Running(self.command(option).stderr(said).spawn().context("cannot start qemu-system-x86_64")?);
        loop {
            let status = machine.0.try_wait()?;
            let mut piece = Vec::new();
            log.read_to_end(&mut piece)?;
            if !piece.is_empty() {
                printed = Instant::now();
                show(&piece);
            }
            if let Some(status) = status {
                anyhow::ensure!(status.success(), "qemu-system-x86_64 ended with {status}: {}", super::run::read(&own));
                return Ok(End::Ended);
            }
            if begin.elapsed() > limits.whole {
                return Ok(End::Hung(format!("still running after {} s", limits.whole.as_secs())));
            }
            if printed.elapsed() > limits.silence {
                return Ok(End::Hung(format!("nothing was printed for {} s", limits.silence.as_secs())));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn command(&self, option: &str) -> Command {
        let path = |path: &Path| path.display().to_string();
        let disk = format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", path(self.disk));
        let (console, log) = (path(&self.console()), path(&self.log));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.args(self.accelerator.arguments());
        command.args(["-m", "2048", "-nodefaults", "-display", "none", "-no-reboot"]);
        let pairs = [
            ("-kernel", path(self.kernel)),
            ("-initrd", path(self.ramdisk)),
            ("-append", format!("{COMMAND_LINE} {option}")),
            ("-drive", disk),
            ("-serial", format!("file:{console}")),
            ("-serial", format!("file:{log}")),
        ];
        command.args(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        command
    }
}

/// A machine that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
