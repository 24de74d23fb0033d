//! Servers that speak HTTP/2: well-behaved ones made with `h2`, and scripted ones, frame by frame.

use std::rc::Rc;

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::HeaderMap;
use tokio_rustls::server::TlsStream;

use super::*;

// ---- servers ----

pub(super) fn h2c(address: SocketAddr) -> Server {
    Server::H2c(address.to_string().parse().unwrap())
}

/// A well-behaved server, whose streams `script` answers; it is told the number of their connection.
async fn streams<F: Future<Output = ()> + 'static>(
    builder: h2::server::Builder,
    script: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
) -> SocketAddr {
    streams_on(any_port().await, builder, script)
}

/// As [`streams`], of this listener.
pub(super) fn streams_on<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    builder: h2::server::Builder,
    script: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
) -> SocketAddr {
    let script = Rc::new(script);
    server_on(listener, move |number, stream| {
        let (builder, script) = (builder.clone(), Rc::clone(&script));
        async move { serve_streams(builder, number, stream, script).await }
    })
}

pub(super) async fn serve_streams<F: Future<Output = ()> + 'static>(
    builder: h2::server::Builder,
    number: usize,
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    script: Rc<impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + 'static>,
) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(script(number, request, respond));
    }
}

fn ok() -> Response<()> {
    Response::new(())
}

async fn read_all(body: &mut RecvStream) -> Option<usize> {
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        bytes += data.len();
        body.flow_control().release_capacity(data.len()).ok()?;
    }
    Some(bytes)
}

/// Answers everything with `ok`, and tells of each head.
async fn steady_streams() -> (SocketAddr, mpsc::UnboundedReceiver<(usize, http::request::Parts)>) {
    let (seen, heads) = mpsc::unbounded_channel();
    let address = streams(h2::server::Builder::new(), move |number, request, mut respond| {
        let seen = seen.clone();
        async move {
            let (head, mut body) = request.into_parts();
            read_all(&mut body).await;
            seen.send((number, head)).unwrap();
            respond.send_response(ok(), false).unwrap().send_data("ok".into(), true).unwrap();
        }
    })
    .await;
    (address, heads)
}

