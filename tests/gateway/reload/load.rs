//! Reloads while requests and connections are under way, and again and again: 30 as fast as they go in the usual run; ten
//! a second for 15 seconds, under as many requests as the machine has room for, with `PORTCULLIS_LONG_RUN=1`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use portcullis::clock::instant;
use serde_json::json;

use crate::support::{Gateway, Issuer, Reply, Seen, Upstream, eventually};

/// An upstream that answers whether a request was told what the generation that chose it tells.
fn upstream_of(parity: &'static str, other: &'static str) -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(move |seen: &Seen| {
        let own = seen.header(parity) == Some("yes") && seen.header(other).is_none();
        Reply::ok(if own { format!("{parity} {}", seen.body.len()) } else { "a mixture".to_owned() })
    });
    upstream
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    reloads: usize,
    /// From one reload to the next, at least.
    every: Duration,
    /// Clients that send one request after the other, beside those whose bodies wait for a reload.
    restless: usize,
}

impl Size {
    fn of_this_run() -> Self {
        match std::env::var_os("PORTCULLIS_LONG_RUN") {
            None => Self { reloads: 30, every: Duration::ZERO, restless: 1 },
            Some(_) => Self { reloads: 150, every: Duration::from_millis(100), restless: 8 },
        }
    }
}

