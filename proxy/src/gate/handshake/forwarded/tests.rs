#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use http::header::HeaderName;
use proptest::prelude::*;

use super::*;

fn settings(read: &str) -> Forwarded {
    let text = "trusted = [\"10.0.0.0/8\", \"fd00::/8\"]\nsend = [\"x-forwarded\", \"forwarded\"]\n";
    toml::from_str(&format!("{text}{read}")).unwrap()
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn judged(read: &str, peer: &str, lines: &[(&str, &str)]) -> Visitor {
    Visitor::judge(&settings(read), peer.parse::<SocketAddr>().unwrap().into(), Scheme::Plain, &headers(lines))
}

/// The client that is found behind the proxy 10.0.0.1.
fn x(list: &str) -> String {
    judged("", "10.0.0.1:1", &[("x-forwarded-for", list)]).client.to_string()
}

fn rfc(list: &str) -> String {
    judged("read = \"forwarded\"", "10.0.0.1:1", &[("forwarded", list)]).client.to_string()
}

const PEER: &str = "10.0.0.1:1";

#[test]
fn the_first_untrusted_address_from_the_end_is_the_client() {
    assert_eq!(x("192.0.2.1"), "192.0.2.1:0");
    assert_eq!(x("6.6.6.6, 192.0.2.1"), "192.0.2.1:0");
    assert_eq!(x("6.6.6.6, 192.0.2.1, 10.1.1.1,fd00::5"), "192.0.2.1:0");
    assert_eq!(x("10.0.0.3, 10.0.0.2"), "10.0.0.3:0", "all are trusted: the outermost");
    assert_eq!(x("192.0.2.1:4711"), "192.0.2.1:4711");
    assert_eq!(x("2001:db8::1"), "[2001:db8::1]:0");
    assert_eq!(x("[2001:db8::1]"), "[2001:db8::1]:0");
    assert_eq!(x("[2001:db8::1]:80"), "[2001:db8::1]:80");
    assert_eq!(x("::ffff:192.0.2.1"), "192.0.2.1:0");
    assert_eq!(x(" , 192.0.2.1 ,, "), "192.0.2.1:0");
    let two = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")];
    assert_eq!(judged("", PEER, &two).client.to_string(), "192.0.2.1:0");
}

#[test]
fn what_cannot_be_read_leaves_the_peer() {
    for list in [
        "",
        "nonsense",
        "1.2.3",
        "1.2.3.4.5",
        "192.0.2.1:x",
        "192.0.2.1:99999",
        "[::1",
        "::g",
        "a, 10.0.0.2",
        "1.2.3.4 5",
    ] {
        let visitor = judged("", PEER, &[("x-forwarded-for", list)]);
        assert_eq!((visitor.client.to_string().as_str(), visitor.chain.len()), (PEER, 0), "{list}");
    }
    // But nothing that stands before the client.
    assert_eq!(x("nonsense, \u{22}, 192.0.2.1"), "192.0.2.1:0");
    // The proxy has told that it does not know, or does not say.
    for list in ["unknown", "_hidden", "unknown, 10.0.0.2"] {
        let visitor = judged("", PEER, &[("x-forwarded-for", list)]);
        assert_eq!(visitor.client.to_string(), PEER);
        assert!(!visitor.chain.is_empty(), "{list}");
    }
}

#[test]
fn strangers_and_the_other_header_are_not_listened_to() {
    let claims = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "bank.test"),
        ("forwarded", "for=192.0.2.2;proto=https;host=bank.test"),
    ];
    let stranger = judged("", "192.0.2.9:5", &claims);
    assert_eq!(stranger.client.to_string(), "192.0.2.9:5");
    assert_eq!((stranger.scheme, stranger.host, stranger.trusted), (Scheme::Plain, None, false));
    assert_eq!(judged("", PEER, &claims).client.to_string(), "192.0.2.1:0");
    assert_eq!(judged("read = \"forwarded\"", PEER, &claims).client.to_string(), "192.0.2.2:0");
    assert_eq!(judged("", PEER, &claims[3..]).client.to_string(), PEER);
    assert_eq!(judged("", "[::ffff:10.0.0.1]:7", &claims).client.to_string(), "192.0.2.1:0", "a mapped peer");
}

