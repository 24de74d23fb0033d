//! R2, R14, R31: where a bearer token comes from besides `Authorization`: a header and a cookie, by name.

use serde_json::json;

use crate::support::{
    Client, Gateway, Issuer, Reply, Upstream, client, eventually,
    gateway::{Running, SESSION_COOKIE},
    websocket::handshake,
};

const PLACES: &str = "[jwt]\ncookie = \"__Host-token\"\nheader = \"X-Access-Token\"";

/// An issuer whose tokens come in all three ways, and a route for each combination that matters.
struct Site {
    gateway: Running,
    upstream: Upstream,
    issuer: Issuer,
    token: String,
    /// `name=value`
    session: String,
}

impl Site {
    fn new() -> Self {
        let upstream = Upstream::start();
        let issuer = Issuer::es256();
        let gateway = Gateway::with(PLACES).issuer(&issuer).admin().server("odd_header_names = \"keep\"");
        let gateway = gateway.route("/both/{*rest}", &upstream).auth(&["jwt", "session"]);
        let gateway = gateway.route("/session/{*rest}", &upstream).auth(&["session"]);
        let gateway = gateway.route("/jwt/{*rest}", &upstream).auth(&["jwt"]).key("upgrade = [\"websocket\"]");
        let gateway = gateway.route("/optional/{*rest}", &upstream).auth(&["jwt"]).key("optional = true");
        let gateway = gateway.route("/open/{*rest}", &upstream).auth(&["none"]).start();
        let token = issuer.sign(&Issuer::claims("by-token", &[], gateway.now()));
        let entry = json!({ "subject": "by-session" });
        let answer = gateway.admin().post("/api/v1/sessions", "").json(&entry).send().expect(201);
        let session = format!("{SESSION_COOKIE}={}", answer.json()["token"].as_str().unwrap());
        Self { gateway, upstream, issuer, token, session }
    }

    fn client(&self) -> Client {
        self.gateway.client()
    }

    fn cookie(&self) -> String {
        format!("__Host-token={}", self.token)
    }

    /// A token that says who it is.
    fn token_of(&self, subject: &str) -> String {
        self.issuer.sign(&Issuer::claims(subject, &[], self.gateway.now()))
    }

    /// Who the last request was, to the upstream.
    fn subject(&self) -> Option<String> {
        self.upstream.next_request().header("x-user-id").map(str::to_owned)
    }
}

/// R2.
#[test]
fn a_token_counts_in_its_header_and_in_its_cookie() {
    let site = Site::new();
    let get = |path: &str| site.client().get(path);

    for path in ["/jwt/x", "/both/x", "/optional/x"] {
        for request in [
            get(path).header("X-Access-Token", &site.token),
            get(path).header("x-access-token", &site.token),
            get(path).cookie(&site.cookie()),
            get(path).cookie("a=b").cookie(&site.cookie()).cookie("c=d"),
            get(path).bearer(&site.token),
        ] {
            for answer in [request.send(), request.send_http2()] {
                assert_eq!(answer.status, 200, "{path}: {answer:?}");
                assert_eq!(site.subject().as_deref(), Some("by-token"), "{path}");
            }
        }
    }
    // What is not written down is no place.
    for request in [
        get("/jwt/x").header("X-Token", &site.token),
        get("/jwt/x").cookie(&format!("__host-token={}", site.token)),
        get("/jwt/x").cookie(&format!("token={}", site.token)),
        get(&format!("/jwt/x?__Host-token={0}&X-Access-Token={0}&access_token={0}", site.token)),
        get("/session/x").cookie(&site.cookie()),
        get("/session/x").header("X-Access-Token", &site.token),
    ] {
        request.send().expect(401);
    }
}

