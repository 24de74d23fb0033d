//! Instructions per request: what a session or a known token costs beyond bare forwarding.
//!
//! Run it with `benches/instructions`. This program starts itself under callgrind as a gateway with one worker, sends
//! it a fixed number of requests over one keep-alive TLS 1.3 connection, twice; the difference of both counts over the
//! difference in requests is the cost of one. Instructions, unlike time, do not depend on what else the machine does.
//! Only the worker's thread is counted: what others do once a second would count for more the slower callgrind is.
//!
//! - `bare`: the edge (TLS, HTTP/1.1, framing checks) and the upstream's connection pool with nothing in between;
//!   `bare-cookie` and `bare-token` carry what the requests of `session` and `jwt` do.
//! - `public`: a route with `auth = ["none"]`.
//! - `session`, `jwt`: a route that asks for one; the same caller each time.
//! - `durable`: as `session`, with `server.state_dir`; at most a hundredth more than `session`.
//! - `http2`: as `public` over HTTP/2, one request after the other, beside `bare-http2`; `http2-crowd`: as many at once
//!   as there are streams in the comparison.
//! - `jwt-struck`: as `jwt`, while ten thousand other tokens are revoked; at most [`STRUCK_BUDGET`] more than `jwt`.
//!
//! What is above `bare` pays for routing, authentication, authorization, headers, metrics. Budget: 6,000. SHA-256 is
//! told apart: valgrind does not offer the processor's instructions for it, which do it in a tenth; what it takes
//! outside of valgrind is measured and printed.
//!
//! `stages` tells which part of a request's way they go to.
//!
//! `benches/instructions.ratchet` holds what was counted last. `check` fails where a mode has become dearer by more
//! than [`TOLERANCE`]; whoever raises a line says why behind its figure.
#![expect(clippy::expect_used, reason = "a benchmark that cannot set itself up has nothing to measure")]

#[path = "stages.rs"]
mod stages;

#[path = "comparison/frames.rs"]
#[expect(dead_code, reason = "the comparison needs more of it")]
mod frames;

#[path = "comparison/people.rs"]
#[expect(dead_code, reason = "the comparison needs more of it")]
mod people;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Response};
use portcullis::{
    certificate::{Certificate, CertificateResolver},
    clock::{self, Clock},
    config::{self, Config},
    edge::{self, Handler, Peers, TlsSlot},
    gateway,
    hints::Hints,
    identity::{Factor, Identity, IdentityParts, Via},
    inbound::{Inbound, Incoming},
    revocation::{Keep, Revocations, Target},
    session::SessionToken,
    shutdown::Shutdown,
    upstream::{self, Outgoing, Upstreams},
};
use rustls::{ClientConnection, StreamOwned};

use crate::{
    frames::Frame,
    people::{AUDIENCE, Algorithm, Flaw, ISSUER, Keys, Person},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Each mode with the one it is compared with: the same request, the cookie or token in it included.
const MODES: [(&str, &str); 11] = [
    ("bare", "bare"),
    ("public", "bare"),
    ("bare-cookie", "bare-cookie"),
    ("session", "bare-cookie"),
    ("durable", "bare-cookie"),
    ("bare-token", "bare-token"),
    ("jwt", "bare-token"),
    ("jwt-struck", "bare-token"),
    ("bare-http2", "bare-http2"),
    ("http2", "bare-http2"),
    ("http2-crowd", "bare-http2"),
];
/// Streams of one connection at once.
const CROWD: usize = 32;
/// What revocations may cost a request with a known token.
const STRUCK_BUDGET: f64 = 200.0;
/// Characters of a session's token.
const SESSION_LENGTH: usize = 43;
const FEW: usize = 200;
const MANY: usize = 2200;
/// What is allowed above `bare`, SHA-256 apart.
const BUDGET: f64 = 6000.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", mode, folder] => serve(mode, Path::new(folder)),
        [] => compare(&MODES, None).map(drop),
        ["check"] => check(),
        ["profile", mode, file] => {
            let (mode, _) = MODES.iter().find(|(name, _)| *name == mode).ok_or("no such mode")?;
            compare(&[(mode, mode)], Some(Path::new(file))).map(drop)
        }
        ["stages", mode] => {
            let (mode, _) = MODES.iter().find(|(name, _)| *name == mode).ok_or("no such mode")?;
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("counts");
            compare(&[(mode, mode)], Some(&file))?;
            let read = |file: PathBuf| fs::read_to_string(file);
            stages::print(&read(file.with_extension("few"))?, &read(file)?, MANY - FEW);
            Ok(())
        }
        _ => Err("nothing, or: check, or: stages MODE, or: profile MODE FILE (for callgrind_annotate)".into()),
    }
}

