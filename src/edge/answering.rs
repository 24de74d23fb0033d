//! One stream of an HTTP/2 connection: a request, its handler, and its answer frame by frame (RFC 9113 section 8.1).
//!
//! In: a request with what answers it. Out: the answer, with the fields and the body that may be sent over HTTP/2.
//! A stream that its client resets ends what is under way for it; one whose handler panics is reset, and no other. No
//! more of an answer is taken than the client's window has room for, and a client that does not take a piece of it, of
//! 64 KiB at most, within `write_timeout` has its stream reset, others of its connection go on (R19; CVE-2019-9517).
//! A `CONNECT` that is granted becomes a tunnel (RFC 8441).

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header, response::Parts};
use http_body::Body;
use tokio::{
    task::spawn_local,
    time::{Instant, Sleep, sleep},
};

use super::{
    Handler,
    http::{Exchange, UnderWay},
    progress::Progress,
};
use crate::{
    clock,
    hints::{self, Hints},
    inbound::{Grant, Incoming, Malformed, Upgrade},
    stream::{Duplex, poll_room},
};

/// Answers `request` in a task of its own, on this thread.
pub(super) fn begin<H: Handler>(context: &Rc<Exchange<H>>, request: Request<RecvStream>, answer: SendResponse<Bytes>) {
    // Boxed: what waits for the handler is large, and the rest of an answer has no use for its room.
    drop(spawn_local(Stream::Handled(Box::pin(handle(Rc::clone(context), request, answer)))));
}

/// The task of one stream. No `async` function: that would have room for both.
enum Stream<F, B> {
    Handled(Pin<Box<F>>),
    Answered(Answer<B>),
}

impl<F, B> Future for Stream<F, B>
where
    F: Future<Output = Option<Answer<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match this {
                Self::Handled(handled) => match ready!(handled.as_mut().poll(cx)) {
                    Some(answer) => *this = Self::Answered(answer),
                    None => return Poll::Ready(()),
                },
                Self::Answered(answer) => return answer.poll_send(cx),
            }
        }
    }
}

/// Has the request handled and sends the head of its answer; `None`: there is nothing more to do.
async fn handle<H: Handler>(
    context: Rc<Exchange<H>>,
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
) -> Option<Answer<H::Body>> {
    let worker = &context.worker;
    let (head, stream) = request.into_parts();
    let malformed = (head.headers.len() > worker.limits.max_headers).then_some(Malformed::TooManyHeaders);
    if let Some(reason) = malformed {
        worker.counters.count_malformed(reason);
    }
    let under_way = context.begin();
    let is_head = head.method == Method::HEAD;
    let (body, upgrade, door) = if head.method == Method::CONNECT {
        if Incoming::http2_length(&head.headers).is_some_and(|length| length > 0) {
            // What follows a `CONNECT` is no body.
            answer.send_reset(Reason::PROTOCOL_ERROR);
            return None;
        }
        let (upgrade, grant) = Upgrade::of_stream();
        (Incoming::empty(), Some(upgrade), Some(Door { stream, grant, place: Place::take(&context.progress) }))
    } else {
        (Incoming::http2(stream, &head.headers), None, None)
    };
    let answer = hints::OfStream::new(answer, door.is_none());
    let response = {
        let mut inbound = context.inbound(head, upgrade, malformed);
        let mut handling = pin!(worker.handler.handle(&mut inbound, body, Hints::Stream(&answer)));
        poll_fn(|cx| match handling.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // Nobody waits for it any more.
            Poll::Pending => answer.poll_reset(cx).map(|()| None),
        })
        .await?
    };
    let mut answer = answer.into_answer();
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    worker.date.add_to(&mut head.headers, || worker.clock.now());
    match door {
        Some(door) if head.status.is_success() => {
            door.open(head, answer, under_way);
            None
        }
        Some(_) | None => {
            let silent = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let ends = body.is_end_stream();
            if let Some(length) = body.size_hint().exact().filter(|_| !ends && (is_head || !silent)) {
                head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
            }
            let sent = answer.send_response(Response::from_parts(head, ()), ends || silent);
            match sent {
                Ok(stream) if !(ends || silent) => Some(Answer::new(stream, body, under_way)),
                Ok(_) => None,
                Err(_) => {
                    // The stream is gone, or what was to be sent is no answer.
                    answer.send_reset(Reason::INTERNAL_ERROR);
                    None
                }
            }
        }
    }
}

