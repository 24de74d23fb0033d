//! Authentication: from what the request carries to an identity (R2, R3).
//!
//! `credential` finds the one credential that counts; for a bearer token [`authenticate_bearer`] composes the cache of
//! verified tokens with `jwt::verify`, and of those that are no JWS `introspection` asks their issuer. A session cookie
//! is looked up in the session store by `decide`. Whatever the authenticator, its answer is one of the four of
//! [`Answer`]; only `Valid` goes on.

use std::{net::IpAddr, sync::Arc, time::Duration};

use self::{
    awaited::Awaited,
    credential::{Ambiguous, Carrier, Unread},
    dpop::ProofError,
    jwt::{Issuer, JwtError, VerifiedToken},
    keys::Generation,
    possession::{Presented, Thumbprint, Unproven},
    token_cache::{Found, TokenCache},
    verify_rate::WrongSignatures,
};
use crate::{
    clock::Timestamp,
    policy::AccessRule,
    refusal::{BadCredential, DpopFault},
};

pub mod awaited;
mod base64url;
mod certificate;
pub mod credential;
pub mod dpop;
pub mod introspection;
mod json;
pub mod jwks;
pub mod jwt;
pub mod keys;
pub mod own;
pub mod possession;
pub mod proof;
#[cfg(test)]
mod signer;
pub mod token_cache;
pub mod verify_rate;

pub use certificate::{Vouched, authenticate_certificate};

/// What an authenticator says of a request (R3).
#[derive(Clone, Debug)]
pub enum Answer<T> {
    /// The credential is good, and this is what it proves.
    Valid(T),
    /// There is no credential.
    Absent,
    /// There is one, and it is void: never the same as none.
    Invalid(BadCredential),
    /// Whether it is good is not looked into now: 429 or 503, never anonymous.
    Busy(Busy),
    /// Whether it is good cannot be told at present: 503, never anonymous. Or, if there is something to wait for, after
    /// waiting for it: then ask once more.
    Unavailable(Option<Awaited>),
}

impl From<JwtError> for BadCredential {
    fn from(error: JwtError) -> Self {
        Self::Bearer(error.label())
    }
}

/// Why it is not looked into now whether a credential is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Busy {
    /// As many proofs are remembered as may be (`limits.max_proofs`).
    ProofsFull,
    /// Too many of this client's were wrong (`limits.verify_rate`), or this subject uses too many proofs.
    TooMany {
        /// When to try again.
        retry_after: Duration,
    },
}

/// What tokens are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// All issuers; a route says which of them count.
    pub issuers: &'a [Issuer],
    /// Tokens that were verified before.
    pub cache: &'a TokenCache,
    /// Who has sent wrong signatures.
    pub wrong: &'a WrongSignatures,
    /// `limits.verify_rate`: how many of these are looked at, for each second and client.
    pub verify_rate: u32,
    /// The client's address.
    pub address: IpAddr,
    /// The one reading of the clock.
    pub now: Timestamp,
    /// Whether the caller has waited for keys, and is not to be told to wait again.
    pub waited: bool,
}

/// Judges a token on a route with this rule: whether it is good, bound as the route asks for, and proven by what was
/// `presented` with it. A known token costs one look-up; its times, its binding and its proof are checked again.
///
/// Never [`Answer::Absent`]: there is a token. Revocation and requirements are for the caller to check.
pub fn authenticate_bearer(
    token: Unread<'_>,
    presented: &Presented<'_>,
    rule: &AccessRule,
    judge: &Judge<'_>,
) -> Answer<Arc<VerifiedToken>> {
    match verified_token(token, rule, judge) {
        Ok(verified) => bound_and_proven(verified, token.text(), presented, rule, judge),
        Err(Unverified::Unreadable(ambiguous)) => Answer::Invalid(ambiguous.into()),
        Err(Unverified::Void(error)) => Answer::Invalid(presented.refuse(error, false)),
        Err(Unverified::Busy(busy)) => Answer::Busy(busy),
        Err(Unverified::KeysPending(awaited)) => Answer::Unavailable(awaited),
    }
}