/// A connection whose frames are written and read by hand.
pub(super) struct Frames<S = TcpStream>(pub(super) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Reads the preface and says hello.
    pub(super) async fn accept(mut stream: S) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self(stream);
        frames.write(4, 0, 0, b"").await;
        frames
    }

    pub(super) async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // Whoever is gone does not have to be told.
        let _ = self.0.write_all(&frame(kind, flags, stream, payload)).await;
        let _ = self.0.flush().await;
    }

    /// The next frame that is none about the connection: kind, flags, stream.
    pub(super) async fn next(&mut self) -> Option<(u8, u8, u32)> {
        self.next_long().await.map(|(kind, flags, stream, _)| (kind, flags, stream))
    }

    /// The same, with the length of its payload.
    pub(super) async fn next_long(&mut self) -> Option<(u8, u8, u32, usize)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, d, e, f, g] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            if kind == SETTINGS && flags & ACK == 0 {
                self.write(SETTINGS, ACK, 0, b"").await;
            }
            if matches!(kind, HEADERS | DATA | RST_STREAM) {
                return Some((kind, flags, u32::from_be_bytes([d & 0x7f, e, f, g]), payload.len()));
            }
        }
    }

    /// The stream of the next request.
    pub(super) async fn request(&mut self) -> Option<u32> {
        loop {
            let (kind, _, stream) = self.next().await?;
            if kind == HEADERS {
                return Some(stream);
            }
        }
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// A server that chooses of `speaks`, and one who believes it: connections that speak HTTP/2 are for `script`, which is
/// told their number; over HTTP/1.1 every request is answered with what came.
pub(super) async fn over_tls<F: Future<Output = ()> + 'static>(
    speaks: &[&[u8]],
    script: impl Fn(usize, TlsStream<TcpStream>) -> F + 'static,
) -> (Server, Arc<Shared>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = speaks.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let script = Rc::new(script);
    let address = server(move |number, stream| {
        let (acceptor, script) = (acceptor.clone(), Rc::clone(&script));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                return script(number, stream).await;
            }
            while let Some(head) = read_head(&mut stream).await {
                let has_body = header(&head, "content-length").is_some();
                let body = if has_body { read_body(&mut stream, &head).await.0 } else { Vec::new() };
                let answer = format!("HTTP/1.1 200 OK\r\nX-Spoke: HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(&[answer.as_bytes(), &body].concat()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = Server::Https(format!("localhost:{}", address.port()).parse().unwrap());
    (server, Shared::new(Some(trust(roots).unwrap()), Box::default()))
}

/// A scripted server; `script` is told the number of the connection.
pub(super) async fn frames<F: Future<Output = ()> + 'static>(
    script: impl Fn(usize, Frames) -> F + 'static,
) -> SocketAddr {
    let script = Rc::new(script);
    server(move |number, stream| {
        let script = Rc::clone(&script);
        async move { script(number, Frames::accept(stream).await).await }
    })
    .await
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// `:status: 200`, indexed.
pub(super) const STATUS_200: &[u8] = &[0x88];

/// Requests under way, also before the first.
fn under_way(front: &Front) -> u64 {
    front.shared.upstreams().first().map_or(0, |upstream| upstream.servers[0].counters.tallies.under_way())
}

pub(super) fn goaway(last: u32, code: u32) -> Vec<u8> {
    [last.to_be_bytes(), code.to_be_bytes()].concat()
}

pub(super) const POST: &str = "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";

// ---- connections ----

#[test]
fn a_hundred_requests_at_once_share_a_connection() {
    run(async {
        let (address, mut heads) = steady_streams().await;
        let front = Rc::new(Front::start(settings(vec![h2c(address)])).await);

        let asked: Vec<_> = (0..100)
            .map(|_| {
                let front = Rc::clone(&front);
                spawn_local(async move { front.send(GET).await })
            })
            .collect();
        for answer in asked {
            let answer = answer.await.unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
        }

        for _ in 0..100 {
            assert_eq!(heads.recv().await.unwrap().0, 0);
        }
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.tallies.reused())), (1, 99));
        eventually("done", || front.counters(|c| (c.open.load(Relaxed), c.tallies.under_way())) == (1, 0)).await;
    });
}

