#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use super::*;

/// The seeds of a target, with their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let seeds: Vec<_> = files
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&file).unwrap()))
        .collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

#[test]
fn every_seed_of_a_request_reaches_a_backend() {
    for (name, bytes) in seeds("request") {
        let sent = String::from_utf8_lossy(&request(&bytes)).into_owned();
        assert!(sent.contains(" HTTP/1.1\r\n") && sent.contains("\r\n\r\n"), "{name}: {sent:?}");
        assert!(!sent.contains("smuggled"), "{name}: {sent:?}");
    }
    for (name, bytes) in seeds("http2") {
        let sent = http2_requests(&bytes);
        assert_eq!(sent.len(), 1, "{name}");
        assert!(sent.iter().all(|sent| sent.ends_with(b"\r\n\r\n")), "{name}: {sent:?}");
    }
}

#[test]
fn every_other_seed_is_good_for_its_target() {
    seeds("response").iter().for_each(|(_, bytes)| response(bytes));
    seeds("proxy_header").iter().for_each(|(_, bytes)| proxy_header(bytes));
    seeds("cookie").iter().for_each(|(_, bytes)| cookie(bytes));
    seeds("credentials").iter().for_each(|(_, bytes)| credentials(bytes));
    seeds("forwarded").iter().for_each(|(_, bytes)| forwarded(bytes));
    for (name, bytes) in seeds("config") {
        let text = String::from_utf8(bytes).unwrap();
        config(&text);
        let _routes = Routes::new(&Config::parse(&text, &name).expect(&name)).expect(&name);
    }
}

/// Names and values that mean something, in whatever order.
fn credential_lines() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let names = "(authorization|cookie|sec-websocket-protocol|x-t|x-k|x-user|x_roles|X-Name)";
    let values = "((Bearer |Basic |t=|k=|t, |t\\.|; ?|\"|=)?[a-zA-Z0-9._=%;, -]{0,12}){0,4}";
    let head = prop::collection::vec((names, values).prop_map(|(name, value)| format!("{name}:{value}")), 0..8);
    ("/[a-z]{0,3}(\\?([tk]|%74|%6b|[a-z&+]){0,6}(=[a-z&=%]{0,6})?)?", head)
        .prop_map(|(target, head)| format!("{target}\n{}", head.join("\n")))
}

proptest::proptest! {
    #[test]
    fn no_credential_is_left_whatever_stands_beside_it(text in credential_lines()) {
        credentials(text.as_bytes());
    }

    #[test]
    fn claims_of_whatever_form_become_headers_or_nothing(sub in ".{0,8}", roles in "[a-z ,\"\\[\\]{}0-9.]{0,20}") {
        let claims = serde_json::json!({ "exp": 9, "sub": sub }).to_string();
        credentials(claims.as_bytes());
        credentials(format!("{{\"exp\":9,\"a\":{{\"b\":[{roles}]}}}}").as_bytes());
    }
}
