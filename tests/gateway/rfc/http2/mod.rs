//! HTTP/2 as RFC 9113 wants it, section by section, and its header compression (RFC 7541): what h2spec asks of a
//! server, written as frames by hand. Where the library answers more mildly than the RFC asks, the row says why that
//! does no harm.

mod frames;
mod messages;
mod streams;

use crate::support::{
    Gateway, Reply, Upstream,
    gateway::Running,
    http2::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, Http2, PADDED, PING, PRIORITY, PUSH_PROMISE,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, number,
    },
};

/// What must become of a connection after the bytes of a row.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// It goes on: a ping is answered.
    Goes,
    /// Stream 1 is answered.
    Answer(u16),
    /// This stream ends with this error, or the connection does (RFC 9113 section 5.4.2 allows it).
    Stream(u32, u32),
    /// The connection ends with this error.
    Connection(u32),
    /// The connection ends with one of two errors: sections allow both.
    Either(u32, u32),
    /// The connection ends with this error, which may be lost: whoever closes while more comes in resets the
    /// connection, and what was sent before may go with it (RFC 9112 section 9.6).
    Cut(u32),
    // Where a code more special than `PROTOCOL_ERROR` is asked for, that one does, too: the library says it of most of
    // what it cannot read. Section 5.4 leaves the choice of a code to whoever finds the error, and the end is the same.
}

use Want::{Answer, Connection, Cut, Either, Goes, Stream};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

type Row = (&'static str, &'static str, Vec<u8>, Want);

fn public(upstream: &Upstream) -> Running {
    // `/held` is answered when its connection ends; everything else at once.
    upstream.respond(|seen| match &*seen.path {
        "/held" => Reply::take_over(|stream| {
            let _ = std::io::Read::read(stream, &mut [0; 1]);
        }),
        "/length" => Reply::ok(seen.body.len().to_string()),
        _ => Reply::ok("ok"),
    });
    Gateway::with("[limits]\nmax_streams = 8").route("/{*rest}", upstream).auth(&["none"]).start()
}

#[track_caller]
fn check(rows: Vec<Row>) {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut wrong = Vec::new();
    for (section, what, bytes, want) in rows {
        let mut connection = Http2::connect(&gateway.client());
        // It may hear nothing more after the part that is wrong.
        let _ = connection.write(&bytes);
        let (is_met, got) = outcome(&mut connection, want);
        if !is_met {
            wrong.push(format!("section {section}, {what}: {got}, not {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Whatever came before, the next client is served.
    gateway.client().get("/after").send_http2().expect(200);
    let paths: Vec<String> = upstream.requests().into_iter().map(|seen| seen.path).collect();
    assert!(!paths.iter().any(|path| path.contains("smuggled")), "{paths:?}");
}

fn outcome(connection: &mut Http2, want: Want) -> (bool, String) {
    match want {
        Goes => {
            let alive = connection.is_alive();
            (alive, format!("alive: {alive}"))
        }
        Answer(status) => {
            let end = connection.end_of(1);
            (end == End::Status(status), format!("{end:?}"))
        }
        Stream(stream, code) => loop {
            let end = connection.end_of(stream);
            // What the stream was answered with before it broke is no verdict.
            if !matches!(end, End::Status(200)) {
                let codes = [code, PROTOCOL];
                let is_met = matches!(end, End::Reset(got) | End::GoAway(got) if codes.contains(&got));
                break (is_met, format!("{end:?}"));
            }
        },
        Connection(code) => {
            let end = connection.end_of(u32::MAX);
            (end == End::GoAway(code) || end == End::GoAway(PROTOCOL), format!("{end:?}"))
        }
        Either(one, other) => {
            let end = connection.end_of(u32::MAX);
            (end == End::GoAway(one) || end == End::GoAway(other), format!("{end:?}"))
        }
        Cut(code) => {
            let end = connection.end_of(u32::MAX);
            (end == End::GoAway(code) || end == End::Closed, format!("{end:?}"))
        }
    }
}

/// A whole GET.
fn ask(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("app.test", path)))
}

/// The head of a POST, with further fields.
fn post(stream: u32, path: &str, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut fields = get("app.test", path);
    fields[0].1 = b"POST";
    fields.extend_from_slice(more);
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn the_preface_is_checked_as_section_3_4_asks() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, bytes) in [
        ("HTTP/1.1 where h2 was agreed", &b"GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n"[..]),
        ("another version", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n"),
        ("a preface that breaks off", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"),
        ("no SETTINGS behind it", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ] {
        let mut connection = gateway.client().try_connect(&["h2"]).expect("the connection can be opened");
        let _ = connection.write(bytes);
        let said = connection.read_to_end();
        assert!(!said.windows(3).any(|three| three == b"200"), "{what}: {said:?}");
    }
    upstream.expect_only(0);
    let mut connection = gateway.client().try_connect(&["h2"]).expect("the connection can be opened");
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    connection.write(&frame(SETTINGS, 0, 0, &[])).unwrap();
    assert_eq!(connection.read_exactly(9).unwrap()[3], SETTINGS, "the server's preface begins with SETTINGS");
}

/// Section 6.9.1: not a byte more than the client allows, and all of them once it does.
#[test]
fn an_answer_keeps_to_the_windows_of_its_client() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut connection = Http2::connect(&gateway.client());
    connection.write(&join(&[setting(4, 1), ask(1, "/x")])).unwrap();
    let piece = |connection: &mut Http2| loop {
        let frame = connection.read().expect("a frame");
        if frame.kind == DATA {
            return (String::from_utf8_lossy(&frame.payload).into_owned(), frame.flags & END_STREAM);
        }
    };
    assert_eq!(piece(&mut connection), ("o".to_owned(), 0));
    assert!(connection.is_alive(), "and no more comes");
    // Below 0, and up again.
    connection.write(&join(&[setting(4, 0), window(1, 1)])).unwrap();
    assert!(connection.is_alive());
    connection.write(&window(1, 1)).unwrap();
    assert_eq!(piece(&mut connection), ("k".to_owned(), END_STREAM));
}

/// Section 5.4.1: the last stream is told, and the connection ends.
#[test]
fn a_connection_error_tells_the_last_stream_and_ends() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut connection = Http2::connect(&gateway.client());
    connection.write(&ask(1, "/held")).unwrap();
    upstream.next_request();
    connection.write(&frame(PING, 0, 0, &[0; 6])).unwrap();

    let goaway = loop {
        let frame = connection.read().expect("a frame");
        if frame.kind == GOAWAY {
            break frame.payload;
        }
    };
    assert_eq!((number(&goaway[..4]), number(&goaway[4..8])), (1, PROTOCOL));
    assert_eq!(connection.end_of(1), End::Closed);
}
