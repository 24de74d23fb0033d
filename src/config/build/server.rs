//! `[server]`, `[tls]`, `[limits]`, `[log]`, `[telemetry]`: mostly what needs a restart to change. Who listens where
//! without encryption is decided here: only where nobody can listen in, or where a trusted proxy speaks (R20, R36).

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use super::Build;
use crate::{
    authn::token_cache::CacheLimits,
    config::{
        CertificateFiles, Startup, Tls, TlsSource,
        decode::At,
        file::{self, File},
        place::Place,
        scalar::{AuthName, Hsts, Positive, Sink, TrustedProxy, Workers},
    },
    dns::Resolver,
    durable,
    edge::{self, Group},
    listener::Listener,
    rate_limit,
    telemetry::{LogSettings, LogSink},
};

impl Build<'_> {
    /// Everything that needs a restart, but where `[admin]` listens.
    pub(super) fn startup(&mut self, file: &File) -> Option<Startup> {
        let listeners = self.listeners(file);
        let limits = limits(file);
        let log = self.log(file);
        let telemetry = self.telemetry(file);
        let state = self.state(file);
        self.judge_addresses(file);

        let server = &file.server.0.as_ref()?.table;
        let workers = match server.workers.unwrap_or(Workers::Auto) {
            Workers::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Workers::Number(number) => usize::from(number),
        };
        Some(Startup {
            edge: edge::Settings {
                listeners: listeners?,
                redirect_http: server.redirect_http,
                workers,
                drain_timeout: server.drain_timeout.unwrap_or(Duration::from_secs(30)),
                limits: limits?,
            },
            state: state?,
            tokens: cached_tokens(file)?,
            upgrade_socket: server.upgrade_socket.as_ref().map(|at| at.place.resolve(&at.value.0)),
            log: log?,
            telemetry: telemetry?,
            admin: None,
        })
    }

    fn listeners(&mut self, file: &File) -> Option<Vec<Listener>> {
        let server = &file.server.0.as_ref()?.table;
        if server.listen.value.0.is_empty() {
            self.findings.problem(&server.listen.place, "an empty list", "at least one listener");
        }
        let tls_written = file.tls.0.as_ref().is_none_or(Option::is_some);
        let mut listeners = Vec::new();
        for At { value, place } in &server.listen.value.0 {
            match value {
                Listener::Http(address) if !address.ip().is_loopback() && server.trusted_proxies.is_empty() => {
                    self.findings
                        .problem(place, format!("plain http on {address}"), "https, a loopback address or a unix socket")
                        .help("behind a TLS proxy, name its addresses in `server.trusted_proxies`; all others are refused");
                }
                Listener::Https(_) | Listener::Inherited { encrypted: true, .. } if !tls_written => {
                    self.findings
                        .problem(place, "https without [tls]", "certificates for it")
                        .help("[tls] with `self_signed = [\"localhost\"]` makes one for trying things out");
                }
                Listener::Http(_) | Listener::Https(_) | Listener::Inherited { .. } => listeners.push(value.clone()),
                Listener::Unix { path, mode } => {
                    listeners.push(Listener::Unix { path: place.resolve(path), mode: *mode });
                }
            }
        }
        Some(listeners)
    }

    /// `[tls]`.
    pub(super) fn tls(&mut self, file: &File) -> Option<Option<Tls>> {
        let Some(At { value: tls, place }) = file.tls.0.as_ref()? else {
            return Some(None);
        };
        let source = match (&tls.certificates[..], &tls.self_signed) {
            ([], None) if tls.acme.is_some() => TlsSource::Files([].into()),
            ([], None) => {
                self.findings.problem(place, "no certificate", "`certificates`, `acme` or `self_signed`");
                return None;
            }
            ([_, ..], Some(_)) => {
                self.findings.problem(place, "`certificates` and `self_signed`", "one of the two");
                return None;
            }
            ([], Some(names)) if names.is_empty() => {
                self.findings.problem(place, "an empty `self_signed`", "names and addresses, such as [\"localhost\"]");
                return None;
            }
            ([], Some(_)) if tls.acme.is_some() => {
                self.findings
                    .problem(place, "`acme` and `self_signed`", "one of the two")
                    .help("the one is for hosts that everybody reaches, the other for this machine alone");
                return None;
            }
            ([], Some(names)) => {
                let names = names.iter().map(|name| name.0.clone()).collect();
                TlsSource::SelfSigned { names, folder: place.resolve("certs".as_ref()) }
            }
            (files, None) => TlsSource::Files(self.certificate_files(files)?),
        };
        let groups = match &tls.groups {
            None => Group::DEFAULT.into(),
            Some(At { value, place }) => {
                let doubled = value.iter().enumerate().any(|(i, group)| value[..i].contains(group));
                if value.is_empty() || doubled {
                    self.findings.problem(place, "an empty list or a group twice", "at least one group, each once");
                    return None;
                }
                value.as_slice().into()
            }
        };
        Some(Some(Tls { source, min_version: tls.min_version.unwrap_or_default(), groups, asked: Arc::default() }))
    }

    fn certificate_files(&mut self, files: &[file::CertificateFiles]) -> Option<Box<[CertificateFiles]>> {
        let mut found = Vec::new();
        for file in files {
            let cert = file.cert.place.resolve(&file.cert.value.0);
            let key = file.key.place.resolve(&file.key.value.0);
            let readable = self.file(&cert, &file.cert.place, "a certificate chain in PEM").is_some();
            // What is in them, and who else may read the key, is judged where they are loaded (`certificate`).
            if self.file(&key, &file.key.place, "a private key in PEM").is_some() && readable {
                found.push(CertificateFiles { cert, key });
            }
        }
        (found.len() == files.len()).then(|| found.into())
    }

    /// `server.state_dir`, `server.state_key_file` and `server.state_timeout`. What is in the files is judged where
    /// they are opened (`durable`).
    fn state(&mut self, file: &File) -> Option<Option<durable::Settings>> {
        let server = &file.server.0.as_ref()?.table;
        let Some(At { value: dir, place }) = &server.state_dir else {
            if let Some(At { place, .. }) = &server.state_key_file {
                self.findings.problem(place, "a key without `server.state_dir`", "the directory that it protects");
                return None;
            }
            if let Some(At { place, .. }) = &server.state_timeout {
                self.findings.problem(place, "a deadline without `server.state_dir`", "the directory that it is for");
                return None;
            }
            return Some(None);
        };
        let dir = place.resolve(&dir.0);
        let timeout = server.state_timeout.as_ref().map_or(durable::Settings::TIMEOUT, |timeout| timeout.value.0);
        let Some(At { value: key_file, place: key_place }) = &server.state_key_file else {
            self.findings.warn(place, LIES_BESIDE);
            return Some(Some(durable::Settings { dir, key_file: None, timeout }));
        };
        let key_file = key_place.resolve(&key_file.0);
        self.file(&key_file, key_place, "a file with a line from `openssl rand -base64 32`")?;
        self.warn_if_readable_by_others(&key_file, key_place);
        if key_file.starts_with(&dir) {
            self.findings.warn(key_place, LIES_BESIDE);
        }
        Some(Some(durable::Settings { dir, key_file: Some(key_file), timeout }))
    }

    fn log(&mut self, file: &File) -> Option<LogSettings> {
        let log = &file.log.0.as_ref()?.table;
        let sink = |sink: &Option<At<Sink>>| match sink {
            None => LogSink::Stdout,
            Some(At { value, place }) => match value {
                Sink::File(path) => LogSink::File(place.resolve(path)),
                Sink::Off => LogSink::Off,
                Sink::Stderr => LogSink::Stderr,
                Sink::Stdout => LogSink::Stdout,
            },
        };
        let defaults = LogSettings::default();
        Some(LogSettings {
            format: log.format.unwrap_or(defaults.format),
            access: sink(&log.access),
            audit: sink(&log.audit),
            query: log.query.unwrap_or(defaults.query),
            level: log.level.as_ref().map_or(defaults.level, |level| level.0.clone()),
            queue_bytes: log.queue.map_or(defaults.queue_bytes, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
        })
    }

    fn telemetry(&mut self, file: &File) -> Option<Option<Listener>> {
        let Some(At { value: telemetry, .. }) = file.telemetry.0.as_ref()? else {
            return Some(None);
        };
        let At { value, place } = &telemetry.listen;
        match value {
            Listener::Http(address) => Some(Some(Listener::Http(*address))),
            Listener::Unix { path, mode } => Some(Some(Listener::Unix { path: place.resolve(path), mode: *mode })),
            Listener::Inherited { encrypted: false, .. } => Some(Some(value.clone())),
            Listener::Https(_) | Listener::Inherited { encrypted: true, .. } => {
                let expected = "\"http://ADDRESS:PORT\", \"unix:/PATH\" or \"fd:NAME,plain\"";
                self.findings
                    .problem(place, format!("{value}, where TLS is spoken"), expected)
                    .help("metrics hold nothing of users; to keep them private, listen on loopback or a unix socket");
                None
            }
        }
    }

    /// Two listeners on one address would fail at start; say so now.
    fn judge_addresses(&mut self, file: &File) {
        let all = addresses(file);
        for (i, (address, place)) in all.iter().enumerate() {
            if address.port() != 0 && all[..i].iter().any(|(earlier, _)| earlier == address) {
                self.findings.problem(place, format!("{address} once more"), "another address or port");
            }
        }
    }
}

