//! Upstreams: where permitted requests go, and how (RULES R16 to R19).
//!
//! [`forward`] takes a request whose headers are ready, borrows a connection from this worker's pool (or makes one),
//! has the head written afresh and streams both bodies with back-pressure. Out comes the upstream's answer, or an
//! [`UpstreamError`] that says whose fault it was. Invariants: the client's body is not touched before a connection
//! stands; a connection returns to the pool only when both messages were complete (RFC 9112 section 9.3.1); whatever
//! breaks midway cuts it; every wait has a deadline. Nothing here knows of routes, permits or identities.

use std::{cell::Cell, fmt, num::NonZeroU32, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Response, StatusCode, uri::PathAndQuery};
use http_body::Body as _;

use crate::{
    headers::{Handshake, Lines},
    hints::Hints,
    host::{Authority, Host},
    inbound::{Incoming, Upgrade},
    rate_limit::Slots,
    route::Timeouts,
};

mod answer;
mod balance;
mod body;
mod chunked;
mod client_body;
mod connect;
mod echo;
mod eyeballs;
mod farewell;
pub mod health;
mod http2;
mod link;
mod names;
mod outbox;
mod patience;
mod pool;
mod queue;
mod retry;
mod servers;
mod tally;
mod ticks;
mod times;
pub mod tls;
mod upgrade;

#[cfg(test)]
mod tests;

pub use self::{
    body::Body,
    client_body::TrailerFilter,
    connect::{TrustError, system_trust, trust},
    pool::Upstreams,
    queue::{Queue, QueueLimits},
    retry::{Budget, Retries},
    servers::{Counters, ServerState, Shared, UpstreamState},
    upgrade::Tunnel,
};
use self::{
    client_body::RequestBody,
    connect::Offer,
    health::{Place, Rules, Standing},
    link::Raw,
    outbox::Outbox,
    pool::{Entry, Failure, Leased, Tried, Wish},
    queue::Turn,
    retry::Course,
    times::Times,
};

/// One `[upstream.<name>]`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// Its name in configuration, logs and metrics.
    pub name: Arc<str>,
    /// Where it listens; at least one.
    pub servers: Box<[Member]>,
    /// Whether `https://` servers are offered HTTP/2 besides HTTP/1.1.
    pub http2: bool,
    /// How a server is chosen.
    pub balance: Balance,
    /// Whose requests all go to the same server; `None`: nobody's.
    pub sticky: Option<Sticky>,
    /// When a server is out.
    pub rules: Rules,
    /// How TLS is spoken to `https` servers; `None`: verified against the system's certificate authorities.
    pub tls: Option<Arc<tls::ServerTls>>,
    /// The `Host` it is sent.
    pub host: HostPolicy,
    /// How its paths are read differently from ours (R8).
    pub path_quirks: crate::route::path::Quirks,
    /// Until a connection stands, name resolution and TLS included; shared by all servers that are tried.
    pub connect_timeout: Duration,
    /// From when the upstream could have had all of the request that we have, to its answer's head. Time spent waiting
    /// for the client's body does not count.
    pub response_timeout: Duration,
    /// Longest pause between two bytes of the answer (R16). Time in which the client does not read does not count.
    pub read_timeout: Duration,
    /// When a request is sent again that a server may have had; `None`: once, on a connection that had died.
    pub retries: Option<Retries>,
    /// How many requests it has at once, and how many wait; `None`: as many as come.
    pub queue: Option<QueueLimits>,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Unused connections kept for each server and worker.
    pub max_idle: usize,
}

/// One entry of `servers`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Where it listens.
    pub server: Server,
    /// How many requests it gets, beside the others of its upstream.
    pub weight: NonZeroU32,
}

impl From<Server> for Member {
    /// Of weight 1.
    fn from(server: Server) -> Self {
        Self { server, weight: NonZeroU32::MIN }
    }
}

/// Where a server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Server {
    /// `echo:`: the built-in upstream that answers what it saw.
    Echo,
    /// `h2c://host:port`: HTTP/2 without TLS, known beforehand (RFC 9113 section 3.3).
    H2c(Authority),
    /// `http://host:port`.
    Http(Authority),
    /// `https://host:port`, verified against the system's certificate authorities.
    Https(Authority),
    /// `unix:/path`.
    Unix(PathBuf),
    /// `unix+h2c:/path`.
    UnixH2c(PathBuf),
}

/// `balance`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// The server with the fewest requests under way.
    #[default]
    LeastRequests,
    /// One after the other.
    RoundRobin,
}

