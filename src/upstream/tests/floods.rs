//! Servers that send over HTTP/2 what brings nothing on: each kind ends its connection, and nothing else.

use std::rc::Rc;

use super::{
    http2::{
        ACK, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, RST_STREAM, SETTINGS, STATUS_200, frame, frames, h2c,
    },
    *,
};

const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// `:status: 103`, literal.
const STATUS_103: &[u8] = &[8, 3, b'1', b'0', b'3'];

/// Sends `flood` for as long as somebody takes it, and takes what is sent.
async fn flood(frames: Frames, flood: &[u8]) {
    let (mut read, mut write) = frames.0.into_split();
    let mut answers = vec![0; 1 << 16];
    let flooding = async { while write.write_all(flood).await.is_ok() {} };
    let reading = async { while read.read(&mut answers).await.is_ok_and(|read| read > 0) {} };
    tokio::join!(flooding, reading);
}

/// In front of a server that answers `head` and floods with `one` on its first connection, and answers on all others.
async fn front(head: Vec<u8>, one: Vec<u8>) -> Front {
    let parts = Rc::new((head, one.repeat(1000)));
    let address = frames(move |number, mut frames| {
        let parts = Rc::clone(&parts);
        async move {
            while let Some(stream) = frames.request().await {
                if number == 0 {
                    let _ = frames.0.write_all(&parts.0).await;
                    return flood(frames, &parts.1).await;
                }
                frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
            }
        }
    })
    .await;
    Front::start(settings(vec![h2c(address)])).await
}

fn floods(front: &Front) -> u64 {
    front.shared.upstreams().first().map_or(0, |upstream| upstream.servers[0].counters.floods.load(Relaxed))
}

#[test]
fn a_server_that_floods_is_cut_and_what_was_under_way_fails() {
    run(async {
        for (name, head, one) in [
            ("PING", vec![], frame(PING, 0, 0, &[7; 8])),
            ("answers to no PING", vec![], frame(PING, ACK, 0, &[7; 8])),
            ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
            ("SETTINGS with a value", vec![], frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
            ("PRIORITY", vec![], frame(2, 0, 3, &[0, 0, 0, 0, 9])),
            ("windows of one byte", vec![], frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
            ("frames of no kind", vec![], frame(0xbe, 0, 0, &[0; 32])),
            // The library's own bounds.
            ("CONTINUATION", frame(HEADERS, 0, 1, STATUS_200), frame(CONTINUATION, 0, 1, &[])),
        ] {
            let front = front(head, one).await;

            let answer = front.send(GET).await;

            assert_eq!((answer.status, answer.error()), (502, "Invalid(\"flood\")"), "{name}");
            eventually("it is counted", || floods(&front) == 1).await;
            assert_eq!(front.send(GET).await.status, 200, "{name}");
            assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.retries.load(Relaxed))), (2, 0), "{name}");
        }
    });
}

#[test]
fn an_answer_that_had_begun_when_the_flood_came_is_visibly_broken() {
    run(async {
        let begin = [frame(HEADERS, END_HEADERS, 1, STATUS_200), frame(DATA, 0, 1, b"half")].concat();
        for (name, one) in [
            ("PING", frame(PING, 0, 0, &[7; 8])),
            ("empty DATA", frame(DATA, 0, 1, &[])),
            ("padded empty DATA", frame(DATA, 8, 1, &[0])),
        ] {
            let front = front(begin.clone(), one).await;

            let answer = front.send(GET).await;

            assert_eq!((answer.status, answer.complete), (200, false), "{name}");
            assert!(b"half".starts_with(&answer.body), "{name}");
            eventually("it is counted", || floods(&front) == 1).await;
            assert_eq!(front.send(GET).await.status, 200, "{name}");
        }
    });
}

#[test]
fn interim_answers_without_end_fail_their_request_and_then_all_of_the_connection() {
    run(async {
        let front = front(vec![], frame(HEADERS, END_HEADERS, 1, STATUS_103)).await;

        assert_eq!(front.send(GET).await.error(), "Invalid(\"too_much_before_head\")");

        eventually("it is cut", || floods(&front) == 1).await;
        assert_eq!(front.send(GET).await.status, 200);
    });
}

