//! With `server.state_dir`, what was told holds after `kill -9`: tokens, successors, and the end of either.

use super::*;
use crate::support::process::Process;

const STATE: &str = "state_dir = \"state\"";

fn log_in(gateway: &Process, name: &str) -> Client {
    let body = json!({ "username": name, "password": PASSWORD });
    let asked = ask(&gateway.client(), "/_auth/login", &body).header("Accept", "application/json");
    let cookie = asked.send().expect(200).cookie(SESSION_COOKIE).expect("a session");
    gateway.client().always("Cookie", &cookie)
}

fn visit(gateway: &Process, token: &str) -> u16 {
    use_token(&gateway.client(), token).status
}

/// The session's cookie of a client from before the restart.
fn again(gateway: &Process, client: &Client) -> Client {
    gateway.client().always("Cookie", &client.get("/").cookies())
}

#[test]
fn tokens_survive_a_kill_and_what_was_ended_does_not() {
    let upstream = Upstream::start();
    let mut gateway = configured(&upstream).server(STATE).start_process();
    let token_of = |client: &Client| {
        let answer = by_session(client).send().expect(200);
        (text(&answer, "access_token"), answer.cookie(REFRESH_COOKIE).expect("a cookie"))
    };
    let revoke = |gateway: &Process, entry: &Value| {
        gateway.admin().post("/api/v1/revocations", "").json(entry).send().expect(200);
    };
    let (stays, gone, alice) = (log_in(&gateway, "bob"), log_in(&gateway, "bob"), log_in(&gateway, "alice"));
    let ((good, cookie), (of_logout, of_logout_cookie)) = (token_of(&stays), token_of(&gone));
    let (by_jti, _) = token_of(&stays);
    let (given_back, given_back_cookie) = token_of(&stays);
    let (of_alice, of_alice_cookie) = token_of(&alice);
    for token in [&good, &of_logout, &by_jti, &given_back, &of_alice] {
        assert_eq!(visit(&gateway, token), 200);
    }
    gone.post("/_auth/logout", "").header("Sec-Fetch-Site", "same-origin").send();
    revoke(&gateway, &json!({ "kind": "jti", "issuer": "self", "jti": claims(&by_jti)["jti"] }));
    let body = json!({ "client_id": "spa", "token": given_back });
    gateway.client().post(REVOKE, "").json(&body).send().expect(200);
    revoke(&gateway, &json!({ "kind": "subject", "realm": "staff", "subject": "id-of-alice" }));

    gateway.kill();
    gateway.start_again();

    let statuses = [&good, &of_logout, &by_jti, &given_back, &of_alice].map(|token| visit(&gateway, token));
    assert_eq!(statuses, [200, 401, 401, 401, 401]);
    let pairs =
        [(&stays, &cookie), (&gone, &of_logout_cookie), (&stays, &given_back_cookie), (&alice, &of_alice_cookie)];
    let refreshed = pairs.map(|(client, cookie)| {
        ask(&again(&gateway, client), REFRESH, &json!({ "client_id": "spa" })).cookie(cookie).send().status
    });
    assert_eq!(refreshed, [200, 400, 400, 400]);
    by_session(&again(&gateway, &stays)).send().expect(200);
}

/// An answer that was lost with the process, and a thief who hopes that the restart has forgotten.
#[test]
fn a_spent_refresh_token_is_known_after_a_kill() {
    let upstream = Upstream::start();
    let mut gateway = configured(&upstream).server(STATE).start_process();
    let refresh = |gateway: &Process, token: &str| {
        gateway.client().post(REFRESH, "").json(&json!({ "client_id": "phone", "refresh_token": token })).send()
    };
    let answer = gateway.client().post(TOKEN, "").json(&by_password("alice")).send().expect(200);
    let first = text(&answer, "refresh_token");
    let second = text(&refresh(&gateway, &first).expect(200), "refresh_token");
    let begun = portcullis::clock::instant();
    gateway.kill();
    gateway.start_again();

    let again = refresh(&gateway, &first);

    // A machine that is busy for so long has made it too late.
    if begun.elapsed() < Duration::from_secs(8) {
        assert_eq!(text(&again.expect(200), "refresh_token"), second);
        let third = text(&refresh(&gateway, &second).expect(200), "refresh_token");
        gateway.kill();
        gateway.start_again();
        refresh(&gateway, &third).expect(200);
    }
}

/// With a clock that can be moved; a restart that the gateway knows of.
#[test]
fn a_family_that_has_ended_stays_ended_across_restarts() {
    let upstream = Upstream::start();
    let state = tempfile::tempdir().expect("a directory can be made");
    let hash = portcullis::accounts::hash_password(PASSWORD).expect("the password can be hashed");
    let start = |at| {
        let gateway = Gateway::with(SETTINGS).server(&format!("state_dir = {:?}", state.path().join("state")));
        let users = format!(
            "[[login.provider]]\nname = \"local\"\nrealm = \"staff\"\n[[login.provider.user]]\nname = \"alice\"\n\
             id = \"id-of-alice\"\npassword = {hash:?}"
        );
        gateway.table(&users).route("/{*rest}", &upstream).auth(&["jwt:self"]).at(at).start()
    };
    let refresh = |gateway: &Running, token: &str| {
        gateway.client().post(REFRESH, "").json(&json!({ "client_id": "phone", "refresh_token": token })).send()
    };
    let gateway = start(portcullis::clock::Clock::system().now());
    let tokens: [String; 2] = [0, 1].map(|_| {
        let answer = gateway.client().post(TOKEN, "").json(&by_password("alice")).send().expect(200);
        text(&answer, "refresh_token")
    });
    let next = tokens.each_ref().map(|token| text(&refresh(&gateway, token).expect(200), "refresh_token"));
    gateway.advance(Duration::from_secs(11));
    refresh(&gateway, &tokens[0]).expect(400);
    let now = gateway.now();
    assert!(gateway.stop());

    let gateway = start(now);

    assert_eq!(next.each_ref().map(|token| refresh(&gateway, token).status), [400, 200]);
    assert_eq!(refresh(&gateway, &tokens[1]).status, 400, "spent too long ago, before the restart");
    assert_eq!(gateway.metric("portcullis_refresh_families", &[]), 0.0);
    let database = std::fs::read(state.path().join("state/state.redb")).expect("the database");
    for token in tokens.iter().chain(&next) {
        let hidden = &token.as_bytes()[40..];
        assert!(!database.windows(hidden.len()).any(|window| window == hidden), "no token is on disk");
    }
}
