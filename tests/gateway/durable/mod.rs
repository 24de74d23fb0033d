//! What survives a restart, and what the gateway says when nothing can (R27).
//!
//! `PORTCULLIS_DURABILITY=long` lets what depends on chance try longer: minutes instead of seconds.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use portcullis::accounts;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Client, Gateway, Upstream,
    gateway::{Running, SESSION_COOKIE, session_cookie},
};

/// What browsers are known again by.
const DEVICE_COOKIE: &str = "__Secure-portcullis-device";

mod crash;
mod disk;

const PASSWORD: &str = "correct horse battery staple";
const MINUTE: Duration = Duration::from_secs(60);

fn long() -> bool {
    std::env::var("PORTCULLIS_DURABILITY").is_ok_and(|text| text == "long")
}

/// A directory for state with a key beside it, the hash of alice's password (with another hash her sessions end), and a
/// line of her provider.
struct State(TempDir, String, &'static str);

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let state = Self(folder, accounts::hash_password(PASSWORD).expect("the password can be hashed"), "");
        state.write_keys(&[1]);
        state
    }

    fn dir(&self) -> std::path::PathBuf {
        self.0.path().join("state")
    }

    fn database(&self) -> std::path::PathBuf {
        self.dir().join("state.redb")
    }

    /// One key for each number.
    fn write_keys(&self, numbers: &[u8]) {
        let line = |number: &u8| format!("{}{}=\n", "A".repeat(42), char::from(b"AEIMQUY"[usize::from(*number)]));
        fs::write(self.0.path().join("state.key"), numbers.iter().map(line).collect::<String>()).expect("a key");
    }

    fn gateway(&self, upstream: &Upstream) -> Gateway {
        Gateway::new()
            .server(&format!("state_dir = {:?}", self.dir()))
            .server(&format!("state_key_file = {:?}", self.0.path().join("state.key")))
            .admin()
            .table(&format!(
                "[[login.provider]]\nname = \"local\"\nrealm = \"staff\"\ngrants = \"all\"\n{}\n\
                 [[login.provider.user]]\nname = \"alice\"\nid = \"id-of-alice\"\npassword = {:?}\nroles = [\"user\"]",
                self.2, self.1
            ))
            .route("/app/{*rest}", upstream)
    }

    /// Why it does not start.
    #[track_caller]
    fn refusal(&self, upstream: &Upstream) -> String {
        self.gateway(upstream).try_start().err().expect("it does not start")
    }
}

fn open(gateway: &Running, subject: &str) -> (String, String) {
    let created = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": subject })).send();
    let created = created.expect(201).json();
    assert_eq!(created["durable"], true, "{created}");
    let text = |name: &str| created[name].as_str().expect("a text").to_owned();
    (format!("{SESSION_COOKIE}={}", text("token")), text("key"))
}

fn visit(client: &Client, cookie: &str) -> u16 {
    client.get("/app/x").cookie(cookie).send().status
}

#[test]
fn logins_logouts_and_revocations_survive_a_restart() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start();
    let mut alice = gateway.person();
    let alice = session_cookie(&alice.log_in("alice", PASSWORD).expect(303));
    let mut gone = gateway.person();
    gone.log_in("alice", PASSWORD).expect(303);
    let left = format!("{SESSION_COOKIE}={}", gone.cookie(SESSION_COOKIE).expect("a session"));
    let page = gone.visit("/_auth/logout").expect(200);
    gone.submit(&page, &[]).expect(303);
    let (bob, _) = open(&gateway, "bob");
    let (carol, key) = open(&gateway, "carol");
    let (dave, _) = open(&gateway, "dave");
    gateway.admin().request("DELETE", &format!("/api/v1/sessions/{key}")).send().expect(200);
    gateway.admin().request("DELETE", "/api/v1/sessions?subject=dave").send().expect(200);
    assert!(gateway.stop());

    let gateway = state.gateway(&upstream).start();

    let statuses = [&alice, &left, &bob, &carol, &dave].map(|cookie| visit(&gateway.client(), cookie));
    assert_eq!(statuses, [200, 401, 200, 401, 401]);
    let listed = gateway.admin().get("/api/v1/sessions").send().expect(200).json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(2), "{listed}");
}

