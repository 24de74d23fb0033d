//! Opaque tokens: what their issuer says of them counts, and nothing else does (RFC 7662, R3, R21, R24).

use std::{
    io::{Read, Write},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis::{
    api_key::KeyText,
    clock::{Timestamp, instant},
};
use serde_json::{Value, json};

use crate::support::{
    Client, Connection, Gateway, Holder, Issuer, Pki, Provider, Response, Upstream, eventually,
    gateway::Running,
    websocket::{echoes, echoing, ends_soon, tunnel},
};

const ISSUER: &str = "https://opaque.example";
const JSON: &str = "Content-Type: application/json\r\n";

/// An issuer that is asked at this server, with further members of `introspection` and further lines.
fn issuer(provider: &Provider, members: &str, lines: &str) -> String {
    format!(
        "[[jwt.issuer]]\nname = \"opaque\"\nrealm = \"staff\"\ngrants = \"all\"\nissuer = {ISSUER:?}\n\
         audience = [\"orders\"]\n{lines}\n\
         introspection = {{ url = {:?}, client_id = \"gate:way\", client_secret = {{ env = \"CLIENT\" }} {members} }}\n",
        provider.url("/introspect")
    )
}

fn gateway_with(provider: &Provider, upstream: &Upstream, members: &str, lines: &str) -> Gateway {
    Gateway::new()
        .environment("CLIENT", "s3cret/+&")
        .admin()
        .table(&issuer(provider, members, lines))
        .route("/{*rest}", upstream)
        .auth(&["jwt:opaque"])
        .key("upgrade = [\"websocket\"]")
}

fn start(provider: &Provider, upstream: &Upstream) -> Running {
    gateway_with(provider, upstream, "", "").start()
}

/// What is said of a good token.
fn active(now: Timestamp) -> Value {
    json!({
        "active": true, "iss": ISSUER, "aud": "orders", "sub": "alice", "token_type": "Bearer",
        "exp": now.unix_seconds() + 3600, "iat": now.unix_seconds(), "client_id": "spa", "scope": "read write",
        "roles": ["user"],
    })
}

fn says(provider: &Provider, answer: &Value) {
    provider.answer(200, JSON, &answer.to_string());
}

fn ask(client: &Client, token: &str) -> Response {
    client.get("/x").bearer(token).send()
}

fn visit(gateway: &Running, token: &str) -> u16 {
    ask(&gateway.client(), token).status
}

#[test]
fn what_the_issuer_says_is_who_the_caller_is() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, "", "claims = { name = \"client_id\" }").start();
    says(&provider, &active(gateway.now()));

    ask(&gateway.client(), "opaque-token_1.~+/==").expect(200);

    let seen = upstream.next_request();
    for (name, value) in [("id", "alice"), ("roles", "user"), ("scopes", "read,write"), ("name", "spa")] {
        assert_eq!(seen.header(&format!("x-user-{name}")), Some(value), "{name}");
    }
    assert_eq!(seen.header("authorization"), None);
    let [asked] = &provider.asked()[..] else { panic!("one question") };
    assert!(asked.head.starts_with("POST /introspect HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.body, "token=opaque-token_1.~%2B%2F%3D%3D&token_type_hint=access_token");
    let basic = STANDARD.encode("gate%3Away:s3cret%2F%2B%26");
    assert_eq!(asked.header("authorization"), Some(&*format!("Basic {basic}")));
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    let log = gateway.log_lines().concat();
    assert!(!log.contains("opaque-token_1") && !log.contains("s3cret"), "{log}");
}

#[test]
fn the_client_says_who_it_is_in_the_form_where_that_is_written() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, ", client_auth = \"post\"", "").start();
    says(&provider, &active(gateway.now()));

    assert_eq!(visit(&gateway, "abc"), 200);

    let asked = provider.asked().remove(0);
    assert!(asked.body.ends_with("&client_id=gate%3Away&client_secret=s3cret%2F%2B%26"), "{}", asked.body);
    assert_eq!(asked.header("authorization"), None);
}

