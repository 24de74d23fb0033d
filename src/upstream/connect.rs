//! Making a connection to one server: name resolution, TCP or unix socket, TLS; or the built-in echo.
//!
//! In: a [`Target`], prepared once for each server, and the time that is left. Out: a byte stream, or the reason why
//! there is none: [`UpstreamError::Timeout`] only if time ran out, else [`UpstreamError::Unreachable`]. All addresses
//! of a name are tried, see `names` and `eyeballs`. Certificates are always verified, for the name that
//! is configured (RFC 9525); a connection that ends at one of our own listeners is refused (R36).

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Server, Settings, Shared, UpstreamError, echo,
    eyeballs::{self, Addresses},
    names::Name,
    tls::{SYSTEM_BUNDLE, ServerTls, system_roots},
};
use crate::{host::Authority, listener::OwnListener};

/// A server with everything prepared that a connection to it needs.
pub(super) struct Target {
    server: Server,
    /// Whether `https://` servers are offered HTTP/2.
    pub(super) offers_http2: bool,
    /// How TLS is spoken to it; `None`: as to everybody.
    pub(super) tls: Option<Arc<ServerTls>>,
    upstream: Arc<str>,
    shared: Arc<Shared>,
    /// What it is found by, if that is a name.
    pub(super) name: Option<Arc<Name>>,
    /// `host:port` as the server's own `Host`.
    pub(super) host: HeaderValue,
}

/// Which HTTP a server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Speaks {
    /// Each request has a connection to itself.
    Http1,
    /// Requests share connections.
    Http2,
    /// The first connection tells.
    Unknown,
}

/// What an `https://` server is offered to speak (RFC 7301).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Offer {
    /// Whatever it speaks best.
    All,
    /// HTTP/1.1, for what needs a connection of its own.
    Http1,
    /// A stream where the server opens tunnels on these (RFC 8441), else as [`Self::Http1`].
    Tunnel,
}

/// A byte stream to a server.
pub(super) enum Io {
    /// To the built-in echo.
    Memory(DuplexStream),
    /// `http://`.
    Tcp(TcpStream),
    /// `https://`; boxed because it is a kilobyte.
    Tls(Box<TlsStream<TcpStream>>),
    /// `unix:`.
    Unix(UnixStream),
}

