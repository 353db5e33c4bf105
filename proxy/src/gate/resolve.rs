//! Asks the DNS which servers a name stands for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

use crate::config::{Dns, ServerAddress};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// In the order of their addresses.
    pub(super) servers: Vec<Named>,
    /// When to ask again.
    pub(super) good_for: Duration,
}

/// One server of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) address: SocketAddr,
    /// The name that has this address.
    pub(super) host: String,
    /// Times the weight in the configuration.
    pub(super) weight: u32,
    /// There are others of a higher priority.
    pub(super) backup: bool,
}

/// The largest weight that is made of an SRV record's, which go up to 65,535.
const MOST_WEIGHT: u32 = 100;

/// Asks what a name stands for. The system's resolv.conf and hosts are read anew each time: they change, with a VPN for
/// one. Cancel safe.
///
/// # Errors
/// There is no answer, or none that names a server.
pub(super) async fn look_up(address: &ServerAddress, settings: &Dns) -> anyhow::Result<Answer> {
    let resolver = resolver(settings)?;
    let (mut servers, valid_until) = match address {
        ServerAddress::At(at) => anyhow::bail!("{at} is no name"),
        ServerAddress::Name { host, port } => addresses(&resolver, host, *port, (1, false)).await?,
        ServerAddress::Service(name) => service(&resolver, name).await?,
    };
    servers.sort_by_key(|server| (server.address, server.backup));
    servers.dedup_by_key(|server| server.address);
    let left = valid_until.saturating_duration_since(Instant::now());
    // Both bounds are settings: the smaller one may be the larger.
    Ok(Answer { servers, good_for: left.min(settings.max_ttl).max(settings.min_ttl) })
}

fn resolver(settings: &Dns) -> anyhow::Result<TokioResolver> {
    let mut builder = match settings.servers.as_slice() {
        [] => TokioResolver::builder_tokio()?,
        servers => {
            let servers = servers.iter().map(|server| name_server(*server)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.timeout = settings.timeout;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = if settings.servers.is_empty() { ResolveHosts::Always } else { ResolveHosts::Never };
    // It lives for one question.
    options.cache_size = 0;
    Ok(builder.build()?)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

/// All addresses of a name, and until when they are good.
async fn addresses(
    resolver: &TokioResolver,
    host: &str,
    port: u16,
    (weight, backup): (u32, bool),
) -> anyhow::Result<(Vec<Named>, Instant)> {
    let found = resolver.lookup_ip(host).await?;
    let named = |ip| Named { address: SocketAddr::new(ip, port), host: host.to_owned(), weight, backup };
    Ok((found.iter().map(named).collect(), found.valid_until()))
}

/// The servers of a service (RFC 2782). Those of the lowest number take precedence; the others are backups.
async fn service(resolver: &TokioResolver, name: &str) -> anyhow::Result<(Vec<Named>, Instant)> {
    let found = resolver.srv_lookup(name).await?;
    let mut valid_until = found.valid_until();
    let records = found.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(record) => Some(record),
        _ => None,
    });
    let mut servers = BTreeMap::new();
    let first = records.clone().map(|record| record.priority).min().unwrap_or_default();
    let heaviest = records.clone().map(|record| record.weight).max().unwrap_or_default();
    let mut missing = None;
    for record in records {
        // A root as the target says that there is no such service.
        let target = record.target.to_ascii();
        let target = target.strip_suffix('.').unwrap_or(&target);
        if target.is_empty() {
            continue;
        }
        let share = (share(record.weight, heaviest), record.priority != first);
        match addresses(resolver, target, record.port, share).await {
            Ok((found, until)) => {
                valid_until = valid_until.min(until);
                servers.extend(found.into_iter().map(|server| (server.address, server)));
            }
            Err(error) => {
                tracing::warn!(service = name, target, error = format!("{error:#}"), "a server has no address");
                missing = Some(error);
            }
        }
    }
    match (servers.is_empty(), missing) {
        (true, Some(error)) => Err(error),
        (true, None) => anyhow::bail!("its SRV records name no server"),
        _ => Ok((servers.into_values().collect(), valid_until)),
    }
}

/// A server's share among those of which the heaviest has the weight `of`. RFC 2782 wants a server of weight 0 to get
/// very little next to others, and as much as they if all have 0.
fn share(weight: u16, of: u16) -> u32 {
    let (weight, of) = (u32::from(weight), u32::from(of));
    if of <= MOST_WEIGHT { weight.max(1) } else { (weight * MOST_WEIGHT).div_ceil(of).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_proportions() {
        for (weight, of, expected) in [
            (0, 0, 1),
            (5, 10, 5),
            (0, 10, 1),
            (100, 100, 100),
            (65_535, 65_535, 100),
            (32_768, 65_535, 51),
            (0, 65_535, 1),
        ] {
            assert_eq!(share(weight, of), expected, "{weight} of {of}");
        }
    }
}
