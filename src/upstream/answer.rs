//! The head of an upstream's answer (RFC 9112 sections 4 to 6), and trailers.
//!
//! In: what was read of the connection. Out: an interim answer, or the final one with what frames its body. Parsing
//! is `httparse`'s; what is decided here is whose body follows and how long it is. Lengths that two readers could read
//! differently are refused (R16), as is every coding but `chunked`.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{Header, Status};
use memchr::memchr_iter;

use super::UpstreamError;

/// How long the body is that follows a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Length {
    /// There is none.
    None,
    /// So many bytes; not 0.
    Exact(u64),
    /// Its chunks tell.
    Chunked,
    /// Until the connection closes.
    UntilClose,
}

/// A head that was read to its end.
#[derive(Debug)]
pub(super) enum Head {
    /// 100.
    Continue,
    /// 103, with the `Link` fields that are for the client.
    Hints(Vec<Bytes>),
    /// Another one below 200, but for 101.
    Interim,
    /// The answer.
    Final(Final),
}

/// The head of a final answer.
#[derive(Debug)]
pub(super) struct Final {
    pub(super) response: Response<()>,
    /// Of its body.
    pub(super) length: Length,
    /// Whether the connection may serve again.
    pub(super) keeps_alive: bool,
}

/// Finds the end of a head without looking at any byte twice.
#[derive(Debug, Default)]
pub(super) struct Search {
    seen: usize,
}

impl Search {
    /// How long the head is that `buffer` begins with, if all of it is there.
    pub(super) fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        // A line end that came last may be followed by what makes it the end.
        let begin = self.seen.saturating_sub(2);
        let fresh = buffer.get(begin..)?;
        for at in memchr_iter(b'\n', fresh) {
            match fresh.get(at + 1..) {
                Some([b'\n', ..]) => return Some(begin + at + 2),
                Some([b'\r', b'\n', ..]) => return Some(begin + at + 3),
                Some(_) | None => {}
            }
        }
        self.seen = buffer.len();
        None
    }
}

/// Takes an answer's head out of `buffer`; `None`: more has to be read. `to_head`: the request was a `HEAD`.
///
/// # Errors
/// If it is none, or larger than 64 KiB.
pub(super) fn take(buffer: &mut BytesMut, search: &mut Search, to_head: bool) -> Result<Option<Head>, UpstreamError> {
    let end = search.end(buffer);
    // What speaks another language may never end its line.
    let begins_well = buffer.iter().zip(BEGINNING).all(|(byte, expected)| byte == expected);
    if !begins_well || end.unwrap_or(buffer.len()) > HEAD_BYTES_MAX {
        return Err(BAD_HEAD);
    }
    let Some(end) = end else { return Ok(None) };
    *search = Search::default();
    let bytes = buffer.split_to(end).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut fields) {
        Ok(Status::Complete(length)) if length == end => {}
        Ok(_) | Err(_) => return Err(BAD_HEAD),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BAD_HEAD)?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(match status {
            StatusCode::CONTINUE => Head::Continue,
            StatusCode::EARLY_HINTS => Head::Hints(links(&bytes, parsed.headers)),
            _ => Head::Interim,
        }));
    }
    let mut framing = Framing::default();
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + OUR_FIELDS);
    for field in &*parsed.headers {
        let (name, value) = owned(&bytes, field)?;
        if framing.stays(&name, &value)? {
            headers.append(name, value);
        }
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    let is_http11 = parsed.version == Some(1);
    let (length, closes) = framing.length(status, to_head, is_http11)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(Some(Head::Final(Final { response, length, keeps_alive: is_http11 && !closes })))
}

/// Takes a trailer section out of `buffer`; `None`: more has to be read.
///
/// # Errors
/// If it is none, or larger than 64 KiB.
pub(super) fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, UpstreamError> {
    let Some(end) = Search::default().end(buffer) else {
        return if buffer.len() > HEAD_BYTES_MAX { Err(BAD_TRAILERS) } else { Ok(None) };
    };
    let bytes = buffer.split_to(end).freeze();
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(&bytes, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == end => {
            let fields = fields.iter().map(|field| owned(&bytes, field).map_err(|_| BAD_TRAILERS));
            let mut trailers = HeaderMap::new();
            for field in fields {
                let (name, value) = field?;
                trailers.append(name, value);
            }
            Ok(Some(trailers))
        }
        Ok(_) | Err(_) => Err(BAD_TRAILERS),
    }
}

