//! A connection's life, from accept to close: sockets, limits, TLS, HTTP/1.1 and HTTP/2, and a handler at the end.
//!
//! ```text
//! accept → (least loaded worker) → TLS → wire → HTTP → Handler
//! ```
//! In: bound sockets and a handler per worker. Out: requests whose framing is sound (R18), within limits (R19).
//! The same edge serves the gateway, the redirect to https, telemetry and administration. Each worker is one thread
//! with its own runtime; nothing on the request path crosses threads.

mod accept;
mod answering;
mod batch;
mod conversation;
mod date;
mod framing;
mod http;
mod http2;
mod inherited;
mod progress;
pub mod proxy_protocol;
mod redirect;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;
mod uploads;
mod wire;

use std::{
    cell::RefCell,
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use ::http::Response;
use bytes::Bytes;
use http_body::Body;
use tokio::{
    runtime::LocalOptions,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::{JoinError, spawn_local},
    time::{Interval, MissedTickBehavior},
};

use self::{
    accept::{Acceptor, Arrival, Places},
    conversation::Flood,
    progress::Watched,
};
pub use self::{
    accept::{Bound, bind, raise_descriptor_limit},
    inherited::Inherited,
    redirect::Redirect,
    tickets::HandedTickets,
    tls::{Group, MinVersion, Ordered, Spoken, TlsSlot},
};
use crate::{
    clock::{self, Clock},
    hints::Hints,
    inbound::{Inbound, Incoming, Malformed},
    listener::Listener,
    shutdown::Shutdown,
};

/// What needs a restart to change: sockets, threads, bounds of connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `server.listen`.
    pub listeners: Vec<Listener>,
    /// `server.redirect_http`.
    pub redirect_http: Option<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// `server.drain_timeout`.
    pub drain_timeout: Duration,
    /// `[limits]`.
    pub limits: Limits,
}

/// `[limits]` (R19).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// A whole request head, from its first byte. Default 10 s.
    pub header_timeout: Duration,
    /// Between requests. Default 75 s.
    pub idle_timeout: Duration,
    /// Without a request, until a connection over HTTP/1.1 gives back the memory that only requests need. Default 2 s.
    pub rest_after: Duration,
    /// Bytes a second of a request body, over windows in which the gateway waits for bytes. Default 1 KiB/s.
    pub body_min_rate: u64,
    /// The length of such a window, in waited time. Default 30 s.
    pub body_window: Duration,
    /// Without a single byte taken by the client while we have some for it. Default 60 s.
    pub write_timeout: Duration,
    /// Bytes of a request head. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Fields in a request head. Default 100.
    pub max_headers: usize,
    /// Bytes of a request body. Default 1 GiB. Kept by the handler, which knows the route.
    pub max_body: u64,
    /// Connections at once. Default 20,000.
    pub max_connections: usize,
    /// Connections at once from one address (IPv6: /64), trusted proxies excepted. Default 1,000.
    pub max_connections_per_address: usize,
    /// Concurrent HTTP/2 streams on one connection. Default 128.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            rest_after: Duration::from_secs(2),
            body_min_rate: 1024,
            body_window: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_body: 1024 * 1024 * 1024,
            max_connections: 20_000,
            max_connections_per_address: 1000,
            max_streams: 128,
        }
    }
}

/// A certificate chain with its key, for SNI.
pub type Certificates = Arc<dyn rustls::server::ResolvesServerCert>;

/// Answers requests. One for each worker, on whose thread it stays; it need not be `Send`.
pub trait Handler: 'static {
    /// Of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static;

    /// Whether clients are offered streams of HTTP/2 as tunnels (RFC 8441 section 3).
    fn takes_tunnels(&self) -> bool {
        false
    }

    /// Answers one request, which stays where it is: it is large. `body` was not polled yet. It never fails: a refusal
    /// is an answer too. What its client is told before it goes to `hints`. Dropped midway when the client leaves.
    fn handle(
        &self,
        inbound: &mut Inbound,
        body: Incoming,
        hints: Hints<'_>,
    ) -> impl Future<Output = Response<Self::Body>>;
}

/// A question about a peer's address, asked when it connects.
pub type PeerRule = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Who may connect and who is counted.
#[derive(Clone)]
pub struct Peers {
    /// Who may speak plain HTTP on a TCP listener; all others are closed unheard (R15, R20). Unix sockets have a
    /// file mode for that.
    pub plain_allowed: PeerRule,
    /// Whose connections do not count against `max_connections_per_address`: trusted proxies.
    pub uncounted: PeerRule,
    /// Who says by the PROXY protocol whose connection it is, and must (R15): that address then stands for the peer.
    pub proxied: PeerRule,
}

