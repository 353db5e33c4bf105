#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

const CCS: u8 = 20;

fn ticket(length: usize) -> Vec<u8> {
    let [.., a, b, c] = (length as u32).to_be_bytes();
    [vec![NEW_SESSION_TICKET, a, b, c], vec![7; length]].concat()
}

/// What the last piece of a record's content asks for, given in pieces of this size; every earlier piece must ask for
/// nothing.
fn in_pieces(version: Version, role: Role, kind: u8, bytes: &[u8], size: usize) -> Asked {
    let mut post = Post::default();
    let mut asked = Asked::Nothing;
    for piece in bytes.chunks(size) {
        assert_eq!(asked, Asked::Nothing, "before the end of {bytes:?} in pieces of {size}");
        asked = post.take(version, role, kind, piece);
    }
    asked
}

fn every_cut(version: Version, role: Role, kind: u8, bytes: &[u8], expected: Asked) {
    for size in 1..=bytes.len() {
        // Small pieces of long content are more records than anybody may send in a row.
        if bytes.len().div_ceil(size) <= usize::from(PATIENCE) {
            assert_eq!(in_pieces(version, role, kind, bytes, size), expected, "{bytes:?} in pieces of {size}");
        }
    }
}

#[test]
fn close_notify_is_the_end() {
    for version in Version::ALL {
        for level in [WARNING, FATAL] {
            every_cut(version, Role::Server, ALERT, &[level, 0], Asked::Close);
        }
    }
}

#[test]
fn a_warning_is_one_in_tls_1_2_only() {
    every_cut(Version::Tls12, Role::Client, ALERT, &[WARNING, NO_RENEGOTIATION], Asked::Nothing);
    every_cut(Version::Tls13, Role::Client, ALERT, &[WARNING, 40], Asked::Alert(40));
    every_cut(Version::Tls13, Role::Client, ALERT, &[WARNING, USER_CANCELED], Asked::Nothing);
    for version in Version::ALL {
        every_cut(version, Role::Client, ALERT, &[FATAL, BAD_RECORD_MAC], Asked::Alert(BAD_RECORD_MAC));
    }
}

#[test]
fn an_alert_has_two_bytes() {
    for bytes in [&[][..], &[1, 0, 1], &[1, 0, 1, 0]] {
        let asked = Post::default().take(Version::Tls13, Role::Server, ALERT, bytes);
        assert_eq!(asked, Asked::Broken(DECODE_ERROR), "{bytes:?}");
    }
}

#[test]
fn key_update_asks_for_new_keys() {
    for role in [Role::Server, Role::Client] {
        every_cut(Version::Tls13, role, HANDSHAKE, &[24, 0, 0, 1, 0], Asked::KeyUpdate { answer: false });
        every_cut(Version::Tls13, role, HANDSHAKE, &[24, 0, 0, 1, 1], Asked::KeyUpdate { answer: true });
        every_cut(Version::Tls13, role, HANDSHAKE, &[24, 0, 0, 1, 2], Asked::Broken(ILLEGAL_PARAMETER));
    }
}

#[test]
fn key_update_ends_its_record() {
    for behind in [&[24][..], &[24, 0, 0, 1, 0], &[4, 0, 0, 1, 9]] {
        let bytes = [&[24, 0, 0, 1, 0][..], behind].concat();
        let asked = Post::default().take(Version::Tls13, Role::Client, HANDSHAKE, &bytes);
        assert_eq!(asked, Asked::Broken(UNEXPECTED_MESSAGE));
    }
}

#[test]
fn tickets_of_a_backend_are_skipped() {
    for length in [0, 1, 200, 5_000] {
        every_cut(Version::Tls13, Role::Client, HANDSHAKE, &ticket(length), Asked::Nothing);
        let two = [ticket(length), ticket(3), vec![24, 0, 0, 1, 0]].concat();
        every_cut(Version::Tls13, Role::Client, HANDSHAKE, &two, Asked::KeyUpdate { answer: false });
    }
}

