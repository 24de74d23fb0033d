//! Sees to it that the keys of every issuer are fetched and its introspection endpoint is asked, of those too that a
//! reload has brought.

use std::sync::Arc;

use crate::{
    authn::{
        introspection::{self, Active},
        jwks,
        jwt::{Issuer, JwtError, VerifiedToken},
    },
    state::Live,
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
