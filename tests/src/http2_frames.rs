//! A little HTTP/2, frame by frame, for requests that no library would send.

use std::io::{self, Read, Write};

/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// What the fields of a request become on the wire: literals without indexing, as they are (RFC 7541 §6.2.2).
///
/// # Panics
/// A name or a value has more than 126 bytes, which would need more than one byte for its length.
#[must_use]
pub fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127, "a field of more than 126 bytes");
        out.push(0);
        for text in [name, value] {
            out.push(text.len() as u8);
            out.extend_from_slice(text);
        }
    }
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A whole connection of one request: the preface, its head and its bodies' frames, the last of which ends the stream.
#[must_use]
pub fn request(fields: &[(Vec<u8>, Vec<u8>)], bodies: &[Vec<u8>]) -> Vec<u8> {
    let over = if bodies.is_empty() { END_STREAM } else { 0 };
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(SETTINGS, 0, 0, &[]));
    out.extend(frame(HEADERS, END_HEADERS | over, 1, &block(fields)));
    for (place, body) in bodies.iter().enumerate() {
        out.extend(frame(DATA, if place + 1 == bodies.len() { END_STREAM } else { 0 }, 1, body));
    }
    out
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This status, and the end of the stream.
    Status(u16),
    /// The stream was reset, whatever had come before. The connection lives on.
    Reset,
    /// The connection ended.
    Ended,
}

/// One more request on a connection, without a body.
#[must_use]
pub fn another(id: u32, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, id, &block(fields))
}

/// Reads until this stream has ended.
///
/// # Errors
/// The connection fails, other than by its end.
pub fn answer(stream: &mut (impl Read + Write), id: u32) -> io::Result<Answer> {
    let mut status = 0;
    loop {
        let mut head = [0; 9];
        match stream.read_exact(&mut head) {
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return Ok(Answer::Ended);
            }
            read => read?,
        }
        let [a, b, c, kind, flags, of @ ..] = head;
        let own = u32::from_be_bytes(of) == id;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload)?;
        match kind {
            GOAWAY => return Ok(Answer::Ended),
            RST_STREAM if own => return Ok(Answer::Reset),
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            HEADERS if own => status = self::status(&payload).ok_or(io::ErrorKind::InvalidData)?,
            _ => {}
        }
        if own && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            return Ok(Answer::Status(status));
        }
    }
}

/// The status of a response's block, with which it begins: of the static table (RFC 7541 appendix A), or as a literal,
/// whose digits are then in Huffman's code (appendix B).
fn status(block: &[u8]) -> Option<u16> {
    match *block.first()? {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500].get(usize::from(indexed - 0x88)).copied(),
        0x08 | 0x48 => {
            let length = *block.get(1)?;
            let text = block.get(2..2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { digits(text) }
        }
        _ => None,
    }
}

/// `0` to `2` have the five bits of their number, `3` to `9` the six bits of 22 more.
fn digits(text: &[u8]) -> Option<u16> {
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).try_fold(0, |sum, _| Some(sum << 1 | bits.next()?))?;
        number = number * 10 + if five <= 2 { five } else { (five << 1 | bits.next()?).checked_sub(22)? };
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_in_every_spelling() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(b"\x48\x03502"), Some(502));
        // RFC 7541 appendix C.6.1 and C.6.2.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
    }
}
