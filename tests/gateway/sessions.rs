//! Where somebody is signed in, and how they end that (R26, R31, R33): by the page, by JSON, by the command. Nobody
//! sees or ends what is somebody else's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Client, Gateway, Issuer, Person, Response, Shell, Upstream,
    client::Request,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "correct horse battery staple";
const SESSIONS: &str = "/_auth/sessions";
const MINUTE: Duration = Duration::from_secs(60);
const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0";

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .user("bob", PASSWORD, &["user"])
        .admin()
        .route("/app/{*rest}", upstream)
        .start()
}

/// Somebody with a browser who has logged in.
fn signed_in(gateway: &Running, name: &str) -> Person {
    let mut person = gateway.person();
    person.log_in(name, PASSWORD).expect(303);
    person
}

/// A program that does the same.
fn list(client: &Client) -> Vec<Value> {
    let answer = client.get(SESSIONS).send().expect(200);
    answer.json()["sessions"].as_array().expect("a list").clone()
}

fn id_of_current(client: &Client) -> String {
    let current = list(client).into_iter().find(|session| session["current"] == true).expect("one is current");
    current["id"].as_str().expect("an id").to_owned()
}

fn end(client: &Client, what: &str) -> Request {
    client.post(SESSIONS, "").header("Sec-Fetch-Site", "same-origin").json(&json!({ "end": what }))
}

fn lives(client: &Client) -> bool {
    client.get("/app/x").send().status == 200
}

#[test]
fn people_see_where_they_are_signed_in() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let windows = gateway.client().always("User-Agent", FIREFOX);
    let mut desk = Person::new(windows);
    desk.log_in("alice", PASSWORD).expect(303);
    gateway.advance(5 * MINUTE);
    let mut phone = Person::new(gateway.client().always("User-Agent", "curl/8.5.0"));
    phone.log_in("alice", PASSWORD).expect(303);
    signed_in(&gateway, "bob");

    let page = phone.visit(SESSIONS).expect(200).text();

    for expected in ["Your sessions", "alice", "curl", "This one", "Firefox on Windows", "127.0.0.1", "Last seen "] {
        assert!(page.contains(expected), "{expected} in {page}");
    }
    assert_eq!(page.matches("<li>").count(), 2, "alice's two, and not bob's");
    assert!(page.find("curl") < page.find("Firefox on Windows"), "the current one first");
    assert!(!page.contains("<script") && !page.contains(&phone.cookie(SESSION_COOKIE).expect("a session")[..8]));
}

#[test]
fn programs_get_the_same_as_json() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (one, two) = (gateway.log_in("alice"), gateway.log_in("alice"));
    gateway.log_in("bob");

    let url = one.get("/_auth/session").send().expect(200).json()["sessions_url"].clone();
    assert_eq!(url, SESSIONS);
    let sessions = list(&one);

    assert_eq!(sessions.len(), 2);
    assert_eq!((&sessions[0]["current"], &sessions[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!(sessions[0]["address"], "127.0.0.1");
    assert_eq!(sessions[0]["device"], "Unknown device");
    assert_eq!(sessions[0]["created_at"], gateway.now().unix_seconds());
    assert_eq!(sessions[1]["id"], id_of_current(&two));
    assert_eq!(sessions[0]["id"].as_str().map(str::len), Some(16), "the beginning of a key, which opens nothing");
}

/// What a client calls itself is cut down to words of ours.
#[test]
fn markup_in_a_user_agent_is_not_in_the_page() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for agent in ["<img src=x onerror=alert(1)>", "Firefox/<b>1", "x\"><script>alert(1)</script>", &"A".repeat(5000)] {
        let mut person = Person::new(gateway.client().always("User-Agent", agent));
        person.log_in("alice", PASSWORD).expect(303);

        let page = person.visit(SESSIONS).expect(200).text();

        assert!(!page.contains("onerror") && !page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(!page.contains(&"A".repeat(50)), "{page}");
    }
}

#[test]
fn people_end_another_session_by_its_button() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut here, there) = (signed_in(&gateway, "alice"), gateway.log_in("alice"));
    let page = here.visit(SESSIONS).expect(200);
    let id = id_of_current(&there);
    assert!(page.text().contains(&format!("value=\"{id}\"")));

    let answer = here.submit(&page, &[("end", &id)]).expect(303);

    assert!(!lives(&there));
    assert!(here.follow(&answer).expect(200).text().contains("Signed out there."));
    here.visit("/app/x").expect(200);
    let line = gateway.audit_lines().into_iter().find(|line| line.contains("\"sessions.ended\""));
    assert!(line.expect("it is told").contains("id-of-alice"));
}

