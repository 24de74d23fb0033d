//! Bearer tokens: strict parse, issuer, signature, claims (R21, R22, R25).
//!
//! In: the bytes of a token, the issuers that a route accepts, and the time. Out: a [`VerifiedToken`] with the identity
//! made and its header values prepared, or the one [`JwtError`] that says why not. Each part is decoded and read once.
//! The issuer is chosen by `iss`, then only its keys count; whatever is cheap to refuse is refused before the
//! signature is checked, and nothing of a token is used before it. What many libraries let pass is refused here:
//! `crit`, foreign `typ`, tokens from the future, members that occur twice, claims of the wrong type.
//!
//! RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (best practices), RFC 9068 (`at+jwt`), RFC 7800 (`cnf`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Number;

use super::{
    base64url,
    introspection::{Active, Endpoint, Origin},
    json::{self, Json, JsonError, Members},
    jwks::KeySlot,
    keys::{Algorithm, BadSignature, Candidates, Generation, Key, Tenure, UnknownAlgorithm, Unmatched},
    own::{self, Child},
    possession::Confirmation,
};
use crate::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityError, IdentityParts, Via},
    policy::{ClaimPath, Grants, ProofRule},
    revocation::{Checked, Claims, Revocations, SigningInput},
};

/// Bytes of the longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// One `[[jwt.issuer]]`, ready to use.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in configuration, logs and `jwt:<name>`.
    pub name: Arc<str>,
    /// What its subjects and roles mean something in (R5).
    pub realm: Arc<str>,
    /// The exact `iss`. No two issuers of one route have the same.
    pub issuer: Arc<str>,
    /// Whom its tokens must be meant for.
    pub audience: Audience,
    /// Its keys; carried over by a reload that leaves their source as it is.
    pub keys: Arc<KeySlot>,
    /// Where in the claims things are.
    pub claims: ClaimMapping,
    /// What it may say of its subjects.
    pub grants: Grants,
    /// Tolerated clock difference for `exp`, `nbf`, `iat`.
    pub leeway: Duration,
    /// Where it says what tokens are that are no JWS; `None`: such tokens are none of its.
    pub introspection: Option<Arc<Endpoint>>,
    /// Upper bound of `exp − iat`.
    pub max_token_life: Duration,
    /// What its tokens must say besides, to count at all.
    pub required_claims: Box<[RequiredClaim]>,
    /// Whether only tokens count that say they are access tokens: `typ` is `at+jwt`, and every claim that RFC 9068
    /// section 2.2 asks for is there.
    pub access_tokens_only: bool,
    /// Whether tokens with `nonce` (ID tokens) are bearers (R22).
    pub id_tokens: bool,
    /// Whether its emails count as verified without `email_verified` (R6).
    pub trust_email: bool,
    /// It is ourselves, and makes tokens for these clients only; `None`: it is somebody else.
    pub own: Option<Box<[Box<str>]>>,
    /// What all its tokens must be bound to.
    pub proof: ProofRule,
    /// Names exactly these settings; part of the cache key (R23). Keep it as long as none of them changes: what was
    /// verified under one generation counts under no other. The keys may change under it, and have their own say.
    pub generation: Generation,
}

impl Issuer {
    /// Takes from an earlier state of the same issuer what a reload need not lose: the keys, where they come from the
    /// same source or are the same; and what was verified, where the settings are the same, too.
    pub fn carry_over(&mut self, earlier: &Self) {
        if let Some(mixed) = self.keys.with_keys_of(&earlier.keys) {
            self.keys = mixed;
        }
        if let (Some(endpoint), Some(before)) = (&mut self.introspection, &earlier.introspection)
            && endpoint.source() == before.source()
        {
            *endpoint = Arc::clone(before);
        }
        if !Arc::ptr_eq(&self.keys, &earlier.keys) {
            return;
        }
        let Self {
            name,
            realm,
            issuer,
            audience,
            keys: _,
            claims,
            grants,
            leeway,
            introspection,
            max_token_life,
            required_claims,
            access_tokens_only,
            id_tokens,
            trust_email,
            own,
            proof,
            generation: _,
        } = &*self;
        let endpoint = |endpoint: &Option<Arc<Endpoint>>| endpoint.as_ref().map(Arc::as_ptr);
        let same = (name, realm, issuer, audience, claims, grants)
            == (&earlier.name, &earlier.realm, &earlier.issuer, &earlier.audience, &earlier.claims, &earlier.grants)
            && (leeway, max_token_life, id_tokens, trust_email, proof)
                == (&earlier.leeway, &earlier.max_token_life, &earlier.id_tokens, &earlier.trust_email, &earlier.proof)
            && (required_claims, access_tokens_only, own)
                == (&earlier.required_claims, &earlier.access_tokens_only, &earlier.own)
            && endpoint(introspection) == endpoint(&earlier.introspection);
        if same {
            self.generation = earlier.generation;
        }
    }

    /// Ends what was verified with keys that a `later` state of the same issuer does not have, such as tunnels that are
    /// open; with all of them, if there is none. To be called once the later state counts.
    pub fn end_for(&self, later: Option<&Self>) {
        if later.is_none_or(|later| !Arc::ptr_eq(&self.keys, &later.keys)) {
            let later = later.map(|later| later.keys.current());
            self.keys.current().retire_for(later.as_deref().map(|set| &**set));
        }
    }
}

/// Which `aud` is accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Audience {
    /// `insecure_any_audience = "reason"`.
    Any,
    /// At least one of these.
    OneOf(Box<[Box<str>]>),
}

/// One entry of `required_claims`.
#[derive(Clone, Debug, PartialEq)]
pub struct RequiredClaim {
    /// Where it is (R25).
    pub path: ClaimPath,
    /// Its value is a string and exactly one of these (R6); empty: whatever it is but `null`.
    pub equals: Box<[Box<str>]>,
}

/// `claims = { … }`: where an identity's fields are found (R25).
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimMapping {
    /// Default `sub`.
    pub subject: ClaimPath,
    /// Default `name`.
    pub name: ClaimPath,
    /// Default `email`.
    pub email: ClaimPath,
    /// Default `roles`.
    pub roles: ClaimPath,
    /// Default `groups`.
    pub groups: ClaimPath,
    /// Default `scope` (a string, split at spaces, or an array), else `scp`.
    pub scopes: Option<ClaimPath>,
}

impl Default for ClaimMapping {
    fn default() -> Self {
        Self {
            subject: ClaimPath::steps(["sub"]),
            name: ClaimPath::steps(["name"]),
            email: ClaimPath::steps(["email"]),
            roles: ClaimPath::steps(["roles"]),
            groups: ClaimPath::steps(["groups"]),
            scopes: None,
        }
    }
}

/// A token whose signature and claims held when it was checked. Only [`verify`] makes one. Its time must be checked
/// again whenever it is used.
#[derive(Debug)]
// What every request asks stands together: each line of the processor's cache has to come from far for a token that was
// not used lately.
#[repr(C)]
pub struct VerifiedToken {
    generation: Generation,
    /// Its text among it, which it is compared with.
    signing_input: SigningInput,
    identity: Arc<Identity>,
    /// Of the key that signed it.
    tenure: Arc<Tenure>,
    /// From when until when it counts, the issuer's leeway included.
    counts: (Timestamp, Timestamp),
    checked: Checked,
    /// Whether it was used since the cache last looked.
    is_used: AtomicBool,
    /// Whom to ask again; `None`: it says everything itself.
    origin: Option<Box<Origin>>,
    /// What it comes from, if it is one of ours.
    own: Option<Box<Child>>,
    confirmation: Confirmation,
    issuer: Arc<str>,
    iss: Arc<str>,
    expires_at: Timestamp,
    not_before: Option<Timestamp>,
    issued_at: Option<Timestamp>,
    jti: Option<Box<str>>,
    dropped_grants: usize,
    /// What all its claims take as a map, whether or not somebody has asked for one, or as text if that is more.
    claims_bytes: usize,
}