/// R2: `Authorization` and the header, then the cookie of the token, then that of the session.
#[test]
fn an_explicit_token_beats_the_cookie_of_a_token_and_that_beats_the_session() {
    let site = Site::new();
    let get = || site.client().get("/both/x");
    let in_cookie = format!("__Host-token={}", site.token_of("in-cookie"));
    let (explicit, both) = (site.token_of("explicit"), format!("{}; {in_cookie}", site.session));

    for (name, request, expect) in [
        ("Authorization before both cookies", get().bearer(&explicit).cookie(&both), "explicit"),
        ("the header before both cookies", get().header("X-Access-Token", &explicit).cookie(&both), "explicit"),
        ("the token's cookie before the session's", get().cookie(&both), "in-cookie"),
        ("in the other order", get().cookie(&in_cookie).cookie(&site.session), "in-cookie"),
        ("another scheme is nothing", get().header("Authorization", "Basic YTpi").cookie(&in_cookie), "in-cookie"),
        ("the session alone", get().cookie(&site.session), "by-session"),
    ] {
        request.send().expect(200);
        assert_eq!(site.subject().as_deref(), Some(expect), "{name}");
    }
}

/// R2: the place that counts is the answer, good or bad.
#[test]
fn a_void_token_in_a_cookie_or_a_header_does_not_fall_through() {
    let site = Site::new();
    let claims = |subject: &str| Issuer::claims(subject, &[], site.gateway.now());
    let expired = Issuer::claims("x", &[], site.gateway.now().minus(std::time::Duration::from_secs(900)));
    let rows = [
        ("garbage", "x".to_owned(), "parts"),
        ("forged", site.issuer.sign_with(&Issuer::es256(), &claims("x")), "wrong_signature"),
        ("expired", site.issuer.sign(&expired), "expired"),
        ("unsigned", Issuer::unsigned(&claims("x")), "algorithm_unknown"),
        ("an API key", "ptc_x".to_owned(), "parts"),
        ("empty", String::new(), "unreadable_token"),
        ("quoted", format!("\"{}\"", site.token), "unreadable_token"),
        ("with a scheme", format!("Bearer {}", site.token), "unreadable_token"),
        ("a list", format!("{0},{0}", site.token), "unreadable_token"),
    ];
    for (row, (name, token, _)) in rows.iter().enumerate() {
        let beside = |path: &str| site.client().get(path).cookie(&site.session);
        let cookie = format!("__Host-token={token}");
        for request in [
            beside(&format!("/both/cookie-{row}")).cookie(&cookie),
            beside(&format!("/both/header-{row}")).header("X-Access-Token", token),
            site.client().get(&format!("/optional/cookie-{row}")).cookie(&cookie),
            site.client().get(&format!("/optional/header-{row}")).header("X-Access-Token", token),
            site.client().get(&format!("/jwt/cookie-{row}")).cookie(&site.cookie()).header("X-Access-Token", token),
        ] {
            let answer = request.send();
            assert_eq!(answer.status, 401, "{name}: {answer:?}");
        }
    }
    assert_eq!(site.upstream.connection_count(), 0);
    eventually("all requests are logged", || site.gateway.log_lines().len() >= 5 * rows.len());
    let logged = site.gateway.log_lines().join("\n");
    for (row, (name, _, reason)) in rows.iter().enumerate() {
        for path in [format!("/both/cookie-{row}"), format!("/both/header-{row}")] {
            let line = logged.lines().find(|line| line.contains(&format!("{path:?}"))).expect("a line");
            assert!(line.contains(&format!("\"reason\":{reason:?}")), "{name}: {line}");
        }
    }
}

/// R2.
#[test]
fn two_tokens_of_a_kind_or_of_two_explicit_kinds_are_refused() {
    let site = Site::new();
    let (token, cookie) = (&site.token, &site.cookie());
    let get = || site.client().get("/both/x");
    let twice = format!("{cookie}; {cookie}");

    for (name, request) in [
        ("two headers", get().header("X-Access-Token", token).header("X-Access-Token", token)),
        ("a header and an empty one", get().header("X-Access-Token", token).header("x-access-token", "")),
        ("the header beside Authorization", get().bearer(token).header("X-Access-Token", token)),
        ("an empty header beside Authorization", get().bearer(token).header("X-Access-Token", "")),
        ("two cookies", get().cookie(&twice)),
        ("two cookies in two fields", get().cookie(cookie).cookie(cookie)),
        ("a good one before an empty one", get().cookie(&format!("{cookie}; __Host-token="))),
        ("two cookies beside Authorization", get().bearer(token).cookie(&twice)),
        ("two cookies beside the header", get().header("X-Access-Token", token).cookie(&twice)),
        ("two sessions beside the token's cookie", get().cookie(cookie).cookie(&site.session).cookie(&site.session)),
    ] {
        for answer in [request.send(), request.send_http2()] {
            assert_eq!(answer.status, 401, "{name}: {answer:?}");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.contains("error=\"invalid_request\""), "{name}: {challenge}");
        }
    }
    assert_eq!(site.upstream.connection_count(), 0);
    get().cookie(cookie).send().expect(200);
    get().header("X-Access-Token", token).send().expect(200);
}

