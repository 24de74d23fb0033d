//! How our pages look and what they say: title, logo, colours, languages, and the choice of providers.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::support::{
    Browser, Form, Gateway, Response, Upstream,
    gateway::Running,
    person::{Person, percent},
};

const PASSWORD: &str = "correct horse battery staple";

fn gateway(upstream: &Upstream, login: &str) -> Running {
    Gateway::with(login).user("alice", PASSWORD, &[]).route("/app/{*rest}", upstream).start()
}

fn login_page(gateway: &Running, language: &str) -> Response {
    gateway.client().get("/_auth/login").navigation().header("Accept-Language", language).send().expect(200)
}

const GERMAN: &str = "[login]\ntitle = \"Acme <& Söhne>\"\n[login.texts.de]\nsign_in = \"Anmelden\"\n\
    sign_in_to = \"bei {site}\"\nfailed = \"Name oder Passwort <falsch>\"\nnotice = \"Nur für Mitarbeiter\"\n\
    no_route = \"Hier ist nichts.\"\nnot_found_title = \"Nicht gefunden\"\n[login.texts.ar]\nsign_in = \"تسجيل الدخول\"\n";

/// RFC 9110 section 12.5.4.
#[test]
fn a_page_speaks_the_readers_language() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, GERMAN);

    let german = login_page(&gateway, "fr, de-AT;q=0.9, en;q=0.1").text();
    assert!(german.contains("<html lang=\"de\">") && german.contains("<h1>Anmelden</h1>"), "{german}");
    assert!(german.contains("bei Acme &lt;&amp; Söhne&gt;") && german.contains("Nur für Mitarbeiter"), "{german}");
    assert!(german.contains(">Password</label>"), "what is not translated is English: {german}");

    let english = login_page(&gateway, "fr").text();
    assert!(english.contains("<html lang=\"en\"") && english.contains("to Acme &lt;&amp; Söhne&gt;"), "{english}");
    assert!(!english.contains("<footer>"), "{english}");
    assert!(login_page(&gateway, "ar-EG").text().contains("<html lang=\"ar\" dir=\"rtl\">"));

    let missing = gateway.client().get("/nowhere").navigation().header("Accept-Language", "de").send().expect(404);
    assert!(missing.text().contains("<h1>Nicht gefunden</h1>") && missing.text().contains("Hier ist nichts."));
    let program = gateway.client().get("/nowhere").header("Accept-Language", "de").send().expect(404);
    assert_eq!(program.json()["error_description"], "There is nothing at this address.", "programs read English");
}

/// What a session was opened by is kept in English, and told in the reader's language.
#[test]
fn devices_are_told_in_the_readers_language() {
    let upstream = Upstream::start();
    let texts = "[login.texts.de]\non_system = \"unter {system}\"\nsome_browser_on = \"Ein Browser unter {system}\"\n\
        unknown_device = \"Unbekanntes Gerät\"\n";
    let gateway = gateway(&upstream, texts);
    for (sent, german, english) in [
        ("Mozilla/5.0 (Windows NT 10.0) Firefox/145.0", "Firefox unter Windows", "Firefox on Windows"),
        ("Mozilla/5.0 (Windows NT 10.0) New/1", "Ein Browser unter Windows", "A browser on Windows"),
        ("-/", "-", "-"),
        ("<>", "Unbekanntes Gerät", "Unknown device"),
    ] {
        let mut person = Person::new(gateway.client().always("User-Agent", sent));
        person.log_in("alice", PASSWORD).expect(303);
        for (language, told) in [("de", german), ("en", english)] {
            let request = gateway.client().get("/_auth/sessions").navigation().header("Accept-Language", language);
            let page = person.send(request).expect(200).text();
            assert!(page.contains(&format!(">{told}</strong> <span class=\"badge\">")), "{told}: {page}");
        }
    }
}

/// The problem is said first, and belongs to the field that has the focus.
#[test]
fn a_problem_is_announced_in_the_readers_language() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, &format!("{GERMAN}[login.texts.en]\nproblem = \"Oh no\"\n"));
    let mut person = gateway.person();

    let page = person.log_in("alice", "wrong").expect(401).text();

    assert!(page.contains("<title>Oh no: Sign in · Acme"), "{page}");
    assert!(page.contains("id=\"problem\" role=\"alert\">The user name or the password is wrong.<"), "{page}");
    assert_eq!(page.matches("aria-describedby=\"problem\"").count(), 2, "{page}");
    assert!(page.contains("aria-invalid=\"true\""), "{page}");
}

/// R33: colours and logo come with the page; the policy allows these and nothing else.
#[test]
fn a_logo_and_colors_keep_the_policy_strict() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::with("[login]\nlogo = \"logo.svg\"\ncolors = { accent = \"#0b6e4f\", card = \"#fffff8\" }\n")
            .file("logo.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>")
            .user("alice", PASSWORD, &[])
            .route("/app/{*rest}", &upstream)
            .start();

    let page = login_page(&gateway, "en");

    let text = page.text();
    let style = text.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).expect("a style");
    let hash = STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, style.as_bytes()));
    let policy = page.header("content-security-policy").expect("a policy");
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action https: http:; frame-ancestors 'none'; \
             base-uri 'none'"
        )
    );
    assert!(style.contains("--accent:#0b6e4f;") && style.contains("prefers-color-scheme:dark){:root{--accent:#"));
    assert!(
        text.contains("<img class=\"logo\" src=\"data:image/svg+xml;base64,") && !text.contains("http://"),
        "{text}"
    );
    let plain = gateway.client().get("/_auth/session").send().expect(401);
    assert!(!plain.header("content-security-policy").expect("a policy").contains("img-src"), "only where it is needed");
}

