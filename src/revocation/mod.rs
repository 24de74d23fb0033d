//! What was revoked before its time: the list that every token is held against (R28).
//!
//! In: "this is void" ([`Target`]), told by an administrator. Out: whether a verified token is struck
//! ([`Revocations::is_struck`]), asked on every request, also for tokens that the cache knows. Local to this process,
//! in force before it is on disk and whether or not the disk takes it, and monotone: what is struck stays struck until
//! no token could bring it any more, and a moment before which everything is void only moves forward, also when the
//! clock steps back.
//!
//! The list is a set of keyed 128-bit names with two times each, 24 bytes an entry, in shards. A name that collides
//! would strike a good token, never free a bad one; the keys are random for each process.
//! A version counts the changes. Whoever found a token unstruck notes the version *from before the look-up*
//! ([`Checked`]), and until it changes that note is the answer: one load and one comparison. Entries are in the list
//! before the version moves, so a note can only be too old, never too new.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use aws_lc_rs::digest;
use hashbrown::{HashTable, hash_table};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    durable::{Batch, Commit, Durable, LoadError, Table},
};

mod pasted;
mod signed;

pub use pasted::{NotAToken, PastedToken};
pub use signed::SigningInput;

/// What is void.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// An API key, by the public part of its text, for good.
    ApiKey {
        /// That part.
        id: Box<str>,
    },
    /// Everything of an issuer that was issued up to the moment of the call.
    Issuer {
        /// Its exact `iss`, which outlives its name in the configuration.
        issuer: Box<str>,
    },
    /// A token by its `jti`, which names it within its issuer.
    Jti {
        /// The exact `iss`.
        issuer: Box<str>,
        /// The exact `jti`.
        jti: Box<str>,
    },
    /// Everything of a subject that was issued up to the moment of the call.
    Subject {
        /// The source of authority (R5).
        realm: Box<str>,
        /// The subject within it.
        subject: Box<str>,
    },
    /// A token by what is signed in it: its signature may have other forms, (r, n−s) for one.
    Token {
        /// SHA-256 of header and payload as signed.
        signing_input: [u8; 32],
    },
}

/// How long an entry has to be remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// This long from the moment that counts.
    For(Duration),
    /// For good.
    Forever,
    /// Up to this moment.
    Until(Timestamp),
}

/// An entry as it is kept on disk, and what an administrator is told of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Struck {
    /// What is void.
    #[serde(flatten)]
    pub target: Target,
    /// When it was struck; of an issuer or subject, what was issued up to then is void. Unix seconds, rounded up.
    pub at: u32,
    /// When the entry ends by itself, in Unix seconds; [`FOREVER`]: never.
    pub until: u32,
}

/// `until` of an entry that does not end.
pub const FOREVER: u32 = u32::MAX;

/// The list holds as many entries as it may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

/// What a token says of itself, once it is verified.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    /// The exact `iss`.
    pub issuer: &'a str,
    /// `jti`.
    pub jti: Option<&'a str>,
    /// Header and payload as signed.
    pub signing_input: &'a SigningInput,
    /// The realm of its subject, and the subject; `None`: it ends with something else that ends with its subject.
    pub subject: Option<(&'a str, &'a str)>,
    /// `iat`.
    pub issued_at: Option<Timestamp>,
    /// Tolerated difference between the issuer's clock and ours.
    pub leeway: Duration,
}

/// The version of the list under which a proof was found unstruck; lives beside the proof.
#[derive(Debug, Default)]
pub struct Checked(AtomicU64);

/// The list.
pub struct Revocations {
    /// Counts changes; 0: nothing was ever struck.
    version: AtomicU64,
    hashers: [RandomState; 2],
    shards: Box<[RwLock<HashTable<Entry>>]>,
    entries: AtomicUsize,
    /// Whether a token was ever struck by what is signed in it. Until then nobody's is hashed.
    knows_signed: AtomicBool,
    next_sweep: AtomicUsize,
    /// The latest moment that was ever told, in milliseconds.
    latest: AtomicU64,
    /// When the whole list was swept for want of room, in seconds.
    swept_whole: AtomicU64,
    /// Makes merging an entry and handing it to the disk one step, so that both go in one order.
    order: Mutex<()>,
    /// `None`: a restart forgets everything.
    durable: Option<Durable>,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Name,
    at: u32,
    until: u32,
}

/// A target's name: two hashes under random keys.
type Name = [u32; 4];

