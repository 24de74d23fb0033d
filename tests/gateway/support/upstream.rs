//! A backend made of plain sockets: it records every byte exactly as it came and answers what the test says.
//!
//! It reads requests as strictly as RFC 9112 allows; one that it cannot read is recorded as raw bytes, and its
//! connection is closed. By default it answers 200 with the body `ok`.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::{fields, patience, program::free_address};

/// A running backend. Dropping it closes its sockets.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    arrivals: Mutex<mpsc::Receiver<Seen>>,
    accepts: Option<thread::JoinHandle<()>>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// The request target, query and all.
    pub(crate) path: String,
    /// In the order they came, names and values as they came.
    pub(crate) headers: Vec<(String, String)>,
    /// Without its chunks.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Every byte of it, head and body.
    pub(crate) raw: Vec<u8>,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
}

/// What the backend answers.
pub(crate) enum Reply {
    /// These bytes; then the next request is awaited.
    Bytes(Vec<u8>),
    /// These bytes; then the connection is closed.
    BytesThenClose(Vec<u8>),
    /// Whatever this does with the connection; it is closed afterwards.
    TakeOver(Box<dyn FnOnce(&mut TcpStream) + Send>),
}

type Respond = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;
type RespondEarly = Arc<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

struct Shared {
    respond: Mutex<Respond>,
    respond_early: Mutex<RespondEarly>,
    /// All bytes of all connections, in the order they arrived.
    bytes: Mutex<Vec<u8>>,
    requests: AtomicUsize,
    /// Bytes of whole requests.
    well_formed: AtomicUsize,
    broken: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
    open: AtomicUsize,
    is_ended: AtomicBool,
    arrived: mpsc::Sender<Seen>,
}

impl Upstream {
    /// Listens on a free port.
    pub(crate) fn start() -> Self {
        // Nobody else comes to its address once it has gone.
        Self::start_at(free_address())
    }

    /// Listens where another has listened, for an upstream that comes back.
    pub(crate) fn start_at(address: SocketAddr) -> Self {
        Self::listen(TcpListener::bind(address).expect("the port is still free"))
    }

    fn listen(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let (arrived, arrivals) = mpsc::channel();
        let shared = Arc::new(Shared {
            respond: Mutex::new(Arc::new(|_| Reply::ok("ok"))),
            respond_early: Mutex::new(Arc::new(|_| None)),
            bytes: Mutex::default(),
            requests: AtomicUsize::new(0),
            well_formed: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
            connections: Mutex::default(),
            open: AtomicUsize::new(0),
            is_ended: AtomicBool::new(false),
            arrived,
        });
        let accepting = Arc::clone(&shared);
        let accepts = thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if accepting.is_ended.load(Ordering::SeqCst) {
                    return;
                }
                let number = {
                    let mut connections = lock(&accepting.connections);
                    connections.push(stream.try_clone().expect("a socket can be cloned"));
                    connections.len() - 1
                };
                accepting.open.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    serve(stream, number, &shared);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared, arrivals: Mutex::new(arrivals), accepts: Some(accepts) }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `servers` wants it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers from now on, once the whole request is there.
    pub(crate) fn respond(&self, respond: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> &Self {
        *lock(&self.shared.respond) = Arc::new(respond);
        self
    }

    /// Answers from now on as soon as the head is there, unless this says `None`; `body` is still empty then.
    pub(crate) fn respond_early(&self, respond: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> &Self {
        *lock(&self.shared.respond_early) = Arc::new(respond);
        self
    }

    /// The next request that nobody has asked for yet; waits for it.
    #[track_caller]
    pub(crate) fn next_request(&self) -> Seen {
        match lock(&self.arrivals).recv_timeout(patience()) {
            Ok(seen) => seen,
            Err(_) => panic!("no request reached the upstream in time"),
        }
    }

    /// Whole requests so far.
    pub(crate) fn request_count(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests that broke off or could not be read.
    pub(crate) fn broken_count(&self) -> usize {
        self.shared.broken.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub(crate) fn connection_count(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Connections that are open now.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Every byte received so far, of all connections, in the order of arrival.
    pub(crate) fn bytes_seen(&self) -> Vec<u8> {
        lock(&self.shared.bytes).clone()
    }

    /// Requests that nobody has asked for yet; does not wait.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        lock(&self.arrivals).try_iter().collect()
    }

    /// Fails unless everything that ever arrived, to the last byte, is so many whole requests.
    #[track_caller]
    pub(crate) fn expect_only(&self, requests: usize) {
        let bytes = self.bytes_seen();
        assert_eq!(
            (self.request_count(), self.broken_count(), self.shared.well_formed.load(Ordering::SeqCst)),
            (requests, 0, bytes.len()),
            "whole requests, broken ones, and bytes of whole requests; the upstream got {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }

    /// Closes all connections, as a backend that restarts does; goes on listening.
    pub(crate) fn close_connections(&self) {
        for connection in lock(&self.shared.connections).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::SeqCst);
        self.close_connections();
        // Wakes the thread that accepts; nothing is accepted any more once it has ended.
        if TcpStream::connect(self.address).is_ok()
            && let Some(accepts) = self.accepts.take()
        {
            let _ = accepts.join();
        }
    }
}

impl Seen {
    /// The value of a header that must not come more than once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        fields::only(&self.headers, name)
    }

    /// All values of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        fields::all(&self.headers, name)
    }

    /// Names of all headers in lower case, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Reply {
    /// 200 with a body of known length.
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::with(200, &[], body)
    }

    /// A status with headers and a body of known length.
    pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = format!("HTTP/1.1 {status} Status\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if status != 204 && status != 304 {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        Self::Bytes(bytes)
    }

    /// Exactly these bytes; the connection stays open.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// Exactly these bytes and the end of the connection.
    pub(crate) fn raw_then_close(bytes: impl Into<Vec<u8>>) -> Self {
        Self::BytesThenClose(bytes.into())
    }

    /// Hands over the connection: for tunnels, pauses and everything else that is no plain answer.
    pub(crate) fn take_over(act: impl FnOnce(&mut TcpStream) + Send + 'static) -> Self {
        Self::TakeOver(Box::new(act))
    }
}

fn serve(mut stream: TcpStream, connection: usize, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut reader = Reader { buffer: Vec::new(), shared };
    loop {
        match reader.request(&mut stream, connection) {
            Ok(Some(reply)) => {
                let goes_on = match reply {
                    Reply::Bytes(bytes) => stream.write_all(&bytes).is_ok(),
                    Reply::BytesThenClose(bytes) => {
                        let _ = stream.write_all(&bytes);
                        false
                    }
                    Reply::TakeOver(act) => {
                        act(&mut stream);
                        false
                    }
                };
                if !goes_on {
                    break;
                }
            }
            Ok(None) => break,
            Err(_) => {
                shared.broken.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    // What was sent and not read would turn the end into a reset, and the answer with it.
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let mut rest = [0; 4096];
    while let Ok(1..) = stream.read(&mut rest) {}
    let _ = stream.shutdown(Shutdown::Both);
}

struct Reader<'a> {
    /// Received and not yet part of a request.
    buffer: Vec<u8>,
    shared: &'a Shared,
}

impl Reader<'_> {
    /// Reads one request and says what to answer; `None` at the end of the connection between requests.
    fn request(&mut self, stream: &mut TcpStream, connection: usize) -> io::Result<Option<Reply>> {
        let head_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if !self.fill(stream)? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(broken("the head breaks off")) };
            }
        };
        let mut raw: Vec<u8> = self.buffer.drain(..head_end).collect();
        let mut seen = parse_head(&raw, connection)?;
        let early = Arc::clone(&lock(&self.shared.respond_early));
        if let Some(reply) = early(&seen) {
            seen.raw = raw;
            self.arrived(seen);
            return Ok(Some(reply));
        }
        if seen.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match (seen.all("transfer-encoding").as_slice(), seen.all("content-length").as_slice()) {
            ([], []) => {}
            ([], [length]) => {
                let length: usize = length.parse().map_err(|_| broken("a bad Content-Length"))?;
                seen.body = self.exactly(stream, length)?;
                raw.extend_from_slice(&seen.body);
            }
            (["chunked"], []) => self.chunks(stream, &mut seen, &mut raw)?,
            _ => return Err(broken("ambiguous framing")),
        }
        seen.raw = raw;
        let respond = Arc::clone(&lock(&self.shared.respond));
        let reply = respond(&seen);
        self.arrived(seen);
        Ok(Some(reply))
    }

