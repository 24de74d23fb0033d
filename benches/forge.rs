//! What forged tokens cost those who have good ones; run by `benches/forge`.
//!
//! Somebody at 127.0.0.2 sends tokens with wrong signatures on four connections, each new one as soon as it can, while
//! others at 127.0.0.1 use tokens that are known. Rounds with and without the forger take turns, so that whatever else
//! the machine does hits both; what is printed is the median of the rounds' p99 and throughput, their ratios, and what
//! the process grew by. The gateway is the real program with the limits as they are shipped.
#![expect(clippy::expect_used, clippy::panic, reason = "a measurement that cannot go on must say so")]
#![allow(missing_docs, reason = "a program")]

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use portcullis::clock::{Clock, instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime, task,
};

mod program;

use program::{Program, median};

/// Connections of those with good tokens, and how many tokens they share.
const CONNECTIONS: usize = 64;
const TOKENS: usize = 1_000;
const FORGERS: usize = 4;

fn main() {
    let option = |name: &str, otherwise: u64| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
        arguments.next().map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let (rounds, seconds, depth) = (option("--rounds", 10), option("--seconds", 3), option("--depth", 1));
    let signer = Signer::new();
    let gateway = gateway(&signer);
    let heads: Rc<[String]> = (0..TOKENS).map(|number| head(&signer.token(&format!("user-{number}")))).collect();
    let forgery = Forgery::start(gateway.address, usize::try_from(depth).expect("a number"), &signer.header);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let round = |time| {
        let seen = runtime.block_on(task::LocalSet::new().run_until(measure(gateway.address, Rc::clone(&heads), time)));
        (seen.p99(), seen.throughput())
    };

    // Long enough for every token to be known.
    round(Duration::from_secs(2));
    let before = gateway.resident();
    let (mut calm, mut forged, mut peak) = (Vec::new(), Vec::new(), before);
    for number in 0..rounds {
        calm.push(round(Duration::from_secs(seconds)));
        forgery.on.store(true, Relaxed);
        forged.push(round(Duration::from_secs(seconds)));
        forgery.on.store(false, Relaxed);
        peak = peak.max(gateway.resident());
        println!("round {number}: p99 and requests/s {:?} calm, {:?} with forged tokens", calm.last(), forged.last());
    }

    let figures = |all: Vec<(Duration, f64)>| {
        let (p99, throughput): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (median(p99), median(throughput))
    };
    let ((calm_p99, calm_rate), (forged_p99, forged_rate)) = (figures(calm), figures(forged));
    let (checked, refused) = (forgery.checked.load(Relaxed), forgery.refused.load(Relaxed));
    println!("forged tokens: {checked} were looked at (401), {refused} were not (429)");
    println!(
        "p99 {forged_p99:?} with / {calm_p99:?} without = {:.2} (at most 2)",
        forged_p99.as_secs_f64() / calm_p99.as_secs_f64()
    );
    println!(
        "requests/s {forged_rate:.0} with / {calm_rate:.0} without = {:.2} (at least 0.90)",
        forged_rate / calm_rate
    );
    println!("memory {} KiB more than the {before} KiB before the first forged token", peak - before);
}

fn gateway(signer: &Signer) -> Program {
    let tables = "[[jwt.issuer]]\nname = \"id\"\nissuer = \"https://id.example\"\naudience = \"api\"\n\
                  algorithms = [\"ES256\"]\njwks = { pem = \"id.pem\" }\n\
                  [[route]]\nname = \"app\"\nmatch = { path = \"/app\" }\nauth = [\"jwt\"]\nrespond = { status = 200 }\n";
    Program::start("", tables, &[("id.pem", &signer.public)])
}

/// Whose tokens are good.
struct Signer {
    pair: EcdsaKeyPair,
    public: String,
    header: String,
}

impl Signer {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let spki = pair.public_key().as_der().expect("a public key");
        let public =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(spki.as_ref()));
        Self { pair, public, header: URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#) }
    }

    fn token(&self, subject: &str) -> String {
        let input = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims(subject)));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims(subject: &str) -> String {
    let now = Clock::system().now().unix_seconds();
    format!(
        r#"{{"iss":"https://id.example","aud":"api","sub":"{subject}","iat":{now},"exp":{},"roles":["user"]}}"#,
        now + 3600
    )
}

