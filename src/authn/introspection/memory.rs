//! What was said of tokens, for a short time: bounded in number and bytes, found by a keyed hash, compared in full.
//!
//! Tokens that were found good and those that were found void lie apart, so that a flood of made-up ones leaves the
//! good ones alone. An entry counts for as long as it was given, and is kept until it is replaced or pushed out by
//! newer ones: what holds a tunnel open may still ask what was last said.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use ahash::RandomState;

use crate::{
    authn::{
        jwt::{JwtError, VerifiedToken},
        token_cache::verified_bytes,
    },
    clock::Timestamp,
};

/// What was said of a token, and when.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What follows from it.
    pub(super) verdict: Result<Arc<VerifiedToken>, JwtError>,
    /// When it was said.
    pub(super) said: Timestamp,
    /// Until when it counts without asking again.
    pub(super) until: Timestamp,
}

/// All that is remembered.
#[derive(Debug)]
pub(super) struct Memory {
    good: RwLock<Table>,
    void: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    entries: HashMap<Arc<[u8]>, Known, RandomState>,
    /// Oldest first; each entry once.
    order: VecDeque<Arc<[u8]>>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Memory {
    pub(super) fn new() -> Self {
        let table = |max_entries, max_bytes| {
            let (entries, order) = (HashMap::default(), VecDeque::new());
            RwLock::new(Table { entries, order, bytes: 0, max_entries, max_bytes })
        };
        Self { good: table(GOOD_ENTRIES, GOOD_BYTES), void: table(VOID_ENTRIES, VOID_BYTES) }
    }

    /// What was last said of a token, whether or not it still counts.
    pub(super) fn find(&self, token: &[u8]) -> Option<Known> {
        [&self.good, &self.void].into_iter().find_map(|table| {
            let table = table.read().unwrap_or_else(PoisonError::into_inner);
            table.entries.get(token).cloned()
        })
    }

    /// Remembers what was said, in place of whatever was said before.
    pub(super) fn insert(&self, token: &[u8], known: Known) {
        let (table, other) = if known.verdict.is_ok() { (&self.good, &self.void) } else { (&self.void, &self.good) };
        write(table).insert(token, known);
        write(other).remove(token);
    }

    /// How many tokens are remembered.
    pub(super) fn len(&self) -> usize {
        let len = |table: &RwLock<Table>| table.read().unwrap_or_else(PoisonError::into_inner).entries.len();
        len(&self.good) + len(&self.void)
    }
}

fn write(table: &RwLock<Table>) -> RwLockWriteGuard<'_, Table> {
    // Nothing panics while it is held.
    table.write().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    fn insert(&mut self, token: &[u8], known: Known) {
        let bytes = bytes_of(token, &known);
        if bytes > self.max_bytes / 8 {
            self.remove(token);
            return;
        }
        match self.entries.get_mut(token) {
            Some(there) => {
                self.bytes = self.bytes.saturating_sub(bytes_of(token, there)) + bytes;
                *there = known;
            }
            None => {
                let token: Arc<[u8]> = token.into();
                self.bytes += bytes;
                self.order.push_back(Arc::clone(&token));
                self.entries.insert(token, known);
            }
        }
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.entries.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(bytes_of(&oldest, &gone));
            }
        }
    }

    fn remove(&mut self, token: &[u8]) {
        if let Some(gone) = self.entries.remove(token) {
            self.bytes = self.bytes.saturating_sub(bytes_of(token, &gone));
            // Rare: a token that was good and is void now, or the other way round.
            self.order.retain(|other| **other != *token);
        }
    }
}

fn bytes_of(token: &[u8], known: &Known) -> usize {
    token.len() + ENTRY_BYTES + known.verdict.as_ref().map_or(0, |verified| verified_bytes(verified))
}

const GOOD_ENTRIES: usize = 20_000;
const GOOD_BYTES: usize = 32 << 20;
const VOID_ENTRIES: usize = 4096;
const VOID_BYTES: usize = 4 << 20;
/// What an entry takes besides its token and what the token stands for.
const ENTRY_BYTES: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    fn void(said: u64) -> Known {
        let said = Timestamp::from_unix_seconds(said);
        Known { verdict: Err(JwtError::Inactive), said, until: said }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let memory = Memory::new();
        for number in 0..VOID_ENTRIES as u64 + 10 {
            memory.insert(number.to_string().as_bytes(), void(number));
        }
        assert_eq!(memory.len(), VOID_ENTRIES);
        assert!(memory.find(b"9").is_none() && memory.find(b"10").is_some());
        // By its bytes, too.
        for number in 0..2000 {
            memory.insert(format!("{number:04096}").as_bytes(), void(number));
        }
        assert!(memory.len() <= VOID_BYTES / 4096, "{}", memory.len());
    }

    #[test]
    fn only_the_exact_bytes_are_known_and_the_last_word_counts() {
        let memory = Memory::new();
        memory.insert(b"abc", void(1));
        memory.insert(b"abc", void(2));
        assert_eq!(memory.find(b"abc").map(|known| known.said), Some(Timestamp::from_unix_seconds(2)));
        for other in [&b"ab"[..], b"abcd", b"ABC", b"", b"abc\0"] {
            assert!(memory.find(other).is_none());
        }
        assert_eq!(memory.len(), 1);
    }
}
