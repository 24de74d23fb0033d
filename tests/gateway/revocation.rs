//! R28: what is revoked is void with the next request, whatever form it comes in and whatever the clock does.

use std::{fmt::Write, time::Duration};

use portcullis::clock::{Clock, Timestamp};
use serde_json::{Value, json};

use crate::support::{
    Client, Gateway, Issuer, Response, Shell, Upstream, eventually,
    gateway::Running,
    websocket::{echoes, echoing, ends_soon, handshake, tunnel},
};

const REVOCATIONS: &str = "/api/v1/revocations";

fn gateway(issuer: &Issuer, upstream: &Upstream) -> Running {
    Gateway::new().admin().issuer(issuer).route("/app/{*rest}", upstream).start()
}

fn revoke(gateway: &Running, entry: &Value) -> Response {
    gateway.admin().post(REVOCATIONS, "").json(entry).send()
}

fn ask(gateway: &Running, token: &str) -> u16 {
    gateway.client().get("/app/x").bearer(token).send().status
}

fn with(mut claims: Value, more: Value) -> Value {
    let members = claims.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// R28. Each way to revoke, on a token that is known and on one that is not, with the log's word for it.
#[test]
fn each_way_to_revoke_voids_a_token_with_the_next_request() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let claims =
        |subject: &str| with(Issuer::claims(subject, &[], gateway.now()), json!({ "jti": format!("id-{subject}") }));
    for (subject, entry) in [
        ("a", json!({ "kind": "jti", "issuer": "test", "jti": "id-a" })),
        ("b", json!({ "kind": "jti", "issuer": Issuer::ISSUER, "jti": "id-b" })),
        ("c", json!({ "kind": "subject", "subject": "c" })),
        ("d", json!({ "kind": "subject", "realm": "staff", "subject": "d" })),
        ("e", json!({ "kind": "token" })),
        ("f", json!({ "kind": "issuer", "issuer": "test" })),
    ] {
        let (known, fresh) = (issuer.sign(&claims(subject)), issuer.sign(&claims(subject)));
        let other = issuer.sign(&claims("somebody else"));
        assert_eq!((ask(&gateway, &known), ask(&gateway, &other)), (200, 200), "{subject}");
        let entry = if subject == "e" { with(entry, json!({ "token": known })) } else { entry };

        let answer = revoke(&gateway, &entry).expect(200).json();

        assert_eq!((&answer["kind"], &answer["durable"]), (&entry["kind"], &json!(false)), "{answer}");
        assert_eq!(ask(&gateway, &known), 401, "{entry}");
        assert_eq!(ask(&gateway, &known), 401, "{entry}");
        assert_eq!(ask(&gateway, &Issuer::twin(&known)), 401, "{entry}");
        assert_eq!(ask(&gateway, &fresh), 401, "ES256 signs anew each time: {entry}");
        assert_eq!(ask(&gateway, &other), if subject == "f" { 401 } else { 200 }, "{entry}");
    }
    eventually("the log says why", || gateway.log_lines().iter().any(|line| line.contains("revoked")));
}

/// R28. The twin is good until then, or the test above proves nothing.
#[test]
fn a_signature_has_a_twin_and_both_are_revoked() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let twin = Issuer::twin(&token);
    assert_ne!(token, twin);
    assert_eq!((ask(&gateway, &token), ask(&gateway, &twin)), (200, 200));

    revoke(&gateway, &json!({ "kind": "token", "token": twin })).expect(200);

    assert_eq!((ask(&gateway, &token), ask(&gateway, &twin)), (401, 401));
}

/// R28.
#[test]
fn a_moment_voids_what_was_issued_before_it_and_what_does_not_say_when() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let now = gateway.now();
    let token = |more| issuer.sign(&with(Issuer::claims("alice", &[], now), more));
    let (same_second, undated) = (token(json!({})), token(json!({ "iat": null })));
    assert_eq!((ask(&gateway, &same_second), ask(&gateway, &undated)), (200, 200));

    let answer = revoke(&gateway, &json!({ "kind": "subject", "subject": "alice" })).expect(200).json();

    assert!(answer["issued_until"].as_str().expect("a time") < answer["until"].as_str().expect("a time"));
    assert_eq!((ask(&gateway, &same_second), ask(&gateway, &undated)), (401, 401));
    // The issuer's clock may be ahead by as much as the leeway.
    gateway.advance(Duration::from_secs(31));
    let later = |seconds: u64| token(json!({ "iat": now.unix_seconds() + seconds }));
    assert_eq!(ask(&gateway, &later(29)), 401);
    assert_eq!(ask(&gateway, &later(32)), 200, "a new login is good");
}

