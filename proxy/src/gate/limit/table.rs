//! What is remembered of clients: a bounded table that forgets who was seen longest ago.

use std::hash::{BuildHasher as _, RandomState};

use super::prefix::Key;
use super::rate::Moment;

/// No place.
const NONE: u32 = u32::MAX;

/// What is known of one client on one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    /// When its bucket will be full.
    pub(super) full: Moment,
    /// How many connections it has.
    pub(super) live: u32,
}

impl Client {
    /// Whether a client of whom nothing is known would be treated in the same way.
    fn is_new(self, now: Moment) -> bool {
        self.live == 0 && self.full <= now
    }
}

/// Clients with connections, however many, and a bounded number of others.
///
/// The others are in a list in the order in which they were last seen, through the entries themselves, and so are those
/// whose keys have the same hash: each operation takes the same time however many there are, but for the moments at
/// which the table grows. Keys are hashed with a secret of this process, so that nobody can choose addresses that meet
/// in the same place.
pub(super) struct Table {
    entries: Vec<Entry>,
    /// The first entry for each hash: a power of two of them.
    first: Vec<u32>,
    hasher: RandomState,
    /// The first of the entries of nobody.
    free: u32,
    /// Of those without a connection: who was seen longest ago, and last.
    oldest: u32,
    newest: u32,
    /// How many clients there are, how many of them are in that list, and how many may be.
    len: usize,
    idle: usize,
    most: usize,
    /// How many were forgotten of whom something was to be remembered.
    pub(super) evicted: u64,
}

struct Entry {
    client: Client,
    key: Key,
    /// The next entry with the same hash, or the next of nobody.
    next: u32,
    /// The neighbours in the list, if this entry is in it.
    older: u32,
    newer: u32,
}

// With its share of `first`, about 60 bytes for each: `tests::a_flood_costs_no_more_than_the_table_may_hold` measures.
const _: () = assert!(size_of::<Entry>() == 48);

impl Table {
    /// An empty one that will remember `most` clients beside those with connections.
    pub(super) fn new(most: usize) -> Self {
        Self {
            entries: Vec::new(),
            first: Vec::new(),
            hasher: RandomState::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
            len: 0,
            idle: 0,
            most: most.max(1),
            evicted: 0,
        }
    }

    /// How many clients are remembered.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What is known of a client; of a new one, what is so of every new one.
    pub(super) fn get(&self, key: &Key) -> Client {
        self.find(key).and_then(|place| self.entry(place)).map(|entry| entry.client).unwrap_or_default()
    }

    /// Remembers this of a client, who is here now; or nothing, if there is nothing to remember.
    pub(super) fn put(&mut self, key: Key, client: Client, now: Moment) {
        let found = self.find(&key);
        if let Some(place) = found {
            self.unlink(place);
        }
        match found {
            Some(place) if client.is_new(now) => self.remove(place),
            None if client.is_new(now) => {}
            Some(place) => self.fill(place, client),
            None => {
                self.forget_who_is_as_new(now);
                if client.live == 0 && self.idle >= self.most {
                    self.evicted += 1;
                    self.forget_oldest();
                }
                let place = self.add(&key);
                self.fill(place, client);
            }
        }
        // One who has just lost a connection, perhaps.
        while self.idle > self.most {
            self.evicted += 1;
            self.forget_oldest();
        }
    }

    /// Those seen longest ago, if a new client would be treated in the same way. Two for each that comes: so they go
    /// faster than others come.
    fn forget_who_is_as_new(&mut self, now: Moment) {
        for _ in 0..2 {
            if self.entry(self.oldest).is_some_and(|entry| entry.client.is_new(now)) {
                self.forget_oldest();
            }
        }
    }

    fn forget_oldest(&mut self) {
        let place = self.oldest;
        self.unlink(place);
        self.remove(place);
    }

    fn find(&self, key: &Key) -> Option<u32> {
        let mut place = *self.first.get(self.hash(key))?;
        while let Some(entry) = self.entry(place) {
            if entry.key == *key {
                return Some(place);
            }
            place = entry.next;
        }
        None
    }

    /// A place in `first`, if there is any.
    fn hash(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize & self.first.len().saturating_sub(1)
    }

    /// Finds an entry for somebody who has none.
    fn add(&mut self, key: &Key) -> u32 {
        if self.len >= self.first.len() {
            self.grow();
        }
        if self.free == NONE {
            if self.entries.len() == self.entries.capacity() {
                // By an eighth, where a `Vec` doubles: a full table has little to spare.
                self.entries.reserve_exact((self.entries.len() / 8).max(64));
            }
            self.free = self.entries.len() as u32;
            let (client, key) = (Client::default(), Key::default());
            self.entries.push(Entry { client, key, next: NONE, older: NONE, newer: NONE });
        }
        let place = self.free;
        self.free = self.entry(place).map_or(NONE, |entry| entry.next);
        self.len += 1;
        self.link(place, key);
        place
    }

    /// Puts an entry in front of those with the same hash.
    fn link(&mut self, place: u32, key: &Key) {
        let hash = self.hash(key);
        if let Some(first) = self.first.get_mut(hash) {
            let next = std::mem::replace(first, place);
            if let Some(entry) = self.entry_mut(place) {
                (entry.key, entry.next) = (*key, next);
            }
        }
    }

    /// Twice as many hashes.
    fn grow(&mut self) {
        let twice = (2 * self.first.len()).max(64);
        for mut place in std::mem::replace(&mut self.first, vec![NONE; twice]) {
            while let Some((key, next)) = self.entry(place).map(|entry| (entry.key, entry.next)) {
                self.link(place, &key);
                place = next;
            }
        }
    }

    /// Gives an entry back that is in no list.
    fn remove(&mut self, place: u32) {
        let Some((key, next)) = self.entry(place).map(|entry| (entry.key, entry.next)) else { return };
        let hash = self.hash(&key);
        let mut before = self.first.get(hash).copied().unwrap_or(NONE);
        if before == place {
            self.first.get_mut(hash).into_iter().for_each(|first| *first = next);
        }
        while let Some(entry) = self.entry_mut(before) {
            if entry.next == place {
                entry.next = next;
                break;
            }
            before = entry.next;
        }
        let free = std::mem::replace(&mut self.free, place);
        if let Some(entry) = self.entry_mut(place) {
            entry.next = free;
        }
        self.len -= 1;
    }

    /// Writes an entry that is in no list, and puts it at the end of the list if it belongs there.
    fn fill(&mut self, place: u32, client: Client) {
        let newest = self.newest;
        let Some(entry) = self.entry_mut(place) else { return };
        (entry.client, entry.older, entry.newer) = (client, NONE, NONE);
        if client.live > 0 {
            return;
        }
        entry.older = newest;
        match self.entry_mut(newest) {
            Some(before) => before.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
        self.idle += 1;
    }

    /// Takes an entry out of the list, if it is in it.
    fn unlink(&mut self, place: u32) {
        let Some(entry) = self.entry(place).filter(|entry| entry.client.live == 0) else { return };
        let (older, newer) = (entry.older, entry.newer);
        match self.entry_mut(older) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.entry_mut(newer) {
            Some(behind) => behind.older = older,
            None => self.newest = older,
        }
        self.idle -= 1;
    }

    fn entry(&self, place: u32) -> Option<&Entry> {
        self.entries.get(place as usize)
    }

    fn entry_mut(&mut self, place: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place as usize)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
