//! What each worker has found in the cache before: looked at first, without a lock and without a word that other workers
//! write to but the token's own reference count.
//!
//! In: a token with its hash. Out: its [`VerifiedToken`], found by the same hash, compared in full and asked for the same
//! things as in the cache behind it. A reference here keeps nothing alive: what the cache pushes out is gone here, too;
//! of it [`PLACES`] times the size of a `VerifiedToken` without what it owns may wait to be replaced, some 3 MiB.
//! A token comes here when it is found in the cache, and every time only where there is room, so that many that take
//! turns do not push one another out.

use std::{
    cell::RefCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{TokenKey, VerifiedToken};

/// Names a cache in the life of the process.
pub(super) fn fresh_cache() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A token that this worker has found in this cache.
pub(super) fn find(
    cache: u64,
    key: &TokenKey<'_>,
    accepts: impl Fn(&VerifiedToken) -> bool,
) -> Option<Arc<VerifiedToken>> {
    NEAR.with_borrow(|near| {
        let set = near.set(cache, key.hash)?;
        let place = set.hashes.iter().position(|hash| *hash == key.hash)?;
        let token = set.tokens.get(place)?.upgrade()?;
        (**token.text() == *key.token && accepts(&token)).then_some(token)
    })
}

/// Notes that a token was found in this cache.
pub(super) fn note(cache: u64, hash: u64, token: &Arc<VerifiedToken>) {
    NEAR.with_borrow_mut(|near| near.note(cache, hash, token));
}

/// A table of one worker.
struct Near {
    /// What all of it was found in.
    cache: u64,
    sets: Vec<Set>,
    /// Counts tokens that found no room.
    waiting: usize,
}

/// Places for tokens whose hashes are alike: one line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Set {
    hashes: [u64; PLACES_IN_SET],
    tokens: [Weak<VerifiedToken>; PLACES_IN_SET],
}

impl Near {
    fn set(&self, cache: u64, hash: u64) -> Option<&Set> {
        if self.cache == cache { self.sets.get(index_of(hash)) } else { None }
    }

    fn note(&mut self, cache: u64, hash: u64, token: &Arc<VerifiedToken>) {
        if self.cache != cache || self.sets.is_empty() {
            self.cache = cache;
            self.sets = (0..SETS).map(|_| Set::default()).collect();
        }
        let Some(set) = self.sets.get_mut(index_of(hash)) else { return };
        // Its own place, if it was pushed out and has come again; else a free one.
        let of = |wanted: u64, hashes: &[u64]| hashes.iter().position(|hash| *hash == wanted);
        let place = of(hash, &set.hashes).or_else(|| of(0, &set.hashes));
        let place = place.or_else(|| {
            self.waiting = self.waiting.wrapping_add(1);
            self.waiting.is_multiple_of(PATIENCE).then_some(self.waiting / PATIENCE % PLACES_IN_SET)
        });
        if let Some(place) = place
            && let (Some(known), Some(reference)) = (set.hashes.get_mut(place), set.tokens.get_mut(place))
        {
            (*known, *reference) = (hash, Arc::downgrade(token));
        }
    }
}

/// The cache's shards and the tables in them take other bits of a hash.
const fn index_of(hash: u64) -> usize {
    (hash >> 24) as usize % SETS
}

thread_local! {
    static NEAR: RefCell<Near> = const { RefCell::new(Near { cache: 0, sets: Vec::new(), waiting: 0 }) };
}

/// Tokens of each worker.
const PLACES: usize = 8_192;
const PLACES_IN_SET: usize = 4;
const SETS: usize = PLACES / PLACES_IN_SET;
/// How many tokens find no room before one takes another's.
const PATIENCE: usize = 16;