#[test]
fn the_scheme_and_host_are_those_at_the_client() {
    let told = |lines: &[(&str, &str)]| {
        let visitor = judged("", PEER, lines);
        (visitor.scheme.http(), visitor.host)
    };
    let a = ("x-forwarded-for", "192.0.2.1");
    let b = ("x-forwarded-for", "192.0.2.1, 10.0.0.2");
    let host = |host: &str| Some(host.to_owned());
    assert_eq!(told(&[a, ("x-forwarded-proto", "https"), ("x-forwarded-host", "a.test")]), ("https", host("a.test")));
    assert_eq!(told(&[a, ("x-forwarded-proto", "WSS")]).0, "https");
    assert_eq!(told(&[a, ("x-forwarded-proto", "https, http")]).0, "http", "the client itself wrote the first");
    assert_eq!(told(&[b, ("x-forwarded-proto", "https, http")]).0, "https");
    assert_eq!(told(&[b, ("x-forwarded-proto", "https")]).0, "https", "one for all");
    assert_eq!(told(&[("x-forwarded-proto", "https")]).0, "https", "without a list");
    assert_eq!(told(&[a, ("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")]), ("http", None));

    let rfc = |list: &str| {
        let visitor = judged("read = \"forwarded\"", PEER, &[("forwarded", list)]);
        (visitor.client.ip().unwrap().to_string(), visitor.scheme.http(), visitor.host)
    };
    let list = "for=6.6.6.6;proto=gopher, for=192.0.2.1;proto=https;host=\"a.test:8443\", for=10.0.0.2;proto=http";
    assert_eq!(rfc(list), ("192.0.2.1".into(), "https", host("a.test:8443")));
    assert_eq!(rfc("proto=https"), ("10.0.0.1".into(), "https", None));
}