const LIES_BESIDE: &str = "the key lies in the directory that it should protect, and so protects nothing: keep it elsewhere, in \
     `server.state_key_file`";

/// Every TCP address that the gateway listens on, with where it was written.
pub(super) fn addresses(file: &File) -> Vec<(SocketAddr, Place)> {
    let mut all = Vec::new();
    let mut add = |listener: &At<Listener>| match &listener.value {
        Listener::Http(address) | Listener::Https(address) => all.push((*address, listener.place.clone())),
        Listener::Unix { .. } | Listener::Inherited { .. } => {}
    };
    if let Some(section) = &file.server.0 {
        section.listen.value.0.iter().for_each(&mut add);
    }
    if let Some(Some(telemetry)) = &file.telemetry.0 {
        add(&telemetry.value.listen);
    }
    if let Some(Some(admin)) = &file.admin.0 {
        add(&admin.value.listen);
    }
    if let Some(section) = &file.server.0 {
        all.extend(section.redirect_http.map(|address| (address, section.place.inside("redirect_http"))));
    }
    all
}

/// Every unix socket that the gateway listens on.
pub(super) fn sockets(file: &File) -> Vec<PathBuf> {
    let server = file.server.0.iter().flat_map(|section| &section.listen.value.0);
    let telemetry = file.telemetry.0.iter().flatten().map(|telemetry| &telemetry.value.listen);
    let admin = file.admin.0.iter().flatten().map(|admin| &admin.value.listen);
    let path = |listener: &At<Listener>| match &listener.value {
        Listener::Unix { path, .. } => Some(listener.place.resolve(path)),
        Listener::Http(_) | Listener::Https(_) | Listener::Inherited { .. } => None,
    };
    server.chain(telemetry).chain(admin).filter_map(path).collect()
}

