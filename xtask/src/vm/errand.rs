//! One command in one guest whose clock counts instructions, to measure what it does.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::guest::{Accelerator, End, Limits, Machine};
use super::kernels::BUSYBOX;
use super::packages::Packages;
use super::run::{read, tail};
use super::{chosen, disk, findings, folder, needs, ramdisk};

/// `cargo xtask errand …`
#[derive(Args)]
pub(crate) struct ErrandArgs {
    /// The kernel, as `cargo xtask vm --kernel` calls it.
    #[arg(long = "kernel", value_name = "SERIES")]
    series: String,
    /// Programs that it needs; the guest has them at the same paths as this machine.
    #[arg(long = "program", value_name = "FILE")]
    programs: Vec<PathBuf>,
    /// When it counts as hanging, in seconds.
    #[arg(long)]
    limit: u64,
    /// For the guest's shell.
    command: String,
}

impl ErrandArgs {
    /// Boots the kernel, runs the command, and returns what it printed; that goes to the standard error meanwhile.
    ///
    /// # Errors
    /// There is no such kernel, the machine does not run, the command fails, or it takes too long; the last lines of
    /// what it printed are in the message.
    pub(super) fn run(&self) -> anyhow::Result<String> {
        needs::meet()?;
        let folder = folder().join("errand");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let packages = Packages::new(super::folder());
        let [kernel] = chosen(std::slice::from_ref(&self.series))?[..] else {
            bail!("{} is not one kernel", self.series)
        };
        let busybox = packages.files(&BUSYBOX)?.join("bin/busybox");
        let (disk, ramdisk) = (folder.join("disk.ext4"), folder.join("ramdisk.cpio"));
        disk::make_small(&folder.join("disk"), &busybox, &self.programs, &self.command, &disk)?;
        let unpacked = packages.kernel(&kernel)?;
        ramdisk::make(&unpacked, &busybox, &folder.join("ramdisk"), &ramdisk)?;
        let machine = Machine {
            kernel: &unpacked.image,
            ramdisk: &ramdisk,
            disk: &disk,
            log: folder.join(format!("{}.log", self.series)),
            accelerator: Accelerator::Counting,
        };
        let limit = Duration::from_secs(self.limit);
        let end = machine.run(Limits { whole: limit, silence: limit }, |piece| {
            let _closed = std::io::stderr().write_all(piece);
        })?;
        let said = read(&machine.log);
        if end == End::Ended && findings::exit_code(&said) == Some(0) {
            return Ok(said);
        }
        let how = match end {
            End::Ended => "failed".to_owned(),
            End::Hung(why) => format!("was stopped: {why}"),
        };
        let [said, console] = [said, read(&machine.console())].map(|text| tail(&text).join("\n"));
        bail!("the guest with kernel {} {how}; it printed, at last:\n{said}\nand its kernel:\n{console}", self.series);
    }
}