#[test]
fn no_connection_carries_more_than_its_server_allows() {
    run(async {
        let most = Rc::new(std::cell::RefCell::new(Vec::<(usize, usize)>::new()));
        let seen = Rc::clone(&most);
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(2);
        let address = streams(builder, move |number, _request, mut respond| {
            let seen = Rc::clone(&seen);
            async move {
                {
                    let mut seen = seen.borrow_mut();
                    let known = seen.len();
                    seen.resize(known.max(number + 1), (0, 0));
                    seen[number].0 += 1;
                    seen[number].1 = seen[number].1.max(seen[number].0);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                seen.borrow_mut()[number].0 -= 1;
                respond.send_response(ok(), true).unwrap();
            }
        })
        .await;
        let front = Rc::new(Front::start(settings(vec![h2c(address)])).await);
        // Its settings are known from here on.
        assert_eq!(front.send(GET).await.status, 200);

        let asked: Vec<_> = (0..6)
            .map(|_| {
                let front = Rc::clone(&front);
                spawn_local(async move { front.send(GET).await.status })
            })
            .collect();
        for answer in asked {
            assert_eq!(answer.await.unwrap(), 200);
        }

        assert!(most.borrow().iter().all(|(_, most)| *most <= 2), "{:?}", most.borrow());
        assert!(front.counters(|c| c.connects.load(Relaxed)) <= 4);
    });
}

#[test]
fn an_unused_shared_connection_is_closed_after_its_time() {
    run(async {
        let (address, _heads) = steady_streams().await;
        let idle_timeout = Duration::from_millis(50);
        let front = Front::start(Settings { idle_timeout, ..settings(vec![h2c(address)]) }).await;

        assert_eq!(front.send(GET).await.status, 200);

        eventually("closed", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 2);
    });
}

#[test]
fn whoever_waits_for_a_connection_that_cannot_be_made_learns_why() {
    run(async {
        let front = Rc::new(Front::start(settings(vec![h2c(nowhere().await)])).await);

        let asked: Vec<_> = (0..5)
            .map(|_| {
                let front = Rc::clone(&front);
                spawn_local(async move { front.send(GET).await.error().to_owned() })
            })
            .collect();

        for answer in asked {
            assert_eq!(answer.await.unwrap(), "Unreachable(\"refused\")");
        }
    });
}

#[test]
fn a_client_that_leaves_while_it_connects_leaves_the_way_to_others() {
    run(async {
        let (go, gone) = tokio::sync::watch::channel(false);
        let address = server(move |number, stream| {
            let mut gone = gone.clone();
            async move {
                // The first connection says nothing, which `h2` does not mind: it is the request that waits.
                if number == 0 {
                    gone.wait_for(|gone| *gone).await.unwrap();
                }
                let script = |_, _: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                    respond.send_response(ok(), true).unwrap();
                };
                serve_streams(h2::server::Builder::new(), number, stream, Rc::new(script)).await;
            }
        })
        .await;
        let front = Rc::new(Front::start(settings(vec![h2c(address)])).await);
        let mut leaver = front.client().await;
        leaver.write_all(GET.as_bytes()).await.unwrap();
        let other = Rc::clone(&front);
        let stays = spawn_local(async move { other.send(GET).await.status });

        drop(leaver);
        go.send(true).unwrap();

        assert_eq!(stays.await.unwrap(), 200);
    });
}

#[test]
fn a_server_that_falls_silent_is_asked_and_given_up() {
    run(async {
        let address = frames(|number, mut frames| async move {
            let stream = frames.request().await.unwrap();
            if number == 0 {
                frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
                // From here on it reads, and says nothing.
                while frames.0.read_u8().await.is_ok() {}
            }
            frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
            frames.request().await;
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        assert_eq!(front.send(GET).await.status, 200);

        // It waits on the dead connection, and goes to another one long before its own time is over.
        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.retries.load(Relaxed))), (2, 1));
    });
}

#[test]
fn a_server_that_works_in_silence_and_says_that_it_is_there_goes_on() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, _, mut respond: SendResponse<Bytes>| async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            respond.send_response(ok(), true).unwrap();
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;

        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn https_servers_choose_what_they_speak() {
    run(async {
        for (speaks, offers, expect) in [
            (&[&b"h2"[..], b"http/1.1"][..], true, "HTTP/2.0"),
            (&[b"h2", b"http/1.1"], false, "HTTP/1.1"),
            (&[b"http/1.1"], true, "HTTP/1.1"),
            (&[], true, "HTTP/1.1"),
        ] {
            let script = |number, stream| async move {
                let script = |_, request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                    assert_eq!(request.uri().scheme_str(), Some("https"));
                    let answer = Response::builder().header("x-spoke", "HTTP/2.0").body(()).unwrap();
                    respond.send_response(answer, true).unwrap();
                };
                serve_streams(h2::server::Builder::new(), number, stream, Rc::new(script)).await;
            };
            let (server, shared) = over_tls(speaks, script).await;
            let settings = Settings { http2: offers, ..settings(vec![server]) };
            let front = Front::with(settings, Limits::default(), shared).await;

            for _ in 0..2 {
                let answer = front.send(GET).await;
                assert_eq!(header(&answer.head, "x-spoke"), Some(expect), "{speaks:?} {offers}: {}", answer.error());
            }
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1, "{speaks:?} {offers}");
        }
    });
}

