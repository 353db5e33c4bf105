//! Asks servers whether they are well.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use http::header::{UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::{Fleet, Site};
use crate::config::{Address, Check, CheckKind, Forwarded, Limits};
use crate::gate::Gate;
use crate::gate::balance::pace::{first_check, next_check};
use crate::gate::handshake::{Opening, Scheme, Visitor, check_switch, key};
use crate::gate::refusal::Refusal;
use crate::gate::stream::Stream;
use crate::gate::upstream::{self, Answer, Bounded, Failure};
use crate::handoff::Peer;

/// A masked Close with status 1000 (RFC 6455 §5.5.1): FIN and opcode 8, MASK and 2 bytes, a mask of zeros, 1000.
const GOODBYE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// How long a server that has answered may take to see the end. 1 s: it matters to nobody but its log.
const PARTING: Duration = Duration::from_secs(1);

/// How much of what it sends meanwhile is read. 1 MiB: a page is shorter.
const MOST_READ: usize = 1024 * 1024;

/// The servers of a backend.
type Plan = BTreeMap<u16, Planned>;

/// When a server is checked next.
struct Planned {
    site: Arc<Site>,
    due: Instant,
    /// The check that began last.
    last: Option<AbortHandle>,
}

impl Planned {
    /// One check at a time: a server that hangs gets no more of them than one that answers.
    fn is_free(&self) -> bool {
        self.last.as_ref().is_none_or(AbortHandle::is_finished)
    }
}

/// Checks a backend's servers, for ever.
pub(in crate::gate) async fn watch(gate: Arc<Gate>, backend: u16) {
    let Some(check) = gate.config.backends.get(usize::from(backend)).and_then(|backend| backend.check.clone()) else {
        return;
    };
    let Some(fleet) = gate.fleet(backend) else { return };
    let mut plan = Plan::new();
    let start = Instant::now();
    revise(&mut plan, fleet, |_| first_check(start, check.interval, rand::random()));
    // Dropped with this function, which ends those that are under way.
    let mut under_way = JoinSet::new();
    loop {
        let next = plan.values().filter(|planned| planned.is_free()).map(|planned| planned.due).min();
        let due = async {
            match next {
                Some(next) => sleep_until(next.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = fleet.relisted() => revise(&mut plan, fleet, |_| Instant::now()),
            Some(_) = under_way.join_next() => {}
        }
        let now = Instant::now();
        for (server, planned) in plan.iter_mut().filter(|(_, planned)| planned.due <= now && planned.is_free()) {
            planned.due = next_check(now, check.interval, check.jitter.get(), rand::random());
            let one = one(gate.clone(), backend, *server, planned.site.clone(), check.clone());
            planned.last = Some(under_way.spawn(one));
        }
    }
}

/// Takes new servers into the plan, and those that are no more out of it.
fn revise(plan: &mut Plan, fleet: &Fleet, first: impl Fn(&Site) -> Instant) {
    let sites: BTreeMap<_, _> = fleet.sites().into_iter().collect();
    plan.retain(|server, planned| sites.get(server).is_some_and(|site| *site == planned.site));
    for (server, site) in sites {
        plan.entry(server).or_insert_with(|| Planned { due: first(&site), site, last: None });
    }
}

async fn one(gate: Arc<Gate>, backend: u16, server: u16, site: Arc<Site>, check: Check) {
    let Some(fleet) = gate.fleet(backend) else { return };
    let asked = timeout(check.timeout, ask(&gate, backend, &site, &check)).await;
    match asked.unwrap_or_else(|_| Err(Refusal::ResponseTimeout.into())) {
        Ok(parting) => {
            fleet.checked(server, &site, Ok(()));
            // Whether it hears the end matters to nobody.
            let _late = timeout(PARTING, parting.part()).await;
        }
        Err(NotWell { ours: true, why }) => {
            let (backend, server) = (gate.config.backends.get(usize::from(backend)), site.address.to_string());
            let backend = backend.map(|backend| &backend.name);
            tracing::debug!(backend, server, why, "a check could not be made, which says nothing of the server");
        }
        Err(NotWell { why, .. }) => fleet.checked(server, &site, Err(why)),
    }
}

/// Why a check is not good.
struct NotWell {
    /// The failure is this machine's: it has no port left, say.
    ours: bool,
    why: String,
}

impl NotWell {
    fn new(why: impl ToString) -> Self {
        Self { ours: false, why: why.to_string() }
    }
}

impl From<Failure> for NotWell {
    fn from(failure: Failure) -> Self {
        Self { ours: !failure.is_the_servers(), why: failure.to_string() }
    }
}

impl From<Refusal> for NotWell {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.text())
    }
}

