//! A TLS client that trusts the test's authority and sends exactly what it is told.
//!
//! Requests are written by hand, so nothing is repaired on the way: [`Client::raw`] and [`Connection`] take any bytes.
//! Each request of [`Client`] has a connection of its own; [`Connection`] keeps one.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

use super::{ClientId, fields, patience};

mod stream;
mod together;

pub(crate) use together::Streamed;

/// Whom to ask, and how.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    /// `None`: plain HTTP.
    roots: Option<Arc<RootCertStore>>,
    /// What it shows when it is asked for a certificate.
    id: Option<Arc<ClientId>>,
    /// How it speaks TLS, instead of as all do.
    config: Option<Arc<ClientConfig>>,
    /// The name in SNI, if it is not the host.
    server_name: Option<String>,
    headers: Vec<(String, String)>,
    /// Whether its WebSockets are streams of HTTP/2.
    streams: bool,
}

/// A request that is being put together.
#[derive(Clone)]
pub(crate) struct Request {
    client: Client,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// What came back.
#[derive(Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In order, names as they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// The statuses of the interim answers before it.
    pub(crate) interim: Vec<u16>,
}

/// One connection, for requests after each other and for bytes that are no requests.
pub(crate) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    /// Speaks TLS to `address` and calls it `host`.
    pub(crate) fn tls(address: SocketAddr, host: &str, roots: Arc<RootCertStore>) -> Self {
        Self {
            address,
            host: host.to_owned(),
            roots: Some(roots),
            id: None,
            config: None,
            server_name: None,
            headers: Vec::new(),
            streams: false,
        }
    }

    /// Speaks plain HTTP.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            host: address.to_string(),
            roots: None,
            id: None,
            config: None,
            server_name: None,
            headers: Vec::new(),
            streams: false,
        }
    }

    /// The same client that asks for another host, in SNI and in `Host`.
    pub(crate) fn host(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    /// The same client whose WebSockets are streams of HTTP/2.
    pub(crate) fn over_http2(&self) -> Self {
        Self { streams: true, ..self.clone() }
    }

    /// Whether they are.
    pub(crate) const fn opens_streams(&self) -> bool {
        self.streams
    }

    /// The same client that shows this certificate when it is asked for one.
    pub(crate) fn certificate(&self, id: &ClientId) -> Self {
        Self { id: Some(Arc::new(id.clone())), ..self.clone() }
    }

    /// The same client that has none to show.
    pub(crate) fn without_certificate(&self) -> Self {
        Self { id: None, ..self.clone() }
    }

    /// The same client that asks for another name in SNI than in `Host`.
    pub(crate) fn server_name(&self, name: &str) -> Self {
        Self { server_name: Some(name.to_owned()), ..self.clone() }
    }

    /// The same client that speaks TLS in this way, with HTTP/1.1.
    pub(crate) fn speaking(&self, config: ClientConfig) -> Self {
        Self { config: Some(Arc::new(config)), ..self.clone() }
    }

    /// How it would speak TLS with HTTP/1.1, to be changed.
    pub(crate) fn tls_settings(&self) -> ClientConfig {
        let roots = self.roots.as_ref().expect("a client that speaks TLS");
        tls_config(roots, self.id.as_deref(), &["http/1.1"])
    }

    /// The same client that sends this with every request.
    pub(crate) fn always(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub(crate) fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub(crate) fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Request {
        self.request("POST", target).body(body)
    }

    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        Request {
            client: self.clone(),
            method: method.to_owned(),
            target: target.to_owned(),
            headers: self.headers.clone(),
            body: None,
        }
    }

    /// Sends these bytes on a fresh connection and answers everything that came until the other side closed it, or
    /// until nothing came for `patience`.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let mut connection = self.connect();
        // The other side may close before it has read everything; what it said before counts.
        let _ = connection.write(bytes.as_ref());
        connection.read_to_end()
    }

    /// As [`Self::raw`], and reads one response out of it.
    pub(crate) fn raw_response(&self, bytes: impl AsRef<[u8]>) -> Response {
        let mut connection = self.connect();
        let _ = connection.write(bytes.as_ref());
        connection.read_response("GET").expect("a response to raw bytes")
    }

    /// Opens a connection for HTTP/1.1.
    #[track_caller]
    pub(crate) fn connect(&self) -> Connection {
        self.try_connect(&["http/1.1"]).expect("the connection can be opened")
    }

    /// Opens a connection that offers these protocols (ALPN); none: without the extension.
    pub(crate) fn try_connect(&self, protocols: &[&str]) -> io::Result<Connection> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience()))?;
        socket.set_write_timeout(Some(patience()))?;
        let stream = if let Some(roots) = &self.roots {
            let name = ServerName::try_from(self.sni()).map_err(io::Error::other)?;
            let config = match &self.config {
                Some(config) => Arc::clone(config),
                None => Arc::new(tls_config(roots, self.id.as_deref(), protocols)),
            };
            let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(session, socket);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            Stream::Tls(Box::new(stream))
        } else {
            Stream::Plain(socket)
        };
        Ok(Connection { stream, buffer: Vec::new() })
    }

    fn sni(&self) -> String {
        let host = self.server_name.as_ref().unwrap_or(&self.host);
        host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name).to_owned()
    }
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One `Cookie` header.
    pub(crate) fn cookie(self, value: &str) -> Self {
        self.header("Cookie", value)
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// A token with a proof that it is the sender's (RFC 9449).
    pub(crate) fn dpop(self, token: &str, proof: &str) -> Self {
        self.header("Authorization", &format!("DPoP {token}")).header("DPoP", proof)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// A JSON body with its type.
    pub(crate) fn json(self, body: &serde_json::Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// Who sends it.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// What it asks for.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// The value of its `Cookie` header.
    #[track_caller]
    pub(crate) fn cookies(&self) -> String {
        self.first("cookie").expect("it has a cookie").to_owned()
    }

    /// As a browser marks a navigation that a person began.
    pub(crate) fn navigation(self) -> Self {
        self.header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document")
            .header("Sec-Fetch-Site", "none")
            .header("Accept", "text/html")
    }

    /// The bytes of this request in HTTP/1.1.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut add = |name: &str, value: &str| {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        };
        if !self.has("host") {
            add("Host", &self.client.host);
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        if let Some(body) = &self.body
            && !self.has("content-length")
            && !self.has("transfer-encoding")
        {
            add("Content-Length", &body.len().to_string());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it over HTTP/1.1 on a connection of its own.
    #[track_caller]
    pub(crate) fn send(&self) -> Response {
        let mut connection = self.client.connect();
        connection.send(self)
    }

    /// Sends it over HTTP/1.1 on a connection of its own; an answer that breaks off is none.
    pub(crate) fn try_send(&self) -> io::Result<Response> {
        let mut connection = self.client.connect();
        // An early answer may come before everything is written.
        let _ = connection.write(&self.bytes());
        connection.read_response(&self.method)
    }

    /// Sends it over HTTP/2.
    #[track_caller]
    pub(crate) fn send_http2(&self) -> Response {
        self.try_send_http2().expect("an answer over HTTP/2")
    }

    /// As [`Self::send_http2`]; an answer that breaks off is none.
    #[track_caller]
    pub(crate) fn try_send_http2(&self) -> Result<Response, Box<dyn std::error::Error>> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let exchange = async { tokio::time::timeout(patience(), self.exchange_http2()).await };
        runtime.block_on(exchange)?
    }

    async fn exchange_http2(&self) -> Result<Response, Box<dyn std::error::Error>> {
        let stream = self.client.speak_http2().await.map_err(|why| why as Box<dyn std::error::Error>)?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let tasks = tokio::task::LocalSet::new();
        tasks.spawn_local(connection);
        tasks
            .run_until(async {
                let host = self.first("host").unwrap_or(&self.client.host);
                let mut request = http::Request::builder()
                    .method(self.method.as_str())
                    .uri(format!("https://{host}{}", self.target))
                    .version(http::Version::HTTP_2);
                for (name, value) in self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
                    request = request.header(name, value);
                }
                let body = Full::new(Bytes::from(self.body.clone().unwrap_or_default()));
                let (head, body) = sender.send_request(request.body(body)?).await?.into_parts();
                let body = body.collect().await?;
                let pairs = |headers: &http::HeaderMap| -> Vec<(String, String)> {
                    headers.iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes()))).collect()
                };
                Ok(Response {
                    status: head.status.as_u16(),
                    headers: pairs(&head.headers),
                    trailers: body.trailers().map(pairs).unwrap_or_default(),
                    body: body.to_bytes().to_vec(),
                    interim: Vec::new(),
                })
            })
            .await
    }

    fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The body is text to whoever reads why a test failed; most of a page is its style.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let style = text.find("<style>").zip(text.find("</style>"));
        let body = style.map_or_else(|| text.clone(), |(from, to)| format!("{}…{}", &text[..from], &text[to..]));
        writeln!(f, "{} {:?}", self.status, self.interim)?;
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            writeln!(f, "{name}: {value}")?;
        }
        write!(f, "\n{body}")
    }
}

