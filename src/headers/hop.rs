//! Fields that concern one connection and end with it (RFC 9110 section 7.6.1).
//!
//! In: the header map of a message. Out: the same without them, and without what the sender lists in `Connection`.
//! Requests lose theirs in `headers::rewrite`'s one pass over all names; what is here serves both directions.
//! Invariant: a listed name can be taken away only before ours are set, and never what frames or addresses a message.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};
use smallvec::SmallVec;

/// Removes the hop-by-hop fields of an upstream's answer. `Trailer` stays: it belongs to the message.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    for name in listed_fields(headers) {
        headers.remove(name);
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, PROXY_CONNECTION] {
        headers.remove(name);
    }
    for name in [TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// The names that `Connection` lists and that are there. Framing and the host cannot be taken away; `Upgrade` never
/// passes as it is.
pub(super) fn listed_fields(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let mut listed = SmallVec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            // The two that nearly every `Connection` holds name no field.
            if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && name != CONTENT_LENGTH
                && name != HOST
                && name != UPGRADE
                && headers.contains_key(&name)
            {
                listed.push(name);
            }
        }
    }
    listed
}

/// Whether a `TE` says that trailers are taken.
pub(super) fn takes_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Whether `Connection` lists a word.
pub(super) fn connection_lists(headers: &HeaderMap, word: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_loses_its_hop_by_hop_fields_and_those_it_lists() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Internal, content-length"),
            ("connection", "x-other,,bad name"),
            ("x-internal", "1"),
            ("x-other", "1"),
            ("x-kept", "1"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("trailer", "x-sum"),
            ("server", "apache"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }

        strip_response(&mut headers);

        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "server", "trailer", "x-kept"]);
    }
}
