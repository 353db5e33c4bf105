//! Paths as routes see them.

/// A path in the one form that two servers cannot read differently: percent-encoded bytes decoded, repeated slashes
/// as one. Routes are chosen by it; what goes to the backend is what the client sent, or what
/// a route rewrites it to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::gate) struct PlainPath(Vec<u8>);

impl PlainPath {
    /// Reads a path that begins with `/`.
    ///
    /// `None` if it does not, if its percent-encoding is broken, if it has a control byte (at which some servers end
    /// a path), or if it has a segment `.` or `..` in any spelling: browsers never send one, and a backend that
    /// resolves it would serve another path than the one that the route was chosen by.
    pub(in crate::gate) fn read(path: &str) -> Option<Self> {
        let decoded = decode(path)?;
        let dots = decoded.split(|b| b"/\\".contains(b)).any(is_dots);
        if decoded.first() != Some(&b'/') || dots || decoded.iter().any(u8::is_ascii_control) {
            return None;
        }
        let mut plain = decoded;
        plain.dedup_by(|b, before| *b == b'/' && *before == b'/');
        Some(Self(plain))
    }

    /// The path.
    pub(in crate::gate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether a path is `prefix` or lies below it, cut at `/`.
pub(in crate::gate) fn is_below(path: &[u8], prefix: &[u8], any_case: bool) -> bool {
    let (Some(begin), Some(rest)) = (path.get(..prefix.len()), path.get(prefix.len()..)) else { return false };
    is_same(begin, prefix, any_case) && (rest.is_empty() || prefix.ends_with(b"/") || rest.starts_with(b"/"))
}

/// Whether two paths are the same, perhaps but for the case of ASCII letters.
pub(in crate::gate) fn is_same(one: &[u8], other: &[u8], any_case: bool) -> bool {
    if any_case { one.eq_ignore_ascii_case(other) } else { one == other }
}

/// `.` or `..`, with or without what some servers take for a parameter (`..;x`).
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|b| *b == b';').next().unwrap_or_default();
    name == b"." || name == b".."
}

/// Decodes what is percent-encoded, also as `%u0061`. What is no such encoding stays.
pub(in crate::gate) fn decode_leniently(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, behind @ ..] = rest {
        let code = |from: usize, count: usize| {
            let digits = behind.get(from..from + count)?;
            let code = digits.iter().try_fold(0, |sum, digit| Some(sum << 4 | u32::from(hex(*digit)?)))?;
            Some((code, behind.get(from + count..)?))
        };
        if *byte != b'%' {
            decoded.push(*byte);
            rest = behind;
        } else if let Some((code, behind)) = code(0, 2) {
            decoded.push(code as u8);
            rest = behind;
        } else if let (Some(b'u' | b'U'), Some((code, behind))) = (behind.first(), code(1, 4)) {
            let one = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            decoded.extend_from_slice(one.encode_utf8(&mut [0; 4]).as_bytes());
            rest = behind;
        } else {
            decoded.push(*byte);
            rest = behind;
        }
    }
    decoded
}

fn decode(path: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { byte });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn below(path: &str, prefix: &str) -> bool {
        is_below(PlainPath::read(path).unwrap().bytes(), PlainPath::read(prefix).unwrap().bytes(), false)
    }

    #[test]
    fn prefixes_are_cut_at_slashes() {
        assert!(below("/chat", "/chat"));
        assert!(below("/chat/x", "/chat"));
        assert!(below("/chat/x", "/chat/"));
        assert!(below("/anything", "/"));
        assert!(!below("/chatter", "/chat"));
        assert!(!below("/chat", "/chat/"));
        assert!(!below("/", "/chat"));
    }

    #[test]
    fn other_spellings_of_a_path_take_the_same_route() {
        assert!(below("//chat/x", "/chat"));
        assert!(below("/%63hat", "/chat"));
        assert!(below("/chat%2Fx", "/chat"));
    }

    #[test]
    fn ways_up_are_refused_in_every_spelling() {
        let spellings =
            ["/a/../b", "/a/%2e%2E/b", "/..", "/.", "/a/..%2fb", "/a\\..\\b", "/a/..;x/b", "/a/%2e", "/a%5c..%5cb"];
        for path in spellings {
            assert_eq!(PlainPath::read(path), None, "{path}");
        }
        for path in ["", "a", "*", "/%", "/%4", "/%zz", "/a%00", "/..%00/b", "/%0d%0a", "/%7f"] {
            assert_eq!(PlainPath::read(path), None, "{path}");
        }
        assert!(PlainPath::read("/a...b/..c").is_some());
    }

    proptest! {
        #[test]
        fn everything_is_below_the_root(path in "[ -~]{0,40}") {
            if let Some(plain) = PlainPath::read(&format!("/{path}")) {
                prop_assert!(is_below(plain.bytes(), b"/", false));
                prop_assert!(is_below(plain.bytes(), plain.bytes(), false));
            }
        }
    }
}
