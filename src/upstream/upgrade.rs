//! WebSocket tunnels (RULES R17; RFC 6455 section 4, RFC 8441): the check of the handshake, and the copying after it.
//!
//! [`check`] accepts only the one 101 that answers our request's key; whatever else calls itself 101 is an invalid
//! answer. [`open`] takes a connection or a stream on either side, waits until our own 101 reached the client, then
//! copies both ways in bounded buffers until both ends have finished, nothing moved for the idle limit, the gateway
//! stops, or the [`Tunnel`] is told to end; whoever is cut off is told so by a close frame where one can be sent
//! (`farewell`).

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    sync::watch,
};

use super::{
    Body, UpstreamError, Upstreams, WebSocket,
    farewell::{Client, Why},
    pool::Leased,
};
use crate::{clock, headers::Handshake, secret};

const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// An open tunnel, seen from outside. It is an extension of the 101 that [`super::forward`] returns; any thread may
/// end it, for instance when the session that opened it is revoked (R28).
#[derive(Clone, Debug)]
pub struct Tunnel(Arc<watch::Sender<bool>>);

impl Tunnel {
    /// Ends it at once.
    pub fn end(&self) {
        self.0.send_replace(true);
    }

    /// Whether it still stands.
    pub fn is_open(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Waits until it stands no more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Whether these headers of a 101 accept the handshake with this key.
pub(super) fn check(key: &HeaderValue, headers: &HeaderMap) -> Result<(), UpstreamError> {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let to_websocket = protocols.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none();
    let connection_says_so = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let expected = accept_value(key.as_bytes());
    let accepted =
        accepts.next().is_some_and(|value| value.as_bytes() == expected.as_bytes()) && accepts.next().is_none();
    if to_websocket && connection_says_so && accepted { Ok(()) } else { Err(UpstreamError::Invalid("bad_handshake")) }
}

/// Starts a tunnel between a server and the client's connection or stream, once that is there, and makes the answer to
/// the client of the server's, whichever protocols the two speak. `lease` is what `server` is lent by.
pub(super) fn open(
    upstreams: &Upstreams,
    server: impl AsyncRead + AsyncWrite + Unpin + 'static,
    lease: Leased,
    websocket: WebSocket,
    mut response: Response<()>,
    idle: Duration,
) -> Response<Body> {
    let WebSocket { handshake, client, slots, .. } = websocket;
    let headers = response.headers_mut();
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    if let Handshake::Upgrade(key) = handshake {
        headers.extend(HeaderValue::try_from(accept_value(key.as_bytes())).map(|value| (SEC_WEBSOCKET_ACCEPT, value)));
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let tunnel = Tunnel(Arc::new(watch::Sender::new(false)));
    let mut told = tunnel.0.subscribe();
    // Nobody has to keep the handle: an end is told, not a matter of who still listens.
    let teller = Arc::clone(&tunnel.0);
    response.extensions_mut().insert(tunnel);
    let shutdown = upstreams.shutdown().clone();
    let guard = shutdown.guard();
    let open = Open::new(lease);
    tokio::task::spawn_local(async move {
        let _guard = guard;
        let _slots = slots;
        let _teller = teller;
        let moved = Rc::new(Cell::new(clock::instant()));
        let mut reached = None;
        let copying = async {
            let client = client.granted().await?;
            let client = reached.insert(Client::new(Watched { io: client, moved: Rc::clone(&moved) }));
            let mut server = Watched { io: server, moved: Rc::clone(&moved) };
            copy_bidirectional_with_sizes(client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await
        };
        let cut = tokio::select! {
            biased;
            _ = told.wait_for(|ended| *ended) => Some(Why::NotPermitted),
            () = shutdown.stopping() => Some(Why::GoingAway),
            // Both sides know.
            _ = copying => None,
            () = unmoved(&moved, idle) => Some(Why::GoingAway),
        };
        // The server's end closes first: what it still had to say, nobody may hear.
        drop(open);
        if let (Some(client), Some(why)) = (reached, cut) {
            client.say_goodbye(why).await;
        }
    });
    response.map(|()| Body::empty())
}

/// Counts a tunnel, and holds its lease: it is a request under way.
struct Open(Leased);

impl Open {
    fn new(lease: Leased) -> Self {
        lease.counters().tunnels.fetch_add(1, Relaxed);
        Self(lease)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters().tunnels.fetch_sub(1, Relaxed);
    }
}

/// Notes when bytes were read.
struct Watched<S> {
    io: S,
    moved: Rc<Cell<Instant>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.moved.set(clock::instant());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Ends when nothing has moved for `idle`. One timer for each tunnel, set anew only when it runs out.
async fn unmoved(moved: &Cell<Instant>, idle: Duration) {
    loop {
        let quiet = clock::instant().duration_since(moved.get());
        let Some(left) = idle.checked_sub(quiet).filter(|left| !left.is_zero()) else { return };
        tokio::time::sleep(left).await;
    }
}

/// `Sec-WebSocket-Key` for a client that has none (RFC 6455 section 4.1).
pub(super) fn fresh_key() -> HeaderValue {
    let key = STANDARD.encode(secret::random::<16>());
    // Base64 is made of bytes that any header value may hold.
    HeaderValue::try_from(key).unwrap_or(HeaderValue::from_static(""))
}

/// RFC 6455 section 4.2.2: what proves that the server read this very handshake.
fn accept_value(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    STANDARD.encode(context.finish())
}

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// In each direction.
const BUFFER_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_value_is_the_one_of_the_rfc() {
        assert_eq!(accept_value(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_the_matching_handshake_is_accepted() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let right = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let accepts = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            check(&key, &headers).is_ok()
        };

        assert!(accepts(&right));
        for missing in 0..right.len() {
            let without: Vec<_> =
                right.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, field)| *field).collect();
            assert!(!accepts(&without), "without {}", right[missing].0);
        }
        for wrong in [
            ("upgrade", "h2c"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ] {
            let mut doubled = right.to_vec();
            doubled.push(wrong);
            assert!(!accepts(&doubled), "{wrong:?} twice");
        }
        assert!(!accepts(&[right[0], right[1], ("sec-websocket-accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=")]));
    }
}
