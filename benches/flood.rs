//! What a flood of logins costs those who have a session; run by `benches/flood`.
//!
//! Rounds with and without a flood take turns, so that whatever else the machine does hits both; what is printed is the
//! median of the rounds' p99 and their ratio. The flood comes from ever new addresses, from 48 connections at once,
//! with hashes as in production. The gateway is the real program; how much memory a flood takes is a test.
#![expect(clippy::expect_used, clippy::panic, reason = "a measurement that cannot go on must say so")]
#![allow(missing_docs, reason = "a program")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use portcullis::{accounts, clock::instant};

mod program;

use program::{Program, median};

const PASSWORD: &str = "Correct-Horse-Battery-7341";
const FLOODERS: u32 = 48;
const ROUND: Duration = Duration::from_millis(1500);

fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(20);
    let gateway = gateway();
    let cookie = log_in(gateway.address);
    let flood = Flood::start(gateway.address);
    measure(gateway.address, &cookie, Duration::from_secs(1));

    let (mut calm, mut flooded) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        calm.push(percentiles(measure(gateway.address, &cookie, ROUND)));
        flood.on.store(true, Relaxed);
        flooded.push(percentiles(measure(gateway.address, &cookie, ROUND)));
        flood.on.store(false, Relaxed);
        println!("round {round}: p50 and p99 {:?} calm, {:?} flooded", calm[round], flooded[round]);
        // What waits for a hash is done before the next round.
        thread::sleep(Duration::from_millis(500));
    }

    let p99 = |all: Vec<(Duration, Duration)>| median(all.into_iter().map(|(_, p99)| p99).collect());
    let (calm, flooded) = (p99(calm), p99(flooded));
    let ratio = flooded.as_secs_f64() / calm.as_secs_f64();
    println!("{} passwords were tried", flood.tried.load(Relaxed));
    println!("p99 {flooded:?} flooded / {calm:?} calm = {ratio:.2}");
}

/// Plain on loopback behind a proxy that says https.
fn gateway() -> Program {
    let hash = accounts::hash_password(PASSWORD).expect("it can be hashed");
    let tables = format!(
        "[[login.provider]]\nname = \"local\"\n\
         [[login.provider.user]]\nname = \"alice\"\npassword = \"{hash}\"\n\
         [[route]]\nname = \"app\"\nmatch = {{ path = \"/app\" }}\nauth = [\"session\"]\nrespond = {{ status = 200 }}\n"
    );
    Program::start("trusted_proxies = [\"127.0.0.1/32\"]", &tables, &[])
}

/// Somebody at the other end of a connection that stays open.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("an option");
        Self(BufReader::new(stream))
    }

    /// Status and session cookie of the answer.
    fn ask(&mut self, head: &str, body: &str) -> (u16, Option<String>) {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{head}Host: localhost\r\nX-Forwarded-Proto: https\r\n{length}\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes()).expect("it is read");
        let (mut status, mut cookie, mut length) = (0, None, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().expect("a number"),
                "set-cookie" if value.starts_with("__Host-portcullis=") => {
                    cookie = value.split(';').next().map(ToOwned::to_owned);
                }
                name if name.starts_with("http/1.1 ") => status = name[9..12].parse().expect("a status"),
                _ => {}
            }
        }
        let mut rest = vec![0; length];
        self.0.read_exact(&mut rest).expect("the body");
        (status, cookie)
    }
}

fn log_in(address: SocketAddr) -> String {
    let body = format!("{{\"username\":\"alice\",\"password\":\"{PASSWORD}\"}}");
    let head = "POST /_auth/login HTTP/1.1\r\nContent-Type: application/json\r\nX-Forwarded-For: 192.0.2.1\r\n\
                Sec-Fetch-Site: same-origin\r\n";
    let (status, cookie) = Client::connect(address).ask(head, &body);
    cookie.unwrap_or_else(|| panic!("no session, but {status}"))
}

/// How long each request of somebody with a session takes, one every millisecond.
fn measure(address: SocketAddr, cookie: &str, during: Duration) -> Vec<Duration> {
    let mut client = Client::connect(address);
    let head = format!("GET /app HTTP/1.1\r\nCookie: {cookie}\r\nX-Forwarded-For: 192.0.2.1\r\n");
    let end = instant() + during;
    let mut times = Vec::new();
    while instant() < end {
        let started = instant();
        assert_eq!(client.ask(&head, "").0, 200);
        times.push(started.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    times
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

struct Flood {
    on: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
}

impl Flood {
    fn start(address: SocketAddr) -> Self {
        let (on, tried) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        for flooder in 0..FLOODERS {
            let (on, tried) = (Arc::clone(&on), Arc::clone(&tried));
            thread::spawn(move || {
                let mut client = Client::connect(address);
                for guess in 0_u32.. {
                    while !on.load(Relaxed) {
                        thread::sleep(Duration::from_millis(20));
                    }
                    let [_, a, b, c] = guess.wrapping_mul(2_654_435_761).wrapping_add(flooder).to_be_bytes();
                    let head = format!(
                        "POST /_auth/login HTTP/1.1\r\nContent-Type: application/json\r\n\
                         X-Forwarded-For: 10.{a}.{b}.{c}\r\nSec-Fetch-Site: same-origin\r\n"
                    );
                    let body = format!("{{\"username\":\"user-{flooder}-{guess}\",\"password\":\"guess\"}}");
                    match client.ask(&head, &body).0 {
                        401 => drop(tried.fetch_add(1, Relaxed)),
                        429 | 503 => thread::sleep(Duration::from_millis(50)),
                        // The gateway is gone: that was all.
                        0 => return,
                        other => panic!("{other}"),
                    }
                }
            });
        }
        Self { on, tried }
    }
}
