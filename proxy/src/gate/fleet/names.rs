//! Keeps the servers that a name stands for up to date.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::Site;
use crate::config::{Address, Server};
use crate::gate::Gate;
use crate::gate::resolve::{self, Named};
use crate::handoff::{Found, ToKeeper};

/// A name in the configuration.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct Name {
    backend: u16,
    /// Its place among the backend's servers.
    entry: u16,
    /// When to ask for it (again).
    due: Duration,
}

/// Asks for every name once, all at the same time, so that the first clients find servers. Those that earlier gates have
/// found out need not be waited for. Cancel safe.
pub(in crate::gate) async fn first(gate: &Arc<Gate>) -> Vec<Name> {
    let mut names = Vec::new();
    for (backend, settings) in (0..).zip(&gate.config.backends) {
        let entries = (0..).zip(&settings.servers).filter(|(_, server)| server.address.fixed().is_none());
        names.extend(entries.map(|(entry, _)| Name { backend, entry, due: Duration::ZERO }));
    }
    let known = |name: &Name| gate.fleet(name.backend).is_some_and(|fleet| fleet.knows(name.entry));
    let (known, mut unknown): (Vec<_>, Vec<_>) = names.into_iter().partition(known);
    join_all(unknown.iter_mut().map(|name| async { name.due = ask(gate, *name).await })).await;
    [known, unknown].concat()
}

/// Asks for a name whenever it is time, for ever.
pub(in crate::gate) async fn watch(gate: Arc<Gate>, mut name: Name) {
    loop {
        sleep(name.due).await;
        name.due = ask(&gate, name).await;
    }
}

/// Asks for a name, and takes what it stands for into use. Returns when to ask again.
async fn ask(gate: &Gate, name: Name) -> Duration {
    let Some(backend) = gate.config.backends.get(usize::from(name.backend)) else { return Duration::MAX };
    let Some(server) = backend.servers.get(usize::from(name.entry)) else { return Duration::MAX };
    let error = match resolve::look_up(&server.address, &gate.config.dns).await {
        Ok(answer) => match adopt(gate, name, server, answer.servers).await {
            Ok(()) => return answer.good_for,
            Err(error) => error.into(),
        },
        Err(error) => error,
    };
    let (backend, server, error) = (&backend.name, server.address.to_string(), format!("{error:#}"));
    tracing::warn!(backend, server, error, "a name cannot be looked up; the servers that it stood for stay");
    gate.config.dns.min_ttl
}

/// These are the servers of the name from now on.
async fn adopt(gate: &Gate, name: Name, settings: &Server, named: Vec<Named>) -> std::io::Result<()> {
    let Some(fleet) = gate.fleet(name.backend) else { return Ok(()) };
    let sites = named.into_iter().map(|named| Site {
        address: Address::Inet(named.address),
        host: Some(named.host.as_str().into()),
        entry: name.entry,
        weight: settings.weight * named.weight,
        backup: settings.backup || named.backup,
        most: settings.max_connections,
    });
    let placed = fleet.place(sites.collect());
    // The keeper knows of a server before the first pair on it.
    for (server, site) in placed.iter().filter(|(server, site)| fleet.is_news(*server, site)) {
        tell(gate, name, *server, site, true).await?;
    }
    for (server, site) in fleet.list(name.entry, &placed) {
        tell(gate, name, server, &site, false).await?;
    }
    Ok(())
}

async fn tell(gate: &Gate, name: Name, server: u16, site: &Site, listed: bool) -> std::io::Result<()> {
    let Some(address) = site.address.inet() else { return Ok(()) };
    let host = site.host.as_deref().unwrap_or_default().to_owned();
    let backend = gate.config.backends.get(usize::from(name.backend)).map(|backend| &backend.name);
    let what = if listed { "the name stands for a server" } else { "the name stands for a server no more" };
    tracing::info!(backend, host, server = %address, "{what}");
    let (backend, entry) = (name.backend, name.entry);
    let (weight, backup, most) = (site.weight, site.backup, site.most);
    let found = Found { backend, server, entry, address, host, weight, backup, most, listed };
    gate.control.send(&ToKeeper::Found(found), &[]).await
}
