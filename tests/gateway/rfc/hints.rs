//! Early hints (RFC 8297): what of an upstream's `103` reaches which clients, when, and what never does.

use std::{
    io::Write,
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response as Head;

use crate::support::{
    Gateway, Issuer, Reply, Upstream,
    gateway::Running,
    http2::{self, END_HEADERS, END_STREAM, End, HEADERS, Http2, RST_STREAM, block, frame, get},
    program::found,
    upstream_http2::{Http2Upstream, read_all},
    websocket::{self, open},
};

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

fn before(server: &str) -> Running {
    let route = format!("servers = [{server:?}]");
    Gateway::new().server("workers = 1").route_to("path = \"/{*rest}\"", &route).auth(&["none"]).start()
}

/// What a client over HTTP/2 gets for one request: the links of each hint, and the answer.
fn over_http2(gateway: &Running, targets: &[&str]) -> Vec<(Vec<Vec<String>>, String)> {
    let links = |(status, fields): (u16, Vec<(String, String)>)| {
        assert_eq!(status, 103);
        assert!(fields.iter().all(|(name, _)| name == "link"), "{fields:?}");
        fields.into_iter().map(|(_, value)| value).collect()
    };
    let all = gateway.client().get_together(targets).into_iter();
    all.map(|one| {
        assert_eq!(one.status, 200);
        (one.interim.into_iter().map(links).collect(), String::from_utf8(one.body).expect("text"))
    })
    .collect()
}

fn answering(bytes: impl Into<Vec<u8>>) -> Upstream {
    let (upstream, bytes) = (Upstream::start(), bytes.into());
    upstream.respond(move |_| Reply::raw(bytes.clone()));
    upstream
}

/// The whole conversation over one connection, as text: what the client gets for `request`.
fn conversation(gateway: &Running, request: &str) -> String {
    let last = request.replace("Host: app.test\r\n", "Host: app.test\r\nConnection: close\r\n");
    String::from_utf8(gateway.client().raw(last)).expect("text")
}

#[test]
fn links_of_a_hint_and_nothing_else_come_before_the_answer() {
    let http1 = answering(format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nSet-Cookie: a=b\r\nX-User-Id: root\r\n\
         Content-Length: 5\r\nContent-Security-Policy: default-src *\r\nlink: <https://b.test>; rel=preconnect\r\n\r\n{OK}"
    ));
    let http2 = Http2Upstream::start(|_, mut respond: SendResponse<Bytes>| async move {
        let hint = Head::builder().status(103).header("link", "</a.css>; rel=preload").header("set-cookie", "a=b");
        let hint = hint.header("link", "<https://b.test>; rel=preconnect").body(()).expect("a head");
        respond.send_informational(hint).expect("a client");
        let answer = Head::builder().header("content-length", "2").body(()).expect("a head");
        respond.send_response(answer, false).expect("a client").send_data("ok".into(), true).expect("a client");
    });
    for server in [http1.url(), http2.url()] {
        let got = conversation(&before(&server), GET);

        let rest = got.strip_prefix(
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: <https://b.test>; rel=preconnect\r\n\r\n",
        );
        let rest = rest.unwrap_or_else(|| panic!("{server}: {got}"));
        assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("ok"), "{server}: {rest}");

        let links = ["</a.css>; rel=preload", "<https://b.test>; rel=preconnect"].map(str::to_owned).to_vec();
        assert_eq!(over_http2(&before(&server), &["/"]), [(vec![links], "ok".to_owned())], "{server}");
    }
}

