//! Requests, tunnels, an upload and logins, none of which notices: 10 tunnels and 8 MiB in the usual run; 100 tunnels,
//! 1 GiB and 1,000 requests a second, as far as the machine has room, with `PORTCULLIS_LONG_RUN=1`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use portcullis::clock::instant;

use super::*;
use crate::{rfc::large, support::Connection};

/// How much of everything.
struct Size {
    tunnels: usize,
    upload: usize,
    /// Clients that keep their connection, each with a request every 10 ms.
    kept: usize,
}

impl Size {
    fn of_this_run() -> Self {
        match std::env::var_os("PORTCULLIS_LONG_RUN") {
            None => Self { tunnels: 10, upload: 8 << 20, kept: 1 },
            Some(_) => Self { tunnels: 100, upload: 1 << 30, kept: 10 },
        }
    }
}

/// One kind of client, again and again until it is told to stop.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicU64,
}

impl Load {
    fn start(self: &Arc<Self>, client: Client, work: fn(&Client, &mut Option<Connection>)) -> thread::JoinHandle<()> {
        let load = Arc::clone(self);
        thread::spawn(move || {
            let mut kept = None;
            while !load.stop.load(Ordering::Relaxed) {
                work(&client, &mut kept);
                load.served.fetch_add(1, Ordering::Relaxed);
                // Its share of the rate, not a wait: there is nothing to wait for.
                thread::sleep(Duration::from_millis(10));
            }
        })
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

fn fresh(client: &Client, _: &mut Option<Connection>) {
    client.get("/fresh").send().expect(200);
}

fn over_http2(client: &Client, _: &mut Option<Connection>) {
    client.get("/two").send_http2().expect(200);
}

/// Without a session of its own: a login ends the one that it comes with.
fn logging_in(client: &Client, _: &mut Option<Connection>) {
    log_in(client, "bob").get("/logged-in").send().expect(200);
}

fn keeping(client: &Client, kept: &mut Option<Connection>) {
    let connection = kept.get_or_insert_with(|| client.connect());
    let answer = connection.send(&client.get("/kept")).expect(200);
    if answer.header("connection") == Some("close") {
        *kept = None;
    }
}

fn nobody_notices(durable: bool) {
    let upstream = echoing();
    let Size { tunnels, upload: length, kept } = Size::of_this_run();
    let (gateway, folder) = configured(&upstream, LONG);
    let gateway = gateway
        .route_to("path = \"/up/{*rest}\"", &format!("servers = [\"http://{}\"]", large::upstream()))
        .auth(&["session"]);
    let mut gateway = if durable { with_state(gateway, &folder) } else { gateway }.start_process();
    let alice = session(&gateway, "alice");
    let mut tunnels: Vec<_> = (0..tunnels).map(|_| tunnel(&alice)).collect();
    let mut upload = alice.connect();
    let head = format!(
        "POST /up/{length} HTTP/1.1\r\nHost: app.test\r\nSec-Fetch-Site: same-origin\r\nCookie: {}\r\n\
         Content-Length: {length}\r\n\r\n",
        alice.get("/").cookies()
    );
    upload.write(head.as_bytes()).unwrap();
    let half = |upload: &mut Connection| {
        let piece = vec![b'x'; 64 * 1024];
        (0..length / 2 / piece.len()).for_each(|_| upload.write(&piece).expect("the upload goes on"));
    };
    half(&mut upload);
    let load = Arc::<Load>::default();
    let mut threads: Vec<_> = (0..kept).map(|_| load.start(alice.clone(), keeping)).collect();
    threads.extend([fresh, over_http2].map(|work| load.start(alice.clone(), work)));
    threads.push(load.start(gateway.client(), logging_in));
    let begun = instant();
    eventually("the load is there", || load.served() > 20);

    let old = gateway.upgrade();

    half(&mut upload);
    assert_eq!(upload.read_response("POST").unwrap().expect(200).text(), "whole");
    assert!(tunnels.iter_mut().all(echoes), "tunnels go on");
    // Otherwise they last nearly as long as the drain.
    drop(tunnels);
    gateway.says("the process before this one has left");
    let so_far = load.served();
    eventually("the new process serves alone", || load.served() > so_far + 20);
    println!("{} requests in {:?}", load.served(), begun.elapsed());
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no request failed");
    }
    assert_eq!(old.wait(), Some(0), "nothing had to be cut");
    visit(&alice).send().expect(200);
}

#[test]
fn nobody_notices_an_upgrade_with_a_state_directory() {
    nobody_notices(true);
}

#[test]
fn nobody_notices_an_upgrade_without_a_state_directory() {
    nobody_notices(false);
}
