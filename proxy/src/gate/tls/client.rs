//! TLS with backends. What a server shows is always verified.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::arm::{self, Arming};
use super::broken;
use super::records::Records;
use super::{HTTP_1_1, authorities, certificates, private_key};
use crate::config;
use crate::gate::files::Files;
use crate::gate::refusal::Refusal;
use crate::gate::stream::Stream;
use crate::handoff::files::FileRole;
use crate::ktls::Why;

/// A backend's TLS.
pub(in crate::gate) struct Connector {
    tls: TlsConnector,
    /// What its certificate must be for, and what SNI asks for. None: the name of the server that is dialled, or its
    /// address.
    name: Option<ServerName<'static>>,
}

/// The system's roots, once they have been asked for.
#[derive(Default)]
pub(in crate::gate) struct Roots(Option<Arc<RootCertStore>>);

impl Roots {
    fn of_the_system(&mut self) -> anyhow::Result<Arc<RootCertStore>> {
        if let Some(roots) = &self.0 {
            return Ok(roots.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            // Its own words may repeat what a file holds.
            tracing::debug!(why = error.context, "a root certificate of the system cannot be read");
        }
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(found.certs);
        anyhow::ensure!(
            taken > 0,
            "tls without `ca` trusts the system's root certificates, and there are none: install Debian's \
             ca-certificates, or name a PEM file with `ca`"
        );
        tracing::debug!(taken, "the system's root certificates");
        Ok(self.0.insert(Arc::new(roots)).clone())
    }
}

impl Connector {
    /// Makes a backend's TLS from its settings and its files.
    ///
    /// # Errors
    /// A file that holds no certificate or key, a certificate and a key that do not belong together, or no root
    /// certificate at all; the message names the file or says what to do.
    pub(in crate::gate) fn new(
        backend: u16,
        settings: &config::BackendTls,
        files: &Files,
        system: &mut Roots,
    ) -> anyhow::Result<Self> {
        let roots = match &settings.ca {
            Some(name) => Arc::new(authorities(&files.bytes(FileRole::BackendCa { backend })?, name)?),
            None => system.of_the_system()?,
        };
        let config::TlsChoice { provider, versions } = settings.policy().choose().map_err(anyhow::Error::msg)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)?
            .with_root_certificates(roots);
        let mut config = match (&settings.certificate, &settings.key) {
            (Some(chain_name), Some(key_name)) => {
                let chain = certificates(&files.bytes(FileRole::BackendCertificate { backend })?, chain_name)?;
                let key = private_key(&files.bytes(FileRole::BackendKey { backend })?, key_name)?;
                builder.with_client_auth_cert(chain, key).with_context(|| {
                    let (chain, key) = (chain_name.display(), key_name.display());
                    format!("{chain} and {key}: the certificate or its key cannot be used")
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        config.enable_secret_extraction = true;
        // Sessions of TLS 1.2 are resumed from rustls's own store in memory, which is bounded (256 names). The tickets
        // of TLS 1.3 come behind the handshake, when the keys have left rustls: they are not used.
        let name = settings.server_name.clone().map(ServerName::try_from).transpose().context("server_name")?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), name })
    }
}

/// Does the TLS handshake with a server, which has this name and address if it has any, and gives the keys to the kernel
/// if it takes them. Cancelled, it closes the connection.
///
/// # Errors
/// What rustls or the socket says; [`failure`] says what it means.
pub(in crate::gate) async fn connect(
    stream: TcpStream,
    connector: &Connector,
    (host, ip): (Option<&str>, Option<IpAddr>),
    arming: &Arming,
) -> io::Result<Stream> {
    let of_host = || ServerName::try_from(host?.to_owned()).ok();
    let name = connector.name.clone().or_else(of_host).or_else(|| ip.map(ServerName::from));
    let name = name.ok_or_else(|| io::Error::other("there is no name that the certificate should be for"))?;
    let (config, secrets) = arm::with_secrets(&**connector.tls.config(), |config, secrets| config.key_log = secrets);
    let session = TlsConnector::from(config).connect(name, Records::new(stream)).await?;
    arming.arm(session.into(), &secrets)
}

/// What it means that a TLS session with a backend failed with this error; `None` if it is not TLS's.
pub(in crate::gate) fn failure(error: &io::Error) -> Option<Refusal> {
    use rustls::Error::{AlertReceived, InvalidCertificate, NoCertificatesPresented};
    if let Some(why) = broken::why(error) {
        return Some(if let Why::Alert(_) = why { Refusal::BackendAlert } else { Refusal::BackendTls });
    }
    Some(match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        InvalidCertificate(_) | NoCertificatesPresented => Refusal::BackendCertificate,
        AlertReceived(_) => Refusal::BackendAlert,
        _ => Refusal::BackendTls,
    })
}

/// What to do about a server's certificate that cannot be trusted, where the library's word for the reason does not say it.
pub(in crate::gate) fn hint(error: &io::Error) -> Option<&'static str> {
    use rustls::CertificateError::{Other, UnknownIssuer};
    let rustls::Error::InvalidCertificate(reason) = error.get_ref()?.downcast_ref()? else { return None };
    match reason {
        Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => Some(
            "the server shows a CA's certificate as its own: give it one with basicConstraints=CA:FALSE, signed by that CA \
             or by itself",
        ),
        UnknownIssuer => {
            Some("what tls.ca names, or the system's roots without it, has not signed the server's certificate")
        }
        _ => None,
    }
}
