//! The opening handshake of a WebSocket (R17): an upgrade of HTTP/1.1 (RFC 6455 section 4.1), or a stream of HTTP/2
//! (RFC 8441 section 5).
//!
//! In: a request's head. Out: whether it is a handshake, and of which kind. The one of HTTP/2 is a `CONNECT` with
//! `:protocol = websocket`; it is read as the `GET` that it stands for, so that routes, rules, limits and logs see the
//! same whichever way it came. Every other `CONNECT` stays what it is, and is served nowhere (R11).

use h2::ext::Protocol;
use http::{
    HeaderName, HeaderValue, Method, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};

use super::hop;

/// A sound handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Handshake {
    /// Over HTTP/1.1, with this `Sec-WebSocket-Key`.
    Upgrade(HeaderValue),
    /// Over HTTP/2, which needs no key.
    Stream,
}

/// Reads a handshake of HTTP/2 as the request that it stands for. Anything else is left as it is.
pub fn read_connect(head: &mut Parts) {
    let is_websocket = head.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if head.method == Method::CONNECT && head.version == Version::HTTP_2 && is_websocket && speaks_version_13(head) {
        head.method = Method::GET;
        head.extensions.insert(OverHttp2);
    }
}

/// Whether a request is a handshake, whatever its route says to that.
pub fn asks_for_websocket(head: &Parts) -> bool {
    handshake(head).is_some()
}

/// Whether it came as a stream of HTTP/2. Any 2xx would open that: it can be answered with a tunnel or a refusal, and
/// with nothing else.
pub fn asks_for_stream(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && head.extensions.get::<OverHttp2>().is_some()
}

/// The handshake that a request is; `None`: it is none, and whatever else it may ask for it does not get.
pub(super) fn handshake(head: &Parts) -> Option<Handshake> {
    if head.version == Version::HTTP_2 {
        return asks_for_stream(head).then_some(Handshake::Stream);
    }
    let has_no_body = !head.headers.contains_key(TRANSFER_ENCODING)
        && head.headers.get(CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    let asks = head.method == Method::GET
        && head.version == Version::HTTP_11
        && has_no_body
        && single(head, &UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket")
        && hop::connection_lists(&head.headers, "upgrade")
        && speaks_version_13(head);
    let key = single(head, &SEC_WEBSOCKET_KEY)?;
    let is_key = || {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        key.len() == 24 && STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
    };
    (asks && is_key()).then(|| Handshake::Upgrade(key.clone()))
}

fn speaks_version_13(head: &Parts) -> bool {
    single(head, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version.as_bytes() == b"13")
}

/// A field that is there once.
fn single<'h>(head: &'h Parts, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = head.headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Marks a head that was read so by [`read_connect`]; nobody else can.
#[derive(Clone, Copy, Debug)]
struct OverHttp2;

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn connect(protocol: Option<&'static str>, version: Version, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method("CONNECT").uri("https://a.example/ws").version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        head.extensions.extend(
            protocol
                .map(|protocol| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(Protocol::from_static(protocol));
                    extensions
                })
                .unwrap_or_default(),
        );
        head
    }

    #[test]
    fn a_sound_stream_handshake_stands_for_a_get_and_nothing_else_does() {
        let version = ("sec-websocket-version", "13");
        for (what, expect, protocol, http, fields) in [
            ("sound", true, Some("websocket"), Version::HTTP_2, &[version][..]),
            ("no protocol", false, None, Version::HTTP_2, &[version]),
            ("another protocol", false, Some("connect-udp"), Version::HTTP_2, &[version]),
            ("another case", false, Some("WebSocket"), Version::HTTP_2, &[version]),
            ("no version", false, Some("websocket"), Version::HTTP_2, &[]),
            ("an old version", false, Some("websocket"), Version::HTTP_2, &[("sec-websocket-version", "8")]),
            ("two versions", false, Some("websocket"), Version::HTTP_2, &[version, version]),
            ("HTTP/1.1", false, Some("websocket"), Version::HTTP_11, &[version]),
        ] {
            let mut head = connect(protocol, http, fields);
            read_connect(&mut head);
            assert_eq!(head.method == Method::GET, expect, "{what}");
            assert_eq!((asks_for_stream(&head), asks_for_websocket(&head)), (expect, expect), "{what}");
        }
    }

    #[test]
    fn what_looks_like_an_upgrade_is_none_over_http2() {
        let fields = [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut head = connect(None, Version::HTTP_2, &fields);
        head.method = Method::GET;
        assert_eq!(handshake(&head), None);
        head.version = Version::HTTP_11;
        assert_eq!(handshake(&head), Some(Handshake::Upgrade(HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="))));
    }
}
