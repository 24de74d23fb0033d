//! One upstream's settings as a worker uses them: which server a request goes to, and by which connection.
//!
//! In: a request's [`Wish`] and the servers that were tried for it. Out: a [`Lease`] or a [`SharedLease`], or why no
//! server can be asked. All servers that are tried share one time to connect. How a server does is told to its standing
//! here, and where there is no other server it does not matter.

use std::{
    rc::Rc,
    sync::{Arc, Weak as ArcWeak, atomic::Ordering::Relaxed},
};

use http::{HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::{
    Upstreams,
    lease::{Lease, SharedLease},
    server::{Reached, ServerPool, UnderWay},
};
use crate::{
    clock,
    upstream::{
        Budget, Caller, Counters, HostPolicy, Outgoing, Queue, QueueLimits, Retries, Rules, Settings, UpstreamError,
        UpstreamState, balance::Balancer, connect::Offer, link::Link, ticks::ticks, times::Times,
    },
};

/// One upstream's settings as this worker uses them.
pub(in crate::upstream) struct Entry {
    /// Holds the settings' address, so that comparing addresses compares settings; not the settings themselves.
    settings: ArcWeak<Settings>,
    state: Arc<UpstreamState>,
    servers: Box<[Rc<ServerPool>]>,
    balancer: Balancer,
    rules: Rules,
    /// Whether it matters how a server does: it does not where there is no other.
    judges: bool,
    compares: bool,
    host: HostValue,
    pub(in crate::upstream) times: Times,
    /// When a request is sent again that a server may have had.
    pub(in crate::upstream) retries: Option<Rc<Retries>>,
    /// How many requests it has at once.
    pub(in crate::upstream) queue: Option<QueueLimits>,
    idle_ticks: u64,
    max_idle: usize,
}

/// What `Host` becomes.
enum HostValue {
    /// This.
    Fixed(HeaderValue),
    /// It stays.
    Keep,
    /// The server's own.
    Server,
}

/// Which way a request would go.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Wish<'a> {
    /// Whose requests go to one server.
    pub(in crate::upstream) caller: Option<Caller>,
    /// Which connections will do.
    pub(in crate::upstream) offer: Offer,
    /// Servers that are asked only if there is no other.
    pub(in crate::upstream) asked: &'a [usize],
    /// Whether a connection that was idle will not do: too many were found dead.
    pub(in crate::upstream) fresh: bool,
    /// How long it may take.
    pub(in crate::upstream) times: &'a Times,
}

/// The way to a server.
pub(in crate::upstream) enum Leased {
    /// A connection for this request alone.
    Own(Lease),
    /// A place on one.
    Shared(SharedLease),
}

/// Indices of servers that gave no connection for this request.
pub(in crate::upstream) type Tried = SmallVec<[usize; 4]>;

impl Leased {
    /// The server's counts.
    pub(in crate::upstream) fn counters(&self) -> &Counters {
        match self {
            Self::Own(lease) => lease.counters(),
            Self::Shared(lease) => lease.counters(),
        }
    }
}

impl Entry {
    /// Of `settings`, whose servers are these. `round` is where its first turn begins.
    pub(super) fn new(
        settings: &Arc<Settings>,
        state: Arc<UpstreamState>,
        servers: Box<[Rc<ServerPool>]>,
        round: usize,
    ) -> Self {
        let balancer = Balancer::new(settings, &state, round);
        Self {
            settings: Arc::downgrade(settings),
            servers,
            compares: balancer.compares(),
            balancer,
            rules: settings.rules.clone(),
            judges: settings.servers.len() > 1,
            state,
            host: match &settings.host {
                HostPolicy::Keep => HostValue::Keep,
                // A host is made of bytes that any header value may hold.
                HostPolicy::Name(host) => {
                    HeaderValue::from_str(host.as_str()).map_or(HostValue::Server, HostValue::Fixed)
                }
                HostPolicy::Upstream => HostValue::Server,
            },
            times: Times::of(settings),
            retries: settings.retries.clone().map(Rc::new),
            queue: settings.queue,
            idle_ticks: ticks(settings.idle_timeout),
            max_idle: settings.max_idle,
        }
    }

    /// Whether it is of these settings.
    pub(super) fn is_of(&self, settings: &Arc<Settings>) -> bool {
        self.settings.as_ptr() == Arc::as_ptr(settings)
    }

    /// Whether anybody may still ask for its settings.
    pub(super) fn is_wanted(&self) -> bool {
        self.settings.strong_count() > 0
    }

    /// Whether this is one of its servers.
    pub(super) fn uses(&self, server: &Rc<ServerPool>) -> bool {
        self.servers.iter().any(|used| Rc::ptr_eq(used, server))
    }

    /// A connection to a server not in `tried`: an idle one if there is one that will do, else new. Servers that cannot
    /// be reached are added to `tried`.
    pub(in crate::upstream) async fn lease(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        wish: Wish<'_>,
    ) -> Result<Leased, UpstreamError> {
        let Some(index) = self.pick(all, tried, wish) else { return Err(none_left(tried)) };
        if !wish.fresh
            && let Some(server) = self.servers.get(index)
            && let Some(link) = server.idle_connection(wish.offer, all.0.ticks.now())
        {
            return Ok(Leased::Own(self.lend(link, UnderWay::at(server, self.compares))));
        }
        // Boxed, as every connecting here: hardly any request needs it, and all would carry its state.
        Box::pin(self.connect(all, tried, wish, index)).await
    }

