//! A password hashed anew when it was typed right: its hash was cheaper to guess than what is made today.
//!
//! In: the password of a login that succeeded, after its answer left. Out: another hash in the users file, if that
//! may be written. Runs on a hashing thread.
//! Invariants: only the very hash that the login was checked against is replaced; the salt of the new one says which
//! it came from ([`User::keeps`]), so that sessions outlive it (R29); a file that cannot be written is left alone and
//! told of once.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{User, password, users_file::UsersFile};
use crate::{
    clock::Clock,
    telemetry::audit::{Audit, Event, Origin, Value, What},
};

/// A hash that should be replaced at the next login.
pub(super) struct Renewal {
    pub(super) user: Arc<User>,
    /// Where the hash stands.
    pub(super) file: Arc<Path>,
    /// Once for each reading of the users: what is done is seen at the next.
    pub(super) done: AtomicBool,
}

/// What renewals share.
pub(super) struct Renewer {
    audit: Audit,
    clock: Clock,
    /// Files that could not be written; as few as there are users files.
    unwritable: Mutex<HashSet<Arc<Path>>>,
}

impl Renewer {
    pub(super) fn new(audit: Audit, clock: Clock) -> Self {
        Self { audit, clock, unwritable: Mutex::default() }
    }

    /// Replaces the hash, unless somebody did already.
    pub(super) fn renew(&self, renewal: &Renewal, password: &str) {
        if renewal.done.swap(true, Relaxed) || self.lock().contains(&renewal.file) {
            return;
        }
        let Renewal { user, file, .. } = renewal;
        let outcome = UsersFile::open_now(file).and_then(|open| {
            // A writer is at work, or was: the next reading of the users, or the next login, finds out.
            let Some(mut open) = open.filter(|open| open.hash(&user.name) == Some(&*user.password)) else {
                return Ok(false);
            };
            let Ok(hash) = password::renew(user.proof(), password) else {
                return Ok(false);
            };
            open.set_hash(&user.name, &hash)?;
            open.save().map(|()| true)
        });
        match outcome {
            Ok(true) => {
                let path = file.display().to_string();
                let more = [("file", Value::from(&*path))];
                let origin = Origin::gateway(self.clock.now());
                let event =
                    Event { subject: Some(&user.id), more: &more, ..Event::new(What::PasswordRehashed, origin) };
                self.audit.record(&event);
            }
            Ok(false) => {}
            Err(error) => {
                self.lock().insert(Arc::clone(file));
                tracing::warn!(
                    %error,
                    "some passwords are hashed in an outdated way, and the gateway may not write the users file to hash \
                     them anew at logins; let it, or set new ones with `portcullis users passwd`"
                );
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Arc<Path>>> {
        // Nothing panics while it is held.
        self.unwritable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
