//! What a line may hold: bounded, on one line, and nothing that a terminal obeys. Pure, but for the time of day.

use std::fmt::{self, Write as _};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

/// The most bytes of a line. 4 KiB: the kernel writes so many into a pipe as one piece (PIPE_BUF), whoever else writes.
const MOST: usize = 4096;

/// Room for the end of a line that is cut.
const CUT: usize = 64;

/// The most bytes of [`Shown`]. 200: user agents have about 150.
const MOST_SHOWN: usize = 200;

/// A line of the subscriber's, as it is written: without control characters (but for the colours that the subscriber
/// put there), and cut where it is too long.
pub(super) fn one_line(line: &[u8], colored: bool) -> Vec<u8> {
    let whole = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    let mut out = String::with_capacity(whole.len().min(MOST) + 1);
    let mut rest = whole.chars();
    while let Some(c) = rest.next() {
        if out.len() + CUT > MOST {
            let left = rest.as_str().len() + c.len_utf8();
            let _infallible = write!(out, " … ({left} more bytes)");
            break;
        }
        match c {
            '\x1b' if colored => out.push(c),
            _ => escape(c, &mut out),
        }
    }
    out.push('\n');
    out.into_bytes()
}

/// Text of several lines: without control characters other than their ends.
pub(super) fn lines(text: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len() + 1);
    text.chars().for_each(|c| if c == '\n' { out.push(c) } else { escape(c, &mut out) });
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.into_bytes()
}

/// A line of our own, in the form that the subscriber's have.
pub(super) fn own(level: &str, said: &str) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail; without the time the line is worth as much.
    let _ = SystemTime.format_time(&mut Writer::new(&mut out));
    let _infallible = write!(out, " {level:>5} sluice::logging: {said}");
    out
}

/// Writes a character, or says which one it is, if it would change how a line is shown: control characters, and the
/// marks that reverse the direction of text or end a line (Unicode's Bidi_Control and Line_Separator).
fn escape(c: char, out: &mut String) {
    let unseen = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}');
    if c.is_control() || unseen {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// What a stranger sent, for a log line: in quotes, in printable ASCII, and cut at 200 bytes.
#[derive(Clone, Copy)]
pub struct Shown<'a>(&'a [u8]);

/// See [`Shown`].
#[must_use]
pub fn shown(bytes: &(impl AsRef<[u8]> + ?Sized)) -> Shown<'_> {
    Shown(bytes.as_ref())
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0.get(..MOST_SHOWN).unwrap_or(self.0);
        write!(f, "\"{}\"", seen.escape_ascii())?;
        match self.0.len() - seen.len() {
            0 => Ok(()),
            left => write!(f, "…({left} more bytes)"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> String {
        String::from_utf8(one_line(text.as_bytes(), false)).unwrap()
    }

    #[test]
    fn a_line_stays_one_line_and_moves_no_cursor() {
        assert_eq!(line("a\n"), "a\n");
        assert_eq!(line("a\nb\r\x1b[2J\u{9b}c\u{202e}\t\n"), "a\\nb\\r\\u{1b}[2J\\u{9b}c\\u{202e}\\t\n");
        assert_eq!(one_line(b"\x1b[31mred\x1b[0m\n", true), b"\x1b[31mred\x1b[0m\n");
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let cut = line(&"ü".repeat(10_000));
        assert!(cut.len() <= MOST, "{}", cut.len());
        assert!(cut.ends_with(" more bytes)\n"), "{cut}");
    }

    #[test]
    fn what_strangers_send_is_shown_in_quotes() {
        assert_eq!(shown("a \"b\"\x1b\u{fc}").to_string(), "\"a \\\"b\\\"\\x1b\\xc3\\xbc\"");
        assert_eq!(shown(&[b'x'; 203]).to_string(), format!("\"{}\"…(3 more bytes)", "x".repeat(200)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_more_than_a_line(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let line = one_line(&bytes, false);
            prop_assert!(line.len() <= MOST);
            let text = String::from_utf8(line).unwrap();
            let (last, others) = text.as_bytes().split_last().unwrap();
            prop_assert_eq!(*last, b'\n');
            prop_assert!(!others.iter().any(u8::is_ascii_control));
        }
    }
}
