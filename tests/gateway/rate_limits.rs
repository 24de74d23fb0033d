//! `rate_limit` and `max_concurrent` (R19): what is beyond them gets 429, and nothing else does.

use std::{
    io::{Read, Write},
    time::Duration,
};

use crate::support::{Client, Connection, Gateway, Issuer, Reply, Upstream, client::Response, eventually, websocket};

const PASSWORD: &str = "correct horse battery staple";

fn gateway(upstream: &Upstream, keys: &str) -> Gateway {
    Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .user("bob", PASSWORD, &["user"])
        .route("/{*rest}", upstream)
        .key(keys)
}

/// Answers at once, but for `/events`, which begins and then waits, and `/ws`, which is a tunnel.
fn waiting() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|seen| match &*seen.path {
        "/events" => until_closed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        "/ws" => websocket::echo(seen),
        _ => Reply::ok("plain"),
    });
    upstream
}

fn until_closed(text: &'static str) -> Reply {
    Reply::take_over(move |stream| {
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.read(&mut [0; 1]);
    })
}

/// An event stream that has begun.
fn events(client: &Client) -> Connection {
    let mut connection = client.connect();
    connection.write(&client.get("/events").bytes()).unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"hello") {
        read.extend(connection.read_exactly(1).expect("the answer begins"));
    }
    connection
}

fn get(client: &Client) -> Response {
    client.get("/x").send()
}

/// How many of so many are let through.
fn let_through(client: &Client, requests: usize) -> usize {
    (0..requests).filter(|_| get(client).status == 200).count()
}

#[test]
fn what_is_beyond_the_rate_gets_429_until_the_bucket_fills_again() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "rate_limit = { caller = \"3/1m\" }").start();
    let alice = gateway.log_in("alice");

    assert_eq!(let_through(&alice, 3), 3);
    let refused = get(&alice).expect(429);
    assert_eq!(refused.json()["error"], "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("20"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"caller-1m\";q=3;w=60"));
    assert_eq!(refused.header("ratelimit"), Some("\"caller-1m\";r=0;t=60"));
    assert_eq!(upstream.request_count(), 3, "what is refused reaches no upstream");

    gateway.advance(Duration::from_secs(20));
    assert_eq!(let_through(&alice, 3), 1);
    assert_eq!(gateway.metric("portcullis_rate_limited_total", &[("reason", "rate_of_caller")]), 3.0);
    eventually("the log tells which limit it was", || {
        gateway.log_lines().iter().any(|line| line.contains("\"rate_of_caller\"") && line.contains("429"))
    });
}

#[test]
fn one_caller_uses_up_nobody_elses_share() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "rate_limit = { caller = \"3/1m\" }").start();
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));

    assert_eq!(let_through(&alice, 10), 3);
    assert_eq!(let_through(&bob, 10), 3);
    assert_eq!(let_through(&gateway.log_in("alice"), 3), 0, "another session of the same person");
}

#[test]
fn a_person_is_one_caller_with_whichever_credential() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .issuer(&issuer)
        .route("/{*rest}", &upstream)
        .auth(&["session", "jwt"])
        .key("rate_limit = { caller = \"3/1m\" }")
        .start();
    let alice = gateway.log_in("alice");
    let token = issuer.sign(&Issuer::claims("id-of-alice", &["user"], gateway.now()));
    let with_token = || gateway.client().get("/x").bearer(&token).send().status;

    assert_eq!(let_through(&alice, 2), 2);
    assert_eq!(with_token(), 200);
    assert_eq!(with_token(), 429);
    assert_eq!(get(&alice).status, 429);
}

#[test]
fn what_is_refused_for_another_reason_counts_for_nobody() {
    let upstream = Upstream::start();
    let keys = "rate_limit = { address = \"3/1m\" }\nrequire = { any = [\"role:user\"] }";
    let gateway = Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .user("bob", PASSWORD, &[])
        .route("/{*rest}", &upstream)
        .key(keys)
        .start();
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    for _ in 0..10 {
        get(&gateway.client()).expect(401);
        get(&bob).expect(403);
    }

    assert_eq!(let_through(&alice, 5), 3);
}

#[test]
fn strangers_are_counted_by_their_address_as_a_trusted_proxy_tells_it() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .route("/{*rest}", &upstream)
        .auth(&["none"])
        .key("rate_limit = { caller = \"2/1m\" }")
        .start();
    let from = |address: &str| gateway.client().get("/x").header("X-Forwarded-For", address).send().status;

    assert_eq!([from("192.0.2.1"), from("192.0.2.1"), from("192.0.2.1")], [200, 200, 429]);
    assert_eq!(from("192.0.2.2"), 200);
    assert_eq!([from("2001:db8::1"), from("2001:db8::2"), from("2001:db8::3")], [200, 200, 429], "one /64");
}

#[test]
fn the_gateways_limit_holds_for_all_routes_together_and_spares_livez() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[limits]\nrate_limit = { address = \"3/1m\" }")
        .route("/one/{*rest}", &upstream)
        .auth(&["none"])
        .route("/two/{*rest}", &upstream)
        .auth(&["none"])
        .start();
    let client = gateway.client();
    let status = |path: &str| client.get(path).send().status;

    assert_eq!([status("/one/a"), status("/two/a"), status("/one/a")], [200, 200, 200]);
    assert_eq!([status("/one/a"), status("/two/a"), status("/_auth/session")], [429, 429, 429]);
    assert_eq!(status("/_auth/livez"), 200);
}

#[test]
fn a_reload_keeps_the_counts_and_takes_the_new_limits() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "rate_limit = { caller = \"5/1m\" }").admin().start();
    let alice = gateway.log_in("alice");
    assert_eq!(let_through(&alice, 4), 4);

    gateway.edit("5/1m", "6/1m");
    gateway.reload().expect(200);

    assert_eq!(let_through(&alice, 5), 1, "48 seconds' worth is gone, and each takes 10 of a minute");
}

#[test]
fn only_so_many_requests_are_under_way_at_once() {
    let upstream = waiting();
    let gateway = gateway(&upstream, "max_concurrent = { caller = 2 }").start();
    let alice = gateway.log_in("alice");
    let (first, second) = (events(&alice), events(&alice));

    let refused = get(&alice).expect(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(get(&gateway.log_in("bob")).status, 200);

    drop(first);
    eventually("its place is free", || get(&alice).status == 200);
    drop(second);
    eventually("nobody holds one", || gateway.metric("portcullis_rate_in_flight", &[]) == 0.0);
}

#[test]
fn a_tunnel_keeps_its_place_until_it_ends() {
    let upstream = waiting();
    let keys = "max_concurrent = { caller = 1 }\nupgrade = [\"websocket\"]";
    let gateway = gateway(&upstream, keys).start();
    let alice = gateway.log_in("alice");
    let tunnel = websocket::tunnel(&alice);

    get(&alice).expect(429);
    drop(tunnel);
    eventually("its place is free", || get(&alice).status == 200);
}
