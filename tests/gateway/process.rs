//! The real program, told to end: what was begun is finished, nothing new is begun, and the deadline holds.

use std::sync::{Mutex, mpsc};

use crate::support::{
    Gateway, Reply, Upstream, eventually,
    http2::{END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, Http2, block, frame, get, number},
};

/// An upstream that answers `/slow` when it is let go.
fn held(upstream: &Upstream) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    upstream.respond(move |seen| {
        if seen.path == "/slow" {
            // An end of the test lets go as well.
            let _ = released.lock().unwrap().recv();
        }
        Reply::ok("finished")
    });
    release
}

#[test]
fn sigterm_lets_a_request_finish_and_refuses_new_connections() {
    let upstream = Upstream::start();
    let release = held(&upstream);
    let mut gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).start_process();
    let client = gateway.client();
    let mut idle = client.connect();
    idle.send(&client.get("/x")).expect(200);
    let mut busy = client.connect();
    busy.write(&client.get("/slow").bytes()).unwrap();
    eventually("the request is upstream", || upstream.bytes_seen().windows(5).any(|bytes| bytes == b"/slow"));

    gateway.terminate();

    eventually("new connections are refused", || client.try_connect(&["http/1.1"]).is_err());
    assert!(idle.is_closed_by_peer(), "a connection without a request ends at once");
    release.send(()).unwrap();
    assert_eq!(busy.read_response("GET").unwrap().expect(200).text(), "finished");
    assert!(busy.is_closed_by_peer());
    assert_eq!(gateway.wait().code(), Some(0));
    upstream.expect_only(2);
}

/// Over HTTP/2 they are told (RFC 9113 section 6.8), and what was begun is finished all the same.
#[test]
fn sigterm_says_goodbye_to_clients_over_http2_and_finishes_their_streams() {
    let upstream = Upstream::start();
    let release = held(&upstream);
    let mut gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).start_process();
    let [mut idle, mut busy] = [(); 2].map(|()| Http2::connect(&gateway.client()));
    assert_eq!(idle.ask(&get("app.test", "/x")), End::Status(200));
    busy.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&get("app.test", "/slow")))).unwrap();
    eventually("the request is upstream", || upstream.bytes_seen().windows(5).any(|bytes| bytes == b"/slow"));

    gateway.terminate();

    for connection in [&mut idle, &mut busy] {
        let goodbye = loop {
            let frame = connection.read().expect("a frame");
            if frame.kind == GOAWAY {
                break frame.payload;
            }
        };
        assert_eq!(number(&goodbye[4..8]), 0, "nobody is to blame");
    }
    release.send(()).unwrap();
    assert_eq!(busy.end_of(1), End::Status(200));
    for connection in [&mut idle, &mut busy] {
        while connection.read().is_ok() {}
    }
    assert_eq!(gateway.wait().code(), Some(0));
    upstream.expect_only(2);
}

/// What logrotate does: rename, signal, compress.
#[test]
fn log_files_that_were_renamed_are_opened_anew_on_sighup() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().user("alice", "correct horse", &[]).route("/a/{*rest}", &upstream);
    let mut gateway = gateway.auth(&["none"]).start_process();
    let folder = gateway.config().parent().unwrap().to_owned();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let act = |gateway: &crate::support::process::Process, path: &str| {
        gateway.client().get(path).send().expect(200);
        let body = serde_json::json!({ "username": path, "password": "wrong" });
        gateway.client().post("/_auth/login", "").json(&body).send().expect(401);
    };
    act(&gateway, "/a/before");
    eventually("both logs are written", || {
        read("access.log").contains("/a/before") && read("audit.log").contains("login.failed")
    });

    for name in ["access.log", "audit.log"] {
        std::fs::rename(folder.join(name), folder.join(format!("{name}.1"))).unwrap();
    }
    // Also when the configuration is refused.
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), format!("{text}\n[nonsense]\n")).unwrap();
    assert!(gateway.reload().contains("the reload was refused"));
    act(&gateway, "/a/after");
    gateway.terminate();
    gateway.wait();

    assert!(read("access.log").contains("/a/after") && !read("access.log").contains("/a/before"));
    assert!(!read("access.log.1").contains("/a/after"));
    let count = |name: &str, what: &str| read(name).matches(what).count();
    assert_eq!((count("audit.log.1", "login.failed"), count("audit.log", "login.failed")), (1, 1));
    assert_eq!(count("access.log", "/_auth/login") + count("access.log.1", "/_auth/login"), 2, "no line is lost");
    upstream.expect_only(2);
}

#[test]
fn what_does_not_finish_in_time_is_cut() {
    let upstream = Upstream::start();
    let _release = held(&upstream);
    let gateway = Gateway::new().server("drain_timeout = \"300ms\"").route("/{*rest}", &upstream).auth(&["none"]);
    let mut gateway = gateway.start_process();
    let mut busy = gateway.client().connect();
    busy.write(&gateway.client().get("/slow").bytes()).unwrap();
    eventually("the request is upstream", || upstream.bytes_seen().windows(5).any(|bytes| bytes == b"/slow"));

    gateway.terminate();

    assert_eq!(gateway.wait().code(), Some(1), "something was cut, and the exit code says so");
    assert!(busy.read_response("GET").is_err());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let upstream = Upstream::start();
    let _release = held(&upstream);
    let gateway = Gateway::new().server("drain_timeout = \"10m\"").route("/{*rest}", &upstream).auth(&["none"]);
    let mut gateway = gateway.start_process();
    let client = gateway.client();
    let mut busy = client.connect();
    busy.write(&client.get("/slow").bytes()).unwrap();
    eventually("the request is upstream", || upstream.bytes_seen().windows(5).any(|bytes| bytes == b"/slow"));
    gateway.terminate();
    eventually("new connections are refused", || client.try_connect(&["http/1.1"]).is_err());

    gateway.terminate();

    assert_eq!(gateway.wait().code(), Some(1), "something was cut, and the exit code says so");
    assert!(busy.read_response("GET").is_err());
}

#[test]
fn a_program_that_cannot_start_says_why_and_fails() {
    let upstream = Upstream::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = [\"https://{}\"]", taken.local_addr().unwrap());
    let gateway = Gateway::new().server(&listen).route("/{*rest}", &upstream).auth(&["none"]);

    let report = gateway.try_start().map(|_| ()).unwrap_err();

    assert!(report.contains("cannot listen on"), "{report}");
}
