//! TLS with clients.

use std::io;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::arm::{self, Arming};
use super::choice::Choice;
use super::person::{self, Person};
use super::records::Records;
use super::{HTTP_1_1, HTTP_2, authorities, certificates, private_key};
use crate::config::{self, ClientAuthMode};
use crate::gate::files::Files;
use crate::gate::refusal::Refusal;
use crate::gate::stream::Stream;
use crate::handoff::files::FileRole;

/// Why no TLS session came of a connection.
pub(in crate::gate) enum NoSession {
    /// To be answered in clear text.
    Refused(TcpStream, Refusal),
    /// The client closed before its first byte.
    Gone,
    /// The handshake failed. rustls has told the client what it can be told; the stream is to be closed so that it
    /// arrives.
    Failed(io::Error, TcpStream),
    /// The kernel refused the keys half-way, or there was more behind the handshake than TLS allows. The connection is
    /// closed.
    Lost,
}

/// A client's TLS session.
pub(in crate::gate) struct Secured {
    pub(in crate::gate) stream: Stream,
    /// Whether HTTP/2 was agreed on.
    pub(in crate::gate) http2: bool,
    /// Who the client is by its certificate, if it has shown one.
    pub(in crate::gate) person: Option<Arc<Person>>,
}

/// A listener's TLS.
pub(in crate::gate) struct Acceptor {
    config: Arc<ServerConfig>,
    tickets: Tickets,
    /// The file of every certificate, and when it ends, in seconds since the Unix epoch.
    ends: Vec<(String, i64)>,
}

/// What session tickets are made with.
struct Tickets {
    keys: Arc<dyn ProducesTickets>,
    /// The authorities for clients, as they were in their file: a ticket stands for a client that one of them vouched
    /// for, and is good only while the same are trusted. (rustls does not ask again.)
    clients: Option<Vec<u8>>,
}

impl Acceptor {
    /// Makes it from its settings and its files. With `http2` clients may choose that. `before` is what it takes the place of: tickets that were given then
    /// stay good, unless other clients were trusted.
    ///
    /// # Errors
    /// A file that holds no certificate or key, two that do not belong together, or a certificate without a name; the
    /// message names the file.
    pub(in crate::gate) fn new(
        listener: u16,
        settings: &config::Tls,
        http2: bool,
        files: &Files,
        before: Option<&Self>,
    ) -> anyhow::Result<Self> {
        let config::TlsChoice { provider, versions } = settings.policy().choose().map_err(anyhow::Error::msg)?;
        let provider = Arc::new(provider);
        let (choice, ends) = choice(listener, settings, files, &provider)?;
        let clients = match &settings.client_auth {
            None => None,
            Some(auth) => Some((auth, files.bytes(FileRole::ClientCa { listener })?)),
        };
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions)?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some((auth, pem)) => builder.with_client_cert_verifier(verifier(auth, pem, provider)?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(choice));
        config.alpn_protocols = if http2 { vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()] } else { vec![HTTP_1_1.to_vec()] };
        config.enable_secret_extraction = true;
        let tickets = Tickets::new(clients.map(|(_, pem)| pem.to_vec()), before.map(|before| &before.tickets))?;
        // Resumption by tickets instead of a store: nothing to keep per client.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if settings.session_tickets {
            config.ticketer = tickets.keys.clone();
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Self { config: Arc::new(config), tickets, ends })
    }

    /// The file of every certificate, and when it ends, in seconds since the Unix epoch.
    pub(in crate::gate) fn ends(&self) -> impl Iterator<Item = (&str, i64)> {
        self.ends.iter().map(|(file, end)| (file.as_str(), *end))
    }
}

impl Tickets {
    fn new(clients: Option<Vec<u8>>, before: Option<&Self>) -> anyhow::Result<Self> {
        let keys = match before.filter(|before| before.clients == clients) {
            Some(before) => before.keys.clone(),
            None => aws_lc_rs::Ticketer::new().context("cannot make keys for session tickets")?,
        };
        Ok(Self { keys, clients })
    }
}

/// All certificates of a listener, and when each ends.
fn choice(
    listener: u16,
    settings: &config::Tls,
    files: &Files,
    provider: &CryptoProvider,
) -> anyhow::Result<(Choice, Vec<(String, i64)>)> {
    let (mut choice, mut ends) = (Choice::default(), Vec::new());
    for (place, (certificate, key, names)) in (0..).zip(settings.identities()) {
        let chain = certificates(&files.bytes(FileRole::Certificate { listener, place })?, certificate)?;
        let private = private_key(&files.bytes(FileRole::Key { listener, place })?, key)?;
        let leaf = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
        let (certificate, key) = (certificate.display(), key.display());
        let identity = CertifiedKey::from_der(chain, private, provider)
            .with_context(|| format!("{certificate} and {key}: the certificate or its key cannot be used"))?;
        let names = if names.is_empty() { person::names(&leaf) } else { names.to_vec() };
        // The default needs no name: whoever asks for none gets it.
        anyhow::ensure!(
            place == 0 || !names.is_empty(),
            "{certificate}: the certificate is for no DNS name; set `names` to say whom it is for"
        );
        choice.add(Arc::new(identity), names);
        ends.extend(person::not_after(&leaf).map(|end| (certificate.to_string(), end)));
    }
    Ok((choice, ends))
}

fn verifier(
    settings: &config::ClientAuth,
    pem: &[u8],
    provider: Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let name = &settings.ca;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(pem, name)?), provider);
    let builder = match settings.mode {
        ClientAuthMode::Required => builder,
        ClientAuthMode::Optional => builder.allow_unauthenticated(),
    };
    builder.build().with_context(|| format!("{}: cannot be used to verify clients", name.display()))
}

/// Does the TLS handshake with a client, and gives the keys to the kernel if it takes them; says who the client is, if it
/// has shown a certificate. Cancelled, it closes the connection.
///
/// # Errors
/// [`NoSession`].
pub(in crate::gate) async fn accept(
    stream: TcpStream,
    acceptor: &Acceptor,
    arming: &Arming,
) -> Result<Secured, NoSession> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(NoSession::Gone),
        // Methods are upper case letters; a TLS record begins with its type, 20 to 24 (RFC 8446 §5.1).
        Ok(_) if first[0].is_ascii_uppercase() => return Err(NoSession::Refused(stream, Refusal::PlainOnTls)),
        Ok(_) => {}
    }
    let (config, secrets) = arm::with_secrets(&*acceptor.config, |config, secrets| config.key_log = secrets);
    match TlsAcceptor::from(config).accept(Records::new(stream)).into_fallible().await {
        Ok(session) => {
            // Before the session is taken apart. One that was resumed has the certificate from its ticket.
            let leaf = session.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let person = leaf.and_then(|leaf| Person::of(leaf)).map(Arc::new);
            let http2 = session.get_ref().1.alpn_protocol() == Some(HTTP_2);
            let stream = arming.arm(session.into(), &secrets).map_err(|_| NoSession::Lost)?;
            Ok(Secured { stream, http2, person })
        }
        Err((error, stream)) => Err(NoSession::Failed(error, stream.into_tcp())),
    }
}
