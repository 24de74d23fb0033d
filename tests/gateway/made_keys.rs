//! API keys that the admin API makes while the gateway runs: `portcullis keys add | list | revoke`.

use std::{fs, process::Command, time::Duration};

use portcullis::api_key::KeyText;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Client, Connection, Gateway, Issuer, Response, Shell, Upstream, eventually,
    gateway::Running,
    program,
    websocket::{echoes, echoing, ends_soon, tunnel_to},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::new().admin().route("/app/{*rest}", upstream).auth(&["api_key"])
}

/// With `state_dir` in a folder that outlives it.
fn durable(upstream: &Upstream, state: &TempDir) -> Gateway {
    fs::write(state.path().join("key"), format!("{}A=\n", "A".repeat(42))).expect("a key");
    gateway(upstream)
        .server(&format!("state_dir = {:?}", state.path().join("state")))
        .server(&format!("state_key_file = {:?}", state.path().join("key")))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

fn ask(admin: &Client, entry: &Value) -> Response {
    admin.post("/api/v1/keys", "").json(entry).send()
}

/// Its text and its id.
#[track_caller]
fn make(admin: &Client, entry: &Value) -> (String, String) {
    let made = ask(admin, entry).expect(201).json();
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("key"), text("id"))
}

fn of(subject: &str) -> Value {
    json!({ "name": "deploy", "subject": subject })
}

fn visit(client: &Client, text: &str) -> u16 {
    client.get("/app/x").header("X-API-Key", text).send().status
}

fn revoke(admin: &Client, id: &str) -> Response {
    admin.request("DELETE", &format!("/api/v1/keys/{id}")).send()
}

/// The keys of a list, by their ids.
fn list(admin: &Client, query: &str) -> Vec<Value> {
    let listed = admin.get(&format!("/api/v1/keys{query}")).send().expect(200).json();
    listed["keys"].as_array().expect("a list").clone()
}

fn admin_tokens(tokens: &[(&str, &str, &str)]) -> String {
    let token = |(name, allow, lines): &(&str, &str, &str)| {
        let variable = format!("TOKEN_{}", name.to_ascii_uppercase());
        format!("[[admin.token]]\nname = {name:?}\nenv = {variable:?}\nallow = {allow}\n{lines}\n")
    };
    format!("[admin]\nlisten = \"http://127.0.0.1:0\"\n{}", tokens.iter().map(token).collect::<String>())
}

fn with_tokens(gateway: Gateway, tokens: &[(&str, &str, &str)]) -> Gateway {
    tokens.iter().fold(gateway.table(&admin_tokens(tokens)), |gateway, (name, ..)| {
        gateway.environment(&format!("TOKEN_{}", name.to_ascii_uppercase()), &format!("{TOKEN}{name}"))
    })
}

fn admin_as(gateway: &Running, name: &str) -> Client {
    Client::plain(gateway.addresses().admin.expect("it listens"))
        .always("Authorization", &format!("Bearer {TOKEN}{name}"))
}

#[test]
fn a_key_counts_as_soon_as_it_is_made_and_stands_for_what_was_asked() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream).require("role:deployer").start();
    let entry = json!({
        "name": "deploy", "subject": "ci", "roles": ["deployer"], "groups": ["ops"], "scopes": ["a", "b"],
        "note": "build server",
    });

    let made = ask(&gateway.admin(), &entry).expect(201);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    assert_eq!((&made["durable"], &made["realm"], &made["void"]), (&json!(false), &json!("staff"), &json!(null)));
    let text = made["key"].as_str().expect("a text");
    assert!(KeyText::parse(text.as_bytes()).is_some_and(|key| key.is_whole()));

    assert_eq!(visit(&gateway.client(), text), 200);
    let seen = upstream.next_request();
    let expected = [("id", "ci"), ("roles", "deployer"), ("groups", "ops"), ("scopes", "a,b"), ("auth", "api_key")];
    for (name, value) in expected {
        assert_eq!(seen.header(&format!("x-user-{name}")), Some(value), "{name}");
    }
    assert_eq!(seen.header("x-api-key"), None);
    // Its hash alone opens nothing, and neither does its id with another secret.
    let other = KeyText::generate();
    assert_eq!(visit(&gateway.client(), &format!("{}{}", &text[..21], &other.expose()[21..])), 401);
}

