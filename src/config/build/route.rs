//! `[[route]]`: who gets in, how, and where to. A route that does not say how one authenticates is refused (R1), as is
//! whatever would let a rule pass by accident: mixed realms (R5), rules that anonymous callers would meet (R4), path
//! parameters that some of its patterns lack (R6). Our own endpoints become routes here too.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{
    HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};

use super::{
    Build,
    source::{self, Source, Sources},
};
use crate::{
    authn::dpop::{DPOP, DPOP_NONCE},
    clock::{Clock, Timestamp},
    config::{
        decode::{At, Named, OneOrMany},
        file::{self, Cache, File, RouteOptions, SubjectForm},
        place::Place,
        report::{did_you_mean, one_of},
        requirement::Rule,
        scalar::{AuthName, CorsOrigin, Number, Positive, RequestRate, RoutePath},
    },
    host::Host,
    identity::Factor,
    policy::{Access, AccessRule, Cors, Csrf, ProofRule, Requirement, Requirements},
    rate_limit::{self, Concurrency, Counted, Rate},
    route::{Destination, Own, Route, RouteLimits, RouteTable, Split, Target, Timeouts, path::Quirks},
    upstream,
};

/// Longer than this nobody reads reports.
const LONGEST_REPORT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What is the same for all routes.
struct Surroundings<'a> {
    defaults: Option<&'a RouteOptions>,
    upstreams: &'a [&'a str],
    sources: &'a Sources,
    prefix: &'a str,
    /// In which API keys come, if there are any.
    api_key_header: Option<HeaderName>,
    /// Whether there are tokens of our own.
    tokens: bool,
    /// Whether `identity.subject = "realm:sub"`.
    qualified: bool,
    /// Whether upstreams are sent assertions.
    asserts: bool,
    /// Whether `server.hosts` names any.
    hosts_known: bool,
}