/// The entries that strike a token of this subject, each by itself; the one that strikes everybody comes last.
fn ways(subject: &str, token: &str) -> [Value; 4] {
    [
        json!({ "kind": "jti", "issuer": "test", "jti": format!("id-{subject}") }),
        json!({ "kind": "token", "token": token }),
        json!({ "kind": "subject", "realm": "staff", "subject": subject }),
        json!({ "kind": "issuer", "issuer": "test" }),
    ]
}

/// R28. Each way to revoke × each form of a token and whatever is under way, before and after the clock steps back.
#[test]
fn each_way_to_revoke_holds_for_every_form_of_a_token() {
    let upstream = echoing();
    let issuer = Issuer::es256();
    for (way, kind) in ["jti", "token", "subject", "issuer"].into_iter().enumerate() {
        for (form, more) in [("same second", json!({})), ("no iat", json!({ "iat": null }))] {
            let gateway = Gateway::new().admin().issuer(&issuer).route("/{*rest}", &upstream);
            let gateway = gateway.key("upgrade = [\"websocket\"]").start();
            let exp = gateway.now().unix_seconds() + 7200;
            let token = |subject: &str| {
                let own = json!({ "jti": format!("id-{subject}"), "exp": exp });
                issuer.sign(&with(with(Issuer::claims(subject, &[], gateway.now()), own), more.clone()))
            };
            let (struck, other) = (token("alice"), token("bob"));
            let status = |token: &str| gateway.client().get("/x").bearer(token).send().status;
            let open = |token: &str| tunnel(&gateway.client().always("Authorization", &format!("Bearer {token}")));
            let (mut tunnels, twin) = ([open(&struck), open(&other)], Issuer::twin(&struck));
            assert_eq!([&*struck, &twin, &other].map(status), [200; 3], "{kind}, {form}: known to the cache");

            revoke(&gateway, &ways("alice", &struck)[way]).expect(200);

            let others = if kind == "issuer" { 401 } else { 200 };
            assert_eq!([&*struck, &twin, &other].map(status), [401, 401, others], "{kind}, {form}");
            ends_soon(&mut tunnels[0]);
            assert!(kind == "issuer" || echoes(&mut tunnels[1]), "{kind}, {form}");
            gateway.clock().set(gateway.now().minus(Duration::from_secs(3600)));
            assert_eq!([&*struck, &twin].map(status), [401, 401], "{kind}, {form}: an hour back");
        }
    }
}

/// R27, R28. What was answered is on disk: each way to revoke × each form of a token, used for a request and for a
/// WebSocket, after `kill -9`, and after the machine's clock was set back as well.
#[test]
fn each_way_to_revoke_holds_after_a_kill() {
    let upstream = echoing();
    let issuer = Issuer::es256();
    for (way, kind) in ["jti", "token", "subject", "issuer"].into_iter().enumerate() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let configured = || {
            let state = format!("state_dir = {:?}", folder.path().join("state"));
            let gateway = Gateway::new().admin().issuer(&issuer).server(&state).route("/{*rest}", &upstream);
            gateway.key("upgrade = [\"websocket\"]")
        };
        let mut gateway = configured().start_process();
        let now = Clock::system().now();
        let token = |subject: &str, more: Value| {
            let own = json!({ "jti": format!("id-{subject}"), "exp": now.unix_seconds() + 7200 });
            issuer.sign(&with(with(Issuer::claims(subject, &[], now), own), more))
        };
        let (struck, undated) = (token("alice", json!({})), token("carol", json!({ "iat": null })));
        let (other, undated_other) = (token("bob", json!({})), token("dave", json!({ "iat": null })));
        let all = [&*struck, &Issuer::twin(&struck), &undated, &Issuer::twin(&undated), &other, &undated_other];
        assert_eq!(all.map(|token| uses(&gateway.client(), token)), [(200, 101); 6], "{kind}: known to the cache");
        let open = |token: &str| tunnel(&gateway.client().always("Authorization", &format!("Bearer {token}")));
        let mut tunnels = all.map(open);
        for entry in [&ways("alice", &struck)[way], &ways("carol", &undated)[way]] {
            gateway.admin().post(REVOCATIONS, "").json(entry).send().expect(200);
        }

        gateway.kill();

        for tunnel in &mut tunnels {
            ends_soon(tunnel);
        }
        gateway.start_again();
        let (void, others) = ((401, 401), if kind == "issuer" { (401, 401) } else { (200, 101) });
        let expected = [void, void, void, void, others, others];
        assert_eq!(all.map(|token| uses(&gateway.client(), token)), expected, "{kind}: a token that is not known");
        assert_eq!(all.map(|token| uses(&gateway.client(), token)), expected, "{kind}: the second time");
        gateway.kill();
        // The clock of the machine was set back while it was down: ours goes on from where it was (R27).
        let hour_ago = now.minus(Duration::from_secs(3600));
        let gateway = configured().at(hour_ago).start();
        assert_eq!(all.map(|token| uses(&gateway.client(), token)), expected, "{kind}: started an hour ago");
        // And again while it runs: what was issued in an hour is nobody's yet.
        gateway.clock().set(hour_ago);
        let [.., other, undated_other] = all.map(|token| uses(&gateway.client(), token));
        assert_eq!([other, undated_other], [others; 2], "{kind}: known before the step");
        assert_eq!(
            all[..4].iter().map(|token| uses(&gateway.client(), token)).collect::<Vec<_>>(),
            [void; 4],
            "{kind}"
        );
    }
}