/// Each stream is told what its own upstream said, whatever else is under way on the connection.
#[test]
fn each_of_many_streams_gets_its_own_hints() {
    let http1 = Upstream::start();
    http1.respond(|seen| {
        let hint = |number| format!("HTTP/1.1 103 Early Hints\r\nLink: <{}/{number}>\r\n\r\n", seen.path);
        let length = seen.path.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", seen.path);
        Reply::raw((0..3).map(hint).collect::<String>() + &answer)
    });
    let http2 = Http2Upstream::start(|request, mut respond: SendResponse<Bytes>| async move {
        let path = request.uri().path().to_owned();
        for number in 0..3 {
            let hint = Head::builder().status(103).header("link", format!("<{path}/{number}>")).body(());
            respond.send_informational(hint.expect("a head")).expect("a client");
        }
        let mut stream = respond.send_response(Head::new(()), false).expect("a client");
        stream.send_data(path.into(), true).expect("a client");
    });
    let targets: Vec<String> = (0..40).map(|number| format!("/{number}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    for server in [http1.url(), http2.url()] {
        for ((hints, body), target) in over_http2(&before(&server), &targets).into_iter().zip(&targets) {
            let expect: Vec<_> = (0..3).map(|number| vec![format!("<{target}/{number}>")]).collect();
            assert_eq!((hints, body), (expect, (*target).to_owned()), "{server}");
        }
    }
}

/// A hint over HTTP/2 is there while its upstream still thinks; what comes for a stream that its client has reset is
/// said to nobody, and the connection goes on.
#[test]
fn a_stream_is_hinted_at_until_its_client_resets_it() {
    let (go, goes) = mpsc::channel::<()>();
    let goes = Arc::new(Mutex::new(goes));
    let upstream = Upstream::start();
    upstream.respond(move |seen| {
        let goes = Arc::clone(&goes);
        if seen.path != "/held" {
            return Reply::raw([HINT, OK].concat());
        }
        Reply::take_over(move |stream| {
            let _ = stream.write_all(HINT.as_bytes());
            let _ = goes.lock().expect("no test failed").recv();
            let _ = stream.write_all([HINT, OK].concat().as_bytes());
        })
    });
    let gateway = before(&upstream.url());
    let mut connection = Http2::connect(&gateway.client());
    let ask = |stream, path| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("app.test", path)));
    connection.write(&ask(1, "/held")).expect("it is sent");
    let heads = |connection: &mut Http2, stream| loop {
        let frame = connection.read().expect("the connection goes on");
        if frame.kind == HEADERS {
            assert_eq!(frame.stream, stream);
            break frame.flags & END_STREAM;
        }
    };
    assert_eq!(heads(&mut connection, 1), 0, "the hint, while the answer is awaited");

    connection.write(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).expect("it is sent");
    assert!(connection.is_alive());
    go.send(()).expect("the upstream waits");

    connection.write(&ask(3, "/next")).expect("it is sent");
    assert_eq!(heads(&mut connection, 3), 0, "its hint");
    assert_eq!(connection.end_of(3), End::Status(200));
    assert!(connection.is_alive());
}