#[test]
fn ending_the_current_session_logs_out_and_clears_the_cookie() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut here, there) = (signed_in(&gateway, "alice"), gateway.log_in("alice"));
    let id = list(&there).into_iter().find(|session| session["current"] == false).unwrap()["id"].clone();
    let page = here.visit(SESSIONS).expect(200);

    let answer = here.submit(&page, &[("end", id.as_str().unwrap())]).expect(303);

    assert_eq!(answer.header("location"), Some("/_auth/login?signed_out"));
    let cleared = "__Host-portcullis=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
    assert!(answer.all("set-cookie").contains(&cleared), "{answer:?}");
    assert!(lives(&there));
}

#[test]
fn all_but_this_session_end_at_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (here, there, bob) = (gateway.log_in("alice"), gateway.log_in("alice"), gateway.log_in("bob"));
    let elsewhere = gateway.open_session(&json!({ "subject": "id-of-alice" }));

    let answer = end(&here, "others").send().expect(200);

    assert_eq!(answer.json(), json!({ "ended": 2, "authenticated": true }));
    assert!(lives(&here) && !lives(&there) && !lives(&elsewhere) && lives(&bob));
}

#[test]
fn all_sessions_end_shortly_after_a_login() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut here, there, bob) = (signed_in(&gateway, "alice"), gateway.log_in("alice"), gateway.log_in("bob"));
    let page = here.visit(SESSIONS).expect(200);
    gateway.advance(5 * MINUTE);

    let answer = here.submit(&page, &[("end", "all")]).expect(303);

    assert_eq!(answer.header("location"), Some("/_auth/login?signed_out"));
    assert_eq!(here.cookie(SESSION_COOKIE), None);
    assert!(!lives(&there) && lives(&bob));
}

/// A stolen cookie should not lock its owner out.
#[test]
fn to_end_all_sessions_long_after_the_login_one_logs_in_again() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut here, there) = (signed_in(&gateway, "alice"), gateway.log_in("alice"));
    let page = here.visit(SESSIONS).expect(200);
    gateway.advance(5 * MINUTE + Duration::from_secs(1));

    let answer = here.submit(&page, &[("end", "all")]).expect(303);
    let program = end(&there, "all").send().expect(401);

    assert_eq!(answer.header("location"), Some("/_auth/login?prompt=again&return_to=/_auth/sessions"));
    assert_eq!(program.json()["error"], "stale_login");
    assert!(lives(&there));
    here.visit("/app/x").expect(200);

    let login = here.follow(&answer).expect(200);
    let answer = here.submit(&login, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    let page = here.follow(&answer).expect(200);
    here.submit(&page, &[("end", "all")]).expect(303);
    assert!(!lives(&there));
}

/// An administrator who opened a session did not say that a person proved anything just now.
#[test]
fn a_session_whose_login_is_not_known_ends_no_others_at_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.open_session(&json!({ "subject": "id-of-alice" }));

    end(&alice, "all").send().expect(401);

    assert!(lives(&alice));
}

/// R5: whoever has the id has nothing.
#[test]
fn nobody_sees_or_ends_what_is_somebody_elses() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let id = id_of_current(&alice);
    let key = gateway.admin().get("/api/v1/sessions?subject=id-of-alice").send().expect(200).json();
    let key = key["sessions"][0]["key"].as_str().expect("a key").to_owned();
    assert!(key.starts_with(&id));
    assert!(list(&bob).iter().all(|session| session["id"] != id.as_str()));

    for stolen in [&*id, &*key, "", "0000000000000000", "../login", "ALL"] {
        end(&bob, stolen).send().expect(404);
    }
    let mut person = signed_in(&gateway, "bob");
    let page = person.visit(SESSIONS).expect(200);
    let answer = person.submit(&page, &[("end", &id)]).expect(303);
    assert!(person.follow(&answer).expect(200).text().contains("had ended already"));

    assert!(lives(&alice));
    end(&alice, &id).send().expect(200);
    assert!(!lives(&alice));
}

