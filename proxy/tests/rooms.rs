//! The rooms of the program look into each other in one direction only.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every room, and the rooms that it may look into.
const ROOMS: &[(&str, &[&str])] = &[
    ("app", &["config", "echo", "gate", "handoff", "keeper", "kernel", "ktls", "logging", "sys"]),
    ("echo", &[]),
    ("gate", &["config", "handoff", "ktls", "logging", "observe", "sys"]),
    ("keeper", &["config", "handoff", "kernel", "ktls", "logging", "sys"]),
    ("observe", &["config", "handoff", "sys"]),
    ("handoff", &["config", "ktls", "sys"]),
    ("kernel", &["config", "handoff", "sys"]),
    ("ktls", &["sys"]),
    ("logging", &["sys"]),
    ("config", &[]),
    ("sys", &[]),
];

/// The rooms of the gate that know neither sockets nor clocks: files or folders below `src/gate`.
const PURE: &[&str] = &[
    "handshake",
    "limit",
    "policy",
    "judge.rs",
    "balance",
    "fleet/queue.rs",
    "fleet/state.rs",
    "proxy_header.rs",
    "refusal.rs",
    "pages.rs",
    "sticky.rs",
    "auth",
    "cookies.rs",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The names that follow `crate::` in a text.
fn looks_into(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names: Vec<String> = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            // `use crate::{a, b::c};`
            Some(group) => names.extend(group.split('}').next().unwrap().split(',').map(|item| name(item.trim()))),
            None => names.push(name(rest)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests")
        || file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
}

#[test]
fn every_room_looks_only_where_it_may() {
    for (room, allowed) in ROOMS {
        let files = sources(&src().join(room));
        assert!(!files.is_empty(), "there is no room {room}");
        for file in files.into_iter().filter(|file| !is_test(file)) {
            for name in looks_into(&fs::read_to_string(&file).unwrap()) {
                let fine = name == *room || allowed.contains(&name.as_str());
                assert!(fine, "{} looks into {name}, which {room} may not", file.display());
            }
        }
    }
}

#[test]
fn there_are_no_other_rooms() {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let mut rooms: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut known: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    rooms.sort_unstable();
    known.sort_unstable();
    assert_eq!(rooms, known);
}

#[test]
fn the_architecture_names_the_rooms_and_their_directions() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = fs::read_to_string(file).unwrap();
    for (room, allowed) in ROOMS {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{room}` |"))).unwrap_or_default();
        let uses = if allowed.is_empty() { "–".into() } else { allowed.join(", ") };
        assert!(row.ends_with(&format!("| {uses} |")), "{room} uses {uses}, but ARCHITECTURE.md has {row:?}");
    }
}

#[test]
fn unsafe_code_is_in_one_room() {
    for file in sources(&src()) {
        let text = fs::read_to_string(&file).unwrap();
        let has = text.lines().map(str::trim_start).any(|line| !line.starts_with("//") && line.contains("unsafe "));
        assert!(!has || file.starts_with(src().join("sys")), "{} has unsafe code", file.display());
    }
}

#[test]
fn aya_is_known_to_one_room() {
    for file in sources(&src()) {
        let text = fs::read_to_string(&file).unwrap();
        let has = text.lines().any(|line| line.contains("aya::") || line.contains("aya_log::"));
        assert!(!has || file.starts_with(src().join("kernel")), "{} knows aya", file.display());
    }
}

#[test]
fn pure_rooms_have_no_sockets_and_no_clocks() {
    for room in PURE {
        for file in sources(&src().join("gate").join(room)).into_iter().filter(|file| !is_test(file)) {
            let text = fs::read_to_string(&file).unwrap();
            for word in ["tokio", "TcpStream", "Instant::now", "SystemTime::now", "std::fs", "rustix"] {
                assert!(!text.contains(word), "{} knows {word}", file.display());
            }
        }
    }
}