impl VerifiedToken {
    /// One that nobody signed, for tests of what is done with them.
    #[cfg(test)]
    pub(super) fn unsigned(
        identity: Arc<Identity>,
        generation: Generation,
        expires_at: Timestamp,
        token: &[u8],
    ) -> Self {
        let claims_bytes = identity.claims().map_or(0, |claims| Members::of(claims).map_bytes());
        Self {
            identity,
            issuer: Arc::from("id"),
            iss: Arc::from("https://id.example"),
            generation,
            tenure: Arc::default(),
            expires_at,
            not_before: None,
            issued_at: None,
            counts: (Timestamp::default(), expires_at),
            jti: None,
            confirmation: Confirmation::default(),
            signing_input: SigningInput::of_jws(token.into()),
            dropped_grants: 0,
            claims_bytes,
            checked: Checked::default(),
            is_used: AtomicBool::new(false),
            origin: None,
            own: None,
        }
    }

    /// One of which its issuer said that it is active, with these members (RFC 7662 section 2.2). They are judged as
    /// the claims of a JWT are.
    ///
    /// # Errors
    /// The first reason found why it is no credential.
    pub fn introspected(issuer: &Issuer, active: Active<'_>) -> Result<Self, JwtError> {
        let Active { endpoint, token, members: map, now } = active;
        let members = Members::of(&map);
        if text(&members, "iss")?.ok_or(JwtError::MissingClaim("iss"))? != &*issuer.issuer {
            return Err(JwtError::UnknownIssuer);
        }
        let registered = Registered::read(&members, issuer, now)?;
        check_required(&members, issuer)?;
        check_kind(&members, &registered.confirmation)?;
        let (parts, dropped_grants) = identity(&members, issuer, now)?;
        let claims_bytes = members.map_bytes();
        let identity = Identity::of_texts(parts).map_err(JwtError::Subject)?.with_claims(map);
        Ok(Self {
            identity: Arc::new(identity),
            issuer: Arc::clone(&issuer.name),
            iss: Arc::clone(&issuer.issuer),
            generation: issuer.generation,
            tenure: Arc::default(),
            expires_at: registered.expires_at,
            not_before: registered.not_before,
            issued_at: registered.issued_at,
            counts: registered.counts,
            jti: registered.jti,
            confirmation: registered.confirmation,
            signing_input: SigningInput::of_opaque(token),
            dropped_grants,
            claims_bytes,
            checked: Checked::default(),
            is_used: AtomicBool::new(false),
            origin: Some(Box::new(endpoint.origin(token, now))),
            own: None,
        })
    }

    /// Whom to ask again; `None`: it says everything itself.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// The caller.
    pub const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What it comes from, if it is one of ours: only with that it counts.
    pub fn child(&self) -> Option<&Child> {
        self.own.as_deref()
    }

    /// Of a token of ours, the client that it was made for.
    pub fn client(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.client())
    }

    /// The configured name of the issuer.
    pub const fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// The issuer's settings under which it was verified.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the key that signed it is still one of the issuer's.
    pub fn key_stands(&self) -> bool {
        self.tenure.holds()
    }

    /// `exp`, without leeway.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// `nbf`, without leeway.
    pub const fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// `iat`.
    pub const fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// `jti`: its name within the issuer.
    pub fn jti(&self) -> Option<&str> {
        self.jti.as_deref()
    }

    /// What it is bound to. To be checked on every use, against what came with that use.
    pub const fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }

    /// SHA-256 of header and payload as signed, or of an opaque token: names the token whatever its signature looks
    /// like (R28).
    pub fn signing_input_hash(&self) -> &[u8; 32] {
        self.signing_input.hash()
    }

    /// Itself, as it was sent, if it is a JWS.
    pub(super) const fn text(&self) -> &Arc<[u8]> {
        self.signing_input.token()
    }

    /// Notes for the cache that it was used: a write only where that is not noted yet.
    pub(super) fn mark_as_used(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since the last call.
    pub(super) fn take_mark(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    /// What its claims own on the heap at most.
    pub(super) const fn claims_bytes(&self) -> usize {
        self.claims_bytes
    }

    /// Roles and groups that were dropped because this issuer may not grant them (R5).
    pub const fn dropped_grants(&self) -> usize {
        self.dropped_grants
    }

    /// Whether it was revoked (R28). Asked on every use; while nothing new is revoked, two loads and a comparison.
    pub fn is_revoked(&self, revocations: &Revocations) -> bool {
        revocations.is_struck(&self.checked, || Claims {
            issuer: &self.iss,
            jti: self.jti(),
            signing_input: &self.signing_input,
            subject: self.own.is_none().then(|| (&**self.identity.realm(), self.identity.subject())),
            issued_at: self.issued_at,
            leeway: self.accepted_until().since(self.expires_at),
        })
    }

    /// Until when it counts, the issuer's leeway included.
    pub const fn accepted_until(&self) -> Timestamp {
        self.counts.1
    }

    /// Whether it counts at this moment, with the issuer's leeway.
    ///
    /// # Errors
    /// [`JwtError::Expired`] or [`JwtError::NotYetValid`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), JwtError> {
        check_time(self.counts, now)
    }
}

