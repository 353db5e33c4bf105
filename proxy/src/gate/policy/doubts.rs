//! What routes do that probably nobody means.

use std::collections::HashSet;

use super::host::HostRule;
use super::path::{PathRule, Shape};
use super::{hosts, is_below};
use crate::config::{Backend, Config, OriginRule, Rewrite, Route, ServerAddress};

/// A route as a backend sees it.
struct View<'a> {
    index: usize,
    route: &'a Route,
    hosts: Vec<HostRule>,
    /// The path that its requests have at the backend, and whether every path below it too. `None`: a pattern's.
    reach: Option<(Vec<u8>, bool)>,
    servers: HashSet<&'a ServerAddress>,
}

/// What can be meant by the routes, and probably is not, one sentence each.
///
/// # Errors
/// As [`super::Routes::new`].
pub(in crate::gate) fn doubts(config: &Config) -> anyhow::Result<Vec<String>> {
    let views = config.routes.iter().enumerate().map(|(index, route)| View::new(config, index, route));
    let views = views.collect::<anyhow::Result<Vec<_>>>()?;
    let mut doubts: Vec<String> = views.iter().flat_map(|view| origins(view.index, view.route)).collect();
    for guarded in views.iter().filter(|view| !view.route.auth.is_empty()) {
        let open = views.iter().find(|open| open.index != guarded.index && open.opens(guarded));
        doubts.extend(open.map(|open| {
            format!(
                "{} asks who a client is, and {}, which leads to the same servers, does not: what they serve a second time \
                 under other paths (a suffix such as .json, an alias) can be had without. Give that route auth too, and \
                 what is for everybody a route of its own",
                guarded.label(),
                open.label()
            )
        }));
    }
    Ok(doubts)
}

fn origins(index: usize, route: &Route) -> impl Iterator<Item = String> {
    let lists = [("origins", Some(&route.origins)), ("http_origins", route.http_origins.as_ref())];
    lists.into_iter().filter_map(move |(name, list)| {
        let list = list?;
        let (word, whose) = match (list.contains(&OriginRule::Any), list.contains(&OriginRule::Null)) {
            (true, _) => ("any", "pages of every site"),
            (_, true) => ("null", "sandboxed pages, which every site can make,"),
            _ => return None,
        };
        let label = route.label(index);
        Some(format!("{label}: {name} has {word:?}: {whose} can send requests with a visitor's cookies"))
    })
}

impl<'a> View<'a> {
    fn new(config: &'a Config, index: usize, route: &'a Route) -> anyhow::Result<Self> {
        let path = PathRule::read(&route.path, route.case_insensitive)?;
        let plain = |text: &str| PathRule::read(&text.to_owned().into(), None).ok();
        let bytes = |rule: PathRule| match rule.shape {
            Shape::Exact(path) | Shape::Prefix(_, path) => Some(path.bytes().to_vec()),
            Shape::Pattern(..) => None,
        };
        let below = matches!(path.shape, Shape::Prefix(..));
        let seen = match &route.rewrite {
            None => bytes(path),
            Some(Rewrite::StripPrefix(_)) => Some(b"/".to_vec()),
            Some(Rewrite::Prefix(to)) => plain(to).and_then(bytes),
            Some(Rewrite::Replace(to)) => plain(to).filter(|_| matches!(path.shape, Shape::Exact(_))).and_then(bytes),
        };
        let of = |backend: &&Backend| backend.name == route.backend;
        let servers = config.backends.iter().find(of).into_iter().flat_map(|backend| &backend.servers);
        Ok(Self {
            index,
            route,
            hosts: hosts(route)?,
            reach: seen.map(|path| (path, below)),
            servers: servers.map(|server| &server.address).collect(),
        })
    }

    fn label(&self) -> String {
        self.route.label(self.index)
    }