/// Where a `CONNECT` leads if it is granted.
struct Door {
    stream: RecvStream,
    grant: Grant,
    place: Place,
}

impl Door {
    /// Answers that the tunnel stands, and hands it over: the request is under way until that ends.
    fn open(self, mut head: Parts, mut answer: SendResponse<Bytes>, under_way: UnderWay) {
        // RFC 9110 section 9.3.6: a client must ignore it there.
        head.headers.remove(header::CONTENT_LENGTH);
        match answer.send_response(Response::from_parts(head, ()), false) {
            Ok(stream) => self.grant.give(Duplex::new(self.stream, stream), (under_way, self.place)),
            Err(_) => answer.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

/// A stream's place among those that are tunnels, or ask to be.
struct Place(Arc<Progress>);

impl Place {
    fn take(progress: &Arc<Progress>) -> Self {
        progress.begin_tunnel();
        Self(Arc::clone(progress))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.end_tunnel();
    }
}

/// An answer whose head was sent.
struct Answer<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Taken from the body, and not sent yet.
    piece: Bytes,
    /// Nothing comes behind it.
    is_last: bool,
    /// Since when the client has been waited for to take the piece.
    since: Option<Instant>,
    /// Made for an answer that waits, and used again.
    timer: Option<Pin<Box<Sleep>>>,
    /// Goes last: with it the request is over.
    under_way: UnderWay,
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B> {
    const fn new(stream: SendStream<Bytes>, body: B, under_way: UnderWay) -> Self {
        Self { stream, body, piece: Bytes::new(), is_last: false, since: None, timer: None, under_way }
    }

    /// Ready when it was sent whole, or nobody takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.piece.is_empty() {
                let Poll::Ready(room) = poll_room(&mut self.stream, self.piece.len(), cx) else {
                    return self.poll_patience(cx);
                };
                let Some(room) = room else { return Poll::Ready(()) };
                let now = self.piece.split_to(room.min(self.piece.len()));
                let is_last = self.is_last && self.piece.is_empty();
                if self.stream.send_data(now, is_last).is_err() || is_last {
                    return Poll::Ready(());
                }
                continue;
            }
            self.since = None;
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return self.stream.poll_reset(cx).map(drop);
            };
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                Some(Ok(Ok(piece))) => {
                    self.is_last = self.body.is_end_stream();
                    if piece.is_empty() && self.is_last {
                        return self.end();
                    }
                    self.piece = piece;
                }
                Some(Ok(Err(frame))) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        // A stream that is gone needs no end.
                        let _ = self.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
                Some(Err(_)) => {
                    // What was cut must not look whole.
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
                None => return self.end(),
            }
        }
    }

    fn end(&mut self) -> Poll<()> {
        // A stream that is gone needs no end.
        let _ = self.stream.send_data(Bytes::new(), true);
        Poll::Ready(())
    }

    /// Ready, and the stream reset, when the client's time is used up.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.under_way.write_timeout();
        let since = *self.since.get_or_insert_with(|| clock::instant().into());
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        while timer.as_mut().poll(cx).is_ready() {
            // What was taken meanwhile counts.
            if since + timeout > Instant::from(clock::instant()) {
                timer.as_mut().reset(since + timeout);
            } else {
                self.under_way.count_unread();
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// Removes what is of a connection and not of a message (RFC 9113 section 8.2.2). What `Connection` names went with the
/// answer of the upstream that said it.
fn strip(headers: &mut HeaderMap) {
    for name in &OF_CONNECTIONS {
        headers.remove(name);
    }
}

const OF_CONNECTIONS: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
