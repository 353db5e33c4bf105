//! Folders, and commands that must succeed.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds the proxy as it is shipped, and returns the program.
///
/// # Errors
/// It does not build.
pub(crate) fn build_release() -> anyhow::Result<PathBuf> {
    must_run(cargo().args(["build", "--release", "--package", "sluice"]))?;
    Ok(target().join("release/sluice"))
}

/// Builds the proxy and what drives clients through it, and becomes the latter.
///
/// # Errors
/// One of them does not build, or cannot be executed.
pub(crate) fn drive(arguments: &[OsString]) -> anyhow::Result<Infallible> {
    must_run(cargo().args(["build", "--release", "--package", "sluice", "--package", "sluice-drive"]))?;
    let program = target().join("release/sluice-drive");
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or it fails; the message has the command.
pub(crate) fn must_run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed, without the white space around it.
///
/// # Errors
/// As [`must_run`]; what it said on stderr is in the message.
pub(crate) fn must_print(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The file that the shell would run for this name.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