/// R21, R22: each with only one thing wrong.
#[test]
fn what_is_said_is_judged_as_a_jwts_claims_are() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    let now = gateway.now().unix_seconds();
    let rows = [
        ("iss", json!("https://other.example")),
        ("iss", json!(null)),
        ("iss", json!([ISSUER])),
        ("aud", json!("billing")),
        ("aud", json!(null)),
        ("aud", json!(["orders", 1])),
        ("aud", json!([])),
        ("exp", json!(now - 31)),
        ("exp", json!(null)),
        ("exp", json!((now + 3600).to_string())),
        ("exp", json!(now + 25 * 3600)),
        ("nbf", json!(now + 31)),
        ("iat", json!(now + 31)),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!("a\nb")),
        ("token_type", json!("refresh_token")),
        ("token_type", json!(null)),
        ("token_type", json!("DPoP")),
        ("token_use", json!("refresh")),
        ("typ", json!("Refresh")),
        ("typ", json!("ID")),
        ("events", json!({})),
        ("nonce", json!("n")),
        ("cnf", json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" })),
        ("cnf", json!({ "kid": "1" })),
        ("roles", json!({ "a": 1 })),
        ("scope", json!(1)),
    ];
    for (number, (member, value)) in rows.iter().enumerate() {
        let mut answer = active(gateway.now());
        match value {
            Value::Null => drop(answer.as_object_mut().expect("an object").remove(*member)),
            value => answer[*member] = value.clone(),
        }
        says(&provider, &answer);
        let refused = ask(&gateway.client(), &format!("bad{number}"));
        assert_eq!(refused.status, 401, "{member}: {value}");
        assert!(refused.all("www-authenticate").iter().any(|text| text.contains("invalid_token")));
    }
    upstream.expect_only(0);
    for (number, (member, value)) in [
        ("aud", json!(["billing", "orders"])),
        ("exp", json!(now - 29)),
        ("nbf", json!(now + 29)),
        ("token_type", json!("bearer")),
        ("token_use", json!("access_token")),
        ("typ", json!("Bearer")),
        ("scope", json!(["a"])),
        ("username", json!("anything")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut answer = active(gateway.now());
        answer[member] = value;
        says(&provider, &answer);
        assert_eq!(visit(&gateway, &format!("good{number}")), 200, "{member}: {answer}");
    }
}

#[test]
fn what_an_issuers_tokens_must_say_is_asked_of_opaque_ones_too() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, "", "required_claims = [\"client_id=spa\"]").start();
    says(&provider, &active(gateway.now()));
    assert_eq!(visit(&gateway, "good"), 200);
    let mut other = active(gateway.now());
    other["client_id"] = json!("robot");
    says(&provider, &other);
    assert_eq!(visit(&gateway, "bad"), 401);
}

#[test]
fn an_inactive_token_is_void() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    let mut answer = active(gateway.now());
    answer["active"] = json!(false);
    for (number, answer) in [json!({ "active": false }), answer].iter().enumerate() {
        says(&provider, answer);
        assert_eq!(visit(&gateway, &format!("t{number}")), 401);
    }
    upstream.expect_only(0);
}

