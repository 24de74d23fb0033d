//! Sessions: the server-side record behind an opaque cookie (R26).
//!
//! `token` is what the browser holds and what the store holds of it, `cookie` how it travels, `memory` where records
//! live. In: tokens and identities. Out: [`Session`]s, shared by reference count.
//! Invariants: a session that has ended is never found again; idle and absolute limits are judged at each look-up,
//! whether or not the sweeper came by.

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
    identity::{Field, Identity},
};

pub mod cookie;
mod memory;
mod token;

pub use memory::MemoryStore;
pub use token::{BuildKeyHasher, KeyHasher, SessionKey, SessionToken};

/// `[session]`, ready to use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cookie; begins with `__Host-` unless the configuration insists otherwise.
    pub cookie: Arc<str>,
    /// The cookie's `SameSite`.
    pub same_site: SameSite,
    /// Unused this long, a session ends.
    pub idle_timeout: Duration,
    /// However much used, a session ends this long after its creation.
    pub max_lifetime: Duration,
    /// Sessions in the store, all users together.
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

/// What became of an old cookie.
#[derive(Debug)]
pub enum Exchanged {
    /// It was brought for the first time: here is the session that replaces it, and the token for the new cookie.
    Opened(SessionToken, Arc<Session>),
    /// It was exchanged less than a minute ago: a browser's parallel requests. The new cookie is on its way.
    Recently(Arc<Session>),
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
    /// The store holds `max_sessions` living sessions.
    Full,
    /// The identity is larger than `max_session_bytes`.
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// More than [`MemoryStore::MAX_LEGACY_COOKIES`] different names of old cookies.
    TooManyCookies,
}

/// Where sessions live.
#[derive(Debug)]
pub enum Store {
    /// In this process.
    Memory(MemoryStore),
}

impl Store {
    /// An empty store in memory.
    pub fn in_memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    /// The session that a token opens. One that is past its idle or absolute limit is absent, and removed.
    pub fn lookup(&self, token: &SessionToken, settings: &Settings, now: Timestamp) -> Lookup {
        let Self::Memory(store) = self;
        store.lookup(token, settings, now)
    }

    /// Opens a session for an identity that was proved just now.
    ///
    /// Where the subject has `max_per_user` sessions already, its oldest end. Where the store is full, sessions past
    /// their limits are looked for once; other people's living sessions are never ended to make room, since whoever
    /// can open many sessions could log everybody out.
    ///
    /// # Errors
    /// [`OpenError::TooLarge`] and [`OpenError::Full`].
    pub fn open(
        &self,
        opening: impl Into<Opening>,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(SessionToken, Arc<Session>), OpenError> {
        let Self::Memory(store) = self;
        store.open(opening.into(), settings, now)
    }

    /// Ends one session, for good; `false` if there was none.
    pub fn end(&self, key: &SessionKey) -> bool {
        let Self::Memory(store) = self;
        store.end(key)
    }

    /// Gives a session another identity of the same subject (R29): it stays what it is, and nobody finds it gone
    /// meanwhile. What holds on to the session as it was (a tunnel) finds that one ended. `false`: it has ended.
    pub fn renew(&self, session: &Arc<Session>, identity: Arc<Identity>) -> bool {
        let Self::Memory(store) = self;
        store.renew(session, identity)
    }

    /// Ends every session of a subject, imported ones included; returns how many.
    pub fn end_subject(&self, realm: &str, subject: &str) -> usize {
        let Self::Memory(store) = self;
        store.end_subject(realm, subject)
    }

    /// The sessions of a subject, oldest first. Some may be past their limits: see [`Session::is_expired`].
    pub fn of_subject(&self, realm: &str, subject: &str) -> Vec<Arc<Session>> {
        let Self::Memory(store) = self;
        store.of_subject(realm, subject)
    }

    /// A page of at most `limit` sessions in the order of their keys, beginning after `after`. A session that exists
    /// throughout is in exactly one page. Some may be past their limits: see [`Session::is_expired`].
    pub fn list(&self, after: Option<SessionKey>, limit: usize) -> Vec<Arc<Session>> {
        let Self::Memory(store) = self;
        store.list(after, limit)
    }

    /// A session by its key, for those who administer; it counts as no activity.
    pub fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let Self::Memory(store) = self;
        store.find(key)
    }

    /// How many sessions the store holds, those included that are past their limits and not swept yet.
    pub fn len(&self) -> usize {
        let Self::Memory(store) = self;
        store.len()
    }

    /// Whether the store holds no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at about `budget` further sessions, ends those past their limits and returns how many ended. Called
    /// again and again it goes round the whole store. No lock is held for more than a thousandth of the store.
    pub fn sweep(&self, settings: &Settings, now: Timestamp, budget: usize) -> usize {
        let Self::Memory(store) = self;
        store.sweep(settings, now, budget)
    }

    /// Takes over a session of another store: it waits until its browser brings the old cookie. Until then only its
    /// absolute limit counts. It counts, is listed and ends like any other.
    ///
    /// # Errors
    /// As [`Self::open`], and [`OpenError::TooManyCookies`].
    pub fn import_legacy(
        &self,
        legacy: Legacy,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Arc<Session>, OpenError> {
        let Self::Memory(store) = self;
        store.import_legacy(legacy, settings, now)
    }

    /// Names of old cookies to look for in requests without a session cookie of ours; `None` while there is nothing
    /// to exchange, which costs one relaxed load.
    pub fn legacy_cookies(&self) -> Option<Arc<Vec<Box<str>>>> {
        let Self::Memory(store) = self;
        store.legacy_cookies()
    }

    /// Exchanges an old cookie for a session of ours; `None` if it names none.
    pub fn exchange_legacy(
        &self,
        cookie: &str,
        value: &[u8],
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Exchanged> {
        let Self::Memory(store) = self;
        store.exchange_legacy(cookie, value, settings, now)
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
    /// fight over one cache line; never revives a session that was ended.
    pub fn touch(&self, now: Timestamp) {
        let seen = self.last_seen.load(Ordering::Relaxed);
        if now.unix_millis() < seen.saturating_add(TOUCH_GRANULARITY_MILLIS) || seen == NEVER_SEEN {
            return;
        }
        // Lost to another worker's note of the same second, or to the end: both are right as they are.
        let _ = self.last_seen.compare_exchange(seen, now.unix_millis(), Ordering::Relaxed, Ordering::Relaxed);
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
