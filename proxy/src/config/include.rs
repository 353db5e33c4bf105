//! Which files `include` names.

use std::io;
use std::path::{Path, PathBuf};

/// The files of these patterns, in the patterns' order and, of one pattern, by name. One that two of them name comes
/// once, where it came first.
///
/// # Errors
/// A folder that cannot be read, or a `*` in a folder's name.
pub(super) fn files(patterns: &[String], folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut all: Vec<PathBuf> = Vec::new();
    for pattern in patterns {
        for file in of_one(pattern, folder)? {
            if !all.contains(&file) {
                all.push(file);
            }
        }
    }
    Ok(all)
}

fn of_one(pattern: &str, folder: &Path) -> Result<Vec<PathBuf>, String> {
    let path = folder.join(pattern);
    let (Some(parent), Some(last)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(format!("include has {pattern:?}, which names no file"));
    };
    if pattern.rsplit_once('/').is_some_and(|(folders, _)| folders.contains('*')) {
        return Err(format!("include has {pattern:?}: a * stands for a part of a file's name, not of a folder's"));
    }
    if !last.contains('*') {
        return Ok(vec![path]);
    }
    // The folder of a bare name is this one.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let mut files = matching(parent, last)
        .map_err(|reason| format!("include has {pattern:?}: cannot read {}: {reason}", parent.display()))?;
    files.sort();
    Ok(files)
}

/// What is in a folder with a name that fits. Whatever begins with a dot is for nobody. What cannot be read (a folder, a link
/// to nowhere) is among them, so that whoever reads it says so.
fn matching(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // What is no UTF-8 in a name fits a `*` only.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if fits(pattern, &name) && !name.starts_with('.') {
            files.push(path);
        }
    }
    Ok(files)
}

/// Whether a name fits a pattern in which `*` is any number of characters.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, behind)) = left.split_once(part) else { return false };
        left = behind;
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn names_fit_patterns() {
        for (pattern, name, is) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("*", "anything", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("a.toml", "a.toml", true),
        ] {
            assert_eq!(fits(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn what_fits_and_is_no_file_is_among_them() {
        let folder = std::env::temp_dir().join(format!("sluice-include-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("b.toml")).unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.join("a.toml")).unwrap();
        let latin = folder.join(std::ffi::OsStr::from_bytes(b"c\xfc.toml"));
        std::fs::write(&latin, "").unwrap();
        let found = files(&["*.toml".into()], &folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found.unwrap(), [folder.join("a.toml"), folder.join("b.toml"), latin]);
    }

    #[test]
    fn the_folder_of_a_bare_name_is_this_one() {
        let found = files(&["Cargo*.toml".into()], Path::new("")).unwrap();
        assert_eq!(found, [PathBuf::from("./Cargo.toml")]);
    }

    #[test]
    fn a_star_is_for_the_last_part_only() {
        let error = files(&["conf.d/*/a.toml".into()], Path::new("/nowhere")).unwrap_err();
        assert!(error.contains("not of a folder's"), "{error}");
        let error = files(&["conf.d/*".into()], Path::new("/nowhere")).unwrap_err();
        assert!(error.contains("cannot read /nowhere/conf.d"), "{error}");
        let named = files(&["b".into(), "a".into(), "b".into()], Path::new("/nowhere")).unwrap();
        assert_eq!(named, [PathBuf::from("/nowhere/b"), "/nowhere/a".into()]);
    }
}
