//! Forwarding against servers that are scripted byte by byte: a raw client, a small hyper server in front that calls
//! [`forward`], and raw listeners behind. Everything runs in one thread, as in a worker.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::*;
use crate::{listener::OwnListener, shutdown::Shutdown};

mod floods;
mod http1_required;
mod http2;
mod servers;
mod times;

// ---- harness ----

/// How long anything may take before a test is called stuck.
const PATIENCE: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async { timeout(PATIENCE, test).await.expect("stuck") }));
}

pub(super) fn settings(servers: Vec<Server>) -> Settings {
    Settings {
        name: "backend".into(),
        servers: servers.into_iter().map(Member::from).collect(),
        http2: true,
        balance: Balance::RoundRobin,
        sticky: None,
        rules: Rules::default(),
        tls: None,
        host: HostPolicy::Keep,
        path_quirks: crate::route::path::Quirks::default(),
        connect_timeout: Duration::from_secs(3),
        response_timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(10),
        retries: None,
        queue: None,
        idle_timeout: Duration::from_secs(60),
        max_idle: 8,
    }
}

fn http(address: SocketAddr) -> Server {
    Server::Http(address.to_string().parse().unwrap())
}

/// The gateway's part: forwards whatever it gets.
struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    upstreams: Upstreams,
    shutdown: Shutdown,
    tunnels: mpsc::UnboundedReceiver<Tunnel>,
}

impl Front {
    async fn start(settings: Settings) -> Self {
        Self::with(settings, Limits::default(), Shared::new(None, Box::default())).await
    }

    async fn with(settings: Settings, limits: Limits<'static>, shared: Arc<Shared>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let upstreams = Upstreams::new(Arc::clone(&shared), shutdown.clone());
        let settings = Arc::new(settings);
        let (told, tunnels) = mpsc::unbounded_channel();
        let mine = upstreams.clone();
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (upstreams, settings, told) = (mine.clone(), Arc::clone(&settings), told.clone());
                let mut preface = [0; 3];
                stream.peek(&mut preface).await.unwrap();
                if &preface == b"PRI" {
                    spawn_local(async move {
                        let mut connection = h2::server::handshake(stream).await.unwrap();
                        while let Some(Ok((request, answer))) = connection.accept().await {
                            let (upstreams, settings, told) = (upstreams.clone(), Arc::clone(&settings), told.clone());
                            spawn_local(async move {
                                let (head, body) = request.into_parts();
                                let body = Incoming::http2(body, &head.headers);
                                let request = Request::from_parts(head, body);
                                let answered = serve(&upstreams, &settings, &limits, request, None, &told).await;
                                give(answered.unwrap(), answer).await;
                            });
                        }
                    });
                    continue;
                }
                let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
                    let (upstreams, settings, told) = (upstreams.clone(), Arc::clone(&settings), told.clone());
                    let client = hyper::upgrade::on(&mut request).into();
                    let request = request.map(Incoming::from);
                    async move { serve(&upstreams, &settings, &limits, request, Some(client), &told).await }
                });
                spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
            }
        });
        Self { address, shared, upstreams, shutdown, tunnels }
    }

    fn counters<T>(&self, read: impl Fn(&Counters) -> T) -> T {
        read(&self.shared.upstreams()[0].servers[0].counters)
    }

    /// Sends bytes on a connection of their own and reads one answer; the rest of the stream is returned with it.
    async fn send(&self, request: &str) -> Answer {
        let mut client = self.client().await;
        client.write_all(request.as_bytes()).await.unwrap();
        read_answer(&mut client, request.starts_with("HEAD")).await
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Answers a client over HTTP/2, which may leave in between.
async fn give(answered: Response<Body>, mut answer: h2::server::SendResponse<Bytes>) {
    let (mut head, mut body) = answered.into_parts();
    head.headers.remove("connection");
    let Ok(mut stream) = answer.send_response(Response::from_parts(head, ()), false) else { return };
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return stream.send_reset(h2::Reason::INTERNAL_ERROR) };
        match frame.into_data() {
            Ok(data) => drop(stream.send_data(data, false)),
            Err(frame) => return drop(frame.into_trailers().map(|trailers| stream.send_trailers(trailers))),
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

async fn serve(
    upstreams: &Upstreams,
    settings: &Arc<Settings>,
    limits: &Limits<'_>,
    mut request: Request<Incoming>,
    client: Option<Upgrade>,
    told: &mpsc::UnboundedSender<Tunnel>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let key = request.headers_mut().remove("sec-websocket-key");
    let websocket = key.zip(client).map(|(key, client)| WebSocket::new(Handshake::Upgrade(key), client, None));
    let (mut head, body) = request.into_parts();
    let mut outgoing = Outgoing {
        method: head.method,
        target: head.uri.path_and_query().unwrap().clone(),
        host: head.headers.remove("host").unwrap_or(HeaderValue::from_static("a.example")),
        lines: head.headers.iter().collect(),
        caller: None,
        attempts: 0,
        expects_continue: head.headers.contains_key("expect"),
        body: Some(body),
        received: None,
        takes_trailers: head.headers.get("te").is_some_and(|value| value == "trailers"),
        trailers: head
            .headers
            .contains_key("x-wants-trailers")
            .then(|| TrailerFilter::new(|trailers| drop(trailers.remove("x-user-id")))),
        websocket,
    };
    Ok(match forward(upstreams, settings, &mut outgoing, limits).await {
        Ok(response) => {
            if let Some(tunnel) = response.extensions().get::<Tunnel>() {
                told.send(tunnel.clone()).unwrap();
            }
            response
        }
        Err(why) => {
            let status = match why {
                UpstreamError::ClientBody => 400,
                UpstreamError::Invalid(_) | UpstreamError::Unreachable(_) => 502,
                UpstreamError::OutOfTime | UpstreamError::Timeout(_) => 504,
                UpstreamError::TooLarge => 413,
                UpstreamError::Busy(_) | UpstreamError::Unavailable(_) => 503,
            };
            Response::builder().status(status).header("x-error", format!("{why:?}")).body(Body::empty()).unwrap()
        }
    })
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Whether the body came to the end that the head promised.
    complete: bool,
}

impl Answer {
    fn error(&self) -> &str {
        header(&self.head, "x-error").unwrap_or("none")
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads up to and including the empty line. `None`: the stream ended before.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin), to_head: bool) -> Answer {
    let head = read_head(stream).await.expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let (body, complete) = if to_head || status == 204 || status == 304 || status == 101 {
        (Vec::new(), true)
    } else {
        read_body(stream, &head).await
    };
    Answer { status, head, body, complete }
}

async fn read_body(stream: &mut (impl AsyncRead + Unpin), head: &str) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    if let Some(length) = header(head, "content-length") {
        let length: usize = length.parse().unwrap();
        while body.len() < length {
            match stream.read_u8().await {
                Ok(byte) => body.push(byte),
                Err(_) => return (body, false),
            }
        }
        return (body, true);
    }
    assert_eq!(header(head, "transfer-encoding"), Some("chunked"), "{head}");
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let Ok(byte) = stream.read_u8().await else { return (body, false) };
            line.push(byte);
        }
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        if length == 0 {
            // Trailers are shown as part of the body.
            while !line.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return (body, false) };
                line.push(byte);
                if line.ends_with(b"0\r\n\r\n") {
                    break;
                }
            }
            body.extend_from_slice(line.strip_prefix(b"0\r\n").unwrap().strip_suffix(b"\r\n").unwrap());
            return (body, true);
        }
        let mut chunk = vec![0; length + 2];
        if stream.read_exact(&mut chunk).await.is_err() {
            return (body, false);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

/// A listener whose connections are handed to `script`, one after the other.
async fn server<F: Future<Output = ()> + 'static>(script: impl FnMut(usize, TcpStream) -> F + 'static) -> SocketAddr {
    server_on(any_port().await, script)
}

async fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// As [`server`], of this listener.
fn server_on<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    mut script: impl FnMut(usize, TcpStream) -> F + 'static,
) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(script(number, stream));
        }
    });
    address
}

/// A server that answers every request on every connection with `answer` and records heads.
async fn steady(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<(usize, String)>) {
    let (seen, heads) = mpsc::unbounded_channel();
    let address = server(move |number, mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                if header(&head, "content-length").is_some() || header(&head, "transfer-encoding").is_some() {
                    read_body(&mut stream, &head).await;
                }
                seen.send((number, head)).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, heads)
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /a?b=%20c HTTP/1.1\r\nHost: a.example\r\nX-One: 1\r\n\r\n";

// ---- connections ----

#[test]
fn a_connection_is_used_again() {
    run(async {
        let (address, mut heads) = steady(OK).await;
        let front = Front::start(settings(vec![http(address)])).await;

        for _ in 0..3 {
            let answer = front.send(GET).await;
            assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
        }

        for _ in 0..3 {
            let (connection, head) = heads.recv().await.unwrap();
            assert_eq!(connection, 0);
            assert_eq!(head, "GET /a?b=%20c HTTP/1.1\r\nhost: a.example\r\nx-one: 1\r\n\r\n");
        }
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.tallies.reused())), (1, 2));
        assert_eq!(front.counters(|c| (c.open.load(Relaxed), c.tallies.under_way())), (1, 0));
    });
}

#[test]
fn concurrent_requests_have_connections_of_their_own_and_few_stay() {
    run(async {
        let (address, mut heads) = steady(OK).await;
        let front = Front::start(Settings { max_idle: 1, ..settings(vec![http(address)]) }).await;

        tokio::join!(front.send(GET), front.send(GET), front.send(GET));

        let mut connections: Vec<_> = [heads.recv().await, heads.recv().await, heads.recv().await]
            .into_iter()
            .map(|seen| seen.unwrap().0)
            .collect();
        connections.sort_unstable();
        assert_eq!(connections, [0, 1, 2]);
        eventually("only one is kept", || front.counters(|c| c.open.load(Relaxed)) == 1).await;
    });
}

