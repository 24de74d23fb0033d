//! Remembers verified tokens, so that a signature is checked once and not on every request (R23).
//!
//! Key: the exact token bytes, compared in full, under the generation of the issuer's settings and a key of the issuer
//! that still stands; found by a hash with a random key. Value: the [`VerifiedToken`], whose `exp` and `nbf` are judged
//! on every use. Bounded in entries and in bytes. Apart from it, a small table remembers tokens whose signature is
//! wrong under a known key, and no other error.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023): a newcomer waits in a short queue and moves to the long one only when
//! used again, so a flood of tokens that come once leaves those in use alone. What a worker has found before it finds
//! again without a lock ([`near`]); another hit takes one shard's read lock. Either writes at most one bit of the token
//! and counts references to it, so workers that use other tokens do not wait for one another.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{
    jwt::{JwtError, VerifiedToken},
    keys::Generation,
    own::Child,
};
use crate::{
    clock::Timestamp,
    identity::{Field, Identity},
};

mod near;

/// Bounds of a [`TokenCache`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheLimits {
    /// Verified tokens. Zero: none is remembered.
    pub entries: usize,
    /// Bytes of all of them with everything they own, as estimated.
    pub bytes: usize,
    /// Tokens with a wrong signature, each of at most 8 KiB.
    pub wrong_signatures: usize,
}

impl Default for CacheLimits {
    /// 100,000 tokens in 64 MiB (about 25,000 of the usual size), and 1,024 wrong ones.
    fn default() -> Self {
        Self { entries: 100_000, bytes: 64 << 20, wrong_signatures: 1_024 }
    }
}

/// Verified tokens, and wrong ones. Shared by all workers: a token verified by one is known to all.
pub struct TokenCache {
    /// Names it where workers note what they have found in it.
    name: u64,
    hasher: RandomState,
    shards: Box<[Shard]>,
    lookups: Box<[Lookups]>,
    wrong: WrongSignatures,
    dropped_grants: AtomicU64,
}

/// A token with its hash, so that it is hashed once for look-up and insertion.
#[derive(Clone, Copy, Debug)]
pub struct TokenKey<'a> {
    token: &'a [u8],
    hash: u64,
}

/// What is known of a token.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// It was verified, and does not count at this moment: expired, or not yet valid.
    OutOfTime(JwtError),
    /// It was verified, and counts at this moment.
    Verified(Arc<VerifiedToken>),
    /// Its signature was found wrong under this generation.
    WrongSignature(Generation),
}

/// Counts since the start and the present size, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheStatistics {
    /// Look-ups that found a verified token, also one out of its time.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// Look-ups that found a token known to have a wrong signature.
    pub wrong_signature_hits: u64,
    /// Verified tokens pushed out by others.
    pub evictions: u64,
    /// Roles and groups dropped because their issuer may not grant them (R5), counted once for each verification.
    pub dropped_grants: u64,
    /// Verified tokens now.
    pub entries: usize,
    /// Their estimated bytes.
    pub bytes: usize,
}

impl TokenCache {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Self {
        let shards = (limits.entries / ENTRIES_PER_SHARD).min(limits.bytes / BYTES_PER_SHARD);
        let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
        let shard = |_| Shard { store: RwLock::new(Store::new(limits.entries / shards, limits.bytes / shards)) };
        Self {
            name: near::fresh_cache(),
            hasher: RandomState::new(),
            shards: (0..shards).map(shard).collect(),
            lookups: (0..LOOKUP_COUNTERS).map(|_| Lookups::default()).collect(),
            wrong: WrongSignatures::new(limits.wrong_signatures),
            dropped_grants: AtomicU64::new(0),
        }
    }

