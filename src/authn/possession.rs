//! Whose a token is beside the bearer's: what it is bound to, and whether what came with it proves that (RFC 7800).
//!
//! In: `cnf` of a token that was verified, and what the request and its connection presented. Out: it fits, or the
//! [`JwtError`] that says why not. Invariants: a token that is bound never counts for whoever merely holds it, every
//! binding that it has must be proven, and a `cnf` of a kind that is not known here counts for nobody.
//!
//! RFC 7800 section 3.1 (`cnf`), RFC 9449 section 6.1 (`jkt`), RFC 8705 section 3.1 (`x5t#S256`).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::jwt::JwtError;
use crate::secret::constant_time_eq;

/// SHA-256 of a key or a certificate, as tokens name it.
pub type Thumbprint = [u8; 32];

/// What a token is bound to. Nothing: whoever holds it may use it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Confirmation {
    /// `jkt`: the key that DPoP proofs are signed with, as RFC 7638 names it.
    pub key: Option<Thumbprint>,
    /// `x5t#S256`: the client's certificate, SHA-256 of its DER.
    pub certificate: Option<Thumbprint>,
}

/// What came with a token to prove that it is its sender's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    /// SHA-256 of the certificate whose key the client has proven to hold in the TLS handshake.
    pub certificate: Option<&'a Thumbprint>,
}

impl Confirmation {
    /// Reads `cnf` of a token's claims.
    ///
    /// # Errors
    /// [`JwtError::Confirmation`] if it is not an object of the two members above, each SHA-256 in base64url.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Self, JwtError> {
        let mut confirmation = Self::default();
        let members = match claims.get("cnf") {
            None => return Ok(confirmation),
            Some(Value::Object(members)) if !members.is_empty() => members,
            Some(_) => return Err(JwtError::Confirmation),
        };
        for (name, value) in members {
            let thumbprint = value.as_str().and_then(thumbprint).ok_or(JwtError::Confirmation)?;
            match name.as_str() {
                "jkt" => confirmation.key = Some(thumbprint),
                "x5t#S256" => confirmation.certificate = Some(thumbprint),
                // It might restrict the token further, in a way that nobody here would check.
                _ => return Err(JwtError::Confirmation),
            }
        }
        Ok(confirmation)
    }

    /// Whether what was presented proves every binding.
    ///
    /// # Errors
    /// [`JwtError::Bound`].
    pub fn check(&self, presented: &Presented<'_>) -> Result<(), JwtError> {
        match self.key {
            None => {}
            Some(_) => return Err(JwtError::Bound),
        }
        match (&self.certificate, presented.certificate) {
            (None, _) => {}
            (Some(bound), Some(presented)) if constant_time_eq(bound, presented) => {}
            (Some(_), Some(_) | None) => return Err(JwtError::Bound),
        }
        Ok(())
    }
}

/// SHA-256 in strict base64url.
fn thumbprint(text: &str) -> Option<Thumbprint> {
    // Exactly as long as 32 bytes are, before anything is decoded.
    let bytes = if text.len() == 43 { URL_SAFE_NO_PAD.decode(text).ok()? } else { return None };
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 9449 section 6.1 and RFC 8705 section 3.1.
    const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    const X5T: &str = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2";

    fn read(cnf: Value) -> Result<Confirmation, JwtError> {
        let Value::Object(claims) = json!({ "cnf": cnf }) else { panic!("an object") };
        Confirmation::read(&claims)
    }

    #[test]
    fn only_the_two_kinds_of_confirmation_are_read() {
        // The example of RFC 8705 ends in bits that strict base64url refuses.
        let x5t = X5T.replace("dg2", "dgw");
        let both = read(json!({ "jkt": JKT, "x5t#S256": x5t })).unwrap();
        assert!(both.key.is_some() && both.certificate.is_some());
        assert_eq!(read(json!({ "jkt": JKT })).unwrap(), Confirmation { certificate: None, ..both });
        assert_eq!(read(json!({ "x5t#S256": x5t })).unwrap(), Confirmation { key: None, ..both });
        assert_eq!(Confirmation::read(&Map::new()), Ok(Confirmation::default()));

        for cnf in [
            json!(null),
            json!({}),
            json!([]),
            json!(JKT),
            json!({ "jkt": null }),
            json!({ "jkt": [JKT] }),
            json!({ "jkt": "" }),
            json!({ "jkt": &JKT[1..] }),
            json!({ "jkt": format!("{JKT}=") }),
            json!({ "jkt": JKT.replace('-', "+") }),
            json!({ "x5t#S256": X5T }),
            json!({ "x5t": x5t }),
            json!({ "jkt": JKT, "kid": "1" }),
            json!({ "jwk": { "kty": "OKP" } }),
            json!({ "JKT": JKT }),
        ] {
            assert_eq!(read(cnf.clone()), Err(JwtError::Confirmation), "{cnf}");
        }
    }

    #[test]
    fn every_binding_must_be_proven() {
        let (mine, other) = ([1; 32], [2; 32]);
        let nothing = Presented::default();
        let certificate = |hash| Presented { certificate: Some(hash) };
        let of = |key, certificate| Confirmation { key, certificate };

        assert_eq!(of(None, None).check(&nothing), Ok(()));
        assert_eq!(of(None, None).check(&certificate(&mine)), Ok(()));
        assert_eq!(of(None, Some(mine)).check(&certificate(&mine)), Ok(()));
        assert_eq!(of(None, Some(mine)).check(&certificate(&other)), Err(JwtError::Bound));
        assert_eq!(of(None, Some(mine)).check(&nothing), Err(JwtError::Bound));
        assert_eq!(of(Some(mine), None).check(&nothing), Err(JwtError::Bound));
        assert_eq!(of(Some(mine), Some(mine)).check(&certificate(&mine)), Err(JwtError::Bound));
    }
}
