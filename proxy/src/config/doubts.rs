//! What can be meant, and probably is not.
//!
//! Each is told as a warning, at `sluice check` and at the start, and keeps nothing from running. None may appear for an
//! ordinary configuration: who reads the same warning every day reads none.

use std::time::Duration;

use humantime::format_duration;

use super::{Auth, Config, HeaderEdits, PathRule, Route, Timeouts};

impl Config {
    /// What can be meant, and probably is not. A text may have what `${…}` stands for.
    pub fn doubts(&self) -> impl Iterator<Item = String> {
        let routes = self.routes.iter().enumerate().flat_map(|(index, route)| self.of_route(index, route));
        self.of_auth().chain(of_timeouts(self.timeouts.clone(), "")).chain(routes)
    }

    fn of_auth(&self) -> impl Iterator<Item = String> {
        let unused = |auth: &&Auth| !self.routes.iter().any(|route| route.auth.contains(&auth.name));
        self.auth.iter().filter(unused).map(|Auth { name, .. }| {
            format!(
                "[[auth]] {name:?} is named by no route, and keeps nobody out; write auth = [{name:?}] into a [[route]], \
                 or take it out"
            )
        })
    }

    fn of_route(&self, index: usize, route: &Route) -> Vec<String> {
        let own = &route.timeouts;
        let own = own.dial.or(own.response).or(own.handshake).is_some();
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let timeouts = own.then(|| of_timeouts(self.timeouts(number), "its ")).into_iter().flatten();
        let edits = [("request_headers", &route.request_headers), ("response_headers", &route.response_headers)];
        let edits = edits.into_iter().flat_map(|(table, edits)| of_edits(table, edits));
        let label = route.label(index);
        of_path(&route.path).into_iter().chain(timeouts).chain(edits).map(|doubt| format!("{label}: {doubt}")).collect()
    }
}

/// A `*` that stands for itself, as it does in a prefix and in an exact path.
fn of_path(path: &PathRule) -> Option<String> {
    let (PathRule::Prefix(text) | PathRule::Exact(text)) = path else { return None };
    let before = text.strip_suffix('*')?;
    let prefix = match before.trim_end_matches(['/', '*']) {
        "" => "/",
        prefix => prefix,
    };
    Some(format!(
        "the * at the end of its path stands for itself; path = {prefix:?} serves everything below, and \
         {{ pattern = \"{before}.*\" }} everything that begins so"
    ))
}

/// Limits that can never be reached, since the whole handshake has a shorter one.
fn of_timeouts(timeouts: Timeouts, whose: &'static str) -> impl Iterator<Item = String> {
    let Timeouts { head, dial, response, handshake, .. } = timeouts;
    let own = whose.is_empty().then_some(("head", head));
    let longer = move |(_, limit): &(&str, Duration)| *limit > handshake;
    own.into_iter().chain([("dial", dial), ("response", response)]).filter(longer).map(move |(name, limit)| {
        format!(
            "{whose}timeouts.{name} ({}) is longer than timeouts.handshake ({}), which ends the whole handshake before; \
             raise handshake as well",
            format_duration(limit),
            format_duration(handshake)
        )
    })
}

/// Values of header fields that look as if something were to be put into them.
fn of_edits(table: &str, edits: &HeaderEdits) -> impl Iterator<Item = String> {
    let all = edits.set.iter().map(|field| ("set", field)).chain(edits.add.iter().map(|field| ("add", field)));
    let named = all.filter_map(|(way, (field, value))| Some((way, field, variable(value)?)));
    named.map(move |(way, field, name)| {
        format!(
            "{table}.{way}.{field} has ${name}, which is sent as it stands: header fields have no variables of a request. \
             `${{NAME}}` is a variable of the environment, read at the start"
        )
    })
}

/// The first `$name` in a text.
fn variable(text: &str) -> Option<&str> {
    let starts = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    text.split('$').skip(1).find(|behind| behind.as_bytes().first().is_some_and(starts)).map(|behind| {
        let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
        behind.get(..end).unwrap_or(behind)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn doubts(route: &str, tables: &str) -> Vec<String> {
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n\
             {tables}\n[[route]]\nbackend = \"app\"\n{route}\n"
        );
        Config::parse(&text, "test").unwrap().doubts().collect()
    }

    fn only(route: &str, tables: &str) -> String {
        let mut all = doubts(route, tables);
        assert_eq!(all.len(), 1, "{route} {tables}: {all:?}");
        all.remove(0)
    }

    #[test]
    fn a_star_at_the_end_of_a_path_is_told() {
        for (path, prefix, pattern) in [("/*", "/", "/.*"), ("/chat/*", "/chat", "/chat/.*"), ("/v*", "/v", "/v.*")] {
            let told = only(&format!("path = {path:?}"), "");
            let says = format!("[[route]] 1 (path {path:?}): the * at the end of its path stands for itself");
            assert!(told.starts_with(&says), "{told}");
            assert!(told.contains(&format!("path = {prefix:?}")) && told.contains(&format!("{pattern:?}")), "{told}");
        }
        only("path = { exact = \"/a*\" }", "");
        for path in ["\"/\"", "\"/a*b\"", "{ pattern = \"/a.*\" }", "{ exact = \"/a\" }"] {
            assert_eq!(doubts(&format!("path = {path}"), ""), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn a_limit_that_the_whole_handshake_never_reaches_is_told() {
        let told = only("", "[timeouts]\nresponse = \"60s\"");
        assert!(told.starts_with("timeouts.response (1m) is longer than timeouts.handshake (30s)"), "{told}");
        let told = only("timeouts.response = \"31s\"", "");
        assert!(told.starts_with("[[route]] 1 (path \"/\"): its timeouts.response (31s) is longer"), "{told}");
        assert_eq!(doubts("timeouts.handshake = \"2s\"", "").len(), 2, "dial and response");
        assert!(only("", "[timeouts]\nhead = \"31s\"").starts_with("timeouts.head"));
        for (route, tables) in [
            ("", ""),
            ("", "[timeouts]\nresponse = \"30s\""),
            ("", "[timeouts]\nresponse = \"60s\"\nhandshake = \"90s\""),
            ("timeouts = { response = \"60s\", handshake = \"70s\" }", ""),
            ("timeouts.http_response = \"1h\"", ""),
        ] {
            assert_eq!(doubts(route, tables), Vec::<String>::new(), "{route} {tables}");
        }
    }

    #[test]
    fn a_variable_that_stays_text_is_told() {
        let told = only("request_headers.set = { x-real-ip = \"$remote_addr\" }", "");
        assert!(told.contains("request_headers.set.x-real-ip has $remote_addr, which is sent as it stands"), "{told}");
        only("response_headers.add = { x-a = \"b $host;\" }", "");
        for value in ["a", "$", "$1", "5$ a$", "US$ 5"] {
            let route = format!("request_headers.set = {{ x-a = {value:?} }}");
            assert_eq!(doubts(&route, ""), Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn an_authentication_that_no_route_names_is_told() {
        let auth = "[[auth]]\nname = \"tokens\"\nbasic = { users = \"users\" }";
        assert!(only("", auth).contains("\"tokens\" is named by no route"));
        assert_eq!(doubts("auth = [\"tokens\"]", auth), Vec::<String>::new());
    }
}
