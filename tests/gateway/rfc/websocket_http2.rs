//! WebSockets over HTTP/2 on either side (R17; RFC 8441): what counts for an upgrade of HTTP/1.1 counts for a stream.

use std::{
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use http::request::Parts;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{
    Client, Connection, Gateway, Pki, Reply, Response, Upstream, eventually,
    gateway::Running,
    http2::{self, END_HEADERS, End, HEADERS, Http2, block, frame},
    upstream_http2::{Http2Upstream, read_all},
    websocket::{
        self, ACCEPT, KEY, accept_of, agree, echo_http2, echoes, echoing, echoing_http2, ends_soon, open, say_back,
        tunnel,
    },
};

/// A route that takes WebSockets, and one that does not.
fn before(server: &str) -> Gateway {
    before_upstream(&format!("servers = [{server:?}]"))
}

/// The same, to an upstream of these lines.
fn before_upstream(lines: &str) -> Gateway {
    Gateway::new()
        .route_to("path = \"/ws\"", lines)
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .route_to("path = \"/{*rest}\"", lines)
        .auth(&["none"])
}

/// The client as it is, and over HTTP/2.
fn both(client: &Client) -> [Client; 2] {
    [client.clone(), client.over_http2()]
}

/// A server over HTTP/2 that answers every handshake with this status and keeps the heads that it saw. Without
/// `offers` it does not say that it takes streams.
fn answering(status: u16, offers: bool) -> (Http2Upstream, Arc<Mutex<Vec<Parts>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mine = Arc::clone(&seen);
    let mut builder = h2::server::Builder::new();
    if offers {
        builder.enable_connect_protocol();
    }
    let upstream = Http2Upstream::with(builder, move |request, mut respond| {
        let (head, _body) = request.into_parts();
        mine.lock().expect("no test failed").push(head);
        async move {
            let mut answer = http::Response::builder().status(status).header("sec-websocket-protocol", "chat");
            if status == 200 {
                // What nobody may see.
                answer = answer.header("sec-websocket-accept", ACCEPT).header("content-length", "5");
            }
            let Ok(mut stream) = respond.send_response(answer.body(()).expect("a head"), false) else { return };
            let _ = stream.send_data("hello".into(), status != 200);
            std::future::poll_fn(|cx| stream.poll_reset(cx).map(drop)).await;
        }
    });
    (upstream, seen)
}

#[test]
fn bytes_pass_both_ways_in_all_combinations_and_each_end_on_its_own() {
    let (http1, http2) = (echoing(), echoing_http2());
    for server in [http1.url(), http2.url()] {
        let gateway = before(&server).start();
        for client in both(&gateway.client()) {
            let what = format!("{server}, {}", client.opens_streams());
            let mut connection = tunnel(&client);
            for message in [&b"\x81\x05hello"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 500_000]] {
                let mut rest = message;
                // In pieces: an echo that nobody reads makes the writer wait.
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(20_000));
                    connection.write(now).expect("it is sent");
                    assert!(connection.read_exactly(now.len()).expect("the echo") == now, "{what}");
                    rest = later;
                }
            }
            connection.shut_write().expect("an end");
            assert_eq!(connection.read_to_end(), b"", "{what}: the other end follows");
        }
        let label = [("upstream", "u0"), ("server", &*server)];
        eventually("all are over", || gateway.metric("portcullis_upstream_tunnels", &label) == 0.0);
    }
}

