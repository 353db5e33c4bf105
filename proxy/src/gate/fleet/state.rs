//! The servers of a backend at one moment: who is on them, who waits, and who may have which. Pure.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::{Queue, Ticket};
use super::server::{Presence, Server, Site};
use crate::config::{Address, Backend};
use crate::gate::balance::health::{Found as Origin, Health, Rules, Standing};
use crate::gate::balance::pace::share;
use crate::gate::balance::tiers::{Chosen, Seen, choose, may_eject};
use crate::gate::balance::{Ask, Balancer, Candidate, Member};
use crate::handoff::{Found, MOST_FOUND};
use crate::observe::{BackendRow, ServerRow};

/// All servers of a backend.
pub(in crate::gate) struct State {
    /// By their index: those of the configuration by their place in it, behind them those that names stood for.
    servers: BTreeMap<u16, Server>,
    /// How many the configuration lists.
    entries: u16,
    rules: Rules,
    min_up: f64,
    slow_start: Option<Duration>,
    balancer: Balancer,
    queue: Queue,
    /// Those that take new requests, of which the balancer knows.
    chosen: Chosen,
    /// The same, as the balancer knows them.
    members: Vec<Member>,
    /// They may be elsewhere now, or have other weights.
    changed: bool,
}

/// What a request asks of its backend.
#[derive(Clone, Copy)]
pub(in crate::gate) struct Wish<'a> {
    pub(in crate::gate) ask: Ask,
    /// The server that the client was on before.
    pub(in crate::gate) kept: Option<u16>,
    /// Those that could not be reached.
    pub(in crate::gate) tried: &'a [u16],
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gate) enum Answer {
    /// It has a place on this server.
    Go(u16),
    /// It waits with this ticket.
    Wait(Ticket),
    /// No server is left to try.
    Nobody,
    /// All are full, and so is the queue.
    Full,
}

/// A server that stands otherwise than it did.
pub(in crate::gate) struct News {
    pub(in crate::gate) site: Arc<Site>,
    pub(in crate::gate) before: Standing,
    pub(in crate::gate) now: Standing,
}

/// Who need not wait any more, and has a place on this server.
pub(in crate::gate) type Called = Vec<(Ticket, u16)>;

impl State {
    /// The servers that the configuration lists by their addresses; those of names come with [`State::place`].
    pub(in crate::gate) fn new(settings: &Backend, now: Instant) -> Self {
        let rules = Rules::new(settings.check.as_ref(), &settings.ejection);
        let listed = (0u16..).zip(&settings.servers).filter_map(|(entry, server)| {
            let address = server.address.fixed()?.clone();
            let (weight, backup, most) = (server.weight, server.backup, server.max_connections);
            let site = Site { address, host: None, entry, weight, backup, most };
            Some((entry, Server::new(site, Presence::Listed, Health::new(rules, Origin::AtStart, now))))
        });
        let mut state = Self {
            servers: listed.collect(),
            entries: u16::try_from(settings.servers.len()).unwrap_or(u16::MAX),
            rules,
            min_up: settings.ejection.min_up.get(),
            slow_start: settings.slow_start,
            balancer: Balancer::new(&settings.balance),
            queue: Queue::new(settings.queue.length),
            chosen: Chosen::default(),
            members: Vec::new(),
            changed: true,
        };
        state.refresh(now);
        state
    }

    /// Finds a server for a request. Those who wait go first, if time alone has made room for them.
    pub(in crate::gate) fn ask(&mut self, wish: &Wish<'_>, now: Instant) -> (Answer, Called) {
        let called = self.call(now);
        (self.answer(wish, now), called)
    }

    fn answer(&mut self, wish: &Wish<'_>, now: Instant) -> Answer {
        let left = self.left(wish.tried, now);
        let own = wish.kept.filter(|server| left.contains(server));
        if left.is_empty() {
            return Answer::Nobody;
        }
        let picked = match own {
            Some(own) => Some(own).filter(|own| self.has_room(*own)),
            None => self.balancer.pick(&self.candidates(&left, now), &wish.ask),
        };
        match picked {
            Some(server) => {
                self.sit(server, now);
                Answer::Go(server)
            }
            // Who has tried one server is not made to wait for the others.
            None if !wish.tried.is_empty() => Answer::Full,
            None => match self.queue.push(own) {
                Some(ticket) => Answer::Wait(ticket),
                // Another server is better than none, though the client's own has something of it.
                None if own.is_some() => self.answer(&Wish { kept: None, ..*wish }, now),
                None => Answer::Full,
            },
        }
    }