#[test]
fn a_key_is_told_once_and_is_nowhere_afterwards() {
    let (upstream, state) = (Upstream::start(), folder());
    let gateway = durable(&upstream, &state).start();
    let (text, id) = make(&gateway.admin(), &of("ci"));
    assert_eq!(visit(&gateway.client(), &text), 200);
    let secret = &text[21..];

    let listed = gateway.admin().get("/api/v1/keys").send().expect(200).text();
    assert!(listed.contains(&id) && !listed.contains(secret) && !listed.contains("sha256"), "{listed}");
    revoke(&gateway.admin(), &id).expect(200);
    let log = gateway.log_lines().concat();
    let audit = gateway.stop_and_read_audit().concat();
    assert!(audit.contains("api_key.made") && audit.contains(&id), "{audit}");
    for (what, text) in [("the log", log.as_bytes()), ("the audit log", audit.as_bytes())] {
        assert!(memchr::memmem::find(text, secret.as_bytes()).is_none(), "{what}");
    }
    let disk = fs::read(state.path().join("state/state.redb")).expect("the database");
    assert!(memchr::memmem::find(&disk, secret.as_bytes()).is_none());
    assert!(memchr::memmem::find(&disk, b"deploy").is_none(), "records are sealed");
}

#[test]
fn what_is_asked_for_is_checked_member_by_member() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream).start();
    let admin = gateway.admin();
    let now = gateway.now().unix_seconds();
    let with = |name: &str, value: Value| {
        let mut entry = of("ci");
        entry[name] = value;
        entry
    };
    make(&admin, &with("expires_at", json!(now + 1)));
    make(&admin, &with("from", json!(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])));
    make(&admin, &with("note", json!("x".repeat(500))));
    for (entry, word) in [
        (json!({ "subject": "ci" }), "`name`"),
        (with("name", json!("")), "`name`"),
        (with("name", json!("a\u{1b}b")), "`name`"),
        (with("name", json!("x".repeat(101))), "`name`"),
        (json!({ "name": "a" }), "`subject`"),
        (with("subject", json!("")), "`subject`"),
        (with("subject", json!("a\nb")), "`subject`"),
        (with("subject", json!("x".repeat(256))), "`subject`"),
        (with("roles", json!("admin")), "of another type"),
        (with("roles", json!([""])), "`roles`"),
        (with("scopes", json!(["x".repeat(4097)])), "4 KiB"),
        (with("expires_at", json!(now)), "in the past"),
        (with("expires_at", json!("tomorrow")), "of another type"),
        (with("from", json!(["everywhere"])), "`from`"),
        (with("from", json!(vec!["10.0.0.1"; 65])), "`from`"),
        (with("note", json!("x".repeat(501))), "`note`"),
        (with("realm", json!("other")), "unknown"),
        (with("id", json!("aaaaaaaaaaaaaaaa")), "unknown"),
        (json!([of("ci")]), "a JSON object"),
    ] {
        let refused = ask(&admin, &entry).expect(400).json();
        assert!(refused["message"].as_str().is_some_and(|text| text.contains(word)), "{entry}: {refused}");
    }
    admin
        .post("/api/v1/keys", "")
        .header("Content-Type", "application/json")
        .body(" ".repeat(20_000))
        .send()
        .expect(413);
    admin.post("/api/v1/keys", "{}").header("Content-Type", "text/plain").send().expect(415);
    admin.request("PUT", "/api/v1/keys").send().expect(405);
    admin.get("/api/v1/keys/aaaaaaaaaaaaaaaa").send().expect(405);
    assert_eq!(list(&admin, "").len(), 3, "what was refused made no key");
}

