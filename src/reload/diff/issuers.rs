//! What changes about whose tokens count, and which: keys, endpoints and conditions of the issuers that a route takes.
//!
//! In: one route under two configurations. Out: the keys of `[[jwt.issuer]]` that differ, with the way they go. No
//! rehearsed request shows these, as it supposes a token that is good. Where keys or answers come from elsewhere,
//! others say who gets in: that counts as opening. `realm`, `grants` and `proof` are asked about instead.

use std::collections::BTreeSet;

use super::Kind;
use crate::{
    authn::jwt::{Audience, Issuer, RequiredClaim},
    policy::Access,
    route::Route,
    state::Snapshot,
};

/// The keys that differ of issuers that a route takes both times; each entry with the issuer's name.
pub(super) fn changed(before: (&Route, &Snapshot), after: (&Route, &Snapshot)) -> Vec<(Kind, String)> {
    let earlier = of_route(before);
    let mut found = Vec::new();
    for issuer in of_route(after) {
        let Some(was) = earlier.iter().find(|was| was.name == issuer.name) else { continue };
        for kind in [Kind::MoreOpen, Kind::MoreClosed, Kind::Different] {
            let keys: Vec<&str> =
                compare(was, issuer).into_iter().filter(|(k, _)| *k == kind).map(|(_, key)| key).collect();
            if !keys.is_empty() {
                found.push((kind, format!("{} of the issuer {}", keys.join(", "), issuer.name)));
            }
        }
    }
    found
}

/// Those whose tokens count there, but for ourselves: our keys change by themselves.
fn of_route<'a>((route, snapshot): (&Route, &'a Snapshot)) -> Vec<&'a Issuer> {
    match &route.access {
        Access::Authenticated(rule) => {
            let taken = rule.issuers.iter().filter_map(|index| snapshot.issuers.get(*index));
            taken.filter(|issuer| issuer.own.is_none()).collect()
        }
        Access::Public { .. } => Vec::new(),
    }
}

fn compare(was: &Issuer, is: &Issuer) -> Vec<(Kind, &'static str)> {
    // Whoever is not listed here would be forgotten silently.
    let Issuer {
        name: _,
        realm: _,
        issuer,
        audience,
        keys,
        claims,
        grants: _,
        leeway,
        introspection,
        max_token_life,
        required_claims,
        access_tokens_only,
        id_tokens,
        trust_email,
        own: _,
        proof: _,
        generation: _,
    } = is;
    let mut found = Vec::new();
    // `laxer`: something counts that did not; `stricter`: something does not count that did.
    let mut note = |key, laxer: bool, stricter: bool| match (laxer, stricter) {
        (true, _) => found.push((Kind::MoreOpen, key)),
        (false, true) => found.push((Kind::MoreClosed, key)),
        (false, false) => {}
    };
    note("issuer", *issuer != was.issuer, false);
    note("jwks", !keys.holds_the_same(&was.keys), false);
    let source = |issuer: &Issuer| issuer.introspection.as_ref().map(|endpoint| endpoint.source().clone());
    match (source(was), introspection.as_ref().map(|endpoint| endpoint.source())) {
        (Some(_), None) => note("introspection", false, true),
        (None, Some(_)) => note("introspection", true, false),
        (Some(was), Some(is)) => {
            let same_place = (&was.url, &was.client) == (&is.url, &is.client);
            note("introspection", !same_place || is.remember > was.remember, is.remember < was.remember);
        }
        (None, None) => {}
    }
    note("audience", !is_within(audience, &was.audience), !is_within(&was.audience, audience));
    note("leeway", *leeway > was.leeway, *leeway < was.leeway);
    note("max_token_life", *max_token_life > was.max_token_life, *max_token_life < was.max_token_life);
    note(
        "required_claims",
        !are_asked(&was.required_claims, required_claims),
        !are_asked(required_claims, &was.required_claims),
    );
    note("token_type", was.access_tokens_only && !access_tokens_only, !was.access_tokens_only && *access_tokens_only);
    note("id_tokens", !was.id_tokens && *id_tokens, was.id_tokens && !id_tokens);
    note("trust_email", !was.trust_email && *trust_email, was.trust_email && !trust_email);
    if *claims != was.claims {
        found.push((Kind::Different, "claims"));
    }
    found
}

/// Whether whoever is meant by one audience is meant by the other, too.
fn is_within(one: &Audience, other: &Audience) -> bool {
    match (one, other) {
        (_, Audience::Any) => true,
        (Audience::Any, Audience::OneOf(_)) => false,
        (Audience::OneOf(one), Audience::OneOf(other)) => one.iter().all(|each| other.contains(each)),
    }
}

/// Whether each of these claims is asked for among those, as strictly at least.
fn are_asked(these: &[RequiredClaim], those: &[RequiredClaim]) -> bool {
    let set = |claim: &RequiredClaim| claim.equals.iter().cloned().collect::<BTreeSet<Box<str>>>();
    these.iter().all(|one| {
        those.iter().any(|other| {
            one.path == other.path
                && (one.equals.is_empty() || !other.equals.is_empty() && set(other).is_subset(&set(one)))
        })
    })
}
