//! The two bodies of an exchange, streamed chunk by chunk: nothing is read before somebody takes it.
//!
//! [`RequestBody`] goes up: it counts against the bound, holds back until the upstream says 100 if the client asked
//! for that (RFC 9110 section 10.1.1), drops trailers (R18), and makes sure that a body which broke off is never
//! taken for one that ended. [`Body`] comes down: it holds the connection's lease and gives it back at the last byte;
//! dropped before that, or broken, it cuts the connection. The upstream's clock runs only while it is waited for.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    task::JoinHandle,
    time::{Sleep, sleep},
};

use super::{
    NOT_IN_TRAILERS, UpstreamError,
    answer::Length,
    chunked::{Chunk, Chunks},
    link::{Broken, Link},
    outbox::Outbox,
    pool::Lease,
};

/// The body of an upstream's answer. Its length hint is the upstream's, so `Content-Length` can be kept.
#[derive(Debug)]
pub struct Body(State);

#[derive(Debug)]
enum State {
    /// All of it came with the head, or there is none.
    Whole(Bytes),
    Streaming(Box<Streaming>),
}

/// A body that is still coming.
struct Streaming {
    lease: Lease,
    rest: Rest,
    /// The request's body, if it is still being sent; gone with this.
    upload: Option<Upload>,
    /// Why it broke off, until that is told.
    broken: Option<UpstreamError>,
}

/// How much is still to come.
#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

impl Body {
    /// No content.
    pub const fn empty() -> Self {
        Self(State::Whole(Bytes::new()))
    }

