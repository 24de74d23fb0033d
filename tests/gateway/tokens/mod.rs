//! Tokens of our own: who gets one, what it says, and that it is no better than what it comes from (R5, R21, R22, R31).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{
    Client, Gateway, Issuer, Reply, Response, Upstream,
    client::Request,
    gateway::{Running, SESSION_COOKIE},
};

/// Tokens for the keys of programs.
mod api_key;
/// Tokens that are bound to a key.
mod bound;
/// What survives a restart.
mod durable;
/// Tokens for a user and a password.
mod password;
/// Refresh tokens: rotation, idempotence, reuse.
mod refresh;
/// Each way to end a token, and everything that ends with it.
mod revoked;

const PASSWORD: &str = "correct horse battery staple";
const TOKEN: &str = "/_auth/token";
const REFRESH: &str = "/_auth/token/refresh";
const REVOKE: &str = "/_auth/token/revoke";
const REFRESH_COOKIE: &str = "__Secure-portcullis-refresh";
const MINUTE: Duration = Duration::from_secs(60);
const SETTINGS: &str = "[token]\nissuer = \"https://app.test\"\n\
    clients = [\"spa\", { id = \"phone\", grants = [\"password\"] }, { id = \"both\", grants = [\"session\", \"password\"] }]\n";

/// Alice and Bob may log in; `/app/…` takes sessions, `/api/…` our tokens.
fn configured(upstream: &Upstream) -> Gateway {
    Gateway::with(SETTINGS)
        .user("alice", PASSWORD, &["user"])
        .user("bob", PASSWORD, &["user"])
        .admin()
        .route("/app/{*rest}", upstream)
        .auth(&["session"])
        .route("/{*rest}", upstream)
        .auth(&["jwt:self"])
        .key("upgrade = [\"websocket\"]")
}

fn gateway(upstream: &Upstream) -> Running {
    configured(upstream).start()
}

/// As a script on a page of ours asks.
fn ask(client: &Client, endpoint: &str, body: &Value) -> Request {
    client.post(endpoint, "").header("Sec-Fetch-Site", "same-origin").json(body)
}

fn by_session(client: &Client) -> Request {
    ask(client, TOKEN, &json!({ "grant_type": "session", "client_id": "spa" }))
}

/// What a program sends that has no page.
fn by_password(name: &str) -> Value {
    json!({ "grant_type": "password", "client_id": "phone", "username": name, "password": PASSWORD })
}

#[track_caller]
fn text(answer: &Response, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_owned()
}

fn use_token(client: &Client, token: &str) -> Response {
    client.get("/api/x").bearer(token).send()
}

fn opens(gateway: &Running, token: &str) -> u16 {
    use_token(&gateway.client(), token).status
}

/// One of the first two parts of a token, decoded.
fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

#[test]
fn there_is_no_token_until_a_client_is_listed() {
    let upstream = Upstream::start();
    let nothing = Gateway::new().user("alice", PASSWORD, &[]).route("/app/{*rest}", &upstream).start();
    let nobody = Gateway::with("[token]\nissuer = \"https://app.test\"").user("alice", PASSWORD, &[]);
    let nobody = nobody.route("/app/{*rest}", &upstream).start();
    for gateway in [nothing, nobody] {
        let alice = gateway.log_in("alice");
        for endpoint in [TOKEN, REFRESH, REVOKE] {
            ask(&alice, endpoint, &json!({ "grant_type": "session", "client_id": "spa" })).send().expect(404);
        }
        alice.get("/_auth/jwks.json").send().expect(404);
    }
    let listed = gateway(&upstream);
    by_session(&listed.log_in("alice")).send().expect(200);
    listed.client().get("/_auth/jwks.json").send().expect(200);
}