/// R3: neither good nor bad, and never anonymous, on an optional route either.
#[test]
fn nonsense_and_outages_are_unavailable() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, ", timeout = \"300ms\"", "")
        .route("/optional", &upstream)
        .auth(&["jwt:opaque"])
        .key("optional = true")
        .start();
    let good = active(gateway.now()).to_string();
    let with_active = |value: &str| good.replace("\"active\":true", &format!("\"active\":{value}"));
    let answer = |status: &str, fields: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("active in quotes", answer("200 OK", JSON, &with_active("\"true\""))),
        ("active is 1", answer("200 OK", JSON, &with_active("1"))),
        ("active is null", answer("200 OK", JSON, &with_active("null"))),
        ("no active", answer("200 OK", JSON, &good.replace("\"active\"", "\"inactive\""))),
        ("active twice", answer("200 OK", JSON, &good.replacen('{', "{\"active\":false,", 1))),
        ("another member twice", answer("200 OK", JSON, &good.replacen('{', "{\"sub\":\"root\",", 1))),
        ("more after it", answer("200 OK", JSON, &format!("{good}{{}}"))),
        ("an array", answer("200 OK", JSON, &format!("[{good}]"))),
        ("HTML with 200", answer("200 OK", "Content-Type: text/html\r\n", "<html>Sign in to the Wi-Fi</html>")),
        ("JSON as HTML", answer("200 OK", "Content-Type: text/html\r\n", &good)),
        ("no content type", answer("200 OK", "", &good)),
        ("a signed answer", answer("200 OK", "Content-Type: application/token-introspection+jwt\r\n", &good)),
        ("compressed", answer("200 OK", &format!("{JSON}Content-Encoding: gzip\r\n"), &good)),
        ("nothing", answer("200 OK", JSON, "")),
        ("201", answer("201 Created", JSON, &good)),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ("our own credentials refused", answer("401 No", JSON, "{\"error\":\"invalid_client\"}")),
        ("403", answer("403 No", JSON, &good)),
        ("429", answer("429 Slow down", JSON, &good)),
        ("500", answer("500 Oops", JSON, &good)),
        ("503", answer("503 Later", JSON, &good)),
        ("a redirect", answer("307 There", &format!("{JSON}Location: /elsewhere\r\n"), &good)),
        ("304", b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec()),
        ("as if to HEAD", format!("HTTP/1.1 200 OK\r\n{JSON}Content-Length: {}\r\n\r\n", good.len()).into_bytes()),
        ("cut short", answer("200 OK", JSON, &good)[..good.len()].to_vec()),
        ("50 MB told", format!("HTTP/1.1 200 OK\r\n{JSON}Content-Length: 50000000\r\n\r\n{good}").into_bytes()),
        ("too large", answer("200 OK", JSON, &good.replacen('{', &format!("{{\"a\":\"{}\",", "x".repeat(70_000)), 1))),
        ("no HTTP", b"+OK POP3 ready\r\n".to_vec()),
        ("closed at once", Vec::new()),
    ];
    for (number, (what, bytes)) in rows.into_iter().enumerate() {
        provider.say(bytes);
        let refused = ask(&gateway.client(), &format!("token{number}"));
        assert_eq!(refused.status, 503, "{what}");
        assert!(refused.header("retry-after").is_some(), "{what}");
        let optional = gateway.client().get("/optional").bearer(&format!("token{number}")).send();
        assert_eq!(optional.status, 503, "{what}");
        // It was nobody's fault but the endpoint's: the same token is good as soon as that says so.
        provider.say(answer("200 OK", JSON, &good));
        assert_eq!(visit(&gateway, &format!("token{number}")), 200, "{what}");
    }
}

#[test]
fn fifty_megabytes_and_a_slow_drip_are_not_waited_for() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, ", timeout = \"300ms\"", "").start();
    let head = format!("HTTP/1.1 200 OK\r\n{JSON}\r\n");
    let stopped = Arc::new(AtomicBool::new(false));
    let (endless, dripping) = (head.clone(), head);
    provider.behave(move |_, stream| {
        stream.write_all(endless.as_bytes())?;
        (0..50 * 1024).try_for_each(|_| stream.write_all(&[b' '; 1024]))
    });
    let begun = instant();
    assert_eq!(visit(&gateway, "a"), 503);
    let stop = Arc::clone(&stopped);
    provider.behave(move |_, stream| {
        stream.write_all(dripping.as_bytes())?;
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(b" ")?;
            thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    });
    assert_eq!(visit(&gateway, "b"), 503);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    stopped.store(true, Ordering::Relaxed);
    says(&provider, &active(gateway.now()));
    assert_eq!(visit(&gateway, "b"), 200);
}

