//! Which proofs were used: none counts twice (RFC 9449 section 11.1).
//!
//! In: a good proof's key, `jti` and the moment until which it is good. Out: it is new, and remembered until then, or
//! why not. Bounded, and a proof that is still good is never forgotten: when there is no room, newcomers are refused.
//! So that one caller cannot take the room from all, each subject may hold as many proofs as there are places left:
//! one that floods gets half of them at most, two a third each, and whoever comes then still finds room. Keys are
//! easily made, subjects are not, so it is subjects that are counted.
//!
//! Time is a ring of seconds: proofs end with their second, and the hand only moves forward. A proof whose second the
//! hand has passed is refused, since it may have been forgotten: a clock that steps back revives nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use aws_lc_rs::digest;

use super::{super::possession::Thumbprint, proof::MAX_AGE};
use crate::clock::Timestamp;

/// The proofs that were used and are still good.
#[derive(Debug)]
pub(super) struct Replays {
    /// Keyed, so that nobody can aim at one shard.
    hash: RandomState,
    shards: Box<[Mutex<Shard>]>,
    replayed: AtomicU64,
    refused: AtomicU64,
}

/// One use of a proof.
pub(super) struct Use<'a> {
    /// Of the key that signed it.
    pub(super) key: &'a Thumbprint,
    /// `jti`.
    pub(super) id: &'a str,
    /// Whose token it is for.
    pub(super) realm: &'a str,
    /// Whose token it is for, in that realm.
    pub(super) subject: &'a str,
    /// The last moment at which it is good.
    pub(super) until: Timestamp,
}

/// Why a proof does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// No place is left.
    Full,
    /// It was used.
    Known,
    /// This subject has its share.
    Share,
    /// It may have been used and forgotten, because the clock was set back.
    Stale,
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Proofs remembered now.
    pub remembered: usize,
    /// Proofs that came again.
    pub replayed: u64,
    /// Good proofs refused for want of room.
    pub refused: u64,
}

