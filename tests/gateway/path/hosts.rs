//! Exactly one host, a real one, and ours (R10; RFC 9112 section 3.2, RFC 9113 section 8.3.1).

use crate::support::{
    Gateway, Issuer, Upstream,
    http2::{End, Http2, get},
};

fn public(upstream: &Upstream) -> Gateway {
    Gateway::new().host("other.test").issuer(&Issuer::hs256()).route("/{*rest}", upstream).auth(&["none"])
}

/// R10.
#[test]
fn a_request_without_one_good_host_is_refused() {
    let upstream = Upstream::start();
    let gateway = public(&upstream).start();
    for (what, target, fields, status) in [
        ("none", "/", "", 400),
        ("none in absolute form", "https://app.test/", "", 400),
        ("two that agree", "/", "Host: app.test\r\nHost: app.test\r\n", 400),
        ("two that differ", "/", "Host: app.test\r\nHost: other.test\r\n", 400),
        ("two far apart", "/", "Host: other.test\r\nX: y\r\nhOST: app.test\r\n", 400),
        ("a list", "/", "Host: app.test, other.test\r\n", 400),
        ("empty", "/", "Host:\r\n", 400),
        ("a blank inside", "/", "Host: app.test other.test\r\n", 400),
        ("a tab inside", "/", "Host: app.test\tx\r\n", 400),
        ("userinfo", "/", "Host: user@app.test\r\n", 400),
        ("userinfo with our host first", "/", "Host: app.test@evil.test\r\n", 400),
        ("a path", "/", "Host: app.test/evil\r\n", 400),
        ("a scheme", "/", "Host: https://app.test\r\n", 400),
        ("a fragment", "/", "Host: app.test#evil\r\n", 400),
        ("a backslash", "/", "Host: app.test\\evil\r\n", 400),
        ("percent", "/", "Host: app%2etest\r\n", 400),
        ("two dots at the end", "/", "Host: app.test..\r\n", 400),
        ("a dot in front", "/", "Host: .app.test\r\n", 400),
        ("an empty port", "/", "Host: app.test:\r\n", 400),
        ("port 0", "/", "Host: app.test:0\r\n", 400),
        ("a port with a sign", "/", "Host: app.test:+443\r\n", 400),
        ("a port with a blank", "/", "Host: app.test: 443\r\n", 400),
        ("a port too large", "/", "Host: app.test:65536\r\n", 400),
        ("two ports", "/", "Host: app.test:443:443\r\n", 400),
        ("letters for a port", "/", "Host: app.test:https\r\n", 400),
        ("beyond ASCII", "/", "Host: \u{e4}pp.test\r\n", 400),
        ("a short address", "/", "Host: 127.1\r\n", 400),
        ("a hexadecimal address", "/", "Host: 0x7f000001\r\n", 400),
        ("an unbracketed address", "/", "Host: ::1\r\n", 400),
        ("a zone", "/", "Host: [fe80::1%25eth0]\r\n", 400),
        ("a target for another host of ours", "https://other.test/", "Host: app.test\r\n", 400),
        ("a target with another port", "https://app.test:444/", "Host: app.test\r\n", 400),
        ("a target with userinfo", "https://app.test@other.test/", "Host: other.test\r\n", 400),
        ("a target with empty userinfo", "https://@app.test/", "Host: app.test\r\n", 400),
        ("a target without host", "https:///x", "Host: app.test\r\n", 400),
        ("a target of another scheme", "ftp://app.test/", "Host: app.test\r\n", 400),
        ("a target in authority form", "app.test:443", "Host: app.test\r\n", 400),
        ("folded", "/", "Host:\r\n app.test\r\n", 400),
        ("a blank before the colon", "/", "Host : app.test\r\n", 400),
        ("a stranger", "/", "Host: evil.test\r\n", 421),
        ("a stranger that ends like us", "/", "Host: evil-app.test\r\n", 421),
        ("a stranger that begins like us", "/", "Host: app.test.evil.test\r\n", 421),
        ("a stranger below us", "/", "Host: x.app.test\r\n", 421),
        ("a stranger in absolute form", "https://evil.test/", "Host: evil.test\r\n", 421),
        ("an address", "/", "Host: 127.0.0.1\r\n", 421),
        ("an address in brackets", "/", "Host: [::1]:443\r\n", 421),
        ("localhost", "/", "Host: localhost\r\n", 421),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");

        assert_eq!(gateway.client().raw_response(request).status, status, "{what}");
    }
    upstream.expect_only(0);
}