fn head(token: &str) -> String {
    format!("GET /app HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// What was seen in one round.
struct Seen {
    latencies: Vec<Duration>,
    during: Duration,
}

impl Seen {
    fn p99(&self) -> Duration {
        self.latencies[self.latencies.len() * 99 / 100]
    }

    #[expect(clippy::cast_precision_loss, reason = "a count below a few million")]
    fn throughput(&self) -> f64 {
        self.latencies.len() as f64 / self.during.as_secs_f64()
    }
}

/// Asks with known tokens on all connections, each request followed by the next.
async fn measure(address: SocketAddr, heads: Rc<[String]>, time: Duration) -> Seen {
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
    let next = Rc::new(Cell::new(0));
    let begun = instant();
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (heads, latencies, next) = (Rc::clone(&heads), Rc::clone(&latencies), Rc::clone(&next));
            task::spawn_local(async move {
                let mut stream = connect(address, [127, 0, 0, 1]).await;
                let mut buffer = vec![0; 4096];
                while begun.elapsed() < time {
                    let asked = instant();
                    next.set((next.get() + 1) % heads.len());
                    stream.write_all(heads[next.get()].as_bytes()).await.expect("it is read");
                    let statuses = answers(&mut stream, &mut buffer, 1).await;
                    assert_eq!(statuses, Some((1, 0, 0)), "a known token is good");
                    latencies.borrow_mut().push(asked.elapsed());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it ends");
    }
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    Seen { latencies, during: begun.elapsed() }
}

async fn connect(address: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of loopback");
    let stream = socket.connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// Reads so many answers: how many were 200, 401 and 429. `None`: the connection ends before.
async fn answers(stream: &mut TcpStream, buffer: &mut [u8], count: usize) -> Option<(usize, usize, usize)> {
    let (mut filled, mut seen) = (0, (0, 0, 0));
    while seen.0 + seen.1 + seen.2 < count {
        filled += stream.read(&mut buffer[filled..]).await.ok().filter(|read| *read > 0)?;
        let mut at = 0;
        while let Some(end) = memchr::memmem::find(&buffer[at..filled], b"\r\n\r\n") {
            let head = &buffer[at..at + end];
            let length = memchr::memmem::find(head, b"ontent-length: ")
                .or_else(|| memchr::memmem::find(head, b"ontent-Length: "));
            let digits = length.map_or(&b""[..], |from| &head[from + 15..]);
            let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
            let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
            if at + end + 4 + length > filled {
                break;
            }
            match &head[9..12] {
                b"200" => seen.0 += 1,
                b"401" => seen.1 += 1,
                b"429" => seen.2 += 1,
                other => panic!("{}", String::from_utf8_lossy(other)),
            }
            at += end + 4 + length;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
    Some(seen)
}

/// Four connections that send forged tokens while it is on.
struct Forgery {
    on: Arc<AtomicBool>,
    checked: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Forgery {
    /// `depth`: requests that are sent on a connection before the first of their answers is waited for.
    fn start(address: SocketAddr, depth: usize, header: &str) -> Self {
        let forgery = Self { on: Arc::default(), checked: Arc::default(), refused: Arc::default() };
        let (on, checked, refused) =
            (Arc::clone(&forgery.on), Arc::clone(&forgery.checked), Arc::clone(&forgery.refused));
        let header = header.to_owned();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let all = task::LocalSet::new();
            for forger in 0..FORGERS {
                let (on, checked, refused, header) =
                    (Arc::clone(&on), Arc::clone(&checked), Arc::clone(&refused), header.clone());
                all.spawn_local(async move {
                    let mut stream = connect(address, [127, 0, 0, 2]).await;
                    let mut buffer = vec![0; 64 * 1024];
                    for batch in 0.. {
                        while !on.load(Relaxed) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        let number = |each| (forger << 40) + batch * depth + each;
                        let sent: String = (0..depth).map(|each| head(&forged(&header, number(each)))).collect();
                        let _ = stream.write_all(sent.as_bytes()).await;
                        // The gateway is gone: that was all.
                        let Some((_, wrong, unchecked)) = answers(&mut stream, &mut buffer, depth).await else {
                            return;
                        };
                        checked.fetch_add(wrong as u64, Relaxed);
                        refused.fetch_add(unchecked as u64, Relaxed);
                    }
                });
            }
            runtime.block_on(all);
        });
        forgery
    }
}

/// A token like a good one but for its signature, unlike any other.
fn forged(header: &str, number: usize) -> String {
    let claims = URL_SAFE_NO_PAD.encode(claims(&format!("forger-{number}")));
    let mut state = number as u64 | 1 << 63;
    let signature: Vec<u8> = (0..8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()
        })
        .collect();
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}
