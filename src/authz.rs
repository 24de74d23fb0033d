//! Authorization: (route, identity, request) → [`Verdict`]. Pure, and the only maker of [`Permit`].
//!
//! Values are compared on exact bytes; an absent value, an array or a number never equals a string (R6). For an
//! anonymous caller every requirement is false (R4). The same code tells its steps to `portcullis explain`
//! through [`Trace`]; in production the trace is empty and costs nothing.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    clock::Timestamp,
    identity::{Factor, Identity},
    policy::{Access, AccessRule, IdentityValue, Requirement},
    route::Route,
};

/// Proof that a request was authorized. Cannot be made outside this module, and forwarding consumes it.
#[derive(Debug)]
pub struct Permit<'s> {
    /// Borrowed from the snapshot: a count that all workers write would be one cache line for all.
    route: &'s Arc<Route>,
    identity: Option<Arc<Identity>>,
    grounds: Grounds,
}

/// Why a permit was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grounds {
    /// The route's rule is met.
    Met,
    /// The route only reports yet: its rule may be met or not, and what the upstream does about its callers is as it
    /// was without a gateway.
    Reported,
}

/// The end of a decision.
#[derive(Debug)]
pub enum Verdict<'s> {
    /// Go on.
    Allow(Permit<'s>),
    /// Stop here.
    Deny(Denial),
}

/// Why a request is not authorized.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denial {
    /// Nobody is known, and somebody must be.
    Anonymous,
    /// A requirement does not hold.
    Requirement {
        /// Its kind, for logs.
        rule: &'static str,
        /// Whether it asked for a scope (RFC 6750 section 3.1).
        scope: bool,
    },
    /// The last login is too long ago, or its time is not known.
    StaleLogin {
        /// `max_auth_age`.
        max_age: Duration,
    },
    /// The last login took fewer factors.
    WeakLogin {
        /// `max_auth_age`, which the next login has to meet as well.
        max_age: Option<Duration>,
    },
}

/// What of a request the requirements may look at.
pub struct Facts<'a> {
    /// The client's address, from the one `ClientView` (R15).
    pub address: IpAddr,
    /// Wall time of this decision.
    pub now: Timestamp,
    /// A path parameter, decoded once (R6); `None` where the pattern has none of that name or it is no UTF-8.
    pub parameter: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the connection has a valid client certificate of this authority; `None`: of any.
    pub certified: &'a dyn Fn(Option<&str>) -> bool,
}

/// Hears of every step of an evaluation.
pub trait Trace {
    /// One condition was looked at; `met`: it is as the route wants it. `condition` is only formatted by those who
    /// listen.
    fn step(&mut self, condition: &dyn fmt::Display, met: bool);
}

/// Hears nothing.
pub struct Silent;

impl Trace for Silent {
    fn step(&mut self, _condition: &dyn fmt::Display, _met: bool) {}
}

impl<'s> Permit<'s> {
    /// The route that was permitted.
    pub const fn route(&self) -> &'s Arc<Route> {
        self.route
    }

    /// Who is calling; `None` for anonymous callers of public and optional routes.
    pub const fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Why it was given.
    pub const fn grounds(&self) -> Grounds {
        self.grounds
    }
}

/// A permit for a caller whom the route's rule refuses, while the route only reports. `identity` is what was proved in
/// spite of that, if anything.
pub fn report(route: &Arc<Route>, identity: Option<Arc<Identity>>, now: Timestamp) -> Option<Permit<'_>> {
    route.only_reports(now).then_some(Permit { route, identity, grounds: Grounds::Reported })
}