/// R31: browsers add cookies by themselves, whatever they hold; nobody adds a header by itself.
#[test]
fn a_token_in_a_cookie_counts_for_changes_from_our_own_pages_only() {
    let site = Site::new();
    let post = |from: (&str, &str)| site.client().post("/jwt/x", "a=b").header(from.0, from.1);
    let elsewhere = ("Origin", "https://evil.example");
    let upgrade = |from: (&str, &str)| handshake(site.client().get("/jwt/x")).header(from.0, from.1);

    for (from, expect) in [
        (("Sec-Fetch-Site", "same-origin"), 200),
        (("Origin", "https://app.test"), 200),
        (("Sec-Fetch-Site", "cross-site"), 403),
        (("Sec-Fetch-Site", "same-site"), 403),
        (("Origin", "null"), 403),
        (("X-Nothing", "said"), 403),
        (elsewhere, 403),
    ] {
        let before = site.upstream.request_count();
        assert_eq!(post(from).cookie(&site.cookie()).send().status, expect, "{from:?}");
        assert_eq!(upgrade(from).cookie(&site.cookie()).send().status, expect, "a tunnel, {from:?}");
        // Before it is checked: another site learns nothing of the token, and costs nothing.
        let void = post(from).cookie("__Host-token=x").send();
        assert_eq!(void.status, if expect == 403 { 403 } else { 401 }, "{from:?}");
        assert_eq!(site.upstream.request_count() - before, if expect == 200 { 2 } else { 0 }, "{from:?}");
    }
    site.client().get("/jwt/x").header(elsewhere.0, elsewhere.1).cookie(&site.cookie()).send().expect(200);
    post(elsewhere).header("X-Access-Token", &site.token).send().expect(200);
    post(elsewhere).bearer(&site.token).cookie(&site.cookie()).send().expect(200);
}

/// R14: neither place goes upstream on any route, however it is spelled, wherever it stands.
#[test]
fn a_token_in_a_cookie_or_a_header_reaches_no_upstream_on_any_route() {
    let site = Site::new();
    for path in ["/jwt/x", "/both/x", "/optional/x", "/open/x", "/session/x"] {
        let get = || {
            let request = site.client().get(path).cookie("a=b");
            if path == "/session/x" { request.cookie(&site.session) } else { request }
        };
        for (name, request) in [
            ("cookie", get().cookie(&site.cookie())),
            ("header", get().header("X-Access-Token", &site.token)),
            ("both", get().header("X-Access-Token", &site.token).cookie(&site.cookie())),
        ] {
            for answer in [request.send(), request.send_http2()] {
                answer.expect(200);
                let seen = site.upstream.next_request();
                assert!(!String::from_utf8_lossy(&seen.raw).contains(&site.token), "{path}, {name}: {seen:?}");
                assert_eq!(seen.header("cookie"), Some("a=b"), "{path}, {name}");
            }
        }
    }
    for name in ["X_Access_Token", "X.Access-Token", "x-access_token"] {
        site.client().get("/open/x").header(name, "mine").send().expect(200);
        let seen = site.upstream.next_request();
        assert!(!String::from_utf8_lossy(&seen.raw).contains("mine"), "{name}: {seen:?}");
    }
    site.client().get("/open/x").header("X-Other-Token", "mine").send().expect(200);
    assert_eq!(site.upstream.next_request().header("x-other-token"), Some("mine"));
}

