//! Requests that stand for all, and what comes of them.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use http::{HeaderValue, Method, Uri};

use super::{USUAL, caller::Caller};
use crate::{
    client::Scheme,
    clock::Timestamp,
    decide::{Findings, Supposed},
    host::{Authority, Host},
    policy::{Access, AccessRule},
    rehearsal::{Outcome, Rehearsal},
    route::{
        Route, Target,
        path::{CanonicalPath, PathPattern},
    },
    state::Snapshot,
    upstream,
};

/// One request, but for who sends it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Probe {
    method: Method,
    host: Host,
    path: String,
}

/// What comes of a request under one configuration.
pub(super) struct Answer<'s> {
    outcome: Outcome<'s>,
    /// Where it goes, in full: another server is another place.
    place: String,
    /// As it is told.
    shown: String,
    /// The path that an upstream gets, the names of its headers, and what the route changes of either.
    sent: BTreeSet<String>,
}

/// Every request to ask about.
pub(super) fn probes(old: &Snapshot, new: &Snapshot) -> Vec<Probe> {
    let hosts: BTreeSet<&Host> = old.routes.known_hosts().chain(new.routes.known_hosts()).collect();
    let mut seen = HashSet::new();
    let mut probes = Vec::new();
    for route in old.routes.routes().iter().chain(new.routes.routes()) {
        let own: Vec<&Host> =
            if route.hosts.is_empty() { hosts.iter().copied().collect() } else { route.hosts.iter().collect() };
        let methods = route.methods.as_deref().unwrap_or(&USUAL);
        for (host, pattern) in own.iter().flat_map(|host| route.paths.iter().map(move |pattern| (*host, pattern))) {
            for path in examples(pattern) {
                for method in methods {
                    let probe = Probe { method: method.clone(), host: host.clone(), path: path.clone() };
                    if seen.insert(probe.clone()) {
                        probes.push(probe);
                    }
                }
            }
        }
    }
    probes
}

/// Paths that a pattern matches: parameters that are the caller's own, and that are not; with and without a rest.
fn examples(pattern: &PathPattern) -> BTreeSet<String> {
    let text = pattern.to_string();
    let write = |parameter: &str, rest: bool| {
        let segments = text.split('/').skip(1).filter_map(|segment| match segment {
            segment if segment.starts_with("{*") => rest.then_some(Caller::SUBJECT),
            segment if segment.starts_with('{') => Some(parameter),
            segment => Some(segment),
        });
        let path: String = segments.map(|segment| format!("/{segment}")).collect();
        if path.is_empty() { "/".to_owned() } else { path }
    };
    [(Caller::SUBJECT, true), (Caller::SUBJECT, false), ("another", true)]
        .into_iter()
        .map(|(parameter, rest)| write(parameter, rest))
        .collect()
}

impl Probe {
    /// The route that a configuration has for it.
    pub(super) fn route<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Route>> {
        let path = CanonicalPath::parse(&self.path, snapshot.routes.tolerated()).ok()?;
        let index = snapshot.routes.find(&self.host, &path, &self.method).ok()?.route.index;
        snapshot.routes.routes().get(index)
    }

    /// What a configuration does with it.
    pub(super) fn ask<'s>(&self, snapshot: &'s Snapshot, caller: &Caller, now: Timestamp) -> Answer<'s> {
        let rule = self.route(snapshot).and_then(|route| match &route.access {
            Access::Authenticated(rule) => Some(rule),
            Access::Public { .. } => None,
        });
        let identity = rule.and_then(|rule: &AccessRule| caller.identity(snapshot, rule, now));
        let authority = Authority { host: self.host.clone(), port: None };
        let uri = format!("https://{}{}", self.host, self.path).parse().unwrap_or_else(|_| Uri::from_static("/"));
        let mut request = Rehearsal::new(self.method.clone(), Scheme::Https, &authority, &uri, now);
        if let Some(address) = caller.address {
            request = request.from(address);
        }
        for (name, value) in caller.site.headers() {
            if let Ok(value) = HeaderValue::try_from(value) {
                request = request.header(name, value);
            }
        }
        let supposed = Supposed { identity, certified: caller.is_certified(), bound: caller.bound };
        Answer::of(request.run(snapshot, supposed), snapshot)
    }
}

impl<'s> Answer<'s> {
    fn of(outcome: Outcome<'s>, snapshot: &'s Snapshot) -> Self {
        let (place, shown) = match (&outcome.refusal, outcome.is_cross_site, outcome.findings.route) {
            (Some(refusal), _, _) => (String::new(), format!("{} ({})", outcome.status.as_u16(), refusal.reason())),
            (None, true, _) => (String::new(), "403 (cross_site)".to_owned()),
            (None, false, None) => (String::new(), outcome.status.as_u16().to_string()),
            (None, false, Some(route)) => place(route, &outcome.findings, snapshot),
        };
        let shown = match (&outcome.sent, &outcome.findings.rewritten) {
            (Some(sent), Some(_)) => format!("{shown} as {}", sent.target),
            (_, _) => shown,
        };
        let names = outcome.sent.iter().flat_map(|sent| sent.headers.keys()).map(ToString::to_string);
        let path = outcome.sent.iter().map(|sent| sent.target.to_string());
        let sent = names.chain(path).collect();
        Self { outcome, place, shown, sent }
    }

    /// The route that decided.
    pub(super) fn route(&self) -> Option<&Arc<str>> {
        self.outcome.findings.route.as_ref().map(|route| &route.name)
    }

    /// Whether it gets through.
    pub(super) const fn is_open(&self) -> bool {
        self.outcome.refusal.is_none() && !self.outcome.is_cross_site
    }

    /// Whether it goes to the same place under the same headers.
    pub(super) fn does_the_same(&self, other: &Self) -> bool {
        self.place == other.place && self.sent == other.sent
    }
}

/// Where an open request goes: in full, and as it is told.
fn place(route: &Route, findings: &Findings<'_>, snapshot: &Snapshot) -> (String, String) {
    match &route.target {
        Target::Own(own) => (format!("{own:?}"), format!("our own {}", own.label())),
        Target::Redirect(redirect) => {
            let rewritten = findings.rewritten.as_deref();
            let location = findings.path.as_ref().map(|asked| redirect.location(asked, rewritten));
            let location = location.as_ref().and_then(|location| location.to_str().ok()).unwrap_or("?");
            (format!("{redirect:?} {location}"), format!("{} to {location}", redirect.status.as_u16()))
        }
        Target::Respond { status, .. } => (format!("{:?}", route.target), format!("a fixed {}", status.as_u16())),
        Target::Upstream(destination) => {
            let upstreams: Vec<_> = destination.upstreams().filter_map(|index| snapshot.upstreams.get(index)).collect();
            // How requests are spread among the same servers opens and closes nothing; neither do weights.
            let servers = |upstream: &Arc<upstream::Settings>| {
                let servers: Vec<_> = upstream.servers.iter().map(|member| &member.server).collect();
                format!("{servers:?} {:?}", upstream.host)
            };
            let names: Vec<&str> = upstreams.iter().map(|upstream| &*upstream.name).collect();
            let places: Vec<String> = upstreams.iter().copied().map(servers).collect();
            (places.join(" or "), format!("let through to {}", names.join(" or ")))
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} https://{}{}", self.method, self.host, self.path)
    }
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
