//! A request on its way out: the head, written afresh, then the client's body, chunk by chunk as it comes (R18).
//!
//! In: head bytes and a [`RequestBody`]. Out: bytes on a [`Link`]. What frames the body is decided once, from what the
//! body is; a body that ends early, or brings more than it declared, is an error and never a message that looks
//! complete. A server that reads no more is no error here: its answer may be there already (RFC 9112 section 9.5).

use std::{
    io::{ErrorKind, IoSlice, Write as _},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderValue;
use smallvec::SmallVec;

use super::{
    Outgoing, UpstreamError, answer,
    client_body::{Part, RequestBody},
    link::Link,
};
use crate::headers::HeadBuffer;

/// A request, or what is left of one to be sent.
pub(super) struct Outbox {
    /// The head, and behind or instead of it the size lines of chunks.
    head: HeadBuffer,
    /// How much of `head` is the head proper.
    head_bytes: usize,
    /// How much of `head` is written.
    written: usize,
    data: Bytes,
    /// What follows `data`.
    tail: &'static [u8],
    /// `None`: there is none.
    body: Option<Box<RequestBody>>,
    /// Whether all of it is taken from the client.
    taken: bool,
    declared: Framing,
    left: Framing,
    /// Whether any byte has left.
    begun: bool,
    flushed: bool,
}

/// How the end of a request's body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    /// There is no body.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What became of sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sent {
    /// All of it is on its way.
    Whole,
    /// The server reads no more.
    Unwanted,
}

impl Outbox {
    /// `request` as it is written to a server that is called `host`.
    pub(super) fn new(request: &Outgoing, host: &HeaderValue, body: Option<Box<RequestBody>>) -> Self {
        let framing = match body.as_deref().map(RequestBody::exact_length) {
            None | Some(Some(0)) => Framing::None,
            Some(Some(length)) => Framing::Length(length),
            Some(None) => Framing::Chunked,
        };
        let head = compose(request, host, framing);
        Self {
            head_bytes: head.len(),
            head,
            written: 0,
            data: Bytes::new(),
            tail: b"",
            body: body.filter(|_| framing != Framing::None),
            taken: false,
            declared: framing,
            left: framing,
            begun: false,
            flushed: false,
        }
    }

    /// Begins again, at a server that may be called otherwise: if no byte has left, or there is no body.
    pub(super) fn rewind(&mut self, request: &Outgoing, host: &HeaderValue) {
        let mut head = compose(request, host, self.declared);
        // The size line of a chunk that was taken, but not sent.
        let more = self.head.get(self.head_bytes..).unwrap_or_default();
        self.head_bytes = head.len();
        head.extend_from_slice(more);
        self.head = head;
        self.written = 0;
        self.begun = false;
        self.flushed = false;
    }

    /// The body, if a request that was not sent goes another way; with what was taken of it.
    pub(super) fn into_body(self) -> Option<Box<RequestBody>> {
        let mut body = self.body;
        if let Some(body) = &mut body {
            body.give_back(self.data);
        }
        body
    }

    /// Whether a body follows the head.
    pub(super) fn has_body(&self) -> bool {
        self.declared != Framing::None
    }

    /// Whether any byte has left.
    pub(super) const fn begun(&self) -> bool {
        self.begun
    }

    /// The body is not taken from the client before the server wants it.
    pub(super) fn close_gate(&mut self) {
        if let Some(body) = &mut self.body {
            body.close_gate();
        }
    }

    /// The server has said that it wants the body.
    pub(super) fn continue_now(&mut self) {
        if let Some(body) = &mut self.body {
            body.open_gate();
        }
    }

