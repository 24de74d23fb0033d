//! What an API key looks like: `ptc_<id>_<secret><check>`, all of `a-z2-7`, 80 characters.
//!
//! The id (80 random bits) is for finding, listing and revoking; the secret (260 random bits) opens; the check part is
//! the CRC-32 of everything before it, so that a secret scanner knows a key of ours from other text, and a typing error
//! from a wrong key, without asking anybody. Expression for scanners: `ptc_[a-z2-7]{16}_[a-z2-7]{59}`.

use std::fmt;

use aws_lc_rs::digest;
use zeroize::Zeroize;

use crate::secret::{self, Secret};

/// What every key begins with; no JWT does.
pub const PREFIX: &str = "ptc_";

/// The public part of a key's text. Opens nothing.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; ID]);

/// The text of a key, in the right form; whether it is one is another question.
#[derive(Clone, Copy)]
pub struct KeyText<'a>(&'a [u8; LENGTH]);

impl KeyId {
    /// Reads an id.
    pub fn parse(text: &str) -> Option<Self> {
        let id: [u8; ID] = text.as_bytes().try_into().ok()?;
        id.iter().all(|byte| ALPHABET.contains(byte)).then_some(Self(id))
    }

    /// Which of [`Self::GROUPS`] it belongs to: random, so that groups are about as large as one another.
    pub(super) fn group(&self) -> usize {
        let [first, ..] = self.0;
        ALPHABET.iter().position(|byte| *byte == first).unwrap_or_default()
    }

    /// How many groups there are.
    pub(super) const GROUPS: usize = ALPHABET.len();

    /// Bytes of an id.
    pub(super) const LENGTH: usize = ID;

    /// As text.
    pub fn as_str(&self) -> &str {
        // Every constructor admits only the alphabet.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'a> KeyText<'a> {
    /// A fresh key, as text. It is told to its owner once.
    pub fn generate() -> Secret<String> {
        let mut random: [u8; ID + SECRET] = secret::random();
        let (id, hidden) = random.split_at(ID);
        let mut text = String::with_capacity(LENGTH);
        text.push_str(PREFIX);
        text.extend(id.iter().map(character));
        text.push('_');
        text.extend(hidden.iter().map(character));
        let check = crc32(text.as_bytes());
        text.extend(check_part(check).map(char::from));
        random.zeroize();
        Secret::new(text)
    }

    /// Reads what a client sent. Whether the check part is right is told by [`Self::is_whole`]: a key that is known
    /// needs no check.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text: &[u8; LENGTH] = text.try_into().ok()?;
        let (id, rest) = text.strip_prefix(PREFIX.as_bytes())?.split_at_checked(ID)?;
        let body = rest.strip_prefix(b"_")?;
        let sound = |part: &[u8]| part.iter().fold(true, |all, byte| all & IN_ALPHABET[usize::from(*byte)]);
        (sound(id) && sound(body)).then_some(Self(text))
    }

    /// The public part.
    pub fn id(&self) -> KeyId {
        let mut id = [0; ID];
        id.copy_from_slice(&self.0[PREFIX.len()..PREFIX.len() + ID]);
        KeyId(id)
    }

    /// SHA-256 of the whole text.
    pub fn digest(&self) -> [u8; 32] {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, self.0).as_ref());
        sha256
    }

    /// Whether the check part fits the rest.
    pub fn is_whole(&self) -> bool {
        let (body, check) = self.0.split_at(LENGTH - CHECK);
        *check == check_part(crc32(body))
    }
}

fn character(random: &u8) -> char {
    char::from(ALPHABET[usize::from(random & 31)])
}

fn check_part(check: u32) -> [u8; CHECK] {
    std::array::from_fn(|index| ALPHABET[(check >> (5 * index)) as usize & 31])
}

/// CRC-32 as in ISO-HDLC (zip, PNG). Only typing errors are looked for; a table would not pay.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

/// Base32 of RFC 4648 in lower case: no two characters that are mistaken for one another.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

const IN_ALPHABET: [bool; 256] = {
    let mut table = [false; 256];
    let mut index = 0;
    while index < ALPHABET.len() {
        table[ALPHABET[index] as usize] = true;
        index += 1;
    }
    table
};

const ID: usize = 16;
const SECRET: usize = 52;
const CHECK: usize = 7;
const LENGTH: usize = PREFIX.len() + ID + 1 + SECRET + CHECK;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_form_and_says_itself_when_it_was_mistyped() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
        let text = KeyText::generate();
        let text = text.expose().as_bytes();
        assert_eq!(text.len(), 80);
        let key = KeyText::parse(text).unwrap();
        assert!(key.is_whole() && KeyId::parse(key.id().as_str()) == Some(key.id()));

        for index in PREFIX.len()..80 {
            let mut wrong = text.to_vec();
            wrong[index] = if wrong[index] == b'a' { b'b' } else { b'a' };
            assert!(KeyText::parse(&wrong).is_none_or(|key| !key.is_whole()), "{index}");
            wrong[index] = b'A';
            assert!(KeyText::parse(&wrong).is_none(), "{index}");
        }
        for wrong in [&text[1..], &text[..79], &[text, b"a"].concat(), b"", &[b'a'; 80], &[0xff; 80]] {
            assert!(KeyText::parse(wrong).is_none());
        }
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys: std::collections::HashSet<String> = (0..1000).map(|_| KeyText::generate().expose().clone()).collect();
        assert_eq!(keys.len(), 1000);
    }
}
