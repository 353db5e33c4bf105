//! One block of header fields (RFC 7541 §3): what in it is malformed, and the same block without that.

use std::borrow::Cow;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::huffman;
use super::table::{Entry, Kind, Table};

/// A field that the HTTP/2 library knows as malformed (RFC 9113 §8.2.2), as a literal that stays out of the table. With
/// it in a block, the stream is reset.
const MARK: &[u8] = b"\x00\x02te\x01x";

/// A block that cannot be read to its end: the HTTP/2 library ends the connection, as RFC 9113 §4.3 wants it to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Reads a block, and does with the table what it says. `Some`: it is malformed; this one is as well, for a reader to whom
/// malformed names and values are errors of the compression, and does the same with that reader's table.
///
/// # Errors
/// It cannot be read.
pub(super) fn screen(block: &[u8], table: &mut Table) -> Result<Option<Vec<u8>>, Unreadable> {
    let mut rest = Cursor(block);
    let mut instead: Option<Vec<u8>> = None;
    while let Some(first) = rest.0.first() {
        let before = rest.0;
        let malformed = match first {
            0x80.. => rest.indexed(table).map(|malformed| malformed.then_some(None)),
            0x40.. => rest.literal(6, table).map(|(entry, malformed)| {
                table.insert(entry);
                malformed.then_some(Some(entry))
            }),
            0x20.. => rest.resized(table).map(|()| None),
            _ => rest.literal(4, table).map(|(_, malformed)| malformed.then_some(None)),
        };
        let malformed = malformed.ok_or(Unreadable)?;
        let (begun, read) = (block.len() - before.len(), before.len() - rest.0.len());
        match malformed {
            None => instead.iter_mut().for_each(|out| out.extend_from_slice(before.get(..read).unwrap_or_default())),
            Some(kept) => {
                let out = instead.get_or_insert_with(|| block.get(..begun).unwrap_or_default().to_vec());
                kept.into_iter().for_each(|entry| stand_in(entry, out));
            }
        }
    }
    Ok(instead.map(|out| [&out, MARK].concat()))
}

/// Writes a field as long as one that is malformed, as a literal that goes into the table.
fn stand_in(entry: Entry, out: &mut Vec<u8>) {
    out.push(0x40);
    for length in [entry.name, entry.value] {
        integer(length, 7, out);
        out.resize(out.len() + length, b'x');
    }
}

/// Writes an integer behind a prefix of zeros (RFC 7541 §5.1).
fn integer(value: usize, prefix: u32, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.push(value as u8);
    }
    out.push(most as u8);
    let mut left = value - most;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// What of a block is still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Reads an integer, as long as the HTTP/2 library takes it: five bytes.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        let coded = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        if coded { huffman::decode(text).map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
    }

    /// Reads a field of the table. Whether it is malformed.
    fn indexed(&mut self, table: &Table) -> Option<bool> {
        Some(table.get(self.integer(7)?)?.malformed)
    }

    fn resized(&mut self, table: &mut Table) -> Option<()> {
        let most = self.integer(5)?;
        table.resize(most)
    }

    /// Reads a literal, whose index has such a prefix: the entry that it makes, and whether it is malformed.
    fn literal(&mut self, prefix: u32, table: &Table) -> Option<(Entry, bool)> {
        let (kind, name, known) = match self.integer(prefix)? {
            0 => {
                let name = self.string()?;
                let kind = kind_of(&name);
                (kind.unwrap_or(Kind::Field), name.len(), kind.is_some())
            }
            index => {
                let of = table.get(index)?;
                (of.kind, of.name, !of.malformed)
            }
        };
        let value = self.string()?;
        let malformed = !known || !is_value(kind, &value);
        let mut entry = Entry { kind, name, value: value.len(), malformed };
        if name == 0 {
            // A name has one byte at least: the value gives one.
            (entry.name, entry.value) = (1, value.len().checked_sub(1)?);
        }
        Some((entry, malformed))
    }
}

/// `None`: no field has such a name (RFC 9113 §8.2.1, §8.3).
fn kind_of(name: &[u8]) -> Option<Kind> {
    match name.first() {
        Some(b':') => Kind::of_pseudo(name),
        _ => HeaderName::from_lowercase(name).ok().map(|_| Kind::Field),
    }
}

/// Whether the HTTP/2 library takes a value; and no path with a `#`, which it would drop with all behind it.
fn is_value(kind: Kind, value: &[u8]) -> bool {
    match kind {
        Kind::Method => Method::from_bytes(value).is_ok(),
        Kind::Status => StatusCode::from_bytes(value).is_ok(),
        Kind::Field => HeaderValue::from_bytes(value).is_ok(),
        Kind::Text => std::str::from_utf8(value).is_ok(),
        Kind::Path => std::str::from_utf8(value).is_ok() && !value.contains(&b'#'),
    }
}
