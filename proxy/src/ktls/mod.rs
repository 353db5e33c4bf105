//! Kernel TLS sockets: what the kernel leaves to whoever gave it the keys.
//!
//! The kernel encrypts and decrypts records of application data. Everything else is done here, for the gate (while
//! it reads a handshake on such a socket) and the keeper alike: records of other types ([`post`]), close_notify in both
//! directions, new keys ([`secret`]) before the cipher's limit and when the peer changes its own, and the question
//! whether everything that was accepted is in TCP's hands ([`leg`]).
//!
//! The gate, where it keeps the keys itself, goes by the same rules ([`post`]) and the same keys.

mod ability;
mod leg;
pub(crate) mod post;
mod secret;
mod suite;

#[cfg(test)]
pub(crate) use ability::receive_only;
pub use ability::{Ability, Lack, SuiteAbility, made_up};
pub use leg::{Failure, Handshaken, Leg, Progress, Ready, Received, Refused, Why};
pub use secret::Secret;
pub use suite::{Cipher, Keys, Role, Suite, Version};