impl Revocations {
    /// The list as it is on disk, or an empty one that a restart forgets. Reads from disk: not for workers.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read as a whole: with a part of it, what was revoked would count again.
    pub fn open(durable: Option<Durable>, now: Timestamp) -> Result<Self, LoadError> {
        let list = Self { durable: durable.clone(), ..Self::new() };
        let Some(durable) = durable else {
            return Ok(list);
        };
        let mut unreadable = 0_u64;
        durable.load(Table::Revocations, |_, record| {
            match serde_json::from_slice(record) {
                Ok(struck) => list.restore(&struck, now),
                Err(_) => unreadable += 1,
            }
            Ok(())
        })?;
        if unreadable > 0 {
            let why = format!("{unreadable} records cannot be read; were they written by a newer version?");
            return Err(LoadError::of_record(Table::Revocations, &why));
        }
        Ok(list)
    }

    /// An empty list that a restart forgets.
    pub fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            hashers: [RandomState::new(), RandomState::new()],
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            entries: AtomicUsize::new(0),
            knows_signed: AtomicBool::new(false),
            next_sweep: AtomicUsize::new(0),
            latest: AtomicU64::new(0),
            swept_whole: AtomicU64::new(0),
            order: Mutex::new(()),
            durable: None,
        }
    }

    /// Whether a restart remembers what is struck.
    pub fn is_durable(&self) -> bool {
        self.durable.as_ref().is_some_and(Durable::survives)
    }

    /// Strikes a target: from this moment on in this process, and for good once the second value, if there is one, is
    /// ready. Striking again never frees anything.
    ///
    /// # Errors
    /// [`Full`] when `limit` entries are there that have not ended.
    pub fn strike(
        &self,
        target: Target,
        now: Timestamp,
        keep: Keep,
        limit: usize,
    ) -> Result<(Struck, Option<Commit<()>>), Full> {
        let _in_order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.name(&target);
        if self.len() >= limit && self.find(name).is_none() {
            self.sweep_all(now);
            if self.len() >= limit {
                return Err(Full);
            }
        }
        let now = self.advance(now);
        let until = match keep {
            Keep::For(duration) => seconds_up(now.plus(duration)),
            Keep::Forever => FOREVER,
            Keep::Until(moment) => seconds_up(moment),
        };
        self.note_kind(&target);
        let (at, until) = self.merge(name, seconds_up(now), until);
        self.version.fetch_add(1, Ordering::AcqRel);
        let struck = Struck { target, at, until };
        let commit = self.durable.as_ref().map(|durable| durable.commit(struck.to_batch()));
        Ok((struck, commit))
    }

    /// Removes from disk what has ended. Reads the whole table: not for workers; once an hour will do.
    ///
    /// # Errors
    /// [`LoadError`] when the disk cannot be read.
    pub fn sweep_disk(&self, now: Timestamp) -> Result<(), LoadError> {
        let Some(durable) = &self.durable else {
            return Ok(());
        };
        let mut ended = Vec::new();
        durable.load(Table::Revocations, |key, _| {
            let until = key.first_chunk().map(|until| u32::from_be_bytes(*until));
            if until.is_some_and(|until| has_ended(until, now)) {
                ended.push(key.to_vec());
            }
            Ok(())
        })?;
        for some in ended.chunks(RECORDS_AT_ONCE) {
            let batch = some.iter().fold(Batch::new(), |batch, key: &Vec<u8>| batch.remove(Table::Revocations, key));
            // Nobody waits for it: what stays is tried again the next time.
            drop(durable.commit(batch));
        }
        Ok(())
    }

    /// Makes memory hold what another process has struck and written. Entries that were swept end here by themselves.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn follow(&self, record: Option<&[u8]>, now: Timestamp) -> Result<(), &'static str> {
        if let Some(record) = record {
            let struck = serde_json::from_slice(record).map_err(|_| "a revocation cannot be read")?;
            self.restore(&struck, now);
        }
        Ok(())
    }

    /// Takes back an entry from disk; one that has ended is passed over.
    fn restore(&self, struck: &Struck, now: Timestamp) {
        self.advance(Timestamp::from_unix_seconds(struck.at.into()));
        if has_ended(struck.until, now) {
            return;
        }
        self.note_kind(&struck.target);
        self.merge(self.name(&struck.target), struck.at, struck.until);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes whenever something is struck. What holds a proof for longer than one request asks again when it does.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether a token is struck. While nothing new is, this is one load and one comparison.
    pub fn is_struck<'a>(&self, checked: &Checked, claims: impl FnOnce() -> Claims<'a>) -> bool {
        self.unless_checked(checked, || self.holds_against(&claims()))
    }

    /// Whether an API key is struck.
    pub fn is_key_struck(&self, checked: &Checked, id: &str) -> bool {
        self.unless_checked(checked, || self.find(self.name_of(API_KEY, id, "")).is_some())
    }

    /// Whether the holder of a client certificate is struck: their moment is not before the one from which on the
    /// certificate is valid. Authorities date certificates back; one that is to count again says a later moment.
    pub fn is_holder_struck(&self, realm: &str, subject: &str, not_before: Timestamp) -> bool {
        if self.version() == 0 {
            return false;
        }
        let entry = self.find(self.name_of(SUBJECT, realm, subject));
        entry.is_some_and(|entry| not_before <= Timestamp::from_unix_seconds(entry.at.into()))
    }

    /// Entries, those included that have ended and were not swept yet.
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether nothing is struck.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the ended entries of the next few shards. Called again and again it goes round the whole list; no lock
    /// is held for more than one shard.
    pub fn sweep(&self, now: Timestamp) {
        self.advance(now);
        for _ in 0..SHARDS_A_SWEEP {
            let next = self.next_sweep.fetch_add(1, Ordering::Relaxed) % self.shards.len();
            if let Some(shard) = self.shards.get(next) {
                self.sweep_shard(shard, now);
            }
        }
    }

    fn unless_checked(&self, checked: &Checked, is_struck: impl FnOnce() -> bool) -> bool {
        let version = self.version.load(Ordering::Acquire);
        if checked.0.load(Ordering::Relaxed) == version {
            return false;
        }
        let struck = is_struck();
        if !struck {
            checked.0.store(version, Ordering::Relaxed);
        }
        struck
    }

    #[cold]
    fn holds_against(&self, claims: &Claims<'_>) -> bool {
        let is_there = |name| self.find(name).is_some();
        // A moment strikes what was issued up to then, whatever the issuer's clock says, and what does not say when.
        let is_before = |name| {
            self.find(name).is_some_and(|entry| {
                let moment = Timestamp::from_unix_seconds(entry.at.into()).plus(claims.leeway);
                claims.issued_at.is_none_or(|issued_at| issued_at <= moment)
            })
        };
        let signed = || self.name_of(TOKEN, claims.signing_input.hash().as_slice(), &[]);
        (self.knows_signed.load(Ordering::Acquire) && is_there(signed()))
            || claims.jti.is_some_and(|jti| is_there(self.name_of(JTI, claims.issuer, jti)))
            || claims.subject.is_some_and(|(realm, subject)| is_before(self.name_of(SUBJECT, realm, subject)))
            || is_before(self.name_of(ISSUER, claims.issuer, ""))
    }

    /// To be called before the target is in the list: whoever sees the version that comes with it must look for it.
    fn note_kind(&self, target: &Target) {
        match target {
            Target::Token { .. } => self.knows_signed.store(true, Ordering::Release),
            Target::ApiKey { .. } | Target::Issuer { .. } | Target::Jti { .. } | Target::Subject { .. } => {}
        }
    }

    fn name(&self, target: &Target) -> Name {
        match target {
            Target::ApiKey { id } => self.name_of(API_KEY, &**id, ""),
            Target::Issuer { issuer } => self.name_of(ISSUER, &**issuer, ""),
            Target::Jti { issuer, jti } => self.name_of(JTI, &**issuer, jti),
            Target::Subject { realm, subject } => self.name_of(SUBJECT, &**realm, subject),
            Target::Token { signing_input } => self.name_of(TOKEN, signing_input.as_slice(), &[]),
        }
    }

    /// Lengths and kinds are part of what is hashed: no two targets are hashed alike.
    fn name_of<T: std::hash::Hash + ?Sized>(&self, kind: u8, first: &T, second: &T) -> Name {
        let [low, high] = self.hashers.each_ref().map(|hasher| hasher.hash_one((kind, first, second)));
        #[expect(clippy::cast_possible_truncation, reason = "halves of 64 bits")]
        let halves = |hash: u64| (hash as u32, (hash >> 32) as u32);
        let ((a, b), (c, d)) = (halves(low), halves(high));
        [a, b, c, d]
    }

    fn find(&self, name: Name) -> Option<Entry> {
        let shard = self.shard(name).read().unwrap_or_else(PoisonError::into_inner);
        shard.find(place(&name), |entry| entry.name == name).copied()
    }

    /// Adds an entry, or moves the one that is there forward; returns its times.
    fn merge(&self, name: Name, at: u32, until: u32) -> (u32, u32) {
        let mut shard = self.shard(name).write().unwrap_or_else(PoisonError::into_inner);
        match shard.entry(place(&name), |entry| entry.name == name, |entry| place(&entry.name)) {
            hash_table::Entry::Occupied(mut there) => {
                let entry = there.get_mut();
                entry.at = entry.at.max(at);
                entry.until = entry.until.max(until);
                (entry.at, entry.until)
            }
            hash_table::Entry::Vacant(free) => {
                free.insert(Entry { name, at, until });
                self.entries.fetch_add(1, Ordering::Relaxed);
                (at, until)
            }
        }
    }

    /// At most once a second: many calls in a row may find the list full.
    fn sweep_all(&self, now: Timestamp) {
        if self.swept_whole.swap(now.unix_seconds(), Ordering::Relaxed) == now.unix_seconds() {
            return;
        }
        self.shards.iter().for_each(|shard| self.sweep_shard(shard, now));
    }

    fn sweep_shard(&self, shard: &RwLock<HashTable<Entry>>, now: Timestamp) {
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.len();
        shard.retain(|entry| !has_ended(entry.until, now));
        self.entries.fetch_sub(before - shard.len(), Ordering::Relaxed);
        if shard.capacity() > 4 * shard.len().max(MIN_CAPACITY) {
            shard.shrink_to_fit(|entry| place(&entry.name));
        }
    }

    /// The latest moment that was ever told: time does not run backwards here. A clock that was ahead by more than
    /// hours was wrong, and what it said is not believed: all later tokens would be struck.
    fn advance(&self, now: Timestamp) -> Timestamp {
        let latest = self.latest.fetch_max(now.unix_millis(), Ordering::AcqRel);
        Timestamp::from_unix_millis(latest).min(now.plus(MAX_CLOCK_STEP)).max(now)
    }

    fn shard(&self, name: Name) -> &RwLock<HashTable<Entry>> {
        #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &self.shards[name[3] as usize % SHARDS]
    }
}