    /// Prepares a token for the calls below.
    pub fn key<'a>(&self, token: &'a [u8]) -> TokenKey<'a> {
        // No two tokens that were verified end alike: what they end with is their signature.
        let end = token.last_chunk::<HASHED>().map_or(token, <[u8; HASHED]>::as_slice);
        TokenKey { token, hash: self.hasher.hash_one((token.len(), end)) }
    }

    /// What is known of this token: verified under settings that the route accepts with a key that still stands, or
    /// wrong under key sets that it accepts.
    pub fn find(
        &self,
        key: &TokenKey<'_>,
        verified_under: impl Fn(Generation) -> bool,
        wrong_under: impl Fn(Generation) -> bool,
        now: Timestamp,
    ) -> Found {
        // First of all: nothing that is loaded below has to be there for it.
        let lookups = self.lookups();
        lookups.all.fetch_add(1, Ordering::Relaxed);
        let accepts = |verified: &VerifiedToken| verified.key_stands() && verified_under(verified.generation());
        if let Some(verified) = near::find(self.name, key, accepts) {
            return used(verified, now);
        }
        let shared = {
            let store = self.shard(key).store.read().unwrap_or_else(PoisonError::into_inner);
            store.find(key, accepts).map(Arc::clone)
        };
        if let Some(verified) = shared {
            near::note(self.name, key.hash, &verified);
            return used(verified, now);
        }
        if let Some(generation) = self.wrong.find(key, wrong_under) {
            return Found::WrongSignature(generation);
        }
        lookups.misses.fetch_add(1, Ordering::Relaxed);
        Found::Nothing
    }

    /// Remembers a token that has just been verified under its own text. One that would take more than an eighth of its
    /// shard is not.
    pub fn insert(&self, key: &TokenKey<'_>, verified: Arc<VerifiedToken>, now: Timestamp) {
        if verified.dropped_grants() > 0 {
            self.dropped_grants.fetch_add(verified.dropped_grants() as u64, Ordering::Relaxed);
        }
        let bytes = ENTRY_BYTES + key.token.len() + verified_bytes(&verified);
        let entry = Entry { hash: key.hash, bytes, value: verified };
        let gone = self.shard(key).store.write().unwrap_or_else(PoisonError::into_inner).insert(entry, now);
        // Here, where nobody waits for the lock.
        drop(gone);
    }

    /// Remembers that this token's signature is wrong under the key set of this generation.
    pub fn remember_wrong_signature(&self, key: &TokenKey<'_>, generation: Generation) {
        self.wrong.remember(key, generation);
    }

    /// Counts and sizes. Takes each shard's lock in turn.
    pub fn statistics(&self) -> CacheStatistics {
        let count = |of: fn(&Lookups) -> &AtomicU64| {
            self.lookups.iter().map(|lookups| of(lookups).load(Ordering::Relaxed)).sum::<u64>()
        };
        // What is counted later is read earlier: a look-up that goes on meanwhile is none of them.
        let (misses, wrong_signature_hits) = (count(|of| &of.misses), self.wrong.hits.load(Ordering::Relaxed));
        let mut sum = CacheStatistics {
            hits: count(|of| &of.all).saturating_sub(misses + wrong_signature_hits),
            misses,
            wrong_signature_hits,
            dropped_grants: self.dropped_grants.load(Ordering::Relaxed),
            ..CacheStatistics::default()
        };
        for shard in &self.shards {
            let store = shard.store.read().unwrap_or_else(PoisonError::into_inner);
            sum.entries += store.table.len();
            sum.bytes += store.bytes();
            sum.evictions += store.evictions;
        }
        sum
    }

    /// Those of the worker that calls.
    fn lookups(&self) -> &Lookups {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static WORKER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &self.lookups[WORKER.with(|worker| worker % LOOKUP_COUNTERS)]
    }

    fn shard(&self, key: &TokenKey<'_>) -> &Shard {
        // The table inside uses the low bits for the place and the top seven for the tag; these are neither.
        let index = (key.hash >> 40) as usize & (self.shards.len() - 1);
        #[expect(
            clippy::indexing_slicing,
            reason = "the length is a power of two, so the mask keeps the index below it"
        )]
        &self.shards[index]
    }
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.statistics().fmt(f)
    }
}

