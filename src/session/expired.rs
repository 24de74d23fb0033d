//! Whose the sessions were that ran out a short while ago, so that a form that came too late can be kept for its owner.
//!
//! In: sessions at the moment in which the store drops them for their limits. Out: (realm, subject) by key, for
//! [`RECENTLY`]. Sessions that were ended by a logout, an administrator or a newer login are never in here.
//! Invariants: bounded in number, the newest win; what is in here opens nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{BuildKeyHasher, Session, SessionKey};
use crate::clock::Timestamp;

/// How long a session is remembered after its end.
pub const RECENTLY: Duration = Duration::from_secs(15 * 60);

/// Whose a session was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// What the subject means something in (R5).
    pub realm: Arc<str>,
    /// The subject.
    pub subject: Box<str>,
}

/// Sessions that ran out.
#[derive(Debug, Default)]
pub(super) struct Expired {
    /// A plain lock, taken when a session runs out and when a form comes too late: neither is often.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_key: HashMap<SessionKey, (Owner, Timestamp), BuildKeyHasher>,
    order: VecDeque<SessionKey>,
}

impl Expired {
    /// Notes that a session ran out at this time.
    pub(super) fn note(&self, session: &Session, at: Timestamp) {
        let identity = session.identity();
        let owner = Owner { realm: Arc::clone(identity.realm()), subject: identity.subject().into() };
        let mut state = self.lock();
        if state.order.len() >= MAX_ENTRIES
            && let Some(oldest) = state.order.pop_front()
        {
            state.by_key.remove(&oldest);
        }
        if state.by_key.insert(*session.key(), (owner, at)).is_none() {
            state.order.push_back(*session.key());
        }
    }

    /// Whose session it was, if it ran out less than [`RECENTLY`] ago.
    pub(super) fn owner(&self, key: &SessionKey, now: Timestamp) -> Option<Owner> {
        let state = self.lock();
        let (owner, at) = state.by_key.get(key)?;
        (now.since(*at) < RECENTLY).then(|| owner.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some hundred bytes each.
const MAX_ENTRIES: usize = 8192;