impl Response {
    /// The value of a header that must not come more than once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        fields::only(&self.headers, name)
    }

    /// All values of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        fields::all(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// `name=value` of a cookie that this answer sets, as a browser would send it back.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        let wanted = format!("{name}=");
        let pair = self.all("set-cookie").into_iter().find(|value| value.starts_with(&wanted))?;
        pair.split(';').next().map(str::to_owned)
    }

    /// Fails unless the status is this one; says what the answer was.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the answer was\n{self:?}\n");
        self
    }
}

impl Connection {
    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends a request and reads its answer; the connection stays open for the next.
    #[track_caller]
    pub(crate) fn send(&mut self, request: &Request) -> Response {
        // An early answer may come before everything is written, and a refusal may close the connection meanwhile.
        let written = self.write(&request.bytes());
        match self.read_response(&request.method) {
            Ok(response) => response,
            Err(error) => panic!("no answer to {} {}: {error} (written: {written:?})", request.method, request.target),
        }
    }

    /// Reads the next answer; `method` is that of its request, because HEAD has no body.
    pub(crate) fn read_response(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let (status, headers) = self.read_head()?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new(), trailers: Vec::new(), interim };
            if method == "HEAD" || matches!(status, 101 | 204 | 304) {
                return Ok(response);
            }
            if response.header("transfer-encoding") == Some("chunked") {
                self.read_chunks(&mut response)?;
            } else if let Some(length) = response.header("content-length") {
                let length = length.parse().map_err(io::Error::other)?;
                response.body = self.read_exactly(length)?;
            } else {
                while self.fill()? {}
                response.body = std::mem::take(&mut self.buffer);
            }
            return Ok(response);
        }
    }

    /// Waits for the head of an interim answer and returns its status.
    pub(crate) fn read_interim(&mut self) -> io::Result<u16> {
        self.read_head().map(|(status, _)| status)
    }

    /// Exactly so many bytes, as they came.
    pub(crate) fn read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Everything until the other side closes, or nothing comes any more.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while let Ok(true) = self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the other side has closed; `false` if it sends something or keeps the connection open instead.
    /// Says that nothing more is sent.
    pub(crate) fn shut_write(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        }
    }

    pub(crate) fn is_closed_by_peer(&mut self) -> bool {
        self.buffer.is_empty()
            && match self.fill() {
                Ok(more) => !more,
                Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
    }

    /// Closes at once, in the middle of whatever is under way.
    pub(crate) fn cut(self) {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let _ = socket.shutdown(Shutdown::Both);
    }

    /// What ALPN chose.
    pub(crate) fn protocol(&self) -> Option<String> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => stream.conn.alpn_protocol().map(latin1),
        }
    }

    /// The TLS session, for what only it knows.
    pub(crate) fn tls(&self) -> Option<&ClientConnection> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(&stream.conn),
        }
    }

    fn read_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = latin1(&self.buffer.drain(..end).collect::<Vec<u8>>());
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
        let headers = lines
            .map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .collect::<Option<_>>();
        status.zip(headers).ok_or_else(|| io::Error::other(format!("no response head: {head:?}")))
    }

    fn read_chunks(&mut self, response: &mut Response) -> io::Result<()> {
        loop {
            let line = self.read_line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if length == 0 {
                break;
            }
            let chunk = self.read_exactly(length + 2)?;
            response.body.extend_from_slice(&chunk[..length]);
        }
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok(()) };
            response.trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(latin1(&line[..end]));
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads once; `false` at the end. An end without `close_notify` is an end all the same.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut bytes),
            Stream::Tls(stream) => stream.read(&mut bytes),
        };
        match read {
            Ok(read) => {
                self.buffer.extend_from_slice(&bytes[..read]);
                Ok(read > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn tls_config(roots: &Arc<RootCertStore>, id: Option<&ClientId>, protocols: &[&str]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(Arc::clone(roots));
    let mut config = match id {
        None => config.with_no_client_auth(),
        Some(id) => {
            config.with_client_auth_cert(id.chain.clone(), id.key.clone_key()).expect("a certificate and its key")
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// Bytes as text, one character each, so that none is lost.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
