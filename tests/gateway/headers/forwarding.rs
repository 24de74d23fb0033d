//! R15: nobody is believed by default; from trusted proxies one family of headers is, and what was believed is written
//! afresh.

use serde_json::json;

use crate::support::{Gateway, Issuer, Upstream};

/// Headers by which somebody could lie about who and where they are.
const LIES: &[(&str, &str)] = &[
    ("X-Forwarded-For", "10.6.6.6"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Forwarded-Proto", "gopher"),
    ("X-Forwarded-Port", "6666"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Server", "evil.test"),
    ("X-Forwarded-Scheme", "gopher"),
    ("X-Forwarded-Ssl", "evil"),
    ("X-Forwarded-Uri", "/evil"),
    ("X-Forwarded", "for=10.6.6.6"),
    ("Forwarded", "for=10.6.6.6;host=evil.test;proto=gopher"),
    ("Forwarded-For", "10.6.6.6"),
    ("X-Real-IP", "10.6.6.6"),
    ("X-Client-IP", "10.6.6.6"),
    ("Client-IP", "10.6.6.6"),
    ("True-Client-IP", "10.6.6.6"),
    ("CF-Connecting-IP", "10.6.6.6"),
    ("X-Cluster-Client-IP", "10.6.6.6"),
    ("X-Host", "evil.test"),
    ("X-Original-URL", "/evil"),
    ("X-Original-Host", "evil.test"),
    ("X-Original-URI", "/evil"),
    ("X-Rewrite-URL", "/evil"),
    ("Front-End-Https", "evil"),
    ("X-Url-Scheme", "gopher"),
    ("X-Scheme", "gopher"),
    ("Proxy", "http://evil.test"),
];

/// R15.
#[test]
fn nothing_that_an_untrusted_client_says_about_itself_is_believed_or_passed_on() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).start();
    let mut request = gateway.client().get("/x");
    for (name, value) in LIES {
        request = request.header(name, value);
    }

    request.send().expect(200);

    let seen = upstream.next_request();
    let raw = String::from_utf8_lossy(&seen.raw).into_owned();
    for lie in ["10.6.6.6", "evil", "gopher", "6666"] {
        assert!(!raw.contains(lie), "{lie}:\n{raw}");
    }
    for (name, value) in [
        ("host", "app.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
}

/// R15. The right-most entry that no trusted machine wrote about a trusted machine.
#[test]
fn from_a_trusted_proxy_the_client_is_the_right_most_untrusted_entry() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().server("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    let gateway = gateway.route("/any", &upstream).auth(&["none"]);
    let issuer = Issuer::es256();
    let gateway = gateway.issuer(&issuer).route("/near", &upstream).auth(&["jwt"]).require("ip:192.0.2.0/24").start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));

    for (sent, arrives, near) in [
        (&["192.0.2.7"][..], "192.0.2.7, 127.0.0.1", true),
        (&["192.0.2.7, 10.0.0.9"], "192.0.2.7, 10.0.0.9, 127.0.0.1", true),
        (&["192.0.2.7", "10.0.0.9"], "192.0.2.7, 10.0.0.9, 127.0.0.1", true),
        (&["192.0.2.7, 198.51.100.1"], "198.51.100.1, 127.0.0.1", false),
        (&["192.0.2.7", "198.51.100.1"], "198.51.100.1, 127.0.0.1", false),
        (&["192.0.2.7, junk"], "127.0.0.1", false),
        (&["192.0.2.7,"], "192.0.2.7, 127.0.0.1", true),
        (&["192.0.2.7 198.51.100.1"], "127.0.0.1", false),
        (&["::ffff:192.0.2.7"], "192.0.2.7, 127.0.0.1", true),
        (&["0300.0.2.7"], "127.0.0.1", false),
        (&[""], "127.0.0.1", false),
        (&[], "127.0.0.1", false),
    ] {
        let send = |path: &str| {
            let mut request = gateway.client().get(path).bearer(&token);
            for value in sent {
                request = request.header("X-Forwarded-For", value);
            }
            request.header("X-Real-IP", "192.0.2.7").header("Forwarded", "for=192.0.2.7").send()
        };
        send("/any").expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.header("x-forwarded-for"), Some(arrives), "{sent:?}");
        assert_eq!((seen.header("forwarded"), seen.header("x-real-ip")), (None, None), "{sent:?}");
        assert_eq!(send("/near").status, if near { 200 } else { 403 }, "{sent:?}");
        if near {
            upstream.next_request();
        }
    }
}

