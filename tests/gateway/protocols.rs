//! HTTP/1.1 and HTTP/2 on both sides, in every combination and over every kind of server: whatever the one says, the
//! other hears.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response as Head;
use tokio::sync::{
    Barrier,
    mpsc::{self, UnboundedReceiver},
};

use crate::support::{
    Client, Gateway, Pki, Reply, Response, Seen, Upstream,
    client::Request,
    gateway::Running,
    http2::{self, DATA, Http2, frame},
    metric_sum,
    upstream_http2::{Http2Upstream, read_all},
};

fn before(servers: &str) -> Running {
    let route = format!("servers = [{servers:?}]");
    Gateway::new().server("workers = 1").route_to("path = \"/{*rest}\"", &route).auth(&["none"]).start()
}

/// What both backends answer: status, fields, body.
fn answer(method: &str, path: &str, range: Option<&str>, body: &[u8]) -> (u16, Vec<(&'static str, String)>, Vec<u8>) {
    match (path, range) {
        ("/204", _) => (204, vec![], vec![]),
        ("/304", _) => (304, vec![("etag", "\"1\"".into())], vec![]),
        ("/file", Some(range)) => {
            assert_eq!(range, "bytes=1-3");
            (206, vec![("content-range", "bytes 1-3/5".into()), ("content-length", "3".into())], b"ell".to_vec())
        }
        ("/file", None) => {
            let body = if method == "HEAD" { vec![] } else { b"hello".to_vec() };
            (200, vec![("content-length", "5".into())], body)
        }
        _ => (200, vec![("content-length", body.len().to_string())], body.to_vec()),
    }
}

fn over_http1() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|seen: &Seen| {
        let (status, fields, body) = answer(&seen.method, &seen.path, seen.header("range"), &seen.body);
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Reply::raw(
            [format!("HTTP/1.1 {status} Status\r\nX-Spoke: HTTP/1.1\r\n{fields}\r\n").as_bytes(), &body].concat(),
        )
    });
    upstream
}

async fn answer_http2(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    let body = read_all(body).await;
    let range = head.headers.get("range").map(|value| value.to_str().expect("text").to_owned());
    let (status, fields, body) = answer(head.method.as_str(), head.uri.path(), range.as_deref(), &body);
    let mut answer = Head::builder().status(status).header("x-spoke", "HTTP/2");
    for (name, value) in fields {
        answer = answer.header(name, value);
    }
    let mut stream = respond.send_response(answer.body(()).expect("a head"), body.is_empty()).expect("a client");
    if !body.is_empty() {
        stream.send_data(body.into(), true).expect("a client");
    }
}

/// A socket in the file system that leads to `server`.
fn at_a_socket(path: &Path, server: SocketAddr) {
    let listener = UnixListener::bind(path).expect("a socket can be made");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(server) else { return };
            thread::spawn(move || {
                thread::scope(|both| {
                    both.spawn(|| {
                        let _ = io::copy(&mut &client, &mut &server);
                        let _ = server.shutdown(Shutdown::Write);
                    });
                    let _ = io::copy(&mut &server, &mut &client);
                    let _ = client.shutdown(Shutdown::Write);
                });
            });
        }
    });
}

fn send(request: &Request, over_http2: bool) -> Response {
    if over_http2 { request.send_http2() } else { request.send() }
}

