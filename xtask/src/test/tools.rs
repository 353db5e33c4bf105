//! What tests need of this machine beyond Rust: installed where that can be done without asking anybody.
//!
//! Nothing here fails the run: a test whose tool is missing reports itself as skipped, with the reason.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command::{must_run, on_path, target};

/// Programs that tests run, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 5] = [
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("prlimit", "util-linux"),
    ("python3", "python3-venv"),
];

/// Installs what is missing, and returns the folder of the tools that are not the system's.
pub(crate) fn install() -> PathBuf {
    let folder = target().join("test-tools");
    let steps = [("Debian packages", packages(&PROGRAMS)), ("PyPI", libraries(&folder)), ("npm", modules(&folder))];
    for (what, done) in steps {
        if let Err(error) = done {
            eprintln!("note: {what}: {error:#}; the tests that need it will be skipped");
        }
    }
    folder
}

/// Installs the packages of those programs that are missing, if nobody must be asked.
///
/// # Errors
/// Somebody must be, or the installation fails; the message has the packages.
pub(crate) fn packages(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing = programs.iter().filter(|(program, _)| on_path(program).is_none());
    let mut missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
    if !is_root || on_path("apt-get").is_none() {
        bail!("please install {list} (apt-get install {list})");
    }
    must_run(Command::new("apt-get").args(["update", "--quiet"]))?;
    must_run(
        Command::new("apt-get")
            .args(["install", "--quiet", "--yes", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// What the tests use of PyPI.
const LIBRARIES: [&str; 5] = ["websockets", "PyJWT[crypto]", "bcrypt", "argon2-cffi", "dnslib"];

/// Whether this interpreter has the libraries.
fn has_libraries(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import websockets, jwt, cryptography, bcrypt, argon2, dnslib"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn libraries(folder: &Path) -> anyhow::Result<()> {
    let python = folder.join("venv/bin/python");
    if has_libraries(&python) {
        return Ok(());
    }
    let venv = folder.join("venv");
    if must_run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).is_ok() {
        return must_run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(LIBRARIES));
    }
    // Debian's python3 without python3-venv: an interpreter that looks into one more folder does as well.
    let packages = folder.join("python");
    must_run(
        Command::new("python3").args(["-m", "pip", "install", "--quiet", "--target"]).arg(&packages).args(LIBRARIES),
    )?;
    std::fs::create_dir_all(venv.join("bin"))?;
    let _from_the_attempt = std::fs::remove_file(&python);
    let script = format!("#!/bin/sh\nPYTHONPATH='{}' exec python3 \"$@\"\n", packages.display());
    std::fs::write(&python, script).with_context(|| format!("cannot write {}", python.display()))?;
    must_run(Command::new("chmod").arg("755").arg(&python))
}

/// What the tests use of npm.
const MODULES: [&str; 4] = ["ws@8", "socket.io@4", "socket.io-client@4", "express@5"];

fn modules(folder: &Path) -> anyhow::Result<()> {
    let prefix = folder.join("npm");
    let is_there =
        |module: &&str| prefix.join("node_modules").join(module.split('@').next().unwrap_or(module)).is_dir();
    if MODULES.iter().all(is_there) {
        return Ok(());
    }
    if on_path("node").is_none() || on_path("npm").is_none() {
        bail!("node or npm is missing");
    }
    std::fs::create_dir_all(&prefix)?;
    let install = ["install", "--no-audit", "--no-fund", "--silent"];
    must_run(Command::new("npm").args(install).args(MODULES).arg("--prefix").arg(&prefix))
}
