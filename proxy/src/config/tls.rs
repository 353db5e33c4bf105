//! TLS versions and cipher suites, for listeners and for backends.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A version of TLS. Older ones than 1.2 are not spoken (RFC 8996).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V13,
}

impl TlsVersion {
    const ALL: [Self; 2] = [Self::V12, Self::V13];

    const fn label(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }

    fn supported(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::V12 => &version::TLS12,
            Self::V13 => &version::TLS13,
        }
    }
}

pub(super) const fn min_version() -> TlsVersion {
    TlsVersion::V12
}

pub(super) const fn max_version() -> TlsVersion {
    TlsVersion::V13
}

/// Which versions and cipher suites one side of TLS speaks.
#[derive(Clone, Copy, Debug)]
pub struct TlsPolicy<'a> {
    /// The lowest version.
    pub min: TlsVersion,
    /// The highest.
    pub max: TlsVersion,
    /// The names that IANA gave the suites; none: all that are built in.
    pub suites: &'a [String],
}

/// What [`TlsPolicy::choose`] finds.
#[derive(Clone, Debug)]
pub struct TlsChoice {
    /// The cryptography, with those suites alone.
    pub provider: CryptoProvider,
    /// The versions.
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl TlsPolicy<'_> {
    /// Finds the suites and versions.
    ///
    /// # Errors
    /// A name is not known, a suite is of a version that is not spoken, or a version is left without a suite; the
    /// message says what there is.
    pub fn choose(&self) -> Result<TlsChoice, String> {
        let Self { min, max, suites } = *self;
        if min > max {
            return Err(format!("min_version {:?} is above max_version {:?}", min.label(), max.label()));
        }
        let mut provider = aws_lc_rs::default_provider();
        let spoken: Vec<_> = TlsVersion::ALL.into_iter().filter(|version| (min..=max).contains(version)).collect();
        if !suites.is_empty() {
            let known = provider.cipher_suites;
            provider.cipher_suites = suites.iter().map(|name| find(&known, name)).collect::<Result<_, _>>()?;
            for version in &spoken {
                if !provider.cipher_suites.iter().any(|suite| is_of(*suite, *version)) {
                    let label = version.label();
                    let names = names(&known, |suite| is_of(suite, *version));
                    return Err(format!(
                        "cipher_suites has none for TLS {label}: add one of {names}, or leave {label} out with \
                         min_version or max_version"
                    ));
                }
            }
        }
        let useless =
            provider.cipher_suites.iter().find(|suite| !spoken.iter().any(|version| is_of(**suite, *version)));
        if let (Some(suite), false) = (useless, suites.is_empty()) {
            return Err(format!("cipher_suites has {:?}, of a TLS version that is not spoken here", iana(*suite)));
        }
        Ok(TlsChoice { provider, versions: spoken.into_iter().map(TlsVersion::supported).collect() })
    }
}

fn is_of(suite: SupportedCipherSuite, version: TlsVersion) -> bool {
    suite.version().version == version.supported().version
}

/// The name in IANA's registry. rustls writes `TLS13_` where IANA writes `TLS_`.
fn iana(suite: SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    name.strip_prefix("TLS13_").map_or(name.clone(), |rest| format!("TLS_{rest}"))
}

fn find(known: &[SupportedCipherSuite], name: &str) -> Result<SupportedCipherSuite, String> {
    let found = known.iter().copied().find(|suite| iana(*suite) == name);
    found.ok_or_else(|| format!("cipher_suites has {name:?}, which there is not; there is {}", names(known, |_| true)))
}

fn names(known: &[SupportedCipherSuite], which: impl Fn(SupportedCipherSuite) -> bool) -> String {
    known.iter().filter(|suite| which(**suite)).map(|suite| iana(*suite)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn choose(min: TlsVersion, max: TlsVersion, names: &[&str]) -> Result<TlsChoice, String> {
        let suites: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        TlsPolicy { min, max, suites: &suites }.choose()
    }

    const MODERN: &str = "TLS_AES_256_GCM_SHA384";
    const OLD: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";

    #[test]
    fn suites_go_by_the_names_of_iana() {
        let both = choose(TlsVersion::V12, TlsVersion::V13, &[MODERN, OLD]).unwrap();
        assert_eq!((both.provider.cipher_suites.len(), both.versions.len()), (2, 2));
        assert_eq!(choose(TlsVersion::V13, TlsVersion::V13, &[MODERN]).unwrap().versions, [&version::TLS13]);
        let all = choose(TlsVersion::V12, TlsVersion::V13, &[]).unwrap();
        assert_eq!(all.provider.cipher_suites.len(), aws_lc_rs::ALL_CIPHER_SUITES.len());
    }

    #[test]
    fn what_cannot_be_is_told_with_what_can() {
        let (old, new) = (TlsVersion::V12, TlsVersion::V13);
        for (chosen, says) in [
            (choose(new, old, &[]), "above max_version"),
            (choose(old, new, &["TLS_RSA_WITH_RC4_128_MD5"]), MODERN),
            (choose(old, new, &[MODERN]), OLD),
            (choose(old, new, &[OLD]), MODERN),
            (choose(new, new, &[MODERN, OLD]), "not spoken"),
        ] {
            let what = chosen.unwrap_err();
            assert!(what.contains(says), "{what}");
        }
    }
}
