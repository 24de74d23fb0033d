//! `[upstream.*]` and `[identity]`: where requests go, and what they carry of their caller.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Build, server};
use crate::{
    config::{
        Place,
        decode::{At, Text},
        file::{self, File, OddNames, PathQuirk, RetryReason, SubjectForm},
        scalar::{Name, Positive, ServerUrl},
    },
    headers,
    host::Authority,
    login,
    route::path::Quirks,
    secret::Secret,
    session,
    upstream::{
        HostPolicy, Member, QueueLimits, Retries, Server, Settings,
        health::{Check, Eject, Rules},
        tls::{self, ServerTls, TlsError},
    },
};

impl Build<'_> {
    /// Every upstream, in the order of the file: routes refer to them by number.
    pub(super) fn upstreams(&mut self, file: &File) -> Option<Vec<Arc<Settings>>> {
        let named = &file.upstream.0.as_ref()?.0;
        self.unique("upstream", named.iter().map(|(name, _)| (&*name.value, &name.place)));
        let own = server::addresses(file);
        let mut upstreams = Vec::new();
        for (name, upstream) in named {
            if let Err(unreadable) = Name::parse(&name.value) {
                let problem = self.findings.problem(&name.place, "an unfit name", <Name as Text>::expected());
                if let Some(help) = unreadable.help {
                    problem.help(help);
                }
            }
            let servers = self.servers(file, &upstream.value, &own);
            let tls = upstream.value.tls.as_ref().and_then(|at| self.upstream_tls(at, &servers)).map(Arc::new);
            let queue = self.queue(&upstream.value);
            let retries = upstream.value.retries.as_ref().and_then(|at| self.retries(at));
            upstreams.push(Arc::new(Settings {
                tls,
                retries,
                queue,
                ..settings(&name.value, &upstream.value, servers)
            }));
        }
        Some(upstreams)
    }

    fn servers(&mut self, file: &File, upstream: &file::Upstream, own: &[(SocketAddr, Place)]) -> Box<[Member]> {
        let At { value: written, place } = &upstream.servers;
        if written.0.is_empty() {
            self.findings.problem(place, "no server", "at least one");
        }
        let mut servers = Vec::new();
        for At { value, place } in &written.0 {
            let server = match &value.url {
                ServerUrl::Echo => {
                    self.findings.unfit_for_production(place, "the echo upstream is for trying things out (R35)");
                    Server::Echo
                }
                ServerUrl::H2c(authority) => Server::H2c(authority.clone()),
                ServerUrl::Http(authority) => Server::Http(authority.clone()),
                ServerUrl::Https(authority) => Server::Https(authority.clone()),
                ServerUrl::Unix(path) => Server::Unix(place.resolve(path)),
                ServerUrl::UnixH2c(path) => Server::UnixH2c(place.resolve(path)),
            };
            let loops = match &server {
                Server::Echo => false,
                Server::Http(authority) | Server::H2c(authority) => leads_to(authority, 80, own),
                Server::Https(authority) => leads_to(authority, 443, own),
                Server::Unix(path) | Server::UnixH2c(path) => server::sockets(file).contains(path),
            };
            if let Some(At { value: false, place }) = &upstream.http2
                && matches!(server, Server::H2c(_) | Server::UnixH2c(_))
            {
                let problem = self.findings.problem(place, "false, where a server speaks nothing else", "true");
                problem.help("h2c: is HTTP/2 without TLS; http: and unix: are HTTP/1.1");
            }
            if loops {
                self.findings
                    .problem(place, "an address that the gateway itself listens on", "the address of another server")
                    .help("a request would come back as if it were the gateway's own (R36)");
            }
            let weight = value.weight.and_then(|weight| NonZeroU32::new(u32::try_from(weight.0).ok()?));
            servers.push(Member { weight: weight.unwrap_or(NonZeroU32::MIN), ..server.into() });
        }
        servers.into()
    }

    fn queue(&mut self, upstream: &file::Upstream) -> Option<QueueLimits> {
        let Some(max_requests) = upstream.max_requests else {
            let (pending, timeout) = (upstream.max_pending.as_ref(), upstream.queue_timeout.as_ref());
            for place in pending.map(|at| &at.place).into_iter().chain(timeout.map(|at| &at.place)) {
                self.findings.problem(place, "no `max_requests`", "it, or nobody waits for a turn");
            }
            return None;
        };
        Some(QueueLimits {
            max_requests: count(max_requests.0),
            max_pending: count(upstream.max_pending.as_ref().map_or(1024, |at| at.value.0)),
            timeout: upstream.queue_timeout.as_ref().map_or(Duration::from_secs(5), |at| at.value.0),
        })
    }

    fn retries(&mut self, At { value: written, place }: &At<file::Retries>) -> Option<Retries> {
        let on = written.on.as_deref().unwrap_or(&[RetryReason::Connect, RetryReason::Reset]);
        let statuses: Box<[StatusCode]> = match &written.statuses {
            None => [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].into(),
            Some(written) => written.iter().map(|at| at.value).collect(),
        };
        for At { value: status, place } in written.statuses.iter().flatten() {
            if !status.is_server_error() {
                let problem = self.findings.problem(place, format!("the status {}", status.as_u16()), "500 to 599");
                problem.help("any other answer says that the server did what it was asked for, or will not");
            }
        }
        if on.is_empty() && statuses.is_empty() {
            self.findings.problem(place, "no reason to send anything again", "some of `on`, or of `statuses`");
            return None;
        }
        let (budget, min_per_second) =
            (count(written.budget.map_or(20, |n| n.0)), count(written.min_per_second.map_or(3, |n| n.0)));
        if budget == 0 && min_per_second == 0 {
            self.findings.problem(place, "a budget for nothing", "`budget` or `min_per_second` above 0");
            return None;
        }
        Some(Retries {
            attempts: count(written.attempts.map_or(1, |number| number.0)),
            connect: on.contains(&RetryReason::Connect),
            reset: on.contains(&RetryReason::Reset),
            timeout: on.contains(&RetryReason::Timeout),
            statuses,
            budget,
            min_per_second,
            backoff: written.backoff.unwrap_or(Duration::from_millis(25)),
        })
    }

    /// How TLS is spoken to the servers of one upstream.
    fn upstream_tls(&mut self, at: &At<file::UpstreamTls>, servers: &[Member]) -> Option<ServerTls> {
        let At { value: written, place } = at;
        if !servers.iter().any(|member| matches!(member.server, Server::Https(_))) {
            self.findings.problem(place, "`tls` without an https server", "\"https://…\" in servers");
            return None;
        }
        let identity = match (&written.certificate, &written.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let path = key.place.resolve(&key.value.0);
                let chain = self.file(
                    &certificate.place.resolve(&certificate.value.0),
                    &certificate.place,
                    "a certificate in PEM",
                );
                let secret = self.file(&path, &key.place, "a private key in PEM");
                self.warn_if_readable_by_others(&path, &key.place);
                Some((chain?, Secret::new(secret?)))
            }
            (Some(_), None) | (None, Some(_)) => {
                self.findings.problem(place, "one of `certificate` and `key`", "both, or neither");
                return None;
            }
        };
        let authorities = match &written.ca {
            None => None,
            Some(At { value, place }) => {
                Some(self.file(&place.resolve(&value.0), place, "certificate authorities in PEM")?)
            }
        };
        let server_name = written.server_name.as_ref().map(|at| at.value.clone());
        let parts = tls::Parts { authorities, identity, server_name };
        ServerTls::new(&parts)
            .map_err(|error| {
                let (at, expected) = match &error {
                    TlsError::Authorities(_) => {
                        (written.ca.as_ref().map(|at| &at.place), "certificate authorities in PEM")
                    }
                    TlsError::Certificate => (written.certificate.as_ref().map(|at| &at.place), "a certificate in PEM"),
                    TlsError::Key(_) => {
                        (written.key.as_ref().map(|at| &at.place), "the certificate's private key in PEM")
                    }
                    TlsError::Name => (written.server_name.as_ref().map(|at| &at.place), "a host name or an address"),
                };
                self.findings.problem(at.unwrap_or(place), error.to_string(), expected);
            })
            .ok()
    }

    /// What requests carry of their caller, and whose forwarding headers are believed.
    pub(super) fn headers(&mut self, file: &File, session: Option<&session::Settings>) -> Option<headers::Settings> {
        let identity = &file.identity.0.as_ref()?.table;
        let fields = identity.headers.unwrap_or_default().fields();
        let mut extra: Vec<(HeaderName, crate::policy::ClaimPath)> = Vec::new();
        for (name, claim) in &identity.extra.0 {
            let Ok(header) = <HeaderName as Text>::parse(&name.value) else {
                self.findings.problem(&name.place, "an unfit header name", <HeaderName as Text>::expected());
                continue;
            };
            let taken = fields.iter().map(|(name, _)| name).chain(extra.iter().map(|(name, _)| name));
            if taken.clone().any(|taken| *taken == header) || is_reserved(&header) {
                self.findings.problem(
                    &name.place,
                    "a header that has a meaning already",
                    "another name, such as X-User-Department",
                );
                continue;
            }
            extra.push((header, claim.value.0.clone()));
        }
        let server = &file.server.0.as_ref()?.table;
        let jwt = file.jwt.0.as_ref()?;
        let api_key = server::api_key_header(file);
        let mut credentials = Vec::new();
        for (header, written, example) in [
            (api_key, server.api_key_header.as_ref(), "X-API-Key"),
            (jwt.header.as_ref().map(|at| at.value.clone()), jwt.header.as_ref(), "X-Access-Token"),
        ] {
            let Some(header) = header else { continue };
            let taken = extra.iter().map(|(name, _)| name).chain(fields.iter().map(|(name, _)| name));
            if let Some(At { place, .. }) = written
                && (taken.chain(&credentials).any(|taken| *taken == header)
                    || is_reserved(&header)
                    || headers::has_meaning(&header))
            {
                let expected = format!("another name, such as {example}");
                self.findings.problem(place, "a header that has a meaning already", expected);
            }
            credentials.push(header);
        }
        let taken = fields.iter().map(|(name, _)| name).chain(extra.iter().map(|(name, _)| name));
        let taken: Vec<&HeaderName> = taken.chain(&credentials).collect();
        let assertion = self.assertion(file, &taken);
        self.judge_audiences(file);
        let (trusted_proxies, trust_unix_peers) = server::trusted_proxies(file);
        Some(headers::Settings {
            generation: 1,
            fields,
            extra: extra.into(),
            removed: credentials
                .into_iter()
                .chain(assertion.as_ref().map(|assertion| assertion.header.clone()))
                .collect(),
            assertion,
            client_certificate: identity.client_certificate.unwrap_or_default(),
            max_bytes: identity.max_bytes.map_or(4096, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            subject_with_realm: matches!(identity.subject, Some(SubjectForm::RealmSubject)),
            trusted_proxies,
            trust_unix_peers,
            family: server.forwarded_headers.unwrap_or_default(),
            keep_odd_names: matches!(server.odd_header_names, Some(OddNames::Keep)),
            own_cookies: own_cookies(file, session?),
        })
    }
}

