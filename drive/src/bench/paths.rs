//! Where the benchmark finds programs and leaves its files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::this_program;

/// Paths of one run.
pub(super) struct Paths {
    /// Configuration files, logs and results.
    pub(super) work: PathBuf,
    /// This program: the echo backend and the load generator run from it.
    pub(super) drive: PathBuf,
    /// The proxy.
    pub(super) sluice: PathBuf,
}

impl Paths {
    /// Those of this machine. The proxy is the one that was built beside this program, unless `sluice` names another.
    pub(super) fn prepare(sluice: Option<&Path>) -> Result<Self> {
        let (drive, target) = this_program()?;
        let work = target.join("bench");
        fs::create_dir_all(&work).with_context(|| format!("cannot make the folder {}", work.display()))?;
        // The proxies run in another folder, so a relative path must not stay one.
        let sluice = sluice.map_or_else(|| Ok(drive.with_file_name("sluice")), std::path::absolute)?;
        Ok(Self { work, drive, sluice })
    }

    /// In a guest everything is in this program's own folder.
    pub(super) fn of_guest() -> Result<Self> {
        let (drive, _) = this_program()?;
        let work = drive.parent().context("this program is in no folder")?.to_owned();
        Ok(Self { sluice: work.join("sluice"), work, drive })
    }
}

/// A program of a Debian package, installed first when it is missing and this is root.
pub(super) fn debian_program(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = find(program) {
        return Ok(found);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "{program} is not installed: `apt-get install {package}` as root brings it"
    );
    eprintln!("installing {package}");
    // RUNLEVEL=1 keeps the package's service from starting (invoke-rc.d(8)).
    let status = Command::new("apt-get")
        .args(["install", "--yes", "--quiet=2", "--no-install-recommends", package])
        .envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])
        .stdout(std::io::stderr())
        .status()
        .context("cannot start apt-get")?;
    ensure!(status.success(), "`apt-get install {package}` failed: {status}");
    find(program).with_context(|| format!("{package} is installed, but there is no {program}"))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