/// Why a token is no credential. For logs and metrics only; the caller learns `invalid_token`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JwtError {
    // Not a JWS in compact form.
    /// A part is not base64url without padding and with zero trailing bits.
    Encoding,
    /// Five parts: an encrypted token.
    Encrypted,
    /// Not three parts.
    Parts,
    /// Longer than [`MAX_TOKEN_BYTES`].
    TooLong,

    // Header or payload are not what they must be.
    /// A claim is of another type than it must be, or a date out of range.
    ClaimType(&'static str),
    /// `crit`: extensions that must be understood, and none is.
    Critical,
    /// A member occurs twice in one object, at whatever level.
    Duplicate,
    /// A header parameter that brings its own keys, encryption or encoding.
    ForbiddenHeader(&'static str),
    /// Header or payload is not a JSON object.
    Json,
    /// A claim that every token needs, or every token of its issuer, is not there.
    MissingClaim(&'static str),
    /// A header parameter that must be a string is not, or `alg` is absent.
    ParameterType(&'static str),
    /// Nested too deeply.
    TooDeep,

    // Another kind of token (R22).
    /// `cnf`: it counts only with a proof of possession, and none that fits came with it.
    Bound,
    /// `cnf` of a kind that is not known here, or malformed.
    Confirmation,
    /// No `cnf` where one is asked for, or of another kind; or none beside a proof.
    Unbound,
    /// `events`: a statement about somebody, not by them.
    Event,
    /// `nonce`: an ID token.
    Nonce,
    /// `typ` or `cty` of something else.
    Type,

    // Nobody we know made it.
    /// An algorithm that the issuer, or this key, does not sign with.
    AlgorithmNotAllowed,
    /// `alg` is none of those that are served; `none` among them.
    AlgorithmUnknown,
    /// Without `kid`, too many keys fit.
    KeyAmbiguous,
    /// No key of the issuer fits. Carries the issuer's index.
    KeyUnknown(usize),
    /// The issuer's keys are not known yet: neither good nor bad (R3). Carries the issuer's index.
    KeysPending(usize),
    /// No signature has this length.
    SignatureLength,
    /// `iss` is none of the route's issuers.
    UnknownIssuer,
    /// Not signed by the key it names. Carries the key set that this is true of.
    WrongSignature(Generation),

    // Not for us, or not now.
    /// `aud` names others only.
    Audience,
    /// A claim that the issuer's settings ask for has another value.
    ClaimValue,
    /// `exp` has passed.
    Expired,
    /// `iat` lies ahead.
    IssuedAhead,
    /// From `iat` to `exp` is longer than the issuer's tokens may live.
    LivesTooLong,
    /// `nbf` lies ahead.
    NotYetValid,
    /// Its issuer says so.
    Inactive,
    /// A token of ours whose session or API key has ended, says something else by now, or is not named.
    Parentless,
    /// An administrator has revoked it.
    Revoked,
    /// The subject is empty, too long or holds control bytes (R13).
    Subject(IdentityError),
}

impl JwtError {
    /// The word for logs and metrics: a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::AlgorithmUnknown => "algorithm_unknown",
            Self::Audience => "audience",
            Self::Bound => "sender_constrained",
            Self::ClaimType(_) => "claim_type",
            Self::ClaimValue => "claim_value",
            Self::Confirmation => "unknown_confirmation",
            Self::Critical => "critical_header",
            Self::Duplicate => "duplicate_member",
            Self::Encoding => "encoding",
            Self::Encrypted => "encrypted",
            Self::Event => "event_token",
            Self::Expired => "expired",
            Self::ForbiddenHeader(_) => "forbidden_header",
            Self::Inactive => "inactive",
            Self::IssuedAhead => "issued_ahead",
            Self::Json => "not_json",
            Self::KeyAmbiguous => "key_ambiguous",
            Self::KeyUnknown(_) => "key_unknown",
            Self::KeysPending(_) => "keys_pending",
            Self::LivesTooLong => "lives_too_long",
            Self::MissingClaim(_) => "missing_claim",
            Self::Nonce => "id_token",
            Self::NotYetValid => "not_yet_valid",
            Self::ParameterType(_) => "header_type",
            Self::Parentless => "parent_ended",
            Self::Parts => "parts",
            Self::SignatureLength => "signature_length",
            Self::Revoked => "revoked",
            Self::Subject(_) => "subject",
            Self::TooDeep => "too_deep",
            Self::TooLong => "too_long",
            Self::Type => "token_type",
            Self::Unbound => "unbound_token",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongSignature(_) => "wrong_signature",
        }
    }
}

impl From<JsonError> for JwtError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Duplicate => Self::Duplicate,
            JsonError::NotAnObject | JsonError::Syntax => Self::Json,
            JsonError::TooDeep => Self::TooDeep,
        }
    }
}

impl Unmatched {
    const fn of_issuer(self, index: usize) -> JwtError {
        match self {
            Self::Algorithm => JwtError::AlgorithmNotAllowed,
            Self::Ambiguous => JwtError::KeyAmbiguous,
            Self::Pending => JwtError::KeysPending(index),
            Self::Unknown => JwtError::KeyUnknown(index),
        }
    }
}

/// Verifies a token for a route that accepts the issuers `allowed`, given by their index in `issuers`.
///
/// # Errors
/// The first reason found, cheap ones before the signature. [`JwtError::KeysPending`] is no verdict on the token.
pub fn verify(token: &[u8], issuers: &[Issuer], allowed: &[usize], now: Timestamp) -> Result<VerifiedToken, JwtError> {
    let parts = Parts::split(token)?;
    let header = decode(parts.header)?;
    let payload = decode(parts.payload)?;
    let header = json::members(&header)?;
    let header = Header::read(&header)?;
    let claims = json::members(&payload)?;
    let iss = text(&claims, "iss")?.ok_or(JwtError::MissingClaim("iss"))?;
    let accepted = allowed.iter().filter_map(|&index| Some((index, issuers.get(index)?)));
    let (index, issuer) =
        accepted.into_iter().find(|(_, issuer)| *issuer.issuer == *iss).ok_or(JwtError::UnknownIssuer)?;
    if issuer.access_tokens_only && !header.is_access_token {
        return Err(JwtError::Type);
    }
    let registered = Registered::read(&claims, issuer, now)?;
    check_required(&claims, issuer)?;
    let set = issuer.keys.current();
    let keys = set.select(header.kid, header.algorithm).map_err(|why| why.of_issuer(index))?;
    let key = check_signature(&keys, header.algorithm, &parts, set.generation())?;

    let own = issuer.own.as_deref().map(|clients| Child::read(&claims, clients)).transpose()?;
    let (parts, dropped_grants) = identity(&claims, issuer, now)?;
    let claims_bytes = claims.map_bytes().max(payload.len());
    let identity = Identity::of_texts(parts).map_err(JwtError::Subject)?.with_claims(payload.into_boxed_str());
    Ok(VerifiedToken {
        identity: Arc::new(identity),
        issuer: Arc::clone(&issuer.name),
        iss: Arc::clone(&issuer.issuer),
        generation: issuer.generation,
        tenure: Arc::clone(key.tenure()),
        expires_at: registered.expires_at,
        not_before: registered.not_before,
        issued_at: registered.issued_at,
        counts: registered.counts,
        jti: registered.jti,
        confirmation: registered.confirmation,
        signing_input: SigningInput::of_jws(token.into()),
        dropped_grants,
        claims_bytes,
        checked: Checked::default(),
        is_used: AtomicBool::new(false),
        origin: None,
        own: own.map(Box::new),
    })
}

/// The three parts of a JWS in compact form (RFC 7515 section 7.1), still encoded.
struct Parts<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    signing_input: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(token: &'a [u8]) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLong);
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second)) = (dots.next(), dots.next()) else { return Err(JwtError::Parts) };
        match dots.count() {
            0 => {}
            2 => return Err(JwtError::Encrypted),
            _ => return Err(JwtError::Parts),
        }
        let parts = || {
            let (signing_input, signature) = token.split_at_checked(second)?;
            let (header, payload) = signing_input.split_at_checked(first)?;
            Some(Self { header, payload: payload.get(1..)?, signature: signature.get(1..)?, signing_input })
        };
        parts().ok_or(JwtError::Parts)
    }
}

/// An endpoint may know other tokens than access tokens, such as refresh tokens, which are no bearers (R22): the kind
/// must be told, and be the right one. `typ` and `token_use` tell it at some.
fn check_kind(members: &Members<'_>, confirmation: &Confirmation) -> Result<(), JwtError> {
    let kind = text(members, "token_type")?.ok_or(JwtError::MissingClaim("token_type"))?;
    let bound = confirmation.key.is_some() && kind.eq_ignore_ascii_case("DPoP");
    let is = |name, kinds: &[&str]| {
        Ok::<_, JwtError>(
            text(members, name)?.is_none_or(|told| kinds.iter().any(|kind| told.eq_ignore_ascii_case(kind))),
        )
    };
    let right = (bound || kind.eq_ignore_ascii_case("Bearer"))
        && is("typ", &["Bearer", "DPoP", "JWT", "at+jwt"])?
        && is("token_use", &["access", "access_token"])?;
    if right { Ok(()) } else { Err(JwtError::Type) }
}

/// A part as the text that it must be.
fn decode(part: &[u8]) -> Result<String, JwtError> {
    let bytes = base64url::decode(part).ok_or(JwtError::Encoding)?;
    String::from_utf8(bytes).map_err(|_| JwtError::Json)
}

