//! Upstreams over HTTP/2 that fail in every way there is (R16; RFC 9113 sections 5.4, 6.8 and 8.1), through a whole
//! gateway and in both protocols of clients: a complete honest answer or a visibly broken one, and whoever asks next
//! gets the right one, on the same connection where that can go on.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use super::faults::{
    Gets::{self, Broken, Whole},
    over_http1, over_http2,
};
use crate::support::{
    Gateway, eventually,
    gateway::Running,
    http2::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PUSH_PROMISE, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, block, frame, number,
    },
    metric_sum,
};

/// What follows the frames of a fault.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// The end of the connection.
    Ends,
    /// Its reset.
    Resets,
    /// Nothing on this stream; the connection stays in use.
    Stays,
    /// The same, and the gateway has to find out by the time.
    Waits,
    /// These without end.
    Floods(Frames),
}

use Then::{Ends, Floods, Resets, Stays, Waits};

/// Frames for a stream.
type Frames = fn(u32) -> Vec<u8>;

/// What the upstream does instead of answering on a stream, and what the client must get.
type Fault = (&'static str, Frames, Then, Gets);

/// Of a GET.
pub(super) const FAULTS: &[Fault] = &[
    ("ends before the head", nothing, Ends, Whole(502)),
    ("resets the connection before the head", nothing, Resets, Whole(502)),
    ("resets the stream before the head", |stream| reset(stream, 2), Stays, Whole(502)),
    ("resets it without an error", |stream| reset(stream, 0), Stays, Whole(502)),
    ("cancels it", |stream| reset(stream, 8), Stays, Whole(502)),
    ("refuses it each time", |stream| reset(stream, 7), Stays, Whole(502)),
    ("goes away each time", |_| goaway(0, 0), Ends, Whole(502)),
    ("goes away twice each time", |_| [goaway(u32::MAX >> 1, 0), goaway(0, 0)].concat(), Ends, Whole(502)),
    ("goes away with an error that it had it", |stream| goaway(stream, 2), Ends, Whole(502)),
    ("never a byte", nothing, Waits, Whole(504)),
    ("half a head and the end", |stream| frame(HEADERS, 0, stream, &[0x88]), Ends, Whole(502)),
    ("a body within a head", |stream| [frame(HEADERS, 0, stream, &[0x88]), last(stream)].concat(), Stays, Whole(502)),
    ("no status", |stream| head(stream, &[(b"x", b"y")]), Stays, Whole(502)),
    ("a status of four digits", |stream| head(stream, &[(b":status", b"2000")]), Stays, Whole(502)),
    ("a status below 100", |stream| head(stream, &[(b":status", b"099")]), Stays, Whole(502)),
    ("101", |stream| head(stream, &[(b":status", b"101")]), Stays, Whole(502)),
    ("a name in upper case", |stream| head(stream, &[(b":status", b"200"), (b"X", b"y")]), Stays, Whole(502)),
    (
        "a field of the connection",
        |stream| head(stream, &[(b":status", b"200"), (b"connection", b"close")]),
        Stays,
        Whole(502),
    ),
    (
        "a coding of the connection",
        |stream| head(stream, &[(b":status", b"200"), (b"transfer-encoding", b"chunked")]),
        Stays,
        Whole(502),
    ),
    ("a status behind fields", |stream| head(stream, &[(b"x", b"y"), (b":status", b"200")]), Stays, Whole(502)),
    ("two statuses", |stream| head(stream, &[(b":status", b"200"), (b":status", b"204")]), Stays, Whole(502)),
    (
        "two lengths",
        |stream| {
            let fields: Fields = &[(b":status", b"200"), (b"content-length", b"4"), (b"content-length", b"5")];
            [head(stream, fields), last(stream)].concat()
        },
        Stays,
        Whole(502),
    ),
    ("a length below 0", |stream| [sized(stream, b"-1"), last(stream)].concat(), Stays, Whole(502)),
    ("a zero in a value", |stream| head(stream, &[(b":status", b"200"), (b"x", b"a\0b")]), Stays, Whole(502)),
    ("a place of no table", |stream| frame(HEADERS, END_HEADERS, stream, &[0xff, 0xff, 0x7f]), Stays, Whole(502)),
    ("a body before the head", last, Stays, Whole(502)),
    (
        "a frame that is too large",
        |stream| [&b"\xff\xff\xff\0\0"[..], &stream.to_be_bytes()].concat(),
        Stays,
        Whole(502),
    ),
    ("a promise", |stream| frame(PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2, 0x88]), Stays, Whole(502)),
    ("HTTP/1.1", |_| b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_vec(), Stays, Whole(502)),
    ("interim answers without end", nothing, Floods(|stream| head(stream, &[(b":status", b"103")])), Whole(502)),
    (
        "a head without end",
        |stream| frame(HEADERS, 0, stream, &[0x88]),
        Floods(|stream| frame(CONTINUATION, 0, stream, &block(&[(b"x", &[b'y'; 1000])]))),
        Whole(502),
    ),
    (
        "a head without end and without fields",
        |stream| frame(HEADERS, 0, stream, &[0x88]),
        Floods(|stream| frame(CONTINUATION, 0, stream, &[])),
        Whole(502),
    ),
    ("ends after the head", |stream| sized(stream, b"9"), Ends, Broken),
    ("resets the connection after the head", |stream| sized(stream, b"9"), Resets, Broken),
    ("resets the stream after the head", |stream| [sized(stream, b"9"), reset(stream, 2)].concat(), Stays, Broken),
    ("ends within the body", |stream| [ok(stream), half(stream)].concat(), Ends, Broken),
    (
        "resets the stream within the body",
        |stream| [ok(stream), half(stream), reset(stream, 2)].concat(),
        Stays,
        Broken,
    ),
    ("the same without an error", |stream| [ok(stream), half(stream), reset(stream, 0)].concat(), Stays, Broken),
    ("cancels it within the body", |stream| [ok(stream), half(stream), reset(stream, 8)].concat(), Stays, Broken),
    ("goes away within the body", |stream| [ok(stream), half(stream), goaway(stream, 2)].concat(), Ends, Broken),
    ("a head and no body", ok, Waits, Broken),
    ("half a body and nothing", |stream| [ok(stream), half(stream)].concat(), Waits, Broken),
    ("a body shorter than its length", |stream| [sized(stream, b"9"), last(stream)].concat(), Stays, Broken),
    ("a body longer than its length", |stream| [sized(stream, b"3"), last(stream)].concat(), Stays, Broken),
    ("trailers that end nothing", |stream| [ok(stream), half(stream), ok(stream)].concat(), Stays, Broken),
    (
        "empty pieces without end",
        |stream| [ok(stream), half(stream)].concat(),
        Floods(|stream| frame(DATA, 0, stream, b"")),
        Broken,
    ),
    ("a body of no known length", |stream| [ok(stream), last(stream)].concat(), Stays, Whole(200)),
    // It ends the answer, and goes no further itself.
    (
        "a status in trailers",
        |stream| [ok(stream), half(stream), frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])].concat(),
        Stays,
        Whole(200),
    ),
    ("no body", |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]), Stays, Whole(200)),
    ("a reset behind the end", |stream| [ok(stream), last(stream), reset(stream, 2)].concat(), Stays, Whole(200)),
    ("an answer and the end", |stream| [ok(stream), last(stream)].concat(), Ends, Whole(200)),
    ("a goodbye before the answer", |stream| [goaway(stream, 0), ok(stream), last(stream)].concat(), Ends, Whole(200)),
];

