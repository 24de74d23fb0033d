//! A session that has ended is dead in both processes before anybody hears that it has.

use portcullis::clock::instant;

use super::*;
use crate::support::{
    Issuer,
    websocket::{SOON, ends_soon},
};

#[test]
fn a_logout_on_either_process_holds_on_both() {
    for durable in [true, false] {
        let upstream = echoing();
        let (mut gateway, _folder) = can_be_followed(&upstream, durable, LONG);
        let [there, here] = [(); 2].map(|()| session(&gateway, "alice"));
        let mut tunnel = tunnel(&there);
        let [mut kept, mut asked_again] = [&here, &there].map(|client| {
            let mut connection = client.connect();
            connection.send(&visit(client)).expect(200);
            connection
        });

        let _old = gateway.upgrade();

        // In the new process: the old one's connections and tunnels know of it.
        logout(&there).send().expect(200);
        asked_again.send(&visit(&there)).expect(401);
        let begun = instant();
        ends_soon(&mut tunnel);
        assert!(begun.elapsed() < SOON);
        // In the old process: the new one knows of it.
        kept.send(&logout(&here)).expect(200);
        visit(&here).send().expect(401);
    }
}

#[test]
fn a_revocation_in_the_new_process_holds_in_the_old_one() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, true, LONG);
    let alice = session(&gateway, "alice");
    let mut kept = [(); 2].map(|()| alice.connect());
    kept.iter_mut().for_each(|kept| drop(kept.send(&visit(&alice)).expect(200)));

    let _old = gateway.upgrade();
    let [before, after] = &mut kept;
    before.send(&visit(&alice)).expect(200);
    let ended = gateway.admin().request("DELETE", "/api/v1/sessions?subject=alice").send().expect(200);
    assert_eq!(ended.json()["ended"], 1);

    after.send(&visit(&alice)).expect(401);
}

/// By an administrator whose connection is an old one.
#[test]
fn a_revocation_in_the_old_process_holds_in_the_new_one() {
    for durable in [true, false] {
        let upstream = echoing();
        let issuer = Issuer::es256();
        let (gateway, folder) = configured(&upstream, LONG);
        let gateway = gateway.issuer(&issuer).route("/api/{*rest}", &upstream).auth(&["jwt"]);
        let mut gateway = if durable { with_state(gateway, &folder) } else { gateway }.start_process();
        let (alice, admin) = (session(&gateway, "alice"), gateway.admin());
        let claims = Issuer::claims("carol", &[], Clock::system().now());
        let carol = gateway.client().always("Authorization", &format!("Bearer {}", issuer.sign(&claims)));
        carol.get("/api/x").send().expect(200);
        // A connection of a process that drains has one request left.
        let mut kept = [(); 2].map(|()| admin.connect());
        kept.iter_mut().for_each(|kept| drop(kept.send(&admin.get("/api/v1/routes")).expect(200)));

        let _old = gateway.upgrade();
        visit(&alice).send().expect(200);
        carol.get("/api/x").send().expect(200);
        let [one, other] = &mut kept;
        let ended = one.send(&admin.request("DELETE", "/api/v1/sessions?subject=alice")).expect(200);
        assert_eq!(ended.json()["ended"], 1, "state on disk: {durable}");
        let entry = json!({ "kind": "subject", "subject": "carol" });
        other.send(&admin.post("/api/v1/revocations", "").json(&entry)).expect(200);

        visit(&alice).send().expect(401);
        carol.get("/api/x").send().expect(401);
    }
}

/// What takes the place of something: a session stays, with other roles (R29).
#[test]
fn roles_that_change_in_the_new_process_change_in_the_old_one() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, true, LONG);
    let alice = log_in(&gateway.client(), "alice");
    let mut kept = alice.connect();
    kept.send(&visit(&alice)).expect(200);
    let roles = || upstream.requests().pop().and_then(|seen| seen.header("x-user-roles").map(str::to_owned));
    assert_eq!(roles(), None);

    let _old = gateway.upgrade();
    let text = fs::read_to_string(gateway.config()).unwrap();
    fs::write(gateway.config(), text.replacen("roles = []", "roles = [\"admin\"]", 1)).unwrap();
    assert!(gateway.reload().contains("the configuration was reloaded"));

    kept.send(&visit(&alice)).expect(200);
    assert_eq!(roles().as_deref(), Some("admin"));
}

/// It cannot be told, and could serve again at any moment.
#[test]
fn an_old_process_that_hangs_is_ended_before_anybody_hears_of_a_logout() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, true, LONG);
    let alice = session(&gateway, "alice");
    let mut tunnel = tunnel(&alice);
    let old = gateway.upgrade();
    signal("-STOP", old.id());

    logout(&alice).send().expect(200);

    // By a signal: it could not end by itself.
    assert_eq!(old.wait(), None);
    tunnel.read_to_end();
    visit(&alice).send().expect(401);
    visit(&session(&gateway, "alice")).send().expect(200);
}

/// What ended there could go on here.
#[test]
fn an_old_process_ends_with_the_one_that_has_taken_over() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, true, LONG);
    let alice = session(&gateway, "alice");
    let mut tunnel = tunnel(&alice);
    let old = gateway.upgrade();
    assert!(echoes(&mut tunnel));

    gateway.kill();

    assert_eq!(old.wait(), Some(1));
    tunnel.read_to_end();
    // And nothing is lost for whoever starts next.
    gateway.start_again();
    visit(&gateway.client().always("Cookie", &alice.get("/").cookies())).send().expect(200);
}
