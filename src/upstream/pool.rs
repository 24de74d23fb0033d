//! One worker's connections: made, lent, taken back, given up.
//!
//! [`Upstreams`] is what a worker holds; an [`Entry`] is one upstream in one generation of settings, a
//! [`ServerPool`] one server's idle connections (last in, first out), which outlive a reload. A [`Lease`] is the right
//! to one exchange on one connection: finished, the connection returns; dropped, it is cut. All deadlines hang on one
//! coarse ticker for each worker that runs while there are connections: an exchange registers no timer, it sets a
//! number. Nothing here crosses threads but the counters.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::{Arc, Weak as ArcWeak, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode};
use smallvec::SmallVec;
use tokio::time::MissedTickBehavior;

use super::{
    Caller, Counters, HostPolicy, Outgoing, Rules, Settings, Shared, UpstreamError, UpstreamState, answer,
    balance::Balancer,
    connect::{Io, Offer, Speaks, Target},
    http2,
    link::{Broken, Link},
    outbox::Outbox,
    patience::Patience,
    servers::ServerState,
};
use crate::{clock, shutdown::Shutdown};

/// A worker's connections to all upstreams. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Upstreams(Rc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    ticks: Ticks,
    ticking: Cell<bool>,
    entries: RefCell<Vec<Rc<Entry>>>,
    servers: RefCell<Vec<Rc<ServerPool>>>,
    links: RefCell<Vec<Weak<Link>>>,
    /// Of exchanges on shared connections.
    exchanges: RefCell<Vec<Weak<Patience>>>,
}

/// One upstream's settings as this worker uses them.
pub(super) struct Entry {
    /// Holds the settings' address, so that comparing addresses compares settings; not the settings themselves.
    settings: ArcWeak<Settings>,
    state: Arc<UpstreamState>,
    servers: Box<[Rc<ServerPool>]>,
    balancer: Balancer,
    rules: Rules,
    /// Whether it matters how a server does: it does not where there is no other.
    judges: bool,
    host: HostValue,
    connect_timeout: Duration,
    pub(super) response_ticks: u64,
    read_ticks: u64,
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

/// One server's idle and shared connections.
pub(super) struct ServerPool {
    target: Target,
    state: Arc<ServerState>,
    idle: RefCell<Vec<Idle>>,
    speaks: Cell<Speaks>,
    shared: http2::Sessions,
}

struct Idle {
    link: Rc<Link>,
    /// In ticks.
    expires: u64,
}

/// The right to one exchange on one connection. Dropped, it cuts the connection.
pub(super) struct Lease {
    link: Rc<Link>,
    entry: Rc<Entry>,
    server: UnderWay,
    once: bool,
}

/// The right to one exchange on a connection that others use too. Dropped, it ends that exchange alone.
pub(super) struct SharedLease {
    seat: http2::Seat,
    entry: Rc<Entry>,
    server: UnderWay,
}

/// Which way a request would go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Whose requests go to one server.
    pub(super) caller: Option<Caller>,
    /// Whether it can share a connection.
    pub(super) offer: Offer,
}

/// The way to a server.
pub(super) enum Leased {
    /// A connection for this request alone.
    Own(Lease),
    /// A place on one.
    Shared(SharedLease),
}

/// A connection to a server, not yet lent.
enum Reached {
    Own(Io),
    Shared(http2::Seat),
}

/// Counts a request at its server.
pub(super) struct UnderWay(Rc<ServerPool>);

/// Indices of servers that gave no connection for this request.
pub(super) type Tried = SmallVec<[usize; 4]>;

/// Why no answer's head came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// This is why.
    Failed(UpstreamError),
    /// The connection ended before a byte of an answer. It had served before, and what was sent may be sent again.
    Died,
    /// The connection ended before a byte of the request was written.
    NotSent,
    /// The server says that it did not process the request.
    Refused,
}

/// The worker's coarse clock.
#[derive(Clone)]
pub(super) struct Ticks(Rc<TickState>);

struct TickState {
    now: Cell<u64>,
    began: Instant,
}

/// `duration` in ticks, never too short: the present tick may be nearly over.
pub(super) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX).saturating_add(1)
}

