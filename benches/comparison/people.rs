//! Who asks: made-up people, the keys and the tokens that prove them, and the certificate of the site.
//!
//! RS256 and ES256 are signed here with aws-lc-rs directly; parsing the key for each of 10,000 tokens would take longer
//! than the measurement.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{clock::Clock, secret};
use serde_json::json;

use crate::Result;

/// The `iss` of good tokens.
pub(crate) const ISSUER: &str = "https://id.bench.test";
/// The `aud` of good tokens.
pub(crate) const AUDIENCE: &str = "bench-api";

/// A signature algorithm of the comparison.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Algorithm {
    Es256,
    Rs256,
}

impl Algorithm {
    /// As `alg` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// One person, told apart by a number.
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) roles: [&'static str; 2],
}

impl Person {
    pub(crate) fn number(number: usize) -> Self {
        Self {
            id: format!("{:08x}-5d2c-4b7e-9a41-{number:012x}", number.wrapping_mul(0x9e37_79b1) & 0xffff_ffff),
            name: format!("Person {number:06}"),
            email: format!("person.{number:06}@example.com"),
            roles: ["employee", "editor"],
        }
    }
}

/// What a token gets wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flaw {
    Audience,
    Expired,
    Issuer,
    None,
    OtherKey,
    Unsigned,
}

/// The keys of one run. Fresh for every run, never stored beyond it.
pub(crate) struct Keys {
    certificate: rcgen::Certificate,
    certificate_key: rcgen::KeyPair,
    es256: Pair,
    rs256: Pair,
    es256_other: Pair,
    rs256_other: Pair,
}

struct Pair {
    signer: Signer,
    public_pem: String,
    jwk_set: String,
}

enum Signer {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Keys {
    pub(crate) fn generate() -> Result<Self> {
        let certificate_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = rcgen::CertificateParams::new(vec!["bench.test".into()])?.self_signed(&certificate_key)?;
        Ok(Self {
            certificate,
            certificate_key,
            es256: Pair::generate(Algorithm::Es256)?,
            rs256: Pair::generate(Algorithm::Rs256)?,
            es256_other: Pair::generate(Algorithm::Es256)?,
            rs256_other: Pair::generate(Algorithm::Rs256)?,
        })
    }

    /// The site's certificate, which the client trusts.
    pub(crate) fn certificate(&self) -> &rcgen::Certificate {
        &self.certificate
    }

    /// The site's private key as PEM.
    pub(crate) fn certificate_key_pem(&self) -> String {
        self.certificate_key.serialize_pem()
    }

    /// The public key of the issuer as PEM (SubjectPublicKeyInfo).
    pub(crate) fn public_pem(&self, algorithm: Algorithm) -> &str {
        match algorithm {
            Algorithm::Es256 => &self.es256.public_pem,
            Algorithm::Rs256 => &self.rs256.public_pem,
        }
    }

    /// The same as a JWK set (RFC 7517).
    pub(crate) fn jwk_set(&self, algorithm: Algorithm) -> &str {
        match algorithm {
            Algorithm::Es256 => &self.es256.jwk_set,
            Algorithm::Rs256 => &self.rs256.jwk_set,
        }
    }

    /// A token for a person, good but for its flaw. It lives for an hour.
    pub(crate) fn token(&self, algorithm: Algorithm, person: &Person, flaw: Flaw) -> String {
        let now = Clock::system().now().unix_seconds();
        let (issued, expires) = if flaw == Flaw::Expired { (now - 7200, now - 3600) } else { (now - 5, now + 3600) };
        let header = match flaw {
            Flaw::Unsigned => json!({ "alg": "none", "typ": "JWT" }),
            _ => json!({ "alg": algorithm.name(), "typ": "JWT" }),
        };
        let claims = json!({
            "iss": if flaw == Flaw::Issuer { "https://elsewhere.test" } else { ISSUER },
            "aud": if flaw == Flaw::Audience { "other-api" } else { AUDIENCE },
            "sub": person.id, "name": person.name, "email": person.email, "roles": person.roles,
            "iat": issued, "exp": expires, "jti": URL_SAFE_NO_PAD.encode(secret::random::<12>()),
        });
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let pair = match (algorithm, flaw == Flaw::OtherKey) {
            (Algorithm::Es256, false) => &self.es256,
            (Algorithm::Es256, true) => &self.es256_other,
            (Algorithm::Rs256, false) => &self.rs256,
            (Algorithm::Rs256, true) => &self.rs256_other,
        };
        let signature = if flaw == Flaw::Unsigned { Vec::new() } else { pair.sign(token.as_bytes()) };
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        token
    }
}

impl Pair {
    fn generate(algorithm: Algorithm) -> Result<Self> {
        let kind = match algorithm {
            Algorithm::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::Rs256 => &rcgen::PKCS_RSA_SHA256,
        };
        let key = rcgen::KeyPair::generate_for(kind)?;
        let public_pem = key.public_key_pem();
        let jwk_set = jwk_set(algorithm, key.public_key_raw());
        let der = key.serialize_der();
        let signer = match algorithm {
            Algorithm::Es256 => Signer::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)?),
            Algorithm::Rs256 => Signer::Rsa(RsaKeyPair::from_pkcs8(&der)?),
        };
        Ok(Self { signer, public_pem, jwk_set })
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.signer {
            Signer::Ec(key) => key.sign(&SystemRandom::new(), message).expect("signing works").as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("signing works");
                signature
            }
        }
    }
}

/// A key set of one key: an uncompressed point, or an `RSAPublicKey` in DER (RFC 8017 appendix A.1.1).
fn jwk_set(algorithm: Algorithm, public: &[u8]) -> String {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = match algorithm {
        Algorithm::Es256 => json!({ "kty": "EC", "crv": "P-256", "x": text(&public[1..33]), "y": text(&public[33..]) }),
        Algorithm::Rs256 => {
            let (_, sequence, _) = der_element(public);
            let (_, modulus, rest) = der_element(sequence);
            let (_, exponent, _) = der_element(rest);
            let unsigned = |number: &[u8]| text(number.strip_prefix(&[0]).unwrap_or(number));
            json!({ "kty": "RSA", "n": unsigned(modulus), "e": unsigned(exponent) })
        }
    };
    let mut key = key;
    key["alg"] = json!(algorithm.name());
    key["use"] = json!("sig");
    json!({ "keys": [key] }).to_string()
}

/// Tag, content, and what follows, of DER that we made.
fn der_element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, begin) = match der[1] {
        short @ ..0x80 => (usize::from(short), 2),
        long => {
            let digits = usize::from(long & 0x7f);
            (der[2..2 + digits].iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), 2 + digits)
        }
    };
    (der[0], &der[begin..begin + length], &der[begin + length..])
}

/// A fresh opaque token of 256 bits, as session cookies hold it.
pub(crate) fn opaque_token() -> String {
    URL_SAFE_NO_PAD.encode(secret::random::<32>())
}