#[test]
fn a_handshake_is_written_for_whom_it_is_sent_to() {
    let http1 = Upstream::start();
    http1.respond(|seen| agree(seen, say_back));
    let (http2, heads) = answering(200, true);
    for server in [http1.url(), http2.url()] {
        let gateway = before(&server).start();
        for client in both(&gateway.client()) {
            let what = format!("{server}, {}", client.opens_streams());
            let request = client.get("/ws?a=%20b").header("Sec-WebSocket-Protocol", "chat").header("X-User-Id", "root");
            let request = if client.opens_streams() { request.header("Sec-WebSocket-Key", KEY) } else { request };

            let (answer, _connection) = open(&request, client.opens_streams());

            let fields = ["sec-websocket-accept", "upgrade", "connection", "content-length"];
            let fields = fields.map(|name| answer.header(name).map(str::to_ascii_lowercase));
            let expect = if client.opens_streams() {
                (200, [None, None, None, None])
            } else {
                let accept = Some(ACCEPT.to_ascii_lowercase());
                (101, [accept, Some("websocket".into()), Some("upgrade".into()), None])
            };
            assert_eq!((answer.status, fields), expect, "{what}");
            if server == http2.url() {
                assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"), "{what}");
                let head = heads.lock().expect("no test failed").pop().expect("a handshake");
                let protocol = head.extensions.get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
                assert_eq!((head.method.as_str(), protocol.as_deref()), ("CONNECT", Some("websocket")), "{what}");
                assert_eq!(head.uri.to_string(), "http://app.test/ws?a=%20b", "{what}");
                assert_eq!(head.headers["sec-websocket-version"], "13");
                assert_eq!(head.headers["sec-websocket-protocol"], "chat");
                for absent in ["sec-websocket-key", "upgrade", "connection", "x-user-id", "content-length"] {
                    assert!(!head.headers.contains_key(absent), "{what}: {absent}");
                }
            } else {
                let seen = http1.next_request();
                assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/ws?a=%20b"));
                assert_eq!((seen.header("upgrade"), seen.header("connection")), (Some("websocket"), Some("upgrade")));
                assert_eq!((seen.header("sec-websocket-version"), seen.header("x-user-id")), (Some("13"), None));
                let key = seen.header("sec-websocket-key").expect("one key");
                assert_eq!(key == KEY, !client.opens_streams(), "a stream has none of its own, whatever it says");
                assert_eq!(accept_of(key).len(), ACCEPT.len());
            }
        }
    }
}

/// R17. What the server says instead of yes; to a stream every 2xx would be a yes.
#[test]
fn a_handshake_that_is_not_accepted_opens_nothing() {
    let reply = |text: &'static str| {
        let upstream = Upstream::start();
        upstream.respond(move |_| Reply::raw(text));
        upstream
    };
    let refused = reply("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
    let plain = reply("HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nno");
    let forged = reply(websocket::SWITCHING);
    let (refused_http2, _) = answering(403, true);
    for (server, over_http1, over_http2) in [
        (refused.url(), 403, 403),
        (plain.url(), 200, 502),
        // The answer to another key than ours.
        (forged.url(), 101, 502),
        (refused_http2.url(), 403, 403),
    ] {
        let gateway = before(&server).start();
        for (client, expect) in both(&gateway.client()).iter().zip([over_http1, over_http2]) {
            let (answer, _) = open(&client.get("/ws"), client.opens_streams());
            assert_eq!(answer.status, expect, "{server}");
        }
    }
}

/// R11. Every one of them is refused before anything goes upstream.
#[test]
fn no_other_connect_is_served() {
    let upstream = echoing();
    let gateway = before(&upstream.url()).start();
    let ask = |path: &str, protocol: Option<&'static str>, version: &[&str]| -> Response {
        let request = version
            .iter()
            .fold(gateway.client().get(path), |request, version| request.header("Sec-WebSocket-Version", version));
        request.connect_http2(protocol).0
    };
    for (path, protocol, version) in [
        ("/ws", Some("connect-udp"), &["13"][..]),
        ("/ws", Some("WEBSOCKET"), &["13"]),
        ("/ws", Some("websocket"), &[]),
        ("/ws", Some("websocket"), &["8"]),
        ("/ws", Some("websocket"), &["13", "13"]),
        ("/elsewhere", Some("websocket"), &["13"]),
    ] {
        let answer = ask(path, protocol, version);
        assert_eq!((answer.status, answer.header("allow").is_some()), (405, true), "{path} {protocol:?} {version:?}");
    }
    assert_ne!(ask("/ws", None, &["13"]).status, 200, "a CONNECT that names no protocol is for a proxy");
    // `:protocol` where there is no CONNECT.
    let mut fields = http2::get("app.test", "/ws");
    fields.insert(1, (b":protocol", b"websocket"));
    assert_eq!(Http2::connect(&gateway.client()).ask(&fields), End::Reset(1));
    // One that announces a body: what follows is none (RFC 9110 section 9.3.6). Others of its connection go on.
    let mut connection = Http2::connect(&gateway.client());
    fields[0].1 = b"CONNECT";
    fields.extend([(&b"sec-websocket-version"[..], &b"13"[..]), (b"content-length", b"5")]);
    connection.write(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).expect("it is sent");
    assert_eq!(connection.end_of(1), End::Reset(1));
    assert!(connection.is_alive());
    upstream.expect_only(0);

    assert_eq!(ask("/ws", Some("websocket"), &["13"]).status, 200);
}