impl Replays {
    /// For about `capacity` proofs: how many shards that is worth stays as it is, for a proof must be found again.
    pub(super) fn new(capacity: usize) -> Self {
        let shards = (capacity / PLACES_PER_SHARD).clamp(1, MAX_SHARDS);
        Self {
            hash: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            replayed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Uses a proof up. `capacity` is that of all shards together.
    pub(super) fn remember(&self, used: &Use<'_>, now: Timestamp, capacity: usize) -> Result<(), Refused> {
        let name = name(used);
        let subject = self.hash.hash_one((used.realm, used.subject));
        // Proofs spread evenly over the shards, and so do those of one subject: each shard judges by itself.
        let shards = self.shards.len();
        let index = usize::try_from(self.hash.hash_one(name) % shards as u64).unwrap_or_default();
        let Some(shard) = self.shards.get(index) else { return Err(Refused::Full) };
        let remembered = lock(shard).remember(name, subject, used.until, now, capacity / shards);
        match remembered {
            Ok(()) | Err(Refused::Stale) => {}
            Err(Refused::Known) => _ = self.replayed.fetch_add(1, Relaxed),
            Err(Refused::Full | Refused::Share) => _ = self.refused.fetch_add(1, Relaxed),
        }
        remembered
    }

    pub(super) fn statistics(&self, now: Timestamp) -> Statistics {
        let remembered = |shard| {
            let mut shard = lock(shard);
            shard.sweep(now);
            shard.names.len()
        };
        Statistics {
            remembered: self.shards.iter().map(remembered).sum(),
            replayed: self.replayed.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Nothing panics while it is held.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of the proofs with its own lock, held for a few look-ups.
#[derive(Debug, Default)]
struct Shard {
    names: HashSet<Name, RandomState>,
    /// How many each subject holds here.
    held: HashMap<u64, u32, RandomState>,
    /// By the second in which they end.
    ends: Ring,
    /// Every proof that ended in this second or before is gone.
    hand: u64,
}

/// One list for each second that a proof may still be good.
#[derive(Debug)]
struct Ring([Vec<(Name, u64)>; SECONDS]);

impl Default for Ring {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Vec::new()))
    }
}

impl Ring {
    fn second(&mut self, second: u64) -> Option<&mut Vec<(Name, u64)>> {
        self.0.get_mut(usize::try_from(second % SECONDS as u64).ok()?)
    }
}

impl Shard {
    fn remember(
        &mut self,
        name: Name,
        subject: u64,
        until: Timestamp,
        now: Timestamp,
        capacity: usize,
    ) -> Result<(), Refused> {
        self.sweep(now);
        // It is good in the second of `until`, too, and forgotten when that is over.
        let end = until.unix_seconds() + 1;
        if end <= self.hand || end - self.hand >= SECONDS as u64 {
            return Err(Refused::Stale);
        }
        if self.names.contains(&name) {
            return Err(Refused::Known);
        }
        let left = capacity.saturating_sub(self.names.len());
        if left == 0 {
            return Err(Refused::Full);
        }
        let held = self.held.entry(subject).or_default();
        if *held as usize >= left {
            return Err(Refused::Share);
        }
        *held += 1;
        self.names.insert(name);
        if let Some(list) = self.ends.second(end) {
            list.push((name, subject));
        }
        Ok(())
    }

    /// Lets go of what ended until now.
    fn sweep(&mut self, now: Timestamp) {
        let now = now.unix_seconds();
        // Once round is everything, however long nobody came.
        let from = (self.hand + 1).max(now.saturating_sub(SECONDS as u64 - 1));
        for second in from..=now {
            let over = self.ends.second(second).map(std::mem::take).unwrap_or_default();
            for (name, subject) in over {
                self.names.remove(&name);
                if let Some(held) = self.held.get_mut(&subject) {
                    *held -= 1;
                    if *held == 0 {
                        self.held.remove(&subject);
                    }
                }
            }
        }
        self.hand = self.hand.max(now);
        if self.names.is_empty() && self.names.capacity() > SPARE {
            self.names.shrink_to(SPARE);
            self.held.shrink_to(SPARE);
        }
    }
}

/// Half of SHA-256: nobody finds two proofs with the same one.
type Name = [u8; 16];

fn name(used: &Use<'_>) -> Name {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(used.key);
    context.update(used.id.as_bytes());
    let mut name = Name::default();
    name.iter_mut().zip(context.finish().as_ref()).for_each(|(name, byte)| *name = *byte);
    name
}

/// More than a proof can be good from the earliest to the latest moment: twice [`MAX_AGE`].
const SECONDS: usize = 128;
const _: () = assert!(SECONDS as u64 > 2 * MAX_AGE.as_secs() + 2);

const MAX_SHARDS: usize = 16;

/// Below this many places a shard is not worth its lock.
const PLACES_PER_SHARD: usize = 4096;

/// Places that an empty shard keeps.
const SPARE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const KEY: Thumbprint = [7; 32];

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn used<'a>(id: &'a str, subject: &'a str, until: Timestamp) -> Use<'a> {
        Use { key: &KEY, id, realm: "staff", subject, until }
    }

    #[test]
    fn a_proof_counts_once_for_as_long_as_it_is_good() {
        let replays = Replays::new(100);
        let at = |now| replays.remember(&used("a", "alice", later(60)), now, 100);

        assert_eq!(at(NOW), Ok(()));
        assert_eq!(at(NOW), Err(Refused::Known));
        assert_eq!(at(later(60)), Err(Refused::Known));
        assert_eq!(at(Timestamp::from_unix_millis(later(60).unix_millis() + 999)), Err(Refused::Known));
        assert_eq!(at(later(61)), Err(Refused::Stale));
        assert_eq!(replays.statistics(later(61)), Statistics { remembered: 0, replayed: 3, refused: 0 });
    }

    #[test]
    fn proofs_are_told_apart_by_key_and_name() {
        let replays = Replays::new(100);
        let other = Use { key: &[8; 32], ..used("a", "alice", later(60)) };

        assert_eq!(replays.remember(&used("a", "alice", later(60)), NOW, 100), Ok(()));
        assert_eq!(replays.remember(&other, NOW, 100), Ok(()));
        assert_eq!(replays.remember(&used("b", "alice", later(60)), NOW, 100), Ok(()));
        assert_eq!(replays.remember(&used("a", "bob", later(60)), NOW, 100), Err(Refused::Known), "whosever it is");
    }

    #[test]
    fn a_clock_that_steps_back_revives_nothing() {
        let replays = Replays::new(100);
        let proof = used("a", "alice", later(60));
        assert_eq!(replays.remember(&proof, NOW, 100), Ok(()));
        assert_eq!(replays.remember(&used("b", "alice", later(121)), later(61), 100), Ok(()));

        assert_eq!(replays.remember(&proof, later(30), 100), Err(Refused::Stale));
        assert_eq!(replays.remember(&used("c", "alice", later(90)), later(30), 100), Ok(()), "new ones count");
    }

    #[test]
    fn one_subject_cannot_take_the_room_of_all() {
        let replays = Replays::new(100);
        let ids: Vec<String> = (0..200).map(|id| id.to_string()).collect();
        let flood = |subject: &str| {
            let taken = ids.iter().map(|id| {
                let id = format!("{subject}{id}");
                replays.remember(&used(&id, subject, later(60)), NOW, 90)
            });
            taken.filter(|result| result.is_ok()).count()
        };

        assert_eq!(flood("mallory"), 45);
        assert_eq!(replays.remember(&used("x", "mallory", later(60)), NOW, 90), Err(Refused::Share));
        assert_eq!(flood("eve"), 23);
        assert_eq!(replays.remember(&used("a", "alice", later(60)), NOW, 90), Ok(()));
        assert_eq!(replays.remember(&used("x", "mallory", later(121)), later(61), 90), Ok(()), "the share comes back");
    }

    #[test]
    fn a_full_store_forgets_nothing_that_is_good() {
        let replays = Replays::new(100);
        let ids: Vec<String> = (0..10).map(|id| id.to_string()).collect();
        for id in &ids {
            assert_eq!(replays.remember(&used(id, id, later(60)), NOW, 10), Ok(()));
        }

        assert_eq!(replays.remember(&used("new", "alice", later(60)), NOW, 10), Err(Refused::Full));
        for id in &ids {
            assert_eq!(replays.remember(&used(id, id, later(60)), NOW, 10), Err(Refused::Known));
        }
        assert_eq!(replays.remember(&used("new", "alice", later(100)), later(61), 10), Ok(()));
        assert_eq!(replays.statistics(later(61)), Statistics { remembered: 1, replayed: 10, refused: 1 });
    }

    proptest! {
        /// Against a list of all that were ever used: however the clock is set, none counts twice.
        #[test]
        fn no_proof_counts_twice(
            steps in proptest::collection::vec((0u8..12, 0u64..121, 0u64..100, any::<bool>()), 1..200),
        ) {
            let replays = Replays::new(100);
            let (mut now, mut before) = (NOW, HashSet::new());
            for (id, ahead, step, back) in steps {
                now = if back { now.minus(Duration::from_secs(step)) } else { now.plus(Duration::from_secs(step)) };
                let until = now.plus(Duration::from_secs(ahead));
                if replays.remember(&used(&id.to_string(), "alice", until), now, 1000).is_ok() {
                    prop_assert!(before.insert((id, until)), "{id} until {until:?} at {now:?}");
                }
            }
        }
    }
}
