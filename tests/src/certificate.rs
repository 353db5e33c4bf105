//! A self-signed certificate, and clients that trust it alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};

/// A certificate for `localhost` and 127.0.0.1.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Its PEM file.
    pub certificate: PathBuf,
    /// The PEM file of its private key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one, and writes `cert.pem` and `key.pem` into a folder.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        Self::of(&KeyPair::generate()?, folder)
    }

    /// The same with an RSA key of 2048 bits instead of an ECDSA one on P-256.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn make_rsa(folder: &Path) -> anyhow::Result<Self> {
        Self::of(&KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?, folder)
    }

    fn of(key: &KeyPair, folder: &Path) -> anyhow::Result<Self> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.self_signed(key)?;
        let files = Self { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
        for (file, text) in [(&files.certificate, certificate.pem()), (&files.key, key.serialize_pem())] {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(files)
    }

    /// The settings of a client that trusts this certificate and no other.
    ///
    /// # Errors
    /// The file is gone or is no certificate.
    pub fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(&self.certificate)
            .with_context(|| format!("{} is no certificate", self.certificate.display()))?;
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
