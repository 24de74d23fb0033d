//! `portcullis users`, from the real binary: who is added can log in, and no password is ever an argument or told.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{Gateway, Shell, Upstream, eventually, gateway::SESSION_COOKIE};

const CONFIG: &str = "[server]\nlisten = [\"http://127.0.0.1:0\"]\nhosts = [\"localhost\"]\n\
                      [[login.provider]]\nname = \"local\"\nusers_file = \"people.toml\"\n";

#[test]
fn whoever_is_added_can_log_in_until_removed() {
    let shell = Shell::with(CONFIG);
    let added = ["users", "add", "alice", "--role", "user", "--email", "a@example.com"];

    let said = shell.run_with(&added, "Correct horse\n").expect(0);
    assert!(said.out.contains("added \"alice\""), "{}", said.out);
    assert_eq!(fs::metadata(shell.path("people.toml")).unwrap().permissions().mode() & 0o777, 0o600);
    shell.run_with(&["users", "add", "bob"], "battery staple\n").expect(0);
    shell.run_with(&["users", "passwd", "alice"], "another horse\n").expect(0);
    shell.run(&["users", "remove", "bob"]).expect(0);

    let listed = shell.run(&["users", "list"]).expect(0).out;
    assert_eq!(listed, "\"alice\"  email=\"a@example.com\"  roles=[\"user\"]  (argon2id m=19456,t=2,p=1)\n");
    let gateway = gateway(&shell.path("people.toml"));
    gateway.person().log_in("alice", "Correct horse").expect(401);
    gateway.person().log_in("alice", "another horse").expect(303);
    gateway.person().log_in("bob", "battery staple").expect(401);
    let text = fs::read_to_string(shell.path("people.toml")).unwrap();
    assert!(!text.contains("horse"), "{text}");
}

#[test]
fn who_is_added_with_a_second_factor_cannot_log_in_without_it() {
    let shell = Shell::with(&CONFIG.replace("[[login", "state_dir = \"state\"\n[[login"));

    let said = shell.run_with(&["users", "add", "alice", "--factor", "totp"], "Correct horse\n").expect(0);
    assert!(said.out.contains("portcullis users enrol \"alice\""), "{}", said.out);
    shell.run_with(&["users", "add", "bob"], "Correct horse\n").expect(0);
    shell.run_with(&["users", "add", "carol", "--factor", "sms"], "Correct horse\n").expect(2);

    let listed = shell.run(&["users", "list"]).expect(0).out;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("\"alice\"  factor=totp  (argon2id") && !lines[1].contains("factor"), "{listed}");
    let upstream = Upstream::start();
    let state = shell.path("state");
    let users = shell.path("people.toml");
    let provider =
        format!("[[login.provider]]\nname = \"local\"\nrealm = \"staff\"\ngrants = \"all\"\nusers_file = {users:?}\n");
    let gateway = Gateway::with(&provider)
        .server(&format!("state_dir = {state:?}"))
        .admin()
        .route("/app/{*rest}", &upstream)
        .auth(&["session"])
        .start();
    let said = gateway.person().log_in("alice", "Correct horse");
    assert!(said.status != 303 && said.cookie(SESSION_COOKIE).is_none(), "{said:?}");
    gateway.person().log_in("bob", "Correct horse").expect(303);
}

#[test]
fn lines_of_htpasswd_hold_no_second_factor() {
    let shell = Shell::with(&CONFIG.replace("people.toml", "people.htpasswd"));

    let said = shell.run_with(&["users", "add", "alice", "--factor", "totp"], "Correct horse\n").expect(1);

    assert!(said.err.contains("ask for a file in TOML"), "{}", said.err);
}

fn gateway(users: &std::path::Path) -> crate::support::gateway::Running {
    let upstream = Upstream::start();
    let provider =
        format!("[[login.provider]]\nname = \"local\"\nrealm = \"staff\"\ngrants = \"all\"\nusers_file = {users:?}\n");
    Gateway::with(&provider).admin().route("/app/{*rest}", &upstream).auth(&["session"]).start()
}

/// bcrypt as `htpasswd -B` makes it, and what the gateway adds beside it.
#[test]
fn a_file_of_htpasswd_serves_both_kinds_of_hashes() {
    let shell = Shell::with(&CONFIG.replace("people.toml", "people.htpasswd"));
    shell.write("people.htpasswd", "old:$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n");

    shell.run_with(&["users", "add", "new"], "Correct horse\n").expect(0);
    let listed = shell.run(&["users", "list"]).expect(0).out;

    assert_eq!(listed, "\"old\"  (bcrypt 5)\n\"new\"  (argon2id m=19456,t=2,p=1)\n");
    let gateway = gateway(&shell.path("people.htpasswd"));
    gateway.person().log_in("old", "U*U").expect(303);
    gateway.person().log_in("new", "Correct horse").expect(303);
    gateway.person().log_in("new", "U*U").expect(401);
    gateway.person().log_in("nobody", "U*U").expect(401);
}

#[test]
fn what_cannot_be_done_says_why_and_what_to_do() {
    let shell = Shell::with(CONFIG);
    shell.run_with(&["users", "add", "alice"], "Correct horse\n").expect(0);
    let before = fs::read_to_string(shell.path("people.toml")).unwrap();

    for (arguments, input, complaint) in [
        (&["users", "add", "alice"][..], "Correct horse\n", "given twice"),
        (&["users", "add", "bob"], "\n", "the password is empty"),
        (&["users", "add", "bob"], &format!("{}\n", "x".repeat(1025)), "longer than 1024 bytes"),
        (&["users", "passwd", "bob"], "Correct horse\n", "no user \"bob\""),
        (&["users", "remove", "bob"], "", "no user \"bob\""),
        (&["users", "list", "--file", "nowhere"], "", "nowhere: cannot be read"),
        (&["users", "list", "--provider", "other"], "", "no users_file for a provider \"other\""),
    ] {
        let said = shell.run_with(arguments, input).expect(1);
        assert!(said.err.contains(complaint), "{arguments:?}: {}", said.err);
        assert!(!said.err.contains("argon2id$"), "{}", said.err);
    }
    shell.run(&["users", "add", "bob", "hunter2"]).expect(2);

    assert_eq!(fs::read_to_string(shell.path("people.toml")).unwrap(), before);
}

/// Nobody has to do anything for old hashes to go, and nobody is logged out by it.
#[test]
fn a_login_hashes_an_old_password_anew_and_its_session_lives_on() {
    let shell = Shell::empty();
    let path = shell.path("people.htpasswd");
    shell.write("people.htpasswd", "old:$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW:a note\n");
    let gateway = gateway(&path);
    let mut old = gateway.person();

    old.log_in("old", "U*U").expect(303);
    eventually("the hash is replaced", || fs::read_to_string(&path).unwrap().starts_with("old:$argon2id$v=19$m=19456"));
    assert!(fs::read_to_string(&path).unwrap().ends_with(":a note\n"));
    eventually("it is told", || gateway.audit_lines().len() >= 2);
    let told: serde_json::Value = serde_json::from_str(&gateway.audit_lines()[1]).unwrap();
    assert_eq!((&told["event"], &told["subject"]), (&"password.rehashed".into(), &"old".into()));
    gateway.reload();

    assert_eq!(old.visit("/_auth/session").status, 200);
    gateway.person().log_in("old", "U*U").expect(303);
    gateway.person().log_in("old", "U*U*").expect(401);
}
