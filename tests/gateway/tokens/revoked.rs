//! R28: each way to end a session or a token ends the tokens with the next request and their tunnels within a second:
//! known ones, fresh ones, their twins, also after the clock was set back.

use super::*;
use crate::{
    cut::upstream,
    support::{
        Connection, Issuer,
        websocket::{echoes, ends_soon, tunnel},
    },
};

/// Somebody with a session, a token that is known, one that nobody has used, and a tunnel.
struct Held {
    client: Client,
    cookie: String,
    known: String,
    fresh: String,
    tunnel: Connection,
}

impl Held {
    fn of(gateway: &Running, name: &str) -> Self {
        let client = gateway.log_in(name);
        let first = by_session(&client).send().expect(200);
        let cookie = first.cookie(REFRESH_COOKIE).expect("a cookie");
        let known = text(&first, "access_token");
        let fresh = text(&by_session(&client).header("Cookie", &cookie).send().expect(200), "access_token");
        assert_eq!(opens(gateway, &known), 200);
        let tunnel = tunnel(&gateway.client().always("Authorization", &format!("Bearer {known}")));
        Self { client, cookie, known, fresh, tunnel }
    }

    fn refresh(&self) -> u16 {
        ask(&self.client, REFRESH, &json!({ "client_id": "spa" })).cookie(&self.cookie).send().status
    }
}

fn revocation(gateway: &Running, entry: Value) {
    gateway.admin().post("/api/v1/revocations", "").json(&entry).send().expect(200);
}

/// How it ends, whether what was not named (the fresh token) ends as well, and whether refreshing does.
type Way = (&'static str, bool, bool, fn(&Running, &Held));

const WAYS: [Way; 12] = [
    ("logout", true, true, |_, held| {
        held.client.post("/_auth/logout", "").header("Sec-Fetch-Site", "same-origin").send();
    }),
    ("all sessions of one's own", true, true, |_, held| {
        ask(&held.client, "/_auth/sessions", &json!({ "end": "all" })).send().expect(200);
    }),
    ("an administrator ends the sessions", true, true, |gateway, _| {
        gateway.admin().request("DELETE", "/api/v1/sessions?subject=id-of-alice").send().expect(200);
    }),
    ("the subject is revoked", true, true, |gateway, _| {
        revocation(gateway, json!({ "kind": "subject", "realm": "staff", "subject": "id-of-alice" }));
    }),
    ("the token is revoked by its text", false, false, |gateway, held| {
        revocation(gateway, json!({ "kind": "token", "token": held.known }));
    }),
    ("the token is revoked by its name", false, false, |gateway, held| {
        revocation(gateway, json!({ "kind": "jti", "issuer": "self", "jti": claims(&held.known)["jti"] }));
    }),
    ("the refresh token is revoked by an administrator", true, true, |gateway, held| {
        let token = held.cookie.split_once('=').expect("a value").1;
        revocation(gateway, json!({ "kind": "token", "token": token }));
    }),
    ("the access token is given back", true, true, |gateway, held| {
        let body = format!("token={}&client_id=spa&token_type_hint=access_token", held.known);
        let form = gateway.client().post(REVOKE, body).header("Content-Type", "application/x-www-form-urlencoded");
        form.send().expect(200);
    }),
    ("the refresh token is given back", true, true, |gateway, held| {
        let answer =
            ask(&gateway.client(), REVOKE, &json!({ "client_id": "spa" })).cookie(&held.cookie).send().expect(200);
        assert!(answer.cookie(REFRESH_COOKIE).is_some_and(|cookie| cookie.ends_with('=')));
    }),
    ("other roles", true, false, |gateway, _| {
        gateway.edit("roles = [\"user\"]", "roles = [\"admin\"]");
        gateway.reload().expect(200);
    }),
    ("the user is gone", true, true, |gateway, _| {
        gateway.edit("id = \"id-of-alice\"", "id = \"id-of-malice\"");
        gateway.reload().expect(200);
    }),
    ("a step-up takes the session's place", true, true, |_, held| {
        let body = json!({ "username": "alice", "password": PASSWORD });
        ask(&held.client, "/_auth/login", &body).header("Accept", "application/json").send().expect(200);
    }),
];

#[test]
fn each_way_to_revoke_ends_the_tokens_of_a_session() {
    for (way, fresh_too, refresh_too, end) in WAYS {
        for step_back in [false, true] {
            let upstream = upstream();
            let gateway = configured(&upstream).start();
            let (mut held, mut other) = (Held::of(&gateway, "alice"), Held::of(&gateway, "bob"));

            end(&gateway, &held);
            if step_back {
                gateway.clock().set(gateway.now().minus(Duration::from_secs(3600)));
            }

            assert_eq!(opens(&gateway, &held.known), 401, "{way}");
            assert_eq!(opens(&gateway, &held.known), 401, "{way}: as well the second time");
            assert_eq!(opens(&gateway, &Issuer::twin(&held.known)), 401, "{way}: its twin");
            ends_soon(&mut held.tunnel);
            // A token from an hour ahead is nobody's yet.
            if !step_back {
                assert_eq!(opens(&gateway, &held.fresh), if fresh_too { 401 } else { 200 }, "{way}: never seen");
                let refreshed = held.refresh() == 200;
                assert_eq!(refreshed, !refresh_too, "{way}: refreshing");
            }
            // Other roles are everybody's in this configuration.
            if way != "other roles" {
                assert_eq!(opens(&gateway, &other.known), 200, "{way}: somebody else's");
                assert!(echoes(&mut other.tunnel), "{way}: somebody else's");
            }
        }
    }
}

/// The twin is good until then, or the test above proves nothing.
#[test]
fn a_token_of_ours_has_a_twin() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let token = text(&by_session(&gateway.log_in("alice")).send().expect(200), "access_token");

    assert_eq!((opens(&gateway, &token), opens(&gateway, &Issuer::twin(&token))), (200, 200));
}