impl Build<'_> {
    /// Every route, ours at the end, and every known host.
    pub(super) fn routes(
        &mut self,
        file: &File,
        upstreams: &[&str],
        sources: &Sources,
    ) -> (Option<Vec<Arc<Route>>>, Vec<Host>) {
        let Some(written) = file.route.0.as_ref().map(|list| &list.0) else {
            return (None, Vec::new());
        };
        let server_hosts = file.server.0.iter().flat_map(|server| &server.hosts).map(|host| host.value.clone());
        let mut known: BTreeSet<Host> = server_hosts.collect();
        let surroundings = Surroundings {
            defaults: file.route_defaults.0.as_ref().map(|section| &section.table),
            upstreams,
            sources,
            prefix: source::prefix(file),
            api_key_header: super::server::api_key_header(file),
            tokens: super::token::written(file).is_some(),
            qualified: file
                .identity
                .0
                .as_ref()
                .is_some_and(|identity| matches!(identity.subject, Some(SubjectForm::RealmSubject))),
            asserts: file.identity.0.as_ref().is_some_and(|identity| identity.assertion.is_some()),
            hosts_known: !known.is_empty(),
        };
        let route_hosts = written.iter().filter_map(|route| route.value.r#match.value.host.as_ref());
        known.extend(route_hosts.flat_map(|hosts| &hosts.0).map(|host| host.value.clone()));
        let known: Vec<Host> = known.into_iter().collect();

        self.unique("route", written.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place)));
        self.judge_defaults(file);
        let built: Vec<Option<Route>> =
            written.iter().enumerate().map(|(index, at)| self.route(index, at, &surroundings)).collect();
        let mut routes: Option<Vec<Route>> = built.into_iter().collect();
        if let Some(routes) = &mut routes {
            own_routes(&surroundings, routes);
        }
        (routes.map(|routes| routes.into_iter().map(Arc::new).collect()), known)
    }

    /// Puts the routes into their table; two that would serve the same requests are a problem (R9).
    pub(super) fn table(
        &mut self,
        file: &File,
        routes: Vec<Arc<Route>>,
        known_hosts: &[Host],
        upstreams: &[Arc<upstream::Settings>],
    ) -> Option<RouteTable> {
        let quirks = |route: &Route| match &route.target {
            // A path is decided on as every side could read it.
            Target::Upstream(destination) => destination
                .upstreams()
                .filter_map(|index| upstreams.get(index))
                .fold(Default::default(), |all: Quirks, upstream| all.union(upstream.path_quirks)),
            Target::Own(_) | Target::Redirect(_) | Target::Respond { .. } => Default::default(),
        };
        let conflicts = match RouteTable::build(routes, known_hosts, quirks) {
            Ok(table) => return Some(table),
            Err(conflicts) => conflicts,
        };
        for conflict in conflicts {
            let second =
                file.route.0.iter().flat_map(|list| &list.0).find(|at| at.value.name.value.0 == *conflict.second);
            let place = second.map(|at| {
                let At { value: matched, place } = &at.value.r#match;
                let path = matched.path.0.iter().find(|path| path.value.pattern.to_string() == conflict.pattern);
                path.map_or(place, |path| &path.place)
            });
            if let Some(place) = place {
                self.findings.problem(place, conflict.to_string(), "routes that differ in host, path or methods (R9)");
            }
        }
        None
    }

    /// What every route starts from should not be what nobody notices.
    fn judge_defaults(&mut self, file: &File) {
        let auth = file.route_defaults.0.as_ref().and_then(|defaults| defaults.auth.as_ref());
        if let Some(At { value, place }) = auth
            && value.iter().any(|name| name.value == AuthName::None)
        {
            self.findings.warn(place, "every route that does not say `auth` itself is open to everybody");
        }
    }

    fn route(&mut self, index: usize, at: &At<file::Route>, around: &Surroundings<'_>) -> Option<Route> {
        let At { value: route, place } = at;
        let At { value: matched, place: match_place } = &route.r#match;
        self.judge_match(matched, match_place, around);
        let methods = self.methods(matched);
        let access = self.access(route, place, around);
        let target = self.target(route, place, around);
        let takes_jwt = matches!(&access, Some(Access::Authenticated(rule)) if !rule.issuers.is_empty());
        let cors = self.cors(route, around, methods.as_deref(), takes_jwt);
        let options = &route.options;
        let inherited = around.defaults;
        let names_nobody = matches!(access, Some(Access::Public { .. }));
        let upgrade = options.upgrade.as_ref().or_else(|| inherited?.upgrade.as_ref());
        let cache = options.cache.or_else(|| inherited?.cache);
        let max_body = options.max_body.or_else(|| inherited?.max_body);
        let request_headers = options.request_headers.as_ref().or_else(|| inherited?.request_headers.as_ref());
        let response_headers = options.response_headers.as_ref().or_else(|| inherited?.response_headers.as_ref());
        let keep_downloads = options.keep_downloads.or_else(|| inherited?.keep_downloads);
        let request_trailers = options.request_trailers.or_else(|| inherited?.request_trailers);
        Some(Route {
            name: route.name.value.0.as_str().into(),
            index,
            hosts: matched.host.iter().flat_map(|hosts| &hosts.0).map(|host| host.value.clone()).collect(),
            paths: matched.path.0.iter().map(|path| path.value.pattern.clone()).collect(),
            methods,
            access: access?,
            csrf: csrf(options.csrf.as_ref().or_else(|| inherited?.csrf.as_ref())),
            cors: cors?,
            target: target?,
            limits: RouteLimits {
                max_body: max_body.map(|size| size.0),
                timeouts: timeouts(options, inherited),
                no_retry: options.retry.or_else(|| inherited?.retry) == Some(false),
                keep_downloads: keep_downloads.unwrap_or(false),
                request_trailers: request_trailers.unwrap_or(false),
            },
            rate_limits: rate_limits(
                options.rate_limit.as_ref().or_else(|| inherited?.rate_limit.as_ref()),
                options.max_concurrent.as_ref().or_else(|| inherited?.max_concurrent.as_ref()),
            ),
            report_until: route.mode.as_ref().and_then(|mode| self.report_until(mode, names_nobody)),
            websocket: upgrade.is_some_and(|list| !list.is_empty()),
            cache_public: matches!(cache, Some(Cache::Public)),
            rewrite: self.path_rewrite(route),
            request_headers: self.header_edits(request_headers),
            response_headers: self.header_edits(response_headers),
        })
    }

    /// `mode = { report_until }`. A report that never ends is no plan but an open door.
    fn report_until(&mut self, mode: &At<file::Mode>, open: bool) -> Option<Timestamp> {
        let At { value: until, place } = &mode.value.report_until;
        if open {
            self.findings.problem(
                &mode.place,
                "`mode` on a route with auth = [\"none\"]",
                "a route that authenticates",
            );
        }
        let (until, now) = (until.0, Clock::system().now());
        if until <= now {
            self.findings.warn(place, "that time is over: the route enforces its rules, and `mode` can go");
        } else {
            self.findings.warn(place, "until then whoever may not pass does so all the same, and is reported");
        }
        if until.since(now) > LONGEST_REPORT {
            self.findings
                .unfit_for_production(place, "a route that reports for more than 90 days never enforces (R35)");
        }
        Some(until)
    }

    fn judge_match(&mut self, matched: &file::Match, place: &Place, around: &Surroundings<'_>) {
        if matched.path.0.is_empty() {
            self.findings.problem(place, "no path", "at least one, such as \"/{*rest}\" for all");
        }
        match &matched.host {
            Some(OneOrMany(hosts)) if hosts.is_empty() => {
                self.findings.problem(
                    place,
                    "an empty list of hosts",
                    "at least one, or no `host` for every known one",
                );
            }
            None if !around.hosts_known => {
                self.findings
                    .problem(place, "no `host`, and no `server.hosts`", "one of the two")
                    .help("requests to hosts that nobody named are refused (R10): hosts = [\"app.example.com\"]")
                    .depends(&["server"]);
            }
            Some(_) | None => {}
        }
        for path in &matched.path.0 {
            // The canonical spelling: `/%5Fauth` is `/_auth`.
            let text = path.value.pattern.to_string();
            let rest = text.strip_prefix(around.prefix);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                self.findings
                    .problem(&path.place, format!("a path under `{}`", around.prefix), "a path elsewhere")
                    .help("the gateway's own endpoints live there; `login.prefix` moves them")
                    .depends(&["login"]);
            }
        }
    }

    fn methods(&mut self, matched: &file::Match) -> Option<Box<[Method]>> {
        let At { value, place } = matched.methods.as_ref()?;
        if value.is_empty() {
            self.findings.problem(place, "an empty list", "at least one method, or no `methods` for all");
        }
        Some(value.as_slice().into())
    }

    /// How one gets through: `auth`, `optional`, `require` and what belongs to them.
    fn access(&mut self, route: &file::Route, place: &Place, around: &Surroundings<'_>) -> Option<Access> {
        let own = &route.options;
        let inherited = around.defaults;
        let Some(At { value: names, place: auth_place }) = own.auth.as_ref().or_else(|| inherited?.auth.as_ref())
        else {
            self.findings
                .problem(&place.inside("auth"), "no `auth`, and none in [route_defaults]", AUTH_EXAMPLE)
                .help("a route says who may come in; auth = [\"none\"] opens it to everybody (R1)")
                .depends(&["route_defaults"]);
            return None;
        };
        if names.is_empty() {
            self.findings.problem(auth_place, "an empty list", AUTH_EXAMPLE);
            return None;
        }
        let public = names.iter().any(|name| name.value == AuthName::None);
        if public && names.len() > 1 {
            self.findings
                .problem(auth_place, "`none` beside others", "`none` alone, or the others")
                .help("to let callers without a credential through: optional = true");
            return None;
        }
        if public {
            return self.public(own, inherited);
        }
        if let Some(written) = own.pass_authorization.as_ref().filter(|written| written.value) {
            self.findings
                .problem(
                    &written.place,
                    "`pass_authorization` where callers authenticate",
                    "it on auth = [\"none\"] only",
                )
                .help("a verified `Authorization` goes upstream with forward_credential = true");
        }
        self.authenticated(route, names, auth_place, around)
    }

    fn public(&mut self, own: &RouteOptions, inherited: Option<&RouteOptions>) -> Option<Access> {
        let misplaced = [
            own.require.as_ref().map(|at| ("require", &at.place)),
            own.proof.as_ref().filter(|at| at.value != ProofRule::None).map(|at| ("proof", &at.place)),
            own.optional.as_ref().filter(|at| at.value).map(|at| ("optional", &at.place)),
            own.forward_credential.as_ref().filter(|at| at.value).map(|at| ("forward_credential", &at.place)),
        ];
        for (key, place) in misplaced.into_iter().flatten() {
            self.findings.problem(
                place,
                format!("`{key}` on a route with auth = [\"none\"]"),
                "a route that authenticates",
            );
        }
        let pass = own.pass_authorization.as_ref().or_else(|| inherited?.pass_authorization.as_ref());
        Some(Access::Public { pass_authorization: pass.is_some_and(|at| at.value) })
    }

    fn authenticated(
        &mut self,
        route: &file::Route,
        names: &[At<AuthName>],
        auth_place: &Place,
        around: &Surroundings<'_>,
    ) -> Option<Access> {
        let session = names.iter().find(|name| name.value == AuthName::Session);
        let mut issuers = Vec::new();
        for name in names {
            if let Some(index) = self.issuer_index(name, around.sources)
                && !issuers.contains(&index)
            {
                issuers.push(index);
            }
        }
        if let Some(session) = session.filter(|_| around.sources.session.is_empty()) {
            self.findings
                .problem(&session.place, "`session`, but no way to open one", "a source of sessions")
                .help("[[user]], [[login.provider]], or an [[admin.token]] that allows `sessions.create`")
                .depends(&["login", "user", "admin"]);
        }
        let api_key = names.iter().find(|name| name.value == AuthName::ApiKey);
        if let Some(written) = api_key.filter(|_| around.sources.keys.is_empty()) {
            self.findings
                .problem(&written.place, "`api_key`, but no key", "an [[api_key]]")
                .help(
                    "`portcullis keys make` prints one; or let an [[admin.token]] make some: allow = [\"keys.create\"]",
                )
                .depends(&["api_key", "admin"]);
        }
        let mut authorities = Vec::new();
        for At { value, place } in names {
            if let AuthName::Mtls(wanted) = value
                && let Some(index) = self.authority_index(wanted.as_deref(), place, around.sources)
                && !authorities.contains(&index)
            {
                authorities.push(index);
            }
        }
        let through_certificate = authorities.iter().filter_map(|index| around.sources.authorities.get(*index));
        let asked = issuers.iter().filter_map(|index| around.sources.issuers.get(*index));
        let asked: Vec<&str> = asked.filter(|issuer| issuer.introspects).map(|issuer| &*issuer.name).collect();
        if let [_, second, ..] = asked[..] {
            let found = format!("a second issuer with `introspection`, `{second}`");
            self.findings
                .problem(auth_place, found, "one at most")
                .help("an opaque token does not say whose it is, and nobody else is to see it: write two routes");
        }
        let through_key = around.sources.keys.iter().filter(|_| api_key.is_some());
        let through_session = around.sources.session.iter().filter(|_| session.is_some());
        let through_jwt = issuers.iter().filter_map(|index| around.sources.issuers.get(*index));
        let through_jwt = through_jwt.flat_map(|issuer| around.sources.behind(issuer));
        let sources: Vec<&Source> =
            through_session.chain(through_jwt).chain(through_key).chain(through_certificate).collect();
        self.judge_realms(&sources, auth_place, around);

        let own = &route.options;
        let inherited = around.defaults;
        let optional = own.optional.as_ref().or_else(|| inherited?.optional.as_ref());
        let require = own.require.as_ref().or_else(|| inherited?.require.as_ref());
        let require = match require {
            Some(require) => self.requirements(require, route, &sources, optional, around)?,
            None => Requirements::default(),
        };
        let named = require.any.iter().chain(&require.all).filter_map(|requirement| match requirement {
            Requirement::Mtls { ca } => Some(ca.as_deref()),
            Requirement::Claim { .. }
            | Requirement::Email(_)
            | Requirement::Group(_)
            | Requirement::Ip(_)
            | Requirement::PathEquals { .. }
            | Requirement::Role(_)
            | Requirement::Scope(_)
            | Requirement::User(_) => None,
        });
        // Unknown names are noted where the rules are judged.
        let certificates = named.filter_map(|ca| around.sources.authority(ca)).collect::<BTreeSet<_>>();
        let forward = own.forward_credential.as_ref().or_else(|| inherited?.forward_credential.as_ref());
        let proof = self.proof(own, inherited, &issuers);
        Some(Access::Authenticated(AccessRule {
            session: session.is_some(),
            api_key: api_key.and_then(|_| around.api_key_header.clone()),
            issuers: issuers.into(),
            mtls: authorities.into(),
            certificates: certificates.into_iter().collect(),
            proof,
            optional: optional.is_some_and(|at| at.value),
            require,
            forward_credential: forward.is_some_and(|at| at.value),
            touch: own.touch.or_else(|| inherited?.touch).unwrap_or(true),
        }))
    }

    /// `proof`: of tokens, so there must be some. One from the defaults concerns the routes that take them.
    fn proof(&mut self, own: &RouteOptions, inherited: Option<&RouteOptions>, issuers: &[usize]) -> ProofRule {
        let Some(written) = own.proof.as_ref().or_else(|| inherited?.proof.as_ref()) else {
            return ProofRule::None;
        };
        if issuers.is_empty() && own.proof.is_some() && written.value != ProofRule::None {
            self.findings
                .problem(&written.place, "`proof` where no tokens count", "it beside `jwt` in `auth`")
                .help("a session or an API key counts for whoever holds it; only tokens can be bound (RFC 7800)");
        }
        written.value
    }

    /// The issuer that `jwt` or `jwt:<name>` means; `None` for other names, and after a problem.
    pub(super) fn issuer_index(&mut self, name: &At<AuthName>, sources: &Sources) -> Option<usize> {
        let At { value, place } = name;
        let wanted = match value {
            AuthName::Jwt(wanted) => wanted,
            AuthName::ApiKey | AuthName::Mtls(_) | AuthName::None | AuthName::Session => return None,
        };
        let names = || sources.issuers.iter().map(|issuer| &*issuer.name);
        let Some(wanted) = wanted else {
            if sources.issuers.len() == 1 {
                return Some(0);
            }
            let found = format!("`jwt`, and {} issuers", sources.issuers.len());
            let full: Vec<String> = names().map(|name| format!("jwt:{name}")).collect();
            let expected = match full.is_empty() {
                true => String::from("a [[jwt.issuer]]"),
                false => one_of(full.iter().map(String::as_str)),
            };
            self.findings.problem(place, found, expected).depends(&["jwt", "token"]);
            return None;
        };
        let index = names().position(|name| name == wanted);
        if index.is_none() {
            let problem = self.findings.problem(place, format!("`jwt:{wanted}`"), "the name of a [[jwt.issuer]]");
            problem.depends(&["jwt", "token"]);
            if let Some(meant) = did_you_mean(wanted, names()) {
                problem.help(format!("did you mean `jwt:{meant}`?"));
            }
        }
        index
    }

    /// The authority that `mtls` or `mtls:<name>` means; `None` after a problem.
    pub(super) fn authority_index(&mut self, wanted: Option<&str>, place: &Place, sources: &Sources) -> Option<usize> {
        let found = sources.authority(wanted);
        if found.is_none() {
            let names: Vec<String> =
                sources.authorities.iter().map(|authority| format!("mtls:{}", authority.name)).collect();
            let written = wanted.map_or_else(|| String::from("mtls"), |wanted| format!("mtls:{wanted}"));
            let (what, expected) = match &names[..] {
                [] => (format!("`{written}`, but no authority"), String::from("an [[mtls.ca]]")),
                [_, ..] if wanted.is_some() => (format!("`{written}`"), String::from("the name of an [[mtls.ca]]")),
                [_, ..] => {
                    (format!("`mtls`, and {} authorities", names.len()), one_of(names.iter().map(String::as_str)))
                }
            };
            let problem = self.findings.problem(place, what, expected);
            problem.depends(&["mtls"]);
            if let Some(meant) = wanted.and_then(|_| did_you_mean(&written, names.iter().map(String::as_str))) {
                problem.help(format!("did you mean `{meant}`?"));
            }
        }
        found
    }

    /// Subjects and roles of two realms must not meet behind one route unless upstreams can tell them apart (R5).
    fn judge_realms(&mut self, sources: &[&Source], place: &Place, around: &Surroundings<'_>) {
        let realms = source::realms(sources.iter().copied());
        if realms.len() > 1 && !around.qualified {
            let listed: Vec<&str> = realms.into_iter().collect();
            self.findings
                .problem(place, format!("sources of the realms {}", listed.join(" and ")), "one realm")
                .help(
                    "`alice` of one is not `alice` of the other: give sources that share users the same `realm`, or tell \
                     them apart upstream with identity.subject = \"realm:sub\" (R5)",
                )
                .depends(&["jwt", "login", "admin", "identity", "route_defaults"]);
        }
    }

    fn requirements(
        &mut self,
        at: &At<file::Require>,
        route: &file::Route,
        sources: &[&Source],
        optional: Option<&At<bool>>,
        around: &Surroundings<'_>,
    ) -> Option<Requirements> {
        let At { value: require, place } = at;
        let lists = [("any", &require.any), ("all", &require.all), ("none", &require.none)];
        for (key, list) in lists {
            let Some(list) = list else { continue };
            if list.value.is_empty() {
                self.findings.problem(&list.place, format!("an empty `{key}`"), "at least one rule");
            }
            for rule in &list.value {
                self.judge_rule(rule, route, sources);
                if let Requirement::Mtls { ca } = &rule.value.0 {
                    self.authority_index(ca.as_deref(), &rule.place, around.sources);
                    if key == "none" {
                        self.findings
                            .problem(&rule.place, "`mtls` in `none`", "`mtls` in `any` or `all`")
                            .help("whoever has a certificate could leave it at home");
                    }
                }
            }
        }
        let nothing =
            lists.iter().all(|(_, list)| list.is_none()) && require.max_auth_age.is_none() && require.factor.is_none();
        if nothing {
            self.findings.problem(place, "an empty `require`", "`any`, `all`, `none`, `max_auth_age` or `factor`");
        }
        if optional.is_some_and(|optional| optional.value) {
            if let Some(none) = &require.none {
                self.findings.problem(&none.place, "`none` together with optional = true", "one of the two").help(
                    "for a caller without a credential no rule holds, so `none` would let everybody through (R4)",
                );
            } else {
                let message =
                    "with optional = true, callers without a credential still meet no rule and are refused (R4)";
                self.findings.warn(place, message);
            }
        }
        let factor = require.factor.as_ref().and_then(|count| Factor::from_count(count.value.0)).unwrap_or_default();
        if let Some(written) = require.factor.as_ref().filter(|_| factor > Factor::One)
            && !sources.iter().any(|source| source.second_factor)
        {
            let message = "no source of this route's callers can prove two factors: nobody gets through here";
            self.findings.warn(&written.place, message);
        }
        let rules = |list: &Option<At<Vec<At<Rule>>>>| {
            list.iter().flat_map(|list| &list.value).map(|rule| rule.value.0.clone()).collect()
        };
        Some(Requirements {
            any: rules(&require.any),
            all: rules(&require.all),
            none: rules(&require.none),
            max_auth_age: require.max_auth_age.map(|positive| positive.0),
            factor,
        })
    }

    fn judge_rule(&mut self, rule: &At<Rule>, route: &file::Route, sources: &[&Source]) {
        let At { value: Rule(requirement), place } = rule;
        match requirement {
            Requirement::Email(_) => {
                if !sources.is_empty() && !sources.iter().any(|source| source.can_vouch) {
                    self.findings
                        .problem(
                            place,
                            format!("`{requirement}`, but no source whose emails count"),
                            "a verified email",
                        )
                        .help("trust_email = true on the provider says that its emails are right (R6)")
                        .depends(&["login", "jwt", "admin", "user"]);
                }
            }
            Requirement::PathEquals { parameter, .. } => {
                let lacks = |path: &&At<RoutePath>| !path.value.has_parameter(parameter);
                if let Some(lacking) = route.r#match.value.path.0.iter().find(lacks) {
                    let found = format!("`path:{parameter}`, which {:?} does not have", lacking.value.text);
                    self.findings.problem(place, found, format!("`{{{parameter}}}` in every path of the route (R6)"));
                }
            }
            Requirement::Claim { .. }
            | Requirement::Group(_)
            | Requirement::Ip(_)
            | Requirement::Mtls { .. }
            | Requirement::Role(_)
            | Requirement::Scope(_)
            | Requirement::User(_) => {}
        }
    }

    /// Where it goes: exactly one of `upstream`, `split`, `respond`, `redirect`. An upstream of the defaults yields to
    /// the others.
    fn target(&mut self, route: &file::Route, place: &Place, around: &Surroundings<'_>) -> Option<Target> {
        let own = route.options.upstream.as_ref();
        let written = [own.is_some(), route.split.is_some(), route.respond.is_some(), route.redirect.is_some()];
        if written.into_iter().filter(|written| *written).count() > 1 {
            let found = "more than one of `upstream`, `split`, `respond` and `redirect`";
            self.findings.problem(place, found, "exactly one of them");
            return None;
        }
        if let Some(At { value, .. }) = &route.respond {
            let plain = || HeaderValue::from_static("text/plain; charset=utf-8");
            return Some(Target::Respond {
                status: value.status,
                content_type: value.content_type.clone().unwrap_or_else(plain),
                body: value.body.clone().unwrap_or_default().into(),
            });
        }
        if let Some(redirect) = &route.redirect {
            return Some(Target::Redirect(self.redirect(redirect)));
        }
        if let Some(split) = &route.split {
            return self.split(split, around.upstreams).map(Destination::Split).map(Target::Upstream);
        }
        let Some(name) = own.or_else(|| around.defaults?.upstream.as_ref()) else {
            self.findings
                .problem(place, "no target", "exactly one of `upstream`, `split`, `respond` or `redirect`")
                .depends(&["route_defaults"]);
            return None;
        };
        let At { value, place } = name;
        self.upstream_index(value.0.as_str(), place, around.upstreams).map(Destination::One).map(Target::Upstream)
    }

    fn split(&mut self, split: &At<Named<Number<0, 1_000_000>>>, upstreams: &[&str]) -> Option<Split> {
        let named = &split.value.0;
        self.unique("side", named.iter().map(|(name, _)| (&*name.value, &name.place)));
        let mut sides = Vec::new();
        for (At { value: name, place }, weight) in named {
            let weight = u32::try_from(weight.value.0).unwrap_or(u32::MAX);
            sides.extend(self.upstream_index(name, place, upstreams).map(|index| (index, weight)));
        }
        if sides.len() < named.len() {
            return None;
        }
        let split_of = Split::new(sides.into());
        if split_of.is_none() {
            self.findings.problem(&split.place, "no upstream that gets anything", "a weight above 0");
        }
        split_of
    }

    fn upstream_index(&mut self, name: &str, place: &Place, upstreams: &[&str]) -> Option<usize> {
        let index = upstreams.iter().position(|upstream| *upstream == name);
        if index.is_none() {
            let expected = match upstreams {
                [] => String::from("an [upstream.NAME]"),
                names => one_of(names.iter().copied()),
            };
            let problem = self.findings.problem(place, format!("the upstream {name:?}"), expected);
            problem.depends(&["upstream"]);
            if let Some(meant) = did_you_mean(name, upstreams.iter().copied()) {
                problem.help(format!("did you mean {meant:?}?"));
            }
        }
        index
    }

    /// `None` after a problem; `Some(None)`: other origins are told nothing.
    fn cors(
        &mut self,
        route: &file::Route,
        around: &Surroundings<'_>,
        methods: Option<&[Method]>,
        takes_jwt: bool,
    ) -> Option<Option<Cors>> {
        let inherited = around.defaults;
        let Some(At { value: cors, place }) = route.options.cors.as_ref().or_else(|| inherited?.cors.as_ref()) else {
            return Some(None);
        };
        let At { value: origins, place: origins_place } = &cors.origins;
        let any_origin = origins.iter().any(|origin| matches!(origin, CorsOrigin::Any));
        if origins.is_empty() || (any_origin && origins.len() > 1) {
            self.findings.problem(origins_place, "no origin, or `*` beside others", "origins, or `*` alone");
            return None;
        }
        let credentials = cors.credentials.as_ref().is_some_and(|credentials| credentials.value);
        if any_origin && credentials {
            self.findings
                .problem(place, "`*` with credentials", "named origins")
                .help("any site could read what a logged-in visitor may see (R32)");
            return None;
        }
        // Whoever lets pages send tokens lets them prove that these are theirs, and hear what is wrong with a proof.
        let takes_tokens = cors.headers.contains(&AUTHORIZATION) && takes_jwt;
        let listed = origins.iter().filter_map(|origin| match origin {
            CorsOrigin::Any => None,
            CorsOrigin::One(origin) => Some(origin.as_str().into()),
        });
        let allowed = match (&cors.methods[..], methods) {
            ([], Some(methods)) => join(methods),
            ([], None) => Box::from("GET, HEAD, POST, PUT, PATCH, DELETE"),
            (methods, _) => join(methods),
        };
        Some(Some(Cors {
            origins: listed.collect(),
            any_origin,
            allow_headers: join(&with_dpop(&cors.headers, &[DPOP], takes_tokens)),
            expose_headers: join(&with_dpop(&cors.expose, &[DPOP_NONCE, WWW_AUTHENTICATE], takes_tokens)),
            allow_methods: allowed,
            credentials,
            max_age: cors.max_age.unwrap_or(Duration::from_secs(10 * 60)),
        }))
    }
}

