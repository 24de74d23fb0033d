//! An issuer of JWTs that signs whatever the test says, right or wrong.
//!
//! Signing takes header and claims as they are: the gateway must judge them, not the library.

use std::{fs, path::Path};

use aws_lc_rs::{
    digest,
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use portcullis::{
    authn::keys::{Algorithm, Family},
    clock::Timestamp,
    secret,
};
use serde_json::{Value, json};

/// Who signs. Its name is `test`, its `iss` `https://issuer.test`, its audience `orders-api`.
pub(crate) struct Issuer {
    algorithm: Algorithm,
    key: PrivateKey,
    /// PEM, or the shared secret.
    public: Vec<u8>,
    kid: String,
}

enum PrivateKey {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Secret(Vec<u8>),
}

impl Issuer {
    pub(crate) const ISSUER: &str = "https://issuer.test";
    pub(crate) const AUDIENCE: &str = "orders-api";

    pub(crate) fn es256() -> Self {
        Self::of(Algorithm::ES256)
    }

    pub(crate) fn rs256() -> Self {
        Self::of(Algorithm::RS256)
    }

    pub(crate) fn hs256() -> Self {
        Self::of(Algorithm::HS256)
    }

    /// An issuer with a fresh key for any of the thirteen algorithms.
    pub(crate) fn of(algorithm: Algorithm) -> Self {
        let curve = match algorithm {
            Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => &ECDSA_P521_SHA512_FIXED_SIGNING,
        };
        let key = match algorithm {
            Algorithm::EdDSA => PrivateKey::Ed(Ed25519KeyPair::generate().expect("a key can be made")),
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => {
                PrivateKey::Ec(EcdsaKeyPair::generate(curve).expect("a key can be made"))
            }
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                PrivateKey::Secret(URL_SAFE_NO_PAD.encode(secret::random::<64>()).into_bytes())
            }
            Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512
            | Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512 => {
                PrivateKey::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key can be made")))
            }
        };
        Self::with(algorithm, key)
    }

    /// The private key of a JWK, such as those that RFCs print.
    pub(crate) fn from_jwk(algorithm: Algorithm, jwk: &Value) -> Self {
        let part = |name: &str| {
            let text = jwk[name].as_str().unwrap_or_else(|| panic!("no {name:?} in {jwk}"));
            URL_SAFE_NO_PAD.decode(text).expect("base64url")
        };
        let key = match algorithm.family() {
            Family::Ecdsa => {
                let curve = match algorithm {
                    Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
                    Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
                    _ => &ECDSA_P521_SHA512_FIXED_SIGNING,
                };
                let point = [&[4][..], &part("x"), &part("y")].concat();
                let pair = EcdsaKeyPair::from_private_key_and_public_key(curve, &part("d"), &point);
                PrivateKey::Ec(pair.expect("a key on its curve"))
            }
            Family::Eddsa => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(&part("d"), &part("x"));
                PrivateKey::Ed(pair.expect("a key pair"))
            }
            Family::Hmac => PrivateKey::Secret(part("k")),
            Family::Rsa => {
                let numbers = ["n", "e", "d", "p", "q", "dp", "dq", "qi"].map(part);
                let numbers = std::iter::once(Vec::new()).chain(numbers).flat_map(|number| der(2, &unsigned(&number)));
                let pkcs1 = der(0x30, &numbers.collect::<Vec<u8>>());
                PrivateKey::Rsa(Box::new(RsaKeyPair::from_der(&pkcs1).expect("a private key")))
            }
        };
        let issuer = Self::with(algorithm, key);
        match jwk["kid"].as_str() {
            Some(kid) => issuer.called(kid),
            None => issuer,
        }
    }

    fn with(algorithm: Algorithm, key: PrivateKey) -> Self {
        let public = key.public();
        let kid = URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, &public).as_ref()[..9]);
        Self { algorithm, key, public, kid }
    }

    /// The same key under another `kid`.
    pub(crate) fn called(mut self, kid: &str) -> Self {
        self.kid = kid.to_owned();
        self
    }

    /// Good claims for a subject with roles, living for five minutes from `now`.
    pub(crate) fn claims(subject: &str, roles: &[&str], now: Timestamp) -> Value {
        let now = now.unix_seconds();
        json!({
            "iss": Self::ISSUER, "aud": Self::AUDIENCE, "sub": subject, "roles": roles, "iat": now, "exp": now + 300,
        })
    }

    /// A token with these claims, signed as it should be.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with_header(&self.header(), claims)
    }

    /// A token whose header promises this issuer's key, signed with another's.
    pub(crate) fn sign_with(&self, other: &Self, claims: &Value) -> String {
        other.sign_with_header(&self.header(), claims)
    }

    /// A token with any header, signed with this key whatever the header says.
    pub(crate) fn sign_with_header(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A token of any two texts, JSON or not, signed with this key.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(self.algorithm, message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// The same ES256 token with the other signature that is as good: (r, n−s) instead of (r, s).
    pub(crate) fn twin(token: &str) -> String {
        const ORDER: [u8; 32] = [
            0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
            0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
        ];
        let (signed, signature) = token.rsplit_once('.').expect("a token has three parts");
        let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let mut borrow = false;
        for (byte, order) in signature[32..].iter_mut().zip(ORDER).rev() {
            let (difference, first) = order.overflowing_sub(*byte);
            let (difference, second) = difference.overflowing_sub(u8::from(borrow));
            (*byte, borrow) = (difference, first || second);
        }
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// `alg` is `none` and there is no signature.
    pub(crate) fn unsigned(claims: &Value) -> String {
        let header = json!({ "alg": "none", "typ": "JWT" }).to_string();
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    /// The classic confusion: HS256 with the public key's PEM as the secret.
    pub(crate) fn signed_with_the_public_key_as_secret(&self, claims: &Value) -> String {
        let header = json!({ "alg": "HS256", "typ": "JWT", "kid": self.kid }).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.public), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// `alg`, `typ` and `kid` of a good token.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.algorithm_name(), "typ": "JWT", "kid": self.kid })
    }

    pub(crate) fn algorithm_name(&self) -> String {
        self.algorithm.name().to_owned()
    }

    /// Writes the key for the gateway and says what `jwks = …` is.
    pub(crate) fn write_key(&self, folder: &Path) -> String {
        let name = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &self.public));
        let file = folder.join(format!("{name}.key"));
        fs::write(&file, &self.public).expect("a key can be written");
        if matches!(self.key, PrivateKey::Secret(_)) {
            format!("{{ secret = {{ file = {:?} }} }}", file.to_string_lossy())
        } else {
            format!("{{ pem = {:?} }}", file.to_string_lossy())
        }
    }

    /// The public key in DER (SubjectPublicKeyInfo), for tests that build key sets.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let pem = String::from_utf8_lossy(&self.public);
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(text).expect("a public key in PEM")
    }

    /// The public key of an ES256 or EdDSA issuer as a JWK with its `kid`.
    pub(crate) fn jwk(&self) -> Value {
        let der = self.public_der();
        if self.algorithm == Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(der.split_at(der.len() - 32).1);
            return json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid, "use": "sig" });
        }
        let (x, y) = der.split_at(der.len() - 64).1.split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "use": "sig" })
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }
}