impl Upstreams {
    /// For the thread it is made in. Tunnels end when `shutdown` is triggered, and hold its guards until then.
    pub fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self(Rc::new(Inner {
            shared,
            shutdown,
            ticks: Ticks(Rc::new(TickState { now: Cell::new(0), began: clock::instant() })),
            ticking: Cell::new(false),
            entries: RefCell::default(),
            servers: RefCell::default(),
            links: RefCell::default(),
            exchanges: RefCell::default(),
        }))
    }

    /// What idle connections have read ahead or made room for, in bytes.
    #[cfg(test)]
    pub(super) fn idle_buffer_bytes(&self) -> usize {
        let servers = self.0.servers.borrow();
        let sizes = servers.iter().flat_map(|server| {
            server.idle.borrow().iter().map(|idle| idle.link.buffer().borrow().capacity()).collect::<Vec<_>>()
        });
        sizes.sum()
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        for server in &*self.0.servers.borrow() {
            server.clear();
        }
    }

    /// Takes over the settings of a new generation: unchanged servers keep their connections, idle ones to servers that
    /// nobody asks for any more are closed. `false` while requests under way use other settings: ask again later.
    pub fn settle(&self, settings: &[Arc<Settings>]) -> bool {
        let current: Vec<Rc<Entry>> = settings.iter().map(|settings| self.entry(settings)).collect();
        let mut entries = self.0.entries.borrow_mut();
        entries.retain(|entry| entry.settings.strong_count() > 0);
        for server in &*self.0.servers.borrow() {
            if !entries.iter().any(|entry| entry.servers.iter().any(|used| Rc::ptr_eq(used, server))) {
                server.clear();
            }
        }
        entries.len() == current.len()
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// This worker's view of `settings`, made when they are first met.
    pub(super) fn entry(&self, settings: &Arc<Settings>) -> Rc<Entry> {
        let address = Arc::as_ptr(settings);
        if let Some(known) = self.0.entries.borrow().iter().find(|entry| entry.settings.as_ptr() == address) {
            return Rc::clone(known);
        }
        self.new_entry(settings)
    }

    #[cold]
    fn new_entry(&self, settings: &Arc<Settings>) -> Rc<Entry> {
        let state = self.0.shared.state(settings);
        let mut servers = self.0.servers.borrow_mut();
        let pools = settings.servers.iter().zip(&state.servers).map(|(member, server)| {
            // Connections that were made with other certificates, or to speak otherwise, are none of these settings.
            let same = |pool: &&Rc<ServerPool>| {
                let target = &pool.target;
                Arc::ptr_eq(&pool.state, server) && target.offers_http2 == settings.http2 && target.tls == settings.tls
            };
            if let Some(known) = servers.iter().find(same) {
                return Rc::clone(known);
            }
            let target = Target::new(member.server.clone(), settings, Arc::clone(&self.0.shared));
            let pool = Rc::new(ServerPool {
                speaks: Cell::new(target.speaks()),
                target,
                state: Arc::clone(server),
                idle: RefCell::default(),
                shared: http2::Sessions::default(),
            });
            servers.push(Rc::clone(&pool));
            pool
        });
        let entry = Rc::new(Entry {
            settings: Arc::downgrade(settings),
            servers: pools.collect(),
            balancer: Balancer::new(settings, &state, self.0.shared.next_round()),
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
            connect_timeout: settings.connect_timeout,
            response_ticks: ticks(settings.response_timeout),
            read_ticks: ticks(settings.read_timeout),
            idle_ticks: ticks(settings.idle_timeout),
            max_idle: settings.max_idle,
        });
        let mut entries = self.0.entries.borrow_mut();
        entries.retain(|entry| entry.settings.strong_count() > 0);
        entries.push(Rc::clone(&entry));
        entry
    }

    /// A new connection, whose deadlines are watched over.
    fn link(&self, io: Io, server: &Rc<ServerPool>) -> Rc<Link> {
        let link = Link::new(io, self.0.ticks.clone(), Rc::clone(server));
        self.watch(&link);
        link
    }

    /// Watches over a new connection's deadlines.
    fn watch(&self, link: &Rc<Link>) {
        self.0.links.borrow_mut().push(Rc::downgrade(link));
        self.keep_ticking();
    }

    /// Watches over the deadline of an exchange on a shared connection.
    pub(super) fn watch_over(&self, exchange: &Rc<Patience>) {
        self.0.exchanges.borrow_mut().push(Rc::downgrade(exchange));
        self.keep_ticking();
    }

    fn keep_ticking(&self) {
        if !self.0.ticking.replace(true) {
            self.0.ticks.advance();
            tokio::task::spawn_local(tick(Rc::downgrade(&self.0)));
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("connections", &self.0.links.borrow().len()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    /// A connection knows its pool and the pool its idle connections: somebody has to let go.
    fn drop(&mut self) {
        for server in self.servers.get_mut() {
            server.clear();
        }
    }
}

impl Entry {
    /// A connection to a server not in `tried`: an idle one if there is one, else new. Servers that cannot be reached
    /// are added to `tried`.
    pub(super) async fn lease(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        wish: Wish,
    ) -> Result<Leased, UpstreamError> {
        let Some(index) = self.pick(all, tried, wish.caller) else { return Err(none_left(tried)) };
        if let Some(server) = self.servers.get(index)
            && !server.shares(wish.offer)
            && let Some(link) = server.idle_connection(all.0.ticks.now())
        {
            server.counters().reused.fetch_add(1, Relaxed);
            return Ok(Leased::Own(self.lend(link, UnderWay::at(server))));
        }
        // Boxed, as every connecting here: hardly any request needs it, and all would carry its state.
        Box::pin(self.connect(all, tried, wish, index)).await
    }

    /// As [`Self::lease`], but always a new connection.
    pub(super) async fn fresh_lease(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        wish: Wish,
    ) -> Result<Leased, UpstreamError> {
        let Some(index) = self.pick(all, tried, wish.caller) else { return Err(none_left(tried)) };
        Box::pin(self.connect(all, tried, wish, index)).await
    }

    fn pick(&self, all: &Upstreams, tried: &[usize], caller: Option<Caller>) -> Option<usize> {
        self.balancer.pick(&self.state, tried, caller, || all.0.shared.now_millis())
    }

    async fn connect(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        wish: Wish,
        first: usize,
    ) -> Result<Leased, UpstreamError> {
        let began = clock::instant();
        let mut next = Some(first);
        let mut failure = UpstreamError::Unreachable("no_server");
        while let Some((index, server)) = next.and_then(|index| Some((index, self.servers.get(index)?))) {
            let under_way = UnderWay::at(server);
            let untried = u32::try_from(self.servers.len().saturating_sub(tried.len())).unwrap_or(u32::MAX).max(1);
            let left = self.connect_timeout.saturating_sub(clock::instant().duration_since(began));
            match self.reach(all, server, wish.offer, left / untried).await {
                Ok(reached) => return Ok(self.lend_reached(all, reached, under_way)),
                Err(why) => {
                    server.state.failed(&self.rules, all.0.shared.now_millis());
                    failure = why;
                    tried.push(index);
                    next = self.pick(all, tried, wish.caller);
                }
            }
        }
        Err(failure)
    }

    /// A new connection to the server of `lease`, whose own has died.
    pub(super) async fn lease_again(
        self: &Rc<Self>,
        all: &Upstreams,
        lease: Lease,
        offer: Offer,
    ) -> Result<Leased, UpstreamError> {
        let Lease { link, server, .. } = lease;
        // It goes before the next comes: two at once would be one too many for a server that counts them.
        drop(link);
        server.0.counters().retries.fetch_add(1, Relaxed);
        let reached = Box::pin(self.reach(all, &server.0, offer, self.connect_timeout)).await?;
        Ok(self.lend_reached(all, reached, server))
    }

    /// A connection to one server within `limit`: a place on a shared one, or a new one. Where several requests want
    /// one that they could share, one of them makes it and the others wait.
    async fn reach(
        &self,
        all: &Upstreams,
        server: &Rc<ServerPool>,
        offer: Offer,
        limit: Duration,
    ) -> Result<Reached, UpstreamError> {
        let began = clock::instant();
        let left = || limit.saturating_sub(clock::instant().duration_since(began));
        while server.shares(offer) {
            if let Some(seat) = server.shared.seat(self.idle_ticks) {
                if seat.is_used() {
                    server.counters().reused.fetch_add(1, Relaxed);
                }
                return Ok(Reached::Shared(seat));
            }
            match server.shared.depart() {
                Err(flight) => match tokio::time::timeout(left(), flight.landed()).await {
                    Err(_) => return Err(UpstreamError::Timeout("connect_timeout")),
                    Ok(Some(Err(why))) => return Err(why),
                    Ok(Some(Ok(())) | None) => {}
                },
                Ok(departure) => {
                    let reached = match server.connect(offer, left()).await {
                        Ok(reached) => reached,
                        Err(why) => {
                            departure.end(Err(why));
                            return Err(why);
                        }
                    };
                    if !server.target.is_http2(&reached) {
                        server.speaks.set(Speaks::Http1);
                        departure.end(Ok(()));
                        return Ok(Reached::Own(reached));
                    }
                    server.speaks.set(Speaks::Http2);
                    let started =
                        http2::Session::start(reached, all.0.ticks.clone(), Rc::clone(server), self.idle_ticks);
                    let started = tokio::time::timeout(left(), started).await;
                    let session = started.unwrap_or(Err(UpstreamError::Timeout("connect_timeout")));
                    let session = match session {
                        Ok(session) => session,
                        Err(why) => {
                            departure.end(Err(why));
                            return Err(why);
                        }
                    };
                    all.keep_ticking();
                    return Ok(Reached::Shared(departure.arrive(session, self.idle_ticks)));
                }
            }
        }
        if server.speaks.get() == Speaks::Http2 && !server.target.can_choose() {
            return Err(UpstreamError::Unreachable("http2_only"));
        }
        // What is not shared speaks HTTP/1.1 and nothing else.
        let reached = server.connect(Offer::Http1, left()).await;
        if matches!(reached, Err(UpstreamError::Unreachable("tls"))) && server.speaks.get() == Speaks::Http1 {
            // It may have changed its mind about what it speaks.
            server.speaks.set(server.target.speaks());
        }
        reached.map(Reached::Own)
    }

    fn lend_reached(self: &Rc<Self>, all: &Upstreams, reached: Reached, server: UnderWay) -> Leased {
        match reached {
            Reached::Own(io) => Leased::Own(self.lend(all.link(io, &server.0), server)),
            Reached::Shared(seat) => Leased::Shared(SharedLease { seat, entry: Rc::clone(self), server }),
        }
    }

    /// A server answered.
    pub(super) fn note_answer(&self, all: &Upstreams, server: &UnderWay, status: StatusCode) {
        if self.judges {
            server.0.state.standing.answered(&self.rules, status, || all.0.shared.now_millis());
        }
    }

    /// A server did not answer, if that was its own fault.
    #[cold]
    pub(super) fn note_failure(&self, all: &Upstreams, server: &UnderWay, why: UpstreamError) {
        match why {
            UpstreamError::Invalid(_) | UpstreamError::Timeout(_) | UpstreamError::Unreachable(_) if self.judges => {
                server.0.state.standing.failed(&self.rules, all.0.shared.now_millis());
            }
            UpstreamError::ClientBody
            | UpstreamError::Invalid(_)
            | UpstreamError::Timeout(_)
            | UpstreamError::TooLarge
            | UpstreamError::Unavailable(_)
            | UpstreamError::Unreachable(_) => {}
        }
    }

    /// The `Host` that the policy asks for.
    fn host_of<'a>(&'a self, server: &'a ServerPool, request: &'a Outgoing) -> &'a HeaderValue {
        match &self.host {
            HostValue::Fixed(value) => value,
            HostValue::Keep => &request.host,
            HostValue::Server => &server.target.host,
        }
    }

    fn lend(self: &Rc<Self>, link: Rc<Link>, server: UnderWay) -> Lease {
        Lease { link, entry: Rc::clone(self), server, once: false }
    }
}

impl ServerPool {
    /// A new stream to this server; counted, and told to the balancer if it succeeds.
    async fn connect(&self, offer: Offer, limit: Duration) -> Result<Io, UpstreamError> {
        let io = self.target.dial(offer, limit).await?;
        self.state.succeeded();
        Ok(io)
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.state.counters
    }

    /// The connection used last, if it is still fit for a request.
    fn idle_connection(&self, now: u64) -> Option<Rc<Link>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if candidate.expires > now && candidate.link.is_fit() {
                return Some(candidate.link);
            }
        }
        None
    }

    /// Whether a request takes a place on a shared connection, or would if there were one.
    fn shares(&self, offer: Offer) -> bool {
        self.speaks.get() != Speaks::Http1 && offer == Offer::All
    }

    /// Closes idle connections, and those that are shared as soon as they are idle.
    fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.shared.clear();
    }

    fn evict(&self, now: u64) {
        self.shared.judge();
        if let Some(name) = &self.target.name {
            self.idle.borrow_mut().retain(|idle| idle.link.is_at(name));
        }
        self.idle.borrow_mut().retain(|idle| idle.expires > now && idle.link.is_fit());
    }
}

