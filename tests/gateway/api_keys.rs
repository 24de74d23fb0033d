//! API keys: `[[api_key]]` and `auth = ["api_key"]`.

use std::time::{Duration, UNIX_EPOCH};

use portcullis::{api_key::KeyText, clock::Clock, secret::Secret};
use serde_json::json;

use crate::{
    cut,
    support::{
        Client, Gateway, Issuer, Shell, Upstream,
        gateway::Running,
        websocket::{echoes, ends_soon, tunnel},
    },
};

/// A fresh key, and the entry for it with further lines.
pub(crate) fn key(name: &str, lines: &str) -> (Secret<String>, String) {
    let text = KeyText::generate();
    let parsed = KeyText::parse(text.expose().as_bytes()).expect("a key");
    let sha256: String = parsed.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    let entry = format!(
        "[[api_key]]\nname = {name:?}\nid = \"{}\"\nsha256 = {sha256:?}\nsubject = \"robot\"\nrealm = \"staff\"\n{lines}\n",
        parsed.id()
    );
    (text, entry)
}

fn with(gateway: &Running, text: &Secret<String>) -> Client {
    gateway.client().always("X-API-Key", text.expose())
}

#[test]
fn a_key_opens_its_routes_in_its_header_or_as_a_bearer_token() {
    let upstream = Upstream::start();
    let (text, entry) = key("ci", "roles = [\"deployer\"]\nscopes = [\"a\", \"b\"]");
    let gateway = Gateway::new().table(&entry).route("/app/{*rest}", &upstream).auth(&["api_key"]);
    let gateway = gateway.require("role:deployer").route("/aged", &upstream).auth(&["api_key"]);
    let gateway = gateway.key("require = { max_auth_age = \"1h\" }").start();

    with(&gateway, &text).get("/app/x").send().expect(200);
    let seen = upstream.next_request();
    for (name, value) in [
        ("x-user-id", Some("robot")),
        ("x-user-roles", Some("deployer")),
        ("x-user-scopes", Some("a,b")),
        ("x-user-auth", Some("api_key")),
        ("x-api-key", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    gateway.client().get("/app/x").bearer(text.expose()).send().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-id"), seen.header("authorization")), (Some("robot"), None));
    // Explicit: no page of another site can make a browser send it by itself (R31).
    let post = gateway.client().post("/app/x", "").bearer(text.expose()).header("Origin", "https://other.example");
    post.send().expect(200);
    assert!(!with(&gateway, &text).get("/aged").send().status.eq(&200), "a key is no login");
}

#[test]
fn what_is_no_key_opens_nothing() {
    let upstream = Upstream::start();
    let (text, entry) = key("ci", "");
    let (stranger, _) = key("other", "");
    let gateway = Gateway::new().table(&entry).route("/app/{*rest}", &upstream).auth(&["api_key"]).start();
    let text = text.expose();
    let mistyped = format!("{}{}", &text[..79], if text.ends_with('a') { "b" } else { "a" });
    let spliced = format!("{}{}", &text[..21], &stranger.expose()[21..]);
    for (what, sent) in [
        ("nothing", ""),
        ("its id", &text[4..20]),
        ("no secret", &text[..21]),
        ("a typing error", &mistyped),
        ("capitals", &text.to_uppercase()),
        ("another's secret", &spliced),
        ("a stranger's", stranger.expose()),
        ("one byte more", &format!("{text}a")),
    ] {
        let answer = gateway.client().get("/app/x").header("X-API-Key", sent).send();
        assert_eq!(answer.status, 401, "{what}");
        assert!(answer.header("www-authenticate").is_some(), "{what}");
    }
    gateway.client().get("/app/x").send().expect(401);
    gateway.client().get(&format!("/app/x?api_key={text}")).send().expect(401);
    gateway.client().get("/app/x").cookie(&format!("X-API-Key={text}")).send().expect(401);
    upstream.expect_only(0);
}

/// R14.
#[test]
fn a_key_reaches_no_upstream_on_any_route() {
    let upstream = Upstream::start();
    let (text, entry) = key("ci", "");
    let gateway = Gateway::new().server("odd_header_names = \"keep\"").table(&entry);
    let gateway = gateway.route("/app/{*rest}", &upstream).auth(&["api_key"]).key("forward_credential = true");
    let gateway = gateway.route("/public", &upstream).auth(&["none"]).start();
    for request in [
        with(&gateway, &text).get("/app/x"),
        gateway.client().get("/app/x").bearer(text.expose()),
        with(&gateway, &text).get("/public"),
        gateway.client().get("/public").header("x_api_key", text.expose()),
        gateway.client().get("/public").header("X.API-Key", text.expose()),
    ] {
        request.send().expect(200);
    }
    upstream.expect_only(5);
    let bytes = upstream.bytes_seen();
    assert!(memchr::memmem::find(&bytes, text.expose().as_bytes()).is_none());
    assert!(!gateway.log_lines().concat().contains(text.expose()));
}

/// R2.
#[test]
fn a_key_beside_another_credential_is_refused() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let (text, entry) = key("ci", "");
    let gateway = Gateway::new().admin().issuer(&issuer).table(&entry);
    let gateway = gateway.route("/app/{*rest}", &upstream).auth(&["api_key", "jwt", "session"]).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let session = gateway.open_session(&json!({ "subject": "bob" }));
    let (keyed, text) = (with(&gateway, &text), text.expose());

    keyed.get("/app/x").bearer(&token).send().expect(401);
    keyed.get("/app/x").bearer(text).send().expect(401);
    keyed.get("/app/x").header("X-API-Key", text).send().expect(401);
    session.get("/app/x").header("X-API-Key", "nonsense").send().expect(401);
    upstream.expect_only(0);
    // One explicit credential goes before the cookie.
    for (request, expected) in [
        (session.get("/app/x").header("X-API-Key", text), "robot"),
        (session.get("/app/x").bearer(text), "robot"),
        (session.get("/app/x").bearer(&token), "alice"),
        (session.get("/app/x"), "bob"),
    ] {
        request.send().expect(200);
        assert_eq!(upstream.next_request().header("x-user-id"), Some(expected));
    }
}

#[test]
fn a_key_counts_only_where_it_is_named() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let (text, entry) = key("ci", "");
    let gateway = Gateway::new().admin().issuer(&issuer).table(&entry);
    let gateway = gateway.route("/jwt", &upstream).auth(&["jwt"]).route("/session", &upstream).auth(&["session"]);
    let gateway = gateway.route("/key", &upstream).auth(&["api_key"]).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    for path in ["/jwt", "/session"] {
        with(&gateway, &text).get(path).send().expect(401);
        gateway.client().get(path).bearer(text.expose()).send().expect(401);
    }
    gateway.client().get("/key").bearer(&token).send().expect(401);
    // What a bearer token of no concern to the route says does not matter.
    with(&gateway, &text).get("/key").bearer(&token).send().expect(200);
    assert_eq!(upstream.next_request().header("authorization"), None);
}