/// As [`authenticate_bearer`], for a token that its issuer is asked about at this endpoint.
pub fn authenticate_opaque(
    token: &[u8],
    endpoint: (&Issuer, &Arc<introspection::Endpoint>),
    presented: &Presented<'_>,
    rule: &AccessRule,
    judge: &Judge<'_>,
) -> Answer<Arc<VerifiedToken>> {
    match introspection::authenticate(token, endpoint, judge.address, judge.now, judge.waited) {
        Answer::Valid(verified) => bound_and_proven(verified, token, presented, rule, judge),
        Answer::Invalid(BadCredential::Bearer(reason)) if presented.dpop.is_some() => {
            Answer::Invalid(BadCredential::Dpop { fault: DpopFault::Token, reason })
        }
        other @ (Answer::Absent | Answer::Busy(_) | Answer::Invalid(_) | Answer::Unavailable(_)) => other,
    }
}

/// The key that a request for tokens proves to hold (RFC 9449 section 5); [`Answer::Absent`]: it brings no proof.
pub fn proven_key(offer: &dpop::Offer<'_>, judge: &Judge<'_>) -> Answer<Thumbprint> {
    if !offer.is_made() {
        return Answer::Absent;
    }
    let Judge { wrong, verify_rate, address, now, .. } = *judge;
    let account = wrong.of_address(address);
    let proof = |fault, reason| Answer::Invalid(BadCredential::Dpop { fault, reason });
    match offer.check_key(now, || wrong.wait(account, verify_rate, now)) {
        Ok(key) => Answer::Valid(key),
        Err(Unproven::Proof(error)) => {
            if error == ProofError::Signature {
                wrong.charge(account, verify_rate, now);
            }
            proof(DpopFault::Proof, error.label())
        }
        Err(Unproven::Nonce) => proof(DpopFault::Nonce, "proof_nonce"),
        Err(Unproven::Token(error)) => Answer::Invalid(error.into()),
        Err(Unproven::Full) => Answer::Busy(Busy::ProofsFull),
        Err(Unproven::TooMany(retry_after)) => Answer::Busy(Busy::TooMany { retry_after }),
    }
}

/// A token of this issuer, whoever shows it and whatever it is bound to: for whoever ends it. `None`: it is void.
///
/// # Errors
/// [`Busy`]: too many of this client's were wrong.
pub fn token_to_end(token: &[u8], issuer: usize, judge: &Judge<'_>) -> Result<Option<Arc<VerifiedToken>>, Busy> {
    let rule = AccessRule { issuers: [issuer].into(), ..AccessRule::default() };
    match verified_token(Unread::new(token, Carrier::Header), &rule, judge) {
        Ok(verified) => Ok(Some(verified)),
        Err(Unverified::Busy(busy)) => Err(busy),
        Err(Unverified::KeysPending(_) | Unverified::Unreadable(_) | Unverified::Void(_)) => Ok(None),
    }
}

/// A good token counts if it is bound as the route asks for, and what was presented proves what it is bound to.
fn bound_and_proven(
    verified: Arc<VerifiedToken>,
    token: &[u8],
    presented: &Presented<'_>,
    rule: &AccessRule,
    judge: &Judge<'_>,
) -> Answer<Arc<VerifiedToken>> {
    let confirmation = verified.confirmation();
    if !confirmation.meets(rule.proof) {
        return Answer::Invalid(presented.refuse(JwtError::Unbound, rule.proof.asks_for_dpop()));
    }
    let used = possession::Use { token: &verified, text: token, address: judge.address, now: judge.now };
    let proof = |fault, reason| Answer::Invalid(BadCredential::Dpop { fault, reason });
    match presented.prove(used, judge.wrong, judge.verify_rate) {
        Ok(()) => Answer::Valid(verified),
        Err(Unproven::Token(error)) => Answer::Invalid(presented.refuse(error, confirmation.key.is_some())),
        Err(Unproven::Proof(error)) => proof(DpopFault::Proof, error.label()),
        Err(Unproven::Nonce) => proof(DpopFault::Nonce, "proof_nonce"),
        Err(Unproven::Full) => Answer::Busy(Busy::ProofsFull),
        Err(Unproven::TooMany(retry_after)) => Answer::Busy(Busy::TooMany { retry_after }),
    }
}

/// Why there is no verified token.
enum Unverified {
    /// It is no token.
    Unreadable(Ambiguous),
    /// It is void.
    Void(JwtError),
    /// It was not looked at.
    Busy(Busy),
    /// The keys of its issuer are not known yet.
    KeysPending(Option<Awaited>),
}