/// Only tokens that nothing else can be: no JWS, no API key of ours, no more than 4 KiB, no other characters.
#[test]
fn what_is_no_opaque_token_goes_nowhere() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    says(&provider, &active(gateway.now()));
    let jwt = Issuer::es256().sign(&json!({ "iss": ISSUER, "sub": "alice" }));
    for token in [
        &*jwt,
        "a.b.c",
        "..",
        &*KeyText::generate().expose().clone(),
        "ptc_",
        &"a".repeat(4097),
        "a\"b",
        "a=b",
        "====",
        "a,b",
        "ä",
    ] {
        assert_eq!(visit(&gateway, token), 401, "{token}");
    }
    gateway.client().get("/x").send().expect(401);
    gateway.client().get("/x?access_token=abc").send().expect(401);
    gateway.client().get("/x").header("Authorization", "Basic YWJj").send().expect(401);
    assert_eq!(provider.asked().len(), 0);
    for token in ["a", "a.b", "a.b.c.d", "a.b.c.d.e", &"a".repeat(4096)] {
        assert_eq!(visit(&gateway, token), 200, "{token}");
    }
    assert_eq!(provider.asked().len(), 5);
}

/// R2: only where the route names the issuer, and never beside another explicit credential.
#[test]
fn nobody_is_asked_on_routes_of_others() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let signing = Issuer::es256();
    let gateway = gateway_with(&provider, &upstream, "", "").issuer(&signing);
    let gateway = gateway.route("/signed", &upstream).auth(&["jwt:test"]).route("/session", &upstream);
    let gateway = gateway.auth(&["session"]).route("/both", &upstream).auth(&["jwt:test", "jwt:opaque"]).start();
    says(&provider, &active(gateway.now()));
    let token = signing.sign(&Issuer::claims("bob", &[], gateway.now()));
    let at = |path: &str, token: &str| gateway.client().get(path).bearer(token).send().status;

    assert_eq!([at("/signed", "abc"), at("/session", "abc")], [401, 401]);
    gateway.client().get("/x").bearer("abc").bearer("abc").send().expect(401);
    assert_eq!(at("/x", &token), 401);
    assert_eq!(provider.asked().len(), 0);
    assert_eq!([at("/both", &token), at("/both", "abc"), at("/signed", &token)], [200, 200, 200]);
    assert_eq!(provider.asked().len(), 1);
}

#[test]
fn one_question_at_most_is_under_way_for_each_token_whoever_asks() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    let good = active(gateway.now()).to_string();
    let (held, hold) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (held_there, asked_there) = (Arc::clone(&held), Arc::clone(&hold));
    provider.behave(move |_, stream| {
        asked_there.store(true, Ordering::Relaxed);
        while held_there.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(1));
        }
        write!(stream, "HTTP/1.1 200 OK\r\n{JSON}Content-Length: {}\r\n\r\n{good}", good.len())
    });
    let together = Barrier::new(17);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                let (client, together) = (gateway.client(), &together);
                scope.spawn(move || {
                    let mut connection = client.connect();
                    together.wait();
                    connection.send(&client.get("/x").bearer("abc")).status
                })
            })
            .collect();
        together.wait();
        eventually("somebody asks", || hold.load(Ordering::Relaxed));
        held.store(false, Ordering::Relaxed);
        assert!(clients.into_iter().all(|client| client.join().expect("it ends") == 200));
    });
    assert_eq!(provider.asked().len(), 1);
    assert_eq!(gateway.metric("portcullis_introspections_total", &[("issuer", "opaque"), ("result", "good")]), 1.0);
}

