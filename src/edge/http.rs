//! One connection from its handshake to its last byte: HTTP/1.1 here or HTTP/2 by ALPN, and a handler (R18–R20).
//!
//! In: an accepted socket. Out: [`Inbound`] requests to the handler, its answers to the client. hyper parses what
//! `wire` has checked of HTTP/1.1. An answer whose request body did not arrive whole says `Connection: close`, so
//! that no rest of a body is ever read as a request. A connection asked to end finishes what it has begun.

use std::{
    cell::Cell,
    convert::Infallible,
    error::Error,
    future::poll_fn,
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    os::unix::net::UnixStream as StdUnixStream,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::{server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use rustls::ProtocolVersion;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
    task::{AbortHandle, spawn_local},
};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use crate::{
    client::{Connection, Cutter, PeerAddr, Tls},
    clock::{self, Clock},
    edge::{
        Counters, Handler, Limits, Peers,
        accept::{Arrival, Ticket},
        date::Date,
        framing::HeadBounds,
        http2,
        progress::{Progress, Waiting},
        proxy_protocol::{self, Header},
        tls::{self, Ordered, Spoken, TlsSlot},
        wire::{Socket, SocketIo, Stream, Wire},
    },
    hints::{self, Hints},
    host::Host,
    id::RequestId,
    inbound::{Inbound, Incoming, Malformed, Upgrade},
    mtls::ClientCertificate,
};

/// What all connections of one worker share.
pub(crate) struct Worker<H> {
    pub(crate) handler: H,
    pub(crate) tls: Option<Arc<TlsSlot>>,
    pub(crate) limits: Limits,
    pub(crate) peers: Peers,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) date: Date,
}

/// Serves one connection in a task of its own, which a panic does not leave.
pub(crate) fn spawn<H: Handler>(worker: &Rc<Worker<H>>, arrival: Arrival) -> (Arc<Progress>, AbortHandle) {
    let waiting = if arrival.encrypted || arrival.proxied { Waiting::Handshake } else { Waiting::Message };
    let progress = Arc::new(Progress::new(waiting));
    let task = spawn_local(serve(Rc::clone(worker), arrival, Arc::clone(&progress)));
    (progress, task.abort_handle())
}

async fn serve<H: Handler>(worker: Rc<Worker<H>>, arrival: Arrival, progress: Arc<Progress>) {
    // Whatever ends this early (a failed handshake, an abort) ends the watch over it; later the wire tells.
    let watch = TellWhenGone(Some(Arc::clone(&progress)));
    let Arrival { socket, mut peer, mut local_port, encrypted, proxied, mut ticket } = arrival;
    let mut said_by = None;
    let socket = match peer {
        PeerAddr::Ip(address) => match TcpStream::from_std(StdTcpStream::from(socket)) {
            Ok(mut socket) if proxied => {
                // Boxed: others should not make room for it.
                match Box::pin(introduced(&worker, &mut socket, address, encrypted, &mut ticket)).await {
                    Some((client, port)) => {
                        (peer, local_port) = (PeerAddr::Ip(client), port.unwrap_or(local_port));
                        said_by = port.map(|_| address.ip());
                    }
                    None => return,
                }
                Ok(SocketIo::Tcp(socket))
            }
            socket => socket.map(SocketIo::Tcp),
        },
        PeerAddr::Unix => UnixStream::from_std(StdUnixStream::from(socket)).map(SocketIo::Unix),
    };
    let Ok(socket) = socket else { return };
    let socket = Socket::new(socket, Arc::clone(&progress));
    let (stream, tls, http2) = if encrypted {
        let (stream, asked) = match handshake(&worker, socket).await {
            Ok(Some(spoken)) => spoken,
            Ok(None) => return,
            Err(_) => {
                worker.counters.handshakes_failed.fetch_add(1, Relaxed);
                return;
            }
        };
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(tls::H2);
        let tls = Tls {
            server_name: session.server_name().and_then(canonical_name),
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                _ => "1.3",
            },
            certificate: session.peer_certificates().filter(|_| asked.is_some()).and_then(ClientCertificate::new),
            asked,
        };
        (Stream::Tls(Box::new(stream)), Some(tls), http2)
    } else {
        (Stream::plain(socket), None, false)
    };
    progress.set_waiting(Waiting::Message);
    let context = Rc::new(Exchange {
        connection: Arc::new(Connection {
            id: next_connection_id(),
            peer,
            said_by,
            local_port,
            tls,
            cutter: Cutter::default(),
            hints: hints::OfConnection::default(),
        }),
        worker: Rc::clone(&worker),
        progress: Arc::clone(&progress),
        ends: Rc::new(Ends {
            progress: Arc::clone(&progress),
            counters: Arc::clone(&worker.counters),
            write_timeout: worker.limits.write_timeout,
        }),
    });
    let (counters, clock) = (Arc::clone(&worker.counters), worker.clock.clone());
    watch.hand_over();
    // Boxed: an idle connection should not pay for the larger of two protocols.
    if http2 {
        let wire = Wire::http2(stream, http2::STREAM_WINDOW, progress, counters, clock, ticket);
        Box::pin(http2::serve(context, wire)).await;
    } else {
        let bounds = HeadBounds { bytes: worker.limits.max_header_bytes, fields: worker.limits.max_headers };
        let client = Arc::clone(&context.connection);
        let wire = Wire::guarded(stream, bounds, client, progress, counters, clock, ticket);
        Box::pin(serve_http1(context, wire)).await;
    }
}

