//! Which server takes a request, and what all workers know of the servers together.
//!
//! In: the servers' shared counters, the upstream's [`Balance`] and the servers tried already. Out: an index, or
//! none when all were tried. A server that refused connections rests for 1 s, then 2, up to 10, while others exist;
//! its first success clears it. Counters are relaxed atomics: they order nothing, they only count.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::{Balance, Server, Settings};
use crate::clock;

/// What all workers share about upstreams: counts and resting servers. One for the process; it outlives reloads.
#[derive(Debug)]
pub struct Shared {
    /// Asked only when a worker first meets the settings of a new generation.
    states: Mutex<Vec<Arc<UpstreamState>>>,
    pub(super) tls: ArcSwapOption<rustls::ClientConfig>,
    pub(super) own_listeners: Box<[std::net::SocketAddr]>,
    began: Instant,
}

/// One upstream as all workers see it.
#[derive(Debug)]
pub struct UpstreamState {
    /// Its name.
    pub name: Arc<str>,
    /// Its servers, in the order of the configuration.
    pub servers: Box<[ServerState]>,
}

/// One server as all workers see it.
#[derive(Debug)]
pub struct ServerState {
    /// How it is written in the configuration: `http://host:port`, `unix:/path`, `echo:`.
    pub label: Box<str>,
    /// Its counts.
    pub counters: Counters,
    server: Server,
    failures: AtomicU32,
    /// Milliseconds since `Shared::began`.
    rests_until: AtomicU64,
}

/// What happened with one server, for metrics and balancing.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections made.
    pub connects: AtomicU64,
    /// Attempts that made none.
    pub connect_failures: AtomicU64,
    /// Requests sent on a connection that had served before.
    pub reused: AtomicU64,
    /// Requests sent again because a used connection had died.
    pub retries: AtomicU64,
    /// Connections open now, tunnels included.
    pub open: AtomicU64,
    /// Requests under way now, tunnels included.
    pub under_way: AtomicU64,
    /// Tunnels open now.
    pub tunnels: AtomicU64,
}

