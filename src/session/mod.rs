//! Sessions: the server-side record behind an opaque cookie (R26).
//!
//! `token` is what the browser holds and what the store holds of it, `cookie` how it travels, `memory` where requests
//! look, `record` and `seen` what is on disk of it. In: tokens and identities. Out: [`Session`]s, shared by reference
//! count. Invariants: a session that has ended is never found again; idle and absolute limits are judged at each
//! look-up, whether or not the sweeper came by.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    durable::{self, Batch, Durable, LoadError, Table, Unavailable},
    identity::{Field, Identity},
    secret::constant_time_eq,
    telemetry::audit::Audit,
};

pub mod cookie;
mod crowd;
mod evicted;
mod expired;
mod memory;
mod record;
mod seen;
mod token;

pub use expired::{Owner, RECENTLY};
pub use memory::MemoryStore;
pub use token::{BuildKeyHasher, KeyHasher, SessionKey, SessionToken};

/// `[session]`, ready to use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cookie; begins with `__Host-` unless the configuration insists otherwise.
    pub cookie: Arc<str>,
    /// The cookie's `SameSite`.
    pub same_site: SameSite,
    /// What sessions are tied to.
    pub bind: Bind,
    /// Unused this long, a session ends.
    pub idle_timeout: Duration,
    /// However much used, a session ends this long after its creation.
    pub max_lifetime: Duration,
    /// Sessions in the store, all users together; whoever has the most gives one up for a newcomer.
    pub max_sessions: usize,
    /// Sessions of one (realm, subject); the oldest ends when one more opens.
    pub max_per_user: usize,
    /// Bytes of one session's identity, claims included; above it the session is not opened.
    pub max_session_bytes: usize,
}

/// The cookie attribute of that name (RFC 6265bis section 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SameSite {
    /// Sent on top-level navigations from elsewhere.
    #[default]
    Lax,
    /// Sent everywhere.
    None,
    /// Sent from our own pages only.
    Strict,
}

/// `session.bind`: what a session is tied to, so that whoever steals its cookie cannot use it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Bind {
    /// Nothing: it counts for whoever holds the cookie.
    #[default]
    None,
    /// The key of the client certificate that it was opened with.
    Mtls,
}

/// One session. Immutable but for the time it was last seen; 80 bytes with its reference counts.
pub struct Session {
    key: SessionKey,
    /// Milliseconds since the epoch, or [`NEVER_SEEN`], or [`ENDED`], from which it does not change any more.
    last_seen: AtomicU64,
    created: Timestamp,
    expires: Timestamp,
    identity: Arc<Identity>,
    opened_from: Option<Box<OpenedFrom>>,
    /// Whether [`Self::expires`] is what somebody asked for who wants to be remembered.
    remembered: bool,
}

/// Where a session was opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenedFrom {
    /// What the client's `User-Agent` comes down to: a few words of printable ASCII.
    pub device: Box<str>,
    /// The client's address.
    pub address: IpAddr,
    /// SHA-256 of the public key of the client certificate that it is tied to ([`Bind::Mtls`]). Boxed: most sessions
    /// have none.
    pub key: Option<Box<[u8; 32]>>,
}

/// What a session is opened with; from an identity alone: by nobody's device, and for as long as `[session]` says.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whose session it is.
    pub identity: Arc<Identity>,
    /// Where it is opened.
    pub from: Option<OpenedFrom>,
    /// Lives this long, used or not, instead of what `[session]` says: somebody asked to be remembered.
    pub remembered: Option<Duration>,
}

impl From<Arc<Identity>> for Opening {
    fn from(identity: Arc<Identity>) -> Self {
        Self { identity, from: None, remembered: None }
    }
}

/// An entry of another store, for [`Store::import_legacy`].
#[derive(Clone, Debug)]
pub struct Legacy {
    /// Name of the old cookie.
    pub cookie: Box<str>,
    /// SHA-256 of the old cookie's value.
    pub sha256: [u8; 32],
    /// Whose session it is.
    pub identity: Arc<Identity>,
    /// When it ends in any case; `max_lifetime` from now if that is sooner or none is given.
    pub expires: Option<Timestamp>,
}

