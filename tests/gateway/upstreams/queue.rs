//! An upstream that takes only so many requests at once: who waits, for how long, and that every turn comes back.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use crate::support::{
    Client, Gateway, Reply, Response, Upstream, eventually,
    gateway::Running,
    metric_sum, patience,
    upstream_http2::Http2Upstream,
    websocket::{self, echoes},
};

/// A server whose `/held` answers when it is told to, one by one; everything else at once.
struct Held {
    upstream: Upstream,
    go: Sender<()>,
    arrivals: Receiver<String>,
}

impl Held {
    fn start() -> Self {
        let upstream = Upstream::start();
        let (go, told) = mpsc::channel::<()>();
        let (came, arrivals) = mpsc::channel();
        let told: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(told));
        upstream.respond(move |seen| match seen.path.as_str() {
            "/ws" => websocket::echo(seen),
            path if path.starts_with("/held") => {
                let _ = came.send(path.to_owned());
                let _ = told.lock().unwrap().recv();
                Reply::ok(path)
            }
            path => Reply::ok(path),
        });
        Self { upstream, go, arrivals }
    }

    fn gateway(&self, lines: &str) -> Running {
        Gateway::new()
            .route("/{*rest}", &self.upstream)
            .upstream_key(lines)
            .auth(&["none"])
            .key("upgrade = [\"websocket\"]")
            .start()
    }

    /// Begins a request and waits until it has arrived.
    fn hold(&self, client: &Client, path: &str) -> thread::JoinHandle<Response> {
        let asking = self.ask(client, path);
        assert_eq!(self.arrivals.recv_timeout(patience()).unwrap(), path);
        asking
    }

    /// Begins a request.
    fn ask(&self, client: &Client, path: &str) -> thread::JoinHandle<Response> {
        let request = client.get(path);
        thread::spawn(move || request.send())
    }
}

fn pending(gateway: &Running) -> f64 {
    metric_sum(&gateway.telemetry(), "portcullis_upstream_pending")
}

fn refused(gateway: &Running, reason: &str) -> f64 {
    gateway.metric("portcullis_upstream_queue_refused_total", &[("upstream", "u0"), ("reason", reason)])
}

#[test]
fn one_too_many_waits_and_what_is_beyond_is_503() {
    let held = Held::start();
    let gateway = held.gateway("max_requests = 2\nmax_pending = 1\nqueue_timeout = \"1m\"");
    let client = gateway.client();
    let under_way = ["/held/1", "/held/2"].map(|path| held.hold(&client, path));
    let waiting = held.ask(&client, "/waits");
    eventually("it waits", || pending(&gateway) == 1.0);

    let beyond = client.get("/beyond").send().expect(503);

    assert_eq!((beyond.header("retry-after"), beyond.json()["error"].as_str()), (Some("5"), Some("upstream_busy")));
    assert_eq!(gateway.access_line("/beyond")["detail"], "queue_full");
    assert_eq!(refused(&gateway, "full"), 1.0);
    assert_eq!(held.upstream.request_count(), 0, "none is answered yet");
    held.go.send(()).unwrap();
    assert_eq!(waiting.join().unwrap().expect(200).text(), "/waits");
    held.go.send(()).unwrap();
    under_way.into_iter().for_each(|one| drop(one.join().unwrap().expect(200)));
    assert_eq!(pending(&gateway), 0.0);
    held.upstream.expect_only(3);
}

#[test]
fn who_waits_too_long_gets_503_and_so_does_the_routes_time() {
    let held = Held::start();
    let gateway = Gateway::new()
        .route("/{*rest}", &held.upstream)
        .upstream_key("max_requests = 1\nqueue_timeout = \"200ms\"")
        .auth(&["none"])
        .route("/timed", &held.upstream)
        .auth(&["none"])
        .start();
    let client = gateway.client();
    let first = held.hold(&client, "/held");

    client.get("/late").send().expect(503);
    client.get("/timed").send().expect(200);

    assert_eq!(gateway.access_line("/late")["detail"], "queue_timeout");
    assert_eq!((refused(&gateway, "timeout"), pending(&gateway)), (1.0, 0.0));
    held.go.send(()).unwrap();
    first.join().unwrap().expect(200);
    client.get("/again").send().expect(200);
}

#[test]
fn the_routes_time_counts_while_it_waits() {
    let held = Held::start();
    // Whoever is before it has all the time there is.
    let late = "[[route]]\nname = \"late\"\nmatch = { path = \"/late\" }\nauth = [\"none\"]\n\
                upstream = \"u0\"\ntotal_timeout = \"3s\"";
    let gateway = Gateway::new()
        .route("/{*rest}", &held.upstream)
        .upstream_key("max_requests = 1\nqueue_timeout = \"1m\"")
        .auth(&["none"])
        .table(late)
        .start();
    let client = gateway.client();
    let first = held.hold(&client, "/held");

    client.get("/late").send().expect(504);

    assert_eq!(gateway.access_line("/late")["detail"], "total_timeout");
    held.go.send(()).unwrap();
    first.join().unwrap().expect(200);
    client.get("/late").send().expect(200);
}

