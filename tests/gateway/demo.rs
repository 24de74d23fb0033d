//! The shipped set-up (R35): its secrets are random, private, good on this machine only, and what it prints works.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{
    Shell, Upstream,
    program::{found, free_address},
};

/// The line that ends what a new user reads.
const LAST_WORDS: &str = "until you replace them";

/// R35: each printed line does, word for word, what the words above it say.
#[test]
fn the_printed_curl_lines_work_word_for_word() {
    if found("curl").is_none() {
        return;
    }
    let shell = Shell::shipped(free_address());
    let served = shell.serve(&["run"], LAST_WORDS);
    let after = |heading: &str| -> Vec<&str> {
        let rest = served.greeting.split(heading).nth(1).unwrap_or_else(|| panic!("{heading} in {}", served.greeting));
        rest.lines().skip(1).map_while(|line| line.strip_prefix("  ")).collect()
    };

    let refused = after("Refused")[0];
    assert!(shell.paste(refused).out.contains("no_credential"), "{refused}");
    let status = shell.paste(&format!("{refused} -s -o /dev/null -w '%{{http_code}}'"));
    assert_eq!(status.out, "401");

    let with_token = after("With a JWT")[0];
    let seen = shell.paste(with_token).expect(0).out.to_ascii_lowercase();
    assert!(seen.contains("x-user-id") && seen.contains("alice") && !seen.contains("authorization"), "{seen}");

    let with_cookie = after("With a session cookie");
    assert_eq!(shell.paste(with_cookie[0]).expect(0).out, "");
    let seen = shell.paste(with_cookie[1]).expect(0).out.to_ascii_lowercase();
    assert!(seen.contains("x-user-id") && seen.contains("demo") && !seen.contains("__host-portcullis"), "{seen}");
    let jar = fs::metadata(shell.path("certs/cookies.txt")).expect("the cookie jar").permissions().mode();
    assert_eq!(jar & 0o077, 0, "the jar holds a session: {jar:o}");
}

/// R35.
#[test]
fn generated_secrets_are_random_private_and_stay() {
    let (one, other) = (Shell::shipped(free_address()), Shell::shipped(free_address()));
    let read = |shell: &Shell, name: &str| fs::read_to_string(shell.path(name)).expect("a generated secret");
    one.run(&["check"]).expect(0);
    other.run(&["check"]).expect(0);

    for name in ["certs/demo-password", "certs/demo-jwt.secret"] {
        let secret = read(&one, name);
        assert!(secret.trim().len() >= 20, "{name}");
        assert_ne!(secret, read(&other, name), "{name}");
        let mode = fs::metadata(one.path(name)).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        one.run(&["check"]).expect(0);
        assert_eq!(read(&one, name), secret, "{name} is made once");
    }
    assert!(include_str!("../../.gitignore").lines().any(|line| line == "/certs/*"), "git-ignored");
}

/// R35.
#[test]
fn generated_secrets_serve_this_machine_only() {
    let upstream = Upstream::start();
    let gateway = demo(&upstream);
    let client = gateway.client().host("localhost");
    client.get("/x").send().expect(401);

    for (what, request) in [
        ("X-Forwarded-For", client.get("/x").header("X-Forwarded-For", "192.0.2.1")),
        ("X-Forwarded-For of this machine", client.get("/x").header("X-Forwarded-For", "127.0.0.1")),
        ("X-Forwarded-Host", client.get("/x").header("X-Forwarded-Host", "localhost")),
        ("X-Forwarded-Proto", client.get("/x").header("X-Forwarded-Proto", "https")),
        ("X-Real-IP", client.get("/x").header("X-Real-IP", "127.0.0.1")),
        ("Forwarded", client.get("/x").header("Forwarded", "for=127.0.0.1")),
        ("Via", client.get("/x").header("Via", "1.1 proxy")),
        ("the login page", client.get("/_auth/login").header("X-Forwarded-For", "192.0.2.1")),
        ("a known host that is no loopback name", client.get("/x").header("Host", "demo.test")),
        ("an unknown host", client.get("/x").header("Host", "elsewhere.test")),
        ("the name with a suffix", client.get("/x").header("Host", "localhost.evil.example")),
    ] {
        for answer in [request.send(), request.navigation().send()] {
            assert_eq!(answer.status, 421, "{what}");
        }
    }
    assert_eq!(upstream.connection_count(), 0);
    client.get("/_auth/livez").header("X-Forwarded-For", "192.0.2.1").send();
}

/// R35, the twin: without generated secrets the same requests are judged as usual.
#[test]
fn with_ones_own_secrets_other_hosts_are_served() {
    let upstream = Upstream::start();
    let gateway =
        crate::support::Gateway::new().user("alice", "correct horse", &[]).route("/{*rest}", &upstream).start();

    gateway.client().get("/x").header("X-Forwarded-For", "192.0.2.1").send().expect(401);
}

fn demo(upstream: &Upstream) -> crate::support::gateway::Running {
    crate::support::Gateway::with(
        "[[login.provider]]\nname = \"local\"\n[[login.provider.user]]\nname = \"demo\"\n\
         password = { generate = \"certs/demo-password\" }\n",
    )
    .host("localhost")
    .host("demo.test")
    .route("/{*rest}", upstream)
    .auth(&["session"])
    .start()
}
