//! Which pages a route admits (RFC 6454, RFC 6455 §10.2).

use super::host::is_below;
use crate::config::{NoOrigin, Origin, OriginRule};
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
        // Sandboxed pages of anybody are `null`: to admit it would be to admit everybody.
        (Caller::Opaque, _) => Err(Refusal::OriginDenied),
        (Caller::Origin(origin), _) => {
            let admitted = rules.iter().any(|rule| matches(rule, origin, own));
            if admitted { Ok(()) } else { Err(Refusal::OriginDenied) }
        }
    }
}

fn matches(rule: &OriginRule, origin: &Origin, own: &Origin) -> bool {
    match rule {
        OriginRule::SameOrigin => origin == own,
        OriginRule::Exact(text) => origin.to_string() == *text,
        OriginRule::Below { scheme, suffix, port } => {
            origin.scheme == *scheme && origin.port == *port && is_below(&origin.host, suffix)
        }
    }
}
