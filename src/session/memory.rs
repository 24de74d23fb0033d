//! Sessions in this process: a hash table for tokens, an index by subject, and what waits for an old cookie.
//!
//! The table holds one pointer for each session and compares the key behind it: nine bytes a slot. It is cut into 256
//! segments by the first byte of the key, each a small sharded map: a sweep or a listing takes one segment at a time,
//! and locks a thousandth of the store at most. Look-ups take one shard's read lock for one probe.
//!
//! Order of locks: exchanged → subject index → table or crowd; none is taken while a later one is held. A session is in
//! the table exactly from `insert` to `remove`, both counted; who takes it out of the table is who ended it.

use std::{
    borrow::Borrow,
    collections::{HashMap, VecDeque},
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use arc_swap::ArcSwap;
use dashmap::{DashMap, Entry};
use smallvec::SmallVec;

use super::{
    BuildKeyHasher, Legacy, Lookup, NEVER_SEEN, OldCookie, OpenError, Opening, Retired, Session, SessionKey,
    SessionToken, Settings,
    crowd::Crowd,
    evicted::{self, Limit},
    expired::{Expired, Owner},
    identity_bytes,
    record::Restored,
    seen::{self, Seen},
};
use crate::{clock::Timestamp, durable::Batch, identity::Identity, telemetry::audit::Audit};

/// The store in memory. See [`super::Store`] for what its functions promise.
pub struct MemoryStore {
    segments: Box<[Segment]>,
    subjects: DashMap<u64, Sessions, BuildKeyHasher>,
    subject_hash: RandomState,
    crowd: Crowd,
    count: AtomicUsize,
    next_sweep: AtomicUsize,
    evictions: AtomicU64,
    legacy: LegacySessions,
    expired: Expired,
    /// Where evictions are told.
    audit: OnceLock<Audit>,
    /// `None`: nobody would hear of it.
    disk: Option<Disk>,
}

/// What the disk has to hear of.
struct Disk {
    /// Keys of sessions that went out of the table. A plain lock, held for a push; taken last.
    gone: Mutex<Vec<SessionKey>>,
    /// A bit for each first two bytes of a key: whether a session with that beginning was seen or has gone since the
    /// disk was told.
    changed: Box<[AtomicU64]>,
    next_segment: AtomicUsize,
}

type Segment = DashMap<ByKey, (), BuildKeyHasher>;

/// A session in the table, hashed and compared by its key.
struct ByKey(Arc<Session>);

/// The sessions of all subjects with one hash: nearly always of one subject, and mostly one.
enum Sessions {
    One(Arc<Session>),
    #[expect(clippy::box_collection, reason = "an entry of the index is two words for the many who have one session")]
    Many(Box<Vec<Arc<Session>>>),
}

/// What waits for old cookies, and what has just been exchanged.
struct LegacySessions {
    waiting: AtomicUsize,
    /// How many are in `exchanged`, for those who do not hold its lock.
    recent: AtomicUsize,
    cookies: ArcSwap<Vec<Box<str>>>,
    /// A plain lock, taken before those of index and table: for requests that bring an old cookie, and for imports.
    exchanged: Mutex<Recent>,
}

/// Exchanges of the last minute, oldest first in `order`.
#[derive(Default)]
struct Recent {
    by_key: HashMap<SessionKey, Weak<Session>, BuildKeyHasher>,
    order: VecDeque<(Timestamp, SessionKey)>,
}

/// Which sessions end so that another can be opened.
pub(super) struct Ending {
    /// All of them; first those of its subject that are too many.
    pub(super) keys: Vec<SessionKey>,
    /// How many these are.
    pub(super) surplus: usize,
    /// The one among them that is of somebody who has the most.
    pub(super) evicted: Option<SessionKey>,
}

/// When a session begins and ends in any case.
#[derive(Clone, Copy)]
struct Life {
    created: Timestamp,
    expires: Timestamp,
}

impl MemoryStore {
    /// Different names of old cookies that a store looks for.
    pub const MAX_LEGACY_COOKIES: usize = 8;

    /// Parts of the store that are swept, listed and told to the disk one at a time.
    pub const SEGMENTS: usize = 256;

    /// An empty store.
    pub fn new() -> Self {
        let segment = |_| DashMap::with_hasher_and_shard_amount(BuildKeyHasher::default(), SHARDS_OF_SEGMENT);
        Self {
            segments: (0..SEGMENTS).map(segment).collect(),
            subjects: DashMap::with_hasher_and_shard_amount(BuildKeyHasher::default(), SHARDS_OF_SUBJECTS),
            subject_hash: RandomState::new(),
            crowd: Crowd::default(),
            count: AtomicUsize::new(0),
            next_sweep: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
            expired: Expired::default(),
            audit: OnceLock::new(),
            legacy: LegacySessions {
                waiting: AtomicUsize::new(0),
                recent: AtomicUsize::new(0),
                cookies: ArcSwap::default(),
                exchanged: Mutex::default(),
            },
            disk: None,
        }
    }

    /// An empty store that remembers what a disk has to hear of.
    pub(super) fn with_disk() -> Self {
        Self { disk: Some(Disk::new()), ..Self::new() }
    }

    /// Puts a session back that is on disk, unless it has expired. Several threads may do so at once.
    pub(super) fn restore(&self, restored: Restored, seen: &Seen, settings: &Settings, now: Timestamp) {
        let Restored { key, identity, created, expires, waits_for, opened_from, remembered } = restored;
        let last_seen = match &waits_for {
            Some(_) => NEVER_SEEN,
            None => seen.of(&key).unwrap_or(0).max(seen_at(created)),
        };
        let session = Arc::new(Session {
            key,
            last_seen: AtomicU64::new(last_seen),
            created,
            expires,
            identity,
            opened_from: opened_from.map(Box::new),
            remembered,
        });
        if session.is_expired(settings, now) {
            self.note_gone(&key);
            return;
        }
        if let Some(cookie) = &waits_for {
            // The limit held when it was imported.
            let _ = self.legacy.add_cookie(cookie);
            self.legacy.waiting.fetch_add(1, Ordering::AcqRel);
        }
        self.try_insert(&session, 0, settings);
    }

    /// A session was seen: the disk will hear of it.
    pub(super) fn note_seen(&self, key: &SessionKey) {
        if let Some(disk) = &self.disk {
            disk.mark(key);
        }
    }

    /// The keys of sessions that went since the last call, but not of those that waited for an old cookie: such a key
    /// may come again, and what ends them tells the disk itself.
    pub(super) fn take_gone(&self) -> Vec<SessionKey> {
        self.disk.as_ref().map(|disk| std::mem::take(&mut *disk.gone())).unwrap_or_default()
    }

    /// When the sessions of the next segment were last seen, where that changed. Where nobody was seen and nobody went,
    /// it looks at no session.
    pub(super) fn take_seen(&self) -> Batch {
        let Some(disk) = &self.disk else {
            return Batch::new();
        };
        let at = disk.next_segment.fetch_add(1, Ordering::Relaxed) % SEGMENTS;
        // Before the times are read: what is noted from here on marks its group again.
        let changed = disk.take_changed(at);
        if changed == [0; WORDS_OF_SEGMENT] {
            return Batch::new();
        }
        let has_changed = |second: u8| {
            let (word, bit) = Disk::place(second);
            changed[word] & bit != 0
        };
        let mut sessions: Vec<_> = self.segments[at]
            .iter()
            .filter(|entry| has_changed(entry.key().0.key().bytes()[1]))
            .filter_map(|entry| seen::entry(&entry.key().0))
            .collect();
        let segment = u8::try_from(at).unwrap_or(u8::MAX);
        seen::write(Batch::new(), segment, &mut sessions, has_changed)
    }

    /// A session of ours that is not in the store yet.
    pub(super) fn prepare(
        key: SessionKey,
        opening: Opening,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Arc<Session>, OpenError> {
        let Opening { identity, from, remembered } = opening;
        fitting(&identity, settings)?;
        let Life { created, expires } = Life::starting(now, None, settings);
        Ok(Arc::new(Session {
            key,
            last_seen: AtomicU64::new(seen_at(now)),
            created,
            expires: remembered.map_or(expires, |lifetime| now.plus(lifetime)),
            identity,
            opened_from: from.map(Box::new),
            remembered: remembered.is_some(),
        }))
    }

    /// A session that will wait for an old cookie, and is not in the store yet.
    pub(super) fn prepare_legacy(
        &self,
        legacy: &Legacy,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Arc<Session>, OpenError> {
        self.legacy.add_cookie(&legacy.cookie)?;
        fitting(&legacy.identity, settings)?;
        let Life { created, expires } = Life::starting(now, legacy.expires, settings);
        let key = SessionKey::of_legacy(&legacy.cookie, &legacy.sha256);
        let identity = Arc::clone(&legacy.identity);
        Ok(Arc::new(Session {
            key,
            last_seen: AtomicU64::new(NEVER_SEEN),
            created,
            expires,
            identity,
            opened_from: None,
            remembered: false,
        }))
    }

    /// What takes the place of a session that waited.
    pub(super) fn successor(waiting: &Session, key: SessionKey, settings: &Settings, now: Timestamp) -> Arc<Session> {
        Arc::new(Session {
            key,
            last_seen: AtomicU64::new(seen_at(now)),
            created: waiting.created(),
            expires: waiting.expires(settings),
            identity: Arc::clone(waiting.identity()),
            opened_from: None,
            remembered: false,
        })
    }

    /// Whether a session finds room, and which sessions end for it: `replaced`, those of its subject that are too
    /// many, and where the store is full besides one of somebody who has the most.
    pub(super) fn room_for(
        &self,
        session: &Session,
        replaced: Option<&SessionKey>,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Ending, OpenError> {
        let mut theirs = self.of_subject(session.identity().realm(), session.identity().subject());
        // An import takes the place of an earlier one with the same key, whose record is written over.
        let again = theirs.iter().any(|other| other.key() == session.key());
        theirs.retain(|other| other.key() != session.key() && Some(other.key()) != replaced);
        let surplus = (theirs.len() + 1).saturating_sub(settings.max_per_user.max(1));
        let mut keys: Vec<_> = theirs.iter().take(surplus).map(|other| *other.key()).collect();
        keys.extend(replaced);
        let full = || self.len() >= settings.max_sessions;
        let gives_one_up = || again || keys.iter().any(|key| self.find(key).is_some());
        let mut evicted = None;
        if full() && !gives_one_up() {
            // The sweeper is never far behind, so a part of the store is all that is looked at.
            self.sweep_table(settings, now, SWEEP_WHEN_FULL);
            if full() {
                evicted = Some(*self.most_crowded(session).ok_or(OpenError::Full)?.key());
            }
        }
        keys.extend(evicted);
        Ok(Ending { keys, surplus: surplus.min(theirs.len()), evicted })
    }

    /// The oldest session of somebody who has the most, if that is more than one; of the newcomer's own subject, if
    /// nobody has more than that.
    fn most_crowded(&self, newcomer: &Session) -> Option<Arc<Session>> {
        let own = newcomer.identity();
        let own = self.hash_subject(own.realm(), own.subject());
        // Whoever it is may have fewer by the time we look; then there is somebody else, or nobody.
        (0..LOOKS_FOR_CROWD).find_map(|_| {
            let (most, subject) = self.crowd.most()?;
            let oldest = |subject| self.subjects.get(&subject).and_then(|sessions| sessions.oldest_of_most(most));
            oldest(own).or_else(|| oldest(subject))
        })
    }

    /// Where evictions are told from now on.
    pub(super) fn tell(&self, audit: Audit) {
        // Who comes second changes nothing: one log is as good as the other.
        let _ = self.audit.set(audit);
    }

    /// Sessions that ended to make room for others in a full store.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    pub(super) fn lookup(&self, token: &SessionToken, settings: &Settings, now: Timestamp) -> Lookup {
        let key = token.key();
        let Some(mut session) = self.find(&key) else {
            return Lookup::Absent;
        };
        while session.is_expired(settings, now) {
            // It may have got another identity while we looked (`renew`), and another one again: what is there counts.
            match self.find(&key) {
                Some(there) if session.is_ended() && !Arc::ptr_eq(&there, &session) => session = there,
                Some(_) | None => {
                    self.end_if_expired(&key, settings, now);
                    return Lookup::Absent;
                }
            }
        }
        Lookup::Found(session)
    }

    pub(super) fn end(&self, key: &SessionKey) -> bool {
        let Some(session) = self.remove(key) else {
            return false;
        };
        self.forget(&session);
        true
    }

    pub(super) fn renew(&self, old: &Arc<Session>, identity: Arc<Identity>) -> bool {
        if !old.is_of(identity.realm(), identity.subject()) {
            return false;
        }
        let (realm, subject) = (identity.realm(), identity.subject());
        let Entry::Occupied(mut entry) = self.subjects.entry(self.hash_subject(realm, subject)) else {
            return false;
        };
        let sessions = entry.get_mut();
        let new = Arc::new(Session {
            key: old.key,
            last_seen: AtomicU64::new(old.last_seen.load(Ordering::Relaxed)),
            created: old.created,
            expires: old.expires,
            identity,
            opened_from: old.opened_from.clone(),
            remembered: old.remembered,
        });
        // One slot, one lock: whoever looks finds the one or the other.
        let Entry::Occupied(slot) = self.segment(&old.key).entry(ByKey(Arc::clone(&new))) else {
            return false;
        };
        if !Arc::ptr_eq(&slot.key().0, old) {
            return false;
        }
        slot.replace_entry(());
        old.retire();
        // As many as before: the crowd need not hear of it.
        sessions.take(|session| Arc::ptr_eq(session, old));
        sessions.push(new);
        true
    }

    pub(super) fn end_subject(&self, realm: &str, subject: &str) -> Vec<SessionKey> {
        let mut ended = Vec::new();
        // The emptied entry goes under the same lock, so that a session opened meanwhile is not lost with it.
        let hash = self.hash_subject(realm, subject);
        self.subjects.remove_if_mut(&hash, |_, sessions| {
            self.counted(hash, sessions, |sessions| ended = sessions.take(|session| session.is_of(realm, subject)));
            sessions.is_empty()
        });
        ended.iter().filter(|session| self.remove_this(session)).map(|session| *session.key()).collect()
    }

    pub(super) fn of_subject(&self, realm: &str, subject: &str) -> Vec<Arc<Session>> {
        let Some(entry) = self.subjects.get(&self.hash_subject(realm, subject)) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entry.iter().filter(|session| session.is_of(realm, subject)).cloned().collect();
        drop(entry);
        found.sort_by_key(|session| session.created());
        found
    }

    pub(super) fn list(&self, after: Option<SessionKey>, limit: usize) -> Vec<Arc<Session>> {
        let mut page = Vec::new();
        let first = after.map_or(0, |key| key.segment());
        for segment in self.segments.iter().skip(first) {
            if page.len() >= limit {
                break;
            }
            let start = page.len();
            let sessions = segment.iter().map(|entry| Arc::clone(&entry.key().0));
            page.extend(sessions.filter(|session| after.is_none_or(|after| *session.key() > after)));
            page[start..].sort_unstable_by_key(|session| *session.key());
        }
        page.truncate(limit);
        page
    }

    pub(super) fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        self.segment(key).get(key).map(|entry| Arc::clone(&entry.key().0))
    }

    pub(super) fn recently_expired(&self, key: &SessionKey, now: Timestamp) -> Option<Owner> {
        self.expired.owner(key, now)
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn sweep(&self, settings: &Settings, now: Timestamp, budget: usize) -> usize {
        self.legacy.forget_old(&mut self.legacy.lock(), now);
        self.sweep_table(settings, now, budget)
    }

    fn sweep_table(&self, settings: &Settings, now: Timestamp, budget: usize) -> usize {
        let (mut seen, mut ended) = (0, 0);
        let mut expired: SmallVec<[SessionKey; 32]> = SmallVec::new();
        for _ in 0..SEGMENTS {
            let segment = &self.segments[self.next_sweep.fetch_add(1, Ordering::Relaxed) % SEGMENTS];
            for entry in segment.iter() {
                seen += 1;
                if entry.key().0.is_expired(settings, now) {
                    expired.push(*entry.key().0.key());
                }
            }
            ended += expired.drain(..).filter(|key| self.end_if_expired(key, settings, now)).count();
            if seen >= budget {
                break;
            }
        }
        ended
    }

    /// Puts a session into the store that waits for its old cookie. A second import of the same cookie replaces the
    /// first.
    pub(super) fn insert_legacy(
        &self,
        session: &Arc<Session>,
        ending: &Ending,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>, OpenError> {
        // Under the lock, or two at once would both find nothing to replace, and one key would be counted twice.
        let _one_at_a_time = self.legacy.lock();
        let keys = ending.keys.iter().copied().chain([*session.key()]).collect();
        let ending = Ending { keys, ..*ending };
        self.legacy.waiting.fetch_add(1, Ordering::AcqRel);
        self.insert(session, &ending, settings, now).inspect_err(|_| {
            self.legacy.waiting.fetch_sub(1, Ordering::AcqRel);
        })
    }

    pub(super) fn legacy_cookies(&self) -> Option<Arc<Vec<Box<str>>>> {
        let counts = [&self.legacy.waiting, &self.legacy.recent];
        let idle = counts.iter().all(|count| count.load(Ordering::Relaxed) == 0);
        (!idle).then(|| self.legacy.cookies.load_full())
    }

    pub(super) fn lookup_legacy(
        &self,
        cookie: &str,
        value: &[u8],
        settings: &Settings,
        now: Timestamp,
    ) -> Option<OldCookie> {
        let key = SessionKey::of_legacy(cookie, SessionKey::of(value).bytes());
        let mut recent = self.legacy.lock();
        self.legacy.forget_old(&mut recent, now);
        if let Some(session) = recent.by_key.get(&key).and_then(Weak::upgrade) {
            return (!session.is_expired(settings, now)).then_some(OldCookie::Exchanged(session));
        }
        let waiting = self.find(&key)?;
        if waiting.is_expired(settings, now) {
            self.end(&key);
            return None;
        }
        Some(OldCookie::Waiting(waiting))
    }

    /// Puts a session in the place of one that waited, and answers with what is there now: another one, if another
    /// request was faster; `None`, if it has ended meanwhile.
    pub(super) fn exchange_legacy(
        &self,
        waiting: &Arc<Session>,
        session: &Arc<Session>,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let mut recent = self.legacy.lock();
        if self.replace(waiting, session) {
            self.legacy.remember(&mut recent, *waiting.key(), session, now.plus(EXCHANGE_GRACE));
        }
        recent.by_key.get(waiting.key()).and_then(Weak::upgrade)
    }

    /// Puts a session into the store, in the place of those that end for it (see [`Self::room_for`]). Answers which
    /// others ended besides, because more came at the same time.
    pub(super) fn insert(
        &self,
        session: &Arc<Session>,
        ending: &Ending,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>, OpenError> {
        let tell = |ended: &Session, limit| {
            if let Some(audit) = self.audit.get() {
                evicted::tell(audit, ended, limit, session, now);
            }
        };
        // The one more that a subject has is its oldest, whoever came first.
        let keys = |surplus: Vec<Arc<Session>>| -> Vec<SessionKey> {
            surplus.iter().inspect(|ended| tell(ended, Limit::PerUser)).map(|ended| *ended.key()).collect()
        };
        let mut places = 0;
        for (number, key) in ending.keys.iter().enumerate() {
            let Some(ended) = self.give_up(key) else { continue };
            places += 1;
            if ending.evicted == Some(*key) {
                self.evictions.fetch_add(1, Ordering::Relaxed);
                tell(&ended, Limit::Store);
            } else if number < ending.surplus {
                tell(&ended, Limit::PerUser);
            }
        }
        if let Some(ended) = self.try_insert(session, places, settings) {
            return Ok(keys(ended));
        }
        // Full: others were faster.
        if self.sweep_table(settings, now, SWEEP_WHEN_FULL) > 0
            && let Some(ended) = self.try_insert(session, 0, settings)
        {
            return Ok(keys(ended));
        }
        for _ in 0..LOOKS_FOR_CROWD {
            let victim = *self.most_crowded(session).ok_or(OpenError::Full)?.key();
            if let Some(ended) = self.give_up(&victim) {
                self.evictions.fetch_add(1, Ordering::Relaxed);
                tell(&ended, Limit::Store);
                // With a place of its own it is not refused.
                let ended = self.try_insert(session, 1, settings).ok_or(OpenError::Full)?;
                return Ok(keys(ended).into_iter().chain([victim]).collect());
            }
        }
        Err(OpenError::Full)
    }

    /// Puts a session into table and index under the subject's lock, so that ending a subject and opening a session
    /// of it come one after the other. `places`: of sessions that were given up for it. Answers which sessions of the
    /// subject ended because they were too many; `None`: no room.
    fn try_insert(&self, session: &Arc<Session>, mut places: usize, settings: &Settings) -> Option<Vec<Arc<Session>>> {
        let identity = session.identity();
        let (realm, subject) = (identity.realm(), identity.subject());
        let hash = self.hash_subject(realm, subject);
        let mut ended = Vec::new();
        match self.subjects.entry(hash) {
            Entry::Vacant(entry) => {
                if !self.take_place(places, settings.max_sessions) {
                    return None;
                }
                self.segment(session.key()).insert(ByKey(Arc::clone(session)), ());
                entry.insert(Sessions::One(Arc::clone(session)));
            }
            Entry::Occupied(mut entry) => {
                self.counted(hash, entry.get_mut(), |sessions| {
                    let keep = settings.max_per_user.max(1) - 1;
                    for oldest in sessions.take_oldest(keep, |other| other.is_of(realm, subject)) {
                        if self.take_out_this(&oldest) {
                            places += 1;
                            ended.push(oldest);
                        }
                    }
                    let room = self.take_place(places, settings.max_sessions);
                    if room {
                        self.segment(session.key()).insert(ByKey(Arc::clone(session)), ());
                        sessions.push(Arc::clone(session));
                    }
                    room
                })
                .then_some(())?;
            }
        }
        Some(ended)
    }

    /// Ends a session whose place somebody else takes: it is still counted.
    fn give_up(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let (ByKey(session), ()) = self.segment(key).remove(key)?;
        self.retire(&session);
        self.forget(&session);
        Some(session)
    }

    /// Takes one of the places that were given up and lets go of the others; without any, takes a free one.
    fn take_place(&self, given_up: usize, max: usize) -> bool {
        match given_up.checked_sub(1) {
            Some(others) => {
                self.count.fetch_sub(others, Ordering::AcqRel);
                true
            }
            None => self.reserve(max),
        }
    }

    /// Changes the sessions of a subject, under its lock, and lets the crowd know.
    fn counted<T>(&self, hash: u64, sessions: &mut Sessions, change: impl FnOnce(&mut Sessions) -> T) -> T {
        let before = sessions.most();
        let changed = change(sessions);
        self.crowd.changed(hash, before, sessions.most());
        changed
    }

    /// Puts a session in the place of another of the same subject; `false` if that one has ended meanwhile.
    fn replace(&self, old: &Arc<Session>, new: &Arc<Session>) -> bool {
        let identity = old.identity();
        let Entry::Occupied(mut entry) = self.subjects.entry(self.hash_subject(identity.realm(), identity.subject()))
        else {
            return false;
        };
        let hash = *entry.key();
        let replaced = self.counted(hash, entry.get_mut(), |sessions| {
            let indexed = !sessions.take(|session| Arc::ptr_eq(session, old)).is_empty();
            let replaced = indexed && self.take_out_this(old);
            if replaced {
                self.segment(new.key()).insert(ByKey(Arc::clone(new)), ());
                sessions.push(Arc::clone(new));
            }
            replaced
        });
        if entry.get().is_empty() {
            entry.remove();
        }
        replaced
    }

    /// Counts one more session, if there are fewer than `max`.
    fn reserve(&self, max: usize) -> bool {
        let more = |count| (count < max).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    fn end_if_expired(&self, key: &SessionKey, settings: &Settings, now: Timestamp) -> bool {
        let removed = self.segment(key).remove_if(key, |entry, ()| entry.0.is_expired(settings, now));
        let Some((ByKey(session), ())) = removed else {
            return false;
        };
        self.expired.note(&session, session.idle_expires(settings));
        self.uncount(&session);
        self.forget(&session);
        true
    }

    /// Takes a session out of the table, which ends it. The index still knows it: see [`Self::forget`].
    fn remove(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let (ByKey(session), ()) = self.segment(key).remove(key)?;
        self.uncount(&session);
        Some(session)
    }

    /// As [`Self::remove`], but this very session: an import may have put another one under the same key meanwhile.
    fn remove_this(&self, session: &Arc<Session>) -> bool {
        let removed = self.take_out_this(session);
        if removed {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        removed
    }

    /// As [`Self::remove_this`], but its place is still counted.
    fn take_out_this(&self, session: &Arc<Session>) -> bool {
        let same = |entry: &ByKey, (): &()| Arc::ptr_eq(&entry.0, session);
        let removed = self.segment(session.key()).remove_if(session.key(), same).is_some();
        if removed {
            self.retire(session);
        }
        removed
    }

    fn uncount(&self, session: &Session) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.retire(session);
    }

    fn retire(&self, session: &Session) {
        match session.retire() {
            Retired::Used => self.note_gone(session.key()),
            Retired::Waiting => {
                self.legacy.waiting.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    fn note_gone(&self, key: &SessionKey) {
        if let Some(disk) = &self.disk {
            disk.note(key);
        }
    }

    /// Takes a session out of the index.
    fn forget(&self, session: &Arc<Session>) {
        let identity = session.identity();
        let hash = self.hash_subject(identity.realm(), identity.subject());
        self.subjects.remove_if_mut(&hash, |_, sessions| {
            self.counted(hash, sessions, |sessions| sessions.take(|other| Arc::ptr_eq(other, session)));
            sessions.is_empty()
        });
    }

    fn segment(&self, key: &SessionKey) -> &Segment {
        // A byte is below `SEGMENTS`.
        &self.segments[key.segment()]
    }

    fn hash_subject(&self, realm: &str, subject: &str) -> u64 {
        self.subject_hash.hash_one((realm, subject))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("sessions", &self.len()).finish_non_exhaustive()
    }
}

impl Life {
    fn starting(now: Timestamp, expires: Option<Timestamp>, settings: &Settings) -> Self {
        let longest = now.plus(settings.max_lifetime);
        Self { created: now, expires: expires.map_or(longest, |expires| expires.min(longest)) }
    }
}

impl Sessions {
    fn iter(&self) -> std::slice::Iter<'_, Arc<Session>> {
        match self {
            Self::One(session) => std::slice::from_ref(session).iter(),
            Self::Many(sessions) => sessions.iter(),
        }
    }

    fn is_empty(&self) -> bool {
        self.iter().len() == 0
    }

    /// How many sessions one subject has, of several whoever has the most.
    fn most(&self) -> usize {
        self.of_most().map_or(0, |(most, _)| most)
    }

    /// The oldest session of a subject that has so many, and more than one.
    fn oldest_of_most(&self, wanted: usize) -> Option<Arc<Session>> {
        let (_, one) = self.of_most().filter(|(most, _)| *most > 1 && *most == wanted)?;
        let theirs = self.iter().filter(|other| other.is_of(one.identity().realm(), one.identity().subject()));
        theirs.min_by_key(|session| session.created()).cloned()
    }

    /// A session of the subject that has the most, and how many those are.
    fn of_most(&self) -> Option<(usize, &Session)> {
        let of = |one: &Session| {
            self.iter().filter(|other| other.is_of(one.identity().realm(), one.identity().subject())).count()
        };
        let first: &Session = self.iter().next()?;
        match of(first) {
            all if all == self.iter().len() => Some((all, first)),
            // Two hashes that are equal by chance.
            _ => self.iter().map(|one| (of(one), &**one)).max_by_key(|(count, _)| *count),
        }
    }

    fn push(&mut self, session: Arc<Session>) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![Arc::clone(first), session])),
            Self::Many(sessions) if sessions.is_empty() => *self = Self::One(session),
            Self::Many(sessions) => sessions.push(session),
        }
    }

    /// Takes out what fits; may leave nothing.
    fn take(&mut self, fits: impl Fn(&Arc<Session>) -> bool) -> Vec<Arc<Session>> {
        match self {
            Self::One(session) if fits(session) => {
                let taken = vec![Arc::clone(session)];
                *self = Self::Many(Box::default());
                taken
            }
            Self::One(_) => Vec::new(),
            Self::Many(sessions) => {
                let mut taken = Vec::new();
                sessions.retain(|session| {
                    let goes = fits(session);
                    if goes {
                        taken.push(Arc::clone(session));
                    }
                    !goes
                });
                if let [last] = sessions.as_slice() {
                    *self = Self::One(Arc::clone(last));
                }
                taken
            }
        }
    }

    /// Takes out the oldest of those that fit, so that at most `keep` of them stay.
    fn take_oldest(&mut self, keep: usize, fits: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut theirs: Vec<_> = self.iter().filter(|session| fits(session)).cloned().collect();
        if theirs.len() <= keep {
            return Vec::new();
        }
        theirs.sort_by_key(|session| session.created());
        theirs.truncate(theirs.len() - keep);
        self.take(|session| theirs.iter().any(|oldest| Arc::ptr_eq(oldest, session)))
    }
}

impl Disk {
    fn new() -> Self {
        Self {
            gone: Mutex::default(),
            changed: (0..SEGMENTS * WORDS_OF_SEGMENT).map(|_| AtomicU64::new(0)).collect(),
            next_segment: AtomicUsize::new(0),
        }
    }

    fn gone(&self) -> MutexGuard<'_, Vec<SessionKey>> {
        // Nothing panics while it is held.
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: &SessionKey) {
        self.mark(key);
        self.gone().push(*key);
    }

    /// After the change: whoever takes the mark sees it.
    fn mark(&self, key: &SessionKey) {
        let (word, bit) = Self::place(key.bytes()[1]);
        self.changed[key.segment() * WORDS_OF_SEGMENT + word].fetch_or(bit, Ordering::AcqRel);
    }

    /// The marks of a segment, which are gone with that.
    fn take_changed(&self, segment: usize) -> [u64; WORDS_OF_SEGMENT] {
        std::array::from_fn(|word| self.changed[segment * WORDS_OF_SEGMENT + word].swap(0, Ordering::AcqRel))
    }

    /// Word and bit of a group within its segment, by the second byte of its keys.
    fn place(second: u8) -> (usize, u64) {
        (usize::from(second) / 64, 1 << (second % 64))
    }
}

impl LegacySessions {
    fn lock(&self) -> MutexGuard<'_, Recent> {
        // Nothing panics while it is held, and a half-written list of exchanges would only ask for a new login.
        self.exchanged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, recent: &mut Recent, key: SessionKey, session: &Arc<Session>, until: Timestamp) {
        recent.by_key.insert(key, Arc::downgrade(session));
        recent.order.push_back((until, key));
        self.recent.store(recent.order.len(), Ordering::Relaxed);
    }

    fn forget_old(&self, recent: &mut Recent, now: Timestamp) {
        while let Some((until, key)) = recent.order.front()
            && *until <= now
        {
            recent.by_key.remove(key);
            recent.order.pop_front();
        }
        self.recent.store(recent.order.len(), Ordering::Relaxed);
    }

    fn add_cookie(&self, name: &str) -> Result<(), OpenError> {
        let known = |names: &[Box<str>]| names.iter().any(|other| **other == *name);
        if known(&self.cookies.load()) {
            return Ok(());
        }
        self.cookies.rcu(|names| {
            let mut names = Vec::clone(names);
            if !known(&names) && names.len() < MemoryStore::MAX_LEGACY_COOKIES {
                names.push(name.into());
            }
            names
        });
        if known(&self.cookies.load()) { Ok(()) } else { Err(OpenError::TooManyCookies) }
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl Borrow<SessionKey> for ByKey {
    fn borrow(&self) -> &SessionKey {
        self.0.key()
    }
}

fn fitting(identity: &Identity, settings: &Settings) -> Result<(), OpenError> {
    let bytes = identity_bytes(identity);
    if bytes > settings.max_session_bytes { Err(OpenError::TooLarge { bytes }) } else { Ok(()) }
}

/// `last_seen` of a session that is used now: never the mark of one that waits.
fn seen_at(now: Timestamp) -> u64 {
    now.unix_millis().max(NEVER_SEEN + 1)
}

/// One for each first byte of a key.
const SEGMENTS: usize = MemoryStore::SEGMENTS;

/// Looks for somebody with the most sessions while these change.
const LOOKS_FOR_CROWD: usize = 8;

/// Words with a bit for each second byte of a key.
const WORDS_OF_SEGMENT: usize = 256 / 64;

/// A power of two above one.
const SHARDS_OF_SEGMENT: usize = 4;

/// A power of two.
const SHARDS_OF_SUBJECTS: usize = 1024;

/// How long an exchanged old cookie still counts: the parallel requests of the page that brought it.
const EXCHANGE_GRACE: Duration = Duration::from_secs(60);

/// Sessions looked at when a full store is asked for room: about a millisecond's worth.
const SWEEP_WHEN_FULL: usize = 10_000;
