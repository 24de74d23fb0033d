//! The edge with real sockets and real TLS: what a client may send, what a handler sees, how it ends.
//! Limits are set small instead of waiting for the real ones; nothing sleeps.

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{Shutdown as Half, TcpStream},
    os::unix::net::UnixStream,
    pin::Pin,
    sync::{Mutex, atomic::AtomicUsize},
    task::{Context, Poll},
};

use ::http::{HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{sync::Notify, task::LocalSet};

use super::*;

type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// What the test and all handlers share.
#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<String>>,
    released: Notify,
    entered: Notify,
    left: Notify,
    produced: AtomicUsize,
}

struct Probe(Arc<Shared>);

impl Handler for Probe {
    type Body = TestBody;

    async fn handle(&self, inbound: &mut Inbound, body: Incoming, _: Hints<'_>) -> Response<TestBody> {
        let path = inbound.head.uri.path().to_owned();
        let name = inbound.connection.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let seen = match inbound.malformed {
            Some(reason) => format!("{reason:?}"),
            None => format!("{} {path}", inbound.head.method),
        };
        self.0.seen.lock().unwrap().push(seen);
        if let Some(reason) = inbound.malformed {
            return answer(StatusCode::BAD_REQUEST, format!("{reason:?}"));
        }
        match path.as_str() {
            "/echo" => match body.collect().await {
                Ok(body) => answer(StatusCode::OK, body.to_bytes()),
                Err(_) => {
                    self.0.seen.lock().unwrap().push("broken".to_owned());
                    answer(StatusCode::BAD_REQUEST, "broken")
                }
            },
            "/early" => answer(StatusCode::FORBIDDEN, "early"),
            "/panic" => panic!("on purpose"),
            "/name" => answer(StatusCode::OK, name.as_deref().unwrap_or("-").to_owned()),
            "/hang" => {
                let _left = Left(Arc::clone(&self.0));
                self.0.entered.notify_one();
                self.0.released.notified().await;
                answer(StatusCode::OK, "released")
            }
            "/gibibyte" => Response::new(gibibyte(Arc::clone(&self.0))),
            "/tunnel" => tunnel(inbound),
            _ => answer(StatusCode::OK, "fine"),
        }
    }
}

/// Notes when a handler has ended or was dropped.
struct Left(Arc<Shared>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.seen.lock().unwrap().push("left".to_owned());
        self.0.left.notify_one();
    }
}

fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<TestBody> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// 16,384 frames of 64 KiB, counted as they are asked for.
struct Gibibyte {
    left: usize,
    frame: Bytes,
    shared: Arc<Shared>,
}

fn gibibyte(shared: Arc<Shared>) -> TestBody {
    Gibibyte { left: 16_384, frame: Bytes::from(vec![b'x'; 64 * 1024]), shared }.boxed_unsync()
}

impl Body for Gibibyte {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.shared.produced.fetch_add(self.frame.len(), Relaxed);
        Poll::Ready(Some(Ok(http_body::Frame::data(self.frame.clone()))))
    }
}

