//! When sessions were last seen, on disk: the sessions whose keys begin with the same two bytes share a record, so that
//! a busy million is 65,536 short records and not a million.
//!
//! In: the store, a segment at a time. Out: records for those groups in which something changed; at start the times
//! again. Requests write the session's own time, as they do without a disk, and with it, once a second, the mark of its
//! group: where nothing is marked, nobody looks.

use std::collections::HashMap;

use super::{NEVER_SEEN, Session, SessionKey};
use crate::durable::{Batch, Table};

/// Times by the first bytes of keys, as they were read.
#[derive(Default)]
pub(super) struct Seen(HashMap<[u8; GROUP], Box<[u8]>>);

impl Seen {
    /// Takes a record.
    pub(super) fn read(&mut self, group: &[u8], entries: &[u8]) -> Result<(), &'static str> {
        let group = group.try_into().map_err(|_| "a key is no beginning of session keys")?;
        if !entries.len().is_multiple_of(ENTRY) {
            return Err("a record cannot be read");
        }
        self.0.insert(group, entries.into());
        Ok(())
    }

    /// When a session was last seen, in milliseconds since the epoch; `None`: not since it was opened.
    pub(super) fn of(&self, key: &SessionKey) -> Option<u64> {
        let (group, rest) = parts(key);
        let mut entries = self.0.get(&group)?.chunks_exact(ENTRY);
        let entry = entries.find(|entry| entry.starts_with(&rest))?;
        let millis = entry.get(REST..)?.iter().fold(0, |millis, byte| millis << 8 | u64::from(*byte));
        Some(millis)
    }
}

/// The sessions of one segment, as `(key, last seen)`; those that have not been seen since they were opened are of no
/// interest. Adds the record of each group in which a session was seen or has gone, by the second byte of its keys.
pub(super) fn write(
    mut batch: Batch,
    segment: u8,
    sessions: &mut Vec<(SessionKey, u64)>,
    has_changed: impl Fn(u8) -> bool,
) -> Batch {
    sessions.sort_unstable_by_key(|(key, _)| *key);
    let mut rest = sessions.as_slice();
    for second in 0..=u8::MAX {
        let len = rest.partition_point(|(key, _)| key.bytes()[1] <= second);
        let (group, after) = rest.split_at(len);
        rest = after;
        if !has_changed(second) {
            continue;
        }
        let key = [segment, second];
        if group.is_empty() {
            batch = batch.remove(Table::Seen, &key);
            continue;
        }
        let mut entries = Vec::with_capacity(group.len() * ENTRY);
        for (key, seen) in group {
            entries.extend_from_slice(&parts(key).1);
            entries.extend_from_slice(&seen.to_be_bytes()[8 - MILLIS..]);
        }
        batch = batch.put(Table::Seen, &key, entries);
    }
    batch
}

/// What [`write()`] wants to know of a session.
pub(super) fn entry(session: &Session) -> Option<(SessionKey, u64)> {
    let seen = session.last_seen().unix_millis();
    let of_interest = !session.is_waiting() && seen > session.created().unix_millis() && seen != NEVER_SEEN;
    of_interest.then_some((*session.key(), seen))
}

fn parts(key: &SessionKey) -> ([u8; GROUP], [u8; REST]) {
    let [a, b, c, d, e, f, g, h, i, j, ..] = *key.bytes();
    ([a, b], [c, d, e, f, g, h, i, j])
}

/// Bytes of a key that name a group.
const GROUP: usize = 2;

/// Bytes of a key that name a session within its group.
const REST: usize = 8;

/// Bytes of a time; enough for eight thousand years.
const MILLIS: usize = 6;

const ENTRY: usize = REST + MILLIS;
