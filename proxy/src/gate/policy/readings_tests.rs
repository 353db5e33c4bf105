#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::gate::handshake::PlainPath;

fn readings(sent: &str) -> Readings {
    Readings::of(sent, PlainPath::read(sent).expect(sent).bytes())
}

/// Whether a path may be read as another one, in whatever case.
fn may_be(sent: &str, path: &str) -> bool {
    let readings = readings(sent);
    readings.anywhere || readings.paths.iter().any(|reading| reading.eq_ignore_ascii_case(path.as_bytes()))
}

#[test]
fn other_spellings_are_seen_through() {
    for sent in [
        "/admin",
        "/%61dmin",
        "/ADMIN",
        "/admin;x",
        "/admin;jsessionid=1",
        "/;/admin",
        "/;x/admin",
        "/%3b/admin",
        "/admin%3Bx",
        "/\\admin",
        "/%5cadmin",
        "/admin%5c",
        "/%2561dmin",
        "/%252561dmin",
        "/%25%36%31dmin",
        "/admin%253bx",
        "/admin%2f",
        "/%2fadmin",
        "/%252fadmin",
        "/%25u0061dmin",
        "/%c0%afadmin",
        "/%c1%a1dmin",
        "/%e0%80%afadmin",
        "/%ef%bd%81dmin",
        "/%EF%BC%8Fadmin",
        "/adm%C4%B1n",
        "/adm%C4%B0n",
        "/ADM%C4%B0N",
        "/adm%25C4%25B1n",
        "/admin.",
        "/admin%20",
        "/admin%20.",
        "/%20admin",
        "/admin/",
        "/admin%3fx",
        "/admin%23x",
        "/admin%253fx",
        "/admin::$DATA",
        "/x/%252e%252e/admin",
        "/.%20./admin",
        "/admin%2500.css",
    ] {
        assert!(may_be(sent, "/admin"), "{sent}: {:?}", texts(sent));
    }
}

fn texts(sent: &str) -> Vec<String> {
    readings(sent).paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[test]
fn a_path_is_also_read_as_it_was_sent() {
    for (sent, path) in [
        ("/admin/%70ublic", "/admin/%70ublic"),
        ("/admin//public", "/admin//public"),
        ("/%61dmin//public", "/admin//public"),
        ("/%61dmin//public", "/%61dmin/public"),
        ("/a%20b//c%2fd", "/a b//c%2fd"),
    ] {
        assert!(texts(sent).contains(&path.to_owned()), "{sent}: {:?}", texts(sent));
    }
}

#[test]
fn ordinary_paths_have_one_reading() {
    for sent in ["/", "/admin", "/a/b.js", "/socket.io/", "/caf%C3%A9", "/a%20b", "/@scope%40x", "/x~y_z-1"] {
        let readings = readings(sent);
        assert!(!readings.anywhere, "{sent}");
        let others = readings.paths.iter().filter(|path| !path.ends_with(b"/") && !sent.ends_with('/')).count();
        assert!(others <= 1, "{sent}: {:?}", texts(sent));
    }
    for (sent, path) in [
        ("/app;jsessionid=1", "/admin"),
        ("/job/x/job/feature%252Fadmin", "/admin"),
        ("/redirect/https%253A%252F%252Fa.test%252Fadmin", "/admin"),
        ("/administrator", "/admin"),
        ("/admin.json", "/admin"),
        ("/x/admin", "/admin"),
        ("/%C0bc/x", "/abc/x"),
    ] {
        assert!(!may_be(sent, path), "{sent}: {:?}", texts(sent));
    }
}

#[test]
fn a_path_made_to_confuse_costs_little() {
    let path = format!("/{}", "a%255c;b%253f..%20%2523c/".repeat(600));
    let readings = readings(&path.replace("..", "x."));
    assert!(readings.anywhere && readings.paths.len() <= MOST);
    assert!(readings.paths.iter().map(Vec::len).sum::<usize>() <= MOST_BYTES + 2 * path.len());
}

/// What hides a path from a strict reader, at some place in it.
fn disguise(path: &str, (kind, at): (u8, usize)) -> String {
    let mut chars: Vec<String> = path.chars().map(String::from).collect();
    let at = 1 + at % (chars.len() - 1).max(1);
    let Some(one) = chars.get_mut(at) else { return path.to_owned() };
    let ascii = one.bytes().next().filter(|_| one.len() == 1);
    match (kind, ascii) {
        (0, Some(byte)) => *one = format!("%{byte:02X}"),
        (1, _) => *one = one.to_ascii_uppercase(),
        (2, Some(b'/')) => *one = "\\".into(),
        (3, Some(b'/')) => *one = ";x/".into(),
        (4, Some(b'/')) => *one = "//".into(),
        (5, Some(b'/')) => *one = "/;/".into(),
        (6, Some(byte)) if byte < 0x80 => *one = format!("%{:02x}%{:02x}", 0xC0 | byte >> 6, 0x80 | byte & 0x3F),
        (7, Some(byte @ b'a'..=b'z')) => *one = format!("%ef%bd%{:02x}", byte + 0x20),
        (8, _) => return format!("{path};p=1"),
        (9, _) => return format!("{path}."),
        (10, _) => return format!("{path}%20"),
        (11, _) => return format!("{path}/"),
        (12, _) => return format!("{path}?x").replace('?', "%3f"),
        (13, _) => return format!("/;{path}"),
        (14, _) => return format!("/{path}"),
        _ => {}
    }
    chars.concat()
}

proptest! {
    /// However a path is disguised, and disguised again, it is found.
    #[test]
    fn no_disguise_helps(disguises in prop::collection::vec((0..15_u8, any::<usize>()), 0..7)) {
        let sent = disguises.into_iter().fold("/admin/users".to_owned(), |path, one| disguise(&path, one));
        // What has no plain form is refused before.
        if PlainPath::read(&sent).is_some() {
            prop_assert!(may_be(&sent, "/admin/users"), "{}: {:?}", sent, texts(&sent));
        }
    }

    #[test]
    fn no_path_panics_or_costs_much(path in "[/%;\\\\.? a0-9A-F\u{ff41}]{0,200}") {
        if let Some(plain) = PlainPath::read(&format!("/{path}")) {
            let readings = Readings::of(&format!("/{path}"), plain.bytes());
            prop_assert!(readings.paths.len() <= MOST);
            prop_assert_eq!(&readings.paths[0], plain.bytes());
        }
    }
}
