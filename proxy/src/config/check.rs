//! What TOML alone cannot say: names that must exist, values that must differ.

use std::collections::HashSet;

use rustls::pki_types::ServerName;

use super::{
    Address, Backend, Check, Config, ConfigError, ERROR_BODIES, ErrorPage, HandshakeRate, Listener, PathRule, Rewrite,
    Route, ServerAddress, SocketMode, Sticky,
};

/// The most that a server's weight may be: finer shares nobody can see.
const MOST_WEIGHT: u32 = 1000;

impl Config {
    /// Checks what spans several settings.
    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        self.contradiction()
            .map_or(Ok(()), |what| Err(ConfigError::Contradiction { name: name.into(), what: self.hide(&what) }))
    }

    fn contradiction(&self) -> Option<String> {
        if self.listeners.is_empty() {
            return Some("there is no [[listener]]; add one with bind = \"address:port\"".into());
        }
        if self.routes.is_empty() {
            return Some("there is no [[route]]; add one with backend = \"name\"".into());
        }
        self.listeners_clash()
            .or_else(|| self.listeners_wrong())
            .or_else(|| self.backends_wrong())
            .or_else(|| self.dns.wrong().map(|what| format!("[dns]: {what}")))
            .or_else(|| self.routes_wrong())
            .or_else(|| self.auth_wrong())
            .or_else(|| self.limits_wrong())
            .or_else(|| self.errors_wrong())
    }

    fn errors_wrong(&self) -> Option<String> {
        if let Some(what) = self.errors.iter().find_map(ErrorPage::wrong) {
            return Some(format!("[[error]]: {what}"));
        }
        let sum: usize = self.errors.iter().filter_map(|page| page.body.as_ref()).map(String::len).sum();
        let long = sum > ERROR_BODIES;
        long.then(|| format!("the bodies of all [[error]]s have {sum} bytes; {ERROR_BODIES} is the most that fits"))
    }

    fn listeners_clash(&self) -> Option<String> {
        let mut seen = HashSet::new();
        let admin = self.admin.iter().map(|admin| Address::Inet(admin.listen));
        let any_port = |bind: &Address| bind.inet().is_some_and(|address| address.port() == 0);
        self.listeners
            .iter()
            .map(|listener| listener.bind.clone())
            .chain(admin)
            .find(|bind| !any_port(bind) && !seen.insert(bind.clone()))
            .map(|bind| format!("{bind} is bound twice"))
    }

    fn listeners_wrong(&self) -> Option<String> {
        let wrong = |listener: &Listener| {
            let what = listener_wrong(listener).or_else(|| self.taken_by_both_families(listener))?;
            Some(format!("listener {}: {what}", listener.bind))
        };
        self.listeners.iter().find_map(wrong)
    }

    /// `[::]:443` is `0.0.0.0:443` as well.
    fn taken_by_both_families(&self, listener: &Listener) -> Option<String> {
        let six = listener.bind.inet().filter(|address| address.is_ipv6() && address.ip().is_unspecified())?;
        if listener.ipv6_only || listener.reuse_port || six.port() == 0 {
            return None;
        }
        let same = |other: &&Listener| {
            other.bind.inet().is_some_and(|address| address.is_ipv4() && address.port() == six.port())
        };
        let other = &self.listeners.iter().find(same)?.bind;
        Some(format!("it takes IPv4 as well, and {other} is another listener: set ipv6_only = true, or leave one out"))
    }

    fn backends_wrong(&self) -> Option<String> {
        let mut seen = HashSet::new();
        for backend in &self.backends {
            if backend.servers.is_empty() {
                return Some(format!("backend {:?} has no servers", backend.name));
            }
            if !seen.insert(&backend.name) {
                return Some(format!("two backends are named {:?}", backend.name));
            }
            let what = servers_wrong(backend)
                .or_else(|| self.leads_back(backend))
                .or_else(|| backend.balance.wrong())
                .or_else(|| backend.sticky.as_ref().and_then(Sticky::wrong))
                .or_else(|| backend.check.as_ref().and_then(Check::wrong))
                .or_else(|| backend.ejection.wrong())
                .or_else(|| backend.header_names_wrong())
                .or_else(|| backend_tls_wrong(backend));
            if let Some(what) = what {
                return Some(format!("backend {:?}: {what}", backend.name));
            }
        }
        None
    }

    /// The keeper takes no pair that may be one end of a ring of pairs, and of Unix sockets it cannot tell.
    fn leads_back(&self, backend: &Backend) -> Option<String> {
        let mut files = self.listeners.iter().map(|listener| &listener.bind).filter(|bind| bind.inet().is_none());
        let own =
            files.find(|own| backend.servers.iter().any(|server| server.address.to_string() == own.to_string()))?;
        Some(format!("its server {own} is a [[listener]] of this configuration; name the servers behind that one"))
    }

    fn routes_wrong(&self) -> Option<String> {
        self.routes.iter().enumerate().find_map(|(index, route)| {
            let what = self.route_wrong(route)?;
            Some(format!("{}: {what}", route.label(index)))
        })
    }

    fn route_wrong(&self, route: &Route) -> Option<String> {
        if !self.backends.iter().any(|backend| backend.name == route.backend) {
            let names: Vec<&str> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
            return Some(format!("there is no backend {:?}; there is {names:?}", route.backend));
        }
        let rates = route.limits.handshakes.iter().chain(&route.limits.per_client.handshakes);
        if let Some(what) = rates.into_iter().find_map(HandshakeRate::wrong) {
            return Some(format!("its limits: {what}"));
        }
        if let PathRule::Prefix(path) | PathRule::Exact(path) = &route.path
            && !path.starts_with('/')
        {
            return Some(format!("its path {path:?} does not begin with /"));
        }
        let mut conditions = route.headers.iter().chain(&route.query);
        if let Some(wrong) = conditions.find(|condition| condition.tests() != 1) {
            let name = &wrong.name;
            return Some(format!("its condition on {name:?} needs exactly one of value, prefix, pattern and present"));
        }
        let fits = match (&route.rewrite, &route.path) {
            (None | Some(Rewrite::StripPrefix(true) | Rewrite::Prefix(_)), PathRule::Prefix(_)) => true,
            (None | Some(Rewrite::Replace(_)), PathRule::Exact(_) | PathRule::Pattern(_)) => true,
            (Some(Rewrite::StripPrefix(false)), _) => {
                return Some("rewrite.strip_prefix = false does nothing: leave it out".into());
            }
            _ => false,
        };
        let rule = "rewrite takes strip_prefix or prefix for a path prefix, replace for an exact path or a pattern";
        (!fits).then(|| rule.into())
    }

    fn limits_wrong(&self) -> Option<String> {
        if self.limits.head_bytes < 8192 {
            return Some("limits.head_bytes is below 8192, the smallest that the HTTP library takes".into());
        }
        if self.limits.head_bytes > 64 * 1024 {
            return Some("limits.head_bytes is above 65536, the most that one hand-over message holds".into());
        }
        if self.limits.http2_streams == 0 {
            return Some(
                "limits.http2_streams is 0, which refuses every HTTP/2 request: set http2 = false in [[listener]]"
                    .into(),
            );
        }
        if self.limits.header_count == 0 {
            return Some("limits.header_count is 0, which refuses every request".into());
        }
        if self.limits.response_header_count == 0 {
            return Some("limits.response_header_count is 0, which refuses every backend's answer".into());
        }
        if self.limits.http2_resets == 0 {
            return Some(
                "limits.http2_resets is 0, which ends an HTTP/2 connection with the first request that is taken back"
                    .into(),
            );
        }
        if let Some(what) = self.limits.handshakes.as_ref().and_then(HandshakeRate::wrong) {
            return Some(format!("limits: {what}"));
        }
        if let Some(what) = self.limits.per_client.wrong() {
            return Some(format!("limits.per_client: {what}"));
        }
        if self.relay.tls_key_records < 64 {
            return Some("relay.tls_key_records is below 64: connections would do little but change keys".into());
        }
        if self.relay.backlog_limit < 64 * 1024 {
            return Some("relay.backlog_limit is below 65536, less than one segment on loopback".into());
        }
        None
    }
}