/// What of a header counts.
struct Header<'a> {
    algorithm: Algorithm,
    kid: Option<&'a str>,
    /// Whether `typ` is `at+jwt` (RFC 9068 section 2.1).
    is_access_token: bool,
}

impl<'a> Header<'a> {
    fn read(header: &'a Members<'_>) -> Result<Self, JwtError> {
        let parameter = |name| match header.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(&**text)),
            Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_)) => {
                Err(JwtError::ParameterType(name))
            }
        };
        if header.has("crit") {
            return Err(JwtError::Critical);
        }
        if let Some(name) = FORBIDDEN.into_iter().find(|name| header.has(name)) {
            return Err(JwtError::ForbiddenHeader(name));
        }
        let nested = parameter("cty")?.is_some_and(|cty| media_type(cty).eq_ignore_ascii_case("jwt"));
        let typ = parameter("typ")?.map(media_type);
        let is_access_token = typ.is_some_and(|typ| typ.eq_ignore_ascii_case("at+jwt"));
        if nested || !(is_access_token || typ.is_none_or(|typ| typ.eq_ignore_ascii_case("jwt"))) {
            return Err(JwtError::Type);
        }
        let algorithm = parameter("alg")?.ok_or(JwtError::ParameterType("alg"))?;
        let algorithm = algorithm.parse().map_err(|UnknownAlgorithm| JwtError::AlgorithmUnknown)?;
        Ok(Self { algorithm, kid: parameter("kid")?, is_access_token })
    }
}

/// A media type without `application/`, which may be left out (RFC 7515 section 4.1.9).
fn media_type(name: &str) -> &str {
    match name.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => name,
    }
}

/// The claims that decide whether a token counts at all (RFC 7519 section 4.1).
struct Registered {
    expires_at: Timestamp,
    not_before: Option<Timestamp>,
    issued_at: Option<Timestamp>,
    counts: (Timestamp, Timestamp),
    jti: Option<Box<str>>,
    confirmation: Confirmation,
}

impl Registered {
    fn read(claims: &Members<'_>, issuer: &Issuer, now: Timestamp) -> Result<Self, JwtError> {
        if claims.has("events") {
            return Err(JwtError::Event);
        }
        if claims.has("nonce") && !issuer.id_tokens {
            return Err(JwtError::Nonce);
        }
        let confirmation = Confirmation::read(claims)?;
        if !confirmation.meets(issuer.proof) {
            return Err(JwtError::Unbound);
        }
        let expires_at = date(claims, "exp")?.ok_or(JwtError::MissingClaim("exp"))?;
        let not_before = date(claims, "nbf")?;
        let issued_at = date(claims, "iat")?;
        text(claims, "sub")?;
        let jti = text(claims, "jti")?.map(Into::into);
        check_audience(claims, &issuer.audience)?;
        if expires_at.since(issued_at.unwrap_or(now)) > issuer.max_token_life {
            return Err(JwtError::LivesTooLong);
        }
        if issued_at.is_some_and(|issued_at| issued_at > now.plus(issuer.leeway)) {
            return Err(JwtError::IssuedAhead);
        }
        let from = not_before.map_or_else(Timestamp::default, |not_before| not_before.minus(issuer.leeway));
        let counts = (from, expires_at.plus(issuer.leeway));
        check_time(counts, now)?;
        Ok(Self { expires_at, not_before, issued_at, counts, jti, confirmation })
    }
}

const fn check_time((from, until): (Timestamp, Timestamp), now: Timestamp) -> Result<(), JwtError> {
    if now.unix_millis() >= until.unix_millis() {
        return Err(JwtError::Expired);
    }
    if now.unix_millis() < from.unix_millis() {
        return Err(JwtError::NotYetValid);
    }
    Ok(())
}

fn check_audience(claims: &Members<'_>, audience: &Audience) -> Result<(), JwtError> {
    let wanted = |aud: &str| match audience {
        Audience::Any => true,
        Audience::OneOf(ours) => ours.iter().any(|our| **our == *aud),
    };
    let fits = match claims.get("aud") {
        None => match audience {
            Audience::Any => true,
            Audience::OneOf(_) => return Err(JwtError::MissingClaim("aud")),
        },
        Some(Json::Text(aud)) => wanted(aud),
        Some(Json::Array(auds)) => {
            let mut fits = matches!(audience, Audience::Any);
            for aud in auds {
                fits |= wanted(aud.as_str().ok_or(JwtError::ClaimType("aud"))?);
            }
            fits
        }
        Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_)) => {
            return Err(JwtError::ClaimType("aud"));
        }
    };
    if fits { Ok(()) } else { Err(JwtError::Audience) }
}

/// What the issuer's settings ask for beyond what every token needs.
fn check_required(claims: &Members<'_>, issuer: &Issuer) -> Result<(), JwtError> {
    if issuer.access_tokens_only {
        for name in ["sub", "client_id", "jti"] {
            text(claims, name)?.ok_or(JwtError::MissingClaim(name))?;
        }
        date(claims, "iat")?.ok_or(JwtError::MissingClaim("iat"))?;
    }
    for RequiredClaim { path, equals } in &issuer.required_claims {
        match claims.find(path) {
            None | Some(Json::Null) => return Err(JwtError::MissingClaim("required")),
            Some(_) if equals.is_empty() => {}
            Some(Json::Text(text)) if equals.iter().any(|wanted| **wanted == **text) => {}
            Some(_) => return Err(JwtError::ClaimValue),
        }
    }
    Ok(())
}

/// The key that signed it.
fn check_signature<'k>(
    keys: &Candidates<'k>,
    algorithm: Algorithm,
    parts: &Parts<'_>,
    generation: Generation,
) -> Result<&'k Key, JwtError> {
    let mut worst = JwtError::SignatureLength;
    for key in keys {
        match key.verify(algorithm, parts.signing_input, parts.signature) {
            Ok(()) => return Ok(key),
            Err(BadSignature::Encoding) => return Err(JwtError::Encoding),
            Err(BadSignature::Length) => {}
            Err(BadSignature::Wrong) => worst = JwtError::WrongSignature(generation),
        }
    }
    Err(worst)
}

/// Maps claims to an identity (R25) and drops what the issuer may not grant (R5); returns how much that was.
fn identity<'c>(
    claims: &'c Members<'_>,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<(IdentityParts<&'c str>, usize), JwtError> {
    let mapping = &issuer.claims;
    let subject = mapped_text(claims, &mapping.subject, "subject")?.ok_or(JwtError::MissingClaim("subject"))?;
    let email_claimed_verified = matches!(claims.get("email_verified"), Some(Json::Bool(true)));
    let scopes = match &mapping.scopes {
        Some(path) => claims.find(path),
        None => claims.get("scope").or_else(|| claims.get("scp")),
    };
    let mut roles = list(claims.find(&mapping.roles), "roles", |role| vec![role])?;
    let mut groups = list(claims.find(&mapping.groups), "groups", |group| vec![group])?;
    let mut scopes = list(scopes, "scopes", |text| text.split(' ').collect())?;
    let dropped = issuer.grants.filter(&mut roles, &mut groups) + issuer.grants.filter_scopes(&mut scopes);
    // What is ours comes from sessions of any realm, and says of which.
    let realm = match &issuer.own {
        Some(_) => text(claims, own::claim::REALM)?.ok_or(JwtError::MissingClaim(own::claim::REALM))?.into(),
        None => Arc::clone(&issuer.realm),
    };
    let parts = IdentityParts {
        realm,
        subject,
        name: mapped_text(claims, &mapping.name, "name")?,
        email: mapped_text(claims, &mapping.email, "email")?,
        email_verified: email_claimed_verified || issuer.trust_email,
        roles,
        groups,
        scopes,
        // A login in the future would satisfy `max_auth_age` for as long as the issuer's clock is wrong.
        auth_time: date(claims, "auth_time")?.filter(|&auth_time| auth_time <= now.plus(issuer.leeway)),
        factor: factor(claims),
        via: Via::Jwt(Arc::clone(&issuer.name)),
        claims: serde_json::Map::new(),
    };
    Ok((parts, dropped))
}

