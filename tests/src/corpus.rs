//! Cases that a person can read: what is sent, byte for byte, and what must come of it.
//!
//! ```text
//! [name of the case]
//! # Why, and by which rule.
//! > a line that is sent, with CR LF behind it
//! >> bytes that are sent as they are
//! >* 150 a line that is sent so many times
//! key = value
//! ```
//!
//! In what is sent, `\r`, `\n`, `\t`, `\\` and `\x41` are what they are in Rust, and `\{9}x` is `xxxxxxxxx`.

/// One case.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// The lines of it, without what ends them.
    pub lines: Vec<Vec<u8>>,
    /// What must come of it.
    values: Vec<(String, String)>,
}

impl Case {
    /// The only value of a key, if there is one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.values.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// Reads cases.
///
/// # Panics
/// The text is not as the description above has it; the message has the line.
#[must_use]
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            cases.push(Case { name: name.trim_end_matches(']').into(), ..Case::default() });
            continue;
        }
        let Some(case) = cases.last_mut() else { panic!("before the first case: {line}") };
        if let Some(raw) = line.strip_prefix(">> ") {
            case.bytes.extend(unescape(raw));
        } else if let Some((count, text)) = line.strip_prefix(">* ").and_then(|rest| rest.split_once(' ')) {
            let count = count.parse().unwrap_or_else(|_| panic!("not a count: {line}"));
            (0..count).for_each(|_| case.push(unescape(text)));
        } else if let Some(text) = line.strip_prefix('>') {
            case.push(unescape(text.strip_prefix(' ').unwrap_or(text)));
        } else {
            let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("neither sent nor expected: {line}"));
            case.values.push((key.into(), value.into()));
        }
    }
    cases
}

impl Case {
    fn push(&mut self, line: Vec<u8>) {
        self.bytes.extend_from_slice(&line);
        self.bytes.extend_from_slice(b"\r\n");
        self.lines.push(line);
    }
}

/// Bytes as the cases write them.
///
/// # Panics
/// Behind a backslash is something unknown.
#[must_use]
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            bytes.extend(c.to_string().into_bytes());
            continue;
        }
        let (byte, used) = match rest.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', ..] => (u8::from_str_radix(&rest[1..3], 16).unwrap_or_else(|_| panic!("not a byte: {text}")), 3),
            [b'{', ..] => {
                let (count, unit) = rest[1..].split_once('}').unwrap_or_else(|| panic!("no end: {text}"));
                let count: usize = count.parse().unwrap_or_else(|_| panic!("not a count: {text}"));
                bytes.resize(bytes.len() + count.saturating_sub(1), unit.as_bytes()[0]);
                (unit.as_bytes()[0], rest.len() - unit.len() + 1)
            }
            _ => panic!("an unknown escape: {text}"),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_back() {
        let cases = read("# x\n[one]\n> a\\x41\\r\n>> \\{3}b\n>* 2 c\n>\nkey = v w\nkey = u\n\n[two]\n");
        assert_eq!(cases.len(), 2);
        assert_eq!(cases[0].bytes, b"aA\r\r\nbbbc\r\nc\r\n\r\n");
        assert_eq!(cases[0].all("key").collect::<Vec<_>>(), ["v w", "u"]);
        assert_eq!((cases[1].name.as_str(), cases[1].value("key")), ("two", None));
    }
}