/// Counts all modes and compares them with what was counted last.
fn check() -> Result<()> {
    let lines = ratchet(&fs::read_to_string(RATCHET)?)?;
    let counted = compare(&MODES, None)?;
    let mut dearer = Vec::new();
    for (mode, each) in &counted {
        let (_, line) =
            lines.iter().find(|(name, _)| name == mode).ok_or_else(|| format!("{RATCHET} has no line `{mode}`"))?;
        let change = (each / line - 1.0) * 100.0;
        if change > TOLERANCE {
            dearer.push(format!("{mode}: {each:.0} instead of {line:.0}, {change:.1} % more"));
        } else if change < -TOLERANCE {
            println!("{mode}: {each:.0} instead of {line:.0}: lower the line in {RATCHET}");
        }
    }
    let of = |name: &str| counted.iter().find(|(mode, _)| *mode == name).map(|(_, each)| *each);
    if let (Some(without), Some(with)) = (of("jwt"), of("jwt-struck"))
        && with - without > STRUCK_BUDGET
    {
        dearer.push(format!("jwt-struck: {:.0} above jwt, {STRUCK_BUDGET:.0} allowed", with - without));
    }
    if dearer.is_empty() { Ok(()) } else { Err(dearer.join("; ").into()) }
}

/// The lines of the ratchet: a mode, its figure, and why it is what it is. `#` begins a comment.
fn ratchet(text: &str) -> Result<Vec<(String, f64)>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| -> Option<(String, f64)> {
        let mut words = line.split_whitespace();
        let (mode, figure) = (words.next()?.to_owned(), words.next()?.replace(',', "").parse().ok()?);
        words.next().map(|_| (mode, figure))
    };
    lines
        .map(|line| read(line).ok_or_else(|| format!("{RATCHET}: `{line}` is no mode, figure and reason").into()))
        .collect()
}

/// What was counted last, beside this file.
const RATCHET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.ratchet");
/// Hundredths by which a count may differ: the order in which a linker puts things moves it by less.
const TOLERANCE: f64 = 1.5;

