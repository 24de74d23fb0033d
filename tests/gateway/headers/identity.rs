//! R12: whatever a client sends, under whatever spelling, nothing reaches an upstream under a name of ours but ours.

use serde_json::json;

use crate::support::{Gateway, Issuer, Seen, Upstream, gateway::Running};

/// What a forger sends everywhere; it must never arrive.
const FORGED: &str = "root-forged";

/// Every name that some profile, prefix or option manages, and what other proxies' backends believe.
const MANAGED: &[&str] = &[
    "x-user-id",
    "x-user-name",
    "x-user-email",
    "x-user-roles",
    "x-user-groups",
    "x-user-scopes",
    "x-user-auth",
    "x-user-assertion",
    "x-user-anything",
    "x-user-",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-access-token",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-preferred-username",
    "x-auth-request-access-token",
    "remote-user",
    "remote-name",
    "remote-email",
    "remote-groups",
    "x-department",
];

/// A name as somebody might spell it who wants a backend to read it as ours.
type Spelling = fn(&str) -> String;

/// Spellings that pass the HTTP parsers of this world.
const SPELLINGS: &[(&str, Spelling)] = &[
    ("as it is", |name| name.to_owned()),
    ("in capitals", |name| name.to_ascii_uppercase()),
    ("in mixed case", |name| name.replace("x-", "X-").replace("user", "uSeR")),
    ("with underscores", |name| name.replace('-', "_")),
    ("with one underscore", |name| name.replacen('-', "_", 1)),
    ("with the last dash an underscore", |name| match name.rsplit_once('-') {
        Some((front, back)) => format!("{front}_{back}"),
        None => name.to_owned(),
    }),
    ("with dots", |name| name.replace('-', ".")),
    ("with dots and capitals", |name| name.replace('-', ".").to_ascii_uppercase()),
    ("with underscores and capitals", |name| name.replace('-', "_").to_ascii_uppercase()),
    ("with exclamation marks", |name| name.replace('-', "!")),
    ("with plus signs", |name| name.replace('-', "+")),
    ("with tildes", |name| name.replace('-', "~")),
    ("with carets", |name| name.replacen('-', "^", 1)),
    ("with apostrophes", |name| name.replacen('-', "'", 1)),
    ("with pipes", |name| name.replace('-', "|")),
];

/// With every way of getting in, so that the forger's headers meet every route.
struct Site {
    gateway: Running,
    upstream: Upstream,
    token: String,
    session: String,
}

impl Site {
    fn new(profile: &str, odd: &str) -> Self {
        let upstream = Upstream::start();
        let issuer = Issuer::es256();
        let identity = format!("[identity]\nheaders = {profile:?}\nextra = {{ \"X-Department\" = \"department\" }}");
        let gateway = Gateway::with(&identity).server(&format!("odd_header_names = {odd:?}")).issuer(&issuer).admin();
        let gateway = gateway.route("/open/{*rest}", &upstream).auth(&["none"]);
        let gateway = gateway.route("/passing/{*rest}", &upstream).auth(&["none"]).key("pass_authorization = true");
        let gateway = gateway.route("/optional/{*rest}", &upstream).key("optional = true");
        let gateway = gateway.route("/jwt/{*rest}", &upstream).auth(&["jwt"]).key("forward_credential = true");
        let gateway = gateway.route("/session/{*rest}", &upstream).auth(&["session"]).start();
        let mut claims = Issuer::claims("alice", &["user"], gateway.now());
        claims["department"] = json!("sales");
        let entry = json!({ "subject": "alice", "roles": ["user"], "claims": { "department": "sales" } });
        let answer = gateway.admin().post("/api/v1/sessions", "").json(&entry).send().expect(201);
        let session = format!("__Host-portcullis={}", answer.json()["token"].as_str().unwrap());
        Self { token: issuer.sign(&claims), session, gateway, upstream }
    }

    /// Sends all managed names in one spelling to every route; answers what the upstream saw.
    fn forge(&self, spell: Spelling, http2: bool) -> Vec<(&'static str, Seen)> {
        let client = self.gateway.client();
        let routes = [
            ("open", client.get("/open/x")),
            ("passing", client.get("/passing/x")),
            ("optional", client.get("/optional/x")),
            ("jwt", client.get("/jwt/x").bearer(&self.token)),
            ("session", client.get("/session/x").cookie(&self.session)),
        ];
        routes
            .into_iter()
            .map(|(route, mut request)| {
                for name in MANAGED {
                    request = request.header(&spell(name), FORGED);
                }
                let answer = if http2 { request.send_http2() } else { request.send() };
                assert_eq!(answer.status, 200, "{route}: {answer:?}");
                (route, self.upstream.next_request())
            })
            .collect()
    }
}