#[test]
fn an_idle_connection_keeps_no_memory_of_a_large_answer() {
    run(async {
        const LENGTH: usize = 2 << 20;
        let address = server(|_, mut stream| async move {
            while read_head(&mut stream).await.is_some() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
                stream.write_all(&[head.as_bytes(), &vec![b'x'; LENGTH]].concat()).await.unwrap();
            }
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;

        for _ in 0..2 {
            let answer = front.send(GET).await;
            assert!(answer.complete && answer.body.len() == LENGTH);
            eventually("it is idle", || front.counters(|c| c.tallies.under_way()) == 0).await;
            assert!(front.upstreams.idle_buffer_bytes() <= 8 * 1024, "{}", front.upstreams.idle_buffer_bytes());
        }
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn bytes_that_nobody_asked_for_end_the_connection() {
    run(async {
        for (request, answer) in [
            (GET, format!("{OK}{OK}")),
            ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", OK.to_owned()),
            (GET, "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok".to_owned()),
        ] {
            let (address, mut heads) = steady(String::leak(answer)).await;
            let front = Front::start(settings(vec![http(address)])).await;

            for connection in 0..2 {
                let answer = front.send(request).await;
                assert!((200..300).contains(&answer.status), "{}", answer.head);
                assert_eq!(heads.recv().await.unwrap().0, connection);
            }
        }
    });
}

#[test]
fn an_unused_connection_is_closed_after_its_time() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let idle_timeout = Duration::from_millis(10);
        let front = Front::start(Settings { idle_timeout, ..settings(vec![http(address)]) }).await;

        front.send(GET).await;

        eventually("closed", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 2);
    });
}

#[test]
fn connection_close_and_http10_answers_end_the_connection() {
    run(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        ] {
            let (address, mut heads) = steady(answer).await;
            let front = Front::start(settings(vec![http(address)])).await;

            let first = front.send(GET).await;
            let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
            let second = front.send(chunked).await;

            assert!(first.head.starts_with("HTTP/1.1 200 OK"), "{}", first.head);
            assert_eq!((second.status, &*second.body), (200, &b"ok"[..]));
            heads.recv().await.unwrap();
            let (connection, head) = heads.recv().await.unwrap();
            assert_eq!(connection, 1, "{answer}");
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        }
    });
}

#[test]
fn an_answer_without_length_ends_with_its_connection() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").await.unwrap();
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;

        let answer = front.send(GET).await;

        assert_eq!((&*answer.body, answer.complete), (&b"all of it"[..], true));
    });
}

// ---- the one retry ----

/// Serves one request on each connection, then reads the next and closes without a word.
async fn dies_after_one() -> (SocketAddr, mpsc::UnboundedReceiver<(usize, String)>) {
    let (seen, heads) = mpsc::unbounded_channel();
    let address = server(move |number, mut stream| {
        let seen = seen.clone();
        async move {
            for answers in [true, false] {
                let Some(head) = read_head(&mut stream).await else { return };
                seen.send((number, head)).unwrap();
                if answers {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
        }
    })
    .await;
    (address, heads)
}

#[test]
fn an_idempotent_request_on_a_connection_that_died_is_sent_once_more() {
    run(async {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
            let (address, mut heads) = dies_after_one().await;
            let front = Front::start(settings(vec![http(address)])).await;
            let request = format!("{method} /x HTTP/1.1\r\nHost: a\r\nX-Two: 2\r\n\r\n");
            front.send(GET).await;
            heads.recv().await.unwrap();

            let answer = front.send(&request).await;

            assert_eq!(answer.status, 200, "{method}");
            let (first, second) = (heads.recv().await.unwrap(), heads.recv().await.unwrap());
            assert_eq!((first.0, second.0), (0, 1));
            assert_eq!(first.1, second.1);
            assert_eq!(front.counters(|c| c.retries.load(Relaxed)), 1);
        }
    });
}

#[test]
fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    run(async {
        for request in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let (address, mut heads) = dies_after_one().await;
            let front = Front::start(settings(vec![http(address)])).await;
            front.send(GET).await;

            let answer = front.send(request).await;

            assert_eq!(answer.error(), "Invalid(\"no_answer\")", "{request}");
            heads.recv().await.unwrap();
            assert_eq!(heads.recv().await.unwrap().0, 0);
            assert!(heads.try_recv().is_err(), "{request}");
        }
    });
}

#[test]
fn a_fresh_connection_that_dies_is_no_reason_to_send_again() {
    run(async {
        let (seen, mut connections) = mpsc::unbounded_channel();
        let address = server(move |number, mut stream| {
            seen.send(number).unwrap();
            async move {
                read_head(&mut stream).await;
            }
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;

        assert_eq!(front.send(GET).await.error(), "Invalid(\"no_answer\")");

        assert_eq!(connections.recv().await, Some(0));
        assert!(connections.try_recv().is_err());
    });
}

#[test]
fn a_half_given_answer_is_no_reason_to_send_again() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200").await.unwrap();
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;
        front.send(GET).await;

        assert_eq!(front.send(GET).await.error(), "Invalid(\"broken_head\")");
        assert_eq!(front.counters(|c| c.retries.load(Relaxed)), 0);
    });
}

#[test]
fn a_post_goes_to_another_connection_if_the_pooled_one_was_closed_while_idle() {
    run(async {
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let mut closed = Some(closed);
        let address = server(move |_, mut stream| {
            let closed = closed.take();
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    if header(&head, "content-length").is_some() {
                        read_body(&mut stream, &head).await;
                    }
                    stream.write_all(OK.as_bytes()).await.unwrap();
                    if let Some(closed) = closed {
                        let _ = closed.await;
                        return;
                    }
                }
            }
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;
        front.send(GET).await;
        close.send(()).unwrap();
        eventually("noticed", || front.counters(|c| c.open.load(Relaxed)) == 0).await;

        let answer = front.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;

        assert_eq!(answer.status, 200);
    });
}

// ---- who is to blame ----

/// An address where nobody listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[test]
fn a_refused_connection_is_unreachable() {
    run(async {
        let front = Front::start(settings(vec![http(nowhere().await)])).await;

        assert_eq!(front.send(GET).await.error(), "Unreachable(\"refused\")");
        assert_eq!(front.counters(|c| (c.connect_failures.load(Relaxed), c.open.load(Relaxed))), (1, 0));
    });
}

#[test]
fn a_server_that_refuses_is_skipped() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let front = Front::start(settings(vec![http(nowhere().await), http(address)])).await;

        for _ in 0..4 {
            assert_eq!(front.send(GET).await.status, 200);
        }

        assert_eq!(front.counters(|c| c.connect_failures.load(Relaxed)), 1, "it rests");
    });
}