#[test]
fn an_answer_counts_for_its_time_and_never_beyond_the_tokens() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, ", remember = \"60s\"", "").start();
    let mut short = active(gateway.now());
    short["exp"] = json!(gateway.now().unix_seconds() + 20);
    says(&provider, &short);
    assert_eq!(visit(&gateway, "short"), 200);
    says(&provider, &active(gateway.now()));
    assert_eq!([visit(&gateway, "a"), visit(&gateway, "a")], [200, 200]);
    says(&provider, &json!({ "active": false }));
    assert_eq!(visit(&gateway, "void"), 401);
    assert_eq!(provider.asked().len(), 3);
    // A token is void in the moment in which its leeway is over, whatever was said.
    gateway.advance(Duration::from_secs(50));
    assert_eq!([visit(&gateway, "short"), visit(&gateway, "a")], [401, 200]);
    assert_eq!(provider.asked().len(), 3);
    // That it is void counts for 10 seconds only.
    says(&provider, &active(gateway.now()));
    assert_eq!(visit(&gateway, "void"), 200);
    assert_eq!(provider.asked().len(), 4);
    gateway.advance(Duration::from_secs(9));
    says(&provider, &json!({ "active": false }));
    assert_eq!(visit(&gateway, "a"), 200);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(visit(&gateway, "a"), 401);
    assert_eq!(provider.asked().len(), 5);
}

/// RFC 9449 section 6.2: what the issuer says that a token is bound to is proven like that of a JWT.
#[test]
fn an_opaque_token_that_is_bound_to_a_key_counts_with_its_proof_only() {
    let (upstream, provider, holder) = (Upstream::start(), Provider::of(&[]), Holder::new());
    let gateway = start(&provider, &upstream);
    gateway.advance(Duration::from_secs(62));
    let mut answer = active(gateway.now());
    answer["cnf"] = json!({ "jkt": holder.jkt() });
    answer["token_type"] = json!("DPoP");
    says(&provider, &answer);
    let shown = |holder: &Holder, token: &str| {
        let proof = holder.proof("/x", "opaque-token", gateway.now());
        gateway.client().get("/x").dpop(token, &proof).send().status
    };

    assert_eq!(visit(&gateway, "opaque-token"), 401);
    assert_eq!(shown(&Holder::new(), "opaque-token"), 401);
    assert_eq!(shown(&holder, "other-token"), 401, "the proof is of another token");
    upstream.expect_only(0);
    assert_eq!(shown(&holder, "opaque-token"), 200);
}

/// R28, on an answer that is remembered.
#[test]
fn a_revocation_holds_whatever_was_said() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    let strike = |entry: Value| gateway.admin().post("/api/v1/revocations", "").json(&entry).send();
    let of = |subject: &str, changes: &[(&str, Value)]| {
        let mut answer = active(gateway.now());
        answer["sub"] = json!(subject);
        for (name, value) in changes {
            answer[*name] = value.clone();
        }
        says(&provider, &answer);
        assert_eq!(visit(&gateway, &format!("of-{subject}")), 200);
    };
    of("a", &[]);
    of("b", &[]);
    of("c", &[("jti", json!("id-c"))]);
    of("d", &[]);
    let asked = provider.asked().len();
    strike(json!({ "kind": "subject", "subject": "a" })).expect(200);
    let told = strike(json!({ "kind": "token", "token": "of-b" })).expect(200).text();
    assert!(!told.contains("of-b"));
    strike(json!({ "kind": "jti", "issuer": "opaque", "jti": "id-c" })).expect(200);
    let visits = ["of-a", "of-b", "of-c", "of-d"].map(|token| visit(&gateway, token));
    assert_eq!(visits, [401, 401, 401, 200]);
    strike(json!({ "kind": "issuer", "issuer": "opaque" })).expect(200);
    assert_eq!(visit(&gateway, "of-d"), 401);
    assert_eq!(provider.asked().len(), asked);
    // And when it is said again.
    gateway.advance(Duration::from_secs(31));
    says(&provider, &{
        let mut answer = active(gateway.now());
        answer["iat"] = json!(gateway.now().unix_seconds() - 31);
        answer
    });
    assert_eq!([visit(&gateway, "of-b"), visit(&gateway, "of-d")], [401, 401]);
}

