//! What a refresh token looks like: `ptr_` and 86 characters of base64url: the name of its family, 256 bits that open,
//! and a mark by which a token of ours is known again when it opens nothing any more.
//!
//! In: random bytes, the token before, or what a client sent. Out: [`RefreshToken`], the secret, and its SHA-256, which
//! is all that is kept. Invariants: the successor follows from its predecessor and a random number, so that whoever
//! shows the predecessor again can be given the same one though nobody keeps it; neither of the two alone tells
//! anything of it; a made-up text never passes for a spent token.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroize;

use crate::secret::{self, Secret, constant_time_eq};

/// What every refresh token begins with.
pub const PREFIX: &str = "ptr_";

/// Names a family. Opens nothing.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FamilyId([u8; ID]);

/// A refresh token; wiped when dropped, never printed.
pub struct RefreshToken {
    bytes: [u8; ALL],
}

/// SHA-256 of a token's text.
pub(super) type Digest = [u8; 32];

/// Marks the tokens of one family. Opens nothing.
pub(super) type Seal = [u8; 32];

impl FamilyId {
    /// A fresh one.
    pub(super) fn generate() -> Self {
        Self(secret::random())
    }

    /// Reads what `Display` prints: 22 characters.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; ID];
        let read = URL_SAFE_NO_PAD.decode_slice_unchecked(text.as_bytes().get(..ID_TEXT)?, &mut bytes).ok()?;
        (read == ID && text.len() == ID_TEXT).then_some(Self(bytes))
    }

    /// The bytes, as they are on disk.
    pub(super) const fn bytes(&self) -> &[u8; ID] {
        &self.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl RefreshToken {
    /// Characters of a token's text.
    pub const LENGTH: usize = PREFIX.len() + ALL_TEXT;

    /// The first one of a family.
    pub(super) fn first(family: FamilyId, seal: &Seal) -> Self {
        let mut opens: [u8; SECRET] = secret::random();
        let token = Self::of(family, &opens, seal);
        opens.zeroize();
        token
    }

    /// The one that follows this one by that number.
    pub(super) fn successor(&self, nonce: &[u8; 32], seal: &Seal) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.opens());
        Self::of(self.family(), hmac::sign(&key, nonce).as_ref(), seal)
    }

    /// Reads what a client sent: whether it opens anything is another question.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_prefix(PREFIX.as_bytes()).filter(|rest| rest.len() == ALL_TEXT)?;
        let mut token = Self { bytes: [0; ALL] };
        let read = URL_SAFE_NO_PAD.decode_slice_unchecked(text, &mut token.bytes).ok()?;
        (read == ALL).then_some(token)
    }

    /// The text for whoever it is for; the name makes each use easy to find in review.
    pub fn expose(&self) -> Secret<String> {
        let mut text = String::with_capacity(Self::LENGTH);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.bytes, &mut text);
        Secret::new(text)
    }

    /// Whose it says it is.
    pub fn family(&self) -> FamilyId {
        let mut id = [0; ID];
        id.copy_from_slice(self.bytes.split_at(ID).0);
        FamilyId(id)
    }

    /// What is kept of it.
    pub(super) fn digest(&self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, self.expose().expose().as_bytes()).as_ref());
        bytes
    }

    /// Whether it was made for this family, at whatever time.
    pub(super) fn is_of(&self, seal: &Seal) -> bool {
        let (signed, mark) = self.bytes.split_at(ID + SECRET);
        constant_time_eq(mark, mark_of(signed, seal).as_slice())
    }

    fn of(family: FamilyId, opens: &[u8], seal: &Seal) -> Self {
        let mut token = Self { bytes: [0; ALL] };
        let (signed, mark) = token.bytes.split_at_mut(ID + SECRET);
        let (id, own) = signed.split_at_mut(ID);
        id.copy_from_slice(&family.0);
        own.copy_from_slice(opens);
        mark.copy_from_slice(&mark_of(signed, seal));
        token
    }

    fn opens(&self) -> &[u8] {
        self.bytes.split_at(ID).1.split_at(SECRET).0
    }
}

impl Drop for RefreshToken {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[refresh token]")
    }
}

fn mark_of(signed: &[u8], seal: &Seal) -> [u8; MARK] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seal), signed);
    let mut mark = [0; MARK];
    mark.copy_from_slice(tag.as_ref().split_at(MARK).0);
    mark
}

const ID: usize = 16;
const ID_TEXT: usize = 22;
const SECRET: usize = 32;
const MARK: usize = 16;
const ALL: usize = ID + SECRET + MARK;
const ALL_TEXT: usize = 86;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_as_it_was_told_and_nothing_else_is() {
        let (family, seal) = (FamilyId::generate(), secret::random());
        let token = RefreshToken::first(family, &seal);
        let text = token.expose().expose().clone();

        assert_eq!(text.len(), RefreshToken::LENGTH);
        let read = RefreshToken::parse(text.as_bytes()).unwrap();
        assert_eq!((read.family(), read.digest()), (family, token.digest()));
        assert!(read.is_of(&seal));
        let with = |from: usize, other: &str| format!("{}{other}", &text[..from]);
        for bad in [
            String::new(),
            text[1..].to_owned(),
            format!("{text}A"),
            format!("{text}="),
            with(89, ""),
            with(89, "!"),
            with(89, "B"),
            text.replace("ptr_", "ptc_"),
        ] {
            assert!(RefreshToken::parse(bad.as_bytes()).is_none_or(|read| read.expose().expose() == &text), "{bad}");
        }
    }

    #[test]
    fn a_token_does_not_print_itself() {
        let token = RefreshToken::first(FamilyId::generate(), &secret::random());

        assert_eq!(format!("{token:?}"), "[refresh token]");
    }

    #[test]
    fn the_same_token_and_number_have_the_same_successor() {
        let (family, seal) = (FamilyId::generate(), secret::random());
        let (one, other) = (RefreshToken::first(family, &seal), RefreshToken::first(family, &seal));
        let (nonce, another) = (secret::random(), secret::random());

        assert_eq!(one.successor(&nonce, &seal).digest(), one.successor(&nonce, &seal).digest());
        assert_ne!(one.successor(&nonce, &seal).digest(), one.successor(&another, &seal).digest());
        assert_ne!(one.successor(&nonce, &seal).digest(), other.successor(&nonce, &seal).digest());
        assert!(one.successor(&nonce, &seal).is_of(&seal));
    }

    #[test]
    fn a_made_up_token_is_nobodys() {
        let (family, seal) = (FamilyId::generate(), secret::random());
        let made_up = RefreshToken::first(family, &secret::random());

        assert_eq!(made_up.family(), family);
        assert!(!made_up.is_of(&seal));
    }

    #[test]
    fn a_name_is_read_back() {
        let id = FamilyId::generate();

        assert_eq!(FamilyId::parse(&id.to_string()), Some(id));
        for bad in ["", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAB", "é"] {
            assert_eq!(FamilyId::parse(bad), None, "{bad}");
        }
    }
}