impl Peers {
    /// Everybody may connect, everybody counts: for HTTPS, loopback listeners and the redirect.
    pub fn everybody() -> Self {
        Self { plain_allowed: Arc::new(|_| true), uncounted: Arc::new(|_| false), proxied: Arc::new(|_| false) }
    }
}

/// Everything that [`start`] needs beside the handler.
pub struct Setup {
    /// Names the threads.
    pub name: &'static str,
    /// Where clients connect.
    pub listeners: Vec<Bound>,
    /// For https listeners.
    pub tls: Option<Arc<TlsSlot>>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Bounds of connections.
    pub limits: Limits,
    /// How long requests under way may take once the end was asked for; then all is cut.
    pub drain_timeout: Duration,
    /// Who may connect.
    pub peers: Peers,
    /// Ends it. Each connection holds a guard of it.
    pub shutdown: Shutdown,
    /// Wall time.
    pub clock: Clock,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// An edge at work.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<bool>>,
    beats: Box<[Arc<AtomicU64>]>,
}

impl Running {
    /// Waits for all threads to end, which they do after the shutdown was triggered and connections drained; `true`
    /// if nothing had to be cut. It blocks: not for a worker.
    pub fn join(self) -> bool {
        // All are waited for, whatever the first of them says. A worker that panicked has said so itself.
        let ended: Vec<bool> = self.threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
        ended.into_iter().all(|clean| clean)
    }

    /// A number for each worker that grows, several times a second, for as long as the worker does not hang.
    pub fn beats(&self) -> impl Iterator<Item = u64> {
        self.beats.iter().map(|beat| beat.load(Relaxed))
    }

    /// Whether all threads have ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

/// Serves. Each worker thread makes its handler with `factory`, given the worker's number, inside its own runtime.
///
/// # Errors
/// When an https listener has no TLS, or threads or runtimes cannot be made.
pub fn start<F, H>(setup: Setup, factory: F) -> io::Result<Running>
where
    F: Fn(usize) -> H + Send + Sync + Clone + 'static,
    H: Handler,
{
    if setup.tls.is_none() && setup.listeners.iter().any(Bound::is_https) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an https listener needs TLS"));
    }
    let workers = setup.workers.max(1);
    let places = Places::new(workers, Arc::clone(&setup.counters));
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
    let senders: Arc<[_]> = senders.into();
    let acceptors = setup.listeners.into_iter().map(|bound| Acceptor {
        bound,
        places: Arc::clone(&places),
        workers: Arc::clone(&senders),
        limits: setup.limits,
        peers: setup.peers.clone(),
        shutdown: setup.shutdown.clone(),
        counters: Arc::clone(&setup.counters),
    });
    let mut accepting: Vec<Acceptor> = acceptors.collect();
    let mut threads = Vec::with_capacity(workers + 1);
    // A thread for accepting alone would only be one more to wake when there is but one worker.
    let beside: Vec<Acceptor> = if workers == 1 { std::mem::take(&mut accepting) } else { Vec::new() };
    let mut beside = Some(beside);
    let beats: Box<[Arc<AtomicU64>]> = receivers.iter().map(|_| Arc::default()).collect();
    for (index, arrivals) in receivers.into_iter().enumerate() {
        let seat = Seat {
            arrivals,
            acceptors: beside.take().unwrap_or_default(),
            tls: setup.tls.clone(),
            limits: setup.limits,
            peers: setup.peers.clone(),
            drain_timeout: setup.drain_timeout,
            shutdown: setup.shutdown.clone(),
            clock: setup.clock.clone(),
            counters: Arc::clone(&setup.counters),
            beat: beats.get(index).map(Arc::clone).unwrap_or_default(),
        };
        let factory = factory.clone();
        threads.push(spawn_thread(format!("{}-{index}", setup.name), move || async move {
            seat.work(factory(index)).await
        })?);
    }
    if !accepting.is_empty() {
        threads.push(spawn_thread(format!("{}-accept", setup.name), move || async move {
            let loops: Vec<_> = accepting.into_iter().map(|acceptor| spawn_local(acceptor.run())).collect();
            for accept_loop in loops {
                let _ = accept_loop.await;
            }
            true
        })?);
    }
    Ok(Running { threads, beats })
}

/// One worker's share.
struct Seat {
    arrivals: UnboundedReceiver<Arrival>,
    acceptors: Vec<Acceptor>,
    tls: Option<Arc<TlsSlot>>,
    limits: Limits,
    peers: Peers,
    drain_timeout: Duration,
    shutdown: Shutdown,
    clock: Clock,
    counters: Arc<Counters>,
    beat: Arc<AtomicU64>,
}

