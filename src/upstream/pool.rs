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
    rc::{Rc, Weak},
    sync::{Arc, Weak as ArcWeak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use tokio::{io::AsyncWriteExt, time::MissedTickBehavior};

use super::{
    Balance, Counters, HostPolicy, Settings, Shared, UpstreamError, UpstreamState,
    balance::ServerState,
    body::RequestBody,
    connect::{Io, Target},
    transport::{Link, Transport},
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
    links: RefCell<Vec<Rc<Link>>>,
}

/// One upstream's settings as this worker uses them.
pub(super) struct Entry {
    /// Holds the settings' address, so that comparing addresses compares settings; not the settings themselves.
    settings: ArcWeak<Settings>,
    state: Arc<UpstreamState>,
    servers: Box<[Rc<ServerPool>]>,
    balance: Balance,
    pub(super) host: HostValue,
    connect_timeout: Duration,
    pub(super) response_ticks: u64,
    read_ticks: u64,
    idle_ticks: u64,
    max_idle: usize,
    turn: Cell<usize>,
}

/// What `Host` becomes.
pub(super) enum HostValue {
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
    state: Arc<UpstreamState>,
    index: usize,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    /// In ticks.
    expires: u64,
}

struct Connection {
    sender: SendRequest<RequestBody>,
    link: Rc<Link>,
    /// Whether it has served before.
    used: bool,
}

/// The right to one exchange on one connection.
pub(super) struct Lease {
    /// `Some` until it is finished.
    connection: Option<Connection>,
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
pub(super) enum SendError {
    /// It was sent, or may have been.
    Failed(UpstreamError),
    /// Not a byte was written; here it is again.
    NotSent(Box<Request<RequestBody>>),
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
        let pools = settings.servers.iter().enumerate().map(|(index, server)| {
            let same = |pool: &&Rc<ServerPool>| Arc::ptr_eq(&pool.state, &state) && pool.index == index;
            if let Some(known) = servers.iter().find(same) {
                return Rc::clone(known);
            }
            let pool = Rc::new(ServerPool {
                target: Target::new(server.clone(), Arc::clone(&settings.name), Arc::clone(&self.0.shared)),
                state: Arc::clone(&state),
                index,
                idle: RefCell::default(),
            });
            servers.push(Rc::clone(&pool));
            pool
        });
        let entry = Rc::new(Entry {
            settings: Arc::downgrade(settings),
            servers: pools.collect(),
            state,
            balance: settings.balance,
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
            turn: Cell::new(0),
        });
        let mut entries = self.0.entries.borrow_mut();
        entries.retain(|entry| entry.settings.strong_count() > 0);
        entries.push(Rc::clone(&entry));
        entry
    }

    /// Watches over a new connection's deadlines.
    fn watch(&self, link: Rc<Link>) {
        self.0.links.borrow_mut().push(link);
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
    pub(super) async fn lease(self: &Rc<Self>, all: &Upstreams, tried: &mut Tried) -> Result<Lease, UpstreamError> {
        let Some(index) = self.pick(all, tried) else { return Err(UpstreamError::Unreachable("no_server")) };
        if let Some(server) = self.servers.get(index)
            && let Some(connection) = server.idle_connection(all.0.ticks.now())
        {
            server.counters().reused.fetch_add(1, Relaxed);
            return Ok(self.lend(connection, UnderWay::at(server)));
        }
        self.connect(all, tried, index).await
    }

    /// As [`Self::lease`], but always a new connection.
    pub(super) async fn fresh_lease(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
    ) -> Result<Lease, UpstreamError> {
        let Some(index) = self.pick(all, tried) else { return Err(UpstreamError::Unreachable("no_server")) };
        self.connect(all, tried, index).await
    }

    fn pick(&self, all: &Upstreams, tried: &[usize]) -> Option<usize> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        self.state.pick(self.balance, turn, tried, || all.0.shared.now_millis())
    }

    async fn connect(
        self: &Rc<Self>,
        all: &Upstreams,
        tried: &mut Tried,
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
                Ok(io) => {
                    let connection = self.start(all, server, io).await?;
                    return Ok(self.lend(connection, under_way));
                }
                Err(why) => {
                    server.state().failed(all.0.shared.now_millis());
                    failure = why;
                    tried.push(index);
                    next = self.pick(all, tried);
                }
            }
        }
        Err(failure)
    }

    /// Puts hyper on a new stream and drives it in a task of its own.
    async fn start(
        self: &Rc<Self>,
        all: &Upstreams,
        server: &Rc<ServerPool>,
        io: Io,
    ) -> Result<Connection, UpstreamError> {
        let link = Link::new(all.0.ticks.clone(), Rc::clone(server), self.connect_timeout);
        let transport = TokioIo::new(Transport::new(io, Rc::clone(&link)));
        let (sender, connection) = http1::Builder::new()
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(transport)
            .await
            .map_err(|_| UpstreamError::Unreachable("handshake"))?;
        let driven = Rc::clone(&link);
        let driver = tokio::task::spawn_local(async move {
            // What went wrong is told to whoever waits for the answer or reads the body.
            let Ok(parts) = connection.without_shutdown().await else { return };
            let mut transport = parts.io.into_inner();
            match driven.upgrade() {
                Some(waiting) => {
                    transport.become_tunnel();
                    // If nobody waits any more the connection goes down with it.
                    let _ = waiting.send((transport, parts.read_buf));
                }
                None => {
                    // For TLS the end has to be said (RFC 8446 section 6.1); nobody waits long for it to arrive.
                    let _ = tokio::time::timeout(TICK, transport.shutdown()).await;
                }
            }
        });
        link.driven_by(driver.abort_handle());
        all.watch(Rc::clone(&link));
        Ok(Connection { sender, link, used: false })
    }

    fn lend(self: &Rc<Self>, connection: Connection, server: UnderWay) -> Lease {
        let link = Rc::clone(&connection.link);
        Lease { connection: Some(connection), link, entry: Rc::clone(self), server, once: false }
    }
}

