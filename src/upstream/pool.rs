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
    Caller, Counters, HostPolicy, Outgoing, Settings, Shared, UpstreamError, UpstreamState, answer,
    balance::Balancer,
    connect::{Io, Target},
    link::{Broken, Link},
    outbox::Outbox,
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
}

/// One upstream's settings as this worker uses them.
pub(super) struct Entry {
    /// Holds the settings' address, so that comparing addresses compares settings; not the settings themselves.
    settings: ArcWeak<Settings>,
    state: Arc<UpstreamState>,
    servers: Box<[Rc<ServerPool>]>,
    balancer: Balancer,
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

/// One server's idle connections.
pub(super) struct ServerPool {
    target: Target,
    state: Arc<ServerState>,
    idle: RefCell<Vec<Idle>>,
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

/// Counts a request at its server.
struct UnderWay(Rc<ServerPool>);

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
            server.idle.borrow_mut().clear();
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
                server.idle.borrow_mut().clear();
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
            let same = |pool: &&Rc<ServerPool>| Arc::ptr_eq(&pool.state, server);
            if let Some(known) = servers.iter().find(same) {
                return Rc::clone(known);
            }
            let pool = Rc::new(ServerPool {
                target: Target::new(member.server.clone(), Arc::clone(&settings.name), Arc::clone(&self.0.shared)),
                state: Arc::clone(server),
                idle: RefCell::default(),
            });
            servers.push(Rc::clone(&pool));
            pool
        });
        let entry = Rc::new(Entry {
            settings: Arc::downgrade(settings),
            servers: pools.collect(),
            balancer: Balancer::new(settings, &state, self.0.shared.next_round()),
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
            server.idle.borrow_mut().clear();
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
        caller: Option<Caller>,
    ) -> Result<Lease, UpstreamError> {
        let Some(index) = self.pick(all, tried, caller) else { return Err(UpstreamError::Unreachable("no_server")) };
        if let Some(server) = self.servers.get(index)
            && let Some(link) = server.idle_connection(all.0.ticks.now())
        {
            server.counters().reused.fetch_add(1, Relaxed);
            return Ok(self.lend(link, UnderWay::at(server)));
        }
        // Boxed, as every connecting here: hardly any request needs it, and all would carry its state.
        Box::pin(self.connect(all, tried, caller, index)).await
    }

    /// As [`Self::lease`], but always a new connection.
    pub(super) async fn fresh_lease(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        caller: Option<Caller>,
    ) -> Result<Lease, UpstreamError> {
        let Some(index) = self.pick(all, tried, caller) else { return Err(UpstreamError::Unreachable("no_server")) };
        Box::pin(self.connect(all, tried, caller, index)).await
    }

    fn pick(&self, all: &Upstreams, tried: &[usize], caller: Option<Caller>) -> Option<usize> {
        self.balancer.pick(&self.state, tried, caller, || all.0.shared.now_millis())
    }

    async fn connect(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
        caller: Option<Caller>,
        first: usize,
    ) -> Result<Lease, UpstreamError> {
        let began = clock::instant();
        let mut next = Some(first);
        let mut failure = UpstreamError::Unreachable("no_server");
        while let Some((index, server)) = next.and_then(|index| Some((index, self.servers.get(index)?))) {
            let under_way = UnderWay::at(server);
            let untried = u32::try_from(self.servers.len().saturating_sub(tried.len())).unwrap_or(u32::MAX).max(1);
            let left = self.connect_timeout.saturating_sub(clock::instant().duration_since(began));
            match server.connect(left / untried).await {
                Ok(io) => return Ok(self.lend(all.link(io, server), under_way)),
                Err(why) => {
                    server.state.failed(all.0.shared.now_millis());
                    failure = why;
                    tried.push(index);
                    next = self.pick(all, tried, caller);
                }
            }
        }
        Err(failure)
    }

    /// A new connection to the server of `lease`, whose own has died.
    pub(super) async fn lease_again(self: &Rc<Self>, all: &Upstreams, lease: Lease) -> Result<Lease, UpstreamError> {
        let Lease { link, server, .. } = lease;
        // It goes before the next comes: two at once would be one too many for a server that counts them.
        drop(link);
        server.0.counters().retries.fetch_add(1, Relaxed);
        let io = Box::pin(server.0.connect(self.connect_timeout)).await?;
        Ok(self.lend(all.link(io, &server.0), server))
    }

    /// The `Host` that the policy asks for.
    pub(super) fn host_of<'a>(&'a self, lease: &'a Lease, request: &'a Outgoing) -> &'a HeaderValue {
        match &self.host {
            HostValue::Fixed(value) => value,
            HostValue::Keep => &request.host,
            HostValue::Server => &lease.server.0.target.host,
        }
    }

    fn lend(self: &Rc<Self>, link: Rc<Link>, server: UnderWay) -> Lease {
        Lease { link, entry: Rc::clone(self), server, once: false }
    }
}

impl ServerPool {
    /// A new stream to this server; counted, and told to the balancer if it succeeds.
    pub(super) async fn connect(&self, limit: Duration) -> Result<Io, UpstreamError> {
        let io = self.target.dial(limit).await?;
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

    fn evict(&self, now: u64) {
        self.idle.borrow_mut().retain(|idle| idle.expires > now && idle.link.is_fit());
    }
}

impl Lease {
    /// The connection's state.
    pub(super) const fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The server's counts.
    pub(super) fn counters(&self) -> &Counters {
        self.server.0.counters()
    }

    /// This is the connection's last exchange.
    pub(super) const fn use_once(&mut self) {
        self.once = true;
    }

    /// The answer's next bytes are waited for.
    pub(super) fn wait_for_bytes(&self) {
        self.link.wait(self.entry.read_ticks);
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
            let expires = link.ticks().now().saturating_add(entry.idle_ticks);
            idle.push(Idle { link, expires });
        }
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
                link.head_came();
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
            link.as_ref().filter(|_| in_time).inspect(|link| link.judge());
            link.is_some()
        });
        inner.servers.borrow_mut().retain(|server| {
            server.evict(now);
            Rc::strong_count(server) > 1
        });
        if links.is_empty() {
            inner.ticking.set(false);
            return;
        }
    }
}

/// RFC 9110 section 9.2.2, but for `TRACE`, which does not get here.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// How coarse deadlines are.
const TICK: Duration = Duration::from_millis(50);
/// After this many ticks at once deadlines are judged only at the next.
const LATE_TICKS: u64 = 10;
/// Bytes read before an answer's head was complete, interim answers included (R16). A head itself is bounded at 64 KiB;
/// what is more here is body that was read in the same go.
const BEFORE_HEAD_BYTES_MAX: usize = 256 * 1024;