/// What an old cookie names.
#[derive(Debug)]
pub enum OldCookie {
    /// A session that waits for it: to be exchanged for one of ours ([`Store::exchange_legacy`]).
    Waiting(Arc<Session>),
    /// It was exchanged less than a minute ago: a browser's parallel requests. The new cookie is on its way.
    Exchanged(Arc<Session>),
}

/// What a token names.
#[derive(Debug)]
pub enum Lookup {
    /// A living session.
    Found(Arc<Session>),
    /// Nothing, or a session that has ended.
    Absent,
    /// The store cannot be asked at present (R3). Memory always can.
    Unavailable,
}

/// Why no session was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenError {
    /// The store holds `max_sessions` living sessions, and nobody has more than one.
    Full,
    /// The identity is larger than `max_session_bytes`.
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// More than [`MemoryStore::MAX_LEGACY_COOKIES`] different names of old cookies.
    TooManyCookies,
    /// It could not be written to disk.
    Unavailable,
}

impl From<Unavailable> for OpenError {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

/// Where sessions live: in memory, and with `server.state_dir` on disk too.
///
/// What changes sessions is asynchronous: it is ready when it is on disk, and holds in memory from then on. Dropping
/// the future half-way changes nothing of that; a change that was begun is carried out.
#[derive(Debug)]
pub struct Store {
    memory: Arc<MemoryStore>,
    durable: Option<Durable>,
}

impl Store {
    /// An empty store in memory.
    pub fn in_memory() -> Self {
        Self { memory: Arc::new(MemoryStore::new()), durable: None }
    }

    /// A store with the sessions that are on disk and have not expired meanwhile.
    ///
    /// # Errors
    /// [`LoadError`] when they cannot be read.
    pub fn restored(durable: Durable, settings: &Settings, now: Timestamp) -> Result<Self, LoadError> {
        let memory = MemoryStore::with_disk();
        let mut seen = seen::Seen::default();
        durable.load(Table::Seen, |group, entries| seen.read(group, entries))?;
        durable.load_shared(Table::Sessions, || {
            // Whoever was let in stays, even if fewer may come in now.
            let unlimited = Settings { max_sessions: usize::MAX, ..settings.clone() };
            let mut realms = record::Realms::default();
            let (memory, seen) = (&memory, &seen);
            move |key, text| {
                memory.restore(record::read(key, text, &mut realms)?, seen, &unlimited, now);
                Ok(())
            }
        })?;
        let store = Self { memory: Arc::new(memory), durable: Some(durable) };
        store.keep_up(0);
        Ok(store)
    }

    /// From now on the audit log hears of sessions that end to make room for others.
    #[must_use]
    pub fn telling(self, audit: Audit) -> Self {
        self.memory.tell(audit);
        self
    }

    /// Whether sessions survive a restart.
    pub fn is_durable(&self) -> bool {
        self.durable.as_ref().is_some_and(Durable::survives)
    }

    /// The session that a token opens. One that is past its idle or absolute limit is absent, and removed.
    pub fn lookup(&self, token: &SessionToken, settings: &Settings, now: Timestamp) -> Lookup {
        self.memory.lookup(token, settings, now)
    }

    /// Notes activity, if the last note is a second old; otherwise it costs a comparison.
    pub fn touch(&self, session: &Session, now: Timestamp) {
        if session.touch(now) {
            self.memory.note_seen(session.key());
        }
    }

