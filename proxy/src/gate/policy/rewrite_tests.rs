#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

/// Reads `path = ..` and `rewrite = ..` as a configuration does.
fn read(settings: &str) -> anyhow::Result<(PathRule, Rewrite)> {
    let route: config::Route = toml::from_str(&format!("backend = \"a\"\n{settings}"))?;
    let path = PathRule::read(&route.path, route.case_insensitive)?;
    let rewrite = Rewrite::read(&route.rewrite.unwrap(), &path)?;
    Ok((path, rewrite))
}

/// What becomes of a target; `None` if it is refused. The route must serve it.
fn rewritten(settings: &str, target: &str) -> Option<String> {
    let (rule, rewrite) = read(settings).unwrap();
    let target: PathAndQuery = target.parse().unwrap();
    let path = PlainPath::read(target.path()).unwrap();
    assert!(rule.matches(path.bytes()), "{settings} does not serve {target}");
    rewrite.target(&target, &path).map(|made| made.to_string())
}

#[track_caller]
fn becomes(settings: &str, cases: &[(&str, &str)]) {
    for (target, expected) in cases {
        assert_eq!(rewritten(settings, target).as_deref(), Some(*expected), "{target}");
    }
}

#[test]
fn a_prefix_is_stripped() {
    becomes(
        "path = \"/app\"\nrewrite = { strip_prefix = true }",
        &[
            ("/app", "/"),
            ("/app/", "/"),
            ("/app?a=/app", "/?a=/app"),
            ("/app/x/y?q=1&r", "/x/y?q=1&r"),
            ("/app/app", "/app"),
            ("/app/a%20b%2Fc", "/a%20b%2Fc"),
            // Written in another way, the rest is written anew.
            ("/%61pp/a%2Db|c", "/a-b%7Cc"),
            ("//app/x", "/x"),
            ("/app%2Fx", "/x"),
            // Nothing becomes a target with a host.
            ("/app//evil.test/x", "/evil.test/x"),
            ("/app/%2Fevil.test", "/%2Fevil.test"),
        ],
    );
}

#[test]
fn a_prefix_is_replaced() {
    becomes(
        "path = \"/app\"\nrewrite = { prefix = \"/v2/%20\" }",
        &[("/app", "/v2/%20"), ("/app/", "/v2/%20/"), ("/app/x?y", "/v2/%20/x?y"), ("/%61pp/x", "/v2/%20/x")],
    );
    becomes("path = \"/app/\"\nrewrite = { prefix = \"/v2/\" }", &[("/app/", "/v2/"), ("/app/x", "/v2/x")]);
    becomes("path = \"/app/\"\nrewrite = { prefix = \"/v2\" }", &[("/app/", "/v2/"), ("/app/x", "/v2/x")]);
    becomes("rewrite = { prefix = \"/v2\" }", &[("/", "/v2/"), ("//x", "/v2/x"), ("/x", "/v2/x")]);
    becomes("path = \"/a%20b\"\nrewrite = { strip_prefix = true }", &[("/a%20b/%41", "/%41"), ("/a%20%62/%41", "/A")]);
}

#[test]
fn groups_of_a_pattern_are_put_in() {
    let settings = "path = { pattern = \"/rooms/([^/]+)/(?P<way>ws|poll)(/.*)?\" }\n\
                    rewrite = { replace = \"/v2/${way}/$1$3/$$\" }";
    becomes(
        settings,
        &[
            ("/rooms/12/ws?x=1", "/v2/ws/12/$?x=1"),
            ("/rooms/a%20b/poll/c", "/v2/poll/a%20b/c/$"),
            ("/rooms/%e4/ws", "/v2/ws/%E4/$"),
            ("/rooms/a%3Fb%23/ws", "/v2/ws/a%3Fb%23/$"),
        ],
    );
    becomes("path = { exact = \"/a\" }\nrewrite = { replace = \"/$1\" }", &[("/a?b", "/$1?b"), ("//a", "/$1")]);
}

#[test]
fn what_makes_no_plain_path_is_refused() {
    let dots = "path = { pattern = \"/x(.)y\" }\nrewrite = { replace = \"/.$1/z\" }";
    assert_eq!(rewritten(dots, "/x.y"), None);
    assert_eq!(rewritten(dots, "/x%2Fy"), None);
    assert_eq!(rewritten(dots, "/xay").as_deref(), Some("/.a/z"));
}

#[test]
fn wrong_rewrites_stop_the_start() {
    for (settings, says) in [
        ("rewrite = { prefix = \"v2\" }", "must begin with /"),
        ("rewrite = { prefix = \"/a/../b\" }", "no plain path"),
        ("rewrite = { prefix = \"/a?b\" }", "no plain path"),
        ("rewrite = { prefix = \"/a b\" }", "no plain path"),
        ("rewrite = { prefix = \"/%zz\" }", "no plain path"),
        ("path = { pattern = \"/(a)\" }\nrewrite = { replace = \"/$2\" }", "no group \"2\""),
        ("path = { pattern = \"/(a)\" }\nrewrite = { replace = \"/${b}\" }", "no group \"b\""),
        ("path = { pattern = \"/(a)\" }\nrewrite = { replace = \"/${1\" }", "has no end"),
        ("path = { pattern = \"/(a)\" }\nrewrite = { replace = \"/$\" }", "no group \"\""),
        ("rewrite = { replace = \"/a\" }", "does not go with such a path"),
    ] {
        let error = format!("{:#}", read(settings).err().unwrap_or_else(|| panic!("{settings} is taken")));
        assert!(error.contains(says), "{settings}: {error}");
    }
}

proptest! {
    /// Whatever the client wrote, the backend reads the path that the route's rule means.
    #[test]
    fn a_moved_path_reads_as_the_plain_path_says(
        prefix in prop::sample::select(vec!["/", "/app", "/app/", "/a%20p"]),
        to in prop::sample::select(vec!["/", "/v2", "/v2/"]),
        spelled in any::<bool>(),
        rest in "[/a%.2Ff~;|\"0-9A-E ]{0,12}",
    ) {
        let rest = rest.replace(' ', "");
        let written = if spelled { prefix.replace('a', "%61") } else { prefix.to_owned() };
        let raw = format!("{written}{rest}");
        let (Ok(target), Some(path)) = (raw.parse::<PathAndQuery>(), PlainPath::read(&raw)) else { return Ok(()) };
        let (rule, rewrite) = read(&format!("path = {prefix:?}\nrewrite = {{ prefix = {to:?} }}")).unwrap();
        prop_assume!(rule.matches(path.bytes()));
        let made = rewrite.target(&target, &path).unwrap();
        let Shape::Prefix(_, plain) = &rule.shape else { panic!("no prefix") };
        let behind = &path.bytes()[plain.bytes().len()..];
        let slash: &[u8] = if plain.bytes().ends_with(b"/") { b"/" } else { b"" };
        let mut expected = if behind.is_empty() && slash.is_empty() {
            to.as_bytes().to_vec()
        } else {
            [to.trim_end_matches('/').as_bytes(), slash, behind].concat()
        };
        expected.dedup_by(|b, before| *b == b'/' && *before == b'/');
        let read = PlainPath::read(made.path()).unwrap();
        prop_assert_eq!(read.bytes(), expected.as_slice());
        prop_assert!(!made.as_str().starts_with("//"));
    }
}