#[test]
fn one_address_cannot_make_us_ask_without_end() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, ", rate = 5", "").start();
    says(&provider, &json!({ "active": false }));
    for number in 0..5 {
        assert_eq!(visit(&gateway, &format!("t{number}")), 401);
    }
    let refused = ask(&gateway.client(), "t5").expect(503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(visit(&gateway, "t0"), 401, "what is known costs nothing");
    assert_eq!(provider.asked().len(), 5);
    gateway.advance(Duration::from_secs(12));
    assert_eq!(visit(&gateway, "t6"), 401);
    let withheld = [("issuer", "opaque"), ("result", "withheld")];
    assert_eq!(gateway.metric("portcullis_introspections_total", &withheld), 1.0);
}

#[test]
fn an_endpoint_that_is_away_is_left_alone_and_found_again() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = gateway_with(&provider, &upstream, ", timeout = \"100ms\"", "").start();
    let never = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&never);
    provider.behave(move |_, _| {
        while !until.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    });
    for number in 0..3 {
        assert_eq!(visit(&gateway, &format!("t{number}")), 503);
    }
    assert_eq!(provider.asked().len(), 3);
    for number in 0..20 {
        assert_eq!(visit(&gateway, &format!("u{number}")), 503);
    }
    assert_eq!(provider.asked().len(), 3, "nobody waits for it");
    never.store(true, Ordering::Relaxed);
    says(&provider, &active(gateway.now()));
    gateway.advance(Duration::from_secs(1));
    assert_eq!([visit(&gateway, "a"), visit(&gateway, "b")], [200, 200]);
}

/// What one token brings about must not stand against the others.
#[test]
fn a_token_that_confuses_the_endpoint_keeps_nobody_else_out() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    let good = active(gateway.now()).to_string();
    provider.behave(move |asked, stream| {
        if asked.body.contains("evil") {
            return write!(stream, "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
        }
        write!(stream, "HTTP/1.1 200 OK\r\n{JSON}Content-Length: {}\r\n\r\n{good}", good.len())
    });
    for number in 0..10 {
        assert_eq!(visit(&gateway, &format!("evil{number}")), 503);
    }
    assert_eq!(visit(&gateway, "a"), 200);
}

fn opened(gateway: &Running, token: &str) -> Connection {
    tunnel(&gateway.client().always("Authorization", &format!("Bearer {token}")))
}

