//! Every mutable thing in the process is one field here.
//!
//! [`Snapshot`] is what a reload swaps whole; [`Shared`] outlives every snapshot; [`Live`] holds both. A request takes
//! its snapshot once, through its worker's [`SnapshotCache`], and keeps it to its end.
//!
//! Memory that one worker writes is taken away from the others, so a request writes little that they share, and nothing
//! that all requests need: routes are borrowed from the snapshot; hosts, `hsts` and counters are each worker's own. What
//! is left belongs to one caller: the lock of the shard with their session, the counts of that session or token and of
//! the identity, and once a second when the session was last seen. Rate limits, queues and a choice among several
//! servers by their load add their own, where they are configured.

use std::{
    cell::RefCell,
    ops::Deref,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::watch;

use crate::{
    accounts::Hasher,
    acme, admin,
    api_key::{self, ApiKeys, Known},
    authn::{
        credential::TokenPlaces,
        dpop::{self, Proofs},
        jwks::KeySlot,
        jwt::Issuer,
        token_cache::TokenCache,
        verify_rate::WrongSignatures,
    },
    change::Reloads,
    clock::Clock,
    dns::Resolver,
    durable::Durable,
    headers, login, mtls, page, policy, rate_limit,
    refresh::Families,
    revocation::Revocations,
    route::RouteTable,
    session,
    shutdown::Shutdown,
    signing::Signing,
    telemetry::{QueryLog, Telemetry},
    token, upstream,
};

/// Everything that a reload can change: immutable, complete, swapped whole (R37).
pub struct Snapshot {
    /// Counts reloads, from 1.
    pub generation: u64,
    /// All routes, our own endpoints among them.
    pub routes: RouteTable,
    /// Whether generated secrets are in use: requests must come to a loopback host and without forwarding headers
    /// (R35).
    pub demo_secrets: bool,
    /// `[[jwt.issuer]]`.
    pub issuers: Vec<Issuer>,
    /// `jwt.cookie` and `jwt.header`.
    pub token_places: TokenPlaces,
    /// `[dpop]`.
    pub dpop: dpop::Settings,
    /// `limits.verify_rate`.
    pub verify_rate: u32,
    /// `[[api_key]]`.
    pub api_keys: ApiKeys,
    /// `[[mtls.ca]]`, and who is asked for a certificate.
    pub mtls: mtls::Settings,
    /// `[tls.acme]`; `None`: no certificates are ordered.
    pub acme: Option<Arc<acme::Settings>>,
    /// `[session]`.
    pub session: session::Settings,
    /// `[login]`.
    pub login: login::Settings,
    /// How our pages look and what they say.
    pub look: page::Look,
    /// `[identity]` and trusted proxies.
    pub headers: headers::Settings,
    /// `[maintenance]`; `None`: every host is served.
    pub maintenance: Option<policy::Maintenance>,
    /// `[upstream.*]`.
    pub upstreams: Vec<Arc<upstream::Settings>>,
    /// `[admin]`; `None`: off.
    pub admin: Option<admin::Settings>,
    /// `[token]`; `None`: off.
    pub token: Option<token::Settings>,
    /// `server.proxy_protocol_from`.
    pub proxy_protocol_from: Box<[ipnet::IpNet]>,
    /// `server.resolvers`: who is asked for the addresses of upstreams' names.
    pub resolver: Resolver,
    /// `server.hsts`; `None`: off.
    pub hsts: Option<HeaderValue>,
    /// `limits.max_api_keys`.
    pub max_api_keys: usize,
    /// `limits.max_revocations`.
    pub max_revocations: usize,
    /// `limits.max_body`.
    pub max_body: u64,
    /// `limits.rate_limit` and `limits.max_concurrent`: of all routes together.
    pub rate_limits: rate_limit::Limits,
    /// `limits.max_rate_buckets`.
    pub max_rate_buckets: usize,
    /// `log.query`.
    pub query_log: QueryLog,
}

impl Snapshot {
    /// Every API key: its own, and those that were made.
    pub const fn keys<'a>(&'a self, shared: &'a Shared) -> Known<'a> {
        Known { fixed: &self.api_keys, made: &shared.made_keys }
    }
}

/// What outlives every snapshot.
pub struct Shared {
    /// The source of wall time.
    pub clock: Clock,
    /// What survives a restart; `None`: nothing does.
    pub durable: Option<Durable>,
    /// Proofs that hosts are ours, while an authority looks for them.
    pub challenges: Arc<acme::Challenges>,
    /// All sessions.
    pub sessions: Arc<session::Store>,
    /// Families of refresh tokens.
    pub families: Families,
    /// The public halves of the keys that sign our own tokens, as an issuer's.
    pub own_keys: Arc<KeySlot>,
    /// What happened at the token endpoints.
    pub token_counts: token::Counts,
    /// What was revoked before its time (R28).
    pub revocations: Arc<Revocations>,
    /// The keys that we sign with (R22).
    pub signing: Signing,
    /// API keys that the admin API has made.
    pub made_keys: Arc<api_key::Store>,
    /// Tokens that were verified before (R23).
    pub tokens: TokenCache,
    /// DPoP proofs that were used.
    pub proofs: Proofs,
    /// Who has sent wrong signatures.
    pub wrong_signatures: WrongSignatures,
    /// Password checks, on threads of their own.
    pub hasher: Hasher,
    /// Who slows guessers down.
    pub throttle: login::Throttle,
    /// Who knows browsers again.
    pub devices: login::Devices,
    /// Forms that came too late.
    pub stash: login::Stash,
    /// Second factors, and logins that wait for a code.
    pub second: login::Second,
    /// What happened at our own endpoints.
    pub login_counts: login::Counts,
    /// How many requests were let through of late, and whose.
    pub rate_limiter: rate_limit::Limiter,
    /// Exchanges that were cut because what they were permitted by had ended (R28).
    pub exchanges_cut: AtomicU64,
    /// Health and counters of upstream servers, by name.
    pub upstreams: Arc<upstream::Shared>,
    /// Logs and metrics.
    pub telemetry: Arc<Telemetry>,
    /// The stop signal.
    pub shutdown: Shutdown,
    /// Where a reload is asked for.
    pub reloads: Reloads,
}

/// The process's state: one current snapshot, and what outlives it.
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
    /// Raised after each swap; lets workers see without touching a shared reference count that nothing changed.
    swaps: AtomicU64,
    /// Wakes whoever holds on to a snapshot between requests.
    swapped: watch::Sender<()>,
    /// What outlives every snapshot.
    pub shared: Shared,
}

