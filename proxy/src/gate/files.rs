//! What the gate makes of the files that the configuration names, and how changed ones take the place of others.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use http::HeaderMap;
use zeroize::Zeroizing;

use super::auth::Check;
use super::tls::{Acceptor, Connector, Roots};
use super::{Gate, sticky, tls};
use crate::config::Config;
use crate::handoff::files::{self, FileRole};
use crate::handoff::{CookieKey, ToKeeper};
use crate::observe::CertificateRow;

/// Files as the keeper sends them.
#[derive(Default)]
pub(super) struct Files(HashMap<FileRole, File>);

impl Files {
    /// Takes what came with a message.
    ///
    /// # Errors
    /// Descriptors and roles are not as many.
    pub(super) fn take(&mut self, roles: Vec<FileRole>, fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        anyhow::ensure!(roles.len() == fds.len(), "the keeper sent {} files for {} roles", fds.len(), roles.len());
        self.0.extend(roles.into_iter().zip(fds.into_iter().map(File::from)));
        Ok(())
    }

    /// The bytes of one.
    ///
    /// # Errors
    /// It has not been sent, or cannot be read.
    pub(super) fn bytes(&self, role: FileRole) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let file = self.0.get(&role).with_context(|| format!("the keeper has not sent the file for {role:?}"))?;
        files::read(file).with_context(|| format!("cannot read what the keeper sent for {role:?}"))
    }
}

impl Files {
    /// What is probably not meant with files that can be used: a CA file with what signs nothing.
    pub(super) fn doubts(&self, config: &Config) -> Vec<String> {
        let named = files::named(config).into_iter();
        let authorities =
            named.filter(|(role, _)| matches!(role, FileRole::ClientCa { .. } | FileRole::BackendCa { .. }));
        authorities.filter_map(|(role, name)| tls::doubt(&self.bytes(role).ok()?, &name)).collect()
    }
}

/// Everything that is made of files: what has them configured has them here, or there is no such thing.
#[derive(Default)]
pub(super) struct Loaded {
    /// By the index of the listener; those that speak TLS.
    acceptors: HashMap<u16, Arc<Acceptor>>,
    /// By the index of the backend; those that speak TLS.
    connectors: HashMap<u16, Arc<Connector>>,
    /// By the index of the backend; those whose cookies have configured keys. The first one signs.
    cookie_keys: HashMap<u16, Vec<CookieKey>>,
    /// By the index of the [[auth]]; all of them.
    checks: Vec<Arc<Check>>,
    /// By the index of the backend: the [[auth]] that tell it of clients, on some route.
    told: HashMap<u16, Vec<u16>>,
}

impl Loaded {
    /// Makes it of all files. `before` is what is in use now, of which session tickets may live on.
    ///
    /// # Errors
    /// One cannot be used; the message says which, and why.
    pub(super) fn make(config: &Config, files: &Files, before: Option<&Self>) -> anyhow::Result<Self> {
        let mut loaded = Self::default();
        for (index, listener) in (0..).zip(&config.listeners) {
            let Some(tls) = &listener.tls else { continue };
            let before = before.and_then(|before| before.acceptors.get(&index));
            let acceptor = Acceptor::new(index, tls, listener.http2, files, before.map(Arc::as_ref));
            let acceptor = acceptor.with_context(|| format!("listener {}", listener.bind))?;
            loaded.acceptors.insert(index, Arc::new(acceptor));
        }
        for (index, backend) in (0..).zip(&config.backends) {
            let Some(sticky) = backend.sticky.as_ref().filter(|sticky| !sticky.keys.is_empty()) else { continue };
            let keys = (0..).zip(&sticky.keys).map(|(place, name)| cookie_key(files, (index, place), name)).collect();
            let keys: anyhow::Result<_> = keys;
            loaded.cookie_keys.insert(index, keys.with_context(|| format!("backend {:?}", backend.name))?);
        }
        let mut roots = Roots::default();
        for (index, backend) in (0..).zip(&config.backends) {
            let Some(tls) = &backend.tls else { continue };
            let connector = Connector::new(index, tls, files, &mut roots);
            let connector = connector.with_context(|| format!("backend {:?}", backend.name))?;
            loaded.connectors.insert(index, Arc::new(connector));
        }
        let named = |role| files::named(config).iter().any(|(other, _)| *other == role);
        for (auth, settings) in (0..).zip(&config.auth) {
            let role = FileRole::Auth { auth };
            let file = if named(role) { files.bytes(role)? } else { Zeroizing::default() };
            // One whose file is as it was remembers the passwords that it has verified.
            let before = before.and_then(|before| before.checks.get(usize::from(auth))).filter(|one| one.is_of(&file));
            let check = before.cloned().map_or_else(|| Check::new(config, settings, &file).map(Arc::new), Ok)?;
            loaded.checks.push(check);
        }
        for route in config.routes.iter().filter(|route| !route.auth.is_empty()) {
            let backend = config.backends.iter().zip(0..).find(|(backend, _)| backend.name == route.backend);
            let told = loaded.told.entry(backend.context("a route has no backend")?.1).or_default();
            told.extend(
                config.auth.iter().zip(0..).filter(|(auth, _)| route.auth.contains(&auth.name)).map(|(_, at)| at),
            );
        }
        Ok(loaded)
    }

