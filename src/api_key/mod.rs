//! API keys: long-lived secrets for programs, made by us only.
//!
//! In: the text that a request carries. Out: the [`ApiKey`] that it is, with an identity whose headers were prepared
//! once, or a [`Void`] that says why it counts for nothing. `text` is what a key looks like; of it only the SHA-256 is
//! kept: in gateway.toml, or in the [`Store`] of those that the admin API makes. Invariants: the id finds a key and
//! opens nothing; the whole text is compared by its hash, in constant time; a key that was revoked is void as long as
//! that is remembered, whatever a reload brings; one that was made is void while its maker may not make it (R5, R29).

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

use crate::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityError, IdentityParts, Via},
    revocation::{Checked, Revocations},
    secret::{Secret, constant_time_eq},
};

mod record;
mod store;
mod text;

pub use store::{MakeError, Maker, Making, Store};
pub use text::{KeyId, KeyText, PREFIX};

/// What a key stands for, as it is written down: everything but its text.
#[derive(Clone, Debug)]
pub struct Description {
    /// The public part of its text.
    pub id: KeyId,
    /// SHA-256 of its text.
    pub sha256: [u8; 32],
    /// What it is called by its owner.
    pub name: Box<str>,
    /// What the subject means something in (R5).
    pub realm: Arc<str>,
    /// Who acts with it.
    pub subject: String,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// When it ends; `None`: when it is revoked.
    pub expires: Option<Timestamp>,
    /// Whence it counts; empty: from everywhere.
    pub sources: Vec<IpNet>,
    /// How it came to be; `None`: it is written in gateway.toml.
    pub made: Option<Made>,
}

/// How a key came to be that the admin API has made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The name of the admin token.
    pub by: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// What its maker wrote down about it.
    pub note: Box<str>,
}

/// One key. Immutable but for the time it was last used, and for whether it still counts.
pub struct ApiKey {
    id: KeyId,
    digest: Secret<[u8; 32]>,
    name: Box<str>,
    identity: Arc<Identity>,
    expires: Option<Timestamp>,
    sources: Box<[IpNet]>,
    /// Milliseconds since the epoch, or [`NEVER`].
    last_used: AtomicU64,
    checked: Checked,
    made: Option<Made>,
    /// It was revoked, whether or not the disk knows yet.
    struck: AtomicBool,
    /// Its maker is gone, or may not grant any more what it holds.
    orphan: AtomicBool,
}

/// Keys by their ids.
pub type ApiKeys = HashMap<KeyId, Arc<ApiKey>>;

/// Every key that there is.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Those of gateway.toml.
    pub fixed: &'a ApiKeys,
    /// Those that were made.
    pub made: &'a Arc<Store>,
}

/// What has become of something that was accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Condition {
    /// It lives.
    Lives,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Ended,
}

/// Why a key counts for nothing. For logs and metrics only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Void {
    /// The client's address is in none of its networks.
    Address,
    /// It is past its end.
    Expired,
    /// It has another form, or its check part is wrong: a typing error, or no key of ours.
    Malformed,
    /// Its maker is gone, or may not grant any more what it holds.
    Orphan,
    /// It was revoked.
    Revoked,
    /// No key has this id, or its secret part is wrong.
    Unknown,
}

impl Void {
    /// The word for logs and metrics: a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Address => "api_key_address",
            Self::Expired => "api_key_expired",
            Self::Malformed => "api_key_malformed",
            Self::Orphan => "api_key_orphan",
            Self::Revoked => "api_key_revoked",
            Self::Unknown => "api_key_unknown",
        }
    }
}

impl ApiKey {
    /// A key that is to stand for this.
    ///
    /// # Errors
    /// [`IdentityError`] when the subject is unfit.
    pub fn new(description: Description) -> Result<Self, IdentityError> {
        let identity = Identity::new(IdentityParts {
            realm: description.realm,
            subject: description.subject,
            name: None,
            email: None,
            email_verified: false,
            roles: description.roles,
            groups: description.groups,
            scopes: description.scopes,
            claims: serde_json::Map::new(),
            auth_time: None,
            factor: Factor::One,
            via: Via::ApiKey,
        })?;
        Ok(Self {
            id: description.id,
            digest: Secret::new(description.sha256),
            name: description.name,
            identity: Arc::new(identity),
            expires: description.expires,
            sources: description.sources.into(),
            last_used: AtomicU64::new(NEVER),
            checked: Checked::default(),
            made: description.made,
            struck: AtomicBool::new(false),
            orphan: AtomicBool::new(false),
        })
    }

    /// What names it; opens nothing.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What it is called.
    pub const fn name(&self) -> &str {
        &self.name
    }

    /// Who acts with it.
    pub const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// When it ends by itself.
    pub const fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Whence it counts; empty: from everywhere.
    pub const fn sources(&self) -> &[IpNet] {
        &self.sources
    }

