//! The first file system that the kernel sees: enough to find the disk, and the kernel's own modules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::packages::Unpacked;
use crate::command::must_run;

/// Modules, and folders of modules, that the guest may load; the rest would only make the ramdisk slow.
const MODULES: [&str; 11] = [
    "arch/x86/crypto",
    "crypto",
    "drivers/block/virtio_blk.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "drivers/virtio",
    "lib",
    "net/ipv4",
    "net/sched",
    "net/tls",
    "arch/x86/lib",
];

/// Makes the ramdisk of a kernel.
pub(super) fn make(kernel: &Unpacked, busybox: &Path, folder: &Path, file: &Path) -> anyhow::Result<()> {
    let _of_the_last_run = std::fs::remove_dir_all(folder);
    for name in ["bin", "dev", "proc", "root", "sbin"] {
        make_folder(&folder.join(name))?;
    }
    copy(busybox, &folder.join("bin/busybox"))?;
    let init = folder.join("init");
    std::fs::write(&init, include_str!("boot.sh")).with_context(|| format!("cannot write {}", init.display()))?;
    must_run(Command::new("chmod").arg("755").arg(&init))?;
    let release = kernel.modules.file_name().context("a kernel without a release")?;
    let modules = folder.join("lib/modules").join(release);
    for module in MODULES {
        for suffix in ["", ".xz"] {
            add(
                &kernel.modules.join("kernel").join(format!("{module}{suffix}")),
                &modules.join("kernel").join(module),
            )?;
        }
    }
    must_run(Command::new(busybox).args(["depmod", "-b"]).arg(folder).arg(release))?;
    let list = Command::new("find").arg(".").current_dir(folder).stdout(Stdio::piped()).spawn()?;
    let archive = std::fs::File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    let mut cpio = Command::new(busybox);
    cpio.args(["cpio", "-o", "-H", "newc", "-R", "0:0"]).current_dir(folder);
    must_run(cpio.stdin(list.stdout.context("find has no output")?).stdout(archive).stderr(Stdio::null()))
}

/// Adds a module or a folder of them, unpacked.
fn add(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?.path();
            let name = PathBuf::from(entry.file_name().unwrap_or_default());
            let plain = if name.extension().is_some_and(|end| end == "xz") { name.with_extension("") } else { name };
            add(&entry, &to.join(plain))?;
        }
        return Ok(());
    }
    if !from.is_file() {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    if from.extension().is_none_or(|end| end != "xz") {
        return copy(from, to);
    }
    let file = std::fs::File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
    must_run(Command::new("xz").args(["-dc"]).arg(from).stdout(file))
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
