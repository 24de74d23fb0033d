//! The one HTTPS client for what the gateway asks of others: key sets, discovery, certificates.
//!
//! In: a [`Url`] and a [`Request`] with its bounds. Out: the whole [`Answer`], or the one [`FetchError`] that says why
//! there is none. Everything is bounded: one deadline for name, connection, TLS, head and body together, and bytes of
//! the body. TLS is verified against the system's authorities or those of the configuration; `http` leads to this
//! machine only. Redirects are not followed, compressed answers not read, and no connection is kept. Runs on the
//! control thread, never on a worker.
//!
//! RFC 9110, RFC 9112, RFC 9525 (names in certificates).

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper_util::rt::TokioIo;

use crate::host::Authority;

mod connect;
mod trust;

pub use connect::Proxy;
pub use trust::{Trust, TrustError};

/// An `https` URL, or an `http` URL of this machine; without user information and fragment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    secure: bool,
    authority: Authority,
    target: PathAndQuery,
}

/// Why a text is no [`Url`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UrlError {
    /// Neither `https://` nor `http://`.
    Scheme,
    /// `http://` to another machine: anybody on the way could answer.
    Insecure,
    /// No good host and port, or user information before them.
    Authority,
    /// A path or query with bytes that none has, or a fragment.
    Target,
}

/// What to ask, and how much of an answer is taken.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD` or `POST`.
    pub method: Method,
    /// Besides `Host`, `User-Agent` and `Accept-Encoding`, which are ours.
    pub headers: HeaderMap,
    /// Empty for `GET`.
    pub body: Bytes,
    /// Most bytes of the answer's body.
    pub max_body: usize,
    /// From the look-up of the name to the last byte.
    pub deadline: Duration,
}

/// A whole answer. Its status may be any but a redirect.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, at most `max_body` bytes.
    pub body: Bytes,
}

/// Why there is no answer. `Display` says it in words for a log; it holds nothing of the request or of the answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FetchError {
    /// The name has no address.
    NotResolved,
    /// No address of it can be connected to.
    Unreachable,
    /// TLS failed: what rustls says.
    Tls(String),
    /// The proxy does not open a tunnel; its status, if it sent one.
    Proxy(Option<StatusCode>),
    /// `deadline` has passed.
    TimedOut,
    /// More than `max_body` bytes.
    TooLarge(usize),
    /// The connection ended, or what came is not HTTP.
    Broken,
    /// A redirect, which is not followed.
    Redirected(StatusCode),
    /// A coding that was not asked for.
    Encoded,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotResolved => f.write_str("its name has no address"),
            Self::Unreachable => f.write_str("it cannot be connected to"),
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::Proxy(Some(status)) => write!(f, "the proxy refuses the tunnel with {}", status.as_u16()),
            Self::Proxy(None) => f.write_str("the proxy does not answer as one"),
            Self::TimedOut => f.write_str("it did not answer in time"),
            Self::TooLarge(most) => write!(f, "its answer has more than {most} bytes"),
            Self::Broken => f.write_str("it broke off its answer, or did not speak HTTP"),
            Self::Redirected(status) => {
                write!(f, "it redirects ({}), which is not followed: write the URL it leads to", status.as_u16())
            }
            Self::Encoded => f.write_str("it compresses its answer, which was not asked for"),
        }
    }
}

impl std::error::Error for FetchError {}

impl Url {
    /// Whether it is `https`.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The same server with another path, which begins with `/`.
    ///
    /// # Errors
    /// [`UrlError::Target`] when it is no path.
    pub fn with_path(&self, path: &str) -> Result<Self, UrlError> {
        Ok(Self { target: target(path)?, ..self.clone() })
    }

    /// The path, beginning with `/`.
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// Whether a query was written.
    pub fn has_query(&self) -> bool {
        self.target.query().is_some()
    }

    fn port(&self) -> u16 {
        self.authority.port.unwrap_or(if self.secure { 443 } else { 80 })
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.authority.host.as_str().trim_start_matches('[').trim_end_matches(']')
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(UrlError::Scheme),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority: Authority = authority.parse().map_err(|_| UrlError::Authority)?;
        if !secure && !authority.host.is_loopback() {
            return Err(UrlError::Insecure);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, authority, target: target(&path)? })
    }
}

