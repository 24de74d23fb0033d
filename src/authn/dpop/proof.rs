//! One DPoP proof: a strict reading, and what it says of the request that it came with (RFC 9449 sections 4.2 and 4.3).
//!
//! In: the value of a `DPoP` header. Out: a [`Proof`] whose form is right, then, checked in this order, that it was
//! made for this key, token, method, place and time, and at last its signature: the costly part is done only for a
//! proof that says all the right things, with the very key that a good token names. Whatever is malformed, doubled or
//! not understood makes it void; nothing is repaired.
//!
//! RFC 9449 section 4, RFC 7515 (JWS), RFC 7638 (thumbprints), RFC 3986 section 6.2 (comparing URIs).

use std::time::Duration;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    super::{
        base64url,
        json::{self, JsonError},
        jwt,
        keys::{Algorithm, BadSignature, SenderKey, UnknownAlgorithm},
        possession::Thumbprint,
    },
    Offer, Token,
};
use crate::{
    client::Scheme,
    clock::Timestamp,
    host::Authority,
    route::path::{CanonicalPath, Quirks},
    secret::constant_time_eq,
};

/// How far `iat` may lie behind or ahead.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// Why a proof is none. For logs and metrics only; the caller learns `invalid_dpop_proof`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProofError {
    /// `alg` is none of those that are accepted.
    Algorithm,
    /// Issued before the gateway was started: it may have been used then.
    BeforeStart,
    /// A claim is missing or of another type than it must be.
    Claim(&'static str),
    /// `crit`: extensions that must be understood, and none is.
    Critical,
    /// A member occurs twice in one object, or it is nested too deeply.
    Duplicate,
    /// A part is not base64url without padding and with zero trailing bits.
    Encoding,
    /// `exp` has passed, or `nbf` lies ahead.
    OutOfTime,
    /// A header parameter that names other keys, encryption or encoding.
    ForbiddenHeader,
    /// `jti` is empty or longer than [`MAX_ID_BYTES`].
    Id,
    /// `iat` lies ahead.
    IssuedAhead,
    /// Header or payload is not a JSON object.
    Json,
    /// `jwk` is missing, private, weak, malformed or none for its algorithm.
    Key,
    /// `htm` is another method.
    Method,
    /// There is none.
    Missing,
    /// Its key is another one than the token is bound to.
    OtherKey,
    /// `ath` is of another token.
    OtherToken,
    /// Not three parts.
    Parts,
    /// It was used before.
    Replayed,
    /// There are several.
    Several,
    /// Not signed by its own key.
    Signature,
    /// `htu` is another place.
    Target,
    /// Longer than [`MAX_PROOF_BYTES`].
    TooLong,
    /// `iat` is too long ago.
    TooOld,
    /// `typ` is not `dpop+jwt`.
    Type,
}

impl ProofError {
    /// The word for logs and metrics: a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Algorithm => "proof_algorithm",
            Self::BeforeStart => "proof_before_start",
            Self::Claim(_) => "proof_claim",
            Self::Critical => "proof_critical_header",
            Self::Duplicate => "proof_duplicate_member",
            Self::Encoding => "proof_encoding",
            Self::OutOfTime => "proof_out_of_time",
            Self::ForbiddenHeader => "proof_forbidden_header",
            Self::Id => "proof_id",
            Self::IssuedAhead => "proof_issued_ahead",
            Self::Json => "proof_not_json",
            Self::Key => "proof_key",
            Self::Method => "proof_method",
            Self::Missing => "proof_missing",
            Self::OtherKey => "proof_other_key",
            Self::OtherToken => "proof_other_token",
            Self::Parts => "proof_parts",
            Self::Replayed => "proof_replayed",
            Self::Several => "several_proofs",
            Self::Signature => "proof_signature",
            Self::Target => "proof_target",
            Self::TooLong => "proof_too_long",
            Self::TooOld => "proof_too_old",
            Self::Type => "proof_type",
        }
    }
}

impl From<JsonError> for ProofError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Duplicate | JsonError::TooDeep => Self::Duplicate,
            JsonError::NotAnObject | JsonError::Syntax => Self::Json,
        }
    }
}

/// A proof whose form is right.
pub(super) struct Proof<'a> {
    algorithm: Algorithm,
    key: SenderKey,
    claims: Map<String, Value>,
    signing_input: &'a str,
    signature: &'a str,
}

/// When a proof was made, and under which name.
pub(super) struct Made {
    /// `iat`.
    pub(super) issued_at: Timestamp,
    /// `jti`.
    pub(super) id: Box<str>,
    /// `nonce`.
    pub(super) nonce: Option<Box<str>>,
}

