//! The commands as a user meets them: exit codes, and texts that say what is wrong, where, and how to mend it.

use portcullis::accounts;

use crate::support::{Client, Shell, Upstream, program::free_address};

/// A small configuration of somebody's own: production-like but for its certificate.
fn own(tail: &str) -> Shell {
    let hash = accounts::hash_password("correct horse").expect("a hash");
    Shell::with(&format!(
        r#"version = 1
[server]
listen = ["https://127.0.0.1:0"]
hosts = ["app.test"]
[tls]
self_signed = ["app.test"]
[login]
[[user]]
name = "alice"
password = "{hash}"
roles = ["user"]
[upstream.backend]
servers = ["http://127.0.0.1:9"]
[[route]]
name = "app"
match = {{ path = "/app/{{*rest}}" }}
auth = ["session"]
upstream = "backend"
[[route]]
name = "admin"
match = {{ path = "/admin/{{*rest}}" }}
auth = ["session"]
require = {{ any = ["role:admin"], none = ["role:guest"] }}
upstream = "backend"
{tail}"#
    ))
}

#[test]
fn check_says_that_a_configuration_is_good() {
    let said = own("").run(&["check"]).expect(0);

    assert_eq!(said.out, "gateway.toml is good: 2 routes, 0 tests passed\n");
    assert_eq!(said.err, "");
}

#[test]
fn check_tells_every_problem_with_its_place_and_a_guess() {
    let said = own("colour = \"red\"\n[sesion]\nidle_timeout = \"ten minutes\"\n").run(&["check"]).expect(1);

    assert!(said.err.contains("gateway.toml cannot be used"), "{}", said.err);
    for expected in ["gateway.toml:25:1", "colour", "gateway.toml:26:2", "sesion", "`session`"] {
        assert!(said.err.contains(expected), "{expected} in {}", said.err);
    }
}

