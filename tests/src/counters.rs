//! What the proxy should have counted: an account of the bytes on the wire that shares no code with it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde_json::Value;

use crate::frame::Frame;

/// The counters of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes, frame headers included.
    pub bytes: u64,
    /// Text and binary messages.
    pub messages: u64,
    /// Frames by the opcode's name; only what is not 0.
    pub frames: BTreeMap<String, u64>,
    /// Frames by payload: the largest length in the bucket (0, 1, 3, 7 …) and how many; only what is not 0.
    pub sizes: BTreeMap<u64, u64>,
    /// The status code of the last Close frame.
    pub close_code: Option<u64>,
}

impl Tally {
    /// Counts whole frames, back to back.
    ///
    /// # Errors
    /// The bytes end within a frame.
    pub fn of(wire: &[u8]) -> io::Result<Self> {
        let mut tally = Self { bytes: wire.len() as u64, ..Self::default() };
        let mut rest = wire;
        while !rest.is_empty() {
            tally.count(&Frame::read(&mut rest)?);
        }
        Ok(tally)
    }

    fn count(&mut self, frame: &Frame) {
        let name = match frame.opcode {
            0 => "continuation",
            1 => "text",
            2 => "binary",
            8 => "close",
            9 => "ping",
            10 => "pong",
            3..=7 => "reserved_data",
            _ => "reserved_control",
        };
        *self.frames.entry(name.into()).or_default() += 1;
        let length = frame.payload.len() as u64;
        let bucket = if length == 0 { 0 } else { (1u64 << (u64::BITS - length.leading_zeros())) - 1 };
        *self.sizes.entry(bucket).or_default() += 1;
        if frame.fin && frame.opcode <= 2 {
            self.messages += 1;
        }
        if frame.opcode == 8 {
            let code = frame.payload.first_chunk().map(|code| u64::from(u16::from_be_bytes(*code)));
            self.close_code = Some(code.unwrap_or(1005));
        }
    }

    /// What `/connections` says of one direction.
    #[must_use]
    pub fn shown(direction: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let frames = direction["frames"].as_object().into_iter().flatten();
        let sizes = direction["payload_sizes"].as_array().into_iter().flatten();
        Self {
            bytes: number(&direction["bytes"]),
            messages: number(&direction["messages"]),
            frames: frames.map(|(name, count)| (name.clone(), number(count))).filter(|(_, n)| *n > 0).collect(),
            // The last bucket has no largest length; u64::MAX stands for it.
            sizes: sizes
                .map(|bucket| (bucket["le"].as_u64().unwrap_or(u64::MAX), number(&bucket["count"])))
                .filter(|(_, n)| *n > 0)
                .collect(),
            close_code: direction["close_code"].as_u64(),
        }
    }
}

/// A stream that remembers what crossed it since [`Recorded::start`].
pub struct Recorded<S> {
    inner: S,
    recording: bool,
    /// What has been written.
    pub written: Vec<u8>,
    /// What has been read.
    pub read: Vec<u8>,
}

impl<S> Recorded<S> {
    /// Remembers nothing yet.
    pub const fn new(inner: S) -> Self {
        Self { inner, recording: false, written: Vec::new(), read: Vec::new() }
    }

    /// Remembers from now on.
    pub const fn start(&mut self) {
        self.recording = true;
    }

    /// The stream.
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: Read> Read for Recorded<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if self.recording {
            self.read.extend(buffer.iter().take(count));
        }
        Ok(count)
    }
}

impl<S: Write> Write for Recorded<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        if self.recording {
            self.written.extend(bytes.iter().take(count));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::frame::{BINARY, CLOSE, TEXT};

    #[test]
    fn frames_are_counted_by_kind_and_size() {
        let frames = [
            Frame { fin: false, ..Frame::client(TEXT, b"") },
            Frame::client(0, b"abc"),
            Frame::client(BINARY, &[0; 4]),
            Frame::client(CLOSE, &Frame::close_payload(4000, "")),
        ];
        let wire: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let tally = Tally::of(&wire).unwrap();
        assert_eq!((tally.messages, tally.close_code), (2, Some(4000)));
        assert_eq!(tally.sizes, BTreeMap::from([(0, 1), (3, 2), (7, 1)]));
        assert_eq!(tally.frames.len(), 4);
    }
}