fn target(path: &str) -> Result<PathAndQuery, UrlError> {
    // `PathAndQuery` cuts a fragment off without a word.
    if !path.starts_with('/') || path.contains('#') {
        return Err(UrlError::Target);
    }
    PathAndQuery::try_from(path).map_err(|_| UrlError::Target)
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "it does not begin with https://",
            Self::Insecure => "http:// leads to this machine only: anybody on the way could answer",
            Self::Authority => "it names no good host and port",
            Self::Target => "its path holds bytes that no path has, or a fragment",
        })
    }
}

impl std::error::Error for UrlError {}

impl Request {
    /// A `GET` with the usual bounds: 1 MiB within 10 seconds.
    pub fn get() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            max_body: 1 << 20,
            deadline: Duration::from_secs(10),
        }
    }
}

/// Whom to believe and which way to go. Cheap to clone; two are equal when they believe the same and go the same way.
#[derive(Clone)]
pub struct Client {
    trust: Trust,
    proxy: Option<Arc<Proxy>>,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.trust == other.trust && self.proxy == other.proxy
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl Client {
    /// One that verifies servers against `trust` and goes through `proxy`, if there is one; to this machine directly.
    pub const fn new(trust: Trust, proxy: Option<Arc<Proxy>>) -> Self {
        Self { trust, proxy }
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`FetchError`]; the status of an answer is for the caller to judge, but for redirects.
    pub async fn send(&self, url: &Url, request: Request) -> Result<Answer, FetchError> {
        let deadline = request.deadline;
        // Boxed: TLS and HTTP states are kilobytes, which the tasks of the control thread need not hold while idle.
        let exchange = Box::pin(self.exchange(url, request));
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(FetchError::TimedOut))
    }

    async fn exchange(&self, url: &Url, request: Request) -> Result<Answer, FetchError> {
        let Request { method, mut headers, body, max_body, .. } = request;
        let host = HeaderValue::try_from(url.authority.to_string()).map_err(|_| FetchError::NotResolved)?;
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut outgoing = http::Request::new(Full::new(body));
        *outgoing.method_mut() = method;
        *outgoing.uri_mut() = url.target.clone().into();
        *outgoing.headers_mut() = headers;

        let stream = connect::connect(url, &self.trust, self.proxy.as_deref()).await?;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(MAX_HEAD_BYTES);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answer = async move {
            let response = sender.send_request(outgoing).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            if head.status.is_redirection() && head.status != StatusCode::NOT_MODIFIED {
                return Err(FetchError::Redirected(head.status));
            }
            if head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
                return Err(FetchError::Encoded);
            }
            let body = read(body, max_body).await?;
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The connection may end before its last bytes are taken out of the body.
            _ = connection => answer.await,
        }
    }
}