    fn chunks(&mut self, stream: &mut TcpStream, seen: &mut Seen, raw: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line(stream)?;
            raw.extend_from_slice(&line);
            let text = String::from_utf8_lossy(&line);
            let digits = text.trim_end().split(';').next().unwrap_or_default();
            let length = usize::from_str_radix(digits, 16).map_err(|_| broken("a bad chunk size"))?;
            if length == 0 {
                break;
            }
            let chunk = self.exactly(stream, length + 2)?;
            if !chunk.ends_with(b"\r\n") {
                return Err(broken("a chunk without its end"));
            }
            raw.extend_from_slice(&chunk);
            seen.body.extend_from_slice(&chunk[..length]);
        }
        loop {
            let line = self.line(stream)?;
            raw.extend_from_slice(&line);
            if line == b"\r\n" {
                return Ok(());
            }
            seen.trailers.push(parse_field(&String::from_utf8_lossy(&line))?);
        }
    }

    fn line(&mut self, stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                return Ok(self.buffer.drain(..end + 2).collect());
            }
            if !self.fill(stream)? {
                return Err(broken("a line breaks off"));
            }
        }
    }

    fn exactly(&mut self, stream: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill(stream)? {
                return Err(broken("the body breaks off"));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads once; `false` at the end of the connection.
    fn fill(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        let read = stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..read]);
        lock(&self.shared.bytes).extend_from_slice(&bytes[..read]);
        Ok(read > 0)
    }

    fn arrived(&self, seen: Seen) {
        self.shared.well_formed.fetch_add(seen.raw.len(), Ordering::SeqCst);
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        // Fails only while the test is ending.
        let _ = self.shared.arrived.send(seen);
    }
}

fn parse_head(raw: &[u8], connection: usize) -> io::Result<Seen> {
    // Header bytes above ASCII are kept apart as Latin-1, so that none is lost.
    let text: String = raw.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1"), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(broken("a bad request line"));
    };
    Ok(Seen {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: lines.map(parse_field).collect::<io::Result<_>>()?,
        body: Vec::new(),
        trailers: Vec::new(),
        raw: Vec::new(),
        connection,
    })
}

fn parse_field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line.split_once(':').ok_or_else(|| broken("a field without a colon"))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// A test that failed while it held the lock has said so already.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
