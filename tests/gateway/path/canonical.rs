//! One canonical path, matched and forwarded (R7). `/admin` is guarded, all else is public: every attack tries to make
//! the gateway read a public path and the upstream a guarded one.

use crate::support::{
    Gateway, Issuer, Upstream,
    gateway::Running,
    http2::{End, Http2, get},
};

fn guarded(upstream: &Upstream) -> Running {
    let issuer = Issuer::hs256();
    Gateway::new()
        .issuer(&issuer)
        .route("/admin/{*rest}", upstream)
        .require_role("admin")
        .route("/{*rest}", upstream)
        .auth(&["none"])
        .start()
}

/// What backends make of a path between them: parameters cut off, decoded, slashes turned and merged, dots resolved,
/// and decoded once more.
fn hostile_readings(path: &str) -> Vec<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let bare: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let once = decoded(&bare.join("/"));
    let twice = decoded(&once);
    [path.to_owned(), once, twice].map(|path| resolved(&path)).to_vec()
}

fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

fn resolved(path: &str) -> String {
    let path = path.split('\0').next().unwrap_or_default().replace('\\', "/");
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

/// R7. Each is refused with 400, or served without the upstream being able to read a guarded path in it.
#[test]
fn no_spelling_of_a_guarded_path_reaches_the_upstream_unguarded() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream);
    let client = gateway.client();
    let mut passed = 0;
    let climbs = [
        "..",
        ".",
        "%2e%2e",
        "%2E%2e",
        ".%2e",
        "%2e.",
        "%2e",
        "..;",
        "..;a=b",
        ".;",
        "%2e%2e;x",
        "..%3b",
        "..%00",
        "..%0a",
        "%252e%252e",
        "%25252e%25252e",
        "%25%32%65%25%32%65",
        "..%5c",
        "..%2f",
        "%c0%ae%c0%ae",
        "\u{ff0e}\u{ff0e}",
        "%uff0e%uff0e",
        "..%c0%af",
        "...",
        "....",
        "",
        ";",
        "%09..",
        "..%20",
        "%20..",
    ];
    let separators = ["/", "//", "\\", "%2f", "%2F", "%5c", "%5C", "%252f", "%255c", "%c0%af", "%e0%80%af", "/./"];
    for climb in climbs {
        for separator in separators {
            for target in [
                format!("/open/{climb}{separator}admin/x"),
                format!("/{climb}{separator}admin/x"),
                format!("/open{separator}{climb}{separator}admin/x"),
                format!("/x;/{climb}/admin{separator}x"),
            ] {
                let answer = client.raw_response(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n"));

                assert!([200, 400, 401].contains(&answer.status), "{target:?}: {answer:?}");
                for seen in upstream.requests() {
                    passed += 1;
                    assert_eq!(answer.status, 200, "{target:?} was refused, and forwarded as {:?}", seen.path);
                    for reading in hostile_readings(&seen.path) {
                        let guarded = reading == "/admin" || reading.starts_with("/admin/");
                        assert!(!guarded, "{target:?} was forwarded as {:?}, read as {reading:?}", seen.path);
                    }
                }
            }
        }
    }
    upstream.expect_only(passed);
    assert!(passed > 0, "harmless ones pass");
}

