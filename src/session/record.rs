//! A session on disk: the one place where a change of sessions is turned into a batch, and back (R27).
//!
//! A record is JSON, so that a later version can add a field: give it `#[serde(default)]`, and records without it stay
//! readable. It holds what the store in memory holds; when a session was last seen is kept apart, many in a record
//! (`seen`), because it changes all the time.

use std::{borrow::Cow, collections::HashSet, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{OpenedFrom, Session, SessionKey};
use crate::{
    clock::Timestamp,
    durable::{Batch, Table},
    identity::{Factor, Identity, IdentityParts, Source, Via},
};

/// The names are the format.
#[derive(Deserialize, Serialize)]
struct Record<'a> {
    version: u8,
    #[serde(borrow)]
    realm: Cow<'a, str>,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    email: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_false")]
    email_verified: bool,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    claims: Map<String, Value>,
    /// Milliseconds since the epoch, as all times here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    two_factors: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    source: Option<SourceRecord<'a>>,
    created: u64,
    expires: u64,
    /// Name of the old cookie, for a session that waits for one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    waits_for: Option<Cow<'a, str>>,
    /// The device and the address it was opened from.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    opened_from: Option<(Cow<'a, str>, IpAddr)>,
    #[serde(default, skip_serializing_if = "is_false")]
    remembered: bool,
    /// The key that it is tied to; only beside `opened_from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound_to: Option<[u8; 32]>,
}

/// What opened it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum SourceRecord<'a> {
    Admin {
        #[serde(borrow)]
        token: Cow<'a, str>,
    },
    User {
        #[serde(borrow)]
        provider: Cow<'a, str>,
        proof: [u8; 16],
    },
}

/// A session that was read from disk.
pub(super) struct Restored {
    pub(super) key: SessionKey,
    pub(super) identity: Arc<Identity>,
    pub(super) created: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) waits_for: Option<Box<str>>,
    pub(super) opened_from: Option<OpenedFrom>,
    pub(super) remembered: bool,
}

/// Realms, providers and the like that were read before: a million sessions share a few.
#[derive(Default)]
pub(super) struct Realms(HashSet<Arc<str>>);

/// A session begins, and others end with that.
pub(super) fn opened(session: &Session, waits_for: Option<&str>, ending: &[SessionKey]) -> Batch {
    ended(ending).put(Table::Sessions, session.key().bytes(), Record::of(session, waits_for).to_bytes())
}

/// A session gets another identity, unless it has ended meanwhile.
pub(super) fn renewed(session: &Session, identity: &Identity) -> Batch {
    Batch::new().replace(Table::Sessions, session.key().bytes(), Record::with(session, identity, None).to_bytes())
}

/// Sessions end.
pub(super) fn ended(keys: &[SessionKey]) -> Batch {
    keys.iter().fold(Batch::new(), |batch, key| batch.remove(Table::Sessions, key.bytes()))
}

/// Reads a record; an error tells what is wrong with it, and nothing of its content.
pub(super) fn read(key: &[u8], text: &[u8], realms: &mut Realms) -> Result<Restored, &'static str> {
    let key = SessionKey::from_bytes(key).ok_or("a key is no session key")?;
    let record: Record<'_> = serde_json::from_slice(text).map_err(|_| "a record cannot be read")?;
    if record.version != VERSION {
        return Err("a record was written by another version of this program");
    }
    let owned = |texts: Vec<Cow<'_, str>>| texts.into_iter().map(Cow::into_owned).collect();
    let identity = Identity::new(IdentityParts {
        realm: realms.shared(&record.realm),
        subject: record.subject.into_owned(),
        name: record.name.map(Cow::into_owned),
        email: record.email.map(Cow::into_owned),
        email_verified: record.email_verified,
        roles: owned(record.roles),
        groups: owned(record.groups),
        scopes: owned(record.scopes),
        claims: record.claims,
        auth_time: record.auth_time.map(Timestamp::from_unix_millis),
        factor: if record.two_factors { Factor::Two } else { Factor::One },
        via: Via::Session,
    });
    let source = record.source.map(|source| source.into_source(realms));
    let identity = identity.map_err(|_| "a subject is unfit")?.with_source(source);
    Ok(Restored {
        key,
        identity: Arc::new(identity),
        created: Timestamp::from_unix_millis(record.created),
        expires: Timestamp::from_unix_millis(record.expires),
        waits_for: record.waits_for.map(|name| (*name).into()),
        opened_from: record.opened_from.map(|(device, address)| OpenedFrom {
            device: (*device).into(),
            address,
            key: record.bound_to.map(Box::new),
        }),
        remembered: record.remembered,
    })
}

impl<'a> Record<'a> {
    fn of(session: &'a Session, waits_for: Option<&'a str>) -> Self {
        Self::with(session, session.identity(), waits_for)
    }

    fn with(session: &'a Session, identity: &'a Identity, waits_for: Option<&'a str>) -> Self {
        Self {
            version: VERSION,
            realm: Cow::Borrowed(identity.realm()),
            subject: Cow::Borrowed(identity.subject()),
            name: identity.name().map(Cow::Borrowed),
            email: identity.email().map(Cow::Borrowed),
            email_verified: identity.email_verified(),
            roles: identity.roles().map(Cow::Borrowed).collect(),
            groups: identity.groups().map(Cow::Borrowed).collect(),
            scopes: identity.scopes().map(Cow::Borrowed).collect(),
            claims: identity.claims().cloned().unwrap_or_default(),
            auth_time: identity.auth_time().map(Timestamp::unix_millis),
            source: identity.source().map(SourceRecord::of),
            two_factors: identity.factor() == Factor::Two,
            created: session.created.unix_millis(),
            expires: session.expires.unix_millis(),
            waits_for: waits_for.map(Cow::Borrowed),
            opened_from: session.opened_from().map(|from| (Cow::Borrowed(&*from.device), from.address)),
            remembered: session.is_remembered(),
            bound_to: session.bound_to().copied(),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        // Texts, numbers and a map with text keys: there is nothing in it that JSON cannot say.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl<'a> SourceRecord<'a> {
    fn of(source: &'a Source) -> Self {
        match source {
            Source::Admin { token } => Self::Admin { token: Cow::Borrowed(token) },
            Source::User { provider, proof } => Self::User { provider: Cow::Borrowed(provider), proof: *proof },
        }
    }

    fn into_source(self, names: &mut Realms) -> Source {
        match self {
            Self::Admin { token } => Source::Admin { token: names.shared(&token) },
            Self::User { provider, proof } => Source::User { provider: names.shared(&provider), proof },
        }
    }
}

impl Realms {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

const VERSION: u8 = 1;
