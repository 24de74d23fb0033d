//! The load: as many requests as one core can make over a fixed number of TLS connections, each followed by the next.
//!
//! HTTP/1.1 and HTTP/2 are written by hand, because a full client would cost more than the proxies it measures. Only
//! what the comparison sends and receives is understood; any other answer than 200 ends the run with an error. The
//! client offers TLS 1.3 with X25519 and AES-256-GCM only, so every proxy does the same cryptography.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::clock::instant;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Result,
    frames::{self, Frame},
    workload::Protocol,
};

/// What one request proves itself with.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    None,
    Bearer(String),
    /// A whole `Cookie` value.
    Cookie(String),
}

impl Credential {
    pub(crate) fn session(token: &str) -> Self {
        Self::Cookie(format!("__Host-portcullis={token}"))
    }
}

/// A proxy's TLS address.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Target {
    /// Trusts exactly this certificate.
    pub(crate) fn new(address: SocketAddr, certificate: &rcgen::Certificate) -> Result<Self> {
        let connector = |protocol: &[u8]| -> Result<TlsConnector> {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
            provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate.der().clone())?;
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            config.resumption = rustls::client::Resumption::disabled();
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { address, http1: connector(b"http/1.1")?, http2: connector(b"h2")? })
    }

    /// One request that also lies about who sends it; answers the status.
    pub(crate) async fn ask(&self, credential: &Credential) -> Result<u16> {
        let answer = async {
            let mut stream = self.connect(&self.http1).await?;
            let mut request = Vec::new();
            write_http1(
                &mut request,
                credential,
                "X-User-Id: root\r\nX-User-Roles: admin\r\nX-Forwarded-For: 203.0.113.9\r\n",
            );
            stream.write_all(&request).await?;
            stream.flush().await?;
            let mut buffer = vec![0; BUFFER];
            Ok(read_http1(&mut stream, &mut buffer).await?.status)
        };
        tokio::time::timeout(PATIENCE, answer).await?
    }

    /// A connection that speaks HTTP/1.1 and has served one request with this credential.
    pub(crate) async fn used_connection(&self, credential: &Credential) -> Result<TlsStream<TcpStream>> {
        let mut stream = self.connect(&self.http1).await?;
        let mut request = Vec::new();
        write_http1(&mut request, credential, "");
        stream.write_all(&request).await?;
        stream.flush().await?;
        let answer = read_http1(&mut stream, &mut vec![0; BUFFER]).await?;
        if answer.status == 200 { Ok(stream) } else { Err(format!("answers {}", answer.status).into()) }
    }

    async fn connect(&self, connector: &TlsConnector) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(connector.connect(ServerName::try_from(HOST)?, stream).await?)
    }

    /// One that remembers the tickets it gets.
    fn resuming(&self) -> TlsConnector {
        let mut config = rustls::ClientConfig::clone(self.http1.config());
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        TlsConnector::from(Arc::new(config))
    }
}

/// A load under way. It ends with [`Self::stop`], or when it is dropped.
pub(crate) struct Load {
    shared: Rc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    begun: Cell<Option<Instant>>,
}

struct Shared {
    credentials: Rc<[Credential]>,
    next: Cell<usize>,
    is_measuring: Cell<bool>,
    is_stopping: Cell<bool>,
    /// Microseconds of each request while measuring.
    latencies: RefCell<Vec<u32>>,
    /// Requests answered since the start; read by other threads.
    answered: Arc<AtomicU64>,
    failure: RefCell<Option<String>>,
}

/// What was seen between [`Load::begin`] and [`Load::end`].
pub(crate) struct Sample {
    /// Requests answered.
    pub(crate) requests: usize,
    /// Seconds between the two.
    pub(crate) seconds: f64,
    /// Microseconds, sorted.
    latencies: Vec<u32>,
}

impl Sample {
    /// Of latencies in microseconds, taken in so many seconds.
    pub(crate) fn new(mut latencies: Vec<u32>, seconds: f64) -> Self {
        latencies.sort_unstable();
        Self { requests: latencies.len(), seconds, latencies }
    }

    /// The latency that this share (0 to 1) of the requests did not exceed, in microseconds.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index below a few million"
    )]
    pub(crate) fn percentile(&self, share: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}

impl Load {
    /// Opens the connections and begins to ask.
    pub(crate) fn start(
        target: &Target,
        protocol: Protocol,
        connections: usize,
        credentials: Rc<[Credential]>,
    ) -> Result<Self> {
        if credentials.is_empty() {
            return Err("there are no credentials to send".into());
        }
        let shared = Rc::new(Shared {
            credentials,
            next: Cell::new(0),
            is_measuring: Cell::new(false),
            is_stopping: Cell::new(false),
            latencies: RefCell::new(Vec::with_capacity(1 << 20)),
            answered: Arc::default(),
            failure: RefCell::new(None),
        });
        let tasks = (0..connections)
            .map(|_| {
                let (target, shared) = (target.clone(), Rc::clone(&shared));
                tokio::task::spawn_local(async move {
                    let ended = match protocol {
                        Protocol::Http1 => ask_http1(&target, &shared).await,
                        Protocol::Http2 => ask_http2(&target, &shared).await,
                        Protocol::Handshake => ask_afresh(&target, &shared, false).await,
                        Protocol::Resumed => ask_afresh(&target, &shared, true).await,
                    };
                    if let Err(error) = ended {
                        shared.failure.borrow_mut().get_or_insert(error.to_string());
                        shared.is_stopping.set(true);
                    }
                })
            })
            .collect();
        Ok(Self { shared, tasks, begun: Cell::new(None) })
    }