#[test]
fn a_session_gets_an_access_token_and_its_refresh_token_in_a_cookie_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");

    let answer = by_session(&alice).send().expect(200);

    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(300)));
    assert_eq!(body.as_object().expect("an object").len(), 3, "no refresh token in it: {body}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("pragma"), Some("no-cache"));
    let cookie = answer.header("set-cookie").expect("one cookie");
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/_auth/token; Secure; HttpOnly; SameSite=Strict");
    assert!(pair.starts_with(&format!("{REFRESH_COOKIE}=ptr_")), "{pair}");

    let token = text(&answer, "access_token");
    assert_eq!(part(&token, 0)["typ"], "at+jwt");
    let claims = claims(&token);
    let now = gateway.now().unix_seconds();
    let sessions = alice.get("/_auth/sessions").send().expect(200).json();
    for (name, value) in [
        ("iss", json!("https://app.test")),
        ("aud", json!("https://app.test")),
        ("sub", json!("id-of-alice")),
        ("realm", json!("staff")),
        ("roles", json!(["user"])),
        ("client_id", json!("spa")),
        ("email", json!("alice@example.com")),
        ("iat", json!(now)),
        ("exp", json!(now + 300)),
        ("auth_time", json!(now)),
        ("sid", sessions["sessions"][0]["id"].clone()),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    use_token(&gateway.client(), &token).expect(200);
    let seen = upstream.next_request();
    for (name, value) in [
        ("x-user-id", Some("id-of-alice")),
        ("x-user-roles", Some("user")),
        ("x-user-auth", Some("jwt")),
        ("authorization", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

/// R31. A page of another site gets nothing, whatever it is logged in to.
#[test]
fn another_site_gets_no_token_with_somebodys_session() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let body = json!({ "grant_type": "session", "client_id": "spa" });
    let from = |fields: &[(&str, &str)]| {
        let request = fields.iter().fold(alice.post(TOKEN, "").json(&body), |asked, (n, v)| asked.header(n, v));
        request.send()
    };
    for (fields, status) in [
        (&[("Sec-Fetch-Site", "cross-site")][..], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Sec-Fetch-Site", "none")], 403),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://app.test")], 403),
        (&[], 403),
        (&[("Sec-Fetch-Site", "same-origin")], 200),
        (&[("Origin", "https://app.test")], 200),
    ] {
        let answer = from(fields);
        assert_eq!(answer.status, status, "{fields:?}");
        assert_eq!(answer.status == 403, answer.text().contains("\"cross_site\""), "{fields:?}");
        assert_eq!(answer.header("set-cookie").is_some(), status == 200, "{fields:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let request = alice.post(TOKEN, body.to_string()).header("Content-Type", kind);
        request.header("Sec-Fetch-Site", "same-origin").send().expect(415);
    }
}

#[test]
fn who_asks_is_listed_and_asks_as_it_may() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    for (body, status, error) in [
        (json!({ "grant_type": "session", "client_id": "stranger" }), 401, "invalid_client"),
        (json!({ "grant_type": "session", "client_id": "phone" }), 400, "unauthorized_client"),
        (json!({ "grant_type": "client_credentials", "client_id": "spa" }), 400, "unauthorized_client"),
        (json!({ "grant_type": "authorization_code", "client_id": "spa" }), 400, "unsupported_grant_type"),
        (json!({ "grant_type": "session" }), 400, "invalid_request"),
        (json!({ "grant_type": "session", "client_id": "spa", "scope": "all" }), 400, "invalid_request"),
        (json!(["session"]), 400, "invalid_request"),
        (json!({ "client_id": "spa", "refresh_token": "ptr_x" }), 400, "invalid_request"),
    ] {
        let answer = ask(&alice, TOKEN, &body).send();
        assert_eq!((answer.status, text(&answer, "error")), (status, error.to_owned()), "{body}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{body}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    ask(&alice, TOKEN, &json!({ "grant_type": "session", "client_id": "both" })).send().expect(200);
    alice.get(TOKEN).send().expect(405);
}

#[test]
fn without_a_session_the_way_to_the_login_is_told() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    let nobody = by_session(&gateway.client()).send().expect(401).json();
    assert_eq!((&nobody["error"], &nobody["login_url"]), (&json!("no_credential"), &json!("/_auth/login")));
    let alice = gateway.log_in("alice");
    gateway.admin().request("DELETE", "/api/v1/sessions?subject=id-of-alice").send().expect(200);
    let dead = by_session(&alice).send().expect(401);
    assert_eq!(dead.json()["error"], "session_ended");
    assert!(dead.cookie(SESSION_COOKIE).is_some_and(|cookie| cookie.ends_with('=')));
}

/// Neither the absolute limit nor the idle one.
#[test]
fn a_token_never_outlives_its_session() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).table("[session]\nidle_timeout = \"10m\"\nmax_lifetime = \"21m\"").start();
    let alice = gateway.log_in("alice");
    gateway.advance(9 * MINUTE);
    let short = by_session(&alice).send().expect(200).json();
    assert_eq!(short["expires_in"], 60, "the session is unused so far");
    alice.get("/app/x").send().expect(200);
    assert_eq!(by_session(&alice).send().expect(200).json()["expires_in"], 300);
    gateway.advance(9 * MINUTE);
    alice.get("/app/x").send().expect(200);
    let last = by_session(&alice).send().expect(200);
    assert_eq!(last.json()["expires_in"], 180);
    let last = text(&last, "access_token");
    assert_eq!(opens(&gateway, &last), 200);

    gateway.advance(3 * MINUTE);

    assert_eq!(opens(&gateway, &last), 401);
    eventually_says(&gateway, "parent_ended");
    by_session(&alice).send().expect(401);
}

