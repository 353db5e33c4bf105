//! What the kernel program is built with: a nightly compiler, the source of its library, and bpf-linker.
//!
//! Each part is looked for where it usually is, and made if that can be done without asking anybody.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::manifest::{hash_folder, read, sha256};
use crate::command::{cargo, must_print, must_run, on_path, target};

/// Names the library source where the compiler has none: a folder that holds `library/`, or a .tar.xz of one.
pub(crate) const LIBRARY_VARIABLE: &str = "SLUICE_RUST_LIBRARY";

/// The version that [`build_linker`] installs.
const LINKER_VERSION: &str = "0.13.0";

/// The tools by their versions: the part of them that decides the object's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tools {
    /// What `rustc -vV` prints.
    pub(crate) rustc: Vec<String>,
    /// One hash over the source of `core` and of `compiler_builtins`.
    pub(crate) library: String,
    /// What `bpf-linker --version` prints.
    pub(crate) bpf_linker: String,
}

/// Where the tools are.
pub(crate) struct Toolchain {
    /// Their versions.
    pub(crate) tools: Tools,
    /// The library's source: the folder `library`.
    pub(crate) library: PathBuf,
    /// The folder of bpf-linker.
    pub(crate) linker_folder: PathBuf,
}

/// What this machine lacks.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A command of the nightly toolchain, without what the stable one has left in the environment.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTFLAGS", "LD_LIBRARY_PATH", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    command
}

/// Finds the tools, or says which one is missing.
///
/// # Errors
/// Something that is there does not work.
pub(crate) fn find() -> anyhow::Result<Result<Toolchain, Missing>> {
    let Ok(rustc) = must_print(nightly("rustc").arg("-vV")) else {
        return Ok(Err(Missing(
            "there is no nightly compiler: rustup toolchain install nightly --profile minimal --component rust-src"
                .into(),
        )));
    };
    let sysroot = PathBuf::from(must_print(nightly("rustc").args(["--print", "sysroot"]))?);
    let library = match find_library(&sysroot)? {
        Ok(library) => library,
        Err(missing) => return Ok(Err(missing)),
    };
    let linker = match find_linker() {
        Some(linker) => linker,
        None => build_linker(&sysroot, &rustc).context("there is no bpf-linker, and it cannot be built")?,
    };
    let tools = Tools {
        rustc: rustc.lines().map(str::to_owned).collect(),
        library: sha256(
            [hash_folder(&library.join("core"))?, hash_folder(&library.join("compiler-builtins"))?].concat().as_bytes(),
        ),
        bpf_linker: must_print(Command::new(&linker).arg("--version"))?,
    };
    let linker_folder = linker.parent().unwrap_or(Path::new(".")).to_owned();
    Ok(Ok(Toolchain { tools, library, linker_folder }))
}

fn find_library(sysroot: &Path) -> anyhow::Result<Result<PathBuf, Missing>> {
    let component = sysroot.join("lib/rustlib/src/rust/library");
    if component.join("core").is_dir() {
        return Ok(Ok(component));
    }
    let Some(given) = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from) else {
        return Ok(Err(Missing(format!(
            "the nightly compiler has no library source: rustup component add rust-src --toolchain nightly, or set \
             {LIBRARY_VARIABLE} to a folder that holds `library/`, or to a .tar.xz of one"
        ))));
    };
    let folder = if given.is_file() { unpack(&given)? } else { given };
    let library = folder.join("library");
    if !library.join("core").is_dir() {
        bail!("{LIBRARY_VARIABLE}: {} holds no library/core", folder.display());
    }
    // Debug information names the real folder, which a link must not hide from the remapping.
    let library = library.canonicalize().with_context(|| format!("cannot resolve {}", library.display()))?;
    Ok(Ok(library))
}

/// Unpacks the archive, once per content.
fn unpack(archive: &Path) -> anyhow::Result<PathBuf> {
    let hash = sha256(&read(archive)?);
    let folder = target().join("toolchain").join(format!("library-{}", hash.get(..16).unwrap_or(&hash)));
    if folder.is_dir() {
        return Ok(folder);
    }
    let partial = folder.with_extension("partial");
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    must_run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&partial))?;
    std::fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn find_linker() -> Option<PathBuf> {
    let built = target().join("toolchain/bin/bpf-linker");
    on_path("bpf-linker").or_else(|| built.is_file().then_some(built))
}

/// Builds bpf-linker against the LLVM that the nightly compiler brings: no other LLVM reads its bitcode for sure.
fn build_linker(sysroot: &Path, rustc: &str) -> anyhow::Result<PathBuf> {
    let major = rustc.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next());
    let major = major.context("rustc -vV names no LLVM version")?;
    let libraries = sysroot.join("lib");
    let llvm = shared_llvm(&libraries, major)?;
    let folder = target().join("toolchain");
    let prefix = folder.join("llvm/lib");
    std::fs::create_dir_all(&prefix).with_context(|| format!("cannot make {}", prefix.display()))?;
    let link = prefix.join("libLLVM.so");
    if link.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(&llvm, &link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    eprintln!("building bpf-linker {LINKER_VERSION} into {}", folder.display());
    must_run(
        cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
            .args(["--features", &format!("llvm-{major}"), "--root"])
            .arg(&folder)
            .env("LLVM_PREFIX", folder.join("llvm"))
            .env("RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", libraries.display()))
            .env("CARGO_TARGET_DIR", folder.join("build")),
    )?;
    Ok(folder.join("bin/bpf-linker"))
}

/// The compiler's own libLLVM: `libLLVM.so.22.1-rust-…`, not the link of an older name beside it.
fn shared_llvm(libraries: &Path, major: &str) -> anyhow::Result<PathBuf> {
    let prefix = format!("libLLVM.so.{major}.");
    for entry in std::fs::read_dir(libraries).with_context(|| format!("cannot list {}", libraries.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            return Ok(entry.path());
        }
    }
    bail!("the nightly compiler has no {prefix}* in {}", libraries.display())
}
