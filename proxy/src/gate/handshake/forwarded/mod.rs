//! Who a client is when proxies stand before Sluice, and what the backend is told of it: X-Forwarded-* and the
//! Forwarded header (RFC 7239).
//!
//! Every proxy adds the address of its own peer at the end of the list. So the list is read from its end, past the
//! proxies that are trusted; the first other address is the client. What stands before it was written by strangers:
//! it is neither believed nor passed on.

mod element;
mod node;

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderValue};

use self::node::Node;
use super::{Scheme, grammar};
use crate::config::{Forwarded, ForwardedHeader, split_authority};
use crate::handoff::Peer;

/// Proxies in front that are looked past. More than any chain that makes sense, and an end to what a list costs.
const MOST_PROXIES: usize = 32;

const X_FOR: &str = "x-forwarded-for";
const X_PROTO: &str = "x-forwarded-proto";
const X_HOST: &str = "x-forwarded-host";

/// Whom a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Visitor {
    /// The client's address; port 0 where a proxy did not tell it.
    pub(in crate::gate) client: Peer,
    /// What the client speaks, as far as is known.
    pub(in crate::gate) scheme: Scheme,
    /// The Host that the client asked for, if a trusted proxy says so.
    pub(in crate::gate) host: Option<String>,
    /// Whether the peer is a trusted proxy.
    pub(in crate::gate) trusted: bool,
    /// What the listener speaks.
    own_scheme: Scheme,
    /// Whoever is at the other end of the connection.
    peer: Peer,
    /// From the client to the last proxy before the peer.
    chain: Vec<Node>,
}

/// What one proxy says of whom it got a request from.
struct Hop {
    node: Node,
    scheme: Option<String>,
    host: Option<String>,
}

impl Visitor {
    /// Judges what is said of a request that came from `peer` on a listener that speaks `own`.
    pub(in crate::gate) fn judge(settings: &Forwarded, peer: Peer, own: Scheme, headers: &HeaderMap) -> Self {
        let direct =
            Self { client: peer, scheme: own, host: None, trusted: false, own_scheme: own, peer, chain: vec![] };
        if !Self::is_told_by(settings, peer) {
            return direct;
        }
        let mut hops = match settings.read {
            ForwardedHeader::XForwarded => x_forwarded(settings, headers),
            ForwardedHeader::Forwarded => walk(settings, lines(headers, FORWARDED.as_str()).flat_map(forwarded)),
        };
        let told = hops.first_mut().map(|hop| (hop.scheme.take(), hop.host.take())).unwrap_or_default();
        // A list without an address still may tell the scheme.
        let (scheme, host) = match settings.read {
            ForwardedHeader::XForwarded => (at(headers, X_PROTO, hops.len()), at(headers, X_HOST, hops.len())),
            ForwardedHeader::Forwarded => told,
        };
        let client = match hops.first().map(|hop| &hop.node) {
            Some(Node::Address(address, port)) => SocketAddr::new(*address, port.unwrap_or(0)).into(),
            _ => peer,
        };
        Self {
            client,
            scheme: scheme.and_then(|text| Scheme::read(&text)).unwrap_or(own),
            host: host.filter(|host| split_authority(host).is_ok()),
            trusted: true,
            chain: hops.into_iter().map(|hop| hop.node).collect(),
            ..direct
        }
    }

    /// Whether such a peer says for whom it asks, in each of its requests.
    pub(in crate::gate) fn is_told_by(settings: &Forwarded, peer: Peer) -> bool {
        is_trusted(settings, peer.ip())
    }