/// R12.
#[test]
fn no_spelling_of_a_managed_name_survives_on_any_route() {
    for odd in ["drop", "keep"] {
        let site = Site::new("x-user", odd);
        for (how, spell) in SPELLINGS {
            for http2 in [false, true] {
                for (route, seen) in site.forge(*spell, http2) {
                    let raw = String::from_utf8_lossy(&seen.raw);
                    assert!(!raw.contains(FORGED), "{odd}, {how}, HTTP/2 {http2}, {route}:\n{raw}");
                    let known = matches!(route, "jwt" | "session");
                    assert_eq!(seen.header("x-user-id"), known.then_some("alice"), "{odd} {how} {route}");
                    assert_eq!(seen.header("x-user-roles"), known.then_some("user"), "{odd} {how} {route}");
                    assert_eq!(seen.header("x-department"), known.then_some("sales"), "{odd} {how} {route}");
                    assert_eq!(seen.header("x-user-email"), None, "{odd} {how} {route}");
                }
            }
        }
    }
}

/// R12. All profiles are managed, whichever is in use.
#[test]
fn each_profile_sets_its_own_names_and_removes_those_of_all() {
    for (profile, id) in [
        ("x-user", "x-user-id"),
        ("x-forwarded-user", "x-forwarded-user"),
        ("x-auth-request", "x-auth-request-user"),
        ("remote-user", "remote-user"),
    ] {
        let site = Site::new(profile, "drop");
        for (route, seen) in site.forge(|name| name.to_owned(), false) {
            let known = matches!(route, "jwt" | "session");
            assert!(!String::from_utf8_lossy(&seen.raw).contains(FORGED), "{profile} {route}: {seen:?}");
            assert_eq!(seen.header(id), known.then_some("alice"), "{profile} {route}");
            let others = ["x-user-id", "x-forwarded-user", "x-auth-request-user", "remote-user"];
            for other in others.into_iter().filter(|other| *other != id) {
                assert_eq!(seen.header(other), None, "{profile} {route}");
            }
        }
    }
}

/// R12. The twin: what only resembles a managed name is the client's own.
#[test]
fn other_names_pass_untouched() {
    let site = Site::new("x-user", "drop");
    let names =
        ["X-Userland", "X-User", "XX-User-Id", "X-Usr-Id", "Remote-Users", "User-Id", "X-Departments", "Accept"];
    let mut request = site.gateway.client().get("/open/x");
    for name in names {
        request = request.header(name, "mine");
    }

    request.send().expect(200);

    let seen = site.upstream.next_request();
    for name in names {
        assert_eq!(seen.header(name), Some("mine"), "{name}");
    }
}

/// R12.
#[test]
fn names_with_odd_characters_are_dropped_unless_they_are_to_be_kept() {
    for (odd, passes) in [("drop", false), ("keep", true)] {
        let site = Site::new("x-user", odd);
        let request = site.gateway.client().get("/open/x").header("My_Header", "1").header("My.Header", "2");

        request.send().expect(200);

        let seen = site.upstream.next_request();
        assert_eq!(seen.header("my_header"), passes.then_some("1"), "{odd}");
        assert_eq!(seen.header("my.header"), passes.then_some("2"), "{odd}");
    }
}

/// R12, R15. What a CGI backend would read as another of our fields, or as framing, whatever the spelling.
#[test]
fn no_odd_spelling_of_a_field_that_means_something_to_us_is_kept() {
    let site = Site::new("x-user", "keep");
    let names = [
        "Content_Length",
        "Transfer_Encoding",
        "X_Forwarded_For",
        "X_Real_IP",
        "X_Original_URL",
        "X_Rewrite_URL",
        "X_HTTP_Method_Override",
        "X_Request_Id",
        "Authorization_",
        "X.Forwarded.Proto",
    ];
    let mut request = site.gateway.client().get("/open/x");
    for name in &names[..8] {
        request = request.header(name, "7331");
    }

    request.header(names[9], "7331").send().expect(200);

    let seen = site.upstream.next_request();
    assert!(!String::from_utf8_lossy(&seen.raw).contains("7331"), "{seen:?}");
}