impl Seat {
    /// `true` if at the end nothing had to be cut.
    async fn work<H: Handler>(mut self, handler: H) -> bool {
        let worker = Rc::new(http::Worker {
            handler,
            tls: self.tls.take(),
            limits: self.limits,
            peers: self.peers.clone(),
            clock: self.clock.clone(),
            counters: Arc::clone(&self.counters),
            date: date::Date::default(),
        });
        for acceptor in self.acceptors.drain(..) {
            drop(spawn_local(acceptor.run()));
        }
        let watched = RefCell::new(Vec::new());
        let mut sweep = sweeps(&self.limits);
        let shutdown = self.shutdown.clone();
        let mut stop = std::pin::pin!(shutdown.triggered());
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = sweep.tick() => self.sweep(&watched),
                arrival = self.arrivals.recv() => {
                    let Some(arrival) = arrival else { break };
                    let (progress, task) = http::spawn(&worker, arrival);
                    watched.borrow_mut().push(Watched::new(progress, task, clock::instant()));
                }
            }
        }
        self.drain(&worker, &watched, sweep).await
    }

    /// Lets connections finish what they have begun. What is left after the deadline falls with the runtime, and the
    /// answer is `false`.
    async fn drain<H: Handler>(
        mut self,
        worker: &Rc<http::Worker<H>>,
        watched: &RefCell<Vec<Watched>>,
        mut sweep: Interval,
    ) -> bool {
        let deadline = tokio::time::sleep(self.drain_timeout);
        if self.shutdown.is_handed_over() {
            self.wind_down(worker, watched, &mut sweep).await;
        }
        self.arrivals.close();
        while self.arrivals.try_recv().is_ok() {}
        watched.borrow().iter().for_each(Watched::close);
        let mut deadline = std::pin::pin!(deadline);
        while !watched.borrow().is_empty() {
            tokio::select! {
                biased;
                () = &mut deadline => return false,
                _ = sweep.tick() => self.sweep(watched),
            }
        }
        true
    }

    /// Another process serves who comes now. Who has come here is served: what was accepted before the sockets closed,
    /// and whoever sends one more request on a connection that waits. Tunnels last as long as there is time.
    async fn wind_down<H: Handler>(
        &mut self,
        worker: &Rc<http::Worker<H>>,
        watched: &RefCell<Vec<Watched>>,
        sweep: &mut Interval,
    ) {
        watched.borrow().iter().for_each(Watched::wind_down);
        let shutdown = self.shutdown.clone();
        let begun = clock::instant();
        let last_call = self.drain_timeout.saturating_sub(LAST_CALL.min(self.drain_timeout / 4));
        let idle = last_call / IDLE_SHARE;
        let (mut accepting, mut idle_closed) = (true, false);
        while accepting || !watched.borrow().is_empty() {
            tokio::select! {
                biased;
                () = shutdown.stopping() => return,
                _ = sweep.tick() => self.sweep(watched),
                arrival = self.arrivals.recv(), if accepting => match arrival {
                    Some(arrival) => {
                        let (progress, task) = http::spawn(worker, arrival);
                        progress.wind_down();
                        watched.borrow_mut().push(Watched::new(progress, task, clock::instant()));
                    }
                    None => accepting = false,
                },
            }
            let waited = begun.elapsed();
            if waited >= idle && !std::mem::replace(&mut idle_closed, true) {
                watched.borrow().iter().for_each(Watched::close);
            }
            if waited >= last_call {
                // Now tunnels are told, on every worker.
                return shutdown.trigger();
            }
        }
    }

    fn sweep(&self, watched: &RefCell<Vec<Watched>>) {
        self.beat.fetch_add(1, Relaxed);
        let now = clock::instant();
        watched.borrow_mut().retain_mut(|one| one.sweep(now, &self.limits, &self.counters));
    }
}

/// Often enough for the shortest deadline, and seldom enough to cost nothing.
fn sweeps(limits: &Limits) -> Interval {
    let shortest = [
        limits.handshake_timeout,
        limits.header_timeout,
        limits.idle_timeout,
        limits.body_window,
        limits.write_timeout,
    ]
    .into_iter()
    .fold(SWEEP_LONGEST * 4, Duration::min);
    let mut interval = tokio::time::interval((shortest / 4).max(SWEEP_SHORTEST));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A thread with a runtime of its own. The runtime never leaves its thread; that it cannot be made is an error here.
///
/// `work` is a task, too: it is polled when it has reason to be, and not whenever the thread wakes up.
fn spawn_thread<F>(name: String, work: impl FnOnce() -> F + Send + 'static) -> io::Result<JoinHandle<bool>>
where
    F: Future<Output = bool> + 'static,
{
    let (made, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                // Whoever starts this waits for it.
                let _ = made.send(Err(error));
                return false;
            }
        };
        let _ = made.send(Ok(()));
        let ended = runtime.block_on(async move { spawn_local(async move { work().await }).await });
        match ended.map_err(JoinError::try_into_panic) {
            Ok(whole) => whole,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => false,
        }
    })?;
    told.recv().map_err(io::Error::other)??;
    Ok(thread)
}