fn csrf(written: Option<&file::Csrf>) -> Csrf {
    match written {
        None | Some(file::Csrf::SameOrigin) => Csrf::SameOrigin,
        Some(file::Csrf::AllowNoOrigin) => Csrf::AllowNoOrigin,
        Some(file::Csrf::Off) => Csrf::Off,
        Some(file::Csrf::Origins(origins)) => {
            Csrf::Origins(origins.iter().map(|origin| origin.0.as_str().into()).collect())
        }
        Some(file::Csrf::Strict) => Csrf::Strict,
    }
}

/// What a route says of time itself; `None`: nothing.
fn timeouts(own: &RouteOptions, inherited: Option<&RouteOptions>) -> Option<Box<Timeouts>> {
    let written =
        |key: fn(&RouteOptions) -> Option<Positive>| key(own).or_else(|| key(inherited?)).map(|positive| positive.0);
    let timeouts = Timeouts {
        connect: written(|options| options.connect_timeout),
        response: written(|options| options.response_timeout),
        read: written(|options| options.read_timeout),
        total: own.total_timeout.or_else(|| inherited?.total_timeout).filter(|total| !total.is_zero()),
    };
    (timeouts != Timeouts::default()).then(|| Box::new(timeouts))
}

/// What DPoP needs beside what is listed.
fn with_dpop(listed: &[HeaderName], needed: &[HeaderName], takes_tokens: bool) -> Vec<HeaderName> {
    let more = needed.iter().filter(|name| takes_tokens && !listed.contains(name));
    listed.iter().chain(more).cloned().collect()
}