/// The same for a POST of which the upstream takes nothing.
const EARLY: &[Fault] = &[
    ("an early answer", |stream| [forbidden(stream, 0), last(stream)].concat(), Stays, Whole(403)),
    // RFC 9113 section 8.1: that is how the rest of a body is asked not to be sent.
    (
        "the same and a reset without an error",
        |stream| [forbidden(stream, 0), last(stream), reset(stream, 0)].concat(),
        Stays,
        Whole(403),
    ),
    (
        "one without a body and such a reset",
        |stream| [forbidden(stream, END_STREAM), reset(stream, 0)].concat(),
        Stays,
        Whole(403),
    ),
    (
        "an early answer of known length and the end",
        |stream| {
            let fields: Fields = &[(b":status", b"403"), (b"content-length", b"4")];
            [head(stream, fields), last(stream)].concat()
        },
        Ends,
        Whole(403),
    ),
    (
        "half of one and a reset",
        |stream| [forbidden(stream, 0), half(stream), reset(stream, 0)].concat(),
        Stays,
        Broken,
    ),
    ("half of one and the end", |stream| [forbidden(stream, 0), half(stream)].concat(), Ends, Broken),
    ("an early end", nothing, Ends, Whole(502)),
    ("an early reset", |stream| reset(stream, 0), Stays, Whole(502)),
];

type Fields = &'static [(&'static [u8], &'static [u8])];

fn nothing(_: u32) -> Vec<u8> {
    Vec::new()
}

fn head(stream: u32, fields: Fields) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(fields))
}

fn ok(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[0x88])
}

fn forbidden(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(&[(b":status", b"403")]))
}

fn sized(stream: u32, length: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[(b":status", b"200"), (b"content-length", length)]))
}

