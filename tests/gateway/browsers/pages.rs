//! R33: our own pages and answers are stored nowhere, framed nowhere, run nothing, and repeat nothing that was sent.

use crate::support::{Gateway, Issuer, Response, Upstream, client::Request, gateway::Running, person::percent};

const PASSWORD: &str = "correct horse battery staple";

/// Markup that would show, run or break something wherever it got through unescaped.
const MARKUP: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>";

/// What is left of [`MARKUP`] however it may have been escaped or decoded.
const TRACES: [&str; 4] = ["alert(1", "alert%281", "onerror", "&lt;script"];

fn gateway(issuer: &Issuer, upstream: &Upstream) -> Running {
    Gateway::new()
        .issuer(issuer)
        .user("alice", PASSWORD, &["user"])
        .route("/app/{*rest}", upstream)
        .route("/admin/{*rest}", upstream)
        .require_role("admin")
        .route("/get-only", upstream)
        .auth(&["none"])
        .start()
}

/// One of each of our answers: pages and JSON, with its name.
fn all_answers(gateway: &Running) -> Vec<(&'static str, Response)> {
    let client = gateway.client();
    let alice = gateway.log_in("alice");
    let form = |request: Request| request.header("Content-Type", "application/x-www-form-urlencoded");
    let mut answers = Vec::new();
    for (name, request) in [
        ("login", client.get("/_auth/login")),
        ("login, signed in", alice.get("/_auth/login")),
        ("login, expired", form(client.post("/_auth/login", "username=a&password=b"))),
        ("login, no body", form(client.post("/_auth/login", ""))),
        ("login, 415", client.post("/_auth/login", "x").header("Content-Type", "text/plain")),
        ("login, 405", client.request("PUT", "/_auth/login")),
        ("logout", alice.get("/_auth/logout")),
        ("logged out", client.post("/_auth/logout", "")),
        ("who am I", alice.get("/_auth/session")),
        ("who am I, nobody", client.get("/_auth/session")),
        ("nowhere of ours", client.get("/_auth/nowhere")),
        ("401", client.get("/app/x")),
        ("401, bad token", client.get("/app/x").bearer("a.b.c")),
        ("403", alice.get("/admin/x")),
        ("403, cross-site", alice.post("/app/x", "").header("Sec-Fetch-Site", "cross-site")),
        ("404", client.get("/nowhere")),
        ("400, path", client.get("/app/%2e%2e/x")),
        ("405", client.request("TRACE", "/app/x")),
        ("421", client.get("/app/x").header("Host", "elsewhere.test")),
    ] {
        answers.push((name, request.clone().header("Accept", "application/json").send()));
        answers.push((name, request.navigation().send()));
    }
    answers
}

/// R33.
#[test]
fn every_answer_of_ours_is_protected() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway(&issuer, &upstream);
    for (name, answer) in all_answers(&gateway) {
        let header = |field: &str| answer.header(field).unwrap_or_else(|| panic!("{name}: no {field} in {answer:?}"));
        assert_eq!(header("cache-control"), "no-store", "{name}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{name}");
        assert_eq!(header("x-frame-options"), "DENY", "{name}");
        assert!(header("date").ends_with("GMT"), "{name}");
        assert_eq!(header("x-request-id").len(), 32, "{name}");
        let policy = header("content-security-policy");
        for needed in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(needed), "{name}: {policy}");
        }
        assert!(
            !policy.contains("unsafe") && !policy.contains("script-src") && !policy.contains('*'),
            "{name}: {policy}"
        );
        assert_eq!(answer.status == 401, !answer.all("www-authenticate").is_empty(), "{name}: {answer:?}");
        assert!(answer.header("server").is_none(), "{name}");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R33.