async fn read<B: Body<Data = Bytes, Error = hyper::Error> + Unpin>(
    mut body: B,
    most: usize,
) -> Result<Bytes, FetchError> {
    if body.size_hint().lower() > most as u64 {
        return Err(FetchError::TooLarge(most));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if whole.len() + data.len() > most {
            return Err(FetchError::TooLarge(most));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn broken(_: hyper::Error) -> FetchError {
    FetchError::Broken
}

/// Bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        sync::mpsc,
        thread,
    };

    use super::*;

    /// What comes of asking a server that runs `serve` once its client has connected.
    fn ask(
        request: Request,
        serve: impl FnOnce(&mut std::net::TcpStream) -> std::io::Result<()> + Send + 'static,
    ) -> Result<Answer, FetchError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A client that leaves early is what some of these are about.
            let _ = stream.read(&mut [0; 4096]).and_then(|_| serve(&mut stream));
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let trust = Trust::from_pem(authority.pem().as_bytes()).unwrap();
        runtime.block_on(Client::new(trust, None).send(&url, request))
    }

    fn says(bytes: &'static str) -> Result<Answer, FetchError> {
        ask(Request { max_body: 10, ..Request::get() }, move |stream| stream.write_all(bytes.as_bytes()))
    }

    #[test]
    fn an_answer_is_whole_and_bounded_or_none() {
        let body = |bytes| says(bytes).map(|answer| answer.body);

        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").unwrap(), "0123456789");
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nto the end").unwrap(), "to the end");
        assert_eq!(body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n").unwrap(), "ab");
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\r\nx").unwrap(), "x");
        assert_eq!(says("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").unwrap().status, StatusCode::NOT_FOUND);
        for (bytes, expect) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890", FetchError::TooLarge(10)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n0", FetchError::TooLarge(10)),
            ("HTTP/1.1 200 OK\r\n\r\n01234567890", FetchError::TooLarge(10)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012345678", FetchError::Broken),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", FetchError::Broken),
            ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx", FetchError::Encoded),
            ("HTTP/1.1 302 Found\r\nLocation: https://id.example/\r\n\r\n", FetchError::Redirected(StatusCode::FOUND)),
            ("HTTP/1.1 200", FetchError::Broken),
            ("", FetchError::Broken),
            ("+OK POP3 ready\r\n", FetchError::Broken),
        ] {
            assert_eq!(says(bytes).unwrap_err(), expect, "{bytes:?}");
        }
    }

    #[test]
    fn an_endless_head_is_broken_off() {
        let answer = ask(Request::get(), |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            loop {
                stream.write_all(b"X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")?;
            }
        });

        assert_eq!(answer.unwrap_err(), FetchError::Broken);
    }

    #[test]
    fn an_answer_that_drips_ends_at_the_deadline() {
        let (_open, never) = mpsc::channel::<()>();
        let request = Request { deadline: Duration::from_millis(100), ..Request::get() };

        let answer = ask(request, move |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")?;
            while never.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
                stream.write_all(b"x")?;
            }
            Ok(())
        });

        assert_eq!(answer.unwrap_err(), FetchError::TimedOut);
    }

    #[test]
    fn a_server_that_speaks_no_tls_is_no_https_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
        thread::spawn(move || {
            listener.accept().and_then(|(mut stream, _)| stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"))
        });
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let trust = Trust::from_pem(authority.pem().as_bytes()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

        let answer = runtime.block_on(Client::new(trust, None).send(&url, Request::get()));

        assert!(matches!(answer, Err(FetchError::Tls(_))), "{answer:?}");
    }

    #[test]
    fn urls_are_https_or_of_this_machine() {
        let rows: &[(&str, Result<&str, UrlError>)] = &[
            ("https://id.example.com", Ok("https://id.example.com/")),
            ("https://ID.example.com:8443/keys?v=1", Ok("https://id.example.com:8443/keys?v=1")),
            ("https://id.example.com?v=1", Ok("https://id.example.com/?v=1")),
            ("http://127.0.0.1:8080/keys", Ok("http://127.0.0.1:8080/keys")),
            ("http://[::1]/keys", Ok("http://[::1]/keys")),
            ("http://localhost/keys", Ok("http://localhost/keys")),
            ("http://id.example.com/keys", Err(UrlError::Insecure)),
            ("http://169.254.169.254/latest", Err(UrlError::Insecure)),
            ("http://127.0.0.1.example.com/", Err(UrlError::Insecure)),
            ("ftp://id.example.com/keys", Err(UrlError::Scheme)),
            ("file:///etc/passwd", Err(UrlError::Scheme)),
            ("HTTPS://id.example.com", Err(UrlError::Scheme)),
            ("//id.example.com", Err(UrlError::Scheme)),
            ("https://", Err(UrlError::Authority)),
            ("https://user:secret@id.example.com/", Err(UrlError::Authority)),
            ("https://id.example.com:0/", Err(UrlError::Authority)),
            ("https://id.example.com\\@evil.example/", Err(UrlError::Authority)),
            ("https://id.example.com/keys#x", Err(UrlError::Target)),
            ("https://id.example.com#x", Err(UrlError::Target)),
            ("https://id.example.com/a b", Err(UrlError::Target)),
            ("https://id.example.com/\r\nx: y", Err(UrlError::Target)),
        ];
        for (text, expect) in rows {
            let url: Result<Url, UrlError> = text.parse();
            assert_eq!(url.map(|url| url.to_string()), expect.map(str::to_owned), "{text}");
        }
    }
}
