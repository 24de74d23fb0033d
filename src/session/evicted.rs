//! What the audit log hears of sessions that ended although nobody asked for it: to make room for another one.
//!
//! In: the session that ended, the newcomer, and which limit was met. Out: one line each. Who knows why they are signed
//! out asks nobody, and an administrator sees who fills the store.

use super::Session;
use crate::{
    clock::Timestamp,
    telemetry::audit::{Audit, Event, Origin, Value, What},
};

/// Which limit asked for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Limit {
    /// `session.max_per_user`: it was the subject's oldest.
    PerUser,
    /// `session.max_sessions`: its subject had the most.
    Store,
}

impl Limit {
    const fn label(self) -> &'static str {
        match self {
            Self::PerUser => "max_per_user",
            Self::Store => "max_sessions",
        }
    }
}

/// Tells of one.
pub(super) fn tell(audit: &Audit, ended: &Session, limit: Limit, newcomer: &Session, now: Timestamp) {
    let (key, successor) = (ended.key().to_string(), newcomer.key().to_string());
    let event = Event {
        realm: Some(ended.identity().realm()),
        subject: Some(ended.identity().subject()),
        session: Some(&key),
        why: Some(limit.label()),
        more: &[("for_session", Value::from(successor.as_str()))],
        ..Event::new(What::SessionEvicted, Origin::gateway(now))
    };
    audit.record(&event);
}