impl<'a> Proof<'a> {
    /// Reads a proof. Its key has the form of one, and no more is known of it.
    pub(super) fn read(field: &'a [u8], algorithms: &[Algorithm]) -> Result<Self, ProofError> {
        if field.len() > MAX_PROOF_BYTES {
            return Err(ProofError::TooLong);
        }
        let field = std::str::from_utf8(field).map_err(|_| ProofError::Encoding)?;
        let (signing_input, signature) = field.rsplit_once('.').ok_or(ProofError::Parts)?;
        let (header, payload) = signing_input.split_once('.').ok_or(ProofError::Parts)?;
        if payload.contains('.') {
            return Err(ProofError::Parts);
        }
        let header = object(header)?;
        if header.contains_key("crit") {
            return Err(ProofError::Critical);
        }
        if FORBIDDEN.into_iter().any(|name| header.contains_key(name)) {
            return Err(ProofError::ForbiddenHeader);
        }
        if header.get("typ").and_then(Value::as_str) != Some(TYPE) {
            return Err(ProofError::Type);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(ProofError::Algorithm)?;
        let algorithm: Algorithm = algorithm.parse().map_err(|UnknownAlgorithm| ProofError::Algorithm)?;
        if !algorithms.contains(&algorithm) {
            return Err(ProofError::Algorithm);
        }
        let key = SenderKey::read(header.get("jwk").ok_or(ProofError::Key)?, algorithm).map_err(|_| ProofError::Key)?;
        Ok(Self { algorithm, key, claims: object(payload)?, signing_input, signature })
    }

    /// Whose it is, if it is anybody's.
    pub(super) const fn key(&self) -> &Thumbprint {
        self.key.thumbprint()
    }

    /// Whether it was made for this request, now, and for this token, if there is one. Nonce and earlier use are for
    /// the caller to check.
    pub(super) fn check_request(
        &self,
        offer: &Offer<'_>,
        token: Option<&Token<'_>>,
        now: Timestamp,
    ) -> Result<Made, ProofError> {
        if token.is_some_and(|token| !constant_time_eq(self.key.thumbprint(), token.key)) {
            return Err(ProofError::OtherKey);
        }
        let text = |name: &'static str| self.text(name)?.ok_or(ProofError::Claim(name));
        let id = text("jti")?;
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(ProofError::Id);
        }
        if text("htm")? != offer.head.method.as_str() {
            return Err(ProofError::Method);
        }
        if !is_target(text("htu")?, offer) {
            return Err(ProofError::Target);
        }
        if let Some(token) = token {
            let hash = digest::digest(&digest::SHA256, token.text);
            if text("ath")? != URL_SAFE_NO_PAD.encode(hash.as_ref()) {
                return Err(ProofError::OtherToken);
            }
        }
        let issued_at = self.date("iat")?.ok_or(ProofError::Claim("iat"))?;
        if issued_at > now.plus(MAX_AGE) {
            return Err(ProofError::IssuedAhead);
        }
        if now > issued_at.plus(MAX_AGE) {
            return Err(ProofError::TooOld);
        }
        // Nothing asks for these, but whoever writes them means them (RFC 7519 section 4.1).
        let expired = self.date("exp")?.is_some_and(|exp| now >= exp.plus(MAX_AGE));
        if expired || self.date("nbf")?.is_some_and(|nbf| nbf > now.plus(MAX_AGE)) {
            return Err(ProofError::OutOfTime);
        }
        Ok(Made { issued_at, id: id.into(), nonce: self.text("nonce")?.map(Into::into) })
    }

    /// Whether its own key has signed it.
    pub(super) fn check_signature(&self) -> Result<(), ProofError> {
        let verified = self.key.verify(self.algorithm, self.signing_input.as_bytes(), self.signature.as_bytes());
        verified.map_err(|error| match error {
            Some(BadSignature::Encoding) => ProofError::Encoding,
            Some(BadSignature::Length | BadSignature::Wrong) => ProofError::Signature,
            None => ProofError::Key,
        })
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, ProofError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err(ProofError::Claim(name))
            }
        }
    }

    fn date(&self, name: &'static str) -> Result<Option<Timestamp>, ProofError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => jwt::timestamp(number).map(Some).ok_or(ProofError::Claim(name)),
            Some(Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                Err(ProofError::Claim(name))
            }
        }
    }
}

/// Whether `htu` is where the request went, both in normal form, query and fragment left aside (RFC 9449 section 4.3,
/// step 9).
fn is_target(htu: &str, offer: &Offer<'_>) -> bool {
    target(htu, offer.tolerated).is_some_and(|(scheme, authority, path)| {
        let port = authority.port.unwrap_or_else(|| scheme.default_port());
        scheme == offer.view.scheme
            && authority.host == offer.view.authority.host
            && port == offer.view.port()
            && path == *offer.path
    })
}

/// An absolute http or https URI in parts. What we refuse as the path of a request is no path here either.
fn target(htu: &str, tolerated: Quirks) -> Option<(Scheme, Authority, CanonicalPath)> {
    let (scheme, rest) = htu.split_once("://")?;
    let scheme = match () {
        () if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
        () if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
        () => return None,
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = CanonicalPath::parse(if path.is_empty() { "/" } else { path }, tolerated).ok()?;
    Some((scheme, authority.parse().ok()?, path))
}

fn object(part: &str) -> Result<Map<String, Value>, ProofError> {
    let json = base64url::decode(part.as_bytes()).ok_or(ProofError::Encoding)?;
    Ok(json::object(&json)?)
}

/// The one `typ` (RFC 9449 section 4.2).
const TYPE: &str = "dpop+jwt";

/// Header parameters that would let a proof be something else than signed JSON under its own `jwk`.
const FORBIDDEN: [&str; 9] = ["b64", "enc", "epk", "jku", "p2c", "p2s", "x5c", "x5u", "zip"];

/// Bytes of the longest proof that is looked at: with an RSA key of 4096 bits and a long URL there is room to spare.
const MAX_PROOF_BYTES: usize = 8 * 1024;

/// Bytes of the longest `jti`: a UUID has 36.
const MAX_ID_BYTES: usize = 128;