/// `sticky`: what a caller is known by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sticky {
    /// The session; without one, as [`Self::Subject`].
    Session,
    /// Realm and subject; without an identity the address (IPv6: its /64).
    Subject,
}

/// Who asks, as a number that is the same in every process, where servers or upstreams are chosen by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller(u64);

/// `host`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum HostPolicy {
    /// What the client asked for.
    #[default]
    Keep,
    /// This name.
    Name(Host),
    /// The server's own name and port.
    Upstream,
}

/// A request that may go to an upstream: headers rewritten, hop-by-hop fields gone.
#[derive(Debug)]
pub struct Outgoing {
    /// The method, sent as it is.
    pub method: Method,
    /// Path and query (origin-form), or `*`.
    pub target: PathAndQuery,
    /// `Host`, where the upstream's policy is to keep it.
    pub host: HeaderValue,
    /// End-to-end fields. What frames the body or asks for an upgrade is written here, from what the body and
    /// [`Self::websocket`] say.
    pub lines: Lines,
    /// Who asks, where the upstream is sticky.
    pub caller: Option<Caller>,
    /// How often it was sent.
    pub attempts: u32,
    /// Whether the client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// The client's body, not yet polled; `None` without one.
    pub body: Option<Incoming>,
    /// Counts its bytes as they are taken from the client; `None`: nobody wants to know, or there is none.
    pub received: Option<Rc<Cell<u64>>>,
    /// Whether the client takes trailers (`TE: trailers`).
    pub takes_trailers: bool,
    /// What becomes of the request's trailers; `None`: they are dropped (R18).
    pub trailers: Option<TrailerFilter>,
    /// Set if this is a WebSocket handshake that the route allows (R17).
    pub websocket: Option<WebSocket>,
}

/// The client's side of a WebSocket handshake.
#[derive(Debug)]
pub struct WebSocket {
    /// As it came.
    handshake: Handshake,
    /// `Sec-WebSocket-Key` for a server that is asked over HTTP/1.1: the client's, where it has sent one.
    key: HeaderValue,
    /// The client's connection or stream, once our answer was written.
    client: Upgrade,
    /// Its places among the requests under way; kept until the tunnel ends.
    slots: Option<Rc<Slots>>,
}

impl WebSocket {
    /// What `client` asks for by a `handshake`.
    pub fn new(handshake: Handshake, client: Upgrade, slots: Option<Rc<Slots>>) -> Self {
        let key = match &handshake {
            Handshake::Upgrade(key) => key.clone(),
            Handshake::Stream => upgrade::fresh_key(),
        };
        Self { handshake, key, client, slots }
    }

    /// Whether the client asks for a stream of HTTP/2.
    fn is_stream(&self) -> bool {
        self.handshake == Handshake::Stream
    }
}

/// What one exchange may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Bytes of request body.
    pub max_body: u64,
    /// What the route says instead of the upstream.
    pub timeouts: Option<&'a Timeouts>,
    /// Whether what a server may have had is ever sent again.
    pub retries: bool,
    /// Without a byte in either direction of a tunnel.
    pub tunnel_idle: Duration,
    /// Where early hints are told; `None`: nowhere.
    pub hints: Option<Hints<'a>>,
}

impl Default for Limits<'_> {
    /// 1 GiB of body, the upstream's own timeouts, tunnels idle for an hour.
    fn default() -> Self {
        Self { max_body: 1 << 30, timeouts: None, retries: true, tunnel_idle: Duration::from_secs(3600), hints: None }
    }
}