fn compare(modes: &[(&'static str, &'static str)], profile: Option<&Path>) -> Result<Vec<(&'static str, f64)>> {
    let folder = tempfile::tempdir()?;
    let keys = Keys::generate()?;
    let upstream = start_upstream()?;
    fs::write(folder.path().join("site.pem"), keys.certificate().pem())?;
    fs::write(folder.path().join("site.key"), keys.certificate_key_pem())?;
    fs::write(folder.path().join("jwt.pem"), keys.public_pem(Algorithm::Es256))?;
    let mut counted: Vec<(&str, f64)> = Vec::new();
    println!(
        "{:<12} {:>22} {:>12} {:>10} {:>16}",
        "", "instructions/request", "above bare", "SHA-256", "above without"
    );
    for (mode, base) in modes {
        fs::write(folder.path().join("gateway.toml"), configuration(mode, upstream))?;
        let count = |requests| count(mode, folder.path(), &keys, requests);
        let few = count(FEW)?;
        let kept = folder.path().join("few");
        fs::create_dir_all(&kept)?;
        for thread in few.keys() {
            fs::copy(counts_of(folder.path(), *thread), counts_of(&kept, *thread))?;
        }
        let many = count(MANY)?;
        // The worker is the thread that does more if there are more requests.
        let of = |thread: &u32| few.get(thread).copied().unwrap_or_default();
        let more = |thread: &u32| many[thread].all.saturating_sub(of(thread).all);
        let worker = many.keys().copied().max_by_key(more).ok_or("callgrind counted nothing")?;
        if let Some(file) = profile {
            fs::copy(counts_of(folder.path(), worker), file)?;
            fs::copy(counts_of(&kept, worker), file.with_extension("few"))?;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = |more: u64| more as f64 / (MANY - FEW) as f64;
        let sha256 = each(many[&worker].sha256.saturating_sub(of(&worker).sha256));
        let each = each(more(&worker));
        counted.push((mode, each));
        let bare = counted.iter().find(|(name, _)| name == base).map_or(each, |(_, bare)| *bare);
        let verdict = if each - bare - sha256 > BUDGET { "  above the budget" } else { "" };
        let (above, without) = (each - bare, each - bare - sha256);
        println!("{mode:<12} {each:>22.0} {above:>12.0} {sha256:>10.0} {without:>16.0}{verdict}");
    }
    println!("SHA-256 of a session's token on this processor, outside of valgrind: {:.0} ns", time_of_digest());
    Ok(counted)
}

/// What looking up a session spends on SHA-256, in nanoseconds: the least of several rounds.
fn time_of_digest() -> f64 {
    let token = SessionToken::generate();
    let round = |_| {
        let began = clock::instant();
        for _ in 0..DIGESTS {
            std::hint::black_box(std::hint::black_box(&token).key());
        }
        clock::instant().duration_since(began).as_secs_f64() * 1e9 / f64::from(DIGESTS)
    };
    (0..10).map(round).fold(f64::INFINITY, f64::min)
}

const DIGESTS: u32 = 20_000;

/// What one thread did.
#[derive(Clone, Copy, Default)]
struct Counted {
    all: u64,
    /// In the compression function.
    sha256: u64,
}

impl Counted {
    /// Reads callgrind's format: functions, told by `fn=` with a number that stands for the name after its first use,
    /// and lines of costs; a line behind `calls=` is the cost of what was called.
    fn read(text: &str) -> Result<Self> {
        let (mut counted, mut digests, mut within, mut calls) = (Self::default(), Vec::new(), false, false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
                let number = name.split_once(')').map_or(name, |(number, _)| number);
                if name.contains("sha256_block_data_order") {
                    digests.push(number.to_owned());
                }
                if line.starts_with("fn=") {
                    within = digests.iter().any(|digest| digest == number);
                }
            } else if let Some(total) = line.strip_prefix("totals: ") {
                counted.all = total.trim().parse()?;
            } else if line.starts_with("calls=") {
                calls = true;
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                if within && !calls {
                    let cost = line.split_whitespace().nth(1).map(str::parse::<u64>).transpose()?;
                    counted.sha256 += cost.unwrap_or_default();
                }
                calls = false;
            }
        }
        if counted.all == 0 { Err("a thread without a count".into()) } else { Ok(counted) }
    }
}

