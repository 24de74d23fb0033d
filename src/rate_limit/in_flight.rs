//! How many requests of each caller are under way. Bounded by what connections can have under way.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ahash::RandomState;
use smallvec::SmallVec;

/// Shared by all workers; locks are held for one look-up.
#[derive(Debug)]
pub(super) struct InFlight(Box<[Mutex<HashMap<u64, u32, RandomState>>]>);

impl Default for InFlight {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

/// One request's places among those under way; given back when it is dropped.
pub struct Slots {
    keys: SmallVec<[u64; 2]>,
    of: Arc<InFlight>,
}

impl Slots {
    pub(super) fn none(of: Arc<InFlight>) -> Self {
        Self { keys: SmallVec::new(), of }
    }

    /// Takes one more place if fewer than `most` are taken.
    pub(super) fn take(&mut self, key: u64, most: u32) -> bool {
        let mut shard = self.of.shard(key);
        let taken = shard.entry(key).or_insert(0);
        if *taken >= most {
            return false;
        }
        *taken += 1;
        drop(shard);
        self.keys.push(key);
        true
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for key in &self.keys {
            if let Entry::Occupied(mut taken) = self.of.shard(*key).entry(*key) {
                *taken.get_mut() -= 1;
                if *taken.get() == 0 {
                    taken.remove();
                }
            }
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slots").field(&self.keys.len()).finish()
    }
}

impl InFlight {
    /// Keys with a request under way.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, u32, RandomState>> {
        let index = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        let shard = &self.0[index];
        // Nothing panics while it is held.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SHARDS: usize = 64;
