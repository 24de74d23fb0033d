//! Section 8 and RFC 7541: what requests are made of, and how their fields are compressed.

use super::*;

#[test]
fn messages_are_as_section_8_asks() {
    let with = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = get("app.test", "/smuggled");
        fields.push((name, value));
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))
    };
    let body = |length: &'static [u8], parts: &[&[u8]]| {
        let last = parts.len() - 1;
        let data = parts
            .iter()
            .enumerate()
            .map(|(number, part)| frame(DATA, if number == last { END_STREAM } else { 0 }, 1, part));
        join(&[post(1, "/length", &[(b"content-length", length)]), data.collect::<Vec<_>>().concat()])
    };
    check(vec![
        (
            "8.1",
            "a second HEADERS without an end",
            join(&[post(1, "/held", &[]), frame(HEADERS, END_HEADERS, 1, &block(&[(b"x", b"y")]))]),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1",
            "trailers",
            join(&[
                post(1, "/x", &[]),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(b"x", b"y")])),
            ]),
            Answer(200),
        ),
        ("8.1.1", "a length below the body", body(b"3", &[b"body"]), Stream(1, PROTOCOL)),
        ("8.1.1", "a length above the body", body(b"5", &[b"body"]), Stream(1, PROTOCOL)),
        ("8.1.1", "a length below the sum of all frames", body(b"7", &[b"body", b"body"]), Stream(1, PROTOCOL)),
        ("8.1.1", "a length that fits", body(b"8", &[b"body", b"body"]), Answer(200)),
        ("8.2.1", "a name in capitals", with(b"X-Test", b"y"), Stream(1, PROTOCOL)),
        ("8.2.2", "a connection-specific field", with(b"connection", b"keep-alive"), Stream(1, PROTOCOL)),
        ("8.2.2", "te other than trailers", with(b"te", b"trailers, deflate"), Stream(1, PROTOCOL)),
        ("8.3", "an unknown pseudo-header", with(b":test", b"y"), Stream(1, PROTOCOL)),
        ("8.3", "a pseudo-header of answers", with(b":status", b"200"), Stream(1, PROTOCOL)),
        ("8.3.1", "a method twice", with(b":method", b"GET"), Stream(1, PROTOCOL)),
        ("8.3.1", "a scheme twice", with(b":scheme", b"https"), Stream(1, PROTOCOL)),
        ("8.3.1", "a path twice", with(b":path", b"/"), Stream(1, PROTOCOL)),
        (
            "8.3.1",
            "an empty path",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&get("app.test", ""))),
            Stream(1, PROTOCOL),
        ),
        (
            "8.4",
            "a promise of a client",
            join(&[ask(1, "/held"), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]),
            Connection(PROTOCOL),
        ),
        (
            "8.5",
            "CONNECT",
            frame(HEADERS, END_HEADERS, 1, &block(&[(b":method", b"CONNECT"), (b":authority", b"app.test:443")])),
            Answer(405),
        ),
    ]);
}

/// RFC 7541. A decoder that lost its table can believe nothing any more: the connection ends.
#[test]
fn header_compression_is_as_rfc_7541_asks() {
    let fields = block(&get("app.test", "/x"));
    let request = |more: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&fields[..], more].concat());
    let first = |before: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[before, &fields[..]].concat());
    // `x: yyy`, kept in the table, then by its index; all of the static table's pseudo-headers by index.
    let kept = join(&[request(b"\x40\x01x\x03yyy\xbe"), frame(PING, 0, 0, &[0; 8])]);
    let indexed = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x87\x84\x41\x08app.test");
    let coded = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x87\x04\x83\x60\xbc\x1f\x41\x08app.test");
    check(vec![
        ("2.3.3", "an index above both tables", request(&[0xc0]), Connection(COMPRESSION)),
        ("2.3.3", "a name's index above both tables", request(&[0x7e, 1, b'y']), Connection(COMPRESSION)),
        ("2.3.2", "an entry of the dynamic table", kept, Answer(200)),
        ("4.2", "a change of the table's size at the front", first(&[0x20]), Answer(200)),
        ("4.2", "two changes of the table's size at the front", first(&[0x20, 0x3f, 0xe1, 0x1f]), Answer(200)),
        ("4.2", "a change of the table's size behind a field", request(&[0x20]), Connection(COMPRESSION)),
        (
            "4.2",
            "an entry after the table was emptied",
            join(&[request(b"\x40\x01x\x03yyy"), frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x20\xbe")]),
            Connection(COMPRESSION),
        ),
        ("5.1", "a number above 2^32", request(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), Connection(COMPRESSION)),
        ("5.1", "a number without its end", request(&[0xff, 0x80]), Connection(COMPRESSION)),
        ("5.2", "a text that is longer than its block", request(&[0, 1, b'x', 100, b'y']), Connection(COMPRESSION)),
        ("5.2", "Huffman code", coded, Answer(200)),
        ("5.2", "Huffman padding of 8 bits", request(&[0, 1, b'x', 0x82, 0x1f, 0xff]), Connection(COMPRESSION)),
        ("5.2", "Huffman padding that is not of ones", request(&[0, 1, b'x', 0x81, 0x18]), Connection(COMPRESSION)),
        (
            "5.2",
            "the end of all text within a text",
            request(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            Connection(COMPRESSION),
        ),
        ("6.1", "index 0", request(&[0x80]), Connection(COMPRESSION)),
        ("6.1", "indexed fields", indexed, Answer(200)),
        ("6.2.3", "a field that is never indexed", request(b"\x10\x01x\x01y"), Answer(200)),
        ("6.3", "a table above what was allowed", first(&[0x3f, 0xe2, 0x1f]), Connection(COMPRESSION)),
    ]);
}