/// What is left of a check that was good. It ends in good manners: a connection that breaks off is an error in the logs
/// of most servers.
enum Parting {
    Stream(Stream),
    Websocket(Stream),
    Body(Bounded),
}

impl Parting {
    /// Ends it. Cancelled, it breaks off.
    async fn part(self) {
        match self {
            Self::Stream(mut stream) => drop(stream.shutdown().await),
            Self::Websocket(mut stream) => {
                // RFC 6455 §7.1.1: the server closes the connection, behind its own Close.
                if stream.write_all(&GOODBYE).await.is_ok() {
                    let mut rest = (&mut stream).take(MOST_READ as u64);
                    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
                }
                let _ = stream.shutdown().await;
            }
            Self::Body(mut body) => {
                // It is cut where it is too long.
                while let Some(Ok(_)) = body.frame().await {}
            }
        }
    }
}

/// Asks one server. Cancel safe.
///
/// # Errors
/// It is not well, and why.
async fn ask(gate: &Gate, backend: u16, site: &Site, check: &Check) -> Result<Parting, NotWell> {
    let stream = gate.connect_to(backend, site, None, check.timeout).await?;
    let mut headers = HeaderMap::new();
    headers.insert(HOST, host(check, site)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
    match check.kind {
        CheckKind::Tcp => return Ok(Parting::Stream(stream)),
        CheckKind::Http => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
        CheckKind::Websocket => ask_for_websocket(&mut headers, check)?,
    }
    let mut request = Request::get(check.path()).body(Empty::<Bytes>::new()).map_err(NotWell::new)?;
    *request.headers_mut() = headers;
    let (head, body) = request.into_parts();
    let opening = match check.kind {
        CheckKind::Websocket => {
            let visitor = Visitor::judge(&Forwarded::default(), Peer::Unix, Scheme::Plain, &head.headers);
            Some(Opening::check(&head, &visitor)?)
        }
        _ => None,
    };
    let deadline = tokio::time::Instant::now() + check.timeout;
    let limits = Limits { response_body: MOST_READ, ..gate.config.limits.clone() };
    let answer = upstream::ask(stream, Request::from_parts(head, body), &limits, deadline).await?;
    let status = answer.status();
    if !check.is_good(status.as_u16()) {
        return Err(NotWell::new(format_args!("it answers {status}")));
    }
    match (answer, opening) {
        (Answer::Switch(switched), Some(opening)) => {
            check_switch(&switched.head, &opening)?;
            Ok(Parting::Websocket(switched.io))
        }
        (Answer::Switch(switched), None) => Ok(Parting::Stream(switched.io)),
        (Answer::Other(response), _) => Ok(Parting::Body(response.into_body())),
    }
}

fn host(check: &Check, site: &Site) -> Result<HeaderValue, NotWell> {
    let host = match (&check.host, &site.address, &site.host) {
        (Some(host), _, _) => host.clone(),
        (None, Address::Inet(address), Some(name)) => format!("{name}:{}", address.port()),
        (None, Address::Inet(address), None) => address.to_string(),
        (None, Address::Unix(_), _) => "localhost".into(),
    };
    HeaderValue::try_from(host).map_err(|_| NotWell::new("check.host is no header's value"))
}

fn ask_for_websocket(headers: &mut HeaderMap, check: &Check) -> Result<(), NotWell> {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, key(rand::random()));
    if let Some(name) = &check.subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(name).map_err(NotWell::new)?);
    }
    Ok(())
}
