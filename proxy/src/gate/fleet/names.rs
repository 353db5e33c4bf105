//! Keeps the servers that a name stands for up to date.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Site;
use crate::config::{Address, Dns, Server, ServerAddress};
use crate::gate::Gate;
use crate::gate::resolve::{self, Named};
use crate::handoff::{Found, MOST_FOUND, ToKeeper};

/// A name in the configuration.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Name {
    backend: u16,
    /// Its place among the backend's servers.
    entry: u16,
    /// When to ask for it (again).
    due: Duration,
    /// What was wrong the last time, as it has been logged.
    trouble: Option<&'static str>,
}

/// Something is wrong with a name.
struct Trouble {
    what: &'static str,
    error: String,
}

/// What came of asking for a name.
struct Asked {
    /// When to ask again.
    due: Duration,
    trouble: Option<Trouble>,
}

/// Asks for every name once, all at the same time, so that the first clients find servers. Those that earlier gates have
/// found out need not be waited for. Cancel safe.
pub(in crate::gate) async fn first(gate: &Arc<Gate>) -> Vec<Name> {
    let mut names = Vec::new();
    for (backend, settings) in (0..).zip(&gate.config.backends) {
        let entries = (0..).zip(&settings.servers).filter(|(_, server)| server.address.fixed().is_none());
        names.extend(entries.map(|(entry, _)| Name { backend, entry, due: Duration::ZERO, trouble: None }));
    }
    let known = |name: &Name| gate.fleet(name.backend).is_some_and(|fleet| fleet.knows(name.entry));
    let (mut names, mut unknown): (Vec<_>, Vec<_>) = names.into_iter().partition(known);
    join_all(unknown.iter_mut().map(|name| name.refresh(gate))).await;
    names.append(&mut unknown);
    names
}

/// Asks for a name whenever it is time, for ever.
pub(in crate::gate) async fn watch(gate: Arc<Gate>, mut name: Name) {
    loop {
        sleep(name.due).await;
        name.refresh(&gate).await;
    }
}

impl Name {
    async fn refresh(&mut self, gate: &Gate) {
        let Some(backend) = gate.config.backends.get(usize::from(self.backend)) else { return };
        let Some(server) = backend.servers.get(usize::from(self.entry)) else { return };
        let Asked { due, trouble } = self.ask(gate, server).await;
        self.due = due;
        let before = std::mem::replace(&mut self.trouble, trouble.as_ref().map(|trouble| trouble.what));
        let (backend, name) = (&backend.name, server.address.to_string());
        match trouble {
            // For hours, perhaps: said once.
            Some(Trouble { what, error }) if before == Some(what) => tracing::debug!(backend, name, error, "{what}"),
            Some(Trouble { what, error }) => tracing::warn!(backend, name, error, "{what}"),
            None if before.is_some() => tracing::info!(backend, name, "the name is looked up without trouble again"),
            None => {}
        }
    }

    /// Asks for it, and takes what it stands for into use.
    async fn ask(&self, gate: &Gate, server: &Server) -> Asked {
        let answer = match look_up(server.address.clone(), gate.config.dns.clone()).await {
            Ok(answer) => answer,
            Err(error) => {
                let what = "a name cannot be looked up; the servers that it stood for stay";
                let trouble = Trouble { what, error: format!("{error:#}") };
                return Asked { due: gate.config.dns.min_ttl, trouble: Some(trouble) };
            }
        };
        let (due, partial) = (answer.good_for, answer.partial);
        let count = answer.servers.len();
        let trouble = match adopt(gate, self, server, answer.servers, partial).await {
            Err(error) => Some(("the keeper cannot be told of a name's servers", error.to_string())),
            Ok((placed, _)) if placed < count => {
                let error = format!("it names {count} servers; a backend has room for {MOST_FOUND} that are found");
                Some(("a name stands for more servers than are used", error))
            }
            Ok(_) if partial => answer
                .trouble
                .map(|error| ("a part of a name cannot be looked up; the servers that were there stay", error)),
            Ok((_, shared)) => match (answer.trouble, shared) {
                (Some(error), _) => Some(("a part of a name's servers has no address", error)),
                (None, Some(address)) => {
                    let error = format!("{address} counts by each of them, as if it were several servers");
                    Some(("a server of a name is in the backend's servers by another entry as well", error))
                }
                (None, None) => None,
            },
        };
        Asked { due, trouble: trouble.map(|(what, error)| Trouble { what, error }) }
    }
}

/// As [`resolve::look_up`], in a task of its own: should it fail over what a DNS server sends, it does so alone. Cancel safe.
async fn look_up(address: ServerAddress, settings: Dns) -> anyhow::Result<resolve::Answer> {
    let mut task = JoinSet::new();
    task.spawn(async move { resolve::look_up(&address, &settings).await });
    task.join_next().await.context("the look-up has not begun")?.context("the look-up failed")?
}

/// These are the servers of the name from now on, and if they are only a `part`, those that it has had as well. Returns
/// for how many there was room, and one that another entry has as well. Cancel safe: what has been done is not undone,
/// and is done again.
async fn adopt(
    gate: &Gate,
    name: &Name,
    settings: &Server,
    named: Vec<Named>,
    part: bool,
) -> std::io::Result<(usize, Option<Address>)> {
    let Some(fleet) = gate.fleet(name.backend) else { return Ok((0, None)) };
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
    for (server, site) in fleet.list(name.entry, &placed, part) {
        tell(gate, name, server, &site, false).await?;
    }
    Ok((placed.len(), fleet.shared(name.entry)))
}

async fn tell(gate: &Gate, name: &Name, server: u16, site: &Site, listed: bool) -> std::io::Result<()> {
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
