//! A client that holds a key, and the DPoP proofs that it makes with it (RFC 9449), right or wrong.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{
    authn::keys::{Algorithm, Family},
    clock::Timestamp,
    secret,
};
use serde_json::{Value, json};

use super::Issuer;

/// Whoever holds the key that a token is bound to.
pub(crate) struct Holder {
    key: Issuer,
    jwk: Value,
}

impl Holder {
    /// With an ES256 key.
    pub(crate) fn new() -> Self {
        Self::of(Algorithm::ES256)
    }

    /// With a key for any algorithm that has a public one.
    pub(crate) fn of(algorithm: Algorithm) -> Self {
        let key = Issuer::of(algorithm);
        let der = key.public_der();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |curve: &str, length: usize| {
            let (x, y) = der.split_at(der.len() - 2 * length).1.split_at(length);
            json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
        };
        let jwk = match (algorithm.family(), algorithm) {
            (Family::Ecdsa, Algorithm::ES256) => ec("P-256", 32),
            (Family::Ecdsa, Algorithm::ES384) => ec("P-384", 48),
            (Family::Ecdsa, _) => ec("P-521", 66),
            (Family::Eddsa, _) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(&der[der.len() - 32..]) }),
            // INTEGER of 257 bytes, INTEGER of 3 bytes.
            (Family::Rsa, _) => {
                let end = der.len();
                json!({ "kty": "RSA", "n": text(&der[end - 261..end - 5]), "e": text(&der[end - 3..]) })
            }
            (Family::Hmac, _) => panic!("a shared secret proves nothing"),
        };
        Self { key, jwk }
    }

    /// The public key.
    pub(crate) const fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// Its thumbprint, made as RFC 7638 says: of the required members, in order, without blanks.
    pub(crate) fn jkt(&self) -> String {
        let members: Vec<String> = ["crv", "e", "kty", "n", "x", "y"]
            .into_iter()
            .filter_map(|name| Some(format!("{name:?}:{}", self.jwk.get(name)?)))
            .collect();
        let canonical = format!("{{{}}}", members.join(","));
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    /// Claims of a token that is bound to this key.
    pub(crate) fn claims(&self, subject: &str, now: Timestamp) -> Value {
        let mut claims = Issuer::claims(subject, &["user"], now);
        claims["cnf"] = json!({ "jkt": self.jkt() });
        claims
    }

    /// The header of a good proof.
    pub(crate) fn header(&self) -> Value {
        json!({ "typ": "dpop+jwt", "alg": self.key.algorithm_name(), "jwk": self.jwk })
    }

    /// The claims of a good proof for a path of `app.test`, with a `jti` of its own.
    pub(crate) fn payload(method: &str, path: &str, token: &str, now: Timestamp) -> Value {
        json!({
            "jti": URL_SAFE_NO_PAD.encode(secret::random::<12>()),
            "htm": method,
            "htu": format!("https://app.test{path}"),
            "iat": now.unix_seconds(),
            "ath": URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.as_bytes())),
        })
    }

    /// A good proof for a GET.
    pub(crate) fn proof(&self, path: &str, token: &str, now: Timestamp) -> String {
        self.sign(&Self::payload("GET", path, token, now))
    }

    /// A good proof for a GET with a nonce.
    pub(crate) fn proof_with_nonce(&self, path: &str, token: &str, now: Timestamp, nonce: &str) -> String {
        let mut payload = Self::payload("GET", path, token, now);
        payload["nonce"] = json!(nonce);
        self.sign(&payload)
    }

    /// A proof with these claims.
    pub(crate) fn sign(&self, payload: &Value) -> String {
        self.sign_with_header(&self.header(), payload)
    }

    /// A proof with any header, signed with this key whatever the header says.
    pub(crate) fn sign_with_header(&self, header: &Value, payload: &Value) -> String {
        self.key.sign_with_header(header, payload)
    }

    /// A proof of any two texts, JSON or not.
    pub(crate) fn sign_text(&self, header: &str, payload: &str) -> String {
        self.key.sign_text(header, payload)
    }
}