/// R5: the realm is the admin token's, and so is what a key may hold.
#[test]
fn a_key_holds_no_more_than_its_maker_may_grant() {
    let upstream = Upstream::start();
    let tokens = [
        ("few", "[\"keys.create\"]", "realm = \"staff\"\ngrants = { roles = [\"deployer\"] }"),
        ("scoped", "[\"keys.create\"]", "realm = \"staff\"\ngrants = { scopes = [\"a\"] }"),
        ("full", "[\"keys.create\"]", "realm = \"staff\"\ngrants = \"all\""),
    ];
    let gateway = with_tokens(Gateway::new(), &tokens).route("/app/{*rest}", &upstream).auth(&["api_key"]).start();
    let entry = json!({
        "name": "a", "subject": "ci", "roles": ["deployer", "admin"], "groups": ["ops"], "scopes": ["a", "b"],
    });
    for (name, roles, groups, scopes, dropped) in [
        ("few", json!(["deployer"]), json!([]), json!([]), json!(4)),
        ("scoped", json!([]), json!([]), json!(["a"]), json!(4)),
        ("full", json!(["deployer", "admin"]), json!(["ops"]), json!(["a", "b"]), json!(null)),
    ] {
        let made = ask(&admin_as(&gateway, name), &entry).expect(201).json();
        let held = (&made["roles"], &made["groups"], &made["scopes"], &made["dropped_grants"]);
        assert_eq!(held, (&roles, &groups, &scopes, &dropped), "{name}");
        assert_eq!(visit(&gateway.client(), made["key"].as_str().expect("a text")), 200);
        let seen = upstream.next_request();
        assert_eq!(seen.header("x-user-roles").is_some_and(|roles| roles.contains("admin")), name == "full");
    }
}

#[test]
fn each_scope_opens_its_call_and_a_token_reaches_its_realm_only() {
    let upstream = Upstream::start();
    let tokens = [
        ("maker", "[\"keys.create\"]", "realm = \"staff\"\ngrants = \"all\""),
        ("reader", "[\"keys.read\"]", "realm = \"staff\""),
        ("ender", "[\"keys.revoke\"]", "realm = \"staff\""),
        ("stranger", "[\"keys.read\", \"keys.revoke\", \"sessions.read\", \"revocations\"]", "realm = \"others\""),
        ("root", "[\"keys.read\", \"all\"]", "realm = \"staff\"\ngrants = \"all\""),
    ];
    let gateway = with_tokens(Gateway::new(), &tokens).route("/app/{*rest}", &upstream).auth(&["api_key"]).start();
    let admin = |name: &str| admin_as(&gateway, name);
    let (text, id) = make(&admin("maker"), &of("ci"));

    for name in ["reader", "ender", "stranger"] {
        ask(&admin(name), &of("ci")).expect(403);
    }
    for name in ["maker", "ender"] {
        admin(name).get("/api/v1/keys").send().expect(403);
    }
    for name in ["maker", "reader"] {
        revoke(&admin(name), &id).expect(403);
    }
    assert_eq!(list(&admin("reader"), "").len(), 1);
    assert_eq!(list(&admin("stranger"), "").len(), 0);
    admin("stranger").get("/api/v1/keys?realm=staff").send().expect(403);
    assert_eq!(list(&admin("root"), "?realm=staff").len(), 1);
    revoke(&admin("stranger"), &id).expect(404);
    for entry in [json!({ "kind": "api_key", "id": id }), json!({ "kind": "token", "token": text })] {
        admin("stranger").post("/api/v1/revocations", "").json(&entry).send().expect(404);
    }
    Client::plain(gateway.addresses().admin.expect("it listens")).get("/api/v1/keys").send().expect(401);
    assert_eq!(visit(&gateway.client(), &text), 200);
    revoke(&admin("ender"), &id).expect(200);
    assert_eq!(visit(&gateway.client(), &text), 401);
    revoke(&admin("ender"), &id).expect(404);
}

#[test]
fn a_list_has_pages_and_misunderstands_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream).start();
    let admin = gateway.admin();
    let mut ids: Vec<String> = ["a", "a", "b", "c", "c"].iter().map(|subject| make(&admin, &of(subject)).1).collect();
    ids.sort();

    let first = admin.get("/api/v1/keys?limit=3").send().expect(200).json();
    let next = first["next"].as_str().expect("more").to_owned();
    let second = admin.get(&format!("/api/v1/keys?limit=3&after={next}")).send().expect(200).json();
    let of_page = |page: &Value| page["keys"].as_array().expect("a list").iter().map(id_of).collect::<Vec<_>>();
    assert_eq!([of_page(&first), of_page(&second)].concat(), ids);
    assert_eq!(second["next"], json!(null));
    assert_eq!(list(&admin, "?subject=a").len(), 2);
    for query in ["?subject=a&subject=b", "?subjekt=a", "?limit=0", "?limit=x", "?after=x", "?subject=%ff"] {
        admin.get(&format!("/api/v1/keys{query}")).send().expect(400);
    }
}

