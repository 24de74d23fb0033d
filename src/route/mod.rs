//! Which route a request takes: host, then path, then method (R9, R10). Pure; built once for each snapshot.
//!
//! In: a host, a canonical path, a method. Out: [`Found`], or [`Miss`], which says which refusal it is.
//! - *Host*: routes that name the host come first; routes without hosts are asked only where none of those matches
//!   the path. Our own endpoints belong to every host; `livez` even to unknown ones.
//! - *Path*: literal before `{id}` before `{*rest}`, segment by segment; literals are compared decoded.
//! - *Method*: the most specific path decides first (405, never a less specific path). A route that names the method
//!   comes before one that names none; GET covers HEAD.
//!
//! Two routes that would serve the same request are a [`RouteConflict`], so the order in the file never matters.

use std::{borrow::Cow, collections::HashMap, fmt, ops::Range, sync::Arc, time::Duration};

use ahash::RandomState;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use self::{
    path::{CanonicalPath, PathError, PathPattern, Quirks, decode},
    readings::readings,
    rewrite::PathRewrite,
    trie::{Blind, Entry, Match, Node, Pick, Ranges, folded},
};
use crate::{
    clock::Timestamp,
    host::{Authority, Host},
    policy::{Access, Cors, Csrf, HeaderEdits},
    rate_limit,
};

pub mod host;
pub mod path;
mod readings;
pub mod rewrite;
pub mod siblings;
mod split;
mod trie;

pub use self::split::{Destination, Split};

/// One `[[route]]`, or one of our own endpoints, ready to use.
#[derive(Debug)]
pub struct Route {
    /// Its name in configuration, logs and metrics.
    pub name: Arc<str>,
    /// Its number among the routes of one snapshot; indexes per-route metrics.
    pub index: usize,
    /// Hosts it answers for; empty: every known host.
    pub hosts: Box<[Host]>,
    /// Path patterns, each unique in its host.
    pub paths: Box<[PathPattern]>,
    /// Methods; `None`: all that the gateway serves.
    pub methods: Option<Box<[Method]>>,
    /// How one gets through.
    pub access: Access,
    /// Whose cross-site requests count (R31).
    pub csrf: Csrf,
    /// Who may read answers across origins (R32).
    pub cors: Option<Cors>,
    /// Where it goes.
    pub target: Target,
    /// What it may use.
    pub limits: RouteLimits,
    /// How many requests it lets through.
    pub rate_limits: rate_limit::Limits,
    /// `upgrade = ["websocket"]` (R17).
    pub websocket: bool,
    /// `mode = { report_until }`: until then who may not pass does so all the same, and is reported.
    pub report_until: Option<Timestamp>,
    /// `cache = "public"`: answers to authenticated requests may stay `public` (R16).
    pub cache_public: bool,
    /// The path that its upstream gets; `None`: the one that was decided on.
    pub rewrite: Option<Box<PathRewrite>>,
    /// What is changed of the headers that its upstream gets.
    pub request_headers: Option<Box<HeaderEdits>>,
    /// What is changed of the headers of its upstream's answers.
    pub response_headers: Option<Box<HeaderEdits>>,
}

impl Route {
    /// One with nothing but what it must have: for every host and method, without a path yet and without limits or
    /// changes of its own.
    pub fn new(name: impl Into<Arc<str>>, access: Access, target: Target) -> Self {
        Self {
            name: name.into(),
            index: 0,
            hosts: Box::default(),
            paths: Box::default(),
            methods: None,
            access,
            csrf: Csrf::default(),
            cors: None,
            target,
            limits: RouteLimits::default(),
            rate_limits: rate_limit::Limits::default(),
            websocket: false,
            report_until: None,
            cache_public: false,
            rewrite: None,
            request_headers: None,
            response_headers: None,
        }
    }

    /// Whether who may not pass is let through and reported, at this moment.
    pub fn only_reports(&self, now: Timestamp) -> bool {
        self.report_until.is_some_and(|until| now < until)
    }
}

/// Bounds of one route; `None` takes the gateway's or the upstream's.
#[derive(Debug, Default)]
pub struct RouteLimits {
    /// Bytes of request body.
    pub max_body: Option<u64>,
    /// How long the steps of an exchange may take.
    pub timeouts: Option<Box<Timeouts>>,
    /// Whether nothing that the upstream may have had is ever sent again.
    pub no_retry: bool,
    /// Whether an answer of known length that has begun outlasts the session or token behind it (R28).
    pub keep_downloads: bool,
    /// Whether trailers of its requests go upstream (R18).
    pub request_trailers: bool,
}