impl Shared {
    /// `tls` verifies `https` servers, see [`super::system_trust`]; without it they are unreachable. A connection to
    /// one of `own_listeners` is refused (R36).
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>, own_listeners: Box<[std::net::SocketAddr]>) -> Arc<Self> {
        Arc::new(Self {
            states: Mutex::default(),
            tls: ArcSwapOption::new(tls),
            own_listeners,
            began: clock::instant(),
        })
    }

    /// Whether `https` servers can be verified.
    pub fn can_verify(&self) -> bool {
        self.tls.load().is_some()
    }

    /// Verifies `https` servers by this from now on.
    pub fn verify_by(&self, tls: Arc<rustls::ClientConfig>) {
        self.tls.store(Some(tls));
    }

    /// Every upstream that is in use, for metrics and the admin interface.
    pub fn upstreams(&self) -> Vec<Arc<UpstreamState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of these settings' upstream: the old one if its servers are the same.
    pub(super) fn state(&self, settings: &Settings) -> Arc<UpstreamState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is held by nobody else belongs to a generation that is gone.
        states.retain(|state| Arc::strong_count(state) > 1 || state.name == settings.name);
        let same = |state: &&Arc<UpstreamState>| {
            state.name == settings.name && state.servers.iter().map(|each| &each.server).eq(settings.servers.iter())
        };
        if let Some(known) = states.iter().find(same) {
            return Arc::clone(known);
        }
        states.retain(|state| Arc::strong_count(state) > 1);
        let state = Arc::new(UpstreamState {
            name: Arc::clone(&settings.name),
            servers: settings.servers.iter().map(ServerState::new).collect(),
        });
        states.push(Arc::clone(&state));
        state
    }

    pub(super) fn now_millis(&self) -> u64 {
        u64::try_from(clock::instant().duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

impl UpstreamState {
    /// The server for the next request among those not in `tried`; a resting one only if no other is left. `turn` is
    /// where this worker's round goes on.
    pub(super) fn pick(&self, balance: Balance, turn: usize, tried: &[usize], now: impl Fn() -> u64) -> Option<usize> {
        let count = self.servers.len();
        if count == 1 {
            return tried.is_empty().then_some(0);
        }
        let mut best: Option<(bool, u64, usize)> = None;
        for index in (0..count).map(|step| turn.wrapping_add(step) % count) {
            let Some(server) = self.servers.get(index).filter(|_| !tried.contains(&index)) else { continue };
            let rests = server.failures.load(Relaxed) > 0 && server.rests_until.load(Relaxed) > now();
            let load = match balance {
                Balance::LeastRequests => server.counters.under_way.load(Relaxed),
                Balance::RoundRobin => 0,
            };
            if best.is_none_or(|(best_rests, best_load, _)| (rests, load) < (best_rests, best_load)) {
                best = Some((rests, load, index));
            }
        }
        best.map(|(_, _, index)| index)
    }
}

impl ServerState {
    fn new(server: &Server) -> Self {
        Self {
            label: match server {
                Server::Echo => "echo:".into(),
                Server::Http(authority) => format!("http://{authority}").into(),
                Server::Https(authority) => format!("https://{authority}").into(),
                Server::Unix(path) => format!("unix:{}", path.display()).into(),
            },
            counters: Counters::default(),
            server: server.clone(),
            failures: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
        }
    }

    /// A connection was made.
    pub(super) fn succeeded(&self) {
        self.counters.connects.fetch_add(1, Relaxed);
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// No connection could be made at `now` (milliseconds).
    pub(super) fn failed(&self, now: u64) {
        self.counters.connect_failures.fetch_add(1, Relaxed);
        let before = self.failures.fetch_add(1, Relaxed);
        let rest = REST_FIRST.saturating_mul(1 << before.min(8)).min(REST_MAX);
        self.rests_until.store(now.saturating_add(u64::try_from(rest.as_millis()).unwrap_or(u64::MAX)), Relaxed);
    }
}

const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> UpstreamState {
        let servers = ["/a", "/b", "/c"].map(|path| ServerState::new(&Server::Unix(path.into())));
        UpstreamState { name: "u".into(), servers: servers.into() }
    }

    #[test]
    fn the_least_busy_server_is_taken_and_ties_go_round() {
        let state = three();

        assert_eq!(state.pick(Balance::LeastRequests, 0, &[], || 0), Some(0));
        assert_eq!(state.pick(Balance::LeastRequests, 1, &[], || 0), Some(1));
        state.servers[1].counters.under_way.store(1, Relaxed);
        assert_eq!(state.pick(Balance::LeastRequests, 1, &[], || 0), Some(2));
        assert_eq!(state.pick(Balance::RoundRobin, 1, &[], || 0), Some(1));
    }

    #[test]
    fn a_failed_server_rests_longer_each_time_and_is_still_the_last_resort() {
        let state = three();
        state.servers[0].failed(0);

        assert_eq!(state.pick(Balance::RoundRobin, 0, &[], || 999), Some(1));
        assert_eq!(state.pick(Balance::RoundRobin, 0, &[], || 1000), Some(0));
        assert_eq!(state.pick(Balance::RoundRobin, 0, &[1, 2], || 0), Some(0));
        for _ in 0..40 {
            state.servers[0].failed(0);
        }
        assert_eq!(state.pick(Balance::RoundRobin, 0, &[], || 9_999), Some(1));
        assert_eq!(state.pick(Balance::RoundRobin, 0, &[], || 10_000), Some(0));
        state.servers[0].succeeded();
        assert_eq!(state.pick(Balance::RoundRobin, 0, &[], || 0), Some(0));
        assert_eq!(state.pick(Balance::RoundRobin, 0, &[0, 1, 2], || 0), None);
    }

    #[test]
    fn an_upstream_keeps_its_counts_over_reloads_unless_its_servers_change() {
        let shared = Shared::new(None, Box::default());
        let before = shared.state(&super::super::tests::settings(vec![Server::Echo]));
        let after = shared.state(&super::super::tests::settings(vec![Server::Echo]));
        let other = shared.state(&super::super::tests::settings(vec![Server::Echo, Server::Echo]));

        assert!(Arc::ptr_eq(&before, &after));
        assert!(!Arc::ptr_eq(&before, &other));
    }
}