fn half(stream: u32) -> Vec<u8> {
    frame(DATA, 0, stream, b"half")
}

fn last(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"good")
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A server that asks on each stream what to do; without a word it answers `good` once the request is whole.
pub(super) fn serving(next: impl Fn() -> Option<(Frames, Then)> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let next = Arc::new(next);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let next = Arc::clone(&next);
            thread::spawn(move || {
                // However the connection ends, there is nobody to be told.
                let _ = serve(&stream, &*next);
                let _ = stream.shutdown(Shutdown::Write);
                while let Ok(1..) = (&stream).read(&mut [0; 4096]) {}
            });
        }
    });
    address
}

fn serve(mut stream: &TcpStream, next: &dyn Fn() -> Option<(Frames, Then)>) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; number(&head[..3]) as usize];
        stream.read_exact(&mut payload)?;
        let (kind, flags, number) = (head[3], head[4], number(&head[5..]));
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            HEADERS => {
                if let Some((frames, then)) = next() {
                    stream.write_all(&frames(number))?;
                    match then {
                        Ends => return Ok(()),
                        Resets => return Ok(rustix::net::connect_unspec(stream)?),
                        Floods(frames) => {
                            let piece = frames(number).repeat(100);
                            loop {
                                stream.write_all(&piece)?;
                            }
                        }
                        Stays | Waits => continue,
                    }
                }
            }
            _ => {}
        }
        if kind == DATA && !payload.is_empty() {
            // Whether anybody wanted it or not (RFC 9113 section 6.9).
            stream.write_all(&frame(
                WINDOW_UPDATE,
                0,
                0,
                &u32::try_from(payload.len()).expect("a frame").to_be_bytes(),
            ))?;
        }
        if [HEADERS, DATA].contains(&kind) && flags & END_STREAM != 0 {
            stream.write_all(&[ok(number), last(number)].concat())?;
        }
    }
}

fn each_fault(what: &str, ask: fn(&Running, &str, bool) -> Gets) {
    let faults: Vec<_> = FAULTS.iter().chain(EARLY).collect();
    let present = Arc::new(AtomicUsize::new(usize::MAX));
    let asked = Arc::clone(&present);
    let address = serving(move || {
        let (_, frames, then, _) = FAULTS.iter().chain(EARLY).nth(asked.load(SeqCst))?;
        Some((*frames, *then))
    });
    let hasty = "response_timeout = \"2s\"\nread_timeout = \"2s\"";
    let servers = format!("servers = [\"h2c://{address}\"]");
    // One worker has one pool: what a fault leaves in it, the next request finds.
    let gateway = Gateway::new()
        .server("workers = 1")
        .route_to("path = \"/{*rest}\"", &servers)
        .auth(&["none"])
        .route_to("path = \"/hasty/{*rest}\"", &format!("{servers}\n{hasty}"))
        .auth(&["none"])
        .start();
    let mut wrong = Vec::new();
    for (number, (fault, _, then, gets)) in faults.iter().enumerate() {
        let at = |name: &str| if matches!(then, Waits) { format!("/hasty/{name}") } else { format!("/{name}") };
        let good = |name: &str, wrong: &mut Vec<String>| {
            let client = gateway.client();
            let request = if name == "post" { client.post(&at(name), "x") } else { client.get(&at(name)) };
            let answer = request.send();
            if (answer.status, &*answer.body) != (200, b"good") {
                wrong.push(format!("{name}: {fault}, {what}: {answer:?}"));
            }
        };
        // A connection that is there already, for the fault to break.
        good("before", &mut wrong);

        present.store(number, SeqCst);
        let got = ask(&gateway, &at("fault"), number >= FAULTS.len());
        present.store(usize::MAX, SeqCst);
        if got != *gets {
            wrong.push(format!("{fault}, {what}: {got:?}, not {gets:?}"));
        }

        ["after", "after", "post"].iter().for_each(|name| good(name, &mut wrong));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for gauge in ["portcullis_upstream_requests_under_way", "portcullis_requests_in_flight"] {
        eventually(gauge, || metric_sum(&gateway.telemetry(), gauge) == 0.0);
    }
    let connections = || metric_sum(&gateway.telemetry(), "portcullis_upstream_connections");
    eventually("one connection is left for each of the two upstreams", || connections() == 2.0);
}

#[test]
fn every_fault_of_an_upstream_over_http2_is_answered_or_visible_over_http_1() {
    each_fault("HTTP/1.1", over_http1);
}

#[test]
fn every_fault_of_an_upstream_over_http2_is_answered_or_visible_over_http_2() {
    each_fault("HTTP/2", over_http2);
}
