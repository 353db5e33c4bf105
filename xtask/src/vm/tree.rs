//! A folder that becomes a disk: files at the paths that they have here, and the libraries that they load.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command::{must_print, must_run};

/// Room on the disk for what tests write.
const SPARE_MIB: u64 = 512;

/// Programs that `ldd` is asked about at once: a command has only so many arguments.
const AT_ONCE: usize = 64;

/// The folder.
pub(super) struct Tree {
    folder: PathBuf,
    /// Programs and libraries whose libraries must be there too.
    linked: Vec<PathBuf>,
}

impl Tree {
    /// An empty one.
    pub(super) fn new(folder: PathBuf) -> anyhow::Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, linked: Vec::new() })
    }

    /// Where the guest's file of this path is here. The folder that it is in is made.
    pub(super) fn place(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let to = self.folder.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(to)
    }

    /// Makes a folder.
    pub(super) fn make(&self, folder: &str, mode: u32) -> anyhow::Result<()> {
        let place = self.place(Path::new(folder))?;
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))?)
    }

    /// Makes a symbolic link, unless there is something of that name.
    pub(super) fn link(&self, path: &Path, to: &Path) -> anyhow::Result<()> {
        let place = self.place(path)?;
        if place.symlink_metadata().is_ok() {
            return Ok(());
        }
        symlink(to, &place).with_context(|| format!("cannot make {}", place.display()))
    }

    /// Writes a file that may be run.
    pub(super) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let place = self.place(Path::new(path))?;
        std::fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))?;
        Ok(std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755))?)
    }

    /// Adds a file under a path, with its time: Python compares those of sources and of what it has compiled.
    pub(super) fn copy(&self, file: &Path, path: &Path) -> anyhow::Result<()> {
        let place = self.place(path)?;
        let copy = || {
            std::fs::copy(file, &place)?;
            let modified = std::fs::metadata(file)?.modified()?;
            std::fs::File::open(&place)?.set_modified(modified)
        };
        copy().with_context(|| format!("cannot copy {} to {}", file.display(), place.display()))
    }

    /// Adds a folder at its own path, as it is.
    pub(super) fn copy_folder(&self, folder: &Path) -> anyhow::Result<()> {
        let place = self.place(folder)?;
        must_run(Command::new("cp").args(["-a", "--"]).arg(folder).arg(place))
    }

    /// Adds a program, or a library, under a path, with the libraries that it loads.
    pub(super) fn program(&mut self, file: &Path, path: &Path) -> anyhow::Result<()> {
        self.linked.push(file.to_owned());
        self.copy(file, path)
    }

    /// Adds a program at its own path, without its debugging information: that would be most of the disk.
    pub(super) fn stripped(&mut self, program: &Path) -> anyhow::Result<()> {
        self.linked.push(program.to_owned());
        let place = self.place(program)?;
        must_run(Command::new("strip").args(["--strip-debug", "-o"]).arg(place).arg(program))
    }

    /// Adds the libraries, and makes the disk.
    pub(super) fn into_disk(self, disk: &Path) -> anyhow::Result<()> {
        let mut libraries = BTreeSet::new();
        for some in self.linked.chunks(AT_ONCE) {
            libraries.extend(libraries_of(some)?);
        }
        for library in &libraries {
            self.copy(library, library)?;
        }
        let kib = must_print(Command::new("du").arg("-sk").arg(&self.folder))?;
        let kib: u64 = kib.split_whitespace().next().and_then(|kib| kib.parse().ok()).context("du prints no size")?;
        // A quarter for what the file system keeps for itself.
        let mib = kib / 1024 * 5 / 4 + SPARE_MIB;
        let _of_the_last_run = std::fs::remove_file(disk);
        let mut mke2fs = Command::new("mke2fs");
        // No journal: the disk is thrown away. Nothing is lost with the program's report of its doings.
        mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(&self.folder).arg(disk);
        must_print(mke2fs.arg(format!("{mib}M"))).map(drop)
    }
}

/// What the dynamic loader would load for these programs. Static ones need nothing.
fn libraries_of(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").args(programs).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.ends_with("not found")) {
        bail!("a library is missing here: {}", missing.trim());
    }
    Ok(text.lines().filter_map(library).collect())
}

/// From a line of ldd's: `libz.so.1 => /lib/libz.so.1 (0x00007f…)` or `/lib64/ld-linux-x86-64.so.2 (0x00007f…)`.
fn library(line: &str) -> Option<PathBuf> {
    let (path, _address) = line.trim().rsplit_once(" (0x")?;
    let path = path.rsplit_once(" => ").map_or(path, |(_, path)| path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let file = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(file("\tlibz.so.1 => /lib/libz.so.1 (0x00007f0000000000)").as_deref(), Some("/lib/libz.so.1"));
        assert_eq!(file("\t/lib64/ld.so (0x00007f0000000000)").as_deref(), Some("/lib64/ld.so"));
        assert_eq!(file("\tlinux-vdso.so.1 (0x00007f0000000000)"), None);
        assert_eq!(file("/usr/bin/curl:"), None);
        assert_eq!(file("\tnot a dynamic executable"), None);
    }
}