fn join(items: &[impl ToString]) -> Box<str> {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ").into()
}

/// `rate_limit` and `max_concurrent`, of a route or of `[limits]`.
pub(super) fn rate_limits(
    rates: Option<&file::RateLimit>,
    concurrent: Option<&file::MaxConcurrent>,
) -> rate_limit::Limits {
    let rates = rates.map_or_else(Vec::new, |file::RateLimit { address, all, caller }| {
        let written = [(Counted::Caller, caller), (Counted::Address, address), (Counted::All, all)];
        let each = written.into_iter().filter_map(|(of, rates)| Some((of, &rates.as_ref()?.0)));
        let each = each.flat_map(|(of, rates)| rates.iter().map(move |at| (of, at.value)));
        each.map(|(of, RequestRate { requests, per })| Rate { of, requests, per }).collect()
    });
    let concurrency = concurrent.map_or_else(Vec::new, |file::MaxConcurrent { address, all, caller }| {
        let written = [(Counted::Caller, caller), (Counted::Address, address), (Counted::All, all)];
        let each = written.into_iter().filter_map(|(of, number)| Some((of, number.as_ref()?.0)));
        each.map(|(of, number)| Concurrency { of, requests: u32::try_from(number).unwrap_or(u32::MAX) }).collect()
    });
    rate_limit::Limits::new(rates, concurrency)
}

