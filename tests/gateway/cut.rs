//! Tunnels, event streams, long polls and downloads end within a second of the session or token that they were
//! permitted by (R28), and the client can tell that they were cut (R16). Each has a twin that goes on.

use std::{
    io::{Read, Write},
    sync::mpsc,
    time::Duration,
};

use portcullis::clock::instant;
use serde_json::json;

use crate::support::{
    Client, Connection, Gateway, Holders, Issuer, Provider, Reply, Upstream, eventually,
    gateway::{Running, SESSION_COOKIE},
    http2::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM, block, frame},
    websocket::{self, SOON, echoes, ends_soon, handshake, tunnel},
};

const PASSWORD: &str = "correct horse battery staple";
const MINUTE: Duration = Duration::from_secs(60);

/// Sessions end at 10 minutes without a request, and after an hour.
fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::with("[session]\nidle_timeout = \"10m\"\nmax_lifetime = \"1h\"")
        .user("alice", PASSWORD, &[])
        .user("bob", PASSWORD, &[])
        .admin()
        .route("/{*rest}", upstream)
        .key("upgrade = [\"websocket\"]")
}

/// `/ws` echoes, `/events` says one thing and then nothing, `/poll` says nothing at all, `/file` begins a download,
/// `/flood` sends for as long as somebody takes it.
pub(crate) fn upstream() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|seen| match &*seen.path {
        "/ws" => websocket::echo(seen),
        "/events" => waiting(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n",
        ),
        "/poll" => waiting(""),
        "/file" => waiting("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        "/flood" => Reply::take_over(|stream| {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n");
            while stream.write_all(&[0; 64 * 1024]).is_ok() {}
        }),
        _ => Reply::ok("plain"),
    });
    upstream
}

/// Says this, and then nothing until the connection is cut.
fn waiting(text: &'static str) -> Reply {
    Reply::take_over(move |stream| {
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.read(&mut [0; 1]);
    })
}

/// Asks, and reads the answer's beginning.
fn begun(client: &Client, path: &str, beginning: &[u8]) -> Connection {
    let mut connection = client.connect();
    connection.write(&client.get(path).bytes()).unwrap();
    let mut read = Vec::new();
    while memchr::memmem::find(&read, beginning).is_none() {
        read.extend(connection.read_exactly(1).expect("the answer begins"));
    }
    connection
}

/// Ends all sessions of a user, as an administrator.
fn revoke(gateway: &Running, user: &str) {
    gateway.admin().request("DELETE", &format!("/api/v1/sessions?subject=id-of-{user}")).send().expect(200);
}

/// Of the counts that all workers share a request writes its session's and its identity's, which are of one caller.
/// What it needs of its route, which is of all callers, is borrowed: workers do not take that memory from each other.
#[test]
fn a_request_is_counted_on_its_session_and_identity_and_not_on_its_route() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let client = gateway.log_in("alice");
    client.get("/x").send().expect(200);
    upstream.next_request();
    let idle = Holders { sessions: IN_STORE, identities: 1, routes: gateway.holders().routes };
    eventually("nothing is under way", || gateway.holders() == idle);

    let polls: Vec<_> = (0..5).map(|_| begun_poll(&client, &upstream)).collect();

    // Found once; known to whoever decided, and to the permit.
    let busy = Holders { sessions: IN_STORE + 5, identities: 1 + 2 * 5, ..idle };
    eventually("five are under way", || gateway.holders() == busy);
    drop(polls);
    eventually("nothing is left of them", || gateway.holders() == idle);
}

/// A session is in the table, and in the index of its subject.
const IN_STORE: usize = 2;

/// R28.
#[test]
fn a_tunnel_ends_with_its_session() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let (mut of_alice, mut of_bob) = (tunnel(&gateway.log_in("alice")), tunnel(&gateway.log_in("bob")));

    revoke(&gateway, "alice");

    assert_eq!(ends_soon(&mut of_alice), b"");
    assert!(echoes(&mut of_bob));
    eventually("the upstream's end is closed, too", || upstream.open_connections() == 1);
    assert_eq!(gateway.metric("portcullis_exchanges_cut_total", &[]), 1.0);
}

