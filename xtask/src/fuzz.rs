//! `cargo xtask fuzz`: every fuzz target for a while, each from its seeds.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::Outcome;
use crate::command::{must_print, must_run, on_path, root, target};
use crate::ebpf::nightly;

/// The version of cargo-fuzz that is installed where there is none.
const VERSION: &str = "0.13.2";

/// As long as any request that is taken, so that what is found is found with short ones.
const LONGEST_INPUT: usize = 4096;

/// How long one input may take, in seconds: all of them take less than a millisecond.
const PATIENCE: u32 = 10;

/// What to fuzz.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// One target; else all of them, one after the other.
    target: Option<String>,
}

/// Builds and runs them. What a target finds goes to fuzz/artifacts, and what it learns to fuzz/corpus.
///
/// # Errors
/// A target crashes, hangs or does not build.
pub(crate) fn run(arguments: FuzzArgs) -> anyhow::Result<Outcome> {
    if must_print(nightly("rustc").arg("-vV")).is_err() {
        eprintln!("there is no nightly compiler: rustup toolchain install nightly --profile minimal");
        return Ok(Outcome::Skipped);
    }
    let cargo_fuzz = find()?;
    let fuzz = |task: &str| {
        // cargo-fuzz calls the cargo of its environment, which must be the nightly one.
        let mut command = nightly(&cargo_fuzz.display().to_string());
        command.current_dir(root()).args(["fuzz", task, "--target-dir"]).arg(target().join("fuzz"));
        command
    };
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| arguments.target.as_ref().is_none_or(|one| one == *name)).collect();
    ensure!(!chosen.is_empty(), "there is no such target; there are: {}", all.join(", "));
    must_run(&mut fuzz("build"))?;
    for name in chosen {
        eprintln!("fuzzing {name} for {} s", arguments.seconds);
        let learned = root().join("fuzz/corpus").join(name);
        std::fs::create_dir_all(&learned).with_context(|| format!("cannot make {}", learned.display()))?;
        must_run(
            fuzz("run")
                .arg(name)
                .arg(learned)
                .arg(root().join("fuzz/seeds").join(name))
                .arg("--")
                .arg(format!("-max_total_time={}", arguments.seconds))
                .arg(format!("-max_len={LONGEST_INPUT}"))
                .arg(format!("-timeout={PATIENCE}"))
                .args(["-print_final_stats=1", "-verbosity=0"]),
        )?;
    }
    Ok(Outcome::Done)
}

/// The targets, by the names of their files.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// cargo-fuzz, installed if need be.
fn find() -> anyhow::Result<PathBuf> {
    let tools = target().join("tools");
    let own = tools.join("bin/cargo-fuzz");
    if let Some(found) = on_path("cargo-fuzz").or_else(|| own.is_file().then_some(own.clone())) {
        return Ok(found);
    }
    eprintln!("installing cargo-fuzz {VERSION} into {}", tools.display());
    let mut install = Command::new("cargo");
    install.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--quiet", "--root"]).arg(&tools);
    must_run(&mut install)?;
    Ok(own)
}
