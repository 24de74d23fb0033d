//! What all workers know of the servers together: counts, and how each server stands.
//!
//! One [`Shared`] for the process, one [`UpstreamState`] for each upstream, one [`ServerState`] for each of its
//! servers. A server that stays keeps its state over reloads, whatever else of its upstream changes. Counters are
//! relaxed atomics: they order nothing, they only count. What every request counts, each worker counts for itself.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Budget, Place, Queue, Rules, Server, Settings, Standing, connect::bare, names::Name, tally::Tallies};
use crate::{clock, dns::Resolver, host::Authority, listener::OwnListener};

/// What all workers share about upstreams: counts and which servers are in. One for the process; it outlives reloads.
#[derive(Debug)]
pub struct Shared {
    /// Asked only when a worker first meets the settings of a new generation.
    states: Mutex<Vec<Arc<UpstreamState>>>,
    pub(super) tls: ArcSwapOption<rustls::ClientConfig>,
    pub(super) own_listeners: Box<[OwnListener]>,
    /// Who is asked for the addresses of names.
    resolver: ArcSwap<Resolver>,
    /// Names that are in use.
    names: Mutex<Vec<Weak<Name>>>,
    began: Instant,
    /// Rounds that were begun, see [`Self::next_round`].
    rounds: AtomicUsize,
}

/// One upstream as all workers see it.
#[derive(Debug)]
pub struct UpstreamState {
    /// Its name.
    pub name: Arc<str>,
    /// Its servers, in the order of the configuration.
    pub servers: Box<[Arc<ServerState>]>,
    /// What may be sent to it again; the same for all upstreams of the name, whose servers may change.
    pub budget: Arc<Budget>,
    /// The requests that it has; the same, too.
    pub queue: Arc<Queue>,
}

/// One server as all workers see it.
#[derive(Debug)]
pub struct ServerState {
    /// How it is written in the configuration: `http://host:port`, `unix:/path`, `echo:`.
    pub label: Box<str>,
    /// Its counts.
    pub counters: Counters,
    /// Whether it is in.
    pub standing: Standing,
    server: Server,
}

/// What happened with one server, for metrics and balancing.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections made.
    pub connects: AtomicU64,
    /// Attempts that made none.
    pub connect_failures: AtomicU64,
    /// Requests that it was sent, and that were sent again: because a used connection had died, or by
    /// [`Retries`](super::Retries).
    pub retries: AtomicU64,
    /// Connections open now, tunnels included.
    pub open: AtomicU64,
    /// Requests under way now, tunnels included, where `balance` compares servers by them: all workers write it.
    pub busy: AtomicU64,
    /// What each worker counts for itself.
    pub tallies: Tallies,
    /// Tunnels open now.
    pub tunnels: AtomicU64,
    /// Connections cut because the server sent more than anybody needs.
    pub floods: AtomicU64,
}

