//! How long the steps of an exchange may take on a route: to connect, to the head, between two bytes, and all of it.
//! Too much is a 504 before the head and a visible break after it, over HTTP/1.1 and HTTP/2 to the upstream.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use bytes::Bytes;

use crate::support::{
    Gateway, Reply, Seen, Upstream,
    gateway::Running,
    upstream_http2::Http2Upstream,
    websocket::{self, echoes},
};

/// A drip now and then, so many times.
const DRIPS: usize = 20;
const DRIP: Duration = Duration::from_millis(25);

/// Upstreams that say nothing, pause for ever, or drip: for a while, or without end.
fn http1() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(reply);
    upstream
}

fn reply(seen: &Seen) -> Reply {
    let path = seen.path.clone();
    Reply::take_over(move |stream| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let drip = |stream: &mut std::net::TcpStream| stream.write_all(b"1\r\nx\r\n").is_ok();
        if path.starts_with("/silent") {
            let _ = stream.read(&mut [0]);
            return;
        }
        if stream.write_all(head).is_err() || !drip(stream) || path.starts_with("/pauses") {
            let _ = stream.read(&mut [0]);
            return;
        }
        let mut drips = 1;
        while path.starts_with("/drips") || drips < DRIPS {
            thread::sleep(DRIP);
            if !drip(stream) {
                return;
            }
            drips += 1;
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    })
}

fn http2() -> Http2Upstream {
    Http2Upstream::start(|request, mut respond| async move {
        let path = request.uri().path().to_owned();
        if path.starts_with("/silent") {
            return std::future::pending().await;
        }
        let mut body = respond.send_response(http::Response::new(()), false).expect("a stream");
        let mut drip = |last| body.send_data(Bytes::from_static(b"x"), last).is_ok();
        drip(false);
        if path.starts_with("/pauses") {
            return std::future::pending().await;
        }
        let mut drips = 1;
        while path.starts_with("/drips") || drips < DRIPS {
            tokio::time::sleep(DRIP).await;
            drips += 1;
            if !drip(drips == DRIPS && !path.starts_with("/drips")) {
                return;
            }
        }
    })
}

/// A route for each of these keys, which is also its path's second segment, to an upstream with these lines.
fn gateway(server: &str, lines: &str, keys: &[&str]) -> Running {
    keys.iter()
        .enumerate()
        .fold(Gateway::new(), |gateway, (number, key)| {
            let matching = format!("path = \"/{{how}}/{number}\"");
            let gateway = gateway.route_to(&matching, &format!("servers = [{server:?}]\n{lines}"));
            gateway.auth(&["none"]).key(key)
        })
        .start()
}

fn over_both(each: impl Fn(&str)) {
    let (http1, http2) = (http1(), http2());
    each(&http1.url());
    each(&http2.url());
}

fn detail(gateway: &Running, path: &str) -> String {
    gateway.access_line(path)["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_head_that_does_not_come_is_504_by_the_bound_of_the_route() {
    over_both(|server| {
        let gateway = gateway(
            server,
            "",
            &["response_timeout = \"200ms\"", "total_timeout = \"200ms\"", "read_timeout = \"20s\""],
        );
        let client = gateway.client();

        client.get("/silent/0").send().expect(504);
        client.get("/silent/1").send().expect(504);
        assert_eq!(client.get("/some/2").send().expect(200).body.len(), DRIPS);

        assert_eq!(detail(&gateway, "/silent/0"), "response_timeout", "{server}");
        assert_eq!(detail(&gateway, "/silent/1"), "total_timeout", "{server}");
    });
}

#[test]
fn an_answer_that_pauses_or_does_not_end_breaks_off_by_the_bound_of_the_route() {
    over_both(|server| {
        let gateway = gateway(server, "", &["read_timeout = \"200ms\"", "total_timeout = \"1s\""]);
        let client = gateway.client();

        for (path, why) in
            [("/pauses/0", "read_timeout"), ("/drips/1", "total_timeout"), ("/pauses/1", "total_timeout")]
        {
            assert!(client.get(path).try_send().is_err(), "{server}: {path}");
            assert_eq!(detail(&gateway, path), why, "{server}: {path}");
            assert!(client.get(&format!("{path}?2")).try_send_http2().is_err(), "{server}: {path}");
        }
    });
}

#[test]
fn a_route_gives_more_time_than_its_upstream() {
    over_both(|server| {
        let gateway = gateway(
            server,
            "read_timeout = \"10ms\"\nresponse_timeout = \"20s\"",
            &["read_timeout = \"20s\"", "total_timeout = \"1m\"\nread_timeout = \"20s\"", "touch = true"],
        );
        let client = gateway.client();

        assert_eq!(client.get("/some/0").send().expect(200).body.len(), DRIPS, "{server}");
        assert_eq!(client.get("/some/1").send().expect(200).body.len(), DRIPS, "{server}");
        assert!(client.get("/pauses/2").try_send().is_err(), "{server}");
    });
}

/// The time to connect holds for TLS, too; what is too long in all is so before there is a connection.
#[test]
fn a_server_that_does_not_greet_is_504_by_the_bound_of_the_route() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", deaf.local_addr().unwrap());
    let keys = ["connect_timeout = \"200ms\"", "total_timeout = \"200ms\""];
    let gateway = gateway(&server, "connect_timeout = \"10m\"", &keys);

    gateway.client().get("/any/0").send().expect(504);
    gateway.client().get("/any/1").send().expect(504);

    assert_eq!(detail(&gateway, "/any/0"), "connect_timeout");
    assert_eq!(detail(&gateway, "/any/1"), "total_timeout");
}

/// The bound of all counts for slow clients as well, and the default does not: who sends slowly may.
#[test]
fn a_client_that_sends_slowly_runs_out_of_the_routes_time() {
    let upstream = Upstream::start();
    let gateway =
        gateway(&upstream.url(), "response_timeout = \"200ms\"", &["total_timeout = \"500ms\"", "touch = true"]);
    let client = gateway.client();
    let begin = |path: &str| {
        let mut connection = client.connect();
        let head = format!("POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\nha");
        connection.write(head.as_bytes()).unwrap();
        connection
    };
    let (mut slow, mut patient) = (begin("/any/0"), begin("/any/1"));

    assert_eq!(slow.read_response("POST").unwrap().status, 504);
    patient.write(b"lf").unwrap();
    assert_eq!(patient.read_response("POST").unwrap().status, 200);

    assert_eq!(detail(&gateway, "/any/0"), "total_timeout");
}

#[test]
fn an_open_websocket_outlasts_the_bound_of_the_whole() {
    let upstream = Upstream::start();
    upstream.respond(|seen| if seen.path.starts_with("/drips") { reply(seen) } else { websocket::echo(seen) });
    let gateway = gateway(&upstream.url(), "", &["total_timeout = \"1s\"\nupgrade = [\"websocket\"]"]);
    let mut tunnel = websocket::tunnel_to(&gateway.client(), "/any/0");

    // What began later is over by the same bound.
    assert!(gateway.client().get("/drips/0").try_send().is_err());
    assert_eq!(detail(&gateway, "/drips/0"), "total_timeout");

    assert!(echoes(&mut tunnel));
}