/// How long the steps of an exchange with an upstream may take; `None` takes the upstream's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Option<Duration>,
    /// To the first byte of the answer.
    pub response: Option<Duration>,
    /// Between two bytes of the answer.
    pub read: Option<Duration>,
    /// From the verdict to the last byte of the answer, whoever is waited for; `None`: as long as it takes. A tunnel is
    /// no answer.
    pub total: Option<Duration>,
}

/// Where a permitted request goes.
#[derive(Debug)]
pub enum Target {
    /// One of our own endpoints under `login.prefix`.
    Own(Own),
    /// A redirect.
    Redirect(Redirect),
    /// A fixed answer.
    Respond {
        /// 200 to 599.
        status: StatusCode,
        /// Content type of `body`.
        content_type: HeaderValue,
        /// The body.
        body: bytes::Bytes,
    },
    /// An upstream.
    Upstream(Destination),
}

/// Where a redirect leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// An absolute URL or an absolute path; where the route rewrites the path, what stands before that: a scheme and a
    /// host, or nothing.
    pub to: HeaderValue,
    /// Whether the request's query is added.
    pub keep_query: bool,
}

impl Redirect {
    /// The value of `Location` for a path that was `asked` for and, maybe, `rewritten`. The host is never of the
    /// client's choice, and a canonical path begins with one slash.
    pub fn location(&self, asked: &CanonicalPath, rewritten: Option<&CanonicalPath>) -> HeaderValue {
        let query = asked.query().filter(|_| self.keep_query);
        if rewritten.is_none() && query.is_none() {
            return self.to.clone();
        }
        let mut location = self.to.as_bytes().to_vec();
        location.extend_from_slice(rewritten.map_or("", CanonicalPath::as_str).as_bytes());
        if let Some(query) = query {
            location.push(b'?');
            location.extend_from_slice(query.as_bytes());
        }
        // What a request target may hold, a header value may hold too.
        HeaderValue::try_from(location).unwrap_or_else(|_| self.to.clone())
    }
}

/// Our own endpoints (DESIGN, Surface).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Own {
    /// `assertion-jwks.json`: what assertions are verified with.
    AssertionKeys,
    /// `livez`: answers on any host.
    Livez,
    /// `login`: page (GET) and form or JSON (POST).
    Login,
    /// `logout`: confirmation (GET) and act (POST).
    Logout,
    /// Everything else under the prefix: never an upstream's.
    Nothing,
    /// `resend`: a form that came too late, shown (GET) and sent (POST).
    Resend,
    /// `session`: who am I.
    Session,
    /// `sessions`: where am I signed in, and no more there.
    Sessions,
    /// `token`: an access token for a session, a password or an API key.
    Token,
    /// `jwks.json`: the keys that our own tokens are verified with.
    TokenKeys,
    /// `token/refresh`: the next one.
    TokenRefresh,
    /// `token/revoke`: no more of them.
    TokenRevoke,
}

impl Own {
    /// The word for people: the last part of its path.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AssertionKeys => "assertion-jwks.json",
            Self::Livez => "livez",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Nothing => "nothing",
            Self::Resend => "resend",
            Self::Session => "session",
            Self::Sessions => "sessions",
            Self::Token => "token",
            Self::TokenKeys => "jwks.json",
            Self::TokenRefresh => "token/refresh",
            Self::TokenRevoke => "token/revoke",
        }
    }
}

/// All routes of one snapshot, ready to be searched.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    sites: Sites,
    /// Routes without hosts.
    any_host: Site,
    /// What answers on unknown hosts too: `livez`.
    everywhere: Node,
    tolerated: Quirks,
}

/// The known hosts with their routes.
#[derive(Debug, Default)]
struct Sites {
    all: Vec<(Host, Site)>,
    /// Where in `all` each host stands; asked only where looking through them would take longer.
    index: HashMap<Host, usize, RandomState>,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct Site {
    exact: Node,
    /// The same without case; filled only if some upstream is `case_insensitive`.
    folded: Node,
}

/// A route that serves a request.
#[derive(Debug)]
pub struct Found<'t, 'p> {
    /// The route.
    pub route: &'t Arc<Route>,
    /// What its pattern's parameters stand for.
    pub params: Params<'p>,
    entry: &'t Entry,
}

/// The parameters of a matched pattern.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    names: &'a [Box<str>],
    path: &'a str,
    ranges: Ranges,
}

