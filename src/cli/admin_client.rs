//! The client of the admin API that commands share.
//!
//! ```ignore
//! #[derive(Debug, clap::Args)]
//! struct Arguments {
//!     #[command(flatten)]
//!     admin: AdminArguments,
//! }
//! let client = AdminClient::new(config_path, &arguments.admin)?;
//! let ended = client.ask(Method::DELETE, &format!("sessions?{}", query(&[("subject", Some("alice"))])), None)?;
//! let struck = client.ask(Method::POST, "revocations", Some(&json!({ "kind": "subject", "subject": "alice" })))?;
//! ```
//! Paths are those after `/api/v1/`; answers are JSON. An answer that is no success becomes a [`Failure`] with the
//! API's own message. Where the API listens comes from `--admin` (also `PORTCULLIS_ADMIN`), else from `[admin] listen`
//! of gateway.toml, of which nothing else is read: whoever revokes need not be able to read the gateway's secrets.
//! The token comes from `--token-file`, else from `PORTCULLIS_ADMIN_TOKEN`; never from an argument, which process
//! lists show. It is sent over plain HTTP to this machine only.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroize;

use super::{Failure, environment};
use crate::{
    config,
    host::{Authority, Host},
    listener::Listener,
    secret::Secret,
    upstream,
};

/// How a command reaches the admin API; for `#[command(flatten)]`.
#[derive(Debug, clap::Args)]
pub(super) struct AdminArguments {
    /// Where the admin API is, if not where gateway.toml says: unix:/path, http://127.0.0.1:9092, https://host:port.
    #[arg(long, global = true, value_name = "URL", env = "PORTCULLIS_ADMIN")]
    admin: Option<String>,

    /// The file with the token of an [[admin.token]]; without it, the variable PORTCULLIS_ADMIN_TOKEN holds the token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Trust these certificate authorities (PEM) for https:// instead of the system's.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A caller of the admin API.
pub(super) struct AdminClient {
    place: Place,
    /// `Host`.
    host: HeaderValue,
    authorization: Secret<Vec<u8>>,
    /// As messages name it.
    name: String,
}

enum Place {
    Tcp(String),
    Tls { address: String, name: ServerName<'static>, config: Arc<rustls::ClientConfig> },
    Unix(PathBuf),
}

impl AdminClient {
    /// Finds out where to ask and with which token; asks nothing yet.
    ///
    /// # Errors
    /// If one of the two is not told, or the token would travel in the clear.
    pub(super) fn new(config: &Path, arguments: &AdminArguments) -> Result<Self, Failure> {
        let authorization = authorization(arguments)?;
        let tls = || client_tls(arguments.ca.as_deref());
        let (place, host, name) = match &arguments.admin {
            Some(url) => from_url(url, tls)?,
            None => from_config(config, tls)?,
        };
        let host = HeaderValue::from_str(&host).map_err(|_| Failure::new(format!("{host:?} is no host")))?;
        Ok(Self { place, host, authorization, name })
    }

    /// Makes one call; `path` is such as `sessions?realm=staff`, `entry` is sent as JSON.
    ///
    /// # Errors
    /// If there is no answer, or one that is no success.
    pub(super) fn ask(&self, method: Method, path: &str, entry: Option<&Value>) -> Result<Value, Failure> {
        let body = entry.map(|entry| ("application/json", entry.to_string().into()));
        let answer = self.call(self.request(method, path, body)?)?;
        serde_json::from_slice(&answer).map_err(|_| self.unreachable("it does not answer in JSON"))
    }

    /// Lists what is at a path, page by page, with the parameters that are there; `each` gets one entry after the other
    /// of the answer's member of that name.
    ///
    /// # Errors
    /// As [`AdminClient::ask`] and `each`.
    pub(super) fn list(
        &self,
        name: &str,
        parameters: &[(&str, Option<&str>)],
        mut each: impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut after: Option<String> = None;
        loop {
            let query = query(&[parameters, &[("after", after.as_deref())]].concat());
            let page = self.ask(Method::GET, &format!("{name}?{query}"), None)?;
            page[name].as_array().into_iter().flatten().try_for_each(&mut each)?;
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(()),
            }
        }
    }

    /// Sends many entries, one JSON object a line; there is one answer for each, in order.
    ///
    /// # Errors
    /// If there is no answer, or one that is no success as a whole.
    pub(super) fn ask_lines(&self, path: &str, lines: Vec<u8>) -> Result<Vec<Value>, Failure> {
        let body = ("application/x-ndjson", lines.into());
        let answer = self.call(self.request(Method::POST, path, Some(body))?)?;
        serde_json::Deserializer::from_slice(&answer)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|_| self.unreachable("it does not answer in JSON"))
    }

