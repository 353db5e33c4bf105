//! Which of a listener's certificates a client gets.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// All certificates of a listener, the default first.
#[derive(Debug, Default)]
pub(super) struct Choice {
    all: Vec<Arc<CertifiedKey>>,
    /// Places in `all` by name, in lower case. `*.example.com` is a name like any other.
    by_name: HashMap<String, Vec<usize>>,
}

impl Choice {
    /// Adds one for these names.
    pub(super) fn add(&mut self, key: Arc<CertifiedKey>, names: impl IntoIterator<Item = String>) {
        let place = self.all.len();
        self.all.push(key);
        for name in names {
            self.by_name.entry(name.to_ascii_lowercase()).or_default().push(place);
        }
    }

    /// The certificate for a client that asks for this name and can check these signatures.
    fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let among: Vec<_> = match name.and_then(|name| self.places(name)) {
            Some(places) => places.iter().filter_map(|place| self.all.get(*place)).collect(),
            None => self.all.iter().collect(),
        };
        // Without one that the client can check, the first: the handshake then fails for the right reason.
        let good = among.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        good.or(among.first()).copied()
    }

    /// Those for a name: of the name itself, else of the wildcard one label above (RFC 9525 §6.3).
    fn places(&self, name: &str) -> Option<&Vec<usize>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls leaves out those signatures that no cipher suite of both sides goes with.
        self.find(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    fn key(key: &KeyPair) -> Arc<CertifiedKey> {
        let chain = vec![CertificateParams::new(["x".to_owned()]).unwrap().self_signed(key).unwrap().der().clone()];
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).unwrap())
    }

    fn ecdsa() -> Arc<CertifiedKey> {
        key(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_name_finds_its_certificate_and_a_stranger_the_default() {
        let mut choice = Choice::default();
        for list in [&["default.test"][..], &["App.test", "b.test"], &["*.app.test"], &["x.app.test"]] {
            choice.add(ecdsa(), names(list));
        }
        for (name, place) in [
            (None, 0),
            (Some("nobody.test"), 0),
            (Some("default.test"), 0),
            (Some("app.TEST"), 1),
            (Some("b.test"), 1),
            (Some("y.app.test"), 2),
            (Some("x.app.test"), 3),
            (Some("z.y.app.test"), 0),
            (Some("test"), 0),
            (Some(""), 0),
        ] {
            assert!(Arc::ptr_eq(choice.find(name, ECDSA).unwrap(), &choice.all[place]), "{name:?}");
        }
        assert!(Choice::default().find(None, ECDSA).is_none());
    }

    #[test]
    fn of_several_for_a_name_the_first_is_taken_that_the_client_can_check() {
        let rsa = key(&KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());
        let mut choice = Choice::default();
        choice.add(ecdsa(), names(&["a.test"]));
        choice.add(ecdsa(), names(&["b.test"]));
        choice.add(rsa, names(&["a.test"]));
        for (name, schemes, place) in [
            (Some("a.test"), ECDSA, 0),
            (Some("a.test"), RSA, 2),
            (Some("b.test"), RSA, 1),
            (None, RSA, 2),
            (None, ECDSA, 0),
        ] {
            assert!(Arc::ptr_eq(choice.find(name, schemes).unwrap(), &choice.all[place]), "{name:?} {schemes:?}");
        }
    }
}