/// Also refresh tokens: "everything that we have signed so far" would otherwise come again.
#[test]
fn everything_that_we_have_signed_can_be_revoked() {
    let upstream = upstream();
    let gateway = configured(&upstream).start();
    let mut held = Held::of(&gateway, "alice");

    revocation(&gateway, json!({ "kind": "issuer", "issuer": "self" }));

    assert_eq!([&held.known, &held.fresh].map(|token| opens(&gateway, token)), [401, 401]);
    ends_soon(&mut held.tunnel);
    gateway.advance(Duration::from_secs(3));
    assert_eq!(held.refresh(), 400);
    held.client.get("/app/x").send().expect(200);
    let again = text(&by_session(&held.client).send().expect(200), "access_token");
    assert_eq!(opens(&gateway, &again), 200, "what is signed later is good");
}

/// R28: no moment strikes whoever comes back, whatever the clock does.
#[test]
fn whoever_logs_in_again_after_a_revocation_has_good_tokens_at_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let token = || {
        let alice = gateway.open_session(&json!({ "subject": "alice" }));
        text(&by_session(&alice).send().expect(200), "access_token")
    };
    let before = token();
    let now = gateway.now();
    assert_eq!(opens(&gateway, &before), 200);
    revocation(&gateway, json!({ "kind": "subject", "realm": "staff", "subject": "alice" }));
    for at in [now, now.minus(Duration::from_secs(3600))] {
        gateway.clock().set(at);
        let after = token();

        assert_eq!((opens(&gateway, &before), opens(&gateway, &after)), (401, 200));
    }
}

/// RFC 7009 section 2.2: what is void already is no error.
#[test]
fn who_gives_back_what_is_nothing_or_anothers_changes_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let answer = by_session(&alice).send().expect(200);
    let (token, cookie) = (text(&answer, "access_token"), answer.cookie(REFRESH_COOKIE).expect("a cookie"));
    let give_back = |body: &Value| gateway.client().post(REVOKE, "").json(body).send();
    let forged = Issuer::es256().sign(&claims(&token));
    for (body, status) in [
        (json!({ "client_id": "spa", "token": "nothing" }), 200),
        (json!({ "client_id": "spa", "token": forged }), 200),
        (json!({ "client_id": "spa", "token": &cookie[REFRESH_COOKIE.len()..] }), 200),
        (json!({ "client_id": "phone", "token": token }), 400),
        (json!({ "client_id": "stranger", "token": token }), 401),
        (json!({ "client_id": "spa" }), 400),
        (json!({ "token": token }), 400),
    ] {
        assert_eq!(give_back(&body).status, status, "{body}");
        assert_eq!(opens(&gateway, &token), 200, "{body}");
    }
    // Another site neither with the cookie nor with anything else.
    for (name, value) in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site"), ("X-Nothing", "said")] {
        let body = json!({ "client_id": "spa" });
        gateway.client().post(REVOKE, "").json(&body).cookie(&cookie).header(name, value).send().expect(403);
    }
    assert_eq!(opens(&gateway, &token), 200);
    give_back(&json!({ "client_id": "spa", "token": token })).expect(200);
    assert_eq!(opens(&gateway, &token), 401);
    alice.get("/app/x").send().expect(200);
}

/// What a program has beside its tokens is a session that only its tokens open: it ends with them.
#[test]
fn a_programs_session_ends_with_its_refresh_token() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let answer = gateway.client().post(TOKEN, "").json(&by_password("alice")).send().expect(200);
    let sessions = || {
        let listed = gateway.admin().get("/api/v1/sessions?subject=id-of-alice").send().expect(200).json();
        listed["sessions"].as_array().expect("a list").len()
    };
    assert_eq!(sessions(), 1);

    let body = json!({ "client_id": "phone", "token": text(&answer, "refresh_token") });
    gateway.client().post(REVOKE, "").json(&body).send().expect(200);

    assert_eq!(sessions(), 0);
    assert_eq!(opens(&gateway, &text(&answer, "access_token")), 401);
}