/// Instructions of a whole run with so many requests, by the number of the thread.
fn count(mode: &str, folder: &Path, keys: &Keys, requests: usize) -> Result<BTreeMap<u32, Counted>> {
    // What an earlier run left there is of threads that this one may not have.
    for thread in 1.. {
        if fs::remove_file(counts_of(folder, thread)).is_err() {
            break;
        }
    }
    let file = format!("--callgrind-out-file={}", folder.join(COUNTS).display());
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes", &file])
        .arg(std::env::current_exe()?)
        .args(["serve", mode])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is a pipe")).read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let sent = words.next().map(str::parse::<SocketAddr>);
    let outcome = match sent {
        Some(Ok(address)) => {
            let session = words.next().map_or_else(|| "0".repeat(SESSION_LENGTH), str::to_owned);
            let credential = match mode {
                "session" | "durable" | "bare-cookie" => {
                    format!("Cookie: theme=dark; __Host-portcullis={session}; lang=en\r\n")
                }
                "jwt" | "jwt-struck" | "bare-token" => {
                    let token = keys.token(Algorithm::Es256, &Person::number(7), Flaw::None);
                    format!("Authorization: Bearer {token}\r\n")
                }
                _ => String::new(),
            };
            match mode {
                "bare-http2" | "http2" => send_http2(address, keys, 1, requests),
                "http2-crowd" => send_http2(address, keys, CROWD, requests),
                _ => send(address, keys, &credential, requests),
            }
        }
        Some(Err(_)) | None => Err("the gateway does not start".into()),
    };
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    outcome.map_err(|error| format!("{mode}: {error}\n{text}"))?;
    let mut counted = BTreeMap::new();
    for thread in 1.. {
        let file = counts_of(folder, thread);
        if !file.exists() {
            break;
        }
        counted.insert(thread, Counted::read(&fs::read_to_string(&file)?)?);
    }
    Ok(counted)
}

/// Where callgrind puts what it counted of one thread.
fn counts_of(folder: &Path, thread: u32) -> PathBuf {
    folder.join(format!("{COUNTS}-{thread:02}"))
}

const COUNTS: &str = "counts";

/// One request after the other over one connection.
fn send(address: SocketAddr, keys: &Keys, credential: &str, requests: usize) -> Result<()> {
    let mut stream = connect(address, keys, "http/1.1")?;
    let request = format!(
        "GET /api/orders/4711?page=2 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench/1.0\r\n\
         Accept: application/json\r\nAccept-Encoding: gzip, br\r\nAccept-Language: en\r\n{credential}\r\n"
    );
    let mut buffer = [0; 4096];
    for _ in 0..requests {
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut filled = 0;
        while !buffer[..filled].ends_with(END) {
            let count = stream.read(&mut buffer[filled..])?;
            filled += count;
            if count == 0 || !buffer.starts_with(b"HTTP/1.1 200 ") {
                return Err(String::from_utf8_lossy(&buffer[..filled]).into_owned().into());
            }
        }
    }
    Ok(())
}