    fn pick(&self, all: &Upstreams, tried: &[usize], wish: Wish<'_>) -> Option<usize> {
        let among = |left_out: &[usize]| self.balancer.pick(&self.state, left_out, wish.caller, || all.now_millis());
        if !wish.asked.is_empty() {
            let left_out: Tried = tried.iter().chain(wish.asked).copied().collect();
            if let Some(index) = among(&left_out) {
                return Some(index);
            }
        }
        among(tried)
    }

    /// What may be sent to it again, by all workers.
    pub(in crate::upstream) fn budget(&self) -> &Budget {
        &self.state.budget
    }

    /// The requests that it has, of all workers.
    pub(in crate::upstream) fn queue(&self) -> &Arc<Queue> {
        &self.state.queue
    }

    /// Which of its servers a connection leads to.
    pub(in crate::upstream) fn index_of(&self, leased: &Leased) -> Option<usize> {
        let server = match leased {
            Leased::Own(lease) => lease.server(),
            Leased::Shared(lease) => lease.server(),
        };
        self.servers.iter().position(|one| Rc::ptr_eq(one, &server.server))
    }

    async fn connect(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        wish: Wish<'_>,
        first: usize,
    ) -> Result<Leased, UpstreamError> {
        let (began, limit) = (clock::instant(), wish.times.to_connect());
        let mut next = Some(first);
        let mut failure = UpstreamError::Unreachable("no_server");
        while let Some((index, server)) = next.and_then(|index| Some((index, self.servers.get(index)?))) {
            let under_way = UnderWay::at(server, self.compares);
            let untried = u32::try_from(self.servers.len().saturating_sub(tried.len())).unwrap_or(u32::MAX).max(1);
            let left = limit.saturating_sub(clock::instant().duration_since(began));
            match server.reach(all, wish.offer, self.idle_ticks, left / untried).await {
                Ok(reached) => return Ok(self.lend_reached(all, reached, under_way)),
                Err(why) => {
                    failure = wish.times.judge(why);
                    if failure == UpstreamError::OutOfTime {
                        return Err(failure);
                    }
                    server.state().failed(&self.rules, all.0.shared.now_millis());
                    tried.push(index);
                    next = self.pick(all, tried, wish);
                }
            }
        }
        Err(failure)
    }

    /// Another connection to a `server` that had the request, and did not answer it on the one before.
    pub(in crate::upstream) async fn lease_again(
        self: &Rc<Self>,
        all: &Upstreams,
        server: UnderWay,
        wish: Wish<'_>,
    ) -> Result<Leased, UpstreamError> {
        server.server.counters().retries.fetch_add(1, Relaxed);
        let reached = Box::pin(server.server.reach(all, wish.offer, self.idle_ticks, wish.times.to_connect())).await;
        let reached = reached.map_err(|why| wish.times.judge(why))?;
        Ok(self.lend_reached(all, reached, server))
    }

    fn lend_reached(self: &Rc<Self>, all: &Upstreams, reached: Reached, server: UnderWay) -> Leased {
        match reached {
            Reached::Own(io) => Leased::Own(self.lend(all.link(io, &server.server), server)),
            Reached::Shared(seat) => Leased::Shared(SharedLease::new(seat, Rc::clone(self), server)),
        }
    }

    /// A request that a server had goes out once more.
    pub(in crate::upstream) fn note_retry(&self, server: usize) {
        if let Some(server) = self.servers.get(server) {
            server.counters().retries.fetch_add(1, Relaxed);
        }
    }

    /// A server answered.
    pub(in crate::upstream) fn note_answer(&self, all: &Upstreams, server: &UnderWay, status: StatusCode) {
        if self.judges {
            server.server.state().standing.answered(&self.rules, status, || all.0.shared.now_millis());
        }
    }

    /// A server did not answer, if that was its own fault.
    #[cold]
    pub(in crate::upstream) fn note_failure(&self, all: &Upstreams, server: &UnderWay, why: UpstreamError) {
        match why {
            UpstreamError::Invalid(_) | UpstreamError::Timeout(_) | UpstreamError::Unreachable(_) if self.judges => {
                server.server.state().standing.failed(&self.rules, all.0.shared.now_millis());
            }
            UpstreamError::Busy(_)
            | UpstreamError::ClientBody
            | UpstreamError::Invalid(_)
            | UpstreamError::OutOfTime
            | UpstreamError::Timeout(_)
            | UpstreamError::TooLarge
            | UpstreamError::Unavailable(_)
            | UpstreamError::Unreachable(_) => {}
        }
    }

    /// How long an unused connection is kept.
    pub(super) const fn idle_ticks(&self) -> u64 {
        self.idle_ticks
    }

    /// How many of them are kept for each server.
    pub(super) const fn max_idle(&self) -> usize {
        self.max_idle
    }

    /// The `Host` that the policy asks for.
    pub(super) fn host_of<'a>(&'a self, server: &'a ServerPool, request: &'a Outgoing) -> &'a HeaderValue {
        match &self.host {
            HostValue::Fixed(value) => value,
            HostValue::Keep => &request.host,
            HostValue::Server => &server.target().host,
        }
    }

    fn lend(self: &Rc<Self>, link: Rc<Link>, server: UnderWay) -> Lease {
        Lease::new(link, Rc::clone(self), server)
    }
}

/// Why there is no server for a request: all were tried, or none may be.
fn none_left(tried: &[usize]) -> UpstreamError {
    if tried.is_empty() { UpstreamError::Unavailable("no_server_in") } else { UpstreamError::Unreachable("no_server") }
}