/// R31, as over HTTP/1.1: the cookie counts for our own pages only.
#[test]
fn a_stream_with_a_session_is_opened_for_our_own_pages_only() {
    let upstream = echoing();
    let gateway = Gateway::new().admin().route("/ws", &upstream).key("upgrade = [\"websocket\"]").start();
    let client = gateway.open_session(&json!({ "subject": "alice" }));
    let own = "https://app.test";
    let ask = |client: &Client, fields: &[(&str, &str)]| {
        let request = fields.iter().fold(client.get("/ws"), |request, (name, value)| request.header(name, value));
        open(&request, true)
    };
    for fields in [
        &[][..],
        &[("Origin", "https://evil.test")],
        &[("Origin", "null")],
        &[("Origin", "https://app.test:444")],
        &[("Origin", own), ("Origin", "https://evil.test")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", own)],
        &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "websocket")],
    ] {
        let (answer, _) = ask(&client, fields);
        assert_eq!((answer.status, answer.json()["error"].as_str()), (403, Some("cross_site")), "{fields:?}");
    }
    assert_eq!(ask(&gateway.client(), &[("Origin", own)]).0.status, 401);
    upstream.expect_only(0);

    let (answer, connection) = ask(&client, &[("Sec-Fetch-Site", "same-origin"), ("Origin", own)]);
    assert_eq!(answer.status, 200);
    assert!(echoes(&mut connection.expect("a tunnel")));
    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-id"), seen.header("cookie")), (Some("alice"), None));
}

#[test]
fn a_server_without_streams_as_tunnels_is_asked_over_http1_or_refused() {
    let (never, heads) = answering(200, false);
    let gateway = before(&never.url()).start();
    for client in both(&gateway.client()) {
        let (answer, _) = open(&client.get("/ws"), client.opens_streams());
        assert_eq!((answer.status, answer.json()["error"].as_str()), (502, Some("upstream_unreachable")));
    }
    assert!(heads.lock().expect("no test failed").is_empty());
    eventually("the log says why", || gateway.log_lines().iter().any(|line| line.contains("http2_only")));
}

/// R19: what waits is bounded by windows and socket buffers, whoever does not read.
#[test]
fn whoever_does_not_read_makes_the_other_wait() {
    // Sends for as long as it goes, and tells how much that was.
    let upstream = Upstream::start();
    let (told, sent) = channel();
    upstream.respond(move |seen| {
        let told = told.clone();
        agree(seen, move |stream| {
            let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
            let block = [0x82; 64 * 1024];
            let total = (0..4096).take_while(|_| stream.write_all(&block).is_ok()).count() * block.len();
            let _ = told.send(total);
            say_back(stream);
        })
    });
    let gateway = before(&upstream.url()).start();
    let (_, connection) = open(&gateway.client().get("/ws"), true);

    let total = sent.recv_timeout(crate::support::patience()).expect("it gets stuck");

    assert!(total < 64 << 20, "{total} bytes were taken for a client that reads none");
    drop(connection);
}

/// Takes nothing before it is told to; then says how much came.
fn holding_http1(goes: UnboundedReceiver<()>) -> Upstream {
    let (upstream, goes) = (Upstream::start(), Mutex::new(Some(goes)));
    upstream.respond(move |seen| {
        let mut goes = goes.lock().expect("no test failed").take().expect("one tunnel");
        agree(seen, move |stream| {
            goes.blocking_recv();
            let (mut came, mut block) = (0, vec![0; 64 * 1024]);
            while let Ok(count @ 1..) = stream.read(&mut block) {
                came += count;
            }
            let _ = write!(stream, "{came}");
        })
    });
    upstream
}

/// The same over HTTP/2.
fn holding_http2(goes: UnboundedReceiver<()>) -> Http2Upstream {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let goes = Arc::new(Mutex::new(Some(goes)));
    Http2Upstream::with(builder, move |request, mut respond| {
        let mut goes = goes.lock().expect("no test failed").take().expect("one tunnel");
        async move {
            let Ok(mut send) = respond.send_response(http::Response::new(()), false) else { return };
            goes.recv().await;
            let came = read_all(request.into_body()).await.len();
            let _ = send.send_data(came.to_string().into(), true);
        }
    })
}

/// Writes for as long as it may and somebody takes it, and tells how much; then ends and reads to the other end.
fn fill(mut connection: Connection, written: &Sender<usize>, enough: &AtomicBool) -> Vec<u8> {
    let block = [0x82; 64 * 1024];
    for blocks in 1..=TOTAL / block.len() {
        if enough.load(Relaxed) {
            break;
        }
        connection.write(&block).expect("somebody takes it");
        written.send(blocks * block.len()).expect("somebody counts");
    }
    connection.shut_write().expect("an end");
    connection.read_to_end()
}

