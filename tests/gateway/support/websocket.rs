//! WebSockets by hand (RFC 6455): a sound handshake, an upstream that says everything back, and tunnels through them.
//!
//! Tunnels are opened as our own pages do it, with `Sec-Fetch-Site: same-origin`. What passes through them need not be
//! frames: the gateway carries bytes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use h2::{RecvStream, ext::Protocol, server::SendResponse};
use portcullis::clock::instant;

use super::{Client, Connection, Reply, Response, Seen, Upstream, client::Request, upstream_http2::Http2Upstream};

/// The example of RFC 6455 section 1.3.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What makes a GET a handshake.
pub(crate) const HANDSHAKE: [(&str, &str); 4] =
    [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY)];

/// The head that answers it.
pub(crate) const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A second, and time for a machine that has other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(4);

/// This request as a handshake.
pub(crate) fn handshake(request: Request) -> Request {
    HANDSHAKE.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// Agrees to the handshake and says everything back.
pub(crate) fn echo(seen: &Seen) -> Reply {
    agree(seen, say_back)
}

/// Agrees to the handshake, and goes on like this.
pub(crate) fn agree(seen: &Seen, act: impl FnOnce(&mut TcpStream) + Send + 'static) -> Reply {
    let accept = accept_of(seen.header("sec-websocket-key").expect("a key"));
    Reply::take_over(move |stream| {
        let _ = stream.write_all(SWITCHING.replace(ACCEPT, &accept).as_bytes());
        act(stream);
    })
}

/// What answers this key (RFC 6455 section 4.2.2).
pub(crate) fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// An upstream that speaks HTTP/2 and says everything back, at every path that ends with `/ws`.
pub(crate) fn echoing_http2() -> Http2Upstream {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    Http2Upstream::with(builder, echo_http2)
}

/// Says everything back on a stream that is a WebSocket, at a path that ends with `/ws`; answers 200 to all else.
pub(crate) async fn echo_http2(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let is_handshake = request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if !is_handshake || !request.uri().path().ends_with("/ws") {
        return drop(respond.send_response(http::Response::new(()), true));
    }
    let Ok(mut send) = respond.send_response(http::Response::new(()), false) else { return };
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

/// An upstream with a WebSocket at every path that ends with `/ws`; elsewhere it says `plain`.
pub(crate) fn echoing() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|seen| if seen.path.ends_with("/ws") { echo(seen) } else { Reply::ok("plain") });
    upstream
}

/// Says everything back until the other side ends.
pub(crate) fn say_back(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let _ = stream.write_all(&bytes[..count]);
    }
}

/// An open tunnel to `/ws` that echoes.
#[track_caller]
pub(crate) fn tunnel(client: &Client) -> Connection {
    tunnel_to(client, "/ws")
}

/// An open tunnel that echoes.
#[track_caller]
pub(crate) fn tunnel_to(client: &Client, path: &str) -> Connection {
    let (_, connection) = open(&client.get(path).header("Sec-Fetch-Site", "same-origin"), client.opens_streams());
    let mut connection = connection.expect("a tunnel");
    assert!(echoes(&mut connection));
    connection
}

/// Asks for a WebSocket, over HTTP/2 or HTTP/1.1: the answer, with the tunnel if there is one.
#[track_caller]
pub(crate) fn open(request: &Request, over_http2: bool) -> (Response, Option<Connection>) {
    if over_http2 {
        return request.clone().header("Sec-WebSocket-Version", "13").connect_http2(Some("websocket"));
    }
    let mut connection = request.client().connect();
    let answer = connection.send(&handshake(request.clone()));
    let stands = answer.status == 101;
    (answer, stands.then_some(connection))
}

pub(crate) fn echoes(connection: &mut Connection) -> bool {
    connection.write(b"hello").is_ok() && connection.read_exactly(5).is_ok_and(|bytes| bytes == b"hello")
}

/// Waits for the end of a connection, which comes soon, and answers what came before it.
#[track_caller]
pub(crate) fn ends_soon(connection: &mut Connection) -> Vec<u8> {
    let begun = instant();
    let rest = connection.read_to_end();
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    rest
}
