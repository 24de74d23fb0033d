//! What is on disk of keys that were made: one record for each, and many last uses in one (R27).
//!
//! A key's record is JSON under `k` and its id, so that a later version can add a field: give it `#[serde(default)]`,
//! and records without it stay readable. Last uses change all the time and are kept apart: under `u` and the number of
//! a group of ids, six bytes of milliseconds behind each id, those of keys in gateway.toml among them.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{ApiKey, Description, KeyId, Made, NEVER};
use crate::{
    clock::Timestamp,
    durable::{Batch, Table},
};

/// The names are the format.
#[derive(Deserialize, Serialize)]
struct Record<'a> {
    version: u8,
    sha256: [u8; 32],
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    realm: Cow<'a, str>,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<Cow<'a, str>>,
    /// Milliseconds since the epoch, as all times here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    made_by: Cow<'a, str>,
    made_at: u64,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    note: Cow<'a, str>,
}

/// What one record holds.
pub(super) enum Stored {
    Key(Box<ApiKey>),
    Uses(Vec<(KeyId, u64)>),
}

/// Reads a record.
pub(super) fn read(key: &[u8], text: &[u8]) -> Result<Stored, &'static str> {
    match key.split_first() {
        Some((&KEY, id)) => {
            let id = std::str::from_utf8(id).ok().and_then(KeyId::parse).ok_or("an id is none")?;
            let record = serde_json::from_slice(text).map_err(|_| UNREADABLE)?;
            read_key(id, record).map(|key| Stored::Key(Box::new(key)))
        }
        Some((&USES, _)) => read_uses(text).map(Stored::Uses),
        Some(_) | None => Err(UNREADABLE),
    }
}

/// The key that a record is of; `None`: it is of last uses.
pub(super) fn id(key: &[u8]) -> Option<KeyId> {
    let id = key.strip_prefix(&[KEY])?;
    std::str::from_utf8(id).ok().and_then(KeyId::parse)
}

/// Adds the record of a key.
pub(super) fn put(batch: Batch, key: &ApiKey, made: &Made) -> Batch {
    let identity = key.identity();
    let texts = |list: &mut dyn Iterator<Item = &str>| list.map(|text| Cow::Owned(text.to_owned())).collect();
    let record = Record {
        version: VERSION,
        sha256: *key.digest.expose(),
        name: Cow::Borrowed(key.name()),
        realm: Cow::Borrowed(identity.realm()),
        subject: Cow::Borrowed(identity.subject()),
        roles: texts(&mut identity.roles()),
        groups: texts(&mut identity.groups()),
        scopes: texts(&mut identity.scopes()),
        expires: key.expires().map(Timestamp::unix_millis),
        sources: key.sources().iter().map(|network| Cow::Owned(network.to_string())).collect(),
        made_by: Cow::Borrowed(&made.by),
        made_at: made.at.unix_millis(),
        note: Cow::Borrowed(&made.note),
    };
    // Nothing in it can fail to be written as JSON.
    let text = serde_json::to_vec(&record).unwrap_or_default();
    batch.put(Table::Keys, &key_of(key.id()), text)
}

/// Removes the record of a key.
pub(super) fn remove(batch: Batch, id: KeyId) -> Batch {
    batch.remove(Table::Keys, &key_of(id))
}

/// Adds the last uses of a group.
pub(super) fn put_uses<'a>(batch: Batch, group: u8, keys: impl Iterator<Item = &'a Arc<ApiKey>>) -> Batch {
    let mut text = Vec::new();
    for key in keys {
        let millis = key.last_used.load(std::sync::atomic::Ordering::Relaxed);
        if millis != NEVER {
            text.extend_from_slice(key.id().as_str().as_bytes());
            text.extend_from_slice(&millis.to_be_bytes()[2..]);
        }
    }
    batch.put(Table::Keys, &[USES, group], text)
}

fn read_key(id: KeyId, record: Record<'_>) -> Result<ApiKey, &'static str> {
    if record.version != VERSION {
        return Err("it was written by a newer version");
    }
    let texts = |list: Vec<Cow<'_, str>>| list.into_iter().map(Cow::into_owned).collect();
    // One network less could be all of them.
    let sources = record.sources.iter().map(|network| network.parse().map_err(|_| UNREADABLE));
    let sources = sources.collect::<Result<_, _>>()?;
    ApiKey::new(Description {
        id,
        sha256: record.sha256,
        name: record.name.into(),
        realm: record.realm.into(),
        subject: record.subject.into_owned(),
        roles: texts(record.roles),
        groups: texts(record.groups),
        scopes: texts(record.scopes),
        expires: record.expires.map(Timestamp::from_unix_millis),
        sources,
        made: Some(Made {
            by: record.made_by.into(),
            at: Timestamp::from_unix_millis(record.made_at),
            note: record.note.into(),
        }),
    })
    .map_err(|_| UNREADABLE)
}

fn read_uses(text: &[u8]) -> Result<Vec<(KeyId, u64)>, &'static str> {
    let (entries, []) = text.as_chunks::<ENTRY>() else {
        return Err(UNREADABLE);
    };
    let entry = |entry: &[u8; ENTRY]| {
        let (id, millis) = entry.split_at(KeyId::LENGTH);
        let id = std::str::from_utf8(id).ok().and_then(KeyId::parse).ok_or(UNREADABLE)?;
        Ok((id, millis.iter().fold(0, |millis, byte| millis << 8 | u64::from(*byte))))
    };
    entries.iter().map(entry).collect()
}

fn key_of(id: KeyId) -> Vec<u8> {
    [&[KEY], id.as_str().as_bytes()].concat()
}

const VERSION: u8 = 1;
const KEY: u8 = b'k';
const USES: u8 = b'u';
/// An id and six bytes of milliseconds: enough for eight thousand years.
const ENTRY: usize = KeyId::LENGTH + 6;
const UNREADABLE: &str = "a record cannot be read";