    /// What follows the head on `lease`'s connection; `outbox` is what is left of the request.
    pub(super) fn new(mut lease: Lease, length: Length, outbox: Option<Outbox>) -> Self {
        let mut buffered = lease.link().buffer().borrow_mut();
        let rest = match length {
            Length::None => Rest::Length(0),
            Length::Exact(length) => {
                if let Ok(length) = usize::try_from(length)
                    && buffered.len() >= length
                {
                    let whole = if length == buffered.len() { buffered.split() } else { buffered.split_to(length) };
                    drop(buffered);
                    lease.finish();
                    return Self(State::Whole(whole.freeze()));
                }
                Rest::Length(length)
            }
            Length::Chunked => Rest::Chunked(Chunks::default()),
            Length::UntilClose => Rest::UntilClose,
        };
        drop(buffered);
        if matches!(rest, Rest::Length(0)) {
            lease.finish();
            return Self::empty();
        }
        if matches!(rest, Rest::UntilClose) {
            lease.use_once();
        }
        let upload = outbox.map(|outbox| Upload::start(outbox, Rc::clone(lease.link())));
        Self(State::Streaming(Box::new(Streaming { lease, rest, upload, broken: None })))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        let streaming = match &mut this.0 {
            State::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            State::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            State::Streaming(streaming) => streaming,
        };
        let (frame, last) = match ready!(streaming.poll_next(cx)) {
            Ok(Next::Data { data, last }) => (Some(Ok(Frame::data(data))), last),
            Ok(Next::End(None)) => (None, true),
            Ok(Next::End(Some(mut trailers))) => {
                NOT_IN_TRAILERS.iter().for_each(|name| drop(trailers.remove(name)));
                (Some(Ok(Frame::trailers(trailers))), true)
            }
            // What was read before goes out first: an error told in the same breath would take it along.
            Err(why) if streaming.broken.is_none() => {
                streaming.broken = Some(why);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Err(why) => {
                // Dropped with its lease: the connection is cut.
                this.0 = State::Whole(Bytes::new());
                return Poll::Ready(Some(Err(why)));
            }
        };
        if last && let State::Streaming(streaming) = std::mem::replace(&mut this.0, State::Whole(Bytes::new())) {
            let Streaming { lease, upload, .. } = *streaming;
            drop(upload);
            lease.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Whole(bytes) => bytes.is_empty(),
            State::Streaming(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            State::Streaming(streaming) => match streaming.rest {
                Rest::Length(left) => SizeHint::with_exact(left),
                Rest::Chunked(_) | Rest::UntilClose => SizeHint::default(),
            },
        }
    }
}

/// What was read of an answer.
enum Next {
    Data { data: Bytes, last: bool },
    End(Option<HeaderMap>),
}

impl Streaming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, UpstreamError>> {
        if let Some(why) = self.broken {
            return Poll::Ready(Err(why));
        }
        let link = Rc::clone(self.lease.link());
        loop {
            if let Some(next) = self.take(&link)? {
                link.rest();
                return Poll::Ready(Ok(next));
            }
            let Poll::Ready(filled) = link.poll_fill(cx) else {
                self.lease.wait_for_bytes();
                return Poll::Pending;
            };
            match filled {
                Ok(0) if matches!(self.rest, Rest::UntilClose) => return Poll::Ready(Ok(Next::End(None))),
                Ok(1..) => {}
                Ok(0) | Err(Broken::Stream) => return Poll::Ready(Err(UpstreamError::Invalid("broke_off"))),
                Err(Broken::Blamed(why)) => return Poll::Ready(Err(why)),
            }
        }
    }

    /// The next part, if it was read already.
    fn take(&mut self, link: &Link) -> Result<Option<Next>, UpstreamError> {
        let mut buffer = link.buffer().borrow_mut();
        match &mut self.rest {
            Rest::Length(left) => {
                if buffer.is_empty() {
                    return Ok(None);
                }
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= most as u64;
                Ok(Some(Next::Data { data: buffer.split_to(most).freeze(), last: *left == 0 }))
            }
            Rest::UntilClose => {
                let data = buffer.split().freeze();
                Ok((!data.is_empty()).then_some(Next::Data { data, last: false }))
            }
            Rest::Chunked(chunks) => Ok(match chunks.next(&mut buffer)? {
                Chunk::Data(data) => Some(Next::Data { data, last: false }),
                Chunk::End(trailers) => Some(Next::End(trailers)),
                Chunk::Partial => None,
            }),
        }
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("rest", &self.rest).field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// A request's body that outlived the head of its answer: sent on in a task of its own, so that it goes on whether or
/// not the client reads meanwhile. Gone with the answer.
struct Upload(JoinHandle<()>);

impl Upload {
    fn start(mut outbox: Outbox, link: Rc<Link>) -> Self {
        Self(tokio::task::spawn_local(async move {
            // A server that reads no more may still answer on.
            if let Err(why) = std::future::poll_fn(|cx| outbox.poll_send(cx, &link)).await {
                link.blame(why);
            }
        }))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The client's body, as it is sent to an upstream.
pub(super) struct RequestBody {
    incoming: Incoming,
    received: Option<Rc<Cell<u64>>>,
    /// Bytes that may still come.
    allowance: u64,
    http2: bool,
    gate: Option<Gate>,
}

/// Holds a body back until the upstream answers `100 Continue`. An upstream that says nothing gets it after a second,
/// for it may not know the mechanism; one that answers finally does not get it at all.
type Gate = Pin<Box<Sleep>>;

impl RequestBody {
    /// Of `incoming`, which came over HTTP/2 if `http2`, at most `max` bytes; `received` counts them. `None`: there is
    /// no body.
    pub(super) fn new(incoming: Incoming, received: Option<Rc<Cell<u64>>>, max: u64, http2: bool) -> Option<Self> {
        (!http_body::Body::is_end_stream(&incoming)).then_some(Self {
            incoming,
            received,
            allowance: max,
            http2,
            gate: None,
        })
    }

    /// How long it says it is.
    pub(super) fn exact_length(&self) -> Option<u64> {
        http_body::Body::size_hint(&self.incoming).exact()
    }

    /// Nothing is taken from the client before the upstream wants it.
    pub(super) fn close_gate(&mut self) {
        self.gate = Some(Box::pin(sleep(CONTINUE_PATIENCE)));
    }

    /// The upstream wants it.
    pub(super) fn open_gate(&mut self) {
        self.gate = None;
    }

    /// The next bytes, never none of them; `None` is the end.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`], or [`UpstreamError::ClientBody`] if it broke off.
    pub(super) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
    ) -> Poll<Result<Option<Bytes>, UpstreamError>> {
        let awaits_head = link.awaits_head();
        if let Some(gate) = &mut self.gate {
            if !awaits_head {
                return Poll::Pending;
            }
            ready!(gate.as_mut().poll(cx));
            self.gate = None;
        }
        loop {
            match http_body::Body::poll_frame(Pin::new(&mut self.incoming), cx) {
                Poll::Pending => {
                    if awaits_head {
                        link.rest();
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are dropped (R18).
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue;
                    }
                    if let Some(received) = &self.received {
                        received.set(received.get().saturating_add(data.len() as u64));
                    }
                    let Some(allowance) = self.allowance.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Err(UpstreamError::TooLarge));
                    };
                    self.allowance = allowance;
                    if awaits_head {
                        link.wait_for_answer();
                    }
                    return Poll::Ready(Ok(Some(data)));
                }
                // A stream that the client reset with NO_ERROR ends like a complete one, but without its last flag.
                Poll::Ready(None) if self.http2 && !http_body::Body::is_end_stream(&self.incoming) => {
                    return Poll::Ready(Err(UpstreamError::ClientBody));
                }
                Poll::Ready(None) => {
                    if awaits_head {
                        link.wait_for_answer();
                    }
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(UpstreamError::ClientBody)),
            }
        }
    }
}

/// RFC 9110 section 10.1.1: a client "SHOULD NOT wait for an indefinite period".
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