/// Who it is that a load balancer has passed on, and where to, if it says so; itself otherwise. `None`, counted: the
/// connection ends unheard. Limits and rules hold for whom it names as they would had that client come itself.
async fn introduced<H>(
    worker: &Worker<H>,
    socket: &mut TcpStream,
    peer: SocketAddr,
    encrypted: bool,
    ticket: &mut Ticket,
) -> Option<(SocketAddr, Option<u16>)> {
    let Ok(header) = proxy_protocol::read(socket).await else {
        worker.counters.refused_proxied.fetch_add(1, Relaxed);
        return None;
    };
    let (client, port) = match header {
        Header::Client { source, destination } => (source, Some(destination.port())),
        Header::Nothing => (peer, None),
    };
    if !encrypted && !(worker.peers.plain_allowed)(client.ip()) {
        worker.counters.refused_peer.fetch_add(1, Relaxed);
        return None;
    }
    ticket.count(client.ip(), &worker.limits, &worker.peers).then_some((client, port))
}

/// A stream, with the word for the settings that the client's server name has chosen, if a certificate was asked for.
type Spoke = (TlsStream<Socket>, Option<Arc<str>>);

/// `None`: it was all that the client wanted.
async fn handshake<H: Handler>(worker: &Worker<H>, socket: Socket) -> io::Result<Option<Spoke>> {
    let slot = worker.tls.as_ref().ok_or_else(|| io::Error::other("no TLS here"))?;
    let spoken = slot.current();
    let ordered = slot.ordered().filter(|ordered| ordered.concerns_hellos());
    if let (Some(config), None) = (spoken.for_everybody(), ordered) {
        return Ok(Some((TlsAcceptor::from(Arc::clone(config)).accept(socket).await?, None)));
    }
    // Boxed: where nobody is asked, nobody should make room for it.
    Box::pin(handshake_by_name(&spoken, ordered, socket)).await
}

async fn handshake_by_name(spoken: &Spoken, ordered: Option<&Ordered>, socket: Socket) -> io::Result<Option<Spoke>> {
    let mut begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
    if let Some(config) = ordered.and_then(|ordered| ordered.challenges.tls(&begun.client_hello())) {
        // The handshake is the whole proof; nothing is served on it (RFC 8737 section 3).
        begun.into_stream(config).await?.shutdown().await?;
        return Ok(None);
    }
    let name = begun.client_hello().server_name().map(str::to_owned);
    // A name that is no host is not the absence of a name.
    let host = name.as_deref().map(str::parse::<Host>);
    if let (Some(ordered), Some(Ok(host))) = (ordered, &host)
        && ordered.resolver.awaits(host.as_str())
    {
        begun.io.write_all(&UNRECOGNIZED_NAME).await?;
        begun.io.shutdown().await?;
        return Err(io::Error::other("this host has no certificate yet"));
    }
    let (config, asked) = match &host {
        None => spoken.by_name(None),
        Some(Ok(host)) => spoken.by_name(Some(host.as_str())),
        Some(Err(_)) => spoken.by_name(Some("")),
    };
    Ok(Some((begun.into_stream(Arc::clone(config)).await?, asked.cloned())))
}

async fn serve_http1<H: Handler>(context: Rc<Exchange<H>>, mut wire: Wire) {
    let limits = context.worker.limits;
    let mut builder = http1::Builder::new();
    // A client that closes its half is taken to have left: what it asked for is cancelled.
    builder.half_close(false).max_buf_size(HTTP1_BUFFER.max(limits.max_header_bytes + HTTP1_BUFFER / 2));
    if limits.max_headers > HYPER_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    let index = Rc::new(Cell::new(0));
    // hyper's buffers and the place for a request take more than all the rest of a connection: one that rests has none
    // of them. Whatever ends it, hyper is there to say it.
    while let Some(rested) = Box::pin(converse(&context, &builder, &index, wire)).await {
        wire = rested;
        if !wakes(&context, &mut wire).await {
            return;
        }
    }
}