impl Struck {
    /// The record, found again by its end, so that ended ones are told without being read, and its target.
    fn to_batch(&self) -> Batch {
        // Plain data cannot fail to become JSON.
        let target = serde_json::to_vec(&self.target).unwrap_or_default();
        let name = digest::digest(&digest::SHA256, &target);
        let key = [&self.until.to_be_bytes()[..], name.as_ref()].concat();
        Batch::new().put(Table::Revocations, &key, serde_json::to_vec(self).unwrap_or_default())
    }

    /// When the entry ends by itself; `None`: never.
    pub fn ends(&self) -> Option<Timestamp> {
        (self.until != FOREVER).then(|| Timestamp::from_unix_seconds(self.until.into()))
    }

    /// When it was struck, to the second.
    pub fn moment(&self) -> Timestamp {
        Timestamp::from_unix_seconds(self.at.into())
    }
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("entries", &self.len()).finish_non_exhaustive()
    }
}

const fn place(name: &Name) -> u64 {
    name[0] as u64 | (name[1] as u64) << 32
}

const fn has_ended(until: u32, now: Timestamp) -> bool {
    until != FOREVER && until as u64 <= now.unix_seconds()
}

/// Whole seconds, rounded up: never too early.
fn seconds_up(moment: Timestamp) -> u32 {
    u32::try_from(moment.unix_millis().div_ceil(1000)).unwrap_or(FOREVER)
}

/// Kinds of names.
const API_KEY: u8 = 0;
const ISSUER: u8 = 1;
const JTI: u8 = 2;
const SUBJECT: u8 = 3;
const TOKEN: u8 = 4;

/// Parts of the list with a lock each; a sweep holds one of them.
const SHARDS: usize = 64;

/// Shards that one sweep goes through: with a sweep a second, the whole list in eight.
const SHARDS_A_SWEEP: usize = 8;

/// Records that are removed from disk together.
const RECORDS_AT_ONCE: usize = 10_000;

/// Entries of a shard below which it is not made smaller.
const MIN_CAPACITY: usize = 64;

/// How far a clock may have been ahead and still be believed.
const MAX_CLOCK_STEP: Duration = Duration::from_secs(2 * 3600);

#[cfg(test)]
mod tests;