#[test]
fn a_connection_that_nobody_uses_is_cut_as_well() {
    run(async {
        let answer = frame(HEADERS, END_HEADERS | END_STREAM, 1, STATUS_200);
        // Of a stream that has ended.
        for one in [frame(PING, 0, 0, &[7; 8]), frame(RST_STREAM, 0, 1, &[0; 4])] {
            let front = front(answer.clone(), one).await;

            assert_eq!(front.send(GET).await.status, 200);

            eventually("it is cut", || floods(&front) == 1).await;
            eventually("it is gone", || front.counters(|counters| counters.open.load(Relaxed)) == 0).await;
            assert_eq!(front.send(GET).await.status, 200);
        }
    });
}

#[test]
fn all_requests_on_the_connection_fail_and_those_to_others_go_on() {
    run(async {
        let address = frames(|_, mut frames| async move {
            for _ in 0..8 {
                frames.request().await;
            }
            flood(frames, &frame(PING, 0, 0, &[7; 8]).repeat(1000)).await;
        })
        .await;
        let (quiet, _heads) = steady(OK).await;
        let quiet = Front::start(settings(vec![http(quiet)])).await;
        let front = Rc::new(Front::start(settings(vec![h2c(address)])).await);
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let front = Rc::clone(&front);
                spawn_local(async move { front.send(GET).await.error().to_owned() })
            })
            .collect();

        while floods(&front) == 0 {
            assert_eq!(quiet.send(GET).await.status, 200);
        }

        for answer in asked {
            assert_eq!(answer.await.unwrap(), "Invalid(\"flood\")");
        }
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.tallies.under_way())), (1, 0));
    });
}

#[test]
fn what_goes_with_requests_and_bodies_is_no_flood() {
    run(async {
        let address = frames(|number, mut frames| async move {
            assert_eq!(number, 0);
            let (ping, setting) = (frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 200]));
            let interim = |stream| frame(HEADERS, END_HEADERS, stream, STATUS_103).repeat(20);
            // As a server does that reads little by little.
            let window = |stream| frame(WINDOW_UPDATE, 0, stream, &128_u32.to_be_bytes());
            while let Some((kind, flags, stream, length)) = frames.next_long().await {
                if kind == DATA {
                    let _ =
                        frames.0.write_all(&[window(stream), window(0)].concat().repeat(length.div_ceil(128))).await;
                } else if kind == HEADERS {
                    let _ = frames.0.write_all(&[ping.repeat(20), setting.clone(), interim(stream)].concat()).await;
                }
                if flags & END_STREAM != 0 {
                    frames.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await;
                }
            }
        })
        .await;
        let front = Front::start(settings(vec![h2c(address)])).await;

        for number in 0..500 {
            assert_eq!(front.send(GET).await.status, 200, "{number}");
        }
        let body = "x".repeat(2_000_000);
        let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = front.send(&post).await;
        assert_eq!(answer.status, 200, "{}", answer.error());

        assert_eq!(floods(&front), 0);
    });
}

#[test]
fn a_flood_before_the_head_ends_the_stream() {
    run(async {
        for (name, kind, flags, block) in [
            ("interim", HEADERS, END_HEADERS, &[8, 3, b'1', b'0', b'3'][..]),
            ("pushed", 5, END_HEADERS, b"\0\0\0\x02\x82"),
        ] {
            let address = frames(move |_, mut frames| async move {
                let Some(stream) = frames.request().await else { return };
                for _ in 0..100 {
                    frames.write(kind, flags, stream, block).await;
                }
                while frames.next().await.is_some() {}
            })
            .await;
            let front = Front::start(settings(vec![h2c(address)])).await;

            let answer = front.send(GET).await;

            assert!(answer.error().starts_with("Invalid"), "{name}: {}", answer.error());
        }
    });
}
