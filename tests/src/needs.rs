//! What a test needs of its machine, and how it says that something is missing.

use std::cell::Cell;
use std::io::Write as _;
use std::path::PathBuf;

use crate::variables;

thread_local! {
    static SKIPPED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the test of this thread has reported that it cannot run.
#[must_use]
pub fn skipped() -> bool {
    SKIPPED.get()
}

/// Reports that the running test cannot run on this machine, and why. The test must then return.
///
/// The test harness of Rust has no such verdict: it counts the test as passed. The runner corrects that by the file
/// that [`variables::SKIPS`] names.
pub fn skip(reason: &str) {
    SKIPPED.set(true);
    let thread = std::thread::current();
    let line = format!("{}::{}: {reason}\n", suite(), thread.name().unwrap_or("unnamed"));
    eprint!("skipped {line}");
    let Some(file) = std::env::var_os(variables::SKIPS) else { return };
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot report the skipped test in {}: {error}", file.display());
    }
}

/// The name of the running test binary, without the hash that cargo appends.
fn suite() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let stem = exe.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    stem.rsplit_once('-').map_or(stem.clone(), |(name, _)| name.to_owned())
}

/// Whether the kernel relay must work here: the capabilities that it needs, and the kernel's types.
///
/// # Errors
/// What is missing.
pub fn sockmap() -> Result<(), String> {
    /// Numbers from linux/capability.h.
    const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
    let effective = crate::process::status_field("self", "CapEff").unwrap_or_default();
    let effective = u64::from_str_radix(&effective, 16).unwrap_or(0);
    for (name, number) in NEEDED {
        if effective >> number & 1 == 0 {
            return Err(format!("the kernel relay needs {name}; run as root"));
        }
    }
    if !PathBuf::from("/sys/kernel/btf/vmlinux").exists() {
        return Err("the kernel relay needs a kernel with BTF (/sys/kernel/btf/vmlinux)".into());
    }
    Ok(())
}

/// Whether the kernel must take TLS keys here: it has its `tls` module, or can load it.
///
/// # Errors
/// It has not.
pub fn ktls() -> Result<(), String> {
    let stat = std::path::Path::new(TLS_STAT);
    if !stat.exists() {
        // Whether it could be loaded shows in the file.
        let _loaded = std::process::Command::new("modprobe").arg("tls").output();
    }
    if stat.exists() { Ok(()) } else { Err("TLS in the kernel needs a kernel with CONFIG_TLS".into()) }
}

/// What the kernel counts of its TLS (Documentation/networking/tls.rst).
const TLS_STAT: &str = "/proc/net/tls_stat";

/// One number of it; 0 where there is none.
#[must_use]
pub fn tls_stat(name: &str) -> u64 {
    let stat = std::fs::read_to_string(TLS_STAT).unwrap_or_default();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix([' ', '\t'])?.trim().parse().ok();
    stat.lines().find_map(value).unwrap_or(0)
}

/// Whether the test runs as root.
///
/// # Errors
/// It does not.
pub fn root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("needs root".into()) }
}

/// The file that the shell would run for this name.
///
/// # Errors
/// There is none.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("needs the program {name}"))
}

/// A file below the folder of installed test programs.
///
/// # Errors
/// The runner has not installed it.
pub fn tool(path: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os(variables::TOOLS).map(PathBuf::from);
    let folder = folder.ok_or_else(|| format!("needs {path}, which `cargo xtask test` installs"))?;
    let file = folder.join(path);
    if file.exists() { Ok(file) } else { Err(format!("{path} could not be installed: see the start of the run")) }
}

/// The command that runs `tests/clients/<script>` with Node. The script finds npm's modules in the folder that is its last
/// argument.
///
/// # Errors
/// Node is missing, or this module, which the script uses.
pub fn node(script: &str, module: &str, args: &[String]) -> Result<Vec<String>, String> {
    let mut command =
        vec![program("node")?.display().to_string(), format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR"))];
    command.extend_from_slice(args);
    let module = tool(&format!("npm/node_modules/{module}"))?;
    command.push(module.ancestors().nth(2).unwrap_or(&module).display().to_string());
    Ok(command)
}
