//! RFC 6455 frames, as much as an echo of data frames needs.

use anyhow::{Result, bail};

/// The masking key of every frame that the load generator sends. RFC 6455 §5.3 asks for an unpredictable one;
/// against our own backend a constant measures the same and costs the generator nothing per message.
pub(super) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// FIN and the opcode for binary data.
pub(super) const BINARY: u8 = 0x82;
/// FIN and the opcode for Close.
pub(super) const CLOSE: u8 = 0x88;
/// FIN and the opcode for Ping.
pub(super) const PING: u8 = 0x89;
/// FIN and the opcode for Pong.
pub(super) const PONG: u8 = 0x8a;

/// The largest payload that the echo backend takes, in bytes: far above any cell of the benchmark.
const MAX_PAYLOAD: u64 = 1 << 20;
const MASKED: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const CONTROL: u8 = 0x08;

/// The header of one masked frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The first byte: FIN and opcode.
    pub(super) first: u8,
    /// The masking key.
    pub(super) mask: [u8; 4],
    /// Bytes of the header.
    pub(super) length: usize,
    /// Bytes of the payload behind it.
    pub(super) payload: usize,
}

/// Reads the header of a client's frame; `None` while bytes of it are missing.
///
/// Fails on what no client may send: reserved bits, no mask, a length not in its shortest form, a control frame
/// over 125 bytes (RFC 6455 §5.2, §5.5), or more than 1 MiB.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED_BITS != 0 || second & MASKED == 0 {
        bail!("a frame begins with {first:#04x} {second:#04x}: reserved bits set, or not masked");
    }
    let (payload, rest) = match second & !MASKED {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    let shortest = extended_bytes(payload) == extended_bytes_of_code(second & !MASKED);
    if !shortest || payload > MAX_PAYLOAD || (first & CONTROL != 0 && payload > 125) {
        bail!("a frame has a payload length that is not allowed here: {payload}");
    }
    let Some((mask, behind)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    Ok(Some(Header { first: *first, mask: *mask, length: bytes.len() - behind.len(), payload: payload as usize }))
}

const fn extended_bytes(payload: u64) -> usize {
    match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    }
}

const fn extended_bytes_of_code(code: u8) -> usize {
    match code {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Appends a frame with this clear payload, masked if a key is given.
pub(super) fn append(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let flag = if mask.is_some() { MASKED } else { 0 };
    out.push(first);
    match extended_bytes(payload.len() as u64) {
        0 => out.push(flag | payload.len() as u8),
        2 => {
            out.push(flag | 126);
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        _ => {
            out.push(flag | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    if mask.is_some() {
        out.extend_from_slice(&key);
    }
    let start = out.len();
    out.extend_from_slice(payload);
    if mask.is_some() {
        apply_mask(&mut out[start..], key);
    }
}

/// Masks or unmasks in place (RFC 6455 §5.3), eight bytes at a time.
pub(super) fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn what_append_masks_parse_reads_at_every_length_form() {
        for length in [0, 1, 125, 126, 128, 16 * 1024, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let mut frame = Vec::new();
            append(&mut frame, BINARY, &payload, Some(MASK));
            let header = parse(&frame).unwrap().unwrap();
            assert_eq!((header.first, header.mask, header.payload), (BINARY, MASK, length));
            assert_eq!(header.length + length, frame.len());
            apply_mask(&mut frame[header.length..], MASK);
            assert_eq!(frame[header.length..], payload);
        }
    }

    #[test]
    fn a_cut_header_waits_for_more() {
        let mut frame = Vec::new();
        append(&mut frame, BINARY, &[0; 300], Some(MASK));
        for cut in 0..8 {
            assert_eq!(parse(&frame[..cut]).unwrap(), None);
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let unmasked = [BINARY, 5];
        let reserved = [BINARY | 0x40, MASKED];
        let overlong = [BINARY, MASKED | 126, 0, 5];
        let long_ping = [PING, MASKED | 126, 0, 200];
        let huge = [BINARY, MASKED | 127, 1, 0, 0, 0, 0, 0, 0, 0];
        for bytes in [&unmasked[..], &reserved, &overlong, &long_ping, &huge] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
