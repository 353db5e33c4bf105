//! Asks servers whether they are well.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::{Fleet, Site};
use crate::config::{Address, Check, CheckKind, Forwarded, Limits};
use crate::gate::balance::pace::{first_check, next_check};
use crate::gate::handshake::{Opening, Scheme, Visitor, check_switch, key};
use crate::gate::refusal::Refusal;
use crate::gate::upstream::{self, Answer, Switched};
use crate::gate::{Gate, linger};
use crate::handoff::{Peer, ToKeeper};

/// The most that is read of an answer; a server whose page is longer sees its connection break off.
const MOST_READ: usize = 1 << 20;

/// A masked Close with status 1000 (RFC 6455 §5.5.1): FIN and opcode 8, MASK and 2 bytes, a mask of zeros, 1000.
const GOODBYE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// The servers of a backend, by their indices.
type Plan = BTreeMap<u16, Planned>;

/// A server to be checked.
struct Planned {
    site: Arc<Site>,
    /// When it is checked next. None: it is being checked. One check at a time: of several that are under way at once, an
    /// older one that ends last would speak of what is over, and a server that hangs would collect them.
    due: Option<Instant>,
}

/// A check that has ended.
struct Checked {
    server: u16,
    site: Arc<Site>,
    began: Instant,
    /// `false`: nothing was found out.
    result: anyhow::Result<bool>,
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
    let mut under_way = JoinSet::<Checked>::new();
    loop {
        let next = plan.values().filter_map(|planned| planned.due).min();
        let due = async {
            match next {
                Some(next) => sleep_until(next.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = fleet.relisted() => revise(&mut plan, fleet, |_| Instant::now()),
            Some(Ok(checked)) = under_way.join_next() => {
                let server = checked.server;
                if let Some(up) = conclude(&mut plan, fleet, &check, checked) {
                    tell(&gate, backend, server, up).await;
                }
            }
        }
        let now = Instant::now();
        for (server, planned) in plan.iter_mut().filter(|(_, planned)| planned.due.is_some_and(|due| due <= now)) {
            planned.due = None;
            under_way.spawn(one(gate.clone(), backend, *server, planned.site.clone(), check.clone()));
        }
    }
}

/// Takes new servers into the plan, and those that are no more out of it. For one that only has another weight nothing
/// changes.
fn revise(plan: &mut Plan, fleet: &Fleet, first: impl Fn(&Site) -> Instant) {
    let sites = fleet.sites();
    plan.retain(|server, planned| sites.iter().any(|(index, now)| index == server && now.is_same(&planned.site)));
    for (server, site) in sites {
        plan.entry(server).or_insert_with(|| Planned { due: Some(first(&site)), site });
    }
}

/// Takes a result, and plans the next check of that server, if it still is where it was asked. Returns whether the server
/// is up, if it was not so before.
fn conclude(plan: &mut Plan, fleet: &Arc<Fleet>, check: &Check, checked: Checked) -> Option<bool> {
    let Checked { server, site, began, result } = checked;
    let planned = plan.get_mut(&server).filter(|planned| planned.site.is_same(&site))?;
    planned.due = Some(next_check(began, check.interval, check.jitter.get(), rand::random()));
    let before = fleet.is_up(server);
    if !matches!(result, Ok(false)) {
        fleet.checked(server, &site, result.map(drop));
    }
    fleet.is_up(server).filter(|up| before != Some(*up))
}

/// Tells the keeper, so that the next gate need not find it out.
async fn tell(gate: &Gate, backend: u16, server: u16, up: bool) {
    if let Err(error) = gate.control.send(&ToKeeper::Checked { backend, server, up }, &[]).await {
        tracing::warn!(%error, "cannot tell the keeper what a check has found");
    }
}

async fn one(gate: Arc<Gate>, backend: u16, server: u16, site: Arc<Site>, check: Check) -> Checked {
    let began = Instant::now();
    let asked = timeout(check.timeout, ask(&gate, backend, &site, &check)).await;
    let result = match asked {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!(Refusal::ResponseTimeout.text())),
    };
    Checked { server, site, began, result }
}

/// Asks one server whether it is well. `false`: we are short of something (a port), which says nothing of it. Cancel safe.
///
/// # Errors
/// It is not well, and why.
async fn ask(gate: &Gate, backend: u16, site: &Site, check: &Check) -> anyhow::Result<bool> {
    let stream = match gate.connect_to(backend, site, None, check.timeout).await {
        Ok(stream) => stream,
        Err(failure) if !failure.is_the_servers() => {
            let server = site.address.to_string();
            tracing::debug!(server, %failure, "a check could not be made, which says nothing of the server");
            return Ok(false);
        }
        Err(failure) => anyhow::bail!("{failure}"),
    };
    let request = Request::get(check.path()).header(USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")));
    let mut request = request.body(Empty::<Bytes>::new())?;
    request.headers_mut().insert(HOST, host(check, site)?);
    let deadline = tokio::time::Instant::now() + check.timeout;
    match check.kind {
        CheckKind::Tcp => {
            // With TLS, the server is told that this is the end.
            tokio::spawn(linger::close(stream));
            return Ok(true);
        }
        CheckKind::Http => drop(request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
        CheckKind::Websocket => ask_for_websocket(request.headers_mut(), check)?,
    }
    let (head, body) = request.into_parts();
    let opening = match check.kind {
        CheckKind::Websocket => {
            let visitor = Visitor::judge(&Forwarded::default(), Peer::Unix, Scheme::Plain, &head.headers);
            Some(Opening::check(&head, &visitor).map_err(|refusal| anyhow::anyhow!(refusal.text()))?)
        }
        _ => None,
    };
    let request = Request::from_parts(head, body);
    let limits = Limits { response_body: MOST_READ, ..gate.config.limits.clone() };
    let answer = upstream::ask(stream, request, &limits, gate.spelling(backend), deadline).await;
    let answer = answer.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let status = answer.status();
    let switched = match (&answer, &opening) {
        (Answer::Switch(switched), Some(opening)) => check_switch(&switched.head, opening),
        _ => Ok(()),
    };
    // The verdict need not wait for the server's last words.
    tokio::spawn(timeout(check.timeout, part(answer)));
    anyhow::ensure!(check.is_good(status.as_u16()), "it answers {status}");
    switched.map_err(|refusal| anyhow::anyhow!(refusal.text()))?;
    Ok(true)
}

fn host(check: &Check, site: &Site) -> anyhow::Result<HeaderValue> {
    let host = match (&check.host, &site.address, &site.host) {
        (Some(host), _, _) => host.clone(),
        (None, Address::Inet(address), Some(name)) => format!("{name}:{}", address.port()),
        (None, Address::Inet(address), None) => address.to_string(),
        (None, Address::Unix(_), _) => "localhost".into(),
    };
    HeaderValue::try_from(host).context("check.host")
}

fn ask_for_websocket(headers: &mut HeaderMap, check: &Check) -> anyhow::Result<()> {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, key(rand::random()));
    if !check.protocols.is_empty() {
        let offered = HeaderValue::try_from(check.protocols.join(", ")).context("check.protocols")?;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
    }
    Ok(())
}

/// Takes leave as a client does that has what it wanted: a body is read, of a WebSocket the server's Close. Servers log it
/// as an error if their client is gone before.
async fn part(answer: Answer) {
    match answer {
        Answer::Switch(Switched { mut io, .. }) => {
            // Whether the server hears it matters to nobody.
            let _ = io.write_all(&GOODBYE).await;
            linger::close(io).await;
        }
        Answer::Other(response) => {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