#[test]
fn a_key_ends_and_counts_from_its_networks() {
    let upstream = Upstream::start();
    let in_an_hour = Clock::system().now().plus(Duration::from_secs(3600)).unix_millis();
    let end = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(in_an_hour));
    let (short, one) = key("short", &format!("expires = \"{end}\""));
    let (far, two) = key("far", "from = [\"192.0.2.0/24\"]");
    let (near, three) = key("near", "from = [\"192.0.2.0/24\", \"127.0.0.0/8\"]");
    let gateway =
        Gateway::new().table(&one).table(&two).table(&three).route("/x", &upstream).auth(&["api_key"]).start();

    with(&gateway, &short).get("/x").send().expect(200);
    with(&gateway, &near).get("/x").send().expect(200);
    with(&gateway, &far).get("/x").send().expect(401);
    with(&gateway, &far).get("/x").header("X-Forwarded-For", "192.0.2.7").send().expect(401);
    gateway.advance(Duration::from_secs(3601));
    with(&gateway, &short).get("/x").send().expect(401);
    with(&gateway, &near).get("/x").send().expect(200);
}

/// R28.
#[test]
fn a_key_is_revoked_by_its_id_its_text_or_its_subject() {
    let upstream = Upstream::start();
    let (one, first) = key("one", "");
    let (two, second) = key("two", "");
    let (three, third) = key("three", "");
    let (other, fourth) = key("other", "");
    let fourth = fourth.replace("\"robot\"", "\"another\"");
    let gateway = Gateway::new().admin().table(&[first, second, third, fourth].concat());
    let gateway = gateway.route("/x", &upstream).auth(&["api_key"]).start();
    let ask = |text| with(&gateway, text).get("/x").send().status;
    let revoke = |entry| gateway.admin().post("/api/v1/revocations", "").json(&entry).send();
    assert_eq!([ask(&one), ask(&two), ask(&three), ask(&other)], [200; 4]);

    // Another's id with a made-up secret is nobody's key.
    let spliced = format!("{}{}", &one.expose()[..21], &KeyText::generate().expose()[21..]);
    revoke(json!({ "kind": "token", "token": spliced })).expect(404);
    revoke(json!({ "kind": "api_key", "id": "aaaaaaaaaaaaaaaa" })).expect(404);
    revoke(json!({ "kind": "api_key" })).expect(400);
    assert_eq!(ask(&one), 200);

    let answer = revoke(json!({ "kind": "api_key", "id": &one.expose()[4..20] })).expect(200).json();
    assert_eq!((&answer["kind"], &answer["until"]), (&json!("api_key"), &json!(null)));
    assert_eq!([ask(&one), ask(&two)], [401, 200]);
    let answer = revoke(json!({ "kind": "token", "token": two.expose() })).expect(200);
    assert!(!answer.text().contains(two.expose()));
    assert_eq!([ask(&two), ask(&three)], [401, 200]);
    let answer = revoke(json!({ "kind": "subject", "subject": "robot" })).expect(200).json();
    assert_eq!(answer["api_keys_revoked"], 3);
    gateway.advance(Duration::from_secs(100 * 24 * 3600));
    assert_eq!([ask(&one), ask(&two), ask(&three), ask(&other)], [401, 401, 401, 200]);
    assert!(!gateway.audit_lines().concat().contains(&two.expose()[21..]));
}

