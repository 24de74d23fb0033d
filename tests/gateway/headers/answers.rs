//! R16: an upstream says what it likes, but not about our connection, our cookies, or who may keep its answer.

use std::{io::Write, time::Duration};

use serde_json::json;

use crate::support::{
    Client, Gateway, Issuer, Reply, Response, Upstream,
    gateway::{Running, SESSION_COOKIE},
    websocket::KEY,
};

struct Site {
    gateway: Running,
    upstream: Upstream,
    token: String,
}

impl Site {
    fn new() -> Self {
        let upstream = Upstream::start();
        let issuer = Issuer::es256();
        let gateway = Gateway::new().issuer(&issuer);
        let gateway = gateway.route("/open/{*rest}", &upstream).auth(&["none"]);
        let gateway = gateway.route("/public/{*rest}", &upstream).key("cache = \"public\"");
        let gateway = gateway.route("/{*rest}", &upstream).upstream_key("response_timeout = \"20s\"").start();
        let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
        Self { gateway, upstream, token }
    }

    fn client(&self) -> Client {
        self.gateway.client().always("Authorization", &format!("Bearer {}", self.token))
    }

    /// What the client gets of an answer with these headers.
    fn answer(&self, path: &str, headers: &'static [(&'static str, &'static str)]) -> Response {
        self.upstream.respond(move |_| Reply::with(200, headers, "body"));
        self.client().get(path).send().expect(200)
    }
}