#[test]
fn check_says_how_to_go_on_where_there_is_no_file() {
    let said = Shell::empty().run(&["--config", "nowhere.toml", "check"]).expect(1);

    assert!(said.err.contains("there is no nowhere.toml") && said.err.contains("portcullis dev"), "{}", said.err);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let shell = own("");
    for arguments in
        [&["chekc"][..], &["check", "--productoin"], &["explain"], &["explain", "GET"], &["token", "--ttl", "x"]]
    {
        let said = shell.run(arguments).expect(2);
        assert!(said.err.contains("Usage") || said.err.contains("--help"), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn check_shows_what_a_failed_test_expected_and_what_came() {
    let shell = own(r#"[[test]]
request = "GET https://app.test/admin/users"
as = { sub = "alice", roles = ["user"], via = "session" }
expect = { route = "app", status = 200 }
[[test]]
request = "GET https://app.test/app/x"
as = { sub = "alice", via = "session" }
expect = { route = "app", status = 200, headers = { "X-User-Id" = "bob", "X-User-Email" = "a@b" } }
[[test]]
request = "GET https://app.test/app/x"
expect = { route = "app", status = 401 }
"#);

    let said = shell.run(&["check"]).expect(1);

    for expected in [
        "gateway.toml:25:",
        "GET https://app.test/admin/users",
        "route is admin, expected app",
        "status is 403 (any), expected 200",
        "gateway.toml:29:",
        "x-user-id is \"alice\", expected \"bob\"",
        "x-user-email is absent, expected \"a@b\"",
    ] {
        assert!(said.out.contains(expected), "{expected} in {}", said.out);
    }
    assert!(said.err.contains("2 of 3 tests failed"), "{}", said.err);
}

/// R35.
#[test]
fn check_for_production_refuses_the_demonstration() {
    let shell = Shell::shipped(free_address());

    shell.run(&["check"]).expect(0);
    let said = shell.run(&["check", "--production"]).expect(1);

    for expected in ["user[0].password", "jwt.issuer[0].jwks.secret", "upstream.echo.servers[0]"] {
        assert!(said.out.contains(expected), "{expected} in {}", said.out);
    }
    assert!(said.err.contains("not fit for production: 3 reasons"), "{}", said.err);
    own("").run(&["check", "--production"]).expect(0);
}

/// R35.
#[test]
fn check_for_production_refuses_tokens_for_anybody() {
    let issuer = |audience: &str| {
        let shell = own(&format!(
            "[[jwt.issuer]]\nname = \"i\"\nissuer = \"https://i.test\"\njwks = {{ secret = {{ file = \"s\" }} }}\n\
             algorithms = [\"HS256\"]\n{audience}\nrealm = \"local\"\ngrants = \"all\"\n[[login.provider]]\n\
             name = \"local\"\ngrants = \"all\"\n"
        ));
        shell.write("s", &"0123456789abcdef".repeat(3));
        shell
    };

    let said = issuer("insecure_any_audience = \"no aud\"").run(&["check", "--production"]).expect(1);
    assert!(said.out.contains("insecure_any_audience"), "{}", said.out);
    issuer("audience = [\"me\"]").run(&["check", "--production"]).expect(0);
}

#[test]
fn explain_tells_why_a_request_is_allowed() {
    let said =
        own("").run(&["explain", "GET", "https://app.test/admin/x", "--as", "sub=bob,roles=user,admin"]).expect(0);

    for expected in [
        "route     admin → upstream backend",
        "caller    bob in realm local, by session",
        "met      none: role:guest",
        "met      any: role:admin",
        "allowed",
        "x-user-id: bob",
        "x-user-roles: user,admin",
    ] {
        assert!(said.out.contains(expected), "{expected} in {}", said.out);
    }
}

#[test]
fn explain_tells_which_path_and_headers_the_upstream_gets() {
    let edits = "strip_prefix = \"/x\"\nrequest_headers = { set = { X-Env = \"prod\" } }\nupstream = \"backend\"\n";
    let shell =
        own(&format!("[[route]]\nname = \"x\"\nmatch = {{ path = \"/x/{{*rest}}\" }}\nauth = [\"none\"]\n{edits}"));

    let said = shell.run(&["explain", "GET", "https://app.test/x/a%20b?q=1"]).expect(0);

    for expected in ["asks for  /a%20b?q=1", "sends     x-forwarded-prefix: /x", "sends     x-env: prod"] {
        assert!(said.out.contains(expected), "{expected} in {}", said.out);
    }
}

#[test]
fn explain_tells_why_a_request_is_refused() {
    let shell = own("");
    for (arguments, expected) in [
        (
            &["GET", "https://app.test/admin/x", "--as", "sub=bob,roles=user"][..],
            &["not met  any: role:admin", "refused: 403 not_allowed"][..],
        ),
        (
            &["GET", "https://app.test/admin/x", "--as", "sub=bob,roles=admin,guest"],
            &["not met  none: role:guest", "refused: 403"],
        ),
        (&["GET", "https://app.test/app/x"], &["not met  a credential", "refused: 401 no_credential"]),
        (
            &["GET", "https://app.test/nowhere"],
            &["route     none", "refused: 404 no_route", "There is nothing at this address."],
        ),
        (&["GET", "https://other.test/app/x"], &["refused: 421 unknown_host", "hosts     app.test"]),
        (&["GET", "https://app.test/app/%2e%2e/admin"], &["refused: 400 bad_path", "reason    "]),
        (&["TRACE", "https://app.test/app/x"], &["refused: 405 method_not_allowed"]),
    ] {
        let said = shell.run(&[&["explain"], arguments].concat()).expect(0);
        for part in expected {
            assert!(said.out.contains(part), "{arguments:?}: {part} in {}", said.out);
        }
    }
}

#[test]
fn explain_says_what_it_does_not_understand() {
    let shell = own("");
    for (arguments, expected) in [
        (&["GET", "/app/x"][..], "https://host/path"),
        (&["GET", "https://app.test/app/x", "--as", "sub=a,colour=red"], "colour"),
        (&["GET", "https://app.test/app/x", "--as", "roles=admin"], "the subject is missing"),
        (&["GET", "https://app.test/app/x", "--token", "a.b.c"], "lists no jwt"),
    ] {
        let said = shell.run(&[&["explain"], arguments].concat()).expect(1);
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
}

/// Routes and issuers that count bound tokens only: what `explain` and `[[test]]` suppose is what it takes.
const PROOFS: &str = r#"[[jwt.issuer]]
name = "id"
issuer = "https://id.example"
jwks = { url = "http://127.0.0.1:9/keys" }
algorithms = ["ES256"]
audience = "api"
realm = "local"
grants = "all"
[[jwt.issuer]]
name = "bank"
issuer = "https://bank.example"
jwks = { url = "http://127.0.0.1:9/keys" }
algorithms = ["ES256"]
audience = "api"
realm = "local"
grants = "all"
proof = "dpop"
[[route]]
name = "keyed"
match = { path = "/keyed" }
auth = ["jwt:id", "session"]
proof = "dpop"
upstream = "backend"
[[route]]
name = "certified"
match = { path = "/certified" }
auth = ["jwt:id"]
proof = "mtls"
upstream = "backend"
[[route]]
name = "bank"
match = { path = "/bank" }
auth = ["jwt:bank"]
upstream = "backend"
"#;

#[test]
fn explain_and_tests_know_what_a_token_is_bound_to() {
    let with = |tail: &str| {
        let shell = own(&format!("{PROOFS}{tail}"));
        let text = std::fs::read_to_string(shell.path("gateway.toml")).expect("gateway.toml");
        shell.write("gateway.toml", &text.replace("[login]", "[[login.provider]]\nname = \"local\"\ngrants = \"all\""));
        shell
    };
    let shell = with("");
    for (path, who, expected) in [
        ("/keyed", "sub=a,proof=dpop", &["bound     to a key", "allowed"][..]),
        (
            "/keyed",
            "sub=a,proof=mtls",
            &["bound     to a certificate", "refused: 401 invalid_token", "reason    unbound_token"],
        ),
        ("/keyed", "sub=a", &["by session", "allowed"]),
        ("/certified", "sub=a,proof=mtls", &["allowed"]),
        ("/certified", "sub=a,proof=dpop", &["refused: 401"]),
        ("/certified", "sub=a,proof=none", &["refused: 401 invalid_token", "reason    unbound_token"]),
        ("/certified", "sub=a", &["refused: 401 invalid_token"]),
        ("/bank", "sub=a,proof=dpop", &["allowed"]),
        ("/bank", "sub=a", &["refused: 401 invalid_token", "reason    unbound_token"]),
    ] {
        let url = format!("https://app.test{path}");
        let said = shell.run(&["explain", "GET", &url, "--as", who]).expect(0);
        for part in expected {
            assert!(said.out.contains(part), "{path} {who}: {part} in {}", said.out);
        }
    }
    let said = shell.run(&["explain", "GET", "https://app.test/keyed", "--as", "sub=a,proof=any"]).expect(1);
    assert!(said.err.contains("proof=any: dpop, mtls or none"), "{}", said.err);

    let case = |path: &str, who: &str, status: u16| {
        format!(
            "[[test]]\nrequest = \"GET https://app.test{path}\"\nas = {{ sub = \"a\", {who} }}\nexpect = {{ status = {status} }}\n"
        )
    };
    let cases = [
        case("/keyed", "via = \"jwt:id\", proof = \"dpop\"", 200),
        case("/keyed", "via = \"jwt:id\", proof = \"mtls\"", 401),
        case("/keyed", "via = \"jwt:id\", proof = \"none\"", 401),
        case("/keyed", "via = \"jwt:id\"", 401),
        case("/keyed", "via = \"session\"", 200),
        case("/certified", "via = \"jwt:id\", proof = \"mtls\"", 200),
        case("/certified", "via = \"jwt:id\", certificate = true", 401),
        case("/bank", "via = \"jwt:bank\", proof = \"dpop\"", 200),
        case("/bank", "via = \"jwt:bank\"", 401),
    ];
    let said = with(&cases.concat()).run(&["check"]).expect(0);
    assert!(said.out.contains("9 tests passed"), "{}", said.out);
    let said = with(&case("/keyed", "via = \"jwt:id\"", 200)).run(&["check"]).expect(1);
    assert!(said.out.contains("status is 401 (unbound_token), expected 200"), "{}", said.out);
}

#[test]
fn explain_verifies_a_real_token_from_its_input() {
    let shell = Shell::shipped(free_address());
    let token = shell.run(&["token", "--sub", "carol", "--roles", "admin,user"]).expect(0).out;
    let explain = ["explain", "GET", "https://localhost/api/x", "--token", "-"];

    let said = shell.run_with(&explain, &token).expect(0);
    assert!(said.out.contains("caller    carol in realm demo, by jwt") && said.out.contains("allowed"), "{}", said.out);

    let forged = shell.run_with(&explain, &token.replace('.', ".x")).expect(1);
    assert!(forged.err.contains("401 invalid_token"), "{}", forged.err);
    assert!(!forged.err.contains(token.trim()), "a token is never repeated (R34)");
}

/// R34: arguments show up in process lists; a password is read from the input.
#[test]
fn hash_password_reads_from_its_input_and_prints_a_hash_only() {
    let shell = Shell::empty();

    let said = shell.run_with(&["hash-password"], "correct horse\n").expect(0);

    let hash = said.out.trim_end();
    assert!(hash.starts_with("$argon2id$v=19$") && said.out.lines().count() == 1, "{}", said.out);
    assert_ne!(shell.run_with(&["hash-password"], "correct horse\n").out, said.out, "salted");
    shell.run(&["hash-password", "correct horse"]).expect(2);
    let empty = shell.run_with(&["hash-password"], "\n").expect(1);
    assert!(empty.err.contains("empty"), "{}", empty.err);
}

#[test]
fn a_hash_from_the_command_lets_its_user_in() {
    let hash = Shell::empty().run_with(&["hash-password"], "s3cret words\n").expect(0).out;
    let upstream = Upstream::start();
    let users = format!(
        "[[login.provider]]\nname = \"local\"\n[[login.provider.user]]\nname = \"eve\"\npassword = \"{}\"\n",
        hash.trim_end()
    );
    let gateway = crate::support::Gateway::with(&users).route("/{*rest}", &upstream).start();

    gateway.person().log_in("eve", "s3cret words").expect(303);
    gateway.person().log_in("eve", "s3cret words ").expect(401);
}

#[test]
fn token_refuses_what_the_gateway_would_refuse() {
    let shell = Shell::shipped(free_address());

    let said = shell.run(&["token", "--ttl", "25h"]).expect(1);
    assert!(said.err.contains("max_token_life") && said.err.contains("1day"), "{}", said.err);
    shell.run(&["token", "--ttl", "24h"]).expect(0);
    let said = shell.run(&["token", "--issuer", "nobody"]).expect(1);
    assert!(said.err.contains("demo"), "{}", said.err);
    let said = own("").run(&["token"]).expect(1);
    assert!(said.err.contains("no issuer has a generated secret"), "{}", said.err);
}

#[test]
fn run_says_what_is_in_the_way_of_its_listener() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let shell = Shell::shipped(taken.local_addr().expect("an address"));

    let said = shell.run(&["run"]).expect(1);

    assert!(
        said.err.contains("cannot listen on https://127.0.0.1:") && said.err.contains("another program"),
        "{}",
        said.err
    );
    assert!(!said.out.contains("log in at"), "nothing that does not work is announced: {}", said.out);
}

#[test]
fn dev_needs_no_file_and_stands_in_front_of_a_backend() {
    let upstream = Upstream::start();
    let shell = Shell::empty();
    let address = free_address();
    let served = shell
        .serve(&["dev", "--listen", &address.to_string(), "--upstream", &upstream.url()], "until you replace them");
    let token = served.greeting.split("Bearer ").nth(1).and_then(|rest| rest.split('\'').next()).expect("a token");
    let roots = authority(&shell.path("data/portcullis-dev/certs/local-ca.pem"));
    let client = Client::tls(address, "localhost", roots);

    client.get("/api/x").send().expect(401);
    assert_eq!(upstream.connection_count(), 0);
    client.get("/api/x").bearer(token).send().expect(200);

    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
    assert_eq!(served.terminate(), Some(0));
}

#[test]
fn dev_says_which_argument_does_not_fit() {
    let said = Shell::empty().run(&["dev", "--upstream", "ftp://127.0.0.1"]).expect(1);

    assert!(said.err.contains("these arguments do not fit") && said.err.contains("ftp://127.0.0.1"), "{}", said.err);
}

#[test]
fn a_gateway_ends_with_0_when_it_is_asked_to() {
    let served = Shell::shipped(free_address()).serve(&[], "until you replace them");

    assert_eq!(served.terminate(), Some(0));
}

/// The certificates that a file holds, as roots.
fn authority(path: &std::path::Path) -> std::sync::Arc<rustls::RootCertStore> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    std::sync::Arc::new(roots)
}
