//! Certificates, and the two ends of TLS that show and trust them.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, date_time_ymd};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::bench::{Bench, Setup};

/// A certificate that is its own CA, and its key.
pub(super) struct Identity {
    certificate: String,
    pub(super) key: String,
    der: CertificateDer<'static>,
}

impl Identity {
    /// For `app.test`.
    pub(super) fn new() -> Self {
        Self::of("app.test", |_| ())
    }

    /// For a name or an address, with changes.
    pub(super) fn of(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        Self::with(&params, &KeyPair::generate().unwrap())
    }

    /// For `app.test`, with an RSA key instead of one for ECDSA.
    pub(super) fn rsa() -> Self {
        let params = CertificateParams::new(["app.test".to_owned()]).unwrap();
        Self::with(&params, &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap())
    }

    fn with(params: &CertificateParams, key: &KeyPair) -> Self {
        let made = params.self_signed(key).unwrap();
        Self { certificate: made.pem(), key: key.serialize_pem(), der: made.der().clone() }
    }

    /// For `app.test`, and no longer valid.
    pub(super) fn expired() -> Self {
        Self::of("app.test", |params| params.not_after = date_time_ymd(2001, 1, 1))
    }

    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its two files.
    pub(super) fn files(&self) -> [OwnedFd; 2] {
        [file(&self.certificate), file(&self.key)]
    }

    /// A gate whose listener shows it.
    pub(super) fn listener(&self, servers: &[SocketAddr], more: &str) -> Setup {
        let [certificate, key] = self.files();
        Setup::tls(servers, more, certificate, key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }

    /// A client that trusts it.
    pub(super) fn client(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> TlsConnector {
        self.client_with(provider(), versions, alpn)
    }

    fn client_with(
        &self,
        provider: Arc<CryptoProvider>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> TlsConnector {
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    /// A client that trusts it and shows another, if one is named.
    pub(super) fn client_showing(&self, shown: Option<&Self>) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let key = |shown: &Self| PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        TlsConnector::from(Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => builder.with_client_auth_cert(vec![shown.der.clone()], key(shown)).unwrap(),
        }))
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Such a client's connection to a gate.
    pub(super) async fn connect(&self, bench: &Bench) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("app.test").unwrap();
        self.client(rustls::ALL_VERSIONS, &[]).connect(name, bench.connect().await).await.unwrap()
    }

    /// A server that shows it, and demands the client's certificate if one is named.
    pub(super) fn server(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        client: Option<&Self>,
    ) -> TlsAcceptor {
        self.server_with(provider(), versions, client)
    }

    /// A client and a server that have only this suite.
    pub(super) fn ends(&self, suite: SupportedCipherSuite) -> (TlsConnector, TlsAcceptor) {
        let one = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() });
        let versions = &[suite.version()];
        (self.client_with(one.clone(), versions, &[]), self.server_with(one, versions, None))
    }

    fn server_with(
        &self,
        provider: Arc<CryptoProvider>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        client: Option<&Self>,
    ) -> TlsAcceptor {
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client.roots()), self::provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(vec![self.der.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A file of this text, open at its beginning.
pub(super) fn file(text: &str) -> OwnedFd {
    let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memory);
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}