/// Two factors where `amr` lists `mfa` (RFC 8176 section 2) or `acr` is it, as our challenge asks (RFC 9470 section
/// 6.2); whatever else is there, or nothing, is one.
fn factor(claims: &Members<'_>) -> Factor {
    let is_two = |value: &Json<'_>| value.as_str() == Some(Factor::TWO_NAME);
    let listed = matches!(claims.get("amr"), Some(Json::Array(methods)) if methods.iter().any(is_two));
    if listed || claims.get("acr").is_some_and(is_two) { Factor::Two } else { Factor::One }
}

/// A string of the issuer's choosing; `null` is an absent one.
fn mapped_text<'c>(claims: &'c Members<'_>, path: &ClaimPath, what: &'static str) -> Result<Option<&'c str>, JwtError> {
    match claims.find(path) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text)),
        Some(Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_)) => Err(JwtError::ClaimType(what)),
    }
}

/// An array of strings, or one string that `split` takes apart; `null` is an absent one.
fn list<'c>(
    value: Option<&'c Json<'_>>,
    what: &'static str,
    split: impl Fn(&'c str) -> Vec<&'c str>,
) -> Result<Vec<&'c str>, JwtError> {
    match value {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Text(text)) => Ok(split(text)),
        Some(Json::Array(items)) => {
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                texts.push(item.as_str().ok_or(JwtError::ClaimType(what))?);
            }
            Ok(texts)
        }
        Some(Json::Bool(_) | Json::Number(_) | Json::Object(_)) => Err(JwtError::ClaimType(what)),
    }
}

/// A registered claim that is a string if it is there.
fn text<'a>(claims: &'a Members<'_>, name: &'static str) -> Result<Option<&'a str>, JwtError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text)),
        Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_)) => {
            Err(JwtError::ClaimType(name))
        }
    }
}

/// A registered claim that is a NumericDate if it is there (RFC 7519 section 2): seconds, possibly with a fraction,
/// of which milliseconds count.
fn date(claims: &Members<'_>, name: &'static str) -> Result<Option<Timestamp>, JwtError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(number)) => match timestamp(number) {
            Some(timestamp) => Ok(Some(timestamp)),
            None => Err(JwtError::ClaimType(name)),
        },
        Some(Json::Null | Json::Bool(_) | Json::Text(_) | Json::Array(_) | Json::Object(_)) => {
            Err(JwtError::ClaimType(name))
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and fractions of a millisecond are cut off"
)]
pub(super) fn timestamp(number: &Number) -> Option<Timestamp> {
    if let Some(seconds) = number.as_u64() {
        return (seconds <= LAST_SECOND).then(|| Timestamp::from_unix_seconds(seconds));
    }
    let seconds = number.as_f64()?;
    // Exact for this range: both bounds are below 2^53.
    (0.0..=LAST_SECOND as f64).contains(&seconds).then(|| Timestamp::from_unix_millis((seconds * 1000.0) as u64))
}

