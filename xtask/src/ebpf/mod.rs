//! `cargo xtask build-ebpf`: the kernel program, built the same to the byte wherever it is built.

pub(crate) mod manifest;
mod toolchain;
pub(crate) mod wrapper;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::Outcome;
use crate::command::{must_run, root, target};
use manifest::{Manifest, read, sha256, sources};
use toolchain::Toolchain;
pub(crate) use toolchain::nightly;

const TRIPLE: &str = "bpfel-unknown-none";

/// Builds the object and writes it and its manifest where they are checked in.
pub(crate) fn build() -> anyhow::Result<Outcome> {
    let toolchain = match toolchain::find()? {
        Ok(toolchain) => toolchain,
        Err(missing) => anyhow::bail!("cannot build the kernel program: {missing}"),
    };
    let bytes = read(&compile(&toolchain)?)?;
    let object = object_file();
    std::fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    let manifest = Manifest { object: sha256(&bytes), sources: sources(root())?, tools: toolchain.tools };
    manifest.write(&manifest_file())?;
    println!("wrote {} ({} bytes, sha256 {}) and its manifest", object.display(), bytes.len(), manifest.object);
    Ok(Outcome::Done)
}

/// Checks the object against its manifest, the manifest against the sources, and, where the same tools are at
/// hand, the object against one built now.
pub(crate) fn check() -> anyhow::Result<Outcome> {
    let object = object_file();
    let manifest = Manifest::read(&manifest_file())?;
    let wrong = manifest.contradictions(root(), &object)?;
    if !wrong.is_empty() {
        wrong.iter().for_each(|line| eprintln!("{line}"));
        eprintln!("run `cargo xtask build-ebpf` and commit what it writes");
        return Ok(Outcome::Failed);
    }
    println!("the kernel program's object and {} sources are those of its manifest", manifest.sources.len());
    let toolchain = match toolchain::find()? {
        Ok(toolchain) => toolchain,
        Err(missing) => {
            println!("skipped: not built again, because {missing}");
            return Ok(Outcome::Skipped);
        }
    };
    if toolchain.tools != manifest.tools {
        println!("skipped: not built again, because the object was built with other tools");
        println!("  then: {:?}\n  now:  {:?}", manifest.tools, toolchain.tools);
        return Ok(Outcome::Skipped);
    }
    let rebuilt = compile(&toolchain)?;
    if read(&rebuilt)? != read(&object)? {
        eprintln!("{} differs from {}, built now with the same tools", object.display(), rebuilt.display());
        return Ok(Outcome::Failed);
    }
    println!("built again: the same {} bytes", read(&object)?.len());
    Ok(Outcome::Done)
}

fn object_file() -> PathBuf {
    root().join("proxy-ebpf/sluice.bpf.o")
}

fn manifest_file() -> PathBuf {
    root().join("proxy-ebpf/sluice.bpf.json")
}

/// Builds the object under target/ and returns its place.
fn compile(toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let folder = target().join("ebpf");
    let mut path = vec![toolchain.linker_folder.clone()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    must_run(
        nightly("cargo")
            .current_dir(root().join("proxy-ebpf"))
            .args(["build", "--locked", "--release", "--target", TRIPLE, "-Zbuild-std=core", "--target-dir"])
            .arg(&folder)
            .env("PATH", std::env::join_paths(path)?)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&toolchain.library)?)
            .env("RUSTC_WRAPPER", std::env::current_exe().context("this program does not know its own file")?)
            .env(wrapper::MARK, "1")
            // Cargo's own tests use it to name the library's source; nothing else can when rust-src is missing.
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &toolchain.library),
    )?;
    Ok(folder.join(TRIPLE).join("release/sluice-bpf"))
}

/// The compiler's flags, separated as `CARGO_ENCODED_RUSTFLAGS` wants it. No folder of this machine remains in
/// the object.
fn rustflags(library: &Path) -> anyhow::Result<String> {
    let mut flags: Vec<String> = [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Atomic instructions that fetch (kernel 5.12) came with this version of the instruction set.
        "-Ctarget-cpu=v3",
    ]
    .map(String::from)
    .to_vec();
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(root(), "/sluice");
    for registry in registries()? {
        remap(&registry, "/registry");
    }
    remap(library, "/rust/library");
    Ok(flags.join("\x1f"))
}

/// The folders that cargo unpacks crates into, one per registry.
fn registries() -> anyhow::Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    // On a fresh machine cargo has unpacked nothing yet.
    must_run(nightly("cargo").current_dir(root().join("proxy-ebpf")).args(["fetch", "--quiet", "--locked"]))?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))? {
        found.push(entry?.path());
    }
    Ok(found)
}