/// Whether a connection to `target` may reach a listener on `listener` of this machine.
pub(super) fn reaches(target: SocketAddr, listener: SocketAddr) -> bool {
    let own = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    target.port() == listener.port() && (target.ip() == listener.ip() || (own(target.ip()) && own(listener.ip())))
}

/// `server.hsts`: on by default, off where the certificate is a local one, which browsers should not be held to.
pub(super) fn hsts(file: &File) -> Option<HeaderValue> {
    let written = file.server.0.as_ref().and_then(|section| section.hsts.as_ref());
    let self_signed = matches!(&file.tls.0, Some(Some(At { value, .. })) if value.self_signed.is_some());
    match written {
        Some(Hsts::Off) => None,
        Some(Hsts::Value(value)) => Some(value.clone()),
        None if self_signed => None,
        None => Some(HeaderValue::from_static("max-age=31536000")),
    }
}

/// `server.trusted_proxies`: networks, and whether peers on unix sockets count.
pub(super) fn trusted_proxies(file: &File) -> (Box<[ipnet::IpNet]>, bool) {
    let entries = || file.server.0.iter().flat_map(|section| &section.trusted_proxies).map(|entry| &entry.value);
    let networks = entries().filter_map(|entry| match entry {
        TrustedProxy::Network(network) => Some(*network),
        TrustedProxy::UnixPeers => None,
    });
    (networks.collect(), entries().any(|entry| matches!(entry, TrustedProxy::UnixPeers)))
}

/// `server.resolvers`.
pub(super) fn resolver(file: &File) -> Resolver {
    let written = file.server.0.iter().flat_map(|section| &section.resolvers).map(|entry| entry.value.0);
    Resolver::asking(&written.collect::<Vec<_>>())
}

/// `server.proxy_protocol_from`.
pub(super) fn proxy_protocol_from(file: &File) -> Box<[ipnet::IpNet]> {
    file.server.0.iter().flat_map(|section| &section.proxy_protocol_from).map(|entry| entry.value).collect()
}