/// R16, RFC 9110 section 7.6.1.
#[test]
fn hop_by_hop_fields_of_an_answer_stop_here() {
    let site = Site::new();
    let answer = site.answer(
        "/x",
        &[
            ("Connection", "keep-alive, X-Internal, X-Other"),
            ("X-Internal", "1"),
            ("x-other", "1"),
            ("X-Kept", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authenticate", "Basic"),
            ("TE", "trailers"),
            ("Server", "legacy/1.0"),
        ],
    );

    let removed = ["x-internal", "x-other", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade"];
    for name in removed {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!((answer.header("x-kept"), answer.header("server")), (Some("1"), Some("legacy/1.0")));
    assert_eq!(answer.text(), "body");
}

/// R16. In whatever case and with whatever blanks; its own cookies pass as they are.
#[test]
fn an_upstream_cannot_set_or_clear_our_cookie() {
    let site = Site::new();
    let answer = site.answer(
        "/x",
        &[
            ("Set-Cookie", "__Host-portcullis=stolen; Secure; Path=/"),
            ("Set-Cookie", "__Host-portcullis=; Max-Age=0; Secure; Path=/"),
            ("Set-Cookie", "  __Host-portcullis = stolen"),
            ("Set-Cookie", "__HOST-PORTCULLIS=stolen"),
            ("Set-Cookie", "=__Host-portcullis=stolen"),
            ("Set-Cookie", "__Host-portcullis"),
            ("Set-Cookie", "theirs=1; Path=/; HttpOnly"),
            ("Set-Cookie", "x__Host-portcullis=1"),
            ("Set-Cookie", "other=__Host-portcullis=1"),
        ],
    );

    let expect = ["theirs=1; Path=/; HttpOnly", "x__Host-portcullis=1", "other=__Host-portcullis=1"];
    assert_eq!(answer.all("set-cookie"), expect);
}

/// R16.
#[test]
fn clear_site_data_loses_the_cookies() {
    let site = Site::new();
    for (headers, expect) in [
        (&[("Clear-Site-Data", "\"cookies\"")][..], None),
        (&[("Clear-Site-Data", "\"cache\", \"cookies\"")], Some("\"cache\"")),
        (&[("Clear-Site-Data", "\"*\"")], Some("\"cache\", \"storage\"")),
        (&[("Clear-Site-Data", "\"cache\""), ("Clear-Site-Data", "\"cookies\"")], Some("\"cache\"")),
        (&[("Clear-Site-Data", "cookies")], None),
        (&[("Clear-Site-Data", "\"storage\"")], Some("\"storage\"")),
    ] {
        assert_eq!(site.answer("/x", headers).header("clear-site-data"), expect, "{headers:?}");
    }
}

/// R16.
#[test]
fn a_service_worker_is_not_widened_over_our_prefix() {
    let site = Site::new();
    for (scope, passes) in [("/", false), ("/_auth", false), ("/_auth/x", false), ("/_", false), ("/app/", true)] {
        let headers: &'static [(&str, &str)] = Box::leak(Box::new([("Service-Worker-Allowed", scope)]));
        let answer = site.answer("/x", headers);
        assert_eq!(answer.header("service-worker-allowed"), passes.then_some(scope));
    }
}

/// R16. What was made for one caller is shown to no other by a shared cache.
#[test]
fn an_answer_to_a_known_caller_is_private() {
    let site = Site::new();
    for (headers, expect) in [
        (&[][..], "private, no-cache"),
        (&[("Cache-Control", "public, max-age=60")], "private, max-age=60"),
        (&[("Cache-Control", "max-age=60")], "private, max-age=60"),
        (&[("Cache-Control", "s-maxage=60")], "private"),
        (&[("Cache-Control", "max-age=60"), ("Cache-Control", "PUBLIC")], "private, max-age=60"),
        (&[("Cache-Control", "no-store")], "no-store"),
        (&[("Cache-Control", "private, max-age=60")], "private, max-age=60"),
        (&[("Surrogate-Control", "max-age=60"), ("CDN-Cache-Control", "max-age=60")], "private, no-cache"),
    ] {
        let answer = site.answer("/x", headers);
        assert_eq!(answer.header("cache-control"), Some(expect), "{headers:?}");
        assert_eq!((answer.header("surrogate-control"), answer.header("cdn-cache-control")), (None, None));
    }
}

/// R16. The twins: where the route says so, and where nobody is known.
#[test]
fn an_answer_stays_public_where_it_may() {
    let site = Site::new();

    let public: &[(&str, &str)] = &[("Cache-Control", "public, max-age=60")];
    assert_eq!(site.answer("/public/x", public).header("cache-control"), Some("public, max-age=60"));
    assert_eq!(site.answer("/open/x", public).header("cache-control"), Some("public, max-age=60"));
    assert_eq!(site.answer("/open/x", &[]).header("cache-control"), None);
}

/// R16. What is no answer is not passed on, and nothing of it.
#[test]
fn what_is_no_answer_is_502() {
    let site = Site::new();
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (name, bytes) in [
        ("an unasked 101", switching.to_owned()),
        ("an unasked 101 to h2c", switching.replace("websocket", "h2c")),
        ("status 0", "HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 99", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 1000", "HTTP/1.1 1000 Odd\r\nContent-Length: 0\r\n\r\n".into()),
        ("no status", "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into()),
        ("a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".into()),
        ("a length in hexadecimal", "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab".into()),
        (
            "length and coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab".into()),
        ("a name with a blank", "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 0\r\n\r\n".into()),
        ("a value with NUL", "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n".into()),
        ("half a head", "HTTP/1.1 200 OK\r\nX-A: secret".into()),
        ("nothing", String::new()),
        (
            "a head without end",
            format!("HTTP/1.1 200 OK\r\n{}", "X-A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(20_000)),
        ),
    ] {
        site.upstream.respond(move |_| Reply::raw_then_close(bytes.clone()));
        let answer = site.client().get("/x").send();
        assert_eq!(answer.status, 502, "{name}: {answer:?}");
        assert!(!answer.text().contains("secret"), "{name}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
    }
    assert_eq!(site.answer("/x", &[]).text(), "body");
}

/// R16. Interim answers are no answer, and not endless.
#[test]
fn interim_answers_are_bounded() {
    let site = Site::new();
    let interim = |count: usize| "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(count);
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";

    let few = interim(2) + last;
    site.upstream.respond(move |_| Reply::raw(few.clone()));
    assert_eq!(site.client().get("/x").send().expect(200).text(), "body");
    let many = interim(40_000) + last;
    site.upstream.respond(move |_| Reply::raw_then_close(many.clone()));
    site.client().get("/x").send().expect(502);
}

/// R16. Half an answer must not look like a whole one.
#[test]
fn truncation_is_visible_to_the_client() {
    let site = Site::new();
    for (name, bytes) in [
        ("by length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        ("in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf"),
        ("between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("in the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n"),
        ("by a bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"),
    ] {
        site.upstream.respond(move |_| Reply::raw_then_close(bytes));
        let request = site.client().get("/x");
        let mut connection = site.client().connect();
        connection.write(&request.bytes()).unwrap();
        let read = connection.read_response("GET");
        assert!(read.is_err(), "{name}: {read:?}");
    }
    let whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n";
    site.upstream.respond(move |_| Reply::raw(whole));
    assert_eq!(site.client().get("/x").send().expect(200).text(), "half");
}

/// R16. Bytes behind an answer are no answer to the next request.
#[test]
fn what_follows_an_answer_is_not_taken_for_the_next() {
    let site = Site::new();
    let poisoned = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    site.upstream.respond(move |seen| if seen.path == "/first" { Reply::raw(poisoned) } else { Reply::ok("clean") });
    let client = site.client();
    let mut connection = client.connect();

    for _ in 0..5 {
        assert_eq!(connection.send(&client.get("/first")).expect(200).text(), "body");
        assert_eq!(connection.send(&client.get("/second")).expect(200).text(), "clean");
    }
}

/// R16. A body that must not be there is not.
#[test]
fn answers_without_a_body_have_none() {
    let site = Site::new();
    let client = site.client();
    for (method, head, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 404 Gone\r\nContent-Length: 9\r\n\r\n", 404),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304),
    ] {
        site.upstream.respond(move |_| Reply::raw(head));
        let mut connection = client.connect();
        let answer = connection.send(&client.request(method, "/x"));
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{method} {head}");
        site.upstream.respond(|_| Reply::ok("next"));
        assert_eq!(connection.send(&client.get("/next")).expect(200).text(), "next", "{method} {head}");
    }
}

/// R16, R26. A session's own cookie is set by nobody but us, and a tunnel of the legacy's own stays shut.
#[test]
fn an_upgrade_that_nobody_allowed_is_none() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/{*rest}", &upstream).start();
    let session = gateway.open_session(&json!({ "subject": "alice" }));
    upstream.respond(|seen| {
        if seen.header("upgrade").is_none() {
            return Reply::ok("no upgrade asked");
        }
        Reply::take_over(|stream| {
            let _ =
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
        })
    });

    for upgrade in ["h2c", "websocket", "TLS/1.0", "websocket, h2c"] {
        let request = session.get("/x").header("Upgrade", upgrade).header("Connection", "Upgrade, HTTP2-Settings");
        let request =
            request.header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA").header("Sec-Fetch-Site", "same-origin");
        let answer = request.header("Sec-WebSocket-Key", KEY).header("Sec-WebSocket-Version", "13").send();
        assert_eq!((answer.status, answer.text().as_str()), (200, "no upgrade asked"), "{upgrade}: {answer:?}");
        assert_eq!(upstream.next_request().header("http2-settings"), None, "{upgrade}");
    }
    assert!(gateway.audit_lines().iter().all(|line| !line.contains(SESSION_COOKIE)));
}

/// R16. No word from the upstream in time is a 504, and the request's connection is not used again.
#[test]
fn an_upstream_that_says_nothing_is_504() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().route("/{*rest}", &upstream).upstream_key("response_timeout = \"300ms\"").auth(&["none"]);
    let gateway = gateway.start();
    upstream.respond(|seen| {
        if seen.path == "/quick" {
            return Reply::ok("quick");
        }
        Reply::take_over(|stream| {
            let mut byte = [0];
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = std::io::Read::read(stream, &mut byte);
        })
    });

    gateway.client().get("/slow").send().expect(504);
    gateway.client().get("/quick").send().expect(200);
}

/// R16. A pause in the middle of an answer is bounded, and its end visible.
#[test]
fn an_answer_that_stops_midway_is_cut_off_visibly() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).upstream_key("read_timeout = \"300ms\"").auth(&["none"]);
    let gateway = gateway.start();
    upstream.respond(|seen| {
        if seen.path == "/whole" {
            return Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
        }
        Reply::take_over(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
            let mut byte = [0];
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = std::io::Read::read(stream, &mut byte);
        })
    });
    let client = gateway.client();
    let mut connection = client.connect();

    connection.write(&client.get("/half").bytes()).unwrap();

    assert!(connection.read_response("GET").is_err());
    assert_eq!(client.get("/whole").send().expect(200).text(), "body");
}
