//! Servers that speak HTTP/2 and want HTTP/1.1 (RFC 9113 section 7, `HTTP_1_1_REQUIRED`): for one request, or for all.

use std::rc::Rc;

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use tokio_rustls::server::TlsStream;

use super::{
    http2::{
        DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, POST, RST_STREAM, STATUS_200, frames, goaway, h2c,
        over_tls, serve_streams, streams_on,
    },
    *,
};
use crate::upstream::{connect::Target, health::Check};

/// In front of an `https://` server that speaks both, and HTTP/2 as `script` has it.
async fn front<F: Future<Output = ()> + 'static>(
    script: impl Fn(usize, Frames<TlsStream<TcpStream>>) -> F + 'static,
) -> Front {
    let script = Rc::new(script);
    let accept = move |number, stream| {
        let script = Rc::clone(&script);
        async move { script(number, Frames::accept(stream).await).await }
    };
    let (server, shared) = over_tls(&[b"h2", b"http/1.1"], accept).await;
    Front::with(settings(vec![server]), Limits::default(), shared).await
}

/// What became of a request: status, what it was answered over, body.
async fn ask(front: &Front, request: &str) -> (u16, Option<String>, Vec<u8>) {
    let mut client = front.client().await;
    client.write_all(request.as_bytes()).await.unwrap();
    if request == EXPECTING {
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 100"));
    }
    let answer = read_answer(&mut client, false).await;
    (answer.status, header(&answer.head, "x-spoke").map(str::to_owned), answer.body)
}

fn over_http1(body: &str) -> (u16, Option<String>, Vec<u8>) {
    (200, Some("HTTP/1.1".to_owned()), body.into())
}

/// Connections made, and requests sent again.
fn counts(front: &Front) -> (u64, u64) {
    front.counters(|counters| (counters.connects.load(Relaxed), counters.retries.load(Relaxed)))
}

const REQUIRED: u32 = 0xd;
const EXPECTING: &str = "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_request_for_which_http1_is_required_goes_again_over_it_and_so_do_the_next() {
    run(async {
        for goes_away in [false, true] {
            let front = front(move |number, mut frames| async move {
                assert_eq!(number, 0, "it is asked over HTTP/2 once");
                let stream = frames.request().await.unwrap();
                if goes_away {
                    frames.write(GOAWAY, 0, 0, &goaway(0, REQUIRED)).await;
                } else {
                    frames.write(RST_STREAM, 0, stream, &REQUIRED.to_be_bytes()).await;
                }
                while frames.next().await.is_some() {}
            })
            .await;

            assert_eq!(ask(&front, GET).await, over_http1(""), "goes away: {goes_away}");
            assert_eq!(counts(&front), (2, 1));
            for (request, expect) in [(GET, ""), (POST, "hello"), (EXPECTING, "hello")] {
                assert_eq!(ask(&front, request).await, over_http1(expect), "goes away: {goes_away}");
            }
            assert_eq!(counts(&front), (2, 1), "on the connection that stands");
            eventually("the one for HTTP/2 is gone", || front.counters(|c| c.open.load(Relaxed)) == 1).await;
        }
    });
}

#[test]
fn a_body_of_which_nothing_was_sent_goes_over_http1_whole() {
    run(async {
        let front = front(|_, mut frames| async move {
            // It is not told to continue.
            let stream = frames.request().await.unwrap();
            frames.write(RST_STREAM, 0, stream, &REQUIRED.to_be_bytes()).await;
            while let Some((kind, ..)) = frames.next().await {
                assert_ne!(kind, DATA, "a body that nobody asked for");
            }
        })
        .await;

        assert_eq!(ask(&front, EXPECTING).await, over_http1("hello"));
    });
}

#[test]
fn a_body_that_a_server_says_it_did_not_process_goes_over_http1_whole() {
    run(async {
        let front = front(|_, mut frames| async move {
            while frames.next().await.is_some_and(|(kind, ..)| kind != DATA) {}
            frames.write(GOAWAY, 0, 0, &goaway(0, REQUIRED)).await;
            while frames.next().await.is_some() {}
        })
        .await;

        assert_eq!(ask(&front, POST).await, over_http1("hello"));
    });
}

#[test]
fn a_body_that_was_sent_in_part_is_not_sent_again_and_the_next_request_goes_over_http1() {
    run(async {
        let front = front(|_, mut frames| async move {
            let stream = frames.request().await.unwrap();
            while frames.next().await.is_some_and(|(kind, ..)| kind != DATA) {}
            frames.write(RST_STREAM, 0, stream, &REQUIRED.to_be_bytes()).await;
            while frames.next().await.is_some() {}
        })
        .await;

        let answer = front.send(POST).await;

        assert_eq!((answer.status, answer.error()), (502, "Invalid(\"http1_required\")"));
        assert_eq!(counts(&front), (1, 0));
        assert_eq!(ask(&front, POST).await, over_http1("hello"));
    });
}

