//! The body of an answer, streamed chunk by chunk: nothing is read before somebody takes it.
//!
//! In: the connection or stream that it comes on. Out: [`Body`], for the client. On a connection of its own it holds
//! the lease and gives it back at the last byte; dropped before that, or broken, it cuts the connection. The upstream's
//! clock runs only while it is waited for. What is left of the request is sent meanwhile ([`Upload`]).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::{
    UpstreamError,
    answer::Length,
    chunked::{Chunk, Chunks},
    http2,
    link::{Broken, Link},
    outbox::Outbox,
    pool::Lease,
};
use crate::headers;

/// The body of an upstream's answer. Its length hint is the upstream's, so `Content-Length` can be kept.
#[derive(Debug)]
pub struct Body(State);

#[derive(Debug)]
enum State {
    /// All of it came with the head, or there is none.
    Whole(Bytes),
    /// On a connection of its own.
    Streaming(Box<Streaming>),
    /// On a connection that it shares, until it breaks off: then why.
    Shared(Box<http2::Answer>, Option<UpstreamError>),
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
        let upload = outbox.map(|outbox| Upload::start(send_on(outbox, Rc::clone(lease.link()))));
        Self(State::Streaming(Box::new(Streaming { lease, rest, upload, broken: None })))
    }

    /// What comes on a shared connection.
    pub(super) fn shared(answer: http2::Answer) -> Self {
        Self(State::Shared(Box::new(answer), None))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        let (polled, broken) = match &mut this.0 {
            State::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            State::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            State::Streaming(streaming) => (streaming.poll_next(cx), &mut streaming.broken),
            State::Shared(_, Some(why)) => (Poll::Ready(Err(*why)), &mut Some(*why)),
            State::Shared(answer, broken) => (answer.poll_next(cx), broken),
        };
        let (frame, last) = match ready!(polled) {
            Ok(Next::Data { data, last }) => (Some(Ok(Frame::data(data))), last),
            Ok(Next::End(None)) => (None, true),
            Ok(Next::End(Some(mut trailers))) => {
                headers::trailers::rewrite_answer(&mut trailers);
                (Some(Ok(Frame::trailers(trailers))), true)
            }
            // What was read before goes out first: an error told in the same breath would take it along.
            Err(why) if broken.is_none() => {
                *broken = Some(why);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Err(why) => {
                // Dropped with its lease: the connection is cut.
                this.0 = State::Whole(Bytes::new());
                return Poll::Ready(Some(Err(why)));
            }
        };
        if last {
            match std::mem::replace(&mut this.0, State::Whole(Bytes::new())) {
                State::Streaming(streaming) => {
                    let Streaming { lease, upload, .. } = *streaming;
                    drop(upload);
                    lease.finish();
                }
                State::Shared(answer, _) => drop(answer),
                State::Whole(_) => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Whole(bytes) => bytes.is_empty(),
            State::Streaming(_) | State::Shared(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            State::Streaming(streaming) => match streaming.rest {
                Rest::Length(left) => SizeHint::with_exact(left),
                Rest::Chunked(_) | Rest::UntilClose => SizeHint::default(),
            },
            State::Shared(answer, _) => answer.left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// What was read of an answer.
pub(super) enum Next {
    /// Bytes of it; `last`: there is nothing more, no trailers either.
    Data { data: Bytes, last: bool },
    /// Its end, with trailers if there are any.
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
                link.patience().rest();
                return Poll::Ready(Ok(next));
            }
            let Poll::Ready(filled) = link.poll_fill(cx) else {
                link.patience().wait_for_bytes();
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
pub(super) struct Upload(JoinHandle<()>);

impl Upload {
    /// Of what `sending` sends.
    pub(super) fn start(sending: impl Future<Output = ()> + 'static) -> Self {
        Self(tokio::task::spawn_local(sending))
    }
}

async fn send_on(mut outbox: Outbox, link: Rc<Link>) {
    // A server that reads no more may still answer on.
    if let Err(why) = std::future::poll_fn(|cx| outbox.poll_send(cx, &link)).await {
        link.patience().blame(why);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}