/// How long the body is that follows a head of HTTP/2, which its stream ends (RFC 9113 section 8.1.1). `UntilClose`:
/// nobody said.
///
/// # Errors
/// If it says so twice, or in no way that all read alike; or has more fields than a head may have.
pub(super) fn length_of(headers: &HeaderMap, status: StatusCode, to_head: bool) -> Result<Length, UpstreamError> {
    if headers.len() > FIELDS_MAX {
        return Err(BAD_HEAD);
    }
    let mut framing = Framing::default();
    for value in headers.get_all(CONTENT_LENGTH) {
        framing.stays(&CONTENT_LENGTH, value)?;
    }
    framing.length(status, to_head, true).map(|(length, _)| length)
}

/// Methods whose absent content is said as `Content-Length: 0` (RFC 9110 section 8.6).
pub(super) fn takes_content(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PUT || *method == Method::PATCH
}

/// The `Link` fields of a head, unless they are for us (RFC 9110 section 7.6.1).
fn links(bytes: &Bytes, fields: &[Header<'_>]) -> Vec<Bytes> {
    let of = |name: &'static str| fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let mut named = of("connection").flat_map(|field| field.value.split(|byte| *byte == b','));
    if named.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"link")) {
        return Vec::new();
    }
    of("link").map(|field| bytes.slice_ref(field.value)).collect()
}

fn owned(bytes: &Bytes, field: &Header<'_>) -> Result<(HeaderName, HeaderValue), UpstreamError> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD_HEAD)?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| BAD_HEAD)?;
    Ok((name, value))
}

/// What a head says about its body and its connection.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
}

impl Framing {
    /// Takes note of a field; whether the client is to see it.
    fn stays(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, UpstreamError> {
        if *name == CONTENT_LENGTH {
            let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = text.and_then(|text| text.parse().ok()).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(UpstreamError::Invalid("bad_length"))?);
        } else if *name == TRANSFER_ENCODING {
            if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(UpstreamError::Invalid("bad_coding"));
            }
            self.chunked = true;
            return Ok(false);
        } else if *name == CONNECTION {
            let mut tokens = value.as_bytes().split(|byte| *byte == b',');
            self.close |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
        Ok(true)
    }

    /// RFC 9112 section 6.3, and whether the connection ends with this answer.
    fn length(&self, status: StatusCode, to_head: bool, is_http11: bool) -> Result<(Length, bool), UpstreamError> {
        if self.chunked && self.length.is_some() {
            return Err(UpstreamError::Invalid("length_with_coding"));
        }
        if self.chunked && !is_http11 {
            return Err(UpstreamError::Invalid("bad_coding"));
        }
        let has_none = to_head
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(match self.length {
            _ if has_none => (Length::None, self.close),
            Some(0) => (Length::None, self.close),
            Some(length) => (Length::Exact(length), self.close),
            None if self.chunked => (Length::Chunked, self.close),
            None => (Length::UntilClose, true),
        })
    }
}