/// Header parameters that would let a token choose its keys or be something else than signed JSON (RFC 7515 section
/// 4.1, RFC 7516, RFC 7797).
const FORBIDDEN: [&str; 10] = ["b64", "enc", "epk", "jku", "jwk", "p2c", "p2s", "x5c", "x5u", "zip"];

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{
        super::{keys::KeySet, signer::*},
        *,
    };

    fn verify_one(token: &str, issuer: Issuer) -> Result<VerifiedToken, JwtError> {
        verify(token.as_bytes(), &[issuer], &[0], now())
    }

    /// A signer with its issuer, for rows about claims: HMAC is quick.
    fn hs256() -> (Signer, impl Fn() -> Issuer) {
        let signer = Signer::new(Algorithm::HS256);
        let jwk = json!({ "keys": [signer.jwk()] }).to_string();
        (signer, move || issuer(KeySet::from_jwk_set(jwk.as_bytes(), &[Algorithm::HS256]).unwrap()))
    }

    /// Replaces the signature.
    fn with_signature(token: &str, signature: &[u8]) -> String {
        let (input, _) = token.rsplit_once('.').unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn a_token_of_every_algorithm_is_accepted_and_a_strangers_is_not() {
        for algorithm in Algorithm::ALL {
            let signer = Signer::new(algorithm);
            let token = signer.token_of(&claims());
            let stranger = Signer::stranger(algorithm).token_of(&claims());

            let verified = verify_one(&token, issuer(signer.keys())).unwrap();
            let refused = verify_one(&stranger, issuer(signer.keys())).unwrap_err();

            assert_eq!(verified.identity().subject(), "alice", "{algorithm}");
            assert!(matches!(refused, JwtError::WrongSignature(_)), "{algorithm}: {refused:?}");
        }
    }

    #[test]
    fn signatures_have_exactly_one_length_and_form() {
        for algorithm in Algorithm::ALL {
            let signer = Signer::new(algorithm);
            let token = signer.token_of(&claims());
            let signature = URL_SAFE_NO_PAD.decode(token.rsplit_once('.').unwrap().1).unwrap();
            let longer = [&signature[..], &[0]].concat();
            let zero_led = [&[0], &signature[..]].concat();
            let doubled = [&signature[..], &signature[..]].concat();

            for bad in [&longer[..], &zero_led, &doubled, &signature[..signature.len() - 1], &[]] {
                let refused = verify_one(&with_signature(&token, bad), issuer(signer.keys())).unwrap_err();
                assert_eq!(refused, JwtError::SignatureLength, "{algorithm}, {} bytes", bad.len());
            }
            let zeros = verify_one(&with_signature(&token, &vec![0; signature.len()]), issuer(signer.keys()));
            assert!(matches!(zeros, Err(JwtError::WrongSignature(_))), "{algorithm}: {zeros:?}");
        }
    }

    #[test]
    fn an_ecdsa_signature_in_der_is_refused() {
        let signer = Signer::new(Algorithm::ES256);
        let token = signer.token_of(&claims());
        let fixed = URL_SAFE_NO_PAD.decode(token.rsplit_once('.').unwrap().1).unwrap();
        let integer = |half: &[u8]| [&[2, 33, 0], half].concat();
        let (r, s) = (integer(&fixed[..32]), integer(&fixed[32..]));
        let der = [&[0x30, 70], r.as_slice(), s.as_slice()].concat();

        assert_eq!(
            verify_one(&with_signature(&token, &der), issuer(signer.keys())).unwrap_err(),
            JwtError::SignatureLength
        );
        assert!(verify_one(&token, issuer(signer.keys())).is_ok());
    }

    #[test]
    fn headers_that_change_the_rules_are_refused() {
        let (signer, issuer) = hs256();
        let rows: &[(&str, Option<JwtError>)] = &[
            (r#"{"alg":"HS256"}"#, None),
            (r#"{"alg":"HS256","typ":"JWT","kid":"any","x5t":"abc","vendor":{"a":1}}"#, None),
            (r#"{"alg":"HS256","typ":"at+jwt"}"#, None),
            (r#"{"alg":"HS256","typ":"AT+JWT"}"#, None),
            (r#"{"alg":"HS256","typ":"Application/at+jwt"}"#, None),
            (r#"{"alg":"HS256","typ":"application/jwt"}"#, None),
            (r#"{"alg":"HS256","typ":"secevent+jwt"}"#, Some(JwtError::Type)),
            (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, Some(JwtError::Type)),
            (r#"{"alg":"HS256","typ":"logout+jwt"}"#, Some(JwtError::Type)),
            (r#"{"alg":"HS256","typ":"application/application/jwt"}"#, Some(JwtError::Type)),
            (r#"{"alg":"HS256","typ":""}"#, Some(JwtError::Type)),
            (r#"{"alg":"HS256","cty":"JWT"}"#, Some(JwtError::Type)),
            (r#"{"alg":"HS256","cty":"application/jwt"}"#, Some(JwtError::Type)),
            (r#"{"alg":"none"}"#, Some(JwtError::AlgorithmUnknown)),
            (r#"{"alg":"None"}"#, Some(JwtError::AlgorithmUnknown)),
            (r#"{"alg":"hs256"}"#, Some(JwtError::AlgorithmUnknown)),
            (r#"{"alg":""}"#, Some(JwtError::AlgorithmUnknown)),
            (r#"{"alg":"HS512"}"#, Some(JwtError::AlgorithmNotAllowed)),
            (r#"{"alg":"RS256"}"#, Some(JwtError::AlgorithmNotAllowed)),
            (r#"{}"#, Some(JwtError::ParameterType("alg"))),
            (r#"{"alg":256}"#, Some(JwtError::ParameterType("alg"))),
            (r#"{"alg":["HS256"]}"#, Some(JwtError::ParameterType("alg"))),
            (r#"{"alg":"HS256","typ":null}"#, Some(JwtError::ParameterType("typ"))),
            (r#"{"alg":"HS256","kid":7}"#, Some(JwtError::ParameterType("kid"))),
            (r#"{"alg":"HS256","crit":["exp"]}"#, Some(JwtError::Critical)),
            (r#"{"alg":"HS256","crit":[]}"#, Some(JwtError::Critical)),
            (r#"{"alg":"HS256","b64":true}"#, Some(JwtError::ForbiddenHeader("b64"))),
            (r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, Some(JwtError::Critical)),
            (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#, Some(JwtError::ForbiddenHeader("jwk"))),
            (r#"{"alg":"HS256","jku":"https://evil.example"}"#, Some(JwtError::ForbiddenHeader("jku"))),
            (r#"{"alg":"HS256","x5u":"https://evil.example"}"#, Some(JwtError::ForbiddenHeader("x5u"))),
            (r#"{"alg":"HS256","x5c":["AA"]}"#, Some(JwtError::ForbiddenHeader("x5c"))),
            (r#"{"alg":"HS256","zip":"DEF"}"#, Some(JwtError::ForbiddenHeader("zip"))),
            (r#"{"alg":"HS256","enc":"A128GCM"}"#, Some(JwtError::ForbiddenHeader("enc"))),
            (r#"{"alg":"HS256","alg":"HS256"}"#, Some(JwtError::Duplicate)),
            (r#"{"alg":"HS256","vendor":{"a":1,"a":2}}"#, Some(JwtError::Duplicate)),
            (r#"["HS256"]"#, Some(JwtError::Json)),
            ("", Some(JwtError::Json)),
        ];
        for (header, expect) in rows {
            let token = signer.token(header, &claims().to_string());
            assert_eq!(verify_one(&token, issuer()).err(), *expect, "{header}");
        }
    }

    #[test]
    fn claims_are_judged_one_by_one() {
        let (signer, issuer) = hs256();
        let (now, day) = (NOW, 86_400);
        let rows: &[(Value, Option<JwtError>)] = &[
            (json!({}), None),
            (json!({ "aud": ["other", "shop"] }), None),
            (json!({ "aud": "other" }), Some(JwtError::Audience)),
            (json!({ "aud": "order" }), Some(JwtError::Audience)),
            (json!({ "aud": [] }), Some(JwtError::Audience)),
            (json!({ "aud": null }), Some(JwtError::MissingClaim("aud"))),
            (json!({ "aud": ["orders", 1] }), Some(JwtError::ClaimType("aud"))),
            (json!({ "aud": { "orders": true } }), Some(JwtError::ClaimType("aud"))),
            (json!({ "iss": null }), Some(JwtError::MissingClaim("iss"))),
            (json!({ "iss": ["https://id.example"] }), Some(JwtError::ClaimType("iss"))),
            (json!({ "iss": "https://id.example/" }), Some(JwtError::UnknownIssuer)),
            (json!({ "sub": null }), Some(JwtError::MissingClaim("subject"))),
            (json!({ "sub": 7 }), Some(JwtError::ClaimType("sub"))),
            (json!({ "sub": "" }), Some(JwtError::Subject(IdentityError::EmptySubject))),
            (json!({ "sub": "a\nb" }), Some(JwtError::Subject(IdentityError::ControlInSubject))),
            (json!({ "sub": "a".repeat(256) }), Some(JwtError::Subject(IdentityError::LongSubject))),
            (json!({ "jti": "abc" }), None),
            (json!({ "jti": 1 }), Some(JwtError::ClaimType("jti"))),
            (json!({ "exp": null }), Some(JwtError::MissingClaim("exp"))),
            (json!({ "exp": now - 29 }), None),
            (json!({ "exp": now - 30 }), Some(JwtError::Expired)),
            (json!({ "exp": now as f64 - 29.5 }), None),
            (json!({ "exp": now as f64 - 30.5 }), Some(JwtError::Expired)),
            (json!({ "exp": (now + 600).to_string() }), Some(JwtError::ClaimType("exp"))),
            (json!({ "exp": -1 }), Some(JwtError::ClaimType("exp"))),
            (json!({ "exp": -0.5 }), Some(JwtError::ClaimType("exp"))),
            (json!({ "exp": u64::MAX }), Some(JwtError::ClaimType("exp"))),
            (json!({ "exp": 1e300 }), Some(JwtError::ClaimType("exp"))),
            (json!({ "exp": true }), Some(JwtError::ClaimType("exp"))),
            (json!({ "exp": now - 10 + day }), None),
            (json!({ "exp": now - 9 + day }), Some(JwtError::LivesTooLong)),
            (json!({ "iat": null, "exp": now + day }), None),
            (json!({ "iat": null, "exp": now + day + 1 }), Some(JwtError::LivesTooLong)),
            (json!({ "iat": now + 30 }), None),
            (json!({ "iat": now + 31 }), Some(JwtError::IssuedAhead)),
            (json!({ "iat": "now" }), Some(JwtError::ClaimType("iat"))),
            (json!({ "nbf": now + 30 }), None),
            (json!({ "nbf": now + 31 }), Some(JwtError::NotYetValid)),
            (json!({ "nbf": [] }), Some(JwtError::ClaimType("nbf"))),
            (json!({ "events": {} }), Some(JwtError::Event)),
            (json!({ "nonce": "abc" }), Some(JwtError::Nonce)),
            (json!({ "cnf": { "jkt": "abc" } }), Some(JwtError::Confirmation)),
            (json!({ "roles": "admin" }), None),
            (json!({ "roles": ["admin", 1] }), Some(JwtError::ClaimType("roles"))),
            (json!({ "roles": { "admin": true } }), Some(JwtError::ClaimType("roles"))),
            (json!({ "groups": 1 }), Some(JwtError::ClaimType("groups"))),
            (json!({ "scope": true }), Some(JwtError::ClaimType("scopes"))),
            (json!({ "name": 1 }), Some(JwtError::ClaimType("name"))),
            (json!({ "email": [] }), Some(JwtError::ClaimType("email"))),
            (json!({ "auth_time": "1" }), Some(JwtError::ClaimType("auth_time"))),
        ];
        for (changes, expect) in rows {
            let token = signer.token_of(&claims_with(changes.clone()));
            assert_eq!(verify_one(&token, issuer()).err(), *expect, "{changes}");
        }
    }

    #[test]
    fn a_claim_that_occurs_twice_is_refused_at_every_depth() {
        let (signer, issuer) = hs256();
        let claims = claims().to_string();
        let with =
            |more: &str| signer.token(r#"{"alg":"HS256"}"#, &format!("{},{more}}}", &claims[..claims.len() - 1]));

        assert!(verify_one(&with(r#""a":{"b":[{"c":1},{"c":2}]}"#), issuer()).is_ok());
        for twice in [r#""sub":"bob""#, r#""a":1,"a":1"#, r#""a":{"b":[{"c":1,"c":2}]}"#, r#""\u0073ub":"bob""#] {
            assert_eq!(verify_one(&with(twice), issuer()).unwrap_err(), JwtError::Duplicate, "{twice}");
        }
        let deep = format!(r#""a":{}{}"#, "[".repeat(40), "]".repeat(40));
        assert_eq!(verify_one(&with(&deep), issuer()).unwrap_err(), JwtError::TooDeep);
    }

    #[test]
    fn only_the_compact_form_in_strict_base64url_is_read() {
        let (signer, issuer) = hs256();
        let token = signer.token_of(&claims());
        let (input, signature) = token.rsplit_once('.').unwrap();
        let (header, payload) = input.split_once('.').unwrap();
        // A 32-byte signature ends in a character of which two bits must be zero.
        let last = signature.as_bytes()[signature.len() - 1];
        let trailing = format!("{}{}", &token[..token.len() - 1], char::from(last + 1));
        let padded_header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256" }"#);
        let rows: &[(&str, String, JwtError)] = &[
            ("two parts", input.into(), JwtError::Parts),
            ("one part", header.into(), JwtError::Parts),
            ("nothing", String::new(), JwtError::Parts),
            ("four parts", format!("{token}.abc"), JwtError::Parts),
            ("five parts", format!("{token}.abc.def"), JwtError::Encrypted),
            ("six parts", format!("{token}.abc.def.ghi"), JwtError::Parts),
            ("dots only", "..".into(), JwtError::Json),
            ("padded signature", format!("{token}="), JwtError::SignatureLength),
            ("padded header", format!("{padded_header}==.{payload}.{signature}"), JwtError::Encoding),
            ("standard alphabet", format!("{header}+/.{payload}.{signature}"), JwtError::Encoding),
            ("a space", format!("{header}.{payload} .{signature}"), JwtError::Encoding),
            ("a line end", format!("{token}\n"), JwtError::SignatureLength),
            ("trailing bits", trailing, JwtError::Encoding),
            ("trailing bits in the header", format!("e31.{payload}.{signature}"), JwtError::Encoding),
            ("empty payload", format!("{header}..{signature}"), JwtError::Json),
            ("JSON after the payload", signer.token(r#"{"alg":"HS256"}"#, "{}{}"), JwtError::Json),
            ("payload is a string", signer.token(r#"{"alg":"HS256"}"#, "\"x\""), JwtError::Json),
            ("huge", format!("{header}.{}.{signature}", "e".repeat(MAX_TOKEN_BYTES)), JwtError::TooLong),
        ];
        for (name, token, expect) in rows {
            assert_eq!(verify_one(token, issuer()).unwrap_err(), *expect, "{name}");
        }
        assert!(verify_one(&token, issuer()).is_ok());
        let room = MAX_TOKEN_BYTES - 400;
        let large = signer.token_of(&claims_with(json!({ "a": "x".repeat(room * 3 / 4) })));
        assert!(large.len() <= MAX_TOKEN_BYTES && verify_one(&large, issuer()).is_ok());
    }

    #[test]
    fn a_public_key_is_no_secret() {
        let rsa = Signer::new(Algorithm::RS256);
        for secret in [rsa.pem().into_bytes(), rsa.pem().trim().into(), rsa.spki(), rsa.pkcs1()] {
            let forged = Signer::from_secret(Algorithm::HS256, &secret).token_of(&claims());
            assert_eq!(verify_one(&forged, issuer(rsa.keys())).unwrap_err(), JwtError::AlgorithmNotAllowed);
        }
        assert!(verify_one(&rsa.token_of(&claims()), issuer(rsa.keys())).is_ok());
    }

    #[test]
    fn one_padding_is_not_taken_for_the_other() {
        let rs256 = Signer::new(Algorithm::RS256);
        let both = || KeySet::from_pem(rs256.pem().as_bytes(), &[Algorithm::RS256, Algorithm::PS256]).unwrap();
        let mislabelled = rs256.token(r#"{"alg":"PS256"}"#, &claims().to_string());

        assert!(matches!(verify_one(&mislabelled, issuer(both())), Err(JwtError::WrongSignature(_))));
        assert_eq!(verify_one(&mislabelled, issuer(rs256.keys())).unwrap_err(), JwtError::AlgorithmNotAllowed);
        assert!(verify_one(&Signer::new(Algorithm::PS256).token_of(&claims()), issuer(both())).is_ok());
    }

    #[test]
    fn an_issuers_keys_count_for_its_own_tokens_only() {
        let (one, other) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
        let other_issuer =
            Issuer { name: Arc::from("other"), issuer: "https://other.example".into(), ..issuer(other.keys()) };
        let issuers = [issuer(one.keys()), other_issuer];
        let other_claims = claims_with(json!({ "iss": "https://other.example" }));
        let check = |token: String, allowed: &[usize]| verify(token.as_bytes(), &issuers, allowed, now());

        assert_eq!(&**check(one.token_of(&claims()), &[0, 1]).unwrap().issuer(), "id");
        assert_eq!(&**check(other.token_of(&other_claims), &[0, 1]).unwrap().issuer(), "other");
        assert!(matches!(check(other.token_of(&claims()), &[0, 1]), Err(JwtError::WrongSignature(_))));
        assert!(matches!(check(one.token_of(&other_claims), &[0, 1]), Err(JwtError::WrongSignature(_))));
        assert_eq!(check(other.token_of(&other_claims), &[0]).unwrap_err(), JwtError::UnknownIssuer);
        assert_eq!(check(one.token_of(&claims()), &[]).unwrap_err(), JwtError::UnknownIssuer);
        assert_eq!(check(one.token_of(&claims()), &[7]).unwrap_err(), JwtError::UnknownIssuer);
    }

    #[test]
    fn any_audience_still_asks_for_a_well_formed_one() {
        let (signer, issuer) = hs256();
        let any = || Issuer { audience: Audience::Any, ..issuer() };
        let check = |aud: Value| verify_one(&signer.token_of(&claims_with(json!({ "aud": aud }))), any()).err();

        assert_eq!(check(json!("elsewhere")), None);
        assert_eq!(check(Value::Null), None);
        assert_eq!(check(json!(1)), Some(JwtError::ClaimType("aud")));
    }

    #[test]
    fn id_tokens_are_bearers_only_where_the_issuer_says_so() {
        let (signer, issuer) = hs256();
        let token = signer.token_of(&claims_with(json!({ "nonce": "abc" })));

        assert_eq!(verify_one(&token, issuer()).unwrap_err(), JwtError::Nonce);
        assert!(verify_one(&token, Issuer { id_tokens: true, ..issuer() }).is_ok());
    }

    #[test]
    fn an_issuer_without_keys_gives_no_verdict() {
        let signer = Signer::new(Algorithm::ES256);
        let pending = || issuer(KeySet::pending(&[Algorithm::ES256]).unwrap());

        assert_eq!(verify_one(&signer.token_of(&claims()), pending()).unwrap_err(), JwtError::KeysPending(0));
        assert_eq!(
            verify_one(&signer.token(r#"{"alg":"HS256"}"#, &claims().to_string()), pending()).unwrap_err(),
            JwtError::AlgorithmNotAllowed
        );
    }

    #[test]
    fn claims_become_an_identity() {
        let (signer, issuer) = hs256();
        let token = signer.token_of(&claims_with(json!({
            "uid": "u-1", "preferred_username": "Zoë", "email": "a@example.com", "email_verified": true,
            "realm_access": { "roles": ["admin", "user"] }, "https://x/groups": "ops", "scope": "a b  c",
            "auth_time": NOW - 60, "jti": "j", "nbf": NOW - 5, "tenant": { "id": "t1" },
        })));
        let mapping = ClaimMapping {
            subject: ClaimPath::dotted("uid"),
            name: ClaimPath::dotted("preferred_username"),
            roles: ClaimPath::dotted("realm_access.roles"),
            groups: ClaimPath::steps(["https://x/groups"]),
            ..ClaimMapping::default()
        };

        let verified = verify_one(&token, Issuer { claims: mapping, ..issuer() }).unwrap();

        let identity = verified.identity();
        assert_eq!((&**identity.realm(), identity.subject()), ("staff", "u-1"));
        assert_eq!((identity.name(), identity.email()), (Some("Zoë"), Some("a@example.com")));
        assert!(identity.email_verified());
        assert!(identity.roles().eq(["admin", "user"]) && identity.groups().eq(["ops"]));
        assert!(identity.scopes().eq(["a", "b", "c"]));
        assert_eq!(identity.auth_time(), Some(Timestamp::from_unix_seconds(NOW - 60)));
        assert_eq!(identity.via(), &Via::Jwt(Arc::from("id")));
        assert_eq!(ClaimPath::dotted("tenant.id").find(identity.claims().unwrap()), Some(&json!("t1")));
        assert_eq!((verified.jti(), verified.not_before()), (Some("j"), Some(Timestamp::from_unix_seconds(NOW - 5))));
        assert_eq!(verified.issued_at(), Some(Timestamp::from_unix_seconds(NOW - 10)));
        assert_eq!(verified.expires_at(), Timestamp::from_unix_seconds(NOW + 600));
        let (input, _) = token.rsplit_once('.').unwrap();
        assert_eq!(verified.signing_input_hash()[..], *digest::digest(&digest::SHA256, input.as_bytes()).as_ref());
    }

    #[test]
    fn scopes_are_read_from_a_string_or_an_array_and_from_scp() {
        let (signer, issuer) = hs256();
        let scopes = |changes: Value| {
            let verified = verify_one(&signer.token_of(&claims_with(changes)), issuer()).unwrap();
            verified.identity().scopes().map(str::to_owned).collect::<Vec<_>>()
        };

        assert_eq!(scopes(json!({ "scope": "a b" })), ["a", "b"]);
        assert_eq!(scopes(json!({ "scope": ["a b", "c"] })), ["a b", "c"]);
        assert_eq!(scopes(json!({ "scp": "a b" })), ["a", "b"]);
        assert_eq!(scopes(json!({ "scp": ["a", "b"] })), ["a", "b"]);
        assert_eq!(scopes(json!({ "scope": "a", "scp": "b" })), ["a"]);
        assert!(scopes(json!({})).is_empty());
    }

    #[test]
    fn an_email_is_verified_by_a_boolean_or_by_trust() {
        let (signer, issuer) = hs256();
        let check = |verified: Value, trust_email: bool| {
            let token = signer.token_of(&claims_with(json!({ "email": "a@b.c", "email_verified": verified })));
            verify_one(&token, Issuer { trust_email, ..issuer() }).unwrap().identity().email_verified()
        };

        assert!(check(json!(true), false) && check(json!(false), true) && check(Value::Null, true));
        assert!(!check(json!(false), false) && !check(json!("true"), false) && !check(Value::Null, false));
    }

    #[test]
    fn what_an_issuer_may_not_grant_is_dropped_and_counted() {
        let (signer, issuer) = hs256();
        let token = signer.token_of(&claims_with(json!({ "roles": ["user", "admin"], "groups": ["ops", "dev"] })));
        let grants = Grants::Only { roles: ["user".into()].into(), groups: [].into(), scopes: None };

        let verified = verify_one(&token, Issuer { grants, ..issuer() }).unwrap();

        assert!(verified.identity().roles().eq(["user"]));
        assert_eq!((verified.identity().groups().count(), verified.dropped_grants()), (0, 3));
    }

    #[test]
    fn scopes_that_an_issuer_may_not_grant_are_dropped_where_it_says_which_it_may() {
        let (signer, issuer) = hs256();
        let token = signer.token_of(&claims_with(json!({ "scope": "read write" })));
        for (scopes, left, dropped) in
            [(None, &["read", "write"][..], 0), (Some(["read".into()].into()), &["read"], 1), (Some([].into()), &[], 2)]
        {
            let grants = Grants::Only { roles: [].into(), groups: [].into(), scopes };
            let verified = verify_one(&token, Issuer { grants, ..issuer() }).unwrap();
            assert!(verified.identity().scopes().eq(left.iter().copied()));
            assert_eq!(verified.dropped_grants(), dropped);
        }
    }

    #[test]
    fn a_login_in_the_future_is_no_recent_login() {
        let (signer, issuer) = hs256();
        let at = |auth_time: u64| {
            let token = signer.token_of(&claims_with(json!({ "auth_time": auth_time })));
            verify_one(&token, issuer()).unwrap().identity().auth_time()
        };

        assert_eq!(at(NOW + 31), None);
        assert_eq!(at(NOW + 30), Some(Timestamp::from_unix_seconds(NOW + 30)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(token in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_, issuer) = hs256();
            prop_assert!(verify(&token, &[issuer()], &[0], now()).is_err());
        }

        #[test]
        fn arbitrary_parts_under_a_good_signature_never_panic(
            header in r#"\{("(alg|typ|kid)":("HS256"|"JWT"|[0-9]|null),?){0,3}\}"#,
            payload in r#"\{("(iss|exp|aud|sub|roles)":("[a-z]{0,3}"|[0-9.]{1,3}|\[\]|null|\{\}),?){0,5}\}"#,
        ) {
            let (signer, issuer) = hs256();
            let _ = verify_one(&signer.token(&header, &payload), issuer());
        }

        #[test]
        fn no_byte_of_a_token_can_be_changed(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let (signer, issuer) = hs256();
            let good = signer.token_of(&claims()).into_bytes();
            let mut changed = good.clone();
            changed[place.index(good.len())] = byte;
            prop_assert_eq!(verify(&changed, &[issuer()], &[0], now()).is_ok(), changed == good);
        }
    }
}
