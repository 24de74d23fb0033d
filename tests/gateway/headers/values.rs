//! R13: what a backend decodes is exactly what the source said; what cannot be said so is refused, never cut.

use portcullis::identity::decode;
use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Upstream, gateway::Running};

const NASTY: &[&str] = &[
    "plain",
    "a,b",
    "a;b",
    "a b",
    " a",
    "a ",
    "%",
    "%2C",
    "%252C",
    "a%",
    "é",
    "Ærøskøbing",
    "名前",
    "\u{1f600}",
    "e\u{301}",
    "\u{202e}root",
    "\u{feff}x",
    "\"quoted\"",
    "back\\slash",
    "a=b&c",
    "<b>",
    "(comment)",
    "a\u{7f}b",
    "a\tb",
    "a\r\nX-User-Id: root",
    "\u{85}",
];

fn issuer_and_gateway(identity: &str, upstream: &Upstream) -> (Issuer, Running) {
    let issuer = Issuer::es256();
    let gateway = Gateway::with(identity).issuer(&issuer).route("/{*rest}", upstream).start();
    (issuer, gateway)
}

/// R13. `decode(split(value))` is exact.
#[test]
fn identity_values_can_be_read_back_exactly() {
    let upstream = Upstream::start();
    let (issuer, gateway) = issuer_and_gateway("[identity]\nextra = { \"X-Extra\" = \"extra\" }", &upstream);
    for value in NASTY {
        let mut claims = Issuer::claims("alice", &[value, "second", value], gateway.now());
        claims["name"] = json!(value);
        claims["groups"] = json!([value]);
        claims["extra"] = json!([value, "x"]);

        gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);

        let seen = upstream.next_request();
        let list = |name: &str| -> Vec<String> { seen.header(name).unwrap().split(',').map(decode).collect() };
        assert_eq!(decode(seen.header("x-user-name").unwrap()), *value);
        assert_eq!(list("x-user-roles"), [*value, "second", value], "{value:?}");
        assert_eq!(list("x-user-groups"), [*value], "{value:?}");
        assert_eq!(list("x-extra"), [*value, "x"], "{value:?}");
        assert_eq!(seen.header("x-user-id"), Some("alice"), "{value:?}");
        let raw = String::from_utf8(seen.raw).expect("nothing beyond ASCII goes upstream");
        assert!(raw.is_ascii(), "{raw}");
    }
}

/// R13. 401, and never an error of ours.
#[test]
fn a_subject_that_no_header_should_carry_is_no_credential() {
    let upstream = Upstream::start();
    let (issuer, gateway) = issuer_and_gateway("", &upstream);
    let ask = |subject: Value| {
        let mut claims = Issuer::claims("", &[], gateway.now());
        claims["sub"] = subject;
        gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().status
    };

    for bad in ["", "a\nb", "a\r\nX-User-Id: root", "a\0b", "\u{7f}", "a\u{85}b", "\t"] {
        assert_eq!(ask(json!(bad)), 401, "{bad:?}");
    }
    for bad in
        [json!("x".repeat(256)), json!("é".repeat(128)), json!(1), json!(["a"]), json!({}), json!(null), json!(true)]
    {
        assert_eq!(ask(bad.clone()), 401, "{bad}");
    }
    assert_eq!(upstream.connection_count(), 0);
    for good in ["x".repeat(255), "é".repeat(127), "a b".into(), " ".into(), "名前".into(), "auth0|5f7".into()] {
        assert_eq!(ask(json!(good)), 200, "{good:?}");
        assert_eq!(decode(upstream.next_request().header("x-user-id").unwrap()), good);
    }
}

/// R13. Neither do sessions carry one.
#[test]
fn a_session_with_such_a_subject_is_not_opened() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/{*rest}", &upstream).start();

    for bad in [json!(""), json!("a\nb"), json!("x".repeat(256)), json!(1), json!(null)] {
        let answer = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": bad })).send();
        assert!((400..500).contains(&answer.status), "{bad}: {answer:?}");
    }
    gateway.open_session(&json!({ "subject": "a b" })).get("/x").send().expect(200);
}

/// R13. Above the bound it is 403: a cut list would be another identity.
#[test]
fn an_identity_that_is_too_large_is_refused_and_never_cut() {
    let upstream = Upstream::start();
    let (issuer, gateway) = issuer_and_gateway("[identity]\nmax_bytes = \"512B\"", &upstream);
    // "x-user-id" + "alice", "x-user-auth" + "jwt" and "x-user-roles".
    let taken = 9 + 5 + 11 + 3 + 12;
    let role = |length: usize| "r".repeat(length);

    for (name, role, status) in [
        ("just small enough", role(512 - taken), 200),
        ("a byte too large", role(513 - taken), 403),
        ("too large once encoded", "é".repeat(100), 403),
        ("far too large", role(3000), 403),
    ] {
        let token = issuer.sign(&Issuer::claims("alice", &[&role], gateway.now()));
        let answer = gateway.client().get("/x").bearer(&token).send();
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        if status == 200 {
            assert_eq!(upstream.next_request().header("x-user-roles"), Some(role.as_str()));
        } else {
            assert_eq!(answer.json()["error"], "identity_too_large");
        }
    }
    assert_eq!(upstream.request_count(), 1);
}
