//! Which pages a route admits (RFC 6454, RFC 6455 §10.2).

use super::host::is_below;
use crate::config::{HostOf, NoOrigin, Origin, OriginRule, PortOf};
use crate::gate::handshake::Caller;
use crate::gate::refusal::Refusal;

/// Whether a page may enter a server of the origin `own`.
///
/// # Errors
/// It may not.
pub(super) fn admit(rules: &[OriginRule], no_origin: NoOrigin, caller: &Caller, own: &Origin) -> Result<(), Refusal> {
    match (caller, no_origin) {
        (Caller::None, NoOrigin::Allow) => Ok(()),
        (Caller::None, NoOrigin::Deny) => Err(Refusal::OriginMissing),
        _ if is_named(rules, caller, own) || rules.contains(&OriginRule::Any) => Ok(()),
        // Sandboxed pages of anybody are `null`: to admit it is to admit everybody.
        (Caller::Null { .. }, _) if rules.contains(&OriginRule::Null) => Ok(()),
        _ => Err(Refusal::OriginDenied),
    }
}

/// Whether the rules name this very page: not because they take everybody's.
pub(super) fn is_named(rules: &[OriginRule], caller: &Caller, own: &Origin) -> bool {
    let origin = match caller {
        Caller::Origin(origin) => origin,
        // The browser says that it is a page of this server.
        Caller::Null { same_origin: true } => own,
        Caller::None | Caller::Null { .. } | Caller::Opaque => return false,
    };
    rules.iter().any(|rule| matches(rule, origin, own))
}

fn matches(rule: &OriginRule, origin: &Origin, own: &Origin) -> bool {
    match rule {
        OriginRule::SameOrigin => origin == own,
        OriginRule::Null | OriginRule::Any => false,
        OriginRule::Like { scheme, host, port } => {
            let host = match host {
                HostOf::Is(host) => origin.host == *host,
                HostOf::Below(suffix) => is_below(&origin.host, suffix),
                HostOf::Any => true,
            };
            let port = match port {
                PortOf::Is(port) => origin.port == *port,
                PortOf::Any => true,
            };
            origin.scheme == *scheme && host && port
        }
    }
}
