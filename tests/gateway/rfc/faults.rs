//! Upstreams that fail in every way there is (R16), through a whole gateway and in both protocols of clients: the
//! client gets a complete honest answer or a visibly broken one, and whoever asks next gets the right one.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
};

use crate::support::{
    Gateway, Reply, Response, Seen, Upstream, client::Request, eventually, gateway::Running, metric_sum,
};

/// What the client must get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gets {
    /// A whole answer with this status.
    Whole(u16),
    /// An answer that is seen to break off.
    Broken,
    /// Neither, for as long as anybody waits.
    Nothing,
}

use Gets::{Broken, Nothing, Whole};

/// What the upstream does instead of answering.
#[derive(Clone, Copy)]
pub(super) enum Does {
    /// These bytes, and the end.
    Ends(&'static str),
    /// These bytes, and a reset.
    Resets(&'static str),
    /// These bytes, and then nothing any more.
    Waits(&'static str),
    /// These bytes, and the connection stays in use.
    Stays(&'static str),
    /// The first once, and the second without end.
    Floods(&'static str, &'static str),
    /// As [`Self::Stays`], before it has read the body of the request.
    Early(&'static str),
}

use Does::{Early, Ends, Floods, Resets, Stays, Waits};

/// An answer whose body is chunked, from its first chunk on.
macro_rules! chunks {
    ($body:literal) => {
        concat!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", $body)
    };
}

/// An answer whose body has this length, or another.
macro_rules! sized {
    ($length:literal, $body:literal) => {
        concat!("HTTP/1.1 200 OK\r\nContent-Length: ", $length, "\r\n\r\n", $body)
    };
}

pub(super) const FAULTS: &[(&str, Does, Gets)] = &[
    ("ends before the head", Ends(""), Whole(502)),
    ("resets before the head", Resets(""), Whole(502)),
    ("ends within the status line", Ends("HTTP/1.1 2"), Whole(502)),
    ("resets within the status line", Resets("HTTP/1.1 2"), Whole(502)),
    ("ends within a field", Ends("HTTP/1.1 200 OK\r\nContent-Le"), Whole(502)),
    ("ends before the head's last line", Ends("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"), Whole(502)),
    ("ends after the head", Ends(sized!(9, "")), Broken),
    ("resets after the head", Resets(sized!(9, "")), Broken),
    ("ends within the body", Ends(sized!(9, "half")), Broken),
    ("resets within the body", Resets(sized!(9, "half")), Broken),
    ("ends one byte before the body's end", Ends(sized!(5, "half")), Broken),
    ("ends before the first chunk", Ends(chunks!("")), Broken),
    ("ends within a chunk's size", Ends(chunks!("4")), Broken),
    ("ends within a chunk", Ends(chunks!("9\r\nhalf")), Broken),
    ("ends between chunks", Ends(chunks!("4\r\nhalf\r\n")), Broken),
    ("ends behind the last chunk", Ends(chunks!("4\r\nhalf\r\n0\r\n")), Broken),
    ("ends within trailers", Ends(chunks!("4\r\nhalf\r\n0\r\nX: y\r\n")), Broken),
    ("resets between chunks", Resets(chunks!("4\r\nhalf\r\n")), Broken),
    ("a chunk of no size", Stays(chunks!("4\r\nhalf\r\nzz\r\n")), Broken),
    ("a chunk longer than its size", Stays(chunks!("4\r\nhalf and more\r\n0\r\n\r\n")), Broken),
    ("an extension without end", Floods(chunks!("4;"), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), Broken),
    ("trailers without end", Floods(chunks!("0\r\n"), "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"), Broken),
    ("garbage", Ends("SSH-2.0-OpenSSH_9.2\r\n\r\n"), Whole(502)),
    ("garbage that stays", Waits("SSH-2.0-OpenSSH_9.2\r\n\r\n"), Whole(502)),
    ("garbage without end", Floods("", "\u{1}\u{2}garbage"), Whole(502)),
    ("TLS", Ends("\u{16}\u{3}\u{1}\0\u{2}\u{1}\0"), Whole(502)),
    ("HTTP/2", Ends("\0\0\0\u{4}\0\0\0\0\0"), Whole(502)),
    (
        "a head of 200 KiB",
        Floods("HTTP/1.1 200 OK\r\n", "X-Filler: 0123456789012345678901234567890123456789\r\n"),
        Whole(502),
    ),
    ("a field without end", Floods("HTTP/1.1 200 OK\r\nX: ", "0123456789012345678901234567890123456789"), Whole(502)),
    ("a reason without end", Floods("HTTP/1.1 200 ", "0123456789012345678901234567890123456789"), Whole(502)),
    ("many fields", Floods("HTTP/1.1 200 OK\r\n", "A:\r\n"), Whole(502)),
    ("never a byte", Waits(""), Whole(504)),
    ("half a head and nothing", Waits("HTTP/1.1 200 OK\r\nContent-Le"), Whole(504)),
    ("a head and no body", Waits(sized!(9, "")), Broken),
    ("half a body and nothing", Waits(sized!(9, "half")), Broken),
    ("a chunk and nothing", Waits(chunks!("4\r\nhalf\r\n")), Broken),
    ("an interim answer and nothing", Waits("HTTP/1.1 103 Early Hints\r\n\r\n"), Whole(504)),
    ("interim answers without end", Floods("", "HTTP/1.1 103 Early Hints\r\n\r\n"), Whole(502)),
    ("100 without end", Floods("", "HTTP/1.1 100 Continue\r\n\r\n"), Whole(502)),
    ("an interim answer and the end", Ends("HTTP/1.1 103 Early Hints\r\n\r\n"), Whole(502)),
    (
        "a 101 that nobody asked for",
        Stays("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        Whole(502),
    ),
    ("two lengths", Stays("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), Whole(502)),
    (
        "a length beside chunks",
        Stays("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Whole(502),
    ),
    ("a length below 0", Stays("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), Whole(502)),
    ("a length above 2^64", Stays("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\na"), Whole(502)),
    ("another coding", Stays("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab"), Whole(502)),
    ("a status of four digits", Stays("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), Whole(502)),
    // As RFC 9112 section 2.2 allows: old backends write so, and the answer that goes on is written afresh.
    ("a bare LF", Stays("HTTP/1.1 200 OK\nContent-Length: 4\n\ngood"), Whole(200)),
    ("a fold", Stays("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"), Whole(502)),
    ("a blank before a colon", Stays("HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"), Whole(502)),
    ("a zero in a value", Stays("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"), Whole(502)),
    ("two answers", Stays(sized!(4, "goodHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")), Whole(200)),
    ("bytes behind the answer", Stays(sized!(4, "goodpoison")), Whole(200)),
    ("bytes behind the last chunk", Stays(chunks!("4\r\ngood\r\n0\r\n\r\npoison")), Whole(200)),
    (
        "a body behind 204",
        Stays("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        Whole(204),
    ),
    ("a body behind 304", Stays("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison"), Whole(304)),
    ("until the end", Ends("HTTP/1.0 200 OK\r\n\r\ngood"), Whole(200)),
    ("until a reset", Resets("HTTP/1.0 200 OK\r\n\r\ngood"), Broken),
    ("an answer and the end", Ends(sized!(4, "good")), Whole(200)),
    (
        "an answer that keeps what it closes",
        Ends("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ngood"),
        Whole(200),
    ),
    ("an early answer", Early("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\ngood"), Whole(403)),
    ("an early end", Early(""), Whole(502)),
];

fn act(what: Does, stream: &mut TcpStream) {
    let (first, then) = match what {
        Ends(text) | Early(text) | Resets(text) | Waits(text) | Stays(text) => (text, ""),
        Floods(first, then) => (first, then),
    };
    let _ = stream.write_all(first.as_bytes());
    match what {
        Resets(_) => {
            // On this machine what was written has arrived; the reset throws nothing of it away.
            let _ = rustix::net::connect_unspec(&*stream);
        }
        Waits(_) => {
            let _ = std::io::Read::read(stream, &mut [0; 1]);
        }
        Floods(..) => {
            let piece = then.repeat(100);
            while stream.write_all(piece.as_bytes()).is_ok() {}
        }
        Ends(_) | Early(_) | Stays(_) => {}
    }
}

fn reply(seen: &Seen) -> Reply {
    let fault = seen.path.strip_prefix("/fault/").and_then(|number| FAULTS.get(number.parse::<usize>().ok()?));
    match fault {
        Some((_, Stays(text), _)) => Reply::raw(*text),
        Some((_, what, _)) => {
            let what = *what;
            Reply::take_over(move |stream| act(what, stream))
        }
        None => Reply::ok(&seen.path),
    }
}

fn public(upstream: &Upstream) -> Running {
    upstream.respond(reply);
    upstream.respond_early(|seen| {
        let number: usize = seen.path.strip_prefix("/fault/")?.parse().ok()?;
        matches!(FAULTS.get(number)?.1, Early(_)).then(|| reply(seen))
    });
    // One worker has one pool: what a fault leaves in it, the next request finds.
    Gateway::new()
        .server("workers = 1")
        .route("/{*rest}", upstream)
        .upstream_key("response_timeout = \"2s\"")
        .upstream_key("read_timeout = \"2s\"")
        .auth(&["none"])
        .start()
}

fn each_fault(what: &str, ask: fn(&Running, &str, bool) -> Gets) {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut wrong = Vec::new();
    for (number, (fault, does, gets)) in FAULTS.iter().enumerate() {
        let before = format!("/before/{number}");
        assert_eq!(gateway.client().get(&before).send().expect(200).text(), before, "{fault}");
        let has_body = matches!(does, Early(_));

        let got = ask(&gateway, &format!("/fault/{number}"), has_body);
        if got != *gets {
            wrong.push(format!("{fault}, {what}: {got:?}, not {gets:?}"));
        }

        for after in 0..3 {
            let path = format!("/after/{number}/{after}");
            assert_eq!(gateway.client().get(&path).send().expect(200).text(), path, "after: {fault}, {what}");
        }
        assert_eq!(gateway.client().post("/after/post", "x").send().expect(200).text(), "/after/post");
        eventually("the upstream's connections are given up", || upstream.open_connections() <= 1);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for gauge in ["portcullis_upstream_requests_under_way", "portcullis_requests_in_flight"] {
        eventually(gauge, || metric_sum(&gateway.telemetry(), gauge) == 0.0);
    }
}

/// What a client over HTTP/1.1 gets.
pub(super) fn over_http1(gateway: &Running, path: &str, has_body: bool) -> Gets {
    match request(gateway, path, has_body).try_send() {
        Ok(answer) => whole(&answer),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Nothing,
        Err(_) => Broken,
    }
}

/// What a client over HTTP/2 gets.
pub(super) fn over_http2(gateway: &Running, path: &str, has_body: bool) -> Gets {
    match request(gateway, path, has_body).try_send_http2() {
        Ok(answer) => whole(&answer),
        Err(error) if error.is::<tokio::time::error::Elapsed>() => Nothing,
        Err(_) => Broken,
    }
}

fn request(gateway: &Running, path: &str, has_body: bool) -> Request {
    let client = gateway.client();
    if has_body { client.post(path, vec![b'x'; 100_000]) } else { client.get(path) }
}

fn whole(answer: &Response) -> Gets {
    assert!(!answer.text().contains("poison"), "{answer:?}");
    Whole(answer.status)
}

#[test]
fn every_fault_of_an_upstream_is_answered_or_visible_over_http_1() {
    each_fault("HTTP/1.1", over_http1);
}

#[test]
fn every_fault_of_an_upstream_is_answered_or_visible_over_http_2() {
    each_fault("HTTP/2", over_http2);
}