#[track_caller]
fn eventually_says(gateway: &Running, word: &str) {
    crate::support::eventually("the log says why", || gateway.log_lines().iter().any(|line| line.contains(word)));
}

/// The session ends first although the token would go on.
#[test]
fn an_idle_session_takes_its_tokens_along_and_their_use_keeps_it_alive() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream)
        .table("[session]\nidle_timeout = \"4m\"")
        .route("/quiet/{*rest}", &upstream)
        .auth(&["jwt:self"])
        .key("touch = false")
        .start();
    for (path, lives) in [("/api/x", true), ("/quiet/x", false)] {
        let alice = gateway.log_in("alice");
        let token = text(&by_session(&alice).send().expect(200), "access_token");
        gateway.advance(3 * MINUTE);
        gateway.client().get(path).bearer(&token).send().expect(200);
        gateway.advance(2 * MINUTE);

        assert_eq!(alice.get("/app/x").send().status == 200, lives, "{path}");
    }
    // Asking alone is no activity of a browser.
    let alice = gateway.log_in("alice");
    gateway.advance(3 * MINUTE);
    by_session(&alice).send().expect(200);
    gateway.advance(2 * MINUTE);
    alice.get("/app/x").send().expect(401);
}

/// R5, RFC 9470: what a login proved is what its tokens prove, no more.
#[test]
fn a_token_skips_no_step_up() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream)
        .route("/fresh", &upstream)
        .auth(&["jwt:self"])
        .key("require = { max_auth_age = \"10m\" }")
        .route("/strong", &upstream)
        .auth(&["jwt:self"])
        .key("require = { factor = 2 }")
        .start();
    let alice = gateway.log_in("alice");
    let strong = gateway.open_session(&json!({ "subject": "carol", "factor": 2 }));
    let token = |client: &Client| text(&by_session(client).send().expect(200), "access_token");
    let visit = |path: &str, token: &str| gateway.client().get(path).bearer(token).send().status;
    assert_eq!((visit("/fresh", &token(&alice)), visit("/strong", &token(&alice))), (200, 401));
    assert_eq!(claims(&token(&strong))["amr"], json!(["mfa"]));
    assert_eq!(visit("/strong", &token(&strong)), 200);

    gateway.advance(11 * MINUTE);

    assert_eq!(visit("/fresh", &token(&alice)), 401, "a new token is no new login");
}

