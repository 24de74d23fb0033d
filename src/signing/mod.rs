//! The keys that the gateway signs with, and the tokens that it makes with them (R22).
//!
//! In: the claims of a token. Out: the token, of the one `typ` that its purpose has, and the set of public keys that
//! verifies it. `rotation` says when keys come and go, `key` signs, `record` is what is on disk.
//! Invariants: each purpose has keys of its own, and no key ever signs for another purpose; a key is on disk before
//! anybody can see it, so a restart takes none back; the key that signs is always among those that are published.
//!
//! RFC 7515, RFC 7517, RFC 7638, RFC 8725 section 3.11 (explicit types), RFC 9068 section 2.1 (`at+jwt`).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::error::Unspecified;
use bytes::Bytes;
use serde::Serialize;

use self::rotation::{Held, Stage, Turn};
use crate::{
    clock::Timestamp,
    durable::{Batch, Durable, LoadError, Table},
};

mod key;
mod record;
pub mod rotation;

pub use key::Algorithm;

/// All keys of ours.
#[derive(Debug)]
pub struct Signing {
    /// For access tokens, of both algorithms: so that either may be chosen at any time and is known already.
    pub access: Keys,
    /// For what upstreams are told of a caller.
    pub assertion: Keys,
}

/// What a key signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Access tokens, which are bearers here.
    Access,
    /// Assertions for upstreams, which are bearers nowhere.
    Assertion,
}

/// The keys of one purpose.
pub struct Keys {
    purpose: Purpose,
    current: ArcSwap<Set>,
    durable: Option<Durable>,
    /// Whether the last change that was due could not be made.
    failing: AtomicBool,
    rotations: AtomicU64,
}

/// One state of the keys of one purpose.
struct Set {
    held: Vec<Held>,
    jwks: Bytes,
    version: u64,
}

/// Nothing was signed: there is no key of that algorithm, or the library failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CannotSign;

/// Why the keys cannot be had at the start.
#[derive(Debug)]
pub struct OpenError(String);

impl Signing {
    /// Reads the keys that are on disk, and makes those that are missing. Without a database each start makes new
    /// ones, which nobody knows yet.
    ///
    /// # Errors
    /// [`OpenError`] when the disk fails or a record cannot be read.
    pub async fn open(durable: Option<Durable>, now: Timestamp) -> Result<Self, OpenError> {
        Ok(Self {
            access: Keys::open(Purpose::Access, durable.clone(), now).await?,
            assertion: Keys::open(Purpose::Assertion, durable, now).await?,
        })
    }

    /// Makes whatever change is due by now. One task does this, again and again.
    pub async fn rotate(&self, now: Timestamp) {
        self.access.rotate(now).await;
        self.assertion.rotate(now).await;
    }
}

/// As long as a token with these claims, with a name and a signature that are nobody's.
///
/// # Errors
/// [`CannotSign`]: the claims are none.
pub fn unsigned(purpose: Purpose, algorithm: Algorithm, claims: &impl Serialize) -> Result<Box<str>, CannotSign> {
    let payload = serde_json::to_vec(claims).map_err(|_| CannotSign)?;
    Ok(key::unsigned(algorithm, purpose.typ(), &payload))
}

impl Purpose {
    /// The `typ` of what is signed.
    pub const fn typ(self) -> &'static str {
        match self {
            Self::Access => "at+jwt",
            Self::Assertion => "portcullis-assertion+jwt",
        }
    }

    /// The word for logs, metrics, and keys on disk.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Assertion => "assertion",
        }
    }

    /// With which algorithms it is signed.
    const fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::Access => &[Algorithm::EdDsa, Algorithm::Es256],
            Self::Assertion => &[Algorithm::Es256],
        }
    }
}

impl Keys {
    async fn open(purpose: Purpose, durable: Option<Durable>, now: Timestamp) -> Result<Self, OpenError> {
        let mut held = Vec::new();
        if let Some(durable) = &durable {
            let prefix = disk_key(purpose, "");
            durable.load(Table::Signing, |key, value| {
                let Some(kid) = key.strip_prefix(prefix.as_slice()) else { return Ok(()) };
                let read = record::read(value, purpose.typ()).ok_or("a key to sign with cannot be read")?;
                if read.key.kid().as_bytes() != kid {
                    return Err("a key to sign with has the name of another");
                }
                held.push(read);
                Ok(())
            })?;
        }
        for algorithm in purpose.algorithms() {
            let signs = |held: &&Held| held.stage == Stage::Current && held.key.algorithm() == *algorithm;
            if held.iter().filter(signs).count() > 1 {
                return Err(OpenError("two keys would sign at the same time".to_owned()));
            }
        }
        let keys = Self {
            purpose,
            current: ArcSwap::from_pointee(Set::new(held, 0)),
            durable,
            failing: AtomicBool::new(false),
            rotations: AtomicU64::new(0),
        };
        keys.turn(now).await.map_err(|why| OpenError(why.to_owned()))?;
        Ok(keys)
    }