/// Names of our cookies; the refresh token's only where there can be one.
fn own_cookies(file: &File, session: &session::Settings) -> Box<[Box<str>]> {
    let refresh = super::token::written(file).map(|_| crate::token::Settings::cookie_for(&session.cookie));
    let jwt = file.jwt.0.as_ref().and_then(|jwt| jwt.table.cookie.as_ref()).map(|at| Box::from(&*at.value.0));
    let others = login::OWN_COOKIES.iter().copied().map(Box::from);
    let refresh = refresh.map(|name| Box::from(&*name));
    [Box::from(&*session.cookie)].into_iter().chain(jwt).chain(others).chain(refresh).collect()
}

fn settings(name: &str, upstream: &file::Upstream, servers: Box<[Member]>) -> Settings {
    let seconds = |written: Option<Positive>, default| written.map_or_else(|| Duration::from_secs(default), |w| w.0);
    Settings {
        name: name.into(),
        servers,
        http2: upstream.http2.as_ref().is_none_or(|at| at.value),
        balance: upstream.balance.unwrap_or_default(),
        sticky: upstream.sticky,
        rules: rules(upstream),
        tls: None,
        host: upstream.host.clone().unwrap_or_default(),
        path_quirks: quirks(&upstream.path_quirks),
        connect_timeout: seconds(upstream.connect_timeout, 3),
        response_timeout: seconds(upstream.response_timeout, 30),
        read_timeout: seconds(upstream.read_timeout, 60),
        retries: None,
        queue: None,
        idle_timeout: seconds(upstream.idle_timeout, 60),
        max_idle: upstream.max_idle.map_or(64, |number| usize::try_from(number.0).unwrap_or(usize::MAX)),
    }
}