/// R14.
#[test]
fn the_refresh_cookie_reaches_no_upstream_and_none_can_set_it() {
    let upstream = Upstream::start();
    let planted = format!("{REFRESH_COOKIE}=evil; Path=/_auth/token; Secure");
    upstream.respond(move |_| Reply::with(200, &[("Set-Cookie", &*planted)], "x"));
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let cookie = by_session(&alice).send().expect(200).cookie(REFRESH_COOKIE).expect("a cookie");

    let answer = alice.get("/app/x").header("Cookie", &format!("{cookie}; theme=dark")).send().expect(200);

    assert_eq!(upstream.next_request().header("cookie"), Some("theme=dark"));
    assert!(answer.cookie(REFRESH_COOKIE).is_none());
}

/// Anybody who has our keys can check our tokens: here another gateway, on another host, in another process's place.
#[test]
fn our_tokens_are_verified_elsewhere_with_the_keys_that_we_publish() {
    for algorithm in ["ES256", "EdDSA"] {
        let upstream = Upstream::start();
        let settings = format!(
            "[token]\nissuer = \"https://app.test\"\nalgorithm = {algorithm:?}\naudience = [\"a\", \"b\"]\n\
             clients = [\"spa\", {{ id = \"orders\", audience = \"orders-api\" }}]"
        );
        let ours = Gateway::with(&settings).user("alice", PASSWORD, &["user"]).route("/{*rest}", &upstream);
        let ours = ours.auth(&["session", "jwt:self"]).start();
        let published = ours.client().get("/_auth/jwks.json").send().expect(200);
        assert_eq!(published.header("content-type"), Some("application/jwk-set+json"));
        assert_eq!(published.header("cache-control"), Some("public, max-age=300"));
        assert!(!published.text().contains("\"d\""));
        let theirs = Gateway::new().file("keys.json", &published.text()).route("/{*rest}", &upstream).auth(&["jwt"]);
        let theirs = theirs.table(&format!(
            "[[jwt.issuer]]\nname = \"app\"\nissuer = \"https://app.test\"\njwks = {{ file = \"keys.json\" }}\n\
             audience = [\"orders-api\"]\nalgorithms = [{algorithm:?}]\n"
        ));
        let theirs = theirs.at(ours.now()).start();
        let alice = ours.log_in("alice");
        let token = |client: &str| {
            let asked = ask(&alice, TOKEN, &json!({ "grant_type": "session", "client_id": client }));
            text(&asked.send().expect(200), "access_token")
        };

        let (own, foreign) = (token("spa"), token("orders"));

        assert_eq!((opens(&ours, &own), opens(&theirs, &own)), (200, 401), "{algorithm}");
        assert_eq!((opens(&ours, &foreign), opens(&theirs, &foreign)), (401, 200), "{algorithm}");
        assert_eq!(claims(&own)["aud"], json!(["a", "b"]));
        // What another one signs in our name is nothing here.
        let forger = Issuer::es256();
        assert_eq!(opens(&ours, &forger.sign(&claims(&own))), 401);
    }
}

/// R32: what the manual shows, step by step.
#[test]
fn a_page_calls_an_api_on_another_host() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).host("api.test");
    let gateway = gateway
        .route_to("host = \"api.test\", path = \"/orders/{*rest}\"", &format!("servers = [{:?}]", upstream.url()));
    let gateway =
        gateway.auth(&["jwt:self"]).key("cors = { origins = [\"https://app.test\"], headers = [\"authorization\"] }");
    let gateway = gateway.start();
    let token = text(&by_session(&gateway.log_in("alice")).send().expect(200), "access_token");
    let api = gateway.client().host("api.test").always("Origin", "https://app.test");

    let preflight = api.request("OPTIONS", "/orders/7").header("Access-Control-Request-Method", "GET");
    let preflight = preflight.header("Access-Control-Request-Headers", "authorization").send().expect(204);
    let answer = api.get("/orders/7").header("Sec-Fetch-Site", "cross-site").bearer(&token).send().expect(200);

    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization, dpop"));
    for answer in [preflight, answer] {
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.test"));
    }
    upstream.expect_only(1);
}