impl Live {
    /// Begins with this snapshot.
    pub fn new(snapshot: Snapshot, shared: Shared) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            swaps: AtomicU64::new(1),
            swapped: watch::Sender::new(()),
            shared,
        }
    }

    /// Replaces the snapshot; requests under way finish on theirs.
    pub fn swap(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.swaps.fetch_add(1, Ordering::Release);
        self.swapped.send_replace(());
    }

    /// Tells of each swap from now on.
    pub fn swaps(&self) -> watch::Receiver<()> {
        self.swapped.subscribe()
    }

    /// The current snapshot, for whoever is not on the request path.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
}

/// A worker's own handle on the current snapshot: on the request path only thread-local counts change.
#[derive(Default)]
pub struct SnapshotCache(RefCell<Option<(u64, Rc<Current>)>>);

/// A snapshot, with a worker's own copies of what is cloned for each request.
pub struct Current {
    snapshot: Arc<Snapshot>,
    /// [`Snapshot::hsts`], whose count no other worker writes.
    pub hsts: Option<HeaderValue>,
}

impl Current {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let hsts = snapshot.hsts.as_ref().and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
        Self { snapshot, hsts }
    }
}

impl Deref for Current {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl SnapshotCache {
    /// The snapshot to serve one request with. Ask once for each request (R37).
    pub fn current(&self, live: &Live) -> Rc<Current> {
        let swaps = live.swaps.load(Ordering::Acquire);
        let mut cached = self.0.borrow_mut();
        match &*cached {
            Some((seen, snapshot)) if *seen == swaps => Rc::clone(snapshot),
            _ => {
                let snapshot = Rc::new(Current::new(live.snapshot()));
                *cached = Some((swaps, Rc::clone(&snapshot)));
                snapshot
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_a_worker_clones_for_each_answer_is_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let text = "version = 1\n[server]\nlisten = [\"http://127.0.0.1:0\"]\nhosts = [\"a.example\"]\n\
                    hsts = \"max-age=3600\"\n[upstream.app]\nservers = [\"http://127.0.0.1:1\"]\n\
                    [[route]]\nname = \"all\"\nmatch = { path = \"/{*rest}\" }\nauth = [\"none\"]\n\
                    upstream = \"app\"\n";
        let config = config::load_text("test", text, folder.path(), []).unwrap_or_else(|report| panic!("{report}"));
        let snapshot = Arc::new(config.snapshot);

        let (one, other) = (Current::new(Arc::clone(&snapshot)), Current::new(Arc::clone(&snapshot)));

        let (shared, one, other) = (snapshot.hsts.as_ref().unwrap(), one.hsts.unwrap(), other.hsts.unwrap());
        assert_eq!((&one, &other), (shared, shared));
        let places = [shared, &one, &other].map(|value| value.as_bytes().as_ptr());
        assert!(places[0] != places[1] && places[0] != places[2] && places[1] != places[2], "{places:?}");
    }
}
