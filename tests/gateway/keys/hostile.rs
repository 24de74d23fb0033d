//! The issuer is down, broken or hostile: what was good last goes on counting, and nobody else waits.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Provider, Upstream, eventually, gateway::Running};

const REFRESH: Duration = Duration::from_secs(5 * 60);

fn start(issuer: &Issuer, provider: &Provider, upstream: &Upstream) -> Running {
    Gateway::new().issuer_with(issuer, &provider.jwks()).route("/{*rest}", upstream).start()
}

fn token(issuer: &Issuer, gateway: &Running) -> String {
    issuer.sign(&Issuer::claims("alice", &[], gateway.now()))
}

fn count(gateway: &Running, result: &str) -> f64 {
    gateway.metric("portcullis_jwks_fetches_total", &[("issuer", "test"), ("result", result)])
}

fn answer(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn set(keys: &[Value]) -> Vec<u8> {
    answer("", &json!({ "keys": keys }).to_string())
}

#[test]
fn the_last_good_keys_count_through_outages_and_nonsense() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let good = issuer.jwk();
    let provider = Provider::of(&[&issuer]);
    let gateway = start(&issuer, &provider, &upstream);
    gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);

    let mut other = Issuer::es256().jwk();
    other["kid"] = good["kid"].clone();
    let weak = json!({ "kty": "RSA", "kid": "weak", "n": URL_SAFE_NO_PAD.encode([0xab; 128]), "e": "AQAB" });
    let mut private = Issuer::es256().jwk();
    private["d"] = json!(URL_SAFE_NO_PAD.encode([7; 32]));
    let mut encryption = Issuer::es256().jwk();
    encryption["use"] = json!("enc");
    let secret = json!({ "kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode([7; 64]) });
    let json = json!({ "keys": [&good] }).to_string();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("HTML with 200", answer("Content-Type: text/html\r\n", "<html><body>Sign in to the Wi-Fi</body></html>")),
        ("not found", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("an error", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("304 that nobody asked for", b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec()),
        ("200 without a body", answer("", "")),
        ("no keys", set(&[])),
        ("keys for encryption only", set(&[encryption])),
        ("two keys under one kid", set(&[good.clone(), other])),
        ("a weak RSA key", set(&[good.clone(), weak])),
        ("a private key", set(&[good.clone(), private])),
        ("a shared secret", set(&[good.clone(), secret])),
        ("a member twice", answer("", &format!(r#"{{"keys":[{good}],"keys":[]}}"#))),
        ("an array", answer("", &format!("[{good}]"))),
        ("gzip", answer("Content-Encoding: gzip\r\n", &json)),
        ("cut in the middle", format!("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{json}").into_bytes()),
        ("cut in the head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ("cut at once", Vec::new()),
        ("a promise of 50 MB", b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n{".to_vec()),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("a redirect", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in rows {
        let failed = count(&gateway, "failed");
        provider.say(bytes);
        gateway.advance(REFRESH);
        eventually(what, || count(&gateway, "failed") > failed);

        gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);
        gateway.client().get("/x").bearer(&token(&Issuer::es256(), &gateway)).send().expect(401);
    }
    assert!(gateway.metric("portcullis_jwks_age_seconds", &[("issuer", "test")]) >= 20.0 * 300.0);

    provider.publish(&[&issuer]);
    gateway.advance(REFRESH);
    eventually("it recovers", || count(&gateway, "ok") == 2.0);
}

#[test]
fn fifty_megabytes_are_not_read() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    let (said, heard) = std::sync::mpsc::channel();
    provider.behave(move |_, stream| {
        let said = said.clone();
        let mut written = 0;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[")?;
        while written < 50_000_000 && stream.write_all(&[b' '; 10_000]).is_ok() {
            written += 10_000;
        }
        said.send(written).map_err(std::io::Error::other)
    });
    let gateway = start(&issuer, &provider, &upstream);

    let written = heard.recv_timeout(Duration::from_secs(60)).unwrap();

    assert!(written < 20_000_000, "{written}");
    eventually("it counts as a failure", || count(&gateway, "failed") >= 1.0);
    gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(503);
}

#[test]
fn an_issuer_that_is_down_at_the_start_stops_nobody_else() {
    let (upstream, down, up) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[]);
    provider.say(Vec::new());
    let gateway = Gateway::new()
        .issuer_with(&down, &provider.jwks())
        .issuer_with(&up, "issuer = \"https://other.test\"")
        .route("/{*rest}", &upstream)
        .auth(&["jwt:test", "jwt:test2"])
        .start();
    let mut other = Issuer::claims("bob", &[], gateway.now());
    other["iss"] = json!("https://other.test");

    let refused = gateway.client().get("/x").bearer(&token(&down, &gateway)).send().expect(503);

    assert!(refused.header("retry-after").is_some());
    gateway.client().get("/x").bearer(&up.sign(&other)).send().expect(200);
    assert_eq!(gateway.metric("portcullis_jwks_keys", &[("issuer", "test")]), 0.0);

    provider.publish(&[&down]);
    gateway.advance(Duration::from_secs(60));
    eventually("it has come up", || count(&gateway, "ok") == 1.0);
    gateway.client().get("/x").bearer(&token(&down, &gateway)).send().expect(200);
}

#[test]
fn while_an_issuer_drips_its_answer_everybody_is_served() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    let gateway = start(&issuer, &provider, &upstream);
    gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    provider.behave(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")?;
        stream.flush()?;
        // Until the test ends.
        let _ = held.lock().unwrap().recv();
        Ok(())
    });
    gateway.advance(REFRESH);
    eventually("it is asked again", || provider.asked().len() == 2);

    for _ in 0..5 {
        gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);
    }
    assert_eq!(count(&gateway, "failed"), 0.0);
    drop(hold);
}