fn id_of(key: &Value) -> String {
    key["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_key_that_was_made_ends_and_counts_from_its_networks() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream).start();
    let (admin, client) = (gateway.admin(), gateway.client());
    let in_an_hour = gateway.now().unix_seconds() + 3600;
    let (short, _) = make(&admin, &json!({ "name": "a", "subject": "ci", "expires_at": in_an_hour }));
    let (near, _) = make(&admin, &json!({ "name": "a", "subject": "ci", "from": ["192.0.2.1", "127.0.0.0/8"] }));
    let (far, _) = make(&admin, &json!({ "name": "a", "subject": "ci", "from": ["192.0.2.1"] }));
    assert_eq!([visit(&client, &short), visit(&client, &near), visit(&client, &far)], [200, 200, 401]);

    gateway.advance(Duration::from_secs(3600));

    assert_eq!([visit(&client, &short), visit(&client, &near)], [401, 200]);
    let void: Vec<Value> = list(&admin, "").iter().map(|key| key["void"].clone()).collect();
    assert_eq!(void.iter().filter(|void| **void == "expired").count(), 1);
}

#[test]
fn keys_are_bounded_in_number_and_expired_ones_make_room() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream).table("[limits]\nmax_api_keys = 2").start();
    let admin = gateway.admin();
    let soon = gateway.now().unix_seconds() + 60;
    make(&admin, &json!({ "name": "a", "subject": "ci", "expires_at": soon }));
    let (text, id) = make(&admin, &of("ci"));
    assert_eq!(gateway.metric("portcullis_api_keys", &[]), 2.0);

    let refused = ask(&admin, &of("ci")).expect(503);
    assert_eq!((refused.json()["error"].as_str(), refused.header("retry-after")), (Some("keys_full"), Some("60")));
    gateway.advance(Duration::from_secs(61));
    make(&admin, &of("ci"));
    ask(&admin, &of("ci")).expect(503);
    assert_eq!(visit(&gateway.client(), &text), 200);
    revoke(&admin, &id).expect(200);
    make(&admin, &of("ci"));
}

/// R28: sessions, JWTs and API keys together.
#[test]
fn to_log_somebody_out_everywhere_ends_sessions_tokens_and_keys_of_both_kinds() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let text = KeyText::generate();
    let fixed = KeyText::parse(text.expose().as_bytes()).expect("a key");
    let sha256: String = fixed.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    let fixed = format!(
        "[[api_key]]\nname = \"f\"\nid = \"{}\"\nsha256 = {sha256:?}\nsubject = \"ci\"\nrealm = \"staff\"\n",
        fixed.id()
    );
    let gateway = Gateway::new().admin().issuer(&issuer).table(&fixed).route("/app/{*rest}", &upstream);
    let gateway = gateway.auth(&["api_key", "jwt", "session"]).start();
    let (admin, client) = (gateway.admin(), gateway.client());
    let token = issuer.sign(&Issuer::claims("ci", &[], gateway.now()));
    let session = gateway.open_session(&json!({ "subject": "ci" }));
    let (made, _) = make(&admin, &of("ci"));
    let (other, _) = make(&admin, &of("other"));
    let ask = || {
        let bearer = |text: &str| client.get("/app/x").bearer(text).send().status;
        [bearer(&made), bearer(text.expose()), bearer(&token), session.get("/app/x").send().status, bearer(&other)]
    };
    assert_eq!(ask(), [200; 5]);

    let answer = admin.post("/api/v1/revocations", "").json(&json!({ "kind": "subject", "subject": "ci" })).send();
    let answer = answer.expect(200).json();

    assert_eq!((&answer["api_keys_revoked"], &answer["sessions_ended"]), (&json!(2), &json!(1)));
    assert_eq!(ask(), [401, 401, 401, 401, 200]);
    // What is made afterwards counts.
    let (later, _) = make(&admin, &of("ci"));
    assert_eq!(visit(&client, &later), 200);
}

