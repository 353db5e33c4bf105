//! What a client has in HPACK's table (RFC 7541 §2.3), as far as it matters whether it can be used.

use std::collections::VecDeque;

/// The largest table (RFC 9113 §6.5.2, SETTINGS_HEADER_TABLE_SIZE): what both sides begin with, and we ask for no other.
const LARGEST: usize = 4096;

/// What every entry costs beside its name and value (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// Which rules a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Path,
    Status,
    /// `:authority`, `:scheme` and `:protocol`: text of any kind for the HTTP/2 library, which judges it later.
    Text,
    Field,
}

/// One field, in the table or to be put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Bytes of its name and of its value.
    pub(super) name: usize,
    pub(super) value: usize,
    /// It is malformed, and another field stands in the HTTP/2 library's table at its place.
    pub(super) malformed: bool,
}

impl Kind {
    /// That of a pseudo-header (RFC 9113 §8.3, RFC 8441 §4).
    pub(super) fn of_pseudo(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":status" => Self::Status,
            b":authority" | b":scheme" | b":protocol" => Self::Text,
            _ => return None,
        })
    }
}

impl Entry {
    fn size(self) -> usize {
        self.name + self.value + OVERHEAD
    }
}

/// The dynamic table, the newest entry first.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: LARGEST }
    }

    /// The field at an index of the static and the dynamic table. `None`: there is none.
    pub(super) fn get(&self, index: usize) -> Option<Entry> {
        let index = index.checked_sub(1)?;
        let Some(name) = STATIC.get(index) else {
            return self.entries.get(index - STATIC.len()).copied();
        };
        let kind = Kind::of_pseudo(name.as_bytes()).unwrap_or(Kind::Field);
        Some(Entry { kind, name: name.len(), value: 0, malformed: false })
    }

    /// Puts a field in front, where there is room (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.shrink(self.most.saturating_sub(entry.size()));
        if self.size + entry.size() <= self.most {
            self.size += entry.size();
            self.entries.push_front(entry);
        }
    }

    /// Changes the largest size. `None`: to more than there may be.
    pub(super) fn resize(&mut self, most: usize) -> Option<()> {
        self.most = Some(most).filter(|most| *most <= LARGEST)?;
        self.shrink(most);
        Some(())
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some(last) = self.entries.pop_back() else { return };
            self.size -= last.size();
        }
    }
}

/// The names of the static table (RFC 7541 appendix A).
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];