#[test]
fn elements_of_rfc_7239() {
    // §4 and §6, and what servers write in fact.
    assert_eq!(rfc("For=\"[2001:db8:cafe::17]:4711\""), "[2001:db8:cafe::17]:4711");
    assert_eq!(rfc("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60:0");
    assert_eq!(rfc("for=192.0.2.43, for=198.51.100.17"), "198.51.100.17:0");
    assert_eq!(rfc("for=192.0.2.1; proto=https;"), "192.0.2.1:0");
    assert_eq!(rfc("for=\"192.0.2.1:80\""), "192.0.2.1:80");
    assert_eq!(rfc("for=\"192.0.2.1:_port\""), "192.0.2.1:0");
    assert_eq!(rfc("for=\"\\192.0.2.1\";x=\"a\\\"b,c;d\""), "192.0.2.1:0");
    assert_eq!(rfc("for=unknown"), PEER);
    assert_eq!(rfc("for=_gazonk"), PEER);
    for wrong in [
        "for=192.0.2.1:80",
        "for=2001:db8::1",
        "for=\"2001:db8::1\"",
        "for=[::1]",
        "for=192.0.2.1;for=192.0.2.2",
        "for=192.0.2.1;FOR=192.0.2.1",
        "for",
        "for=",
        "=192.0.2.1",
        "for=\"192.0.2.1",
        "for=192.0.2.1\"",
        "for=\"192.0.2.1\\\"",
        "for=\"1\"\"2\"",
        "f r=192.0.2.1",
        "for =192.0.2.1",
        "for=192.0.2.1;x=a b",
        "for=_",
        "for=\"_a b\"",
    ] {
        let visitor = judged("read = \"forwarded\"", PEER, &[("forwarded", wrong)]);
        assert_eq!((visitor.client.to_string().as_str(), visitor.chain.len()), (PEER, 0), "{wrong}");
    }
}

#[test]
fn a_stranger_cannot_hide_behind_a_broken_beginning() {
    for before in ["for=\"", "for=\"a\\", "\"", "x=\"a, b", "for=6.6.6.6;", "=,;=", "\\"] {
        assert_eq!(rfc(&format!("{before}, for=192.0.2.1")), "192.0.2.1:0", "{before}");
        assert_eq!(rfc(&format!("{before}, for=\"[2001:db8::1]:80\"")), "[2001:db8::1]:80", "{before}");
    }
}

#[test]
fn so_many_proxies_are_no_chain() {
    let chain = |proxies: usize| x(&format!("192.0.2.1{}", ", 10.0.0.2".repeat(proxies)));
    assert_eq!(chain(MOST_PROXIES - 1), "192.0.2.1:0");
    assert_eq!(chain(MOST_PROXIES), PEER);
    assert_eq!(chain(4000), PEER);
}

fn told(visitor: &Visitor) -> [String; 4] {
    let mut headers = HeaderMap::new();
    visitor.tell(&settings(""), Some(&HeaderValue::from_static("inner.test:81")), &mut headers);
    [X_FOR, X_PROTO, X_HOST, "forwarded"].map(|name| headers[name].to_str().unwrap().to_owned())
}

#[test]
fn backends_are_told_of_direct_clients() {
    let direct = judged("", "[2001:db8::9]:555", &[("x-forwarded-for", "6.6.6.6")]);
    let forwarded = "for=\"[2001:db8::9]:555\";proto=http;host=\"inner.test:81\"";
    assert_eq!(told(&direct), ["2001:db8::9", "http", "inner.test:81", forwarded]);
    let v4 = Visitor::judge(
        &settings(""),
        "192.0.2.9:5".parse::<SocketAddr>().unwrap().into(),
        Scheme::Tls,
        &HeaderMap::new(),
    );
    assert_eq!(told(&v4)[3], "for=\"192.0.2.9:5\";proto=https;host=\"inner.test:81\"");
}

#[test]
fn backends_are_told_of_the_whole_chain_and_nothing_before_it() {
    let lines = [
        ("x-forwarded-for", "6.6.6.6, 2001:db8::1, 10.0.0.2"),
        ("x-forwarded-proto", "https, http"),
        ("x-forwarded-host", "a.test"),
    ];
    let forwarded = "for=\"[2001:db8::1]\";proto=https;host=\"a.test\", for=10.0.0.2, \
                     for=\"10.0.0.1:1\";proto=http;host=\"inner.test:81\"";
    assert_eq!(told(&judged("", PEER, &lines)), ["2001:db8::1, 10.0.0.2, 10.0.0.1", "https", "a.test", forwarded]);
    let hidden =
        told(&judged("read = \"forwarded\"", PEER, &[("forwarded", "for=\"_x:_y\", for=unknown, for=10.0.0.2")]));
    assert_eq!(hidden[0], "unknown, 10.0.0.2, 10.0.0.1");
}

#[test]
fn what_is_sent_is_a_setting() {
    let mut settings = settings("");
    settings.send.clear();
    let mut headers = HeaderMap::new();
    judged("", PEER, &[]).tell(&settings, None, &mut headers);
    assert!(headers.is_empty());
    assert_eq!(Forwarded::default().send, [ForwardedHeader::XForwarded]);
}

proptest! {
    #[test]
    fn no_list_panics_and_none_makes_a_stranger_of_a_trusted_network(text in "[ -~]{0,80}") {
        for (read, name) in [("", X_FOR), ("read = \"forwarded\"", "forwarded")] {
            let visitor = judged(read, PEER, &[(name, &format!("{text}, for=10.9.9.9"))]);
            let _ = told(&visitor);
            let visitor = judged(read, PEER, &[(name, &text)]);
            let _ = told(&visitor);
        }
    }

    /// What one Sluice tells, the next one that trusts it reads: the same client, scheme and host.
    #[test]
    fn what_is_told_is_read_back(
        address in prop_oneof![any::<u32>().prop_map(|v| IpAddr::V4(v.into())), any::<u128>().prop_map(|v| IpAddr::V6(v.into()))],
        port in any::<u16>(),
        tls in any::<bool>(),
        garbage in "[ -~]{0,30}",
    ) {
        let first = settings("");
        let own = if tls { Scheme::Tls } else { Scheme::Plain };
        let peer = SocketAddr::new(address.to_canonical(), port);
        prop_assume!(!is_trusted(&first, Some(peer.ip())));
        let visitor = Visitor::judge(&first, peer.into(), own, &HeaderMap::new());
        let mut sent = HeaderMap::new();
        visitor.tell(&first, Some(&HeaderValue::from_static("a.test:8443")), &mut sent);
        for read in ["", "read = \"forwarded\""] {
            let mut received = sent.clone();
            for name in [X_FOR, "forwarded"] {
                let line = format!("{garbage}, {}", sent[name].to_str().unwrap());
                received.insert(name, HeaderValue::from_str(&line).unwrap());
            }
            let again = Visitor::judge(&settings(read), PEER.parse::<SocketAddr>().unwrap().into(), Scheme::Plain, &received);
            prop_assert_eq!(again.client.ip(), Some(peer.ip()));
            prop_assert_eq!(again.scheme, own);
            prop_assert_eq!(again.host.as_deref(), Some("a.test:8443"));
            prop_assert_eq!(again.chain.len(), 1);
        }
    }
}
