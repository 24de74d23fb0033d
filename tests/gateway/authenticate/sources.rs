//! R5: subjects and roles mean something within their realm; a source grants what it may, and no more.

use serde_json::json;

use crate::support::{Gateway, Issuer, Upstream, eventually};

const OTHER: &str = "issuer = \"https://other.test\"";

/// R5.
#[test]
fn what_a_source_may_not_grant_is_dropped_and_counted() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer_with(&issuer, "grants = { roles = [\"user\"], groups = [\"staff\"] }");
    let gateway = gateway.route("/any", &upstream).route("/admin", &upstream).require_role("admin");
    let gateway = gateway.route("/banned", &upstream).key("require = { none = [\"role:admin\"] }").start();
    let mut claims = Issuer::claims("mallory", &["user", "admin"], gateway.now());
    claims["groups"] = json!(["root", "staff"]);
    let token = issuer.sign(&claims);

    gateway.client().get("/any").bearer(&token).send().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-roles"), seen.header("x-user-groups")), (Some("user"), Some("staff")));
    gateway.client().get("/admin").bearer(&token).send().expect(403);
    eventually("the drop is counted", || gateway.metric("portcullis_grants_dropped_total", &[]) > 1.0);
}

/// R5. The same for sessions that another program opens.
#[test]
fn an_admin_token_grants_what_it_may_and_no_more() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin_that_grants("{ roles = [\"user\"] }").route("/{*rest}", &upstream).start();

    let client = gateway.open_session(&json!({ "subject": "eve", "roles": ["user", "admin"], "groups": ["root"] }));
    client.get("/x").send().expect(200);

    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-roles"), seen.header("x-user-groups")), (Some("user"), None));
}

/// R5.
#[test]
fn several_sources_each_say_what_they_may_grant() {
    let upstream = Upstream::start();
    let (one, two) = (Issuer::es256(), Issuer::es256());
    let start = |table: &str| {
        let gateway = Gateway::new().issuer(&one).table(table).route("/{*rest}", &upstream).auth(&["jwt:test"]);
        gateway.try_start().map(drop)
    };
    let folder = tempfile::tempdir().unwrap();
    let source = format!(
        "[[jwt.issuer]]\nname = \"other\"\nrealm = \"staff\"\n{OTHER}\naudience = [\"x\"]\nalgorithms = [\"ES256\"]\n\
         jwks = {}\n",
        two.write_key(folder.path())
    );

    let report = start(&source).expect_err("a report");
    assert!(report.contains("no `grants` of `other`"), "{report}");
    start(&format!("{source}grants = \"all\"\n")).expect("it starts");
}

/// R5. `alice` of one realm is not `alice` of the other.
#[test]
fn a_route_across_realms_is_no_configuration_unless_upstreams_can_tell_them_apart() {
    let upstream = Upstream::start();
    let (one, two) = (Issuer::es256(), Issuer::es256());
    let start = |identity: &str| {
        let gateway = Gateway::with(identity).issuer(&one).issuer_with(&two, &format!("{OTHER}\nrealm = \"guests\""));
        gateway.route("/{*rest}", &upstream).auth(&["jwt:test", "jwt:test2"]).try_start()
    };

    let report = start("").err().expect("a report");
    assert!(report.contains("sources of the realms guests and staff"), "{report}");
    let gateway = start("[identity]\nsubject = \"realm:sub\"").expect("it starts");
    let claims = Issuer::claims("alice", &[], gateway.now());
    let mut theirs = claims.clone();
    theirs["iss"] = json!("https://other.test");

    gateway.client().get("/x").bearer(&one.sign(&claims)).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("staff:alice"));
    gateway.client().get("/x").bearer(&two.sign(&theirs)).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("guests:alice"));
}

/// R5. Each issuer's tokens count where its name is written, and are checked with its keys alone.
#[test]
fn a_token_counts_only_where_its_issuer_is_named() {
    let upstream = Upstream::start();
    let (one, two) = (Issuer::es256(), Issuer::es256());
    let gateway = Gateway::new().issuer(&one).issuer_with(&two, OTHER);
    let gateway = gateway.route("/one", &upstream).auth(&["jwt:test"]);
    let gateway = gateway.route("/two", &upstream).auth(&["jwt:test2"]);
    let gateway = gateway.route("/both", &upstream).auth(&["jwt:test", "jwt:test2"]).start();
    let ours = Issuer::claims("alice", &[], gateway.now());
    let mut theirs = ours.clone();
    theirs["iss"] = json!("https://other.test");
    let (by_one, by_two) = (one.sign(&ours), two.sign(&theirs));
    let (one_as_two, two_as_one) = (one.sign(&theirs), two.sign(&ours));

    for _ in 0..2 {
        for (path, token, status) in [
            ("/one", &by_one, 200),
            ("/one", &by_two, 401),
            ("/one", &one_as_two, 401),
            ("/one", &two_as_one, 401),
            ("/two", &by_two, 200),
            ("/two", &by_one, 401),
            ("/two", &one_as_two, 401),
            ("/two", &two_as_one, 401),
            ("/both", &by_one, 200),
            ("/both", &by_two, 200),
            ("/both", &one_as_two, 401),
            ("/both", &two_as_one, 401),
        ] {
            assert_eq!(gateway.client().get(path).bearer(token).send().status, status, "{path}");
        }
    }
}

/// R5.
#[test]
fn jwt_means_the_only_issuer_and_names_nobody_when_there_are_several() {
    let upstream = Upstream::start();
    let (one, two) = (Issuer::es256(), Issuer::es256());
    let start = |several: bool, auth: &str| {
        let gateway = Gateway::new().issuer(&one);
        let gateway = if several { gateway.issuer_with(&two, OTHER) } else { gateway };
        gateway.route("/{*rest}", &upstream).auth(&[auth]).try_start().map(drop)
    };

    start(false, "jwt").expect("it starts");
    start(false, "jwt:test").expect("it starts");
    start(true, "jwt:test2").expect("it starts");
    let report = start(true, "jwt").expect_err("a report");
    assert!(report.contains("jwt:test2"), "{report}");
    let report = start(true, "jwt:tset2").expect_err("a report");
    assert!(report.contains("did you mean"), "{report}");
}
