//! How names are looked up.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;
use super::schema::{SocketAddress, Span};

/// How the names of servers are looked up. A name is asked for again when its records' time to live is over; while there
/// is no answer, the servers that were found last stay. Connections to a server that the name no longer stands for live
/// on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// DNS servers, as `"10.0.0.2:53"`. None: those in /etc/resolv.conf, and the names in /etc/hosts.
    #[schemars(with = "Vec<SocketAddress>")]
    pub servers: Vec<SocketAddr>,
    /// How long one answer may take, with all that is sent again and all servers that are asked. Sluice starts without an
    /// answer behind it. 5 s: what resolvers do by default.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub timeout: Duration,
    /// A name is not asked for more often than this, whatever its records say, and this often while there is no answer.
    /// 1 s: a time to live of zero would ask for ever.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub min_ttl: Duration,
    /// A name is asked for this often at least, whatever its records say. 60 s: servers that were added get their share
    /// within a minute.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub max_ttl: Duration,
}

/// Asked for more often, a name is load for DNS servers that nobody has use for.
const LEAST_TTL: Duration = Duration::from_millis(100);

impl Dns {
    /// What is wrong with it.
    pub(super) fn wrong(&self) -> Option<String> {
        if self.min_ttl < LEAST_TTL {
            return Some(
                "min_ttl is below 100 ms: while there is no answer, a name would be asked for in a rush".into(),
            );
        }
        self.timeout.is_zero().then(|| "timeout is 0, in which nobody can answer".into())
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_would_ask_in_a_rush_or_never_is_told_so() {
        let wrong = |dns: &str| {
            let text = format!(
                "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n\
                 [[backend]]\nname = \"app\"\nservers = [\"app.test:80\"]\n[dns]\n{dns}\n"
            );
            Config::parse(&text, "test").err().map(|error| error.to_string())
        };
        assert_eq!(wrong("servers = [\"10.0.0.1:53\"]\nmin_ttl = \"100ms\"\nmax_ttl = \"10ms\""), None);
        for (bad, says) in [("min_ttl = \"99ms\"", "min_ttl is below"), ("timeout = \"0s\"", "no time at all")] {
            assert!(wrong(bad).is_some_and(|what| what.contains(says)), "{bad}: {:?}", wrong(bad));
        }
    }
}