/// RFC 9113 section 8.1: nothing but trailers comes behind the head of an answer.
#[test]
fn no_hint_comes_behind_the_answer() {
    let upstream =
        answering(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{HINT}"));
    let gateway = before(&upstream.url());
    for _ in 0..3 {
        assert_eq!(over_http2(&gateway, &["/"]), [(vec![], "ok".to_owned())]);
    }
    let refused = Gateway::new().issuer(&Issuer::es256()).route("/{*rest}", &answering([HINT, OK].concat())).start();
    let got = refused.client().get_together(&["/", "/no"]);
    assert!(got.iter().all(|one| one.status == 401 && one.interim.is_empty()), "{got:?}");
}

#[test]
fn a_hint_does_not_wait_for_the_answer_nor_for_the_end_of_the_request() {
    let (go, goes) = mpsc::channel::<()>();
    let goes = Arc::new(Mutex::new(goes));
    let upstream = Upstream::start();
    upstream.respond_early(move |_| {
        let goes = Arc::clone(&goes);
        Some(Reply::take_over(move |stream| {
            let _ = stream.write_all(HINT.as_bytes());
            let _ = goes.lock().expect("no test failed").recv();
            let _ = std::io::Read::read_exact(stream, &mut [0; 5]);
            let _ = stream.write_all(OK.as_bytes());
        }))
    });
    let gateway = before(&upstream.url());
    let mut connection = gateway.client().connect();
    connection.write(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\n").expect("it is sent");

    assert_eq!(connection.read_exactly(HINT.len()).expect("a hint"), HINT.as_bytes());

    go.send(()).expect("the upstream waits");
    connection.write(b"hello").expect("it is sent");
    assert_eq!(connection.read_response("POST").expect("an answer").expect(200).text(), "ok");
}

#[test]
fn several_hints_come_in_their_order_and_their_number_and_size_are_bounded() {
    let hint = |value: &str| format!("HTTP/1.1 103 Early Hints\r\nLink: {value}\r\n\r\n");
    let many: String = (0..30).map(|number| hint(&format!("</{number}>"))).collect();
    let got = conversation(&before(&answering(many.clone() + OK).url()), GET);
    let (hints, answer) = got.split_once("HTTP/1.1 200 OK").expect("an answer");
    let expect: String = (0..16).map(|n| format!("HTTP/1.1 103 Early Hints\r\nlink: </{n}>\r\n\r\n")).collect();
    assert_eq!(hints, expect);
    assert!(answer.ends_with("ok"));
    let got = over_http2(&before(&answering(many + OK).url()), &["/"]);
    assert_eq!(got[0].0, (0..16).map(|number| vec![format!("</{number}>")]).collect::<Vec<_>>());

    let large = hint(&format!("</{}>", "x".repeat(9_000))) + &hint("</small>") + OK;
    let got = conversation(&before(&answering(large).url()), GET);
    assert!(got.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </small>\r\n\r\nHTTP/1.1 200 OK"), "{got}");
}

#[test]
fn no_other_interim_answer_and_no_other_value_passes() {
    for interim in [
        "HTTP/1.1 100 Continue\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 104 Upload\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink:\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </\u{e9}>\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nConnection: link\r\nLink: </a>\r\n\r\n",
    ] {
        let got = conversation(&before(&answering([interim, OK].concat()).url()), GET);
        assert!(got.starts_with("HTTP/1.1 200 OK"), "{interim:?}: {got}");
        let got = over_http2(&before(&answering([interim, OK].concat()).url()), &["/"]);
        assert_eq!(got, [(vec![], "ok".to_owned())], "{interim:?}");
    }
    // What ends a line within a value is no head at all.
    let split = "HTTP/1.1 103 Early Hints\r\nLink: </a>\rSet-Cookie: a=b\r\n\r\n";
    let got = conversation(&before(&answering([split, OK].concat()).url()), GET);
    assert!(got.starts_with("HTTP/1.1 502"), "{got}");
}

#[test]
fn whoever_knows_no_interim_answers_or_asks_for_a_tunnel_is_not_hinted_at() {
    let upstream = Upstream::start();
    upstream.respond(|seen| match seen.header("sec-websocket-key") {
        Some(key) => {
            let switching = websocket::SWITCHING.replace(websocket::ACCEPT, &websocket::accept_of(key));
            Reply::raw([HINT, &switching].concat())
        }
        None => Reply::raw([HINT, OK].concat()),
    });
    let gateway = Gateway::new()
        .route("/ws", &upstream)
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .route("/{*rest}", &upstream)
        .auth(&["none"])
        .start();

    assert_eq!(gateway.client().get("/").send().expect(200).interim, [103]);
    let old = conversation(&gateway, "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert!(old.contains(" 200 OK\r\n") && !old.contains("103"), "{old}");
    let (switched, _) = open(&gateway.client().get("/ws"), false);
    assert_eq!((switched.status, switched.interim), (101, vec![]));

    // A stream as a tunnel: the first head that comes is the one that opens it.
    let mut connection = Http2::connect(&gateway.client());
    let mut connect = get("app.test", "/ws");
    connect[0].1 = b"CONNECT";
    connect.extend([(&b":protocol"[..], &b"websocket"[..]), (b"sec-websocket-version", b"13")]);
    connection.write(&frame(HEADERS, END_HEADERS, 1, &block(&connect))).expect("it is sent");
    let head = loop {
        let frame = connection.read().expect("the connection goes on");
        if frame.kind == HEADERS {
            break frame;
        }
    };
    assert_eq!(http2::status(&head.payload), 200);
}

#[test]
fn a_request_that_is_refused_is_not_hinted_at() {
    let upstream = answering([HINT, OK].concat());
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();

    let refused = gateway.client().get("/").send();
    assert_eq!((refused.status, refused.interim), (401, vec![]));
    upstream.expect_only(0);

    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    assert_eq!(gateway.client().get("/").bearer(&token).send().expect(200).interim, [103]);
}

#[test]
fn a_route_that_sets_links_itself_passes_no_hint() {
    let upstream = answering([HINT, OK].concat());
    for (edit, expect) in [("remove = [\"Link\"]", &[][..]), ("remove = [\"X-Other\"]", &[103][..])] {
        let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]);
        let gateway = gateway.key(&format!("response_headers = {{ {edit} }}")).start();
        assert_eq!(gateway.client().get("/").send().expect(200).interim, expect, "{edit}");
    }
}

/// No hint stands within an answer: that of the next request waits until the last byte before it is out.
#[test]
fn hints_of_pipelined_requests_stand_between_the_answers() {
    const LARGE: usize = 4 << 20;
    let upstream = Upstream::start();
    upstream.respond(|seen| {
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", seen.path);
        let body = vec![b'x'; if seen.path == "/0" { LARGE } else { 3 }];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Reply::raw([hint.as_bytes(), head.as_bytes(), &body].concat())
    });
    let gateway = before(&upstream.url());
    let mut connection = gateway.client().connect();
    let requests: String = (0..4).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: app.test\r\n\r\n")).collect();

    connection.write(requests.as_bytes()).expect("it is sent");

    for number in 0..4 {
        let hint = format!("HTTP/1.1 103 Early Hints\r\nlink: </{number}>\r\n\r\n");
        let got = connection.read_exactly(hint.len()).expect("a hint");
        assert_eq!(String::from_utf8_lossy(&got), hint);
        let answer = connection.read_response("GET").expect("an answer").expect(200);
        assert_eq!((answer.body.len(), answer.interim.len()), (if number == 0 { LARGE } else { 3 }, 0), "{number}");
        assert!(answer.body.iter().all(|byte| *byte == b'x'), "{number}");
    }
}

/// Both are interim answers, and both come whole.
#[test]
fn a_hint_and_a_100_stand_beside_each_other() {
    let http2 = Http2Upstream::start(|request, mut respond: SendResponse<Bytes>| async move {
        for status in [103, 100, 103] {
            let interim = Head::builder().status(status).header("link", "</a>").body(()).expect("a head");
            respond.send_informational(interim).expect("a client");
        }
        let body = read_all(request.into_body()).await;
        respond.send_response(Head::new(()), false).expect("a client").send_data(body.into(), true).expect("a client");
    });
    let gateway = before(&http2.url());
    let mut connection = gateway.client().connect();
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    connection.write(head.as_bytes()).expect("it is sent");

    let mut interim = [(); 3].map(|()| connection.read_interim().expect("an interim answer"));
    interim.sort_unstable();
    assert_eq!(interim, [100, 103, 103]);

    connection.write(b"hello").expect("it is sent");
    assert_eq!(connection.read_response("POST").expect("an answer").expect(200).text(), "hello");
}

#[test]
fn curl_sees_the_hint_and_the_answer() {
    if found("curl").is_none() {
        return;
    }
    let upstream = answering([HINT, OK].concat());
    let gateway = before(&upstream.url());
    let authority = gateway.folder().join("authority.pem");
    std::fs::write(&authority, gateway.pki().authority_pem()).expect("a file");
    let address = gateway.addresses().gateway[0];
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["-sS", "-i", version, "--resolve", &format!("app.test:{}:127.0.0.1", address.port()), "--cacert"])
            .arg(&authority)
            .arg(format!("https://app.test:{}/", address.port()))
            .output()
            .expect("curl runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("103") && said.contains("link: </a.css>; rel=preload"), "{version}: {said}");
        assert!(said.contains(" 200") && said.ends_with("ok"), "{version}: {said}");
    }
}
