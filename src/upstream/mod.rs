//! Upstreams: where permitted requests go, and how (RULES R16 to R19).
//!
//! [`forward`] takes a request whose headers are ready, borrows a connection from this worker's pool (or makes one),
//! has the head written afresh and streams both bodies with back-pressure. Out comes the upstream's answer, or an
//! [`UpstreamError`] that says whose fault it was. Invariants: the client's body is not touched before a connection
//! stands; a connection returns to the pool only when both messages were complete (RFC 9112 section 9.3.1); whatever
//! breaks midway cuts it; every wait has a deadline. Nothing here knows of routes, permits or identities.

use std::{cell::Cell, fmt, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE},
};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};

use crate::host::{Authority, Host};

mod balance;
mod body;
mod connect;
mod echo;
mod pool;
mod transport;
mod upgrade;

#[cfg(test)]
mod tests;

pub use self::{
    balance::{Counters, ServerState, Shared, UpstreamState},
    body::Body,
    connect::{TrustError, system_trust, trust},
    pool::Upstreams,
    upgrade::Tunnel,
};
use self::{
    body::{Gate, RequestBody},
    pool::{Entry, Lease, Tried, ticks},
};

/// One `[upstream.<name>]`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// Its name in configuration, logs and metrics.
    pub name: Arc<str>,
    /// Where it listens; at least one.
    pub servers: Box<[Server]>,
    /// How a server is chosen.
    pub balance: Balance,
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
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Unused connections kept for each server and worker.
    pub max_idle: usize,
}

/// One entry of `servers`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Server {
    /// `echo:`: the built-in upstream that answers what it saw.
    Echo,
    /// `http://host:port`.
    Http(Authority),
    /// `https://host:port`, verified against the system's certificate authorities.
    Https(Authority),
    /// `unix:/path`.
    Unix(PathBuf),
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
    pub uri: Uri,
    /// End-to-end fields. Framing, `Expect` and the upgrade fields are set here from what the body and
    /// [`Self::websocket`] say, whatever these contain.
    pub headers: HeaderMap,
    /// The client's body, not yet polled.
    pub body: Incoming,
    /// Counts its bytes as they are taken from the client; `None`: nobody wants to know, or there is none.
    pub received: Option<Rc<Cell<u64>>>,
    /// Whether it came over HTTP/2, where a stream reset without error looks like the body's end.
    pub http2: bool,
    /// Set if this is a WebSocket handshake that the route allows (R17).
    pub websocket: Option<WebSocket>,
}

/// The client's side of a WebSocket handshake.
#[derive(Debug)]
pub struct WebSocket {
    /// Its `Sec-WebSocket-Key`, already found valid.
    pub key: HeaderValue,
    /// Resolves to the client's connection once our 101 was written.
    pub client: OnUpgrade,
}

/// What one exchange may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of request body.
    pub max_body: u64,
    /// Overrides the upstream's `response_timeout`.
    pub response_timeout: Option<Duration>,
    /// Without a byte in either direction of a tunnel.
    pub tunnel_idle: Duration,
}

impl Default for Limits {
    /// 1 GiB of body, the upstream's own timeout, tunnels idle for an hour.
    fn default() -> Self {
        Self { max_body: 1 << 30, response_timeout: None, tunnel_idle: Duration::from_secs(3600) }
    }
}

