//! `portcullis diff`: what another configuration opens and closes, and that a reload says the same.

use crate::support::{Gateway, Shell, Upstream, cli::Said};

const BASE: &str = r#"version = 1
[server]
listen = ["http://127.0.0.1:0"]
hosts = ["app.test"]
[[login.provider]]
name = "local"
realm = "staff"
grants = "all"
[[login.provider.user]]
name = "alice"
password = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$K7N0YYcJDGS2Q9RjQ4nJwVQEyxr6SVcDSyZLHW9VzJk"
[upstream.app]
servers = ["http://10.0.0.5:8080"]
[[route]]
name = "app"
match = { path = "/app/{*rest}" }
auth = ["session"]
upstream = "app"
[[route]]
name = "admin"
match = { path = "/admin/{*rest}", methods = ["GET", "POST"] }
auth = ["session"]
require = { any = ["role:admin", "group:ops"], none = ["role:contractor"], max_auth_age = "1h" }
upstream = "app"
[[route]]
name = "own"
match = { path = "/users/{id}" }
auth = ["session"]
require = { all = ["path:id == sub"] }
rate_limit = { caller = "10/1s" }
upstream = "app"
"#;

#[track_caller]
fn diff(edits: &[(&str, &str)]) -> Said {
    let shell = Shell::empty();
    let mut new = BASE.to_owned();
    for (from, to) in edits {
        assert!(new.contains(from), "{from}");
        new = new.replace(from, to);
    }
    shell.write("old.toml", BASE);
    shell.write("new.toml", &new);
    shell.run(&["diff", "old.toml", "new.toml"])
}

#[test]
fn the_same_configuration_opens_and_closes_nothing() {
    let said = diff(&[]).expect(0);

    assert_eq!(said.out, "the same requests get through, to the same places\n");
}