#[test]
fn a_missing_socket_and_a_missing_trust_are_unreachable() {
    run(async {
        let missing = Server::Unix("/nonexistent/socket".into());
        let front = Front::start(settings(vec![missing])).await;
        assert_eq!(front.send(GET).await.error(), "Unreachable(\"no_socket\")");

        let (address, _heads) = steady(OK).await;
        let front = Front::start(settings(vec![Server::Https(address.to_string().parse().unwrap())])).await;
        assert_eq!(front.send(GET).await.error(), "Unreachable(\"no_trust_anchors\")");
    });
}

#[test]
fn own_listeners_are_no_upstreams() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let port = address.port();
        let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), port);
        for (server, own, expect) in [
            (address, address, "Unreachable(\"own_listener\")"),
            (address, SocketAddr::new([0, 0, 0, 0].into(), port), "Unreachable(\"own_listener\")"),
            (mapped, address, "Unreachable(\"own_listener\")"),
            (mapped, SocketAddr::new([0; 16].into(), port), "Unreachable(\"own_listener\")"),
            (address, SocketAddr::new([192, 0, 2, 1].into(), port), "none"),
            (address, SocketAddr::new([0, 0, 0, 0].into(), 1), "none"),
            (mapped, SocketAddr::new([192, 0, 2, 1].into(), port), "none"),
        ] {
            let shared = Shared::new(None, [OwnListener::Ip(own)].into());
            let front = Front::with(settings(vec![http(server)]), Limits::default(), shared).await;

            assert_eq!(front.send(GET).await.error(), expect, "{own}");
        }
    });
}

#[test]
fn an_own_unix_socket_is_no_upstream_by_whatever_link() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let [socket, link] = ["socket", "link"].map(|name| folder.path().join(name));
        let _listens = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        for (own, expect) in [(&socket, "own_listener"), (&link, "response_timeout")] {
            for path in [&socket, &link] {
                let shared = Shared::new(None, [OwnListener::Unix(own.clone())].into());
                let response_timeout = Duration::from_millis(20);
                let settings = Settings { response_timeout, ..settings(vec![Server::Unix(path.clone())]) };
                let front = Front::with(settings, Limits::default(), shared).await;

                let error = front.send(GET).await.error().to_owned();

                assert!(error.contains(expect), "{error}");
            }
        }
    });
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout() {
    run(async {
        let address = server(|_, mut stream| async move { while read_head(&mut stream).await.is_some() {} }).await;
        let response_timeout = Duration::from_millis(20);
        let front = Front::start(Settings { response_timeout, ..settings(vec![http(address)]) }).await;

        assert_eq!(front.send(GET).await.error(), "Timeout(\"response_timeout\")");
        eventually("cut", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
    });
}

#[test]
fn interim_answers_do_not_buy_time() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let response_timeout = Duration::from_millis(60);
        let front = Front::start(Settings { response_timeout, ..settings(vec![http(address)]) }).await;

        assert_eq!(front.send(GET).await.error(), "Timeout(\"response_timeout\")");
    });
}

#[test]
fn a_slow_client_does_not_use_up_the_servers_time() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let response_timeout = Duration::from_millis(20);
        let front = Front::start(Settings { response_timeout, ..settings(vec![http(address)]) }).await;
        let mut client = front.client().await;

        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.write_all(b"i").await.unwrap();

        assert_eq!(read_answer(&mut client, false).await.status, 200);
    });
}

