//! Who a client is, by its certificate, and how a backend is told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// RFC 9440 §2.2: the certificate itself.
pub(in crate::gate) const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// Ours: its subject as RFC 4514 writes names.
pub(in crate::gate) const CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");

/// What a backend is told of a client with a certificate.
#[derive(Debug)]
pub(in crate::gate) struct Person {
    certificate: HeaderValue,
    /// None: its subject is empty, or cannot be read.
    subject: Option<HeaderValue>,
}

impl Person {
    /// Of a certificate that has been verified.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        // A byte sequence of a structured field (RFC 9651 §4.1.8).
        let certificate = HeaderValue::try_from(format!(":{}:", STANDARD.encode(der))).ok()?;
        let subject = parse(der).map(|certificate| distinguished_name(certificate.subject()));
        let subject = subject.filter(|subject| !subject.is_empty());
        Some(Self { certificate, subject: subject.and_then(|subject| HeaderValue::try_from(subject).ok()) })
    }

    /// Tells the backend. What a stranger claimed has been removed before.
    pub(in crate::gate) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(CLIENT_CERT, self.certificate.clone());
        if let Some(subject) = &self.subject {
            headers.insert(CLIENT_CERT_SUBJECT, subject.clone());
        }
    }
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

/// The DNS names that a certificate is for.
pub(super) fn names(der: &[u8]) -> Vec<String> {
    let certificate = parse(der);
    let alternatives = certificate.as_ref().and_then(|certificate| certificate.subject_alternative_name().ok()?);
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None })
        .collect()
}

/// Subject and issuer of a certificate that somebody else has signed and that may sign none (RFC 5280 §4.2.1.9): the
/// certificate of a server or a client.
pub(super) fn unsigning(der: &[u8]) -> Option<(String, String)> {
    let certificate = parse(der)?;
    let [subject, issuer] = [certificate.subject(), certificate.issuer()].map(distinguished_name);
    (!certificate.is_ca() && subject != issuer).then_some((subject, issuer))
}

/// When a certificate ends, in seconds since the Unix epoch.
pub(super) fn not_after(der: &[u8]) -> Option<i64> {
    Some(parse(der)?.validity().not_after.timestamp())
}

/// The attributes that RFC 4514 §3 knows by name.
const KNOWN: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// A name as RFC 4514 §2 writes it: the last part first. What is not printable ASCII is written as its bytes.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name.iter_rdn().map(|rdn| join(rdn.iter().map(attribute), "+")).collect();
    join(parts.into_iter().rev(), ",")
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let known = KNOWN.iter().find(|(known, _)| *known == oid);
    match (known, text(attribute.attr_value())) {
        (Some((_, name)), Some(text)) => format!("{name}={}", escaped(&text)),
        // §2.4: the whole value in BER, for types without a name and for values that are no text.
        _ => format!("{oid}=#{}", hex(&encoded(attribute.attr_value()))),
    }
}

/// The text of a string of any of the types that names are made of.
fn text(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        Tag::BmpString => {
            let units = bytes.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok().filter(|_| bytes.len().is_multiple_of(2))
        }
        _ => None,
    }
}

/// Tag, length and content, in DER. (Attributes' values are of a universal type with a low number.)
fn encoded(value: &Any<'_>) -> Vec<u8> {
    let (constructed, length) = (u8::from(value.header.is_constructed()) << 5, value.data.len());
    let class = if value.class() == Class::Universal { 0 } else { (value.class() as u8) << 6 };
    let mut out = vec![class | constructed | (value.tag().0 as u8 & 0x1f)];
    let bytes = length.to_be_bytes();
    let significant = bytes.iter().position(|byte| *byte != 0).map_or(&bytes[bytes.len() - 1..], |at| &bytes[at..]);
    if length >= 0x80 {
        out.push(0x80 | significant.len() as u8);
    }
    out.extend_from_slice(significant);
    out.extend_from_slice(value.data);
    out
}

fn hex(bytes: &[u8]) -> String {
    join(bytes.iter().map(|byte| format!("{byte:02X}")), "")
}

/// RFC 4514 §2.4.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            '#' if at == 0 => out.push_str("\\#"),
            ' '..='~' => out.push(c),
            _ => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| out.push_str(&format!("\\{byte:02X}")));
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.test".to_owned(), "*.b.test".into(), "192.0.2.1".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        // Nobody knows it, nobody minds.
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0])];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn told(names: &[(DnType, DnValue)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        Person::of(&certificate(names)).unwrap().tell(&mut headers);
        headers
    }

    #[test]
    fn a_backend_is_told_the_certificate_and_its_subject() {
        let der = certificate(&[(DnType::CommonName, "Ann".into())]);
        let mut headers = HeaderMap::new();
        Person::of(&der).unwrap().tell(&mut headers);
        let field = headers[CLIENT_CERT].to_str().unwrap();
        assert_eq!(STANDARD.decode(field.trim_matches(':')).unwrap(), der);
        assert_eq!(headers[CLIENT_CERT_SUBJECT], "CN=Ann");
    }

    #[test]
    fn subjects_are_written_as_rfc_4514_writes_them() {
        let subject = |names: &[(DnType, DnValue)]| told(names)[CLIENT_CERT_SUBJECT].to_str().unwrap().to_owned();
        let named = [
            (DnType::CountryName, "DE".into()),
            (DnType::OrganizationName, "Smith, Jones & Co; \"<x>\"".into()),
            (DnType::CommonName, " #Lu\u{10d}i\u{107} ".into()),
        ];
        assert_eq!(subject(&named), "CN=\\ #Lu\\C4\\8Di\\C4\\87\\ ,O=Smith\\, Jones & Co\\; \\\"\\<x\\>\\\",C=DE");
        let other = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        assert_eq!(subject(&[(other, "a@b".into())]), "1.2.840.113549.1.9.1=#0C03614062");
        assert_eq!(subject(&[(DnType::CommonName, "#1\r\nX: y".into())]), "CN=\\#1\\0D\\0AX: y");
        assert!(!told(&[]).contains_key(CLIENT_CERT_SUBJECT));
    }

    #[test]
    fn names_and_end_are_found() {
        let der = certificate(&[]);
        assert_eq!(names(&der), ["a.test", "*.b.test"]);
        // rcgen's certificates end with the year 4096.
        assert!(not_after(&der).unwrap() > 4_000_000_000);
    }

    proptest! {
        #[test]
        fn garbage_is_no_person_with_a_subject(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let person = Person::of(&bytes).unwrap();
            prop_assert!(person.subject.is_none() && names(&bytes).is_empty() && not_after(&bytes).is_none());
        }

        #[test]
        fn any_subject_is_printable(name in "\\PC{0,40}") {
            if let Some(subject) = told(&[(DnType::CommonName, name.into())]).get(CLIENT_CERT_SUBJECT) {
                prop_assert!(subject.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)));
            }
        }
    }
}
