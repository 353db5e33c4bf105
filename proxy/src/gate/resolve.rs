//! Asks the DNS which servers a name stands for.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::timeout_at;

use crate::config::{Dns, ServerAddress};
use crate::handoff::MOST_FOUND;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// In the order of their addresses, one or more.
    pub(super) servers: Vec<Named>,
    /// When to ask again.
    pub(super) good_for: Duration,
    /// A question was not answered: servers may be missing of which nobody has said that they are gone.
    pub(super) partial: bool,
    /// What an operator should know of it.
    pub(super) trouble: Option<String>,
}

/// One server of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) address: SocketAddr,
    /// The name that has this address, without a dot at its end.
    pub(super) host: String,
    /// Times the weight in the configuration.
    pub(super) weight: u32,
    /// There are others of a higher priority.
    pub(super) backup: bool,
}

/// What has been found so far.
struct Gathered {
    servers: Vec<Named>,
    valid_until: Instant,
    partial: bool,
    trouble: Option<String>,
}

/// A host that has a part of the servers: all of them, or those of one SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    weight: u32,
    backup: bool,
}

/// The largest weight that is made of an SRV record's, which go up to 65,535.
const MOST_WEIGHT: u32 = 100;

/// Targets of a service that are looked up at one time. 16: a DNS server drops what comes in floods.
const AT_ONCE: usize = 16;

/// Answers that are remembered from one question to the next of the same look-up, and no longer.
const REMEMBERED: u64 = 64;

/// Asks what a name stands for. The system's resolv.conf and hosts are read anew each time: they change, with a VPN for
/// one. It takes [`Dns::timeout`] at most, for a service twice that. Cancel safe.
///
/// # Errors
/// There is no answer, or none that names a server.
pub(super) async fn look_up(address: &ServerAddress, settings: &Dns) -> anyhow::Result<Answer> {
    let asking = Asking::new(settings)?;
    let gathered = match address {
        ServerAddress::At(at) => anyhow::bail!("{at} is no name"),
        ServerAddress::Name { host, port } => {
            let target = Target { host: host.clone(), port: *port, weight: 1, backup: false };
            asking.addresses(&target, asking.deadline()).await.map_err(|error| anyhow::anyhow!(said(&error)))?
        }
        ServerAddress::Service(name) => asking.service(name).await?,
    };
    anyhow::ensure!(!gathered.servers.is_empty(), "none of its addresses can be a server's");
    Ok(gathered.answer(Instant::now(), settings))
}

/// One look-up.
struct Asking<'a> {
    resolver: TokioResolver,
    hosts: Hosts,
    settings: &'a Dns,
}

impl<'a> Asking<'a> {
    fn new(settings: &'a Dns) -> anyhow::Result<Self> {
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
        // Over UDP a question is sent again within the timeout; behind it, the next look-up is not far.
        options.attempts = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = REMEMBERED;
        // A machine without the file has no such names.
        let hosts =
            if settings.servers.is_empty() { Hosts::from_system().unwrap_or_default() } else { Hosts::default() };
        Ok(Self { resolver: builder.build()?, hosts, settings })
    }

    /// When what is asked now must be answered.
    fn deadline(&self) -> tokio::time::Instant {
        let now = tokio::time::Instant::now();
        now.checked_add(self.settings.timeout).unwrap_or(now)
    }

    /// All addresses of a name.
    ///
    /// # Errors
    /// It has none, or nothing is known of any.
    async fn addresses(&self, target: &Target, by: tokio::time::Instant) -> Result<Gathered, NetError> {
        let mut gathered = Gathered::nothing();
        if let Some(addresses) = self.in_hosts(&target.host) {
            gathered.take(target, addresses);
            return Ok(gathered);
        }
        let found = timeout_at(by, self.resolver.lookup_ip(&*target.host)).await.unwrap_or(Err(NetError::Timeout))?;
        gathered.take(target, found.iter());
        gathered.valid_until = found.valid_until();
        let Some(other) = other_family(found.iter()) else { return Ok(gathered) };
        // The resolver does not tell whether there is none of the other family, or no answer. Of what has been answered
        // it remembers the answer.
        let mut name = found.query().name().clone();
        name.set_fqdn(true);
        match timeout_at(by, self.resolver.lookup(name, other)).await.unwrap_or(Err(NetError::Timeout)) {
            Ok(more) => {
                gathered.take(target, more.answers().iter().filter_map(|record| record.data.ip_addr()));
                gathered.valid_until = gathered.valid_until.min(more.valid_until());
            }
            Err(error) if error.is_no_records_found() => {}
            Err(error) => gathered.lacks(format!("its {other} records: {}", said(&error))),
        }
        Ok(gathered)
    }

    /// The addresses that /etc/hosts has for a name. As with the system's own resolver, the DNS is then not asked.
    fn in_hosts(&self, host: &str) -> Option<Vec<IpAddr>> {
        let name = Name::from_ascii(host).ok()?;
        let found = [RecordType::A, RecordType::AAAA]
            .map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        let found: Vec<_> = found.iter().flatten().flat_map(|found| found.answers()).collect();
        Some(found.iter().filter_map(|record| record.data.ip_addr()).collect())
            .filter(|found: &Vec<_>| !found.is_empty())
    }