#[test]
fn answers_that_are_none_are_invalid() {
    run(async {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(100_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        let interims = "HTTP/1.1 102 Processing\r\n\r\n".repeat(20_000);
        for (name, answer, expect) in [
            ("no HTTP", "SSH-2.0-OpenSSH\r\n\r\n", "bad_head"),
            ("bad status", "HTTP/1.1 20 OK\r\n\r\n", "bad_head"),
            ("HTTP/0.9", "<html>hello</html>\r\n", "bad_head"),
            ("bad name", "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", "bad_head"),
            ("bad length", "HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok", "bad_length"),
            ("signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "bad_length"),
            ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "bad_length"),
            ("one length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\nok", "bad_length"),
            ("length list", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "bad_length"),
            (
                "length with coding",
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "length_with_coding",
            ),
            ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", "bad_coding"),
            ("two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "bad_coding"),
            ("coding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_coding"),
            ("endless head", &endless, "bad_head"),
            ("too many fields", &many, "bad_head"),
            ("endless interim answers", &interims, "too_much_before_head"),
            (
                "unasked 101",
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
                "unasked_101",
            ),
            ("nothing", "", "no_answer"),
        ] {
            let answer = answer.to_owned();
            let address = server(move |_, mut stream| {
                let answer = answer.clone();
                async move {
                    read_head(&mut stream).await;
                    // It may be cut off while it still talks.
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            })
            .await;
            let front = Front::start(settings(vec![http(address)])).await;

            let answer = front.send(GET).await;

            assert_eq!((answer.status, answer.error()), (502, &*format!("Invalid({expect:?})")), "{name}");
            eventually("cut", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
        }
    });
}

#[test]
fn a_few_interim_answers_are_skipped() {
    run(async {
        let (address, _heads) =
            steady("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        let front = Front::start(settings(vec![http(address)])).await;

        for _ in 0..2 {
            assert_eq!(front.send(GET).await.status, 200);
        }
    });
}

// ---- bodies ----

#[test]
fn answers_without_content_keep_the_connection() {
    run(async {
        for (request, answer) in [
            ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 95\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ] {
            let (address, _heads) = steady(answer).await;
            let front = Front::start(settings(vec![http(address)])).await;

            let (first, second) = (front.send(request).await, front.send(request).await);

            for got in [first, second] {
                assert!(answer.starts_with(got.head.lines().next().unwrap()), "{}", got.head);
                assert_eq!(header(&got.head, "content-length"), header(answer, "content-length"), "{answer}");
            }
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1, "{answer}");
        }
    });
}

#[test]
fn bodies_pass_in_both_framings_and_directions() {
    run(async {
        let (seen, mut bodies) = mpsc::unbounded_channel();
        let address = server(move |_, mut stream| {
            let seen = seen.clone();
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    let body = read_body(&mut stream, &head).await.0;
                    let framing = header(&head, "content-length").unwrap_or("chunked").to_owned();
                    seen.send((framing, String::from_utf8(body).unwrap())).unwrap();
                    let answer =
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;

        for (method, framing, expect) in [
            ("POST", "Content-Length: 5\r\n\r\nhello", ("5", "hello")),
            (
                "POST",
                "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-User-Id: 7\r\n\r\n",
                ("chunked", "hello"),
            ),
            ("GET", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ("chunked", "hello")),
            ("POST", "Content-Length: 0\r\n\r\n", ("0", "")),
        ] {
            let answer = front.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\n{framing}")).await;

            assert_eq!((&*answer.body, answer.complete), (&b"abcde"[..], true));
            assert_eq!(bodies.recv().await.unwrap(), (expect.0.to_owned(), expect.1.to_owned()), "{method} {framing}");
        }
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn trailers_of_the_answer_pass_but_for_what_is_none() {
    run(async {
        let (address, _heads) = steady(concat!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, cache-control\r\n\r\n",
            "2\r\nok\r\n0\r\nX-Sum: 7\r\nCache-Control: public\r\n\r\n"
        ))
        .await;
        let front = Front::start(settings(vec![http(address)])).await;

        let answer = front.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;

        assert_eq!(String::from_utf8(answer.body).unwrap(), "okx-sum: 7\r\n");
        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_break_off() {
    run(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
        ] {
            let address = server(move |_, mut stream| async move {
                read_head(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let front = Front::start(settings(vec![http(address)])).await;

            let got = front.send(GET).await;

            assert_eq!((&*got.body, got.complete), (&b"half"[..], false), "{answer}");
        }
    });
}

#[test]
fn a_pause_within_an_answer_is_bounded_and_visible() {
    run(async {
        let address = server(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
            read_head(&mut stream).await;
        })
        .await;
        let read_timeout = Duration::from_millis(20);
        let front = Front::start(Settings { read_timeout, ..settings(vec![http(address)]) }).await;

        let answer = front.send(GET).await;

        assert_eq!((&*answer.body, answer.complete), (&b"half"[..], false));
        eventually("cut", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
    });
}

#[test]
fn a_client_that_does_not_read_makes_the_server_wait() {
    run(async {
        let (taken, mut takes) = mpsc::unbounded_channel();
        let total = 64 << 20;
        let address = server(move |_, mut stream| {
            let taken = taken.clone();
            async move {
                read_head(&mut stream).await;
                stream
                    .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                let block = vec![b'x'; 64 << 10];
                let mut sent = 0;
                while sent < total {
                    sent += stream.write(&block[..block.len().min(total - sent)]).await.unwrap();
                    taken.send(sent).unwrap();
                }
            }
        })
        .await;
        let read_timeout = Duration::from_millis(100);
        let front = Front::start(Settings { read_timeout, ..settings(vec![http(address)]) }).await;
        let mut client = front.client().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut sent = 0;
        while let Ok(Some(more)) = timeout(Duration::from_millis(400), takes.recv()).await {
            sent = more;
        }
        assert!(sent < total / 2, "{sent} bytes were taken for a client that reads none");

        // It is not the server that paused, so nothing was cut: all of it arrives once the client reads.
        let head = read_head(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"));
        let mut got = 0;
        let mut block = vec![0; 1 << 20];
        while got < total {
            let read = client.read(&mut block).await.unwrap();
            assert_ne!(read, 0, "after {got} bytes");
            got += read;
        }
    });
}

#[test]
fn a_server_that_does_not_read_makes_the_client_wait_and_runs_out_of_time() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            tokio::time::sleep(PATIENCE).await;
            drop(stream);
        })
        .await;
        let response_timeout = Duration::from_millis(300);
        let front = Front::start(Settings { response_timeout, ..settings(vec![http(address)]) }).await;
        let (mut read, mut write) = front.client().await.into_split();
        let total = 256 << 20;
        let upload = spawn_local(async move {
            write
                .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let block = vec![b'x'; 64 << 10];
            let mut sent = 0;
            while let Ok(Ok(written)) = timeout(Duration::from_millis(200), write.write(&block)).await {
                sent += written;
            }
            sent
        });

        let answer = read_answer(&mut read, false).await;

        assert_eq!(answer.error(), "Timeout(\"response_timeout\")");
        let sent = upload.await.unwrap();
        assert!(sent < total / 4, "{sent} bytes were taken for a server that reads none");
    });
}

#[test]
fn an_early_answer_to_a_large_upload_arrives_and_ends_the_connection() {
    run(async {
        for closes in [false, true] {
            let address = server(move |_, mut stream| async move {
                read_head(&mut stream).await;
                let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big";
                stream.write_all(answer).await.unwrap();
                if !closes {
                    read_head(&mut stream).await;
                }
            })
            .await;
            let front = Front::start(settings(vec![http(address)])).await;
            let (mut read, mut write) = front.client().await.into_split();
            let total = 64 << 20;
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            let upload = spawn_local(async move {
                let block = vec![b'x'; 64 << 10];
                while write.write_all(&block).await.is_ok() {}
            });

            let answer = read_answer(&mut read, false).await;

            assert_eq!((answer.status, &*answer.body), (413, &b"too big"[..]), "closes: {closes}");
            eventually("not reused", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
            drop(read);
            upload.abort();
        }
    });
}

#[test]
fn both_directions_stream_at_once() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            let mut chunk = [0; 6];
            for _ in 0..3 {
                stream.read_exact(&mut chunk).await.unwrap();
                stream.write_all(&chunk).await.unwrap();
            }
            stream.read_exact(&mut chunk[..5]).await.unwrap();
            stream.write_all(&chunk[..5]).await.unwrap();
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;
        let mut client = front.client().await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let head = read_head(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");

        for chunk in [b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n"] {
            client.write_all(chunk).await.unwrap();
            let mut back = [0; 6];
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, chunk);
        }
        client.write_all(b"0\r\n\r\n").await.unwrap();
        let mut end = [0; 5];
        client.read_exact(&mut end).await.unwrap();
        assert_eq!(&end, b"0\r\n\r\n");
    });
}

/// Collects what the server got until its connection ended.
async fn recording() -> (SocketAddr, mpsc::UnboundedReceiver<String>, mpsc::UnboundedReceiver<String>) {
    let (told_head, heads) = mpsc::unbounded_channel();
    let (told_rest, rests) = mpsc::unbounded_channel();
    let address = server(move |_, mut stream| {
        let (told_head, told_rest) = (told_head.clone(), told_rest.clone());
        async move {
            let Some(head) = read_head(&mut stream).await else { return };
            told_head.send(head).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            told_rest.send(String::from_utf8(rest).unwrap()).unwrap();
        }
    })
    .await;
    (address, heads, rests)
}

#[test]
fn a_request_body_that_breaks_midway_cuts_the_upstream_connection() {
    run(async {
        for (head, part) in [
            ("Content-Length: 10", "hel"),
            ("Transfer-Encoding: chunked", "3\r\nhel\r\n"),
            ("Transfer-Encoding: chunked", "3\r\nhel\r\nzz\r\n"),
        ] {
            let (address, mut heads, mut rests) = recording().await;
            let front = Front::start(settings(vec![http(address)])).await;
            let mut client = front.client().await;
            client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
            heads.recv().await.unwrap();

            client.write_all(part.as_bytes()).await.unwrap();
            if !part.contains('z') {
                drop(client);
            }

            let rest = rests.recv().await.unwrap();
            assert!(!rest.contains("0\r\n\r\n"), "{rest:?} looks complete");
            eventually("cut", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
        }
    });
}

#[test]
fn a_stream_that_was_reset_is_never_a_complete_body() {
    run(async {
        let (address, mut heads, mut rests) = recording().await;
        let front = Front::start(settings(vec![http(address)])).await;
        let mut client = front.client().await;
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
        };
        // POST, http, /, authority "a"
        let fields = [0x83, 0x86, 0x84, 0x41, 1, b'a'];
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&frame(4, 0, 0, b"")).await.unwrap();
        client.write_all(&frame(1, 4, 1, &fields)).await.unwrap();
        assert_eq!(header(&heads.recv().await.unwrap(), "transfer-encoding"), Some("chunked"));

        client.write_all(&frame(0, 0, 1, b"hel")).await.unwrap();
        client.write_all(&frame(3, 0, 1, &[0, 0, 0, 0])).await.unwrap();

        let rest = rests.recv().await.unwrap();
        assert!(!rest.contains("0\r\n\r\n"), "{rest:?} looks complete");
    });
}

#[test]
fn workers_share_the_count_of_requests_under_way_only_where_servers_are_compared_by_it() {
    run(async {
        let (round, least) = (Balance::RoundRobin, Balance::LeastRequests);
        for (balance, servers, shared) in [(round, 1, 0), (round, 2, 0), (least, 1, 0), (least, 2, 1)] {
            let address = server(|_, mut stream| async move {
                while read_head(&mut stream).await.is_some() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
                    read_head(&mut stream).await;
                }
            })
            .await;
            let front = Front::start(Settings { balance, ..settings(vec![http(address); servers]) }).await;
            let sum = |read: &dyn Fn(&Counters) -> u64| -> u64 {
                front.shared.upstreams()[0].servers.iter().map(|server| read(&server.counters)).sum()
            };
            let mut client = front.client().await;
            client.write_all(GET.as_bytes()).await.unwrap();
            read_head(&mut client).await.unwrap();

            assert_eq!(sum(&|c| c.busy.load(Relaxed)), shared, "{balance:?} of {servers}");
            assert_eq!(sum(&|c| c.tallies.under_way()), 1, "{balance:?} of {servers}");

            drop(client);
            eventually("over", || sum(&|c| c.busy.load(Relaxed) + c.tallies.under_way()) == 0).await;
        }
    });
}

#[test]
fn a_client_that_leaves_ends_the_upstream_connection() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await.unwrap();
            read_head(&mut stream).await;
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;
        let mut client = front.client().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        read_head(&mut client).await.unwrap();
        assert_eq!(front.counters(|c| c.tallies.under_way()), 1);

        drop(client);

        eventually("cut", || front.counters(|c| c.open.load(Relaxed) + c.tallies.under_way()) == 0).await;
    });
}

#[test]
fn a_declared_body_over_the_bound_never_reaches_the_upstream() {
    run(async {
        let (address, mut heads) = steady(OK).await;
        let limits = Limits { max_body: 4, ..Limits::default() };
        let front = Front::with(settings(vec![http(address)]), limits, Shared::new(None, Box::default())).await;

        let over = front.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!((over.status, over.error()), (413, "TooLarge"));
        assert!(heads.try_recv().is_err());

        let within = front.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhell").await;
        assert_eq!(within.status, 200);
    });
}

#[test]
fn a_streamed_body_over_the_bound_cuts_the_upstream_connection() {
    run(async {
        let (address, mut heads, mut rests) = recording().await;
        let limits = Limits { max_body: 4, ..Limits::default() };
        let front = Front::with(settings(vec![http(address)]), limits, Shared::new(None, Box::default())).await;
        let mut client = front.client().await;

        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n")
            .await
            .unwrap();
        heads.recv().await.unwrap();
        client.write_all(b"1\r\no\r\n0\r\n\r\n").await.unwrap();

        assert_eq!(read_answer(&mut client, false).await.error(), "TooLarge");
        assert!(!rests.recv().await.unwrap().contains('o'));
    });
}

// ---- Expect: 100-continue ----

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";

#[test]
fn the_client_is_told_to_continue_when_the_upstream_says_so() {
    run(async {
        let address = server(|_, mut stream| async move {
            let head = read_head(&mut stream).await.unwrap();
            assert_eq!(header(&head, "expect"), Some("100-continue"));
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 2];
            stream.read_exact(&mut body).await.unwrap();
            stream
                .write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", std::str::from_utf8(&body).unwrap())
                        .as_bytes(),
                )
                .await
                .unwrap();
            read_head(&mut stream).await;
        })
        .await;
        let front = Front::start(settings(vec![http(address)])).await;
        let mut client = front.client().await;
        client.write_all(EXPECTING.as_bytes()).await.unwrap();

        assert_eq!(read_head(&mut client).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hi").await.unwrap();

        assert_eq!(&*read_answer(&mut client, false).await.body, b"hi");
        assert_eq!(front.counters(|c| c.open.load(Relaxed)), 1);
    });
}