/// RFC 6455 section 7.4.1: policy violation, and never inside a frame of the server's.
#[test]
fn a_websocket_that_is_cut_is_told_so_at_the_border_of_a_frame() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let say = |client: &Client, bytes: &[u8]| {
        let request = client.get("/ws").header("Sec-Fetch-Site", "same-origin");
        let mut connection = websocket::open(&request, client.opens_streams()).1.expect("a tunnel");
        connection.write(bytes).expect("it is sent");
        assert_eq!(connection.read_exactly(bytes.len()).expect("the echo"), bytes);
        connection
    };
    let whole = [&b""[..], b"\x81\x05hello", b"\x01\x02ab", b"\x81\x05hello\x8a\x00"];
    let broken = [&b"\x81"[..], b"\x81\x05hell", b"\x82\x7e\x01", b"\x88\x02\x03\xe8", b"what is this?"];
    let alices = [alice.clone(), alice.over_http2()];
    let each = |list: &[&'static [u8]]| -> Vec<(&'static [u8], Connection)> {
        let all = alices.iter().flat_map(|alice| list.iter().map(move |bytes| (alice, *bytes)));
        all.map(|(alice, bytes)| (bytes, say(alice, bytes))).collect()
    };
    let (mut told, mut silent) = (each(&whole), each(&broken));
    let mut other = say(&bob, b"\x81\x05hello");

    revoke(&gateway, "alice");

    for (before, connection) in &mut told {
        let close = ends_soon(connection);
        assert_eq!(&close[..4], b"\x88\x18\x03\xf0", "after {before:?}: final, close, 1008");
        assert_eq!(close[4..], *b"your session has ended");
    }
    for (before, connection) in &mut silent {
        assert_eq!(ends_soon(connection), b"", "after {before:?}");
    }
    other.write(b"\x81\x00").expect("bob's goes on");
    assert_eq!(other.read_exactly(2).expect("the echo"), b"\x81\x00");
    eventually("the upstream's ends are closed, too", || upstream.open_connections() == 1);
}

#[test]
fn a_websocket_ends_with_going_away_when_the_gateway_stops() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let client = gateway.log_in("alice");
    let mut connections = [client.clone(), client.over_http2()].map(|client| {
        let request = client.get("/ws").header("Sec-Fetch-Site", "same-origin");
        let mut connection = websocket::open(&request, client.opens_streams()).1.expect("a tunnel");
        connection.write(b"\x81\x05hello").expect("it is sent");
        assert_eq!(connection.read_exactly(7).expect("the echo"), b"\x81\x05hello");
        connection
    });

    let stopping = std::thread::spawn(move || gateway.stop());

    for connection in &mut connections {
        assert_eq!(ends_soon(connection), b"\x88\x02\x03\xe9");
    }
    drop(connections);
    assert!(stopping.join().expect("it stops"));
}

/// R28. Whoever logs out elsewhere in the same browser.
#[test]
fn a_tunnel_ends_when_its_user_logs_out() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let alice = gateway.log_in("alice");
    let mut open = [tunnel(&alice), tunnel(&alice.over_http2())];

    alice.post("/_auth/logout", "").send();

    open.iter_mut().for_each(|open| drop(ends_soon(open)));
}

/// R26. Bytes of a tunnel are no activity: requests are.
#[test]
fn a_tunnel_ends_at_the_idle_limit_of_its_session() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let (mut of_alice, mut of_bob) = (tunnel(&alice.over_http2()), tunnel(&bob));
    gateway.advance(9 * MINUTE);
    assert!(echoes(&mut of_alice) && echoes(&mut of_bob));
    bob.get("/x").send().expect(200);

    gateway.advance(2 * MINUTE);

    ends_soon(&mut of_alice);
    assert!(echoes(&mut of_bob));
}

/// R28.
#[test]
fn a_tunnel_ends_at_the_absolute_limit_of_its_session() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let alice = gateway.log_in("alice");
    let mut open = tunnel(&alice);
    for _ in 0..7 {
        gateway.advance(8 * MINUTE);
        alice.get("/x").send().expect(200);
    }
    assert!(echoes(&mut open));

    gateway.advance(5 * MINUTE);

    ends_soon(&mut open);
}

/// R28.
#[test]
fn a_tunnel_ends_with_its_token() {
    let upstream = upstream();
    let issuer = Issuer::es256();
    let gateway = gateway(&upstream).issuer(&issuer).start();
    let bearer = |seconds| {
        let mut claims = Issuer::claims("carol", &[], gateway.now());
        claims["exp"] = json!(gateway.now().unix_seconds() + seconds);
        gateway.client().always("Authorization", &format!("Bearer {}", issuer.sign(&claims)))
    };
    for streams in [false, true] {
        let as_asked = |client: Client| if streams { client.over_http2() } else { client };
        let (mut short, mut long) = (tunnel(&as_asked(bearer(300))), tunnel(&as_asked(bearer(600))));

        gateway.advance(Duration::from_secs(301));

        ends_soon(&mut short);
        assert!(echoes(&mut long));
    }
}

