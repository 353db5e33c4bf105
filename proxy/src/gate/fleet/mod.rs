//! The servers of a backend: which of them gets a request, how many are on each, and who waits while all are full.
//!
//! [`state`] decides, this file has the locks, the clock and the waiting. What a server is known by, an index, is the
//! same for the keeper and for every gate of its, so that counts of connections outlive a gate.

pub(super) mod check;
pub(super) mod names;
mod queue;
mod server;
mod state;

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tracing::field::DisplayValue;

use self::queue::Ticket;
use self::server::Server;
pub(super) use self::server::Site;
pub(super) use self::state::Wish;
use self::state::{Answer, Called, News, State};
use super::balance::health::Standing;
use super::balance::key::KeyOf;
use super::policy::Subject;
use super::refusal::Refusal;
use super::sticky::Sticky;
use super::upstream::Failure;
use crate::config::{Address, Backend};
use crate::handoff::{CookieKey, Found};
use crate::observe::BackendRow;

/// How often those who wait look whether time has made room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The servers of one backend.
pub(super) struct Fleet {
    settings: Backend,
    key_of: KeyOf,
    inner: Mutex<Inner>,
    relisted: Notify,
}

struct Inner {
    state: State,
    waiting: HashMap<Ticket, oneshot::Sender<Berth>>,
    keys: Vec<CookieKey>,
    /// Made of the keys and the servers.
    sticky: Option<Arc<Sticky>>,
}

/// A place on a server. Dropped, it is free for another.
pub(super) struct Berth {
    fleet: Arc<Fleet>,
    server: u16,
    /// When it was given.
    since: Instant,
    /// The keeper has the pair now: the place is taken until the keeper says that the pair has ended.
    handed_over: bool,
}

/// A request that waits. Dropped, it waits no more.
struct Waiting<'a> {
    fleet: &'a Fleet,
    ticket: Ticket,
    called: oneshot::Receiver<Berth>,
}

/// What becomes of a request.
enum Asked<'a> {
    Berth(Berth),
    Wait(Waiting<'a>),
    Refused(Refusal),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.fleet.lock();
        inner.state.cancel(self.ticket);
        inner.waiting.remove(&self.ticket);
    }
}