/// Why there is no answer, or no end of one. Each carries a word for logs, from a closed set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpstreamError {
    /// The client's body broke off; there is mostly nobody left to answer.
    ClientBody,
    /// The upstream's answer is no valid answer, or broke off (502).
    Invalid(&'static str),
    /// The upstream did not connect or answer in time (504).
    Timeout(&'static str),
    /// The request body is larger than allowed (413).
    TooLarge,
    /// No connection to any server (502).
    Unreachable(&'static str),
}

impl UpstreamError {
    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientBody => "client_body",
            Self::Invalid(why) | Self::Timeout(why) | Self::Unreachable(why) => why,
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

/// Sends `request` to one of the upstream's servers and returns the head of its answer with a streaming body.
///
/// Must run inside the worker's `LocalSet`. Dropping the future, or the returned body before its end, closes the
/// upstream connection.
///
/// # Errors
/// See [`UpstreamError`]. [`UpstreamError::TooLarge`] for a declared length comes before any connection is made.
pub async fn forward(
    upstreams: &Upstreams,
    settings: &Arc<Settings>,
    request: Outgoing,
    limits: &Limits,
) -> Result<Response<Body>, UpstreamError> {
    if request.body.size_hint().lower() > limits.max_body {
        return Err(UpstreamError::TooLarge);
    }
    let entry = upstreams.entry(settings);
    let response_ticks = limits.response_timeout.map_or(entry.response_ticks, ticks);
    let websocket = request.websocket;
    let (mut outbound, expects) = compose(
        request.method,
        request.uri,
        request.headers,
        RequestBody::new(request.body, request.received, limits.max_body, request.http2),
        websocket.as_ref(),
    );

    let mut tried = Tried::new();
    let mut stale = 0;
    let (mut lease, handover, mut response) = loop {
        let mut lease = if stale < STALE_MAX {
            entry.lease(upstreams, &mut tried).await?
        } else {
            entry.fresh_lease(upstreams, &mut tried).await?
        };
        set_host(&entry, &lease, outbound.headers_mut())?;
        if expects {
            let gate = Gate::arm(&mut outbound);
            outbound.body_mut().wait_for(gate);
        }
        let handover = websocket.is_some().then(|| lease.link().expect_upgrade());
        match lease.send(outbound, response_ticks).await {
            Ok(response) => break (lease, handover, response),
            Err(pool::SendError::Failed(error)) => return Err(error),
            // The connection ended before a byte of this request was written to it: nothing was sent, try another.
            Err(pool::SendError::NotSent(recovered)) if stale <= STALE_MAX => {
                outbound = *recovered;
                stale += 1;
            }
            Err(pool::SendError::NotSent(_)) => return Err(UpstreamError::Unreachable("closed")),
        }
    };

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(websocket), Some(handover)) = (websocket, handover) else {
            return Err(UpstreamError::Invalid("unasked_101"));
        };
        upgrade::check(&websocket.key, response.headers())?;
        let server_side = handover.await.map_err(|_| UpstreamError::Invalid("upgrade_broke"))?;
        let tunnel = upgrade::open(upstreams, lease, server_side, websocket.client, limits.tunnel_idle);
        let (mut head, _) = response.into_parts();
        head.extensions = http::Extensions::new();
        head.extensions.insert(tunnel);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Ok(Response::from_parts(head, Body::empty()));
    }
    lease.link().forget_upgrade();
    let keeps_alive = check_framing(&mut response)?;
    if !keeps_alive {
        lease.use_once();
    }
    Ok(response.map(|incoming| Body::new(incoming, lease)))
}

/// Writes what frames the request from what the body is, never from what the client's head said (R18).
fn compose(
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: RequestBody,
    websocket: Option<&WebSocket>,
) -> (Request<RequestBody>, bool) {
    headers.remove(TRANSFER_ENCODING);
    headers.remove(TRAILER);
    let expects =
        headers.remove(EXPECT).is_some_and(|expectation| expectation.as_bytes().eq_ignore_ascii_case(b"100-continue"))
            && !body.is_end_stream();
    if expects {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    match body.size_hint().exact() {
        Some(0) if takes_content(&method) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Some(0) => {
            headers.remove(CONTENT_LENGTH);
        }
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if let Some(websocket) = websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(upgrade::SEC_WEBSOCKET_KEY, websocket.key.clone());
        headers.insert(upgrade::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    (request, expects)
}

/// Methods whose absent content is said as `Content-Length: 0` (RFC 9110 section 8.6).
fn takes_content(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PUT || *method == Method::PATCH
}

/// Sets the one `Host` that the upstream's policy asks for.
fn set_host(entry: &Rc<Entry>, lease: &Lease, headers: &mut HeaderMap) -> Result<(), UpstreamError> {
    let value = match &entry.host {
        pool::HostValue::Fixed(value) => value,
        pool::HostValue::Server => lease.host(),
        pool::HostValue::Keep => {
            return if headers.contains_key(HOST) { Ok(()) } else { Err(UpstreamError::Invalid("no_host")) };
        }
    };
    headers.insert(HOST, value.clone());
    Ok(())
}

/// Refuses lengths that two readers could read differently (R16), and takes away what hyper has decoded. Returns
/// whether the connection may serve again.
fn check_framing(response: &mut Response<Incoming>) -> Result<bool, UpstreamError> {
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|value| !is_plain_number(value.as_bytes())) {
        return Err(UpstreamError::Invalid("bad_length"));
    }
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(UpstreamError::Invalid("bad_coding"));
        }
        if length.is_some() {
            return Err(UpstreamError::Invalid("length_with_coding"));
        }
        response.headers_mut().remove(TRANSFER_ENCODING);
    }
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    // Having seen HTTP/1.0 hyper would answer in kind, and drop the next request's body if its length is unknown.
    let keeps_alive = response.version() == Version::HTTP_11;
    *response.version_mut() = Version::HTTP_11;
    Ok(keeps_alive)
}

fn is_plain_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Pooled connections found dead before a request was written to them, after which a fresh one is made.
const STALE_MAX: usize = 4;

/// Fields that a trailer section of the upstream may not bring (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 5] =
    [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, http::header::SET_COOKIE, http::header::CACHE_CONTROL];