/// Whether this caller may use this route.
///
/// `identity` is what an authenticator that the route lists has proved; on public routes it is ignored.
pub fn evaluate<'s>(
    route: &'s Arc<Route>,
    identity: Option<Arc<Identity>>,
    facts: &Facts<'_>,
    trace: &mut impl Trace,
) -> Verdict<'s> {
    let rule = match &route.access {
        Access::Public { .. } => {
            trace.step(&"open to everybody", true);
            return Verdict::Allow(Permit { route, identity: None, grounds: Grounds::Met });
        }
        Access::Authenticated(rule) => rule,
    };
    let denial = match &identity {
        Some(identity) => unmet(rule, identity, facts, trace),
        None => {
            let open = rule.optional && rule.require.is_empty();
            let wanted = if rule.optional { "a credential, for there are requirements" } else { "a credential" };
            trace.step(if open { &"no credential, which is optional here" } else { &wanted }, open);
            (!open).then_some(Denial::Anonymous)
        }
    };
    match denial {
        Some(denial) => Verdict::Deny(denial),
        None => {
            let grounds = if route.only_reports(facts.now) { Grounds::Reported } else { Grounds::Met };
            Verdict::Allow(Permit { route, identity, grounds })
        }
    }
}

/// The first part of `require` that does not hold.
fn unmet(rule: &AccessRule, identity: &Identity, facts: &Facts<'_>, trace: &mut impl Trace) -> Option<Denial> {
    let require = &rule.require;
    let mut meets = |list: &str, wanted: bool, requirement: &Requirement| {
        let met = requirement_holds(requirement, identity, facts) == wanted;
        trace.step(&format_args!("{list}: {requirement}"), met);
        met
    };
    if let Some(violated) = require.none.iter().find(|requirement| !meets("none", false, requirement)) {
        return Some(Denial::Requirement { rule: kind(violated), scope: false });
    }
    if let Some(missing) = require.all.iter().find(|requirement| !meets("all", true, requirement)) {
        return Some(Denial::Requirement { rule: kind(missing), scope: matches!(missing, Requirement::Scope(_)) });
    }
    if !require.any.is_empty() && !require.any.iter().any(|requirement| meets("any", true, requirement)) {
        let scope = require.any.iter().all(|requirement| matches!(requirement, Requirement::Scope(_)));
        return Some(Denial::Requirement { rule: "any", scope });
    }
    if require.factor > Factor::One {
        let strong = identity.factor() >= require.factor;
        trace.step(&format_args!("factor: a login with {} factors", require.factor.count()), strong);
        if !strong {
            return Some(Denial::WeakLogin { max_age: require.max_auth_age });
        }
    }
    if let Some(max_age) = require.max_auth_age {
        let fresh = identity.auth_time().is_some_and(|at| facts.now.since(at) <= max_age);
        trace.step(&format_args!("max_auth_age: a login in the last {} seconds", max_age.as_secs()), fresh);
        if !fresh {
            return Some(Denial::StaleLogin { max_age });
        }
    }
    None
}

fn requirement_holds(requirement: &Requirement, identity: &Identity, facts: &Facts<'_>) -> bool {
    match requirement {
        Requirement::Claim { path, equals } => {
            identity.claims().and_then(|claims| path.find(claims)).and_then(Value::as_str) == Some(equals)
        }
        Requirement::Email(email) => identity.email_verified() && identity.email() == Some(email),
        Requirement::Group(group) => identity.groups().any(|candidate| *candidate == **group),
        Requirement::Ip(network) => network.contains(&facts.address),
        Requirement::Mtls { ca } => (facts.certified)(ca.as_deref()),
        Requirement::PathEquals { parameter, value } => {
            let segment = (facts.parameter)(parameter);
            segment.is_some_and(|segment| identity_value(value, identity) == Some(&segment))
        }
        Requirement::Role(role) => identity.roles().any(|candidate| *candidate == **role),
        Requirement::Scope(scope) => identity.scopes().any(|candidate| *candidate == **scope),
        Requirement::User(subject) => *identity.subject() == **subject,
    }
}

fn identity_value<'i>(value: &IdentityValue, identity: &'i Identity) -> Option<&'i str> {
    match value {
        IdentityValue::Claim(path) => identity.claims().and_then(|claims| path.find(claims)).and_then(Value::as_str),
        IdentityValue::Email => identity.email().filter(|_| identity.email_verified()),
        IdentityValue::Name => identity.name(),
        IdentityValue::Subject => Some(identity.subject()),
    }
}

