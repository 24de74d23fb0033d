//! Methods that are never served, and headers that would change method or path behind our back (R11).

use crate::support::{
    Gateway, Issuer, Upstream,
    http2::{End, Http2},
};

/// R11.
#[test]
fn trace_track_and_connect_are_never_served() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    for method in ["TRACE", "TRACK", "CONNECT"] {
        let answer = gateway.client().request(method, "/x").bearer(&token).send().expect(405);

        assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"), "{method}");
    }
    let tunnel = "CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\nGET /x HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_eq!(gateway.client().raw_response(tunnel).status, 400);
    upstream.expect_only(0);

    gateway.client().request("DELETE", "/x").bearer(&token).send().expect(200);
    upstream.expect_only(1);
}

/// R11.
#[test]
fn connect_over_http2_opens_nothing() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).auth(&["none"]).start();
    for (what, fields) in [
        ("plain", &[(&b":method"[..], &b"CONNECT"[..]), (b":authority", b"app.test:443")][..]),
        (
            "extended",
            &[
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"https"),
                (b":authority", b"app.test"),
                (b":path", b"/x"),
            ],
        ),
        (
            "of another protocol",
            &[
                (b":method", b"CONNECT"),
                (b":protocol", b"connect-udp"),
                (b":scheme", b"https"),
                (b":authority", b"app.test"),
                (b":path", b"/x"),
            ],
        ),
    ] {
        let end = Http2::connect(&gateway.client()).ask(fields);

        assert!(matches!(end, End::Status(400 | 404 | 405) | End::Reset(1)), "{what}: {end:?}");
    }
    upstream.expect_only(0);
}

/// R11.
#[test]
fn a_method_is_not_overridden_behind_a_route_with_methods() {
    let upstream = Upstream::start();
    let servers = format!("servers = [{:?}]", upstream.url());
    let gateway = Gateway::new()
        .route_to("path = \"/read/{*rest}\", methods = [\"GET\"]", &servers)
        .auth(&["none"])
        .route("/any/{*rest}", &upstream)
        .auth(&["none"])
        .start();
    let overriding = |path: &str| {
        let mut request = gateway.client().get(path);
        for name in ["X-HTTP-Method-Override", "x-http-method", "X-METHOD-OVERRIDE", "X_HTTP_Method_Override"] {
            request = request.header(name, "DELETE");
        }
        request.send().expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.method, "GET");
        seen.names().into_iter().filter(|name| name.contains("method")).collect::<Vec<_>>()
    };

    assert_eq!(overriding("/read/x"), [""; 0]);
    assert_eq!(overriding("/any/x"), ["x-http-method-override", "x-http-method", "x-method-override"]);
    gateway.client().request("DELETE", "/read/x").send().expect(405);
    upstream.expect_only(2);
}

/// R11.
#[test]
fn headers_that_name_another_path_never_pass() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]);
    let gateway = gateway.start();
    let mut request = gateway.client().get("/x");
    for name in ["X-Original-URL", "X-Rewrite-URL", "x-original-url", "X_Original_URL", "X-Rewrite_Url"] {
        request = request.header(name, "/admin");
    }

    request.header("X-Kept", "yes").send().expect(200);

    let seen = upstream.next_request();
    assert_eq!((seen.path.as_str(), seen.header("x-kept")), ("/x", Some("yes")));
    assert!(!String::from_utf8_lossy(&seen.raw).contains("/admin"), "{:?}", seen.headers);
}