    /// A token with these claims, of the purpose's `typ`. About 20 µs. What is signed must not live longer than
    /// [`rotation::LONGEST_LIFE`]: then its key may be gone.
    ///
    /// # Errors
    /// [`CannotSign`]; whatever needs the token cannot be had.
    pub fn sign(&self, algorithm: Algorithm, claims: &impl Serialize) -> Result<Box<str>, CannotSign> {
        let payload = serde_json::to_vec(claims).map_err(|_| CannotSign)?;
        let set = self.current.load();
        let signs = |held: &&Held| held.stage == Stage::Current && held.key.algorithm() == algorithm;
        let held = set.held.iter().find(signs).ok_or(CannotSign)?;
        held.key.sign(&payload).map_err(|Unspecified| CannotSign)
    }

    /// The public keys as a JWK set: those that will sign, those that sign, and those that have signed what still
    /// counts. To be kept for [`rotation::MAX_AGE`] at most.
    pub fn jwks(&self) -> Bytes {
        self.current.load().jwks.clone()
    }

    /// Another number whenever [`Self::jwks`] is another.
    pub fn version(&self) -> u64 {
        self.current.load().version
    }

    /// The `kid` of the key that signs; `None` if there is none of that algorithm.
    pub fn kid(&self, algorithm: Algorithm) -> Option<Box<str>> {
        let set = self.current.load();
        let signs = |held: &&Held| held.stage == Stage::Current && held.key.algorithm() == algorithm;
        set.held.iter().find(signs).map(|held| held.key.kid().into())
    }

    /// For how long the oldest key has signed that still does.
    pub fn age(&self, now: Timestamp) -> Duration {
        let set = self.current.load();
        let current = set.held.iter().filter(|held| held.stage == Stage::Current);
        current.map(|held| now.since(held.since)).max().unwrap_or_default()
    }

    /// Keys that began to sign since the start.
    pub fn rotations(&self) -> u64 {
        self.rotations.load(Relaxed)
    }

    /// What it signs.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// As [`Signing::rotate`]. What cannot be done now is tried again the next time; meanwhile nothing changes.
    async fn rotate(&self, now: Timestamp) {
        match self.turn(now).await {
            Ok(()) => self.failing.store(false, Relaxed),
            Err(why) => {
                if !self.failing.swap(true, Relaxed) {
                    tracing::warn!(
                        purpose = self.purpose.label(),
                        why,
                        "the keys to sign with stay as they are for now"
                    );
                }
            }
        }
    }

    async fn turn(&self, now: Timestamp) -> Result<(), &'static str> {
        for algorithm in self.purpose.algorithms() {
            let before = self.current.load_full();
            let (mut held, mut others): (Vec<Held>, Vec<Held>) =
                before.held.iter().cloned().partition(|held| held.key.algorithm() == *algorithm);
            rotation::not_ahead(&mut held, now);
            let turn = rotation::turn(&held, *algorithm, self.purpose.typ(), now);
            let Some(turn) = turn.map_err(|Unspecified| "a key cannot be made")? else {
                if before.held.iter().any(|held| held.since > now) {
                    others.append(&mut held);
                    self.current.store(Arc::new(Set {
                        held: others,
                        jwks: before.jwks.clone(),
                        version: before.version,
                    }));
                }
                continue;
            };
            self.write(&turn).await?;
            let began = turn.changed.iter().filter(|held| held.stage == Stage::Current).count();
            self.rotations.fetch_add(u64::try_from(began).unwrap_or_default(), Relaxed);
            // The first keys of a start are no news.
            for held in turn.changed.iter().filter(|_| before.version > 0) {
                tracing::info!(
                    purpose = self.purpose.label(),
                    kid = held.key.kid(),
                    stage = held.stage.name(),
                    "a key to sign with has changed its stage"
                );
            }
            others.extend(turn.after);
            self.current.store(Arc::new(Set::new(others, before.version + 1)));
        }
        Ok(())
    }

    async fn write(&self, turn: &Turn) -> Result<(), &'static str> {
        let Some(durable) = &self.durable else { return Ok(()) };
        let mut batch = Batch::new();
        for held in &turn.changed {
            let record = record::write(held).map_err(|Unspecified| "a key cannot be written")?;
            batch = batch.put(Table::Signing, &disk_key(self.purpose, held.key.kid()), record);
        }
        for held in &turn.gone {
            batch = batch.remove(Table::Signing, &disk_key(self.purpose, held.key.kid()));
        }
        durable.commit(batch).await.map_err(|_| "the disk cannot be written to")
    }
}

impl Set {
    fn new(held: Vec<Held>, version: u64) -> Self {
        let keys: Vec<&str> = held.iter().map(|held| held.key.jwk()).collect();
        let jwks = Bytes::from(format!(r#"{{"keys":[{}]}}"#, keys.join(",")));
        Self { held, jwks, version }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.current.load();
        f.debug_struct("Keys").field("purpose", &self.purpose).field("held", &set.held).finish_non_exhaustive()
    }
}

impl fmt::Display for CannotSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing can be signed at present")
    }
}

impl std::error::Error for CannotSign {}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

/// The purpose is part of what a record is sealed with, so that no key can be put where it would sign something else.
fn disk_key(purpose: Purpose, kid: &str) -> Vec<u8> {
    [purpose.label().as_bytes(), b"\0", kid.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
