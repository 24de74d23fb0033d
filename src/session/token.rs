//! What the cookie holds, and what the store holds of it (R26).
//!
//! In: random bytes, or the bytes of a cookie value. Out: [`SessionToken`], the secret, and [`SessionKey`], the
//! SHA-256 of its text. The store never sees a token, so its content opens no session; and whoever runs the gateway
//! can find a session from a cookie at hand with `printf %s "$TOKEN" | sha256sum`.

use std::{
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use aws_lc_rs::digest;
use zeroize::Zeroize;

use crate::secret;

/// The secret that makes its bearer the owner of a session: 256 random bits as 43 characters of base64url without
/// padding. Wiped when dropped, never printed.
pub struct SessionToken([u8; Self::LENGTH]);

/// Names a session without opening it: SHA-256 of the token's text. Prints as 64 hexadecimal digits.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub struct SessionKey([u8; 32]);

/// Hashes keys that are evenly spread already, by taking them as they are. For [`SessionKey`] and keyed `u64` hashes
/// only: anything that a client can choose needs a keyed hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHasher(u64);

/// Makes [`KeyHasher`]s.
pub type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

impl SessionToken {
    /// Characters of a token's text.
    pub const LENGTH: usize = 43;

    /// A fresh one.
    pub fn generate() -> Self {
        let mut bytes: [u8; 32] = secret::random();
        let token = Self::from_random(&bytes);
        bytes.zeroize();
        token
    }

    /// Reads a cookie's value: exactly 43 characters of base64url whose unused last bits are zero. Whatever else a
    /// client sends is no token of ours and names no session.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; Self::LENGTH] = text.try_into().ok()?;
        // Three blocks, the last of which overlaps, without a branch: compilers make a few vectors of each.
        let (blocks, _) = text.as_chunks::<16>();
        let mut sound = [1; 16];
        for block in blocks.iter().chain(text.last_chunk::<16>()) {
            for (sound, byte) in sound.iter_mut().zip(block) {
                *sound &= in_alphabet(*byte);
            }
        }
        let canonical = IS_LAST[usize::from(text[Self::LENGTH - 1])];
        (canonical && sound == [1; 16]).then_some(Self(*text))
    }

    /// The text for the cookie; the name makes each use easy to find in review.
    pub fn expose(&self) -> &str {
        // Every constructor admits only the base64url alphabet.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// What the store knows this token by.
    pub fn key(&self) -> SessionKey {
        SessionKey::of(&self.0)
    }

    fn from_random(bytes: &[u8; 32]) -> Self {
        Self(std::array::from_fn(|i| {
            let (byte, shift) = (i * 6 / 8, i * 6 % 8);
            let next = bytes.get(byte + 1).copied().unwrap_or(0);
            let window = u16::from_be_bytes([bytes[byte], next]);
            ALPHABET[usize::from((window >> (10 - shift)) & 63)]
        }))
    }
}

impl Drop for SessionToken {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[session token]")
    }
}

impl SessionKey {
    /// Reads what `Display` prints: 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Some(Self(key))
    }

    /// The first 16 digits: tells the sessions of one subject apart, for that subject.
    pub fn handle(&self) -> String {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Reads what [`Self::bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The SHA-256 of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(key)
    }

    /// The key of an imported session. No token's key: a token's text holds no NUL.
    pub(super) fn of_legacy(cookie: &str, digest: &[u8; 32]) -> Self {
        Self::of(&[b"legacy\0", cookie.as_bytes(), b"\0", digest].concat())
    }

    /// The digest itself.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first byte: the segment of the store, so that segments follow one another in the order of keys.
    pub(super) const fn segment(&self) -> usize {
        self.0[0] as usize
    }
}

impl Hash for SessionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Not the first bytes: within a segment of the store these are all alike.
        let [.., a, b, c, d, e, f, g, h] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// 1 for the characters of [`ALPHABET`]. `| 0x20` folds the case of letters without making one of anything else.
fn in_alphabet(byte: u8) -> u8 {
    u8::from((byte | 0x20).wrapping_sub(b'a') < 26)
        | u8::from(byte.wrapping_sub(b'0') < 10)
        | u8::from(byte == b'-')
        | u8::from(byte == b'_')
}

/// Those that stand for a multiple of four: 256 bits leave the last two of 43 × 6 unused.
const IS_LAST: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        table[ALPHABET[i] as usize] = true;
        i += 4;
    }
    table
};

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fresh_token_is_43_characters_and_unlike_any_other() {
        let tokens: std::collections::HashSet<String> =
            (0..1000).map(|_| SessionToken::generate().expose().to_owned()).collect();

        assert_eq!(tokens.len(), 1000);
        assert!(tokens.iter().all(|token| token.len() == 43));
    }

    #[test]
    fn a_token_does_not_print_itself() {
        let token = SessionToken::generate();

        assert!(!format!("{token:?}").contains(token.expose()));
    }

    #[test]
    fn the_key_is_the_sha256_of_the_text() {
        let token = SessionToken::from_random(&[0; 32]);

        assert_eq!(token.expose(), "A".repeat(43));
        // printf %s AAAA… | sha256sum
        assert_eq!(token.key().to_string(), "0f007385b6f9d4b7eeb2748605afe1a984a0a3bfa3f014d09e2a784ce9e5cd1a");
    }

    #[test]
    fn nothing_but_a_whole_canonical_token_parses() {
        for (given, fits) in [
            ("A".repeat(43), true),
            ("A".repeat(42), false),
            ("A".repeat(44), false),
            (String::new(), false),
            (format!("{}B", "A".repeat(42)), false),
            (format!("{}E", "A".repeat(42)), true),
            (format!("{}=", "A".repeat(42)), false),
            (format!("+{}", "A".repeat(42)), false),
            (format!("\"{}", "A".repeat(42)), false),
            (format!("é{}", "A".repeat(41)), false),
        ] {
            assert_eq!(SessionToken::parse(given.as_bytes()).is_some(), fits, "{given:?}");
        }
    }

    #[test]
    fn every_byte_is_looked_at_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for at in 0..SessionToken::LENGTH - 1 {
                let mut text = [b'A'; SessionToken::LENGTH];
                text[at] = byte;
                assert_eq!(SessionToken::parse(&text).is_some(), ALPHABET.contains(&byte), "{byte} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn tokens_read_back_as_they_were_written(bytes: [u8; 32]) {
            let token = SessionToken::from_random(&bytes);

            prop_assert_eq!(token.expose(), URL_SAFE_NO_PAD.encode(bytes));
            let again = SessionToken::parse(token.expose().as_bytes()).unwrap();
            prop_assert_eq!(again.key(), token.key());
            prop_assert_eq!(SessionKey::parse(&token.key().to_string()), Some(token.key()));
        }

        #[test]
        fn what_parses_is_what_a_strict_decoder_takes(text in "[A-Za-z0-9_=+/-]{41,45}") {
            let strict = URL_SAFE_NO_PAD.decode(&text).is_ok_and(|bytes| bytes.len() == 32);

            prop_assert_eq!(SessionToken::parse(text.as_bytes()).is_some(), strict);
        }
    }
}
