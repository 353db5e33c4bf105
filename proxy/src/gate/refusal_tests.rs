#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;

use super::*;

/// RFC 9209 §2.3.
const ERRORS: [&str; 32] = [
    "dns_timeout",
    "dns_error",
    "destination_not_found",
    "destination_unavailable",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_read_timeout",
    "connection_write_timeout",
    "connection_limit_reached",
    "tls_protocol_error",
    "tls_certificate_error",
    "tls_alert_received",
    "http_request_error",
    "http_request_denied",
    "http_response_incomplete",
    "http_response_header_section_size",
    "http_response_header_size",
    "http_response_body_size",
    "http_response_trailer_section_size",
    "http_response_trailer_size",
    "http_response_transfer_coding",
    "http_response_content_coding",
    "http_response_timeout",
    "http_upgrade_failed",
    "http_protocol_error",
    "proxy_internal_response",
    "proxy_internal_error",
    "proxy_configuration_error",
    "proxy_loop_detected",
];

#[test]
fn every_refusal_has_an_error_that_rfc_9209_knows() {
    for refusal in Refusal::ALL {
        assert!(ERRORS.contains(&refusal.error()), "{refusal:?}");
        assert!(refusal.status().is_client_error() || refusal.status().is_server_error(), "{refusal:?}");
    }
}

#[test]
fn reasons_are_different_tokens_and_texts_plain() {
    let mut seen = HashSet::new();
    for refusal in Refusal::ALL {
        assert!(seen.insert(refusal.reason()), "{refusal:?}");
        assert!(refusal.reason().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(refusal.text().bytes().all(|b| (b' '..=b'~').contains(&b)), "{refusal:?}");
    }
}

#[test]
fn places_of_the_counters_are_fixed_different_and_inside() {
    let labels = labels();
    assert_eq!(labels.len(), Refusal::ALL.len() + Outcome::OTHERS.len(), "a place is outside of the counters");
    let places: HashSet<usize> = labels.iter().map(|(place, _, _)| *place).collect();
    assert_eq!(places.len(), labels.len(), "two outcomes share a place");
    // Spot checks: a change of these numbers would make old counters mean something else.
    assert_eq!(Outcome::Upgraded.index(), 0);
    assert_eq!(Outcome::Refused(Refusal::Malformed).index(), 8);
    assert_eq!(Outcome::Refused(Refusal::Internal).index(), 42);
}

#[test]
fn the_answer_says_it_in_both_headers() {
    let answer = Refusal::OriginDenied.answer(ConnId(0x2a), 0, &Pages::default());
    assert_eq!(answer.status(), 403);
    assert_eq!(
        answer.headers()[PROXY_STATUS],
        "sluice; error=http_request_denied; details=\"pages of this origin may not connect here\""
    );
    assert_eq!(answer.headers()[PROXY_WEBSOCKET_STATUS], "rejected; reason=origin-denied; conn=\"000000000000002a\"");
    assert_eq!(answer.headers()[CONNECTION], "close");
}

#[test]
fn an_upgrade_is_asked_for_with_everything_that_it_needs() {
    let answer = Refusal::Version.answer(ConnId(1), 0, &Pages::default());
    assert_eq!(answer.status(), 426);
    assert_eq!(answer.headers()[UPGRADE], "websocket");
    assert_eq!(answer.headers()[CONNECTION], "upgrade, close");
    assert_eq!(answer.headers()[SEC_WEBSOCKET_VERSION], "13");
    assert_eq!(Refusal::Method.answer(ConnId(1), 0, &Pages::default()).headers()[ALLOW], "GET");
}

#[test]
fn the_bytes_are_a_whole_http_message() {
    for refusal in Refusal::ALL {
        let text = String::from_utf8(refusal.answer_bytes(ConnId(7), 0, &Pages::default())).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status().as_str())), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}

#[test]
fn structured_strings_are_escaped() {
    assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    assert_eq!(quoted("tab\there\u{e9}"), "\"tabhere\"");
}

#[test]
fn who_finds_no_room_is_told_when_to_come_back() {
    let mut seen = HashSet::new();
    for id in 0..20 {
        for refusal in Refusal::ALL {
            let answer = refusal.answer(ConnId(id), 0, &Pages::default());
            let retry = answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
            assert_eq!(retry.is_some(), [429, 503].contains(&answer.status().as_u16()), "{refusal:?}");
            seen.extend(retry);
        }
    }
    assert_eq!(seen, (1..=5).collect());
    let later: HashSet<_> = (0..9).map(|id| Refusal::ClientRate.retry_after(ConnId(id), 60)).collect();
    assert_eq!(later, (60..65).map(Some).collect());
}

#[test]
fn a_body_of_the_operators_changes_nothing_else() {
    let more = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"a\"\n[[backend]]\nname = \"a\"\n\
                servers = [\"127.0.0.1:1\"]\n[[error]]\nstatus = [400, 426, 503]\nbody = \"<p>Sorry</p>\"\n";
    let pages = Pages::new(&crate::config::Config::parse(more, "test").unwrap()).unwrap();
    for refusal in Refusal::ALL {
        let (usual, answer) = (refusal.answer(ConnId(7), 0, &Pages::default()), refusal.answer(ConnId(7), 0, &pages));
        assert_eq!(usual.status(), answer.status());
        let paged = [400, 426, 503].contains(&answer.status().as_u16());
        assert_eq!(answer.body() == "<p>Sorry</p>", paged, "{refusal:?}");
        assert_eq!(answer.headers()[CONTENT_LENGTH], answer.body().len().to_string());
        for (name, value) in usual.headers() {
            if paged && [CONTENT_TYPE, CONTENT_LENGTH].contains(name) {
                continue;
            }
            assert_eq!(answer.headers().get(name), Some(value), "{refusal:?}");
        }
        assert_eq!(usual.headers().len(), answer.headers().len());
    }
}

/// Where the generated part of docs/answers.md begins.
const MARK: &str =
    "<!-- From here on generated from the code: UPDATE_DOCS=1 cargo test -p sluice answers_are_documented -->\n";

#[test]
fn answers_are_documented() {
    let mut table = String::from("\n| reason | status | Proxy-Status error | when | text |\n|---|---|---|---|---|\n");
    let mut all = Refusal::ALL.to_vec();
    all.sort_by_key(|refusal| (refusal.status(), refusal.index()));
    for refusal in all {
        let retry = refusal.retry_after(ConnId(0), 0).map_or("", |_| ", Retry-After");
        table.push_str(&format!(
            "| `{}` | {}{retry} | `{}` | {} | {} |\n",
            refusal.reason(),
            refusal.status().as_str(),
            refusal.error(),
            refusal.when().trim(),
            refusal.text(),
        ));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/answers.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (written, generated) = text.split_once(MARK).expect("docs/answers.md has lost its mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(path, format!("{written}{MARK}{table}")).unwrap();
    }
    assert!(generated == table, "docs/answers.md is not what the code does: run this test with UPDATE_DOCS=1");
}