/// Why the system's certificate authorities cannot be used.
#[derive(Debug)]
pub enum TrustError {
    /// The bundle cannot be read.
    Bundle(rustls_pki_types::pem::Error),
    /// It holds no usable certificate.
    Empty,
    /// The crypto provider supports no TLS version of ours.
    Provider(rustls::Error),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(why) => write!(f, "{SYSTEM_BUNDLE} cannot be read: {why}"),
            Self::Empty => write!(f, "{SYSTEM_BUNDLE} holds no usable certificate"),
            Self::Provider(why) => write!(f, "no usable TLS version: {why}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// Verifies `https` servers against the system's certificate authorities. Reads a file: not for workers.
///
/// # Errors
/// If the system's bundle is missing or empty.
pub fn system_trust() -> Result<Arc<ClientConfig>, TrustError> {
    trust(system_roots()?)
}

/// Verifies `https` servers against these roots.
///
/// # Errors
/// If the crypto provider supports no TLS version.
pub fn trust(roots: RootCertStore) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Provider)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Target {
    pub(super) fn new(server: Server, settings: &Settings, shared: Arc<Shared>) -> Self {
        let host = match &server {
            Server::Http(authority) | Server::H2c(authority) => host_value(authority, HTTP_PORT),
            Server::Https(authority) => host_value(authority, HTTPS_PORT),
            Server::Echo | Server::Unix(_) | Server::UnixH2c(_) => HeaderValue::from_static("localhost"),
        };
        let name = match &server {
            Server::Http(authority) | Server::H2c(authority) => shared.name(authority, HTTP_PORT),
            Server::Https(authority) => shared.name(authority, HTTPS_PORT),
            Server::Echo | Server::Unix(_) | Server::UnixH2c(_) => None,
        };
        Self {
            server,
            offers_http2: settings.http2,
            tls: settings.tls.clone(),
            upstream: Arc::clone(&settings.name),
            shared,
            name,
            host,
        }
    }

    /// What it speaks, as far as that is known before the first connection.
    pub(super) const fn speaks(&self) -> Speaks {
        match self.server {
            Server::Echo | Server::Http(_) | Server::Unix(_) => Speaks::Http1,
            Server::H2c(_) | Server::UnixH2c(_) => Speaks::Http2,
            Server::Https(_) if self.offers_http2 => Speaks::Unknown,
            Server::Https(_) => Speaks::Http1,
        }
    }

    /// Whether `io`, a connection to it, is one for HTTP/2.
    pub(super) fn is_http2(&self, io: &Io) -> bool {
        match (&self.server, io) {
            (Server::H2c(_) | Server::UnixH2c(_), _) => true,
            (_, Io::Tls(stream)) => stream.get_ref().1.alpn_protocol() == Some(H2),
            (_, Io::Memory(_) | Io::Tcp(_) | Io::Unix(_)) => false,
        }
    }

    /// Whether it can be asked for HTTP/1.1 instead.
    pub(super) const fn can_choose(&self) -> bool {
        matches!(self.server, Server::Https(_))
    }

    /// Whether what is said to it is encrypted.
    pub(super) const fn is_encrypted(&self) -> bool {
        matches!(self.server, Server::Https(_))
    }

    /// The name of its upstream.
    pub(super) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// A new connection within `limit`.
    pub(super) async fn dial(&self, offer: Offer, limit: Duration) -> Result<Io, UpstreamError> {
        timeout(limit, self.dial_unbounded(offer)).await.unwrap_or(Err(UpstreamError::Timeout("connect_timeout")))
    }

    async fn dial_unbounded(&self, offer: Offer) -> Result<Io, UpstreamError> {
        match &self.server {
            Server::Echo => Ok(Io::Memory(echo::connect(Arc::clone(&self.upstream)))),
            Server::Http(authority) | Server::H2c(authority) => self.tcp(authority, HTTP_PORT).await.map(Io::Tcp),
            Server::Https(authority) => {
                let tls = match &self.tls {
                    Some(own) => Arc::clone(own.config()),
                    None => self.shared.tls.load_full().ok_or(UpstreamError::Unreachable("no_trust_anchors"))?,
                };
                let name = match self.tls.as_ref().and_then(|own| own.server_name()) {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(bare(authority).to_owned())
                        .map_err(|_| UpstreamError::Unreachable("bad_name"))?,
                };
                let stream = self.tcp(authority, HTTPS_PORT).await?;
                let protocols = if self.offers_http2 && offer != Offer::Http1 { &[H2, HTTP1][..] } else { &[HTTP1] };
                let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
                let stream = TlsConnector::from(tls).with_alpn(protocols).connect(name, stream).await;
                stream.map(|stream| Io::Tls(Box::new(stream))).map_err(|_| UpstreamError::Unreachable("tls"))
            }
            Server::Unix(path) | Server::UnixH2c(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.map_err(|why| UpstreamError::Unreachable(connect_label(&why)))?;
                match stream.peer_addr() {
                    Ok(peer) if self.is_own_path(peer.as_pathname()) => Err(OWN_LISTENER),
                    Ok(_) | Err(_) => Ok(Io::Unix(stream)),
                }
            }
        }
    }

    async fn tcp(&self, authority: &Authority, default_port: u16) -> Result<TcpStream, UpstreamError> {
        const NOT_RESOLVED: UpstreamError = UpstreamError::Unreachable("name_not_resolved");
        let addresses = match &self.name {
            Some(name) => name.addresses(&self.shared).await.map_err(|_| NOT_RESOLVED)?,
            None => {
                let ip: IpAddr = bare(authority).parse().map_err(|_| NOT_RESOLVED)?;
                Addresses::from_iter([SocketAddr::new(ip, authority.port.unwrap_or(default_port))])
            }
        };
        let connected = eyeballs::connect(addresses).await;
        let stream =
            connected.map_err(|why| why.map_or(NOT_RESOLVED, |why| UpstreamError::Unreachable(connect_label(&why))))?;
        if self.is_own_listener(&stream) {
            return Err(OWN_LISTENER);
        }
        // Without it a head and a late body would wait for each other's acknowledgement; that the option cannot be set
        // is no reason to fail.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Asked of the connection, not of the name: it tells which address of this machine was really meant.
    fn is_own_listener(&self, stream: &TcpStream) -> bool {
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return false };
        // One written as IPv6 that is really IPv4 (RFC 4291 section 2.5.5.2) is the same.
        let (port, peer, local) = (peer.port(), peer.ip().to_canonical(), local.ip().to_canonical());
        let same_machine = peer == local || peer.is_loopback();
        self.shared.own_listeners.iter().any(|own| match own {
            OwnListener::Ip(own) => {
                let ip = own.ip().to_canonical();
                own.port() == port && (ip == peer || (ip.is_unspecified() && same_machine))
            }
            OwnListener::Unix(_) => false,
        })
    }

    /// The path is the one that the socket was bound to, whatever links lead to it.
    fn is_own_path(&self, path: Option<&Path>) -> bool {
        self.shared.own_listeners.iter().any(|own| match own {
            OwnListener::Unix(own) => path == Some(own),
            OwnListener::Ip(_) => false,
        })
    }
}

/// R36: it would be asked by itself.
const OWN_LISTENER: UpstreamError = UpstreamError::Unreachable("own_listener");

/// The host without the brackets of an IPv6 address.
pub(super) fn bare(authority: &Authority) -> &str {
    authority.host.as_str().trim_start_matches('[').trim_end_matches(']')
}

/// RFC 9110 section 7.2: the default port is left out.
fn host_value(authority: &Authority, default_port: u16) -> HeaderValue {
    let text = match authority.port {
        Some(port) if port != default_port => format!("{}:{port}", authority.host),
        Some(_) | None => authority.host.to_string(),
    };
    // A host consists of letters, digits, `-`, `_`, `.`, `:` and brackets; an impossible one names nobody.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("invalid"))
}

fn connect_label(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::NotFound => "no_socket",
        io::ErrorKind::PermissionDenied => "not_permitted",
        _ => "unreachable",
    }
}

macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Io::Memory($stream) => $call,
            Io::Tcp($stream) => $call,
            Io::Tls($stream) => $call,
            Io::Unix($stream) => $call,
        }
    };
}

impl Io {
    /// Pending if it is certain, without asking the system, that there is nothing to read.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Unix(stream) => stream.poll_read_ready(cx).map(drop),
            // Something may have been read of the socket already.
            Self::Memory(_) | Self::Tls(_) => Poll::Ready(()),
        }
    }
}

impl Io {
    /// The address at the other end, if it is one.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            Self::Memory(_) | Self::Unix(_) => None,
        }
    }
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// ALPN names (RFC 9113 section 3.1, RFC 7301 section 6).
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
