#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::Request;

use super::*;

/// What becomes of a request: its target and its Host.
fn settled(line: &str, hosts: &[&str]) -> Result<(String, Option<String>), Refusal> {
    let mut words = line.split(' ');
    let mut request = Request::builder().method(words.next().unwrap()).uri(words.next().unwrap());
    request = request.version(if words.next() == Some("1.0") { Version::HTTP_10 } else { Version::HTTP_11 });
    for host in hosts {
        request = request.header(HOST, *host);
    }
    let mut head = request.body(()).unwrap().into_parts().0;
    settle(&mut head, Some("192.0.2.1:8080".parse().unwrap()))?;
    let host = head.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned());
    Ok((head.uri.to_string(), host))
}

#[test]
fn the_target_decides_over_host() {
    for (line, hosts, target, host) in [
        ("GET /x?y 1.1", &["a"][..], "/x?y", "a"),
        ("GET http://a/x?y 1.1", &["a"], "/x?y", "a"),
        ("GET http://a:80/ 1.1", &["a"], "/", "a:80"),
        ("GET http://a/x 1.1", &["b"], "/x", "a"),
        ("GET https://a 1.1", &["b:1"], "/", "a"),
        ("GET http://a?x 1.1", &["a"], "/?x", "a"),
        ("GET ws://a/x 1.1", &["a"], "/x", "a"),
        ("OPTIONS http://a/ 1.1", &["a"], "/", "a"),
        ("OPTIONS * 1.1", &["a"], "*", "a"),
        ("GET http://a/x 1.0", &[], "/x", "a"),
        ("GET /x 1.0", &["b"], "/x", "b"),
        ("GET /x 1.0", &[], "/x", "192.0.2.1:8080"),
    ] {
        assert_eq!(settled(line, hosts), Ok((target.into(), Some(host.into()))), "{line}");
    }
}

#[test]
fn what_is_no_target_here() {
    for (line, hosts, refusal) in [
        ("GET a:80 1.1", &["a"][..], Refusal::Path),
        ("GET a 1.1", &["a"], Refusal::Path),
        ("GET ftp://a/ 1.1", &["a"], Refusal::Path),
        // RFC 9112 section 3.2: without one valid Host, whatever the target says.
        ("GET http://a/ 1.1", &[], Refusal::Host),
        ("GET http://a/ 1.1", &["a", "a"], Refusal::Host),
        ("GET http://a/ 1.1", &["a b"], Refusal::Host),
    ] {
        assert_eq!(settled(line, hosts), Err(refusal), "{line}");
    }
}

#[test]
fn a_fragment_is_refused() {
    let mut head = Request::get("/x").header(HOST, "a").extension(Fragment).body(()).unwrap().into_parts().0;
    assert_eq!(settle(&mut head, None), Err(Refusal::Path));
}