    /// Those that may be tried still. When too few are up, all are used as if they were well; but whoever has met one that
    /// is not goes to one that is, if there is any. (By connections, those that are dead would all come first.) Whoever
    /// has met all of them goes to a backup that is up: nothing has been asked yet.
    fn left(&self, tried: &[u16], now: Instant) -> Vec<u16> {
        let members = self.chosen.members.iter().copied();
        let mut left: Vec<u16> = members.filter(|server| !tried.contains(server)).collect();
        if left.is_empty() && !tried.is_empty() {
            left = self.backups(tried, now);
        }
        let is_up = |server: &u16| self.standing(*server, now) == Some(Standing::Up);
        if !tried.is_empty() && left.iter().any(is_up) {
            left.retain(is_up);
        }
        self.without_trials(left, now)
    }

    /// These without servers on probation that have not answered yet, unless none of the others has room. One that hangs
    /// has the fewest connections when it is back, and would get everybody until it is found out.
    fn without_trials(&self, servers: Vec<u16>, now: Instant) -> Vec<u16> {
        let on_trial = |server: &u16| self.servers.get(server).is_some_and(|server| server.on_trial(now));
        match servers.iter().any(|server| !on_trial(server) && self.has_room(*server)) {
            true => servers.into_iter().filter(|server| !on_trial(server)).collect(),
            false => servers,
        }
    }

    /// The backups that are up, but for these.
    fn backups(&self, tried: &[u16], now: Instant) -> Vec<u16> {
        let fits = |one: &Seen| one.backup && !one.draining && one.standing == Standing::Up;
        let up = self.seen(now).into_iter().filter(fits).map(|one| one.server);
        up.filter(|server| !tried.contains(server)).collect()
    }

