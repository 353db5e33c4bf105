//! Certificates where a CA's should be, and a CA's where a server's should be: what Sluice says of them.

use std::net::Ipv4Addr;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};

use super::identity::{Identity, file};
use crate::config;
use crate::gate::files::Files;
use crate::gate::refusal::Refusal;
use crate::gate::tls::{self, Arming, Connector};
use crate::handoff::WhyNot;
use crate::handoff::files::FileRole;
use crate::ktls::Ability;

fn authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "The CA");
}

/// PEM of a CA's certificate, and of one for `app.test` that it has signed.
fn signed() -> [String; 2] {
    let (mut of_ca, ca_key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    authority(&mut of_ca);
    let ca = of_ca.self_signed(&ca_key).unwrap();
    let mut of_server = CertificateParams::new(["app.test".to_owned()]).unwrap();
    of_server.distinguished_name.push(DnType::CommonName, "app.test");
    let issuer = Issuer::new(of_ca, ca_key);
    let server = of_server.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    [ca.pem(), server.pem()]
}

#[test]
fn a_servers_certificate_as_ca_is_told() {
    let [ca, server] = signed();
    let doubt = |pem: &str| tls::doubt(pem.as_bytes(), Path::new("ca.pem"));
    let told = doubt(&server).unwrap();
    assert!(told.contains("ca.pem: this is the certificate of CN=app.test"), "{told}");
    assert!(told.contains("the CA that has signed it: CN=The CA"), "{told}");
    for good in [&ca, &format!("{server}{ca}"), Identity::new().certificate(), "no PEM"] {
        assert_eq!(doubt(good), None, "{good}");
    }
}

/// What dialling a server that shows this certificate says, when this one is trusted.
async fn error(shown: &Identity, trusted: &str) -> std::io::Error {
    let settings: config::BackendTls = toml::from_str("ca = \"ca.pem\"\nserver_name = \"app.test\"").unwrap();
    let mut files = Files::default();
    files.take(vec![FileRole::BackendCa { backend: 0 }], vec![file(trusted)]).unwrap();
    let connector = Connector::new(0, &settings, &files, &mut Default::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let arming = Arming::new(Ability::default(), WhyNot::Configured, u64::MAX);
    let acceptor = shown.server(rustls::ALL_VERSIONS, None);
    let ip = Some(Ipv4Addr::LOCALHOST.into());
    let (ours, _theirs) = tokio::join!(tls::connect(near, &connector, (None, ip), &arming), acceptor.accept(far));
    ours.err().unwrap()
}

#[tokio::test]
async fn a_cas_certificate_as_a_servers_is_told_with_what_to_do() {
    let shown = Identity::of("app.test", authority);
    let error = error(&shown, shown.certificate()).await;
    assert!(error.to_string().contains("CaUsedAsEndEntity"), "{error}");
    assert!(tls::hint(&error).unwrap().contains("basicConstraints=CA:FALSE"));
    assert_eq!(tls::failure(&error), Some(Refusal::BackendCertificate));
}

#[tokio::test]
async fn an_unknown_issuer_is_told_with_what_to_do() {
    let shown = Identity::of("app.test", |params| params.distinguished_name.push(DnType::CommonName, "Somebody else"));
    let error = error(&shown, Identity::new().certificate()).await;
    assert!(tls::hint(&error).unwrap().contains("tls.ca"), "{error}");
    let expired = Identity::expired();
    let error = self::error(&expired, expired.certificate()).await;
    assert_eq!(tls::hint(&error), None, "{error}");
}
