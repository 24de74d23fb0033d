//! What is known of servers: where they are now, and how they do. Both protocols alike.

use std::rc::Rc;

use http::Response;
use tokio::sync::Notify;

use super::{
    http2::{END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, STATUS_200, frames, h2c, streams_on},
    *,
};
use crate::upstream::health::Why;

// ---- where they are ----

/// Listeners on one port of two addresses of this machine.
async fn twins() -> (TcpListener, TcpListener) {
    loop {
        let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(other) = TcpListener::bind(("127.0.0.2", one.local_addr().unwrap().port())).await {
            return (one, other);
        }
    }
}

/// Says its name, at `/held` not before `let_go`; over HTTP/2 if `shared`.
fn named(listener: TcpListener, name: &'static str, shared: bool, let_go: &Rc<Notify>) {
    let let_go = Rc::clone(let_go);
    if shared {
        let builder = h2::server::Builder::new();
        streams_on(listener, builder, move |_, request, mut respond| {
            let let_go = Rc::clone(&let_go);
            async move {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                if request.uri().path() == "/held" {
                    let_go.notified().await;
                }
                body.send_data(name.into(), true).unwrap();
            }
        });
    } else {
        server_on(listener, move |_, mut stream| {
            let let_go = Rc::clone(&let_go);
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await.unwrap();
                    if head.starts_with("GET /held ") {
                        let_go.notified().await;
                    }
                    stream.write_all(name.as_bytes()).await.unwrap();
                }
            }
        });
    }
}

#[test]
fn no_request_goes_where_a_name_leads_no_more_and_those_under_way_finish() {
    run(async {
        for shared in [false, true] {
            let (one, other) = twins().await;
            let (before, after) = (one.local_addr().unwrap(), other.local_addr().unwrap());
            let let_go = Rc::new(Notify::new());
            named(one, "old", shared, &let_go);
            named(other, "new", shared, &let_go);
            let authority: Authority = format!("server.test:{}", before.port()).parse().unwrap();
            let known = Shared::new(None, Box::default());
            let name = known.name(&authority, 80).unwrap();
            name.learn([before].into_iter().collect());
            let server = if shared { Server::H2c(authority) } else { Server::Http(authority) };
            let front = Front::with(settings(vec![server]), Limits::default(), known).await;
            assert_eq!(front.send(GET).await.body, b"old");
            let mut held = front.client().await;
            held.write_all(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let head = read_head(&mut held).await.unwrap();
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 1, "{shared}: one connection for both");

            name.learn([after].into_iter().collect());

            // Within a tick or two.
            while front.send(GET).await.body == b"old" {}
            for _ in 0..3 {
                assert_eq!(front.send(GET).await.body, b"new");
            }
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 2);
            let_go.notify_one();
            assert_eq!(read_body(&mut held, &head).await, (b"old".to_vec(), true), "{shared}");
            eventually("the old connection is closed", || front.counters(|c| c.open.load(Relaxed)) == 1).await;
            assert_eq!(front.send(GET).await.body, b"new");
            assert_eq!(front.counters(|c| c.connects.load(Relaxed)), 2, "the new one stays");
        }
    });
}

// ---- how they do ----

/// Two servers that do the same, each out after two failures in a row, 500 among them.
async fn judged(server: Server) -> Front {
    let mut rules = Rules::default();
    (rules.eject.failures, rules.eject.statuses) = (2, [StatusCode::INTERNAL_SERVER_ERROR].into());
    Front::start(Settings { rules, ..settings(vec![server.clone(), server]) }).await
}

/// How many servers are out.
fn out(front: &Front) -> usize {
    let upstreams = front.shared.upstreams();
    let is_out =
        |server: &&Arc<ServerState>| server.standing.place(&Rules::default(), || 0) == Place::Out(Why::Ejected);
    upstreams[0].servers.iter().filter(is_out).count()
}

/// A server over HTTP/1.1 that gives `answer` to the request of each connection.
async fn text(answer: &'static str) -> Server {
    http(
        server(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await,
    )
}

/// A server over HTTP/2 that answers the stream of each request with this frame.
async fn framed(kind: u8, flags: u8, payload: &'static [u8]) -> Server {
    h2c(frames(move |_, mut frames: Frames| async move {
        while let Some(stream) = frames.request().await {
            frames.write(kind, flags, stream, payload).await;
        }
    })
    .await)
}

#[test]
fn each_attempt_is_told_of_its_server_exactly_once() {
    run(async {
        let ends = END_HEADERS | END_STREAM;
        for (what, server, request, status) in [
            ("closed", text("").await, GET, 502),
            ("no head", text("HTTP/9.9 no\r\n\r\n").await, GET, 502),
            ("an unasked 101", text(ACCEPTED).await, GET, 502),
            ("a bad handshake", text("HTTP/1.1 101 Switching Protocols\r\n\r\n").await, HANDSHAKE, 502),
            ("500", text("HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n").await, GET, 500),
            ("a reset stream", framed(RST_STREAM, 0, &[0, 0, 0, 2]).await, GET, 502),
            // `:status: 200`, `content-length: x`.
            ("no head of HTTP/2", framed(HEADERS, ends, &[0x88, 0x0f, 0x0d, 1, b'x']).await, GET, 502),
            ("an unasked 101 of HTTP/2", framed(HEADERS, END_HEADERS, &[0x08, 3, b'1', b'0', b'1']).await, GET, 502),
            // `:status: 500`, indexed.
            ("500 of HTTP/2", framed(HEADERS, ends, &[0x8e]).await, GET, 500),
        ] {
            let front = judged(server).await;
            for (asked, expect) in [(2, 0), (2, 2)] {
                for _ in 0..asked {
                    assert_eq!(front.send(request).await.status, status, "{what}");
                }
                assert_eq!(out(&front), expect, "{what}");
            }
        }
    });
}

#[test]
fn a_request_that_no_server_takes_counts_once_however_often_it_was_sent() {
    run(async {
        // REFUSED_STREAM.
        let front = judged(framed(RST_STREAM, 0, &[0, 0, 0, 7]).await).await;

        for expect in [0, 1] {
            assert_eq!(front.send(GET).await.error(), "Unreachable(\"not_processed\")");
            assert_eq!(out(&front), expect);
        }
    });
}

#[test]
fn an_answer_takes_back_what_failed_before_it() {
    run(async {
        let turns = Rc::new(Cell::new(0));
        let turn = move |turns: &Cell<u32>| {
            turns.set(turns.get() + 1);
            // Two servers take turns: both fail, both answer.
            turns.get() % 4 < 2
        };
        let (mine, theirs) = (Rc::clone(&turns), Rc::new(Cell::new(0)));
        let over_http1 = server(move |_, mut stream| {
            let turns = Rc::clone(&mine);
            async move {
                while read_head(&mut stream).await.is_some() {
                    let answer = if turn(&turns) { OK } else { "HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n" };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let over_http2 = frames(move |_, mut frames| {
            let turns = Rc::clone(&theirs);
            async move {
                while let Some(stream) = frames.request().await {
                    let status = if turn(&turns) { STATUS_200 } else { &[0x8e] };
                    frames.write(HEADERS, END_HEADERS | END_STREAM, stream, status).await;
                }
            }
        })
        .await;
        for server in [http(over_http1), h2c(over_http2)] {
            let front = judged(server).await;
            let mut failed = 0;
            for _ in 0..16 {
                failed += u32::from(front.send(GET).await.status == 500);
                assert_eq!(out(&front), 0);
            }
            assert_eq!(failed, 8);
        }
    });
}