impl Shared {
    /// `tls` verifies `https` servers, see [`super::system_trust`]; without it they are unreachable. A connection to
    /// one of `own_listeners` is refused (R36).
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>, own_listeners: Box<[OwnListener]>) -> Arc<Self> {
        Arc::new(Self {
            states: Mutex::default(),
            tls: ArcSwapOption::new(tls),
            own_listeners,
            resolver: ArcSwap::default(),
            names: Mutex::default(),
            began: clock::instant(),
            rounds: AtomicUsize::new(0),
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

    /// From now on names are asked of this one; at once, where it is another.
    pub fn resolve_by(&self, resolver: &Resolver) {
        if **self.resolver.load() == *resolver {
            return;
        }
        self.resolver.store(Arc::new(resolver.clone()));
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(Weak::upgrade).for_each(|name| name.is_due_now());
    }

    pub(super) fn resolver(&self) -> Arc<Resolver> {
        self.resolver.load_full()
    }

    /// Every upstream that is in use, for metrics and the admin interface.
    pub fn upstreams(&self) -> Vec<Arc<UpstreamState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of these settings' upstream: the old one if its servers are the same, otherwise a new one with the
    /// servers that were known before.
    pub fn state(&self, settings: &Settings) -> Arc<UpstreamState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is held by nobody else belongs to a generation that is gone.
        states.retain(|state| Arc::strong_count(state) > 1 || state.name == settings.name);
        let same = |state: &&Arc<UpstreamState>| {
            state.name == settings.name
                && state.servers.iter().map(|each| &each.server).eq(settings.servers.iter().map(|each| &each.server))
        };
        if let Some(known) = states.iter().find(same) {
            return Arc::clone(known);
        }
        let of_the_name = states.iter().filter(|state| state.name == settings.name);
        // The latest first: it is the one whose servers are in use.
        let mut known: Vec<_> = of_the_name.rev().flat_map(|state| state.servers.iter().cloned()).collect();
        let servers = settings.servers.iter().map(|member| {
            let index = known.iter().position(|known| known.server == member.server);
            // Taken out: a server that is listed twice is two.
            index
                .map_or_else(|| Arc::new(ServerState::new(&member.server, &settings.name)), |index| known.remove(index))
        });
        let servers = servers.collect();
        let latest = states.iter().rfind(|state| state.name == settings.name);
        let shared = latest.map(|state| (Arc::clone(&state.budget), Arc::clone(&state.queue)));
        let (budget, queue) = shared.unwrap_or_default();
        let state = Arc::new(UpstreamState { name: Arc::clone(&settings.name), servers, budget, queue });
        states.retain(|state| Arc::strong_count(state) > 1);
        states.push(Arc::clone(&state));
        state
    }

    /// What a server is found by; `None`: it has an address.
    pub(super) fn name(&self, authority: &Authority, default_port: u16) -> Option<Arc<Name>> {
        let (host, port) = (bare(authority), authority.port.unwrap_or(default_port));
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name| name.strong_count() > 0);
        if let Some(known) = names.iter().filter_map(Weak::upgrade).find(|name| name.is(host, port)) {
            return Some(known);
        }
        let name = Arc::new(Name::new(host, port));
        names.push(Arc::downgrade(&name));
        Some(name)
    }

    /// Names that it is time to ask for again.
    pub(super) fn names_due(&self, now: u64) -> Vec<Arc<Name>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(Weak::upgrade).filter(|name| name.is_due(now)).collect()
    }

    /// Where a worker's round begins: each at another server.
    pub(super) fn next_round(&self) -> usize {
        self.rounds.fetch_add(1, Relaxed)
    }

    /// What a server of this upstream gets now.
    pub fn place(&self, server: &ServerState, settings: &Settings) -> Place {
        server.standing.place(&settings.rules, || self.now_millis())
    }

    pub(super) fn now_millis(&self) -> u64 {
        u64::try_from(clock::instant().duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

impl ServerState {
    pub(super) fn new(server: &Server, upstream: &Arc<str>) -> Self {
        let label: Box<str> = match server {
            Server::Echo => "echo:".into(),
            Server::H2c(authority) => format!("h2c://{authority}").into(),
            Server::Http(authority) => format!("http://{authority}").into(),
            Server::Https(authority) => format!("https://{authority}").into(),
            Server::Unix(path) => format!("unix:{}", path.display()).into(),
            Server::UnixH2c(path) => format!("unix+h2c:{}", path.display()).into(),
        };
        Self {
            standing: Standing::new(Arc::clone(upstream), label.clone()),
            label,
            counters: Counters::default(),
            server: server.clone(),
        }
    }

    /// A connection was made.
    pub(super) fn succeeded(&self) {
        self.counters.connects.fetch_add(1, Relaxed);
        self.standing.connected();
    }

    /// No connection could be made at `now` (milliseconds).
    pub(super) fn failed(&self, rules: &Rules, now: u64) {
        self.counters.connect_failures.fetch_add(1, Relaxed);
        self.standing.refused(rules, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(path: &str) -> Server {
        Server::Unix(path.into())
    }

    #[test]
    fn servers_of_one_name_know_it_together_and_addresses_are_no_names() {
        let shared = Shared::new(None, Box::default());
        let name = |text: &str, port| shared.name(&text.parse().unwrap(), port);

        let (one, same) = (name("a.example", 80).unwrap(), name("a.example:80", 443).unwrap());
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &name("a.example", 443).unwrap()));
        assert!(name("10.0.0.1", 80).is_none() && name("[::1]:8080", 80).is_none());
    }

    #[test]
    fn a_server_that_stays_keeps_its_counts_over_reloads() {
        let shared = Shared::new(None, Box::default());
        let state = |servers: &[&str]| {
            shared.state(&super::super::tests::settings(servers.iter().copied().map(member).collect()))
        };
        let before = state(&["/a", "/b"]);
        let same = state(&["/a", "/b"]);
        let after = state(&["/c", "/b", "/b"]);

        assert!(Arc::ptr_eq(&before, &same) && !Arc::ptr_eq(&before, &after));
        assert!(Arc::ptr_eq(&before.servers[1], &after.servers[1]));
        assert!(!Arc::ptr_eq(&after.servers[1], &after.servers[2]), "a server that is listed twice is two");
        assert!(!before.servers.iter().any(|server| Arc::ptr_eq(server, &after.servers[0])));
    }
}