#[test]
fn a_key_that_was_made_is_revoked_by_its_id_or_its_text() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream).start();
    let (admin, client) = (gateway.admin(), gateway.client());
    let strike = |entry: Value| admin.post("/api/v1/revocations", "").json(&entry).send();
    let ((one, id), (two, _), (three, last)) =
        (make(&admin, &of("ci")), make(&admin, &of("ci")), make(&admin, &of("ci")));

    strike(json!({ "kind": "api_key", "id": id })).expect(200);
    let spliced = format!("{}{}", &two[..21], &KeyText::generate().expose()[21..]);
    strike(json!({ "kind": "token", "token": spliced })).expect(404);
    assert_eq!([visit(&client, &one), visit(&client, &two), visit(&client, &three)], [401, 200, 200]);
    strike(json!({ "kind": "token", "token": two })).expect(200);
    assert_eq!([visit(&client, &two), visit(&client, &three)], [401, 200]);
    assert_eq!(list(&admin, "").len(), 1, "a revoked key is listed no more");
    revoke(&admin, &last).expect(200);
    assert_eq!(visit(&client, &three), 401);
}

fn opened(client: &Client, text: &str) -> Connection {
    tunnel_to(&client.always("X-API-Key", text), "/app/ws")
}

/// R28.
#[test]
fn a_tunnel_ends_with_the_key_that_opened_it() {
    let upstream = echoing();
    let gateway = gateway(&upstream).key("upgrade = [\"websocket\"]").start();
    let (admin, client) = (gateway.admin(), gateway.client());
    let in_an_hour = gateway.now().unix_seconds() + 3600;
    let keys: Vec<_> = ["a", "b", "c", "d"].iter().map(|subject| make(&admin, &of(subject))).collect();
    let (short, _) = make(&admin, &json!({ "name": "a", "subject": "e", "expires_at": in_an_hour }));
    let mut open: Vec<_> = keys.iter().map(|(text, _)| opened(&client, text)).collect();
    let mut ending = opened(&client, &short);

    revoke(&admin, &keys[0].1).expect(200);
    assert_eq!(ends_soon(&mut open[0]), b"");
    let strike = |entry: Value| admin.post("/api/v1/revocations", "").json(&entry).send().expect(200);
    strike(json!({ "kind": "token", "token": keys[1].0 }));
    assert_eq!(ends_soon(&mut open[1]), b"");
    strike(json!({ "kind": "subject", "subject": "c" }));
    assert_eq!(ends_soon(&mut open[2]), b"");
    gateway.advance(Duration::from_secs(3600));
    assert_eq!(ends_soon(&mut ending), b"");
    assert!(echoes(&mut open[3]));
}

/// R29: where the maker is gone or may grant less, its keys count no more, and their tunnels are cut.
#[test]
fn keys_follow_the_admin_token_that_made_them() {
    let upstream = echoing();
    let tokens = [
        (
            "one",
            "[\"keys.create\", \"keys.read\", \"reload\"]",
            "realm = \"staff\"\ngrants = { roles = [\"a\", \"b\"] }",
        ),
        ("two", "[\"keys.create\"]", "realm = \"staff\"\ngrants = \"all\""),
    ];
    let gateway = with_tokens(Gateway::new(), &tokens).route("/app/{*rest}", &upstream);
    let gateway = gateway.auth(&["api_key"]).key("upgrade = [\"websocket\"]").start();
    let (one, two) = (admin_as(&gateway, "one"), admin_as(&gateway, "two"));
    let with = |role: &str| json!({ "name": "k", "subject": "ci", "roles": [role] });
    let (a, _) = make(&one, &with("a"));
    let (b, id_of_b) = make(&one, &with("b"));
    let (c, _) = make(&two, &with("c"));
    let client = gateway.client();
    let mut tunnels = [opened(&client, &a), opened(&client, &b), opened(&client, &c)];
    let reload = || one.post("/api/v1/reload", "").send().expect(200);
    let counts = |text: &str| visit(&client, text) != 401;

    gateway.edit("roles = [\"a\", \"b\"]", "roles = [\"a\"]");
    reload();
    assert_eq!([counts(&a), counts(&b), counts(&c)], [true, false, true]);
    assert_eq!(ends_soon(&mut tunnels[1]), b"");
    let void = list(&one, "").iter().filter(|key| key["void"] == "maker").map(id_of).collect::<Vec<_>>();
    assert_eq!(void, [id_of_b]);

    gateway.edit("roles = [\"a\"]", "roles = [\"a\", \"b\"]");
    gateway.edit("name = \"two\"", "name = \"three\"");
    reload();
    assert_eq!([counts(&a), counts(&b), counts(&c)], [true, true, false]);
    assert_eq!(ends_soon(&mut tunnels[2]), b"");
    assert!(echoes(&mut tunnels[0]));
}

