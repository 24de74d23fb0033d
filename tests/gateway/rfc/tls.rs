//! TLS as it is offered, and what is not https (R15, R20).

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::json;

use crate::support::{Gateway, Upstream, gateway::Running, patience};

fn public(upstream: &Upstream) -> Running {
    Gateway::new().route("/{*rest}", upstream).auth(&["none"]).start()
}

/// A ClientHello of this version that offers one cipher suite (RFC 5246 section 7.4.1.2).
fn client_hello(version: u16, suite: u16) -> Vec<u8> {
    let extension =
        |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat();
    let name = b"app.test";
    let sni = [&[0, name.len() as u8 + 3, 0, 0, name.len() as u8][..], name].concat();
    let extensions = [
        extension(0, &sni),
        // x25519, secp256r1, secp384r1
        extension(10, &[0, 6, 0, 29, 0, 23, 0, 24]),
        extension(11, &[1, 0]),
        // ecdsa_secp256r1_sha256, ecdsa_secp384r1_sha384, rsa_pss, rsa_pkcs1, sha1
        extension(13, &[0, 12, 4, 3, 5, 3, 8, 4, 4, 1, 2, 3, 2, 1]),
        extension(23, &[]),
    ]
    .concat();
    let mut body = version.to_be_bytes().to_vec();
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend_from_slice(&[0, 2]);
    body.extend_from_slice(&suite.to_be_bytes());
    body.extend_from_slice(&[1, 0]);
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(&extensions);
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

/// The first record of the answer: its type and its first two bytes of content.
fn answer(gateway: &Running, hello: &[u8]) -> (u8, [u8; 2]) {
    let mut socket = TcpStream::connect(gateway.addresses().gateway[0]).unwrap();
    socket.set_read_timeout(Some(patience())).unwrap();
    socket.write_all(hello).unwrap();
    let mut record = [0; 7];
    socket.read_exact(&mut record).unwrap();
    (record[0], [record[5], record[6]])
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const FATAL: u8 = 2;

/// R20.
#[test]
fn old_versions_and_weak_ciphers_are_refused() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, version, suite) in [
        ("SSL 3.0", 0x0300, 0xc009),
        ("TLS 1.0", 0x0301, 0xc009),
        ("TLS 1.1", 0x0302, 0xc009),
        ("TLS 1.1 with a modern suite", 0x0302, 0xc02b),
        ("TLS 1.2 with ECDHE and CBC", 0x0303, 0xc009),
        ("TLS 1.2 with ECDHE, CBC and SHA-256", 0x0303, 0xc023),
        ("TLS 1.2 with ECDHE, RSA and CBC", 0x0303, 0xc013),
        ("TLS 1.2 with RSA key exchange", 0x0303, 0x009c),
        ("TLS 1.2 with finite-field DHE", 0x0303, 0x009e),
        ("TLS 1.2 with RC4", 0x0303, 0xc007),
        ("TLS 1.2 with 3DES", 0x0303, 0xc008),
        ("TLS 1.2 without encryption", 0x0303, 0xc006),
        ("TLS 1.2 without certificate", 0x0303, 0xc018),
    ] {
        let (kind, [level, _]) = answer(&gateway, &client_hello(version, suite));

        assert_eq!((kind, level), (ALERT, FATAL), "{what}");
    }
    upstream.expect_only(0);

    for suite in [0xc02b, 0xc02c, 0xcca9] {
        let (kind, [message, _]) = answer(&gateway, &client_hello(0x0303, suite));
        assert_eq!((kind, message), (HANDSHAKE, SERVER_HELLO), "TLS 1.2 with ECDHE and AEAD");
    }
}

/// R20.
#[test]
fn unknown_application_protocols_are_refused() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for protocols in [&["spdy/3"][..], &["http/1.0"], &["h2c"], &["HTTP/1.1"], &["ftp", "imap"], &["acme-tls/1"]] {
        assert!(gateway.client().try_connect(protocols).is_err(), "{protocols:?}");
    }
    upstream.expect_only(0);

    for (protocols, expect) in [
        (&["http/1.1"][..], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["spdy/3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let connection = gateway.client().try_connect(protocols).unwrap();
        assert_eq!(connection.protocol().as_deref(), expect, "{protocols:?}");
    }
    let mut connection = gateway.client().try_connect(&[]).unwrap();
    connection.send(&gateway.client().get("/x")).expect(200);
    upstream.expect_only(1);
}

/// R20. Nobody speaks another protocol than the one agreed.
#[test]
fn http_1_on_a_connection_for_http_2_is_not_served() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut connection = gateway.client().try_connect(&["h2"]).unwrap();

    connection.write(&gateway.client().get("/x").bytes()).unwrap();

    assert!(!String::from_utf8_lossy(&connection.read_to_end()).contains("HTTP/1.1 200"));
    upstream.expect_only(0);
}