/// Why no route serves a request.
#[derive(Clone, Debug)]
pub enum Miss {
    /// The path is refused: its readings differ, or it holds what the route's upstream does not declare (400).
    BadPath(PathError),
    /// The path is known, the method is not (405).
    MethodNotAllowed {
        /// What the path allows.
        allow: HeaderValue,
    },
    /// No pattern matches (404).
    NoRoute,
    /// The host is none of ours (421).
    UnknownHost,
}

/// Two routes that would serve the same requests. `Display` names both and says how to mend it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteConflict {
    /// The route that came first.
    pub first: Arc<str>,
    /// The route that came second.
    pub second: Arc<str>,
    /// The second route's pattern.
    pub pattern: String,
    /// The host on which they meet; `None`: every host.
    pub host: Option<Host>,
}

impl RouteTable {
    /// Builds the table. `known_hosts` are those of `server.hosts`; the hosts that routes name are added.
    /// `quirks_of` tells the quirks of a route's upstream.
    ///
    /// # Errors
    /// Every pair of routes that tie, once for each pattern.
    pub fn build(
        routes: Vec<Arc<Route>>,
        known_hosts: &[Host],
        quirks_of: impl Fn(&Route) -> Quirks,
    ) -> Result<Self, Vec<RouteConflict>> {
        let sites = Sites::of(known_hosts.iter().chain(routes.iter().flat_map(|route| &*route.hosts)));
        let tolerated = routes.iter().fold(Quirks::default(), |all, route| all.union(quirks_of(route)));
        let mut table = Self { routes, sites, any_host: Site::default(), everywhere: Node::default(), tolerated };
        let mut conflicts: Vec<RouteConflict> = Vec::new();
        for route in &table.routes {
            let quirks = quirks_of(route);
            for pattern in &*route.paths {
                let entry = || Entry::new(route, pattern, quirks);
                let mut report = |host: Option<&Host>, first: Arc<Route>| {
                    let (first, second) = (Arc::clone(&first.name), Arc::clone(&route.name));
                    let conflict = RouteConflict { first, second, pattern: pattern.to_string(), host: host.cloned() };
                    let same = |other: &RouteConflict| {
                        (&other.first, &other.second, &other.pattern)
                            == (&conflict.first, &conflict.second, &conflict.pattern)
                    };
                    if !conflicts.iter().any(same) {
                        conflicts.push(conflict);
                    }
                };
                let own = matches!(route.target, Target::Own(_));
                if route.hosts.is_empty() && !own {
                    if let Err(first) = table.any_host.insert(pattern, entry(), tolerated) {
                        report(None, first);
                    }
                    continue;
                }
                for (host, site) in &mut table.sites.all {
                    if (own && route.hosts.is_empty() || route.hosts.contains(host))
                        && let Err(first) = site.insert(pattern, entry(), tolerated)
                    {
                        report(Some(host), first);
                    }
                }
                if matches!(route.target, Target::Own(Own::Livez))
                    && let Err(first) = table.everywhere.insert(pattern, entry(), false)
                {
                    report(None, first);
                }
            }
        }
        if conflicts.is_empty() { Ok(table) } else { Err(conflicts) }
    }