#[test]
fn the_command_makes_a_key_and_the_entry_that_knows_it() {
    let said = Shell::empty()
        .run(&[
            "keys",
            "make",
            "a \"b\"",
            "--subject",
            "robot",
            "--realm",
            "staff",
            "--roles",
            "x,y",
            "--ttl",
            "90d",
            "--from",
            "127.0.0.0/8",
        ])
        .expect(0);
    assert_eq!(said.err.matches("ptc_").count(), 1);
    assert!(!said.out.contains("ptc_"), "a redirected entry takes no secret along: {}", said.out);
    let text = said.err.split_whitespace().find(|word| word.starts_with("ptc_")).expect("a key").to_owned();

    let said = Shell::empty().run(&["keys", "make", "deploy", "--realm", "staff", "--roles", "x"]).expect(0);
    let text = said.err.split_whitespace().find(|word| word.starts_with("ptc_")).map_or(text, str::to_owned);
    let upstream = Upstream::start();
    let gateway = Gateway::new().table(&said.out).route("/x", &upstream).auth(&["api_key"]).require("role:x").start();
    gateway.client().get("/x").bearer(&text).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("deploy"));
}

/// R28, R29: a reload changes a key's rights, its end or its text for what is under way, too.
#[test]
fn a_tunnel_ends_when_a_reload_makes_another_of_its_key() {
    let upstream = cut::upstream();
    let in_an_hour = |gateway: &Running| {
        let then = UNIX_EPOCH + Duration::from_secs(gateway.now().unix_seconds() + 3600);
        humantime::format_rfc3339_seconds(then).to_string()
    };
    let keys = [
        key("demoted", "roles = [\"deployer\"]"),
        key("shortened", "expires = \"2099-01-01T00:00:00Z\""),
        key("noted", "roles = [\"reader\"]"),
    ];
    let tables: String = keys.iter().map(|(_, entry)| entry.as_str()).collect();
    let gateway = Gateway::new().admin().table(&tables).route("/{*rest}", &upstream).auth(&["api_key"]);
    let gateway = gateway.key("upgrade = [\"websocket\"]").start();
    let [mut demoted, mut shortened, mut noted] = keys.each_ref().map(|(text, _)| tunnel(&with(&gateway, text)));

    gateway.edit("roles = [\"deployer\"]", "roles = []");
    gateway.edit("2099-01-01T00:00:00Z", &in_an_hour(&gateway));
    gateway.edit("name = \"noted\"", "name = \"renamed\"");
    gateway.reload().expect(200);

    ends_soon(&mut demoted);
    assert!(echoes(&mut shortened) && echoes(&mut noted));
    gateway.advance(Duration::from_secs(3601));
    ends_soon(&mut shortened);
    assert!(echoes(&mut noted));
}
