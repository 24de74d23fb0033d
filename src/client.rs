//! What is known of the client before any header is believed, and the one view of it that everything uses (R15).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use http::HeaderValue;

use crate::{hints, host::Authority, mtls::ClientCertificate};

/// The address at the other end of the socket: a client, or a proxy in between.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerAddr {
    /// TCP.
    Ip(SocketAddr),
    /// A unix socket; who may connect is its file mode's matter.
    Unix,
}

/// `https` or `http`, as the client sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Not encrypted. Session cookies are neither read nor set (R20).
    Http,
    /// Encrypted, by us or by a trusted proxy.
    Https,
}

impl Scheme {
    /// As written in URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL need not name.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one connection is, fixed when it is accepted.
#[derive(Debug)]
pub struct Connection {
    /// Number of the connection within this process, for logs.
    pub id: u64,
    /// The other end.
    pub peer: PeerAddr,
    /// The load balancer that has said so (PROXY protocol); `None`: the socket did.
    pub said_by: Option<IpAddr>,
    /// Our end's port, for `X-Forwarded-Port` when the authority names none; 0 on unix sockets.
    pub local_port: u16,
    /// What TLS negotiated; `None` on plain listeners.
    pub tls: Option<Tls>,
    /// Ends it from within one of its requests.
    pub cutter: Cutter,
    /// What the client of its present request is told before the answer; over HTTP/1.1.
    pub hints: hints::OfConnection,
}

/// Ends a connection at once and without a word, whatever its client does or does not take.
#[derive(Debug, Default)]
pub struct Cutter {
    is_cut: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Cutter {
    /// Ends the connection.
    pub fn cut(&self) {
        self.is_cut.store(true, Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was ended. Asked by the connection's one task, whose waker stays the same for its life.
    pub fn is_cut(&self, waker: &Waker) -> bool {
        if self.waker.get().is_none() {
            // Only one task asks, so nobody was faster.
            let _ = self.waker.set(waker.clone());
        }
        self.is_cut.load(Relaxed)
    }
}

/// The TLS of a connection.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server name the client asked for, in canonical form.
    pub server_name: Option<Arc<str>>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The word for the settings that the server name has chosen, where these ask for a certificate (R10).
    pub asked: Option<Arc<str>>,
    /// The client's certificate, whose key it holds; what it is worth is not said by that.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The client as everything downstream sees it: routing, CSRF, redirects, limits and logs read this and nothing else.
#[derive(Clone, Debug)]
pub struct ClientView {
    /// The client's address; 127.0.0.1 where a unix socket's trusted peer named none.
    pub address: IpAddr,
    /// The scheme the client used.
    pub scheme: Scheme,
    /// Host and port the client asked for. `port` is `None` where it is the scheme's own.
    pub authority: Authority,
    /// Whether the peer is one of `server.trusted_proxies`.
    pub through_trusted_proxy: bool,
    /// What upstreams are told in `X-Forwarded-For` where believed proxies stand between: the client first, the peer
    /// last. `None`: `address` alone.
    pub chain: Option<HeaderValue>,
}

impl ClientView {
    /// The port the client connected to, written or implied.
    pub fn port(&self) -> u16 {
        self.authority.port.unwrap_or_else(|| self.scheme.default_port())
    }

    /// Whether an `Origin` header's text is this scheme, host and port (RFC 6454 section 6.2).
    pub fn is_origin(&self, origin: &str) -> bool {
        let Some((scheme, rest)) = origin.split_once("://") else {
            return false;
        };
        if scheme != self.scheme.as_str() {
            return false;
        }
        rest.parse::<Authority>().is_ok_and(|other| {
            other.host == self.authority.host && other.port.unwrap_or_else(|| self.scheme.default_port()) == self.port()
        })
    }
}

/// What counts as one client where addresses are counted: IPv6 customers are given a /64 (R15).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