#[test]
fn a_client_whose_upload_is_refused_is_not_told_to_continue() {
    run(async {
        let (address, mut heads) = {
            let (seen, heads) = mpsc::unbounded_channel();
            let address = server(move |_, mut stream| {
                let seen = seen.clone();
                async move {
                    read_head(&mut stream).await;
                    stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    seen.send(rest).unwrap();
                }
            })
            .await;
            (address, heads)
        };
        let front = Front::start(settings(vec![http(address)])).await;

        assert_eq!(front.send(EXPECTING).await.status, 403);

        assert_eq!(heads.recv().await.unwrap(), b"");
    });
}

#[test]
fn an_upstream_that_does_not_know_expect_gets_the_body_after_a_moment() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let front = Front::start(settings(vec![http(address)])).await;
        let mut client = front.client().await;
        client.write_all(EXPECTING.as_bytes()).await.unwrap();

        assert_eq!(read_head(&mut client).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hi").await.unwrap();

        assert_eq!(read_answer(&mut client, false).await.status, 200);
    });
}

#[test]
fn without_a_connection_the_client_is_not_told_to_continue() {
    run(async {
        let front = Front::start(settings(vec![http(nowhere().await)])).await;

        assert_eq!(front.send(EXPECTING).await.status, 502);
    });
}

