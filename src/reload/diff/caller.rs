//! Kinds of callers: nobody, and those who just meet or just miss what two routes ask for.

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, header::ORIGIN};
use serde_json::{Map, Value};

use super::super::sessions::creators;
use crate::{
    authn::possession::Confirmation,
    clock::Timestamp,
    identity::{Factor, Identity, IdentityParts, Via},
    policy::{Access, AccessRule, Csrf, Grants, IdentityValue, ProofRule, Requirement, Requirements},
    route::Route,
    state::Snapshot,
};

/// Somebody who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    who: Who,
    meets: Vec<Requirement>,
    /// The login was long ago.
    is_stale: bool,
    factor: Factor,
    /// What the token is bound to, and proven to be.
    pub(super) bound: Confirmation,
    pub(super) address: Option<IpAddr>,
    pub(super) site: Site,
}

/// By what a caller is known.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Who {
    Nobody,
    /// A session, opened by the provider or admin token of this name.
    Session(Arc<str>),
    /// A token of the issuer of this name.
    Token(Arc<str>),
    /// A client certificate of the authority of this name.
    Certificate(Arc<str>),
}

/// Which page a browser is on when it asks.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Site {
    /// One of ours.
    Own,
    /// This origin's.
    Other(Box<str>),
    /// It does not say.
    Unsaid,
}

/// All kinds of callers that matter to one request, whichever of two routes decides.
pub(super) fn callers(routes: &[Option<&Arc<Route>>; 2], snapshots: [&Snapshot; 2]) -> Vec<Caller> {
    let rules: Vec<(&AccessRule, &Snapshot)> = routes
        .iter()
        .zip(snapshots)
        .filter_map(|(route, snapshot)| match &route.as_ref()?.access {
            Access::Authenticated(rule) => Some((rule, snapshot)),
            Access::Public { .. } => None,
        })
        .collect();
    let mut callers = vec![Caller::of(Who::Nobody)];
    for who in known(&rules) {
        for (rule, _) in &rules {
            callers.extend(around(&who, &rule.require));
        }
        if let Who::Token(issuer) = &who
            && asks_for_proof(issuer, &rules)
        {
            let whole = |require: &Requirements| require.all.iter().chain(require.any.first()).cloned().collect();
            for (bound, (rule, _)) in
                Confirmation::SUPPOSED.iter().flat_map(|bound| rules.iter().map(move |r| (bound, r)))
            {
                callers.push(Caller { bound: *bound, ..Caller::meeting(who.clone(), whole(&rule.require)) });
            }
        }
        if matches!(who, Who::Certificate(_) | Who::Session(_)) {
            callers.extend(from_elsewhere(&who, &rules, routes));
        }
    }
    let mut seen = HashSet::new();
    callers.retain(|caller| seen.insert(format!("{caller:?}")));
    callers
}

/// Whether one of the routes, or the issuer itself, counts only tokens that are bound.
fn asks_for_proof(issuer: &str, rules: &[(&AccessRule, &Snapshot)]) -> bool {
    rules.iter().any(|(rule, snapshot)| {
        let itself = snapshot.issuers.iter().find(|each| *each.name == *issuer);
        rule.proof != ProofRule::None || itself.is_some_and(|issuer| issuer.proof != ProofRule::None)
    })
}

/// Everything by which the routes know callers.
fn known(rules: &[(&AccessRule, &Snapshot)]) -> Vec<Who> {
    let mut all = Vec::new();
    for (rule, snapshot) in rules {
        if rule.session {
            all.extend(openers(snapshot).map(|(name, ..)| Who::Session(Arc::clone(name))));
        }
        let issuers = rule.issuers.iter().filter_map(|index| snapshot.issuers.get(*index));
        all.extend(issuers.map(|issuer| Who::Token(Arc::clone(&issuer.name))));
        let authorities = rule.mtls.iter().filter_map(|index| snapshot.mtls.authorities.get(*index));
        all.extend(authorities.map(|authority| Who::Certificate(Arc::clone(authority.name()))));
    }
    let mut seen = HashSet::new();
    all.retain(|who| seen.insert(who.clone()));
    all
}

