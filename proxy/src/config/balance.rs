//! Which server of a backend is next.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::is_token;

/// How a server is chosen among those that may be: up, not draining, not full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Each in turn, as often as its weight says, evenly interleaved. The default: it asks nothing of the servers or the
    /// requests, and one that is broken and drops its connections at once gets no more than its share for it.
    #[default]
    RoundRobin,
    /// The one with the fewest connections for its weight, by what this Sluice has open. For connections that live for
    /// hours: a server that joins late, or comes back, is filled up first.
    LeastConnections,
    /// The less loaded of two that are drawn by lot. Nearly as even as `least-connections`; several Sluices that see the
    /// same picture do not all run to the same server.
    PowerOfTwo,
    /// The client's address decides (weighted rendezvous hash), the same on every Sluice. If a server goes, only its
    /// own clients move. Clients behind one NAT are one client.
    SourceIp,
    /// What this names decides, by a consistent hash (Maglev), the same on every Sluice with the same servers: requests
    /// for one room, say, meet on one server. If a server goes, few others' clients move. A request that has no such
    /// thing is served in turn.
    Maglev(HashOn),
}

/// What a consistent hash looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HashOn {
    /// The client's address.
    Address,
    /// The path as the client asked for it, in its plain form, without the query.
    Path,
    /// The header field of this name, in any case; of several the first.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
    /// The query's parameter of this name; of several the first.
    Query(String),
}

impl Balance {
    /// What is wrong with it by itself.
    pub(super) fn wrong(&self) -> Option<String> {
        let Self::Maglev(on) = self else { return None };
        let (what, name) = match on {
            HashOn::Address | HashOn::Path => return None,
            HashOn::Query(name) if name.is_empty() => return Some("balance.maglev.query has no name".into()),
            HashOn::Query(_) => return None,
            HashOn::Header(name) => ("header", name),
            HashOn::Cookie(name) => ("cookie", name),
        };
        (!is_token(name)).then(|| format!("balance.maglev.{what} {name:?} is no name: use letters, digits, - and _"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;

    fn read(balance: &str) -> Result<Balance, String> {
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n\
             [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n{balance}\n"
        );
        let config = Config::parse(&text, "test").map_err(|error| error.to_string())?;
        // As the keeper sends it to the gate.
        let sent: Config = postcard::from_bytes(&postcard::to_stdvec(&config).unwrap()).unwrap();
        let [read, sent] = [config, sent].map(|mut config| config.backends.remove(0).balance);
        assert_eq!(read, sent);
        Ok(read)
    }

    #[test]
    fn every_way_can_be_written() {
        assert_eq!(read(""), Ok(Balance::RoundRobin));
        for (text, balance) in [
            ("'round-robin'", Balance::RoundRobin),
            ("'least-connections'", Balance::LeastConnections),
            ("'power-of-two'", Balance::PowerOfTwo),
            ("'source-ip'", Balance::SourceIp),
            ("{ maglev = 'address' }", Balance::Maglev(HashOn::Address)),
            ("{ maglev = 'path' }", Balance::Maglev(HashOn::Path)),
            ("{ maglev = { header = 'x-room' } }", Balance::Maglev(HashOn::Header("x-room".into()))),
            ("{ maglev = { cookie = 'sid' } }", Balance::Maglev(HashOn::Cookie("sid".into()))),
            ("{ maglev = { query = 'room id' } }", Balance::Maglev(HashOn::Query("room id".into()))),
        ] {
            assert_eq!(read(&format!("balance = {text}")), Ok(balance));
        }
    }

    #[test]
    fn what_is_none_is_told_so() {
        for (text, says) in [
            ("'random'", "round-robin"),
            ("'maglev'", "maglev"),
            ("{ maglev = 'header' }", "header"),
            ("{ maglev = { header = 'x room' } }", "balance.maglev.header \"x room\" is no name"),
            ("{ maglev = { cookie = '' } }", "balance.maglev.cookie \"\" is no name"),
            ("{ maglev = { query = '' } }", "has no name"),
            ("{ maglev = { header = 'a', cookie = 'b' } }", ""),
            ("{ maglev = 'path', more = 1 }", ""),
        ] {
            let error = read(&format!("balance = {text}")).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