#[test]
fn unix_sockets_speak_http2_where_they_are_said_to() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let script = |_, request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                assert_eq!(request.uri(), "http://a.example/a?b=%20c");
                respond.send_response(ok(), true).unwrap();
            };
            serve_streams(h2::server::Builder::new(), 0, stream, Rc::new(script)).await;
        });
        let front = Front::start(settings(vec![Server::UnixH2c(path)])).await;

        assert_eq!(front.send(GET).await.status, 200);
    });
}

#[test]
fn a_tunnel_has_a_connection_of_its_own_over_http1() {
    run(async {
        let (address, _heads) = steady_streams().await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        assert_eq!(front.send(GET).await.status, 200);

        let answer = front.send(HANDSHAKE).await;

        assert_eq!(answer.error(), "Unreachable(\"http2_only\")");
    });
}

// ---- what is sent ----

#[test]
fn a_request_is_written_afresh_as_http2_has_it() {
    run(async {
        let (address, mut heads) = steady_streams().await;
        let front = Front::start(Settings { host: HostPolicy::Upstream, ..settings(vec![h2c(address)]) }).await;

        let request =
            "PUT /a?b=1 HTTP/1.1\r\nHost: a.example\r\nX-One: 1\r\nTE: trailers\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(front.send(request).await.status, 200);
        assert_eq!(front.send("POST / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.status, 200);

        let (_, head) = heads.recv().await.unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("PUT", format!("http://{address}/a?b=1")));
        let fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x-one", &b"1"[..]), ("content-length", b"2"), ("te", b"trailers")]);
        let (_, head) = heads.recv().await.unwrap();
        let fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("content-length", &b"0"[..])]);
    });
}

#[test]
fn bodies_pass_whole_and_are_counted_on_the_way() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, request: Request<RecvStream>, mut respond| async move {
            let mut body = request.into_body();
            let mut answer = respond.send_response(ok(), false).unwrap();
            let read = read_all(&mut body).await;
            answer.send_data(format!("{read:?}").into(), false).unwrap();
            answer.send_data(vec![b'x'; 1 << 20].into(), true).unwrap();
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        for framing in ["Content-Length: 3000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2dc6c0\r\n"] {
            let mut client = front.client().await;
            client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).await.unwrap();
            client.write_all(&vec![b'y'; 3_000_000]).await.unwrap();
            if framing.contains("chunked") {
                client.write_all(b"\r\n0\r\n\r\n").await.unwrap();
            }

            let answer = read_answer(&mut client, false).await;

            assert_eq!((&answer.body[..13], answer.complete), (&b"Some(3000000)"[..], true));
            assert_eq!(answer.body.len(), 13 + (1 << 20));
        }
    });
}

