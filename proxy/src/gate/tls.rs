//! TLS in front of the handshake: rustls with aws-lc-rs, TLS 1.2 and 1.3.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::refusal::Refusal;
use crate::config;

/// A client behind TLS. Boxed: it is moved at every change of state, and is some kilobytes.
pub(super) type Secured = Box<TlsStream<TcpStream>>;

/// Why no TLS session came of a connection.
pub(super) enum NoSession {
    /// To be answered in clear text.
    Refused(TcpStream, Refusal),
    /// The client closed before its first byte.
    Gone,
    /// The handshake failed. rustls has told the client what it can be told; the stream is to be closed so that it
    /// arrives.
    Failed(io::Error, TcpStream),
}

/// Makes a listener's TLS from its two PEM files.
///
/// # Errors
/// A file that holds no certificate or key, or two that do not belong together; the message names the file.
pub(super) fn acceptor(certificate: OwnedFd, key: OwnedFd, names: &config::Tls) -> anyhow::Result<TlsAcceptor> {
    let (chain_name, key_name) = (names.certificate.display(), names.key.display());
    let chain = CertificateDer::pem_reader_iter(File::from(certificate))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{chain_name}: cannot read the certificate: it must be PEM, the leaf first"))?;
    anyhow::ensure!(!chain.is_empty(), "{chain_name}: there is no certificate in it: it must be PEM, the leaf first");
    let key = PrivateKeyDer::from_pem_reader(File::from(key))
        .with_context(|| format!("{key_name}: cannot read the private key: it must be PEM, not encrypted"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("{chain_name} and {key_name}: the certificate or its key cannot be used"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Resumption by tickets instead of a store: nothing to keep per client.
    config.ticketer = aws_lc_rs::Ticketer::new().context("cannot make keys for session tickets")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Does the TLS handshake. Cancelled, it closes the connection.
///
/// # Errors
/// [`NoSession`].
pub(super) async fn accept(stream: TcpStream, acceptor: &TlsAcceptor) -> Result<Secured, NoSession> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(NoSession::Gone),
        // Methods are upper case letters; a TLS record begins with its type, 20 to 24 (RFC 8446 §5.1).
        Ok(_) if first[0].is_ascii_uppercase() => return Err(NoSession::Refused(stream, Refusal::PlainOnTls)),
        Ok(_) => {}
    }
    match acceptor.accept(stream).into_fallible().await {
        Ok(session) => Ok(Box::new(session)),
        Err((error, stream)) => Err(NoSession::Failed(error, stream)),
    }
}
