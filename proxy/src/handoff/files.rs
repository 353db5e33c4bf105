//! The files that a configuration names, on their way from the keeper to the gate.
//!
//! The keeper can read what the gate's user cannot, and never parses it: it copies each file into a sealed memfd. The gate
//! gets all of them before it starts, and all of them again when one has changed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::Config;

/// The most bytes of one file. The largest there are in earnest, the root certificates of a system, have a quarter.
pub const MOST: u64 = 1 << 20;

/// What a file is for. Indices are into the configuration's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileRole {
    /// A listener's certificate and its chain.
    Certificate {
        /// Which listener.
        listener: u16,
        /// Which of its certificates; 0: the default.
        place: u16,
    },
    /// The key that belongs to it.
    Key {
        /// Which listener.
        listener: u16,
        /// Which of its certificates; 0: the default.
        place: u16,
    },
    /// The authorities for a listener's clients.
    ClientCa {
        /// Which listener.
        listener: u16,
    },
    /// The authorities for a backend's servers.
    BackendCa {
        /// Which backend.
        backend: u16,
    },
    /// What is shown to a backend's servers.
    BackendCertificate {
        /// Which backend.
        backend: u16,
    },
    /// The key that belongs to it.
    BackendKey {
        /// Which backend.
        backend: u16,
    },
    /// A key for the cookies of a backend's clients.
    CookieKey {
        /// Which backend.
        backend: u16,
        /// Which of its keys; 0: the one that signs.
        place: u16,
    },
    /// What clients' credentials are checked with: keys, a secret, or a list of users or keys.
    Auth {
        /// Which [[auth]].
        auth: u16,
    },
}

/// Every file that the configuration names, with its place in the file system.
#[must_use]
pub fn named(config: &Config) -> Vec<(FileRole, PathBuf)> {
    let mut files = Vec::new();
    for (listener, settings) in (0..).zip(&config.listeners) {
        let Some(tls) = &settings.tls else { continue };
        for (place, (certificate, key, _)) in (0..).zip(tls.identities()) {
            files.push((FileRole::Certificate { listener, place }, certificate.clone()));
            files.push((FileRole::Key { listener, place }, key.clone()));
        }
        files.extend(tls.client_auth.iter().map(|auth| (FileRole::ClientCa { listener }, auth.ca.clone())));
    }
    for (backend, settings) in (0..).zip(&config.backends) {
        let keys = settings.sticky.iter().flat_map(|sticky| &sticky.keys);
        files.extend((0..).zip(keys).map(|(place, key)| (FileRole::CookieKey { backend, place }, key.clone())));
        let Some(tls) = &settings.tls else { continue };
        let roles = [
            (FileRole::BackendCa { backend }, &tls.ca),
            (FileRole::BackendCertificate { backend }, &tls.certificate),
            (FileRole::BackendKey { backend }, &tls.key),
        ];
        files.extend(roles.into_iter().filter_map(|(role, path)| Some((role, path.clone()?))));
    }
    for (auth, settings) in (0..).zip(&config.auth) {
        let jwt = settings.jwt.as_ref().and_then(|jwt| jwt.keys.as_ref().or(jwt.secret.as_ref()));
        let lists = settings.basic.as_ref().map(|basic| &basic.users);
        let file = jwt.or(lists).or(settings.api_key.as_ref().map(|keys| &keys.keys));
        files.extend(file.map(|path| (FileRole::Auth { auth }, path.clone())));
    }
    files
}

/// Copies what is left of a file, at most [`MOST`] bytes, into a memfd that nobody can change.
///
/// # Errors
/// It cannot be read, is longer, or memory or descriptors are short.
pub fn seal(file: File) -> io::Result<OwnedFd> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    seal_bytes(&bytes)
}

/// As [`seal`], for bytes that are at hand.
///
/// # Errors
/// Memory or descriptors are short.
pub fn seal_bytes(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create("sluice-file", flags)?);
    memory.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(memory.into())
}

/// Reads such a memfd. Its offset, which every process that has it shares, stays where it is. What was read is wiped when
/// it is dropped: it may be a private key.
///
/// # Errors
/// It cannot be read.
pub fn read(memory: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = memory.metadata()?.len().min(MOST);
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(0)]);
    memory.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_is_read_as_often_as_one_likes_and_never_written() {
        let memory = File::from(seal_bytes(b"once").unwrap());
        for _ in 0..2 {
            assert_eq!(read(&memory).unwrap().as_slice(), b"once");
        }
        assert!(memory.write_at(b"x", 0).is_err() && memory.set_len(1).is_err());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let error = seal(File::open("/dev/zero").unwrap()).unwrap_err();
        assert!(error.to_string().contains("1 MiB"), "{error}");
    }

    #[test]
    fn every_file_of_a_configuration_is_found() {
        let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.tls]\ncertificate = \"a\"\nkey = \"b\"\n\
                    certificates = [{ certificate = \"c\", key = \"d\" }]\nclient_auth = { ca = \"e\" }\n\
                    [[route]]\nbackend = \"x\"\n[[backend]]\nname = \"x\"\nservers = [\"127.0.0.1:9\"]\n\
                    sticky = { keys = [\"f\", \"g\"] }\ntls = { ca = \"h\", certificate = \"i\", key = \"j\" }\n\
                    [[auth]]\nname = \"1\"\njwt = { keys = \"k\" }\n[[auth]]\nname = \"2\"\njwt = { secret = \"l\" }\n\
                    [[auth]]\nname = \"3\"\nbasic = { users = \"m\" }\n[[auth]]\nname = \"4\"\napi_key = { keys = \"n\" }\n\
                    [[auth]]\nname = \"5\"\nforward = { backend = \"x\" }\n";
        let files = named(&Config::parse(text, "test").unwrap());
        let paths: Vec<_> = files.iter().map(|(_, path)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"]);
        assert_eq!(files[3].0, FileRole::Key { listener: 0, place: 1 });
    }
}
