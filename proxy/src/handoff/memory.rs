//! What may be longer than a message: it goes with one, as a memfd.

use std::fs::File;
use std::io::{self, BufWriter, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most that is read, in bytes: a snapshot of ten thousand pairs with every counter at its longest has 16 MiB.
const MOST: u64 = 256 * 1024 * 1024;

/// Bytes that are collected before they are written.
const CHUNK: usize = 64 * 1024;

/// Writes a value, postcard-encoded, into a new memfd with this name.
///
/// # Errors
/// Memory or file descriptors are short.
pub fn write<T: Serialize + ?Sized>(name: &str, value: &T) -> io::Result<OwnedFd> {
    let mut writer = Writer::new(name)?;
    writer.put(value)?;
    writer.finish()
}

/// Reads the value from the descriptors that came with a message.
///
/// # Errors
/// There is no descriptor, or what is in it is no such value.
pub fn read<T: DeserializeOwned>(fds: Vec<OwnedFd>) -> io::Result<T> {
    Reader::new(fds)?.next_value()
}

/// Writes values one behind the other, postcard-encoded.
pub struct Writer(BufWriter<File>);

impl Writer {
    /// Into a new memfd with this name.
    ///
    /// # Errors
    /// Memory or file descriptors are short.
    pub fn new(name: &str) -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
        Ok(Self(BufWriter::with_capacity(CHUNK, file)))
    }

    /// Adds a value.
    ///
    /// # Errors
    /// Memory is short.
    pub fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        postcard::to_io(value, &mut self.0).map(drop).map_err(io::Error::other)
    }

    /// The memfd with everything.
    ///
    /// # Errors
    /// Memory is short.
    pub fn finish(self) -> io::Result<OwnedFd> {
        Ok(self.0.into_inner().map_err(io::IntoInnerError::into_error)?.into())
    }
}

/// Reads values that were written one behind the other.
pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    /// From the descriptors that came with a message.
    ///
    /// # Errors
    /// There is no descriptor, or it cannot be read.
    pub fn new(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let memory = fds.into_iter().next().ok_or_else(|| io::Error::other("it came without its memory"))?;
        let mut file = File::from(memory);
        io::Seek::rewind(&mut file)?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(Self { bytes, at: 0 })
    }

    /// The next value.
    ///
    /// # Errors
    /// What comes next is no such value.
    pub fn next_value<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (value, behind) = postcard::take_from_bytes(rest).map_err(io::Error::other)?;
        self.at += rest.len() - behind.len();
        Ok(value)
    }
}
