//! Self-signed certificates, and the ends of TLS that show them and trust them alone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate for `localhost` and 127.0.0.1, and its private key, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: String,
    key: String,
}

/// What the backends of this process's tests show.
///
/// # Panics
/// No certificate can be made.
#[must_use]
pub fn of_backends() -> &'static Identity {
    static SHOWN: OnceLock<Identity> = OnceLock::new();
    SHOWN.get_or_init(Identity::must_make)
}

/// What Sluice shows to backends that demand a certificate.
///
/// # Panics
/// As [`of_backends`].
#[must_use]
pub fn of_the_proxy() -> &'static Identity {
    static SHOWN: OnceLock<Identity> = OnceLock::new();
    SHOWN.get_or_init(Identity::must_make)
}

impl Identity {
    /// Makes one with an ECDSA key on P-256.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn make() -> anyhow::Result<Self> {
        Self::of(&KeyPair::generate()?)
    }

    /// Makes one with an RSA key of 2048 bits.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn make_rsa() -> anyhow::Result<Self> {
        Self::of(&KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?)
    }

    /// Makes one with an ECDSA key, for these names, of a subject with this common name.
    ///
    /// # Errors
    /// The cryptography fails, or a name is none.
    pub fn named(names: &[&str], subject: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, subject);
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn of(key: &KeyPair) -> anyhow::Result<Self> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.self_signed(key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    #[expect(clippy::expect_used, reason = "a test fails by panicking")]
    fn must_make() -> Self {
        Self::make().expect("a certificate can be made")
    }

    /// Writes the certificate and the key into files of a folder.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, folder: &Path, names: [&str; 2]) -> anyhow::Result<Certificate> {
        let [certificate, key] = names.map(|name| folder.join(name));
        for (file, text) in [(&certificate, &self.certificate), (&key, &self.key)] {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Certificate { certificate, key, identity: self.clone() })
    }

    /// The settings of a client that trusts this certificate and no other.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        client_of(provider(), self.roots()?)
    }

    /// The settings of a server that shows this certificate, and demands that of its clients if one is named.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn server(&self, clients: Option<&Self>) -> anyhow::Result<Arc<ServerConfig>> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let mut config = builder.with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// As [`Identity::server`], for clients alone that ask for this name with SNI.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn server_for(&self, name: &str) -> anyhow::Result<Arc<ServerConfig>> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let shown = CertifiedKey::from_der(vec![certificate], key, &provider())?;
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let only = Only { name: name.into(), shown: Arc::new(shown) };
        Ok(Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(only))))
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        Ok(roots)
    }
}

/// A certificate for those who ask for it by this name.
#[derive(Debug)]
struct Only {
    name: String,
    shown: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Only {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        (hello.server_name() == Some(&self.name)).then(|| self.shown.clone())
    }
}

/// As [`Certificate::client`], for the certificate in a file and with other cryptography.
///
/// # Errors
/// It is no certificate, or the cryptography does not do for TLS.
pub fn client_with(provider: CryptoProvider, certificate: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    client_of(Arc::new(provider), roots)
}

fn client_of(provider: Arc<CryptoProvider>, roots: RootCertStore) -> anyhow::Result<Arc<ClientConfig>> {
    // Without a cipher of TLS 1.2 there is only 1.3.
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let has = |version: &&&rustls::SupportedProtocolVersion| {
        provider.cipher_suites.iter().any(|suite| suite.version().version == version.version)
    };
    let versions: Vec<_> = versions.iter().filter(has).copied().collect();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// An identity in files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The PEM file of the certificate.
    pub certificate: PathBuf,
    /// The PEM file of its private key.
    pub key: PathBuf,
    identity: Identity,
}

impl Certificate {
    /// Makes one, and writes `cert.pem` and `key.pem` into a folder.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        Identity::make()?.write(folder, ["cert.pem", "key.pem"])
    }

    /// As [`Certificate::make`], with an RSA key.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn make_rsa(folder: &Path) -> anyhow::Result<Self> {
        Identity::make_rsa()?.write(folder, ["cert.pem", "key.pem"])
    }

    /// The settings of a client that trusts this certificate and no other.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        self.identity.client()
    }
}