/// Why there is no answer, or no end of one. Each carries a word for logs, from a closed set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpstreamError {
    /// It has as many requests as it may, and nobody could wait longer (503).
    Busy(&'static str),
    /// The client's body broke off; there is mostly nobody left to answer.
    ClientBody,
    /// The upstream's answer is no valid answer, or broke off (502).
    Invalid(&'static str),
    /// The whole exchange took longer than its route allows, whoever was slow (504).
    OutOfTime,
    /// The upstream did not connect or answer in time (504).
    Timeout(&'static str),
    /// The request body is larger than allowed (413).
    TooLarge,
    /// No server may be asked at present (503).
    Unavailable(&'static str),
    /// No connection to any server (502).
    Unreachable(&'static str),
}

impl UpstreamError {
    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientBody => "client_body",
            Self::Busy(why)
            | Self::Invalid(why)
            | Self::Timeout(why)
            | Self::Unavailable(why)
            | Self::Unreachable(why) => why,
            Self::OutOfTime => "total_timeout",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for UpstreamError {}

/// Sends `request` to one of the upstream's servers and returns the head of its answer with a streaming body. Body and
/// handshake are taken out of the request; it is borrowed because it is large.
///
/// Must run where local tasks can be spawned. Dropping the future, or the returned body before its end, closes the
/// upstream connection.
///
/// # Errors
/// See [`UpstreamError`]. [`UpstreamError::TooLarge`] for a declared length comes before any connection is made.
pub async fn forward(
    upstreams: &Upstreams,
    settings: &Arc<Settings>,
    request: &mut Outgoing,
    limits: &Limits<'_>,
) -> Result<Response<Body>, UpstreamError> {
    let mut body = match request.body.take() {
        Some(body) if body.size_hint().lower() > limits.max_body => return Err(UpstreamError::TooLarge),
        Some(body) => RequestBody::new(body, request.received.take(), limits.max_body),
        None => None,
    };
    if let (Some(body), Some(wanted)) = (&mut body, request.trailers.take()) {
        body.let_trailers_pass(wanted);
    }
    let entry = upstreams.entry(settings);
    let times = limits.timeouts.map(|timeouts| Box::new(entry.times.on_route(timeouts)));
    let (tried, again) = (Tried::new(), Again::default());
    let mut journey = Journey { upstreams, entry, request, limits, times, tried, again, course: None, turn: None };
    if let Some(limits) = journey.entry.queue {
        // Boxed, as it is only for upstreams that have one.
        Box::pin(journey.wait_for_turn(limits)).await?;
    }
    if let Some(retries) = &journey.entry.retries {
        journey.entry.budget().count(upstreams.now_millis());
        if retry::may_repeat(&journey, body.is_some()) {
            let retries = Rc::clone(retries);
            return Box::pin(retry::forward(&mut journey, &retries)).await;
        }
    }
    attempt(&mut journey, body).await
}

/// Sends the request once, but for what no server had.
async fn attempt(journey: &mut Journey<'_>, body: Option<Box<RequestBody>>) -> Result<Response<Body>, UpstreamError> {
    match journey.lease().await? {
        Leased::Own(lease) => over_http1(journey, lease, body).await,
        // Boxed, as it is larger than what most requests need.
        Leased::Shared(lease) => Box::pin(http2::forward(journey, lease, body)).await,
    }
}

/// One request on its way, whichever connections it takes.
struct Journey<'a> {
    upstreams: &'a Upstreams,
    entry: Rc<Entry>,
    request: &'a mut Outgoing,
    limits: &'a Limits<'a>,
    /// `None`: as the upstream says.
    times: Option<Box<Times>>,
    tried: Tried,
    again: Again,
    /// Where it may be sent to several servers.
    course: Option<Box<Course>>,
    /// Where the upstream has a queue; goes on with the answer.
    turn: Option<Rc<Turn>>,
}

impl Journey<'_> {
    async fn wait_for_turn(&mut self, limits: QueueLimits) -> Result<(), UpstreamError> {
        let turn = self.entry.queue().turn(&limits, self.times().left()).await;
        self.turn = Some(Rc::new(turn.map_err(|why| self.times().judge(why))?));
        Ok(())
    }

    /// The way to a server that was not tried yet.
    async fn lease(&mut self) -> Result<Leased, UpstreamError> {
        let Self { upstreams, entry, request, times, tried, again, course, .. } = self;
        let wish = wish(request, times.as_deref().unwrap_or(&entry.times), again, course.as_deref());
        let leased = entry.lease(upstreams, tried, wish).await?;
        self.request.attempts += 1;
        if let Some(course) = &mut self.course {
            course.note(self.entry.index_of(&leased));
        }
        Ok(leased)
    }

    /// The way to a `server` that had it once more, on another connection.
    async fn lease_again(&mut self, server: pool::UnderWay) -> Result<Leased, UpstreamError> {
        self.request.attempts += 1;
        self.entry.lease_again(self.upstreams, server, self.wish()).await
    }

    fn wish(&self) -> Wish<'_> {
        wish(self.request, self.times(), &self.again, self.course.as_deref())
    }

    /// From the beginning, preferably at a server that was not asked yet.
    fn begin_again(&mut self) {
        let last = self.course.as_mut().and_then(|course| course.begin_again());
        let last = last.or_else(|| self.tried.last().copied());
        if let Some(last) = last {
            self.entry.note_retry(last);
        }
        self.tried.clear();
        self.again = Again::default();
    }

    /// Where early hints are told. Whoever asks for a tunnel gets none.
    fn hints(&self) -> Option<Hints<'_>> {
        self.limits.hints.filter(|_| self.request.websocket.is_none())
    }

    fn times(&self) -> &Times {
        self.times.as_deref().unwrap_or(&self.entry.times)
    }
}

fn wish<'a>(request: &Outgoing, times: &'a Times, again: &Again, course: Option<&'a Course>) -> Wish<'a> {
    let offer = if request.websocket.is_some() { Offer::Tunnel } else { Offer::All };
    let asked = course.map_or(&[][..], Course::done);
    Wish { caller: request.caller, offer, asked, fresh: again.unsent >= STALE_MAX, times }
}

async fn over_http1(
    journey: &mut Journey<'_>,
    mut lease: pool::Lease,
    body: Option<Box<RequestBody>>,
) -> Result<Response<Body>, UpstreamError> {
    let mut outbox = Outbox::new(journey.request, lease.host(journey.request), body);
    if journey.request.expects_continue {
        outbox.close_gate();
    }
    let head = loop {
        let hints = journey.hints();
        let leased = match lease.exchange(&mut outbox, journey.times(), &journey.request.method, hints).await {
            Ok(head) => break head,
            Err(Failure::Failed(why)) => {
                journey.entry.note_failure(journey.upstreams, lease.server(), why);
                return Err(why);
            }
            Err(Failure::Died) if !journey.again.retried && journey.limits.retries => {
                journey.again.retried = true;
                // It goes before the next comes: two at once would be one too many for a server that counts them.
                journey.lease_again(lease.cut()).await?
            }
            Err(Failure::Died) => {
                let why = UpstreamError::Invalid("no_answer");
                journey.entry.note_failure(journey.upstreams, lease.server(), why);
                return Err(why);
            }
            // Nothing was sent: another connection will do, a fresh one if all that were kept are dead.
            Err(Failure::NotSent | Failure::Refused | Failure::WantsHttp1 { .. })
                if journey.again.unsent <= STALE_MAX =>
            {
                drop(lease);
                journey.again.unsent += 1;
                journey.lease().await?
            }
            Err(Failure::NotSent | Failure::Refused | Failure::WantsHttp1 { .. }) => {
                let why = UpstreamError::Unreachable("closed");
                journey.entry.note_failure(journey.upstreams, lease.server(), why);
                return Err(why);
            }
        };
        lease = match leased {
            Leased::Own(lease) => lease,
            Leased::Shared(lease) => return Box::pin(http2::forward(journey, lease, outbox.into_body())).await,
        };
        outbox.rewind(journey.request, lease.host(journey.request));
    };

    let answer::Final { response, length, keeps_alive } = head;
    lease.hold(journey.turn.clone());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let websocket = journey.request.websocket.take().ok_or(UpstreamError::Invalid("unasked_101"));
        let websocket = websocket
            .and_then(|asked| upgrade::check(&asked.key, response.headers()).map(|()| asked))
            .inspect_err(|&why| journey.entry.note_failure(journey.upstreams, lease.server(), why))?;
        journey.entry.note_answer(journey.upstreams, lease.server(), response.status());
        lease.link().patience().end();
        let server = Raw(Rc::clone(lease.link()));
        let idle = journey.limits.tunnel_idle;
        return Ok(upgrade::open(journey.upstreams, server, Leased::Own(lease), websocket, response, idle));
    }
    journey.entry.note_answer(journey.upstreams, lease.server(), response.status());
    if response.status().is_success() && journey.request.websocket.as_ref().is_some_and(WebSocket::is_stream) {
        // To a client that asks for a stream every 2xx says that it stands.
        return Err(UpstreamError::Invalid("no_tunnel"));
    }
    if !keeps_alive {
        lease.use_once();
    }
    let unsent = if lease.link().is_sending() { Some(outbox) } else { None };
    Ok(response.map(|()| Body::new(lease, length, unsent)))
}

/// What was tried to get a request through.
#[derive(Debug, Default)]
struct Again {
    /// The one retry of a request that may have arrived (RFC 9110 section 9.2.2).
    retried: bool,
    /// Connections that ended before a byte was written.
    unsent: usize,
}

/// Pooled connections found dead before a request was written to them, after which a fresh one is made.
const STALE_MAX: usize = 4;