/// A token that was found, if it counts at this moment.
fn used(verified: Arc<VerifiedToken>, now: Timestamp) -> Found {
    // A token out of its time is not marked: presenting it must not keep it here.
    match verified.check_time(now) {
        Ok(()) => {
            verified.mark_as_used();
            Found::Verified(verified)
        }
        Err(error) => Found::OutOfTime(error),
    }
}

/// A part of the cache with its own lock, on cache lines of its own: what one worker writes to must not slow another
/// one's shard.
#[repr(align(128))]
struct Shard {
    /// Read when a worker meets a token for the first time, written when it is new to all; nothing that waits happens
    /// under it.
    store: RwLock<Store>,
}

/// What one worker has asked, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Lookups {
    all: AtomicU64,
    misses: AtomicU64,
}

/// One shard's tokens in the queues of S3-FIFO.
struct Store {
    entries_max: usize,
    bytes_max: usize,
    /// Everything that is in one of the queues.
    table: HashTable<Known>,
    /// Newcomers: a tenth of all.
    small: Queue,
    /// Those that were used after they came.
    main: Queue,
    /// Hashes of newcomers that were pushed out unused; one that comes back soon goes straight to `main`.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, RandomState>,
    evictions: u64,
}

/// A place in the table: the hash, so that no other token is touched, and nothing between it and the token.
struct Known {
    hash: u64,
    value: Arc<VerifiedToken>,
}

/// Oldest first, and what they weigh.
#[derive(Default)]
struct Queue {
    order: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    hash: u64,
    /// Estimate of everything it owns.
    bytes: usize,
    value: Arc<VerifiedToken>,
}

/// What was pushed out in one call; to be dropped where nobody waits for it.
type Gone = SmallVec<[Entry; 2]>;

impl Store {
    fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            entries_max,
            bytes_max,
            table: HashTable::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::default(),
            evictions: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.small.bytes + self.main.bytes
    }

    fn find(&self, key: &TokenKey<'_>, accepts: impl Fn(&VerifiedToken) -> bool) -> Option<&Arc<VerifiedToken>> {
        let same =
            |known: &Known| known.hash == key.hash && **known.value.text() == *key.token && accepts(&known.value);
        self.table.find(key.hash, same).map(|known| &known.value)
    }

    fn insert(&mut self, entry: Entry, now: Timestamp) -> Gone {
        let mut gone = Gone::new();
        let known = {
            let key = TokenKey { token: entry.value.text(), hash: entry.hash };
            self.find(&key, |other| other.key_stands() && other.generation() == entry.value.generation()).is_some()
        };
        if known || entry.bytes > self.bytes_max / 8 || self.entries_max == 0 {
            return gone;
        }
        while self.table.len() >= self.entries_max || self.bytes() + entry.bytes > self.bytes_max {
            gone.extend(self.make_room(now));
        }
        let known = Known { hash: entry.hash, value: Arc::clone(&entry.value) };
        self.table.insert_unique(entry.hash, known, |known| known.hash);
        let queue = if self.ghost_set.contains(&entry.hash) { &mut self.main } else { &mut self.small };
        queue.bytes += entry.bytes;
        queue.order.push_back(entry);
        gone
    }

    /// Pushes one entry out. Those in use get a second chance, but only so many of them in one call: the lock is held.
    fn make_room(&mut self, now: Timestamp) -> Option<Entry> {
        let mut chances = SECOND_CHANCES;
        loop {
            let from_small = self.main.order.is_empty()
                || self.small.bytes > self.bytes_max / 10
                || self.small.order.len() > self.entries_max / 10;
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let entry = queue.order.pop_front()?;
            queue.bytes -= entry.bytes;
            let counts = entry.value.key_stands() && entry.value.check_time(now).is_ok();
            let used = entry.value.take_mark() && counts;
            if used && chances > 0 {
                chances -= 1;
                self.main.bytes += entry.bytes;
                self.main.order.push_back(entry);
                continue;
            }
            if let Ok(found) = self.table.find_entry(entry.hash, |known| Arc::ptr_eq(&known.value, &entry.value)) {
                found.remove();
            }
            self.evictions += 1;
            if from_small {
                self.remember_ghost(entry.hash);
            }
            return Some(entry);
        }
    }

    fn remember_ghost(&mut self, hash: u64) {
        if self.ghost_set.insert(hash) {
            self.ghosts.push_back(hash);
        }
        while self.ghosts.len() > GHOSTS_PER_ENTRY * self.table.len().max(GHOSTS_MIN) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }
}