/// Our own endpoints under the prefix; whatever else lies there is answered with 404, never by an upstream.
fn own_routes(around: &Surroundings<'_>, routes: &mut Vec<Route>) {
    let Surroundings { prefix, sources, asserts, .. } = *around;
    let public = || Access::Public { pass_authorization: false };
    let authenticated = |issuers: Box<[usize]>, optional: bool, touch: bool| {
        Access::Authenticated(AccessRule { session: true, issuers, optional, touch, ..AccessRule::default() })
    };
    // A caller without a credential gets an answer, too. To ask who one is does not count as being active.
    let anyone = authenticated((0..sources.issuers.len()).collect(), true, false);
    let person = authenticated([].into(), false, true);
    let (get, post) = (Method::GET, Method::POST);
    let both = || Some(Box::from([get.clone(), post.clone()]));
    // A program may say nothing of where it comes from to log in or out; forms have their token besides. To end other
    // sessions it says so (R31).
    let (free, strict) = (Csrf::AllowNoOrigin, Csrf::SameOrigin);
    // Who asks for a token shows a session or an API key; or brings a password or a token in the body.
    let shows = match authenticated([].into(), true, false) {
        Access::Authenticated(rule) => {
            Access::Authenticated(AccessRule { api_key: around.api_key_header.clone(), ..rule })
        }
        public @ Access::Public { .. } => public,
    };
    let tokens = [
        ("token", "/token", Some([post.clone()].into()), shows, strict.clone(), Own::Token),
        ("token-refresh", "/token/refresh", Some([post.clone()].into()), public(), free.clone(), Own::TokenRefresh),
        ("token-revoke", "/token/revoke", Some([post.clone()].into()), public(), free.clone(), Own::TokenRevoke),
        ("jwks", "/jwks.json", Some([get.clone()].into()), public(), free.clone(), Own::TokenKeys),
    ];
    let tokens = tokens.into_iter().filter(|_| around.tokens);
    let endpoints = [
        ("login", "/login", both(), public(), free.clone(), Own::Login),
        ("login-provider", "/login/{provider}", both(), public(), free.clone(), Own::Login),
        ("logout", "/logout", both(), public(), free.clone(), Own::Logout),
        ("resend", "/resend", both(), public(), strict.clone(), Own::Resend),
        ("session", "/session", Some([get.clone()].into()), anyone, free.clone(), Own::Session),
        ("sessions", "/sessions", both(), person, strict, Own::Sessions),
        (
            "assertion-jwks",
            "/assertion-jwks.json",
            Some([get.clone()].into()),
            public(),
            free.clone(),
            Own::AssertionKeys,
        ),
        ("livez", "/livez", Some([get].into()), public(), free.clone(), Own::Livez),
        ("nowhere", "/{*rest}", None, public(), free, Own::Nothing),
    ];
    for (name, path, methods, access, csrf, own) in tokens.chain(endpoints) {
        if own == Own::AssertionKeys && !asserts {
            continue;
        }
        // The prefix is of letters, digits, `-` and `_`: such a pattern always parses.
        let Ok(pattern) = format!("{prefix}{path}").parse() else { continue };
        // A name that no [[route]] can have.
        let name = format!("portcullis:{name}");
        let (index, paths) = (routes.len(), [pattern].into());
        routes.push(Route { index, paths, methods, csrf, ..Route::new(name, access, Target::Own(own)) });
    }
}

const AUTH_EXAMPLE: &str = "auth = [\"session\"], [\"jwt\"], both, or [\"none\"]";