    /// Tells the backend. What the request said before must be gone; `asked` is the Host that came with it.
    pub(in crate::gate) fn tell(&self, settings: &Forwarded, asked: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let asked = asked.and_then(|host| host.to_str().ok());
        for header in &settings.send {
            match header {
                ForwardedHeader::XForwarded => {
                    // A Unix socket's peer has no address to be told.
                    let peer = self.peer.inet().map(|_| Node::of(self.peer));
                    let nodes: Vec<_> = self.chain.iter().cloned().chain(peer).map(|node| node.to_string()).collect();
                    if !nodes.is_empty() {
                        put(headers, X_FOR, &nodes.join(", "));
                    }
                    put(headers, X_PROTO, self.scheme.http());
                    if let Some(host) = self.host.as_deref().or(asked) {
                        put(headers, X_HOST, host);
                    }
                }
                ForwardedHeader::Forwarded => put(headers, FORWARDED.as_str(), &self.forwarded(asked)),
            }
        }
    }

    fn forwarded(&self, asked: Option<&str>) -> String {
        let mut elements: Vec<String> = self.chain.iter().map(|node| format!("for={}", node.quoted())).collect();
        if let Some(first) = elements.first_mut() {
            // What the outermost proxy was asked, as far as it has told.
            first.push_str(&said(self.scheme, self.host.as_deref()));
        }
        elements.push(format!("for={}{}", Node::of(self.peer).quoted(), said(self.own_scheme, asked)));
        elements.join(", ")
    }
}

/// `;proto=..;host=".."`.
fn said(scheme: Scheme, host: Option<&str>) -> String {
    let host = host.map(|host| format!(";host=\"{}\"", host.replace('\\', "\\\\").replace('"', "\\\"")));
    format!(";proto={}{}", scheme.http(), host.unwrap_or_default())
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Made of addresses, tokens and a Host that was a header value: always one.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn is_trusted(settings: &Forwarded, address: Option<IpAddr>) -> bool {
    settings.trusted.iter().any(|trusted| trusted.is(address))
}

/// The lines of a header from the last to the first; `None` for one that is not ASCII text.
fn lines<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = Option<&'a str>> {
    headers.get_all(name).iter().rev().map(|line| line.to_str().ok())
}

/// The elements of a list from its end, over all lines of a header.
fn elements<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let texts = lines(headers, name).map(Option::unwrap_or_default).flat_map(|line| line.rsplit(','));
    texts.map(grammar::trim).filter(|element| !element.is_empty())
}

fn forwarded(line: Option<&str>) -> Box<dyn Iterator<Item = Option<Hop>> + '_> {
    match line {
        Some(line) => Box::new(element::backwards(line).map(element::read)),
        None => Box::new(std::iter::once(None)),
    }
}

fn x_forwarded(settings: &Forwarded, headers: &HeaderMap) -> Vec<Hop> {
    let hop = |node| Hop { node, scheme: None, host: None };
    let nodes = lines(headers, X_FOR).flat_map(|line| line.unwrap_or("?").rsplit(',')).map(grammar::trim);
    walk(settings, nodes.filter(|text| !text.is_empty()).map(|text| Node::read_bare(text).map(hop)))
}

/// Walks a list from its end past the proxies that are trusted. Returns what was walked over, the client first; nothing
/// if something on the way cannot be read: then the list says nothing.
fn walk(settings: &Forwarded, hops: impl Iterator<Item = Option<Hop>>) -> Vec<Hop> {
    let mut walked = Vec::new();
    for hop in hops {
        let Some(hop) = hop.filter(|_| walked.len() < MOST_PROXIES) else { return Vec::new() };
        let on = matches!(hop.node, Node::Address(address, _) if is_trusted(settings, Some(address)));
        walked.push(hop);
        if !on {
            break;
        }
    }
    walked.reverse();
    walked
}

/// The value that belongs to the client in a list beside X-Forwarded-For, in which the client is so many places from
/// the end. Proxies that pass such a header on leave one value for all: then it is the first that there is.
fn at(headers: &HeaderMap, name: &'static str, place: usize) -> Option<String> {
    elements(headers, name).take(place.max(1)).last().map(str::to_owned)
}

#[cfg(test)]
mod tests;
