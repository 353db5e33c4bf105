//! The file beside the checked-in object that says what it was built from, and by what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::toolchain::Tools;

/// What the object depends on, relative to the workspace: files, and folders with all that is below them.
const SOURCES: [&str; 5] =
    ["proxy-ebpf/Cargo.toml", "proxy-ebpf/Cargo.lock", "proxy-ebpf/src", "proxy-common/Cargo.toml", "proxy-common/src"];

/// The manifest. All hashes are SHA-256 in hexadecimal digits.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The object's hash.
    pub(crate) object: String,
    /// The hash of every source file.
    pub(crate) sources: BTreeMap<String, String>,
    /// What it was built with.
    pub(crate) tools: Tools,
}

impl Manifest {
    /// Reads the manifest.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = read(file)?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no manifest", file.display()))
    }

    /// Writes the manifest.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What of this manifest the files of the workspace contradict, a line each.
    pub(crate) fn contradictions(&self, workspace: &Path, object: &Path) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        if sha256(&read(object)?) != self.object {
            wrong.push(format!("{} is not the object that the manifest describes", object.display()));
        }
        let now = sources(workspace)?;
        for (file, hash) in &now {
            match self.sources.get(file) {
                None => wrong.push(format!("{file} is new since the object was built")),
                Some(then) if then != hash => wrong.push(format!("{file} has changed since the object was built")),
                Some(_) => {}
            }
        }
        let gone = self.sources.keys().filter(|file| !now.contains_key(*file));
        wrong.extend(gone.map(|file| format!("{file} is gone since the object was built")));
        Ok(wrong)
    }
}

/// The hashes of all sources.
pub(crate) fn sources(workspace: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for source in SOURCES {
        for file in files(&workspace.join(source))? {
            let name = file.strip_prefix(workspace).unwrap_or(&file).display().to_string();
            hashes.insert(name, sha256(&read(&file)?));
        }
    }
    Ok(hashes)
}

/// One hash over all files below a folder, and their names.
pub(crate) fn hash_folder(folder: &Path) -> anyhow::Result<String> {
    let mut list = String::new();
    for file in files(folder)? {
        let name = file.strip_prefix(folder).unwrap_or(&file).display();
        list.push_str(&format!("{name} {}\n", sha256(&read(&file)?)));
    }
    Ok(sha256(list.as_bytes()))
}

/// The SHA-256 of bytes, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file itself, or all files below a folder, in the order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        found.extend(files(&entry?.path())?);
    }
    found.sort();
    Ok(found)
}

pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
