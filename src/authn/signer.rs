//! For tests only: private keys of every algorithm, and tokens made with them, good and forged.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{
    jwks::KeySlot,
    jwt::{Audience, ClaimMapping, Issuer},
    keys::{Algorithm, Generation, KeySet},
};
use crate::{
    clock::Timestamp,
    policy::{Grants, ProofRule},
    secret,
};

/// The seconds at which all these tokens are judged.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn now() -> Timestamp {
    Timestamp::from_unix_seconds(NOW)
}

pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    key: PrivateKey,
}

enum PrivateKey {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(&'static RsaKeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    /// A new key, but RSA keys are slow to make: all signers have the same one.
    pub(super) fn new(algorithm: Algorithm) -> Self {
        static RSA: OnceLock<RsaKeyPair> = OnceLock::new();
        Self::with_rsa(algorithm, &RSA)
    }

    /// As [`Self::new`], with another RSA key.
    pub(super) fn stranger(algorithm: Algorithm) -> Self {
        static RSA: OnceLock<RsaKeyPair> = OnceLock::new();
        Self::with_rsa(algorithm, &RSA)
    }

    fn with_rsa(algorithm: Algorithm, rsa: &'static OnceLock<RsaKeyPair>) -> Self {
        let key = match algorithm {
            Algorithm::EdDSA => PrivateKey::Ed(Ed25519KeyPair::generate().unwrap()),
            Algorithm::ES256 => PrivateKey::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            Algorithm::ES384 => PrivateKey::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            Algorithm::ES512 => PrivateKey::Ec(EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap()),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                PrivateKey::Secret(secret::random::<64>().to_vec())
            }
            Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512
            | Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512 => PrivateKey::Rsa(rsa.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
        };
        Self { algorithm, key }
    }

    /// An HMAC signer with bytes of the forger's choosing.
    pub(super) fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Self {
        Self { algorithm, key: PrivateKey::Secret(secret.to_vec()) }
    }

    pub(super) fn sign(&self, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            PrivateKey::Ec(pair) => pair.sign(&random, input).unwrap().as_ref().to_vec(),
            PrivateKey::Ed(pair) => pair.sign(input).as_ref().to_vec(),
            PrivateKey::Rsa(pair) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match self.algorithm {
                    Algorithm::PS256 => &RSA_PSS_SHA256,
                    Algorithm::PS384 => &RSA_PSS_SHA384,
                    Algorithm::PS512 => &RSA_PSS_SHA512,
                    Algorithm::RS256 => &RSA_PKCS1_SHA256,
                    Algorithm::RS384 => &RSA_PKCS1_SHA384,
                    _ => &RSA_PKCS1_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, input, &mut signature).unwrap();
                signature
            }
            PrivateKey::Secret(secret) => {
                let hash = match self.algorithm {
                    Algorithm::HS256 => hmac::HMAC_SHA256,
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, secret), input).as_ref().to_vec()
            }
        }
    }

    /// SubjectPublicKeyInfo.
    pub(super) fn spki(&self) -> Vec<u8> {
        match &self.key {
            PrivateKey::Ec(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            PrivateKey::Ed(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            PrivateKey::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            PrivateKey::Secret(_) => panic!("a secret has no public key"),
        }
    }

    /// RSAPublicKey of an RSA key.
    pub(super) fn pkcs1(&self) -> Vec<u8> {
        match &self.key {
            PrivateKey::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            PrivateKey::Ec(_) | PrivateKey::Ed(_) | PrivateKey::Secret(_) => panic!("no RSA key"),
        }
    }

    pub(super) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki())
    }

    /// The key as JWK, without `alg` and `kid`.
    pub(super) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.key {
            PrivateKey::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
                let curve = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            PrivateKey::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) }),
            PrivateKey::Rsa(_) => {
                // SEQUENCE { INTEGER of 257 bytes, INTEGER of 3 bytes }
                let der = self.pkcs1();
                json!({ "kty": "RSA", "n": text(&der[9..265]), "e": text(&der[267..270]) })
            }
            PrivateKey::Secret(secret) => json!({ "kty": "oct", "k": text(secret) }),
        }
    }

    pub(super) fn keys(&self) -> KeySet {
        match &self.key {
            PrivateKey::Secret(secret) => KeySet::from_secret(secret, &[self.algorithm]).unwrap(),
            PrivateKey::Ec(_) | PrivateKey::Ed(_) | PrivateKey::Rsa(_) => {
                KeySet::from_pem(self.pem().as_bytes(), &[self.algorithm]).unwrap()
            }
        }
    }

    /// A token with this header and payload, whatever they are.
    pub(super) fn token(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    /// A token with the plainest header.
    pub(super) fn token_of(&self, claims: &Value) -> String {
        self.token(&json!({ "alg": self.algorithm.name() }).to_string(), &claims.to_string())
    }
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Claims that [`issuer`] accepts.
pub(super) fn claims() -> Value {
    json!({ "iss": "https://id.example", "aud": "orders", "sub": "alice", "iat": NOW - 10, "exp": NOW + 600 })
}

/// [`claims`] with some replaced, or removed where `null` is given.
pub(super) fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

pub(super) fn issuer(keys: KeySet) -> Issuer {
    Issuer {
        name: Arc::from("id"),
        realm: Arc::from("staff"),
        issuer: "https://id.example".into(),
        audience: Audience::OneOf(["shop".into(), "orders".into()].into()),
        keys: KeySlot::fixed(keys),
        claims: ClaimMapping::default(),
        grants: Grants::All,
        leeway: Duration::from_secs(30),
        introspection: None,
        max_token_life: Duration::from_secs(86_400),
        required_claims: [].into(),
        access_tokens_only: false,
        id_tokens: false,
        trust_email: false,
        own: None,
        proof: ProofRule::None,
        generation: Generation::fresh(),
    }
}
