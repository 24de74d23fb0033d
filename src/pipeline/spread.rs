//! Who asks, for upstreams that keep a caller with one server.
//!
//! In: what was proved while deciding. Out: a number, or none where all callers are alike. What a client merely says of
//! itself does not count: a session, an identity and an address are what the gateway knows.

use super::{Findings, Snapshot, Target};
use crate::{
    client,
    upstream::{Caller, Sticky},
};

/// Who asks, if the upstream that the request goes to is sticky.
#[inline]
pub(super) fn caller(target: &Target, snapshot: &Snapshot, findings: &Findings) -> Option<Caller> {
    match target {
        Target::Upstream(index) => {
            let by = snapshot.upstreams.get(*index)?.sticky?;
            Some(known_by(by, findings))
        }
        Target::Own(_) | Target::Redirect { .. } | Target::Respond { .. } => None,
    }
}

#[cold]
fn known_by(by: Sticky, findings: &Findings) -> Caller {
    match (by, &findings.session, &findings.identity) {
        (Sticky::Session, Some(session), _) => Caller::of(&[b"session", session.key().bytes()]),
        (Sticky::Session | Sticky::Subject, _, Some(identity)) => {
            Caller::of(&[b"subject", identity.realm().as_bytes(), identity.subject().as_bytes()])
        }
        (Sticky::Session | Sticky::Subject, _, None) => {
            let address = findings.view.as_ref().map(|view| client::network(view.address).to_string());
            Caller::of(&[b"address", address.unwrap_or_default().as_bytes()])
        }
    }
}
