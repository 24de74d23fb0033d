//! R2: only what the route lists is looked at; explicit beats ambient; what is doubled is refused.

use crate::support::{
    Client, Gateway, Issuer, Upstream,
    gateway::{Running, SESSION_COOKIE},
};

/// A gateway with a route for both, one for sessions, one for tokens.
struct Site {
    gateway: Running,
    upstream: Upstream,
    token: String,
    /// `name=value`
    cookie: String,
}

impl Site {
    fn new() -> Self {
        let upstream = Upstream::start();
        let issuer = Issuer::es256();
        let gateway = Gateway::new().issuer(&issuer).admin();
        let gateway = gateway.route("/both/{*rest}", &upstream).auth(&["jwt", "session"]);
        let gateway = gateway.route("/session/{*rest}", &upstream).auth(&["session"]);
        let gateway = gateway.route("/jwt/{*rest}", &upstream).auth(&["jwt"]);
        let gateway = gateway.route("/open/{*rest}", &upstream).auth(&["none"]).start();
        let token = issuer.sign(&Issuer::claims("by-token", &[], gateway.now()));
        let answer = gateway
            .admin()
            .post("/api/v1/sessions", "")
            .json(&serde_json::json!({ "subject": "by-session" }))
            .send()
            .expect(201);
        let cookie = format!("{SESSION_COOKIE}={}", answer.json()["token"].as_str().unwrap());
        Self { gateway, upstream, token, cookie }
    }

    fn client(&self) -> Client {
        self.gateway.client()
    }

    /// Who the last request was, to the upstream.
    fn subject(&self) -> Option<String> {
        self.upstream.next_request().header("x-user-id").map(str::to_owned)
    }
}

/// R2.
#[test]
fn a_bearer_token_beats_the_session_cookie() {
    let site = Site::new();

    site.client().get("/both/x").bearer(&site.token).cookie(&site.cookie).send().expect(200);
    assert_eq!(site.subject().as_deref(), Some("by-token"));
    site.client().get("/both/x").cookie(&site.cookie).bearer(&site.token).send_http2().expect(200);
    assert_eq!(site.subject().as_deref(), Some("by-token"));
    site.client().get("/both/x").cookie(&site.cookie).send().expect(200);
    assert_eq!(site.subject().as_deref(), Some("by-session"));
}

/// R2. Never the next best.
#[test]
fn a_void_token_does_not_fall_through_to_a_good_session() {
    let site = Site::new();

    for authorization in [
        "Bearer x.y.z",
        "Bearer",
        "Bearer ",
        "Bearer  two-blanks",
        "bearer x",
        "Bearer a b",
        "Bearer x, Basic y",
        "DPoP x.y.z",
        "dpop x",
        "",
        "=",
        "Bearer\u{7}x",
    ] {
        let answer = site.client().get("/both/x").header("Authorization", authorization).cookie(&site.cookie).send();
        assert!(matches!(answer.status, 400 | 401), "{authorization:?}: {answer:?}");
    }
    assert_eq!(site.upstream.connection_count(), 0);
    site.client().get("/both/x").cookie(&site.cookie).send().expect(200);
}

/// R2. Each authenticator that is not listed might as well not exist.
#[test]
fn what_a_route_does_not_list_is_not_looked_at() {
    let site = Site::new();

    for (name, request, status) in [
        ("a token where sessions count", site.client().get("/session/x").bearer(&site.token), 401),
        ("a cookie where tokens count", site.client().get("/jwt/x").cookie(&site.cookie), 401),
        ("a token beside a session", site.client().get("/session/x").bearer("garbage").cookie(&site.cookie), 200),
        (
            "a dead cookie beside a token",
            site.client().get("/jwt/x").cookie("__Host-portcullis=x").bearer(&site.token),
            200,
        ),
        (
            "two cookies beside a token",
            site.client().get("/jwt/x").cookie(&twice(&site.cookie)).bearer(&site.token),
            200,
        ),
        (
            "everything doubled on an open route",
            site.client().get("/open/x").bearer("a").bearer("b").cookie(&twice("x=y")),
            200,
        ),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    assert_eq!(site.upstream.request_count(), 4);
    let subjects: Vec<_> = (0..4).map(|_| site.subject()).collect();
    assert_eq!(subjects, [Some("by-session".into()), Some("by-token".into()), Some("by-token".into()), None]);
}

/// R2. Whichever of the two the backend or we would take, they might differ.
#[test]
fn two_credentials_of_a_kind_are_refused() {
    let site = Site::new();
    let (token, cookie) = (&site.token, &site.cookie);
    let get = || site.client().get("/both/x");

    for (name, request) in [
        ("two tokens", get().bearer(token).bearer(token)),
        ("a token and Basic", get().bearer(token).header("Authorization", "Basic YTpi")),
        ("Basic and a token", get().header("Authorization", "Basic YTpi").bearer(token)),
        ("an empty Authorization and a token", get().header("Authorization", "").bearer(token)),
        ("another case", get().bearer(token).header("AUTHORIZATION", &format!("Bearer {token}"))),
        ("two cookies in one field", get().cookie(&twice(cookie))),
        ("two cookies in two fields", get().cookie(cookie).cookie(cookie)),
        ("a dead cookie before a good one", get().cookie(&format!("{SESSION_COOKIE}=x; {cookie}"))),
        ("a good cookie before a dead one", get().cookie(&format!("{cookie}; {SESSION_COOKIE}=x"))),
        ("an empty one", get().cookie(&format!("{cookie}; {SESSION_COOKIE}="))),
        ("two cookies beside a token", get().cookie(&twice(cookie)).bearer(token)),
    ] {
        for answer in [request.send(), request.send_http2()] {
            assert_eq!(answer.status, 401, "{name}: {answer:?}");
        }
    }
    assert_eq!(site.upstream.connection_count(), 0);
    get().cookie(&format!("a=b; {cookie}; c=d")).send().expect(200);
    get().cookie("a=b").cookie(cookie).cookie("c=d").send_http2().expect(200);
}

/// R2. What only looks like the session cookie is none.
#[test]
fn a_cookie_counts_only_under_its_exact_name() {
    let site = Site::new();
    let value = site.cookie.split_once('=').unwrap().1;

    for name in
        ["__host-portcullis", "__Host-Portcullis", "__Host-portcullis ", "$__Host-portcullis", "x__Host-portcullis"]
    {
        site.client().get("/session/x").cookie(&format!("{name}={value}")).send().expect(401);
    }
    for spelled in [format!("\"{value}\""), format!("{value}x"), format!("%{value}"), value.to_ascii_lowercase()] {
        site.client().get("/session/x").cookie(&format!("{SESSION_COOKIE}={spelled}")).send().expect(401);
    }
    assert_eq!(site.upstream.connection_count(), 0);
    site.client().get("/session/x").cookie(&format!(";; {SESSION_COOKIE}={value} ;")).send().expect(200);
}

fn twice(pair: &str) -> String {
    format!("{pair}; {pair}")
}
