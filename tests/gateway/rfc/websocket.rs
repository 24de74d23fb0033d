//! Tunnels (R17, R31; RFC 6455 section 4): only a sound WebSocket handshake goes upstream as one, only its true answer
//! opens a tunnel, and no byte passes before.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    Gateway, Reply, Seen, Upstream,
    client::Request,
    gateway::Running,
    websocket::{self, ACCEPT, HANDSHAKE, KEY, SWITCHING},
};

fn public(upstream: &Upstream) -> Running {
    Gateway::new()
        .route("/ws", upstream)
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .route("/{*rest}", upstream)
        .auth(&["none"])
        .start()
}

fn handshake(gateway: &Running, path: &str) -> Request {
    websocket::handshake(gateway.client().get(path))
}

/// An upstream that accepts the handshake and says everything back.
fn echoing(upstream: &Upstream) {
    upstream.respond(|seen| {
        if !is_handshake(seen) {
            return Reply::ok("plain");
        }
        Reply::take_over(|stream| {
            let _ = write!(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
            let _ = write!(stream, "Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\n\r\nwelcome ");
            websocket::say_back(stream);
        })
    });
}

fn is_handshake(seen: &Seen) -> bool {
    seen.header("upgrade").is_some()
}

/// R17.
#[test]
fn bytes_pass_both_ways_once_the_handshake_is_accepted() {
    let upstream = Upstream::start();
    echoing(&upstream);
    let gateway = public(&upstream);
    let mut connection = gateway.client().connect();

    let answer = connection.send(&handshake(&gateway, "/ws").header("Sec-WebSocket-Protocol", "chat")).expect(101);

    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(connection.read_exactly(8).unwrap(), b"welcome ");
    for message in [&b"\x81\x05hello"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 20_000]] {
        connection.write(message).unwrap();
        assert_eq!(connection.read_exactly(message.len()).unwrap(), message);
    }
    let seen = upstream.next_request();
    assert_eq!((seen.header("upgrade"), seen.header("connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!((seen.header("sec-websocket-key"), seen.header("sec-websocket-version")), (Some(KEY), Some("13")));
    assert_eq!(upstream.request_count(), 1);
}

/// R17. Each is served as the plain request that it also is, with nothing of an upgrade upstream.
#[test]
fn anything_but_a_sound_websocket_handshake_is_an_ordinary_request() {
    let upstream = Upstream::start();
    echoing(&upstream);
    let gateway = public(&upstream);
    let good = HANDSHAKE;
    type Row = (String, &'static str, &'static str, Vec<(&'static str, &'static str)>);
    let mut table: Vec<Row> = vec![
        ("a route without upgrade".into(), "GET", "/other", good.to_vec()),
        ("another method".into(), "POST", "/ws", good.to_vec()),
    ];
    for (index, (name, _)) in good.iter().enumerate() {
        let without = good.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, field)| *field).collect();
        table.push((format!("without {name}"), "GET", "/ws", without));
    }
    for (name, value) in [
        ("Connection", "close"),
        ("Connection", "keep-alive, upgraded"),
        ("Upgrade", "h2c"),
        ("Upgrade", "websocket, h2c"),
        ("Upgrade", "h2c, websocket"),
        ("Upgrade", "websocket/13"),
        ("Upgrade", "TLS/1.0"),
        ("Upgrade", ""),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Version", "013"),
        ("Sec-WebSocket-Version", "13, 8"),
        ("Sec-WebSocket-Key", ""),
        ("Sec-WebSocket-Key", "short"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ="),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ!!"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSBsb25n"),
    ] {
        let changed = good.iter().map(|field| if field.0 == name { (name, value) } else { *field }).collect();
        table.push((format!("{name}: {value}"), "GET", "/ws", changed));
    }
    for doubled in [("Upgrade", "websocket"), ("Upgrade", "h2c"), ("Sec-WebSocket-Key", KEY)] {
        table.push((format!("{} twice", doubled.0), "GET", "/ws", [&good[..], &[doubled]].concat()));
    }
    table.push((
        "h2c as in RFC 7540".into(),
        "GET",
        "/ws",
        vec![("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")],
    ));
    let count = table.len();
    for (what, method, path, fields) in table {
        let request = gateway.client().request(method, path);
        let request = fields.into_iter().fold(request, |request, (name, value)| request.header(name, value));

        let answer = request.send().expect(200);

        assert_eq!(answer.text(), "plain", "{what}");
        let names = upstream.next_request().names();
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert!(!names.iter().any(|name| name == gone), "{what}: {names:?}");
        }
    }
    upstream.expect_only(count);
}

/// R17. A handshake in HTTP/1.0 or with a body is none.
#[test]
fn a_handshake_with_a_body_or_in_http_1_0_opens_nothing() {
    let upstream = Upstream::start();
    echoing(&upstream);
    let gateway = public(&upstream);
    let fields = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for message in [
        format!("GET /ws HTTP/1.0\r\nHost: app.test\r\n{fields}\r\n"),
        format!("GET /ws HTTP/1.1\r\nHost: app.test\r\n{fields}Content-Length: 3\r\n\r\nabc"),
        format!("GET /ws HTTP/1.1\r\nHost: app.test\r\n{fields}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        assert_eq!(gateway.client().raw_response(&message).expect(200).text(), "plain", "{message}");
    }
    upstream.expect_only(3);
}

/// R17.
#[test]
fn a_101_that_does_not_answer_the_handshake_is_a_bad_gateway() {
    let fields = |accept: &str, upgrade: &str, connection: &str| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\n{connection}{upgrade}Sec-WebSocket-Accept: {accept}\r\n\r\nsecret bytes"
        )
    };
    let (upgrade, connection) = ("Upgrade: websocket\r\n", "Connection: Upgrade\r\n");
    for (what, answer) in [
        ("a wrong accept value", fields("AAAAAAAAAAAAAAAAAAAAAAAAAAA=", upgrade, connection)),
        ("the key as accept value", fields(KEY, upgrade, connection)),
        ("an empty accept value", fields("", upgrade, connection)),
        ("another protocol", fields(ACCEPT, "Upgrade: h2c\r\n", connection)),
        ("no protocol", fields(ACCEPT, "", connection)),
        ("no connection", fields(ACCEPT, upgrade, "")),
        ("nothing", "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned()),
    ] {
        let upstream = Upstream::start();
        upstream.respond(move |_| Reply::raw(answer.clone()));
        let gateway = public(&upstream);
        let mut connection = gateway.client().connect();

        let refused = connection.send(&handshake(&gateway, "/ws")).expect(502);

        assert!(!refused.text().contains("secret"), "{what}");
        assert_eq!(upstream.request_count(), 1, "{what}");
    }
}

/// R16, R17.
#[test]
fn a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::raw(SWITCHING));
    let gateway = public(&upstream);

    gateway.client().get("/ws").send().expect(502);
    handshake(&gateway, "/other").send().expect(502);
    gateway.client().get("/ws").send_http2().expect(502);
}