/// R5: keys of another realm than a route's other sources would meet them there.
#[test]
fn who_makes_keys_is_a_source_of_identities() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let with = |tokens: &[(&str, &str, &str)]| {
        let gateway = with_tokens(Gateway::new(), tokens).issuer(&issuer).route("/app/{*rest}", &upstream);
        gateway.auth(&["api_key", "jwt"]).try_start().map(drop)
    };
    with(&[("one", "[\"keys.create\"]", "realm = \"staff\"\ngrants = \"all\"")]).expect("one realm");
    for (tokens, word) in [
        ([("one", "[\"keys.create\"]", "realm = \"others\"\ngrants = \"all\"")], "realm"),
        ([("one", "[\"keys.create\"]", "realm = \"staff\"")], "no `grants` of `one`"),
        ([("one", "[\"keys.read\"]", "realm = \"staff\"\ngrants = \"all\"")], "no key"),
    ] {
        let report = with(&tokens).expect_err("it is refused");
        assert!(report.contains(word), "{report}");
    }
}

/// R32: a page of another origin may use a key where the route says so; the preflight needs none.
#[test]
fn a_page_of_another_origin_may_send_a_key_where_the_route_says_so() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream)
        .key("cors = { origins = [\"https://spa.example.com\"], headers = [\"x-api-key\"], methods = [\"GET\"] }")
        .start();
    let (text, _) = make(&gateway.admin(), &of("ci"));
    let client = gateway.client().always("Origin", "https://spa.example.com");

    let preflight = client
        .request("OPTIONS", "/app/x")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "x-api-key");
    let answer = preflight.send().expect(204);
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-api-key"));
    upstream.expect_only(0);
    for (text, status) in [(&*text, 200), ("nonsense", 401)] {
        let answer = client.get("/app/x").header("X-API-Key", text).send().expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://spa.example.com"));
    }
}

/// R27, with the real program and `kill -9`.
#[test]
fn keys_and_their_ends_survive_a_crash() {
    let (upstream, state) = (Upstream::start(), folder());
    let mut gateway = durable(&upstream, &state).start_process();
    let (kept, id) = make(&gateway.admin(), &json!({ "name": "k", "subject": "ci", "roles": ["a"], "note": "n" }));
    let (revoked, gone) = make(&gateway.admin(), &of("ci"));
    let (far, _) = make(&gateway.admin(), &json!({ "name": "k", "subject": "ci", "from": ["192.0.2.1"] }));
    let (struck, _) = make(&gateway.admin(), &of("other"));
    revoke(&gateway.admin(), &gone).expect(200);
    let entry = json!({ "kind": "subject", "subject": "other" });
    gateway.admin().post("/api/v1/revocations", "").json(&entry).send().expect(200);

    gateway.kill();
    gateway.start_again();

    let client = gateway.client();
    let visits = [visit(&client, &kept), visit(&client, &revoked), visit(&client, &far), visit(&client, &struck)];
    assert_eq!(visits, [200, 401, 401, 401]);
    assert_eq!(upstream.next_request().header("x-user-roles"), Some("a"));
    let listed = list(&gateway.admin(), "");
    let key = listed.iter().find(|key| key["id"] == id.as_str()).expect("it is listed");
    assert_eq!((listed.len(), &key["note"], &key["made_by"]), (2, &json!("n"), &json!("test")));
    revoke(&gateway.admin(), &id).expect(200);
    gateway.kill();
    gateway.start_again();
    assert_eq!(visit(&gateway.client(), &kept), 401);
}

/// R19, R27: a disk that takes no more makes no key, and a key that it cannot forget does not count all the same.
#[test]
fn a_full_disk_makes_no_key_and_keeps_none_alive() {
    let Some(_) = program::found("prlimit") else { return };
    let (upstream, state) = (Upstream::start(), folder());
    let gateway = durable(&upstream, &state).start_process();
    let limit = |bytes: &str| {
        let limit = format!("--fsize={bytes}:");
        let limited = Command::new("prlimit").args(["--pid", &gateway.id().to_string(), &limit]).status();
        assert!(limited.is_ok_and(|status| status.success()), "the limit is set");
    };
    let (text, id) = make(&gateway.admin(), &of("ci"));
    limit("0");

    assert_eq!(ask(&gateway.admin(), &of("ci")).expect(503).json()["error"], "not_written");
    assert_eq!(visit(&gateway.client(), &text), 200);
    assert_eq!(revoke(&gateway.admin(), &id).expect(503).json()["error"], "state_unavailable");
    assert_eq!(visit(&gateway.client(), &text), 401);
    assert_eq!(
        list(&gateway.admin(), "").iter().map(|key| key["void"].clone()).collect::<Vec<_>>(),
        [json!("revoked")]
    );
    limit("unlimited");
    eventually("it can be tried again", || revoke(&gateway.admin(), &id).status == 200);
    assert_eq!(list(&gateway.admin(), "").len(), 0);
}

