//! R34: no secret reaches a log, a metric, an error text or a URL, whatever becomes of the request that carried it.

use serde_json::json;

use crate::support::{
    Form, Gateway, Issuer, Shell, Upstream, eventually,
    gateway::{Running, SESSION_COOKIE},
    person::percent,
};

const PASSWORD: &str = "Correct-Horse-Battery-7341";
const WRONG: &str = "Wrong-Guess-9265";
const ADMIN: &str = "sUpEr-AdMiN-tOkEn-WrOnG";

/// Every line of every log, and the metrics.
fn everything_told(gateway: &Running) -> String {
    let metrics = gateway.telemetry().get("/metrics").send().expect(200).text();
    [gateway.log_lines().join("\n"), gateway.audit_lines().join("\n"), metrics].join("\n")
}

fn wait_for_lines(gateway: &Running, number: usize) {
    eventually("the log is written", || gateway.log_lines().len() >= number);
}

/// R34: all secrets of a day, on good ways and bad, in one run.
#[test]
fn no_secret_is_told_whatever_became_of_its_request() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new()
        .issuer(&issuer)
        .user("alice", PASSWORD, &["user"])
        .admin()
        .route("/app/{*rest}", &upstream)
        .route("/admin/{*rest}", &upstream)
        .require_role("admin")
        .start();
    let client = gateway.client();
    let good = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let forged = issuer.sign_with(&Issuer::hs256(), &Issuer::claims("alice", &[], gateway.now()));

    let mut alice = gateway.person();
    let page = alice.visit("/_auth/login");
    let form_token = Form::of(&page).fields[0].1.clone();
    let form_cookie = alice.cookie("__Host-portcullis-login").expect("a form cookie").to_owned();
    alice.submit(&page, &[("username", "alice"), ("password", WRONG)]).expect(401);
    let page = alice.visit("/_auth/login");
    alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    let session = alice.cookie(SESSION_COOKIE).expect("a session").to_owned();
    client.post("/_auth/login", "").json(&json!({ "username": WRONG, "password": "x" })).send().expect(401);
    let created = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": "bob" })).send().expect(201);
    let created = created.json()["token"].as_str().expect("a token").to_owned();
    let bob = format!("{SESSION_COOKIE}={created}");
    let mut requests = 5;
    for request in [
        client.get("/app/x").bearer(&good),
        client.get("/app/x").bearer(&forged),
        client.get("/app/x").header("Authorization", &format!("Basic {WRONG}")),
        client.get("/app/x").bearer(&good).bearer(&good),
        client.get("/admin/x").bearer(&good),
        client.get("/app/x").cookie(&bob),
        client.get("/admin/x").cookie(&bob),
        client.post("/app/x", PASSWORD).cookie(&bob),
        client.get("/app/x").cookie(&format!("{bob}; {bob}")),
        client.get(&format!("/app/x?access_token={good}&password={}", percent(PASSWORD))),
        client.get(&format!("/app/x?{session}")).bearer(&good),
        client.get(&format!("/_auth/login?return_to={}", percent(&format!("/app/?t={good}")))),
        client.post(&format!("/_auth/logout?x={session}"), "").cookie(&bob).header("Sec-Fetch-Site", "same-origin"),
        client.get("/nowhere").bearer(&good).cookie(&bob),
        client.get("/x").header("Host", "elsewhere.test").bearer(&good),
        client.get("/app/x").header("X-Request-Id", &session),
        client.get("/app/x").header("Referer", &format!("https://app.test/?{good}")),
        client.get("/app/x").header("User-Agent", &good),
    ] {
        request.send();
        requests += 1;
    }
    for request in
        [gateway.admin().get("/api/v1/sessions"), gateway.admin().get(&format!("/api/v1/sessions?{session}"))]
    {
        request.send();
    }
    let stranger = crate::support::Client::plain(gateway.addresses().admin.expect("admin"));
    stranger.get("/api/v1/sessions").bearer(ADMIN).send().expect(401);
    wait_for_lines(&gateway, requests);
    let admin_token = std::fs::read_to_string(gateway.folder().join("admin.token")).expect("the admin's token");

    let told = everything_told(&gateway);

    assert!(told.contains("\"login\"") && told.contains("admin.call") && told.contains("portcullis_logins_total"));
    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    for (name, secret) in [
        ("password", PASSWORD.to_owned()),
        ("wrong password, or typed into the name field", WRONG.to_owned()),
        ("session token", session),
        ("session token of the admin API", created),
        ("JWT", good.clone()),
        ("JWT signature", signature(&good)),
        ("forged JWT's signature", signature(&forged)),
        ("admin token", admin_token),
        ("wrong admin token", ADMIN.to_owned()),
        ("form token", form_token),
        ("form cookie", form_cookie),
        ("hash", "$argon2id".to_owned()),
        ("query", "access_token".to_owned()),
    ] {
        assert!(
            !told.contains(&secret),
            "{name} is told: {}",
            told.lines().find(|line| line.contains(&secret)).unwrap_or("")
        );
    }
}