impl ServerPool {
    /// A new stream to this server; counted, and told to the balancer if it succeeds.
    pub(super) async fn connect(&self, limit: Duration) -> Result<Io, UpstreamError> {
        let io = self.target.dial(limit).await?;
        self.state().succeeded();
        Ok(io)
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.state().counters
    }

    #[expect(clippy::indexing_slicing, reason = "made with an index into exactly this list, which never changes")]
    fn state(&self) -> &ServerState {
        &self.state.servers[self.index]
    }

    /// The connection used last, if it is still fit for a request.
    fn idle_connection(&self, now: u64) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if candidate.expires > now && candidate.connection.sender.is_ready() {
                return Some(candidate.connection);
            }
        }
        None
    }

    fn evict(&self, now: u64) {
        self.idle.borrow_mut().retain(|idle| idle.expires > now && !idle.connection.sender.is_closed());
    }
}

impl Lease {
    /// The connection's state.
    pub(super) const fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The server's own `Host`.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.server.0.target.host
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

    /// Sends `request` and waits for the head of its answer, which must begin within `response_ticks`.
    pub(super) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        response_ticks: u64,
    ) -> Result<Response<Incoming>, SendError> {
        let Some(connection) = &mut self.connection else {
            return Err(SendError::NotSent(Box::new(request)));
        };
        let has_body = !request.body().is_end_stream();
        let may_resend = connection.used && !has_body && is_idempotent(request.method());
        self.link.begin(response_ticks, has_body, may_resend);
        connection.used = true;
        request.body_mut().attach(Rc::clone(&self.link));
        let sent = connection.sender.try_send_request(request).await;
        let mut failure = match sent {
            Ok(response) => {
                self.link.head_came();
                return Ok(response);
            }
            Err(failure) => failure,
        };
        Err(match (self.link.blamed(), failure.take_message()) {
            (Some(why), _) => SendError::Failed(why),
            (None, Some(request)) => SendError::NotSent(Box::new(request)),
            (None, None) if failure.error().is_parse() => SendError::Failed(UpstreamError::Invalid("bad_head")),
            (None, None) if self.link.was_answered() => SendError::Failed(UpstreamError::Invalid("broken_head")),
            (None, None) => SendError::Failed(UpstreamError::Invalid("no_answer")),
        })
    }

    /// The answer was read to its end: the connection goes back if the request was sent to its end, too.
    pub(super) fn finish(mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.link.rest();
        if self.link.is_sending() {
            self.link.cut();
            return;
        }
        let mut idle = self.server.0.idle.borrow_mut();
        if self.once || connection.sender.is_closed() || idle.len() >= self.entry.max_idle {
            return;
        }
        idle.push(Idle { connection, expires: self.link.ticks().now().saturating_add(self.entry.idle_ticks) });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.link.cut();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("server", &self.server.0.state().label).finish_non_exhaustive()
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
        links.retain(|link| Rc::strong_count(link) > 1);
        // If this thread was held up, answers may wait in sockets: they are read first.
        if passed <= LATE_TICKS {
            links.iter().for_each(|link| link.judge());
        }
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
/// An answer's head (R16), and its trailers.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// hyper's read buffer grows to this while a body streams; it is also what waits for the server in the other direction.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
