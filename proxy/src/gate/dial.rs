//! Finds a server for a request, and connects to it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::Gate;
use super::balance::Ask;
use super::fleet::{Berth, Fleet, Site, Wish};
use super::handshake::Scheme;
use super::policy::Way;
use super::pool::Purpose;
use super::proxy_header::{self, Ends};
use super::refusal::Refusal;
use super::spelling::Spelling;
use super::sticky::Kept;
use super::stream::Stream;
use super::upstream::{Dialling, Failure};
use crate::config::Backend;
use crate::handoff::ConnId;
use crate::handoff::stats::Short;
use crate::sys::clock::epoch_ms;

/// What is known of a request for which a server is looked for.
#[derive(Clone, Copy)]
pub(super) struct Errand {
    pub(super) way: Way,
    /// Whose connections it may use.
    pub(super) purpose: Purpose,
    /// What the client's cookie says.
    pub(super) kept: Option<Kept>,
    /// Of what consistent hashing looks at.
    pub(super) key: Option<u64>,
    /// What a PROXY header tells of the client.
    pub(super) ends: Option<Ends>,
    /// When the answer must be there, if that is sooner than the timeouts of the route say.
    pub(super) by: Option<Instant>,
    pub(super) id: ConnId,
}

impl Errand {
    /// What is left of a time that one step of it may take.
    pub(super) fn left(&self, most: Duration) -> Duration {
        self.by.map_or(most, |by| most.min(by.saturating_duration_since(Instant::now())))
    }
}

/// The search for a server that can be reached.
pub(super) struct Search<'a> {
    errand: Errand,
    fleet: &'a Arc<Fleet>,
    settings: &'a Backend,
    tried: Vec<u16>,
    /// What the last one of them said.
    last: Option<Refusal>,
}

impl Search<'_> {
    /// A place on the next server to try. Cancel safe.
    ///
    /// # Errors
    /// What the last one said that was tried; else what [`Fleet::take`] says.
    pub(super) async fn next(&mut self) -> Result<Berth, Refusal> {
        if let Some(last) = self.last.filter(|_| self.tried.len() > self.settings.retries as usize) {
            return Err(last);
        }
        let ask = Ask { key: self.errand.key, random: rand::random() };
        let wish = Wish { ask, kept: self.errand.kept.map(|kept| kept.server), tried: &self.tried };
        self.fleet.take(wish).await.map_err(|refusal| self.last.unwrap_or(refusal))
    }

    /// That server cannot be used: nothing has been asked of it.
    pub(super) fn failed(&mut self, berth: &Berth, failure: &Failure) {
        let (backend, server) = (&self.settings.name, berth.address());
        tracing::info!(conn = %self.errand.id, backend, server, %failure, "dial failed");
        berth.failed(failure);
        self.tried.push(berth.server());
        self.last = Some(failure.refusal);
    }
}

impl Gate {
    /// The servers of a backend.
    pub(super) fn fleet(&self, backend: u16) -> Option<&Arc<Fleet>> {
        self.fleets.get(usize::from(backend))
    }

    /// How the names of header fields are written for a backend.
    pub(super) fn spelling(&self, backend: u16) -> &Spelling {
        self.spellings.get(usize::from(backend)).unwrap_or(Spelling::LOWER)
    }

    /// Begins to look for a server.
    ///
    /// # Errors
    /// There is no such backend, which no route has.
    pub(super) fn search(&self, errand: Errand) -> Result<Search<'_>, Refusal> {
        let fleet = self.fleet(errand.way.backend).ok_or(Refusal::Internal)?;
        let settings = self.config.backends.get(usize::from(errand.way.backend)).ok_or(Refusal::Internal)?;
        Ok(Search { errand, fleet, settings, tried: Vec::new(), last: None })
    }

    /// Connects to a server of a backend. Cancel safe.
    ///
    /// # Errors
    /// What the last dial said.
    pub(super) async fn dial(&self, errand: Errand) -> Result<(Berth, Stream), Refusal> {
        let mut search = self.search(errand)?;
        loop {
            let berth = search.next().await?;
            match self.connect(&errand, &berth).await {
                Ok(stream) => return Ok((berth, stream)),
                Err(failure) => search.failed(&berth, &failure),
            }
        }
    }

    /// Connects to the server that a request has a place on. Cancel safe.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(super) async fn connect(&self, errand: &Errand, berth: &Berth) -> Result<Stream, Failure> {
        let site = berth.site().ok_or(Refusal::Internal)?;
        let Way { route, backend } = errand.way;
        // Half of what is left: if this server is not reached, there is time for another one.
        let patience = errand.left(Duration::MAX) / 2;
        self.connect_to(backend, &site, errand.ends, self.config.timeouts(route).dial.min(patience)).await
    }

    /// Connects to a server within this time. One that wants to know is told the client's ends in a PROXY header. Cancel
    /// safe.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(super) async fn connect_to(
        &self,
        backend: u16,
        site: &Site,
        ends: Option<Ends>,
        patience: Duration,
    ) -> Result<Stream, Failure> {
        let (Some(settings), Some(sources)) =
            (self.config.backends.get(usize::from(backend)), self.sources.get(usize::from(backend)))
        else {
            return Err(Refusal::Internal.into());
        };
        let tls = self.loaded.connector(backend);
        let hello = settings.send_proxy.map(|version| proxy_header::write(version, ends)).transpose();
        let hello = hello.map_err(|_| Refusal::Internal)?.unwrap_or_default();
        let dialling = Dialling { hello: &hello, tls: tls.as_deref(), arming: &self.arming, sources, patience };
        let dialled = dialling.dial(&site.address, site.host.as_deref()).await;
        dialled.inspect_err(|failure| {
            if failure.refusal == Refusal::Full {
                self.short(Short::Dial, failure.cause());
            }
        })
    }

    /// The Set-Cookie for a client that has been answered by this server, if it needs one.
    pub(super) fn stick(&self, errand: &Errand, server: u16, scheme: Scheme) -> Option<HeaderValue> {
        let good = errand.kept.is_some_and(|kept| kept.server == server && !kept.renew);
        let sticky = self.fleet(errand.way.backend).filter(|_| !good)?.sticky()?;
        sticky.issue(server, scheme == Scheme::Tls, epoch_ms() / 1000)
    }
}