/// The word for the requirement of a client certificate, which has an answer of its own.
pub const MTLS: &str = "mtls";

/// The word for a requirement in logs and metrics.
const fn kind(requirement: &Requirement) -> &'static str {
    match requirement {
        Requirement::Claim { .. } => "claim",
        Requirement::Email(_) => "email",
        Requirement::Group(_) => "group",
        Requirement::Ip(_) => "ip",
        Requirement::Mtls { .. } => MTLS,
        Requirement::PathEquals { .. } => "path",
        Requirement::Role(_) => "role",
        Requirement::Scope(_) => "scope",
        Requirement::User(_) => "user",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        identity::{IdentityParts, Via},
        policy::{ClaimPath, Requirements},
        route::{Destination, Target},
    };

    fn alice() -> IdentityParts {
        IdentityParts {
            realm: "staff".into(),
            subject: "alice".into(),
            name: Some("Alice A".into()),
            email: Some("alice@example.com".into()),
            email_verified: true,
            roles: vec!["user".into(), "audit,or".into()],
            groups: vec!["ops".into()],
            scopes: vec!["orders.read".into()],
            claims: json!({"dept": {"name": "it", "ids": ["a", "b", 3]}, "level": 3, "sub2": "alice"})
                .as_object()
                .cloned()
                .unwrap(),
            auth_time: Some(Timestamp::from_unix_seconds(1_000)),
            factor: Factor::One,
            via: Via::Session,
        }
    }

    fn route(require: Requirements, optional: bool) -> Arc<Route> {
        let rule = AccessRule { session: true, optional, require, ..AccessRule::default() };
        Arc::new(Route::new("r", Access::Authenticated(rule), Target::Upstream(Destination::One(0))))
    }

    fn verdict(require: Requirements, who: Option<IdentityParts>, optional: bool) -> Result<(), Denial> {
        let facts = Facts {
            certified: &|ca| ca.is_none_or(|ca| ca == "devices"),
            address: "10.1.2.3".parse().unwrap(),
            now: Timestamp::from_unix_seconds(1_600),
            parameter: &|name| (name == "id").then(|| "alice".to_owned()),
        };
        let who = who.map(|parts| Arc::new(Identity::new(parts).unwrap()));
        match evaluate(&route(require, optional), who, &facts, &mut Silent) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny(denial) => Err(denial),
        }
    }

    fn all(requirement: Requirement) -> Requirements {
        Requirements { all: Box::new([requirement]), ..Requirements::default() }
    }

    #[test]
    fn each_requirement_holds_for_its_exact_value_only() {
        let claim =
            |path: &str, equals: &str| Requirement::Claim { path: ClaimPath::dotted(path), equals: equals.into() };
        let path = |parameter: &str, value| Requirement::PathEquals { parameter: parameter.into(), value };
        for (requirement, expect) in [
            (Requirement::Role("user".into()), true),
            (Requirement::Role("use".into()), false),
            (Requirement::Role("User".into()), false),
            (Requirement::Role("audit,or".into()), true),
            (Requirement::Role("audit".into()), false),
            (Requirement::Role("ops".into()), false),
            (Requirement::Group("ops".into()), true),
            (Requirement::Group("user".into()), false),
            (Requirement::Scope("orders.read".into()), true),
            (Requirement::Scope("orders".into()), false),
            (Requirement::User("alice".into()), true),
            (Requirement::User("bob".into()), false),
            (Requirement::Email("alice@example.com".into()), true),
            (Requirement::Email("ALICE@example.com".into()), false),
            (claim("dept.name", "it"), true),
            (claim("dept.name", "hr"), false),
            (claim("dept.ids", "a"), false),
            (claim("dept.ids", "3"), false),
            (claim("level", "3"), false),
            (claim("nothing.there", ""), false),
            (Requirement::Ip("10.0.0.0/8".parse().unwrap()), true),
            (Requirement::Ip("192.168.0.0/16".parse().unwrap()), false),
            (path("id", IdentityValue::Subject), true),
            (path("other", IdentityValue::Subject), false),
            (path("id", IdentityValue::Claim(ClaimPath::dotted("sub2"))), true),
            (path("id", IdentityValue::Claim(ClaimPath::dotted("level"))), false),
            (path("id", IdentityValue::Name), false),
        ] {
            let shown = requirement.to_string();
            assert_eq!(verdict(all(requirement), Some(alice()), false).is_ok(), expect, "{shown}");
        }
    }

    #[test]
    fn an_unverified_email_meets_no_rule() {
        let require = || all(Requirement::Email("alice@example.com".into()));

        assert!(verdict(require(), Some(alice()), false).is_ok());
        assert!(verdict(require(), Some(IdentityParts { email_verified: false, ..alice() }), false).is_err());
    }

    #[test]
    fn any_all_and_none_must_hold_together() {
        let role = |name: &str| Requirement::Role(name.into());
        let require = |any: &[&str], all: &[&str], none: &[&str]| Requirements {
            any: any.iter().map(|r| role(r)).collect(),
            all: all.iter().map(|r| role(r)).collect(),
            none: none.iter().map(|r| role(r)).collect(),
            ..Requirements::default()
        };
        for (require, expect) in [
            (require(&[], &[], &[]), true),
            (require(&["x", "user"], &[], &[]), true),
            (require(&["x", "y"], &[], &[]), false),
            (require(&[], &["user"], &[]), true),
            (require(&[], &["user", "x"], &[]), false),
            (require(&["user"], &["user"], &["x"]), true),
            (require(&["user"], &["user"], &["user"]), false),
        ] {
            let shown = format!("{require:?}");
            assert_eq!(verdict(require, Some(alice()), false).is_ok(), expect, "{shown}");
        }
    }

    #[test]
    fn for_an_anonymous_caller_every_requirement_is_false() {
        assert_eq!(verdict(Requirements::default(), None, false), Err(Denial::Anonymous));
        assert_eq!(verdict(Requirements::default(), None, true), Ok(()));
        assert_eq!(verdict(all(Requirement::Ip("0.0.0.0/0".parse().unwrap())), None, true), Err(Denial::Anonymous));
    }

    #[test]
    fn max_auth_age_reads_auth_time_and_nothing_else() {
        let within =
            |seconds| Requirements { max_auth_age: Some(Duration::from_secs(seconds)), ..Requirements::default() };

        assert!(verdict(within(600), Some(alice()), false).is_ok());
        assert!(matches!(verdict(within(599), Some(alice()), false), Err(Denial::StaleLogin { .. })));
        let unknown = IdentityParts { auth_time: None, ..alice() };
        assert!(matches!(verdict(within(600), Some(unknown), false), Err(Denial::StaleLogin { .. })));
    }

    #[test]
    fn two_factors_are_asked_of_whoever_has_shown_one() {
        let two = || Requirements { factor: Factor::Two, ..Requirements::default() };
        let strong = || IdentityParts { factor: Factor::Two, ..alice() };

        assert_eq!(verdict(two(), Some(alice()), false), Err(Denial::WeakLogin { max_age: None }));
        assert_eq!(verdict(two(), Some(strong()), false), Ok(()));
        assert_eq!(verdict(two(), None, true), Err(Denial::Anonymous), "optional or not");
        let both = |age| Requirements { max_auth_age: Some(Duration::from_secs(age)), ..two() };
        let max_age = Some(Duration::from_secs(600));
        assert_eq!(verdict(both(600), Some(alice()), false), Err(Denial::WeakLogin { max_age }));
        assert!(matches!(verdict(both(599), Some(strong()), false), Err(Denial::StaleLogin { .. })));
        assert_eq!(verdict(both(600), Some(strong()), false), Ok(()));
        let role = Requirements { all: Box::new([Requirement::Role("admin".into())]), ..two() };
        let refused = verdict(role, Some(alice()), false);
        assert!(matches!(refused, Err(Denial::Requirement { .. })), "a code would not help: {refused:?}");
    }
}