    /// The route for a request, or why there is none.
    ///
    /// # Errors
    /// [`Miss`], in this order: unknown host, method that is never served, bad path, no route, method.
    pub fn find<'t: 'p, 'p>(
        &'t self,
        host: &Host,
        path: &'p CanonicalPath,
        method: &Method,
    ) -> Result<Found<'t, 'p>, Miss> {
        let Some((_, site)) = self.sites.get(host.as_str().as_bytes()) else {
            return self.find_everywhere(path, method);
        };
        if is_never_served(method) {
            let matched = self.search(site, path.as_str(), Blind::default());
            let allow = matched.and_then(|found| found.terminal).map_or(ALLOW_ALL, |terminal| terminal.allow.clone());
            return Err(Miss::MethodNotAllowed { allow });
        }
        let hit = match self.hit(site, path.as_str(), method, Blind::default()) {
            Ok(hit) => hit,
            Err(miss) => return Err(path.undeclared(Quirks::default()).map_or(miss, Miss::BadPath)),
        };
        let quirks = hit.entry.quirks;
        if let Some(error) = path.undeclared(quirks) {
            return Err(Miss::BadPath(error));
        }
        if !quirks.is_empty() && !self.is_one_in_all_readings(site, path.as_str(), method, &hit) {
            return Err(Miss::BadPath(PathError::Ambiguous));
        }
        Ok(hit.found(path.as_str()))
    }

    /// The quirks of all upstreams together: what [`CanonicalPath::of`] lets pass for `find` to judge.
    pub const fn tolerated(&self) -> Quirks {
        self.tolerated
    }

    /// Whether the host is one of ours (R10).
    pub fn is_known(&self, host: &Host) -> bool {
        self.sites.get(host.as_str().as_bytes()).is_some()
    }

    /// All known hosts, in no order.
    pub fn known_hosts(&self) -> impl Iterator<Item = &Host> {
        self.sites.all.iter().map(|(host, _)| host)
    }

    /// All routes, ordered by their index.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The authority that a `Host` field's bytes spell, if it is a known host in canonical spelling: no allocation.
    pub fn authority(&self, text: &[u8]) -> Option<Authority> {
        if let Some((host, _)) = self.sites.get(text) {
            return Some(Authority { host: host.clone(), port: None });
        }
        let (host, port) = std::str::from_utf8(text).ok()?.rsplit_once(':')?;
        let (host, _) = self.sites.get(host.as_bytes())?;
        let plain = matches!(port.len(), 1..=5) && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| plain && *port != 0)?;
        Some(Authority { host: host.clone(), port: Some(port) })
    }

    fn find_everywhere<'t: 'p, 'p>(&'t self, path: &'p CanonicalPath, method: &Method) -> Result<Found<'t, 'p>, Miss> {
        let found = self.everywhere.find(path.as_str(), Blind::default()).ok_or(Miss::UnknownHost)?;
        match found.terminal.map_or(Pick::None, |terminal| terminal.pick(method)) {
            Pick::One(entry) => Ok(Hit { entry, ranges: found.ranges }.found(path.as_str())),
            Pick::None | Pick::Several => Err(Miss::UnknownHost),
        }
    }

    #[inline]
    fn search<'a>(&'a self, site: &'a Site, path: &str, blind: Blind) -> Option<Match<'a>> {
        if !path.starts_with('/') {
            return None;
        }
        let own = site.tree(blind.case).find(path, blind);
        own.or_else(|| self.any_host.tree(blind.case).find(path, blind))
    }

    #[inline]
    fn hit<'a>(&'a self, site: &'a Site, path: &str, method: &Method, blind: Blind) -> Result<Hit<'a>, Miss> {
        let Some(Match { terminal: Some(terminal), rival, ranges }) = self.search(site, path, blind) else {
            return Err(Miss::NoRoute);
        };
        let entry = match terminal.pick(method) {
            Pick::One(entry) => entry,
            Pick::None => return Err(Miss::MethodNotAllowed { allow: terminal.allow.clone() }),
            Pick::Several => return Err(Miss::BadPath(PathError::Ambiguous)),
        };
        match rival.map(|rival| rival.pick(method)) {
            Some(Pick::One(other)) if !Arc::ptr_eq(&other.route, &entry.route) => {
                Err(Miss::BadPath(PathError::Ambiguous))
            }
            Some(Pick::Several) => Err(Miss::BadPath(PathError::Ambiguous)),
            None | Some(Pick::None | Pick::One(_)) => Ok(Hit { entry, ranges }),
        }
    }

    /// Whether the upstream, however it reads the path, reads one that we would have treated alike (R8). Parameters
    /// that no rule looks at decide nothing and are not compared: else `/files/{*rest}` would be of no use.
    fn is_one_in_all_readings(&self, site: &Site, path: &str, method: &Method, plain: &Hit<'_>) -> bool {
        let quirks = plain.entry.quirks;
        let blind = Blind { case: quirks.case_insensitive, slash: quirks.trailing_slash };
        let Some(readings) = readings(path, quirks) else {
            return false;
        };
        readings.iter().all(|reading| {
            self.hit(site, reading, method, blind).is_ok_and(|hit| {
                let same_value = |name: &str| {
                    let read = hit.value(reading, name);
                    let read = if blind.case { read.map(|value| folded(&value).into()) } else { read };
                    plain.value(path, name) == read
                };
                Arc::ptr_eq(&hit.entry.route, &plain.entry.route)
                    && plain.entry.rule_names.iter().all(|name| same_value(name))
            })
        })
    }
}

impl Found<'_, '_> {
    /// What the upstream gets instead of `path`, which was found; `None`: the path itself.
    ///
    /// # Errors
    /// [`PathError`] where the route's rewriting makes nothing of it that its upstream would read in one way only
    /// (400).
    pub fn rewritten(&self, path: &CanonicalPath) -> Result<Option<CanonicalPath>, PathError> {
        self.route.rewrite.as_deref().map(|rewrite| rewrite.apply(self, path)).transpose()
    }