/// R17.
#[test]
fn a_refused_handshake_is_an_ordinary_answer_and_the_connection_goes_on() {
    let upstream = Upstream::start();
    upstream.respond(|seen| if is_handshake(seen) { Reply::with(403, &[], "no") } else { Reply::ok("plain") });
    let gateway = public(&upstream);
    let mut connection = gateway.client().connect();

    assert_eq!(connection.send(&handshake(&gateway, "/ws")).expect(403).text(), "no");
    assert_eq!(connection.send(&gateway.client().get("/x")).expect(200).text(), "plain");

    upstream.expect_only(2);
}

/// R17. Bytes that follow the handshake at once are neither sent nor lost before the 101.
#[test]
fn bytes_of_the_client_wait_for_the_101() {
    let upstream = Upstream::start();
    let (tell, told) = std::sync::mpsc::channel();
    upstream.respond(move |_| {
        let tell = tell.clone();
        Reply::take_over(move |stream| {
            let _ = tell.send(nothing_comes(stream));
            let _ = stream.write_all(SWITCHING.as_bytes());
            let mut bytes = [0; 5];
            if stream.read_exact(&mut bytes).is_ok() {
                let _ = stream.write_all(&bytes);
            }
        })
    });
    let gateway = public(&upstream);
    let mut connection = gateway.client().connect();

    connection.write(&[handshake(&gateway, "/ws").bytes(), b"early".to_vec()].concat()).unwrap();

    connection.read_response("GET").unwrap().expect(101);
    assert!(told.recv().unwrap(), "the upstream got bytes before it had agreed");
    assert_eq!(connection.read_exactly(5).unwrap(), b"early");
}