/// The token, from the cache or verified now. Whose it is, is still to be proven where it is bound.
fn verified_token(token: Unread<'_>, rule: &AccessRule, judge: &Judge<'_>) -> Result<Arc<VerifiedToken>, Unverified> {
    let Judge { issuers, cache, wrong, verify_rate, address, now, waited } = *judge;
    if token.text().len() > jwt::MAX_TOKEN_BYTES {
        return Err(token.read().map_or_else(Unverified::Unreadable, |_| Unverified::Void(JwtError::TooLong)));
    }
    let accepted = || rule.issuers.iter().filter_map(|&index| issuers.get(index));
    let verified_under = |generation: Generation| accepted().any(|issuer| issuer.generation == generation);
    let wrong_under =
        |generation: Generation| accepted().any(|issuer| issuer.keys.current().generation() == generation);
    // What is known here was read before: no second look at the bytes that equal it.
    let key = cache.key(token.text());
    match cache.find(&key, verified_under, wrong_under, now) {
        Found::Verified(token) => return Ok(token),
        Found::OutOfTime(error) => return Err(Unverified::Void(error)),
        Found::WrongSignature(generation) => return Err(Unverified::Void(JwtError::WrongSignature(generation))),
        Found::Nothing => {}
    }
    let account = wrong.of_address(address);
    if let Some(retry_after) = wrong.wait(account, verify_rate, now) {
        token.read().map_err(Unverified::Unreadable)?;
        return Err(Unverified::Busy(Busy::TooMany { retry_after }));
    }
    let error = match jwt::verify(token.text(), issuers, &rule.issuers, now) {
        Ok(verified) => {
            let verified = Arc::new(verified);
            cache.insert(&key, Arc::clone(&verified), now);
            return Ok(verified);
        }
        Err(error) => error,
    };
    // What is verified is made of letters that tokens are made of. Anything else may be none, which is told apart.
    token.read().map_err(Unverified::Unreadable)?;
    if let JwtError::KeysPending(issuer) = error {
        let issuer = issuers.get(issuer).filter(|_| !waited);
        return Err(Unverified::KeysPending(issuer.and_then(|issuer| issuer.keys.first_fetch())));
    }
    if let (JwtError::KeyUnknown(issuer), false) = (error, waited)
        && let Some(awaited) = issuers.get(issuer).and_then(|issuer| issuer.keys.ask_for_more(now))
    {
        return Err(Unverified::KeysPending(Some(awaited)));
    }
    if let JwtError::WrongSignature(generation) = error {
        wrong.charge(account, verify_rate, now);
        cache.remember_wrong_signature(&key, generation);
    }
    Err(Unverified::Void(error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        credential::Carrier,
        keys::{Algorithm, KeySet},
        signer::*,
        token_cache::CacheLimits,
        *,
    };
    use crate::policy::Grants;

    fn rule(issuers: &[usize]) -> AccessRule {
        AccessRule { issuers: issuers.into(), ..AccessRule::default() }
    }

    /// With nothing to prove a binding.
    fn authenticate(
        token: &[u8],
        issuers: &[Issuer],
        rule: &AccessRule,
        cache: &TokenCache,
        now: Timestamp,
        waited: bool,
    ) -> Answer<Arc<VerifiedToken>> {
        authenticate_bearer(sent(token), &Presented::default(), rule, &judge(issuers, cache, now, waited))
    }

    const fn sent(token: &[u8]) -> Unread<'_> {
        Unread::new(token, Carrier::Authorization)
    }

    fn judge<'a>(issuers: &'a [Issuer], cache: &'a TokenCache, now: Timestamp, waited: bool) -> Judge<'a> {
        // Fresh and leaked: no test is about what another one did.
        let wrong = Box::leak(Box::default());
        Judge { issuers, cache, wrong, verify_rate: 20, address: IpAddr::from([192, 0, 2, 1]), now, waited }
    }

    fn cache() -> TokenCache {
        TokenCache::new(CacheLimits::default())
    }

    fn label<T>(answer: Answer<T>) -> &'static str {
        match answer {
            Answer::Valid(_) => "valid",
            Answer::Absent => "absent",
            Answer::Busy(_) => "busy",
            Answer::Invalid(BadCredential::Bearer(label) | BadCredential::Dpop { reason: label, .. }) => label,
            Answer::Invalid(BadCredential::Ambiguous(_) | BadCredential::Certificate(_) | BadCredential::Session) => {
                "not of a bearer"
            }
            Answer::Unavailable(_) => "unavailable",
        }
    }

    #[test]
    fn a_known_token_is_not_verified_again_but_its_time_is_checked() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let (token, issuers) = (signer.token_of(&claims()), [issuer(signer.keys())]);
        let at = |seconds| {
            let now = now().plus(Duration::from_secs(seconds));
            authenticate(token.as_bytes(), &issuers, &rule(&[0]), &cache, now, false)
        };

        let (Answer::Valid(first), Answer::Valid(second)) = (at(0), at(629)) else { panic!("refused") };
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(label(at(630)), "expired");
        assert_eq!(label(at(0)), "valid");
        assert_eq!((cache.statistics().misses, cache.statistics().hits), (1, 3));
    }

    #[test]
    fn a_known_token_that_is_bound_counts_with_its_proof_only() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let issuers = [issuer(signer.keys())];
        let (mine, other) = ([1; 32], [2; 32]);
        let x5t = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, mine);
        let token = signer.token_of(&claims_with(json!({ "cnf": { "x5t#S256": x5t } })));
        let with = |certificate| {
            let presented = Presented { certificate, dpop: None };
            label(authenticate_bearer(
                sent(token.as_bytes()),
                &presented,
                &rule(&[0]),
                &judge(&issuers, &cache, now(), false),
            ))
        };

        for _ in 0..2 {
            assert_eq!(with(None), "sender_constrained");
            assert_eq!(with(Some(&other)), "sender_constrained");
            assert_eq!(with(Some(&mine)), "valid");
        }
        assert_eq!((cache.statistics().misses, cache.statistics().hits), (1, 5));
    }

    #[test]
    fn a_known_token_does_not_count_on_a_route_of_another_issuer() {
        let (one, other, cache) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256), cache());
        let other_issuer = Issuer { issuer: "https://other.example".into(), ..issuer(other.keys()) };
        let issuers = [issuer(one.keys()), other_issuer];
        let token = one.token_of(&claims());
        let on =
            |allowed: &[usize]| label(authenticate(token.as_bytes(), &issuers, &rule(allowed), &cache, now(), false));

        assert_eq!(on(&[0]), "valid");
        assert_eq!(on(&[1]), "unknown_issuer");
        assert_eq!(on(&[]), "unknown_issuer");
        assert_eq!(on(&[1, 0]), "valid");
    }

    #[test]
    fn a_change_of_the_issuer_makes_its_tokens_unknown() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let token = signer.token_of(&claims());
        let under =
            |issuer: Issuer| label(authenticate(token.as_bytes(), &[issuer], &rule(&[0]), &cache, now(), false));

        assert_eq!(under(issuer(signer.keys())), "valid");
        assert_eq!(under(issuer(Signer::new(Algorithm::ES256).keys())), "wrong_signature");
        assert_eq!(under(Issuer { audience: jwt::Audience::OneOf([].into()), ..issuer(signer.keys()) }), "audience");
        assert_eq!(under(issuer(signer.keys())), "valid");
    }

    #[test]
    fn what_a_reload_leaves_as_it_is_keeps_its_keys_and_tokens() {
        let signer = Signer::new(Algorithm::ES256);
        let first = issuer(signer.keys());
        let carried = |mut later: Issuer| {
            later.carry_over(&first);
            (Arc::ptr_eq(&later.keys, &first.keys), later.generation == first.generation)
        };

        assert_eq!(carried(issuer(signer.keys())), (true, true));
        assert_eq!(carried(Issuer { trust_email: true, ..issuer(signer.keys()) }), (true, false));
        assert_eq!(carried(Issuer { audience: jwt::Audience::Any, ..issuer(signer.keys()) }), (true, false));
        assert_eq!(carried(issuer(Signer::new(Algorithm::ES256).keys())), (false, false));
    }

    #[test]
    fn a_key_that_a_reload_takes_away_ends_what_was_verified_with_it() {
        let (gone, stays) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::EdDSA));
        let both = [Algorithm::ES256, Algorithm::EdDSA];
        let keys = |signers: &[&Signer]| {
            let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
            KeySet::from_jwk_set(json!({ "keys": keys }).to_string().as_bytes(), &both).unwrap()
        };
        let issuers = [issuer(keys(&[&gone, &stays]))];
        let verified =
            |signer: &Signer| jwt::verify(signer.token_of(&claims()).as_bytes(), &issuers, &[0], now()).unwrap();
        let (under_gone, under_stays) = (verified(&gone), verified(&stays));

        let mut later = issuer(keys(&[&stays]));
        later.carry_over(&issuers[0]);
        assert!(under_gone.key_stands());
        issuers[0].end_for(Some(&later));
        assert_eq!((under_gone.key_stands(), under_stays.key_stands()), (false, true));

        later.end_for(None);
        assert!(!under_stays.key_stands());
    }

    #[test]
    fn fetched_keys_are_carried_over_by_their_source() {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let trust = crate::fetch::Trust::from_pem(authority.pem().as_bytes()).unwrap();
        let slot = |url: &str, algorithm| {
            let place = jwks::Place::At(url.parse().unwrap());
            let client = crate::fetch::Client::new(trust.clone(), None);
            jwks::KeySlot::fetched(jwks::Source { place, algorithms: [algorithm].into(), client }).unwrap()
        };
        let of = |keys| Issuer { keys, ..issuer(KeySet::pending(&[Algorithm::ES256]).unwrap()) };
        let first = of(slot("https://id.example/keys", Algorithm::ES256));
        let carried = |mut later: Issuer| {
            later.carry_over(&first);
            Arc::ptr_eq(&later.keys, &first.keys)
        };

        assert!(carried(of(slot("https://id.example/keys", Algorithm::ES256))));
        assert!(!carried(of(slot("https://id.example/others", Algorithm::ES256))));
        assert!(!carried(of(slot("https://id.example/keys", Algorithm::ES384))));
        assert!(!carried(issuer(Signer::new(Algorithm::ES256).keys())));
    }

    #[test]
    fn only_a_wrong_signature_is_remembered_as_bad() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let issuers = [issuer(signer.keys())];
        let ask = |token: &str| label(authenticate(token.as_bytes(), &issuers, &rule(&[0]), &cache, now(), false));
        let forged = Signer::new(Algorithm::ES256).token_of(&claims());
        let expired = signer.token_of(&claims_with(json!({ "exp": NOW - 60 })));

        for _ in 0..3 {
            assert_eq!(ask(&forged), "wrong_signature");
            assert_eq!(ask(&expired), "expired");
            assert_eq!(ask("a.b.c"), "encoding");
        }
        assert_eq!(ask(&signer.token_of(&claims())), "valid");
        assert_eq!((cache.statistics().wrong_signature_hits, cache.statistics().entries), (2, 1));
    }

    #[test]
    fn keys_that_are_not_known_yet_are_no_verdict() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let token = signer.token_of(&claims());
        let ask = |keys| label(authenticate(token.as_bytes(), &[issuer(keys)], &rule(&[0]), &cache, now(), false));

        assert_eq!(ask(KeySet::pending(&[Algorithm::ES256]).unwrap()), "unavailable");
        assert_eq!(ask(signer.keys()), "valid");
    }

    #[test]
    fn what_is_no_token_by_its_letters_is_told_apart_from_a_void_one() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let good = signer.token_of(&claims());
        let under = |keys, token: &str| {
            let issuers = [issuer(keys)];
            match authenticate(token.as_bytes(), &issuers, &rule(&[0]), &cache, now(), false) {
                Answer::Invalid(BadCredential::Ambiguous(label)) => label,
                answer => label(answer),
            }
        };
        let pending = || KeySet::pending(&[Algorithm::ES256]).unwrap();

        for token in [format!("\"{good}\""), format!("{good} "), format!("{good},{good}"), good.replace('.', "%2e")] {
            assert_eq!(under(signer.keys(), &token), "unreadable_authorization", "{token}");
            assert_eq!(under(pending(), &token), "unreadable_authorization", "{token}");
        }
        assert_eq!(under(signer.keys(), &format!("{good}=")), "signature_length");
        assert_eq!(under(signer.keys(), &good.replace('.', "/")), "parts");
        assert_eq!(under(pending(), &good), "unavailable");
        assert_eq!(under(signer.keys(), &good), "valid");
    }

    #[test]
    fn dropped_grants_are_counted_once_for_each_verification() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let grants = Grants::Only { roles: ["user".into()].into(), groups: [].into(), scopes: None };
        let issuers = [Issuer { grants, ..issuer(signer.keys()) }];
        let token = signer.token_of(&claims_with(json!({ "roles": ["user", "admin"] })));

        for _ in 0..3 {
            assert_eq!(label(authenticate(token.as_bytes(), &issuers, &rule(&[0]), &cache, now(), false)), "valid");
        }
        assert_eq!(cache.statistics().dropped_grants, 1);
    }

    #[test]
    fn a_huge_token_is_refused_before_any_work() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let issuers = [issuer(signer.keys())];
        let huge = vec![b'a'; jwt::MAX_TOKEN_BYTES + 1];

        assert_eq!(label(authenticate(&huge, &issuers, &rule(&[0]), &cache, now(), false)), "too_long");
        assert_eq!(cache.statistics().misses, 0);
    }
}