/// R12. What the client names in `Connection` is removed before ours are set, so it cannot remove ours.
#[test]
fn connection_cannot_take_our_headers_away() {
    let site = Site::new("x-user", "drop");
    let request = site.gateway.client().get("/jwt/x").bearer(&site.token).header("X-Mine", "1");
    let request = request
        .header("Connection", "keep-alive, X-User-Id, x-user-roles, X-Mine, X-Forwarded-For, X-Request-Id, Host");

    request.send().expect(200);

    let seen = site.upstream.next_request();
    assert_eq!((seen.header("x-user-id"), seen.header("x-user-roles")), (Some("alice"), Some("user")));
    assert_eq!(seen.header("x-mine"), None);
    assert!(seen.header("x-forwarded-for").is_some() && seen.header("x-request-id").is_some());
    assert_eq!(seen.header("host"), Some("app.test"));
}

/// R12, R18. Some backends merge trailers into headers.
#[test]
fn a_trailer_carries_no_identity() {
    let site = Site::new("x-user", "keep");
    let head = format!(
        "POST /jwt/x HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {}\r\nTrailer: X-User-Id, X_User_Id\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        site.token
    );
    let body = format!("2\r\nhi\r\n0\r\nX-User-Id: {FORGED}\r\nX_User_Id: {FORGED}\r\nx-department: {FORGED}\r\n\r\n");

    site.gateway.client().raw_response(head + &body).expect(200);

    let seen = site.upstream.next_request();
    assert_eq!((seen.text().as_str(), seen.header("x-user-id")), ("hi", Some("alice")));
    assert!(!String::from_utf8_lossy(&seen.raw).contains(FORGED), "{seen:?}");
    assert!(seen.trailers.is_empty(), "{seen:?}");
}

/// R12, R18. Where a route wants trailers they pass, but for those that could be read as ours.
#[test]
fn trailers_pass_where_the_route_wants_them_and_carry_no_identity() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).key("request_trailers = true").start();
    let request = format!(
        "POST /x HTTP/1.1\r\nHost: app.test\r\nTrailer: X-Sum, X-User-Id\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-User-Id: {FORGED}\r\nX_User_Id: {FORGED}\r\nAuthorization: {FORGED}\r\n\r\n"
    );

    gateway.client().raw_response(request).expect(200);

    let seen = upstream.next_request();
    assert_eq!((seen.text(), seen.trailers), ("hi".into(), vec![("x-sum".into(), "7".into())]));
}

/// R12, R18. Spellings that only a careless parser reads as ours are no HTTP at all.
#[test]
fn what_is_no_header_name_is_refused() {
    let site = Site::new("x-user", "keep");
    for line in [
        "X-User-Id : root",
        "X-User-Id\t: root",
        " X-User-Id: root",
        "X-User-Id\0: root",
        "X-User-Id\u{a0}: root",
        "X User Id: root",
        "X-User-Id; root",
        "X-Mine: a\rX-User-Id: root",
        "X-Mine: a\nX-User-Id: root",
        "X-Mine: a\r\n X-User-Id: root",
        "X-Mine: a\0X-User-Id: root",
        ": root",
        "\"X-User-Id\": root",
    ] {
        let answer =
            site.gateway.client().raw_response(format!("GET /open/x HTTP/1.1\r\nHost: app.test\r\n{line}\r\n\r\n"));
        assert_eq!(answer.status, 400, "{line:?}");
    }
    assert_eq!(site.upstream.connection_count(), 0);
    site.gateway.client().raw_response("GET /open/x HTTP/1.1\r\nHost:app.test\r\nX-Mine:a\r\n\r\n").expect(200);
}

/// R12. An absent value is an absent header, not an empty one.
#[test]
fn an_absent_value_is_an_absent_header() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("alice", &[], gateway.now());
    claims["name"] = json!("");
    claims["email"] = json!(null);
    claims["groups"] = json!(["", ""]);

    gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);

    let seen = upstream.next_request();
    let ours: Vec<String> = seen.names().into_iter().filter(|name| name.starts_with("x-user")).collect();
    assert_eq!(ours, ["x-user-id", "x-user-auth"]);
}
