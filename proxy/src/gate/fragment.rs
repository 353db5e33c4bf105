//! Finds requests whose target has a `#` in the bytes of a connection over HTTP/1.
//!
//! RFC 9112 §3.2 knows no such target. The HTTP library drops the `#` and all behind it, and does not tell: so the
//! bytes are looked at as they are read, beside the library, which says where each body ends. Nothing is changed here.

/// The most bytes that are kept until it is known what they are. The library has no more ahead of it: 64 KiB.
const MOST: usize = 64 * 1024;

/// What is known of a connection's bytes.
#[derive(Debug, Default)]
pub(super) struct Watch {
    place: Place,
    /// The target of the request line has a `#`.
    found: bool,
    /// Bytes behind a head whose body has no length yet.
    ahead: Vec<u8>,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In front of a request, where lines may be empty (RFC 9112 §2.2).
    #[default]
    Before,
    Method,
    /// In the rest of the request line.
    Target,
    /// Behind the first byte of a field's line.
    Field,
    /// At the start of a field's line, or of the empty one that ends the head.
    Line,
    /// Behind a head.
    Behind,
    /// In a body of which so much is to come.
    Body(u64),
    /// In a body with an end that is not looked for: no request follows it.
    Last,
}

impl Watch {
    /// Looks at what has been read.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            match self.place {
                Place::Last => return,
                Place::Behind => return self.keep(bytes),
                Place::Body(left) => {
                    let passed = left.min(bytes.len() as u64);
                    self.place = if left == passed { Place::Before } else { Place::Body(left - passed) };
                    bytes = bytes.get(passed as usize..).unwrap_or_default();
                    continue;
                }
                _ => self.place = self.next(*byte),
            }
            bytes = rest;
        }
    }

    /// The place behind a byte of a head.
    fn next(&mut self, byte: u8) -> Place {
        match (self.place, byte) {
            (Place::Before, b'\r' | b'\n') => Place::Before,
            (Place::Line, b'\n') => Place::Behind,
            (Place::Method | Place::Target | Place::Field, b'\n') | (Place::Line, b'\r') => Place::Line,
            (Place::Method, b' ') => Place::Target,
            (Place::Before, _) => Place::Method,
            (Place::Line, _) => Place::Field,
            (Place::Target, b'#') => {
                self.found = true;
                Place::Target
            }
            (same, _) => same,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.ahead.len() + bytes.len() > MOST {
            (self.place, self.ahead) = (Place::Last, Vec::new());
        } else {
            self.ahead.extend_from_slice(bytes);
        }
    }

    /// The library has taken the head that was read; its body is so long, or ends as nobody here knows. Returns whether
    /// its target has a `#`.
    pub(super) fn taken(&mut self, body: Option<u64>) -> bool {
        let found = std::mem::take(&mut self.found);
        // Elsewhere, the library and this disagree on where the head ends.
        if self.place != Place::Behind {
            self.place = Place::Last;
            return found;
        }
        self.place = match body {
            None => Place::Last,
            Some(0) => Place::Before,
            Some(length) => Place::Body(length),
        };
        let ahead = std::mem::take(&mut self.ahead);
        self.read(&ahead);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether each of these requests, with the length of its body, has a `#`, read in pieces of this size.
    fn found(requests: &[(&str, Option<u64>)], size: usize) -> Vec<bool> {
        let mut watch = Watch::default();
        let whole: String = requests.iter().map(|(text, _)| *text).collect();
        let (mut told, mut ended) = (Vec::new(), 0);
        for piece in whole.as_bytes().chunks(size) {
            watch.read(piece);
            while watch.place == Place::Behind {
                let Some((_, body)) = requests.get(ended) else { break };
                told.push(watch.taken(*body));
                ended += 1;
            }
        }
        told
    }

    #[test]
    fn a_target_is_looked_at_and_nothing_else() {
        let requests = [
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)),
            ("GE#T /a HTTP/1.1\r\nReferer: /x#y\r\n\r\n", Some(0)),
            ("\r\n\r\nPOST /a HTTP/1.1\r\nContent-Length: 20\r\n\r\nGET /#a HTTP/1.1\r\n\r\n", Some(20)),
            ("GET /?#a HTTP/1.1\nHost: a\n\n", Some(0)),
            ("GET / HTTP/1.1\n\r\n", Some(0)),
            ("PUT /# HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", None),
            ("GET /#never-read HTTP/1.1\r\n\r\n", Some(0)),
        ];
        for size in [1, 2, 3, 7, 20, 64, 4096] {
            assert_eq!(found(&requests, size), [true, false, false, true, false, true], "pieces of {size}");
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut watch = Watch::default();
        watch.read(b"GET / HTTP/1.1\r\n\r\n");
        for _ in 0..100 {
            watch.read(&[b'x'; 4096]);
        }
        assert!(watch.ahead.is_empty() && watch.place == Place::Last);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), body in any::<Option<u64>>()) {
            let mut watch = Watch::default();
            for piece in bytes.chunks(7) {
                watch.read(piece);
                let _ = watch.taken(body);
            }
        }
    }
}