/// R29: what was restored follows its source as it is now.
#[test]
fn a_password_that_changed_while_the_gateway_was_down_ends_its_sessions() {
    let (upstream, mut state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start();
    let alice = session_cookie(&gateway.person().log_in("alice", PASSWORD).expect(303));
    let (bob, _) = open(&gateway, "bob");
    assert!(gateway.stop());
    state.1 = accounts::hash_password("another horse battery staple").expect("the password can be hashed");

    let gateway = state.gateway(&upstream).start();

    assert_eq!([&alice, &bob].map(|cookie| visit(&gateway.client(), cookie)), [401, 200]);
}

#[test]
fn idle_and_absolute_limits_go_on_counting_while_the_gateway_is_down() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).table("[session]\nidle_timeout = \"30m\"").start();
    let ((used, _), (unused, _)) = (open(&gateway, "used"), open(&gateway, "unused"));
    gateway.advance(20 * MINUTE);
    assert_eq!(visit(&gateway.client(), &used), 200);
    let now = gateway.now();
    assert!(gateway.stop());

    let later = state.gateway(&upstream).at(now.plus(20 * MINUTE)).table("[session]\nidle_timeout = \"30m\"").start();

    assert_eq!(visit(&later.client(), &used), 200, "it was seen 20 minutes ago");
    assert_eq!(visit(&later.client(), &unused), 401);
}

#[test]
fn a_remembered_session_survives_a_restart_and_ends_in_time() {
    let (upstream, state) = (Upstream::start(), State::new());
    let day = 24 * 60 * MINUTE;
    let state = State { 2: "remember_me = \"30d\"", ..state };
    let first = state.gateway(&upstream).start();
    let log_in = |ticked: bool| {
        let body = json!({ "username": "alice", "password": PASSWORD, "remember": ticked });
        session_cookie(&first.client().post("/_auth/login", "").json(&body).send().expect(200))
    };
    let (remembered, other) = (log_in(true), log_in(false));
    let begun = first.now();
    assert!(first.stop());

    let second = state.gateway(&upstream).at(begun.plus(30 * day - MINUTE)).start();

    assert_eq!([&remembered, &other].map(|cookie| visit(&second.client(), cookie)), [200, 401]);
    second.advance(MINUTE);
    assert_eq!(visit(&second.client(), &remembered), 401);
}

/// Guessing at a name slows its owner down nowhere, also after a restart.
#[test]
fn a_browser_is_known_again_after_a_restart() {
    let (upstream, state) = (Upstream::start(), State::new());
    let first = state.gateway(&upstream).start();
    let mut known = first.person();
    known.log_in("alice", PASSWORD).expect(303);
    let device = known.cookie(DEVICE_COOKIE).expect("a device").to_owned();
    assert!(first.stop());

    let second = state.gateway(&upstream).start();
    let attempt = |password: &str, cookies: &str| {
        let request = second.client().post("/_auth/login", "").cookie(cookies);
        request.json(&json!({ "username": "alice", "password": password })).send().status
    };
    while attempt("wrong", "a=1") != 429 {}

    assert_eq!(attempt(PASSWORD, "a=1"), 429, "a stranger waits");
    assert_eq!(attempt(PASSWORD, &format!("{DEVICE_COOKIE}={device}")), 200);
}

/// Whom a full store took a session from has lost it for good.
#[test]
fn what_a_full_store_ended_stays_ended_across_a_restart() {
    let (upstream, state) = (Upstream::start(), State::new());
    let first = state.gateway(&upstream).table("[session]\nmax_sessions = 3").start();
    let oldest = open(&first, "bob").0;
    first.advance(MINUTE);
    let (other, carol) = (open(&first, "bob").0, open(&first, "carol").0);
    let dave = open(&first, "dave").0;
    let statuses = |gateway: &Running| [&oldest, &other, &carol, &dave].map(|one| visit(&gateway.client(), one));
    assert_eq!(statuses(&first), [401, 200, 200, 200]);
    let now = first.now();
    assert!(first.stop());

    let second = state.gateway(&upstream).at(now).table("[session]\nmax_sessions = 3").start();

    assert_eq!(statuses(&second), [401, 200, 200, 200]);
}

/// A machine's clock may be set back; what has expired stays expired.
#[test]
fn time_does_not_run_backwards_across_a_restart() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).table("[session]\nidle_timeout = \"30m\"").start();
    let begin = gateway.now();
    let (cookie, _) = open(&gateway, "alice");
    gateway.advance(29 * MINUTE);
    let (bob, _) = open(&gateway, "bob");
    assert!(gateway.stop());

    let set_back = state.gateway(&upstream).at(begin).table("[session]\nidle_timeout = \"30m\"").start();

    set_back.advance(2 * MINUTE);
    assert_eq!(visit(&set_back.client(), &cookie), 401, "31 minutes have passed, whatever the clock says");
    assert_eq!(visit(&set_back.client(), &bob), 200);
}