/// What the edge counts. Gauges go up and down, everything else only up.
#[derive(Debug, Default)]
pub struct Counters {
    /// Gauge: connections open now, tunnels included.
    pub open: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Refused: `max_connections`.
    pub refused_full: AtomicU64,
    /// Refused: `max_connections_per_address`.
    pub refused_address: AtomicU64,
    /// Refused: a peer that may not speak plain HTTP here.
    pub refused_peer: AtomicU64,
    /// Cut: no PROXY protocol header, or a bad one, from a peer that must send one.
    pub refused_proxied: AtomicU64,
    /// Pauses of accepting for want of descriptors or memory.
    pub accept_pauses: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// Cut: `handshake_timeout`.
    pub timeout_handshake: AtomicU64,
    /// Answered 408: `header_timeout`.
    pub timeout_head: AtomicU64,
    /// Closed: `idle_timeout`.
    pub timeout_idle: AtomicU64,
    /// Connections that gave back memory between requests: `rest_after`.
    pub rests: AtomicU64,
    /// Cut: `body_min_rate`.
    pub timeout_body: AtomicU64,
    /// Cut: `write_timeout`.
    pub timeout_write: AtomicU64,
    /// Streams of HTTP/2 that were reset by us, by error code (RFC 9113 section 7).
    pub http2_resets: [AtomicU64; 14],
    /// Connections of HTTP/2 that were ended by us, by error code; 0 where nothing was wrong.
    pub http2_goaways: [AtomicU64; 14],
    /// Cut: most streams of an HTTP/2 connection were reset by its client.
    pub flood_resets: AtomicU64,
    /// Cut: frames of HTTP/2 that brought nothing on.
    pub flood_control: AtomicU64,
    /// Handlers that panicked.
    pub panics: AtomicU64,
    /// Plain bytes of closed connections from clients.
    pub bytes_in: AtomicU64,
    /// Plain bytes of closed connections to clients.
    pub bytes_out: AtomicU64,
    /// Heads and bodies with bad framing, in the order of [`Counters::MALFORMED`].
    pub malformed: [AtomicU64; 11],
}

impl Counters {
    /// Every reason with its label for metrics.
    pub const MALFORMED: [(Malformed, &str); 11] = [
        (Malformed::RequestLine, "request_line"),
        (Malformed::BareLineEnd, "bare_line_end"),
        (Malformed::HeaderName, "header_name"),
        (Malformed::HeaderValue, "header_value"),
        (Malformed::ObsFold, "obs_fold"),
        (Malformed::LengthWithCoding, "length_with_coding"),
        (Malformed::ContentLength, "content_length"),
        (Malformed::TransferCoding, "transfer_coding"),
        (Malformed::Chunk, "chunk"),
        (Malformed::HeadTooLarge, "head_too_large"),
        (Malformed::TooManyHeaders, "too_many_headers"),
    ];

    /// The error codes of HTTP/2 in their order, as metrics name them.
    pub const HTTP2_CODES: [&str; 14] = [
        "no_error",
        "protocol_error",
        "internal_error",
        "flow_control_error",
        "settings_timeout",
        "stream_closed",
        "frame_size_error",
        "refused_stream",
        "cancel",
        "compression_error",
        "connect_error",
        "enhance_your_calm",
        "inadequate_security",
        "http_1_1_required",
    ];

    pub(crate) fn count_flood(&self, flood: Flood) {
        match flood {
            Flood::Resets => &self.flood_resets,
            Flood::Control => &self.flood_control,
        }
        .fetch_add(1, Relaxed);
    }

    pub(crate) fn count_malformed(&self, reason: Malformed) {
        for ((known, _), counter) in Self::MALFORMED.iter().zip(&self.malformed) {
            if *known == reason {
                counter.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The part of that time in which a connection that waits may send one more request, once another process serves who
/// comes.
const IDLE_SHARE: u32 = 3;
/// Before the end of the drain tunnels are told to end.
const LAST_CALL: Duration = Duration::from_secs(2);
const SWEEP_LONGEST: Duration = Duration::from_millis(250);
const SWEEP_SHORTEST: Duration = Duration::from_millis(5);