    /// Sends as much as goes. Ready when there is nothing left to do.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, link: &Rc<Link>) -> Poll<Result<Sent, UpstreamError>> {
        loop {
            let complete = self.take_body(cx, link)?;
            if self.is_written() {
                return match complete {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => self.finish(cx, link),
                };
            }
            match ready!(self.poll_write(cx, link)) {
                Ok(0) => return Poll::Ready(Ok(Sent::Unwanted)),
                Ok(count) => self.wrote(count),
                Err(ErrorKind::Interrupted) => {}
                Err(_) => return Poll::Ready(Ok(Sent::Unwanted)),
            }
        }
    }

    fn finish(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<Result<Sent, UpstreamError>> {
        if !self.flushed {
            if ready!(link.poll_flush(cx)).is_err() {
                return Poll::Ready(Ok(Sent::Unwanted));
            }
            self.flushed = true;
            link.sent();
        }
        Poll::Ready(Ok(Sent::Whole))
    }

    fn is_written(&self) -> bool {
        self.written == self.head.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Takes the body's next part, if the last is gone. Ready when there is no more.
    fn take_body(&mut self, cx: &mut Context<'_>, link: &Link) -> Result<Poll<()>, UpstreamError> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        if self.taken {
            return Ok(Poll::Ready(()));
        }
        if !self.data.is_empty() || !self.tail.is_empty() {
            return Ok(Poll::Pending);
        }
        let part = match Pin::new(body).poll_part(cx, link.patience()) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(why)) => return Err(why),
            Poll::Ready(Ok(part)) => part,
        };
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
        }
        self.flushed = false;
        match (part, &mut self.left) {
            (Some(Part::Data(data)), Framing::Chunked) => {
                let _ = write!(self.head, "{:x}\r\n", data.len());
                self.data = data;
                self.tail = b"\r\n";
                Ok(Poll::Pending)
            }
            (Some(Part::Data(data)), Framing::Length(left)) => {
                *left = left.checked_sub(data.len() as u64).ok_or(UpstreamError::ClientBody)?;
                self.data = data;
                if *left > 0 {
                    return Ok(Poll::Pending);
                }
                self.taken = true;
                Ok(Poll::Ready(()))
            }
            (None, Framing::Chunked) => {
                self.taken = true;
                self.head.extend_from_slice(b"0\r\n\r\n");
                Ok(Poll::Ready(()))
            }
            (Some(Part::Trailers(trailers)), Framing::Chunked) => {
                self.taken = true;
                self.head.extend_from_slice(b"0\r\n");
                for (name, value) in &trailers {
                    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                        self.head.extend_from_slice(part);
                    }
                }
                self.head.extend_from_slice(b"\r\n");
                Ok(Poll::Ready(()))
            }
            (Some(Part::Trailers(_)) | None, Framing::Length(_)) | (Some(_) | None, Framing::None) => {
                Err(UpstreamError::ClientBody)
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<Result<usize, ErrorKind>> {
        let head = self.head.get(self.written..).unwrap_or_default();
        let parts = [head, &self.data, self.tail];
        let slices: SmallVec<[IoSlice<'_>; 3]> =
            parts.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new).collect();
        link.poll_write(cx, &slices).map_err(|why| why.kind())
    }

    fn wrote(&mut self, mut count: usize) {
        self.begun = true;
        let from_head = count.min(self.head.len() - self.written);
        self.written += from_head;
        count -= from_head;
        let from_data = count.min(self.data.len());
        self.data.advance(from_data);
        count -= from_data;
        self.tail = self.tail.get(count..).unwrap_or_default();
    }
}

/// The head, written afresh: what frames the body is said here alone.
fn compose(request: &Outgoing, host: &HeaderValue, framing: Framing) -> HeadBuffer {
    let (target, lines) = (request.target.as_str(), request.lines.as_bytes());
    let mut head = HeadBuffer::take();
    head.reserve(FRAME_BYTES + target.len() + host.len() + lines.len());
    for part in [request.method.as_str(), " ", target, " HTTP/1.1\r\nhost: "] {
        head.extend_from_slice(part.as_bytes());
    }
    head.extend_from_slice(host.as_bytes());
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(lines);
    match framing {
        Framing::None if answer::takes_content(&request.method) => head.extend_from_slice(b"content-length: 0\r\n"),
        Framing::None => {}
        Framing::Length(length) => {
            // Writing to memory does not fail.
            let _ = write!(head, "content-length: {length}\r\n");
        }
        Framing::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if request.expects_continue && framing != Framing::None {
        head.extend_from_slice(b"expect: 100-continue\r\n");
    }
    if let Some(websocket) = &request.websocket {
        head.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ");
        head.extend_from_slice(websocket.key.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// What a head has besides target, fields and host.
const FRAME_BYTES: usize = 160;
