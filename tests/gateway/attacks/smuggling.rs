//! Families of request smuggling, case by case: whatever the client sends, the upstream gets nothing or whole requests
//! that every strict reader reads the same way, and the client gets one answer for each (R18; RFC 9112).
//!
//! `heads`, `bodies` and `http2` hold what is refused for its own sake; here stand messages that two readers could cut
//! differently. What the upstream got is read anew by the parser at the end of this file, which forgives nothing.

use crate::support::{Gateway, Upstream, eventually, gateway::Running, metric_sum};

/// A name, the bytes, the statuses of the answers in their order, and the paths that the upstream is asked for.
type Row<'a> = (&'a str, &'a str, &'a [u16], &'a [&'a str]);

const END: &str = "GET /end HTTP/1.1\r\nHost: app.test\r\n\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";

fn public(upstream: &Upstream) -> Running {
    Gateway::new().server("workers = 1").route("/{*rest}", upstream).auth(&["none"]).start()
}

/// Sends each row with a last request behind it: all answers come, then that of the last request.
fn served(rows: &[Row<'_>]) {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut wrong = Vec::new();
    for (what, message, statuses, paths) in rows {
        let seen = upstream.bytes_seen().len();
        let mut connection = gateway.client().connect();
        connection.write(format!("{message}{END}").as_bytes()).unwrap();
        let method = |number: usize| if number == 0 { message.split(' ').next().unwrap_or("GET") } else { "GET" };

        let answers: Vec<u16> = (0..=statuses.len())
            .map(|number| connection.read_response(method(number)).map_or(0, |answer| answer.status))
            .collect();

        let got = sound(&upstream.bytes_seen()[seen..]).unwrap_or_else(|why| vec![why]);
        if answers != [statuses, &[200][..]].concat() || got != [paths, &["/end"][..]].concat() {
            wrong.push(format!("{what}: {answers:?} and {got:?}, not {statuses:?} and {paths:?}, and the last"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sends each row with a request behind it that must never be read: these answers come, and the end.
fn refused(rows: &[Row<'_>]) {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, message, statuses, paths) in rows {
        gateway.client().get("/before").send().expect(200);
        let seen = upstream.bytes_seen().len();

        let text = gateway.client().raw(format!("{message}{SMUGGLED}"));
        let text = String::from_utf8_lossy(&text);

        let answers: Vec<u16> = text
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| text.get(at + 9..at + 12).and_then(|word| word.parse().ok()).unwrap_or(0))
            .collect();
        assert_eq!(&answers, statuses, "{what}: {text}");
        gateway.client().get("/after").send().expect(200);
        // What breaks within a body has reached the upstream up to there, on a connection that was cut then.
        eventually("nothing is under way", || upstream.open_connections() <= 1);
        let got = upstream.bytes_seen()[seen..].to_vec();
        assert!(!String::from_utf8_lossy(&got).contains("/smuggled"), "{what}");
        let whole: Vec<String> = upstream.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(whole, [&["/before"][..], paths, &["/after"]].concat(), "{what}");
    }
}

/// CL.0 and its kin: a body is a body, for methods, targets and answers that seldom have one, too.
#[test]
fn a_body_is_never_a_request_wherever_it_is_unusual() {
    let length = SMUGGLED.len();
    let with = |method: &str, target: &str, fields: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\n{fields}Content-Length: {length}\r\n\r\n{SMUGGLED}")
    };
    let chunked = |method: &str, target: &str| {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        format!("{head}{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n")
    };
    let mut rows: Vec<(String, String, u16, bool)> = Vec::new();
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "PATCH", "get", "BREW", "SUBSCRIBE"] {
        rows.push((format!("{method} with a length"), with(method, "/x", ""), 200, true));
        rows.push((format!("{method} with chunks"), chunked(method, "/x"), 200, true));
    }
    for method in ["TRACE", "TRACK"] {
        rows.push((format!("{method} with a length"), with(method, "/x", ""), 405, false));
        rows.push((format!("{method} with chunks"), chunked(method, "/x"), 405, false));
    }
    rows.push(("a refused path".into(), with("POST", "/a/../x", ""), 400, false));
    let unknown = with("POST", "/x", "").replace("app.test\r\nContent", "other.test\r\nContent");
    rows.push(("an unknown host".into(), unknown, 421, false));
    // Naming the framing in `Connection` removes nothing that frames.
    for named in ["Content-Length", "close-not, content-length", "Host", "Transfer-Encoding", "X-User-Id, Expect"] {
        rows.push((format!("Connection: {named}"), with("POST", "/x", &format!("Connection: {named}\r\n")), 200, true));
    }
    let h2c = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n";
    for fields in [
        "Expect: 100-continue\r\n",
        h2c,
        "TE: trailers, chunked\r\n",
        "Trailer: Content-Length\r\n",
        "Content_Length: 0\r\n",
        "X-Content-Length: 0\r\n",
        "Content-Encoding: chunked\r\n",
        "TransferEncoding: chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encodin: chunked\r\n",
        "X-Transfer-Encoding: chunked\r\n",
    ] {
        rows.push((fields.to_owned(), with("POST", "/x", fields), 200, true));
    }
    let rows: Vec<Row<'_>> = rows
        .iter()
        .map(|(what, message, status, passes)| {
            let paths: &[&str] = if *passes { &["/x"] } else { &[] };
            (what.as_str(), message.as_str(), std::slice::from_ref(status), paths)
        })
        .collect();
    served(&rows);
}

macro_rules! get {
    ($rest:literal) => {
        concat!("GET /x HTTP/1.1\r\nHost: app.test\r\n", $rest)
    };
}

macro_rules! chunks {
    ($body:literal) => {
        concat!("POST /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n", $body)
    };
}

/// What is unusual and means one thing only is served.
#[test]
fn unusual_messages_that_mean_one_thing_are_served_once() {
    served(&[
        ("an empty line in front", "\r\nGET /x HTTP/1.1\r\nHost: app.test\r\n\r\n", &[200], &["/x"]),
        ("absolute-form", "GET https://app.test/x HTTP/1.1\r\nHost: app.test\r\n\r\n", &[200], &["/x"]),
        ("absolute-form in capitals", "GET HTTPS://APP.TEST/x HTTP/1.1\r\nHost: app.test\r\n\r\n", &[200], &["/x"]),
        ("absolute-form without a path", "GET https://app.test HTTP/1.1\r\nHost: app.test\r\n\r\n", &[200], &["/"]),
        ("no blank behind the colon", "GET /x HTTP/1.1\r\nHost:app.test\r\nA:b\r\n\r\n", &[200], &["/x"]),
        ("blanks around a value", "GET /x HTTP/1.1\r\nHost: \tapp.test \t\r\nA:  b  \r\n\r\n", &[200], &["/x"]),
        ("an empty value", get!("A:\r\n\r\n"), &[200], &["/x"]),
        ("a colon in a value", get!("A: : b: c\r\n\r\n"), &[200], &["/x"]),
        ("bytes above ASCII in a value", get!("A: \u{e4}\u{fc}\r\n\r\n"), &[200], &["/x"]),
        ("zeros before a length", get!("Content-Length: 0000000000000000005\r\n\r\nhello"), &[200], &["/x"]),
        ("zeros before a chunk's size", chunks!("000000000000005\r\nhello\r\n0\r\n\r\n"), &[200], &["/x"]),
        ("many zeros for the last chunk", chunks!("5\r\nhello\r\n000000000000000\r\n\r\n"), &[200], &["/x"]),
        ("extensions", chunks!("5;a;b=c;d=\"e\"\r\nhello\r\n0;f\r\n\r\n"), &[200], &["/x"]),
        ("sizes in both cases", chunks!("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), &[200], &["/x"]),
        ("chunks that look like framing", chunks!("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"), &[200], &["/x"]),
        (
            "trailers that look like framing",
            chunks!("0\r\nContent-Length: 50\r\nTransfer-Encoding: gzip\r\nHost: other.test\r\n\r\n"),
            &[200],
            &["/x"],
        ),
        ("two requests at once", get!("\r\nGET /y HTTP/1.1\r\nHost: app.test\r\n\r\n"), &[200, 200], &["/x", "/y"]),
        ("an expectation that nobody knows", get!("Expect: a-miracle\r\n\r\n"), &[200], &["/x"]),
    ]);
}

/// CL.TE, TE.CL, TE.TE, CL.CL, 0.CL: heads that two readers cut differently.
#[test]
fn heads_that_two_readers_cut_differently_are_refused() {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let post = |fields: &str| format!("POST /x HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n0\r\n\r\n");
    let rows: Vec<(&str, String)> = [
        ("TE.TE: a second coding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n"),
        ("TE.TE: behind a vertical tab", "Transfer-Encoding:\x0bchunked\r\n"),
        ("TE.TE: before a vertical tab", "Transfer-Encoding: chunked\x0b\r\n"),
        ("TE.TE: behind a tab and a line end", "Transfer-Encoding:\t\r\n chunked\r\n"),
        ("TE.TE: behind a bare CR", "Transfer-Encoding: \rchunked\r\n"),
        ("TE.TE: a name that ends with CR", "Transfer-Encoding\r: chunked\r\n"),
        ("TE.TE: a name that ends with LF", "Transfer-Encoding\n: chunked\r\n"),
        ("TE.TE: a name that begins with a vertical tab", "\x0bTransfer-Encoding: chunked\r\n"),
        ("TE.TE: a name before a zero", "Transfer-Encoding\0: chunked\r\n"),
        ("TE.TE: a name behind a colon", ":Transfer-Encoding: chunked\r\n"),
        ("TE.TE: two colons", "Transfer-Encoding:: chunked\r\n"),
        ("TE.TE: an equals sign", "Transfer-Encoding: =chunked\r\n"),
        ("TE.TE: single quotes", "Transfer-Encoding: 'chunked'\r\n"),
        ("TE.TE: behind a line separator", "Transfer-Encoding: \u{2028}chunked\r\n"),
        ("TE.TE: behind a no-break space", "Transfer-Encoding:\u{a0}chunked\r\n"),
        ("TE.TE: a blank inside", "Transfer-Encoding: chun ked\r\n"),
        ("TE.TE: hidden behind a bare LF", "X: a\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("CL.CL: hidden behind a bare CR", "Content-Length: 5\rX: y\r\n"),
        ("CL.CL: a vertical tab", "Content-Length:\x0b5\r\n"),
        ("CL.CL: a no-break space", "Content-Length: 5\u{a0}\r\n"),
        ("CL.CL: a comma and nothing", "Content-Length: 5,\r\n"),
        ("CL.CL: an underscore", "Content-Length: 5_0\r\n"),
        ("CL.CL: a separator of thousands", "Content-Length: 5,000\r\n"),
        ("CL.CL: octal", "Content-Length: 0o5\r\n"),
        ("CL.CL: 20 digits", "Content-Length: 00000000000000000005\r\n"),
        ("CL.CL: quotes", "Content-Length: \"5\"\r\n"),
        ("CL.CL: a semicolon", "Content-Length: 5;\r\n"),
        ("0.CL: a name with a blank in front", " Content-Length: 5\r\n"),
        ("0.CL: a name with a zero in front", "\0Content-Length: 5\r\n"),
        ("0.CL: folded", "Content-Length:\r\n 5\r\n"),
        ("0.CL: folded behind another", "X: y\r\n\tContent-Length: 5\r\n"),
    ]
    .into_iter()
    .map(|(what, fields)| (what, post(fields)))
    .chain([
        ("CR CR LF", "GET /x HTTP/1.1\r\nHost: app.test\r\r\n\r\n".to_owned()),
        ("LF CR", "GET /x HTTP/1.1\r\nHost: app.test\n\r\n".to_owned()),
        ("an end of CR LF CR", "GET /x HTTP/1.1\r\nHost: app.test\r\n\r".to_owned()),
        ("a zero behind the head's last line", "GET /x HTTP/1.1\r\nHost: app.test\r\n\0\r\n".to_owned()),
        ("a vertical tab for a blank", "GET\x0b/x HTTP/1.1\r\nHost: app.test\r\n\r\n".to_owned()),
        ("a no-break space for a blank", "GET\u{a0}/x HTTP/1.1\r\nHost: app.test\r\n\r\n".to_owned()),
        ("a colon behind the method", "GET: /x HTTP/1.1\r\nHost: app.test\r\n\r\n".to_owned()),
        ("authority-form", get("app.test:443")),
        ("user information", get("https://user@app.test/x")),
        ("another scheme", get("ftp://app.test/x")),
        ("no authority", get("https:///x")),
        ("a fragment", get("/x#y")),
        ("a request in the target", "GET /x%20HTTP/1.1\r\nHost: app.test\r\n\r\n HTTP/1.1\r\n\r\n".to_owned()),
        ("a request line alone", "GET /x HTTP/1.1\r\n Host: app.test\r\n\r\n".to_owned()),
        ("a status line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a PROXY line", format!("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n{END}")),
    ])
    .chain(
        ["HTTP/1.1x", "HTTP/01.1", "HTTP/1.01", "HTTP/11", "HTTP/1", "HTTP/-1.1", "HTTP/1.1\0", "HTP/1.1", "ICAP/1.0"]
            .map(|version| (version, format!("GET /x {version}\r\nHost: app.test\r\n\r\n"))),
    )
    .collect();
    let rows: Vec<Row<'_>> =
        rows.iter().map(|(what, message)| (*what, message.as_str(), &[400][..], &[][..])).collect();
    refused(&rows);
}

/// TERM.EXT, EXT.TERM, TERM.SPILL and SPILL.TERM, ONE.TWO: chunk lines and ends that two readers cut differently.
#[test]
fn chunks_that_two_readers_cut_differently_break_off() {
    let head = "POST /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let hidden = format!("{:x}", SMUGGLED.len());
    let rows: Vec<(&str, String)> = vec![
        ("EXT.TERM: LF ends an extension", format!("{head}5;\nhello\r\n0\r\n\r\n")),
        ("EXT.TERM: LF within an extension", format!("{head}2;a\nxx\r\n{hidden}\r\n0\r\n\r\n")),
        ("TERM.EXT: CR within an extension", format!("{head}2;a\rxx\r\n0\r\n\r\n")),
        ("TERM.EXT: CR CR LF", format!("{head}5\r\r\nhello\r\n0\r\n\r\n")),
        ("TERM.EXT: LF ends a size", format!("{head}5\nhello\r\n0\r\n\r\n")),
        ("TERM.EXT: a vertical tab ends a size", format!("{head}5\x0b\r\nhello\r\n0\r\n\r\n")),
        ("TERM.EXT: a zero ends a size", format!("{head}5\0\r\nhello\r\n0\r\n\r\n")),
        ("EXT: a blank before it", format!("{head}5 ;a=b\r\nhello\r\n0\r\n\r\n")),
        ("EXT: a blank within it", format!("{head}5;a = b\r\nhello\r\n0\r\n\r\n")),
        ("EXT: a quoted line end", format!("{head}5;a=\"\n\"\r\nhello\r\n0\r\n\r\n")),
        ("EXT: without end", format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000))),
        ("TERM.SPILL: two other bytes end the data", format!("{head}5\r\nhelloXX0\r\n\r\n")),
        ("TERM.SPILL: LF CR ends the data", format!("{head}5\r\nhello\n\r0\r\n\r\n")),
        ("ONE.TWO: LF ends the data", format!("{head}5\r\nhello\n0\r\n\r\n")),
        ("TWO.ONE: CR ends the data", format!("{head}5\r\nhello\r0\r\n\r\n")),
        ("ZERO.TWO: nothing ends the data", format!("{head}5\r\nhello0\r\n\r\n")),
        ("SPILL: more data than the size", format!("{head}5\r\nhelloo\r\n0\r\n\r\n")),
        ("a size with an underscore", format!("{head}0_5\r\nhello\r\n0\r\n\r\n")),
        ("a size with a comma", format!("{head}5,5\r\nhello\r\n0\r\n\r\n")),
        ("a size with 0X", format!("{head}0X5\r\nhello\r\n0\r\n\r\n")),
        ("a size in other digits", format!("{head}\u{ff15}\r\nhello\r\n0\r\n\r\n")),
        ("a size of 16 digits", format!("{head}0000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("a size below 0", format!("{head}-5\r\nhello\r\n0\r\n\r\n")),
        ("a last chunk below 0", format!("{head}5\r\nhello\r\n-0\r\n\r\n")),
        ("a last chunk of LF", format!("{head}5\r\nhello\r\n0\n\r\n")),
        ("a last line of CR", format!("{head}5\r\nhello\r\n0\r\n\rX")),
        ("a trailer with LF", format!("{head}5\r\nhello\r\n0\r\nX: y\n\r\n")),
        ("a trailer with CR", format!("{head}5\r\nhello\r\n0\r\nX: y\rZ: a\r\n\r\n")),
        ("a trailer before a vertical tab", format!("{head}5\r\nhello\r\n0\r\nX\x0b: y\r\n\r\n")),
        ("a trailer without a colon", format!("{head}5\r\nhello\r\n0\r\nX\r\n\r\n")),
    ];
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, message) in &rows {
        let before = metric_sum(&gateway.telemetry(), "portcullis_malformed_total");
        let text = gateway.client().raw(format!("{message}{SMUGGLED}"));
        let text = String::from_utf8_lossy(&text);

        assert!(!text.contains("HTTP/1.1 200") && text.matches("HTTP/1.1 ").count() <= 1, "{what}: {text}");
        gateway.client().get("/after").send().expect(200);
        assert_eq!(upstream.next_request().path, "/after", "{what}");
        assert_eq!(
            metric_sum(&gateway.telemetry(), "portcullis_malformed_total"),
            before + 1.0,
            "{what}: it is counted once"
        );
    }
    assert!(!String::from_utf8_lossy(&upstream.bytes_seen()).contains("GET /smuggled"));
    assert_eq!(upstream.request_count(), rows.len());
}

/// What all requests in these bytes ask for, if they are sound to the last byte.
fn sound(mut bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").ok_or("a head breaks off")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, path, "HTTP/1.1"] = words[..] else { return Err(format!("a request line of {words:?}")) };
        let token = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !token(method) || !path.starts_with('/') && path != "*" {
            return Err(format!("{method} {path}"));
        }
        let (mut hosts, mut lengths, mut codings) = (0, Vec::new(), Vec::new());
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or_else(|| format!("a field of {line:?}"))?;
            if !token(name) || value.trim() != value || value.chars().any(|byte| byte < ' ' || byte == '\x7f') {
                return Err(format!("a field of {line:?}"));
            }
            match name.to_ascii_lowercase().as_str() {
                "host" => hosts += 1,
                "content-length" => lengths.push(value.to_owned()),
                "transfer-encoding" => codings.push(value.to_owned()),
                "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade" | "http2-settings" => {
                    return Err(format!("{line:?} is not for the upstream"));
                }
                _ => {}
            }
        }
        if hosts != 1 {
            return Err(format!("{hosts} hosts"));
        }
        match (&lengths[..], &codings[..]) {
            ([], []) => {}
            ([length], []) => {
                let count: usize = length.parse().map_err(|_| format!("a length of {length:?}"))?;
                if count.to_string() != *length || bytes.len() < count {
                    return Err(format!("a length of {length:?} before {} bytes", bytes.len()));
                }
                bytes = &bytes[count..];
            }
            ([], [coding]) if coding == "chunked" => bytes = behind_chunks(bytes)?,
            framing => return Err(format!("framing of {framing:?}")),
        }
        all.push(path.to_owned());
    }
    Ok(all)
}

/// What stands behind a chunked body without extensions and trailers.
fn behind_chunks(mut bytes: &[u8]) -> Result<&[u8], String> {
    loop {
        let end = memchr::memmem::find(bytes, b"\r\n").ok_or("a chunk line breaks off")?;
        let digits = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let size = usize::from_str_radix(&digits, 16).map_err(|_| format!("a size of {digits:?}"))?;
        if !format!("{size:x}").eq_ignore_ascii_case(&digits) {
            return Err(format!("a size of {digits:?}"));
        }
        let rest = &bytes[end + 2..];
        match rest.get(size..size + 2) {
            Some(b"\r\n") if size == 0 => return Ok(&rest[2..]),
            Some(b"\r\n") => bytes = &rest[size + 2..],
            _ => return Err(format!("a chunk of {size} bytes without its end")),
        }
    }
}