/// R20.
#[test]
fn plain_http_on_an_https_listener_is_not_served() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);

    let answer = gateway.plain_client(0).raw("GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n");

    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    upstream.expect_only(0);
}

fn with_plain_listener(upstream: &Upstream, lines: &[&str]) -> Running {
    let gateway = Gateway::new().server("listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]");
    lines
        .iter()
        .fold(gateway, |gateway, line| gateway.server(line))
        .admin()
        .user("alice", "correct horse battery", &[])
        .route("/{*rest}", upstream)
        .start()
}

fn session_cookie(gateway: &Running) -> String {
    let answer = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": "alice" })).send().expect(201);
    format!("__Host-portcullis={}", answer.json()["token"].as_str().unwrap())
}

/// R20.
#[test]
fn a_session_cookie_is_not_read_on_plain_http() {
    let upstream = Upstream::start();
    let gateway = with_plain_listener(&upstream, &[]);
    let cookie = session_cookie(&gateway);

    gateway.plain_client(1).get("/x").cookie(&cookie).send().expect(401);
    gateway.plain_client(1).get("/x").cookie(&cookie).header("X-Forwarded-Proto", "https").send().expect(401);
    gateway.plain_client(1).get("/x").cookie(&cookie).header("Forwarded", "proto=https").send().expect(401);
    upstream.expect_only(0);

    gateway.client().get("/x").cookie(&cookie).send().expect(200);
    upstream.expect_only(1);
}

/// R20.
#[test]
fn a_session_cookie_is_not_set_on_plain_http() {
    let upstream = Upstream::start();
    let gateway = with_plain_listener(&upstream, &[]);
    let log_in = |client: crate::support::Client| {
        client
            .request("POST", "/_auth/login")
            .header("Sec-Fetch-Site", "same-origin")
            .json(&json!({ "username": "alice", "password": "correct horse battery" }))
            .send()
    };

    let answer = log_in(gateway.plain_client(1));
    assert_eq!((answer.status, answer.all("set-cookie").len()), (403, 0), "{answer:?}");

    assert!(log_in(gateway.client()).expect(200).cookie("__Host-portcullis").is_some());
}

/// R15, R20. A trusted proxy that took the TLS off says so, and is the only one that may speak at all.
#[test]
fn https_counts_behind_a_trusted_proxy_if_it_says_so() {
    let upstream = Upstream::start();
    let gateway = with_plain_listener(&upstream, &["trusted_proxies = [\"127.0.0.1/32\"]"]);
    let cookie = session_cookie(&gateway);
    let ask = |fields: &[(&str, &str)]| {
        let request = gateway.plain_client(1).get("/x").cookie(&cookie);
        fields.iter().fold(request, |request, (name, value)| request.header(name, value)).send().status
    };

    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&[("X-Forwarded-Proto", "http")]), 401);
    assert_eq!(ask(&[("X-Forwarded-Proto", "https, http")]), 401);
    assert_eq!(ask(&[("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")]), 401);
    assert_eq!(ask(&[("X-Forwarded-Proto", "wss")]), 401);
    assert_eq!(ask(&[("Forwarded", "proto=https")]), 401, "the other family");
    upstream.expect_only(0);

    assert_eq!(ask(&[("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "203.0.113.7")]), 200);
    let seen = upstream.next_request();
    assert_eq!(
        (seen.header("x-forwarded-proto"), seen.header("x-forwarded-for")),
        (Some("https"), Some("203.0.113.7, 127.0.0.1"))
    );
}

/// R15. With trusted proxies named, nobody else may speak plain HTTP.
#[test]
fn a_stranger_on_the_plain_listener_is_closed_unheard() {
    let upstream = Upstream::start();
    let gateway = with_plain_listener(&upstream, &["trusted_proxies = [\"203.0.113.0/24\"]"]);

    let answer = gateway.plain_client(1).raw("GET /_auth/livez HTTP/1.1\r\nHost: app.test\r\n\r\n");

    assert!(answer.is_empty(), "{answer:?}");
    gateway.client().get("/_auth/livez").send().expect(200);
}