/// Tokens whose signature is wrong, each at the place that its hash gives: a new one replaces the old.
struct WrongSignatures {
    /// Held for a comparison or a copy of one token.
    places: Box<[Mutex<Option<Wrong>>]>,
    hits: AtomicU64,
}

struct Wrong {
    token: Box<[u8]>,
    generation: Generation,
}

impl WrongSignatures {
    fn new(entries: usize) -> Self {
        Self { places: (0..entries).map(|_| Mutex::new(None)).collect(), hits: AtomicU64::new(0) }
    }

    fn find(&self, key: &TokenKey<'_>, accepts: impl Fn(Generation) -> bool) -> Option<Generation> {
        let place = self.place(key)?.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = place.as_ref().filter(|wrong| *wrong.token == *key.token && accepts(wrong.generation))?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(wrong.generation)
    }

    fn remember(&self, key: &TokenKey<'_>, generation: Generation) {
        if let Some(place) = self.place(key) {
            let wrong = Some(Wrong { token: key.token.into(), generation });
            *place.lock().unwrap_or_else(PoisonError::into_inner) = wrong;
        }
    }

    fn place(&self, key: &TokenKey<'_>) -> Option<&Mutex<Option<Wrong>>> {
        let index = key.hash.checked_rem(self.places.len() as u64)?;
        self.places.get(usize::try_from(index).ok()?)
    }
}

/// What a verified token owns on the heap, as closely as can be told without asking the allocator.
pub(super) fn verified_bytes(verified: &VerifiedToken) -> usize {
    let identity = verified.identity();
    let fields = [Field::Email, Field::Groups, Field::Id, Field::Name, Field::Roles, Field::Scopes];
    // Once as header value; again in plain form, item by item, where encoding changed it.
    let headers: usize = fields.iter().filter_map(|&field| identity.header(field)).map(|value| 3 * value.len()).sum();
    size_of::<VerifiedToken>()
        + size_of::<Identity>()
        + verified.jti().map_or(0, str::len)
        // What it comes from has an identity of its own.
        + verified.child().map_or(0, |_| size_of::<Child>() + size_of::<Identity>() + headers)
        + headers
        + verified.claims_bytes()
}