/// The same requests over HTTP/2: `streams` of them at once, and when all are answered the next.
fn send_http2(address: SocketAddr, keys: &Keys, streams: usize, requests: usize) -> Result<()> {
    const FIELDS: [(usize, &str); 4] = [
        (frames::USER_AGENT, "bench/1.0"),
        (frames::ACCEPT, "application/json"),
        (frames::ACCEPT_ENCODING, "gzip, br"),
        (frames::ACCEPT_LANGUAGE, "en"),
    ];
    let mut stream = connect(address, keys, "h2")?;
    let (mut out, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    frames::write_preface(&mut out);
    let (mut asked, mut answered, mut filled) = (0, 0, 0);
    while answered < requests {
        if asked == answered {
            for _ in 0..streams.min(requests - asked) {
                let id = u32::try_from(2 * asked + 1)?;
                frames::write_get(&mut out, id, "/api/orders/4711?page=2", "bench.test", &FIELDS);
                asked += 1;
            }
        }
        stream.write_all(&out)?;
        stream.flush()?;
        out.clear();
        filled += match stream.read(&mut buffer[filled..])? {
            0 => return Err("the connection is closed".into()),
            count => count,
        };
        let mut at = 0;
        while let Some((frame, length)) = Frame::first(&buffer[at..filled]) {
            at += length;
            match frame.kind {
                frames::HEADERS if !frame.is_status_200() => return Err("answers something else than 200".into()),
                frames::RST_STREAM | frames::GOAWAY => return Err("ends what was asked".into()),
                frames::SETTINGS if frame.flags & frames::ACK == 0 => {
                    frames::write(&mut out, frames::SETTINGS, frames::ACK, 0, &[]);
                }
                _ => {}
            }
            answered += usize::from(frame.ends_stream());
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
    Ok(())
}

fn connect(address: SocketAddr, keys: &Keys, protocol: &str) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(keys.certificate().der().clone())?;
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let connection = ClientConnection::new(Arc::new(config), "bench.test".try_into()?)?;
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    Ok(StreamOwned::new(connection, socket))
}

const END: &[u8] = b"the end of the body}";

/// Answers every request alike.
fn start_upstream() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let body = format!("{{{}{}", "0123456789".repeat(7), String::from_utf8_lossy(END));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut socket = socket;
                let _ = socket.set_nodelay(true);
                let mut buffer = [0; 8192];
                let mut filled = 0;
                while let Ok(count @ 1..) = socket.read(&mut buffer[filled..]) {
                    filled += count;
                    if buffer[..filled].ends_with(b"\r\n\r\n") {
                        filled = 0;
                        if socket.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(port)
}

fn configuration(mode: &str, upstream: u16) -> String {
    let (table, authenticator) = match mode {
        "session" | "durable" => ("[session]\nidle_timeout = \"30m\"\n".to_owned(), "session"),
        "jwt" | "jwt-struck" => (
            format!(
                "[[jwt.issuer]]\nname = \"bench\"\nissuer = \"{ISSUER}\"\njwks = {{ pem = \"jwt.pem\" }}\n\
                 audience = [\"{AUDIENCE}\"]\nalgorithms = [\"ES256\"]\ngrants = \"all\"\n"
            ),
            "jwt",
        ),
        _ => (String::new(), "none"),
    };
    let login = if matches!(mode, "session" | "durable") { SOMEBODY } else { "" };
    let state = if mode == "durable" { "state_dir = \"state\"\n" } else { "" };
    format!(
        "version = 1\n[server]\nlisten = [\"https://127.0.0.1:0\"]\nhosts = [\"bench.test\"]\nworkers = 1\n{state}\
         [tls]\ncertificates = [{{ cert = \"site.pem\", key = \"site.key\" }}]\nmin_version = \"1.3\"\n\
         [log]\naccess = \"off\"\naudit = \"off\"\n{table}{login}[upstream.app]\n\
         servers = [\"http://127.0.0.1:{upstream}\"]\n[[route]]\nname = \"all\"\n\
         match = {{ path = \"/api/orders/{{id}}\" }}\nauth = [\"{authenticator}\"]\nupstream = \"app\"\n"
    )
}

/// Sessions need a place to come from.
const SOMEBODY: &str = "[[user]]\nname = \"nobody\"\npassword = \"$argon2id$v=19$m=19456,t=2,p=1$\
    c29tZXNhbHRzb21lc2FsdA$K7N0YYcJDGS2Q9RjQ4nJwVQEyxr6SVcDSyZLHW9VzJk\"\n";

/// The gateway, or what is left of it without its middle, until stdin ends.
fn serve(mode: &str, folder: &Path) -> Result<()> {
    let file = folder.join("gateway.toml");
    let config = config::load(&file, []).map_err(|report| report.to_string())?;
    if mode.starts_with("bare") {
        return serve_bare(config);
    }
    let settings_of_sessions = matches!(mode, "session" | "durable").then(|| config.snapshot.session.clone());
    let running = gateway::start(config, Clock::system(), Box::new(move || config::load(&file, [])))?;
    let address = running.addresses().gateway[0];
    if mode == "jwt-struck" {
        strike(&running.live().shared.revocations)?;
    }
    let token = settings_of_sessions.map_or(Ok(String::new()), |settings| -> Result<String> {
        let person = Person::number(7);
        let identity = Identity::new(IdentityParts {
            realm: "local".into(),
            subject: person.id,
            name: Some(person.name),
            email: Some(person.email),
            email_verified: true,
            roles: person.roles.map(str::to_owned).to_vec(),
            groups: Vec::new(),
            scopes: Vec::new(),
            claims: serde_json::Map::new(),
            auth_time: None,
            factor: Factor::One,
            via: Via::Session,
        })
        .map_err(|error| format!("{error:?}"))?;
        let sessions = &running.live().shared.sessions;
        let opening = sessions.open(Arc::new(identity), None, &settings, Clock::system().now());
        let opened = tokio::runtime::Builder::new_current_thread().build()?.block_on(opening);
        Ok(opened.map(|(token, _)| token.expose().to_owned()).map_err(|error| format!("{error:?}"))?)
    })?;
    println!("{address} {token}");
    wait_for_the_end()?;
    running.stop();
    Ok(())
}

/// Revokes tokens that nobody sends.
fn strike(list: &Revocations) -> Result<()> {
    for number in 0..STRUCK {
        let target = Target::Jti { issuer: ISSUER.into(), jti: format!("struck-{number}").into() };
        let struck = list.strike(target, Clock::system().now(), Keep::For(A_DAY), STRUCK);
        struck.map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

const STRUCK: usize = 10_000;
const A_DAY: Duration = Duration::from_secs(86_400);

fn serve_bare(config: Config) -> Result<()> {
    let Config { startup, tls, snapshot, .. } = config;
    let tls = tls.ok_or("no [tls]")?;
    let config::TlsSource::Files(files) = tls.source else { return Err("no certificate".into()) };
    let clock = Clock::system();
    let (certificate, _) = Certificate::load(&files[0].cert, &files[0].key, clock.now())?;
    let resolver = Arc::new(CertificateResolver::new(vec![certificate]));
    let resolver: edge::Certificates = resolver;
    let slot = TlsSlot::new(edge::Spoken::new(&resolver, tls.min_version, &tls.groups, tls.asked, None)?);
    let bound = edge::bind(&startup.edge.listeners[0])?;
    let address = bound.local_addr().ok_or("no address")?;
    let shutdown = Shutdown::new();
    let setup = edge::Setup {
        name: "worker",
        listeners: vec![bound],
        tls: Some(Arc::new(slot)),
        workers: 1,
        limits: startup.edge.limits,
        drain_timeout: startup.edge.drain_timeout,
        peers: Peers::everybody(),
        shutdown: shutdown.clone(),
        clock,
        counters: Arc::default(),
    };
    let shared = upstream::Shared::new(None, Box::default());
    let settings = Arc::clone(&snapshot.upstreams[0]);
    let stop = shutdown.clone();
    let running = edge::start(setup, move |_| Bare {
        upstreams: Upstreams::new(Arc::clone(&shared), shutdown.clone()),
        settings: Arc::clone(&settings),
    })?;
    println!("{address}");
    wait_for_the_end()?;
    stop.trigger();
    running.join();
    Ok(())
}

/// Forwards what comes.
struct Bare {
    upstreams: Upstreams,
    settings: Arc<upstream::Settings>,
}

impl Handler for Bare {
    type Body = upstream::Body;

    async fn handle(&self, inbound: &mut Inbound, _: Incoming, _: Hints<'_>) -> Response<upstream::Body> {
        let head = &inbound.head;
        // Over HTTP/2 the host is `:authority`.
        let authority = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = head.headers.get(http::header::HOST).cloned().or(authority).expect("a host");
        let mut request = Outgoing {
            method: head.method.clone(),
            target: head.uri.path_and_query().expect("origin-form").clone(),
            host,
            lines: head.headers.iter().collect(),
            caller: None,
            attempts: 0,
            expects_continue: false,
            body: None,
            takes_trailers: false,
            trailers: None,
            received: None,
            websocket: None,
        };
        let limits = upstream::Limits::default();
        upstream::forward(&self.upstreams, &self.settings, &mut request, &limits).await.expect("the upstream answers")
    }
}

fn wait_for_the_end() -> Result<()> {
    std::io::stdout().flush()?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    Ok(())
}