#[test]
fn trailers_pass_both_ways_where_they_are_wanted() {
    run(async {
        let (seen, mut sent) = mpsc::unbounded_channel();
        let address = streams(h2::server::Builder::new(), move |_, request: Request<RecvStream>, mut respond| {
            let seen = seen.clone();
            async move {
                let mut body = request.into_body();
                read_all(&mut body).await.unwrap();
                seen.send(body.trailers().await.unwrap()).unwrap();
                let answer = Response::builder().header("trailer", "x-sum").body(()).unwrap();
                let mut answer = respond.send_response(answer, false).unwrap();
                answer.send_data("ok".into(), false).unwrap();
                let trailers = [("x-sum", "7"), ("set-cookie", "a=1")];
                let trailers: HeaderMap =
                    trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect();
                answer.send_trailers(trailers).unwrap();
            }
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        for (wants, expect) in [("X-Wants-Trailers: 1\r\n", Some("8")), ("", None)] {
            let request = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n{wants}Transfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Up: 8\r\nX-User-Id: root\r\n\r\n"
            );

            let answer = front.send(&request).await;

            assert_eq!(String::from_utf8(answer.body).unwrap(), "okx-sum: 7\r\n");
            let trailers = sent.recv().await.unwrap();
            let shown =
                trailers.as_ref().and_then(|trailers| trailers.get("x-up")).map(|value| value.to_str().unwrap());
            assert_eq!(shown, expect);
            assert!(trailers.is_none_or(|trailers| !trailers.contains_key("x-user-id")));
        }
    });
}

#[test]
fn answers_without_content_end_with_their_head() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, request: Request<RecvStream>, mut respond| async move {
            let status: u16 = request.uri().path()[1..].parse().unwrap();
            let answer = Response::builder().status(status).header("content-length", "7").body(()).unwrap();
            let _ = respond.send_response(answer, true);
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        for (method, status, length) in [("HEAD", 200, Some("7")), ("GET", 304, None), ("GET", 204, None)] {
            let answer = front.send(&format!("{method} /{status} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            assert_eq!((answer.status, header(&answer.head, "content-length")), (status, length), "{method}");
        }
    });
}

#[test]
fn the_client_is_told_to_continue_when_a_stream_says_so() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, request: Request<RecvStream>, mut respond| async move {
            assert_eq!(request.headers()["expect"], "100-continue");
            respond.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
            let read = read_all(&mut request.into_body()).await;
            respond.send_response(ok(), false).unwrap().send_data(format!("{read:?}").into(), true).unwrap();
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        let mut client = front.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 100"));

        client.write_all(b"hi").await.unwrap();

        assert_eq!(read_answer(&mut client, false).await.body, b"Some(2)");
    });
}

// ---- back-pressure and time ----

#[test]
fn a_client_that_does_not_read_makes_its_stream_wait_and_no_other() {
    run(async {
        let total = 64 << 20;
        let (taken, mut takes) = mpsc::unbounded_channel();
        let address = streams(h2::server::Builder::new(), move |_, request: Request<RecvStream>, mut respond| {
            let taken = taken.clone();
            async move {
                let mut answer = respond.send_response(ok(), request.uri().path() != "/large").unwrap();
                let mut sent = 0;
                while request.uri().path() == "/large" && sent < total {
                    answer.reserve_capacity(64 << 10);
                    let Some(Ok(room)) = std::future::poll_fn(|cx| answer.poll_capacity(cx)).await else { return };
                    answer.send_data(vec![b'x'; room.min(total - sent)].into(), false).unwrap();
                    sent += room;
                    taken.send(sent).unwrap();
                }
            }
        })
        .await;
        let read_timeout = Duration::from_millis(100);
        let front = Front::start(Settings { read_timeout, ..settings(vec![h2c(address)]) }).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = front.client().await;
            client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            clients.push(client);
        }
        let mut sent = 0;
        while let Ok(Some(more)) = timeout(Duration::from_millis(400), takes.recv()).await {
            sent = sent.max(more);
        }

        assert!(sent < total / 2, "{sent} bytes were taken for a client that reads none");
        assert_eq!(front.send(GET).await.status, 200, "others go on, on the same connection");
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn a_stream_that_is_not_read_makes_the_client_wait_and_runs_out_of_time() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, request: Request<RecvStream>, respond| async move {
            tokio::time::sleep(PATIENCE).await;
            drop((request, respond));
        })
        .await;
        let response_timeout = Duration::from_millis(300);
        let front = Front::start(Settings { response_timeout, ..settings(vec![h2c(address)]) }).await;
        let (mut read, mut write) = front.client().await.into_split();
        let upload = spawn_local(async move {
            write.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 268435456\r\n\r\n").await.unwrap();
            let block = vec![b'x'; 64 << 10];
            let mut sent = 0;
            while let Ok(Ok(written)) = timeout(Duration::from_millis(200), write.write(&block)).await {
                sent += written;
            }
            sent
        });

        assert_eq!(read_answer(&mut read, false).await.error(), "Timeout(\"response_timeout\")");
        let sent = upload.await.unwrap();
        assert!(sent < 64 << 20, "{sent} bytes were taken");
    });
}