/// R5: the same name in another realm is somebody else.
#[test]
fn the_same_subject_of_another_realm_is_somebody_else() {
    let upstream = Upstream::start();
    let (token, other) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let admin = |name: &str, realm: &str| {
        format!(
            "[[admin.token]]\nname = {name:?}\nenv = \"{}\"\nallow = [\"all\"]\nrealm = {realm:?}\ngrants = \"all\"\n",
            name.to_uppercase()
        )
    };
    let gateway = Gateway::new()
        .table(&format!(
            "[admin]\nlisten = \"http://127.0.0.1:0\"\n{}{}",
            admin("one", "staff"),
            admin("two", "partners")
        ))
        .table("[identity]\nsubject = \"realm:sub\"")
        .environment("ONE", token)
        .environment("TWO", other)
        .route("/app/{*rest}", &upstream)
        .auth(&["session"])
        .start();
    let open = |token: &str| {
        let admin = Client::plain(gateway.addresses().admin.expect("it listens"));
        let entry = json!({ "subject": "alice", "auth_time": gateway.now().unix_seconds() });
        let answer = admin.post("/api/v1/sessions", "").bearer(token).json(&entry).send().expect(201);
        gateway.client().always("Cookie", &format!("{SESSION_COOKIE}={}", answer.json()["token"].as_str().unwrap()))
    };
    let (staff, partner) = (open(token), open(other));

    assert_eq!(list(&staff).len(), 1);
    end(&staff, "all").send().expect(200);

    assert!(!lives(&staff) && lives(&partner));
}

/// R31.
#[test]
fn another_site_ends_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (here, there) = (gateway.log_in("alice"), gateway.log_in("alice"));
    for (name, value) in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "https://app.test:1"),
        ("Origin", "null"),
        ("X-Nothing", "neither"),
    ] {
        let request = here.post(SESSIONS, "").json(&json!({ "end": "others" })).header(name, value);
        assert_eq!(request.send().expect(403).json()["error"], "cross_site", "{name}: {value}");
    }
    assert!(lives(&there));
    let origin = format!("https://app.test:{}", gateway.addresses().gateway[0].port());
    let host = format!("app.test:{}", gateway.addresses().gateway[0].port());
    let request = here.post(SESSIONS, "").json(&json!({ "end": "others" })).header("Origin", &origin);
    request.header("Host", &host).send().expect(200);
    assert!(!lives(&there));
}

/// R31: a form counts in the browser that it was given to, whatever that browser says of where it comes from.
#[test]
fn a_forged_form_ends_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut alice, there) = (signed_in(&gateway, "alice"), gateway.log_in("alice"));
    let mut bob = signed_in(&gateway, "bob");
    let of_bob = crate::support::Form::of(&bob.visit(SESSIONS).expect(200));
    let page = alice.visit(SESSIONS).expect(200);
    let form = crate::support::Form::of(&page).with("end", "others");

    for forged in [form.clone().with("token", ""), form.clone().with("token", "0"), of_bob.with("end", "others")] {
        let answer = alice.send_form(&forged).expect(303);
        assert!(alice.follow(&answer).expect(200).text().contains("nothing was done"));
        assert!(lives(&there));
    }
    let mut twice = form.clone();
    twice.fields.push(("end".into(), "all".into()));
    alice.send_form(&twice).expect(400);
    assert!(lives(&there));

    alice.send_form(&form).expect(303);
    assert!(!lives(&there));
}

/// A link or an image can make a browser GET anything; a form of another kind asks no permission first.
#[test]
fn only_a_post_of_a_form_or_of_json_ends_anything() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (here, there) = (gateway.log_in("alice"), gateway.log_in("alice"));
    let id = id_of_current(&there);
    for target in [format!("{SESSIONS}?end=others"), format!("{SESSIONS}?end={id}")] {
        here.get(&target).send().expect(200);
    }
    here.get(&format!("{SESSIONS}/{id}")).send().expect(404);
    for method in ["DELETE", "PUT", "PATCH"] {
        here.request(method, SESSIONS).header("Sec-Fetch-Site", "same-origin").send().expect(405);
    }
    let text = json!({ "end": "others" }).to_string();
    for kind in ["text/plain", "multipart/form-data; boundary=x"] {
        let request = here.post(SESSIONS, text.clone()).header("Sec-Fetch-Site", "same-origin");
        request.header("Content-Type", kind).send().expect(415);
    }
    for body in ["{}", "[]", "{\"end\":1}", "{\"end\":\"others\",\"more\":1}", ""] {
        let request = here.post(SESSIONS, body).header("Sec-Fetch-Site", "same-origin");
        request.header("Content-Type", "application/json").send().expect(400);
    }
    assert!(lives(&there));
}