/// Who opens sessions in a configuration: name, realm and grants.
fn openers(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Grants)> {
    let providers = snapshot.login.providers.iter().map(|provider| (&provider.name, &provider.realm, &provider.grants));
    providers.chain(creators(snapshot).map(|token| (&token.name, &token.realm, &token.grants)))
}

/// Callers that meet all of some requirements, and those that miss one of them.
fn around(who: &Who, require: &Requirements) -> Vec<Caller> {
    let meeting = |meets: Vec<Requirement>| Caller::meeting(who.clone(), meets);
    let all = || require.all.iter().cloned();
    let whole: Vec<Requirement> = all().chain(require.any.first().cloned()).collect();
    let mut found = vec![meeting(Vec::new()), meeting(whole.clone())];
    found.extend(require.any.iter().map(|one| meeting(all().chain([one.clone()]).collect())));
    found.extend((0..whole.len()).map(|missing| {
        meeting(whole.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, each)| each.clone()).collect())
    }));
    found.extend(require.none.iter().map(|one| meeting(whole.iter().cloned().chain([one.clone()]).collect())));
    if require.max_auth_age.is_some() {
        found.push(Caller { is_stale: true, ..meeting(whole.clone()) });
    }
    if require.factor > Factor::One {
        found.push(Caller { factor: Factor::One, ..meeting(whole) });
    }
    found
}

/// The same browser on other pages, meeting everything that is asked.
fn from_elsewhere(who: &Who, rules: &[(&AccessRule, &Snapshot)], routes: &[Option<&Arc<Route>>; 2]) -> Vec<Caller> {
    let listed = routes.iter().flatten().flat_map(|route| match &route.csrf {
        Csrf::Origins(origins) => &origins[..],
        Csrf::AllowNoOrigin | Csrf::Off | Csrf::SameOrigin | Csrf::Strict => &[],
    });
    let sites = listed.cloned().chain(["https://elsewhere.example".into()]).map(Site::Other).chain([Site::Unsaid]);
    let mut found = Vec::new();
    for site in sites {
        for (AccessRule { require, .. }, _) in rules {
            let meets = require.all.iter().chain(require.any.first()).cloned().collect();
            found.push(Caller { site: site.clone(), ..Caller::meeting(who.clone(), meets) });
        }
    }
    found
}

impl Caller {
    /// The subject of everybody who is not asked to be somebody else; paths hold it where it may matter.
    pub(super) const SUBJECT: &'static str = "somebody";

    const fn of(who: Who) -> Self {
        Self {
            who,
            meets: Vec::new(),
            is_stale: false,
            factor: Factor::Two,
            bound: Confirmation::NOTHING,
            address: None,
            site: Site::Own,
        }
    }

    fn meeting(who: Who, meets: Vec<Requirement>) -> Self {
        let address = meets.iter().find_map(|requirement| match requirement {
            Requirement::Ip(network) => Some(network.addr()),
            _ => None,
        });
        Self { meets, address, ..Self::of(who) }
    }

    /// Whether a client certificate comes along.
    pub(super) fn is_certified(&self) -> bool {
        self.meets.iter().any(|requirement| matches!(requirement, Requirement::Mtls { .. }))
    }