/// Whether this is a token (RFC 9110 §5.6.2), as a cookie's name must be (RFC 6265 §4.1.1).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && http::HeaderName::try_from(text).is_ok()
}

fn listener_wrong(listener: &Listener) -> Option<String> {
    let unix = listener.bind.inet().is_none();
    if listener.ipv6_only && !listener.bind.inet().is_some_and(|address| address.is_ipv6()) {
        return Some("ipv6_only is for IPv6 addresses".into());
    }
    if listener.reuse_port && unix {
        return Some("reuse_port is for IP addresses".into());
    }
    if !unix && listener.mode != SocketMode::default() {
        return Some("mode is for unix: sockets".into());
    }
    if listener.backlog == 0 {
        return Some("backlog is 0, with which nobody could connect".into());
    }
    if listener.proxy_protocol.as_ref().is_some_and(|proxy| proxy.from.is_empty()) {
        return Some("proxy_protocol.from names nobody; leave proxy_protocol out for that".into());
    }
    let tls = listener.tls.as_ref()?;
    if let Err(what) = tls.policy().choose() {
        return Some(format!("tls.{what}"));
    }
    let names = tls.certificates.iter().flat_map(|more| &more.names);
    let bad = names.into_iter().find(|name| {
        let name = name.strip_prefix("*.").unwrap_or(name);
        !matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)))
    })?;
    Some(format!("tls.certificates has the name {bad:?}, which is neither a host name nor *. and one"))
}