// ---- head ----

#[test]
fn host_follows_the_policy() {
    run(async {
        let (address, mut heads) = steady(OK).await;
        for (policy, expect) in [
            (HostPolicy::Keep, "a.example".to_owned()),
            (HostPolicy::Name("b.example".parse().unwrap()), "b.example".to_owned()),
            (HostPolicy::Upstream, address.to_string()),
        ] {
            let front = Front::start(Settings { host: policy, ..settings(vec![http(address)]) }).await;
            front.send(GET).await;

            let head = heads.recv().await.unwrap().1;
            assert_eq!(header(&head, "host"), Some(&*expect));
            assert_eq!(head.to_ascii_lowercase().matches("host:").count(), 1);
        }
    });
}

// ---- kinds of servers ----

#[test]
fn unix_sockets_are_served() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while read_head(&mut stream).await.is_some() {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        });
        let front = Front::start(settings(vec![Server::Unix(path)])).await;

        for _ in 0..2 {
            assert_eq!(front.send(GET).await.status, 200);
        }
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn the_echo_shows_what_a_backend_sees() {
    run(async {
        let front = Front::start(settings(vec![Server::Echo])).await;

        let request = "POST /p/q?x=1 HTTP/1.1\r\nHost: a.example\r\nX-B: 2\r\nX-A: 1\r\nContent-Length: 2000\r\n\r\n";
        let answer = front.send(&format!("{request}{}", "y".repeat(2000))).await;

        let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(seen["upstream"], "backend");
        assert_eq!((&seen["method"], &seen["path"], &seen["query"]), (&"POST".into(), &"/p/q".into(), &"x=1".into()));
        let expect = serde_json::json!([["host", "a.example"], ["x-b", "2"], ["x-a", "1"], ["content-length", "2000"]]);
        assert_eq!(seen["headers"], expect);
        assert_eq!(seen["body"]["size"], 2000);
        assert_eq!(seen["body"]["text"].as_str().unwrap(), "y".repeat(1024));
        assert_eq!(front.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.tallies.reused())), (1, 1));
    });
}

