//! One key pair of ours: made, written down, read back, published, and signed with.
//!
//! In: an algorithm, or what was written. Out: compact JWS of one `typ`, and the public half as a JWK. The name of a
//! key is the thumbprint of its public half, so that no two keys share one and nobody has to choose it.
//! Invariant: the private half leaves only as the record that `durable` seals.
//!
//! RFC 7515 section 7.1 (compact form), RFC 7517 and RFC 8037 (JWK), RFC 7638 (thumbprint), RFC 5958 (PKCS #8).

use std::fmt;

use aws_lc_rs::{
    digest,
    error::{KeyRejected, Unspecified},
    pkcs8::Document,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// What our own tokens are signed with (RFC 7518 section 3.4, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA with P-256 and SHA-256, which every library knows.
    Es256,
}

/// A key pair that signs tokens of one type.
pub(super) struct SigningKey {
    algorithm: Algorithm,
    pair: Pair,
    kid: Box<str>,
    /// As one member of a set's `keys`.
    jwk: Box<str>,
    /// The encoded header of every token that it signs, with the dot behind it.
    header: Box<str>,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Algorithm {
    /// The registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }

    /// From the registered name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::EdDsa, Self::Es256].into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl SigningKey {
    /// A new one, for tokens of this `typ`.
    pub(super) fn generate(algorithm: Algorithm, typ: &str) -> Result<Self, Unspecified> {
        let pair = match algorithm {
            Algorithm::EdDsa => Pair::Ed(Ed25519KeyPair::generate()?),
            Algorithm::Es256 => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
        };
        Self::of(pair, typ).ok_or(Unspecified)
    }

    /// What [`Self::to_pkcs8`] gave.
    pub(super) fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8], typ: &str) -> Result<Self, KeyRejected> {
        let pair = match algorithm {
            Algorithm::EdDsa => Pair::Ed(Ed25519KeyPair::from_pkcs8(pkcs8)?),
            Algorithm::Es256 => Pair::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)?),
        };
        Self::of(pair, typ).ok_or_else(|| KeyRejected::from(Unspecified))
    }

    /// The private half; wiped when dropped.
    pub(super) fn to_pkcs8(&self) -> Result<Document, Unspecified> {
        match &self.pair {
            Pair::Ec(pair) => pair.to_pkcs8v1(),
            Pair::Ed(pair) => pair.to_pkcs8(),
        }
    }

    fn of(pair: Pair, typ: &str) -> Option<Self> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        // The required members in lexical order and nothing else: what the thumbprint is made of (RFC 7638 section 3).
        let (algorithm, required) = match &pair {
            Pair::Ec(pair) => {
                // An uncompressed point: 4, x, y.
                let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
                let (x, y) = (text(x), text(y));
                (Algorithm::Es256, format!(r#""crv":"P-256","kty":"EC","x":"{x}","y":"{y}""#))
            }
            Pair::Ed(pair) => {
                let x = text(pair.public_key().as_ref());
                (Algorithm::EdDsa, format!(r#""crv":"Ed25519","kty":"OKP","x":"{x}""#))
            }
        };
        let kid = text(digest::digest(&digest::SHA256, format!("{{{required}}}").as_bytes()).as_ref());
        let alg = algorithm.name();
        Some(Self {
            algorithm,
            pair,
            jwk: format!(r#"{{{required},"alg":"{alg}","kid":"{kid}","use":"sig"}}"#).into(),
            header: header(algorithm, &kid, typ).into(),
            kid: kid.into(),
        })
    }

    /// A token with this payload.
    pub(super) fn sign(&self, payload: &[u8]) -> Result<Box<str>, Unspecified> {
        let mut token = String::with_capacity(self.header.len() + payload.len().div_ceil(3) * 4 + 1 + SIGNATURE_LEN);
        token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), token.as_bytes())?,
            Pair::Ed(pair) => pair.try_sign(token.as_bytes())?,
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token.into())
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) const fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) const fn jwk(&self) -> &str {
        &self.jwk
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A token that nobody signed.
pub(super) fn unsigned(algorithm: Algorithm, typ: &str, payload: &[u8]) -> Box<str> {
    let (kid, signature) = ("0".repeat(43), "A".repeat(SIGNATURE_LEN));
    format!("{}{}.{signature}", header(algorithm, &kid, typ), URL_SAFE_NO_PAD.encode(payload)).into()
}

/// The encoded header, with the dot behind it.
fn header(algorithm: Algorithm, kid: &str, typ: &str) -> String {
    let alg = algorithm.name();
    URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","kid":"{kid}","typ":"{typ}"}}"#)) + "."
}

/// Of 64 bytes, encoded.
const SIGNATURE_LEN: usize = 86;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        // RFC 8037 appendix A.1 to A.3.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let public = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &public).unwrap();

        let key = SigningKey::of(Pair::Ed(pair), "JWT").unwrap();

        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
            let key = SigningKey::generate(algorithm, "JWT").unwrap();

            let read = SigningKey::from_pkcs8(algorithm, key.to_pkcs8().unwrap().as_ref(), "JWT").unwrap();

            assert_eq!((read.kid(), read.jwk()), (key.kid(), key.jwk()));
        }
    }

    #[test]
    fn a_key_of_another_algorithm_is_refused() {
        let (one, other) = (Algorithm::EdDsa, Algorithm::Es256);
        let pkcs8 = SigningKey::generate(one, "JWT").unwrap().to_pkcs8().unwrap();

        assert!(SigningKey::from_pkcs8(one, pkcs8.as_ref(), "JWT").is_ok());
        assert!(SigningKey::from_pkcs8(other, pkcs8.as_ref(), "JWT").is_err());
    }

    #[test]
    fn the_private_half_is_in_nothing_that_is_shown() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
            let key = SigningKey::generate(algorithm, "JWT").unwrap();

            assert!(!key.jwk().contains(r#""d":"#), "{}", key.jwk());
            assert_eq!(format!("{key:?}"), format!("SigningKey {{ kid: {:?}, .. }}", key.kid()));
        }
    }
}
