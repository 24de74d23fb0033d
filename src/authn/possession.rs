//! Whose a token is beside the bearer's: what it is bound to, and whether what came with it proves that (RFC 7800).
//!
//! In: `cnf` of a token that was verified, and what the request and its connection presented. Out: it fits, or
//! [`Unproven`], which says why not. Invariants: a token that is bound never counts for whoever merely holds it, every
//! binding that it has must be proven, and a `cnf` of a kind that is not known here counts for nobody.
//!
//! RFC 7800 section 3.1 (`cnf`), RFC 9449 section 6.1 (`jkt`), RFC 8705 section 3.1 (`x5t#S256`).

use std::{net::IpAddr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    dpop,
    json::{Json, Members},
    jwt::{JwtError, VerifiedToken},
    verify_rate::WrongSignatures,
};
use crate::{
    clock::Timestamp,
    policy::ProofRule,
    refusal::{BadCredential, DpopFault},
    secret::constant_time_eq,
};

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
    /// The token came by `Authorization: DPoP`, and this is the request with its proof; `None`: as a bearer token.
    pub dpop: Option<dpop::Offer<'a>>,
}

impl Confirmation {
    /// Of a token that nobody has, for rehearsals: every way to be bound.
    pub const SUPPOSED: [Self; 4] = [Self::NOTHING, Self::DPOP, Self::MTLS, Self { key: Self::DPOP.key, ..Self::MTLS }];
    /// Bound to nothing.
    pub const NOTHING: Self = Self { key: None, certificate: None };
    /// Bound to some key, as DPoP binds tokens.
    pub const DPOP: Self = Self { key: Some([0; 32]), certificate: None };
    /// Bound to some certificate.
    pub const MTLS: Self = Self { key: None, certificate: Some([0; 32]) };

    /// Reads `cnf` of a token's claims.
    ///
    /// # Errors
    /// [`JwtError::Confirmation`] if it is not an object of the two members above, each SHA-256 in base64url.
    pub(super) fn read(claims: &Members<'_>) -> Result<Self, JwtError> {
        let mut confirmation = Self::default();
        let members = match claims.get("cnf") {
            None => return Ok(confirmation),
            Some(Json::Object(members)) if !members.is_empty() => members,
            Some(_) => return Err(JwtError::Confirmation),
        };
        for (name, value) in members.iter() {
            let thumbprint = value.as_str().and_then(thumbprint).ok_or(JwtError::Confirmation)?;
            match name {
                "jkt" => confirmation.key = Some(thumbprint),
                "x5t#S256" => confirmation.certificate = Some(thumbprint),
                // It might restrict the token further, in a way that nobody here would check.
                _ => return Err(JwtError::Confirmation),
            }
        }
        Ok(confirmation)
    }

    /// As a token says it: nothing, where there is no binding.
    pub fn to_claim(self) -> Option<(String, Value)> {
        let named = [("jkt", self.key), ("x5t#S256", self.certificate)];
        let members: Map<String, Value> = named
            .into_iter()
            .filter_map(|(name, print)| Some((name.to_owned(), URL_SAFE_NO_PAD.encode(print?).into())))
            .collect();
        (!members.is_empty()).then(|| ("cnf".to_owned(), members.into()))
    }

    /// Whether it is a binding of the kind that is asked for.
    pub const fn meets(&self, rule: ProofRule) -> bool {
        match rule {
            ProofRule::None => true,
            ProofRule::Any => self.key.is_some() || self.certificate.is_some(),
            ProofRule::Dpop => self.key.is_some(),
            ProofRule::Mtls => self.certificate.is_some(),
        }
    }
}

/// Why a good token does not count for whoever sent it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unproven {
    /// As many proofs are remembered as may be.
    Full,
    /// A nonce of ours is missing in the proof, or too old.
    Nonce,
    /// The proof is none for this request.
    Proof(dpop::ProofError),
    /// The token and how it came do not go together, or its certificate is not there.
    Token(JwtError),
    /// This client has had too many wrong ones checked, or this subject has used as many as it may for now.
    TooMany(Duration),
}

/// A use of a token that was verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use<'a> {
    /// The token.
    pub(super) token: &'a VerifiedToken,
    /// As it was sent.
    pub(super) text: &'a [u8],
    /// Where it was sent from.
    pub(super) address: IpAddr,
    /// When.
    pub(super) now: Timestamp,
}

impl Presented<'_> {
    /// Whether what was presented proves every binding of the token: the one place that says so. A DPoP proof is used
    /// up by it, so it comes last.
    pub(super) fn prove(&self, used: Use<'_>, wrong: &WrongSignatures, verify_rate: u32) -> Result<(), Unproven> {
        let Confirmation { key, certificate } = used.token.confirmation();
        match (certificate, self.certificate) {
            (None, _) => {}
            (Some(bound), Some(presented)) if constant_time_eq(bound, presented) => {}
            (Some(_), Some(_) | None) => return Err(Unproven::Token(JwtError::Bound)),
        }
        match (key, &self.dpop) {
            (None, None) => Ok(()),
            // Whoever sends a proof relies on it (RFC 9449 section 7.1).
            (None, Some(_)) => Err(Unproven::Token(JwtError::Unbound)),
            (Some(_), None) => Err(Unproven::Token(JwtError::Bound)),
            (Some(key), Some(offer)) => {
                let account = wrong.of_key(key, used.address);
                let wait = || wrong.wait(account, verify_rate, used.now);
                let token = dpop::Token { text: used.text, key, identity: used.token.identity() };
                let checked = offer.check(token, used.now, wait);
                if checked == Err(Unproven::Proof(dpop::ProofError::Signature)) {
                    wrong.charge(account, verify_rate, used.now);
                }
                checked
            }
        }
    }

    /// How a token that came like this is refused: the scheme that it came by, or should have, is challenged.
    pub fn refuse(&self, error: JwtError, dpop_would_help: bool) -> BadCredential {
        if self.dpop.is_some() || dpop_would_help {
            BadCredential::Dpop { fault: DpopFault::Token, reason: error.label() }
        } else {
            BadCredential::Bearer(error.label())
        }
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
        Confirmation::read(&Members::of(&claims))
    }

    #[test]
    fn only_the_two_kinds_of_confirmation_are_read() {
        // The example of RFC 8705 ends in bits that strict base64url refuses.
        let x5t = X5T.replace("dg2", "dgw");
        let both = read(json!({ "jkt": JKT, "x5t#S256": x5t })).unwrap();
        assert!(both.key.is_some() && both.certificate.is_some());
        assert_eq!(read(json!({ "jkt": JKT })).unwrap(), Confirmation { certificate: None, ..both });
        assert_eq!(read(json!({ "x5t#S256": x5t })).unwrap(), Confirmation { key: None, ..both });
        assert_eq!(Confirmation::read(&Members::default()), Ok(Confirmation::default()));

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
    fn each_rule_is_met_by_its_kind_of_binding() {
        let of = |key: bool, certificate: bool| Confirmation {
            key: key.then_some([1; 32]),
            certificate: certificate.then_some([1; 32]),
        };
        for (rule, nothing, key, certificate, both) in [
            (ProofRule::None, true, true, true, true),
            (ProofRule::Any, false, true, true, true),
            (ProofRule::Dpop, false, true, false, true),
            (ProofRule::Mtls, false, false, true, true),
        ] {
            let met = [of(false, false), of(true, false), of(false, true), of(true, true)].map(|c| c.meets(rule));
            assert_eq!(met, [nothing, key, certificate, both], "{rule:?}");
        }
    }
}