    /// One more is on a server.
    fn sit(&mut self, server: u16, now: Instant) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.sit(now);
        }
    }

    /// A request that was sent there at `since` has its answer, or wants none any more.
    pub(in crate::gate) fn settle(&mut self, server: u16, since: Instant) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.settle(since);
        }
    }

    /// A pair of an earlier gate is on a server.
    pub(in crate::gate) fn found_on(&mut self, server: u16) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.live += 1;
        }
    }

    /// Checks of an earlier gate had found a server to be down.
    pub(in crate::gate) fn was_down(&mut self, server: u16, now: Instant) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.begin(Health::new(self.rules, Origin::Down, now));
        }
    }

    /// One fewer is on a server. Whoever waits may take the place.
    pub(in crate::gate) fn leave(&mut self, server: u16, now: Instant) -> Called {
        if let Some(server) = self.servers.get_mut(&server) {
            server.live = server.live.saturating_sub(1);
        }
        self.call(now)
    }

    /// Whoever had this ticket has gone.
    pub(in crate::gate) fn cancel(&mut self, ticket: Ticket) {
        self.queue.cancel(ticket);
    }

    /// Places for servers that a name in the configuration stands for. They get nothing before [`State::list`].
    pub(in crate::gate) fn place(&mut self, sites: Vec<Site>, now: Instant) -> Vec<(u16, Arc<Site>)> {
        let known = self.servers.range(self.entries..);
        let known: HashMap<(u16, Address), u16> =
            known.map(|(index, server)| ((server.site.entry, server.site.address.clone()), *index)).collect();
        let last = self.entries.saturating_add(MOST_FOUND);
        let free = (self.entries..last).filter(|index| !self.servers.contains_key(index));
        let given: HashSet<u16> =
            sites.iter().filter_map(|site| known.get(&(site.entry, site.address.clone())).copied()).collect();
        // A server that nobody is on any more is forgotten when its place is needed.
        let unused = self
            .servers
            .range(self.entries..)
            .filter(|(index, server)| server.presence == Presence::Gone && server.live == 0 && !given.contains(index));
        let mut places: VecDeque<u16> = free.chain(unused.map(|(index, _)| *index)).collect();
        let mut place = |site: Site| {
            if let Some(index) = known.get(&(site.entry, site.address.clone())) {
                return Some((*index, Arc::new(site)));
            }
            let index = places.pop_front()?;
            let health = Health::new(self.rules, Origin::AtStart, now);
            self.servers.insert(index, Server::new(site.clone(), Presence::Placed, health));
            Some((index, Arc::new(site)))
        };
        sites.into_iter().filter_map(&mut place).collect()
    }

    /// The name in this place of the configuration stands for these servers now, and for no others unless they are only
    /// a `part`. Returns those that it stood for before, and whoever need not wait any more.
    pub(in crate::gate) fn list(
        &mut self,
        entry: u16,
        listed: &[(u16, Arc<Site>)],
        part: bool,
        now: Instant,
    ) -> (Vec<(u16, Arc<Site>)>, Called) {
        // The first servers of a name are there from the start.
        let first = !self.knows(entry);
        let listed: HashMap<u16, &Arc<Site>> = listed.iter().map(|(index, site)| (*index, site)).collect();
        let mut gone = Vec::new();
        for (index, server) in self.servers.range_mut(self.entries..).filter(|(_, server)| server.site.entry == entry) {
            let Some(site) = listed.get(index) else {
                if !(part && server.listed())
                    && std::mem::replace(&mut server.presence, Presence::Gone) == Presence::Listed
                {
                    gone.push((*index, server.site.clone()));
                }
                continue;
            };
            if !server.listed() {
                let origin = if first { Origin::AtStart } else { Origin::Later };
                server.begin(Health::new(self.rules, origin, now));
            }
            server.presence = Presence::Listed;
            if server.site != **site {
                server.site = Arc::clone(site);
            }
        }
        self.changed = true;
        (gone, self.call(now))
    }

    /// Whether the name in this place of the configuration stands for any server.
    pub(in crate::gate) fn knows(&self, entry: u16) -> bool {
        self.servers.range(self.entries..).any(|(_, server)| server.site.entry == entry && server.listed())
    }

    /// A server of this place in the configuration that another place has as well.
    pub(in crate::gate) fn shared(&self, entry: u16) -> Option<&Address> {
        let listed = || self.servers.values().filter(|server| server.listed()).map(|server| &server.site);
        let others: HashSet<&Address> = listed().filter(|site| site.entry != entry).map(|site| &site.address).collect();
        listed().filter(|site| site.entry == entry).map(|site| &site.address).find(|address| others.contains(address))
    }

    /// A server that an earlier gate found by a name.
    pub(in crate::gate) fn restore(&mut self, found: &Found, now: Instant) {
        if !(self.entries..self.entries.saturating_add(MOST_FOUND)).contains(&found.server) {
            return;
        }
        let site = Site {
            address: Address::Inet(found.address),
            host: Some(found.host.as_str().into()),
            entry: found.entry,
            weight: found.weight,
            backup: found.backup,
            most: found.most,
        };
        let health = Health::new(self.rules, Origin::AtStart, now);
        let presence = if found.listed { Presence::Listed } else { Presence::Gone };
        self.servers.insert(found.server, Server::new(site, presence, health));
    }

    /// A server has done what a client's request asked, or has not. It was sent there at `since`.
    pub(in crate::gate) fn observed(&mut self, index: u16, since: Instant, good: bool, now: Instant) -> Called {
        let Some(server) = self.servers.get_mut(&index) else { return Called::new() };
        server.settle(since);
        server.failed += u64::from(!good);
        let should = server.health.observed(good, since, now);
        let may = should && may_eject(&self.seen(now), index, self.min_up);
        if let Some(server) = self.servers.get_mut(&index).filter(|_| may) {
            server.health.eject(now);
        }
        self.call(now)
    }

    /// A check of a server has ended.
    pub(in crate::gate) fn checked(&mut self, index: u16, good: bool, now: Instant) -> Called {
        if let Some(server) = self.servers.get_mut(&index) {
            server.health.checked(good, now);
        }
        self.call(now)
    }

    /// What a server is good for.
    pub(in crate::gate) fn standing(&self, index: u16, now: Instant) -> Option<Standing> {
        self.servers.get(&index).map(|server| server.health.standing(now))
    }

    /// Which servers stand otherwise than when this was last asked. Ejections end by time alone.
    pub(in crate::gate) fn news(&mut self, now: Instant) -> Vec<News> {
        let listed = self.servers.values_mut().filter(|server| server.listed());
        let news = listed.filter_map(|server| {
            let (before, standing) = server.news(now)?;
            Some(News { site: server.site.clone(), before, now: standing })
        });
        news.collect()
    }

    /// How the servers stand that are in the configuration, or that names stand for.
    fn seen(&self, now: Instant) -> Vec<Seen> {
        let listed = self.servers.iter().filter(|(_, server)| server.listed());
        let seen = listed.map(|(index, server)| Seen {
            server: *index,
            backup: server.site.backup,
            draining: server.site.weight == 0,
            standing: server.health.standing(now),
        });
        seen.collect()
    }

    /// What is known of a server.
    pub(in crate::gate) fn server(&self, server: u16) -> Option<&Server> {
        self.servers.get(&server)
    }

    /// All servers with their indices.
    pub(in crate::gate) fn servers(&self) -> impl Iterator<Item = (u16, &Server)> {
        self.servers.iter().map(|(index, server)| (*index, server))
    }

    /// Finds out which servers take new requests at this time, and tells the balancer if they are others than before.
    fn refresh(&mut self, now: Instant) {
        let chosen = choose(&self.seen(now), self.min_up);
        if chosen == self.chosen && !self.changed {
            return;
        }
        let member = |index: &u16| {
            let site = &self.servers.get(index)?.site;
            Some(Member { server: *index, name: site.address.to_string(), weight: site.weight })
        };
        let members: Vec<Member> = chosen.members.iter().filter_map(member).collect();
        if members != self.members {
            self.balancer.set_members(&members);
            self.members = members;
        }
        (self.chosen, self.changed) = (chosen, false);
    }

    /// For the metrics.
    pub(in crate::gate) fn row(&mut self, name: &str, now: Instant) -> BackendRow {
        self.refresh(now);
        let shown = self.servers.values().filter(|server| server.listed() || server.live > 0);
        let row = |server: &Server| ServerRow {
            address: server.site.address.to_string(),
            state: server.state(now),
            connections: server.live.into(),
            picks: server.picked,
            failures: server.failed,
        };
        let (waiting, panic) = (self.queue.len() as u64, self.chosen.panic);
        BackendRow { name: name.to_owned(), waiting, panic, servers: shown.map(row).collect() }
    }

    /// Those of these servers that are not full.
    fn candidates(&self, of: &[u16], now: Instant) -> Vec<Candidate> {
        let candidate = |index: &u16| {
            let server = self.servers.get(index).filter(|server| server.has_room())?;
            // In a panic all are used as if they were well: one that is left out would be up only in time to come.
            let share = if self.chosen.panic { 1.0 } else { share(server.health.up_since(), now, self.slow_start) };
            Some(Candidate { server: *index, weight: f64::from(server.site.weight) * share, live: server.live })
        };
        of.iter().filter_map(candidate).collect()
    }

    /// Gives places that are free to those who wait, in the order in which they came.
    pub(in crate::gate) fn call(&mut self, now: Instant) -> Called {
        self.refresh(now);
        let mut called = Called::new();
        if self.queue.len() == 0 {
            return called;
        }
        self.queue.release(&self.chosen.members);
        loop {
            let candidates = self.candidates(&self.left(&[], now), now);
            let fits = |wants: Option<u16>| match wants {
                Some(own) => self.servers.get(&own).is_some_and(Server::has_room),
                None => !candidates.is_empty(),
            };
            let Some((ticket, wants)) = self.queue.first(fits) else { return called };
            // Asked only for somebody whom it serves: with every answer a server has had its turn. Which one the request
            // would like best was asked when all were full.
            let ask = Ask { key: None, random: [0; 2] };
            let Some(server) = wants.or_else(|| self.balancer.pick(&candidates, &ask)) else { return called };
            self.sit(server, now);
            called.push((ticket, server));
        }
    }

    fn has_room(&self, server: u16) -> bool {
        self.servers.get(&server).is_some_and(Server::has_room)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
