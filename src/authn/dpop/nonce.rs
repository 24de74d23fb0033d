//! Nonces of the server (RFC 9449 sections 8 and 9), without anything to remember.
//!
//! A nonce is the minute in which it was given out with a MAC over it, under a key that is made at the start and never
//! leaves. So nobody can foretell the next one, all workers know all of them, and none outlives the process: a proof
//! with one was made after the start. A nonce is good for two to three minutes, and a new one is there every minute.

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{clock::Timestamp, secret};

/// Makes nonces and knows them again.
pub(super) struct Nonces(hmac::Key);

impl Nonces {
    /// With a new key.
    pub(super) fn new() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret::random::<32>()))
    }

    /// The nonce of this minute.
    pub(super) fn at(&self, now: Timestamp) -> String {
        self.text(minute(now))
    }

    /// Whether it is one of ours, and not too old.
    pub(super) fn is_good(&self, nonce: &str, now: Timestamp) -> bool {
        let mut bytes = [0; MINUTE_BYTES + TAG_BYTES];
        if nonce.len() != NONCE_LEN || URL_SAFE_NO_PAD.decode_slice(nonce, &mut bytes) != Ok(bytes.len()) {
            return false;
        }
        let (given_out, tag) = bytes.split_at(MINUTE_BYTES);
        let Ok(given_out) = given_out.try_into().map(u64::from_be_bytes) else { return false };
        let genuine = constant_time::verify_slices_are_equal(tag, &self.tag(given_out)).is_ok();
        genuine && minute(now).checked_sub(given_out).is_some_and(|age| age <= MINUTES)
    }

    fn text(&self, minute: u64) -> String {
        let mut bytes = minute.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.tag(minute));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn tag(&self, minute: u64) -> [u8; TAG_BYTES] {
        let whole = hmac::sign(&self.0, &minute.to_be_bytes());
        let mut tag = [0; TAG_BYTES];
        tag.iter_mut().zip(whole.as_ref()).for_each(|(tag, byte)| *tag = *byte);
        tag
    }
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces")
    }
}

const fn minute(now: Timestamp) -> u64 {
    now.unix_seconds() / 60
}

const MINUTE_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// In base64url.
const NONCE_LEN: usize = (MINUTE_BYTES + TAG_BYTES) / 3 * 4;
/// How many minutes after its own a nonce is good.
const MINUTES: u64 = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// The beginning of a minute.
    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_nonce_is_good_for_two_minutes_after_its_own() {
        let nonces = Nonces::new();
        let nonce = nonces.at(NOW);

        assert!(nonces.is_good(&nonce, NOW) && nonces.is_good(&nonce, later(179)));
        assert!(!nonces.is_good(&nonce, later(180)));
        assert!(!nonces.is_good(&nonce, NOW.minus(Duration::from_millis(1))), "nor before it was given out");
        assert_eq!(nonces.at(later(59)), nonce);
        assert_ne!(nonces.at(later(60)), nonce);
    }

    #[test]
    fn nobody_elses_nonce_is_good() {
        let (nonces, other) = (Nonces::new(), Nonces::new());
        let nonce = nonces.at(NOW);

        assert!(!nonces.is_good(&other.at(NOW), NOW));
        for changed in [String::new(), nonce[1..].into(), format!("{nonce}A"), nonce.to_lowercase()] {
            assert!(!nonces.is_good(&changed, NOW), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn no_character_of_a_nonce_can_be_changed(at in 0..NONCE_LEN, other in "[A-Za-z0-9_-]") {
            let nonces = Nonces::new();
            let nonce = nonces.at(NOW);
            let changed = format!("{}{other}{}", &nonce[..at], &nonce[at + 1..]);
            prop_assert_eq!(nonces.is_good(&changed, NOW), changed == nonce);
        }
    }
}
