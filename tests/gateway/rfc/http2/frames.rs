//! Sections 4 and 6.1 to 6.8: how frames are read.

use super::*;

#[test]
fn frames_are_read_as_section_4_asks() {
    let fields = block(&get("app.test", "/x"));
    let (first, rest) = fields.split_at(5);
    let mut reserved = ask(1, "/x");
    reserved[5] |= 0x80;
    check(vec![
        ("4.1", "an unknown frame is ignored", frame(0xbe, 0xff, 0, b"anything"), Goes),
        ("4.1", "an unknown frame on a stream that is not open", frame(0xbe, 0, 77, b""), Goes),
        ("4.1", "undefined flags are ignored", frame(PING, 0x16, 0, &[0; 8]), Goes),
        ("4.1", "the reserved bit is ignored", reserved, Answer(200)),
        (
            "4.2",
            "a frame of 2^14 bytes",
            join(&[post(1, "/length", &[]), frame(DATA, END_STREAM, 1, &[b'x'; 1 << 14])]),
            Answer(200),
        ),
        (
            "4.2",
            "DATA above the largest frame",
            join(&[post(1, "/x", &[]), frame(DATA, END_STREAM, 1, &[b'x'; (1 << 14) + 1])]),
            Connection(FRAME_SIZE),
        ),
        (
            "4.2",
            "HEADERS above the largest frame",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0; (1 << 14) + 1]),
            Connection(FRAME_SIZE),
        ),
        ("4.2", "SETTINGS above the largest frame", frame(SETTINGS, 0, 0, &[0; 6 * 2731]), Connection(FRAME_SIZE)),
        (
            "4.3",
            "a header block that is none",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
            Connection(COMPRESSION),
        ),
        (
            "4.3",
            "a block in pieces",
            join(&[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)]),
            Answer(200),
        ),
        (
            "4.3",
            "PRIORITY within a block",
            join(&[
                frame(HEADERS, END_STREAM, 1, first),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]),
                frame(CONTINUATION, END_HEADERS, 1, rest),
            ]),
            Connection(PROTOCOL),
        ),
        (
            "4.3",
            "PING within a block",
            join(&[frame(HEADERS, END_STREAM, 1, first), frame(PING, 0, 0, &[0; 8])]),
            Connection(PROTOCOL),
        ),
        (
            "4.3",
            "an unknown frame within a block",
            join(&[frame(HEADERS, END_STREAM, 1, first), frame(0xbe, 0, 1, b"")]),
            Connection(PROTOCOL),
        ),
        (
            "4.3",
            "HEADERS of another stream within a block",
            join(&[frame(HEADERS, END_STREAM, 1, first), ask(3, "/smuggled")]),
            Connection(PROTOCOL),
        ),
        (
            "4.3",
            "CONTINUATION of another stream",
            join(&[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, rest)]),
            Connection(PROTOCOL),
        ),
    ]);
}

#[test]
fn data_headers_and_resets_are_as_sections_6_1_to_6_4_ask() {
    let fields = block(&get("app.test", "/x"));
    let padded = |pad: u8, body: &[u8]| [&[pad][..], body, &vec![0; usize::from(pad)]].concat();
    check(vec![
        ("6.1", "DATA on stream 0", frame(DATA, END_STREAM, 0, b"x"), Connection(PROTOCOL)),
        (
            "6.1",
            "padding",
            join(&[post(1, "/x", &[]), frame(DATA, END_STREAM | PADDED, 1, &padded(7, b"body"))]),
            Answer(200),
        ),
        (
            "6.1",
            "padding as long as the frame",
            join(&[post(1, "/x", &[]), frame(DATA, END_STREAM | PADDED, 1, &[4, 0, 0, 0])]),
            Connection(PROTOCOL),
        ),
        (
            "6.1",
            "padding without its length",
            join(&[post(1, "/x", &[]), frame(DATA, END_STREAM | PADDED, 1, b"")]),
            Either(PROTOCOL, FRAME_SIZE),
        ),
        (
            "6.2",
            "HEADERS with padding",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padded(3, &fields)),
            Answer(200),
        ),
        (
            "6.2",
            "padding above the frame",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[200][..], &fields].concat()),
            Connection(PROTOCOL),
        ),
        (
            "6.2",
            "HEADERS with a priority that breaks off",
            frame(HEADERS, END_HEADERS | END_STREAM | 0x20, 1, &[0, 0]),
            Either(PROTOCOL, FRAME_SIZE),
        ),
        ("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 9]), Connection(PROTOCOL)),
        (
            "6.3",
            "PRIORITY of another length",
            join(&[ask(1, "/held"), frame(PRIORITY, 0, 1, &[0, 0, 0, 0])]),
            Stream(1, FRAME_SIZE),
        ),
        ("6.4", "RST_STREAM on stream 0", reset(0), Connection(PROTOCOL)),
        (
            "6.4",
            "RST_STREAM of another length",
            join(&[ask(1, "/held"), frame(RST_STREAM, 0, 1, &[0, 0, 8])]),
            Connection(FRAME_SIZE),
        ),
        (
            "6.6",
            "PUSH_PROMISE of a client",
            join(&[ask(1, "/held"), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &fields].concat())]),
            Connection(PROTOCOL),
        ),
        (
            "7",
            "an unknown error code",
            join(&[ask(1, "/held"), frame(RST_STREAM, 0, 1, &0xfeed_u32.to_be_bytes())]),
            Goes,
        ),
    ]);
}

#[test]
fn settings_pings_and_goaways_are_as_sections_6_5_to_6_8_ask() {
    check(vec![
        ("6.5", "an ACK with a payload", frame(SETTINGS, 1, 0, &[0; 6]), Connection(FRAME_SIZE)),
        ("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), Connection(PROTOCOL)),
        ("6.5", "SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 7]), Connection(FRAME_SIZE)),
        (
            "6.5",
            "an ACK that nobody waits for",
            join(&[frame(SETTINGS, 1, 0, &[]), frame(SETTINGS, 1, 0, &[])]),
            Connection(PROTOCOL),
        ),
        ("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), Connection(PROTOCOL)),
        ("6.5.2", "a window above 2^31 - 1", setting(4, 1 << 31), Connection(FLOW_CONTROL)),
        ("6.5.2", "a frame size below 2^14", setting(5, (1 << 14) - 1), Connection(PROTOCOL)),
        ("6.5.2", "a frame size above 2^24 - 1", setting(5, 1 << 24), Connection(PROTOCOL)),
        (
            "6.5.3",
            "the later of two values counts",
            join(&[frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0, 9]), ask(1, "/x")]),
            Answer(200),
        ),
        ("6.7", "PING", frame(PING, 0, 0, b"whatever"), Goes),
        ("6.7", "an ACK of a PING that was not sent", frame(PING, 1, 0, b"whatever"), Goes),
        ("6.7", "PING on a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("6.7", "PING of another length", frame(PING, 0, 0, &[0; 6]), Connection(FRAME_SIZE)),
        ("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("6.8", "GOAWAY that breaks off", frame(GOAWAY, 0, 0, &[0; 7]), Connection(FRAME_SIZE)),
    ]);
}
