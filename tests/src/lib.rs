//! Whole-program tests: what they stand on.
//!
//! Everything here starts real processes and speaks over real sockets on loopback. Nothing knows the inside of the
//! proxy: what a test sees is what a client, a backend or an operator would see. `cargo xtask run` stands on it too.

pub mod backend;
pub mod certificate;
pub mod client;
pub mod corpus;
pub mod counters;
pub mod dns;
pub mod fleet;
pub mod frame;
pub mod http;
pub mod http2;
pub mod http2_frames;
pub mod namespace;
pub mod needs;
pub mod pattern;
pub mod process;
pub mod recorder;
pub mod site;
pub mod sluice;
pub mod stream;
pub mod strict;
pub mod variables;
pub mod wait;

/// How a pair is carried: a scenario that holds for one must hold for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// ws://, carried by the kernel.
    Sockmap,
    /// ws://, carried by the keeper in userspace.
    Copy,
    /// wss://, carried by the gate in userspace.
    Tls,
    /// ws://, to a backend that speaks TLS, carried by the gate in userspace.
    TlsBackend,
    /// wss://, to a backend that speaks TLS and demands a certificate, carried by the gate in userspace.
    TlsBoth,
    /// As [`Via::Tls`], with the keys in the kernel.
    Ktls,
    /// As [`Via::TlsBackend`], with the keys in the kernel.
    KtlsBackend,
    /// As [`Via::TlsBoth`], with both sides' keys in the kernel.
    KtlsBoth,
    /// A stream of HTTP/2 without TLS, carried by the gate.
    Http2,
    /// The same behind TLS.
    Http2Tls,
}

impl Via {
    /// The setting `relay.engine` that brings it about.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            // Plain pairs, of which there are none where there is TLS: the kernel need not check a program for them.
            Self::Copy
            | Self::Tls
            | Self::TlsBackend
            | Self::TlsBoth
            | Self::Ktls
            | Self::KtlsBackend
            | Self::KtlsBoth
            | Self::Http2
            | Self::Http2Tls => "copy",
        }
    }

    /// The setting `relay.tls_engine` that brings it about.
    #[must_use]
    pub const fn tls_setting(self) -> &'static str {
        match self {
            Self::Sockmap | Self::Copy | Self::Http2 | Self::Http2Tls => "auto",
            Self::Tls | Self::TlsBackend | Self::TlsBoth => "copy",
            Self::Ktls | Self::KtlsBackend | Self::KtlsBoth => "ktls",
        }
    }

    /// Whether the gate carries it, and takes it along when it dies.
    #[must_use]
    pub const fn ends_with_the_gate(self) -> bool {
        matches!(self, Self::Tls | Self::TlsBackend | Self::TlsBoth) || self.http2()
    }

    /// Whether the client speaks HTTP/2.
    #[must_use]
    pub const fn http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }

    /// Whether the kernel has the keys.
    const fn needs_ktls(self) -> bool {
        matches!(self, Self::Ktls | Self::KtlsBackend | Self::KtlsBoth)
    }

    /// The engine that metrics and `/connections` name.
    #[must_use]
    pub const fn engine(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Copy | Self::Tls | Self::TlsBackend | Self::TlsBoth | Self::Http2 | Self::Http2Tls => "copy",
            Self::Ktls | Self::KtlsBackend | Self::KtlsBoth => "ktls",
        }
    }

    /// Whether the client speaks TLS.
    #[must_use]
    pub const fn tls_client(self) -> bool {
        matches!(self, Self::Tls | Self::TlsBoth | Self::Ktls | Self::KtlsBoth | Self::Http2Tls)
    }

    /// Whether the backend does.
    #[must_use]
    pub const fn tls_backend(self) -> bool {
        matches!(self, Self::TlsBackend | Self::TlsBoth | Self::KtlsBackend | Self::KtlsBoth)
    }

    /// Whether the backend demands a certificate of Sluice.
    #[must_use]
    pub const fn shows_certificate(self) -> bool {
        matches!(self, Self::TlsBoth | Self::KtlsBoth)
    }

    /// Runs a scenario, or reports that this machine cannot run it this way.
    pub fn run(self, scenario: impl FnOnce(Self)) {
        if self == Self::Sockmap
            && let Err(reason) = needs::sockmap()
        {
            return needs::skip(&reason);
        }
        if !self.needs_ktls() {
            return scenario(self);
        }
        if let Err(reason) = needs::ktls() {
            return needs::skip(&reason);
        }
        let armed = || needs::tls_stat("TlsTxSw") + needs::tls_stat("TlsRxSw");
        let before = armed();
        scenario(self);
        assert!(needs::skipped() || armed() >= before + 2, "the kernel got no keys, says /proc/net/tls_stat");
    }
}

/// Makes one test per engine of each scenario, a function that takes a [`Via`].
#[macro_export]
macro_rules! over_every_engine {
    ($($scenario:ident),* $(,)?) => {
        mod sockmap {
            $(#[test] fn $scenario() { $crate::Via::Sockmap.run(super::$scenario) })*
        }
        mod copy {
            $(#[test] fn $scenario() { $crate::Via::Copy.run(super::$scenario) })*
        }
        mod copy_behind_tls {
            $(#[test] fn $scenario() { $crate::Via::Tls.run(super::$scenario) })*
        }
        mod copy_before_tls {
            $(#[test] fn $scenario() { $crate::Via::TlsBackend.run(super::$scenario) })*
        }
        mod copy_between_tls {
            $(#[test] fn $scenario() { $crate::Via::TlsBoth.run(super::$scenario) })*
        }
        mod ktls_behind_tls {
            $(#[test] fn $scenario() { $crate::Via::Ktls.run(super::$scenario) })*
        }
        mod ktls_before_tls {
            $(#[test] fn $scenario() { $crate::Via::KtlsBackend.run(super::$scenario) })*
        }
        mod ktls_between_tls {
            $(#[test] fn $scenario() { $crate::Via::KtlsBoth.run(super::$scenario) })*
        }
    };
}

/// As [`over_every_engine!`], and over HTTP/2: for scenarios whose clients are ours.
#[macro_export]
macro_rules! over_every_way {
    ($($scenario:ident),* $(,)?) => {
        $crate::over_every_engine![$($scenario),*];
        mod http2 {
            $(#[test] fn $scenario() { $crate::Via::Http2.run(super::$scenario) })*
        }
        mod http2_behind_tls {
            $(#[test] fn $scenario() { $crate::Via::Http2Tls.run(super::$scenario) })*
        }
    };
}