/// R28: as long as a tunnel lives, its token is asked about again and again.
#[test]
fn a_tunnel_ends_when_its_token_is_active_no_more() {
    let (upstream, provider) = (echoing(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    let begun = gateway.now();
    says(&provider, &active(begun));
    let (mut ending, mut other, mut demoted) =
        (opened(&gateway, "ending"), opened(&gateway, "other"), opened(&gateway, "demoted"));
    gateway.advance(Duration::from_secs(30));
    eventually("all three are asked about again", || provider.asked().len() == 6);
    assert!(echoes(&mut ending) && echoes(&mut other) && echoes(&mut demoted));

    let good = active(begun).to_string();
    let fewer = good.replace("\"user\"", "\"nobody\"");
    provider.behave(move |asked, stream| {
        let body = match &asked.body {
            body if body.contains("ending") => "{\"active\":false}",
            body if body.contains("demoted") => &*fewer,
            _ => &*good,
        };
        write!(stream, "HTTP/1.1 200 OK\r\n{JSON}Content-Length: {}\r\n\r\n{body}", body.len())
    });
    gateway.advance(Duration::from_secs(30));
    assert_eq!(ends_soon(&mut ending), b"");
    assert_eq!(ends_soon(&mut demoted), b"");
    assert!(echoes(&mut other));
}

/// Fail closed: a tunnel outlives an outage of a minute and no longer one.
#[test]
fn a_tunnel_whose_token_cannot_be_asked_about_ends_after_a_while() {
    let (upstream, provider) = (echoing(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    says(&provider, &active(gateway.now()));
    let mut open = opened(&gateway, "abc");
    provider.answer(500, "", "");

    gateway.advance(Duration::from_secs(89));
    eventually("it is asked about again", || provider.asked().len() > 1);
    assert!(echoes(&mut open));
    gateway.advance(Duration::from_secs(1));
    assert_eq!(ends_soon(&mut open), b"");
}

#[test]
fn a_tunnel_ends_when_its_opaque_token_is_revoked_or_ends() {
    let (upstream, provider) = (echoing(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    says(&provider, &active(gateway.now()));
    let mut open = opened(&gateway, "revoked");
    let entry = json!({ "kind": "token", "token": "revoked" });
    gateway.admin().post("/api/v1/revocations", "").json(&entry).send().expect(200);
    assert_eq!(ends_soon(&mut open), b"");
    let mut open = opened(&gateway, "ending");
    gateway.advance(Duration::from_secs(3600));
    assert_eq!(ends_soon(&mut open), b"");
}

#[test]
fn the_endpoint_is_asked_over_tls_that_the_issuers_authority_vouches_for() {
    let upstream = Upstream::start();
    let (ours, other) = (Pki::new(), Pki::new());
    let (ca, foreign) = (ours.authority_pem(), other.authority_pem());
    let provider = Provider::secure(&[], &ours, "localhost");
    let with =
        |authority: &str| gateway_with(&provider, &upstream, "", "ca = \"id.pem\"").file("id.pem", authority).start();
    let gateway = with(&ca);
    says(&provider, &active(gateway.now()));
    assert_eq!(visit(&gateway, "abc"), 200);
    let asked = provider.asked().len();
    assert_eq!(visit(&with(&foreign), "abc"), 503);
    assert_eq!(provider.asked().len(), asked, "the token went to nobody");
}

/// R37: what a reload leaves as it is goes on; what it changes is asked about anew.
#[test]
fn a_reload_keeps_what_was_said_only_for_settings_that_stay() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let gateway = start(&provider, &upstream);
    says(&provider, &active(gateway.now()));
    assert_eq!(visit(&gateway, "abc"), 200);
    gateway.reload().expect(200);
    assert_eq!(visit(&gateway, "abc"), 200);
    assert_eq!(provider.asked().len(), 1);

    gateway.edit("audience = [\"orders\"]", "audience = [\"billing\"]");
    gateway.reload().expect(200);
    assert_eq!(visit(&gateway, "abc"), 401);
    assert_eq!(provider.asked().len(), 2);
}

#[test]
fn what_introspection_is_written_for_is_checked() {
    let (upstream, provider) = (Upstream::start(), Provider::of(&[]));
    let refused = |members: &str, lines: &str, word: &str| {
        let report = gateway_with(&provider, &upstream, members, lines).try_start().err().expect("it is refused");
        assert!(report.contains(word), "{report}");
    };
    refused(", remember = \"61s\"", "", "at most \"60s\"");
    refused(", timeout = \"31s\"", "", "at most \"30s\"");
    refused(", rate = 0", "", "rate");
    refused("", "algorithms = [\"ES256\"]", "no `jwks`");
    let second =
        issuer(&provider, "", "").replace("\"opaque\"", "\"second\"").replace(ISSUER, "https://second.example");
    let two = gateway_with(&provider, &upstream, "", "").table(&second);
    let report = two.route("/two", &upstream).auth(&["jwt:opaque", "jwt:second"]).try_start().err().expect("refused");
    assert!(report.contains("a second issuer with `introspection`"), "{report}");
}