impl Lease {
    /// The server, and that a request is under way there.
    pub(super) const fn server(&self) -> &UnderWay {
        &self.server
    }

    /// The connection's state.
    pub(super) const fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The server's counts.
    pub(super) fn counters(&self) -> &Counters {
        self.server.0.counters()
    }

    /// The `Host` that it is sent.
    pub(super) fn host<'a>(&'a self, request: &'a Outgoing) -> &'a HeaderValue {
        self.entry.host_of(&self.server.0, request)
    }

    /// This is the connection's last exchange.
    pub(super) const fn use_once(&mut self) {
        self.once = true;
    }

    /// The answer's next bytes are waited for.
    pub(super) fn wait_for_bytes(&self) {
        self.link.patience().wait(self.entry.read_ticks);
    }

    /// Sends what is in `outbox` and waits for the head of its answer, which must begin within `response_ticks`. If the
    /// answer comes early, the rest of the request is still in `outbox`.
    pub(super) async fn exchange(
        &self,
        outbox: &mut Outbox,
        response_ticks: u64,
        method: &Method,
    ) -> Result<answer::Final, Failure> {
        let link = &self.link;
        let used = link.begin(response_ticks);
        let mut search = answer::Search::default();
        let ended = poll_fn(|cx| poll_exchange(link, outbox, &mut search, *method == Method::HEAD, cx)).await;
        ended.map_err(|ended| match ended {
            Ended::Because(why) => Failure::Failed(why),
            Ended::Closed if link.was_answered() => Failure::Failed(UpstreamError::Invalid("broken_head")),
            Ended::Closed if !outbox.begun() => Failure::NotSent,
            Ended::Closed if used && !outbox.has_body() && is_idempotent(method) => Failure::Died,
            Ended::Closed => Failure::Failed(UpstreamError::Invalid("no_answer")),
        })
    }