#[test]
fn whatever_opens_a_route_is_told_with_a_request_that_shows_it() {
    let mut wrong = Vec::new();
    for (from, to, expect) in [
        (
            "require = { any = [\"role:admin\", \"group:ops\"], ",
            "require = { ",
            "more open: admin: GET https://app.test/admin",
        ),
        ("\"group:ops\"", "\"group:dev\"", "by a session of local with group:dev is let through to app, was 403 (any)"),
        (
            ", none = [\"role:contractor\"]",
            "",
            "with role:admin, role:contractor is let through to app, was 403 (role)",
        ),
        ("max_auth_age = \"1h\"", "max_auth_age = \"999d\"", "whose login was long ago, is let through"),
        (
            "methods = [\"GET\", \"POST\"] }",
            "methods = [\"GET\", \"POST\", \"DELETE\"] }",
            "more open: admin: DELETE https://app.test",
        ),
        (
            "require = { all = [\"path:id == sub\"] }\n",
            "",
            "more open: own: GET https://app.test/users/another by a session of local",
        ),
        (
            "auth = [\"session\"]\nupstream = \"app\"\n[[route]]\nname = \"admin\"",
            "auth = [\"none\"]\nupstream = \"app\"\n[[route]]\nname = \"admin\"",
            "more open: app: GET https://app.test/app by nobody known is let through to app, was 401 (no_credential)",
        ),
        (
            "auth = [\"session\"]\nupstream = \"app\"\n[[route]]\nname = \"admin\"",
            "auth = [\"session\"]\ncsrf = \"off\"\nupstream = \"app\"\n[[route]]\nname = \"admin\"",
            "on a page of https://elsewhere.example, is let through to app, was 403 (cross_site)",
        ),
        (
            "auth = [\"session\"]\nupstream = \"app\"\n[[route]]\nname = \"admin\"",
            "auth = [\"session\"]\nupgrade = [\"websocket\"]\nupstream = \"app\"\n[[route]]\nname = \"admin\"",
            "more open: app: upgrade",
        ),
        ("10/1s", "20/1s", "more open: own: rate_limit"),
        ("hosts = [\"app.test\"]", "hosts = [\"app.test\", \"other.test\"]", "https://other.test/"),
        (
            "path = \"/users/{id}\"",
            "path = [\"/users/{id}\", \"/people/{id}\"]",
            "more open: own: GET https://app.test/people/somebody by a session of local",
        ),
    ] {
        let said = diff(&[(from, to)]);

        if !said.out.contains(expect) || said.code != 3 {
            wrong.push(format!("{to}: exit code {}, and\n{}", said.code, said.out));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_closes_or_moves_is_told_and_opens_nothing() {
    let mut wrong = Vec::new();
    for (from, to, expect) in [
        (
            "require = { all = [\"path:id == sub\"] }",
            "require = { all = [\"path:id == sub\", \"role:user\"] }",
            "more closed: own: GET https://app.test/users/somebody",
        ),
        ("grants = \"all\"", "grants = { groups = [\"ops\"] }", "more closed: admin: "),
        (
            "methods = [\"GET\", \"POST\"] }",
            "methods = [\"GET\"] }",
            "is 405 (method_not_allowed), was let through to app",
        ),
        ("max_auth_age = \"1h\"", "max_auth_age = \"1h\", all = [\"ip:10.0.0.0/8\"]", "more closed: admin: "),
        ("10.0.0.5:8080", "10.0.0.6:8080", "different: admin: GET https://app.test/admin"),
        (
            "[upstream.app]",
            "[identity]\nsubject = \"realm:sub\"\nheaders = \"remote-user\"\n[upstream.app]",
            "different: app: ",
        ),
        ("10/1s", "5/1s", "more closed: own: rate_limit"),
        ("name = \"app\"\nmatch", "name = \"app\"\nstrip_prefix = \"/app\"\nmatch", "is let through to app as /, was"),
        (
            "name = \"app\"\nmatch",
            "name = \"app\"\nrequest_headers = { remove = [\"X-Debug\"] }\nmatch",
            "different: app: request_headers",
        ),
        ("name = \"app\"\nmatch", "name = \"app\"\nmax_body = \"1KiB\"\nmatch", "different: app: max_body"),
        ("name = \"app\"\nmatch", "name = \"app\"\ntotal_timeout = \"1m\"\nmatch", "different: app: total_timeout"),
        (
            "listen = [\"http://127.0.0.1:0\"]",
            "listen = [\"http://127.0.0.1:0\"]\nworkers = 77",
            "needs a restart: server.workers",
        ),
    ] {
        let said = diff(&[(from, to)]);

        if !said.out.contains(expect) || said.code != 0 {
            wrong.push(format!("{to}: exit code {}, and\n{}", said.code, said.out));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn another_place_for_tokens_is_told_for_the_routes_that_take_them() {
    let issuer = "[[jwt.issuer]]\nname = \"id\"\nissuer = \"id\"\njwks = { url = \"http://127.0.0.1:1/keys\" }\n\
                  algorithms = [\"RS256\"]\naudience = \"api\"\nrealm = \"staff\"\ngrants = \"all\"\n";
    let with = |places: &str| {
        let text = BASE.replace("[upstream.app]", &format!("{places}{issuer}[upstream.app]"));
        text.replacen("auth = [\"session\"]", "auth = [\"session\", \"jwt\"]", 1)
    };
    let shell = Shell::empty();
    shell.write("old.toml", &with(""));
    shell.write("new.toml", &with("[jwt]\ncookie = \"__Host-token\"\n"));

    let said = shell.run(&["diff", "old.toml", "new.toml"]).expect(0);

    assert_eq!(said.out.lines().next(), Some("different: app: the places of tokens in [jwt]"), "{}", said.out);
    assert!(!said.out.contains("admin"), "{}", said.out);
    shell.run(&["diff", "new.toml", "new.toml"]).expect(0);
}

/// Whose tokens count, which, and how they must be bound.
#[test]
fn what_changes_about_an_issuer_is_told_for_the_routes_that_take_its_tokens() {
    let issuer = "[[jwt.issuer]]\nname = \"id\"\nissuer = \"id\"\njwks = { url = \"https://id.test/keys\" }\n\
                  algorithms = [\"ES256\"]\naudience = [\"api\", \"web\"]\nrealm = \"staff\"\ngrants = \"all\"\n\
                  required_claims = [\"azp=web\"]\nintrospection = { url = \"https://id.test/ask\", client_id = \"g\", \
                  client_secret = { env = \"CLIENT\" }, remember = \"10s\" }\nmax_token_life = \"1h\"\n";
    let base = BASE.replace("[upstream.app]", &format!("{issuer}[upstream.app]"));
    let base = base.replacen("auth = [\"session\"]", "auth = [\"jwt\"]", 1);
    let shell = Shell::empty().environment("CLIENT", "a secret");
    shell.write("old.toml", &base);
    let mut wrong = Vec::new();
    for (from, to, kind, key) in [
        ("id.test/keys", "elsewhere.test/keys", "more open", "jwks"),
        ("{ url = \"https://id.test/keys\" }", "\"discover\"", "more open", "jwks"),
        ("id.test/ask", "elsewhere.test/ask", "more open", "introspection"),
        ("remember = \"10s\"", "remember = \"20s\"", "more open", "introspection"),
        ("remember = \"10s\"", "remember = \"5s\"", "more closed", "introspection"),
        ("issuer = \"id\"", "issuer = \"other\"", "more open", "issuer"),
        ("[\"api\", \"web\"]", "[\"api\", \"web\", \"app\"]", "more open", "audience"),
        ("[\"api\", \"web\"]", "[\"api\"]", "more closed", "audience"),
        ("required_claims = [\"azp=web\"]\n", "", "more open", "required_claims"),
        ("\"azp=web\"", "\"azp\"", "more open", "required_claims"),
        ("\"azp=web\"", "\"azp=web\", \"jti\"", "more closed", "required_claims"),
        ("max_token_life = \"1h\"", "max_token_life = \"2h\"", "more open", "max_token_life"),
        ("max_token_life = \"1h\"", "max_token_life = \"1h\"\nleeway = \"1m\"", "more open", "leeway"),
        ("max_token_life = \"1h\"", "max_token_life = \"1h\"\ntoken_type = \"at+jwt\"", "more closed", "token_type"),
        ("max_token_life = \"1h\"", "max_token_life = \"1h\"\nid_tokens = true", "more open", "id_tokens"),
        ("max_token_life = \"1h\"", "max_token_life = \"1h\"\ntrust_email = true", "more open", "trust_email"),
        ("max_token_life = \"1h\"", "max_token_life = \"1h\"\nclaims = { roles = \"r\" }", "different", "claims"),
    ] {
        assert!(base.contains(from), "{from}");
        // jwks = "discover" wants an issuer that is a URL.
        let new = base.replacen(from, to, 1);
        let new = if to.contains("discover") {
            new.replacen("issuer = \"id\"", "issuer = \"https://id.test\"", 1)
        } else {
            new
        };
        shell.write("new.toml", &new);

        let said = shell.run(&["diff", "old.toml", "new.toml"]);

        let tells = |line: &str| {
            line.starts_with(&format!("{kind}: app: ")) && line.contains(key) && line.contains("of the issuer id")
        };
        let code = if kind == "more open" { 3 } else { 0 };
        if !said.out.lines().any(tells) || said.code != code || said.out.contains("admin") {
            wrong.push(format!("{to}: exit code {}, and\n{}{}", said.code, said.out, said.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let said = shell.run(&["diff", "old.toml", "old.toml"]).expect(0);
    assert_eq!(said.out, "the same requests get through, to the same places\n");
}

#[test]
fn what_a_token_must_be_bound_to_is_told_with_a_request_that_shows_it() {
    let issuer = "[[jwt.issuer]]\nname = \"id\"\nissuer = \"id\"\njwks = { url = \"https://id.test/keys\" }\n\
                  algorithms = [\"ES256\"]\naudience = \"api\"\nrealm = \"staff\"\ngrants = \"all\"\n#issuer\n";
    let text = |of_issuer: &str, of_route: &str| {
        let base = BASE.replace("[upstream.app]", &format!("{issuer}[upstream.app]"));
        let base = base.replacen("auth = [\"session\"]", &format!("auth = [\"session\", \"jwt\"]\n{of_route}"), 1);
        base.replacen("#issuer", of_issuer, 1)
    };
    let shell = Shell::empty();
    for (old, new, expected) in [
        (
            ("", "proof = \"dpop\""),
            ("", ""),
            "more open: app: GET https://app.test/app by a token of id is let through",
        ),
        (("", "proof = \"dpop\""), ("", "proof = \"any\""), "by a token of id bound to a certificate is let through"),
        (("", ""), ("", "proof = \"mtls\""), "by a token of id is 401 (unbound_token), was let through to app"),
        (
            ("proof = \"dpop\"", ""),
            ("", ""),
            "more open: app: GET https://app.test/app by a token of id is let through",
        ),
        (
            ("", ""),
            ("proof = \"dpop\"", ""),
            "more closed: app: GET https://app.test/app by a token of id is 401 (unbound_token)",
        ),
        (
            ("proof = \"mtls\"", "proof = \"dpop\""),
            ("proof = \"any\"", "proof = \"dpop\""),
            "more open: app: GET https://app.test/app by a token of id bound to a key is let through",
        ),
    ] {
        shell.write("old.toml", &text(old.0, old.1));
        shell.write("new.toml", &text(new.0, new.1));

        let said = shell.run(&["diff", "old.toml", "new.toml"]);

        assert!(said.out.contains(expected), "{old:?} {new:?}: {}{}", said.out, said.err);
        assert_eq!(said.code == 3, said.out.contains("more open: "), "{}", said.out);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_no_comparison() {
    let said = diff(&[("upstream = \"app\"", "upstream = \"nowhere\"")]).expect(1);

    assert!(said.err.contains("new.toml cannot be used"), "{}", said.err);
}

#[test]
fn a_reload_says_what_it_opens_and_closes() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).require("role:admin").start();

    gateway.edit("role:admin", "role:user");
    let told = gateway.reload().expect(200).json();

    let changes: Vec<&str> = told["changes"].as_array().expect("changes").iter().filter_map(|c| c.as_str()).collect();
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(
        changes[0].starts_with("more open: r0: ")
            && changes[0].contains("a session of test with role:user is let through to u0"),
        "{changes:?}"
    );
    assert!(changes[1].starts_with("more closed: r0: "), "{changes:?}");
}

/// Nothing is opened or closed, so the exit status is 0; but nobody should have to look for it.
#[test]
fn how_upstreams_are_asked_and_shares_are_told() {
    let servers = "servers = [\"http://10.0.0.5:8080\"]";
    let route = "require = { all = [\"path:id == sub\"] }\nrate_limit = { caller = \"10/1s\" }\nupstream = \"app\"";
    let split = |weights: &str| {
        format!("{}split = {{ {weights} }}\n[upstream.canary]\n{servers}", route.replace("upstream = \"app\"", ""))
    };
    let retries = "retries = { attempts = 2, statuses = [503] }";
    for (old, new, expect) in [
        (
            servers.to_owned(),
            format!("{servers}\nmax_requests = 10"),
            "[upstream.app]: max_requests, max_pending, queue_timeout",
        ),
        (
            format!("{servers}\nmax_requests = 10\nmax_pending = 5"),
            format!("{servers}\nmax_requests = 10\nmax_pending = 6"),
            "[upstream.app]: max_pending",
        ),
        (
            format!("{servers}\nmax_requests = 10"),
            format!("{servers}\nmax_requests = 10\nqueue_timeout = \"2s\""),
            "[upstream.app]: queue_timeout",
        ),
        (servers.to_owned(), format!("{servers}\n{retries}"), "[upstream.app]: retries"),
        (servers.to_owned(), format!("{servers}\nresponse_timeout = \"7s\""), "[upstream.app]: response_timeout"),
        (servers.to_owned(), format!("{servers}\nbalance = \"round_robin\""), "[upstream.app]: balance"),
        (
            servers.replace("8080\"]", "8080\", { url = \"http://10.0.0.6\", weight = 1 }]"),
            servers.replace("8080\"]", "8080\", { url = \"http://10.0.0.6\", weight = 2 }]"),
            "[upstream.app]: weight",
        ),
        (split("app = 95, canary = 5"), split("app = 90, canary = 10"), "own: split"),
    ] {
        let shell = Shell::empty();
        let part = if expect.starts_with("own") { route } else { servers };
        assert!(BASE.contains(part), "{part}");
        shell.write("old.toml", &BASE.replace(part, &old));
        shell.write("new.toml", &BASE.replace(part, &new));

        let said = shell.run(&["diff", "old.toml", "new.toml"]).expect(0);

        assert_eq!(said.out, format!("different: {expect}\nnothing becomes more open\n"), "{}", said.err);
    }
}

/// Nothing but the one key differs, and the way that it goes decides the exit status.
#[test]
fn what_changes_for_all_routes_is_told_with_the_way_it_goes() {
    let limit = |requests: u32| format!("[limits]\nrate_limit = {{ address = \"{requests}/1s\" }}\n");
    let lasting = |key: &str, time: &str| format!("[session]\n{key} = \"{time}\"\n");
    for (old, new, expect, opens) in [
        (limit(5), limit(6), "more open: [limits]: rate_limit, max_concurrent", true),
        (limit(6), limit(5), "more closed: [limits]: rate_limit, max_concurrent", false),
        ("[limits]\nmax_body = \"1KiB\"\n".into(), String::new(), "different: [limits]: max_body", false),
        (lasting("idle_timeout", "10m"), lasting("idle_timeout", "20m"), "more open: [session]: idle_timeout", true),
        (lasting("idle_timeout", "20m"), lasting("idle_timeout", "10m"), "more closed: [session]: idle_timeout", false),
        (lasting("max_lifetime", "2h"), lasting("max_lifetime", "3h"), "more open: [session]: max_lifetime", true),
        (String::new(), "[session]\nmax_per_user = 3\n".into(), "different: [session]: max_per_user", false),
    ] {
        let shell = Shell::empty();
        for (name, tables) in [("old.toml", &old), ("new.toml", &new)] {
            shell.write(name, &BASE.replace("[upstream.app]", &format!("{tables}[upstream.app]")));
        }

        let said = shell.run(&["diff", "old.toml", "new.toml"]).expect(if opens { 3 } else { 0 });

        let differences: Vec<_> = said.out.lines().filter(|line| line.contains("]: ")).collect();
        assert_eq!(differences, [expect], "{}{}", said.out, said.err);
    }
}
