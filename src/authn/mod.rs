//! Authentication: from what the request carries to an identity (R2, R3).
//!
//! `credential` finds the one credential that counts; for a bearer token [`authenticate_bearer`] composes the cache of
//! verified tokens with `jwt::verify`. A session cookie is looked up in the session store by `decide`. Whatever the
//! authenticator, its answer is one of the four of [`Answer`]; only `Valid` goes on.

use std::sync::Arc;

use self::{
    jwt::{Generation, Issuer, JwtError, VerifiedToken},
    token_cache::{Found, TokenCache},
};
use crate::{clock::Timestamp, policy::AccessRule, refusal::BadCredential};

pub mod credential;
mod json;
pub mod jwt;
pub mod keys;
pub mod proof;
#[cfg(test)]
mod signer;
pub mod token_cache;

/// What an authenticator says of a request (R3).
#[derive(Clone, Debug)]
pub enum Answer<T> {
    /// The credential is good, and this is what it proves.
    Valid(T),
    /// There is no credential.
    Absent,
    /// There is one, and it is void: never the same as none.
    Invalid(BadCredential),
    /// Whether it is good cannot be told at present: 503, never anonymous.
    Unavailable,
}

impl From<JwtError> for BadCredential {
    fn from(error: JwtError) -> Self {
        Self::Bearer(error.label())
    }
}

/// Judges a bearer token on a route with this rule. A known token costs one look-up; its times are checked again.
///
/// Never [`Answer::Absent`]: there is a token. Revocation and requirements are for the caller to check.
pub fn authenticate_bearer(
    token: &[u8],
    issuers: &[Issuer],
    rule: &AccessRule,
    cache: &TokenCache,
    now: Timestamp,
) -> Answer<Arc<VerifiedToken>> {
    if token.len() > jwt::MAX_TOKEN_BYTES {
        return Answer::Invalid(JwtError::TooLong.into());
    }
    let accepts = |generation: Generation| {
        rule.issuers.iter().filter_map(|&index| issuers.get(index)).any(|issuer| issuer.generation == generation)
    };
    let key = cache.key(token);
    match cache.find(&key, accepts, now) {
        Found::Verified(token) => return Answer::Valid(token),
        Found::OutOfTime(error) => return Answer::Invalid(error.into()),
        Found::WrongSignature(generation) => return Answer::Invalid(JwtError::WrongSignature(generation).into()),
        Found::Nothing => {}
    }
    match jwt::verify(token, issuers, &rule.issuers, now) {
        Ok(verified) => {
            let verified = Arc::new(verified);
            cache.insert(&key, Arc::clone(&verified), now);
            Answer::Valid(verified)
        }
        Err(JwtError::KeysPending) => Answer::Unavailable,
        Err(error) => {
            if let JwtError::WrongSignature(generation) = error {
                cache.remember_wrong_signature(&key, generation);
            }
            Answer::Invalid(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{
        keys::{Algorithm, KeySet},
        signer::*,
        token_cache::CacheLimits,
        *,
    };
    use crate::policy::{Grants, Requirements};

    fn rule(issuers: &[usize]) -> AccessRule {
        AccessRule {
            session: false,
            issuers: issuers.into(),
            optional: false,
            require: Requirements::default(),
            forward_credential: false,
            touch: true,
        }
    }

    fn cache() -> TokenCache {
        TokenCache::new(CacheLimits::default())
    }

    fn label<T>(answer: Answer<T>) -> &'static str {
        match answer {
            Answer::Valid(_) => "valid",
            Answer::Absent => "absent",
            Answer::Invalid(BadCredential::Bearer(label)) => label,
            Answer::Invalid(BadCredential::Ambiguous(_) | BadCredential::Session) => "not of a bearer",
            Answer::Unavailable => "unavailable",
        }
    }

    #[test]
    fn a_known_token_is_not_verified_again_but_its_time_is_checked() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let (token, issuers) = (signer.token_of(&claims()), [issuer(signer.keys())]);
        let at = |seconds| {
            let now = now().plus(Duration::from_secs(seconds));
            authenticate_bearer(token.as_bytes(), &issuers, &rule(&[0]), &cache, now)
        };

        let (Answer::Valid(first), Answer::Valid(second)) = (at(0), at(629)) else { panic!("refused") };
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(label(at(630)), "expired");
        assert_eq!(label(at(0)), "valid");
        assert_eq!((cache.statistics().misses, cache.statistics().hits), (1, 3));
    }

    #[test]
    fn a_known_token_does_not_count_on_a_route_of_another_issuer() {
        let (one, other, cache) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256), cache());
        let other_issuer = Issuer { issuer: "https://other.example".into(), ..issuer(other.keys()) };
        let issuers = [issuer(one.keys()), other_issuer];
        let token = one.token_of(&claims());
        let on =
            |allowed: &[usize]| label(authenticate_bearer(token.as_bytes(), &issuers, &rule(allowed), &cache, now()));

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
            |issuer: Issuer| label(authenticate_bearer(token.as_bytes(), &[issuer], &rule(&[0]), &cache, now()));

        assert_eq!(under(issuer(signer.keys())), "valid");
        assert_eq!(under(issuer(Signer::new(Algorithm::ES256).keys())), "wrong_signature");
        assert_eq!(under(Issuer { audience: jwt::Audience::OneOf([].into()), ..issuer(signer.keys()) }), "audience");
        assert_eq!(under(issuer(signer.keys())), "valid");
    }

    #[test]
    fn only_a_wrong_signature_is_remembered_as_bad() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let issuers = [issuer(signer.keys())];
        let ask = |token: &str| label(authenticate_bearer(token.as_bytes(), &issuers, &rule(&[0]), &cache, now()));
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
        let ask = |keys| label(authenticate_bearer(token.as_bytes(), &[issuer(keys)], &rule(&[0]), &cache, now()));

        assert_eq!(ask(KeySet::pending(&[Algorithm::ES256]).unwrap()), "unavailable");
        assert_eq!(ask(signer.keys()), "valid");
    }

    #[test]
    fn dropped_grants_are_counted_once_for_each_verification() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let grants = Grants::Only { roles: ["user".into()].into(), groups: [].into() };
        let issuers = [Issuer { grants, ..issuer(signer.keys()) }];
        let token = signer.token_of(&claims_with(json!({ "roles": ["user", "admin"] })));

        for _ in 0..3 {
            assert_eq!(label(authenticate_bearer(token.as_bytes(), &issuers, &rule(&[0]), &cache, now())), "valid");
        }
        assert_eq!(cache.statistics().dropped_grants, 1);
    }

    #[test]
    fn a_huge_token_is_refused_before_any_work() {
        let (signer, cache) = (Signer::new(Algorithm::ES256), cache());
        let issuers = [issuer(signer.keys())];
        let huge = vec![b'a'; jwt::MAX_TOKEN_BYTES + 1];

        assert_eq!(label(authenticate_bearer(&huge, &issuers, &rule(&[0]), &cache, now())), "too_long");
        assert_eq!(cache.statistics().misses, 0);
    }
}
