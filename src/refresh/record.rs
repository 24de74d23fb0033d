//! A family on disk: the one place where a change of families is turned into a batch, and back (R27).
//!
//! A record is JSON, so that a later version can add a field: give it `#[serde(default)]`. It holds hashes, marks and
//! numbers from which no token follows.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Delivery, Family, Opening, State, Step,
    token::{Digest, FamilyId, Seal},
};
use crate::{
    clock::Timestamp,
    durable::{Batch, Table},
    session::SessionKey,
};

/// The names are the format.
#[derive(Deserialize, Serialize)]
struct Record {
    version: u8,
    client: Box<str>,
    /// The session's key, in hexadecimal digits.
    session: String,
    delivery: Delivery,
    /// The key that its tokens are bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<[u8; 32]>,
    /// Milliseconds since the epoch, as all times here.
    began: u64,
    seal: Seal,
    current: Digest,
    refreshed: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spent: Vec<SpentRecord>,
}

#[derive(Deserialize, Serialize)]
struct SpentRecord {
    token: Digest,
    nonce: [u8; 32],
    at: u64,
    network: IpAddr,
}

/// A family begins.
pub(super) fn began(family: &Family, state: &State) -> Batch {
    Batch::new().put(Table::Refresh, family.id.bytes(), to_bytes(family, state))
}

/// A family goes on, unless it has ended meanwhile.
pub(super) fn went_on(family: &Family, state: &State) -> Batch {
    Batch::new().replace(Table::Refresh, family.id.bytes(), to_bytes(family, state))
}

/// Families end.
pub(super) fn ended<'a>(ids: impl IntoIterator<Item = &'a FamilyId>) -> Batch {
    ids.into_iter().fold(Batch::new(), |batch, id| batch.remove(Table::Refresh, id.bytes()))
}

/// Reads a record; an error tells what is wrong with it, and nothing of its content.
pub(super) fn read(key: &[u8], text: &[u8]) -> Result<Family, &'static str> {
    let id = FamilyId::from_bytes(key).ok_or("a key is no name of a family")?;
    let record: Record = serde_json::from_slice(text).map_err(|_| "a record cannot be read")?;
    if record.version != VERSION {
        return Err("a record was written by another version of this program");
    }
    let spent = record.spent.into_iter().map(|spent| Step {
        spent: spent.token,
        nonce: spent.nonce,
        at: Timestamp::from_unix_millis(spent.at),
        network: spent.network,
    });
    let state = State {
        current: record.current,
        refreshed: Timestamp::from_unix_millis(record.refreshed),
        recent: spent.collect(),
        pending: None,
    };
    let session = SessionKey::parse(&record.session).ok_or("a session's key cannot be read")?;
    let began = Timestamp::from_unix_millis(record.began);
    let opening = Opening { session: &session, client: &record.client, delivery: record.delivery, key: record.key };
    Ok(Family::with(id, opening, began, record.seal, state))
}

pub(super) fn to_bytes(family: &Family, state: &State) -> Vec<u8> {
    let record = Record {
        version: VERSION,
        client: family.client.clone(),
        session: family.session.to_string(),
        delivery: family.delivery,
        key: family.key(),
        began: family.began.unix_millis(),
        seal: family.seal,
        current: state.current,
        refreshed: state.refreshed.unix_millis(),
        spent: state
            .recent
            .iter()
            .map(|step| SpentRecord {
                token: step.spent,
                nonce: step.nonce,
                at: step.at.unix_millis(),
                network: step.network,
            })
            .collect(),
    };
    // Texts, numbers and lists: there is nothing in it that JSON cannot say.
    serde_json::to_vec(&record).unwrap_or_default()
}

const VERSION: u8 = 1;