impl Fleet {
    /// `found`: what names stood for, as earlier gates found out. `keys`: what its clients' cookies are signed with.
    ///
    /// # Errors
    /// What hashing is to look at cannot be.
    pub(super) fn new<'a>(
        settings: &Backend,
        found: impl IntoIterator<Item = &'a Found>,
        keys: Vec<CookieKey>,
    ) -> anyhow::Result<Self> {
        let mut state = State::new(settings, Instant::now());
        found.into_iter().for_each(|found| state.restore(found, Instant::now()));
        let mut inner = Inner { state, waiting: HashMap::new(), keys, sticky: None };
        inner.bake(settings);
        let key_of = KeyOf::new(&settings.balance)?;
        Ok(Self { settings: settings.clone(), key_of, inner: Mutex::new(inner), relisted: Notify::new() })
    }

    /// Of what consistent hashing looks at in a request, if it does.
    pub(super) fn key(&self, client: Option<IpAddr>, subject: &Subject<'_>) -> Option<u64> {
        self.key_of.of(client, subject)
    }

    /// Its clients' cookies are signed with these keys from now on.
    pub(super) fn set_keys(&self, keys: Vec<CookieKey>) {
        let mut inner = self.lock();
        inner.keys = keys;
        inner.bake(&self.settings);
    }

    /// The cookie of its clients, if they have one.
    pub(super) fn sticky(&self) -> Option<Arc<Sticky>> {
        self.lock().sticky.clone()
    }

    /// Takes a place on the server that fits a request best, and waits for one if all are full. Cancel safe.
    ///
    /// # Errors
    /// There is no server left, or no place on one and too many wait already, or none has become free in time.
    pub(super) async fn take(self: &Arc<Self>, wish: Wish<'_>) -> Result<Berth, Refusal> {
        let patience = sleep(self.settings.queue.timeout);
        let mut patience = pin!(patience);
        let mut waiting = match self.ask(&wish) {
            Asked::Berth(berth) => return Ok(berth),
            Asked::Refused(refusal) => return Err(refusal),
            Asked::Wait(waiting) => waiting,
        };
        loop {
            tokio::select! {
                // Who has a place at the moment at which its patience ends is served.
                biased;
                called = &mut waiting.called => return called.map_err(|_| Refusal::Internal),
                () = &mut patience => {
                    drop(waiting);
                    // Another server is better than none, though the client's own has something of it.
                    return match self.ask(&Wish { kept: None, ..wish }) {
                        Asked::Berth(berth) => Ok(berth),
                        Asked::Wait(_) | Asked::Refused(_) => Err(Refusal::QueueTimeout),
                    };
                }
                // A server may have come back by the time alone, of which nothing tells.
                () = sleep(LOOK_AGAIN) => self.change(|inner, now| ((), inner.state.call(now))),
            }
        }
    }

    fn ask(self: &Arc<Self>, wish: &Wish<'_>) -> Asked<'_> {
        self.change(|inner, now| {
            let (answer, called) = inner.state.ask(wish, now);
            let asked = match answer {
                Answer::Go(server) => Asked::Berth(self.berth(server, now)),
                Answer::Nobody => Asked::Refused(Refusal::NoServer),
                Answer::Full => Asked::Refused(Refusal::ServersFull),
                Answer::Wait(ticket) => {
                    let (sender, called) = oneshot::channel();
                    inner.waiting.insert(ticket, sender);
                    Asked::Wait(Waiting { fleet: self, ticket, called })
                }
            };
            (asked, called)
        })
    }

    fn berth(self: &Arc<Self>, server: u16, since: Instant) -> Berth {
        Berth { fleet: self.clone(), server, since, handed_over: false }
    }

    /// Changes the state, and calls those who need not wait any more.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Inner, Instant) -> (T, Called)) -> T {
        let mut inner = self.lock();
        let now = Instant::now();
        let by_time = inner.state.news(now);
        let (result, called) = change(&mut inner, now);
        let called: Vec<_> = called
            .into_iter()
            .map(|(ticket, server)| (inner.waiting.remove(&ticket), self.berth(server, now)))
            .collect();
        drop(inner);
        by_time.iter().for_each(|news| self.tell(news, None));
        for (sender, berth) in called {
            // Whoever has gone meanwhile leaves the place behind: it is dropped, for which the lock must be free.
            let _left = sender.map(|sender| sender.send(berth));
        }
        result
    }

    /// A pair of the keeper's is on this server, from an earlier gate.
    pub(super) fn found_on(&self, server: u16) {
        self.lock().state.found_on(server);
    }

    /// Checks of an earlier gate had found this server to be down.
    pub(super) fn was_down(&self, server: u16) {
        self.lock().state.was_down(server, Instant::now());
    }

    /// A pair of the keeper's has ended.
    pub(super) fn left(self: &Arc<Self>, server: u16) {
        self.change(|inner, now| ((), inner.state.leave(server, now)));
    }

    /// A check of a server has ended. If another server has its index by now, that says nothing.
    fn checked(self: &Arc<Self>, server: u16, site: &Site, result: anyhow::Result<()>) {
        let same = |now: &Server| now.site.is_same(site);
        if !self.lock().state.server(server).is_some_and(same) {
            return;
        }
        let why = result.as_ref().err().map(|error| format!("{error:#}"));
        let (backend, address) = (&self.settings.name, site.address.to_string());
        match &why {
            Some(why) => tracing::debug!(backend, server = address, why, "a check failed"),
            None => tracing::debug!(backend, server = address, "a check was good"),
        }
        self.judge(why.as_deref(), |state, now| state.checked(server, result.is_ok(), now));
    }

    /// Whether checks speak for a server, if there is one.
    fn is_up(&self, server: u16) -> Option<bool> {
        let standing = self.lock().state.standing(server, Instant::now())?;
        Some(matches!(standing, Standing::Up | Standing::Ejected))
    }

    /// Changes what a server is good for, and says so if it is something else now, and why.
    fn judge(self: &Arc<Self>, why: Option<&str>, change: impl FnOnce(&mut State, Instant) -> Called) {
        let news = self.change(|Inner { state, .. }, now| {
            let called = change(state, now);
            (state.news(now), called)
        });
        news.iter().for_each(|news| self.tell(news, why));
    }

    /// For the log.
    fn tell(&self, news: &News, why: Option<&str>) {
        let (backend, server) = (&self.settings.name, news.site.address.to_string());
        match news.now {
            Standing::Up if news.before == Standing::Ejected => {
                tracing::info!(backend, server, "a server that was left out is tried again");
            }
            Standing::Up => tracing::info!(backend, server, "a server is up"),
            Standing::New => {}
            Standing::Down => tracing::warn!(backend, server, why, "a server is down, by its checks"),
            Standing::Ejected => {
                tracing::warn!(backend, server, why, "a server is left out for a while: requests to it failed");
            }
        }
    }

    /// See [`State::place`].
    fn place(&self, sites: Vec<Site>) -> Vec<(u16, Arc<Site>)> {
        self.lock().state.place(sites, Instant::now())
    }

    /// Whether the keeper has not been told of this yet.
    fn is_news(&self, server: u16, site: &Site) -> bool {
        self.lock().state.server(server).is_none_or(|server| !server.listed() || *server.site != *site)
    }

    /// See [`State::list`].
    fn list(self: &Arc<Self>, entry: u16, listed: &[(u16, Arc<Site>)], part: bool) -> Vec<(u16, Arc<Site>)> {
        let gone = self.change(|inner, now| {
            let gone = inner.state.list(entry, listed, part, now);
            inner.bake(&self.settings);
            gone
        });
        self.relisted.notify_one();
        gone
    }

    /// Whether a name in the configuration stands for any server.
    fn knows(&self, entry: u16) -> bool {
        self.lock().state.knows(entry)
    }

    /// See [`State::shared`].
    fn shared(&self, entry: u16) -> Option<Address> {
        self.lock().state.shared(entry).cloned()
    }

    /// Waits until names stand for other servers.
    async fn relisted(&self) {
        self.relisted.notified().await;
    }

    /// All servers that are in the configuration, or that names stand for.
    fn sites(&self) -> Vec<(u16, Arc<Site>)> {
        let inner = self.lock();
        let listed = inner.state.servers().filter(|(_, server)| server.listed());
        listed.map(|(index, server)| (index, server.site.clone())).collect()
    }

    /// For the metrics.
    pub(super) fn row(self: &Arc<Self>) -> BackendRow {
        self.change(|inner, now| (inner.state.row(&self.settings.name, now), Called::new()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Makes the cookies anew, of other keys or for other servers.
    fn bake(&mut self, settings: &Backend) {
        let Some(sticky) = &settings.sticky else { return };
        let listed = self.state.servers().filter(|(_, server)| server.listed());
        let servers: Vec<_> = listed.map(|(index, server)| (index, server.site.address.to_string())).collect();
        self.sticky = Some(Arc::new(Sticky::new(sticky, &settings.name, &servers, &self.keys)));
    }
}

impl Berth {
    /// Which server.
    pub(super) fn server(&self) -> u16 {
        self.server
    }

    /// Where it is. (A server that somebody is on is always there.)
    pub(super) fn site(&self) -> Option<Arc<Site>> {
        self.fleet.lock().state.server(self.server).map(|server| server.site.clone())
    }

    /// Its address, for the log.
    pub(super) fn address(&self) -> Option<DisplayValue<Address>> {
        self.site().map(|site| tracing::field::display(site.address.clone()))
    }

    /// The keeper has the pair now.
    pub(super) fn hand_over(mut self) {
        self.handed_over = true;
    }

    /// The server has answered a WebSocket handshake with this status.
    pub(super) fn answered_handshake(&self, status: StatusCode) {
        self.observed(Some(status).filter(StatusCode::is_server_error).map(answers));
    }

    /// The server has answered a plain request with this status. A 500 of it is about the request rather than the server.
    pub(super) fn answered(&self, status: StatusCode) {
        use StatusCode as S;
        let bad = |status: &S| matches!(*status, S::BAD_GATEWAY | S::SERVICE_UNAVAILABLE | S::GATEWAY_TIMEOUT);
        self.observed(Some(status).filter(bad).map(answers));
    }

    /// The server could not be reached, or has not answered as it should.
    pub(super) fn failed(&self, failure: &Failure) {
        if failure.is_the_servers() {
            self.observed(Some(failure.to_string()));
        }
    }

    /// What a client's request has shown: that the server is well, or why it is not.
    fn observed(&self, wrong: Option<String>) {
        let good = wrong.is_none();
        self.fleet.judge(wrong.as_deref(), |state, now| state.observed(self.server, self.since, good, now));
    }
}

/// Why a server is not well that answers with this status.
fn answers(status: StatusCode) -> String {
    format!("it answers {status}")
}

impl Drop for Berth {
    fn drop(&mut self) {
        // One that the keeper has was answered.
        if !self.handed_over {
            self.fleet.change(|Inner { state, .. }, now| {
                state.settle(self.server, self.since);
                ((), state.leave(self.server, now))
            });
        }
    }
}

#[cfg(test)]
mod tests;