/// What is written where nobody makes the writer wait.
const TOTAL: usize = 256 << 20;

/// The other direction: a server that takes nothing makes its client wait, and nothing is lost meanwhile.
#[test]
fn a_server_that_does_not_read_makes_its_client_wait() {
    for (server_over_http2, client_over_http2) in [(false, true), (true, false), (true, true)] {
        let what = format!("server over HTTP/2: {server_over_http2}, client: {client_over_http2}");
        let (go, goes) = unbounded_channel();
        let (http1, http2) =
            if server_over_http2 { (None, Some(holding_http2(goes))) } else { (Some(holding_http1(goes)), None) };
        let url =
            http1.as_ref().map(Upstream::url).or_else(|| http2.as_ref().map(Http2Upstream::url)).expect("one of them");
        let gateway = before(&url).start();
        let (_, connection) = open(&gateway.client().get("/ws"), client_over_http2);
        let connection = connection.expect("a tunnel");
        let (written, progress) = channel();
        let enough = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&enough);
        let writer = thread::spawn(move || fill(connection, &written, &ending));

        // Until nothing is taken for a while, or everything was.
        let mut taken = 0;
        while let Ok(more) = progress.recv_timeout(Duration::from_millis(500)) {
            taken = more;
        }
        assert!(taken < 64 << 20, "{what}: {taken} bytes were taken for a server that reads none");

        enough.store(true, Relaxed);
        go.send(()).expect("the server waits");
        let told = writer.join().expect("the writer ends");
        let written = progress.try_iter().last().unwrap_or(taken);
        assert_eq!(String::from_utf8_lossy(&told), written.to_string(), "{what}");
    }
}

/// RFC 8441 section 3: over TLS there is another way, on a connection of its own beside what is shared.
#[test]
fn an_https_server_without_streams_as_tunnels_is_asked_over_http1_beside_its_http2() {
    for takes_streams in [false, true] {
        let (pki, http1) = (Pki::new(), echoing());
        let mut builder = h2::server::Builder::new();
        if takes_streams {
            builder.enable_connect_protocol();
        }
        let server = Http2Upstream::over_tls((&pki, "backend.internal"), builder, http1.address(), echo_http2);
        let tls = "tls = { ca = \"ca.pem\", server_name = \"backend.internal\" }";
        let gateway = before_upstream(&format!("servers = [{:?}]\n{tls}", server.url()));
        let gateway = gateway.server("workers = 1").file("ca.pem", &pki.authority_pem()).start();

        let mut open = Vec::new();
        for client in [both(&gateway.client()), both(&gateway.client())].concat() {
            assert_eq!(gateway.client().get("/x").send().expect(200).text(), "", "what is no tunnel is shared");
            open.push(tunnel(&client));
        }

        http1.expect_only(if takes_streams { 0 } else { 4 });
        let label = [("upstream", "u0"), ("server", &*server.url())];
        let connects = gateway.metric("portcullis_upstream_connects_total", &label);
        assert_eq!(connects, if takes_streams { 1.0 } else { 5.0 });
        assert!(open.iter_mut().all(echoes));
    }
}

/// A connection with a tunnel is not idle, and a tunnel that says nothing is no slow upload.
#[test]
fn a_quiet_stream_outlives_every_bound_for_requests() {
    let upstream = echoing();
    let limits = "[limits]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\"\n";
    let servers = format!("servers = [{:?}]", upstream.url());
    let gateway = Gateway::with(limits)
        .route_to("path = \"/ws\"", &servers)
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .start();
    let mut quiet = tunnel(&gateway.client().over_http2());

    for _ in 0..2 {
        // Closed when it has been idle for as long as the tunnel at least.
        let mut idle = gateway.client().connect();
        idle.read_to_end();
    }

    assert!(echoes(&mut quiet));
}

#[test]
fn a_stream_is_one_line_of_the_log_and_one_tunnel_of_the_metrics() {
    let upstream = echoing();
    let gateway: Running = before(&upstream.url()).start();
    let mut open = tunnel(&gateway.client().over_http2());
    let label = [("upstream", "u0"), ("server", &*upstream.url())];
    assert_eq!(gateway.metric("portcullis_upstream_tunnels", &label), 1.0);

    open.shut_write().expect("an end");
    ends_soon(&mut open);

    eventually("it is over", || gateway.metric("portcullis_upstream_tunnels", &label) == 0.0);
    let is_ours = |line: &String| line.contains("\"/ws\"") && line.contains("\"websocket\"");
    eventually("it is told", || gateway.log_lines().iter().filter(|line| is_ours(line)).count() == 1);
}