#[test]
fn nothing_that_was_sent_is_in_a_page() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway(&issuer, &upstream);
    let (client, alice) = (gateway.client(), gateway.log_in("alice"));
    let encoded = percent(MARKUP);
    let form_body =
        format!("username={encoded}&password={encoded}&token={encoded}&return_to={encoded}&provider={encoded}");
    let json_body = serde_json::json!({ "username": MARKUP, "password": MARKUP, "return_to": MARKUP }).to_string();
    let form = "application/x-www-form-urlencoded";
    for (name, request) in [
        ("path", client.get(&format!("/nowhere/{encoded}"))),
        ("bad path", client.get(&format!("/app/..%2f{encoded}"))),
        ("refused path", client.get(&format!("/app/{encoded}"))),
        ("forbidden path", alice.get(&format!("/admin/{encoded}"))),
        ("query", client.get(&format!("/app/x?{encoded}={encoded}"))),
        ("return_to", client.get(&format!("/_auth/login?return_to={encoded}"))),
        ("return_to, a path", client.get(&format!("/_auth/login?return_to=/%22{encoded}"))),
        (
            "other parameters",
            client.get(&format!("/_auth/login?signed_out={encoded}&provider={encoded}&prompt={encoded}")),
        ),
        ("return_to, signed in", alice.get(&format!("/_auth/login?return_to={encoded}"))),
        ("logout", alice.get(&format!("/_auth/logout?return_to={encoded}"))),
        ("form", client.post("/_auth/login", form_body.clone()).header("Content-Type", form)),
        ("logout form", alice.post("/_auth/logout", form_body).header("Content-Type", form)),
        ("JSON", client.post("/_auth/login", json_body).header("Content-Type", "application/json")),
        ("content type", client.post("/_auth/login", "x").header("Content-Type", MARKUP)),
        ("method", client.request("SCRIPTALERT", "/app/x").header("X-Method", MARKUP)),
        ("host", client.get("/").header("Host", MARKUP)),
        ("unknown host", client.get("/").header("Host", "onerror.test")),
        ("origin", alice.post("/app/x", "").header("Origin", MARKUP)),
        ("referer", client.get("/nowhere").header("Referer", MARKUP)),
        ("user agent", client.get("/nowhere").header("User-Agent", MARKUP)),
        ("request id", client.get("/nowhere").header("X-Request-Id", MARKUP)),
        ("forwarded host", client.get("/nowhere").header("X-Forwarded-Host", MARKUP)),
        (
            "cookie",
            client.get("/app/x").cookie(&format!("__Host-portcullis={MARKUP}; __Host-portcullis-login={MARKUP}")),
        ),
        ("bearer", client.get("/app/x").header("Authorization", &format!("Bearer {MARKUP}"))),
        ("basic", client.get("/app/x").header("Authorization", MARKUP)),
    ] {
        for (kind, request) in [("page", request.clone().navigation()), ("JSON", request.header("Accept", "*/*"))] {
            let answer = request.send();
            let text = answer.text();
            for trace in TRACES {
                assert!(!text.contains(trace), "{name}, {kind}: {trace} in {answer:?}");
            }
            for (field, value) in &answer.headers {
                let way_back = field.eq_ignore_ascii_case("location") && value.starts_with("/_auth/login?");
                assert!(
                    way_back || !TRACES.iter().any(|trace| value.contains(trace)),
                    "{name}, {kind}: {field}: {value}"
                );
            }
        }
    }
}

/// R33: the one thing that comes back is where to go after the login, as a link of this host and escaped.
#[test]
fn a_path_to_return_to_is_escaped_in_the_page() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway(&issuer, &upstream);

    let page =
        gateway.client().get("/_auth/login?return_to=/app/a%26b%27c?d=e%26f").navigation().send().expect(200).text();

    assert!(
        page.contains("value=\"/app/a&amp;b'c?d=e&amp;f\"") || page.contains("value=\"/app/a&amp;b&#39;c?d=e&amp;f\""),
        "{page}"
    );
}

/// R33: a name with markup is a name.
#[test]
fn a_display_name_with_markup_is_escaped() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().admin().user("x", PASSWORD, &[]).route("/{*rest}", &upstream).require_role("admin").start();
    let eve = gateway.open_session(&serde_json::json!({ "subject": "eve", "name": MARKUP }));
    for target in ["/x", "/_auth/login", "/_auth/logout"] {
        let page = eve.get(target).navigation().send().text();
        assert!(
            page.contains("&lt;script&gt;alert(1)") && !page.contains("<script") && !page.contains("<img"),
            "{page}"
        );
    }
}

/// R33: the policy names the style of the page by its hash, so that nothing else can style or run.
#[test]
fn the_style_in_the_page_is_the_one_that_the_policy_names() {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let page = gateway(&issuer, &upstream);
    let page = page.client().get("/_auth/login").navigation().send().expect(200);
    let text = page.text();
    let style = text.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).expect("a style");

    let hash = STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, style.as_bytes()));

    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains(&format!("style-src 'sha256-{hash}'")), "{policy}");
    assert_eq!(text.matches("style").count(), 2, "no style attributes: the policy refuses them");
}
