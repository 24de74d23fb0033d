//! Where a request goes that is permitted: which upstream of its route, and who asks, for upstreams that keep a caller
//! with one server.
//!
//! In: what was proved while deciding. Out: an upstream, and a number, or none where all callers are alike. What a
//! client merely says of itself does not count: a session, an identity and an address are what the gateway knows.

use super::{Findings, Snapshot, Target};
use crate::{
    client,
    route::Destination,
    secret,
    upstream::{Caller, Sticky},
};

/// The upstream that the request goes to, by its index, and who asks, if that upstream is sticky.
#[inline]
pub(super) fn way(target: &Target, snapshot: &Snapshot, findings: &Findings<'_>) -> Way {
    match target {
        Target::Upstream(destination) => {
            let upstream = upstream(destination, findings);
            let sticky = snapshot.upstreams.get(upstream).and_then(|settings| settings.sticky);
            Way { upstream, caller: sticky.map(|by| known_by(by, findings)) }
        }
        Target::Own(_) | Target::Redirect { .. } | Target::Respond { .. } => Way::default(),
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Index of an upstream; of no meaning where the route's target is none.
    pub(super) upstream: usize,
    /// Who asks, if it is sticky.
    pub(super) caller: Option<Caller>,
}

/// The upstream that a caller gets of these; `None` where that is another one by chance with each request.
pub fn side(destination: &Destination, findings: &Findings<'_>) -> Option<usize> {
    match destination {
        Destination::One(index) => Some(*index),
        Destination::Split(_) => number(findings).map(|number| destination.upstream(|| number)),
    }
}

fn upstream(destination: &Destination, findings: &Findings<'_>) -> usize {
    destination.upstream(|| number(findings).unwrap_or_else(|| u64::from_le_bytes(secret::random::<8>())))
}

/// Whoever is known stays on one side, whichever way they are known: a session and a token of the same person do.
fn number(findings: &Findings<'_>) -> Option<u64> {
    let identity = findings.identity.as_ref()?;
    Some(Caller::of(&[b"split", identity.realm().as_bytes(), identity.subject().as_bytes()]).number())
}

#[cold]
fn known_by(by: Sticky, findings: &Findings<'_>) -> Caller {
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