/// R32: no other origin is told anything.
#[test]
fn no_other_origin_may_read_the_list() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let without_cors = |answer: &Response| {
        assert!(
            answer.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control")),
            "{answer:?}"
        );
    };

    let read = alice.get(SESSIONS).header("Origin", "https://evil.example").send().expect(200);
    let preflight = alice.request("OPTIONS", SESSIONS).header("Origin", "https://evil.example");
    let preflight = preflight.header("Access-Control-Request-Method", "POST").send();

    without_cors(&read);
    without_cors(&preflight);
    assert_eq!(preflight.status, 405);
    for name in ["cache-control", "content-security-policy", "x-frame-options"] {
        assert!(read.header(name).is_some(), "{name}");
    }
    assert_eq!(read.header("cache-control"), Some("no-store"));
}

/// Only a session shows sessions: a token is not the person in front of the browser.
#[test]
fn without_a_session_there_is_nothing_to_see() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().user("alice", PASSWORD, &[]).issuer(&issuer).route("/app/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("id-of-alice", &[], gateway.now()));
    gateway.log_in("alice");

    gateway.client().get(SESSIONS).send().expect(401);
    gateway.client().get(SESSIONS).bearer(&token).send().expect(401);
    gateway.client().post(SESSIONS, "").bearer(&token).json(&json!({ "end": "others" })).send().expect(401);
    let answer = gateway.person().visit(SESSIONS).expect(302);
    assert_eq!(answer.header("location"), Some("/_auth/login?return_to=/_auth/sessions"));
}

#[test]
fn an_ended_session_is_listed_nowhere() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[session]\nidle_timeout = \"30m\"")
        .user("alice", PASSWORD, &[])
        .route("/app/{*rest}", &upstream)
        .start();
    let (here, _there) = (gateway.log_in("alice"), gateway.log_in("alice"));
    gateway.advance(20 * MINUTE);
    assert!(lives(&here));
    assert_eq!(list(&here).len(), 2);

    gateway.advance(20 * MINUTE);

    assert_eq!(list(&here).len(), 1);
}

#[test]
fn an_operator_sees_and_ends_sessions_by_command() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut person = Person::new(gateway.client().always("User-Agent", FIREFOX));
    person.log_in("alice", PASSWORD).expect(303);
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let url = format!("http://{}", gateway.addresses().admin.expect("it listens"));
    let file = gateway.folder().join("admin.token");
    let run = |arguments: &[&str]| {
        let file = file.to_str().expect("a path");
        let admin = ["--admin", &url, "--token-file", file];
        Shell::empty().run(&[&["sessions"], arguments, &admin].concat())
    };

    let all = run(&["list"]).expect(0);
    let of_alice = run(&["list", "--user", "id-of-alice", "--realm", "staff"]).expect(0);
    let as_json = run(&["list", "--json", "--user", "id-of-bob"]).expect(0);

    assert_eq!((all.out.lines().count(), of_alice.out.lines().count()), (4, 3));
    assert!(of_alice.out.contains("Firefox on Windows") && of_alice.out.contains("127.0.0.1"), "{}", of_alice.out);
    let described: Value = serde_json::from_str(as_json.out.trim()).expect("one JSON object");
    assert_eq!(described["subject"], "id-of-bob");

    let key = described["key"].as_str().expect("a key");
    assert_eq!(run(&["revoke", "--key", key]).expect(0).out, "1 session ended\n");
    assert!(!lives(&bob) && lives(&alice));
    assert_eq!(run(&["revoke", "--user", "id-of-alice"]).expect(0).out, "2 sessions ended\n");
    assert!(!lives(&alice));
    assert_eq!(run(&["revoke", "--user", "id-of-alice"]).expect(0).out, "0 sessions ended\n");
    for wrong in [&["revoke"][..], &["revoke", "--user", "a", "--key", key], &["list", "--who", "a"]] {
        run(wrong).expect(2);
    }
    assert!(run(&["revoke", "--key", "nonsense"]).expect(1).err.contains("64 digits"));
}
