#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

/// What is said of a configuration with this [[auth]], named by the route as `users`.
fn wrong(auth: &str) -> Option<String> {
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\nauth = [\"users\"]\n\
         [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n[[auth]]\n{auth}\n"
    );
    Config::parse(&text, "test").err().map(|error| error.to_string())
}

#[test]
fn good_ones_are_taken() {
    for kind in [
        "jwt = { keys = \"k\" }",
        "jwt = { secret = \"s\", algorithms = [\"HS256\"], issuer = \"me\", audience = [\"a\", \"b\"] }",
        "jwt = { keys = \"k\", from = [\"bearer\", { cookie = \"c\" }, { query = \"q\" }, { subprotocol = \"bearer\" }] }",
        "jwt = { keys = \"k\", end_at_expiry = true, leeway = \"1m\", claims = { x-user = \"sub\" } }",
        "basic = { users = \"u\", user_header = \"x-user\" }\nrealm = \"the chat\"",
        "api_key = { keys = \"k\", from = [{ header = \"x-key\" }] }",
        "forward = { backend = \"app\", path = \"/verify?a=1\", timeout = \"500ms\" }",
    ] {
        assert_eq!(wrong(&format!("name = \"users\"\n{kind}")), None, "{kind}");
    }
}

#[test]
fn contradictions_are_told() {
    for (auth, says) in [
        ("name = \"users\"", "exactly one of"),
        ("name = \"users\"\njwt = { keys = \"k\" }\nbasic = { users = \"u\" }", "exactly one of"),
        ("name = \"others\"\njwt = { keys = \"k\" }", "there is no [[auth]] \"users\"; there is [\"others\"]"),
        ("name = \"users\"\njwt = {}", "either keys or secret"),
        ("name = \"users\"\njwt = { keys = \"k\", secret = \"s\" }", "either keys or secret"),
        ("name = \"users\"\njwt = { secret = \"s\", algorithms = [\"RS256\"] }", "HS256 only"),
        ("name = \"users\"\njwt = { keys = \"k\", algorithms = [\"none\"] }", "unknown value `none`"),
        ("name = \"users\"\njwt = { keys = \"k\", from = [] }", "nobody could enter"),
        ("name = \"users\"\njwt = { keys = \"k\", from = [\"body\"] }", "unknown value `body`"),
        ("name = \"users\"\njwt = { keys = \"k\", require_expiry = false, end_at_expiry = true }", "end nothing"),
        ("name = \"users\"\njwt = { keys = \"k\" }\nrealm = \"caf\u{e9}\"", "printable ASCII"),
        ("name = \"users\"\nforward = { backend = \"x\" }", "no backend \"x\""),
        ("name = \"users\"\nforward = { backend = \"app\", path = \"verify\" }", "does not begin with /"),
        ("name = \"users\"\nforward = { backend = \"app\" }\nrealm = \"r\"", "does nothing with forward"),
        ("name = \"users\"\napi_key = { keys = \"k\", from = [] }", "nobody could enter"),
        (
            "name = \"users\"\njwt = { keys = \"k\" }\n[[auth]]\nname = \"users\"\njwt = { keys = \"k\" }",
            "two [[auth]] are named \"users\"",
        ),
    ] {
        assert!(wrong(auth).is_some_and(|what| what.contains(says)), "{auth}: {:?}", wrong(auth));
    }
}

#[test]
fn a_route_names_each_once() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\nauth = [\"a\", \"a\"]\n\
                [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n[[auth]]\nname = \"a\"\njwt = { keys = \"k\" }\n";
    assert!(Config::parse(text, "test").unwrap_err().to_string().contains("has \"a\" twice"));
}

#[test]
fn the_gate_is_sent_what_was_read() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\nauth = [\"a\", \"b\"]\n\
                [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n\
                [[auth]]\nname = \"a\"\njwt = { keys = \"k\", issuer = \"i\", from = [{ cookie = \"c\" }, \"bearer\"] }\n\
                [[auth]]\nname = \"b\"\nforward = { backend = \"app\" }\n";
    let config = Config::parse(text, "test").unwrap();
    let again: Config = postcard::from_bytes(&postcard::to_stdvec(&config).unwrap()).unwrap();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}