/// `server.api_key_header`; `None`: no key is written down and no route takes one, so that the header is nothing to us.
pub(super) fn api_key_header(file: &File) -> Option<HeaderName> {
    let takes = |options: &file::RouteOptions| {
        options.auth.iter().flat_map(|auth| &auth.value).any(|name| name.value == AuthName::ApiKey)
    };
    let written = file.api_key.0.as_ref().is_some_and(|keys| !keys.0.is_empty());
    let by_default = file.route_defaults.0.as_ref().is_some_and(|defaults| takes(&defaults.table));
    let by_a_route = file.route.0.iter().flat_map(|routes| &routes.0).any(|route| takes(&route.value.options));
    if !written && !by_default && !by_a_route {
        return None;
    }
    let written = file.server.0.as_ref()?.table.api_key_header.as_ref();
    Some(written.map_or(HeaderName::from_static("x-api-key"), |at| at.value.clone()))
}

/// `limits.max_revocations`.
pub(super) fn max_revocations(file: &File) -> Option<usize> {
    let written = file.limits.0.as_ref()?.table.max_revocations.map(|number| number.0);
    Some(written.map_or(1_000_000, |number| usize::try_from(number).unwrap_or(usize::MAX)))
}

/// `limits.max_cached_tokens` and `limits.max_cached_token_bytes`.
fn cached_tokens(file: &File) -> Option<CacheLimits> {
    let (limits, default) = (&file.limits.0.as_ref()?.table, CacheLimits::default());
    let number =
        |written: Option<u64>, default| written.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX));
    Some(CacheLimits {
        entries: number(limits.max_cached_tokens.map(|number| number.0), default.entries),
        bytes: number(limits.max_cached_token_bytes.map(|size| size.0), default.bytes),
        ..default
    })
}

/// `limits.rate_limit` and `limits.max_concurrent`, and `limits.max_rate_buckets`.
pub(super) fn rate_limits(file: &File) -> Option<(rate_limit::Limits, usize)> {
    let limits = &file.limits.0.as_ref()?.table;
    let buckets = limits.max_rate_buckets.map_or(500_000, |number| usize::try_from(number.0).unwrap_or(usize::MAX));
    Some((super::route::rate_limits(limits.rate_limit.as_ref(), limits.max_concurrent.as_ref()), buckets))
}

/// `limits.max_api_keys`.
pub(super) fn max_api_keys(file: &File) -> Option<usize> {
    let written = file.limits.0.as_ref()?.table.max_api_keys.map(|number| number.0);
    Some(written.map_or(10_000, |number| usize::try_from(number).unwrap_or(usize::MAX)))
}

/// `limits.verify_rate`.
pub(super) fn verify_rate(file: &File) -> Option<u32> {
    let written = file.limits.0.as_ref()?.table.verify_rate.map(|number| number.0);
    Some(written.map_or(20, |number| u32::try_from(number).unwrap_or(u32::MAX)))
}

fn limits(file: &File) -> Option<edge::Limits> {
    let limits = &file.limits.0.as_ref()?.table;
    let seconds = |written: Option<Positive>, default| written.map_or_else(|| Duration::from_secs(default), |w| w.0);
    let count = |written: Option<u64>, default: usize| {
        written.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
    };
    Some(edge::Limits {
        handshake_timeout: seconds(limits.handshake_timeout, 10),
        header_timeout: seconds(limits.header_timeout, 10),
        idle_timeout: seconds(limits.idle_timeout, 75),
        rest_after: edge::Limits::default().rest_after,
        body_min_rate: limits.body_min_rate.map_or(1024, |rate| rate.0),
        body_window: seconds(limits.body_window, 30),
        write_timeout: seconds(limits.write_timeout, 60),
        max_header_bytes: count(limits.max_header_bytes.map(|size| size.0), 32 * 1024),
        max_headers: count(limits.max_headers.map(|number| number.0), 100),
        max_body: limits.max_body.map_or(1 << 30, |size| size.0),
        max_connections: count(limits.max_connections.map(|number| number.0), 20_000),
        max_connections_per_address: count(limits.max_connections_per_address.map(|number| number.0), 1_000),
        max_streams: limits.max_streams.map_or(128, |number| u32::try_from(number.0).unwrap_or(u32::MAX)),
    })
}
