//! Why no TLS session came of a client's connection, in words.

use std::io;

use rustls::{AlertDescription, Error, PeerIncompatible};

/// What an operator is told.
pub(in crate::gate) fn why_no_session(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the client closed in the middle of the TLS handshake".into(),
            io::ErrorKind::ConnectionReset => {
                "the client reset the connection in the middle of the TLS handshake".into()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::NoCertificatesPresented => "the client showed no certificate".into(),
        Error::InvalidCertificate(why) => format!("the client's certificate is not good: {why}"),
        Error::PeerIncompatible(why) => of_incompatible(why).into(),
        Error::NoApplicationProtocol => "the client speaks no protocol that this listener does (ALPN)".into(),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            format!("what the client sent is no TLS handshake: {tls}")
        }
        other => other.to_string(),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let means = match alert {
        A::UnknownCA | A::BadCertificate | A::CertificateUnknown | A::CertificateExpired => {
            ": it does not trust the certificate"
        }
        A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity => ": it has no version or cipher in common",
        A::UserCanceled | A::CloseNotify => ": it has changed its mind",
        _ => "",
    };
    format!("the client sent the alert {alert:?}{means}")
}

fn of_incompatible(why: &PeerIncompatible) -> &'static str {
    use PeerIncompatible as P;
    match why {
        P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::SupportedVersionsExtensionRequired
        | P::ServerDoesNotSupportTls12Or13 => "the client speaks no version of TLS that this listener does",
        P::NoCipherSuitesInCommon => "the client has no cipher suite in common with this listener",
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            "the client has no key exchange group in common with this listener"
        }
        P::NoSignatureSchemesInCommon | P::SignatureAlgorithmsExtensionRequired => {
            "the client takes no signature that the listener's certificates can make"
        }
        P::ExtendedMasterSecretExtensionRequired => "the client does not know extended master secrets (RFC 7627)",
        _ => "the client asks for what this listener does not speak",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_said_in_words() {
        let why = |error: Error| why_no_session(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, says) in [
            (Error::AlertReceived(AlertDescription::UnknownCA), "alert UnknownCA: it does not trust the certificate"),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "no cipher suite in common"),
            (Error::NoCertificatesPresented, "the client showed no certificate"),
        ] {
            assert!(why(error.clone()).contains(says), "{}", why(error));
        }
        assert!(why_no_session(&io::ErrorKind::UnexpectedEof.into()).contains("closed in the middle"));
    }
}