/// One element of DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = length.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>();
    match content.len() {
        0..=127 => [&[tag, content.len() as u8], content].concat(),
        _ => [&[tag, 0x80 | length.len() as u8], &length[..], content].concat(),
    }
}

/// A number that DER does not take for a negative one.
fn unsigned(number: &[u8]) -> Vec<u8> {
    if number.first().is_none_or(|first| *first >= 0x80) { [&[0], number].concat() } else { number.to_vec() }
}

impl PrivateKey {
    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(pair) => pair.sign(&random, message).expect("the key signs").as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    Algorithm::PS256 => &RSA_PSS_SHA256,
                    Algorithm::PS384 => &RSA_PSS_SHA384,
                    Algorithm::PS512 => &RSA_PSS_SHA512,
                    Algorithm::RS256 => &RSA_PKCS1_SHA256,
                    Algorithm::RS384 => &RSA_PKCS1_SHA384,
                    _ => &RSA_PKCS1_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).expect("the key signs");
                signature
            }
            Self::Secret(shared) => {
                let hash = match algorithm {
                    Algorithm::HS256 => hmac::HMAC_SHA256,
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, shared), message).as_ref().to_vec()
            }
        }
    }

    /// SubjectPublicKeyInfo in PEM, or the shared secret itself.
    fn public(&self) -> Vec<u8> {
        let der = match self {
            Self::Ec(pair) => pair.public_key().as_der().expect("a public key").as_ref().to_vec(),
            Self::Ed(pair) => pair.public_key().as_der().expect("a public key").as_ref().to_vec(),
            Self::Rsa(pair) => pair.public_key().as_der().expect("a public key").as_ref().to_vec(),
            Self::Secret(shared) => return shared.clone(),
        };
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der)).into_bytes()
    }
}
