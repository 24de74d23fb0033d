//! What is signed in a token: the token's name, whatever form its signature has (R28).
//!
//! In: a token as it was sent. Out: the SHA-256 of its header and payload, made when somebody asks for it for the first
//! time: that is who has to hold it against the list, and the list names tokens so. Invariant: (r, s) and (r, n−s) of
//! ECDSA, and every other form that a signature may have, give one hash.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest;

/// Header and payload of a token as signed, or the whole of a token that is no JWS.
pub struct SigningInput {
    hash: OnceLock<[u8; 32]>,
    token: Arc<[u8]>,
}

impl SigningInput {
    /// That of a JWS: everything before its last dot.
    pub fn of_jws(token: Arc<[u8]>) -> Self {
        Self { hash: OnceLock::new(), token }
    }

    /// That of a token that is no JWS: all of it, which is hashed at once and not kept.
    pub fn of_opaque(token: &[u8]) -> Self {
        sha256(token).into()
    }

    /// SHA-256 of it.
    pub fn hash(&self) -> &[u8; 32] {
        self.hash.get_or_init(|| {
            let end = memchr::memrchr(b'.', &self.token).unwrap_or(self.token.len());
            sha256(self.token.get(..end).unwrap_or_default())
        })
    }

    /// The JWS that it is a part of; empty if that was not kept.
    pub const fn token(&self) -> &Arc<[u8]> {
        &self.token
    }
}

impl From<[u8; 32]> for SigningInput {
    /// One of which the hash is known, and nothing else.
    fn from(hash: [u8; 32]) -> Self {
        Self { hash: hash.into(), token: Arc::default() }
    }
}

impl fmt::Debug for SigningInput {
    /// A token is a secret, its hash is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningInput").field("hash", &self.hash.get()).finish_non_exhaustive()
    }
}

/// The hash by which tokens are named.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_over_the_same_gives_the_same_hash() {
        let hash = |token: &[u8]| *SigningInput::of_jws(token.into()).hash();

        assert_eq!(hash(b"head.payload.one"), sha256(b"head.payload"));
        assert_eq!(hash(b"head.payload.one"), hash(b"head.payload.another"));
        assert_ne!(hash(b"head.payload.one"), hash(b"head.payloae.one"));
        assert_eq!(*SigningInput::from([7; 32]).hash(), [7; 32]);
    }

    #[test]
    fn a_token_is_never_shown() {
        let input = SigningInput::of_jws((*b"secret.token.text").into());
        input.hash();

        assert!(!format!("{input:?}").contains(&format!("{:?}", b"secret")[1..20]));
        assert!(!format!("{input:?}").contains("secret"));
    }
}