#[test]
fn what_has_no_place_is_broken() {
    let broken = Asked::Broken(UNEXPECTED_MESSAGE);
    let take = |version, role, kind, bytes: &[u8]| Post::default().take(version, role, kind, bytes);
    assert_eq!(take(Version::Tls13, Role::Server, HANDSHAKE, &ticket(9)), broken, "a client sends no ticket");
    assert_eq!(take(Version::Tls12, Role::Client, HANDSHAKE, &ticket(9)), broken, "nor comes one so late in TLS 1.2");
    assert_eq!(take(Version::Tls13, Role::Server, HANDSHAKE, &[1, 0, 0, 0]), broken, "ClientHello");
    assert_eq!(take(Version::Tls13, Role::Client, HANDSHAKE, &[13, 0, 0, 2]), broken, "CertificateRequest");
    assert_eq!(take(Version::Tls13, Role::Client, HANDSHAKE, &[4, 255, 255, 255]), broken, "16 MiB of ticket");
    assert_eq!(take(Version::Tls12, Role::Server, HANDSHAKE, &[24, 0, 0, 1, 0]), broken, "KeyUpdate in TLS 1.2");
    assert_eq!(take(Version::Tls13, Role::Server, HANDSHAKE, &[]), broken, "an empty fragment");
    for kind in [0, CCS, 24, 25, 255] {
        for version in Version::ALL {
            assert_eq!(take(version, Role::Server, kind, &[1]), broken, "record type {kind}");
        }
    }
}

#[test]
fn renegotiation_is_told() {
    every_cut(Version::Tls12, Role::Client, HANDSHAKE, &[0, 0, 0, 0], Asked::Renegotiation);
    let hello = [vec![1, 0, 1, 44], vec![9; 300]].concat();
    let asked = Post::default().take(Version::Tls12, Role::Server, HANDSHAKE, &hello);
    assert_eq!(asked, Asked::Renegotiation);
}

#[test]
fn nothing_comes_inside_of_a_message() {
    let mut post = Post::default();
    assert_eq!(post.take(Version::Tls13, Role::Client, HANDSHAKE, &[4, 0]), Asked::Nothing);
    assert_eq!(post.clone().data(), Err(UNEXPECTED_MESSAGE));
    assert_eq!(post.take(Version::Tls13, Role::Client, ALERT, &[1, 0]), Asked::Broken(UNEXPECTED_MESSAGE));
    let mut post = Post::default();
    assert_eq!(post.take(Version::Tls13, Role::Client, ALERT, &[1]), Asked::Nothing);
    assert_eq!(post.clone().data(), Err(UNEXPECTED_MESSAGE));
    assert_eq!(post.take(Version::Tls13, Role::Client, HANDSHAKE, &[4]), Asked::Broken(UNEXPECTED_MESSAGE));
}

#[test]
fn nobody_keeps_us_busy() {
    let mut post = Post::default();
    for round in 0..1000 {
        if round % usize::from(PATIENCE) == 0 {
            post.data().unwrap();
        }
        assert_eq!(post.take(Version::Tls13, Role::Client, HANDSHAKE, &ticket(2)), Asked::Nothing);
    }
    post.data().unwrap();
    let asked: Vec<_> = (0..40).map(|_| post.take(Version::Tls13, Role::Client, HANDSHAKE, &ticket(2))).collect();
    assert!(asked.contains(&Asked::Broken(UNEXPECTED_MESSAGE)));
}

proptest! {
    #[test]
    fn any_content_has_a_verdict_and_no_cut_changes_it(
        tls13: bool,
        client: bool,
        kind in prop_oneof![Just(ALERT), Just(HANDSHAKE), any::<u8>()],
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..40),
            proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(4), Just(24)], 1..40),
        ],
        cut in 1usize..40,
    ) {
        let version = if tls13 { Version::Tls13 } else { Version::Tls12 };
        let role = if client { Role::Client } else { Role::Server };
        let (mut whole, mut pieces) = (Post::default(), Post::default());
        let one = whole.take(version, role, kind, &bytes);
        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
        let first = pieces.take(version, role, kind, head);
        // A record holds one alert (RFC 8446 §5.1): a cut behind its second byte makes two of one that was broken.
        let one_alert_more = kind == ALERT && head.len() == 2;
        // A cut may only turn "broken by what comes behind" into the verdict on what came first.
        if first == Asked::Nothing && !tail.is_empty() && !one_alert_more {
            prop_assert_eq!(pieces.take(version, role, kind, tail), one);
        } else if tail.is_empty() {
            prop_assert_eq!(first, one);
        }
    }
}