/// R23, R28: what was verified with a key counts as long as the issuer publishes it.
#[test]
fn a_tunnel_ends_with_the_key_of_its_token() {
    let (upstream, gone, stays) = (upstream(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[&gone, &stays]);
    let gateway = gateway(&upstream).issuer_with(&gone, &provider.jwks()).start();
    let bearer = |issuer: &Issuer| {
        let mut claims = Issuer::claims("carol", &[], gateway.now());
        claims["exp"] = json!(gateway.now().unix_seconds() + 3600);
        gateway.client().always("Authorization", &format!("Bearer {}", issuer.sign(&claims)))
    };
    let (mut under_gone, mut under_stays) = (tunnel(&bearer(&gone)), tunnel(&bearer(&stays)));

    provider.publish(&[&stays]);
    gateway.advance(Duration::from_secs(300));

    ends_soon(&mut under_gone);
    assert!(echoes(&mut under_stays));
}

/// R28. Each way to revoke, and a tunnel of somebody else that goes on.
#[test]
fn a_tunnel_ends_when_its_token_is_revoked() {
    let upstream = upstream();
    let issuer = Issuer::es256();
    let gateway = gateway(&upstream).issuer(&issuer).start();
    let token = |subject: &str| {
        let mut claims = Issuer::claims(subject, &[], gateway.now());
        claims["jti"] = json!(format!("id-{subject}"));
        issuer.sign(&claims)
    };
    let bearer = |token: &str| gateway.client().always("Authorization", &format!("Bearer {token}"));
    let (open, stream) = (|token: &str| tunnel(&bearer(token)), |token: &str| tunnel(&bearer(token).over_http2()));
    let pasted = token("b");
    let mut other = open(&token("z"));
    for (entry, token) in [
        (json!({ "kind": "jti", "issuer": "test", "jti": "id-a" }), token("a")),
        (json!({ "kind": "token", "token": pasted }), pasted),
        (json!({ "kind": "subject", "subject": "c" }), token("c")),
    ] {
        let mut open = [open(&token), stream(&token)];

        gateway.admin().post("/api/v1/revocations", "").json(&entry).send().expect(200);

        for open in &mut open {
            assert_eq!(ends_soon(open), b"", "{entry}");
        }
    }
    assert!(echoes(&mut other));
    gateway
        .admin()
        .post("/api/v1/revocations", "")
        .json(&json!({ "kind": "issuer", "issuer": "test" }))
        .send()
        .expect(200);
    assert_eq!(ends_soon(&mut other), b"");
}

/// R28, R16: without the last chunk it is no whole answer.
#[test]
fn an_event_stream_breaks_off_with_its_session() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let mut stream = begun(&gateway.log_in("alice"), "/events", b"data: a\n\n\r\n");
    let mut of_bob = begun(&gateway.log_in("bob"), "/events", b"data: a\n\n\r\n");

    revoke(&gateway, "alice");

    assert_eq!(ends_soon(&mut stream), b"");
    eventually("the upstream's end is closed, too", || upstream.open_connections() == 1);
    eventually("the access log says so", || {
        gateway.log_lines().iter().any(|line| {
            line.contains("/events") && line.contains("\"session_ended\"") && line.contains("\"aborted\":true")
        })
    });
    upstream.close_connections();
    assert!(!of_bob.read_to_end().ends_with(b"0\r\n\r\n"));
}

/// R28. Nothing has been answered yet, so there is an answer: the one that a new request would get.
#[test]
fn a_long_poll_is_answered_with_401_when_its_session_ends() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let alice = gateway.log_in("alice");
    let mut connection = alice.connect();
    connection.write(&alice.get("/poll").bytes()).unwrap();
    upstream.next_request();

    revoke(&gateway, "alice");

    let begun = instant();
    let answer = connection.read_response("GET").unwrap().expect(401);
    assert!(begun.elapsed() < SOON);
    assert_eq!(answer.json()["error"], "session_ended");
    assert!(answer.cookie(SESSION_COOKIE).is_some_and(|cookie| cookie.ends_with('=')));
    eventually("the upstream's end is closed, too", || upstream.open_connections() == 0);
}