#[test]
fn behind_the_head_of_an_answer_it_is_a_break() {
    run(async {
        let front = front(|number, mut frames| async move {
            assert_eq!(number, 0);
            let stream = frames.request().await.unwrap();
            frames.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
            frames.write(DATA, 0, stream, b"half").await;
            frames.write(RST_STREAM, 0, stream, &REQUIRED.to_be_bytes()).await;
            let stream = frames.request().await.unwrap();
            frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
            while frames.next().await.is_some() {}
        })
        .await;

        let answer = front.send(GET).await;

        assert_eq!((&*answer.body, answer.complete), (&b"half"[..], false));
        assert_eq!(ask(&front, GET).await, (200, None, vec![]), "and nothing to remember");
        assert_eq!(counts(&front), (1, 0));
    });
}

#[test]
fn other_requests_on_the_connection_go_on() {
    run(async {
        let front = Rc::new(
            front(|_, mut frames| async move {
                let (first, second) = (frames.request().await.unwrap(), frames.request().await.unwrap());
                frames.write(RST_STREAM, 0, second, &REQUIRED.to_be_bytes()).await;
                // Whoever was sent elsewhere has its answer from there.
                frames.write(HEADERS, END_HEADERS, first, STATUS_200).await;
                frames.write(DATA, END_STREAM, first, b"over HTTP/2").await;
                while frames.next().await.is_some() {}
            })
            .await,
        );
        let asking = Rc::clone(&front);
        let first = spawn_local(async move { ask(&asking, GET).await });
        eventually("the first is under way", || {
            front.shared.upstreams().first().is_some_and(|one| one.servers[0].counters.tallies.under_way() == 1)
        })
        .await;

        assert_eq!(ask(&front, GET).await, over_http1(""));
        assert_eq!(first.await.unwrap(), (200, None, b"over HTTP/2".to_vec()));
    });
}

#[test]
fn without_tls_there_is_no_http1_to_go_to_and_nothing_to_remember() {
    run(async {
        let address = frames(|number, mut frames| async move {
            assert_eq!(number, 0);
            let stream = frames.request().await.unwrap();
            frames.write(RST_STREAM, 0, stream, &REQUIRED.to_be_bytes()).await;
            let stream = frames.request().await.unwrap();
            frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
            while frames.next().await.is_some() {}
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;

        let answer = front.send(GET).await;

        assert_eq!((answer.status, answer.error()), (502, "Invalid(\"http1_required\")"));
        assert_eq!(ask(&front, GET).await, (200, None, vec![]));
        assert_eq!(counts(&front), (1, 0));
    });
}

#[test]
fn a_server_that_does_not_speak_what_it_asks_for_is_an_error_and_may_choose_again() {
    run(async {
        let (server, shared) = over_tls(&[b"h2"], |number, stream| async move {
            let script = move |_, _: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                if number == 0 {
                    respond.send_reset(Reason::HTTP_1_1_REQUIRED);
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            };
            serve_streams(h2::server::Builder::new(), number, stream, Rc::new(script)).await;
        })
        .await;
        let front = Front::with(settings(vec![server]), Limits::default(), shared).await;

        let answer = front.send(GET).await;

        assert_eq!((answer.status, answer.error()), (502, "Unreachable(\"tls\")"));
        assert_eq!(ask(&front, GET).await, (200, None, vec![]));
    });
}

#[test]
fn a_tunnel_goes_over_http1_where_a_server_that_goes_away_requires_it() {
    run(async {
        let front = front(|number, mut frames| async move {
            assert_eq!(number, 0);
            frames.write(GOAWAY, 0, 0, &goaway(0, REQUIRED)).await;
            while frames.next().await.is_some() {}
        })
        .await;

        // Of the handshake that server understands nothing, but it is asked.
        assert_eq!(ask(&front, HANDSHAKE).await, over_http1(""));
    });
}

#[test]
fn a_health_check_goes_over_http1_where_that_is_required() {
    run(async {
        let script = |_, _: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(Reason::HTTP_1_1_REQUIRED);
        };
        let over_tls = over_tls(&[b"h2", b"http/1.1"], move |number, stream| async move {
            serve_streams(h2::server::Builder::new(), number, stream, Rc::new(script)).await;
        });
        let (server, shared) = over_tls.await;
        let plain = h2c(streams_on(any_port().await, h2::server::Builder::new(), script));
        let check = Check { timeout: PATIENCE, ..Check::default() };
        for (server, expect) in [(server, Ok(())), (plain, Err("no_answer"))] {
            let target = Target::new(server.clone(), &settings(vec![server]), Arc::clone(&shared));
            assert_eq!(check.ask(&target).await, expect);
        }
    });
}