/// What a token gets for a request and for the handshake of a WebSocket.
fn uses(client: &Client, token: &str) -> (u16, u16) {
    let handshake = handshake(client.get("/ws").header("Sec-Fetch-Site", "same-origin").bearer(token));
    (client.get("/x").bearer(token).send().status, client.connect().send(&handshake).status)
}

/// R28.
#[test]
fn a_clock_that_steps_back_frees_nothing() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let now = gateway.now();
    let tokens = ["alice", "bob"].map(|subject| {
        let claims = with(Issuer::claims(subject, &[], now), json!({ "exp": now.unix_seconds() + 7200 }));
        issuer.sign(&claims)
    });
    let session = gateway.open_session(&json!({ "subject": "bob" }));
    assert_eq!(tokens.each_ref().map(|token| ask(&gateway, token)), [200, 200]);
    revoke(&gateway, &json!({ "kind": "subject", "subject": "alice" })).expect(200);

    gateway.clock().set(now.minus(Duration::from_secs(3600)));

    assert_eq!(tokens.each_ref().map(|token| ask(&gateway, token)), [401, 200]);
    // Issued, by the clock as it is now, an hour from now.
    revoke(&gateway, &json!({ "kind": "subject", "subject": "bob" })).expect(200);
    session.get("/app/x").send().expect(401);
    for seconds in [0, 3600, 60] {
        gateway.advance(Duration::from_secs(seconds));
        assert_eq!(tokens.each_ref().map(|token| ask(&gateway, token)), [401, 401], "{seconds} later");
    }
}

/// R28: log out everywhere.
#[test]
fn a_revoked_subject_is_logged_out_everywhere_and_can_come_back() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let open = || gateway.open_session(&json!({ "subject": "alice" }));
    let (one, two) = (open(), open());
    let other = gateway.open_session(&json!({ "subject": "bob" }));
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    assert_eq!(ask(&gateway, &token), 200);

    let answer = revoke(&gateway, &json!({ "kind": "subject", "subject": "alice" })).expect(200).json();

    assert_eq!(answer["sessions_ended"], 2);
    for client in [one, two] {
        client.get("/app/x").send().expect(401);
    }
    assert_eq!(ask(&gateway, &token), 401);
    other.get("/app/x").send().expect(200);
    open().get("/app/x").send().expect(200);
}

#[test]
fn the_session_of_a_pasted_cookie_ends() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/app/{*rest}", &upstream).start();
    let answer = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": "alice" })).send().expect(201);
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    let client = gateway.client().always("Cookie", &format!("__Host-portcullis={token}"));
    client.get("/app/x").send().expect(200);

    let ended = revoke(&gateway, &json!({ "kind": "token", "token": token })).expect(200);

    assert_eq!((&ended.json()["kind"], &ended.json()["subject"]), (&json!("session"), &json!("alice")));
    client.get("/app/x").send().expect(401);
    revoke(&gateway, &json!({ "kind": "token", "token": token })).expect(404);
    assert!(!ended.text().contains(&token));
    assert!(!gateway.audit_lines().concat().contains(&token), "what is pasted is in no log");
}

/// A revoked token is no anonymous caller, and no reason to look at the cookie (R2, R4).
#[test]
fn a_revoked_token_falls_through_to_nothing() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().admin().issuer(&issuer);
    let gateway = gateway.route("/app/{*rest}", &upstream).key("optional = true").start();
    let session = gateway.open_session(&json!({ "subject": "bob" }));
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    revoke(&gateway, &json!({ "kind": "subject", "subject": "alice" })).expect(200);

    assert_eq!(ask(&gateway, &token), 401);
    session.get("/app/x").bearer(&token).send().expect(401);
    upstream.expect_only(0);
}