#[test]
fn a_client_that_is_no_longer_listed_has_no_tokens() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let answer = by_session(&alice).send().expect(200);
    let (token, cookie) = (text(&answer, "access_token"), answer.cookie(REFRESH_COOKIE).expect("a cookie"));
    assert_eq!(opens(&gateway, &token), 200);

    gateway.edit("clients = [\"spa\", ", "clients = [\"other\", ");
    gateway.reload().expect(200);

    assert_eq!(opens(&gateway, &token), 401);
    let body = json!({ "client_id": "spa" });
    let refused = ask(&alice, REFRESH, &body).cookie(&cookie).send().expect(401);
    assert_eq!(text(&refused, "error"), "invalid_client");
    gateway.edit("clients = [\"other\", ", "clients = [\"spa\", ");
    gateway.reload().expect(200);
    assert_eq!(opens(&gateway, &token), 200, "it has not ended, it did not count");
}

/// Turned off and on again: what was given before may count again, and the keys are the same.
#[test]
fn tokens_can_be_turned_off_and_on_by_reloads() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).route("/both", &upstream).auth(&["session"]).start();
    let alice = gateway.log_in("alice");
    let token = text(&by_session(&alice).send().expect(200), "access_token");
    assert_eq!(opens(&gateway, &token), 200);
    for (from, to, status) in
        [("\"jwt:self\"", "\"session\"", 401), ("auth = [\"session\"]", "auth = [\"jwt:self\"]", 200)]
    {
        let clients = "clients = [\"spa\", ";
        let off = "#clients = [\"spa\", ";
        let (now, then) = if status == 401 { (clients, off) } else { (off, clients) };
        gateway.edit(now, then);
        gateway.edit(from, to);
        gateway.reload().expect(200);
        assert_eq!(opens(&gateway, &token), status);
        assert_eq!(opens(&gateway, &token), status, "also where it is known");
        assert_eq!(gateway.client().get("/_auth/jwks.json").send().status == 200, status == 200);
    }
}

#[test]
fn what_happened_is_audited_and_counted_and_no_token_is_told() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let answer = by_session(&alice).send().expect(200);
    let cookie = answer.cookie(REFRESH_COOKIE).expect("a cookie");
    let next = ask(&alice, REFRESH, &json!({ "client_id": "spa" })).cookie(&cookie).send().expect(200);
    ask(&alice, TOKEN, &json!({ "grant_type": "session", "client_id": "stranger" })).send().expect(401);
    assert_eq!(gateway.metric("portcullis_tokens_issued_total", &[("grant", "session")]), 1.0);
    assert_eq!(gateway.metric("portcullis_tokens_issued_total", &[("grant", "refresh_token")]), 1.0);
    assert_eq!(gateway.metric("portcullis_token_requests_refused_total", &[]), 1.0);
    assert_eq!(gateway.metric("portcullis_refresh_families", &[]), 1.0);
    let listed = gateway.admin().get("/api/v1/sessions?subject=id-of-alice").send().expect(200).json();
    assert_eq!(listed["sessions"][0]["tokens"][0]["client_id"], "spa");
    let secrets =
        [text(&answer, "access_token"), text(&next, "access_token"), cookie, next.cookie(REFRESH_COOKIE).expect("one")];

    let access = gateway.log_lines().concat();
    let audit = gateway.stop_and_read_audit();
    for word in ["\"token.issued\"", "\"token.refreshed\""] {
        let told = |line: &String| line.contains(word) && line.contains("id-of-alice") && line.contains("\"spa\"");
        assert!(audit.iter().any(told), "{word}: {audit:?}");
    }
    for secret in secrets {
        let secret = &secret[secret.len() - 30..];
        assert!(!audit.concat().contains(secret) && !access.contains(secret));
    }
}