#[test]
fn a_pause_within_a_stream_is_bounded_and_visible() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, request: Request<RecvStream>, mut respond| async move {
            if request.uri().path() == "/pause" {
                let mut answer = respond.send_response(ok(), false).unwrap();
                answer.send_data("half".into(), false).unwrap();
                assert_eq!(std::future::poll_fn(|cx| answer.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
            } else {
                respond.send_response(ok(), true).unwrap();
            }
        })
        .await;
        let read_timeout = Duration::from_millis(20);
        let front = Front::start(Settings { read_timeout, ..settings(vec![h2c(address)]) }).await;

        let answer = front.send("GET /pause HTTP/1.1\r\nHost: a\r\n\r\n").await;

        assert_eq!((&*answer.body, answer.complete), (&b"half"[..], false));
        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1, "the connection is none the worse");
    });
}

// ---- what breaks ----

#[test]
fn what_a_server_going_away_did_not_process_is_sent_again_and_nothing_else() {
    run(async {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let address = frames(move |number, mut frames| {
            let seen = seen.clone();
            async move {
                if number > 0 {
                    while let Some(stream) = frames.request().await {
                        seen.send((number, stream)).unwrap();
                        frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
                    }
                    return;
                }
                let (first, second, third) = (frames.request().await, frames.request().await, frames.request().await);
                assert_eq!((first, second, third), (Some(1), Some(3), Some(5)));
                while frames.next().await != Some((DATA, END_STREAM, 5)) {}
                // 1 is processed and answered, 3 is processed and never answered, 5 is not processed.
                frames.write(GOAWAY, 0, 0, &goaway(3, 0)).await;
                frames.write(HEADERS, END_HEADERS | END_STREAM, 1, STATUS_200).await;
            }
        })
        .await;
        let front = Rc::new(Front::start(settings(vec![h2c(address)])).await);
        let ask = |request: &'static str| {
            let front = Rc::clone(&front);
            spawn_local(async move { front.send(request).await })
        };

        // In this order, for which each has to be there before the next is sent.
        let first = ask(POST);
        eventually("the first is under way", || under_way(&front) == 1).await;
        let second = ask(POST);
        eventually("the second is under way", || under_way(&front) == 2).await;
        let third = ask(POST);

        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(second.await.unwrap().error(), "Invalid(\"no_answer\")");
        assert_eq!(third.await.unwrap().status, 200);
        assert_eq!(requests.recv().await, Some((1, 1)));
        assert!(requests.try_recv().is_err(), "one request was sent again");
    });
}

