//! What may be longer than a message: it goes with one, as a memfd.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most that is read, in bytes: a snapshot of ten thousand pairs with every counter at its longest has 16 MiB.
const MOST: u64 = 256 * 1024 * 1024;

/// Writes a value, postcard-encoded, into a new memfd with this name.
///
/// # Errors
/// Memory or file descriptors are short.
pub fn write<T: Serialize + ?Sized>(name: &str, value: &T) -> io::Result<OwnedFd> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    Ok(file.into())
}

/// Reads the value from the descriptors that came with a message.
///
/// # Errors
/// There is no descriptor, or what is in it is no such value.
pub fn read<T: DeserializeOwned>(fds: Vec<OwnedFd>) -> io::Result<T> {
    let memory = fds.into_iter().next().ok_or_else(|| io::Error::other("it came without its memory"))?;
    let mut file = File::from(memory);
    io::Seek::rewind(&mut file)?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}