/// R5.
#[test]
fn a_token_of_one_realm_revokes_nothing_of_another() {
    let upstream = Upstream::start();
    let (issuer, partner) = (Issuer::es256(), Issuer::es256());
    let tokens = "[admin]\nlisten = \"http://127.0.0.1:0\"\n\
        [[admin.token]]\nname = \"desk\"\nenv = \"DESK\"\nallow = [\"revocations\"]\nrealm = \"partners\"\n\
        [[admin.token]]\nname = \"reader\"\nenv = \"READER\"\nallow = [\"sessions.read\", \"sessions.revoke\"]\nrealm = \"staff\"\n";
    let gateway = Gateway::new().table(tokens).issuer(&issuer);
    let gateway = gateway.issuer_with(&partner, "realm = \"partners\"\nissuer = \"https://partner.test\"");
    let gateway =
        gateway.environment("DESK", "desk-token-desk-token").environment("READER", "reader-token-reader-token");
    let gateway = gateway.route("/app/{*rest}", &upstream).auth(&["jwt:test"]).start();
    let token = issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), json!({ "jti": "7" })));
    let admin = |name: &str| {
        let client = Client::plain(gateway.addresses().admin.expect("admin"));
        client.always("Authorization", &format!("Bearer {name}-token-{name}-token"))
    };
    let entries = [
        json!({ "kind": "subject", "realm": "staff", "subject": "alice" }),
        json!({ "kind": "token", "token": token }),
        json!({ "kind": "jti", "issuer": "test", "jti": "7" }),
        json!({ "kind": "issuer", "issuer": Issuer::ISSUER }),
    ];
    for entry in &entries {
        let answer = admin("desk").post(REVOCATIONS, "").json(entry).send().expect(403);
        assert_eq!(answer.json()["error"], "foreign_realm", "{entry}");
        let answer = admin("reader").post(REVOCATIONS, "").json(entry).send().expect(403);
        assert_eq!(answer.json()["error"], "insufficient_scope", "{entry}");
    }
    // Left out, the realm is the token's own.
    admin("desk").post(REVOCATIONS, "").json(&json!({ "kind": "subject", "subject": "alice" })).send().expect(200);
    admin("desk").post(REVOCATIONS, "").json(&json!({ "kind": "issuer", "issuer": "test2" })).send().expect(200);
    assert_eq!(ask(&gateway, &token), 200);
}

#[test]
fn an_entry_that_is_not_understood_revokes_nothing_and_repeats_nothing() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let padded = format!("{token}=");
    for (entry, status, error) in [
        (json!({ "subject": "alice" }), 400, "bad_entry"),
        (json!({ "kind": "everything" }), 400, "bad_entry"),
        (json!({ "kind": "subject" }), 400, "bad_entry"),
        (json!({ "kind": "subject", "subject": "" }), 400, "bad_entry"),
        (json!({ "kind": "subject", "subject": "alice", "jti": "7" }), 400, "bad_entry"),
        (json!({ "kind": "issuer", "issuer": "test", "jti": "7" }), 400, "bad_entry"),
        (json!({ "kind": "issuer", "issuer": "nobody" }), 404, "no_issuer"),
        (json!({ "kind": "jti", "issuer": "test" }), 400, "bad_entry"),
        (json!({ "kind": "jti", "issuer": "test", "jti": 7 }), 400, "bad_entry"),
        (json!({ "kind": "jti", "issuer": "test", "jti": "" }), 400, "bad_entry"),
        (json!({ "kind": "token", "token": padded }), 400, "bad_entry"),
        (json!({ "kind": "token", "token": token, "sub": "alice" }), 400, "bad_entry"),
        (json!({ "kind": "token", "tokem": token }), 400, "bad_entry"),
        (json!({ "kind": token }), 400, "bad_entry"),
        (json!([token]), 400, "bad_entry"),
    ] {
        let answer = revoke(&gateway, &entry);
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(error)), "{entry}");
        assert!(!answer.text().contains(&token[..20]), "{}", answer.text());
    }
    gateway.admin().get(&format!("{REVOCATIONS}?token={token}")).send();
    gateway.admin().request("DELETE", REVOCATIONS).send().expect(405);
    assert_eq!(gateway.admin().get(REVOCATIONS).send().expect(200).json()["entries"], 0);
    assert_eq!(ask(&gateway, &token), 200);
    assert!(!gateway.audit_lines().concat().contains(&token[..20]));
}