    /// Whether this route leads to what `guarded` guards, and lets clients in whom that would not.
    fn opens(&self, guarded: &Self) -> bool {
        let shown = !self.route.auth.is_empty() && self.route.auth.iter().all(|auth| guarded.route.auth.contains(auth));
        // A browser's question before its request has no credentials.
        let preflight = self.route.methods == ["OPTIONS"];
        let covers = match (&self.reach, &guarded.reach) {
            (Some((path, true)), Some((other, _))) => is_below(other, path, true),
            (Some((path, true)), None) => path == b"/",
            (Some((path, false)), Some((other, _))) => path.eq_ignore_ascii_case(other),
            _ => false,
        };
        !shown && !preflight && covers && self.meets(guarded) && !self.servers.is_disjoint(&guarded.servers)
    }

    /// Whether a request may be for hosts of both.
    fn meets(&self, other: &Self) -> bool {
        let meet = |one: &HostRule, two: &HostRule| match (one, two) {
            (HostRule::Any, _) | (_, HostRule::Any) => true,
            (HostRule::Exact(name), rule) | (rule, HostRule::Exact(name)) => rule.matches(name),
            (HostRule::Below(one), HostRule::Below(two)) => one.ends_with(two.as_str()) || two.ends_with(one.as_str()),
        };
        self.hosts.iter().any(|one| other.hosts.iter().any(|two| meet(one, two)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn told(routes: &[&str]) -> Vec<String> {
        let routes: Vec<String> = routes
            .iter()
            .map(|one| format!("[[route]]\n{}{one}\n", if one.contains("backend") { "" } else { "backend = \"a\"\n" }))
            .collect();
        let backend = |name: &str, server: &str| format!("[[backend]]\nname = \"{name}\"\nservers = [\"{server}\"]\n");
        let backends = [backend("a", "127.0.0.1:1"), backend("same", "127.0.0.1:1"), backend("b", "127.0.0.1:2")];
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n{}{}[[auth]]\nname = \"u\"\napi_key = {{ keys = \"k\" }}\n\
             [[auth]]\nname = \"v\"\napi_key = {{ keys = \"k\" }}\n",
            routes.concat(),
            backends.concat()
        );
        doubts(&Config::parse(&text, "test").unwrap()).unwrap()
    }

    #[test]
    fn an_open_route_around_a_protected_one_is_told() {
        let admin = "path = \"/admin\"\nauth = [\"u\"]";
        for open in [
            "",
            "backend = \"same\"",
            "path = \"/Admin\"",
            "host = \"a.test\"",
            "path = \"/x\"\nrewrite = { strip_prefix = true }",
            "path = \"/admin\"\nheaders = [{ name = \"x\", present = true }]",
            "auth = [\"v\"]",
        ] {
            let told = told(&[admin, open]);
            let says = ["[[route]] 1 (path \"/admin\") asks who", "[[route]] 2"];
            assert!(told.len() == 1 && says.iter().all(|text| told[0].contains(text)), "{open}: {told:?}");
        }
        for fine in [
            "backend = \"b\"",
            "path = \"/admin/public\"",
            "path = \"/other\"",
            "path = \"/admin\"\nmethods = [\"OPTIONS\"]",
            "auth = [\"u\"]",
            "path = { exact = \"/\" }",
        ] {
            assert_eq!(told(&[admin, fine]), Vec::<String>::new(), "{fine}");
        }
        assert_eq!(told(&["host = \"a.test\"\nauth = [\"u\"]", "host = \"*.b.test\""]), Vec::<String>::new());
        assert_eq!(told(&["path = { pattern = \"/r/.*\" }\nauth = [\"u\"]", ""]).len(), 1);
    }

    #[test]
    fn origins_of_everybody_are_told() {
        assert_eq!(
            told(&["origins = [\"any\", \"null\"]\nhttp_origins = [\"null\"]"]),
            [
                "[[route]] 1 (path \"/\"): origins has \"any\": pages of every site can send requests with a visitor's cookies",
                "[[route]] 1 (path \"/\"): http_origins has \"null\": sandboxed pages, which every site can make, can send \
                 requests with a visitor's cookies"
            ]
        );
        assert!(told(&["origins = [\"same-origin\", \"http://localhost:*\"]"]).is_empty());
    }
}
