//! Sections 5, 6.9 and 6.10: the states of streams, their windows, and their heads in pieces.

use super::*;

#[test]
fn streams_have_the_states_of_section_5() {
    let held = || join(&[ask(1, "/held"), frame(PING, 0, 0, &[1; 8])]);
    let depends_on_itself = [&[0, 0, 0, 1, 9][..], &block(&get("app.test", "/x"))].concat();
    let many = (0..9).map(|number| ask(2 * number + 1, "/held")).collect::<Vec<_>>();
    check(vec![
        ("5.1", "DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), Connection(PROTOCOL)),
        ("5.1", "RST_STREAM on an idle stream", reset(1), Connection(PROTOCOL)),
        ("5.1", "WINDOW_UPDATE on an idle stream", window(1, 100), Connection(PROTOCOL)),
        ("5.1", "CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, b""), Connection(PROTOCOL)),
        ("5.1", "PRIORITY on an idle stream", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]), Goes),
        (
            "5.1",
            "DATA on a half-closed stream",
            join(&[held(), frame(DATA, END_STREAM, 1, b"x")]),
            Stream(1, STREAM_CLOSED),
        ),
        ("5.1", "HEADERS on a half-closed stream", join(&[held(), ask(1, "/smuggled")]), Stream(1, STREAM_CLOSED)),
        (
            "5.1",
            "CONTINUATION on a half-closed stream",
            join(&[held(), frame(CONTINUATION, END_HEADERS, 1, b"")]),
            Either(PROTOCOL, STREAM_CLOSED),
        ),
        ("5.1", "WINDOW_UPDATE on a half-closed stream", join(&[held(), window(1, 1)]), Goes),
        ("5.1", "RST_STREAM on a half-closed stream", join(&[held(), reset(1)]), Goes),
        (
            "5.1",
            "WINDOW_UPDATE and RST_STREAM on a closed stream",
            join(&[held(), reset(1), window(1, 1), reset(1)]),
            Goes,
        ),
        // The library drops what comes for a moment after a reset: the peer may not have seen it (RFC 9113 section
        // 5.1).
        (
            "5.1",
            "CONTINUATION on a stream that was reset",
            join(&[held(), reset(1), frame(CONTINUATION, END_HEADERS, 1, b"")]),
            Either(PROTOCOL, STREAM_CLOSED),
        ),
        ("5.1.1", "an even stream of a client", ask(2, "/smuggled"), Connection(PROTOCOL)),
        ("5.1.1", "a stream below the last", join(&[ask(5, "/held"), ask(3, "/smuggled")]), Connection(PROTOCOL)),
        ("5.1.1", "stream 0 for a request", ask(0, "/smuggled"), Connection(PROTOCOL)),
        ("5.1.2", "a stream above the bound", join(&many), Stream(17, REFUSED)),
        (
            "5.3.1",
            "HEADERS that depend on themselves",
            frame(HEADERS, END_HEADERS | END_STREAM | 0x20, 1, &depends_on_itself),
            Stream(1, PROTOCOL),
        ),
        (
            "5.3.1",
            "PRIORITY that depends on itself",
            join(&[ask(1, "/held"), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])]),
            Stream(1, PROTOCOL),
        ),
        ("5.5", "an unknown setting", setting(0x99, 7), Goes),
    ]);
}

#[test]
fn flow_control_is_as_section_6_9_asks() {
    let top = 0x7fff_ffff;
    check(vec![
        ("6.9", "an increment of 0 for the connection", window(0, 0), Connection(PROTOCOL)),
        ("6.9", "an increment of 0 for a stream", join(&[ask(1, "/held"), window(1, 0)]), Stream(1, PROTOCOL)),
        ("6.9", "WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]), Connection(FRAME_SIZE)),
        (
            "6.9.1",
            "a connection's window above 2^31 - 1",
            join(&[window(0, top), window(0, top)]),
            Connection(FLOW_CONTROL),
        ),
        (
            "6.9.1",
            "a stream's window above 2^31 - 1",
            join(&[ask(1, "/held"), window(1, top), window(1, top)]),
            Stream(1, FLOW_CONTROL),
        ),
        (
            "6.9.2",
            "a setting that lifts a window above 2^31 - 1",
            join(&[ask(1, "/held"), window(1, top - 65_535), setting(4, 65_536)]),
            Connection(FLOW_CONTROL),
        ),
        (
            "6.9.1",
            "more than the stream's window",
            join(&[post(1, "/held", &[]), frame(DATA, 0, 1, &[b'x'; 1 << 14]).repeat(64)]),
            Cut(FLOW_CONTROL),
        ),
    ]);
}

#[test]
fn header_blocks_go_on_as_section_6_10_asks() {
    let fields = block(&get("app.test", "/x"));
    let (first, rest) = fields.split_at(5);
    let (second, third) = rest.split_at(20);
    check(vec![
        (
            "6.10",
            "several CONTINUATIONs",
            join(&[
                frame(HEADERS, END_STREAM, 1, first),
                frame(CONTINUATION, 0, 1, second),
                frame(CONTINUATION, END_HEADERS, 1, third),
            ]),
            Answer(200),
        ),
        (
            "6.10",
            "DATA between CONTINUATIONs",
            join(&[frame(HEADERS, 0, 1, first), frame(CONTINUATION, 0, 1, second), frame(DATA, END_STREAM, 1, b"x")]),
            Connection(PROTOCOL),
        ),
        (
            "6.10",
            "CONTINUATION on stream 0",
            join(&[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 0, rest)]),
            Connection(PROTOCOL),
        ),
        (
            "6.10",
            "CONTINUATION behind a whole block",
            join(&[ask(1, "/held"), frame(CONTINUATION, END_HEADERS, 1, rest)]),
            Either(PROTOCOL, STREAM_CLOSED),
        ),
        (
            "6.10",
            "CONTINUATION behind CONTINUATION's end",
            join(&[
                frame(HEADERS, END_STREAM, 1, first),
                frame(CONTINUATION, END_HEADERS, 1, rest),
                frame(CONTINUATION, END_HEADERS, 1, rest),
            ]),
            Either(PROTOCOL, STREAM_CLOSED),
        ),
        (
            "6.10",
            "CONTINUATION behind DATA",
            join(&[post(1, "/held", &[]), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, rest)]),
            Either(PROTOCOL, STREAM_CLOSED),
        ),
    ]);
}
