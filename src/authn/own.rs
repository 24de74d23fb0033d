//! Access tokens that we have made ourselves: each is a child of a session or of an API key, and no better than that.
//!
//! In: the claims of a token that was verified, and whatever it may come from. Out: its [`Parent`], while that lives
//! and says of its owner what the token says. Invariants: the end of the parent is felt with the next request, also for
//! a token that the cache knows, and by whatever is under way; an identity is the parent's, not the token's.
//! A moment before which everything of a subject is void does not concern these tokens: their parents end with it, and
//! whoever logs in anew is not struck by it whatever the clock does (R28).

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use super::{
    json::{Json, Members},
    jwt::JwtError,
};
use crate::{
    api_key::{ApiKey, Condition, KeyId, Known},
    clock::Timestamp,
    identity::{Identity, IdentityParts, Via},
    refresh::{Families, Family, FamilyId},
    revocation::Revocations,
    session::{self, Session, Store},
};

/// The claims by which a token names what it comes from.
pub mod claim {
    /// The client that it was made for.
    pub const CLIENT: &str = "client_id";
    /// The family of refresh tokens.
    pub const FAMILY: &str = "grant";
    /// The API key.
    pub const KEY: &str = "api_key";
    /// What the subject means something in.
    pub const REALM: &str = "realm";
}

/// What a token of ours comes from: by name, and, once somebody has asked, itself.
#[derive(Debug)]
pub struct Child {
    name: Name,
    client: Box<str>,
    parent: OnceLock<Parent>,
}

#[derive(Debug)]
enum Name {
    Family(FamilyId),
    Key(KeyId),
}

/// What a token of ours comes from.
#[derive(Debug)]
pub enum Parent {
    /// A session, through a family of refresh tokens.
    Session {
        /// The family.
        family: Arc<Family>,
        /// The session.
        session: Arc<Session>,
        /// The session's, by way of a token.
        identity: Arc<Identity>,
    },
    /// An API key.
    Key {
        /// The key.
        key: Arc<ApiKey>,
        /// The key's, by way of a token.
        identity: Arc<Identity>,
    },
}

/// Where parents are looked for, and what they are judged by.
#[derive(Clone, Copy)]
pub struct Parents<'a> {
    /// Families of refresh tokens.
    pub families: &'a Families,
    /// Sessions.
    pub sessions: &'a Store,
    /// `[session]`.
    pub settings: &'a session::Settings,
    /// API keys.
    pub keys: Known<'a>,
    /// What was revoked.
    pub revocations: &'a Revocations,
}

impl Child {
    /// Reads what a token comes from, and whether its client is still listed.
    pub(super) fn read(claims: &Members<'_>, clients: &[Box<str>]) -> Result<Self, JwtError> {
        let text = |name| claims.get(name).and_then(Json::as_str);
        let client = text(claim::CLIENT).ok_or(JwtError::MissingClaim(claim::CLIENT))?;
        if !clients.iter().any(|listed| **listed == *client) {
            return Err(JwtError::Parentless);
        }
        let name = match (text(claim::FAMILY), text(claim::KEY)) {
            (Some(family), None) => FamilyId::parse(family).map(Name::Family),
            (None, Some(key)) => KeyId::parse(key).map(Name::Key),
            (None, None) | (Some(_), Some(_)) => None,
        };
        Ok(Self { name: name.ok_or(JwtError::Parentless)?, client: client.into(), parent: OnceLock::new() })
    }

    /// The client that the token was made for.
    pub const fn client(&self) -> &str {
        &self.client
    }

    /// What the token comes from, if that lives and counts from this address. `said`: what the token says; `issuer`:
    /// the configured name of ourselves.
    ///
    /// # Errors
    /// [`JwtError::Parentless`].
    pub fn parent(
        &self,
        said: &Identity,
        issuer: &Arc<str>,
        parents: Parents<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<&Parent, JwtError> {
        let parent = match self.parent.get() {
            Some(parent) => parent,
            None => {
                let found = self.find(said, issuer, parents).ok_or(JwtError::Parentless)?;
                self.parent.get_or_init(|| found)
            }
        };
        let counts_from_here = match parent {
            Parent::Session { .. } => true,
            Parent::Key { key, .. } => parents.keys.of_id(&key.id()).is_some_and(|key| key.counts_from(address)),
        };
        match parent.condition(parents.settings, parents.keys, parents.revocations, now) {
            Condition::Lives if counts_from_here => Ok(parent),
            Condition::Lives | Condition::Expired | Condition::Ended => Err(JwtError::Parentless),
        }
    }

    /// What has become of the parent, for whatever is under way. Whoever did not ask before has nothing under way.
    pub(super) fn condition(
        &self,
        settings: &session::Settings,
        keys: Known<'_>,
        revocations: &Revocations,
        now: Timestamp,
    ) -> Condition {
        self.parent.get().map_or(Condition::Ended, |parent| parent.condition(settings, keys, revocations, now))
    }

    fn find(&self, said: &Identity, issuer: &Arc<str>, parents: Parents<'_>) -> Option<Parent> {
        let own = |identity: &Arc<Identity>| {
            let parts = IdentityParts { via: Via::Jwt(Arc::clone(issuer)), ..identity.to_parts() };
            Identity::new(parts).ok().map(Arc::new)
        };
        match self.name {
            Name::Family(id) => {
                let family = parents.families.find(&id)?;
                let session = parents.sessions.find(family.session())?;
                if !says_the_same(said, session.identity()) {
                    return None;
                }
                let identity = own(session.identity())?;
                Some(Parent::Session { family, session, identity })
            }
            Name::Key(id) => {
                let key = parents.keys.of_id(&id)?;
                if !says_the_same(said, key.identity()) {
                    return None;
                }
                let identity = own(key.identity())?;
                Some(Parent::Key { key, identity })
            }
        }
    }
}

impl Parent {
    /// Who the caller is.
    pub const fn identity(&self) -> &Arc<Identity> {
        match self {
            Self::Session { identity, .. } | Self::Key { identity, .. } => identity,
        }
    }

    /// The session that is active when the token is used.
    pub const fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Self::Session { session, .. } => Some(session),
            Self::Key { .. } => None,
        }
    }

    fn condition(
        &self,
        settings: &session::Settings,
        keys: Known<'_>,
        revocations: &Revocations,
        now: Timestamp,
    ) -> Condition {
        match self {
            Self::Session { session, .. } if now >= session.expires(settings) => Condition::Expired,
            Self::Session { family, session, .. } if family.is_ended() || session.is_ended() => Condition::Ended,
            Self::Session { session, .. } if session.is_expired(settings, now) => Condition::Expired,
            Self::Session { .. } => Condition::Lives,
            Self::Key { key, .. } => key.condition(keys, revocations, now),
        }
    }
}

/// Whether a token was made when its owner was who its parent says now (R29).
fn says_the_same(token: &Identity, parent: &Identity) -> bool {
    let seconds = |identity: &Identity| identity.auth_time().map(Timestamp::unix_seconds);
    token.stands_for_the_same(parent) && seconds(token) == seconds(parent)
}
