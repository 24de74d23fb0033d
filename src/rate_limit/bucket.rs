//! Token buckets, bounded in number: who may ask at what rate.
//!
//! A bucket is one number, the moment at which it will be full again (GCRA, the "virtual scheduling" algorithm of
//! ITU-T I.371 annex A), so a bucket that is full takes no room at all, and a changed setting applies at once. Where
//! more callers are kept apart than fit, newcomers share buckets: limits get stricter for them, never laxer, and
//! nobody loses a bucket of their own to a crowd.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::RandomState;

use super::Rate;
use crate::clock::Timestamp;

/// Shared by all workers. Locks are held for one look-up, or once in a while for a sweep of one shard.
#[derive(Debug)]
pub(super) struct Buckets {
    shards: Box<[Mutex<Shard>]>,
    shared: AtomicU64,
}

/// Whose bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose {
    /// Their own.
    pub(super) key: u64,
    /// The one that they share with others under the same limit where there is no room for one of their own.
    pub(super) shared: u64,
}

/// What a bucket has left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Left {
    /// Whole requests.
    pub(super) requests: u32,
    /// How long until all are there again.
    pub(super) full_in: Duration,
}

/// A bucket has too little left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Empty {
    /// Until it lets one more through.
    pub(super) wait: Duration,
    full_in: Duration,
}

impl Empty {
    pub(super) fn as_left(self) -> Left {
        Left { requests: 0, full_in: self.full_in }
    }
}

#[derive(Debug, Default)]
struct Shard {
    /// When each bucket is full again, in nanoseconds since the epoch.
    full_at: HashMap<u64, u64, RandomState>,
    /// How many there may be before full ones are looked for.
    sweep_at: usize,
    swept: Timestamp,
}

impl Default for Buckets {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, shared: AtomicU64::new(0) }
    }
}

impl Buckets {
    /// Takes a request's worth from a bucket, if it has that. At most about `max` buckets are kept apart, and a fixed
    /// number of shared ones for each limit.
    pub(super) fn take(&self, whose: Whose, rate: Rate, now: Timestamp, max: usize) -> Result<Left, Empty> {
        let mut shard = self.shard(whose.key);
        if shard.has_room_for(whose.key, now, max.div_ceil(SHARDS)) {
            return self.take_from(shard, whose.key, rate, now);
        }
        drop(shard);
        self.shared.fetch_add(1, Relaxed);
        self.take_from(self.shard(whose.shared), whose.shared, rate, now)
    }

    /// A request that was counted did not happen.
    pub(super) fn give_back(&self, whose: Whose, rate: Rate) {
        let (cost, _) = cost_and_size(rate);
        for key in [whose.key, whose.shared] {
            if let Some(full_at) = self.shard(key).full_at.get_mut(&key) {
                *full_at = full_at.saturating_sub(cost);
                return;
            }
        }
    }

    fn take_from(&self, mut shard: MutexGuard<'_, Shard>, key: u64, rate: Rate, now: Timestamp) -> Result<Left, Empty> {
        let (cost, size) = cost_and_size(rate);
        let moment = nanos(now);
        let full_at = shard.full_at.entry(key);
        // A clock that was set back makes nobody wait for longer than an empty bucket takes.
        let owed = match &full_at {
            Entry::Occupied(full_at) => full_at.get().saturating_sub(moment).min(size),
            Entry::Vacant(_) => 0,
        };
        if owed + cost > size {
            let [wait, full_in] = [owed + cost - size, owed].map(Duration::from_nanos);
            return Err(Empty { wait, full_in });
        }
        full_at.insert_entry(moment.saturating_add(owed + cost));
        let requests = u32::try_from((size - owed - cost) / cost).unwrap_or(u32::MAX);
        Ok(Left { requests, full_in: Duration::from_nanos(owed + cost) })
    }

    /// Buckets that take room.
    pub(super) fn len(&self) -> usize {
        (0..SHARDS).map(|index| self.lock(index).full_at.len()).sum()
    }

    /// Requests that were counted in a shared bucket.
    pub(super) fn shared(&self) -> u64 {
        self.shared.load(Relaxed)
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        self.lock(usize::try_from(key % SHARDS as u64).unwrap_or_default())
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        let shard = &self.shards[index % SHARDS];
        // Nothing panics while it is held.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Whether a bucket is there, or may come.
    fn has_room_for(&mut self, key: u64, now: Timestamp, max: usize) -> bool {
        if self.full_at.contains_key(&key) {
            return true;
        }
        let rested = now.since(self.swept) >= SWEEP_PAUSE || now < self.swept;
        if self.full_at.len() >= self.sweep_at.max(SWEEP_LEAST).min(max) && rested {
            let moment = nanos(now);
            self.full_at.retain(|_, full_at| *full_at > moment);
            self.sweep_at = self.full_at.len() * 2;
            self.swept = now;
        }
        self.full_at.len() < max
    }
}

/// What one request takes from a bucket, and what a full one holds, in nanoseconds of filling.
fn cost_and_size(rate: Rate) -> (u64, u64) {
    let cost = (rate.per.as_nanos() / u128::from(rate.requests.max(1))).clamp(1, u128::from(u64::MAX >> 8));
    let size = (cost * u128::from(rate.requests.max(1))).min(u128::from(u64::MAX >> 4));
    (u64::try_from(cost).unwrap_or(u64::MAX >> 8), u64::try_from(size).unwrap_or(u64::MAX >> 4))
}

fn nanos(now: Timestamp) -> u64 {
    now.unix_millis().saturating_mul(1_000_000)
}

const SHARDS: usize = 64;
/// Below this nothing is swept.
const SWEEP_LEAST: usize = 64;
/// A shard full of callers is not looked through for each of them.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
