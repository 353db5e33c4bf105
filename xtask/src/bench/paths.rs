//! Where the benchmark finds programs and leaves its files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Paths of one run.
pub(super) struct Paths {
    /// Configuration files, logs and results.
    pub(super) work: PathBuf,
    /// This program, optimised: the echo backend and the load generator run from it.
    pub(super) xtask: PathBuf,
    /// The proxy.
    pub(super) sluice: PathBuf,
}

impl Paths {
    /// Builds the optimised programs, unless `sluice` names one that exists.
    pub(super) fn prepare(sluice: Option<&Path>) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--release", "--quiet", "--package", "xtask"]).current_dir(root);
        if sluice.is_none() {
            build.args(["--package", "sluice"]);
        }
        eprintln!("building the optimised programs");
        ensure!(build.status().context("cannot start cargo")?.success(), "cargo build --release failed");
        let work = target.join("bench");
        fs::create_dir_all(&work).with_context(|| format!("cannot make the folder {}", work.display()))?;
        let release = target.join("release");
        // The proxies run in another folder, so a relative path must not stay one.
        let sluice = sluice.map_or_else(|| Ok(release.join("sluice")), std::path::absolute)?;
        Ok(Self { work, xtask: release.join("xtask"), sluice })
    }

    /// In a guest, where there is nothing to build: everything is in this program's own folder.
    pub(super) fn of_guest() -> Result<Self> {
        let xtask = env::current_exe().context("cannot find this program")?;
        let work = xtask.parent().context("this program is in no folder")?.to_owned();
        Ok(Self { sluice: work.join("sluice"), work, xtask })
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