    fn call(&self, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the system gives no timer: {error}")))?;
        let (status, body) = runtime
            .block_on(async { timeout(PATIENCE, self.exchange(request)).await })
            .unwrap_or_else(|_| Err(self.unreachable("no answer came in time")))?;
        if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut authorization = HeaderValue::from_bytes(self.authorization.expose())
            .map_err(|_| Failure::new("the token holds control characters".into()))?;
        authorization.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(header::HOST, self.host.clone())
            .header(header::AUTHORIZATION, authorization);
        let (content_type, bytes) = body.unzip();
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        request
            .body(Full::new(bytes.unwrap_or_default()))
            .map_err(|_| Failure::new(format!("/api/v1/{path} is no path of the admin API")))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error.to_string()))?;
                self.talk(stream, request).await
            }
            Place::Tcp(address) => self.talk(self.tcp(address).await?, request).await,
            Place::Tls { address, name, config } => {
                let stream = self.tcp(address).await?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await;
                let stream = stream.map_err(|error| self.unreachable(&format!("{error} (--ca names an authority)")))?;
                self.talk(stream, request).await
            }
        }
    }

    async fn tcp(&self, address: &str) -> Result<TcpStream, Failure> {
        TcpStream::connect(address).await.map_err(|error| self.unreachable(&error.to_string()))
    }

    async fn talk<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: &dyn std::fmt::Display| self.unreachable(&error.to_string());
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| broken(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| broken(&e))?;
            Ok((head.status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // Its own error, if there was one, reaches the exchange as well and is told there.
            _ = connection => exchange.await,
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::new(format!("the admin API at {} cannot be asked: {why}", self.name))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        let said: Option<Value> = serde_json::from_slice(body).ok();
        let message = said.as_ref().and_then(|said| said["message"].as_str()).unwrap_or("it gives no reason");
        Failure::new(format!("the admin API at {} answers {status}: {message}", self.name))
    }
}

/// A query of the parameters that are there, percent-encoded.
pub(super) fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let pairs = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
    pairs.collect::<Vec<_>>().join("&")
}

/// One segment of a path or one value of a query, percent-encoded.
fn segment(text: &str) -> String {
    utf8_percent_encode(text, OTHERS).to_string()
}

fn authorization(arguments: &AdminArguments) -> Result<Secret<Vec<u8>>, Failure> {
    let mut text = match &arguments.token_file {
        Some(file) => {
            fs::read(file).map_err(|error| Failure::new(format!("--token-file {}: {error}", file.display())))?
        }
        None => env::var_os(TOKEN_VARIABLE).map(std::os::unix::ffi::OsStringExt::into_vec).ok_or_else(|| {
            Failure::new(format!(
                "the admin API wants a token: name the file of an [[admin.token]] with --token-file, or set \
                 {TOKEN_VARIABLE}"
            ))
        })?,
    };
    let token = text.trim_ascii();
    let sound = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    let header = Secret::new([b"Bearer ", token].concat());
    text.zeroize();
    if sound { Ok(header) } else { Err(Failure::new("the token is not one line of visible characters".into())) }
}

type Found = (Place, String, String);

fn from_url(url: &str, tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, Failure>) -> Result<Found, Failure> {
    let unreadable =
        || Failure::new(format!("--admin {url:?} is none of unix:/path, http://127.0.0.1:PORT and https://host:port"));
    if let Some(path) = url.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
        return Ok((Place::Unix(path.into()), "localhost".to_owned(), url.to_owned()));
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(unreadable)?;
    let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| unreadable())?;
    let dial = |default: u16| format!("{}:{}", authority.host, authority.port.unwrap_or(default));
    match scheme {
        "http" if authority.host.is_loopback() => Ok((Place::Tcp(dial(80)), dial(80), url.to_owned())),
        "http" => Err(Failure::new(format!("the token would go to {url} in the clear; use https or the unix socket"))),
        "https" => {
            let name = server_name(&authority.host).ok_or_else(unreadable)?;
            Ok((Place::Tls { address: dial(443), name, config: tls()? }, dial(443), url.to_owned()))
        }
        _ => Err(unreadable()),
    }
}

fn from_config(
    path: &Path,
    tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, Failure>,
) -> Result<Found, Failure> {
    let file = path.display();
    let found = config::admin_listener(path, environment())
        .map_err(|report| Failure::new(format!("{file} does not say where the admin API is\n\n{report}")))?;
    let Some((listener, host)) = found else {
        return Err(Failure::new(format!("{file} has no [admin]; name the admin API with --admin URL")));
    };
    let name = listener.to_string();
    match listener {
        Listener::Unix { path, .. } => {
            let name = format!("unix:{}", path.display());
            Ok((Place::Unix(path), "localhost".to_owned(), name))
        }
        Listener::Http(address) => Ok((Place::Tcp(address.to_string()), address.to_string(), name)),
        Listener::Inherited { .. } => {
            Err(Failure::new(format!("{file} does not say where {name} leads; name the admin API with --admin URL")))
        }
        Listener::Https(address) => {
            let address = reachable(address);
            // The certificate is the gateway's: it names the gateway's hosts, rarely an address.
            let (server, sent) = match host.and_then(|host| Some((server_name(&host)?, host.to_string()))) {
                Some((server, host)) => (server, host),
                None => (ServerName::from(address.ip()), address.to_string()),
            };
            Ok((Place::Tls { address: address.to_string(), name: server, config: tls()? }, sent, name))
        }
    }
}

/// Who listens on every address listens on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    let bare = host.as_str().trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).ok()
}

fn client_tls(authorities: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let Some(file) = authorities else {
        return upstream::system_trust().map_err(|error| Failure::new(error.to_string()));
    };
    let unusable = |why: String| Failure::new(format!("--ca {}: {why}", file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    upstream::trust(roots).map_err(|error| unusable(error.to_string()))
}

/// Where the token is, if no file is named.
const TOKEN_VARIABLE: &str = "PORTCULLIS_ADMIN_TOKEN";

/// For a whole exchange.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an answer.
const MAX_ANSWER: usize = 256 << 20;

/// What is percent-encoded: all but unreserved characters (RFC 3986 section 2.3).
const OTHERS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
