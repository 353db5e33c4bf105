//! The guest's disk: the programs under test and what they need of the system, at the same paths as here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::programs::Programs;
use super::tree::Tree;
use crate::command::{must_print, on_path, root};
use crate::test::variables;

/// Programs that tests run. One that is missing here is missing there, and its tests report themselves as skipped: so
/// do those with Node, which would be a fifth of all that an emulated processor does for a run.
const PROGRAMS: [&str; 9] = ["bash", "curl", "ip", "openssl", "prlimit", "setpriv", "tc", "timeout", "unshare"];

/// Files that those programs read.
const FILES: [&str; 2] = ["/etc/ssl/openssl.cnf", "/etc/ssl/certs/ca-certificates.crt"];

/// Folders of the workspace that tests read when they run.
const SOURCES: [&str; 3] = ["docs", "proxy", "tests"];

/// The rooms of the library whose unit tests meet the kernel.
const ROOMS: &str = "keeper:: kernel:: ktls:: sys::";

/// The share of its bytes that a test sends there: an emulated processor is about ten times slower.
const SHARE: u32 = 16;

/// Test threads in each suite.
const THREADS: u32 = 6;

/// What the guest is to do.
pub(super) enum Task {
    /// Run the tests that have this in their name.
    Tests {
        /// Empty: all of them.
        filter: String,
    },
    /// Run a shell command.
    Command(String),
}

/// Makes the disk.
pub(super) fn make(
    folder: &Path,
    busybox: &Path,
    programs: &Programs,
    tools: &Path,
    task: &Task,
    disk: &Path,
) -> anyhow::Result<()> {
    let mut tree = Tree::new(folder.to_owned())?;
    skeleton(&tree, busybox)?;
    system(&mut tree)?;
    tree.copy_folder(tools)?;
    python(&mut tree, &tools.join("venv/bin/python"))?;
    for folder in SOURCES {
        tree.copy_folder(&root().join(folder))?;
    }
    tree.stripped(&programs.sluice)?;
    for suite in &programs.suites {
        tree.stripped(&suite.path)?;
    }
    instructions(&tree, programs, tools, task)?;
    tree.into_disk(disk)
}

/// Makes a disk with these programs only, for one command.
pub(super) fn make_small(
    folder: &Path,
    busybox: &Path,
    programs: &[PathBuf],
    command: &str,
    disk: &Path,
) -> anyhow::Result<()> {
    let mut tree = Tree::new(folder.to_owned())?;
    skeleton(&tree, busybox)?;
    programs.iter().try_for_each(|program| tree.stripped(program))?;
    write_instructions(&tree, &[("SLUICE_VM_ROOT", "/".to_owned())], Some(command))?;
    tree.into_disk(disk)
}

/// What every system has.
fn skeleton(tree: &Tree, busybox: &Path) -> anyhow::Result<()> {
    for folder in ["dev", "etc", "proc", "root", "run", "sys", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "vm/bin"]
    {
        tree.make(folder, 0o755)?;
    }
    tree.make("tmp", 0o1777)?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.link(Path::new(name), &Path::new("usr").join(name))?;
    }
    tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")?;
    tree.write("etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    tree.write("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n")?;
    let program = Path::new("/usr/bin/busybox");
    tree.copy(busybox, program)?;
    for applet in must_print(Command::new(busybox).arg("--list"))?.lines() {
        tree.link(&Path::new("/vm/bin").join(applet), program)?;
    }
    // The kernel calls modprobe by this name; scripts call sh by that one.
    tree.link(Path::new("/sbin/modprobe"), program)?;
    tree.link(Path::new("/bin/sh"), program)
}

/// What tests run of this machine's programs.
fn system(tree: &mut Tree) -> anyhow::Result<()> {
    for program in PROGRAMS {
        if let Some(file) = on_path(program) {
            tree.program(&file.canonicalize()?, &Path::new("/usr/bin").join(program))?;
        }
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
        tree.copy(file, file)?;
    }
    Ok(())
}

/// The interpreter that this one really is, and its library.
fn python(tree: &mut Tree, python: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = "import os, sys, sysconfig\n\
        folders = {sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib')}\n\
        print(os.path.realpath(sys.executable), *folders, sep='\\n')";
    let Ok(answer) = must_print(Command::new(python).args(["-c", SCRIPT])) else { return Ok(()) };
    let mut lines = answer.lines().map(Path::new);
    let interpreter = lines.next().context("python prints no path of its own")?;
    tree.program(interpreter, interpreter)?;
    // A virtual environment may know it by another of its names.
    for name in ["python", "python3"] {
        tree.link(&interpreter.with_file_name(name), interpreter)?;
        tree.link(&Path::new("/usr/bin").join(name), interpreter)?;
    }
    lines.try_for_each(|library| python_library(tree, library))
}

/// Adds a library without what no program needs: its tests, its installers, and what was installed into it.
fn python_library(tree: &mut Tree, library: &Path) -> anyhow::Result<()> {
    const NOT: [&str; 7] = ["site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3"];
    for entry in std::fs::read_dir(library).with_context(|| format!("cannot list {}", library.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if NOT.contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            python_library(tree, &path)?;
        } else if name.ends_with(".so") {
            tree.program(&path, &path)?;
        } else if name.ends_with(".py") || (name.ends_with(".pyc") && !name.contains(".opt-")) {
            tree.copy(&path, &path)?;
        }
    }
    Ok(())
}

/// What `init.sh` reads.
fn instructions(tree: &Tree, programs: &Programs, tools: &Path, task: &Task) -> anyhow::Result<()> {
    let path = |path: &PathBuf| path.display().to_string();
    let (filter, command) = match task {
        Task::Tests { filter } => (filter.as_str(), None),
        Task::Command(command) => ("", Some(command.as_str())),
    };
    let variables = [
        ("SLUICE_VM_ROOT", root().display().to_string()),
        ("SLUICE_VM_FILTER", filter.to_owned()),
        ("SLUICE_VM_THREADS", THREADS.to_string()),
        (variables::BINARY, path(&programs.sluice)),
        (variables::TOOLS, tools.display().to_string()),
        (variables::SHARE, SHARE.to_string()),
    ];
    let suites = programs.suites.iter().map(|suite| {
        let rooms = if suite.is_library() { ROOMS } else { "" };
        format!("{}\t{}\t{}\t{rooms}\n", path(&suite.package), path(&suite.path), suite.source)
    });
    tree.write("vm/suites", &suites.collect::<String>())?;
    write_instructions(tree, &variables, command)
}

fn write_instructions(tree: &Tree, variables: &[(&str, String)], command: Option<&str>) -> anyhow::Result<()> {
    let environment = variables.iter().fold(String::new(), |mut text, (name, value)| {
        let _never_fails = writeln!(text, "export {name}={}", quoted(value));
        text
    });
    tree.write("vm/init.sh", include_str!("init.sh"))?;
    tree.write("vm/environment", &environment)?;
    command.map_or(Ok(()), |command| tree.write("vm/exec", command))
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