/// Each generation has an upstream, a header from a claim, and a rule of its own. Whatever is mixed would show.
#[test]
fn ten_reloads_a_second_break_no_request_and_each_is_served_by_one_generation() {
    let (odd, even) = (upstream_of("x-user-odd", "x-user-even"), upstream_of("x-user-even", "x-user-odd"));
    let issuer = Issuer::es256();
    let gateway = Gateway::with("[identity]\nextra = { \"X-User-Odd\" = \"odd\" }")
        .admin()
        .issuer(&issuer)
        .route("/a/{*rest}", &odd)
        .require("role:odd")
        .start();
    let mut claims = Issuer::claims("alice", &["odd", "even"], gateway.now());
    (claims["odd"], claims["even"]) = (json!("yes"), json!("yes"));
    let bearer = gateway.client().always("Authorization", &format!("Bearer {}", issuer.sign(&claims)));
    let entry = json!({ "subject": "bob", "roles": ["odd", "even"], "claims": { "odd": "yes", "even": "yes" } });
    let session = gateway.open_session(&entry).always("Sec-Fetch-Site", "same-origin");
    let (reloads, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let size = Size::of_this_run();
    let begun = instant();

    let restless: Vec<_> = [&bearer, &session]
        .into_iter()
        .cycle()
        .take(size.restless)
        .map(|client| {
            let (client, reloads, served) = (client.clone(), Arc::clone(&reloads), Arc::clone(&served));
            thread::spawn(move || {
                let (mut connection, request) = (client.connect(), client.post("/a/x", vec![b'x'; 4000]));
                let mut told = BTreeSet::new();
                while reloads.load(SeqCst) < size.reloads {
                    told.insert(connection.send(&request).expect(200).text());
                    served.fetch_add(1, SeqCst);
                }
                told
            })
        })
        .collect();
    let clients: Vec<_> = [bearer, session]
        .into_iter()
        .flat_map(|client| [client.clone(), client])
        .map(|client| {
            let (reloads, served) = (Arc::clone(&reloads), Arc::clone(&served));
            thread::spawn(move || {
                let mut told = BTreeSet::new();
                while reloads.load(SeqCst) < size.reloads {
                    let mut connection = client.connect();
                    for number in 0..20 {
                        let request = client.post("/a/x", vec![b'x'; 4000]).bytes();
                        let (first, last) = request.split_at(2000);
                        connection.write(first).expect("it is sent");
                        // The body of every other request is under way while a reload happens.
                        if number % 2 == 0 {
                            let seen = reloads.load(SeqCst);
                            eventually("there is a reload", || reloads.load(SeqCst) >= size.reloads.min(seen + 1));
                        }
                        connection.write(last).expect("it is sent");
                        let answer = connection.read_response("POST").expect("an answer").expect(200);
                        told.insert(answer.text());
                        served.fetch_add(1, SeqCst);
                    }
                }
                told
            })
        })
        .collect();
    let changes = [("Odd", "Even"), ("\"odd\" }", "\"even\" }"), ("role:odd", "role:even")];
    for number in 0..size.reloads {
        let next = instant() + size.every;
        let swap = |a: &'static str, b: &'static str| if number % 2 == 0 { (a, b) } else { (b, a) };
        changes.iter().for_each(|(a, b)| {
            let (from, to) = swap(a, b);
            gateway.edit(from, to);
        });
        let (from, to) = if number % 2 == 0 { (odd.url(), even.url()) } else { (even.url(), odd.url()) };
        gateway.edit(&from, &to);
        gateway.reload().expect(200);
        // Requests go on between one reload and the next.
        let before = served.load(SeqCst);
        reloads.fetch_add(1, SeqCst);
        eventually("requests are served between reloads", || served.load(SeqCst) > before + 2);
        // The rate of reloads, not a wait: there is nothing to wait for.
        thread::sleep(next.saturating_duration_since(instant()));
    }
    let (took, requests) = (begun.elapsed(), served.load(SeqCst));
    let rate = requests as f64 / took.as_secs_f64();
    println!("{requests} requests and {} reloads in {took:?}, {rate:.0} requests a second", size.reloads);

    let told: BTreeSet<String> =
        clients.into_iter().chain(restless).flat_map(|client| client.join().expect("no failure")).collect();
    let expect = ["x-user-even 4000", "x-user-odd 4000"].map(str::to_owned);
    assert_eq!(told, BTreeSet::from(expect));
    assert_eq!(gateway.metric("portcullis_config_generation", &[]), 1.0 + size.reloads as f64);
}

#[test]
fn counters_survive_and_every_metric_is_told_once() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).auth(&["none"]).start();
    let requests = || {
        let text = gateway.telemetry().get("/metrics").send().expect(200).text();
        let lines = text.lines().filter(|line| line.starts_with("portcullis_requests_total{"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    gateway.client().get("/a/x").send().expect(200);
    eventually("the request is counted", || requests() == 1.0);

    for _ in 0..5 {
        gateway.reload().expect(200);
    }

    gateway.client().get("/a/x").send().expect(200);
    eventually("both are counted", || requests() == 2.0);
    let text = gateway.telemetry().get("/metrics").send().expect(200).text();
    let help: Vec<&str> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
    assert_eq!(help.len(), help.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(upstream.connection_count(), upstream.open_connections(), "its connections were kept");
    assert_eq!(gateway.metric("portcullis_reloads_total", &[("result", "applied")]), 5.0);
}

#[test]
fn a_request_under_way_ends_on_the_configuration_it_began_with() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).auth(&["none"]).start();
    let mut connection = gateway.client().connect();
    let request = gateway.client().post("/a/x", "0123456789").bytes();
    let (first, last) = request.split_at(request.len() - 4);
    connection.write(first).expect("it is sent");
    eventually("the upstream has its beginning", || !upstream.bytes_seen().is_empty());

    gateway.edit("/a/{*rest}", "/b/{*rest}");
    gateway.reload().expect(200);

    gateway.client().get("/a/x").send().expect(404);
    connection.write(last).expect("it is sent");
    connection.read_response("POST").expect("an answer").expect(200);
    assert_eq!(upstream.next_request().body, b"0123456789");
    connection.send(&gateway.client().get("/a/x")).expect(404);
}

#[test]
fn two_hundred_reloads_leave_no_memory_behind() {
    let upstream = Upstream::start();
    let process = Gateway::with("[session]\nmax_sessions = 10")
        .user("alice", "correct horse", &["user"])
        .route("/a/{*rest}", &upstream)
        .start_process();
    let reload = |times: usize| {
        for _ in 0..times {
            process.reload();
            process.client().get("/a/x").send().expect(401);
        }
    };
    reload(50);
    let before = process.resident_bytes();

    reload(200);

    let grown = process.resident_bytes().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} bytes in 200 reloads");
}