    /// Opens a session for an identity that was proved just now, in the place of `replaced` if there is one: that one
    /// ends if and only if the new one is opened.
    ///
    /// Where the subject has `max_per_user` sessions already, its oldest end. Where the store is full, sessions past
    /// their limits are looked for once, and then the oldest session of somebody who has the most ends. Who has one
    /// session keeps it: where nobody has more than one there is no room, since whoever can open many sessions could
    /// log everybody out. Who has the most is known exactly at the time of asking, in the logarithm of how many have
    /// more than one; where several have as many it is the newcomer, or else any of them.
    ///
    /// # Errors
    /// [`OpenError::TooLarge`], [`OpenError::Full`] and [`OpenError::Unavailable`].
    pub async fn open(
        &self,
        opening: impl Into<Opening>,
        replaced: Option<&SessionKey>,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(SessionToken, Arc<Session>), OpenError> {
        let token = SessionToken::generate();
        let session = MemoryStore::prepare(token.key(), opening.into(), settings, now)?;
        let ending = self.memory.room_for(&session, replaced, settings, now)?;
        let batch = self.batch(|| record::opened(&session, None, &ending.keys));
        let (opened, settings) = (Arc::clone(&session), settings.clone());
        let inserted = self.change(batch, move |memory| memory.insert(&opened, &ending, &settings, now));
        self.settle(inserted.await?, session.key()).await?;
        Ok((token, session))
    }

    /// Ends one session, for good; `false` if there was none.
    ///
    /// # Errors
    /// [`Unavailable`]: it has not ended.
    pub async fn end(&self, key: &SessionKey) -> Result<bool, Unavailable> {
        Ok(self.end_all(&[*key]).await? > 0)
    }

    /// Ends several sessions at once, or none of them; returns how many there were.
    ///
    /// # Errors
    /// [`Unavailable`]: none of them has ended.
    pub async fn end_all(&self, keys: &[SessionKey]) -> Result<usize, Unavailable> {
        let keys: Vec<_> = keys.iter().copied().filter(|key| self.memory.find(key).is_some()).collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let batch = self.batch(|| record::ended(&keys));
        self.change(batch, move |memory| keys.iter().filter(|key| memory.end(key)).count()).await
    }

    /// Gives a session another identity of the same subject (R29): it stays what it is, and nobody finds it gone
    /// meanwhile. What holds on to the session as it was (a tunnel) finds that one ended. `false`: it has ended, or
    /// waits for an old cookie.
    ///
    /// # Errors
    /// [`Unavailable`]: it has the identity that it had.
    pub async fn renew(&self, session: &Arc<Session>, identity: Arc<Identity>) -> Result<bool, Unavailable> {
        if session.is_waiting() {
            return Ok(false);
        }
        let batch = self.batch(|| record::renewed(session, &identity));
        let old = Arc::clone(session);
        self.change(batch, move |memory| memory.renew(&old, identity)).await
    }

    /// Ends every session of a subject, imported ones included; returns how many.
    ///
    /// # Errors
    /// [`Unavailable`]: those that it had before may live on, after a restart or at once.
    pub async fn end_subject(&self, realm: &str, subject: &str) -> Result<usize, Unavailable> {
        let known: Vec<_> = self.memory.of_subject(realm, subject).iter().map(|session| *session.key()).collect();
        if known.is_empty() {
            return Ok(0);
        }
        let batch = self.batch(|| record::ended(&known));
        let (realm, subject): (Box<str>, Box<str>) = (realm.into(), subject.into());
        let mut ended = self.change(batch, move |memory| memory.end_subject(&realm, &subject)).await?;
        let count = ended.len();
        // A login that was on its way to the disk ended with the others; its record has to go before anybody hears of
        // it.
        ended.retain(|key| !known.contains(key));
        if !ended.is_empty() {
            self.change(self.batch(|| record::ended(&ended)), |_| ()).await?;
        }
        Ok(count)
    }

    /// The sessions of a subject, oldest first. Some may be past their limits: see [`Session::is_expired`].
    pub fn of_subject(&self, realm: &str, subject: &str) -> Vec<Arc<Session>> {
        self.memory.of_subject(realm, subject)
    }

    /// A page of at most `limit` sessions in the order of their keys, beginning after `after`. A session that exists
    /// throughout is in exactly one page. Some may be past their limits: see [`Session::is_expired`].
    pub fn list(&self, after: Option<SessionKey>, limit: usize) -> Vec<Arc<Session>> {
        self.memory.list(after, limit)
    }

    /// A session by its key, for those who administer; it counts as no activity.
    pub fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        self.memory.find(key)
    }