#[test]
fn the_last_use_is_told_and_outlives_reload_and_restart() {
    let (upstream, state) = (Upstream::start(), folder());
    let text = KeyText::generate();
    let parsed = KeyText::parse(text.expose().as_bytes()).expect("a key");
    let sha256: String = parsed.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    let fixed = format!(
        "[[api_key]]\nname = \"f\"\nid = \"{}\"\nsha256 = {sha256:?}\nsubject = \"ci\"\nrealm = \"staff\"\n",
        parsed.id()
    );
    let start = || durable(&upstream, &state).table(&fixed);
    let gateway = start().start();
    let clock = gateway.now();
    let (made, _) = make(&gateway.admin(), &of("ci"));
    let uses = |gateway: &Running| {
        let mut uses: Vec<_> = list(&gateway.admin(), "").iter().map(|key| key["last_used_at"].clone()).collect();
        uses.sort_by_key(Value::to_string);
        uses
    };
    assert_eq!(uses(&gateway), [json!(null), json!(null)]);
    gateway.advance(Duration::from_secs(60));
    assert_eq!([visit(&gateway.client(), &made), visit(&gateway.client(), text.expose())], [200, 200]);
    let mistyped = format!("{}{}", &made[..79], if made.ends_with('a') { 'b' } else { 'a' });
    assert_eq!(visit(&gateway.client(), &mistyped), 401);
    let used = clock.plus(Duration::from_secs(60)).to_system_time();
    let used = json!(humantime::format_rfc3339_seconds(used).to_string());
    assert_eq!(uses(&gateway), [used.clone(), used.clone()]);

    gateway.reload().expect(200);
    assert_eq!(uses(&gateway), [used.clone(), used.clone()]);
    gateway.stop();
    let gateway = start().at(clock.plus(Duration::from_secs(120))).start();
    assert_eq!(uses(&gateway), [used.clone(), used]);
}

#[test]
fn the_commands_make_list_and_revoke() {
    let (upstream, state) = (Upstream::start(), folder());
    let gateway = durable(&upstream, &state).require("role:deployer").start();
    let url = format!("http://{}", gateway.addresses().admin.expect("it listens"));
    let file = gateway.folder().join("admin.token");
    let file = file.to_str().expect("a path");
    let run = |words: &[&str]| Shell::empty().run(&[words, &["--admin", &url, "--token-file", file]].concat());

    let said = run(&[
        "keys",
        "add",
        "deploy",
        "--subject",
        "ci",
        "--roles",
        "deployer,x",
        "--ttl",
        "90d",
        "--from",
        "127.0.0.0/8",
        "--note",
        "build server",
    ])
    .expect(0);
    let text = said.out.trim();
    assert!(KeyText::parse(text.as_bytes()).is_some(), "the key alone: {}", said.out);
    assert!(!said.err.contains(text), "{}", said.err);
    assert_eq!(visit(&gateway.client(), text), 200);

    let id = &text[4..20];
    let said = run(&["keys", "list"]).expect(0);
    assert!(said.out.contains(id) && said.out.contains("deploy") && !said.out.contains(text), "{}", said.out);
    let said = run(&["keys", "list", "--json", "--subject", "ci"]).expect(0);
    let listed: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&listed["note"], &listed["from"]), (&json!("build server"), &json!(["127.0.0.0/8"])));
    assert_eq!(run(&["keys", "list", "--json", "--subject", "nobody"]).expect(0).out, "");
    run(&["keys", "revoke", "../sessions"]).expect(1);
    run(&["keys", "revoke", "aaaaaaaaaaaaaaaa"]).expect(1);
    assert_eq!(visit(&gateway.client(), text), 200);
    run(&["keys", "revoke", id]).expect(0);
    assert_eq!(visit(&gateway.client(), text), 401);
}
