//! The keys of TLS session tickets (R10, R20): ours, so that they can be handed to the process that follows this one.
//!
//! In: what rustls wants to remember of a session. Out: tickets, sealed by AES-256-GCM under a random nonce, with the
//! key's name as associated data (RFC 5077 section 4). A key seals for six hours and opens for six more; then it is
//! wiped, and what was sealed with it is lost for everybody.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{clock, secret};

/// Makes and opens tickets.
pub(crate) struct Tickets(Mutex<Keys>);

struct Keys {
    current: Arc<Key>,
    since: Instant,
    previous: Option<Arc<Key>>,
}

struct Key {
    name: [u8; NAME_LEN],
    bytes: Zeroizing<[u8; KEY_LEN]>,
    key: RandomizedNonceKey,
}

/// The keys of one [`Tickets`], for the process that follows this one.
#[derive(Deserialize, Serialize)]
pub struct HandedTickets {
    /// What is spoken with them: only the same settings take them over.
    pub(crate) settings: String,
    current: HandedKey,
    previous: Option<HandedKey>,
    /// How long ago the current one began.
    seconds: u64,
}

#[derive(Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
struct HandedKey {
    name: [u8; NAME_LEN],
    bytes: [u8; KEY_LEN],
}

impl Tickets {
    /// With a key of its own.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let current = Arc::new(Key::generate().ok_or(NO_KEY)?);
        Ok(Self(Mutex::new(Keys { current, since: clock::instant(), previous: None })))
    }

    /// What another process needs to open and make the same tickets.
    pub(crate) fn hand_over(&self, settings: String) -> HandedTickets {
        let keys = self.keys(clock::instant());
        HandedTickets {
            settings,
            current: keys.current.hand_over(),
            previous: keys.previous.as_ref().map(|key| key.hand_over()),
            seconds: clock::instant().saturating_duration_since(keys.since).as_secs(),
        }
    }

    /// Goes on with another process's keys.
    pub(crate) fn take_over(&self, handed: &HandedTickets) {
        let Some(current) = Key::new(handed.current.name, Zeroizing::new(handed.current.bytes)) else { return };
        let now = clock::instant();
        let since = now.checked_sub(Duration::from_secs(handed.seconds)).unwrap_or(now);
        let previous =
            handed.previous.as_ref().and_then(|key| Key::new(key.name, Zeroizing::new(key.bytes))).map(Arc::new);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Keys { current: Arc::new(current), since, previous };
    }

    /// As they are at `now`: a key that has sealed for long enough makes room.
    fn keys(&self, now: Instant) -> MutexGuard<'_, Keys> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(keys.since);
        if age >= SEALS_FOR
            && let Some(fresh) = Key::generate()
        {
            let old = std::mem::replace(&mut keys.current, Arc::new(fresh));
            // Where nobody came by for long, the old one has ended as well.
            keys.previous = (age < 2 * SEALS_FOR).then_some(old);
            keys.since = now;
        }
        keys
    }

    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        let key = Arc::clone(&self.keys(now).current);
        let mut sealed = plain.to_vec();
        let nonce = key.key.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys(now);
        let key = [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().find(|key| key.name == *name);
        let key = Arc::clone(key?);
        drop(keys);
        let mut plain = sealed.to_vec();
        let length = key.key.open_in_place(Nonce::from(nonce), Aad::from(key.name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(2 * SEALS_FOR.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, clock::instant())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, clock::instant())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl fmt::Debug for HandedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedTickets").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Key {
    fn generate() -> Option<Self> {
        Self::new(secret::random(), Zeroizing::new(secret::random()))
    }

    fn new(name: [u8; NAME_LEN], bytes: Zeroizing<[u8; KEY_LEN]>) -> Option<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice()).ok()?;
        Some(Self { name, bytes, key })
    }

    fn hand_over(&self) -> HandedKey {
        HandedKey { name: self.name, bytes: *self.bytes }
    }
}

const NO_KEY: rustls::Error = rustls::Error::FailedToGetRandomBytes;
const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
/// As long as the tickets of rustls's own.
const SEALS_FOR: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_for_twelve_hours_at_most_and_for_nobody_else() {
        let (ours, others) = (Tickets::new().unwrap(), Tickets::new().unwrap());
        let begin = clock::instant();
        let ticket = ours.seal(b"session", begin).unwrap();

        assert_eq!(ours.open(&ticket, begin).as_deref(), Some(&b"session"[..]));
        assert_eq!(others.open(&ticket, begin), None);
        assert_eq!(ours.open(&ticket, begin + SEALS_FOR).as_deref(), Some(&b"session"[..]));
        assert_eq!(ours.open(&ticket, begin + 2 * SEALS_FOR + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_ticket_that_was_changed_anywhere_opens_nothing() {
        let tickets = Tickets::new().unwrap();
        let now = clock::instant();
        let ticket = tickets.seal(b"session", now).unwrap();

        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert_eq!(tickets.open(&changed, now), None, "{place}");
            assert_eq!(tickets.open(&ticket[..place], now), None, "{place}");
        }
    }

    #[test]
    fn whoever_takes_the_keys_over_opens_and_makes_the_same_tickets() {
        let (old, new) = (Tickets::new().unwrap(), Tickets::new().unwrap());
        let now = clock::instant();
        let ticket = old.seal(b"session", now).unwrap();

        let handed = serde_json::to_vec(&old.hand_over("settings".to_owned())).unwrap();
        new.take_over(&serde_json::from_slice(&handed).unwrap());

        assert_eq!(new.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        assert!(old.open(&new.seal(b"later", now).unwrap(), now).is_some());
    }
}
