//! Sessions follow a change of what opened them, at once (R29).

use serde_json::json;

use crate::support::{Client, Gateway, Upstream, gateway::Running};

/// Alice and bob may log in; /admin is for admins.
fn gateway(upstream: &Upstream) -> Running {
    Gateway::new()
        .admin()
        .user("alice", "correct horse", &["user"])
        .user("bob", "battery staple", &["user"])
        .route("/a/{*rest}", upstream)
        .route("/admin/{*rest}", upstream)
        .require("role:admin")
        .start()
}

fn status(client: &Client, path: &str) -> u16 {
    client.get(path).send().status
}

/// The `[[login.provider.user]]` entry of somebody, as it stands in gateway.toml.
fn entry(gateway: &Running, name: &str) -> String {
    let text = std::fs::read_to_string(gateway.folder().join("gateway.toml")).expect("gateway.toml");
    let begin = text.find(&format!("[[login.provider.user]]\nname = {name:?}")).expect("the user");
    let end = text[begin + 2..].find("\n[").map_or(text.len(), |end| begin + 2 + end + 1);
    text[begin..end].to_owned()
}

/// Who is logged out by a change of the users, or gets other roles, can be found in the audit log.
#[test]
fn what_a_change_of_users_does_to_sessions_is_told() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let clients = (gateway.log_in("alice"), gateway.log_in("bob"));
    let before = entry(&gateway, "alice");
    gateway.edit(&before, &before.replace("roles = [\"user\"]", "roles = [\"admin\"]"));
    gateway.reload().expect(200);
    let hash = portcullis::accounts::hash_password("another").expect("it can be hashed");
    let line = entry(&gateway, "alice").lines().find(|line| line.starts_with("password")).expect("one").to_owned();
    gateway.edit(&line, &format!("password = {hash:?}"));
    gateway.edit(&entry(&gateway, "bob"), "");
    gateway.reload().expect(200);
    assert_eq!((status(&clients.0, "/a/x"), status(&clients.1, "/a/x")), (401, 401));

    let told: Vec<serde_json::Value> =
        gateway.stop_and_read_audit().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |event: &str| {
        let lines = told.iter().filter(move |line| line["event"] == event);
        let mut found: Vec<_> = lines.map(|line| (line["subject"].as_str(), line["why"].as_str())).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(of("session.updated"), [(Some("id-of-alice"), None)]);
    let voided = [(Some("id-of-alice"), Some("password_changed")), (Some("id-of-bob"), Some("user_gone"))];
    assert_eq!(of("session.voided"), voided);
    assert!(told.iter().all(|line| line["event"] != "session.voided" || line["client"] == "gateway"));
}

#[test]
fn a_session_has_the_roles_that_its_user_has_now() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let since = alice.get("/_auth/session").send().expect(200).json()["auth_time"].clone();
    assert_eq!((status(&alice, "/admin/x"), status(&bob, "/admin/x")), (403, 403));

    let before = entry(&gateway, "alice");
    let promoted = before.replace("roles = [\"user\"]", "roles = [\"admin\"]\ndisplay_name = \"Alice A.\"");
    gateway.edit(&before, &promoted);
    let told = gateway.reload().expect(200).json();

    assert_eq!((told["sessions_updated"].as_u64(), told["sessions_ended"].as_u64()), (Some(1), Some(0)));
    assert_eq!((status(&alice, "/admin/x"), status(&bob, "/admin/x")), (200, 403));
    let now = alice.get("/_auth/session").send().expect(200).json();
    assert_eq!((now["name"].as_str(), &now["auth_time"]), (Some("Alice A."), &since), "a role is no login");
    while upstream.request_count() > 0 {
        let seen = upstream.next_request();
        if seen.path == "/admin/x" {
            assert_eq!((seen.header("x-user-roles"), seen.header("x-user-name")), (Some("admin"), Some("Alice A.")));
            break;
        }
    }

    gateway.edit(&promoted, &before);
    gateway.reload().expect(200);
    assert_eq!((status(&alice, "/admin/x"), status(&alice, "/a/x")), (403, 200));
}

#[test]
fn the_sessions_of_a_user_who_is_gone_or_has_another_password_end() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let hash = portcullis::accounts::hash_password("another").expect("it can be hashed");
    let before = entry(&gateway, "alice");
    let line = before.lines().find(|line| line.starts_with("password")).expect("a password").to_owned();

    gateway.edit(&line, &format!("password = {hash:?}"));
    let told = gateway.reload().expect(200).json();

    assert_eq!((told["sessions_updated"].as_u64(), told["sessions_ended"].as_u64()), (Some(0), Some(1)));
    assert_eq!((status(&alice, "/a/x"), status(&bob, "/a/x")), (401, 200));
    gateway.edit(&entry(&gateway, "bob"), "");
    gateway.reload().expect(200);
    assert_eq!(status(&bob, "/a/x"), 401);
    assert_eq!(gateway.metric("portcullis_sessions_revised_total", &[("result", "ended")]), 2.0);
}

#[test]
fn what_leaves_users_as_they_are_leaves_their_sessions() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");

    gateway.edit("/admin/{*rest}", "/management/{*rest}");
    gateway.edit("id = \"id-of-bob\"", "id = \"id-of-robert\"");
    let told = gateway.reload().expect(200).json();

    assert_eq!((told["sessions_updated"].as_u64(), told["sessions_ended"].as_u64()), (Some(0), Some(0)));
    assert_eq!(status(&alice, "/a/x"), 200);
}

#[test]
fn a_user_who_comes_back_under_the_same_id_is_not_the_one_who_logged_in() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let bob = gateway.log_in("bob");
    let hash = portcullis::accounts::hash_password("somebody else").expect("it can be hashed");
    let before = entry(&gateway, "bob");
    let line = before.lines().find(|line| line.starts_with("password")).expect("a password");

    gateway.edit(&before, &before.replace(line, &format!("password = {hash:?}")).replace("\"bob\"", "\"robert\""));
    gateway.reload().expect(200);

    assert_eq!(status(&bob, "/a/x"), 401);
}

#[test]
fn sessions_go_with_their_provider_or_their_admin_token() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let made = gateway.open_session(&json!({ "subject": "carol", "roles": ["admin", "user"] }));
    assert_eq!((status(&alice, "/a/x"), status(&made, "/admin/x")), (200, 200));

    gateway.edit("realm = \"staff\"\ngrants = \"all\"\n\n", "realm = \"staff\"\ngrants = { roles = [\"user\"] }\n\n");
    let told = gateway.reload().expect(200).json();
    assert_eq!(told["sessions_updated"].as_u64(), Some(1));
    assert_eq!((status(&made, "/admin/x"), status(&made, "/a/x")), (403, 200), "what may not be granted is gone");

    gateway.edit("name = \"local\"\nrealm = \"staff\"", "name = \"people\"\nrealm = \"staff\"");
    gateway.reload().expect(200);
    assert_eq!((status(&alice, "/a/x"), status(&made, "/a/x")), (401, 200));

    gateway.edit("name = \"test\"\nfile", "name = \"another\"\nfile");
    gateway.reload().expect(200);
    assert_eq!(status(&made, "/a/x"), 401);
}
