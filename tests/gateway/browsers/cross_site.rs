//! R31: a cookie counts for what changes something, or opens a tunnel, only when our own pages ask.

use crate::support::{Client, Gateway, Issuer, Upstream, gateway::Running, websocket::HANDSHAKE};

const PASSWORD: &str = "correct horse battery staple";

const fn site(value: &str) -> (&'static str, &str) {
    ("Sec-Fetch-Site", value)
}

const fn origin(value: &str) -> (&'static str, &str) {
    ("Origin", value)
}

/// One route at `/x` with these lines, for sessions.
fn gateway(lines: &[&str], upstream: &Upstream) -> Running {
    let gateway = Gateway::new().user("alice", PASSWORD, &[]).route("/{*rest}", upstream);
    lines.iter().fold(gateway, |gateway, line| gateway.key(line)).start()
}

fn status(client: &Client, method: &str, headers: &[(&str, &str)]) -> u16 {
    let request = client.request(method, "/x");
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().status
}

/// The port is part of the origin.
fn own_origin(gateway: &Running) -> (Client, String) {
    let address = gateway.addresses().gateway[0];
    let host = format!("app.test:{}", address.port());
    (gateway.log_in("alice").host(&host), format!("https://{host}"))
}

/// R31.
#[test]
fn an_unsafe_request_with_a_session_counts_from_our_own_pages_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&[], &upstream);
    let (alice, own) = own_origin(&gateway);
    let port = gateway.addresses().gateway[0].port();
    let (no_port, plain) = ("https://app.test", format!("http://app.test:{port}"));
    let (longer, shorter) = (format!("{own}.evil.example"), format!("https://evil-app.test:{port}"));
    let (next_port, user) = (format!("https://app.test:{}", port ^ 1), format!("https://a@app.test:{port}"));
    for (what, headers, expected) in [
        ("same-origin", &[site("same-origin")][..], 200),
        ("same-origin with its origin", &[site("same-origin"), origin(&own)], 200),
        ("the person's own navigation", &[site("none"), ("Sec-Fetch-Mode", "navigate")], 200),
        ("an old browser's own origin", &[origin(&own)], 200),
        ("none without a navigation", &[site("none")], 403),
        ("none with fetch()", &[site("none"), ("Sec-Fetch-Mode", "cors")], 403),
        ("a neighbour host", &[site("same-site")], 403),
        ("another site", &[site("cross-site")], 403),
        ("another site that claims our origin", &[site("cross-site"), origin(&own)], 403),
        ("a word that does not exist", &[site("same-origin-ish")], 403),
        ("upper case", &[site("Same-Origin")], 403),
        ("an empty value", &[site("")], 403),
        ("two values", &[site("same-origin"), site("cross-site")], 403),
        ("a list", &[site("same-origin, same-origin")], 403),
        ("another origin", &[origin("https://evil.example")], 403),
        ("null", &[origin("null")], 403),
        ("no port", &[origin(no_port)], 403),
        ("another port", &[origin(&next_port)], 403),
        ("plain http", &[origin(&plain)], 403),
        ("our origin as a prefix", &[origin(&longer)], 403),
        ("our host as a suffix", &[origin(&shorter)], 403),
        ("userinfo", &[origin(&user)], 403),
        ("two origins", &[origin(&own), origin(&own)], 403),
        ("a Referer only", &[("Referer", &own)], 403),
        ("silence", &[], 403),
    ] {
        let before = upstream.request_count();
        for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
            assert_eq!(status(&alice, method, headers), expected, "{method}: {what}");
        }
        assert_eq!(upstream.request_count() - before, if expected == 200 { 5 } else { 0 }, "{what}");
    }
}

/// R31: links from elsewhere work.
#[test]
fn reading_with_a_session_is_free_from_everywhere() {
    let upstream = Upstream::start();
    let alice = &gateway(&[], &upstream);
    let alice = alice.log_in("alice");
    for method in ["GET", "HEAD", "OPTIONS"] {
        for headers in [&[("Sec-Fetch-Site", "cross-site")][..], &[("Origin", "https://evil.example")], &[]] {
            assert_eq!(status(&alice, method, headers), 200, "{method} {headers:?}");
        }
    }
}