    /// Whose session this was, if it ran out, and was not ended, less than [`RECENTLY`] ago; as far as is remembered.
    pub fn recently_expired(&self, key: &SessionKey, now: Timestamp) -> Option<Owner> {
        self.memory.recently_expired(key, now)
    }

    /// How many sessions ended so far to make room for others' in a full store.
    pub fn evictions(&self) -> u64 {
        self.memory.evictions()
    }

    /// How many sessions the store holds, those included that are past their limits and not swept yet.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the store holds no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at about `budget` further sessions, ends those past their limits and returns how many ended. Called
    /// again and again it goes round the whole store. No lock is held for more than a thousandth of the store.
    pub fn sweep(&self, settings: &Settings, now: Timestamp, budget: usize) -> usize {
        self.memory.sweep(settings, now, budget)
    }

    /// Hands what changed without anybody waiting to the disk: sessions that expired, and when those of a further
    /// `segments` of [`MemoryStore::SEGMENTS`] were last seen. Costs nothing without a disk.
    pub fn keep_up(&self, segments: usize) {
        // What a disk that does not answer has no ear for is kept here, where it takes no more room than sessions do.
        if let Some(durable) = self.durable.as_ref().filter(|durable| durable.answers()) {
            durable.later(record::ended(&self.memory.take_gone()));
            for _ in 0..segments {
                durable.later(self.memory.take_seen());
            }
        }
    }

    /// Makes memory hold what another process has changed, which has written it: a session opened, changed or ended.
    /// `replaces`: it is nothing where there is no such session.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn follow(
        &self,
        key: &[u8],
        record: Option<&[u8]>,
        replaces: bool,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        let Some(text) = record else {
            let key = SessionKey::from_bytes(key).ok_or("a key is no session key")?;
            self.memory.end(&key);
            return Ok(());
        };
        let restored = record::read(key, text, &mut record::Realms::default())?;
        match self.memory.find(&restored.key) {
            Some(known) => drop(self.memory.renew(&known, restored.identity)),
            None if replaces => {}
            // It had room where it was opened.
            None => self.memory.restore(
                restored,
                &seen::Seen::default(),
                &Settings { max_sessions: usize::MAX, ..settings.clone() },
                now,
            ),
        }
        Ok(())
    }

    /// Ends a session that came by [`Self::follow`] and does not count here; the disk hears of it later.
    pub fn drop_followed(&self, key: &SessionKey) {
        self.memory.end(key);
        self.forget(key);
    }