fn servers_wrong(backend: &Backend) -> Option<String> {
    let mut seen = HashSet::new();
    if let Some(twice) = backend.servers.iter().find(|server| !seen.insert(&server.address)) {
        return Some(format!("{} is in its servers twice: give it a weight of 2 for twice the share", twice.address));
    }
    if let Some(heavy) = backend.servers.iter().find(|server| server.weight > MOST_WEIGHT) {
        return Some(format!("the weight of {} is above {MOST_WEIGHT}", heavy.address));
    }
    if backend.queue.length > 0 && backend.servers.iter().all(|server| server.max_connections == 0) {
        return Some("queue.length is set, and no server has max_connections: nothing would ever wait".into());
    }
    if let Some(source) = backend.source.iter().find(|source| source.is_unspecified() || source.is_multicast()) {
        return Some(format!("source has {source}, which no connection can come from"));
    }
    None
}

fn backend_tls_wrong(backend: &Backend) -> Option<String> {
    let tls = backend.tls.as_ref()?;
    if tls.certificate.is_some() != tls.key.is_some() {
        return Some("tls.certificate and tls.key belong together; one of them is missing".into());
    }
    if let Err(what) = tls.policy().choose() {
        return Some(format!("tls.{what}"));
    }
    match tls.server_name.as_deref() {
        None if backend.servers.iter().any(|server| matches!(server.address, ServerAddress::At(Address::Unix(_)))) => {
            Some("tls.server_name is needed: a unix: server has no address that its certificate could be for".into())
        }
        Some(name) if ServerName::try_from(name).is_err() => {
            Some(format!("tls.server_name {name:?} is neither a host name nor an IP address"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(tls: &str) -> Option<String> {
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n\
             [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\ntls = {{ {tls} }}\n"
        );
        Config::parse(&text, "test").err().map(|error| error.to_string())
    }

    #[test]
    fn tls_to_a_backend_is_checked() {
        for good in ["", "server_name = \"app.internal\"", "server_name = \"::1\"", "certificate = \"a\", key = \"b\""]
        {
            assert_eq!(wrong(good), None, "{good}");
        }
        for (bad, says) in [
            ("server_name = \"a b\"", "neither a host name nor an IP address"),
            ("server_name = \"\"", "neither a host name nor an IP address"),
            ("certificate = \"a\"", "belong together"),
            ("key = \"b\"", "belong together"),
            ("verify = false", "unknown field `verify`"),
            ("cipher_suites = [\"RC4\"]", "TLS_AES_128_GCM_SHA256"),
        ] {
            assert!(wrong(bad).is_some_and(|what| what.contains(says)), "{bad}: {:?}", wrong(bad));
        }
    }

    #[test]
    fn no_server_is_a_unix_listener_of_the_same_configuration() {
        let with = |server: &str| {
            let text = format!(
                "[[listener]]\nbind = \"unix:/run/sluice.sock\"\n[[route]]\nbackend = \"app\"\n\
                 [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\", \"{server}\"]\n"
            );
            Config::parse(&text, "test").err().map(|error| error.to_string())
        };
        assert_eq!(with("unix:/run/app.sock"), None);
        let wrong = with("unix:/run/sluice.sock").unwrap_or_default();
        assert!(wrong.contains("backend \"app\": its server unix:/run/sluice.sock is a [[listener]]"), "{wrong}");
    }

    #[test]
    fn a_cookie_is_checked() {
        let wrong = |sticky: &str| wrong(&format!("}}\nsticky = {{ {sticky}"));
        for good in ["", "lifetime = \"2s\", cookie = \"room-1\"", "lifetime = \"365days\""] {
            assert_eq!(wrong(good), None, "{good}");
        }
        for (bad, says) in [
            ("cookie = \"a b\"", "sticky.cookie \"a b\" is no cookie's name"),
            ("lifetime = \"900ms\"", "backend \"app\": sticky.lifetime is below 2s"),
            ("lifetime = \"1999ms\"", "below 2s"),
        ] {
            assert!(wrong(bad).is_some_and(|what| what.contains(says)), "{bad}: {:?}", wrong(bad));
        }
    }

    #[test]
    fn rates_are_checked() {
        let wrong = |limits: &str| wrong_listener("127.0.0.1:0", &format!("[limits]\n{limits}"));
        for good in [
            "handshakes = { rate = 1 }",
            "handshakes = { rate = 10, per = \"1m\", burst = 20 }",
            "per_client = { connections = 3, handshakes = { rate = 5 }, ipv4_prefix = 24, ipv6_prefix = 48 }",
        ] {
            assert_eq!(wrong(good), None, "{good}");
        }
        for (bad, says) in [
            ("handshakes = { rate = 0 }", "from 1 to 1000000"),
            ("handshakes = { rate = 1, burst = 0 }", "from 1 to 1000000"),
            ("handshakes = { rate = 1, per = \"2h\" }", "from 1ms to 1h"),
            ("handshakes = { burst = 1 }", "missing field `rate`"),
            ("per_client = { handshakes = { rate = 2000000 } }", "limits.per_client: handshakes.rate"),
            ("per_client = { ipv4_prefix = 33 }", "at most 32"),
            ("per_client = { addresses = 0 }", "from 1 to 4194304"),
        ] {
            assert!(wrong(bad).is_some_and(|what| what.contains(says)), "{bad}: {:?}", wrong(bad));
        }
        let route = wrong_listener("127.0.0.1:0", "[[route]]\nbackend = \"app\"\nlimits.handshakes.rate = 0\n");
        assert!(route.is_some_and(|what| what.contains("[[route]] 1") && what.contains("from 1 to")));
    }

    #[test]
    fn a_listener_for_both_families_is_told_of_another_for_one() {
        let both = |more: &str| wrong_listener("0.0.0.0:443", &format!("[[listener]]\nbind = \"[::]:443\"\n{more}"));
        assert!(both("").is_some_and(|what| what.contains("0.0.0.0:443 is another listener")));
        assert_eq!(both("ipv6_only = true"), None);
    }

    fn wrong_listener(bind: &str, more: &str) -> Option<String> {
        let text = format!(
            "[[listener]]\nbind = {bind:?}\n{more}\n[[route]]\nbackend = \"app\"\n\
             [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n"
        );
        Config::parse(&text, "test").err().map(|error| error.to_string())
    }

    #[test]
    fn listeners_are_checked() {
        let tls = |more: &str| format!("tls = {{ certificate = \"c\", key = \"k\", {more} }}");
        for (bind, good) in [
            ("127.0.0.1:0", "backlog = 1\nreuse_port = true".to_owned()),
            ("[::]:443", "ipv6_only = true".into()),
            ("unix:/run/a.sock", "mode = \"0600\"\nproxy_protocol = { from = [\"unix\"] }".into()),
            ("127.0.0.1:0", "proxy_protocol = { from = [\"10.0.0.0/8\", \"::1\"] }".into()),
            ("127.0.0.1:0", tls("min_version = \"1.3\", cipher_suites = [\"TLS_AES_256_GCM_SHA384\"]")),
            ("127.0.0.1:0", tls("client_auth = { ca = \"ca\", mode = \"optional\" }, session_tickets = false")),
            ("127.0.0.1:0", tls("certificates = [{ certificate = \"d\", key = \"l\", names = [\"*.a.test\"] }]")),
        ] {
            assert_eq!(wrong_listener(bind, &good), None, "{good}");
        }
        for (bind, bad, says) in [
            ("localhost:80", String::new(), "no IP address"),
            ("127.0.0.1:0", "ipv6_only = true".into(), "IPv6 addresses"),
            ("unix:/a", "ipv6_only = true".into(), "IPv6 addresses"),
            ("unix:/a", "reuse_port = true".into(), "IP addresses"),
            ("127.0.0.1:0", "mode = \"0600\"".into(), "unix: sockets"),
            ("unix:/a", "mode = \"rw\"".into(), "permissions"),
            ("unix:/a", "mode = \"7777\"".into(), "permissions"),
            ("127.0.0.1:0", "backlog = 0".into(), "backlog"),
            ("127.0.0.1:0", "proxy_protocol = { from = [] }".into(), "names nobody"),
            ("127.0.0.1:0", "proxy_protocol = { from = [\"10.0.0.0/99\"] }".into(), "no network"),
            ("127.0.0.1:0", tls("min_version = \"1.1\""), "1.2"),
            ("127.0.0.1:0", tls("min_version = \"1.3\", max_version = \"1.2\""), "above max_version"),
            ("127.0.0.1:0", tls("cipher_suites = [\"RC4\"]"), "TLS_AES_128_GCM_SHA256"),
            ("127.0.0.1:0", tls("client_auth = { mode = \"optional\" }"), "missing field `ca`"),
            ("127.0.0.1:0", tls("client_auth = { ca = \"a\", mode = \"maybe\" }"), "unknown value `maybe`"),
            (
                "127.0.0.1:0",
                tls("certificates = [{ certificate = \"d\", key = \"l\", names = [\"a b\"] }]"),
                "neither a host name",
            ),
        ] {
            assert!(wrong_listener(bind, &bad).is_some_and(|what| what.contains(says)), "{bind} {bad}");
        }
    }
}
