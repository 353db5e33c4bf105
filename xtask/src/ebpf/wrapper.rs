//! What stands between cargo and rustc while the kernel program is built.
//!
//! Cargo gives every crate a hash (`-C metadata`) that depends on where the crate's sources lie, and rustc puts it
//! into the names of functions and debug information. This wrapper replaces it by one that depends on the crate's
//! name and version alone, so that every checkout, in whatever folder, builds the same bytes.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::manifest::sha256;

/// Set in the environment of cargo when this program is its `RUSTC_WRAPPER`.
pub(crate) const MARK: &str = "SLUICE_XTASK_IS_RUSTC_WRAPPER";

/// Whether cargo has started this program in rustc's place.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Becomes rustc; returns only if that fails.
pub(crate) fn run() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    stabilise(&mut args, &version);
    let Some((rustc, rest)) = args.split_first() else {
        eprintln!("error: {MARK} is set, but there is no compiler to run; unset it");
        return ExitCode::FAILURE;
    };
    let error = Command::new(rustc).args(rest).exec();
    eprintln!("error: cannot run {}: {error}", rustc.display());
    ExitCode::FAILURE
}

/// Replaces the value of `-C metadata` if the arguments compile a crate.
fn stabilise(args: &mut [OsString], version: &str) {
    let name_at = args.iter().position(|arg| arg == "--crate-name");
    let Some(name) = name_at.and_then(|at| args.get(at + 1)).and_then(|name| name.to_str()) else { return };
    let hash = sha256(format!("{name} {version}").as_bytes());
    let stable = format!("metadata={}", hash.get(..16).unwrap_or(&hash));
    for arg in args.iter_mut().filter(|arg| arg.as_encoded_bytes().starts_with(b"metadata=")) {
        *arg = stable.clone().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable(args: &[&str], version: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        stabilise(&mut args, version);
        args
    }

    #[test]
    fn the_hash_depends_on_name_and_version_only() {
        let here = stable(&["rustc", "--crate-name", "core", "-C", "metadata=aaaa", "/here/lib.rs"], "1.0.0");
        let there = stable(&["rustc", "--crate-name", "core", "-C", "metadata=bbbb", "/here/lib.rs"], "1.0.0");
        let newer = stable(&["rustc", "--crate-name", "core", "-C", "metadata=aaaa", "/here/lib.rs"], "1.0.1");
        assert_eq!(here, there);
        assert_ne!(here, newer);
    }

    #[test]
    fn questions_to_the_compiler_pass_unchanged() {
        assert_eq!(stable(&["rustc", "-vV"], ""), ["rustc", "-vV"]);
    }
}
