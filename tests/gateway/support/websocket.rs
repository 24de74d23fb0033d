//! WebSockets by hand (RFC 6455): a sound handshake, an upstream that says everything back, and tunnels through them.
//!
//! Tunnels are opened as our own pages do it, with `Sec-Fetch-Site: same-origin`. What passes through them need not be
//! frames: the gateway carries bytes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use portcullis::clock::instant;

use super::{Client, Connection, Reply, Upstream, client::Request};

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
pub(crate) fn echo() -> Reply {
    Reply::take_over(|stream| {
        let _ = stream.write_all(SWITCHING.as_bytes());
        say_back(stream);
    })
}

/// An upstream with a WebSocket at every path that ends with `/ws`; elsewhere it says `plain`.
pub(crate) fn echoing() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|seen| if seen.path.ends_with("/ws") { echo() } else { Reply::ok("plain") });
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
    let mut connection = client.connect();
    connection.send(&handshake(client.get(path).header("Sec-Fetch-Site", "same-origin"))).expect(101);
    assert!(echoes(&mut connection));
    connection
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