    /// Of the route's upstream.
    const fn quirks(&self) -> Quirks {
        self.entry.quirks
    }

    /// Whether the route's rules look at a parameter.
    fn is_looked_at(&self, name: &str) -> bool {
        self.entry.rule_names.iter().any(|known| **known == *name)
    }
}

impl<'a> Params<'a> {
    /// What a parameter stands for, in the canonical path's own encoding.
    pub(crate) fn as_sent(&self, name: &str) -> Option<&'a str> {
        let at = self.names.iter().position(|known| **known == *name)?;
        self.path.get(ends(self.ranges.get(at)?))
    }

    /// What a parameter stands for, decoded once (R6); `None` if the pattern has none of that name.
    pub fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.names.iter().position(|known| **known == *name)?;
        Some(decode(self.path.get(ends(self.ranges.get(at)?))?))
    }

    /// Every parameter with what it stands for, decoded once.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let values = self.ranges.iter().map(|range| decode(self.path.get(ends(range)).unwrap_or_default()));
        self.names.iter().map(|name| &**name).zip(values)
    }
}

impl fmt::Display for RouteConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "routes `{}` and `{}` both match `{}`", self.first, self.second, self.pattern)?;
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        f.write_str("; give one of them other methods, another host or another path")
    }
}

/// A route, and where in the path its parameters lie.
struct Hit<'a> {
    entry: &'a Entry,
    ranges: Ranges,
}

impl<'t> Hit<'t> {
    fn found<'p>(self, path: &'p str) -> Found<'t, 'p>
    where
        't: 'p,
    {
        let Self { entry, ranges } = self;
        Found { route: &entry.route, params: Params { names: &entry.names, path, ranges }, entry }
    }

    fn value<'p>(&self, path: &'p str, name: &str) -> Option<Cow<'p, str>> {
        let at = self.entry.names.iter().position(|known| **known == *name)?;
        Some(decode(path.get(ends(self.ranges.get(at)?))?))
    }
}

impl Entry {
    fn new(route: &Arc<Route>, pattern: &PathPattern, quirks: Quirks) -> Self {
        let names: Box<[Box<str>]> = pattern.parameters().map(Into::into).collect();
        let looked_at = |name: &str| route.access.path_parameters().any(|parameter| parameter == name);
        let rule_names = names.iter().filter(|name| looked_at(name)).cloned().collect();
        Self { route: Arc::clone(route), quirks, names, rule_names }
    }
}

impl Sites {
    fn of<'h>(hosts: impl Iterator<Item = &'h Host>) -> Self {
        let mut sites = Self::default();
        for host in hosts {
            let next = sites.all.len();
            if *sites.index.entry(host.clone()).or_insert(next) == next {
                sites.all.push((host.clone(), Site::default()));
            }
        }
        sites
    }

    /// The host of this spelling.
    fn get(&self, text: &[u8]) -> Option<&(Host, Site)> {
        if self.all.len() <= trie::FEW {
            return self.all.iter().find(|(host, _)| host.as_str().as_bytes() == text);
        }
        self.all.get(*self.index.get(std::str::from_utf8(text).ok()?)?)
    }
}

impl Site {
    fn insert(&mut self, pattern: &PathPattern, entry: Entry, tolerated: Quirks) -> Result<(), Arc<Route>> {
        if tolerated.case_insensitive {
            self.folded.insert(pattern, entry.clone(), true)?;
        }
        self.exact.insert(pattern, entry, false)
    }

    const fn tree(&self, fold: bool) -> &Node {
        if fold { &self.folded } else { &self.exact }
    }
}

impl Route {
    /// Whether a WebSocket may be opened here.
    pub const fn opens_tunnels(&self) -> bool {
        self.websocket && matches!(self.target, Target::Upstream(_))
    }

    /// Whether this field of an answer does not pass as it came.
    pub fn edits_answers(&self, name: &HeaderName) -> bool {
        self.response_headers.as_ref().is_some_and(|edits| edits.replaced.contains(name))
    }
}

/// R11. In any case: `trace` is another method to us, and the same one to backends that fold methods.
fn is_never_served(method: &Method) -> bool {
    if matches!(*method, Method::GET | Method::POST | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS) {
        return false;
    }
    ["CONNECT", "TRACE", "TRACK"].iter().any(|never| method.as_str().eq_ignore_ascii_case(never))
}

fn ends(range: &Range<u16>) -> Range<usize> {
    usize::from(range.start)..usize::from(range.end)
}

/// `Allow` where any method is served that the gateway serves at all.
const ALLOW_ALL: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

#[cfg(test)]
mod tests;