    /// How it came to be; `None`: it is written in gateway.toml.
    pub const fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    /// Whether it counts from this address.
    pub fn counts_from(&self, address: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|network| network.contains(&address))
    }

    /// The last use, to the second.
    pub fn last_used(&self) -> Option<Timestamp> {
        match self.last_used.load(Ordering::Relaxed) {
            NEVER => None,
            millis => Some(Timestamp::from_unix_millis(millis)),
        }
    }

    /// Whether it was revoked.
    pub fn is_revoked(&self, revocations: &Revocations) -> bool {
        self.is_struck() || revocations.is_key_struck(&self.checked, self.id.as_str())
    }

    /// Whether its maker is gone, or may not grant any more what it holds.
    pub fn is_orphan(&self) -> bool {
        self.orphan.load(Ordering::Relaxed)
    }

    /// Whether it is past its end.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// Whether this is its text.
    pub fn is(&self, text: &KeyText<'_>) -> bool {
        self.id == text.id() && constant_time_eq(self.digest.expose(), &text.digest())
    }

    /// What has become of it since it was accepted. What the key of its id is now decides, not what it was: a reload
    /// may have taken it away, made another of it, shortened its life or changed its rights (R29).
    pub fn condition(&self, known: Known<'_>, revocations: &Revocations, now: Timestamp) -> Condition {
        match known.find(&self.id, self.digest.expose()) {
            Some(key) if key.is_expired(now) => Condition::Expired,
            Some(key) if key.is_orphan() || key.is_revoked(revocations) => Condition::Ended,
            Some(key) if !key.identity.stands_for_the_same(&self.identity) => Condition::Ended,
            Some(_) => Condition::Lives,
            None => Condition::Ended,
        }
    }

    /// Takes over when it was last used, from before a reload or a restart.
    pub fn was_used(&self, millis: u64) {
        self.last_used.fetch_max(millis, Ordering::Relaxed);
    }

    /// Notes a use; at most one write a second. Whether it wrote.
    fn touch(&self, now: Timestamp) -> bool {
        let seen = self.last_used.load(Ordering::Relaxed);
        let due = now.unix_millis() >= seen.saturating_add(TOUCH_GRANULARITY_MILLIS);
        if due {
            self.last_used.store(now.unix_millis(), Ordering::Relaxed);
        }
        due
    }

    fn is_struck(&self) -> bool {
        self.struck.load(Ordering::Acquire)
    }

    /// Whether it acts for this subject.
    pub fn is_of(&self, realm: &str, subject: &str) -> bool {
        **self.identity.realm() == *realm && self.identity.subject() == subject
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> Known<'a> {
    /// The key with this id and hash: the id alone finds nothing that counts.
    fn find(self, id: &KeyId, digest: &[u8; 32]) -> Option<Arc<ApiKey>> {
        let is = |key: &&Arc<ApiKey>| constant_time_eq(key.digest.expose(), digest);
        self.fixed.get(id).filter(is).cloned().or_else(|| self.made.find(id).filter(|key| is(&key)))
    }

    /// The key of this text, whether or not it counts.
    pub fn of_text(self, text: &KeyText<'_>) -> Option<Arc<ApiKey>> {
        self.find(&text.id(), &text.digest())
    }

    /// The key of this id; of two with one id, that of gateway.toml.
    pub fn of_id(self, id: &KeyId) -> Option<Arc<ApiKey>> {
        self.fixed.get(id).cloned().or_else(|| self.made.find(id))
    }

    /// The ids of the keys of gateway.toml that belong to a subject.
    pub fn fixed_of(self, realm: &'a str, subject: &'a str) -> impl Iterator<Item = KeyId> + 'a {
        self.fixed.values().filter(move |key| key.is_of(realm, subject)).map(|key| key.id)
    }
}

/// Judges the text of a key that comes from this address.
///
/// # Errors
/// [`Void`], the first reason that was found.
pub fn verify(
    text: &[u8],
    known: Known<'_>,
    revocations: &Revocations,
    address: IpAddr,
    now: Timestamp,
) -> Result<Arc<ApiKey>, Void> {
    let text = KeyText::parse(text).ok_or(Void::Malformed)?;
    let Some(key) = known.of_text(&text) else {
        return Err(if text.is_whole() { Void::Unknown } else { Void::Malformed });
    };
    if key.is_revoked(revocations) {
        return Err(Void::Revoked);
    }
    if key.is_orphan() {
        return Err(Void::Orphan);
    }
    if key.is_expired(now) {
        return Err(Void::Expired);
    }
    if !key.counts_from(address) {
        return Err(Void::Address);
    }
    if key.touch(now) {
        known.made.note_use(&key.id);
    }
    Ok(key)
}

/// `last_used` of a key that was not used yet.
const NEVER: u64 = 0;

const TOUCH_GRANULARITY_MILLIS: u64 = 1000;

#[cfg(test)]
mod tests;