#[test]
fn answers_of_every_form_pass_in_all_combinations() {
    let (http1, http2, pki) = (over_http1(), Http2Upstream::start(answer_http2), Pki::new());
    // With TLS the server has both, and the gateway chooses.
    let server = h2::server::Builder::new();
    let either = Http2Upstream::over_tls((&pki, "backend.internal"), server, http1.address(), answer_http2);
    let folder = tempfile::tempdir().expect("a folder");
    let sockets = ["http1.sock", "http2.sock"].map(|name| folder.path().join(name));
    at_a_socket(&sockets[0], http1.address());
    at_a_socket(&sockets[1], http2.address());
    let [at_http1, at_http2] = sockets.map(|path| path.display().to_string());
    let tls = "tls = { ca = \"ca.pem\", server_name = \"backend.internal\" }";
    for (servers, lines, spoke) in [
        (http1.url(), "", "HTTP/1.1"),
        (http2.url(), "", "HTTP/2"),
        (either.url(), tls, "HTTP/2"),
        (either.url(), &*format!("{tls}\nhttp2 = false"), "HTTP/1.1"),
        (format!("unix:{at_http1}"), "", "HTTP/1.1"),
        (format!("unix+h2c:{at_http2}"), "", "HTTP/2"),
    ] {
        let gateway = Gateway::new()
            .server("workers = 1")
            .file("ca.pem", &pki.authority_pem())
            .route_to("path = \"/{*rest}\"", &format!("servers = [{servers:?}]\n{lines}"))
            .auth(&["none"])
            .start();
        for from_http2 in [false, true] {
            let what = format!("{servers}, {spoke}, client over HTTP/2: {from_http2}");
            let client = gateway.client();
            let ask = |request: Request| send(&request, from_http2);

            let head = ask(client.request("HEAD", "/file")).expect(200);
            assert_eq!((head.header("content-length"), head.text().as_str()), (Some("5"), ""), "{what}");
            let whole = ask(client.get("/file")).expect(200);
            assert_eq!((whole.header("content-length"), whole.text().as_str()), (Some("5"), "hello"), "{what}");
            assert_eq!(whole.header("x-spoke"), Some(spoke), "{what}");
            let part = ask(client.get("/file").header("Range", "bytes=1-3")).expect(206);
            assert_eq!((part.header("content-range"), part.text().as_str()), (Some("bytes 1-3/5"), "ell"), "{what}");
            assert_eq!(ask(client.get("/204")).expect(204).text(), "", "{what}");
            let known = ask(client.get("/304").header("If-None-Match", "\"1\"")).expect(304);
            assert_eq!((known.header("etag"), known.text().as_str()), (Some("\"1\""), ""), "{what}");
            let large = vec![b'x'; 500_000];
            assert_eq!(ask(client.post("/echo", large.clone())).expect(200).body, large, "{what}");
            let expecting = client.post("/echo", "hello").header("Expect", "100-continue");
            assert_eq!(ask(expecting).expect(200).text(), "hello", "{what}");
        }
    }
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_either_upstream() {
    let http2 = Http2Upstream::start(|request, mut respond: SendResponse<Bytes>| async move {
        assert_eq!(request.headers()["expect"], "100-continue");
        respond.send_informational(Head::builder().status(100).body(()).expect("a head")).expect("a client");
        let body = read_all(request.into_body()).await;
        respond.send_response(Head::new(()), false).expect("a client").send_data(body.into(), true).expect("a client");
    });
    let http1 = over_http1();
    for servers in [http1.url(), http2.url()] {
        let gateway = before(&servers);
        let mut connection = gateway.client().connect();
        let head = "POST /echo HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        connection.write(head.as_bytes()).expect("it can be written");

        assert_eq!(connection.read_interim().expect("an answer"), 100, "{servers}");
        connection.write(b"hello").expect("it can be written");

        assert_eq!(connection.read_response("POST").expect("an answer").expect(200).text(), "hello", "{servers}");
    }
}

/// Reads until this has come.
fn read_until(gateway: &Running, over_http2: bool, go: impl FnOnce(), events: [&str; 2]) {
    let client: Client = gateway.client();
    if over_http2 {
        let mut connection = Http2::connect(&client);
        let block = http2::block(&http2::get("app.test", "/events"));
        let head = frame(http2::HEADERS, http2::END_STREAM | http2::END_HEADERS, 1, &block);
        connection.write(&head).expect("it can be written");
        let mut seen = String::new();
        let mut until = |wanted: &str| {
            while !seen.contains(wanted) {
                let frame = connection.read().expect("a frame");
                if frame.kind == DATA {
                    seen.push_str(&String::from_utf8_lossy(&frame.payload));
                }
            }
        };
        until(events[0]);
        go();
        until(events[1]);
    } else {
        let mut connection = client.connect();
        connection.write(b"GET /events HTTP/1.1\r\nHost: app.test\r\n\r\n").expect("it can be written");
        let mut seen = Vec::new();
        let mut until = |wanted: &str| {
            while !String::from_utf8_lossy(&seen).contains(wanted) {
                seen.extend(connection.read_exactly(1).expect("a byte"));
            }
        };
        until(events[0]);
        go();
        until(events[1]);
    }
}

#[test]
fn an_event_stream_is_not_held_back_in_any_combination() {
    let events = ["data: 1\n\n", "data: 2\n\n"];
    for from_http2 in [false, true] {
        let (go, goes) = mpsc::unbounded_channel::<()>();
        let goes = Mutex::new(Some(goes));
        let http1 = Upstream::start();
        http1.respond(move |_| {
            let mut goes: UnboundedReceiver<()> = goes.lock().expect("no test failed").take().expect("one request");
            Reply::take_over(move |stream| {
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
                let _ = write!(stream, "{}", events[0]);
                goes.blocking_recv();
                let _ = write!(stream, "{}", events[1]);
            })
        });
        read_until(&before(&http1.url()), from_http2, || go.send(()).expect("it waits"), events);

        let (go, goes) = mpsc::unbounded_channel::<()>();
        let goes = Arc::new(Mutex::new(Some(goes)));
        let http2 = Http2Upstream::start(move |_, mut respond: SendResponse<Bytes>| {
            let goes = Arc::clone(&goes);
            async move {
                let mut goes: UnboundedReceiver<()> = goes.lock().expect("no test failed").take().expect("one request");
                let head = Head::builder().header("content-type", "text/event-stream").body(()).expect("a head");
                let mut stream = respond.send_response(head, false).expect("a client");
                stream.send_data(events[0].into(), false).expect("a client");
                goes.recv().await;
                stream.send_data(events[1].into(), true).expect("a client");
            }
        });
        read_until(&before(&http2.url()), from_http2, || go.send(()).expect("it waits"), events);
    }
}

/// Fifty at once on each of two connections, none of which is answered before all are there.
#[test]
fn a_hundred_streams_at_once_share_two_connections_to_the_upstream() {
    let all = Arc::new(Barrier::new(100));
    let upstream = Http2Upstream::start(move |_, mut respond: SendResponse<Bytes>| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            drop(respond.send_response(Head::new(()), true));
        }
    });
    let servers = format!("servers = [{:?}]", upstream.url());
    let gateway =
        Gateway::new().server("workers = 2").route_to("path = \"/{*rest}\"", &servers).auth(&["none"]).start();
    let mut connections = [(); 2].map(|()| Http2::connect(&gateway.client()));
    let streams = || (0..50).map(|number| 2 * number + 1);

    for connection in &mut connections {
        let block = http2::block(&http2::get("app.test", "/x"));
        let ask = |stream| frame(http2::HEADERS, http2::END_STREAM | http2::END_HEADERS, stream, &block);
        connection.write(&streams().flat_map(ask).collect::<Vec<u8>>()).expect("it can be written");
    }

    for connection in &mut connections {
        let mut answered: Vec<u32> = streams().collect();
        while !answered.is_empty() {
            let frame = connection.read().expect("a frame");
            if frame.kind == http2::HEADERS {
                assert_eq!(http2::status(&frame.payload), 200);
                answered.retain(|stream| *stream != frame.stream);
            }
        }
    }
    let connects = metric_sum(&gateway.telemetry(), "portcullis_upstream_connects_total");
    assert!((1.0..=2.0).contains(&connects), "{connects} connections");
}