    /// Lets it run for a while, and until so many requests were answered.
    pub(crate) async fn warm_up(&self, time: Duration, requests: usize) -> Result<()> {
        tokio::time::sleep(time).await;
        let asked = u64::try_from(requests.max(1))?;
        for _ in 0..LONGEST_WARM_UP_MS / 10 {
            self.fail_if_failed()?;
            if self.shared.answered.load(Ordering::Relaxed) >= asked {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("fewer than {asked} requests were answered while warming up").into())
    }

    /// From here on requests are counted and timed.
    pub(crate) fn begin(&self) {
        self.shared.latencies.borrow_mut().clear();
        self.begun.set(Some(instant()));
        self.shared.is_measuring.set(true);
    }

    /// Until here.
    pub(crate) fn end(&self) -> Result<Sample> {
        self.shared.is_measuring.set(false);
        self.fail_if_failed()?;
        let begun = self.begun.get().ok_or("end without begin")?;
        let seconds = instant().duration_since(begun).as_secs_f64();
        Ok(Sample::new(std::mem::take(&mut *self.shared.latencies.borrow_mut()), seconds))
    }

    /// Requests answered since the start.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.answered)
    }

    /// Ends it.
    pub(crate) async fn stop(self) -> Result<()> {
        self.shared.is_stopping.set(true);
        let all_ended = async {
            while !self.tasks.iter().all(JoinHandle::is_finished) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Connections that do not end are cut when `self` goes.
        let _ = tokio::time::timeout(PATIENCE, all_ended).await;
        self.fail_if_failed()
    }

    fn fail_if_failed(&self) -> Result<()> {
        match &*self.shared.failure.borrow() {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn next_credential(&self) -> &Credential {
        let at = self.next.get();
        self.next.set(if at + 1 == self.credentials.len() { 0 } else { at + 1 });
        &self.credentials[at]
    }

    fn answered(&self, asked: Instant) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if self.is_measuring.get() {
            let micros = instant().duration_since(asked).as_micros();
            self.latencies.borrow_mut().push(u32::try_from(micros).unwrap_or(u32::MAX));
        }
    }
}

// ---- HTTP/1.1 ----

async fn ask_http1(target: &Target, shared: &Shared) -> Result<()> {
    let mut stream = target.connect(&target.http1).await?;
    let mut request = Vec::with_capacity(2048);
    let mut buffer = vec![0; BUFFER];
    while !shared.is_stopping.get() {
        request.clear();
        write_http1(&mut request, shared.next_credential(), "");
        let asked = instant();
        stream.write_all(&request).await?;
        stream.flush().await?;
        let answer = read_http1(&mut stream, &mut buffer).await?;
        if answer.status != 200 {
            return Err(format!("answers {} under load", answer.status).into());
        }
        shared.answered(asked);
        if answer.closes {
            stream = target.connect(&target.http1).await?;
        }
    }
    Ok(())
}

/// Each request on a connection of its own. Whoever resumes must not have to begin anew twice.
async fn ask_afresh(target: &Target, shared: &Shared, resumes: bool) -> Result<()> {
    let connector = if resumes { target.resuming() } else { target.http1.clone() };
    let mut request = Vec::with_capacity(2048);
    let mut buffer = vec![0; BUFFER];
    let mut full = 0;
    while !shared.is_stopping.get() {
        request.clear();
        write_http1(&mut request, shared.next_credential(), "");
        let asked = instant();
        let mut stream = target.connect(&connector).await?;
        full += u32::from(stream.get_ref().1.handshake_kind() != Some(rustls::HandshakeKind::Resumed));
        stream.write_all(&request).await?;
        stream.flush().await?;
        let answer = read_http1(&mut stream, &mut buffer).await?;
        if answer.status != 200 {
            return Err(format!("answers {} under load", answer.status).into());
        }
        // Whoever closed first is not waited for.
        let _ = stream.shutdown().await;
        shared.answered(asked);
        if resumes && full > 1 {
            return Err("resumes no connection".into());
        }
    }
    Ok(())
}

pub(crate) fn write_http1(out: &mut Vec<u8>, credential: &Credential, more: &str) {
    out.extend_from_slice(b"GET /api/orders/42?expand=items HTTP/1.1\r\nHost: bench.test\r\n");
    out.extend_from_slice(b"User-Agent: compare/1.0\r\nAccept: application/json\r\nAccept-Language: en\r\n");
    match credential {
        Credential::None => {}
        Credential::Bearer(token) => {
            out.extend_from_slice(b"Authorization: Bearer ");
            out.extend_from_slice(token.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Credential::Cookie(cookie) => {
            out.extend_from_slice(b"Cookie: ");
            out.extend_from_slice(cookie.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(more.as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) closes: bool,
}

/// Reads one answer whose length `Content-Length` or chunks tell, and which fits into the buffer.
pub(crate) async fn read_http1(stream: &mut TlsStream<TcpStream>, buffer: &mut [u8]) -> Result<Answer> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err("closes the connection without an answer".into());
        }
        filled += read;
        let so_far = &buffer[..filled];
        let Some(end) = memchr::memmem::find(so_far, b"\r\n\r\n") else { continue };
        let (head, body) = so_far.split_at(end + 4);
        let status = std::str::from_utf8(head.get(9..12).ok_or("a short status line")?)?.parse()?;
        let is_whole = match field(head, b"content-length") {
            Some(length) => body.len() >= std::str::from_utf8(length)?.parse::<usize>()?,
            // The answers of proxies themselves: a refusal in chunks or until the end of the connection.
            None => status != 200 || body.ends_with(b"0\r\n\r\n"),
        };
        if is_whole {
            return Ok(Answer { status, closes: field(head, b"connection").is_some_and(|value| value == b"close") });
        }
    }
}

/// The value of the first field of this lower-case name.
fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = head;
    while let Some(line_end) = memchr::memchr(b'\n', rest) {
        let (line, after) = rest.split_at(line_end + 1);
        rest = after;
        if line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name) {
            return Some(line[name.len() + 1..].trim_ascii());
        }
    }
    None
}

// ---- HTTP/2 (RFC 9113) ----

/// Keeps [`STREAMS`] requests under way on one connection.
async fn ask_http2(target: &Target, shared: &Shared) -> Result<()> {
    let mut stream = target.connect(&target.http2).await?;
    let mut out = Vec::with_capacity(64 * 1024);
    frames::write_preface(&mut out);
    let mut asked: Vec<(u32, Instant)> = Vec::with_capacity(STREAMS);
    let mut next_id = 1;
    let mut received: u32 = 0;
    for _ in 0..STREAMS {
        write_http2(&mut out, next_id, shared.next_credential());
        asked.push((next_id, instant()));
        next_id += 2;
    }
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 4 * BUFFER];
    let mut filled = 0;
    while !shared.is_stopping.get() {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err("closes the HTTP/2 connection".into());
        }
        filled += read;
        out.clear();
        let mut at = 0;
        while let Some((frame, length)) = Frame::first(&buffer[at..filled]) {
            at += length;
            match frame.kind {
                frames::HEADERS if !frame.is_status_200() => {
                    return Err("answers something else than 200 over HTTP/2".into());
                }
                frames::DATA => received += u32::try_from(frame.payload.len())?,
                frames::SETTINGS | frames::PING if frame.flags & frames::ACK == 0 => {
                    // Settings are acknowledged without repeating them (RFC 9113 section 6.5).
                    let payload = if frame.kind == frames::PING { frame.payload } else { &[] };
                    frames::write(&mut out, frame.kind, frames::ACK, 0, payload);
                }
                frames::RST_STREAM => return Err("resets a stream".into()),
                frames::GOAWAY => return Err("sends GOAWAY under load".into()),
                _ => {}
            }
            if frame.ends_stream() {
                let place = asked
                    .iter()
                    .position(|(stream, _)| *stream == frame.stream)
                    .ok_or("answers a stream nobody asked on")?;
                let (_, since) = asked.swap_remove(place);
                shared.answered(since);
                write_http2(&mut out, next_id, shared.next_credential());
                asked.push((next_id, instant()));
                next_id += 2;
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if received > 1 << 28 {
            frames::write(&mut out, frames::WINDOW_UPDATE, 0, 0, &received.to_be_bytes()[..]);
            received = 0;
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
        }
    }
    Ok(())
}

fn write_http2(out: &mut Vec<u8>, id: u32, credential: &Credential) {
    let proof = match credential {
        Credential::None => None,
        Credential::Bearer(token) => Some((frames::AUTHORIZATION, format!("Bearer {token}"))),
        Credential::Cookie(cookie) => Some((frames::COOKIE, cookie.clone())),
    };
    let mut fields = vec![
        (frames::USER_AGENT, "compare/1.0"),
        (frames::ACCEPT, "application/json"),
        (frames::ACCEPT_LANGUAGE, "en"),
    ];
    fields.extend(proof.as_ref().map(|(name, value)| (*name, value.as_str())));
    frames::write_get(out, id, "/api/orders/42?expand=items", HOST, &fields);
}

const HOST: &str = "bench.test";
pub(crate) const BUFFER: usize = 16 * 1024;
const STREAMS: usize = 32;
const LONGEST_WARM_UP_MS: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(5);
