//! The guest's disk: programs under test and what they need of the system, at the same paths as here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command::{must_print, must_run, on_path, root};

/// Programs that tests run. One that is missing here is missing in the guest, and its tests report themselves as
/// skipped.
const PROGRAMS: [&str; 10] =
    ["bash", "curl", "ip", "node", "openssl", "prlimit", "setpriv", "tc", "timeout", "unshare"];

/// Sources that tests read when they run, below the workspace.
const SOURCES: [&str; 3] = ["docs", "proxy", "tests"];

/// Files that programs read, if they exist.
const FILES: [&str; 3] = ["/etc/services", "/etc/ssl/openssl.cnf", "/etc/ssl/certs/ca-certificates.crt"];

/// Room on the disk for what tests write.
const SPARE_MIB: u64 = 512;

/// A folder that becomes a disk.
pub(super) struct Root {
    folder: PathBuf,
    /// Programs and libraries whose libraries the guest needs.
    linked: Vec<PathBuf>,
}

impl Root {
    /// An empty one, with the skeleton of a system in it.
    pub(super) fn new(folder: PathBuf, busybox: &Path) -> anyhow::Result<Self> {
        let _of_the_last_run = std::fs::remove_dir_all(&folder);
        let this = Self { folder, linked: Vec::new() };
        for folder in
            ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "vm/bin"]
        {
            this.make(folder)?;
        }
        std::fs::set_permissions(this.folder.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), this.folder.join(name))?;
        }
        this.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")?;
        this.write("etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
        this.write("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n")?;
        this.copy_to(busybox, Path::new("/usr/bin/busybox"))?;
        for applet in must_print(Command::new(busybox).arg("--list"))?.lines() {
            symlink("/usr/bin/busybox", this.folder.join("vm/bin").join(applet))?;
        }
        // The kernel calls modprobe by this name; scripts call sh by that one.
        symlink("/usr/bin/busybox", this.folder.join("usr/sbin/modprobe"))?;
        symlink("/usr/bin/busybox", this.folder.join("usr/bin/sh"))?;
        Ok(this)
    }

    /// Adds what the tests need of this machine's system.
    pub(super) fn system(&mut self, tools: &Path) -> anyhow::Result<()> {
        for program in PROGRAMS {
            if let Some(file) = on_path(program) {
                self.program(&file, &Path::new("/usr/bin").join(program))?;
            }
        }
        for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
            self.copy_to(file, file)?;
        }
        for folder in SOURCES {
            self.folder(&root().join(folder))?;
        }
        self.folder(tools)?;
        self.python(&tools.join("venv/bin/python"))
    }

    /// The interpreter that this one really is, and its library.
    fn python(&mut self, python: &Path) -> anyhow::Result<()> {
        const SCRIPT: &str = "import os, sys, sysconfig\n\
            print(os.path.realpath(sys.executable), *{sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib')}, sep='\\n')";
        let Ok(answer) = must_print(Command::new(python).args(["-c", SCRIPT])) else { return Ok(()) };
        let mut lines = answer.lines().map(Path::new);
        let interpreter = lines.next().context("python prints no path of its own")?;
        self.program(interpreter, interpreter)?;
        symlink(interpreter, self.folder.join("usr/bin/python3"))?;
        lines.try_for_each(|library| self.python_library(library))
    }

    /// Copies a library without what no program needs: its tests, its installers and what was installed into it.
    fn python_library(&mut self, library: &Path) -> anyhow::Result<()> {
        const NOT: [&str; 8] =
            ["site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3", "__pycache__"];
        for entry in std::fs::read_dir(library).with_context(|| format!("cannot list {}", library.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if NOT.contains(&&*name) || name.starts_with("config-") {
                continue;
            }
            if path.is_dir() {
                self.python_library(&path)?;
            } else {
                if name.ends_with(".so") {
                    self.linked.push(path.clone());
                }
                self.copy_to(&path, &path)?;
            }
        }
        Ok(())
    }

    /// Adds a program under a path, without the debugging information that it may have.
    pub(super) fn program(&mut self, file: &Path, path: &Path) -> anyhow::Result<()> {
        self.copy_to(&file.canonicalize()?, path)?;
        self.linked.push(file.to_owned());
        Ok(())
    }

    /// Adds a program at its own path, without its debugging information: that would be most of the disk.
    pub(super) fn stripped(&mut self, program: &Path) -> anyhow::Result<()> {
        let to = self.place(program)?;
        must_run(Command::new("strip").args(["--strip-debug", "-o"]).arg(to).arg(program))?;
        self.linked.push(program.to_owned());
        Ok(())
    }

    /// Adds a folder at its own path, as it is.
    fn folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        let to = self.place(folder)?;
        must_run(Command::new("cp").args(["-a", "--"]).arg(folder).arg(to))
    }

    /// Writes a file.
    pub(super) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let to = self.place(&Path::new("/").join(path))?;
        std::fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn make(&self, folder: &str) -> anyhow::Result<()> {
        let folder = self.folder.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))
    }

    /// Where the guest's file of this path is here; its folder is made.
    fn place(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let to = self.folder.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(to)
    }

    fn copy_to(&self, file: &Path, path: &Path) -> anyhow::Result<()> {
        let to = self.place(path)?;
        std::fs::copy(file, &to).with_context(|| format!("cannot copy {} to {}", file.display(), to.display()))?;
        Ok(())
    }

    /// Adds the libraries, and makes the disk.
    pub(super) fn finish(self, disk: &Path) -> anyhow::Result<()> {
        let mut libraries = BTreeSet::new();
        for chunk in self.linked.chunks(64) {
            libraries.extend(libraries_of(chunk)?);
        }
        for library in &libraries {
            self.copy_to(library, library)?;
        }
        let kib = must_print(Command::new("du").args(["-sk"]).arg(&self.folder))?;
        let kib: u64 = kib.split_whitespace().next().and_then(|kib| kib.parse().ok()).context("du prints no size")?;
        let mib = kib / 1024 * 5 / 4 + SPARE_MIB;
        let _of_the_last_run = std::fs::remove_file(disk);
        let mut mke2fs = Command::new("mke2fs");
        // No journal: the disk is thrown away.
        mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(&self.folder).arg(disk);
        must_run(mke2fs.arg(format!("{mib}M")))
    }
}

/// What the dynamic loader would load for these programs. Static ones need nothing.
fn libraries_of(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").args(programs).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing here: {}", missing.trim());
    }
    let path = |line: &str| {
        let line = line.split(" => ").last()?.trim();
        line.split(" (").next().filter(|path| path.starts_with('/') && !path.ends_with(':')).map(PathBuf::from)
    };
    Ok(text.lines().filter_map(path).collect())
}

/// Quotes a word for the shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Lines that set variables, for the shell.
pub(super) fn exports(variables: &[(&str, String)]) -> String {
    variables.iter().fold(String::new(), |mut text, (name, value)| {
        let _never_fails = writeln!(text, "export {name}={}", quoted(value));
        text
    })
}