/// R14: the token that was verified, in one form, and nothing that stood beside it.
#[test]
fn forward_credential_sends_the_verified_token_as_a_bearer_and_nothing_else() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::with(PLACES).issuer(&issuer).admin();
    let gateway = gateway.route("/forwarding", &upstream).auth(&["jwt", "session"]).key("forward_credential = true");
    let gateway = gateway.key("optional = true").route("/keeping", &upstream).auth(&["jwt"]).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let (bearer, cookie) = (format!("Bearer {token}"), format!("__Host-token={token}"));
    let client = gateway.client();
    let get = || client.get("/forwarding");
    let basic = |request: client::Request| request.header("Authorization", "Basic dXNlcjpwYXNz");
    let session = gateway.open_session(&json!({ "subject": "bob" }));

    for (name, request, arrives) in [
        ("in the cookie", get().cookie(&cookie), Some(&*bearer)),
        ("in the header", get().header("X-Access-Token", &token), Some(&bearer)),
        ("in Authorization", get().bearer(&token), Some(&bearer)),
        ("in the cookie beside Basic", basic(get()).cookie(&cookie), Some(&bearer)),
        ("in the header beside Basic", basic(get()).header("X-Access-Token", &token), Some(&bearer)),
        ("named by Connection", get().cookie(&cookie).header("Connection", "authorization"), Some(&bearer)),
        ("a session beside Basic", basic(session.get("/forwarding")), None),
        ("nobody beside Basic", basic(get()), None),
        ("where nothing is forwarded", basic(client.get("/keeping")).cookie(&cookie), None),
    ] {
        request.send().expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.all("authorization"), arrives.as_slice(), "{name}");
        assert_eq!((seen.header("cookie"), seen.header("x-access-token")), (None, None), "{name}");
    }
}

/// R28: revocation is asked wherever the token came from.
#[test]
fn a_revoked_token_is_void_in_every_place() {
    let site = Site::new();
    let ask = || {
        [
            site.client().get("/jwt/x").bearer(&site.token).send().status,
            site.client().get("/jwt/x").header("X-Access-Token", &site.token).send().status,
            site.client().get("/jwt/x").cookie(&site.cookie()).send().status,
        ]
    };

    assert_eq!(ask(), [200; 3]);
    let revocation = json!({ "kind": "token", "token": site.token });
    site.gateway.admin().post("/api/v1/revocations", "").json(&revocation).send().expect(200);
    assert_eq!(ask(), [401; 3]);
}

/// R16: an upstream can neither plant a token in a browser nor take it away.
#[test]
fn an_upstream_cannot_set_the_cookie_of_a_token() {
    let site = Site::new();
    site.upstream.respond(|_| {
        let planted = ["__Host-token=evil; Path=/; Secure", "__HOST-TOKEN=; Max-Age=0", "kept=1"];
        Reply::with(200, &planted.map(|value| ("Set-Cookie", value)), "")
    });
    for path in ["/open/x", "/jwt/x"] {
        let answer = site.client().get(path).cookie(&site.cookie()).send().expect(200);
        assert_eq!(answer.all("set-cookie"), ["kept=1"], "{path}");
    }
}

/// R20: where a trusted proxy says that its client came by plain http, a cookie is not read, whatever it holds.
#[test]
fn a_token_in_a_cookie_counts_only_when_the_client_came_by_https() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::with(PLACES).issuer(&issuer).server("trusted_proxies = [\"127.0.0.0/8\"]");
    let gateway = gateway.route("/{*rest}", &upstream).auth(&["jwt"]).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let with_cookie = || gateway.client().get("/x").cookie(&format!("__Host-token={token}"));

    with_cookie().header("X-Forwarded-Proto", "https").send().expect(200);
    with_cookie().header("X-Forwarded-Proto", "http").send().expect(401);
    gateway.client().get("/x").header("X-Access-Token", &token).header("X-Forwarded-Proto", "http").send().expect(200);
    assert_eq!(upstream.request_count(), 2);
}
