//! Which servers of a backend are used: those that are up, but never too few, and backups only without others. Pure.

use super::health::Standing;

/// A server of a backend.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct Seen {
    pub(in crate::gate) server: u16,
    /// For when no other can be used.
    pub(in crate::gate) backup: bool,
    /// It gets no new clients, however it stands.
    pub(in crate::gate) draining: bool,
    pub(in crate::gate) standing: Standing,
}

/// The servers that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::gate) struct Chosen {
    /// Empty only if all are draining, or there are none.
    pub(in crate::gate) members: Vec<u16>,
    /// They are the backups.
    pub(in crate::gate) backups: bool,
    /// Too few are up: servers are used that are not.
    pub(in crate::gate) panic: bool,
}

/// Chooses the servers that are used.
///
/// If a backup is up, the others that are up are used; if none of them is, the backups. Without a backup to go to, the
/// share `min_up` of the servers is used in any case: if fewer are up, those too that are ejected, and if that is not
/// enough, all. So does Envoy ("panic threshold"). Servers that are new do not count until a check has been good, unless
/// there are no others.
pub(in crate::gate) fn choose(servers: &[Seen], min_up: f64) -> Chosen {
    let [primaries, backups] = [false, true].map(|backup| Tier::new(servers, backup));
    let (chosen, panic) = if backups.up().is_empty() {
        if primaries.0.is_empty() { backups.floored(min_up) } else { primaries.floored(min_up) }
    } else {
        let up = primaries.up();
        if up.is_empty() { backups.floored(min_up) } else { (up, false) }
    };
    let backups = chosen.first().is_some_and(|one| one.backup);
    Chosen { members: chosen.iter().map(|one| one.server).collect(), backups, panic }
}

/// Whether this server, which is up, may be ejected: there is a backup that is up, or the share `min_up` of those like it
/// stays, and one at least.
pub(in crate::gate) fn may_eject(servers: &[Seen], server: u16, min_up: f64) -> bool {
    let Some(one) = servers.iter().find(|one| one.server == server && !one.draining) else { return false };
    let own = Tier::new(servers, one.backup);
    let others = own.up().iter().filter(|other| other.server != server).count();
    let backup = !one.backup && !Tier::new(servers, true).up().is_empty();
    one.standing == Standing::Up && (backup || reaches(others, own.proven().len(), min_up))
}

/// The servers of one kind, but for those that are draining.
struct Tier(Vec<Seen>);

impl Tier {
    fn new(servers: &[Seen], backup: bool) -> Self {
        Self(servers.iter().copied().filter(|one| one.backup == backup && !one.draining).collect())
    }

    fn with(&self, fits: impl Fn(Standing) -> bool) -> Vec<Seen> {
        self.0.iter().copied().filter(|one| fits(one.standing)).collect()
    }

    fn up(&self) -> Vec<Seen> {
        self.with(|standing| standing == Standing::Up)
    }

    fn proven(&self) -> Vec<Seen> {
        self.with(|standing| standing != Standing::New)
    }

    /// Those that are used if there is nobody else, and whether some of them are not up.
    fn floored(&self, min_up: f64) -> (Vec<Seen>, bool) {
        let (proven, up) = (self.proven(), self.up());
        let checked = self.with(|standing| matches!(standing, Standing::Up | Standing::Ejected));
        if reaches(up.len(), proven.len(), min_up) {
            (up, false)
        } else if reaches(checked.len(), proven.len(), min_up) {
            (checked, true)
        } else if proven.is_empty() {
            (self.0.clone(), !self.0.is_empty())
        } else {
            (proven, true)
        }
    }
}

/// Whether so many are enough, and one at least. A division and no product: 7 of 100 reach 0.07, but 0.07 times 100 is
/// a little more than 7.
fn reaches(some: usize, all: usize, min_up: f64) -> bool {
    some > 0 && some as f64 / all as f64 >= min_up
}

#[cfg(test)]
#[path = "tiers_tests.rs"]
mod tests;
