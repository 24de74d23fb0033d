//! API keys: long-lived secrets for programs, made by us only.
//!
//! In: the text that a request carries. Out: the [`ApiKey`] that it is, with an identity whose headers were prepared
//! once, or a [`Void`] that says why it counts for nothing. `text` is what a key looks like; of it only the SHA-256 is
//! kept, in gateway.toml. Invariants: the id finds a key and opens nothing; the whole text is compared by its hash, in
//! constant time; a key that was revoked is void as long as that is remembered, whatever a reload brings.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

use crate::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityError, IdentityParts, Via},
    revocation::{Checked, Revocations},
    secret::{Secret, constant_time_eq},
};

mod text;

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
}

/// One key. Immutable but for the time it was last used.
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
}

/// All keys, by their ids.
pub type ApiKeys = HashMap<KeyId, Arc<ApiKey>>;

/// Why a key counts for nothing. For logs and metrics only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Void {
    /// The client's address is in none of its networks.
    Address,
    /// It is past its end.
    Expired,
    /// It has another form, or its check part is wrong: a typing error, or no key of ours.
    Malformed,
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

    /// The last use, to the second.
    pub fn last_used(&self) -> Option<Timestamp> {
        match self.last_used.load(Ordering::Relaxed) {
            NEVER => None,
            millis => Some(Timestamp::from_unix_millis(millis)),
        }
    }

    /// Whether it was revoked.
    pub fn is_revoked(&self, revocations: &Revocations) -> bool {
        revocations.is_key_struck(&self.checked, self.id.as_str())
    }

    /// Whether it is past its end.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// Whether this is its text.
    pub fn is(&self, text: &KeyText<'_>) -> bool {
        self.id == text.id() && constant_time_eq(self.digest.expose(), &text.digest())
    }

    /// Whether it is one of these.
    pub fn is_among(&self, keys: &ApiKeys) -> bool {
        keys.get(&self.id).is_some_and(|key| constant_time_eq(key.digest.expose(), self.digest.expose()))
    }

    /// Notes a use; at most one write a second.
    fn touch(&self, now: Timestamp) {
        let seen = self.last_used.load(Ordering::Relaxed);
        if now.unix_millis() >= seen.saturating_add(TOUCH_GRANULARITY_MILLIS) {
            self.last_used.store(now.unix_millis(), Ordering::Relaxed);
        }
    }

    fn is_of(&self, realm: &str, subject: &str) -> bool {
        **self.identity.realm() == *realm && self.identity.subject() == subject
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Judges the text of a key that comes from this address.
///
/// # Errors
/// [`Void`], the first reason that was found.
pub fn verify(
    text: &[u8],
    keys: &ApiKeys,
    revocations: &Revocations,
    address: IpAddr,
    now: Timestamp,
) -> Result<Arc<ApiKey>, Void> {
    let text = KeyText::parse(text).ok_or(Void::Malformed)?;
    let digest = text.digest();
    let Some(key) = keys.get(&text.id()).filter(|key| constant_time_eq(key.digest.expose(), &digest)) else {
        return Err(if text.is_whole() { Void::Unknown } else { Void::Malformed });
    };
    if key.is_revoked(revocations) {
        return Err(Void::Revoked);
    }
    if key.is_expired(now) {
        return Err(Void::Expired);
    }
    if !key.sources.is_empty() && !key.sources.iter().any(|network| network.contains(&address)) {
        return Err(Void::Address);
    }
    key.touch(now);
    Ok(Arc::clone(key))
}

/// The ids of the keys of a subject.
pub fn ids_of<'a>(keys: &'a ApiKeys, realm: &'a str, subject: &'a str) -> impl Iterator<Item = KeyId> + 'a {
    keys.values().filter(move |key| key.is_of(realm, subject)).map(|key| key.id)
}

/// `last_used` of a key that was not used yet.
const NEVER: u64 = 0;

const TOUCH_GRANULARITY_MILLIS: u64 = 1000;

#[cfg(test)]
mod tests;