    /// Who this is on a route with this rule; `None`: nobody, as no credential of theirs counts there.
    pub(super) fn identity(&self, snapshot: &Snapshot, rule: &AccessRule, now: Timestamp) -> Option<Arc<Identity>> {
        let (realm, grants, via) = match &self.who {
            Who::Nobody => return None,
            Who::Session(name) => {
                let (_, realm, grants) = openers(snapshot).find(|(opener, ..)| *opener == name)?;
                (realm, grants, rule.session.then_some(Via::Session)?)
            }
            Who::Token(name) => {
                let mut issuers = rule.issuers.iter().filter_map(|index| snapshot.issuers.get(*index));
                let issuer = issuers.find(|issuer| issuer.name == *name)?;
                (&issuer.realm, &issuer.grants, Via::Jwt(Arc::clone(name)))
            }
            Who::Certificate(name) => {
                let mut authorities = rule.mtls.iter().filter_map(|index| snapshot.mtls.authorities.get(*index));
                (authorities.find(|authority| authority.name() == name)?.realm(), &Grants::All, Via::Mtls)
            }
        };
        let mut parts = IdentityParts {
            realm: Arc::clone(realm),
            subject: Self::SUBJECT.to_owned(),
            name: None,
            email: None,
            email_verified: true,
            roles: Vec::new(),
            groups: Vec::new(),
            scopes: Vec::new(),
            claims: Map::new(),
            auth_time: Some(if self.is_stale { now.minus(LONG_AGO) } else { now }),
            factor: self.factor,
            via,
        };
        self.meets.iter().for_each(|requirement| meet(requirement, &mut parts));
        grants.filter(&mut parts.roles, &mut parts.groups);
        Identity::new(parts).ok().map(Arc::new)
    }
}

/// Makes a caller meet a requirement.
fn meet(requirement: &Requirement, parts: &mut IdentityParts) {
    match requirement {
        Requirement::Claim { path, equals } => path.set(&mut parts.claims, Value::from(&**equals)),
        Requirement::Email(email) => parts.email = Some(email.to_string()),
        Requirement::Group(group) => parts.groups.push(group.to_string()),
        // An address is the connection's, as is a certificate.
        Requirement::Ip(_) | Requirement::Mtls { .. } => {}
        Requirement::PathEquals { value, .. } => match value {
            IdentityValue::Claim(path) => path.set(&mut parts.claims, Caller::SUBJECT.into()),
            IdentityValue::Email => parts.email = Some(Caller::SUBJECT.to_owned()),
            IdentityValue::Name => parts.name = Some(Caller::SUBJECT.to_owned()),
            IdentityValue::Subject => parts.subject = Caller::SUBJECT.to_owned(),
        },
        Requirement::Role(role) => parts.roles.push(role.to_string()),
        Requirement::Scope(scope) => parts.scopes.push(scope.to_string()),
        Requirement::User(subject) => parts.subject = subject.to_string(),
    }
}

impl Site {
    /// What a browser says of itself there.
    pub(super) fn headers(&self) -> Vec<(HeaderName, String)> {
        let site = |word: &str| (HeaderName::from_static("sec-fetch-site"), word.to_owned());
        match self {
            Self::Other(origin) => vec![site("cross-site"), (ORIGIN, origin.to_string())],
            Self::Own => vec![site("same-origin")],
            Self::Unsaid => Vec::new(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Nobody => f.write_str("nobody known")?,
            Who::Session(name) => write!(f, "a session of {name}")?,
            Who::Token(name) => write!(f, "a token of {name}")?,
            Who::Certificate(name) => write!(f, "a certificate of {name}")?,
        }
        match (self.bound.key.is_some(), self.bound.certificate.is_some()) {
            (false, false) => {}
            (true, false) => f.write_str(" bound to a key")?,
            (false, true) => f.write_str(" bound to a certificate")?,
            (true, true) => f.write_str(" bound to a key and a certificate")?,
        }
        for (i, requirement) in self.meets.iter().enumerate() {
            write!(f, "{} {requirement}", if i == 0 { " with" } else { "," })?;
        }
        if self.is_stale {
            f.write_str(", whose login was long ago,")?;
        }
        if self.factor == Factor::One {
            f.write_str(", with one factor,")?;
        }
        match &self.site {
            Site::Other(origin) => write!(f, ", on a page of {origin},"),
            Site::Own => Ok(()),
            Site::Unsaid => f.write_str(", without word of where from,"),
        }
    }
}

/// Longer ago than any rule allows.
const LONG_AGO: Duration = Duration::from_secs(366 * 24 * 60 * 60);
