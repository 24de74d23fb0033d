//! The way to a server: name, TCP, a proxy's tunnel where one is configured, TLS.
//!
//! Names are resolved on tokio's blocking threads. `http` goes to a loopback address only, whatever the name says.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};

use http::StatusCode;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{FetchError, Trust, Url, UrlError};
use crate::host::Authority;

/// An HTTP proxy that opens tunnels (CONNECT, RFC 9110 section 9.3.6).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    authority: Authority,
    /// Hosts that are reached without it; each stands for its subdomains too. `*`: all.
    except: Box<[Box<str>]>,
}

impl FromStr for Proxy {
    type Err = UrlError;

    /// `http://host:port`, with or without a last `/`.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("http://").ok_or(UrlError::Scheme)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| UrlError::Authority)?;
        Ok(Self { authority, except: [].into() })
    }
}

impl Proxy {
    /// With the hosts of a `NO_PROXY` list, which are reached without it.
    #[must_use]
    pub fn except(self, no_proxy: &str) -> Self {
        let hosts = no_proxy.split(',').map(|host| host.trim().trim_start_matches('.').to_ascii_lowercase());
        Self { except: hosts.filter(|host| !host.is_empty()).map(Into::into).collect(), ..self }
    }

    fn serves(&self, url: &Url) -> bool {
        let host = url.bare_host();
        let excepted = |except: &str| {
            except == "*" || host.strip_suffix(except).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        !url.authority.host.is_loopback() && !self.except.iter().any(|except| excepted(except))
    }

    /// The stream becomes a tunnel to the URL's server.
    async fn open_tunnel(stream: &mut TcpStream, url: &Url) -> Result<(), FetchError> {
        let target = format!("{}:{}", url.authority.host, url.port());
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let lost = |_: io::Error| FetchError::Proxy(None);
        stream.write_all(request.as_bytes()).await.map_err(lost)?;
        let mut head = Vec::new();
        // The server behind says nothing before it hears of us, so whatever comes is the proxy's head and no more.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > MAX_PROXY_HEAD || stream.read_buf(&mut head).await.map_err(lost)? == 0 {
                return Err(FetchError::Proxy(None));
            }
        }
        let status = head.get(..12).and_then(|start| start.strip_prefix(b"HTTP/1."));
        let status = status.and_then(|rest| rest.get(2..)).and_then(|code| StatusCode::from_bytes(code).ok());
        match status {
            Some(status) if status.is_success() => Ok(()),
            status => Err(FetchError::Proxy(status)),
        }
    }
}

/// A byte stream to a server.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(super) async fn connect(url: &Url, trust: &Trust, proxy: Option<&Proxy>) -> Result<Stream, FetchError> {
    let stream = match proxy.filter(|proxy| proxy.serves(url)) {
        Some(proxy) => {
            let host = proxy.authority.host.as_str().trim_start_matches('[').trim_end_matches(']');
            let mut stream = tcp(host, proxy.authority.port.unwrap_or(80), |_| true).await?;
            Proxy::open_tunnel(&mut stream, url).await?;
            stream
        }
        None => tcp(url.bare_host(), url.port(), |address| url.secure || address.ip().is_loopback()).await?,
    };
    if !url.secure {
        return Ok(Stream::Plain(stream));
    }
    let name = ServerName::try_from(url.bare_host().to_owned()).map_err(|_| FetchError::NotResolved)?;
    let stream = TlsConnector::from(Arc::clone(trust.config())).connect(name, stream).await;
    stream.map(|stream| Stream::Tls(Box::new(stream))).map_err(|why| FetchError::Tls(why.to_string()))
}

async fn tcp(host: &str, port: u16, allowed: impl Fn(&SocketAddr) -> bool) -> Result<TcpStream, FetchError> {
    let addresses = lookup_host((host, port)).await.map_err(|_| FetchError::NotResolved)?;
    let mut failure = FetchError::NotResolved;
    for address in addresses.filter(allowed) {
        // Each address gets its share of patience: a dead one must not keep the next one from being tried.
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A head in one segment is what it is about; that the option cannot be set is no reason to fail.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(_)) => failure = FetchError::Unreachable,
            Err(_) => failure = FetchError::TimedOut,
        }
    }
    Err(failure)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// For one address of several; the request's own deadline bounds them all.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

const MAX_PROXY_HEAD: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_excepted_are_reached_without_the_proxy() {
        let proxy: Proxy = "http://proxy.example:3128/".parse().unwrap();
        let proxy = proxy.except("corp.example, .intern.example,10.0.0.1,");
        for (url, through) in [
            ("https://id.example.com/", true),
            ("https://corp.example/", false),
            ("https://id.corp.example/", false),
            ("https://notcorp.example/", true),
            ("https://id.intern.example/", false),
            ("https://10.0.0.1/", false),
            ("https://localhost/", false),
            ("http://127.0.0.1/", false),
        ] {
            assert_eq!(proxy.serves(&url.parse().unwrap()), through, "{url}");
        }
        assert!(!proxy.except("*").serves(&"https://id.example.com/".parse().unwrap()));
    }

    #[test]
    fn a_proxy_is_plain_and_has_no_password() {
        assert!("http://proxy.example".parse::<Proxy>().is_ok());
        for text in ["https://proxy.example", "socks5://proxy.example", "proxy.example", "http://u:p@proxy.example"] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }
}