    /// The answer was read to its end: the connection goes back if the request was sent to its end, too.
    pub(super) fn finish(self) {
        let Self { link, entry, server, once } = self;
        link.idle();
        let mut idle = server.0.idle.borrow_mut();
        if !once && !link.is_sending() && idle.len() < entry.max_idle {
            let expires = link.patience().ticks().now().saturating_add(entry.idle_ticks);
            idle.push(Idle { link, expires });
        }
    }
}

impl SharedLease {
    /// The server, and that a request is under way there.
    pub(super) const fn server(&self) -> &UnderWay {
        &self.server
    }

    /// The place on the connection.
    pub(super) const fn seat(&self) -> &http2::Seat {
        &self.seat
    }

    /// The server's counts.
    pub(super) fn counters(&self) -> &Counters {
        self.server.0.counters()
    }

    /// The authority that it is sent.
    pub(super) fn host<'a>(&'a self, request: &'a Outgoing) -> &'a HeaderValue {
        self.entry.host_of(&self.server.0, request)
    }

    /// Whether what is said to the server is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.server.0.target.is_encrypted()
    }

    /// How long the answer may pause.
    pub(super) fn read_ticks(&self) -> u64 {
        self.entry.read_ticks
    }
}

/// Why an exchange came to no head.
enum Ended {
    Because(UpstreamError),
    /// The stream ended.
    Closed,
}

