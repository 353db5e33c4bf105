//! WebSocket frames by hand (RFC 6455 §5.2), for what a decent library does not send.

use std::io::{self, Read};

/// Opcodes.
pub const CONTINUATION: u8 = 0;
/// Text.
pub const TEXT: u8 = 1;
/// Binary.
pub const BINARY: u8 = 2;
/// Close.
pub const CLOSE: u8 = 8;
/// Ping.
pub const PING: u8 = 9;
/// Pong.
pub const PONG: u8 = 10;

/// One frame; the payload in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub fin: bool,
    /// The opcode.
    pub opcode: u8,
    /// The masking key: clients mask, servers do not.
    pub mask: Option<[u8; 4]>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A whole message as a client sends it.
    #[must_use]
    pub fn client(opcode: u8, payload: &[u8]) -> Self {
        Self { fin: true, opcode, mask: Some([0x12, 0x34, 0x56, 0x78]), payload: payload.to_vec() }
    }

    /// A whole message as a server sends it.
    #[must_use]
    pub fn server(opcode: u8, payload: &[u8]) -> Self {
        Self { fin: true, opcode, mask: None, payload: payload.to_vec() }
    }

    /// A Close frame's payload: the code, then the reason.
    #[must_use]
    pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
        [&code.to_be_bytes(), reason.as_bytes()].concat()
    }

    /// Its bytes, with the shortest length form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = self.payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if short < 126 => self.with_length(short, &[]),
            (_, Ok(medium)) => self.with_length(126, &medium.to_be_bytes()),
            _ => self.encode_long(),
        }
    }

    /// Its bytes, with the length in 64 bits whatever it is.
    #[must_use]
    pub fn encode_long(&self) -> Vec<u8> {
        self.with_length(127, &(self.payload.len() as u64).to_be_bytes())
    }

    fn with_length(&self, short: u8, extended: &[u8]) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.opcode, u8::from(self.mask.is_some()) << 7 | short];
        bytes.extend_from_slice(extended);
        let key = self.mask.unwrap_or_default();
        bytes.extend(self.mask.iter().flatten());
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// The stream ends or fails.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let [first, second] = array(from)?;
        let length = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes(array(from)?)),
            127 => u64::from_be_bytes(array(from)?),
            short => u64::from(short),
        };
        let mask = if second & 0x80 == 0 { None } else { Some(array(from)?) };
        let mut payload = Vec::new();
        let read = from.take(length).read_to_end(&mut payload)?;
        if (read as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let key: [u8; 4] = mask.unwrap_or_default();
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        Ok(Self { fin: first & 0x80 != 0, opcode: first & 0x0f, mask, payload })
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_encoded_is_read_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for frame in [Frame::client(BINARY, &vec![7; length]), Frame::server(TEXT, &vec![b'x'; length])] {
                assert!(Frame::read(&mut frame.encode().as_slice()).unwrap() == frame, "{length} bytes");
                assert!(Frame::read(&mut frame.encode_long().as_slice()).unwrap() == frame, "{length} bytes, long");
            }
        }
    }
}