/// R15. One family is configured, the other deleted.
#[test]
fn of_the_two_families_only_the_configured_one_is_read() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().server("trusted_proxies = [\"127.0.0.0/8\"]").server("forwarded_headers = \"forwarded\"");
    let gateway = gateway.route("/{*rest}", &upstream).auth(&["none"]).start();
    let send = |forwarded: &str| {
        let request = gateway.client().get("/x").header("Forwarded", forwarded).header("X-Forwarded-For", "10.6.6.6");
        request.header("X-Forwarded-Proto", "http").send().expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.header("forwarded"), None);
        (seen.header("x-forwarded-for").unwrap().to_owned(), seen.header("x-forwarded-proto").unwrap().to_owned())
    };
    let pair = |address: &str, scheme: &str| (address.to_owned(), scheme.to_owned());

    assert_eq!(send("for=192.0.2.7;proto=http"), pair("192.0.2.7, 127.0.0.1", "http"));
    assert_eq!(send("for=\"[2001:db8::1]:4711\""), pair("2001:db8::1, 127.0.0.1", "https"));
    assert_eq!(send("for=10.6.6.6, for=192.0.2.7"), pair("192.0.2.7, 127.0.0.1", "https"));
    assert_eq!(send("for=unknown"), pair("127.0.0.1", "https"));
    assert_eq!(send("nonsense"), pair("127.0.0.1", "https"));
}

/// R15. Not even of a trusted proxy.
#[test]
fn a_forwarded_host_never_routes() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().host("admin.test").server("trusted_proxies = [\"127.0.0.0/8\"]");
    let gateway =
        gateway.route_to("host = \"app.test\", path = \"/{*rest}\"", &format!("servers = [{:?}]", upstream.url()));
    let gateway = gateway.auth(&["none"]).start();

    gateway.client().get("/x").header("X-Forwarded-Host", "admin.test").send().expect(200);
    assert_eq!(upstream.next_request().header("x-forwarded-host"), Some("app.test"));
    gateway.client().host("admin.test").get("/x").header("X-Forwarded-Host", "app.test").send().expect(404);
}

/// R20. Where a trusted proxy says that its client came by plain http, a session is neither read nor set.
#[test]
fn a_session_cookie_counts_only_when_the_client_came_by_https() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().admin().server("trusted_proxies = [\"127.0.0.0/8\"]").route("/{*rest}", &upstream).start();
    let client = gateway.open_session(&json!({ "subject": "alice" }));

    client.get("/x").send().expect(200);
    client.get("/x").header("X-Forwarded-Proto", "https").send().expect(200);
    client.get("/x").header("X-Forwarded-Proto", "http").send().expect(401);
    client.get("/x").header("X-Forwarded-Proto", "http, http").send().expect(401);
    assert_eq!(upstream.request_count(), 2);
}

/// R34. A request id is a client's word about itself, too.
#[test]
fn a_request_id_is_taken_from_trusted_proxies_only() {
    let upstream = Upstream::start();
    for (server, taken) in [("", false), ("trusted_proxies = [\"127.0.0.0/8\"]", true)] {
        let gateway = Gateway::new().server(server).route("/{*rest}", &upstream).auth(&["none"]).start();

        let answer = gateway.client().get("/x").header("X-Request-Id", "mine-0123456789").send().expect(200);

        let seen = upstream.next_request();
        assert_eq!(seen.header("x-request-id") == Some("mine-0123456789"), taken);
        assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
    }
}

/// R15. A trace that is one goes on; what only calls itself one is replaced.
#[test]
fn a_trace_context_goes_on_if_it_is_one() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).start();
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    gateway.client().get("/x").header("traceparent", good).header("tracestate", "a=b").send().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (Some(good), Some("a=b")));
    for bad in
        ["x", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", &good.to_uppercase().replace("01", "0g")]
    {
        gateway.client().get("/x").header("traceparent", bad).header("tracestate", "a=b").send().expect(200);
        let seen = upstream.next_request();
        assert!(seen.header("traceparent").is_some_and(|made| made.len() == 55 && made != bad), "{bad}");
        assert_eq!(seen.header("tracestate"), None, "{bad}");
    }
}