    /// Takes over a session of another store: it waits until its browser brings the old cookie. Until then only its
    /// absolute limit counts. It counts, is listed and ends like any other.
    ///
    /// # Errors
    /// As [`Self::open`], and [`OpenError::TooManyCookies`].
    pub async fn import_legacy(
        &self,
        legacy: Legacy,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Arc<Session>, OpenError> {
        let session = self.memory.prepare_legacy(&legacy, settings, now)?;
        let ending = self.memory.room_for(&session, None, settings, now)?;
        let batch = self.batch(|| record::opened(&session, Some(&legacy.cookie), &ending.keys));
        let (opened, settings) = (Arc::clone(&session), settings.clone());
        let inserted = self.change(batch, move |memory| memory.insert_legacy(&opened, &ending, &settings, now));
        self.settle(inserted.await?, session.key()).await?;
        Ok(session)
    }

    /// Names of old cookies to look for in requests without a session cookie of ours; `None` while there is nothing
    /// to exchange, which costs one relaxed load.
    pub fn legacy_cookies(&self) -> Option<Arc<Vec<Box<str>>>> {
        self.memory.legacy_cookies()
    }

    /// What an old cookie names; `None`: nothing.
    pub fn lookup_legacy(&self, cookie: &str, value: &[u8], settings: &Settings, now: Timestamp) -> Option<OldCookie> {
        self.memory.lookup_legacy(cookie, value, settings, now)
    }

    /// Exchanges a session that waited for its old cookie for one of ours, with the token for its cookie; without one
    /// if another request was faster, whose answer carries it. `None`: it has ended meanwhile.
    ///
    /// # Errors
    /// [`Unavailable`]: it still waits.
    pub async fn exchange_legacy(
        &self,
        waiting: &Arc<Session>,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Option<(Option<SessionToken>, Arc<Session>)>, Unavailable> {
        let token = SessionToken::generate();
        let session = MemoryStore::successor(waiting, token.key(), settings, now);
        let batch = self.batch(|| record::opened(&session, None, &[*waiting.key()]));
        let (old, new) = (Arc::clone(waiting), Arc::clone(&session));
        let exchanged = self.change(batch, move |memory| memory.exchange_legacy(&old, &new, now)).await?;
        let is_ours = exchanged.as_ref().is_some_and(|exchanged| Arc::ptr_eq(exchanged, &session));
        if !is_ours {
            self.forget(session.key());
        }
        Ok(exchanged.map(|session| (is_ours.then_some(token), session)))
    }

    /// Every change of sessions that somebody waits for goes through here: onto the disk first, then into memory, in
    /// the same order.
    async fn change<T: Send + 'static>(
        &self,
        batch: Batch,
        then: impl FnOnce(&MemoryStore) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        durable::change(self.durable.as_ref(), batch, &self.memory, then).await
    }

    /// Without a disk no batch need be made.
    fn batch(&self, make: impl FnOnce() -> Batch) -> Batch {
        if self.durable.is_some() { make() } else { Batch::new() }
    }

    /// What is on disk and found no room in memory after all, because others were faster, goes from the disk too; and
    /// so does what had to end besides, before anybody hears of the new session.
    async fn settle(&self, inserted: Result<Vec<SessionKey>, OpenError>, key: &SessionKey) -> Result<(), OpenError> {
        let ended = inserted.inspect_err(|_| self.forget(key))?;
        if !ended.is_empty() {
            let settled = self.change(self.batch(|| record::ended(&ended)), |_| ()).await;
            settled.inspect_err(|_| {
                self.memory.end(key);
            })?;
        }
        Ok(())
    }

    fn forget(&self, key: &SessionKey) {
        if let Some(durable) = &self.durable {
            durable.later(record::ended(&[*key]));
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl Session {
    /// What names this session in the store, in logs and towards administrators. It opens nothing.
    pub const fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Whose session it is.
    pub const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The key that it is tied to, if it is.
    pub fn bound_to(&self) -> Option<&[u8; 32]> {
        self.opened_from.as_ref()?.key.as_deref()
    }

    /// Whether it counts for somebody who has proven to hold this key, or none. One that is tied to a key counts with
    /// that key only, whatever the settings say by now; and where they tie sessions, one that is not tied counts for
    /// nobody.
    pub fn counts_for<'k>(&self, key: impl FnOnce() -> Option<&'k [u8; 32]>, settings: &Settings) -> bool {
        match (self.bound_to(), settings.bind) {
            (Some(bound), _) => key().is_some_and(|key| constant_time_eq(bound, key)),
            (None, Bind::None) => true,
            (None, Bind::Mtls) => false,
        }
    }

    /// Where it was opened; `None`: by an administrator.
    pub fn opened_from(&self) -> Option<&OpenedFrom> {
        self.opened_from.as_deref()
    }

    /// When it was opened.
    pub const fn created(&self) -> Timestamp {
        self.created
    }

    /// The last activity, to the second; when it was opened, if there was none.
    pub fn last_seen(&self) -> Timestamp {
        match self.last_seen.load(Ordering::Relaxed) {
            NEVER_SEEN | ENDED => self.created,
            millis => Timestamp::from_unix_millis(millis),
        }
    }

    /// Whether it waits for its old cookie ([`Store::import_legacy`]).
    pub fn is_waiting(&self) -> bool {
        self.last_seen.load(Ordering::Relaxed) == NEVER_SEEN
    }

    /// Whether it was ended. What holds a session for longer than one request (a tunnel) asks this again and again.
    pub fn is_ended(&self) -> bool {
        self.last_seen.load(Ordering::Acquire) == ENDED
    }

    /// Whether it outlives the browser's end and its own disuse, as its owner asked when it was opened.
    pub const fn is_remembered(&self) -> bool {
        self.remembered
    }

    /// When it ends, however much it is used.
    pub fn expires(&self, settings: &Settings) -> Timestamp {
        if self.remembered {
            return self.expires;
        }
        self.expires.min(self.created.plus(settings.max_lifetime))
    }

    /// When it ends unless it is used again; never after [`Self::expires`].
    pub fn idle_expires(&self, settings: &Settings) -> Timestamp {
        let absolute = self.expires(settings);
        match self.last_seen.load(Ordering::Relaxed) {
            NEVER_SEEN => absolute,
            ENDED => Timestamp::default(),
            _ if self.remembered => absolute,
            millis => absolute.min(Timestamp::from_unix_millis(millis).plus(settings.idle_timeout)),
        }
    }

    /// Whether it is past a limit or was ended.
    pub fn is_expired(&self, settings: &Settings, now: Timestamp) -> bool {
        now >= self.idle_expires(settings)
    }

    /// Notes activity. Written only when the last note is a second old, so that the requests of a busy session do not
    /// fight over one cache line; never revives a session that was ended. Whether it was written.
    fn touch(&self, now: Timestamp) -> bool {
        let seen = self.last_seen.load(Ordering::Relaxed);
        if now.unix_millis() < seen.saturating_add(TOUCH_GRANULARITY_MILLIS) || seen == NEVER_SEEN {
            return false;
        }
        // Lost to another worker's note of the same second, or to the end: both are right as they are.
        self.last_seen.compare_exchange(seen, now.unix_millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Marks it ended; returns what it was before.
    fn retire(&self) -> Retired {
        match self.last_seen.swap(ENDED, Ordering::AcqRel) {
            NEVER_SEEN => Retired::Waiting,
            _ => Retired::Used,
        }
    }

    fn is_of(&self, realm: &str, subject: &str) -> bool {
        **self.identity.realm() == *realm && self.identity.subject() == subject
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("key", &self.key)
            .field("realm", self.identity.realm())
            .field("subject", &self.identity.subject())
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

/// The kinds of sessions that can end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Retired {
    Used,
    Waiting,
}

/// What an identity counts against `max_session_bytes`: its header values, and its claims as text with some bytes for
/// each node.
fn identity_bytes(identity: &Identity) -> usize {
    const FIELDS: [Field; 6] = [Field::Id, Field::Name, Field::Email, Field::Roles, Field::Groups, Field::Scopes];
    let headers: usize = FIELDS.iter().filter_map(|field| identity.header(*field)).map(|value| value.len()).sum();
    headers + identity.realm().len() + identity.claims().map_or(0, object_bytes)
}

fn object_bytes(object: &Map<String, Value>) -> usize {
    object.iter().map(|(name, value)| NODE_BYTES + name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    NODE_BYTES
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(value_bytes).sum(),
            Value::Object(object) => object_bytes(object),
        }
}

/// `last_seen` of a session that waits for its old cookie.
const NEVER_SEEN: u64 = 0;

/// `last_seen` of a session that was ended.
const ENDED: u64 = u64::MAX;

const TOUCH_GRANULARITY_MILLIS: u64 = 1000;

/// A JSON node in memory, beside its text.
const NODE_BYTES: usize = 32;

#[cfg(test)]
mod tests;
