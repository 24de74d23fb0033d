//! Sees to it that the keys of every issuer are fetched, of those too that a reload has brought.

use std::sync::Arc;

use crate::{authn::jwks, state::Live};

/// Starts a task for each issuer whose keys nobody fetches yet; the task of one that is gone ends by itself. Called
/// on the control thread, again and again.
pub(super) fn drive_all(live: &Live) {
    for issuer in &live.snapshot().issuers {
        if let Some(task) = jwks::drive(&issuer.keys, Arc::clone(&issuer.name), live.shared.clock.clone()) {
            // Ends with its slot, or with the thread.
            drop(tokio::task::spawn_local(task));
        }
    }
}
