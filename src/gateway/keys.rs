//! Sees to it that the keys of every issuer are fetched and its introspection endpoint is asked, of those too that a
//! reload has brought.

use std::sync::Arc;

use crate::{
    authn::{
        introspection::{self, Active},
        jwks::{self, KeySlot},
        jwt::{Issuer, JwtError, VerifiedToken},
        keys::KeyError,
    },
    signing::Signing,
    state::{Live, Shared},
};

/// Starts a task for each issuer whose keys nobody fetches yet; the task of one that is gone ends by itself. Called
/// on the control thread, again and again.
pub(super) fn drive_all(live: &Arc<Live>) {
    for issuer in &live.snapshot().issuers {
        if let Some(task) = jwks::drive(&issuer.keys, Arc::clone(&issuer.name), live.shared.clock.clone()) {
            // Ends with its slot, or with the thread.
            drop(tokio::task::spawn_local(task));
        }
        if let Some(endpoint) = &issuer.introspection {
            let judged_by = Arc::clone(live);
            let judge = move |active: Active<'_>| judge(&judged_by, active);
            if let Some(task) = introspection::drive(endpoint, live.shared.clock.clone(), judge) {
                drop(tokio::task::spawn_local(task));
            }
        }
    }
}

/// Judges a token by the issuer as it is now, whoever asked; `None`: there is none any more that says so.
fn judge(live: &Live, active: Active<'_>) -> Option<Result<VerifiedToken, JwtError>> {
    let snapshot = live.snapshot();
    let says_so =
        |issuer: &&Issuer| issuer.introspection.as_ref().is_some_and(|endpoint| Arc::ptr_eq(endpoint, active.endpoint));
    let issuer = snapshot.issuers.iter().find(says_so)?;
    Some(VerifiedToken::introspected(issuer, active))
}

/// Lets our own tokens be verified with the keys that sign them, now and next.
pub(super) fn publish(slot: &KeySlot, signing: &Signing) -> Result<(), KeyError> {
    slot.publish(&signing.access.jwks(), "self")
}

/// As [`publish`], if the keys are others than `published`; the version that is published then.
pub(super) fn publish_as_needed(shared: &Shared, published: u64) -> u64 {
    let version = shared.signing.access.version();
    if version == published {
        return published;
    }
    match publish(&shared.own_keys, &shared.signing) {
        Ok(()) => version,
        Err(KeyError(why)) => {
            tracing::error!(why, "the keys that tokens are signed with cannot be published");
            published
        }
    }
}
