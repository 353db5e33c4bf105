//! TLS on either side: rustls with aws-lc-rs, TLS 1.2 and 1.3.
//!
//! * [`accept`]: a client's connection to a TLS listener becomes a [`Stream`](super::stream::Stream).
//! * [`connect`]: so does a connection to a backend's server that speaks TLS.
//!
//! rustls does the handshakes. Right behind one the kernel gets the keys, if it takes them ([`Arming`], [`KernelTls`]);
//! else they stay here, with little more beside them than what TLS must remember ([`UserTls`]).

mod arm;
mod broken;
mod client;
mod kernel;
mod record;
mod records;
mod server;
mod session;
mod user;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(super) use arm::Arming;
pub(super) use broken::end_reason;
pub(super) use client::{Connector, Roots, connect, failure};
pub(super) use kernel::KernelTls;
pub(super) use server::{NoSession, Secured, accept, acceptor};
pub(super) use user::UserTls;

/// What is spoken inside of TLS, as ALPN calls it (RFC 7301 §6).
const HTTP_1_1: &[u8] = b"http/1.1";

/// What clients may speak too (RFC 9113 §3.2).
const HTTP_2: &[u8] = b"h2";

/// The cryptography of both sides.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Every certificate of a PEM file; `name` stands for it in messages.
///
/// # Errors
/// There is none, or something that is no PEM.
fn certificates(file: OwnedFd, name: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let name = name.display();
    let chain = CertificateDer::pem_reader_iter(File::from(file))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{name}: cannot read the certificate: it must be PEM, the leaf first"))?;
    anyhow::ensure!(!chain.is_empty(), "{name}: there is no certificate in it: it must be PEM, the leaf first");
    Ok(chain)
}

/// The private key of a PEM file; `name` stands for it in messages.
///
/// # Errors
/// There is none, or one that is encrypted.
fn private_key(file: OwnedFd, name: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_reader(File::from(file))
        .with_context(|| format!("{}: cannot read the private key: it must be PEM, not encrypted", name.display()))
}
