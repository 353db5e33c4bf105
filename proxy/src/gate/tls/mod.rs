//! TLS on either side: rustls with aws-lc-rs, TLS 1.2 and 1.3.
//!
//! * [`accept`]: a client's connection to a TLS listener becomes a [`Stream`](super::stream::Stream).
//! * [`connect`]: so does a connection to a backend's server that speaks TLS.
//!
//! rustls does the handshakes. Right behind one the kernel gets the keys, if it takes them ([`Arming`], [`KernelTls`]);
//! else they stay here, with little more beside them than what TLS must remember ([`UserTls`]).

mod arm;
mod broken;
mod choice;
mod client;
mod kernel;
mod person;
mod record;
mod records;
mod server;
mod session;
mod user;
mod why;

use std::path::Path;

use anyhow::{Context as _, anyhow};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(super) use arm::Arming;
pub(super) use broken::end_reason;
pub(super) use client::{Connector, Roots, connect, failure, hint};
pub(super) use kernel::KernelTls;
pub(super) use person::{CLIENT_CERT, CLIENT_CERT_SUBJECT, Person};
pub(super) use server::{Acceptor, NoSession, Secured, accept};
#[cfg(test)]
pub(super) use user::Socket;
pub(super) use user::UserTls;
pub(super) use why::why_no_session;

/// What is spoken inside of TLS, as ALPN calls it (RFC 7301 §6).
const HTTP_1_1: &[u8] = b"http/1.1";

/// What clients may speak too (RFC 9113 §3.2).
const HTTP_2: &[u8] = b"h2";

/// Every certificate of a PEM file; `name` stands for it in messages.
///
/// # Errors
/// There is none, or something that is no PEM.
fn certificates(pem: &[u8], name: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let name = name.display();
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| {
        let why = why_no_pem(&error);
        anyhow!("{name}: cannot read the certificate: it must be PEM, the leaf first, and {why}")
    })?;
    anyhow::ensure!(!chain.is_empty(), "{name}: there is no certificate in it: it must be PEM, the leaf first");
    Ok(chain)
}

/// The private key of a PEM file; `name` stands for it in messages.
///
/// # Errors
/// There is none, or one that is encrypted.
fn private_key(pem: &[u8], name: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let (name, why) = (name.display(), why_no_pem(&error));
        anyhow!("{name}: cannot read the private key: it must be PEM, not encrypted, and {why}")
    })
}

/// What is wrong with a PEM file (RFC 7468), in words of our own: those of the library repeat what the file holds, which
/// may be a private key.
fn why_no_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "there is no such block in it",
        pem::Error::MissingSectionEnd { .. } => "a block has a BEGIN line and no END line with the same name",
        pem::Error::IllegalSectionStart { .. } => {
            "a BEGIN line does not end in five dashes: perhaps its line breaks are missing"
        }
        pem::Error::Base64Decode(_) => "what is between a BEGIN and an END line is no base64",
        pem::Error::SectionTooLarge => "a block is too large",
        _ => "it is none",
    }
}

/// The authorities of a PEM file; `name` stands for it in messages.
///
/// # Errors
/// As [`certificates`], or one of them is no certificate of an authority.
fn authorities(pem: &[u8], name: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, name)? {
        roots.add(certificate).with_context(|| format!("{}: cannot be used as a CA", name.display()))?;
    }
    Ok(roots)
}

/// What is probably not meant with the authorities of a PEM file: that none of them may sign a certificate. `name` stands
/// for the file.
pub(super) fn doubt(pem: &[u8], name: &Path) -> Option<String> {
    let all = certificates(pem, name).ok()?;
    let [first, ..] = all.as_slice() else { return None };
    let (subject, issuer) = person::unsigning(first)?;
    let none = all.iter().all(|certificate| person::unsigning(certificate).is_some());
    none.then(|| {
        format!(
            "{}: this is the certificate of {subject}, which is no CA's and vouches for no other; as `ca`, name the \
             certificate of the CA that has signed it: {issuer}",
            name.display()
        )
    })
}