    /// What the cookies of a backend's clients are signed with: its own keys, or the one that every gate of the keeper's
    /// has.
    pub(super) fn cookie_keys(&self, backend: u16, common: &CookieKey) -> Vec<CookieKey> {
        self.cookie_keys.get(&backend).cloned().unwrap_or_else(|| vec![common.clone()])
    }

    /// What the admin listener shows of the certificates.
    pub(super) fn certificates(&self, config: &Config) -> Vec<CertificateRow> {
        let row = |index: &u16, file: &str, not_after: i64| CertificateRow {
            listener: config
                .listeners
                .get(usize::from(*index))
                .map_or_else(String::new, |found| found.bind.to_string()),
            certificate: file.to_owned(),
            not_after,
        };
        let mut rows: Vec<_> = self
            .acceptors
            .iter()
            .flat_map(|(index, acceptor)| acceptor.ends().map(move |(file, not_after)| row(index, file, not_after)))
            .collect();
        rows.sort_by(|a, b| (&a.listener, &a.certificate).cmp(&(&b.listener, &b.certificate)));
        rows
    }
}

fn cookie_key(files: &Files, (backend, place): (u16, u16), name: &Path) -> anyhow::Result<CookieKey> {
    let bytes = files.bytes(FileRole::CookieKey { backend, place })?;
    sticky::key(&bytes).map_err(|length| {
        let (name, least) = (name.display(), sticky::LEAST);
        anyhow::anyhow!(
            "{name}: a key for cookies has {least} bytes at least, and this one {length}; try `openssl rand -hex 32`"
        )
    })
}

/// What is in use now. A connection takes what it needs when it begins, and keeps it.
pub(super) struct InUse(RwLock<Arc<Loaded>>);

impl InUse {
    pub(super) fn new(loaded: Loaded) -> Self {
        Self(RwLock::new(Arc::new(loaded)))
    }

    fn now(&self) -> Arc<Loaded> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A listener's TLS, if it has it.
    pub(super) fn acceptor(&self, listener: u16) -> Option<Arc<Acceptor>> {
        self.now().acceptors.get(&listener).cloned()
    }

    /// A backend's TLS, if it has it.
    pub(super) fn connector(&self, backend: u16) -> Option<Arc<Connector>> {
        self.now().connectors.get(&backend).cloned()
    }

    /// Takes away what a client says of itself under the names by which a backend is told of clients, by the checks of its
    /// route or by those of another one.
    pub(super) fn clear(&self, backend: u16, route: &[u16], headers: &mut HeaderMap) {
        let now = self.now();
        for auth in now.told.get(&backend).into_iter().flatten() {
            if let Some(check) = now.checks.get(usize::from(*auth)) {
                check.clear(route.contains(auth), headers);
            }
        }
    }

    /// The checks of these indices. (There is one for every [[auth]].)
    pub(super) fn checks(&self, auth: &[u16]) -> Vec<Arc<Check>> {
        let now = self.now();
        auth.iter().filter_map(|index| now.checks.get(usize::from(*index)).cloned()).collect()
    }
}

/// Takes changed files into use for new connections, all or none, and tells the keeper.
///
/// # Errors
/// The keeper is gone.
pub(super) async fn reload(gate: &Arc<Gate>, files: Files, reload: u64) -> std::io::Result<()> {
    let of = gate.clone();
    // Thousands of certificates take some milliseconds, which belong to no handshake's thread.
    let made = tokio::task::spawn_blocking(move || Loaded::make(&of.config, &files, Some(&of.loaded.now()))).await;
    let ok = match made.map_err(anyhow::Error::from).flatten() {
        Ok(loaded) => {
            gate.certificates.set(loaded.certificates(&gate.config));
            for (backend, fleet) in (0..).zip(&gate.fleets) {
                fleet.set_keys(loaded.cookie_keys(backend, &gate.secret));
            }
            *gate.loaded.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
            true
        }
        Err(error) => {
            let why = format!("{error:#}");
            tracing::error!(why, "the files cannot be used; those before them stay in use");
            false
        }
    };
    gate.control.send(&ToKeeper::Reloaded { reload, ok }, &[]).await
}
