//! One server of a backend.

use std::sync::Arc;
use std::time::Instant;

use crate::config::Address;
use crate::gate::balance::health::{Health, Standing};

/// One server.
pub(in crate::gate) struct Server {
    pub(in crate::gate) site: Arc<Site>,
    pub(super) presence: Presence,
    /// Connections and requests on it.
    pub(in crate::gate) live: u32,
    pub(in crate::gate) health: Health,
    /// How it stood when that was last asked for news.
    told: Option<Standing>,
    /// When the requests began that were sent there on probation, and have no answer yet.
    trials: Vec<Instant>,
    /// How often it was picked, and how often it failed whoever it was picked for.
    pub(in crate::gate) picked: u64,
    pub(in crate::gate) failed: u64,
}

/// Whether a server may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// A name stands for it, of which not everybody knows yet.
    Placed,
    /// It is in the configuration, or a name stands for it.
    Listed,
    /// The name stands for it no more. Its place is another's when nobody is on it and no other is free.
    Gone,
}

/// Where a server is, and what it may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Site {
    pub(in crate::gate) address: Address,
    /// The name that it was found by.
    pub(in crate::gate) host: Option<Arc<str>>,
    /// Whose place in the configuration it has.
    pub(in crate::gate) entry: u16,
    /// 0: it is draining.
    pub(in crate::gate) weight: u32,
    pub(in crate::gate) backup: bool,
    /// Connections at one time. 0: as many as come.
    pub(in crate::gate) most: u32,
}

impl Site {
    /// Whether this is the same server. It may get more or less than before.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.address, &self.host, self.entry) == (&other.address, &other.host, other.entry)
    }
}

impl Server {
    /// It is in the configuration, or a name stands for it now.
    pub(in crate::gate) fn listed(&self) -> bool {
        self.presence == Presence::Listed
    }

    pub(super) fn new(site: Site, presence: Presence, health: Health) -> Self {
        Self { site: Arc::new(site), presence, live: 0, health, told: None, trials: Vec::new(), picked: 0, failed: 0 }
    }

    /// One request or connection more is on it.
    pub(super) fn sit(&mut self, now: Instant) {
        self.live += 1;
        self.picked += 1;
        if self.health.on_probation(now) {
            self.trials.push(now);
        }
    }

    /// A request that began then has its answer, or wants none any more.
    pub(super) fn settle(&mut self, since: Instant) {
        if let Some(place) = self.trials.iter().position(|trial| *trial == since) {
            self.trials.swap_remove(place);
        }
    }

    /// It is on probation, and somebody is finding out already whether it is well.
    pub(super) fn on_trial(&self, now: Instant) -> bool {
        self.health.on_probation(now) && self.trials.iter().any(|since| self.health.speaks(*since))
    }

    /// It is found anew.
    pub(super) fn begin(&mut self, health: Health) {
        (self.health, self.told) = (health, None);
    }

    /// How it stood before and stands now, if that is not the same.
    pub(super) fn news(&mut self, now: Instant) -> Option<(Standing, Standing)> {
        let standing = self.health.standing(now);
        let before = self.told.replace(standing).filter(|before| *before != standing)?;
        Some((before, standing))
    }

    /// The word in the metrics.
    pub(super) fn state(&self, now: Instant) -> &'static str {
        match self.health.standing(now) {
            _ if !self.listed() => "gone",
            _ if self.site.weight == 0 => "draining",
            Standing::Up => "up",
            Standing::New => "new",
            Standing::Down => "down",
            Standing::Ejected => "ejected",
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.site.most == 0 || self.live < self.site.most
    }
}