/// All versions that there are on such a connection (RFC 9112 section 2.3).
const BEGINNING: &[u8] = b"HTTP/1.";
const BAD_HEAD: UpstreamError = UpstreamError::Invalid("bad_head");
const BAD_TRAILERS: UpstreamError = UpstreamError::Invalid("bad_trailers");
/// An answer's head (R16), and its trailers.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields of a head or a trailer section.
const FIELDS_MAX: usize = 100;
/// Room for those that we add.
const OUR_FIELDS: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8], step: usize, to_head: bool) -> Result<Option<Head>, UpstreamError> {
        let mut buffer = BytesMut::new();
        let mut search = Search::default();
        for piece in text.chunks(step) {
            buffer.extend_from_slice(piece);
            if let Some(head) = take(&mut buffer, &mut search, to_head)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    fn framed(text: &str) -> Result<(Length, bool), UpstreamError> {
        let mut last = None;
        for step in 1..=text.len() {
            let framed = match read(text.as_bytes(), step, false)? {
                Some(Head::Final(head)) => (head.length, head.keeps_alive),
                other => panic!("{text:?}: {other:?}"),
            };
            assert!(last.is_none_or(|last| last == framed), "{text:?} by {step}");
            last = Some(framed);
        }
        Ok(last.expect("a text"))
    }

    #[test]
    fn the_length_of_a_body_is_what_the_head_says() {
        for (head, expect) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Ok((Length::Exact(2), true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok((Length::None, true))),
            ("HTTP/1.1 200\r\ncontent-length: 2\r\nConnection: x, Close\r\n\r\n", Ok((Length::Exact(2), false))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok((Length::Chunked, true))),
            ("HTTP/1.1 200 OK\r\n\r\n", Ok((Length::UntilClose, false))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", Ok((Length::Exact(2), false))),
            ("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", Ok((Length::None, true))),
            ("HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n", Ok((Length::None, true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", Err("bad_length")),
            ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n", Err("bad_length")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n", Err("bad_length")),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", Err("bad_length")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", Err("bad_length")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err("bad_coding")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Err("bad_coding")),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err("bad_coding")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", Err("length_with_coding")),
            ("HTTP/1.1 200 OK\r\nA b: 1\r\n\r\n", Err("bad_head")),
            ("HTTP/1.1 200 OK\r\nA : 1\r\n\r\n", Err("bad_head")),
            ("HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n", Err("bad_head")),
            ("HTTP/1.1 99 OK\r\n\r\n", Err("bad_head")),
            ("HTTP/2.0 200 OK\r\n\r\n", Err("bad_head")),
            ("\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Err("bad_head")),
        ] {
            assert_eq!(framed(head), expect.map_err(UpstreamError::Invalid), "{head:?}");
        }
    }

    #[test]
    fn an_answer_to_head_has_no_body_but_keeps_its_length() {
        let head = read(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 99, true).unwrap();
        let Some(Head::Final(Final { response, length, keeps_alive: true })) = head else { panic!("{head:?}") };
        assert_eq!((length, &response.headers()[CONTENT_LENGTH]), (Length::None, &HeaderValue::from_static("7")));
    }

    #[test]
    fn interim_answers_are_told_apart() {
        let of = |code: u16| {
            let text = format!("HTTP/1.1 {code} x\r\nLINK: </a>\r\nX-One: 1\r\nlink: </b>\r\n\r\n");
            read(text.as_bytes(), 5, false).unwrap().unwrap()
        };
        assert!(matches!(of(100), Head::Continue));
        assert!(matches!(of(103), Head::Hints(links) if links == ["</a>", "</b>"]));
        assert!([102, 104, 199].into_iter().all(|code| matches!(of(code), Head::Interim)));
        assert!([101, 200].into_iter().all(|code| matches!(of(code), Head::Final(_))));
        let ours = read(b"HTTP/1.1 103 x\r\nConnection: x, Link\r\nLink: </a>\r\n\r\n", 5, false).unwrap();
        assert!(matches!(ours, Some(Head::Hints(links)) if links.is_empty()));
    }

    #[test]
    fn a_head_without_end_is_bounded() {
        assert_eq!(read(b"SSH-2.0", 1, false).err(), Some(BAD_HEAD));
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'x'; HEAD_BYTES_MAX]].concat();
        assert_eq!(read(&endless, 1000, false).err(), Some(BAD_HEAD));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(read(many.as_bytes(), 1000, false).err(), Some(BAD_HEAD));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1..64_usize) {
            let _ = read(&bytes, step, false);
            let _ = read(&[b"HTTP/1.1 200 OK\r\n", &*bytes, b"\r\n\r\n"].concat(), step, false);
            let _ = trailers(&mut BytesMut::from(&*bytes));
        }
    }
}