#[test]
fn https_servers_are_verified_by_name() {
    run(async {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let address = server(move |_, stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while read_head(&mut stream).await.is_some() {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
        })
        .await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let tls = trust(roots).unwrap();
        let strangers = trust(rustls::RootCertStore::empty()).unwrap();

        for (name, tls, expect) in [("localhost", &tls, 200), ("127.0.0.1", &tls, 502), ("localhost", &strangers, 502)]
        {
            let server = Server::Https(format!("{name}:{}", address.port()).parse().unwrap());
            let shared = Shared::new(Some(Arc::clone(tls)), Box::default());
            let front = Front::with(settings(vec![server]), Limits::default(), shared).await;

            let (first, second) = (front.send(GET).await, front.send(GET).await);

            assert_eq!((first.status, second.status), (expect, expect), "{name}: {}", first.error());
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), u64::from(expect == 200));
        }
    });
}

#[test]
fn the_systems_authorities_can_be_read_if_they_are_there() {
    match system_trust() {
        Ok(config) => assert!(config.alpn_protocols.is_empty(), "what is offered is each upstream's matter"),
        Err(why) => assert!(why.to_string().contains("ca-certificates.crt"), "{why}"),
    }
}

// ---- tunnels ----

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

/// Accepts a handshake, greets, then sends everything back in upper case until the client's side ends.
async fn chat() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (seen, heads) = mpsc::unbounded_channel();
    let address = server(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_head(&mut stream).await.unwrap()).unwrap();
            stream.write_all(format!("{ACCEPTED}hello").as_bytes()).await.unwrap();
            let mut block = [0; 64];
            loop {
                match stream.read(&mut block).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => stream.write_all(&block[..read].to_ascii_uppercase()).await.unwrap(),
                }
            }
            let _ = stream.write_all(b"bye").await;
        }
    })
    .await;
    (address, heads)
}

async fn shake_hands(front: &Front) -> TcpStream {
    let mut client = front.client().await;
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    assert_eq!(header(&head, "sec-websocket-protocol"), Some("chat"));
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello");
    client
}

#[test]
fn an_accepted_handshake_opens_a_tunnel_with_half_close() {
    run(async {
        let (address, mut heads) = chat().await;
        let front = Front::start(settings(vec![http(address)])).await;
        let mut client = shake_hands(&front).await;
        let head = heads.recv().await.unwrap();
        assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
        assert_eq!(front.counters(|c| (c.tunnels.load(Relaxed), c.tallies.under_way())), (1, 1));

        client.write_all(b"abc").await.unwrap();
        let mut back = [0; 3];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ABC");
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();

        assert_eq!(rest, b"bye");
        eventually("counted out", || {
            front.counters(|c| c.tunnels.load(Relaxed) + c.tallies.under_way() + c.open.load(Relaxed)) == 0
        })
        .await;
    });
}

#[test]
fn a_tunnel_ends_when_told_when_idle_and_when_the_gateway_stops() {
    run(async {
        for end in ["told", "idle", "stop"] {
            let (address, _heads) = chat().await;
            let tunnel_idle = if end == "idle" { Duration::from_millis(50) } else { PATIENCE };
            let limits = Limits { tunnel_idle, ..Limits::default() };
            let shared = Shared::new(None, Box::default());
            let mut front = Front::with(settings(vec![http(address)]), limits, shared).await;
            let mut client = shake_hands(&front).await;
            let tunnel = front.tunnels.recv().await.unwrap();

            match end {
                "told" => tunnel.end(),
                "stop" => {
                    assert_eq!(front.shutdown.running(), 1);
                    front.shutdown.trigger();
                }
                _ => {}
            }

            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "{end}");
            eventually("closed", || !tunnel.is_open()).await;
            assert!(front.shutdown.drained(PATIENCE).await);
            assert_eq!(front.counters(|c| c.tunnels.load(Relaxed)), 0);
        }
    });
}

#[test]
fn a_wrong_handshake_is_an_invalid_answer() {
    run(async {
        for answer in [
            ACCEPTED.replace("s3pP", "AAAA"),
            ACCEPTED.replace("Upgrade: websocket", "Upgrade: h2c"),
            ACCEPTED.replace("Connection: Upgrade\r\n", ""),
        ] {
            let (seen, mut rests) = mpsc::unbounded_channel();
            let address = server(move |_, mut stream| {
                let (seen, answer) = (seen.clone(), answer.clone());
                async move {
                    read_head(&mut stream).await;
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    seen.send(rest).unwrap();
                }
            })
            .await;
            let front = Front::start(settings(vec![http(address)])).await;

            let answer = front.send(&format!("{HANDSHAKE}GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")).await;

            assert_eq!((answer.status, answer.error()), (502, "Invalid(\"bad_handshake\")"));
            assert_eq!(rests.recv().await.unwrap(), b"", "client bytes wait for the handshake");
        }
    });
}

#[test]
fn a_refused_handshake_is_an_ordinary_answer() {
    run(async {
        let (address, _heads) = steady("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        let front = Front::start(settings(vec![http(address)])).await;

        for _ in 0..2 {
            let answer = front.send(HANDSHAKE).await;
            assert_eq!((answer.status, &*answer.body), (403, &b"no"[..]));
        }
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.tunnels.load(Relaxed))), (1, 0));
    });
}

#[test]
fn a_worker_that_ends_lets_go_of_its_connections() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let front = Front::start(settings(vec![http(address)])).await;
        front.send(GET).await;
        assert_eq!(front.counters(|c| c.open.load(Relaxed)), 1);

        front.upstreams.close_idle();

        eventually("closed", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
    });
}