#[test]
fn a_body_too_large_to_be_kept_is_not_sent_again() {
    run(async {
        let address = frames(|number, mut frames| async move {
            let stream = frames.request().await.unwrap();
            assert_eq!(number, 0, "nothing is sent again");
            frames.write(8, 0, 0, &(1_u32 << 20).to_be_bytes()).await;
            frames.write(8, 0, stream, &(1_u32 << 20).to_be_bytes()).await;
            for _ in 0..7 {
                frames.next().await;
            }
            frames.write(GOAWAY, 0, 0, &goaway(0, 0)).await;
            frames.next().await;
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        let body = "x".repeat(200_000);

        let answer = front.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n{body}")).await;

        assert_eq!(answer.error(), "Unreachable(\"not_processed\")");
    });
}

#[test]
fn a_refused_stream_is_sent_again_with_its_body_and_not_for_ever() {
    run(async {
        for refused in [1, 3, 100] {
            let count = Rc::new(Cell::new(0));
            let seen = Rc::clone(&count);
            let address = streams(h2::server::Builder::new(), move |_, request: Request<RecvStream>, mut respond| {
                let seen = Rc::clone(&seen);
                async move {
                    seen.set(seen.get() + 1);
                    if seen.get() <= refused {
                        return respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    let read = read_all(&mut request.into_body()).await;
                    respond.send_response(ok(), false).unwrap().send_data(format!("{read:?}").into(), true).unwrap();
                }
            })
            .await;
            let front = Front::start(settings(vec![h2c(address)])).await;

            let answer = front.send(POST).await;

            if refused <= 3 {
                assert_eq!((answer.status, &*answer.body), (200, &b"Some(5)"[..]), "{refused}");
            } else {
                assert_eq!((answer.error(), count.get()), ("Unreachable(\"not_processed\")", 4));
            }
        }
    });
}

#[test]
fn a_reset_is_an_error_before_the_head_and_visible_behind_it() {
    run(async {
        for code in [Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::CANCEL] {
            let address =
                streams(h2::server::Builder::new(), move |_, request: Request<RecvStream>, mut respond| async move {
                    if request.uri().path() == "/before" {
                        return respond.send_reset(code);
                    }
                    let mut answer = respond.send_response(ok(), false).unwrap();
                    answer.send_data("half".into(), false).unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    answer.send_reset(code);
                })
                .await;
            let front = Front::start(settings(vec![h2c(address)])).await;

            let before = front.send("GET /before HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let behind = front.send("GET /behind HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert_eq!(before.error(), "Invalid(\"reset\")", "{code:?}");
            assert_eq!((&*behind.body, behind.complete), (&b"half"[..], false), "{code:?}");
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1, "{code:?}");
        }
    });
}

#[test]
fn a_client_that_leaves_cancels_its_stream_alone() {
    run(async {
        let (told, mut resets) = mpsc::unbounded_channel();
        let address = streams(h2::server::Builder::new(), move |_, request: Request<RecvStream>, mut respond| {
            let told = told.clone();
            async move {
                if request.uri().path() == "/a" {
                    respond.send_response(ok(), true).unwrap();
                } else if request.uri().path() == "/head" {
                    told.send(std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap()).unwrap();
                } else {
                    let mut answer = respond.send_response(ok(), false).unwrap();
                    answer.send_data("x".into(), false).unwrap();
                    told.send(std::future::poll_fn(|cx| answer.poll_reset(cx)).await.unwrap()).unwrap();
                }
            }
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        for path in ["/head", "/body"] {
            let mut client = front.client().await;
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            if path == "/body" {
                read_head(&mut client).await.unwrap();
            }
            eventually("under way", || under_way(&front) == 1).await;

            drop(client);

            assert_eq!(resets.recv().await, Some(Reason::CANCEL), "{path}");
            eventually("over", || front.counters(|c| c.tallies.under_way()) == 0).await;
        }
        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1);
    });
}

#[test]
fn a_body_that_breaks_off_resets_its_stream_and_never_ends_it() {
    run(async {
        let (told, mut ends) = mpsc::unbounded_channel();
        let address = streams(h2::server::Builder::new(), move |_, request: Request<RecvStream>, respond| {
            let told = told.clone();
            async move {
                told.send(read_all(&mut request.into_body()).await).unwrap();
                drop(respond);
            }
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
            let mut client = front.client().await;
            client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).await.unwrap();
            eventually("under way", || under_way(&front) == 1).await;
            drop(client);
            assert_eq!(ends.recv().await, Some(None), "{framing}");
        }

        // Over HTTP/2 a reset without error looks like an end.
        let stream = TcpStream::connect(front.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        spawn_local(connection);
        let request = Request::post("http://a/").body(()).unwrap();
        let (_answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data("half".into(), false).unwrap();
        eventually("under way", || under_way(&front) == 1).await;
        body.send_reset(Reason::NO_ERROR);
        assert_eq!(ends.recv().await, Some(None));
    });
}

#[test]
fn an_early_answer_to_an_upload_arrives_and_both_directions_stream_at_once() {
    run(async {
        let address = streams(h2::server::Builder::new(), |_, request: Request<RecvStream>, mut respond| async move {
            let mut body = request.into_body();
            let mut answer = respond.send_response(ok(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                answer.send_data(data, false).unwrap();
            }
            answer.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;
        let stream = TcpStream::connect(front.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        spawn_local(connection);
        let (answer, mut up) = client.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();

        let mut down = answer.await.unwrap().into_body();

        for word in ["one", "two", "three"] {
            up.send_data(word.into(), false).unwrap();
            assert_eq!(down.data().await.unwrap().unwrap(), word);
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert!(down.data().await.is_none_or(|end| end.unwrap().is_empty()));
        eventually("over", || front.counters(|c| c.tallies.under_way()) == 0).await;
    });
}

#[test]
fn a_dead_connection_is_no_reason_to_send_again_what_may_have_had_an_effect() {
    run(async {
        for (request, expect) in [(GET, 200), (POST, 502)] {
            let address = frames(|number, mut frames| async move {
                let stream = frames.request().await.unwrap();
                frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
                if number == 0 {
                    // The next request is read, and not answered.
                    frames.request().await;
                    return;
                }
                frames.request().await;
            })
            .await;
            let front = Front::start(settings(vec![h2c(address)])).await;
            assert_eq!(front.send(GET).await.status, 200);
            assert_eq!(front.send(request).await.status, expect, "{request}");
        }
    });
}

// ---- hostile servers ----

#[test]
fn heads_that_are_none_or_too_large_are_invalid() {
    run(async {
        let literal = |name: &str, value: &str| {
            let (name_len, value_len) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
            [&[0, name_len], name.as_bytes(), &[value_len], value.as_bytes()].concat()
        };
        let many = (0..101).map(|n| literal(&format!("x-{n}"), "1")).collect::<Vec<_>>().concat();
        let large = (0..900).map(|n| literal(&format!("x-{}", n % 90), &"v".repeat(100))).collect::<Vec<_>>();
        let status = |code: &str| literal(":status", code);
        for (name, block) in [
            ("no status", literal("x-one", "1")),
            ("101", status("101")),
            ("bad status", status("2000")),
            ("connection", [STATUS_200, &literal("connection", "close")].concat()),
            ("transfer-encoding", [STATUS_200, &literal("transfer-encoding", "chunked")].concat()),
            ("upper case", [STATUS_200, &literal("X-One", "1")].concat()),
            ("two lengths", [STATUS_200, &literal("content-length", "1"), &literal("content-length", "1")].concat()),
            ("length", [STATUS_200, &literal("content-length", "+1")].concat()),
            ("many fields", [STATUS_200, &many].concat()),
            ("large", [STATUS_200, &large.concat()].concat()),
        ] {
            let block = Rc::new(block);
            let address = frames(move |_, mut frames| {
                let block = Rc::clone(&block);
                async move {
                    let Some(stream) = frames.request().await else { return };
                    let mut pieces = block.chunks(16_000).peekable();
                    let first = pieces.next().unwrap();
                    let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                    frames.write(HEADERS, end, stream, first).await;
                    while let Some(piece) = pieces.next() {
                        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                        frames.write(9, end, stream, piece).await;
                    }
                    while frames.next().await.is_some() {}
                }
            })
            .await;
            let front = Front::start(settings(vec![h2c(address)])).await;

            let answer = front.send(GET).await;

            assert_eq!(answer.status, 502, "{name}");
            assert!(answer.error().starts_with("Invalid"), "{name}: {}", answer.error());
        }
    });
}

#[test]
fn a_server_that_speaks_something_else_is_invalid() {
    run(async {
        let address = server(|_, mut stream| async move {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            read_head(&mut stream).await;
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;

        assert_eq!(front.send(GET).await.status, 502);
    });
}
