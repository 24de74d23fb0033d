//! Client credentials: an API key gets a short-lived token, which ends with the key.

use super::*;
use crate::{api_keys::key, support::websocket};

const BATCH: &str =
    "[token]\nissuer = \"https://app.test\"\nclients = [\"spa\", { id = \"batch\", grants = [\"api_key\"] }]\n";

fn configured(upstream: &Upstream, entry: &str) -> Gateway {
    Gateway::with(BATCH)
        .table(entry)
        .admin()
        .user("alice", PASSWORD, &[])
        .route("/{*rest}", upstream)
        .auth(&["jwt:self"])
        .key("upgrade = [\"websocket\"]")
}

fn request(client: &Client) -> Request {
    client.post(TOKEN, "").json(&json!({ "grant_type": "client_credentials", "client_id": "batch" }))
}

#[test]
fn a_key_gets_a_token_for_as_long_as_it_counts() {
    let upstream = Upstream::start();
    let (text_of_key, entry) = key("ci", "roles = [\"deployer\"]\nscopes = [\"a\", \"b\"]");
    let gateway = configured(&upstream, &entry).start();
    let by_header = gateway.client().always("X-API-Key", text_of_key.expose());

    let answer = request(&by_header).send().expect(200);

    assert_eq!(answer.json()["scope"], "a b");
    assert_eq!(answer.json().as_object().expect("an object").len(), 4, "no refresh token: the key is one");
    assert!(answer.all("set-cookie").is_empty());
    let token = text(&answer, "access_token");
    use_token(&gateway.client(), &token).expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-id"), seen.header("x-user-roles")), (Some("robot"), Some("deployer")));
    assert_eq!((seen.header("x-user-scopes"), seen.header("x-user-auth")), (Some("a,b"), Some("jwt")));
    let by_bearer = request(&gateway.client()).bearer(text_of_key.expose()).send().expect(200);
    assert_eq!(opens(&gateway, &text(&by_bearer, "access_token")), 200);
    assert!(claims(&token).get("auth_time").is_none(), "a key is no login");

    for (request, status, error) in [
        (request(&gateway.client()), 400, "invalid_grant"),
        (request(&gateway.client()).bearer(&token), 400, "invalid_grant"),
        (request(&gateway.client()).bearer("ptc_nothing"), 401, "invalid_client"),
        (request(&by_header).bearer(text_of_key.expose()), 401, "invalid_client"),
        (by_session(&by_header), 401, "no_credential"),
        (request(&gateway.log_in("alice")).header("Sec-Fetch-Site", "same-origin"), 400, "invalid_grant"),
    ] {
        assert_eq!(text(&request.send().expect(status), "error"), error);
    }
}

#[test]
fn the_token_ends_with_its_key() {
    for way in ["revoked", "subject", "removed", "other roles", "given_back"] {
        let upstream = crate::cut::upstream();
        let (text_of_key, entry) = key("ci", "");
        let (stays, other) = key("other", "");
        let gateway = configured(&upstream, &format!("{entry}\n{}", other.replace("robot", "machine"))).start();
        let of = |key: &portcullis::secret::Secret<String>| {
            text(&request(&gateway.client()).bearer(key.expose()).send().expect(200), "access_token")
        };
        let (token, fresh, others) = (of(&text_of_key), of(&text_of_key), of(&stays));
        let tunnel =
            |token: &str| websocket::tunnel(&gateway.client().always("Authorization", &format!("Bearer {token}")));
        let (mut open, mut goes_on) = (tunnel(&token), tunnel(&others));
        let id = &text_of_key.expose()[4..20];
        let revocation = |entry: Value| gateway.admin().post("/api/v1/revocations", "").json(&entry).send().expect(200);

        match way {
            "revoked" => drop(revocation(json!({ "kind": "api_key", "id": id }))),
            "subject" => drop(revocation(json!({ "kind": "subject", "subject": "robot" }))),
            "removed" => {
                gateway.edit(&entry, "");
                gateway.reload().expect(200);
            }
            "other roles" => {
                gateway.edit(&entry, &format!("{entry}roles = [\"admin\"]\n"));
                gateway.reload().expect(200);
            }
            _ => {
                let body = json!({ "client_id": "batch", "token": token });
                gateway.client().post(REVOKE, "").json(&body).send().expect(200);
            }
        }

        websocket::ends_soon(&mut open);
        assert_eq!(opens(&gateway, &token), 401, "{way}");
        // Each token of a key is given back by itself.
        assert_eq!(opens(&gateway, &fresh), if way == "given_back" { 200 } else { 401 }, "{way}");
        assert_eq!(opens(&gateway, &others), 200, "{way}");
        assert!(websocket::echoes(&mut goes_on), "{way}");
    }
}

#[test]
fn a_token_counts_where_its_key_does_and_no_longer() {
    let upstream = Upstream::start();
    let gateway = Gateway::new();
    let at = gateway.clock().now().plus(2 * MINUTE).to_system_time();
    let expires = humantime::format_rfc3339_seconds(at).to_string();
    let (text_of_key, entry) = key("ci", &format!("expires = {expires:?}\nfrom = [\"192.0.2.0/24\"]"));
    let gateway = configured(&upstream, &entry).server("trusted_proxies = [\"127.0.0.1/32\"]").start();
    let from = |address: &str| gateway.client().always("X-Forwarded-For", address).always("X-Forwarded-Proto", "https");
    request(&from("198.51.100.1")).bearer(text_of_key.expose()).send().expect(401);
    let answer = request(&from("192.0.2.1")).bearer(text_of_key.expose()).send().expect(200);
    let lives = answer.json()["expires_in"].as_u64().expect("seconds");
    assert!((110..=120).contains(&lives), "{lives}");
    let token = text(&answer, "access_token");

    assert_eq!(use_token(&from("192.0.2.9"), &token).status, 200);
    assert_eq!(use_token(&from("198.51.100.1"), &token).status, 401);
    gateway.advance(2 * MINUTE);
    assert_eq!(use_token(&from("192.0.2.9"), &token).status, 401);
}