fn rules(upstream: &file::Upstream) -> Rules {
    let default = Rules::default();
    let eject = upstream.eject.as_ref().map_or_else(
        || default.eject.clone(),
        |written| Eject {
            failures: written.failures.map_or(default.eject.failures, |number| count(number.0)),
            statuses: written.statuses.clone().into(),
            time: written.time.map_or(default.eject.time, |time| time.0),
            max_time: written.max_time.map_or(default.eject.max_time, |time| time.0),
        },
    );
    let check = upstream.health.as_ref().map(|At { value: written, .. }| {
        let check = Check::default();
        let host = match (&written.host, &upstream.host) {
            (Some(host), _) | (None, Some(HostPolicy::Name(host))) => HeaderValue::from_str(host.as_str()).ok(),
            (None, Some(HostPolicy::Keep | HostPolicy::Upstream) | None) => None,
        };
        Arc::new(Check {
            path: written.path.0.clone(),
            host,
            interval: written.interval.map_or(check.interval, |time| time.0),
            timeout: written.timeout.map_or(check.timeout, |time| time.0),
            healthy_after: written.healthy_after.map_or(check.healthy_after, |number| count(number.0)),
            unhealthy_after: written.unhealthy_after.map_or(check.unhealthy_after, |number| count(number.0)),
            statuses: written.status.iter().flat_map(|list| &list.0).map(|status| status.value).collect(),
        })
    });
    Rules {
        check,
        eject,
        slow_start: upstream.slow_start.unwrap_or(default.slow_start),
        panic_below: upstream.panic_threshold.map_or(default.panic_below, |number| count(number.0)),
    }
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn quirks(written: &[PathQuirk]) -> Quirks {
    let mut quirks = Quirks::default();
    for quirk in written {
        match quirk {
            PathQuirk::CaseInsensitive => quirks.case_insensitive = true,
            PathQuirk::DoubleSlash => quirks.double_slash = true,
            PathQuirk::EncodedSlash => quirks.encoded_slash = true,
            PathQuirk::Semicolon => quirks.semicolon = true,
            PathQuirk::Suffix => quirks.suffix = true,
            PathQuirk::TrailingSlash => quirks.trailing_slash = true,
        }
    }
    quirks
}

/// Whether a server's address is one of ours. Names other than `localhost` are not resolved here.
fn leads_to(authority: &Authority, default_port: u16, own: &[(SocketAddr, Place)]) -> bool {
    let host = authority.host.as_str().trim_start_matches('[').trim_end_matches(']');
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if authority.host.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        Err(_) => return false,
    };
    let target = SocketAddr::new(ip, authority.port.unwrap_or(default_port));
    own.iter().any(|(listener, _)| server::reaches(target, *listener))
}

/// Headers that frame, route or authenticate: none of them can carry a claim.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    const NAMES: [&str; 18] = [
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    !headers::identity::may_carry(name)
        || NAMES.contains(&name.as_str())
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("sec-")
}
