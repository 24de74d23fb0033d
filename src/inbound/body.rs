//! The body of a request, whichever protocol it comes over.
//!
//! In: what hyper reads of HTTP/1.1, or a stream of HTTP/2. Out: an [`http_body::Body`] that ends only where the client
//! ended it: a stream that was reset, with whatever code, or that is shorter than its `Content-Length`, is broken.
//! The client's window is reopened by what was taken, so nobody is sent more than somebody reads (RFC 9113 sections
//! 5.2 and 8.1.1).

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};

/// See the module.
#[derive(Debug)]
pub struct Incoming(Source);

/// It broke off, or was no sound body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Broken;

#[derive(Debug)]
enum Source {
    Nothing,
    Http1(hyper::body::Incoming),
    Http2(Stream),
}

#[derive(Debug)]
struct Stream {
    stream: RecvStream,
    /// What is still to come, if its length was told.
    left: Option<u64>,
    /// All data came; there may be trailers.
    data_ended: bool,
}

impl Incoming {
    /// Of a request that has none.
    pub const fn empty() -> Self {
        Self(Source::Nothing)
    }

    /// Of a request over HTTP/2 with these fields.
    pub fn http2(stream: RecvStream, headers: &HeaderMap) -> Self {
        if stream.is_end_stream() {
            return Self::empty();
        }
        Self(Source::Http2(Stream { stream, left: Self::http2_length(headers), data_ended: false }))
    }

    /// How long the body of a request over HTTP/2 says it is. h2 has refused what is no number, and several that differ.
    pub(crate) fn http2_length(headers: &HeaderMap) -> Option<u64> {
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self(Source::Http1(body))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.get_mut().0 {
            Source::Nothing => Poll::Ready(None),
            Source::Http1(body) => Pin::new(body).poll_frame(cx).map_err(|_| Broken),
            Source::Http2(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Nothing => true,
            Source::Http1(body) => body.is_end_stream(),
            Source::Http2(Stream { stream, .. }) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Http1(body) => body.size_hint(),
            Source::Http2(Stream { left, .. }) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // A stream that is gone needs no window.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(Broken))),
                None if self.left.is_some_and(|left| left > 0) => return Poll::Ready(Some(Err(Broken))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|_| Broken);
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request body broke off")
    }
}

impl Error for Broken {}

#[cfg(test)]
mod tests {
    use h2::{Reason, SendStream};
    use http::Request;
    use http_body_util::BodyExt;

    use super::*;
    use crate::stream::tests::connected;

    /// What is read of a request's body with this length, of which `send` is sent.
    fn read_of(length: Option<u64>, send: impl FnOnce(&mut SendStream<Bytes>)) -> (SizeHint, Result<Read, Broken>) {
        let mut read = None;
        connected(|sender, mut served| {
            let read = &mut read;
            async move {
                let mut request = Request::post("https://a.example/");
                if let Some(length) = length {
                    request = request.header(CONTENT_LENGTH, length);
                }
                let (_answer, mut stream) =
                    sender.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
                let (request, _answering) = served.recv().await.unwrap();
                let (head, incoming) = request.into_parts();
                let body = Incoming::http2(incoming, &head.headers);
                let hint = body.size_hint();
                assert!(!body.is_end_stream());
                send(&mut stream);
                *read = Some((hint, body.collect().await));
            }
        });
        let (hint, read) = read.unwrap();
        (hint, read.map(|read| (read.trailers().cloned(), read.to_bytes())))
    }

    type Read = (Option<HeaderMap>, Bytes);

    #[test]
    fn a_body_comes_whole_with_its_trailers() {
        let (hint, read) = read_of(None, |stream| {
            stream.send_data("hel".into(), false).unwrap();
            stream.send_data("lo".into(), false).unwrap();
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "5".parse().unwrap())]);
            stream.send_trailers(trailers).unwrap();
        });
        let (trailers, bytes) = read.unwrap();
        assert_eq!((&bytes[..], &trailers.unwrap()["x-sum"]), (&b"hello"[..], &"5".parse().unwrap()));
        assert_eq!(hint.exact(), None);

        // More than a window has room for.
        let (hint, read) = read_of(Some(300_000), |stream| stream.send_data(vec![0; 300_000].into(), true).unwrap());
        assert_eq!((hint.exact(), read.unwrap().1.len()), (Some(300_000), 300_000));
    }

    #[test]
    fn a_body_that_was_reset_whatever_the_code_is_broken() {
        for code in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            let (_, read) = read_of(None, |stream| {
                stream.send_data("hello".into(), false).unwrap();
                stream.send_reset(code);
            });
            assert_eq!(read.unwrap_err(), Broken, "{code:?}");
        }
    }

    #[test]
    fn a_length_that_lies_is_broken() {
        for (length, sent, whole) in [(5, "hell", false), (5, "hello!", false), (0, "h", false), (5, "hello", true)] {
            let (_, read) = read_of(Some(length), |stream| stream.send_data(sent.into(), true).unwrap());
            assert_eq!(read.is_ok(), whole, "{length}: {sent}");
        }
    }

    #[test]
    fn a_request_that_has_ended_has_no_body() {
        connected(|sender, mut served| async move {
            let request = Request::get("https://a.example/").body(()).unwrap();
            let _answer = sender.ready().await.unwrap().send_request(request, true).unwrap();
            let (request, _answering) = served.recv().await.unwrap();
            let (head, stream) = request.into_parts();
            let body = Incoming::http2(stream, &head.headers);
            assert!(body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(0));
            assert!(body.collect().await.unwrap().to_bytes().is_empty());
        });
    }
}
