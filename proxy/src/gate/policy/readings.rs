//! How lenient backends may read a path. Pure.
//!
//! A route is chosen by the plain form of a path. A backend may be more lenient than that, and serve `/admin` for
//! `/admin;x`, `/%2561dmin` or `/\admin`. Which of these a backend does is not known; so a request must satisfy what is
//! asked of every path that any of them, in any order, makes of it.

use crate::gate::handshake::decode_leniently;

/// The most readings of one path, and the most bytes of all of them. An ordinary path has one or two; one with more than
/// these is made to confuse.
const MOST: usize = 64;
const MOST_BYTES: usize = 64 * 1024;

/// A path, read in one more way.
type Step = fn(&[u8]) -> Vec<u8>;

/// What a lenient backend may do to a path:
const STEPS: [Step; 11] = [
    // decode it once more, also `%u0061` (IIS);
    decode_leniently,
    // read other forms of ASCII as ASCII: overlong UTF-8, full width (Windows' best fit);
    as_ascii,
    // take a backslash for a slash (Windows, WHATWG URL);
    |path| replaced(path, b'\\', b'/'),
    // cut parameters off every segment (RFC 2396 §3.3: Tomcat, Jetty);
    |path| per_segment(path, |segment| segment.split(|b| *b == b';').next().unwrap_or_default()),
    // cut off all that follows the first parameter;
    |path| before(path, b";"),
    // take a semicolon for a slash;
    |path| replaced(path, b';', b'/'),
    // look for a query or a fragment behind the decoding;
    |path| before(path, b"?#"),
    // leave out dots and spaces at the end of names, and spaces before them (Windows);
    |path| per_segment(path, trimmed),
    // leave out empty segments;
    collapsed,
    // leave out a slash at the end (Express);
    |path| path.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(path).to_vec(),
    // leave out the stream of a file (NTFS, `/admin::$DATA`).
    |path| {
        per_segment(path, |segment| {
            segment.windows(2).position(|two| two == b"::").map_or(segment, |end| &segment[..end])
        })
    },
];

/// The paths that a request may be for, by any lenient reading.
pub(super) struct Readings {
    /// The first one is the plain form.
    pub(super) paths: Vec<Vec<u8>>,
    /// Some reading goes up or holds a control byte, or there are too many: it may be any path.
    pub(super) anywhere: bool,
}

impl Readings {
    /// Of a path as it was sent, of which `plain` is the plain form.
    pub(super) fn of(sent: &str, plain: &[u8]) -> Self {
        let mut readings = Self { paths: Vec::new(), anywhere: false };
        let mut bytes = 0;
        for first in [plain.to_vec(), undecoded(sent)] {
            readings.note(first, &mut bytes);
        }
        let mut done = 0;
        while let Some(path) = readings.paths.get(done).filter(|_| !readings.anywhere).cloned() {
            STEPS.iter().for_each(|step| readings.note(step(&path), &mut bytes));
            done += 1;
        }
        readings
    }

    fn note(&mut self, path: Vec<u8>, bytes: &mut usize) {
        if self.paths.contains(&path) {
            return;
        }
        *bytes += path.len();
        let full = self.paths.len() >= MOST || *bytes > MOST_BYTES && !self.paths.is_empty();
        let up = path.split(|b| *b == b'/').any(goes_up);
        self.anywhere |= full || up || path.iter().any(u8::is_ascii_control) || is_overlong(&path);
        if !full {
            self.paths.push(path);
        }
    }
}

/// Decoded once, but for encoded slashes and for what need not be encoded (RFC 3986 §2.3), with all its slashes: as backends
/// read it that look for their own routes before they decode, or that take an empty segment for one.
pub(super) fn undecoded(sent: &str) -> Vec<u8> {
    let mut path = Vec::with_capacity(sent.len());
    let mut rest = sent.as_bytes();
    while let [byte, behind @ ..] = rest {
        let code =
            behind.get(..2).filter(|_| *byte == b'%').map(|code| (code, decode_leniently(&[b"%", code].concat())));
        match code {
            Some((code, decoded)) => {
                let kept = matches!(decoded.as_slice(), [b'/' | b'-' | b'.' | b'_' | b'~'])
                    || decoded.first().is_some_and(u8::is_ascii_alphanumeric);
                path.extend_from_slice(if kept { rest.get(..3).unwrap_or_default() } else { &decoded });
                rest = behind.get(code.len()..).unwrap_or_default();
            }
            None => {
                path.push(*byte);
                rest = behind;
            }
        }
    }
    path
}

fn replaced(path: &[u8], what: u8, by: u8) -> Vec<u8> {
    path.iter().map(|b| if *b == what { by } else { *b }).collect()
}

/// What stands before the first of these bytes.
fn before(path: &[u8], ends: &[u8]) -> Vec<u8> {
    path.split(|b| ends.contains(b)).next().unwrap_or_default().to_vec()
}

fn per_segment(path: &[u8], change: fn(&[u8]) -> &[u8]) -> Vec<u8> {
    path.split(|b| *b == b'/').map(change).collect::<Vec<_>>().join(&b'/')
}

fn collapsed(path: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    path.dedup_by(|b, before| *b == b'/' && *before == b'/');
    path
}

fn trimmed(segment: &[u8]) -> &[u8] {
    let from = segment.iter().position(|b| *b != b' ').unwrap_or(segment.len());
    let to = segment.iter().rposition(|b| !b" .".contains(b)).map_or(from, |last| last + 1);
    if goes_up(segment) { segment } else { segment.get(from..to).unwrap_or_default() }
}

/// Whether it is `.`, `..` or more dots, perhaps with spaces.
fn goes_up(segment: &[u8]) -> bool {
    segment.contains(&b'.') && segment.iter().all(|b| b" .".contains(b))
}

/// Whether it has a sequence that is longer than its character needs (RFC 3629 §3): nothing writes such but to confuse.
fn is_overlong(path: &[u8]) -> bool {
    let overlong = |pair: &[u8]| {
        matches!(
            pair,
            [0xC0 | 0xC1, 0x80..=0xBF]
                | [0xE0, 0x80..=0x9F]
                | [0xF0, 0x80..=0x8F]
                | [0xF8, 0x80..=0x87]
                | [0xFC, 0x80..=0x83]
        )
    };
    path.windows(2).any(overlong)
}

/// With ASCII for overlong sequences, for characters of full width, and for the four that are, in some language, the other
/// case of an ASCII letter (U+0130, U+0131, U+017F, U+212A).
fn as_ascii(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, ..] = rest {
        let (byte, length) = match rest {
            [high @ (0xC0 | 0xC1), low @ 0x80..=0xBF, ..] => ((high & 1) << 6 | (low & 0x3F), 2),
            [0xE0, high @ 0x80..=0x81, low @ 0x80..=0xBF, ..] => ((high & 1) << 6 | (low & 0x3F), 3),
            [0xF0, 0x80, high @ 0x80..=0x81, low @ 0x80..=0xBF, ..] => ((high & 1) << 6 | (low & 0x3F), 4),
            // U+FF01 to U+FF5E.
            [0xEF, 0xBC, low @ 0x81..=0xBF, ..] => (low - 0x60, 3),
            [0xEF, 0xBD, low @ 0x80..=0x9E, ..] => (low - 0x20, 3),
            [0xC4, 0xB0 | 0xB1, ..] => (b'i', 2),
            [0xC5, 0xBF, ..] => (b's', 2),
            [0xE2, 0x84, 0xAA, ..] => (b'k', 3),
            _ => (*first, 1),
        };
        out.push(byte);
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
#[path = "readings_tests.rs"]
mod tests;