/// R34: what the program itself says on its streams.
#[test]
fn no_secret_of_the_configuration_is_in_what_the_commands_say() {
    let secret = "Aq3-shared-secret-that-nobody-may-read-0123456789";
    let text = |algorithm: &str, extra: &str| {
        format!(
            "version = 1\n[server]\nlisten = [\"https://127.0.0.1:0\"]\nhosts = [\"a.test\"]\n[tls]\n\
             self_signed = [\"a.test\"]\n[[jwt.issuer]]\nname = \"i\"\nissuer = \"https://i.test\"\naudience = [\"me\"]\n\
             jwks = {{ secret = {{ env = \"THE_SECRET\" }} }}\nalgorithms = [\"{algorithm}\"]\n{extra}\n\
             [[route]]\nname = \"r\"\nmatch = {{ path = \"/{{*rest}}\" }}\nauth = [\"jwt\"]\nrespond = {{ status = 204 }}\n"
        )
    };
    for (algorithm, extra, arguments) in [
        ("HS256", "", &["check"][..]),
        ("HS512", "", &["check"]),
        ("RS256", "", &["check"]),
        ("HS256", "colour = 1", &["check"]),
        ("HS256", "", &["explain", "GET", "https://a.test/x", "--token", "a.b.c"]),
        ("HS256", "", &["token"]),
    ] {
        let said = Shell::with(&text(algorithm, extra)).environment("THE_SECRET", secret).run(arguments);
        assert!(
            !said.out.contains(secret) && !said.err.contains(secret),
            "{algorithm} {extra} {arguments:?}: {said:?}"
        );
    }
}

/// R34: the query is where tokens leak.
#[test]
fn the_query_is_left_out_of_the_access_log_unless_asked_for() {
    for (setting, expected) in
        [(None, None), (Some("omit"), None), (Some("names"), Some("a&b")), (Some("keep"), Some("a=1&b=%22x"))]
    {
        let upstream = Upstream::start();
        let mut gateway = Gateway::new().user("alice", PASSWORD, &[]).route("/app/{*rest}", &upstream);
        if let Some(setting) = setting {
            gateway = gateway.environment("PORTCULLIS__LOG__QUERY", setting);
        }
        let gateway = gateway.start();

        gateway.client().get("/app/x?a=1&b=%22x").send().expect(401);
        wait_for_lines(&gateway, 1);

        let line: serde_json::Value = serde_json::from_str(&gateway.log_lines()[0]).expect("JSON");
        assert_eq!((line["path"].as_str(), line["query"].as_str()), (Some("/app/x"), expected), "{setting:?}");
    }
}

/// R34: nobody writes a second line, or into a terminal, through a request.
#[test]
fn what_a_client_sent_is_escaped_in_both_formats() {
    for format in ["json", "text"] {
        let upstream = Upstream::start();
        let gateway = Gateway::new()
            .user("alice", PASSWORD, &[])
            .admin()
            .route("/app/{*rest}", &upstream)
            .environment("PORTCULLIS__LOG__FORMAT", format)
            .start();
        let eve = gateway.open_session(&json!({ "subject": "eve\u{2028} \"quoted\" \\ decision=allow é" }));

        eve.get("/app/%22%20decision=allow%0A").send();
        eve.get("/app/'\"=`$(x)").send();
        gateway.client().request("M'`|~", "/app/x").send();
        gateway.client().get("/app/x").header("Host", "a\"b.test").send();
        eve.get("/app/x").send().expect(200);
        wait_for_lines(&gateway, 5);

        let lines = [gateway.log_lines(), gateway.audit_lines()].concat();
        for line in &lines {
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{format}: {line:?}");
            if format == "json" {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
    }
}

/// R34: an id that a client chose could be somebody else's, or a secret.
#[test]
fn a_request_id_is_taken_from_trusted_proxies_only() {
    let upstream = Upstream::start();
    let id = "0123456789abcdef0123456789abcdef";
    let stranger = Gateway::new().user("alice", PASSWORD, &[]).route("/app/{*rest}", &upstream).start();

    let answer = stranger.client().get("/app/x").header("X-Request-Id", id).send();
    assert_ne!(answer.header("x-request-id"), Some(id));

    wait_for_lines(&stranger, 1);
    assert!(!stranger.log_lines()[0].contains(id));
    let other = stranger.client().get("/app/x").send();
    assert_ne!(answer.header("x-request-id"), other.header("x-request-id"), "each request has its own");
}