/// A client that leaves takes its place with it, waiting or under way.
#[test]
fn who_leaves_leaves_nothing_behind() {
    let held = Held::start();
    let gateway = held.gateway("max_requests = 1\nmax_pending = 1\nqueue_timeout = \"1m\"");
    let client = gateway.client();
    for round in 0..3 {
        let path = format!("/held/{round}");
        let mut under_way = client.connect();
        under_way.write(&client.get(&path).bytes()).unwrap();
        assert_eq!(held.arrivals.recv_timeout(patience()).unwrap(), path);
        let mut waiting = client.connect();
        waiting.write(&client.get("/waits").bytes()).unwrap();
        eventually("it waits", || pending(&gateway) == 1.0);

        waiting.cut();
        eventually("it is gone", || pending(&gateway) == 0.0);
        let next = held.ask(&client, "/next");
        eventually("the next one waits", || pending(&gateway) == 1.0);
        under_way.cut();
        next.join().unwrap().expect(200);
        held.go.send(()).unwrap();
    }
    assert_eq!((refused(&gateway, "full"), refused(&gateway, "timeout")), (0.0, 0.0));
}

#[test]
fn an_open_websocket_has_its_turn_until_it_ends() {
    let held = Held::start();
    let gateway = held.gateway("max_requests = 1\nqueue_timeout = \"200ms\"");
    let client = gateway.client();
    let mut tunnel = websocket::tunnel_to(&client, "/ws");

    client.get("/late").send().expect(503);
    assert!(echoes(&mut tunnel));
    tunnel.cut();

    eventually("its turn is the next one's", || client.get("/next").send().status == 200);
}

#[test]
fn a_body_that_streams_has_its_turn_until_its_end() {
    let upstream = Upstream::start();
    let (go, told) = mpsc::channel::<()>();
    let told = Mutex::new(Some(told));
    upstream.respond(move |_| match told.lock().unwrap().take() {
        Some(told) => Reply::take_over(move |stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
            let _ = told.recv();
            let _ = stream.write_all(b"lf");
        }),
        None => Reply::ok("ok"),
    });
    let gateway = Gateway::new()
        .route("/{*rest}", &upstream)
        .upstream_key("max_requests = 1\nqueue_timeout = \"200ms\"")
        .auth(&["none"])
        .start();
    let client = gateway.client();
    let mut streaming = client.connect();
    streaming.write(&client.get("/stream").bytes()).unwrap();
    eventually("it has begun", || client.get("/late").send().status == 503);

    go.send(()).unwrap();

    assert_eq!(streaming.read_response("GET").unwrap().text(), "half");
    client.get("/next").send().expect(200);
}

/// What was sent again keeps its turn, and gives it back once.
#[test]
fn a_retry_has_one_turn() {
    let upstream = Upstream::start();
    upstream.respond(|seen| Reply::with(if seen.path == "/bad" { 503 } else { 200 }, &[], ""));
    let lines = "max_requests = 1\nmax_pending = 0\nretries = { attempts = 3, min_per_second = 100 }";
    let gateway = Gateway::new().route("/{*rest}", &upstream).upstream_key(lines).auth(&["none"]).start();
    let client = gateway.client();

    for _ in 0..3 {
        client.get("/bad").send().expect(503);
        client.get("/good").send().expect(200);
    }

    assert_eq!(upstream.request_count(), 15);
    assert_eq!(refused(&gateway, "full"), 0.0);
}

#[test]
fn streams_of_one_connection_are_counted_like_connections() {
    let (came, arrivals) = mpsc::channel();
    let upstream = Http2Upstream::start(move |request, mut respond| {
        let came = came.clone();
        async move {
            came.send(()).unwrap();
            if request.uri().path() == "/held" {
                std::future::pending::<()>().await;
            }
            drop(respond.send_response(http::Response::new(()), true));
        }
    });
    let lines = format!("servers = [{:?}]\nmax_requests = 1\nqueue_timeout = \"200ms\"", upstream.url());
    let gateway = Gateway::new().route_to("path = \"/{*rest}\"", &lines).auth(&["none"]).start();
    let client = gateway.client();
    let mut held = client.connect();
    held.write(&client.get("/held").bytes()).unwrap();
    arrivals.recv_timeout(Duration::from_secs(10)).unwrap();

    client.get("/late").send().expect(503);
    held.cut();

    eventually("its turn is the next one's", || client.get("/next").send().status == 200);
}

/// A reload changes the bound at once; whoever is under way counts under the new one, too.
#[test]
fn a_reload_changes_the_bound() {
    let held = Held::start();
    let gateway = Gateway::new().admin();
    let gateway = gateway
        .route("/{*rest}", &held.upstream)
        .upstream_key("max_requests = 1\nqueue_timeout = \"1m\"")
        .auth(&["none"])
        .start();
    let client = gateway.client();
    let first = held.hold(&client, "/held/1");
    let waiting = held.ask(&client, "/waits");
    eventually("it waits", || pending(&gateway) == 1.0);

    gateway.edit("max_requests = 1", "max_requests = 2");
    gateway.reload().expect(200);

    client.get("/next").send().expect(200);
    waiting.join().unwrap().expect(200);
    held.go.send(()).unwrap();
    first.join().unwrap().expect(200);
}