/// Real Chromium: what was chosen is what is seen, in the light and in the dark.
#[test]
fn colors_are_seen_in_light_and_dark() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = Gateway::with(
        "[login]\ntitle = \"Acme Trading\"\nlogo = \"logo.svg\"\ncolors = { accent = \"#0b6e4f\", card = \"#fffff8\" }\n\
         [login.texts.en]\nnotice = \"For staff only. Help: extension 4711\"\n",
    )
    .file("logo.svg", LOGO)
    .user("alice", PASSWORD, &[])
    .route("/app/{*rest}", &upstream)
    .start();
    browser.open(gateway.addresses().gateway[0], "/_auth/login");
    browser.sees("to Acme Trading");
    let seen = |scheme: &str| {
        browser.screenshot((1280, 800), scheme, &browser.picture(&gateway.folder(), &format!("themed-{scheme}")));
        let script = "const of = (e, p) => getComputedStyle(document.querySelector(e))[p]; \
            return [of('button', 'backgroundColor'), of('main', 'backgroundColor'), \
                document.querySelector('.logo').naturalWidth]";
        browser.run(script)
    };

    assert_eq!(seen("light"), serde_json::json!(["rgb(11, 110, 79)", "rgb(255, 255, 248)", 40]));
    let dark = seen("dark");
    assert_eq!(dark[1], "rgb(22, 28, 37)", "the light card does not stay: {dark}");
    assert_ne!(dark[0], "rgb(11, 110, 79)", "the accent is made bright enough: {dark}");
}

const LOGO: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"40\" height=\"40\">\
    <circle cx=\"20\" cy=\"20\" r=\"18\" fill=\"#0b6e4f\"/></svg>";

/// Real Chromium: the choice, without scripts, on a phone.
#[test]
fn people_choose_without_scripts() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = two_providers(&upstream);
    browser.without_scripts();
    browser.open(gateway.addresses().gateway[0], "/app/x");
    browser.sees("Which account do you use?");
    browser.screenshot((360, 640), "light", &browser.picture(&gateway.folder(), "choice"));
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true);

    browser.click("li:nth-of-type(2) a");
    browser.sees("Our partners");
    browser.screenshot((360, 640), "dark", &browser.picture(&gateway.folder(), "chosen"));
    assert_eq!(browser.run("return document.activeElement.id"), "username");
    browser.type_into("#username", "carol");
    browser.type_into("#password", PASSWORD);
    browser.click("button");
    upstream.next_request();
    assert_eq!(browser.path(), "/app/x");
}

const TWO_PROVIDERS: &str = "[[login.provider]]\nname = \"partners\"\nlabel = \"Our partners\"\nrealm = \"staff\"\n\
    grants = \"all\"\n[[login.provider.user]]\nname = \"carol\"\nid = \"id-of-carol\"\npassword = \"HASH\"\n";

fn two_providers(upstream: &Upstream) -> Running {
    let hash = portcullis::accounts::hash_password(PASSWORD).expect("a hash");
    Gateway::new()
        .user("alice", PASSWORD, &[])
        .table(&TWO_PROVIDERS.replace("HASH", &hash))
        .route("/app/{*rest}", upstream)
        .start()
}

/// One chooses once, and still comes back to where one wanted to go, over a wrong password and an expired form.
#[test]
fn with_several_providers_people_choose_and_come_back() {
    let upstream = Upstream::start();
    let gateway = two_providers(&upstream);
    let mut carol = gateway.person();

    let sent_away = carol.visit("/app/a?b=c&d=%26").expect(302);
    let choice = carol.follow(&sent_away).expect(200).text();
    assert!(!choice.contains("<form") && choice.contains("Sign in with local"), "{choice}");
    let way =
        format!("/_auth/login/partners?prompt=login&return_to={}", percent("/app/a?b=c&d=%26").replace("%2F", "/"));
    assert!(choice.contains(&format!("href=\"{}\"", way.replace('&', "&amp;"))), "{choice}");

    let form = carol.visit(&way).expect(200);
    assert!(form.text().contains("Our partners"), "{form:?}");
    carol.forget("__Host-portcullis-login");
    let expired = carol.submit(&form, &[("username", "carol"), ("password", PASSWORD)]).expect(403);
    let wrong = carol.submit(&expired, &[("username", "carol"), ("password", "wrong")]).expect(401);
    let back = carol.submit(&wrong, &[("username", "carol"), ("password", PASSWORD)]).expect(303);
    assert_eq!(back.header("location"), Some("/app/a?b=c&d=%26"));
    carol.follow(&back).expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("id-of-carol"));
}

/// Each provider knows its own users only.
#[test]
fn a_providers_form_logs_in_its_own_users_only() {
    let upstream = Upstream::start();
    let gateway = two_providers(&upstream);
    for (provider, name, expected) in
        [("local", "alice", 303), ("local", "carol", 401), ("partners", "carol", 303), ("partners", "alice", 401)]
    {
        let mut person = gateway.person();
        let page = person.visit(&format!("/_auth/login/{provider}")).expect(200);
        // A field does not outrank the address.
        let form = Form::of(&page).with("provider", "local").with("username", name).with("password", PASSWORD);
        assert_eq!(person.send_form(&form).status, expected, "{name} at {provider}");
    }
    for path in ["/_auth/login/nobody", "/_auth/login/local/x", "/_auth/login/LOCAL"] {
        gateway.client().get(path).navigation().send().expect(404);
    }
}