/// Answers 101 and echoes in the tunnel.
fn tunnel(inbound: &mut Inbound) -> Response<TestBody> {
    let upgrade = inbound.upgrade.take().unwrap();
    spawn_local(async move {
        let mut io = upgrade.granted().await.unwrap();
        let (mut from, mut to) = tokio::io::split(&mut io);
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// An edge on a free port; dropping it stops it at once.
struct Edge {
    address: SocketAddr,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    shutdown: Shutdown,
    running: Option<Running>,
    root: Option<CertificateDer<'static>>,
}

impl Edge {
    fn http(limits: Limits) -> Self {
        Self::with(limits, Peers::everybody(), false, Duration::from_secs(5))
    }

    fn https(limits: Limits) -> Self {
        Self::with(limits, Peers::everybody(), true, Duration::from_secs(5))
    }

    fn with(limits: Limits, peers: Peers, https: bool, drain_timeout: Duration) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = bind(&if https { Listener::Https(any) } else { Listener::Http(any) }).unwrap();
        let address = bound.local_addr().unwrap();
        let (config, root) = test_tls();
        let (shared, counters, shutdown) =
            (Arc::new(Shared::default()), Arc::new(Counters::default()), Shutdown::new());
        let setup = Setup {
            name: "test",
            listeners: vec![bound],
            tls: Some(Arc::new(TlsSlot::new(config))),
            workers: 2,
            limits,
            drain_timeout,
            peers,
            shutdown: shutdown.clone(),
            clock: Clock::system(),
            counters: Arc::clone(&counters),
        };
        let of_handlers = Arc::clone(&shared);
        let running = Some(start(setup, move |_| Probe(Arc::clone(&of_handlers))).unwrap());
        Self { address, shared, counters, shutdown, running, root: Some(root) }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    /// Sends and reads until the edge closes.
    fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.connect();
        client.write_all(bytes.as_ref()).unwrap();
        read_to_end(&mut client)
    }

    fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    fn client_config(&self, alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone().unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    fn connect_tls(&self, alpn: &[&str]) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let name = ServerName::try_from("edge.example").unwrap();
        let session = rustls::ClientConnection::new(Arc::new(self.client_config(alpn)), name).unwrap();
        rustls::StreamOwned::new(session, self.connect())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.shared.released.notify_waiters();
    }
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn test_tls() -> (Spoken, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["edge.example".to_owned()]).unwrap();
    let root = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(vec![root.clone()], key, &provider).unwrap();
    let resolver: Certificates = Arc::new(OneCertificate(Arc::new(key)));
    let config = Spoken::new(&resolver, MinVersion::Tls12, &[], Arc::default(), None).unwrap();
    (config, root)
}

fn read_to_end(client: &mut impl Read) -> String {
    let mut answer = Vec::new();
    match client.read_to_end(&mut answer) {
        Ok(_) => {}
        // A cut connection may end in a reset; silence may not.
        Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "nothing came: {answer:?}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one answer whose body is `end`.
fn read_answer(client: &mut impl Read, end: &str) -> String {
    let mut answer = String::new();
    while !answer.ends_with(end) {
        let mut piece = [0; 1024];
        let count = client.read(&mut piece).unwrap();
        assert_ne!(count, 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    answer
}

/// Waits for what another thread does.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = clock::instant();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);
const CLOSE: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn r18_bad_heads_reach_the_handler_as_malformed_and_nothing_behind_them_is_served() {
    let edge = Edge::http(Limits { max_header_bytes: 1024, max_headers: 4, ..Limits::default() });
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(2000));
    for (head, expect) in [
        ("GET / HTTP/1.1\nHost: a\n\n", Malformed::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Malformed::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Malformed::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Malformed::HeaderName),
        ("GET / HTTP/1.1\r\nHo(st: a\r\n\r\n", Malformed::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Malformed::ObsFold),
        ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", Malformed::HeaderValue),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::LengthWithCoding),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Malformed::ContentLength),
        ("POST / HTTP/1.1\r\nContent-Length: 1a\r\n\r\n", Malformed::ContentLength),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Malformed::TransferCoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::TransferCoding),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::RequestLine),
        ("GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::RequestLine),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::RequestLine),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Malformed::RequestLine),
        ("GET / HTTP/1.1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n\r\n", Malformed::TooManyHeaders),
        (&long, Malformed::HeadTooLarge),
    ] {
        let answer = edge.exchange(format!("{head}{CLOSE}"));

        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        assert!(answer.contains("connection: close"), "{head:?}: {answer}");
        assert!(answer.ends_with(&format!("{expect:?}")), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
    assert!(!edge.seen().iter().any(|seen| seen.contains("last")));

    let twin = edge.exchange(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{CLOSE}"));
    assert_eq!(twin.matches("HTTP/1.1 200 OK").count(), 2, "{twin}");
    assert!(edge.counters.malformed.iter().map(|counter| counter.load(Relaxed)).sum::<u64>() >= 18);
}

#[test]
fn requests_before_a_bad_head_are_answered_as_usual() {
    let edge = Edge::http(Limits::default());

    let answer = edge.exchange(format!(
        "GET /one HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nab\
         GET /three HTTP/1.1\r\nHost : a\r\n\r\n{CLOSE}"
    ));

    assert_eq!(edge.seen(), ["GET /one", "POST /echo", "HeaderName"]);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.ends_with("HeaderName"), "{answer}");
}

#[test]
fn a_head_and_body_may_come_byte_by_byte() {
    for encrypted in [false, true] {
        let edge = if encrypted { Edge::https(Limits::default()) } else { Edge::http(Limits::default()) };
        let message = format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n{CLOSE}"
        );

        let answer = if encrypted {
            let mut client = edge.connect_tls(&["http/1.1"]);
            message.bytes().for_each(|byte| client.write_all(&[byte]).unwrap());
            read_to_end(&mut client)
        } else {
            let mut client = edge.connect();
            message.bytes().for_each(|byte| client.write_all(&[byte]).unwrap());
            read_to_end(&mut client)
        };

        assert!(answer.contains("\r\n\r\nabcde"), "{answer}");
        assert!(answer.ends_with("fine"), "{answer}");
    }
}

#[test]
fn a_body_that_breaks_fails_its_reader_and_cuts_the_connection() {
    let edge = Edge::http(Limits::default());

    let answer = edge.exchange(format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n{CLOSE}"
    ));

    assert_eq!(edge.seen(), ["POST /echo", "broken"]);
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[test]
fn an_early_answer_keeps_the_connection_only_if_the_whole_body_had_come() {
    let edge = Edge::http(Limits::default());

    let whole = edge.exchange(format!("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc{CLOSE}"));
    assert!(whole.contains("403 Forbidden") && whole.ends_with("fine"), "{whole}");

    let mut client = edge.connect();
    client.write_all(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\nabc").unwrap();
    let mut answer = read_answer(&mut client, "early");
    client.write_all(CLOSE.as_bytes()).unwrap();
    client.shutdown(Half::Write).unwrap();
    answer.push_str(&read_to_end(&mut client));
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[test]
fn expect_continue_is_answered_when_the_body_is_read() {
    let edge = Edge::http(Limits::default());
    let mut client = edge.connect();

    client.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").unwrap();
    read_answer(&mut client, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"abc").unwrap();

    assert!(read_answer(&mut client, "abc").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn r19_a_slow_head_is_answered_408() {
    let edge = Edge::http(Limits { header_timeout: SHORT, ..Limits::default() });

    let answer = edge.exchange("GET / HTTP/1.1\r\nHost: a");

    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("Cache-Control: no-store") && answer.contains("Date: "), "{answer}");
    assert_eq!(edge.counters.timeout_head.load(Relaxed), 1);
    assert!(edge.seen().is_empty());
}

#[test]
fn an_empty_line_behind_a_body_is_no_slow_head() {
    let edge = Edge::http(Limits { header_timeout: SHORT, idle_timeout: SHORT * 4, ..Limits::default() });

    let answer = edge.exchange("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n");

    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("abc"), "{answer}");
    assert_eq!(edge.counters.timeout_head.load(Relaxed), 0);
    assert_eq!(edge.counters.timeout_idle.load(Relaxed), 1);
    // What follows it is one, from its first byte on.
    assert!(edge.exchange("\r\nGET / HT").starts_with("HTTP/1.1 408 "));
}

#[test]
fn r19_an_idle_connection_is_closed_without_a_word() {
    let edge = Edge::http(Limits { idle_timeout: SHORT, ..Limits::default() });

    assert_eq!(edge.exchange(""), "");
    let answer = edge.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.ends_with("fine"), "{answer}");
    assert_eq!(edge.counters.timeout_idle.load(Relaxed), 2);
}

/// Connections rest as soon as nothing is asked.
fn restless() -> Limits {
    // A short window of bodies makes sweeps frequent; no rate is asked.
    Limits { rest_after: Duration::ZERO, body_window: SHORT, body_min_rate: 0, ..Limits::default() }
}

fn waits_for_rest(edge: &Edge, number: u64) {
    eventually("it rests", || edge.counters.rests.load(Relaxed) >= number);
}

#[test]
fn a_connection_that_rests_between_requests_is_served_as_before() {
    let (http, https) = (Edge::http(restless()), Edge::https(restless()));
    serves_after_rests(&http, http.connect());
    serves_after_rests(&https, https.connect_tls(&["http/1.1"]));
}

fn serves_after_rests(edge: &Edge, mut client: impl Read + Write) {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    for (written, expect) in [
        (GET.to_owned(), "fine"),
        (format!("{GET}{GET}"), "fine"),
        // One empty line is forgiven, on whichever side of a rest it comes.
        (format!("\r\n{GET}"), "fine"),
        (format!("{GET}\r\n"), "fine"),
        (POST.to_owned(), "abc"),
        (GET.to_owned(), "fine"),
    ] {
        let rests = edge.counters.rests.load(Relaxed);
        client.write_all(written.as_bytes()).unwrap();
        let (asked, mut answers) = (written.matches("HTTP/1.1").count(), String::new());
        while answers.matches(expect).count() < asked {
            answers.push_str(&read_answer(&mut client, expect));
        }
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), asked, "{answers}");
        waits_for_rest(edge, rests + 1);
    }
    // What is wrong behind a rest belongs to its own request.
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n").unwrap();
    assert!(read_to_end(&mut client).ends_with("HeaderName"));
    assert_eq!(edge.seen().len(), 8);
}

#[test]
fn whatever_ends_a_connection_ends_one_that_rests() {
    let edge = Edge::http(restless());
    let mut leaves = edge.connect();
    waits_for_rest(&edge, 1);
    leaves.shutdown(Half::Write).unwrap();
    assert_eq!(read_to_end(&mut leaves), "");

    let idle = Edge::http(Limits { idle_timeout: SHORT, ..restless() });
    let mut client = idle.connect();
    waits_for_rest(&idle, 1);
    assert_eq!(read_to_end(&mut client), "");
    assert_eq!(idle.counters.timeout_idle.load(Relaxed), 1);

    let mut client = edge.connect();
    waits_for_rest(&edge, 2);
    edge.shutdown.trigger();
    assert_eq!(read_to_end(&mut client), "");
}

#[test]
fn r19_idle_and_head_limits_leave_a_request_under_way_alone() {
    let edge = Edge::http(Limits { idle_timeout: SHORT, header_timeout: SHORT, ..Limits::default() });
    let other = Edge::http(Limits { idle_timeout: SHORT * 4, ..Limits::default() });
    let mut client = edge.connect();
    client.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\nGET /pip").unwrap();

    // Longer than the limits of `edge`, measured by an edge with other limits.
    assert_eq!(other.exchange(""), "");
    edge.shared.released.notify_one();
    let answer = read_answer(&mut client, "released");
    client.write_all(b"elined HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();

    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(read_answer(&mut client, "fine").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn r19_a_body_below_the_rate_is_cut() {
    let edge = Edge::http(Limits { body_window: SHORT, body_min_rate: 1000, ..Limits::default() });

    let answer = edge.exchange("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc");

    assert_eq!(answer, "");
    assert_eq!(edge.counters.timeout_body.load(Relaxed), 1);
}

/// A body of HTTP/2 that never goes on.
struct Stalled(Option<Bytes>);

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))))
    }
}

#[test]
fn r19_an_http2_body_below_the_rate_is_cut_and_a_complete_one_may_be_thought_about() {
    let limits = Limits { body_window: SHORT, body_min_rate: 1000, ..Limits::default() };
    let slow = Edge::https(limits);
    with_http2(&slow, |mut sender| async move {
        let uri = "https://edge.example/echo";
        let request = Request::post(uri).version(Version::HTTP_2).body(Stalled(Some("abc".into()))).unwrap();
        assert!(sender.send_request(request.map(BodyExt::boxed_unsync)).await.is_err());
    });
    assert_eq!(slow.counters.timeout_body.load(Relaxed), 1);

    let thinking = Edge::https(limits);
    let shared = Arc::clone(&thinking.shared);
    with_http2(&thinking, |mut sender| async move {
        let pending = spawn_local(sender.send_request(http2_request(Method::POST, "/hang", "abc")));
        shared.entered.notified().await;
        // Another edge tells when longer than the window has passed.
        let clock = Edge::http(Limits { idle_timeout: SHORT * 4, ..Limits::default() });
        tokio::task::spawn_blocking(move || assert_eq!(clock.exchange(""), "")).await.unwrap();
        shared.released.notify_one();
        assert_eq!(text(pending.await.unwrap().unwrap()).await, "released");
    });
}

#[test]
fn r19_a_client_that_does_not_read_costs_little_and_is_cut() {
    for encrypted in [false, true] {
        let limits = Limits { write_timeout: SHORT, ..Limits::default() };
        let edge = if encrypted { Edge::https(limits) } else { Edge::http(limits) };
        let request = b"GET /gibibyte HTTP/1.1\r\nHost: a\r\n\r\n";

        if encrypted {
            let mut client = edge.connect_tls(&[]);
            client.write_all(request).unwrap();
            eventually("it is cut", || edge.counters.timeout_write.load(Relaxed) >= 1);
        } else {
            let mut client = edge.connect();
            client.write_all(request).unwrap();
            eventually("it is cut", || edge.counters.timeout_write.load(Relaxed) == 1);
        }

        let produced = edge.shared.produced.load(Relaxed);
        assert!(produced < 32 * 1024 * 1024, "{produced}");
    }
}

#[test]
fn r19_connections_of_one_address_are_limited() {
    let edge = Edge::http(Limits { max_connections_per_address: 2, ..Limits::default() });
    let mut first = edge.connect();
    let mut second = edge.connect();
    for client in [&mut first, &mut second] {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_answer(client, "fine");
    }

    assert_eq!(read_to_end(&mut edge.connect()), "");
    assert_eq!(edge.counters.refused_address.load(Relaxed), 1);

    drop(first);
    eventually("its place is free", || edge.counters.open.load(Relaxed) == 1);
    assert!(edge.exchange(CLOSE).ends_with("fine"));
}

#[test]
fn r19_connections_altogether_are_limited() {
    let edge = Edge::http(Limits { max_connections: 1, ..Limits::default() });
    let mut first = edge.connect();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_answer(&mut first, "fine");

    assert_eq!(read_to_end(&mut edge.connect()), "");
    assert_eq!(edge.counters.refused_full.load(Relaxed), 1);
}

#[test]
fn r15_peers_that_may_not_speak_plain_http_are_closed_unheard() {
    let peers = |allowed: bool| Peers { plain_allowed: Arc::new(move |_| allowed), ..Peers::everybody() };
    let refusing = Edge::with(Limits::default(), peers(false), false, PATIENCE);
    let allowing = Edge::with(Limits::default(), peers(true), false, PATIENCE);

    assert_eq!(read_to_end(&mut refusing.connect()), "");
    assert_eq!(refusing.counters.refused_peer.load(Relaxed), 1);
    assert!(allowing.exchange(CLOSE).ends_with("fine"));
}

#[test]
fn a_panic_ends_its_connection_and_nothing_else() {
    let edge = Edge::http(Limits::default());
    let mut bystander = edge.connect();
    bystander.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_answer(&mut bystander, "fine");

    for _ in 0..4 {
        assert_eq!(edge.exchange("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n"), "");
    }

    bystander.write_all(CLOSE.as_bytes()).unwrap();
    assert!(read_to_end(&mut bystander).ends_with("fine"));
    assert_eq!(edge.counters.panics.load(Relaxed), 4);
    eventually("all are gone", || edge.counters.open.load(Relaxed) == 0);
}

#[test]
fn r20_http_is_chosen_by_alpn_and_the_server_name_is_known() {
    let edge = Edge::https(Limits::default());
    for alpn in [&[][..], &["http/1.1"], &["h3", "http/1.1"]] {
        let mut client = edge.connect_tls(alpn);
        client.write_all(b"GET /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();

        assert!(read_to_end(&mut client).ends_with("edge.example"), "{alpn:?}");
        let group = client.conn.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        assert_eq!(client.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }

    let mut unknown = edge.connect_tls(&["h3"]);
    assert!(unknown.write_all(CLOSE.as_bytes()).and_then(|()| unknown.read(&mut [0; 1])).is_err());
    eventually("it is counted", || edge.counters.handshakes_failed.load(Relaxed) == 1);
}

#[test]
fn r19_a_handshake_that_does_not_come_is_cut() {
    let edge = Edge::https(Limits { handshake_timeout: SHORT, ..Limits::default() });

    assert_eq!(edge.exchange("\x16\x03\x01"), "");
    assert_eq!(edge.counters.timeout_handshake.load(Relaxed), 1);
    eventually("it is gone", || edge.counters.open.load(Relaxed) == 0);
}

/// A client of HTTP/2 in a runtime of its own.
fn with_http2<F: Future<Output = ()>>(
    edge: &Edge,
    talk: impl FnOnce(hyper::client::conn::http2::SendRequest<TestBody>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let socket = tokio::net::TcpStream::connect(edge.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(edge.client_config(&["h2", "http/1.1"])));
        let stream = connector.connect(ServerName::try_from("edge.example").unwrap(), socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = spawn_local(connection);
        tokio::time::timeout(PATIENCE, talk(sender)).await.unwrap();
        let _ = tokio::time::timeout(PATIENCE, connection).await.unwrap();
    });
}

fn http2_request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<TestBody> {
    let uri = format!("https://edge.example{path}");
    Request::builder()
        .method(method)
        .uri(uri)
        .version(Version::HTTP_2)
        .body(Full::new(body.into()).boxed_unsync())
        .unwrap()
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn http2_serves_get_and_post_side_by_side() {
    let edge = Edge::https(Limits::default());
    with_http2(&edge, |mut sender| async move {
        let get = sender.send_request(http2_request(Method::GET, "/name", ""));
        let body = "x".repeat(300_000);
        let post = sender.send_request(http2_request(Method::POST, "/echo", body.clone()));

        let (got, posted) = (get.await.unwrap(), post.await.unwrap());
        assert_eq!((got.version(), posted.version()), (Version::HTTP_2, Version::HTTP_2));
        assert_eq!(text(got).await, "edge.example");
        assert_eq!(text(posted).await, body);
    });
}

#[test]
fn a_panic_in_http2_ends_its_stream_only() {
    let edge = Edge::https(Limits::default());
    with_http2(&edge, |mut sender| async move {
        assert!(sender.send_request(http2_request(Method::GET, "/panic", "")).await.is_err());
        let answer = sender.send_request(http2_request(Method::GET, "/", "")).await.unwrap();
        assert_eq!(text(answer).await, "fine");
    });
    assert_eq!(edge.counters.panics.load(Relaxed), 1);
}

#[test]
fn a_stream_that_its_client_resets_cancels_its_request_and_no_other() {
    let edge = Edge::https(Limits::default());
    let shared = Arc::clone(&edge.shared);
    with_http2(&edge, |mut sender| async move {
        let held = spawn_local(sender.send_request(http2_request(Method::GET, "/hang", "")));
        shared.entered.notified().await;
        let other = spawn_local(sender.send_request(http2_request(Method::GET, "/hang", "")));
        shared.entered.notified().await;

        held.abort();
        shared.left.notified().await;

        shared.released.notify_waiters();
        assert_eq!(text(other.await.unwrap().unwrap()).await, "released");
    });
    assert_eq!(edge.seen().iter().filter(|seen| *seen == "left").count(), 2);
    assert_eq!(edge.counters.panics.load(Relaxed), 0);
}

/// RFC 9113 section 6.7.
#[test]
fn r19_a_client_of_http2_that_is_silent_is_asked_and_given_up_if_it_does_not_answer() {
    const PING: u8 = 6;
    let edge = Edge::https(Limits::default());
    let mut client = edge.connect_tls(&["h2"]);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut questions = 0;
    let mut head = [0; 9];
    // The first is answered, and a second one comes; then there is an end.
    while client.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; usize::from(head[2])];
        client.read_exact(&mut payload).unwrap();
        if head[3] == PING && head[4] == 0 {
            questions += 1;
            if questions == 1 {
                client.write_all(&[&[0, 0, 8, PING, 1, 0, 0, 0, 0], &payload[..]].concat()).unwrap();
            }
        }
    }
    assert_eq!(questions, 2);
    assert_eq!(edge.counters.http2_goaways[0].load(Relaxed), 1);
    eventually("it is gone", || edge.counters.open.load(Relaxed) == 0);
}

#[test]
fn http2_drains_with_its_streams_and_is_closed_when_idle() {
    let edge = Edge::https(Limits::default());
    let (shared, shutdown) = (Arc::clone(&edge.shared), edge.shutdown.clone());
    with_http2(&edge, |mut sender| async move {
        let pending = spawn_local(sender.send_request(http2_request(Method::GET, "/hang", "")));
        shared.entered.notified().await;
        shutdown.trigger();
        shared.released.notify_one();
        assert_eq!(text(pending.await.unwrap().unwrap()).await, "released");
        // The sender is kept: the server ends the connection, not we.
        std::mem::forget(sender);
    });

    let idle = Edge::https(Limits { idle_timeout: SHORT, ..Limits::default() });
    with_http2(&idle, |sender| async move { std::mem::forget(sender) });
    assert_eq!(idle.counters.timeout_idle.load(Relaxed), 1);
}

#[test]
fn draining_finishes_what_has_begun_and_then_all_threads_end() {
    let mut edge = Edge::http(Limits::default());
    let mut idle = edge.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_answer(&mut idle, "fine");
    let mut busy = edge.connect();
    busy.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request is there", || edge.seen().contains(&"GET /hang".to_owned()));

    edge.shutdown.trigger();
    assert_eq!(read_to_end(&mut idle), "");
    eventually("only the busy one is left", || edge.shutdown.running() == 1);
    edge.shared.released.notify_one();
    let answer = read_to_end(&mut busy);
    edge.running.take().unwrap().join();

    assert!(answer.contains("connection: close") && answer.ends_with("released"), "{answer}");
    assert_eq!(edge.shutdown.running(), 0);
    assert!(TcpStream::connect(edge.address).is_err());
}

#[test]
fn what_does_not_end_in_time_is_cut() {
    let mut edge = Edge::with(Limits::default(), Peers::everybody(), false, SHORT);
    let mut busy = edge.connect();
    busy.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request is there", || edge.seen().contains(&"GET /hang".to_owned()));

    edge.shutdown.trigger();

    assert_eq!(read_to_end(&mut busy), "");
    edge.running.take().unwrap().join();
    assert_eq!(edge.counters.open.load(Relaxed), 0);
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let edge = Edge::http(Limits::default());
    let mut client = edge.connect();
    client.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request is there", || edge.seen().contains(&"GET /hang".to_owned()));

    drop(client);

    eventually("it is gone", || edge.counters.open.load(Relaxed) == 0);
}

#[test]
fn r17_bytes_sent_before_the_101_wait_for_the_tunnel() {
    for encrypted in [false, true] {
        let edge = if encrypted { Edge::https(Limits::default()) } else { Edge::http(Limits::default()) };
        let request = b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n\0early\n";
        let speak = |client: &mut dyn ReadWrite| {
            client.write_all(request).unwrap();
            let mut client = client;
            let answer = read_answer(&mut client, "\0early\n");
            client.write_all(b" late").unwrap();
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            read_answer(&mut client, " late");
        };
        if encrypted { speak(&mut edge.connect_tls(&[])) } else { speak(&mut edge.connect()) }
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

#[test]
fn r17_after_a_refused_upgrade_the_connection_speaks_http() {
    let edge = Edge::http(Limits::default());

    let answer =
        edge.exchange(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n{CLOSE}"));
    let bad = edge.exchange(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nGET / HTTP/1.1\n{CLOSE}"
    ));

    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(bad.ends_with("BareLineEnd"), "{bad}");
}

#[test]
fn a_unix_socket_serves_plain_http() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.sock");
    let bound = bind(&Listener::Unix { path: path.clone(), mode: 0o600 }).unwrap();
    let shutdown = Shutdown::new();
    let setup = Setup {
        name: "unix",
        listeners: vec![bound],
        tls: None,
        workers: 1,
        limits: Limits::default(),
        drain_timeout: PATIENCE,
        peers: Peers::everybody(),
        shutdown: shutdown.clone(),
        clock: Clock::system(),
        counters: Arc::default(),
    };
    let running = start(setup, |_| Probe(Arc::default())).unwrap();

    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(CLOSE.as_bytes()).unwrap();
    assert!(read_to_end(&mut client).ends_with("fine"));

    shutdown.trigger();
    running.join();
    assert!(!path.exists());
}

#[test]
fn an_https_listener_without_tls_does_not_start() {
    let bound = bind(&Listener::Https(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let setup = Setup {
        name: "bare",
        listeners: vec![bound],
        tls: None,
        workers: 1,
        limits: Limits::default(),
        drain_timeout: PATIENCE,
        peers: Peers::everybody(),
        shutdown: Shutdown::new(),
        clock: Clock::system(),
        counters: Arc::default(),
    };

    assert_eq!(start(setup, |_| Probe(Arc::default())).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_redirect_knows_its_hosts() {
    let bound = bind(&Listener::Http(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let address = bound.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let setup = Setup {
        name: "redirect",
        listeners: vec![bound],
        tls: None,
        workers: 1,
        limits: Limits::default(),
        drain_timeout: PATIENCE,
        peers: Peers::everybody(),
        shutdown: shutdown.clone(),
        clock: Clock::system(),
        counters: Arc::default(),
    };
    let redirect = Redirect::new(Arc::new(|host| host.as_str() == "known.example"), 8443);
    let running = start(setup, move |_| redirect.clone()).unwrap();
    for (request, status, location) in [
        ("GET /a?b HTTP/1.1\r\nHost: Known.example.:80", "308", Some("https://known.example:8443/a?b")),
        ("POST http://known.example HTTP/1.1\r\nHost: known.example", "308", Some("https://known.example:8443/")),
        (
            "GET //evil.example/ HTTP/1.1\r\nHost: known.example",
            "308",
            Some("https://known.example:8443//evil.example/"),
        ),
        ("GET / HTTP/1.1\r\nHost: evil.example", "421", None),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: known.example", "400", None),
        ("GET / HTTP/1.1\r\nHost: known.example\r\nHost: known.example", "400", None),
        ("GET / HTTP/1.1\r\nX: y", "400", None),
        ("OPTIONS * HTTP/1.1\r\nHost: known.example", "400", None),
        ("GET / HTTP/1.1\r\nHost : known.example", "400", None),
    ] {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let answer = read_to_end(&mut client);

        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        let found = answer.lines().find_map(|line| line.strip_prefix("location: "));
        assert_eq!(found, location, "{request:?}");
        assert!(answer.contains("cache-control: no-store"), "{request:?}: {answer}");
    }
    shutdown.trigger();
    running.join();
}