/// Bytes of a token that are hashed: within every signature but the shortest, and random.
const HASHED: usize = 64;
/// More shards than this do not make waiting rarer on any machine we know of.
const MAX_SHARDS: usize = 64;
/// Below this, chance fills some shards while others are half empty.
const ENTRIES_PER_SHARD: usize = 512;
/// The same for bytes; and a token that takes more than an eighth of a shard is not kept.
const BYTES_PER_SHARD: usize = 1 << 20;
/// Entries in use that one insertion passes over at most.
const SECOND_CHANCES: usize = 64;
/// How far back a return is noticed, in multiples of the present number of entries.
const GHOSTS_PER_ENTRY: usize = 2;
/// … of which at least so many are assumed.
const GHOSTS_MIN: usize = 64;
/// An entry's places in table and queue, its ghosts, and the counters of its two `Arc`s.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Known>() + 128;
/// More workers than this share counters.
const LOOKUP_COUNTERS: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        authn::signer::now,
        identity::{Factor, IdentityParts, Via},
    };

    fn identity(name: &str, claims: Value) -> Arc<Identity> {
        let identity = Identity::new(IdentityParts {
            realm: Arc::from("staff"),
            subject: name.to_owned(),
            name: None,
            email: None,
            email_verified: false,
            roles: Vec::new(),
            groups: Vec::new(),
            scopes: Vec::new(),
            claims: claims.as_object().cloned().unwrap_or_default(),
            auth_time: None,
            factor: Factor::One,
            via: Via::Jwt(Arc::from("id")),
        });
        Arc::new(identity.unwrap())
    }

    fn verified(generation: Generation, token: &[u8], identity: &Arc<Identity>) -> Arc<VerifiedToken> {
        let expires_at = now().plus(Duration::from_secs(60));
        Arc::new(VerifiedToken::unsigned(Arc::clone(identity), generation, expires_at, token))
    }

    /// Inserts a token of this subject.
    fn insert(cache: &TokenCache, token: &[u8], generation: Generation, name: &str) {
        cache.insert(&cache.key(token), verified(generation, token, &identity(name, Value::Null)), now());
    }

    fn entries(entries: usize) -> TokenCache {
        TokenCache::new(CacheLimits { entries, bytes: 1 << 30, wrong_signatures: 64 })
    }

    fn find(cache: &TokenCache, token: &[u8], generation: Generation) -> Option<Arc<VerifiedToken>> {
        match cache.find(&cache.key(token), |other| other == generation, |other| other == generation, now()) {
            Found::Verified(verified) => Some(verified),
            Found::Nothing | Found::OutOfTime(_) | Found::WrongSignature(_) => None,
        }
    }

    /// Looks a token up and inserts it if it is not there; whether it was there.
    fn use_token(cache: &TokenCache, token: &str, (generation, identity): &(Generation, Arc<Identity>)) -> bool {
        let hit = find(cache, token.as_bytes(), *generation).is_some();
        if !hit {
            cache.insert(&cache.key(token.as_bytes()), verified(*generation, token.as_bytes(), identity), now());
        }
        hit
    }

    #[test]
    fn a_token_is_found_by_its_exact_bytes_and_no_other_token_is() {
        let (cache, generation) = (entries(1_000), Generation::fresh());
        for i in 0..500 {
            let token = format!("token-{i}");
            insert(&cache, token.as_bytes(), generation, &token);
        }

        for i in 0..500 {
            let token = format!("token-{i}");
            assert_eq!(find(&cache, token.as_bytes(), generation).unwrap().identity().subject(), token);
        }
        for stranger in ["token-", "token-500", "token-1 ", "Token-1", ""] {
            assert!(find(&cache, stranger.as_bytes(), generation).is_none(), "{stranger:?}");
        }
    }

    #[test]
    fn tokens_whose_hashes_collide_are_told_apart() {
        let (cache, generation) = (entries(100), Generation::fresh());
        let key = |token| TokenKey { token, hash: 7 };
        for name in ["alice", "bob"] {
            let value = verified(generation, name.as_bytes(), &identity(name, Value::Null));
            cache.insert(&key(name.as_bytes()), value, now());
        }

        let subject = |token| match cache.find(&key(token), |_| true, |_| true, now()) {
            Found::Verified(verified) => Some(verified.identity().subject().to_owned()),
            Found::Nothing | Found::OutOfTime(_) | Found::WrongSignature(_) => None,
        };
        assert_eq!(subject(b"alice").as_deref(), Some("alice"));
        assert_eq!(subject(b"bob").as_deref(), Some("bob"));
        assert_eq!(subject(b"carol"), None);
    }

    #[test]
    fn what_was_verified_under_one_generation_counts_under_no_other() {
        let (cache, one, other) = (entries(100), Generation::fresh(), Generation::fresh());
        insert(&cache, b"token", one, "of-one");
        assert!(find(&cache, b"token", other).is_none());

        insert(&cache, b"token", other, "of-other");
        assert_eq!(find(&cache, b"token", one).unwrap().identity().subject(), "of-one");
        assert_eq!(find(&cache, b"token", other).unwrap().identity().subject(), "of-other");
    }

    #[test]
    fn expiry_is_judged_on_every_hit() {
        let (cache, generation) = (entries(100), Generation::fresh());
        insert(&cache, b"token", generation, "alice");
        let at =
            |seconds| cache.find(&cache.key(b"token"), |_| true, |_| true, now().plus(Duration::from_secs(seconds)));

        assert!(matches!(at(59), Found::Verified(_)));
        assert!(matches!(at(60), Found::OutOfTime(JwtError::Expired)));
        assert!(matches!(at(59), Found::Verified(_)));
    }

    #[test]
    fn a_thousand_hot_tokens_survive_a_flood() {
        let (cache, generation) = (entries(10_000), Generation::fresh());
        let value = (generation, identity("alice", Value::Null));
        let hot: Vec<String> = (0..1_000).map(|i| format!("hot-{i}")).collect();
        for token in hot.iter().chain(&hot) {
            use_token(&cache, token, &value);
        }

        let (mut hits, mut once) = (0, 0);
        for token in hot.iter().cycle().take(20_000) {
            hits += usize::from(use_token(&cache, token, &value));
            for _ in 0..10 {
                use_token(&cache, &format!("once-{once}"), &value);
                once += 1;
            }
        }

        assert!(hits >= 19_800, "{hits} hits of 20,000 in a flood of {once}");
        assert!(cache.statistics().entries <= 10_000, "{cache:?}");
    }

    #[test]
    fn tokens_become_hot_in_the_middle_of_a_flood() {
        let (cache, generation) = (entries(10_000), Generation::fresh());
        let value = (generation, identity("alice", Value::Null));
        let mut once = 0;
        let mut flood = |count| {
            for _ in 0..count {
                use_token(&cache, &format!("once-{once}"), &value);
                once += 1;
            }
        };
        flood(30_000);

        let mut hits = 0;
        for round in 0..10 {
            for i in 0..1_000 {
                hits += usize::from(use_token(&cache, &format!("new-{i}"), &value) && round >= 3);
                flood(8);
            }
        }

        assert!(hits >= 6_930, "{hits} hits of 7,000");
    }

    #[test]
    fn neither_number_nor_bytes_grow_beyond_their_bounds() {
        let generation = Generation::fresh();
        let value = (generation, identity("alice", json!({ "a": ["b", { "c": "d".repeat(500) }] })));
        let few = TokenCache::new(CacheLimits { entries: 100, bytes: 1 << 30, wrong_signatures: 0 });
        let light = TokenCache::new(CacheLimits { entries: 100_000, bytes: 1 << 20, wrong_signatures: 0 });
        let none = TokenCache::new(CacheLimits { entries: 0, bytes: 1 << 20, wrong_signatures: 0 });

        for i in 0..20_000 {
            // Some are used again and again, so that both queues fill.
            for cache in [&few, &light, &none] {
                use_token(cache, &format!("token-{i}"), &value);
                use_token(cache, &format!("token-{}", i % 50), &value);
            }
        }

        assert!(few.statistics().entries <= 100 && few.statistics().entries > 90, "{few:?}");
        assert!(light.statistics().bytes <= 1 << 20 && light.statistics().bytes > 800 << 10, "{light:?}");
        assert_eq!(none.statistics().entries, 0);
        let counted: usize = light.shards.iter().map(|shard| shard.store.read().unwrap().ghosts.len()).sum();
        assert!(counted <= light.shards.len() * GHOSTS_PER_ENTRY * GHOSTS_MIN.max(2 * light.statistics().entries));
    }

    #[test]
    fn a_token_too_large_for_its_shard_is_not_kept() {
        let (cache, generation) = (entries(100), Generation::fresh());
        let small = TokenCache::new(CacheLimits { entries: 100, bytes: 64 << 10, wrong_signatures: 0 });
        let value = verified(generation, b"token", &identity("alice", json!({ "a": "x".repeat(20_000) })));

        for (cache, expect) in [(&cache, true), (&small, false)] {
            cache.insert(&cache.key(b"token"), Arc::clone(&value), now());
            assert_eq!(find(cache, b"token", generation).is_some(), expect);
        }
    }

    #[test]
    fn a_wrong_signature_is_remembered_for_its_token_and_generation_only() {
        let (cache, one, other) = (entries(100), Generation::fresh(), Generation::fresh());
        cache.remember_wrong_signature(&cache.key(b"forged"), one);
        let find = |token, generation| {
            cache.find(&cache.key(token), |other| other == generation, |other| other == generation, now())
        };

        assert!(matches!(find(b"forged", one), Found::WrongSignature(generation) if generation == one));
        assert!(matches!(find(b"forged", other), Found::Nothing));
        assert!(matches!(find(b"forged ", one), Found::Nothing));
        for i in 0..10_000 {
            cache.remember_wrong_signature(&cache.key(format!("forged-{i}").as_bytes()), one);
        }
        assert_eq!(cache.wrong.places.len(), 64);
    }

    #[test]
    fn what_a_worker_has_found_before_it_finds_without_a_word_that_others_write_to() {
        let (cache, generation) = (entries(10_000), Generation::fresh());
        let tokens: Vec<_> = (0..100).map(|i| format!("token-{i}")).collect();
        let value = (generation, identity("alice", Value::Null));
        let lookups = || cache.lookups.iter().filter(|of| of.all.load(Ordering::Relaxed) > 0).count();
        let (told, done) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                // Once to insert each, once to find it where all look for it.
                for token in tokens.iter().chain(&tokens) {
                    use_token(&cache, token, &value);
                }
                let counters = lookups();
                // Whoever takes a lock now never comes back.
                let locks: Vec<_> = cache.shards.iter().map(|shard| shard.store.write()).collect();
                let wrong: Vec<_> = cache.wrong.places.iter().map(|place| place.lock()).collect();
                threads_own(&cache, &tokens, generation);
                drop((locks, wrong));
                told.send(lookups() - counters).unwrap();
            });
            let other_counters = done.recv_timeout(Duration::from_secs(60)).expect("a hit waits for a lock");
            assert_eq!(other_counters, 0, "a hit is counted where others count");
        });

        /// Finds each again; nobody else holds it afterwards, and it has been marked as used before.
        fn threads_own(cache: &TokenCache, tokens: &[String], generation: Generation) {
            for token in tokens {
                let found = find(cache, token.as_bytes(), generation).expect("it was found before");
                assert!(found.take_mark(), "{token}: the mark is there");
                found.mark_as_used();
            }
        }
    }

    #[test]
    fn what_is_near_counts_no_longer_than_what_is_behind_it() {
        let generation = Generation::fresh();
        let found = |cache: &TokenCache, token: &str| find(cache, token.as_bytes(), generation).is_some();
        let near = |cache: &TokenCache, token: &str| {
            near::find(cache.name, &cache.key(token.as_bytes()), |value| value.key_stands()).is_some()
        };
        let known = || {
            let cache = entries(100);
            insert(&cache, b"token", generation, "alice");
            assert!(!near(&cache, "token"), "it was not found yet");
            assert!(found(&cache, "token") && near(&cache, "token"));
            cache
        };

        // Another generation, another time, another cache.
        let cache = known();
        assert!(find(&cache, b"token", Generation::fresh()).is_none());
        assert!(found(&cache, "token"));
        let later = now().plus(Duration::from_secs(60));
        let expired = cache.find(&cache.key(b"token"), |_| true, |_| true, later);
        assert!(matches!(expired, Found::OutOfTime(JwtError::Expired)));
        let other = entries(100);
        let same_hash = TokenKey { token: b"token", hash: cache.key(b"token").hash };
        assert!(matches!(other.find(&same_hash, |_| true, |_| true, now()), Found::Nothing));
        assert!(matches!(cache.find(&same_hash, |_| true, |_| true, now()), Found::Verified(_)));

        // Another text of the same hash.
        let twin = TokenKey { token: b"other", hash: same_hash.hash };
        assert!(matches!(cache.find(&twin, |_| true, |_| true, now()), Found::Nothing));

        // Pushed out: nothing of it is kept alive.
        let cache = known();
        let identity = match cache.find(&cache.key(b"token"), |_| true, |_| true, now()) {
            Found::Verified(verified) => Arc::downgrade(verified.identity()),
            Found::Nothing | Found::OutOfTime(_) | Found::WrongSignature(_) => panic!("it is known"),
        };
        for i in 0..1_000 {
            for _ in 0..2 {
                use_token(&cache, &format!("other-{i}"), &(generation, self::identity("bob", Value::Null)));
            }
        }
        assert!(!found(&cache, "token") && !near(&cache, "token"));
        assert!(identity.upgrade().is_none());
    }

    #[test]
    fn the_key_of_what_is_near_can_be_taken_away() {
        let (cache, generation) = (entries(100), Generation::fresh());
        insert(&cache, b"token", generation, "alice");
        let with = |stands: bool| near::find(cache.name, &cache.key(b"token"), |_| stands).is_some();
        assert!(find(&cache, b"token", generation).is_some());

        assert!(with(true));
        assert!(!with(false));
    }

    #[test]
    fn more_tokens_than_a_worker_has_places_for_are_all_found() {
        let (cache, generation) = (entries(100_000), Generation::fresh());
        let value = (generation, identity("alice", Value::Null));
        let tokens: Vec<_> = (0..20_000).map(|i| format!("token-{i}")).collect();
        tokens.iter().for_each(|token| assert!(!use_token(&cache, token, &value)));

        for _ in 0..3 {
            tokens.iter().for_each(|token| assert!(use_token(&cache, token, &value), "{token}"));
        }
        let near = |token: &&String| near::find(cache.name, &cache.key(token.as_bytes()), |_| true).is_some();
        let near = tokens.iter().filter(near).count();
        assert!((4_000..=8_192).contains(&near), "{near}");
    }

    #[test]
    fn counts_tell_what_happened() {
        let (cache, generation) = (entries(100), Generation::fresh());
        let value = (generation, identity("alice", Value::Null));
        use_token(&cache, "token", &value);
        use_token(&cache, "token", &value);
        cache.remember_wrong_signature(&cache.key(b"forged"), generation);
        find(&cache, b"forged", generation);

        let counts = cache.statistics();
        assert_eq!((counts.hits, counts.misses, counts.wrong_signature_hits, counts.entries), (1, 1, 1, 1));
    }

    #[test]
    fn workers_that_share_it_see_no_wrong_identity() {
        let (cache, generation) = (entries(200), Generation::fresh());
        std::thread::scope(|threads| {
            for seed in 0..4_usize {
                let cache = &cache;
                threads.spawn(move || {
                    for i in 0..5_000 {
                        let token = format!("token-{}", (i * 7 + seed * 13) % 600);
                        match find(cache, token.as_bytes(), generation) {
                            Some(found) => assert_eq!(found.identity().subject(), token),
                            None => insert(cache, token.as_bytes(), generation, &token),
                        }
                    }
                });
            }
        });
        assert!(cache.statistics().entries <= 200);
    }
}