/// R31: a WebSocket is opened with GET and is no reading.
#[test]
fn another_site_cannot_open_a_tunnel_with_somebodys_session() {
    let upstream = Upstream::start();
    let gateway = gateway(&["upgrade = [\"websocket\"]"], &upstream);
    let alice = gateway.log_in("alice");
    for (from, expected) in [
        (("Sec-Fetch-Site", "cross-site"), 403),
        (("Sec-Fetch-Site", "same-site"), 403),
        (("Origin", "https://evil.example"), 403),
        (("X-Nothing", "said"), 403),
        (("Sec-Fetch-Site", "same-origin"), 200),
        (("Origin", "https://app.test"), 200),
    ] {
        let headers = [&HANDSHAKE[..], &[from]].concat();
        assert_eq!(status(&alice, "GET", &headers), expected, "{from:?}");
    }
}

/// R31: no browser adds a bearer token by itself.
#[test]
fn a_bearer_token_needs_no_origin() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).user("alice", PASSWORD, &[]).route("/{*rest}", &upstream).start();
    let bearer = format!("Bearer {}", issuer.sign(&Issuer::claims("alice", &[], gateway.now())));
    let program = gateway.client().always("Authorization", &bearer);

    assert_eq!(status(&program, "POST", &[]), 200);
    assert_eq!(status(&program, "POST", &[("Origin", "https://spa.example")]), 200);
}

/// R31: routes widen and narrow by name.
#[test]
fn a_route_says_whose_requests_count() {
    let partner = ("Origin", "https://partner.example");
    let cross = ("Sec-Fetch-Site", "cross-site");
    let navigate = ("Sec-Fetch-Mode", "navigate");
    for (setting, method, headers, expected) in [
        ("{ origins = [\"https://partner.example\"] }", "POST", &[cross, partner][..], 200),
        ("{ origins = [\"https://partner.example\"] }", "POST", &[partner], 200),
        ("{ origins = [\"https://partner.example\"] }", "POST", &[("Sec-Fetch-Site", "same-origin")], 200),
        ("{ origins = [\"https://partner.example\"] }", "POST", &[cross, ("Origin", "https://evil.example")], 403),
        ("{ origins = [\"https://partner.example\"] }", "POST", &[("Origin", "https://partner.example:444")], 403),
        ("{ origins = [\"https://partner.example\"] }", "POST", &[cross], 403),
        ("{ origins = [\"https://partner.example\"] }", "POST", &[], 403),
        ("\"allow_no_origin\"", "POST", &[], 200),
        ("\"allow_no_origin\"", "POST", &[cross], 403),
        ("\"allow_no_origin\"", "POST", &[("Origin", "null")], 403),
        ("\"off\"", "POST", &[cross, ("Origin", "https://evil.example")], 200),
        ("\"strict\"", "GET", &[cross], 403),
        ("\"strict\"", "GET", &[], 403),
        ("\"strict\"", "GET", &[cross, navigate], 200),
        ("\"strict\"", "GET", &[("Sec-Fetch-Site", "same-origin")], 200),
        ("\"strict\"", "POST", &[cross, navigate], 403),
    ] {
        let upstream = Upstream::start();
        let gateway = gateway(&[&format!("csrf = {setting}")], &upstream);
        assert_eq!(status(&gateway.log_in("alice"), method, headers), expected, "{setting} {method} {headers:?}");
    }
}

/// R31: judged before it is looked whether the session lives, and before any body is read.
#[test]
fn a_cross_site_request_learns_nothing_of_the_session() {
    let upstream = Upstream::start();
    let gateway = gateway(&[], &upstream);
    let dead = gateway.client().always("Cookie", &format!("__Host-portcullis={}", "A".repeat(43)));
    let cross = |client: &Client| {
        let request = client.request("POST", "/x").header("Sec-Fetch-Site", "cross-site");
        // The body never comes: an answer that waited for it would not come either.
        request.header("Content-Length", "1000000").header("Accept", "text/html").send()
    };

    let (of_the_living, of_the_dead) = (cross(&gateway.log_in("alice")), cross(&dead));

    assert_eq!((of_the_living.status, of_the_dead.status), (403, 403));
    assert!(of_the_dead.all("set-cookie").is_empty());
    assert_eq!(upstream.connection_count(), 0);
}