/// Requests and answers until the connection ends, or until it rests: then it is given back.
async fn converse<H: Handler>(
    context: &Rc<Exchange<H>>,
    builder: &http1::Builder,
    index: &Rc<Cell<u64>>,
    wire: Wire,
) -> Option<Wire> {
    let (progress, client) = (&context.progress, &context.connection);
    let service = service_fn({
        let (context, index) = (Rc::clone(context), Rc::clone(index));
        move |request| {
            index.set(index.get() + 1);
            answer_http1(Rc::clone(&context), index.get(), request)
        }
    });
    let mut connection = builder.serve_connection(wire, service).with_upgrades();
    let mut told = false;
    let ended = poll_fn(|cx| {
        progress.remember(cx.waker());
        if client.cutter.is_cut(cx.waker()) {
            return Poll::Ready(Some(Ok(())));
        }
        if progress.is_closing() && !std::mem::replace(&mut told, true) {
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if progress.rests() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    match ended.await {
        Some(ended) => {
            note_end(ended);
            None
        }
        None => {
            context.worker.counters.rests.fetch_add(1, Relaxed);
            // It holds no bytes, or there would be something to do; if it did, they must not be lost unseen.
            connection.into_parts().filter(|parts| parts.read_buf.is_empty()).map(|parts| parts.io)
        }
    }
}

/// Waits until there is something to do; `false`: the connection is cut.
async fn wakes<H: Handler>(context: &Exchange<H>, wire: &mut Wire) -> bool {
    let (progress, client) = (&context.progress, &context.connection);
    poll_fn(|cx| {
        if client.cutter.is_cut(cx.waker()) {
            Poll::Ready(false)
        } else if progress.is_closing() {
            Poll::Ready(true)
        } else {
            wire.poll_readable(cx).map(|()| true)
        }
    })
    .await
}

/// What the requests of one connection share.
pub(super) struct Exchange<H> {
    pub(super) connection: Arc<Connection>,
    pub(super) worker: Rc<Worker<H>>,
    pub(super) progress: Arc<Progress>,
    ends: Rc<Ends>,
}

/// Who is told when a request has ended.
struct Ends {
    progress: Arc<Progress>,
    counters: Arc<Counters>,
    write_timeout: Duration,
}

async fn answer_http1<H: Handler>(
    context: Rc<Exchange<H>>,
    index: u64,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Tracked<H::Body>>, Infallible> {
    let malformed = context.progress.malformed(index);
    let under_way = context.begin();
    let version = request.version();
    let (mut head, body) = request.into_parts();
    let upgrade = head.extensions.remove::<OnUpgrade>().map(Upgrade::from);
    let mut inbound = context.inbound(head, upgrade, malformed);
    let hints = &context.connection.hints;
    if version == Version::HTTP_11 {
        // RFC 9110 section 15.2: "a server MUST NOT send a 1xx response to an HTTP/1.0 client".
        hints.begin();
    }
    let mut response =
        context.worker.handler.handle(&mut inbound, Incoming::from(body), Hints::Connection(hints)).await;
    hints.said().await;
    let granted = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    context.progress.answered(index, granted);
    // hyper closes after a body that was not read to its end, without a word; the client should know.
    let body_is_open = context.progress.body_is_open(index) && !granted;
    let last = context.progress.is_winding_down() && !granted;
    if (body_is_open || malformed.is_some() || last) && version == Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Tracked { body, _under_way: under_way }))
}

impl<H: Handler> Exchange<H> {
    /// A request is under way until what this returns is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        self.progress.begin_request();
        UnderWay(Rc::clone(&self.ends))
    }

    #[inline]
    pub(super) fn inbound(&self, head: Parts, upgrade: Option<Upgrade>, malformed: Option<Malformed>) -> Inbound {
        Inbound {
            head,
            connection: Arc::clone(&self.connection),
            request_id: RequestId::generate(),
            started: clock::instant(),
            now: self.worker.clock.now(),
            upgrade,
            malformed,
        }
    }
}

/// A request until its answer is complete or nobody wants it any more.
pub(super) struct UnderWay(Rc<Ends>);

impl UnderWay {
    /// How long a client has to take a piece of an answer.
    pub(super) fn write_timeout(&self) -> Duration {
        self.0.write_timeout
    }

    /// Its client did not take the answer.
    pub(super) fn count_unread(&self) {
        self.0.counters.timeout_write.fetch_add(1, Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.progress.end_request();
        if std::thread::panicking() {
            self.0.counters.panics.fetch_add(1, Relaxed);
            tracing::error!("a request handler panicked; its connection or stream is cut, others go on");
        }
    }
}

/// A response body over HTTP/1.1 that tells when it is done with.
pub(crate) struct Tracked<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Until the wire exists, dropping this tells that the connection is gone.
struct TellWhenGone(Option<Arc<Progress>>);

impl TellWhenGone {
    fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for TellWhenGone {
    fn drop(&mut self) {
        if let Some(progress) = &self.0 {
            progress.gone();
        }
    }
}

/// A name that is no host is no name: hosts are compared with it (R10).
fn canonical_name(name: &str) -> Option<Arc<str>> {
    name.parse::<Host>().ok().map(|host| Arc::from(host.as_str()))
}

fn next_connection_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

pub(super) fn note_end<E: Error>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::trace!(%error, "connection ended");
    }
}

/// The fatal alert of RFC 6066 section 3, as a record that needs no keys yet (RFC 8446 sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// hyper parses so many fields without allocating.
const HYPER_HEADERS: usize = 100;
/// Bounds hyper's read and write buffers, and so the memory of a client that does not read.
const HTTP1_BUFFER: usize = 64 * 1024;