/// Sends and reads, whichever goes, until the final answer's head is there.
fn poll_exchange(
    link: &Rc<Link>,
    outbox: &mut Outbox,
    search: &mut answer::Search,
    to_head: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<answer::Final, Ended>> {
    // Nothing is sent twice: an outbox that is empty, or not wanted, says so again.
    if let Poll::Ready(Err(why)) = outbox.poll_send(cx, link) {
        return Poll::Ready(Err(Ended::Because(why)));
    }
    loop {
        let taken = answer::take(&mut link.buffer().borrow_mut(), search, to_head);
        match taken.map_err(Ended::Because)? {
            Some(answer::Head::Final(head)) => {
                link.patience().head_came();
                return Poll::Ready(Ok(head));
            }
            Some(answer::Head::Interim(StatusCode::CONTINUE)) => {
                outbox.continue_now();
                if let Poll::Ready(Err(why)) = outbox.poll_send(cx, link) {
                    return Poll::Ready(Err(Ended::Because(why)));
                }
            }
            Some(answer::Head::Interim(_)) => {}
            None if link.received() >= BEFORE_HEAD_BYTES_MAX => {
                return Poll::Ready(Err(Ended::Because(UpstreamError::Invalid("too_much_before_head"))));
            }
            None => match ready!(link.poll_fill(cx)) {
                Ok(0) | Err(Broken::Stream) => return Poll::Ready(Err(Ended::Closed)),
                Ok(_) => {}
                Err(Broken::Blamed(why)) => return Poll::Ready(Err(Ended::Because(why))),
            },
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("server", &self.server.0.state.label).finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLease").field("server", &self.server.0.state.label).finish_non_exhaustive()
    }
}

impl UnderWay {
    fn at(server: &Rc<ServerPool>) -> Self {
        server.counters().under_way.fetch_add(1, Relaxed);
        Self(Rc::clone(server))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.counters().under_way.fetch_sub(1, Relaxed);
    }
}

impl Ticks {
    /// The present tick.
    pub(super) fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// Reads the clock; returns how many ticks have passed.
    fn advance(&self) -> u64 {
        let passed = clock::instant().duration_since(self.0.began).as_millis() / TICK.as_millis();
        let now = u64::try_from(passed).unwrap_or(u64::MAX);
        now.saturating_sub(self.0.now.replace(now))
    }
}

/// Judges all deadlines, tick by tick, until there is no connection left.
async fn tick(worker: Weak<Inner>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let Some(inner) = worker.upgrade() else { return };
        let passed = inner.ticks.advance();
        let now = inner.ticks.now();
        let mut links = inner.links.borrow_mut();
        // If this thread was held up, answers may wait in sockets: they are read first.
        let in_time = passed <= LATE_TICKS;
        links.retain(|link| {
            let link = link.upgrade();
            link.as_ref().filter(|_| in_time).inspect(|link| link.patience().judge());
            link.is_some()
        });
        let mut exchanges = inner.exchanges.borrow_mut();
        exchanges.retain(|exchange| {
            let exchange = exchange.upgrade();
            exchange.as_ref().filter(|_| in_time).inspect(|exchange| exchange.judge());
            exchange.is_some()
        });
        let mut none_shared = true;
        inner.servers.borrow_mut().retain(|server| {
            server.evict(now);
            none_shared &= server.shared.are_gone();
            Rc::strong_count(server) > 1
        });
        if links.is_empty() && exchanges.is_empty() && none_shared {
            inner.ticking.set(false);
            return;
        }
    }
}

/// Why there is no server for a request: all were tried, or none may be.
fn none_left(tried: &[usize]) -> UpstreamError {
    if tried.is_empty() { UpstreamError::Unavailable("no_server_in") } else { UpstreamError::Unreachable("no_server") }
}

/// RFC 9110 section 9.2.2, but for `TRACE`, which does not get here.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// How coarse deadlines are.
const TICK: Duration = Duration::from_millis(50);
/// After this many ticks at once deadlines are judged only at the next.
const LATE_TICKS: u64 = 10;
/// Bytes read before an answer's head was complete, interim answers included (R16). A head itself is bounded at 64 KiB;
/// what is more here is body that was read in the same go.
const BEFORE_HEAD_BYTES_MAX: usize = 256 * 1024;