/// R7.
#[test]
fn paths_without_one_reading_are_refused_with_400() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream);
    let client = gateway.client();
    for (what, target) in [
        ("dot segment", &b"/open/./x"[..]),
        ("climbing", b"/open/../admin/x"),
        ("climbing at the end", b"/open/.."),
        ("encoded climbing", b"/open/%2e%2e/admin/x"),
        ("half encoded climbing", b"/open/.%2E/admin/x"),
        ("encoded dot", b"/open/%2e/x"),
        ("empty segment", b"//admin/x"),
        ("empty segment inside", b"/open//x"),
        ("only slashes", b"//"),
        ("backslash", b"/open\\..\\admin"),
        ("encoded backslash", b"/open%5cx"),
        ("encoded slash", b"/open%2fx"),
        ("encoded slash in capitals", b"/open%2Fx"),
        ("parameter", b"/open;x=y/z"),
        ("parameter on a dot segment", b"/open/..;/admin/x"),
        ("encoded parameter on a dot segment", b"/open/..%3b/admin/x"),
        ("encoded parameter on an encoded dot segment", b"/open/%2e%2e%3Bx/admin/x"),
        ("encoded zero", b"/open%00"),
        ("encoded line end", b"/open%0d%0aX:%20y"),
        ("encoded DEL", b"/open%7f"),
        ("slash encoded twice", b"/open%252fx"),
        ("slash encoded thrice", b"/open%25252fx"),
        ("dot encoded twice", b"/open/%252e%252e/admin"),
        ("dot encoded by encoded digits", b"/open/%25%32%65%25%32%65/admin"),
        ("backslash encoded twice", b"/open%255cx"),
        ("zero encoded twice", b"/open%2500"),
        ("bad percent", b"/open%zz"),
        ("bad percent with a sign", b"/open%+1"),
        ("percent at the end", b"/open%"),
        ("percent and one digit", b"/open%4"),
        ("overlong slash", b"/open%c0%afx"),
        ("encoded surrogate", b"/open%ed%a0%80"),
        ("not UTF-8, encoded", b"/open%ff"),
        ("not UTF-8, raw", b"/open\xff"),
        ("control byte", b"/open\x01"),
        ("tab", b"/open\tx"),
        ("DEL", b"/open\x7f"),
        ("fragment", b"/open#/../admin"),
        ("fragment in the query", b"/open?x#y"),
        ("fragment alone", b"#"),
        ("climbing in absolute form", b"https://app.test/open/../admin/x"),
        ("encoded slash in absolute form", b"https://app.test/open%2fx"),
    ] {
        let answer = client.raw_response([b"GET ", target, b" HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat());

        assert_eq!(answer.status, 400, "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    }
    upstream.expect_only(0);
}

/// R7.
#[test]
fn what_is_matched_is_what_is_forwarded() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream);
    let client = gateway.client();
    let table: [(&[u8], &str); 18] = [
        (b"/", "/"),
        (b"/a/b/", "/a/b/"),
        (b"/%61%62%7e%2D%5f", "/ab~-_"),
        (b"/a%c3%a4", "/a%C3%A4"),
        ("/a\u{e4}".as_bytes(), "/a%C3%A4"),
        (b"/a%20b", "/a%20b"),
        (b"/{a}|^\"", "/%7Ba%7D%7C%5E%22"),
        (b"/a%3bb", "/a%3Bb"),
        (b"/100%25", "/100%25"),
        (b"/a%2520b", "/a%2520b"),
        (b"/...", "/..."),
        (b"/..a/a..", "/..a/a.."),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/a?b=../%2f%00;//\\&c=%zz", "/a?b=../%2f%00;//\\&c=%zz"),
        (b"/a??", "/a??"),
        (b"https://app.test/a?b", "/a?b"),
        (b"https://app.test", "/"),
        (b"https://app.test?a=b", "/?a=b"),
    ];
    for (target, expect) in table {
        // `Upstream` reads targets byte by byte as Latin-1; what is forwarded is ASCII.
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat();
        client.raw_response(request).expect(200);

        assert_eq!(upstream.next_request().path, expect, "{:?}", String::from_utf8_lossy(target));
    }
    upstream.expect_only(table.len());
}

/// R7. The guard is on the decoded path: an encoded letter neither evades nor breaks it.
#[test]
fn encoded_letters_of_a_guarded_path_are_guarded() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream);
    for target in ["/admin", "/admin/", "/admin/x", "/%61dmin/x", "/%61%64%6d%69%6E/x", "/admi%6e", "/admin?x=/open"] {
        gateway.client().get(target).send().expect(401);
        gateway.client().get(target).send_http2().expect(401);
    }
    upstream.expect_only(0);
}

/// R7.
#[test]
fn paths_are_read_alike_over_http2() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream);
    for path in [
        "",
        "*",
        "open",
        "/open/../admin",
        "/open/%2e%2e/admin",
        "//admin",
        "/open\\admin",
        "/open;x",
        "/open%2fx",
        "/open%00",
        "/open%252f",
        "/open x",
        "/open%",
        "https://app.test/admin/x",
        "/open\u{1}",
    ] {
        let end = Http2::connect(&gateway.client()).ask(&get("app.test", path));

        assert!(matches!(end, End::Status(400 | 404) | End::Reset(1) | End::GoAway(1)), "{path:?}: {end:?}");
    }
    upstream.expect_only(0);

    assert_eq!(Http2::connect(&gateway.client()).ask(&get("app.test", "/%6fpen/a%c3%a4?x=..")), End::Status(200));

    assert_eq!(upstream.next_request().path, "/open/a%C3%A4?x=..");
}

/// R7, R18. The library cuts a fragment off before we can see it: then nobody sees it.
#[test]
fn a_fragment_over_http2_is_gone_before_anything_is_decided() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream);
    let ask = |path: &str| Http2::connect(&gateway.client()).ask(&get("app.test", path));

    for path in ["/admin#", "/admin/x#/../open", "/%61dmin#x"] {
        assert_eq!(ask(path), End::Status(401), "{path}");
    }
    upstream.expect_only(0);

    assert_eq!(ask("/open#/../admin"), End::Status(200));
    assert_eq!(ask("/open?a#/admin"), End::Status(200));
    assert_eq!(ask("#/admin"), End::Status(200));
    let paths: Vec<String> = upstream.requests().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/open", "/open?a", "/"]);
}