/// R10.
#[test]
fn a_known_host_is_known_in_every_spelling_and_forwarded_in_one() {
    let upstream = Upstream::start();
    let gateway = public(&upstream).start();
    let table = [
        ("/", "app.test", "app.test"),
        ("/", "APP.Test", "app.test"),
        ("/", "app.test.", "app.test"),
        ("/", "app.test:443", "app.test"),
        ("/", "app.test:8443", "app.test:8443"),
        ("/", "App.Test.:8443", "app.test:8443"),
        ("/", "other.test", "other.test"),
        ("https://app.test/", "app.test", "app.test"),
        ("https://app.test:443/", "app.test", "app.test"),
        ("https://APP.test/", "app.test:443", "app.test"),
    ];
    for (target, host, expect) in table {
        gateway.client().raw_response(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect(200);

        let seen = upstream.next_request();
        assert_eq!((seen.header("host"), seen.header("x-forwarded-host")), (Some(expect), Some(expect)), "{host}");
    }
    upstream.expect_only(table.len());
}

/// R10.
#[test]
fn a_good_credential_opens_no_unknown_host() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).admin().route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &["admin"], gateway.now()));
    let session = gateway.open_session(&serde_json::json!({ "subject": "bob" }));

    gateway.client().get("/x").bearer(&token).header("Host", "evil.test").send().expect(421);
    gateway.client().get("/x").bearer(&token).header("Host", "evil.test").send_http2().expect(421);
    session.get("/x").header("Host", "evil.test").send().expect(421);
    upstream.expect_only(0);

    gateway.client().get("/x").bearer(&token).send().expect(200);
    session.get("/x").send().expect(200);
    upstream.expect_only(2);
}

/// R10. The certificate's names say nothing about hosts: what is known was written.
#[test]
fn a_host_of_another_route_serves_nothing_here() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let servers = |upstream: &Upstream| format!("servers = [{:?}]", upstream.url());
    let gateway = Gateway::new()
        .host("other.test")
        .route_to("host = \"app.test\", path = \"/app\"", &servers(&one))
        .auth(&["none"])
        .route_to("host = \"other.test\", path = \"/other\"", &servers(&other))
        .auth(&["none"])
        .start();

    gateway.client().get("/other").send().expect(404);
    gateway.client().host("other.test").get("/app").send().expect(404);
    gateway.client().get("/other").header("X-Forwarded-Host", "other.test").send().expect(404);
    one.expect_only(0);
    other.expect_only(0);

    gateway.client().get("/app").send().expect(200);
    gateway.client().host("other.test").get("/other").send().expect(200);
    one.expect_only(1);
    other.expect_only(1);
}

/// R10.
#[test]
fn authority_and_host_agree_over_http2() {
    let upstream = Upstream::start();
    let gateway = public(&upstream).start();
    let ask = |authority: &str, more: &[(&[u8], &[u8])]| {
        let mut fields = get(authority, "/");
        fields.extend_from_slice(more);
        Http2::connect(&gateway.client()).ask(&fields)
    };
    for (what, authority, more) in [
        ("another host of ours", "app.test", &[(&b"host"[..], &b"other.test"[..])][..]),
        ("another port", "app.test", &[(b"host", b"app.test:444")]),
        ("two hosts", "app.test", &[(b"host", b"app.test"), (b"host", b"app.test")]),
        ("userinfo", "user@app.test", &[]),
        ("userinfo that looks like us", "app.test@evil.test", &[]),
        ("empty", "", &[]),
        ("a path", "app.test/x", &[]),
        ("a bad port", "app.test:0", &[]),
        ("two authorities", "app.test", &[(b":authority", b"app.test")]),
    ] {
        let end = ask(authority, more);

        assert!(matches!(end, End::Status(400) | End::Reset(1) | End::GoAway(1)), "{what}: {end:?}");
    }
    assert_eq!(ask("evil.test", &[]), End::Status(421));
    upstream.expect_only(0);

    assert_eq!(ask("App.Test.", &[]), End::Status(200));
    assert_eq!(ask("app.test", &[(b"host", b"app.test:443")]), End::Status(200));
    upstream.expect_only(2);
}