#[test]
fn an_old_cookie_that_was_imported_is_exchanged_after_a_restart_and_once() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start();
    // printf %s old-value | sha256sum
    let digest = "10b029e453bf623432664a7d232c959dd42009523911b74e9c50026175a52494";
    let entry = json!({ "subject": "u-1", "legacy": { "cookie": "JSESSIONID", "sha256": digest } });
    gateway.admin().post("/api/v1/sessions", "").json(&entry).send().expect(201);
    assert!(gateway.stop());

    let gateway = state.gateway(&upstream).start();
    let brought = gateway.client().get("/app/x").cookie("JSESSIONID=old-value").send().expect(200);
    let ours = session_cookie(&brought);
    assert!(gateway.stop());

    let gateway = state.gateway(&upstream).start();
    assert_eq!(visit(&gateway.client(), &ours), 200);
    assert_eq!(visit(&gateway.client(), "JSESSIONID=old-value"), 401);
}

#[test]
fn two_gateways_do_not_share_a_directory() {
    let (upstream, state) = (Upstream::start(), State::new());
    let first = state.gateway(&upstream).start();

    let refusal = state.refusal(&upstream);

    assert!(refusal.contains("is in use by another gateway; each needs a directory of its own"), "{refusal}");
    assert!(first.stop());
    state.gateway(&upstream).start();
}

#[test]
fn what_is_damaged_foreign_or_sealed_with_another_key_is_refused_and_left_alone() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start();
    let (cookie, _) = open(&gateway, "alice");
    assert!(gateway.stop());
    let sound = fs::read(state.database()).expect("the database");

    let mut spoilt = sound.clone();
    spoilt.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x55);
    let mut cut = sound.clone();
    cut.truncate(sound.len() / 2);
    let text = b"There is nothing of yours in here. ".repeat(1000);
    for (what, content) in [("spoilt", spoilt), ("cut", cut), ("foreign", text), ("short", b"redb".to_vec())] {
        fs::write(state.database(), &content).expect("a write");
        let refusal = state.refusal(&upstream);
        assert!(
            refusal.contains("server.state_dir cannot be used") && refusal.contains("state.redb"),
            "{what}: {refusal}"
        );
        assert!(refusal.contains("move it away"), "{what}: {refusal}");
    }
    fs::write(state.database(), &sound).expect("a write");
    state.write_keys(&[2]);
    let refusal = state.refusal(&upstream);
    assert!(refusal.contains("which is not in server.state_key_file"), "{refusal}");

    state.write_keys(&[2, 1]);
    let gateway = state.gateway(&upstream).start();
    assert_eq!(visit(&gateway.client(), &cookie), 200, "the old key opens while it is in the file");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let (upstream, state) = (Upstream::start(), State::new());
    fs::write(state.dir(), "a file").expect("a write");

    let refusal = state.refusal(&upstream);

    assert!(refusal.contains("server.state_dir cannot be used"), "{refusal}");
}

#[test]
fn what_is_on_disk_is_for_the_owner_only_and_tells_nothing() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start();
    let (cookie, _) = open(&gateway, "someone-with-a-name");
    let strike = json!({ "kind": "subject", "realm": "staff", "subject": "someone-else" });
    gateway.admin().post("/api/v1/revocations", "").json(&strike).send().expect(200);
    assert!(gateway.stop());

    let content = fs::read(state.database()).expect("the database");

    let holds = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
    let token = cookie.split_once('=').expect("a cookie").1;
    assert!(!holds("someone") && !holds(token));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&state.dir()), mode(&state.database())), (0o700, 0o600));
}

/// 64 at once, each with a connection of its own, on a real file system.
#[test]
fn logins_that_come_together_share_a_sync() {
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start();
    let count = || ["syncs", "changes"].map(|what| gateway.metric(&format!("portcullis_state_{what}_total"), &[]));
    let before = count();

    std::thread::scope(|scope| {
        for worker in 0..64 {
            let admin = gateway.admin();
            scope.spawn(move || {
                let mut connection = admin.connect();
                for step in 0..10 {
                    let entry = json!({ "subject": format!("user-{worker}-{step}") });
                    connection.send(&admin.post("/api/v1/sessions", "").json(&entry)).expect(201);
                }
            });
        }
    });

    let after = count();
    let changes = after[1] - before[1];
    let shared = changes / (after[0] - before[0]);
    println!("{shared:.1} logins share a sync");
    assert_eq!(changes, 640.0);
    assert!(shared >= 20.0, "{shared:.1} logins share a sync");
}
