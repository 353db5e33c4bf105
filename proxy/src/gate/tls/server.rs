//! TLS with clients.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::arm::{self, Arming};
use super::records::Records;
use super::{HTTP_1_1, HTTP_2, certificates, private_key, provider};
use crate::config;
use crate::gate::refusal::Refusal;
use crate::gate::stream::Stream;

/// Why no TLS session came of a connection.
pub(in crate::gate) enum NoSession {
    /// To be answered in clear text.
    Refused(TcpStream, Refusal),
    /// The client closed before its first byte.
    Gone,
    /// The handshake failed. rustls has told the client what it can be told; the stream is to be closed so that it
    /// arrives.
    Failed(io::Error, TcpStream),
    /// The kernel refused the keys half-way, or there was more behind the handshake than TLS allows. The connection is
    /// closed.
    Lost,
}

/// A client's TLS session.
pub(in crate::gate) struct Secured {
    pub(in crate::gate) stream: Stream,
    /// Whether HTTP/2 was agreed on.
    pub(in crate::gate) http2: bool,
}

/// Makes a listener's TLS from its two PEM files.
///
/// # Errors
/// A file that holds no certificate or key, or two that do not belong together; the message names the file.
pub(in crate::gate) fn acceptor(
    certificate: OwnedFd,
    key: OwnedFd,
    names: &config::Tls,
    http2: bool,
) -> anyhow::Result<TlsAcceptor> {
    let chain = certificates(certificate, &names.certificate)?;
    let key = private_key(key, &names.key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| {
            let (chain, key) = (names.certificate.display(), names.key.display());
            format!("{chain} and {key}: the certificate or its key cannot be used")
        })?;
    config.alpn_protocols = if http2 { vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()] } else { vec![HTTP_1_1.to_vec()] };
    config.enable_secret_extraction = true;
    // Resumption by tickets instead of a store: nothing to keep per client.
    config.ticketer = aws_lc_rs::Ticketer::new().context("cannot make keys for session tickets")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Does the TLS handshake with a client, and gives the keys to the kernel if it takes them. Cancelled, it closes the
/// connection.
///
/// # Errors
/// [`NoSession`].
pub(in crate::gate) async fn accept(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    arming: &Arming,
) -> Result<Secured, NoSession> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(NoSession::Gone),
        // Methods are upper case letters; a TLS record begins with its type, 20 to 24 (RFC 8446 §5.1).
        Ok(_) if first[0].is_ascii_uppercase() => return Err(NoSession::Refused(stream, Refusal::PlainOnTls)),
        Ok(_) => {}
    }
    let (config, secrets) = arm::with_secrets(&**acceptor.config(), |config, secrets| config.key_log = secrets);
    match TlsAcceptor::from(config).accept(Records::new(stream)).into_fallible().await {
        Ok(session) => {
            let http2 = session.get_ref().1.alpn_protocol() == Some(HTTP_2);
            let stream = arming.arm(session.into(), &secrets).map_err(|_| NoSession::Lost)?;
            Ok(Secured { stream, http2 })
        }
        Err((error, stream)) => Err(NoSession::Failed(error, stream.into_tcp())),
    }
}