    /// The servers of a service (RFC 2782).
    async fn service(&self, name: &str) -> anyhow::Result<Gathered> {
        let found = timeout_at(self.deadline(), self.resolver.srv_lookup(name)).await.unwrap_or(Err(NetError::Timeout));
        let found = found.map_err(|error| anyhow::anyhow!(said(&error)))?;
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(record) => Some(record),
            _ => None,
        });
        let targets = targets(records);
        anyhow::ensure!(!targets.is_empty(), "its SRV records name no server");
        let by = self.deadline();
        let asked = targets.into_iter().map(|target| async move {
            let answer = self.addresses(&target, by).await;
            (target, answer)
        });
        let answers: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        let mut gathered = Gathered { valid_until: found.valid_until(), ..Gathered::nothing() };
        answers.into_iter().for_each(|(target, answer)| gathered.merge(&target, answer));
        match gathered.trouble {
            Some(trouble) if gathered.servers.is_empty() => anyhow::bail!(trouble),
            _ => Ok(gathered),
        }
    }
}

impl Gathered {
    fn nothing() -> Self {
        // Of what nothing limits, the settings do.
        let valid_until = Instant::now() + Duration::from_secs(hickory_resolver::MAX_TTL.into());
        Self { servers: Vec::new(), valid_until, partial: false, trouble: None }
    }

    /// A target has these addresses. Those that nobody can be connected to are left out: some DNS servers give them to
    /// say that a name is blocked.
    fn take(&mut self, target: &Target, addresses: impl IntoIterator<Item = IpAddr>) {
        let host = target.host.strip_suffix('.').unwrap_or(&target.host);
        let real = addresses.into_iter().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        self.servers.extend(real.map(|ip| Named {
            address: SocketAddr::new(ip, target.port),
            host: host.to_owned(),
            weight: target.weight,
            backup: target.backup,
        }));
    }

    /// A question was not answered.
    fn lacks(&mut self, trouble: String) {
        self.partial = true;
        self.trouble.get_or_insert(trouble);
    }

    fn merge(&mut self, target: &Target, answer: Result<Self, NetError>) {
        let host = &target.host;
        match answer {
            Ok(more) => {
                self.servers.extend(more.servers);
                self.valid_until = self.valid_until.min(more.valid_until);
                self.partial |= more.partial;
                self.trouble = self.trouble.take().or(more.trouble.map(|trouble| format!("{host}: {trouble}")));
            }
            Err(error) if error.is_no_records_found() => {
                self.trouble.get_or_insert_with(|| format!("{host}: {}", said(&error)));
            }
            Err(error) => self.lacks(format!("{host}: {}", said(&error))),
        }
    }

    /// The same servers in the same order, in whatever order the DNS had them: else they would seem to change.
    fn answer(self, now: Instant, settings: &Dns) -> Answer {
        let Self { mut servers, valid_until, partial, trouble } = self;
        servers.sort_by(|a, b| {
            let heavier = b.weight.cmp(&a.weight);
            a.address.cmp(&b.address).then(a.backup.cmp(&b.backup)).then(heavier).then_with(|| a.host.cmp(&b.host))
        });
        servers.dedup_by_key(|server| server.address);
        let left = if partial { Duration::ZERO } else { valid_until.saturating_duration_since(now) };
        // Both bounds are settings: the smaller one may be the larger.
        Answer { servers, good_for: left.min(settings.max_ttl).max(settings.min_ttl), partial, trouble }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

/// The family of which none of these is, if all are of one.
fn other_family(mut addresses: impl Iterator<Item = IpAddr>) -> Option<RecordType> {
    let four = addresses.next()?.is_ipv4();
    let other = if four { RecordType::AAAA } else { RecordType::A };
    addresses.all(|address| address.is_ipv4() == four).then_some(other)
}

/// An error as the log has it.
fn said(error: &NetError) -> String {
    match error {
        error if error.is_nx_domain() => "there is no such name".into(),
        error if error.is_no_records_found() => "it has no such records".into(),
        error => error.to_string(),
    }
}

/// Where the servers of a service are. Those of the lowest number take precedence; the others are backups. A root as the
/// target says that there is no such service.
fn targets<'a>(records: impl Iterator<Item = &'a SRV>) -> Vec<Target> {
    let mut records: Vec<&SRV> = records.filter(|record| !record.target.is_root() && record.port != 0).collect();
    records.sort_by_key(|record| record.priority);
    records.truncate(MOST_FOUND.into());
    let first = records.first().map_or(0, |record| record.priority);
    let of = |backup: bool| {
        let weights = records.iter().filter(|record| (record.priority != first) == backup).map(|record| record.weight);
        Weights::of(weights)
    };
    let (mains, backups) = (of(false), of(true));
    let target = |record: &&SRV| {
        let backup = record.priority != first;
        let weight = if backup { backups } else { mains }.share(record.weight);
        Target { host: record.target.to_ascii(), port: record.port, weight, backup }
    };
    records.iter().map(target).collect()
}

/// The weights of records among which requests are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weights {
    heaviest: u32,
    /// One has none.
    zero: bool,
}

impl Weights {
    fn of(weights: impl Iterator<Item = u16> + Clone) -> Self {
        Self {
            heaviest: weights.clone().max().unwrap_or(0).into(),
            zero: weights.into_iter().any(|weight| weight == 0),
        }
    }

    /// The share of one of them. RFC 2782 wants a server of weight 0 to get very little next to others, and as much as they
    /// if all have 0.
    fn share(self, weight: u16) -> u32 {
        let weight = u32::from(weight);
        if self.heaviest > MOST_WEIGHT {
            return (weight * MOST_WEIGHT).div_ceil(self.heaviest).max(1);
        }
        let times = if self.zero { MOST_WEIGHT.checked_div(self.heaviest).unwrap_or(1) } else { 1 };
        (weight * times).max(1)
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