#[test]
fn many_are_revoked_in_one_call_each_with_its_own_answer() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let token = |jti: &str| issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), json!({ "jti": jti })));
    let tokens = [token("j0"), token("j999"), token("j1000")];
    assert_eq!(tokens.each_ref().map(|token| ask(&gateway, token)), [200; 3]);
    let mut lines = String::new();
    for number in 0..1000 {
        writeln!(lines, "{}", json!({ "kind": "jti", "issuer": "test", "jti": format!("j{number}") })).unwrap();
    }
    lines.insert_str(0, "\n{\"kind\":\"jti\"}\n");

    let request = gateway.admin().post(REVOCATIONS, &*lines).header("Content-Type", "application/x-ndjson");
    let text = request.send().expect(200).text();

    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), 1001);
    assert_eq!((&answers[0]["line"], &answers[0]["error"]), (&json!(2), &json!("bad_entry")));
    assert_eq!((&answers[1000]["line"], &answers[1000]["jti"]), (&json!(1002), &json!("j999")));
    assert_eq!(tokens.each_ref().map(|token| ask(&gateway, token)), [401, 401, 200]);
    assert_eq!(gateway.metric("portcullis_revocations", &[]), 1000.0);
}

#[test]
fn entries_end_when_no_token_could_bring_them_any_more() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    revoke(&gateway, &json!({ "kind": "subject", "subject": "alice" })).expect(200);
    let until = revoke(&gateway, &json!({ "kind": "subject", "subject": "alice" })).expect(200).json()["until"].clone();
    let until = humantime::parse_rfc3339(until.as_str().expect("a time")).expect("a time");
    let until = Timestamp::from_unix_seconds(until.duration_since(std::time::UNIX_EPOCH).expect("later").as_secs());
    assert!(until >= gateway.now().plus(Duration::from_secs(24 * 3600)), "tokens may live for a day");

    gateway.clock().set(until);

    eventually("the entry is forgotten", || gateway.metric("portcullis_revocations", &[]) == 0.0);
}

#[test]
fn a_full_list_refuses_and_says_what_to_do() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway =
        Gateway::with("[limits]\nmax_revocations = 1").admin().issuer(&issuer).route("/app/{*rest}", &upstream);
    let gateway = gateway.start();
    let subject = |subject: &str| revoke(&gateway, &json!({ "kind": "subject", "subject": subject }));
    subject("alice").expect(200);

    let answer = subject("bob").expect(503);

    assert_eq!(answer.json()["error"], "revocations_full");
    assert!(answer.header("retry-after").is_some());
    subject("alice").expect(200);
}

/// What operators type.
#[test]
fn the_command_revokes_what_it_is_given() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = gateway(&issuer, &upstream);
    let url = format!("http://{}", gateway.addresses().admin.expect("it listens"));
    let file = gateway.folder().join("admin.token");
    let shell = Shell::empty();
    let run = |arguments: &[&str], input: &str| {
        let rest = ["--admin", &url, "--token-file", file.to_str().expect("a path")];
        shell.run_with(&[&["revoke"], arguments, &rest].concat(), input)
    };
    let token = |jti: &str| issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), json!({ "jti": jti })));
    let (pasted, named, listed, last) = (token("1"), token("2"), token("3"), token("4"));

    let said = run(&["token", "-"], &format!("{pasted}\n")).expect(0);
    assert!(said.out.starts_with("the token is void; remembered until"), "{}", said.out);
    assert!(!said.out.contains(&pasted));
    assert_eq!(ask(&gateway, &pasted), 401);
    let said = run(&["jti", "2", "--issuer", "test"], "").expect(0);
    assert!(said.out.starts_with("the token 2 of https://issuer.test is void"), "{}", said.out);
    assert_eq!((ask(&gateway, &named), ask(&gateway, &listed)), (401, 200));
    let lines = "{\"kind\":\"jti\",\"issuer\":\"test\",\"jti\":\"3\"}\n{\"kind\":\"jti\"}\n";
    let said = run(&["lines", "-"], lines).expect(1);
    assert!(said.out.contains("bad_entry") && said.err.contains("1 entries carried out, 1 not"), "{said:?}");
    assert_eq!((ask(&gateway, &listed), ask(&gateway, &last)), (401, 200));
    let said = run(&["issuer", "test"], "").expect(0);
    assert!(said.out.starts_with("tokens of https://issuer.test issued until 20"), "{}", said.out);
    assert_eq!(ask(&gateway, &last), 401);
    let said = run(&["issuer", "tset"], "").expect(1);
    assert!(said.err.contains("no [[jwt.issuer]] has this"), "{}", said.err);
}
