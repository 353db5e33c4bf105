//! The first file system that a kernel sees: enough to find the disk, and the kernel's own modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::packages::Unpacked;
use super::tree::Tree;
use crate::command::must_run;

/// Modules, and folders of modules, that the guest may load. All of them would make the ramdisk slow to load.
const MODULES: [&str; 10] = [
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
];

/// Makes the ramdisk of a kernel from a folder that it makes for it.
pub(super) fn make(kernel: &Unpacked, busybox: &Path, folder: &Path, file: &Path) -> anyhow::Result<()> {
    let tree = Tree::new(folder.to_owned())?;
    for name in ["bin", "dev", "proc", "root", "sbin"] {
        tree.make(name, 0o755)?;
    }
    tree.copy(busybox, Path::new("bin/busybox"))?;
    tree.write("init", include_str!("boot.sh"))?;
    let release = kernel.modules.file_name().context("a kernel without a release")?;
    let to = Path::new("lib/modules").join(release).join("kernel");
    for module in MODULES {
        for file in [module.to_owned(), format!("{module}.xz")] {
            add(&tree, &kernel.modules.join("kernel").join(&file), &to.join(&file))?;
        }
    }
    must_run(Command::new(busybox).args(["depmod", "-b"]).arg(folder).arg(release))?;
    let script = r#"find . | "$0" cpio --quiet -o -H newc -R 0:0 >"$1""#;
    must_run(Command::new("sh").args(["-c", script]).arg(busybox).arg(file).current_dir(folder))
}

/// Adds a module, or a folder of them, if there is one, unpacked.
fn add(tree: &Tree, from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        for entry in std::fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
            let entry = entry?;
            add(tree, &entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    match from.extension().and_then(|end| end.to_str()) {
        Some("xz") if from.is_file() => unpack(from, &tree.place(&to.with_extension(""))?),
        Some("ko") if from.is_file() => tree.copy(from, to),
        _ => Ok(()),
    }
}

fn unpack(from: &Path, to: &PathBuf) -> anyhow::Result<()> {
    let file = std::fs::File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
    must_run(Command::new("xz").arg("-dc").arg(from).stdout(file))
}