/// What was permitted in time and may have been done should not look as if it had been refused.
#[test]
fn a_change_under_way_outlasts_the_expiry_but_not_the_revocation_of_its_session() {
    let (finish, finished) = mpsc::channel::<()>();
    let finished = std::sync::Mutex::new(Some(finished));
    let upstream = upstream();
    upstream.respond(move |seen| {
        let finished = finished.lock().unwrap().take();
        match (&*seen.method, finished) {
            ("POST", Some(finished)) => Reply::take_over(move |stream| {
                finished.recv().unwrap();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
            }),
            _ => waiting(""),
        }
    });
    let gateway = gateway(&upstream).start();
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let post = |client: &Client| {
        let mut connection = client.connect();
        connection.write(&client.post("/x", "a=b").header("Sec-Fetch-Site", "same-origin").bytes()).unwrap();
        upstream.next_request();
        connection
    };
    let (mut slow, mut poll) = (post(&alice), begun_poll(&bob, &upstream));

    gateway.advance(61 * MINUTE);

    // Bob's long poll was looked at in the same round.
    poll.read_response("GET").unwrap().expect(401);
    finish.send(()).unwrap();
    assert_eq!(slow.read_response("POST").unwrap().expect(200).text(), "done");

    let bob = gateway.log_in("bob");
    let mut revoked = post(&bob);
    revoke(&gateway, "bob");
    revoked.read_response("POST").unwrap().expect(401);
}

fn begun_poll(client: &Client, upstream: &Upstream) -> Connection {
    let mut connection = client.connect();
    connection.write(&client.get("/poll").bytes()).unwrap();
    upstream.next_request();
    connection
}

/// R28, R16: fewer bytes than were promised.
#[test]
fn a_download_breaks_off_with_its_session() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let mut download = begun(&gateway.log_in("alice"), "/file", b"hello");

    revoke(&gateway, "alice");

    assert_eq!(ends_soon(&mut download), b"");
}

/// R28. A client that takes its bytes slowly, or not at all, is no safer than another.
#[test]
fn a_download_breaks_off_even_if_its_client_does_not_read() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let alice = gateway.log_in("alice");
    let _unread = begun(&alice, "/flood", b"\r\n\r\n");
    let mut http2 = Http2::connect(&gateway.client());
    let cookie = alice.get("/").cookies();
    http2.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&request("/flood", &cookie)))).unwrap();
    while http2.read().unwrap().kind != DATA {}
    assert_eq!(upstream.open_connections(), 2);

    let begun = instant();
    revoke(&gateway, "alice");

    eventually("the upstream's ends are closed", || upstream.open_connections() == 0);
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    eventually("nothing is open", || gateway.metric("portcullis_connections", &[]) == 0.0);
}

/// R28: the setting.
#[test]
fn a_route_can_let_downloads_finish() {
    let upstream = Upstream::start();
    let (go_on, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(Some(told));
    upstream.respond(move |seen| {
        let told = told.lock().unwrap().take();
        match (&*seen.path, told) {
            ("/file", Some(told)) => Reply::take_over(move |stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
                told.recv().unwrap();
                let _ = stream.write_all(b"world");
            }),
            _ => waiting("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        }
    });
    let gateway = gateway(&upstream).key("keep_downloads = true").start();
    let alice = gateway.log_in("alice");
    let mut file = begun(&alice, "/file", b"hello");
    let mut stream = begun(&alice, "/stream", b"hello");

    revoke(&gateway, "alice");

    // What has no end of its own is cut all the same; afterwards the round that could have cut the download is over.
    ends_soon(&mut stream);
    go_on.send(()).unwrap();
    assert_eq!(file.read_exactly(5).unwrap(), b"world");
    alice.get("/file").send().expect(401);
}

/// R28, R16: over HTTP/2 the stream is reset, and the connection goes on for others.
#[test]
fn a_stream_of_http2_is_reset_with_its_session() {
    let upstream = upstream();
    let gateway = gateway(&upstream).start();
    let mut connection = Http2::connect(&gateway.client());
    for (stream, user) in [(1, "alice"), (3, "bob")] {
        let cookie = gateway.log_in(user).get("/").cookies();
        let fields = block(&request("/events", &cookie));
        connection.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields)).unwrap();
        while !matches!(connection.read().unwrap(), frame if frame.kind == DATA && frame.stream == stream) {}
    }

    revoke(&gateway, "alice");

    let ended = loop {
        let frame = connection.read().expect("the connection goes on");
        if [DATA, RST_STREAM, GOAWAY].contains(&frame.kind) {
            break frame;
        }
    };
    assert_eq!((ended.kind, ended.stream), (RST_STREAM, 1), "{ended:?}");
    eventually("bob's stream is there alone", || upstream.open_connections() == 1);
}

fn request<'a>(path: &'a str, cookie: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    let mut fields = crate::support::http2::get("app.test", path);
    fields.push((b"cookie", cookie.as_bytes()));
    fields
}