/// R17. If the upgrade is refused, they are a request or nothing, never bytes for the upstream as they are.
#[test]
fn early_bytes_of_a_refused_handshake_are_read_as_http() {
    let upstream = Upstream::start();
    upstream.respond(|seen| if is_handshake(seen) { Reply::with(403, &[], "no") } else { Reply::ok("plain") });
    let gateway = public(&upstream);
    let bytes = [handshake(&gateway, "/ws").bytes(), b"\x81\x05hello GET /inner HTTP/1.1\r\n\r\n".to_vec()].concat();

    let answers = String::from_utf8_lossy(&gateway.client().raw(bytes)).into_owned();

    let statuses: Vec<&str> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["403", "400"], "{answers}");
    upstream.expect_only(1);
}

/// R31. Any page may open a WebSocket, and the browser sends the cookie along.
#[test]
fn a_tunnel_with_a_session_is_opened_for_our_own_pages_only() {
    let upstream = Upstream::start();
    echoing(&upstream);
    let gateway = Gateway::new().admin().route("/ws", &upstream).key("upgrade = [\"websocket\"]").start();
    let client = gateway.open_session(&json!({ "subject": "alice" }));
    let own = "https://app.test";
    let open = |fields: &[(&str, &str)]| {
        let request = fields.iter().fold(client.get("/ws"), |request, (name, value)| request.header(name, value));
        websocket::handshake(request).send()
    };
    for fields in [
        &[][..],
        &[("Origin", "https://evil.test")],
        &[("Origin", "null")],
        &[("Origin", "http://app.test")],
        &[("Origin", "https://app.test:444")],
        &[("Origin", "https://app.test.evil.test")],
        &[("Origin", own), ("Origin", "https://evil.test")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", own)],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "websocket")],
    ] {
        let answer = open(fields);
        assert_eq!((answer.status, answer.json()["error"].as_str()), (403, Some("cross_site")), "{fields:?}");
    }
    upstream.expect_only(0);
    websocket::handshake(gateway.client().get("/ws")).header("Origin", own).send().expect(401);
    upstream.expect_only(0);

    open(&[("Origin", own)]).expect(101);
    open(&[("Sec-Fetch-Site", "same-origin"), ("Origin", own)]).expect(101);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
}

/// R31. A bearer token is sent by no browser by itself.
#[test]
fn a_tunnel_with_a_token_asks_for_no_origin() {
    let upstream = Upstream::start();
    echoing(&upstream);
    let issuer = crate::support::Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).route("/ws", &upstream).key("upgrade = [\"websocket\"]").start();
    let token = issuer.sign(&crate::support::Issuer::claims("alice", &[], gateway.now()));

    handshake(&gateway, "/ws").send().expect(401);
    upstream.expect_only(0);
    handshake(&gateway, "/ws").bearer(&token).header("Origin", "https://evil.test").send().expect(101);

    assert_eq!(upstream.next_request().header("authorization"), None);
}

/// Whether the socket stays silent for a moment: what must not come cannot be waited for.
fn nothing_comes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silent =
        stream.peek(&mut [0]).is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    stream.set_read_timeout(None).unwrap();
    silent
}
